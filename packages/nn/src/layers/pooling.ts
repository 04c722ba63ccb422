/**
 * Pooling that the kernels do not have: three dimensions, MaxUnpool, LPPool, FractionalMaxPool, as torch.nn has them.
 *
 *   max: the first greatest element of a window, whose gradient is the window's      avg: Σ window / divisor
 *   lp:  (Σ window^p)^(1/p)
 *
 * A window is a product of intervals: each axis is pooled by itself, the last one first.
 */
import { rand, type Shape, type Tensor } from "@kindling/core";
import { FallbackModule } from "../backend.ts";
import {
  batched,
  checkShape,
  checkSpace,
  each,
  exponent,
  fail,
  fallback,
  floats,
  greatest,
  ints,
  isInteger,
  type Jax,
  type JaxArray,
  magnitude,
  moved,
  positive,
  power,
  type Rank,
  type Sizes,
  shown,
  whole,
} from "./form.ts";

/** Windows along one axis, the `axis` from the end. Those of a kernel of 0 are adaptive. */
interface Axis {
  readonly axis: number;
  readonly size: number;
  readonly out: number;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly dilation: number;
}

const startOf = (o: number, { size, out }: Axis): number => Math.floor((o * size) / out);
const endOf = (o: number, { size, out }: Axis): number => Math.ceil(((o + 1) * size) / out);

/** The windows of the last axis: [..., out, elements], zero where a window leaves x. */
function windowsOf(
  { numpy: np, lax }: Jax,
  x: JaxArray,
  { size, out, kernel, stride, padding, dilation }: Axis,
): JaxArray {
  const span = (kernel - 1) * dilation + 1;
  const length = (out - 1) * stride + span;
  const lead = x.shape.slice(0, -1);
  const none = lead.map((): [number, number] => [0, 0]);
  let padded = np.pad(x, [...none, [padding, Math.max(0, length - size - padding)]]);
  if (padded.shape.at(-1)! > length) padded = padded.slice(...lead.map((): [] => []), [0, length]);
  const windows = lax.reduceWindow(padded, (w) => w, [span], [stride]);
  if (dilation === 1) return windows;
  return np
    .pad(windows, [...none, [0, 0], [0, dilation - 1]])
    .reshape([...lead, out, kernel, dilation])
    .slice(...lead.map((): [] => []), [], [], 0);
}

/** The windows with −∞ where they leave x; for adaptive windows, all of x with −∞ outside of each. */
function maskedWindows(jax: Jax, x: JaxArray, axis: Axis): JaxArray {
  const { numpy: np } = jax;
  const { size, out, kernel, padding, stride, dilation } = axis;
  const outputs = Array.from({ length: out }, (_, o) => o);
  if (kernel === 0) {
    const d = np.arange(size);
    const start = ints(
      np,
      outputs.map((o) => startOf(o, axis)),
      [out, 1],
    );
    const end = ints(
      np,
      outputs.map((o) => endOf(o, axis)),
      [out, 1],
    );
    const inside = np.logicalAnd(d.ref.greaterEqual(start), d.less(end));
    return np.where(inside, x.reshape([...x.shape.slice(0, -1), 1, size]), Number.NEGATIVE_INFINITY);
  }
  const at = np.arange(out).mul(stride).reshape([out, 1]).add(np.arange(kernel).mul(dilation)).sub(padding);
  const inside = np.logicalAnd(at.ref.greaterEqual(0), at.less(size));
  return np.where(inside, windowsOf(jax, x, axis), Number.NEGATIVE_INFINITY);
}

/** Where the elements of `maskedWindows` are in x: [out, elements]. */
function placesOf({ numpy: np }: Jax, { size, out, kernel, stride, padding, dilation }: Axis): JaxArray {
  if (kernel === 0) return np.broadcastTo(np.arange(size), [out, size]);
  return np.arange(out).mul(stride).reshape([out, 1]).add(np.arange(kernel).mul(dilation)).sub(padding);
}

