/**
 * RMSNorm: division by the root mean square of the last axes (Zhang & Sennrich 2019, arXiv:1910.07467), with an optional
 * residual that is added first. Matches torch.nn.RMSNorm.
 *
 *   s  = x + residual                             s = x without one
 *   y  = ŝ · w                                    ŝ = s · rstd,  rstd = 1 / sqrt(mean(s²) + eps)
 *   ds = rstd · (g − ŝ · mean(g·ŝ)) + dsum        g = dy · w; ds is the gradient of x and of residual
 *   dw = Σ_rows dy · ŝ
 *
 * x is read as (rows, cols), row-major: cols is the product of the normalized shape. Sums are f32 for any dtype.
 * Order of this file: kernels, launchers, differentiable function, module.
 */
import {
  autocastType,
  cast,
  type Device,
  delegated,
  empty,
  emptyLike,
  type FloatType,
  grid,
  kernel,
  Module,
  needsGrad,
  ones,
  parameter,
  record,
  type Shape,
  sizeOf,
  type Tensor,
  variants,
} from "@kindling/core";

// Kernels ---------------------------------------------------------------------------------------

/** Rows of 4n elements are read as vec4s; F is what a thread computes with, `total` the sum of its lanes. */
const lanes = {
  vec4: "alias F = vec4f;\nfn total(v: F) -> f32 { return v.x + v.y + v.z + v.w; }",
  scalar: "alias F = f32;\nfn total(v: F) -> f32 { return v; }",
} as const;

type Lanes = keyof typeof lanes;
type Element = "vec4<f32>" | "vec4<f16>" | "f32" | "f16";

/**
 * Sum of `v` over the W threads of a row, returned to each of them. The workgroup's 256 threads hold 256 / W rows. Two
 * levels of at most 16 terms: two barriers, where a tree would take sixteen.
 */
const rowSum = /* wgsl */ `
var<workgroup> terms: array<f32, 256>;
var<workgroup> sums: array<f32, 64>;

fn rowSum(lane: u32, v: f32) -> f32 {
  let width = min(W / 4, 16u);
  let slot = lane / W * width;
  terms[lane] = v;
  workgroupBarrier();
  if (lane % W < width) {
    var sum = 0.0;
    for (var i = 0u; i < W / width; i++) { sum += terms[lane + i * width]; }
    sums[slot + lane % W] = sum;
  }
  workgroupBarrier();
  var sum = 0.0;
  for (var i = 0u; i < width; i++) { sum += sums[slot + i]; }
  return sum;
}`;

/**
 * W threads for a row, each with K vectors of it in registers at a time; a row longer than K · W vectors is read twice.
 * rstd is stored: one float a row spares backward the reduction. R is the residual's element, S the sum's.
 */
