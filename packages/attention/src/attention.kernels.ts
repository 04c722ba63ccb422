/**
 * WGSL of attention for any GPU: what all kernels share, the tile kernels, the direct kernels for software GPUs, and two that
 * few calls need: the gradient of a mask, and the sum of a forward pass that was split over the keys. The kernels for
 * subgroup matrices are in attention.matrix.ts.
 *
 * A pass is one kernel, and a workgroup of it owns some rows of the score matrix and walks along the columns:
 *
 *   forward       rows are queries   y = Σ m·p·v, and lse, the logarithm to base 2 of each row's sum of exponentials
 *   gradQuery     rows are queries   dq = scale · Σ ds·k, and delta = Σ dy·y, one for each query
 *   gradKeyValue  rows are keys      dv = Σ m·p·dy and dk = scale · Σ ds·q, over the queries of all heads that share the key
 *   gradMask      blocks of scores   dmask = Σ ds, over the batches and heads that share the mask
 *
 *   p = exp2(s − lse)    s = log2 e · (scale · q·k + mask)    ds = p · (m · dy·v − delta)    m of dropout: 0 or 1 / retain
 *
 * Tensors are addressed by an offset and three strides, so q, k and v may be parts of one tensor, and so may their
 * gradients. Offsets, strides and both dims count elements of the binding's type: vec4s, or scalars where rows are not whole
 * vec4s. Whom a query sees by causality, a window and the keys in use are numbers in `params`; a mask and dropout add text.
 */
import { type FloatType, type Kernel, kernel, pcg4d } from "@kindling/core";

export type Pass = "forward" | "gradQuery" | "gradKeyValue" | "gradMask";
export type Mask = "none" | "bool" | FloatType;

const operands: Record<Pass, { read: readonly string[]; write: readonly string[] }> = {
  forward: { read: ["q", "k", "v"], write: ["y", "rows"] },
  gradQuery: { read: ["q", "k", "v", "y", "dy"], write: ["dq", "rows"] },
  gradKeyValue: { read: ["q", "k", "v", "dy", "rows"], write: ["dkv"] },
  gradMask: { read: ["q", "k", "v", "dy", "rows"], write: ["dmask"] },
};

export const isFloat = (mask: Mask): boolean => mask === "f32" || mask === "f16";

// An entry of −∞ is NEVER. Others are kept so small that their sum with a score is a number, and since that may be as large
// as any, their logarithm of a sum is kept in two parts, the maximum apart, which backward subtracts first.
const maskText = (pass: Pass, mask: Mask): string => `
fn masked(s: f32, start: u32, r0: u32, i: u32, j: u32) -> f32 {
  let row = min(i, params.queries - 1);
  let x = mask[start + row * params.maskRow + min(j, params.keys - 1) * params.maskCol];
  ${
    mask === "bool"
      ? "return select(NEVER, s, x != 0);"
      : `let a = f32(x);
  let sum = s + clamp(a, -2.2e38, 2.2e38) * LOG2E${pass === "forward" ? "" : " - rows[2 * params.rowCount + 4 + r0 + row]"};
  return select(sum, NEVER, bitcast<u32>(a) == 0xff800000u);`
  }
}`;

const finishText = (mask: Mask): string => `
fn finishRow(r: u32, m: f32, l: f32) {
  ${
    isFloat(mask)
      ? `rows[r] = select(log2(l), 0, l == 0);
  rows[2 * params.rowCount + 4 + r] = select(m, 0, l == 0);`
      : "rows[r] = select(m + log2(l), 0, l == 0);"
  }
}`;

/**
 * Four neighbouring keys of a row share a counter: key / 4, the row, and a hash of seed and stream. Forward leaves the hash
 * behind the rows' statistics, as four numbers of 16 bits: backward needs no generator, and cannot meet another state of it.
 */
const dropoutText = (pass: Pass): string => `
${pcg4d}
var<private> hash: vec2u;
fn draw(row: u32, j: u32) -> vec4u { return pcg4d(vec4u(j / 4, row, hash)); }
fn kept(row: u32, j: u32) -> bool { return draw(row, j)[j % 4] >= params.threshold; }
${
  pass === "forward"
    ? `fn startDropout(thread: u32) {
  hash = pcg4d(vec4u(rng[0], rng[1], rng[2] + params.stream, 0)).xy;
  if (thread == 0) { for (var e = 0u; e < 4; e++) { rows[2 * params.rowCount + e] = f32((hash[e / 2] >> (e % 2 * 16)) & 0xffff); } }
}`
    : `fn part(e: u32) -> u32 { return u32(rows[2 * params.rowCount + e]); }
fn startDropout(thread: u32) { hash = vec2u(part(0) | (part(1) << 16), part(2) | (part(3) << 16)); }`
}`;

export interface Interface {
  readonly pass: Pass;
  readonly element: string;
  /** Of y, where it is another. */
  readonly result?: string;
  readonly mask: Mask;
  readonly dropout: boolean;
  /** Whether `peaks` is bound, for f32 by subgroup matrices. */
  readonly peaks?: boolean;
}

