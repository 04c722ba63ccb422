/**
 * torch.nn.init: every function overwrites a tensor in place, off the tape, and returns it. Random numbers come from the
 * device's generator, so `manualSeed` repeats them.
 */
import {
  add,
  autocast,
  copyInto,
  normal as drawNormal,
  uniform as drawUniform,
  empty,
  type FloatType,
  fill,
  kernel,
  matmul,
  mul,
  needsGrad,
  nextStream,
  noGrad,
  pcg4d,
  philox,
  scope,
  type Tensor,
  tensor,
  threads,
  variants,
} from "@kindling/core";

// Kernels ---------------------------------------------------------------------------------------

/**
 * A normal number between two bounds, from p uniform in (low, low + range), the probabilities below them: the inverse of the
 * normal distribution function by Giles' polynomials (2012), of 4p(1 − p), which keeps its digits in a tail.
 */
const truncatedKernel = /* @__PURE__ */ variants((T: FloatType) =>
  kernel(
    `nn.truncNormal.${T}`,
    /* wgsl */ `
struct Params { vectors: u32, stream: u32, low: f32, range: f32, mean: f32, scale: f32, a: f32, b: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rng: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<${T}>>;
${philox}

fn central(v: f32) -> f32 {
  let w = v - 2.5;
  return 1.50140941 + w * (0.246640727 + w * (-0.00417768164 + w * (-0.00125372503 + w * (0.000218580870 + w * (-4.39150654e-6
    + w * (-3.5233877e-6 + w * (3.43273939e-7 + w * 2.81022636e-8)))))));
}
fn tail(v: f32) -> f32 {
  let w = sqrt(v) - 3.0;
  return 2.83297682 + w * (1.00167406 + w * (0.00943887047 + w * (-0.0076224613 + w * (0.00573950773 + w * (-0.00367342844
    + w * (0.00134934322 + w * (0.000100950558 + w * -0.000200214257)))))));
}
fn quantile(p: f32) -> f32 {
  let w = -log(4.0 * p * (1.0 - p));
  return 1.41421356 * (2.0 * p - 1.0) * select(tail(max(w, 5.0)), central(min(w, 5.0)), w < 5.0);
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.vectors) { return; }
  let bits = philox(vec4u(i, rng[2] + params.stream, 0, 0), vec2u(rng[0], rng[1]));
  let p = params.low + params.range * (vec4f(bits >> vec4u(8)) * 0x1p-24 + 0x1p-25);
  let z = vec4f(quantile(p.x), quantile(p.y), quantile(p.z), quantile(p.w));
  y[i] = vec4<${T}>(clamp(params.mean + params.scale * z, vec4f(params.a), vec4f(params.b)));
}`,
  ),
);

/** Sets the elements of a column to zero whose random key is among the smallest `zeros` of the column. */
const sparseKernel = /* @__PURE__ */ variants((T: FloatType) =>
  kernel(
    `nn.sparse.${T}`,
    /* wgsl */ `
struct Params { rows: u32, cols: u32, zeros: u32, stream: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rng: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<${T}>;
${pcg4d}
fn key(row: u32, col: u32) -> u32 { return pcg4d(vec4u(row * params.cols + col, rng[2] + params.stream, rng[0], rng[1])).x; }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.rows * params.cols) { return; }
  let row = i / params.cols;
  let col = i % params.cols;
  let own = key(row, col);
  var rank = 0u;
  for (var r = 0u; r < params.rows; r++) {
    let other = key(r, col);
    if (other < own || (other == own && r < row)) { rank++; }
  }
  if (rank < params.zeros) { y[i] = ${T}(0); }
}`,
  ),
);

// Checks ----------------------------------------------------------------------------------------

