/**
 * Embedding: rows of a table, looked up by id. Matches torch.nn.functional.embedding.
 *
 *   y[i]  = w[ids[i]]
 *   dw[v] = Σ dy[i] over the i with ids[i] = v, in increasing order of i; / their number with scaleGradByFreq
 *
 * Float atomics would make dw differ from run to run, so backward sorts the positions by id (a stable radix sort, 8 bits a
 * pass) and sums each id's positions in order. An id with many positions is summed in windows of 32 neighbours in the sorted
 * order, side by side on the GPU, and its windows are added in order.
 * Order of this file: kernels, launchers, differentiable function, module.
 */
import {
  type Device,
  delegated,
  empty,
  emptyLike,
  type FloatType,
  grid,
  kernel,
  Module,
  needsGrad,
  normal,
  parameter,
  record,
  type Tensor,
  threads,
  variants,
  workgroupReduce,
  zeros,
} from "@kindling/core";

// Kernels ---------------------------------------------------------------------------------------

type Id = "i32" | "u32";
/** Elements of a row of the table: vec4s where its width is a multiple of 4. */
type Element = "vec4<f32>" | "vec4<f16>" | "f32" | "f16";
/** What they are summed in. */
type Sum = "vec4<f32>" | "f32";

/** A thread for an element of y. */
const forwardKernel = variants((I: Id, E: Element, F: Sum) =>
  kernel(
    `embedding.forward.${E}`,
    /* wgsl */ `
struct Params { size: u32, cols: u32, rows: u32, nan: u32, fault: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<${I}>;
@group(0) @binding(2) var<storage, read> weight: array<${E}>;
@group(0) @binding(3) var<storage, read_write> y: array<${E}>;
@group(0) @binding(4) var<storage, read_write> faults: array<atomic<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) thread: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = thread.x + thread.y * groups.x * 256;
  if (i >= params.size) { return; }
  let id = u32(ids[i / params.cols]);
  if (id < params.rows) {
    y[i] = weight[id * params.cols + i % params.cols];
  } else {
    atomicStore(&faults[params.fault], 1);
    atomicStore(&faults[params.fault + 1], id);
    y[i] = ${E}(${F}(bitcast<f32>(params.nan)));
  }
}`,
  ),
);

/** Where a pass of the sort reads (id, position) from: the ids, or the last pass. Ids out of range go to the end. */
const pairs = {
  ids: (I: Id): string => /* wgsl */ `
@group(0) @binding(1) var<storage, read> ids: array<${I}>;
fn pair(i: u32) -> vec2u { return vec2u(min(u32(ids[i]), params.rows), i); }`,
  pairs: (): string => /* wgsl */ `
@group(0) @binding(1) var<storage, read> ids: array<vec2u>;
fn pair(i: u32) -> vec2u { return ids[i]; }`,
};

type Source = keyof typeof pairs;

/** How often each digit, 8 bits of the id, occurs in a chunk of 256 pairs. */
const countKernel = variants((from: Source, I: Id) =>
  kernel<string>(
    `embedding.count.${from}`,
    /* wgsl */ `
struct Params { count: u32, rows: u32, shift: u32, chunks: u32 }

@group(0) @binding(0) var<uniform> params: Params;
${pairs[from](I)}
@group(0) @binding(2) var<storage, read_write> counts: array<u32>;

var<workgroup> bins: array<atomic<u32>, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (wg.x + wg.y * groups.x) * 256 + lane;
  if (i < params.count) { atomicAdd(&bins[(pair(i).x >> params.shift) & 255], 1); }
  workgroupBarrier();
  if (i < params.chunks * 256) { counts[i] = atomicLoad(&bins[lane]); }
}`,
  ),
);

/** Turns counts into places: behind all smaller digits, and behind the same digit in earlier chunks. A thread for a digit. */
const placeKernel = variants(() =>
  kernel(
    "embedding.place",
    /* wgsl */ `
struct Params { chunks: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> counts: array<u32>;

var<workgroup> totals: array<u32, 256>;

/** The digit's counts in four chunks: loads that overlap. */
fn four(i: u32) -> vec4u { return vec4u(counts[i], counts[i + 256], counts[i + 512], counts[i + 768]); }

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) digit: u32) {
  var total = 0u;
  for (var i = digit; i < params.chunks * 256; i += 1024) { total += dot(four(i), vec4u(1)); }
  totals[digit] = total;
  for (var step = 1u; step < 256; step *= 2) {
    workgroupBarrier();
    let before = select(0, totals[max(digit, step) - step], digit >= step);
    workgroupBarrier();
    totals[digit] += before;
  }
  var place = totals[digit] - total;
  for (var i = digit; i < params.chunks * 256; i += 1024) {
    let count = four(i);
    counts[i] = place;
    counts[i + 256] = place + count.x;
    counts[i + 512] = place + count.x + count.y;
    counts[i + 768] = place + count.x + count.y + count.z;
    place += dot(count, vec4u(1));
  }
}`,
  ),
);

