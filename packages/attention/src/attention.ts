/**
 * Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762), computed as FlashAttention-2 does (Dao 2023,
 * arXiv:2307.08691): the score matrix never exists, only tiles of it. Matches torch's scaled_dot_product_attention.
 *
 *   y  = (m ⊙ p) v             p = softmax(s), a softmax in each row     s = scale · q kᵀ + mask
 *   dv = (m ⊙ p)ᵀ dy           ds = p ⊙ (m ⊙ (dy vᵀ) − delta)           delta = Σ dy ⊙ y, one for each query
 *   dq = scale · ds k          dk = scale · dsᵀ q                       dmask = ds
 *
 * m is dropout's: 0 with probability p, else 1 / (1 − p); both passes draw it from the position of a score, so it is never
 * stored. Forward keeps the logarithm of each row's sum, from which backward recomputes p. A row that sees no key is zero, and
 * so are its gradients. Three kernel families compute it: attention.kernels.ts holds the ones for any GPU, attention.matrix.ts
 * those for subgroup matrices.
 * Order of this file: choice of kernels, launchers, options, differentiable functions.
 */
import {
  autocastType,
  cast,
  type Device,
  delegated,
  empty,
  emptyLike,
  type FloatType,
  grid,
  type Kernel,
  needsGrad,
  nextStream,
  record,
  type Shape,
  type Stream,
  sizeOf,
  type Tensor,
  threads,
  variants,
  zeros,
} from "@kindling/core";
import {
  directKernel,
  isFloat,
  type Mask,
  maskGradKernel,
  mergeKernel,
  type Pass,
  paddedDim,
  sumKernel,
  type Tile,
  tileBytes,
  tileKernel,
} from "./attention.kernels.ts";
import { matrixBytes, matrixKernel, PEAKS, peaksKernel } from "./attention.matrix.ts";

export { type CachedAttentionOptions, KVCache, type KVCacheOptions } from "./cache.ts";
export {
  type AttentionWithWeights,
  MultiheadAttention,
  type MultiheadAttentionOptions,
  type MultiheadForwardOptions,
} from "./multihead.ts";
export { RotaryEmbedding, type RotaryEmbeddingOptions, type RotaryOptions, rotary } from "./rotary.ts";

type RowPass = Exclude<Pass, "gradMask">;
type Strides = readonly [batch: number, head: number, row: number];

/** Sizes, what a query sees, and where each operand lies: element offsets in its tensor, strides of a batch, a head and a row. */
interface Layout {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  /** Keys in use, the first of `keyRows`. */
  readonly keys: number;
  readonly keyRows: number;
  readonly dim: number;
  readonly valueDim: number;
  readonly scale: number;
  /** Query i sees the keys j with i + low ≤ j < i + high. */
  readonly low: number;
  readonly high: number;
  readonly kOffset: number;
  readonly vOffset: number;
  readonly q: Strides;
  readonly k: Strides;
  readonly v: Strides;
  readonly y: Strides;
  readonly dropout: number;
}

interface Operands {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly mask: Tensor | null;
}

interface Saved extends Operands {
  readonly y: Tensor;
  /** See `header` of attention.kernels.ts; backward adds delta. */
  readonly rows: Tensor;
  /** Largest values of q, k, v and dy, for f32 by subgroup matrices. */
  readonly peaks: Tensor | null;
}

const rowCount = ({ batch, heads, queries }: Layout): number => batch * heads * queries;

// Choice of kernels -----------------------------------------------------------------------------

const direct = /* @__PURE__ */ variants(directKernel);
const matrix = /* @__PURE__ */ variants(matrixKernel);
const maskGrad = /* @__PURE__ */ variants(maskGradKernel);
const merge = /* @__PURE__ */ variants(mergeKernel);
const tile = /* @__PURE__ */ variants(
  (
    pass: RowPass,
    T: FloatType,
    dim: number,
    valueDim: number,
    BR: number,
    BC: number,
    TX: number,
    TY: number,
    mask: Mask,
    dropout: boolean,
    split: boolean,
  ) => tileKernel(pass, T, dim, valueDim, { BR, BC, TX, TY }, { mask, dropout, split }),
);