/** Maxima, and with `indices` where they were in the axes together. */
function maximum(
  jax: Jax,
  { x }: Record<string, JaxArray>,
  { axes, indices }: { axes: Axis[]; indices: boolean },
): JaxArray[] {
  const { numpy: np } = jax;
  let y = x!;
  let at: JaxArray | null = null;
  let pitch = 1;
  for (const axis of [...axes].reverse()) {
    const last = np.moveaxis(y, axis.axis, -1);
    const { value, chosen } = greatest(jax, maskedWindows(jax, last, axis));
    y = np.moveaxis(value, -1, axis.axis);
    if (!indices) {
      chosen.dispose();
      continue;
    }
    const places = placesOf(jax, axis).mul(pitch);
    if (at === null) at = np.moveaxis(np.where(chosen, places, 0).sum(-1), -1, axis.axis);
    else {
      const lasts: JaxArray = np.moveaxis(at, axis.axis, -1);
      const spread: JaxArray =
        axis.kernel === 0 ? lasts.reshape([...lasts.shape.slice(0, -1), 1, axis.size]) : windowsOf(jax, lasts, axis);
      at = np.moveaxis(np.where(chosen, spread.add(places), 0).sum(-1), -1, axis.axis);
    }
    pitch *= axis.size;
  }
  return at ? [y, at] : [y];
}

interface Average {
  readonly axes: Axis[];
  readonly includePad: boolean;
  /** In place of the number of elements, if not null. */
  readonly divisor: number | null;
}

/** How many elements a window of `axis` counts, padding among them if `includePad`. */
function countsOf(axis: Axis, includePad: boolean): number[] {
  return Array.from({ length: axis.out }, (_, o) => {
    if (axis.kernel === 0) return endOf(o, axis) - startOf(o, axis);
    const start = o * axis.stride - axis.padding;
    const end = Math.min(start + axis.kernel, axis.size + axis.padding);
    return includePad ? end - start : Math.min(end, axis.size) - Math.max(start, 0);
  });
}

function sums(jax: Jax, x: JaxArray, axes: readonly Axis[]): JaxArray {
  let y = x;
  for (const axis of [...axes].reverse())
    y = moved(jax.numpy, y, axis.axis, (last) => windowsOf(jax, last, axis).sum(-1));
  return y;
}

function average(jax: Jax, { x }: Record<string, JaxArray>, { axes, includePad, divisor }: Average): JaxArray {
  const { numpy: np } = jax;
  if (axes.every((axis) => axis.kernel > 0)) {
    let y = sums(jax, x!, axes);
    if (divisor !== null) return y.mul(1 / divisor);
    for (const axis of axes) {
      // Not a division: jax-js puts the zeros of a gradient's padding into what it divides by.
      const shares = countsOf(axis, includePad).map((count) => 1 / count);
      y = y.mul(floats(np, shares, [axis.out, ...Array<number>(-1 - axis.axis).fill(1)]));
    }
    return y;
  }
  let y = x!;
  for (const axis of [...axes].reverse()) {
    const share = (d: number, o: number): number =>
      d >= startOf(o, axis) && d < endOf(o, axis) ? 1 / (endOf(o, axis) - startOf(o, axis)) : 0;
    const shares = Array.from({ length: axis.size * axis.out }, (_, i) =>
      share(Math.floor(i / axis.out), i % axis.out),
    );
    y = moved(np, y, axis.axis, (last) => np.matmul(last, floats(np, shares, [axis.size, axis.out])));
  }
  return y;
}

// Functions -------------------------------------------------------------------------------------

/** One number, or one each for depth, height and width. */
export type Volume = Sizes;
export type AdaptiveVolume = number | readonly [depth: number | null, height: number | null, width: number | null];

/** The result of a max pooling: with `returnIndices` also where the maxima were. */
export type MaxPooled3d<Indices extends boolean> = Indices extends true ? { output: Tensor; indices: Tensor } : Tensor;

interface Windows {
  stride?: Sizes | null;
  padding?: Sizes;
  dilation?: Sizes;
  ceilMode?: boolean;
}

