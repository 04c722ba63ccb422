/**
 * Every activation of attorch and of torch.nn, as PyTorch defines it. Written so that the slope derived from the text is
 * PyTorch's at the seams too, and that no finite x gives NaN: where one side of a seam overflows on the other, `if` stands in
 * place of select, both sides of which take part in a derivative.
 */
import * as derived from "../derivatives.generated.ts";
import { define, type Parametric, parametric, type ScalarFunction, scalar } from "./define.ts";
import { expm1, normalCdf, sigmoid, stableSoftplus, stableTanh } from "./numerics.ts";

export { stableTanh as tanh } from "./numerics.ts";

// Without numbers -------------------------------------------------------------------------------

/** max(x, 0). */
export const relu: ScalarFunction = /* @__PURE__ */ scalar(
  "relu",
  /* wgsl */ `
fn relu(x: f32) -> f32 {
  return select(x, 0.0, x <= 0.0);
}`,
  derived.reluGrad,
);

/** relu(x)^2. */
export const squaredRelu: ScalarFunction = /* @__PURE__ */ scalar(
  "squaredRelu",
  /* wgsl */ `
fn squaredRelu(x: f32) -> f32 {
  let positive = select(x, 0.0, x <= 0.0);
  return positive * positive;
}`,
  derived.squaredReluGrad,
);

/** x between 0 and 6. */
export const relu6: ScalarFunction = /* @__PURE__ */ scalar(
  "relu6",
  /* wgsl */ `
fn relu6(x: f32) -> f32 {
  return select(select(x, 0.0, x <= 0.0), 6.0, x >= 6.0);
}`,
  derived.relu6Grad,
);

/** log(sigmoid(x)). */
export const logSigmoid: ScalarFunction = /* @__PURE__ */ scalar(
  "logSigmoid",
  /* wgsl */ `
fn logSigmoid(x: f32) -> f32 {
  return -stableSoftplus(-x);
}`,
  derived.logSigmoidGrad,
  stableSoftplus,
);

/** x sigmoid(x). */
export const silu: ScalarFunction = /* @__PURE__ */ scalar(
  "silu",
  /* wgsl */ `
fn silu(x: f32) -> f32 {
  if (abs(x) > 104.0) {
    // the gate is 0 or 1; below, x times the gradient could overflow
    return select(0.0, x, x > 0.0);
  }
  return x * sigmoid(x);
}`,
  derived.siluGrad,
  sigmoid,
);

/** x times the normal distribution function of x. */
export const gelu: ScalarFunction = /* @__PURE__ */ scalar(
  "gelu",
  /* wgsl */ `
fn gelu(x: f32) -> f32 {
  return x * normalCdf(x);
}`,
  derived.geluGrad,
  normalCdf,
);

/** x (1 + tanh(u)) / 2, u = sqrt(2 / pi) (x + 0.044715 x^3): as x sigmoid(2u). gelu's approximate: "tanh". */
export const geluTanh: ScalarFunction = /* @__PURE__ */ scalar(
  "geluTanh",
  /* wgsl */ `
fn geluTanh(x: f32) -> f32 {
  // beyond 15 the gate is 0 or 1, and the cube would overflow
  let a = select(select(x, 15.0, x > 15.0), -15.0, x < -15.0);
  return x * sigmoid(a * (1.5957691216057308 + 0.07135481282553248 * a * a));
}`,
  derived.geluTanhGrad,
  sigmoid,
);

/** x tanh(log(1 + e^x)). */
export const mish: ScalarFunction = /* @__PURE__ */ scalar(
  "mish",
  /* wgsl */ `
fn mish(x: f32) -> f32 {
  if (abs(x) > 104.0) {
    // the gate is 0 or 1; below, x times the gradient could overflow
    return select(0.0, x, x > 0.0);
  }
  return x * stableTanh(stableSoftplus(x));
}`,
  derived.mishGrad,
  stableSoftplus,
  stableTanh,
);

