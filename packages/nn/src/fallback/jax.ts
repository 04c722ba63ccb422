/**
 * The provider that computes with @jax-js/jax: on a GPU with its WebGPU backend on Kindling's own GPUDevice, on the CPU device
 * with its WebAssembly backend.
 *
 * jax-js looks for a GPU in navigator.gpu and nowhere else, so that is where it finds the device, for the moment in which it
 * looks. It cannot take a buffer either: an input is copied on the GPU into an array of its own, a result back. Nothing waits
 * and no value passes through the CPU. A gradient is jax's vjp of the same form, which computes the form again.
 */
import { type Device, empty, type Tensor } from "@kindling/core";
import type { Operand, Program, Provider } from "./provider.ts";

/** The library as a form sees it. */
export type Jax = typeof import("@jax-js/jax");
export type JaxArray = import("@jax-js/jax").Array;

/**
 * A layer in jax-js: arrays by the names of the tensors that are not null. Reading an array uses it up; `x.ref` lends it.
 * Booleans are arrays of bool. `settings` is plain JSON: a form and its settings are compiled once for each set of shapes.
 */
export type Form<S extends object = never, R extends JaxArray | JaxArray[] = JaxArray | JaxArray[]> = (
  jax: Jax,
  x: Record<string, JaxArray>,
  settings: S,
) => R;

type AnyForm = Form<never>;

/** How tensors become arrays and back: on the GPU, or in the memory of WebAssembly. */
interface Memory {
  readonly backend: "webgpu" | "wasm";
  into(inputs: readonly Tensor[]): JaxArray[];
  /** Uses the arrays up. */
  from(outputs: readonly JaxArray[], device: Device): Tensor[];
}

/** Programs that a provider keeps; shapes that never repeat would fill memory. */
const MAX_PROGRAMS = 1024;

let library: Promise<Jax> | undefined;

/** Loads jax-js and lets it compute on `device`, or on the CPU device. */
export async function openJax(device: Device | "cpu"): Promise<Provider<AnyForm>> {
  library ??= importJax();
  const jax = await library;
  if (device === "cpu") {
    if (!(await jax.init("wasm")).includes("wasm")) throw new Error("fallback: jax-js needs WebAssembly");
    return new JaxProvider(jax, new CpuMemory(jax));
  }
  await openOn(jax, device.gpu);
  if (jax.getWebGPUDevice() !== device.gpu)
    throw new Error(
      "fallback: jax-js computes on the first GPUDevice that it was given, and has another one; open only one device",
    );
  return new JaxProvider(jax, new GpuMemory(jax, device));
}

async function importJax(): Promise<Jax> {
  if (typeof navigator === "undefined")
    Object.defineProperty(globalThis, "navigator", { value: { userAgent: "" }, configurable: true });
  return import("@jax-js/jax").catch((error) => {
    library = undefined;
    throw new Error(`fallback: it needs the package @jax-js/jax: npm install @jax-js/jax (${error.message})`);
  });
}

/** jax-js asks navigator.gpu before its first await, so that nobody else meets this adapter. */
function openOn(jax: Jax, gpu: GPUDevice): Promise<unknown> {
  const adapter = { limits: gpu.limits, features: gpu.features, requestDevice: async () => gpu };
  const own = Object.getOwnPropertyDescriptor(navigator, "gpu");
  Object.defineProperty(navigator, "gpu", { value: { requestAdapter: async () => adapter }, configurable: true });
  try {
    return jax.init("webgpu");
  } finally {
    if (own) Object.defineProperty(navigator, "gpu", own);
    else delete (navigator as { gpu?: unknown }).gpu;
  }
}

class JaxProvider implements Provider<AnyForm> {
  readonly name = "jax-js";
  readonly #jax: Jax;
  readonly #memory: Memory;
  readonly #programs = new Map<AnyForm, Map<string, JaxProgram>>();
  #count = 0;

  constructor(jax: Jax, memory: Memory) {
    this.#jax = jax;
    this.#memory = memory;
  }

