/**
 * BatchNorm: each channel normalized over batch and space (Ioffe & Szegedy 2015, arXiv:1502.03167), with a residual and an
 * activation in the same pass. Matches torch.nn.BatchNorm1d, 2d and 3d.
 *
 *   y  = f(z)        z = x̂ · w + b + r           x̂ = (x − mean) · rstd,  rstd = 1 / sqrt(var + eps), var biased
 *   dr = f′(z) · dy
 *   dx = w · rstd · (dr − mean(dr) − x̂ · mean(dr · x̂))       with running statistics: w · rstd · dr
 *   dw = Σ dr · x̂                                db = Σ dr
 *
 * x is read as (batch, channels, space), row-major: space is the product of all axes after the second. Statistics are
 * f32 for any dtype, merged from chunks by Chan's formula, so a large mean costs no precision. z is never stored: the
 * backward makes it again from x and r, which it reads anyway. Inputs that an activation has beside z are read with x,
 * and their gradients are made in the pass that sums over channels.
 * Order of this file: kernels, launchers, differentiable function, modules.
 */
import {
  buffer,
  cast,
  checkPointwise,
  type Device,
  delegated,
  empty,
  emptyLike,
  type FloatType,
  fill,
  grid,
  type InputGrads,
  type Inputs,
  inputGrads,
  inputsOf,
  kernel,
  Module,
  needsGrad,
  ones,
  type Pointwise,
  parameter,
  record,
  type Tensor,
  variants,
  zeros,
} from "@kindling/core";

// Kernels: what they share ----------------------------------------------------------------------

type Element = "vec4<f32>" | "vec4<f16>" | "f32" | "f16";

const isVec4 = (V: Element): boolean => V.length > 3;

/** An input that a kernel may do without: `nameAt(i)`, of the kernel's type F, is then zero. */
const input = (binding: number, name: string, V: Element, given: boolean): string =>
  given
    ? `@group(0) @binding(${binding}) var<storage, read> ${name}: array<${V}>;
fn ${name}At(i: u32) -> F { return F(${name}[i]); }`
    : `fn ${name}At(i: u32) -> F { return F(); }`;

/** An output that a kernel may do without. */
const output = (binding: number, name: string, V: Element, given: boolean): string =>
  given
    ? `@group(0) @binding(${binding}) var<storage, read_write> ${name}: array<${V}>;
fn ${name}Put(i: u32, v: F) { ${name}[i] = ${V}(v); }`
    : `fn ${name}Put(i: u32, v: F) {}`;

/** What the gradient before the activation is made from: dy is that gradient; or x, or x and the residual, give z. */
type From = "dy" | "x" | "residual";

/** What the inputs of an activation add to a kernel: fields of its params, and text. Both are empty without any. */
type Texts = readonly [fields: string, source: string];

const textsOf = (inputs: Inputs | InputGrads | null): Texts =>
  inputs ? [inputs.text.fields, inputs.text.source] : ["", ""];

const more = (fields: string): string => fields && `, ${fields}`;

/** `gradient(i, z, d)`: at element, or vec4, i. */
const gradient = ({ name, forward, backward }: Pointwise, from: From, V: Element, inputs: string): string => {
  if (from === "dy") return "fn gradient(i: u32, z: F, d: F) -> F { return d; }";
  if (inputs) return `${inputs}\nfn gradient(i: u32, z: F, d: F) -> F { return inputGrads(i, z, d); }`;
  const values = isVec4(V) ? [..."xyzw"].map((c) => `${name}Grad(z.${c}, d.${c})`) : `${name}Grad(z, d)`;
  return `${forward}\n${backward}\nfn gradient(i: u32, z: F, d: F) -> F { return F(${values}); }`;
};

// Kernels: sums over a channel ------------------------------------------------------------------

/**
 * A workgroup of 256 threads reduces W units, a unit being a chunk of one channel: `reduce` joins the values of the threads
 * lane, lane + W, lane + 2 W … of which the first W receive the results. With W = 256 a thread is alone with its unit.
 */
const reduce = (A: "vec2f" | "vec3f", W: number): string =>
  W === 256
    ? `fn reduce(lane: u32, v: ${A}) -> ${A} { return v; }`
    : /* wgsl */ `
var<workgroup> parts: array<${A}, 256>;

fn reduce(lane: u32, v: ${A}) -> ${A} {
  parts[lane] = v;
  for (var half = 128u; half >= ${W}; half /= 2) {
    workgroupBarrier();
    if (lane < half) { parts[lane] = join(parts[lane], parts[lane + half]); }
  }
  return parts[lane];
}`;

/** (count, mean, sum of squared deviations) of a union from those of its parts: Chan et al. 1983. */
const joinMoments = /* wgsl */ `
fn join(a: vec3f, b: vec3f) -> vec3f {
  let n = a.x + b.x;
  let d = b.y - a.y;
  let w = b.x / max(n, 1.0);
  return vec3f(n, a.y + d * w, a.z + b.z + d * (a.x * w) * d);
}`;

const joinSums = "fn join(a: vec2f, b: vec2f) -> vec2f { return a + b; }";

