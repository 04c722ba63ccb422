/**
 * ConvTranspose1d, ConvTranspose2d: the gradient of a convolution as a layer, with an optional activation. Match
 * torch.nn.ConvTranspose1d and ConvTranspose2d.
 *
 *   y[n, o, q]  = f(z)            z = Σ_{i, t} x[n, i, (q + padding − t·dilation) / stride] · w[i, o, t] + b[o]
 *   dz = dy · f′(z)               dx[n, i, p] = Σ_{o, t} dz[n, o, p·stride + t·dilation − padding] · w[i, o, t]
 *   db = Σ_{n, q} dz              dw[i, o, t] = Σ_{n, p} x[n, i, p] · dz[n, o, p·stride + t·dilation − padding]
 *
 * p, q, t are positions in height and width, where only whole quotients count; one dimension is a height of 1. i and o
 * count the channels of one group. y is, for a stride s, s² correlations, each for the positions that meet the same
 * taps; dx is one, like the output of a convolution. Correlations and dw are core's matmul, which reads the image
 * through the addressing that stands here (a matrix of windows is never stored); where groups have few channels,
 * kernels of this file compute them straight from memory.
 * Order of this file: geometry, addressing, kernels, launchers, differentiable functions, modules.
 */
import {
  autocastType,
  cast,
  checkPointwise,
  type Device,
  delegated,
  empty,
  emptyLike,
  type FloatType,
  type Gather,
  type Kernel,
  kaimingUniform,
  kernel,
  Module,
  matmulForward,
  needsGrad,
  type Pointwise,
  parameter,
  record,
  type Shape,
  sizeOf,
  sumRows,
  type Tensor,
  threads,
  uniform,
  variants,
} from "@kindling/core";

// Geometry --------------------------------------------------------------------------------------

/**
 * One axis of a correlation. Output j takes tap t from position j · stride + t · step + origin of `input`, and is
 * element at + j · every of `size`. Taps are wTap apart in the weights, from `first` on, in wrapping arithmetic.
 */
interface Axis {
  readonly input: number;
  readonly count: number;
  readonly taps: number;
  readonly stride: number;
  readonly step: number;
  readonly origin: number;
  readonly size: number;
  readonly at: number;
  readonly every: number;
  readonly first: number;
  readonly wTap: number;
}

interface Correlation {
  readonly h: Axis;
  readonly w: Axis;
  readonly groups: number;
  /** Channels that a group reads and writes, and how far apart their weights are. */
  readonly inner: number;
  readonly outer: number;
  readonly wInner: number;
  readonly wOuter: number;
  readonly wGroup: number;
  /** What is made once for a geometry, when first wanted: matmul knows a gather by its identity. */
  readonly gathers: Record<string, Gather>;
}

interface Geometry {
  readonly forward: readonly Correlation[];
  readonly inputGrad: Correlation;
}

/** One axis of the layer: x has `size` elements, y `output`. */
interface Dimension {
  readonly size: number;
  readonly output: number;
  readonly taps: number;
  readonly stride: number;
  readonly padding: number;
  readonly dilation: number;
}

interface Layer {
  readonly h: Dimension;
  readonly w: Dimension;
  /** Channels of a group of x and of y. */
  readonly inner: number;
  readonly outer: number;
  readonly groups: number;
}

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b));

/** Positions at + j · stride of y meet the taps t, `apart`, with t · dilation ≡ at + padding (mod stride). */
function classesOf({ size, output, taps: K, stride, padding, dilation }: Dimension, pitch: number): Axis[] {
  const apart = stride / divisor(stride, dilation);
  return range(Math.min(stride, output)).map((at) => {
    const last = range(K).findLast((t) => (t * dilation - at - padding) % stride === 0) ?? -1;
    return {
      ...{ input: size, count: Math.ceil((output - at) / stride), taps: Math.floor(last / apart) + 1 },
      ...{ stride: 1, step: (dilation * apart) / stride, origin: (at + padding - last * dilation) / stride },
      ...{ size: output, at, every: stride },
      ...{ first: last * pitch, wTap: -apart * pitch },
    };
  });
}