/**
 * Parameters, bindings in the order of `operands`, where a head of each tensor starts, and who sees whom. `rows` holds lse
 * of all rows, then delta, then the hash of dropout in 4 numbers, then what of lse a float mask keeps apart.
 */
export function header({ pass, element, result = element, mask, dropout, peaks = false }: Interface): string {
  const { read, write } = operands[pass];
  const types: Record<string, string> = { y: result, rows: "f32", dmask: "f32", peaks: "f32", rng: "u32" };
  types.mask = mask === "bool" ? "u32" : mask;
  const names = [...read, ...write];
  if (mask !== "none") names.push("mask");
  if (dropout && pass === "forward") names.push("rng");
  if (peaks) names.push("peaks");
  const binding = (name: string, i: number): string =>
    `@group(0) @binding(${i + 1}) var<storage, ${write.includes(name) ? "read_write" : "read"}> ${name}: array<${types[name] ?? element}>;`;
  return `
struct Params {
  queries: u32, keys: u32, keyRows: u32, dim: u32, valueDim: u32, heads: u32, group: u32, pairs: u32, rowCount: u32,
  scale: f32, low: i32, high: i32, kOffset: u32, vOffset: u32, dkOffset: u32, dvOffset: u32, qBatch: u32, qHead: u32, qRow: u32,
  kBatch: u32, kHead: u32, kRow: u32, vBatch: u32, vHead: u32, vRow: u32, yBatch: u32, yHead: u32, yRow: u32,
  maskBatch: u32, maskHead: u32, maskRow: u32, maskCol: u32, maskHeads: u32, maskCols: u32, slots: u32, sharing: u32,
  stream: u32, threshold: u32, retain: f32, chunk: u32, peakStep: u32
}

@group(0) @binding(0) var<uniform> params: Params;
${names.map(binding).join("\n")}

const LOG2E = 1.4426950408889634;
const NEVER = -3.4e38; // the score of a pair that does not count
const LEAST = -3.3e38; // the running maximum before any that does

fn qStart(batch: u32, head: u32) -> u32 { return batch * params.qBatch + head * params.qHead; }
fn yStart(batch: u32, head: u32) -> u32 { return batch * params.yBatch + head * params.yHead; }
fn kStart(offset: u32, batch: u32, head: u32) -> u32 { return offset + batch * params.kBatch + head * params.kHead; }
fn vStart(offset: u32, batch: u32, head: u32) -> u32 { return offset + batch * params.vBatch + head * params.vHead; }
fn rowStart(batch: u32, head: u32) -> u32 { return (batch * params.heads + head) * params.queries; }
fn maskStart(batch: u32, head: u32) -> u32 { return batch * params.maskBatch + head * params.maskHead; }

// Query i sees the keys firstKey(i) … keysEnd(i) − 1; the queries firstQuery(j) … queriesEnd(j) − 1 see key j.
fn firstKey(i: u32) -> u32 { return u32(max(i32(i) + params.low, 0)); }
fn keysEnd(i: u32) -> u32 { return u32(clamp(i32(i) + params.high, 0, i32(params.keys))); }
fn firstQuery(j: u32) -> u32 { return u32(max(i32(j) - params.high + 1, 0)); }
fn queriesEnd(j: u32) -> u32 { return u32(clamp(i32(j) - params.low + 1, 0, i32(params.queries))); }
${mask === "none" ? "" : maskText(pass, mask)}
${pass === "forward" ? finishText(mask) : ""}
${dropout ? dropoutText(pass) : ""}
`;
}

/** Head and batch of a workgroup: of k and v where rows are keys, else of q. */
export const findPair = (pass: Pass): string => `
  let pair = wg.x + wg.y * groups.x;
  if (pair >= params.pairs) { return; }
  let heads = ${pass === "gradKeyValue" ? "params.heads / params.group" : "params.heads"};
  let head = pair % heads;
  let batch = pair / heads;`;

/** The score of query i and key j to base 2, with the mask where there is one. */
export const withMask = (mask: Mask, score: string, i: string, j: string): string =>
  mask === "none" ? score : `masked(${score}, mask0, rows0, ${i}, ${j})`;

const elementOf = (T: FloatType, wide: boolean): string => (wide ? `vec4<${T}>` : T);

/** What the direct kernels compute with: F is a vec4, or a scalar where rows are not whole vec4s. */
const lanes = (wide: boolean): string => `
alias F = ${wide ? "vec4f" : "f32"};
fn total(x: F) -> f32 { return ${wide ? "dot(x, vec4f(1))" : "x"}; }`;

// direct -----------------------------------------------------------------------------------------

/**
 * For software GPUs, where workgroup memory is ordinary memory and a barrier is expensive, and for heads too wide for the
 * workgroup memory of a small GPU: a thread owns a row, and the rows of a workgroup read the same column at the same time.
 * Loops run to `params.dim`, unknown to the compiler, which would otherwise unroll them and take seconds over it. `most` is
 * the largest dim that there is room for.
 */
