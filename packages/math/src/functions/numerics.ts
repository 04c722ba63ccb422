/** Numerics that WGSL lacks, or has inexact. README.md has the accuracy of each. */
import * as derived from "../derivatives.generated.ts";
import { define, type MathFunction, type ScalarFunction, scalar } from "./define.ts";

/** Whether x is not a number, by its bits: comparisons may be folded away by compilers that assume there is none. */
export const isNan: MathFunction = /* @__PURE__ */ define(
  "isNan",
  /* wgsl */ `
fn isNan(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u;
}`,
);

/** Whether x is infinite, by its bits. */
export const isInf: MathFunction = /* @__PURE__ */ define(
  "isInf",
  /* wgsl */ `
fn isInf(x: f32) -> bool {
  return (bitcast<u32>(x) & 0x7fffffffu) == 0x7f800000u;
}`,
);

/** log(1 + x), exact near 0. */
export const log1p: ScalarFunction = /* @__PURE__ */ scalar(
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
  derived.log1pGrad,
);

/** e^x to the last place but one: WGSL's own may be wrong in the last 3 + 2|x| places. */
export const accurateExp: ScalarFunction = /* @__PURE__ */ scalar(
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
  derived.accurateExpGrad,
);

/** e^x - 1, exact near 0. */
export const expm1: ScalarFunction = /* @__PURE__ */ scalar(
  "expm1",
  /* wgsl */ `
fn expm1(x: f32) -> f32 {
  if (abs(x) > 0.5) {
    return accurateExp(x) - 1.0;
  }
  let series = 1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0 + x / 40320.0))));
  return x + x * x * (0.5 + x * series);
}`,
  derived.expm1Grad,
  accurateExp,
);

/** 1 / (1 + e^-x) without overflow. */
export const sigmoid: ScalarFunction = /* @__PURE__ */ scalar(
  "sigmoid",
  /* wgsl */ `
fn sigmoid(x: f32) -> f32 {
  // not abs(x): its slope at 0 is 0
  let e = accurateExp(select(-x, x, x < 0.0));
  return select(1.0, e, x < 0.0) / (1.0 + e);
}`,
  derived.sigmoidGrad,
  accurateExp,
);

/** log(1 + e^x) without overflow. */
export const stableSoftplus: ScalarFunction = /* @__PURE__ */ scalar(
  "stableSoftplus",
  /* wgsl */ `
fn stableSoftplus(x: f32) -> f32 {
  let tail = log1p(accurateExp(select(-x, x, x < 0.0)));
  return select(x + tail, tail, x < 0.0);
}`,
  derived.stableSoftplusGrad,
  log1p,
  accurateExp,
);

/** The hyperbolic tangent for every x: WGSL's own may overflow, and is inexact near 0. */
export const stableTanh: ScalarFunction = /* @__PURE__ */ scalar(
  "stableTanh",
  /* wgsl */ `
fn stableTanh(x: f32) -> f32 {
  let size = select(x, -x, x < 0.0);
  // beyond 15 it is 1
  let m = expm1(-2.0 * select(size, 15.0, size > 15.0));
  let t = m / (2.0 + m);
  return select(-t, t, x < 0.0);
}`,
  derived.stableTanhGrad,
  expm1,
);

/** log(e^a + e^b) without overflow; of two equal infinities it is that infinity. */
export const logAddExp: ScalarFunction = /* @__PURE__ */ scalar(
  "logAddExp",
  /* wgsl */ `
fn logAddExp(a: f32, b: f32) -> f32 {
  let apart = select(abs(a - b), 0.0, a == b);
  return max(a, b) + log1p(accurateExp(-apart));
}`,
  derived.logAddExpGrad,
  log1p,
  accurateExp,
);

/** e^(x^2) erfc(x) for x >= 0. */
const scaledErfc = /* @__PURE__ */ define(
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
const gaussian = /* @__PURE__ */ define(
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
export const erf: ScalarFunction = /* @__PURE__ */ scalar(
  "erf",
  /* wgsl */ `
fn erf(x: f32) -> f32 {
  let size = abs(x);
  let a = select(size, 5.0, size > 5.0);
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
  derived.erfGrad,
  scaledErfc,
  gaussian,
);

/** 1 - erf(x), exact in the tail. */
export const erfc: ScalarFunction = /* @__PURE__ */ scalar(
  "erfc",
  /* wgsl */ `
fn erfc(x: f32) -> f32 {
  if (abs(x) < 0.25) {
    return 1.0 - erf(x);
  }
  let size = abs(x);
  let a = select(size, 10.5, size > 10.5);
  let y = gaussian(a) * scaledErfc(a);
  return select(y, 2.0 - y, x < 0.0);
}`,
  derived.erfcGrad,
  erf,
);

/** The inverse of erf; infinite at -1 and 1, NaN beyond. */
export const erfinv: ScalarFunction = /* @__PURE__ */ scalar(
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
  derived.erfinvGrad,
);

/** The normal distribution function, exact in its tail to -14. */
export const normalCdf: ScalarFunction = /* @__PURE__ */ scalar(
  "normalCdf",
  /* wgsl */ `
fn normalCdf(x: f32) -> f32 {
  let size = select(x, -x, x < 0.0);
  let a = select(size, 14.5, size > 14.5);
  // e^(-a^2 / 2) in two factors: the square of the first part is exact
  let high = floor(a * 64.0) / 64.0;
  let low = a - high;
  let density = accurateExp(-0.5 * high * high) * accurateExp(-0.5 * low * (a + high));
  let tail = 0.5 * density * scaledErfc(0.7071067811865476 * a);
  return select(1.0 - tail, tail, x < 0.0);
}`,
  derived.normalCdfGrad,
  accurateExp,
  scaledErfc,
);
