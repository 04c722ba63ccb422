/**
 * Pooling: the maximum or the average over windows. Matches torch.nn.MaxPool1d/2d, AvgPool1d/2d, AdaptiveMaxPool1d/2d
 * and AdaptiveAvgPool1d/2d.
 *
 *   max:  y[o] = x[i*], i* the first i in window(o) with the largest x[i]   dx[i] = Σ_{o : i*(o) = i} dy[o]
 *   avg:  y[o] = Σ_{i in window(o)} x[i] / n(o)                          dx[i] = Σ_{o : i in window(o)} dy[o] / n(o)
 *
 *   fixed windows:     o·stride − padding + k·dilation for k < kernel, as far as that lies inside x
 *   adaptive windows:  ⌊o·size / out⌋ … ⌈(o + 1)·size / out⌉
 *
 * The gradient is a gather: each element of x adds up the few windows that hold it, in order. x is read as (planes,
 * rows, cols). In one dimension all lines are the rows of one plane, and a window is one row high.
 * Order of this file: kernels, launchers, differentiable functions, modules.
 */
import {
  delegated,
  empty,
  emptyLike,
  type FloatType,
  grid,
  kernel,
  Module,
  needsGrad,
  record,
  type Shape,
  sizeOf,
  type Tensor,
  threads,
  variants,
} from "@kindling/core";

// Kernels ---------------------------------------------------------------------------------------

type Op = "max" | "avg";

/**
 * The windows along an axis are a kernel, a stride …; those of a kernel of 0 are adaptive.
 *
 * window(o): the first element of a window, which wraps around to a large number in the padding before x, and how many.
 * windowsOf(i): the first window that may hold element i, and the end of those.
 * extent(o): the number of elements that an average divides by, along this axis.
 * mulDiv: (a·b + c) / d where a·b may exceed 32 bits: an estimate, corrected by its remainder, which wraps around.
 */
const geometry: string = /* wgsl */ `
struct Params {
  H: u32, W: u32, OH: u32, OW: u32, KH: u32, KW: u32, SH: u32, SW: u32, PH: u32, PW: u32, DH: u32, DW: u32,
  tiles: u32, count: u32, pitch: u32, includePad: u32, divisor: f32, lowest: f32, logL: u32, logX: u32
}
@group(0) @binding(0) var<uniform> params: Params;

struct Axis { size: u32, out: u32, kernel: u32, stride: u32, padding: u32, dilation: u32 }
fn rows() -> Axis { return Axis(params.H, params.OH, params.KH, params.SH, params.PH, params.DH); }
fn cols() -> Axis { return Axis(params.W, params.OW, params.KW, params.SW, params.PW, params.DW); }

fn mulDiv(a: u32, b: u32, c: u32, d: u32) -> u32 {
  let estimate = u32(f32(a) * f32(b) / f32(d));
  let rest = i32(a * b + c - estimate * d);
  return select(estimate + u32(rest) / d, estimate - (u32(-rest) + d - 1) / d, rest < 0);
}
fn window(o: u32, a: Axis) -> vec2u {
  if (a.kernel != 0) { return vec2u(o * a.stride - a.padding, a.kernel); }
  let start = mulDiv(o, a.size, 0, a.out);
  return vec2u(start, mulDiv(o + 1, a.size, a.out - 1, a.out) - start);
}
fn windowsOf(i: u32, a: Axis) -> vec2u {
  if (a.kernel == 0) { return vec2u(mulDiv(i, a.out, 0, a.size), mulDiv(i + 1, a.out, a.size - 1, a.size)); }
  let reach = (a.kernel - 1) * a.dilation + 1;
  let at = i + a.padding;
  return vec2u((max(at + a.stride, reach) - reach) / a.stride, min(a.out, at / a.stride + 1));
}
fn extent(o: u32, a: Axis) -> u32 {
  if (a.kernel == 0) { return window(o, a).y; }
  let start = o * a.stride;
  if (params.includePad != 0) { return min(start + a.kernel, a.size + 2 * a.padding) - start; }
  return min(start + a.kernel, a.size + a.padding) - max(start, a.padding);
}
fn divisor(oh: u32, ow: u32) -> f32 {
  if (params.divisor != 0.0) { return params.divisor; }
  return f32(extent(oh, rows()) * extent(ow, cols()));
}`;

