/**
 * Linear: an affine map of the last axis, with an optional activation and dropout in the same kernel. Matches torch.nn.Linear.
 *
 *   y  = f(z) · m         z = x · Wᵀ + b      x (rows, in), W (out, in), y (rows, out)
 *   dz = dy · m · f′(z)   m = 1; with dropout p, 0 with probability p, else 1 / (1 − p)
 *   dx = dz · W           dW = dzᵀ · x        db = Σ_rows dz
 *
 * The three products are core's matmul; bias, activation and dropout ride in its epilogue. With an activation z is kept for
 * the backward pass, and one kernel of this file turns dy into dz and sums db on the way. The mask is never stored: four of
 * its elements are a pure function of their number, the random stream and the seed (pcg4d), drawn again in the backward.
 * Order of this file: kernel, launchers, differentiable function, module.
 */
import {
  autocastType,
  cast,
  checkPointwise,
  type Device,
  delegated,
  empty,
  emptyLike,
  type Finish,
  type FloatType,
  type Kernel,
  kaimingUniform,
  kernel,
  Module,
  matmulForward,
  needsGrad,
  nextStream,
  type Pointwise,
  parameter,
  pcg4d,
  record,
  type Stream,
  sumRows,
  type Tensor,
  uniform,
} from "@kindling/core";

// Kernel ----------------------------------------------------------------------------------------

/** The mask of vec4 number i of y, or of element i; the matrix product calls it last. An element stays above the threshold. */
const mask: Finish = {
  fields: "stream: u32, threshold: u32, scale: f32",
  source: /* wgsl */ `
@group(0) @binding(6) var<storage, read> rng: array<u32>;
${pcg4d}
fn maskBits(i: u32) -> vec4u { return pcg4d(vec4u(i, rng[2] + params.stream, rng[0], rng[1])); }
fn finish4(i: u32, v: vec4f) -> vec4f { return select(vec4f(0), v * params.scale, maskBits(i) > vec4u(params.threshold)); }
fn finish1(i: u32, v: f32) -> f32 { return select(0, v * params.scale, maskBits(i / 4)[i % 4] > params.threshold); }`,
};

/**
 * dz = dy · m · f′(z), and Σ dz over a chunk of rows: a workgroup covers 32 columns (of 4 elements where rows divide so), 8 rows
 * at a time, and a thread stays on its column, so that the sum needs 8 partial sums in workgroup memory and no atomics.
 */
