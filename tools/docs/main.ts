// node tools/docs/main.ts [FOLDER]: the documentation as static pages, in out/docs: one for each package, from its README and the
// docstrings of what it exports; the documents of the repository; and, under r/, the items of the shadcn registry.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { Application, OptionDefaults, type ProjectReflection, type TypeDocOptions } from "typedoc";
import { registryFiles } from "../generate/registry.ts";
import { packages, root } from "../workspace/packages.ts";

const all = packages();
const out = resolve(process.argv[2] ?? join(root, "out/docs"));

const shared: Partial<TypeDocOptions> = {
  highlightLanguages: [...OptionDefaults.highlightLanguages, "wgsl", "mermaid"],
  includeVersion: true,
  disableSources: true,
  // tsc checks the types; here it would only take time. Types that a file keeps to itself stay out of the pages.
  skipErrorChecking: true,
  validation: { notExported: false, invalidPath: false },
  logLevel: "Warn",
};
let failed = false;

async function convert(options: Partial<TypeDocOptions>): Promise<{ app: Application; project: ProjectReflection }> {
  const app = await Application.bootstrapWithPlugins({ ...shared, ...options });
  const project = await app.convert();
  if (!project) throw new Error(`docs: typedoc could not read ${options.name}`);
  failed ||= app.logger.hasErrors();
  return { app, project };
}

// Each package by itself, from the sources that its `exports` name: through what is built typedoc finds one file of several.
const parts = mkdtempSync(join(tmpdir(), "kindling-docs-"));
for (const { path, folder, manifest } of all) {
  const { app, project } = await convert({
    name: manifest.name,
    entryPoints: Object.values(manifest.exports!).map(({ source }) => join(path, source)),
    tsconfig: join(path, "tsconfig.json"),
    readme: join(path, "README.md"),
  });
  project.packageVersion = manifest.version;
  await app.generateJson(project, join(parts, `${folder}.json`));
}

const { app, project } = await convert({
  name: "Kindling",
  entryPointStrategy: "merge",
  entryPoints: [join(parts, "*.json")],
  readme: join(root, "README.md"),
  projectDocuments: ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/*.md", "benchmarks/README.md"].map((file) =>
    join(root, file),
  ),
  out,
});
await app.generateOutputs(project);
rmSync(parts, { recursive: true });

mkdirSync(join(out, "r"), { recursive: true });
for (const [name, text] of registryFiles(all, root)) writeFileSync(join(out, "r", name), text);
console.log(`docs: ${out}`);
if (failed) process.exitCode = 1;
