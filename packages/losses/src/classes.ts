/**
 * Losses over the C classes of a row, as in torch.nn.functional: crossEntropy of logits, nll of log-probabilities.
 *
 *   q_c  = w_c · ((1−ε) · t_c + ε/C)      t: 1 for the target class and 0 for the others, or given probabilities
 *   loss = Σ_c q_c · (lse − x_c)          lse = log Σ_c exp(x_c); for nll, 0
 *   dx_c = g · (p_c · Σ q − q_c)          p_c = exp(x_c − lse); for nll, 0; g is the gradient of the row's loss
 *   dt_c = g · (1−ε) · w_c · (lse − x_c)
 *
 * Cross entropy's forward reads the logits once and keeps max and log Σ exp(x − max) of each row. Backward reads them again
 * and writes dx: 12 bytes for an f32 logit in all. Writing dx in the forward would move as many, since rows of a large
 * vocabulary do not stay in the cache between two sweeps; it would hold a second tensor of the logits' size from then on,
 * and multiply it by g in a further pass.
 * Order of this file: kernels, launchers, differentiable functions, modules.
 */
import {
  cast,
  delegated,
  emptyLike,
  type FloatType,
  grid,
  kernel,
  needsGrad,
  record,
  type Shape,
  sizeOf,
  type Tensor,
  threads,
  variants,
} from "@kindling/core";
import {
  checkFloats,
  checkReduction,
  type Fail,
  failure,
  isFloat,
  Loss,
  NAN_BITS,
  type Reduction,
  type Rows,
  reduced,
  rowsOf,
} from "./reduction.ts";

// Kernels -----------------------------------------------------------------------------------------

type Layout = "rows" | "strided";
type Label = "i32" | "u32" | FloatType;

/**
 * Where a row's classes are: side by side, or (x is [N, C, d1, …]) `stride` elements apart. They are read four at a time.
 * Side by side, four are an aligned vec4 of the tensor, for any C: at its ends a row shares vec4s with its neighbours, whose
 * elements `classes` counts as C or more (below the row's start it wraps).
 */
const layouts: Record<Layout, string> = {
  rows: /* wgsl */ `
fn start(row: u32) -> u32 { return row * params.classes; }
fn first(base: u32) -> u32 { return base / 4; }
fn end(base: u32) -> u32 { return (base + params.classes + 3) / 4; }
fn classes(base: u32, i: u32) -> vec4u { return 4 * i + vec4u(0, 1, 2, 3) - base; }
fn logits(base: u32, i: u32) -> vec4f { return vec4f(x[i]); }
fn logit(base: u32, c: u32) -> f32 { return f32(x[(base + c) / 4][(base + c) % 4]); }`,
  strided: /* wgsl */ `
fn start(row: u32) -> u32 { return row / params.stride * params.stride * params.classes + row % params.stride; }
fn first(base: u32) -> u32 { return 0; }
fn end(base: u32) -> u32 { return (params.classes + 3) / 4; }
fn classes(base: u32, i: u32) -> vec4u { return 4 * i + vec4u(0, 1, 2, 3); }
fn places(base: u32, i: u32) -> vec4u { return base + min(classes(base, i), vec4u(params.classes - 1)) * params.stride; }
fn logits(base: u32, i: u32) -> vec4f { let e = places(base, i); return vec4f(f32(x[e.x]), f32(x[e.y]), f32(x[e.z]), f32(x[e.w])); }
fn logit(base: u32, c: u32) -> f32 { return f32(x[base + c * params.stride]); }`,
};

const probabilities = /* wgsl */ `
fn counts(row: u32) -> bool { return true; }
fn label(row: u32) -> u32 { return 0; }
fn share(row: u32) -> f32 { return 1; }`;

/**
 * t of four classes, for class ids or probabilities. `counts`: whether the row takes part; `share`: its part of the mean's
 * denominator.
 */
