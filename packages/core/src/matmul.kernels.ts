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
 */

type FloatType = "f32" | "f16";

/** Spliced into the epilogue: `forward` is the WGSL of `fn NAME(x: f32) -> f32`. */
interface Activation {
  readonly name: string;
  readonly forward: string;
}

export interface MatmulOperand {
  readonly type: FloatType;
  /** Whether K is the contiguous axis: A stored as [M, K], or B as [N, K]. */
  readonly kMajor: boolean;
  /** Elements in a load; more than one needs a row pitch and a batch stride that are multiples of it. */
  readonly width: 1 | 4 | 8;
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
  /** Tiles of workgroup memory: with 2, the next one is written while one is read. */
  readonly stages: 1 | 2;
  /** Steps of the inner loop in one iteration. */
  readonly unroll: number;
  /** Workgroups walk through C in bands of so many tile rows, for the sake of the L2 cache; 1 is row by row. */
  readonly band: number;
  /** Whether K (or a split of it) may end inside a step. */
  readonly ragged: boolean;
  readonly batched: boolean;
  /** Parts of K; above 1, C is f32 partial sums [splitK, batch, M, N] and has no epilogue. */
  readonly splitK: number;
  readonly compute: FloatType;
  readonly a: MatmulOperand;
  readonly b: MatmulOperand;
  readonly c: FloatType;
  /** Whether C, bias and Z can be accessed as vec4: N is a multiple of 4. */
  readonly wide: boolean;
  readonly bias: FloatType | null;
  readonly z: FloatType | null;
  readonly activation: Activation | null;
  readonly accumulate: boolean;
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

const arrayOf = (type: string, width: number): string =>
  width === 8 ? "array<vec4<u32>>" : width === 4 ? `array<vec4<${type}>>` : `array<${type}>`;

function header(config: MatmulConfig, directives = ""): string {
  const { a, b, splitK } = config;
  const outputs =
    splitK > 1
      ? `@group(0) @binding(3) var<storage, read_write> c: ${arrayOf("f32", config.wide ? 4 : 1)};`
      : outputBindings(config);
  const body = `${directives}
struct Params {
  M: u32, N: u32, K: u32, lda: u32, ldb: u32, ldc: u32, strideA: u32, strideB: u32, strideC: u32, batch: u32, splits: u32, chunk: u32
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: ${arrayOf(a.type, a.width)};
@group(0) @binding(2) var<storage, read> b: ${arrayOf(b.type, b.width)};
${outputs}
`;
  const half = config.kind === "matrix" || /\bf16\b/.test(body) || (config.compute === "f16" && config.kind === "tile");
  return half ? `enable f16;\n${body}` : body;
}

function outputBindings({ c, bias, z, wide }: MatmulConfig): string {
  const width = wide ? 4 : 1;
  return `@group(0) @binding(3) var<storage, read_write> c: ${arrayOf(c, width)};
${bias ? `@group(0) @binding(4) var<storage, read> bias: ${arrayOf(bias, width)};` : ""}
${z ? `@group(0) @binding(5) var<storage, read_write> z: ${arrayOf(z, width)};` : ""}`;
}

/**
 * `write` and `writeOne`: the epilogue of 4 neighbours in a row of C, or of one value, then the store, unless they lie
 * past the edge. `origin` is where the batch, or the partial sum, starts.
 */
function epilogue(config: MatmulConfig): string {
  const plain = config.splitK > 1;
  const { bias, z, activation, accumulate } = plain
    ? { bias: null, z: null, activation: null, accumulate: false }
    : config;
  const type = plain ? "f32" : config.c;
  const finish = (vector: boolean, i: string, col: string): string => {
    const F = vector ? "vec4f" : "f32";
    const store = (T: FloatType): string => (vector ? `vec4<${T}>(v)` : `${T}(v)`);
    const act = (f: string): string => (vector ? `vec4f(${f}(v.x), ${f}(v.y), ${f}(v.z), ${f}(v.w))` : `${f}(v)`);
    return `${bias ? `v += ${F}(bias[${col}]);` : ""}
  ${z ? `z[${i}] = ${store(z)};` : ""}
  ${activation ? `v = ${act(activation.name)};` : ""}
  ${accumulate ? `v += ${F}(c[${i}]);` : ""}
  c[${i}] = ${store(type)};`;
  };
  const one = `
fn writeOne(origin: u32, row: u32, col: u32, sum: f32) {
  if (row >= params.M || col >= params.N) { return; }
  let i = origin + row * params.ldc + col;
  var v = sum;
  ${finish(false, "i", "col")}
}
`;
  const four = config.wide
    ? `
fn write(origin: u32, row: u32, col: u32, sum: vec4f) {
  if (row >= params.M || col >= params.N) { return; }
  let i = (origin + row * params.ldc + col) / 4;
  var v = sum;
  ${finish(true, "i", "col / 4")}
}
`
    : `${one}
fn write(origin: u32, row: u32, col: u32, sum: vec4f) {
  writeOne(origin, row, col, sum.x);
  writeOne(origin, row, col + 1, sum.y);
  writeOne(origin, row, col + 2, sum.z);
  writeOne(origin, row, col + 3, sum.w);
}
`;
  return `${activation?.forward ?? ""}\n${config.kind === "vector" ? one : four}`;
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

/**
 * The walk along K. While a step is multiplied out of workgroup memory, the next one is on its way into registers. With
 * two stages it then goes to the other half of the memory, which saves every second barrier.
 */
function kLoop(
  { BK, stages, ragged }: MatmulConfig,
  load: (k: string) => string,
  store: (stage: number) => string,
  multiply: (stage: number) => string,
): string {
  // Past the last step the prefetch reads that step once more, so that it stays inside the operand.
  const next = (k: string): string => (ragged ? `${k} + ${BK}` : `min(${k} + ${BK}, kEnd - ${BK})`);
  if (stages === 1) {
    return `${load("kBegin")}
for (var k = kBegin; k < kEnd; k += ${BK}) {
${store(0)}
workgroupBarrier();
let ahead = ${next("k")};
${load("ahead")}
${multiply(0)}
workgroupBarrier();
}`;
  }
  return `${load("kBegin")}
${store(0)}
workgroupBarrier();
for (var k = kBegin; k < kEnd; k += ${2 * BK}) {
let ahead = ${next("k")};
${load("ahead")}
${multiply(0)}
${store(1)}
workgroupBarrier();
if (k + ${BK} >= kEnd) { break; }
let ahead2 = ${next("ahead")};
${load("ahead2")}
${multiply(1)}
${store(0)}
workgroupBarrier();
}`;
}

const MAIN =
  "@builtin(local_invocation_index) li: u32, @builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u";

// tile -------------------------------------------------------------------------------------------

/**
 * A thread copies 4×4 squares: 4 vec4 loads along the contiguous axis, 4 vec4 stores along m or n. A K-major square is
 * transposed on the way, in registers.
 */
interface Copy {
  readonly name: "a" | "b";
  readonly operand: MatmulOperand;
  /** Extent of the tile along m or n. */
  readonly extent: number;
  readonly slot: number;
  /** Threads that take part; the others have no square left. */
  readonly from: number;
  readonly to: number;
  readonly registers: string;
}

function planCopies(config: MatmulConfig, threads: number): Copy[] {
  const { BM, BN, BK, a, b } = config;
  const squaresA = (BM * BK) / 16;
  const squaresB = (BN * BK) / 16;
  if (squaresA + squaresB <= threads) {
    // One half of the threads copies A while the other copies B.
    return [
      { name: "a", operand: a, extent: BM, slot: 0, from: 0, to: squaresA, registers: "r" },
      { name: "b", operand: b, extent: BN, slot: 0, from: squaresA, to: squaresA + squaresB, registers: "r" },
    ];
  }
  const copies = (name: "a" | "b", operand: MatmulOperand, extent: number, squares: number): Copy[] =>
    range(Math.ceil(squares / threads), (slot) => {
      const to = Math.min(threads, squares - slot * threads);
      return { name, operand, extent, slot, from: 0, to, registers: `${name}${slot}r` };
    });
  return [...copies("a", a, BM, squaresA), ...copies("b", b, BN, squaresB)];
}

/** Unused vec4s after each 4 rows of a tile in workgroup memory. */
const gap = ({ kMajor }: MatmulOperand, BK: number): number => (kMajor && BK < 32 ? 32 / BK : 0);

/** Size of a tile in workgroup memory, in vec4s. */
const tileSize = (operand: MatmulOperand, extent: number, BK: number): number => (BK / 4) * (extent + gap(operand, BK));

function tileSource(config: MatmulConfig): string {
  const { BM, BN, BK, PM, PN, stages, unroll } = config;
  const TX = BN / PN;
  const TY = BM / PM;
  const threads = TX * TY;
  // A warp covers 8 columns × 4 rows of threads: its reads of either tile are then free of bank conflicts.
  const LX = Math.min(8, TX);
  const LY = 32 / LX;
  const copies = planCopies(config, threads);
  const id = ({ slot, from }: Copy): string => (slot ? `(li + ${slot * threads})` : from ? `(li - ${from})` : "li");
  const guard = ({ from, to }: Copy, body: string): string =>
    from === 0 && to === threads
      ? body
      : `if (${[from > 0 ? `li >= ${from}` : "", to < threads ? `li < ${to}` : ""].filter(Boolean).join(" && ")}) {\n${body}\n}`;
  const names = [...new Set(copies.map(({ registers }) => registers))];

  /**
   * Squares of a thread: q counts them along m or n, p along k. Lanes walk along the contiguous axis first, so that they
   * read whole cache lines; the gap after 4 rows of workgroup memory keeps the 8 lanes of a transposed store apart.
   */
  const place = (copy: Copy): string => {
    const { operand, extent, name, slot } = copy;
    const v = `${name}${slot}`;
    const quads = extent / 4;
    const index = `(${id(copy)} % ${(extent * BK) / 16})`;
    const q = operand.kMajor ? `${index} / ${BK / 4}` : `${index} % ${quads}`;
    const p = operand.kMajor ? `${index} % ${BK / 4}` : `${index} / ${quads}`;
    const size = name === "a" ? "params.M" : "params.N";
    const first = name === "a" ? "m0" : "n0";
    const ld = name === "a" ? "params.lda" : "params.ldb";
    const origin = name === "a" ? "originA" : "originB";
    const { kMajor, width } = operand;
    const clamped = (j: number): string => `min(${first} + ${v}q * 4 + ${j}, ${size} - 1)`;
    const bases = kMajor
      ? lines(
          4,
          (j) =>
            `let ${v}p${j} = ${width === 4 ? `(${origin} + ${clamped(j)} * ${ld}) / 4` : `${origin} + ${clamped(j)} * ${ld}`};`,
        )
      : width === 4
        ? `let ${v}p0 = (${origin} + min(${first} + ${v}q * 4, ${size} - 4)) / 4;`
        : lines(4, (j) => `let ${v}p${j} = ${origin} + ${clamped(j)};`);
    const rows = extent + gap(operand, BK);
    return `let ${v}q = ${q};\nlet ${v}k = ${p} * 4;\nlet ${v}s = ${p} * ${rows} + ${v}q;\n${bases}`;
  };

  const load = (copy: Copy, k: string): string => {
    const { operand, name, slot, registers } = copy;
    const { kMajor, width } = operand;
    const v = `${name}${slot}`;
    const ld = name === "a" ? "params.lda" : "params.ldb";
    const at = (i: number): string =>
      config.ragged ? `min(${k} + ${v}k + ${i}, params.K - 1)` : `(${k} + ${v}k + ${i})`;
    const quad = config.ragged ? `min(${k} + ${v}k, params.K - 4)` : `(${k} + ${v}k)`;
    const valid = (i: number): string => `${k} + ${v}k + ${i} < kEnd`;
    const round = config.compute === "f16" && operand.type === "f32" ? "vec4<f16>" : "";
    const four = (j: number): string => {
      let value: string;
      if (width === 4) value = kMajor ? `${name}[${v}p${j} + ${quad} / 4]` : `${name}[${v}p0 + ${at(j)} * (${ld} / 4)]`;
      else {
        const index = (i: number): string => (kMajor ? `${v}p${j} + ${at(i)}` : `${v}p${i} + ${at(j)} * ${ld}`);
        value = `vec4(${range(4, (i) => `${name}[${index(i)}]`).join(", ")})`;
      }
      value = `vec4f(${round}(${value}))`;
      if (!config.ragged) return value;
      const mask = !kMajor ? valid(j) : width === 4 ? valid(0) : `vec4<bool>(${range(4, valid).join(", ")})`;
      return `select(vec4f(), ${value}, ${mask})`;
    };
    return guard(
      copy,
      lines(4, (j) => `${registers}${j} = ${four(j)};`),
    );
  };

  const store = (copy: Copy, stage: number): string => {
    const { name, slot, extent, operand, registers: r } = copy;
    const v = `${name}${slot}`;
    const at = (j: number): string =>
      `${name === "a" ? "tileA" : "tileB"}[${stage * tileSize(operand, extent, BK) + (j * extent) / 4} + ${v}s]`;
    const value = (j: number): string =>
      operand.kMajor ? `vec4f(${range(4, (i) => `${r}${i}${[".x", ".y", ".z", ".w"][j]}`).join(", ")})` : `${r}${j}`;
    return guard(
      copy,
      lines(4, (j) => `${at(j)} = ${value(j)};`),
    );
  };

  const multiply = (stage: number): string => {
    const row = (operand: MatmulOperand, extent: number, u: number): string => {
      const skip = gap(operand, BK);
      return `${stage * tileSize(operand, extent, BK)} + (kk + ${u}) * ${extent / 4}${skip ? ` + (kk + ${u}) / 4 * ${skip}` : ""}`;
    };
    const step = (u: number): string => `{
${lines(PM / 4, (i) => `let a${i} = tileA[${row(config.a, BM, u)} + ${i * TY} + ty];`)}
${lines(PN / 4, (j) => `let b${j} = tileB[${row(config.b, BN, u)} + ${j * TX} + tx];`)}
${lines(PM, (i) => range(PN / 4, (j) => `c${i}_${j} = fma(vec4f(a${i >> 2}.${"xyzw"[i & 3]}), b${j}, c${i}_${j});`).join(" "))}
}`;
    return `for (var kk = 0u; kk < ${BK}; kk += ${unroll}) {\n${lines(unroll, step)}\n}`;
  };

  const loadAll = (k: string): string => copies.map((copy) => load(copy, k)).join("\n");
  const storeAll = (stage: number): string => copies.map((copy) => store(copy, stage)).join("\n");
  return `${header(config)}
var<workgroup> tileA: array<vec4f, ${stages * tileSize(config.a, BM, BK)}>;
var<workgroup> tileB: array<vec4f, ${stages * tileSize(config.b, BN, BK)}>;
${epilogue(config)}
@compute @workgroup_size(${threads})
fn main(${MAIN}) {
${locate(config)}
let tx = li / 32 % ${TX / LX} * ${LX} + li % ${LX};
let ty = li / ${32 * (TX / LX)} * ${LY} + li % 32 / ${LX};
${copies.map(place).join("\n")}
${lines(PM, (i) => range(PN / 4, (j) => `var c${i}_${j}: vec4f;`).join(" "))}
${names.map((r) => range(4, (j) => `var ${r}${j}: vec4f;`).join(" ")).join("\n")}
${kLoop(config, loadAll, storeAll, multiply)}
${lines(PM, (i) => range(PN / 4, (j) => `write(originC, m0 + ${(i >> 2) * TY * 4 + (i & 3)} + ty * 4, n0 + (tx + ${j * TX}) * 4, c${i}_${j});`).join(" "))}
}
`;
}

// matrix -----------------------------------------------------------------------------------------

/**
 * Both operands lie in workgroup memory as f16 in the layout that they have in the tensor, for a subgroup matrix can be
 * loaded row- or column-major; rows are padded by 16 bytes against bank conflicts. An f32 operand is rounded to f16 on
 * the way. The elements of a subgroup matrix cannot be touched, so the epilogue passes through workgroup memory too.
 */
function matrixSource(config: MatmulConfig): string {
  const { BM, BN, BK, PM, PN, stages, a, b } = config;
  const subgroups = PM * PN;
  const threads = subgroups * 32;
  const TM = BM / PM / 16;
  const TN = BN / PN / 16;
  // Row pitches and sizes in vec4<u32>, which holds 8 halves.
  const pitchA = (a.kMajor ? BK : BM) / 8 + 1;
  const pitchB = (b.kMajor ? BK : BN) / 8 + 1;
  const sizeA = pitchA * (a.kMajor ? BM : BK);
  const sizeB = pitchB * (b.kMajor ? BN : BK);
  const share = epilogueShare(config);
  const sharePitch = 4 * share + 1;
  const copy = (
    name: "a" | "b",
  ): { place: string; declare: string; load: (k: string) => string; store: (stage: number) => string } => {
    const { type, kMajor, width } = name === "a" ? a : b;
    const extent = name === "a" ? BM : BN;
    const units = (extent * BK) / 8;
    const count = Math.ceil(units / threads);
    const perRow = (kMajor ? BK : extent) / 8;
    const pitch = name === "a" ? pitchA : pitchB;
    const ld = name === "a" ? "params.lda" : "params.ldb";
    const size = name === "a" ? "params.M" : "params.N";
    const first = name === "a" ? "m0" : "n0";
    const origin = name === "a" ? "originA" : "originB";
    const index = (s: number): string => `(li + ${s * threads})`;
    const guard = (s: number, body: string): string =>
      (s + 1) * threads <= units ? body : `if (${index(s)} < ${units}) {\n${body}\n}`;
    const along = (s: number): string => `${index(s)} % ${perRow} * 8`;
    const row = (s: number): string => `${index(s)} / ${perRow}`;
    // The part of the address that stays the same along K: the row if K-major, else the column.
    const place = lines(count, (s) => {
      const v = `${name}${s}`;
      if (kMajor)
        return `let ${v}k = ${along(s)};\nlet ${v}p = (${origin} + min(${first} + ${row(s)}, ${size} - 1) * ${ld}) / ${width};`;
      const column = (i: number): string =>
        `(${origin} + min(${first} + ${along(s)} + ${i}, ${size} - ${width})) / ${width}`;
      return `let ${v}k = ${row(s)};\n${width === 1 ? lines(8, (i) => `let ${v}p${i} = ${column(i)};`) : lines(8 / width, (i) => `let ${v}p${i} = ${column(i * width)};`)}`;
    });
    const element = width === 8 ? "vec4u" : `vec4<${type}>`;
    const parts = width === 8 ? 1 : 2;
    const declare = lines(count, (s) => range(parts, (h) => `var ${v_(name, s)}r${h}: ${element};`).join(" "));
    const load = (k: string): string =>
      lines(count, (s) => {
        const v = v_(name, s);
        const at = (i: number, n: number): string =>
          config.ragged ? `min(${k} + ${v}k + ${i}, params.K - ${n})` : `(${k} + ${v}k + ${i})`;
        const part = (h: number): string => {
          const step = 8 / parts;
          const valid = (i: number): string => `${k} + ${v}k + ${i} < kEnd`;
          let value: string;
          if (width > 1) {
            value = kMajor
              ? `${name}[${v}p + ${at(h * step, width)} / ${width}]`
              : `${name}[${v}p${h} + ${at(0, 1)} * (${ld} / ${width})]`;
          } else {
            const i = (e: number): string =>
              kMajor ? `${v}p + ${at(h * 4 + e, 1)}` : `${v}p${h * 4 + e} + ${at(0, 1)} * ${ld}`;
            value = `vec4(${range(4, (e) => `${name}[${i(e)}]`).join(", ")})`;
          }
          if (!config.ragged) return value;
          const mask = !kMajor
            ? valid(0)
            : width > 1
              ? valid(h * step)
              : `vec4<bool>(${range(4, (e) => valid(h * 4 + e)).join(", ")})`;
          return `select(${element}(), ${value}, ${mask})`;
        };
        return guard(
          s,
          lines(parts, (h) => `${v}r${h} = ${part(h)};`),
        );
      });
    const store = (stage: number): string =>
      lines(count, (s) => {
        const v = v_(name, s);
        const half = (h: number): string => `bitcast<vec2u>(${type === "f16" ? "" : "vec4<f16>"}(${v}r${h}))`;
        const value = width === 8 ? `${v}r0` : `vec4u(${half(0)}, ${half(1)})`;
        return guard(
          s,
          `memory[${stage * (sizeA + sizeB) + (name === "a" ? 0 : sizeA)} + ${row(s)} * ${pitch} + ${index(s)} % ${perRow}] = ${value};`,
        );
      });
    return { place, declare, load, store };
  };
  const copyA = copy("a");
  const copyB = copy("b");
  const left = (i: number, kk: number, base: number): string =>
    a.kMajor
      ? `subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, row_major>(&memory, ${base} + (sm * ${TM * 16} + ${i * 16}) * ${pitchA} + ${kk * 2}, ${pitchA})`
      : `subgroupMatrixLoad<subgroup_matrix_left<f16, 16, 16>, col_major>(&memory, ${base + kk * 16 * pitchA} + sm * ${TM * 2} + ${i * 2}, ${pitchA})`;
  const right = (j: number, kk: number, base: number): string =>
    b.kMajor
      ? `subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, col_major>(&memory, ${base + sizeA} + (sn * ${TN * 16} + ${j * 16}) * ${pitchB} + ${kk * 2}, ${pitchB})`
      : `subgroupMatrixLoad<subgroup_matrix_right<f16, 16, 16>, row_major>(&memory, ${base + sizeA + kk * 16 * pitchB} + sn * ${TN * 2} + ${j * 2}, ${pitchB})`;
  const multiply = (stage: number): string =>
    lines(
      BK / 16,
      (kk) => `{
${lines(TM, (i) => `let a${i} = ${left(i, kk, stage * (sizeA + sizeB))};`)}
${lines(TN, (j) => `{ let right = ${right(j, kk, stage * (sizeA + sizeB))}; ${range(TM, (i) => `c${i}_${j} = subgroupMatrixMultiplyAccumulate(a${i}, right, c${i}_${j});`).join(" ")} }`)}
}`,
    );
  // Each subgroup puts down `share` matrices side by side; then every 32 threads write out 16 rows of one such group.
  const memory = Math.max(stages * (sizeA + sizeB), subgroups * 16 * sharePitch);
  const writeOut = lines(TM, (i) =>
    lines(
      TN / share,
      (
        g,
      ) => `${lines(share, (j) => `subgroupMatrixStore<row_major>(&memory, sq * ${16 * sharePitch} + ${j * 4}, c${i}_${g * share + j}, ${sharePitch});`)}
workgroupBarrier();
${lines(2 * share, (t) => {
  const e = `(li % 32 + ${t * 32})`;
  return `write(originC, m0 + row * ${TM * 16} + ${i * 16} + ${e} / ${4 * share}, n0 + column * ${TN * 16} + ${g * share * 16} + ${e} % ${4 * share} * 4, bitcast<vec4f>(memory[li / 32 * ${16 * sharePitch} + ${e} / ${4 * share} * ${sharePitch} + ${e} % ${4 * share}]));`;
})}
workgroupBarrier();`,
    ),
  );
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
${copyA.declare}
${copyB.declare}
${kLoop(
  config,
  (k) => `${copyA.load(k)}\n${copyB.load(k)}`,
  (stage) => `${copyA.store(stage)}\n${copyB.store(stage)}`,
  multiply,
)}
${writeOut}
}
`;
}

const v_ = (name: string, slot: number): string => `${name}${slot}`;

/** Most matrices that each subgroup can put down at once in the memory that the operand tiles need anyway. */
function epilogueShare({ BM, BN, BK, PM, PN, a, b }: MatmulConfig): number {
  const TN = BN / PN / 16;
  const available =
    ((a.kMajor ? BK : BM) / 8 + 1) * (a.kMajor ? BM : BK) + ((b.kMajor ? BK : BN) / 8 + 1) * (b.kMajor ? BN : BK);
  for (const share of [8, 4, 2]) if (TN % share === 0 && PM * PN * 16 * (4 * share + 1) <= available) return share;
  return 1;
}

// vector -----------------------------------------------------------------------------------------

/** The operand along the long side of C, which is read once, and the one along the short side, which every thread re-reads. */
function sides(config: MatmulConfig): {
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

/** K-major: BK / width threads share PN rows of the long operand and walk along K side by side. */
function dotSource(config: MatmulConfig): string {
  const { BK, PM: S, PN: R } = config;
  const { long, short, width, shortAt } = sides(config);
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
  ${config.long === "n" ? "writeOne(originC, m0 + s, n0 + li % " + teams * R + ", sum);" : "writeOne(originC, m0 + li % " + teams * R + ", n0 + s, sum);"}
}
}
`;
}

/** K across rows: PN threads side by side own `width` columns each, and teams of them take every BK-th row. */
function columnSource(config: MatmulConfig): string {
  const { PM: S, PN: lanes } = config;
  const { long, width, shortAt } = sides(config);
  const teams = VECTOR_THREADS / lanes;
  const first = long === "a" ? "m0" : "n0";
  const size = long === "a" ? "params.M" : "params.N";
  const origin = long === "a" ? "originA" : "originB";
  const ld = long === "a" ? "params.lda" : "params.ldb";
  const F = width === 4 ? "vec4f" : "f32";
  const loads = 4;
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
for (var k = kBegin + team; k < kEnd; k += ${loads * teams}) {
${lines(loads, (u) => `let k${u} = min(k + ${u * teams}, params.K - 1);\nlet y${u} = ${F}(${long}[(w + k${u} * ${ld}) / ${width}]);`)}
${lines(loads, (u) => lines(S, (s) => `c${s} += select(${F}(), ${shortAt(s, `k${u}`)} * y${u}, k + ${u * teams} < kEnd);`))}
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
  const body = `
struct Params { M: u32, N: u32, ldc: u32, strideC: u32, batch: u32, splits: u32 }

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
  ${wide ? "write" : "writeOne"}(row / params.M * params.strideC, row % params.M, i % columns * ${width}, sum);
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
}

export interface MatmulDevice {
  /** f16 × f16 → f32, 16×16×16, in subgroups of 32. */
  readonly subgroupMatrix: boolean;
  readonly f16: boolean;
  readonly subgroups: boolean;
  /** maxComputeWorkgroupStorageSize. */
  readonly workgroupStorage: number;
  /** maxComputeInvocationsPerWorkgroup. */
  readonly maxInvocations: number;
}

/** Uniforms of the kernel. */
export interface MatmulParams extends Record<string, number> {}

type Tile = Pick<MatmulConfig, "kind" | "BM" | "BN" | "BK" | "PM" | "PN" | "stages" | "unroll">;

const simt = (BM: number, BN: number, BK: number, PM: number, PN: number, stages: 1 | 2 = 1, unroll = BK): Tile => ({
  kind: "tile",
  BM,
  BN,
  BK,
  PM,
  PN,
  stages,
  unroll,
});
const units = (BM: number, BN: number, BK: number, PM: number, PN: number): Tile => ({
  kind: "matrix",
  BM,
  BN,
  BK,
  PM,
  PN,
  stages: 1,
  unroll: 1,
});

/** Workgroups that fill a large GPU. */
const ENOUGH = 256;

export function chooseMatmul(shape: MatmulShape, device: MatmulDevice): MatmulConfig {
  const { M, N, K, batch, transposeA, transposeB } = shape;
  const compute = device.f16 ? shape.compute : "f32";
  const kMajorA = !transposeA;
  const kMajorB = transposeB;
  const pitchA = kMajorA ? K : M;
  const pitchB = kMajorB ? K : N;
  const short = Math.min(M, N);
  const useMatrix = compute === "f16" && device.subgroupMatrix && short > 8;
  const width = (pitch: number, type: FloatType): 1 | 4 | 8 =>
    useMatrix && type === "f16" && pitch % 8 === 0 ? 8 : pitch % 4 === 0 ? 4 : 1;
  const a: MatmulOperand = { type: shape.a, kMajor: kMajorA, width: width(pitchA, shape.a) };
  const b: MatmulOperand = { type: shape.b, kMajor: kMajorB, width: width(pitchB, shape.b) };
  const count = (t: Tile): number => Math.ceil(M / t.BM) * Math.ceil(N / t.BN) * batch;
  let tile: Tile;
  const long = M < N ? "n" : "m";
  if (short <= 8) {
    const S = short <= 1 ? 1 : short <= 2 ? 2 : short <= 4 ? 4 : 8;
    const W = long === "n" ? b : a;
    if (W.kMajor) {
      const R = S === 1 ? 4 : S === 2 ? 2 : 1;
      const long_ = (256 / 32) * R;
      tile = {
        kind: "vector",
        BM: long === "n" ? S : long_,
        BN: long === "n" ? long_ : S,
        BK: 32 * W.width,
        PM: S,
        PN: R,
        stages: 1,
        unroll: 1,
      };
    } else {
      const lanes = W.width === 4 ? 8 : 32;
      const long_ = lanes * W.width;
      tile = {
        kind: "vector",
        BM: long === "n" ? S : long_,
        BN: long === "n" ? long_ : S,
        BK: (256 / lanes) * 4,
        PM: S,
        PN: lanes,
        stages: 1,
        unroll: 1,
      };
    }
  } else if (useMatrix) {
    const all = [units(128, 128, 32, 2, 2), units(64, 64, 32, 2, 2)].filter(
      (t) => matrixStorage(t, a, b) <= device.workgroupStorage,
    );
    tile = all.find((t) => count(t) >= ENOUGH) ?? all[all.length - 1] ?? units(64, 64, 16, 2, 2);
  } else {
    const all = [simt(128, 128, 16, 8, 8), simt(64, 64, 16, 4, 4), simt(32, 32, 16, 4, 4)];
    tile = all.find((t) => count(t) >= ENOUGH) ?? all[all.length - 1]!;
  }
  const splitK = Math.max(1, Math.min(Math.floor(ENOUGH / count(tile)), Math.floor(K / Math.max(256, tile.BK)), 64));
  return {
    ...tile,
    long,
    band: 8,
    ragged: K % tile.BK !== 0,
    batched: batch > 1,
    splitK,
    compute,
    a,
    b,
    c: shape.c,
    wide: N % 4 === 0 && tile.kind !== "vector",
    bias: shape.bias ?? null,
    z: shape.z ?? null,
    activation: shape.activation ?? null,
    accumulate: shape.accumulate ?? false,
  };
}

function matrixStorage(t: Tile, a: MatmulOperand, b: MatmulOperand): number {
  return (
    16 *
    (((a.kMajor ? t.BK : t.BM) / 8 + 1) * (a.kMajor ? t.BM : t.BK) +
      ((b.kMajor ? t.BK : t.BN) / 8 + 1) * (b.kMajor ? t.BN : t.BK))
  );
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
    ldc: N,
    strideA: shape.broadcastA ? 0 : M * K,
    strideB: shape.broadcastB ? 0 : K * N,
    strideC: M * N,
    chunk: Math.ceil(K / config.splitK / config.BK) * config.BK,
  };
}
