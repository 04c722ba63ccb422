/**
 * Attention as plain loops in float64: the specification and the test oracle.
 *
 *   y = softmax(scale · q kᵀ) v, the softmax over the keys; with `isCausal` query i sees the keys j ≤ i
 *
 * q and dy: [batch, heads, queries, dim]; k and v: [batch, kvHeads, keys, dim]; query head h reads key head h·kvHeads/heads.
 */
export interface AttentionDims {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly dim: number;
  readonly isCausal?: boolean | undefined;
  readonly scale?: number | undefined;
}

type Values = ArrayLike<number>;

export function attentionReference(
  q: Values,
  k: Values,
  v: Values,
  dy: Values,
  { batch, heads, kvHeads, queries, keys, dim, isCausal = false, scale = 1 / Math.sqrt(dim) }: AttentionDims,
): { y: Float64Array; dq: Float64Array; dk: Float64Array; dv: Float64Array } {
  const y = new Float64Array(q.length);
  const dq = new Float64Array(q.length);
  const dk = new Float64Array(k.length);
  const dv = new Float64Array(v.length);
  const p = new Float64Array(keys);
  for (let row = 0; row < batch * heads * queries; row++) {
    const i = row % queries;
    const head = Math.floor(row / queries);
    const kvHead = Math.floor(head / heads) * kvHeads + Math.floor(((head % heads) * kvHeads) / heads);
    const q0 = row * dim;
    const kv0 = kvHead * keys * dim;
    const end = isCausal ? Math.min(keys, i + 1) : keys;
    let max = Number.NEGATIVE_INFINITY;
    for (let j = 0; j < end; j++) {
      let s = 0;
      for (let c = 0; c < dim; c++) s += q[q0 + c]! * k[kv0 + j * dim + c]!;
      p[j] = s * scale;
      max = Math.max(max, p[j]!);
    }
    let sum = 0;
    for (let j = 0; j < end; j++) sum += p[j] = Math.exp(p[j]! - max);
    let delta = 0;
    for (let j = 0; j < end; j++) p[j]! /= sum;
    for (let c = 0; c < dim; c++) {
      for (let j = 0; j < end; j++) y[q0 + c]! += p[j]! * v[kv0 + j * dim + c]!;
      delta += y[q0 + c]! * dy[q0 + c]!;
    }
    for (let j = 0; j < end; j++) {
      let dp = 0;
      for (let c = 0; c < dim; c++) dp += dy[q0 + c]! * v[kv0 + j * dim + c]!;
      const ds = p[j]! * (dp - delta) * scale;
      for (let c = 0; c < dim; c++) {
        dv[kv0 + j * dim + c]! += p[j]! * dy[q0 + c]!;
        dq[q0 + c]! += ds * k[kv0 + j * dim + c]!;
        dk[kv0 + j * dim + c]! += ds * q[q0 + c]!;
      }
    }
  }
  return { y, dq, dk, dv };
}
