/** Values as WGSL text: what is needed, each once, under a name that says what it is. */
import { builtinNames } from "./builtins.ts";
import type { Derived } from "./derive.ts";
import { type ForNode, type IfNode, type Item, isNode, type Region, rowPrimitives, type Value } from "./ir.ts";
import { bytesOf, elementOf, isAbstract, type Type } from "./types.ts";

/** Binding strength of a text: a name or call, a unary, *, +, <<, ==, &, ^, |, &&, ||. */
// biome-ignore format: a table
const strengths: Record<string, number> = {
  "*": 8, "/": 8, "%": 8, "+": 7, "-": 7, "<<": 6, ">>": 6, "==": 5, "!=": 5, "<": 5, ">": 5, "<=": 5, ">=": 5,
  "&": 4, "^": 3, "|": 2, "&&": 1, "||": 0,
};
const primary = 10;
const unary = 9;

interface Text {
  readonly text: string;
  readonly strength: number;
}

interface Use {
  readonly region: Region;
  /** null for a region's yield or the function's result. */
  readonly by: Item | null;
}

/** An expression longer than this gets a name, if it is an operand of another. */
const longest = 56;

/** What WGSL allows all variables of a function, in bytes. */
const mostBytes = 8192;

export class Printer {
  private readonly live = new Set<Value>();
  private readonly uses = new Map<Value, Use[]>();
  private readonly texts = new Map<Value, Text>();
  /** Values that stand in a variable or let of their own. */
  private readonly names = new Map<Value, string>();
  /** Values in a `var` that nothing else refers to. */
  private readonly owned = new Set<Value>();
  /** The node that each inner region belongs to. */
  private readonly owners = new Map<Region, Item>();
  private readonly taken: Set<string>;
  private lines: string[] = [];
  private indent = "  ";
  private bytes = 0;
  private readonly derived: Derived;
  private readonly fail: (reason: string) => never;

  /** `reserved`: the names that the module declares. */
  constructor(derived: Derived, reserved: ReadonlySet<string>, fail: (reason: string) => never) {
    this.derived = derived;
    this.fail = fail;
    this.taken = new Set([...reserved, ...builtinNames, ...rowPrimitives, ...words]);
  }

  print(name: string, type: Type): string {
    const { params, body, result } = this.derived;
    // The primitives of a row are called however little is used of them: all or none of a row's elements take part.
    this.mark(result);
    this.count(body);
    this.use(result, body, null);
    const list = params.map((param) => {
      const own = this.unique(param.hint!);
      this.names.set(param, own);
      return `${own}: ${param.type.text}`;
    });
    this.tail(body, result);
    return `fn ${name}(${list.join(", ")}) -> ${type.text} {\n${this.lines.join("\n")}\n}\n`;
  }

  // What is needed --------------------------------------------------------------------------------

  /** The value that stands for `value`: a loop may carry what never changes. */
  private resolve(value: Value): Value {
    for (let at = value; ; ) {
      const { node } = at;
      if (node?.kind === "for" && node.body.yields[at.at] === node.body.params[at.at]) at = node.inits[at.at]!;
      else if (at.op === "param" && at.region?.loop) {
        const loop = loopOf(at);
        const i = loop.body.params.indexOf(at);
        if (loop.body.yields[i] !== at) return at;
        at = loop.inits[i]!;
      } else return at;
    }
  }

  private mark(value: Value): void {
    const needed = [value];
    for (let at = needed.pop(); at; at = needed.pop()) {
      const real = this.resolve(at);
      if (this.live.has(real)) continue;
      this.live.add(real);
      needed.push(...real.args);
      const { node } = real;
      if (node?.kind === "if") needed.push(node.cond, node.then.yields[real.at]!, node.else.yields[real.at]!);
      const loop = node?.kind === "for" ? node : real.op === "param" && real.region?.loop ? loopOf(real) : null;
      if (loop) {
        const i = node ? real.at : loop.body.params.indexOf(real);
        needed.push(loop.inits[i]!, loop.body.yields[i]!, loop.body.params[i]!, loop.results[i]!);
      }
    }
  }

  private isLive(item: Item): boolean {
    return isNode(item)
      ? item.results.some((result) => this.live.has(result) && this.resolve(result) === result)
      : this.live.has(item);
  }

  private liveResults(node: IfNode | ForNode): number[] {
    return node.results.flatMap((result, i) => (this.live.has(result) && this.resolve(result) === result ? [i] : []));
  }

