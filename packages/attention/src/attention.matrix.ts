/**
 * WGSL of attention for GPUs with subgroup matrices (f16 × f16 → f32, 16×16×16, subgroups of 32). The passes, their
 * parameters and bindings are those of attention.kernels.ts.
 *
 * A subgroup owns 16 rows of scores, and its workgroup takes 16 columns at a time through workgroup memory. The elements
 * of a subgroup matrix cannot be touched, so scores pass through workgroup memory, where a lane owns 8 neighbours of a row.
 * On an H200 32 columns at a time, or a second set of tiles to save barriers, are slower in every pass.
 *
 * f32 operands are split into two halves, x = high + low, and a product of two is three: high·high + high·low + low·high.
 * What is lost is below 2⁻²² of a factor. A power of two for each tensor, from its largest value, puts the halves into the
 * upper part of f16's range; `peaksKernel` finds those values.
 */
import { type Kernel, kernel } from "@kindling/core";
import { findPair, header, type Mask, type Pass, paddedDim, withMask } from "./attention.kernels.ts";

const lines = (n: number, f: (i: number) => string): string => Array.from({ length: n }, (_, i) => f(i)).join("\n");

/** Workgroups, and so partial maxima, of `peaksKernel` for a tensor. */
export const PEAKS = 256;

/** Largest magnitudes of up to three tensors, as partial maxima in the rows of `peaks` from `row` on. */
export const peaksKernel: Kernel = /* @__PURE__ */ kernel(
  "attention.peaks",
  /* wgsl */ `
struct Params { a: u32, b: u32, row: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4f>;
@group(0) @binding(2) var<storage, read> b: array<vec4f>;
@group(0) @binding(3) var<storage, read> c: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> peaks: array<f32>;

var<workgroup> partials: array<f32, 256>;

fn at(tensor: u32, i: u32) -> vec4f {
  if (tensor == 0) { return abs(a[min(i, params.a - 1)]); }
  if (tensor == 1) { return abs(b[min(i, params.b - 1)]); }
  return abs(c[min(i, params.b - 1)]);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let step = groups.x * 256;
  let size = select(params.b, params.a, wg.y == 0);
  var x = vec4f();
  for (var i = wg.x * 256 + lane; i < size; i += 4 * step) {
    x = max(x, max(max(at(wg.y, i), at(wg.y, i + step)), max(at(wg.y, i + 2 * step), at(wg.y, i + 3 * step))));
  }
  partials[lane] = max(max(x.x, x.y), max(x.z, x.w));
  for (var half = 128u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { partials[lane] = max(partials[lane], partials[lane + half]); }
  }
  if (lane == 0) { peaks[(params.row + wg.y) * groups.x + wg.x] = partials[0]; }
}`,
);

type MatrixPass = Exclude<Pass, "gradMask">;

interface Layout {
  /** Parts of a number: 1, or 2 where it is split. */
  readonly H: number;
  /** Row pitches in vec4<u32>, odd so that neighbouring rows start in different banks. */
  readonly pitch: number;
  readonly scorePitch: number;
  /** Size of an operand's tile, and of the scores of all subgroups. */
  readonly tile: number;
  readonly scores: number;
  readonly size: number;
}

function layout(pass: MatrixPass, split: boolean, dim: number, subgroups: number): Layout {
  const H = split ? 2 : 1;
  const pitch = paddedDim(dim) / 8 + 1;
  const scorePitch = split ? 7 : 5;
  const tile = H * 16 * pitch;
  const scores = subgroups * 16 * scorePitch;
  return { H, pitch, scorePitch, tile, scores, size: 2 * tile + (pass === "forward" ? 1 : 2) * scores };
}

export const matrixBytes = (pass: MatrixPass, split: boolean, dim: number, subgroups: number): number =>
  16 * layout(pass, split, dim, subgroups).size + 144;

