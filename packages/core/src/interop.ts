/**
 * Memory shared with other WebGPU libraries on the same GPUDevice, without a copy: their buffers as tensors, tensors as buffers.
 *
 *   const device = await init({ device: theirDevice });
 *   const x = fromBuffer(theirBuffer, { shape: [8, 768] });
 *   const { buffer, offset, bytes } = bufferOf(layer.forward(x));
 */
import { type Device, defaultDevice } from "./device.ts";
import type { Block } from "./pool.ts";
import { type DType, type Shape, sizeOf, Tensor } from "./tensor.ts";

/** What a kernel, a read and a write need of a buffer: GPUBufferUsage.STORAGE, COPY_SRC and COPY_DST. */
const USAGE = 128 | 4 | 8;

/** One block for each buffer, so that kernels notice two tensors that share one. */
const blocks = new WeakMap<GPUBuffer, Block>();

function blockOf(buffer: GPUBuffer, device: Device): Block {
  let block = blocks.get(buffer);
  if (!block) {
    // a pool of its own, which nothing takes from: the buffer is its owner's, never handed out and never destroyed here
    const pool = device.pool.fork();
    block = { id: 0, buffer, bytes: buffer.size, pool, pins: 0, orphan: false, ranges: [] };
    blocks.set(buffer, block);
  }
  return block;
}

export interface FromBufferOptions {
  readonly shape: Shape;
  /** Of the elements that lie there; a bool takes 4 bytes, 0 or 1. Default f32. */
  readonly dtype?: DType;
  /** Where the elements begin, in bytes: a multiple of the device's minStorageBufferOffsetAlignment, 256. Default 0. */
  readonly offset?: number;
  /** The device that the buffer was made on. Default: the default device. */
  readonly device?: Device;
}

/**
 * A tensor over a buffer of another library, which keeps it: it must not be destroyed while the tensor lives, and work that fills
 * it must be submitted before the tensor is used. Elements are read and written in whole vectors of 16 bytes.
 */
export function fromBuffer(buffer: GPUBuffer, options: FromBufferOptions): Tensor {
  const { shape, dtype = "f32", offset = 0, device = defaultDevice() } = options;
  const fail = (text: string): never => {
    throw new Error(`fromBuffer: ${text}`);
  };
  if ((buffer.usage & USAGE) !== USAGE)
    fail(`the buffer's usage is ${buffer.usage}, expected STORAGE, COPY_SRC and COPY_DST (${USAGE}) among it`);
  if (shape.some((d) => !Number.isInteger(d) || d < 1))
    fail(`shape is [${shape}]; every dimension is a whole number ≥ 1`);
  const alignment = device.limits.minStorageBufferOffsetAlignment;
  if (!Number.isInteger(offset) || offset < 0 || offset % alignment !== 0)
    fail(`offset is ${offset}, expected a multiple of ${alignment}`);
  const bytes = Math.ceil((sizeOf(shape) * (dtype === "f16" ? 2 : 4)) / 16) * 16;
  if (offset + bytes > buffer.size)
    fail(
      `[${shape}] ${dtype} takes ${bytes} bytes in vectors of 16; the buffer has ${buffer.size - offset} from ${offset}`,
    );
  return new Tensor(device, shape, dtype, { device, block: blockOf(buffer, device), refs: 0 }, offset);
}

/**
 * Where a tensor lies. All work recorded so far is submitted, so that another library's commands come after it. The range is the
 * tensor's as long as it lives: then other tensors get it.
 */
export function bufferOf(x: Tensor): { buffer: GPUBuffer; offset: number; bytes: number } {
  const { buffer } = x.storage.block;
  x.device.flush();
  return { buffer, offset: x.offset, bytes: x.size * (x.dtype === "f16" ? 2 : 4) };
}
