/**
 * WGSL of matrix multiplication:
 *
 *   C[b] = act(op(A[b]) · op(B[b]) + bias)        op(A): [M, K], op(B): [K, N], C: [M, N]
 *
 * with the option to write Z, the value before the activation, and to add to what C holds.
 *
 * Three kernels cover all shapes. Sums are f32 in each, in an order that depends on the shape alone.
 * - tile:    a workgroup owns a tile of C and each of its threads a block of 4×4 squares; both operands pass through
 *            workgroup memory as [k][m] and [k][n], so that the inner loop reads vec4s whatever the layout was.
 * - matrix:  the same with subgroup matrices, 16×16×16, f16 operands.
 * - vector:  one side of C has at most 8 rows or columns (decoding): the other operand is read once, straight from memory.
 *
 * Where C has too few tiles to fill the GPU, K is split: each split writes a partial sum and `splitKReduceSource` adds
 * them in order. Rows and columns past the edge are read from the last valid one and never written; values past the end
 * of K count as zero.
 *
 * Sizes and strides are uniforms: making them constants of the text was measured to change nothing.
 *
 * An operand may be gathered: each of its elements is found by WGSL of the caller (see `Gather`), on its way to workgroup
 * memory. So a convolution is a product that never lays out its image as a matrix.
 */

type FloatType = "f32" | "f16";

/** Spliced into the epilogue: `forward` is the WGSL of `fn NAME(x: f32) -> f32`. */
interface Activation {
  readonly name: string;
  readonly forward: string;
}

/**
 * Operands that are not stored as matrices, and a result that is not to be stored as one. It must be one object for one
 * geometry (kernels are cached by its identity), and its texts should differ only where numbers cannot: sizes go into `params`.
 */
export interface Gather {
  readonly a?: GatheredOperand;
  readonly b?: GatheredOperand;
  readonly c?: MappedResult;
  /** Fields that all of the WGSL finds in `params`, as in "width: u32, scale: f32", and their values. */
  readonly fields?: string;
  readonly params?: Readonly<Record<string, number>>;
}

export interface GatheredOperand {
  /**
   * Three functions, whose X is a or b. That is the name of the binding, too: array<T>, T the operand's dtype. Types At
   * and Step are the caller's. Arguments are always within their sizes.
   *
   *   fn XAt(batch: u32, i: u32) -> At      what row i of op(A), or column i of op(B), has to say: outside of the walk along K
   *   fn XStep(k: u32) -> Step              what index k has to say: once for all the rows or columns of a thread
   *   fn XLoad(at: At, step: Step) -> T     their element; 0 where there is none
   */
  readonly source: string;
  /** Whether neighbours along K, not those along M or N, are neighbours in memory: lanes walk that way. */
  readonly kMajor: boolean;
  /**
   * 4: XLoad returns a vec4<T> of 4 neighbours, along K if kMajor, from a k or an i that is a multiple of 4. That axis has
   * to be a multiple of 4.
   */
  readonly width: 1 | 4;
  /** The binding is an array<vec4<T>>. */
  readonly vectors?: boolean;
}

/** C as a tensor that is no matrix: each column has a place of its own. A bias is then [batch, M], a value for each row. */
export interface MappedResult {
  /** fn cAt(batch: u32, col: u32) -> u32: the element at row 0 of that column. Called for columns past the edge, too. */
  readonly source: string;
  /** Elements from one row to the next. */
  readonly pitch: number;
  /** 4 columns from a multiple of 4 on are neighbours in memory, and cAt is a multiple of 4 there, as is `pitch`. */
  readonly wide: boolean;
}

/** The last step of the epilogue as WGSL of the caller, after the activation: dropout, for instance. */
export interface Finish {
  /**
   * Bindings from number 6 on, and `fn finish4(i: u32, v: vec4f) -> vec4f` of vec4 number i of C and
   * `fn finish1(i: u32, v: f32) -> f32` of element i.
   */
  readonly source: string;
  /** Fields of the uniform struct `params` that it reads: `threshold: u32, scale: f32`. */
  readonly fields: string;
}

export interface MatmulOperand {
  readonly type: FloatType;
  /** Whether K is the contiguous axis: A stored as [M, K], or B as [N, K]. */
  readonly kMajor: boolean;
  /** Elements in a load; more than one needs a row pitch that is a multiple of it. 8 are f16s read as vec4<u32>. */
  readonly width: 1 | 4 | 8;
  readonly gather?: GatheredOperand;
}

export interface MatmulConfig {
  readonly kind: "tile" | "matrix" | "vector";
  /** Tile of C that a workgroup owns, and the step along K. */
  readonly BM: number;
  readonly BN: number;
  readonly BK: number;
  /** tile: rows and columns of a thread. matrix: subgroups along M and N. vector: see `dotSource` and `columnSource`. */
  readonly PM: number;
  readonly PN: number;
  /** vector: the side of C that is not short. */
  readonly long: "m" | "n";
  /** Workgroups walk through C in bands of so many tile rows, for the sake of the L2 cache; 1 is row by row. */
  readonly band: number;
  /** Whether K may end inside a step. */
  readonly ragged: boolean;
  readonly batched: boolean;
  /** Parts of K; above 1, C is f32 partial sums [splitK, batch, M, N] and has no epilogue. */
  readonly splitK: number;
  readonly compute: FloatType;
  readonly a: MatmulOperand;
  readonly b: MatmulOperand;
  readonly c: FloatType;
  /** Whether C, bias and Z are accessed as vec4: N is a multiple of 4. */
  readonly wide: boolean;
  readonly bias: FloatType | null;
  readonly z: FloatType | null;
  readonly activation: Activation | null;
  readonly accumulate: boolean;
  readonly gather?: Gather;
  readonly finish?: Finish;
}

const range = <T>(n: number, f: (i: number) => T): T[] => Array.from({ length: n }, (_, i) => f(i));
const lines = (n: number, f: (i: number) => string): string => range(n, f).join("\n");

/** The complete WGSL module. Bindings: params 0, a 1, b 2, c 3, then bias 4 and z 5 where the configuration has them. */
export function matmulSource(config: MatmulConfig): string {
  if (config.kind === "matrix") return matrixSource(config);
  if (config.kind === "tile") return tileSource(config);
  return (config.long === "n" ? config.b : config.a).kMajor ? dotSource(config) : columnSource(config);
}

// Parts that the kernels share -------------------------------------------------------------------

/** One operand, with the WGSL expressions that differ between A and B. */
interface Side extends MatmulOperand {
  readonly name: "a" | "b";
  /** Extent of its tile along m or n. */
  readonly extent: number;
  /** Extent of the whole operand along m or n. */
  readonly size: string;
  /** Where the tile starts along m or n. */
  readonly first: string;
  /** Row pitch. */
  readonly ld: string;
  /** Where the batch starts. */
  readonly origin: string;
  readonly batch: string;
}

const batchOf = ({ batched }: MatmulConfig): string => (batched ? "batch" : "0u");

const sideA = (config: MatmulConfig): Side => ({
  ...config.a,
  name: "a",
  extent: config.BM,
  size: "params.M",
  first: "m0",
  ld: "params.lda",
  origin: "originA",
  batch: batchOf(config),
});

