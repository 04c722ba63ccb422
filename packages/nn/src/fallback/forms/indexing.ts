/** Layers that look rows up. */
import type { Form, JaxArray } from "../jax.ts";

export interface EmbeddingSettings {
  readonly padding: number | null;
  readonly scaleGradByFreq: boolean;
}

/** The rows of weight that ids name; NaN for an id that names none. */
export const embedding: Form<EmbeddingSettings, JaxArray> = ({ numpy: np, lax }, { ids, weight }, s) => {
  const [rows, dim] = weight!.shape as [number, number];
  const { shape } = ids!;
  const flat = ids!.astype(np.int32).reshape([-1, 1]);
  const inside = np.logicalAnd(flat.ref.greaterEqual(0), flat.ref.less(rows));
  // clip comes last, since the scatter that take's gradient is cannot read a reshaped array under jit
  const at = np.clip(flat.ref.reshape([-1]), 0, rows - 1);
  let y = np.take(weight!, at.ref, 0);
  const fixed = lax.stopGradient(y.ref);
  if (s.scaleGradByFreq) {
    const all = np.arange(0, rows, 1, { dtype: np.int32 }).reshape([1, rows]);
    const counts = np.where(flat.ref.equal(all), 1, 0).sum(0);
    const share = np.reciprocal(np.take(counts.astype(np.float32), at.ref, 0)).reshape([-1, 1]);
    // the value of y, the gradient of y · share
    y = fixed.ref.add(y.sub(fixed.ref).mul(share));
  }
  at.dispose();
  if (s.padding !== null) y = np.where(flat.ref.equal(s.padding), fixed.ref, y);
  fixed.dispose();
  flat.dispose();
  return np.where(inside, y, Number.NaN).reshape([...shape, dim]);
};

/** weight, with the rows that ids name shortened to maxNorm. */
export const shortened: Form<{ maxNorm: number; normType: number }, JaxArray> = ({ numpy: np }, { ids, weight }, s) => {
  const [rows] = weight!.shape as [number, number];
  const all = np.arange(0, rows, 1, { dtype: np.int32 }).reshape([1, rows]);
  const used = np.any(ids!.astype(np.int32).reshape([-1, 1]).equal(all), 0).reshape([rows, 1]);
  const size = np.abs(weight!.ref);
  const norm =
    s.normType === Number.POSITIVE_INFINITY
      ? np.max(size, 1, { keepdims: true })
      : s.normType === 2
        ? np.sqrt(np.sum(np.square(size), 1, { keepdims: true }))
        : np.power(np.sum(np.power(size, s.normType), 1, { keepdims: true }), 1 / s.normType);
  const long = np.logicalAnd(used, norm.ref.greater(s.maxNorm));
  const factor = np.reciprocal(norm.add(1e-7)).mul(s.maxNorm);
  return np.where(long, weight!.ref.mul(factor), weight!);
};
