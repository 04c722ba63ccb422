/**
 * Attention as plain loops in float64: the specification and the test oracle.
 *
 *   y = (m ⊙ p) v    p = softmax(scale · q kᵀ + mask) over the keys that a query sees; all zero where it sees none
 *
 * q: [batch, heads, queries, dim]; k: [batch, kvHeads, keys, dim]; v: [batch, kvHeads, keys, valueDim]; dy as y; query head h
 * reads key head h·kvHeads/heads. Query i stands at place queryOffset + i among the keys and sees those before keyLength: with
 * `isCausal` up to its own place, with `window` from `left` before it to `right` after it, −1 being no limit.
 */
export interface AttentionDims {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly dim: number;
  readonly valueDim?: number | undefined;
  readonly isCausal?: boolean | undefined;
  readonly scale?: number | undefined;
  readonly window?: readonly [left: number, right: number] | undefined;
  readonly keyLength?: number | undefined;
  readonly queryOffset?: number | undefined;
  /** Each axis of the shape is that of [batch, heads, queries, keys] or 1. Added to the scores; −∞ hides a key. */
  readonly mask?: { readonly values: Values; readonly shape: readonly number[] } | undefined;
  readonly dropout?:
    | { readonly p: number; readonly stream: number; readonly seed: readonly [number, number] }
    | undefined;
}

type Values = ArrayLike<number>;

export function attentionReference(
  q: Values,
  k: Values,
  v: Values,
  dy: Values,
  {
    batch,
    heads,
    kvHeads,
    queries,
    keys,
    dim,
    valueDim = dim,
    isCausal = false,
    scale = 1 / Math.sqrt(dim),
    window: [left, right] = [-1, -1],
    keyLength = keys,
    queryOffset = 0,
    mask,
    dropout,
  }: AttentionDims,
): { y: Float64Array; dq: Float64Array; dk: Float64Array; dv: Float64Array; dmask: Float64Array } {
  const y = new Float64Array(batch * heads * queries * valueDim);
  const dq = new Float64Array(q.length);
  const dk = new Float64Array(k.length);
  const dv = new Float64Array(v.length);
  const dmask = new Float64Array(mask?.values.length ?? 0);
  for (let row = 0; row < batch * heads * queries; row++) {
    const i = row % queries;
    const head = Math.floor(row / queries) % heads;
    const b = Math.floor(row / queries / heads);
    const kvHead = b * kvHeads + Math.floor((head * kvHeads) / heads);
    const place = queryOffset + i;
    const seen: number[] = [];
    for (let j = 0; j < keyLength; j++) {
      const inside = (left < 0 || j >= place - left) && (right < 0 || j <= place + right) && (!isCausal || j <= place);
      if (inside && !(mask && mask.values[maskIndex(mask.shape, [b, head, i, j])] === Number.NEGATIVE_INFINITY))
        seen.push(j);
    }
    const at = (j: number, width: number): number => (kvHead * keys + j) * width;
    const scores = seen.map((j) => {
      let s = 0;
      for (let c = 0; c < dim; c++) s += q[row * dim + c]! * k[at(j, dim) + c]!;
      return s * scale + (mask ? mask.values[maskIndex(mask.shape, [b, head, i, j])]! : 0);
    });
    const max = scores.reduce((a, s) => Math.max(a, s), Number.NEGATIVE_INFINITY);
    const weights = scores.map((s) => Math.exp(s - max));
    const sum = weights.reduce((a, w) => a + w, 0);
    const p = weights.map((w) => w / sum);
    const m = seen.map((j) => (dropout ? dropoutFactor(dropout, row, j) : 1));
    let delta = 0;
    for (let c = 0; c < valueDim; c++) {
      let e = 0;
      for (const [n, j] of seen.entries()) e += m[n]! * p[n]! * v[at(j, valueDim) + c]!;
      y[row * valueDim + c] = e;
      delta += e * dy[row * valueDim + c]!;
    }
    for (const [n, j] of seen.entries()) {
      let dp = 0;
      for (let c = 0; c < valueDim; c++) {
        dp += dy[row * valueDim + c]! * v[at(j, valueDim) + c]!;
        dv[at(j, valueDim) + c]! += m[n]! * p[n]! * dy[row * valueDim + c]!;
      }
      const ds = p[n]! * (m[n]! * dp - delta);
      if (mask) dmask[maskIndex(mask.shape, [b, head, i, j])]! += ds;
      for (let c = 0; c < dim; c++) {
        dq[row * dim + c]! += scale * ds * k[at(j, dim) + c]!;
        dk[at(j, dim) + c]! += scale * ds * q[row * dim + c]!;
      }
    }
  }
  return { y, dq, dk, dv, dmask };
}

const maskIndex = (shape: readonly number[], at: readonly number[]): number =>
  shape.reduce((index, d, axis) => index * d + (d === 1 ? 0 : at[axis]!), 0);

/** Key j of a row is kept where word j % 4 of pcg4d(⌊j / 4⌋, row, a hash of seed and stream) is at least p · 2³². */
function dropoutFactor({ p, stream, seed }: NonNullable<AttentionDims["dropout"]>, row: number, j: number): number {
  const [a, b] = pcg4d([seed[0], seed[1], stream, 0]);
  const bits = pcg4d([Math.floor(j / 4), row, a, b])[j % 4]!;
  return p < 1 && bits >= Math.min(Math.round(p * 2 ** 32), 2 ** 32 - 1) ? 1 / (1 - p) : 0;
}

type Four = readonly [number, number, number, number];

/** Jarzynski & Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020. */
function pcg4d(counter: Four): Four {
  let [x, y, z, w] = counter.map((v) => (Math.imul(v, 1664525) + 1013904223) >>> 0) as unknown as Four;
  const stir = (): void => {
    x = (x + Math.imul(y, w)) >>> 0;
    y = (y + Math.imul(z, x)) >>> 0;
    z = (z + Math.imul(x, y)) >>> 0;
    w = (w + Math.imul(y, z)) >>> 0;
  };
  stir();
  [x, y, z, w] = [x, y, z, w].map((v) => (v ^ (v >>> 16)) >>> 0) as unknown as Four;
  stir();
  return [x, y, z, w];
}