  private use(value: Value, region: Region, by: Item | null): void {
    const real = this.resolve(value);
    const list = this.uses.get(real);
    if (list) list.push({ region, by });
    else this.uses.set(real, [{ region, by }]);
  }

  private count(region: Region): void {
    for (const item of region.items) {
      if (!this.isLive(item)) continue;
      if (!isNode(item)) {
        for (const arg of item.args) this.use(arg, region, item);
        continue;
      }
      const results = this.liveResults(item);
      const inner = item.kind === "if" ? [item.then, item.else] : [item.body];
      if (item.kind === "if") this.use(item.cond, region, item);
      else for (const i of results) this.use(item.inits[i]!, region, item);
      for (const part of inner) {
        this.owners.set(part, item);
        this.count(part);
        for (const i of results) this.use(part.yields[i]!, part, null);
      }
    }
  }

  private usesOf(value: Value): readonly Use[] {
    return this.uses.get(value) ?? [];
  }

  // Names -----------------------------------------------------------------------------------------

  private unique(hint: string): string {
    const clean = /^_*$/.test(hint) ? "value" : hint.replace(/^__+/, "_");
    const stem = clean.replace(/(?<=\D)\d+$/, "");
    let name = clean;
    for (let i = 2; this.taken.has(name); i++) name = `${stem}${i}`;
    this.taken.add(name);
    return name;
  }

  private nameFor(value: Value): string {
    return this.unique(value.hint ?? describe(value, (arg) => this.names.get(this.resolve(arg))));
  }

  // Expressions -----------------------------------------------------------------------------------

  private text(value: Value): Text {
    const real = this.resolve(value);
    const name = this.names.get(real);
    if (name) return { text: name, strength: primary };
    const known = this.texts.get(real);
    if (known) return known;
    if (real.op === "const") return literal(real);
    if (real.op === "zero") return { text: zeroOf(real.type), strength: primary };
    if (real.op === "global") return { text: real.text, strength: primary };
    throw new Error(`autodiff: ${real.op} ${real.text} is printed before it is computed`);
  }

  private operand(value: Value, least: number): string {
    const { text, strength } = this.text(value);
    return strength < least ? `(${text})` : text;
  }

  private expression(value: Value): Text {
    const [a, b] = value.args as [Value, Value];
    const call = (name: string): Text => ({ text: `${name}(${this.list(value.args)})`, strength: primary });
    switch (value.op) {
      case "unary": {
        const inner = this.operand(a, unary);
        return { text: `${value.text}${inner.startsWith(value.text) ? `(${inner})` : inner}`, strength: unary };
      }
      case "binary": {
        const strength = strengths[value.text]!;
        if (strength >= 7) {
          return { text: `${this.operand(a, strength)} ${value.text} ${this.operand(b, strength + 1)}`, strength };
        }
        const least = strength === 5 ? 7 : strength <= 1 ? 5 : unary;
        const left = this.text(a);
        const chained = left.strength === strength && strength !== 5 && strength !== 6;
        return {
          text: `${chained ? left.text : this.operand(a, least)} ${value.text} ${this.operand(b, least)}`,
          strength,
        };
      }
      case "call":
        return call(value.text);
      case "bitcast":
        return call(`bitcast<${value.type.text}>`);
      case "construct":
        return call(value.type.text.trim());
      case "extract": {
        const { type } = a;
        const base = this.operand(a, primary);
        if (type.kind === "struct") return { text: `${base}.${type.members[value.at]!.name}`, strength: primary };
        const text = type.kind === "vec" ? `${base}.${"xyzw"[value.at]}` : `${base}[${value.at}]`;
        return { text, strength: primary };
      }
      case "swizzle":
        return { text: `${this.operand(a, primary)}.${value.text}`, strength: primary };
      case "extractAt":
        return { text: `${this.operand(a, primary)}[${this.text(b).text}]`, strength: primary };
      default:
        throw new Error(`autodiff: ${value.op} is no expression`);
    }
  }

  private list(args: readonly Value[]): string {
    return args.map((arg) => this.text(arg).text).join(", ");
  }

  // Statements ------------------------------------------------------------------------------------

  private line(text: string): void {
    this.lines.push(this.indent + text);
  }

