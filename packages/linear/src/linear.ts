/**
 * Linear: an affine map of the last axis, with an optional activation and dropout in the same kernel. Matches torch.nn.Linear.
 *
 *   y  = f(z) · m         z = x · Wᵀ + b      x (rows, in), W (out, in), y (rows, out)
 *   dz = dy · m · f′(z)   m = 1; with dropout p, 0 with probability p, else 1 / (1 − p)
 *   dx = dz · W           dW = dzᵀ · x        db = Σ_rows dz
 *
 * The three products are core's matmul; bias, activation and dropout ride in its epilogue. With an activation z is kept
 * for the backward pass, and one kernel of this file turns dy into dz and sums db on the way; inputs that an activation
 * has beside z are read, and their gradients made, in the same places. The mask is never stored: four of its elements
 * are a pure function of their number, the random stream and the seed (pcg4d), drawn again in the backward.
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
  type InputGrads,
  type Inputs,
  inputGrads,
  inputsOf,
  type Kernel,
  kaimingUniform,
  kernel,
  type MatmulLaunch,
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
  variants,
} from "@kindling/core";

// Kernel ----------------------------------------------------------------------------------------

/** `NAME4` and `NAME1`: vec4 number i of y, or element i, masked. An element stays above the threshold. */
const maskSource = (name: string): string => /* wgsl */ `
@group(0) @binding(6) var<storage, read> rng: array<u32>;
${pcg4d}
fn maskBits(i: u32) -> vec4u { return pcg4d(vec4u(i, rng[2] + params.stream, rng[0], rng[1])); }
fn ${name}4(i: u32, v: vec4f) -> vec4f { return select(vec4f(0), v * params.scale, maskBits(i) > vec4u(params.threshold)); }
fn ${name}1(i: u32, v: f32) -> f32 { return select(0, v * params.scale, maskBits(i / 4)[i % 4] > params.threshold); }`;

/** What the matrix product calls last. */
const mask: Finish = { fields: "stream: u32, threshold: u32, scale: f32", source: maskSource("finish") };

/** The same after an activation with inputs, `activated`. */
const maskedInputs = variants(
  (fields: string, source: string): Finish => ({
    fields: `${fields}, ${mask.fields}`,
    source: `${source}${maskSource("masked")}
fn finish4(i: u32, v: vec4f) -> vec4f { return masked4(i, activated4(i, v)); }
fn finish1(i: u32, v: f32) -> f32 { return masked1(i, activated1(i, v)); }`,
  }),
);

/**
 * dz = dy · m · f′(z), and Σ dz over a chunk of rows: a workgroup covers 32 columns (of 4 elements where rows divide so), 8 rows
 * at a time, and a thread stays on its column, so that the sum needs 8 partial sums in workgroup memory and no atomics.
 */
function gradSource(
  T: FloatType,
  f: Pointwise | null,
  wide: boolean,
  masked: boolean,
  inputs: InputGrads | null,
): string {
  const F = wide ? "vec4f" : "f32";
  const V = wide ? `vec4<${T}>` : T;
  const slope = inputs
    ? "inputGrads(i, a, g)"
    : f && (wide ? [..."xyzw"].map((c) => `${f.name}Grad(a.${c}, g.${c})`).join(", ") : `${f.name}Grad(a, g)`);
  /** For each of what the activation's inputs want summed too; `k` numbers them. */
  const more = (text: (k: number) => string): string =>
    Array.from({ length: inputs?.sums ?? 0 }, (_, k) => text(k)).join("\n  ");
  const at = "wg.y * params.cols + col";
  return /* wgsl */ `
struct Params { rows: u32, cols: u32, chunk: u32, ${mask.fields}${inputs ? `, ${inputs.text.fields}` : ""} }

@group(0) @binding(0) var<uniform> params: Params;
${f ? `@group(0) @binding(1) var<storage, read> z: array<${V}>;` : ""}
@group(0) @binding(2) var<storage, read> dy: array<${V}>;
@group(0) @binding(3) var<storage, read_write> dz: array<${V}>;
@group(0) @binding(4) var<storage, read_write> partial: array<${wide ? "vec4<f32>" : "f32"}>;

var<workgroup> sums: array<array<${F}, 32>, 8>;
${more((k) => `var<workgroup> sums${k}: array<array<${F}, 32>, 8>;`)}
${inputs ? inputs.text.source : f ? f.forward + f.backward : ""}
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
  ${more((k) => `sums${k}[lane.y][lane.x] = inputSum${k};`)}
  for (var half = 4u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane.y < half) {
      sums[lane.y][lane.x] += sums[lane.y + half][lane.x];
      ${more((k) => `sums${k}[lane.y][lane.x] += sums${k}[lane.y + half][lane.x];`)}
    }
  }
  if (lane.y == 0 && col < params.cols) {
    partial[${at}] = sums[0][lane.x];
    ${more((k) =>
      wide
        ? `for (var e = 0u; e < 4; e++) { inputPartial(${k}, (${at}) * 4 + e, sums${k}[0][lane.x][e]); }`
        : `inputPartial(${k}, ${at}, sums${k}[0][lane.x]);`,
    )}
  }
}`;
}

/** One kernel for each activation, dtype, width, with or without a mask, and what its inputs add to the text. */
const gradKernels = new WeakMap<object, Map<string, Kernel>>();
const noActivation = {};

