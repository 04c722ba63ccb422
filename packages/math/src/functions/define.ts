/**
 * What a math function is, as a value, and how the text of several becomes that of a kernel.
 *
 * A function of one number, or of several, is an activation at the same time: its derivative is derived when the package is
 * built. One with numbers to choose is a function of these: `leakyRelu({ negativeSlope: 0.2 })`.
 */
import { type Pointwise, variants } from "@kindling/core";

/** A pure WGSL function. */
export interface MathFunction {
  readonly name: string;
  /** Its own text, without that of `uses`. */
  readonly wgsl: string;
  readonly uses: readonly MathFunction[];
}

/** A pure function of f32s that returns one, with its gradients: what a layer takes as activation. */
export interface ScalarFunction extends MathFunction, Pointwise {}

/** A function with numbers to choose: the same value for the same numbers. */
export interface Parametric<Options extends object> {
  (...options: Record<never, never> extends Options ? [options?: Options] : [options: Options]): ScalarFunction;
  /** The function of x and the numbers, for a kernel that reads them at run time. */
  readonly of: MathFunction;
}

/** The value of a text that defines `fn name` and calls `uses`. Calls are marked pure: bundlers drop what is not used. */
export const define = (name: string, wgsl: string, ...uses: MathFunction[]): MathFunction => ({
  name,
  wgsl: wgsl.trim(),
  uses,
});

/** A function of f32s; `grad` is its derived text. */
export function scalar(name: string, wgsl: string, grad: string, ...uses: MathFunction[]): ScalarFunction {
  const fn = define(name, wgsl, ...uses);
  // while the file of derivatives is being written, it may lack some
  return { ...fn, forward: prefixed(fn, link(fn), name), backward: prefixed(fn, `${grad}`, name) };
}

/**
 * A function of x and of numbers, one for each of `defaults`; undefined where the caller must give it. The derivative is that
 * by x. `wrong` says why numbers are none.
 */
export function parametric<Options extends object>(
  of: MathFunction,
  grad: string,
  defaults: NoInfer<{ readonly [K in keyof Options]-?: number | undefined }>,
  wrong: (...values: number[]) => string | false = () => false,
): Parametric<Options> {
  const keys = Object.keys(defaults) as (keyof Options & string)[];
  const make = variants((...values: number[]): ScalarFunction => {
    // 0.2 → _0p2, -1e-7 → _m1em7
    const suffix = values.map((v) => `_${v}`.replaceAll("-", "m").replace("+", "").replace(".", "p")).join("");
    const name = of.name + suffix;
    // of a decimal beyond it WGSL does not take what rounds to the largest number
    const list = values.map((v) => `f32(${Math.abs(v) < 3.4e38 ? v : Math.fround(v)})`).join(", ");
    const call = (fn: string): string => /* wgsl */ `fn ${name}(x: f32) -> f32 {\n  return ${fn}(x, ${list});\n}`;
    const backward = /* wgsl */ `fn ${name}Grad(x: f32, dy: f32) -> f32 {\n  return ${name}OfGrad(x, ${list}, dy);\n}`;
    return {
      ...define(name, call(of.name), of),
      forward: `${prefixed(of, link(of), name, `${name}Of`)}\n${call(`${name}Of`)}\n`,
      backward: `${prefixed(of, grad, name).replaceAll(`${of.name}Grad`, `${name}OfGrad`)}\n${backward}\n`,
    };
  });
  const choose = (options: Options = {} as Options): ScalarFunction => {
    for (const key of Object.keys(options))
      if (!(key in defaults)) throw new Error(`${of.name}: unknown option ${key}, expected ${keys.join(", ")}`);
    const values = keys.map((key) => (options[key] ?? defaults[key]) as number);
    values.forEach((value, i) => {
      if (typeof value !== "number" || !Number.isFinite(Math.fround(value)))
        throw new Error(`${of.name}: ${keys[i]} is ${value}, expected a finite number`);
    });
    const problem = wrong(...values);
    if (problem) throw new Error(`${of.name}: ${problem}`);
    return make(...values);
  };
  return Object.assign(choose, { of }) as Parametric<Options>;
}

/** The text of functions and of all that they call, each once, callees first. */
export function link(...functions: readonly (MathFunction | string)[]): string {
  const found = new Set<string>();
  for (const fn of functions) {
    if (typeof fn === "string") found.add(fn.trim());
    else for (const { wgsl } of closure(fn)) found.add(wgsl);
  }
  return `${[...found].join("\n\n")}\n`;
}

/** A function and all that it calls, callees first. */
const closure = (fn: MathFunction): MathFunction[] => [...fn.uses.flatMap(closure), fn];

/** Text with the function itself called `own`, and all that it calls with `prefix` before their names. */
function prefixed(fn: MathFunction, text: string, prefix: string, own: string = prefix): string {
  const names = new Map<string, string>();
  for (const { name } of closure(fn)) names.set(name, prefix + capital(name));
  names.set(fn.name, own);
  // the result of a derivative by several
  names.set(`${capital(fn.name)}Grads`, `${prefix}Grads`);
  return text.replace(/\b[A-Za-z]\w*/g, (word) => names.get(word) ?? word);
}

const capital = (name: string): string => name[0]!.toUpperCase() + name.slice(1);
