/**
 * Pure WGSL functions: no loads, no stores, nothing but their arguments. Each is a value with its text, `wgsl`, and the
 * functions that it calls, `uses`; `link` puts the text of several into a kernel, each once.
 *
 * Names are camelCase and do not hide WGSL's own. Derivatives stand in derivatives.generated.ts, derived from this text by
 * `pnpm generate`. README.md has the accuracy of each.
 */
/** A pure WGSL function. */
export interface MathFunction {
  readonly name: string;
  /** Its own text, without that of `uses`. */
  readonly wgsl: string;
  readonly uses: readonly MathFunction[];
}

/* @__NO_SIDE_EFFECTS__ */
export const define = (name: string, wgsl: string, ...uses: MathFunction[]): MathFunction => ({
  name,
  wgsl: wgsl.trim(),
  uses,
});

/** The text of functions and of all that they call, each once, callees first. */
export function link(...functions: readonly (MathFunction | string)[]): string {
  const found = new Set<string>();
  const visit = (fn: MathFunction): void => {
    for (const used of fn.uses) visit(used);
    found.add(fn.wgsl);
  };
  for (const fn of functions) {
    if (typeof fn === "string") found.add(fn);
    else visit(fn);
  }
  return `${[...found].join("\n\n")}\n`;
}

// Numerics that WGSL lacks ----------------------------------------------------------------------

/** Whether x is not a number, by its bits: comparisons may be folded away by compilers that assume there is none. */
export const isNan: MathFunction = define(
  "isNan",
  /* wgsl */ `
fn isNan(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}`,
);

/** Whether x is infinite, by its bits. */
export const isInf: MathFunction = define(
  "isInf",
  /* wgsl */ `
fn isInf(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}`,
);

/** log(1 + x), exact near 0. */
export const log1p: MathFunction = define(
  "log1p",
  /* wgsl */ `
fn log1p(x: f32) -> f32 {
  if (abs(x) > 0.4) {
    return log(1.0 + x);
  }
  // 2 artanh(s)
  let s = x / (2.0 + x);
  let q = s * s;
  let series = 1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0))));
  return 2.0 * (s + s * q * series);
}`,
);

/** e^x to the last place but one: WGSL's own may be wrong in the last 3 + 2|x| places. */
export const accurateExp: MathFunction = define(
  "accurateExp",
  /* wgsl */ `
fn accurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}`,
);

/** e^x - 1, exact near 0. */
export const expm1: MathFunction = define(
  "expm1",
  /* wgsl */ `
fn expm1(x: f32) -> f32 {
  if (abs(x) > 0.5) {
    return accurateExp(x) - 1.0;
  }
  let series = 1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0 + x / 40320.0))));
  return x + x * x * (0.5 + x * series);
}`,
  accurateExp,
);

/** 1 / (1 + e^-x) without overflow. */
export const sigmoid: MathFunction = define(
  "sigmoid",
  /* wgsl */ `
fn sigmoid(x: f32) -> f32 {
  let e = accurateExp(-abs(x));
  return select(e, 1.0, x >= 0.0) / (1.0 + e);
}`,
  accurateExp,
);

/** log(1 + e^x) without overflow. */
export const softplus: MathFunction = define(
  "softplus",
  /* wgsl */ `
fn softplus(x: f32) -> f32 {
  let tail = log1p(accurateExp(-abs(x)));
  return select(tail, x + tail, x > 0.0);
}`,
  log1p,
  accurateExp,
);

/** log(sigmoid(x)). */
export const logSigmoid: MathFunction = define(
  "logSigmoid",
  /* wgsl */ `
fn logSigmoid(x: f32) -> f32 {
  return -softplus(-x);
}`,
  softplus,
);

/** The hyperbolic tangent for every x: WGSL's own may overflow, and is inexact near 0. */
export const stableTanh: MathFunction = define(
  "stableTanh",
  /* wgsl */ `
fn stableTanh(x: f32) -> f32 {
  // beyond 15 it is 1
  let m = expm1(-2.0 * min(abs(x), 15.0));
  let t = m / (2.0 + m);
  return select(-t, t, x < 0.0);
}`,
  expm1,
);

/** log(e^a + e^b) without overflow. */
export const logAddExp: MathFunction = define(
  "logAddExp",
  /* wgsl */ `
fn logAddExp(a: f32, b: f32) -> f32 {
  return max(a, b) + log1p(accurateExp(-abs(a - b)));
}`,
  log1p,
  accurateExp,
);

/** e^(x^2) erfc(x) for x >= 0. */
const scaledErfc = define(
  "scaledErfc",
  /* wgsl */ `
fn scaledErfc(x: f32) -> f32 {
  let t = 1.0 / (1.0 + 0.4 * x);
  var y = -0.02863682061433792;
  y = y * t + 0.19282197952270508;
  y = y * t - 0.48662900924682617;
  y = y * t + 0.5312276482582092;
  y = y * t - 0.27092409133911133;
  y = y * t + 0.2648743987083435;
  y = y * t + 0.13215623795986176;
  y = y * t + 0.21439078450202942;
  y = y * t + 0.22501526772975922;
  y = y * t + 0.2257036715745926;
  return y * t;
}`,
);