const forwardKernel = variants(
  (X: Element, R: Element | "none", S: Element, Y: Element, P: Element, L: Lanes, K: number) =>
    kernel<string>(
      `rmsNorm.forward.${X}.${R}.${Y}.${K}`,
      /* wgsl */ `
override W: u32 = 256;
const K = ${K}u;
${lanes[L]}
${rowSum}

struct Params { rows: u32, cols: u32, vectors: u32, eps: f32, weighted: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> weight: array<${P}>;
@group(0) @binding(3) var<storage, read_write> y: array<${Y}>;
@group(0) @binding(4) var<storage, read_write> stats: array<f32>;
${
  R === "none"
    ? /* wgsl */ `
fn load(i: u32) -> F { return F(x[i]); }
fn keep(i: u32, s: F) {}`
    : /* wgsl */ `
@group(0) @binding(5) var<storage, read> residual: array<${R}>;
@group(0) @binding(6) var<storage, read_write> sum: array<${S}>;

fn load(i: u32) -> F { return F(${S}(F(x[i]) + F(residual[i]))); }
fn keep(i: u32, s: F) { sum[i] = ${S}(s); }`
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = (wg.x + wg.y * groups.x) * (256 / W) + lane / W;
  let inside = row < params.rows;
  let base = min(row, params.rows - 1) * params.vectors;
  let last = params.vectors - 1;

  var held: array<F, K>;
  var squares = F();
  for (var start = lane % W; start <= last; start += K * W) {
    // A load beyond the end repeats the last vector: without branches all K are under way at once.
    for (var k = 0u; k < K; k++) { held[k] = load(base + min(start + k * W, last)); }
    for (var k = 0u; k < K; k++) {
      if (start + k * W <= last) {
        squares += held[k] * held[k];
        if (inside) { keep(base + start + k * W, held[k]); }
      }
    }
  }
  let rstd = inverseSqrt(rowSum(lane, total(squares)) / f32(params.cols) + params.eps);

  if (!inside) { return; }
  for (var start = lane % W; start <= last; start += K * W) {
    if (params.vectors > K * W) {
      for (var k = 0u; k < K; k++) { held[k] = load(base + min(start + k * W, last)); }
    }
    for (var k = 0u; k < K; k++) { held[k] *= rstd; }
    if (params.weighted != 0) {
      for (var k = 0u; k < K; k++) { held[k] *= F(weight[min(start + k * W, last)]); }
    }
    for (var k = 0u; k < K; k++) {
      if (start + k * W <= last) { y[base + start + k * W] = ${Y}(held[k]); }
    }
  }
  if (lane % W == 0) { stats[row] = rstd; }
}`,
    ),
);

/**
 * Workgroups walk over the rows, 256 / W at a time, with a row of s and dy in registers: both are read once, for ds and for
 * dw. A thread keeps its columns, so it adds up dy · ŝ of all its rows in registers too; what a workgroup has at the end
 * is a row of `partial`. Rows of at most K · W vectors.
 */
const gradKernel = variants((S: Element, Y: Element, P: Element, L: Lanes, K: number) =>
  kernel<string>(
    `rmsNorm.grad.${S}.${Y}.${K}`,
    /* wgsl */ `
override W: u32 = 256;
const K = ${K}u;
${lanes[L]}
${rowSum}

struct Params { rows: u32, cols: u32, vectors: u32, pitch: u32, weighted: u32, summed: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> s: array<${S}>;
@group(0) @binding(2) var<storage, read> dy: array<${Y}>;
@group(0) @binding(3) var<storage, read> dsum: array<${S}>;
@group(0) @binding(4) var<storage, read> weight: array<${P}>;
@group(0) @binding(5) var<storage, read> stats: array<f32>;
@group(0) @binding(6) var<storage, read_write> ds: array<${S}>;
@group(0) @binding(7) var<storage, read_write> partial: array<${L === "vec4" ? "vec4<f32>" : "f32"}>;

var<workgroup> columns: array<F, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let first = lane % W;
  let last = params.vectors - 1;
  var shat: array<F, K>;
  var g: array<F, K>;
  var dw: array<F, K>;
  for (var start = wg.x * (256 / W); start < params.rows; start += groups.x * (256 / W)) {
    let inside = start + lane / W < params.rows;
    let row = min(start + lane / W, params.rows - 1);
    let base = row * params.vectors;
    for (var k = 0u; k < K; k++) {
      let i = base + min(first + k * W, last);
      shat[k] = F(s[i]);
      g[k] = F(dy[i]);
    }
    let rstd = stats[row];
    for (var k = 0u; k < K; k++) {
      shat[k] *= rstd;
      dw[k] += select(F(), g[k] * shat[k], inside);
    }
    if (params.weighted != 0) {
      for (var k = 0u; k < K; k++) { g[k] *= F(weight[min(first + k * W, last)]); }
    }
    var product = F();
    for (var k = 0u; k < K; k++) { product += select(F(), g[k] * shat[k], first + k * W <= last); }
    let mean = rowSum(lane, total(product)) / f32(params.cols);
    for (var k = 0u; k < K; k++) { g[k] = rstd * (g[k] - shat[k] * mean); }
    if (params.summed != 0) {
      for (var k = 0u; k < K; k++) { g[k] += F(dsum[base + min(first + k * W, last)]); }
    }
    for (var k = 0u; k < K; k++) {
      if (inside && first + k * W <= last) { ds[base + first + k * W] = ${S}(g[k]); }
    }
  }
  for (var k = 0u; k < K; k++) {
    columns[lane] = dw[k];
    workgroupBarrier();
    if (lane < W && first + k * W <= last) {
      var sum = F();
      for (var i = lane; i < 256; i += W) { sum += columns[i]; }
      partial[wg.x * params.pitch + first + k * W] = sum;
    }
    workgroupBarrier();
  }
}`,
  ),
);