const backwardTiles: readonly Tile[] = [
  { BR: 64, BC: 16, TX: 4, TY: 32 },
  { BR: 32, BC: 16, TX: 4, TY: 16 },
  { BR: 16, BC: 8, TX: 2, TY: 16 },
  { BR: 8, BC: 8, TX: 2, TY: 8 },
  { BR: 4, BC: 8, TX: 2, TY: 4 },
];

/** From the fastest to the one that fits the 16 KiB of workgroup memory that every GPU has, for heads of up to 128. */
const tiles: Record<RowPass, readonly Tile[]> = {
  forward: [
    { BR: 64, BC: 32, TX: 8, TY: 16 },
    { BR: 32, BC: 16, TX: 4, TY: 16 },
    { BR: 16, BC: 16, TX: 4, TY: 8 },
    { BR: 8, BC: 16, TX: 4, TY: 8 },
    { BR: 8, BC: 8, TX: 2, TY: 8 },
  ],
  gradQuery: backwardTiles,
  gradKeyValue: backwardTiles,
};

/** Enough workgroups to fill a large GPU: with fewer, smaller tiles are faster. */
const FULL = 256;

/** With fewer queries than this, tiles of matrices would be mostly empty, and finding the peaks of k and v the longer part. */
const MATRIX_ROWS = 16;

/** Keys in a part of a forward pass whose keys are split: at least so many, and enough parts to fill a large GPU. */
const PART = 64;
const PARTS = 1024;

interface Choice {
  readonly kernel: Kernel;
  readonly rows: number;
  /** Parts that the keys are split into, and their size. */
  readonly parts?: number;
  readonly chunk?: number;
}

const usesMatrix = (device: Device, T: FloatType, l: Layout): boolean =>
  !device.software &&
  device.subgroupMatrix &&
  device.features.has("subgroup-size-control") &&
  device.limits.maxStorageBuffersPerShaderStage >= 9 &&
  l.dim % 4 === 0 &&
  l.dim === l.valueDim &&
  l.dim <= 128 &&
  l.queries >= MATRIX_ROWS &&
  // peaks are found in whole tensors, and what lies behind the keys in use may be anything
  (T === "f16" || l.keys === l.keyRows);

function choose(pass: RowPass, device: Device, T: FloatType, l: Layout, mask: Mask): Choice {
  const dropout = l.dropout > 0;
  const wide = l.dim % 4 === 0 && l.valueDim % 4 === 0;
  const bytes = device.limits.maxComputeWorkgroupStorageSize;
  const onKeys = pass === "gradKeyValue";
  const pairs = l.batch * (onKeys ? l.kvHeads : l.heads);
  const fills = (rows: number): boolean => pairs * Math.ceil((onKeys ? l.keys : l.queries) / rows) >= FULL;
  if (usesMatrix(device, T, l)) {
    const split = T === "f32";
    const fitting = [4, 2, 1].filter((n) => matrixBytes(pass, split, l.dim, n) <= bytes);
    const n = fitting.find((n) => fills(16 * n)) ?? fitting.at(-1)!;
    return { kernel: matrix(pass, split, l.dim, n, mask, dropout), rows: 16 * n };
  }
  const fitting = tiles[pass].filter(
    (t) =>
      tileBytes(pass, t, l.dim, l.valueDim) <= bytes &&
      paddedDim(l.dim) % (4 * t.TX) === 0 &&
      paddedDim(l.valueDim) % (4 * t.TX) === 0,
  );
  if (device.software || fitting.length === 0) {
    const room = [64, 128, MOST].find((n) => Math.max(l.dim, l.valueDim) <= n)!;
    return { kernel: direct(pass, T, wide, room, mask, dropout), rows: 64 };
  }
  const make = ({ BR, BC, TX, TY }: Tile, split = false): Kernel =>
    tile(pass, T, l.dim, l.valueDim, BR, BC, TX, TY, mask, dropout, split);
  const small = fitting.find((t) => t.BR <= 8);
  if (pass === "forward" && small && l.queries <= small.BR && !dropout) {
    const span = Math.min(l.keys, l.queries - 1 + l.high) - Math.max(l.low, 0);
    const chunk = Math.max(PART, Math.ceil(span / Math.ceil(PARTS / pairs) / 16) * 16);
    const parts = Math.ceil(span / chunk);
    if (parts > 1) return { kernel: make(small, true), rows: small.BR, parts, chunk };
  }
  const best = fitting.find((t) => fills(t.BR)) ?? fitting.findLast((t) => t.BR >= 16) ?? fitting[0]!;
  return { kernel: make(best), rows: best.BR };
}