/** e^(-x^2) for x up to 10: the part of the square that does not fit is a factor of its own. */
const gaussian = define(
  "gaussian",
  /* wgsl */ `
fn gaussian(x: f32) -> f32 {
  let high = floor(x * 64.0) / 64.0;
  let low = x - high;
  return accurateExp(-high * high) * accurateExp(-low * (x + high));
}`,
  accurateExp,
);

/** The error function. */
export const erf: MathFunction = define(
  "erf",
  /* wgsl */ `
fn erf(x: f32) -> f32 {
  let a = min(abs(x), 5.0);
  if (a < 1.0) {
    let s = x * x;
    var y = 7.853860734030604e-5;
    y = y * s - 0.0008010193705558777;
    y = y * s + 0.005188327748328447;
    y = y * s - 0.026853812858462334;
    y = y * s + 0.1128358542919159;
    y = y * s - 0.3761262595653534;
    y = y * s + 0.12837916622;
    return x + x * y;
  }
  let y = 1.0 - gaussian(a) * scaledErfc(a);
  return select(y, -y, x < 0.0);
}`,
  scaledErfc,
  gaussian,
);

/** 1 - erf(x), exact in the tail. */
export const erfc: MathFunction = define(
  "erfc",
  /* wgsl */ `
fn erfc(x: f32) -> f32 {
  if (abs(x) < 0.25) {
    return 1.0 - erf(x);
  }
  let a = min(abs(x), 10.5);
  let y = gaussian(a) * scaledErfc(a);
  return select(y, 2.0 - y, x < 0.0);
}`,
  erf,
);

/** The inverse of erf; infinite at -1 and 1, NaN beyond. */
export const erfinv: MathFunction = define(
  "erfinv",
  /* wgsl */ `
fn erfinv(x: f32) -> f32 {
  let w = -log((1.0 - x) * (1.0 + x));
  var y: f32;
  if (w < 5.0) {
    let u = w - 2.5;
    y = 2.8535034e-8;
    y = y * u + 3.4372738e-7;
    y = y * u - 3.5288625e-6;
    y = y * u - 4.3967848e-6;
    y = y * u + 0.00021860220;
    y = y * u - 0.0012537075;
    y = y * u - 0.0041777077;
    y = y * u + 0.24664073;
    y = y * u + 1.5014094;
  } else {
    let u = sqrt(w) - 3.0;
    y = -0.00020011966;
    y = y * u + 0.00010269674;
    y = y * u + 0.0013491235;
    y = y * u - 0.0036756494;
    y = y * u + 0.0057394686;
    y = y * u - 0.0076216707;
    y = y * u + 0.0094389347;
    y = y * u + 1.0016741;
    y = y * u + 2.8329768;
  }
  return select(x * y, x / (1.0 - abs(x)), w > 17.0);
}`,
);

// Activations -----------------------------------------------------------------------------------

/** x sigmoid(x). */
export const silu: MathFunction = define(
  "silu",
  /* wgsl */ `
fn silu(x: f32) -> f32 {
  return x * sigmoid(x);
}`,
  sigmoid,
);

/** x times the normal distribution function of x. */
export const gelu: MathFunction = define(
  "gelu",
  /* wgsl */ `
fn gelu(x: f32) -> f32 {
  return 0.5 * x * erfc(-0.7071067811865476 * x);
}`,
  erfc,
);

/** x tanh(softplus(x)). */
export const mish: MathFunction = define(
  "mish",
  /* wgsl */ `
fn mish(x: f32) -> f32 {
  return x * stableTanh(softplus(x));
}`,
  softplus,
  stableTanh,
);

// What attorch.math has -------------------------------------------------------------------------

/** accumulator + a . b, one step of a product of matrices, four elements at a time. */
export const accumLinear: MathFunction = define(
  "accumLinear",
  /* wgsl */ `
fn accumLinear(accumulator: f32, a: vec4f, b: vec4f) -> f32 {
  return accumulator + dot(a, b);
}`,
);

/** a silu(b), the gated linear unit of SwiGLU. Another gate: write a * gate(b). */
export const swiglu: MathFunction = define(
  "swiglu",
  /* wgsl */ `
fn swiglu(a: f32, b: f32) -> f32 {
  return a * silu(b);
}`,
  silu,
);

/** a sigmoid(b). */
export const glu: MathFunction = define(
  "glu",
  /* wgsl */ `
fn glu(a: f32, b: f32) -> f32 {
  return a * sigmoid(b);
}`,
  sigmoid,
);

/** One element of the softmax of its row. Of -x it is the softmin. */
export const softmax: MathFunction = define(
  "softmax",
  /* wgsl */ `
fn softmax(x: f32) -> f32 {
  let e = exp(x - rowMax(x));
  return e / rowSum(e);
}`,
);

