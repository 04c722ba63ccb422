/**
 * Conv1d: a sum over windows of a line, with an optional activation. Matches torch.nn.Conv1d.
 *
 *   y[n, o, p]  = f(z)            z = Σ_{i, t} x[n, i, p·stride + t·dilation − padding] · w[o, i, t] + b[o]
 *   dz = dy · f′(z)               dx[n, i, q] = Σ_{o, t} dz[n, o, (q + padding − t·dilation) / stride] · w[o, i, t]
 *   db = Σ_{n, p} dz              dw[o, i, t] = Σ_{n, p} dz[n, o, p] · x[n, i, p·stride + t·dilation − padding]
 *
 * i and o count the channels of one group. dx is a correlation of dz with the weights, like y one of x: for a stride s
 * it is s of them, each for the positions that meet the same taps. Correlations and dw are core's matmul, which reads
 * the lines through the addressing that stands here (a matrix of windows is never stored); where groups have few
 * channels, kernels of this file compute them straight from memory. Inputs that an activation has beside z are read
 * where it is applied, and their gradients are made with dz.
 * Order of this file: geometry, addressing, kernels, launchers, differentiable function, module.
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
  type InputGrads,
  type Inputs,
  inputGrads,
  inputsOf,
  type Kernel,
  kaimingUniform,
  kernel,
  Module,
  matmulForward,
  needsGrad,
  type Pointwise,
  parameter,
  record,
  sumRows,
  type Tensor,
  threads,
  uniform,
  variants,
} from "@kindling/core";

const MODES = ["zeros", "reflect", "replicate", "circular"] as const;
export type PaddingMode = (typeof MODES)[number];

// Geometry --------------------------------------------------------------------------------------

/**
 * Output j takes tap t from position j · stride + t · step + origin of a line of `input`, and is element at + j · every
 * of a line of `size`.
 */
interface Correlation {
  readonly groups: number;
  /** Channels that a group reads and writes. */
  readonly inner: number;
  readonly outer: number;
  /** Number of the padding mode in MODES. */
  readonly mode: number;
  readonly input: number;
  readonly count: number;
  readonly taps: number;
  readonly stride: number;
  readonly step: number;
  readonly origin: number;
  readonly size: number;
  readonly at: number;
  readonly every: number;
  /**
   * Where a weight lies: group · wGroup + first + outer · wOuter + inner · wInner + tap · wTap, in wrapping arithmetic.
   */
  readonly first: number;
  readonly wGroup: number;
  readonly wOuter: number;
  readonly wInner: number;
  readonly wTap: number;
  /** What is made once for a geometry, when first wanted: matmul knows a gather by its identity. */
  readonly gathers: Record<string, Gather>;
}

interface Geometry {
  readonly forward: Correlation;
  readonly inputGrad: readonly Correlation[];
  /**
   * Length of the lines whose gradient those give: with their padding, unless that is zeros; and how much comes first.
   */
  readonly padded: number;
  readonly before: number;
}

const geometryOf = variants(
  (
    size: number,
    K: number,
    stride: number,
    before: number,
    after: number,
    dilation: number,
    inner: number,
    outer: number,
    groups: number,
    mode: number,
  ): Geometry => {
    const count = Math.floor((size + before + after - dilation * (K - 1) - 1) / stride) + 1;
    const wGroup = inner * outer * K;
    const forward = {
      ...{ groups, inner, outer, mode, input: size, count, taps: K, stride, step: dilation, origin: -before },
      ...{ size: count, at: 0, every: 1, first: 0, wGroup, wOuter: inner * K, wInner: K, wTap: 1, gathers: {} },
    };
    const [padded, shift] = mode === 0 ? [size, before] : [size + before + after, 0];
    const apart = stride / divisor(stride, dilation);
    const inputGrad = range(Math.min(stride, padded)).map((at) => {
      // Positions at + j · stride meet the taps t with t · dilation ≡ at + shift (mod stride): every `apart`th to `last`.
      const last = range(K).findLast((t) => (t * dilation - at - shift) % stride === 0) ?? -1;
      return {
        ...{ groups, inner: outer, outer: inner, mode: 0, input: count, taps: Math.floor(last / apart) + 1 },
        ...{ stride: 1, step: (dilation * apart) / stride, origin: (at + shift - last * dilation) / stride },
        ...{ count: Math.ceil((padded - at) / stride), size: padded, at, every: stride },
        ...{ first: last, wGroup, wOuter: K, wInner: inner * K, wTap: -apart, gathers: {} },
      };
    });
    return { forward, inputGrad, padded, before };
  },
);

