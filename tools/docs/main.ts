// node tools/docs/main.ts [FOLDER]: the documentation as static pages, in out/docs: one for each package, from its README and the
// docstrings of what it exports; the documents of the repository; and, under r/, the items of the shadcn registry.
import { mkdirSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import { Application, OptionDefaults, type TypeDocOptions } from "typedoc";
import { build } from "../distribution/pack.ts";
import { registryFiles } from "../generate/registry.ts";
import { packages, root } from "../workspace/packages.ts";

const all = packages();
const out = resolve(process.argv[2] ?? join(root, "out/docs"));

await build(all); // typedoc finds a package's entries through what `exports` names

const options: Partial<TypeDocOptions> = {
  name: "Kindling",
  entryPointStrategy: "packages",
  entryPoints: all.map(({ path }) => path),
  // tsc checks the types; here it would only take time. Types that a file keeps to itself stay out of the pages.
  packageOptions: {
    readme: "README.md",
    skipErrorChecking: true,
    validation: { notExported: false, invalidPath: false },
  },
  readme: join(root, "README.md"),
  projectDocuments: ["ARCHITECTURE.md", "CONTRIBUTING.md", "docs/*.md", "benchmarks/README.md"].map((file) =>
    join(root, file),
  ),
  highlightLanguages: [...OptionDefaults.highlightLanguages, "wgsl", "mermaid"],
  includeVersion: true,
  disableSources: true,
  logLevel: "Warn",
  out,
};
const app = await Application.bootstrapWithPlugins(options);
const project = await app.convert();
if (!project) throw new Error("docs: typedoc could not read the packages");
await app.generateOutputs(project);

mkdirSync(join(out, "r"), { recursive: true });
for (const [name, text] of registryFiles(all, root)) writeFileSync(join(out, "r", name), text);
console.log(`docs: ${out}`);
if (app.logger.hasErrors()) process.exitCode = 1;
