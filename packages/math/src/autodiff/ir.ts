/**
 * What a function is between its text and its derivative's: values, each computed once from others (SSA), in regions.
 * An `if` owns two regions and a `for` one; what they hand on are their yields. Variables are gone: an assignment made a
 * new value, an assignment in a branch is a result of the `if`, one in a loop is carried by the loop.
 */
import { elementOf, isDifferentiable, isInteger, sameType, scalar, type Type, vec } from "./types.ts";

export type Op =
  | "param" // of the function or, carried, of a loop
  | "index" // of a loop
  | "const" // a literal: text
  | "global" // a module constant: text
  | "zero"
  | "unary" // text
  | "binary" // text
  | "call" // a builtin: text
  | "bitcast"
  | "construct" // also conversions and splats
  | "extract" // component, element or member number `at`
  | "swizzle" // text
  | "extractAt" // (base, index)
  | "insert" // (base, value), at
  | "insertAt" // (base, index, value)
  | "result"; // number `at` of `node`

export interface Value {
  readonly id: number;
  readonly op: Op;
  readonly type: Type;
  readonly args: readonly Value[];
  readonly text: string;
  readonly at: number;
  readonly node?: Node;
  region?: Region;
  /** A name for the printed text; `kept` when the author gave it, so that the value is printed under it. */
  hint?: string;
  kept?: boolean;
}

export interface IfNode {
  readonly kind: "if";
  readonly cond: Value;
  readonly then: Region;
  readonly else: Region;
  readonly results: Value[];
}

export interface ForNode {
  readonly kind: "for";
  readonly count: number;
  readonly reversed: boolean;
  /** i32, from 0 to count - 1, or down again when reversed. */
  readonly index: Value;
  readonly inits: Value[];
  /** Its params are the carried values. */
  readonly body: Region;
  readonly results: Value[];
}

export type Node = IfNode | ForNode;
export type Item = Value | Node;

export const isNode = (item: Item): item is Node => "kind" in item;

export class Region {
  readonly parent: Region | null;
  readonly loop: boolean;
  readonly items: Item[] = [];
  readonly params: Value[] = [];
  yields: Value[] = [];
  readonly known: Map<string, Value> = new Map();

  constructor(parent: Region | null, loop = false) {
    this.parent = parent;
    this.loop = loop;
  }

  /** Whether `value` is computed in this region or in one within it. */
  owns(value: Value): boolean {
    for (let region = value.region ?? null; region; region = region.parent) if (region === this) return true;
    return false;
  }
}

/** A derived or parsed function. */
export interface Fn {
  readonly name: string;
  readonly params: readonly Value[];
  readonly body: Region;
  result: Value;
}

let ids = 0;

interface Extra {
  readonly text?: string;
  readonly at?: number;
  readonly node?: Node;
}

export function newValue(
  op: Op,
  type: Type,
  args: readonly Value[] = [],
  { text = "", at = 0, node }: Extra = {},
): Value {
  return { id: ids++, op, type, args, text, at, ...(node && { node }) };
}

/** Prefix sums along a row, and suffix sums; an element's own value counts. */
export const rowScans: ReadonlySet<string> = new Set(["rowCumsum", "rowCumsumReverse"]);

/** What works across the elements of a row. */
export const rowPrimitives: ReadonlySet<string> = new Set(["rowSum", "rowMean", "rowMax", ...rowScans]);

/** The number that a scalar literal is; undefined for anything else. */
export function numberOf(value: Value): number | undefined {
  if (value.op === "zero") return value.type.kind === "scalar" && value.type.of !== "bool" ? 0 : undefined;
  if (value.op !== "const" || value.text === "true" || value.text === "false") return undefined;
  return Number(value.text);
}

export const boolOf = (value: Value): boolean | undefined =>
  value.op === "const" && (value.text === "true" || value.text === "false") ? value.text === "true" : undefined;

export const isZero = (value: Value): boolean =>
  value.op === "zero" || (value.op === "const" && value.text !== "false" && Number(value.text) === 0);

/** Appends values to the current region. `op` makes exactly what it is told; the named methods simplify. */
export class Builder {
  region: Region;

  constructor(region: Region) {
    this.region = region;
  }

  within<R>(region: Region, build: () => R): R {
    const outer = this.region;
    this.region = region;
    try {
      return build();
    } finally {
      this.region = outer;
    }
  }