const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b));

// Addressing ------------------------------------------------------------------------------------

const FIELDS = `groups: u32, inner: u32, outer: u32, input: u32, count: u32, taps: u32, size: u32, at: u32, every: u32,
  stride: i32, step: i32, origin: i32, first: u32, wGroup: u32, wOuter: u32, wInner: u32, wTap: u32,
  perTap: f32, mode: u32`;

function fieldsOf(c: Correlation): Record<string, number> {
  const { gathers: _, ...numbers } = c;
  // A little less than 1 / taps, so that quotients are never too large.
  return { ...numbers, perTap: Math.fround((1 / c.taps) * (1 - 2 ** -22)) };
}

/** The position that one of the padded line repeats, by the number of the mode in MODES; far outside, any. */
const MIRROR = /* wgsl */ `
fn mirror(x: i32) -> u32 {
  let size = i32(params.input);
  var at = x;
  if (params.mode == 1) { at = size - 1 - abs(size - 1 - abs(x)); }
  if (params.mode == 3) { at = (x + size) % size; }
  return u32(clamp(at, 0, size - 1));
}`;

const vector = (T: FloatType, width: number): string => (width === 4 ? `vec4<${T}>` : T);
/** Whether outputs fill their lines, in vec4s. */
const isWide = ({ count, size }: Correlation): boolean => count === size && size % 4 === 0;

/**
 * Elements of `name`: the place of one is the sum of its output's, in the lines from `channel` on, and its tap's.
 * tapOf: the channel and tap of a row of the weights, where quotients below 2^21 are exact. A branch leaves a load on
 * its way, where a select would wait for what it selects.
 */
const windows = (T: FloatType, name: string, mirrors: boolean): string => `
struct Place { base: u32, x: i32 }
fn tapOf(k: u32) -> vec2u {
  let q = u32(f32(k) * params.perTap);
  let channel = q + u32(k - q * params.taps >= params.taps);
  return vec2u(channel, k - channel * params.taps);
}
fn placeAt(channel: u32, at: i32) -> Place { return Place(channel * params.input${mirrors ? "" : " + u32(at)"}, at); }
fn placeOf(tap: vec2u) -> Place { return placeAt(tap.x, i32(tap.y) * params.step); }
fn outputAt(channel: u32, j: u32) -> Place { return placeAt(channel, i32(j) * params.stride + params.origin); }
${mirrors ? MIRROR : ""}
fn element(output: Place, tap: Place, e: i32) -> ${T} {
  let at = output.x + tap.x + e * params.stride;
  let base = output.base + tap.base;
${
  mirrors
    ? `  return ${name}[base + mirror(at)];`
    : `  var value = ${T}();
  if (u32(at) < params.input) { value = ${name}[base + u32(e * params.stride)]; }
  return value;`
}
}
fn elements(output: Place, tap: Place) -> vec4<${T}> {
  return vec4<${T}>(${range(4).map((e) => `element(output, tap, ${e})`)});
}
`;

/** b: columns are outputs of all lines, rows are taps of all channels. a: the weights, where they are no matrix. */
function correlationGather(T: FloatType, W: FloatType, c: Correlation): Gather {
  return {
    fields: FIELDS,
    params: fieldsOf(c),
    ...(c.wTap < 0 && {
      a: {
        ...{ kMajor: false, width: 1 },
        source: `
fn aAt(batch: u32, i: u32) -> u32 { return batch * params.wGroup + params.first + i * params.wOuter; }
fn aStep(k: u32) -> u32 { let tap = tapOf(k); return tap.x * params.wInner + tap.y * params.wTap; }
fn aLoad(at: u32, step: u32) -> ${W} { return a[at + step]; }
`,
      },
    }),
    b: {
      ...{ kMajor: false, width: 1 },
      source: `${windows(T, "b", c.mode > 0)}
fn bAt(batch: u32, col: u32) -> Place {
  return outputAt((col / params.count * params.groups + batch) * params.inner, col % params.count);
}
fn bStep(k: u32) -> Place { return placeOf(tapOf(k)); }
fn bLoad(at: Place, step: Place) -> ${T} { return element(at, step, 0); }
`,
    },
    c: {
      pitch: c.size,
      wide: isWide(c),
      source: `
fn cAt(batch: u32, col: u32) -> u32 {
  let line = (col / params.count * params.groups + batch) * params.M;
  return line * params.size + params.at + col % params.count * params.every;
}
`,
    },
  };
}

