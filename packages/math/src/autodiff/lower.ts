/** From the parsed text of a function to its values: names resolved, types found, variables, calls and returns gone. */
import type {
  BinaryExpression,
  BlockElem,
  ExpressionElem,
  ForElem,
  FunctionCallExpression,
  IfElem,
  Statement,
  SwitchElem,
  TypeRefElem,
} from "wesl/core";
import {
  builtinNames,
  definitions,
  floatBuiltins,
  integerBuiltins,
  numericBuiltins,
  refusal,
  vectorBuiltins,
} from "./builtins.ts";
import {
  Builder,
  boolOf,
  type Fn,
  integerOf,
  newValue,
  partType,
  Region,
  rowPrimitives,
  type Value,
  wider,
} from "./ir.ts";
import { byPrecedence, type Place, parse, type Source } from "./source.ts";
import {
  array,
  concrete,
  converts,
  elementOf,
  isAbstract,
  isBool,
  isFloat,
  isInteger,
  namedType,
  type ScalarName,
  sameType,
  scalar,
  type Type,
  vec,
  withElement,
} from "./types.ts";

interface Binding {
  readonly name: string;
  readonly assignable: boolean;
  readonly type: Type;
}

/** Where `return`, `break` and `continue` leave their mark. */
interface Frame {
  readonly name: string;
  readonly type: Type;
  readonly done: Binding;
  readonly ret: Binding;
  readonly breaks: Binding[];
  readonly continues: Binding[];
}

type Step = { readonly at: number } | { readonly swizzle: string } | { readonly index: Value };

const flag = (name: string): Binding => ({ name, assignable: true, type: scalar("bool") });

/** The most steps of a loop. */
const mostSteps = 65536;

const swizzles = /^([xyzw]{1,4}|[rgba]{1,4})$/;

export class Lowering {
  readonly source: Source;
  private readonly structs = new Map<string, Type>();
  private readonly constants = new Map<string, Value>();
  private readonly calls: string[] = [];
  private readonly builder: Builder = new Builder(new Region(null));
  private scopes: Map<string, Binding>[] = [];
  private state = new Map<Binding, Value>();
  private frame!: Frame;
  /** Integers made from the bits of a float parameter: back as a float, they would hide a gradient. */
  private readonly bits = new Set<Value>();
  private branches = 0;
  /** Whether the function works across a row. */
  usesRows = false;

  constructor(source: Source) {
    this.source = source;
    for (const [name, declaration] of [...source.fns, ...source.structs, ...source.consts, ...source.aliases]) {
      if (builtinNames.has(name) || rowPrimitives.has(name) || refusal(name)) {
        this.fail(declaration, `${name} hides the builtin of that name`);
      }
    }
  }

  private fail(place: Place, reason: string): never {
    return this.source.fail(place, reason);
  }

  lower(name: string): Fn {
    const declaration = this.source.fns.get(name)!;
    const params = declaration.params.map((param) => {
      const value = newValue("param", this.type(param.name.typeRef!), [], { text: param.name.decl.ident.originalName });
      value.region = this.builder.region;
      value.hint = value.text;
      return value;
    });
    const result = this.inline(name, params, declaration);
    return { name, params, body: this.builder.region, result };
  }

  // Types ---------------------------------------------------------------------------------------

  private type(elem: TypeRefElem | ExpressionElem): Type {
    const name = elem.kind === "type" ? this.refName(elem) : elem.kind === "ref" ? elem.ident.originalName : "";
    const template = elem.kind === "type" ? (elem.templateParams ?? []) : [];
    if (template.length === 0) {
      const known = namedType(name) ?? this.declaredType(name);
      if (known) return known;
    }
    const size = /^vec([234])$/.exec(name)?.[1];
    if (size && template.length === 1) {
      const item = this.type(template[0]!);
      if (item.kind !== "scalar") this.fail(elem, `${name} of ${item.text}`);
      return vec(Number(size), (item as { of: ScalarName }).of);
    }
    if (name === "array" && template.length > 0) {
      if (template.length < 2) this.fail(elem, "an array without a size");
      const count = integerOf(this.expression(template[1]!));
      if (count === undefined || count < 1) this.fail(elem, "an array whose size is not a constant");
      return array(this.type(template[0]!), count as number);
    }
    if (name === "ptr") this.fail(elem, "a pointer; pass and return values");
    if (name === "atomic") this.fail(elem, "an atomic, a side effect");
    if (/^mat[234]x[234]/.test(name)) this.fail(elem, "a matrix; use vectors");
    if (/^(texture|sampler)/.test(name)) this.fail(elem, `${name}: a pure function has no textures`);
    return this.fail(elem, `unknown type ${name}`);
  }

  private refName(elem: TypeRefElem): string {
    return elem.name.originalName;
  }

  private declaredType(name: string): Type | undefined {
    const alias = this.source.aliases.get(name);
    if (alias) return this.type(alias);
    const known = this.structs.get(name);
    if (known) return known;
    const declaration = this.source.structs.get(name);
    if (!declaration) return undefined;
    if (this.calls.includes(`struct ${name}`)) this.fail(declaration, `struct ${name} contains itself`);
    this.calls.push(`struct ${name}`);
    const members = declaration.members.map((member) => ({ name: member.name.name, type: this.type(member.typeRef) }));
    this.calls.pop();
    const type: Type = { kind: "struct", members, text: name };
    this.structs.set(name, type);
    return type;
  }

  // Functions -----------------------------------------------------------------------------------

