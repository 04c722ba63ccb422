/**
 * GroupNorm: normalization over groups of channels and space (Wu & He 2018, arXiv:1803.08494), with an optional residual that
 * is added first; and InstanceNorm, with a group for each channel (Ulyanov et al. 2016, arXiv:1607.08022). Match
 * torch.nn.GroupNorm, InstanceNorm1d and InstanceNorm2d.
 *
 *   s  = x + residual                                        s = x without one
 *   y  = ŝ · w + b                                           ŝ = (s − mean) · rstd,  rstd = 1 / sqrt(var + eps), var biased
 *   ds = rstd · (g − mean(g) − ŝ · mean(g·ŝ)) + dsum         g = dy · w; ds is the gradient of x and of residual
 *   dw = Σ dy · ŝ                                            db = Σ dy, over batch and space
 *
 * x is (batch, channels, space), row-major: space is the product of all axes after the second. A group of a sample lies
 * together: it is a row of `depth` channels of `space` elements. Statistics are f32 for any dtype; the variance is a second
 * pass over deviations from the mean, so a large mean costs no precision.
 * Order of this file: kernels, launchers, differentiable functions, modules.
 */
import {
  autocastType,
  buffer,
  cast,
  type Device,
  delegated,
  empty,
  emptyLike,
  type FloatType,
  fill,
  grid,
  kernel,
  Module,
  needsGrad,
  ones,
  parameter,
  record,
  type Tensor,
  threads,
  variants,
  zeros,
} from "@kindling/core";

// Kernels: what they share ----------------------------------------------------------------------

/** F is what a thread computes with; `total` is the sum of its lanes. */
const lanes = {
  vec4: "alias F = vec4f;\nfn total(v: F) -> f32 { return dot(v, vec4f(1)); }",
  scalar: "alias F = f32;\nfn total(v: F) -> f32 { return v; }",
} as const;

type Lanes = keyof typeof lanes;
type Element = "vec4<f32>" | "vec4<f16>" | "f32" | "f16";

/**
 * What every kernel is told, as far as it applies. `vectors` and `chunks` are those of a row, but of a channel where a kernel
 * works on channels; bits of `affine` say whether there are a weight (1) and a bias (2).
 */
const head = /* wgsl */ `
struct Params {
  rows: u32, cols: u32, vectors: u32, chunk: u32, chunks: u32, groups: u32, depth: u32, space: u32, channels: u32,
  affine: u32, summed: u32, fixed: u32, eps: f32, momentum: f32
}

@group(0) @binding(0) var<uniform> params: Params;`;

/**
 * Sum of `v` over W threads, 4 at least, returned to each of them. The workgroup's 256 threads hold 256 / W such sums. Two
 * levels of at most 16 terms: two barriers, where a tree would take sixteen. V is f32, or vec2f for two sums.
 */
const rowSum = (V: "f32" | "vec2f"): string => /* wgsl */ `
${head}
alias V = ${V};
override W: u32 = 256;
var<workgroup> terms: array<V, 256>;
var<workgroup> sums: array<V, 64>;

fn rowSum(lane: u32, v: V) -> V {
  let width = min(W / 4, 16u);
  let slot = lane / W * width;
  terms[lane] = v;
  workgroupBarrier();
  if (lane % W < width) {
    var sum = V();
    for (var i = 0u; i < W / width; i++) { sum += terms[lane + i * width]; }
    sums[slot + lane % W] = sum;
  }
  workgroupBarrier();
  var sum = V();
  for (var i = 0u; i < width; i++) { sum += sums[slot + i]; }
  return sum;
}`;

/** `NAMEAt(row, i)`: what NAME, of one element a channel, has for vector i of a row. A vec4 may lie in several channels. */
const perChannel = (name: string, binding: number, P: FloatType, L: Lanes): string => /* wgsl */ `
@group(0) @binding(${binding}) var<storage, read> ${name}: array<${P}>;

fn ${name}At(row: u32, i: u32) -> F {
  let first = row % params.groups * params.depth;
  ${
    L === "scalar"
      ? `return f32(${name}[first + i / params.space]);`
      : `if (params.space % 4 == 0) { return F(f32(${name}[first + 4 * i / params.space])); }
  let c = first + (4 * i + vec4u(0, 1, 2, 3)) / params.space;
  return F(f32(${name}[c.x]), f32(${name}[c.y]), f32(${name}[c.z]), f32(${name}[c.w]));`
  }
}`;

/** `affine(row, i, v)`: v · w + b. */
const affine = (P: FloatType, L: Lanes): string => /* wgsl */ `
${perChannel("weight", 1, P, L)}
${perChannel("bias", 2, P, L)}

fn affine(row: u32, i: u32, v: F) -> F {
  var r = v;
  if ((params.affine & 1) != 0) { r *= weightAt(row, i); }
  if ((params.affine & 2) != 0) { r += biasAt(row, i); }
  return r;
}`;

const main = (body: string): string => /* wgsl */ `
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) grid: vec3u, @builtin(local_invocation_index) lane: u32) {
  let group = wg.x + wg.y * grid.x;
${body}
}`;