const targets: Record<"ids" | Layout, string> = {
  ids: /* wgsl */ `
fn counts(row: u32) -> bool { return i32(labels[row]) != params.ignore; }
fn label(row: u32) -> u32 { return u32(labels[row]); }
fn share(row: u32) -> f32 { return weights(vec4u(label(row))).x; }
fn t(row: u32, base: u32, i: u32) -> vec4f { return select(vec4f(0), vec4f(1), classes(base, i) == vec4u(label(row))); }`,
  rows: /* wgsl */ `${probabilities}
fn t(row: u32, base: u32, i: u32) -> vec4f { return vec4f(labels[i]); }`,
  strided: /* wgsl */ `${probabilities}
fn t(row: u32, base: u32, i: u32) -> vec4f {
  let e = places(base, i);
  return vec4f(f32(labels[e.x]), f32(labels[e.y]), f32(labels[e.z]), f32(labels[e.w]));
}`,
};

/** What forward and backward share: the operands and q. */
const operands = (L: Layout, X: FloatType, T: Label, weighted: boolean): string => /* wgsl */ `
struct Params { rows: u32, classes: u32, stride: u32, ignore: i32, smoothing: f32, z: f32, nan: u32, fault: u32, perRow: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${L === "rows" ? `vec4<${X}>` : X}>;
@group(0) @binding(2) var<storage, read> labels: array<${L === "rows" && isFloat(T) ? `vec4<${T}>` : T}>;
${
  weighted
    ? /* wgsl */ `
@group(0) @binding(3) var<storage, read> weight: array<f32>;
fn weights(c: vec4u) -> vec4f {
  let i = min(c, vec4u(params.classes - 1));
  return vec4f(weight[i.x], weight[i.y], weight[i.z], weight[i.w]);
}`
    : "fn weights(c: vec4u) -> vec4f { return vec4f(1); }"
}
${layouts[L]}
${targets[isFloat(T) ? L : "ids"]}

fn inside(c: vec4u) -> vec4<bool> { return c < vec4u(params.classes); }

fn q(row: u32, base: u32, i: u32) -> vec4f {
  let c = classes(base, i);
  let y = (1 - params.smoothing) * t(row, base, i) + params.smoothing / f32(params.classes);
  return select(vec4f(0), weights(c) * y, inside(c));
}`;

/**
 * W threads for a row, each with four loads under way. A thread carries (max, Σ exp(x − max), Σ q, Σ q·(x − max)) of what it
 * has seen; the last two only for a soft target, since a plain class id needs no sum. The sums move along with the max:
 * a large offset of the logits, or classes masked by −1e9, cost no precision.
 * stats: max, log Σ exp(x − max), the factor of p in dx, the row's share of the mean's denominator.
 */
