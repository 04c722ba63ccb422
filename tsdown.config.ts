// The build of every package: one ES module and one declaration file for each entry of its package.json's `exports`.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { defineConfig, type UserConfig } from "tsdown";
import { minifyWgsl } from "./tools/build/wgsl.ts";

interface Manifest {
  exports: Record<string, { source: string }>;
}

const { exports } = JSON.parse(readFileSync(join(process.cwd(), "package.json"), "utf8")) as Manifest;

const config: UserConfig = defineConfig({
  entry: Object.values(exports).map(({ source }) => source),
  format: "esm",
  target: "es2022",
  platform: "neutral",
  dts: { oxc: {} },
  sourcemap: true,
  fixedExtension: false,
  plugins: [minifyWgsl()],
});

export default config;
