/**
 * Times layers computed by Kindling's kernels beside the same layers computed by the fallback of @kindling/nn, which is jax-js, in
 * one process and on one GPUDevice.
 *
 *   pnpm --filter kindling-bench run fallback                                    small sizes where the GPU is software
 *   pnpm --filter kindling-bench run fallback --only softmax --out fallback.json
 *
 * The cases are those of main.ts in f32, at most two of a layer, the first of each layer first. Kernels are captured, as there;
 * the fallback cannot be, and its time is that of warm calls, compiled beforehand. Whether results are right is what tests say.
 */
import { loadFallback, setBackend } from "@kindling/nn";
import { layers } from "./layers/index.ts";
import type { Case, Result } from "./measure.ts";
import manifest from "./package.json" with { type: "json" };
import { openSession, wanted } from "./session.ts";

/** Milliseconds of a step above which a case is not repeated, and not tried with its backward. */
const MOST = 5_000;
/** Seconds after which no further case is begun. */
const BUDGET = 170;
/** What is no layer. */
const LEFT_OUT = ["math", "optim"];

const { device, sizes, report, end } = await openSession({ "jax-js": manifest.devDependencies["@jax-js/jax"] });
const start = performance.now();
await loadFallback();

interface Pair {
  readonly layer: string;
  readonly cases: Case[];
}

/** The forward cases with their "fwd+bwd", the first of each layer, then the second of each. */
const pairs: Pair[][] = [[], []];
for (const [layer, load] of Object.entries(layers)) {
  if (LEFT_OUT.includes(layer)) continue;
  const cases = (await load()).cases(sizes).filter(({ f16, name }) => !f16 && wanted("fallback", layer, name));
  const names = [...new Set(cases.map(({ name }) => name.replace(/ fwd(\+bwd)?$/, "")))];
  names.slice(0, 2).forEach((name, i) => {
    pairs[i]!.push({ layer, cases: cases.filter((one) => one.name.startsWith(`${name} fwd`)) });
  });
}

const failure = (error: Error): Result => ({ error: error.message });

for (const { layer, cases } of pairs.flat()) {
  let slow = false;
  for (const one of cases) {
    const place = { group: "fallback", layer, name: one.name };
    if ((performance.now() - start) / 1e3 > BUDGET) {
      report({ ...place, library: "fallback", note: `not begun after ${BUDGET} s` });
      continue;
    }
    await setBackend("kernels");
    report({ ...place, library: "kindling", ...(await one.run(device).catch(failure)) });
    if (slow) {
      report({ ...place, library: "fallback", note: "left out: its forward alone is too slow" });
      continue;
    }
    await setBackend("fallback");
    const result = await one.eager!(device, MOST).catch(failure);
    slow = (result.ms ?? 0) > MOST;
    report({ ...place, library: "fallback", ...result });
  }
}
process.exit(end()); // jax-js holds the process
