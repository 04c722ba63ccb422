/** BatchNorm as plain loops in float64: the specification and the test oracle. x has the shape (batch, channels, space). */

type Values = ArrayLike<number>;

/** A function with its derivative. */
export interface Activation {
  readonly f: (z: number) => number;
  readonly derivative: (z: number) => number;
}

export interface BatchNormReferenceOptions {
  weight?: Values | null;
  bias?: Values | null;
  residual?: Values | null;
  /** Mean and variance of each channel; without them the batch's own, which the gradient then flows through. */
  running?: { mean: Values; variance: Values } | null;
  eps?: number;
  activation?: Activation | null;
}

export interface BatchNormReferenceResult {
  y: Float64Array;
  dx: Float64Array;
  dw: Float64Array;
  db: Float64Array;
  dresidual: Float64Array;
  /** Those of the batch; the variance is the unbiased one, which running_var takes in. */
  mean: Float64Array;
  variance: Float64Array;
}

export function batchNormReference(
  x: Values,
  [batch, channels, space]: readonly [number, number, number],
  dy: Values,
  {
    weight = null,
    bias = null,
    residual = null,
    running = null,
    eps = 1e-5,
    activation = null,
  }: BatchNormReferenceOptions = {},
): BatchNormReferenceResult {
  const [y, dx, dresidual] = [x, x, x].map(({ length }) => new Float64Array(length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const [dw, db, means, variances] = Array.from({ length: 4 }, () => new Float64Array(channels)) as [
    Float64Array,
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  const count = batch * space;
  for (let c = 0; c < channels; c++) {
    const at = (i: number): number => (Math.floor(i / space) * channels + c) * space + (i % space);
    let sum = 0;
    for (let i = 0; i < count; i++) sum += x[at(i)]!;
    let squares = 0;
    for (let i = 0; i < count; i++) squares += (x[at(i)]! - sum / count) ** 2;
    means[c] = sum / count;
    variances[c] = squares / (count - 1);

    const mean = running ? running.mean[c]! : sum / count;
    const rstd = 1 / Math.sqrt((running ? running.variance[c]! : squares / count) + eps);
    const scale = weight?.[c] ?? 1;
    for (let i = 0; i < count; i++) {
      const e = at(i);
      const xhat = (x[e]! - mean) * rstd;
      const z = xhat * scale + (bias?.[c] ?? 0) + (residual?.[e] ?? 0);
      y[e] = activation ? activation.f(z) : z;
      dresidual[e] = activation ? dy[e]! * activation.derivative(z) : dy[e]!;
      dw[c]! += dresidual[e]! * xhat;
      db[c]! += dresidual[e]!;
    }
    for (let i = 0; i < count; i++) {
      const e = at(i);
      const xhat = (x[e]! - mean) * rstd;
      const through = running ? 0 : (db[c]! + xhat * dw[c]!) / count;
      dx[e] = scale * rstd * (dresidual[e]! - through);
    }
  }
  return { y, dx, dw, db, dresidual, mean: means, variance: variances };
}