  /** The value that the function returns for these arguments. */
  private inline(name: string, args: readonly Value[], place: Place): Value {
    const declaration = this.source.fns.get(name)!;
    if (this.calls.includes(name)) this.fail(place, `recursion: ${[...this.calls, name].join(" calls ")}`);
    if (!declaration.returnType) this.fail(declaration, `${name} returns nothing; a pure function returns its result`);
    const type = this.type(declaration.returnType!);
    if (args.length !== declaration.params.length) {
      this.fail(place, `${name} takes ${declaration.params.length} arguments, got ${args.length}`);
    }
    const statements = declaration.body.body;
    if (!alwaysReturns(statements)) this.fail(declaration, `${name}: not every path ends in a return`);
    const outer = { scopes: this.scopes, frame: this.frame };
    this.calls.push(name);
    this.frame = {
      name,
      type,
      done: flag("returned"),
      ret: { name: this.calls.length > 1 ? `${name}Value` : "result", assignable: true, type },
      breaks: [],
      continues: [],
    };
    this.scopes = [new Map()];
    declaration.params.forEach((param, i) => {
      const expected = this.type(param.name.typeRef!);
      const value = this.coerce(args[i]!, expected, place, `argument ${i + 1} of ${name}`);
      this.bind(param.name.decl.ident.originalName, value, false);
    });
    this.state.set(this.frame.done, this.builder.const(false, scalar("bool")));
    this.state.set(this.frame.ret, this.builder.zero(type));
    this.sequence(statements);
    const result = this.state.get(this.frame.ret)!;
    ({ scopes: this.scopes, frame: this.frame } = outer);
    this.calls.pop();
    return result;
  }

  private bind(name: string, value: Value, assignable: boolean, type = value.type): void {
    const binding: Binding = { name, assignable, type };
    this.scopes.at(-1)!.set(name, binding);
    this.state.set(binding, value);
  }

  private lookup(name: string): Binding | undefined {
    for (let i = this.scopes.length - 1; i >= 0; i--) {
      const binding = this.scopes[i]!.get(name);
      if (binding) return binding;
    }
    return undefined;
  }

  // Statements ----------------------------------------------------------------------------------

  /** Whether what follows is skipped: a return, break or continue came before. */
  private exited(): Value {
    const { done, breaks, continues } = this.frame;
    return [done, breaks.at(-1), continues.at(-1)]
      .flatMap((binding) => (binding ? [this.state.get(binding)!] : []))
      .reduce((a, b) => this.builder.or(a, b));
  }

  private block({ body }: BlockElem): void {
    this.scopes.push(new Map());
    this.sequence(body);
    this.scopes.pop();
  }

  private sequence(statements: readonly Statement[]): void {
    for (const [i, statement] of statements.entries()) {
      if (boolOf(this.exited()) === true) return;
      const rest = statements.slice(i + 1);
      if (statement.kind === "if" && mayExit([statement])) {
        // the rest belongs to the branch that goes on
        const then = alwaysExits(statement.body.body);
        const otherwise = statement.else ? alwaysExits([statement.else]) : false;
        if (then || otherwise) {
          this.if(statement, rest);
          return;
        }
      }
      this.statement(statement);
      if (mayExit([statement])) {
        this.continueWith(rest);
        return;
      }
    }
  }

  /** The statements that run unless control has left. */
  private continueWith(rest: readonly Statement[]): void {
    const exited = this.exited();
    const known = boolOf(exited);
    if (known === true || rest.length === 0) return;
    if (known === false) {
      this.sequence(rest);
      return;
    }
    this.fork(
      this.builder.not(exited),
      () => {
        const { done, breaks, continues } = this.frame;
        for (const flag of [done, breaks.at(-1), continues.at(-1)]) {
          if (flag) this.state.set(flag, this.builder.const(false, scalar("bool")));
        }
        this.sequence(rest);
      },
      () => {},
    );
  }

  private fork(cond: Value, then: () => void, otherwise: () => void): void {
    const known = boolOf(cond);
    if (known !== undefined) {
      (known ? then : otherwise)();
      return;
    }
    const before = this.state;
    const branch = (build: () => void): { region: Region; state: Map<Binding, Value> } => {
      const region = new Region(this.builder.region);
      const scopes = this.scopes.map((scope) => new Map(scope));
      const saved = this.scopes;
      this.scopes = scopes;
      this.state = new Map(before);
      this.branches++;
      this.builder.within(region, build);
      this.branches--;
      this.scopes = saved;
      const state = this.state;
      this.state = before;
      return { region, state };
    };
    const [a, b] = [branch(then), branch(otherwise)];
    const changed = [...before.keys()].filter(
      (binding) => a.state.get(binding) !== before.get(binding) || b.state.get(binding) !== before.get(binding),
    );
    a.region.yields = changed.map((binding) => a.state.get(binding)!);
    b.region.yields = changed.map((binding) => b.state.get(binding)!);
    const node = this.builder.if(cond, a.region, b.region);
    changed.forEach((binding, at) => {
      const value = this.builder.merged(node, at);
      if (value.op === "result") value.hint ??= binding.name;
      if (this.bits.has(node.then.yields[at]!) || this.bits.has(node.else.yields[at]!)) this.bits.add(value);
      this.state.set(binding, value);
    });
  }

  private if(statement: IfElem, rest: readonly Statement[] = []): void {
    const cond = this.condition(statement.condition);
    this.fork(
      cond,
      () => {
        this.block(statement.body);
        this.continueWith(rest);
      },
      () => {
        if (statement.else?.kind === "if") this.sequence([statement.else]);
        else if (statement.else) this.block(statement.else);
        this.continueWith(rest);
      },
    );
  }

  private condition(elem: ExpressionElem): Value {
    const cond = this.expression(elem);
    if (cond.type.text !== "bool") this.fail(elem, `a condition of type ${typeName(cond.type)}, expected bool`);
    return cond;
  }

