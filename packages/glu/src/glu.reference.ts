/**
 * GLU as plain loops in float64: the specification and the test oracle. x is [outer, 2, half]; f is the activation of the
 * gate, slope its derivative.
 */
export function gluReference(
  x: ArrayLike<number>,
  half: number,
  f: (b: number) => number,
  slope: (b: number) => number,
  dy: ArrayLike<number>,
): { y: Float64Array; dx: Float64Array } {
  const y = new Float64Array(x.length / 2);
  const dx = new Float64Array(x.length);
  for (let i = 0; i < y.length; i++) {
    const at = Math.floor(i / half) * 2 * half + (i % half);
    const [a, b] = [x[at]!, x[at + half]!];
    y[i] = a * f(b);
    dx[at] = dy[i]! * f(b);
    dx[at + half] = dy[i]! * a * slope(b);
  }
  return { y, dx };
}
