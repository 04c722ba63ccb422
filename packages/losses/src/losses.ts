/**
 * Loss functions, each like the one of its name in torch.nn.functional. The loss is f32 for any input.
 *
 * Over the C classes of a row: crossEntropy of logits, nll of log-probabilities
 *   q_c  = w_c · ((1−ε) · t_c + ε/C)      t: 1 for the target class and 0 for the others, or given probabilities
 *   loss = Σ_c q_c · (lse − x_c)          lse = log Σ_c exp(x_c); for nll, 0
 *   dx_c = g · (p_c · Σ q − q_c)          p_c = exp(x_c − lse); for nll, 0; g is the gradient of the row's loss
 *   dt_c = g · (1−ε) · w_c · (lse − x_c)
 * Element by element: mse, l1, smoothL1, huber, bce, bceWithLogits, klDiv; see `formulas`.
 * Of two vectors: cosineEmbedding, 1 − cos for a target of 1 and max(0, cos − margin) for −1.
 *
 * Cross entropy's forward reads the logits once and keeps max and log Σ exp(x − max) of each row. Backward reads them again
 * and writes dx: 12 bytes for an f32 logit in all. Writing dx in the forward would move as many, since rows of a large
 * vocabulary do not stay in the cache between two sweeps; it would hold a second tensor of the logits' size from then on,
 * and multiply it by g in a further pass.
 * Order of this file: kernels, launchers, differentiable functions, modules.
 */
import {
  buffer,
  cast,
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
  workgroupReduce,
} from "@kindling/core";

// Kernels: rows of classes ----------------------------------------------------------------------

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

const isFloat = (T: string): T is FloatType => T === "f32" || T === "f16";

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

// Kernels: element by element -------------------------------------------------------------------

interface Formula {
  /** WGSL expressions in x, t, the weights w and p (posWeight), and the loss's number a. */
  readonly value: string;
  readonly dx: string;
  /** Default: −dx. */
  readonly dt?: string;
  /** Inputs for which this is true are an error. */
  readonly outside?: string;
}

type Elementwise = "mse" | "l1" | "smoothL1" | "huber" | "bce" | "bceWithLogits" | "klDiv" | "klDivLog";

const formulas: Record<Elementwise, Formula> = {
  mse: { value: "(x - t) * (x - t)", dx: "2 * (x - t)" },
  l1: { value: "abs(x - t)", dx: "sign(x - t)" },
  smoothL1: {
    value: "select(abs(x - t) - 0.5 * a, 0.5 * (x - t) * (x - t) / a, abs(x - t) < a)",
    dx: "select(sign(x - t), (x - t) / a, abs(x - t) < a)",
  },
  huber: {
    value: "select(a * (abs(x - t) - 0.5 * a), 0.5 * (x - t) * (x - t), abs(x - t) < a)",
    dx: "select(a * sign(x - t), x - t, abs(x - t) < a)",
  },
  bce: {
    value: "-w * (t * cutLog(x) + (1 - t) * cutLog(1 - x))",
    dx: "w * (x - t) / max(x * (1 - x), 1e-12)",
    dt: "w * (cutLog(1 - x) - cutLog(x))",
    outside: "x < 0 || x > 1",
  },
  bceWithLogits: {
    value: "w * ((1 - t) * x + (1 + (p - 1) * t) * softplus(-x))",
    dx: "w * (1 - t - (1 + (p - 1) * t) * sigmoid(-x))",
    dt: "w * ((p - 1) * softplus(-x) - x)",
  },
  klDiv: { value: "select(t * (log(t) - x), 0, t == 0)", dx: "-t", dt: "log(t) + 1 - x" },
  klDivLog: { value: "exp(t) * (t - x)", dx: "-exp(t)", dt: "exp(t) * (t - x + 1)" },
};

/** Which weights there are; they repeat over x. */
type Weights = "" | "w" | "p" | "wp";