const forwardKernel = variants((L: Layout, X: FloatType, T: Label, weighted: boolean, soft: boolean) =>
  kernel<string>(
    `crossEntropy.forward.${L}.${X}.${T}`,
    /* wgsl */ `
override WG: u32 = 256;
override W: u32 = 256;
${operands(L, X, T, weighted)}

@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> faults: array<atomic<u32>>;

var<workgroup> parts: array<vec4f, WG>;

/** Four logits; for what is not of the row, other. */
fn masked(base: u32, i: u32, last: u32, other: f32) -> vec4f {
  return select(vec4f(other), logits(base, min(i, last)), inside(classes(base, i)));
}

/** What four logits add to the sums. */
fn terms(row: u32, base: u32, i: u32, v: vec4f, top: f32) -> vec4f {
  let s = dot(select(vec4f(0), exp(v - top), inside(classes(base, i))), vec4f(1));
  ${
    soft
      ? "if (i >= end(base)) { return vec4f(0); }\n  let mass = q(row, base, i);\n  return vec4f(0, s, dot(mass, vec4f(1)), dot(mass, v - top));"
      : "return vec4f(0, s, 0, 0);"
  }
}

fn merge(a: vec4f, b: vec4f) -> vec4f {
  let top = max(a.x, b.x);
  let s = a.y * exp(a.x - top) + b.y * exp(b.x - top);
  return ${soft ? "vec4f(top, s, a.z + b.z, a.w + a.z * (a.x - top) + b.w + b.z * (b.x - top))" : "vec4f(top, s, 0, 0)"};
}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let place = (wg.x + wg.y * groups.x) * (WG / W) + lane / W;
  let row = min(place, params.rows - 1);
  let base = start(row);
  let last = end(base) - 1;
  let stop = select(0, last + 1, counts(row));

  var sum = vec4f(logit(base, 0), 0, 0, 0);
  for (var k = first(base) + lane % W; k < stop; k += 4 * W) {
    let a = masked(base, k, last, sum.x);
    let b = masked(base, k + W, last, sum.x);
    let c = masked(base, k + 2 * W, last, sum.x);
    let d = masked(base, k + 3 * W, last, sum.x);
    let e = max(max(a, b), max(c, d));
    let top = max(max(e.x, e.y), max(e.z, e.w));
    sum = vec4f(top, sum.y * exp(sum.x - top), sum.z, sum.w + sum.z * (sum.x - top));
    sum += terms(row, base, k, a, top) + terms(row, base, k + W, b, top);
    sum += terms(row, base, k + 2 * W, c, top) + terms(row, base, k + 3 * W, d, top);
  }

  parts[lane] = sum;
  for (var half = W / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane % W < half) { parts[lane] = merge(parts[lane], parts[lane + half]); }
  }
  if (lane % W != 0 || place >= params.rows) { return; }
  sum = parts[lane];
  let log_s = log(sum.y);
  let lse = sum.x + log_s;
  ${
    soft
      ? "var mass = sum.z;\n  var l = mass * log_s - sum.w;"
      : "var mass = share(row);\n  var l = mass * (sum.x - logit(base, min(label(row), params.classes - 1)) + log_s);"
  }
  if (counts(row) && label(row) >= params.classes) {
    atomicStore(&faults[params.fault], 1);
    atomicStore(&faults[params.fault + 1], label(row));
    mass = bitcast<f32>(params.nan);
    l = mass;
  }
  l += params.z * lse * lse;
  mass += 2 * params.z * lse;
  loss[row] = select(0, l, counts(row));
  stats[row] = select(vec4f(0), vec4f(sum.x, log_s, mass, share(row)), counts(row));
}`,
  ),
);

/** nll keeps stats as cross entropy does, with lse and the factor of p zero. A thread for a row. */
const nllKernel = variants((L: Layout, X: FloatType, T: Label, weighted: boolean) =>
  kernel<string>(
    `nll.forward.${L}.${X}.${T}`,
    /* wgsl */ `
${operands(L, X, T, weighted)}

@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> faults: array<atomic<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let row = id.x + id.y * groups.x * 256;
  if (row >= params.rows) { return; }
  loss[row] = 0;
  stats[row] = vec4f(0);
  if (!counts(row)) { return; }
  var w = share(row);
  if (label(row) >= params.classes) {
    atomicStore(&faults[params.fault], 1);
    atomicStore(&faults[params.fault + 1], label(row));
    w = bitcast<f32>(params.nan);
  }
  loss[row] = -w * logit(start(row), min(label(row), params.classes - 1));
  stats[row].w = w;
}`,
  ),
);

/** What is differentiated: cross entropy by the logits or by probabilities, or nll. */
type By = "x" | "t" | "nll";

const gradients: Record<By, string> = {
  x: "stats[row].z * exp(log_p(row, base, i)) - q(row, base, i)",
  t: "(params.smoothing - 1) * weights(classes(base, i)) * log_p(row, base, i)",
  nll: "-q(row, base, i)",
};