/** For rows that registers do not hold: mean(g·ŝ) of a row per workgroup. */
const meanKernel = variants((S: Element, Y: Element, P: Element, L: Lanes) =>
  kernel<string>(
    `rmsNorm.mean.${S}.${Y}`,
    /* wgsl */ `
const W = 256u;
${lanes[L]}
${rowSum}

struct Params { rows: u32, cols: u32, vectors: u32, weighted: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> s: array<${S}>;
@group(0) @binding(2) var<storage, read> dy: array<${Y}>;
@group(0) @binding(3) var<storage, read> weight: array<${P}>;
@group(0) @binding(4) var<storage, read> stats: array<f32>;
@group(0) @binding(5) var<storage, read_write> means: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = wg.x + wg.y * groups.x;
  if (row >= params.rows) { return; }
  var product = F();
  for (var c = lane; c < params.vectors; c += 256) {
    var g = F(dy[row * params.vectors + c]);
    if (params.weighted != 0) { g *= F(weight[c]); }
    product += g * F(s[row * params.vectors + c]);
  }
  let mean = rowSum(lane, total(product)) * stats[row] / f32(params.cols);
  if (lane == 0) { means[row] = mean; }
}`,
  ),
);

/** For such rows: ds, and dw of a chunk of rows. A workgroup has 32 columns, 8 rows at a time. */
const longGradKernel = variants((S: Element, Y: Element, P: Element, L: Lanes) =>
  kernel<string>(
    `rmsNorm.longGrad.${S}.${Y}`,
    /* wgsl */ `
${lanes[L]}

struct Params { rows: u32, vectors: u32, tiles: u32, chunk: u32, pitch: u32, weighted: u32, summed: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> s: array<${S}>;
@group(0) @binding(2) var<storage, read> dy: array<${Y}>;
@group(0) @binding(3) var<storage, read> dsum: array<${S}>;
@group(0) @binding(4) var<storage, read> weight: array<${P}>;
@group(0) @binding(5) var<storage, read> stats: array<f32>;
@group(0) @binding(6) var<storage, read> means: array<f32>;
@group(0) @binding(7) var<storage, read_write> ds: array<${S}>;
@group(0) @binding(8) var<storage, read_write> partial: array<${L === "vec4" ? "vec4<f32>" : "f32"}>;

var<workgroup> columns: array<array<F, 32>, 8>;

@compute @workgroup_size(32, 8)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let tile = wg.x + wg.y * groups.x;
  let chunk = tile / params.tiles;
  let c = tile % params.tiles * 32 + lane.x;
  let end = min((chunk + 1) * params.chunk, params.rows);
  var dw = F();
  if (c < params.vectors) {
    var w = F() + 1;
    if (params.weighted != 0) { w = F(weight[c]); }
    for (var row = chunk * params.chunk + lane.y; row < end; row += 8) {
      let i = row * params.vectors + c;
      let shat = F(s[i]) * stats[row];
      let g = F(dy[i]);
      dw += g * shat;
      var d = stats[row] * (g * w - shat * means[row]);
      if (params.summed != 0) { d += F(dsum[i]); }
      ds[i] = ${S}(d);
    }
  }
  columns[lane.y][lane.x] = dw;
  workgroupBarrier();
  if (lane.y == 0 && c < params.vectors && chunk * params.chunk < params.rows) {
    for (var i = 1u; i < 8; i++) { dw += columns[i][lane.x]; }
    partial[chunk * params.pitch + c] = dw;
  }
}`,
  ),
);

