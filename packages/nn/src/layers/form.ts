/**
 * What the layers of this folder share: checks that come before any work, and phrases of jax-js that several forms use.
 *
 * Each layer is a function and a Module. The function checks its arguments and hands tensors and plain settings to a form, a few
 * lines of jax-js; the bridge computes the form and its gradient.
 */
import { autocastType, type FloatType, type Shape, type Tensor } from "@kindling/core";
import type { Jax, JaxArray } from "../fallback/bridge.ts";

export type { Jax, JaxArray } from "../fallback/bridge.ts";
export { fallback } from "../fallback/bridge.ts";

// Checks ----------------------------------------------------------------------------------------

/** Throws an error of the layer or argument `where`. */
export function fail(where: string, text: string): never {
  throw new Error(`${where}: ${text}`);
}

type Tensors = Readonly<Record<string, Tensor | null | undefined>>;

export const isFloat = (x: Tensor): boolean => x.dtype === "f32" || x.dtype === "f16";
export const isInteger = (x: Tensor): boolean => x.dtype === "i32" || x.dtype === "u32";

/** Throws if one of the tensors that there are does not hold floats. */
export function checkFloats(where: string, tensors: Tensors): void {
  for (const [name, x] of Object.entries(tensors))
    if (x && !isFloat(x)) fail(where, `${name} is ${x.dtype}, expected f32 or f16`);
}

export function checkIntegers(where: string, tensors: Tensors): void {
  for (const [name, x] of Object.entries(tensors))
    if (x && !isInteger(x)) fail(where, `${name} is ${x.dtype}, expected i32 or u32`);
}

/** Throws if they are not floats of one dtype; under autocast they may differ. */
export function checkSame(where: string, tensors: Tensors): void {
  checkFloats(where, tensors);
  const given = Object.entries(tensors).filter((entry): entry is [string, Tensor] => entry[1] != null);
  const [[first, x] = fail(where, "no tensor given"), ...rest] = given;
  const other = rest.find(([, t]) => t.dtype !== x.dtype);
  if (other && !autocastType())
    fail(where, `${first} is ${x.dtype} and ${other[0]} ${other[1].dtype}, expected one dtype (or autocast)`);
}

export function checkShape(where: string, name: string, x: Tensor, expected: Shape): void {
  if (x.shape.join() !== expected.join()) fail(where, `${name} has shape [${x.shape}], expected [${expected}]`);
}

/** The dtype of what a layer gives that computes in half precision under autocast. */
export const lowered = (x: Tensor): FloatType => autocastType() ?? (x.dtype as FloatType);

/** A number for each of `rank` axes. */
export type Sizes = number | readonly number[];

/** `value` for each axis: whole numbers from `least`. */
export function each(where: string, value: Sizes, rank: number, least: number): readonly number[] {
  const values = typeof value === "number" ? Array<number>(rank).fill(value) : value;
  if (values?.length === rank && values.every((v) => Number.isInteger(v) && v >= least)) return values;
  return fail(
    where,
    `got ${JSON.stringify(value)}, expected ${rank > 1 ? `1 or ${rank} ` : ""}whole numbers ≥ ${least}`,
  );
}

/** The whole number `value`, at least `least`. */
export const whole = (where: string, value: number, least: number): number => each(where, value, 1, least)[0]!;

export function checkOneOf<T>(where: string, value: T, known: readonly T[]): void {
  if (!known.includes(value))
    fail(where, `got ${JSON.stringify(value)}, expected ${known.map((v) => JSON.stringify(v)).join(", ")}`);
}

export const checkProbability = (where: string, p: number): number =>
  p >= 0 && p <= 1 ? p : fail(where, `p is ${p}, expected a probability from 0 to 1`);

const AXES = { 1: "L", 2: "H, W", 3: "D, H, W" } as const;
export type Rank = 1 | 2 | 3;

/** Throws unless x is [N, C, …] or [C, …] with `rank` axes of space. */
export function checkSpace(where: string, x: Tensor, rank: Rank): void {
  checkFloats(where, { x });
  const axes = AXES[rank];
  if (x.shape.length !== rank + 1 && x.shape.length !== rank + 2)
    fail(where, `x has shape [${x.shape}], expected [N, C, ${axes}] or [C, ${axes}]`);
}

/** x with a batch of one in front where it has none, and what takes it away again. */
export function batched(x: Tensor, axes: number): { x: Tensor; back: (y: Tensor) => Tensor } {
  return x.shape.length === axes
    ? { x, back: (y) => y }
    : { x: x.reshape([1, ...x.shape]), back: (y) => y.reshape(y.shape.slice(1)) };
}

/** Axis `dim`, counted from the end if negative, as a number from 0. */
export function axisOf(where: string, dim: number, rank: number): number {
  if (!Number.isInteger(dim) || dim < -rank || dim >= rank)
    fail(where, `dim is ${dim}, expected ${-rank} to ${rank - 1}`);
  return dim < 0 ? dim + rank : dim;
}

