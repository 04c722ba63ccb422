import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import type { Results } from "../../bench/results.ts";
import type { Package } from "../../workspace/packages.ts";
import { benchmarkSections } from "../benchmarks.ts";

const root = mkdtempSync(join(tmpdir(), "kindling-benchmarks-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

function pack(folder: string, readme: string, layer = true): Package {
  const path = join(root, folder);
  mkdirSync(path, { recursive: true });
  writeFileSync(join(path, "README.md"), readme);
  return { folder, path, layer, manifest: { name: folder, version: "1.0.0" } };
}

function run(date: string, layer: string, ms: number): void {
  const rows = [
    { group: "memory", name: "copy 1 MiB", ms: 0.5, bytes: 1000 },
    { group: "layers", layer, name: `${layer} fwd`, ms, bytes: 1000, dispatches: 1 },
    { group: "layers", layer, name: `${layer} fwd+bwd`, error: "wrong" },
  ];
  const rivals = [{ group: "layers", name: `${layer} fwd`, ms: 3 }];
  const results = {
    kindling: [{ date, device: "GPU", small: false, rows }],
    torch: { versions: { torch: "2.11" }, rows: rivals },
  } as unknown as Results;
  mkdirSync(join(root, "benchmarks"), { recursive: true });
  writeFileSync(join(root, "benchmarks", `${date}-gpu.json`), JSON.stringify(results));
}

const rowsOf = (text: string | undefined): string[] => text?.match(/^\| .*fwd.*$/gm) ?? [];

describe("benchmarkSections", () => {
  it("shows the rows of a package's newest run", () => {
    run("2026-01-01", "softmax", 4);
    run("2026-01-02", "softmax", 1);
    run("2026-01-03", "glu", 1);
    const text = benchmarkSections([pack("softmax", "# softmax\n\n## Benchmarks\n\nold\n")], root).get(
      "softmax/README.md",
    );
    expect(rowsOf(text)).toEqual([
      "| softmax fwd | 1.000 | 3.000 | 3.00 | 0.50 | 1 |",
      "| softmax fwd+bwd | failed |  |  |  |  |",
    ]);
    expect(text).toContain("GPU, beside PyTorch 2.11, in one run: [2026-01-02](../../benchmarks/2026-01-02-gpu.md)");
    expect(text).not.toContain("old");
  });
  it("touches nothing else, and is done after one pass", () => {
    const item = pack("softmax", "# softmax\n\nBefore.\n\n## Benchmarks\n\nold\n\n## Limits\n\nAfter.\n\n## More\n");
    const text = benchmarkSections([item], root).get("softmax/README.md")!;
    expect(text.startsWith("# softmax\n\nBefore.\n\n## Benchmarks\n\n<!-- written by")).toBe(true);
    expect(text.endsWith("|\n\n## Limits\n\nAfter.\n\n## More\n")).toBe(true);
    expect(benchmarkSections([pack("softmax", text)], root).get("softmax/README.md")).toBe(text);
  });
  it("says so where nothing was measured, and gives every layer a section", () => {
    const texts = benchmarkSections([pack("dropout", "# dropout\n"), pack("optim", "# optim\n", false)], root);
    expect(texts.get("dropout/README.md")).toMatch(
      /^# dropout\n\n## Benchmarks\n\n<!-- .* -->\n\nNo measurement yet\.\n$/,
    );
    expect(texts.has("optim/README.md")).toBe(false);
  });
});
