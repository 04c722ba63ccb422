// The section "Benchmarks" of the packages' READMEs, from the newest run in benchmarks/ that has rows of the package.
import { existsSync, globSync, readFileSync } from "node:fs";
import { join, relative } from "node:path";
import { type Compared, compare, type Results } from "../bench/results.ts";
import type { Package } from "../workspace/packages.ts";

const heading = "## Benchmarks";
const mark = "<!-- written by `pnpm generate` from the newest run in benchmarks/ -->";

interface Run {
  /** Relative to the root. */
  file: string;
  results: Results;
}

/** The path, relative to the root, and the text of the README of each layer, and of each package that has such a section. */
export function benchmarkSections(all: readonly Package[], root: string): Map<string, string> {
  const runs = globSync("benchmarks/*.json", { cwd: root })
    .sort()
    .reverse()
    .map((file): Run => ({ file, results: JSON.parse(readFileSync(join(root, file), "utf8")) as Results }));
  const texts = new Map<string, string>();
  for (const { folder, path, layer } of all) {
    const readme = join(path, "README.md");
    if (!existsSync(readme)) continue;
    const text = readFileSync(readme, "utf8");
    const [, before, after] = new RegExp(`^([^]*?)^${heading}$[^]*?(?=^## |(?![^]))([^]*)$`, "m").exec(text) ?? [];
    if (before === undefined && !layer) continue;
    const section = `${heading}\n\n${mark}\n\n${sectionOf(folder, runs)}`;
    const parts = before === undefined ? [text.trimEnd(), section] : [before.trimEnd(), section, after!];
    texts.set(relative(root, readme), `${parts.filter(Boolean).join("\n\n").trimEnd()}\n`);
  }
  return texts;
}

function sectionOf(folder: string, runs: readonly Run[]): string {
  return folder === "nn" ? fallbackSection(runs) : layerSection(folder, runs);
}

/** The layers of our kernels beside those of the fallback. */
function fallbackSection(runs: readonly Run[]): string {
  const run = runs.find(({ results }) => results.fallback && !results.fallback.small);
  const measured = run?.results.fallback;
  if (!measured) return "No measurement yet.";
  const rowOf = (library: string, name: string) =>
    measured.rows.find((row) => row.library === library && row.name === name);
  const lines = [...new Set(measured.rows.map(({ name }) => name))].map((name) => {
    const [ours, theirs] = [rowOf("kindling", name), rowOf("fallback", name)];
    const time = (row: typeof ours): string => (row?.ms === undefined ? "" : milliseconds(row.ms));
    const ratio = ours?.ms && theirs?.ms ? (theirs.ms / ours.ms).toFixed(1) : "";
    const notes = [ours?.error, theirs?.error, theirs?.note].filter(Boolean).join("; ");
    return `| ${[name, time(ours), time(theirs), ratio, notes].join(" | ")} |`;
  });
  return [
    `${measured.device}, kernels and fallback (jax-js ${measured.versions["jax-js"]}) in one process: [${measured.date.slice(0, 10)}](../../${run.file.replace(/json$/, "md")}).`,
    "Kernels are captured, the fallback is called with everything compiled; ratio is its time over that of the kernels.",
    "",
    "| case | kernels, ms | fallback, ms | ratio | |",
    "| --- | ---: | ---: | ---: | --- |",
    ...lines,
  ].join("\n");
}

function layerSection(folder: string, runs: readonly Run[]): string {
  for (const { file, results } of runs) {
    const [run] = results.kindling;
    if (!run || run.small) continue;
    const rows = compare(run.rows, results.torch).filter(({ row }) => row.layer === folder);
    if (rows.length === 0) continue;
    const beside = results.torch ? `, beside PyTorch ${results.torch.versions.torch}, in one run` : "";
    return [
      `${run.device}${beside}: [${run.date.slice(0, 10)}](../../${file.replace(/json$/, "md")}), where the other layers' rows are.`,
      "Ratio is PyTorch's time over Kindling's, share the bandwidth over that of a copy; f32 unless the name says otherwise.",
      "",
      "| case | Kindling, ms | PyTorch, ms | ratio | share | dispatches |",
      "| --- | ---: | ---: | ---: | ---: | ---: |",
      ...rows.map(line),
    ].join("\n");
  }
  return "No measurement yet.";
}

function line({ row, rival, ratio, share }: Compared): string {
  const cells = [
    row.name,
    row.ms === undefined ? "failed" : milliseconds(row.ms),
    rival?.ms === undefined ? "" : milliseconds(rival.ms),
    ratio?.toFixed(2) ?? "",
    share?.toFixed(2) ?? "",
    row.dispatches === undefined ? "" : String(Number(row.dispatches.toFixed(1))),
  ];
  return `| ${cells.join(" | ")} |`;
}

const milliseconds = (ms: number): string => ms.toFixed(ms < 0.1 ? 4 : ms < 10 ? 3 : 1);
