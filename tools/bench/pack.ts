/**
 * Makes one file of the benchmarks, for a machine that has Node and the package webgpu but not this workspace.
 *
 *   pnpm --filter kindling-bench run pack [FOLDER]    writes FOLDER/bench.mjs, default .gpu, with torch_bench.py beside it
 *
 * There:
 *
 *   node bench.mjs --out kindling.json; python3 torch_bench.py --out torch.json
 */
import { copyFileSync, mkdirSync } from "node:fs";
import { join, relative } from "node:path";
import { build } from "esbuild";

const here = import.meta.dirname;
const root = join(here, "../..");
const folder = join(root, process.argv[2] ?? ".gpu");

mkdirSync(folder, { recursive: true });
await build({
  entryPoints: [join(here, "main.ts")],
  outfile: join(folder, "bench.mjs"),
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node24",
  conditions: ["source"],
  external: ["webgpu"],
  logLevel: "warning",
});
for (const file of ["torch_bench.py", "sizes.json"]) copyFileSync(join(here, file), join(folder, file));
console.log(`${relative(process.cwd(), folder)}: bench.mjs, torch_bench.py, sizes.json`);