const elements = (X: FloatType, weights: Weights): string => /* wgsl */ `
struct Params { size: u32, ws: u32, ps: u32, a: f32, divisor: f32, perElement: u32, by: u32, fault: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<${X}>>;
@group(0) @binding(2) var<storage, read> labels: array<vec4<${X}>>;
${weights.includes("w") ? "@group(0) @binding(3) var<storage, read> weight: array<f32>;" : ""}
${weights.includes("p") ? "@group(0) @binding(4) var<storage, read> posWeight: array<f32>;" : ""}
fn weightAt(e: u32) -> f32 { return ${weights.includes("w") ? "weight[e % params.ws]" : "1"}; }
fn posWeightAt(e: u32) -> f32 { return ${weights.includes("p") ? "posWeight[e % params.ps]" : "1"}; }

/** As PyTorch cuts it, so that a certain mistake costs 100 and not infinity. */
fn cutLog(v: f32) -> f32 { return select(-100, max(log(v), -100), v > 0); }
fn softplus(v: f32) -> f32 { return max(v, 0) + log(1 + exp(-abs(v))); }
fn sigmoid(v: f32) -> f32 { return select(1, exp(-abs(v)), v < 0) / (1 + exp(-abs(v))); }`;

/** The loss of each element, or the sum of a workgroup's; the first workgroup adds what the mean divides by. */
const elementKernel = variants((loss: Elementwise, X: FloatType, weights: Weights, summed: boolean) => {
  const { value, outside } = formulas[loss];
  return kernel<string>(
    `${loss}.forward`,
    /* wgsl */ `
${elements(X, weights)}
@group(0) @binding(5) var<storage, read_write> loss: array<${summed ? "f32" : "vec4f"}>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> faults: array<atomic<u32>>;

fn value(e: u32, x: f32, t: f32) -> f32 {
  if (e >= params.size) { return 0; }
  let w = weightAt(e);
  let p = posWeightAt(e);
  let a = params.a;
  if (${outside ?? "false"}) {
    atomicStore(&faults[params.fault], 1);
    atomicStore(&faults[params.fault + 1], e);
  }
  return ${value};
}

var<workgroup> parts: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let vectors = (params.size + 3) / 4;
  var sum = 0.0;
  for (var i = (wg.x + wg.y * groups.x) * 256 + lane; i < vectors; i += groups.x * groups.y * 256) {
    let v = vec4f(x[i]);
    let t = vec4f(labels[i]);
    let e = 4 * i;
    let l = vec4f(value(e, v.x, t.x), value(e + 1, v.y, t.y), value(e + 2, v.z, t.z), value(e + 3, v.w, t.w));
    ${summed ? "sum += dot(l, vec4f(1));" : "loss[i] = l;"}
  }
  ${
    summed
      ? /* wgsl */ `parts[lane] = sum;
  for (var half = 128u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { parts[lane] += parts[lane + half]; }
  }
  if (lane != 0) { return; }
  loss[wg.x] = parts[0];
  stats[wg.x] = vec4f(0, 0, 0, select(0, params.divisor, wg.x == 0));`
      : ""
  }
}`,
  );
});

/** The gradient of x (`by` 0) or of t. */
const elementGradKernel = variants((loss: Elementwise, X: FloatType, weights: Weights) => {
  const { dx, dt = `-(${dx})` } = formulas[loss];
  return kernel<string>(
    `${loss}.grad`,
    /* wgsl */ `
${elements(X, weights)}
@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read> total: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> dx: array<vec4<${X}>>;

fn grad(e: u32, x: f32, t: f32) -> f32 {
  let w = weightAt(e);
  let p = posWeightAt(e);
  let a = params.a;
  var g = dy[0] / total[0].w;
  if (params.perElement != 0) { g = dy[min(e, params.size - 1)]; }
  if (params.by == 0) { return g * (${dx}); }
  return g * (${dt});
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  let e = 4 * i;
  if (e >= params.size) { return; }
  let v = vec4f(x[i]);
  let t = vec4f(labels[i]);
  dx[i] = vec4<${X}>(vec4f(grad(e, v.x, t.x), grad(e + 1, v.y, t.y), grad(e + 2, v.z, t.z), grad(e + 3, v.w, t.w)));
}`,
  );
});

// Kernels: pairs of vectors ---------------------------------------------------------------------

/**
 * A workgroup for a pair. dcos/dx1 = x2 / (|x1|·|x2|) − x1 · cos / |x1|². stats: the three factors, of x2 and x1, of x1 and
 * of x2, times the slope of the loss by cos; and the pair's share of the mean's denominator.
 */
