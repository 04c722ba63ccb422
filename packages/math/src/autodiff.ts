/**
 * Derivatives of pure WGSL functions, derived from their text and returned as text.
 *
 *   grad(source)   reverse mode: fn f(x, y) -> T   becomes   fn fGrad(x, y, dResult: T) -> the gradients of x and y
 *   jvp(source)    forward mode: fn f(x, y) -> T   becomes   fn fJvp(x, y, dx, dy) -> T, the change of the result
 *   pointwise()    a scalar function with its derivative, to fuse into any layer
 *   elementwise()  a function of one element over broadcast tensors, as one kernel and one of its derivative
 *   row()          the same for a function with sums, means, maxima or cumulative sums of a row
 *
 * A second derivative is the derivative of a derivative: append one to the source and derive it in turn.
 * What has no derivative, or none that can be derived, is an AutodiffError with line, column and reason.
 * At kinks the derivative is PyTorch's; README.md lists them.
 *
 * Order of work: source.ts parses, lower.ts resolves names and types into values (ir.ts), derive.ts turns them into those
 * of the derivative by the rules of rules.ts, print.ts writes them down.
 */
import type { Pointwise, Tensor } from "@kindling/core";
import { builtinNames } from "./autodiff/builtins.ts";
import { type Derived, Forward, Reverse } from "./autodiff/derive.ts";
import { type Embedded, embed, isTaken, outermost } from "./autodiff/embed.ts";
import type { Fn, Value } from "./autodiff/ir.ts";
import { Lowering } from "./autodiff/lower.ts";
import { Printer } from "./autodiff/print.ts";
import { AutodiffError, parse, type Source } from "./autodiff/source.ts";
import { isDifferentiable, type Type } from "./autodiff/types.ts";
import { checkTypes, type ElementFunction, elementFunctionOf, runElementwise } from "./elementwise.ts";
import type { MathFunction } from "./functions.ts";
import type { Operand, Scalar } from "./operands.ts";
import { type RowOptions, row, textOf } from "./row.ts";

export { AutodiffError, type Operand, type RowOptions, row };

export interface DerivativeOptions {
  /** The parameters to differentiate by. Default: all that are made of floats. */
  readonly wrt?: readonly string[] | string;
  /** The function to differentiate. Default: the one that no other function of the source calls. */
  readonly fn?: string;
  /** The derivative's name. Default: the function's with Grad or Jvp appended. */
  readonly name?: string;
}

/**
 * The text of a function that returns the gradients of the parameters `wrt` of a function of `source`, given the
 * function's arguments and the gradient of its result. Of several parameters it returns a struct, declared in the text,
 * with a member `dNAME` for each. The text stands beside that of `source`, whose structs and constants it may name.
 */
export function grad(source: string, options: DerivativeOptions = {}): string {
  return gradient(source, options);
}

/** `structName`: what the result's type is called instead, where there are several gradients. */
function gradient(source: string, options: DerivativeOptions, structName?: string): string {
  const { parsed, fn, wrt, name } = prepare("grad", source, options, "Grad");
  const names = new Set(fn.params.map(({ text }) => text));
  const seed = ["dy", "dz", "dResult"].find((d) => !names.has(d) && !names.has(d.slice(1))) ?? unused("dResult", names);
  const reverse = new Reverse();
  const gradients = reverse.derive(fn, seed);
  const place = parsed.fns.get(fn.name)!;
  const reserved = new Set([...parsed.names, name]);
  const fail = (reason: string): never => parsed.fail(place, `${fn.name}: ${reason}`);
  const [first] = wrt as [Value];
  if (wrt.length === 1) {
    const derived = reverse.finish(() => gradients.get(first)!);
    return new Printer(derived, reserved, fail).print(name, first.type);
  }
  const struct = structName ?? `${name[0]!.toUpperCase()}${name.slice(1)}s`;
  if (parsed.names.has(struct))
    throw new Error(`grad: ${struct}, the result's type, is declared in the source already`);
  const members = wrt.map((param) => ({ name: `d${param.text}`, type: param.type }));
  const type: Type = { kind: "struct", members, text: struct };
  const derived = reverse.finish((b) =>
    b.op(
      "construct",
      type,
      wrt.map((param) => gradients.get(param)!),
    ),
  );
  const fields = members.map((member) => `  ${member.name}: ${member.type.text},\n`).join("");
  const text = new Printer(derived, reserved.add(struct), fail).print(name, type);
  return `struct ${struct} {\n${fields}}\n\n${text}`;
}

/**
 * The text of a function that returns the change of the result, given the function's arguments and, after them, the
 * changes of the parameters `wrt`, each called `dNAME`.
 */
export function jvp(source: string, options: DerivativeOptions = {}): string {
  const { parsed, fn, wrt, name } = prepare("jvp", source, options, "Jvp");
  const names = new Set(fn.params.map(({ text }) => text));
  const derived: Derived = new Forward().derive(
    fn,
    wrt.map(({ text }) => text),
    (param) => unused(`d${param}`, names),
  );
  const fail = (reason: string): never => parsed.fail(parsed.fns.get(fn.name)!, `${fn.name}: ${reason}`);
  return new Printer(derived, new Set([...parsed.names, name]), fail).print(name, fn.result.type);
}

const unused = (name: string, names: ReadonlySet<string>): string =>
  names.has(name) ? unused(`${name}_`, names) : name;

