/**
 * Activations: y = f(x), dx = dy · f'(x), element by element; with dropout p > 0 in the same kernel
 *
 *   y = f(x) · m       dx = dy · m · f'(x)       m = 0 with probability p, else 1 / (1 − p), drawn anew in the backward
 *
 * Each activation is a function of tensors and at the same time a Pointwise, the value that fused layers take:
 *
 *   gelu(x)   gelu(x, { dropout: 0.1 })   linear(x, w, b, { activation: gelu })
 *   leakyRelu(x, { negativeSlope: 0.2 })   linear(x, w, b, { activation: leakyRelu.with({ negativeSlope: 0.2 }) })
 *
 * `apply` takes any other Pointwise too, also one with inputs of its own, which are read, and whose gradients are
 * written, in the same kernels.
 *
 * Values and gradients at the seams of a piecewise function are PyTorch's. No finite x gives NaN; a NaN stays one, for which
 * comparisons and select stand where min, max and clamp would drop it.
 * Order of this file: kernels, launchers, differentiable function, activations, modules.
 */
import {
  checkPointwise,
  delegated,
  emptyLike,
  type FloatType,
  grid,
  type InputGrads,
  type Inputs,
  inputGrads,
  inputsOf,
  kernel,
  Module,
  nextStream,
  type Pointwise,
  pcg4d,
  pointwiseParameters,
  record,
  type Stream,
  type Tensor,
  variants,
} from "@kindling/core";

// Kernels ---------------------------------------------------------------------------------------

type Mask = "keep" | "drop";

/**
 * `dropped(i, v)`: vec4 number i of the tensor, masked. Its four random words are a pure function of i, the stream and the
 * seed, so that backward draws the mask of its forward pass.
 */
const masks: Record<Mask, string> = {
  keep: "fn dropped(i: u32, v: vec4f) -> vec4f { return v; }",
  drop: /* wgsl */ `
@group(0) @binding(1) var<storage, read> rng: array<u32>;
${pcg4d}
fn dropped(i: u32, v: vec4f) -> vec4f {
  let bits = pcg4d(vec4u(i, rng[2] + params.stream, rng[0], rng[1]));
  return select(vec4f(0), v * params.scale, bits > vec4u(params.threshold));
}`,
};

/** Two vec4s a thread, 256 apart: enough loads under way for f16 too. */
const main = (body: string): string => /* wgsl */ `
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (wg.x + wg.y * groups.x) * 512 + lane;
  for (var i = start; i < min(start + 512, params.vectors); i += 256) {
    ${body}
  }
}`;

const params = (more: string): string => /* wgsl */ `
struct Params { vectors: u32, stream: u32, threshold: u32, scale: f32${more && `, ${more}`} }

@group(0) @binding(0) var<uniform> params: Params;`;

/** `fields` and `inputs`: what the activation's inputs add, if it has any. */
const forwardKernel = ({ name, forward }: Pointwise, T: FloatType, mask: Mask, fields: string, inputs: string) =>
  kernel<string>(
    `${name}.forward.${T}.${mask}`,
    /* wgsl */ `
${params(fields)}
@group(0) @binding(2) var<storage, read> x: array<vec4<${T}>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<${T}>>;
${masks[mask]}
${inputs || forward}
${main(/* wgsl */ `let v = vec4f(x[i]);
    y[i] = vec4<${T}>(dropped(i, ${inputs ? "finish4(i, v)" : `vec4f(${name}(v.x), ${name}(v.y), ${name}(v.z), ${name}(v.w))`}));`)}`,
  );

const backwardKernel = (
  { name, forward, backward }: Pointwise,
  T: FloatType,
  mask: Mask,
  fields: string,
  inputs: string,
) =>
  kernel<string>(
    `${name}.backward.${T}.${mask}`,
    /* wgsl */ `
${params(fields)}
@group(0) @binding(2) var<storage, read> x: array<vec4<${T}>>;
@group(0) @binding(3) var<storage, read> dy: array<vec4<${T}>>;
@group(0) @binding(4) var<storage, read_write> dx: array<vec4<${T}>>;
${masks[mask]}
${inputs || `${forward}\n${backward}`}
${main(/* wgsl */ `let v = vec4f(x[i]);
    let g = dropped(i, vec4f(dy[i]));
    dx[i] = vec4<${T}>(${inputs ? "inputGrads(i, v, g)" : `vec4f(${name}Grad(v.x, g.x), ${name}Grad(v.y, g.y), ${name}Grad(v.z, g.z), ${name}Grad(v.w, g.w))`});`)}`,
  );