  /** A value; the same one as before where an equal one is in sight. */
  op(op: Op, type: Type, args: readonly Value[] = [], extra: Extra = {}): Value {
    const key = `${op} ${type.text} ${extra.text ?? ""} ${extra.at ?? ""} ${args.map(({ id }) => id).join(" ")}`;
    if (op === "const" || op === "zero" || op === "global") {
      let root = this.region;
      while (root.parent) root = root.parent;
      let leaf = root.known.get(key);
      if (!leaf) root.known.set(key, (leaf = newValue(op, type, args, extra)));
      return leaf;
    }
    for (let region: Region | null = this.region; region; region = region.parent) {
      const known = region.known.get(key);
      if (known) return known;
    }
    const value = newValue(op, type, args, extra);
    value.region = this.region;
    this.region.known.set(key, value);
    this.region.items.push(value);
    return value;
  }

  const(text: string | number | boolean, type: Type): Value {
    return this.op("const", type, [], { text: String(text) });
  }

  /** A literal that takes its type from where it stands. */
  float(value: number): Value {
    return this.const(value, scalar("float"));
  }

  zero(type: Type): Value {
    return this.op("zero", type);
  }

  call(name: string, type: Type, ...args: Value[]): Value {
    return this.op("call", type, args, { text: name });
  }

  private binary(text: string, a: Value, b: Value, type: Type = wider(a.type, b.type)): Value {
    if (a.op === "const" && b.op === "const" && a.type.text === "float" && b.type.text === "float") {
      const [x, y] = [Number(a.text), Number(b.text)];
      const folded = text === "+" ? x + y : text === "-" ? x - y : text === "*" ? x * y : x / y;
      if (String(folded).length <= 6) return this.float(folded);
    }
    return this.op("binary", type, [a, b], { text });
  }

  add(a: Value, b: Value): Value {
    if (a.op === "zero" && sameType(a.type, b.type)) return b;
    if (b.op === "zero" && sameType(a.type, b.type)) return a;
    const { type } = a;
    if (type.kind === "struct" || type.kind === "array") {
      const count = type.kind === "struct" ? type.members.length : type.size;
      const parts = Array.from({ length: count }, (_, i) => {
        const x = this.extract(a, i);
        return isDifferentiable(x.type) ? this.add(x, this.extract(b, i)) : this.zero(x.type);
      });
      return this.op("construct", type, parts);
    }
    if (isZero(a) && sameType(wider(a.type, b.type), b.type)) return b;
    if (isZero(b) && sameType(wider(a.type, b.type), a.type)) return a;
    const [k, x] = scaleOf(a);
    const [l, y] = scaleOf(b);
    if (x === y) return this.mul(this.float(k + l), x);
    if (type.kind === "vec" && this.spread(a) && this.spread(b)) {
      const parts = Array.from({ length: type.size }, (_, i) => this.add(this.extract(a, i), this.extract(b, i)));
      return this.vector(type, parts);
    }
    if (l < 0) return this.sub(a, this.mul(this.float(-l), y));
    const negated = negatedOf(b);
    if (negated) return this.sub(a, negated);
    const other = negatedOf(a);
    if (other) return this.sub(b, other);
    return this.binary("+", a, b);
  }

  /** A vector whose components are known one by one, some of them zero. */
  private spread(value: Value): boolean {
    return value.op === "construct" && value.args.length > 1 && value.args.some(isZero);
  }

  sub(a: Value, b: Value): Value {
    if (isZero(b) && sameType(wider(a.type, b.type), a.type)) return a;
    if (isZero(a) && sameType(wider(a.type, b.type), b.type)) return this.neg(b);
    const negated = negatedOf(b);
    if (negated) return this.add(a, negated);
    const [l, y] = scaleOf(b);
    return l < 0 ? this.add(a, this.mul(this.float(-l), y)) : this.binary("-", a, b);
  }

  neg(a: Value): Value {
    if (isZero(a)) return a;
    const negated = negatedOf(a);
    if (negated) return negated;
    if (a.op === "const") return this.const(a.text.startsWith("-") ? a.text.slice(1) : `-${a.text}`, a.type);
    return this.op("unary", a.type, [a], { text: "-" });
  }

  mul(a: Value, b: Value): Value {
    const type = wider(a.type, b.type);
    if (isZero(a) || isZero(b)) return this.zero(type);
    if (numberOf(a) === 1 && sameType(type, b.type)) return b;
    if (numberOf(b) === 1 && sameType(type, a.type)) return a;
    if (numberOf(a) === -1 && sameType(type, b.type)) return this.neg(b);
    if (numberOf(b) === -1 && sameType(type, a.type)) return this.neg(a);
    if (b.op === "const" && a.op !== "const") return this.mul(b, a);
    // numbers come first and together
    const [k, rest] = scaleOf(b);
    if (k !== 1 && rest.op !== "const") {
      if (a.op !== "const") return this.mul(b.args[0]!, this.mul(a, rest));
      const product = k * numberOf(a)!;
      if (String(product).length <= 6) return this.mul(this.float(product), rest);
    }
    const [x, y] = [negatedOf(a), negatedOf(b)];
    if (x && y) return this.mul(x, y);
    if (x) return this.neg(this.mul(x, b));
    if (y) return this.neg(this.mul(a, y));
    return this.binary("*", a, b);
  }

