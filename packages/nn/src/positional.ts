/**
 * Positions of a sequence's tokens: a table with a row for each, added to the tokens, and ALiBi's biases for attention. Rotary
 * embeddings are in @kindling/attention.
 *
 *   y[b, l] = x[b, l] + table[offset + l]        dx = dy        dtable[offset + l] = Σ_b dy[b, l]
 */
import {
  type Device,
  empty,
  emptyLike,
  type FloatType,
  kernel,
  Module,
  needsGrad,
  parameter,
  persist,
  record,
  type Tensor,
  tensor,
  threads,
  variants,
} from "@kindling/core";
import { dropout as drop } from "@kindling/dropout";
import { normal } from "./init.ts";

// Kernels ---------------------------------------------------------------------------------------

const element = (T: FloatType, wide: boolean): string => (wide ? `vec4<${T}>` : T);

/** Sizes are in elements of the arrays. A token is `inner` elements of x: one token's features, or those of a batch, [length, batch, features]. */
const addKernel = /* @__PURE__ */ variants((X: FloatType, W: FloatType, wide: boolean) =>
  kernel<string>(
    `nn.addRows.${X}.${W}`,
    /* wgsl */ `
struct Params { size: u32, inner: u32, features: u32, length: u32, offset: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${element(X, wide)}>;
@group(0) @binding(2) var<storage, read> rows: array<${element(W, wide)}>;
@group(0) @binding(3) var<storage, read_write> y: array<${element(X, wide)}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  let row = params.offset + i / params.inner % params.length;
  y[i] = ${element(X, wide)}(${element("f32", wide)}(x[i]) + ${element("f32", wide)}(rows[row * params.features + i % params.features]));
}`,
  ),
);

/** The whole table's gradient; rows that were not added have zeros. Sums over the batch are in order. */
const gradKernel = /* @__PURE__ */ variants((X: FloatType, W: FloatType, wide: boolean) =>
  kernel<string>(
    `nn.addRows.grad.${X}.${W}`,
    /* wgsl */ `
struct Params { size: u32, features: u32, length: u32, offset: u32, batch: u32, batchStride: u32, rowStride: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<${element(X, wide)}>;
@group(0) @binding(2) var<storage, read_write> drows: array<${element(W, wide)}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  let l = i / params.features - params.offset;
  var sum = ${element("f32", wide)}(0);
  if (i / params.features >= params.offset && l < params.length) {
    let first = l * params.rowStride + i % params.features;
    for (var b = 0u; b < params.batch; b++) { sum += ${element("f32", wide)}(dy[first + b * params.batchStride]); }
  }
  drows[i] = ${element(W, wide)}(sum);
}`,
  ),
);

// Differentiable function -----------------------------------------------------------------------

interface Rows {
  readonly offset: number;
  readonly batchFirst: boolean;
}

/** `x` [batch, length, features], [length, batch, features] or [length, features], plus rows of `table` [rows, features]; x's dtype. */
function addRows(where: string, x: Tensor, table: Tensor, { offset, batchFirst }: Rows): Tensor {
  const [limit, features] = table.shape as [number, number];
  const rank = x.shape.length;
  if ((rank !== 2 && rank !== 3) || x.shape.at(-1) !== features) {
    const order = batchFirst ? "batch,length" : "length,batch";
    throw new Error(`${where}: x has shape [${x.shape}], expected [${order},${features}] or [length,${features}]`);
  }
  if (x.dtype !== "f32" && x.dtype !== "f16") throw new Error(`${where}: x is ${x.dtype}, expected f32 or f16`);
  const length = x.shape[rank === 3 && batchFirst ? 1 : 0]!;
  const batch = x.size / length / features;
  if (!Number.isInteger(offset) || offset < 0)
    throw new Error(`${where}: offset is ${offset}, expected a whole number ≥ 0`);
  if (offset + length > limit)
    throw new Error(
      `${where}: x has ${length} positions from ${offset} on, expected at most ${limit} (maxLength) in all`,
    );
  const y = emptyLike(x);
  const packed = batchFirst || rank === 2;
  const wide = features % 4 === 0;
  const unit = wide ? 4 : 1;
  const [width, size] = [features / unit, x.size / unit];
  const dtypes = [x.dtype, table.dtype as FloatType] as const;
  const params = { size, inner: packed ? width : batch * width, features: width, length, offset };
  addKernel(...dtypes, wide).run({ params, x, rows: table, y }, { workgroups: threads(size) });
  return record(y, [x, table], (dy) => {
    if (!needsGrad(table)) return [dy, null];
    const drows = emptyLike(table);
    const strides = packed
      ? { batchStride: length * width, rowStride: width }
      : { batchStride: width, rowStride: batch * width };
    const sizes = { size: table.size / unit, features: width, length, offset, batch, ...strides };
    gradKernel(...dtypes, wide).run({ params: sizes, dy, drows }, { workgroups: threads(sizes.size) });
    return [dy, drows];
  });
}

// Modules ---------------------------------------------------------------------------------------

export interface PositionalOptions {
  /** The probability of zeroing an element of the sum while training. Default 0. */
  dropout?: number;
  /** x is [batch, length, features] rather than [length, batch, features]. Default false, as in torch.nn.Transformer. */
  batchFirst?: boolean;
  device?: Device;
}

