/**
 * Bilinear, CosineSimilarity and PairwiseDistance, as torch.nn has them.
 *
 *   bilinear  y[…, o] = Σ_ij x1[…, i] w[o, i, j] x2[…, j] + b[o]
 *   cosine    x1 · x2 / (max(|x1|, ε) · max(|x2|, ε))
 *   distance  |x1 − x2 + ε|_p
 */
import { autocastType, type Device, empty, parameter, type Tensor, uniform } from "@kindling/core";
import { FallbackModule } from "../backend.ts";
import {
  axisOf,
  broadcastShape,
  checkFloats,
  checkSame,
  checkShape,
  exponent,
  fail,
  fallback,
  type Jax,
  type JaxArray,
  norm,
  whole,
} from "./form.ts";

/** [rows, i], [o, i, j], [rows, j]: the product with one of them first, then row by row with the other. */
function twice({ numpy: np }: Jax, { x1, x2, weight, bias }: Record<string, JaxArray>): JaxArray {
  const [rows, inputs] = x1!.shape as [number, number];
  const [outputs, , others] = weight!.shape as [number, number, number];
  const first = np
    .matmul(x1!, np.transpose(weight!, [1, 0, 2]).reshape([inputs, outputs * others]))
    .reshape([rows, outputs, others]);
  const y = first.mul(x2!.reshape([rows, 1, others])).sum(-1);
  return bias ? y.add(bias) : y;
}

/**
 * x1 [..., in1] and x2 [..., in2] with weight [out, in1, in2] and bias [out] → [..., out]. Matches
 * torch.nn.functional.bilinear.
 */
export function bilinear(x1: Tensor, x2: Tensor, weight: Tensor, bias: Tensor | null = null): Tensor {
  const where = "bilinear";
  if (weight.shape.length !== 3) fail(where, `weight has shape [${weight.shape}], expected [out, in1, in2]`);
  checkSame(where, { x1, x2, weight, bias });
  const [outputs, in1, in2] = weight.shape as [number, number, number];
  const lead = x1.shape.slice(0, -1);
  if (x1.shape.length === 0) fail(where, `x1 has shape [], expected [..., ${in1}]`);
  checkShape(where, "x1", x1, [...lead, in1]);
  checkShape(where, "x2", x2, [...lead, in2]);
  if (bias) checkShape(where, "bias", bias, [outputs]);
  const rows = x1.size / in1;
  const flat = { x1: x1.reshape([rows, in1]), x2: x2.reshape([rows, in2]) };
  return fallback(twice, { ...flat, weight, bias }, {}, { name: where }).reshape([...lead, outputs]);
}

export interface BilinearOptions {
  /** Learn a bias. Default true. */
  bias?: boolean;
  device?: Device;
}

/**
 * `bilinear` with learned weight [out, in1, in2] and bias [out]. Matches
 * `torch.nn.Bilinear(in1Features, in2Features, outFeatures, …)`.
 */
export class Bilinear extends FallbackModule {
  readonly in1Features: number;
  readonly in2Features: number;
  readonly outFeatures: number;
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(
    in1Features: number,
    in2Features: number,
    outFeatures: number,
    { bias = true, device }: BilinearOptions = {},
  ) {
    super();
    this.in1Features = whole("Bilinear: in1Features", in1Features, 1);
    this.in2Features = whole("Bilinear: in2Features", in2Features, 1);
    this.outFeatures = whole("Bilinear: outFeatures", outFeatures, 1);
    const bound = 1 / Math.sqrt(in1Features);
    this.weight = parameter(uniform(empty([outFeatures, in1Features, in2Features], { device }), -bound, bound));
    this.bias = bias ? parameter(uniform(empty([outFeatures], { device }), -bound, bound)) : null;
  }

  forward(x1: Tensor, x2: Tensor): Tensor {
    return bilinear(x1, x2, this.weight, this.bias);
  }

  protected override settings(): string {
    return `${this.in1Features}, ${this.in2Features}, ${this.outFeatures}, bias=${this.bias !== null}`;
  }
}

function checkPair(where: string, x1: Tensor, x2: Tensor): number[] {
  checkFloats(where, { x1, x2 });
  return (
    broadcastShape(x1.shape, x2.shape) ??
    fail(where, `x1 has shape [${x1.shape}] and x2 [${x2.shape}], expected shapes that broadcast`)
  );
}