function windowAxes(where: string, x: Tensor, rank: Rank, kernelSize: Sizes, options: Windows): Axis[] {
  checkSpace(where, x, rank);
  const kernel = each(`${where}: kernelSize`, kernelSize, rank, 1);
  const stride = each(`${where}: stride`, options.stride ?? kernel, rank, 1);
  const padding = each(`${where}: padding`, options.padding ?? 0, rank, 0);
  const dilation = each(`${where}: dilation`, options.dilation ?? 1, rank, 1);
  return kernel.map((k, i) => {
    const [s, p, d] = [stride[i]!, padding[i]!, dilation[i]!];
    const axis = i - rank;
    const size = x.shape.at(axis)!;
    if (2 * p > k) fail(where, `padding is [${padding}], expected at most half of kernelSize [${kernel}]`);
    const steps = (size + 2 * p - d * (k - 1) - 1) / s;
    let out = (options.ceilMode ? Math.ceil(steps) : Math.floor(steps)) + 1;
    // The last window must begin in x or in the padding before it.
    if (options.ceilMode && (out - 1) * s >= size + p) out--;
    if (out < 1) fail(where, `x has shape [${x.shape}], smaller with padding [${padding}] than the window [${kernel}]`);
    return { axis, size, out, kernel: k, stride: s, padding: p, dilation: d };
  });
}

function adaptiveAxes(where: string, x: Tensor, outputSize: AdaptiveVolume): Axis[] {
  checkSpace(where, x, 3);
  const wanted = typeof outputSize === "number" ? [outputSize, outputSize, outputSize] : outputSize;
  const outs = each(
    `${where}: outputSize`,
    wanted.map((out, i) => out ?? x.shape.at(i - 3)!),
    3,
    1,
  );
  return outs.map((out, i): Axis => {
    const axis = i - 3;
    const size = x.shape.at(axis)!;
    // Windows of equal size and stride, where they are: fewer elements to look at.
    const kernel = size % out === 0 ? size / out : 0;
    return { axis, size, out, kernel, stride: kernel, padding: 0, dilation: 1 };
  });
}

function maxPool<Indices extends boolean>(
  where: string,
  x: Tensor,
  axes: Axis[],
  indices: Indices | undefined,
): MaxPooled3d<Indices> {
  const [output, at] = fallback(maximum, { x }, { axes, indices: indices === true }, { name: where });
  return (indices ? { output, indices: at } : output) as MaxPooled3d<Indices>;
}

const avgPool = (where: string, x: Tensor, axes: Axis[], includePad = true, divisor: number | null = null): Tensor =>
  fallback(average, { x }, { axes, includePad, divisor }, { name: where });

export interface MaxPool3dOptions<Indices extends boolean = boolean> {
  /** Default: kernelSize. */
  stride?: Volume;
  /** Of −∞, on both sides; at most half of kernelSize. Default 0. */
  padding?: Volume;
  /** Between the elements of a window. Default 1. */
  dilation?: Volume;
  /** Also windows that end outside of x, if they begin inside. Default false. */
  ceilMode?: boolean;
  /** Also return where the maxima were. Default false. */
  returnIndices?: Indices;
}

/**
 * Maximum over windows of the last three axes: x [N, C, D, H, W] or [C, D, H, W]. With `returnIndices` also where in the
 * volume it was, (d · H + h) · W + w. Matches torch.nn.functional.max_pool3d.
 */
export function maxPool3d<Indices extends boolean = false>(
  x: Tensor,
  kernelSize: Volume,
  options: MaxPool3dOptions<Indices> = {},
): MaxPooled3d<Indices> {
  return maxPool("maxPool3d", x, windowAxes("maxPool3d", x, 3, kernelSize, options), options.returnIndices);
}

export interface AvgPool3dOptions {
  /** Default: kernelSize. */
  stride?: Volume;
  /** Of zeros, on both sides; at most half of kernelSize. Default 0. */
  padding?: Volume;
  /** Also windows that end outside of x, if they begin inside. Default false. */
  ceilMode?: boolean;
  /** Whether padding counts in the average. Default true. */
  countIncludePad?: boolean;
  /** Divide by this in place of the number of elements. */
  divisorOverride?: number | null;
}

/** Average over windows of the last three axes of x [N, C, D, H, W] or [C, D, H, W]. Matches torch.nn.functional.avg_pool3d. */
export function avgPool3d(x: Tensor, kernelSize: Volume, options: AvgPool3dOptions = {}): Tensor {
  const { countIncludePad, divisorOverride = null } = options;
  if (divisorOverride === 0) fail("avgPool3d", "divisorOverride is 0, expected another number");
  return avgPool("avgPool3d", x, windowAxes("avgPool3d", x, 3, kernelSize, options), countIncludePad, divisorOverride);
}