const sideB = (config: MatmulConfig): Side => ({
  ...config.b,
  name: "b",
  extent: config.BN,
  size: "params.N",
  first: "n0",
  ld: "params.ldb",
  origin: "originB",
  batch: batchOf(config),
});

const arrayOf = (type: string, width: number): string =>
  width === 8 ? "array<vec4<u32>>" : width === 4 ? `array<vec4<${type}>>` : `array<${type}>`;

const operandArray = ({ type, width, gather }: MatmulOperand): string =>
  arrayOf(type, gather ? (gather.vectors ? 4 : 1) : width);

/** What a gather and a finish add to the uniform struct `params`. */
export const fieldsOf = ({ gather, finish }: Pick<MatmulConfig, "gather" | "finish">): string =>
  [gather?.fields, finish?.fields].map((fields) => (fields ? `, ${fields}` : "")).join("");

function header(config: MatmulConfig, directives = ""): string {
  const { a, b, splitK } = config;
  const outputs =
    splitK > 1
      ? `@group(0) @binding(3) var<storage, read_write> c: ${arrayOf("f32", config.wide ? 4 : 1)};`
      : outputBindings(config);
  const body = `${directives}
struct Params {
  M: u32, N: u32, K: u32, lda: u32, ldb: u32, ldc: u32, strideA: u32, strideB: u32, strideC: u32, batch: u32, splits: u32, chunk: u32${fieldsOf(config)}
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: ${operandArray(a)};
@group(0) @binding(2) var<storage, read> b: ${operandArray(b)};
${outputs}
${a.gather?.source ?? ""}${b.gather?.source ?? ""}`;
  const half = config.kind === "matrix" || /\bf16\b/.test(body) || (config.compute === "f16" && config.kind === "tile");
  return half ? `enable f16;\n${body}` : body;
}

function outputBindings({ c, bias, z, wide, gather }: MatmulConfig): string {
  const width = wide ? 4 : 1;
  return `@group(0) @binding(3) var<storage, read_write> c: ${arrayOf(c, width)};
${bias ? `@group(0) @binding(4) var<storage, read> bias: ${arrayOf(bias, gather?.c ? 1 : width)};` : ""}
${z ? `@group(0) @binding(5) var<storage, read_write> z: ${arrayOf(z, width)};` : ""}`;
}

/**
 * `write` and `writeOne`: the epilogue of 4 neighbours in a row of C, or of one value, then the store, unless they lie
 * past the edge. `origin` is where the batch, or the partial sum, starts; of a mapped C, where each column does.
 */
function epilogue(config: MatmulConfig): string {
  const plain = config.splitK > 1;
  const mapped = isMapped(config);
  const place = mapped ? "origin + row * params.ldc" : "origin + row * params.ldc + col";
  const batch = mapped ? "batch: u32, " : "";
  const quad = mapped && !config.wide ? "vec4u" : "u32";
  const pass = (e: number): string => (mapped ? `origin.${"xyzw"[e]}, batch` : "origin");
  const {
    bias,
    z,
    activation,
    accumulate,
    finish: last,
  } = plain ? { bias: null, z: null, activation: null, accumulate: false } : config;
  const type = plain ? "f32" : config.c;
  const finish = (vector: boolean, i: string, col: string): string => {
    const F = vector ? "vec4f" : "f32";
    const store = (T: FloatType): string => (vector ? `vec4<${T}>(v)` : `${T}(v)`);
    const act = (f: string): string => (vector ? `vec4f(${f}(v.x), ${f}(v.y), ${f}(v.z), ${f}(v.w))` : `${f}(v)`);
    return `${bias ? `v += ${mapped ? "f32(bias[batch * params.M + row])" : `${F}(bias[${col}])`};` : ""}
  ${z ? `z[${i}] = ${store(z)};` : ""}
  ${activation ? `v = ${act(activation.name)};` : ""}
  ${last ? `v = finish${vector ? 4 : 1}(${i}, v);` : ""}
  ${accumulate ? `v += ${F}(c[${i}]);` : ""}
  c[${i}] = ${store(type)};`;
  };
  const one = `
fn writeOne(origin: u32, ${batch}row: u32, col: u32, sum: f32) {
  if (row >= params.M || col >= params.N) { return; }
  let i = ${place};
  var v = sum;
  ${finish(false, "i", "col")}
}
`;
  const four = config.wide
    ? `
fn write(origin: u32, ${batch}row: u32, col: u32, sum: vec4f) {
  if (row >= params.M || col >= params.N) { return; }
  let i = (${place}) / 4;
  var v = sum;
  ${finish(true, "i", "col / 4")}
}
`
    : `${one}
fn write(origin: ${quad}, ${batch}row: u32, col: u32, sum: vec4f) {
  writeOne(${pass(0)}, row, col, sum.x);
  writeOne(${pass(1)}, row, col + 1, sum.y);
  writeOne(${pass(2)}, row, col + 2, sum.z);
  writeOne(${pass(3)}, row, col + 3, sum.w);
}
`;
  return `${mapped ? config.gather!.c!.source : ""}${activation?.forward ?? ""}${last?.source ?? ""}\n${config.kind === "vector" ? one : four}`;
}

const isMapped = ({ gather, splitK }: MatmulConfig): boolean => gather?.c !== undefined && splitK === 1;

/** What `write` takes first for the 4 columns from `col` on: a mapped C is asked for their places. */
function originOf(config: MatmulConfig, col: string): string {
  const at = (e: number): string => `cAt(${batchOf(config)}, ${col} + ${e})`;
  return config.wide ? at(0) : `vec4u(${range(4, at).join(", ")})`;
}

/** From the workgroup's number to its tile (m0, n0), its batch and its part [kBegin, kEnd) of K. */
function locate({ BM, BN, band, batched, splitK }: MatmulConfig): string {
  const sliced = batched || splitK > 1;
  return `
  let tilesM = (params.M + ${BM - 1}) / ${BM};
  let tilesN = (params.N + ${BN - 1}) / ${BN};
  let id = wg.x + wg.y * groups.x;
  ${
    sliced
      ? `let slice = id / (tilesM * tilesN);
  let tile = id % (tilesM * tilesN);
  if (slice >= params.batch * params.splits) { return; }`
      : `let tile = id;
  if (tile >= tilesM * tilesN) { return; }`
  }
  ${
    band > 1
      ? `let first = tile / (${band} * tilesN) * ${band};
  let rows = min(tilesM - first, ${band});
  let inBand = tile - first * tilesN;
  let m0 = (first + inBand % rows) * ${BM};
  let n0 = inBand / rows * ${BN};`
      : `let m0 = tile / tilesN * ${BM};
  let n0 = tile % tilesN * ${BN};`
  }
  ${batched ? (splitK > 1 ? "let batch = slice % params.batch;" : "let batch = slice;") : ""}
  let originA = ${batched ? "batch * params.strideA" : "0u"};
  let originB = ${batched ? "batch * params.strideB" : "0u"};
  let originC = ${splitK > 1 ? "slice * params.M * params.N" : batched ? "batch * params.strideC" : "0u"};
  let kBegin = ${splitK > 1 ? `${batched ? "slice / params.batch" : "slice"} * params.chunk` : "0u"};
  let kEnd = ${splitK > 1 ? "min(kBegin + params.chunk, params.K)" : "params.K"};`;
}

