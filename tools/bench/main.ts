/**
 * Times kernels, launches and training steps.
 *
 *   pnpm bench                                       everything; small sizes where the GPU is software
 *   pnpm bench -- --only matmul,layernorm            groups, or cases whose names contain one of these
 *   pnpm bench -- --out out/kindling.json            also writes the numbers
 *   pnpm bench -- --only training --profile          also says which kernels the time of a training step goes to
 *   KINDLING_GPU=null pnpm bench -- --only launch    the cost of JavaScript alone
 *
 * To compare with PyTorch, run torch_bench.py on the same machine and merge both files with report.ts. For a machine
 * without this workspace, pack.ts makes one file of it.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { basename, dirname } from "node:path";
import { parseArgs } from "node:util";
import { init, manualSeed } from "@kindling/core";
import { formatRow } from "./format.ts";
import { type Case, type Row, type Sizes, sizesOf, stopwatchOf } from "./measure.ts";
import manifest from "./package.json" with { type: "json" };

/** What report.ts reads. */
export interface Measurements {
  date: string;
  command: string;
  device: string;
  driver: string;
  processor: string;
  small: boolean;
  /** Whether times are those of the GPU's clock. */
  timestamps: boolean;
  /** What of the device's features kernels are chosen by. */
  features: string[];
  versions: Record<string, string>;
  /** Flags of Dawn besides core's own. */
  dawn: string;
  rows: Row[];
}

/** Loaded one by one, so that a group that cannot be loaded does not keep the others from running. */
const groups: Record<string, () => Promise<{ cases: (sizes: Sizes) => Case[] }>> = {
  launch: () => import("./launch.ts"),
  matmul: () => import("./matmul.ts"),
  layers: () => import("./layers.ts"),
  training: () => import("./training.ts"),
};

const { values: options } = parseArgs({
  args: process.argv.slice(2).filter((argument) => argument !== "--"),
  options: {
    only: { type: "string" },
    out: { type: "string" },
    small: { type: "boolean" },
    full: { type: "boolean" },
    list: { type: "boolean" },
    profile: { type: "boolean" },
  },
});

const only = options.only?.split(",").filter(Boolean);

/** The cases asked for, one group after another; an error where a group cannot be loaded. */
async function* chosen(sizes: Sizes): AsyncGenerator<[group: string, cases: readonly Case[] | Error]> {
  for (const [group, load] of Object.entries(groups)) {
    if (only && !only.includes(group) && only.every((text) => text in groups)) continue;
    const wanted = ({ name }: Case): boolean => !only || only.some((text) => text === group || name.includes(text));
    yield [
      group,
      await load().then(
        ({ cases }) => cases(sizes).filter(wanted),
        (error: Error) => error,
      ),
    ];
  }
}

if (options.list) {
  for await (const [, cases] of chosen(sizesOf(options.small ?? false))) {
    if (cases instanceof Error) throw cases;
    for (const { name } of cases) console.log(name);
  }
} else {
  process.exitCode = await bench();
}

async function bench(): Promise<number> {
  const device = await init();
  const { vendor, architecture, device: model, description } = device.gpu.adapterInfo;
  const computes = model !== "null-backend";
  const software = !computes || /software|llvmpipe|swiftshader/i.test(`${architecture} ${description}`);
  const small = options.full ? false : (options.small ?? software);
  const sizes = sizesOf(small);
  manualSeed(1);

  const measurements: Measurements = {
    date: new Date().toISOString(),
    command: ["main.ts", ...process.argv.slice(2).map((argument) => basename(argument))].join(" "),
    device: model || description || vendor,
    driver: description,
    processor: `${cpus().length} × ${cpus()[0]?.model ?? "unknown"}`,
    small,
    timestamps: stopwatchOf(device) !== null,
    features: [...device.features, ...(device.subgroupMatrix ? ["subgroup matrices of f16"] : [])].sort(),
    versions: { node: process.version.slice(1), webgpu: manifest.dependencies.webgpu },
    dawn: process.env.KINDLING_DAWN ?? "",
    rows: [],
  };
  console.log(`${measurements.device}, ${measurements.driver}; ${small ? "small" : "full"} sizes`);

  if (options.out) mkdirSync(dirname(options.out), { recursive: true });
  const report = (row: Row): void => {
    measurements.rows.push(row);
    console.log(formatRow(row));
    // after each case: a driver that crashes in a later one takes the process with it
    if (options.out) writeFileSync(options.out, `${JSON.stringify(measurements, null, 1)}\n`);
  };
  for await (const [group, cases] of chosen(sizes)) {
    if (cases instanceof Error) {
      report({ group, name: group, error: cases.message });
      continue;
    }
    for (const { name, f16, anyDevice, run } of cases) {
      if ((!computes && !anyDevice) || (f16 && !device.features.has("shader-f16"))) continue;
      const result = await run(device).catch((error: Error) => ({ error: error.message }));
      report({ group, name, ...result });
    }
  }
  if (options.profile) {
    const { profile } = await import("./profile.ts");
    await profile(device, sizes);
  }
  const failed = measurements.rows.filter(({ error }) => error !== undefined);
  if (failed.length > 0) console.log(`${failed.length} of ${measurements.rows.length} cases failed`);
  return failed.length > 0 ? 1 : 0;
}
