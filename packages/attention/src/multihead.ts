/**
 * Multi-head attention (Vaswani et al. 2017, arXiv:1706.03762). Matches torch.nn.MultiheadAttention.
 *
 *   q = query Wqᵀ + bq    k = key Wkᵀ + bk    v = value Wvᵀ + bv      features of each apart into heads
 *   y = concat(softmax(q kᵀ / √headDim + mask) v) Woᵀ + bo
 *
 * Products are core's matmul, attention is this package's. Plain self-attention is three launches: one product for q, k and v,
 * whose heads `selfAttention` reads where they lie, attention, and the product with Wo. Everything else lays the heads out one
 * after another first. Where the weights are asked for they must exist, so scores, softmax and the product with v are
 * launches of their own. Gradients are those of the parts; each part below has its own.
 * Order of this file: kernels, launchers, differentiable parts, module.
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
  kaimingUniform,
  kernel,
  Module,
  matmul,
  needsGrad,
  nextStream,
  normal,
  parameter,
  pcg4d,
  record,
  type Shape,
  type Stream,
  sizeOf,
  sumRows,
  type Tensor,
  threads,
  variants,
  xavierUniform,
  zeros,
} from "@kindling/core";
import { scaledDotProductAttention, selfAttention } from "./attention.ts";

// Kernels ---------------------------------------------------------------------------------------

/** y[b0, b1, b2, ·] = factor · x[b0, b1, b2, ·] between two layouts that keep the last axis together. */
const copyKernel = variants((T: FloatType, wide: boolean) => {
  const V = wide ? `vec4<${T}>` : T;
  const F = wide ? "vec4f" : "f32";
  return kernel(
    `multihead.copy.${T}`,
    /* wgsl */ `
struct Params {
  size: u32, d1: u32, d2: u32, d3: u32, xOffset: u32, x0: u32, x1: u32, x2: u32, yOffset: u32, y0: u32, y1: u32, y2: u32, factor: f32
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${V}>;
@group(0) @binding(2) var<storage, read_write> y: array<${V}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  let row = i / params.d3;
  let c = i - row * params.d3;
  let b2 = row % params.d2;
  let b1 = row / params.d2 % params.d1;
  let b0 = row / (params.d1 * params.d2);
  let source = params.xOffset + b0 * params.x0 + b1 * params.x1 + b2 * params.x2 + c;
  let place = params.yOffset + b0 * params.y0 + b1 * params.y1 + b2 * params.y2 + c;
  y[place] = ${V}(${F}(x[source]) * params.factor);
}`,
  );
});

/** [outer, inner] from x [outer, middle, inner]: the sum over the middle axis in order, times a factor. */
const sumKernel = variants((X: FloatType, Y: FloatType) =>
  kernel(
    `multihead.sum.${X}.${Y}`,
    /* wgsl */ `
struct Params { size: u32, middle: u32, inner: u32, factor: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read_write> y: array<${Y}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  let outer = i / params.inner;
  let first = outer * params.middle * params.inner + i - outer * params.inner;
  var sum = 0.0;
  for (var m = 0u; m < params.middle; m++) { sum += f32(x[first + m * params.inner]); }
  y[i] = ${Y}(sum * params.factor);
}`,
  ),
);

/**
 * One mask from the two of PyTorch's module and the causal one, for keys and the rows appended to them, which every query may
 * see. A mask of u32 is true where a query may not look; the result, of u32, where it may, as scaledDotProductAttention has
 * it; of f32 it is added to the scores. `hidden` is -Infinity, which WGSL cannot write.
 */
const maskKernel = variants((A: "u32" | "f32", P: "u32" | "f32", Y: "u32" | "f32") =>
  kernel(
    `multihead.mask.${A}.${P}.${Y}`,
    /* wgsl */ `
struct Params {
  size: u32, heads: u32, rows: u32, cols: u32, keys: u32, flags: u32, aBatch: u32, aHead: u32, aRow: u32, hidden: f32
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<${A}>;
@group(0) @binding(2) var<storage, read> p: array<${P}>;
@group(0) @binding(3) var<storage, read_write> y: array<${Y}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  let key = i % params.cols;
  let row = i / params.cols % params.rows;
  let head = i / (params.cols * params.rows) % params.heads;
  let batch = i / (params.cols * params.rows * params.heads);
  var sees = true;
  var sum = 0.0;
  if (key < params.keys) {
    if ((params.flags & 1) != 0) {
      let m = a[batch * params.aBatch + head * params.aHead + row * params.aRow + key];
      ${A === "f32" ? "sum += m;" : "sees = sees && m == 0;"}
    }
    if ((params.flags & 2) != 0) {
      let m = p[batch * params.keys + key];
      ${P === "f32" ? "sum += m;" : "sees = sees && m == 0;"}
    }
    if ((params.flags & 4) != 0) { sees = sees && key <= row; }
  }
  y[i] = ${Y === "f32" ? "select(params.hidden, sum, sees)" : "u32(sees)"};
}`,
  ),
);