/** The shape that tensors broadcast to, or null. */
export function broadcastShape(...shapes: Shape[]): number[] | null {
  const rank = Math.max(...shapes.map((shape) => shape.length));
  const y = Array<number>(rank).fill(1);
  for (const shape of shapes) {
    for (let i = 0; i < shape.length; i++) {
      const [at, size] = [rank - shape.length + i, shape[i]!];
      if (size !== 1 && y[at] !== 1 && y[at] !== size) return null;
      y[at] = Math.max(y[at]!, size);
    }
  }
  return y;
}

/** As options are shown in parentheses by `toString`: those that are set. */
export const shown = (options: object): string =>
  Object.entries(options)
    .filter(([, value]) => value !== undefined && value !== null)
    .map(([key, value]) => `${key}=${JSON.stringify(value)}`)
    .join(", ");

// Phrases of jax-js -----------------------------------------------------------------------------

type Numpy = Jax["numpy"];

export const floats = (np: Numpy, values: ArrayLike<number>, shape: Shape = [values.length]): JaxArray =>
  np.array(Float32Array.from(values), { shape: [...shape] });

export const ints = (np: Numpy, values: ArrayLike<number>, shape: Shape = [values.length]): JaxArray =>
  np.array(Int32Array.from(values), { shape: [...shape] });

/** |x|, whose gradient at 0 is 0 as in PyTorch; x · 0 is NaN where x is. */
export const magnitude = (np: Numpy, x: JaxArray): JaxArray =>
  np.where(x.ref.greater(0), x.ref, np.where(x.ref.less(0), np.negative(x.ref), x.mul(0)));

/** As a tanh: jax-js's own has a NaN for a gradient below −88. */
export const sigmoid = (np: Numpy, x: JaxArray): JaxArray => np.tanh(x.mul(0.5)).mul(0.5).add(0.5);

/** (x − |x|) / 2 − log(1 + exp(−|x|)), where jax-js's own overflows below −88. */
export function logSigmoid(np: Numpy, x: JaxArray): JaxArray {
  const size = magnitude(np, x.ref);
  return x
    .sub(size.ref)
    .mul(0.5)
    .sub(np.log1p(np.exp(size.mul(-1))));
}

/** max(x, 0); the gradient at 0 is 1, as that of PyTorch's clamp. */
export const positive = (np: Numpy, x: JaxArray): JaxArray => np.where(x.ref.less(0), 0, x);

/** √x for x ≥ 0, whose gradient at 0 is 0 and not infinite. */
export function root(np: Numpy, x: JaxArray): JaxArray {
  const some = x.ref.greater(0);
  return np.where(some.ref, np.sqrt(np.where(some, x.ref, 1)), x.mul(0));
}

/** x^p for x ≥ 0; the gradient at 0 is 0. Small whole powers are products, which are exact where pow is not. */
export function power(np: Numpy, x: JaxArray, p: number): JaxArray {
  if (Number.isInteger(p) && p >= 1 && p <= 4) {
    let y = x.ref;
    for (let i = 1; i < p; i++) y = y.mul(x.ref);
    x.dispose();
    return y;
  }
  if (p === 0.5) return root(np, x);
  const some = x.ref.greater(0);
  return np.where(some.ref, np.exp(np.log(np.where(some, x.ref, 1)).mul(p)), x.mul(0));
}

/** The p-norm of x along `axis`, whose gradient at 0 is 0. */
export function norm(np: Numpy, x: JaxArray, p: number, axis: number, keepdims = false): JaxArray {
  if (p === Number.POSITIVE_INFINITY) return np.max(magnitude(np, x), axis, { keepdims });
  if (p === Number.NEGATIVE_INFINITY) return np.min(magnitude(np, x), axis, { keepdims });
  if (p === 0) return np.sum(np.where(x.equal(0), 0, 1), axis, { keepdims });
  if (p === 1) return np.sum(magnitude(np, x), axis, { keepdims });
  if (p === 2) return root(np, np.sum(x.ref.mul(x), axis, { keepdims }));
  return power(np, np.sum(power(np, magnitude(np, x), p), axis, { keepdims }), 1 / p);
}

/** JSON has no infinity: p of a norm as a setting of a form. */
export const exponent = (p: number): number | string => (Number.isFinite(p) ? p : String(p));

/** The gradient's way through a maximum, first of equals: elements of the last axis of x, at the place where it is greatest. */
export function greatest({ numpy: np, lax }: Jax, x: JaxArray): { value: JaxArray; chosen: JaxArray } {
  const n = x.shape.at(-1)!;
  const at = np.argmax(lax.stopGradient(x.ref), -1);
  const chosen = np.arange(n).equal(at.reshape([...at.shape, 1]));
  return { value: np.where(chosen.ref, x, 0).sum(-1), chosen };
}

/**
 * As one of several results of a form. vjp of jax-js 0.1.25 fails where a result goes into another result too; the sum is
 * something else to it.
 */
export const result = (x: JaxArray): JaxArray => x.add(0);

export const moved = (np: Numpy, x: JaxArray, axis: number, f: (last: JaxArray) => JaxArray): JaxArray =>
  np.moveaxis(f(np.moveaxis(x, axis, -1)), -1, axis);
