// Written by `pnpm generate` from functions.ts. Do not edit.
import type { Pointwise } from "@kindling/core";

/** The gradients of `fn accumLinear(accumulator: f32, a: vec4f, b: vec4f) -> f32`. */
export const accumLinearGrad: string = /* wgsl */ `
struct AccumLinearGrads {
  daccumulator: f32,
  da: vec4f,
  db: vec4f,
}

fn accumLinearGrad(accumulator: f32, a: vec4f, b: vec4f, dy: f32) -> AccumLinearGrads {
  return AccumLinearGrads(dy, dy * b, dy * a);
}
`;

/** The gradients of `fn accurateExp(x: f32) -> f32`. */
export const accurateExpGrad: string = /* wgsl */ `
fn accurateExpGrad(x: f32, dy: f32) -> f32 {
  let isGreater = x > 89.0;
  let isLess = x < -104.0;
  let bounded = select(select(x, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let half = floor(0.5 * n);
  let dy2 = ldexp(ldexp(dy, i32(n - half)), i32(half));
  let product = dy2 * (r * r);
  let dseries = product * r;
  let product2 = dy2 * (0.5 + r * series) * r;
  let sum4 = dy2 + product * series + product2 + product2 + dseries * sum3;
  let product3 = dseries * r;
  let product4 = product3 * r;
  let dr = sum4 + product3 * sum2 + product4 * sum + product4 * r / 5040.0;
  return select(select(dr, 0.0, isLess), 0.0, isGreater);
}
`;

/** `accurateExp` as an activation of any layer. */
export const accurateExpActivation: Pointwise = {
  name: "mathAccurateExp",
  forward: /* wgsl */ `
fn mathAccurateExpAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathAccurateExp(x: f32) -> f32 {
  return mathAccurateExpAccurateExp(x);
}
`,
  backward: /* wgsl */ `
fn mathAccurateExpGrad(x: f32, dy: f32) -> f32 {
  let isGreater = x > 89.0;
  let isLess = x < -104.0;
  let bounded = select(select(x, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let half = floor(0.5 * n);
  let dy2 = ldexp(ldexp(dy, i32(n - half)), i32(half));
  let product = dy2 * (r * r);
  let dseries = product * r;
  let product2 = dy2 * (0.5 + r * series) * r;
  let sum4 = dy2 + product * series + product2 + product2 + dseries * sum3;
  let product3 = dseries * r;
  let product4 = product3 * r;
  let dr = sum4 + product3 * sum2 + product4 * sum + product4 * r / 5040.0;
  return select(select(dr, 0.0, isLess), 0.0, isGreater);
}
`,
};

/** The gradients of `fn crossEntropy(logit: f32, probability: f32) -> f32`. */
export const crossEntropyGrad: string = /* wgsl */ `
struct CrossEntropyGrads {
  dlogit: f32,
  dprobability: f32,
}

fn crossEntropyGrad(logit: f32, probability: f32, dy: f32) -> CrossEntropyGrads {
  let rowMaxLogit = rowMax(logit);
  let shifted = logit - rowMaxLogit;
  let expShifted = exp(shifted);
  let rowSumExpShifted = rowSum(expShifted);
  let rowSumDy = rowSum(dy);
  let product = rowSumDy * probability;
  let dshifted = rowSum(product / rowSumExpShifted) * expShifted - product;
  let isMax = select(0.0, 1.0, logit == rowMaxLogit);
  return CrossEntropyGrads(dshifted - rowSum(dshifted) * isMax / rowSum(isMax), -(rowSumDy * (shifted - log(rowSumExpShifted))));
}
`;

/** The gradients of `fn dropout(x: f32, p: f32, bits: u32) -> f32`. */
export const dropoutGrad: string = /* wgsl */ `
struct DropoutGrads {
  dx: f32,
  dp: f32,
}

fn dropoutGrad(x: f32, p: f32, bits: u32, dy: f32) -> DropoutGrads {
  let difference = 1.0 - p;
  let maxValue = max(difference, 1e-30);
  let chosen = select(0.0, dy, f32(bits >> 8u) * 5.9604644775390625e-8 >= p);
  let ratio = chosen * (x / maxValue) / maxValue;
  let chosen2 = select(select(0.0, -(0.5 * ratio), difference == 1e-30), -ratio, difference > 1e-30);
  return DropoutGrads(chosen / maxValue, -chosen2);
}
`;

/** The gradients of `fn erf(x: f32) -> f32`. */
export const erfGrad: string = /* wgsl */ `
fn erfGrad(x: f32, dy: f32) -> f32 {
  let absX = abs(x);
  let a = min(absX, 5.0);
  var dx: f32;
  var da: f32;
  if (a < 1.0) {
    let s = x * x;
    let y = 7.853860734030604e-5 * s - 0.0008010193705558777;
    let y2 = y * s + 0.005188327748328447;
    let y3 = y2 * s - 0.026853812858462334;
    let y4 = y3 * s + 0.1128358542919159;
    let y5 = y4 * s - 0.3761262595653534;
    let y6 = y5 * s + 0.12837916622;
    let dy2 = dy * x;
    let dy3 = dy2 * s;
    let dy4 = dy3 * s;
    let dy5 = dy4 * s;
    let dy6 = dy5 * s;
    let ds = dy2 * y5 + dy3 * y4 + dy4 * y3 + dy5 * y2 + dy6 * y + 7.853860734030604e-5 * (dy6 * s);
    let product = ds * x;
    dx = dy + dy * y6 + product + product;
    da = 0.0;
  } else {
    let high = floor(a * 64.0) / 64.0;
    let low = a - high;
    let product = -high * high;
    let isLess = product < -104.0;
    let bounded = select(select(product, 89.0, product > 89.0), -104.0, isLess);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    const ratio = 1.0 / 6.0;
    const ratio2 = 1.0 / 24.0;
    const ratio3 = 1.0 / 120.0;
    const ratio4 = 1.0 / 720.0;
    let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
    let sum = a + high;
    let product2 = -low * sum;
    let isGreater = product2 > 89.0;
    let isLess2 = product2 < -104.0;
    let bounded2 = select(select(product2, 89.0, isGreater), -104.0, isLess2);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let sum2 = ratio4 + r2 / 5040.0;
    let sum3 = ratio3 + r2 * sum2;
    let sum4 = ratio2 + r2 * sum3;
    let series2 = ratio + r2 * sum4;
    let product3 = r2 * r2;
    let sum5 = 0.5 + r2 * series2;
    let y2 = 1.0 + (r2 + product3 * sum5);
    let half2 = floor(0.5 * n2);
    let value = i32(half2);
    let value2 = i32(n2 - half2);
    let sum6 = 1.0 + 0.4 * a;
    let t = 1.0 / sum6;
    let y3 = -0.02863682061433792 * t + 0.19282197952270508;
    let y4 = y3 * t - 0.48662900924682617;
    let y5 = y4 * t + 0.5312276482582092;
    let y6 = y5 * t - 0.27092409133911133;
    let y7 = y6 * t + 0.2648743987083435;
    let y8 = y7 * t + 0.13215623795986176;
    let y9 = y8 * t + 0.21439078450202942;
    let y10 = y9 * t + 0.22501526772975922;
    let y11 = y10 * t + 0.2257036715745926;
    let isLess3 = x < 0.0;
    let dy2 = select(dy, 0.0, isLess3) - select(0.0, dy, isLess3);
    let product4 = dy2 * (ldexpValue * ldexp(ldexp(y2, value), value2));
    let product5 = product4 * t;
    let product6 = product5 * t;
    let product7 = product6 * t;
    let product8 = product7 * t;
    let difference = -(product4 * y11) - product5 * y10 - product6 * y9 - product7 * y8;
    let product9 = product8 * t;
    let product10 = product9 * t;
    let product11 = product10 * t;
    let difference2 = difference - product8 * y7 - product9 * y6 - product10 * y5;
    let product12 = product11 * t;
    let dt = difference2 - product11 * y4 - product12 * y3 + 0.02863682061433792 * (product12 * t);
    let dy3 = ldexp(ldexp(-(dy2 * (y11 * t) * ldexpValue), value2), value);
    let product13 = dy3 * product3;
    let dseries = product13 * r2;
    let product14 = dy3 * sum5 * r2;
    let sum7 = dy3 + product13 * series2 + product14 + product14 + dseries * sum4;
    let product15 = dseries * r2;
    let product16 = product15 * r2;
    let dr = sum7 + product15 * sum3 + product16 * sum2 + product16 * r2 / 5040.0;
    let chosen = select(select(dr, 0.0, isLess2), 0.0, isGreater);
    dx = 0.0;
    da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
  }
  let isLess = absX < 5.0;
  let product = select(select(0.0, 0.5 * da, absX == 5.0), da, isLess) * sign(x);
  return dx + product;
}
`;

/** `erf` as an activation of any layer. */
export const erfActivation: Pointwise = {
  name: "mathErf",
  forward: /* wgsl */ `
fn mathErfScaledErfc(x: f32) -> f32 {
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
}

fn mathErfAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathErfGaussian(x: f32) -> f32 {
  let high = floor(x * 64.0) / 64.0;
  let low = x - high;
  return mathErfAccurateExp(-high * high) * mathErfAccurateExp(-low * (x + high));
}

fn mathErfErf(x: f32) -> f32 {
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
  let y = 1.0 - mathErfGaussian(a) * mathErfScaledErfc(a);
  return select(y, -y, x < 0.0);
}

fn mathErf(x: f32) -> f32 {
  return mathErfErf(x);
}
`,
  backward: /* wgsl */ `
fn mathErfGrad(x: f32, dy: f32) -> f32 {
  let absX = abs(x);
  let a = min(absX, 5.0);
  var dx: f32;
  var da: f32;
  if (a < 1.0) {
    let s = x * x;
    let y = 7.853860734030604e-5 * s - 0.0008010193705558777;
    let y2 = y * s + 0.005188327748328447;
    let y3 = y2 * s - 0.026853812858462334;
    let y4 = y3 * s + 0.1128358542919159;
    let y5 = y4 * s - 0.3761262595653534;
    let y6 = y5 * s + 0.12837916622;
    let dy2 = dy * x;
    let dy3 = dy2 * s;
    let dy4 = dy3 * s;
    let dy5 = dy4 * s;
    let dy6 = dy5 * s;
    let ds = dy2 * y5 + dy3 * y4 + dy4 * y3 + dy5 * y2 + dy6 * y + 7.853860734030604e-5 * (dy6 * s);
    let product = ds * x;
    dx = dy + dy * y6 + product + product;
    da = 0.0;
  } else {
    let high = floor(a * 64.0) / 64.0;
    let low = a - high;
    let product = -high * high;
    let isLess = product < -104.0;
    let bounded = select(select(product, 89.0, product > 89.0), -104.0, isLess);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    const ratio = 1.0 / 6.0;
    const ratio2 = 1.0 / 24.0;
    const ratio3 = 1.0 / 120.0;
    const ratio4 = 1.0 / 720.0;
    let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
    let sum = a + high;
    let product2 = -low * sum;
    let isGreater = product2 > 89.0;
    let isLess2 = product2 < -104.0;
    let bounded2 = select(select(product2, 89.0, isGreater), -104.0, isLess2);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let sum2 = ratio4 + r2 / 5040.0;
    let sum3 = ratio3 + r2 * sum2;
    let sum4 = ratio2 + r2 * sum3;
    let series2 = ratio + r2 * sum4;
    let product3 = r2 * r2;
    let sum5 = 0.5 + r2 * series2;
    let y2 = 1.0 + (r2 + product3 * sum5);
    let half2 = floor(0.5 * n2);
    let value = i32(half2);
    let value2 = i32(n2 - half2);
    let sum6 = 1.0 + 0.4 * a;
    let t = 1.0 / sum6;
    let y3 = -0.02863682061433792 * t + 0.19282197952270508;
    let y4 = y3 * t - 0.48662900924682617;
    let y5 = y4 * t + 0.5312276482582092;
    let y6 = y5 * t - 0.27092409133911133;
    let y7 = y6 * t + 0.2648743987083435;
    let y8 = y7 * t + 0.13215623795986176;
    let y9 = y8 * t + 0.21439078450202942;
    let y10 = y9 * t + 0.22501526772975922;
    let y11 = y10 * t + 0.2257036715745926;
    let isLess3 = x < 0.0;
    let dy2 = select(dy, 0.0, isLess3) - select(0.0, dy, isLess3);
    let product4 = dy2 * (ldexpValue * ldexp(ldexp(y2, value), value2));
    let product5 = product4 * t;
    let product6 = product5 * t;
    let product7 = product6 * t;
    let product8 = product7 * t;
    let difference = -(product4 * y11) - product5 * y10 - product6 * y9 - product7 * y8;
    let product9 = product8 * t;
    let product10 = product9 * t;
    let product11 = product10 * t;
    let difference2 = difference - product8 * y7 - product9 * y6 - product10 * y5;
    let product12 = product11 * t;
    let dt = difference2 - product11 * y4 - product12 * y3 + 0.02863682061433792 * (product12 * t);
    let dy3 = ldexp(ldexp(-(dy2 * (y11 * t) * ldexpValue), value2), value);
    let product13 = dy3 * product3;
    let dseries = product13 * r2;
    let product14 = dy3 * sum5 * r2;
    let sum7 = dy3 + product13 * series2 + product14 + product14 + dseries * sum4;
    let product15 = dseries * r2;
    let product16 = product15 * r2;
    let dr = sum7 + product15 * sum3 + product16 * sum2 + product16 * r2 / 5040.0;
    let chosen = select(select(dr, 0.0, isLess2), 0.0, isGreater);
    dx = 0.0;
    da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
  }
  let isLess = absX < 5.0;
  let product = select(select(0.0, 0.5 * da, absX == 5.0), da, isLess) * sign(x);
  return dx + product;
}
`,
};