/** Reductions over the W threads of a row, returned to each of them. The workgroup's 256 threads hold 256 / W rows. */
const rowReductions = /* wgsl */ `
var<workgroup> partials: array<f32, 256>;

fn rowSum(lane: u32, v: f32) -> f32 {
  partials[lane] = v;
  for (var half = W / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane % W < half) { partials[lane] += partials[lane + half]; }
  }
  workgroupBarrier();
  let sum = partials[lane / W * W];
  workgroupBarrier();
  return sum;
}

fn rowMax(lane: u32, v: f32) -> f32 {
  partials[lane] = v;
  for (var half = W / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane % W < half) { partials[lane] = max(partials[lane], partials[lane + half]); }
  }
  workgroupBarrier();
  let largest = partials[lane / W * W];
  workgroupBarrier();
  return largest;
}`;

/**
 * p = softmax(s + mask) in each row; zeros where the mask hides all. Only -Infinity hides a key: by its bits, since WGSL may
 * assume that there are no infinities. The lowest finite number, which other frameworks use, is one to calculate with.
 */
const softmaxKernel = variants((S: FloatType, P: FloatType) =>
  kernel(
    `multihead.softmax.${S}.${P}`,
    /* wgsl */ `
override W: u32 = 64;
${rowReductions}

struct Params { rows: u32, cols: u32, heads: u32, queries: u32, masked: u32, mBatch: u32, mHead: u32, mRow: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> s: array<${S}>;
@group(0) @binding(2) var<storage, read> mask: array<f32>;
@group(0) @binding(3) var<storage, read_write> p: array<${P}>;

fn added(i: u32) -> f32 {
  if (params.masked == 0) { return 0.0; }
  return mask[i];
}

fn hidden(m: f32) -> bool { return bitcast<u32>(m) == 0xff800000u; }

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = (wg.x + wg.y * groups.x) * (256 / W) + lane / W;
  let inside = row < params.rows;
  let r = min(row, params.rows - 1);
  let base = r * params.cols;
  let query = r % params.queries;
  let head = r / params.queries % params.heads;
  let m0 = r / (params.queries * params.heads) * params.mBatch + head * params.mHead + query * params.mRow;

  var largest = -3.4028234e38;
  for (var c = lane % W; c < params.cols; c += W) {
    let m = added(m0 + c);
    if (!hidden(m)) { largest = max(largest, f32(s[base + c]) + m); }
  }
  largest = rowMax(lane, largest);

  var sum = 0.0;
  for (var c = lane % W; c < params.cols; c += W) {
    let m = added(m0 + c);
    if (!hidden(m)) { sum += exp(f32(s[base + c]) + m - largest); }
  }
  sum = rowSum(lane, sum);

  if (!inside) { return; }
  for (var c = lane % W; c < params.cols; c += W) {
    let m = added(m0 + c);
    var v = 0.0;
    if (!hidden(m)) { v = exp(f32(s[base + c]) + m - largest) / sum; }
    p[base + c] = ${P}(v);
  }
}`,
  ),
);

/** ds = p ⊙ (dp − Σ p ⊙ dp), the sum over the row. */
const softmaxGradKernel = variants((S: FloatType, P: FloatType) =>
  kernel(
    `multihead.softmaxGrad.${S}.${P}`,
    /* wgsl */ `
override W: u32 = 64;
${rowReductions}

struct Params { rows: u32, cols: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> p: array<${P}>;
@group(0) @binding(2) var<storage, read> dp: array<${P}>;
@group(0) @binding(3) var<storage, read_write> ds: array<${S}>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = (wg.x + wg.y * groups.x) * (256 / W) + lane / W;
  let inside = row < params.rows;
  let base = min(row, params.rows - 1) * params.cols;
  var sum = 0.0;
  for (var c = lane % W; c < params.cols; c += W) { sum += f32(p[base + c]) * f32(dp[base + c]); }
  sum = rowSum(lane, sum);
  if (!inside) { return; }
  for (var c = lane % W; c < params.cols; c += W) {
    ds[base + c] = ${S}(f32(p[base + c]) * (f32(dp[base + c]) - sum));
  }
}`,
  ),
);

/** Four elements a thread are kept or zeroed by the four words of one draw, as in @kindling/dropout. */
const dropoutKernel = variants((T: FloatType) =>
  kernel(
    `multihead.dropout.${T}`,
    /* wgsl */ `
struct Params { vectors: u32, stream: u32, threshold: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rng: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<${T}>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<${T}>>;
${pcg4d}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.vectors) { return; }
  let bits = pcg4d(vec4u(i, rng[2] + params.stream, rng[0], rng[1]));
  y[i] = vec4<${T}>(select(vec4f(0), vec4f(x[i]) * params.scale, bits >= vec4u(params.threshold)));
}`,
  ),
);

/** Above this scaledDotProductAttention has no kernels, and the weights are computed as if they were asked for. */
const MAX_HEAD_DIM = 256;

