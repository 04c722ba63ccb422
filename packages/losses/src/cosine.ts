/**
 * cosineEmbedding of two vectors, as in torch.nn.functional: 1 − cos for a target of 1, max(0, cos − margin) for −1.
 *
 *   cos = x1 · x2 / (|x1| |x2|)       dcos/dx1 = x2 / (|x1| |x2|) − x1 · cos / |x1|²
 *
 * Order of this file: kernels, launchers, differentiable function, module.
 */
import {
  delegated,
  emptyLike,
  type FloatType,
  grid,
  kernel,
  needsGrad,
  record,
  type Tensor,
  threads,
  variants,
  workgroupReduce,
} from "@kindling/core";
import {
  checkFloats,
  checkReduction,
  failure,
  Loss,
  type LossOptions,
  type Rows,
  reduced,
  rowsOf,
} from "./reduction.ts";

// Kernels -----------------------------------------------------------------------------------------

/**
 * A workgroup for a pair. dcos/dx1 = x2 / (|x1|·|x2|) − x1 · cos / |x1|². stats: the three factors, of x2 and x1, of x1 and
 * of x2, times the slope of the loss by cos; and the pair's share of the mean's denominator.
 */
const cosineKernel = variants((X: FloatType, T: "f32" | "f16" | "i32" | "u32") =>
  kernel<string>(
    `cosineEmbedding.forward.${X}.${T}`,
    /* wgsl */ `
override WG: u32 = 64;
${workgroupReduce}

struct Params { rows: u32, cols: u32, margin: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x1: array<${X}>;
@group(0) @binding(2) var<storage, read> x2: array<${X}>;
@group(0) @binding(3) var<storage, read> labels: array<${T}>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = wg.x + wg.y * groups.x;
  if (row >= params.rows) { return; }
  var sums = vec3f(0);
  for (var c = lane; c < params.cols; c += WG) {
    let a = f32(x1[row * params.cols + c]);
    let b = f32(x2[row * params.cols + c]);
    sums += vec3f(a * a, b * b, a * b);
  }
  let aa = workgroupSum(lane, sums.x) + 1e-12;
  let bb = workgroupSum(lane, sums.y) + 1e-12;
  let ab = workgroupSum(lane, sums.z);
  if (lane != 0) { return; }
  let cross = 1 / (sqrt(aa) * sqrt(bb));
  let cos = ab * cross;
  let same = f32(labels[row]) > 0;
  loss[row] = select(max(cos - params.margin, 0), 1 - cos, same);
  let slope = select(select(0.0, 1.0, cos > params.margin), -1.0, same);
  stats[row] = vec4f(slope * cross, slope * cos / aa, slope * cos / bb, 1);
}`,
  ),
);

/** The gradient of x, the vector itself, whose partner is `other`. */
const cosineGradKernel = variants((X: FloatType) =>
  kernel(
    `cosineEmbedding.grad.${X}`,
    /* wgsl */ `
struct Params { size: u32, cols: u32, which: u32, perRow: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> other: array<${X}>;
@group(0) @binding(3) var<storage, read> stats: array<vec4f>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read> total: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> dx: array<${X}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  let row = i / params.cols;
  let s = stats[row];
  var g = dy[0] / total[0].w;
  if (params.perRow != 0) { g = dy[row]; }
  dx[i] = ${X}(g * (f32(other[i]) * s.x - f32(x[i]) * select(s.y, s.z, params.which == 2)));
}`,
  ),
);

// Launchers ---------------------------------------------------------------------------------------

function cosineForward(x1: Tensor, x2: Tensor, labels: Tensor, margin: number): Rows {
  const cols = x1.shape.at(-1)!;
  const rows = x1.size / cols;
  const result = rowsOf(rows, x1);
  cosineKernel(x1.dtype as FloatType, labels.dtype as "f32" | "f16" | "i32" | "u32").run(
    { params: { rows, cols, margin }, x1, x2, labels, ...result },
    { workgroups: grid(rows) },
  );
  return result;
}

/** The gradient of x1 (`which` 1) or x2, whose partner is `other`. */
function cosineGrad(which: 1 | 2, dy: Tensor, x: Tensor, other: Tensor, { stats }: Rows, total: Rows | null): Tensor {
  const dx = emptyLike(x);
  const params = { size: x.size, cols: x.shape.at(-1)!, which, perRow: Number(total === null) };
  cosineGradKernel(x.dtype as FloatType).run(
    { params, x, other, stats, dy, total: total?.stats ?? stats, dx },
    { workgroups: threads(x.size) },
  );
  return dx;
}

// Differentiable function -------------------------------------------------------------------------

export interface CosineEmbeddingOptions extends LossOptions {
  /** Default 0. */
  margin?: number;
}

/** 1 − cos(x1, x2) where target is 1, max(0, cos − margin) where it is −1: x1, x2 [N, D] or [D], target [N] or []. */
export function cosineEmbedding(
  x1: Tensor,
  x2: Tensor,
  target: Tensor,
  { margin = 0, reduction = "mean" }: CosineEmbeddingOptions = {},
): Tensor {
  const fail = failure("cosineEmbedding");
  checkFloats(fail, { x1, x2 });
  if (x1.shape.length !== 1 && x1.shape.length !== 2) fail(`x1 has shape [${x1.shape}], expected [N, D] or [D]`);
  if (x2.shape.join() !== x1.shape.join()) fail(`x2 has shape [${x2.shape}], expected [${x1.shape}] as x1`);
  if (x2.dtype !== x1.dtype) fail(`x2 is ${x2.dtype}, expected ${x1.dtype} as x1`);
  const shape = x1.shape.slice(0, -1);
  if (target.shape.join() !== shape.join()) fail(`target has shape [${target.shape}], expected [${shape}]`);
  if (target.dtype === "bool") fail("target is bool, expected numbers 1 and -1");
  if (!Number.isFinite(margin)) fail(`margin is ${margin}, expected a finite number`);
  checkReduction(fail, reduction);
  const other = delegated<Tensor>("cosineEmbedding", { x1, x2, target }, { margin, reduction });
  if (other) return other;
  const rows = cosineForward(x1, x2, target, margin);
  const { y, total } = reduced(rows, reduction, shape);
  return record(y, [x1, x2, target], (dy) => [
    needsGrad(x1) ? cosineGrad(1, dy, x1, x2, rows, total) : null,
    needsGrad(x2) ? cosineGrad(2, dy, x2, x1, rows, total) : null,
    null,
  ]);
}

// Module ------------------------------------------------------------------------------------------

/** `cosineEmbedding` as a module. */
export class CosineEmbeddingLoss extends Loss<CosineEmbeddingOptions> {
  forward(x1: Tensor, x2: Tensor, target: Tensor): Tensor {
    return cosineEmbedding(x1, x2, target, this.options);
  }
}