/**
 * The walk of a thread through its unit, elements `first`, first + 256 / W … before `end`: `next()` is the index of the
 * present one, and steps on without a division. Unit number u is chunk u / channels of channel u % channels, so that
 * workgroups that run together read neighbouring memory, and so do the threads of one where W > 1.
 */
const walk = (W: number, fields = ""): string => /* wgsl */ `
struct Params { channels: u32, plane: u32, count: u32, chunk: u32, stride: u32, turn: u32${more(fields)} }

@group(0) @binding(0) var<uniform> params: Params;

var<private> unit: u32;
var<private> first: u32;
var<private> end: u32;
var<private> at: u32;
var<private> column: u32;

fn enter(group: u32, lane: u32) {
  unit = group * ${W} + lane % ${W};
  let start = unit / params.channels * params.chunk;
  first = start + lane / ${W};
  end = min(start + params.chunk, params.count);
  column = first % params.plane;
  at = (first / params.plane * params.channels + unit % params.channels) * params.plane + column;
}

fn next() -> u32 {
  let i = at;
  at += params.stride;
  column += params.turn;
  if (column >= params.plane) {
    column -= params.plane;
    at += (params.channels - 1) * params.plane;
  }
  return i;
}`;

/** F is what a load gives, `total` the sum of its lanes, `moments` joins those of its lanes, of n elements each. */
const lanes = (V: Element): string =>
  isVec4(V)
    ? /* wgsl */ `
alias F = vec4f;
fn total(v: F) -> f32 { return dot(v, vec4f(1)); }
fn moments(n: f32, mean: F, squares: F) -> vec3f {
  let middle = mean.x + dot(mean - mean.x, vec4f(0.25));
  let d = mean - middle;
  return vec3f(4 * n, middle, total(squares + n * d * d));
}`
    : /* wgsl */ `
alias F = f32;
fn total(v: F) -> f32 { return v; }
fn moments(n: f32, mean: F, squares: F) -> vec3f { return vec3f(n, mean, squares); }`;

/**
 * (mean, sum of squared deviations) of each unit. A thread sums deviations from its first element, which is as exact as a
 * second pass: that element's own deviation is among the squares. Four loads are under way at a time.
 */
const momentsKernel = variants((V: Element, W: number, counted: boolean) =>
  kernel<string>(
    "batchNorm.moments",
    /* wgsl */ `
${walk(W)}
${joinMoments}
${reduce("vec3f", W)}
${lanes(V)}

@group(0) @binding(1) var<storage, read> x: array<${V}>;
@group(0) @binding(2) var<storage, read_write> partial: array<vec2f>;
${counted ? "@group(0) @binding(3) var<storage, read_write> tracked: array<i32>;" : ""}

var<private> origin: F;
var<private> sum: F;
var<private> squares: F;

fn take(v: F, inside: bool) {
  if (inside) {
    let d = v - origin;
    sum += d;
    squares += d * d;
  }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  const T = ${256 / W}u;
  enter(wg.x + wg.y * groups.x, lane);
  origin = F(x[at]);
  for (var j = first; j < end; j += 4 * T) {
    let a = F(x[next()]);
    let b = F(x[next()]);
    let c = F(x[next()]);
    let d = F(x[next()]);
    take(a, true);
    take(b, j + T < end);
    take(c, j + 2 * T < end);
    take(d, j + 3 * T < end);
  }
  var found = vec3f();
  if (first < end) {
    let n = f32((end - first + T - 1) / T);
    found = moments(n, origin + sum / n, squares - sum * (sum / n));
  }
  found = reduce(lane, found);
  if (lane < ${W} && first < params.count) { partial[unit] = found.yz; }
  ${counted ? "if (wg.x + wg.y + lane == 0) { tracked[0]++; }" : ""}
}`,
  ),
);

type Running = "none" | "momentum" | "cumulative";

/** How far running statistics move towards the batch's. Their variance is the unbiased one. */
const factors = { momentum: "params.momentum", cumulative: "1.0 / f32(tracked[0])" } as const;

const update = (R: FloatType, running: Running): string =>
  running === "none"
    ? "fn update(c: u32, mean: f32, variance: f32) {}"
    : /* wgsl */ `
@group(0) @binding(5) var<storage, read_write> runningMean: array<${R}>;
@group(0) @binding(6) var<storage, read_write> runningVar: array<${R}>;
${running === "cumulative" ? "@group(0) @binding(7) var<storage, read> tracked: array<i32>;" : ""}

fn update(c: u32, mean: f32, variance: f32) {
  let factor = ${factors[running]};
  runningMean[c] = ${R}(mix(f32(runningMean[c]), mean, factor));
  runningVar[c] = ${R}(mix(f32(runningVar[c]), variance, factor));
}`;

/** A channel as the elementwise kernels take it: (mean, rstd, scale, shift), with z = (x − mean) · scale + shift. */
const pack = (P: FloatType): string => /* wgsl */ `
@group(0) @binding(1) var<storage, read> weight: array<${P}>;
@group(0) @binding(2) var<storage, read> bias: array<${P}>;

fn pack(c: u32, mean: f32, variance: f32) -> vec4f {
  let rstd = inverseSqrt(variance + params.eps);
  var v = vec4f(mean, rstd, rstd, 0);
  if ((params.affine & 1) != 0) { v.z *= f32(weight[c]); }
  if ((params.affine & 2) != 0) { v.w = f32(bias[c]); }
  return v;
}`;

