// The generated index: whole, without clashes, and no dearer than the layers themselves.
import { basename } from "node:path";
import { gzipSync } from "node:zlib";
import { build, type Plugin } from "esbuild";
import { describe, expect, it } from "vitest";
import { nnFiles } from "../../../../tools/generate/nn.ts";
import { type Package, packages } from "../../../../tools/workspace/packages.ts";
import * as nn from "../../src/index.ts";

const all = packages();
const layers = all.filter(({ layer }) => layer);
const own = all.find(({ folder }) => folder === "nn")!;
const exported = layers.flatMap(({ manifest }) =>
  manifest.kindling!.exports.map((name) => ({ name, from: manifest.name })),
);

/** A file for each `export { name }`. What is loaded when it is needed, by import(), is left out. */
const entries: Plugin = {
  name: "entries",
  setup({ onResolve, onLoad }) {
    onResolve({ filter: /./ }, ({ kind, path }) =>
      kind === "entry-point"
        ? { path, namespace: "entry" }
        : kind === "dynamic-import"
          ? { path, external: true }
          : undefined,
    );
    onLoad({ filter: /./, namespace: "entry" }, ({ path }) => {
      const [, from, name] = /^(.*)#(.*)$/.exec(path)!;
      return { contents: `export { ${name} } from "${from}"`, resolveDir: own.path };
    });
  },
};

/** Bytes, minified and gzipped, of an export of a package, without core. */
async function sizes(wanted: readonly { name: string; from: string }[]): Promise<number[]> {
  const { outputFiles } = await build({
    entryPoints: wanted.map(({ name, from }, i) => ({ in: `${from}#${name}`, out: `${i}` })),
    bundle: true,
    minify: true,
    write: false,
    outdir: own.path,
    format: "esm",
    target: "es2022",
    conditions: ["source"],
    external: ["@kindling/core", "node:*", "webgpu"],
    plugins: [entries],
    logLevel: "silent",
  });
  const found = new Map(outputFiles.map(({ path, contents }) => [basename(path, ".js"), contents]));
  return wanted.map((_, i) => gzipSync(found.get(`${i}`)!, { level: 9 }).length);
}

describe("the index", () => {
  it("has every layer", () => {
    expect(exported.filter(({ name }) => !(name in nn))).toEqual([]);
    expect(exported.length).toBeGreaterThan(120);
  });

  it("has classes under their names, with a choice of backends", () => {
    for (const { name } of exported.filter(({ name }) => /^[A-Z]/.test(name) && name !== "KVCache")) {
      const Class = (nn as unknown as Record<string, { name: string; prototype: object }>)[name]!;
      expect([Class.name, "backend" in Class.prototype]).toEqual([name, true]);
    }
  });

  it("has the package ops, as a namespace, where there is one", () => {
    const ops: Package = { ...own, folder: "ops", layer: false, manifest: { name: "@kindling/ops", version: "1.0.0" } };
    const index = (given: Package[]): string => nnFiles(given).get("packages/nn/src/index.ts")!;
    const others = all.filter(({ folder }) => folder !== "ops");
    expect(index([...others, ops])).toContain('export * as ops from "@kindling/ops";');
    expect(index(others)).not.toContain("ops");
  });

  it("refuses names that clash", () => {
    const twin = (item: Package): Package => ({
      ...item,
      folder: "twin",
      manifest: { ...item.manifest, name: "@kindling/twin" },
    });
    const linear = layers.find(({ folder }) => folder === "linear")!;
    expect(() => nnFiles([...all, twin(linear)])).toThrow("nn: both @kindling/linear and @kindling/twin export linear");
  });

  it("costs what the layer costs", { timeout: 120_000 }, async () => {
    const alone = await sizes(exported);
    const through = await sizes(exported.map(({ name }) => ({ name, from: "@kindling/nn" })));
    const more = exported.map(({ name }, i) => ({ name, more: through[i]! - alone[i]! }));
    const ofKind = (kind: "function" | "class" | "named"): number[] =>
      more.filter(({ name }) => kindOf(name) === kind).map(({ more }) => more);
    // A function is the layer's own; a class can choose its backend; one with an activation also knows activations by name.
    expect(Math.max(...ofKind("function"))).toBeLessThan(30);
    expect(Math.max(...ofKind("class"))).toBeLessThan(1_000);
    expect(Math.max(...ofKind("named"))).toBeLessThan(5_800);
    expect(ofKind("named").length).toBe(9);
  });

  it("leaves fallback and CPU in chunks that load when they are needed", async () => {
    for (const name of ["dropout", "LayerNorm", "Linear", "TransformerEncoderLayer"]) {
      const { metafile } = await build({
        stdin: { contents: `export { ${name} } from "@kindling/nn"`, resolveDir: own.path },
        ...{ bundle: true, splitting: true, metafile: true, write: false, format: "esm", conditions: ["source"] },
        ...{ outdir: own.path, absWorkingDir: own.path, entryNames: "entry", external: ["@jax-js/jax", "node:*"] },
      });
      const first = new Set<string>();
      const visit = (file: string): void => {
        if (first.has(file)) return;
        first.add(file);
        for (const { path, kind } of metafile.outputs[file]!.imports) if (kind === "import-statement") visit(path);
      };
      visit("entry.js");
      const inputs = (file: string): string[] => Object.keys(metafile.outputs[file]!.inputs);
      const late = Object.keys(metafile.outputs).filter((file) => !first.has(file));
      const isLate = (input: string): boolean => /^src\/(fallback|cpu)\//.test(input);
      expect([...first].flatMap(inputs).filter(isLate), name).toEqual([]);
      expect(late.flatMap(inputs).filter(isLate)).toEqual(
        expect.arrayContaining(["src/cpu/cpu.ts", "src/fallback/bridge.ts"]),
      );
    }
  });

  it("costs no more for what is its own", async () => {
    const names = ["Sequential", "init", "summary", "SinusoidalPositionalEncoding", "TransformerEncoderLayer", "save"];
    const [sequential, init, summary, positions, transformer, save] = await sizes(
      names.map((name) => ({ name, from: "@kindling/nn" })),
    );
    const layers = ["Linear", "MultiheadAttention", "LayerNorm", "Dropout", "GLU"];
    const parts = (await sizes(layers.map((name) => ({ name, from: "@kindling/nn" })))).reduce((a, b) => a + b);
    expect(sequential).toBeLessThan(1_500);
    expect(summary).toBeLessThan(1_500);
    expect(init).toBeLessThan(3_500);
    expect(positions).toBeLessThan(3_500);
    expect(save).toBeLessThan(2_000);
    expect(transformer).toBeLessThan(parts + 2_500);
  });
});

const named = /^(Linear|Conv\dd|ConvTranspose\dd|BatchNorm\dd|GLU)$/;
const kindOf = (name: string): "function" | "class" | "named" =>
  named.test(name) ? "named" : /^[A-Z]/.test(name) && name !== "KVCache" ? "class" : "function";
