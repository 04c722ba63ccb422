/**
 * WGSL of attention for any GPU: what all kernels share, the tile kernels, and the direct kernels for software GPUs. The
 * kernels for subgroup matrices are in attention.matrix.ts.
 *
 * A pass is one kernel, and a workgroup of it owns some rows of the score matrix and walks along the columns:
 *
 *   forward       rows are queries   y = Σ p·v, and lse, the logarithm to base 2 of each row's sum of exponentials
 *   gradQuery     rows are queries   dq = scale · Σ ds·k, and delta = Σ dy·y, one for each query
 *   gradKeyValue  rows are keys      dv = Σ p·dy and dk = scale · Σ ds·q, over the queries of all heads that share the key
 *
 *   p = exp2(s − lse)    s = scale · log2 e · q·k    ds = p · (dy·v − delta)
 *
 * Tensors are addressed by an offset and three strides, so q, k and v may be parts of one tensor, and so may their
 * gradients. Offsets, strides and `dim` count elements of the binding's type: vec4s, or scalars where rows are not whole
 * vec4s.
 */
import { type FloatType, type Kernel, kernel } from "@kindling/core";

export type Pass = "forward" | "gradQuery" | "gradKeyValue";

const operands: Record<Pass, { read: string[]; write: string[] }> = {
  forward: { read: ["q", "k", "v"], write: ["y", "lse"] },
  gradQuery: { read: ["q", "k", "v", "y", "dy", "lse"], write: ["dq", "delta"] },
  gradKeyValue: { read: ["q", "k", "v", "dy", "lse", "delta"], write: ["dkv"] },
};

/** Parameters, bindings in the order of `operands`, and where a head of each tensor starts. */
export function header(pass: Pass, element: string): string {
  const { read, write } = operands[pass];
  const binding = (name: string, i: number): string =>
    `@group(0) @binding(${i + 1}) var<storage, ${i < read.length ? "read" : "read_write"}> ${name}: array<${/lse|delta/.test(name) ? "f32" : element}>;`;
  return `
struct Params {
  queries: u32, keys: u32, dim: u32, heads: u32, group: u32, causal: u32, scale: f32, qOffset: u32, kOffset: u32, vOffset: u32,
  qBatch: u32, qHead: u32, qRow: u32, kvBatch: u32, kvHead: u32, kvRow: u32, yBatch: u32, yHead: u32, yRow: u32,
  dkOffset: u32, dvOffset: u32, peakStep: u32
}

@group(0) @binding(0) var<uniform> params: Params;
${[...read, ...write].map(binding).join("\n")}

fn qStart(batch: u32, head: u32) -> u32 { return params.qOffset + batch * params.qBatch + head * params.qHead; }
fn yStart(batch: u32, head: u32) -> u32 { return batch * params.yBatch + head * params.yHead; }
fn kvStart(batch: u32, head: u32) -> u32 { return batch * params.kvBatch + head * params.kvHead; }
fn rowStart(batch: u32, head: u32) -> u32 { return (batch * params.heads + head) * params.queries; }
`;
}

/** `NAME4(i, c)`: the c-th 4 elements of the row that starts at i, zero past its end; `set_NAME4` stores them. */
function access(pass: Pass, T: FloatType, wide: boolean): string {
  const { read, write } = operands[pass];
  const lanes = (f: (e: number) => string): string => [0, 1, 2, 3].map(f).join(" ");
  const load = (name: string): string =>
    wide
      ? `fn ${name}4(i: u32, c: u32) -> vec4f { if (c < params.dim) { return vec4f(${name}[i + c]); } return vec4f(); }`
      : `fn ${name}4(i: u32, c: u32) -> vec4f { var x = vec4f(); ${lanes((e) => `if (c * 4 + ${e} < params.dim) { x[${e}] = f32(${name}[i + c * 4 + ${e}]); }`)} return x; }`;
  const store = (name: string): string =>
    wide
      ? `fn set_${name}4(i: u32, c: u32, x: vec4f) { if (c < params.dim) { ${name}[i + c] = vec4<${T}>(x); } }`
      : `fn set_${name}4(i: u32, c: u32, x: vec4f) { ${lanes((e) => `if (c * 4 + ${e} < params.dim) { ${name}[i + c * 4 + ${e}] = ${T}(x[${e}]); }`)} }`;
  return `${read
    .filter((name) => !/lse|delta/.test(name))
    .map(load)
    .join("\n")}\n${store(write[0]!)}`;
}