/** `main` of a kernel that makes `units` sums: the threads of a spare one repeat the last, and are not `inside`. */
const unitMain = (units: string, body: string): string =>
  main(/* wgsl */ `
  let units = ${units};
  let own = group * (256 / W) + lane / W;
  let inside = own < units;
  let unit = min(own, units - 1);
  let first = lane % W;
${body}`);

// Kernels: forward ------------------------------------------------------------------------------

/**
 * W threads for a unit, each with K vectors of it in registers; a load beyond the end repeats the last one, since without
 * branches all K are under way at once. A unit is a row, which is then read once for y and for its statistics; or, where
 * registers do not hold a row, a chunk of one, of which only mean and sum of squared deviations are made: another two kernels
 * finish it, so that a row is read twice, where one workgroup alone with it would read it three times. R is the residual's
 * element, S the sum's.
 */
const forwardKernel = variants(
  (X: Element, R: Element | "none", S: Element, Y: Element | "chunk", P: FloatType, L: Lanes, K: number) =>
    kernel<string>(
      "groupNorm.forward",
      /* wgsl */ `
const K = ${K}u;
${lanes[L]}
${rowSum("f32")}
@group(0) @binding(3) var<storage, read> x: array<${X}>;
@group(0) @binding(4) var<storage, read_write> stats: array<vec2f>;
${
  R === "none"
    ? /* wgsl */ `
fn load(i: u32) -> F { return F(x[i]); }
fn keep(i: u32, s: F) {}`
    : /* wgsl */ `
@group(0) @binding(6) var<storage, read> residual: array<${R}>;
@group(0) @binding(7) var<storage, read_write> sum: array<${S}>;

fn load(i: u32) -> F { return F(${S}(F(x[i]) + F(residual[i]))); }
fn keep(i: u32, s: F) { sum[i] = ${S}(s); }`
}
${
  Y === "chunk"
    ? ""
    : /* wgsl */ `
@group(0) @binding(5) var<storage, read_write> y: array<${Y}>;
${affine(P, L)}`
}
${unitMain(
  "params.rows * params.chunks",
  /* wgsl */ `
  let row = unit / params.chunks;
  let start = unit % params.chunks * params.chunk;
  let base = row * params.vectors + start;
  let size = min(params.chunk, params.vectors - start);

  var held: array<F, K>;
  for (var k = 0u; k < K; k++) { held[k] = load(base + min(first + k * W, size - 1)); }
  var sum1 = F();
  for (var k = 0u; k < K; k++) {
    if (first + k * W < size) {
      sum1 += held[k];
      if (inside) { keep(base + first + k * W, held[k]); }
    }
  }
  let count = f32(size) * total(F(1));
  let mean = rowSum(lane, total(sum1)) / count;

  var deviations = F();
  for (var k = 0u; k < K; k++) {
    let d = held[k] - mean;
    deviations += select(F(), d * d, first + k * W < size);
  }
  let squares = rowSum(lane, total(deviations));
  if (!inside) { return; }
${
  Y === "chunk"
    ? `
  if (first == 0) { stats[unit] = vec2f(mean, squares); }`
    : /* wgsl */ `
  let rstd = inverseSqrt(squares / count + params.eps);
  for (var k = 0u; k < K; k++) {
    let i = first + k * W;
    if (i < size) { y[base + i] = ${Y}(affine(row, i, (held[k] - mean) * rstd)); }
  }
  if (first == 0) { stats[row] = vec2f(mean, squares / count); }`
}`,
)}`,
    ),
);

/**
 * Mean and variance of a row from those of its chunks, in a fixed order: Chan et al. 1983, about the first chunk's mean.
 * `share`: the part of a row that chunk k is.
 */
const mergeKernel = kernel<string>(
  "groupNorm.merge",
  /* wgsl */ `
${rowSum("f32")}
@group(0) @binding(1) var<storage, read> partial: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> stats: array<vec2f>;

fn share(k: u32) -> f32 { return f32(min(params.chunk, params.vectors - k * params.chunk)) / f32(params.vectors); }
${unitMain(
  "params.rows",
  /* wgsl */ `
  let base = unit * params.chunks;
  let origin = partial[base].x;
  var sum = 0.0;
  for (var k = first; k < params.chunks; k += W) { sum += share(k) * (partial[base + k].x - origin); }
  let shift = rowSum(lane, sum);
  var between = 0.0;
  var within = 0.0;
  for (var k = first; k < params.chunks; k += W) {
    let d = partial[base + k].x - origin - shift;
    between += share(k) * (d * d);
    within += partial[base + k].y;
  }
  let variance = rowSum(lane, between + within / f32(params.cols));
  if (inside && first == 0) { stats[unit] = vec2f(origin + shift, variance); }`,
)}`,
);

