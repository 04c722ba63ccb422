import { afterAll, describe, expect, it } from "vitest";
import { packages } from "../../workspace/packages.ts";
import { bundledSize } from "../size.ts";

// kB = 1000 bytes. Packages without a limit are measured and printed.
const layerLimit = 6_000;
/**
 * Layers that hold more than a layer's kernels: attention its tiled and subgroup-matrix ones, MultiheadAttention, rotary
 * embeddings and the cache; conv2d Winograd kernels beside matrix products and direct kernels; losses eleven functions. A bundler
 * keeps what is used.
 */
const largeLayers: Record<string, number> = {
  attention: 25_000,
  conv2d: 12_000,
  losses: 9_000,
};
/** What every layer brings along, and the matrix product, which bundlers drop where no layer uses it. */
const MATMUL = "./matmul.ts";
const coreLimit = 15_000;
const matmulLimit = 12_000;

const kB = (bytes: number): string => `${(bytes / 1000).toFixed(2)} kB`;

describe("minified and gzipped size", () => {
  const sizes: string[] = [];
  afterAll(() => console.log(`minified and gzipped:\n${sizes.join("\n")}`));

  const check = (name: string, size: number, limit: number): void => {
    sizes.push(`  ${name.padEnd(28)} ${kB(size).padStart(9)}${Number.isFinite(limit) ? ` of ${kB(limit)}` : ""}`);
    expect(size).toBeLessThanOrEqual(limit);
  };
  const [core, ...others] = [...packages()].sort((a, b) => Number(b.folder === "core") - Number(a.folder === "core"));

  it("core, without its matrix product", async () => {
    const size = await bundledSize(core!, [MATMUL]);
    check("core without matmul", size, coreLimit);
    check("core's matmul", (await bundledSize(core!)) - size, matmulLimit);
  });

  it.each(others.map((item) => ({ item, name: item.manifest.name })))("$name", async ({ item, name }) => {
    const limit = largeLayers[item.folder] ?? (item.layer ? layerLimit : Number.POSITIVE_INFINITY);
    check(name, await bundledSize(item), limit);
  });
});
