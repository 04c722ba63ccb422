/**
 * jax-js on Kindling's GPUDevice, which it finds through navigator.gpu. It has no way to take a buffer: inputs are copied into
 * arrays of its own. Arrays are counted: `ref` lends one to a call.
 */
import type { Device } from "@kindling/core";
import type { Jax } from "./cases.ts";
import { copyOut, type Library } from "./library.ts";

export async function openJax(device: Device): Promise<Library> {
  const jax: Jax = await import("@jax-js/jax");
  await jax.init("webgpu");
  jax.defaultDevice("webgpu");
  if (jax.getWebGPUDevice() !== device.gpu) throw new Error("jax-js: it opened a device of its own");
  return {
    async prepare(problem, tensors) {
      const fn = problem.jax(jax);
      const inputs = await Promise.all(
        tensors.map(async (x) => {
          const array = jax.numpy.array(new Float32Array(x.size), { shape: [...x.shape] });
          copyOut(x, await array.ref.gpuBuffer());
          return array;
        }),
      );
      const run = () => fn(...inputs.map((x) => x.ref));
      (await run().blockUntilReady()).dispose(); // compiles
      return {
        step() {
          const y = run();
          y.ref.gpuBufferSync(); // submits
          y.dispose();
        },
        flush: () => {},
        async result() {
          const y = run();
          return { buffer: await y.ref.gpuBuffer(), release: () => y.dispose() };
        },
      };
    },
  };
}
