/**
 * Linear: an affine map of the last axis, with an optional activation in the same kernel. Matches torch.nn.Linear.
 *
 *   y  = f(z)             z = x · Wᵀ + b      x (rows, in), W (out, in), y (rows, out)
 *   dz = dy · f′(z)
 *   dx = dz · W           dW = dzᵀ · x        db = Σ_rows dz
 *
 * The three products are core's matmul; bias and activation ride in its epilogue. With an activation z is kept for the
 * backward pass, and one kernel of this file turns dy into dz and sums db on the way.
 * Order of this file: kernel, launchers, differentiable function, module.
 */
import {
  autocastType,
  cast,
  checkPointwise,
  type Device,
  empty,
  emptyLike,
  type FloatType,
  type Kernel,
  kaimingUniform,
  kernel,
  Module,
  matmulForward,
  needsGrad,
  type Pointwise,
  parameter,
  record,
  sumRows,
  type Tensor,
  uniform,
} from "@kindling/core";

// Kernel ----------------------------------------------------------------------------------------

/**
 * dz = dy · f′(z), and Σ dz over a chunk of rows: a workgroup covers 32 columns (of 4 elements where rows divide so), 8 rows
 * at a time, and a thread stays on its column, so that the sum needs 8 partial sums in workgroup memory and no atomics.
 */
function gradSource(T: FloatType, f: Pointwise, wide: boolean): string {
  const F = wide ? "vec4f" : "f32";
  const V = wide ? `vec4<${T}>` : T;
  const grad = wide ? [..."xyzw"].map((c) => `${f.name}Grad(a.${c}, g.${c})`).join(", ") : `${f.name}Grad(a, g)`;
  return /* wgsl */ `
struct Params { rows: u32, cols: u32, chunk: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> z: array<${V}>;
@group(0) @binding(2) var<storage, read> dy: array<${V}>;
@group(0) @binding(3) var<storage, read_write> dz: array<${V}>;
@group(0) @binding(4) var<storage, read_write> partial: array<${wide ? "vec4<f32>" : "f32"}>;

var<workgroup> sums: array<array<${F}, 32>, 8>;
${f.forward}
${f.backward}

@compute @workgroup_size(32, 8)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let col = wg.x * 32 + lane.x;
  let end = min((wg.y + 1) * params.chunk, params.rows);
  var sum = ${F}();
  if (col < params.cols) {
    for (var row = wg.y * params.chunk + lane.y; row < end; row += 8) {
      let i = row * params.cols + col;
      let a = ${F}(z[i]);
      let g = ${F}(dy[i]);
      let d = ${F}(${grad});
      dz[i] = ${V}(d);
      sum += d;
    }
  }
  sums[lane.y][lane.x] = sum;
  for (var half = 4u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane.y < half) { sums[lane.y][lane.x] += sums[lane.y + half][lane.x]; }
  }
  if (lane.y == 0 && col < params.cols) { partial[wg.y * params.cols + col] = sums[0][lane.x]; }
}`;
}

/** One kernel for each activation, dtype and width. */
const gradKernels = new WeakMap<Pointwise, Map<string, Kernel>>();

function gradKernel(T: FloatType, f: Pointwise, wide: boolean): Kernel {
  let built = gradKernels.get(f);
  if (!built) gradKernels.set(f, (built = new Map()));
  const key = `${T} ${wide}`;
  let k = built.get(key);
  if (!k) built.set(key, (k = kernel(`linear.grad.${f.name}.${T}`, gradSource(T, f, wide))));
  return k;
}

// Launchers -------------------------------------------------------------------------------------

/** dz, of dy's dtype, and db, f32 [cols]. */
export function linearActivationGrad(dy: Tensor, z: Tensor, activation: Pointwise): { dz: Tensor; db: Tensor } {
  const cols = z.shape.at(-1)!;
  const rows = z.size / cols;
  const wide = cols % 4 === 0;
  const vectors = wide ? cols / 4 : cols;
  const tiles = Math.ceil(vectors / 32);
  const chunk = Math.max(8, Math.ceil(rows / Math.max(1, Math.min(128, Math.floor(2048 / tiles)))));
  const chunks = Math.ceil(rows / chunk);
  const dz = emptyLike(z);
  const partial = empty([chunks, cols], { device: z.device });
  gradKernel(z.dtype as FloatType, activation, wide).run(
    { params: { rows, cols: vectors, chunk }, z, dy, dz, partial },
    { workgroups: [tiles, chunks] },
  );
  const db = chunks === 1 ? partial.view(0, [cols]) : sumRows(partial, [cols]);
  partial.dispose();
  return { dz, db };
}

