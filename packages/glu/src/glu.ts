/**
 * GLU: one half of x, gated by the other (Dauphin et al. 2017, arXiv:1612.08083). Matches torch.nn.GLU; with another
 * activation f it is SwiGLU, GeGLU, ReGLU … (Shazeer 2020, arXiv:2002.05202).
 *
 *   y  = a · f(b)         a, b: the first and the second half of x along one dimension
 *   da = dy · f(b)        db = dy · a · f′(b)
 *
 * x is read as [outer, 2, half]: `half` is half the dimension's size times all that lies behind it.
 * Order of this file: kernels, launchers, differentiable function, module.
 */
import {
  checkPointwise,
  delegated,
  emptyLike,
  type FloatType,
  type InputGrads,
  type Inputs,
  inputGrads,
  inputsOf,
  kernel,
  Module,
  type Pointwise,
  record,
  type Shape,
  sizeOf,
  type Tensor,
  threads,
  variants,
} from "@kindling/core";

// Kernels ---------------------------------------------------------------------------------------

/** Halves of 4n elements are read as vec4s: how many numbers a thread has, and the type that it computes with. */
type Lanes = "vec4f" | "f32";

/** `f` of each lane; "$" stands for it. */
const each = (L: Lanes, f: string): string =>
  L === "vec4f" ? `vec4f(${[..."xyzw"].map((lane) => f.replaceAll("$", lane)).join(", ")})` : f.replaceAll(".$", "");

/** What the inputs of an activation add to a kernel: fields of its params, and text. Both are empty without any. */
type Texts = readonly [fields: string, source: string];

/** A thread for each load of y: one division finds its place in x. */
const forwardKernel = ({ name, forward }: Pointwise, T: FloatType, L: Lanes, ...[fields, inputs]: Texts) => {
  const X = L === "vec4f" ? `vec4<${T}>` : T;
  return kernel<string>(
    `glu.forward.${name}.${X}`,
    /* wgsl */ `
struct Params { vectors: u32, half: u32${fields && `, ${fields}`} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read_write> y: array<${X}>;
${inputs || forward}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.vectors) { return; }
  let at = i + i / params.half * params.half;
  let a = ${L}(x[at]);
  let b = ${L}(x[at + params.half]);
  y[i] = ${X}(a * ${inputs ? `finish${L === "f32" ? 1 : 4}(i, b)` : each(L, `${name}(b.$)`)});
}`,
  );
};

/** A thread for each load of dy; it writes to both halves of dx. */
const backwardKernel = ({ name, forward, backward }: Pointwise, T: FloatType, L: Lanes, ...[fields, inputs]: Texts) => {
  const X = L === "vec4f" ? `vec4<${T}>` : T;
  return kernel<string>(
    `glu.backward.${name}.${X}`,
    /* wgsl */ `
struct Params { vectors: u32, half: u32${fields && `, ${fields}`} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> dy: array<${X}>;
@group(0) @binding(3) var<storage, read_write> dx: array<${X}>;
${inputs || `${forward}\n${backward}`}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.vectors) { return; }
  let at = i + i / params.half * params.half;
  let a = ${L}(x[at]);
  let b = ${L}(x[at + params.half]);
  let g = ${L}(dy[i]);
${
  inputs
    ? `  dx[at] = ${X}(g * finish${L === "f32" ? 1 : 4}(i, b));
  dx[at + params.half] = ${X}(inputGrads(i, b, g * a));`
    : `  dx[at] = ${X}(g * ${each(L, `${name}(b.$)`)});
  dx[at + params.half] = ${X}(a * ${each(L, `${name}Grad(b.$, g.$)`)});`
}
}`,
  );
};

const kernelsOf = (f: Pointwise) => ({
  forward: variants((T: FloatType, L: Lanes, ...texts: Texts) => forwardKernel(f, T, L, ...texts)),
  backward: variants((T: FloatType, L: Lanes, ...texts: Texts) => backwardKernel(f, T, L, ...texts)),
});

const built = new WeakMap<Pointwise, ReturnType<typeof kernelsOf>>();

function kernelsWith(f: Pointwise): ReturnType<typeof kernelsOf> {
  let kernels = built.get(f);
  if (!kernels) built.set(f, (kernels = kernelsOf(f)));
  return kernels;
}

/** 1 / (1 + e⁻ˣ), without overflow on either side. That NaN stays one is not left to the driver's exp. */
const sigmoid: Pointwise = {
  name: "sigmoid",
  forward: /* wgsl */ `
fn sigmoid(x: f32) -> f32 {
  let e = exp(-abs(x));
  return select(select(1.0, e, x < 0.0) / (1.0 + e), x, (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u);
}`,
  backward: /* wgsl */ `
fn sigmoidGrad(x: f32, dy: f32) -> f32 { return dy * sigmoid(x) * sigmoid(-x); }`,
};

// Launchers -------------------------------------------------------------------------------------