/** The operands of dw: K is the outputs of all lines, side by side in memory; rows are channels, columns are taps. */
function weightGradGather(Z: FloatType, X: FloatType, c: Correlation): Gather {
  const width = c.count % 4 === 0 ? 4 : 1;
  return {
    fields: FIELDS,
    params: fieldsOf(c),
    a: {
      ...{ kMajor: true, width, vectors: width === 4 },
      source: `
fn aAt(batch: u32, i: u32) -> u32 { return (batch * params.M + i) * (params.count / ${width}); }
fn aStep(k: u32) -> u32 { return (k / params.count * (params.groups * params.M - 1) * params.count + k) / ${width}; }
fn aLoad(at: u32, step: u32) -> ${vector(Z, width)} { return a[at + step]; }
`,
    },
    b: {
      ...{ kMajor: true, width },
      source: `${windows(X, "b", c.mode > 0)}
fn bAt(batch: u32, i: u32) -> Place {
  return placeOf(tapOf(i) + vec2u(batch * params.inner, 0));
}
fn bStep(k: u32) -> Place { return outputAt(k / params.count * params.groups * params.inner, k % params.count); }
fn bLoad(at: Place, step: Place) -> ${vector(X, width)} {
  return ${width === 4 ? "elements(step, at)" : "element(step, at, 0)"};
}
`,
    },
  };
}

// Kernels ---------------------------------------------------------------------------------------

/** What the text of a correlation without matrices depends on. */
interface Direct {
  readonly X: FloatType;
  readonly W: FloatType;
  readonly Y: FloatType;
  readonly B: FloatType;
  readonly z: boolean;
  /** Channels that a thread writes. */
  readonly block: 1 | 4;
  readonly mirrors: boolean;
  /** Windows of neighbours, step by step: then a line is read as vec4s, each for several taps. */
  readonly dense: boolean;
  /** y is written as vec4s. */
  readonly wide: boolean;
}

/**
 * The walk over taps, each with the quad of x that it multiplies, and what it calls. Vec4s start at multiples of 4, so
 * windows which do not are taken to have `ahead` more taps at their front, whose weights are 0.
 */
function directTaps({ X, block, dense, mirrors }: Direct): [functions: string, walk: string] {
  const add = (quad: string, tap: string): string =>
    `for (var o = 0u; o < ${block}; o++) {
        sums[o] += ${quad} * weightAt(first + min(o, last) * params.wOuter, ${tap});
      }`;
  if (!dense) {
    return [
      windows(X, "x", mirrors),
      `let output = outputAt(plane * params.inner + i, 4 * q);
    for (var t = 0u; t < params.taps; t++) {
      let quad = vec4f(elements(output, placeOf(vec2u(0, t))));
      ${add("quad", "t")}
    }`,
    ];
  }
  const shifted = ["lo", "vec4f(lo.yzw, hi.x)", "vec4f(lo.zw, hi.xy)", "vec4f(lo.w, hi.xyz)"];
  return [
    `
fn load(line: u32, v: i32) -> vec4f {
  var value = vec4f();
  if (u32(v) < params.input / 4) { value = vec4f(x[line * params.input / 4 + u32(v)]); }
  return value;
}`,
    `let ahead = u32(params.origin) & 3;
    let line = plane * params.inner + i;
    var v = i32(q) + (params.origin - i32(ahead)) / 4;
    var lo = load(line, v);
    for (var t = 0u; t < params.taps + ahead; t += 4) {
      v++;
      let hi = load(line, v);
      ${shifted.map((quad, e) => add(quad, `t + ${e} - ahead`)).join("\n      ")}
      lo = hi;
    }`,
  ];
}

