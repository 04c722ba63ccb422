/**
 * The kernels of @kindling/optim as loops. They compute in float64 and round what they store, where the kernels round each
 * operation: results differ in the last bits.
 */
import type { Arrays, Form, Params } from "./forms.ts";

type Numbers = Float32Array<ArrayBuffer>;

const { fround, sqrt } = Math;

/** The gradients of one dispatch, g0, g1 …, by number, and how many elements each has with its padding. */
function* gradients(arrays: Arrays, params: Params): Generator<{ g: Numbers; k: number; length: number }> {
  for (let k = 0; ; k++) {
    const g = arrays[`g${k}`];
    if (!g) return;
    yield { g, k, length: 4 * params[`vectors${k}`]! };
  }
}

// Update rules ----------------------------------------------------------------------------------

interface Tensors {
  readonly p: Numbers;
  readonly g: Numbers;
  /** Moments of p. */
  readonly s: readonly Numbers[];
  /** The eight coefficients that `prepare` computed for p. */
  readonly c: ArrayLike<number>;
  readonly length: number;
}

const update =
  (moments: number, rule: (tensors: Tensors) => void): Form =>
  (arrays, params) => {
    const { coefficients, state } = arrays;
    for (const { g, k, length } of gradients(arrays, params)) {
      const c = coefficients!.subarray(8 * params[`index${k}`]!);
      if (c[0]! < 0) continue; // the gradient scaler skips this step
      const base = 4 * params[`base${k}`]!;
      const stride = Math.ceil(length / 64) * 64;
      const s = Array.from({ length: moments }, (_, m) =>
        state ? state.subarray(base + m * stride) : arrays[`state${m}`]!.subarray(base),
      );
      rule({ p: arrays[`p${k}`]!, g, s, c, length });
    }
  };

const adam = update(2, ({ p, g, s, c, length }) => {
  const [m, v] = s as [Numbers, Numbers];
  const [step, root, eps, decoupled, beta1, beta2, decay, multiplier] = c as unknown as Eight;
  for (let i = 0; i < length; i++) {
    const gradient = multiplier * g[i]! + decay * p[i]!;
    m[i]! += beta1 * (gradient - m[i]!);
    v[i]! += beta2 * (gradient * gradient - v[i]!);
    p[i]! -= decoupled * p[i]! + (step * m[i]!) / (sqrt(v[i]!) * root + eps);
  }
});

const sgd = update(0, ({ p, g, c, length }) => {
  const [lr, decay, multiplier] = c as unknown as Eight;
  for (let i = 0; i < length; i++) p[i]! -= lr * (multiplier * g[i]! + decay * p[i]!);
});

const sgdMomentum = update(1, ({ p, g, s, c, length }) => {
  const [m] = s as [Numbers];
  const [lr, decay, multiplier, nesterov, momentum, own, part] = c as unknown as Eight;
  for (let i = 0; i < length; i++) {
    const gradient = multiplier * g[i]! + decay * p[i]!;
    m[i] = momentum * m[i]! + own * gradient;
    p[i]! -= lr * (nesterov * gradient + part * m[i]!);
  }
});

type Eight = [number, number, number, number, number, number, number, number];

// Sums of squares -------------------------------------------------------------------------------

/** Pairs (Σ g², how many numbers are infinite or NaN), one for each `span` vec4s. */
const squares: Form = (arrays, params) => {
  const { span, first } = params;
  let pair = 2 * first!;
  for (const { g, k } of gradients(arrays, params)) {
    const size = params[`size${k}`]!;
    for (let from = 0; from < size; from += 4 * span!) {
      let sum = 0;
      let special = 0;
      for (let i = from, end = Math.min(from + 4 * span!, size); i < end; i++) {
        const value = g[i]!;
        sum += value * value;
        if (!Number.isFinite(value)) special++;
      }
      arrays.partials![pair++] = sum;
      arrays.partials![pair++] = special;
    }
  }
};

function total(partials: Numbers, count: number): { sum: number; special: number } {
  let sum = 0;
  let special = 0;
  for (let i = 0; i < 2 * count; i += 2) {
    sum += partials[i]!;
    special += partials[i + 1]!;
  }
  return { sum: fround(sum), special };
}

/** An infinite norm gives zero and NaN gives NaN, as in PyTorch. */
function clipFactor(norm: number, maxNorm: number): number {
  if (norm === Infinity) return 0;
  const n = norm + 1e-6;
  return n <= maxNorm ? 1 : maxNorm / n;
}