/** y of known statistics, one for each row. A thread has K vectors, 256 apart. */
const applyKernel = variants((S: Element, Y: Element, P: FloatType, L: Lanes, K: number) =>
  kernel<string>(
    "groupNorm.apply",
    /* wgsl */ `
const K = ${K}u;
${lanes[L]}

${head}
${affine(P, L)}
@group(0) @binding(3) var<storage, read> s: array<${S}>;
@group(0) @binding(4) var<storage, read> stats: array<vec2f>;
@group(0) @binding(5) var<storage, read_write> y: array<${Y}>;
${main(/* wgsl */ `
  let size = params.rows * params.vectors;
  let first = group * 256 * K + lane;
  var held: array<F, K>;
  for (var k = 0u; k < K; k++) { held[k] = F(s[min(first + k * 256, size - 1)]); }
  for (var k = 0u; k < K; k++) {
    let i = first + k * 256;
    if (i < size) {
      let row = i / params.vectors;
      let known = stats[row];
      y[i] = ${Y}(affine(row, i % params.vectors, (held[k] - known.x) * inverseSqrt(known.y + params.eps)));
    }
  }`)}`,
  ),
);

// Kernels: backward -----------------------------------------------------------------------------

/** What they read. */
const gradients = (S: Element, Y: Element): string => /* wgsl */ `
@group(0) @binding(2) var<storage, read> s: array<${S}>;
@group(0) @binding(3) var<storage, read> dy: array<${Y}>;
@group(0) @binding(4) var<storage, read> dsum: array<${S}>;
@group(0) @binding(5) var<storage, read> stats: array<vec2f>;`;

/**
 * For each sample and channel (Σ dy, Σ dy · ŝ), by W threads with K vectors of s and dy each. Where a workgroup holds
 * whole rows it makes ds too, s and dy being read once: a row's two means are its channels' sums, weighted. Else it takes
 * chunks of channels, and another two kernels make ds.
 */
const gradKernel = variants((S: Element, Y: Element, P: FloatType, L: Lanes, K: number, whole: boolean) => {
  const sums = /* wgsl */ `
  let known = stats[row];
  let rstd = inverseSqrt(known.y + params.eps);
  var shat: array<F, K>;
  var g: array<F, K>;
  for (var k = 0u; k < K; k++) {
    let i = base + min(first + k * W, size - 1);
    shat[k] = F(s[i]);
    g[k] = F(dy[i]);
  }
  var sum = F();
  var product = F();
  for (var k = 0u; k < K; k++) {
    shat[k] = (shat[k] - known.x) * rstd;
    sum += select(F(), g[k], first + k * W < size);
    product += select(F(), g[k] * shat[k], first + k * W < size);
  }
  let found = rowSum(lane, vec2f(total(sum), total(product)));
  if (inside && first == 0) { partial[unit] = found; }`;
  return kernel<string>(
    "groupNorm.grad",
    /* wgsl */ `
const K = ${K}u;
${lanes[L]}
${rowSum("vec2f")}
${gradients(S, Y)}
@group(0) @binding(7) var<storage, read_write> partial: array<vec2f>;
${
  whole
    ? /* wgsl */ `
@group(0) @binding(1) var<storage, read> weight: array<${P}>;
@group(0) @binding(6) var<storage, read_write> ds: array<${S}>;

var<workgroup> weighted: array<vec2f, 64>;
${main(/* wgsl */ `
  let slot = lane / W;
  let each = 256 / (W * params.depth);
  let own = group * each + slot / params.depth;
  let inside = slot < each * params.depth && own < params.rows;
  let row = min(own, params.rows - 1);
  let unit = row * params.depth + slot % params.depth;
  let first = lane % W;
  let size = params.vectors;
  let base = unit * size;
${sums}
  var w = 1.0;
  if ((params.affine & 1) != 0) { w = f32(weight[unit % params.channels]); }
  if (first == 0) { weighted[slot] = w * found; }
  workgroupBarrier();
  if (!inside) { return; }

  var means = vec2f();
  let head = slot / params.depth * params.depth;
  for (var c = 0u; c < params.depth; c++) { means += weighted[head + c]; }
  means /= f32(params.cols);
  for (var k = 0u; k < K; k++) { g[k] = rstd * (w * g[k] - means.x - shat[k] * means.y); }
  if (params.summed != 0) {
    for (var k = 0u; k < K; k++) { g[k] += F(dsum[base + min(first + k * W, size - 1)]); }
  }
  for (var k = 0u; k < K; k++) {
    if (first + k * W < size) { ds[base + first + k * W] = ${S}(g[k]); }
  }`)}`
    : unitMain(
        "params.rows * params.depth * params.chunks",
        /* wgsl */ `
  let channel = unit / params.chunks;
  let row = channel / params.depth;
  let start = unit % params.chunks * params.chunk;
  let base = channel * params.vectors + start;
  let size = min(params.chunk, params.vectors - start);
${sums}`,
      )
}`,
  );
});

