/** Scale as plain loops in float64: the specification and the test oracle. Rows of `w.length` elements. */
export function scaleReference(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  dy: ArrayLike<number>,
): { y: Float64Array; dx: Float64Array; dw: Float64Array } {
  const y = new Float64Array(x.length);
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(w.length);
  for (let i = 0; i < x.length; i++) {
    const c = i % w.length;
    y[i] = x[i]! * w[c]!;
    dx[i] = dy[i]! * w[c]!;
    dw[c]! += dy[i]! * x[i]!;
  }
  return { y, dx, dw };
}