  /** A block; the names declared in it are free again after it. */
  private nested(print: () => void): void {
    const { indent } = this;
    const outside = new Set(this.taken);
    this.indent += "  ";
    print();
    this.indent = indent;
    for (const name of this.taken) if (!outside.has(name)) this.taken.delete(name);
  }

  private items(items: readonly Item[]): void {
    for (const item of items) {
      if (!this.isLive(item)) continue;
      if (!isNode(item)) this.value(item);
      else if (item.kind === "if") this.if(item);
      else this.for(item);
    }
  }

  private value(value: Value): void {
    if (value.op === "insert" || value.op === "insertAt") {
      this.insert(value);
      return;
    }
    const made = this.expression(value);
    if (this.inlines(value, made.text)) this.texts.set(value, made);
    else {
      if (value.type.kind === "array") this.reserve(value.type);
      const name = this.nameFor(value);
      // a let would make an f32 of an abstract number
      this.line(`${isAbstract(value.type) ? "const" : "let"} ${name} = ${made.text};`);
      this.names.set(value, name);
    }
  }

  private inlines(value: Value, text: string): boolean {
    const [base] = value.args;
    const plain =
      value.op === "extract" || value.op === "swizzle" || (value.op === "construct" && base?.op === "index");
    if (plain && !value.kept && this.names.has(this.resolve(base!)) && !this.owned.has(this.resolve(base!)))
      return true;
    const uses = this.usesOf(value);
    if (uses.length !== 1) return false;
    const [{ region, by }] = uses as [Use];
    if (value.kept && by !== null) return false;
    for (let at: Region | null = region; at && at !== value.region; at = at.parent) if (at.loop) return false;
    if (value.op === "call" && rowPrimitives.has(value.text) && region !== value.region) return false;
    if (by === null) return true;
    if (isNode(by)) return text.length <= 100;
    if (value.hint && text.length > 32) return false;
    // before a later > it could be read as the start of a template list
    if (text.includes(" < ")) return false;
    return text.length <= longest;
  }

  private insert(value: Value): void {
    const [base] = value.args as [Value];
    const part = value.args.at(-1)!;
    const at = value.op === "insert" ? `${value.at}` : this.text(value.args[1]!).text;
    const real = this.resolve(base);
    const place = value.type.kind === "struct" ? `.${value.type.members[value.at]!.name}` : `[${at}]`;
    let name = this.names.get(real);
    if (!name || !this.changeable(real, value, value.region!)) {
      const fresh = this.nameFor(value);
      this.reserve(value.type);
      this.line(`var ${fresh} = ${this.text(base).text};`);
      name = fresh;
    }
    const target = `${name}${place}`;
    const { text } = this.text(part);
    const added = text.startsWith(`${target} + `) && this.resolve(part).text === "+";
    this.line(added ? `${target} += ${text.slice(target.length + 3)};` : `${target} = ${text};`);
    this.names.set(value, name);
    this.owned.add(value);
  }

  /** Whether `variable` may change at `item`, but for what `item` itself takes from it: nothing reads it any later. */
  private changeable(variable: Value, item: Item, region: Region): boolean {
    if (!this.owned.has(variable) || variable.region !== region) return false;
    const last = region.items.indexOf(item);
    const settled = (value: Value): boolean =>
      this.usesOf(value).every(({ by, region: where }) => {
        let at: Item | null = by;
        let inside = where;
        while (inside !== region) {
          const owner = this.owners.get(inside);
          if (!owner) return false;
          at = owner;
          inside = inside.parent!;
        }
        if (at === null || region.items.indexOf(at) > last) return false;
        // an expression that is not printed yet reads what stands there when it is
        return at === item || by === null || isNode(by) || this.names.has(by) || settled(by);
      });
    return settled(variable);
  }

  private reserve(type: Type): void {
    this.bytes += bytesOf(type);
    if (this.bytes > mostBytes) {
      this.fail(
        `its loops would store more than ${mostBytes} bytes, all that WGSL allows a function's variables; use fewer steps`,
      );
    }
  }

