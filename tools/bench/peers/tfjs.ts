/**
 * TensorFlow.js on Kindling's GPUDevice. Inputs are Kindling's buffers, without a copy. It gathers dispatches in an encoder
 * of its own, which must be submitted before another library's commands may count on them.
 */
import type { Device, Tensor } from "@kindling/core";
import type { Tf, TfTensor } from "./cases.ts";
import type { Library } from "./library.ts";

/** What of the backend is not in its types. */
interface Backend {
  endComputePassEncoder(): void;
  submitQueue(): void;
  commandEncoder: GPUCommandEncoder | null;
  tensorMap: { get(id: object): { resource: GPUBuffer } };
}

export async function openTfjs(device: Device): Promise<Library> {
  const tf: Tf = await import("@tensorflow/tfjs-core");
  const { WebGPUBackend } = await import("@tensorflow/tfjs-backend-webgpu");
  tf.removeBackend("webgpu"); // the one with a device of its own; the kernels are registered under this name
  tf.registerBackend("webgpu", () => new WebGPUBackend(device.gpu, device.gpu.adapterInfo), 3);
  if (!(await tf.setBackend("webgpu"))) throw new Error("tfjs: its WebGPU backend cannot be set");
  tf.env().set("WEBGPU_CPU_FORWARD", false); // small tensors, too, on the GPU
  const backend = tf.backend() as unknown as Backend;
  const flush = (): void => {
    backend.endComputePassEncoder();
    if (backend.commandEncoder) backend.submitQueue();
  };
  const enter = (x: Tensor): TfTensor =>
    tf.tensor({ buffer: x.storage.block.buffer, zeroCopy: true }, [...x.shape], "float32");
  return {
    async prepare({ tfjs }, tensors) {
      device.flush();
      const outside = tensors.map(enter);
      const inputs = tfjs.enter?.(tf, outside) ?? outside;
      const run = (): TfTensor => tf.tidy(() => tfjs.run(tf, inputs));
      return {
        note: tfjs.note,
        step: () => run().dispose(),
        flush,
        async result() {
          const y = tf.tidy(() => tfjs.leave?.(tf, run()) ?? run());
          flush();
          return { buffer: backend.tensorMap.get(y.dataId).resource, release: () => y.dispose() };
        },
      };
    },
  };
}