export function directKernel(
  pass: Exclude<Pass, "gradMask">,
  T: FloatType,
  wide: boolean,
  most: number,
  mask: Mask,
  dropout: boolean,
): Kernel {
  const element = elementOf(T, wide);
  const rows = pass === "gradKeyValue" ? "params.keyRows" : "params.queries";
  const drop = (x: string, row: string, j: string): string => (dropout ? `select(0, ${x}, kept(${row}, ${j}))` : x);
  const retained = dropout ? " / params.retain" : "";
  const queryRow = `
  let mask0 = maskStart(batch, head);
  let k0 = kStart(params.kOffset, batch, head / params.group);
  let v0 = vStart(params.vOffset, batch, head / params.group);
  let q0 = qStart(batch, head) + row * params.qRow;
  let y0 = yStart(batch, head) + row * params.yRow;
  let rows0 = rowStart(batch, head);
  let r0 = rows0 + row;
  let end = keysEnd(row);
  for (var c = 0u; c < params.dim; c++) { own[c] = F(q[q0 + c]) * scale; }`;
  const body: Record<typeof pass, string> = {
    forward: `${queryRow}
  var m = LEAST;
  var l = 0.0;
  for (var j = firstKey(row); j < end; j++) {
    let k1 = k0 + j * params.kRow;
    let v1 = v0 + j * params.vRow;
    var product = F();
    for (var c = 0u; c < params.dim; c++) { product += own[c] * F(k[k1 + c]); }
    let s = ${withMask(mask, "total(product)", "row", "j")};
    let next = max(m, s);
    let shrink = exp2(m - next);
    let p = exp2(s - next);
    m = next;
    l = l * shrink + p;
    let weight = ${drop("p", "r0", "j")};
    for (var c = 0u; c < params.valueDim; c++) { sum[c] = sum[c] * shrink + weight * F(v[v1 + c]); }
  }
  let back = select(1 / l, 0, l == 0)${retained};
  for (var c = 0u; c < params.valueDim; c++) { y[y0 + c] = ${element}(sum[c] * back); }
  finishRow(r0, m, l);`,
    gradQuery: `${queryRow}
  var products = F();
  for (var c = 0u; c < params.valueDim; c++) {
    other[c] = F(dy[y0 + c]);
    products += other[c] * F(y[y0 + c]);
  }
  let d = total(products);
  rows[params.rowCount + r0] = d;
  for (var j = firstKey(row); j < end; j++) {
    let k1 = k0 + j * params.kRow;
    let v1 = v0 + j * params.vRow;
    var product = F();
    var slope = F();
    for (var c = 0u; c < params.dim; c++) { product += own[c] * F(k[k1 + c]); }
    for (var c = 0u; c < params.valueDim; c++) { slope += other[c] * F(v[v1 + c]); }
    let p = exp2(${withMask(mask, "total(product)", "row", "j")} - rows[r0]);
    let ds = p * (${drop("total(slope)", "r0", "j")}${retained} - d);
    for (var c = 0u; c < params.dim; c++) { sum[c] += ds * F(k[k1 + c]); }
  }
  for (var c = 0u; c < params.dim; c++) { dq[q0 + c] = ${element}(sum[c] * params.scale); }`,
    gradKeyValue: `
  let k1 = kStart(0, batch, head) + row * params.kRow;
  let v1 = vStart(0, batch, head) + row * params.vRow;
  var dv = array<F, N>();
  let end = select(0, queriesEnd(row), row < params.keys);
  if (end > 0) {
    for (var c = 0u; c < params.dim; c++) { own[c] = F(k[params.kOffset + k1 + c]) * scale; }
    for (var c = 0u; c < params.valueDim; c++) { other[c] = F(v[params.vOffset + v1 + c]); }
  }
  for (var h = head * params.group; h < (head + 1) * params.group; h++) {
    let mask0 = maskStart(batch, h);
    let rows0 = rowStart(batch, h);
    for (var i = firstQuery(row); i < end; i++) {
      let r0 = rows0 + i;
      let q0 = qStart(batch, h) + i * params.qRow;
      let y0 = yStart(batch, h) + i * params.yRow;
      var product = F();
      var slope = F();
      for (var c = 0u; c < params.dim; c++) { product += own[c] * F(q[q0 + c]); }
      for (var c = 0u; c < params.valueDim; c++) { slope += other[c] * F(dy[y0 + c]); }
      let p = exp2(${withMask(mask, "total(product)", "i", "row")} - rows[r0]);
      let weight = ${drop("p", "r0", "row")};
      let ds = ${dropout ? "weight * total(slope) / params.retain - p * rows[params.rowCount + r0]" : "p * (total(slope) - rows[params.rowCount + r0])"};
      for (var c = 0u; c < params.dim; c++) { sum[c] += ds * F(q[q0 + c]); }
      for (var c = 0u; c < params.valueDim; c++) { dv[c] += weight * F(dy[y0 + c]); }
    }
  }
  for (var c = 0u; c < params.dim; c++) { dkv[params.dkOffset + k1 + c] = ${element}(sum[c] * params.scale); }
  for (var c = 0u; c < params.valueDim; c++) { dkv[params.dvOffset + v1 + c] = ${element}(dv[c]${retained}); }`,
  };
  // a string, since the type of all its variants would take the type checker minutes
  const source: string = /* wgsl */ `${header({ pass, element, mask, dropout })}
const N = ${most / (wide ? 4 : 1)}u;
${lanes(wide)}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) li: u32) {
  ${findPair(pass)}
  let row = wg.z * 64 + li;
  if (row >= ${rows}) { return; }
  ${dropout ? "startDropout(pair + row);" : ""}
  let scale = params.scale * LOG2E;
  var own: array<F, N>;
  ${pass === "forward" ? "" : "var other: array<F, N>;"}
  var sum = array<F, N>();
${body[pass]}
}`;
  return kernel(`attention.direct.${pass}.${T}`, source);
}

