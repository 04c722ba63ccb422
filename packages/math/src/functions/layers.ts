/** What attorch.math has: parts of layers, and losses. `rowSum`, `rowMean` and `rowMax` work across the elements of a row. */
import * as derived from "../derivatives.generated.ts";
import { gelu, relu, silu } from "./activations.ts";
import { define, type MathFunction, type ScalarFunction, scalar } from "./define.ts";
import { isInf, sigmoid } from "./numerics.ts";

/** accumulator + a . b, one step of a product of matrices, four elements at a time. */
export const accumLinear: MathFunction = /* @__PURE__ */ define(
  "accumLinear",
  /* wgsl */ `
fn accumLinear(accumulator: f32, a: vec4f, b: vec4f) -> f32 {
  return accumulator + dot(a, b);
}`,
);

/** a sigmoid(b), the gated linear unit. Another gate: write a * gate(b). */
export const glu: ScalarFunction = /* @__PURE__ */ scalar(
  "glu",
  /* wgsl */ `
fn glu(a: f32, b: f32) -> f32 {
  return a * sigmoid(b);
}`,
  derived.gluGrad,
  sigmoid,
);

/** a silu(b). */
export const swiglu: ScalarFunction = /* @__PURE__ */ scalar(
  "swiglu",
  /* wgsl */ `
fn swiglu(a: f32, b: f32) -> f32 {
  return a * silu(b);
}`,
  derived.swigluGrad,
  silu,
);

/** a gelu(b). */
export const geglu: ScalarFunction = /* @__PURE__ */ scalar(
  "geglu",
  /* wgsl */ `
fn geglu(a: f32, b: f32) -> f32 {
  return a * gelu(b);
}`,
  derived.gegluGrad,
  gelu,
);

/** a relu(b). */
export const reglu: ScalarFunction = /* @__PURE__ */ scalar(
  "reglu",
  /* wgsl */ `
fn reglu(a: f32, b: f32) -> f32 {
  return a * relu(b);
}`,
  derived.regluGrad,
  relu,
);

/** One element of the softmax of its row. */
export const softmax: MathFunction = /* @__PURE__ */ define(
  "softmax",
  /* wgsl */ `
fn softmax(x: f32) -> f32 {
  let e = exp(x - rowMax(x));
  return e / rowSum(e);
}`,
);

/** The softmax of -x. */
export const softmin: MathFunction = /* @__PURE__ */ define(
  "softmin",
  /* wgsl */ `
fn softmin(x: f32) -> f32 {
  return softmax(-x);
}`,
  softmax,
);

/** The logarithm of the softmax. */
export const logSoftmax: MathFunction = /* @__PURE__ */ define(
  "logSoftmax",
  /* wgsl */ `
fn logSoftmax(x: f32) -> f32 {
  let shifted = x - rowMax(x);
  return shifted - log(rowSum(exp(shifted)));
}`,
);

/** log of the sum of e^x over a row, without overflow; of a row of -infinities it is -infinity. */
export const logSumExp: MathFunction = /* @__PURE__ */ define(
  "logSumExp",
  /* wgsl */ `
fn logSumExp(x: f32) -> f32 {
  let most = rowMax(x);
  let shift = select(most, 0.0, isInf(most));
  return shift + log(rowSum(exp(x - shift)));
}`,
  isInf,
);

/** The mean of a row, and 1 / sqrt(variance + eps). */
export const meanAndInvStd: MathFunction = /* @__PURE__ */ define(
  "meanAndInvStd",
  /* wgsl */ `
fn meanAndInvStd(x: f32, eps: f32) -> vec2f {
  let mean = rowMean(x);
  let centered = x - mean;
  return vec2f(mean, inverseSqrt(rowMean(centered * centered) + eps));
}`,
);