const MAIN =
  "@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u";

/**
 * The walk along K. While a step is multiplied out of workgroup memory, the next one is on its way into registers. (Two
 * buffers in workgroup memory and one barrier less were measured to be slower.)
 */
function kLoop(
  { BK, ragged }: MatmulConfig,
  load: (k: string, masked: boolean) => string,
  store: string,
  multiply: string,
): string {
  // Past the last step the prefetch reads that step once more or, where K is ragged, makes zeros.
  const next = ragged ? `k + ${BK}` : `min(k + ${BK}, kEnd - ${BK})`;
  const fetch = (k: string): string =>
    ragged ? `if (${k} + ${BK} <= kEnd) {\n${load(k, false)}\n} else {\n${load(k, true)}\n}` : load(k, false);
  return `${fetch("kBegin")}
for (var k = kBegin; k < kEnd; k += ${BK}) {
${store}
workgroupBarrier();
let ahead = ${next};
${fetch("ahead")}
${multiply}
workgroupBarrier();
}`;
}

// tile -------------------------------------------------------------------------------------------

/**
 * Whether threads side by side gather single columns that are so, too: it spares cache accesses. The 4 columns that a thread
 * puts down as a vec4 then lie a quarter of the tile apart, and are written to C one by one.
 */
const isScattered = ({ gather, kMajor, width }: MatmulOperand): boolean =>
  gather !== undefined && !kMajor && width === 1;

/**
 * A thread copies 4×4 squares: 4 vec4 loads along the contiguous axis, 4 vec4 stores along m or n. A K-major square is
 * transposed on the way, in registers.
 */
interface Copy {
  readonly side: Side;
  /** Prefix of the WGSL names. */
  readonly v: string;
  readonly slot: number;
  /** Threads that take part; the others have no square left. */
  readonly from: number;
  readonly to: number;
  readonly registers: string;
}

function planCopies(config: MatmulConfig, threads: number): Copy[] {
  const sides = [sideA(config), sideB(config)];
  const squares = sides.map(({ extent }) => (extent * config.BK) / 16) as [number, number];
  if (squares[0] + squares[1] <= threads) {
    // Some threads copy A while others copy B.
    return sides.map((side, i) => {
      const from = i * squares[0];
      return { side, v: `${side.name}0`, slot: 0, from, to: from + squares[i]!, registers: "r" };
    });
  }
  return sides.flatMap((side, i) =>
    range(Math.ceil(squares[i]! / threads), (slot) => {
      const v = `${side.name}${slot}`;
      return { side, v, slot, from: 0, to: Math.min(threads, squares[i]! - slot * threads), registers: `${v}r` };
    }),
  );
}

/** Unused vec4s after each 4 rows of a K-major operand's tile in workgroup memory. */
const gap = ({ kMajor }: MatmulOperand, BK: number): number => (kMajor && BK < 32 ? 32 / BK : 0);

/** Size of a tile in workgroup memory, in vec4s. */
const tileSize = (operand: MatmulOperand, extent: number, BK: number): number => (BK / 4) * (extent + gap(operand, BK));

