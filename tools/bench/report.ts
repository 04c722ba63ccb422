/**
 * Merges what main.ts, torch_bench, peers.ts and fallback.ts measured on one machine into benchmarks/DATE-DEVICE.md, with the numbers
 * beside it as JSON.
 *
 *   pnpm --filter kindling-bench run report kindling.json torch.json peers.json fallback.json [more of main.ts's …]
 *
 * Further files, of other flags of Dawn or of the null backend, become tables of their own. `pnpm generate` then writes
 * the layers' rows into their READMEs.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative, resolve } from "node:path";
import { formatRate, formatTime } from "./format.ts";
import type { Row } from "./measure.ts";
import { attorchSource, type Compared, compare, type Results, type TorchMeasurements } from "./results.ts";
import type { Measurements } from "./session.ts";
import { type Target, targetOf, type Verdict, verdict } from "./targets.ts";

/** The page. */
export function markdown({ kindling, torch, peers, fallback }: Results): string {
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
    "in percent. Ratio is PyTorch's time over Kindling's: above 1, Kindling is faster. Share is the bandwidth, of each input read",
    "once and each output written once, over that of the copy in the same run. JavaScript is what recording one repetition takes",
    "on the processor, GPU what is left when everything is recorded beforehand. Every case was checked before it was timed.",
    "",
    `The ratio of attorch (Triton) is PyTorch's time over attorch's **in another run**, not in this one: ${attorchSource}.`,
    "",
    ...summary(first, torch),
  ];
  for (const run of kindling)
    lines.push("", `## ${titleOf(run)}`, "", ...table(run, run.device === first.device ? torch : undefined));
  if (peers) lines.push("", "## JavaScript peers", "", ...peerTable(peers));
  if (fallback) lines.push("", "## The fallback of @kindling/nn", "", ...peerTable(fallback));
  return `${lines.join("\n")}\n`;
}

const titleOf = ({ device, dawn, small }: Measurements): string =>
  `${device}${small ? ", small sizes" : ""}, ${dawn ? `Dawn's flags: core's own and \`${dawn}\`` : "Dawn's flags: core's own"}`;

const versions = (all: Record<string, string>): string =>
  Object.entries(all)
    .map(([name, version]) => `${name} ${version}`)
    .join(", ");

const verdictOf = ({ row: { name, ms }, ratio, share }: Compared): Verdict | undefined => {
  const target = targetOf(name);
  if (!target) return undefined;
  return ms === undefined ? "missed" : verdict(target, { ms, ratio, share });
};

/** Which targets were reached. */
function summary({ rows }: Measurements, torch: TorchMeasurements | undefined): string[] {
  const verdicts = compare(rows, torch).flatMap((compared) => {
    const found = verdictOf(compared);
    return found ? [[compared.row.name, found] as const] : [];
  });
  if (verdicts.length === 0) return [];
  const missed = verdicts.filter(([, found]) => !found.endsWith("reached")).map(([name]) => name);
  const aims = verdicts.filter(([, found]) => found === "aim reached").length;
  const reached = `Targets: ${verdicts.length - missed.length} of ${verdicts.length} reached, ${aims} of them with their aims`;
  return [`${reached}${missed.length > 0 ? `; not ${missed.join(", ")}` : ""}.`];
}

function table(run: Measurements, torch: TorchMeasurements | undefined): string[] {
  const rows = compare(run.rows, torch);
  const seen = new Set(rows.map(({ row }) => row.torch ?? row.name));
  const lines = [
    "| case | PyTorch | Kindling | ratio | achieved | share | attorch's ratio, another run | JavaScript | GPU | dispatches | target | aim | |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---|",
    ...rows.map(line),
  ];
  for (const { name, ms } of torch?.rows ?? []) {
    if (!seen.has(name))
      lines.push(cells([name, ms === undefined ? "" : formatTime(ms), "not run", ...Array(10).fill("")]));
  }
  return lines;
}

const cells = (all: readonly string[]): string => `| ${all.map(clean).join(" | ")} |`;

function line(compared: Compared): string {
  const { row, rival, ratio, share, attorch } = compared;
  const { name, ms, note, error } = row;
  const target = targetOf(name);
  const found = verdictOf(compared);
  return cells([
    name,
    rival?.ms === undefined ? (rival?.error ?? "") : spread(rival),
    ms === undefined ? "failed" : spread(row),
    ratio?.toFixed(2) ?? "",
    ms === undefined ? "" : formatRate(row, ms),
    share?.toFixed(2) ?? "",
    attorch ? `${attorch.ratio.toFixed(2)}${attorch.note ? `, ${attorch.note}` : ""}` : "",
    row.js === undefined ? "" : formatTime(row.js),
    row.gpu === undefined ? "" : formatTime(row.gpu),
    row.dispatches === undefined ? "" : String(Number(row.dispatches.toFixed(1))),
    target ? format(target, target.target) : "",
    target?.aim === undefined ? "" : format(target, target.aim),
    [found === "missed" ? "**missed**" : found, error, note].filter(Boolean).join("; "),
  ]);
}

/** The libraries side by side, on one device in one process. */
function peerTable(peers: Measurements): string[] {
  const libraries = [...new Set(peers.rows.map(({ library = "kindling" }) => library))];
  const rivals = libraries.filter((library) => library !== "kindling");
  const header = [
    "case",
    "Kindling",
    ...rivals.flatMap((name) => [`${name} ${peers.versions[name] ?? ""}`.trim(), "ratio"]),
    "",
  ];
  const lines = [
    `In one process, on one GPUDevice, each timed alone as above: \`${peers.command}\`. Ratio is the library's time over Kindling's.`,
    "",
    cells(header),
    `|---|${"---:|".repeat(header.length - 2)}---|`,
  ];
  for (const name of new Set(peers.rows.map((row) => row.name))) {
    const rowOf = (library: string): Row | undefined =>
      peers.rows.find((row) => row.name === name && row.library === library);
    const time = (row: Row | undefined): string => (row?.ms === undefined ? (row ? "failed" : "") : spread(row));
    const ours = rowOf("kindling");
    const ratio = (row: Row | undefined): string => (row?.ms && ours?.ms ? (row.ms / ours.ms).toFixed(2) : "");
    const notes = libraries.flatMap((library) => {
      const { note, error } = rowOf(library) ?? {};
      return note || error ? [`${library}: ${[error, note].filter(Boolean).join("; ")}`] : [];
    });
    lines.push(
      cells([
        name,
        time(ours),
        ...rivals.flatMap((library) => [time(rowOf(library)), ratio(rowOf(library))]),
        notes.join("; "),
      ]),
    );
  }
  return lines;
}

