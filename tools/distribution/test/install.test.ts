/** What a user does: install a package from its tarball into an empty project, import it, train with it, bundle it. */
import { globSync } from "node:fs";
import { join } from "node:path";
import { build as esbuild } from "esbuild";
import { chromium, firefox, webkit } from "playwright";
import { rolldown } from "rolldown";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { browserName, launchOptions } from "../../setup/browser.ts";
import { bundledSize, limitOf } from "../../size/size.ts";
import { type Package, root } from "../../workspace/packages.ts";
import { complaints } from "../lint.ts";
import { type Served, serve } from "../npm.ts";
import type { Tarball } from "../pack.ts";
import { all, exampleOf, expectResults, main, nodes, Project, tarballs } from "./project.ts";

const named = all.map((item) => ({ item, name: item.manifest.name }));
let packed: Tarball[];
let registry: Served;
/** A project with every package in it. */
let everything: Project;

beforeAll(async () => {
  const { own, others } = await tarballs();
  packed = [...own, ...others];
  registry = await serve(packed);
  everything = new Project(registry.url);
  await everything.install(...named.map(({ name }) => name));
}, 120_000);

afterAll(async () => {
  await registry?.close();
  everything?.remove();
});

/** A package and what it cannot do without, by their package.json files. */
function closure(name: string, found: Set<string> = new Set()): Set<string> {
  if (found.has(name)) return found;
  found.add(name);
  const { manifest } = packed.find((tarball) => tarball.manifest.name === name)!;
  const { dependencies, optionalDependencies, peerDependencies, peerDependenciesMeta } = manifest;
  for (const other of Object.keys({ ...dependencies, ...optionalDependencies, ...peerDependencies })) {
    if (!peerDependenciesMeta?.[other]?.optional) closure(other, found);
  }
  return found;
}

const entriesOf = ({ manifest }: Package): string[] =>
  Object.keys(manifest.exports!).map((entry) => manifest.name + entry.slice(1));

describe.concurrent("a project with one package", () => {
  it.each(named)(
    "$name brings what it stands on and nothing else, and runs in Node 22 and 24",
    { timeout: 120_000 },
    async (row) => {
      const { item, name } = row;
      const { expected, text } = await exampleOf(item.folder);
      const project = new Project(registry.url, { "main.ts": main, "example.ts": text });
      try {
        await project.install(name);
        const { packages } = JSON.parse(project.read("node_modules/.package-lock.json")) as { packages: object };
        const arrived = Object.keys(packages).map((path) => path.slice("node_modules/".length));
        const wanted = item.layer ? new Set([name, "@kindling/core"]) : closure(name);
        expect(new Set(arrived)).toEqual(wanted);
        for (const node of Object.values(nodes)) {
          expectResults(JSON.parse(await project.run(node, "main.ts")), expected);
        }
      } finally {
        project.remove();
      }
    },
  );
});

describe("a tarball", () => {
  it.each(named)("of $name satisfies publint and arethetypeswrong", async ({ item }) => {
    expect(await complaints(packed.find(({ folder }) => folder === item.folder)!)).toEqual([]);
  });

  it.each(named)("of $name adds nothing to a bundle that does not use it", async ({ item }) => {
    for (const [i, entry] of entriesOf(item).entries()) {
      const file = `unused${i}.js`;
      everything.write(file, `import "${entry}";\nimport * as all from "${entry}";\n`);
      const input = join(everything.folder, file);
      const external = [/^node:/];
      const { outputFiles } = await esbuild({
        entryPoints: [input],
        bundle: true,
        write: false,
        format: "esm",
        external: ["node:*"],
        logLevel: "silent",
      });
      const bundle = await rolldown({ input, external, logLevel: "silent" });
      const { output } = await bundle.generate({ minify: true });
      await bundle.close();
      for (const text of [outputFiles[0]!.text, output[0].code]) {
        expect(text.replaceAll(/^\/\/.*$/gm, "").trim(), entry).toBe("");
      }
    }
  });

  it.each(named)("of $name is no larger in a bundle than its source may be", async ({ item }) => {
    const file = join(everything.folder, "node_modules", item.manifest.name, item.manifest.exports!["."]!.default);
    expect(await bundledSize(file)).toBeLessThanOrEqual(limitOf(item));
  });

  it.each([
    ["bundler", "TypeScript 7", "tsc"],
    ["node16", "TypeScript 7", "tsc"],
    ["bundler", "TypeScript 6", join(root, "tools/distribution/node_modules/typescript6/bin/tsc")],
  ])("of any package has types under moduleResolution %s of %s", { timeout: 60_000 }, async (mode, _, tsc) => {
    const entries = all.flatMap(entriesOf);
    everything.write("entries.ts", entries.map((entry, i) => `export * as entry${i} from "${entry}";\n`).join(""));
    for (const { folder } of all) everything.write(`examples/${folder}.ts`, (await exampleOf(folder)).text);
    const compilerOptions = {
      module: mode === "bundler" ? "esnext" : "node16",
      moduleResolution: mode,
      target: "es2022",
      lib: ["es2022", "esnext.disposable", "esnext.float16", "dom"], // float16 for jax-js, nn's optional dependency
      types: [],
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      noEmit: true,
    };
    everything.write("tsconfig.json", JSON.stringify({ compilerOptions, include: ["entries.ts", "examples"] }));
    expect(await everything.run(tsc)).toBe("");
  });
});

describe.runIf(browserName)("bundled by Vite, in a browser", { timeout: 120_000 }, () => {
  let results: Record<string, Record<string, number[]> | string>;

  beforeAll(async () => {
    results = await runInBrowser(everything);
  }, 180_000);

  it.each(named)("$name runs", async ({ item }) => {
    const found = results[item.folder];
    if (typeof found !== "object") throw new Error(found ?? "no result");
    expectResults(found, (await exampleOf(item.folder)).expected);
  });
});

/** One build, an entry for each package; one page, which runs them one after another. */
async function runInBrowser(project: Project): Promise<Record<string, Record<string, number[]> | string>> {
  for (const { folder } of all) project.write(`page/examples/${folder}.ts`, (await exampleOf(folder)).text);
  project.write("page/index.html", '<!doctype html><script type="module" src="./main.js"></script>');
  project.write(
    "page/main.js",
    `import { init } from "@kindling/core";

globalThis.run = async () => {
  await init();
  const results = {};
  for (const [path, load] of Object.entries(import.meta.glob("./examples/*.ts"))) {
    const run = async () => Object.entries(await (await load()).example()).map(([name, values]) => [name, [...values]]);
    results[path.match(/([^/]+)\\.ts$/)[1]] = await run().then(Object.fromEntries, String);
  }
  return results;
};
`,
  );
  await project.run("vite", "build", "page", "--logLevel", "warn", "--target", "es2022");

  const built = globSync("**/*.{html,js}", { cwd: join(project.folder, "page/dist") });
  const page = await serve([], Object.fromEntries(built.map((file) => [file, project.read(`page/dist/${file}`)])));
  const browser = await { chromium, firefox, webkit }[browserName!].launch(launchOptions());
  try {
    const tab = await browser.newPage();
    await tab.goto(`${page.url}index.html`);
    await tab.waitForFunction("globalThis.run");
    return await tab.evaluate("run()");
  } finally {
    await browser.close();
    await page.close();
  }
}
