/**
 * Merges what main.ts and torch_bench.py measured on one machine into benchmarks/DATE-DEVICE.md, with the numbers beside
 * it as JSON.
 *
 *   pnpm --filter kindling-bench run report kindling.json torch.json [more of main.ts's …]
 *
 * Further files, of other flags of Dawn or of the null backend, become tables of their own.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { formatRate, formatTime } from "./format.ts";
import type { Measurements } from "./main.ts";
import type { Row } from "./measure.ts";
import { reached, type Target, targetOf } from "./targets.ts";

/** What torch_bench.py writes. */
export interface TorchMeasurements {
  date: string;
  command: string;
  device: string;
  driver: string;
  versions: Record<string, string>;
  rows: Row[];
}

/** The page. */
export function markdown(kindling: readonly Measurements[], torch: TorchMeasurements | undefined): string {
  const [first] = kindling as [Measurements];
  const lines = [
    `# Benchmarks: ${first.device}, ${first.date.slice(0, 10)}`,
    "",
    `- Device: ${first.device}, driver ${torch?.driver || first.driver}; processor: ${first.processor}`,
    `- Kindling: Node ${first.versions.node}, webgpu (Dawn) ${first.versions.webgpu}; \`${first.command}\``,
    `- Features: ${first.features.join(", ")}`,
    ...(torch ? [`- PyTorch: ${versions(torch.versions)}; TF32 off for matmul and cuDNN; \`${torch.command}\``] : []),
    "",
    "Times of one repetition: the median of several rounds of many repetitions, after a warm-up, with the spread of the rounds",
    "in percent. Ratio is PyTorch's time over Kindling's: above 1, Kindling is faster. JavaScript is what recording one",
    "repetition takes on the processor, GPU what is left when everything is recorded beforehand. Every case was checked before it",
    "was timed.",
    "",
    ...summary(first, torch),
  ];
  for (const run of kindling)
    lines.push("", `## ${titleOf(run)}`, "", ...table(run, run.device === first.device ? torch : undefined));
  return `${lines.join("\n")}\n`;
}

const titleOf = ({ device, dawn, small }: Measurements): string =>
  `${device}${small ? ", small sizes" : ""}, ${dawn ? `Dawn's flags: core's own and \`${dawn}\`` : "Dawn's flags: core's own"}`;

const versions = (all: Record<string, string>): string =>
  Object.entries(all)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");

/** Which targets were reached. */
function summary({ rows }: Measurements, torch: TorchMeasurements | undefined): string[] {
  const missed: string[] = [];
  let count = 0;
  for (const row of rows) {
    const target = targetOf(row.name);
    if (!target) continue;
    count++;
    const rival = torch?.rows.find(({ name }) => name === (row.torch ?? row.name))?.ms;
    if (row.ms === undefined || reached(target, row.ms, rival && rival / row.ms) !== true) missed.push(row.name);
  }
  if (count === 0) return [];
  return [
    `Targets: ${count - missed.length} of ${count} reached${missed.length > 0 ? `; not ${missed.join(", ")}` : ""}.`,
  ];
}

function table(run: Measurements, torch: TorchMeasurements | undefined): string[] {
  const rivals = new Map(torch?.rows.map((row) => [row.name, row]));
  const seen = new Set<string>();
  const lines = [
    "| case | PyTorch | Kindling | ratio | achieved | JavaScript | GPU | dispatches | target | |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|",
  ];
  for (const row of run.rows) {
    const rival = row.torch ?? row.name;
    seen.add(rival);
    lines.push(line(row, rivals.get(rival)));
  }
  for (const { name, ms } of torch?.rows ?? []) {
    if (!seen.has(name)) lines.push(`| ${name} | ${ms === undefined ? "" : formatTime(ms)} | not run | | | | | | | |`);
  }
  return lines;
}

function line(row: Row, rival: Row | undefined): string {
  const { name, ms, note, error } = row;
  const theirs = rival?.ms === undefined ? (rival?.error ?? "") : spread(rival);
  const target = targetOf(name);
  if (ms === undefined)
    return `| ${name} | ${theirs} | failed | | | | | | ${target ? format(target) : ""} | ${clean(error ?? "")} |`;
  const ratio = rival?.ms === undefined ? undefined : rival.ms / ms;
  const cells = [
    name,
    theirs,
    spread(row),
    ratio?.toFixed(2) ?? "",
    formatRate(row, ms),
    row.js === undefined ? "" : formatTime(row.js),
    row.gpu === undefined ? "" : formatTime(row.gpu),
    row.dispatches === undefined ? "" : String(Number(row.dispatches.toFixed(1))),
    target ? format(target) : "",
    [target && verdict(reached(target, ms, ratio)), note].filter(Boolean).join("; "),
  ];
  return `| ${cells.join(" | ")} |`;
}

const spread = ({ ms, min, max }: Row): string =>
  min === undefined || min === max
    ? formatTime(ms!)
    : `${formatTime(ms!)} ±${Math.ceil(((max! - min) / 2 / ms!) * 100)} %`;

const format = (target: Target): string =>
  "ms" in target ? `≤ ${formatTime(target.ms)}` : `≥ ${target.ratio.toFixed(2)}`;

const verdict = (ok: boolean | undefined): string =>
  ok === undefined ? "not compared" : ok ? "reached" : "**missed**";

/** Text that a table's cell can hold. */
const clean = (text: string): string => text.replaceAll("\n", " ").replaceAll("|", "\\|");

if (import.meta.main) {
  const files = process.argv.slice(2).filter((argument) => argument !== "--");
  if (files.length === 0)
    throw new Error("report: no files given; expected those that main.ts and torch_bench.py wrote");
  const all = files.map(
    (file) =>
      JSON.parse(readFileSync(resolve(process.env.INIT_CWD ?? ".", file), "utf8")) as Measurements | TorchMeasurements,
  );
  const torch = all.find((one): one is TorchMeasurements => "torch" in one.versions);
  const kindling = all.filter((one): one is Measurements => "webgpu" in one.versions);
  const [first] = kindling;
  if (!first) throw new Error(`report: none of ${files.join(", ")} is of main.ts`);
  const folder = join(import.meta.dirname, "../../benchmarks");
  const name = `${first.date.slice(0, 10)}-${first.device
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "")}`;
  mkdirSync(folder, { recursive: true });
  const page = markdown(kindling, torch);
  writeFileSync(join(folder, `${name}.md`), page);
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify({ kindling, torch }, null, 1)}\n`);
  console.log(page);
  console.log(`written to ${relative(process.env.INIT_CWD ?? process.cwd(), join(folder, name))}.{md,json}`);
}