/** Merges the chunks of W channels in a workgroup, in a fixed order: from `part` of each chunk to `finish`. */
const merge = (A: "vec2f" | "vec3f", W: number): string => /* wgsl */ `
${reduce(A, W)}

struct Params {
  channels: u32, chunks: u32, chunk: u32, count: u32, width: u32, eps: f32, momentum: f32, affine: u32
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(3) var<storage, read> partial: array<vec2f>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let c = (wg.x + wg.y * groups.x) * ${W} + lane % ${W};
  var all = ${A}();
  if (c < params.channels) {
    for (var k = lane / ${W}; k < params.chunks; k += ${256 / W}) { all = join(all, part(k, partial[k * params.channels + c])); }
  }
  all = reduce(lane, all);
  if (lane < ${W} && c < params.channels) { finish(c, all); }
}`;

/** Packs the statistics of the batch, and moves the running ones. */
const channelsKernel = variants((P: FloatType, R: FloatType, running: Running, W: number) =>
  kernel<string>(
    "batchNorm.channels",
    /* wgsl */ `
${merge("vec3f", W)}
${joinMoments}
${pack(P)}
@group(0) @binding(4) var<storage, read_write> packed: array<vec4f>;
${update(R, running)}

fn part(k: u32, v: vec2f) -> vec3f {
  return vec3f(f32(min(params.chunk, params.count - k * params.chunk) * params.width), v);
}

fn finish(c: u32, v: vec3f) {
  packed[c] = pack(c, v.y, v.z / v.x);
  update(c, v.y, v.z / (v.x - 1));
}`,
  ),
);

/**
 * (Σ dr, Σ dr · x̂) of each unit, and sums of the gradients of an activation's inputs. Where dr is made from more than
 * x and dy it is also written, for the next kernel to read in place of the others: `storing`.
 */
const gradSumsSource = (
  f: Pointwise,
  V: Element,
  W: number,
  from: From,
  storing: boolean,
  sums: number,
  ...[fields, inputs]: Texts
): string => /* wgsl */ `
${walk(W, fields)}
${joinSums}
${reduce("vec2f", W)}
${lanes(V)}
${gradient(f, from, V, inputs)}

@group(0) @binding(1) var<storage, read> x: array<${V}>;
@group(0) @binding(2) var<storage, read> dy: array<${V}>;
${input(3, "residual", V, from === "residual")}
@group(0) @binding(4) var<storage, read> packed: array<vec4f>;
@group(0) @binding(5) var<storage, read_write> partial: array<vec2f>;
${output(6, "dr", V, storing)}

var<private> channel: vec4f;
var<private> sum: F;
var<private> product: F;

fn take(i: u32, v: F, d: F, r: F, inside: bool) {
  if (inside) {
    let g = gradient(i, (v - channel.x) * channel.z + channel.w + r, d);
    drPut(i, g);
    sum += g;
    product += g * ((v - channel.x) * channel.y);
  }
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  const T = ${256 / W}u;
  enter(wg.x + wg.y * groups.x, lane);
  channel = packed[unit % params.channels];
  for (var j = first; j < end; j += 2 * T) {
    let a = next();
    let b = next();
    let va = F(x[a]);
    let da = F(dy[a]);
    let ra = residualAt(a);
    let vb = F(x[b]);
    let db = F(dy[b]);
    let rb = residualAt(b);
    take(a, va, da, ra, true);
    take(b, vb, db, rb, j + T < end);
  }
  let found = reduce(lane, vec2f(total(sum), total(product)));
  if (lane < ${W} && first < params.count) { partial[unit] = found; }
  ${Array.from({ length: sums }, (_, k) => inputSum(k, W)).join("")}
}`;

const inputSum = (k: number, W: number): string => `
  ${W === 256 ? "" : "workgroupBarrier();"}
  let found${k} = reduce(lane, vec2f(total(inputSum${k}), 0));
  if (lane < ${W} && first < params.count) { inputPartial(${k}, unit, found${k}.x); }`;

/** Sums dw and db. */
const weightGradKernel = variants((W: number) =>
  kernel<string>(
    "batchNorm.weightGrad",
    /* wgsl */ `
${merge("vec2f", W)}
${joinSums}
@group(0) @binding(1) var<storage, read_write> dw: array<f32>;
@group(0) @binding(2) var<storage, read_write> db: array<f32>;

fn part(k: u32, v: vec2f) -> vec2f { return v; }

fn finish(c: u32, v: vec2f) {
  db[c] = v.x;
  dw[c] = v.y;
}`,
  ),
);

// Kernels: element by element -------------------------------------------------------------------

/**
 * A workgroup takes 512 vec4s, a thread two of them. It starts with the last ones, which the kernel that summed over x has
 * left in the GPU's cache. `wide`: a vec4 lies in one channel; else each of its elements has its own.
 */