/**
 * One element, v at (h, w), enters a window if `inside`. F, I and U are vec4s, with a window in each lane, or
 * scalars. PyTorch's rule is the first of equal maxima and the last of several NaNs; a NaN is told by its bits, as
 * comparisons may assume that there is none.
 */
const steps: Record<Op, { start: string; step: string }> = {
  max: {
    start: "var best = F(params.lowest);\n  var at = I(-1);",
    step: `let wins = inside & ((at < I(0)) | (v > best) | ((bitcast<U>(v) & U(0x7fffffff)) > U(0x7f800000)));
      best = select(best, v, wins);
      at = select(at, I(h * params.pitch + w), wins);`,
  },
  avg: { start: "var sum = F();", step: "sum += select(F(), v, inside);" },
};

const results = (op: Op, T: FloatType, indices: boolean): string => /* wgsl */ `
@group(0) @binding(2) var<storage, read_write> y: array<${T}>;
${indices ? "@group(0) @binding(3) var<storage, read_write> indices: array<i32>;" : ""}
${
  op === "max"
    ? `fn finish(o: u32, oh: u32, ow: u32, best: f32, at: i32) {
  y[o] = ${T}(best);
  ${indices ? "indices[o] = at;" : ""}
}`
    : `fn finish(o: u32, oh: u32, ow: u32, sum: f32) { y[o] = ${T}(sum / divisor(oh, ow)); }`
}`;

/**
 * A thread takes 4 rows of one column of y: neighbours read neighbours, 4 loads wait at a time, and the divisions that
 * find a thread's place are paid once.
 */
const windowKernel = variants((op: Op, T: FloatType, indices: boolean) =>
  kernel<string>(
    `pooling.${op}.${T}`,
    /* wgsl */ `
alias F = vec4f;
alias I = vec4i;
alias U = vec4u;
${geometry}
@group(0) @binding(1) var<storage, read> x: array<${T}>;
${results(op, T, indices)}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.count) { return; }
  let ow = i % params.OW;
  let plane = i / params.OW / params.tiles;
  let oh = i / params.OW % params.tiles * 4;
  let cs = window(ow, cols());
  let r0 = window(oh, rows());
  let r1 = window(oh + 1, rows());
  let r2 = window(oh + 2, rows());
  let r3 = window(oh + 3, rows());
  let first = U(r0.x, r1.x, r2.x, r3.x);
  let taps = U(r0.y, r1.y, r2.y, r3.y);
  ${steps[op].start}
  for (var kh = 0u; kh < max(max(taps.x, taps.y), max(taps.z, taps.w)); kh++) {
    let h = first + kh * params.DH;
    let inside = (h < U(params.H)) & (U(kh) < taps);
    let line = (plane * params.H + min(h, U(params.H - 1))) * params.W;
    for (var kw = 0u; kw < cs.y; kw++) {
      let w = cs.x + kw * params.DW;
      if (w >= params.W) { continue; }
      let v = F(f32(x[line.x + w]), f32(x[line.y + w]), f32(x[line.z + w]), f32(x[line.w + w]));
      ${steps[op].step}
    }
  }
  for (var r = 0u; r < min(4, params.OH - oh); r++) {
    let o = (plane * params.OH + oh + r) * params.OW + ow;
    finish(o, oh + r, ow, ${op === "max" ? "best[r], at[r]" : "sum[r]"});
  }
}`,
  ),
);

/** What the threads of one window have found, put together in workgroup memory. */
const reductions: Record<Op, { shared: string; store: string; merge: string; result: string }> = {
  max: {
    shared: /* wgsl */ `
struct Found { best: f32, at: i32 }
var<workgroup> found: array<Found, 256>;

fn isNaN(v: f32) -> bool { return (bitcast<u32>(v) & 0x7fffffff) > 0x7f800000; }
fn better(a: Found, b: Found) -> Found {
  if (a.at < 0 || b.at < 0) { if (a.at < 0) { return b; } return a; }
  let nans = vec2<bool>(isNaN(a.best), isNaN(b.best));
  var second = b.best > a.best || (b.best == a.best && b.at < a.at);
  if (any(nans)) { second = nans.y && (!nans.x || b.at > a.at); }
  if (second) { return b; }
  return a;
}`,
    store: "found[lane] = Found(best, at);",
    merge: "found[lane] = better(found[lane], found[lane + half]);",
    result: "found[lane].best, found[lane].at",
  },
  avg: {
    shared: "var<workgroup> sums: array<f32, 256>;",
    store: "sums[lane] = sum;",
    merge: "sums[lane] += sums[lane + half];",
    result: "sums[lane]",
  },
};