/** What a layer is, as JSON: the same object for the same layer. */
const geometryOf = variants((json: string): Geometry => {
  const { h, w, inner, outer, groups } = JSON.parse(json) as Layer;
  const K = h.taps * w.taps;
  const common = { groups, wGroup: inner * outer * K };
  const columns = classesOf(w, 1);
  const back = ({ size, output, taps, stride, padding, dilation }: Dimension, wTap: number): Axis => ({
    ...{ input: output, count: size, taps, stride, step: dilation, origin: -padding },
    ...{ size, at: 0, every: 1, first: 0, wTap },
  });
  return {
    forward: classesOf(h, w.taps).flatMap((row) =>
      columns.map((column) => ({
        ...{ ...common, h: row, w: column, inner, outer, wInner: outer * K, wOuter: K, gathers: {} },
      })),
    ),
    inputGrad: {
      ...{ ...common, h: back(h, w.taps), w: back(w, 1), gathers: {} },
      ...{ inner: outer, outer: inner, wInner: K, wOuter: outer * K },
    },
  };
});

/** Whether weights are taken with inputs for outputs, and from the last tap on. */
const isTurned = ({ w }: Correlation): boolean => w.wTap < 0;
const outputsOf = ({ h, w }: Correlation): number => h.count * w.count;
const tapsOf = ({ h, w }: Correlation): number => h.taps * w.taps;
/** Whether outputs fill their planes, in vec4s. */
const isWide = ({ h, w }: Correlation): boolean =>
  h.count === h.size && w.count === w.size && (h.size * w.size) % 4 === 0;

// Addressing ------------------------------------------------------------------------------------

const axisFields = (a: "H" | "W"): string =>
  `input${a}: u32, count${a}: u32, taps${a}: u32, stride${a}: i32, step${a}: i32, origin${a}: i32,
  size${a}: u32, at${a}: u32, every${a}: u32, wTap${a}: u32`;
const FIELDS = `groups: u32, inner: u32, outer: u32, wInner: u32, wOuter: u32, wGroup: u32, first: u32,
  perTap: f32, perTapW: f32, ${axisFields("H")}, ${axisFields("W")}`;

/** A little less than 1 / d, so that quotients are never too large. */
const reciprocal = (d: number): number => Math.fround((1 / d) * (1 - 2 ** -22));

function fieldsOf(c: Correlation): Record<string, number> {
  const { h, w, groups, inner, outer, wInner, wOuter, wGroup } = c;
  const fields: Record<string, number> = {
    ...{ groups, inner, outer, wInner, wOuter, wGroup, first: h.first + w.first },
    ...{ perTap: reciprocal(tapsOf(c)), perTapW: reciprocal(w.taps) },
  };
  for (const key of Object.keys(h) as (keyof Axis)[]) {
    fields[`${key}H`] = h[key];
    fields[`${key}W`] = w[key];
  }
  return fields;
}

const vector = (T: FloatType, width: number): string => (width === 4 ? `vec4<${T}>` : T);

/**
 * Elements of `name`: the place of one is the sum of its output's, in the planes from `channel` on, and its tap's.
 * tapOf: the channel, row and column of a row of the weights, where quotients below 2^21 are exact. A branch leaves a
 * load on its way, where a select would wait for what it selects.
 */
const windows = (T: FloatType, name: string): string => `
struct Place { base: u32, h: i32, w: i32 }

fn divide(k: u32, d: u32, perD: f32) -> u32 {
  let q = u32(f32(k) * perD);
  return q + u32(k - q * d >= d);
}
fn tapOf(k: u32) -> vec3u {
  let taps = params.tapsH * params.tapsW;
  let channel = divide(k, taps, params.perTap);
  let row = divide(k - channel * taps, params.tapsW, params.perTapW);
  return vec3u(channel, row, k - channel * taps - row * params.tapsW);
}
fn placeAt(channel: u32, h: i32, w: i32) -> Place {
  return Place((channel * params.inputH + u32(h)) * params.inputW + u32(w), h, w);
}
fn placeOf(tap: vec3u) -> Place { return placeAt(tap.x, i32(tap.y) * params.stepH, i32(tap.z) * params.stepW); }
fn outputAt(channel: u32, row: u32, column: u32) -> Place {
  return placeAt(channel, i32(row) * params.strideH + params.originH, i32(column) * params.strideW + params.originW);
}
fn element(output: Place, tap: Place, e: i32) -> ${T} {
  let h = output.h + tap.h;
  let w = output.w + tap.w + e * params.strideW;
  var value = ${T}();
  if (u32(h) < params.inputH && u32(w) < params.inputW) {
    value = ${name}[output.base + tap.base + u32(e * params.strideW)];
  }
  return value;
}
fn elements(output: Place, tap: Place) -> vec4<${T}> {
  return vec4<${T}>(${range(4).map((e) => `element(output, tap, ${e})`)});
}
`;