  private statement(statement: Statement): void {
    switch (statement.kind) {
      case "block":
        this.block(statement);
        return;
      case "let":
      case "var":
      case "const": {
        if (statement.kind === "var" && statement.template?.length && statement.template[0]?.name !== "function") {
          this.fail(statement, `var<${statement.template[0]?.name}>; a pure function has variables of its own only`);
        }
        const name = statement.name.decl.ident.originalName;
        const type = statement.name.typeRef && this.type(statement.name.typeRef);
        if (!statement.init && !type) this.fail(statement, `${name} has neither a type nor a value`);
        let value = statement.init ? this.expression(statement.init) : this.builder.zero(type!);
        if (type) value = this.coerce(value, type, statement.init ?? statement, name);
        else if (statement.kind !== "const") value = this.settle(value);
        this.name(value, name);
        this.bind(name, value, statement.kind === "var");
        return;
      }
      case "assign": {
        if (statement.lhs.kind === "phony") {
          this.expression(statement.rhs);
          return;
        }
        const operator = statement.op.value.slice(0, -1);
        this.assign(statement.lhs, (old) => {
          const right = this.expression(statement.rhs);
          return operator ? this.binary(operator, old(), right, statement) : right;
        });
        return;
      }
      case "increment":
      case "decrement":
        this.assign(statement.target, (old) => {
          const value = old();
          if (!isInteger(value.type)) this.fail(statement, `${statement.kind} of a ${typeName(value.type)}`);
          const one = this.builder.const(1, value.type);
          return this.binary(statement.kind === "increment" ? "+" : "-", value, one, statement);
        });
        return;
      case "if":
        this.if(statement);
        return;
      case "for":
        this.for(statement);
        return;
      case "switch":
        this.switch(statement);
        return;
      case "return": {
        if (!statement.value) this.fail(statement, `${this.frame.name} returns nothing here`);
        const value = this.coerce(this.expression(statement.value!), this.frame.type, statement, "the result");
        this.state.set(this.frame.ret, value);
        this.state.set(this.frame.done, this.builder.const(true, scalar("bool")));
        return;
      }
      case "break":
      case "continue": {
        const flag = (statement.kind === "break" ? this.frame.breaks : this.frame.continues).at(-1);
        if (!flag) this.fail(statement, `${statement.kind} outside a loop`);
        this.state.set(flag!, this.builder.const(true, scalar("bool")));
        return;
      }
      case "empty":
      case "assert":
        return;
      case "while":
      case "loop":
        this.fail(statement, `${statement.kind}: the number of its steps is not known; use for with constant bounds`);
        break;
      case "discard":
        this.fail(statement, "discard is a side effect");
        break;
      case "call":
        this.expression(statement.call);
        return;
      default:
        this.fail(statement, `${statement.kind} is not supported`);
    }
  }

  /** Prints `value` under the author's name for it. */
  private name(value: Value, name: string): void {
    if (value.op === "const" || value.op === "zero" || value.op === "global" || value.hint || isAbstract(value.type))
      return;
    value.hint = name;
    value.kept = true;
  }

  private assign(target: ExpressionElem, value: (old: () => Value) => Value): void {
    const path: Step[] = [];
    const types: Type[] = [];
    const binding = this.target(target, path, types);
    const base = this.state.get(binding)!;
    const type = types.at(-1)!;
    const made = value(() => path.reduce<Value>((whole, step) => this.part(whole, step, target), base));
    const part = this.coerce(made, type, target, "the assigned value");
    const whole = this.replaced(this.state.get(binding)!, path, part, target);
    this.name(whole, binding.name);
    this.state.set(binding, whole);
  }

  private target(elem: ExpressionElem, path: Step[], types: Type[]): Binding {
    switch (elem.kind) {
      case "parenthesized-expression":
        return this.target(elem.expression, path, types);
      case "ref": {
        const { originalName } = elem.ident;
        const binding = this.lookup(originalName);
        if (!binding) {
          const known = this.source.names.has(originalName);
          this.fail(
            elem,
            known ? `writes to ${originalName}, which is no variable of its own` : `unknown name ${originalName}`,
          );
        }
        if (!binding!.assignable) this.fail(elem, `${originalName} is not a variable; use var`);
        types.push(binding!.type);
        return binding!;
      }
      case "component-member-expression":
      case "component-expression": {
        const binding = this.target(elem.base, path, types);
        const base = types.at(-1)!;
        const step =
          elem.kind === "component-expression"
            ? this.indexStep(base, elem.access, elem)
            : this.memberStep(base, elem.access.name, elem);
        path.push(step);
        types.push(stepType(base, step));
        if ("swizzle" in step && new Set(step.swizzle).size < step.swizzle.length) {
          this.fail(
            elem,
            `assigns to ${elem.kind === "component-member-expression" ? elem.access.name : ""}, which repeats a component`,
          );
        }
        return binding;
      }
      case "unary-expression":
        return this.fail(elem, "a pointer; pass and return values");
      default:
        return this.fail(elem, "cannot be assigned to");
    }
  }

  private memberStep(base: Type, name: string, place: Place): Step {
    if (base.kind === "struct") {
      const at = base.members.findIndex((member) => member.name === name);
      if (at < 0) this.fail(place, `${base.text} has no member ${name}`);
      return { at };
    }
    if (base.kind === "vec" && swizzles.test(name)) {
      const letters = [...name].map((letter) => "xyzw"[(/[xyzw]/.test(letter) ? "xyzw" : "rgba").indexOf(letter)]!);
      if (letters.every((letter) => "xyzw".indexOf(letter) < base.size)) {
        return letters.length === 1 ? { at: "xyzw".indexOf(letters[0]!) } : { swizzle: letters.join("") };
      }
    }
    return this.fail(place, `${typeName(base)} has no member ${name}`);
  }

  private indexStep(base: Type, access: ExpressionElem, place: Place): Step {
    if (base.kind !== "array" && base.kind !== "vec") this.fail(place, `a ${typeName(base)} has no elements`);
    const { size } = base as { size: number };
    const index = this.settle(this.expression(access));
    if (!isInteger(index.type) || index.type.kind !== "scalar") {
      this.fail(access, `an index of type ${typeName(index.type)}, expected i32 or u32`);
    }
    const known = integerOf(index);
    if (known === undefined) return { index };
    if (known < 0 || known >= size) this.fail(access, `index ${known} of a ${typeName(base)}`);
    return { at: known };
  }

  private part(whole: Value, step: Step, place: Place): Value {
    if ("at" in step) return this.builder.extract(whole, step.at);
    if ("index" in step) return this.builder.extractAt(whole, step.index);
    if (whole.type.kind !== "vec") return this.fail(place, "a swizzle of no vector");
    return this.swizzle(whole, step.swizzle);
  }

  private swizzle(whole: Value, letters: string): Value {
    const type = vec(letters.length, elementOf(whole.type)!);
    if (whole.op === "construct" || whole.op === "zero") {
      return this.builder.vector(
        type,
        [...letters].map((letter) => this.builder.extract(whole, "xyzw".indexOf(letter))),
      );
    }
    if (whole.op === "swizzle") {
      const inner = [...letters].map((letter) => whole.text["xyzw".indexOf(letter)]!).join("");
      return this.swizzle(whole.args[0]!, inner);
    }
    if (letters === "xyzw".slice(0, (whole.type as { size: number }).size)) return whole;
    return this.builder.op("swizzle", type, [whole], { text: letters });
  }