// Launchers -------------------------------------------------------------------------------------

type Dims = readonly [number, number, number, number];

/** Where an array of [b0, b1, b2, ·] lies in a tensor: element offset, and strides of its first three axes. */
interface Place {
  readonly offset?: number;
  readonly strides: readonly [number, number, number];
}

function copyStrided(x: Tensor, from: Place, y: Tensor, to: Place, [d0, d1, d2, d3]: Dims, factor = 1): void {
  const numbers = [d3, from.offset ?? 0, ...from.strides, to.offset ?? 0, ...to.strides];
  const wide = numbers.every((n) => n % 4 === 0);
  const [inner, xOffset, x0, x1, x2, yOffset, y0, y1, y2] = numbers.map((n) => (wide ? n / 4 : n)) as [
    ...[number, number, number, number, number],
    ...[number, number, number, number],
  ];
  const size = d0 * d1 * d2 * inner;
  const params = { size, d1, d2, d3: inner, xOffset, x0, x1, x2, yOffset, y0, y1, y2, factor };
  copyKernel(x.dtype as FloatType, wide).run({ params, x, y }, { workgroups: threads(size) });
}

/** Σ over the middle axis of x, read as [outer, middle, inner], times a factor. */
function sumMiddle(x: Tensor, inner: number, middle: number, shape: Shape, dtype: FloatType, factor = 1): Tensor {
  const y = emptyLike(x, { shape, dtype });
  const params = { size: y.size, middle, inner, factor };
  sumKernel(x.dtype as FloatType, dtype).run({ params, x, y }, { workgroups: threads(y.size) });
  return y;
}

const elementOf = (mask: Tensor | null): "u32" | "f32" => (mask && mask.dtype !== "bool" ? "f32" : "u32");

/** Threads of a row, and the workgroups for all rows. */
function rowLaunch(rows: number, cols: number): { workgroups: [number, number]; constants: { W: number } } {
  const W = cols <= 64 ? 32 : cols <= 256 ? 64 : cols <= 2048 ? 128 : 256;
  return { workgroups: grid(Math.ceil(rows / (256 / W))), constants: { W } };
}

function applyDropout(x: Tensor, p: number, stream: Stream): Tensor {
  const y = emptyLike(x);
  const vectors = Math.ceil(x.size / 4);
  const threshold = Math.min(Math.round(p * 2 ** 32), 2 ** 32 - 1);
  const params = { vectors, stream: stream.offset, threshold, scale: p < 1 ? 1 / (1 - p) : 0 };
  dropoutKernel(x.dtype as FloatType).run({ params, rng: stream.state, x, y }, { workgroups: threads(vectors) });
  return y;
}

// Differentiable parts --------------------------------------------------------------------------

/** `x` [a, b, c] as [b, a, c]; without a copy where an axis has one element. */
function swapAxes(x: Tensor): Tensor {
  const [a, b, c] = x.shape as [number, number, number];
  if (a === 1 || b === 1) return x.reshape([b, a, c]);
  const y = emptyLike(x, { shape: [b, a, c] });
  copyStrided(x, { strides: [0, c, b * c] }, y, { strides: [0, a * c, c] }, [1, b, a, c]);
  return record(y, [x], (dy) => [swapAxes(dy)]);
}

/**
 * `x` along its first axis in parts of these sizes. They share its memory where the GPU's binding alignment allows, which it
 * does for the parts of a projection whose width is a multiple of 64.
 */
function sections(x: Tensor, sizes: readonly number[]): Tensor[] {
  const rest = x.shape.slice(1);
  const width = sizeOf(rest);
  const flat: Place["strides"] = [0, 0, 0];
  const starts = sizes.map((_, i) => sizes.slice(0, i).reduce((sum, n) => sum + n * width, 0));
  const unit = x.device.limits.minStorageBufferOffsetAlignment / (x.dtype === "f16" ? 2 : 4);
  const parts = sizes.map((size, i) => {
    const shape = [size, ...rest];
    if (starts[i]! % unit === 0) return x.view(starts[i]!, shape);
    const part = emptyLike(x, { shape });
    copyStrided(x, { offset: starts[i]!, strides: flat }, part, { strides: flat }, [1, 1, 1, part.size]);
    return part;
  });
  return record(parts, [x], (grads) => {
    const dx = grads.includes(null) ? zeros(x.shape, x) : emptyLike(x);
    grads.forEach((g, i) => {
      if (g) copyStrided(g, { strides: flat }, dx, { offset: starts[i]!, strides: flat }, [1, 1, 1, g.size]);
    });
    return [dx];
  }) as Tensor[];
}

/** Sizes of one call. Rows are tokens: [batch, length, …] where `batchFirst`, else [length, batch, …]. */
interface Sizes {
  readonly batch: number;
  readonly heads: number;
  readonly dim: number;
  readonly batchFirst: boolean;
}