/** b: columns are outputs of all images, rows are taps of all channels. a: the weights, where they are no matrix. */
function correlationGather(T: FloatType, W: FloatType, c: Correlation): Gather {
  return {
    fields: FIELDS,
    params: fieldsOf(c),
    ...(isTurned(c) && {
      a: {
        ...{ kMajor: false, width: 1 },
        source: `
fn aAt(batch: u32, i: u32) -> u32 { return batch * params.wGroup + params.first + i * params.wOuter; }
fn aStep(k: u32) -> u32 {
  let tap = tapOf(k);
  return tap.x * params.wInner + tap.y * params.wTapH + tap.z * params.wTapW;
}
fn aLoad(at: u32, step: u32) -> ${W} { return a[at + step]; }
`,
      },
    }),
    b: {
      ...{ kMajor: false, width: 1 },
      source: `${windows(T, "b")}
fn bAt(batch: u32, col: u32) -> Place {
  let row = col / params.countW;
  let channel = (row / params.countH * params.groups + batch) * params.inner;
  return outputAt(channel, row % params.countH, col % params.countW);
}
fn bStep(k: u32) -> Place { return placeOf(tapOf(k)); }
fn bLoad(at: Place, step: Place) -> ${T} { return element(at, step, 0); }
`,
    },
    c: {
      pitch: c.h.size * c.w.size,
      wide: isWide(c),
      source: `
fn cAt(batch: u32, col: u32) -> u32 {
  let row = col / params.countW;
  let plane = (row / params.countH * params.groups + batch) * params.M;
  let line = plane * params.sizeH + params.atH + row % params.countH * params.everyH;
  return line * params.sizeW + params.atW + col % params.countW * params.everyW;
}
`,
    },
  };
}

/** The operands of dw: K is the outputs of all images, side by side in memory; rows are channels, columns are taps. */
function weightGradGather(A: FloatType, B: FloatType, c: Correlation): Gather {
  const whole = outputsOf(c) % 4 === 0 ? 4 : 1;
  const width = c.w.count % 4 === 0 ? 4 : 1;
  return {
    fields: FIELDS,
    params: fieldsOf(c),
    a: {
      ...{ kMajor: true, width: whole, vectors: whole === 4 },
      source: `
fn aAt(batch: u32, i: u32) -> u32 { return (batch * params.M + i) * (params.countH * params.countW / ${whole}); }
fn aStep(k: u32) -> u32 {
  let plane = params.countH * params.countW;
  return (k / plane * (params.groups * params.M - 1) * plane + k) / ${whole};
}
fn aLoad(at: u32, step: u32) -> ${vector(A, whole)} { return a[at + step]; }
`,
    },
    b: {
      ...{ kMajor: true, width },
      source: `${windows(B, "b")}
fn bAt(batch: u32, i: u32) -> Place {
  return placeOf(tapOf(i) + vec3u(batch * params.inner, 0, 0));
}
fn bStep(k: u32) -> Place {
  let row = k / params.countW;
  return outputAt(row / params.countH * params.groups * params.inner, row % params.countH, k - row * params.countW);
}
fn bLoad(at: Place, step: Place) -> ${vector(B, width)} {
  return ${width === 4 ? "elements(step, at)" : "element(step, at, 0)"};
}
`,
    },
  };
}

// Kernels ---------------------------------------------------------------------------------------

/** A correlation. A thread owns 4 neighbours of a row in the planes of some channels, the block. */
function directSource(
  X: FloatType,
  W: FloatType,
  Y: FloatType,
  block: number,
  B: FloatType,
  keepZ: boolean,
  activation: Pointwise | null,
): string {
  return /* wgsl */ `
struct Params { threads: u32, biased: u32, ${FIELDS} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> weight: array<${W}>;
@group(0) @binding(3) var<storage, read_write> y: array<${Y}>;
@group(0) @binding(4) var<storage, read> bias: array<${B}>;
${keepZ ? `@group(0) @binding(5) var<storage, read_write> z: array<${Y}>;` : ""}
${windows(X, "x")}
${activation?.forward ?? ""}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = id.x + id.y * groups.x * 256;
  if (thread >= params.threads) { return; }
  let quads = (params.countW + 3) / 4;
  let blocks = (params.outer + ${block - 1}) / ${block};
  let q = thread % quads;
  let row = thread / quads % params.countH;
  let channel = thread / quads / params.countH % blocks * ${block};
  let plane = thread / quads / params.countH / blocks;
  let group = plane % params.groups;
  let last = params.outer - channel - 1;
  var sums = array<vec4f, ${block}>();
  for (var i = 0u; i < params.inner; i++) {
    let output = outputAt(plane * params.inner + i, row, 4 * q);
    let first = group * params.wGroup + params.first + channel * params.wOuter + i * params.wInner;
    for (var th = 0u; th < params.tapsH; th++) {
      for (var tw = 0u; tw < params.tapsW; tw++) {
        let quad = vec4f(elements(output, placeOf(vec3u(0, th, tw))));
        let at = first + th * params.wTapH + tw * params.wTapW;
        for (var o = 0u; o < ${block}; o++) {
          sums[o] += quad * f32(weight[at + min(o, last) * params.wOuter]);
        }
      }
    }
  }
  for (var o = 0u; o <= min(${block - 1}, last); o++) {
    let line = (plane * params.outer + channel + o) * params.sizeH + params.atH + row * params.everyH;
    for (var e = 0u; e < min(4, params.countW - 4 * q); e++) {
      let i = line * params.sizeW + params.atW + (4 * q + e) * params.everyW;
      var v = sums[o][e];
      if (params.biased != 0) { v += f32(bias[group * params.outer + channel + o]); }
      ${keepZ ? `z[i] = ${Y}(v);` : ""}
      y[i] = ${Y}(${activation ? `${activation.name}(v)` : "v"});
    }
  }
}`;
}