/**
 * Each scaled to a length of one first, so that no product of lengths overflows. As in PyTorch, the least length does not stop
 * the length's gradient.
 */
function cosine(
  { numpy: np, lax }: Jax,
  { x1, x2 }: Record<string, JaxArray>,
  { axis, eps, shape }: { axis: number; eps: number; shape: number[] },
): JaxArray {
  const unit = (x: JaxArray): JaxArray => {
    const full = np.broadcastTo(x, shape);
    const length = norm(np, full.ref, 2, axis, true);
    const fixed = lax.stopGradient(length.ref);
    return full.div(length.add(np.maximum(fixed.ref, eps).sub(fixed)));
  };
  return unit(x1!).mul(unit(x2!)).sum(axis);
}

export interface CosineSimilarityOptions {
  /** Default 1. */
  dim?: number;
  /** The least length to divide by. Default 1e-8. */
  eps?: number;
}

/**
 * The cosine of the angle between x1 and x2 along `dim`; their shapes broadcast. f32 under autocast. Matches
 * torch.nn.functional.cosine_similarity.
 */
export function cosineSimilarity(
  x1: Tensor,
  x2: Tensor,
  { dim = 1, eps = 1e-8 }: CosineSimilarityOptions = {},
): Tensor {
  const where = "cosineSimilarity";
  const shape = checkPair(where, x1, x2);
  const axis = axisOf(where, dim, shape.length);
  const dtype = autocastType() ? "f32" : undefined;
  return fallback(cosine, { x1, x2 }, { axis, eps, shape }, { name: where, ...(dtype && { dtype }) });
}

/** `cosineSimilarity` as a module. Matches `torch.nn.CosineSimilarity(…)`. */
export class CosineSimilarity extends FallbackModule {
  readonly dim: number;
  readonly eps: number;

  constructor({ dim = 1, eps = 1e-8 }: CosineSimilarityOptions = {}) {
    super();
    this.dim = dim;
    this.eps = eps;
  }

  forward(x1: Tensor, x2: Tensor): Tensor {
    return cosineSimilarity(x1, x2, this);
  }

  protected override settings(): string {
    return `dim=${this.dim}, eps=${this.eps}`;
  }
}

interface Distance {
  readonly p: number | string;
  readonly eps: number;
  readonly keepdim: boolean;
}

const distance = ({ numpy: np }: Jax, { x1, x2 }: Record<string, JaxArray>, { p, eps, keepdim }: Distance): JaxArray =>
  norm(np, x1!.sub(x2!).add(eps), Number(p), -1, keepdim);

export interface PairwiseDistanceOptions {
  /** Which norm; Infinity for the greatest element. Default 2. */
  p?: number;
  /** Added to the difference. Default 1e-6. */
  eps?: number;
  /** Keep the last axis, with one element. Default false. */
  keepdim?: boolean;
}

/** The p-norm of x1 − x2 + ε along the last axis; shapes broadcast. Matches torch.nn.functional.pairwise_distance. */
export function pairwiseDistance(
  x1: Tensor,
  x2: Tensor,
  { p = 2, eps = 1e-6, keepdim = false }: PairwiseDistanceOptions = {},
): Tensor {
  const where = "pairwiseDistance";
  if (checkPair(where, x1, x2).length === 0) fail(where, "x1 and x2 have shape [], expected at least one axis");
  const dtype = autocastType() ? "f32" : undefined;
  return fallback(distance, { x1, x2 }, { p: exponent(p), eps, keepdim }, { name: where, ...(dtype && { dtype }) });
}

/** `pairwiseDistance` as a module. Matches `torch.nn.PairwiseDistance(…)`. */
export class PairwiseDistance extends FallbackModule {
  readonly p: number;
  readonly eps: number;
  readonly keepdim: boolean;

  constructor({ p = 2, eps = 1e-6, keepdim = false }: PairwiseDistanceOptions = {}) {
    super();
    this.p = p;
    this.eps = eps;
    this.keepdim = keepdim;
  }

  forward(x1: Tensor, x2: Tensor): Tensor {
    return pairwiseDistance(x1, x2, this);
  }

  protected override settings(): string {
    return `p=${this.p}, eps=${this.eps}, keepdim=${this.keepdim}`;
  }
}