/** A correlation. A thread owns 4 neighbours in the lines of some channels; a plane is a group of an image. */
function directSource(d: Direct, activation: Pointwise | null, inputs: Inputs | null): string {
  const [Y, i] = d.wide ? [`vec4<${d.Y}>`, "i / 4"] : [d.Y, "i + e * params.every"];
  const one = d.wide ? `vec4f(${[..."xyzw"].map((c) => `${activation?.name}(v.${c})`)})` : `${activation?.name}(v)`;
  const act = inputs ? `finish${d.wide ? 4 : 1}(${i}, v)` : one;
  const [load, taps] = directTaps(d);
  return /* wgsl */ `
struct Params { threads: u32, biased: u32, ${FIELDS}${inputs ? `, ${inputs.text.fields}` : ""} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${vector(d.X, d.dense ? 4 : 1)}>;
@group(0) @binding(2) var<storage, read> weight: array<${d.W}>;
@group(0) @binding(3) var<storage, read_write> y: array<${Y}>;
@group(0) @binding(4) var<storage, read> bias: array<${d.B}>;
${d.z ? `@group(0) @binding(5) var<storage, read_write> z: array<${Y}>;` : ""}
${load}
fn weightAt(first: u32, tap: u32) -> f32 {
  if (tap >= params.taps) { return 0.0; }
  return f32(weight[first + tap * params.wTap]);
}
${inputs?.text.source ?? activation?.forward ?? ""}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = id.x + id.y * groups.x * 256;
  if (thread >= params.threads) { return; }
  let quads = (params.count + 3) / 4;
  let blocks = (params.outer + ${d.block - 1}) / ${d.block};
  let q = thread % quads;
  let channel = thread / quads % blocks * ${d.block};
  let plane = thread / quads / blocks;
  let group = plane % params.groups;
  let last = params.outer - channel - 1;
  var sums = array<vec4f, ${d.block}>();
  for (var i = 0u; i < params.inner; i++) {
    let first = group * params.wGroup + params.first + channel * params.wOuter + i * params.wInner;
    ${taps}
  }
  for (var o = 0u; o <= min(${d.block - 1}, last); o++) {
    let i = (plane * params.outer + channel + o) * params.size + params.at + 4 * q * params.every;
    for (var e = 0u; e < ${d.wide ? "1" : "min(4, params.count - 4 * q)"}; e++) {
      var v = ${d.wide ? "sums[o]" : "sums[o][e]"};
      if (params.biased != 0) { v += f32(bias[group * params.outer + channel + o]); }
      ${d.z ? `z[${i}] = ${Y}(v);` : ""}
      y[${i}] = ${Y}(${activation ? act : "v"});
    }
  }
}`;
}

/**
 * dw: a thread sums the gradient of 4 taps' weights, for one pair of channels, over every `lanes`th group of 4 outputs,
 * and sumRows adds up the lanes. So the order is always the same.
 */
const weightGradKernel = variants((X: FloatType, Z: FloatType, mirrors: boolean) =>
  kernel<string>(
    `conv1d.weightGrad.${X}.${Z}`,
    /* wgsl */ `
struct Params { lanes: u32, positions: u32, tapBlocks: u32, ${FIELDS} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read> dz: array<${Z}>;
@group(0) @binding(3) var<storage, read_write> partial: array<f32>;
${windows(X, "x", mirrors)}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = id.x + id.y * groups.x * 256;
  let lane = thread % params.lanes;
  let team = thread / params.lanes;
  let firstTap = team % params.tapBlocks * 4;
  let i = team / params.tapBlocks % params.inner;
  let channel = team / params.tapBlocks / params.inner;
  let channels = params.groups * params.outer;
  if (channel >= channels) { return; }
  let group = channel / params.outer;
  let quads = (params.count + 3) / 4;
  var sums = vec4f();
  for (var position = lane; position < params.positions; position += params.lanes) {
    let q = position % quads;
    let image = position / quads;
    let at = (image * channels + channel) * params.count;
    let values = vec4f(${range(4).map((e) => `f32(dz[at + min(4 * q + ${e}, params.count - 1)])`)});
    let quad = select(vec4f(), values, vec4u(0, 1, 2, 3) < vec4u(params.count - 4 * q));
    let output = outputAt((image * params.groups + group) * params.inner + i, 4 * q);
    sums += vec4f(${range(4).map((t) => `dot(quad, vec4f(elements(output, placeOf(vec2u(0, firstTap + ${t})))))`)});
  }
  let to = ((lane * channels + channel) * params.inner + i) * params.taps + firstTap;
  for (var t = 0u; t < min(4, params.taps - firstTap); t++) { partial[to + t] = sums[t]; }
}`,
  ),
);