/**
 * Maximum over `outputSize` windows that are as equal as they can be: x [N, C, D, H, W] or [C, D, H, W]; null keeps the size
 * of x. Matches torch.nn.functional.adaptive_max_pool3d.
 */
export function adaptiveMaxPool3d<Indices extends boolean = false>(
  x: Tensor,
  outputSize: AdaptiveVolume,
  { returnIndices }: { returnIndices?: Indices } = {},
): MaxPooled3d<Indices> {
  return maxPool("adaptiveMaxPool3d", x, adaptiveAxes("adaptiveMaxPool3d", x, outputSize), returnIndices);
}

/**
 * Average over `outputSize` windows that are as equal as they can be: x [N, C, D, H, W] or [C, D, H, W]; null keeps the size
 * of x. Matches torch.nn.functional.adaptive_avg_pool3d.
 */
export function adaptiveAvgPool3d(x: Tensor, outputSize: AdaptiveVolume): Tensor {
  return avgPool("adaptiveAvgPool3d", x, adaptiveAxes("adaptiveAvgPool3d", x, outputSize));
}

// Unpooling -------------------------------------------------------------------------------------

/** For each place of y, the sum of the elements that belong there. */
function place({ numpy: np }: Jax, { x, indices }: Record<string, JaxArray>, { size }: { size: number }): JaxArray {
  const [planes, count] = x!.shape as [number, number];
  const here = indices!.reshape([planes, 1, count]).equal(np.arange(size).reshape([size, 1]));
  return np.where(here, x!.reshape([planes, 1, count]), 0).sum(-1);
}

export interface MaxUnpoolOptions<Size extends Sizes> {
  /** Of the pooling. Default: kernelSize. */
  stride?: Size;
  /** Of the pooling. Default 0. */
  padding?: Size;
  /** Of y's last axes, or all of them: less than a stride away from the size that the pooling's inverse has. */
  outputSize?: Shape | null;
}

function maxUnpool(
  rank: Rank,
  x: Tensor,
  indices: Tensor,
  kernelSize: Sizes,
  { outputSize, ...options }: MaxUnpoolOptions<Sizes>,
): Tensor {
  const where = `maxUnpool${rank}d`;
  checkSpace(where, x, rank);
  if (!isInteger(indices)) fail(where, `indices is ${indices.dtype}, expected i32 or u32`);
  checkShape(where, "indices", indices, x.shape);
  const kernel = each(`${where}: kernelSize`, kernelSize, rank, 1);
  const stride = each(`${where}: stride`, options.stride ?? kernel, rank, 1);
  const padding = each(`${where}: padding`, options.padding ?? 0, rank, 0);
  const usual = kernel.map((k, i) => (x.shape.at(i - rank)! - 1) * stride[i]! - 2 * padding[i]! + k);
  const asked = outputSize ? outputSize.slice(-rank) : usual;
  if (asked.length !== rank || asked.some((size, i) => Math.abs(size - usual[i]!) >= stride[i]!))
    fail(where, `outputSize is [${outputSize}], expected less than stride [${stride}] from [${usual}]`);
  const lead = x.shape.slice(0, -rank);
  const planes = lead.reduce((a, b) => a * b, 1);
  const flat = [planes, x.size / planes];
  const size = asked.reduce((a, b) => a * b, 1);
  const y = fallback(place, { x: x.reshape(flat), indices: indices.reshape(flat) }, { size }, { name: where });
  return y.reshape([...lead, ...asked]);
}

/**
 * Puts the elements of x [N, C, L] or [C, L] back to where `maxPool1d` with returnIndices found them; zero elsewhere. Elements
 * for one place are added up, where PyTorch keeps any of them. Matches torch.nn.functional.max_unpool1d.
 */
export const maxUnpool1d = (
  x: Tensor,
  indices: Tensor,
  kernelSize: number,
  options: MaxUnpoolOptions<number> = {},
): Tensor => maxUnpool(1, x, indices, kernelSize, options);