/**
 * dw: a thread sums the gradient of 4 taps' weights, for one pair of channels, over every `lanes`th group of 4
 * positions of x, and sumRows adds up the lanes. So the order is always the same.
 */
const weightGradKernel = variants((X: FloatType, Z: FloatType) =>
  kernel<string>(
    `convTranspose.weightGrad.${X}.${Z}`,
    /* wgsl */ `
struct Params { lanes: u32, positions: u32, tapBlocks: u32, ${FIELDS} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> dz: array<${Z}>;
@group(0) @binding(3) var<storage, read_write> partial: array<f32>;
${windows(Z, "dz")}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = id.x + id.y * groups.x * 256;
  let lane = thread % params.lanes;
  let team = thread / params.lanes;
  let firstTap = team % params.tapBlocks * 4;
  let o = team / params.tapBlocks % params.inner;
  let channel = team / params.tapBlocks / params.inner;
  let channels = params.groups * params.outer;
  if (channel >= channels) { return; }
  let group = channel / params.outer;
  let quads = (params.countW + 3) / 4;
  let taps = params.tapsH * params.tapsW;
  ${range(4)
    .map((t) => `let t${t} = placeOf(tapOf(min(firstTap + ${t}, taps - 1)));`)
    .join("\n  ")}
  var sums = vec4f();
  for (var position = lane; position < params.positions; position += params.lanes) {
    let q = position % quads;
    let row = position / quads % params.countH;
    let image = position / quads / params.countH;
    let at = ((image * channels + channel) * params.countH + row) * params.countW;
    let values = vec4f(${range(4).map((e) => `f32(x[at + min(4 * q + ${e}, params.countW - 1)])`)});
    let quad = select(vec4f(), values, vec4u(0, 1, 2, 3) < vec4u(params.countW - 4 * q));
    let output = outputAt((image * params.groups + group) * params.inner + o, row, 4 * q);
    sums += vec4f(${range(4).map((t) => `dot(quad, vec4f(elements(output, t${t})))`)});
  }
  let to = ((lane * channels + channel) * params.inner + o) * taps + firstTap;
  for (var t = 0u; t < min(4, taps - firstTap); t++) { partial[to + t] = sums[t]; }
}`,
  ),
);

/** dz = dy · f′(z), where there is an activation, and db: a thread sums dz over every `lanes`th part of a channel. */
function channelSource(T: FloatType, wide: boolean, activation: Pointwise | null): string {
  const [F, V, e] = wide ? ["vec4f", `vec4<${T}>`, [".x", ".y", ".z", ".w"]] : ["f32", T, [""]];
  return /* wgsl */ `
struct Params { lanes: u32, channels: u32, positions: u32, parts: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<${V}>;
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;
${
  activation
    ? `@group(0) @binding(3) var<storage, read> z: array<${V}>;
@group(0) @binding(4) var<storage, read_write> dz: array<${V}>;
${activation.forward}${activation.backward}
fn gradAt(i: u32) -> ${F} {
  let a = ${F}(z[i]);
  let g = ${F}(dy[i]);
  let d = ${F}(${e.map((c) => `${activation.name}Grad(a${c}, g${c})`)});
  dz[i] = ${V}(d);
  return d;
}`
    : `fn gradAt(i: u32) -> ${F} { return ${F}(dy[i]); }`
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = id.x + id.y * groups.x * 256;
  let lane = thread % params.lanes;
  let channel = thread / params.lanes;
  if (channel >= params.channels) { return; }
  var sum = ${F}();
  for (var position = lane; position < params.positions; position += params.lanes) {
    sum += gradAt((position / params.parts * params.channels + channel) * params.parts + position % params.parts);
  }
  partial[lane * params.channels + channel] = ${wide ? "dot(sum, vec4f(1))" : "sum"};
}`;
}