/** Throws unless `x` may be overwritten; with `ranks`, unless it has so many axes. */
function check(name: string, x: Tensor, ranks?: readonly number[]): void {
  if (x.dtype !== "f32" && x.dtype !== "f16") throw new Error(`${name}: expected an f32 or f16 tensor, got ${x.dtype}`);
  if (x.node && needsGrad(x))
    throw new Error(`${name}: cannot overwrite the result of an operation that is on the tape`);
  if (ranks && !ranks.includes(x.shape.length))
    throw new Error(`${name}: shape [${x.shape}], expected ${ranks.join(", ").replace(/, (\d+)$/, " or $1")} axes`);
}

/** What one output of a weight [out, in, …kernel] sums over, and what one of its inputs feeds. */
function fans(name: string, weight: Tensor): { fanIn: number; fanOut: number } {
  check(name, weight);
  const [out, inputs, ...kernel] = weight.shape;
  if (out === undefined || inputs === undefined)
    throw new Error(`${name}: shape [${weight.shape}], expected at least two axes, [out, in, …]`);
  const field = kernel.reduce((n, d) => n * d, 1);
  return { fanIn: inputs * field, fanOut: out * field };
}

/** Writes `values` into `x`. */
function write(x: Tensor, values: Float32Array): Tensor {
  const { dtype, device, shape } = x;
  return noGrad(() => {
    const source = tensor(values, { shape, dtype, device });
    copyInto(x, source);
    source.dispose();
    return x;
  });
}

// Plain distributions ---------------------------------------------------------------------------

/** Uniform in [a, b). Matches torch.nn.init.uniform_. */
export const uniform = (x: Tensor, a = 0, b = 1): Tensor => drawUniform(x, a, b);

/** Matches torch.nn.init.normal_. */
export const normal = (x: Tensor, mean = 0, std = 1): Tensor => drawNormal(x, mean, std);

export interface TruncNormalOptions {
  /** Of the distribution before it is cut. Default 0. */
  mean?: number;
  /** Default 1. */
  std?: number;
  /** Smallest number. Default −2. */
  a?: number;
  /** Largest one. Default 2. */
  b?: number;
}

/** A normal distribution without what lies outside of [a, b]. Matches torch.nn.init.trunc_normal_. */
export function truncNormal(x: Tensor, { mean = 0, std = 1, a = -2, b = 2 }: TruncNormalOptions = {}): Tensor {
  check("truncNormal", x);
  if (!(std > 0)) throw new Error(`truncNormal: std is ${std}, expected a number above 0`);
  if (!(a < b)) throw new Error(`truncNormal: a is ${a} and b ${b}, expected a below b`);
  // In the lower tail probabilities keep their digits: bounds above the mean are mirrored.
  const sign = a + b > 2 * mean ? -1 : 1;
  const [from, to] = [a, b].map((bound) => (sign * (bound - mean)) / std).sort((p, q) => p - q) as [number, number];
  const low = normalBelow(from);
  const range = normalBelow(to) - low;
  const vectors = Math.ceil(x.size / 4);
  const stream = nextStream(x.device);
  const params = { vectors, stream: stream.offset, low, range, mean, scale: sign * std, a, b };
  truncatedKernel(x.dtype as FloatType).run({ params, rng: stream.state, y: x }, { workgroups: threads(vectors) });
  return x;
}

/** The probability that a standard normal number is below z: erfc(−z / √2) / 2, with a relative error of 1.2e-7 (Numerical Recipes). */
function normalBelow(z: number): number {
  const v = Math.abs(z) / Math.SQRT2;
  const t = 1 / (1 + v / 2);
  const coefficients = [
    ...[-1.26551223, 1.00002368, 0.37409196, 0.09678418, -0.18628806],
    ...[0.27886807, -1.13520398, 1.48851587, -0.82215223, 0.17087277],
  ];
  const half = (t * Math.exp(-v * v + coefficients.reduceRight((sum, c) => sum * t + c, 0))) / 2;
  return z < 0 ? half : 1 - half;
}

// Constants -------------------------------------------------------------------------------------

/** Matches torch.nn.init.constant_. */
export function constant(x: Tensor, value: number): Tensor {
  check("constant", x);
  return fill(x, value);
}