  private replaced(whole: Value, path: readonly Step[], part: Value, place: Place): Value {
    const [step, ...rest] = path;
    if (!step) return part;
    if ("swizzle" in step) {
      return [...step.swizzle].reduce(
        (base, letter, i) => this.builder.insert(base, "xyzw".indexOf(letter), this.builder.extract(part, i)),
        whole,
      );
    }
    const inner = this.replaced(rest.length ? this.part(whole, step, place) : part, rest, part, place);
    return "at" in step ? this.builder.insert(whole, step.at, inner) : this.builder.insertAt(whole, step.index, inner);
  }

  private for(statement: ForElem): void {
    const { name, start, stride, count, type } = this.bounds(statement);
    if (count === 0) return;
    const { body } = statement;
    const assigned = new Set<string>();
    collectAssigned(body.body, assigned);
    if (assigned.has(name)) this.fail(statement, `for: the loop's own variable ${name} is assigned in its body`);

    const leaves = flag("stopped");
    const skips = flag("skipped");
    const no = this.builder.const(false, scalar("bool"));
    this.state.set(leaves, no);
    const { frame } = this;
    const exits = mayExit(body.body, true);

    const step = (counter: Value): void => {
      this.scopes.push(new Map());
      this.bind(name, counter, false);
      this.state.set(skips, no);
      frame.breaks.push(leaves);
      frame.continues.push(skips);
      this.block(body);
      frame.breaks.pop();
      frame.continues.pop();
      this.scopes.pop();
    };
    if (count === 1) {
      step(this.builder.const(start, type));
    } else {
      const first = stride > 0 ? start : start + stride * (count - 1);
      const node = this.builder.loop(count, stride < 0, name);
      const carried = [...assigned].flatMap((variable) => this.lookup(variable) ?? []).filter((b) => this.state.has(b));
      if (returns(body.body)) carried.push(frame.done, frame.ret);
      if (exits) carried.push(leaves);
      const before = this.state;
      this.state = new Map(before);
      for (const binding of carried) {
        this.state.set(binding, this.builder.carry(node, before.get(binding)!, binding.name));
      }
      this.branches++;
      this.builder.within(node.body, () => {
        let counter: Value = node.index;
        if (type.text === "u32") counter = this.builder.op("construct", type, [counter]);
        if (Math.abs(stride) !== 1)
          counter = this.binary("*", counter, this.builder.const(Math.abs(stride), type), statement);
        if (first !== 0) counter = this.binary("+", counter, this.builder.const(first, type), statement);
        if (exits) {
          const stop = this.builder.or(this.state.get(frame.done)!, this.state.get(leaves)!);
          this.fork(
            this.builder.not(stop),
            () => {
              this.state.set(frame.done, no);
              this.state.set(leaves, no);
              step(counter);
            },
            () => {},
          );
        } else {
          step(counter);
        }
      });
      this.branches--;
      node.body.yields = carried.map((binding) => this.state.get(binding)!);
      this.state = before;
      carried.forEach((binding, i) => {
        const same = node.body.yields[i] === node.body.params[i];
        this.state.set(binding, same ? node.inits[i]! : node.results[i]!);
        // whether bits went round the loop is not followed: any integer that it carries may hold some
        if (this.bits.size > 0 && isInteger(binding.type)) this.bits.add(node.results[i]!);
      });
    }
    this.state.delete(leaves);
    this.state.delete(skips);
  }

  /** The numbers that the loop's variable runs through. */
  private bounds(statement: ForElem): { name: string; start: number; stride: number; count: number; type: Type } {
    const unknown = (place: Place | undefined, why: string): never =>
      this.fail(place ?? statement, `for: the number of its steps is not known: ${why}`);
    const { init, condition, update } = statement;
    if (init?.kind !== "var" || !init.init) return unknown(init, "it needs a variable of its own, as in var i = 0");
    const name = init.name.decl.ident.originalName;
    let value = this.settle(this.expression(init.init));
    if (init.name.typeRef) value = this.coerce(value, this.type(init.name.typeRef), init, name);
    const { type } = value;
    if (type.text !== "i32" && type.text !== "u32")
      return unknown(init, `${name} is ${typeName(type)}, not i32 or u32`);
    const start = integerOf(value);
    if (start === undefined) return unknown(init, `${name} does not start at a constant`);

    const constant = (elem: ExpressionElem): number | undefined => {
      if (mentions(elem, name)) return undefined;
      return integerOf(this.expression(elem));
    };
    const isName = (elem: ExpressionElem): boolean => elem.kind === "ref" && elem.ident.originalName === name;
    if (condition?.kind !== "binary-expression") return unknown(condition, `its condition does not compare ${name}`);
    const { left, right, operator: comparison } = byPrecedence(condition);
    const flipped: Record<string, string> = { "<": ">", ">": "<", "<=": ">=", ">=": "<=", "!=": "!=" };
    const turned = isName(right);
    if (!turned && !isName(left)) return unknown(condition, `its condition does not compare ${name}`);
    const operator = turned ? flipped[comparison.value] : comparison.value;
    if (!operator || !(operator in flipped)) return unknown(condition, `its condition is ${comparison.value}`);
    const bound = constant(turned ? left : right);
    if (bound === undefined) return unknown(turned ? left : right, "its bound is not a constant");

    let stride: number | undefined;
    if (update?.kind === "increment" && isName(update.target)) stride = 1;
    else if (update?.kind === "decrement" && isName(update.target)) stride = -1;
    else if (update?.kind === "assign" && update.lhs.kind !== "phony" && isName(update.lhs)) {
      const { rhs, op } = update;
      if (op.value === "+=" || op.value === "-=") {
        const by = constant(rhs);
        if (by !== undefined) stride = op.value === "+=" ? by : -by;
      } else if (op.value === "=" && rhs.kind === "binary-expression" && isName(rhs.left)) {
        const by = constant(rhs.right);
        if (by !== undefined && rhs.operator.value === "+") stride = by;
        if (by !== undefined && rhs.operator.value === "-") stride = -by;
      }
    }
    if (!stride) return unknown(update, `${name} does not change by a constant`);

    const goes = {
      "<": (i: number) => i < bound,
      ">": (i: number) => i > bound,
      "<=": (i: number) => i <= bound,
      ">=": (i: number) => i >= bound,
      "!=": (i: number) => i !== bound,
    }[operator]!;
    let count = 0;
    for (let i = start; goes(i); i = type.text === "u32" ? (i + stride) >>> 0 : (i + stride) | 0) {
      if (++count > mostSteps) return unknown(statement, `more than ${mostSteps}`);
    }
    return { name, start, stride, count, type };
  }

