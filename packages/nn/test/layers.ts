/** What the tests of layers/ share: a file of PyTorch's results, compared on the GPU and on the CPU. */
import { cast, type Device, Device as KindlingDevice, type Tensor, tensor } from "@kindling/core";
import { type Fixture, fixtures, mixedError, optionsOf, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { loadFallback } from "../src/backend.ts";
import { cpuDevice } from "../src/cpu/device.ts";

export const gpu: Device = await testDevice();
export const cpu: Device = new KindlingDevice(cpuDevice(), {});
await loadFallback(cpu);
await loadFallback(gpu);

// biome-ignore lint/suspicious/noExplicitAny: what the case's name says
export type Options = Record<string, any>;
export type Inputs = Record<string, Tensor>;
/** The layer's result, or that and where its maxima were. */
export type Run = (inputs: Inputs, options: Options) => Tensor | { output: Tensor; indices: Tensor };

interface Case {
  readonly name: string;
  readonly tensors: Record<string, Fixture>;
}

const upload = ({ shape, values, dtype }: Fixture, device: Device): Tensor =>
  tensor(Float32Array.from(values), { shape, dtype, device });

/** The largest mixed error of output and gradients. Throws where shapes or indices differ. */
async function errorOf(
  run: Run,
  { name, tensors: { y, dy, indices, ...tensors } }: Case,
  device: Device,
): Promise<number> {
  const isInput = name.includes(" indices=");
  const all = isInput ? { ...tensors, indices: indices! } : tensors;
  const inputs: Inputs = {};
  for (const [key, fixture] of Object.entries(all)) {
    if (key.startsWith("d") && key.slice(1) in all) continue;
    inputs[key] = upload(fixture, device);
    inputs[key].requiresGrad = `d${key}` in tensors;
  }
  const result = run(inputs, optionsOf(name, all) as Options);
  const output = "output" in result ? result.output : result;
  if (output.shape.join() !== y!.shape.join())
    throw new Error(`y has shape [${output.shape}], PyTorch's [${y!.shape}]`);
  if ("indices" in result) expect([...(await result.indices.data())]).toEqual([...(indices!.values as Int32Array)]);
  let worst = mixedError(await output.data(), y!.values);
  output.backward(cast(upload(dy!, device), output.dtype));
  for (const [key, x] of Object.entries(inputs)) {
    if (!x.requiresGrad) continue;
    worst = Math.max(worst, mixedError(x.grad ? await x.grad.data() : [], tensors[`d${key}`]!.values));
  }
  return worst;
}

const TOLERANCE = { f32: 2e-5, f16: 4e-3 };

/**
 * A test for each function of the file and each device. On a software GPU, which compiles for a second what the CPU has in
 * milliseconds, only the cases whose name holds one of `onGpu`.
 */
export async function compareWithPyTorch(file: string, runs: Record<string, Run>, onGpu: string[]): Promise<void> {
  const cases = [...(await fixtures(new URL(`./${file}.safetensors`, import.meta.url)))].map(
    ([name, tensors]): Case => ({ name, tensors }),
  );
  const functions = new Set(cases.map(({ name }) => name.split(" ")[0]!));
  it("has a function for each case", () => {
    expect([...functions].filter((fn) => !(fn in runs))).toEqual([]);
  });
  const devices: [string, Device][] = [
    ["the GPU", gpu],
    ["the CPU", cpu],
  ];
  describe.each(devices)("PyTorch's results on %s", (_, device) => {
    it.each([...functions])("%s", async (fn) => {
      const worse: string[] = [];
      for (const item of cases) {
        if (item.name.split(" ")[0] !== fn) continue;
        const half = item.name.includes('dtype="f16"');
        if (half && !device.features.has("shader-f16")) continue;
        if (device.software && device !== cpu && !onGpu.some((text) => item.name.includes(text))) continue;
        const error = await errorOf(runs[fn]!, item, device).catch((problem: unknown) => problem);
        if (!(typeof error === "number" && error < TOLERANCE[half ? "f16" : "f32"]))
          worse.push(`${item.name}: ${error}`);
      }
      expect(worse).toEqual([]);
    });
  });
}

/** The text of what `fn` throws. */
export function messageOf(fn: () => unknown): string {
  try {
    fn();
  } catch (error) {
    return (error as Error).message;
  }
  return "nothing was thrown";
}