/** L = 2^logL threads for a window, X = 2^logX of them side by side on one of its rows: for large windows far apart. */
const wideKernel = variants((op: Op, T: FloatType, indices: boolean) =>
  kernel<string>(
    `pooling.wide.${op}.${T}`,
    /* wgsl */ `
alias F = f32;
alias I = i32;
alias U = u32;
${geometry}
@group(0) @binding(1) var<storage, read> x: array<${T}>;
${results(op, T, indices)}
${reductions[op].shared}

@compute @workgroup_size(256)
fn main(
  @builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32
) {
  let L = 1u << params.logL;
  let place = ((wg.x + wg.y * groups.x) * 256 + lane) >> params.logL;
  let o = min(place, params.count - 1);
  let ow = o % params.OW;
  let oh = o / params.OW % params.OH;
  let plane = o / params.OW / params.OH;
  let slot = lane & (L - 1);
  let column = slot & ((1u << params.logX) - 1);
  let rs = window(oh, rows());
  let cs = window(ow, cols());
  ${steps[op].start}
  for (var kh = slot >> params.logX; kh < rs.y; kh += L >> params.logX) {
    let h = rs.x + kh * params.DH;
    if (h >= params.H) { continue; }
    for (var kw = column; kw < cs.y; kw += 1u << params.logX) {
      let w = cs.x + kw * params.DW;
      let inside = w < params.W;
      let v = f32(x[(plane * params.H + h) * params.W + min(w, params.W - 1)]);
      ${steps[op].step}
    }
  }
  ${reductions[op].store}
  for (var half = L / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (slot < half) { ${reductions[op].merge} }
  }
  if (slot == 0 && place == o) { finish(o, oh, ow, ${reductions[op].result}); }
}`,
  ),
);

