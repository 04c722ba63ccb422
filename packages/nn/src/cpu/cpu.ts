/**
 * What `init` opens where there is no WebGPU, or where it is asked for "cpu": a GPUDevice on ArrayBuffers (device.ts) for
 * tensors, the tape and the optimizers, and the fallback on jax-js's WebAssembly backend for the layers.
 */
import { loadFallback } from "../backend.ts";
import { cpuDevice } from "./device.ts";

let told = false;

/** Opens the CPU and loads the fallback. `reason` is why there is no GPU, where the CPU was not asked for: said once. */
export async function open(reason?: Error): Promise<GPUDevice> {
  await loadFallback("cpu").catch((error: Error) => {
    throw reason ? new Error(`${reason.message}; nor does the CPU do instead: ${error.message}`) : error;
  });
  if (reason && !told) {
    told = true;
    console.warn(
      `kindling: computing on the CPU with jax-js, since there is no GPU: ${reason.message}. init({ backend: "cpu" }) asks for it, init({ backend: "webgpu" }) refuses it.`,
    );
  }
  return cpuDevice();
}
