// Writes derivatives.generated.ts; tools/generate calls it.
import { grad, pointwise } from "./autodiff.ts";
import * as functions from "./functions.ts";

type MathFunction = functions.MathFunction;

const isFunction = (value: unknown): value is MathFunction =>
  typeof value === "object" && value !== null && "wgsl" in value;

const header = `// Written by \`pnpm generate\` from functions.ts. Do not edit.
import type { Pointwise } from "@kindling/core";
`;

/** The text of derivatives.generated.ts. */
export function derivatives(): string {
  const parts = Object.values(functions)
    .filter(isFunction)
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .filter(({ wgsl }) => /-> (f32|vec\df) /.test(wgsl) && /: (f32|vec\df)\b/.test(wgsl.slice(0, wgsl.indexOf("->"))))
    .map(derived);
  return `${header}\n${parts.join("\n")}`;
}

function derived(fn: MathFunction): string {
  const { name, wgsl } = fn;
  const signature = wgsl.slice(0, wgsl.indexOf(" {"));
  const source = functions.link(fn);
  const lines = [
    `/** The gradients of \`${signature}\`. */`,
    `export const ${name}Grad: string = /* wgsl */ \`\n${grad(source, { fn: name })}\`;\n`,
  ];
  if (/^fn \w+\(\w+: f32\) -> f32$/.test(signature) && !source.includes("row")) {
    const own = `math${name[0]!.toUpperCase()}${name.slice(1)}`;
    const { forward, backward } = pointwise(own, `${source}\nfn ${own}(x: f32) -> f32 {\n  return ${name}(x);\n}\n`);
    lines.push(
      `/** \`${name}\` as an activation of any layer. */`,
      `export const ${name}Activation: Pointwise = {\n  name: "${own}",\n  forward: /* wgsl */ \`\n${forward}\`,\n  backward: /* wgsl */ \`\n${backward}\`,\n};\n`,
    );
  }
  return lines.join("\n");
}
