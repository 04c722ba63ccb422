/**
 * Times what other JavaScript libraries do on WebGPU: TensorFlow.js and jax-js beside Kindling, in one process, on
 * Kindling's GPUDevice, from the same inputs. Their results go through the checks of Kindling's own cases.
 *
 *   pnpm --filter kindling-bench run peers                                  small sizes where the GPU is software
 *   pnpm --filter kindling-bench run peers --only softmax --out peers.json
 *
 * Each does it its best way: jax-js compiles functions with jit; TensorFlow.js gets images channels last, and composes what
 * it has no kernel for. Kindling's numbers are those of main.ts's forward cases, measured anew.
 */
import { type Device, empty } from "@kindling/core";
import { cleanly, kernelCase, type Result, time } from "./measure.ts";
import manifest from "./package.json" with { type: "json" };
import { type Case, casesOf } from "./peers/cases.ts";
import { openJax } from "./peers/jax.ts";
import { copyIn, type Library, offer } from "./peers/library.ts";
import { openTfjs } from "./peers/tfjs.ts";
import { openSession, wanted } from "./session.ts";

const { devDependencies: pinned } = manifest;
const versions = { tfjs: pinned["@tensorflow/tfjs-core"], "jax-js": pinned["@jax-js/jax"] };
const libraries: Record<keyof typeof versions, (device: Device) => Promise<Library>> = {
  tfjs: openTfjs,
  "jax-js": openJax,
};

const { device, sizes, report, end } = await openSession(versions);
const cases = casesOf(sizes).filter(({ name }) => wanted("peers", name));
const failure = (error: Error): Result => ({ error: error.message });
const factsOf = ({ bytes, flops }: Case, note?: string): Result => ({
  ...(bytes && { bytes }),
  ...(flops && { flops }),
  ...(note && { note }),
});

/** Checks a library's result, and gives what times it: later, for a driver may go on optimising new kernels. */
async function checked(library: Library, problem: Case): Promise<() => Promise<Result>> {
  const { inputs, step, check } = problem.setup();
  const [like] = step();
  const y = empty(like!.shape);
  const { note, result, step: repeat, flush } = await library.prepare(problem, inputs);
  const { buffer, release } = await result();
  copyIn(buffer, y);
  release();
  await check([y]);
  return async () => ({ ...factsOf(problem, note), ...(await time(device, repeat, { flush })) });
}

/** Rows of one library, each once all of its cases are checked. */
async function measure(library: string, timings: readonly (() => Promise<Result>)[]): Promise<void> {
  for (const [i, timing] of timings.entries()) {
    report({ group: "peers", library, name: cases[i]!.name, ...(await timing().catch(failure)) });
  }
}

const failing =
  (error: Error): (() => Promise<Result>) =>
  () =>
    Promise.reject(error);

await cleanly(device, async () => {
  const timings: (() => Promise<Result>)[] = [];
  for (const problem of cases) {
    const { check, run } = kernelCase(problem.name, problem.setup, factsOf(problem));
    timings.push(await check!(device).then(() => () => run(device), failing));
  }
  await measure("kindling", timings);
});
offer(device);
for (const [name, open] of Object.entries(libraries)) {
  await cleanly(device, async () => {
    const library = await open(device).catch((error: Error) => error);
    const timings: (() => Promise<Result>)[] = [];
    for (const problem of cases) {
      timings.push(library instanceof Error ? failing(library) : await checked(library, problem).catch(failing));
    }
    await measure(name, timings);
  });
}
process.exit(end()); // the libraries hold the process
