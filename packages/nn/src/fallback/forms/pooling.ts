/**
 * Pooling over one or two axes, or more. Windows of one size are a view of the padded tensor; those of adaptive pooling, which
 * differ in size, are gathered, each as long as the longest.
 */
import type { Form, Jax, JaxArray } from "../jax.ts";
import { isNan } from "./activations.ts";
import { computed, padAxis } from "./elementwise.ts";

/** One axis that windows lie along. */
export interface Axis {
  readonly size: number;
  readonly out: number;
  /** 0: window o holds elements ⌊o·size/out⌋ to ⌈(o + 1)·size/out⌉ − 1. */
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly dilation: number;
}

/** Where the taps of each window are, [out][taps]: −1 for what is no element. */
function placesOf({ size, out, kernel, stride, padding, dilation }: Axis): number[][] {
  const inside = (i: number): number => (i >= 0 && i < size ? i : -1);
  if (kernel > 0) {
    return Array.from({ length: out }, (_, o) =>
      Array.from({ length: kernel }, (_, k) => inside(o * stride - padding + k * dilation)),
    );
  }
  const ends = Array.from({ length: out }, (_, o) => [Math.floor((o * size) / out), Math.ceil(((o + 1) * size) / out)]);
  const most = Math.max(...ends.map(([start, end]) => end! - start!));
  return ends.map(([start, end]) => Array.from({ length: most }, (_, k) => (start! + k < end! ? start! + k : -1)));
}

/** [..., sizes] → [..., outs, taps]: the windows along the last axes. What is no element holds `none`. */
function windowsOf(jax: Jax, x: JaxArray, axes: readonly Axis[], none: number): JaxArray {
  const { numpy: np, lax } = jax;
  const first = x.ndim - axes.length;
  const lead = x.shape.slice(0, first);
  let y = x;
  if (axes.every(({ kernel }) => kernel > 0)) {
    const spans = axes.map(({ kernel, dilation }) => (kernel - 1) * dilation + 1);
    axes.forEach(({ size, out, stride, padding }, i) => {
      const after = (out - 1) * stride + spans[i]! - size - padding;
      y = padAxis(jax, y, first + i, [padding, after], "constant", none);
    });
    y = lax.reduceWindow(
      y,
      (window) => window,
      spans,
      axes.map(({ stride }) => stride),
    );
    axes.forEach(({ kernel, dilation }, i) => {
      if (dilation === 1) return;
      // every dilation-th tap: pad to kernel · dilation, and take the first of each
      const axis = first + axes.length + i;
      const { shape } = (y = padAxis(jax, y, axis, [0, dilation - 1], "constant"));
      const split = y.reshape([...shape.slice(0, axis), kernel, dilation, ...shape.slice(axis + 1)]);
      y = split.slice(...split.shape.map((_, d): [] | number => (d === axis + 1 ? 0 : [])));
    });
    return y;
  }
  const outs = axes.map(({ out }) => out);
  const places = axes.map(placesOf);
  places.forEach((table, i) => {
    const flat = Int32Array.from(table.flat(), (p) => Math.max(p, 0));
    y = np.take(y, np.array(flat), first + i);
    // also because the gradient of `take` cannot follow a change of shape in jax-js
    const real = np
      .array(Int32Array.from(table.flat(), (p) => Number(p >= 0)))
      .reshape(y.shape.map((size, axis) => (axis === first + i ? size : 1)));
    y = np.where(real.greater(0), y, none);
  });
  const taps = places.map((table) => table[0]!.length);
  const split = y.reshape([...lead, ...outs.flatMap((out, i) => [out, taps[i]!])]);
  const [evens, odds] = [0, 1].map((odd) => axes.map((_, i) => first + 2 * i + odd));
  return split.transpose([...lead.keys(), ...evens!, ...odds!]);
}

/** The places of the taps in their plane, [outs, taps], −1 for what is no element, as a flat list. */
function planeOf(axes: readonly Axis[]): { values: Int32Array<ArrayBuffer>; outs: number; taps: number } {
  const tables = axes.map(placesOf);
  let rows: number[][] = [[0]];
  tables.forEach((table, i) => {
    const { size } = axes[i]!;
    rows = rows.flatMap((row) =>
      table.map((places) => row.flatMap((at) => places.map((p) => (p < 0 || at < 0 ? -1 : at * size + p)))),
    );
  });
  return { values: Int32Array.from(rows.flat()), outs: rows.length, taps: rows[0]!.length };
}

/** The maximum, and where it was: the first one in the window, or the last NaN. */
export const maxPool: Form<{ axes: readonly Axis[] }, JaxArray[]> = (jax, { x }, { axes }) => {
  const { numpy: np } = jax;
  const first = x!.ndim - axes.length;
  const lead = x!.shape.slice(0, first);
  const { values, outs, taps } = planeOf(axes);
  const views = windowsOf(jax, x!, axes, Number.NEGATIVE_INFINITY);
  const windows = computed(jax, views.reshape([...lead, outs, taps]));
  const places = np.array(values, { shape: [outs, taps] });
  const real = places.ref.greaterEqual(0);
  const held = jax.lax.stopGradient(windows.ref);
  const nan = np.logicalAnd(isNan(jax, held.ref), real.ref);
  const clean = computed(jax, np.where(nan.ref, Number.NEGATIVE_INFINITY, held));
  const most = np.max(clean.ref, -1, { keepdims: true });
  const best = np.logicalAnd(clean.equal(most), real);
  const order = np.arange(0, taps, 1, { dtype: np.int32 });
  const lastNan = np.max(np.where(nan, order.ref, -1), -1, { keepdims: true });
  const firstBest = np.min(np.where(best, order.ref, taps), -1, { keepdims: true });
  const at = np.where(lastNan.ref.less(0), firstBest, lastNan);
  const chosen = order.equal(at);
  const shape = [...lead, ...axes.map(({ out }) => out)];
  // A window of padding alone: −∞, and no place.
  const none = np.logicalNot(np.any(chosen.ref, -1));
  const value = np.where(none.ref, Number.NEGATIVE_INFINITY, np.where(chosen.ref, windows, 0).sum(-1));
  const place = np.where(none, -1, np.where(chosen, places, 0).sum(-1));
  return [value.reshape(shape), place.reshape(shape)];
};

export interface AvgPoolSettings {
  readonly axes: readonly Axis[];
  readonly countIncludePad?: boolean | undefined;
  readonly divisor?: number | null | undefined;
}

/** How many elements each window of an axis has, with or without the padding. */
function sizesOf(axis: Axis, includePad: boolean): number[] {
  const { size, stride, padding, kernel } = axis;
  return placesOf(axis).map((places, o) =>
    includePad && kernel > 0
      ? Math.min(o * stride - padding + kernel, size + padding) - (o * stride - padding)
      : places.filter((p) => p >= 0).length,
  );
}

export const avgPool: Form<AvgPoolSettings, JaxArray> = (jax, { x }, { axes, countIncludePad = true, divisor }) => {
  const { numpy: np } = jax;
  const windows = windowsOf(jax, x!, axes, 0);
  const rank = windows.ndim;
  const sum = windows.sum(axes.map((_, i) => rank - axes.length + i));
  if (divisor) return sum.mul(1 / divisor);
  return axes.reduce((y, axis, i) => {
    const scale = Float32Array.from(sizesOf(axis, countIncludePad), (n) => 1 / n);
    return y.mul(np.array(scale, { shape: [axis.out, ...axes.slice(i + 1).map(() => 1)] }));
  }, sum);
};
