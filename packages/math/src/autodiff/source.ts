/** WGSL text parsed. wesl: of the maintained parsers the one with a span on every node, and it refuses what WGSL refuses. */
import {
  type AbstractElem,
  type BinaryExpression,
  type ConstElem,
  type ExpressionElem,
  type FnElem,
  parseSrcModule,
  type StructElem,
  type TypeRefElem,
} from "wesl/core";

/** Why a function has no derivative, and where: line and column count from 1. */
export class AutodiffError extends Error {
  readonly line: number;
  readonly column: number;
  readonly reason: string;

  constructor(where: string, source: string, offset: number, reason: string) {
    const before = source.slice(0, offset).split("\n");
    const [line, column] = [before.length, before.at(-1)!.length + 1];
    super(`${where}: line ${line}, column ${column}: ${reason}`);
    this.name = "AutodiffError";
    this.line = line;
    this.column = column;
    this.reason = reason;
  }
}

/** Anything with a place in the text. */
export interface Place {
  readonly start: number;
}

export interface Source {
  readonly text: string;
  readonly fns: ReadonlyMap<string, FnElem>;
  readonly structs: ReadonlyMap<string, StructElem>;
  readonly consts: ReadonlyMap<string, ConstElem>;
  readonly aliases: ReadonlyMap<string, TypeRefElem>;
  /** Names that the module declares. */
  readonly names: ReadonlySet<string>;
  readonly module: AbstractElem;
  /** An enable, requires or diagnostic, if there is one. */
  readonly directive?: Place;
  fail(place: Place, reason: string): never;
}

const refused: Record<string, string> = {
  gvar: "a module-scope variable; a pure function has its parameters and constants only",
  override: "an override; use const",
  import: "an import; put all functions in one text",
  do: "a do block is no WGSL",
};

/** `where` names the caller in errors. */
export function parse(where: string, text: string): Source {
  if (typeof text !== "string") throw new TypeError(`${where}: source is ${typeof text}, expected WGSL text`);
  const fail = (place: Place, reason: string): never => {
    throw new AutodiffError(where, text, place.start, reason);
  };
  // wesl's own, which would be there or not; comments are blanked so that places stay
  const code = text.replace(/\/\/.*|\/\*[\s\S]*?\*\//g, (comment) => comment.replace(/\S/g, " "));
  const conditional = /@(if|elif|else)\b/.exec(code);
  if (conditional) fail({ start: conditional.index }, `${conditional[0]} is no WGSL`);
  const { moduleElem, diagnostics } = parseSrcModule({ modulePath: "package::main", debugFilePath: "wgsl", src: text });
  const wrong = diagnostics.find(({ severity }) => severity === "error");
  if (wrong) {
    const hint = wrong.message.includes("template") ? "; where a comparison was meant, (a) < b says so" : "";
    fail(wrong, `syntax: ${wrong.message}${hint}`);
  }

  const fns = new Map<string, FnElem>();
  const structs = new Map<string, StructElem>();
  const consts = new Map<string, ConstElem>();
  const aliases = new Map<string, TypeRefElem>();
  const names = new Set<string>();
  let directive: Place | undefined;
  for (const declaration of moduleElem.decls) {
    if (declaration.kind === "directive") directive ??= declaration;
    if (declaration.kind === "directive" || declaration.kind === "assert" || declaration.kind === "synthetic") continue;
    const reason = refused[declaration.kind];
    if (reason) fail(declaration, reason);
    const declared = nameOf(declaration);
    if (!declared) fail(declaration, `${declaration.kind} is not supported`);
    const name = declared as string;
    if (names.has(name)) fail(declaration, `${name} is declared twice`);
    names.add(name);
    if (declaration.kind === "fn") {
      const attribute = declaration.attributes?.find(
        (a) => !("name" in a.attribute && a.attribute.name === "must_use"),
      );
      if (attribute) fail(attribute, `${name} has an attribute; only a plain function has a derivative`);
      fns.set(name, declaration);
    } else if (declaration.kind === "struct") structs.set(name, declaration);
    else if (declaration.kind === "const") consts.set(name, declaration);
    else if (declaration.kind === "alias") aliases.set(name, declaration.typeRef);
  }
  return { text, fns, structs, consts, aliases, names, module: moduleElem, ...(directive && { directive }), fail };
}

function nameOf(declaration: AbstractElem): string | undefined {
  if (declaration.kind === "fn" || declaration.kind === "struct" || declaration.kind === "alias") {
    return declaration.name.ident.originalName;
  }
  return declaration.kind === "const" ? declaration.name.decl.ident.originalName : undefined;
}

/** Every place where the source names something that has a declaration, in order. Members of structs are not among them. */
export function identifiers({ module, text }: Source): { start: number; text: string }[] {
  const found = new Map<number, string>();
  const visit = (node: unknown): void => {
    if (Array.isArray(node)) node.forEach(visit);
    if (typeof node !== "object" || node === null || !("kind" in node)) return;
    const elem = node as AbstractElem & Place;
    // the name of a type is an identifier without a place of its own
    if ((elem.kind === "ref" || elem.kind === "decl") && elem.ident) found.set(elem.start, elem.ident.originalName);
    if (elem.kind === "type") found.set(elem.start, elem.name.originalName);
    for (const [key, part] of Object.entries(elem)) {
      if (key !== "ident" && key !== "srcModule" && key !== "typeScope") visit(part);
    }
  };
  visit(module);
  return [...found]
    .map(([start, name]) => ({ start, text: name }))
    .filter(({ start, text: name }) => text.startsWith(name, start))
    .sort((a, b) => a.start - b.start);
}

// biome-ignore format: a table
const levels: readonly (readonly string[])[] = [
  ["||"], ["&&"], ["|"], ["^"], ["&"], ["==", "!=", "<", ">", "<=", ">="], ["<<", ">>"], ["+", "-"], ["*", "/", "%"],
];

/** A binary expression by WGSL's precedence: wesl 0.7.31 reads a < b * c + d as (a < b * c) + d. */
export function byPrecedence(elem: BinaryExpression): BinaryExpression {
  const operands: ExpressionElem[] = [];
  const operators: BinaryExpression["operator"][] = [];
  const flatten = (part: ExpressionElem): void => {
    if (part.kind !== "binary-expression") {
      operands.push(part);
      return;
    }
    flatten(part.left);
    operators.push(part.operator);
    flatten(part.right);
  };
  flatten(elem);
  if (operators.length === 1) return elem;
  const build = (from: number, to: number): ExpressionElem => {
    if (from === to) return operands[from]!;
    for (const level of levels) {
      for (let i = to - 1; i >= from; i--) {
        const operator = operators[i]!;
        if (!level.includes(operator.value)) continue;
        const [left, right] = [build(from, i), build(i + 1, to)];
        return { kind: "binary-expression", operator, left, right, start: left.start, end: right.end };
      }
    }
    throw new Error(`autodiff: operator ${operators[from]!.value}`);
  };
  return build(0, operands.length - 1) as BinaryExpression;
}
