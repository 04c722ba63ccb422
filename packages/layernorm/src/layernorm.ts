/**
 * LayerNorm: normalization over the last axes (Ba et al. 2016, arXiv:1607.06450). Matches torch.nn.LayerNorm.
 *
 *   y  = x̂ · w + b                             x̂ = (x − mean) · rstd,  rstd = 1 / sqrt(var + eps), var biased
 *   dx = rstd · (g − mean(g) − x̂ · mean(g·x̂))   g = dy · w
 *   dw = Σ_rows dy · x̂                          db = Σ_rows dy
 *
 * x is read as (rows, cols), row-major: cols is the product of the normalized shape. Statistics are f32 for any dtype; the
 * variance is a second pass over the row's deviations from its mean, so a large mean costs no precision.
 * Order of this file: kernels, launchers, differentiable function, module.
 */
import {
  autocastType,
  cast,
  type Device,
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
  zeros,
} from "@kindling/core";

// Kernels ---------------------------------------------------------------------------------------

/** Rows of 4n elements are read as vec4s; F is what a thread computes with, `total` the sum of its lanes. */
const lanes = {
  vec4: "alias F = vec4f;\nfn total(v: F) -> f32 { return v.x + v.y + v.z + v.w; }",
  scalar: "alias F = f32;\nfn total(v: F) -> f32 { return v; }",
} as const;

type Lanes = keyof typeof lanes;
type Element = "vec4<f32>" | "vec4<f16>" | "f32" | "f16";

/** Sum of `v` over the W threads of a row, returned to each of them. The workgroup's 256 threads hold 256 / W rows. */
const rowSum = /* wgsl */ `
var<workgroup> partials: array<f32, 256>;

fn rowSum(lane: u32, v: f32) -> f32 {
  partials[lane] = v;
  for (var half = W / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane % W < half) { partials[lane] += partials[lane + half]; }
  }
  workgroupBarrier();
  let sum = partials[lane / W * W];
  workgroupBarrier();
  return sum;
}`;

/** W threads for a row. Mean and rstd are stored: two floats a row spare backward the reductions. */
const forwardKernel = variants((X: Element, Y: Element, P: Element, L: Lanes) =>
  kernel(
    `layerNorm.forward.${X}.${Y}`,
    /* wgsl */ `
override W: u32 = 64;
${lanes[L]}
${rowSum}

struct Params { rows: u32, cols: u32, vectors: u32, eps: f32, affine: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> weight: array<${P}>;
@group(0) @binding(3) var<storage, read> bias: array<${P}>;
@group(0) @binding(4) var<storage, read_write> y: array<${Y}>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec2f>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = (wg.x + wg.y * groups.x) * (256 / W) + lane / W;
  let inside = row < params.rows;
  let base = min(row, params.rows - 1) * params.vectors;

  var sum = F();
  for (var c = lane % W; c < params.vectors; c += W) { sum += F(x[base + c]); }
  let mean = rowSum(lane, total(sum)) / f32(params.cols);

  var squares = F();
  for (var c = lane % W; c < params.vectors; c += W) { let d = F(x[base + c]) - mean; squares += d * d; }
  let rstd = inverseSqrt(rowSum(lane, total(squares)) / f32(params.cols) + params.eps);

  if (!inside) { return; }
  for (var c = lane % W; c < params.vectors; c += W) {
    var v = (F(x[base + c]) - mean) * rstd;
    if ((params.affine & 1) != 0) { v *= F(weight[c]); }
    if ((params.affine & 2) != 0) { v += F(bias[c]); }
    y[base + c] = ${Y}(v);
  }
  if (lane % W == 0) { stats[row] = vec2f(mean, rstd); }
}`,
  ),
);

