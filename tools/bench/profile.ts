/**
 * Where the GPU's time of a training step goes: replays in which the dispatches of one kernel are made several times over
 * show, by how much longer they take, what that kernel costs. It includes the gap between one dispatch and the next.
 */
import type { Device, FloatType } from "@kindling/core";
import { formatTime } from "./format.ts";
import { cleanly, type Dispatch, observeDispatches, type Sizes, timeBoth, timeGpu } from "./measure.ts";
import { Training } from "./training.ts";

/** How often a kernel is dispatched instead of once. */
const TIMES = 9;
/** Milliseconds of replays to time. */
const ROUND = 20;

export async function profile(device: Device, { gpt }: Sizes): Promise<void> {
  const dtypes: FloatType[] = device.features.has("shader-f16") ? ["f32", "f16"] : ["f32"];
  for (const config of gpt) {
    for (const dtype of dtypes) {
      console.log(`\ngpt ${config.layers}×${config.width} ${dtype}, GPU time by kernel`);
      await cleanly(device, () => profileStep(device, new Training(config, dtype, "captured")));
    }
  }
}

async function profileStep(device: Device, training: Training): Promise<void> {
  using _ = training;
  training.step();
  /** The label of a bind group names the kernel and its operands' shapes. */
  const labelOf = ([, group]: Dispatch): string => group.label;
  const counts = new Map<string, number>();
  observeDispatches(device, training.step, (...dispatch) => {
    counts.set(labelOf(dispatch), (counts.get(labelOf(dispatch)) ?? 0) + 1);
    return 1;
  });
  const { gpu } = await timeBoth(device, training.step);
  const count = Math.ceil(ROUND / gpu!);
  const whole = await timeGpu(device, training.step, count);
  const costs: [label: string, count: number, ms: number][] = [];
  for (const [label, dispatches] of counts) {
    const repeated = (): void =>
      observeDispatches(device, training.step, (...dispatch) => (labelOf(dispatch) === label ? TIMES : 1));
    costs.push([label, dispatches, ((await timeGpu(device, repeated, count)) - whole) / (TIMES - 1)]);
  }
  const all = [...counts.values()].reduce((sum, n) => sum + n, 0);
  console.log(`${formatTime(whole).padStart(9)}        all ${all} dispatches`);
  for (const [label, dispatches, ms] of costs.sort((a, b) => b[2] - a[2])) {
    if (ms > whole / 200) console.log(`${formatTime(ms).padStart(9)}  ${String(dispatches).padStart(3)} × ${label}`);
  }
}