const cosineKernel = variants((X: FloatType, T: "f32" | "f16" | "i32" | "u32") =>
  kernel<string>(
    `cosineEmbedding.forward.${X}.${T}`,
    /* wgsl */ `
override WG: u32 = 64;
${workgroupReduce}

struct Params { rows: u32, cols: u32, margin: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x1: array<${X}>;
@group(0) @binding(2) var<storage, read> x2: array<${X}>;
@group(0) @binding(3) var<storage, read> labels: array<${T}>;
@group(0) @binding(4) var<storage, read_write> loss: array<f32>;
@group(0) @binding(5) var<storage, read_write> stats: array<vec4f>;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = wg.x + wg.y * groups.x;
  if (row >= params.rows) { return; }
  var sums = vec3f(0);
  for (var c = lane; c < params.cols; c += WG) {
    let a = f32(x1[row * params.cols + c]);
    let b = f32(x2[row * params.cols + c]);
    sums += vec3f(a * a, b * b, a * b);
  }
  let aa = workgroupSum(lane, sums.x) + 1e-12;
  let bb = workgroupSum(lane, sums.y) + 1e-12;
  let ab = workgroupSum(lane, sums.z);
  if (lane != 0) { return; }
  let cross = 1 / (sqrt(aa) * sqrt(bb));
  let cos = ab * cross;
  let same = f32(labels[row]) > 0;
  loss[row] = select(max(cos - params.margin, 0), 1 - cos, same);
  let slope = select(select(0.0, 1.0, cos > params.margin), -1.0, same);
  stats[row] = vec4f(slope * cross, slope * cos / aa, slope * cos / bb, 1);
}`,
  ),
);

/** The gradient of x, the vector itself, whose partner is `other`. */
const cosineGradKernel = variants((X: FloatType) =>
  kernel(
    `cosineEmbedding.grad.${X}`,
    /* wgsl */ `
struct Params { size: u32, cols: u32, which: u32, perRow: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> other: array<${X}>;
@group(0) @binding(3) var<storage, read> stats: array<vec4f>;
@group(0) @binding(4) var<storage, read> dy: array<f32>;
@group(0) @binding(5) var<storage, read> total: array<vec4f>;
@group(0) @binding(6) var<storage, read_write> dx: array<${X}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  let row = i / params.cols;
  let s = stats[row];
  var g = dy[0] / total[0].w;
  if (params.perRow != 0) { g = dy[row]; }
  dx[i] = ${X}(g * (f32(other[i]) * s.x - f32(x[i]) * select(s.y, s.z, params.which == 2)));
}`,
  ),
);

// Kernel: mean and sum --------------------------------------------------------------------------

/**
 * Sums loss and share of a chunk of the rows, or of earlier chunks: in a fixed order, the same each time. The last one
 * leaves the reduced loss and what it was divided by.
 */