// tile -------------------------------------------------------------------------------------------

/** BR rows and BC columns of scores in a workgroup of TY × TX threads; a thread has rows ty + i·TY and columns tx + j·TX. */
export interface Tile {
  readonly BR: number;
  readonly BC: number;
  readonly TX: number;
  readonly TY: number;
}

/** Head dim that the kernels compute with: what is missing counts as zero. */
export const paddedDim = (dim: number): number => (dim <= 16 ? 16 : Math.ceil(dim / 32) * 32);

interface Memory {
  readonly names: readonly string[];
  /** In vec4s. */
  readonly sizes: readonly number[];
}

/**
 * Workgroup memory: tiles of the operands, and of p or ds, which takes the place of an operand that is used up. Rows of a
 * tile are one vec4 longer than their content, so that neighbouring rows start in different banks.
 */
function memory(pass: Pass, { BR, BC, TX, TY }: Tile, dim: number, valueDim: number): Memory {
  const row = paddedDim(dim) / 4 + 1;
  const valueRow = paddedDim(valueDim) / 4 + 1;
  const weights = BR * (BC / 4 + 1);
  const reduce = TX * TY * Math.ceil(BR / TY / 4);
  if (pass === "forward")
    return { names: ["qs", "ks", "vs"], sizes: [BR * row, Math.max(BC * row, weights, reduce), BC * valueRow] };
  if (pass === "gradQuery")
    return {
      names: ["qs", "dys", "ks", "vs"],
      sizes: [BR * row, BR * valueRow, BC * row, Math.max(BC * valueRow, weights, reduce)],
    };
  return {
    names: ["ks", "vs", "qs", "dys", "ps"],
    sizes: [BR * row, BR * valueRow, BC * row, BC * valueRow, weights],
  };
}

export const tileBytes = (pass: Pass, tile: Tile, dim: number, valueDim: number): number =>
  16 * memory(pass, tile, dim, valueDim).sizes.reduce((a, b) => a + b);

/** `NAME4(i, c)`: the c-th 4 elements of the row that starts at i, zero past its end; `set_NAME4` stores them. */
function access(pass: Pass, R: FloatType, wide: boolean): string {
  const { read, write } = operands[pass];
  const width = (name: string): string => (/[qk]$/.test(name) ? "params.dim" : "params.valueDim");
  const lanes = (f: (e: number) => string): string => [0, 1, 2, 3].map(f).join(" ");
  const load = (name: string): string =>
    wide
      ? `fn ${name}4(i: u32, c: u32) -> vec4f { if (c < ${width(name)}) { return vec4f(${name}[i + c]); } return vec4f(); }`
      : `fn ${name}4(i: u32, c: u32) -> vec4f { var x = vec4f(); ${lanes((e) => `if (c * 4 + ${e} < ${width(name)}) { x[${e}] = f32(${name}[i + c * 4 + ${e}]); }`)} return x; }`;
  const store = (name: string): string => {
    const to = pass === "gradKeyValue" ? "dkv" : name;
    return wide
      ? `fn set_${name}4(i: u32, c: u32, x: vec4f) { if (c < ${width(name)}) { ${to}[i + c] = vec4<${R}>(x); } }`
      : `fn set_${name}4(i: u32, c: u32, x: vec4f) { ${lanes((e) => `if (c * 4 + ${e} < ${width(name)}) { ${to}[i + c * 4 + ${e}] = ${R}(x[${e}]); }`)} }`;
  };
  const loaded = read.filter((name) => name !== "rows");
  return [...loaded.map(load), ...(pass === "gradKeyValue" ? ["dk", "dv"] : [write[0]!]).map(store)].join("\n");
}

/** `a · bᵀ` for the thread's rows of tile `a` and columns of tile `b`; W is "" for rows of q's dim, "V" for those of v's. */
const scores = (out: string, a: string, b: string, W: "" | "V"): string => `
    var ${out} = array<array<f32, CN>, RM>();
    for (var c = 0u; c < ${W}D4; c++) {
      var column: array<vec4f, CN>;
      for (var j = 0u; j < CN; j++) { column[j] = ${b}[(tx + j * TX) * ${W}PITCH + c]; }
      for (var i = 0u; i < RM; i++) {
        let row = ${a}[(ty + i * TY) * ${W}PITCH + c];
        for (var j = 0u; j < CN; j++) {
          ${out}[i][j] = fma(row.w, column[j].w, fma(row.z, column[j].z, fma(row.y, column[j].y, fma(row.x, column[j].x, ${out}[i][j]))));
        }
      }
    }`;