const spread = (wide: boolean, fields: string): string => /* wgsl */ `
struct Params {
  vectors: u32, tiles: u32, channels: u32, plane: u32, count: u32, width: u32, skip: u32, hop: u32, eps: f32,
  affine: u32${more(fields)}
}

@group(0) @binding(0) var<uniform> params: Params;

alias F = vec4f;
var<private> place: vec2u;

fn wrap(p: vec2u) -> vec2u {
  var q = p;
  if (q.y >= params.plane) { q = vec2u(q.x + 1, q.y - params.plane); }
  if (q.x >= params.channels) { q.x -= params.channels; }
  return q;
}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let tile = wg.x + wg.y * groups.x;
  if (tile >= params.tiles) { return; }
  let a = (params.tiles - 1 - tile) * 512 + lane;
  let b = a + 256;
  var v = xAt(a);
  var d = dyAt(a);
  var r = residualAt(a);
  let vb = xAt(b);
  let db = dyAt(b);
  let rb = residualAt(b);
  let e = a * ${wide ? 1 : 4};
  place = vec2u(e / params.plane % params.channels, e % params.plane);
  for (var i = a; i < min(b + 1, params.vectors); i += 256) {
    finish(i, v, d, r);
    v = vb;
    d = db;
    r = rb;
    place = wrap(place + vec2u(params.hop, params.skip));
  }
}`;

/** `NAMERows()`: the vec4f `NAME(c)` of the channel of each element of a vec4, as the columns of a matrix turned to rows. */
const gather = (name: string, wide: boolean): string =>
  wide
    ? `fn ${name}Rows() -> mat4x4f {
  let a = ${name}(place.x);
  return transpose(mat4x4f(a, a, a, a));
}`
    : `fn ${name}Rows() -> mat4x4f {
  let b = wrap(place + vec2u(0, 1));
  let c = wrap(b + vec2u(0, 1));
  let d = wrap(c + vec2u(0, 1));
  return transpose(mat4x4f(${name}(place.x), ${name}(b.x), ${name}(c.x), ${name}(d.x)));
}`;

const packedChannel = /* wgsl */ `
@group(0) @binding(6) var<storage, read> packed: array<vec4f>;
fn channel(c: u32) -> vec4f { return packed[c]; }`;

const runningChannel = (P: FloatType, R: FloatType): string => /* wgsl */ `
${pack(P)}
@group(0) @binding(6) var<storage, read> runningMean: array<${R}>;
@group(0) @binding(7) var<storage, read> runningVar: array<${R}>;
fn channel(c: u32) -> vec4f { return pack(c, f32(runningMean[c]), f32(runningVar[c])); }`;

/** Running statistics, packed for a backward pass. */
const packKernel = variants((P: FloatType, R: FloatType) =>
  kernel<string>(
    "batchNorm.pack",
    /* wgsl */ `
struct Params { channels: u32, eps: f32, affine: u32 }

@group(0) @binding(0) var<uniform> params: Params;
${runningChannel(P, R)}
@group(0) @binding(3) var<storage, read_write> packed: array<vec4f>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let c = id.x + id.y * groups.x * 256;
  if (c < params.channels) { packed[c] = channel(c); }
}`,
  ),
);

/** y from x and the residual. */
const applySource = (
  f: Pointwise,
  V: Element,
  wide: boolean,
  residual: boolean,
  channel: string,
  ...[fields, inputs]: Texts
): string => /* wgsl */ `
${spread(wide, fields)}
${channel}
${gather("channel", wide)}
${inputs || f.forward}
${input(3, "x", V, true)}
${input(8, "dy", V, false)}
${input(4, "residual", V, residual)}
@group(0) @binding(5) var<storage, read_write> y: array<${V}>;

fn finish(i: u32, v: vec4f, d: vec4f, r: vec4f) {
  let c = channelRows();
  let z = (v - c[0]) * c[2] + c[3] + r;
  y[i] = ${V}(${inputs ? "finish4(i, z)" : `vec4f(${[..."xyzw"].map((e) => `${f.name}(z.${e})`)})`});
}`;

/** dx from dr, or from what dr is made of; then it may write dr too. */
const inputGradSource = (
  f: Pointwise,
  V: Element,
  wide: boolean,
  from: From,
  training: boolean,
  ...[fields, inputs]: Texts
): string => /* wgsl */ `
${spread(wide, fields)}
${packedChannel}
${gather("channel", wide)}
${gradient(f, from, V, inputs)}
${input(1, "x", V, training || from !== "dy")}
${input(2, "dy", V, true)}
${input(3, "residual", V, from === "residual")}
@group(0) @binding(4) var<storage, read_write> dx: array<${V}>;
${output(5, "dr", V, from === "residual")}
${training ? throughStatistics(wide) : "fn through(xhat: vec4f) -> vec4f { return vec4f(); }"}

fn finish(i: u32, v: vec4f, d: vec4f, r: vec4f) {
  let c = channelRows();
  let g = gradient(i, (v - c[0]) * c[2] + c[3] + r, d);
  drPut(i, g);
  dx[i] = ${V}(c[2] * (g - through((v - c[0]) * c[1])));
}`;

