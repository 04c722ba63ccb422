/**
 * The losses of torch.nn beside those of @kindling/losses. Each is a form that gives the loss of every element or row; the loss
 * is f32 for any input, and its mean by default.
 */
import { buffer, type Shape, type Tensor } from "@kindling/core";
import { FallbackModule } from "../backend.ts";
import { pairwiseDistance } from "./distance.ts";
import {
  broadcastShape,
  checkFloats,
  checkIntegers,
  checkOneOf,
  checkShape,
  exponent,
  fail,
  fallback,
  type Jax,
  type JaxArray,
  logSigmoid,
  norm,
  positive,
  power,
  shown,
} from "./form.ts";

export type Reduction = "none" | "mean" | "sum";

/** What all of them take. */
export interface LossOptions {
  /** Default "mean". */
  reduction?: Reduction;
}

const reduced = (loss: JaxArray, reduction: Reduction): JaxArray =>
  reduction === "mean" ? loss.mean() : reduction === "sum" ? loss.sum() : loss;

/** @internal */
export const checkReduction = (where: string, reduction: Reduction): void =>
  checkOneOf(`${where}: reduction`, reduction, ["none", "mean", "sum"]);

/** Throws unless they hold floats, of shapes that broadcast. */
function checkTogether(where: string, tensors: Record<string, Tensor>): void {
  checkFloats(where, tensors);
  if (!broadcastShape(...Object.values(tensors).map((x) => x.shape))) {
    const shapes = Object.entries(tensors).map(([name, x]) => `${name} has shape [${x.shape}]`);
    fail(where, `${shapes.join(", ")}, expected shapes that broadcast`);
  }
}

const loss = (where: string) => ({ name: where, dtype: "f32" }) as const;

/** @internal A loss with its options kept. A weight is among its buffers, as in PyTorch. */
export abstract class FallbackLoss<Options extends LossOptions> extends FallbackModule {
  readonly options: Options;
  readonly weight: Tensor | null;

  constructor({ weight = null, ...options }: Options & { weight?: Tensor | null } = {} as Options) {
    super();
    this.options = options as unknown as Options;
    this.weight = weight && buffer(weight);
    checkReduction(new.target.name, options.reduction ?? "mean");
  }

  protected override settings(): string {
    return shown(this.options);
  }
}

// Of elements -----------------------------------------------------------------------------------

interface Margin {
  readonly margin: number;
  readonly reduction: Reduction;
}

function ranking(
  { numpy: np }: Jax,
  { x1, x2, target }: Record<string, JaxArray>,
  { margin, reduction }: Margin,
): JaxArray {
  return reduced(positive(np, target!.mul(x2!.sub(x1!)).add(margin)), reduction);
}

export interface MarginOptions extends LossOptions {
  margin?: number;
}

/** max(0, margin − target · (x1 − x2)) for targets 1 and −1. Matches torch.nn.functional.margin_ranking_loss. */
export function marginRankingLoss(x1: Tensor, x2: Tensor, target: Tensor, options: MarginOptions = {}): Tensor {
  const where = "marginRankingLoss";
  const { margin = 0, reduction = "mean" } = options;
  checkReduction(where, reduction);
  checkTogether(where, { x1, x2, target });
  return fallback(ranking, { x1, x2, target }, { margin, reduction }, loss(where));
}

/** `marginRankingLoss` as a module; margin 0. Matches `torch.nn.MarginRankingLoss(…)`. */
export class MarginRankingLoss extends FallbackLoss<MarginOptions> {
  forward(x1: Tensor, x2: Tensor, target: Tensor): Tensor {
    return marginRankingLoss(x1, x2, target, this.options);
  }
}

function hinge({ numpy: np }: Jax, { x, target }: Record<string, JaxArray>, { margin, reduction }: Margin): JaxArray {
  const far = positive(np, np.negative(x!.ref).add(margin));
  // Not `equal`: of floats it is a branch in WGSL, of which SwiftShader compiles thirty in a row for minutes.
  return reduced(np.where(target!.greater(0), x!, far), reduction);
}

/** x for targets of 1, max(0, margin − x) for −1. Matches torch.nn.functional.hinge_embedding_loss. */
export function hingeEmbeddingLoss(x: Tensor, target: Tensor, options: MarginOptions = {}): Tensor {
  const where = "hingeEmbeddingLoss";
  const { margin = 1, reduction = "mean" } = options;
  checkReduction(where, reduction);
  checkTogether(where, { x, target });
  return fallback(hinge, { x, target }, { margin, reduction }, loss(where));
}

