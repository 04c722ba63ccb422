/** Attention, with its scores in memory; and the rotation of features by their positions. */
import type { Form, Jax, JaxArray } from "../jax.ts";
import { project } from "./matrix.ts";
import { counts, drop, interleave, keeps, part, pcg4d } from "./random.ts";
import { band, exponentials } from "./softmax.ts";

export interface AttentionSettings {
  readonly scale: number;
  readonly dropout: number;
  readonly isCausal?: boolean | undefined;
  readonly window?: number | readonly [left: number, right: number] | null | undefined;
  readonly queryOffset?: number | undefined;
}

/** Whether a weight [rows, keys] stays: word j % 4 of pcg4d(⌊j / 4⌋, row, a hash of seed and stream) decides about key j. */
function kept(jax: Jax, rows: number, keys: number, p: number, rng: JaxArray): JaxArray {
  const { numpy: np } = jax;
  const zero = np.full([1], 0, { dtype: np.uint32 });
  const [a, b, c, d] = pcg4d(jax, [part(rng, 0), part(rng, 1), part(rng, 2), zero]);
  c.dispose();
  d.dispose();
  const columns = counts(jax, Math.ceil(keys / 4)).reshape([1, -1]);
  const words = pcg4d(jax, [columns, counts(jax, rows).reshape([rows, 1]), a.reshape([1, 1]), b.reshape([1, 1])]);
  const shape = [rows, Math.ceil(keys / 4)];
  const bits = interleave(jax, words.map((word) => np.broadcastTo(word, shape)) as typeof words);
  return keeps(jax, bits.slice([], [0, keys]), p);
}

/** What a mask adds to scores of `shape`, and where a query may look: one of the two, or both. */
function maskOf(jax: Jax, mask: JaxArray, shape: readonly number[]): { added: JaxArray | null; seen: JaxArray } {
  const { numpy: np } = jax;
  const keys = shape.at(-1)!;
  const width = mask.shape.at(-1) ?? 1;
  const fitting =
    mask.ndim > 0 && width > keys ? mask.slice(...mask.shape.slice(1).map(() => [] as []), [0, keys]) : mask;
  if (fitting.dtype === np.bool) return { added: null, seen: np.broadcastTo(fitting, [...shape]) };
  const wide = np.broadcastTo(fitting, [...shape]);
  const seen = wide.ref.greater(Number.NEGATIVE_INFINITY);
  return { added: np.where(seen.ref, wide, 0), seen };
}

/** softmax(scale · q kᵀ + mask) v: q [batch, heads, queries, dim], k and v with as many heads or a divisor of them. */
function attend(
  jax: Jax,
  q: JaxArray,
  k: JaxArray,
  v: JaxArray,
  given: Partial<Record<string, JaxArray>>,
  s: AttentionSettings,
): JaxArray {
  const { numpy: np } = jax;
  const [batch, heads, queries] = q.shape as [number, number, number, number];
  const keys = k.shape[2]!;
  const group = heads / k.shape[1]!;
  const [ks, vs] = [np.repeat(k, group, 1), np.repeat(v, group, 1)];
  let scores = np.matmul(q.mul(s.scale), np.swapaxes(ks, -1, -2));
  const shape = [batch, heads, queries, keys];
  let [left, right] = [-1, -1];
  if (typeof s.window === "number") left = right = s.window - 1;
  else if (s.window) [left, right] = s.window;
  if (s.isCausal) right = 0;
  const place = s.queryOffset ?? 0;
  let seen: JaxArray | null = null;
  if (left >= 0 || right >= 0) {
    const inside = band(
      jax,
      queries,
      keys,
      left < 0 ? -Infinity : place - left,
      right < 0 ? Infinity : place + right + 1,
    );
    seen = np.broadcastTo(inside, shape);
  }
  if (given.mask) {
    const mask = maskOf(jax, given.mask, shape);
    if (mask.added) scores = scores.add(mask.added);
    seen = seen ? np.logicalAnd(seen, mask.seen) : mask.seen;
  }
  let p = weightsOf(jax, scores, seen);
  if (s.dropout > 0) {
    const stay = s.dropout < 1 ? kept(jax, batch * heads * queries, keys, s.dropout, given.rng!) : null;
    p = stay ? np.where(stay.reshape(shape), p.mul(1 / (1 - s.dropout)), 0) : p.mul(0);
  }
  return np.matmul(p, vs);
}

/** softmax of what is seen; all zero where a query sees no key. */
function weightsOf(jax: Jax, scores: JaxArray, seen: JaxArray | null): JaxArray {
  const [shifted, e, sum] = exponentials(jax, scores, -1, seen);
  shifted.dispose();
  return seen ? e.div(jax.numpy.where(sum.ref.equal(0), 1, sum)) : e.div(sum);
}