/** `maxUnpool1d` for x [N, C, H, W] or [C, H, W]. Matches torch.nn.functional.max_unpool2d. */
export const maxUnpool2d = (
  x: Tensor,
  indices: Tensor,
  kernelSize: Sizes,
  options: MaxUnpoolOptions<Sizes> = {},
): Tensor => maxUnpool(2, x, indices, kernelSize, options);

/** `maxUnpool1d` for x [N, C, D, H, W] or [C, D, H, W]. Matches torch.nn.functional.max_unpool3d. */
export const maxUnpool3d = (
  x: Tensor,
  indices: Tensor,
  kernelSize: Sizes,
  options: MaxUnpoolOptions<Sizes> = {},
): Tensor => maxUnpool(3, x, indices, kernelSize, options);

// Power average ---------------------------------------------------------------------------------

/** A window that leaves x is scaled up to a whole one, as in PyTorch. */
function powerAverage(
  jax: Jax,
  { x }: Record<string, JaxArray>,
  { axes, p }: { axes: Axis[]; p: number | string },
): JaxArray {
  const { numpy: np } = jax;
  if (typeof p === "string") return maximum(jax, { x: magnitude(np, x!) }, { axes, indices: false })[0]!;
  const odd = p % 2 === 1;
  const size = power(np, magnitude(np, x!.ref), p);
  const terms = odd ? np.where(x!.ref.less(0), np.negative(size.ref), size.ref) : size.ref;
  size.dispose();
  x!.dispose();
  const whole = axes.reduce((n, { kernel }) => n * kernel, 1);
  const mean = average(jax, { x: terms }, { axes, includePad: true, divisor: null }).mul(whole);
  return p === 1 ? mean : power(np, positive(np, mean), 1 / p);
}

export interface LPPoolOptions<Size extends Sizes> {
  /** Default: kernelSize. */
  stride?: Size;
  /** Also windows that end outside of x, if they begin inside. Default false. */
  ceilMode?: boolean;
}

function lpPool(rank: Rank, x: Tensor, normType: number, kernelSize: Sizes, options: LPPoolOptions<Sizes>): Tensor {
  const where = `lpPool${rank}d`;
  if (!(normType > 0)) fail(where, `normType is ${normType}, expected a number > 0`);
  const axes = windowAxes(where, x, rank, kernelSize, options);
  return fallback(powerAverage, { x }, { axes, p: exponent(normType) }, { name: where });
}

/**
 * (Σ x^p)^(1/p) over windows of x [N, C, L] or [C, L]; of |x| where p is not whole, and 0 where the sum is negative and p is
 * not 1. Matches torch.nn.functional.lp_pool1d.
 */
export const lpPool1d = (
  x: Tensor,
  normType: number,
  kernelSize: number,
  options: LPPoolOptions<number> = {},
): Tensor => lpPool(1, x, normType, kernelSize, options);

/** (Σ x^p)^(1/p) over windows of x [N, C, H, W] or [C, H, W]. Matches torch.nn.functional.lp_pool2d. */
export const lpPool2d = (x: Tensor, normType: number, kernelSize: Sizes, options: LPPoolOptions<Sizes> = {}): Tensor =>
  lpPool(2, x, normType, kernelSize, options);

/** (Σ x^p)^(1/p) over windows of x [N, C, D, H, W] or [C, D, H, W]. Matches torch.nn.functional.lp_pool3d. */
export const lpPool3d = (x: Tensor, normType: number, kernelSize: Sizes, options: LPPoolOptions<Sizes> = {}): Tensor =>
  lpPool(3, x, normType, kernelSize, options);

// Fractional windows ----------------------------------------------------------------------------

interface Fraction {
  readonly kernel: readonly number[];
  readonly out: readonly number[];
  readonly indices: boolean;
}