const kernels = new Map<Pointwise | null, Record<string, Kernel>>();

/** One kernel for each activation and key, which holds all else that its text depends on. */
function memo(activation: Pointwise | null, key: string, source: () => string): Kernel {
  let own = kernels.get(activation);
  if (!own) kernels.set(activation, (own = {}));
  return (own[key] ??= kernel<string>(`convTranspose.${key}`, source()));
}

// Launchers -------------------------------------------------------------------------------------

const floatOf = ({ dtype }: Tensor): FloatType => dtype as FloatType;
const imagesOf = (x: Tensor, { h, w, groups, inner }: Correlation): number =>
  x.size / (groups * inner * h.input * w.input);

/** With so few channels in a group matmul wastes most of its work, as its tiles do not fill up. */
const FEW = 8;

/** So many threads for each of `teams` sums that a GPU is full, but not more than there are positions. */
const lanesOf = (teams: number, positions: number): number =>
  Math.max(1, Math.min(Math.ceil(positions / 4), Math.floor(2 ** 18 / teams)));

interface Epilogue {
  readonly bias?: Tensor | null;
  readonly activation?: Pointwise | null;
  /** What the activation is applied to is written here. */
  readonly z?: Tensor | null;
}

/** Writes act(the correlation of x with weight + bias) to y, or to a part of it. */
function correlate(
  x: Tensor,
  weight: Tensor,
  y: Tensor,
  c: Correlation,
  compute: FloatType,
  { bias = null, activation = null, z = null }: Epilogue = {},
): void {
  const { inner, outer, groups, h, w } = c;
  const images = imagesOf(x, c);
  const [X, W, Y, B] = [x, weight, y, bias ?? weight].map(floatOf) as [FloatType, FloatType, FloatType, FloatType];
  if (outer > FEW || tapsOf(c) === 0) {
    matmulForward(weight, x, {
      ...{ M: outer, N: images * outputsOf(c), K: inner * tapsOf(c), batch: groups, compute },
      gather: (c.gathers[`${X} ${W}`] ??= correlationGather(X, W, c)),
      ...{ bias, activation, keepZ: z ?? false, out: y, shape: y.shape },
    });
    return;
  }
  const block = outer === 1 ? 1 : 4;
  const source = () => directSource(X, W, Y, block, B, z !== null, activation);
  const params = {
    ...fieldsOf(c),
    threads: images * groups * Math.ceil(outer / block) * h.count * Math.ceil(w.count / 4),
    biased: bias ? 1 : 0,
  };
  memo(activation, `direct.${X}.${W}.${Y}.${block}.${B}.${z !== null}`, source).run(
    // without a bias, a binding that `biased` says not to read
    { params, x, weight, y, bias: bias ?? weight, ...(z && { z }) },
    { workgroups: threads(params.threads) },
  );
}

/** dw, of the shape and dtype of weight. */
function weightGrad(x: Tensor, dz: Tensor, weight: Tensor, c: Correlation, compute: FloatType): Tensor {
  const { inner, outer, groups, h, w } = c;
  const images = imagesOf(dz, c);
  const [X, W, Z] = [floatOf(x), floatOf(weight), floatOf(dz)];
  if (outer > FEW || inner > FEW) {
    return matmulForward(x, dz, {
      ...{ M: outer, N: inner * tapsOf(c), K: images * outputsOf(c), batch: groups, compute },
      ...{ gather: (c.gathers[`dw ${X} ${Z}`] ??= weightGradGather(X, Z, c)), shape: weight.shape, dtype: W },
    }).c;
  }
  const tapBlocks = Math.ceil(tapsOf(c) / 4);
  const teams = groups * outer * inner * tapBlocks;
  const positions = images * h.count * Math.ceil(w.count / 4);
  const lanes = lanesOf(teams, positions);
  const partial = empty([lanes, weight.size], { device: x.device });
  weightGradKernel(X, Z).run(
    { params: { ...fieldsOf(c), lanes, positions, tapBlocks }, x, dz, partial },
    { workgroups: threads(lanes * teams) },
  );
  const dw = sumRows(partial, weight.shape, W);
  partial.dispose();
  return dw;
}

