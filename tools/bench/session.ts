/** What the commands main.ts and peers.ts share: their options, the device, and the file of numbers. */
import { mkdirSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { basename, dirname } from "node:path";
import { parseArgs } from "node:util";
import { type Device, init, manualSeed } from "@kindling/core";
import { formatRow } from "./format.ts";
import { type Row, type Sizes, sizesOf, stopwatchOf } from "./measure.ts";
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

/** Of the command line. */
export interface Options {
  only?: string;
  out?: string;
  small?: boolean;
  full?: boolean;
  list?: boolean;
  profile?: boolean;
}

export const options: Options = parseArgs({
  args: process.argv.slice(2).filter((argument) => argument !== "--"),
  options: {
    only: { type: "string" },
    out: { type: "string" },
    small: { type: "boolean" },
    full: { type: "boolean" },
    list: { type: "boolean" },
    profile: { type: "boolean" },
  },
}).values;

const only = options.only === undefined ? null : new RegExp(options.only);

/** Whether `--only` asks for a case, by one of its names: that of its group, its layer, its own. */
export const wanted = (...names: string[]): boolean => !only || names.some((name) => only.test(name));

export interface Session {
  device: Device;
  /** False on the null backend. */
  computes: boolean;
  sizes: Sizes;
  /** Prints a row and writes all so far: a driver that crashes in a later case takes the process with it. */
  report(row: Row): void;
  /** The exit code. */
  end(): number;
}

export async function openSession(versions: Record<string, string> = {}): Promise<Session> {
  const start = performance.now();
  const device = await init();
  const { vendor, architecture, device: model, description } = device.gpu.adapterInfo;
  const computes = model !== "null-backend";
  const software = !computes || /software|llvmpipe|swiftshader/i.test(`${architecture} ${description}`);
  const small = options.full ? false : (options.small ?? software);
  manualSeed(1);
  const measurements: Measurements = {
    date: new Date().toISOString(),
    command: process.argv
      .slice(1)
      .map((argument) => basename(argument))
      .join(" "),
    device: model || description || vendor,
    driver: description,
    processor: `${cpus().length} × ${cpus()[0]?.model ?? "unknown"}`,
    small,
    timestamps: stopwatchOf(device) !== null,
    features: [...device.features, ...(device.subgroupMatrix ? ["subgroup matrices of f16"] : [])].sort(),
    versions: { node: process.version.slice(1), webgpu: manifest.dependencies.webgpu, ...versions },
    dawn: process.env.KINDLING_DAWN ?? "",
    rows: [],
  };
  console.log(`${measurements.device}, ${measurements.driver}; ${small ? "small" : "full"} sizes`);
  if (options.out) mkdirSync(dirname(options.out), { recursive: true });
  return {
    ...{ device, computes, sizes: sizesOf(small) },
    report(row) {
      measurements.rows.push(row);
      console.log(formatRow(row));
      if (options.out) writeFileSync(options.out, `${JSON.stringify(measurements, null, 1)}\n`);
    },
    end() {
      const failed = measurements.rows.filter(({ error }) => error !== undefined);
      const seconds = (performance.now() - start) / 1e3;
      console.log(`${measurements.rows.length} cases in ${seconds.toFixed(0)} s, ${failed.length} of them failed`);
      return failed.length > 0 ? 1 : 0;
    },
  };
}