/** `hingeEmbeddingLoss` as a module; margin 1. Matches `torch.nn.HingeEmbeddingLoss(…)`. */
export class HingeEmbeddingLoss extends FallbackLoss<MarginOptions> {
  forward(x: Tensor, target: Tensor): Tensor {
    return hingeEmbeddingLoss(x, target, this.options);
  }
}

function soft(
  { numpy: np }: Jax,
  { x, target }: Record<string, JaxArray>,
  { reduction }: { reduction: Reduction },
): JaxArray {
  return reduced(logSigmoid(np, x!.mul(target!)).mul(-1), reduction);
}

/** log(1 + exp(−target · x)) for targets 1 and −1. Matches torch.nn.functional.soft_margin_loss. */
export function softMarginLoss(x: Tensor, target: Tensor, { reduction = "mean" }: LossOptions = {}): Tensor {
  const where = "softMarginLoss";
  checkReduction(where, reduction);
  checkTogether(where, { x, target });
  return fallback(soft, { x, target }, { reduction }, loss(where));
}

/** `softMarginLoss` as a module. Matches `torch.nn.SoftMarginLoss(…)`. */
export class SoftMarginLoss extends FallbackLoss<LossOptions> {
  forward(x: Tensor, target: Tensor): Tensor {
    return softMarginLoss(x, target, this.options);
  }
}

interface Poisson {
  readonly logInput: boolean;
  readonly full: boolean;
  readonly eps: number;
  readonly reduction: Reduction;
}

function poisson({ numpy: np }: Jax, { x, target: t }: Record<string, JaxArray>, settings: Poisson): JaxArray {
  const { logInput, full, eps, reduction } = settings;
  const rate = logInput ? np.exp(x!.ref) : x!.ref;
  const log = logInput ? x! : np.log(x!.add(eps));
  let value = rate.sub(t!.ref.mul(log));
  if (full) {
    const above = t!.ref.greater(1);
    const safe = np.where(above.ref, t!.ref, 1);
    const stirling = safe.ref
      .mul(np.log(safe.ref))
      .sub(safe.ref)
      .add(np.log(safe.mul(2 * Math.PI)).mul(0.5));
    value = value.add(np.where(above, stirling, 0));
  }
  t!.dispose();
  return reduced(value, reduction);
}

export interface PoissonNLLOptions extends LossOptions {
  /** Whether x is the logarithm of the rate. Default true. */
  logInput?: boolean;
  /** Add Stirling's approximation of log target!. Default false. */
  full?: boolean;
  /** Added to x before its logarithm. Default 1e-8. */
  eps?: number;
}

/** The negative log-likelihood of `target` under a Poisson law of rate exp(x), or x. Matches torch.nn.functional.poisson_nll_loss. */
export function poissonNLLLoss(x: Tensor, target: Tensor, options: PoissonNLLOptions = {}): Tensor {
  const where = "poissonNLLLoss";
  const { logInput = true, full = false, eps = 1e-8, reduction = "mean" } = options;
  checkReduction(where, reduction);
  checkTogether(where, { x, target });
  return fallback(poisson, { x, target }, { logInput, full, eps, reduction }, loss(where));
}

/** `poissonNLLLoss` as a module. Matches `torch.nn.PoissonNLLLoss(…)`. */
export class PoissonNLLLoss extends FallbackLoss<PoissonNLLOptions> {
  forward(x: Tensor, target: Tensor): Tensor {
    return poissonNLLLoss(x, target, this.options);
  }
}

interface Gaussian {
  readonly full: boolean;
  readonly eps: number;
  readonly reduction: Reduction;
}

function gaussian(
  { numpy: np, lax }: Jax,
  { x, target, variance }: Record<string, JaxArray>,
  settings: Gaussian,
): JaxArray {
  const { full, eps, reduction } = settings;
  // As in PyTorch, the lower limit of the variance does not stop its gradient.
  const limited = np.maximum(lax.stopGradient(variance!.ref), eps);
  const v = variance!.ref.add(limited.sub(lax.stopGradient(variance!)));
  const d = x!.sub(target!);
  const value = np.log(v.ref).add(d.ref.mul(d).div(v)).mul(0.5);
  return reduced(full ? value.add(0.5 * Math.log(2 * Math.PI)) : value, reduction);
}

