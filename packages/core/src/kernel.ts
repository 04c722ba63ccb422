/**
 * Kernels: WGSL in, typed launch out.
 *
 * A launch resolves a pipeline (keyed by source and constants), a slot for its parameters (keyed by their values) and a
 * bind group (keyed by the bound buffer ranges), and appends one dispatch to the device's open pass. After the first
 * step of a training loop all three are cache hits.
 */

import { elementOf } from "./arithmetic.ts";
import type { Device } from "./device.ts";
import { isTensor, type Tensor } from "./tensor.ts";
import { type Bindings, type Overrides, type Reflection, reflect } from "./wgsl.ts";

export type Workgroups = readonly [x: number, y?: number, z?: number];

export interface Launch<S extends string = string> {
  workgroups: Workgroups;
  /** Values for the `override` constants; each combination is compiled once. */
  constants?: Partial<Overrides<S>>;
}

/** A compiled kernel on one device, with the bind groups and parameter slots that it has met. */
export interface Pipeline {
  readonly gpu: GPUComputePipeline;
  readonly layout: GPUBindGroupLayout;
  /** By hash of the range ids; a hit is confirmed by comparing them. */
  readonly groups: Map<number, { ids: Int32Array; group: GPUBindGroup }[]>;
  /** By hash of the parameter words. */
  readonly slots: Map<number, Slot[]>;
}

/** Parameters in a uniform buffer: written once, never overwritten, shared by all launches with these values. */
interface Slot {
  readonly words: Uint32Array;
  readonly buffer: GPUBuffer;
  readonly offset: number;
  readonly id: number;
}

// Scratch of `run`, which is synchronous and never re-entered. 64 words is the most that a params struct may hold.
const words = new Uint32Array(64);
const floats = new Float32Array(words.buffer);
const ints = new Int32Array(words.buffer);
const ids = new Int32Array(32);

const mix = (hash: number, value: number): number => Math.imul(hash ^ value, 0x01000193) ^ (value >>> 15);

export class Kernel<S extends string = string> {
  readonly label: string;
  /** The complete WGSL module. */
  readonly source: string;
  readonly #interface: Reflection;
  readonly #pipelines = new WeakMap<Device, Map<string, Pipeline>>();

  constructor(label: string, source: S) {
    this.label = label;
    this.source = /\bf16\b|\bvec\dh\b/.test(source) && !/enable f16/.test(source) ? `enable f16;\n${source}` : source;
    this.#interface = reflect(label, source);
    if (this.#interface.uniform && this.#interface.uniform.fields.length > words.length) {
      throw new Error(`${label}: a params struct holds at most ${words.length} fields`);
    }
  }

  /** Default values of the override constants, for computing grid sizes from. */
  get overrides(): Overrides<S> {
    return this.#interface.overrides as Overrides<S>;
  }

  /** Records one dispatch. Throws on a missing, disposed or wrongly typed binding; GPU errors surface at the next read. */
  run(bindings: Bindings<S>, launch: Launch<S>): void {
    const values = bindings as Record<string, Tensor | Record<string, number>>;
    const { storage, uniform } = this.#interface;
    let device: Device | undefined;
    let hash = 0x811c9dc5;
    let count = 0;
    for (const { name, write, element } of storage) {
      const t = values[name];
      if (!isTensor(t)) throw new Error(`${this.label}: binding "${name}" needs a tensor`);
      if (t.device !== (device ??= t.device)) {
        throw new Error(`${this.label}: binding "${name}" is on ${t.device.name}, the others are on ${device.name}`);
      }
      if (t.dtype !== element && elementOf(t.dtype) !== element && !(t.dtype === "f16" && element === "u32")) {
        throw new Error(`${this.label}: binding "${name}" is array<${element}>, got a tensor of ${t.dtype}`);
      }
      if (write) t.version++;
      device.recorder?.uses(t.storage.block);
      const id = t.range;
      ids[count++] = id;
      hash = mix(hash, id);
    }
    if (!device) throw new Error(`${this.label}: no storage binding`);
    const pipeline = this.#pipeline(device, launch.constants as Record<string, number> | undefined);
    let slot: Slot | undefined;
    if (uniform) {
      slot = this.#slot(device, pipeline, values[uniform.name] as Record<string, number>);
      ids[count++] = slot.id;
      hash = mix(hash, slot.id);
    }
    const bucket = pipeline.groups.get(hash);
    let group: GPUBindGroup | undefined;
    if (bucket) for (const entry of bucket) if (same(entry.ids, ids, count)) group = entry.group;
    if (!group) {
      group = this.#group(device, pipeline, values, slot);
      const entry = { ids: ids.slice(0, count), group };
      if (bucket) bucket.push(entry);
      else pipeline.groups.set(hash, [entry]);
    }
    const [x, y = 1, z = 1] = launch.workgroups;
    const limit = device.limits.maxComputeWorkgroupsPerDimension;
    if (x > limit || y > limit || z > limit) {
      throw new Error(`${this.label}: ${x}×${y}×${z} workgroups; ${device.name} allows ${limit} per dimension`);
    }
    device.dispatch(pipeline, group, x, y, z, this.label);
  }

