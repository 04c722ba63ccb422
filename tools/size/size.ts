// How much a package adds to a web page: bundled alone, minified, gzipped.
import { basename, dirname, join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import type { Package } from "../workspace/packages.ts";

// kB = 1000 bytes. Packages without a limit are measured and printed.
const layerLimit = 6_000;
/**
 * Layers that hold more than a layer's kernels: attention its tiled and subgroup-matrix ones, MultiheadAttention, rotary
 * embeddings and the cache; conv2d Winograd kernels beside matrix products and direct kernels; losses eleven functions; batchnorm
 * and conv1d inputs of activations beside statistics or two ways to compute. A bundler keeps what is used.
 */
const largeLayers: Record<string, number> = {
  attention: 25_000,
  batchnorm: 6_500,
  conv1d: 6_500,
  conv2d: 12_500,
  losses: 9_000,
};
/** What every layer brings along. */
export const coreLimit = 15_000;
/** Parts of core that bundlers drop where no layer uses them: the matrix product, and inputs of fused activations. */
export const coreParts = { "./matmul.ts": 12_000, "./inputs.ts": 1_500 } as const;

/** What a package may take: bytes. */
export function limitOf({ folder, layer }: Package): number {
  if (folder === "core") return coreLimit + Object.values(coreParts).reduce((sum, part) => sum + part, 0);
  return largeLayers[folder] ?? (layer ? layerLimit : Number.POSITIVE_INFINITY);
}

/** The source of the package's main entry. */
export const sourceOf = ({ path, manifest }: Package): string => join(path, manifest.exports!["."]!.source);

/** Bytes of an entry with everything in it used, or only `used`; other packages, and files of `without`, are left out. */
export async function bundledSize(
  entry: string,
  without: readonly string[] = [],
  used: readonly string[] = [],
): Promise<number> {
  const part = { contents: `export { ${used} } from "./${basename(entry)}";`, resolveDir: dirname(entry) };
  const { outputFiles } = await build({
    ...(used.length > 0 ? { stdin: part } : { entryPoints: [entry] }),
    bundle: true,
    minify: true,
    write: false,
    format: "esm",
    target: "es2022",
    external: ["@kindling/*", "node:*", "webgpu", ...without],
    logLevel: "silent",
  });
  return gzipSync(outputFiles[0]!.contents, { level: 9 }).length;
}