  private switch(statement: SwitchElem): void {
    const selector = this.settle(this.expression(statement.selector));
    if (!isInteger(selector.type)) this.fail(statement.selector, `switch on a ${typeName(selector.type)}`);
    const leaves = flag("left");
    this.state.set(leaves, this.builder.const(false, scalar("bool")));
    this.frame.breaks.push(leaves);
    const cases = statement.clauses.filter(({ selectors }) => !selectors.includes("default"));
    const fallback = statement.clauses.find(({ selectors }) => selectors.includes("default"));
    const from = (i: number): void => {
      const clause = cases[i];
      if (!clause) {
        if (fallback) this.block(fallback.body);
        return;
      }
      const cond = clause.selectors
        .map((value) => this.binary("==", selector, this.expression(value as ExpressionElem), clause))
        .reduce((a, b) => this.builder.or(a, b));
      this.fork(
        cond,
        () => this.block(clause.body),
        () => from(i + 1),
      );
    };
    from(0);
    this.frame.breaks.pop();
    this.state.delete(leaves);
  }

  // Expressions ---------------------------------------------------------------------------------

  private expression(elem: ExpressionElem): Value {
    switch (elem.kind) {
      case "literal":
        return this.literal(elem.value, elem);
      case "ref":
        return this.named(elem.ident.originalName, elem);
      case "parenthesized-expression":
        return this.expression(elem.expression);
      case "component-member-expression": {
        const base = this.expression(elem.base);
        return this.part(base, this.memberStep(base.type, elem.access.name, elem), elem);
      }
      case "component-expression": {
        const base = this.expression(elem.base);
        return this.part(base, this.indexStep(base.type, elem.access, elem), elem);
      }
      case "unary-expression":
        return this.unary(elem.operator.value, this.operand(elem), elem);
      case "binary-expression":
        return this.infix(byPrecedence(elem));
      case "call-expression":
        return this.call(elem);
      default:
        return this.fail(elem, "a type where a value is expected");
    }
  }

  private infix({ operator, left, right, start }: BinaryExpression): Value {
    const side = (elem: ExpressionElem): Value =>
      elem.kind === "binary-expression" ? this.infix(elem) : this.expression(elem);
    const value = side(left);
    return this.binary(operator.value, value, side(right), { start });
  }

  private operand(elem: { operator: { value: string }; expression: ExpressionElem } & Place): Value {
    const operator = elem.operator.value;
    if (operator === "&" || operator === "*") this.fail(elem, "a pointer; pass and return values");
    return this.expression(elem.expression);
  }

  private literal(text: string, place: Place): Value {
    if (text === "true" || text === "false") return this.builder.const(text, scalar("bool"));
    const hexFloat = /^0x([\da-f]*)\.?([\da-f]*)p([+-]?\d+)([fh]?)$/i.exec(text);
    if (hexFloat) {
      const [, whole, fraction, exponent, suffix] = hexFloat as unknown as string[];
      const mantissa = Number.parseInt(`${whole}${fraction}` || "0", 16);
      const value = mantissa * 2 ** (Number(exponent) - 4 * fraction!.length);
      return this.builder.const(value, scalar(suffix === "f" ? "f32" : suffix === "h" ? "f16" : "float"));
    }
    const hex = /^0x/i.test(text);
    const suffix = (hex ? /[iu]$/ : /[fhiu]$/).exec(text)?.[0] ?? "";
    const digits = text.slice(0, text.length - suffix.length);
    const number = Number(digits);
    if (Number.isNaN(number)) this.fail(place, `the literal ${text}`);
    const of = { f: "f32", h: "f16", i: "i32", u: "u32" }[suffix] ?? (!hex && /[.e]/i.test(digits) ? "float" : "int");
    return this.builder.const(
      hex ? number : digits.replace(/^\./, "0.").replace(/\.$/, ".0"),
      scalar(of as ScalarName),
    );
  }

  private named(name: string, place: Place): Value {
    const binding = this.lookup(name);
    if (binding) return this.state.get(binding)!;
    const known = this.constants.get(name);
    if (known) return known;
    const declaration = this.source.consts.get(name);
    if (!declaration) {
      this.fail(place, this.source.names.has(name) ? `${name} is not a value` : `unknown name ${name}`);
    }
    if (this.calls.includes(`const ${name}`)) this.fail(place, `const ${name} needs its own value`);
    this.calls.push(`const ${name}`);
    // only its type, and the value of an integer, are needed; the derivative refers to it by its name
    const { scopes } = this;
    this.scopes = [];
    const scratch = new Region(this.builder.region);
    let value = this.builder.within(scratch, () => this.expression(declaration!.init!));
    if (declaration!.name.typeRef) value = this.coerce(value, this.type(declaration!.name.typeRef), place, name);
    this.scopes = scopes;
    this.calls.pop();
    const made =
      integerOf(value) === undefined && boolOf(value) === undefined
        ? this.builder.op("global", value.type, [], { text: name })
        : value;
    this.constants.set(name, made);
    return made;
  }

  private unary(operator: string, value: Value, place: Place): Value {
    const { builder } = this;
    if (operator === "!") {
      if (!isBool(value.type)) this.fail(place, `! of a ${typeName(value.type)}`);
      return builder.not(value);
    }
    const known = integerOf(value);
    if (operator === "-" && !isBool(value.type) && elementOf(value.type) && elementOf(value.type) !== "u32") {
      if (known !== undefined) return builder.const(-known, value.type);
      if (value.op === "const") return builder.neg(value);
      return this.tainted(builder.op("unary", value.type, [value], { text: "-" }));
    }
    if (operator === "~" && isInteger(value.type)) {
      return this.tainted(builder.op("unary", value.type, [value], { text: "~" }));
    }
    return this.fail(place, `${operator} of a ${typeName(value.type)}`);
  }