const totalKernel = variants(() =>
  kernel(
    "losses.total",
    /* wgsl */ `
struct Params { count: u32, chunk: u32, last: u32, mean: u32, nan: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> loss: array<f32>;
@group(0) @binding(2) var<storage, read> stats: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;
@group(0) @binding(4) var<storage, read_write> shares: array<vec4f>;

var<workgroup> parts: array<vec2f, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
  let end = min((wg.x + 1) * params.chunk, params.count);
  var sum = vec2f(0);
  for (var i = wg.x * params.chunk + lane; i < end; i += 256) { sum += vec2f(loss[i], stats[i].w); }
  parts[lane] = sum;
  for (var half = 128u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { parts[lane] += parts[lane + half]; }
  }
  if (lane != 0) { return; }
  sum = parts[0];
  if (params.last != 0) {
    let mean = select(sum.x / sum.y, bitcast<f32>(params.nan), sum.y == 0);
    sum = select(vec2f(sum.x, 1), vec2f(mean, sum.y), params.mean != 0);
  }
  losses[wg.x] = sum.x;
  shares[wg.x].w = sum.y;
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

const NAN_BITS = 0x7fc00000;

interface Settings {
  readonly weight: Tensor | null;
  readonly ignoreIndex: number;
  readonly labelSmoothing: number;
  readonly zLoss: number;
}

/** The loss of each row, and what the mean and the backward need of it: four numbers, the last its share of the mean. */
interface Rows {
  readonly loss: Tensor;
  readonly stats: Tensor;
}

const rowsOf = (count: number, { device }: Tensor): Rows => ({
  loss: empty([count], { device }),
  stats: empty([count, 4], { device }),
});

const classesOf = (x: Tensor): number => x.shape[Math.min(1, x.shape.length - 1)]!;

/** The shape of the class ids: that of x without its classes. */
const idsOf = (x: Tensor): Shape => (x.shape.length < 2 ? [] : x.shape.filter((_, i) => i !== 1));

/** Variant, parameters and bindings that forward and backward share. */
function rowsLaunch(x: Tensor, labels: Tensor, { weight, ignoreIndex, labelSmoothing, zLoss }: Settings) {
  const classes = classesOf(x);
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
  x.device.fault(`${name}: target % is no class; expected 0 to ${classesOf(x) - 1} or ignoreIndex`);

export function crossEntropyForward(x: Tensor, labels: Tensor, settings: Settings): Rows {
  const { variant, params, bindings, rows, classes, stride } = rowsLaunch(x, labels, settings);
  const { faults, code } = faultOf("crossEntropy", x);
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

interface ElementSettings {
  readonly name: Elementwise;
  /** beta or delta. */
  readonly a?: number;
  readonly weight?: Tensor | null;
  readonly posWeight?: Tensor | null;
  readonly reduction: Reduction | "batchmean";
}

function elementLaunch(x: Tensor, labels: Tensor, { a = 0, weight, posWeight, reduction }: ElementSettings) {
  const weights = `${weight ? "w" : ""}${posWeight ? "p" : ""}` as Weights;
  const divisor = reduction === "batchmean" ? (x.shape[0] ?? 1) : x.size;
  const perElement = Number(reduction === "none");
  const sizes = { size: x.size, ws: weight?.size ?? 1, ps: posWeight?.size ?? 1 };
  return {
    variant: [x.dtype as FloatType, weights] as const,
    params: { ...sizes, a, divisor, perElement, by: 0, fault: 0 },
    bindings: { x, labels, ...(weight && { weight }), ...(posWeight && { posWeight }) },
  };
}

/** The loss of each element, or the sums of workgroups. */
function elementForward(x: Tensor, t: Tensor, settings: ElementSettings): Rows {
  const { name, reduction } = settings;
  const { variant, params, bindings } = elementLaunch(x, t, settings);
  const { faults, code } = x.device.fault(`${name}: the input at position % is outside [0, 1]`);
  const summed = reduction !== "none";
  const groups = Math.ceil(x.size / 1024);
  const workgroups = summed ? ([Math.min(groups, 1024)] as const) : grid(groups);
  const result = summed ? rowsOf(workgroups[0], x) : { loss: empty(x.shape, x), stats: empty([4], x) };
  elementKernel(name, ...variant, summed).run(
    { params: { ...params, fault: code }, ...bindings, ...result, faults },
    { workgroups },
  );
  return result;
}

function elementGrad(
  by: 0 | 1,
  dy: Tensor,
  x: Tensor,
  t: Tensor,
  settings: ElementSettings,
  total: Rows | null,
): Tensor {
  const { variant, params, bindings } = elementLaunch(x, t, settings);
  const dx = emptyLike(x);
  elementGradKernel(settings.name, ...variant).run(
    { params: { ...params, by }, ...bindings, dy, total: total?.stats ?? dy, dx },
    { workgroups: threads(Math.ceil(x.size / 4)) },
  );
  return dx;
}

function cosineForward(x1: Tensor, x2: Tensor, labels: Tensor, margin: number): Rows {
  const cols = x1.shape.at(-1)!;
  const rows = x1.size / cols;
  const result = rowsOf(rows, x1);
  cosineKernel(x1.dtype as FloatType, labels.dtype as Label).run(
    { params: { rows, cols, margin }, x1, x2, labels, ...result },
    { workgroups: grid(rows) },
  );
  return result;
}

/** The gradient of x1 (`which` 1) or x2, whose partner is `other`. */
function cosineGrad(which: 1 | 2, dy: Tensor, x: Tensor, other: Tensor, { stats }: Rows, total: Rows | null): Tensor {
  const dx = emptyLike(x);
  const params = { size: x.size, cols: x.shape.at(-1)!, which, perRow: Number(total === null) };
  cosineGradKernel(x.dtype as FloatType).run(
    { params, x, other, stats, dy, total: total?.stats ?? stats, dx },
    { workgroups: threads(x.size) },
  );
  return dx;
}

/** One row: the reduced loss, and what the sum was divided by. */
function totalOf({ loss, stats }: Rows, mean: boolean): Rows {
  const chunk = 2048;
  const chunks = Math.ceil(loss.size / chunk);
  const sums = rowsOf(chunks, loss);
  const params = { count: loss.size, chunk, last: Number(chunks === 1), mean: Number(mean), nan: NAN_BITS };
  totalKernel().run({ params, loss, stats, losses: sums.loss, shares: sums.stats }, { workgroups: [chunks] });
  if (chunks === 1) return sums;
  const last = totalOf(sums, mean);
  for (const t of Object.values(sums)) t.dispose();
  return last;
}

// Differentiable functions ----------------------------------------------------------------------

export type Reduction = "none" | "mean" | "sum";

/** The tensor that the user gets, a scalar or the losses in `shape`, and the sum that backward divides by. */
function reduced(
  { loss, stats }: Rows,
  reduction: Reduction | "batchmean",
  shape: Shape,
): { y: Tensor; total: Rows | null } {
  const total = reduction === "none" ? null : totalOf({ loss, stats }, reduction !== "sum");
  const y = total ? total.loss.view(0, []) : loss.view(0, shape);
  loss.dispose();
  return { y, total };
}

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
  checkRows(fail, input, target, { weight, ignoreIndex, reduction });
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1)) fail(`labelSmoothing is ${labelSmoothing}, expected 0 to 1`);
  if (!(zLoss >= 0)) fail(`zLoss is ${zLoss}, expected 0 or more`);
  const settings = { weight: weight && cast(weight, "f32"), ignoreIndex, labelSmoothing, zLoss };
  const rows = crossEntropyForward(input, target, settings);
  const { y, total } = reduced(rows, reduction, idsOf(input));
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
  checkRows(fail, input, target, { weight, ignoreIndex, reduction });
  const settings = { weight: weight && cast(weight, "f32"), ignoreIndex, labelSmoothing: 0, zLoss: 0 };
  const rows = nllForward(input, target, settings);
  const { y, total } = reduced(rows, reduction, idsOf(input));
  return record(y, [input, target], (dy) => [
    needsGrad(input) ? rowsGrad("nll", dy, input, target, settings, rows, total) : null,
    null,
  ]);
}

function elementwise(input: Tensor, target: Tensor, settings: ElementSettings): Tensor {
  const { name, reduction } = settings;
  const fail = failure(name === "klDivLog" ? "klDiv" : name);
  checkFloats(fail, { input, target });
  if (`${target.shape}` !== `${input.shape}`)
    fail(`target has shape [${target.shape}], expected [${input.shape}] as input`);
  checkReduction(fail, reduction, name.startsWith("klDiv") ? ["batchmean"] : []);
  const repeated = (key: "weight" | "posWeight"): Tensor | null => {
    const w = settings[key];
    if (!w) return null;
    checkFloats(fail, { [key]: w });
    if (!`,${input.shape}`.endsWith(`,${w.shape}`)) {
      fail(`${key} has shape [${w.shape}], expected the last axes of input's [${input.shape}]`);
    }
    return cast(w, "f32");
  };
  const f32 = { ...settings, weight: repeated("weight"), posWeight: repeated("posWeight") };
  const dtype = input.dtype === target.dtype ? input.dtype : "f32";
  const [x, t] = [cast(input, dtype), cast(target, dtype)];
  const rows = elementForward(x, t, f32);
  const { y, total } = reduced(rows, reduction, x.shape);
  rows.stats.dispose();
  return record(y, [x, t], (dy) => [
    needsGrad(x) ? elementGrad(0, dy, x, t, f32, total) : null,
    needsGrad(t) ? elementGrad(1, dy, x, t, f32, total) : null,
  ]);
}