// Launchers -------------------------------------------------------------------------------------

/** Whether q, k and v are one tensor, and so have one largest value. */
const packed = ({ q, k, v }: Pick<Operands, "q" | "k" | "v">): boolean => q === k && k === v;

const maskOf = (mask: Tensor | null): Mask => (mask?.dtype as Mask | undefined) ?? "none";

/** Shape of the mask with all four axes, and its strides: 0 along axes that it does not have. */
function maskLayout(mask: Tensor | null): { shape: readonly number[]; strides: readonly number[] } {
  const shape = [1, 1, 1, 1, ...(mask?.shape ?? [])].slice(-4);
  return { shape, strides: shape.map((d, i) => (d === 1 ? 0 : sizeOf(shape.slice(i + 1)))) };
}

const unused = {
  ...{ dkOffset: 0, dvOffset: 0, stream: 0, chunk: 0, pairs: 0 },
  ...{ maskHeads: 0, maskCols: 0, slots: 0, sharing: 0 },
};

/** What all kernels read; `over` holds what only some do. Where rows are whole vec4s, offsets and strides count those. */
function paramsOf(l: Layout, mask: Tensor | null, over: Partial<typeof unused>): Record<string, number> {
  const unit = l.dim % 4 === 0 && l.valueDim % 4 === 0 ? 4 : 1;
  const [maskBatch, maskHead, maskRow, maskCol] = maskLayout(mask).strides as [number, number, number, number];
  const strides = (name: string, s: Strides): Record<string, number> => ({
    [`${name}Batch`]: s[0] / unit,
    [`${name}Head`]: s[1] / unit,
    [`${name}Row`]: s[2] / unit,
  });
  return {
    ...unused,
    ...over,
    ...{ queries: l.queries, keys: l.keys, keyRows: l.keyRows, dim: l.dim / unit, valueDim: l.valueDim / unit },
    ...{ heads: l.heads, group: l.heads / l.kvHeads, rowCount: rowCount(l), scale: l.scale, low: l.low, high: l.high },
    ...{ kOffset: l.kOffset / unit, vOffset: l.vOffset / unit },
    dkOffset: (over.dkOffset ?? 0) / unit,
    dvOffset: (over.dvOffset ?? 0) / unit,
    ...strides("q", l.q),
    ...strides("k", l.k),
    ...strides("v", l.v),
    ...strides("y", l.y),
    ...{ maskBatch, maskHead, maskRow, maskCol },
    threshold: Math.min(Math.round(l.dropout * 2 ** 32), 2 ** 32 - 1),
    retain: 1 - l.dropout,
  };
}

