/**
 * Softmax, log-softmax and softmin as plain loops in float64: the specification and the test oracle. x is [outer, n, inner],
 * normalized over n. With `period`, the L of causal scores [..., L, n] (inner is 1), row i sees columns 0 to i % L.
 */
export function softmaxReference(
  kind: "softmax" | "logSoftmax" | "softmin",
  x: ArrayLike<number>,
  n: number,
  inner: number,
  dy: ArrayLike<number>,
  period = 0,
): { y: Float64Array; dx: Float64Array } {
  const y = new Float64Array(x.length);
  const dx = new Float64Array(x.length);
  const sign = kind === "softmin" ? -1 : 1;
  for (let row = 0; row < x.length / n; row++) {
    const at = (c: number): number => (Math.floor(row / inner) * n + c) * inner + (row % inner);
    const limit = period === 0 ? n : Math.min(n, (row % period) + 1);
    let top = Number.NEGATIVE_INFINITY;
    for (let c = 0; c < limit; c++) top = Math.max(top, sign * x[at(c)]!);
    let sum = 0;
    for (let c = 0; c < limit; c++) sum += Math.exp(sign * x[at(c)]! - top);
    let dot = 0;
    for (let c = 0; c < n; c++) {
      const log = (c < limit ? sign * x[at(c)]! : Number.NEGATIVE_INFINITY) - top - Math.log(sum);
      y[at(c)] = kind === "logSoftmax" ? log : Math.exp(log);
      dot += kind === "logSoftmax" ? dy[at(c)]! : dy[at(c)]! * y[at(c)]!;
    }
    for (let c = 0; c < limit; c++) {
      const g = dy[at(c)]!;
      dx[at(c)] = kind === "logSoftmax" ? g - Math.exp(y[at(c)]!) * dot : sign * y[at(c)]! * (g - dot);
    }
  }
  return { y, dx };
}
