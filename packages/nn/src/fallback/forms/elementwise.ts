/** Layers that compute each element by itself, or move it: activations, dropout, glu, padding. */
import type { Form, Jax, JaxArray } from "../jax.ts";
import { activate, type Named } from "./activations.ts";
import { drop } from "./random.ts";

export const activation: Form<{ activation: Named; dropout: number }, JaxArray> = (jax, { x, rng }, settings) => {
  const y = activate(jax, x!, settings.activation);
  return rng ? drop(jax, y, settings.dropout, rng) : y;
};

export const dropout: Form<{ p: number }, JaxArray> = (jax, { x, rng }, { p }) => drop(jax, x!, p, rng!);

export const glu: Form<{ axis: number; activation: Named }, JaxArray> = (jax, { x }, settings) => {
  const [a, gate] = jax.numpy.split(x!, 2, settings.axis);
  return a!.mul(activate(jax, gate!, settings.activation));
};

export type PadMode = "constant" | "reflect" | "replicate" | "circular" | "zeros";

/**
 * `x`, computed before what follows reads it: jax-js reads through reshapes and transpositions, and so long a chain of them that
 * padding, strides and windows come together is where its indices go wrong, and its kernels get too long for some compilers.
 */
export const computed = ({ numpy: np }: Jax, x: JaxArray): JaxArray => x.add(np.array(new Float32Array(1)));

/** Elements `from` to `to` of one axis. */
export const cut = (x: JaxArray, axis: number, from: number, to: number): JaxArray =>
  x.slice(...x.shape.map((_, i): [] | [number, number] => (i === axis ? [from, to] : [])));

/** `before` and `after` more elements of one axis, or fewer where they are negative. */
export function padAxis(
  { numpy: np }: Jax,
  given: JaxArray,
  axis: number,
  pads: readonly [number, number],
  mode: PadMode,
  value = 0,
): JaxArray {
  const crop = pads.map((p) => Math.max(0, -p)) as [number, number];
  const [before, after] = pads.map((p) => Math.max(0, p)) as [number, number];
  const x = crop[0] + crop[1] > 0 ? cut(given, axis, crop[0], given.shape[axis]! - crop[1]) : given;
  if (before + after === 0) return x;
  const n = x.shape[axis]!;
  if (mode === "constant" || mode === "zeros") {
    const widths = x.shape.map((_, i): [number, number] => (i === axis ? [before, after] : [0, 0]));
    if (value === 0) return np.pad(x, widths);
    const inside = np.pad(np.full(x.shape, true), widths);
    return np.where(inside, np.pad(x, widths), value);
  }
  const part = (from: number, to: number): JaxArray[] => (from < to ? [cut(x.ref, axis, from, to)] : []);
  const edge = (at: number, count: number): JaxArray[] =>
    count > 0 ? [np.repeat(cut(x.ref, axis, at, at + 1), count, axis)] : [];
  const mirror = (parts: JaxArray[]): JaxArray[] => parts.map((p) => np.flip(p, axis));
  const [first, last] =
    mode === "reflect"
      ? [mirror(part(1, before + 1)), mirror(part(n - 1 - after, n - 1))]
      : mode === "replicate"
        ? [edge(0, before), edge(n - 1, after)]
        : [part(n - before, n), part(0, after)];
  return np.concatenate([...first, x, ...last], axis);
}

export interface PadSettings {
  readonly mode: PadMode;
  readonly value: number;
  /** Before and after, the last axis first. */
  readonly pads: readonly (readonly [number, number])[];
}

export const pad: Form<PadSettings, JaxArray> = (jax, { x }, { mode, value, pads }) =>
  pads.reduce((y, both, k) => padAxis(jax, y, y.ndim - 1 - k, both, mode, value), x!);
