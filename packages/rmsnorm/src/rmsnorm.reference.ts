/** RMSNorm as plain loops in float64: the specification and the test oracle. Rows of `cols` elements. */
export function rmsNormReference(
  x: ArrayLike<number>,
  cols: number,
  w: ArrayLike<number> | null,
  dy: ArrayLike<number>,
  eps: number = 2 ** -23,
): { y: Float64Array; dx: Float64Array; dw: Float64Array } {
  const y = new Float64Array(x.length);
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(cols);
  for (let base = 0; base < x.length; base += cols) {
    let square = 0;
    for (let c = 0; c < cols; c++) square += x[base + c]! ** 2 / cols;
    const rstd = 1 / Math.sqrt(square + eps);
    let mean = 0;
    for (let c = 0; c < cols; c++) {
      const xhat = x[base + c]! * rstd;
      mean += (dy[base + c]! * (w?.[c] ?? 1) * xhat) / cols;
      y[base + c] = xhat * (w?.[c] ?? 1);
      dw[c]! += dy[base + c]! * xhat;
    }
    for (let c = 0; c < cols; c++) {
      const xhat = x[base + c]! * rstd;
      dx[base + c] = rstd * (dy[base + c]! * (w?.[c] ?? 1) - xhat * mean);
    }
  }
  return { y, dx, dw };
}
