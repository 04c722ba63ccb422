/** A user's text made fit to stand in a kernel: its names can meet none of the kernel's own. */
import type { Parameter, Scalar } from "../operands.ts";
import { builtinNames } from "./builtins.ts";
import { Lowering } from "./lower.ts";
import { reserved } from "./reserved.generated.ts";
import { identifiers, parse, type Source } from "./source.ts";

/** The function that no other one calls. */
export function outermost(where: string, { fns, text }: Source): string {
  const names = [...fns.keys()];
  if (names.length === 0) throw new Error(`${where}: the source has no function`);
  const called = new Set<string>();
  for (const fn of fns.values()) {
    const own = text.slice(fn.body.start, fn.body.end);
    for (const name of names) if (new RegExp(`\\b${name}\\s*\\(`).test(own)) called.add(name);
  }
  const free = names.filter((name) => !called.has(name));
  if (free.length === 1 || names.length === 1) return free[0] ?? names[0]!;
  throw new Error(`${where}: which function? fn is one of ${names.join(", ")}`);
}

/** Names that kernels have for something else. */
export const isTaken = (name: string): boolean => reserved.has(name) || builtinNames.has(name);

/** A function with the text around it, checked. */
export interface Embedded {
  readonly name: string;
  /** Its name in the text as it was given. */
  readonly called: string;
  /** With the names changed. */
  readonly source: Source;
  readonly parameters: readonly Parameter[];
  readonly result: string;
  /** Whether it works across a row. */
  readonly usesRows: boolean;
  /** Throws an error that points to the function in the text as it was given. */
  fail(reason: string): never;
}

/**
 * The source with the function's name as a prefix of all other names that it declares; without `given` the function is the
 * outermost. `made` are endings of the names of what will be derived, which must be free. A name that kernels use gets an
 * underscore.
 */
export function embed(where: string, wgsl: string, given: string | undefined, made: readonly string[]): Embedded {
  const source = parse(where, wgsl);
  if (source.directive) source.fail(source.directive, "a directive; the text becomes part of a kernel");
  const chosen = given ?? outermost(where, source);
  const declaration = source.fns.get(chosen);
  if (!declaration) throw new Error(`${where}: the source does not define fn ${chosen}(x: f32) -> f32`);
  // errors are those of the text as it was given
  const lowering = new Lowering(source);
  const { params, result } = lowering.lower(chosen);
  const hidden = made.map((ending) => chosen + ending).find((own) => source.names.has(own));
  if (hidden) throw new Error(`${where}: ${hidden} is declared in the source already; choose another name`);

  const name = isTaken(chosen) ? `${chosen}_` : chosen;
  const taken = new Set([...source.names, ...made.map((ending) => name + ending)]);
  const renamed = new Map([[chosen, name]]);
  for (const own of source.names) {
    if (own === chosen || own.startsWith(name)) continue;
    let prefixed = `${name}${own[0]!.toUpperCase()}${own.slice(1)}`;
    while (taken.has(prefixed)) prefixed += "_";
    taken.add(prefixed);
    renamed.set(own, prefixed);
  }
  let text = wgsl;
  for (const { start, text: own } of identifiers(source).reverse()) {
    const to = renamed.get(own);
    if (to) text = text.slice(0, start) + to + text.slice(start + own.length);
  }
  return {
    name,
    called: chosen,
    source: text === wgsl ? source : parse(where, text),
    parameters: params.map((param) => ({ name: param.text, type: param.type.text as Scalar })),
    result: result.type.text,
    usesRows: lowering.usesRows,
    fail: (reason) => source.fail(declaration, reason),
  };
}