const elementOf = (T: FloatType, wide: boolean): string => (wide ? `vec4<${T}>` : T);

// direct -----------------------------------------------------------------------------------------

/**
 * For software GPUs, where workgroup memory is ordinary memory and a barrier is expensive: a thread owns a row, and the
 * rows of a workgroup read the same column at the same time. Loops run to `params.dim`, unknown to the compiler, which would
 * otherwise unroll them and take seconds over it.
 */
export function directKernel(pass: Pass, T: FloatType, wide: boolean): Kernel {
  const element = elementOf(T, wide);
  const columns = pass === "gradKeyValue" ? "keys" : "queries";
  const body: Record<Pass, string> = {
    forward: `
  let kv = kvStart(batch, head / params.group);
  let q0 = qStart(batch, head) + row * params.qRow;
  var own: array<F, N>;
  for (var c = 0u; c < params.dim; c++) { own[c] = F(q[q0 + c]) * scale; }
  var m = -3.4e38;
  var l = 0.0;
  let end = select(params.keys, min(params.keys, row + 1), params.causal != 0);
  for (var j = 0u; j < end; j++) {
    let k0 = params.kOffset + kv + j * params.kvRow;
    let v0 = params.vOffset + kv + j * params.kvRow;
    var s = F();
    for (var c = 0u; c < params.dim; c++) { s += own[c] * F(k[k0 + c]); }
    let next = max(m, total(s));
    let shrink = exp2(m - next);
    let p = exp2(total(s) - next);
    m = next;
    l = l * shrink + p;
    for (var c = 0u; c < params.dim; c++) { sum[c] = sum[c] * shrink + p * F(v[v0 + c]); }
  }
  let y0 = yStart(batch, head) + row * params.yRow;
  for (var c = 0u; c < params.dim; c++) { y[y0 + c] = ${element}(sum[c] / l); }
  lse[rowStart(batch, head) + row] = m + log2(l);`,
    gradQuery: `
  let kv = kvStart(batch, head / params.group);
  let q0 = qStart(batch, head) + row * params.qRow;
  let y0 = yStart(batch, head) + row * params.yRow;
  let r0 = rowStart(batch, head) + row;
  var own: array<F, N>;
  var slope: array<F, N>;
  var product = F();
  for (var c = 0u; c < params.dim; c++) {
    own[c] = F(q[q0 + c]) * scale;
    slope[c] = F(dy[y0 + c]);
    product += slope[c] * F(y[y0 + c]);
  }
  let d = total(product);
  delta[r0] = d;
  let end = select(params.keys, min(params.keys, row + 1), params.causal != 0);
  for (var j = 0u; j < end; j++) {
    let k0 = params.kOffset + kv + j * params.kvRow;
    let v0 = params.vOffset + kv + j * params.kvRow;
    var s = F();
    var dp = F();
    for (var c = 0u; c < params.dim; c++) { s += own[c] * F(k[k0 + c]); dp += slope[c] * F(v[v0 + c]); }
    let ds = exp2(total(s) - lse[r0]) * (total(dp) - d);
    for (var c = 0u; c < params.dim; c++) { sum[c] += ds * F(k[k0 + c]); }
  }
  for (var c = 0u; c < params.dim; c++) { dq[q0 + c] = ${element}(sum[c] * params.scale); }`,
    gradKeyValue: `
  let i0 = kvStart(batch, head) + row * params.kvRow;
  var own: array<F, N>;
  var value: array<F, N>;
  var dv = array<F, N>();
  for (var c = 0u; c < params.dim; c++) { own[c] = F(k[params.kOffset + i0 + c]) * scale; value[c] = F(v[params.vOffset + i0 + c]); }
  for (var h = head * params.group; h < (head + 1) * params.group; h++) {
    for (var i = select(0, row, params.causal != 0); i < params.queries; i++) {
      let r0 = rowStart(batch, h) + i;
      let q0 = qStart(batch, h) + i * params.qRow;
      let y0 = yStart(batch, h) + i * params.yRow;
      var s = F();
      var dp = F();
      for (var c = 0u; c < params.dim; c++) { s += own[c] * F(q[q0 + c]); dp += value[c] * F(dy[y0 + c]); }
      let p = exp2(total(s) - lse[r0]);
      let ds = p * (total(dp) - delta[r0]);
      for (var c = 0u; c < params.dim; c++) { sum[c] += ds * F(q[q0 + c]); dv[c] += p * F(dy[y0 + c]); }
    }
  }
  for (var c = 0u; c < params.dim; c++) {
    dkv[params.dkOffset + i0 + c] = ${element}(sum[c] * params.scale);
    dkv[params.dvOffset + i0 + c] = ${element}(dv[c]);
  }`,
  };
  return kernel(
    `attention.direct.${pass}.${T}`,
    `${header(pass, element)}
const N = ${wide ? 32 : 128}u;
alias F = ${wide ? "vec4f" : "f32"};
fn total(x: F) -> f32 { return ${wide ? "dot(x, vec4f(1))" : "x"}; }

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let row = id.x;
  let head = id.y;
  let batch = id.z;
  if (row >= params.${columns}) { return; }
  let scale = params.scale * 1.4426950408889634;
  var sum = array<F, N>();
${body[pass]}
}`,
  );
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
function memory(pass: Pass, { BR, BC, TX, TY }: Tile, D: number): Memory {
  const row = D / 4 + 1;
  const weights = BR * (BC / 4 + 1);
  const reduce = TX * TY * Math.ceil(BR / TY / 4);
  if (pass === "forward")
    return { names: ["qs", "ks", "vs"], sizes: [BR * row, Math.max(BC * row, weights, reduce), BC * row] };
  if (pass === "gradQuery")
    return {
      names: ["qs", "dys", "ks", "vs"],
      sizes: [BR * row, BR * row, BC * row, Math.max(BC * row, weights, reduce)],
    };
  return { names: ["ks", "vs", "qs", "dys", "ps"], sizes: [BR * row, BR * row, BC * row, BC * row, weights] };
}

export const tileBytes = (pass: Pass, tile: Tile, dim: number): number =>
  16 * memory(pass, tile, paddedDim(dim)).sizes.reduce((a, b) => a + b);

/** `a · bᵀ` for the thread's rows of tile `a` and columns of tile `b`. */
const scores = (out: string, a: string, b: string): string => `
    var ${out} = array<array<f32, CN>, RM>();
    for (var c = 0u; c < D4; c++) {
      var column: array<vec4f, CN>;
      for (var j = 0u; j < CN; j++) { column[j] = ${b}[(tx + j * TX) * PITCH + c]; }
      for (var i = 0u; i < RM; i++) {
        let row = ${a}[(ty + i * TY) * PITCH + c];
        for (var j = 0u; j < CN; j++) {
          ${out}[i][j] = fma(row.w, column[j].w, fma(row.z, column[j].z, fma(row.y, column[j].y, fma(row.x, column[j].x, ${out}[i][j]))));
        }
      }
    }`;

/** The thread's part of `s` into a tile; a vec4 holds four of the thread's columns, which are TX apart. */
const share = (tile: string): string => `
    for (var i = 0u; i < RM; i++) {
      for (var g = 0u; g < CN / 4; g++) {
        ${tile}[(ty + i * TY) * PAIRS + g * TX + tx] = vec4f(s[i][4 * g], s[i][4 * g + 1], s[i][4 * g + 2], s[i][4 * g + 3]);
      }
    }
    workgroupBarrier();`;

/** Adds the shared weights times the rows of `b` to the thread's vec4s tx + h·TX of each of its rows. */
const accumulate = (out: string, weights: string, b: string): string => `
    for (var t = 0u; t < TX; t++) {
      for (var g = 0u; g < CN / 4; g++) {
        var v: array<array<vec4f, ON>, 4>;
        for (var e = 0u; e < 4; e++) {
          for (var h = 0u; h < ON; h++) { v[e][h] = ${b}[(t + TX * (4 * g + e)) * PITCH + tx + h * TX]; }
        }
        for (var i = 0u; i < RM; i++) {
          let w = ${weights}[(ty + i * TY) * PAIRS + g * TX + t];
          for (var h = 0u; h < ON; h++) {
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

export function tileKernel(pass: Pass, T: FloatType, dim: number, tile: Tile): Kernel {
  const wide = dim % 4 === 0;
  const D = paddedDim(dim);
  const { names, sizes } = memory(pass, tile, D);
  const { BR, BC, TX, TY } = tile;

  /** Rows first … first + n of a tensor into a tile; zeros past row `limit`. */
  const stage = (
    to: string,
    name: string,
    n: number,
    start: string,
    row: string,
    first: string,
    limit: string,
  ): string => `
    for (var n = 0u; n < ${Math.ceil((n * D) / 4 / (TX * TY))}; n++) {
      let e = li + n * WG;
      let r = e / D4;
      var x = vec4f();
      if (${first} + r < ${limit}) { x = ${name}4(${start} + (${first} + r) * ${row}, e % D4); }
      ${((n * D) / 4) % (TX * TY) ? `if (e < ${(n * D) / 4}) { ${to}[r * PITCH + e % D4] = x; }` : `${to}[r * PITCH + e % D4] = x;`}
    }`;
  const stageKeys = `${stage("ks", "k", BC, "params.kOffset + kv", "params.kvRow", "col0", "params.keys")}
    ${stage("vs", "v", BC, "params.vOffset + kv", "params.kvRow", "col0", "params.keys")}
    workgroupBarrier();`;
  // Only tiles on the diagonal or at the end have columns to mask.
  const maskKeys = (value: string): string => `
    if (col0 + BC > params.keys || (params.causal != 0 && col0 + BC > row0 + 1)) {
      for (var i = 0u; i < RM; i++) {
        let limit = select(params.keys, min(params.keys, row0 + ty + i * TY + 1), params.causal != 0);
        for (var j = 0u; j < CN; j++) { s[i][j] = select(${value}, s[i][j], col0 + tx + j * TX < limit); }
      }
    }`;
  const queryRows = `
  let row0 = (groups.z - 1 - wg.z) * BR; // with a causal mask the last rows are the longest: they start first
  let q0 = qStart(wg.y, wg.x);
  let y0 = yStart(wg.y, wg.x);
  let r0 = rowStart(wg.y, wg.x);
  let kv = kvStart(wg.y, wg.x / params.group);
  let end = select(params.keys, min(params.keys, row0 + BR), params.causal != 0);
  var sum = array<array<vec4f, ON>, RM>();
  var x = array<f32, RM>();
  ${stage("qs", "q", BR, "q0", "params.qRow", "row0", "params.queries")}`;

  const body: Record<Pass, string> = {
    forward: `${queryRows}
  var m = array<f32, RM>();
  var l = array<f32, RM>();
  for (var i = 0u; i < RM; i++) { m[i] = -3.4e38; }
  for (var col0 = 0u; col0 < end; col0 += BC) {
    ${stageKeys}
    ${scores("s", "qs", "ks")}
    for (var i = 0u; i < RM; i++) { for (var j = 0u; j < CN; j++) { s[i][j] *= scale; } }
    ${maskKeys("-3.4e38")}
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
      for (var h = 0u; h < ON; h++) { sum[i][h] *= shrink; }
    }
    ${share("ks")}
    ${accumulate("sum", "ks", "vs")}
  }
  x = l;
  ${across("ks", BR / TY, plus)}
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (row < params.queries) {
      for (var h = 0u; h < ON; h++) { set_y4(y0 + row * params.yRow, tx + h * TX, sum[i][h] / x[i]); }
      if (tx == 0) { lse[r0 + row] = m[i] + log2(x[i]); }
    }
  }`,
    gradQuery: `${queryRows}
  ${stage("dys", "dy", BR, "y0", "params.yRow", "row0", "params.queries")}
  workgroupBarrier();
  var l = array<f32, RM>();
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (row < params.queries) {
      l[i] = lse[r0 + row];
      for (var h = 0u; h < ON; h++) {
        x[i] += dot(y4(y0 + row * params.yRow, tx + h * TX), dys[(ty + i * TY) * PITCH + tx + h * TX]);
      }
    }
  }
  ${across("vs", BR / TY, plus)}
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (tx == 0 && row < params.queries) { delta[r0 + row] = x[i]; }
  }
  for (var col0 = 0u; col0 < end; col0 += BC) {
    ${stageKeys}
    ${scores("s", "qs", "ks")}
    for (var i = 0u; i < RM; i++) { for (var j = 0u; j < CN; j++) { s[i][j] = exp2(s[i][j] * scale - l[i]); } }
    ${maskKeys("0")}
    ${scores("dp", "dys", "vs")}
    for (var i = 0u; i < RM; i++) { for (var j = 0u; j < CN; j++) { s[i][j] *= dp[i][j] - x[i]; } }
    workgroupBarrier();
    ${share("vs")}
    ${accumulate("sum", "vs", "ks")}
  }
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (row < params.queries) {
      for (var h = 0u; h < ON; h++) { set_dq4(q0 + row * params.qRow, tx + h * TX, sum[i][h] * params.scale); }
    }
  }`,
    gradKeyValue: `
  let row0 = wg.z * BR;
  let kv = kvStart(wg.y, wg.x);
  var dk = array<array<vec4f, ON>, RM>();
  var dv = array<array<vec4f, ON>, RM>();
  ${stage("ks", "k", BR, "params.kOffset + kv", "params.kvRow", "row0", "params.keys")}
  ${stage("vs", "v", BR, "params.vOffset + kv", "params.kvRow", "row0", "params.keys")}
  for (var head = wg.x * params.group; head < (wg.x + 1) * params.group; head++) {
    let q0 = qStart(wg.y, head);
    let y0 = yStart(wg.y, head);
    let r0 = rowStart(wg.y, head);
    for (var col0 = select(0, row0, params.causal != 0); col0 < params.queries; col0 += BC) {
    ${stage("qs", "q", BC, "q0", "params.qRow", "col0", "params.queries")}
    ${stage("dys", "dy", BC, "y0", "params.yRow", "col0", "params.queries")}
    workgroupBarrier();
    ${scores("s", "ks", "qs")}
    for (var j = 0u; j < CN; j++) {
      let query = col0 + tx + j * TX;
      let l = lse[r0 + min(query, params.queries - 1)];
      let limit = select(select(0xffffffff, query + 1, params.causal != 0), 0, query >= params.queries);
      for (var i = 0u; i < RM; i++) { s[i][j] = select(0, exp2(s[i][j] * scale - l), row0 + ty + i * TY < limit); }
    }
    ${share("ps")}
    ${scores("dp", "vs", "dys")}
    for (var j = 0u; j < CN; j++) {
      let d = delta[r0 + min(col0 + tx + j * TX, params.queries - 1)];
      for (var i = 0u; i < RM; i++) { s[i][j] *= dp[i][j] - d; }
    }
    ${accumulate("dv", "ps", "dys")}
    ${share("ps")}
    ${accumulate("dk", "ps", "qs")}
    }
  }
  for (var i = 0u; i < RM; i++) {
    let row = row0 + ty + i * TY;
    if (row < params.keys) {
      let i0 = kv + row * params.kvRow;
      for (var h = 0u; h < ON; h++) {
        set_dkv4(params.dkOffset + i0, tx + h * TX, dk[i][h] * params.scale);
        set_dkv4(params.dvOffset + i0, tx + h * TX, dv[i][h]);
      }
    }
  }`,
  };
  return kernel(
    `attention.tile.${pass}.${T}.${dim}.${BR}x${BC}`,
    `${header(pass, elementOf(T, wide))}
const BR = ${BR}u;
const BC = ${BC}u;
const TX = ${TX}u;
const TY = ${TY}u;
const WG = ${TX * TY}u;
const RM = ${BR / TY}u;
const CN = ${BC / TX}u;
const D4 = ${D / 4}u;
const ON = ${D / 4 / TX}u;
const PITCH = ${D / 4 + 1}u; // of a row of an operand
const PAIRS = ${BC / 4 + 1}u; // of a row of p or ds
${names.map((name, i) => `var<workgroup> ${name}: array<vec4f, ${sizes[i]}>;`).join("\n")}
${access(pass, T, wide)}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) li: u32) {
  let tx = li % TX;
  let ty = li / TX;
  let scale = params.scale * 1.4426950408889634;
${body[pass]}
}`,
  );
}