function tileSource(config: MatmulConfig): string {
  const { BM, BN, BK, PM, PN } = config;
  const TX = BN / PN;
  const TY = BM / PM;
  const threads = TX * TY;
  // A warp covers 8 columns × 4 rows of threads: its reads of either tile are then free of bank conflicts.
  const LX = Math.min(8, TX);
  const LY = 32 / LX;
  const copies = planCopies(config, threads);
  const names = [...new Set(copies.map(({ registers }) => registers))];
  const guard = ({ from, to }: Copy, body: string): string => {
    const bounds = [from > 0 ? `li >= ${from}` : "", to < threads ? `li < ${to}` : ""].filter(Boolean).join(" && ");
    return bounds ? `if (${bounds}) {\n${body}\n}` : body;
  };

  /**
   * Squares of a thread: q counts them along m or n, p along k. Lanes walk along the contiguous axis first, so that they
   * read whole cache lines; the gap after 4 rows of workgroup memory keeps the 8 lanes of a transposed store apart.
   */
  const place = ({ side, v, slot, from }: Copy): string => {
    const { name, kMajor, width, gather, extent, size, first, ld, origin, batch } = side;
    const id = slot ? `(li + ${slot * threads})` : from ? `(li - ${from})` : "li";
    const index = `(${id} % ${(extent * BK) / 16})`;
    const q = kMajor ? `${index} / ${BK / 4}` : `${index} % ${extent / 4}`;
    const p = kMajor ? `${index} % ${BK / 4}` : `${index} / ${extent / 4}`;
    const inTile = (j: number): string =>
      name === "b" && isScattered(side) ? `${v}q + ${(j * extent) / 4}` : `${v}q * 4 + ${j}`;
    const row = (j: number): string => `min(${first} + ${inTile(j)}, ${size} - 1)`;
    const quad = `min(${first} + ${v}q * 4, ${size} - 4)`;
    const bases = gather
      ? !kMajor && width === 4
        ? `let ${v}p0 = ${name}At(${batch}, ${quad});`
        : lines(4, (j) => `let ${v}p${j} = ${name}At(${batch}, ${row(j)});`)
      : kMajor
        ? lines(4, (j) => `let ${v}p${j} = (${origin} + ${row(j)} * ${ld}) / ${width};`)
        : width === 4
          ? `let ${v}p0 = (${origin} + ${quad}) / 4;`
          : lines(4, (j) => `let ${v}p${j} = ${origin} + ${row(j)};`);
    return `let ${v}q = ${q};
let ${v}k = ${p} * 4;
let ${v}s = ${p} * ${extent + gap(side, BK)} + ${v}q;
${bases}`;
  };

  const load = (copy: Copy, k: string, masked: boolean): string => {
    const { side, v, registers } = copy;
    const { name, type, kMajor, width, gather, ld } = side;
    const at = (i: number, n = 1): string =>
      masked ? `min(${k} + ${v}k + ${i}, params.K - ${n})` : `(${k} + ${v}k + ${i})`;
    const valid = (i: number): string => `${k} + ${v}k + ${i} < kEnd`;
    const round = config.compute === "f16" && type === "f32" ? "vec4<f16>" : "";
    const scalar = (j: number, i: number): string =>
      `${name}[${kMajor ? `${v}p${j} + ${at(i)}` : `${v}p${i} + ${at(j)} * ${ld}`}]`;
    const gathered = (p: number, k: number): string => `${name}Load(${v}p${p}, ${v}s${k})`;
    const raw = (j: number): string => {
      if (gather && width === 4) return kMajor ? gathered(j, 0) : gathered(0, j);
      if (gather) return `vec4(${range(4, (i) => (kMajor ? gathered(j, i) : gathered(i, j))).join(", ")})`;
      if (width === 1) return `vec4(${range(4, (i) => scalar(j, i)).join(", ")})`;
      return kMajor ? `${name}[${v}p${j} + ${at(0, 4)} / 4]` : `${name}[${v}p0 + ${at(j)} * (${ld} / 4)]`;
    };
    const steps = kMajor && width === 4 ? 1 : 4;
    const decode = gather ? lines(steps, (i) => `let ${v}s${i} = ${name}Step(${at(i, steps === 1 ? 4 : 1)});`) : "";
    const four = (j: number): string => {
      const value = `vec4f(${round}(${raw(j)}))`;
      if (!masked) return value;
      const mask = !kMajor ? valid(j) : width === 4 ? valid(0) : `vec4<bool>(${range(4, valid).join(", ")})`;
      return `select(vec4f(), ${value}, ${mask})`;
    };
    const body = lines(4, (j) => `${registers}${j} = ${four(j)};`);
    return guard(copy, gather ? `{\n${decode}\n${body}\n}` : body);
  };

  const store = (copy: Copy): string => {
    const { side, v, registers: r } = copy;
    const at = (j: number): string => `${side.name === "a" ? "tileA" : "tileB"}[${(j * side.extent) / 4} + ${v}s]`;
    const column = (j: number): string => `vec4f(${range(4, (i) => `${r}${i}.${"xyzw"[j]}`).join(", ")})`;
    const body = lines(4, (j) => `${at(j)} = ${side.kMajor ? column(j) : `${r}${j}`};`);
    return guard(copy, body);
  };

  // The fragments of the next step are read before those of this one are used: measured to be a fifth faster.
  const row = (operand: MatmulOperand, extent: number, kk: number): number =>
    (kk * extent) / 4 + Math.floor(kk / 4) * gap(operand, BK);
  const read = (kk: number): string => `
${lines(PM / 4, (i) => `let a${kk}_${i} = tileA[${row(config.a, BM, kk) + i * TY} + ty];`)}
${lines(PN / 4, (j) => `let b${kk}_${j} = tileB[${row(config.b, BN, kk) + j * TX} + tx];`)}`;
  const product = (kk: number, i: number, j: number): string =>
    `c${i}_${j} = fma(vec4f(a${kk}_${i >> 2}.${"xyzw"[i & 3]}), b${kk}_${j}, c${i}_${j});`;
  const use = (kk: number): string => lines(PM, (i) => range(PN / 4, (j) => product(kk, i, j)).join(" "));
  const multiply = `{${read(0)}\n${lines(BK, (kk) => `${kk + 1 < BK ? read(kk + 1) : ""}\n${use(kk)}`)}\n}`;

  const mapped = isMapped(config);
  const scattered = isScattered(config.b);
  const column = (j: number, e = 0): string =>
    scattered ? `n0 + tx + ${j * TX + (e * BN) / 4}` : `n0 + (tx + ${j * TX}) * 4`;
  const placeOf = (j: number): string =>
    scattered
      ? `vec4u(${range(4, (e) => `cAt(${batchOf(config)}, ${column(j, e)})`).join(", ")})`
      : originOf(config, column(j));
  const origins = mapped ? lines(PN / 4, (j) => `let o${j} = ${placeOf(j)};`) : "";
  const writeOut = lines(PM, (i) => {
    const m = `m0 + ${(i >> 2) * TY * 4 + (i & 3)} + ty * 4`;
    const to = (j: number, e = ""): string => (mapped ? `o${j}${e}, ${batchOf(config)}` : "originC");
    const write = (j: number): string =>
      scattered
        ? range(4, (e) => `writeOne(${to(j, `[${e}]`)}, ${m}, ${column(j, e)}, c${i}_${j}[${e}]);`).join(" ")
        : `write(${to(j)}, ${m}, ${column(j)}, c${i}_${j});`;
    return range(PN / 4, write).join(" ");
  });
  return `${header(config)}
var<workgroup> tileA: array<vec4f, ${tileSize(config.a, BM, BK)}>;
var<workgroup> tileB: array<vec4f, ${tileSize(config.b, BN, BK)}>;
${epilogue(config)}
@compute @workgroup_size(${threads})
fn main(${MAIN}) {
${locate(config)}
let tx = li / 32 % ${TX / LX} * ${LX} + li % ${LX};
let ty = li / ${32 * (TX / LX)} * ${LY} + li % 32 / ${LX};
${copies.map(place).join("\n")}
${lines(PM, (i) => range(PN / 4, (j) => `var c${i}_${j}: vec4f;`).join(" "))}
${names.map((r) => range(4, (j) => `var ${r}${j}: vec4f;`).join(" ")).join("\n")}
${kLoop(
  config,
  (k, masked) => copies.map((copy) => load(copy, k, masked)).join("\n"),
  copies.map(store).join("\n"),
  multiply,
)}
${origins}${writeOut}
}
`;
}

// matrix -----------------------------------------------------------------------------------------

/** Row pitch of an operand's tile in workgroup memory, in vec4<u32>, which hold 8 halves. */
const matrixPitch = ({ kMajor }: MatmulOperand, extent: number, BK: number): number => (kMajor ? BK : extent) / 8 + 1;

/** Size of an operand's tile in workgroup memory, likewise. */
const matrixSize = (operand: MatmulOperand, extent: number, BK: number): number =>
  matrixPitch(operand, extent, BK) * (operand.kMajor ? extent : BK);

