/**
 * Keys and values of the tokens so far, for generation token by token: each step appends its own and attends to all.
 *
 * Memory is taken once, [batch, heads, maxLength, dim], and written in place; a step moves no more than its own rows. With
 * `trim` a full cache drops its oldest rows: the buffer becomes a ring, which attention of a single query may read in any
 * order. Several queries at once need the rows in order, and only then are they moved.
 * Order of this file: kernel, launcher, class.
 */
import {
  type Device,
  defaultDevice,
  emptyLike,
  type FloatType,
  kernel,
  needsGrad,
  persist,
  record,
  type Tensor,
  threads,
  variants,
  zeros,
} from "@kindling/core";
import { type AttentionOptions, scaledDotProductAttention } from "./attention.ts";

// Kernel ----------------------------------------------------------------------------------------

/** Row (xStart + j) % xRows of k and v becomes row (yStart + j) % yRows of keys and values, for each j, head and batch. */
const rowsKernel = variants((X: FloatType, Y: FloatType, wide: boolean) => {
  const V = (T: FloatType): string => (wide ? `vec4<${T}>` : T);
  return kernel(
    `kvCache.rows.${X}.${Y}`,
    /* wgsl */ `
struct Params { size: u32, count: u32, dim: u32, valueDim: u32, xStart: u32, xRows: u32, yStart: u32, yRows: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> k: array<${V(X)}>;
@group(0) @binding(2) var<storage, read> v: array<${V(X)}>;
@group(0) @binding(3) var<storage, read_write> keys: array<${V(Y)}>;
@group(0) @binding(4) var<storage, read_write> values: array<${V(Y)}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  let width = params.dim + params.valueDim;
  let c = i % width;
  let j = i / width % params.count;
  let head = i / (width * params.count);
  let x = head * params.xRows + (params.xStart + j) % params.xRows;
  let y = head * params.yRows + (params.yStart + j) % params.yRows;
  if (c < params.dim) {
    keys[y * params.dim + c] = ${V(Y)}(k[x * params.dim + c]);
  } else {
    let d = c - params.dim;
    values[y * params.valueDim + d] = ${V(Y)}(v[x * params.valueDim + d]);
  }
}`,
  );
});

// Launcher --------------------------------------------------------------------------------------

interface Rows {
  readonly keys: Tensor;
  readonly values: Tensor;
  /** Of the first row; rows past the last one go on at the front. */
  readonly start: number;
}

/** Copies `count` rows, converting dtypes. */
function copyRows(from: Rows, to: Rows, count: number): void {
  const [batch, heads, xRows, keyDim] = from.keys.shape as [number, number, number, number];
  const valueDimension = from.values.shape[3]!;
  const yRows = to.keys.shape[2]!;
  const wide = keyDim % 4 === 0 && valueDimension % 4 === 0;
  const [dim, valueDim] = wide ? [keyDim / 4, valueDimension / 4] : [keyDim, valueDimension];
  const size = batch * heads * count * (dim + valueDim);
  rowsKernel(from.keys.dtype as FloatType, to.keys.dtype as FloatType, wide).run(
    {
      params: { size, count, dim, valueDim, xStart: from.start, xRows, yStart: to.start, yRows },
      ...{ k: from.keys, v: from.values, keys: to.keys, values: to.values },
    },
    { workgroups: threads(size) },
  );
}

// Class -----------------------------------------------------------------------------------------

export interface KVCacheOptions {
  batch: number;
  /** Heads of keys and values; with fewer than the queries have, pass `enableGqa` to `attention`. */
  heads: number;
  /** Rows that there is memory for. */
  maxLength: number;
  headDim: number;
  /** Default headDim. */
  valueDim?: number;
  /** Drop the oldest rows of a full cache instead of refusing new ones. Default false. */
  trim?: boolean;
  /** Default f32. Under autocast, f16 spares a conversion of the whole cache at each step. */
  dtype?: FloatType;
  device?: Device;
}

/** As for scaledDotProductAttention, but that the cache knows how many keys there are and where the queries stand. */
export type CachedAttentionOptions = Omit<AttentionOptions, "keyLength" | "queryOffset">;

/**
 * Keys and values [batch, heads, maxLength, dim] of which the first `length` count. Not differentiable: for use inside
 * `noGrad`, or with parameters that require no gradient; nor inside `capture`, whose replays would stay at one length.
 */
export class KVCache {
  readonly maxLength: number;
  readonly trim: boolean;
  #keys: Tensor;
  #values: Tensor;
  #start = 0;
  #length = 0;
  #position = 0;

  constructor({
    batch,
    heads,
    maxLength,
    headDim,
    valueDim = headDim,
    trim = false,
    dtype = "f32",
    device = defaultDevice(),
  }: KVCacheOptions) {
    for (const [name, n] of Object.entries({ batch, heads, maxLength, headDim, valueDim })) {
      if (!Number.isInteger(n) || n < 1) throw new Error(`KVCache: ${name} is ${n}, expected a whole number ≥ 1`);
    }
    if (dtype !== "f32" && dtype !== "f16") throw new Error(`KVCache: dtype is "${dtype}", expected "f32" or "f16"`);
    this.maxLength = maxLength;
    this.trim = trim;
    // zeros, since a weight of 0 for a row that was never written must not meet a NaN
    this.#keys = persist(zeros([batch, heads, maxLength, headDim], { dtype, device }));
    this.#values = persist(zeros([batch, heads, maxLength, valueDim], { dtype, device }));
  }

