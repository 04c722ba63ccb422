/**
 * What every layer's tests share: the test device, the conformance check against a float64 reference, PyTorch fixtures.
 *
 * The conformance check hands out memory filled with NaN and followed by canaries, so that an output left unwritten or a
 * write beyond the end fails even where the GPU's own bounds checks would hide it.
 */
import { cast } from "./arithmetic.ts";
import { type Device, init } from "./device.ts";
import type { Block } from "./pool.ts";
import { parseSafetensors, valuesOf } from "./safetensors.ts";
import { state } from "./state.ts";
import { type DType, type FloatType, type Shape, sizeOf, type Tensor, tensor } from "./tensor.ts";

/** The device that all tests of a process share. */
export async function testDevice(): Promise<Device> {
  return state.device ?? (await init());
}

/** Numbers in [-1, 1), the same for the same seed. */
export function randomValues(size: number, seed = 1): Float32Array<ArrayBuffer> {
  let s = Math.imul(seed, 0x9e3779b9) ^ 0x5bd1e995;
  return Float32Array.from({ length: size }, () => {
    s = (Math.imul(s, 1664525) + 1013904223) | 0;
    let x = s ^ (s >>> 16);
    x = Math.imul(x, 0x7feb352d);
    x ^= x >>> 15;
    return x / 2 ** 31;
  });
}

/** The nearest f16 of each value: what an f16 tensor of them holds, for the reference to start from. */
export function toF16(values: ArrayLike<number>): Float32Array {
  const out = new Float32Array(values.length);
  for (let i = 0; i < out.length; i++) {
    const v = values[i]!;
    const step = 2 ** Math.max(Math.floor(Math.log2(Math.abs(v) || 1)) - 10, -24);
    const q = v / step;
    const r = Math.round(q);
    out[i] = (Math.abs(q % 1) === 0.5 && r % 2 !== 0 ? r - 1 : r) * step;
  }
  return out;
}

/** Largest mixed error |a - b| / (1 + |b|). A NaN on one side, or a different length, counts as infinite. */
export function mixedError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) return Number.POSITIVE_INFINITY;
  let max = 0;
  for (let i = 0; i < expected.length; i++) {
    const a = actual[i]!;
    const b = expected[i]!;
    if (Object.is(a, b) || (Number.isNaN(a) && Number.isNaN(b))) continue;
    const e = Math.abs(a - b) / (1 + Math.abs(b));
    max = Math.max(max, Number.isNaN(e) ? Number.POSITIVE_INFINITY : e);
  }
  return max;
}

type Values = ArrayLike<number>;

export interface LayerSpec {
  /** Shapes of the differentiable inputs. */
  readonly inputs: readonly Shape[];
  /** Default f32. */
  readonly dtype?: FloatType;
  /** Values of the inputs; default uniform in [-1, 1). */
  readonly values?: readonly Values[];
  /** The function under test. */
  readonly run: (...inputs: Tensor[]) => Tensor;
  /** The float64 oracle: output, then one gradient for each input. */
  readonly reference: (inputs: Values[], dy: Values) => { y: Values; grads: readonly Values[] };
  readonly seed?: number;
}

/** Mixed errors of the output and of each input's gradient, in that order. */
export async function layerErrors({
  inputs,
  dtype = "f32",
  values,
  run,
  reference,
  seed = 1,
}: LayerSpec): Promise<number[]> {
  const device = await testDevice();
  const memory = poison(device);
  try {
    const exact = (v: Values): Values => (dtype === "f16" ? toF16(v) : Float32Array.from(v));
    const data = inputs.map((shape, i) => exact(values?.[i] ?? randomValues(sizeOf(shape), seed + i)));
    const xs = data.map((v, i) =>
      tensor(Float32Array.from(v), { shape: inputs[i]!, dtype, requiresGrad: true, device }),
    );
    const y = run(...xs);
    const dy = exact(randomValues(y.size, seed + 1000));
    y.backward(tensor(Float32Array.from(dy), { shape: y.shape, dtype: y.dtype, device }));
    const expected = reference(data, dy);
    const errors = [mixedError(await y.data(), expected.y)];
    for (const [i, x] of xs.entries()) {
      if (!x.grad) throw new Error(`input ${i} received no gradient`);
      errors.push(mixedError(await x.grad.data(), expected.grads[i]!));
    }
    await memory.check();
    for (const t of [y, ...xs, ...xs.map((x) => x.grad!)]) t.dispose();
    return errors;
  } finally {
    memory.restore();
  }
}

const CANARY_BYTES = 64;
const NAN_BYTE = 0xff; // 0xffffffff is a NaN in f32, 0xffff in f16

