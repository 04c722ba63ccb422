/** Activations in float64, with their derivatives: the specification and the test oracle. */

export interface Reference {
  readonly f: (x: number) => number;
  readonly derivative: (x: number) => number;
}

/** The complementary error function: its series near 0, its continued fraction further out. */
function erfc(z: number): number {
  if (z < 0) return 2 - erfc(-z);
  if (z < 2) {
    let term = z;
    let sum = z;
    for (let n = 1; n < 60; n++) {
      term *= -(z * z) / n;
      sum += term / (2 * n + 1);
    }
    return 1 - (2 / Math.sqrt(Math.PI)) * sum;
  }
  let tail = 0;
  for (let n = 120; n > 0; n--) tail = n / 2 / (z + tail);
  return Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + tail);
}

const normal = (x: number): number => erfc(-x / Math.SQRT2) / 2;
const density = (x: number): number => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const sigmoid = (x: number): number => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));
const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const sech2 = (x: number): number => (Math.abs(x) > 300 ? 0 : 1 / Math.cosh(x) ** 2);
/** x · d, where d vanishes faster than x grows. */
const times = (x: number, d: number): number => (d === 0 ? 0 : x * d);

const tanhGelu = (x: number): { gate: number; slope: number } => {
  const a = Math.max(-100, Math.min(100, x));
  const u = Math.sqrt(2 / Math.PI) * (a + 0.044715 * a ** 3);
  return { gate: sigmoid(2 * u), slope: (sech2(u) / 2) * Math.sqrt(2 / Math.PI) * (1 + 3 * 0.044715 * a ** 2) };
};

const relu: Reference = { f: (x) => Math.max(x, 0), derivative: (x) => Number(x > 0) };

const squaredRelu: Reference = { f: (x) => Math.max(x, 0) ** 2, derivative: (x) => 2 * Math.max(x, 0) };

const leakyRelu = ({ negativeSlope = 0.01 } = {}): Reference => ({
  f: (x) => (x > 0 ? x : negativeSlope * x),
  derivative: (x) => (x > 0 ? 1 : negativeSlope),
});

const hardtanh = ({ minVal = -1, maxVal = 1 } = {}): Reference => ({
  f: (x) => Math.min(Math.max(x, minVal), maxVal),
  derivative: (x) => Number(x > minVal && x < maxVal),
});

const relu6: Reference = hardtanh({ minVal: 0, maxVal: 6 });

const elu = ({ alpha = 1 } = {}): Reference => ({
  f: (x) => (x > 0 ? x : alpha * Math.expm1(x)),
  derivative: (x) => (x > 0 ? 1 : alpha * Math.exp(x)),
});

const celu = ({ alpha = 1 } = {}): Reference => ({
  f: (x) => (x > 0 ? x : alpha * Math.expm1(x / alpha)),
  derivative: (x) => (x > 0 ? 1 : Math.exp(x / alpha)),
});

const [SCALE, ALPHA] = [1.0507009873554805, 1.6732632423543772];

const selu: Reference = {
  f: (x) => SCALE * (x > 0 ? x : ALPHA * Math.expm1(x)),
  derivative: (x) => SCALE * (x > 0 ? 1 : ALPHA * Math.exp(x)),
};

const gelu: Reference = {
  f: (x) => times(x, normal(x)),
  derivative: (x) => normal(x) + times(x, density(x)),
};

const geluTanh: Reference = {
  f: (x) => times(x, tanhGelu(x).gate),
  derivative: (x) => tanhGelu(x).gate + times(x, tanhGelu(x).slope),
};

const silu: Reference = {
  f: (x) => times(x, sigmoid(x)),
  derivative: (x) => sigmoid(x) + times(x, sigmoid(x) * sigmoid(-x)),
};

const mish: Reference = {
  f: (x) => times(x, Math.tanh(softplus(x))),
  derivative: (x) => Math.tanh(softplus(x)) + times(x, sech2(softplus(x)) * sigmoid(x)),
};

const sigmoidPair: Reference = { f: sigmoid, derivative: (x) => sigmoid(x) * sigmoid(-x) };

const logSigmoid: Reference = { f: (x) => -softplus(-x), derivative: (x) => sigmoid(-x) };

const tanh: Reference = { f: Math.tanh, derivative: sech2 };

const tanhshrink: Reference = { f: (x) => x - Math.tanh(x), derivative: (x) => Math.tanh(x) ** 2 };

const hardsigmoid: Reference = {
  f: (x) => Math.min(Math.max(x / 6 + 0.5, 0), 1),
  derivative: (x) => (x > -3 && x < 3 ? 1 / 6 : 0),
};

const hardswish: Reference = {
  f: (x) => times(x, hardsigmoid.f(x)),
  derivative: (x) => (x <= -3 ? 0 : x < 3 ? x / 3 + 0.5 : 1),
};

const softplusPair = ({ beta = 1, threshold = 20 } = {}): Reference => ({
  f: (x) => (beta * x > threshold ? x : softplus(beta * x) / beta),
  derivative: (x) => (beta * x > threshold ? 1 : sigmoid(beta * x)),
});

const softcap = ({ cap = 30 } = {}): Reference => ({
  f: (x) => cap * Math.tanh(x / cap),
  derivative: (x) => 1 / Math.cosh(x / cap) ** 2,
});

const softsign: Reference = { f: (x) => x / (1 + Math.abs(x)), derivative: (x) => 1 / (1 + Math.abs(x)) ** 2 };

const hardshrink = ({ lambd = 0.5 } = {}): Reference => ({
  f: (x) => (Math.abs(x) <= lambd ? 0 : x),
  derivative: (x) => (Math.abs(x) <= lambd ? 0 : 1),
});

const softshrink = ({ lambd = 0.5 } = {}): Reference => ({
  f: (x) => (Math.abs(x) <= lambd ? 0 : x - Math.sign(x) * lambd),
  derivative: (x) => (Math.abs(x) <= lambd ? 0 : 1),
});

type Numbers = Readonly<Record<string, number>>;

const plain: Record<string, Reference> = {
  ...{ relu, squaredRelu, relu6, selu, gelu, geluTanh, silu, mish, sigmoid: sigmoidPair, logSigmoid },
  ...{ tanh, tanhshrink, hardsigmoid, hardswish, softsign },
};

const parametric: Record<string, (numbers: Numbers) => Reference> = {
  ...{ leakyRelu, hardtanh, elu, celu, softplus: softplusPair, hardshrink, softshrink, softcap },
};

/** The activation of this name, for those with numbers to choose with these. */
export function activationReference(name: string, numbers: Numbers = {}): Reference {
  const reference = plain[name] ?? parametric[name]?.(numbers);
  if (!reference) throw new Error(`activationReference: no activation is called "${name}"`);
  return reference;
}