function launch(
  pass: RowPass,
  l: Layout,
  { kernel, rows, parts }: Choice,
  { mask, ...bindings }: Operands & Record<string, Tensor | null>,
  over: Partial<typeof unused> = {},
): void {
  const onKeys = pass === "gradKeyValue";
  const pairs = l.batch * (onKeys ? l.kvHeads : l.heads);
  const blocks = parts ?? Math.ceil((onKeys ? l.keyRows : l.queries) / rows);
  const params = { ...paramsOf(l, mask, { ...over, pairs }), peakStep: Number(!packed(bindings)) };
  kernel.run(
    { params, ...(mask && { mask }), ...(bindings as Record<string, Tensor>) },
    { workgroups: [...grid(pairs), blocks] },
  );
}

function findPeaks(a: Tensor, b: Tensor, c: Tensor, peaks: Tensor, row: number, tensors: number): void {
  const params = { a: a.size / 4, b: b.size / 4, row };
  peaksKernel.run({ params, a, b, c, peaks }, { workgroups: [PEAKS, tensors] });
}

/** y, and per query the logarithm to base 2 of its sum of exponentials. */
function attentionForward(operands: Operands, l: Layout, shape: Shape): Saved {
  const { q, k, v, mask } = operands;
  const { device } = q;
  const T = q.dtype as FloatType;
  const y = empty(shape, { dtype: T, device });
  const n = rowCount(l);
  const rows = empty([(isFloat(maskOf(mask)) ? 3 : 2) * n + 4], { device });
  let peaks: Tensor | null = null;
  if (T === "f32" && usesMatrix(device, T, l)) {
    peaks = empty([4, PEAKS], { device });
    findPeaks(q, k, v, peaks, 0, packed(operands) ? 1 : 3);
  }
  const choice = choose("forward", device, T, l, maskOf(mask));
  if (choice.parts) forwardInParts(operands, l, choice, y, rows);
  else {
    const stream: Stream | null = l.dropout > 0 ? nextStream(device) : null;
    const bindings = { ...operands, y, rows, ...(peaks && { peaks }), ...(stream && { rng: stream.state }) };
    launch("forward", l, choice, bindings, { stream: stream?.offset ?? 0 });
  }
  return { ...operands, y, rows, peaks };
}

/** Few queries and many keys: workgroups share the keys, and another kernel joins what they found. */
function forwardInParts(operands: Operands, l: Layout, choice: Choice, y: Tensor, rows: Tensor): void {
  const { device, dtype } = y;
  const parts = choice.parts!;
  const { queries, heads, valueDim } = l;
  const n = rowCount(l);
  const [x, sums] = [empty([parts, n, valueDim], { device }), empty([2, parts, n], { device })];
  const inRows: Strides = [heads * queries * valueDim, queries * valueDim, valueDim];
  launch("forward", { ...l, y: inRows }, choice, { ...operands, y: x, rows: sums }, { chunk: choice.chunk! });
  const [yBatch, yHead, yRow] = l.y;
  const apart = Number(isFloat(maskOf(operands.mask)));
  const params = { parts, rowCount: n, queries, heads, valueDim, yBatch, yHead, yRow, apart };
  merge(dtype as FloatType).run({ params, x, sums, y, rows }, { workgroups: threads(n * valueDim) });
  x.dispose();
  sums.dispose();
}

/** Gradients in the layout of q, k and v: `dkv` holds dk and dv at the given offsets, and may be the tensor `dq`. */
function attentionBackward(
  dy: Tensor,
  { q, k, v, mask, y, rows, peaks }: Saved,
  l: Layout,
  dq: Tensor,
  dkv: Tensor | null,
  offsets: { dkOffset: number; dvOffset: number },
): void {
  if (peaks) findPeaks(dy, dy, dy, peaks, 3, 1);
  const { device } = q;
  const bindings = { q, k, v, mask, dy, rows, ...(peaks && { peaks }) };
  const run = (pass: RowPass, more: Record<string, Tensor>): void =>
    launch(pass, l, choose(pass, device, q.dtype as FloatType, l, maskOf(mask)), { ...bindings, ...more }, offsets);
  run("gradQuery", { y, dq });
  if (dkv) run("gradKeyValue", { dkv });
}