/** The thread's part of `x` into a tile; a vec4 holds four of the thread's columns, which are TX apart. */
const share = (tile: string, x = "s"): string => `
    for (var i = 0u; i < RM; i++) {
      for (var g = 0u; g < CN / 4; g++) {
        ${tile}[(ty + i * TY) * PAIRS + g * TX + tx] = vec4f(${[0, 1, 2, 3].map((e) => `${x}[i][4 * g + ${e}]`).join(", ")});
      }
    }
    workgroupBarrier();`;

/** Adds the shared weights times the rows of `b` to the thread's vec4s tx + h·TX of each of its rows. */
const accumulate = (out: string, weights: string, b: string, W: "" | "V"): string => `
    for (var t = 0u; t < TX; t++) {
      for (var g = 0u; g < CN / 4; g++) {
        var v: array<array<vec4f, ${W}ON>, 4>;
        for (var e = 0u; e < 4; e++) {
          for (var h = 0u; h < ${W}ON; h++) { v[e][h] = ${b}[(t + TX * (4 * g + e)) * ${W}PITCH + tx + h * TX]; }
        }
        for (var i = 0u; i < RM; i++) {
          let w = ${weights}[(ty + i * TY) * PAIRS + g * TX + t];
          for (var h = 0u; h < ${W}ON; h++) {
            ${out}[i][h] = fma(vec4f(w.w), v[3][h], fma(vec4f(w.z), v[2][h], fma(vec4f(w.y), v[1][h], fma(vec4f(w.x), v[0][h], ${out}[i][h]))));
          }
        }
      }
    }
    workgroupBarrier();`;

/** Combines x[i] of the TX threads of a row; a vec4 holds four rows, or all where there are fewer. */
const across = (tile: string, RM: number, combine: (a: string, b: string) => string): string => `
    workgroupBarrier();
    for (var g = 0u; g < (RM + 3) / 4; g++) {
      ${tile}[g * WG + li] = vec4f(x[4 * g], x[4 * g + ${1 % RM}], x[4 * g + ${2 % RM}], x[4 * g + ${3 % RM}]);
    }
    workgroupBarrier();
    for (var g = 0u; g < (RM + 3) / 4; g++) {
      var four = ${tile}[g * WG + ty * TX];
      for (var t = 1u; t < TX; t++) { four = ${combine("four", `${tile}[g * WG + ty * TX + t]`)}; }
      ${["x", "y", "z", "w"]
        .slice(0, RM)
        .map((lane, e) => `x[4 * g + ${e}] = four.${lane};`)
        .join(" ")}
    }
    workgroupBarrier();`;

const larger = (a: string, b: string): string => `max(${a}, ${b})`;
const plus = (a: string, b: string): string => `${a} + ${b}`;

/** What the kernel does to each of the thread's scores: row ty + i·TY of its rows, column tx + j·TX. */
const each = (statement: string): string =>
  `for (var i = 0u; i < RM; i++) { for (var j = 0u; j < CN; j++) { ${statement} } }`;

export interface TileOptions {
  readonly mask: Mask;
  readonly dropout: boolean;
  /** Forward of one block of rows, its keys split among the workgroups: y and lse are f32 parts that `mergeKernel` adds up. */
  readonly split: boolean;
}