function prepare(
  where: string,
  text: string,
  options: DerivativeOptions,
  suffix: string,
): {
  parsed: Source;
  fn: Fn;
  wrt: Value[];
  name: string;
} {
  const parsed = parse(where, text);
  const chosen = options.fn ?? outermost(where, parsed);
  if (!parsed.fns.has(chosen)) throw new Error(`${where}: fn is "${chosen}", expected ${list([...parsed.fns.keys()])}`);
  const name = options.name ?? `${chosen}${suffix}`;
  if (!/^[A-Za-z]\w*$/.test(name)) throw new Error(`${where}: name is "${name}", expected a WGSL identifier`);
  if (parsed.names.has(name))
    throw new Error(`${where}: ${name} is declared in the source already; choose another name`);
  if (builtinNames.has(name)) throw new Error(`${where}: name is "${name}", which is a builtin function`);
  const fn = new Lowering(parsed).lower(chosen);
  const declaration = parsed.fns.get(chosen)!;
  if (!isDifferentiable(fn.result.type) || fn.result.type.text === "float") {
    parsed.fail(declaration.returnType!, `${chosen} returns ${fn.result.type.text}; only floats have a derivative`);
  }
  const { wrt } = options;
  const names = typeof wrt === "string" ? [wrt] : wrt;
  if (names?.length === 0) throw new Error(`${where}: wrt is empty, expected parameters of ${chosen}`);
  const params = names
    ? names.map((param) => {
        const found = fn.params.find(({ text: own }) => own === param);
        if (!found) {
          throw new Error(`${where}: wrt has "${param}", expected of ${list(fn.params.map(({ text: own }) => own))}`);
        }
        if (!isDifferentiable(found.type)) {
          throw new Error(`${where}: wrt has "${param}", which is ${found.type.text}; only floats have a gradient`);
        }
        return found;
      })
    : fn.params.filter(({ type }) => isDifferentiable(type));
  if (params.length === 0) parsed.fail(declaration, `${chosen} has no parameter made of floats`);
  return { parsed, fn, wrt: params, name };
}

const list = (names: readonly string[]): string => (names.length ? names.join(", ") : "a function, but there is none");

/** Endings of the names that a derivative adds. */
const made = ["Grad", "Grads"];

/**
 * A scalar function with its derivative, for any layer that takes an activation: `linear(x, w, b, { activation: swoosh })`.
 * `wgsl` defines `fn NAME(x: f32) -> f32`, with inputs of its own `fn NAME(x: f32, mask: f32) -> f32`, and may define other
 * functions, structs and constants beside it; their names get NAME as a prefix, so that they cannot meet those of a kernel.
 * The derivative of a function of several inputs returns a struct NAMEGrads with `dx`, `dmask`. The same text gives the same
 * kernels each time.
 */
export function pointwise(name: string, wgsl: string): Pointwise {
  const where = `pointwise("${name}")`;
  if (typeof name !== "string" || !/^[A-Za-z]\w*$/.test(name) || name.includes("__")) {
    throw new Error(`${where}: the name is not an identifier`);
  }
  if (isTaken(name)) throw new Error(`${where}: kernels use the name ${name} for something else; choose another`);
  const embedded = embed(where, wgsl, name, made);
  const { parameters, result, fail } = embedded;
  if (parameters.length === 0 || [...parameters, { type: result }].some(({ type }) => type !== "f32")) {
    fail(`expected fn ${name}(x: f32) -> f32, or with further inputs of f32`);
  }
  const { forward, backward } = differentiated(embedded);
  return { name, forward, backward };
}

/** A function of one element and its derivative, if it has one, ready for a kernel. */
function differentiated({ name, called, source, parameters, result, usesRows, fail }: Embedded): ElementFunction {
  if (usesRows) fail(`${called} works on a row, not on one element; see row`);
  const differentiable = result === "f32" && parameters.some(({ type }) => type === "f32");
  const backward = differentiable ? gradient(source.text, { fn: name }, `${name}Grads`) : "";
  return { name, called, forward: source.text, backward, parameters, result: result as Scalar };
}

const derived = new Map<string, ElementFunction>();

/**
 * `fn` of every element of its operands, which broadcast as in PyTorch: one kernel, and one for all gradients. `fn` is WGSL
 * text, derived once, whose outermost function is meant (`pointwise` says which); a function of @kindling/math; or a value that carries its
 * derivative. A parameter of f32 takes f32 and f16 tensors and numbers, one of i32, u32 or bool takes tensors of that dtype.
 * The result is f32, or f16 where all float operands are; a function that returns i32, u32 or bool gives such a tensor, without
 * a gradient. Throws on a wrong count, dtype, shape or device, and where the GPU binds fewer buffers.
 *
 *     elementwise("fn cauchy(x: f32, scale: f32) -> f32 { let d = x / scale; return log(1.0 + d * d); }", x, scale)
 */
export function elementwise(fn: string | MathFunction | Pointwise, ...operands: readonly Operand[]): Tensor {
  // a value with its derivative is not put together as text, which it may have too
  const text = typeof fn === "string" || !("forward" in Object(fn)) ? textOf(fn) : undefined;
  if (!text) return runElementwise(elementFunctionOf(fn as Pointwise), operands);
  const key = `${text.name ?? ""}\n${text.wgsl}`;
  let own = derived.get(key);
  if (!own) derived.set(key, (own = checkTypes(differentiated(embed("elementwise", text.wgsl, text.name, made)))));
  return runElementwise(own, operands);
}