  program(form: AnyForm, operands: readonly Operand[], settings: object): Program {
    if (this.#count >= MAX_PROGRAMS) this.#forget();
    let programs = this.#programs.get(form);
    if (!programs) this.#programs.set(form, (programs = new Map()));
    const key = JSON.stringify([settings, operands], spelled);
    let program = programs.get(key);
    if (!program) {
      programs.set(key, (program = new JaxProgram(this.#jax, this.#memory, form, operands, settings)));
      this.#count++;
    }
    return program;
  }

  #forget(): void {
    for (const programs of this.#programs.values()) for (const program of programs.values()) program.dispose();
    this.#programs.clear();
    this.#count = 0;
  }
}

const { isArray } = Array;

/** JSON has no infinity and no NaN. */
const spelled = (_: string, value: unknown): unknown =>
  typeof value === "number" && !Number.isFinite(value) ? String(value) : value;

type Jitted = ((...arrays: JaxArray[]) => JaxArray[]) & { dispose(): void };

class JaxProgram implements Program {
  readonly #jax: Jax;
  readonly #memory: Memory;
  readonly #form: (arrays: readonly JaxArray[]) => JaxArray[];
  #forward: Jitted | undefined;
  /** Known once the form has run. */
  #many = false;
  /** By the inputs whose gradients they give. */
  readonly #backwards = new Map<string, Jitted>();

  constructor(jax: Jax, memory: Memory, form: AnyForm, operands: readonly Operand[], settings: object) {
    this.#jax = jax;
    this.#memory = memory;
    this.#form = (arrays) => {
      const named = Object.fromEntries(operands.map(({ name }, i) => [name, arrays[i]!]));
      const result = form(jax, named, settings as never);
      this.#many = isArray(result);
      return [result].flat();
    };
  }

  run(inputs: readonly Tensor[]): Tensor | Tensor[] {
    this.#forward ??= this.#jit((...arrays) => this.#form(arrays));
    const results = this.#call(this.#forward, inputs);
    return this.#many ? results : results[0]!;
  }

  gradients(
    inputs: readonly Tensor[],
    dys: readonly Tensor[],
    wanted: readonly number[],
    used: readonly number[],
  ): Tensor[] {
    const key = `${wanted};${used}`;
    let backward = this.#backwards.get(key);
    if (!backward) {
      backward = this.#jit((...arrays) => {
        const given = arrays.slice(0, inputs.length);
        const dys = arrays.slice(inputs.length);
        const forward = (...chosen: JaxArray[]): JaxArray => {
          const all = given.map((array, i) => (wanted.includes(i) ? chosen[wanted.indexOf(i)]! : array));
          const floats = this.#form(all).filter((y) => y.dtype === "float32");
          if (used.length === 1) return floats[used[0]!]!;
          // vjp goes wrong where one result depends on another, or not on what is wanted: one number has the same gradients
          return used.map((i, n) => floats[i]!.mul(dys[n]!).sum()).reduce((a, b) => a.add(b));
        };
        const chosen = wanted.map((i) => given[i]!);
        const [y, pull] = this.#jax.vjp(forward, chosen as never) as unknown as [
          JaxArray,
          ((dy: JaxArray) => JaxArray[]) & { dispose(): void },
        ];
        y.dispose();
        const dxs = pull(used.length === 1 ? dys[0]! : this.#jax.numpy.array(1));
        pull.dispose();
        return dxs;
      });
      this.#backwards.set(key, backward);
    }
    return this.#call(backward, [...inputs, ...dys]);
  }

  dispose(): void {
    this.#forward?.dispose();
    for (const backward of this.#backwards.values()) backward.dispose();
  }

  #jit(fn: (...arrays: JaxArray[]) => JaxArray[]): Jitted {
    return this.#jax.jit(fn) as unknown as Jitted;
  }

  #call(fn: Jitted, inputs: readonly Tensor[]): Tensor[] {
    const jax = this.#jax;
    const before = jax.defaultDevice();
    jax.defaultDevice(this.#memory.backend);
    let arrays: JaxArray[] = [];
    try {
      arrays = this.#memory.into(inputs);
      return this.#memory.from(fn(...arrays), inputs[0]!.device);
    } catch (error) {
      for (const array of arrays) if (array.refCount > 0) array.dispose();
      throw error;
    } finally {
      jax.defaultDevice(before);
    }
  }
}

const DTYPES = { f32: "float32", i32: "int32", u32: "uint32", bool: "bool" } as const;
const TENSOR_DTYPES = { float32: "f32", int32: "i32", uint32: "u32", bool: "bool" } as const;

const dtypeOf = (x: Tensor): never => DTYPES[x.dtype as keyof typeof DTYPES] as never;

function emptyFor(y: JaxArray, device: Device): Tensor {
  const dtype = TENSOR_DTYPES[y.dtype as keyof typeof TENSOR_DTYPES];
  if (!dtype) throw new Error(`fallback: a form's result is ${y.dtype}, expected float32, int32, uint32 or bool`);
  return empty(y.shape, { dtype, device });
}

class GpuMemory implements Memory {
  readonly backend = "webgpu";
  readonly #jax: Jax;
  readonly #device: Device;