/** Windows that begin at ⌊(o + u)·α⌋ − ⌊u·α⌋ for a random u of each plane (Graham 2014, arXiv:1412.6071). */
function fractional(
  jax: Jax,
  { x, samples }: Record<string, JaxArray>,
  { kernel, out, indices }: Fraction,
): JaxArray[] {
  const { numpy: np } = jax;
  const rank = kernel.length;
  const [N, C, ...space] = x!.shape as [number, number, ...number[]];
  let y = x!;
  let at: JaxArray | null = null;
  let pitch = 1;
  for (let i = rank - 1; i >= 0; i--) {
    const [size, k, n] = [space[i]!, kernel[i]!, out[i]!];
    const axis = i - rank;
    // As in PyTorch: of two axes the last one has the first number, of three the first one.
    const u = samples!.ref.slice([], [], rank === 3 ? i : rank - 1 - i).reshape([N, C, 1]);
    const step = n === 1 ? 0 : (size - k) / (n - 1);
    const o = np.arange(n).astype("float32" as never);
    const start = np.floor(o.add(u.ref).mul(step)).sub(np.floor(u.mul(step)));
    const starts = np.where(np.arange(n).equal(n - 1), size - k, start); // [N, C, n]
    const ones = rank - 1;
    const from = starts.reshape([N, C, ...Array<number>(ones).fill(1), n, 1]);
    const d = np.arange(size).astype("float32" as never);
    const inside = np.logicalAnd(d.ref.greaterEqual(from.ref), d.less(from.add(k)));
    const last = np.moveaxis(y, axis, -1);
    const spread = last.reshape([...last.shape.slice(0, -1), 1, size]);
    const { value, chosen } = greatest(jax, np.where(inside, spread, Number.NEGATIVE_INFINITY));
    y = np.moveaxis(value, -1, axis);
    const places = np.arange(size).mul(pitch);
    if (!indices) {
      chosen.dispose();
      places.dispose();
    } else if (at === null) at = np.moveaxis(np.where(chosen, places, 0).sum(-1), -1, axis);
    else {
      const lasts: JaxArray = np.moveaxis(at, axis, -1);
      const before: JaxArray = lasts.reshape([...lasts.shape.slice(0, -1), 1, size]);
      at = np.moveaxis(np.where(chosen, before.add(places), 0).sum(-1), -1, axis);
    }
    pitch *= size;
  }
  samples!.dispose();
  return at ? [y, at] : [y];
}

export interface FractionalMaxPoolOptions<Indices extends boolean = boolean> {
  /** Of y; this or outputRatio. */
  outputSize?: Sizes | null;
  /** y's size over x's, between 0 and 1. */
  outputRatio?: number | readonly number[] | null;
  /** Also return where the maxima were. Default false. */
  returnIndices?: Indices;
  /** [N, C, axes] in [0, 1): where the windows lie. Default: random. */
  randomSamples?: Tensor | null;
}

function fractionalMaxPool<Indices extends boolean>(
  rank: 2 | 3,
  x: Tensor,
  kernelSize: Sizes,
  options: FractionalMaxPoolOptions<Indices>,
): MaxPooled3d<Indices> {
  const where = `fractionalMaxPool${rank}d`;
  checkSpace(where, x, rank);
  const kernel = each(`${where}: kernelSize`, kernelSize, rank, 1);
  const out = fractionOf(where, x.shape.slice(-rank), options);
  kernel.forEach((k, i) => {
    const size = x.shape.at(i - rank)!;
    if (out[i]! + k - 1 > size)
      fail(where, `x has shape [${x.shape}], too small for outputSize [${out}] and kernelSize [${kernel}]`);
  });
  const { x: full, back } = batched(x, rank + 2);
  const shape = [...full.shape.slice(0, 2), rank];
  const samples = options.randomSamples ?? rand(shape, { device: x.device });
  checkShape(where, "randomSamples", samples, shape);
  const indices = options.returnIndices === true;
  const settings = { kernel, out, indices };
  const [output, at] = fallback(fractional, { x: full, samples: samples.detach() }, settings, { name: where });
  return (indices ? { output: back(output!), indices: back(at!) } : back(output!)) as MaxPooled3d<Indices>;
}

function fractionOf(
  where: string,
  space: Shape,
  { outputSize, outputRatio }: FractionalMaxPoolOptions,
): readonly number[] {
  const rank = space.length;
  if ((outputSize == null) === (outputRatio == null)) fail(where, "expected outputSize or outputRatio, one of them");
  if (outputSize != null) return each(`${where}: outputSize`, outputSize, rank, 1);
  const ratios = typeof outputRatio === "number" ? space.map(() => outputRatio) : outputRatio!;
  if (ratios.length !== rank || ratios.some((r) => !(r > 0 && r < 1)))
    fail(where, `outputRatio is ${JSON.stringify(outputRatio)}, expected numbers between 0 and 1`);
  return space.map((size, i) => whole(`${where}: outputSize`, Math.floor(size * ratios[i]!), 1));
}