/** The logarithm of the softmax. */
export const logSoftmax: MathFunction = define(
  "logSoftmax",
  /* wgsl */ `
fn logSoftmax(x: f32) -> f32 {
  let shifted = x - rowMax(x);
  return shifted - log(rowSum(exp(shifted)));
}`,
);

/** The mean of a row, and 1 / sqrt(variance + eps). */
export const meanAndInvStd: MathFunction = define(
  "meanAndInvStd",
  /* wgsl */ `
fn meanAndInvStd(x: f32, eps: f32) -> vec2f {
  let mean = rowMean(x);
  let centered = x - mean;
  return vec2f(mean, inverseSqrt(rowMean(centered * centered) + eps));
}`,
);

/** A running (count, mean, sum of squared deviations) with one more value (Welford). */
export const updateWelford: MathFunction = define(
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
export const mergeWelford: MathFunction = define(
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
export const updateEma: MathFunction = define(
  "updateEma",
  /* wgsl */ `
fn updateEma(old: f32, new_: f32, momentum: f32) -> f32 {
  return (1.0 - momentum) * old + momentum * new_;
}`,
);

/** weight (x - mean) invStd + bias. */
export const standardize: MathFunction = define(
  "standardize",
  /* wgsl */ `
fn standardize(x: f32, mean: f32, invStd: f32, weight: f32, bias: f32) -> f32 {
  return weight * invStd * (x - mean) + bias;
}`,
);

/** |x - expected|. */
export const l1Loss: MathFunction = define(
  "l1Loss",
  /* wgsl */ `
fn l1Loss(x: f32, expected: f32) -> f32 {
  return abs(x - expected);
}`,
);

/** (x - expected)^2. */
export const squaredLoss: MathFunction = define(
  "squaredLoss",
  /* wgsl */ `
fn squaredLoss(x: f32, expected: f32) -> f32 {
  let difference = x - expected;
  return difference * difference;
}`,
);

/** Half the square over beta where |x - expected| < beta, else the distance less beta / 2. */
export const smoothL1Loss: MathFunction = define(
  "smoothL1Loss",
  /* wgsl */ `
fn smoothL1Loss(x: f32, expected: f32, beta: f32) -> f32 {
  let distance_ = abs(x - expected);
  if (distance_ < beta) {
    return 0.5 * distance_ * distance_ / beta;
  }
  return distance_ - 0.5 * beta;
}`,
);

/** Half the square where |x - expected| <= delta, else delta times the distance less delta / 2. */
export const huberLoss: MathFunction = define(
  "huberLoss",
  /* wgsl */ `
fn huberLoss(x: f32, expected: f32, delta: f32) -> f32 {
  let distance_ = abs(x - expected);
  if (distance_ <= delta) {
    return 0.5 * distance_ * distance_;
  }
  return delta * (distance_ - 0.5 * delta);
}`,
);

/** The negative log-likelihood of a row: its log-probabilities times a target distribution, one-hot or not. */
export const nllLoss: MathFunction = define(
  "nllLoss",
  /* wgsl */ `
fn nllLoss(logProbability: f32, probability: f32) -> f32 {
  return -rowSum(logProbability * probability);
}`,
);

/** The cross entropy of a row of logits with a target distribution, one-hot or not. The same for each element. */
export const crossEntropy: MathFunction = define(
  "crossEntropy",
  /* wgsl */ `
fn crossEntropy(logit: f32, probability: f32) -> f32 {
  return nllLoss(logSoftmax(logit), probability);
}`,
  logSoftmax,
  nllLoss,
);

// Random numbers --------------------------------------------------------------------------------

/** In [0, 1) from random bits: 24 of them. */
export const unitUniform: MathFunction = define(
  "unitUniform",
  /* wgsl */ `
fn unitUniform(bits: u32) -> f32 {
  return f32(bits >> 8u) * 5.9604644775390625e-8;
}`,
);

/** Two standard normal numbers from random bits (Box and Muller). */
export const unitNormal: MathFunction = define(
  "unitNormal",
  /* wgsl */ `
fn unitNormal(bits: vec2u) -> vec2f {
  // the half step keeps the logarithm's argument above 0
  let radius = sqrt(-2.0 * log(unitUniform(bits.x) + 2.98023223876953125e-8));
  let angle = 6.283185307179586 * unitUniform(bits.y);
  return vec2f(radius * cos(angle), radius * sin(angle));
}`,
  unitUniform,
);

/** x / (1 - p), or 0 with probability p, by random bits; of p = 1 it is 0. */
export const dropout: MathFunction = define(
  "dropout",
  /* wgsl */ `
fn dropout(x: f32, p: f32, bits: u32) -> f32 {
  return select(0.0, x / max(1.0 - p, 1e-30), unitUniform(bits) >= p);
}`,
  unitUniform,
);
