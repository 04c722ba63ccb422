// The generated files of @kindling/math: the derivatives of its functions, and the names that a fused one may not have.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { derivatives } from "../../packages/math/src/generate.ts";
import { type Package, sources } from "../workspace/packages.ts";

/** The packages whose kernels take a function of the user's. */
const fusing = new Set(["core", "activations", "batchnorm", "conv-transpose", "conv1d", "conv2d", "glu", "linear"]);

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
      const text = readFileSync(join(item.path, file), "utf8");
      for (const [, wgsl] of text.matchAll(/\/\* wgsl \*\/ `((?:[^`]|`[^`]*`)*?)`(?=[;,)\s}])/g)) {
        const declared = [
          ...wgsl!.matchAll(/\b(?:fn|struct|override|const|let|var(?:<[^>]*>)?)\s+([A-Za-z_]\w*)/g),
          ...wgsl!.matchAll(/[(,]\s*(?:@builtin\(\w+\) )?([A-Za-z_]\w*)\s*:/g),
        ];
        for (const [, name] of declared) names.add(name!);
      }
    }
  }
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
