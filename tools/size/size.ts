// How much a package adds to a web page: bundled alone, minified, gzipped.
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";
import type { Package } from "../workspace/packages.ts";

/** Bytes of the package's main entry with everything in it used; other packages, and files of `without`, are left out. */
export async function bundledSize({ path, manifest }: Package, without: readonly string[] = []): Promise<number> {
  const { outputFiles } = await build({
    entryPoints: [join(path, manifest.exports!["."]!.source)],
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