/** dx or dt of four classes of a row. */
const gradient = (by: By): string => /* wgsl */ `
@group(0) @binding(4) var<storage, read> stats: array<vec4f>;
@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read> total: array<vec4f>;

/** The gradient of the row's loss. */
fn g(row: u32) -> f32 {
  if (params.perRow != 0) { return dy[row]; }
  return dy[0] / total[0].w;
}

fn log_p(row: u32, base: u32, i: u32) -> vec4f { return logits(base, i) - stats[row].x - stats[row].y; }

fn gradient(row: u32, base: u32, i: u32) -> vec4f {
  if (!counts(row)) { return vec4f(0); }
  return g(row) * (${gradients[by]});
}`;

/**
 * Rows: a thread for each aligned vec4 of the tensor, which may hold the end of a row and the start of the next. Strided: a
 * thread for 16 classes of a row; neighbours in a workgroup are neighbours in memory.
 */
const gradMains: Record<Layout, (G: FloatType) => string> = {
  rows: (G) => /* wgsl */ `
@group(0) @binding(7) var<storage, read_write> dx: array<vec4<${G}>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  let row = 4 * i / params.classes;
  if (row >= params.rows) { return; }
  var d = gradient(row, row * params.classes, i);
  if (4 * i + 3 - row * params.classes >= params.classes) {
    d = vec4f(d.x, gradientOf(4 * i + 1).y, gradientOf(4 * i + 2).z, gradientOf(4 * i + 3).w);
  }
  dx[i] = vec4<${G}>(d);
}

/** The vec4 of element e as its row sees it. */
fn gradientOf(e: u32) -> vec4f {
  let row = min(e / params.classes, params.rows - 1);
  return gradient(row, row * params.classes, e / 4);
}`,
  strided: (G) => /* wgsl */ `
@group(0) @binding(7) var<storage, read_write> dx: array<${G}>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = (wg.x + wg.y * groups.x) * 256 + lane;
  if (row >= params.rows) { return; }
  let base = start(row);
  for (var i = wg.z * 4; i < min(wg.z * 4 + 4, end(base)); i++) {
    let d = gradient(row, base, i);
    let e = places(base, i);
    let c = classes(base, i);
    for (var k = 0u; k < 4; k++) {
      if (c[k] < params.classes) { dx[e[k]] = ${G}(d[k]); }
    }
  }
}`,
};

const rowsGradKernel = variants((by: By, L: Layout, X: FloatType, T: Label, weighted: boolean) =>
  kernel<string>(
    `losses.rowsGrad.${by}.${L}.${X}.${T}`,
    `${operands(L, X, T, weighted)}\n${gradient(by)}\n${gradMains[L](by === "t" ? (T as FloatType) : X)}`,
  ),
);

// Launchers ---------------------------------------------------------------------------------------

export interface Settings {
  readonly weight: Tensor | null;
  readonly ignoreIndex: number;
  readonly labelSmoothing: number;
  readonly zLoss: number;
}

const classesOf = (shape: Shape): number => shape[Math.min(1, shape.length - 1)]!;

/** The shape of the class ids: that of the logits without their classes. */
const idsOf = (shape: Shape): Shape => (shape.length < 2 ? [] : shape.filter((_, i) => i !== 1));

/** Variant, parameters and bindings that forward and backward share. */
function rowsLaunch(x: Tensor, labels: Tensor, { weight, ignoreIndex, labelSmoothing, zLoss }: Settings) {
  const classes = classesOf(x.shape);
  const stride = sizeOf(x.shape.slice(2));
  const L: Layout = stride === 1 ? "rows" : "strided";
  const layout = { rows: x.size / classes, classes, stride };
  const numbers = { ignore: ignoreIndex, smoothing: labelSmoothing, z: zLoss, nan: NAN_BITS, fault: 0, perRow: 0 };
  return {
    ...layout,
    variant: [L, x.dtype as FloatType, labels.dtype as Label, weight !== null] as const,
    params: { ...layout, ...numbers },
    bindings: { x, labels, ...(weight && { weight }) },
  };
}

