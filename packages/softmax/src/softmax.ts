/**
 * Softmax, log-softmax and softmin over one dimension. Match torch.nn.Softmax, LogSoftmax and Softmin.
 *
 *   softmax     y = e^(x − max) / Σ e^(x − max)      dx = y · (g − Σ g·y)
 *   logSoftmax  y = x − max − log Σ e^(x − max)      dx = g − e^y · Σ g
 *   softmin     y = softmax(−x)                      dx = −y · (g − Σ g·y)
 *
 * g is dy. x is read as rows of `cols` elements: side by side where the dimension is the last, else `stride` apart. A
 * causal mask takes column j > i out of row i of the last two dimensions; it is computed, not read. As in PyTorch, −∞
 * has probability 0, and a row that is −∞ throughout or holds +∞ or NaN is NaN throughout.
 * Order of this file: kernels, launchers, differentiable functions, modules.
 */
import {
  autocastType,
  delegated,
  emptyLike,
  type FloatType,
  grid,
  kernel,
  Module,
  record,
  sizeOf,
  type Tensor,
  variants,
} from "@kindling/core";

// Kernels ---------------------------------------------------------------------------------------

/**
 * What a thread loads at once: `vec4` four elements of one row; `columns` one element of each of four rows that lie
 * side by side; `scalar` one element. F is that load, E how many elements of a row it has, `place` which; R has a
 * number for each of its rows. U and RU are their bits.
 */
const lanes = {
  vec4: /* wgsl */ `
alias F = vec4f;
alias U = vec4u;
alias R = f32;
alias RU = u32;
const E = 4u;
fn place(c: u32) -> U { return 4 * c + vec4u(0, 1, 2, 3); }
fn highest(v: F) -> R { return max(max(v.x, v.y), max(v.z, v.w)); }
fn total(v: F) -> R { return v.x + v.y + v.z + v.w; }`,
  columns: /* wgsl */ `
alias F = vec4f;
alias U = vec4u;
alias R = vec4f;
alias RU = vec4u;
const E = 1u;
fn place(c: u32) -> U { return vec4u(c); }
fn highest(v: F) -> R { return v; }
fn total(v: F) -> R { return v; }`,
  scalar: /* wgsl */ `
alias F = f32;
alias U = u32;
alias R = f32;
alias RU = u32;
const E = 1u;
fn place(c: u32) -> U { return c; }
fn highest(v: F) -> R { return v; }
fn total(v: F) -> R { return v; }`,
} as const;

type Lanes = keyof typeof lanes;
type Element = "vec4<f32>" | "vec4<f16>" | "f32" | "f16";

/** Loads that a thread keeps in registers. A row longer than those of its threads goes in rounds. */
const loadsOf = (L: Lanes): number => (L === "scalar" ? 8 : 4);

/**
 * Rows and threads: of a workgroup's WG threads each row has `width`, `step` apart. Along rows step is 1; across rows
 * that lie side by side it is WG / width, so that neighbouring threads load neighbours in either case. Both are powers
 * of two, given by their logarithms, and no overrides: one pipeline serves all lengths.
 */
const rows = /* wgsl */ `
override WG: u32 = 256;

struct Params {
  rows: u32, cols: u32, vectors: u32, stride: u32, width_log2: u32, step_log2: u32,
  period: u32, visible: u32, log: u32, sign: f32, nan: f32, low: f32,
}

@group(0) @binding(0) var<uniform> params: Params;

fn rowOf(group: u32, lane: u32) -> u32 {
  let s = params.step_log2;
  return group * (WG >> params.width_log2) + ((lane >> (s + params.width_log2)) << s) + (lane & ((1u << s) - 1));
}
fn threadOf(lane: u32) -> u32 { return (lane >> params.step_log2) & ((1u << params.width_log2) - 1); }
fn baseOf(row: u32) -> u32 { return row / params.stride * params.stride * params.vectors + row % params.stride; }

/** How many elements of the row count: under a causal mask one more from row to row. */
fn limitOf(row: u32) -> u32 { return min(params.cols, row % params.period + params.visible); }

/** e^(v − top). That −∞ gives 0, and NaN a NaN, is not left to the driver. */
fn power(v: F, top: R) -> F {
  let d = v - top;
  let e = select(exp(d), F(0), d < F(-104));
  return select(e, F(params.nan), (bitcast<U>(v) & U(0x7fffffff)) > U(0x7f800000));
}`;