const kernelsOf = (fn: Pointwise) => ({
  inputs: pointwiseParameters(checkPointwise("apply", fn)).length - 1,
  forward: variants((T: FloatType, mask: Mask, fields: string, inputs: string) =>
    forwardKernel(fn, T, mask, fields, inputs),
  ),
  backward: variants((T: FloatType, mask: Mask, fields: string, inputs: string) =>
    backwardKernel(fn, T, mask, fields, inputs),
  ),
});

const built = new WeakMap<Pointwise, ReturnType<typeof kernelsOf>>();

function kernelsWith(fn: Pointwise): ReturnType<typeof kernelsOf> {
  let kernels = built.get(fn);
  if (!kernels) built.set(fn, (kernels = kernelsOf(fn)));
  return kernels;
}

// Launchers -------------------------------------------------------------------------------------

/** What a launch needs to drop elements: the probability and the random stream. */
export interface Drop {
  readonly p: number;
  readonly stream: Stream;
}

const launchOf = (x: Tensor, drop: Drop | null, inputs: Inputs | InputGrads | null) => {
  const vectors = Math.ceil(x.size / 4);
  const p = drop?.p ?? 0;
  return {
    variant: [
      x.dtype as FloatType,
      (drop ? "drop" : "keep") as Mask,
      inputs?.text.fields ?? "",
      inputs?.text.source ?? "",
    ] as const,
    bindings: {
      // An element stays where its random word exceeds the threshold: for p = 1, none.
      params: {
        vectors,
        stream: drop?.stream.offset ?? 0,
        threshold: Math.max(Math.round(p * 2 ** 32) - 1, 0),
        scale: p < 1 ? 1 / (1 - p) : 0,
        ...inputs?.params,
      },
      ...inputs?.bindings,
      ...(drop && { rng: drop.stream.state }),
    },
    workgroups: grid(Math.ceil(vectors / 512)),
  };
};

export function applyForward(fn: Pointwise, x: Tensor, drop: Drop | null, inputs: Inputs | null = null): Tensor {
  const { variant, bindings, workgroups } = launchOf(x, drop, inputs);
  const y = emptyLike(x);
  kernelsWith(fn)
    .forward(...variant)
    .run({ ...bindings, x, y }, { workgroups });
  return y;
}

/** dx, and the gradients of the inputs. */
export function applyBackward(
  fn: Pointwise,
  dy: Tensor,
  x: Tensor,
  drop: Drop | null,
  inputs: Inputs | null = null,
): { dx: Tensor; dinputs: (Tensor | null)[] } {
  const own = inputs && inputGrads(inputs, true, 0);
  const { variant, bindings, workgroups } = launchOf(x, drop, own);
  const dx = emptyLike(x);
  kernelsWith(fn)
    .backward(...variant)
    .run({ ...bindings, x, dy, dx }, { workgroups });
  return { dx, dinputs: own?.grads() ?? [] };
}

// Differentiable function -----------------------------------------------------------------------

export interface ActivationOptions {
  /** Probability of zeroing an element of the result; the others are scaled by 1 / (1 − dropout). Default 0. */
  dropout?: number;
}

export interface ApplyOptions extends ActivationOptions {
  /**
   * For fn's parameters after x, in order: f32, f16 or bool, of x's shape, or one value for each element of its last
   * axis. The floats among them get gradients.
   */
  inputs?: readonly Tensor[];
}