/** Copies an operand's tile in units of 8 elements along its contiguous axis. */
function matrixCopy(
  side: Side,
  { BK }: MatmulConfig,
  threads: number,
  base: number,
): { place: string; load: (k: string, masked: boolean) => string; store: string } {
  const { name, type, kMajor, width, gather, extent, size, first, ld, origin, batch } = side;
  const units = (extent * BK) / 8;
  const perRow = (kMajor ? BK : extent) / 8;
  const element = width === 8 ? "vec4u" : `vec4<${type}>`;
  const parts = width === 8 ? 1 : 2;
  /** One text for each unit of a thread; `v` prefixes its names. */
  type Body = (v: string, row: string, column: string) => string;
  const each = (body: Body, guard = false): string =>
    lines(Math.ceil(units / threads), (s) => {
      const i = `(li + ${s * threads})`;
      const text = body(`${name}${s}`, `${i} / ${perRow}`, `${i} % ${perRow}`);
      return guard && (s + 1) * threads > units ? `if (${i} < ${units}) {\n${text}\n}` : text;
    });

  // Of a gathered operand, threads of all slots are in the same column, for they are a multiple of perRow: so units share
  // what is decoded along it, be it At or Step.
  const shared = `li % ${perRow} * 8`;
  const rowAt = (row: string): string => `${name}At(${batch}, min(${first} + ${row}, ${size} - ${kMajor ? 1 : width}))`;
  const placeAll =
    gather && kMajor
      ? `let ${name}k = ${shared};`
      : gather
        ? lines(8 / width, (e) => `let ${name}p${e} = ${rowAt(`${shared} + ${e * width}`)};`)
        : "";

  const place = each((v, row, column) => {
    if (gather) {
      const fixed = kMajor ? `let ${v}p = ${rowAt(row)};` : `let ${v}k = ${row};`;
      const registers = range(8 / width, (e) => `var ${v}r${e}: ${width === 4 ? element : type};`);
      return `${fixed}\n${registers.join(" ")}`;
    }
    const along = (i: number): string =>
      `(${origin} + min(${first} + ${column} * 8 + ${i}, ${size} - ${width})) / ${width}`;
    // What stays the same along K: the address of the row if K-major, else the column.
    const fixed = kMajor
      ? `let ${v}k = ${column} * 8;\nlet ${v}p = (${origin} + min(${first} + ${row}, ${size} - 1) * ${ld}) / ${width};`
      : `let ${v}k = ${row};\n${lines(8 / width, (i) => `let ${v}p${i} = ${along(i * width)};`)}`;
    const registers = range(parts, (h) => `var ${v}r${h}: ${element};`).join(" ");
    return `${fixed}\n${registers}`;
  });

  const load = (k: string, masked: boolean): string => (gather ? loadGathered(k, masked) : loadStored(k, masked));

  const loadGathered = (k: string, masked: boolean): string => {
    const step = (v: string, e: number, n: number): string =>
      `${name}Step(${masked ? `min(${k} + ${v}k + ${e}, params.K - ${n})` : `${k} + ${v}k + ${e}`})`;
    const decode = kMajor ? lines(8 / width, (e) => `let ${name}s${e} = ${step(name, e * width, width)};`) : "";
    const units = each((v) => {
      const valid = (e: number): string => `${k} + ${kMajor ? `${name}k + ${e}` : `${v}k`} < kEnd`;
      const one = (e: number): string => `${name}Load(${kMajor ? `${v}p, ${name}s${e}` : `${name}p${e}, ${v}s`})`;
      const zero = width === 4 ? element : type;
      const value = (e: number): string => (masked ? `select(${zero}(), ${one(e)}, ${valid(e * width)})` : one(e));
      return `${kMajor ? "" : `let ${v}s = ${step(v, 0, 1)};`}\n${lines(8 / width, (e) => `${v}r${e} = ${value(e)};`)}`;
    }, true);
    return `{\n${decode}\n${units}\n}`;
  };

  const loadStored = (k: string, masked: boolean): string =>
    each((v) => {
      const at = (i: number, n: number): string =>
        masked ? `min(${k} + ${v}k + ${i}, params.K - ${n})` : `(${k} + ${v}k + ${i})`;
      const valid = (i: number): string => `${k} + ${v}k + ${i} < kEnd`;
      const scalar = (e: number): string =>
        `${name}[${kMajor ? `${v}p + ${at(e, 1)}` : `${v}p${e} + ${at(0, 1)} * ${ld}`}]`;
      const raw = (h: number): string => {
        if (width === 1) return `vec4(${range(4, (e) => scalar(h * 4 + e)).join(", ")})`;
        return `${name}[${kMajor ? `${v}p + ${at(h * 4, width)} / ${width}` : `${v}p${h} + ${at(0, 1)} * (${ld} / ${width})`}]`;
      };
      const mask = (h: number): string => {
        if (!kMajor) return valid(0);
        return width > 1 ? valid(h * 4) : `vec4<bool>(${range(4, (e) => valid(h * 4 + e)).join(", ")})`;
      };
      return lines(parts, (h) => `${v}r${h} = ${masked ? `select(${element}(), ${raw(h)}, ${mask(h)})` : raw(h)};`);
    }, true);

  const store = each((v, row, column) => {
    // Elements that were gathered one by one are put together here, not where that would wait for them.
    const four = (h: number): string =>
      gather && width === 1 ? `vec4(${range(4, (e) => `${v}r${4 * h + e}`).join(", ")})` : `${v}r${h}`;
    const half = (h: number): string => `bitcast<vec2u>(${type === "f16" ? "" : "vec4<f16>"}(${four(h)}))`;
    const value = width === 8 ? `${v}r0` : `vec4u(${half(0)}, ${half(1)})`;
    return `memory[${base} + ${row} * ${matrixPitch(side, extent, BK)} + ${column}] = ${value};`;
  }, true);
  return { place: placeAll + place, load, store };
}

/**
 * Both operands lie in workgroup memory as f16 in the layout that they have in the tensor, for a subgroup matrix can be
 * loaded row- or column-major; rows are padded by 16 bytes against bank conflicts. An f32 operand is rounded to f16 on
 * the way. The elements of a subgroup matrix cannot be touched, so the epilogue passes through workgroup memory too.
 */
function matrixSource(config: MatmulConfig): string {
  const { BM, BN, BK, PM, PN, a, b } = config;
  const subgroups = PM * PN;
  const threads = subgroups * 32;
  const TM = BM / PM / 16;
  const TN = BN / PN / 16;
  const pitchA = matrixPitch(a, BM, BK);
  const pitchB = matrixPitch(b, BN, BK);
  const sizeA = matrixSize(a, BM, BK);
  const sizeB = matrixSize(b, BN, BK);
  const copyA = matrixCopy(sideA(config), config, threads, 0);
  const copyB = matrixCopy(sideB(config), config, threads, sizeA);
  const fetch = (side: "left" | "right", order: "row_major" | "col_major", offset: string, pitch: number): string =>
    `subgroupMatrixLoad<subgroup_matrix_${side}<f16, 16, 16>, ${order}>(&memory, ${offset}, ${pitch})`;
  const left = (i: number, kk: number): string =>
    a.kMajor
      ? fetch("left", "row_major", `(sm * ${TM * 16} + ${i * 16}) * ${pitchA} + ${kk * 2}`, pitchA)
      : fetch("left", "col_major", `${kk * 16 * pitchA} + sm * ${TM * 2} + ${i * 2}`, pitchA);
  const right = (j: number, kk: number): string =>
    b.kMajor
      ? fetch("right", "col_major", `${sizeA} + (sn * ${TN * 16} + ${j * 16}) * ${pitchB} + ${kk * 2}`, pitchB)
      : fetch("right", "row_major", `${sizeA + kk * 16 * pitchB} + sn * ${TN * 2} + ${j * 2}`, pitchB);
  const product = (i: number, j: number): string =>
    `c${i}_${j} = subgroupMatrixMultiplyAccumulate(left${i}, right, c${i}_${j});`;
  const multiply = lines(
    BK / 16,
    (kk) => `{
${lines(TM, (i) => `let left${i} = ${left(i, kk)};`)}
${lines(TN, (j) => `{ let right = ${right(j, kk)}; ${range(TM, (i) => product(i, j)).join(" ")} }`)}
}`,
  );

  // Each subgroup puts down `share` matrices side by side; then every 32 threads write out 16 rows of one such group.
  // `share` is the most that fits in the memory that the operands need anyway.
  const fits = (n: number): boolean => TN % n === 0 && subgroups * 16 * (4 * n + 1) <= sizeA + sizeB;
  const share = [8, 4, 2].find(fits) ?? 1;
  const pitch = 4 * share + 1;
  const memory = Math.max(sizeA + sizeB, subgroups * 16 * pitch);
  const putDown = (i: number, j: number): string =>
    `subgroupMatrixStore<row_major>(&memory, sq * ${16 * pitch} + ${(j % share) * 4}, c${i}_${j}, ${pitch});`;
  const mapped = isMapped(config);
  const origin = (group: number): string =>
    originOf(config, `n0 + column * ${TN * 16} + ${group * share * 16} + li % ${4 * share} * 4`);
  const origins = mapped ? lines(TN / share, (group) => `let o${group} = ${origin(group)};`) : "";
  const writeFour = (i: number, group: number, t: number): string => {
    const e = `(li % 32 + ${t * 32})`;
    const r = `${e} / ${4 * share}`;
    const q = `${e} % ${4 * share}`;
    const m = `m0 + row * ${TM * 16} + ${i * 16} + ${r}`;
    const n = `n0 + column * ${TN * 16} + ${group * share * 16} + ${q} * 4`;
    const to = mapped ? `o${group}, ${batchOf(config)}` : "originC";
    return `write(${to}, ${m}, ${n}, bitcast<vec4f>(memory[li / 32 * ${16 * pitch} + ${r} * ${pitch} + ${q}]));`;
  };
  const writeOut = (i: number, group: number): string => `
${lines(share, (j) => putDown(i, group * share + j))}
workgroupBarrier();
${lines(2 * share, (t) => writeFour(i, group, t))}
workgroupBarrier();`;

  const directives = `enable subgroups;
enable subgroup_size_control;
enable chromium_experimental_subgroup_matrix;
requires subgroup_id, subgroup_uniformity;
`;
  return `${header(config, directives)}
var<workgroup> memory: array<vec4<u32>, ${memory}>;
${epilogue(config)}
@compute @workgroup_size(${threads}) @subgroup_size(32)
fn main(${MAIN}, @builtin(subgroup_id) subgroup: u32) {
${locate(config)}
// The remainder tells the compiler the range, and so saves it a clamp at each access.
let sq = subgroup % ${subgroups};
let sm = sq / ${PN};
let sn = sq % ${PN};
let row = li / 32 / ${PN};
let column = li / 32 % ${PN};
${copyA.place}
${copyB.place}
${lines(TM, (i) => range(TN, (j) => `var c${i}_${j}: subgroup_matrix_result<f32, 16, 16>;`).join(" "))}
${kLoop(
  config,
  (k, masked) => `${copyA.load(k, masked)}\n${copyB.load(k, masked)}`,
  `${copyA.store}\n${copyB.store}`,
  multiply,
)}
${origins}${lines(TM, (i) => lines(TN / share, (group) => writeOut(i, group)))}
}
`;
}

