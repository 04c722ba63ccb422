/** What peers.ts needs of another library. */
import type { Device, Tensor } from "@kindling/core";
import type { Case } from "./cases.ts";

export interface Work {
  readonly note?: string | undefined;
  /** One repetition, whose result is let go. */
  step(): void;
  /** Hands to the GPU what is recorded. */
  flush(): void;
  /** The result of a repetition, whose values lie in `buffer` until `release`. */
  result(): Promise<{ buffer: GPUBuffer; release(): void }>;
}

export interface Library {
  prepare(problem: Case, inputs: readonly Tensor[]): Promise<Work>;
}

/** From now on navigator.gpu has one adapter, whose device is this one. */
export function offer({ gpu: device }: Device): void {
  const { limits, features, adapterInfo: info } = device;
  const adapter = { limits, features, info, isFallbackAdapter: false, requestDevice: async () => device };
  const gpu = { requestAdapter: async () => adapter };
  Object.defineProperty(globalThis, "navigator", { value: { gpu, userAgent: "node" }, configurable: true });
}

/** Copies the values of a tensor, on the GPU. */
export function copyOut(x: Tensor, to: GPUBuffer): void {
  copyBuffer(x.device, x.storage.block.buffer, x.offset, to, 0, 4 * x.size);
}

/** Copies a buffer's values into a tensor. */
export function copyIn(from: GPUBuffer, x: Tensor): void {
  copyBuffer(x.device, from, 0, x.storage.block.buffer, x.offset, 4 * x.size);
}

function copyBuffer(device: Device, from: GPUBuffer, fromAt: number, to: GPUBuffer, toAt: number, bytes: number): void {
  device.flush();
  const encoder = device.gpu.createCommandEncoder();
  encoder.copyBufferToBuffer(from, fromAt, to, toAt, bytes);
  device.gpu.queue.submit([encoder.finish()]);
}