/** `fn(x, ...inputs)` of every element of `x`, in one kernel: any Pointwise, also one of your own. */
export function apply(fn: Pointwise, x: Tensor, { dropout = 0, inputs = [] }: ApplyOptions = {}): Tensor {
  const count = kernelsWith(fn).inputs; // throws unless fn is a Pointwise
  if (inputs.length !== count) checkPointwise("apply", fn, inputs.length);
  if (x.dtype !== "f32" && x.dtype !== "f16") throw new Error(`${fn.name}: x is ${x.dtype}, expected f32 or f16`);
  checkDropout(fn.name, dropout);
  const extra =
    count === 0
      ? null
      : inputsOf(fn.name, fn, inputs, x.shape, x.shape.length - 1, {
          at: 5,
          others: dropout > 0 ? 4 : 3,
          summing: false,
        });
  const other = extra ? null : delegated<Tensor>("activation", { x }, { activation: fn, dropout });
  if (other) return other;
  const drop = dropout > 0 ? { p: dropout, stream: nextStream(x.device) } : null;
  return record(applyForward(fn, x, drop, extra), [x, ...inputs], (dy) => {
    const { dx, dinputs } = applyBackward(fn, dy, x, drop, extra);
    return [dx, ...dinputs];
  });
}

function checkDropout(where: string, p: number): number {
  if (!(p >= 0 && p <= 1)) throw new Error(`${where}: dropout is ${p}, expected a probability from 0 to 1`);
  return p;
}

// Activations -----------------------------------------------------------------------------------

/** A function of tensors that is also a value to fuse. */
export interface Activation extends Pointwise {
  (x: Tensor, options?: ActivationOptions): Tensor;
}

/** An activation with numbers to choose; fused as it is, it has their defaults. */
export interface Parametric<Name extends string> extends Pointwise {
  (x: Tensor, options?: { readonly [K in Name]?: number } & ActivationOptions): Tensor;
  /** The activation with these numbers: the same object each time. */
  with(options: { readonly [K in Name]?: number }): Activation;
}

/** WGSL expressions in x and dy. "$" stands for the activation's name, which every function that it defines begins with. */
interface Formula {
  readonly helpers?: string;
  readonly value: string;
  readonly grad: string;
}

/** Adds a Pointwise to a function. Its name is defined, not inferred: minifiers rename functions. */
/* @__NO_SIDE_EFFECTS__ */
function pointwise<F extends object>(call: F, name: string, { helpers = "", value, grad }: Formula): F & Pointwise {
  const wgsl = (text: string): string => text.replaceAll("$", name);
  Object.defineProperty(call, "name", { value: name });
  return Object.assign(call, {
    forward: wgsl(`${helpers}\nfn $(x: f32) -> f32 { return ${value}; }\n`),
    backward: wgsl(`fn $Grad(x: f32, dy: f32) -> f32 { return ${grad}; }\n`),
  }) as F & Pointwise;
}

/* @__NO_SIDE_EFFECTS__ */
function activation(name: string, formula: Formula): Activation {
  const call = (x: Tensor, options?: ActivationOptions): Tensor => apply(self, x, options);
  const self: Activation = pointwise(call, name, formula);
  return self;
}

/** Each choice of numbers is an activation of its own, with a name of its own; `wrong` says why one is none. */
/* @__NO_SIDE_EFFECTS__ */
function parametric<Name extends string>(
  name: string,
  defaults: Readonly<Record<Name, number>>,
  build: (numbers: Readonly<Record<Name, string>>) => Formula,
  wrong: (...values: number[]) => string | false = () => false,
): Parametric<Name> {
  const keys = Object.keys(defaults) as Name[];
  const formula = (values: readonly number[]): Formula =>
    build(Object.fromEntries(keys.map((key, i) => [key, `f32(${values[i]})`])) as Record<Name, string>);
  const make = variants((...values: number[]) => {
    values.forEach((v, i) => {
      if (!Number.isFinite(v)) throw new Error(`${name}: ${keys[i]} is ${v}, expected a finite number`);
    });
    const problem = wrong(...values);
    if (problem) throw new Error(`${name}: ${problem}`);
    // 0.2 → _0p2, -1e-7 → _m1em7
    const suffix = values.map((v) => `_${v}`.replaceAll("-", "m").replace("+", "").replace(".", "p")).join("");
    return activation(name + suffix, formula(values));
  });
  const choose = (options: { readonly [K in Name]?: number }): Activation =>
    make(...keys.map((key) => options[key] ?? defaults[key]));
  const call = (x: Tensor, options: { readonly [K in Name]?: number } & ActivationOptions = {}): Tensor =>
    apply(choose(options), x, options);
  return pointwise(Object.assign(call, { with: choose }), name, formula(keys.map((key) => defaults[key])));
}