/**
 * A thread carries (max, Σ e^(x − max)) of what it has seen, so that x is read once; threads then merge theirs in a
 * tree. Its own e^(x − max), or x for the logarithm, it keeps. Rounds are written last to first: the last is still in
 * registers, those before it are the likeliest to be in cache.
 */
const forwardKernel = variants((X: Element, Y: Element, L: Lanes) =>
  kernel(
    `softmax.forward.${X}.${Y}.${L}`,
    /* wgsl */ `
${lanes[L]}
const N = ${loadsOf(L)}u;
${rows}
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read_write> y: array<${Y}>;

const LARGEST = 0x1.fffffep+127f;

struct Sum { top: R, sum: R }

var<workgroup> sums: array<Sum, WG>;

/** e^(before − top): what becomes of a sum when a larger maximum turns up. */
fn decay(before: R, top: R) -> R { return exp(max(before - top, R(-104))); }

fn merge(a: Sum, b: Sum) -> Sum {
  let top = max(a.top, b.top);
  return Sum(top, a.sum * decay(a.top, top) + b.sum * decay(b.top, top));
}

/** Load c of a row, negated for softmin; −∞ for elements that do not count. */
fn load(base: u32, c: u32, limit: u32) -> F {
  let v = params.sign * F(x[base + min(c, (limit - 1) / E) * params.stride]);
  return select(F(params.low), v, place(c) < U(limit));
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = rowOf(wg.x + wg.y * groups.x, lane);
  let base = baseOf(min(row, params.rows - 1));
  let limit = limitOf(min(row, params.rows - 1));
  let thread = threadOf(lane);
  let width = 1u << params.width_log2;

  var v: array<F, N>;
  var own = Sum(R(-LARGEST), R(0));
  for (var start = 0u; start < params.vectors; start += width * N) {
    var top = F(own.top);
    for (var k = 0u; k < N; k++) {
      v[k] = load(base, start + k * width + thread, limit);
      top = max(top, v[k]);
    }
    let before = own;
    own.top = highest(top);
    var sum = F();
    for (var k = 0u; k < N; k++) {
      let e = power(v[k], own.top);
      sum += e;
      if (params.log == 0) { v[k] = e; }
    }
    own.sum = total(sum) + before.sum * decay(before.top, own.top);
  }

  sums[lane] = own;
  for (var half = width / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { sums[lane] = merge(sums[lane], sums[lane + (half << params.step_log2)]); }
  }
  workgroupBarrier();
  let all = sums[lane - (thread << params.step_log2)];
  let broken = (all.sum == R(0)) | (all.top > R(LARGEST)) | ((bitcast<RU>(all.sum) & RU(0x7fffffff)) > RU(0x7f800000));
  let scale = select(decay(own.top, all.top) / all.sum, R(params.nan), broken);
  let shift = select(log(all.sum), R(params.nan), broken);

  if (row >= params.rows) { return; }
  let rounds = (params.vectors + width * N - 1) / (width * N);
  for (var round = rounds; round > 0; round--) {
    let start = (round - 1) * N * width + thread;
    if (round < rounds) {
      for (var k = 0u; k < N; k++) {
        v[k] = load(base, start + k * width, limit);
        if (params.log == 0) { v[k] = power(v[k], own.top); }
      }
    }
    for (var k = 0u; k < N; k++) {
      let c = start + k * width;
      var result = v[k] * scale;
      if (params.log != 0) { result = v[k] - all.top - shift; }
      if (c < params.vectors) { y[base + c * params.stride] = ${Y}(result); }
    }
  }
}`,
  ),
);