export interface LossOptions {
  /** Default "mean". */
  reduction?: Reduction;
}

/** (input − target)². */
export const mse = (input: Tensor, target: Tensor, { reduction = "mean" }: LossOptions = {}): Tensor =>
  elementwise(input, target, { name: "mse", reduction });

/** |input − target|. */
export const l1 = (input: Tensor, target: Tensor, { reduction = "mean" }: LossOptions = {}): Tensor =>
  elementwise(input, target, { name: "l1", reduction });

export interface SmoothL1Options extends LossOptions {
  /** Where the square ends. Default 1; 0 is l1. */
  beta?: number;
}

/** d² / (2·beta) for d = |input − target| below beta, d − beta/2 above. */
export function smoothL1(
  input: Tensor,
  target: Tensor,
  { beta = 1, reduction = "mean" }: SmoothL1Options = {},
): Tensor {
  if (!(beta >= 0)) throw new Error(`smoothL1: beta is ${beta}, expected 0 or more`);
  return elementwise(input, target, { name: "smoothL1", a: beta, reduction });
}

export interface HuberOptions extends LossOptions {
  /** Where the square ends. Default 1. */
  delta?: number;
}

/** d² / 2 for d = |input − target| below delta, delta · (d − delta/2) above. */
export function huber(input: Tensor, target: Tensor, { delta = 1, reduction = "mean" }: HuberOptions = {}): Tensor {
  if (!(delta > 0)) throw new Error(`huber: delta is ${delta}, expected a number above 0`);
  return elementwise(input, target, { name: "huber", a: delta, reduction });
}

