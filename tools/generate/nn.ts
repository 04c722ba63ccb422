// The generated files of @kindling/nn: every layer, with a choice of backends, and the index of all that there is.
import { spawnSync } from "node:child_process";
import { existsSync, globSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parseSync } from "oxc-parser";
import { type Package, root, sources } from "../workspace/packages.ts";

const mark = "// Written by `pnpm generate` from the packages' package.json. Do not edit.\n";

/** Modules of nn itself, and how the index exports them. */
const plain = ["containers", "names", "positional", "state", "summary"];
const wrapped = ["transformer", "layers/kernels"];
/** What the files of layers/ share. */
const helpers = "layers/form";
/** Names that are for nn's own files. */
const internal = new Set(["activationOf", "named", "Named"]);

/** The path, relative to the root, and the text of each generated file. */
export function nnFiles(all: readonly Package[]): Map<string, string> {
  const nn = all.find(({ folder }) => folder === "nn");
  if (!nn) return new Map();
  const layers = all.filter(({ layer, manifest }) => layer && manifest.kindling);
  const file = (name: string): string => join(nn.path, "src", `${name}.ts`);
  const own = [
    ...plain,
    ...globSync("layers/*.ts", { cwd: join(nn.path, "src") })
      .sort()
      .map((f) => f.slice(0, -3)),
  ].filter((name) => existsSync(file(name)) && name !== helpers && !wrapped.includes(name));
  const taken = new Map<string, string>();
  const claim = (name: string, where: string): void => {
    const before = taken.get(name);
    if (before) throw new Error(`nn: both ${before} and ${where} export ${name}`);
    taken.set(name, where);
  };
  for (const { manifest } of layers) for (const name of manifest.kindling!.exports) claim(name, manifest.name);

  const lines = ['export * from "./layers.generated.ts";'];
  for (const name of own) {
    const exported = exportsOf(file(name)).filter(
      (entry) =>
        !internal.has(entry.name) && (plain.includes(name) || entry.kind !== "type" || /Options$/.test(entry.name)),
    );
    for (const entry of exported) claim(entry.name, name);
    if (exported.length > 0) lines.push(`export { ${exported.map(spelt).join(", ")} } from "./${name}.ts";`);
  }
  const imports: string[] = [];
  for (const name of wrapped) {
    const exported = exportsOf(file(name));
    for (const entry of exported) claim(entry.name, name);
    const classes = exported.filter(({ kind }) => kind === "class");
    const types = exported.filter(({ kind }) => kind !== "class");
    imports.push(`import { ${classes.map((c) => `${c.name} as ${c.name}Base`).join(", ")} } from "./${name}.ts";`);
    lines.push(`export { ${types.map(spelt).join(", ")} } from "./${name}.ts";`);
    lines.push(...classes.map(({ name }) => wrap(name, "layer", `typeof ${name}Base`)));
  }
  const ops = all.some(({ folder }) => folder === "ops") ? ['export * as ops from "@kindling/ops";'] : [];
  for (const name of ["init", ...(ops.length > 0 ? ["ops"] : [])]) claim(name, "index");
  const index = [
    'import { type Layer, layer } from "./backend.ts";',
    ...imports,
    "",
    'export { type Backend, type BackendOption, getBackend, loadFallback, setBackend, withBackend } from "./backend.ts";',
    'export * as init from "./init.ts";',
    ...ops,
    ...lines,
  ];
  return new Map([
    ["packages/nn/src/layers.generated.ts", formatted("layers.generated.ts", layersFile(layers))],
    ["packages/nn/src/index.ts", formatted("index.ts", `${mark}\n${index.join("\n")}\n`)],
  ]);
}

/** The layers' functions as they are, their modules with a choice of backends. */
function layersFile(layers: readonly Package[]): string {
  const imports: string[] = [];
  const lines: string[] = [];
  for (const item of layers) {
    const { name: from, kindling } = item.manifest;
    const text = sources(item)
      .map((file) => readFileSync(join(item.path, file), "utf8"))
      .join("\n");
    const moduleClass = (name: string): { generic: string } | null => {
      const found = new RegExp(`^export class ${name}(<[^>]*>)? extends `, "m").exec(text);
      return found && { generic: found[1] ?? "" };
    };
    const how = /^ {2}activation\?: Pointwise/m.test(text) ? "named" : "layer";
    const modules = kindling!.exports.filter((name) => moduleClass(name)).sort();
    const others = kindling!.exports.filter((name) => !moduleClass(name)).sort();
    if (modules.length > 0)
      imports.push(`import { ${modules.map((name) => `${name} as ${name}Base`).join(", ")} } from "${from}";`);
    if (others.length > 0) lines.push(`export { ${others.join(", ")} } from "${from}";`);
    for (const name of modules) {
      const { generic } = moduleClass(name)!;
      // Without overloads a class that is generic in a flag would lose what the flag says of its results.
      const bases = generic ? [`typeof ${name}Base<false>`, `typeof ${name}Base<true>`] : [`typeof ${name}Base`];
      if (generic && !/^<\w+ extends boolean = false>$/.test(generic))
        throw new Error(`nn: the class ${name} of ${from} is generic in ${generic}; expected one flag`);
      lines.push(wrap(name, how, ...bases));
    }
  }
  return [
    mark,
    'import { type Layer, layer } from "./backend.ts";',
    'import { type Named, named } from "./names.ts";',
    ...imports,
    "",
    ...lines,
    "",
  ].join("\n");
}

function wrap(name: string, how: "layer" | "named", ...bases: string[]): string {
  const types = bases.map((base) => `${how === "named" ? "Named" : "Layer"}<${base}>`);
  return [
    `export const ${name}: ${types.join(" & ")} = /* @__PURE__ */ ${how}(${name}Base)${types.length > 1 ? ` as ${types.join(" & ")}` : ""};`,
    `export type ${name} = InstanceType<${bases.length > 1 ? types[0] : `typeof ${name}`}>;`,
  ].join("\n");
}

interface Exported {
  name: string;
  kind: "class" | "type" | "value";
}

const spelt = ({ name, kind }: Exported): string => (kind === "type" ? `type ${name}` : name);

/** What a file exports, but for what its comment calls internal; in alphabetical order. */
function exportsOf(path: string): Exported[] {
  const text = readFileSync(path, "utf8");
  const { module, errors } = parseSync(path, text);
  if (errors[0]) throw new Error(`${path}: ${errors[0].message}`);
  return module.staticExports
    .flatMap(({ start, entries }) => entries.map((entry) => ({ start, entry })))
    .filter(({ start }) => !/@internal[^/]*\*\/\s*$/.test(text.slice(0, start)))
    .map(({ entry: { exportName, isType } }): Exported => {
      const name = exportName.name!;
      const isClass = new RegExp(`^export class ${name}\\b`, "m").test(text);
      const isInterface = new RegExp(`^export (interface|type) ${name}\\b`, "m").test(text);
      return { name, kind: isClass ? "class" : isType || isInterface ? "type" : "value" };
    })
    .filter(({ name }, i, all) => all.findIndex((other) => other.name === name) === i) // overloads
    .sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** As the project's formatter writes it. */
function formatted(name: string, text: string): string {
  const biome = join(root, "node_modules/.bin/biome");
  const args = ["check", "--write", `--stdin-file-path=${join(root, "packages/nn/src", basename(name))}`];
  const { status, stdout, stderr } = spawnSync(biome, args, { input: text, cwd: root, encoding: "utf8" });
  if (status !== 0 || !stdout) throw new Error(`nn: biome could not format ${name}: ${stderr}`);
  return stdout;
}
