import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { problems } from "../../check/check.ts";
import { readPackage, root } from "../../workspace/packages.ts";
import { createLayer, namesOf } from "../new.ts";

// A workspace inside the real one, so that what the package needs is found further up.
mkdirSync(join(root, ".cache"), { recursive: true });
const workspace = mkdtempSync(join(root, ".cache/new-"));
writeFileSync(join(workspace, "tsconfig.base.json"), '{ "extends": "../../tsconfig.base.json" }');
afterAll(() => rmSync(workspace, { recursive: true, force: true }));

describe("namesOf", () => {
  it.each([
    ["softmax", undefined, "Softmax", "softmax"],
    ["conv-transpose", undefined, "ConvTranspose", "convTranspose"],
    ["rmsnorm", "RMSNorm", "RMSNorm", "rmsNorm"],
    ["glu", "GLU", "GLU", "glu"],
    ["conv2d", "Conv2d", "Conv2d", "conv2d"],
  ])("%s %s", (folder, given, module, fn) => {
    expect(namesOf(folder, given)).toEqual({ folder, module, fn });
  });

  it("refuses names that no package or class can have", () => {
    expect(() => namesOf("RMSNorm")).toThrow('new: the layer is called "RMSNorm", expected lower-case letters');
    expect(() => namesOf("rmsnorm", "rmsNorm")).toThrow('new: the module is called "rmsNorm", expected UpperCamelCase');
  });
});

describe("createLayer", () => {
  const folder = "my-norm";
  const target = join(workspace, "packages", folder);
  const core = readPackage(join(root, "packages/core"), "core");

  it("makes a package with every name replaced, which keeps the rules and typechecks", () => {
    const files = createLayer(join(root, "tools/template"), target, namesOf(folder, "MYNorm"), core.manifest.version);
    expect(files).toEqual([
      "README.md",
      "package.json",
      "src/my-norm.reference.ts",
      "src/my-norm.ts",
      "test/my-norm.test.ts",
      "tsconfig.json",
    ]);
    const texts = files.map((file) => readFileSync(join(target, file), "utf8"));
    for (const text of texts) expect(text).not.toMatch(/scale|template/i);
    expect(texts[3]).toContain("export class MYNorm extends Module");
    expect(texts[3]).toContain("export function myNorm(x: Tensor, weight: Tensor): Tensor");
    expect(texts[4]).toContain('import { MYNorm, myNorm } from "../src/my-norm.ts";');
    expect(problems([core, readPackage(target, folder)]).filter((line) => line.includes(folder))).toEqual([]);

    mkdirSync(join(target, "node_modules/@kindling"), { recursive: true });
    symlinkSync(join(root, "packages/core"), join(target, "node_modules/@kindling/core"));
    const tsc = spawnSync(join(root, "node_modules/.bin/tsc"), ["--project", target], { encoding: "utf8" });
    expect(tsc.stdout).toBe("");
    expect(tsc.status).toBe(0);
  });

  it("leaves an existing package alone", () => {
    expect(() => createLayer(join(root, "tools/template"), target, namesOf(folder), "1.0.0")).toThrow(
      "my-norm exists already",
    );
  });
});
