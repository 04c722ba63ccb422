// docs/features.md: what Kindling can do, and the test that shows it.
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { type Feature, features } from "./features.data.ts";
import { row } from "./generate.ts";

/** The document; throws where a test that a row names is not there. */
export function featureTable(root: string): string {
  const tests = new Map<string, [file: string, text: string][]>();
  const testsOf = (folder: string): [file: string, text: string][] => {
    let found = tests.get(folder);
    if (!found) {
      const files = globSync(`${folder}/test/**/*.test.ts`, { cwd: root }).sort();
      tests.set(folder, (found = files.map((file) => [file, readFileSync(join(root, file), "utf8")])));
    }
    return found;
  };
  const shown = ({ number, capability, ...feature }: Feature): string => {
    if ("note" in feature) return row(`${number}`, capability, "", feature.note);
    const { where, test } = feature;
    const folder = where.includes("/") ? where : `packages/${where}`;
    // A title may go on with what a template adds.
    const [file] = testsOf(folder).find(([, text]) => [`"${test}"`, `\`${test}`].some((t) => text.includes(t))) ?? [];
    if (!file) throw new Error(`features: row ${number}: no test of ${folder} is called "${test}"`);
    return row(`${number}`, capability, `✓ [${where}](../${folder})`, `[${test.replaceAll("$", "")}](../${file})`);
  };
  return `# Features

What attorch, triton-transformer, MyTorch and pytortto have or planned, row by row, and the test that shows it here. Written by
\`pnpm generate\` from \`tools/generate/features.data.ts\`, which fails where a test is gone.

${features
  .map(
    ({ title, rows }) =>
      `## ${title}\n\n${[row("", "", "package", "test, or why not"), row("--:", "---", "---", "---"), ...rows.map(shown)].join("\n")}\n`,
  )
  .join("\n")}`;
}