  private if(node: IfNode): void {
    const results = this.liveResults(node);
    const empty = (region: Region): boolean => !region.items.some((item) => this.isLive(item));
    const lone = empty(node.else) ? node.else : empty(node.then) ? node.then : null;
    const reused = new Set<number>();
    const reusedNames = new Set<string>();
    const names = results.map((i) => {
      const result = node.results[i]!;
      const start = lone && this.resolve(lone.yields[i]!);
      const old = start && this.names.get(start);
      if (old && !reusedNames.has(old) && this.changeable(start, node, result.region!)) {
        reused.add(i);
        reusedNames.add(old);
        return old;
      }
      const name = this.nameFor(result);
      if (result.type.kind === "array") this.reserve(result.type);
      return name;
    });
    results.forEach((i, k) => {
      if (reused.has(i)) return;
      const result = node.results[i]!;
      const typed = `var ${names[k]}: ${concreteName(result.type)}`;
      if (!lone) this.line(`${typed};`);
      else {
        const start = this.resolve(lone.yields[i]!);
        this.line(`${isAbstract(start.type) ? typed : `var ${names[k]}`} = ${this.text(start).text};`);
      }
    });
    const cond = this.text(node.cond);
    const branch = (region: Region): void => {
      this.nested(() => {
        this.items(region.items);
        this.assignments(
          results.flatMap((i, k) => {
            if (lone && this.resolve(region.yields[i]!) === this.resolve(lone.yields[i]!)) return [];
            return [{ name: names[k]!, value: region.yields[i]!, self: lone?.yields[i] }];
          }),
        );
      });
    };
    if (lone === node.then) {
      this.line(`if (${inverse(cond)}) {`);
      branch(node.else);
    } else {
      this.line(`if (${cond.text}) {`);
      branch(node.then);
      if (!lone) {
        this.line("} else {");
        branch(node.else);
      }
    }
    this.line("}");
    results.forEach((i, k) => {
      this.names.set(node.results[i]!, names[k]!);
      this.owned.add(node.results[i]!);
    });
  }

  private for(node: ForNode): void {
    const { body, inits } = node;
    const results = this.liveResults(node);
    const names = results.map((i) => {
      const init = this.resolve(inits[i]!);
      const { type } = body.params[i]!;
      const old = this.names.get(init);
      if (old && this.owned.has(init) && this.usesOf(init).length === 1 && init.region === body.parent) return old;
      const name = this.nameFor(body.params[i]!);
      if (type.kind === "array") this.reserve(type);
      const abstract = isAbstract(init.type);
      this.line(`var ${name}${abstract ? `: ${concreteName(type)}` : ""} = ${this.text(init).text};`);
      return name;
    });
    results.forEach((i, k) => {
      this.names.set(body.params[i]!, names[k]!);
      this.owned.add(body.params[i]!);
    });
    const index = this.unique(node.index.hint!);
    this.names.set(node.index, index);
    const last = node.count - 1;
    this.line(
      node.reversed
        ? `for (var ${index} = ${last}; ${index} >= 0; ${index}--) {`
        : `for (var ${index} = 0; ${index} < ${node.count}; ${index}++) {`,
    );
    this.nested(() => {
      this.items(body.items);
      this.assignments(results.map((i, k) => ({ name: names[k]!, value: body.yields[i]!, self: body.params[i]! })));
    });
    this.line("}");
    this.taken.delete(index);
    results.forEach((i, k) => {
      this.names.set(node.results[i]!, names[k]!);
      this.owned.add(node.results[i]!);
    });
  }

  /** Assigns all at once: what reads a variable comes before what changes it. */
  private assignments(list: readonly { name: string; value: Value; self: Value | undefined }[]): void {
    let open = list.filter(({ name, value }) => this.names.get(this.resolve(value)) !== name);
    const reads = (value: Value, name: string): boolean => new RegExp(`\\b${name}\\b`).test(this.text(value).text);
    while (open.length > 0) {
      const ready = open.find((a) => open.every((b) => a === b || !reads(b.value, a.name)));
      if (!ready) {
        const [first] = open as [(typeof open)[0]];
        const real = this.resolve(first.value);
        const name = this.unique(`next${first.name[0]!.toUpperCase()}${first.name.slice(1)}`);
        this.line(`let ${name} = ${this.text(real).text};`);
        this.texts.delete(real);
        this.names.set(real, name);
        continue;
      }
      open = open.filter((other) => other !== ready);
      const { text } = this.text(ready.value);
      const real = this.resolve(ready.value);
      const self = ready.self && this.resolve(ready.self);
      const operator = real.text;
      const own = self && this.texts.has(real) && real.op === "binary" && this.resolve(real.args[0]!) === self;
      if (own && ["+", "-", "*", "/"].includes(operator)) {
        this.line(`${ready.name} ${operator}= ${this.operand(real.args[1]!, 0)};`);
      } else if (text !== ready.name) this.line(`${ready.name} = ${text};`);
    }
  }

