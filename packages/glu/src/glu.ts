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

/** A thread for each load of y: one division finds its place in x. */
const forwardKernel = ({ name, forward }: Pointwise, T: FloatType, L: Lanes) => {
  const X = L === "vec4f" ? `vec4<${T}>` : T;
  return kernel<string>(
    `glu.forward.${name}.${X}`,
    /* wgsl */ `
struct Params { vectors: u32, half: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read_write> y: array<${X}>;
${forward}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.vectors) { return; }
  let at = i + i / params.half * params.half;
  let a = ${L}(x[at]);
  let b = ${L}(x[at + params.half]);
  y[i] = ${X}(a * ${each(L, `${name}(b.$)`)});
}`,
  );
};

/** A thread for each load of dy; it writes to both halves of dx. */
const backwardKernel = ({ name, forward, backward }: Pointwise, T: FloatType, L: Lanes) => {
  const X = L === "vec4f" ? `vec4<${T}>` : T;
  return kernel<string>(
    `glu.backward.${name}.${X}`,
    /* wgsl */ `
struct Params { vectors: u32, half: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> dy: array<${X}>;
@group(0) @binding(3) var<storage, read_write> dx: array<${X}>;
${forward}
${backward}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.vectors) { return; }
  let at = i + i / params.half * params.half;
  let a = ${L}(x[at]);
  let b = ${L}(x[at + params.half]);
  let g = ${L}(dy[i]);
  dx[at] = ${X}(g * ${each(L, `${name}(b.$)`)});
  dx[at + params.half] = ${X}(a * ${each(L, `${name}Grad(b.$, g.$)`)});
}`,
  );
};

interface Kernels {
  readonly forward: (T: FloatType, L: Lanes) => ReturnType<typeof forwardKernel>;
  readonly backward: (T: FloatType, L: Lanes) => ReturnType<typeof backwardKernel>;
}

const built = new WeakMap<Pointwise, Kernels>();

function kernelsOf(f: Pointwise): Kernels {
  let kernels = built.get(f);
  if (!kernels) {
    kernels = {
      forward: variants((T, L) => forwardKernel(f, T, L)),
      backward: variants((T, L) => backwardKernel(f, T, L)),
    };
    built.set(f, kernels);
  }
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
function launchOf(x: Tensor, half: number) {
  const L: Lanes = half % 4 === 0 ? "vec4f" : "f32";
  const lanes = L === "vec4f" ? 4 : 1;
  const vectors = x.size / 2 / lanes;
  return { L, T: x.dtype as FloatType, params: { vectors, half: half / lanes }, workgroups: threads(vectors) };
}

/** y has `shape`. */
export function gluForward(x: Tensor, half: number, activation: Pointwise, shape: Shape): Tensor {
  const { L, T, params, workgroups } = launchOf(x, half);
  const y = emptyLike(x, { shape });
  kernelsOf(activation).forward(T, L).run({ params, x, y }, { workgroups });
  return y;
}

export function gluBackward(dy: Tensor, x: Tensor, half: number, activation: Pointwise): Tensor {
  const { L, T, params, workgroups } = launchOf(x, half);
  const dx = emptyLike(x);
  kernelsOf(activation).backward(T, L).run({ params, x, dy, dx }, { workgroups });
  return dx;
}

// Differentiable function -----------------------------------------------------------------------

export interface GLUOptions {
  /** The dimension that is halved, from −rank to rank − 1. Default −1. */
  dim?: number;
  /** Activation of the gate: silu for SwiGLU, gelu for GeGLU, relu for ReGLU, or your own. Default sigmoid. */
  activation?: Pointwise;
}

/**
 * `a · activation(b)` for the halves a and b of `x` along `dim`, whose size must be even:
 * [..., 2n, ...] → [..., n, ...]. y has the dtype of x, f32 or f16, under autocast too. Matches torch.nn.functional.glu.
 */
export function glu(x: Tensor, { dim = -1, activation = sigmoid }: GLUOptions = {}): Tensor {
  const axis = check(x, dim, activation);
  const other = delegated<Tensor>("glu", { x }, { axis, activation });
  if (other) return other;
  const half = sizeOf(x.shape.slice(axis)) / 2;
  const shape = x.shape.map((size, i) => (i === axis ? size / 2 : size));
  return record(gluForward(x, half, activation, shape), [x], (dy) => [gluBackward(dy, x, half, activation)]);
}

/** Returns `dim` counted from the front. */
function check({ shape, dtype }: Tensor, dim: number, activation: Pointwise): number {
  if (dtype !== "f32" && dtype !== "f16") throw new Error(`glu: x is ${dtype}, expected f32 or f16`);
  const rank = shape.length;
  if (rank === 0) throw new Error("glu: x has shape [], expected a dimension to halve");
  if (!Number.isInteger(dim) || dim < -rank || dim >= rank) {
    throw new Error(`glu: dim is ${dim}, expected ${-rank} to ${rank - 1} for x of shape [${shape}]`);
  }
  if (shape.at(dim)! % 2 !== 0) {
    throw new Error(`glu: dim ${dim} of x [${shape}] has size ${shape.at(dim)}, expected an even one`);
  }
  checkPointwise("glu: activation", activation);
  return dim < 0 ? dim + rank : dim;
}

// Module ----------------------------------------------------------------------------------------

/** `glu` as a module. Matches `torch.nn.GLU(dim)`. */
export class GLU extends Module {
  readonly dim: number;
  readonly activation: Pointwise;

  constructor({ dim = -1, activation = sigmoid }: GLUOptions = {}) {
    super();
    this.dim = dim;
    this.activation = checkPointwise("GLU: activation", activation);
  }

  forward(x: Tensor): Tensor {
    return glu(x, this);
  }

  protected override extraRepr(): string {
    return `dim=${this.dim}, activation=${this.activation.name}`;
  }
}