/** Σ over the middle axis of [outer, count, inner]; `x` is freed. */
function sumMiddle(x: Tensor, outer: number, count: number, inner: number): Tensor {
  if (count === 1) return x;
  const y = emptyLike(x, { shape: [outer * inner] });
  sumKernel.run({ params: { size: y.size, count, inner }, x, y }, { workgroups: threads(y.size) });
  x.dispose();
  return y;
}

/** Gradient of a float mask, after that of q, which has computed delta. */
function attentionMaskGrad(dy: Tensor, { q, k, v, mask, rows }: Saved, l: Layout): Tensor {
  const { device } = q;
  const [maskBatch, maskHeads, maskRows, maskKeys] = maskLayout(mask).shape as [number, number, number, number];
  const slots = maskBatch * maskHeads;
  const sharing = (l.batch * l.heads) / slots;
  const maskCols = maskKeys === 1 ? l.keys : maskKeys;
  const blocks = Math.ceil(l.queries / 32) * Math.ceil(maskCols / 32);
  const chunk = Math.ceil(sharing / Math.min(sharing, Math.ceil(FULL / (slots * blocks))));
  const chunks = Math.ceil(sharing / chunk);
  const ds = empty([chunks * slots * l.queries * maskCols], { device });
  const wide = l.dim % 4 === 0 && l.valueDim % 4 === 0;
  const params = paramsOf(l, mask, { maskHeads, maskCols, slots, sharing, chunk });
  maskGrad(q.dtype as FloatType, wide, maskOf(mask), l.dropout > 0).run(
    { params: { ...params, peakStep: 0 }, q, k, v, dy, rows, mask: mask!, dmask: ds },
    { workgroups: grid(blocks * slots * chunks) },
  );
  const perSlot = sumMiddle(ds, 1, chunks, slots * l.queries * maskCols);
  const perRow = maskRows === 1 ? sumMiddle(perSlot, slots, l.queries, maskCols) : perSlot;
  const sum = maskKeys === 1 ? sumMiddle(perRow, slots * maskRows, maskCols, 1) : perRow;
  const dmask = cast(sum, mask!.dtype);
  if (dmask !== sum) sum.dispose();
  const shaped = dmask.view(0, mask!.shape);
  dmask.dispose();
  return shaped;
}

// Options ---------------------------------------------------------------------------------------

interface SharedOptions {
  /**
   * Bool, true where a query may look, or f32 or f16, added to the scores; −∞ hides a key. Broadcasts to [batch, heads,
   * queries, keys] from the last axis on. A float mask may require a gradient. Default none.
   */
  attnMask?: Tensor | null;
  /** Probability with which a weight is dropped; the others grow by 1 / (1 − dropout). Applied whenever given. Default 0. */
  dropout?: number;
  /** Query i sees the keys j ≤ i, also beside a mask. Default false. */
  isCausal?: boolean;
  /**
   * [left, right]: query i sees the keys i − left … i + right, and −1 is no limit. A number w is [w − 1, w − 1]: the last w
   * keys where `isCausal`. Default no limit.
   */
  window?: number | readonly [left: number, right: number] | null;
  /** Default 1 / sqrt(headDim). */
  scale?: number;
}

export interface AttentionOptions extends SharedOptions {
  /** k and v may have fewer heads than q, a divisor. Default false. */
  enableGqa?: boolean;
  /** Only the first `keyLength` keys count: k and v are buffers that fill up. Default all. */
  keyLength?: number;
  /** Place of query 0 among the keys, for `isCausal` and `window`. Default 0. */
  queryOffset?: number;
}

const shared = ["attnMask", "dropout", "isCausal", "window", "scale"] as const;