function gradSource(T: FloatType, f: Pointwise | null, wide: boolean, masked: boolean): string {
  const F = wide ? "vec4f" : "f32";
  const V = wide ? `vec4<${T}>` : T;
  const slope =
    f && (wide ? [..."xyzw"].map((c) => `${f.name}Grad(a.${c}, g.${c})`).join(", ") : `${f.name}Grad(a, g)`);
  return /* wgsl */ `
struct Params { rows: u32, cols: u32, chunk: u32, ${mask.fields} }

@group(0) @binding(0) var<uniform> params: Params;
${f ? `@group(0) @binding(1) var<storage, read> z: array<${V}>;` : ""}
@group(0) @binding(2) var<storage, read> dy: array<${V}>;
@group(0) @binding(3) var<storage, read_write> dz: array<${V}>;
@group(0) @binding(4) var<storage, read_write> partial: array<${wide ? "vec4<f32>" : "f32"}>;

var<workgroup> sums: array<array<${F}, 32>, 8>;
${f ? f.forward + f.backward : ""}
${masked ? mask.source : ""}

@compute @workgroup_size(32, 8)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let col = wg.x * 32 + lane.x;
  let end = min((wg.y + 1) * params.chunk, params.rows);
  var sum = ${F}();
  if (col < params.cols) {
    for (var row = wg.y * params.chunk + lane.y; row < end; row += 8) {
      let i = row * params.cols + col;
      let g = ${masked ? `finish${wide ? 4 : 1}(i, ${F}(dy[i]))` : `${F}(dy[i])`};
      ${slope ? `let a = ${F}(z[i]);\n      let d = ${F}(${slope});` : "let d = g;"}
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

/** One kernel for each activation, dtype, width, and with or without a mask. */
const gradKernels = new WeakMap<object, Map<string, Kernel>>();
const noActivation = {};

function gradKernel(T: FloatType, f: Pointwise | null, wide: boolean, masked: boolean): Kernel {
  let built = gradKernels.get(f ?? noActivation);
  if (!built) gradKernels.set(f ?? noActivation, (built = new Map()));
  const key = `${T} ${wide} ${masked}`;
  let k = built.get(key);
  if (!k) built.set(key, (k = kernel(`linear.grad.${f?.name ?? "mask"}.${T}`, gradSource(T, f, wide, masked))));
  return k;
}

// Launchers -------------------------------------------------------------------------------------

/** What a launch needs to drop elements: the probability and the random stream. */
export interface Drop {
  readonly p: number;
  readonly stream: Stream;
}

const maskParams = (drop: Drop | null) => ({
  stream: drop?.stream.offset ?? 0,
  // for p = 1 nothing is above the threshold
  threshold: Math.max(Math.round((drop?.p ?? 0) * 2 ** 32) - 1, 0),
  scale: drop && drop.p < 1 ? 1 / (1 - drop.p) : 0,
});

/** dz, of dy's dtype, and db, f32 [cols]: of the activation of z, if there is one, and the mask, if elements are dropped. */
export function linearActivationGrad(
  dy: Tensor,
  z: Tensor | null,
  activation: Pointwise | null,
  drop: Drop | null = null,
): { dz: Tensor; db: Tensor } {
  const cols = dy.shape.at(-1)!;
  const rows = dy.size / cols;
  const wide = cols % 4 === 0;
  const vectors = wide ? cols / 4 : cols;
  const tiles = Math.ceil(vectors / 32);
  const chunk = Math.max(8, Math.ceil(rows / Math.max(1, Math.min(128, Math.floor(2048 / tiles)))));
  const chunks = Math.ceil(rows / chunk);
  const dz = emptyLike(dy);
  const partial = empty([chunks, cols], { device: dy.device });
  const params = { rows, cols: vectors, chunk, ...maskParams(drop) };
  gradKernel(dy.dtype as FloatType, activation, wide, drop !== null).run(
    { params, ...(z && { z }), dy, dz, partial, ...(drop && { rng: drop.stream.state }) },
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
  /** Probability of zeroing an element of the result; the others are scaled by 1 / (1 − dropout). Default 0. */
  dropout?: number;
}

/**
 * `dropout(activation(x · weightᵀ + bias))`: x [..., in], weight [out, in], bias [out] → [..., out]. Under autocast the operands are
 * rounded to f16 and y is f16. Matches torch.nn.functional.linear.
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  { activation = null, dropout = 0 }: LinearOptions = {},
): Tensor {
  check(x, weight, bias, activation);
  checkDropout("linear", dropout);
  const other = delegated<Tensor>("linear", { x, weight, bias }, { activation, dropout });
  if (other) return other;
  const [N, K] = weight.shape as [number, number];
  const M = x.size / K;
  const compute = autocastType() ?? (x.dtype as FloatType);
  const keepZ = activation !== null && [x, weight, bias].some(needsGrad);
  const drop = dropout > 0 ? { p: dropout, stream: nextStream(x.device) } : null;
  const finish = drop && { text: mask, bindings: { rng: drop.stream.state }, params: maskParams(drop) };
  const { c: y, z } = matmulForward(x, weight, {
    ...{ M, N, K, transposeB: true, compute, dtype: compute, bias, activation, keepZ, finish },
    shape: [...x.shape.slice(0, -1), N],
  });
  return record(y, [x, weight, bias ?? x], (dy) => {
    const act = z || drop ? linearActivationGrad(dy, z, activation, drop) : null;
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

function checkDropout(where: string, p: number): number {
  if (!(p >= 0 && p <= 1)) throw new Error(`${where}: dropout is ${p}, expected a probability from 0 to 1`);
  return p;
}

// Module ----------------------------------------------------------------------------------------

export interface LinearModuleOptions extends LinearOptions {
  /** Learn a bias. Default true. */
  bias?: boolean;
  device?: Device;
}

/** `linear` with learned weight [out, in] and bias [out]; its dropout acts while training. Matches `torch.nn.Linear(inFeatures, outFeatures, …)`. */
export class Linear extends Module {
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly activation: Pointwise | null;
  readonly dropout: number;
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(
    inFeatures: number,
    outFeatures: number,
    { bias = true, activation = null, dropout = 0, device }: LinearModuleOptions = {},
  ) {
    super();
    this.inFeatures = inFeatures;
    this.outFeatures = outFeatures;
    this.activation = activation && checkPointwise("Linear: activation", activation);
    this.dropout = checkDropout("Linear", dropout);
    // PyTorch's initialisation: both uniform in ±1/√in.
    const bound = 1 / Math.sqrt(inFeatures);
    this.weight = parameter(kaimingUniform(empty([outFeatures, inFeatures], { device }), { a: Math.sqrt(5) }));
    this.bias = bias ? parameter(uniform(empty([outFeatures], { device }), -bound, bound)) : null;
  }

  forward(x: Tensor): Tensor {
    return linear(x, this.weight, this.bias, {
      activation: this.activation,
      dropout: this.training ? this.dropout : 0,
    });
  }

  protected override extraRepr(): string {
    const activation = this.activation ? `, activation=${this.activation.name}` : "";
    const dropout = this.dropout > 0 ? `, dropout=${this.dropout}` : "";
    return `inFeatures=${this.inFeatures}, outFeatures=${this.outFeatures}, bias=${this.bias !== null}${activation}${dropout}`;
  }
}