export function tileKernel(
  pass: Exclude<Pass, "gradMask">,
  T: FloatType,
  dim: number,
  valueDim: number,
  tile: Tile,
  { mask, dropout, split }: TileOptions,
): Kernel {
  const wide = dim % 4 === 0 && valueDim % 4 === 0;
  const [D, V] = [paddedDim(dim), paddedDim(valueDim)];
  const { names, sizes } = memory(pass, tile, dim, valueDim);
  const { BR, BC, TX, TY } = tile;
  const R = split ? "f32" : T;

  /** Rows first … first + n of a tensor into a tile; zeros past row `limit`. */
  const stage = (name: "q" | "k" | "v" | "dy", n: number, start: string, first: string): string => {
    const W = name === "q" || name === "k" ? "" : "V";
    const vectors = (n * (W ? V : D)) / 4;
    const [row, limit] = { q: ["q", "queries"], k: ["k", "keys"], v: ["v", "keys"], dy: ["y", "queries"] }[name];
    const store = `${name}s[r * ${W}PITCH + e % ${W}D4] = x;`;
    return `
    for (var n = 0u; n < ${Math.ceil(vectors / (TX * TY))}; n++) {
      let e = li + n * WG;
      let r = e / ${W}D4;
      var x = vec4f();
      if (${first} + r < params.${limit}) { x = ${name}4(${start} + (${first} + r) * params.${row}Row, e % ${W}D4); }
      ${vectors % (TX * TY) ? `if (e < ${vectors}) { ${store} }` : store}
    }`;
  };
  const stageKeys = `${stage("k", BC, "k0", "col0")}
    ${stage("v", BC, "v0", "col0")}
    workgroupBarrier();`;
  // Only tiles at an end of what the rows see have columns to hide.
  const hideKeys = (value: string): string => `
    if (col0 < firstKey(row0 + BR - 1) || col0 + BC > keysEnd(row0)) {
      for (var i = 0u; i < RM; i++) {
        let first = firstKey(row0 + ty + i * TY);
        let last = keysEnd(row0 + ty + i * TY);
        for (var j = 0u; j < CN; j++) {
          let col = col0 + tx + j * TX;
          s[i][j] = select(${value}, s[i][j], (col >= first) & (col < last));
        }
      }
    }`;
  const query = "row0 + ty + i * TY";
  const key = "col0 + tx + j * TX";
  const keysSeen = split
    ? `let start = firstKey(0) + wg.z * params.chunk;
  let end = min(keysEnd(BR - 1), start + params.chunk);`
    : `let start = firstKey(row0);
  let end = keysEnd(row0 + BR - 1);`;
  const finish = split
    ? `rows[wg.z * params.rowCount + rows0 + row] = m[i]; rows[(groups.z + wg.z) * params.rowCount + rows0 + row] = x[i];`
    : "finishRow(rows0 + row, m[i], x[i]);";
  const queryRows = `
  let row0 = ${split ? "0u" : "(groups.z - 1 - wg.z) * BR"}; // with a causal mask the last rows are the longest: they start first
  let q0 = qStart(batch, head);
  let y0 = yStart(batch, head)${split ? " + wg.z * params.rowCount * params.valueDim" : ""};
  let rows0 = rowStart(batch, head);
  let k0 = kStart(params.kOffset, batch, head / params.group);
  let v0 = vStart(params.vOffset, batch, head / params.group);
  let mask0 = maskStart(batch, head);
  ${keysSeen}
  var x = array<f32, RM>();
  ${stage("q", BR, "q0", "row0")}`;

  const body: Record<typeof pass, string> = {
    forward: `${queryRows}
  var sum = array<array<vec4f, VON>, RM>();
  var m = array<f32, RM>();
  var l = array<f32, RM>();
  for (var i = 0u; i < RM; i++) { m[i] = LEAST; }
  for (var col0 = start; col0 < end; col0 += BC) {
    ${stageKeys}
    ${scores("s", "qs", "ks", "")}
    ${each(`s[i][j] = ${withMask(mask, "s[i][j] * scale", query, key)};`)}
    ${hideKeys("NEVER")}
    for (var i = 0u; i < RM; i++) {
      x[i] = s[i][0];
      for (var j = 1u; j < CN; j++) { x[i] = max(x[i], s[i][j]); }
    }
    ${across("ks", BR / TY, larger)}
    for (var i = 0u; i < RM; i++) {
      let next = max(m[i], x[i]);
      let shrink = exp2(m[i] - next);
      m[i] = next;
      l[i] *= shrink;
      for (var j = 0u; j < CN; j++) { s[i][j] = exp2(s[i][j] - next); l[i] += s[i][j]; }
      for (var h = 0u; h < VON; h++) { sum[i][h] *= shrink; }
    }
    ${dropout ? each(`s[i][j] = select(0, s[i][j], kept(rows0 + ${query}, ${key}));`) : ""}
    ${share("ks")}
    ${accumulate("sum", "ks", "vs", "V")}
  }
  x = l;
  ${across("ks", BR / TY, plus)}
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (row < params.queries) {
      let back = select(1 / x[i], 0, x[i] == 0)${dropout ? " / params.retain" : ""};
      for (var h = 0u; h < VON; h++) { set_y4(y0 + row * params.yRow, tx + h * TX, sum[i][h] * back); }
      if (tx == 0) { ${finish} }
    }
  }`,
    gradQuery: `${queryRows}
  ${stage("dy", BR, "y0", "row0")}
  workgroupBarrier();
  var sum = array<array<vec4f, ON>, RM>();
  var l = array<f32, RM>();
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (row < params.queries) {
      l[i] = rows[rows0 + row];
      for (var h = 0u; h < VON; h++) {
        x[i] += dot(y4(y0 + row * params.yRow, tx + h * TX), dys[(ty + i * TY) * VPITCH + tx + h * TX]);
      }
    }
  }
  ${across("vs", BR / TY, plus)}
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (tx == 0 && row < params.queries) { rows[params.rowCount + rows0 + row] = x[i]; }
    ${dropout ? "x[i] *= params.retain;" : ""}
  }
  for (var col0 = start; col0 < end; col0 += BC) {
    ${stageKeys}
    ${scores("s", "qs", "ks", "")}
    ${each(`s[i][j] = exp2(${withMask(mask, "s[i][j] * scale", query, key)} - l[i]);`)}
    ${hideKeys("0")}
    ${scores("dp", "dys", "vs", "V")}
    ${each(`s[i][j] *= ${dropout ? `select(0, dp[i][j], kept(rows0 + ${query}, ${key}))` : "dp[i][j]"} - x[i];`)}
    workgroupBarrier();
    ${share("vs")}
    ${accumulate("sum", "vs", "ks", "")}
  }
  let back = params.scale${dropout ? " / params.retain" : ""};
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (row < params.queries) {
      for (var h = 0u; h < ON; h++) { set_dq4(q0 + row * params.qRow, tx + h * TX, sum[i][h] * back); }
    }
  }`,
    gradKeyValue: `
  let row0 = wg.z * BR;
  let k0 = kStart(params.kOffset, batch, head);
  let v0 = vStart(params.vOffset, batch, head);
  let start = firstQuery(row0);
  let end = select(0, queriesEnd(min(row0 + BR, params.keys) - 1), row0 < params.keys);
  var dk = array<array<vec4f, ON>, RM>();
  var dv = array<array<vec4f, VON>, RM>();
  ${stage("k", BR, "k0", "row0")}
  ${stage("v", BR, "v0", "row0")}
  for (var h = head * params.group; h < (head + 1) * params.group; h++) {
    let q0 = qStart(batch, h);
    let y0 = yStart(batch, h);
    let rows0 = rowStart(batch, h);
    let mask0 = maskStart(batch, h);
    for (var col0 = start; col0 < end; col0 += BC) {
    ${stage("q", BC, "q0", "col0")}
    ${stage("dy", BC, "y0", "col0")}
    workgroupBarrier();
    ${scores("s", "ks", "qs", "")}
    ${dropout ? "var keeps = array<array<f32, CN>, RM>();\n    var dropped = array<array<f32, CN>, RM>();" : ""}
    for (var j = 0u; j < CN; j++) {
      let query = col0 + tx + j * TX;
      let l = rows[rows0 + min(query, params.queries - 1)];
      let first = firstKey(query);
      let last = select(keysEnd(query), 0, query >= params.queries);
      for (var i = 0u; i < RM; i++) {
        let key = row0 + ty + i * TY;
        s[i][j] = select(0, exp2(${withMask(mask, "s[i][j] * scale", "query", "key")} - l), (key >= first) & (key < last));
        ${dropout ? "keeps[i][j] = select(0.0, 1.0, kept(rows0 + query, key));\n        dropped[i][j] = s[i][j] * keeps[i][j];" : ""}
      }
    }
    ${share("ps", dropout ? "dropped" : "s")}
    ${scores("dp", "vs", "dys", "V")}
    for (var j = 0u; j < CN; j++) {
      let d = rows[params.rowCount + rows0 + min(col0 + tx + j * TX, params.queries - 1)]${dropout ? " * params.retain" : ""};
      for (var i = 0u; i < RM; i++) { s[i][j] *= dp[i][j]${dropout ? " * keeps[i][j]" : ""} - d; }
    }
    ${accumulate("dv", "ps", "dys", "V")}
    ${share("ps")}
    ${accumulate("dk", "ps", "qs", "")}
    }
  }
  ${dropout ? "let retained = 1 / params.retain;" : "const retained = 1.0;"}
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (row < params.keyRows) {
      let k1 = kStart(params.dkOffset, batch, head) + row * params.kRow;
      let v1 = vStart(params.dvOffset, batch, head) + row * params.vRow;
      for (var h = 0u; h < ON; h++) { set_dk4(k1, tx + h * TX, dk[i][h] * params.scale * retained); }
      for (var h = 0u; h < VON; h++) { set_dv4(v1, tx + h * TX, dv[i][h] * retained); }
    }
  }`,
  };
  const source: string = /* wgsl */ `${header({ pass, element: elementOf(T, wide), result: elementOf(R, wide), mask, dropout })}
const BR = ${BR}u;
const BC = ${BC}u;
const TX = ${TX}u;
const TY = ${TY}u;
const WG = ${TX * TY}u;
const RM = ${BR / TY}u;
const CN = ${BC / TX}u;
const D4 = ${D / 4}u;
const VD4 = ${V / 4}u;
const ON = ${D / 4 / TX}u;
const VON = ${V / 4 / TX}u;
const PITCH = ${D / 4 + 1}u; // of a row of an operand
const VPITCH = ${V / 4 + 1}u;
const PAIRS = ${BC / 4 + 1}u; // of a row of p or ds
${names.map((name, i) => `var<workgroup> ${name}: array<vec4f, ${sizes[i]}>;`).join("\n")}
${access(pass, R, wide)}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) li: u32) {
  ${findPair(pass)}
  ${dropout ? "startDropout(pair + wg.z + li);" : ""}
  let tx = li % TX;
  let ty = li / TX;
  let scale = params.scale * LOG2E;
${body[pass]}
}`;
  return kernel(`attention.tile.${pass}.${T}.${dim}.${BR}x${BC}`, source);
}

