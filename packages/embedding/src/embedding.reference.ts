/** Embedding as plain loops in float64: the specification and the test oracle. `weight` has rows of `dim` elements. */
export function embeddingReference(
  ids: ArrayLike<number>,
  weight: ArrayLike<number>,
  dim: number,
  dy: ArrayLike<number>,
  { paddingIdx = null, scaleGradByFreq = false }: { paddingIdx?: number | null; scaleGradByFreq?: boolean } = {},
): { y: Float64Array; dw: Float64Array } {
  const y = new Float64Array(ids.length * dim);
  const dw = new Float64Array(weight.length);
  const counts = new Float64Array(weight.length / dim);
  for (let i = 0; i < ids.length; i++) counts[ids[i]!]!++;
  for (let i = 0; i < ids.length; i++) {
    const id = ids[i]!;
    for (let c = 0; c < dim; c++) {
      y[i * dim + c] = weight[id * dim + c]!;
      if (id !== paddingIdx) dw[id * dim + c]! += dy[i * dim + c]! / (scaleGradByFreq ? counts[id]! : 1);
    }
  }
  return { y, dw };
}