/** And from these sums mean(g) and mean(g · ŝ) of a row. */
const meansKernel = variants((P: FloatType) =>
  kernel<string>(
    "groupNorm.means",
    /* wgsl */ `
${rowSum("vec2f")}
@group(0) @binding(1) var<storage, read> weight: array<${P}>;
@group(0) @binding(2) var<storage, read> partial: array<vec2f>;
@group(0) @binding(3) var<storage, read_write> means: array<vec2f>;
${unitMain(
  "params.rows",
  /* wgsl */ `
  let terms = params.depth * params.chunks;
  var sum = vec2f();
  for (var t = first; t < terms; t += W) {
    var w = 1.0;
    if ((params.affine & 1) != 0) { w = f32(weight[unit % params.groups * params.depth + t / params.chunks]); }
    sum += w * partial[unit * terms + t];
  }
  let result = rowSum(lane, sum) / f32(params.cols);
  if (inside && first == 0) { means[unit] = result; }`,
)}`,
  ),
);

/** And ds of these means. A thread has K vectors, 256 apart. With `fixed` statistics no gradient flows through them. */
const inputGradKernel = variants((S: Element, Y: Element, P: FloatType, L: Lanes, K: number) =>
  kernel<string>(
    "groupNorm.inputGrad",
    /* wgsl */ `
const K = ${K}u;
${lanes[L]}

${head}
${perChannel("weight", 1, P, L)}
${gradients(S, Y)}
@group(0) @binding(6) var<storage, read> means: array<vec2f>;
@group(0) @binding(7) var<storage, read_write> ds: array<${S}>;
${main(/* wgsl */ `
  let size = params.rows * params.vectors;
  let first = group * 256 * K + lane;
  var held: array<F, K>;
  var g: array<F, K>;
  for (var k = 0u; k < K; k++) {
    let i = min(first + k * 256, size - 1);
    g[k] = F(dy[i]);
    if (params.fixed == 0) { held[k] = F(s[i]); }
  }
  for (var k = 0u; k < K; k++) {
    let i = first + k * 256;
    if (i < size) {
      let row = i / params.vectors;
      let known = stats[row];
      let rstd = inverseSqrt(known.y + params.eps);
      var d = g[k];
      if ((params.affine & 1) != 0) { d *= weightAt(row, i % params.vectors); }
      if (params.fixed == 0) { d -= means[row].x + (held[k] - known.x) * (rstd * means[row].y); }
      d *= rstd;
      if (params.summed != 0) { d += F(dsum[i]); }
      ds[i] = ${S}(d);
    }
  }`)}`,
  ),
);

/** dw and db of a channel: its sums of all samples and chunks, in a fixed order. */
const weightGradKernel = variants((P: FloatType) =>
  kernel<string>(
    "groupNorm.weightGrad",
    /* wgsl */ `
${rowSum("vec2f")}
@group(0) @binding(1) var<storage, read> partial: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> dw: array<${P}>;
@group(0) @binding(3) var<storage, read_write> db: array<${P}>;
${unitMain(
  "params.channels",
  /* wgsl */ `
  let terms = params.rows / params.groups * params.chunks;
  var sum = vec2f();
  for (var t = first; t < terms; t += W) {
    sum += partial[(t / params.chunks * params.channels + unit) * params.chunks + t % params.chunks];
  }
  let result = rowSum(lane, sum);
  if (inside && first == 0) {
    db[unit] = ${P}(result.x);
    dw[unit] = ${P}(result.y);
  }`,
)}`,
  ),
);

// Kernels: running statistics -------------------------------------------------------------------

/**
 * Moves running statistics towards the mean over the batch of each sample's; the variance is the unbiased one. With `repeat`
 * the other way round: writes them as the statistics of each sample.
 */