/** W threads for a row. */
const inputGradKernel = variants((X: Element, Y: Element, P: Element, L: Lanes) =>
  kernel(
    `layerNorm.inputGrad.${X}.${Y}`,
    /* wgsl */ `
override W: u32 = 64;
${lanes[L]}
${rowSum}

struct Params { rows: u32, cols: u32, vectors: u32, affine: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> dy: array<${Y}>;
@group(0) @binding(3) var<storage, read> weight: array<${P}>;
@group(0) @binding(4) var<storage, read> stats: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> dx: array<${X}>;

fn weighted(i: u32, c: u32) -> F {
  if ((params.affine & 1) != 0) { return F(dy[i]) * F(weight[c]); }
  return F(dy[i]);
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = (wg.x + wg.y * groups.x) * (256 / W) + lane / W;
  let inside = row < params.rows;
  let base = min(row, params.rows - 1) * params.vectors;
  let mean = stats[min(row, params.rows - 1)].x;
  let rstd = stats[min(row, params.rows - 1)].y;

  var sum = F();
  var product = F();
  for (var c = lane % W; c < params.vectors; c += W) {
    let g = weighted(base + c, c);
    sum += g;
    product += g * (F(x[base + c]) - mean) * rstd;
  }
  let meanG = rowSum(lane, total(sum)) / f32(params.cols);
  let meanGX = rowSum(lane, total(product)) / f32(params.cols);

  if (!inside) { return; }
  for (var c = lane % W; c < params.vectors; c += W) {
    let xhat = (F(x[base + c]) - mean) * rstd;
    dx[base + c] = ${X}(rstd * (weighted(base + c, c) - meanG - xhat * meanGX));
  }
}`,
  ),
);

/**
 * A thread walks down one column of its chunk of the rows: reads coalesce across threads, and without atomics the sum is
 * the same each time. A row of `partial` holds the sums for w, then those for b.
 */
const weightGradKernel = variants((X: Element, Y: Element, S: "vec4<f32>" | "f32", L: Lanes) =>
  kernel(
    `layerNorm.weightGrad.${X}.${Y}`,
    /* wgsl */ `
${lanes[L]}

struct Params { rows: u32, vectors: u32, chunk: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> dy: array<${Y}>;
@group(0) @binding(3) var<storage, read> stats: array<vec2f>;
@group(0) @binding(4) var<storage, read_write> partial: array<${S}>;

var<workgroup> sums: array<array<F, 64>, 8>;

@compute @workgroup_size(32, 8)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let c = wg.x * 32 + lane.x;
  let end = min((wg.y + 1) * params.chunk, params.rows);
  var dw = F();
  var db = F();
  if (c < params.vectors) {
    for (var row = wg.y * params.chunk + lane.y; row < end; row += 8) {
      let g = F(dy[row * params.vectors + c]);
      dw += g * (F(x[row * params.vectors + c]) - stats[row].x) * stats[row].y;
      db += g;
    }
  }
  sums[lane.y][lane.x] = dw;
  sums[lane.y][lane.x + 32] = db;
  for (var half = 4u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane.y < half) {
      sums[lane.y][lane.x] += sums[lane.y + half][lane.x];
      sums[lane.y][lane.x + 32] += sums[lane.y + half][lane.x + 32];
    }
  }
  if (lane.y == 0 && c < params.vectors) {
    let at = wg.y * 2 * params.vectors + c;
    partial[at] = sums[0][lane.x];
    partial[at + params.vectors] = sums[0][lane.x + 32];
  }
}`,
  ),
);