/** The gradients of `fn erfc(x: f32) -> f32`. */
export const erfcGrad: string = /* wgsl */ `
fn erfcGrad(x: f32, dy: f32) -> f32 {
  let absX = abs(x);
  var dx: f32;
  var value: f32;
  if (absX < 0.25) {
    let a = min(absX, 5.0);
    let derfValue = -dy;
    var dx2: f32;
    var da: f32;
    if (a < 1.0) {
      let s = x * x;
      let y = 7.853860734030604e-5 * s - 0.0008010193705558777;
      let y2 = y * s + 0.005188327748328447;
      let y3 = y2 * s - 0.026853812858462334;
      let y4 = y3 * s + 0.1128358542919159;
      let y5 = y4 * s - 0.3761262595653534;
      let y6 = y5 * s + 0.12837916622;
      let product = dy * x;
      let product2 = product * s;
      let product3 = product2 * s;
      let product4 = product3 * s;
      let product5 = product4 * s;
      let difference = -(product * y5) - product2 * y4 - product3 * y3 - product4 * y2;
      let ds = difference - product5 * y - 7.853860734030604e-5 * (product5 * s);
      let product6 = ds * x;
      dx2 = derfValue - dy * y6 + product6 + product6;
      da = 0.0;
    } else {
      let high = floor(a * 64.0) / 64.0;
      let low = a - high;
      let product = -high * high;
      let isLess = product < -104.0;
      let bounded = select(select(product, 89.0, product > 89.0), -104.0, isLess);
      let n = round(1.4426950408889634 * bounded);
      let r = bounded - n * 0.693359375 + n * 0.00021219444;
      const ratio = 1.0 / 6.0;
      const ratio2 = 1.0 / 24.0;
      const ratio3 = 1.0 / 120.0;
      const ratio4 = 1.0 / 720.0;
      let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
      let y = 1.0 + (r + r * r * (0.5 + r * series));
      let half = floor(0.5 * n);
      let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
      let sum = a + high;
      let product2 = -low * sum;
      let isGreater = product2 > 89.0;
      let isLess2 = product2 < -104.0;
      let bounded2 = select(select(product2, 89.0, isGreater), -104.0, isLess2);
      let n2 = round(1.4426950408889634 * bounded2);
      let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
      let sum2 = ratio4 + r2 / 5040.0;
      let sum3 = ratio3 + r2 * sum2;
      let sum4 = ratio2 + r2 * sum3;
      let series2 = ratio + r2 * sum4;
      let product3 = r2 * r2;
      let sum5 = 0.5 + r2 * series2;
      let y2 = 1.0 + (r2 + product3 * sum5);
      let half2 = floor(0.5 * n2);
      let value2 = i32(half2);
      let value3 = i32(n2 - half2);
      let sum6 = 1.0 + 0.4 * a;
      let t = 1.0 / sum6;
      let y3 = -0.02863682061433792 * t + 0.19282197952270508;
      let y4 = y3 * t - 0.48662900924682617;
      let y5 = y4 * t + 0.5312276482582092;
      let y6 = y5 * t - 0.27092409133911133;
      let y7 = y6 * t + 0.2648743987083435;
      let y8 = y7 * t + 0.13215623795986176;
      let y9 = y8 * t + 0.21439078450202942;
      let y10 = y9 * t + 0.22501526772975922;
      let y11 = y10 * t + 0.2257036715745926;
      let isLess3 = x < 0.0;
      let dy2 = select(derfValue, 0.0, isLess3) - select(0.0, derfValue, isLess3);
      let product4 = dy2 * (ldexpValue * ldexp(ldexp(y2, value2), value3));
      let product5 = product4 * t;
      let product6 = product5 * t;
      let product7 = product6 * t;
      let product8 = product7 * t;
      let difference = -(product4 * y11) - product5 * y10 - product6 * y9 - product7 * y8;
      let product9 = product8 * t;
      let product10 = product9 * t;
      let product11 = product10 * t;
      let difference2 = difference - product8 * y7 - product9 * y6 - product10 * y5;
      let product12 = product11 * t;
      let dt = difference2 - product11 * y4 - product12 * y3 + 0.02863682061433792 * (product12 * t);
      let dy3 = ldexp(ldexp(-(dy2 * (y11 * t) * ldexpValue), value3), value2);
      let product13 = dy3 * product3;
      let dseries = product13 * r2;
      let product14 = dy3 * sum5 * r2;
      let sum7 = dy3 + product13 * series2 + product14 + product14 + dseries * sum4;
      let product15 = dseries * r2;
      let product16 = product15 * r2;
      let dr = sum7 + product15 * sum3 + product16 * sum2 + product16 * r2 / 5040.0;
      let chosen = select(select(dr, 0.0, isLess2), 0.0, isGreater);
      dx2 = 0.0;
      da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
    }
    let isLess = absX < 5.0;
    dx = dx2;
    value = select(select(0.0, 0.5 * da, absX == 5.0), da, isLess);
  } else {
    let a = min(absX, 10.5);
    let high = floor(a * 64.0) / 64.0;
    let low = a - high;
    let product = -high * high;
    let isLess = product < -104.0;
    let bounded = select(select(product, 89.0, product > 89.0), -104.0, isLess);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    const ratio = 1.0 / 6.0;
    const ratio2 = 1.0 / 24.0;
    const ratio3 = 1.0 / 120.0;
    const ratio4 = 1.0 / 720.0;
    let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
    let sum = a + high;
    let product2 = -low * sum;
    let isGreater = product2 > 89.0;
    let isLess2 = product2 < -104.0;
    let bounded2 = select(select(product2, 89.0, isGreater), -104.0, isLess2);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let sum2 = ratio4 + r2 / 5040.0;
    let sum3 = ratio3 + r2 * sum2;
    let sum4 = ratio2 + r2 * sum3;
    let series2 = ratio + r2 * sum4;
    let product3 = r2 * r2;
    let sum5 = 0.5 + r2 * series2;
    let y2 = 1.0 + (r2 + product3 * sum5);
    let half2 = floor(0.5 * n2);
    let value2 = i32(half2);
    let value3 = i32(n2 - half2);
    let sum6 = 1.0 + 0.4 * a;
    let t = 1.0 / sum6;
    let y3 = -0.02863682061433792 * t + 0.19282197952270508;
    let y4 = y3 * t - 0.48662900924682617;
    let y5 = y4 * t + 0.5312276482582092;
    let y6 = y5 * t - 0.27092409133911133;
    let y7 = y6 * t + 0.2648743987083435;
    let y8 = y7 * t + 0.13215623795986176;
    let y9 = y8 * t + 0.21439078450202942;
    let y10 = y9 * t + 0.22501526772975922;
    let y11 = y10 * t + 0.2257036715745926;
    let isLess3 = x < 0.0;
    let dy2 = select(dy, 0.0, isLess3) - select(0.0, dy, isLess3);
    let product4 = dy2 * (ldexpValue * ldexp(ldexp(y2, value2), value3));
    let dy3 = product4 * t;
    let dy4 = dy3 * t;
    let dy5 = dy4 * t;
    let dy6 = dy5 * t;
    let dy7 = dy6 * t;
    let sum7 = product4 * y11 + dy3 * y10 + dy4 * y9 + dy5 * y8 + dy6 * y7;
    let dy8 = dy7 * t;
    let dy9 = dy8 * t;
    let dy10 = dy9 * t;
    let dt = sum7 + dy7 * y6 + dy8 * y5 + dy9 * y4 + dy10 * y3 - 0.02863682061433792 * (dy10 * t);
    let dy11 = ldexp(ldexp(dy2 * (y11 * t) * ldexpValue, value3), value2);
    let product5 = dy11 * product3;
    let dseries = product5 * r2;
    let product6 = dy11 * sum5 * r2;
    let sum8 = dy11 + product5 * series2 + product6 + product6 + dseries * sum4;
    let product7 = dseries * r2;
    let product8 = product7 * r2;
    let dr = sum8 + product7 * sum3 + product8 * sum2 + product8 * r2 / 5040.0;
    let chosen = select(select(dr, 0.0, isLess2), 0.0, isGreater);
    let da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
    let isLess4 = absX < 10.5;
    dx = 0.0;
    value = select(select(0.0, 0.5 * da, absX == 10.5), da, isLess4);
  }
  return dx + value * sign(x);
}
`;

/** `erfc` as an activation of any layer. */
export const erfcActivation: Pointwise = {
  name: "mathErfc",
  forward: /* wgsl */ `
fn mathErfcScaledErfc(x: f32) -> f32 {
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
}

fn mathErfcAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathErfcGaussian(x: f32) -> f32 {
  let high = floor(x * 64.0) / 64.0;
  let low = x - high;
  return mathErfcAccurateExp(-high * high) * mathErfcAccurateExp(-low * (x + high));
}

fn mathErfcErf(x: f32) -> f32 {
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
  let y = 1.0 - mathErfcGaussian(a) * mathErfcScaledErfc(a);
  return select(y, -y, x < 0.0);
}

fn mathErfcErfc(x: f32) -> f32 {
  if (abs(x) < 0.25) {
    return 1.0 - mathErfcErf(x);
  }
  let a = min(abs(x), 10.5);
  let y = mathErfcGaussian(a) * mathErfcScaledErfc(a);
  return select(y, 2.0 - y, x < 0.0);
}

fn mathErfc(x: f32) -> f32 {
  return mathErfcErfc(x);
}
`,
  backward: /* wgsl */ `
fn mathErfcGrad(x: f32, dy: f32) -> f32 {
  let absX = abs(x);
  var dx: f32;
  var value: f32;
  if (absX < 0.25) {
    let a = min(absX, 5.0);
    let dmathErfcErfValue = -dy;
    var dx2: f32;
    var da: f32;
    if (a < 1.0) {
      let s = x * x;
      let y = 7.853860734030604e-5 * s - 0.0008010193705558777;
      let y2 = y * s + 0.005188327748328447;
      let y3 = y2 * s - 0.026853812858462334;
      let y4 = y3 * s + 0.1128358542919159;
      let y5 = y4 * s - 0.3761262595653534;
      let y6 = y5 * s + 0.12837916622;
      let product = dy * x;
      let product2 = product * s;
      let product3 = product2 * s;
      let product4 = product3 * s;
      let product5 = product4 * s;
      let difference = -(product * y5) - product2 * y4 - product3 * y3 - product4 * y2;
      let ds = difference - product5 * y - 7.853860734030604e-5 * (product5 * s);
      let product6 = ds * x;
      dx2 = dmathErfcErfValue - dy * y6 + product6 + product6;
      da = 0.0;
    } else {
      let high = floor(a * 64.0) / 64.0;
      let low = a - high;
      let product = -high * high;
      let isLess = product < -104.0;
      let bounded = select(select(product, 89.0, product > 89.0), -104.0, isLess);
      let n = round(1.4426950408889634 * bounded);
      let r = bounded - n * 0.693359375 + n * 0.00021219444;
      const ratio = 1.0 / 6.0;
      const ratio2 = 1.0 / 24.0;
      const ratio3 = 1.0 / 120.0;
      const ratio4 = 1.0 / 720.0;
      let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
      let y = 1.0 + (r + r * r * (0.5 + r * series));
      let half = floor(0.5 * n);
      let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
      let sum = a + high;
      let product2 = -low * sum;
      let isGreater = product2 > 89.0;
      let isLess2 = product2 < -104.0;
      let bounded2 = select(select(product2, 89.0, isGreater), -104.0, isLess2);
      let n2 = round(1.4426950408889634 * bounded2);
      let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
      let sum2 = ratio4 + r2 / 5040.0;
      let sum3 = ratio3 + r2 * sum2;
      let sum4 = ratio2 + r2 * sum3;
      let series2 = ratio + r2 * sum4;
      let product3 = r2 * r2;
      let sum5 = 0.5 + r2 * series2;
      let y2 = 1.0 + (r2 + product3 * sum5);
      let half2 = floor(0.5 * n2);
      let value2 = i32(half2);
      let value3 = i32(n2 - half2);
      let sum6 = 1.0 + 0.4 * a;
      let t = 1.0 / sum6;
      let y3 = -0.02863682061433792 * t + 0.19282197952270508;
      let y4 = y3 * t - 0.48662900924682617;
      let y5 = y4 * t + 0.5312276482582092;
      let y6 = y5 * t - 0.27092409133911133;
      let y7 = y6 * t + 0.2648743987083435;
      let y8 = y7 * t + 0.13215623795986176;
      let y9 = y8 * t + 0.21439078450202942;
      let y10 = y9 * t + 0.22501526772975922;
      let y11 = y10 * t + 0.2257036715745926;
      let isLess3 = x < 0.0;
      let dy2 = select(dmathErfcErfValue, 0.0, isLess3) - select(0.0, dmathErfcErfValue, isLess3);
      let product4 = dy2 * (ldexpValue * ldexp(ldexp(y2, value2), value3));
      let product5 = product4 * t;
      let product6 = product5 * t;
      let product7 = product6 * t;
      let product8 = product7 * t;
      let difference = -(product4 * y11) - product5 * y10 - product6 * y9 - product7 * y8;
      let product9 = product8 * t;
      let product10 = product9 * t;
      let product11 = product10 * t;
      let difference2 = difference - product8 * y7 - product9 * y6 - product10 * y5;
      let product12 = product11 * t;
      let dt = difference2 - product11 * y4 - product12 * y3 + 0.02863682061433792 * (product12 * t);
      let dy3 = ldexp(ldexp(-(dy2 * (y11 * t) * ldexpValue), value3), value2);
      let product13 = dy3 * product3;
      let dseries = product13 * r2;
      let product14 = dy3 * sum5 * r2;
      let sum7 = dy3 + product13 * series2 + product14 + product14 + dseries * sum4;
      let product15 = dseries * r2;
      let product16 = product15 * r2;
      let dr = sum7 + product15 * sum3 + product16 * sum2 + product16 * r2 / 5040.0;
      let chosen = select(select(dr, 0.0, isLess2), 0.0, isGreater);
      dx2 = 0.0;
      da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
    }
    let isLess = absX < 5.0;
    dx = dx2;
    value = select(select(0.0, 0.5 * da, absX == 5.0), da, isLess);
  } else {
    let a = min(absX, 10.5);
    let high = floor(a * 64.0) / 64.0;
    let low = a - high;
    let product = -high * high;
    let isLess = product < -104.0;
    let bounded = select(select(product, 89.0, product > 89.0), -104.0, isLess);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    const ratio = 1.0 / 6.0;
    const ratio2 = 1.0 / 24.0;
    const ratio3 = 1.0 / 120.0;
    const ratio4 = 1.0 / 720.0;
    let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
    let sum = a + high;
    let product2 = -low * sum;
    let isGreater = product2 > 89.0;
    let isLess2 = product2 < -104.0;
    let bounded2 = select(select(product2, 89.0, isGreater), -104.0, isLess2);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let sum2 = ratio4 + r2 / 5040.0;
    let sum3 = ratio3 + r2 * sum2;
    let sum4 = ratio2 + r2 * sum3;
    let series2 = ratio + r2 * sum4;
    let product3 = r2 * r2;
    let sum5 = 0.5 + r2 * series2;
    let y2 = 1.0 + (r2 + product3 * sum5);
    let half2 = floor(0.5 * n2);
    let value2 = i32(half2);
    let value3 = i32(n2 - half2);
    let sum6 = 1.0 + 0.4 * a;
    let t = 1.0 / sum6;
    let y3 = -0.02863682061433792 * t + 0.19282197952270508;
    let y4 = y3 * t - 0.48662900924682617;
    let y5 = y4 * t + 0.5312276482582092;
    let y6 = y5 * t - 0.27092409133911133;
    let y7 = y6 * t + 0.2648743987083435;
    let y8 = y7 * t + 0.13215623795986176;
    let y9 = y8 * t + 0.21439078450202942;
    let y10 = y9 * t + 0.22501526772975922;
    let y11 = y10 * t + 0.2257036715745926;
    let isLess3 = x < 0.0;
    let dy2 = select(dy, 0.0, isLess3) - select(0.0, dy, isLess3);
    let product4 = dy2 * (ldexpValue * ldexp(ldexp(y2, value2), value3));
    let dy3 = product4 * t;
    let dy4 = dy3 * t;
    let dy5 = dy4 * t;
    let dy6 = dy5 * t;
    let dy7 = dy6 * t;
    let sum7 = product4 * y11 + dy3 * y10 + dy4 * y9 + dy5 * y8 + dy6 * y7;
    let dy8 = dy7 * t;
    let dy9 = dy8 * t;
    let dy10 = dy9 * t;
    let dt = sum7 + dy7 * y6 + dy8 * y5 + dy9 * y4 + dy10 * y3 - 0.02863682061433792 * (dy10 * t);
    let dy11 = ldexp(ldexp(dy2 * (y11 * t) * ldexpValue, value3), value2);
    let product5 = dy11 * product3;
    let dseries = product5 * r2;
    let product6 = dy11 * sum5 * r2;
    let sum8 = dy11 + product5 * series2 + product6 + product6 + dseries * sum4;
    let product7 = dseries * r2;
    let product8 = product7 * r2;
    let dr = sum8 + product7 * sum3 + product8 * sum2 + product8 * r2 / 5040.0;
    let chosen = select(select(dr, 0.0, isLess2), 0.0, isGreater);
    let da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
    let isLess4 = absX < 10.5;
    dx = 0.0;
    value = select(select(0.0, 0.5 * da, absX == 10.5), da, isLess4);
  }
  return dx + value * sign(x);
}
`,
};