  /** [batch, heads, maxLength, headDim]: the whole buffer. Once a full cache was trimmed, row `start` is the oldest. */
  get keys(): Tensor {
    return this.#keys;
  }

  /** [batch, heads, maxLength, valueDim], in the order of `keys`. */
  get values(): Tensor {
    return this.#values;
  }

  /** Rows that count. */
  get length(): number {
    return this.#length;
  }

  /** Where the oldest row is; the others follow, and go on at the front of the buffer. 0 unless rows were dropped. */
  get start(): number {
    return this.#start;
  }

  /** Tokens appended so far, dropped ones included: the position of the next one, for rotary embeddings. */
  get position(): number {
    return this.#position;
  }

  /** Adds `k` [batch, heads, t, headDim] and `v` [batch, heads, t, valueDim]; one dispatch. */
  append(k: Tensor, v: Tensor): this {
    this.#check("append", "k", k, this.#keys);
    this.#check("append", "v", v, this.#values);
    const count = k.shape[2]!;
    if (v.shape[2] !== count)
      throw new Error(`KVCache.append: v has shape [${v.shape}], expected ${count} rows as k [${k.shape}]`);
    if (k.dtype !== v.dtype) throw new Error(`KVCache.append: k is ${k.dtype} and v ${v.dtype}, expected one dtype`);
    const dropped = Math.max(0, this.#length + count - this.maxLength);
    if (dropped > 0 && (!this.trim || count > this.maxLength)) {
      throw new Error(
        `KVCache.append: ${count} rows after ${this.#length}, maxLength is ${this.maxLength}${this.trim ? "" : " (trim: true drops the oldest)"}`,
      );
    }
    this.#start = (this.#start + dropped) % this.maxLength;
    this.#length -= dropped;
    const start = (this.#start + this.#length) % this.maxLength;
    copyRows({ keys: k, values: v, start: 0 }, { keys: this.#keys, values: this.#values, start }, count);
    this.#length += count;
    this.#position += count;
    return this;
  }

  /**
   * scaledDotProductAttention of `q` [batch, heads, t, headDim], the queries of the last t rows, to all rows. Causal unless
   * `isCausal` is false: each query sees its own row and those before.
   */
  attention(q: Tensor, { isCausal = true, ...options }: CachedAttentionOptions = {}): Tensor {
    if (q.shape.length !== 4)
      throw new Error(`KVCache.attention: q has shape [${q.shape}], expected [batch, heads, length, headDim]`);
    const queries = q.shape[2]!;
    if (queries > this.#length)
      throw new Error(`KVCache.attention: q has shape [${q.shape}], expected at most ${this.#length} queries`);
    refuseTape("attention", "q", q);
    const causal = isCausal && queries > 1;
    const unordered = !causal && this.#length === this.maxLength && !options.attnMask && !options.window;
    if (this.#start > 0 && !unordered) this.#straighten();
    return scaledDotProductAttention(q, this.#keys, this.#values, {
      ...options,
      isCausal: causal,
      keyLength: this.#length,
      queryOffset: this.#length - queries,
    });
  }

  /** Forgets all rows. */
  reset(): void {
    this.#start = 0;
    this.#length = 0;
    this.#position = 0;
  }

  /** Keeps the first `length` rows: takes back the last ones, for instance those of a draft that was refused. */
  truncate(length: number): void {
    if (!Number.isInteger(length) || length < 0 || length > this.#length)
      throw new Error(`KVCache.truncate: length is ${length}, expected a whole number from 0 to ${this.#length}`);
    this.#position -= this.#length - length;
    this.#length = length;
  }

  /** Frees the memory. */
  dispose(): void {
    this.#keys.dispose();
    this.#values.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Moves the rows into buffers in which the oldest comes first. */
  #straighten(): void {
    const keys = persist(emptyLike(this.#keys));
    const values = persist(emptyLike(this.#values));
    // all rows, so that none is left unwritten
    const from = { keys: this.#keys, values: this.#values, start: this.#start };
    copyRows(from, { keys, values, start: 0 }, this.maxLength);
    this.dispose();
    this.#keys = keys;
    this.#values = values;
    this.#start = 0;
  }

  #check(method: string, name: string, x: Tensor, like: Tensor): void {
    const [batch, heads, , dim] = like.shape;
    if (x.shape.length !== 4 || x.shape[0] !== batch || x.shape[1] !== heads || x.shape[3] !== dim)
      throw new Error(`KVCache.${method}: ${name} has shape [${x.shape}], expected [${batch},${heads},length,${dim}]`);
    if (x.dtype !== "f32" && x.dtype !== "f16")
      throw new Error(`KVCache.${method}: ${name} is ${x.dtype}, expected f32 or f16`);
    refuseTape(method, name, x);
  }
}

/** Throws where the tape would record an operation on `x`, or a capture its launches. */
function refuseTape(method: string, name: string, x: Tensor): void {
  if (x.device.recorder)
    throw new Error(`KVCache.${method}: called inside capture, whose replays would stay at the length of now`);
  if (!needsGrad(x)) return;
  const probe = record(x.detach(), [x], () => [null]);
  const recorded = needsGrad(probe);
  probe.dispose();
  if (recorded)
    throw new Error(
      `KVCache.${method}: ${name} requires a gradient, which the cache has none of; call it inside noGrad`,
    );
}
