import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { packages } from "../../workspace/packages.ts";
import { problems } from "../check.ts";

const directory = mkdtempSync(join(tmpdir(), "kindling-check-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

function write(file: string, text: string): void {
  mkdirSync(dirname(join(directory, file)), { recursive: true });
  writeFileSync(join(directory, file), text);
}

function writePackage(folder: string, entry: string, more: object = {}): void {
  const manifest = {
    name: `@kindling/${folder}`,
    version: "1.0.0",
    description: folder,
    license: "MIT",
    type: "module",
    sideEffects: false,
    files: ["dist", "src"],
    exports: { ".": { source: `./src/${entry}.ts`, types: `./dist/${entry}.d.ts`, default: `./dist/${entry}.js` } },
    ...(folder !== "core" && {
      peerDependencies: { "@kindling/core": "workspace:^" },
      devDependencies: { "@kindling/core": "workspace:^" },
    }),
    ...more,
  };
  write(`${folder}/package.json`, JSON.stringify(manifest));
  write(`${folder}/tsconfig.json`, "{}");
}

function writeLayer(folder: string, source: string, more: object = {}): void {
  writePackage(folder, folder, { kindling: { category: "other", exports: [folder] }, ...more });
  write(`${folder}/src/${folder}.ts`, source);
  write(`${folder}/src/${folder}.reference.ts`, "export {};");
  write(`${folder}/test/${folder}.test.ts`, "");
  write(`${folder}/README.md`, "");
}

it("finds nothing wrong with sound packages, and names each breach in others", () => {
  writePackage("core", "index");
  write("core/src/index.ts", 'export { a } from "./a.ts"; await import("node:fs");');
  write("core/src/a.ts", "export const a = 1;");
  writeLayer("relu", 'import { type Tensor } from "@kindling/core";\nexport function relu(): void {}');
  expect(problems(packages(directory))).toEqual([]);

  writeLayer(
    "gelu",
    `import { relu } from "@kindling/relu";
     export * from "three";
     import "./other";
     import { tensor } from "@kindling/core/testing";
     const later = () => import("left-pad");
     export const gelu = 1;`,
  );
  writeLayer("silu", "export const other = 1;", { version: "2.0.0", sideEffects: true, description: undefined });
  write("silu/src/silu.reference.ts", 'import type { Tensor } from "@kindling/core";');
  rmSync(join(directory, "silu/README.md"));
  write("core/src/a.ts", 'import { relu } from "@kindling/relu"; import "webgpu"; export const a = relu;');
  expect(problems(packages(directory))).toEqual([
    "packages: one version for all, not 1.0.0 and 2.0.0",
    'packages/core/src/a.ts: imports "@kindling/relu"; core may import no other package',
    'packages/core/src/a.ts: imports "webgpu", which package.json does not declare',
    'packages/gelu/src/gelu.ts: imports "@kindling/relu"; a layer may import core',
    'packages/gelu/src/gelu.ts: "./other" needs its ending, .ts',
    'packages/gelu/src/gelu.ts: imports "three"; a layer may import @kindling/core and nothing else',
    'packages/gelu/src/gelu.ts: imports "left-pad"; a layer may import @kindling/core and nothing else',
    "packages/silu: package.json: no description",
    'packages/silu: package.json: needs "sideEffects": false',
    "packages/silu: no README.md",
    "packages/silu: package.json: kindling.exports lists silu, which src/silu.ts does not export",
    'packages/silu/src/silu.reference.ts: a reference imports nothing, not even "@kindling/core"',
  ]);
});
