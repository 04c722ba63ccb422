/** Tensors: contiguous row-major arrays in GPU memory, and their place on the autograd tape. */
import { fill, reshape } from "./arithmetic.ts";
import { backward, type Node } from "./autograd.ts";
import { type Device, defaultDevice } from "./device.ts";
import { decodeHalf, encodeHalf } from "./half.ts";
import type { Block } from "./pool.ts";
import { state } from "./state.ts";

export type Shape = readonly number[];
export type FloatType = "f32" | "f16";
export type DType = FloatType | "i32" | "u32" | "bool";
export type TypedArray = Float32Array | Int32Array | Uint32Array | Uint8Array;
export type NestedArray = number | boolean | readonly NestedArray[];

export interface TensorOptions {
  /** Default: f32, or what a TypedArray holds. */
  dtype?: DType;
  /** Default: the default device. */
  device?: Device;
}

const BYTES: Record<DType, number> = { f32: 4, f16: 2, i32: 4, u32: 4, bool: 4 };

// A registered symbol, not `instanceof`: two copies of core in one bundle still recognise each other's tensors.
const TENSOR: unique symbol = Symbol.for("@kindling/core/tensor/1") as never;

export const isTensor = (value: unknown): value is Tensor =>
  typeof value === "object" && value !== null && TENSOR in value;

/** Memory that one or more tensors share. */
export interface Storage {
  readonly device: Device;
  readonly block: Block;
  refs: number;
}

/** Unscoped tensors that the garbage collector finds give their memory back; a scope does it sooner and for certain. */
const collected = new FinalizationRegistry<Storage>(release);

export class Tensor {
  static {
    Object.defineProperty(this.prototype, TENSOR, { value: true });
    // What console.log shows in Node.
    Object.defineProperty(this.prototype, Symbol.for("nodejs.util.inspect.custom"), { value: this.prototype.toString });
  }

  readonly device: Device;
  readonly shape: Shape;
  readonly dtype: DType;
  /** Number of elements. */
  readonly size: number;
  /** @internal What put this tensor on the tape. */
  node: Node | null = null;
  /** @internal Never freed by a scope. */
  persistent = false;
  /** @internal "parameter" and "buffer" are found by Module. */
  role: "parameter" | "buffer" | null = null;
  /** @internal Counts writes, so that backward notices an operand changed after it was saved. */
  version = 0;
  /** @internal */
  retainsGrad = false;
  /** @internal Start inside the storage, in bytes. */
  readonly offset: number;
  #storage: Storage | null;
  #requiresGrad = false;
  #range = 0;
  #grad: Tensor | null = null;

