/** softmax, log-softmax and softmin. */
import type { Form, Jax, JaxArray } from "../jax.ts";

export interface SoftmaxSettings {
  readonly kind: "softmax" | "logSoftmax" | "softmin";
  readonly dim: number;
  readonly causal: boolean;
}

/** [L, S], true where row i sees column j: low ≤ j − i < high, ±Infinity being no limit. */
export function band({ numpy: np }: Jax, rows: number, cols: number, low: number, high: number): JaxArray {
  const i = np.arange(0, rows, 1, { dtype: np.int32 }).reshape([rows, 1]);
  const distance = np.arange(0, cols, 1, { dtype: np.int32 }).reshape([1, cols]).sub(i);
  const above = Number.isFinite(low) ? distance.ref.greaterEqual(low) : np.full([rows, cols], true);
  return Number.isFinite(high) ? np.logicalAnd(above, distance.less(high)) : above;
}

/**
 * e^(x − max) of what is seen, 0 elsewhere, and their sum over `axis`. What is hidden is replaced before the exponential, so that
 * no gradient is infinite times 0.
 */
export function exponentials(
  { numpy: np, lax }: Jax,
  x: JaxArray,
  axis: number,
  seen: JaxArray | null,
): [JaxArray, JaxArray, JaxArray] {
  const shown = seen ? np.where(seen.ref, x, -1e30) : x;
  const max = lax.stopGradient(np.max(shown.ref, axis, { keepdims: true }));
  const shifted = shown.sub(max);
  const e = seen ? np.where(seen, np.exp(shifted.ref), 0) : np.exp(shifted.ref);
  return [shifted, e.ref, e.sum(axis, { keepdims: true })];
}

export const softmax: Form<SoftmaxSettings, JaxArray> = (jax, { x }, { kind, dim, causal }) => {
  const { numpy: np } = jax;
  const { shape } = x!;
  const input = shape.length === 0 ? x!.reshape([1]) : x!;
  const seen = causal ? np.broadcastTo(band(jax, shape.at(-2)!, shape.at(-1)!, -Infinity, 1), shape) : null;
  const [shifted, e, sum] = exponentials(jax, kind === "softmin" ? input.mul(-1) : input, dim, seen?.ref ?? null);
  if (kind !== "logSoftmax") {
    shifted.dispose();
    return e.div(sum).reshape(shape);
  }
  e.dispose();
  const y = shifted.sub(np.log(sum));
  // added, so that the gradient of a hidden element reaches the sum, as in PyTorch
  return (seen ? y.add(np.where(seen, 0, Number.NEGATIVE_INFINITY)) : y).reshape(shape);
};