const runningKernel = variants((R: FloatType, repeat: boolean) =>
  kernel<string>(
    "instanceNorm.running",
    /* wgsl */ `
${head}
@group(0) @binding(1) var<storage, ${repeat ? "read_write" : "read"}> stats: array<vec2f>;
@group(0) @binding(2) var<storage, ${repeat ? "read" : "read_write"}> runningMean: array<${R}>;
@group(0) @binding(3) var<storage, ${repeat ? "read" : "read_write"}> runningVar: array<${R}>;
${main(/* wgsl */ `
  let c = group * 256 + lane;
  if (c >= params.channels) { return; }
  var v = vec2f(f32(runningMean[c]), f32(runningVar[c]));
  var sum = vec2f();
  for (var row = c; row < params.rows; row += params.channels) { ${repeat ? "stats[row] = v" : "sum += stats[row]"}; }
${
  repeat
    ? ""
    : /* wgsl */ `
  sum /= f32(params.rows / params.channels);
  sum.y *= f32(params.space) / f32(params.space - 1);
  v = mix(v, sum, params.momentum);
  runningMean[c] = ${R}(v.x);
  runningVar[c] = ${R}(v.y);`
}`)}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

/**
 * The most vectors that a thread keeps, and how many threads a sum may have. A software GPU compiles for seconds, unrolled
 * loops above all: it gets one vector and one number of threads.
 */
const limitsOf = ({ software }: Device) =>
  software ? { held: 1, least: 32, widest: 32 } : { held: 8, least: 4, widest: 256 };

type Limits = ReturnType<typeof limitsOf>;

/** Threads that share `n` loads with at most `most` for each, where as many are allowed. */
function threadsFor(n: number, most: number, { least, widest }: Pick<Limits, "least" | "widest">): number {
  let W = least;
  while (W < widest && W * most < n) W *= 2;
  return W;
}

/** Chunks of the same size, the W threads for one, and the K vectors that each of them keeps. */
function chunksOf(vectors: number, limits: Limits) {
  const { held, widest } = limits;
  const chunk = Math.ceil(vectors / Math.ceil(vectors / (held * widest)));
  const W = threadsFor(chunk, Math.ceil(held / 2), limits);
  return { chunk, chunks: Math.ceil(vectors / chunk), W, K: Math.ceil(chunk / W) };
}

/** What a thread loads of `n` elements that lie together, and how many of it they are. */
const vectorsOf = (n: number): { L: Lanes; vectors: number } =>
  n % 4 === 0 ? { L: "vec4", vectors: n / 4 } : { L: "scalar", vectors: n };

function layoutOf(x: Tensor, groups: number) {
  const [batch, channels] = x.shape as [number, number];
  const rows = batch * groups;
  const depth = channels / groups;
  const cols = x.size / rows;
  const space = cols / depth;
  const { L, vectors } = vectorsOf(cols);
  const unset = { chunk: vectors, chunks: 1, affine: 0, summed: 0, fixed: 0, eps: 0, momentum: 0 };
  return { L, params: { rows, cols, vectors, groups, depth, space, channels, ...unset } };
}

const elementOf = ({ dtype }: Tensor, L: Lanes): Element =>
  L === "vec4" ? `vec4<${dtype as FloatType}>` : (dtype as FloatType);

/** Workgroups for `n` sums of W threads each, and the constant that says so. */
const sumsOf = (n: number, W: number) => ({ workgroups: grid(Math.ceil((n * W) / 256)), constants: { W } });

/** Vectors of a thread of an elementwise kernel, and the workgroups. */
function spread(x: Tensor, size: number) {
  const K = x.device.software ? 1 : 4;
  return { K, launch: { workgroups: threads(Math.ceil(size / K)) } };
}

interface ForwardOptions {
  weight: Tensor | null;
  bias: Tensor | null;
  eps: number;
  residual: Tensor | null;
  /** Of y; default that of the sum. */
  dtype: FloatType | null;
  /** (mean, variance) of each row, where they are known: no gradient flows through them. */
  known: Tensor | null;
}

/** `stats` are (mean, variance) of each row, f32. */
export function groupNormForward(
  x: Tensor,
  groups: number,
  { weight, bias, eps, residual, dtype, known }: ForwardOptions,
): { y: Tensor; sum: Tensor; stats: Tensor } {
  const { L, params: shape } = layoutOf(x, groups);
  const { rows, vectors } = shape;
  const { device } = x;
  const limits = limitsOf(device);
  const sum = residual ? emptyLike(x, { dtype: x.dtype === residual.dtype ? x.dtype : "f32" }) : x;
  const y = emptyLike(x, { dtype: dtype ?? sum.dtype });
  const stats = known ?? empty([rows, 2], { device });
  const bound = weight ?? bias ?? x; // a binding that the flags say not to read
  const P = bound.dtype as FloatType;
  const [X, S, Y] = [elementOf(x, L), elementOf(sum, L), elementOf(y, L)];
  const operands = { x, weight: bound, bias: bias ?? bound, y, residual: residual ?? x, sum };

  const { chunk, chunks, W, K: held } = chunksOf(vectors, limits);
  const params = { ...shape, chunk, chunks, eps, affine: (weight ? 1 : 0) + (bias ? 2 : 0) };
  if (!known) {
    const R = residual ? elementOf(residual, L) : "none";
    const whole = chunks === 1;
    const found = whole ? stats : empty([rows, chunks, 2], { device });
    forwardKernel(X, R, S, whole ? Y : "chunk", P, L, held).run(
      { params, ...operands, stats: found },
      sumsOf(rows * chunks, W),
    );
    if (whole) return { y, sum, stats };
    mergeKernel.run({ params, partial: found, stats }, sumsOf(rows, threadsFor(chunks, 4, limits)));
    found.dispose();
  }
  const { K, launch } = spread(x, rows * vectors);
  applyKernel(S, Y, P, L, K).run({ params, ...operands, s: sum, stats }, launch);
  return { y, sum, stats };
}

interface GradOptions extends Pick<ForwardOptions, "weight" | "bias" | "eps" | "known"> {
  stats: Tensor;
  dsum: Tensor | null;
  /** Whether ds is wanted. */
  wantsInput: boolean;
}

/** ds, and dw and db in the dtype of the parameters. `s` is what was normalized. */
export function groupNormGrad(
  dy: Tensor,
  s: Tensor,
  groups: number,
  { weight, bias, eps, known, stats, dsum, wantsInput }: GradOptions,
): { ds: Tensor | null; dw: Tensor | null; db: Tensor | null } {
  const { L: rowLanes, params: shape } = layoutOf(s, groups);
  const { rows, depth, space, channels } = shape;
  const { device } = s;
  const limits = limitsOf(device);
  const { held, widest } = limits;
  const ds = wantsInput ? emptyLike(s) : null;
  const like = needsGrad(weight) ? weight : needsGrad(bias) ? bias : null;
  const bound = weight ?? s;
  const P = bound.dtype as FloatType;
  const params = { ...shape, eps, affine: weight ? 1 : 0, summed: dsum ? 1 : 0, fixed: known ? 1 : 0 };
  const operands = { s, dy, dsum: dsum ?? s, weight: bound, stats };
  const units = rows * depth;

  // Within a channel.
  const { L, vectors } = vectorsOf(space);
  const [S, Y] = [elementOf(s, L), elementOf(dy, L)];
  const widestInRow = 2 ** Math.floor(Math.log2(widest / depth));
  const heldW = threadsFor(vectors, held / 2, { least: 4, widest: widestInRow });
  const fits = !device.software && heldW <= widestInRow && vectors <= held * heldW;

  let chunks = 1;
  let partial: Tensor | null = null;
  if (ds && fits && !known) {
    partial = empty([units, 2], { device });
    const each = Math.floor(256 / (heldW * depth));
    gradKernel(S, Y, P, L, Math.ceil(vectors / heldW), true).run(
      { params: { ...params, vectors }, ...operands, ds, partial },
      { workgroups: grid(Math.ceil(rows / each)), constants: { W: heldW } },
    );
  } else {
    if (like || !known) {
      const { W, K, ...split } = chunksOf(vectors, limits);
      chunks = split.chunks;
      partial = empty([units, chunks, 2], { device });
      gradKernel(S, Y, P, L, K, false).run(
        { params: { ...params, ...split, vectors }, ...operands, partial },
        sumsOf(units * chunks, W),
      );
    }
    if (ds) {
      const means = known ?? empty([rows, 2], { device });
      if (!known) {
        const W = threadsFor(depth * chunks, 4, limits);
        meansKernel(P).run({ params: { ...params, chunks }, weight: bound, partial: partial!, means }, sumsOf(rows, W));
      }
      const { K, launch } = spread(s, rows * params.vectors);
      inputGradKernel(elementOf(s, rowLanes), elementOf(dy, rowLanes), P, rowLanes, K).run(
        { params, ...operands, means, ds },
        launch,
      );
      if (!known) means.dispose();
    }
  }
  let dw: Tensor | null = null;
  let db: Tensor | null = null;
  if (like) {
    [dw, db] = [emptyLike(like), emptyLike(like)];
    weightGradKernel(like.dtype as FloatType).run(
      { params: { ...params, chunks }, partial: partial!, dw, db },
      sumsOf(channels, threadsFor((units / channels) * chunks, 4, limits)),
    );
  }
  partial?.dispose();
  return { ds, dw, db };
}

// Differentiable functions ----------------------------------------------------------------------

/** The norm and the sum, on the tape; and the statistics. */
function normalize(x: Tensor, groups: number, options: ForwardOptions): NormAndSum & { stats: Tensor } {
  const { weight, bias, residual } = options;
  const { y, sum, stats } = groupNormForward(x, groups, options);
  const inputs = [x, residual ?? stats, weight ?? stats, bias ?? stats] as const;
  type Grads = [Tensor | null, Tensor | null, Tensor | null, Tensor | null];
  const backward = (dy: Tensor | null, dsum: Tensor | null): Grads => {
    const wantsInput = needsGrad(x) || needsGrad(residual);
    const { ds, dw, db } = dy
      ? groupNormGrad(dy, sum, groups, { ...options, stats, dsum, wantsInput })
      : { ds: dsum, dw: null, db: null };
    const dx = needsGrad(x) ? cast(ds!, x.dtype) : null;
    const dr = needsGrad(residual) ? cast(ds!, residual.dtype) : null;
    if (dy && ds !== dx && ds !== dr) ds?.dispose();
    return [dx, dr, dw, db];
  };
  if (residual) record([y, sum], inputs, ([dy, dsum]) => backward(dy, dsum));
  else record(y, inputs, (dy) => backward(dy, null));
  return { output: y, sum, stats };
}

export interface GroupNormOptions {
  /** [channels] */
  weight?: Tensor | null;
  /** [channels] */
  bias?: Tensor | null;
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Of x's shape: added to x before the norm; the sum is returned too. */
  residual?: Tensor | null;
}

/** A normalized sum, and the sum itself, which the next residual connection adds to. */
export interface NormAndSum {
  output: Tensor;
  sum: Tensor;
}

/**
 * Normalizes each of `numGroups` groups of neighbouring channels of `x`, [batch, channels, ...], and scales each channel. y
 * has the dtype of x, but under autocast f32, as in PyTorch. Matches torch.nn.functional.group_norm.
 *
 * With `residual`, { output, sum }: sum = x + residual, in their dtype (f16 with f32 gives f32), and output is its norm.
 */
export function groupNorm(x: Tensor, numGroups: number, options: GroupNormOptions & { residual: Tensor }): NormAndSum;
export function groupNorm(x: Tensor, numGroups: number, options?: GroupNormOptions & { residual?: null }): Tensor;
export function groupNorm(
  x: Tensor,
  numGroups: number,
  { weight = null, bias = null, eps = 1e-5, residual = null }: GroupNormOptions = {},
): Tensor | NormAndSum {
  check("groupNorm", x, { weight, bias });
  checkGroups(`groupNorm: x has shape [${x.shape}]`, x.shape[1]!, numGroups);
  if (residual) checkFloat("groupNorm", "residual", residual);
  if (residual && residual.shape.join() !== x.shape.join())
    throw new Error(`groupNorm: residual has shape [${residual.shape}], expected [${x.shape}]`);
  if (x.size === numGroups)
    throw new Error(`groupNorm: x has shape [${x.shape}], expected more than 1 value per group`);
  const other = delegated<Tensor & NormAndSum>("groupNorm", { x, weight, bias, residual }, { numGroups, eps });
  if (other) return other;
  const dtype = autocastType() && "f32";
  const { output, sum } = normalize(x, numGroups, { weight, bias, eps, residual, dtype, known: null });
  return residual ? { output, sum } : output;
}

export interface InstanceNormOptions {
  /** [channels]. With `useInputStats` moved towards the mean of the samples' means; else x is normalized by it. */
  runningMean?: Tensor | null;
  /** [channels]. Likewise, of the variances (the unbiased ones). */
  runningVar?: Tensor | null;
  /** [channels] */
  weight?: Tensor | null;
  /** [channels] */
  bias?: Tensor | null;
  /** Normalize by the statistics of x; else by the running ones. Default true. */
  useInputStats?: boolean;
  /** How far running statistics move. Default 0.1. */
  momentum?: number;
  /** Added to the variance. Default 1e-5. */
  eps?: number;
}

/**
 * Normalizes each channel of each sample of `x`, [batch, channels, ...], and scales it. y has the dtype of x, under autocast
 * too, as in PyTorch. Matches torch.nn.functional.instance_norm.
 */
export function instanceNorm(
  x: Tensor,
  {
    runningMean = null,
    runningVar = null,
    weight = null,
    bias = null,
    useInputStats = true,
    momentum = 0.1,
    eps = 1e-5,
  }: InstanceNormOptions = {},
): Tensor {
  check("instanceNorm", x, { weight, bias, runningMean, runningVar });
  if (!(runningMean && runningVar) && (runningMean || runningVar || !useInputStats))
    throw new Error("instanceNorm: runningMean or runningVar is missing, expected both, or none with useInputStats");
  checkSame("instanceNorm", "runningMean", "runningVar", { runningMean, runningVar });
  const groups = x.shape[1]!;
  const { params } = layoutOf(x, groups);
  if (useInputStats && params.space === 1)
    throw new Error(`instanceNorm: x has shape [${x.shape}], expected more than 1 value per channel`);
  const other = delegated<Tensor>(
    "instanceNorm",
    { x, weight, bias, runningMean, runningVar },
    { useInputStats, momentum, eps },
  );
  if (other) return other;
  const running = (stats: Tensor): void => {
    if (!runningMean || !runningVar) return;
    runningKernel(runningMean.dtype as FloatType, !useInputStats).run(
      { params: { ...params, momentum }, stats, runningMean, runningVar },
      { workgroups: threads(groups) },
    );
  };
  const known = useInputStats ? null : empty([params.rows, 2], { device: x.device });
  if (known) running(known);
  const { output, stats } = normalize(x, groups, { weight, bias, eps, residual: null, dtype: null, known });
  if (!known) running(stats);
  return output;
}

function checkGroups(given: string, channels: number, numGroups: number): void {
  if (!(Number.isInteger(numGroups) && numGroups > 0 && channels % numGroups === 0))
    throw new Error(`${given}, expected channels divisible by numGroups ${numGroups}`);
}

function checkFloat(fn: string, name: string, { dtype }: Tensor): void {
  if (dtype !== "f32" && dtype !== "f16") throw new Error(`${fn}: ${name} is ${dtype}, expected f32 or f16`);
}

function checkSame(fn: string, a: string, b: string, { [a]: s, [b]: t }: Record<string, Tensor | null>): void {
  if (s && t && s.dtype !== t.dtype)
    throw new Error(`${fn}: ${a} is ${s.dtype} and ${b} ${t.dtype}, expected one dtype`);
}

/** x, and tensors of one element for each of its channels. */
function check(fn: string, x: Tensor, perChannel: Record<string, Tensor | null>): void {
  checkFloat(fn, "x", x);
  if (x.shape.length < 2) throw new Error(`${fn}: x has shape [${x.shape}], expected [batch, channels, ...]`);
  const channels = x.shape[1]!;
  for (const [name, t] of Object.entries(perChannel)) {
    if (!t) continue;
    checkFloat(fn, name, t);
    if (t.shape.join() !== `${channels}`)
      throw new Error(`${fn}: ${name} has shape [${t.shape}], expected [${channels}]`);
  }
  checkSame(fn, "weight", "bias", perChannel);
}

// Modules ---------------------------------------------------------------------------------------

export interface GroupNormModuleOptions {
  eps?: number;
  /** Learn a weight, which starts at one, and a bias, which starts at zero. Default true. */
  affine?: boolean;
  /** Without it only the weight is learned. Default true. */
  bias?: boolean;
  device?: Device;
}

/** `groupNorm` with learned weight and bias. Matches `torch.nn.GroupNorm(numGroups, numChannels, …)`. */
export class GroupNorm extends Module {
  readonly numGroups: number;
  readonly numChannels: number;
  readonly eps: number;
  readonly weight: Tensor | null;
  readonly bias: Tensor | null;

  constructor(
    numGroups: number,
    numChannels: number,
    { eps = 1e-5, affine = true, bias = true, device }: GroupNormModuleOptions = {},
  ) {
    super();
    checkGroups(`GroupNorm: numChannels is ${numChannels}`, numChannels, numGroups);
    this.numGroups = numGroups;
    this.numChannels = numChannels;
    this.eps = eps;
    this.weight = affine ? parameter(ones([numChannels], { device })) : null;
    this.bias = affine && bias ? parameter(zeros([numChannels], { device })) : null;
  }

  /** x: [N, numChannels, ...]; a residual has its shape, and makes the result { output, sum }. */
  forward(x: Tensor): Tensor;
  forward(x: Tensor, residual: Tensor): NormAndSum;
  forward(x: Tensor, residual?: Tensor): Tensor | NormAndSum {
    return groupNorm(x, this.numGroups, { ...this, residual: residual! });
  }

  protected override extraRepr(): string {
    const { numGroups, numChannels, eps, weight } = this;
    return `${numGroups}, ${numChannels}, eps=${eps}, affine=${weight !== null}`;
  }
}

export interface InstanceNormModuleOptions {
  eps?: number;
  /** How far running statistics move; with null they stay, as in PyTorch. Default 0.1. */
  momentum?: number | null;
  /** Learn a weight, which starts at one, and a bias, which starts at zero. Default false. */
  affine?: boolean;
  /** Without it only the weight is learned. Default true. */
  bias?: boolean;
  /** Keep running statistics, by which x is normalized after `eval()`. Default false. */
  trackRunningStats?: boolean;
  device?: Device;
}

/** What InstanceNorm1d and 2d share: `instanceNorm` with parameters and running statistics. */
export abstract class InstanceNorm extends Module {
  readonly numFeatures: number;
  readonly eps: number;
  readonly momentum: number | null;
  readonly weight: Tensor | null;
  readonly bias: Tensor | null;
  readonly running_mean: Tensor | null;
  readonly running_var: Tensor | null;
  /** i32; stays zero, as in PyTorch. */
  readonly num_batches_tracked: Tensor | null;

  constructor(
    numFeatures: number,
    {
      eps = 1e-5,
      momentum = 0.1,
      affine = false,
      bias = true,
      trackRunningStats = false,
      device,
    }: InstanceNormModuleOptions = {},
  ) {
    super();
    this.numFeatures = numFeatures;
    this.eps = eps;
    this.momentum = momentum;
    const shape = [numFeatures];
    this.weight = affine ? parameter(ones(shape, { device })) : null;
    this.bias = affine && bias ? parameter(zeros(shape, { device })) : null;
    this.running_mean = trackRunningStats ? buffer(zeros(shape, { device })) : null;
    this.running_var = trackRunningStats ? buffer(ones(shape, { device })) : null;
    this.num_batches_tracked = trackRunningStats ? buffer(zeros([], { dtype: "i32", device })) : null;
  }

  /** The axes of one sample. */
  protected abstract readonly layout: readonly string[];

  forward(x: Tensor): Tensor {
    const { layout } = this;
    const batched = x.shape.length - layout.length;
    if (batched !== 0 && batched !== 1) {
      const sample = layout.join(", ");
      throw new Error(`${this.constructor.name}: x has shape [${x.shape}], expected [${sample}] or [N, ${sample}]`);
    }
    const y = instanceNorm(batched ? x : x.reshape([1, ...x.shape]), {
      ...this,
      momentum: this.momentum ?? 0,
      useInputStats: this.training || !this.running_mean,
      runningMean: this.running_mean,
      runningVar: this.running_var,
    });
    return batched ? y : y.reshape(x.shape);
  }

  /** Mean 0 and variance 1: as at the start. */
  resetRunningStats(): void {
    for (const b of this.buffers()) fill(b, b === this.running_var ? 1 : 0);
  }

  protected override extraRepr(): string {
    const { numFeatures, eps, momentum, weight, running_mean: mean } = this;
    return `${numFeatures}, eps=${eps}, momentum=${momentum}, affine=${weight !== null}, trackRunningStats=${mean !== null}`;
  }
}

/** `instanceNorm` of [C, L] or [N, C, L]. Matches `torch.nn.InstanceNorm1d(numFeatures, …)`. */
export class InstanceNorm1d extends InstanceNorm {
  protected override readonly layout: readonly string[] = ["C", "L"];
}

/** `instanceNorm` of [C, H, W] or [N, C, H, W]. Matches `torch.nn.InstanceNorm2d(numFeatures, …)`. */
export class InstanceNorm2d extends InstanceNorm {
  protected override readonly layout: readonly string[] = ["C", "H", "W"];
}
