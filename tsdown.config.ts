// The build of every package: one ES module and one declaration file for each entry of its package.json's `exports`.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type UserConfig } from "tsdown";

interface Manifest {
  exports: Record<string, { source: string }>;
}

const cwd = process.cwd();
const { exports } = JSON.parse(readFileSync(join(cwd, "package.json"), "utf8")) as Manifest;

const config: UserConfig = defineConfig({
  cwd,
  entry: Object.values(exports).map(({ source }) => source),
  format: "esm",
  target: "es2022",
  platform: "neutral",
  dts: { oxc: {}, sourcemap: true },
  deps: { neverBundle: [/^node:/] },
  sourcemap: true,
  fixedExtension: false,
  // Both put constants in place, and the name of the package that core imports in Node alone is one: bundlers for browsers would
  // find it. Those bundlers shake and minify themselves.
  treeshake: false,
  minify: false,
});

export default config;
