/** Pooling as plain loops in float64: the specification and the test oracle. */

/** Along one axis: the elements that each window holds, and its length with the padding that counts. */
export interface ReferenceAxis {
  readonly size: number;
  readonly windows: readonly { readonly taps: readonly number[]; readonly padded: number }[];
}

export interface ReferenceWindow {
  readonly kernel: number;
  readonly stride?: number;
  readonly padding?: number;
  readonly dilation?: number;
  readonly ceilMode?: boolean;
}

export function windowsReference(
  size: number,
  { kernel, stride = kernel, padding = 0, dilation = 1, ceilMode = false }: ReferenceWindow,
): ReferenceAxis {
  const windows: { taps: number[]; padded: number }[] = [];
  for (let start = -padding; ; start += stride) {
    const end = start + (kernel - 1) * dilation + 1;
    // A window that reaches past the end counts in ceil mode alone, once, and if it does not start in the right
    // padding.
    if (end > size + padding && (!ceilMode || start >= size || end - stride >= size + padding)) break;
    const taps = Array.from({ length: kernel }, (_, k) => start + k * dilation).filter((i) => i >= 0 && i < size);
    windows.push({ taps, padded: Math.min(end, size + padding) - start });
  }
  return { size, windows };
}

export function adaptiveReference(size: number, out: number): ReferenceAxis {
  const windows = Array.from({ length: out }, (_, o) => {
    const start = Math.floor((o * size) / out);
    const end = Math.ceil(((o + 1) * size) / out);
    return { taps: Array.from({ length: end - start }, (_, i) => start + i), padded: end - start };
  });
  return { size, windows };
}

/**
 * Planes of rows.size · cols.size elements. `divisor` makes it an average: what to divide by, given how many elements a
 * window has with and without padding.
 */
export function poolingReference(
  x: ArrayLike<number>,
  rows: ReferenceAxis,
  cols: ReferenceAxis,
  dy: ArrayLike<number> | null = null,
  divisor: ((padded: number, taps: number) => number) | null = null,
): { y: Float64Array; dx: Float64Array; indices: Int32Array } {
  const plane = rows.size * cols.size;
  const size = (x.length / plane) * rows.windows.length * cols.windows.length;
  const y = new Float64Array(size);
  const dx = new Float64Array(x.length);
  const indices = new Int32Array(size);
  let o = 0;
  for (let base = 0; base < x.length; base += plane) {
    for (const row of rows.windows) {
      for (const col of cols.windows) {
        const taps = row.taps.flatMap((h) => col.taps.map((w) => h * cols.size + w));
        if (divisor) {
          const n = divisor(row.padded * col.padded, taps.length);
          for (const tap of taps) {
            y[o]! += x[base + tap]! / n;
            if (dy) dx[base + tap]! += dy[o]! / n;
          }
        } else {
          let best = Number.NEGATIVE_INFINITY;
          let at = -1;
          for (const tap of taps) {
            const v = x[base + tap]!;
            if (at < 0 || v > best || Number.isNaN(v)) [best, at] = [v, tap];
          }
          y[o] = best;
          indices[o] = at;
          if (dy && at >= 0) dx[base + at]! += dy[o]!;
        }
        o++;
      }
    }
  }
  return { y, dx, indices };
}