/** The gradients of `fn erfinv(x: f32) -> f32`. */
export const erfinvGrad: string = /* wgsl */ `
fn erfinvGrad(x: f32, dy: f32) -> f32 {
  let difference = 1.0 - x;
  let sum = 1.0 + x;
  let product = difference * sum;
  let w = -log(product);
  let isLess = w < 5.0;
  var y: f32;
  if (isLess) {
    let u = w - 2.5;
    let y2 = 2.8535034e-8 * u + 3.4372738e-7;
    let y3 = y2 * u - 3.5288625e-6;
    let y4 = y3 * u - 4.3967848e-6;
    let y5 = y4 * u + 0.00021860220;
    let y6 = y5 * u - 0.0012537075;
    let y7 = y6 * u - 0.0041777077;
    let y8 = y7 * u + 0.24664073;
    y = y8 * u + 1.5014094;
  } else {
    let u = sqrt(w) - 3.0;
    let y2 = -0.00020011966 * u + 0.00010269674;
    let y3 = y2 * u + 0.0013491235;
    let y4 = y3 * u - 0.0036756494;
    let y5 = y4 * u + 0.0057394686;
    let y6 = y5 * u - 0.0076216707;
    let y7 = y6 * u + 0.0094389347;
    let y8 = y7 * u + 1.0016741;
    y = y8 * u + 2.8329768;
  }
  let difference2 = 1.0 - abs(x);
  let isGreater = w > 17.0;
  let chosen = select(dy, 0.0, isGreater);
  let chosen2 = select(0.0, dy, isGreater);
  let sum2 = chosen2 / difference2 + chosen2 * (x / difference2) / difference2 * sign(x);
  let dy2 = chosen * x;
  var dw: f32;
  if (isLess) {
    let u = w - 2.5;
    let y2 = 2.8535034e-8 * u + 3.4372738e-7;
    let y3 = y2 * u - 3.5288625e-6;
    let y4 = y3 * u - 4.3967848e-6;
    let y5 = y4 * u + 0.00021860220;
    let y6 = y5 * u - 0.0012537075;
    let y7 = y6 * u - 0.0041777077;
    let y8 = y7 * u + 0.24664073;
    let dy3 = dy2 * u;
    let dy4 = dy3 * u;
    let dy5 = dy4 * u;
    let dy6 = dy5 * u;
    let dy7 = dy6 * u;
    let dy8 = dy7 * u;
    let sum3 = dy2 * y8 + dy3 * y7 + dy4 * y6 + dy5 * y5 + dy6 * y4 + dy7 * y3;
    dw = sum3 + dy8 * y2 + 2.8535034e-8 * (dy8 * u);
  } else {
    let sqrtW = sqrt(w);
    let u = sqrtW - 3.0;
    let y2 = -0.00020011966 * u + 0.00010269674;
    let y3 = y2 * u + 0.0013491235;
    let y4 = y3 * u - 0.0036756494;
    let y5 = y4 * u + 0.0057394686;
    let y6 = y5 * u - 0.0076216707;
    let y7 = y6 * u + 0.0094389347;
    let y8 = y7 * u + 1.0016741;
    let dy3 = dy2 * u;
    let dy4 = dy3 * u;
    let dy5 = dy4 * u;
    let dy6 = dy5 * u;
    let dy7 = dy6 * u;
    let dy8 = dy7 * u;
    let sum3 = dy2 * y8 + dy3 * y7 + dy4 * y6 + dy5 * y5 + dy6 * y4 + dy7 * y3;
    let du = sum3 + dy8 * y2 - 0.00020011966 * (dy8 * u);
    dw = 0.5 * du / sqrtW;
  }
  let ratio = dw / product;
  return sum2 + chosen * y - ratio * difference + ratio * sum;
}
`;

/** `erfinv` as an activation of any layer. */
export const erfinvActivation: Pointwise = {
  name: "mathErfinv",
  forward: /* wgsl */ `
fn mathErfinvErfinv(x: f32) -> f32 {
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
}

fn mathErfinv(x: f32) -> f32 {
  return mathErfinvErfinv(x);
}
`,
  backward: /* wgsl */ `
fn mathErfinvGrad(x: f32, dy: f32) -> f32 {
  let difference = 1.0 - x;
  let sum = 1.0 + x;
  let product = difference * sum;
  let w = -log(product);
  let isLess = w < 5.0;
  var y: f32;
  if (isLess) {
    let u = w - 2.5;
    let y2 = 2.8535034e-8 * u + 3.4372738e-7;
    let y3 = y2 * u - 3.5288625e-6;
    let y4 = y3 * u - 4.3967848e-6;
    let y5 = y4 * u + 0.00021860220;
    let y6 = y5 * u - 0.0012537075;
    let y7 = y6 * u - 0.0041777077;
    let y8 = y7 * u + 0.24664073;
    y = y8 * u + 1.5014094;
  } else {
    let u = sqrt(w) - 3.0;
    let y2 = -0.00020011966 * u + 0.00010269674;
    let y3 = y2 * u + 0.0013491235;
    let y4 = y3 * u - 0.0036756494;
    let y5 = y4 * u + 0.0057394686;
    let y6 = y5 * u - 0.0076216707;
    let y7 = y6 * u + 0.0094389347;
    let y8 = y7 * u + 1.0016741;
    y = y8 * u + 2.8329768;
  }
  let difference2 = 1.0 - abs(x);
  let isGreater = w > 17.0;
  let chosen = select(dy, 0.0, isGreater);
  let chosen2 = select(0.0, dy, isGreater);
  let sum2 = chosen2 / difference2 + chosen2 * (x / difference2) / difference2 * sign(x);
  let dy2 = chosen * x;
  var dw: f32;
  if (isLess) {
    let u = w - 2.5;
    let y2 = 2.8535034e-8 * u + 3.4372738e-7;
    let y3 = y2 * u - 3.5288625e-6;
    let y4 = y3 * u - 4.3967848e-6;
    let y5 = y4 * u + 0.00021860220;
    let y6 = y5 * u - 0.0012537075;
    let y7 = y6 * u - 0.0041777077;
    let y8 = y7 * u + 0.24664073;
    let dy3 = dy2 * u;
    let dy4 = dy3 * u;
    let dy5 = dy4 * u;
    let dy6 = dy5 * u;
    let dy7 = dy6 * u;
    let dy8 = dy7 * u;
    let sum3 = dy2 * y8 + dy3 * y7 + dy4 * y6 + dy5 * y5 + dy6 * y4 + dy7 * y3;
    dw = sum3 + dy8 * y2 + 2.8535034e-8 * (dy8 * u);
  } else {
    let sqrtW = sqrt(w);
    let u = sqrtW - 3.0;
    let y2 = -0.00020011966 * u + 0.00010269674;
    let y3 = y2 * u + 0.0013491235;
    let y4 = y3 * u - 0.0036756494;
    let y5 = y4 * u + 0.0057394686;
    let y6 = y5 * u - 0.0076216707;
    let y7 = y6 * u + 0.0094389347;
    let y8 = y7 * u + 1.0016741;
    let dy3 = dy2 * u;
    let dy4 = dy3 * u;
    let dy5 = dy4 * u;
    let dy6 = dy5 * u;
    let dy7 = dy6 * u;
    let dy8 = dy7 * u;
    let sum3 = dy2 * y8 + dy3 * y7 + dy4 * y6 + dy5 * y5 + dy6 * y4 + dy7 * y3;
    let du = sum3 + dy8 * y2 - 0.00020011966 * (dy8 * u);
    dw = 0.5 * du / sqrtW;
  }
  let ratio = dw / product;
  return sum2 + chosen * y - ratio * difference + ratio * sum;
}
`,
};

/** The gradients of `fn expm1(x: f32) -> f32`. */
export const expm1Grad: string = /* wgsl */ `
fn expm1Grad(x: f32, dy: f32) -> f32 {
  if (abs(x) > 0.5) {
    let isGreater = x > 89.0;
    let isLess = x < -104.0;
    let bounded = select(select(x, 89.0, isGreater), -104.0, isLess);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    let sum = 1.0 / 720.0 + r / 5040.0;
    let sum2 = 1.0 / 120.0 + r * sum;
    let sum3 = 1.0 / 24.0 + r * sum2;
    let series = 1.0 / 6.0 + r * sum3;
    let half = floor(0.5 * n);
    let dy2 = ldexp(ldexp(dy, i32(n - half)), i32(half));
    let product = dy2 * (r * r);
    let dseries = product * r;
    let product2 = dy2 * (0.5 + r * series) * r;
    let sum4 = dy2 + product * series + product2 + product2 + dseries * sum3;
    let product3 = dseries * r;
    let product4 = product3 * r;
    let dr = sum4 + product3 * sum2 + product4 * sum + product4 * r / 5040.0;
    return select(select(dr, 0.0, isLess), 0.0, isGreater);
  }
  let sum = 1.0 / 5040.0 + x / 40320.0;
  let sum2 = 1.0 / 720.0 + x * sum;
  let sum3 = 1.0 / 120.0 + x * sum2;
  let sum4 = 1.0 / 24.0 + x * sum3;
  let series = 1.0 / 6.0 + x * sum4;
  let product = dy * (x * x);
  let dseries = product * x;
  let product2 = dy * (0.5 + x * series) * x;
  let sum5 = dy + product * series + product2 + product2 + dseries * sum4;
  let product3 = dseries * x;
  let product4 = product3 * x;
  let product5 = product4 * x;
  let sum6 = sum5 + product3 * sum3 + product4 * sum2 + product5 * sum;
  return sum6 + product5 * x / 40320.0;
}
`;

/** `expm1` as an activation of any layer. */
export const expm1Activation: Pointwise = {
  name: "mathExpm1",
  forward: /* wgsl */ `
fn mathExpm1AccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathExpm1Expm1(x: f32) -> f32 {
  if (abs(x) > 0.5) {
    return mathExpm1AccurateExp(x) - 1.0;
  }
  let series = 1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0 + x / 40320.0))));
  return x + x * x * (0.5 + x * series);
}

fn mathExpm1(x: f32) -> f32 {
  return mathExpm1Expm1(x);
}
`,
  backward: /* wgsl */ `
fn mathExpm1Grad(x: f32, dy: f32) -> f32 {
  if (abs(x) > 0.5) {
    let isGreater = x > 89.0;
    let isLess = x < -104.0;
    let bounded = select(select(x, 89.0, isGreater), -104.0, isLess);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    let sum = 1.0 / 720.0 + r / 5040.0;
    let sum2 = 1.0 / 120.0 + r * sum;
    let sum3 = 1.0 / 24.0 + r * sum2;
    let series = 1.0 / 6.0 + r * sum3;
    let half = floor(0.5 * n);
    let dy2 = ldexp(ldexp(dy, i32(n - half)), i32(half));
    let product = dy2 * (r * r);
    let dseries = product * r;
    let product2 = dy2 * (0.5 + r * series) * r;
    let sum4 = dy2 + product * series + product2 + product2 + dseries * sum3;
    let product3 = dseries * r;
    let product4 = product3 * r;
    let dr = sum4 + product3 * sum2 + product4 * sum + product4 * r / 5040.0;
    return select(select(dr, 0.0, isLess), 0.0, isGreater);
  }
  let sum = 1.0 / 5040.0 + x / 40320.0;
  let sum2 = 1.0 / 720.0 + x * sum;
  let sum3 = 1.0 / 120.0 + x * sum2;
  let sum4 = 1.0 / 24.0 + x * sum3;
  let series = 1.0 / 6.0 + x * sum4;
  let product = dy * (x * x);
  let dseries = product * x;
  let product2 = dy * (0.5 + x * series) * x;
  let sum5 = dy + product * series + product2 + product2 + dseries * sum4;
  let product3 = dseries * x;
  let product4 = product3 * x;
  let product5 = product4 * x;
  let sum6 = sum5 + product3 * sum3 + product4 * sum2 + product5 * sum;
  return sum6 + product5 * x / 40320.0;
}
`,
};