export const scaledDotProductAttention: Form<AttentionSettings & { keyLength: number }, JaxArray> = (jax, x, s) => {
  const first = (y: JaxArray): JaxArray => (y.shape[2] === s.keyLength ? y : y.slice([], [], [0, s.keyLength]));
  return attend(jax, x.q!, first(x.k!), first(x.v!), x, s);
};

export interface SelfAttentionSettings extends AttentionSettings {
  readonly numHeads: number;
  readonly numKvHeads: number;
}

export const selfAttention: Form<SelfAttentionSettings, JaxArray> = (jax, x, s) => {
  const { numpy: np } = jax;
  const [batch, length, width] = x.qkv!.shape as [number, number, number];
  const dim = width / (s.numHeads + 2 * s.numKvHeads);
  const places = [s.numHeads * dim, (s.numHeads + s.numKvHeads) * dim];
  const [q, k, v] = np
    .split(x.qkv!, places, 2)
    .map((y) => y.reshape([batch, length, -1, dim]).transpose([0, 2, 1, 3])) as [JaxArray, JaxArray, JaxArray];
  const y = attend(jax, q, k, v, x, s);
  return y.transpose([0, 2, 1, 3]).reshape([batch, length, s.numHeads * dim]);
};

// Multi-head attention --------------------------------------------------------------------------

export interface MultiheadSettings {
  readonly heads: number;
  readonly batchFirst: boolean;
  readonly addZeroAttn: boolean;
  readonly isCausal: boolean;
  readonly needWeights: boolean;
  readonly averageAttnWeights: boolean;
  readonly dropout: number;
  /** Whether dropout counts elements of the weights, as the kernels do where they keep the weights. */
  readonly elementwise: boolean;
  /** key is query; value is key: then they are not among the tensors. */
  readonly sameKey: boolean;
  readonly sameValue: boolean;
}

/** [batch, heads, queries, cols], added to the scores; −∞ hides a key. Appended columns are seen by everyone. */
function multiheadMask(
  jax: Jax,
  given: Record<string, JaxArray>,
  s: MultiheadSettings,
  shape: readonly number[],
  extra: number,
) {
  const { numpy: np } = jax;
  const [batch, heads, queries, cols] = shape as [number, number, number, number];
  const keys = cols - extra;
  const parts: JaxArray[] = [];
  const add = (mask: JaxArray, to: number[]): void => {
    const floats = mask.dtype === np.bool ? np.where(mask, Number.NEGATIVE_INFINITY, 0) : mask;
    const placed = floats.reshape(to);
    parts.push(
      extra > 0
        ? np.pad(placed, [
            [0, 0],
            [0, 0],
            [0, 0],
            [0, extra],
          ])
        : placed,
    );
  };
  const { attnMask, keyPaddingMask } = given;
  if (attnMask) add(attnMask, attnMask.ndim === 2 ? [1, 1, queries, keys] : [batch, heads, queries, keys]);
  if (keyPaddingMask) add(keyPaddingMask, [batch, 1, 1, keys]);
  if (s.isCausal) {
    const hidden = np.logicalNot(band(jax, queries, keys, -Infinity, 1));
    add(hidden, [1, 1, queries, keys]);
  }
  return parts.length > 0 ? parts.reduce((a, b) => a.add(b)) : null;
}