export interface GaussianNLLOptions extends LossOptions {
  /** Add the constant term. Default false. */
  full?: boolean;
  /** The least variance. Default 1e-6. */
  eps?: number;
}

/**
 * The negative log-likelihood of `target` under normal laws of means x and `variance`, which is of x's shape, or has 1 as its
 * last axis, or lacks it. Unlike PyTorch it cannot complain about a negative variance. Matches
 * torch.nn.functional.gaussian_nll_loss.
 */
export function gaussianNLLLoss(x: Tensor, target: Tensor, variance: Tensor, options: GaussianNLLOptions = {}): Tensor {
  const where = "gaussianNLLLoss";
  const { full = false, eps = 1e-6, reduction = "mean" } = options;
  checkReduction(where, reduction);
  checkTogether(where, { x, target });
  checkFloats(where, { variance });
  const lead = x.shape.slice(0, -1);
  const known: Shape[] = [x.shape, lead, [...lead, 1]];
  if (!known.some((shape) => shape.join() === variance.shape.join()))
    fail(where, `variance has shape [${variance.shape}], expected [${x.shape}], [${lead}] or [${[...lead, 1]}]`);
  const v = variance.shape.length < x.shape.length ? variance.reshape([...lead, 1]) : variance;
  return fallback(gaussian, { x, target, variance: v }, { full, eps, reduction }, loss(where));
}

/** `gaussianNLLLoss` as a module. Matches `torch.nn.GaussianNLLLoss(…)`. */
export class GaussianNLLLoss extends FallbackLoss<GaussianNLLOptions> {
  forward(x: Tensor, target: Tensor, variance: Tensor): Tensor {
    return gaussianNLLLoss(x, target, variance, this.options);
  }
}

// Of rows ---------------------------------------------------------------------------------------

/** x is [N, C] or [C], and the target one for each row: both with their rows. */
function rowsOf(where: string, x: Tensor): { N: number; C: number; single: boolean } {
  if (x.shape.length !== 1 && x.shape.length !== 2) fail(where, `x has shape [${x.shape}], expected [N, C] or [C]`);
  const single = x.shape.length === 1;
  return { N: single ? 1 : x.shape[0]!, C: x.shape.at(-1)!, single };
}

function multiMargin(
  { numpy: np }: Jax,
  { x, target, weight }: Record<string, JaxArray>,
  settings: Margin & { p: number },
): JaxArray {
  const { margin, p, reduction } = settings;
  const [N, C] = x!.shape as [number, number];
  const own = np.arange(C).equal(target!.reshape([N, 1]));
  const right = np.where(own.ref, x!.ref, 0).sum(1).reshape([N, 1]);
  const above = positive(np, x!.sub(right).add(margin));
  let each = np.where(own.ref, 0, power(np, above, p));
  if (weight) each = each.mul(np.where(own.ref, weight, 0).sum(1).reshape([N, 1]));
  own.dispose();
  return reduced(each.mul(1 / C).sum(1), reduction);
}

export interface MultiMarginOptions extends MarginOptions {
  /** 1 or 2. Default 1. */
  p?: 1 | 2;
  /** A weight for each class, [C]. */
  weight?: Tensor | null;
}

/**
 * Σ_c max(0, margin − x_target + x_c)^p / C over the other classes c: x [N, C] or [C], target the class ids [N] or [], i32 or
 * u32; margin 1. Matches torch.nn.functional.multi_margin_loss.
 */
export function multiMarginLoss(x: Tensor, target: Tensor, options: MultiMarginOptions = {}): Tensor {
  const where = "multiMarginLoss";
  const { margin = 1, p = 1, weight = null, reduction = "mean" } = options;
  checkReduction(where, reduction);
  checkFloats(where, { x, weight });
  checkIntegers(where, { target });
  checkOneOf(`${where}: p`, p, [1, 2]);
  const { N, C, single } = rowsOf(where, x);
  checkShape(where, "target", target, single ? [] : [N]);
  if (weight) checkShape(where, "weight", weight, [C]);
  const tensors = { x: x.reshape([N, C]), target: target.reshape([N]), weight };
  const y = fallback(multiMargin, tensors, { margin, p, reduction }, loss(where));
  return single && reduction === "none" ? y.reshape([]) : y;
}

/** `multiMarginLoss` as a module. Matches `torch.nn.MultiMarginLoss(…)`. */
export class MultiMarginLoss extends FallbackLoss<MultiMarginOptions> {
  forward(x: Tensor, target: Tensor): Tensor {
    return multiMarginLoss(x, target, { ...this.options, weight: this.weight });
  }
}