/** The gradients of `fn gelu(x: f32) -> f32`. */
export const geluGrad: string = /* wgsl */ `
fn geluGrad(x: f32, dy: f32) -> f32 {
  let product = -0.7071067811865476 * x;
  let absProduct = abs(product);
  let isLess = absProduct < 0.25;
  var erfcValue: f32;
  if (isLess) {
    let a = min(absProduct, 5.0);
    var erfValue: f32;
    if (a < 1.0) {
      let s = product * product;
      let y = 7.853860734030604e-5 * s - 0.0008010193705558777;
      let y2 = y * s + 0.005188327748328447;
      let y3 = y2 * s - 0.026853812858462334;
      let y4 = y3 * s + 0.1128358542919159;
      let y5 = y4 * s - 0.3761262595653534;
      let y6 = y5 * s + 0.12837916622;
      erfValue = product + product * y6;
    } else {
      let high = floor(a * 64.0) / 64.0;
      let low = a - high;
      let product2 = -high * high;
      let isLess2 = product2 < -104.0;
      let bounded = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
      let n = round(1.4426950408889634 * bounded);
      let r = bounded - n * 0.693359375 + n * 0.00021219444;
      const ratio = 1.0 / 6.0;
      const ratio2 = 1.0 / 24.0;
      const ratio3 = 1.0 / 120.0;
      const ratio4 = 1.0 / 720.0;
      let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
      let y = 1.0 + (r + r * r * (0.5 + r * series));
      let half = floor(0.5 * n);
      let product3 = -low * (a + high);
      let isLess3 = product3 < -104.0;
      let bounded2 = select(select(product3, 89.0, product3 > 89.0), -104.0, isLess3);
      let n2 = round(1.4426950408889634 * bounded2);
      let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
      let product4 = r2 * (ratio2 + r2 * (ratio3 + r2 * (ratio4 + r2 / 5040.0)));
      let series2 = ratio + product4;
      let y2 = 1.0 + (r2 + r2 * r2 * (0.5 + r2 * series2));
      let half2 = floor(0.5 * n2);
      let product5 = ldexp(ldexp(y, i32(half)), i32(n - half)) * ldexp(ldexp(y2, i32(half2)), i32(n2 - half2));
      let t = 1.0 / (1.0 + 0.4 * a);
      let y3 = -0.02863682061433792 * t + 0.19282197952270508;
      let y4 = y3 * t - 0.48662900924682617;
      let y5 = y4 * t + 0.5312276482582092;
      let y6 = y5 * t - 0.27092409133911133;
      let y7 = y6 * t + 0.2648743987083435;
      let y8 = y7 * t + 0.13215623795986176;
      let y9 = y8 * t + 0.21439078450202942;
      let y10 = y9 * t + 0.22501526772975922;
      let y11 = y10 * t + 0.2257036715745926;
      let y12 = 1.0 - product5 * (y11 * t);
      let isLess4 = product < 0.0;
      erfValue = select(y12, -y12, isLess4);
    }
    erfcValue = 1.0 - erfValue;
  } else {
    let a = min(absProduct, 10.5);
    let high = floor(a * 64.0) / 64.0;
    let low = a - high;
    let product2 = -high * high;
    let isLess2 = product2 < -104.0;
    let bounded = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    const ratio = 1.0 / 6.0;
    const ratio2 = 1.0 / 24.0;
    const ratio3 = 1.0 / 120.0;
    const ratio4 = 1.0 / 720.0;
    let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    let product3 = -low * (a + high);
    let isLess3 = product3 < -104.0;
    let bounded2 = select(select(product3, 89.0, product3 > 89.0), -104.0, isLess3);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let product4 = r2 * (ratio2 + r2 * (ratio3 + r2 * (ratio4 + r2 / 5040.0)));
    let series2 = ratio + product4;
    let y2 = 1.0 + (r2 + r2 * r2 * (0.5 + r2 * series2));
    let half2 = floor(0.5 * n2);
    let product5 = ldexp(ldexp(y, i32(half)), i32(n - half)) * ldexp(ldexp(y2, i32(half2)), i32(n2 - half2));
    let t = 1.0 / (1.0 + 0.4 * a);
    let y3 = -0.02863682061433792 * t + 0.19282197952270508;
    let y4 = y3 * t - 0.48662900924682617;
    let y5 = y4 * t + 0.5312276482582092;
    let y6 = y5 * t - 0.27092409133911133;
    let y7 = y6 * t + 0.2648743987083435;
    let y8 = y7 * t + 0.13215623795986176;
    let y9 = y8 * t + 0.21439078450202942;
    let y10 = y9 * t + 0.22501526772975922;
    let y11 = y10 * t + 0.2257036715745926;
    let y12 = product5 * (y11 * t);
    let isLess4 = product < 0.0;
    erfcValue = select(y12, 2.0 - y12, isLess4);
  }
  let derfcValue = 0.5 * (dy * x);
  var value: f32;
  var value2: f32;
  if (isLess) {
    let a = min(absProduct, 5.0);
    let derfValue = -derfcValue;
    var value3: f32;
    var da: f32;
    if (a < 1.0) {
      let s = product * product;
      let y = 7.853860734030604e-5 * s - 0.0008010193705558777;
      let y2 = y * s + 0.005188327748328447;
      let y3 = y2 * s - 0.026853812858462334;
      let y4 = y3 * s + 0.1128358542919159;
      let y5 = y4 * s - 0.3761262595653534;
      let y6 = y5 * s + 0.12837916622;
      let product2 = -0.7071067811865476 * (derfcValue * x);
      let product3 = product2 * s;
      let product4 = product3 * s;
      let product5 = product4 * s;
      let product6 = product5 * s;
      let difference = -(product2 * y5) - product3 * y4 - product4 * y3 - product5 * y2;
      let ds = difference - product6 * y - 7.853860734030604e-5 * (product6 * s);
      let product7 = 0.7071067811865476 * (ds * x);
      value3 = derfValue - derfcValue * y6 - product7 - product7;
      da = 0.0;
    } else {
      let high = floor(a * 64.0) / 64.0;
      let low = a - high;
      let product2 = -high * high;
      let isLess2 = product2 < -104.0;
      let bounded = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
      let n = round(1.4426950408889634 * bounded);
      let r = bounded - n * 0.693359375 + n * 0.00021219444;
      const ratio = 1.0 / 6.0;
      const ratio2 = 1.0 / 24.0;
      const ratio3 = 1.0 / 120.0;
      const ratio4 = 1.0 / 720.0;
      let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
      let y = 1.0 + (r + r * r * (0.5 + r * series));
      let half = floor(0.5 * n);
      let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
      let sum = a + high;
      let product3 = -low * sum;
      let isGreater = product3 > 89.0;
      let isLess3 = product3 < -104.0;
      let bounded2 = select(select(product3, 89.0, isGreater), -104.0, isLess3);
      let n2 = round(1.4426950408889634 * bounded2);
      let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
      let sum2 = ratio4 + r2 / 5040.0;
      let sum3 = ratio3 + r2 * sum2;
      let sum4 = ratio2 + r2 * sum3;
      let series2 = ratio + r2 * sum4;
      let product4 = r2 * r2;
      let sum5 = 0.5 + r2 * series2;
      let y2 = 1.0 + (r2 + product4 * sum5);
      let half2 = floor(0.5 * n2);
      let value4 = i32(half2);
      let value5 = i32(n2 - half2);
      let sum6 = 1.0 + 0.4 * a;
      let t = 1.0 / sum6;
      let y3 = -0.02863682061433792 * t + 0.19282197952270508;
      let y4 = y3 * t - 0.48662900924682617;
      let y5 = y4 * t + 0.5312276482582092;
      let y6 = y5 * t - 0.27092409133911133;
      let y7 = y6 * t + 0.2648743987083435;
      let y8 = y7 * t + 0.13215623795986176;
      let y9 = y8 * t + 0.21439078450202942;
      let y10 = y9 * t + 0.22501526772975922;
      let y11 = y10 * t + 0.2257036715745926;
      let isLess4 = product < 0.0;
      let dy2 = select(derfValue, 0.0, isLess4) - select(0.0, derfValue, isLess4);
      let product5 = dy2 * (ldexpValue * ldexp(ldexp(y2, value4), value5));
      let product6 = product5 * t;
      let product7 = product6 * t;
      let product8 = product7 * t;
      let product9 = product8 * t;
      let difference = -(product5 * y11) - product6 * y10 - product7 * y9 - product8 * y8;
      let product10 = product9 * t;
      let product11 = product10 * t;
      let product12 = product11 * t;
      let difference2 = difference - product9 * y7 - product10 * y6 - product11 * y5;
      let product13 = product12 * t;
      let dt = difference2 - product12 * y4 - product13 * y3 + 0.02863682061433792 * (product13 * t);
      let dy3 = ldexp(ldexp(-(dy2 * (y11 * t) * ldexpValue), value5), value4);
      let product14 = dy3 * product4;
      let dseries = product14 * r2;
      let product15 = dy3 * sum5 * r2;
      let sum7 = dy3 + product14 * series2 + product15 + product15 + dseries * sum4;
      let product16 = dseries * r2;
      let product17 = product16 * r2;
      let dr = sum7 + product16 * sum3 + product17 * sum2 + product17 * r2 / 5040.0;
      let chosen = select(select(dr, 0.0, isLess3), 0.0, isGreater);
      value3 = 0.0;
      da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
    }
    let isLess2 = absProduct < 5.0;
    value = value3;
    value2 = select(select(0.0, 0.5 * da, absProduct == 5.0), da, isLess2);
  } else {
    let a = min(absProduct, 10.5);
    let high = floor(a * 64.0) / 64.0;
    let low = a - high;
    let product2 = -high * high;
    let isLess2 = product2 < -104.0;
    let bounded = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    const ratio = 1.0 / 6.0;
    const ratio2 = 1.0 / 24.0;
    const ratio3 = 1.0 / 120.0;
    const ratio4 = 1.0 / 720.0;
    let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
    let sum = a + high;
    let product3 = -low * sum;
    let isGreater = product3 > 89.0;
    let isLess3 = product3 < -104.0;
    let bounded2 = select(select(product3, 89.0, isGreater), -104.0, isLess3);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let sum2 = ratio4 + r2 / 5040.0;
    let sum3 = ratio3 + r2 * sum2;
    let sum4 = ratio2 + r2 * sum3;
    let series2 = ratio + r2 * sum4;
    let product4 = r2 * r2;
    let sum5 = 0.5 + r2 * series2;
    let y2 = 1.0 + (r2 + product4 * sum5);
    let half2 = floor(0.5 * n2);
    let value3 = i32(half2);
    let value4 = i32(n2 - half2);
    let sum6 = 1.0 + 0.4 * a;
    let t = 1.0 / sum6;
    let y3 = -0.02863682061433792 * t + 0.19282197952270508;
    let y4 = y3 * t - 0.48662900924682617;
    let y5 = y4 * t + 0.5312276482582092;
    let y6 = y5 * t - 0.27092409133911133;
    let y7 = y6 * t + 0.2648743987083435;
    let y8 = y7 * t + 0.13215623795986176;
    let y9 = y8 * t + 0.21439078450202942;
    let y10 = y9 * t + 0.22501526772975922;
    let y11 = y10 * t + 0.2257036715745926;
    let isLess4 = product < 0.0;
    let dy2 = select(derfcValue, 0.0, isLess4) - select(0.0, derfcValue, isLess4);
    let product5 = dy2 * (ldexpValue * ldexp(ldexp(y2, value3), value4));
    let dy3 = product5 * t;
    let dy4 = dy3 * t;
    let dy5 = dy4 * t;
    let dy6 = dy5 * t;
    let dy7 = dy6 * t;
    let sum7 = product5 * y11 + dy3 * y10 + dy4 * y9 + dy5 * y8 + dy6 * y7;
    let dy8 = dy7 * t;
    let dy9 = dy8 * t;
    let dy10 = dy9 * t;
    let dt = sum7 + dy7 * y6 + dy8 * y5 + dy9 * y4 + dy10 * y3 - 0.02863682061433792 * (dy10 * t);
    let dy11 = ldexp(ldexp(dy2 * (y11 * t) * ldexpValue, value4), value3);
    let product6 = dy11 * product4;
    let dseries = product6 * r2;
    let product7 = dy11 * sum5 * r2;
    let sum8 = dy11 + product6 * series2 + product7 + product7 + dseries * sum4;
    let product8 = dseries * r2;
    let product9 = product8 * r2;
    let dr = sum8 + product8 * sum3 + product9 * sum2 + product9 * r2 / 5040.0;
    let chosen = select(select(dr, 0.0, isLess3), 0.0, isGreater);
    let da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
    let isLess5 = absProduct < 10.5;
    value = 0.0;
    value2 = select(select(0.0, 0.5 * da, absProduct == 10.5), da, isLess5);
  }
  return -0.7071067811865476 * (value + value2 * sign(product)) + 0.5 * (dy * erfcValue);
}
`;

