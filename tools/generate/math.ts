// The generated files of @kindling/math: the derivatives of its functions, and the names that a fused one may not have.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseSync } from "oxc-parser";
import { derivatives, differentiable } from "../../packages/math/src/generate.ts";
import { type Package, sources } from "../workspace/packages.ts";

/** The packages whose kernels take a function of the user's. */
const fusing = new Set(["core", "activations", "batchnorm", "conv-transpose", "conv1d", "conv2d", "glu", "linear"]);

/** The activations that kernels declare as defaults: another one takes their place. */
const replaced = new Set(["sigmoid"]);

/** The path, relative to the root, and the text of each generated file. */
export const mathFiles = (all: readonly Package[]): Map<string, string> =>
  new Map([
    ["packages/math/src/autodiff/reserved.generated.ts", reserved(all)],
    ["packages/math/src/derivatives.generated.ts", derivatives()],
  ]);

/** The names that kernels declare, wherever they do: a fused function is called in the midst of their code. */
function reserved(all: readonly Package[]): string {
  const names = new Set<string>();
  for (const item of all.filter(({ folder }) => fusing.has(folder))) {
    for (const file of sources(item)) {
      if (/\btesting\b/.test(file)) continue; // what tests share is in no kernel of a layer
      for (const text of textsOf(join(item.path, file))) for (const name of declared(text)) names.add(name);
    }
  }
  const taken = differentiable().find(({ fn }) => "forward" in fn && names.has(fn.name) && !replaced.has(fn.name));
  if (taken) throw new Error(`@kindling/math: ${taken.fn.name} is a name that a kernel declares; rename it there`);
  const lines = [...names].sort().reduce<string[]>((rows, name) => {
    const last = rows.at(-1);
    if (last === undefined || last.length + name.length > 110) rows.push(`  ${name}`);
    else rows[rows.length - 1] = `${last} ${name}`;
    return rows;
  }, []);
  return `// Written by \`pnpm generate\` from the kernels that take an activation. Do not edit.

/** The names that those kernels use for something else. */
export const reserved: ReadonlySet<string> = new Set(
  \`
${lines.join("\n")}
\`.match(/\\w+/g),
);
`;
}

/** Stands in a text for what a template interpolates. */
const HOLE = "\u0001";

/**
 * Every string and template of a file, however deep in another one: any of them may become part of a kernel. What a template
 * interpolates is a text of its own.
 */
export function textsOf(path: string): string[] {
  const { program, errors } = parseSync(path, readFileSync(path, "utf8"));
  if (errors[0]) throw new Error(`${path}: ${errors[0].message}`);
  const texts: string[] = [];
  const visit = (node: unknown): void => {
    if (typeof node !== "object" || node === null) return;
    const { type, value, quasis } = node as { type?: string; value?: unknown; quasis?: { value: { raw: string } }[] };
    if (type === "TemplateLiteral") texts.push(quasis!.map((part) => part.value.raw).join(HOLE));
    else if (type === "Literal" && typeof value === "string") texts.push(value);
    for (const part of Object.values(node)) visit(part);
  };
  visit(program.body);
  return texts;
}

/**
 * What a text declares in WGSL: functions, types, variables, parameters, members. Of a name with a number at its end that the
 * template puts there, those with one digit.
 */
export function declared(text: string): string[] {
  const wgsl = text.replace(/\/\/.*|\/\*[\s\S]*?\*\//g, "");
  const name = `([A-Za-z_]\\w*${HOLE}?)`;
  const type = `(?:[iuf]32|f16|bool|vec|mat|array|ptr|atomic|[A-Z]|${HOLE})`;
  const forms = [
    `\\bfn\\s+${name}\\s*\\(`,
    `\\bstruct\\s+${name}\\s*\\{`,
    `\\b(?:alias|override|const|let|var(?:<[^>]*>)?)\\s+${name}\\s*[=:;]`,
    `[(,{]\\s*(?:@\\w+(?:\\([^)]*\\))?\\s*)*${name}\\s*:\\s*${type}`,
  ];
  const found = forms.flatMap((form) => [...wgsl.matchAll(new RegExp(form, "g"))].map(([, own]) => own!));
  return found.flatMap((own) =>
    own.endsWith(HOLE) ? Array.from({ length: 10 }, (_, digit) => `${own.slice(0, -1)}${digit}`) : [own],
  );
}