export interface BCEOptions extends LossOptions {
  /** Scales the loss of each element; its shape is that of input's last axes. */
  weight?: Tensor | null;
}

/** −(t·log(x) + (1−t)·log(1−x)), logarithms cut at −100. An input outside [0, 1] is an error at the next read. */
export const bce = (input: Tensor, target: Tensor, { weight, reduction = "mean" }: BCEOptions = {}): Tensor =>
  elementwise(input, target, { name: "bce", weight, reduction });

export interface BCEWithLogitsOptions extends BCEOptions {
  /** Scales the loss of positive targets; its shape is that of input's last axes. */
  posWeight?: Tensor | null;
}

/** `bce` of sigmoid(input), without overflow. */
export const bceWithLogits = (
  input: Tensor,
  target: Tensor,
  { weight, posWeight, reduction = "mean" }: BCEWithLogitsOptions = {},
): Tensor => elementwise(input, target, { name: "bceWithLogits", weight, posWeight, reduction });

export interface KLDivOptions {
  /** The target holds logarithms too. Default false. */
  logTarget?: boolean;
  /** Default "mean"; "batchmean" divides by the first axis only, as the definition does. */
  reduction?: Reduction | "batchmean";
}

/** t · (log t − input) for log-probabilities `input` and probabilities t. */
export const klDiv = (
  input: Tensor,
  target: Tensor,
  { logTarget = false, reduction = "mean" }: KLDivOptions = {},
): Tensor => elementwise(input, target, { name: logTarget ? "klDivLog" : "klDiv", reduction });

export interface CosineEmbeddingOptions extends LossOptions {
  /** Default 0. */
  margin?: number;
}

/** 1 − cos(x1, x2) where target is 1, max(0, cos − margin) where it is −1: x1, x2 [N, D] or [D], target [N] or []. */
export function cosineEmbedding(
  x1: Tensor,
  x2: Tensor,
  target: Tensor,
  { margin = 0, reduction = "mean" }: CosineEmbeddingOptions = {},
): Tensor {
  const fail = failure("cosineEmbedding");
  checkFloats(fail, { x1, x2 });
  if (x1.shape.length !== 1 && x1.shape.length !== 2) fail(`x1 has shape [${x1.shape}], expected [N, D] or [D]`);
  if (x2.shape.join() !== x1.shape.join()) fail(`x2 has shape [${x2.shape}], expected [${x1.shape}] as x1`);
  if (x2.dtype !== x1.dtype) fail(`x2 is ${x2.dtype}, expected ${x1.dtype} as x1`);
  const shape = x1.shape.slice(0, -1);
  if (target.shape.join() !== shape.join()) fail(`target has shape [${target.shape}], expected [${shape}]`);
  if (target.dtype === "bool") fail("target is bool, expected numbers 1 and -1");
  if (!Number.isFinite(margin)) fail(`margin is ${margin}, expected a finite number`);
  checkReduction(fail, reduction);
  const rows = cosineForward(x1, x2, target, margin);
  const { y, total } = reduced(rows, reduction, shape);
  return record(y, [x1, x2, target], (dy) => [
    needsGrad(x1) ? cosineGrad(1, dy, x1, x2, rows, total) : null,
    needsGrad(x2) ? cosineGrad(2, dy, x2, x1, rows, total) : null,
    null,
  ]);
}