/** `gelu` as an activation of any layer. */
export const geluActivation: Pointwise = {
  name: "mathGelu",
  forward: /* wgsl */ `
fn mathGeluScaledErfc(x: f32) -> f32 {
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
}

fn mathGeluAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathGeluGaussian(x: f32) -> f32 {
  let high = floor(x * 64.0) / 64.0;
  let low = x - high;
  return mathGeluAccurateExp(-high * high) * mathGeluAccurateExp(-low * (x + high));
}

fn mathGeluErf(x: f32) -> f32 {
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
  let y = 1.0 - mathGeluGaussian(a) * mathGeluScaledErfc(a);
  return select(y, -y, x < 0.0);
}

fn mathGeluErfc(x: f32) -> f32 {
  if (abs(x) < 0.25) {
    return 1.0 - mathGeluErf(x);
  }
  let a = min(abs(x), 10.5);
  let y = mathGeluGaussian(a) * mathGeluScaledErfc(a);
  return select(y, 2.0 - y, x < 0.0);
}

fn mathGeluGelu(x: f32) -> f32 {
  return 0.5 * x * mathGeluErfc(-0.7071067811865476 * x);
}

fn mathGelu(x: f32) -> f32 {
  return mathGeluGelu(x);
}
`,
  backward: /* wgsl */ `
fn mathGeluGrad(x: f32, dy: f32) -> f32 {
  let product = -0.7071067811865476 * x;
  let absProduct = abs(product);
  let isLess = absProduct < 0.25;
  var mathGeluErfcValue: f32;
  if (isLess) {
    let a = min(absProduct, 5.0);
    var mathGeluErfValue: f32;
    if (a < 1.0) {
      let s = product * product;
      let y = 7.853860734030604e-5 * s - 0.0008010193705558777;
      let y2 = y * s + 0.005188327748328447;
      let y3 = y2 * s - 0.026853812858462334;
      let y4 = y3 * s + 0.1128358542919159;
      let y5 = y4 * s - 0.3761262595653534;
      let y6 = y5 * s + 0.12837916622;
      mathGeluErfValue = product + product * y6;
    } else {
      let high = floor(a * 64.0) / 64.0;
      let low = a - high;
      let product2 = -high * high;
      let isLess2 = product2 < -104.0;
      let bounded = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
      let n = round(1.4426950408889634 * bounded);
      let r = bounded - n * 0.693359375 + n * 0.00021219444;
      const ratio = 1.0 / 6.0;
      const ratio2 = 1.0 / 24.0;
      const ratio3 = 1.0 / 120.0;
      const ratio4 = 1.0 / 720.0;
      let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
      let y = 1.0 + (r + r * r * (0.5 + r * series));
      let half = floor(0.5 * n);
      let product3 = -low * (a + high);
      let isLess3 = product3 < -104.0;
      let bounded2 = select(select(product3, 89.0, product3 > 89.0), -104.0, isLess3);
      let n2 = round(1.4426950408889634 * bounded2);
      let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
      let product4 = r2 * (ratio2 + r2 * (ratio3 + r2 * (ratio4 + r2 / 5040.0)));
      let series2 = ratio + product4;
      let y2 = 1.0 + (r2 + r2 * r2 * (0.5 + r2 * series2));
      let half2 = floor(0.5 * n2);
      let product5 = ldexp(ldexp(y, i32(half)), i32(n - half)) * ldexp(ldexp(y2, i32(half2)), i32(n2 - half2));
      let t = 1.0 / (1.0 + 0.4 * a);
      let y3 = -0.02863682061433792 * t + 0.19282197952270508;
      let y4 = y3 * t - 0.48662900924682617;
      let y5 = y4 * t + 0.5312276482582092;
      let y6 = y5 * t - 0.27092409133911133;
      let y7 = y6 * t + 0.2648743987083435;
      let y8 = y7 * t + 0.13215623795986176;
      let y9 = y8 * t + 0.21439078450202942;
      let y10 = y9 * t + 0.22501526772975922;
      let y11 = y10 * t + 0.2257036715745926;
      let y12 = 1.0 - product5 * (y11 * t);
      let isLess4 = product < 0.0;
      mathGeluErfValue = select(y12, -y12, isLess4);
    }
    mathGeluErfcValue = 1.0 - mathGeluErfValue;
  } else {
    let a = min(absProduct, 10.5);
    let high = floor(a * 64.0) / 64.0;
    let low = a - high;
    let product2 = -high * high;
    let isLess2 = product2 < -104.0;
    let bounded = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    const ratio = 1.0 / 6.0;
    const ratio2 = 1.0 / 24.0;
    const ratio3 = 1.0 / 120.0;
    const ratio4 = 1.0 / 720.0;
    let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    let product3 = -low * (a + high);
    let isLess3 = product3 < -104.0;
    let bounded2 = select(select(product3, 89.0, product3 > 89.0), -104.0, isLess3);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let product4 = r2 * (ratio2 + r2 * (ratio3 + r2 * (ratio4 + r2 / 5040.0)));
    let series2 = ratio + product4;
    let y2 = 1.0 + (r2 + r2 * r2 * (0.5 + r2 * series2));
    let half2 = floor(0.5 * n2);
    let product5 = ldexp(ldexp(y, i32(half)), i32(n - half)) * ldexp(ldexp(y2, i32(half2)), i32(n2 - half2));
    let t = 1.0 / (1.0 + 0.4 * a);
    let y3 = -0.02863682061433792 * t + 0.19282197952270508;
    let y4 = y3 * t - 0.48662900924682617;
    let y5 = y4 * t + 0.5312276482582092;
    let y6 = y5 * t - 0.27092409133911133;
    let y7 = y6 * t + 0.2648743987083435;
    let y8 = y7 * t + 0.13215623795986176;
    let y9 = y8 * t + 0.21439078450202942;
    let y10 = y9 * t + 0.22501526772975922;
    let y11 = y10 * t + 0.2257036715745926;
    let y12 = product5 * (y11 * t);
    let isLess4 = product < 0.0;
    mathGeluErfcValue = select(y12, 2.0 - y12, isLess4);
  }
  let dmathGeluErfcValue = 0.5 * (dy * x);
  var value: f32;
  var value2: f32;
  if (isLess) {
    let a = min(absProduct, 5.0);
    let dmathGeluErfValue = -dmathGeluErfcValue;
    var value3: f32;
    var da: f32;
    if (a < 1.0) {
      let s = product * product;
      let y = 7.853860734030604e-5 * s - 0.0008010193705558777;
      let y2 = y * s + 0.005188327748328447;
      let y3 = y2 * s - 0.026853812858462334;
      let y4 = y3 * s + 0.1128358542919159;
      let y5 = y4 * s - 0.3761262595653534;
      let y6 = y5 * s + 0.12837916622;
      let product2 = -0.7071067811865476 * (dmathGeluErfcValue * x);
      let product3 = product2 * s;
      let product4 = product3 * s;
      let product5 = product4 * s;
      let product6 = product5 * s;
      let difference = -(product2 * y5) - product3 * y4 - product4 * y3 - product5 * y2;
      let ds = difference - product6 * y - 7.853860734030604e-5 * (product6 * s);
      let product7 = 0.7071067811865476 * (ds * x);
      value3 = dmathGeluErfValue - dmathGeluErfcValue * y6 - product7 - product7;
      da = 0.0;
    } else {
      let high = floor(a * 64.0) / 64.0;
      let low = a - high;
      let product2 = -high * high;
      let isLess2 = product2 < -104.0;
      let bounded = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
      let n = round(1.4426950408889634 * bounded);
      let r = bounded - n * 0.693359375 + n * 0.00021219444;
      const ratio = 1.0 / 6.0;
      const ratio2 = 1.0 / 24.0;
      const ratio3 = 1.0 / 120.0;
      const ratio4 = 1.0 / 720.0;
      let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
      let y = 1.0 + (r + r * r * (0.5 + r * series));
      let half = floor(0.5 * n);
      let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
      let sum = a + high;
      let product3 = -low * sum;
      let isGreater = product3 > 89.0;
      let isLess3 = product3 < -104.0;
      let bounded2 = select(select(product3, 89.0, isGreater), -104.0, isLess3);
      let n2 = round(1.4426950408889634 * bounded2);
      let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
      let sum2 = ratio4 + r2 / 5040.0;
      let sum3 = ratio3 + r2 * sum2;
      let sum4 = ratio2 + r2 * sum3;
      let series2 = ratio + r2 * sum4;
      let product4 = r2 * r2;
      let sum5 = 0.5 + r2 * series2;
      let y2 = 1.0 + (r2 + product4 * sum5);
      let half2 = floor(0.5 * n2);
      let value4 = i32(half2);
      let value5 = i32(n2 - half2);
      let sum6 = 1.0 + 0.4 * a;
      let t = 1.0 / sum6;
      let y3 = -0.02863682061433792 * t + 0.19282197952270508;
      let y4 = y3 * t - 0.48662900924682617;
      let y5 = y4 * t + 0.5312276482582092;
      let y6 = y5 * t - 0.27092409133911133;
      let y7 = y6 * t + 0.2648743987083435;
      let y8 = y7 * t + 0.13215623795986176;
      let y9 = y8 * t + 0.21439078450202942;
      let y10 = y9 * t + 0.22501526772975922;
      let y11 = y10 * t + 0.2257036715745926;
      let isLess4 = product < 0.0;
      let dy2 = select(dmathGeluErfValue, 0.0, isLess4) - select(0.0, dmathGeluErfValue, isLess4);
      let product5 = dy2 * (ldexpValue * ldexp(ldexp(y2, value4), value5));
      let product6 = product5 * t;
      let product7 = product6 * t;
      let product8 = product7 * t;
      let product9 = product8 * t;
      let difference = -(product5 * y11) - product6 * y10 - product7 * y9 - product8 * y8;
      let product10 = product9 * t;
      let product11 = product10 * t;
      let product12 = product11 * t;
      let difference2 = difference - product9 * y7 - product10 * y6 - product11 * y5;
      let product13 = product12 * t;
      let dt = difference2 - product12 * y4 - product13 * y3 + 0.02863682061433792 * (product13 * t);
      let dy3 = ldexp(ldexp(-(dy2 * (y11 * t) * ldexpValue), value5), value4);
      let product14 = dy3 * product4;
      let dseries = product14 * r2;
      let product15 = dy3 * sum5 * r2;
      let sum7 = dy3 + product14 * series2 + product15 + product15 + dseries * sum4;
      let product16 = dseries * r2;
      let product17 = product16 * r2;
      let dr = sum7 + product16 * sum3 + product17 * sum2 + product17 * r2 / 5040.0;
      let chosen = select(select(dr, 0.0, isLess3), 0.0, isGreater);
      value3 = 0.0;
      da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
    }
    let isLess2 = absProduct < 5.0;
    value = value3;
    value2 = select(select(0.0, 0.5 * da, absProduct == 5.0), da, isLess2);
  } else {
    let a = min(absProduct, 10.5);
    let high = floor(a * 64.0) / 64.0;
    let low = a - high;
    let product2 = -high * high;
    let isLess2 = product2 < -104.0;
    let bounded = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    const ratio = 1.0 / 6.0;
    const ratio2 = 1.0 / 24.0;
    const ratio3 = 1.0 / 120.0;
    const ratio4 = 1.0 / 720.0;
    let series = ratio + r * (ratio2 + r * (ratio3 + r * (ratio4 + r / 5040.0)));
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    let ldexpValue = ldexp(ldexp(y, i32(half)), i32(n - half));
    let sum = a + high;
    let product3 = -low * sum;
    let isGreater = product3 > 89.0;
    let isLess3 = product3 < -104.0;
    let bounded2 = select(select(product3, 89.0, isGreater), -104.0, isLess3);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let sum2 = ratio4 + r2 / 5040.0;
    let sum3 = ratio3 + r2 * sum2;
    let sum4 = ratio2 + r2 * sum3;
    let series2 = ratio + r2 * sum4;
    let product4 = r2 * r2;
    let sum5 = 0.5 + r2 * series2;
    let y2 = 1.0 + (r2 + product4 * sum5);
    let half2 = floor(0.5 * n2);
    let value3 = i32(half2);
    let value4 = i32(n2 - half2);
    let sum6 = 1.0 + 0.4 * a;
    let t = 1.0 / sum6;
    let y3 = -0.02863682061433792 * t + 0.19282197952270508;
    let y4 = y3 * t - 0.48662900924682617;
    let y5 = y4 * t + 0.5312276482582092;
    let y6 = y5 * t - 0.27092409133911133;
    let y7 = y6 * t + 0.2648743987083435;
    let y8 = y7 * t + 0.13215623795986176;
    let y9 = y8 * t + 0.21439078450202942;
    let y10 = y9 * t + 0.22501526772975922;
    let y11 = y10 * t + 0.2257036715745926;
    let isLess4 = product < 0.0;
    let dy2 = select(dmathGeluErfcValue, 0.0, isLess4) - select(0.0, dmathGeluErfcValue, isLess4);
    let product5 = dy2 * (ldexpValue * ldexp(ldexp(y2, value3), value4));
    let dy3 = product5 * t;
    let dy4 = dy3 * t;
    let dy5 = dy4 * t;
    let dy6 = dy5 * t;
    let dy7 = dy6 * t;
    let sum7 = product5 * y11 + dy3 * y10 + dy4 * y9 + dy5 * y8 + dy6 * y7;
    let dy8 = dy7 * t;
    let dy9 = dy8 * t;
    let dy10 = dy9 * t;
    let dt = sum7 + dy7 * y6 + dy8 * y5 + dy9 * y4 + dy10 * y3 - 0.02863682061433792 * (dy10 * t);
    let dy11 = ldexp(ldexp(dy2 * (y11 * t) * ldexpValue, value4), value3);
    let product6 = dy11 * product4;
    let dseries = product6 * r2;
    let product7 = dy11 * sum5 * r2;
    let sum8 = dy11 + product6 * series2 + product7 + product7 + dseries * sum4;
    let product8 = dseries * r2;
    let product9 = product8 * r2;
    let dr = sum8 + product8 * sum3 + product9 * sum2 + product9 * r2 / 5040.0;
    let chosen = select(select(dr, 0.0, isLess3), 0.0, isGreater);
    let da = -(0.4 * (dt * t / sum6)) - chosen * low - chosen * sum;
    let isLess5 = absProduct < 10.5;
    value = 0.0;
    value2 = select(select(0.0, 0.5 * da, absProduct == 10.5), da, isLess5);
  }
  return -0.7071067811865476 * (value + value2 * sign(product)) + 0.5 * (dy * mathGeluErfcValue);
}
`,
};

/** The gradients of `fn glu(a: f32, b: f32) -> f32`. */
export const gluGrad: string = /* wgsl */ `
struct GluGrads {
  da: f32,
  db: f32,
}

fn gluGrad(a: f32, b: f32, dy: f32) -> GluGrads {
  let negated = -abs(b);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let e = ldexp(ldexp(y, value), value2);
  let isAtLeast = b >= 0.0;
  let sum5 = 1.0 + e;
  let ratio = select(e, 1.0, isAtLeast) / sum5;
  let product2 = dy * a;
  let de = select(product2 / sum5, 0.0, isAtLeast) - product2 * ratio / sum5;
  let dy2 = ldexp(ldexp(de, value2), value);
  let product3 = dy2 * product;
  let dseries = product3 * r;
  let product4 = dy2 * sum4 * r;
  let sum6 = dy2 + product3 * series + product4 + product4 + dseries * sum3;
  let product5 = dseries * r;
  let product6 = product5 * r;
  let dr = sum6 + product5 * sum2 + product6 * sum + product6 * r / 5040.0;
  let product7 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(b);
  return GluGrads(dy * ratio, -product7);
}
`;

/** The gradients of `fn huberLoss(x: f32, expected: f32, delta: f32) -> f32`. */
export const huberLossGrad: string = /* wgsl */ `
struct HuberLossGrads {
  dx: f32,
  dexpected: f32,
  ddelta: f32,
}

fn huberLossGrad(x: f32, expected: f32, delta: f32, dy: f32) -> HuberLossGrads {
  let difference = x - expected;
  let distance_ = abs(difference);
  var ddistance_: f32;
  var ddelta: f32;
  if (distance_ <= delta) {
    ddistance_ = dy * distance_;
    ddelta = 0.0;
  } else {
    let product = dy * delta;
    ddistance_ = product;
    ddelta = dy * (distance_ - 0.5 * delta) - 0.5 * product;
  }
  let product = ddistance_ * sign(difference);
  return HuberLossGrads(product, -product, ddelta);
}
`;

/** The gradients of `fn l1Loss(x: f32, expected: f32) -> f32`. */
export const l1LossGrad: string = /* wgsl */ `
struct L1LossGrads {
  dx: f32,
  dexpected: f32,
}

fn l1LossGrad(x: f32, expected: f32, dy: f32) -> L1LossGrads {
  let product = dy * sign(x - expected);
  return L1LossGrads(product, -product);
}
`;

/** The gradients of `fn log1p(x: f32) -> f32`. */
export const log1pGrad: string = /* wgsl */ `
fn log1pGrad(x: f32, dy: f32) -> f32 {
  if (abs(x) > 0.4) {
    return dy / (1.0 + x);
  }
  let sum = 2.0 + x;
  let s = x / sum;
  let q = s * s;
  let sum2 = 1.0 / 11.0 + q / 13.0;
  let sum3 = 1.0 / 9.0 + q * sum2;
  let sum4 = 1.0 / 7.0 + q * sum3;
  let sum5 = 1.0 / 5.0 + q * sum4;
  let series = 1.0 / 3.0 + q * sum5;
  let product = 2.0 * dy;
  let product2 = product * series;
  let dseries = product * (s * q);
  let product3 = dseries * q;
  let product4 = product3 * q;
  let sum6 = product2 * s + dseries * sum5 + product3 * sum4 + product4 * sum3;
  let product5 = product4 * q;
  let dq = sum6 + product5 * sum2 + product5 * q / 13.0;
  let product6 = dq * s;
  let ds = product + product2 * q + product6 + product6;
  return ds / sum - ds * s / sum;
}
`;

/** `log1p` as an activation of any layer. */
export const log1pActivation: Pointwise = {
  name: "mathLog1p",
  forward: /* wgsl */ `
fn mathLog1pLog1p(x: f32) -> f32 {
  if (abs(x) > 0.4) {
    return log(1.0 + x);
  }
  // 2 artanh(s)
  let s = x / (2.0 + x);
  let q = s * s;
  let series = 1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0))));
  return 2.0 * (s + s * q * series);
}

fn mathLog1p(x: f32) -> f32 {
  return mathLog1pLog1p(x);
}
`,
  backward: /* wgsl */ `
fn mathLog1pGrad(x: f32, dy: f32) -> f32 {
  if (abs(x) > 0.4) {
    return dy / (1.0 + x);
  }
  let sum = 2.0 + x;
  let s = x / sum;
  let q = s * s;
  let sum2 = 1.0 / 11.0 + q / 13.0;
  let sum3 = 1.0 / 9.0 + q * sum2;
  let sum4 = 1.0 / 7.0 + q * sum3;
  let sum5 = 1.0 / 5.0 + q * sum4;
  let series = 1.0 / 3.0 + q * sum5;
  let product = 2.0 * dy;
  let product2 = product * series;
  let dseries = product * (s * q);
  let product3 = dseries * q;
  let product4 = product3 * q;
  let sum6 = product2 * s + dseries * sum5 + product3 * sum4 + product4 * sum3;
  let product5 = product4 * q;
  let dq = sum6 + product5 * sum2 + product5 * q / 13.0;
  let product6 = dq * s;
  let ds = product + product2 * q + product6 + product6;
  return ds / sum - ds * s / sum;
}
`,
};

/** The gradients of `fn logAddExp(a: f32, b: f32) -> f32`. */
export const logAddExpGrad: string = /* wgsl */ `
struct LogAddExpGrads {
  da: f32,
  db: f32,
}

fn logAddExpGrad(a: f32, b: f32, dy: f32) -> LogAddExpGrads {
  let difference = a - b;
  let negated = -abs(difference);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let ldexpValue = ldexp(ldexp(y, value), value2);
  var value3: f32;
  if (abs(ldexpValue) > 0.4) {
    value3 = dy / (1.0 + ldexpValue);
  } else {
    let sum5 = 2.0 + ldexpValue;
    let s = ldexpValue / sum5;
    let q = s * s;
    let sum6 = 1.0 / 11.0 + q / 13.0;
    let sum7 = 1.0 / 9.0 + q * sum6;
    let sum8 = 1.0 / 7.0 + q * sum7;
    let sum9 = 1.0 / 5.0 + q * sum8;
    let series2 = 1.0 / 3.0 + q * sum9;
    let product2 = 2.0 * dy;
    let product3 = product2 * series2;
    let dseries = product2 * (s * q);
    let product4 = dseries * q;
    let product5 = product4 * q;
    let sum10 = product3 * s + dseries * sum9 + product4 * sum8 + product5 * sum7;
    let product6 = product5 * q;
    let dq = sum10 + product6 * sum6 + product6 * q / 13.0;
    let product7 = dq * s;
    let ds = product2 + product3 * q + product7 + product7;
    value3 = ds / sum5 - ds * s / sum5;
  }
  let dy2 = ldexp(ldexp(value3, value2), value);
  let product2 = dy2 * product;
  let dseries = product2 * r;
  let product3 = dy2 * sum4 * r;
  let sum5 = dy2 + product2 * series + product3 + product3 + dseries * sum3;
  let product4 = dseries * r;
  let product5 = product4 * r;
  let dr = sum5 + product4 * sum2 + product5 * sum + product5 * r / 5040.0;
  let product6 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(difference);
  let product7 = 0.5 * dy;
  let difference2 = select(select(0.0, product7, a == b), dy, a > b) - product6;
  let sum6 = product6 + select(select(0.0, product7, b == a), dy, b > a);
  return LogAddExpGrads(difference2, sum6);
}
`;