  constructor(jax: Jax, device: Device) {
    this.#jax = jax;
    this.#device = device;
  }

  into(inputs: readonly Tensor[]): JaxArray[] {
    for (const { device } of inputs) {
      if (device !== this.#device)
        throw new Error(
          `fallback: a tensor is on ${device.name}, another device than the one that jax-js was opened on`,
        );
    }
    this.#device.flush(); // what computes the inputs goes before the copies
    const { numpy } = this.#jax;
    const arrays = inputs.map((x) => numpy.zeros([...x.shape], { dtype: dtypeOf(x) }));
    const buffers = arrays.map((array) => array.ref.gpuBufferSync());
    this.#copy((encoder) => {
      inputs.forEach((x, i) => {
        encoder.copyBufferToBuffer(x.storage.block.buffer, x.offset, buffers[i]!, 0, 4 * x.size);
      });
    });
    return arrays;
  }

  from(outputs: readonly JaxArray[], device: Device): Tensor[] {
    const buffers = outputs.map((y) => y.ref.gpuBufferSync());
    const tensors = outputs.map((y) => emptyFor(y, device));
    this.#copy((encoder) => {
      tensors.forEach((y, i) => {
        encoder.copyBufferToBuffer(buffers[i]!, 0, y.storage.block.buffer, 0, 4 * y.size);
      });
    });
    for (const y of outputs) y.dispose();
    return tensors;
  }

  #copy(record: (encoder: GPUCommandEncoder) => void): void {
    const { gpu } = this.#device;
    const encoder = gpu.createCommandEncoder();
    record(encoder);
    gpu.queue.submit([encoder.finish()]);
  }
}

/** The bytes of a tensor of the CPU device. */
const bytesOf = (x: Tensor): ArrayBuffer => (x.storage.block.buffer as unknown as { bytes: ArrayBuffer }).bytes;

class CpuMemory implements Memory {
  readonly backend = "wasm";
  readonly #jax: Jax;

  constructor(jax: Jax) {
    this.#jax = jax;
  }

  into(inputs: readonly Tensor[]): JaxArray[] {
    inputs[0]!.device.flush();
    return inputs.map((x) => {
      const View = { f32: Float32Array, u32: Uint32Array, i32: Int32Array, bool: Int32Array, f16: Float32Array }[
        x.dtype
      ];
      const values = new View(bytesOf(x), x.offset, x.size);
      return this.#jax.numpy.array(values, { shape: [...x.shape], dtype: dtypeOf(x) });
    });
  }

  from(outputs: readonly JaxArray[], device: Device): Tensor[] {
    return outputs.map((y) => {
      const x = emptyFor(y, device);
      const { buffer, byteOffset } = y.dataSync();
      new Uint8Array(bytesOf(x)).set(new Uint8Array(buffer, byteOffset, 4 * x.size), x.offset);
      return x;
    });
  }
}