// vector -----------------------------------------------------------------------------------------

/** The operand along the long side of C, which is read once, and the one along the short side, which every thread re-reads. */
function longAndShort(config: MatmulConfig): {
  long: "a" | "b";
  short: "a" | "b";
  width: number;
  shortAt: (s: number, k: string) => string;
} {
  const [long, short] = config.long === "n" ? (["b", "a"] as const) : (["a", "b"] as const);
  const { kMajor, width } = config[short];
  const size = short === "a" ? "params.M" : "params.N";
  const origin = short === "a" ? "originA" : "originB";
  const ld = short === "a" ? "params.lda" : "params.ldb";
  const first = short === "a" ? "m0" : "n0";
  const shortAt = (s: number, k: string): string => {
    const outer = `min(${first} + ${s}, ${size} - 1)`;
    const i = kMajor ? `${origin} + ${outer} * ${ld} + ${k}` : `${origin} + (${k}) * ${ld} + ${outer}`;
    return width === 4 ? `f32(${short}[(${i}) / 4][(${i}) % 4])` : `f32(${short}[${i}])`;
  };
  return { long, short, width: config[long].width, shortAt };
}

const VECTOR_THREADS = 256;
/** Rows that a thread of `columnSource` reads before it uses them. */
const COLUMN_LOADS = 4;

/** K-major: BK / width threads share PN rows of the long operand and walk along K side by side. PM · PN <= those threads. */
function dotSource(config: MatmulConfig): string {
  const { BK, PM: S, PN: R } = config;
  const { long, short, width, shortAt } = longAndShort(config);
  const lanes = BK / width;
  const teams = VECTOR_THREADS / lanes;
  const first = long === "a" ? "m0" : "n0";
  const size = long === "a" ? "params.M" : "params.N";
  const origin = long === "a" ? "originA" : "originB";
  const ld = long === "a" ? "params.lda" : "params.ldb";
  const direct = width === 4 && config[short].width === 4 && config[short].kMajor;
  const shortOrigin = short === "a" ? "originA" : "originB";
  const shortRow = (s: number): string =>
    `min(${short === "a" ? "m0" : "n0"} + ${s}, ${short === "a" ? "params.M" : "params.N"} - 1) * ${short === "a" ? "params.lda" : "params.ldb"}`;
  const x = (s: number): string =>
    direct
      ? `vec4f(${short}[(${shortOrigin} + ${shortRow(s)} + k) / 4])`
      : width === 4
        ? `vec4f(${range(4, (i) => shortAt(s, `k + ${i}`)).join(", ")})`
        : shortAt(s, "k");
  const w = (r: number): string => (width === 4 ? `vec4f(${long}[(w${r} + k) / 4])` : `f32(${long}[w${r} + k])`);
  const product = (s: number, r: number): string => (width === 4 ? `dot(x${s}, y${r})` : `x${s} * y${r}`);
  const outputs = teams * R * S;
  return `${header(config)}
var<workgroup> sums: array<f32, ${VECTOR_THREADS * S * R}>;
${epilogue(config)}
@compute @workgroup_size(${VECTOR_THREADS})
fn main(${MAIN}) {
${locate(config)}
let lane = li % ${lanes};
let team = li / ${lanes};
${lines(R, (r) => `let w${r} = ${origin} + min(${first} + team * ${R} + ${r}, ${size} - 1) * ${ld};`)}
${lines(S, (s) => range(R, (r) => `var c${s}_${r} = 0.0;`).join(" "))}
for (var k = kBegin + lane * ${width}; k < kEnd; k += ${BK}) {
${lines(R, (r) => `let y${r} = ${w(r)};`)}
${lines(S, (s) => `let x${s} = ${x(s)};`)}
${lines(S, (s) => range(R, (r) => `c${s}_${r} += ${product(s, r)};`).join(" "))}
}
${lines(S, (s) => range(R, (r) => `sums[${(s * R + r) * VECTOR_THREADS} + li] = c${s}_${r};`).join(" "))}
workgroupBarrier();
if (li < ${outputs}) {
  // Thread (s, team, r); it starts at its own lane, so that neighbours read different banks.
  let r = li % ${R};
  let t = li / ${R} % ${teams};
  let s = li / ${R * teams};
  var sum = 0.0;
  for (var i = 0u; i < ${lanes}; i++) { sum += sums[(s * ${R} + r) * ${VECTOR_THREADS} + t * ${lanes} + (i + li) % ${lanes}]; }
  ${config.long === "n" ? `writeOne(originC, m0 + s, n0 + li % ${teams * R}, sum);` : `writeOne(originC, m0 + li % ${teams * R}, n0 + s, sum);`}
}
}
`;
}

