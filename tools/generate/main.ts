// node --conditions=source tools/generate/main.ts          writes the generated files
// node --conditions=source tools/generate/main.ts --check  fails when one of them is out of date
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { packages, root } from "../workspace/packages.ts";
import { benchmarkSections } from "./benchmarks.ts";
import { featureTable } from "./features.ts";
import { generated } from "./generate.ts";
import { mathFiles } from "./math.ts";
import { nnFiles } from "./nn.ts";
import { registryIndex } from "./registry.ts";

const check = process.argv.includes("--check");
const all = packages();
for (const [file, text] of [
  ...generated(all, root),
  ...benchmarkSections(all, root),
  ["docs/features.md", featureTable(root)] as const,
  ["registry.json", registryIndex(all)] as const,
  ...mathFiles(all),
  ...nnFiles(all),
]) {
  const path = join(root, file);
  if (existsSync(path) && readFileSync(path, "utf8") === text) continue;
  if (check) {
    console.error(`${file} is out of date: run pnpm generate`);
    process.exitCode = 1;
  } else {
    writeFileSync(path, text);
    console.log(`wrote ${file}`);
  }
}