/** Moves each pair to its place; a thread counts the equal digits before it in its chunk, so that they keep their order. */
const moveKernel = variants((from: Source, I: Id) =>
  kernel<string>(
    `embedding.move.${from}`,
    /* wgsl */ `
struct Params { count: u32, rows: u32, shift: u32 }

@group(0) @binding(0) var<uniform> params: Params;
${pairs[from](I)}
@group(0) @binding(2) var<storage, read> places: array<u32>;
@group(0) @binding(3) var<storage, read_write> sorted: array<vec2u>;

var<workgroup> digits: array<u32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let i = (wg.x + wg.y * groups.x) * 256 + lane;
  let mine = pair(min(i, params.count - 1));
  let digit = (mine.x >> params.shift) & 255;
  digits[lane] = digit;
  workgroupBarrier();
  if (i >= params.count) { return; }
  var rank = 0u;
  for (var k = 0u; k < lane; k++) { rank += select(0u, 1u, digits[k] == digit); }
  sorted[places[i - lane + digit] + rank] = mine;
}`,
  ),
);

/** Where each id starts in the sorted order, by bisection. A thread for an id, and one for the end of the last. */
const startKernel = variants(() =>
  kernel(
    "embedding.start",
    /* wgsl */ `
struct Params { count: u32, rows: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> sorted: array<vec2u>;
@group(0) @binding(2) var<storage, read_write> starts: array<u32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) thread: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let id = thread.x + thread.y * groups.x * 256;
  if (id > params.rows) { return; }
  var low = 0u;
  var high = params.count;
  while (low < high) {
    let middle = (low + high) / 2;
    if (sorted[middle].x < id) { low = middle + 1; } else { high = middle; }
  }
  starts[id] = low;
}`,
  ),
);

/** Sorted positions of an id that one thread sums; longer runs are cut at multiples of it. */
const WINDOW = 32;

/** `sum`: dy at the sorted positions begin to end, in order, with four loads under way. */
const sum = (E: Element, F: Sum): string => /* wgsl */ `
@group(0) @binding(1) var<storage, read> sorted: array<vec2u>;
@group(0) @binding(2) var<storage, read> starts: array<u32>;
@group(0) @binding(3) var<storage, read> dy: array<${E}>;

fn at(col: u32, i: u32, end: u32) -> ${F} {
  return select(${F}(), ${F}(dy[sorted[min(i, end - 1)].y * params.cols + col]), i < end);
}

fn sum(col: u32, begin: u32, end: u32) -> ${F} {
  var total = ${F}();
  for (var i = begin; i < end; i += 4) {
    let a = at(col, i, end);
    let b = at(col, i + 1, end);
    let c = at(col, i + 2, end);
    total += a + b + c + at(col, i + 3, end);
  }
  return total;
}`;

/**
 * Partial sums of the ids with more than a window of positions. Two of them at most touch a window: `partials` holds the sum
 * of its first run, then that of its last. A thread for an element of a row in a window.
 */
const windowKernel = variants((E: Element, F: Sum) =>
  kernel<string>(
    `embedding.window.${E}`,
    /* wgsl */ `
struct Params { count: u32, rows: u32, cols: u32 }

@group(0) @binding(0) var<uniform> params: Params;
${sum(E, F)}
@group(0) @binding(4) var<storage, read_write> partials: array<${F}>;

fn long(id: u32) -> bool { return id < params.rows && starts[id + 1] - starts[id] > ${WINDOW}; }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) thread: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = thread.x + thread.y * groups.x * 256;
  let window = i / params.cols;
  let col = i % params.cols;
  let begin = window * ${WINDOW};
  let end = min(begin + ${WINDOW}, params.count);
  if (begin >= end) { return; }
  let first = sorted[begin].x;
  let last = sorted[end - 1].x;
  let at = 2 * window * params.cols + col;
  if (long(first)) { partials[at] = sum(col, begin, min(end, starts[first + 1])); }
  if (long(last) && last != first) { partials[at + params.cols] = sum(col, starts[last], end); }
}`,
  ),
);