/** 1 / (1 + e⁻ˣ) without overflow on either side. */
const sigmoidHelper = /* wgsl */ `
fn $Sigmoid(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(1.0, e, x < 0.0) / (1.0 + e);
}`;

/** log(1 + e) for e in [0, 1], exact near 0: 2·artanh(e / (2 + e)). */
const log1pHelper = /* wgsl */ `
fn $Log1p(e: f32) -> f32 {
  let s = e / (2.0 + e);
  let q = s * s;
  return 2.0 * s * (1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * (1.0 / 7 + q * (1.0 / 9 + q * (1.0 / 11 + q * (1.0 / 13)))))));
}`;

/** eˣ − 1 for x ≤ 0, exact near 0. */
const expm1Helper = /* wgsl */ `
fn $Expm1(x: f32) -> f32 {
  let series = x * (1 + x / 2 * (1 + x / 3 * (1 + x / 4 * (1 + x / 5 * (1 + x / 6 * (1 + x / 7 * (1 + x / 8)))))));
  return select(series, exp(x) - 1, x < -0.5);
}`;

/** max(x, 0). */
export const relu: Activation = activation("relu", {
  value: "select(x, 0.0, x < 0.0)",
  grad: "select(dy, 0.0, x <= 0.0)",
});

/** relu(x)². */
export const squaredRelu: Activation = activation("squaredRelu", {
  value: "select(x * x, 0.0, x < 0.0)",
  grad: "select(2.0 * x * dy, 0.0, x <= 0.0)",
});

/** x, or negativeSlope · x below 0. */
export const leakyRelu: Parametric<"negativeSlope"> = parametric(
  "leakyRelu",
  { negativeSlope: 0.01 },
  ({ negativeSlope }) => ({
    value: `select(${negativeSlope} * x, x, x > 0.0)`,
    grad: `select(${negativeSlope} * dy, dy, x > 0.0)`,
  }),
);

/** x between minVal and maxVal. */
export const hardtanh: Parametric<"minVal" | "maxVal"> = parametric(
  "hardtanh",
  { minVal: -1, maxVal: 1 },
  ({ minVal, maxVal }) => ({
    value: `select(select(x, ${minVal}, x < ${minVal}), ${maxVal}, x > ${maxVal})`,
    grad: `select(dy, 0.0, x <= ${minVal} || x >= ${maxVal})`,
  }),
  (minVal, maxVal) => minVal! > maxVal! && `minVal is ${minVal}, expected at most maxVal, ${maxVal}`,
);

/** x between 0 and 6. */
export const relu6: Activation = activation("relu6", {
  value: "select(select(x, 0.0, x < 0.0), 6.0, x > 6.0)",
  grad: "select(dy, 0.0, x <= 0.0 || x >= 6.0)",
});

/** x, or alpha · (eˣ − 1) below 0. */
export const elu: Parametric<"alpha"> = parametric("elu", { alpha: 1 }, ({ alpha }) => ({
  helpers: expm1Helper,
  value: `select(${alpha} * $Expm1(x), x, x > 0.0)`,
  grad: `dy * select(${alpha} * exp(x), 1.0, x > 0.0)`,
}));

/** x, or alpha · (exp(x / alpha) − 1) below 0. */
export const celu: Parametric<"alpha"> = parametric(
  "celu",
  { alpha: 1 },
  ({ alpha }) => ({
    helpers: expm1Helper,
    value: `select(${alpha} * $Expm1(x / ${alpha}), x, x > 0.0)`,
    grad: `dy * select(exp(x / ${alpha}), 1.0, x > 0.0)`,
  }),
  (alpha) => alpha === 0 && "alpha is 0, expected another number",
);

