/**
 * Times kernels, launches, layers and training steps.
 *
 *   pnpm bench                                       everything; small sizes where the GPU is software
 *   pnpm bench -- --only 'matmul|^softmax'           groups, layers or cases whose name matches
 *   pnpm bench -- --out out/kindling.json            also writes the numbers
 *   pnpm bench -- --only training --profile          also says which kernels the time of a training step goes to
 *   KINDLING_GPU=null pnpm bench -- --only launch    the cost of JavaScript alone
 *
 * To compare, run torch_bench and peers.ts on the same machine, with the same --only, and merge the files with report.ts.
 * For a machine without this workspace, pack.ts makes one file of each.
 */
import { layers } from "./layers/index.ts";
import { type Case, type Row, type Sizes, sizesOf } from "./measure.ts";
import { openSession, options, type Session, wanted } from "./session.ts";

interface Source {
  readonly group: string;
  readonly layer?: string;
  /** Loaded one by one, so that one that cannot be loaded does not keep the others from running. */
  load(): Promise<{ cases: (sizes: Sizes) => Case[] }>;
}

const sources: readonly Source[] = [
  { group: "launch", load: () => import("./launch.ts") },
  { group: "memory", load: () => import("./memory.ts") },
  { group: "matmul", layer: "core", load: () => import("./matmul.ts") },
  ...Object.entries(layers).map(([layer, load]) => ({ group: "layers", layer, load })),
  { group: "training", load: () => import("./training.ts") },
];

/** The cases of a source that `--only` asks for; an error where it cannot be loaded. */
async function chosen({ group, layer = group, load }: Source, sizes: Sizes): Promise<Case[] | Error> {
  try {
    return (await load()).cases(sizes).filter(({ name }) => wanted(group, layer, name));
  } catch (error) {
    return wanted(group, layer) ? (error as Error) : [];
  }
}

async function list(): Promise<void> {
  for (const source of sources) {
    const cases = await chosen(source, sizesOf(options.small ?? false));
    if (!(cases instanceof Error)) for (const { name } of cases) console.log(name);
    else {
      console.error(cases.message);
      process.exitCode = 1;
    }
  }
}

/** A row to come: its case, and what came of the check. */
interface Planned {
  readonly place: Pick<Row, "group" | "layer" | "name">;
  readonly one?: Case;
  readonly error?: string;
  readonly seconds: number;
}

async function plan({ device, computes, sizes }: Session): Promise<Planned[]> {
  const planned: Planned[] = [];
  for (const source of sources) {
    const { group, layer } = source;
    const place = { group, ...(layer && { layer }) };
    const cases = await chosen(source, sizes);
    if (cases instanceof Error) {
      planned.push({ place: { ...place, name: layer ?? group }, error: cases.message, seconds: 0 });
      continue;
    }
    for (const one of cases) {
      const { name, f16, anyDevice, check } = one;
      if ((!computes && !anyDevice) || (f16 && !device.features.has("shader-f16"))) continue;
      const start = performance.now();
      const error = await check?.(device).then(() => undefined, messageOf);
      const seconds = (performance.now() - start) / 1e3;
      planned.push({ place: { ...place, name }, seconds, ...(error === undefined ? { one } : { error }) });
    }
  }
  return planned;
}

const messageOf = (error: Error): string => error.message;

async function bench(): Promise<number> {
  const session = await openSession();
  const { device, sizes, report, end } = session;
  const planned = await plan(session);
  console.log(`checked in ${planned.reduce((all, { seconds }) => all + seconds, 0).toFixed(0)} s`);
  for (const { place, one, error, seconds } of planned) {
    const start = performance.now();
    const result = one ? await one.run(device).catch((error) => ({ error: messageOf(error) })) : { error: error! };
    report({ ...place, ...result, took: seconds + (performance.now() - start) / 1e3 });
  }
  if (options.profile) {
    const { profile } = await import("./profile.ts");
    await profile(device, sizes);
  }
  return end();
}

if (options.list) await list();
else process.exitCode = await bench();