function checkOptions(name: string, options: object, allowed: readonly string[]): void {
  for (const [option, value] of Object.entries(options)) {
    if (!allowed.includes(option) && value !== undefined)
      throw new Error(`${name}: option "${option}" is unknown; expected ${allowed.join(", ")}`);
  }
  const { scale, dropout = 0 } = options as SharedOptions;
  if (scale !== undefined && !Number.isFinite(scale))
    throw new Error(`${name}: scale ${scale}; expected a finite number`);
  if (!(dropout >= 0 && dropout <= 1))
    throw new Error(`${name}: dropout ${dropout}; expected a probability from 0 to 1`);
}

/** Beyond any length, and far from the end of i32. */
const NO_LIMIT = 2 ** 30;

function checkWhole(name: string, option: string, value: number, least: number, most: number): number {
  if (!Number.isInteger(value) || value < least || value > most)
    throw new Error(`${name}: ${option} ${value}; expected a whole number from ${least} to ${most}`);
  return value;
}

/** What a query sees, as `low` and `high` of Layout. */
function reach(
  name: string,
  { isCausal = false, window, queryOffset = 0 }: AttentionOptions,
): { low: number; high: number } {
  const width = (n: number, least: number): number => checkWhole(name, "window", n, least, NO_LIMIT);
  let [left, right] = [-1, -1];
  if (typeof window === "number") left = right = width(window, 1) - 1;
  else if (window) [left, right] = [width(window[0], -1), width(window[1], -1)];
  if (isCausal) right = 0;
  return {
    low: left < 0 ? -NO_LIMIT : queryOffset - left,
    high: right < 0 ? NO_LIMIT : queryOffset + right + 1,
  };
}

/** The mask, unless its dtype or shape does not fit [batch, heads, queries, one of `keys`]. */
function checkMask(
  name: string,
  mask: Tensor | null | undefined,
  sizes: readonly [batch: number, heads: number, queries: number],
  keys: readonly number[],
): Tensor | null {
  if (!mask) return null;
  if (mask.dtype !== "bool" && mask.dtype !== "f32" && mask.dtype !== "f16")
    throw new Error(`${name}: attnMask has dtype ${mask.dtype}; expected bool, f32 or f16`);
  const { shape } = maskLayout(mask);
  const allowed = [...sizes.map((d) => [d]), keys];
  if (mask.shape.length > 4 || shape.some((d, i) => d !== 1 && !allowed[i]!.includes(d))) {
    throw new Error(
      `${name}: attnMask has shape [${mask.shape}]; expected one that broadcasts to [${[...sizes, keys[0]]}]`,
    );
  }
  return mask;
}

function checkFloat(name: string, argument: string, x: Tensor): void {
  if (x.dtype !== "f32" && x.dtype !== "f16")
    throw new Error(`${name}: ${argument} has dtype ${x.dtype}; expected f32 or f16`);
}

/** The largest head dim. */
const MOST = 256;

function checkDim(name: string, dim: number): void {
  if (dim > MOST) throw new Error(`${name}: head dim ${dim}; expected at most ${MOST}`);
}

// Differentiable functions ----------------------------------------------------------------------

const matrixOperand = (x: Tensor): Tensor => (autocastType() === "f16" ? cast(x, "f16") : x);

/**
 * y of `shape`, on the tape. `inputs` are the operands' tensors without repetition, and `gradients` returns theirs; those of
 * the mask are added here.
 */
function attend(
  operands: Operands,
  l: Layout,
  shape: Shape,
  inputs: readonly Tensor[],
  gradients: (dy: Tensor, saved: Saved) => (Tensor | null)[],
): Tensor {
  const { q, mask } = operands;
  const all = mask ? [...inputs, mask] : inputs;
  const none = (like: Tensor, shape = like.shape): Tensor => zeros(shape, { dtype: like.dtype, device: like.device });
  if (l.dropout === 1) return record(none(q, shape), all, () => all.map((x) => (needsGrad(x) ? none(x) : null)));
  const saved = attentionForward(operands, l, shape);
  const y = record(saved.y, all, (dy) => {
    const grads = gradients(dy, saved);
    if (mask) grads.push(needsGrad(mask) ? attentionMaskGrad(dy, saved, l) : null);
    return grads;
  });
  if (!y.requiresGrad) {
    saved.rows.dispose();
    saved.peaks?.dispose();
  }
  return y;
}

