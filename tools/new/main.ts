// pnpm new LAYER [MODULE]: packages/LAYER as a copy of tools/template, e.g. `pnpm new rmsnorm RMSNorm`.
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { readPackage, root } from "../workspace/packages.ts";
import { createLayer, namesOf } from "./new.ts";

const [layer, module] = process.argv.slice(2);
try {
  if (!layer) throw new Error("usage: pnpm new LAYER [MODULE], e.g. pnpm new rmsnorm RMSNorm");
  const names = namesOf(layer, module);
  const { version } = readPackage(join(root, "packages/core"), "core").manifest;
  const files = createLayer(join(root, "tools/template"), join(root, "packages", layer), names, version);
  // The new names sort differently in imports.
  spawnSync(join(root, "node_modules/.bin/biome"), ["check", "--write", `packages/${layer}`], { cwd: root });
  for (const file of files) console.log(`packages/${layer}/${file}`);
  console.log(`\nNow: pnpm install && cd packages/${layer} && pnpm test; then CONTRIBUTING.md, "Add a layer".`);
} catch (error) {
  console.error((error as Error).message);
  process.exitCode = 1;
}
