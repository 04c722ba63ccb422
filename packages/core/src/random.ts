/**
 * Random numbers, counter-based: a draw is a pure function of (seed, stream, element), so nothing but two numbers need
 * be stored to draw it again in a backward pass.
 *
 *   philox  Philox4x32-10 (Salmon et al. 2011, Random123): initialisation, rand, randn. Known-answer tests.
 *   pcg4d   Jarzynski & Olano, JCGT 9(3) 2020: dropout masks, a fifteenth of philox's integer work.
 *
 * The seed and a base counter live in a GPU buffer; a launch passes its stream as an offset from that base. Advancing the
 * base is itself a dispatch, so a captured step draws fresh numbers at each replay, the same ones as eager steps would.
 */

import { threads } from "./arithmetic.ts";
import { needsGrad } from "./autograd.ts";
import { type Device, defaultDevice } from "./device.ts";
import { kernel, variants } from "./kernel.ts";
import { persist } from "./scope.ts";
import { state } from "./state.ts";
import { empty, type FloatType, type Shape, type Tensor, type TensorOptions } from "./tensor.ts";

/** WGSL: `fn pcg4d(v: vec4u) -> vec4u`. */
export const pcg4d = /* wgsl */ `
fn pcg4d(counter: vec4u) -> vec4u {
  var v = counter * 1664525u + 1013904223u;
  v.x += v.y * v.w; v.y += v.z * v.x; v.z += v.x * v.y; v.w += v.y * v.z;
  v ^= v >> vec4u(16);
  v.x += v.y * v.w; v.y += v.z * v.x; v.z += v.x * v.y; v.w += v.y * v.z;
  return v;
}`;

/** WGSL: `fn philox(counter: vec4u, key: vec2u) -> vec4u`. WGSL has no 64-bit product; its high word is put together from 16-bit halves. */
export const philox = /* wgsl */ `
fn mulHigh(a: u32, b: u32) -> u32 {
  let al = a & 0xffff; let ah = a >> 16; let bl = b & 0xffff; let bh = b >> 16;
  let t = ah * bl + ((al * bl) >> 16);
  return ah * bh + (t >> 16) + ((al * bh + (t & 0xffff)) >> 16);
}
fn philox(counter: vec4u, seed: vec2u) -> vec4u {
  var c = counter;
  var key = seed;
  for (var round = 0; round < 10; round++) {
    let a = 0xD2511F53u * c.x;
    let b = 0xCD9E8D57u * c.z;
    c = vec4u(mulHigh(0xCD9E8D57u, c.z) ^ c.y ^ key.x, b, mulHigh(0xD2511F53u, c.x) ^ c.w ^ key.y, a);
    key += vec2u(0x9E3779B9u, 0xBB67AE85u);
  }
  return c;
}`;

/** rng = (seed low, seed high, base): the counter of element group i of stream s is (i, base + s, 0, 0). */
const drawKernel = variants((T: FloatType, distribution: "uniform" | "normal") =>
  kernel(
    `core.${distribution}.${T}`,
    /* wgsl */ `
struct Params { vectors: u32, stream: u32, a: f32, b: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rng: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<${T}>>;
${philox}

/** In [0, 1): 24 bits. */
fn unit(bits: vec4u) -> vec4f { return vec4f(bits >> vec4u(8)) * 0x1p-24; }

/** a ≤ y < b. */
fn uniform_(bits: vec4u) -> vec4f { return params.a + (params.b - params.a) * unit(bits); }

/** Mean a, standard deviation b: Box-Muller on two pairs; the half step keeps the logarithm's argument above zero. */
fn normal_(bits: vec4u) -> vec4f {
  let u = unit(bits) + 0x1p-25;
  let radius = sqrt(-2.0 * log(u.xy));
  let angle = 6.283185307179586 * u.zw;
  return params.a + params.b * vec4f(radius * cos(angle), radius * sin(angle));
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.vectors) { return; }
  y[i] = vec4<${T}>(${distribution}_(philox(vec4u(i, rng[2] + params.stream, 0, 0), vec2u(rng[0], rng[1]))));
}`,
  ),
);