/** A running (count, mean, sum of squared deviations) with one more value (Welford). */
export const updateWelford: MathFunction = /* @__PURE__ */ define(
  "updateWelford",
  /* wgsl */ `
fn updateWelford(state: vec3f, x: f32) -> vec3f {
  let count = state.x + 1.0;
  let delta = x - state.y;
  let mean = state.y + delta / count;
  return vec3f(count, mean, state.z + delta * (x - mean));
}`,
);

/** Two such states as one (Chan). Of two empty ones it is empty. */
export const mergeWelford: MathFunction = /* @__PURE__ */ define(
  "mergeWelford",
  /* wgsl */ `
fn mergeWelford(a: vec3f, b: vec3f) -> vec3f {
  let count = a.x + b.x;
  let share = b.x / max(count, 1.0);
  let delta = b.y - a.y;
  return vec3f(count, a.y + delta * share, a.z + b.z + delta * delta * a.x * share);
}`,
);

/** (1 - momentum) old + momentum new. */
export const updateEma: ScalarFunction = /* @__PURE__ */ scalar(
  "updateEma",
  /* wgsl */ `
fn updateEma(old: f32, new_: f32, momentum: f32) -> f32 {
  return (1.0 - momentum) * old + momentum * new_;
}`,
  derived.updateEmaGrad,
);

/** weight (x - mean) invStd + bias. */
export const standardize: ScalarFunction = /* @__PURE__ */ scalar(
  "standardize",
  /* wgsl */ `
fn standardize(x: f32, mean: f32, invStd: f32, weight: f32, bias: f32) -> f32 {
  return weight * invStd * (x - mean) + bias;
}`,
  derived.standardizeGrad,
);

/** |x - expected|. */
export const l1Loss: ScalarFunction = /* @__PURE__ */ scalar(
  "l1Loss",
  /* wgsl */ `
fn l1Loss(x: f32, expected: f32) -> f32 {
  return abs(x - expected);
}`,
  derived.l1LossGrad,
);

/** (x - expected)^2. */
export const squaredLoss: ScalarFunction = /* @__PURE__ */ scalar(
  "squaredLoss",
  /* wgsl */ `
fn squaredLoss(x: f32, expected: f32) -> f32 {
  let difference = x - expected;
  return difference * difference;
}`,
  derived.squaredLossGrad,
);

/** Half the square over beta where |x - expected| < beta, else the distance less beta / 2. */
export const smoothL1Loss: ScalarFunction = /* @__PURE__ */ scalar(
  "smoothL1Loss",
  /* wgsl */ `
fn smoothL1Loss(x: f32, expected: f32, beta: f32) -> f32 {
  let distance_ = abs(x - expected);
  if (distance_ < beta) {
    return 0.5 * distance_ * distance_ / beta;
  }
  return distance_ - 0.5 * beta;
}`,
  derived.smoothL1LossGrad,
);

/** Half the square where |x - expected| <= delta, else delta times the distance less delta / 2. */
export const huberLoss: ScalarFunction = /* @__PURE__ */ scalar(
  "huberLoss",
  /* wgsl */ `
fn huberLoss(x: f32, expected: f32, delta: f32) -> f32 {
  let distance_ = abs(x - expected);
  if (distance_ <= delta) {
    return 0.5 * distance_ * distance_;
  }
  return delta * (distance_ - 0.5 * delta);
}`,
  derived.huberLossGrad,
);

/** The negative log-likelihood of a row: its log-probabilities times a target distribution, one-hot or not. */
export const nllLoss: MathFunction = /* @__PURE__ */ define(
  "nllLoss",
  /* wgsl */ `
fn nllLoss(logProbability: f32, probability: f32) -> f32 {
  return -rowSum(logProbability * probability);
}`,
);

/** The cross entropy of a row of logits with a target distribution, one-hot or not. The same for each element. */
export const crossEntropy: MathFunction = /* @__PURE__ */ define(
  "crossEntropy",
  /* wgsl */ `
fn crossEntropy(logit: f32, probability: f32) -> f32 {
  return nllLoss(logSoftmax(logit), probability);
}`,
  logSoftmax,
  nllLoss,
);