/** What mean and variance, which depend on x too, take off the direct path. */
const throughStatistics = (wide: boolean): string => /* wgsl */ `
@group(0) @binding(7) var<storage, read> dw: array<f32>;
@group(0) @binding(8) var<storage, read> db: array<f32>;
fn share(c: u32) -> vec4f { return vec4f(db[c], dw[c], 0, 0) / f32(params.count * params.width); }
${gather("share", wide)}
fn through(xhat: vec4f) -> vec4f {
  let s = shareRows();
  return s[0] + xhat * s[1];
}`;

const kernelsOf = (f: Pointwise) => ({
  apply: variants(
    (V: Element, wide: boolean, residual: boolean, P: FloatType | "packed", R: FloatType, ...texts: Texts) =>
      kernel<string>(
        `batchNorm.apply.${f.name}`,
        applySource(f, V, wide, residual, P === "packed" ? packedChannel : runningChannel(P, R), ...texts),
      ),
  ),
  gradSums: variants((V: Element, W: number, from: From, storing: boolean, sums: number, ...texts: Texts) =>
    kernel<string>(`batchNorm.gradSums.${f.name}`, gradSumsSource(f, V, W, from, storing, sums, ...texts)),
  ),
  inputGrad: variants((V: Element, wide: boolean, from: From, training: boolean, ...texts: Texts) =>
    kernel<string>(`batchNorm.inputGrad.${f.name}`, inputGradSource(f, V, wide, from, training, ...texts)),
  ),
});

/** In place of no activation. Its gradient is dy itself, see `From`. */
const identity: Pointwise = { name: "identity", forward: "fn identity(x: f32) -> f32 { return x; }", backward: "" };

const built = new WeakMap<Pointwise, ReturnType<typeof kernelsOf>>();

/** The kernels that hold an activation's text. */
function kernelsWith(activation: Pointwise | null): ReturnType<typeof kernelsOf> {
  const f = activation ?? identity;
  let kernels = built.get(f);
  if (!kernels) built.set(f, (kernels = kernelsOf(f)));
  return kernels;
}

// Launchers -------------------------------------------------------------------------------------

/** How the kernels cut up an x. `params` holds the fields that depend on its shape, of all of them. */
function layoutOf(x: Tensor) {
  const [batch, channels] = x.shape as [number, number];
  const { software } = x.device;
  const T = x.dtype as FloatType;
  const space = x.size / (batch * channels);
  // Neighbouring elements of a channel are read as vec4s where their run allows it.
  const wide = space % 4 === 0;
  const width = wide ? 4 : 1;
  const plane = space / width;
  const count = batch * plane;

  // Units of a workgroup, see `reduce`: one; 32 where neighbouring memory belongs to other channels. A CPU driver compiles
  // barriers for seconds: there a thread has a unit to itself.
  const W = software ? 256 : space < 16 ? 32 : 1;
  const threads = 256 / W;
  // Loads of a thread, in fours: few enough to fill a large GPU twice over, and at most 2,048 chunks to merge.
  const loads = software ? 16 : Math.max(1, Math.min(4, Math.round((count * channels) / (2112 * 1024))));
  const chunk = 4 * threads * Math.max(loads, Math.ceil(count / (2048 * 4 * threads)));
  const chunks = Math.ceil(count / chunk);
  const turn = threads % plane;
  const stride = (threads - turn) * channels + turn;
  const mergeW = software ? 256 : chunks > 64 ? 4 : 32;

  const vectors = Math.ceil(x.size / 4);
  const tiles = Math.ceil(vectors / 512);
  const step = 1024 / width;
  const skip = step % plane;
  const hop = ((step - skip) / plane) % channels;
  return {
    ...{ wide, W, mergeW },
    // What the sums and what the elementwise kernels read.
    ...{ V: (wide ? `vec4<${T}>` : T) as Element, V4: `vec4<${T}>` as Element },
    params: {
      ...{ channels, plane, count, width, chunk, chunks, stride, turn },
      ...{ vectors, tiles, skip, hop, eps: 0, affine: 0, momentum: 0 },
    },
    walk: { workgroups: grid(Math.ceil((channels * chunks) / W)) },
    merge: { workgroups: grid(Math.ceil(channels / mergeW)) },
    spread: { workgroups: grid(tiles) },
  };
}

const scratch = ({ device }: Tensor, ...shape: number[]): Tensor => empty(shape, { device });

/** BatchNormOptions with their defaults. */
export type BatchNormSettings = Required<BatchNormOptions>;

/** The dtype, flags and bindings of `pack`. Without weight and bias it reads neither: `other` is bound in their place. */
function packOf({ weight, bias, eps }: BatchNormSettings, other: Tensor) {
  const bound = weight ?? bias ?? other;
  return {
    P: bound.dtype as FloatType,
    flags: { eps, affine: (weight ? 1 : 0) + (bias ? 2 : 0) },
    bound: { weight: bound, bias: bias ?? bound },
  };
}