/** Where head h of token l of batch n lies in rows of `width` elements, from column `offset` on. */
const rowsPlace = ({ batch, dim, batchFirst }: Sizes, length: number, width: number, offset = 0): Place => ({
  offset,
  strides: batchFirst ? [length * width, dim, width] : [width, dim, batch * width],
});

/** The same in [batch, heads, length, dim], from row `first` on. */
const headsPlace = ({ heads, dim }: Sizes, length: number, first = 0): Place => ({
  offset: first * dim,
  strides: [heads * length * dim, length * dim, dim],
});

interface Part {
  /** Times this. */
  readonly factor: number;
  /** [embedDim]: one more row. */
  readonly bias: Tensor | null;
  /** One more row, of zeros. */
  readonly zero: boolean;
}

/** Rows of `x` that hold `parts` projections side by side, as one [batch, heads, length + appended rows, dim] for each. */
function toHeads(x: Tensor, parts: readonly Part[], sizes: Sizes): Tensor[] {
  const { batch, heads, dim, batchFirst } = sizes;
  const length = x.shape[batchFirst ? 1 : 0]!;
  const width = heads * dim;
  const place = (i: number): Place => rowsPlace(sizes, length, parts.length * width, i * width);
  const total = ({ bias, zero }: Part): number => length + Number(bias !== null) + Number(zero);
  const outputs = parts.map((part, i) => {
    const rows = total(part);
    const y = emptyLike(x, { shape: [batch, heads, rows, dim] });
    copyStrided(x, place(i), y, headsPlace(sizes, rows), [batch, heads, length, dim], part.factor);
    const once = { strides: [0, dim, 0] } as const;
    if (part.bias) copyStrided(part.bias, once, y, headsPlace(sizes, rows, length), [batch, heads, 1, dim]);
    if (part.zero) {
      const none = zeros([width], y);
      copyStrided(none, once, y, headsPlace(sizes, rows, rows - 1), [batch, heads, 1, dim]);
      none.dispose();
    }
    return y;
  });
  const biases = parts.flatMap(({ bias }) => bias ?? []);
  return record(outputs, [x, ...biases], (grads) => {
    const dx = grads.includes(null) ? zeros(x.shape, x) : emptyLike(x);
    const dBiases: (Tensor | null)[] = [];
    parts.forEach((part, i) => {
      const dy = grads[i];
      const rows = total(part);
      if (dy) copyStrided(dy, headsPlace(sizes, rows), dx, place(i), [batch, heads, length, dim], part.factor);
      if (!part.bias) return;
      if (!dy || !needsGrad(part.bias)) {
        dBiases.push(null);
        return;
      }
      const each = emptyLike(dy, { shape: [batch, width] });
      const rowOfEach = { strides: [width, dim, 0] } as const;
      copyStrided(dy, headsPlace(sizes, rows, length), each, rowOfEach, [batch, heads, 1, dim]);
      dBiases.push(sumRows(each, part.bias.shape));
      each.dispose();
    });
    return [dx, ...dBiases];
  }) as Tensor[];
}

/** [batch, heads, length, dim] as rows. */
function fromHeads(x: Tensor, sizes: Sizes): Tensor {
  const { batch, heads, dim, batchFirst } = sizes;
  const length = x.shape[2]!;
  const width = heads * dim;
  const dims = [batch, heads, length, dim] as const;
  const [apart, rows] = [headsPlace(sizes, length), rowsPlace(sizes, length, width)];
  const y = emptyLike(x, { shape: batchFirst ? [batch, length, width] : [length, batch, width] });
  copyStrided(x, apart, y, rows, dims);
  return record(y, [x], (dy) => {
    const dx = emptyLike(x);
    copyStrided(dy, rows, dx, apart, dims);
    return [dx];
  });
}

interface Masks {
  /** [queries, keys] or [batch · heads, queries, keys], bool or f32. */
  readonly attention: Tensor | null;
  /** [batch, keys], bool or f32. */
  readonly padding: Tensor | null;
  readonly isCausal: boolean;
}

interface Scores {
  readonly device: Device;
  readonly batch: number;
  readonly heads: number;
  readonly queries: number;
  readonly keys: number;
  /** Rows appended to the keys. */
  readonly extra: number;
}

/**
 * [batch or 1, heads or 1, queries or 1, keys + extra]: bool, true where a query may look, unless a mask is of floats or
 * `added` asks for what to add to the scores, f32.
 */
