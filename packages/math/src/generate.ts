// Writes derivatives.generated.ts; tools/generate calls it.
import { grad } from "./autodiff.ts";
import * as functions from "./functions.ts";

const header = "// Written by `pnpm generate` from functions/. Do not edit.\n";

/** What is differentiated by, of those where it is not every f32. */
const wrt: Readonly<Record<string, string>> = { dropout: "x" };

/** Every function with a gradient, by name: those with numbers to choose, by x alone. */
export function differentiable(): { fn: functions.MathFunction; wrt?: string }[] {
  return Object.values<unknown>(functions)
    .flatMap((value) => {
      if (typeof value === "function" && "of" in value) return [{ fn: value.of as functions.MathFunction, wrt: "x" }];
      if (typeof value !== "object" || value === null || !("wgsl" in value)) return [];
      const fn = value as functions.MathFunction;
      return [{ fn, ...(wrt[fn.name] && { wrt: wrt[fn.name]! }) }];
    })
    .filter(({ fn }, i, list) => list.findIndex((other) => other.fn === fn) === i)
    .filter(({ fn: { wgsl } }) => /-> (f32|vec\df) /.test(wgsl) && /: (f32|vec\df)\b/.test(headOf(wgsl)))
    .sort((a, b) => (a.fn.name < b.fn.name ? -1 : 1));
}

const headOf = (wgsl: string): string => wgsl.slice(0, wgsl.indexOf(" {"));

/**
 * The derivative's text. The slope of `accurateExp` is itself, not that of its polynomial: it is differentiated as what it
 * stands for, `exp`. So the text calls functions of `link(fn)`.
 */
function derivative(fn: functions.MathFunction, wrt?: string): string {
  const options = { fn: fn.name, ...(wrt && { wrt }) };
  const { wgsl, name } = functions.accurateExp;
  const source = functions.link(fn);
  if (!source.includes(wgsl)) return grad(source, options);
  const named = source.replace(wgsl, fn.name === name ? `fn ${name}(x: f32) -> f32 { return ${name}(x); }` : "");
  if (/\bexp\(/.test(named)) throw new Error(`${fn.name}: calls both exp and ${name}`);
  const body = named.replaceAll(`${name}(`, "exp(").replace("fn exp(", `fn ${name}(`);
  return grad(body, options).replace(/\bexp\(/g, `${name}(`);
}

/** The text of derivatives.generated.ts. */
export function derivatives(): string {
  const parts = differentiable().map(({ fn, wrt }) => {
    const text = derivative(fn, wrt);
    const what = wrt ? `The gradient of \`${headOf(fn.wgsl)}\` by ${wrt}` : `The gradients of \`${headOf(fn.wgsl)}\``;
    return `/** ${what}. */\nexport const ${fn.name}Grad: string = /* wgsl */ \`\n${text}\`;\n`;
  });
  return `${header}\n${parts.join("\n")}`;
}