/** Statistics of the batch, packed with weight and bias: f32 [channels, 4]. Moves the running ones. */
function batchNormStatistics(x: Tensor, settings: BatchNormSettings): Tensor {
  const { runningMean, runningVar, numBatchesTracked, momentum } = settings;
  const { params, V, W, mergeW, walk, merge } = layoutOf(x);
  const { channels, chunks } = params;
  const partial = scratch(x, chunks, channels, 2);
  const packed = scratch(x, channels, 4);
  const { P, flags, bound } = packOf(settings, partial);
  const R = (runningMean?.dtype ?? "f32") as FloatType;
  const mode = !runningMean ? "none" : momentum === null ? "cumulative" : "momentum";
  const tracked = (runningMean && numBatchesTracked) ?? x;
  momentsKernel(V, W, tracked !== x).run({ params, x, partial, tracked }, walk);
  channelsKernel(P, R, mode, mergeW).run(
    {
      params: { ...params, ...flags, momentum: momentum ?? 0 },
      ...{ ...bound, partial, packed, tracked, runningMean: runningMean ?? x, runningVar: runningVar ?? x },
    },
    merge,
  );
  partial.dispose();
  return packed;
}

/** Running statistics, packed with weight and bias. */
function batchNormPack(settings: BatchNormSettings): Tensor {
  const [runningMean, runningVar] = [settings.runningMean!, settings.runningVar!];
  const channels = runningMean.size;
  const packed = scratch(runningMean, channels, 4);
  const { P, flags, bound } = packOf(settings, runningMean);
  packKernel(P, runningMean.dtype as FloatType).run(
    { params: { channels, ...flags }, ...bound, runningMean, runningVar, packed },
    { workgroups: grid(Math.ceil(channels / 256)) },
  );
  return packed;
}

/** y, of packed statistics; without them of the running ones, as they are. */
function batchNormApply(x: Tensor, settings: BatchNormSettings, packed: Tensor | null, inputs: Inputs | null): Tensor {
  const { residual, activation } = settings;
  const runningMean = settings.runningMean ?? x;
  const runningVar = settings.runningVar ?? x;
  const y = emptyLike(x);
  const { params, V4, wide, spread } = layoutOf(x);
  const { P, flags, bound } = packOf(settings, runningMean);
  const [own, R] = packed ? (["packed", "f32"] as const) : [P, runningMean.dtype as FloatType];
  kernelsWith(activation)
    .apply(V4, wide, residual !== null, own, R, ...textsOf(inputs))
    .run(
      {
        params: { ...params, ...flags, ...inputs?.params },
        ...{ x, residual: residual ?? x, y, packed: packed ?? x, ...bound, runningMean, runningVar },
        ...inputs?.bindings,
      },
      spread,
    );
  return y;
}

/**
 * dw and db, f32 [channels]; gradients of the activation's inputs; and dr, where a residual or inputs of x's shape make
 * it worth storing.
 */
function batchNormWeightGrad(
  dy: Tensor,
  x: Tensor,
  settings: BatchNormSettings,
  from: From,
  packed: Tensor,
  inputs: Inputs | null,
): { dw: Tensor; db: Tensor; dr: Tensor | null; dinputs: (Tensor | null)[] } {
  const { params, V, W, mergeW, walk, merge } = layoutOf(x);
  const { channels, chunks } = params;
  const [dw, db] = [scratch(x, channels), scratch(x, channels)];
  const partial = scratch(x, chunks, channels, 2);
  const storing = from === "residual" || (needsGrad(x) && settings.inputs.some(({ size }) => size === x.size));
  const dr = storing ? emptyLike(x) : null;
  const own = inputs && inputGrads(inputs, isVec4(V), chunks);
  kernelsWith(settings.activation)
    .gradSums(V, W, from, storing, own?.sums ?? 0, ...textsOf(own))
    .run(
      {
        params: { ...params, ...own?.params },
        ...{ x, dy, residual: settings.residual ?? x, packed, partial, dr: dr ?? x, ...own?.bindings },
      },
      walk,
    );
  weightGradKernel(mergeW).run({ params, partial, dw, db }, merge);
  partial.dispose();
  return { dw, db, dr, dinputs: own?.grads() ?? [] };
}

/** dx from dy: with the `sums` dw and db where mean and variance are the batch's; and dr, where it is made on the way. */
function batchNormInputGrad(
  dy: Tensor,
  x: Tensor,
  settings: BatchNormSettings,
  from: From,
  packed: Tensor,
  sums: { dw: Tensor; db: Tensor } | null,
  inputs: Inputs | null,
): { dx: Tensor; dr: Tensor | null } {
  const { params, V4, wide, spread } = layoutOf(x);
  const dx = emptyLike(x);
  const dr = from === "residual" ? emptyLike(x) : null;
  const { dw = packed, db = packed } = sums ?? {};
  const own = inputs && from !== "dy" ? inputGrads(inputs, true, 0, false) : null;
  kernelsWith(settings.activation)
    .inputGrad(V4, wide, from, sums !== null, ...textsOf(own))
    .run(
      {
        params: { ...params, ...own?.params },
        ...{ x, dy, residual: settings.residual ?? x, packed, dx, dr: dr ?? x, dw, db, ...own?.bindings },
      },
      spread,
    );
  return { dx, dr };
}

// Differentiable function -----------------------------------------------------------------------

