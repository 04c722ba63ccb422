/**
 * A device: one GPUDevice with its buffer pool, compiled pipelines, and the open compute pass that launches go into.
 *
 * Launches only record. The pass is submitted when something reads, when `maxPending` dispatches have gathered (so that
 * the GPU starts while JavaScript still records), or at `sync()`. Every submit, compilation, bind group and allocation
 * runs inside GPU error scopes; what they report is thrown, with the kernel's name, by the next read.
 */

import type { Pipeline } from "./kernel.ts";
import { type Block, Pool } from "./pool.ts";
import { state } from "./state.ts";
import { Tensor } from "./tensor.ts";

/** What `capture` collects while a function runs. */
export interface Recorder {
  dispatch(pipeline: Pipeline, group: GPUBindGroup, x: number, y: number, z: number): void;
  /** A launch binds memory of `block`. */
  uses(block: Block): void;
  /** Backward has put a gradient into `leaf.grad`. */
  accumulated(leaf: Tensor): void;
  /** `leaf.grad` was set to null. */
  cleared(leaf: Tensor): void;
  /** Work that the host must do before each replay, such as uploading a new learning rate. */
  beforeReplay(hook: () => void): void;
}

export interface DeviceOptions {
  /** Info of the adapter that the GPUDevice came from: it alone lists the subgroup matrices. Default: the device's own. */
  info?: GPUAdapterInfo;
  /** Largest number of dispatches that wait for a submit. Default 256. */
  maxPending?: number;
}

/** A GPU error: failed validation, out of memory, a lost device. The message names the kernel and its operands. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";
}

const MAX_FAULTS = 256;
const UNIFORM_PAGE = 65536;
/** Bind groups and parameter slots kept before the caches start anew; shapes that never repeat would fill memory. */
const MAX_GROUPS = 32768;

export class Device {
  readonly gpu: GPUDevice;
  /** Vendor and architecture, for messages. */
  readonly name: string;
  readonly features: ReadonlySet<string>;
  readonly limits: GPUSupportedLimits;
  /** Whether f16 × f16 → f32 subgroup matrices of 16×16×16 with subgroups of 32 are available. */
  readonly subgroupMatrix: boolean;
  /** Whether the GPU is a program on the CPU. Some kernels have another form there; tests switch it off to run both. */
  software: boolean;
  /** @internal Live tensors and the bytes of their blocks. */
  readonly live: { tensors: number; bytes: number } = { tensors: 0, bytes: 0 };
  /** @internal By constants and source. */
  readonly pipelines: Map<string, Pipeline> = new Map();
  /** @internal Where new tensors take their memory from; a capture puts its own pool here. */
  pool: Pool;
  /** @internal */
  recorder: Recorder | null = null;
  /** @internal Bind groups made since the caches were last cleared. */
  groups = 0;
  /** @internal See random.ts. */
  random: { state: Tensor; base: number; drawn: number } | undefined;

  readonly #maxPending: number;
  #encoder: GPUCommandEncoder | null = null;
  #pass: GPUComputePassEncoder | null = null;
  #bound: Pipeline | null = null;
  #pending = 0;
  #page: GPUBuffer | null = null;
  #pageUsed = 0;
  #rangeIds = 0;
  #staging: GPUBuffer[] = [];
  #checks: Promise<void>[] = [];
  #errors: string[] = [];
  #faults: { tensor: Tensor; messages: string[] } | null = null;
  #lost: string | null = null;