  /** @internal Use `tensor`, `empty`, `zeros` … */
  constructor(device: Device, shape: Shape, dtype: DType, storage?: Storage, offset = 0) {
    this.device = device;
    this.shape = shape;
    this.dtype = dtype;
    this.size = sizeOf(shape);
    this.offset = offset;
    this.#storage = storage ?? { device, block: device.take(this.bytes), refs: 0 };
    if (this.#storage.refs++ === 0) device.live.bytes += this.#storage.block.bytes;
    device.live.tensors++;
    const scope = state.scopes.at(-1);
    if (scope) scope.tensors.push(this);
    else this.unscope();
  }

  /** @internal No scope will free this tensor: leave it to dispose() or to the garbage collector. */
  unscope(): void {
    collected.register(this, this.storage, this);
  }

  /** Bytes of the elements, padded so that kernels may read and write whole vec4s. */
  get bytes(): number {
    return Math.ceil((this.size * BYTES[this.dtype]) / 16) * 16;
  }

  get disposed(): boolean {
    return this.#storage === null;
  }

  /** @internal */
  get storage(): Storage {
    if (!this.#storage)
      throw new Error(`tensor [${this.shape}] ${this.dtype} was disposed (by dispose() or at the end of its scope)`);
    return this.#storage;
  }

  /** @internal Id of the bound buffer range: the key under which bind groups are cached. */
  get range(): number {
    const { block } = this.storage;
    if (this.#range === 0) this.#range = this.device.rangeId(block, this.offset, this.bytes);
    return this.#range;
  }

  get requiresGrad(): boolean {
    return this.#requiresGrad;
  }

  set requiresGrad(on: boolean) {
    if (on && this.dtype !== "f32" && this.dtype !== "f16") {
      throw new Error(`requiresGrad: only f32 and f16 tensors have gradients, got ${this.dtype}`);
    }
    if (!on && this.node)
      throw new Error("requiresGrad: cannot be switched off on the result of an operation; use detach()");
    this.#requiresGrad = on;
  }

  /** Gradient accumulated by `backward`, for leaves that require one and for tensors with `retainGrad()`. */
  get grad(): Tensor | null {
    return this.#grad;
  }

  set grad(value: Tensor | null) {
    if (value === null) this.device.recorder?.cleared(this);
    this.#grad = value;
  }

  /** Reads the values back: Float32Array for f32 and f16, Uint8Array of 0 and 1 for bool. Waits for the GPU. */
  async data(): Promise<TypedArray> {
    const bytes = await this.device.read(this);
    const n = this.size;
    switch (this.dtype) {
      case "f32":
        return new Float32Array(bytes, 0, n);
      case "i32":
        return new Int32Array(bytes, 0, n);
      case "u32":
        return new Uint32Array(bytes, 0, n);
      case "f16":
        return decodeHalf(new Uint16Array(bytes, 0, n));
      case "bool":
        return Uint8Array.from(new Uint32Array(bytes, 0, n));
    }
  }

  /** The value of a tensor with one element. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new Error(`item: only a tensor with one element has one, got shape [${this.shape}]`);
    return (await this.data())[0]!;
  }

  /** The values as nested arrays. */
  async array(): Promise<NestedArray> {
    const data = await this.data();
    const nest = (axis: number, start: number, span: number): NestedArray => {
      if (axis === this.shape.length) return this.dtype === "bool" ? data[start] === 1 : data[start]!;
      const step = span / this.shape[axis]!;
      return Array.from({ length: this.shape[axis]! }, (_, i) => nest(axis + 1, start + i * step, step));
    };
    return nest(0, 0, this.size);
  }

  /** Fills `.grad` of every leaf that this tensor depends on. `grad` defaults to one for a scalar. */
  backward(grad?: Tensor, options: { retainGraph?: boolean } = {}): void {
    backward(this, grad, options);
  }

  /** The same values, off the tape. */
  detach(): Tensor {
    return this.view(0, this.shape);
  }

  /** Asks backward to keep this intermediate result's gradient in `.grad`. */
  retainGrad(): this {
    this.retainsGrad = true;
    return this;
  }

  /** The same values under another shape; one dimension may be -1. Shares memory. */
  reshape(shape: Shape): Tensor {
    return reshape(this, shape);
  }

  /**
   * @internal A window on the same memory, off the tape: `shape` elements from element `start`. Throws where the GPU's
   * binding alignment does not allow it.
   */
  view(start: number, shape: Shape): Tensor {
    const offset = this.offset + start * BYTES[this.dtype];
    const alignment = this.device.limits.minStorageBufferOffsetAlignment;
    if (offset % alignment !== 0)
      throw new Error(`view: element ${start} lies at byte ${offset}, not a multiple of ${alignment}`);
    if (start < 0 || start + sizeOf(shape) > this.size)
      throw new Error(`view: [${shape}] from element ${start} exceeds [${this.shape}]`);
    return new Tensor(this.device, shape, this.dtype, this.storage, offset);
  }

  /** Frees the memory unless another tensor shares it. Using the tensor afterwards is an error. */
  dispose(): void {
    if (!this.#storage) return;
    collected.unregister(this);
    release(this.#storage);
    this.#storage = null;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  toString(): string {
    const grad = this.#requiresGrad ? ", requiresGrad" : "";
    return `Tensor([${this.shape}], ${this.dtype}${grad})`;
  }
}

function release(storage: Storage): void {
  const { device, block } = storage;
  device.live.tensors--;
  if (--storage.refs > 0) return;
  device.live.bytes -= block.bytes;
  block.pool.give(block);
}

export function sizeOf(shape: Shape): number {
  let size = 1;
  for (const d of shape) size *= d;
  return size;
}

/** An uninitialised tensor. */
export function empty(shape: Shape, { dtype = "f32", device = defaultDevice() }: TensorOptions = {}): Tensor {
  if (!(dtype in BYTES)) throw new Error(`empty: dtype "${dtype}" is unknown; expected f32, f16, i32, u32 or bool`);
  for (const d of shape) {
    if (!Number.isInteger(d) || d < 1)
      throw new Error(`empty: shape [${shape}] has a dimension ${d}; every dimension is a whole number ≥ 1`);
  }
  if (dtype === "f16" && !device.features.has("shader-f16")) {
    throw new Error(`empty: dtype f16 needs a GPU with shader-f16, which ${device.name} does not offer`);
  }
  const bytes = Math.ceil((sizeOf(shape) * BYTES[dtype]) / 16) * 16;
  const limit = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
  if (bytes > limit)
    throw new Error(`empty: shape [${shape}] ${dtype} takes ${bytes} bytes; ${device.name} binds at most ${limit}`);
  return new Tensor(device, [...shape], dtype);
}

export const emptyLike = (
  x: Tensor,
  { shape = x.shape, dtype = x.dtype }: { shape?: Shape; dtype?: DType } = {},
): Tensor => empty(shape, { dtype, device: x.device });

export const full = (shape: Shape, value: number, options: TensorOptions = {}): Tensor =>
  fill(empty(shape, options), value);
export const zeros = (shape: Shape, options: TensorOptions = {}): Tensor => full(shape, 0, options);
export const ones = (shape: Shape, options: TensorOptions = {}): Tensor => full(shape, 1, options);

export interface FromOptions extends TensorOptions {
  /** Default: the shape of the nesting; a TypedArray is one-dimensional. */
  shape?: Shape;
  requiresGrad?: boolean;
}

/** A tensor with the values of nested arrays or of a TypedArray (which is copied). */
export function tensor(
  data: NestedArray | TypedArray,
  { shape, dtype, device = defaultDevice(), requiresGrad = false }: FromOptions = {},
): Tensor {
  const flat: ArrayLike<number> = ArrayBuffer.isView(data) ? (data as TypedArray) : (flatten(data) as number[]);
  const natural = ArrayBuffer.isView(data) ? [flat.length] : nesting(data);
  const target = shape ?? natural;
  if (sizeOf(target) !== flat.length)
    throw new Error(`tensor: shape [${target}] holds ${sizeOf(target)} elements, the data has ${flat.length}`);
  const type = dtype ?? guess(data);
  const t = empty(target, { dtype: type, device });
  device.write(t, encode(flat, type));
  t.requiresGrad = requiresGrad;
  return t;
}

/** Values in the layout that a tensor of `dtype` has in memory. */
export function encode(values: ArrayLike<number>, dtype: DType): ArrayBufferView<ArrayBuffer> {
  switch (dtype) {
    case "f32":
      return Float32Array.from(values);
    case "f16":
      return encodeHalf(values);
    case "i32":
      return Int32Array.from(values);
    case "u32":
      return Uint32Array.from(values);
    case "bool":
      return Uint32Array.from(values, (v) => (v ? 1 : 0));
  }
}

function guess(data: NestedArray | TypedArray): DType {
  if (data instanceof Int32Array) return "i32";
  if (data instanceof Uint32Array) return "u32";
  if (data instanceof Uint8Array) return "bool";
  let first: unknown = data;
  while (Array.isArray(first)) first = first[0];
  return typeof first === "boolean" ? "bool" : "f32";
}

function nesting(data: unknown): number[] {
  return Array.isArray(data) ? [data.length, ...nesting(data[0] ?? 0)] : [];
}

function flatten(data: NestedArray | TypedArray): number[] {
  const out: number[] = [];
  const visit = (value: unknown, shape: readonly number[]): void => {
    if (!Array.isArray(value)) {
      if (shape.length > 0 || (typeof value !== "number" && typeof value !== "boolean")) {
        throw new Error(
          `tensor: expected numbers nested in arrays of equal length, found ${typeof value} beside arrays`,
        );
      }
      out.push(Number(value));
      return;
    }
    if (value.length !== shape[0])
      throw new Error(`tensor: rows of ${shape[0]} and ${value.length} elements; expected equal lengths`);
    for (const item of value) visit(item, shape.slice(1));
  };
  visit(data, nesting(data));
  return out;
}

/** Marks a tensor as a parameter: it requires a gradient, belongs to its Module and outlives scopes. */
export function parameter(x: Tensor): Tensor {
  x.role = "parameter";
  x.persistent = true;
  x.requiresGrad = true;
  return x;
}

/** Marks a tensor as a buffer: part of its Module's state, without a gradient. */
export function buffer(x: Tensor): Tensor {
  x.role = "buffer";
  x.persistent = true;
  return x;
}