/** The gradients of `fn logSigmoid(x: f32) -> f32`. */
export const logSigmoidGrad: string = /* wgsl */ `
fn logSigmoidGrad(x: f32, dy: f32) -> f32 {
  let negated = -x;
  let negated2 = -abs(negated);
  let isGreater = negated2 > 89.0;
  let isLess = negated2 < -104.0;
  let bounded = select(select(negated2, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let ldexpValue = ldexp(ldexp(y, value), value2);
  let isGreater2 = negated > 0.0;
  let negated3 = -dy;
  let chosen = select(0.0, negated3, isGreater2);
  let dlog1pValue = select(negated3, 0.0, isGreater2) + chosen;
  var value3: f32;
  if (abs(ldexpValue) > 0.4) {
    value3 = dlog1pValue / (1.0 + ldexpValue);
  } else {
    let sum5 = 2.0 + ldexpValue;
    let s = ldexpValue / sum5;
    let q = s * s;
    let sum6 = 1.0 / 11.0 + q / 13.0;
    let sum7 = 1.0 / 9.0 + q * sum6;
    let sum8 = 1.0 / 7.0 + q * sum7;
    let sum9 = 1.0 / 5.0 + q * sum8;
    let series2 = 1.0 / 3.0 + q * sum9;
    let product2 = 2.0 * dlog1pValue;
    let product3 = product2 * series2;
    let dseries = product2 * (s * q);
    let product4 = dseries * q;
    let product5 = product4 * q;
    let sum10 = product3 * s + dseries * sum9 + product4 * sum8 + product5 * sum7;
    let product6 = product5 * q;
    let dq = sum10 + product6 * sum6 + product6 * q / 13.0;
    let product7 = dq * s;
    let ds = product2 + product3 * q + product7 + product7;
    value3 = ds / sum5 - ds * s / sum5;
  }
  let dy2 = ldexp(ldexp(value3, value2), value);
  let product2 = dy2 * product;
  let dseries = product2 * r;
  let product3 = dy2 * sum4 * r;
  let sum5 = dy2 + product2 * series + product3 + product3 + dseries * sum3;
  let product4 = dseries * r;
  let product5 = product4 * r;
  let dr = sum5 + product4 * sum2 + product5 * sum + product5 * r / 5040.0;
  let product6 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(negated);
  return -(chosen - product6);
}
`;

/** `logSigmoid` as an activation of any layer. */
export const logSigmoidActivation: Pointwise = {
  name: "mathLogSigmoid",
  forward: /* wgsl */ `
fn mathLogSigmoidLog1p(x: f32) -> f32 {
  if (abs(x) > 0.4) {
    return log(1.0 + x);
  }
  // 2 artanh(s)
  let s = x / (2.0 + x);
  let q = s * s;
  let series = 1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0))));
  return 2.0 * (s + s * q * series);
}

fn mathLogSigmoidAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathLogSigmoidSoftplus(x: f32) -> f32 {
  let tail = mathLogSigmoidLog1p(mathLogSigmoidAccurateExp(-abs(x)));
  return select(tail, x + tail, x > 0.0);
}

fn mathLogSigmoidLogSigmoid(x: f32) -> f32 {
  return -mathLogSigmoidSoftplus(-x);
}

fn mathLogSigmoid(x: f32) -> f32 {
  return mathLogSigmoidLogSigmoid(x);
}
`,
  backward: /* wgsl */ `
fn mathLogSigmoidGrad(x: f32, dy: f32) -> f32 {
  let negated = -x;
  let negated2 = -abs(negated);
  let isGreater = negated2 > 89.0;
  let isLess = negated2 < -104.0;
  let bounded = select(select(negated2, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let ldexpValue = ldexp(ldexp(y, value), value2);
  let isGreater2 = negated > 0.0;
  let negated3 = -dy;
  let chosen = select(0.0, negated3, isGreater2);
  let dmathLogSigmoidLog1pValue = select(negated3, 0.0, isGreater2) + chosen;
  var value3: f32;
  if (abs(ldexpValue) > 0.4) {
    value3 = dmathLogSigmoidLog1pValue / (1.0 + ldexpValue);
  } else {
    let sum5 = 2.0 + ldexpValue;
    let s = ldexpValue / sum5;
    let q = s * s;
    let sum6 = 1.0 / 11.0 + q / 13.0;
    let sum7 = 1.0 / 9.0 + q * sum6;
    let sum8 = 1.0 / 7.0 + q * sum7;
    let sum9 = 1.0 / 5.0 + q * sum8;
    let series2 = 1.0 / 3.0 + q * sum9;
    let product2 = 2.0 * dmathLogSigmoidLog1pValue;
    let product3 = product2 * series2;
    let dseries = product2 * (s * q);
    let product4 = dseries * q;
    let product5 = product4 * q;
    let sum10 = product3 * s + dseries * sum9 + product4 * sum8 + product5 * sum7;
    let product6 = product5 * q;
    let dq = sum10 + product6 * sum6 + product6 * q / 13.0;
    let product7 = dq * s;
    let ds = product2 + product3 * q + product7 + product7;
    value3 = ds / sum5 - ds * s / sum5;
  }
  let dy2 = ldexp(ldexp(value3, value2), value);
  let product2 = dy2 * product;
  let dseries = product2 * r;
  let product3 = dy2 * sum4 * r;
  let sum5 = dy2 + product2 * series + product3 + product3 + dseries * sum3;
  let product4 = dseries * r;
  let product5 = product4 * r;
  let dr = sum5 + product4 * sum2 + product5 * sum + product5 * r / 5040.0;
  let product6 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(negated);
  return -(chosen - product6);
}
`,
};

/** The gradients of `fn logSoftmax(x: f32) -> f32`. */
export const logSoftmaxGrad: string = /* wgsl */ `
fn logSoftmaxGrad(x: f32, dy: f32) -> f32 {
  let rowMaxX = rowMax(x);
  let shifted = x - rowMaxX;
  let expShifted = exp(shifted);
  let dshifted = dy - rowSum(dy / rowSum(expShifted)) * expShifted;
  let isMax = select(0.0, 1.0, x == rowMaxX);
  return dshifted - rowSum(dshifted) * isMax / rowSum(isMax);
}
`;

/** The gradients of `fn meanAndInvStd(x: f32, eps: f32) -> vec2f`. */
export const meanAndInvStdGrad: string = /* wgsl */ `
struct MeanAndInvStdGrads {
  dx: f32,
  deps: f32,
}

fn meanAndInvStdGrad(x: f32, eps: f32, dy: vec2f) -> MeanAndInvStdGrads {
  let mean = rowMean(x);
  let centered = x - mean;
  let sum = rowMean(centered * centered) + eps;
  let ratio = -0.5 * dy.y * inverseSqrt(sum) / sum;
  let dcentered = 2.0 * (rowMean(ratio) * centered);
  return MeanAndInvStdGrads(dcentered + rowMean(dy.x - dcentered), ratio);
}
`;

/** The gradients of `fn mergeWelford(a: vec3f, b: vec3f) -> vec3f`. */
export const mergeWelfordGrad: string = /* wgsl */ `
struct MergeWelfordGrads {
  da: vec3f,
  db: vec3f,
}

fn mergeWelfordGrad(a: vec3f, b: vec3f, dy: vec3f) -> MergeWelfordGrads {
  let count = a.x + b.x;
  let maxValue = max(count, 1.0);
  let share = b.x / maxValue;
  let delta = b.y - a.y;
  let product = delta * delta;
  let product2 = dy.z * share;
  let ddelta = 2.0 * (product2 * a.x * delta) + dy.y * share;
  let dshare = dy.z * (product * a.x) + dy.y * delta;
  let ratio = dshare * share / maxValue;
  let chosen = select(select(0.0, -(0.5 * ratio), count == 1.0), -ratio, count > 1.0);
  let dcount = dy.x + chosen;
  return MergeWelfordGrads(vec3f(product2 * product + dcount, dy.y - ddelta, dy.z), vec3f(dshare / maxValue + dcount, ddelta, dy.z));
}
`;

/** The gradients of `fn mish(x: f32) -> f32`. */
export const mishGrad: string = /* wgsl */ `
fn mishGrad(x: f32, dy: f32) -> f32 {
  let negated = -abs(x);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  const ratio = 1.0 / 6.0;
  const ratio2 = 1.0 / 24.0;
  const ratio3 = 1.0 / 120.0;
  const ratio4 = 1.0 / 720.0;
  let sum = ratio4 + r / 5040.0;
  let sum2 = ratio3 + r * sum;
  let sum3 = ratio2 + r * sum2;
  let series = ratio + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let ldexpValue = ldexp(ldexp(y, value), value2);
  let isGreater2 = abs(ldexpValue) > 0.4;
  var log1pValue: f32;
  if (isGreater2) {
    log1pValue = log(1.0 + ldexpValue);
  } else {
    let s = ldexpValue / (2.0 + ldexpValue);
    let q = s * s;
    let sum5 = 1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0));
    let series2 = 1.0 / 3.0 + q * (1.0 / 5.0 + q * sum5);
    log1pValue = 2.0 * (s + s * q * series2);
  }
  let isGreater3 = x > 0.0;
  let chosen = select(log1pValue, x + log1pValue, isGreater3);
  let absChosen = abs(chosen);
  let minValue = min(absChosen, 15.0);
  let product2 = -2.0 * minValue;
  let isGreater4 = abs(product2) > 0.5;
  var expm1Value: f32;
  if (isGreater4) {
    let isLess2 = product2 < -104.0;
    let bounded2 = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let product3 = r2 * (ratio2 + r2 * (ratio3 + r2 * (ratio4 + r2 / 5040.0)));
    let series2 = ratio + product3;
    let y2 = 1.0 + (r2 + r2 * r2 * (0.5 + r2 * series2));
    let half2 = floor(0.5 * n2);
    expm1Value = ldexp(ldexp(y2, i32(half2)), i32(n2 - half2)) - 1.0;
  } else {
    let product3 = product2 * (ratio4 + product2 * (1.0 / 5040.0 + product2 / 40320.0));
    let series2 = ratio + product2 * (ratio2 + product2 * (ratio3 + product3));
    expm1Value = product2 + product2 * product2 * (0.5 + product2 * series2);
  }
  let sum5 = 2.0 + expm1Value;
  let t = expm1Value / sum5;
  let isLess2 = chosen < 0.0;
  let product3 = dy * x;
  let dt = select(0.0, product3, isLess2) - select(product3, 0.0, isLess2);
  let dexpm1Value = dt / sum5 - dt * t / sum5;
  var value3: f32;
  if (isGreater4) {
    let isGreater5 = product2 > 89.0;
    let isLess3 = product2 < -104.0;
    let bounded2 = select(select(product2, 89.0, isGreater5), -104.0, isLess3);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let sum6 = ratio4 + r2 / 5040.0;
    let sum7 = ratio3 + r2 * sum6;
    let sum8 = ratio2 + r2 * sum7;
    let series2 = ratio + r2 * sum8;
    let half2 = floor(0.5 * n2);
    let dy2 = ldexp(ldexp(dexpm1Value, i32(n2 - half2)), i32(half2));
    let product4 = dy2 * (r2 * r2);
    let dseries = product4 * r2;
    let product5 = dy2 * (0.5 + r2 * series2) * r2;
    let sum9 = dy2 + product4 * series2 + product5 + product5 + dseries * sum8;
    let product6 = dseries * r2;
    let product7 = product6 * r2;
    let dr = sum9 + product6 * sum7 + product7 * sum6 + product7 * r2 / 5040.0;
    value3 = select(select(dr, 0.0, isLess3), 0.0, isGreater5);
  } else {
    let sum6 = 1.0 / 5040.0 + product2 / 40320.0;
    let sum7 = ratio4 + product2 * sum6;
    let sum8 = ratio3 + product2 * sum7;
    let sum9 = ratio2 + product2 * sum8;
    let series2 = ratio + product2 * sum9;
    let product4 = dexpm1Value * (product2 * product2);
    let dseries = -2.0 * (product4 * minValue);
    let product5 = 2.0 * (dexpm1Value * (0.5 + product2 * series2) * minValue);
    let sum10 = dexpm1Value + product4 * series2 - product5 - product5 + dseries * sum9;
    let product6 = -2.0 * (dseries * minValue);
    let product7 = -2.0 * (product6 * minValue);
    let product8 = -2.0 * (product7 * minValue);
    let sum11 = sum10 + product6 * sum8 + product7 * sum7 + product8 * sum6;
    value3 = sum11 + -2.0 * (product8 * minValue) / 40320.0;
  }
  let isLess3 = absChosen < 15.0;
  let chosen2 = select(select(0.0, -value3, absChosen == 15.0), -2.0 * value3, isLess3);
  let product4 = chosen2 * sign(chosen);
  let chosen3 = select(0.0, product4, isGreater3);
  let dlog1pValue = select(product4, 0.0, isGreater3) + chosen3;
  var value4: f32;
  if (isGreater2) {
    value4 = dlog1pValue / (1.0 + ldexpValue);
  } else {
    let sum6 = 2.0 + ldexpValue;
    let s = ldexpValue / sum6;
    let q = s * s;
    let sum7 = 1.0 / 11.0 + q / 13.0;
    let sum8 = 1.0 / 9.0 + q * sum7;
    let sum9 = 1.0 / 7.0 + q * sum8;
    let sum10 = 1.0 / 5.0 + q * sum9;
    let series2 = 1.0 / 3.0 + q * sum10;
    let product5 = 2.0 * dlog1pValue;
    let product6 = product5 * series2;
    let dseries = product5 * (s * q);
    let product7 = dseries * q;
    let product8 = product7 * q;
    let sum11 = product6 * s + dseries * sum10 + product7 * sum9 + product8 * sum8;
    let product9 = product8 * q;
    let dq = sum11 + product9 * sum7 + product9 * q / 13.0;
    let product10 = dq * s;
    let ds = product5 + product6 * q + product10 + product10;
    value4 = ds / sum6 - ds * s / sum6;
  }
  let dy2 = ldexp(ldexp(value4, value2), value);
  let product5 = dy2 * product;
  let dseries = product5 * r;
  let product6 = dy2 * sum4 * r;
  let sum6 = dy2 + product5 * series + product6 + product6 + dseries * sum3;
  let product7 = dseries * r;
  let product8 = product7 * r;
  let dr = sum6 + product7 * sum2 + product8 * sum + product8 * r / 5040.0;
  let product9 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(x);
  return dy * select(-t, t, isLess2) + chosen3 - product9;
}
`;