function combineMasks({ attention, padding, isCausal }: Masks, s: Scores, added: boolean): Tensor {
  const perHead = attention?.shape.length === 3;
  const batches = padding || perHead ? s.batch : 1;
  const heads = perHead ? s.heads : 1;
  const rows = attention || isCausal ? s.queries : 1;
  const cols = s.keys + s.extra;
  const shape = [batches, heads, rows, cols];
  const floats = [attention, padding].filter((mask) => mask !== null && mask.dtype !== "bool") as Tensor[];
  if (floats[0] === attention && !padding && !isCausal && s.extra === 0) return attention!.reshape(shape);
  const y = empty(shape, { dtype: added || floats.length > 0 ? "f32" : "bool", device: s.device });
  const absent = empty([1], { dtype: "u32", device: s.device }); // a binding that the flags say not to read
  const plane = s.queries * s.keys;
  maskKernel(elementOf(attention), elementOf(padding), elementOf(y)).run(
    {
      params: {
        ...{ size: y.size, heads, rows, cols, keys: s.keys, hidden: Number.NEGATIVE_INFINITY },
        flags: (attention ? 1 : 0) + (padding ? 2 : 0) + (isCausal ? 4 : 0),
        ...{ aBatch: perHead ? s.heads * plane : 0, aHead: perHead ? plane : 0, aRow: s.keys },
      },
      ...{ a: attention ?? absent, p: padding ?? absent, y },
    },
    { workgroups: threads(y.size) },
  );
  absent.dispose();

  /** Without the appended columns, in the shape of `mask`. */
  const strip = (d: Tensor, mask: Tensor): Tensor => {
    if (s.extra === 0) return d.view(0, mask.shape);
    const g = emptyLike(mask);
    copyStrided(d, { strides: [0, 0, cols] }, g, { strides: [0, 0, s.keys] }, [1, 1, mask.size / s.keys, s.keys]);
    return g;
  };
  return record(y, floats, (dy) =>
    floats.map((mask) => {
      if (!needsGrad(mask)) return null;
      if (mask === padding) return strip(sumMiddle(dy, cols, heads * rows, [batches, cols], "f32"), mask);
      return strip(batches > 1 && !perHead ? sumRows(dy, [rows, cols]) : dy, mask);
    }),
  );
}

/** softmax(scores + mask) over the last axis of [batch, heads, queries, keys]. Under autocast f32, as in PyTorch. */
function softmaxWeights(scores: Tensor, mask: Tensor | null): Tensor {
  const [, heads, queries, cols] = scores.shape as [number, number, number, number];
  const rows = scores.size / cols;
  const p = emptyLike(scores, { dtype: autocastType() ? "f32" : scores.dtype });
  const kernels = [scores.dtype as FloatType, p.dtype as FloatType] as const;
  const m = mask ?? empty([1], { device: scores.device }); // without a mask not read
  const [batches, perHead, perRow] = mask?.shape ?? [1, 1, 1];
  const stride = (n: number, step: number): number => (n > 1 ? step : 0);
  softmaxKernel(...kernels).run(
    {
      params: {
        ...{ rows, cols, heads, queries, masked: Number(mask !== null) },
        mBatch: stride(batches!, perHead! * perRow! * cols),
        mHead: stride(perHead!, perRow! * cols),
        mRow: stride(perRow!, cols),
      },
      ...{ s: scores, mask: m, p },
    },
    rowLaunch(rows, cols),
  );
  if (!mask) m.dispose();
  return record(p, mask ? [scores, mask] : [scores], (dp) => {
    const ds = emptyLike(scores);
    softmaxGradKernel(...kernels).run({ params: { rows, cols }, p, dp, ds }, rowLaunch(rows, cols));
    if (!mask) return [ds];
    return [needsGrad(scores) ? ds : null, needsGrad(mask) ? sumTo(ds, mask.shape) : null];
  });
}

/** Σ over the axes in which `shape` has 1, f32. */
function sumTo(x: Tensor, shape: Shape): Tensor {
  const dims = [...x.shape];
  let y = x;
  for (let axis = dims.length - 1; axis >= 0; axis--) {
    const middle = dims[axis]!;
    if (shape[axis] === middle) continue;
    dims[axis] = 1;
    const sum = sumMiddle(y, sizeOf(dims.slice(axis + 1)), middle, dims, "f32");
    if (y !== x) y.dispose();
    y = sum;
  }
  return cast(y, "f32");
}

/** The mean over the heads of [batch, heads, queries, keys]. */
function averageHeads(p: Tensor): Tensor {
  const [batch, heads, queries, keys] = p.shape as [number, number, number, number];
  const plane = queries * keys;
  const y = sumMiddle(p, plane, heads, [batch, queries, keys], p.dtype as FloatType, 1 / heads);
  return record(y, [p], (dy) => {
    const dp = emptyLike(p);
    const to: Place = { strides: [heads * plane, plane, 0] };
    copyStrided(dy, { strides: [plane, 0, 0] }, dp, to, [batch, heads, 1, plane], 1 / heads);
    return [dp];
  });
}

/** softmax(q kᵀ + mask), some of it dropped. q is scaled already. */
function weightsOf(q: Tensor, k: Tensor, mask: Tensor | null, dropout: number): Tensor {
  const scores = matmul(q, k, { transposeB: true });
  const p = softmaxWeights(scores, mask);
  scores.dispose(); // softmax has its gradient from p
  if (dropout === 0) return p;
  const stream = nextStream(p.device);
  const dropped = record(applyDropout(p, dropout, stream), [p], (dy) => [applyDropout(dy, dropout, stream)]);
  return released(dropped, [p]);
}