/** x / 6 + 1/2 between 0 and 1. */
export const hardsigmoid: ScalarFunction = /* @__PURE__ */ scalar(
  "hardsigmoid",
  /* wgsl */ `
fn hardsigmoid(x: f32) -> f32 {
  return select(select(x / 6.0 + 0.5, 0.0, x <= -3.0), 1.0, x >= 3.0);
}`,
  derived.hardsigmoidGrad,
);

/** x hardsigmoid(x). */
export const hardswish: ScalarFunction = /* @__PURE__ */ scalar(
  "hardswish",
  /* wgsl */ `
fn hardswish(x: f32) -> f32 {
  if (x <= -3.0) {
    return 0.0;
  }
  if (x < 3.0) {
    return x * (x / 6.0 + 0.5);
  }
  return x;
}`,
  derived.hardswishGrad,
);

/** elu with the alpha and scale that keep mean 0 and variance 1 (Klambauer et al. 2017). */
export const selu: ScalarFunction = /* @__PURE__ */ scalar(
  "selu",
  /* wgsl */ `
fn selu(x: f32) -> f32 {
  if (x > 0.0) {
    return 1.0507009873554805 * x;
  }
  return 1.7580993408473768 * expm1(x);
}`,
  derived.seluGrad,
  expm1,
);

/** x / (1 + |x|). */
export const softsign: ScalarFunction = /* @__PURE__ */ scalar(
  "softsign",
  /* wgsl */ `
fn softsign(x: f32) -> f32 {
  if (abs(x) < 1.0) {
    return x / (1.0 + abs(x));
  }
  // the slope of the quotient would cancel
  let y = 1.0 - 1.0 / (1.0 + abs(x));
  return select(y, -y, x < 0.0);
}`,
  derived.softsignGrad,
);

/** x - tanh(x). */
export const tanhshrink: ScalarFunction = /* @__PURE__ */ scalar(
  "tanhshrink",
  /* wgsl */ `
fn tanhshrink(x: f32) -> f32 {
  if (abs(x) < 1.2) {
    // where the difference cancels
    let s = x * x;
    var y = 2.684553874132689e-5;
    y = y * s - 0.00024016488168854266;
    y = y * s + 0.001062082825228572;
    y = y * s - 0.0033040083944797516;
    y = y * s + 0.00873209722340107;
    y = y * s - 0.02183481492102146;
    y = y * s + 0.0539635568857193;
    y = y * s - 0.13333308696746826;
    y = y * s + 0.3333333432674408;
    return x * s * y;
  }
  return x - stableTanh(x);
}`,
  derived.tanhshrinkGrad,
  stableTanh,
);

// With numbers ----------------------------------------------------------------------------------

/** x, or negativeSlope x below 0. Default 0.01. */
export const leakyRelu: Parametric<{ negativeSlope?: number }> = /* @__PURE__ */ parametric(
  /* @__PURE__ */ define(
    "leakyRelu",
    /* wgsl */ `
fn leakyRelu(x: f32, negativeSlope: f32) -> f32 {
  return select(negativeSlope * x, x, x > 0.0);
}`,
  ),
  derived.leakyReluGrad,
  { negativeSlope: 0.01 },
);

/** x, or weight x below 0: leakyRelu whose slope is an input with a gradient. torch.nn.PReLU. */
export const prelu: ScalarFunction = /* @__PURE__ */ scalar(
  "prelu",
  /* wgsl */ `
fn prelu(x: f32, weight: f32) -> f32 {
  return select(weight * x, x, x > 0.0);
}`,
  derived.preluGrad,
);

/** x, or alpha (e^x - 1) below 0. Default 1. */
export const elu: Parametric<{ alpha?: number }> = /* @__PURE__ */ parametric(
  /* @__PURE__ */ define(
    "elu",
    /* wgsl */ `
fn elu(x: f32, alpha: f32) -> f32 {
  if (x > 0.0) {
    return x;
  }
  return alpha * expm1(x);
}`,
    expm1,
  ),
  derived.eluGrad,
  { alpha: 1 },
);

