/**
 * Derivatives of pure WGSL functions, derived from their text and returned as text.
 *
 *   grad(source)   reverse mode: fn f(x, y) -> T   becomes   fn fGrad(x, y, dResult: T) -> the gradients of x and y
 *   jvp(source)    forward mode: fn f(x, y) -> T   becomes   fn fJvp(x, y, dx, dy) -> T, the change of the result
 *   pointwise()    a scalar function with its derivative, to fuse into any layer
 *
 * A second derivative is the derivative of a derivative: append one to the source and derive it in turn.
 * What has no derivative, or none that can be derived, is an AutodiffError with line, column and reason.
 * At kinks the derivative is PyTorch's; README.md lists them.
 *
 * Order of work: source.ts parses, lower.ts resolves names and types into values (ir.ts), derive.ts turns them into those
 * of the derivative by the rules of rules.ts, print.ts writes them down.
 */
import type { Pointwise } from "@kindling/core";
import { builtinNames } from "./autodiff/builtins.ts";
import { type Derived, Forward, Reverse } from "./autodiff/derive.ts";
import type { Fn, Value } from "./autodiff/ir.ts";
import { Lowering } from "./autodiff/lower.ts";
import { Printer } from "./autodiff/print.ts";
import { reserved } from "./autodiff/reserved.generated.ts";
import { AutodiffError, identifiers, parse, type Source } from "./autodiff/source.ts";
import { isDifferentiable, type Type } from "./autodiff/types.ts";

export { AutodiffError };

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
  const struct = `${name[0]!.toUpperCase()}${name.slice(1)}s`;
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

/** The function that no other one calls. */
function outermost(where: string, { fns, text }: Source): string {
  const names = [...fns.keys()];
  if (names.length === 0) throw new Error(`${where}: the source has no function`);
  const called = new Set<string>();
  for (const fn of fns.values()) {
    const own = text.slice(fn.body.start, fn.body.end);
    for (const name of names) if (new RegExp(`\\b${name}\\s*\\(`).test(own)) called.add(name);
  }
  const free = names.filter((name) => !called.has(name));
  if (free.length === 1 || names.length === 1) return free[0] ?? names[0]!;
  throw new Error(`${where}: which function? fn is one of ${list(names)}`);
}

/**
 * A scalar function with its derivative, for any layer that takes an activation: `linear(x, w, b, { activation: swoosh })`.
 * `wgsl` defines `fn NAME(x: f32) -> f32` and may define other functions, structs and constants beside it; their names
 * get NAME as a prefix, so that they cannot meet those of a kernel. The same text gives the same kernels each time.
 */
export function pointwise(name: string, wgsl: string): Pointwise {
  const where = `pointwise("${name}")`;
  if (typeof name !== "string" || !/^[A-Za-z]\w*$/.test(name) || name.includes("__")) {
    throw new Error(`${where}: the name is not an identifier`);
  }
  if (reserved.has(name) || builtinNames.has(name)) {
    throw new Error(`${where}: kernels use the name ${name} for something else; choose another`);
  }
  const source = parse(where, wgsl);
  const fn = source.fns.get(name);
  if (!fn) throw new Error(`${where}: the source does not define fn ${name}(x: f32) -> f32`);
  if (source.directive) source.fail(source.directive, "a directive; the text becomes part of a kernel");
  const lowering = new Lowering(source);
  const { params, result } = lowering.lower(name);
  if (params.length !== 1 || params[0]!.type.text !== "f32" || result.type.text !== "f32") {
    source.fail(fn, `expected fn ${name}(x: f32) -> f32`);
  }
  if (lowering.usesRows) source.fail(fn, `${name} works on a row, not on one element`);

  const taken = new Set(source.names).add(`${name}Grad`);
  const renamed = new Map<string, string>();
  for (const own of source.names) {
    if (own === name || own.startsWith(name)) continue;
    let prefixed = `${name}${own[0]!.toUpperCase()}${own.slice(1)}`;
    while (taken.has(prefixed)) prefixed += "_";
    taken.add(prefixed);
    renamed.set(own, prefixed);
  }
  let forward = wgsl;
  for (const { start, text } of identifiers(source).reverse()) {
    const to = renamed.get(text);
    if (to) forward = forward.slice(0, start) + to + forward.slice(start + text.length);
  }
  return { name, forward, backward: grad(forward, { fn: name }) };
}