/** Matches torch.nn.init.ones_. */
export const ones = (x: Tensor): Tensor => constant(x, 1);

/** Matches torch.nn.init.zeros_. */
export const zeros = (x: Tensor): Tensor => constant(x, 0);

/** The identity matrix, of any rows and columns. Matches torch.nn.init.eye_. */
export function eye(x: Tensor): Tensor {
  check("eye", x, [2]);
  const [rows, cols] = x.shape as [number, number];
  const values = new Float32Array(x.size);
  for (let i = 0; i < Math.min(rows, cols); i++) values[i * cols + i] = 1;
  return write(x, values);
}

/** A convolution's weight that passes its input on, channel by channel, in each group. Matches torch.nn.init.dirac_. */
export function dirac(x: Tensor, groups = 1): Tensor {
  check("dirac", x, [3, 4, 5]);
  const [out, inputs, ...kernel] = x.shape as [number, number, ...number[]];
  if (!Number.isInteger(groups) || groups < 1 || out % groups !== 0)
    throw new Error(`dirac: groups is ${groups}, expected a divisor of the ${out} output channels`);
  const values = new Float32Array(x.size);
  const field = kernel.reduce((n, d) => n * d, 1);
  const centre = kernel.reduce((at, d) => at * d + Math.floor(d / 2), 0);
  const own = out / groups;
  for (let o = 0; o < out; o++) if (o % own < inputs) values[(o * inputs + (o % own)) * field + centre] = 1;
  return write(x, values);
}

// By fans ---------------------------------------------------------------------------------------

/** Functions that `calculateGain` knows, in PyTorch's spelling or ours. */
export type Nonlinearity =
  | ("linear" | "conv1d" | "conv2d" | "conv3d" | "convTranspose1d" | "convTranspose2d" | "convTranspose3d")
  | ("conv_transpose1d" | "conv_transpose2d" | "conv_transpose3d")
  | ("sigmoid" | "tanh" | "relu" | "leakyRelu" | "leaky_relu" | "selu");

/** What a layer's weights are scaled by for a function after it; `param` is the slope of leakyRelu. Matches torch.nn.init.calculate_gain. */
export function calculateGain(nonlinearity: Nonlinearity, param = 0.01): number {
  const name = String(nonlinearity).replaceAll("_", "").toLowerCase();
  if (/^(linear|conv(transpose)?[123]d|sigmoid)$/.test(name)) return 1;
  const gains: Record<string, number> = {
    tanh: 5 / 3,
    relu: Math.SQRT2,
    leakyrelu: Math.sqrt(2 / (1 + param * param)),
    selu: 3 / 4,
  };
  const gain = Object.hasOwn(gains, name) ? gains[name] : undefined;
  if (gain === undefined)
    throw new Error(
      `calculateGain: nonlinearity is "${nonlinearity}", expected linear, conv1d …, sigmoid, tanh, relu, leakyRelu or selu`,
    );
  return gain;
}

/** Glorot & Bengio 2010, uniform. Matches torch.nn.init.xavier_uniform_. */
export function xavierUniform(x: Tensor, gain = 1): Tensor {
  const { fanIn, fanOut } = fans("xavierUniform", x);
  const bound = gain * Math.sqrt(6 / (fanIn + fanOut));
  return uniform(x, -bound, bound);
}

/** Glorot & Bengio 2010, normal. Matches torch.nn.init.xavier_normal_. */
export function xavierNormal(x: Tensor, gain = 1): Tensor {
  const { fanIn, fanOut } = fans("xavierNormal", x);
  return normal(x, 0, gain * Math.sqrt(2 / (fanIn + fanOut)));
}

export interface KaimingOptions {
  /** Slope of the leakyRelu that follows. Default 0. */
  a?: number;
  /** Keep the variance of the forward pass, or of the gradients. Default fanIn. */
  mode?: "fanIn" | "fanOut" | "fan_in" | "fan_out";
  /** Default leakyRelu. */
  nonlinearity?: Nonlinearity;
}