  private binary(operator: string, a: Value, b: Value, place: Place): Value {
    const { builder } = this;
    const wrong = (): never => this.fail(place, `${typeName(a.type)} ${operator} ${typeName(b.type)}`);
    const [x, y] = [elementOf(a.type), elementOf(b.type)];
    if (!x || !y) return wrong();
    if (operator === "&&" || operator === "||") {
      if (a.type.text !== "bool" || b.type.text !== "bool") return wrong();
      if (operator === "||") return builder.or(a, b);
      return boolOf(a) === true ? b : boolOf(b) === true ? a : boolOf(a) === false ? a : builder.and(a, b);
    }
    if (operator === "<<" || operator === ">>") {
      if (!isInteger(a.type) || !isInteger(b.type)) return wrong();
    } else {
      const both = wider(a.type, b.type);
      for (const side of [a, b]) {
        const whole = side.type.kind === "vec" ? both : scalar(elementOf(both)!);
        if (!converts(side.type, whole)) return wrong();
      }
    }
    const comparison = ["==", "!=", "<", "<=", ">", ">="].includes(operator);
    const mixed = a.type.kind !== b.type.kind;
    if (mixed && (comparison || !["+", "-", "*", "/", "%"].includes(operator))) return wrong();
    if (["&", "|", "^"].includes(operator) && isFloat(a.type)) return wrong();
    if (isBool(a.type) && !["==", "!=", "&", "|"].includes(operator)) return wrong();
    const type = operator === "<<" || operator === ">>" ? a.type : wider(a.type, b.type);
    if (comparison) {
      const folded = this.foldComparison(operator, a, b);
      if (folded) return folded;
      return builder.op("binary", type.kind === "vec" ? vec(type.size, "bool") : scalar("bool"), [a, b], {
        text: operator,
      });
    }
    const [i, j] = [integerOf(a), integerOf(b)];
    if (i !== undefined && j !== undefined && isInteger(type)) {
      if (j === 0 && (operator === "/" || operator === "%")) this.fail(place, "division by zero");
      return builder.const(foldInteger(operator, i, j, type.text), type);
    }
    return this.tainted(builder.op("binary", type, [a, b], { text: operator }));
  }

  private foldComparison(operator: string, a: Value, b: Value): Value | undefined {
    const [i, j] = [integerOf(a), integerOf(b)];
    if (i === undefined || j === undefined) return undefined;
    const results: Record<string, boolean> = {
      "==": i === j,
      "!=": i !== j,
      "<": i < j,
      "<=": i <= j,
      ">": i > j,
      ">=": i >= j,
    };
    return this.builder.const(results[operator]!, scalar("bool"));
  }

  /** Carries on from the operands that an integer holds the bits of a float. */
  private tainted(value: Value): Value {
    if (isInteger(value.type) && value.args.some((arg) => this.bits.has(arg))) this.bits.add(value);
    return value;
  }

  /** What an abstract number becomes in a let or var. */
  private settle(value: Value): Value {
    return isAbstract(value.type) ? this.retyped(value, concrete(value.type)) : value;
  }

  private retyped(value: Value, type: Type): Value {
    if (value.op === "const" || value.op === "zero") return this.builder.op(value.op, type, [], { text: value.text });
    return this.builder.op("construct", type, [value]);
  }

  private coerce(value: Value, type: Type, place: Place, what: string): Value {
    if (sameType(value.type, type)) return value;
    if (!converts(value.type, type)) this.fail(place, `${what} is ${typeName(value.type)}, expected ${typeName(type)}`);
    return this.retyped(value, type);
  }

  // Calls ---------------------------------------------------------------------------------------

  private call(elem: FunctionCallExpression): Value {
    const fn = elem.function;
    const name = fn.kind === "type" ? this.refName(fn) : fn.ident.originalName;
    const templated = fn.kind === "type" && (fn.templateParams?.length ?? 0) > 0;
    const args = (): Value[] => elem.arguments.map((argument) => this.expression(argument));
    if (this.source.fns.has(name)) return this.inline(name, args(), elem);
    if (name === "bitcast" && fn.kind === "type") return this.bitcast(this.type(fn.templateParams![0]!), args(), elem);
    if (name === "array" && !templated) {
      const items = args();
      if (items.length === 0) this.fail(elem, "an array without elements");
      const item = concrete(items.map(({ type }) => type).reduce((a, b) => (sameType(a, b) ? a : wider(a, b))));
      return this.construct(array(item, items.length), items, elem);
    }
    const size = /^vec([234])$/.exec(name)?.[1];
    if (size && !templated) {
      const parts = args();
      if (parts.length === 0) this.fail(elem, `${name}() has no type`);
      const element = parts.map(({ type }) => scalar(elementOf(type)!)).reduce(wider);
      return this.construct(vec(Number(size), elementOf(element)!), parts, elem);
    }
    if (templated || namedType(name) || this.declaredType(name)) return this.construct(this.type(fn), args(), elem);
    return this.builtin(name, args(), elem);
  }

  private construct(type: Type, args: readonly Value[], place: Place): Value {
    const { builder } = this;
    if (args.length === 0) return builder.zero(type);
    if (type.kind === "struct" || type.kind === "array") {
      const types = type.kind === "struct" ? type.members.map((m) => m.type) : Array<Type>(type.size).fill(type.item);
      if (types.length !== args.length) this.fail(place, `${type.text} has ${types.length} parts, got ${args.length}`);
      const parts = args.map((arg, i) => this.coerce(arg, types[i]!, place, `part ${i + 1} of ${type.text}`));
      return builder.op("construct", type, parts);
    }
    const first = args[0]!;
    if (args.some((arg) => !elementOf(arg.type))) this.fail(place, `${typeName(type)} of a ${typeName(first.type)}`);
    if (args.length === 1 && (type.kind === "scalar" || first.type.kind === "vec")) {
      if (type.kind !== first.type.kind) this.fail(place, `${typeName(type)} of a ${typeName(first.type)}`);
      if (sameType(type, first.type)) return first;
      if (this.bits.has(first) && isFloat(type)) this.fail(place, bitsReason);
      if (converts(first.type, type) && first.op === "const") return this.retyped(first, type);
      return this.tainted(builder.op("construct", type, [first]));
    }
    if (type.kind !== "vec") return this.fail(place, `${typeName(type)} of ${args.length} values`);
    const element = scalar(type.of);
    const parts = args.flatMap((arg) =>
      arg.type.kind === "vec" ? Array.from({ length: arg.type.size }, (_, i) => builder.extract(arg, i)) : [arg],
    );
    if (parts.length !== type.size && parts.length !== 1) {
      this.fail(place, `${typeName(type)} has ${type.size} components, got ${parts.length}`);
    }
    const typed = parts.map((part) => this.coerce(part, element, place, `a component of ${typeName(type)}`));
    return typed.length === 1 ? builder.op("construct", type, typed) : builder.vector(type, typed);
  }