export interface PositionalForwardOptions {
  /** How many tokens came before. Default 0. */
  offset?: number;
}

abstract class Positional extends Module {
  readonly maxLength: number;
  readonly features: number;
  readonly dropout: number;
  readonly batchFirst: boolean;

  constructor(
    name: string,
    maxLength: number,
    features: number,
    { dropout = 0, batchFirst = false }: PositionalOptions,
  ) {
    super();
    for (const [key, n] of Object.entries({ maxLength, features })) {
      if (!Number.isInteger(n) || n < 1) throw new Error(`${name}: ${key} is ${n}, expected a whole number ≥ 1`);
    }
    if (!(dropout >= 0 && dropout <= 1))
      throw new Error(`${name}: dropout is ${dropout}, expected a probability from 0 to 1`);
    this.maxLength = maxLength;
    this.features = features;
    this.dropout = dropout;
    this.batchFirst = batchFirst;
  }

  protected abstract table(): Tensor;

  /** x: [length, batch, features], with `batchFirst` [batch, length, features], or [length, features]. */
  forward(x: Tensor, { offset = 0 }: PositionalForwardOptions = {}): Tensor {
    const y = addRows(this.constructor.name, x, this.table(), { offset, batchFirst: this.batchFirst });
    return this.training && this.dropout > 0 ? drop(y, this.dropout) : y;
  }

  protected override extraRepr(): string {
    const { maxLength, features, dropout, batchFirst } = this;
    return `${features}, maxLength=${maxLength}, dropout=${dropout}, batchFirst=${batchFirst}`;
  }
}

export interface SinusoidalOptions extends PositionalOptions {
  /** Longest sequence. Default 5000. */
  maxLength?: number;
  /** The longest wavelength over 2π. Default 10000. */
  base?: number;
}

/**
 * Adds sines and cosines of the position (Vaswani et al. 2017): feature 2i of position l is sin(l / base^(2i / features)), and
 * feature 2i + 1 the cosine. It has no state. PyTorch has no class for it; its tutorials' PositionalEncoding is the same.
 */
export class SinusoidalPositionalEncoding extends Positional {
  readonly base: number;
  readonly #table: Tensor;

  constructor(features: number, { maxLength = 5000, base = 10000, ...options }: SinusoidalOptions = {}) {
    super("SinusoidalPositionalEncoding", maxLength, features, options);
    if (!(base > 0)) throw new Error(`SinusoidalPositionalEncoding: base is ${base}, expected a number above 0`);
    this.base = base;
    const values = new Float32Array(maxLength * features);
    for (let l = 0; l < maxLength; l++) {
      for (let i = 0; i < features; i++) {
        const angle = l / base ** ((i - (i % 2)) / features);
        values[l * features + i] = i % 2 === 0 ? Math.sin(angle) : Math.cos(angle);
      }
    }
    this.#table = persist(tensor(values, { shape: [maxLength, features], device: options.device }));
  }

  protected table(): Tensor {
    return this.#table;
  }

  override dispose(): void {
    super.dispose();
    this.#table.dispose();
  }
}

/** Adds a learned row, of weight [maxLength, features], for each position: normal with deviation 0.02 at first, as in GPT-2. */
export class LearnedPositionalEmbedding extends Positional {
  readonly weight: Tensor;

  constructor(maxLength: number, features: number, options: PositionalOptions = {}) {
    super("LearnedPositionalEmbedding", maxLength, features, options);
    this.weight = parameter(normal(empty([maxLength, features], { device: options.device }), 0, 0.02));
  }

  protected table(): Tensor {
    return this.weight;
  }
}

export interface AlibiOptions {
  /** Position of the first query. Default keys − queries: the queries are the last tokens. */
  offset?: number;
  device?: Device;
}

/**
 * ALiBi (Press et al. 2022): biases [heads, queries, keys] to add to attention's scores, −slope · distance, whose slope falls
 * geometrically from head to head; for keys behind a query it is 0. Pass it as `attnMask` of `scaledDotProductAttention`.
 */
export function alibi(
  heads: number,
  queries: number,
  keys: number,
  { offset = keys - queries, device }: AlibiOptions = {},
): Tensor {
  for (const [name, n] of Object.entries({ heads, queries, keys })) {
    if (!Number.isInteger(n) || n < 1) throw new Error(`alibi: ${name} is ${n}, expected a whole number ≥ 1`);
  }
  const slopes = alibiSlopes(heads);
  const values = new Float32Array(heads * queries * keys);
  let at = 0;
  for (const slope of slopes) {
    for (let q = 0; q < queries; q++)
      for (let k = 0; k < keys; k++) values[at++] = -slope * Math.max(0, offset + q - k);
  }
  return tensor(values, { shape: [heads, queries, keys], device });
}

/** 2^(−8i / n) for a power of two n; other numbers of heads take every other slope of the next power for the rest, as the authors do. */
function alibiSlopes(heads: number): number[] {
  const power = 2 ** Math.floor(Math.log2(heads));
  const slopes = Array.from({ length: power }, (_, i) => 2 ** ((-8 * (i + 1)) / power));
  return power === heads
    ? slopes
    : [...slopes, ...alibiSlopes(2 * power).filter((_, i) => i % 2 === 0)].slice(0, heads);
}