export interface BatchNormOptions {
  /** [channels] */
  weight?: Tensor | null;
  /** [channels] */
  bias?: Tensor | null;
  /** [channels]. With `training` it is moved towards the batch's mean; else x is normalized by it. */
  runningMean?: Tensor | null;
  /** [channels]. Likewise, of the variance (the unbiased one). */
  runningVar?: Tensor | null;
  /** i32, one element: with `training` and running statistics it counts up by one. `momentum: null` needs it. */
  numBatchesTracked?: Tensor | null;
  /** Normalize by the statistics of the batch. Default false. */
  training?: boolean;
  /** How far running statistics move; null averages over all batches tracked. Default 0.1. */
  momentum?: number | null;
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** Of x's shape and dtype: added before the activation. */
  residual?: Tensor | null;
  /** Applied to the result, fused: anything with the WGSL of a function and its derivative. */
  activation?: Pointwise | null;
  /**
   * For the activation's parameters after x, in order: f32, f16 or bool, of x's shape, or [channels]. The floats among
   * them get gradients.
   */
  inputs?: readonly Tensor[];
}

/**
 * Normalizes each channel, an index of the second axis of `x`: [batch, channels, ...], and returns activation(x̂ ·
 * weight + bias + residual, ...inputs) of x's shape and dtype, under autocast too. The parameters and the running
 * statistics may have another dtype than x. Matches torch.nn.functional.batch_norm.
 */
export function batchNorm(
  x: Tensor,
  {
    weight = null,
    bias = null,
    runningMean = null,
    runningVar = null,
    numBatchesTracked = null,
    training = false,
    momentum = 0.1,
    eps = 1e-5,
    residual = null,
    activation = null,
    inputs = [],
  }: BatchNormOptions = {},
): Tensor {
  const settings = {
    ...{ weight, bias, runningMean, runningVar, numBatchesTracked },
    ...{ training, momentum, eps, residual, activation, inputs },
  };
  check(x, settings);
  const extra = inputsOf("batchNorm", activation, inputs, x.shape, 1, { at: 9, others: residual ? 6 : 5 });
  const other = extra ? null : delegated<Tensor>("batchNorm", { x }, settings);
  if (other) return other;
  const packed = training ? batchNormStatistics(x, settings) : null;
  const y = batchNormApply(x, settings, packed, extra);
  // Of running statistics the backward makes its own; those of the batch are packed already.
  const saved = packed ? [x, x] : [runningMean!, runningVar!];
  return record(y, [x, weight ?? x, bias ?? x, residual ?? x, ...inputs, ...saved], (dy) => {
    const channels = packed ?? batchNormPack(settings);
    const from: From = !activation ? "dy" : residual ? "residual" : "x";
    const wantsSums = [weight, bias, training ? x : null, ...inputs].some(needsGrad);
    const sums = wantsSums ? batchNormWeightGrad(dy, x, settings, from, channels, extra) : null;
    // With dr at hand, x and the residual need not be read for it again.
    const [d, rest] = sums?.dr ? [sums.dr, "dy" as const] : [dy, from];
    const wantsInput = needsGrad(x) || (from === "residual" && !sums && needsGrad(residual));
    const through = training ? sums : null;
    const input = wantsInput ? batchNormInputGrad(d, x, settings, rest, channels, through, extra) : null;
    const dr = activation ? (sums?.dr ?? input?.dr) : dy;
    if (!needsGrad(residual) && dr !== dy) dr?.dispose();
    if (!weight) sums?.dw.dispose();
    if (!bias) sums?.db.dispose();
    return [
      input?.dx ?? null,
      sums && weight && cast(sums.dw, weight.dtype),
      sums && bias && cast(sums.db, bias.dtype),
      needsGrad(residual) ? dr! : null,
      ...(sums?.dinputs ?? inputs.map(() => null)),
      null,
      null,
    ];
  });
}

function check(x: Tensor, settings: BatchNormSettings): void {
  const { weight, bias, runningMean, runningVar, numBatchesTracked, residual } = settings;
  const { training, momentum, eps } = settings;
  const fail = (text: string): never => {
    throw new Error(`batchNorm: ${text}`);
  };
  if (x.dtype !== "f32" && x.dtype !== "f16") fail(`x is ${x.dtype}, expected f32 or f16`);
  if (x.shape.length < 2) fail(`x has shape [${x.shape}], expected [batch, channels, ...]`);
  const channels = x.shape[1]!;
  for (const [name, t] of Object.entries({ weight, bias, runningMean, runningVar })) {
    if (!t) continue;
    if (t.dtype !== "f32" && t.dtype !== "f16") fail(`${name} is ${t.dtype}, expected f32 or f16`);
    if (t.shape.length !== 1 || t.size !== channels)
      fail(`${name} has shape [${t.shape}], expected [${channels}], the channels of x [${x.shape}]`);
  }
  if (!(runningMean && runningVar) && (runningMean || runningVar || !training))
    fail("runningMean or runningVar is missing, expected both, or neither when training");
  if (weight && bias && weight.dtype !== bias.dtype)
    fail(`weight is ${weight.dtype} and bias ${bias.dtype}, expected one dtype`);
  if (runningMean && runningVar && runningMean.dtype !== runningVar.dtype)
    fail(`runningMean is ${runningMean.dtype} and runningVar ${runningVar.dtype}, expected one dtype`);
  const needsCount = training && runningMean && momentum === null;
  if (numBatchesTracked ? numBatchesTracked.dtype !== "i32" || numBatchesTracked.size !== 1 : needsCount)
    fail(`numBatchesTracked is ${numBatchesTracked}, expected one i32, which momentum null needs`);
  if (residual && (residual.shape.join() !== x.shape.join() || residual.dtype !== x.dtype))
    fail(`residual is [${residual.shape}] ${residual.dtype}, expected [${x.shape}] ${x.dtype} as x is`);
  if (!training) return;
  if (x.size === channels) fail(`x has shape [${x.shape}], expected more than 1 value per channel when training`);
  if (!(eps > 0)) fail(`eps is ${eps}, expected more than 0 when training`);
}