// Module ----------------------------------------------------------------------------------------

export interface MultiheadAttentionOptions {
  /** Probability of dropping a weight while training. Default 0. */
  dropout?: number;
  /** Add biases to the four projections. Default true. */
  bias?: boolean;
  /** Append a learned key and value, `bias_k` and `bias_v`. Default false. */
  addBiasKv?: boolean;
  /** Append a key and a value of zeros. Default false. */
  addZeroAttn?: boolean;
  /** Features of key and of value. Default embedDim. */
  kdim?: number;
  vdim?: number;
  /** Inputs are [batch, length, features] rather than [length, batch, features]. Default false, as in PyTorch. */
  batchFirst?: boolean;
  device?: Device;
}

export interface MultiheadForwardOptions {
  /** Query i sees the keys j ≤ i, and the appended ones. Needs no attnMask. Default false. */
  isCausal?: boolean;
  /** [L, S] or [batch · heads, L, S]: bool, true where a query may not look, or floats to add to the scores. */
  attnMask?: Tensor | null;
  /** [batch, S]: bool, true where a key is padding, or floats to add to its scores. */
  keyPaddingMask?: Tensor | null;
  /** Also return the weights, at the price of having them in memory. Default false (PyTorch: true). */
  needWeights?: boolean;
  /** Return the mean of the weights over the heads. Default true. */
  averageAttnWeights?: boolean;
}

export interface AttentionWithWeights {
  readonly output: Tensor;
  /** [batch, L, S + appended rows], or not averaged [batch, heads, L, S + appended rows]. */
  readonly weights: Tensor;
}

/** A weight [out, in] and a bias [out], under the names that torch.nn.Linear gives them. */
class Projection extends Module {
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(features: number, bias: boolean, device: Device | undefined) {
    super();
    this.weight = parameter(kaimingUniform(empty([features, features], { device }), { a: Math.sqrt(5) }));
    this.bias = bias ? parameter(zeros([features], { device })) : null;
  }

  forward(x: Tensor): Tensor {
    return matmul(x, this.weight, { transposeB: true, bias: this.bias });
  }

  protected override extraRepr(): string {
    return `inFeatures=${this.weight.shape[1]}, outFeatures=${this.weight.shape[0]}, bias=${this.bias !== null}`;
  }
}

/**
 * Attention of `query` to `key` and `value` in several heads. Matches `torch.nn.MultiheadAttention(embedDim, numHeads, …)`:
 * parameters, state dict, initialisation, masks.
 */
export class MultiheadAttention extends Module {
  readonly embedDim: number;
  readonly numHeads: number;
  readonly headDim: number;
  readonly kdim: number;
  readonly vdim: number;
  readonly dropout: number;
  readonly addZeroAttn: boolean;
  readonly batchFirst: boolean;
  /** [3 · embedDim, embedDim]: of q, k and v, one below the other; null where kdim or vdim differ. */
  readonly in_proj_weight: Tensor | null;
  /** [embedDim, embedDim], [embedDim, kdim], [embedDim, vdim], where kdim or vdim differ. */
  readonly q_proj_weight: Tensor | null;
  readonly k_proj_weight: Tensor | null;
  readonly v_proj_weight: Tensor | null;
  /** [3 · embedDim] */
  readonly in_proj_bias: Tensor | null;
  /** [1, 1, embedDim] */
  readonly bias_k: Tensor | null;
  readonly bias_v: Tensor | null;
  readonly out_proj: Projection;

  constructor(
    embedDim: number,
    numHeads: number,
    {
      dropout = 0,
      bias = true,
      addBiasKv = false,
      addZeroAttn = false,
      kdim = embedDim,
      vdim = embedDim,
      batchFirst = false,
      device,
    }: MultiheadAttentionOptions = {},
  ) {
    super();
    for (const [name, n] of Object.entries({ embedDim, numHeads, kdim, vdim })) {
      if (!Number.isInteger(n) || n < 1)
        throw new Error(`MultiheadAttention: ${name} is ${n}, expected a whole number ≥ 1`);
    }
    if (embedDim % numHeads !== 0)
      throw new Error(`MultiheadAttention: embedDim is ${embedDim}, expected a multiple of numHeads, ${numHeads}`);
    if (!(dropout >= 0 && dropout <= 1))
      throw new Error(`MultiheadAttention: dropout is ${dropout}, expected a probability from 0 to 1`);
    this.embedDim = embedDim;
    this.numHeads = numHeads;
    this.headDim = embedDim / numHeads;
    this.kdim = kdim;
    this.vdim = vdim;
    this.dropout = dropout;
    this.addZeroAttn = addZeroAttn;
    this.batchFirst = batchFirst;
    const apart = kdim !== embedDim || vdim !== embedDim;
    const weight = (rows: number, cols: number): Tensor => parameter(xavierUniform(empty([rows, cols], { device })));
    // torch.nn.init.xavier_normal_ of these shapes
    const row = (): Tensor => parameter(normal(empty([1, 1, embedDim], { device }), 0, 1 / Math.sqrt(embedDim)));
    this.in_proj_weight = apart ? null : weight(3 * embedDim, embedDim);
    this.q_proj_weight = apart ? weight(embedDim, embedDim) : null;
    this.k_proj_weight = apart ? weight(embedDim, kdim) : null;
    this.v_proj_weight = apart ? weight(embedDim, vdim) : null;
    this.in_proj_bias = bias ? parameter(zeros([3 * embedDim], { device })) : null;
    this.bias_k = addBiasKv ? row() : null;
    this.bias_v = addBiasKv ? row() : null;
    this.out_proj = new Projection(embedDim, bias, device);
  }