/** Adds up the rows of `partial`, in order: 8 columns of 4 elements for a workgroup, 32 rows at a time. */
const sumKernel = variants((T: FloatType) =>
  kernel<string>(
    `rmsNorm.sum.${T}`,
    /* wgsl */ `
struct Params { rows: u32, vectors: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> dw: array<vec4<${T}>>;

var<workgroup> columns: array<array<vec4f, 8>, 32>;

@compute @workgroup_size(8, 32)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let c = (wg.x + wg.y * groups.x) * 8 + lane.x;
  var sum = vec4f();
  if (c < params.vectors) {
    for (var row = lane.y; row < params.rows; row += 32) { sum += partial[row * params.vectors + c]; }
  }
  columns[lane.y][lane.x] = sum;
  for (var half = 16u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane.y < half) { columns[lane.y][lane.x] += columns[lane.y + half][lane.x]; }
  }
  if (lane.y == 0 && c < params.vectors) { dw[c] = vec4<${T}>(columns[0][lane.x]); }
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

interface Layout {
  readonly rows: number;
  readonly cols: number;
  readonly L: Lanes;
  /** A row in units of what a thread loads. */
  readonly vectors: number;
  /** Threads for a row. */
  readonly W: number;
  /** Vectors of a row that a thread holds: at most 4 while more threads help, at most 8 else. */
  readonly K: number;
  /** Whether they are the whole row. */
  readonly fits: boolean;
}

function layoutOf(x: Tensor, cols: number): Layout {
  const L = cols % 4 === 0 ? "vec4" : "scalar";
  const vectors = L === "vec4" ? cols / 4 : cols;
  // A software GPU compiles unrolled loops for seconds: it gets the same kernels with few threads and one vector for each.
  const [most, limit, widest] = x.device.software ? [1, 1, 32] : [4, 8, 256];
  let W = 8;
  while (W < widest && W * most < vectors) W *= 2;
  const K = Math.min(Math.ceil(vectors / W), limit);
  return { rows: x.size / cols, cols, L, vectors, W, K, fits: vectors <= K * W };
}

const elementOf = ({ dtype }: Tensor, L: Lanes): Element =>
  L === "vec4" ? `vec4<${dtype as FloatType}>` : (dtype as FloatType);

export function rmsNormForward(
  x: Tensor,
  cols: number,
  {
    weight,
    eps,
    residual,
    dtype,
  }: { weight: Tensor | null; eps: number; residual: Tensor | null; dtype: FloatType | null },
): { y: Tensor; sum: Tensor; stats: Tensor } {
  const { rows, vectors, W, K, L } = layoutOf(x, cols);
  const sum = residual ? emptyLike(x, { dtype: x.dtype === residual.dtype ? x.dtype : "f32" }) : x;
  const y = emptyLike(x, { dtype: dtype ?? sum.dtype });
  const stats = empty([rows], { device: x.device });
  const params = { rows, cols, vectors, eps, weighted: weight ? 1 : 0 };
  const w = weight ?? x; // a binding that the flag says not to read
  const R = residual ? elementOf(residual, L) : "none";
  forwardKernel(elementOf(x, L), R, elementOf(sum, L), elementOf(y, L), elementOf(w, L), L, K).run(
    { params, x, weight: w, y, stats, residual: residual ?? x, sum },
    { workgroups: grid(Math.ceil(rows / (256 / W))), constants: { W } },
  );
  return { y, sum, stats };
}

/** ds, and dw in the dtype of the weight. `s` is what was normalized. */
export function rmsNormGrad(
  dy: Tensor,
  s: Tensor,
  cols: number,
  { weight, stats, dsum }: { weight: Tensor | null; stats: Tensor; dsum: Tensor | null },
): { ds: Tensor; dw: Tensor | null } {
  const { rows, vectors, W, K, L, fits } = layoutOf(s, cols);
  const { device } = s;
  const [S, Y] = [elementOf(s, L), elementOf(dy, L)];
  const ds = emptyLike(s);
  const w = weight ?? s;
  const P = elementOf(w, L);
  const quads = Math.ceil(cols / 4);
  const pitch = L === "vec4" ? quads : 4 * quads;
  const params = { rows, cols, vectors, pitch, weighted: weight ? 1 : 0, summed: dsum ? 1 : 0 };
  const operands = { s, dy, dsum: dsum ?? s, weight: w, stats, ds };
  let partial: Tensor;
  if (fits) {
    // Two workgroups for each of 132 processors, all with as many rows: at least two, so that `partial` stays small.
    const slots = Math.ceil(rows / (256 / W));
    const groups = Math.ceil(slots / Math.max(2, Math.ceil(slots / 264)));
    partial = empty([groups, quads, 4], { device });
    gradKernel(S, Y, P, L, K).run({ params, ...operands, partial }, { workgroups: [groups], constants: { W } });
  } else {
    const means = empty([rows], { device });
    meanKernel(S, Y, P, L).run({ params, s, dy, weight: w, stats, means }, { workgroups: grid(rows) });
    const tiles = Math.ceil(vectors / 32);
    const chunk = Math.max(8, Math.ceil(rows / Math.max(1, Math.floor(528 / tiles))));
    const chunks = Math.ceil(rows / chunk);
    partial = empty([chunks, quads, 4], { device });
    longGradKernel(S, Y, P, L).run(
      { params: { ...params, tiles, chunk }, ...operands, means, partial },
      { workgroups: grid(tiles * chunks) },
    );
    means.dispose();
  }
  let dw: Tensor | null = null;
  if (needsGrad(weight)) {
    dw = emptyLike(weight);
    sumKernel(weight.dtype as FloatType).run(
      { params: { rows: partial.shape[0]!, vectors: quads }, partial, dw },
      { workgroups: grid(Math.ceil(quads / 8)) },
    );
  }
  partial.dispose();
  return { ds, dw };
}

// Differentiable function -----------------------------------------------------------------------

export interface RMSNormOptions {
  /** [...normalizedShape] */
  weight?: Tensor | null;
  /** Added to the mean square. Default 2⁻²³, the machine epsilon of the f32 that it is computed in. */
  eps?: number | null;
  /** Of x's shape: added to x before the norm; the sum is returned too. */
  residual?: Tensor | null;
  /** Under autocast y is f32, as in PyTorch; without this it is f16, for a reader that would round it anyway. Default true. */
  autocastToF32?: boolean;
}

/** A normalized sum, and the sum itself, which the next residual connection adds to. */
export interface NormAndSum {
  output: Tensor;
  sum: Tensor;
}

/**
 * Divides `x` by the root mean square over its last axes, whose sizes `normalizedShape` repeats. y has the dtype of x, but
 * under autocast see `autocastToF32`. Matches torch.nn.functional.rms_norm.
 *
 * With `residual`, { output, sum }: sum = x + residual, in their dtype (f16 with f32 gives f32), and output is its norm.
 */
export function rmsNorm(
  x: Tensor,
  normalizedShape: number | Shape,
  options: RMSNormOptions & { residual: Tensor },
): NormAndSum;
export function rmsNorm(
  x: Tensor,
  normalizedShape: number | Shape,
  options?: RMSNormOptions & { residual?: null },
): Tensor;
export function rmsNorm(
  x: Tensor,
  normalizedShape: number | Shape,
  { weight = null, eps, residual = null, autocastToF32 = true }: RMSNormOptions = {},
): Tensor | NormAndSum {
  const shape = typeof normalizedShape === "number" ? [normalizedShape] : normalizedShape;
  check(x, shape, weight, residual);
  const other = delegated<Tensor & NormAndSum>(
    "rmsNorm",
    { x, weight, residual },
    { shape, eps: eps ?? 2 ** -23, autocastToF32 },
  );
  if (other) return other;
  const cols = sizeOf(shape);
  const dtype = autocastType() && autocastToF32 ? "f32" : autocastType();
  const { y, sum, stats } = rmsNormForward(x, cols, { weight, eps: eps ?? 2 ** -23, residual, dtype });
  const inputs = [x, residual ?? stats, weight ?? stats] as const;
  type Grads = [Tensor | null, Tensor | null, Tensor | null];
  const backward = (dy: Tensor | null, dsum: Tensor | null): Grads => {
    const { ds, dw } = dy ? rmsNormGrad(dy, sum, cols, { weight, stats, dsum }) : { ds: dsum!, dw: null };
    const dx = needsGrad(x) ? cast(ds, x.dtype) : null;
    const dr = needsGrad(residual) ? cast(ds, residual.dtype) : null;
    if (dy && ds !== dx && ds !== dr) ds.dispose();
    return [dx, dr, dw];
  };
  if (!residual) return record(y, inputs, (dy) => backward(dy, null));
  record([y, sum], inputs, ([dy, dsum]) => backward(dy, dsum));
  return { output: y, sum };
}

function check(x: Tensor, shape: Shape, weight: Tensor | null, residual: Tensor | null): void {
  const tail = x.shape.slice(Math.max(0, x.shape.length - shape.length));
  if (shape.length === 0 || tail.join() !== shape.join()) {
    throw new Error(`rmsNorm: x has shape [${x.shape}], expected one that ends in normalizedShape [${shape}]`);
  }
  for (const [name, t, expected] of [
    ["x", x, x.shape],
    ["weight", weight, shape],
    ["residual", residual, x.shape],
  ] as const) {
    if (t && t.dtype !== "f32" && t.dtype !== "f16")
      throw new Error(`rmsNorm: ${name} is ${t.dtype}, expected f32 or f16`);
    if (t && t.shape.join() !== expected.join())
      throw new Error(`rmsNorm: ${name} has shape [${t.shape}], expected [${expected}]`);
  }
}

// Module ----------------------------------------------------------------------------------------

export interface RMSNormModuleOptions {
  /** Default: see RMSNormOptions. */
  eps?: number | null;
  /** Learn a weight, which starts at one. Default true. */
  elementwiseAffine?: boolean;
  /** See RMSNormOptions. */
  autocastToF32?: boolean;
  device?: Device;
}

/** `rmsNorm` with a learned weight. Matches `torch.nn.RMSNorm(normalizedShape, …)`. */
export class RMSNorm extends Module {
  readonly normalizedShape: Shape;
  readonly eps: number | null;
  readonly autocastToF32: boolean;
  readonly weight: Tensor | null;

  constructor(
    normalizedShape: number | Shape,
    { eps = null, elementwiseAffine = true, autocastToF32 = true, device }: RMSNormModuleOptions = {},
  ) {
    super();
    this.normalizedShape = typeof normalizedShape === "number" ? [normalizedShape] : [...normalizedShape];
    this.eps = eps;
    this.autocastToF32 = autocastToF32;
    this.weight = elementwiseAffine ? parameter(ones(this.normalizedShape, { device })) : null;
  }

  forward(x: Tensor): Tensor;
  forward(x: Tensor, residual: Tensor): NormAndSum;
  forward(x: Tensor, residual?: Tensor): Tensor | NormAndSum {
    return residual ? rmsNorm(x, this.normalizedShape, { ...this, residual }) : rmsNorm(x, this.normalizedShape, this);
  }

  protected override extraRepr(): string {
    return `[${this.normalizedShape}], eps=${this.eps}, elementwiseAffine=${this.weight !== null}`;
  }
}