/** dz = dy · f′(z), or dy itself without an activation, and db, f32 [channels]. */
function channelGrad(
  dy: Tensor,
  z: Tensor | null,
  activation: Pointwise | null,
  channels: number,
  plane: number,
): { dz: Tensor; db: Tensor } {
  const wide = plane % 4 === 0;
  const parts = wide ? plane / 4 : plane;
  const positions = (dy.size / channels / plane) * parts;
  const lanes = lanesOf(channels, positions);
  const dz = activation ? emptyLike(dy) : dy;
  const partial = empty([lanes, channels], { device: dy.device });
  const source = () => channelSource(floatOf(dy), wide, activation);
  memo(activation, `channels.${dy.dtype}.${wide}`, source).run(
    { params: { lanes, channels, positions, parts }, dy, partial, ...(z && { z, dz }) },
    { workgroups: threads(lanes * channels) },
  );
  const db = sumRows(partial, [channels]);
  partial.dispose();
  return { dz, db };
}

// Differentiable functions ----------------------------------------------------------------------

/** One number for both axes, or [height, width]. */
export type Pair = number | readonly [height: number, width: number];
type Sizes = number | readonly number[];

/** `Size` is a number in one dimension, a Pair in two. */
export interface ConvTransposeOptions<Size extends Sizes> {
  /** [out channels] */
  bias?: Tensor | null;
  /** Of the outputs that neighbouring inputs reach. Default 1. */
  stride?: Size | 1;
  /** So many outputs are left out on both sides. Default 0. */
  padding?: Size | 0;
  /** So many outputs are added at the end; less than stride or dilation. Default 0. */
  outputPadding?: Size | 0;
  /** Channels fall into so many groups, each with weights of its own. Default 1. */
  groups?: number;
  /** Between the taps of a window. Default 1. */
  dilation?: Size | 1;
  /** Applied to the result, fused: anything with the WGSL of a function and its derivative. */
  activation?: Pointwise | null;
}

/**
 * `activation(transposed convolution of x with weight + bias)`: x [N, C, L] or [C, L], weight [C, O / groups, K], bias
 * [O] → [N, O, L′] or [O, L′] with L′ = (L − 1)·stride − 2·padding + dilation·(K − 1) + outputPadding + 1. Under
 * autocast the operands are rounded to f16 and y is f16. Matches torch.nn.functional.conv_transpose1d.
 */
export function convTranspose1d(x: Tensor, weight: Tensor, options: ConvTransposeOptions<number> = {}): Tensor {
  return convTranspose(1, x, weight, options);
}

/**
 * `activation(transposed convolution of x with weight + bias)`: x [N, C, H, W] or [C, H, W], weight [C, O / groups, KH,
 * KW], bias [O] → [N, O, H′, W′] or [O, H′, W′] with the sizes of `convTranspose1d`. Under autocast the operands are
 * rounded to f16 and y is f16. Matches torch.nn.functional.conv_transpose2d.
 */
export function convTranspose2d(x: Tensor, weight: Tensor, options: ConvTransposeOptions<Pair> = {}): Tensor {
  return convTranspose(2, x, weight, options);
}

function convTranspose(rank: 1 | 2, x: Tensor, weight: Tensor, options: ConvTransposeOptions<Sizes>): Tensor {
  const { bias = null, activation = null } = options;
  const { geometry, shape } = check(rank, x, weight, options);
  const other = delegated<Tensor>(`convTranspose${rank}d`, { x, weight, bias }, options);
  if (other) return other;
  const { forward, inputGrad } = geometry;
  const compute = autocastType() ?? floatOf(x);
  const y = emptyLike(x, { shape, dtype: compute });
  const z = activation && [x, weight, bias].some(needsGrad) ? emptyLike(y) : null;
  for (const c of forward) correlate(x, weight, y, c, compute, { bias, activation, z });
  return record(y, [x, weight, bias ?? x], (dy) => {
    const channels = inputGrad.groups * inputGrad.inner;
    const sum = () => channelGrad(dy, z, activation, channels, inputGrad.h.input * inputGrad.w.input);
    const act = z && sum();
    const dz = act?.dz ?? dy;
    const dx = needsGrad(x) ? emptyLike(x) : null;
    if (dx) correlate(dz, weight, dx, inputGrad, compute);
    const dw = needsGrad(weight) ? weightGrad(x, dz, weight, inputGrad, compute) : null;
    const db = needsGrad(bias) ? (act ?? sum()).db : null;
    act?.dz.dispose();
    return [dx, dw, db && bias && cast(db, bias.dtype)];
  });
}