  constructor(gpu: GPUDevice, { maxPending = 256, info: given = gpu.adapterInfo }: DeviceOptions = {}) {
    const info = (given ?? {}) as GPUAdapterInfo & { subgroupMatrixConfigs?: readonly SubgroupMatrixConfig[] };
    this.gpu = gpu;
    this.name = [info.description || info.device, info.vendor, info.architecture].filter(Boolean)[0] ?? "GPU";
    this.features = gpu.features as ReadonlySet<string>;
    this.limits = gpu.limits;
    this.subgroupMatrix =
      this.features.has("chromium-experimental-subgroup-matrix") &&
      this.features.has("shader-f16") &&
      info.subgroupMinSize === 32 &&
      info.subgroupMaxSize === 32 &&
      (info.subgroupMatrixConfigs ?? []).some(
        (c) => c.componentType === "f16" && c.resultComponentType === "f32" && c.M === 16 && c.N === 16 && c.K === 16,
      );
    this.software =
      info.isFallbackAdapter === true || /llvmpipe|swiftshader/i.test(`${info.description} ${info.device}`);
    this.#maxPending = maxPending;
    this.pool = new Pool((bytes) => this.#createBuffer(bytes), Math.min(gpu.limits.maxBufferSize, 2 ** 32 - 16));
    gpu.addEventListener("uncapturederror", (event) => {
      this.#errors.push((event as GPUUncapturedErrorEvent).error.message);
    });
    gpu.lost.then(({ reason, message }) => {
      this.#lost = `the device was lost (${reason}): ${message}`;
    });
  }

  /** @internal */
  take(bytes: number): Block {
    return this.pool.take(bytes);
  }

  /** @internal Id of a bound range; equal ranges have equal ids. */
  rangeId(block: Block, offset: number, bytes: number): number {
    const { ranges } = block;
    for (let i = 0; i < ranges.length; i += 3)
      if (ranges[i] === offset && ranges[i + 1] === bytes) return ranges[i + 2]!;
    ranges.push(offset, bytes, ++this.#rangeIds);
    return this.#rangeIds;
  }

  /** @internal */
  dispatch(pipeline: Pipeline, group: GPUBindGroup, x: number, y: number, z: number, label: string): void {
    if (this.#lost) throw new DeviceError(`${label}: ${this.#lost}`);
    const pass = this.#pass ?? this.#begin();
    if (this.#bound !== pipeline) {
      pass.setPipeline(pipeline.gpu);
      this.#bound = pipeline;
    }
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(x, y, z);
    this.recorder?.dispatch(pipeline, group, x, y, z);
    if (++this.#pending >= this.#maxPending) this.flush();
  }

  #begin(): GPUComputePassEncoder {
    this.#encoder ??= this.gpu.createCommandEncoder();
    this.#bound = null;
    return (this.#pass = this.#encoder.beginComputePass());
  }

  /** Submits what is recorded. Returns at once; the GPU works on. */
  flush(): void {
    this.#submit();
    if (this.groups > MAX_GROUPS) {
      this.groups = 0;
      this.#page = null;
      for (const { groups, slots } of this.pipelines.values()) {
        groups.clear();
        slots.clear();
      }
    }
  }

  #submit(): void {
    this.#pass?.end();
    this.#pass = null;
    if (!this.#encoder) return;
    const encoder = this.#encoder;
    this.#encoder = null;
    this.#pending = 0;
    this.guard("submitting", ({ gpu }) => gpu.queue.submit([encoder.finish()]));
  }

  /**
   * @internal Runs `fn` inside error scopes and returns its result. What the GPU reports later is thrown by the next
   * read, after `label`: a submit that the implementation drops never passes silently.
   */
  guard<T>(label: string, fn: (device: Device) => T): T {
    const { gpu } = this;
    if (this.#lost) throw new DeviceError(`${label}: ${this.#lost}`);
    gpu.pushErrorScope("validation");
    gpu.pushErrorScope("out-of-memory");
    try {
      return fn(this);
    } finally {
      const memory = gpu.popErrorScope();
      const validation = gpu.popErrorScope();
      const check = Promise.all([memory, validation]).then(
        (errors) => {
          for (const error of errors) if (error) this.#errors.push(`${label}: ${error.message}`);
        },
        () => {}, // the device is lost; `lost` tells why
      );
      this.#checks.push(check);
      if (this.#checks.length > 512) this.#checks = [Promise.all(this.#checks).then(() => {})];
    }
  }

  /**
   * Lets a kernel report bad data that only the GPU sees, such as an id out of range. The kernel binds `faults` as
   * `array<atomic<u32>>` and stores 1 at `code` and the offending value at `code + 1`; the next read throws `message` with
   * "%" replaced by the value. One device remembers 256 different messages.
   */
  fault(message: string): { faults: Tensor; code: number } {
    if (!this.#faults) {
      // A pool of its own: never recycled, not even by a capture, and zero as WebGPU makes new buffers.
      const storage = { device: this, block: this.pool.fork().take(8 * MAX_FAULTS), refs: 0 };
      const tensor = new Tensor(this, [2 * MAX_FAULTS], "u32", storage);
      tensor.persistent = true;
      this.#faults = { tensor, messages: [] };
    }
    const { tensor, messages } = this.#faults;
    let at = messages.indexOf(message);
    if (at < 0) at = messages.length < MAX_FAULTS ? messages.push(message) - 1 : MAX_FAULTS - 1;
    return { faults: tensor, code: 2 * at };
  }

  /** Throws what kernels reported, in the bytes behind a read, and clears it. */
  #throwFaults(words: Int32Array): void {
    const { tensor, messages } = this.#faults!;
    const reported = messages.flatMap((message, i) =>
      words[2 * i] ? [message.replace("%", String(words[2 * i + 1]))] : [],
    );
    if (reported.length === 0) return;
    this.gpu.queue.writeBuffer(tensor.storage.block.buffer, 0, new Uint8Array(tensor.bytes));
    throw new DeviceError(reported.join("\n"));
  }

  /** @internal Throws what the GPU has reported since the last check. */
  async check(): Promise<void> {
    const checks = this.#checks;
    this.#checks = [];
    await Promise.all(checks);
    const errors = this.#errors;
    this.#errors = [];
    if (this.#lost) throw new DeviceError(this.#lost);
    if (errors.length > 0) throw new DeviceError(errors.join("\n"));
  }

  /** Submits what is recorded and waits until the GPU has done it; throws what it reports. */
  async sync(): Promise<void> {
    this.flush();
    await this.gpu.queue.onSubmittedWorkDone();
    await this.check();
  }

  /** @internal The bytes of `t`, padded to 16. */
  async read(t: Tensor): Promise<ArrayBuffer> {
    if (this.recorder) throw new Error("capture: a captured function cannot read values back; read them outside");
    const { bytes } = t;
    const source = t.storage.block.buffer;
    const faults = this.#faults?.tensor;
    const total = bytes + (faults?.bytes ?? 0);
    const staging = this.#takeStaging(total);
    this.#pass?.end();
    this.#pass = null;
    this.#encoder ??= this.gpu.createCommandEncoder();
    this.#encoder.copyBufferToBuffer(source, t.offset, staging, 0, bytes);
    if (faults) this.#encoder.copyBufferToBuffer(faults.storage.block.buffer, 0, staging, bytes, faults.bytes);
    this.flush();
    try {
      await staging.mapAsync(1, 0, total); // GPUMapMode.READ
    } catch (error) {
      await this.check(); // what went wrong on the GPU says more than the failed map
      throw new DeviceError(`reading ${t}: ${(error as Error).message}`);
    }
    const mapped = staging.getMappedRange(0, total);
    const copy = mapped.slice(0, bytes);
    const reports = new Int32Array(mapped.slice(bytes));
    staging.unmap();
    this.#staging.push(staging);
    await this.check(); // first: after a dropped submit the faults, like the values, are those of an earlier read
    if (faults) this.#throwFaults(reports);
    return copy;
  }

  /** The smallest idle staging buffer that fits. */
  #takeStaging(bytes: number): GPUBuffer {
    let best = -1;
    this.#staging.forEach((buffer, i) => {
      if (
        buffer.size >= bytes &&
        buffer.size <= 4 * bytes + 4096 &&
        (best < 0 || buffer.size < this.#staging[best]!.size)
      )
        best = i;
    });
    if (best >= 0) return this.#staging.splice(best, 1)[0]!;
    while (this.#staging.length >= 8) this.#staging.shift()!.destroy();
    const size = Math.max(256, bytes);
    return this.guard(
      `a staging buffer of ${size} bytes`,
      ({ gpu }) => gpu.createBuffer({ label: "staging", size, usage: 1 | 8 }), // MAP_READ | COPY_DST
    );
  }

  /**
   * @internal Uploads `data` into `t`, in order with the recorded launches. Inside a capture it is an error, since
   * replay would not repeat it, unless the caller registers a hook with `recorder.beforeReplay` and passes `hooked`.
   */
  write(t: Tensor, data: ArrayBufferView<ArrayBuffer>, hooked = false): void {
    if (this.recorder && !hooked) {
      throw new Error("capture: a captured function cannot upload values; create the tensor outside and pass it in");
    }
    const { block } = t.storage;
    let bytes = data;
    if (data.byteLength % 4 !== 0) {
      // writeBuffer takes multiples of 4: an odd number of f16
      const padded = new Uint8Array(Math.ceil(data.byteLength / 4) * 4);
      padded.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      bytes = padded;
    }
    if (this.#pending > 0) this.flush();
    this.guard(`uploading ${t}`, ({ gpu }) => gpu.queue.writeBuffer(block.buffer, t.offset, bytes));
  }

  /** @internal A slot of uniform memory holding `content`. */
  uniform(content: Uint32Array<ArrayBuffer>): { buffer: GPUBuffer; offset: number; id: number } {
    const alignment = Math.max(this.limits.minUniformBufferOffsetAlignment, 16);
    const bytes = Math.ceil(content.byteLength / alignment) * alignment;
    if (!this.#page || this.#pageUsed + bytes > UNIFORM_PAGE) {
      this.#page = this.guard(
        "a page of uniforms",
        ({ gpu }) => gpu.createBuffer({ label: "uniforms", size: UNIFORM_PAGE, usage: 64 | 8 }), // UNIFORM | COPY_DST
      );
      this.#pageUsed = 0;
    }
    const offset = this.#pageUsed;
    this.#pageUsed += bytes;
    // No earlier launch can have read this slot, so the upload need not wait for them.
    this.gpu.queue.writeBuffer(this.#page, offset, content);
    return { buffer: this.#page, offset, id: ++this.#rangeIds };
  }

  #createBuffer(bytes: number): GPUBuffer {
    return this.guard(
      `a buffer of ${bytes} bytes`,
      ({ gpu }) => gpu.createBuffer({ size: bytes, usage: 128 | 4 | 8 }), // STORAGE | COPY_SRC | COPY_DST
    );
  }

  /** Live tensors, the bytes they hold, and the bytes that wait in the pool. */
  memory(): { tensors: number; bytes: number; pooledBytes: number; buffers: number } {
    return { ...this.live, pooledBytes: this.pool.freeBytes, buffers: this.pool.blocks };
  }

  /** Gives pooled buffers back to the system. */
  trim(): void {
    this.flush();
    for (const { groups } of this.pipelines.values()) groups.clear(); // they hold the buffers
    this.pool.trim();
  }

  /** Destroys the GPUDevice. Its tensors cannot be used any more. */
  destroy(): void {
    this.flush();
    this.gpu.destroy();
    if (state.device === this) state.device = undefined;
  }
}

interface SubgroupMatrixConfig {
  readonly componentType: string;
  readonly resultComponentType: string;
  readonly M: number;
  readonly N: number;
  readonly K: number;
}

export interface InitOptions extends DeviceOptions {
  /** A GPUDevice to adopt, for instance one shared with another library. Its owner destroys it. */
  device?: GPUDevice;
  /** "cpu" needs @kindling/nn, which also steps in where there is no WebGPU, unless "webgpu" is asked for. */
  backend?: "webgpu" | "cpu";
  powerPreference?: GPUPowerPreference;
  /** Node only: options of the package `webgpu` (Dawn), such as "backend=vulkan". Default: see `dawnOptions`. */
  dawn?: readonly string[];
}

const FEATURES = [
  "shader-f16",
  "subgroups",
  "subgroup-size-control",
  "chromium-experimental-subgroup-matrix",
  "timestamp-query",
];
const LIMITS = [
  "maxBufferSize",
  "maxStorageBufferBindingSize",
  "maxStorageBuffersPerShaderStage",
  "maxComputeWorkgroupStorageSize",
  "maxComputeInvocationsPerWorkgroup",
  "maxComputeWorkgroupSizeX",
  "maxComputeWorkgroupSizeY",
] as const;

/**
 * Opens the GPU and makes it the default device. In browsers through navigator.gpu; in Node through the package `webgpu`.
 * Requests every feature and limit of the adapter that a kernel can use.
 */
export async function init(options: InitOptions = {}): Promise<Device> {
  const opened = options.device ? { device: options.device } : await open(options);
  return (state.device = new Device(opened.device, { ...opened, ...options }));
}

/** What opens a device that is no GPU, for `init`: it is given the reason where it was not asked for. */
export function provideCpu(open: (reason?: Error) => Promise<GPUDevice>): void {
  state.openCpu = open;
}

async function open(options: InitOptions): Promise<{ device: GPUDevice; info?: GPUAdapterInfo }> {
  const { backend } = options;
  const { openCpu } = state;
  if (backend === "cpu" && openCpu) return { device: await openCpu() };
  if (backend && backend !== "webgpu")
    throw new Error(`init: backend "${backend}" needs @kindling/nn; import it first`);
  return requestDevice(options).catch(async (error) => {
    if (backend || !openCpu) throw error;
    return { device: await openCpu(error) };
  });
}

async function requestDevice({
  powerPreference = "high-performance",
  dawn,
}: InitOptions): Promise<{ device: GPUDevice; info: GPUAdapterInfo }> {
  const gpu = (await browserGpu()) ?? (await nodeGpu(dawn));
  const adapter = await gpu.requestAdapter({ powerPreference });
  if (!adapter) throw new Error("init: WebGPU found no GPU adapter (no driver, or blocked)");
  const requiredFeatures = FEATURES.filter((f) => adapter.features.has(f)) as GPUFeatureName[];
  const requiredLimits = Object.fromEntries(LIMITS.map((name) => [name, adapter.limits[name]]));
  const device = await adapter.requestDevice({ label: "kindling", requiredFeatures, requiredLimits });
  return { device, info: adapter.info };
}

const browserGpu = async (): Promise<GPU | undefined> => (globalThis as { navigator?: { gpu?: GPU } }).navigator?.gpu;

/** Dawn's experimental subgroup matrices, and f16 on NVIDIA under Vulkan, are off unless asked for. */
const dawnOptions: readonly string[] = ["enable-dawn-features=allow_unsafe_apis,vulkan_enable_f16_on_nvidia"];

async function nodeGpu(options: readonly string[] | undefined): Promise<GPU> {
  const process = (globalThis as { process?: { env: Record<string, string | undefined> } }).process;
  if (!process) throw new Error("init: this browser has no WebGPU (navigator.gpu is undefined)");
  const name = "webgpu"; // a variable, so that bundlers for browsers leave the import alone
  const { create, globals } = await import(/* @vite-ignore */ name).catch(() => {
    throw new Error("init: WebGPU in Node needs a package: npm install webgpu");
  });
  const env = process.env.KINDLING_DAWN?.split(" ").filter(Boolean) ?? [];
  Object.assign(globalThis, globals);
  // Dawn crashes the process once this object is garbage-collected, so it stays reachable.
  const held = globalThis as { __kindlingGpu?: GPU[] };
  const gpu: GPU = create([...(options ?? dawnOptions), ...env]);
  (held.__kindlingGpu ??= []).push(gpu);
  return gpu;
}

/** The device of the last `init`. */
export function defaultDevice(): Device {
  if (!state.device) throw new Error("no device: call `await init()` first, or pass { device }");
  return state.device;
}

/** Live tensors and bytes, and pooled bytes, of a device. */
export const memory = (device: Device = defaultDevice()): ReturnType<Device["memory"]> => device.memory();
