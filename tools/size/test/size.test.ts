import { afterAll, describe, expect, it } from "vitest";
import { packages } from "../../workspace/packages.ts";
import { bundledSize } from "../size.ts";

// kB = 1000 bytes. Packages without a limit are measured and printed.
const limits: Record<string, number> = { core: 15_000 };
const layerLimit = 6_000;

describe("minified and gzipped size", () => {
  const sizes: string[] = [];
  afterAll(() => console.log(`minified and gzipped:\n${sizes.join("\n")}`));

  it.each(packages().map((item) => ({ item, name: item.manifest.name })))("$name", async ({ item, name }) => {
    const limit = limits[item.folder] ?? (item.layer ? layerLimit : Number.POSITIVE_INFINITY);
    const size = await bundledSize(item);
    const kB = (bytes: number): string => `${(bytes / 1000).toFixed(2)} kB`;
    sizes.push(`  ${name.padEnd(28)} ${kB(size).padStart(9)}${Number.isFinite(limit) ? ` of ${kB(limit)}` : ""}`);
    expect(size).toBeLessThanOrEqual(limit);
  });
});