const advanceKernel = variants(() =>
  kernel(
    "core.advanceStreams",
    /* wgsl */ `
struct Params { count: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> rng: array<u32>;

@compute @workgroup_size(1)
fn main() { rng[2] += params.count; }`,
  ),
);

function generator(device: Device): NonNullable<Device["random"]> {
  if (!device.random) {
    if (device.recorder) throw new Error("capture: call manualSeed() or draw random numbers once before capturing");
    seed(device, Math.floor(Math.random() * 2 ** 32));
  }
  return device.random!;
}

function seed(device: Device, value: number): void {
  const low = value >>> 0;
  const high = Math.floor(value / 2 ** 32) >>> 0;
  const tensor = device.random?.state ?? persist(empty([4], { dtype: "u32", device }));
  device.write(tensor, new Uint32Array([low, high, 0, 0]));
  device.random = { state: tensor, base: 0, drawn: 0 };
}

/** Starts the device's random numbers anew: the same seed gives the same numbers. */
export function manualSeed(value: number, device: Device = defaultDevice()): void {
  if (!Number.isSafeInteger(value) || value < 0)
    throw new Error(`manualSeed: seed ${value}; expected a whole number from 0 to 2^53 - 1`);
  seed(device, value);
}

/** A claim on one counter of the device's generator. */
export interface Stream {
  /** Bind as `rng: array<u32>`: (seed low, seed high, base). */
  readonly state: Tensor;
  /** Pass as a u32 parameter; the counter is `rng[2] + stream` in wrapping arithmetic. Read it anew for each launch. */
  readonly offset: number;
}

/** The next counter of the generator. A backward pass that reads `offset` again gets the numbers of its forward pass. */
export function nextStream(device: Device): Stream {
  const random = generator(device);
  const absolute = random.base + random.drawn++;
  return {
    state: random.state,
    get offset() {
      return (absolute - device.random!.base) >>> 0;
    },
  };
}

/**
 * @internal Moves the base past the streams drawn so far, so that the next step's launches have the same parameters, and
 * thus the same bind groups, as this one's. Called where the outermost scope ends.
 */
export function advanceStreams(device: Device | undefined = state.device): void {
  const random = device?.random;
  if (!random || random.drawn === 0) return;
  const count = random.drawn;
  advanceKernel().run({ params: { count }, rng: random.state }, { workgroups: [1] });
  random.base = (random.base + count) >>> 0;
  random.drawn = 0;
}

function draw(y: Tensor, distribution: "uniform" | "normal", a: number, b: number): Tensor {
  if (y.dtype !== "f32" && y.dtype !== "f16")
    throw new Error(`${distribution}: expected an f32 or f16 tensor, got ${y.dtype}`);
  if (y.node && needsGrad(y))
    throw new Error(`${distribution}: cannot overwrite the result of an operation that is on the tape`);
  const vectors = Math.ceil(y.size / 4);
  const stream = nextStream(y.device);
  const params = { vectors, stream: stream.offset, a, b };
  drawKernel(y.dtype, distribution).run({ params, rng: stream.state, y }, { workgroups: threads(vectors) });
  return y;
}

/** Fills `y` in place with numbers uniform in [low, high). */
export const uniform = (y: Tensor, low = 0, high = 1): Tensor => draw(y, "uniform", low, high);

/** Fills `y` in place with normal numbers. */
export const normal = (y: Tensor, mean = 0, std = 1): Tensor => draw(y, "normal", mean, std);

/** A tensor of numbers uniform in [0, 1). */
export const rand = (shape: Shape, options: TensorOptions = {}): Tensor => uniform(empty(shape, options));

/** A tensor of standard normal numbers. */
export const randn = (shape: Shape, options: TensorOptions = {}): Tensor => normal(empty(shape, options));