function multiLabelMargin(
  { numpy: np }: Jax,
  { x, target }: Record<string, JaxArray>,
  settings: { reduction: Reduction },
): JaxArray {
  const [N, C] = x!.shape as [number, number];
  const t = target!.astype("int32" as never);
  // Only the labels before the first −1 count.
  const ended = np.cumsum(np.where(t.ref.less(0), 1, 0), 1).greater(0);
  const label = np.where(ended, -1, t).reshape([N, C, 1]);
  const hit = np.where(label.equal(np.arange(C)), 1, 0); // [N, label, class]
  const isLabel = np.where(hit.ref.sum(1).greater(0), 1, 0); // [N, class]
  const listed = hit.ref.sum(2).reshape([N, C, 1]);
  const right = hit
    .astype("float32" as never)
    .mul(x!.ref.reshape([N, 1, C]))
    .sum(2)
    .reshape([N, C, 1]);
  const above = positive(np, x!.reshape([N, 1, C]).sub(right).add(1)); // [N, label, class]
  const counts = np.logicalAnd(listed.greater(0), isLabel.reshape([N, 1, C]).equal(0));
  return reduced(
    np
      .where(counts, above, 0)
      .mul(1 / C)
      .sum([1, 2]),
    settings.reduction,
  );
}

/**
 * Σ max(0, 1 − (x_label − x_c)) / C over all labels of a row and all classes c that are none: x [N, C] or [C], target of x's
 * shape, i32: the labels, then −1. Matches torch.nn.functional.multilabel_margin_loss.
 */
export function multiLabelMarginLoss(x: Tensor, target: Tensor, { reduction = "mean" }: LossOptions = {}): Tensor {
  const where = "multiLabelMarginLoss";
  checkReduction(where, reduction);
  checkFloats(where, { x });
  checkIntegers(where, { target });
  const { N, C, single } = rowsOf(where, x);
  checkShape(where, "target", target, x.shape);
  const tensors = { x: x.reshape([N, C]), target: target.reshape([N, C]) };
  const y = fallback(multiLabelMargin, tensors, { reduction }, loss(where));
  return single && reduction === "none" ? y.reshape([]) : y;
}

/** `multiLabelMarginLoss` as a module. Matches `torch.nn.MultiLabelMarginLoss(…)`. */
export class MultiLabelMarginLoss extends FallbackLoss<LossOptions> {
  forward(x: Tensor, target: Tensor): Tensor {
    return multiLabelMarginLoss(x, target, this.options);
  }
}

function multiLabelSoft(
  { numpy: np }: Jax,
  { x, target, weight }: Record<string, JaxArray>,
  settings: { reduction: Reduction },
): JaxArray {
  const right = target!.ref.mul(logSigmoid(np, x!.ref));
  const wrong = target!
    .mul(-1)
    .add(1)
    .mul(logSigmoid(np, x!.mul(-1)));
  const each = right.add(wrong).mul(-1);
  return reduced((weight ? each.mul(weight) : each).mean(-1), settings.reduction);
}

export interface MultiLabelSoftMarginOptions extends LossOptions {
  /** A weight for each class, [C]. */
  weight?: Tensor | null;
}

/**
 * The binary cross entropy of logits, averaged over classes: x and target [..., C]. Matches
 * torch.nn.functional.multilabel_soft_margin_loss.
 */
export function multiLabelSoftMarginLoss(x: Tensor, target: Tensor, options: MultiLabelSoftMarginOptions = {}): Tensor {
  const where = "multiLabelSoftMarginLoss";
  const { weight = null, reduction = "mean" } = options;
  checkReduction(where, reduction);
  checkFloats(where, { x, target, weight });
  if (x.shape.length === 0) fail(where, "x has shape [], expected [..., C]");
  checkShape(where, "target", target, x.shape);
  if (weight) checkShape(where, "weight", weight, [x.shape.at(-1)!]);
  return fallback(multiLabelSoft, { x, target, weight }, { reduction }, loss(where));
}

/** `multiLabelSoftMarginLoss` as a module. Matches `torch.nn.MultiLabelSoftMarginLoss(…)`. */
export class MultiLabelSoftMarginLoss extends FallbackLoss<MultiLabelSoftMarginOptions> {
  forward(x: Tensor, target: Tensor): Tensor {
    return multiLabelSoftMarginLoss(x, target, { ...this.options, weight: this.weight });
  }
}