const clip: Form = ({ partials, norm, factor }, params) => {
  const length = fround(sqrt(total(partials!, params.partials!).sum));
  norm![0] = length;
  factor![0] = clipFactor(length, params.maxNorm!);
};

const scale: Form = (arrays, params) => {
  const factor = arrays.factor![0]!;
  if (factor === 1) return;
  for (const { g, length } of gradients(arrays, params)) for (let i = 0; i < length; i++) g[i]! *= factor;
};

// Preparation of an update ----------------------------------------------------------------------

type Coefficients = (h: ArrayLike<number>, t: number, multiplier: number) => Eight;

/** Elements of the table from one tensor to the next, and where in it the number of the tensor's group stands. */
const TABLE_STRIDE = 64;
const GROUP = 4;

const prepare =
  (coefficientsOf: Coefficients): Form =>
  (arrays, params) => {
    const { settings, table, coefficients, partials, norm, scale: lossScale, found, skipped } = arrays;
    let multiplier = lossScale ? fround(1 / lossScale[0]!) : 1;
    let skip = skipped !== undefined && skipped[0] !== 0;
    if (partials) {
      const { sum, special } = total(partials, params.partials!);
      norm![0] = sqrt(sum) * multiplier;
      if (settings![0]! > 0) multiplier *= clipFactor(norm![0]!, settings![0]!);
      // an overflow of the sum is as good a reason for a smaller scale as one of a gradient
      if (found) skip = special > 0 || !Number.isFinite(sum);
    }
    if (found && skip) found[0] = 1;
    for (let j = 0; j < params.count!; j++) {
      if (((params[`mask${j >> 5}`]! >> (j & 31)) & 1) === 0) continue; // it has no gradient
      const i = params.first! + j;
      if (skip) {
        coefficients!.fill(-1, 8 * i, 8 * i + 4);
        continue;
      }
      const t = ++table![TABLE_STRIDE * i]!;
      const h = 4 + 8 * table![TABLE_STRIDE * i + GROUP]!;
      coefficients!.set(coefficientsOf(settings!.subarray(h, h + 8), t, multiplier), 8 * i);
    }
  };

/** h = (lr, AdamW's lr · weightDecay, eps, Adam's weightDecay, 1 - β1, 1 - β2, ln β1, ln β2). */
const adamCoefficients: Coefficients = (h, t, multiplier) => {
  const [lr, decoupled, eps, decay, beta1, beta2, log1, log2] = h as unknown as Eight;
  return [-lr / Math.expm1(t * log1), 1 / sqrt(-Math.expm1(t * log2)), eps, decoupled, beta1, beta2, decay, multiplier];
};

/** h = (lr, weightDecay, momentum, 1 - dampening, nesterov, 0, 0, 0). */
const sgdCoefficients: Coefficients = (h, t, multiplier) => {
  const [lr, decay, momentum, own, nesterov] = h as unknown as Eight;
  const later = t > 1 && momentum > 0;
  return [lr, decay, multiplier, nesterov, momentum, later ? own : 1, nesterov > 0 ? momentum : 1, 0];
};

// Gradient scaler -------------------------------------------------------------------------------

const unscale: Form = ({ partials, scale: lossScale, factor, skipped, found }, params) => {
  const { special } = total(partials!, params.partials!);
  factor![0] = 1 / lossScale![0]!;
  skipped![0] = special > 0 ? 1 : 0;
  if (special > 0) found![0] = 1;
};

const updateScale: Form = ({ scale: lossScale, tracker, found }, { growthFactor, backoffFactor, growthInterval }) => {
  if (found![0] !== 0) {
    lossScale![0]! *= backoffFactor!;
    tracker![0] = 0;
  } else if (tracker![0]! + 1 >= growthInterval!) {
    const grown = fround(lossScale![0]! * growthFactor!);
    if (Number.isFinite(grown)) lossScale![0] = grown;
    tracker![0] = 0;
  } else tracker![0]!++;
  found![0] = 0;
};

export const optimForms: Readonly<Record<string, Form>> = {
  "optim.adam": adam,
  "optim.adam.prepare": prepare(adamCoefficients),
  "optim.sgd": sgd,
  "optim.sgd.prepare": prepare(sgdCoefficients),
  "optim.sgdMomentum": sgdMomentum,
  "optim.squares": squares,
  "optim.clip": clip,
  "optim.scale": scale,
  "optim.unscale": unscale,
  "optim.updateScale": updateScale,
};