  /**
   * query: [L, batch, embedDim], key: [S, batch, kdim], value: [S, batch, vdim], with `batchFirst` [batch, L, embedDim] …, or
   * each without its batch axis; f32 or f16, like the parameters, or either under autocast. `key` defaults to `query`, `value`
   * to `key`. Returns the shape of query, and the weights if asked for; they are differentiable.
   */
  forward(
    query: Tensor,
    key?: Tensor | null,
    value?: Tensor | null,
    options?: MultiheadForwardOptions & { needWeights?: false },
  ): Tensor;
  forward(
    query: Tensor,
    key: Tensor | null | undefined,
    value: Tensor | null | undefined,
    options: MultiheadForwardOptions & { needWeights: true },
  ): AttentionWithWeights;
  forward(
    query: Tensor,
    key?: Tensor | null,
    value?: Tensor | null,
    options?: MultiheadForwardOptions,
  ): Tensor | AttentionWithWeights;
  forward(
    query: Tensor,
    keyOrNull?: Tensor | null,
    valueOrNull?: Tensor | null,
    {
      isCausal = false,
      attnMask = null,
      keyPaddingMask = null,
      needWeights = false,
      averageAttnWeights = true,
    }: MultiheadForwardOptions = {},
  ): Tensor | AttentionWithWeights {
    const key = keyOrNull ?? query;
    const value = valueOrNull ?? key;
    const { batch, queries, keys } = this.#check(query, key, value, attnMask, keyPaddingMask);
    const tensors = { query, key, value, attnMask, keyPaddingMask };
    const settings = { module: this, isCausal, needWeights, averageAttnWeights };
    const other = delegated<Tensor & AttentionWithWeights>("multiheadAttention", tensors, settings);
    if (other) return other;
    const { numHeads: heads, headDim: dim, in_proj_weight: packed, in_proj_bias: bias } = this;
    // With a batch of one both layouts are the same.
    const sizes = { batch, heads, dim, batchFirst: this.batchFirst || batch === 1 };
    const rows = (x: Tensor): Tensor => {
      const length = x === query ? queries : keys;
      return x.reshape([...(sizes.batchFirst ? [batch, length] : [length, batch]), x.shape.at(-1)!]);
    };
    const extra = Number(this.bias_k !== null) + Number(this.addZeroAttn);
    const explicit = needWeights || dim > MAX_HEAD_DIM;
    // Appended rows are beyond the causal limit, and yet every query sees them: then the mask must say so.
    const folded = explicit || extra > 0;
    const masks = { attention: additive(attnMask), padding: additive(keyPaddingMask), isCausal: isCausal && folded };
    const scores = { batch, heads, queries, keys, extra, device: query.device };
    const mask = attnMask || keyPaddingMask || masks.isCausal ? combineMasks(masks, scores, explicit) : null;
    const dropout = this.training ? this.dropout : 0;
    const options = { attnMask: mask, isCausal: isCausal && !folded, dropout };

    if (packed && query === key && key === value && !folded) {
      const x = sizes.batchFirst ? rows(query) : swapAxes(rows(query));
      const qkv = matmul(x, packed, { transposeB: true, bias });
      const joined = selfAttention(qkv, heads, options);
      const y = this.out_proj.forward(joined);
      const output = sizes.batchFirst ? y : swapAxes(y);
      return released(output.reshape(query.shape), [x, mask, qkv, joined, y, output]);
    }

    const [q, k, v] = this.#heads([query, key, value], rows, sizes, explicit) as [Tensor, Tensor, Tensor];
    const p = explicit ? weightsOf(q, k, mask, dropout) : null;
    const apart = p ? matmul(p, v) : scaledDotProductAttention(q, k, v, options);
    const joined = fromHeads(apart, sizes);
    const y = this.out_proj.forward(joined);
    const output = released(y.reshape(query.shape), [q, k, v, mask, apart, joined, y]);
    if (!needWeights || !p) return released(output, [p]);
    const average = averageAttnWeights ? averageHeads(p) : p;
    const weights = average.reshape(query.shape.length === 2 ? average.shape.slice(1) : average.shape);
    return { output, weights: released(weights, [p, average]) };
  }