// Of triplets -----------------------------------------------------------------------------------

interface Triplet extends Margin {
  readonly p: number | string;
  readonly eps: number;
  readonly swap: boolean;
}

function triplet({ numpy: np }: Jax, { anchor, near, far }: Record<string, JaxArray>, settings: Triplet): JaxArray {
  const { margin, p, eps, swap, reduction } = settings;
  const between = (a: JaxArray, b: JaxArray): JaxArray => norm(np, a.sub(b).add(eps), Number(p), -1);
  const right = between(anchor!.ref, near!.ref);
  let wrong = between(anchor!, far!.ref);
  if (swap) wrong = np.minimum(wrong, between(near!, far!));
  else for (const rest of [near!, far!]) rest.dispose();
  return reduced(positive(np, right.sub(wrong).add(margin)), reduction);
}

export interface TripletMarginOptions extends MarginOptions {
  /** Which norm. Default 2. */
  p?: number;
  /** Added to differences. Default 1e-6. */
  eps?: number;
  /** Use the distance from positive to negative where that is less. Default false. */
  swap?: boolean;
}

/**
 * max(0, margin + |anchor − positive|_p − |anchor − negative|_p) along the last axis; margin 1. Matches
 * torch.nn.functional.triplet_margin_loss.
 */
export function tripletMarginLoss(
  anchor: Tensor,
  positive: Tensor,
  negative: Tensor,
  options: TripletMarginOptions = {},
): Tensor {
  const where = "tripletMarginLoss";
  const { margin = 1, p = 2, eps = 1e-6, swap = false, reduction = "mean" } = options;
  checkReduction(where, reduction);
  checkMargin(where, margin);
  checkTogether(where, { anchor, positive, negative });
  const settings = { margin, p: exponent(p), eps, swap, reduction };
  return fallback(triplet, { anchor, near: positive, far: negative }, settings, loss(where));
}

function checkMargin(where: string, margin: number): void {
  if (!(margin > 0)) fail(where, `margin is ${margin}, expected a number > 0`);
}

/** `tripletMarginLoss` as a module. Matches `torch.nn.TripletMarginLoss(…)`. */
export class TripletMarginLoss extends FallbackLoss<TripletMarginOptions> {
  forward(anchor: Tensor, positive: Tensor, negative: Tensor): Tensor {
    return tripletMarginLoss(anchor, positive, negative, this.options);
  }
}

function apart(
  { numpy: np }: Jax,
  { near, far, other }: Record<string, JaxArray>,
  { margin, reduction }: Margin,
): JaxArray {
  const wrong = other ? np.minimum(far!, other) : far!;
  return reduced(positive(np, near!.sub(wrong).add(margin)), reduction);
}

export interface TripletMarginWithDistanceOptions extends MarginOptions {
  /** The distance of two tensors, differentiable. Default: pairwiseDistance. */
  distanceFunction?: ((a: Tensor, b: Tensor) => Tensor) | null;
  /** Use the distance from positive to negative where that is less. Default false. */
  swap?: boolean;
}

/**
 * max(0, margin + d(anchor, positive) − d(anchor, negative)) for any distance d; margin 1. Matches
 * torch.nn.functional.triplet_margin_with_distance_loss.
 */
export function tripletMarginWithDistanceLoss(
  anchor: Tensor,
  positive: Tensor,
  negative: Tensor,
  options: TripletMarginWithDistanceOptions = {},
): Tensor {
  const where = "tripletMarginWithDistanceLoss";
  const { distanceFunction, margin = 1, swap = false, reduction = "mean" } = options;
  checkReduction(where, reduction);
  checkMargin(where, margin);
  const distance = distanceFunction ?? ((a: Tensor, b: Tensor) => pairwiseDistance(a, b));
  const near = distance(anchor, positive);
  const far = distance(anchor, negative);
  const other = swap ? distance(positive, negative) : null;
  for (const d of [far, other]) if (d) checkShape(where, "a distance", d, near.shape);
  return fallback(apart, { near, far, other }, { margin, reduction }, loss(where));
}

/** `tripletMarginWithDistanceLoss` as a module. Matches `torch.nn.TripletMarginWithDistanceLoss(…)`. */
export class TripletMarginWithDistanceLoss extends FallbackLoss<TripletMarginWithDistanceOptions> {
  forward(anchor: Tensor, positive: Tensor, negative: Tensor): Tensor {
    return tripletMarginWithDistanceLoss(anchor, positive, negative, this.options);
  }
}
