/**
 * A GPUDevice without a GPU: what @kindling/core and @kindling/optim call of WebGPU, on ArrayBuffers. A pipeline runs a
 * JavaScript function instead of its WGSL, chosen by its label (forms.ts). Commands are recorded and run at `submit`, in
 * order, and are done when it returns.
 *
 * Layers' own kernels never come here: on this device the fallback computes the layers (cpu.ts).
 */
import { type Arrays, type Form, formOf, type Interface, interfaceOf, type Params } from "./forms.ts";

/** Memory of the device. The fallback reads and writes `bytes` where a GPU's buffers would be copied. */
export class CpuBuffer {
  readonly label: string;
  readonly size: number;
  readonly usage: number;
  /** Empty once destroyed. */
  bytes: ArrayBuffer;
  mapState: GPUBufferMapState = "unmapped";

  constructor({ label = "", size, usage }: GPUBufferDescriptor) {
    this.label = label;
    this.size = size;
    this.usage = usage;
    try {
      this.bytes = new ArrayBuffer(size);
    } catch {
      throw new Error(`the CPU has no memory for a buffer of ${size} bytes`);
    }
  }

  async mapAsync(): Promise<void> {
    this.mapState = "mapped";
  }

  getMappedRange(offset = 0, size: number = this.size - offset): ArrayBuffer {
    return this.bytes.slice(offset, offset + size); // for reading: nothing here maps a buffer to write into it
  }

  unmap(): void {
    this.mapState = "unmapped";
  }

  destroy(): void {
    this.bytes = new ArrayBuffer(0);
  }
}

interface Pipeline {
  readonly form: Form;
  readonly bindings: Interface;
}

interface Group {
  /** Buffer range of each binding. */
  readonly ranges: ReadonlyMap<number, { buffer: CpuBuffer; offset: number; size: number }>;
  /** What the form takes; core makes a group for one pipeline only. */
  arguments?: { arrays: Arrays; params: Params };
}

type Command = () => void;

class Encoder {
  readonly commands: Command[] = [];

  beginComputePass(): object {
    let pipeline: Pipeline;
    let group: Group;
    return {
      setPipeline: (value: Pipeline) => {
        pipeline = value;
      },
      setBindGroup: (_: 0, value: Group) => {
        group = value;
      },
      dispatchWorkgroups: (x: number, y = 1, z = 1) => {
        const { form, bindings } = pipeline;
        const { arrays, params } = (group.arguments ??= argumentsOf(bindings, group));
        const launch = { workgroups: [x, y, z], width: bindings.width } as const;
        this.commands.push(() => form(arrays, params, launch));
      },
      end: () => {},
    };
  }

  copyBufferToBuffer(from: CpuBuffer, fromOffset: number, to: CpuBuffer, toOffset: number, size: number): void {
    this.commands.push(() =>
      new Uint8Array(to.bytes, toOffset, size).set(new Uint8Array(from.bytes, fromOffset, size)),
    );
  }

  finish(): Encoder {
    return this;
  }
}

function argumentsOf({ storage, uniform }: Interface, { ranges }: Group): { arrays: Arrays; params: Params } {
  const arrays: Record<string, unknown> = {};
  for (const { name, binding, View } of storage) {
    const { buffer, offset, size } = ranges.get(binding)!;
    arrays[name] = new View(buffer.bytes, offset, size / 4);
  }
  const params: Record<string, number> = {};
  if (uniform) {
    // written before the group was made, and never again (see core's Device.uniform)
    const { buffer, offset } = ranges.get(uniform.binding)!;
    uniform.fields.forEach(([name, View], i) => {
      params[name] = new View(buffer.bytes, offset + 4 * i, 1)[0]!;
    });
  }
  return { arrays: arrays as Arrays, params };
}

class Queue {
  writeBuffer(to: CpuBuffer, offset: number, data: ArrayBufferView<ArrayBuffer>): void {
    new Uint8Array(to.bytes, offset).set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  }

  submit(encoders: readonly Encoder[]): void {
    for (const { commands } of encoders) for (const command of commands) command();
  }

  async onSubmittedWorkDone(): Promise<void> {}
}

/** WebGPU's default limits, but for what costs nothing here. */
const LIMITS: Partial<GPUSupportedLimits> = {
  maxBufferSize: 2 ** 31 - 4096,
  maxStorageBufferBindingSize: 2 ** 31 - 4096,
  maxUniformBufferBindingSize: 65536,
  maxBindGroups: 4,
  maxBindingsPerBindGroup: 1000,
  maxStorageBuffersPerShaderStage: 16,
  minStorageBufferOffsetAlignment: 256,
  minUniformBufferOffsetAlignment: 256,
  maxComputeWorkgroupsPerDimension: 65535,
  maxComputeWorkgroupStorageSize: 16384,
  maxComputeInvocationsPerWorkgroup: 256,
  maxComputeWorkgroupSizeX: 256,
  maxComputeWorkgroupSizeY: 256,
  maxComputeWorkgroupSizeZ: 64,
};

/** See the head of this file. Mistakes throw where they are made, so that error scopes stay empty. */
export class CpuDevice extends EventTarget {
  /** By this it is known where this file is not loaded. */
  readonly isCpu = true;
  readonly label = "kindling";
  readonly features: ReadonlySet<string> = new Set();
  readonly limits: Partial<GPUSupportedLimits> = LIMITS;
  readonly adapterInfo: Partial<GPUAdapterInfo> = { description: "CPU", isFallbackAdapter: false };
  readonly lost: Promise<{ reason: string; message: string }>;
  readonly queue: Queue = new Queue();
  #lose!: (info: { reason: string; message: string }) => void;

  constructor() {
    super();
    this.lost = new Promise((resolve) => {
      this.#lose = resolve;
    });
  }

  createBuffer(descriptor: GPUBufferDescriptor): CpuBuffer {
    return new CpuBuffer(descriptor);
  }

  createBindGroupLayout(): object {
    return {};
  }

  createPipelineLayout(): object {
    return {};
  }

  createShaderModule({ code }: GPUShaderModuleDescriptor): object {
    return { code };
  }

  /** Throws where the kernel has no form. */
  createComputePipeline({ label, compute }: GPUComputePipelineDescriptor): Pipeline {
    const { code } = compute.module as unknown as { code: string };
    return { form: formOf(label!), bindings: interfaceOf(code) };
  }

  createBindGroup({ entries }: GPUBindGroupDescriptor): Group {
    const ranges = Array.from(entries, ({ binding, resource }) => {
      const { buffer, offset = 0, size = buffer.size - offset } = resource as GPUBufferBinding;
      return [binding, { buffer: buffer as unknown as CpuBuffer, offset, size }] as const;
    });
    return { ranges: new Map(ranges) };
  }

  createCommandEncoder(): Encoder {
    return new Encoder();
  }

  pushErrorScope(): void {}

  async popErrorScope(): Promise<null> {
    return null;
  }

  destroy(): void {
    this.#lose({ reason: "destroyed", message: "the device was destroyed" });
  }
}

/** A GPUDevice for `init({ device })` on which core's kernels and those of the optimizers run, but no layer's. */
export const cpuDevice = (): GPUDevice => new CpuDevice() as unknown as GPUDevice;