/**
 * softmax(scale · q kᵀ + attnMask) v. q: [batch, heads, queries, headDim]; k: [batch, heads, keys, headDim] and v: [batch,
 * heads, keys, valueDim], or with `enableGqa` a number of heads that divides q's. Returns [batch, heads, queries, valueDim].
 * Under autocast the operands and y are f16. Matches torch.nn.functional.scaled_dot_product_attention.
 */
export function scaledDotProductAttention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const name = "scaledDotProductAttention";
  checkOptions(name, options, [...shared, "enableGqa", "keyLength", "queryOffset"]);
  for (const [argument, x] of Object.entries({ q, k, v })) {
    if (x.shape.length !== 4) {
      throw new Error(`${name}: ${argument} has shape [${x.shape}]; expected [batch, heads, length, headDim]`);
    }
    checkFloat(name, argument, x);
  }
  if (autocastType() !== "f16" && (k.dtype !== q.dtype || v.dtype !== q.dtype)) {
    throw new Error(`${name}: q, k and v have dtypes ${q.dtype}, ${k.dtype} and ${v.dtype}; expected one dtype`);
  }
  const [batch, heads, queries, dim] = q.shape as [number, number, number, number];
  const [, kvHeads, keyRows] = k.shape as [number, number, number, number];
  const valueDim = v.shape[3]!;
  if (k.shape[0] !== batch || k.shape[3] !== dim) {
    throw new Error(
      `${name}: k has shape [${k.shape}]; q of shape [${q.shape}] needs [${batch}, heads, length, ${dim}]`,
    );
  }
  if (v.shape.slice(0, 3).join() !== k.shape.slice(0, 3).join())
    throw new Error(
      `${name}: v has shape [${v.shape}]; k of shape [${k.shape}] needs [${k.shape.slice(0, 3)}, valueDim]`,
    );
  checkDim(name, Math.max(dim, valueDim));
  if (heads !== kvHeads && !(options.enableGqa && heads % kvHeads === 0)) {
    const wanted = options.enableGqa ? `a divisor of q's ${heads}` : `q's ${heads}, or enableGqa and a divisor of it`;
    throw new Error(`${name}: k has ${kvHeads} heads; expected ${wanted}`);
  }
  const { keyLength: keys = keyRows, queryOffset = 0, dropout = 0, scale = 1 / Math.sqrt(dim) } = options;
  checkWhole(name, "keyLength", keys, 1, keyRows);
  checkWhole(name, "queryOffset", queryOffset, -NO_LIMIT / 2, NO_LIMIT / 2);
  const strides = (heads: number, rows: number, dim: number): Strides => [heads * rows * dim, rows * dim, dim];
  const layout: Layout = {
    ...{ batch, heads, kvHeads, queries, keys, keyRows, dim, valueDim, scale, dropout, kOffset: 0, vOffset: 0 },
    ...reach(name, options),
    q: strides(heads, queries, dim),
    k: strides(kvHeads, keyRows, dim),
    v: strides(kvHeads, keyRows, valueDim),
    y: strides(heads, queries, valueDim),
  };
  const mask = checkMask(name, options.attnMask, [batch, heads, queries], [keys, keyRows]);
  const other = delegated<Tensor>(
    name,
    { q, k, v, mask },
    { ...options, keyLength: keys, queryOffset, dropout, scale },
  );
  if (other) return other;
  const inputs = [matrixOperand(q), matrixOperand(k), matrixOperand(v)] as const;
  const [qs, ks, vs] = inputs;
  return attend({ q: qs, k: ks, v: vs, mask }, layout, [batch, heads, queries, valueDim], inputs, (dy, saved) => {
    const dq = emptyLike(qs);
    const wanted = needsGrad(ks) || needsGrad(vs);
    // dk and dv are parts of one allocation, since two bindings of a kernel that writes them could not be one tensor in the
    // packed layout. The second starts at a multiple of 128 elements, for the sake of the binding alignment.
    const half = Math.ceil(ks.size / 128) * 128;
    const dkv = wanted ? emptyLike(ks, { shape: [half + vs.size] }) : null;
    attentionBackward(dy, saved, layout, dq, dkv, { dkOffset: 0, dvOffset: half });
    const dk = dkv && needsGrad(ks) ? dkv.view(0, ks.shape) : null;
    const dv = dkv && needsGrad(vs) ? dkv.view(half, vs.shape) : null;
    dkv?.dispose();
    if (!needsGrad(qs)) dq.dispose();
    return [needsGrad(qs) ? dq : null, dk, dv];
  });
}

