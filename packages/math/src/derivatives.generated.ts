// Written by `pnpm generate` from functions/. Do not edit.

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
  return dy * accurateExp(x);
}
`;

/** The gradient of `fn celu(x: f32, alpha: f32) -> f32` by x. */
export const celuGrad: string = /* wgsl */ `
fn celuGrad(x: f32, alpha: f32, dy: f32) -> f32 {
  if (x > 0.0) {
    return dy;
  }
  let ratio = x / alpha;
  let dexpm1Value = dy * alpha;
  var value: f32;
  if (abs(ratio) > 0.5) {
    value = dexpm1Value * accurateExp(ratio);
  } else {
    let sum = 1.0 / 5040.0 + ratio / 40320.0;
    let sum2 = 1.0 / 720.0 + ratio * sum;
    let sum3 = 1.0 / 120.0 + ratio * sum2;
    let sum4 = 1.0 / 24.0 + ratio * sum3;
    let series = 1.0 / 6.0 + ratio * sum4;
    let product = dexpm1Value * (ratio * ratio);
    let dseries = product * ratio;
    let product2 = dexpm1Value * (0.5 + ratio * series) * ratio;
    let sum5 = dexpm1Value + product * series + product2 + product2 + dseries * sum4;
    let product3 = dseries * ratio;
    let product4 = product3 * ratio;
    let product5 = product4 * ratio;
    let sum6 = sum5 + product3 * sum3 + product4 * sum2 + product5 * sum;
    value = sum6 + product5 * ratio / 40320.0;
  }
  return value / alpha;
}
`;

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

/** The gradient of `fn dropout(x: f32, p: f32, bits: u32) -> f32` by x. */
export const dropoutGrad: string = /* wgsl */ `
fn dropoutGrad(x: f32, p: f32, bits: u32, dy: f32) -> f32 {
  let chosen = select(0.0, dy, f32(bits >> 8u) * 5.9604644775390625e-8 >= p);
  return chosen / max(1.0 - p, 1e-30);
}
`;

/** The gradient of `fn elu(x: f32, alpha: f32) -> f32` by x. */
export const eluGrad: string = /* wgsl */ `
fn eluGrad(x: f32, alpha: f32, dy: f32) -> f32 {
  if (x > 0.0) {
    return dy;
  }
  let dexpm1Value = dy * alpha;
  if (abs(x) > 0.5) {
    return dexpm1Value * accurateExp(x);
  }
  let sum = 1.0 / 5040.0 + x / 40320.0;
  let sum2 = 1.0 / 720.0 + x * sum;
  let sum3 = 1.0 / 120.0 + x * sum2;
  let sum4 = 1.0 / 24.0 + x * sum3;
  let series = 1.0 / 6.0 + x * sum4;
  let product = dexpm1Value * (x * x);
  let dseries = product * x;
  let product2 = dexpm1Value * (0.5 + x * series) * x;
  let sum5 = dexpm1Value + product * series + product2 + product2 + dseries * sum4;
  let product3 = dseries * x;
  let product4 = product3 * x;
  let product5 = product4 * x;
  let sum6 = sum5 + product3 * sum3 + product4 * sum2 + product5 * sum;
  return sum6 + product5 * x / 40320.0;
}
`;

/** The gradients of `fn erf(x: f32) -> f32`. */
export const erfGrad: string = /* wgsl */ `
fn erfGrad(x: f32, dy: f32) -> f32 {
  let size = abs(x);
  let isGreater = size > 5.0;
  let a = select(size, 5.0, isGreater);
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
    let expValue = accurateExp(-high * high);
    let sum = a + high;
    let expValue2 = accurateExp(-low * sum);
    let sum2 = 1.0 + 0.4 * a;
    let t = 1.0 / sum2;
    let y = -0.02863682061433792 * t + 0.19282197952270508;
    let y2 = y * t - 0.48662900924682617;
    let y3 = y2 * t + 0.5312276482582092;
    let y4 = y3 * t - 0.27092409133911133;
    let y5 = y4 * t + 0.2648743987083435;
    let y6 = y5 * t + 0.13215623795986176;
    let y7 = y6 * t + 0.21439078450202942;
    let y8 = y7 * t + 0.22501526772975922;
    let y9 = y8 * t + 0.2257036715745926;
    let isLess = x < 0.0;
    let dy2 = select(dy, 0.0, isLess) - select(0.0, dy, isLess);
    let product = dy2 * (expValue * expValue2);
    let product2 = product * t;
    let product3 = product2 * t;
    let product4 = product3 * t;
    let product5 = product4 * t;
    let difference = -(product * y9) - product2 * y8 - product3 * y7 - product4 * y6;
    let product6 = product5 * t;
    let product7 = product6 * t;
    let product8 = product7 * t;
    let difference2 = difference - product5 * y5 - product6 * y4 - product7 * y3;
    let product9 = product8 * t;
    let dt = difference2 - product8 * y2 - product9 * y + 0.02863682061433792 * (product9 * t);
    let product10 = dy2 * (y9 * t) * expValue * expValue2;
    dx = 0.0;
    da = product10 * low - 0.4 * (dt * t / sum2) + product10 * sum;
  }
  return dx + select(da, 0.0, isGreater) * sign(x);
}
`;

/** The gradients of `fn erfc(x: f32) -> f32`. */
export const erfcGrad: string = /* wgsl */ `
fn erfcGrad(x: f32, dy: f32) -> f32 {
  let size = abs(x);
  var dx: f32;
  var dsize: f32;
  if (size < 0.25) {
    let isGreater = size > 5.0;
    let a = select(size, 5.0, isGreater);
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
      let expValue = accurateExp(-high * high);
      let sum = a + high;
      let expValue2 = accurateExp(-low * sum);
      let sum2 = 1.0 + 0.4 * a;
      let t = 1.0 / sum2;
      let y = -0.02863682061433792 * t + 0.19282197952270508;
      let y2 = y * t - 0.48662900924682617;
      let y3 = y2 * t + 0.5312276482582092;
      let y4 = y3 * t - 0.27092409133911133;
      let y5 = y4 * t + 0.2648743987083435;
      let y6 = y5 * t + 0.13215623795986176;
      let y7 = y6 * t + 0.21439078450202942;
      let y8 = y7 * t + 0.22501526772975922;
      let y9 = y8 * t + 0.2257036715745926;
      let isLess = x < 0.0;
      let dy2 = select(derfValue, 0.0, isLess) - select(0.0, derfValue, isLess);
      let product = dy2 * (expValue * expValue2);
      let product2 = product * t;
      let product3 = product2 * t;
      let product4 = product3 * t;
      let product5 = product4 * t;
      let difference = -(product * y9) - product2 * y8 - product3 * y7 - product4 * y6;
      let product6 = product5 * t;
      let product7 = product6 * t;
      let product8 = product7 * t;
      let difference2 = difference - product5 * y5 - product6 * y4 - product7 * y3;
      let product9 = product8 * t;
      let dt = difference2 - product8 * y2 - product9 * y + 0.02863682061433792 * (product9 * t);
      let product10 = dy2 * (y9 * t) * expValue * expValue2;
      dx2 = 0.0;
      da = product10 * low - 0.4 * (dt * t / sum2) + product10 * sum;
    }
    dx = dx2;
    dsize = select(da, 0.0, isGreater);
  } else {
    let isGreater = size > 10.5;
    let a = select(size, 10.5, isGreater);
    let high = floor(a * 64.0) / 64.0;
    let low = a - high;
    let expValue = accurateExp(-high * high);
    let sum = a + high;
    let expValue2 = accurateExp(-low * sum);
    let sum2 = 1.0 + 0.4 * a;
    let t = 1.0 / sum2;
    let y = -0.02863682061433792 * t + 0.19282197952270508;
    let y2 = y * t - 0.48662900924682617;
    let y3 = y2 * t + 0.5312276482582092;
    let y4 = y3 * t - 0.27092409133911133;
    let y5 = y4 * t + 0.2648743987083435;
    let y6 = y5 * t + 0.13215623795986176;
    let y7 = y6 * t + 0.21439078450202942;
    let y8 = y7 * t + 0.22501526772975922;
    let y9 = y8 * t + 0.2257036715745926;
    let isLess = x < 0.0;
    let dy2 = select(dy, 0.0, isLess) - select(0.0, dy, isLess);
    let product = dy2 * (expValue * expValue2);
    let dy3 = product * t;
    let dy4 = dy3 * t;
    let dy5 = dy4 * t;
    let dy6 = dy5 * t;
    let dy7 = dy6 * t;
    let dy8 = dy7 * t;
    let sum3 = product * y9 + dy3 * y8 + dy4 * y7 + dy5 * y6 + dy6 * y5 + dy7 * y4;
    let dy9 = dy8 * t;
    let dy10 = dy9 * t;
    let dt = sum3 + dy8 * y3 + dy9 * y2 + dy10 * y - 0.02863682061433792 * (dy10 * t);
    let product2 = dy2 * (y9 * t) * expValue * expValue2;
    let da = -(0.4 * (dt * t / sum2)) - product2 * low - product2 * sum;
    dx = 0.0;
    dsize = select(da, 0.0, isGreater);
  }
  return dx + dsize * sign(x);
}
`;

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

/** The gradients of `fn expm1(x: f32) -> f32`. */
export const expm1Grad: string = /* wgsl */ `
fn expm1Grad(x: f32, dy: f32) -> f32 {
  if (abs(x) > 0.5) {
    return dy * accurateExp(x);
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

/** The gradients of `fn geglu(a: f32, b: f32) -> f32`. */
export const gegluGrad: string = /* wgsl */ `
struct GegluGrads {
  da: f32,
  db: f32,
}

fn gegluGrad(a: f32, b: f32, dy: f32) -> GegluGrads {
  let isLess = b < 0.0;
  let size = select(b, -b, isLess);
  let isGreater = size > 14.5;
  let a2 = select(size, 14.5, isGreater);
  let high = floor(a2 * 64.0) / 64.0;
  let low = a2 - high;
  let expValue = accurateExp(-0.5 * high * high);
  let sum = a2 + high;
  let expValue2 = accurateExp(-0.5 * low * sum);
  let density = expValue * expValue2;
  let sum2 = 1.0 + 0.4 * (0.7071067811865476 * a2);
  let t = 1.0 / sum2;
  let y = -0.02863682061433792 * t + 0.19282197952270508;
  let y2 = y * t - 0.48662900924682617;
  let y3 = y2 * t + 0.5312276482582092;
  let y4 = y3 * t - 0.27092409133911133;
  let y5 = y4 * t + 0.2648743987083435;
  let y6 = y5 * t + 0.13215623795986176;
  let y7 = y6 * t + 0.21439078450202942;
  let y8 = y7 * t + 0.22501526772975922;
  let y9 = y8 * t + 0.2257036715745926;
  let product = y9 * t;
  let tail = 0.5 * density * product;
  let chosen = select(1.0 - tail, tail, isLess);
  let product2 = dy * a;
  let product3 = product2 * b;
  let dtail = select(0.0, product3, isLess) - select(product3, 0.0, isLess);
  let product4 = 0.5 * (dtail * density);
  let dy2 = product4 * t;
  let dy3 = dy2 * t;
  let dy4 = dy3 * t;
  let dy5 = dy4 * t;
  let dy6 = dy5 * t;
  let sum3 = product4 * y9 + dy2 * y8 + dy3 * y7 + dy4 * y6 + dy5 * y5;
  let dy7 = dy6 * t;
  let dy8 = dy7 * t;
  let dy9 = dy8 * t;
  let dt = sum3 + dy6 * y4 + dy7 * y3 + dy8 * y2 + dy9 * y - 0.02863682061433792 * (dy9 * t);
  let product5 = 0.5 * (dtail * product) * expValue * expValue2;
  let difference = -(0.7071067811865476 * (0.4 * (dt * t / sum2))) - 0.5 * (product5 * low);
  let da = difference - 0.5 * (product5 * sum);
  let dsize = select(da, 0.0, isGreater);
  let difference2 = product2 * chosen + select(dsize, 0.0, isLess) - select(0.0, dsize, isLess);
  return GegluGrads(dy * (b * chosen), difference2);
}
`;

/** The gradients of `fn gelu(x: f32) -> f32`. */
export const geluGrad: string = /* wgsl */ `
fn geluGrad(x: f32, dy: f32) -> f32 {
  let isLess = x < 0.0;
  let size = select(x, -x, isLess);
  let isGreater = size > 14.5;
  let a = select(size, 14.5, isGreater);
  let high = floor(a * 64.0) / 64.0;
  let low = a - high;
  let expValue = accurateExp(-0.5 * high * high);
  let sum = a + high;
  let expValue2 = accurateExp(-0.5 * low * sum);
  let density = expValue * expValue2;
  let sum2 = 1.0 + 0.4 * (0.7071067811865476 * a);
  let t = 1.0 / sum2;
  let y = -0.02863682061433792 * t + 0.19282197952270508;
  let y2 = y * t - 0.48662900924682617;
  let y3 = y2 * t + 0.5312276482582092;
  let y4 = y3 * t - 0.27092409133911133;
  let y5 = y4 * t + 0.2648743987083435;
  let y6 = y5 * t + 0.13215623795986176;
  let y7 = y6 * t + 0.21439078450202942;
  let y8 = y7 * t + 0.22501526772975922;
  let y9 = y8 * t + 0.2257036715745926;
  let product = y9 * t;
  let tail = 0.5 * density * product;
  let product2 = dy * x;
  let dtail = select(0.0, product2, isLess) - select(product2, 0.0, isLess);
  let product3 = 0.5 * (dtail * density);
  let dy2 = product3 * t;
  let dy3 = dy2 * t;
  let dy4 = dy3 * t;
  let dy5 = dy4 * t;
  let dy6 = dy5 * t;
  let sum3 = product3 * y9 + dy2 * y8 + dy3 * y7 + dy4 * y6 + dy5 * y5;
  let dy7 = dy6 * t;
  let dy8 = dy7 * t;
  let dy9 = dy8 * t;
  let dt = sum3 + dy6 * y4 + dy7 * y3 + dy8 * y2 + dy9 * y - 0.02863682061433792 * (dy9 * t);
  let product4 = 0.5 * (dtail * product) * expValue * expValue2;
  let difference = -(0.7071067811865476 * (0.4 * (dt * t / sum2))) - 0.5 * (product4 * low);
  let da = difference - 0.5 * (product4 * sum);
  let dsize = select(da, 0.0, isGreater);
  let sum4 = dy * select(1.0 - tail, tail, isLess) + select(dsize, 0.0, isLess);
  return sum4 - select(0.0, dsize, isLess);
}
`;

/** The gradients of `fn geluTanh(x: f32) -> f32`. */
export const geluTanhGrad: string = /* wgsl */ `
fn geluTanhGrad(x: f32, dy: f32) -> f32 {
  let isGreater = x > 15.0;
  let isLess = x < -15.0;
  let a = select(select(x, 15.0, isGreater), -15.0, isLess);
  let sum = 1.5957691216057308 + 0.07135481282553248 * a * a;
  let product = a * sum;
  let isLess2 = product < 0.0;
  let e = accurateExp(select(-product, product, isLess2));
  let sum2 = 1.0 + e;
  let ratio = select(1.0, e, isLess2) / sum2;
  let product2 = dy * x;
  let de = select(0.0, product2 / sum2, isLess2) - product2 * ratio / sum2;
  let product3 = de * e;
  let difference = select(0.0, product3, isLess2) - select(product3, 0.0, isLess2);
  let product4 = 0.07135481282553248 * (difference * a * a);
  let da = difference * sum + product4 + product4;
  return dy * ratio + select(select(da, 0.0, isLess), 0.0, isGreater);
}
`;

/** The gradients of `fn glu(a: f32, b: f32) -> f32`. */
export const gluGrad: string = /* wgsl */ `
struct GluGrads {
  da: f32,
  db: f32,
}

fn gluGrad(a: f32, b: f32, dy: f32) -> GluGrads {
  let isLess = b < 0.0;
  let e = accurateExp(select(-b, b, isLess));
  let sum = 1.0 + e;
  let ratio = select(1.0, e, isLess) / sum;
  let product = dy * a;
  let de = select(0.0, product / sum, isLess) - product * ratio / sum;
  let product2 = de * e;
  let difference = select(0.0, product2, isLess) - select(product2, 0.0, isLess);
  return GluGrads(dy * ratio, difference);
}
`;

/** The gradient of `fn hardshrink(x: f32, lambd: f32) -> f32` by x. */
export const hardshrinkGrad: string = /* wgsl */ `
fn hardshrinkGrad(x: f32, lambd: f32, dy: f32) -> f32 {
  return select(dy, 0.0, x >= -lambd && x <= lambd);
}
`;

/** The gradients of `fn hardsigmoid(x: f32) -> f32`. */
export const hardsigmoidGrad: string = /* wgsl */ `
fn hardsigmoidGrad(x: f32, dy: f32) -> f32 {
  return select(select(dy, 0.0, x >= 3.0), 0.0, x <= -3.0) / 6.0;
}
`;

/** The gradients of `fn hardswish(x: f32) -> f32`. */
export const hardswishGrad: string = /* wgsl */ `
fn hardswishGrad(x: f32, dy: f32) -> f32 {
  if (x <= -3.0) {
    return 0.0;
  }
  if (x < 3.0) {
    return dy * (x / 6.0 + 0.5) + dy * x / 6.0;
  }
  return dy;
}
`;

/** The gradient of `fn hardtanh(x: f32, minVal: f32, maxVal: f32) -> f32` by x. */
export const hardtanhGrad: string = /* wgsl */ `
fn hardtanhGrad(x: f32, minVal: f32, maxVal: f32, dy: f32) -> f32 {
  return select(select(dy, 0.0, x >= maxVal), 0.0, x <= minVal);
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

/** The gradient of `fn leakyRelu(x: f32, negativeSlope: f32) -> f32` by x. */
export const leakyReluGrad: string = /* wgsl */ `
fn leakyReluGrad(x: f32, negativeSlope: f32, dy: f32) -> f32 {
  let isGreater = x > 0.0;
  return select(0.0, dy, isGreater) + select(dy, 0.0, isGreater) * negativeSlope;
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

/** The gradients of `fn logAddExp(a: f32, b: f32) -> f32`. */
export const logAddExpGrad: string = /* wgsl */ `
struct LogAddExpGrads {
  da: f32,
  db: f32,
}

fn logAddExpGrad(a: f32, b: f32, dy: f32) -> LogAddExpGrads {
  let difference = a - b;
  let isEqual = a == b;
  let apart = select(abs(difference), 0.0, isEqual);
  let expValue = accurateExp(-apart);
  var value: f32;
  if (abs(expValue) > 0.4) {
    value = dy / (1.0 + expValue);
  } else {
    let sum = 2.0 + expValue;
    let s = expValue / sum;
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
    value = ds / sum - ds * s / sum;
  }
  let product = 0.5 * dy;
  let product2 = select(-(value * expValue), 0.0, isEqual) * sign(difference);
  let sum = select(select(0.0, product, a == b), dy, a > b) + product2;
  let difference2 = select(select(0.0, product, b == a), dy, b > a) - product2;
  return LogAddExpGrads(sum, difference2);
}
`;

/** The gradients of `fn logSigmoid(x: f32) -> f32`. */
export const logSigmoidGrad: string = /* wgsl */ `
fn logSigmoidGrad(x: f32, dy: f32) -> f32 {
  let negated = -x;
  let isLess = negated < 0.0;
  let expValue = accurateExp(select(-negated, negated, isLess));
  let negated2 = -dy;
  let chosen = select(negated2, 0.0, isLess);
  let dlog1pValue = select(0.0, negated2, isLess) + chosen;
  var value: f32;
  if (abs(expValue) > 0.4) {
    value = dlog1pValue / (1.0 + expValue);
  } else {
    let sum = 2.0 + expValue;
    let s = expValue / sum;
    let q = s * s;
    let sum2 = 1.0 / 11.0 + q / 13.0;
    let sum3 = 1.0 / 9.0 + q * sum2;
    let sum4 = 1.0 / 7.0 + q * sum3;
    let sum5 = 1.0 / 5.0 + q * sum4;
    let series = 1.0 / 3.0 + q * sum5;
    let product = 2.0 * dlog1pValue;
    let product2 = product * series;
    let dseries = product * (s * q);
    let product3 = dseries * q;
    let product4 = product3 * q;
    let sum6 = product2 * s + dseries * sum5 + product3 * sum4 + product4 * sum3;
    let product5 = product4 * q;
    let dq = sum6 + product5 * sum2 + product5 * q / 13.0;
    let product6 = dq * s;
    let ds = product + product2 * q + product6 + product6;
    value = ds / sum - ds * s / sum;
  }
  let product = value * expValue;
  let difference = chosen + select(0.0, product, isLess) - select(product, 0.0, isLess);
  return -difference;
}
`;

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

/** The gradients of `fn logSumExp(x: f32) -> f32`. */
export const logSumExpGrad: string = /* wgsl */ `
fn logSumExpGrad(x: f32, dy: f32) -> f32 {
  let most = rowMax(x);
  let isEqual = (bitcast<u32>(most) & 2147483647u) == 2139095040u;
  let shift = select(most, 0.0, isEqual);
  let expValue = exp(x - shift);
  let product = rowSum(dy / rowSum(expValue)) * expValue;
  let dmost = select(dy - product, 0.0, isEqual);
  let isMax = select(0.0, 1.0, x == most);
  return product + rowSum(dmost) * isMax / rowSum(isMax);
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
  if (abs(x) > 104.0) {
    return select(0.0, dy, x > 0.0);
  }
  let isLess = x < 0.0;
  let expValue = accurateExp(select(-x, x, isLess));
  let isGreater = abs(expValue) > 0.4;
  var log1pValue: f32;
  if (isGreater) {
    log1pValue = log(1.0 + expValue);
  } else {
    let s = expValue / (2.0 + expValue);
    let q = s * s;
    let sum = 1.0 / 7.0 + q * (1.0 / 9.0 + q * (1.0 / 11.0 + q / 13.0));
    let series = 1.0 / 3.0 + q * (1.0 / 5.0 + q * sum);
    log1pValue = 2.0 * (s + s * q * series);
  }
  let chosen = select(x + log1pValue, log1pValue, isLess);
  let isLess2 = chosen < 0.0;
  let size = select(chosen, -chosen, isLess2);
  let isGreater2 = size > 15.0;
  let chosen2 = select(size, 15.0, isGreater2);
  let product = -2.0 * chosen2;
  let isGreater3 = abs(product) > 0.5;
  var expm1Value: f32;
  if (isGreater3) {
    expm1Value = accurateExp(product) - 1.0;
  } else {
    let sum = 1.0 / 720.0 + product * (1.0 / 5040.0 + product / 40320.0);
    let product2 = product * (1.0 / 24.0 + product * (1.0 / 120.0 + product * sum));
    let series = 1.0 / 6.0 + product2;
    expm1Value = product + product * product * (0.5 + product * series);
  }
  let sum = 2.0 + expm1Value;
  let t = expm1Value / sum;
  let product2 = dy * x;
  let dt = select(0.0, product2, isLess2) - select(product2, 0.0, isLess2);
  let dexpm1Value = dt / sum - dt * t / sum;
  var value: f32;
  if (isGreater3) {
    value = dexpm1Value * accurateExp(product);
  } else {
    let sum2 = 1.0 / 5040.0 + product / 40320.0;
    let sum3 = 1.0 / 720.0 + product * sum2;
    let sum4 = 1.0 / 120.0 + product * sum3;
    let sum5 = 1.0 / 24.0 + product * sum4;
    let series = 1.0 / 6.0 + product * sum5;
    let product3 = dexpm1Value * (product * product);
    let dseries = -2.0 * (product3 * chosen2);
    let product4 = 2.0 * (dexpm1Value * (0.5 + product * series) * chosen2);
    let sum6 = dexpm1Value + product3 * series - product4 - product4 + dseries * sum5;
    let product5 = -2.0 * (dseries * chosen2);
    let product6 = -2.0 * (product5 * chosen2);
    let product7 = -2.0 * (product6 * chosen2);
    let sum7 = sum6 + product5 * sum4 + product6 * sum3 + product7 * sum2;
    value = sum7 + -2.0 * (product7 * chosen2) / 40320.0;
  }
  let dsize = select(-2.0 * value, 0.0, isGreater2);
  let difference = select(dsize, 0.0, isLess2) - select(0.0, dsize, isLess2);
  let chosen3 = select(difference, 0.0, isLess);
  let dlog1pValue = select(0.0, difference, isLess) + chosen3;
  var value2: f32;
  if (isGreater) {
    value2 = dlog1pValue / (1.0 + expValue);
  } else {
    let sum2 = 2.0 + expValue;
    let s = expValue / sum2;
    let q = s * s;
    let sum3 = 1.0 / 11.0 + q / 13.0;
    let sum4 = 1.0 / 9.0 + q * sum3;
    let sum5 = 1.0 / 7.0 + q * sum4;
    let sum6 = 1.0 / 5.0 + q * sum5;
    let series = 1.0 / 3.0 + q * sum6;
    let product3 = 2.0 * dlog1pValue;
    let product4 = product3 * series;
    let dseries = product3 * (s * q);
    let product5 = dseries * q;
    let product6 = product5 * q;
    let sum7 = product4 * s + dseries * sum6 + product5 * sum5 + product6 * sum4;
    let product7 = product6 * q;
    let dq = sum7 + product7 * sum3 + product7 * q / 13.0;
    let product8 = dq * s;
    let ds = product3 + product4 * q + product8 + product8;
    value2 = ds / sum2 - ds * s / sum2;
  }
  let product3 = value2 * expValue;
  let sum2 = dy * select(-t, t, isLess2) + chosen3 + select(0.0, product3, isLess);
  return sum2 - select(product3, 0.0, isLess);
}
`;

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

/** The gradients of `fn normalCdf(x: f32) -> f32`. */
export const normalCdfGrad: string = /* wgsl */ `
fn normalCdfGrad(x: f32, dy: f32) -> f32 {
  let isLess = x < 0.0;
  let size = select(x, -x, isLess);
  let isGreater = size > 14.5;
  let a = select(size, 14.5, isGreater);
  let high = floor(a * 64.0) / 64.0;
  let low = a - high;
  let expValue = accurateExp(-0.5 * high * high);
  let sum = a + high;
  let expValue2 = accurateExp(-0.5 * low * sum);
  let density = expValue * expValue2;
  let sum2 = 1.0 + 0.4 * (0.7071067811865476 * a);
  let t = 1.0 / sum2;
  let y = -0.02863682061433792 * t + 0.19282197952270508;
  let y2 = y * t - 0.48662900924682617;
  let y3 = y2 * t + 0.5312276482582092;
  let y4 = y3 * t - 0.27092409133911133;
  let y5 = y4 * t + 0.2648743987083435;
  let y6 = y5 * t + 0.13215623795986176;
  let y7 = y6 * t + 0.21439078450202942;
  let y8 = y7 * t + 0.22501526772975922;
  let y9 = y8 * t + 0.2257036715745926;
  let dtail = select(0.0, dy, isLess) - select(dy, 0.0, isLess);
  let product = 0.5 * (dtail * density);
  let dy2 = product * t;
  let dy3 = dy2 * t;
  let dy4 = dy3 * t;
  let dy5 = dy4 * t;
  let dy6 = dy5 * t;
  let dy7 = dy6 * t;
  let sum3 = product * y9 + dy2 * y8 + dy3 * y7 + dy4 * y6 + dy5 * y5 + dy6 * y4;
  let dy8 = dy7 * t;
  let dy9 = dy8 * t;
  let dt = sum3 + dy7 * y3 + dy8 * y2 + dy9 * y - 0.02863682061433792 * (dy9 * t);
  let product2 = 0.5 * (dtail * (y9 * t)) * expValue * expValue2;
  let difference = -(0.7071067811865476 * (0.4 * (dt * t / sum2))) - 0.5 * (product2 * low);
  let da = difference - 0.5 * (product2 * sum);
  let dsize = select(da, 0.0, isGreater);
  return select(dsize, 0.0, isLess) - select(0.0, dsize, isLess);
}
`;

/** The gradients of `fn prelu(x: f32, weight: f32) -> f32`. */
export const preluGrad: string = /* wgsl */ `
struct PreluGrads {
  dx: f32,
  dweight: f32,
}

fn preluGrad(x: f32, weight: f32, dy: f32) -> PreluGrads {
  let isGreater = x > 0.0;
  let chosen = select(dy, 0.0, isGreater);
  return PreluGrads(select(0.0, dy, isGreater) + chosen * weight, chosen * x);
}
`;

/** The gradients of `fn reglu(a: f32, b: f32) -> f32`. */
export const regluGrad: string = /* wgsl */ `
struct RegluGrads {
  da: f32,
  db: f32,
}

fn regluGrad(a: f32, b: f32, dy: f32) -> RegluGrads {
  let isAtMost = b <= 0.0;
  return RegluGrads(dy * select(b, 0.0, isAtMost), select(dy * a, 0.0, isAtMost));
}
`;

/** The gradients of `fn relu(x: f32) -> f32`. */
export const reluGrad: string = /* wgsl */ `
fn reluGrad(x: f32, dy: f32) -> f32 {
  return select(dy, 0.0, x <= 0.0);
}
`;

/** The gradients of `fn relu6(x: f32) -> f32`. */
export const relu6Grad: string = /* wgsl */ `
fn relu6Grad(x: f32, dy: f32) -> f32 {
  return select(select(dy, 0.0, x >= 6.0), 0.0, x <= 0.0);
}
`;

/** The gradients of `fn selu(x: f32) -> f32`. */
export const seluGrad: string = /* wgsl */ `
fn seluGrad(x: f32, dy: f32) -> f32 {
  if (x > 0.0) {
    return 1.0507009873554805 * dy;
  }
  let dexpm1Value = 1.7580993408473768 * dy;
  if (abs(x) > 0.5) {
    return dexpm1Value * accurateExp(x);
  }
  let sum = 1.0 / 5040.0 + x / 40320.0;
  let sum2 = 1.0 / 720.0 + x * sum;
  let sum3 = 1.0 / 120.0 + x * sum2;
  let sum4 = 1.0 / 24.0 + x * sum3;
  let series = 1.0 / 6.0 + x * sum4;
  let product = dexpm1Value * (x * x);
  let dseries = product * x;
  let product2 = dexpm1Value * (0.5 + x * series) * x;
  let sum5 = dexpm1Value + product * series + product2 + product2 + dseries * sum4;
  let product3 = dseries * x;
  let product4 = product3 * x;
  let product5 = product4 * x;
  let sum6 = sum5 + product3 * sum3 + product4 * sum2 + product5 * sum;
  return sum6 + product5 * x / 40320.0;
}
`;

/** The gradients of `fn sigmoid(x: f32) -> f32`. */
export const sigmoidGrad: string = /* wgsl */ `
fn sigmoidGrad(x: f32, dy: f32) -> f32 {
  let isLess = x < 0.0;
  let e = accurateExp(select(-x, x, isLess));
  let sum = 1.0 + e;
  let de = select(0.0, dy / sum, isLess) - dy * (select(1.0, e, isLess) / sum) / sum;
  let product = de * e;
  return select(0.0, product, isLess) - select(product, 0.0, isLess);
}
`;

/** The gradients of `fn silu(x: f32) -> f32`. */
export const siluGrad: string = /* wgsl */ `
fn siluGrad(x: f32, dy: f32) -> f32 {
  if (abs(x) > 104.0) {
    return select(0.0, dy, x > 0.0);
  }
  let isLess = x < 0.0;
  let e = accurateExp(select(-x, x, isLess));
  let sum = 1.0 + e;
  let ratio = select(1.0, e, isLess) / sum;
  let product = dy * x;
  let de = select(0.0, product / sum, isLess) - product * ratio / sum;
  let product2 = de * e;
  return dy * ratio + select(0.0, product2, isLess) - select(product2, 0.0, isLess);
}
`;

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

/** The gradient of `fn softcap(x: f32, cap: f32) -> f32` by x. */
export const softcapGrad: string = /* wgsl */ `
fn softcapGrad(x: f32, cap: f32, dy: f32) -> f32 {
  let ratio = x / cap;
  let isLess = ratio < 0.0;
  let size = select(ratio, -ratio, isLess);
  let isGreater = size > 15.0;
  let chosen = select(size, 15.0, isGreater);
  let product = -2.0 * chosen;
  let isGreater2 = abs(product) > 0.5;
  var expm1Value: f32;
  if (isGreater2) {
    expm1Value = accurateExp(product) - 1.0;
  } else {
    let sum = 1.0 / 720.0 + product * (1.0 / 5040.0 + product / 40320.0);
    let product2 = product * (1.0 / 24.0 + product * (1.0 / 120.0 + product * sum));
    let series = 1.0 / 6.0 + product2;
    expm1Value = product + product * product * (0.5 + product * series);
  }
  let sum = 2.0 + expm1Value;
  let t = expm1Value / sum;
  let product2 = dy * cap;
  let dt = select(0.0, product2, isLess) - select(product2, 0.0, isLess);
  let dexpm1Value = dt / sum - dt * t / sum;
  var value: f32;
  if (isGreater2) {
    value = dexpm1Value * accurateExp(product);
  } else {
    let sum2 = 1.0 / 5040.0 + product / 40320.0;
    let sum3 = 1.0 / 720.0 + product * sum2;
    let sum4 = 1.0 / 120.0 + product * sum3;
    let sum5 = 1.0 / 24.0 + product * sum4;
    let series = 1.0 / 6.0 + product * sum5;
    let product3 = dexpm1Value * (product * product);
    let dseries = -2.0 * (product3 * chosen);
    let product4 = 2.0 * (dexpm1Value * (0.5 + product * series) * chosen);
    let sum6 = dexpm1Value + product3 * series - product4 - product4 + dseries * sum5;
    let product5 = -2.0 * (dseries * chosen);
    let product6 = -2.0 * (product5 * chosen);
    let product7 = -2.0 * (product6 * chosen);
    let sum7 = sum6 + product5 * sum4 + product6 * sum3 + product7 * sum2;
    value = sum7 + -2.0 * (product7 * chosen) / 40320.0;
  }
  let dsize = select(-2.0 * value, 0.0, isGreater);
  return (select(dsize, 0.0, isLess) - select(0.0, dsize, isLess)) / cap;
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

/** The gradients of `fn softmin(x: f32) -> f32`. */
export const softminGrad: string = /* wgsl */ `
fn softminGrad(x: f32, dy: f32) -> f32 {
  let negated = -x;
  let rowMaxNegated = rowMax(negated);
  let e = exp(negated - rowMaxNegated);
  let rowSumE = rowSum(e);
  let de = dy / rowSumE - rowSum(dy * (e / rowSumE) / rowSumE);
  let product = de * e;
  let isMax = select(0.0, 1.0, negated == rowMaxNegated);
  return -(product - rowSum(product) * isMax / rowSum(isMax));
}
`;

/** The gradient of `fn softplus(x: f32, beta: f32, threshold: f32) -> f32` by x. */
export const softplusGrad: string = /* wgsl */ `
fn softplusGrad(x: f32, beta: f32, threshold: f32, dy: f32) -> f32 {
  let product = beta * x;
  var dx = dy;
  var value = 0.0;
  if (!(product > threshold)) {
    let isLess = product < 0.0;
    let expValue = accurateExp(select(-product, product, isLess));
    let ratio = dy / beta;
    let chosen = select(ratio, 0.0, isLess);
    let dlog1pValue = select(0.0, ratio, isLess) + chosen;
    var value2: f32;
    if (abs(expValue) > 0.4) {
      value2 = dlog1pValue / (1.0 + expValue);
    } else {
      let sum = 2.0 + expValue;
      let s = expValue / sum;
      let q = s * s;
      let sum2 = 1.0 / 11.0 + q / 13.0;
      let sum3 = 1.0 / 9.0 + q * sum2;
      let sum4 = 1.0 / 7.0 + q * sum3;
      let sum5 = 1.0 / 5.0 + q * sum4;
      let series = 1.0 / 3.0 + q * sum5;
      let product2 = 2.0 * dlog1pValue;
      let product3 = product2 * series;
      let dseries = product2 * (s * q);
      let product4 = dseries * q;
      let product5 = product4 * q;
      let sum6 = product3 * s + dseries * sum5 + product4 * sum4 + product5 * sum3;
      let product6 = product5 * q;
      let dq = sum6 + product6 * sum2 + product6 * q / 13.0;
      let product7 = dq * s;
      let ds = product2 + product3 * q + product7 + product7;
      value2 = ds / sum - ds * s / sum;
    }
    let product2 = value2 * expValue;
    dx = 0.0;
    value = chosen + select(0.0, product2, isLess) - select(product2, 0.0, isLess);
  }
  return dx + value * beta;
}
`;

/** The gradient of `fn softshrink(x: f32, lambd: f32) -> f32` by x. */
export const softshrinkGrad: string = /* wgsl */ `
fn softshrinkGrad(x: f32, lambd: f32, dy: f32) -> f32 {
  let isGreater = x > lambd;
  return select(0.0, dy, isGreater) + select(select(dy, 0.0, isGreater), 0.0, x >= -lambd);
}
`;

/** The gradients of `fn softsign(x: f32) -> f32`. */
export const softsignGrad: string = /* wgsl */ `
fn softsignGrad(x: f32, dy: f32) -> f32 {
  let absX = abs(x);
  var dx: f32;
  var value: f32;
  if (absX < 1.0) {
    let sum = 1.0 + absX;
    dx = dy / sum;
    value = -(dy * (x / sum) / sum);
  } else {
    let sum = 1.0 + absX;
    let isLess = x < 0.0;
    let dy2 = select(dy, 0.0, isLess) - select(0.0, dy, isLess);
    dx = 0.0;
    value = dy2 * (1.0 / sum) / sum;
  }
  return dx + value * sign(x);
}
`;

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

/** The gradients of `fn squaredRelu(x: f32) -> f32`. */
export const squaredReluGrad: string = /* wgsl */ `
fn squaredReluGrad(x: f32, dy: f32) -> f32 {
  let isAtMost = x <= 0.0;
  let positive = select(x, 0.0, isAtMost);
  return select(2.0 * (dy * positive), 0.0, isAtMost);
}
`;

/** The gradients of `fn stableSoftplus(x: f32) -> f32`. */
export const stableSoftplusGrad: string = /* wgsl */ `
fn stableSoftplusGrad(x: f32, dy: f32) -> f32 {
  let isLess = x < 0.0;
  let expValue = accurateExp(select(-x, x, isLess));
  let chosen = select(dy, 0.0, isLess);
  let dlog1pValue = select(0.0, dy, isLess) + chosen;
  var value: f32;
  if (abs(expValue) > 0.4) {
    value = dlog1pValue / (1.0 + expValue);
  } else {
    let sum = 2.0 + expValue;
    let s = expValue / sum;
    let q = s * s;
    let sum2 = 1.0 / 11.0 + q / 13.0;
    let sum3 = 1.0 / 9.0 + q * sum2;
    let sum4 = 1.0 / 7.0 + q * sum3;
    let sum5 = 1.0 / 5.0 + q * sum4;
    let series = 1.0 / 3.0 + q * sum5;
    let product = 2.0 * dlog1pValue;
    let product2 = product * series;
    let dseries = product * (s * q);
    let product3 = dseries * q;
    let product4 = product3 * q;
    let sum6 = product2 * s + dseries * sum5 + product3 * sum4 + product4 * sum3;
    let product5 = product4 * q;
    let dq = sum6 + product5 * sum2 + product5 * q / 13.0;
    let product6 = dq * s;
    let ds = product + product2 * q + product6 + product6;
    value = ds / sum - ds * s / sum;
  }
  let product = value * expValue;
  return chosen + select(0.0, product, isLess) - select(product, 0.0, isLess);
}
`;

/** The gradients of `fn stableTanh(x: f32) -> f32`. */
export const stableTanhGrad: string = /* wgsl */ `
fn stableTanhGrad(x: f32, dy: f32) -> f32 {
  let isLess = x < 0.0;
  let size = select(x, -x, isLess);
  let isGreater = size > 15.0;
  let chosen = select(size, 15.0, isGreater);
  let product = -2.0 * chosen;
  let isGreater2 = abs(product) > 0.5;
  var expm1Value: f32;
  if (isGreater2) {
    expm1Value = accurateExp(product) - 1.0;
  } else {
    let sum = 1.0 / 720.0 + product * (1.0 / 5040.0 + product / 40320.0);
    let product2 = product * (1.0 / 24.0 + product * (1.0 / 120.0 + product * sum));
    let series = 1.0 / 6.0 + product2;
    expm1Value = product + product * product * (0.5 + product * series);
  }
  let sum = 2.0 + expm1Value;
  let t = expm1Value / sum;
  let dt = select(0.0, dy, isLess) - select(dy, 0.0, isLess);
  let dexpm1Value = dt / sum - dt * t / sum;
  var value: f32;
  if (isGreater2) {
    value = dexpm1Value * accurateExp(product);
  } else {
    let sum2 = 1.0 / 5040.0 + product / 40320.0;
    let sum3 = 1.0 / 720.0 + product * sum2;
    let sum4 = 1.0 / 120.0 + product * sum3;
    let sum5 = 1.0 / 24.0 + product * sum4;
    let series = 1.0 / 6.0 + product * sum5;
    let product2 = dexpm1Value * (product * product);
    let dseries = -2.0 * (product2 * chosen);
    let product3 = 2.0 * (dexpm1Value * (0.5 + product * series) * chosen);
    let sum6 = dexpm1Value + product2 * series - product3 - product3 + dseries * sum5;
    let product4 = -2.0 * (dseries * chosen);
    let product5 = -2.0 * (product4 * chosen);
    let product6 = -2.0 * (product5 * chosen);
    let sum7 = sum6 + product4 * sum4 + product5 * sum3 + product6 * sum2;
    value = sum7 + -2.0 * (product6 * chosen) / 40320.0;
  }
  let dsize = select(-2.0 * value, 0.0, isGreater);
  return select(dsize, 0.0, isLess) - select(0.0, dsize, isLess);
}
`;

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
  let isGreater = abs(b) > 104.0;
  var siluValue: f32;
  if (isGreater) {
    siluValue = select(0.0, b, b > 0.0);
  } else {
    let isLess = b < 0.0;
    let e = accurateExp(select(-b, b, isLess));
    siluValue = b * (select(1.0, e, isLess) / (1.0 + e));
  }
  let dsiluValue = dy * a;
  var db: f32;
  if (isGreater) {
    db = select(0.0, dsiluValue, b > 0.0);
  } else {
    let isLess = b < 0.0;
    let e = accurateExp(select(-b, b, isLess));
    let sum = 1.0 + e;
    let ratio = select(1.0, e, isLess) / sum;
    let product = dsiluValue * b;
    let de = select(0.0, product / sum, isLess) - product * ratio / sum;
    let product2 = de * e;
    db = dsiluValue * ratio + select(0.0, product2, isLess) - select(product2, 0.0, isLess);
  }
  return SwigluGrads(dy * siluValue, db);
}
`;

/** The gradients of `fn tanhshrink(x: f32) -> f32`. */
export const tanhshrinkGrad: string = /* wgsl */ `
fn tanhshrinkGrad(x: f32, dy: f32) -> f32 {
  if (abs(x) < 1.2) {
    let s = x * x;
    let y = 2.684553874132689e-5 * s - 0.00024016488168854266;
    let y2 = y * s + 0.001062082825228572;
    let y3 = y2 * s - 0.0033040083944797516;
    let y4 = y3 * s + 0.00873209722340107;
    let y5 = y4 * s - 0.02183481492102146;
    let y6 = y5 * s + 0.0539635568857193;
    let y7 = y6 * s - 0.13333308696746826;
    let y8 = y7 * s + 0.3333333432674408;
    let product = dy * y8;
    let dy2 = dy * (x * s);
    let dy3 = dy2 * s;
    let dy4 = dy3 * s;
    let dy5 = dy4 * s;
    let dy6 = dy5 * s;
    let dy7 = dy6 * s;
    let sum = product * x + dy2 * y7 + dy3 * y6 + dy4 * y5 + dy5 * y4 + dy6 * y3;
    let dy8 = dy7 * s;
    let ds = sum + dy7 * y2 + dy8 * y + 2.684553874132689e-5 * (dy8 * s);
    let product2 = ds * x;
    return product * s + product2 + product2;
  }
  let isLess = x < 0.0;
  let size = select(x, -x, isLess);
  let isGreater = size > 15.0;
  let chosen = select(size, 15.0, isGreater);
  let product = -2.0 * chosen;
  let isGreater2 = abs(product) > 0.5;
  var expm1Value: f32;
  if (isGreater2) {
    expm1Value = accurateExp(product) - 1.0;
  } else {
    let sum = 1.0 / 720.0 + product * (1.0 / 5040.0 + product / 40320.0);
    let product2 = product * (1.0 / 24.0 + product * (1.0 / 120.0 + product * sum));
    let series = 1.0 / 6.0 + product2;
    expm1Value = product + product * product * (0.5 + product * series);
  }
  let sum = 2.0 + expm1Value;
  let t = expm1Value / sum;
  let negated = -dy;
  let dt = select(0.0, negated, isLess) - select(negated, 0.0, isLess);
  let dexpm1Value = dt / sum - dt * t / sum;
  var value: f32;
  if (isGreater2) {
    value = dexpm1Value * accurateExp(product);
  } else {
    let sum2 = 1.0 / 5040.0 + product / 40320.0;
    let sum3 = 1.0 / 720.0 + product * sum2;
    let sum4 = 1.0 / 120.0 + product * sum3;
    let sum5 = 1.0 / 24.0 + product * sum4;
    let series = 1.0 / 6.0 + product * sum5;
    let product2 = dexpm1Value * (product * product);
    let dseries = -2.0 * (product2 * chosen);
    let product3 = 2.0 * (dexpm1Value * (0.5 + product * series) * chosen);
    let sum6 = dexpm1Value + product2 * series - product3 - product3 + dseries * sum5;
    let product4 = -2.0 * (dseries * chosen);
    let product5 = -2.0 * (product4 * chosen);
    let product6 = -2.0 * (product5 * chosen);
    let sum7 = sum6 + product4 * sum4 + product5 * sum3 + product6 * sum2;
    value = sum7 + -2.0 * (product6 * chosen) / 40320.0;
  }
  let dsize = select(-2.0 * value, 0.0, isGreater);
  return dy + select(dsize, 0.0, isLess) - select(0.0, dsize, isLess);
}
`;

/** The gradient of `fn threshold(x: f32, limit: f32, value: f32) -> f32` by x. */
export const thresholdGrad: string = /* wgsl */ `
fn thresholdGrad(x: f32, limit: f32, value: f32, dy: f32) -> f32 {
  return select(dy, 0.0, x <= limit);
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