function gradKernel(
  T: FloatType,
  f: Pointwise | null,
  wide: boolean,
  masked: boolean,
  inputs: InputGrads | null,
): Kernel {
  let built = gradKernels.get(f ?? noActivation);
  if (!built) gradKernels.set(f ?? noActivation, (built = new Map()));
  const key = `${T} ${wide} ${masked} ${inputs?.text.source}`;
  let k = built.get(key);
  if (!k) built.set(key, (k = kernel(`linear.grad.${f?.name ?? "mask"}.${T}`, gradSource(T, f, wide, masked, inputs))));
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

/**
 * dz, of dy's dtype, and db, f32 [cols]: of the activation of z, if there is one, and the mask, if elements are
 * dropped. dinputs: the gradients of the activation's inputs.
 */
export function linearActivationGrad(
  dy: Tensor,
  z: Tensor | null,
  activation: Pointwise | null,
  drop: Drop | null = null,
  inputs: Inputs | null = null,
): { dz: Tensor; db: Tensor; dinputs: (Tensor | null)[] } {
  const cols = dy.shape.at(-1)!;
  const rows = dy.size / cols;
  const wide = cols % 4 === 0;
  const vectors = wide ? cols / 4 : cols;
  const tiles = Math.ceil(vectors / 32);
  const chunk = Math.max(8, Math.ceil(rows / Math.max(1, Math.min(128, Math.floor(2048 / tiles)))));
  const chunks = Math.ceil(rows / chunk);
  const dz = emptyLike(dy);
  const own = inputs && inputGrads(inputs, wide, chunks);
  const partial = empty([chunks, cols], { device: dy.device });
  const params = { rows, cols: vectors, chunk, ...maskParams(drop), ...own?.params };
  gradKernel(dy.dtype as FloatType, activation, wide, drop !== null, own).run(
    { params, ...(z && { z }), dy, dz, partial, ...(drop && { rng: drop.stream.state }), ...own?.bindings },
    { workgroups: [tiles, chunks] },
  );
  const db = chunks === 1 ? partial.view(0, [cols]) : sumRows(partial, [cols]);
  partial.dispose();
  return { dz, db, dinputs: own?.grads() ?? [] };
}

// Differentiable function -----------------------------------------------------------------------

export interface LinearOptions {
  /** Applied to the result, fused: anything with the WGSL of a function and its derivative. */
  activation?: Pointwise | null;
  /** Probability of zeroing an element of the result; the others are scaled by 1 / (1 − dropout). Default 0. */
  dropout?: number;
  /**
   * For the activation's parameters after x, in order: f32, f16 or bool, of y's shape, or [out] for one value for each
   * output. The floats among them get gradients.
   */
  inputs?: readonly Tensor[];
}

/**
 * `dropout(activation(x · weightᵀ + bias, ...inputs))`: x [..., in], weight [out, in], bias [out] → [..., out]. Under
 * autocast the operands are rounded to f16 and y is f16. Matches torch.nn.functional.linear.
 */
export function linear(
  x: Tensor,
  weight: Tensor,
  bias: Tensor | null = null,
  { activation = null, dropout = 0, inputs = [] }: LinearOptions = {},
): Tensor {
  check(x, weight, bias);
  checkDropout("linear", dropout);
  const [N, K] = weight.shape as [number, number];
  const shape = [...x.shape.slice(0, -1), N];
  const place = dropout > 0 ? { at: 7, name: "activated", others: 5 } : {};
  const extra = inputsOf("linear", activation, inputs, shape, shape.length - 1, place);
  const other = extra ? null : delegated<Tensor>("linear", { x, weight, bias }, { activation, dropout });
  if (other) return other;
  const M = x.size / K;
  const compute = autocastType() ?? (x.dtype as FloatType);
  const keepZ = activation !== null && [x, weight, bias, ...inputs].some(needsGrad);
  const drop = dropout > 0 ? { p: dropout, stream: nextStream(x.device) } : null;
  const { c: y, z } = matmulForward(x, weight, {
    ...{ M, N, K, transposeB: true, compute, dtype: compute, bias, keepZ, shape },
    activation: extra ? null : activation,
    finish: finishOf(drop, extra),
  });
  return record(y, [x, weight, bias ?? x, ...inputs], (dy) => {
    const act = z || drop ? linearActivationGrad(dy, z, activation, drop, extra) : null;
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
    return [dx, dw, db && bias && cast(db, bias.dtype), ...(act?.dinputs ?? [])];
  });
}

/** The last step of the product's epilogue. */
function finishOf(drop: Drop | null, inputs: Inputs | null): MatmulLaunch["finish"] {
  if (!drop) return inputs;
  return {
    text: inputs ? maskedInputs(inputs.text.fields, inputs.text.source) : mask,
    bindings: { rng: drop.stream.state, ...inputs?.bindings },
    params: { ...maskParams(drop), ...inputs?.params },
  };
}

function check(x: Tensor, weight: Tensor, bias: Tensor | null): void {
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
}

function checkDropout(where: string, p: number): number {
  if (!(p >= 0 && p <= 1)) throw new Error(`${where}: dropout is ${p}, expected a probability from 0 to 1`);
  return p;
}

// Module ----------------------------------------------------------------------------------------

export interface LinearModuleOptions extends Omit<LinearOptions, "inputs"> {
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

  /** `inputs`: for the activation's parameters after x. */
  forward(x: Tensor, ...inputs: readonly Tensor[]): Tensor {
    return linear(x, this.weight, this.bias, {
      activation: this.activation,
      dropout: this.training ? this.dropout : 0,
      inputs,
    });
  }

  protected override extraRepr(): string {
    const activation = this.activation ? `, activation=${this.activation.name}` : "";
    const dropout = this.dropout > 0 ? `, dropout=${this.dropout}` : "";
    return `inFeatures=${this.inFeatures}, outFeatures=${this.outFeatures}, bias=${this.bias !== null}${activation}${dropout}`;
  }
}