  #pipeline(device: Device, constants: Record<string, number> | undefined): Pipeline {
    let cache = this.#pipelines.get(device);
    if (!cache) this.#pipelines.set(device, (cache = new Map()));
    const key = constants ? JSON.stringify(constants) : "";
    let pipeline = cache.get(key);
    if (!pipeline) {
      for (const name in constants) {
        if (!(name in this.#interface.overrides))
          throw new Error(`${this.label}: the WGSL declares no override "${name}"`);
      }
      // Kernels with the same text share a pipeline, for instance when a copied layer stands beside the installed one.
      const shared = `${key}\n${this.source}`;
      pipeline = device.pipelines.get(shared);
      if (!pipeline) device.pipelines.set(shared, (pipeline = this.#compile(device, constants ?? {})));
      cache.set(key, pipeline);
    }
    return pipeline;
  }

  #compile(device: Device, constants: Record<string, number>): Pipeline {
    const { storage, uniform } = this.#interface;
    const limit = device.limits.maxStorageBuffersPerShaderStage;
    if (storage.length > limit)
      throw new Error(`${this.label}: ${storage.length} storage bindings; ${device.name} allows ${limit}`);
    const entries: GPUBindGroupLayoutEntry[] = storage.map(({ binding, write }) => ({
      binding,
      visibility: 4, // GPUShaderStage.COMPUTE
      buffer: { type: write ? "storage" : "read-only-storage" },
    }));
    if (uniform) entries.push({ binding: uniform.binding, visibility: 4, buffer: { type: "uniform" } });
    return device.guard(`compiling ${this.label}`, ({ gpu }) => {
      const layout = gpu.createBindGroupLayout({ label: this.label, entries });
      const module = gpu.createShaderModule({ label: this.label, code: this.source });
      const pipeline = gpu.createComputePipeline({
        label: this.label,
        layout: gpu.createPipelineLayout({ bindGroupLayouts: [layout] }),
        compute: { module, entryPoint: "main", constants },
      });
      return { gpu: pipeline, layout, groups: new Map(), slots: new Map() };
    });
  }

  #slot(device: Device, pipeline: Pipeline, params: Record<string, number> | undefined): Slot {
    const { name, fields } = this.#interface.uniform!;
    if (!params)
      throw new Error(`${this.label}: binding "${name}" needs an object with ${fields.map(([f]) => f).join(", ")}`);
    let hash = 0x811c9dc5;
    for (let i = 0; i < fields.length; i++) {
      const [field, type] = fields[i]!;
      const value = params[field];
      if (value === undefined) throw new Error(`${this.label}: ${name}.${field} is missing`);
      if (type === "f32") floats[i] = value;
      else if (type === "i32") ints[i] = value;
      else words[i] = value;
      hash = mix(hash, words[i]!);
    }
    const bucket = pipeline.slots.get(hash);
    if (bucket) for (const slot of bucket) if (same(slot.words, words, fields.length)) return slot;
    const content = words.slice(0, fields.length);
    const slot = { words: content, ...device.uniform(content) };
    if (bucket) bucket.push(slot);
    else pipeline.slots.set(hash, [slot]);
    return slot;
  }

  #group(device: Device, pipeline: Pipeline, values: Record<string, unknown>, slot: Slot | undefined): GPUBindGroup {
    const { storage, uniform } = this.#interface;
    const tensors = storage.map(({ name }) => values[name] as Tensor);
    storage.forEach(({ name, write }, i) => {
      const other = tensors.findIndex((t, j) => j !== i && overlaps(t, tensors[i]!, write && storage[j]!.write));
      if (write && other >= 0) {
        throw new Error(
          `${this.label}: "${storage[other]!.name}" and "${name}" share memory, and the kernel writes "${name}"`,
        );
      }
    });
    const shapes = storage.map(({ name }, i) => `${name} [${tensors[i]!.shape}]`).join(", ");
    const label = `${this.label}(${shapes})`;
    const entries = storage.map(({ binding }, i) => {
      const { storage: memory, offset, bytes } = tensors[i]!;
      return { binding, resource: { buffer: memory.block.buffer, offset, size: bytes } };
    });
    if (slot) {
      const size = Math.ceil(slot.words.byteLength / 16) * 16;
      entries.push({ binding: uniform!.binding, resource: { buffer: slot.buffer, offset: slot.offset, size } });
    }
    device.groups++;
    return device.guard(label, ({ gpu }) => gpu.createBindGroup({ label, layout: pipeline.layout, entries }));
  }
}

/** WebGPU lets two writable bindings share a buffer in disjoint ranges, a readable and a writable one not at all. */
function overlaps(a: Tensor, b: Tensor, bothWritten: boolean): boolean {
  if (a.storage.block !== b.storage.block) return false;
  return !bothWritten || (a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes);
}

function same(a: ArrayLike<number>, b: ArrayLike<number>, length: number): boolean {
  if (a.length !== length) return false;
  for (let i = 0; i < length; i++) if (a[i] !== b[i]) return false;
  return true;
}

/**
 * Defines a kernel from a complete WGSL compute module with the entry point `main`. Does no GPU work. `enable f16;` is
 * added where the text uses f16. See wgsl.ts for the declarations that it reads.
 */
/* @__NO_SIDE_EFFECTS__ */
export function kernel<const S extends string>(label: string, source: S): Kernel<S> {
  return new Kernel(label, source);
}

/**
 * Kernels that differ in literals of their text: dtype, tile, flags. `build` runs once for each combination of arguments.
 *
 *   const forward = variants((T: FloatType) => kernel(`relu.${T}`, `… array<vec4<${T}>> …`));
 *   forward(x.dtype).run({ x, y, params }, { workgroups });
 */
/* @__NO_SIDE_EFFECTS__ */
export function variants<A extends readonly (string | number | boolean)[], K>(
  build: (...args: A) => K,
): (...args: A) => K {
  const built = new Map<string, K>();
  return (...args) => {
    const key = args.length === 1 ? String(args[0]) : args.join();
    let k = built.get(key);
    if (!k) built.set(key, (k = build(...args)));
    return k;
  };
}

/** Spreads `n` workgroups over x and y, since one dimension holds at most 65,535: `wg.x + wg.y * num_workgroups.x`. */
export function grid(n: number): [x: number, y: number] {
  const y = Math.ceil(n / 65535);
  return [Math.ceil(n / y), y];
}