// Differentiable function -----------------------------------------------------------------------

export interface LinearOptions {
  /** Applied to the result, fused: anything with the WGSL of a function and its derivative. */
  activation?: Pointwise | null;
}

/**
 * `activation(x · weightᵀ + bias)`: x [..., in], weight [out, in], bias [out] → [..., out]. Under autocast the operands are
 * rounded to f16 and y is f16. Matches torch.nn.functional.linear.
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  { activation = null }: LinearOptions = {},
): Tensor {
  check(x, weight, bias, activation);
  const [N, K] = weight.shape as [number, number];
  const M = x.size / K;
  const compute = autocastType() ?? (x.dtype as FloatType);
  const keepZ = activation !== null && [x, weight, bias].some(needsGrad);
  const { c: y, z } = matmulForward(x, weight, {
    ...{ M, N, K, transposeB: true, compute, dtype: compute, bias, activation, keepZ },
    shape: [...x.shape.slice(0, -1), N],
  });
  return record(y, [x, weight, bias ?? x], (dy) => {
    const act = activation && z ? linearActivationGrad(dy, z, activation) : null;
    const dz = act?.dz ?? dy;
    const dx = needsGrad(x)
      ? matmulForward(dz, weight, { M, N: K, K: N, compute, shape: x.shape, dtype: x.dtype as FloatType }).c
      : null;
    const dw = needsGrad(weight)
      ? matmulForward(dz, x, {
          M: N,
          N: K,
          K: M,
          transposeA: true,
          compute,
          shape: weight.shape,
          dtype: weight.dtype as FloatType,
        }).c
      : null;
    const db = needsGrad(bias) ? (act?.db ?? sumRows(dy, bias.shape, "f32")) : null;
    act?.dz.dispose();
    return [dx, dw, db && bias && cast(db, bias.dtype)];
  });
}

function check(x: Tensor, weight: Tensor, bias: Tensor | null, activation: Pointwise | null): void {
  for (const [name, t] of Object.entries({ x, weight, bias })) {
    if (t && t.dtype !== "f32" && t.dtype !== "f16")
      throw new Error(`linear: ${name} is ${t.dtype}, expected f32 or f16`);
  }
  if (weight.shape.length !== 2) throw new Error(`linear: weight has shape [${weight.shape}], expected [out, in]`);
  const [out, inputs] = weight.shape;
  if (x.shape.length === 0 || x.shape.at(-1) !== inputs)
    throw new Error(`linear: x has shape [${x.shape}], expected [..., ${inputs}] for weight [${weight.shape}]`);
  if (bias && (bias.shape.length !== 1 || bias.size !== out))
    throw new Error(`linear: bias has shape [${bias.shape}], expected [${out}]`);
  if (!autocastType() && x.dtype !== weight.dtype)
    throw new Error(`linear: x is ${x.dtype} and weight ${weight.dtype}, expected one dtype (or autocast)`);
  if (activation) checkPointwise("linear: activation", activation);
}

// Module ----------------------------------------------------------------------------------------

export interface LinearModuleOptions extends LinearOptions {
  /** Learn a bias. Default true. */
  bias?: boolean;
  device?: Device;
}

/** `linear` with learned weight [out, in] and bias [out]. Matches `torch.nn.Linear(inFeatures, outFeatures, …)`. */
export class Linear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly activation: Pointwise | null;
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(
    inFeatures: number,
    outFeatures: number,
    { bias = true, activation = null, device }: LinearModuleOptions = {},
  ) {
    super();
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    this.activation = activation && checkPointwise("Linear: activation", activation);
    // PyTorch's initialisation: both uniform in ±1/√in.
    const bound = 1 / Math.sqrt(inFeatures);
    this.weight = parameter(kaimingUniform(empty([outFeatures, inFeatures], { device }), { a: Math.sqrt(5) }));
    this.bias = bias ? parameter(uniform(empty([outFeatures], { device }), -bound, bound)) : null;
  }

  forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias, this);
  }

  protected override extraRepr(): string {
    const activation = this.activation ? `, activation=${this.activation.name}` : "";
    return `inFeatures=${this.inFeatures}, outFeatures=${this.outFeatures}, bias=${this.bias !== null}${activation}`;
  }
}
