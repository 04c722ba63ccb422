/** GroupNorm as plain loops in float64: the specification and the test oracle. x has the shape (batch, channels, space). */

type Values = ArrayLike<number>;

export interface GroupNormReferenceOptions {
  weight?: Values | null;
  bias?: Values | null;
  /** Mean and variance of each channel, for as many groups as channels: the gradient does not flow through them. */
  running?: { mean: Values; variance: Values } | null;
  eps?: number;
}

export interface GroupNormReferenceResult {
  y: Float64Array;
  dx: Float64Array;
  dw: Float64Array;
  db: Float64Array;
  /** Of each sample and group, (batch, groups); the variance is the biased one. */
  mean: Float64Array;
  variance: Float64Array;
}

export function groupNormReference(
  x: Values,
  [batch, channels, space]: readonly [number, number, number],
  groups: number,
  dy: Values,
  { weight = null, bias = null, running = null, eps = 1e-5 }: GroupNormReferenceOptions = {},
): GroupNormReferenceResult {
  const cols = (channels / groups) * space;
  const y = new Float64Array(x.length);
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(channels);
  const db = new Float64Array(channels);
  const means = new Float64Array(batch * groups);
  const variances = new Float64Array(batch * groups);
  for (let row = 0; row < batch * groups; row++) {
    const base = row * cols;
    const channelOf = (i: number): number => (row % groups) * (channels / groups) + Math.floor(i / space);
    let mean = 0;
    for (let i = 0; i < cols; i++) mean += x[base + i]! / cols;
    let variance = 0;
    for (let i = 0; i < cols; i++) variance += (x[base + i]! - mean) ** 2 / cols;
    means[row] = mean;
    variances[row] = variance;
    if (running) [mean, variance] = [running.mean[row % groups]!, running.variance[row % groups]!];
    const rstd = 1 / Math.sqrt(variance + eps);
    let meanG = 0;
    let meanGX = 0;
    for (let i = 0; i < cols; i++) {
      const c = channelOf(i);
      const xhat = (x[base + i]! - mean) * rstd;
      const g = dy[base + i]! * (weight?.[c] ?? 1);
      y[base + i] = xhat * (weight?.[c] ?? 1) + (bias?.[c] ?? 0);
      dw[c]! += dy[base + i]! * xhat;
      db[c]! += dy[base + i]!;
      if (running) continue;
      meanG += g / cols;
      meanGX += (g * xhat) / cols;
    }
    for (let i = 0; i < cols; i++) {
      const xhat = (x[base + i]! - mean) * rstd;
      dx[base + i] = rstd * (dy[base + i]! * (weight?.[channelOf(i)] ?? 1) - meanG - xhat * meanGX);
    }
  }
  return { y, dx, dw, db, mean: means, variance: variances };
}