  div(a: Value, b: Value): Value {
    const type = wider(a.type, b.type);
    if (isZero(a)) return this.zero(type);
    if (numberOf(b) === 1 && sameType(type, a.type)) return a;
    const x = negatedOf(a);
    return x ? this.neg(this.div(x, b)) : this.binary("/", a, b);
  }

  /** `yes` where `cond`, else `no`. */
  select(no: Value, yes: Value, cond: Value): Value {
    if (no === yes || (isZero(no) && isZero(yes))) return no;
    const type = isZero(no) ? yes.type : no.type;
    const [a, b] = [isZero(no) ? this.zero(type) : no, isZero(yes) ? this.zero(type) : yes];
    return this.call("select", type, a, b, cond);
  }

  compare(text: string, a: Value, b: Value): Value {
    const { type } = a;
    return this.op("binary", type.kind === "vec" ? vec(type.size, "bool") : scalar("bool"), [a, b], { text });
  }

  and(a: Value, b: Value): Value {
    return this.op("binary", a.type, [a, b], { text: a.type.kind === "vec" ? "&" : "&&" });
  }

  not(a: Value): Value {
    const known = boolOf(a);
    if (known !== undefined) return this.const(!known, a.type);
    return a.op === "unary" && a.text === "!" ? a.args[0]! : this.op("unary", a.type, [a], { text: "!" });
  }

  or(a: Value, b: Value): Value {
    if (boolOf(a) === false || boolOf(b) === true) return b;
    if (boolOf(b) === false || boolOf(a) === true) return a;
    return this.op("binary", a.type, [a, b], { text: "||" });
  }

  /** A vector or scalar of `type` with every component equal to `a`. */
  splat(a: Value, type: Type): Value {
    if (isZero(a)) return this.zero(type);
    return type.kind === "vec" && a.type.kind === "scalar" ? this.op("construct", type, [a]) : a;
  }

  vector(type: Type, parts: readonly Value[]): Value {
    if (parts.every(isZero)) return this.zero(type);
    const first = parts[0]!;
    if (parts.every((part) => part === first)) return this.op("construct", type, [first]);
    const source = first.args[0];
    if (first.op === "extract" && source && sameType(source.type, type)) {
      if (parts.every((part, i) => part.op === "extract" && part.args[0] === source && part.at === i)) return source;
    }
    return this.op("construct", type, parts);
  }

  /** The sum of a vector's components. */
  sum(a: Value): Value {
    const { type } = a;
    if (type.kind !== "vec") return a;
    const of = scalar(type.of);
    if (isZero(a)) return this.zero(of);
    if (a.op === "construct") {
      if (a.args.length === 1 && a.args[0]!.type.kind === "scalar") return this.mul(this.float(type.size), a.args[0]!);
      if (a.args.length === type.size) return a.args.reduce((x, y) => this.add(x, y));
    }
    const negated = negatedOf(a);
    if (negated) return this.neg(this.sum(negated));
    if (a.op === "binary" && a.text === "*") {
      const [x, y] = a.args as [Value, Value];
      if (x.type.kind === "vec" && y.type.kind === "vec") return this.call("dot", of, x, y);
      return x.type.kind === "vec" ? this.mul(this.sum(x), y) : this.mul(x, this.sum(y));
    }
    return Array.from({ length: type.size }, (_, i) => this.extract(a, i)).reduce((x, y) => this.add(x, y));
  }

  /** Component, element or member number `at`. */
  extract(base: Value, at: number): Value {
    const { type } = base;
    const part = partType(type, at);
    if (base.op === "zero") return this.zero(part);
    if (base.op === "construct") {
      if (base.args.length === (type.kind === "struct" ? type.members.length : (type as { size: number }).size)) {
        if (base.args.every((arg) => type.kind !== "vec" || arg.type.kind === "scalar")) return base.args[at]!;
      }
      if (type.kind === "vec" && base.args.length === 1 && base.args[0]!.type.kind === "scalar") {
        // a splat also converts an abstract number to the vector's type
        if (sameType(base.args[0]!.type, part) || base.args[0]!.op === "const") return base.args[0]!;
      }
    }
    if (base.op === "insert") return base.at === at ? base.args[1]! : this.extract(base.args[0]!, at);
    if (base.op === "swizzle") return this.extract(base.args[0]!, "xyzw".indexOf(base.text[at]!));
    return this.op("extract", part, [base], { at });
  }

