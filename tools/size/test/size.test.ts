import { afterAll, describe, expect, it } from "vitest";
import { packages } from "../../workspace/packages.ts";
import { bundledSize, coreLimit, coreParts, limitOf, sourceOf } from "../size.ts";

const kB = (bytes: number): string => `${(bytes / 1000).toFixed(2)} kB`;

describe("minified and gzipped size", () => {
  const sizes: string[] = [];
  afterAll(() => console.log(`minified and gzipped:\n${sizes.join("\n")}`));

  const check = (name: string, size: number, limit: number): void => {
    sizes.push(`  ${name.padEnd(28)} ${kB(size).padStart(9)}${Number.isFinite(limit) ? ` of ${kB(limit)}` : ""}`);
    expect(size).toBeLessThanOrEqual(limit);
  };
  const [core, ...others] = [...packages()].sort((a, b) => Number(b.folder === "core") - Number(a.folder === "core"));

  it("core, without the parts that only some layers use", async () => {
    const parts = Object.entries(coreParts);
    const files = parts.map(([file]) => file);
    const source = sourceOf(core!);
    const least = await bundledSize(source, files);
    check("core", least, coreLimit);
    for (const [file, limit] of parts) {
      const others = files.filter((other) => other !== file);
      check(`core's ${file.slice(2, -3)}`, (await bundledSize(source, others)) - least, limit);
    }
  });

  it("one function of math, without the others", async () => {
    const math = sourceOf(others.find(({ folder }) => folder === "math")!);
    check("math's relu", await bundledSize(math, [], ["relu"]), 700);
    check("math's gelu", await bundledSize(math, [], ["gelu"]), 2_500);
    check("math's leakyRelu", await bundledSize(math, [], ["leakyRelu"]), 1_500);
  });

  it.each(others.map((item) => ({ item, name: item.manifest.name })))("$name", async ({ item, name }) => {
    check(name, await bundledSize(sourceOf(item)), limitOf(item));
  });
});