export const multiheadAttention: Form<MultiheadSettings, JaxArray[]> = (jax, given, s) => {
  const { numpy: np } = jax;
  const { query } = given;
  const key = s.sameKey ? query!.ref : given.key!;
  const value = s.sameValue ? key.ref : given.value!;
  const single = query!.ndim === 2;
  const { shape } = query!;
  const embedDim = shape.at(-1)!;
  const dim = embedDim / s.heads;
  // [batch, length, features]
  const rows = (x: JaxArray): JaxArray =>
    single ? x.reshape([1, ...x.shape]) : s.batchFirst ? x : x.transpose([1, 0, 2]);
  const split = (x: JaxArray): (JaxArray | undefined)[] => np.split(x, 3, 0);
  const weights = given.inWeight ? split(given.inWeight) : [given.qWeight, given.kWeight, given.vWeight];
  const biases = given.inBias ? split(given.inBias) : [];
  const [q, k, v] = [query!, key, value].map((x, i) => project(jax, rows(x), weights[i]!, biases[i])) as [
    JaxArray,
    JaxArray,
    JaxArray,
  ];
  const [batch, queries] = q.shape as [number, number, number];
  const appended = (x: JaxArray, bias: JaxArray | undefined): JaxArray => {
    const row = [batch, 1, embedDim];
    const more = [...(bias ? [np.broadcastTo(bias, row)] : []), ...(s.addZeroAttn ? [np.zeros(row)] : [])];
    return more.length > 0 ? np.concatenate([x, ...more], 1) : x;
  };
  const heads = (x: JaxArray): JaxArray => x.reshape([batch, -1, s.heads, dim]).transpose([0, 2, 1, 3]);
  const extra = Number(given.biasK !== undefined) + Number(s.addZeroAttn);
  const [qs, ks, vs] = [q, appended(k, given.biasK), appended(v, given.biasV)].map(heads) as [
    JaxArray,
    JaxArray,
    JaxArray,
  ];
  const scoresShape = [batch, s.heads, queries, ks.shape[2]!];
  const mask = multiheadMask(jax, given, s, scoresShape, extra);
  let scores = np.matmul(qs.mul(1 / Math.sqrt(dim)), np.swapaxes(ks, -1, -2));
  let seen: JaxArray | null = null;
  if (mask) {
    const { added, seen: visible } = maskOf(jax, mask, scoresShape);
    scores = scores.add(added!);
    seen = visible;
  }
  let p = weightsOf(jax, scores, seen);
  if (s.dropout > 0 && s.elementwise) p = drop(jax, p, s.dropout, given.rng!);
  else if (s.dropout > 0) {
    const stay = s.dropout < 1 ? kept(jax, batch * s.heads * queries, scoresShape[3]!, s.dropout, given.rng!) : null;
    p = stay ? np.where(stay.reshape(scoresShape), p.mul(1 / (1 - s.dropout)), 0) : p.mul(0);
  }
  const joined = np.matmul(p.ref, vs).transpose([0, 2, 1, 3]).reshape([batch, queries, embedDim]);
  const y = project(jax, joined, given.outWeight!, given.outBias);
  const output = (single || s.batchFirst ? y : y.transpose([1, 0, 2])).reshape(shape);
  if (!s.needWeights) {
    p.dispose();
    return [output];
  }
  const kept4 = s.averageAttnWeights ? np.mean(p, 1) : p;
  return [output, single ? kept4.reshape(kept4.shape.slice(1)) : kept4];
};

// Rotary ----------------------------------------------------------------------------------------

export interface RotarySettings {
  readonly base: number;
  readonly dim: number;
  readonly interleaved: boolean;
}

/**
 * Turns the first `dim` features by positions [length] or [batch, length] of i32. An angle of many turns has no accurate cosine
 * in f32: a position is four digits of base 256, and the rotations by its digits, from a table in float64, are multiplied.
 */
export const rotary: Form<RotarySettings, JaxArray> = ({ numpy: np }, { x, positions }, { base, dim, interleaved }) => {
  const { shape } = x!;
  const features = shape.at(-1)!;
  const half = dim / 2;
  const [batches, length] = positions!.ndim === 2 ? positions!.shape : [1, positions!.shape[0]!];
  const flat = positions!.reshape([-1]);
  const backwards = flat.ref.less(0).reshape([-1, 1]);
  const size = np.abs(flat);
  const whole = (n: number): JaxArray => np.full([], n, { dtype: np.int32 });
  let turn: { cos: JaxArray; sin: JaxArray } | null = null;
  for (let place = 0; place < 4; place++) {
    const digit = np.bitwiseAnd(np.rightShift(size.ref, whole(8 * place)), whole(255));
    const table = (f: (angle: number) => number): JaxArray => {
      const values = Float32Array.from({ length: 256 * half }, (_, i) =>
        f(Math.floor(i / half) * 256 ** place * base ** ((-2 * (i % half)) / dim)),
      );
      return np.take(np.array(values, { shape: [256, half] }), digit.ref, 0);
    };
    const [cos, sin] = [table(Math.cos), table(Math.sin)];
    digit.dispose();
    turn = turn
      ? {
          cos: turn.cos.ref.mul(cos.ref).sub(turn.sin.ref.mul(sin.ref)),
          sin: turn.sin.mul(cos).add(turn.cos.mul(sin)),
        }
      : { cos, sin };
  }
  size.dispose();
  const { cos, sin } = turn!;
  const place = [batches!, ...shape.slice(positions!.ndim === 2 ? 1 : 0, -2).map(() => 1), length!, half];
  const fit = (table: JaxArray): JaxArray => table.reshape(positions!.ndim === 2 ? place : [length!, half]);
  const c = fit(cos);
  const s = fit(np.where(backwards, sin.ref.mul(-1), sin));
  const [turned, rest] = dim < features ? np.split(x!, [dim], -1) : [x!, null];
  const pairs = turned!.reshape([...shape.slice(0, -1), ...(interleaved ? [half, 2] : [2, half])]);
  const axis = interleaved ? -1 : -2;
  const [a, b] = np.split(pairs, 2, axis).map((y) => y.reshape([...shape.slice(0, -1), half])) as [JaxArray, JaxArray];
  const y = np.stack([a.ref.mul(c.ref).sub(b.ref.mul(s.ref)), b.mul(c).add(a.mul(s))], axis);
  const joined = y.reshape([...shape.slice(0, -1), dim]);
  return rest ? np.concatenate([joined, rest], -1) : joined;
};