/** elu with the alpha and scale that keep mean 0 and variance 1 (Klambauer et al. 2017). */
export const selu: Activation = activation("selu", {
  helpers: expm1Helper,
  value: "1.0507009873554805 * select(1.6732632423543772 * $Expm1(x), x, x > 0.0)",
  grad: "dy * 1.0507009873554805 * select(1.6732632423543772 * exp(x), 1.0, x > 0.0)",
});

/**
 * Φ(x), the normal distribution function, from its tail h = Φ(−|x|) = e^(−x²/2) · t · poly(t), t = 1 / (1 + 0.31·|x|): a fit
 * with a relative error of 1.7e-7, so that neither tail cancels.
 */
const normalHelper = /* wgsl */ `
fn $Exp(x: f32) -> f32 { let a = select(abs(x), 15.0, abs(x) > 15.0); return exp(-0.5 * a * a); }
fn $Normal(x: f32) -> f32 {
  let t = 1 / (1 + 0.31 * abs(x));
  var h = 0.0358905122;
  h = h * t - 0.141818658;
  h = h * t + 0.155458152;
  h = h * t - 0.0152853252;
  h = h * t + 0.110325947;
  h = h * t + 0.107700974;
  h = h * t + 0.124072418;
  h = h * t + 0.123656064;
  h *= t * $Exp(x);
  return select(h, 1 - h, x > 0.0);
}`;

/** x · (1 + tanh(u)) / 2, u = √(2/π) · (x + 0.044715·x³), as x · sigmoid(2u). gelu's approximate: "tanh". */
export const geluTanh: Activation = activation("geluTanh", {
  helpers: /* wgsl */ `
fn $Size(x: f32) -> f32 { return select(abs(x), 15.0, abs(x) > 15.0); }
fn $Exp(a: f32) -> f32 { return exp(-2.0 * a * (0.7978845608 + 0.0356774081 * a * a)); }
fn $Gate(x: f32) -> f32 {
  let e = $Exp($Size(x));
  return select(1.0, e, x < 0.0) / (1.0 + e);
}
fn $Slope(x: f32) -> f32 {
  let a = $Size(x);
  let e = $Exp(a);
  return 2.0 * e / ((1.0 + e) * (1.0 + e)) * (0.7978845608 + 0.1070322243 * a * a);
}`,
  value: "x * $Gate(x)",
  grad: "dy * ($Gate(x) + x * $Slope(x))",
});

export interface GeluOptions extends ActivationOptions {
  /** Default "none": with the exact Φ. */
  approximate?: "none" | "tanh";
}

/** x · Φ(x), Φ the normal distribution function; or `geluTanh`, which comes close to it. */
export const gelu: Pointwise & ((x: Tensor, options?: GeluOptions) => Tensor) = pointwise(
  (x: Tensor, { approximate = "none", ...options }: GeluOptions = {}): Tensor => apply(geluOf(approximate), x, options),
  "gelu",
  {
    helpers: normalHelper,
    value: "x * $Normal(x)",
    grad: "dy * ($Normal(x) + x * 0.3989422804 * $Exp(x))",
  },
);

function geluOf(approximate: "none" | "tanh"): Pointwise {
  if (approximate === "none") return gelu;
  if (approximate === "tanh") return geluTanh;
  throw new Error(`gelu: approximate is "${approximate}", expected "none" or "tanh"`);
}

/** 1 / (1 + e⁻ˣ). */
export const sigmoid: Activation = activation("sigmoid", {
  helpers: sigmoidHelper,
  value: "select($Sigmoid(x), x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u)", // exp of a NaN is a number on some drivers
  grad: "dy * $Sigmoid(x) * $Sigmoid(-x)",
});

/** log(sigmoid(x)). */
export const logSigmoid: Activation = activation("logSigmoid", {
  helpers: sigmoidHelper + log1pHelper,
  value: "min(x, 0.0) - $Log1p(exp(-abs(x)))",
  grad: "dy * $Sigmoid(-x)",
});

