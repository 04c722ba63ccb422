/**
 * Makes files of the benchmarks for a machine that has Node and the package webgpu but not this workspace.
 *
 *   pnpm --filter kindling-bench run pack [FOLDER]    writes bench.mjs, peers.mjs and fallback.mjs, with torch_bench beside them; default .gpu
 *
 * There, in one run, and each with the same --only where not everything is wanted:
 *
 *   node bench.mjs --out kindling.json; python3 torch_bench --out torch.json; node peers.mjs --out peers.json;
 *   node fallback.mjs --out fallback.json
 */
import { cpSync, mkdirSync } from "node:fs";
import { join, relative } from "node:path";
import { build } from "esbuild";

const here = import.meta.dirname;
const root = join(here, "../..");
const folder = join(root, process.argv[2] ?? ".gpu");

mkdirSync(folder, { recursive: true });
for (const [entry, name] of [
  ["main.ts", "bench.mjs"],
  ["peers.ts", "peers.mjs"],
  ["fallback.ts", "fallback.mjs"],
] as const) {
  await build({
    entryPoints: [join(here, entry)],
    outfile: join(folder, name),
    bundle: true,
    platform: "node",
    format: "esm",
    target: "node24",
    conditions: ["source"],
    external: ["webgpu"],
    // TensorFlow.js: its ES modules, which still require what Node brings along
    mainFields: ["module", "main"],
    banner: { js: 'import { createRequire } from "node:module"; const require = createRequire(import.meta.url);' },
    logLevel: "warning",
  });
}
cpSync(join(here, "sizes.json"), join(folder, "sizes.json"));
cpSync(join(here, "torch_bench"), join(folder, "torch_bench"), {
  recursive: true,
  filter: (file) => !file.includes("__pycache__"),
});
console.log(`${relative(process.cwd(), folder)}: bench.mjs, peers.mjs, fallback.mjs, torch_bench, sizes.json`);