const spread = ({ ms, min, max }: Row): string =>
  min === undefined || min === max
    ? formatTime(ms!)
    : `${formatTime(ms!)} ±${Math.ceil(((max! - min) / 2 / ms!) * 100)} %`;

const format = ({ of }: Target, value: number): string =>
  of === "ms" ? `≤ ${formatTime(value)}` : `${of} ≥ ${value.toFixed(2)}`;

/** Text that a table's cell can hold. */
const clean = (text: string): string => text.replaceAll("\n", " ").replaceAll("|", "\\|");

if (import.meta.main) {
  const files = process.argv.slice(2).filter((argument) => argument !== "--");
  if (files.length === 0)
    throw new Error("report: no files given; expected those that main.ts, torch_bench, peers.ts and fallback.ts wrote");
  const all = files.map(
    (file) =>
      JSON.parse(readFileSync(resolve(process.env.INIT_CWD ?? ".", file), "utf8")) as Measurements | TorchMeasurements,
  );
  const torch = all.find((one): one is TorchMeasurements => "torch" in one.versions);
  const peers = all.find((one): one is Measurements => "tfjs" in one.versions);
  const fallback = all.find((one): one is Measurements => "jax-js" in one.versions && one !== peers);
  const kindling = all.filter(
    (one): one is Measurements => "webgpu" in one.versions && one !== peers && one !== fallback,
  );
  const [first] = kindling;
  if (!first) throw new Error(`report: none of ${files.join(", ")} is of main.ts`);
  const folder = join(import.meta.dirname, "../../benchmarks");
  const name = `${first.date.slice(0, 10)}-${first.device
    .toLowerCase()
    .replaceAll(/[^a-z0-9]+/g, "-")
    .replace(/^-|-$/g, "")}`;
  mkdirSync(folder, { recursive: true });
  const results: Results = { kindling, torch, peers, fallback };
  const page = markdown(results);
  writeFileSync(join(folder, `${name}.md`), page);
  writeFileSync(join(folder, `${name}.json`), `${JSON.stringify(results, null, 1)}\n`);
  console.log(page);
  console.log(`written to ${relative(process.env.INIT_CWD ?? process.cwd(), join(folder, name))}.{md,json}`);
}
