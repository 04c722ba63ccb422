/**
 * Scale: a learned factor for each channel.
 *
 *   y  = x · w
 *   dx = dy · w
 *   dw = Σ_rows dy · x
 *
 * x is read as (rows, cols), row-major: leading axes are flattened, cols is the last axis; w is (cols).
 * Order of this file: kernels, launchers, differentiable function, module.
 */
import {
  type Device,
  empty,
  emptyLike,
  type FloatType,
  kernel,
  Module,
  needsGrad,
  ones,
  parameter,
  record,
  sumRows,
  type Tensor,
  threads,
  variants,
} from "@kindling/core";

// Kernels ---------------------------------------------------------------------------------------

/** One thread per element. It serves the input's gradient too, which is dy times the same factors. */
const forwardKernel = variants((X: FloatType, W: FloatType) =>
  kernel(
    `scale.forward.${X}.${W}`,
    /* wgsl */ `
struct Params { size: u32, cols: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> weight: array<${W}>;
@group(0) @binding(3) var<storage, read_write> y: array<${X}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i < params.size) { y[i] = ${X}(f32(x[i]) * f32(weight[i % params.cols])); }
}`,
  ),
);

/**
 * A workgroup walks down 32 columns of its chunk of the rows, 8 rows at a time: reads coalesce, and without atomics the
 * sum is the same each time. Each chunk leaves one row of f32 sums.
 */
const weightGradKernel = variants((X: FloatType) =>
  kernel(
    `scale.weightGrad.${X}`,
    /* wgsl */ `
struct Params { rows: u32, cols: u32, chunk: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> dy: array<${X}>;
@group(0) @binding(3) var<storage, read_write> partial: array<f32>;

var<workgroup> sums: array<array<f32, 32>, 8>;

@compute @workgroup_size(32, 8)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let c = wg.x * 32 + lane.x;
  let end = min((wg.y + 1) * params.chunk, params.rows);
  var sum = 0.0;
  if (c < params.cols) {
    for (var row = wg.y * params.chunk + lane.y; row < end; row += 8) {
      sum += f32(dy[row * params.cols + c]) * f32(x[row * params.cols + c]);
    }
  }
  sums[lane.y][lane.x] = sum;
  for (var half = 4u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane.y < half) { sums[lane.y][lane.x] += sums[lane.y + half][lane.x]; }
  }
  if (lane.y == 0 && c < params.cols) { partial[wg.y * params.cols + c] = sums[0][lane.x]; }
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

export function scaleForward(x: Tensor, weight: Tensor): Tensor {
  const y = emptyLike(x);
  forwardKernel(x.dtype as FloatType, weight.dtype as FloatType).run(
    { params: { size: x.size, cols: weight.size }, x, weight, y },
    { workgroups: threads(x.size) },
  );
  return y;
}

export const scaleInputGrad = (dy: Tensor, weight: Tensor): Tensor => scaleForward(dy, weight);

export function scaleWeightGrad(dy: Tensor, x: Tensor, weight: Tensor): Tensor {
  const cols = weight.size;
  const rows = x.size / cols;
  const tiles = Math.ceil(cols / 32);
  // Enough chunks to fill a large GPU, none so short that summing the chunks costs more than they save.
  const chunk = Math.max(64, Math.ceil(rows / Math.max(1, Math.floor(528 / tiles))));
  const chunks = Math.ceil(rows / chunk);
  const partial = empty([chunks, cols], { device: x.device });
  weightGradKernel(x.dtype as FloatType).run(
    { params: { rows, cols, chunk }, x, dy, partial },
    { workgroups: [tiles, chunks] },
  );
  const dw = sumRows(partial, weight.shape, weight.dtype as FloatType);
  partial.dispose();
  return dw;
}

// Differentiable function -----------------------------------------------------------------------

/** Multiplies each channel, an index of the last axis of `x`, by its element of `weight`. y has the dtype of x. */
export function scale(x: Tensor, weight: Tensor): Tensor {
  check(x, weight);
  return record(scaleForward(x, weight), [x, weight], (dy) => [
    needsGrad(x) ? scaleInputGrad(dy, weight) : null,
    needsGrad(weight) ? scaleWeightGrad(dy, x, weight) : null,
  ]);
}

function check(x: Tensor, weight: Tensor): void {
  for (const [name, { dtype }] of Object.entries({ x, weight })) {
    if (dtype !== "f32" && dtype !== "f16") throw new Error(`scale: ${name} is ${dtype}, expected f32 or f16`);
  }
  const cols = x.shape.at(-1) ?? 1;
  if (weight.shape.length !== 1 || weight.size !== cols) {
    throw new Error(`scale: weight has shape [${weight.shape}], expected [${cols}], the last axis of x [${x.shape}]`);
  }
}

// Module ----------------------------------------------------------------------------------------

export interface ScaleOptions {
  device?: Device;
}

/** `scale` with a learned weight that starts at one. */
export class Scale extends Module {
  readonly size: number;
  readonly weight: Tensor;

  constructor(size: number, { device }: ScaleOptions = {}) {
    super();
    this.size = size;
    this.weight = parameter(ones([size], { device }));
  }

  forward(x: Tensor): Tensor {
    return scale(x, this.weight);
  }

  protected override extraRepr(): string {
    return `${this.size}`;
  }
}