/** A thread takes 4 rows of one column of x and reads the windows that hold any of them, each once. */
const inputGradKernel = variants((op: Op, T: FloatType) =>
  kernel<string>(
    `pooling.inputGrad.${op}.${T}`,
    /* wgsl */ `
${geometry}
@group(0) @binding(1) var<storage, read> dy: array<${T}>;
@group(0) @binding(2) var<storage, read_write> dx: array<${T}>;
${op === "max" ? "@group(0) @binding(3) var<storage, read> indices: array<i32>;" : ""}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.count) { return; }
  let w = i % params.W;
  let plane = i / params.W / params.tiles;
  let top = i / params.W % params.tiles * 4;
  let h = top + vec4u(0, 1, 2, 3);
  let ws = windowsOf(w, cols());
  let end = windowsOf(min(top + 3, params.H - 1), rows()).y;
  var sum = vec4f();
  for (var oh = windowsOf(top, rows()).x; oh < end; oh++) {
    let rs = window(oh, rows());
    let inside = h - rs.x < vec4u((rs.y - 1) * params.DH + 1);
    for (var ow = ws.x; ow < ws.y; ow++) {
      let o = (plane * params.OH + oh) * params.OW + ow;
      ${
        op === "max"
          ? "sum += select(vec4f(), vec4f(f32(dy[o])), inside & (vec4i(h * params.pitch + w) == vec4i(indices[o])));"
          : "sum += select(vec4f(), vec4f(f32(dy[o]) / divisor(oh, ow)), inside);"
      }
    }
  }
  for (var r = 0u; r < min(4, params.H - top); r++) { dx[(plane * params.H + h[r]) * params.W + w] = ${T}(sum[r]); }
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

/** Windows along one axis. Adaptive ones that no kernel and stride describe have a kernel of 0. */
interface Axis {
  readonly size: number;
  readonly out: number;
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly dilation: number;
}

interface Pooling {
  readonly op: Op;
  readonly planes: number;
  readonly h: Axis;
  readonly w: Axis;
  /** What an index adds for each row. */
  readonly pitch: number;
  /** avg: whether padding counts, and what to divide by in place of the count, if not 0. */
  readonly includePad: boolean;
  readonly divisor: number;
}

/** Rows that no window joins. */
const lines = (size: number): Axis => ({ size, out: size, kernel: 1, stride: 1, padding: 0, dilation: 1 });

/** Windows of whole rows of a plane are one-dimensional windows over it, with longer runs of neighbours. */
function joinRows(pooling: Pooling): Pooling {
  const { planes, h, w, pitch } = pooling;
  if (pitch === 0 || h.kernel === 0 || h.dilation > 1 || w.kernel !== w.size || w.padding > 0) return pooling;
  const joined = {
    ...{ size: h.size * w.size, out: h.out, dilation: 1 },
    ...{ kernel: h.kernel * w.size, stride: h.stride * w.size, padding: h.padding * w.size },
  };
  return { ...pooling, planes: 1, h: lines(planes), w: joined, pitch: 0 };
}

const paramsOf = ({ h, w, pitch, includePad, divisor }: Pooling): Record<string, number> => ({
  ...{ H: h.size, OH: h.out, KH: h.kernel, SH: h.stride, PH: h.padding, DH: h.dilation },
  ...{ W: w.size, OW: w.out, KW: w.kernel, SW: w.stride, PW: w.padding, DW: w.dilation },
  ...{ pitch, includePad: Number(includePad), divisor, lowest: Number.NEGATIVE_INFINITY },
  ...{ tiles: 0, logL: 0, logX: 0 },
});

/** y, and for a maximum where it was, if `keep`. `shape` is that of y. */
export function poolForward(
  x: Tensor,
  shape: Shape,
  pooling: Pooling,
  keep: boolean,
): { y: Tensor; indices: Tensor | null } {
  const joined = joinRows(pooling);
  const { op, planes, h, w } = joined;
  const y = emptyLike(x, { shape });
  const indices = keep ? empty(shape, { dtype: "i32", device: x.device }) : null;
  const tensors = { x, y, ...(indices && { indices }) };
  const width = w.kernel || Math.ceil(w.size / w.out) + 1;
  const taps = width * (h.kernel || Math.ceil(h.size / h.out) + 1);
  if (taps >= 32 && (w.stride >= 8 || w.out < 8)) {
    // One thread for a window would read far from its neighbours. With several, each has 8 elements or more.
    const logL = Math.min(8, Math.floor(Math.log2(taps / 8)));
    const logX = Math.min(logL, Math.ceil(Math.log2(width)));
    const params = { ...paramsOf(joined), count: y.size, logL, logX };
    const workgroups = grid(Math.ceil((y.size * 2 ** logL) / 256));
    wideKernel(op, x.dtype as FloatType, keep).run({ params, ...tensors }, { workgroups });
  } else {
    const tiles = Math.ceil(h.out / 4);
    const params = { ...paramsOf(joined), tiles, count: planes * tiles * w.out };
    windowKernel(op, x.dtype as FloatType, keep).run({ params, ...tensors }, { workgroups: threads(params.count) });
  }
  return { y, indices };
}

/** dx, of shape `shape`. */
export function poolInputGrad(dy: Tensor, shape: Shape, pooling: Pooling, indices: Tensor | null): Tensor {
  const joined = joinRows(pooling);
  const { op, planes, h, w } = joined;
  const dx = emptyLike(dy, { shape });
  const tiles = Math.ceil(h.size / 4);
  const params = { ...paramsOf(joined), tiles, count: planes * tiles * w.size };
  const tensors = { dy, dx, ...(indices && { indices }) };
  inputGradKernel(op, dy.dtype as FloatType).run({ params, ...tensors }, { workgroups: threads(params.count) });
  return dx;
}

// Differentiable functions ----------------------------------------------------------------------

/** One number for both axes, or [rows, cols]. */
export type Pair = number | readonly [rows: number, cols: number];

/** `Size` is a number in one dimension, a Pair in two. */
export interface AvgPoolOptions<Size extends Pair> {
  /** Default: the kernel size. */
  stride?: Size | null;
  /** Zeros on both sides, at most half the kernel size. Default 0. */
  padding?: Size | 0;
  /** Keep the last window where it reaches past the end, unless it starts in the right padding. Default false. */
  ceilMode?: boolean;
  /** Padding counts in what is divided by. Default true. */
  countIncludePad?: boolean;
}

export interface AvgPool2dOptions extends AvgPoolOptions<Pair> {
  /** Divide by this, not by the size of the window. */
  divisorOverride?: number | null;
}

/** `Size` is a number in one dimension, a Pair in two. */
export interface MaxPoolOptions<Size extends Pair, Indices extends boolean> extends AdaptiveMaxPoolOptions<Indices> {
  /** Default: the kernel size. */
  stride?: Size | null;
  /** Minus infinity on both sides, at most half the kernel size. Default 0. */
  padding?: Size | 0;
  /** Distance between the elements of a window. Default 1. */
  dilation?: Size | 1;
  /** Keep the last window where it reaches past the end, unless it starts in the right padding. Default false. */
  ceilMode?: boolean;
}

export interface AdaptiveMaxPoolOptions<Indices extends boolean> {
  /** Return { output, indices }. Default false. */
  returnIndices?: Indices;
}

/** `indices`, i32, are the places of the maxima in their plane or line. */
export interface PooledWithIndices {
  output: Tensor;
  indices: Tensor;
}

/** What a max pool returns. */
export type MaxPooled<Indices extends boolean> = Indices extends true ? PooledWithIndices : Tensor;

/** A number for both axes, or one for each; null keeps the size of x. */
export type AdaptiveSize = number | readonly [rows: number | null, cols: number | null];

interface WindowOptions {
  kernelSize: Pair;
  stride?: Pair | null;
  padding?: Pair;
  dilation?: Pair;
  ceilMode?: boolean;
}

/** The sizes of the axes that windows lie along. */
function sizesOf(where: string, x: Tensor, rank: number): Shape {
  if (x.dtype !== "f32" && x.dtype !== "f16") throw new Error(`${where}: x is ${x.dtype}, expected f32 or f16`);
  const axes = rank === 1 ? "[N, C, L] or [C, L]" : "[N, C, H, W] or [C, H, W]";
  if (x.shape.length !== rank + 1 && x.shape.length !== rank + 2)
    throw new Error(`${where}: x has shape [${x.shape}], expected ${axes}`);
  return x.shape.slice(-rank);
}

/** One whole number for each axis. */
function each(where: string, name: string, value: Pair, rank: number, least: number): readonly number[] {
  const values = typeof value === "number" ? Array<number>(rank).fill(value) : value;
  if (values?.length === rank && values.every((v) => Number.isInteger(v) && v >= least)) return values;
  const expected = `${rank === 1 ? "a whole number" : "one or two whole numbers"} ≥ ${least}`;
  throw new Error(`${where}: ${name} is ${JSON.stringify(value)}, expected ${expected}`);
}

function windowAxes(where: string, x: Tensor, rank: number, options: WindowOptions): readonly Axis[] {
  const { kernelSize, stride = null, padding = 0, dilation = 1, ceilMode = false } = options;
  const sizes = sizesOf(where, x, rank);
  const kernels = each(where, "kernelSize", kernelSize, rank, 1);
  const strides = each(where, "stride", stride ?? kernelSize, rank, 1);
  const paddings = each(where, "padding", padding, rank, 0);
  const dilations = each(where, "dilation", dilation, rank, 1);
  const axes = sizes.map((size, i) => {
    const axis = { size, kernel: kernels[i]!, stride: strides[i]!, padding: paddings[i]!, dilation: dilations[i]! };
    if (axis.padding > axis.kernel / 2) {
      const given = `padding is ${JSON.stringify(padding)}, expected at most half of kernelSize`;
      throw new Error(`${where}: ${given} ${JSON.stringify(kernelSize)}`);
    }
    return { ...axis, out: countWindows(axis, ceilMode) };
  });
  if (axes.some(({ out }) => out < 1)) {
    const given = `kernelSize ${JSON.stringify(kernelSize)} with dilation ${JSON.stringify(dilation)}`;
    throw new Error(`${where}: ${given} does not fit into x of shape [${x.shape}]`);
  }
  return axes;
}

function countWindows({ size, kernel, stride, padding, dilation }: Omit<Axis, "out">, ceilMode: boolean): number {
  const room = size + 2 * padding - dilation * (kernel - 1) - 1;
  if (!ceilMode) return Math.floor(room / stride) + 1;
  const count = Math.ceil(room / stride) + 1;
  return (count - 1) * stride >= size + padding ? count - 1 : count;
}

function adaptiveAxes(where: string, x: Tensor, rank: number, outputSize: AdaptiveSize): readonly Axis[] {
  const sizes = sizesOf(where, x, rank);
  const wanted = Array.isArray(outputSize) ? outputSize.map((n, i) => n ?? sizes[i]) : outputSize;
  return each(where, "outputSize", wanted as Pair, rank, 1).map((out, i) => {
    const size = sizes[i]!;
    const step = Math.max(1, Math.floor(size / out));
    return { size, out, kernel: size % out === 0 ? step : 0, stride: step, padding: 0, dilation: 1 };
  });
}

function planOf(op: Op, x: Tensor, axes: readonly Axis[], includePad = true, divisor: number | null = 0): Pooling {
  const planes = sizeOf(x.shape.slice(0, -axes.length));
  const [h, w] = axes as readonly [Axis, Axis];
  const rest = { op, includePad, divisor: divisor ?? 0 };
  return w ? { ...rest, planes, h, w, pitch: w.size } : { ...rest, planes: 1, h: lines(planes), w: h, pitch: 0 };
}

const outputShape = (x: Tensor, axes: readonly Axis[]): Shape => [
  ...x.shape.slice(0, -axes.length),
  ...axes.map(({ out }) => out),
];

function maxPool<I extends boolean>(x: Tensor, axes: readonly Axis[], returnIndices: I | undefined): MaxPooled<I> {
  const other = delegated<MaxPooled<I>>("maxPool", { x }, { axes, returnIndices });
  if (other) return other;
  const plan = planOf("max", x, axes);
  const { y, indices } = poolForward(x, outputShape(x, axes), plan, returnIndices || needsGrad(x));
  const output = record(y, [x], (dy) => [poolInputGrad(dy, x.shape, plan, indices)]);
  return (returnIndices ? { output, indices } : output) as MaxPooled<I>;
}

function avgPool(x: Tensor, axes: readonly Axis[], countIncludePad?: boolean, divisor?: number | null): Tensor {
  const other = delegated<Tensor>("avgPool", { x }, { axes, countIncludePad, divisor });
  if (other) return other;
  const plan = planOf("avg", x, axes, countIncludePad, divisor);
  const { y } = poolForward(x, outputShape(x, axes), plan, false);
  return record(y, [x], (dy) => [poolInputGrad(dy, x.shape, plan, null)]);
}

/**
 * Maximum over windows of the last axis: x [N, C, L] or [C, L] → [..., L']. With `returnIndices` also where in the line
 * it was. Matches torch.nn.functional.max_pool1d.
 */
export function maxPool1d<Indices extends boolean = false>(
  x: Tensor,
  kernelSize: number,
  { returnIndices, ...options }: MaxPoolOptions<number, Indices> = {},
): MaxPooled<Indices> {
  return maxPool(x, windowAxes("maxPool1d", x, 1, { kernelSize, ...options }), returnIndices);
}

/**
 * Maximum over windows of the last two axes: x [N, C, H, W] or [C, H, W] → [..., H', W']. With `returnIndices` also
 * where in the plane it was, row · W + column. Matches torch.nn.functional.max_pool2d.
 */
export function maxPool2d<Indices extends boolean = false>(
  x: Tensor,
  kernelSize: Pair,
  { returnIndices, ...options }: MaxPoolOptions<Pair, Indices> = {},
): MaxPooled<Indices> {
  return maxPool(x, windowAxes("maxPool2d", x, 2, { kernelSize, ...options }), returnIndices);
}

/** Average over windows of the last axis: x [N, C, L] or [C, L] → [..., L']. Matches torch.nn.functional.avg_pool1d. */
export function avgPool1d(x: Tensor, kernelSize: number, options: AvgPoolOptions<number> = {}): Tensor {
  return avgPool(x, windowAxes("avgPool1d", x, 1, { kernelSize, ...options }), options.countIncludePad);
}

/**
 * Average over windows of the last two axes: x [N, C, H, W] or [C, H, W] → [..., H', W']. Matches
 * torch.nn.functional.avg_pool2d.
 */
export function avgPool2d(x: Tensor, kernelSize: Pair, options: AvgPool2dOptions = {}): Tensor {
  const { divisorOverride, countIncludePad } = options;
  if (divisorOverride === 0) throw new Error("avgPool2d: divisorOverride is 0, expected another number");
  return avgPool(x, windowAxes("avgPool2d", x, 2, { kernelSize, ...options }), countIncludePad, divisorOverride);
}

/**
 * Maximum over `outputSize` windows of the last axis that are as equal as they can be: x [N, C, L] or [C, L]. Matches
 * torch.nn.functional.adaptive_max_pool1d.
 */
export function adaptiveMaxPool1d<Indices extends boolean = false>(
  x: Tensor,
  outputSize: number,
  { returnIndices }: AdaptiveMaxPoolOptions<Indices> = {},
): MaxPooled<Indices> {
  return maxPool(x, adaptiveAxes("adaptiveMaxPool1d", x, 1, outputSize), returnIndices);
}

/**
 * Maximum over windows of the last two axes that are as equal as they can be: x [N, C, H, W] or [C, H, W]; null in
 * `outputSize` keeps the size of x. Matches torch.nn.functional.adaptive_max_pool2d.
 */
export function adaptiveMaxPool2d<Indices extends boolean = false>(
  x: Tensor,
  outputSize: AdaptiveSize,
  { returnIndices }: AdaptiveMaxPoolOptions<Indices> = {},
): MaxPooled<Indices> {
  return maxPool(x, adaptiveAxes("adaptiveMaxPool2d", x, 2, outputSize), returnIndices);
}

/**
 * Average over `outputSize` windows of the last axis that are as equal as they can be: x [N, C, L] or [C, L]. Matches
 * torch.nn.functional.adaptive_avg_pool1d.
 */
export function adaptiveAvgPool1d(x: Tensor, outputSize: number): Tensor {
  return avgPool(x, adaptiveAxes("adaptiveAvgPool1d", x, 1, outputSize));
}

/**
 * Average over windows of the last two axes that are as equal as they can be: x [N, C, H, W] or [C, H, W]; null in
 * `outputSize` keeps the size of x. Matches torch.nn.functional.adaptive_avg_pool2d.
 */
export function adaptiveAvgPool2d(x: Tensor, outputSize: AdaptiveSize): Tensor {
  return avgPool(x, adaptiveAxes("adaptiveAvgPool2d", x, 2, outputSize));
}

// Modules ---------------------------------------------------------------------------------------

const show = (value: unknown): string => JSON.stringify(value);

abstract class MaxPool<Size extends Pair, Indices extends boolean> extends Module {
  readonly kernelSize: Size;
  readonly stride: Size;
  readonly padding: Size | 0;
  readonly dilation: Size | 1;
  readonly ceilMode: boolean;
  readonly returnIndices: Indices;

  constructor(kernelSize: Size, options: MaxPoolOptions<Size, Indices> = {}) {
    super();
    this.kernelSize = kernelSize;
    this.stride = options.stride ?? kernelSize;
    this.padding = options.padding ?? 0;
    this.dilation = options.dilation ?? 1;
    this.ceilMode = options.ceilMode ?? false;
    this.returnIndices = (options.returnIndices ?? false) as Indices;
  }

  protected override extraRepr(): string {
    const { kernelSize, stride, padding, dilation, ceilMode } = this;
    const sizes = `kernelSize=${show(kernelSize)}, stride=${show(stride)}, padding=${show(padding)}`;
    return `${sizes}, dilation=${show(dilation)}, ceilMode=${ceilMode}`;
  }
}

/** `maxPool1d` as a module. Matches `torch.nn.MaxPool1d(kernelSize, …)`. */
export class MaxPool1d<Indices extends boolean = false> extends MaxPool<number, Indices> {
  forward(x: Tensor): MaxPooled<Indices> {
    return maxPool1d(x, this.kernelSize, this);
  }
}

/** `maxPool2d` as a module. Matches `torch.nn.MaxPool2d(kernelSize, …)`. */
export class MaxPool2d<Indices extends boolean = false> extends MaxPool<Pair, Indices> {
  forward(x: Tensor): MaxPooled<Indices> {
    return maxPool2d(x, this.kernelSize, this);
  }
}

abstract class AvgPool<Size extends Pair> extends Module {
  readonly kernelSize: Size;
  readonly stride: Size;
  readonly padding: Size | 0;
  readonly ceilMode: boolean;
  readonly countIncludePad: boolean;

  constructor(kernelSize: Size, options: AvgPoolOptions<Size> = {}) {
    super();
    this.kernelSize = kernelSize;
    this.stride = options.stride ?? kernelSize;
    this.padding = options.padding ?? 0;
    this.ceilMode = options.ceilMode ?? false;
    this.countIncludePad = options.countIncludePad ?? true;
  }

  protected override extraRepr(): string {
    return `kernelSize=${show(this.kernelSize)}, stride=${show(this.stride)}, padding=${show(this.padding)}`;
  }
}

/** `avgPool1d` as a module. Matches `torch.nn.AvgPool1d(kernelSize, …)`. */
export class AvgPool1d extends AvgPool<number> {
  forward(x: Tensor): Tensor {
    return avgPool1d(x, this.kernelSize, this);
  }
}

/** `avgPool2d` as a module. Matches `torch.nn.AvgPool2d(kernelSize, …)`. */
export class AvgPool2d extends AvgPool<Pair> {
  readonly divisorOverride: number | null;

  constructor(kernelSize: Pair, options: AvgPool2dOptions = {}) {
    super(kernelSize, options);
    this.divisorOverride = options.divisorOverride ?? null;
  }

  forward(x: Tensor): Tensor {
    return avgPool2d(x, this.kernelSize, this);
  }
}

abstract class AdaptivePool<Size extends AdaptiveSize> extends Module {
  readonly outputSize: Size;

  constructor(outputSize: Size) {
    super();
    this.outputSize = outputSize;
  }

  protected override extraRepr(): string {
    return `outputSize=${show(this.outputSize)}`;
  }
}

abstract class AdaptiveMaxPool<Size extends AdaptiveSize, Indices extends boolean> extends AdaptivePool<Size> {
  readonly returnIndices: Indices;

  constructor(outputSize: Size, { returnIndices }: AdaptiveMaxPoolOptions<Indices> = {}) {
    super(outputSize);
    this.returnIndices = (returnIndices ?? false) as Indices;
  }
}

/** `adaptiveMaxPool1d` as a module. Matches `torch.nn.AdaptiveMaxPool1d(outputSize, …)`. */
export class AdaptiveMaxPool1d<Indices extends boolean = false> extends AdaptiveMaxPool<number, Indices> {
  forward(x: Tensor): MaxPooled<Indices> {
    return adaptiveMaxPool1d(x, this.outputSize, this);
  }
}

/** `adaptiveMaxPool2d` as a module. Matches `torch.nn.AdaptiveMaxPool2d(outputSize, …)`. */
export class AdaptiveMaxPool2d<Indices extends boolean = false> extends AdaptiveMaxPool<AdaptiveSize, Indices> {
  forward(x: Tensor): MaxPooled<Indices> {
    return adaptiveMaxPool2d(x, this.outputSize, this);
  }
}

/** `adaptiveAvgPool1d` as a module. Matches `torch.nn.AdaptiveAvgPool1d(outputSize)`. */
export class AdaptiveAvgPool1d extends AdaptivePool<number> {
  forward(x: Tensor): Tensor {
    return adaptiveAvgPool1d(x, this.outputSize);
  }
}

/** `adaptiveAvgPool2d` as a module. Matches `torch.nn.AdaptiveAvgPool2d(outputSize)`. */
export class AdaptiveAvgPool2d extends AdaptivePool<AdaptiveSize> {
  forward(x: Tensor): Tensor {
    return adaptiveAvgPool2d(x, this.outputSize);
  }
}