/** K across rows: PN threads side by side own `width` columns each; their teams take the rows in turn. */
function columnSource(config: MatmulConfig): string {
  const { PM: S, PN: lanes } = config;
  const { long, width, shortAt } = longAndShort(config);
  const teams = VECTOR_THREADS / lanes;
  const first = long === "a" ? "m0" : "n0";
  const size = long === "a" ? "params.M" : "params.N";
  const origin = long === "a" ? "originA" : "originB";
  const ld = long === "a" ? "params.lda" : "params.ldb";
  const F = width === 4 ? "vec4f" : "f32";
  const chunk = Math.min(S, 2);
  const out = (s: number): string => {
    const value = (e: number): string => (width === 4 ? `sum[${e}]` : "sum");
    const place = (e: number): string => `${first} + li % ${lanes} * ${width} + ${e}`;
    const write = (e: number): string =>
      config.long === "n"
        ? `writeOne(originC, m0 + ${s} + li / ${lanes}, ${place(e)}, ${value(e)});`
        : `writeOne(originC, ${place(e)}, n0 + ${s} + li / ${lanes}, ${value(e)});`;
    return lines(width, write);
  };
  return `${header(config)}
var<workgroup> sums: array<${F}, ${VECTOR_THREADS * chunk}>;
${epilogue(config)}
@compute @workgroup_size(${VECTOR_THREADS})
fn main(${MAIN}) {
${locate(config)}
let lane = li % ${lanes};
let team = li / ${lanes};
let w = ${origin} + min(${first} + lane * ${width}, ${size} - ${width});
${lines(S, (s) => `var c${s}: ${F};`)}
for (var k = kBegin + team; k < kEnd; k += ${COLUMN_LOADS * teams}) {
${lines(COLUMN_LOADS, (u) => `let k${u} = min(k + ${u * teams}, params.K - 1);\nlet y${u} = ${F}(${long}[(w + k${u} * ${ld}) / ${width}]);`)}
${lines(COLUMN_LOADS, (u) => lines(S, (s) => `c${s} += select(${F}(), ${shortAt(s, `k${u}`)} * y${u}, k + ${u * teams} < kEnd);`))}
}
${lines(
  S / chunk,
  (g) => `${lines(chunk, (s) => `sums[${s * VECTOR_THREADS} + li] = c${g * chunk + s};`)}
workgroupBarrier();
if (li < ${lanes * chunk}) {
  var sum: ${F};
  for (var i = 0u; i < ${teams}; i++) { sum += sums[li / ${lanes} * ${VECTOR_THREADS} + i * ${lanes} + li % ${lanes}]; }
  ${out(g * chunk)}
}
workgroupBarrier();`,
)}
}
`;
}

// Sum of the splits ------------------------------------------------------------------------------

/** Adds the partial sums in order and applies the epilogue. Bindings: params 0, partial 1, c 3, bias 4, z 5. */
export function splitKReduceSource(config: MatmulConfig): string {
  const { wide } = config;
  const final: MatmulConfig = { ...config, splitK: 1, kind: "tile" };
  const width = wide ? 4 : 1;
  const mapped = isMapped(final);
  const col = `i % columns * ${width}`;
  const to = mapped ? `cAt(row / params.M, ${col}), row / params.M` : "row / params.M * params.strideC";
  const body = `
struct Params { M: u32, N: u32, ldc: u32, strideC: u32, batch: u32, splits: u32${fieldsOf(config)} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial: ${arrayOf("f32", width)};
${outputBindings(final)}
${epilogue(final)}
@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = (wg.x + wg.y * groups.x) * 256 + li;
  let columns = params.N / ${width};
  let plane = params.M * columns * params.batch;
  if (i >= plane) { return; }
  var sum = partial[i];
  for (var s = 1u; s < params.splits; s++) { sum += partial[s * plane + i]; }
  let row = i / columns;
  ${wide ? "write" : "writeOne"}(${to}, row % params.M, ${col}, sum);
}
`;
  return /\bf16\b/.test(body) ? `enable f16;\n${body}` : body;
}

export function splitKReduceGrid(config: MatmulConfig, M: number, N: number, batch: number): [x: number, y: number] {
  return spread(Math.ceil((M * N * batch) / (config.wide ? 4 : 1) / 256));
}

export function matmulGrid(config: MatmulConfig, M: number, N: number, batch: number): [x: number, y: number] {
  return spread(Math.ceil(M / config.BM) * Math.ceil(N / config.BN) * batch * config.splitK);
}

function spread(n: number): [x: number, y: number] {
  const y = Math.ceil(n / 65535);
  return [Math.ceil(n / y), y];
}

// Choice -----------------------------------------------------------------------------------------

export interface MatmulShape {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly batch: number;
  readonly a: FloatType;
  readonly b: FloatType;
  readonly c: FloatType;
  /** f16: operands are rounded to f16, sums stay f32. Needs a device with f16, else it is f32. */
  readonly compute: FloatType;
  /** A stored as [K, M]. */
  readonly transposeA: boolean;
  /** B stored as [N, K]. */
  readonly transposeB: boolean;
  /** One matrix for all batches. */
  readonly broadcastA?: boolean;
  readonly broadcastB?: boolean;
  readonly bias?: FloatType | null;
  readonly z?: FloatType | null;
  readonly activation?: Activation | null;
  readonly accumulate?: boolean;
  readonly gather?: Gather;
  readonly finish?: Finish;
}

export interface MatmulDevice {
  /** f16 × f16 → f32, 16×16×16, in subgroups of 32. */
  readonly subgroupMatrix: boolean;
  readonly f16: boolean;
  /** maxComputeWorkgroupStorageSize. */
  readonly workgroupStorage: number;
}

/** Uniforms of the kernel. */
export interface MatmulParams extends Record<string, number> {}

/** A tile, and what it does on an H200: fitted to measurements of 42 products (see `timeOf`). */
interface Tile extends Pick<MatmulConfig, "kind" | "BM" | "BN" | "BK" | "PM" | "PN"> {
  /** TFLOP/s of the whole GPU when it is full. */
  readonly peak: number;
  /** Share of a core's speed that one workgroup reaches alone. */
  readonly alone: number;
  /** Workgroups that share a core. */
  readonly resident: number;
}

interface Choice {
  readonly t: Tile;
  readonly splitK: number;
}

/** Cost of starting a workgroup, as elements of K; of adding up splits, in seconds and in bytes a second. */
interface Overhead {
  readonly start: number;
  readonly reduce: number;
  readonly bandwidth: number;
}

const tile = (shape: [number, number, number, number, number], peak: number, alone: number, resident: number): Tile => {
  const [BM, BN, BK, PM, PN] = shape;
  return { kind: "tile", BM, BN, BK, PM, PN, peak, alone, resident };
};
const matrix: typeof tile = (...args) => ({ ...tile(...args), kind: "matrix" });

const TILES: readonly Tile[] = [
  tile([128, 128, 16, 16, 8], 48, 0.53, 2),
  tile([64, 128, 16, 8, 8], 46, 0.85, 3),
  tile([64, 64, 16, 8, 8], 40, 0.44, 6),
  tile([128, 32, 16, 8, 4], 39, 0.58, 6),
  tile([32, 32, 16, 4, 4], 30, 0.16, 9),
];
const TILES_OVERHEAD: Overhead = { start: 34, reduce: 3.4e-6, bandwidth: 7.9e12 };

const MATRICES: readonly Tile[] = [
  matrix([128, 128, 32, 2, 2], 196, 0.66, 2),
  matrix([128, 64, 32, 2, 2], 175, 0.55, 6),
  matrix([64, 128, 32, 1, 4], 178, 0.62, 6),
  matrix([64, 64, 64, 2, 2], 169, 0.67, 2),
  matrix([32, 64, 64, 1, 2], 129, 0.47, 7),
];
const MATRICES_OVERHEAD: Overhead = { start: 37, reduce: 7.2e-6, bandwidth: 18e12 };