/** x · sigmoid(x). */
export const silu: Activation = activation("silu", {
  helpers: sigmoidHelper,
  value: "x * $Sigmoid(x)",
  grad: "dy * $Sigmoid(x) * (1 + x * $Sigmoid(-x))",
});

/** x · tanh(log(1 + eˣ)). With n = eˣ and w = n·(n + 2) the tanh is w / (w + 2); at x = 20 it is 1. */
export const mish: Activation = activation("mish", {
  helpers: /* wgsl */ `
fn $Exp(x: f32) -> f32 { return exp(select(x, 20.0, x > 20.0)); }
fn $Gate(x: f32) -> f32 {
  let n = $Exp(x);
  let w = n * (n + 2.0);
  return w / (w + 2.0);
}
fn $Slope(x: f32) -> f32 {
  let n = $Exp(x);
  let d = n * (n + 2.0) + 2.0;
  return select(4.0 * n / d * ((1.0 + n) / d), 0.0, x > 20.0);
}`,
  value: "x * $Gate(x)",
  grad: "dy * ($Gate(x) + x * $Slope(x))",
});

/** The hyperbolic tangent from eˣ − 1, exact near 0; WGSL's own overflows on some drivers. */
const tanhHelper = /* wgsl */ `${expm1Helper}
fn $Tanh(x: f32) -> f32 {
  let m = $Expm1(-abs(x));
  let p = m * (2.0 + m);
  let t = p / (2.0 + p);
  return select(-t, t, x < 0.0);
}`;

const tanhSlopeHelper = /* wgsl */ `
fn $Slope(x: f32) -> f32 {
  let e = exp(-abs(x));
  let d = 1.0 + e * e;
  return 4.0 * e / d * (e / d);
}`;

export const tanh: Activation = activation("tanh", {
  helpers: tanhHelper + tanhSlopeHelper,
  value: "$Tanh(x)",
  grad: "dy * $Slope(x)",
});

/** cap · tanh(x / cap): nearly x for small x, never beyond ±cap. Logits of a language model (Gemma 2). */
export const softcap: Parametric<"cap"> = parametric(
  "softcap",
  { cap: 30 },
  ({ cap }) => ({
    helpers: tanhHelper + tanhSlopeHelper,
    value: `${cap} * $Tanh(x / ${cap})`,
    grad: `dy * $Slope(x / ${cap})`,
  }),
  (cap) => !(cap! > 0) && `cap is ${cap}, expected a number above 0`,
);

/** x − tanh(x). */
export const tanhshrink: Activation = activation("tanhshrink", {
  helpers: tanhHelper,
  value: "x - $Tanh(x)",
  grad: "dy * $Tanh(x) * $Tanh(x)",
});

/** x / 6 + 1/2 between 0 and 1. */
export const hardsigmoid: Activation = activation("hardsigmoid", {
  value: "select(select(x / 6.0 + 0.5, 0.0, x <= -3.0), 1.0, x >= 3.0)",
  grad: "select(dy / 6.0, 0.0, x <= -3.0 || x >= 3.0)",
});

/** x · hardsigmoid(x). */
export const hardswish: Activation = activation("hardswish", {
  value: "x * select(select(x / 6.0 + 0.5, 0.0, x <= -3.0), 1.0, x >= 3.0)",
  grad: "dy * select(select(x / 3.0 + 0.5, 0.0, x <= -3.0), 1.0, x >= 3.0)",
});

/** log(1 + exp(beta · x)) / beta, and x itself where beta · x is above the threshold. */
export const softplus: Parametric<"beta" | "threshold"> = parametric(
  "softplus",
  { beta: 1, threshold: 20 },
  ({ beta, threshold }) => ({
    helpers: sigmoidHelper + log1pHelper,
    value: `select((max(${beta} * x, 0.0) + $Log1p(exp(-abs(${beta} * x)))) / ${beta}, x, ${beta} * x > ${threshold})`,
    grad: `select(dy * $Sigmoid(${beta} * x), dy, ${beta} * x > ${threshold})`,
  }),
  (beta) => beta === 0 && "beta is 0, expected another number",
);

