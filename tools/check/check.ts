// What the linter cannot see: which package may import which, and the form of a package.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parseSync } from "oxc-parser";
import { type Package, sources } from "../workspace/packages.ts";

const layers = "a layer";

/** Arrows point one way. A layer imports core and nothing else, so that its file can be copied into any project. */
const arrows: Record<string, readonly string[]> = {
  core: [],
  [layers]: ["core"],
  math: ["core"],
  ops: ["core"],
  optim: ["core"],
  data: ["core"],
  nn: ["core", "math", "ops", layers],
  train: ["core", "nn", "optim", "data"],
};

/** One line for each breach of the rules; none when all is well. */
export function problems(all: readonly Package[]): string[] {
  const versions = new Set(all.map(({ manifest }) => manifest.version));
  const found = versions.size > 1 ? [`packages: one version for all, not ${[...versions].join(" and ")}`] : [];
  for (const item of all) found.push(...form(item), ...imports(item, all));
  return found;
}

function imports(item: Package, all: readonly Package[]): string[] {
  const found: string[] = [];
  const kind = item.layer ? layers : item.folder;
  const allowed = arrows[kind] ?? [];
  const { dependencies, optionalDependencies, peerDependencies } = item.manifest;
  for (const file of sources(item)) {
    const where = `packages/${item.folder}/${file}`;
    for (const name of importsOf(join(item.path, file))) {
      if (file.endsWith(".reference.ts")) {
        found.push(`${where}: a reference imports nothing, not even "${name}"`);
      } else if (name.startsWith(".")) {
        if (!name.endsWith(".ts")) found.push(`${where}: "${name}" needs its ending, .ts`);
      } else if (name.startsWith("@kindling/")) {
        const target = name.split("/")[1] ?? "";
        const other = all.find(({ folder }) => folder === target);
        const to = other?.layer ? layers : target;
        if (!allowed.includes(to)) {
          const may = allowed.length === 0 ? "no other package" : allowed.join(", ");
          found.push(`${where}: imports "${name}"; ${kind} may import ${may}`);
        }
      } else if (item.layer) {
        found.push(`${where}: imports "${name}"; ${layers} may import @kindling/core and nothing else`);
      } else if (!name.startsWith("node:")) {
        const module = name.split("/", name.startsWith("@") ? 2 : 1).join("/");
        const declared = { ...dependencies, ...optionalDependencies, ...peerDependencies };
        if (!(module in declared)) found.push(`${where}: imports "${name}", which package.json does not declare`);
      }
    }
  }
  return found;
}

/** Every module that a file names, in import, export … from and import(). */
export function importsOf(path: string): string[] {
  const text = readFileSync(path, "utf8");
  const { module, errors } = parseSync(path, text);
  if (errors[0]) throw new Error(`${path}: ${errors[0].message}`);
  const reexports = module.staticExports.flatMap(({ entries }) =>
    entries.map(({ moduleRequest }) => moduleRequest?.value),
  );
  const names = [
    ...module.staticImports.map(({ moduleRequest }) => moduleRequest.value),
    ...reexports.filter((name) => name !== undefined),
    // the request of import() is an expression; only a plain string names a module
    ...module.dynamicImports
      .map(({ moduleRequest: { start, end } }) => text.slice(start, end))
      .filter((expression) => /^(["']).*\1$/.test(expression))
      .map((expression) => expression.slice(1, -1)),
  ];
  return [...new Set(names)];
}

/** The names that a file exports. */
export function exportsOf(path: string): string[] {
  const { module } = parseSync(path, readFileSync(path, "utf8"));
  return module.staticExports.flatMap(({ entries }) => entries.map(({ exportName }) => exportName.name ?? "*"));
}

function form({ folder, path, manifest, layer }: Package): string[] {
  const found: string[] = [];
  const expect = (ok: boolean, text: string): void => {
    if (!ok) found.push(`packages/${folder}: ${text}`);
  };
  const has = (file: string): boolean => existsSync(join(path, file));

  expect(
    manifest.name === `@kindling/${folder}`,
    `package.json: name is "${manifest.name}", not "@kindling/${folder}"`,
  );
  expect(Boolean(manifest.description), "package.json: no description");
  expect(manifest.license === "MIT", `package.json: license is "${manifest.license}", not "MIT"`);
  expect(manifest.type === "module", 'package.json: needs "type": "module"');
  expect(manifest.sideEffects === false, 'package.json: needs "sideEffects": false');
  expect(
    ["dist", "src"].every((name) => manifest.files?.includes(name)),
    'package.json: files needs "dist" and "src"',
  );
  expect(has("tsconfig.json"), "no tsconfig.json");
  expect("." in (manifest.exports ?? {}), 'package.json: exports has no "."');
  for (const [name, entry] of Object.entries(manifest.exports ?? {})) {
    const stem = /^\.\/src\/(.+)\.ts$/.exec(entry.source ?? "")?.[1];
    expect(stem !== undefined && has(entry.source), `package.json: exports["${name}"].source is not a file in src`);
    expect(entry.types === `./dist/${stem}.d.ts`, `package.json: exports["${name}"].types is not ./dist/${stem}.d.ts`);
    expect(entry.default === `./dist/${stem}.js`, `package.json: exports["${name}"].default is not ./dist/${stem}.js`);
  }
  for (const kind of ["dependencies", "devDependencies"] as const) {
    for (const [name, version] of Object.entries(manifest[kind] ?? {})) {
      if (name.startsWith("@kindling/")) {
        expect(version === "workspace:^", `package.json: ${kind} has ${name} ${version}, not workspace:^`);
      } else if (kind === "devDependencies") {
        expect(/^\d|^workspace:/.test(version), `package.json: ${name} ${version} is not an exact version`);
      }
    }
  }
  if (folder !== "core") {
    const both = [manifest.peerDependencies, manifest.devDependencies].map((list) => list?.["@kindling/core"]);
    expect(
      both.every((version) => version === "workspace:^"),
      'package.json: needs "@kindling/core": "workspace:^" in peerDependencies and devDependencies',
    );
  }
  if (!layer) return found;

  const main = `src/${folder}.ts`;
  expect(Object.keys(manifest.dependencies ?? {}).length === 0, "package.json: a layer has no dependencies");
  for (const file of [main, `src/${folder}.reference.ts`, `test/${folder}.test.ts`, "README.md"]) {
    expect(has(file), `no ${file}`);
  }
  expect(Boolean(manifest.kindling?.category), "package.json: kindling.category is missing (the group in README.md)");
  expect(Boolean(manifest.kindling?.exports?.length), "package.json: kindling.exports is missing (the names to list)");
  if (has(main)) {
    const names = exportsOf(join(path, main));
    for (const name of manifest.kindling?.exports ?? []) {
      expect(
        names.includes(name) || names.includes("*"),
        `package.json: kindling.exports lists ${name}, which ${main} does not export`,
      );
    }
  }
  return found;
}
