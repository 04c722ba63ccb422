/**
 * Dropout masks in jax-js: the random words of pcg4d that the kernels draw, so that the masks agree bit by bit. `rng` is u32
 * [3]: the low and the high half of the seed, and the counter of the stream.
 */
import type { Form, Jax, JaxArray } from "../jax.ts";

type Four = [JaxArray, JaxArray, JaxArray, JaxArray];

/** pcg4d of four arrays of u32 that broadcast. See random.ts of @kindling/core. */
export function pcg4d(jax: Jax, counter: Four): Four {
  const { numpy: np } = jax;
  const word = (value: number): JaxArray => np.full([], value, { dtype: np.uint32 });
  let [x, y, z, w] = counter.map((v) => v.mul(word(1664525)).add(word(1013904223))) as Four;
  const stir = (): void => {
    x = x.add(y.ref.mul(w.ref));
    y = y.add(z.ref.mul(x.ref));
    z = z.add(x.ref.mul(y.ref));
    w = w.add(y.ref.mul(z.ref));
  };
  stir();
  [x, y, z, w] = [x, y, z, w].map((v) => np.bitwiseXor(v.ref, np.rightShift(v, word(16)))) as Four;
  stir();
  return [x, y, z, w];
}

/** Part i of `rng`, [1]. */
export const part = (rng: JaxArray, i: number): JaxArray => rng.ref.slice([i, i + 1]);

/** As many 0, 1, 2, … of u32. */
export const counts = ({ numpy: np }: Jax, n: number): JaxArray => np.arange(0, n, 1, { dtype: np.uint32 });

/** The four words side by side: [..., n, 4] → [..., 4 · n]. */
export function interleave({ numpy: np }: Jax, words: Four): JaxArray {
  const all = np.stack(words, -1);
  return all.reshape([...all.shape.slice(0, -2), 4 * all.shape.at(-2)!]);
}

/** Whether an element stays: bits ≥ p · 2³². */
export const keeps = ({ numpy: np }: Jax, bits: JaxArray, p: number): JaxArray =>
  bits.greaterEqual(np.full([], Math.min(Math.round(p * 2 ** 32), 2 ** 32 - 1), { dtype: np.uint32 }));

/** x with elements dropped, the others divided by 1 − p: word i % 4 of vec4 number ⌊i / 4⌋ decides about element i. */
export function drop(jax: Jax, x: JaxArray, p: number, rng: JaxArray): JaxArray {
  if (p === 0) return x;
  const { numpy: np } = jax;
  if (p === 1) return x.mul(0);
  const { shape, size } = x;
  const bits = interleave(
    jax,
    pcg4d(jax, [counts(jax, Math.ceil(size / 4)), part(rng, 2), part(rng, 0), part(rng, 1)]),
  );
  const kept = keeps(jax, bits.slice([0, size]), p).reshape(shape);
  return np.where(kept, x.mul(1 / (1 - p)), 0);
}

/** The state of the device's generator [4] and the offset [1] of a stream → what a form takes as `rng`. */
export const draw: Form<Record<never, never>, JaxArray> = ({ numpy: np }, { state, offset }) =>
  np.concatenate([state!.ref.slice([0, 2]), state!.slice([2, 3]).add(offset!)]);