/** x / (1 + |x|). */
export const softsign: Activation = activation("softsign", {
  value: "x / (1.0 + abs(x))",
  grad: "dy / (1.0 + abs(x)) / (1.0 + abs(x))",
});

/** x, or 0 between −lambd and lambd. */
export const hardshrink: Parametric<"lambd"> = parametric("hardshrink", { lambd: 0.5 }, ({ lambd }) => ({
  value: `select(x, 0.0, x >= -${lambd} && x <= ${lambd})`,
  grad: `select(dy, 0.0, x >= -${lambd} && x <= ${lambd})`,
}));

/** x moved towards 0 by lambd, or 0 between −lambd and lambd. */
export const softshrink: Parametric<"lambd"> = parametric(
  "softshrink",
  { lambd: 0.5 },
  ({ lambd }) => ({
    value: `select(select(x + ${lambd}, 0.0, x >= -${lambd}), x - ${lambd}, x > ${lambd})`,
    grad: `select(dy, 0.0, x >= -${lambd} && x <= ${lambd})`,
  }),
  (lambd) => lambd! < 0 && `lambd is ${lambd}, expected 0 or more`,
);

// Modules ---------------------------------------------------------------------------------------

/** A Pointwise as a module; its dropout acts while training. */
class ActivationModule extends Module {
  readonly fn: Pointwise;
  readonly dropout: number;
  readonly #options: ActivationOptions;

  constructor(fn: Pointwise, options: ActivationOptions = {}) {
    super();
    this.fn = fn;
    this.dropout = checkDropout(fn.name, options.dropout ?? 0);
    this.#options = options;
  }

  forward(x: Tensor): Tensor {
    return apply(this.fn, x, { dropout: this.training ? this.dropout : 0 });
  }

  protected override extraRepr(): string {
    return Object.entries(this.#options)
      .map(([key, value]) => `${key}=${value}`)
      .join(", ");
  }
}

export class ReLU extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(relu, options);
  }
}

export class SquaredReLU extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(squaredRelu, options);
  }
}

export class ReLU6 extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(relu6, options);
  }
}

export class SELU extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(selu, options);
  }
}

export class Sigmoid extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(sigmoid, options);
  }
}

export class LogSigmoid extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(logSigmoid, options);
  }
}

export class SiLU extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(silu, options);
  }
}

export class Mish extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(mish, options);
  }
}

export class Tanh extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(tanh, options);
  }
}

export class Tanhshrink extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(tanhshrink, options);
  }
}

export class Hardsigmoid extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(hardsigmoid, options);
  }
}

export class Hardswish extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(hardswish, options);
  }
}

export class Softsign extends ActivationModule {
  constructor(options?: ActivationOptions) {
    super(softsign, options);
  }
}

export class GELU extends ActivationModule {
  constructor(options: GeluOptions = {}) {
    super(geluOf(options.approximate ?? "none"), options);
  }
}

export class LeakyReLU extends ActivationModule {
  constructor(options: { negativeSlope?: number } & ActivationOptions = {}) {
    super(leakyRelu.with(options), options);
  }
}

export class Hardtanh extends ActivationModule {
  constructor(options: { minVal?: number; maxVal?: number } & ActivationOptions = {}) {
    super(hardtanh.with(options), options);
  }
}

export class ELU extends ActivationModule {
  constructor(options: { alpha?: number } & ActivationOptions = {}) {
    super(elu.with(options), options);
  }
}

export class CELU extends ActivationModule {
  constructor(options: { alpha?: number } & ActivationOptions = {}) {
    super(celu.with(options), options);
  }
}

export class Softplus extends ActivationModule {
  constructor(options: { beta?: number; threshold?: number } & ActivationOptions = {}) {
    super(softplus.with(options), options);
  }
}

export class Hardshrink extends ActivationModule {
  constructor(options: { lambd?: number } & ActivationOptions = {}) {
    super(hardshrink.with(options), options);
  }
}

export class Softshrink extends ActivationModule {
  constructor(options: { lambd?: number } & ActivationOptions = {}) {
    super(softshrink.with(options), options);
  }
}