type Fail = (text: string) => never;

const failure =
  (name: string): Fail =>
  (text) => {
    throw new Error(`${name}: ${text}`);
  };

function checkFloats(fail: Fail, tensors: Record<string, Tensor>): void {
  for (const [name, { dtype }] of Object.entries(tensors)) {
    if (!isFloat(dtype)) fail(`${name} is ${dtype}, expected f32 or f16`);
  }
}

function checkReduction(fail: Fail, reduction: string, more: readonly string[] = []): void {
  const known = ["none", "mean", "sum", ...more];
  if (!known.includes(reduction))
    fail(`reduction is "${reduction}", expected ${known.map((r) => `"${r}"`).join(", ")}`);
}

function checkRows(
  fail: Fail,
  x: Tensor,
  target: Tensor,
  { weight, ignoreIndex, reduction }: Required<NLLOptions>,
): void {
  checkFloats(fail, { input: x, ...(weight && { weight }) });
  if (x.shape.length === 0) fail("input has shape [], expected [C], [N, C] or [N, C, d1, …]");
  if (target.dtype === "bool") fail("target is bool, expected class ids (i32, u32) or probabilities (f32, f16)");
  const soft = isFloat(target.dtype);
  const expected = soft ? x.shape : idsOf(x);
  if (target.shape.join() !== expected.join()) {
    const kind = soft ? "probabilities" : "class ids";
    fail(`target has shape [${target.shape}], expected [${expected}] for ${kind} and input [${x.shape}]`);
  }
  const classes = classesOf(x);
  if (weight && weight.shape.join() !== `${classes}`) {
    fail(`weight has shape [${weight.shape}], expected [${classes}], one for each class`);
  }
  if (!Number.isInteger(ignoreIndex)) fail(`ignoreIndex is ${ignoreIndex}, expected a whole number`);
  if (soft && ignoreIndex >= 0)
    fail(`ignoreIndex is ${ignoreIndex}, but probabilities as target have no class to ignore`);
  checkReduction(fail, reduction);
}

// Modules ---------------------------------------------------------------------------------------

/** A loss with its options kept; a weight belongs to the module's state, as in PyTorch. */
abstract class Loss<Options extends object> extends Module {
  readonly options: Options;
  readonly weight: Tensor | null;

  constructor({ weight = null, ...options }: Options & { weight?: Tensor | null } = {} as Options) {
    super();
    this.options = options as Options;
    this.weight = weight && buffer(weight);
  }

  protected override extraRepr(): string {
    return Object.entries(this.options)
      .map(([key, value]) => `${key}=${value}`)
      .join(", ");
  }
}

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

/** `mse` as a module. */
export class MSELoss extends Loss<LossOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return mse(input, target, this.options);
  }
}

/** `l1` as a module. */
export class L1Loss extends Loss<LossOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return l1(input, target, this.options);
  }
}

/** `smoothL1` as a module. */
export class SmoothL1Loss extends Loss<SmoothL1Options> {
  forward(input: Tensor, target: Tensor): Tensor {
    return smoothL1(input, target, this.options);
  }
}

/** `huber` as a module. */
export class HuberLoss extends Loss<HuberOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return huber(input, target, this.options);
  }
}

/** `bce` as a module. */
export class BCELoss extends Loss<BCEOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return bce(input, target, { ...this.options, weight: this.weight });
  }
}

/** `bceWithLogits` as a module. */
export class BCEWithLogitsLoss extends Loss<BCEWithLogitsOptions> {
  readonly pos_weight: Tensor | null;

  constructor({ posWeight = null, ...options }: BCEWithLogitsOptions = {}) {
    super(options);
    this.pos_weight = posWeight && buffer(posWeight);
  }

  forward(input: Tensor, target: Tensor): Tensor {
    return bceWithLogits(input, target, { ...this.options, weight: this.weight, posWeight: this.pos_weight });
  }
}

/** `klDiv` as a module. */
export class KLDivLoss extends Loss<KLDivOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return klDiv(input, target, this.options);
  }
}

/** `cosineEmbedding` as a module. */
export class CosineEmbeddingLoss extends Loss<CosineEmbeddingOptions> {
  forward(x1: Tensor, x2: Tensor, target: Tensor): Tensor {
    return cosineEmbedding(x1, x2, target, this.options);
  }
}