const faultOf = (name: string, x: Tensor): { faults: Tensor; code: number } =>
  x.device.fault(`${name}: target % is no class; expected 0 to ${classesOf(x.shape) - 1} or ignoreIndex`);

export function crossEntropyForward(x: Tensor, labels: Tensor, settings: Settings, name = "crossEntropy"): Rows {
  const { variant, params, bindings, rows, classes, stride } = rowsLaunch(x, labels, settings);
  const { faults, code } = faultOf(name, x);
  const result = rowsOf(rows, x);
  // A row's threads have a few vec4s each. Rows that lie far apart in memory are read by one thread each, side by side. A
  // long row takes a workgroup; where there are few of them, a large one, so that the GPU is busy.
  const most = rows < 1024 && classes > 32768 ? Math.min(1024, x.device.limits.maxComputeInvocationsPerWorkgroup) : 256;
  const W = stride >= 32 || classes <= 16 ? 1 : classes <= 128 ? 8 : classes <= 1024 ? 64 : most;
  const WG = Math.max(W, 256);
  const soft = isFloat(labels.dtype) || settings.labelSmoothing > 0;
  forwardKernel(...variant, soft).run(
    { params: { ...params, fault: code }, ...bindings, ...result, faults },
    { workgroups: grid(Math.ceil((rows * W) / WG)), constants: { W, WG } },
  );
  return result;
}

function nllForward(x: Tensor, labels: Tensor, settings: Settings): Rows {
  const { variant, params, bindings, rows } = rowsLaunch(x, labels, settings);
  const { faults, code } = faultOf("nll", x);
  const result = rowsOf(rows, x);
  nllKernel(...variant).run(
    { params: { ...params, fault: code }, ...bindings, ...result, faults },
    { workgroups: threads(rows) },
  );
  return result;
}

/** The gradient of x, or that of target probabilities. Without `total`, dy has a value for each row. */
export function rowsGrad(
  by: By,
  dy: Tensor,
  x: Tensor,
  labels: Tensor,
  settings: Settings,
  { stats }: Rows,
  total: Rows | null,
): Tensor {
  const { variant, params, bindings, rows, classes } = rowsLaunch(x, labels, settings);
  const dx = emptyLike(by === "t" ? labels : x);
  const perRow = Number(total === null);
  const flat = variant[0] === "rows";
  rowsGradKernel(by, ...variant).run(
    { params: { ...params, perRow }, ...bindings, stats, dy, total: total?.stats ?? stats, dx },
    { workgroups: flat ? threads(Math.ceil(x.size / 4)) : [...threads(rows), Math.ceil(classes / 16)] },
  );
  return dx;
}

// Differentiable functions ------------------------------------------------------------------------

export interface NLLOptions {
  /** A weight for each class, [C]. */
  weight?: Tensor | null;
  /** Rows with this class id count nothing. Default -100. */
  ignoreIndex?: number;
  /** Default "mean": Σ loss / Σ weight of the targets. */
  reduction?: Reduction;
}

export interface CrossEntropyOptions extends NLLOptions {
  /** ε: the part of the target that is spread evenly over all classes. Default 0. */
  labelSmoothing?: number;
  /** Adds zLoss · lse² to each row's loss, which keeps logits from drifting. Default 0. */
  zLoss?: number;
}

/**
 * Cross entropy of logits `input`, [N, C], [N, C, d1, …] or [C], and a target of class ids (i32 or u32, of the shape of input
 * without C) or of probabilities (of the shape of input). Reduction "none" gives a loss for each row. A mean over nothing is
 * NaN. A target that is neither a class nor ignoreIndex is an error at the next read, and NaN until then.
 */
