/** What the fallback's tests share: a function computed by the kernels and by the fallback, and compared. */
import {
  Device,
  defaultDevice,
  type FloatType,
  isTensor,
  manualSeed,
  type Shape,
  type Tensor,
  tensor,
} from "@kindling/core";
import { mixedError, randomValues } from "@kindling/core/testing";
import { state } from "../../core/src/state.ts";
import { type Backend, loadFallback, withBackend } from "../src/backend.ts";
import { cpuDevice } from "../src/cpu/device.ts";

export type Input =
  | Shape
  | { shape: Shape; dtype?: "i32" | "u32" | "bool" | FloatType; values?: ArrayLike<number>; grad?: boolean };

export interface Agreement {
  /** Shapes of random inputs, or what they hold. Floats have gradients unless `grad` is false. */
  readonly inputs: Record<string, Input>;
  readonly dtype?: FloatType;
  /** A tensor, or an object or array of them. */
  readonly run: (inputs: Record<string, Tensor>) => unknown;
}

interface Results {
  readonly values: Record<string, ArrayLike<number>>;
  readonly types: Record<string, string>;
}

function made(key: string, input: Input, seed: number, dtype: FloatType): Tensor {
  const spec = "shape" in input ? input : { shape: input };
  const size = spec.shape.reduce((n, d) => n * d, 1);
  const type = spec.dtype ?? dtype;
  const values = spec.values ? Float32Array.from(spec.values) : randomValues(size, seed + key.length);
  const float = type === "f32" || type === "f16";
  return tensor(values, { shape: spec.shape, dtype: type, requiresGrad: float && spec.grad !== false });
}

async function computed(backend: Backend, { inputs, dtype = "f32", run }: Agreement): Promise<Results> {
  manualSeed(11);
  const tensors = Object.fromEntries(
    Object.entries(inputs).map(([key, input], i) => [key, made(key, input, 10 * i + 1, dtype)]),
  );
  const result = withBackend(backend, () => run(tensors));
  const outputs = isTensor(result) ? { y: result } : (result as Record<string, Tensor>);
  const values: Record<string, ArrayLike<number>> = {};
  const types: Record<string, string> = {};
  let seed = 500;
  for (const [key, y] of Object.entries(outputs)) {
    values[key] = await y.data();
    types[key] = `${y.dtype} [${y.shape}]`;
    if (y.requiresGrad) {
      const dy = tensor(randomValues(y.size, seed++), { shape: y.shape, dtype: y.dtype });
      withBackend(backend, () => y.backward(dy, { retainGraph: true }));
    }
  }
  for (const [key, x] of Object.entries(tensors)) {
    if (!x.requiresGrad) continue;
    values[`d${key}`] = x.grad ? await x.grad.data() : [];
    types[`d${key}`] = x.grad ? x.grad.dtype : "none";
  }
  return { values, types };
}

/** The CPU, with the fallback. */
export async function openCpu(): Promise<Device> {
  await loadFallback("cpu");
  return new Device(cpuDevice());
}

/** Computes with another default device. */
async function on<T>(device: Device, run: () => Promise<T>): Promise<T> {
  const before = state.device;
  state.device = device;
  return run().finally(() => {
    state.device = before;
  });
}

/**
 * The largest mixed error between the kernels and the fallback on `device`, of results and gradients; infinite where dtypes or
 * shapes differ.
 */
export async function disagreement(
  agreement: Agreement,
  device: Device = defaultDevice(),
): Promise<{ error: number; at: string }> {
  const kernels = await computed("kernels", agreement);
  const fallback = await on(device, () => computed("fallback", agreement));
  let worst = { error: 0, at: "" };
  for (const [key, expected] of Object.entries(kernels.values)) {
    const same = kernels.types[key] === fallback.types[key];
    const error = same ? mixedError(fallback.values[key]!, expected) : Number.POSITIVE_INFINITY;
    if (error > worst.error) worst = { error, at: `${key}: ${kernels.types[key]}, ${fallback.types[key]}` };
  }
  return worst;
}