/** One whole number for each axis; by default the least that it may be. */
function each(where: string, value: Sizes | undefined, rank: number, least: number): readonly number[] {
  const values = typeof value === "object" ? value : Array<number>(rank).fill(value ?? least);
  if (values?.length === rank && values.every((v) => Number.isInteger(v) && v >= least)) return values;
  throw new Error(`${where} is ${JSON.stringify(value)}, expected whole numbers ≥ ${least}`);
}

const LINE: Dimension = { size: 1, output: 1, taps: 1, stride: 1, padding: 0, dilation: 1 };
const AXES = { 1: ["L", "K"], 2: ["H, W", "KH, KW"] } as const;

function check(
  rank: 1 | 2,
  x: Tensor,
  weight: Tensor,
  options: ConvTransposeOptions<Sizes>,
): { geometry: Geometry; shape: Shape } {
  const where = `convTranspose${rank}d`;
  const { bias, groups = 1, activation } = options;
  for (const [name, t] of Object.entries({ x, weight, bias })) {
    if (t && t.dtype !== "f32" && t.dtype !== "f16")
      throw new Error(`${where}: ${name} is ${t.dtype}, expected f32 or f16`);
  }
  const [axes, taps] = AXES[rank];
  if (weight.shape.length !== rank + 2)
    throw new Error(`${where}: weight has shape [${weight.shape}], expected [C, O / groups, ${taps}]`);
  if (x.shape.length !== rank + 1 && x.shape.length !== rank + 2)
    throw new Error(`${where}: x has shape [${x.shape}], expected [N, C, ${axes}] or [C, ${axes}]`);
  const [C, outer, ...lengths] = weight.shape as [number, number, ...number[]];
  if (x.shape.at(-rank - 1) !== C)
    throw new Error(`${where}: x has shape [${x.shape}], expected ${C} channels for weight [${weight.shape}]`);
  checkGroups(where, groups, C, outer * groups);
  if (bias && bias.shape.join() !== `${outer * groups}`)
    throw new Error(`${where}: bias has shape [${bias.shape}], expected [${outer * groups}]`);
  if (!autocastType() && x.dtype !== weight.dtype)
    throw new Error(`${where}: x is ${x.dtype} and weight ${weight.dtype}, expected one dtype (or autocast)`);
  if (activation) checkPointwise(`${where}: activation`, activation, 0);
  const stride = each(`${where}: stride`, options.stride, rank, 1);
  const padding = each(`${where}: padding`, options.padding, rank, 0);
  const outputPadding = each(`${where}: outputPadding`, options.outputPadding, rank, 0);
  const dilation = each(`${where}: dilation`, options.dilation, rank, 1);
  const dimensions = x.shape.slice(-rank).map((size, i): Dimension => {
    const d = { size, taps: lengths[i]!, stride: stride[i]!, padding: padding[i]!, dilation: dilation[i]! };
    if (outputPadding[i]! >= Math.max(d.stride, d.dilation)) {
      throw new Error(`${where}: outputPadding is [${outputPadding}], expected less than stride or dilation`);
    }
    const output = shortest(d) + outputPadding[i]!;
    if (output < 1) throw new Error(`${where}: x has shape [${x.shape}], expected more for padding [${padding}]`);
    return { ...d, output };
  });
  const [h, w] = rank === 1 ? [LINE, dimensions[0]!] : (dimensions as [Dimension, Dimension]);
  const shape = [...x.shape.slice(0, -rank - 1), outer * groups, ...dimensions.map(({ output }) => output)];
  const layer: Layer = { h, w, inner: C / groups, outer, groups };
  return { geometry: geometryOf(JSON.stringify(layer)), shape };
}

/** The size of y without output padding. */
const shortest = ({ size, taps, stride, padding, dilation }: Omit<Dimension, "output">): number =>
  (size - 1) * stride - 2 * padding + dilation * (taps - 1) + 1;

function checkGroups(where: string, groups: number, inputs: number, outputs: number): void {
  if (!Number.isInteger(groups) || groups < 1 || inputs % groups !== 0 || outputs % groups !== 0)
    throw new Error(`${where}: groups is ${groups}, expected a divisor of ${inputs} and ${outputs} channels`);
}

// Modules ---------------------------------------------------------------------------------------

export interface ConvTransposeModuleOptions<Size extends Sizes> extends Omit<ConvTransposeOptions<Size>, "bias"> {
  /** Learn a bias. Default true. */
  bias?: boolean;
  /** "zeros" is the only one, as in PyTorch. */
  paddingMode?: "zeros";
  device?: Device;
}