  /** q, times 1 / √headDim if its products are computed here, k and v: [batch, heads, length, headDim]. */
  #heads(
    inputs: readonly [query: Tensor, key: Tensor, value: Tensor],
    rows: (x: Tensor) => Tensor,
    sizes: Sizes,
    explicit: boolean,
  ): Tensor[] {
    const [query, key, value] = inputs;
    const { in_proj_weight: packed, in_proj_bias, embedDim, bias_k, bias_v, addZeroAttn: zero } = this;
    const parts = [
      { factor: explicit ? 1 / Math.sqrt(this.headDim) : 1, bias: null, zero: false },
      { factor: 1, bias: bias_k, zero },
      { factor: 1, bias: bias_v, zero },
    ];
    // How many projections one product computes: those of one input, side by side.
    const groups = !packed || key !== value ? [1, 1, 1] : query === key ? [3] : [1, 2];
    const scratch: Tensor[] = [];
    const split = (x: Tensor): Tensor[] => {
      if (groups.length === 1) return [x];
      const cut = sections(
        x,
        groups.map((n) => n * embedDim),
      );
      scratch.push(...cut);
      return cut;
    };
    const weights = packed ? split(packed) : [this.q_proj_weight!, this.k_proj_weight!, this.v_proj_weight!];
    const biases = in_proj_bias ? split(in_proj_bias) : [];
    let first = 0;
    const heads = groups.flatMap((n, i) => {
      const x = matmul(rows(inputs[i]!), weights[i]!, { transposeB: true, bias: biases[i] ?? null });
      const own = parts.slice(first, (first += n)).map((p) => ({ ...p, bias: p.bias && cast(p.bias, x.dtype) }));
      const apart = toHeads(x, own, sizes);
      x.dispose(); // its heads were copied, and its gradient is theirs
      return apart;
    });
    if (!heads.some(needsGrad)) for (const t of scratch) t.dispose();
    return heads;
  }

  #check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attnMask: Tensor | null,
    keyPaddingMask: Tensor | null,
  ): { batch: number; queries: number; keys: number } {
    const fail = (what: string, x: Tensor, expected: string): never => {
      throw new Error(`MultiheadAttention: ${what} has shape [${x.shape}], expected ${expected}`);
    };
    const { embedDim, kdim, vdim, numHeads, batchFirst } = this;
    const rank = query.shape.length;
    const at = (length: number | string, batch: number | string, features: number): string =>
      rank === 2
        ? `[${length},${features}]`
        : `[${batchFirst ? `${batch},${length}` : `${length},${batch}`},${features}]`;
    if ((rank !== 2 && rank !== 3) || query.shape.at(-1) !== embedDim)
      fail("query", query, `${at("L", "batch", embedDim)}${rank === 2 ? "" : ` or [L,${embedDim}]`}`);
    const [length, batchAxis] = rank === 2 ? [0, -1] : batchFirst ? [1, 0] : [0, 1];
    const batch = query.shape[batchAxis] ?? 1;
    const queries = query.shape[length]!;
    const keys = key.shape[length]!;
    if (`[${key.shape}]` !== at(keys, batch, kdim)) fail("key", key, at("S", batch, kdim));
    if (`[${value.shape}]` !== at(keys, batch, vdim)) fail("value", value, at(keys, batch, vdim));
    const { dtype } = this.out_proj.weight;
    for (const [argument, x] of Object.entries({ query, key, value })) {
      if (x.dtype !== "f32" && x.dtype !== "f16")
        throw new Error(`MultiheadAttention: ${argument} is ${x.dtype}, expected f32 or f16`);
      if (!autocastType() && x.dtype !== dtype)
        throw new Error(
          `MultiheadAttention: ${argument} is ${x.dtype} and the parameters ${dtype}, expected one dtype (or autocast)`,
        );
    }
    const shapes = {
      attnMask: [`${queries},${keys}`, `${batch * numHeads},${queries},${keys}`],
      keyPaddingMask: [rank === 2 ? `${keys}` : `${batch},${keys}`],
    };
    for (const [argument, mask] of Object.entries({ attnMask, keyPaddingMask })) {
      if (!mask) continue;
      const allowed = shapes[argument as keyof typeof shapes];
      if (!allowed.includes(mask.shape.join())) fail(argument, mask, `[${allowed.join("] or [")}]`);
      if (mask.dtype !== "bool" && mask.dtype !== "f32" && mask.dtype !== "f16")
        throw new Error(`MultiheadAttention: ${argument} is ${mask.dtype}, expected bool, f32 or f16`);
    }
    return { batch, queries, keys };
  }
}

/** A mask of floats as f32. */
const additive = (mask: Tensor | null): Tensor | null => (mask && mask.dtype !== "bool" ? cast(mask, "f32") : mask);

/** `y`; without a tape nothing reads what it was computed from again. */
function released(y: Tensor, scratch: readonly (Tensor | null)[]): Tensor {
  if (!y.requiresGrad) for (const t of scratch) t?.dispose();
  return y;
}