/** Operands stored as f32, converted on the way. */
const CONVERTING: readonly Tile[] = [
  matrix([128, 128, 32, 2, 2], 187, 0.6, 2),
  matrix([128, 64, 32, 2, 2], 130, 0.56, 4),
  matrix([64, 128, 32, 1, 4], 126, 0.6, 6),
  matrix([64, 64, 64, 2, 2], 112, 0.52, 3),
  matrix([32, 64, 64, 1, 2], 97, 0.33, 10),
];
const CONVERTING_OVERHEAD: Overhead = { start: 71, reduce: 5.8e-6, bandwidth: 5e12 };

const CORES = 132;
/** Most parts of K; where an operand is gathered, K may be the pixels of many images and C as small as a filter. */
const MOST_SPLITS = 64;
const MOST_SPLITS_GATHERED = 512;
/** Partial sums of a split stay within a binding of default size. */
const MOST_PARTIAL = 1 << 25;

/** Estimated seconds: rounds of workgroups that fill the cores, then a last one that may not, then the splits' sum. */
function timeOf(t: Tile, { start, reduce, bandwidth }: Overhead, shape: MatmulShape, splits: number): number {
  const { M, N, K, batch } = shape;
  const perCore = Math.ceil((Math.ceil(M / t.BM) * Math.ceil(N / t.BN) * batch * splits) / CORES);
  const steps = Math.ceil(K / splits / t.BK) * t.BK + start;
  const one = (2 * t.BM * t.BN * steps) / ((t.peak * 1e12) / CORES);
  const rest = perCore % t.resident;
  const time = (perCore - rest + (rest ? Math.max(rest, 1 / t.alone) : 0)) * one;
  return splits > 1 ? time + reduce + (8 * splits * M * N * batch) / bandwidth : time;
}

/** The quickest tile and split by `timeOf` that the device has room for. */
function chooseTile(
  tiles: readonly Tile[],
  overhead: Overhead,
  shape: MatmulShape,
  fits: (t: Tile) => boolean,
): Choice {
  const { M, N, K, batch, gather } = shape;
  const splits = gather ? MOST_SPLITS_GATHERED : MOST_SPLITS;
  let best: Choice = { t: tiles.at(-1)!, splitK: 1 };
  let bestTime = Number.POSITIVE_INFINITY;
  for (const t of tiles) {
    if (!fits(t)) continue;
    const most = Math.max(1, Math.min(splits, Math.floor(K / (4 * t.BK)), Math.floor(MOST_PARTIAL / (M * N * batch))));
    for (let splitK = 1; splitK <= most; splitK++) {
      const time = timeOf(t, overhead, shape, splitK);
      if (time < bestTime) {
        best = { t, splitK };
        bestTime = time;
      }
    }
  }
  return best;
}

export function chooseMatmul(shape: MatmulShape, device: MatmulDevice): MatmulConfig {
  const { M, N, K, batch, gather, finish } = shape;
  const compute = device.f16 ? shape.compute : "f32";
  const short = Math.min(M, N) <= 8 && !gather;
  const matrices = compute === "f16" && device.subgroupMatrix && !short && device.workgroupStorage >= 16384;
  const operand = (type: FloatType, kMajor: boolean, pitch: number, gather?: GatheredOperand): MatmulOperand => {
    if (gather) return { type, kMajor: gather.kMajor, width: gather.width, gather };
    const width = matrices && type === "f16" && pitch % 8 === 0 ? 8 : pitch % 4 === 0 ? 4 : 1;
    return { type, kMajor, width };
  };
  const a = operand(shape.a, !shape.transposeA, shape.transposeA ? M : K, gather?.a);
  const b = operand(shape.b, shape.transposeB, shape.transposeB ? K : N, gather?.b);
  const long = M < N ? "n" : "m";
  const { splitK, t } = choose();

  function choose(): Choice {
    if (short) return chooseVector(shape, long === "n" ? b : a, long);
    const room = (size: typeof tileSize) => (t: Tile) =>
      16 * (size(a, t.BM, t.BK) + size(b, t.BN, t.BK)) <= device.workgroupStorage;
    if (!matrices) return chooseTile(TILES, TILES_OVERHEAD, shape, room(tileSize));
    if (a.type === "f16" && b.type === "f16") return chooseTile(MATRICES, MATRICES_OVERHEAD, shape, room(matrixSize));
    return chooseTile(CONVERTING, CONVERTING_OVERHEAD, shape, room(matrixSize));
  }

  const chunk = Math.ceil(K / splitK / t.BK) * t.BK;
  return {
    kind: t.kind,
    BM: t.BM,
    BN: t.BN,
    BK: t.BK,
    PM: t.PM,
    PN: t.PN,
    long,
    band: 8,
    ragged: K === 0 || K % t.BK !== 0,
    batched: batch > 1,
    splitK: K > 0 ? Math.ceil(K / chunk) : 1,
    compute,
    a,
    b,
    c: shape.c,
    wide: N % 4 === 0 && !short && gather?.c?.wide !== false && !(t.kind === "tile" && isScattered(b)),
    bias: shape.bias ?? null,
    z: shape.z ?? null,
    activation: shape.activation ?? null,
    accumulate: shape.accumulate ?? false,
    gather,
    finish,
  };
}

/** Blocks of the vector kernels, by measurement. K is split only where it is much longer than C. */
function chooseVector({ M, N, K, batch }: MatmulShape, operand: MatmulOperand, long: "m" | "n"): Choice {
  const { kMajor, width } = operand;
  const short = Math.min(M, N);
  const length = Math.max(M, N);
  const S = short <= 1 ? 1 : short <= 2 ? 2 : short <= 4 ? 4 : 8;
  const large = kMajor && S >= 4 && length >= 16384;
  const lanes = kMajor ? (large ? 128 / S : 64) : width === 1 ? 32 : S < 8 ? 4 : 8;
  const R = large && S === 4 ? 4 : 2;
  const block = kMajor ? (VECTOR_THREADS / lanes) * R : lanes * width;
  const BK = kMajor ? lanes * width : (VECTOR_THREADS / lanes) * COLUMN_LOADS;
  const count = Math.ceil(length / block) * batch;
  const shortest = !kMajor && S === 8 ? 256 : 4096;
  const splitK = Math.max(1, Math.min(Math.floor(256 / count), Math.floor(K / shortest), 64));
  const [BM, BN] = long === "n" ? [S, block] : [block, S];
  return { t: { ...tile([BM, BN, BK, S, kMajor ? R : lanes], 1, 1, 1), kind: "vector" }, splitK };
}

export function matmulParams(config: MatmulConfig, shape: MatmulShape): MatmulParams {
  const { M, N, K, batch } = shape;
  return {
    M,
    N,
    K,
    batch,
    splits: config.splitK,
    lda: config.a.kMajor ? K : M,
    ldb: config.b.kMajor ? K : N,
    ldc: (config.splitK === 1 && shape.gather?.c?.pitch) || N, // partial sums are a plain matrix
    strideA: shape.broadcastA ? 0 : M * K,
    strideB: shape.broadcastB ? 0 : K * N,
    strideC: M * N,
    chunk: Math.ceil(K / config.splitK / config.BK) * config.BK,
    ...shape.gather?.params,
  };
}