/** `mish` as an activation of any layer. */
export const mishActivation: Pointwise = {
  name: "mathMish",
  forward: /* wgsl */ `
fn mathMishLog1p(x: f32) -> f32 {
  if (abs(x) > 0.4) {
    return log(1.0 + x);
  }
  // 2 artanh(s)
  let s = x / (2.0 + x);
  let q = s * s;
  let series = 1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0))));
  return 2.0 * (s + s * q * series);
}

fn mathMishAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathMishSoftplus(x: f32) -> f32 {
  let tail = mathMishLog1p(mathMishAccurateExp(-abs(x)));
  return select(tail, x + tail, x > 0.0);
}

fn mathMishExpm1(x: f32) -> f32 {
  if (abs(x) > 0.5) {
    return mathMishAccurateExp(x) - 1.0;
  }
  let series = 1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0 + x / 40320.0))));
  return x + x * x * (0.5 + x * series);
}

fn mathMishStableTanh(x: f32) -> f32 {
  // beyond 15 it is 1
  let m = mathMishExpm1(-2.0 * min(abs(x), 15.0));
  let t = m / (2.0 + m);
  return select(-t, t, x < 0.0);
}

fn mathMishMish(x: f32) -> f32 {
  return x * mathMishStableTanh(mathMishSoftplus(x));
}

fn mathMish(x: f32) -> f32 {
  return mathMishMish(x);
}
`,
  backward: /* wgsl */ `
fn mathMishGrad(x: f32, dy: f32) -> f32 {
  let negated = -abs(x);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  const ratio = 1.0 / 6.0;
  const ratio2 = 1.0 / 24.0;
  const ratio3 = 1.0 / 120.0;
  const ratio4 = 1.0 / 720.0;
  let sum = ratio4 + r / 5040.0;
  let sum2 = ratio3 + r * sum;
  let sum3 = ratio2 + r * sum2;
  let series = ratio + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let ldexpValue = ldexp(ldexp(y, value), value2);
  let isGreater2 = abs(ldexpValue) > 0.4;
  var mathMishLog1pValue: f32;
  if (isGreater2) {
    mathMishLog1pValue = log(1.0 + ldexpValue);
  } else {
    let s = ldexpValue / (2.0 + ldexpValue);
    let q = s * s;
    let sum5 = 1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0));
    let series2 = 1.0 / 3.0 + q * (1.0 / 5.0 + q * sum5);
    mathMishLog1pValue = 2.0 * (s + s * q * series2);
  }
  let isGreater3 = x > 0.0;
  let chosen = select(mathMishLog1pValue, x + mathMishLog1pValue, isGreater3);
  let absChosen = abs(chosen);
  let minValue = min(absChosen, 15.0);
  let product2 = -2.0 * minValue;
  let isGreater4 = abs(product2) > 0.5;
  var mathMishExpm1Value: f32;
  if (isGreater4) {
    let isLess2 = product2 < -104.0;
    let bounded2 = select(select(product2, 89.0, product2 > 89.0), -104.0, isLess2);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let product3 = r2 * (ratio2 + r2 * (ratio3 + r2 * (ratio4 + r2 / 5040.0)));
    let series2 = ratio + product3;
    let y2 = 1.0 + (r2 + r2 * r2 * (0.5 + r2 * series2));
    let half2 = floor(0.5 * n2);
    mathMishExpm1Value = ldexp(ldexp(y2, i32(half2)), i32(n2 - half2)) - 1.0;
  } else {
    let product3 = product2 * (ratio4 + product2 * (1.0 / 5040.0 + product2 / 40320.0));
    let series2 = ratio + product2 * (ratio2 + product2 * (ratio3 + product3));
    mathMishExpm1Value = product2 + product2 * product2 * (0.5 + product2 * series2);
  }
  let sum5 = 2.0 + mathMishExpm1Value;
  let t = mathMishExpm1Value / sum5;
  let isLess2 = chosen < 0.0;
  let product3 = dy * x;
  let dt = select(0.0, product3, isLess2) - select(product3, 0.0, isLess2);
  let dmathMishExpm1Value = dt / sum5 - dt * t / sum5;
  var value3: f32;
  if (isGreater4) {
    let isGreater5 = product2 > 89.0;
    let isLess3 = product2 < -104.0;
    let bounded2 = select(select(product2, 89.0, isGreater5), -104.0, isLess3);
    let n2 = round(1.4426950408889634 * bounded2);
    let r2 = bounded2 - n2 * 0.693359375 + n2 * 0.00021219444;
    let sum6 = ratio4 + r2 / 5040.0;
    let sum7 = ratio3 + r2 * sum6;
    let sum8 = ratio2 + r2 * sum7;
    let series2 = ratio + r2 * sum8;
    let half2 = floor(0.5 * n2);
    let dy2 = ldexp(ldexp(dmathMishExpm1Value, i32(n2 - half2)), i32(half2));
    let product4 = dy2 * (r2 * r2);
    let dseries = product4 * r2;
    let product5 = dy2 * (0.5 + r2 * series2) * r2;
    let sum9 = dy2 + product4 * series2 + product5 + product5 + dseries * sum8;
    let product6 = dseries * r2;
    let product7 = product6 * r2;
    let dr = sum9 + product6 * sum7 + product7 * sum6 + product7 * r2 / 5040.0;
    value3 = select(select(dr, 0.0, isLess3), 0.0, isGreater5);
  } else {
    let sum6 = 1.0 / 5040.0 + product2 / 40320.0;
    let sum7 = ratio4 + product2 * sum6;
    let sum8 = ratio3 + product2 * sum7;
    let sum9 = ratio2 + product2 * sum8;
    let series2 = ratio + product2 * sum9;
    let product4 = dmathMishExpm1Value * (product2 * product2);
    let dseries = -2.0 * (product4 * minValue);
    let product5 = dmathMishExpm1Value * (0.5 + product2 * series2) * minValue;
    let product6 = 2.0 * product5;
    let difference = dmathMishExpm1Value + product4 * series2 - product6 - product6;
    let product7 = -2.0 * (dseries * minValue);
    let product8 = -2.0 * (product7 * minValue);
    let sum10 = difference + dseries * sum9 + product7 * sum8 + product8 * sum7;
    let product9 = -2.0 * (product8 * minValue);
    value3 = sum10 + product9 * sum6 + -2.0 * (product9 * minValue) / 40320.0;
  }
  let isLess3 = absChosen < 15.0;
  let chosen2 = select(select(0.0, -value3, absChosen == 15.0), -2.0 * value3, isLess3);
  let product4 = chosen2 * sign(chosen);
  let chosen3 = select(0.0, product4, isGreater3);
  let dmathMishLog1pValue = select(product4, 0.0, isGreater3) + chosen3;
  var value4: f32;
  if (isGreater2) {
    value4 = dmathMishLog1pValue / (1.0 + ldexpValue);
  } else {
    let sum6 = 2.0 + ldexpValue;
    let s = ldexpValue / sum6;
    let q = s * s;
    let sum7 = 1.0 / 11.0 + q / 13.0;
    let sum8 = 1.0 / 9.0 + q * sum7;
    let sum9 = 1.0 / 7.0 + q * sum8;
    let sum10 = 1.0 / 5.0 + q * sum9;
    let series2 = 1.0 / 3.0 + q * sum10;
    let product5 = 2.0 * dmathMishLog1pValue;
    let product6 = product5 * series2;
    let dseries = product5 * (s * q);
    let product7 = dseries * q;
    let product8 = product7 * q;
    let sum11 = product6 * s + dseries * sum10 + product7 * sum9 + product8 * sum8;
    let product9 = product8 * q;
    let dq = sum11 + product9 * sum7 + product9 * q / 13.0;
    let product10 = dq * s;
    let ds = product5 + product6 * q + product10 + product10;
    value4 = ds / sum6 - ds * s / sum6;
  }
  let dy2 = ldexp(ldexp(value4, value2), value);
  let product5 = dy2 * product;
  let dseries = product5 * r;
  let product6 = dy2 * sum4 * r;
  let sum6 = dy2 + product5 * series + product6 + product6 + dseries * sum3;
  let product7 = dseries * r;
  let product8 = product7 * r;
  let dr = sum6 + product7 * sum2 + product8 * sum + product8 * r / 5040.0;
  let product9 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(x);
  return dy * select(-t, t, isLess2) + chosen3 - product9;
}
`,
};

/** The gradients of `fn nllLoss(logProbability: f32, probability: f32) -> f32`. */
export const nllLossGrad: string = /* wgsl */ `
struct NllLossGrads {
  dlogProbability: f32,
  dprobability: f32,
}

fn nllLossGrad(logProbability: f32, probability: f32, dy: f32) -> NllLossGrads {
  let rowSumDy = rowSum(dy);
  return NllLossGrads(-(rowSumDy * probability), -(rowSumDy * logProbability));
}
`;

/** The gradients of `fn sigmoid(x: f32) -> f32`. */
export const sigmoidGrad: string = /* wgsl */ `
fn sigmoidGrad(x: f32, dy: f32) -> f32 {
  let negated = -abs(x);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let e = ldexp(ldexp(y, value), value2);
  let isAtLeast = x >= 0.0;
  let sum5 = 1.0 + e;
  let de = select(dy / sum5, 0.0, isAtLeast) - dy * (select(e, 1.0, isAtLeast) / sum5) / sum5;
  let dy2 = ldexp(ldexp(de, value2), value);
  let product2 = dy2 * product;
  let dseries = product2 * r;
  let product3 = dy2 * sum4 * r;
  let sum6 = dy2 + product2 * series + product3 + product3 + dseries * sum3;
  let product4 = dseries * r;
  let product5 = product4 * r;
  let dr = sum6 + product4 * sum2 + product5 * sum + product5 * r / 5040.0;
  let product6 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(x);
  return -product6;
}
`;

/** `sigmoid` as an activation of any layer. */
export const sigmoidActivation: Pointwise = {
  name: "mathSigmoid",
  forward: /* wgsl */ `
fn mathSigmoidAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathSigmoidSigmoid(x: f32) -> f32 {
  let e = mathSigmoidAccurateExp(-abs(x));
  return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn mathSigmoid(x: f32) -> f32 {
  return mathSigmoidSigmoid(x);
}
`,
  backward: /* wgsl */ `
fn mathSigmoidGrad(x: f32, dy: f32) -> f32 {
  let negated = -abs(x);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let e = ldexp(ldexp(y, value), value2);
  let isAtLeast = x >= 0.0;
  let sum5 = 1.0 + e;
  let de = select(dy / sum5, 0.0, isAtLeast) - dy * (select(e, 1.0, isAtLeast) / sum5) / sum5;
  let dy2 = ldexp(ldexp(de, value2), value);
  let product2 = dy2 * product;
  let dseries = product2 * r;
  let product3 = dy2 * sum4 * r;
  let sum6 = dy2 + product2 * series + product3 + product3 + dseries * sum3;
  let product4 = dseries * r;
  let product5 = product4 * r;
  let dr = sum6 + product4 * sum2 + product5 * sum + product5 * r / 5040.0;
  let product6 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(x);
  return -product6;
}
`,
};

/** The gradients of `fn silu(x: f32) -> f32`. */
export const siluGrad: string = /* wgsl */ `
fn siluGrad(x: f32, dy: f32) -> f32 {
  let negated = -abs(x);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let e = ldexp(ldexp(y, value), value2);
  let isAtLeast = x >= 0.0;
  let sum5 = 1.0 + e;
  let ratio = select(e, 1.0, isAtLeast) / sum5;
  let product2 = dy * x;
  let de = select(product2 / sum5, 0.0, isAtLeast) - product2 * ratio / sum5;
  let dy2 = ldexp(ldexp(de, value2), value);
  let product3 = dy2 * product;
  let dseries = product3 * r;
  let product4 = dy2 * sum4 * r;
  let sum6 = dy2 + product3 * series + product4 + product4 + dseries * sum3;
  let product5 = dseries * r;
  let product6 = product5 * r;
  let dr = sum6 + product5 * sum2 + product6 * sum + product6 * r / 5040.0;
  let product7 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(x);
  return dy * ratio - product7;
}
`;

/** `silu` as an activation of any layer. */
export const siluActivation: Pointwise = {
  name: "mathSilu",
  forward: /* wgsl */ `
fn mathSiluAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathSiluSigmoid(x: f32) -> f32 {
  let e = mathSiluAccurateExp(-abs(x));
  return select(e, 1.0, x >= 0.0) / (1.0 + e);
}

fn mathSiluSilu(x: f32) -> f32 {
  return x * mathSiluSigmoid(x);
}

fn mathSilu(x: f32) -> f32 {
  return mathSiluSilu(x);
}
`,
  backward: /* wgsl */ `
fn mathSiluGrad(x: f32, dy: f32) -> f32 {
  let negated = -abs(x);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let e = ldexp(ldexp(y, value), value2);
  let isAtLeast = x >= 0.0;
  let sum5 = 1.0 + e;
  let ratio = select(e, 1.0, isAtLeast) / sum5;
  let product2 = dy * x;
  let de = select(product2 / sum5, 0.0, isAtLeast) - product2 * ratio / sum5;
  let dy2 = ldexp(ldexp(de, value2), value);
  let product3 = dy2 * product;
  let dseries = product3 * r;
  let product4 = dy2 * sum4 * r;
  let sum6 = dy2 + product3 * series + product4 + product4 + dseries * sum3;
  let product5 = dseries * r;
  let product6 = product5 * r;
  let dr = sum6 + product5 * sum2 + product6 * sum + product6 * r / 5040.0;
  let product7 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(x);
  return dy * ratio - product7;
}
`,
};

/** The gradients of `fn smoothL1Loss(x: f32, expected: f32, beta: f32) -> f32`. */
export const smoothL1LossGrad: string = /* wgsl */ `
struct SmoothL1LossGrads {
  dx: f32,
  dexpected: f32,
  dbeta: f32,
}

fn smoothL1LossGrad(x: f32, expected: f32, beta: f32, dy: f32) -> SmoothL1LossGrads {
  let difference = x - expected;
  let distance_ = abs(difference);
  var dbeta: f32;
  var ddistance_: f32;
  if (distance_ < beta) {
    dbeta = -(dy * (0.5 * distance_ * distance_ / beta) / beta);
    ddistance_ = dy / beta * distance_;
  } else {
    dbeta = -(0.5 * dy);
    ddistance_ = dy;
  }
  let product = ddistance_ * sign(difference);
  return SmoothL1LossGrads(product, -product, dbeta);
}
`;

/** The gradients of `fn softmax(x: f32) -> f32`. */
export const softmaxGrad: string = /* wgsl */ `
fn softmaxGrad(x: f32, dy: f32) -> f32 {
  let rowMaxX = rowMax(x);
  let e = exp(x - rowMaxX);
  let rowSumE = rowSum(e);
  let de = dy / rowSumE - rowSum(dy * (e / rowSumE) / rowSumE);
  let product = de * e;
  let isMax = select(0.0, 1.0, x == rowMaxX);
  return product - rowSum(product) * isMax / rowSum(isMax);
}
`;

/** The gradients of `fn softplus(x: f32) -> f32`. */
export const softplusGrad: string = /* wgsl */ `
fn softplusGrad(x: f32, dy: f32) -> f32 {
  let negated = -abs(x);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let ldexpValue = ldexp(ldexp(y, value), value2);
  let isGreater2 = x > 0.0;
  let chosen = select(0.0, dy, isGreater2);
  let dlog1pValue = select(dy, 0.0, isGreater2) + chosen;
  var value3: f32;
  if (abs(ldexpValue) > 0.4) {
    value3 = dlog1pValue / (1.0 + ldexpValue);
  } else {
    let sum5 = 2.0 + ldexpValue;
    let s = ldexpValue / sum5;
    let q = s * s;
    let sum6 = 1.0 / 11.0 + q / 13.0;
    let sum7 = 1.0 / 9.0 + q * sum6;
    let sum8 = 1.0 / 7.0 + q * sum7;
    let sum9 = 1.0 / 5.0 + q * sum8;
    let series2 = 1.0 / 3.0 + q * sum9;
    let product2 = 2.0 * dlog1pValue;
    let product3 = product2 * series2;
    let dseries = product2 * (s * q);
    let product4 = dseries * q;
    let product5 = product4 * q;
    let sum10 = product3 * s + dseries * sum9 + product4 * sum8 + product5 * sum7;
    let product6 = product5 * q;
    let dq = sum10 + product6 * sum6 + product6 * q / 13.0;
    let product7 = dq * s;
    let ds = product2 + product3 * q + product7 + product7;
    value3 = ds / sum5 - ds * s / sum5;
  }
  let dy2 = ldexp(ldexp(value3, value2), value);
  let product2 = dy2 * product;
  let dseries = product2 * r;
  let product3 = dy2 * sum4 * r;
  let sum5 = dy2 + product2 * series + product3 + product3 + dseries * sum3;
  let product4 = dseries * r;
  let product5 = product4 * r;
  let dr = sum5 + product4 * sum2 + product5 * sum + product5 * r / 5040.0;
  let product6 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(x);
  return chosen - product6;
}
`;