/** dw, zeros included. A thread for an element. */
const gradKernel = variants((E: Element, F: Sum) =>
  kernel<string>(
    `embedding.grad.${E}`,
    /* wgsl */ `
struct Params { rows: u32, cols: u32, padding: u32, byCount: u32 }

@group(0) @binding(0) var<uniform> params: Params;
${sum(E, F)}
@group(0) @binding(4) var<storage, read> partials: array<${F}>;
@group(0) @binding(5) var<storage, read_write> dw: array<${E}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) thread: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = thread.x + thread.y * groups.x * 256;
  let id = i / params.cols;
  let col = i % params.cols;
  if (id >= params.rows) { return; }
  let begin = starts[id];
  let end = select(starts[id + 1], begin, id == params.padding);
  var total = ${F}();
  if (end - begin <= ${WINDOW}) {
    total = sum(col, begin, end);
  } else {
    for (var window = begin / ${WINDOW}; window * ${WINDOW} < end; window++) {
      let which = select(0u, 1u, window * ${WINDOW} < begin);
      total += partials[(2 * window + which) * params.cols + col];
    }
  }
  if (params.byCount != 0 && end > begin) { total /= f32(end - begin); }
  dw[i] = ${E}(total);
}`,
  ),
);

/** Marks the rows that are looked up. */
const markKernel = variants((I: Id) =>
  kernel(
    `embedding.mark.${I}`,
    /* wgsl */ `
struct Params { count: u32, rows: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<${I}>;
@group(0) @binding(2) var<storage, read_write> used: array<atomic<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) thread: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = thread.x + thread.y * groups.x * 256;
  if (i >= params.count) { return; }
  let id = u32(ids[i]);
  if (id < params.rows) { atomicStore(&used[id], 1); }
}`,
  ),
);

const norms = {
  two: "let norm = sqrt(workgroupSum(lane, sum));",
  p: "let norm = pow(workgroupSum(lane, sum), 1 / params.p);",
  max: "let norm = workgroupMax(lane, sum);",
} as const;

const terms = { two: "sum += v * v;", p: "sum += pow(abs(v), params.p);", max: "sum = max(sum, abs(v));" } as const;

/** Shortens the marked rows to `limit`, in place. A workgroup for a row. */
const shortenKernel = variants((T: FloatType, norm: keyof typeof norms) =>
  kernel(
    `embedding.shorten.${T}.${norm}`,
    /* wgsl */ `
override WG: u32 = 64;
${workgroupReduce}

struct Params { rows: u32, dim: u32, p: f32, limit: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> used: array<u32>;
@group(0) @binding(2) var<storage, read_write> weight: array<${T}>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = wg.x + wg.y * groups.x;
  if (row >= params.rows || used[row] == 0) { return; }
  var sum = 0.0;
  for (var c = lane; c < params.dim; c += WG) {
    let v = f32(weight[row * params.dim + c]);
    ${terms[norm]}
  }
  ${norms[norm]}
  if (norm <= params.limit) { return; }
  let factor = params.limit / (norm + 1e-7);
  for (var c = lane; c < params.dim; c += WG) {
    weight[row * params.dim + c] = ${T}(f32(weight[row * params.dim + c]) * factor);
  }
}`,
  ),
);