/** One sum per row, with y and dy in registers. */
const backwardKernel = variants((X: Element, Y: Element, L: Lanes) =>
  kernel(
    `softmax.backward.${X}.${Y}.${L}`,
    /* wgsl */ `
${lanes[L]}
const N = ${loadsOf(L)}u;
${rows}
@group(0) @binding(1) var<storage, read> y: array<${Y}>;
@group(0) @binding(2) var<storage, read> dy: array<${Y}>;
@group(0) @binding(3) var<storage, read_write> dx: array<${X}>;

var<workgroup> sums: array<R, WG>;

fn load_y(base: u32, c: u32, limit: u32) -> F {
  return select(F(0), F(y[base + min(c, (limit - 1) / E) * params.stride]), place(c) < U(limit));
}

fn load_dy(base: u32, c: u32, limit: u32) -> F {
  return select(F(0), F(dy[base + min(c, (limit - 1) / E) * params.stride]), place(c) < U(limit));
}

fn gradient(y: F, dy: F, sum: R) -> F {
  if (params.log != 0) { return dy - power(y, R(0)) * sum; }
  return params.sign * y * (dy - sum);
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = rowOf(wg.x + wg.y * groups.x, lane);
  let base = baseOf(min(row, params.rows - 1));
  let limit = limitOf(min(row, params.rows - 1));
  // The gradients of masked log-probabilities count in Σ g, as in PyTorch; probabilities would multiply theirs by 0.
  let dy_limit = select(limit, params.cols, params.log != 0);
  let thread = threadOf(lane);
  let width = 1u << params.width_log2;

  var p: array<F, N>;
  var g: array<F, N>;
  var own = F();
  for (var start = 0u; start < params.vectors; start += width * N) {
    for (var k = 0u; k < N; k++) {
      let c = start + k * width + thread;
      p[k] = load_y(base, c, limit);
      g[k] = load_dy(base, c, dy_limit);
      own += g[k] * select(p[k], F(1), params.log != 0);
    }
  }

  sums[lane] = total(own);
  for (var half = width / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (thread < half) { sums[lane] += sums[lane + (half << params.step_log2)]; }
  }
  workgroupBarrier();
  let sum = sums[lane - (thread << params.step_log2)];

  if (row >= params.rows) { return; }
  let rounds = (params.vectors + width * N - 1) / (width * N);
  for (var round = rounds; round > 0; round--) {
    let start = (round - 1) * N * width + thread;
    if (round < rounds) {
      for (var k = 0u; k < N; k++) {
        p[k] = load_y(base, start + k * width, limit);
        g[k] = load_dy(base, start + k * width, dy_limit);
      }
    }
    for (var k = 0u; k < N; k++) {
      let c = start + k * width;
      let d = select(F(0), gradient(p[k], g[k], sum), place(c) < U(limit));
      if (c < params.vectors) { dx[base + c * params.stride] = ${X}(d); }
    }
  }
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

export type SoftmaxKind = "softmax" | "logSoftmax" | "softmin";

export interface SoftmaxLaunch {
  readonly kind: SoftmaxKind;
  /** From 0 to the rank of x. */
  readonly dim: number;
  readonly causal: boolean;
  /** Of what is written. */
  readonly dtype: FloatType;
}

function launchOf({ shape, size, device: { limits } }: Tensor, { kind, dim, causal }: SoftmaxLaunch) {
  const cols = shape[dim] ?? 1;
  const inner = sizeOf(shape.slice(dim + 1));
  const L: Lanes = inner === 1 ? (cols % 4 === 0 ? "vec4" : "scalar") : inner % 4 === 0 ? "columns" : "scalar";
  const vectors = L === "vec4" ? cols / 4 : cols;
  const stride = L === "columns" ? inner / 4 : inner;
  const rows = size / cols / (L === "columns" ? 4 : 1);
  // Across rows, threads side by side cover 128 bytes.
  let beside = 1;
  while (beside < Math.min(stride, L === "columns" ? 8 : 32)) beside *= 2;
  // A thread of four rows takes four times the workgroup memory.
  const allowed = Math.min(1024, limits.maxComputeInvocationsPerWorkgroup, limits.maxComputeWorkgroupSizeX);
  const most = L === "columns" ? 256 : allowed;
  let width = 1;
  while (width * loadsOf(L) < vectors && 2 * width * beside <= most) width *= 2;
  const WG = Math.max(256, width * beside);
  const params = {
    rows,
    cols,
    vectors,
    stride,
    width_log2: Math.log2(width),
    step_log2: stride === 1 ? 0 : Math.log2(WG / width),
    period: causal ? shape.at(-2)! : 1,
    visible: causal ? 1 : cols,
    log: kind === "logSoftmax" ? 1 : 0,
    sign: kind === "softmin" ? -1 : 1,
    nan: Number.NaN,
    low: Number.NEGATIVE_INFINITY,
  };
  const launch = { workgroups: grid(Math.ceil(rows / (WG / width))), constants: { WG } };
  const elementOf = (dtype: FloatType): Element => (L === "scalar" ? dtype : `vec4<${dtype}>`);
  return { L, params, launch, elementOf };
}

export function softmaxForward(x: Tensor, settings: SoftmaxLaunch): Tensor {
  const { L, params, launch, elementOf } = launchOf(x, settings);
  const y = emptyLike(x, { dtype: settings.dtype });
  forwardKernel(elementOf(x.dtype as FloatType), elementOf(settings.dtype), L).run({ params, x, y }, launch);
  return y;
}

export function softmaxBackward(dy: Tensor, y: Tensor, settings: SoftmaxLaunch): Tensor {
  const { L, params, launch, elementOf } = launchOf(y, settings);
  const dx = emptyLike(y, { dtype: settings.dtype });
  backwardKernel(elementOf(settings.dtype), elementOf(y.dtype as FloatType), L).run({ params, y, dy, dx }, launch);
  return dx;
}

// Differentiable functions ----------------------------------------------------------------------

export interface SoftmaxOptions {
  /**
   * The dimension that is normalized, from −rank to rank − 1. Default −1, the last; PyTorch, which deprecates leaving
   * it out, would take the first of one or three dimensions and the second of others.
   */
  dim?: number;
  /** For scores [..., L, S] and the last `dim`: row i sees columns 0 to i, others have probability 0. Default false. */
  causal?: boolean;
}

/**
 * e^x / Σ e^x over `dim`, for x of any shape, a scalar too. y is f32 under autocast, as in PyTorch, else it has the
 * dtype of x, f32 or f16. Matches torch.nn.functional.softmax.
 */
export const softmax = (x: Tensor, options?: SoftmaxOptions): Tensor => apply("softmax", x, options);

/** log(softmax(x)), exact where the probability underflows. Matches torch.nn.functional.log_softmax. See `softmax`. */
export const logSoftmax = (x: Tensor, options?: SoftmaxOptions): Tensor => apply("logSoftmax", x, options);

/** softmax(−x). Matches torch.nn.functional.softmin. See `softmax`. */
export const softmin = (x: Tensor, options?: SoftmaxOptions): Tensor => apply("softmin", x, options);

function apply(kind: SoftmaxKind, x: Tensor, { dim: given = -1, causal = false }: SoftmaxOptions = {}): Tensor {
  const dim = check(kind, x, given, causal);
  const other = delegated<Tensor>(kind, { x }, { dim, causal });
  if (other) return other;
  const xType = x.dtype as FloatType;
  const y = softmaxForward(x, { kind, dim, causal, dtype: autocastType() ? "f32" : xType });
  return record(y, [x], (dy) => [softmaxBackward(dy, y, { kind, dim, causal, dtype: xType })]);
}

/** Returns `dim` counted from the front. */
function check(kind: SoftmaxKind, { shape, dtype }: Tensor, dim: number, causal: boolean): number {
  if (dtype !== "f32" && dtype !== "f16") throw new Error(`${kind}: x is ${dtype}, expected f32 or f16`);
  const rank = Math.max(1, shape.length); // of a scalar, dimensions 0 and -1 count as there
  if (!Number.isInteger(dim) || dim < -rank || dim >= rank) {
    throw new Error(`${kind}: dim is ${dim}, expected ${-rank} to ${rank - 1} for x of shape [${shape}]`);
  }
  const axis = dim < 0 ? dim + rank : dim;
  if (causal && shape.length < 2) throw new Error(`${kind}: causal needs x of shape [..., L, S], got [${shape}]`);
  if (causal && axis !== rank - 1) {
    throw new Error(`${kind}: causal masks the last dimension, expected dim -1 for x of shape [${shape}], got ${dim}`);
  }
  return axis;
}

// Modules ---------------------------------------------------------------------------------------

class SoftmaxModule extends Module {
  readonly dim: number;
  readonly causal: boolean;
  readonly #kind: SoftmaxKind;

  constructor(kind: SoftmaxKind, { dim = -1, causal = false }: SoftmaxOptions = {}) {
    super();
    this.dim = dim;
    this.causal = causal;
    this.#kind = kind;
  }

  forward(x: Tensor): Tensor {
    return apply(this.#kind, x, this);
  }

  protected override extraRepr(): string {
    return `dim=${this.dim}${this.causal ? ", causal=true" : ""}`;
  }
}

/** `softmax` as a module. Matches `torch.nn.Softmax(dim)`. */
export class Softmax extends SoftmaxModule {
  constructor(options?: SoftmaxOptions) {
    super("softmax", options);
  }
}

/** `logSoftmax` as a module. Matches `torch.nn.LogSoftmax(dim)`. */
export class LogSoftmax extends SoftmaxModule {
  constructor(options?: SoftmaxOptions) {
    super("logSoftmax", options);
  }
}

/** `softmin` as a module. Matches `torch.nn.Softmin(dim)`. */
export class Softmin extends SoftmaxModule {
  constructor(options?: SoftmaxOptions) {
    super("softmin", options);
  }
}