export interface SelfAttentionOptions extends SharedOptions {
  /** Heads of k and v, a divisor of `numHeads`. Default `numHeads`. */
  numKvHeads?: number;
}

/**
 * Attention of a sequence to itself from one projection: `qkv` is [batch, length, (numHeads + 2 · numKvHeads) · headDim],
 * along its last axis q, k and v, each with its heads side by side. Returns [batch, length, numHeads · headDim]. Nothing is
 * copied: the kernels read and write heads where they lie.
 */
export function selfAttention(qkv: Tensor, numHeads: number, options: SelfAttentionOptions = {}): Tensor {
  const name = "selfAttention";
  checkOptions(name, options, [...shared, "numKvHeads"]);
  const { numKvHeads: kvHeads = numHeads, dropout = 0 } = options;
  checkFloat(name, "qkv", qkv);
  for (const [argument, heads] of Object.entries({ numHeads, numKvHeads: kvHeads })) {
    if (!Number.isInteger(heads) || heads < 1)
      throw new Error(`${name}: ${argument} ${heads}; expected a whole number ≥ 1`);
  }
  if (numHeads % kvHeads !== 0)
    throw new Error(`${name}: numKvHeads ${kvHeads}; expected a divisor of numHeads, ${numHeads}`);
  const parts = numHeads + 2 * kvHeads;
  if (qkv.shape.length !== 3 || qkv.shape[2]! % parts !== 0) {
    throw new Error(`${name}: qkv has shape [${qkv.shape}]; expected [batch, length, ${parts} · headDim]`);
  }
  const [batch, length, width] = qkv.shape as [number, number, number];
  const dim = width / parts;
  checkDim(name, dim);
  const kOffset = numHeads * dim;
  const vOffset = (numHeads + kvHeads) * dim;
  const strides: Strides = [length * width, dim, width];
  const layout: Layout = {
    ...{ batch, heads: numHeads, kvHeads, queries: length, keys: length, keyRows: length, dim, valueDim: dim, dropout },
    ...{ kOffset, vOffset, q: strides, k: strides, v: strides, y: [length * numHeads * dim, dim, numHeads * dim] },
    ...reach(name, options),
    scale: options.scale ?? 1 / Math.sqrt(dim),
  };
  const mask = checkMask(name, options.attnMask, [batch, numHeads, length], [length]);
  const other = delegated<Tensor>(
    name,
    { qkv, mask },
    { ...options, numHeads, numKvHeads: kvHeads, dropout, scale: layout.scale },
  );
  if (other) return other;
  const x = matrixOperand(qkv);
  return attend({ q: x, k: x, v: x, mask }, layout, [batch, length, numHeads * dim], [x], (dy, saved) => {
    const dx = emptyLike(x);
    attentionBackward(dy, saved, layout, dx, dx, { dkOffset: kOffset, dvOffset: vOffset });
    return [dx];
  });
}