// rare -------------------------------------------------------------------------------------------

/**
 * ds summed over the batches and heads that share an entry of the mask. A thread owns 4 × 4 scores, 8 apart, and reads
 * operands through the cache: no barrier, the same text for every GPU. Of the `sharing` pairs of an entry a workgroup adds up
 * `chunk`; dmask is [chunks, slots, queries, maskCols], a slot for each of the mask's own batches and heads.
 */
export function maskGradKernel(T: FloatType, wide: boolean, mask: Mask, dropout: boolean): Kernel {
  const element = elementOf(T, wide);
  const four = (f: (e: number) => string, between = "\n"): string => [0, 1, 2, 3].map(f).join(between);
  const products = (out: string, a: "q" | "dy", b: "k" | "v", dim: string): string => `
    for (var c = 0u; c < params.${dim}; c++) {
      ${four((e) => `let b${e} = F(${b}[${b}0 + keys[${e}] * params.${b}Row + c]);`)}
      for (var n = 0u; n < 4; n++) {
        let a = F(${a}[${a}0 + queries[n] * params.${a === "q" ? "q" : "y"}Row + c]);
        ${out}[n] += ${wide ? `vec4f(${four((e) => `dot(a, b${e})`, ", ")})` : `a * vec4f(${four((e) => `b${e}`, ", ")})`};
      }
    }`;
  const source: string = /* wgsl */ `${header({ pass: "gradMask", element, mask, dropout })}
${lanes(wide)}

@compute @workgroup_size(8, 8)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let blocks = vec2u((params.maskCols + 31) / 32, (params.queries + 31) / 32);
  let n = wg.x + wg.y * groups.x;
  let slot = n / (blocks.x * blocks.y);
  let begin = slot / params.slots * params.chunk;
  if (begin >= params.sharing) { return; }
  let j0 = n % blocks.x * 32 + lane.x;
  let i0 = n / blocks.x % blocks.y * 32 + lane.y;
  let queries = min(vec4u(i0) + vec4u(0, 8, 16, 24), vec4u(params.queries - 1));
  let keys = min(vec4u(j0) + vec4u(0, 8, 16, 24), vec4u(params.keys - 1));
  ${dropout ? "startDropout(n);" : ""}
  let scale = params.scale * LOG2E;
  let sharingHeads = params.heads / params.maskHeads;
  var sum = array<vec4f, 4>();
  for (var pair = begin; pair < min(begin + params.chunk, params.sharing); pair++) {
    let batch = slot % params.slots / params.maskHeads + pair / sharingHeads;
    let head = slot % params.maskHeads + pair % sharingHeads;
    let mask0 = maskStart(batch, head);
    let q0 = qStart(batch, head);
    let dy0 = yStart(batch, head);
    let k0 = kStart(params.kOffset, batch, head / params.group);
    let v0 = vStart(params.vOffset, batch, head / params.group);
    let rows0 = rowStart(batch, head);
    var s = array<vec4f, 4>();
    var dp = array<vec4f, 4>();
    ${products("s", "q", "k", "dim")}
    ${products("dp", "dy", "v", "valueDim")}
    for (var n = 0u; n < 4; n++) {
      let i = queries[n];
      s[n] *= scale;
      let p = exp2(vec4f(${four((e) => withMask(mask, `s[n][${e}]`, "i", `keys[${e}]`), ", ")}) - rows[rows0 + i]);
      let slope = ${dropout ? `select(vec4f(), dp[n] / params.retain, vec4<bool>(${four((e) => `kept(rows0 + i, keys[${e}])`, ", ")}))` : "dp[n]"};
      let seen = (keys >= vec4u(firstKey(i))) & (keys < vec4u(keysEnd(i)));
      sum[n] += select(vec4f(), p * (slope - rows[params.rowCount + rows0 + i]), seen);
    }
  }
  for (var a = 0u; a < 4; a++) {
    for (var b = 0u; b < 4; b++) {
      let i = i0 + 8 * a;
      let j = j0 + 8 * b;
      if (i < params.queries && j < params.maskCols) {
        dmask[(slot * params.queries + i) * params.maskCols + j] = select(0, sum[a][b], j < params.keys);
      }
    }
  }
}`;
  return kernel(`attention.gradMask.${T}`, source);
}