/** `half`: elements of x from one half to the other. */
function launchOf(x: Tensor, half: number, inputs: Inputs | InputGrads | null) {
  const L: Lanes = half % 4 === 0 ? "vec4f" : "f32";
  const lanes = L === "vec4f" ? 4 : 1;
  const vectors = x.size / 2 / lanes;
  const { source, fields } = inputs?.text ?? { source: "", fields: "" };
  return {
    variant: [x.dtype as FloatType, L, fields, source] as const,
    bindings: { params: { vectors, half: half / lanes, ...inputs?.params }, x, ...inputs?.bindings },
    workgroups: threads(vectors),
  };
}

/** y has `shape`. */
export function gluForward(
  x: Tensor,
  half: number,
  activation: Pointwise,
  shape: Shape,
  inputs: Inputs | null = null,
): Tensor {
  const { variant, bindings, workgroups } = launchOf(x, half, inputs);
  const y = emptyLike(x, { shape });
  kernelsWith(activation)
    .forward(...variant)
    .run({ ...bindings, y }, { workgroups });
  return y;
}

/** dx, and the gradients of the inputs. */
export function gluBackward(
  dy: Tensor,
  x: Tensor,
  half: number,
  activation: Pointwise,
  inputs: Inputs | null = null,
): { dx: Tensor; dinputs: (Tensor | null)[] } {
  const own = inputs && inputGrads(inputs, half % 4 === 0, 0);
  const { variant, bindings, workgroups } = launchOf(x, half, own);
  const dx = emptyLike(x);
  kernelsWith(activation)
    .backward(...variant)
    .run({ ...bindings, dy, dx }, { workgroups });
  return { dx, dinputs: own?.grads() ?? [] };
}

// Differentiable function -----------------------------------------------------------------------

export interface GLUOptions {
  /** The dimension that is halved, from −rank to rank − 1. Default −1. */
  dim?: number;
  /** Activation of the gate: silu for SwiGLU, gelu for GeGLU, relu for ReGLU, or your own. Default sigmoid. */
  activation?: Pointwise;
  /**
   * For the activation's parameters after x, in order: f32, f16 or bool, of y's shape, or one value for each element of
   * its last axis. The floats among them get gradients.
   */
  inputs?: readonly Tensor[];
}

/**
 * `a · activation(b, ...inputs)` for the halves a and b of `x` along `dim`, whose size must be even:
 * [..., 2n, ...] → [..., n, ...]. y has the dtype of x, f32 or f16, under autocast too. Matches torch.nn.functional.glu.
 */
export function glu(x: Tensor, { dim = -1, activation = sigmoid, inputs = [] }: GLUOptions = {}): Tensor {
  const axis = check(x, dim);
  checkPointwise("glu: activation", activation, inputs.length);
  const half = sizeOf(x.shape.slice(axis)) / 2;
  const shape = x.shape.map((size, i) => (i === axis ? size / 2 : size));
  const extra =
    inputs.length === 0
      ? null
      : inputsOf("glu", activation, inputs, shape, shape.length - 1, { others: 3, summing: false });
  const other = extra ? null : delegated<Tensor>("glu", { x }, { axis, activation });
  if (other) return other;
  return record(gluForward(x, half, activation, shape, extra), [x, ...inputs], (dy) => {
    const { dx, dinputs } = gluBackward(dy, x, half, activation, extra);
    return [dx, ...dinputs];
  });
}

/** Returns `dim` counted from the front. */
function check({ shape, dtype }: Tensor, dim: number): number {
  if (dtype !== "f32" && dtype !== "f16") throw new Error(`glu: x is ${dtype}, expected f32 or f16`);
  const rank = shape.length;
  if (rank === 0) throw new Error("glu: x has shape [], expected a dimension to halve");
  if (!Number.isInteger(dim) || dim < -rank || dim >= rank) {
    throw new Error(`glu: dim is ${dim}, expected ${-rank} to ${rank - 1} for x of shape [${shape}]`);
  }
  if (shape.at(dim)! % 2 !== 0) {
    throw new Error(`glu: dim ${dim} of x [${shape}] has size ${shape.at(dim)}, expected an even one`);
  }
  return dim < 0 ? dim + rank : dim;
}

// Module ----------------------------------------------------------------------------------------

/** `glu` as a module. Matches `torch.nn.GLU(dim)`. */
export class GLU extends Module {
  readonly dim: number;
  readonly activation: Pointwise;

  constructor({ dim = -1, activation = sigmoid }: Omit<GLUOptions, "inputs"> = {}) {
    super();
    this.dim = dim;
    this.activation = checkPointwise("GLU: activation", activation);
  }

  /** `inputs`: for the activation's parameters after x. */
  forward(x: Tensor, ...inputs: readonly Tensor[]): Tensor {
    return glu(x, { dim: this.dim, activation: this.activation, inputs });
  }

  protected override extraRepr(): string {
    return `dim=${this.dim}, activation=${this.activation.name}`;
  }
}