/** x, or alpha (e^(x / alpha) - 1) below 0. Default 1. */
export const celu: Parametric<{ alpha?: number }> = /* @__PURE__ */ parametric(
  /* @__PURE__ */ define(
    "celu",
    /* wgsl */ `
fn celu(x: f32, alpha: f32) -> f32 {
  if (x > 0.0) {
    return x;
  }
  return alpha * expm1(x / alpha);
}`,
    expm1,
  ),
  derived.celuGrad,
  { alpha: 1 },
  (alpha) => Math.fround(alpha!) === 0 && `alpha is ${alpha}, expected another number`,
);

/** x between minVal and maxVal. Default -1 and 1. */
export const hardtanh: Parametric<{ minVal?: number; maxVal?: number }> = /* @__PURE__ */ parametric(
  /* @__PURE__ */ define(
    "hardtanh",
    /* wgsl */ `
fn hardtanh(x: f32, minVal: f32, maxVal: f32) -> f32 {
  return select(select(x, minVal, x <= minVal), maxVal, x >= maxVal);
}`,
  ),
  derived.hardtanhGrad,
  { minVal: -1, maxVal: 1 },
  (minVal, maxVal) => minVal! > maxVal! && `minVal is ${minVal}, expected at most maxVal, ${maxVal}`,
);

/** log(1 + e^(beta x)) / beta, and x itself where beta x exceeds the threshold. Default 1 and 20. */
export const softplus: Parametric<{ beta?: number; threshold?: number }> = /* @__PURE__ */ parametric(
  /* @__PURE__ */ define(
    "softplus",
    /* wgsl */ `
fn softplus(x: f32, beta: f32, threshold: f32) -> f32 {
  if (beta * x > threshold) {
    return x;
  }
  return stableSoftplus(beta * x) / beta;
}`,
    stableSoftplus,
  ),
  derived.softplusGrad,
  { beta: 1, threshold: 20 },
  (beta) => Math.fround(beta!) === 0 && `beta is ${beta}, expected another number`,
);

/** x, or 0 between -lambd and lambd. Default 0.5. */
export const hardshrink: Parametric<{ lambd?: number }> = /* @__PURE__ */ parametric(
  /* @__PURE__ */ define(
    "hardshrink",
    /* wgsl */ `
fn hardshrink(x: f32, lambd: f32) -> f32 {
  return select(x, 0.0, x >= -lambd && x <= lambd);
}`,
  ),
  derived.hardshrinkGrad,
  { lambd: 0.5 },
);

/** x moved towards 0 by lambd, or 0 between -lambd and lambd. Default 0.5. */
export const softshrink: Parametric<{ lambd?: number }> = /* @__PURE__ */ parametric(
  /* @__PURE__ */ define(
    "softshrink",
    /* wgsl */ `
fn softshrink(x: f32, lambd: f32) -> f32 {
  return select(select(x + lambd, 0.0, x >= -lambd), x - lambd, x > lambd);
}`,
  ),
  derived.softshrinkGrad,
  { lambd: 0.5 },
  (lambd) => lambd! < 0 && `lambd is ${lambd}, expected 0 or more`,
);

/** x where it exceeds the threshold, else value. */
export const threshold: Parametric<{ threshold: number; value: number }> = /* @__PURE__ */ parametric(
  /* @__PURE__ */ define(
    "threshold",
    /* wgsl */ `
fn threshold(x: f32, limit: f32, value: f32) -> f32 {
  return select(x, value, x <= limit);
}`,
  ),
  derived.thresholdGrad,
  { threshold: undefined, value: undefined },
);

/** cap tanh(x / cap): nearly x for small x, never beyond cap. Logits of a language model (Gemma 2). Default 30. */
export const softcap: Parametric<{ cap?: number }> = /* @__PURE__ */ parametric(
  /* @__PURE__ */ define(
    "softcap",
    /* wgsl */ `
fn softcap(x: f32, cap: f32) -> f32 {
  return cap * stableTanh(x / cap);
}`,
    stableTanh,
  ),
  derived.softcapGrad,
  { cap: 30 },
  (cap) => !(Math.fround(cap!) > 0) && `cap is ${cap}, expected a number above 0`,
);
