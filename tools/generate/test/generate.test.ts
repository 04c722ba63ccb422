import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { Package } from "../../workspace/packages.ts";
import { generated } from "../generate.ts";

const directory = mkdtempSync(join(tmpdir(), "kindling-generate-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const layer = (folder: string, category: string, names: string[], description: string): Package => ({
  folder,
  path: folder,
  layer: true,
  manifest: { name: `@kindling/${folder}`, version: "1.0.0", description, kindling: { category, exports: names } },
});

describe("generated", () => {
  it("puts a table of the layers between the marks of README.md and touches nothing else", () => {
    const all = [
      layer("relu", "activations", ["ReLU", "relu"], "max(x, 0) | rectifier"),
      layer("abs", "activations", ["abs"], "Absolute value"),
      { ...layer("core", "", [], "Core"), manifest: { name: "@kindling/core", version: "1.0.0" } },
    ];
    const fresh = generated(all, directory).get("README.md")!;
    const rows = [
      "|  | Package | Exports |  |",
      "| --- | --- | --- | --- |",
      "| activations | [`@kindling/abs`](packages/abs) | `abs` | Absolute value |",
      "| activations | [`@kindling/relu`](packages/relu) | `ReLU` `relu` | max(x, 0) \\| rectifier |",
    ];
    expect(fresh).toContain(rows.join("\n"));

    const prose = fresh.replace("# Kindling\n", "# Kindling\n\nProse above.\n").concat("\nProse below.\n");
    writeFileSync(join(directory, "README.md"), prose.replace(rows[3]!, "| old |"));
    expect(generated(all, directory).get("README.md")).toBe(prose);

    writeFileSync(join(directory, "README.md"), "# Kindling\n");
    expect(() => generated(all, directory)).toThrow("README.md: the lines");
  });
});
