/** Padding as plain loops in float64: the specification and the test oracle. */

type Values = ArrayLike<number>;

const origins: Record<string, (o: number, n: number, left: number) => number> = {
  constant: (o, n, left) => (o >= left && o - left < n ? o - left : -1),
  reflect: (o, n, left) => (o < left ? left - o : o - left >= n ? 2 * (n - 1) - (o - left) : o - left),
  replicate: (o, n, left) => Math.min(Math.max(o - left, 0), n - 1),
  circular: (o, n, left) => (o - left + n) % n,
};

/** x has `shape`; `padding` is [before, after] of the last axis, then of the one before it, and so on. */
export function padReference(
  x: Values,
  dy: Values,
  shape: readonly number[],
  padding: readonly number[],
  mode = "constant",
  value = 0,
): { y: Float64Array; dx: Float64Array } {
  const before = shape.map((_, i) => padding[2 * (shape.length - 1 - i)] ?? 0);
  const padded = shape.map((n, i) => n + before[i]! + (padding[2 * (shape.length - 1 - i) + 1] ?? 0));
  const y = new Float64Array(padded.reduce((a, b) => a * b, 1));
  const dx = new Float64Array(x.length);
  for (let e = 0; e < y.length; e++) {
    let at = 0;
    let inside = true;
    for (let i = 0, rest = e, span = y.length; i < shape.length; i++) {
      span /= padded[i]!;
      const o = Math.floor(rest / span);
      rest %= span;
      const origin = origins[mode]!(o, shape[i]!, before[i]!);
      inside &&= origin >= 0;
      at = at * shape[i]! + origin;
    }
    y[e] = inside ? x[at]! : value;
    if (inside) dx[at]! += dy[e]!;
  }
  return { y, dx };
}