/** dz = dy · f′(z), where there is an activation, and db: a thread sums dz over every `lanes`th part of a channel. */
function channelSource(T: FloatType, wide: boolean, activation: Pointwise | null, inputs: InputGrads | null): string {
  const [F, V, e] = wide ? ["vec4f", `vec4<${T}>`, [".x", ".y", ".z", ".w"]] : ["f32", T, [""]];
  const total = (sum: string): string => (wide ? `dot(${sum}, vec4f(1))` : sum);
  return /* wgsl */ `
struct Params { lanes: u32, channels: u32, positions: u32, parts: u32${inputs ? `, ${inputs.text.fields}` : ""} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<${V}>;
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;
${
  activation
    ? `@group(0) @binding(3) var<storage, read> z: array<${V}>;
@group(0) @binding(4) var<storage, read_write> dz: array<${V}>;
${inputs ? inputs.text.source : activation.forward + activation.backward}
fn gradAt(i: u32) -> ${F} {
  let a = ${F}(z[i]);
  let g = ${F}(dy[i]);
  let d = ${inputs ? "inputGrads(i, a, g)" : `${F}(${e.map((c) => `${activation.name}Grad(a${c}, g${c})`)})`};
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
  partial[lane * params.channels + channel] = ${total("sum")};
  ${range(inputs?.sums ?? 0)
    .map((k) => `inputPartial(${k}, lane * params.channels + channel, ${total(`inputSum${k}`)});`)
    .join("\n  ")}
}`;
}

const kernels = new Map<Pointwise | null, Record<string, Kernel>>();

/** One kernel for each activation, its inputs' text and key, which holds all else that its text depends on. */
function memo(
  activation: Pointwise | null,
  key: string,
  source: () => string,
  inputs: Inputs | InputGrads | null,
): Kernel {
  let own = kernels.get(activation);
  if (!own) kernels.set(activation, (own = {}));
  return (own[key + (inputs?.text.source ?? "")] ??= kernel<string>(`conv1d.${key}`, source()));
}

/** dx from the gradient of the padded line: adds what the padding repeated to the positions that it came from. */
const foldKernel = variants((T: FloatType) =>
  kernel<string>(
    `conv1d.fold.${T}`,
    /* wgsl */ `
struct Params { threads: u32, input: u32, before: u32, padded: u32, mode: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dpadded: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<${T}>;
${MIRROR}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = id.x + id.y * groups.x * 256;
  if (thread >= params.threads) { return; }
  let line = thread / params.input * params.padded;
  let x = thread % params.input;
  var sum = dpadded[line + params.before + x];
  for (var p = 0u; p < params.padded - params.input; p++) {
    let at = p + select(0, params.input, p >= params.before);
    if (mirror(i32(at) - i32(params.before)) == x) { sum += dpadded[line + at]; }
  }
  dx[thread] = ${T}(sum);
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

const floatOf = ({ dtype }: Tensor): FloatType => dtype as FloatType;
const imagesOf = (x: Tensor, { groups, inner, input }: Correlation): number => x.size / (groups * inner * input);

/** With so few channels in a group matmul wastes most of its work, as its tiles do not fill up. */
const FEW = 8;

/** So many threads for each of `teams` sums that a GPU is full, but not more than there are positions. */
const lanesOf = (teams: number, positions: number): number =>
  Math.max(1, Math.min(Math.ceil(positions / 4), Math.floor(2 ** 18 / teams)));

interface Epilogue {
  readonly bias?: Tensor | null;
  readonly activation?: Pointwise | null;
  readonly inputs?: Inputs | null;
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
  { bias = null, activation = null, inputs = null, z = null }: Epilogue = {},
): void {
  const { inner, outer, groups, count, taps } = c;
  const images = imagesOf(x, c);
  const [X, W, Y, B] = [x, weight, y, bias ?? weight].map(floatOf) as [FloatType, FloatType, FloatType, FloatType];
  if (outer > FEW || taps === 0) {
    matmulForward(weight, x, {
      ...{ M: outer, N: images * count, K: inner * taps, batch: groups, compute },
      gather: (c.gathers[`${X} ${W}`] ??= correlationGather(X, W, c)),
      ...{ bias, activation: inputs ? null : activation, finish: inputs, keepZ: z ?? false, out: y, shape: y.shape },
    });
    return;
  }
  const dense = c.mode === 0 && c.stride === 1 && c.step === 1 && c.input % 4 === 0;
  const block = outer === 1 ? 1 : 4;
  const d: Direct = { X, W, Y, B, z: z !== null, block, mirrors: c.mode > 0, dense, wide: isWide(c) };
  const threadCount = images * groups * Math.ceil(outer / block) * Math.ceil(count / 4);
  const params = { ...fieldsOf(c), threads: threadCount, biased: bias ? 1 : 0, ...inputs?.params };
  const key = `direct.${Object.values(d).join(".")}`;
  memo(activation, key, () => directSource(d, activation, inputs), inputs).run(
    // without a bias, a binding that `biased` says not to read
    { params, x, weight, y, bias: bias ?? weight, ...(z && { z }), ...inputs?.bindings },
    { workgroups: threads(threadCount) },
  );
}

/** dx, of the shape and dtype of x. */
function inputGrad(dz: Tensor, weight: Tensor, x: Tensor, g: Geometry, compute: FloatType): Tensor {
  const { mode, input } = g.forward;
  const { padded, before } = g;
  const dx = emptyLike(x);
  const dpadded = mode === 0 ? dx : empty([x.size / input, padded], { device: x.device });
  for (const c of g.inputGrad) correlate(dz, weight, dpadded, c, compute);
  if (dpadded !== dx) {
    const params = { threads: x.size, input, before, padded, mode };
    foldKernel(floatOf(x)).run({ params, dpadded, dx }, { workgroups: threads(x.size) });
    dpadded.dispose();
  }
  return dx;
}

/** dw, of the shape and dtype of weight. */
function weightGrad(dz: Tensor, x: Tensor, weight: Tensor, c: Correlation, compute: FloatType): Tensor {
  const { inner, outer, groups, taps, count } = c;
  const images = imagesOf(x, c);
  const [X, W, Z] = [floatOf(x), floatOf(weight), floatOf(dz)];
  if (outer > FEW || inner > FEW) {
    return matmulForward(dz, x, {
      ...{ M: outer, N: inner * taps, K: images * count, batch: groups, compute },
      ...{ gather: (c.gathers[`dw ${Z} ${X}`] ??= weightGradGather(Z, X, c)), shape: weight.shape, dtype: W },
    }).c;
  }
  const tapBlocks = Math.ceil(taps / 4);
  const teams = groups * outer * inner * tapBlocks;
  const positions = images * Math.ceil(count / 4);
  const lanes = lanesOf(teams, positions);
  const partial = empty([lanes, weight.size], { device: x.device });
  weightGradKernel(X, Z, c.mode > 0).run(
    { params: { ...fieldsOf(c), lanes, positions, tapBlocks }, x, dz, partial },
    { workgroups: threads(lanes * teams) },
  );
  const dw = sumRows(partial, weight.shape, W);
  partial.dispose();
  return dw;
}

/**
 * dz = dy · f′(z), or dy itself without an activation, db, f32 [channels], and the gradients of the activation's
 * inputs.
 */
function channelGrad(
  dy: Tensor,
  z: Tensor | null,
  activation: Pointwise | null,
  { groups, outer, count }: Correlation,
  inputs: Inputs | null = null,
): { dz: Tensor; db: Tensor; dinputs: (Tensor | null)[] } {
  const channels = groups * outer;
  const wide = count % 4 === 0;
  const parts = wide ? count / 4 : count;
  const positions = dy.size / channels / (wide ? 4 : 1);
  const lanes = lanesOf(channels, positions);
  const dz = activation ? emptyLike(dy) : dy;
  const partial = empty([lanes, channels], { device: dy.device });
  const own = inputs && inputGrads(inputs, wide, lanes);
  const key = `channels.${dy.dtype}.${wide}`;
  memo(activation, key, () => channelSource(floatOf(dy), wide, activation, own), own).run(
    {
      params: { lanes, channels, positions, parts, ...own?.params },
      dy,
      partial,
      ...(z && { z, dz }),
      ...own?.bindings,
    },
    { workgroups: threads(lanes * channels) },
  );
  const db = sumRows(partial, [channels]);
  partial.dispose();
  return { dz, db, dinputs: own?.grads() ?? [] };
}

// Differentiable function -----------------------------------------------------------------------

export interface Conv1dOptions {
  /** [out channels] */
  bias?: Tensor | null;
  /** Of the windows. Default 1. */
  stride?: number;
  /** On both sides, or "same" (as many outputs as inputs; stride 1), or "valid" (none). Default 0. */
  padding?: number | "same" | "valid";
  /** Between the taps of a window. Default 1. */
  dilation?: number;
  /** Channels fall into so many groups, each with weights of its own. Default 1. */
  groups?: number;
  /** What padding holds: zeros, the line mirrored at its end, its end, or its other side. Default "zeros". */
  paddingMode?: PaddingMode;
  /** Applied to the result, fused: anything with the WGSL of a function and its derivative. */
  activation?: Pointwise | null;
  /**
   * For the activation's parameters after x, in order: f32, f16 or bool, of y's shape, or [out channels]. The floats
   * among them get gradients.
   */
  inputs?: readonly Tensor[];
}

/**
 * `activation(convolution of x with weight + bias, ...inputs)`: x [N, C, L] or [C, L], weight [O, C / groups, K], bias
 * [O] → [N, O, L′] or [O, L′]. Under autocast the operands are rounded to f16 and y is f16. Matches
 * torch.nn.functional.conv1d, with the padding modes of torch.nn.Conv1d.
 */
export function conv1d(x: Tensor, weight: Tensor, options: Conv1dOptions = {}): Tensor {
  const { bias = null, activation = null, inputs = [] } = options;
  const g = check(x, weight, options);
  const c = g.forward;
  const shape = [...x.shape.slice(0, -2), c.groups * c.outer, c.count];
  const extra = inputsOf("conv1d", activation, inputs, shape, shape.length - 2);
  const other = extra ? null : delegated<Tensor>("conv1d", { x, weight, bias }, options);
  if (other) return other;
  const compute = autocastType() ?? floatOf(x);
  const y = emptyLike(x, { shape, dtype: compute });
  const z = activation && [x, weight, bias, ...inputs].some(needsGrad) ? emptyLike(y) : null;
  correlate(x, weight, y, c, compute, { bias, activation, inputs: extra, z });
  return record(y, [x, weight, bias ?? x, ...inputs], (dy) => {
    const sum = () => channelGrad(dy, z, activation, c, extra);
    const act = z && sum();
    const dz = act?.dz ?? dy;
    const dx = needsGrad(x) ? inputGrad(dz, weight, x, g, compute) : null;
    const dw = needsGrad(weight) ? weightGrad(dz, x, weight, c, compute) : null;
    const db = needsGrad(bias) ? (act ?? sum()).db : null;
    act?.dz.dispose();
    return [dx, dw, db && bias && cast(db, bias.dtype), ...(act?.dinputs ?? [])];
  });
}

function whole(where: string, value: number, least: number): number {
  if (!Number.isInteger(value) || value < least)
    throw new Error(`${where} is ${JSON.stringify(value)}, expected a whole number ≥ ${least}`);
  return value;
}

function groupsOf(where: string, groups: number, inputs: number, outputs: number): number {
  if (!Number.isInteger(groups) || groups < 1 || inputs % groups !== 0 || outputs % groups !== 0)
    throw new Error(`${where}: groups is ${groups}, expected a divisor of ${inputs} and ${outputs} channels`);
  return groups;
}

function modeOf(where: string, mode: PaddingMode): number {
  const n = MODES.indexOf(mode);
  if (n < 0) throw new Error(`${where}: paddingMode is "${mode}", expected ${MODES.join(", ")}`);
  return n;
}

function paddingOf(
  where: string,
  padding: number | "same" | "valid",
  total: number,
  stride: number,
): readonly [before: number, after: number] {
  if (padding === "valid") return [0, 0];
  if (padding !== "same") {
    if (typeof padding === "string")
      throw new Error(`${where}: padding is "${padding}", expected "same", "valid" or a number`);
    return [whole(`${where}: padding`, padding, 0), padding];
  }
  if (stride !== 1) throw new Error(`${where}: padding "same" needs a stride of 1, got ${stride}`);
  return [Math.floor(total / 2), Math.ceil(total / 2)];
}

function check(x: Tensor, weight: Tensor, options: Conv1dOptions): Geometry {
  const { bias, padding = 0, groups = 1, paddingMode = "zeros" } = options;
  for (const [name, t] of Object.entries({ x, weight, bias })) {
    if (t && t.dtype !== "f32" && t.dtype !== "f16")
      throw new Error(`conv1d: ${name} is ${t.dtype}, expected f32 or f16`);
  }
  if (weight.shape.length !== 3)
    throw new Error(`conv1d: weight has shape [${weight.shape}], expected [O, C / groups, K]`);
  if (x.shape.length !== 2 && x.shape.length !== 3)
    throw new Error(`conv1d: x has shape [${x.shape}], expected [N, C, L] or [C, L]`);
  const [C, L] = x.shape.slice(-2) as [number, number];
  const [O, inner, K] = weight.shape as [number, number, number];
  groupsOf("conv1d", groups, inner * groups, O);
  if (C !== inner * groups) {
    const expected = `expected ${inner * groups} channels for weight [${weight.shape}] and groups ${groups}`;
    throw new Error(`conv1d: x has shape [${x.shape}], ${expected}`);
  }
  if (bias && (bias.shape.length !== 1 || bias.size !== O))
    throw new Error(`conv1d: bias has shape [${bias.shape}], expected [${O}]`);
  if (!autocastType() && x.dtype !== weight.dtype)
    throw new Error(`conv1d: x is ${x.dtype} and weight ${weight.dtype}, expected one dtype (or autocast)`);
  const mode = modeOf("conv1d", paddingMode);
  const stride = whole("conv1d: stride", options.stride ?? 1, 1);
  const dilation = whole("conv1d: dilation", options.dilation ?? 1, 1);
  const [before, after] = paddingOf("conv1d", padding, dilation * (K - 1), stride);
  const least = dilation * (K - 1) + 1 - before - after;
  if (L < least)
    throw new Error(
      `conv1d: x has shape [${x.shape}], expected a length of ${least} or more for weight [${weight.shape}]`,
    );
  const most = paddingMode === "reflect" ? L - 1 : paddingMode === "circular" ? L : Infinity;
  if (after > most)
    throw new Error(
      `conv1d: padding is ${after}, expected at most ${most} for x [${x.shape}] and paddingMode "${paddingMode}"`,
    );
  return geometryOf(L, K, stride, before, after, dilation, inner, O / groups, groups, after > 0 ? mode : 0);
}

// Module ----------------------------------------------------------------------------------------

export interface Conv1dModuleOptions extends Omit<Conv1dOptions, "bias" | "inputs"> {
  /** Learn a bias. Default true. */
  bias?: boolean;
  device?: Device;
}

/**
 * `conv1d` with learned weight [out, in / groups, length] and bias [out]. Matches
 * `torch.nn.Conv1d(inChannels, outChannels, kernelSize, …)`.
 */
export class Conv1d extends Module {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly kernelSize: number;
  readonly stride: number;
  readonly padding: number | "same" | "valid";
  readonly dilation: number;
  readonly groups: number;
  readonly paddingMode: PaddingMode;
  readonly activation: Pointwise | null;
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: number,
    {
      stride = 1,
      padding = 0,
      dilation = 1,
      groups = 1,
      bias = true,
      paddingMode = "zeros",
      activation = null,
      device,
    }: Conv1dModuleOptions = {},
  ) {
    super();
    this.inChannels = inChannels;
    this.outChannels = outChannels;
    this.kernelSize = whole("Conv1d: kernelSize", kernelSize, 1);
    this.stride = whole("Conv1d: stride", stride, 1);
    this.dilation = whole("Conv1d: dilation", dilation, 1);
    paddingOf("Conv1d", padding, dilation * (kernelSize - 1), stride);
    this.padding = padding;
    this.groups = groupsOf("Conv1d", groups, inChannels, outChannels);
    modeOf("Conv1d", paddingMode);
    this.paddingMode = paddingMode;
    this.activation = activation && checkPointwise("Conv1d: activation", activation);
    // PyTorch's initialisation: both uniform in ±1/√(inputs of an output).
    const bound = 1 / Math.sqrt((inChannels / groups) * kernelSize);
    const shape = [outChannels, inChannels / groups, kernelSize];
    this.weight = parameter(kaimingUniform(empty(shape, { device }), { a: Math.sqrt(5) }));
    this.bias = bias ? parameter(uniform(empty([outChannels], { device }), -bound, bound)) : null;
  }

  /** `inputs`: for the activation's parameters after x. */
  forward(x: Tensor, ...inputs: readonly Tensor[]): Tensor {
    return conv1d(x, this.weight, { ...this, inputs });
  }

  protected override extraRepr(): string {
    const { inChannels, outChannels, kernelSize, stride, padding, dilation, groups, paddingMode, activation } = this;
    const options = { kernelSize, stride, padding, dilation, groups, paddingMode, bias: this.bias !== null };
    const shown = Object.entries({ ...options, ...(activation && { activation: activation.name }) });
    return [inChannels, outChannels, ...shown.map((entry) => entry.join("="))].join(", ");
  }
}