/** gain / √fan */
function kaimingStd(
  name: string,
  x: Tensor,
  { a = 0, mode = "fanIn", nonlinearity = "leakyRelu" }: KaimingOptions,
): number {
  const { fanIn, fanOut } = fans(name, x);
  const fan = { fanIn, fanOut, fan_in: fanIn, fan_out: fanOut }[mode];
  if (fan === undefined) throw new Error(`${name}: mode is "${mode}", expected fanIn or fanOut`);
  return calculateGain(nonlinearity, a) / Math.sqrt(fan);
}

/** He et al. 2015, uniform. Matches torch.nn.init.kaiming_uniform_. */
export function kaimingUniform(x: Tensor, options: KaimingOptions = {}): Tensor {
  const bound = Math.sqrt(3) * kaimingStd("kaimingUniform", x, options);
  return uniform(x, -bound, bound);
}

/** He et al. 2015, normal. Matches torch.nn.init.kaiming_normal_. */
export const kaimingNormal = (x: Tensor, options: KaimingOptions = {}): Tensor =>
  normal(x, 0, kaimingStd("kaimingNormal", x, options));

// Structure -------------------------------------------------------------------------------------

/**
 * A random matrix [shape[0], rest] with orthonormal rows or columns, whichever are fewer, times `gain`: all of them equally
 * likely. Matches torch.nn.init.orthogonal_.
 *
 * PyTorch takes the Q of a normal matrix's QR decomposition; this takes the orthogonal factor of its polar one, which has the
 * same distribution and needs nothing but matrix products: X ← X (3 − XᵀX) / 2 moves each singular value towards 1.
 */
export function orthogonal(x: Tensor, gain = 1): Tensor {
  check("orthogonal", x);
  if (x.shape.length < 2) throw new Error(`orthogonal: shape [${x.shape}], expected at least two axes`);
  const rows = x.shape[0]!;
  const cols = x.size / rows;
  const [few, many] = [Math.min(rows, cols), Math.max(rows, cols)].map(Math.sqrt) as [number, number];
  // Singular values of a normal matrix lie between the difference and the sum of these roots, give or take a few. The
  // iteration multiplies small ones by 1.5 and converges below √3; rounding alone makes the smallest about 1e-7.
  const largest = few + many + 2;
  const smallest = Math.max((many - few - 4) / largest, 1e-7);
  const steps = Math.ceil(Math.log(1 / smallest) / Math.log(1.5)) + 6;
  const polar = (): Tensor =>
    scope(() => {
      let q = drawNormal(empty([rows, cols], { device: x.device }), 0, 1 / largest);
      for (let i = 0; i < steps; i++) {
        const product =
          rows >= cols ? matmul(q, matmul(q, q, { transposeA: true })) : matmul(matmul(q, q, { transposeB: true }), q);
        const next = add(mul(q, 1.5), mul(product, -0.5));
        q.dispose();
        q = next;
      }
      return copyInto(x, mul(q, gain));
    });
  return noGrad(() => autocast("f32", polar));
}

/** Normal numbers, of which the fraction `sparsity` of each column is zero. Matches torch.nn.init.sparse_. */
export function sparse(x: Tensor, sparsity: number, std = 0.01): Tensor {
  check("sparse", x, [2]);
  if (!(sparsity >= 0 && sparsity <= 1))
    throw new Error(`sparse: sparsity is ${sparsity}, expected a fraction from 0 to 1`);
  const [rows, cols] = x.shape as [number, number];
  drawNormal(x, 0, std);
  const stream = nextStream(x.device);
  const params = { rows, cols, zeros: Math.ceil(sparsity * rows), stream: stream.offset };
  sparseKernel(x.dtype as FloatType).run({ params, rng: stream.state, y: x }, { workgroups: threads(x.size) });
  return x;
}