  private bitcast(type: Type, args: readonly Value[], place: Place): Value {
    const [value] = args;
    if (!value || args.length > 1 || !elementOf(value.type)) return this.fail(place, "bitcast takes one number");
    const settled = this.settle(value);
    if (isFloat(type) && this.bits.has(settled)) this.fail(place, bitsReason);
    if (isFloat(type) && isFloat(settled.type)) this.fail(place, "bitcast from float to float hides a gradient");
    const made = this.builder.op("bitcast", type, [settled]);
    if (isFloat(settled.type) && settled.op !== "const") this.bits.add(made);
    return made;
  }

  private builtin(name: string, args: readonly Value[], place: Place): Value {
    const reason = refusal(name);
    if (reason) this.fail(place, `${name} ${reason}`);
    const wrong = (): never => this.fail(place, `${name}(${args.map(({ type }) => typeName(type)).join(", ")})`);
    const expect = (count: number): void => {
      if (args.length !== count)
        this.fail(place, `${name} takes ${count} argument${count === 1 ? "" : "s"}, got ${args.length}`);
      if (args.some(({ type }) => !elementOf(type))) wrong();
    };
    /** The arguments in their common type. */
    const alike = (values: readonly Value[], floats: boolean): Value[] => {
      const kind = values[0]!.type.kind;
      if (values.some(({ type }) => type.kind !== kind)) wrong();
      let type = values.map((value) => value.type).reduce(wider);
      if (floats && elementOf(type) === "int") type = withElement(type, "float");
      if (values.some((value) => !converts(value.type, type))) wrong();
      return values.map((value) => (value.op === "const" ? this.retyped(value, type) : value));
    };
    const make = (type: Type, values: readonly Value[]): Value =>
      this.tainted(this.builder.op("call", type, values, { text: name }));

    if (rowPrimitives.has(name)) {
      expect(1);
      this.usesRows = true;
      if (!isFloat(args[0]!.type)) wrong();
      if (this.branches > 0) {
        this.fail(place, `${name} inside an if or a loop: every element of the row must take part`);
      }
      return make(concrete(args[0]!.type), [this.settle(args[0]!)]);
    }
    const fixed = floatBuiltins[name] ?? numericBuiltins[name] ?? integerBuiltins[name];
    if (fixed !== undefined) {
      expect(fixed);
      if (name === "extractBits" || name === "insertBits") {
        if (!args.every(({ type }) => isInteger(type))) wrong();
        return make(concrete(args[0]!.type), args);
      }
      const values = alike(args, name in floatBuiltins);
      const { type } = values.find((value) => !isAbstract(value.type)) ?? values[0]!;
      if (name in floatBuiltins ? !isFloat(type) : name in integerBuiltins ? !isInteger(type) : isBool(type)) wrong();
      if (vectorBuiltins.has(name) && type.kind !== "vec") wrong();
      if (name === "cross" && (type as { size: number }).size !== 3) wrong();
      return this.foldedCall(name, values) ?? make(type, values);
    }
    switch (name) {
      case "all":
      case "any":
        expect(1);
        if (!isBool(args[0]!.type)) wrong();
        return args[0]!.type.kind === "vec" ? make(scalar("bool"), args) : args[0]!;
      case "dot": {
        expect(2);
        const values = alike(args, false);
        if (values[0]!.type.kind !== "vec" || isBool(values[0]!.type)) wrong();
        return make(scalar(elementOf(wider(values[0]!.type, values[1]!.type))!), values);
      }
      case "length":
      case "distance": {
        expect(name === "length" ? 1 : 2);
        const values = alike(args, true);
        if (!isFloat(values[0]!.type)) wrong();
        return make(scalar(elementOf(values.map(({ type }) => type).reduce(wider))!), values);
      }
      case "ldexp": {
        expect(2);
        const [x, e] = [...alike(args.slice(0, 1), true), args[1]!] as [Value, Value];
        if (!isFloat(x.type) || !isInteger(e.type) || x.type.kind !== e.type.kind) wrong();
        if (this.bits.has(e)) this.fail(place, bitsReason);
        return make(x.type, [x, e]);
      }
      case "mix": {
        expect(3);
        const [a, b, t] = args as [Value, Value, Value];
        const [x, y] = alike([a, b], true) as [Value, Value];
        const type = wider(x.type, y.type);
        if (!isFloat(type) || (t.type.kind === "vec" && type.kind !== "vec")) wrong();
        const weight = t.type.kind === "vec" ? type : scalar(elementOf(type)!);
        if (!converts(t.type, weight) && !isAbstract(type)) wrong();
        const result = isAbstract(type) ? withElement(type, elementOf(t.type)!) : type;
        return make(isInteger(result) ? withElement(result, "float") : result, [x, y, t]);
      }
      case "select": {
        expect(3);
        const [no, yes] = alike(args.slice(0, 2), false) as [Value, Value];
        const cond = args[2]!;
        if (!isBool(cond.type) || (cond.type.kind === "vec" && cond.type.kind !== no.type.kind)) wrong();
        if (boolOf(cond) !== undefined) return boolOf(cond) ? yes : no;
        return make(concrete(wider(no.type, yes.type)), [no, yes, cond]);
      }
      case "smoothstep":
      case "refract": {
        expect(3);
        const parts = name === "smoothstep" ? alike(args, true) : [...alike(args.slice(0, 2), true), args[2]!];
        const type = parts.map((part) => part.type).reduce(wider);
        if (isAbstract(type)) return make(type, parts);
        if (!isFloat(type) || (name === "refract" && (type.kind !== "vec" || parts[2]!.type.kind !== "scalar")))
          wrong();
        return this.defined(name, type, parts, place);
      }
    }
    return this.fail(place, `unknown function ${name}`);
  }

