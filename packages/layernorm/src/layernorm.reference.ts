/** LayerNorm as plain loops in float64: the specification and the test oracle. Rows of `cols` elements. */
export function layerNormReference(
  x: ArrayLike<number>,
  cols: number,
  w: ArrayLike<number> | null,
  b: ArrayLike<number> | null,
  dy: ArrayLike<number>,
  eps = 1e-5,
): { y: Float64Array; dx: Float64Array; dw: Float64Array; db: Float64Array } {
  const y = new Float64Array(x.length);
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(cols);
  const db = new Float64Array(cols);
  for (let base = 0; base < x.length; base += cols) {
    let mean = 0;
    for (let c = 0; c < cols; c++) mean += x[base + c]! / cols;
    let variance = 0;
    for (let c = 0; c < cols; c++) variance += (x[base + c]! - mean) ** 2 / cols;
    const rstd = 1 / Math.sqrt(variance + eps);
    let meanG = 0;
    let meanGX = 0;
    for (let c = 0; c < cols; c++) {
      const xhat = (x[base + c]! - mean) * rstd;
      const g = dy[base + c]! * (w?.[c] ?? 1);
      meanG += g / cols;
      meanGX += (g * xhat) / cols;
      y[base + c] = xhat * (w?.[c] ?? 1) + (b?.[c] ?? 0);
      dw[c]! += dy[base + c]! * xhat;
      db[c]! += dy[base + c]!;
    }
    for (let c = 0; c < cols; c++) {
      const xhat = (x[base + c]! - mean) * rstd;
      dx[base + c] = rstd * (dy[base + c]! * (w?.[c] ?? 1) - meanG - xhat * meanGX);
    }
  }
  return { y, dx, dw, db };
}