const clearRowKernel = variants(() =>
  kernel(
    "embedding.clearRow",
    /* wgsl */ `
struct Params { row: u32, dim: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> weight: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) thread: vec3u) {
  if (thread.x < params.dim) { weight[params.row * params.dim + thread.x] = 0; }
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

/** What a thread loads, computes with, and how many of them make a row. */
function lanesOf(weight: Tensor): { E: Element; F: Sum; cols: number } {
  const [, dim] = weight.shape as [number, number];
  const T = weight.dtype as FloatType;
  return dim % 4 === 0 ? { E: `vec4<${T}>`, F: "vec4<f32>", cols: dim / 4 } : { E: T, F: "f32", cols: dim };
}

export function embeddingForward(ids: Tensor, weight: Tensor): Tensor {
  const [rows, dim] = weight.shape as [number, number];
  const { E, F, cols } = lanesOf(weight);
  const y = emptyLike(weight, { shape: [...ids.shape, dim] });
  const size = ids.size * cols;
  const { faults, code } = weight.device.fault(`embedding: id % is out of range; the table has rows 0 to ${rows - 1}`);
  const params = { size, cols, rows, nan: 0x7fc00000, fault: code };
  forwardKernel(ids.dtype as Id, E, F).run({ params, ids, weight, y, faults }, { workgroups: threads(size) });
  return y;
}

/** Shortens, in place, the rows that `ids` name to a p-norm of `maxNorm`. */
export function embeddingShorten(ids: Tensor, weight: Tensor, maxNorm: number, normType: number): void {
  const [rows, dim] = weight.shape as [number, number];
  const used = zeros([rows], { dtype: "u32", device: weight.device });
  markKernel(ids.dtype as Id).run({ params: { count: ids.size, rows }, ids, used }, { workgroups: threads(ids.size) });
  const norm = normType === 2 ? "two" : normType === Number.POSITIVE_INFINITY ? "max" : "p";
  const params = { rows, dim, p: norm === "max" ? 0 : normType, limit: maxNorm };
  shortenKernel(weight.dtype as FloatType, norm).run({ params, used, weight }, { workgroups: grid(rows) });
  used.dispose();
}

/** The pairs (id, position) in the order of ids, equal ids in that of positions: [count, 2]. */
function sort(ids: Tensor, rows: number): Tensor {
  const count = ids.size;
  const chunks = 4 * Math.ceil(count / 1024);
  const I = ids.dtype as Id;
  const workgroups = grid(chunks);
  let pairs = ids;
  // `rows` itself stands for all ids out of range
  for (let shift = 0; shift < 32 - Math.clz32(rows); shift += 8) {
    const from = shift === 0 ? "ids" : "pairs";
    const params = { count, rows, shift, chunks };
    const counts = empty([chunks, 256], { dtype: "u32", device: ids.device });
    const sorted = empty([count, 2], { dtype: "u32", device: ids.device });
    countKernel(from, I).run({ params, ids: pairs, counts }, { workgroups });
    placeKernel().run({ params: { chunks }, counts }, { workgroups: [1] });
    moveKernel(from, I).run({ params, ids: pairs, places: counts, sorted }, { workgroups });
    counts.dispose();
    if (pairs !== ids) pairs.dispose();
    pairs = sorted;
  }
  return pairs;
}

export function embeddingGrad(
  dy: Tensor,
  ids: Tensor,
  weight: Tensor,
  { paddingIdx, scaleGradByFreq }: { paddingIdx: number | null; scaleGradByFreq: boolean },
): Tensor {
  const [rows] = weight.shape as [number, number];
  const { E, F, cols } = lanesOf(weight);
  const count = ids.size;
  const sorted = sort(ids, rows);
  const starts = empty([rows + 1], { dtype: "u32", device: ids.device });
  startKernel().run({ params: { count, rows }, sorted, starts }, { workgroups: threads(rows + 1) });
  const windows = count > WINDOW ? Math.ceil(count / WINDOW) : 0;
  const partials = empty([Math.max(windows, 1) * 2, dimOf(weight)], { device: ids.device });
  if (windows > 0) {
    windowKernel(E, F).run(
      { params: { count, rows, cols }, sorted, starts, dy, partials },
      { workgroups: threads(windows * cols) },
    );
  }
  const dw = emptyLike(weight);
  const params = { rows, cols, padding: paddingIdx ?? rows, byCount: Number(scaleGradByFreq) };
  gradKernel(E, F).run({ params, sorted, starts, dy, partials, dw }, { workgroups: threads(rows * cols) });
  for (const t of [sorted, starts, partials]) t.dispose();
  return dw;
}

// Differentiable function -----------------------------------------------------------------------

export interface EmbeddingOptions {
  /** This row receives no gradient. Negative counts from the end. Default: none. */
  paddingIdx?: number | null;
  /** Rows that are looked up are first shortened to this norm, in `weight` itself. Default: no limit. */
  maxNorm?: number | null;
  /** Which norm, p ≥ 1 or Infinity. Default 2. */
  normType?: number;
  /** Divides a row's gradient by how often its id occurs. Default false. */
  scaleGradByFreq?: boolean;
}

/**
 * The rows of `weight` [num, dim] that `ids` (i32 or u32, any shape) name: [...ids.shape, dim]. An id that names no row is an
 * error at the next read, and gives NaN until then; backward leaves it out. Matches torch.nn.functional.embedding.
 */
export function embedding(
  ids: Tensor,
  weight: Tensor,
  { paddingIdx = null, maxNorm = null, normType = 2, scaleGradByFreq = false }: EmbeddingOptions = {},
): Tensor {
  if (ids.dtype !== "i32" && ids.dtype !== "u32")
    throw new Error(`embedding: ids is ${ids.dtype}, expected i32 or u32`);
  if (weight.shape.length !== 2) throw new Error(`embedding: weight has shape [${weight.shape}], expected [num, dim]`);
  if (weight.dtype !== "f32" && weight.dtype !== "f16") {
    throw new Error(`embedding: weight is ${weight.dtype}, expected f32 or f16`);
  }
  const padding = rowOf(paddingIdx, weight.shape[0]!);
  checkNorm(maxNorm, normType);
  const other = delegated<Tensor>("embedding", { ids, weight }, { padding, maxNorm, normType, scaleGradByFreq });
  if (other) return other;
  if (maxNorm !== null) embeddingShorten(ids, weight, maxNorm, normType);
  return record(embeddingForward(ids, weight), [weight, ids], (dy) => [
    needsGrad(weight) ? embeddingGrad(dy, ids, weight, { paddingIdx: padding, scaleGradByFreq }) : null,
    null,
  ]);
}

const dimOf = (weight: Tensor): number => weight.shape[1]!;

/** The row that `paddingIdx` means, as a number from 0. */
function rowOf(paddingIdx: number | null, rows: number): number | null {
  if (paddingIdx === null) return null;
  if (!Number.isInteger(paddingIdx) || paddingIdx >= rows || paddingIdx < -rows) {
    throw new Error(`embedding: paddingIdx is ${paddingIdx}, expected a whole number from ${-rows} to ${rows - 1}`);
  }
  return paddingIdx < 0 ? rows + paddingIdx : paddingIdx;
}

function checkNorm(maxNorm: number | null, normType: number): void {
  if (maxNorm !== null && !(maxNorm > 0))
    throw new Error(`embedding: maxNorm is ${maxNorm}, expected a number above 0`);
  if (!(normType > 0)) throw new Error(`embedding: normType is ${normType}, expected a number above 0 or Infinity`);
}

// Module ----------------------------------------------------------------------------------------

export interface EmbeddingModuleOptions extends EmbeddingOptions {
  /** The table to use; it becomes the module's parameter. Default: a new one. */
  weight?: Tensor;
  device?: Device;
}

export interface PretrainedOptions extends EmbeddingOptions {
  freeze?: boolean;
}

/** `embedding` with a learned table that starts normal, its padding row zero. Matches `torch.nn.Embedding(num, dim, …)`. */
export class Embedding extends Module {
  readonly paddingIdx: number | null;
  readonly maxNorm: number | null;
  readonly normType: number;
  readonly scaleGradByFreq: boolean;
  readonly weight: Tensor;

  constructor(num: number, dim: number, { weight, device, ...options }: EmbeddingModuleOptions = {}) {
    super();
    const { paddingIdx = null, maxNorm = null, normType = 2, scaleGradByFreq = false } = options;
    checkNorm(maxNorm, normType);
    this.paddingIdx = rowOf(paddingIdx, num);
    this.maxNorm = maxNorm;
    this.normType = normType;
    this.scaleGradByFreq = scaleGradByFreq;
    if (weight && weight.shape.join() !== `${num},${dim}`) {
      throw new Error(`Embedding: weight has shape [${weight.shape}], expected [${num},${dim}]`);
    }
    this.weight = parameter(weight ?? this.#initial(num, dim, device));
  }

  #initial(num: number, dim: number, device: Device | undefined): Tensor {
    const weight = normal(empty([num, dim], { device }));
    if (this.paddingIdx !== null) {
      clearRowKernel().run({ params: { row: this.paddingIdx, dim }, weight }, { workgroups: threads(dim) });
    }
    return weight;
  }

  /** A module around an existing table, which does not learn unless `freeze` is false. */
  static fromPretrained(weight: Tensor, { freeze = true, ...options }: PretrainedOptions = {}): Embedding {
    const [num, dim] = weight.shape as [number, number];
    return new this(num, dim, { ...options, weight }).requiresGrad_(!freeze);
  }

  forward(ids: Tensor): Tensor {
    return embedding(ids, this.weight, this);
  }

  protected override extraRepr(): string {
    const padding = this.paddingIdx === null ? "" : `, paddingIdx=${this.paddingIdx}`;
    return `${this.weight.shape.join(", ")}${padding}`;
  }
}