/**
 * Maximum over windows of kernelSize that lie at random distances, x [N, C, H, W] or [C, H, W], so that y has any size between
 * that of x and 1. Matches torch.nn.functional.fractional_max_pool2d.
 */
export const fractionalMaxPool2d = <Indices extends boolean = false>(
  x: Tensor,
  kernelSize: Sizes,
  options: FractionalMaxPoolOptions<Indices>,
): MaxPooled3d<Indices> => fractionalMaxPool(2, x, kernelSize, options);

/** `fractionalMaxPool2d` for x [N, C, D, H, W] or [C, D, H, W]. Matches torch.nn.functional.fractional_max_pool3d. */
export const fractionalMaxPool3d = <Indices extends boolean = false>(
  x: Tensor,
  kernelSize: Sizes,
  options: FractionalMaxPoolOptions<Indices>,
): MaxPooled3d<Indices> => fractionalMaxPool(3, x, kernelSize, options);

// Modules ---------------------------------------------------------------------------------------

/** `maxPool3d` as a module. Matches `torch.nn.MaxPool3d(kernelSize, …)`. */
export class MaxPool3d<Indices extends boolean = false> extends FallbackModule {
  readonly kernelSize: Volume;
  readonly options: MaxPool3dOptions<Indices>;

  constructor(kernelSize: Volume, options: MaxPool3dOptions<Indices> = {}) {
    super();
    each("MaxPool3d: kernelSize", kernelSize, 3, 1);
    this.kernelSize = kernelSize;
    this.options = options;
  }

  forward(x: Tensor): MaxPooled3d<Indices> {
    return maxPool3d(x, this.kernelSize, this.options);
  }

  protected override settings(): string {
    return shown({ kernelSize: this.kernelSize, ...this.options });
  }
}

/** `avgPool3d` as a module. Matches `torch.nn.AvgPool3d(kernelSize, …)`. */
export class AvgPool3d extends FallbackModule {
  readonly kernelSize: Volume;
  readonly options: AvgPool3dOptions;

  constructor(kernelSize: Volume, options: AvgPool3dOptions = {}) {
    super();
    each("AvgPool3d: kernelSize", kernelSize, 3, 1);
    this.kernelSize = kernelSize;
    this.options = options;
  }

  forward(x: Tensor): Tensor {
    return avgPool3d(x, this.kernelSize, this.options);
  }

  protected override settings(): string {
    return shown({ kernelSize: this.kernelSize, ...this.options });
  }
}

/** `adaptiveMaxPool3d` as a module. Matches `torch.nn.AdaptiveMaxPool3d(outputSize, …)`. */
export class AdaptiveMaxPool3d<Indices extends boolean = false> extends FallbackModule {
  readonly outputSize: AdaptiveVolume;
  readonly returnIndices: Indices;

  constructor(outputSize: AdaptiveVolume, { returnIndices }: { returnIndices?: Indices } = {}) {
    super();
    this.outputSize = outputSize;
    this.returnIndices = (returnIndices ?? false) as Indices;
  }

  forward(x: Tensor): MaxPooled3d<Indices> {
    return adaptiveMaxPool3d(x, this.outputSize, this);
  }

  protected override settings(): string {
    return shown({ outputSize: this.outputSize });
  }
}

/** `adaptiveAvgPool3d` as a module. Matches `torch.nn.AdaptiveAvgPool3d(outputSize)`. */
export class AdaptiveAvgPool3d extends FallbackModule {
  readonly outputSize: AdaptiveVolume;

  constructor(outputSize: AdaptiveVolume) {
    super();
    this.outputSize = outputSize;
  }

  forward(x: Tensor): Tensor {
    return adaptiveAvgPool3d(x, this.outputSize);
  }

  protected override settings(): string {
    return shown({ outputSize: this.outputSize });
  }
}