  /** The end of the function: an `if` that only decides the result returns from its branches. */
  private tail(region: Region, result: Value): void {
    const items = region.items.filter((item) => this.isLive(item));
    const last = items.at(-1);
    const value = this.resolve(result);
    const decides =
      last &&
      isNode(last) &&
      last.kind === "if" &&
      value.node === last &&
      this.liveResults(last).length === 1 &&
      this.usesOf(value).length === 1;
    if (decides) {
      this.items(items.slice(0, -1));
      const [a, b] = [last.then.yields[value.at]!, last.else.yields[value.at]!];
      this.line(`if (${this.text(last.cond).text}) {`);
      this.nested(() => this.tail(last.then, a));
      this.line("}");
      this.tail(last.else, b);
      return;
    }
    this.items(items);
    this.line(`return ${this.text(value).text};`);
  }
}

function loopOf(param: Value): ForNode {
  for (const item of param.region!.parent!.items) {
    if (isNode(item) && item.kind === "for" && item.body === param.region) return item;
  }
  throw new Error("autodiff: a loop is not where its variables are");
}

const inverse = ({ text, strength }: Text): string => {
  if (text.startsWith("!") && strength === unary) return text.slice(1).replace(/^\((.*)\)$/, "$1");
  return strength < unary ? `!(${text})` : `!${text}`;
};

const concreteName = (type: Type): string => (type.text === "float" ? "f32" : type.text === "int" ? "i32" : type.text);

function literal({ text, type }: Value): Text {
  const strength = text.startsWith("-") ? unary : primary;
  const of = elementOf(type);
  const whole = /^-?\d+$/.test(text);
  if (of === "u32") return { text: `${text}u`, strength };
  if (of === "f16") return { text: `${text}${whole ? ".0" : ""}h`, strength };
  return { text: (of === "f32" || of === "float") && whole ? `${text}.0` : text, strength };
}

function zeroOf(type: Type): string {
  if (type.kind !== "scalar") return `${type.text.trim()}()`;
  if (type.of === "bool") return "false";
  return { u32: "0u", i32: "0", int: "0", f16: "0.0h" }[type.of as string] ?? "0.0";
}

// biome-ignore format: a table
const operations: Record<string, string> = {
  "+": "sum", "-": "difference", "*": "product", "/": "ratio", "%": "rest", "<": "isLess", ">": "isGreater",
  "<=": "isAtMost", ">=": "isAtLeast", "==": "isEqual", "!=": "differs", "&&": "both", "||": "either",
};

const calls: Record<string, string> = { select: "chosen", inverseSqrt: "rsqrt", length: "size", sign: "signed" };

/** A name for a value that has none: expX for exp(x). */
function describe(value: Value, nameOf: (value: Value) => string | undefined): string {
  const { op, text } = value;
  if (op === "binary") return operations[text] ?? "value";
  if (op === "unary") return text === "-" ? "negated" : "isNot";
  if (op === "call" && value.args.length === 1) {
    const arg = nameOf(value.args[0]!);
    if (arg) return `${text}${arg[0]!.toUpperCase()}${arg.slice(1)}`;
  }
  if (op === "call") return `${calls[text] ?? text}Value`.replace(/^chosenValue$/, "chosen");
  if (op === "extract" || op === "extractAt") return `${nameOf(value.args[0]!) ?? "value"}Part`;
  if (value.type.kind === "vec") return "vector";
  return value.type.kind === "array" ? "values" : "value";
}

/** WGSL's keywords and reserved words that a name made here could hit. */
const words =
  "alias break case const const_assert continue continuing default diagnostic discard else enable false fn for if let loop override requires return struct switch true var while array atomic bool f32 f16 i32 u32 mat2x2 ptr sampler vec2 vec3 vec4 active auto catch class common default delete do enum explicit export extends extern external filter final finally friend from get global goto handle highp impl implements import inline interface layout lowp macro match mediump meta mod module move mut namespace new nil noexcept null of operator package packed partial pass patch precise precision premerge priv protected pub public readonly ref register regardless require resource self set shared sizeof smooth snorm static std subroutine super target template this thread throw trait try type typedef typeid typename typeof union unless unorm unsafe unsized use using varying virtual volatile wgsl where with writeonly yield".split(
    " ",
  );