  extractAt(base: Value, index: Value): Value {
    const known = numberOf(index);
    if (known !== undefined) return this.extract(base, known);
    const part = partType(base.type, 0);
    if (base.op === "zero") return this.zero(part);
    if (base.op === "insertAt" && base.args[1] === index) return base.args[2]!;
    return this.op("extractAt", part, [base, index]);
  }

  /** `base` with one part replaced. */
  insert(base: Value, at: number, part: Value): Value {
    const { type } = base;
    if (part.op === "extract" && part.args[0] === base && part.at === at) return base;
    if (base.op === "insert" && base.at === at) return this.insert(base.args[0]!, at, part);
    const count = type.kind === "struct" ? type.members.length : (type as { size: number }).size;
    if (type.kind === "vec" || type.kind === "struct" || (count <= 4 && base.op !== "param")) {
      const parts = Array.from({ length: count }, (_, i) => (i === at ? part : this.extract(base, i)));
      return type.kind === "vec" ? this.vector(type, parts) : this.op("construct", type, parts);
    }
    return this.op("insert", type, [base, part], { at });
  }

  insertAt(base: Value, index: Value, part: Value): Value {
    const known = numberOf(index);
    if (known !== undefined) return this.insert(base, known, part);
    return this.op("insertAt", base.type, [base, index, part]);
  }

  if(cond: Value, then: Region, otherwise: Region): IfNode {
    const node: IfNode = { kind: "if", cond, then, else: otherwise, results: [] };
    then.yields.forEach((value, at) => {
      const other = otherwise.yields[at]!;
      const type = isZero(value) || value.type.text === "float" ? other.type : value.type;
      node.results.push(this.result(node, at, type));
    });
    this.region.items.push(node);
    return node;
  }

  /** What an `if` hands on as number `at`: a plain value where both branches agree. */
  merged(node: IfNode, at: number): Value {
    const [a, b] = [node.then.yields[at]!, node.else.yields[at]!];
    if (a === b) return a;
    if (boolOf(a) === true && boolOf(b) === false) return node.cond;
    if (boolOf(a) === false && boolOf(b) === true) return this.not(node.cond);
    return node.results[at]!;
  }

  loop(count: number, reversed: boolean, name: string): ForNode {
    const body = new Region(this.region, true);
    const index = newValue("index", scalar("i32"));
    index.region = body;
    index.hint = name;
    const node: ForNode = { kind: "for", count, reversed, index, inits: [], body, results: [] };
    this.region.items.push(node);
    return node;
  }

  /** Adds a value that the loop carries; its yield is added by the caller. */
  carry(node: ForNode, init: Value, hint: string | undefined): Value {
    const param = newValue("param", init.type);
    param.region = node.body;
    if (hint) param.hint = hint;
    const result = this.result(node, node.results.length, init.type);
    if (hint) result.hint = hint;
    result.region = node.body.parent!;
    node.inits.push(init);
    node.body.params.push(param);
    node.results.push(result);
    return param;
  }

  private result(node: Node, at: number, type: Type): Value {
    const value = newValue("result", type, [], { at, node });
    value.region = this.region;
    return value;
  }
}

const negatedOf = (value: Value): Value | undefined =>
  value.op === "unary" && value.text === "-" ? value.args[0] : undefined;

/** A literal factor that stands first, and the rest. */
function scaleOf(value: Value): [number, Value] {
  const [a, b] = value.args;
  if (value.op !== "binary" || value.text !== "*" || a!.op !== "const" || b!.op === "const") return [1, value];
  return a!.type.kind === "scalar" && sameType(value.type, b!.type) ? [numberOf(a!) ?? 1, b!] : [1, value];
}

export function partType(type: Type, at: number): Type {
  if (type.kind === "struct") return type.members[at]!.type;
  if (type.kind === "array") return type.item;
  if (type.kind === "vec") return scalar(type.of);
  throw new Error(`a ${type.text} has no parts`);
}

/** The type of an arithmetic operation on two operands. */
export function wider(a: Type, b: Type): Type {
  const [x, y] = [elementOf(a)!, elementOf(b)!];
  const of = x === "int" ? y : x === "float" ? (y === "int" ? x : y) : x;
  const size = a.kind === "vec" ? a.size : b.kind === "vec" ? b.size : 0;
  return size ? vec(size, of) : scalar(of);
}

/** The value of an integer expression of constants; undefined otherwise. */
export const integerOf = (value: Value): number | undefined =>
  isInteger(value.type) && value.type.kind === "scalar" ? numberOf(value) : undefined;
