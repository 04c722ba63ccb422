/** What a user does: copy one layer into a project with shadcn's `add`, compile it, run it, change its kernel. */
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { registrySchema } from "shadcn/schema";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type RegistryItem, registryFiles, registryIndex, registryItems } from "../../generate/registry.ts";
import { root } from "../../workspace/packages.ts";
import { type Served, serve } from "../npm.ts";
import { all, exampleOf, expectResults, main, Project, tarballs } from "./project.ts";

const shadcn = join(root, "tools/distribution/node_modules/.bin/shadcn");
const items = registryItems(all);
let registry: Served;

beforeAll(async () => {
  const { own } = await tarballs();
  const files = [...registryFiles(all, root)].map(([name, text]) => [`r/${name}`, text]);
  registry = await serve(own, Object.fromEntries(files));
}, 120_000);

afterAll(() => registry?.close());

const tsconfig = {
  compilerOptions: {
    strict: true,
    target: "es2022",
    lib: ["es2023", "esnext.disposable", "dom"],
    module: "esnext",
    moduleResolution: "bundler",
    types: [],
    allowImportingTsExtensions: true,
    noEmit: true,
  },
};

describe.concurrent("shadcn add", () => {
  it.each(items)(
    "copies $name, which compiles, runs, and is the user's to change",
    { timeout: 120_000 },
    async (item) => {
      const { expected, edit, text: example } = await exampleOf(item.name);
      const project = new Project(registry.url, { "tsconfig.json": JSON.stringify(tsconfig), "src/main.ts": main });
      try {
        await project.run(shadcn, "add", `${registry.url}r/${item.name}.json`, "--yes");
        const copied = globSync("**/*.ts", { cwd: join(project.folder, "src/layers") }).sort();
        expect(copied).toEqual(item.files.map(({ target }) => target.slice("~/src/layers/".length)).sort());
        for (const { path, target } of item.files) {
          const copy = project.read(target.slice("~/".length));
          const [origin] = copy.split("\n", 1) as [string];
          expect(origin).toMatch(/^\/\/ @kindling\/\S+ \d+\.\d+\.\d+\S*, © .*, MIT licence: /);
          expect(origin).toContain(`@kindling/${item.name} ${all[0]!.manifest.version}`);
          expect(copy).toBe(`${origin}\n${readFileSync(join(root, path), "utf8")}`);
        }
        const { packages } = JSON.parse(project.read("node_modules/.package-lock.json")) as { packages: object };
        expect(Object.keys(packages)).toEqual(["node_modules/@kindling/core"]);

        project.link("webgpu");
        const layer = `src/layers/${item.name}`;
        project.write(
          "src/example.ts",
          example.replace(`"@kindling/${item.name}"`, `"./layers/${item.name}/${item.name}.ts"`),
        );
        expect(await project.run("tsc")).toBe("");
        const before = JSON.parse(await project.run(process.execPath, "src/main.ts"));
        expectResults(before, expected);

        if (!edit)
          throw new Error(`tools/distribution/examples/${item.name}.ts: edit is missing: a change of its kernel`);
        let text = project.read(`${layer}/${edit.file}`);
        for (const [line, changed] of edit.lines) {
          expect(text.split(line), `${edit.file}: "${line}" stands there once`).toHaveLength(2);
          text = text.replace(line, () => changed);
        }
        project.write(`${layer}/${edit.file}`, text);
        const after = JSON.parse(await project.run(process.execPath, "src/main.ts"));
        const twice = expected[edit.doubles]!.map((value) => 2 * value);
        expectResults({ [edit.doubles]: after[edit.doubles] }, { [edit.doubles]: twice });
      } finally {
        project.remove();
      }
    },
  );
});

describe("registry.json", () => {
  it("has the form that shadcn reads, and every layer", () => {
    const parsed = registrySchema.parse(JSON.parse(registryIndex(all)));
    expect(parsed.items.map(({ name }) => name)).toEqual(all.filter(({ layer }) => layer).map(({ folder }) => folder));
  });

  it("gives shadcn's own build the items that we build, without their first line", async () => {
    const project = new Project(registry.url);
    try {
      await project.run(
        shadcn,
        "build",
        join(root, "registry.json"),
        "--cwd",
        root,
        "--output",
        join(project.folder, "r"),
      );
      for (const [name, text] of registryFiles(all, root)) {
        const { files, ...rest } = JSON.parse(text) as RegistryItem;
        const plain = files.map((file) => ({ ...file, content: file.content!.replace(/^.*\n/, "") }));
        expect(JSON.parse(project.read(`r/${name}`))).toEqual({ ...rest, files: plain });
      }
    } finally {
      project.remove();
    }
  });
});