abstract class ConvTranspose extends Module {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly kernelSize: readonly number[];
  readonly stride: readonly number[];
  readonly padding: readonly number[];
  readonly outputPadding: readonly number[];
  readonly groups: number;
  readonly dilation: readonly number[];
  readonly activation: Pointwise | null;
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(
    rank: 1 | 2,
    inChannels: number,
    outChannels: number,
    kernelSize: Sizes,
    options: ConvTransposeModuleOptions<Sizes>,
  ) {
    super();
    const where = `ConvTranspose${rank}d`;
    const { groups = 1, bias = true, activation = null, paddingMode = "zeros", device } = options;
    checkGroups(where, groups, inChannels, outChannels);
    if (paddingMode !== "zeros") throw new Error(`${where}: paddingMode is "${paddingMode}", expected "zeros"`);
    this.inChannels = inChannels;
    this.outChannels = outChannels;
    this.kernelSize = each(`${where}: kernelSize`, kernelSize, rank, 1);
    this.stride = each(`${where}: stride`, options.stride, rank, 1);
    this.padding = each(`${where}: padding`, options.padding, rank, 0);
    this.outputPadding = each(`${where}: outputPadding`, options.outputPadding, rank, 0);
    this.groups = groups;
    this.dilation = each(`${where}: dilation`, options.dilation, rank, 1);
    this.activation = activation && checkPointwise(`${where}: activation`, activation, 0);
    const shape = [inChannels, outChannels / groups, ...this.kernelSize];
    // PyTorch's initialisation: both uniform in ±1/√(weights of an input channel).
    const bound = 1 / Math.sqrt(sizeOf(shape.slice(1)));
    this.weight = parameter(kaimingUniform(empty(shape, { device }), { a: Math.sqrt(5) }));
    this.bias = bias ? parameter(uniform(empty([outChannels], { device }), -bound, bound)) : null;
  }

  /** `outputSize`, of y's last axes or of all, takes the place of outputPadding: a stride leaves several open. */
  forward(x: Tensor, outputSize?: Shape): Tensor {
    const rank = this.kernelSize.length as 1 | 2;
    const outputPadding = outputSize ? this.#paddingFor(x, outputSize) : this.outputPadding;
    return convTranspose(rank, x, this.weight, { ...this, outputPadding });
  }

  #paddingFor(x: Tensor, outputSize: Shape): readonly number[] {
    const { kernelSize, stride, padding, dilation } = this;
    const rank = kernelSize.length;
    const asked = outputSize.length === x.shape.length ? outputSize.slice(-rank) : outputSize;
    const least = x.shape.slice(-rank).map((size, i) =>
      shortest({
        ...{ size, taps: kernelSize[i]!, stride: stride[i]!, padding: padding[i]!, dilation: dilation[i]! },
      }),
    );
    const most = least.map((size, i) => size + stride[i]! - 1);
    if (asked.length === rank && asked.every((size, i) => size >= least[i]! && size <= most[i]!))
      return asked.map((size, i) => size - least[i]!);
    throw new Error(`ConvTranspose${rank}d: outputSize is [${outputSize}], expected [${least}] to [${most}]`);
  }

  protected override extraRepr(): string {
    const { inChannels, outChannels, groups, bias, activation } = this;
    const sizes = Object.entries(this).flatMap(([key, value]) => (Array.isArray(value) ? `${key}=[${value}], ` : []));
    const tail = activation ? `, activation=${activation.name}` : "";
    return `${inChannels}, ${outChannels}, ${sizes.join("")}groups=${groups}, bias=${bias !== null}${tail}`;
  }
}

/**
 * `convTranspose1d` with learned weight [in, out / groups, length] and bias [out]. Matches
 * `torch.nn.ConvTranspose1d(inChannels, outChannels, kernelSize, …)`.
 */
export class ConvTranspose1d extends ConvTranspose {
  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: number,
    options: ConvTransposeModuleOptions<number> = {},
  ) {
    super(1, inChannels, outChannels, kernelSize, options);
  }
}

/**
 * `convTranspose2d` with learned weight [in, out / groups, height, width] and bias [out]. Matches
 * `torch.nn.ConvTranspose2d(inChannels, outChannels, kernelSize, …)`.
 */
export class ConvTranspose2d extends ConvTranspose {
  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: Pair,
    options: ConvTransposeModuleOptions<Pair> = {},
  ) {
    super(2, inChannels, outChannels, kernelSize, options);
  }
}