/** Adds up the chunks, in order: the workgroups of row 0 for dw, those of row 1 for db. */
const weightGradSumKernel = variants((V: "vec4<f32>" | "f32", L: Lanes) =>
  kernel(
    "layerNorm.weightGradSum",
    /* wgsl */ `
${lanes[L]}

struct Params { vectors: u32, chunks: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partial: array<${V}>;
@group(0) @binding(2) var<storage, read_write> dw: array<${V}>;
@group(0) @binding(3) var<storage, read_write> db: array<${V}>;

var<workgroup> sums: array<array<F, 32>, 8>;

@compute @workgroup_size(32, 8)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let c = wg.x * 32 + lane.x;
  var sum = F();
  if (c < params.vectors) {
    for (var chunk = lane.y; chunk < params.chunks; chunk += 8) { sum += partial[(2 * chunk + wg.y) * params.vectors + c]; }
  }
  sums[lane.y][lane.x] = sum;
  for (var half = 4u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane.y < half) { sums[lane.y][lane.x] += sums[lane.y + half][lane.x]; }
  }
  if (lane.y == 0 && c < params.vectors) {
    if (wg.y == 0) { dw[c] = sums[0][lane.x]; } else { db[c] = sums[0][lane.x]; }
  }
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
  /** Threads for a row: enough that each has a few vectors, few enough that none idles on short rows. */
  readonly W: number;
}

function layoutOf(x: Tensor, cols: number): Layout {
  const L = cols % 4 === 0 ? "vec4" : "scalar";
  const vectors = L === "vec4" ? cols / 4 : cols;
  const W = vectors <= 32 ? 32 : vectors <= 128 ? 64 : vectors <= 512 ? 128 : 256;
  return { rows: x.size / cols, cols, L, vectors, W };
}

const elementOf = ({ dtype }: Tensor, L: Lanes): Element =>
  L === "vec4" ? `vec4<${dtype as FloatType}>` : (dtype as FloatType);

/** Workgroups of 256 threads, which hold 256 / W rows each. */
const rowGroups = ({ rows, W }: Layout): [number, number] => grid(Math.ceil(rows / (256 / W)));

export function layerNormForward(
  x: Tensor,
  cols: number,
  { weight, bias, eps, dtype }: { weight: Tensor | null; bias: Tensor | null; eps: number; dtype: FloatType },
): { y: Tensor; stats: Tensor } {
  const layout = layoutOf(x, cols);
  const { rows, vectors, W, L } = layout;
  const y = emptyLike(x, { dtype });
  const stats = empty([rows, 2], { device: x.device });
  const params = { rows, cols, vectors, eps, affine: (weight ? 1 : 0) + (bias ? 2 : 0) };
  const w = weight ?? bias ?? x; // a binding that the flags say not to read
  forwardKernel(elementOf(x, L), elementOf(y, L), elementOf(w, L), L).run(
    { params, x, weight: w, bias: bias ?? w, y, stats },
    { workgroups: rowGroups(layout), constants: { W } },
  );
  return { y, stats };
}

export function layerNormInputGrad(dy: Tensor, x: Tensor, cols: number, weight: Tensor | null, stats: Tensor): Tensor {
  const layout = layoutOf(x, cols);
  const { rows, vectors, W, L } = layout;
  const dx = emptyLike(x);
  const w = weight ?? x;
  inputGradKernel(elementOf(x, L), elementOf(dy, L), elementOf(w, L), L).run(
    { params: { rows, cols, vectors, affine: weight ? 1 : 0 }, x, dy, weight: w, stats, dx },
    { workgroups: rowGroups(layout), constants: { W } },
  );
  return dx;
}

/** dw and db, f32, of the normalized shape. */
export function layerNormWeightGrad(dy: Tensor, x: Tensor, shape: Shape, stats: Tensor): { dw: Tensor; db: Tensor } {
  const cols = sizeOf(shape);
  const { rows, L, vectors } = layoutOf(x, cols);
  const V = L === "vec4" ? "vec4<f32>" : "f32";
  const tiles = Math.ceil(vectors / 32);
  // Enough chunks to fill a GPU, few enough that adding them up is short.
  const chunk = Math.max(8, Math.ceil(rows / Math.max(1, Math.min(128, Math.floor(528 / tiles)))));
  const chunks = Math.ceil(rows / chunk);
  const { device } = x;
  const partial = empty([chunks, 2, Math.ceil(cols / 4) * 4], { device });
  const [dw, db] = [empty(shape, { device }), empty(shape, { device })];
  weightGradKernel(elementOf(x, L), elementOf(dy, L), V, L).run(
    { params: { rows, vectors, chunk }, x, dy, stats, partial },
    { workgroups: [tiles, chunks] },
  );
  weightGradSumKernel(V, L).run({ params: { vectors, chunks }, partial, dw, db }, { workgroups: [tiles, 2] });
  partial.dispose();
  return { dw, db };
}

// Differentiable function -----------------------------------------------------------------------

export interface LayerNormOptions {
  /** [...normalizedShape] */
  weight?: Tensor | null;
  /** [...normalizedShape] */
  bias?: Tensor | null;
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Under autocast y is f32, as in PyTorch; without this it is f16, for a reader that would round it anyway. Default true. */
  autocastToF32?: boolean;
}

/**
 * Normalizes `x` over its last axes, whose sizes `normalizedShape` repeats. y has the dtype of x, but under autocast see
 * `autocastToF32`. Matches torch.nn.functional.layer_norm.
 */
export function layerNorm(
  x: Tensor,
  normalizedShape: number | Shape,
  { weight = null, bias = null, eps = 1e-5, autocastToF32 = true }: LayerNormOptions = {},
): Tensor {
  const shape = typeof normalizedShape === "number" ? [normalizedShape] : normalizedShape;
  check(x, shape, weight, bias);
  const cols = sizeOf(shape);
  const dtype = autocastType() && autocastToF32 ? "f32" : (autocastType() ?? (x.dtype as FloatType));
  const { y, stats } = layerNormForward(x, cols, { weight, bias, eps, dtype });
  return record(y, [x, weight ?? stats, bias ?? stats], (dy) => {
    const dx = needsGrad(x) ? layerNormInputGrad(dy, x, cols, weight, stats) : null;
    if (!needsGrad(weight) && !needsGrad(bias)) return [dx, null, null];
    const { dw, db } = layerNormWeightGrad(dy, x, shape, stats);
    return [dx, weight && cast(dw, weight.dtype), bias && cast(db, bias.dtype)];
  });
}

function check(x: Tensor, shape: Shape, weight: Tensor | null, bias: Tensor | null): void {
  if (x.dtype !== "f32" && x.dtype !== "f16") throw new Error(`layerNorm: x is ${x.dtype}, expected f32 or f16`);
  const tail = x.shape.slice(x.shape.length - shape.length);
  if (shape.length === 0 || tail.join() !== shape.join()) {
    throw new Error(`layerNorm: x has shape [${x.shape}], expected one that ends in normalizedShape [${shape}]`);
  }
  for (const [name, p] of Object.entries({ weight, bias })) {
    if (p && p.shape.join() !== shape.join())
      throw new Error(`layerNorm: ${name} has shape [${p.shape}], expected [${shape}]`);
    if (p && p.dtype !== "f32" && p.dtype !== "f16")
      throw new Error(`layerNorm: ${name} is ${p.dtype}, expected f32 or f16`);
  }
  if (weight && bias && weight.dtype !== bias.dtype)
    throw new Error(`layerNorm: weight is ${weight.dtype} and bias ${bias.dtype}, expected one dtype`);
}

// Module ----------------------------------------------------------------------------------------

export interface LayerNormModuleOptions {
  eps?: number;
  /** Learn a weight, which starts at one, and a bias, which starts at zero. Default true. */
  elementwiseAffine?: boolean;
  /** Without it only the weight is learned. Default true. */
  bias?: boolean;
  /** See LayerNormOptions. */
  autocastToF32?: boolean;
  device?: Device;
}

/** `layerNorm` with learned weight and bias. Matches `torch.nn.LayerNorm(normalizedShape, …)`. */
export class LayerNorm extends Module {
  readonly normalizedShape: Shape;
  readonly eps: number;
  readonly autocastToF32: boolean;
  readonly weight: Tensor | null;
  readonly bias: Tensor | null;

  constructor(
    normalizedShape: number | Shape,
    { eps = 1e-5, elementwiseAffine = true, bias = true, autocastToF32 = true, device }: LayerNormModuleOptions = {},
  ) {
    super();
    this.normalizedShape = typeof normalizedShape === "number" ? [normalizedShape] : [...normalizedShape];
    this.eps = eps;
    this.autocastToF32 = autocastToF32;
    this.weight = elementwiseAffine ? parameter(ones(this.normalizedShape, { device })) : null;
    this.bias = elementwiseAffine && bias ? parameter(zeros(this.normalizedShape, { device })) : null;
  }

  forward(x: Tensor): Tensor {
    return layerNorm(x, this.normalizedShape, this);
  }

  protected override extraRepr(): string {
    return `[${this.normalizedShape}], eps=${this.eps}, elementwiseAffine=${this.weight !== null}`;
  }
}