  /** A builtin as the function that it stands for. */
  private defined(name: string, type: Type, args: readonly Value[], place: Place): Value {
    const text = definitions[name]!(type.text, elementOf(type)!);
    const inner = new Lowering(parse(name, text));
    Object.assign(inner, { builder: this.builder, state: this.state, branches: this.branches });
    const values = args.map((arg, i) =>
      this.coerce(
        arg,
        name === "refract" && i === 2 ? scalar(elementOf(type)!) : type,
        place,
        `argument ${i + 1} of ${name}`,
      ),
    );
    return inner.inline(`${name}_`, values, place);
  }

  private foldedCall(name: string, values: readonly Value[]): Value | undefined {
    const numbers = values.map(integerOf);
    if (numbers.some((number) => number === undefined)) return undefined;
    const known = numbers as number[];
    const { type } = values.find((value) => !isAbstract(value.type)) ?? values[0]!;
    if (name === "min") return this.builder.const(Math.min(...known), type);
    if (name === "max") return this.builder.const(Math.max(...known), type);
    if (name === "abs") return this.builder.const(Math.abs(known[0]!), type);
    return undefined;
  }
}

const bitsReason = "a float made of another's bits; its derivative is unknown";

const typeName = (type: Type): string =>
  type.text === "float" || type.text === "int" ? `an abstract ${type.text}` : type.text.trim();

function stepType(base: Type, step: Step): Type {
  if ("swizzle" in step) return vec(step.swizzle.length, elementOf(base)!);
  return partType(base, "at" in step ? step.at : 0);
}

function foldInteger(operator: string, a: number, b: number, type: string): number {
  const results: Record<string, () => number> = {
    "+": () => a + b,
    "-": () => a - b,
    "*": () => (type === "int" ? a * b : Math.imul(a, b)),
    "/": () => Math.trunc(a / b),
    "%": () => a % b,
    "&": () => a & b,
    "|": () => a | b,
    "^": () => a ^ b,
    "<<": () => a << b,
    ">>": () => (type === "u32" ? a >>> b : a >> b),
  };
  const result = results[operator]!();
  return type === "u32" ? result >>> 0 : type === "i32" ? result | 0 : result;
}

/** The bodies of a statement. */
function bodies(statement: Statement): (readonly Statement[])[] {
  if (statement.kind === "block") return [statement.body];
  if (statement.kind === "if") return [statement.body.body, ...(statement.else ? [[statement.else]] : [])];
  if (statement.kind === "for" || statement.kind === "while" || statement.kind === "loop") return [statement.body.body];
  if (statement.kind === "switch") return statement.clauses.map(({ body }) => body.body);
  return [];
}

/** Whether control may leave the sequence that these statements stand in; `all` asks of a loop's body. */
function mayExit(statements: readonly Statement[], all = false): boolean {
  const search = (list: readonly Statement[], breaks: boolean, continues: boolean): boolean =>
    list.some((statement) => {
      if (statement.kind === "return") return true;
      if (statement.kind === "break") return breaks;
      if (statement.kind === "continue") return continues && !all;
      const loop = statement.kind === "for" || statement.kind === "while" || statement.kind === "loop";
      const inner = loop || statement.kind === "switch";
      return bodies(statement).some((body) => search(body, breaks && !inner, continues && !loop));
    });
  return search(statements, true, true);
}

const returns = (statements: readonly Statement[]): boolean =>
  statements.some((statement) => statement.kind === "return" || bodies(statement).some(returns));

function alwaysExits(statements: readonly Statement[]): boolean {
  return statements.some((statement) => {
    if (statement.kind === "return" || statement.kind === "break" || statement.kind === "continue") return true;
    if (statement.kind === "block") return alwaysExits(statement.body);
    if (statement.kind === "if") {
      return Boolean(statement.else) && alwaysExits(statement.body.body) && alwaysExits([statement.else!]);
    }
    return false;
  });
}

function alwaysReturns(statements: readonly Statement[]): boolean {
  return statements.some((statement) => {
    if (statement.kind === "return") return true;
    if (statement.kind === "block") return alwaysReturns(statement.body);
    if (statement.kind === "if") {
      return Boolean(statement.else) && alwaysReturns(statement.body.body) && alwaysReturns([statement.else!]);
    }
    if (statement.kind === "switch") {
      return statement.clauses.every(({ body }) => alwaysReturns(body.body));
    }
    return false;
  });
}

/** The names of the variables that the statements assign to. */
function collectAssigned(statements: readonly Statement[], names: Set<string>): void {
  const root = (elem: ExpressionElem): void => {
    if (elem.kind === "ref") names.add(elem.ident.originalName);
    else if (elem.kind === "component-expression" || elem.kind === "component-member-expression") root(elem.base);
    else if (elem.kind === "parenthesized-expression") root(elem.expression);
  };
  for (const statement of statements) {
    if (statement.kind === "assign" && statement.lhs.kind !== "phony") root(statement.lhs);
    if (statement.kind === "increment" || statement.kind === "decrement") root(statement.target);
    for (const body of bodies(statement)) collectAssigned(body, names);
  }
}

function mentions(elem: ExpressionElem, name: string): boolean {
  if (elem.kind === "ref") return elem.ident.originalName === name;
  if (elem.kind === "parenthesized-expression" || elem.kind === "unary-expression")
    return mentions(elem.expression, name);
  if (elem.kind === "binary-expression") return mentions(elem.left, name) || mentions(elem.right, name);
  if (elem.kind === "call-expression") return elem.arguments.some((argument) => mentions(argument, name));
  if (elem.kind === "component-expression") return mentions(elem.base, name) || mentions(elem.access, name);
  if (elem.kind === "component-member-expression") return mentions(elem.base, name);
  return false;
}