abstract class MaxUnpool extends FallbackModule {
  readonly kernelSize: Sizes;
  readonly options: MaxUnpoolOptions<Sizes>;

  constructor(kernelSize: Sizes, options: Omit<MaxUnpoolOptions<Sizes>, "outputSize"> = {}) {
    super();
    this.kernelSize = kernelSize;
    this.options = options;
  }

  protected override settings(): string {
    return shown({ kernelSize: this.kernelSize, ...this.options });
  }
}

/** `maxUnpool1d` as a module. Matches `torch.nn.MaxUnpool1d(kernelSize, …)`. */
export class MaxUnpool1d extends MaxUnpool {
  forward(x: Tensor, indices: Tensor, outputSize: Shape | null = null): Tensor {
    return maxUnpool(1, x, indices, this.kernelSize, { ...this.options, outputSize });
  }
}

/** `maxUnpool2d` as a module. Matches `torch.nn.MaxUnpool2d(kernelSize, …)`. */
export class MaxUnpool2d extends MaxUnpool {
  forward(x: Tensor, indices: Tensor, outputSize: Shape | null = null): Tensor {
    return maxUnpool(2, x, indices, this.kernelSize, { ...this.options, outputSize });
  }
}

/** `maxUnpool3d` as a module. Matches `torch.nn.MaxUnpool3d(kernelSize, …)`. */
export class MaxUnpool3d extends MaxUnpool {
  forward(x: Tensor, indices: Tensor, outputSize: Shape | null = null): Tensor {
    return maxUnpool(3, x, indices, this.kernelSize, { ...this.options, outputSize });
  }
}

abstract class LPPool extends FallbackModule {
  readonly normType: number;
  readonly kernelSize: Sizes;
  readonly options: LPPoolOptions<Sizes>;

  constructor(normType: number, kernelSize: Sizes, options: LPPoolOptions<Sizes> = {}) {
    super();
    this.normType = normType;
    this.kernelSize = kernelSize;
    this.options = options;
  }

  protected override settings(): string {
    return shown({ normType: this.normType, kernelSize: this.kernelSize, ...this.options });
  }
}

/** `lpPool1d` as a module. Matches `torch.nn.LPPool1d(normType, kernelSize, …)`. */
export class LPPool1d extends LPPool {
  forward(x: Tensor): Tensor {
    return lpPool(1, x, this.normType, this.kernelSize, this.options);
  }
}

/** `lpPool2d` as a module. Matches `torch.nn.LPPool2d(normType, kernelSize, …)`. */
export class LPPool2d extends LPPool {
  forward(x: Tensor): Tensor {
    return lpPool(2, x, this.normType, this.kernelSize, this.options);
  }
}

/** `lpPool3d` as a module. Matches `torch.nn.LPPool3d(normType, kernelSize, …)`. */
export class LPPool3d extends LPPool {
  forward(x: Tensor): Tensor {
    return lpPool(3, x, this.normType, this.kernelSize, this.options);
  }
}

abstract class FractionalMaxPool<Indices extends boolean> extends FallbackModule {
  readonly kernelSize: Sizes;
  readonly options: FractionalMaxPoolOptions<Indices>;

  constructor(kernelSize: Sizes, options: FractionalMaxPoolOptions<Indices>) {
    super();
    this.kernelSize = kernelSize;
    this.options = options;
  }

  protected override settings(): string {
    const { randomSamples: _, ...options } = this.options;
    return shown({ kernelSize: this.kernelSize, ...options });
  }
}

/** `fractionalMaxPool2d` as a module. Matches `torch.nn.FractionalMaxPool2d(kernelSize, …)`. */
export class FractionalMaxPool2d<Indices extends boolean = false> extends FractionalMaxPool<Indices> {
  forward(x: Tensor): MaxPooled3d<Indices> {
    return fractionalMaxPool(2, x, this.kernelSize, this.options);
  }
}

/** `fractionalMaxPool3d` as a module. Matches `torch.nn.FractionalMaxPool3d(kernelSize, …)`. */
export class FractionalMaxPool3d<Indices extends boolean = false> extends FractionalMaxPool<Indices> {
  forward(x: Tensor): MaxPooled3d<Indices> {
    return fractionalMaxPool(3, x, this.kernelSize, this.options);
  }
}
