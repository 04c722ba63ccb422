import { add, memory, mul, ones, scope, tensor } from "@kindling/core";
import { bufferOf, fromBuffer } from "@kindling/core/interop";
import { testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";

const device = await testDevice();
const STORAGE = 128 | 4 | 8;

/** A buffer of somebody else's with these numbers from `offset` on. */
function theirs(values: number[], offset = 0, usage = STORAGE): GPUBuffer {
  const data = Float32Array.from(values);
  const size = Math.ceil((offset + data.byteLength) / 16) * 16;
  const buffer = device.gpu.createBuffer({ size, usage });
  device.gpu.queue.writeBuffer(buffer, offset, data);
  return buffer;
}

/** Reads a range with commands of their own. */
async function read({
  buffer,
  offset,
  bytes,
}: {
  buffer: GPUBuffer;
  offset: number;
  bytes: number;
}): Promise<number[]> {
  const staging = device.gpu.createBuffer({ size: bytes, usage: 1 | 8 });
  const encoder = device.gpu.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, offset, staging, 0, bytes);
  device.gpu.queue.submit([encoder.finish()]);
  await staging.mapAsync(1);
  const values = [...new Float32Array(staging.getMappedRange().slice(0))];
  staging.destroy();
  return values;
}

describe("memory shared with another library", () => {
  it("is read, written and differentiated where it lies", async () => {
    const buffer = theirs([1, 2, 3], 256);
    const x = fromBuffer(buffer, { shape: [3], offset: 256 });
    x.requiresGrad = true;
    const y = mul(x, x);
    expect(await read(bufferOf(y))).toEqual([1, 4, 9]);
    y.backward(ones([3]));
    expect(await x.grad!.array()).toEqual([2, 4, 6]);
    expect(bufferOf(x)).toEqual({ buffer, offset: 256, bytes: 12 });
  });

  it("stays its owner's", async () => {
    const buffer = theirs([5]);
    const before = memory().pooledBytes;
    scope(() => void fromBuffer(buffer, { shape: [1] }));
    device.trim();
    expect(memory().pooledBytes).toBeLessThanOrEqual(before);
    expect(await read({ buffer, offset: 0, bytes: 4 })).toEqual([5]);
    expect(await add(fromBuffer(buffer, { shape: [1] }), tensor([1])).array()).toEqual([6]);
  });

  it("says what is wrong with a buffer", () => {
    const buffer = theirs([1, 2, 3, 4]);
    expect(() => fromBuffer(buffer, { shape: [5] })).toThrow(
      "fromBuffer: [5] f32 takes 32 bytes in vectors of 16; the buffer has 16 from 0",
    );
    expect(() => fromBuffer(buffer, { shape: [1], offset: 4 })).toThrow("offset is 4, expected a multiple of 256");
    expect(() => fromBuffer(buffer, { shape: [1.5] })).toThrow("shape is [1.5]");
    expect(() => fromBuffer(theirs([1], 0, 8), { shape: [1] })).toThrow(
      "usage is 8, expected STORAGE, COPY_SRC and COPY_DST",
    );
  });
});