/** `softplus` as an activation of any layer. */
export const softplusActivation: Pointwise = {
  name: "mathSoftplus",
  forward: /* wgsl */ `
fn mathSoftplusLog1p(x: f32) -> f32 {
  if (abs(x) > 0.4) {
    return log(1.0 + x);
  }
  // 2 artanh(s)
  let s = x / (2.0 + x);
  let q = s * s;
  let series = 1.0 / 3.0 + q * (1.0 / 5.0 + q * (1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0))));
  return 2.0 * (s + s * q * series);
}

fn mathSoftplusAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathSoftplusSoftplus(x: f32) -> f32 {
  let tail = mathSoftplusLog1p(mathSoftplusAccurateExp(-abs(x)));
  return select(tail, x + tail, x > 0.0);
}

fn mathSoftplus(x: f32) -> f32 {
  return mathSoftplusSoftplus(x);
}
`,
  backward: /* wgsl */ `
fn mathSoftplusGrad(x: f32, dy: f32) -> f32 {
  let negated = -abs(x);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let ldexpValue = ldexp(ldexp(y, value), value2);
  let isGreater2 = x > 0.0;
  let chosen = select(0.0, dy, isGreater2);
  let dmathSoftplusLog1pValue = select(dy, 0.0, isGreater2) + chosen;
  var value3: f32;
  if (abs(ldexpValue) > 0.4) {
    value3 = dmathSoftplusLog1pValue / (1.0 + ldexpValue);
  } else {
    let sum5 = 2.0 + ldexpValue;
    let s = ldexpValue / sum5;
    let q = s * s;
    let sum6 = 1.0 / 11.0 + q / 13.0;
    let sum7 = 1.0 / 9.0 + q * sum6;
    let sum8 = 1.0 / 7.0 + q * sum7;
    let sum9 = 1.0 / 5.0 + q * sum8;
    let series2 = 1.0 / 3.0 + q * sum9;
    let product2 = 2.0 * dmathSoftplusLog1pValue;
    let product3 = product2 * series2;
    let dseries = product2 * (s * q);
    let product4 = dseries * q;
    let product5 = product4 * q;
    let sum10 = product3 * s + dseries * sum9 + product4 * sum8 + product5 * sum7;
    let product6 = product5 * q;
    let dq = sum10 + product6 * sum6 + product6 * q / 13.0;
    let product7 = dq * s;
    let ds = product2 + product3 * q + product7 + product7;
    value3 = ds / sum5 - ds * s / sum5;
  }
  let dy2 = ldexp(ldexp(value3, value2), value);
  let product2 = dy2 * product;
  let dseries = product2 * r;
  let product3 = dy2 * sum4 * r;
  let sum5 = dy2 + product2 * series + product3 + product3 + dseries * sum3;
  let product4 = dseries * r;
  let product5 = product4 * r;
  let dr = sum5 + product4 * sum2 + product5 * sum + product5 * r / 5040.0;
  let product6 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(x);
  return chosen - product6;
}
`,
};

/** The gradients of `fn squaredLoss(x: f32, expected: f32) -> f32`. */
export const squaredLossGrad: string = /* wgsl */ `
struct SquaredLossGrads {
  dx: f32,
  dexpected: f32,
}

fn squaredLossGrad(x: f32, expected: f32, dy: f32) -> SquaredLossGrads {
  let difference = x - expected;
  let ddifference = 2.0 * (dy * difference);
  return SquaredLossGrads(ddifference, -ddifference);
}
`;

/** The gradients of `fn stableTanh(x: f32) -> f32`. */
export const stableTanhGrad: string = /* wgsl */ `
fn stableTanhGrad(x: f32, dy: f32) -> f32 {
  let absX = abs(x);
  let minValue = min(absX, 15.0);
  let product = -2.0 * minValue;
  let isGreater = abs(product) > 0.5;
  var expm1Value: f32;
  if (isGreater) {
    let isLess = product < -104.0;
    let bounded = select(select(product, 89.0, product > 89.0), -104.0, isLess);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    let sum = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0));
    let series = 1.0 / 6.0 + r * sum;
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    expm1Value = ldexp(ldexp(y, i32(half)), i32(n - half)) - 1.0;
  } else {
    let sum = 1.0 / 720.0 + product * (1.0 / 5040.0 + product / 40320.0);
    let product2 = product * (1.0 / 24.0 + product * (1.0 / 120.0 + product * sum));
    let series = 1.0 / 6.0 + product2;
    expm1Value = product + product * product * (0.5 + product * series);
  }
  let sum = 2.0 + expm1Value;
  let t = expm1Value / sum;
  let isLess = x < 0.0;
  let dt = select(0.0, dy, isLess) - select(dy, 0.0, isLess);
  let dexpm1Value = dt / sum - dt * t / sum;
  var value: f32;
  if (isGreater) {
    let isGreater2 = product > 89.0;
    let isLess2 = product < -104.0;
    let bounded = select(select(product, 89.0, isGreater2), -104.0, isLess2);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    let sum2 = 1.0 / 720.0 + r / 5040.0;
    let sum3 = 1.0 / 120.0 + r * sum2;
    let sum4 = 1.0 / 24.0 + r * sum3;
    let series = 1.0 / 6.0 + r * sum4;
    let half = floor(0.5 * n);
    let dy2 = ldexp(ldexp(dexpm1Value, i32(n - half)), i32(half));
    let product2 = dy2 * (r * r);
    let dseries = product2 * r;
    let product3 = dy2 * (0.5 + r * series) * r;
    let sum5 = dy2 + product2 * series + product3 + product3 + dseries * sum4;
    let product4 = dseries * r;
    let product5 = product4 * r;
    let dr = sum5 + product4 * sum3 + product5 * sum2 + product5 * r / 5040.0;
    value = select(select(dr, 0.0, isLess2), 0.0, isGreater2);
  } else {
    let sum2 = 1.0 / 5040.0 + product / 40320.0;
    let sum3 = 1.0 / 720.0 + product * sum2;
    let sum4 = 1.0 / 120.0 + product * sum3;
    let sum5 = 1.0 / 24.0 + product * sum4;
    let series = 1.0 / 6.0 + product * sum5;
    let product2 = dexpm1Value * (product * product);
    let dseries = -2.0 * (product2 * minValue);
    let product3 = 2.0 * (dexpm1Value * (0.5 + product * series) * minValue);
    let sum6 = dexpm1Value + product2 * series - product3 - product3 + dseries * sum5;
    let product4 = -2.0 * (dseries * minValue);
    let product5 = -2.0 * (product4 * minValue);
    let product6 = -2.0 * (product5 * minValue);
    let sum7 = sum6 + product4 * sum4 + product5 * sum3 + product6 * sum2;
    value = sum7 + -2.0 * (product6 * minValue) / 40320.0;
  }
  let isLess2 = absX < 15.0;
  let chosen = select(select(0.0, -value, absX == 15.0), -2.0 * value, isLess2);
  return chosen * sign(x);
}
`;

/** `stableTanh` as an activation of any layer. */
export const stableTanhActivation: Pointwise = {
  name: "mathStableTanh",
  forward: /* wgsl */ `
fn mathStableTanhAccurateExp(x: f32) -> f32 {
  let bounded = select(select(x, 89.0, x > 89.0), -104.0, x < -104.0);
  // e^x = 2^n e^r; n times the first part of log(2) is exact
  let n = round(1.4426950408889634 * bounded);
  let r = (bounded - n * 0.693359375) + n * 0.00021219444;
  let series = 1.0 / 6.0 + r * (1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0)));
  let y = 1.0 + (r + r * r * (0.5 + r * series));
  let half = floor(0.5 * n);
  return ldexp(ldexp(y, i32(half)), i32(n - half));
}

fn mathStableTanhExpm1(x: f32) -> f32 {
  if (abs(x) > 0.5) {
    return mathStableTanhAccurateExp(x) - 1.0;
  }
  let series = 1.0 / 6.0 + x * (1.0 / 24.0 + x * (1.0 / 120.0 + x * (1.0 / 720.0 + x * (1.0 / 5040.0 + x / 40320.0))));
  return x + x * x * (0.5 + x * series);
}

fn mathStableTanhStableTanh(x: f32) -> f32 {
  // beyond 15 it is 1
  let m = mathStableTanhExpm1(-2.0 * min(abs(x), 15.0));
  let t = m / (2.0 + m);
  return select(-t, t, x < 0.0);
}

fn mathStableTanh(x: f32) -> f32 {
  return mathStableTanhStableTanh(x);
}
`,
  backward: /* wgsl */ `
fn mathStableTanhGrad(x: f32, dy: f32) -> f32 {
  let absX = abs(x);
  let minValue = min(absX, 15.0);
  let product = -2.0 * minValue;
  let isGreater = abs(product) > 0.5;
  var mathStableTanhExpm1Value: f32;
  if (isGreater) {
    let isLess = product < -104.0;
    let bounded = select(select(product, 89.0, product > 89.0), -104.0, isLess);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    let sum = 1.0 / 24.0 + r * (1.0 / 120.0 + r * (1.0 / 720.0 + r / 5040.0));
    let series = 1.0 / 6.0 + r * sum;
    let y = 1.0 + (r + r * r * (0.5 + r * series));
    let half = floor(0.5 * n);
    mathStableTanhExpm1Value = ldexp(ldexp(y, i32(half)), i32(n - half)) - 1.0;
  } else {
    let sum = 1.0 / 720.0 + product * (1.0 / 5040.0 + product / 40320.0);
    let product2 = product * (1.0 / 24.0 + product * (1.0 / 120.0 + product * sum));
    let series = 1.0 / 6.0 + product2;
    mathStableTanhExpm1Value = product + product * product * (0.5 + product * series);
  }
  let sum = 2.0 + mathStableTanhExpm1Value;
  let t = mathStableTanhExpm1Value / sum;
  let isLess = x < 0.0;
  let dt = select(0.0, dy, isLess) - select(dy, 0.0, isLess);
  let dmathStableTanhExpm1Value = dt / sum - dt * t / sum;
  var value: f32;
  if (isGreater) {
    let isGreater2 = product > 89.0;
    let isLess2 = product < -104.0;
    let bounded = select(select(product, 89.0, isGreater2), -104.0, isLess2);
    let n = round(1.4426950408889634 * bounded);
    let r = bounded - n * 0.693359375 + n * 0.00021219444;
    let sum2 = 1.0 / 720.0 + r / 5040.0;
    let sum3 = 1.0 / 120.0 + r * sum2;
    let sum4 = 1.0 / 24.0 + r * sum3;
    let series = 1.0 / 6.0 + r * sum4;
    let half = floor(0.5 * n);
    let dy2 = ldexp(ldexp(dmathStableTanhExpm1Value, i32(n - half)), i32(half));
    let product2 = dy2 * (r * r);
    let dseries = product2 * r;
    let product3 = dy2 * (0.5 + r * series) * r;
    let sum5 = dy2 + product2 * series + product3 + product3 + dseries * sum4;
    let product4 = dseries * r;
    let product5 = product4 * r;
    let dr = sum5 + product4 * sum3 + product5 * sum2 + product5 * r / 5040.0;
    value = select(select(dr, 0.0, isLess2), 0.0, isGreater2);
  } else {
    let sum2 = 1.0 / 5040.0 + product / 40320.0;
    let sum3 = 1.0 / 720.0 + product * sum2;
    let sum4 = 1.0 / 120.0 + product * sum3;
    let sum5 = 1.0 / 24.0 + product * sum4;
    let series = 1.0 / 6.0 + product * sum5;
    let product2 = dmathStableTanhExpm1Value * (product * product);
    let dseries = -2.0 * (product2 * minValue);
    let product3 = dmathStableTanhExpm1Value * (0.5 + product * series) * minValue;
    let product4 = 2.0 * product3;
    let difference = dmathStableTanhExpm1Value + product2 * series - product4 - product4;
    let product5 = -2.0 * (dseries * minValue);
    let product6 = -2.0 * (product5 * minValue);
    let sum6 = difference + dseries * sum5 + product5 * sum4 + product6 * sum3;
    let product7 = -2.0 * (product6 * minValue);
    value = sum6 + product7 * sum2 + -2.0 * (product7 * minValue) / 40320.0;
  }
  let isLess2 = absX < 15.0;
  let chosen = select(select(0.0, -value, absX == 15.0), -2.0 * value, isLess2);
  return chosen * sign(x);
}
`,
};

/** The gradients of `fn standardize(x: f32, mean: f32, invStd: f32, weight: f32, bias: f32) -> f32`. */
export const standardizeGrad: string = /* wgsl */ `
struct StandardizeGrads {
  dx: f32,
  dmean: f32,
  dinvStd: f32,
  dweight: f32,
  dbias: f32,
}

fn standardizeGrad(x: f32, mean: f32, invStd: f32, weight: f32, bias: f32, dy: f32) -> StandardizeGrads {
  let product = dy * (x - mean);
  let product2 = dy * (weight * invStd);
  return StandardizeGrads(product2, -product2, product * weight, product * invStd, dy);
}
`;

/** The gradients of `fn swiglu(a: f32, b: f32) -> f32`. */
export const swigluGrad: string = /* wgsl */ `
struct SwigluGrads {
  da: f32,
  db: f32,
}

fn swigluGrad(a: f32, b: f32, dy: f32) -> SwigluGrads {
  let negated = -abs(b);
  let isGreater = negated > 89.0;
  let isLess = negated < -104.0;
  let bounded = select(select(negated, 89.0, isGreater), -104.0, isLess);
  let n = round(1.4426950408889634 * bounded);
  let r = bounded - n * 0.693359375 + n * 0.00021219444;
  let sum = 1.0 / 720.0 + r / 5040.0;
  let sum2 = 1.0 / 120.0 + r * sum;
  let sum3 = 1.0 / 24.0 + r * sum2;
  let series = 1.0 / 6.0 + r * sum3;
  let product = r * r;
  let sum4 = 0.5 + r * series;
  let y = 1.0 + (r + product * sum4);
  let half = floor(0.5 * n);
  let value = i32(half);
  let value2 = i32(n - half);
  let e = ldexp(ldexp(y, value), value2);
  let isAtLeast = b >= 0.0;
  let sum5 = 1.0 + e;
  let ratio = select(e, 1.0, isAtLeast) / sum5;
  let product2 = dy * a;
  let product3 = product2 * b;
  let de = select(product3 / sum5, 0.0, isAtLeast) - product3 * ratio / sum5;
  let dy2 = ldexp(ldexp(de, value2), value);
  let product4 = dy2 * product;
  let dseries = product4 * r;
  let product5 = dy2 * sum4 * r;
  let sum6 = dy2 + product4 * series + product5 + product5 + dseries * sum3;
  let product6 = dseries * r;
  let product7 = product6 * r;
  let dr = sum6 + product6 * sum2 + product7 * sum + product7 * r / 5040.0;
  let product8 = select(select(dr, 0.0, isLess), 0.0, isGreater) * sign(b);
  return SwigluGrads(dy * (b * ratio), product2 * ratio - product8);
}
`;

/** The gradients of `fn updateEma(old: f32, new_: f32, momentum: f32) -> f32`. */
export const updateEmaGrad: string = /* wgsl */ `
struct UpdateEmaGrads {
  dold: f32,
  dnew_: f32,
  dmomentum: f32,
}

fn updateEmaGrad(old: f32, new_: f32, momentum: f32, dy: f32) -> UpdateEmaGrads {
  return UpdateEmaGrads(dy * (1.0 - momentum), dy * momentum, dy * new_ - dy * old);
}
`;

/** The gradients of `fn updateWelford(state: vec3f, x: f32) -> vec3f`. */
export const updateWelfordGrad: string = /* wgsl */ `
struct UpdateWelfordGrads {
  dstate: vec3f,
  dx: f32,
}

fn updateWelfordGrad(state: vec3f, x: f32, dy: vec3f) -> UpdateWelfordGrads {
  let count = state.x + 1.0;
  let delta = x - state.y;
  let ratio = delta / count;
  let mean = state.y + ratio;
  let product = dy.z * delta;
  let dmean = dy.y - product;
  let ddelta = dy.z * (x - mean) + dmean / count;
  let vector = vec3f(dy.x - dmean * ratio / count, dmean - ddelta, dy.z);
  return UpdateWelfordGrads(vector, product + ddelta);
}
`;