export function crossEntropy(
  input: Tensor,
  target: Tensor,
  { weight = null, ignoreIndex = -100, labelSmoothing = 0, zLoss = 0, reduction = "mean" }: CrossEntropyOptions = {},
): Tensor {
  const fail = failure("crossEntropy");
  checkFloats(fail, { input });
  checkRows(fail, input.shape, target, { weight, ignoreIndex, reduction });
  checkSmoothing(fail, labelSmoothing, zLoss);
  const rest = { ignoreIndex, labelSmoothing, zLoss };
  const other = delegated<Tensor>("crossEntropy", { input, target, weight }, { ...rest, reduction });
  if (other) return other;
  const settings = { weight: weight && cast(weight, "f32"), ...rest };
  const rows = crossEntropyForward(input, target, settings);
  const { y, total } = reduced(rows, reduction, idsOf(input.shape));
  return record(y, [input, target], (dy) => [
    needsGrad(input) ? rowsGrad("x", dy, input, target, settings, rows, total) : null,
    needsGrad(target) ? rowsGrad("t", dy, input, target, settings, rows, total) : null,
  ]);
}

/** −input at the target class, for log-probabilities; shapes and class ids as in `crossEntropy`. */
export function nll(
  input: Tensor,
  target: Tensor,
  { weight = null, ignoreIndex = -100, reduction = "mean" }: NLLOptions = {},
): Tensor {
  const fail = failure("nll");
  if (isFloat(target.dtype)) fail(`target is ${target.dtype}, expected class ids (i32, u32)`);
  checkFloats(fail, { input });
  checkRows(fail, input.shape, target, { weight, ignoreIndex, reduction });
  const other = delegated<Tensor>("nll", { input, target, weight }, { ignoreIndex, reduction });
  if (other) return other;
  const settings = { weight: weight && cast(weight, "f32"), ignoreIndex, labelSmoothing: 0, zLoss: 0 };
  const rows = nllForward(input, target, settings);
  const { y, total } = reduced(rows, reduction, idsOf(input.shape));
  return record(y, [input, target], (dy) => [
    needsGrad(input) ? rowsGrad("nll", dy, input, target, settings, rows, total) : null,
    null,
  ]);
}

export function checkSmoothing(fail: Fail, labelSmoothing: number, zLoss: number): void {
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1)) fail(`labelSmoothing is ${labelSmoothing}, expected 0 to 1`);
  if (!(zLoss >= 0)) fail(`zLoss is ${zLoss}, expected 0 or more`);
}

/** Checks everything but the logits' dtype; `shape` is theirs. */
export function checkRows(
  fail: Fail,
  shape: Shape,
  target: Tensor,
  { weight, ignoreIndex, reduction }: Required<NLLOptions>,
): void {
  if (weight) checkFloats(fail, { weight });
  if (shape.length === 0) fail("input has shape [], expected [C], [N, C] or [N, C, d1, …]");
  if (target.dtype === "bool") fail("target is bool, expected class ids (i32, u32) or probabilities (f32, f16)");
  const soft = isFloat(target.dtype);
  const expected = soft ? shape : idsOf(shape);
  if (target.shape.join() !== expected.join()) {
    const kind = soft ? "probabilities" : "class ids";
    fail(`target has shape [${target.shape}], expected [${expected}] for ${kind} and input [${shape}]`);
  }
  const classes = classesOf(shape);
  if (weight && weight.shape.join() !== `${classes}`) {
    fail(`weight has shape [${weight.shape}], expected [${classes}], one for each class`);
  }
  if (!Number.isInteger(ignoreIndex)) fail(`ignoreIndex is ${ignoreIndex}, expected a whole number`);
  if (soft && ignoreIndex >= 0)
    fail(`ignoreIndex is ${ignoreIndex}, but probabilities as target have no class to ignore`);
  checkReduction(fail, reduction);
}

// Modules -----------------------------------------------------------------------------------------

/** `crossEntropy` as a module. */
export class CrossEntropyLoss extends Loss<CrossEntropyOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return crossEntropy(input, target, { ...this.options, weight: this.weight });
  }
}

/** `nll` as a module. */
export class NLLLoss extends Loss<NLLOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return nll(input, target, { ...this.options, weight: this.weight });
  }
}