/** Σ over the middle axis of x [size / inner, count, inner], in order: what is left of the mask's gradient to add up. */
export const sumKernel: Kernel = /* @__PURE__ */ kernel(
  "attention.sum",
  /* wgsl */ `
struct Params { size: u32, count: u32, inner: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  let first = i / params.inner * params.count * params.inner + i % params.inner;
  var sum = 0.0;
  for (var n = 0u; n < params.count; n++) { sum += x[first + n * params.inner]; }
  y[i] = sum;
}`,
);

/** Joins the parts of a split forward pass: y, maximum and sum of exponentials of each row from each part. A thread an element. */
export function mergeKernel(T: FloatType): Kernel {
  return kernel(
    `attention.merge.${T}`,
    /* wgsl */ `
struct Params { parts: u32, rowCount: u32, queries: u32, heads: u32, valueDim: u32, yBatch: u32, yHead: u32, yRow: u32, apart: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read> sums: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<${T}>;
@group(0) @binding(4) var<storage, read_write> rows: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.rowCount * params.valueDim) { return; }
  let row = i / params.valueDim;
  var m = sums[row];
  for (var n = 1u; n < params.parts; n++) { m = max(m, sums[n * params.rowCount + row]); }
  var sum = 0.0;
  var l = 0.0;
  for (var n = 0u; n < params.parts; n++) {
    let at = n * params.rowCount + row;
    let weight = exp2(sums[at] - m) * sums[params.parts * params.rowCount + at];
    sum += weight * x[at * params.valueDim + i % params.valueDim];
    l += weight;
  }
  let pair = row / params.queries;
  let start = pair / params.heads * params.yBatch + pair % params.heads * params.yHead + row % params.queries * params.yRow;
  y[start + i % params.valueDim] = ${T}(select(sum / l, 0, l == 0));
  if (i % params.valueDim != 0) { return; }
  rows[row] = select(log2(l) + select(m, 0, params.apart != 0), 0, l == 0);
  if (params.apart != 0) { rows[2 * params.rowCount + 4 + row] = select(m, 0, l == 0); }
}`,
  );
}