/** Until `restore`, memory of `device` is handed out full of NaN, with canaries behind; `check` throws if one changed. */
export function poison(device: Device): { check(): Promise<void>; restore(): void } {
  const handed = new Map<Block, number>();
  const take = device.take.bind(device);
  device.take = (bytes: number): Block => {
    const block = take(bytes + CANARY_BYTES);
    device.flush(); // recorded work may still use the block's last incarnation
    device.gpu.queue.writeBuffer(block.buffer, 0, new Uint8Array(block.bytes).fill(NAN_BYTE));
    handed.set(block, bytes);
    return block;
  };
  return {
    restore: () => {
      device.take = take;
    },
    async check(): Promise<void> {
      device.flush();
      for (const [block, bytes] of handed) {
        const size = block.bytes - bytes;
        const staging = device.gpu.createBuffer({ size, usage: 1 | 8 });
        const encoder = device.gpu.createCommandEncoder();
        encoder.copyBufferToBuffer(block.buffer, bytes, staging, 0, size);
        device.gpu.queue.submit([encoder.finish()]);
        await staging.mapAsync(1);
        const broken = new Uint8Array(staging.getMappedRange()).findIndex((b) => b !== NAN_BYTE);
        staging.destroy();
        if (broken >= 0) throw new Error(`a kernel wrote ${broken} bytes behind the end of a tensor of ${bytes} bytes`);
      }
    },
  };
}

export interface Fixture {
  readonly shape: readonly number[];
  readonly values: ArrayLike<number>;
  readonly dtype: DType;
}

/** PyTorch's results, written by tools/golden: `case/name` → values, grouped by case. */
export async function fixtures(url: URL): Promise<Map<string, Record<string, Fixture>>> {
  const { tensors } = parseSafetensors(await bytesOf(url));
  const cases = new Map<string, Record<string, Fixture>>();
  for (const [path, host] of Object.entries(tensors)) {
    const at = path.lastIndexOf("/");
    const group = path.slice(0, at);
    if (!cases.has(group)) cases.set(group, {});
    const dtype = ({ F64: "f32", F32: "f32", F16: "f16", I32: "i32", BOOL: "bool" } as const)[host.dtype];
    if (!dtype) throw new Error(`${url}: ${path} is ${host.dtype}; fixtures hold F64, F32, F16, I32 and BOOL`);
    cases.get(group)![path.slice(at + 1)] = { shape: host.shape, values: valuesOf(host), dtype };
  }
  return cases;
}

/** A file beside the test: Node reads it, a browser asks the test server for it. */
async function bytesOf(url: URL): Promise<Uint8Array<ArrayBuffer>> {
  if (url.protocol === "file:") return new Uint8Array(await (await import("node:fs/promises")).readFile(url));
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url}: ${response.status} ${response.statusText}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** The options in a case's name: `linear x=[5,17] activation="gelu"` → { activation: "gelu" }. */
export function optionsOf(name: string, tensors: Record<string, unknown>): Record<string, unknown> {
  const pairs = name
    .split(" ")
    .slice(1)
    .map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)] as const);
  return Object.fromEntries(pairs.filter(([key]) => !(key in tensors)).map(([key, json]) => [key, JSON.parse(json)]));
}

/** Null leaves a case out. */
export type FixtureRun = (inputs: Record<string, Tensor>, options: Record<string, never>) => Tensor | null;

/**
 * Runs every case of a file whose function is a key of `runs`, and compares output and gradients with PyTorch's. Returns
 * the largest mixed error of each case, f16 and f32 apart; f16 is left out where the GPU has none.
 */
export async function fixtureErrors(
  url: URL,
  runs: Record<string, FixtureRun>,
): Promise<{ f32: Map<string, number>; f16: Map<string, number> }> {
  const device = await testDevice();
  const errors = { f32: new Map<string, number>(), f16: new Map<string, number>() };
  for (const [name, { y, dy, ...tensors }] of await fixtures(url)) {
    const run = runs[name.split(" ")[0]!];
    if (!run || !y) continue;
    const half = Object.values(tensors).some((fixture) => fixture.dtype === "f16");
    if (half && !device.features.has("shader-f16")) continue;
    const upload = ({ shape, values, dtype }: Fixture): Tensor =>
      tensor(Float32Array.from(values), { shape, dtype, device });
    const inputs: Record<string, Tensor> = {};
    for (const [key, fixture] of Object.entries(tensors)) {
      if (key.startsWith("d") && key.slice(1) in tensors) continue;
      inputs[key] = upload(fixture);
      inputs[key].requiresGrad = `d${key}` in tensors;
    }
    const options = optionsOf(name, tensors) as Record<string, never>;
    const out = run(inputs, options);
    if (!out) continue;
    if (out.shape.join() !== y.shape.join())
      throw new Error(`${name}: y has shape [${out.shape}], PyTorch's [${y.shape}]`);
    let worst = mixedError(await out.data(), y.values);
    if (dy && out.requiresGrad) {
      out.backward(cast(upload(dy), out.dtype));
      for (const [key, x] of Object.entries(inputs)) {
        if (x.requiresGrad)
          worst = Math.max(worst, mixedError(x.grad ? await x.grad.data() : [], tensors[`d${key}`]!.values));
      }
    }
    (half ? errors.f16 : errors.f32).set(name, worst);
  }
  return errors;
}

/** Central differences of `loss` with respect to `x`: what shows that a reference's own gradient is right. */
export function finiteDifferences(loss: (x: Float64Array) => number, x: Values, h = 1e-5): Float64Array {
  const at = Float64Array.from(x);
  return at.map((v, i) => {
    at[i] = v + h;
    const up = loss(at);
    at[i] = v - h;
    const down = loss(at);
    at[i] = v;
    return (up - down) / (2 * h);
  });
}

export { fusionError, gate, masked, swoosh } from "./testing.fusion.ts";