// Modules ---------------------------------------------------------------------------------------

export interface BatchNormModuleOptions {
  /** Added to the variance. Default 1e-5. */
  eps?: number;
  /** How far running statistics move; null averages over all batches tracked. Default 0.1. */
  momentum?: number | null;
  /** Learn a weight, which starts at one, and a bias, which starts at zero. Default true. */
  affine?: boolean;
  /** Without it only the weight is learned. Default true. */
  bias?: boolean;
  /** Keep running statistics, by which x is normalized after `eval()`. Default true. */
  trackRunningStats?: boolean;
  /** Applied to the result, fused. */
  activation?: Pointwise | null;
  device?: Device;
}

/** What BatchNorm1d, 2d and 3d share: `batchNorm` with parameters and running statistics. */
export abstract class BatchNorm extends Module {
  readonly numFeatures: number;
  readonly eps: number;
  readonly momentum: number | null;
  readonly activation: Pointwise | null;
  readonly weight: Tensor | null;
  readonly bias: Tensor | null;
  readonly running_mean: Tensor | null;
  readonly running_var: Tensor | null;
  /** i32 */
  readonly num_batches_tracked: Tensor | null;

  constructor(
    numFeatures: number,
    {
      eps = 1e-5,
      momentum = 0.1,
      affine = true,
      bias = true,
      trackRunningStats = true,
      activation = null,
      device,
    }: BatchNormModuleOptions = {},
  ) {
    super();
    this.numFeatures = numFeatures;
    this.eps = eps;
    this.momentum = momentum;
    this.activation = activation && checkPointwise(`${this.constructor.name}: activation`, activation);
    const shape = [numFeatures];
    this.weight = affine ? parameter(ones(shape, { device })) : null;
    this.bias = affine && bias ? parameter(zeros(shape, { device })) : null;
    this.running_mean = trackRunningStats ? buffer(zeros(shape, { device })) : null;
    this.running_var = trackRunningStats ? buffer(ones(shape, { device })) : null;
    this.num_batches_tracked = trackRunningStats ? buffer(zeros([], { dtype: "i32", device })) : null;
  }

  /** The layouts of x, by number of axes. */
  protected abstract readonly layouts: Readonly<Record<number, string>>;

  /** activation(x̂ · weight + bias + residual, ...inputs) of x's shape and dtype; the residual has them too. */
  forward(x: Tensor, residual: Tensor | null = null, ...inputs: readonly Tensor[]): Tensor {
    if (!(x.shape.length in this.layouts)) {
      const expected = Object.values(this.layouts).join(" or ");
      throw new Error(`${this.constructor.name}: x has shape [${x.shape}], expected ${expected}`);
    }
    return batchNorm(x, {
      ...this,
      ...{ residual, inputs },
      training: this.training || !this.running_mean,
      runningMean: this.running_mean,
      runningVar: this.running_var,
      numBatchesTracked: this.num_batches_tracked,
    });
  }

  /** Mean 0, variance 1, no batch tracked: as at the start. */
  resetRunningStats(): void {
    for (const b of this.buffers()) fill(b, b === this.running_var ? 1 : 0);
  }

  protected override extraRepr(): string {
    const { numFeatures, eps, momentum, weight, running_mean: mean, activation } = this;
    const settings = `${numFeatures}, eps=${eps}, momentum=${momentum}, affine=${weight !== null}`;
    return `${settings}, trackRunningStats=${mean !== null}${activation ? `, activation=${activation.name}` : ""}`;
  }
}

/** `batchNorm` of [N, C] or [N, C, L]. Matches `torch.nn.BatchNorm1d(numFeatures, …)`. */
export class BatchNorm1d extends BatchNorm {
  protected override readonly layouts = { 2: "[N, C]", 3: "[N, C, L]" };
}

/** `batchNorm` of [N, C, H, W]. Matches `torch.nn.BatchNorm2d(numFeatures, …)`. */
export class BatchNorm2d extends BatchNorm {
  protected override readonly layouts = { 4: "[N, C, H, W]" };
}

/** `batchNorm` of [N, C, D, H, W]. Matches `torch.nn.BatchNorm3d(numFeatures, …)`. */
export class BatchNorm3d extends BatchNorm {
  protected override readonly layouts = { 5: "[N, C, D, H, W]" };
}