/** `split`: operands and results are f32, else f16. */
export function matrixKernel(
  pass: MatrixPass,
  split: boolean,
  dim: number,
  subgroups: number,
  mask: Mask,
  dropout: boolean,
): Kernel {
  const { H, pitch, scorePitch, tile, scores, size } = layout(pass, split, dim, subgroups);
  const D = paddedDim(dim);
  const R = subgroups * 16;
  const WG = subgroups * 32;
  const K = D / 16;
  const X = split ? "vec4f" : "vec4<f16>";
  const S = 2 * tile;
  const T = S + scores;
  const units = (rows: number): number => (rows * D) / 8;
  const steps = (rows: number): number => Math.ceil(units(rows) / WG);

  /** Runs `body(u)` for the thread's share of the 8-element units of a tile of `rows` rows; `u` is the unit's number. */
  const each = (rows: number, body: (u: string, s: number) => string): string =>
    lines(steps(rows), (s) => {
      const u = `(li + ${s * WG})`;
      return (s + 1) * WG > units(rows) ? `if (${u} < ${units(rows)}) { ${body(u, s)} }` : `{ ${body(u, s)} }`;
    });
  const fetch = (
    regs: string,
    name: string,
    rows: number,
    start: string,
    row: string,
    first: string,
    limit: string,
  ): string =>
    each(rows, (u, s) => {
      const value = (e: number): string => `${regs}${s}_${e} = ${name}4(i, c + ${e}, inside);`;
      return `let c = ${u} % ${D / 8} * 2; let r = ${first} + ${u} / ${D / 8}; let inside = r < ${limit}; let i = ${start} + r * ${row}; ${value(0)} ${value(1)}`;
    });
  const place = (to: number | string, regs: string, rows: number, factor: string): string =>
    each(rows, (u, s) => {
      const at = `${to} + ${u} / ${D / 8} * ${pitch} + ${u} % ${D / 8}`;
      return split
        ? `put(${at}, ${rows * pitch}, ${regs}${s}_0 * ${factor}, ${regs}${s}_1 * ${factor});`
        : `memory[${at}] = vec4u(words(${regs}${s}_0), words(${regs}${s}_1));`;
    });
  const registers = (regs: string, rows: number): string =>
    lines(steps(rows), (s) => `var ${regs}${s}_0: ${X}; var ${regs}${s}_1: ${X};`);

  const load = (side: "Left" | "Right", major: "row" | "col", at: string, stride: number): string =>
    `subgroupMatrixLoad<${side}, ${major}_major>(&memory, ${at}, ${stride})`;
  const part = (name: string, h: number, c: number): string => `${name}${"hl"[h]}${c}`;
  const multiply = (sum: string, a: (h: number) => string, b: (h: number) => string): string =>
    (split
      ? [
          [1, 0],
          [0, 1],
          [0, 0],
        ]
      : [[0, 0]]
    )
      .map(([i, j]) => `${sum} = subgroupMatrixMultiplyAccumulate(${a(i!)}, ${b(j!)}, ${sum});`)
      .join(" ");
  /** `a · bᵀ` for the rows of the subgroup and the 16 rows of a tile, into workgroup memory. */
  const product = (a: string, b: number, to: number): string => `{
var s = Sum();
${lines(
  K,
  (c) =>
    `{ ${lines(H, (h) => `let b${h} = ${load("Right", "col", `${b + (h * tile) / H + 2 * c}`, pitch)};`)} ${multiply(
      "s",
      (h) => part(a, h, c),
      (h) => `b${h}`,
    )} }`,
)}
subgroupMatrixStore<row_major>(&memory, ${to} + sg * ${16 * scorePitch}, s, ${scorePitch});
}`;
  /** Adds the weights that the lanes have put at `weights` times a tile. */
  const accumulate = (out: string, weights: number, b: number): string => `{
${lines(H, (h) => `let w${h} = ${load("Left", "row", `${weights + 1 + 3 * h} + sg * ${16 * scorePitch}`, scorePitch)};`)}
${lines(
  K,
  (c) =>
    `{ ${lines(H, (h) => `let b${h} = ${load("Right", "row", `${b + (h * tile) / H + 2 * c}`, pitch)};`)} ${multiply(
      part(out, 0, c),
      (h) => `w${h}`,
      (h) => `b${h}`,
    )} }`,
)}
}`;
  /** Hands the lanes the subgroup's sums, 16 columns at a time, as x0 and x1: neighbours from column c of the row on. */
  const drain = (out: string, body: (c: number) => string): string =>
    lines(
      K,
      (
        c,
      ) => `subgroupMatrixStore<row_major>(&memory, ${S} + sg * ${16 * scorePitch}, ${part(out, 0, c)}, ${scorePitch});
workgroupBarrier();
{ let x0 = bitcast<vec4f>(memory[cell]); let x1 = bitcast<vec4f>(memory[cell + 1]); let c = half * 2 + ${4 * c}; ${body(c)} }
workgroupBarrier();`,
    );
  /** The lane's x0 and x1 as f16, over the middle of its row's scores: each lane writes where it alone has read. */
  const weights = (at: string, x: string): string =>
    split ? `put(${at} + 1 - half, 3, ${x}0, ${x}1);` : `memory[${at} + 1 - half] = pack(${x}0, ${x}1);`;
  /** `body` for both vec4s of the lane's scores, which start at column `col`. */
  const both = (body: (i: number, col: string) => string): string =>
    lines(2, (i) => body(i, `(col0 + half * 8 + ${4 * i})`));
  const score = (i: number, at = 0): string => `bitcast<vec4f>(memory[cell + ${at + i}])`;
  /** `f` of the four elements of vec4 `x`. */
  const four = (x: string, f: (x: string, e: number) => string): string =>
    `vec4f(${["x", "y", "z", "w"].map((lane, e) => f(`${x}.${lane}`, e)).join(", ")})`;
  const maskedKeys = (s: string, col: string): string =>
    mask === "none" ? s : four(s, (x, n) => withMask(mask, x, "row", `${col} + ${n}`));
  const keptKeys = (col: string): string => `(draw(rows0 + row, ${col}) >= vec4u(params.threshold))`;
  /** Rows of the workgroup as left factors, through as much of workgroup memory as they need at a time. */
  const own = (name: string, tensor: string, start: string, row: string, limit: string, factor: string): string => {
    const rows = Math.min(R, Math.floor(size / (H * pitch * 16)) * 16);
    return `${lines(K, (c) => lines(H, (h) => `var ${part(name, h, c)}: Left;`))}
{
${registers("o", rows)}
${lines(
  Math.ceil(R / rows),
  (p) => `${fetch("o", tensor, rows, start, row, `row0 + ${p * rows}`, limit)}
workgroupBarrier();
${place(0, "o", rows, factor)}
workgroupBarrier();
if (sg / ${rows / 16} == ${p}) {
${lines(K, (c) => lines(H, (h) => `${part(name, h, c)} = ${load("Left", "row", `${h * rows * pitch + 2 * c} + sg % ${rows / 16} * ${16 * pitch}`, pitch)};`))}
}`,
)}
}`;
  };
  const sums = (out: string): string => lines(K, (c) => `var ${part(out, 0, c)}: Sum;`);
  /** The walk along the columns: while a tile is multiplied, the next one is on its way into registers. */
  const walk = (ahead: (col: string) => string, arrive: string, body: string): string => `
${registers("a", 16)}
${registers("b", 16)}
${ahead("start")}
for (var col0 = start; col0 < end; col0 += 16) {
workgroupBarrier();
${arrive}
workgroupBarrier();
let next = col0 + 16;
${ahead("next")}
${body}
}
workgroupBarrier();`;
  const keys = (col: string): string => `${fetch("a", "k", 16, "k0", "params.kRow", col, "params.keys")}
${fetch("b", "v", 16, "v0", "params.vRow", col, "params.keys")}`;
  const keysArrive = `${place(0, "a", 16, "kFactor")}\n${place(tile, "b", 16, "vFactor")}`;
  // Only tiles at an end of what the rows see have columns to hide.
  const hideKeys = (value: string): string => `
if (col0 < firstKey(row0 + ${R - 1}) || col0 + 16 > keysEnd(row0)) {
  let first = vec4u(firstKey(row));
  let last = vec4u(keysEnd(row));
  ${both((i, col) => `{ let col = vec4u${col} + vec4u(0, 1, 2, 3); x${i} = select(vec4f(${value}), x${i}, (col >= first) & (col < last)); }`)}
}`;
  const result = (x: string): string => (split ? x : `vec4<f16>(${x})`);
  /** Weights of ds: small enough for f16 whatever dy and v hold. */
  const slopeScale = split ? 2 ** -(16 + Math.ceil(Math.log2(D))) : 1;
  const factors = split
    ? lines(4, (t) =>
        t < 3 || pass !== "forward"
          ? `let ${"qkvg"[t]}Factor = factor(${t === 3 ? "3" : `${t} * params.peakStep`}, lane);`
          : "",
      )
    : "const qFactor = 1.0; const kFactor = 1.0; const vFactor = 1.0; const gFactor = 1.0;";
  const retained = dropout ? " / params.retain" : "";
  const queryRows = `
let row0 = (groups.z - 1 - wg.z) * ${R}; // with a causal mask the last rows are the longest: they start first
let row = row0 + sg * 16 + lane % 16;
let q0 = qStart(batch, head);
let y0 = yStart(batch, head);
let rows0 = rowStart(batch, head);
let k0 = kStart(params.kOffset, batch, head / params.group);
let v0 = vStart(params.vOffset, batch, head / params.group);
let mask0 = maskStart(batch, head);
let start = firstKey(row0) / 16 * 16;
let end = keysEnd(row0 + ${R - 1});
${own("q", "q", "q0", "params.qRow", "params.queries", "qFactor")}`;

  const body: Record<MatrixPass, string> = {
    // Rescaling the sums is a trip through workgroup memory, so the running maximum m follows the row's only when that
    // has grown by 2⁸; the sums so far then go to `past`, which the lanes can scale.
    forward: `${queryRows}
${sums("o")}
var past = array<vec4f, ${D / 8}>();
var m = LEAST;
var l = 0.0;
${walk(
  keys,
  keysArrive,
  `${product("q", 0, S)}
workgroupBarrier();
${both((i) => `var x${i} = ${score(i)} * scale;`)}
${mask === "none" ? "" : both((i, col) => `x${i} = ${maskedKeys(`x${i}`, col)};`)}
${hideKeys("NEVER")}
let most = max(x0, x1);
var peak = max(max(most.x, most.y), max(most.z, most.w));
peak = max(peak, subgroupShuffleXor(peak, 16));
let grown = peak > m + 8;
let shrink = select(1, exp2(m - peak), grown);
m = select(m, peak, grown);
if (subgroupAny(grown) && col0 > start) { grow = col0; }
${both((i) => `x${i} = exp2(x${i} - m);`)}
l = l * shrink + dot(x0 + x1, vec4f(1));
${dropout ? both((i, col) => `x${i} = select(vec4f(), x${i}, ${keptKeys(col)});`) : ""}
${split ? both((i) => `x${i} *= 128;`) : ""}
${weights("cell", "x")}
if (workgroupUniformLoad(&grow) == col0 && col0 > start) {
${drain("o", (c) => `past[${2 * c}] = (past[${2 * c}] + x0) * shrink; past[${2 * c + 1}] = (past[${2 * c + 1}] + x1) * shrink;`)}
${lines(K, (c) => `${part("o", 0, c)} = Sum();`)}
${weights("cell", "x")}
workgroupBarrier();
}
${accumulate("o", S, tile)}`,
)}
l += subgroupShuffleXor(l, 16);
let back = select(1 / l, 0, l == 0)${retained}${split ? " / 128 / vFactor" : ""};
let i = y0 + row * params.yRow;
${drain("o", (c) => `if (row < params.queries && c < params.dim) { y[i + c] = ${result(`(x0 + past[${2 * c}]) * back`)}; if (c + 1 < params.dim) { y[i + c + 1] = ${result(`(x1 + past[${2 * c + 1}]) * back`)}; } }`)}
if (half == 0 && row < params.queries) { finishRow(rows0 + row, m, l); }`,
    gradQuery: `${queryRows}
${own("g", "dy", "y0", "params.yRow", "params.queries", "gFactor")}
${sums("o")}
var l = 0.0;
var d = 0.0;
if (row < params.queries) {
  l = rows[rows0 + row];
  for (var c = half; c < params.dim; c += 2) { d += dot(vec4f(y[y0 + row * params.yRow + c]), vec4f(dy[y0 + row * params.yRow + c])); }
}
d += subgroupShuffleXor(d, 16);
if (half == 0 && row < params.queries) { rows[params.rowCount + rows0 + row] = d; }
d *= vFactor * gFactor${dropout ? " * params.retain" : ""};
${walk(
  keys,
  keysArrive,
  `${product("q", 0, S)}
${product("g", tile, T)}
workgroupBarrier();
${both((i, col) => {
  const slope = dropout ? `select(vec4f(), ${score(i, scores)}, ${keptKeys(col)})` : score(i, scores);
  return `var x${i} = ${score(i)} * scale;
x${i} = exp2(${maskedKeys(`x${i}`, col)} - l) * (${slope} - d)${split ? ` * ${slopeScale}` : ""};`;
})}
${hideKeys("0")}
${weights("cell", "x")}
workgroupBarrier();
${accumulate("o", S, 0)}`,
)}
let back = params.scale${retained}${split ? ` / (${slopeScale} * gFactor) / (vFactor * kFactor)` : ""};
let i = q0 + row * params.qRow;
${drain("o", () => `if (row < params.queries && c < params.dim) { dq[i + c] = ${result("x0 * back")}; if (c + 1 < params.dim) { dq[i + c + 1] = ${result("x1 * back")}; } }`)}`,
    gradKeyValue: `
let row0 = wg.z * ${R};
let row = row0 + sg * 16 + lane % 16;
let k0 = kStart(params.kOffset, batch, head);
let v0 = vStart(params.vOffset, batch, head);
let start = firstQuery(row0) / 16 * 16;
let end = select(0, queriesEnd(min(row0 + ${R}, params.keys) - 1), row0 < params.keys);
${own("k", "k", "k0", "params.kRow", "params.keys", "kFactor")}
${own("v", "v", "v0", "params.vRow", "params.keys", "vFactor")}
${sums("dk")}
${sums("dv")}
for (var h = head * params.group; h < (head + 1) * params.group; h++) {
let q0 = qStart(batch, h);
let y0 = yStart(batch, h);
let rows0 = rowStart(batch, h);
let mask0 = maskStart(batch, h);
${walk(
  (col) => `${fetch("a", "q", 16, "q0", "params.qRow", col, "params.queries")}
${fetch("b", "dy", 16, "y0", "params.yRow", col, "params.queries")}`,
  `${place(0, "a", 16, "qFactor")}
${place(tile, "b", 16, "gFactor")}
if (li < 16) {
  let i = rows0 + min(col0 + li, params.queries - 1);
  stats[li] = rows[i];
  stats[li + 16] = rows[params.rowCount + i]${dropout ? " * params.retain" : ""}${split ? " * vFactor * gFactor" : ""};
}`,
  `${product("k", 0, S)}
${product("v", tile, T)}
workgroupBarrier();
let edge = col0 < firstQuery(row0 + ${R - 1}) || col0 + 16 > queriesEnd(row0) || row0 + ${R} > params.keys;
${both((i) => {
  const stats = (at: number): string => `vec4f(${[0, 1, 2, 3].map((n) => `stats[e + ${at + n}]`).join(", ")})`;
  return `var x${i}: vec4f;
var z${i}: vec4f;
{
  let e = half * 8 + ${4 * i};
  var s = ${score(i)} * scale;
  ${mask === "none" ? "" : `s = ${four("s", (x, n) => withMask(mask, x, `col0 + e + ${n}`, "row"))};`}
  var p = exp2(s - ${stats(0)});
  if (edge) {
    let col = vec4u(col0 + e) + vec4u(0, 1, 2, 3);
    p = select(vec4f(), p, (col >= vec4u(firstQuery(row))) & (col < vec4u(select(0, queriesEnd(row), row < params.keys))));
  }
  var slope = ${score(i, scores)};
  var weight = p;
  ${
    dropout
      ? `let keep = vec4<bool>(${[0, 1, 2, 3].map((n) => `kept(rows0 + col0 + e + ${n}, row)`).join(", ")});
  slope = select(vec4f(), slope, keep);
  weight = select(vec4f(), weight, keep);`
      : ""
  }
  x${i} = weight${split ? " * 16384" : ""};
  z${i} = p * (slope - ${stats(16)})${split ? ` * ${slopeScale}` : ""};
}`;
})}
${weights("cell", "x")}
${weights(`cell + ${scores}`, "z")}
workgroupBarrier();
${accumulate("dv", S, tile)}
${accumulate("dk", T, 0)}`,
)}
}
let backK = params.scale${retained}${split ? ` / (${slopeScale} * gFactor) / (vFactor * qFactor)` : ""};
let backV = ${split ? "1 / (16384 * gFactor)" : "1.0"}${retained};
${[
  ["dk", "K", "kStart", "kRow"],
  ["dv", "V", "vStart", "vRow"],
]
  .map(([out, b, begin, step]) =>
    drain(
      out!,
      () =>
        `if (row < params.keyRows && c < params.dim) { let at = ${begin}(params.${out}Offset, batch, head) + row * params.${step} + c; dkv[at] = ${result(`x0 * back${b}`)}; if (c + 1 < params.dim) { dkv[at + 1] = ${result(`x1 * back${b}`)}; } }`,
    ),
  )
  .join("\n")}`,
  };
  const read = (name: string): string =>
    `fn ${name}4(i: u32, c: u32, inside: bool) -> ${X} { if (inside && c < params.dim) { return ${name}[i + c]; } return ${X}(); }`;
  const tensors = pass === "forward" ? ["q", "k", "v"] : ["q", "k", "v", "dy"];
  const source: string = /* wgsl */ `enable f16;
enable subgroups;
enable subgroup_size_control;
enable chromium_experimental_subgroup_matrix;
requires subgroup_id, subgroup_uniformity;
diagnostic(off, chromium.subgroup_matrix_uniformity);
diagnostic(off, subgroup_uniformity);
alias Left = subgroup_matrix_left<f16, 16, 16>;
alias Right = subgroup_matrix_right<f16, 16, 16>;
alias Sum = subgroup_matrix_result<f32, 16, 16>;
${header({ pass, element: X, mask, dropout, peaks: split })}
var<workgroup> memory: array<vec4<u32>, ${size}>;
${pass === "forward" ? "var<workgroup> grow: u32;" : ""}
${pass === "gradKeyValue" ? `var<workgroup> stats: array<f32, 32>;` : ""}
${tensors.map(read).join("\n")}

fn pack(a: vec4f, b: vec4f) -> vec4u {
  return vec4u(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
}
${
  split
    ? `// The power of two that brings a tensor's largest value to 2^14 … 2^15.
fn factor(row: u32, lane: u32) -> f32 {
  var x = 0.0;
  for (var i = lane; i < ${PEAKS}; i += 32) { x = max(x, peaks[row * ${PEAKS} + i]); }
  let exponent = clamp(bitcast<u32>(subgroupMax(x)) >> 23, 27, 254);
  return bitcast<f32>((268 - exponent) << 23);
}
// x to 11 bits: exact in f16. A conversion to f16 and back is no use here, compilers take it for the identity.
fn high(x: vec4f) -> vec4f { return bitcast<vec4f>((bitcast<vec4u>(x) + 0x1000) & vec4u(0xffffe000)); }
fn put(at: u32, low: u32, a: vec4f, b: vec4f) {
  let ha = high(a);
  let hb = high(b);
  memory[at] = pack(ha, hb);
  memory[at + low] = pack(a - ha, b - hb);
}`
    : `fn words(x: vec4<f16>) -> vec2u { return bitcast<vec2u>(x); }`
}

@compute @workgroup_size(${WG}) @subgroup_size(32)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) invocation: u32) {
// The remainders tell the compiler the ranges, and so save it a clamp at each access.
let sg = subgroup % ${subgroups};
let lane = invocation % 32;
let li = sg * 32 + lane;
let half = lane / 16;
let cell = ${S} + (sg * 16 + lane % 16) * ${scorePitch} + half * 2; // the lane's 8 scores, in vec4s
${findPair(pass)}
${dropout ? "startDropout(pair + wg.z + li);" : ""}
${factors}
let scale = params.scale * LOG2E${split ? " / qFactor / kFactor" : ""};
${body[pass]}
}`;
  return kernel(`attention.matrix.${pass}.${split ? "f32" : "f16"}.${dim}`, source);
}
