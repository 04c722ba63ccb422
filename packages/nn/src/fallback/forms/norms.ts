/** Normalisations. Statistics are those of two passes: the mean, then the mean of the squared distances from it. */
import type { Form, Jax, JaxArray } from "../jax.ts";
import { activate, type Named } from "./activations.ts";

/** (x − mean) / √(variance + eps) over `axes`. */
function standardize({ numpy: np }: Jax, x: JaxArray, axes: number[], eps: number): JaxArray {
  const centred = x.ref.sub(np.mean(x, axes, { keepdims: true }));
  const variance = np.mean(np.square(centred.ref), axes, { keepdims: true });
  return centred.mul(np.reciprocal(np.sqrt(variance.add(eps))));
}

/** A value for each channel, to broadcast with x [batch, channels, ...]. */
const perChannel = (c: JaxArray, x: JaxArray): JaxArray => c.reshape([1, -1, ...x.shape.slice(2).map(() => 1)]);

const affine = (y: JaxArray, weight?: JaxArray, bias?: JaxArray): JaxArray => {
  const scaled = weight ? y.mul(weight) : y;
  return bias ? scaled.add(bias) : scaled;
};

const channelAffine = (y: JaxArray, weight?: JaxArray, bias?: JaxArray): JaxArray =>
  affine(y, weight && perChannel(weight, y), bias && perChannel(bias, y));

/** The results of `norm` of x, or of the sum of x and a residual, and then the sum too. */
const summed = (
  x: JaxArray,
  residual: JaxArray | undefined,
  norm: (sum: JaxArray) => JaxArray,
): JaxArray | JaxArray[] => {
  if (!residual) return norm(x);
  const sum = x.add(residual);
  return [norm(sum.ref), sum];
};

const lastAxes = (x: JaxArray, n: number): number[] => [...x.shape.keys()].slice(-n);

export const layerNorm: Form<{ shape: readonly number[]; eps: number }> = (jax, { x, weight, bias, residual }, s) =>
  summed(x!, residual, (sum) => affine(standardize(jax, sum, lastAxes(x!, s.shape.length), s.eps), weight, bias));

export const rmsNorm: Form<{ shape: readonly number[]; eps: number }> = ({ numpy: np }, { x, weight, residual }, s) =>
  summed(x!, residual, (sum) => {
    const square = np.mean(np.square(sum.ref), lastAxes(sum, s.shape.length), { keepdims: true });
    return affine(sum.mul(np.reciprocal(np.sqrt(square.add(s.eps)))), weight);
  });

export const groupNorm: Form<{ numGroups: number; eps: number }> = (jax, { x, weight, bias, residual }, s) =>
  summed(x!, residual, (sum) => {
    const { shape } = sum;
    const y = standardize(jax, sum.reshape([shape[0]!, s.numGroups, -1]), [2], s.eps);
    return channelAffine(y.reshape(shape), weight, bias);
  });

export interface RunningSettings {
  /** Normalize by the statistics of x. */
  readonly own: boolean;
  readonly momentum: number | null;
  readonly eps: number;
}

/** mean and variance, moved towards those of the batch. */
const moved = (old: JaxArray, fresh: JaxArray, factor: JaxArray | number): JaxArray =>
  old.ref.add(fresh.sub(old).mul(factor));

/** y; and with own statistics and running ones the running mean and variance to be. */
export const instanceNorm: Form<RunningSettings> = (jax, { x, weight, bias, runningMean, runningVar }, s) => {
  const { numpy: np } = jax;
  const space = [...x!.shape.keys()].slice(2);
  if (!s.own) {
    const scale = np.reciprocal(np.sqrt(runningVar!.add(s.eps)));
    const y = x!.ref.sub(perChannel(runningMean!, x!)).mul(perChannel(scale, x!));
    return channelAffine(y, weight, bias);
  }
  const y = channelAffine(standardize(jax, x!.ref, space, s.eps), weight, bias);
  if (!runningMean || !runningVar) return y;
  const n = space.reduce((product, axis) => product * x!.shape[axis]!, 1);
  const mean = np.mean(x!.ref, space, { keepdims: true });
  const variance = np.mean(np.square(x!.sub(mean.ref)), space).mul(n / (n - 1));
  return [
    y,
    moved(runningMean, np.mean(mean.reshape(variance.shape), [0]), s.momentum!),
    moved(runningVar, np.mean(variance, [0]), s.momentum!),
  ];
};

export interface BatchNormSettings extends RunningSettings {
  readonly activation: Named | null;
}

/** y; and in training with running statistics those to be, and the number of batches. */
export const batchNorm: Form<BatchNormSettings> = (jax, given, s) => {
  const { numpy: np } = jax;
  const { x, weight, bias, residual, runningMean, runningVar, tracked } = given;
  const { shape } = x!;
  const axes = [...shape.keys()].filter((axis) => axis !== 1);
  const finish = (normalized: JaxArray): JaxArray => {
    const y = channelAffine(normalized, weight, bias);
    return activate(jax, residual ? y.add(residual) : y, s.activation);
  };
  if (!s.own) {
    const scale = np.reciprocal(np.sqrt(runningVar!.add(s.eps)));
    return finish(x!.ref.sub(perChannel(runningMean!, x!)).mul(perChannel(scale, x!)));
  }
  const mean = np.mean(x!.ref, axes, { keepdims: true });
  const centred = x!.sub(mean.ref);
  const variance = np.mean(np.square(centred.ref), axes, { keepdims: true });
  const y = finish(centred.mul(np.reciprocal(np.sqrt(variance.ref.add(s.eps)))));
  if (!runningMean || !runningVar) return [y];
  const n = axes.reduce((product, axis) => product * shape[axis]!, 1);
  const count = tracked?.reshape([1]).add(1);
  const factor = s.momentum ?? np.reciprocal(count!.ref.astype(np.float32));
  const lent = (): JaxArray | number => (typeof factor === "number" ? factor : factor.ref);
  return [
    y,
    moved(runningMean, mean.reshape([-1]), lent()),
    moved(runningVar, variance.reshape([-1]).mul(n / (n - 1)), lent()),
    ...(count ? [count] : []),
  ];
};
