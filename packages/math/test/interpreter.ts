/**
 * WGSL functions evaluated in float64, to compare derivatives with finite differences. Integers are BigInt, so that what an
 * operation does follows from its operands; vectors and arrays are arrays, structs are objects.
 */
import { type ExpressionElem, type FnElem, parseSrcModule, type Statement, type TypeRefElem } from "wesl/core";
import { byPrecedence } from "../src/autodiff/source.ts";

export type Value = number | bigint | boolean | Value[] | { [member: string]: Value };

interface Type {
  zero(): Value;
  /** Converts an abstract number. */
  take(value: Value): Value;
}

type Frame = Value[];
type Eval = (frame: Frame) => Value;
/** 0 goes on, 1 breaks, 2 continues, 3 returns frame[0]. */
type Exec = (frame: Frame) => number;
type Row = (name: string, value: Value) => Value;

const copy = (value: Value): Value => {
  if (Array.isArray(value)) return value.map(copy);
  if (typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, copy(part)]));
};

const isObject = (value: Value): value is { [member: string]: Value } =>
  typeof value === "object" && !Array.isArray(value);

/** Componentwise; a scalar stands beside vectors for each component. */
function each(values: readonly Value[], f: (...scalars: never[]) => Value): Value {
  const plain = values.every((value) => typeof value === "number");
  if (plain) return f(...(values as never[]));
  const vector = values.find((value) => Array.isArray(value)) as Value[] | undefined;
  if (vector)
    return vector.map((_, i) =>
      each(
        values.map((value) => (Array.isArray(value) ? value[i]! : value)),
        f,
      ),
    );
  const mixed = values.some((value) => typeof value === "number");
  return f(...((mixed ? values.map((v) => (typeof v === "bigint" ? Number(v) : v)) : values) as never[]));
}

const binary: Record<string, (a: never, b: never) => Value> = {
  "+": (a: number, b: number) => a + b,
  "-": (a: number, b: number) => a - b,
  "*": (a: number, b: number) => a * b,
  "/": (a: number, b: number) => a / b,
  "%": (a: number, b: number) => a % b,
  "<": (a: number, b: number) => a < b,
  ">": (a: number, b: number) => a > b,
  "<=": (a: number, b: number) => a <= b,
  ">=": (a: number, b: number) => a >= b,
  "==": (a: number, b: number) => a === b,
  "!=": (a: number, b: number) => a !== b,
  "&": (a: bigint, b: bigint) => (typeof a === "boolean" ? a && b : a & b),
  "|": (a: bigint, b: bigint) => (typeof a === "boolean" ? a || b : a | b),
  "^": (a: bigint, b: bigint) => a ^ b,
  "<<": (a: bigint, b: bigint) => a << b,
  ">>": (a: bigint, b: bigint) => a >> b,
};

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);
const inner = (a: Value, b: Value): number => sum((a as number[]).map((x, i) => x * (b as number[])[i]!));
const length = (a: Value): number => (Array.isArray(a) ? Math.hypot(...(a as number[])) : Math.abs(a as number));
const scaled = (a: Value, s: number): Value => each([a], (x: number) => x * s);
const added = (a: Value, b: Value): Value => each([a, b], binary["+"]!);
const evenly = (x: number): number => {
  const low = Math.floor(x);
  const rest = x - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
};

// these also take BigInt, which Math.min does not
// biome-ignore lint/complexity/useMathMinMax: see above
const smallest = (a: number, b: number): number => (b < a ? b : a);
// biome-ignore lint/complexity/useMathMinMax: see above
const largest = (a: number, b: number): number => (a < b ? b : a);

// biome-ignore format: a table
const componentwise: Record<string, (...args: never[]) => Value> = {
  abs: (x: number | bigint) => (x < 0 ? -x : x),
  acos: Math.acos, acosh: Math.acosh, asin: Math.asin, asinh: Math.asinh, atan: Math.atan, atanh: Math.atanh,
  atan2: Math.atan2, ceil: Math.ceil, cos: Math.cos, cosh: Math.cosh, exp: Math.exp, floor: Math.floor, log: Math.log,
  log2: Math.log2, pow: Math.pow, sin: Math.sin, sinh: Math.sinh, sqrt: Math.sqrt, tan: Math.tan, tanh: Math.tanh,
  trunc: Math.trunc, min: smallest, max: largest, round: evenly,
  clamp: (x: number, low: number, high: number) => smallest(largest(x, low), high),
  degrees: (x: number) => (x * 180) / Math.PI,
  exp2: (x: number) => 2 ** x,
  fma: (a: number, b: number, c: number) => a * b + c,
  fract: (x: number) => x - Math.floor(x),
  inverseSqrt: (x: number) => 1 / Math.sqrt(x),
  ldexp: (x: number, e: number) => x * 2 ** e,
  mix: (a: number, b: number, t: number) => a * (1 - t) + b * t,
  radians: (x: number) => (x * Math.PI) / 180,
  saturate: (x: number) => smallest(largest(x, 0), 1),
  select: (no: number, yes: number, cond: boolean) => (cond ? yes : no),
  sign: (x: number | bigint) => (typeof x === "bigint" ? (x > 0n ? 1n : x < 0n ? -1n : 0n) : Math.sign(x)),
  smoothstep: (low: number, high: number, x: number) => {
    const t = smallest(largest((x - low) / (high - low), 0), 1);
    return t * t * (3 - 2 * t);
  },
  step: (edge: number, x: number) => (edge <= x ? 1 : 0),
  countOneBits: (x: bigint) => BigInt(BigInt.asUintN(32, x).toString(2).replaceAll("0", "").length),
};

const whole: Record<string, (...args: Value[]) => Value> = {
  all: (v) => (Array.isArray(v) ? v.every(Boolean) : v),
  any: (v) => (Array.isArray(v) ? v.some(Boolean) : v),
  cross: (a, b) => {
    const [x, y, z] = a as number[];
    const [u, v, w] = b as number[];
    return [y! * w! - z! * v!, z! * u! - x! * w!, x! * v! - y! * u!];
  },
  distance: (a, b) => length(each([a, b], binary["-"]!)),
  dot: inner,
  faceForward: (a, i, n) => (inner(n, i) < 0 ? a : scaled(a, -1)),
  length,
  normalize: (a) => scaled(a, 1 / length(a)),
  reflect: (e, n) => added(e, scaled(n, -2 * inner(n, e))),
  refract: (e, n, eta) => {
    const [cosine, ratio] = [inner(n, e), eta as number];
    const k = 1 - ratio * ratio * (1 - cosine * cosine);
    return k < 0 ? scaled(e, 0) : added(scaled(e, ratio), scaled(n, -(ratio * cosine + Math.sqrt(k))));
  },
};

type Across = (row: readonly Value[]) => Value[];

const toAll =
  (reduce: (row: readonly Value[]) => Value): Across =>
  (row) =>
    new Array<Value>(row.length).fill(reduce(row));

/** What the elements of a row get. */
const rows: Record<string, Across> = {
  rowSum: toAll((row) => row.reduce(added)),
  rowMean: toAll((row) => scaled(row.reduce(added), 1 / row.length)),
  rowMax: toAll((row) => row.reduce((a, b) => each([a, b], largest))),
  rowCumsum: ([first, ...rest]) => {
    const sums = [first!];
    for (const value of rest) sums.push(added(sums.at(-1)!, value));
    return sums;
  },
  rowCumsumReverse: (row) => rows.rowCumsum!([...row].reverse()).reverse(),
};

const toFloat = (value: Value): Value => each([value], (x: number | bigint | boolean) => Number(x));
const toInt = (value: Value): Value =>
  each([value], (x: number | bigint | boolean) => (typeof x === "number" ? BigInt(Math.trunc(x)) : BigInt(x)));
const scalars: Record<string, Type & { convert(value: Value): Value }> = {
  f32: { zero: () => 0, take: toFloat, convert: toFloat },
  f16: { zero: () => 0, take: toFloat, convert: toFloat },
  i32: { zero: () => 0n, take: (v) => v, convert: toInt },
  u32: { zero: () => 0n, take: (v) => v, convert: toInt },
  bool: { zero: () => false, take: (v) => v, convert: (value) => each([value], (x: number) => Boolean(x)) },
};
const letters: Record<string, string> = { f: "f32", h: "f16", i: "i32", u: "u32" };

export class Interpreter {
  private readonly fns = new Map<string, FnElem>();
  private readonly structs = new Map<string, { name: string; type: Type }[]>();
  private readonly aliases = new Map<string, TypeRefElem>();
  private readonly consts = new Map<string, Value>();
  private readonly compiled = new Map<string, (args: readonly Value[]) => Value>();
  private scopes: Map<string, number>[] = [];
  private slots = 0;
  row: Row = () => {
    throw new Error("a row primitive outside a row");
  };

  constructor(source: string) {
    const { moduleElem, diagnostics } = parseSrcModule({
      modulePath: "package::main",
      debugFilePath: "wgsl",
      src: source,
    });
    if (diagnostics.length) throw new Error(`${diagnostics[0]!.message}\n${source}`);
    for (const item of moduleElem.decls) {
      if (item.kind === "fn") this.fns.set(item.name.ident.originalName, item);
      if (item.kind === "struct") {
        const members = item.members.map((member) => ({ name: member.name.name, type: this.type(member.typeRef) }));
        this.structs.set(item.name.ident.originalName, members);
      }
      if (item.kind === "alias") this.aliases.set(item.name.ident.originalName, item.typeRef);
      if (item.kind === "const") this.consts.set(item.name.decl.ident.originalName, this.expression(item.init!)([]));
    }
  }

  call(name: string, ...args: Value[]): Value {
    return this.fn(name)(args);
  }

  private fn(name: string): (args: readonly Value[]) => Value {
    let run = this.compiled.get(name);
    if (run) return run;
    const fn = this.fns.get(name)!;
    const outer = { scopes: this.scopes, slots: this.slots };
    this.scopes = [new Map()];
    this.slots = 1;
    const types = fn.params.map((param) => {
      this.bind(param.name.decl.ident.originalName);
      return this.type(param.name.typeRef!);
    });
    const body = this.block(fn.body.body);
    const result = this.type(fn.returnType!);
    ({ scopes: this.scopes, slots: this.slots } = outer);
    run = (args) => {
      const frame: Frame = [0];
      args.forEach((arg, i) => {
        frame[i + 1] = types[i]!.take(arg);
      });
      if (body(frame) !== 3) throw new Error(`${name} returns nothing`);
      return result.take(frame[0]!);
    };
    this.compiled.set(name, run);
    return run;
  }

  private bind(name: string): number {
    this.scopes.at(-1)!.set(name, this.slots);
    return this.slots++;
  }

  private slot(name: string): number | undefined {
    for (let i = this.scopes.length - 1; i >= 0; i--) {
      const slot = this.scopes[i]!.get(name);
      if (slot !== undefined) return slot;
    }
    return undefined;
  }

  private type(elem: TypeRefElem | ExpressionElem): Type & { convert?(value: Value): Value; size?: number } {
    const name = elem.kind === "type" ? elem.name.originalName : elem.kind === "ref" ? elem.ident.originalName : "";
    const params = elem.kind === "type" ? (elem.templateParams ?? []) : [];
    if (scalars[name]) return scalars[name];
    const vector = /^vec([234])([fhiu]?)$/.exec(name);
    if (vector) {
      const size = Number(vector[1]);
      const item = (vector[2] ? scalars[letters[vector[2]]!] : this.type(params[0]!)) as (typeof scalars)[string];
      const all = (f: (v: Value) => Value) => (value: Value) => (value as Value[]).map(f);
      return { zero: () => Array.from({ length: size }, item.zero), take: all(item.take), convert: item.convert, size };
    }
    if (name === "array") {
      const item = this.type(params[0]!);
      const count = Number(this.expression(params[1]!)([]));
      return {
        zero: () => Array.from({ length: count }, () => item.zero()),
        take: (v) => (v as Value[]).map(item.take),
      };
    }
    const alias = this.aliases.get(name);
    if (alias) return this.type(alias);
    const members = this.structs.get(name);
    if (!members) throw new Error(`type ${name}`);
    return { zero: () => Object.fromEntries(members.map((m) => [m.name, m.type.zero()])), take: (v) => v };
  }

  private block(statements: readonly Statement[]): Exec {
    this.scopes.push(new Map());
    const steps = statements.map((statement) => this.statement(statement));
    this.scopes.pop();
    return (frame) => {
      for (const step of steps) {
        const signal = step(frame);
        if (signal) return signal;
      }
      return 0;
    };
  }

  private statement(statement: Statement): Exec {
    switch (statement.kind) {
      case "block":
        return this.block(statement.body);
      case "let":
      case "var":
      case "const": {
        const type = statement.name.typeRef && this.type(statement.name.typeRef);
        const init = statement.init ? this.expression(statement.init) : () => type!.zero();
        const slot = this.bind(statement.name.decl.ident.originalName);
        return (frame) => {
          const value = copy(init(frame));
          frame[slot] = type ? type.take(value) : value;
          return 0;
        };
      }
      case "assign":
      case "increment":
      case "decrement": {
        if (statement.kind === "assign" && statement.lhs.kind === "phony") return () => 0;
        const target = (statement.kind === "assign" ? statement.lhs : statement.target) as ExpressionElem;
        const operator =
          statement.kind === "assign" ? statement.op.value.slice(0, -1) : statement.kind === "increment" ? "+" : "-";
        const old = this.expression(target);
        const right = statement.kind === "assign" ? this.expression(statement.rhs) : () => 1n;
        const store = this.store(target);
        return (frame) => {
          const value = operator ? each([old(frame), right(frame)], binary[operator]!) : copy(right(frame));
          store(frame, typeof value === "bigint" && typeof old(frame) === "number" ? Number(value) : value);
          return 0;
        };
      }
      case "if": {
        const cond = this.expression(statement.condition);
        const then = this.block(statement.body.body);
        const otherwise = statement.else ? this.statement(statement.else) : () => 0;
        return (frame) => (cond(frame) ? then(frame) : otherwise(frame));
      }
      case "for": {
        this.scopes.push(new Map());
        const init = this.statement(statement.init as Statement);
        const cond = this.expression(statement.condition!);
        const update = this.statement(statement.update as Statement);
        const body = this.block(statement.body.body);
        this.scopes.pop();
        return (frame) => {
          for (init(frame); cond(frame); update(frame)) {
            const signal = body(frame);
            if (signal === 1) break;
            if (signal === 3) return 3;
          }
          return 0;
        };
      }
      case "switch": {
        const selector = this.expression(statement.selector);
        const clauses = statement.clauses.map((clause) => ({
          values: clause.selectors.flatMap((value) => (value === "default" ? [] : [this.expression(value)])),
          fallback: clause.selectors.includes("default"),
          body: this.block(clause.body.body),
        }));
        return (frame) => {
          const key = selector(frame);
          const hit = clauses.find(({ values }) => values.some((value) => value(frame) === key));
          const signal = (hit ?? clauses.find(({ fallback }) => fallback))?.body(frame) ?? 0;
          return signal === 1 ? 0 : signal;
        };
      }
      case "return": {
        const value = this.expression(statement.value!);
        return (frame) => {
          frame[0] = value(frame);
          return 3;
        };
      }
      case "break":
        return () => 1;
      case "continue":
        return () => 2;
      case "empty":
        return () => 0;
      default:
        throw new Error(`statement ${statement.kind}`);
    }
  }

  private store(target: ExpressionElem): (frame: Frame, value: Value) => void {
    if (target.kind === "parenthesized-expression") return this.store(target.expression);
    if (target.kind === "ref") {
      const slot = this.slot(target.ident.originalName)!;
      return (frame, value) => {
        frame[slot] = value;
      };
    }
    if (target.kind === "component-expression") {
      const base = this.expression(target.base);
      const index = this.expression(target.access);
      return (frame, value) => {
        const items = base(frame) as Value[];
        const old = items[Number(index(frame))];
        items[Number(index(frame))] = typeof old === "number" && typeof value === "bigint" ? Number(value) : value;
      };
    }
    if (target.kind !== "component-member-expression") throw new Error(`assignment to ${target.kind}`);
    const base = this.expression(target.base);
    const { name } = target.access;
    return (frame, value) => {
      const whole = base(frame);
      if (isObject(whole)) whole[name] = value;
      else {
        [...name].forEach((letter, i) => {
          (whole as Value[])[position(letter)] = name.length === 1 ? value : (value as Value[])[i]!;
        });
      }
    };
  }

  private expression(elem: ExpressionElem): Eval {
    switch (elem.kind) {
      case "literal": {
        const { value } = elem;
        if (value === "true" || value === "false") return () => value === "true";
        const float = /[.eE]/.test(value) && !/^0x/i.test(value);
        const text = /^0x/i.test(value) ? value.replace(/[iu]$/, "") : value.replace(/[fhiu]$/, "");
        const known = float || /[fh]$/.test(value) ? Number(text) : BigInt(text);
        return () => known;
      }
      case "ref": {
        const name = elem.ident.originalName;
        const slot = this.slot(name);
        if (slot !== undefined) return (frame) => frame[slot]!;
        const known = this.consts.get(name);
        if (known === undefined) throw new Error(`name ${name}`);
        return () => known;
      }
      case "parenthesized-expression":
        return this.expression(elem.expression);
      case "unary-expression": {
        const inner = this.expression(elem.expression);
        if (elem.operator.value === "!") return (frame) => each([inner(frame)], (x: boolean) => !x);
        if (elem.operator.value === "~") return (frame) => each([inner(frame)], (x: bigint) => ~x);
        return (frame) => each([inner(frame)], (x: number) => -x);
      }
      case "binary-expression": {
        const ordered = byPrecedence(elem);
        const [left, right] = [this.expression(ordered.left), this.expression(ordered.right)];
        const operator = ordered.operator.value;
        if (operator === "&&") return (frame) => left(frame) && right(frame);
        if (operator === "||") return (frame) => left(frame) || right(frame);
        const apply = binary[operator]!;
        return (frame) => each([left(frame), right(frame)], apply);
      }
      case "component-expression": {
        const [base, index] = [this.expression(elem.base), this.expression(elem.access)];
        return (frame) => (base(frame) as Value[])[Number(index(frame))]!;
      }
      case "component-member-expression": {
        const base = this.expression(elem.base);
        const { name } = elem.access;
        return (frame) => {
          const whole = base(frame);
          if (isObject(whole)) return whole[name]!;
          const parts = [...name].map((letter) => (whole as Value[])[position(letter)]!);
          return parts.length === 1 ? parts[0]! : parts;
        };
      }
      case "call-expression":
        return this.callOf(elem);
      default:
        throw new Error(`expression ${elem.kind}`);
    }
  }

  private callOf(elem: Extract<ExpressionElem, { kind: "call-expression" }>): Eval {
    const fn = elem.function;
    const name = fn.kind === "type" ? fn.name.originalName : fn.ident.originalName;
    const args = elem.arguments.map((arg) => this.expression(arg));
    const values = (frame: Frame): Value[] => args.map((arg) => arg(frame));
    if (this.fns.has(name)) return (frame) => this.fn(name)(values(frame));
    if (rows[name]) return (frame) => this.row(name, args[0]!(frame));
    if (name === "bitcast") {
      // only ever to an integer, for comparisons
      return (frame) =>
        each([args[0]!(frame)], (x: number) =>
          typeof x === "bigint" ? x : BigInt(new Uint32Array(new Float32Array([x]).buffer)[0]!),
        );
    }
    const members = this.structs.get(name);
    if (members) {
      return (frame) => {
        const list = values(frame);
        return Object.fromEntries(
          members.map((m, i) => [m.name, list.length ? m.type.take(copy(list[i]!)) : m.type.zero()]),
        );
      };
    }
    const templated = fn.kind === "type" && (fn.templateParams?.length ?? 0) > 0;
    if (name === "array") {
      const type = templated ? this.type(fn) : undefined;
      return (frame) =>
        args.length ? values(frame).map((v) => (type ? (type.take([v]) as Value[])[0]! : v)) : type!.zero();
    }
    if (/^vec[234]$/.test(name) && !templated) {
      const size = Number(name[3]);
      return (frame) => {
        const parts = values(frame).flat() as Value[];
        const mixed = parts.some((part) => typeof part === "number");
        const typed = mixed ? parts.map((part) => Number(part)) : parts;
        return typed.length === 1 ? Array<Value>(size).fill(typed[0]!) : typed;
      };
    }
    if (templated || scalars[name] || /^vec[234][fhiu]$/.test(name)) {
      const type = this.type(fn);
      return (frame) => {
        if (args.length === 0) return type.zero();
        const parts = (values(frame).flat() as Value[]).map((part) => type.convert!(part));
        if (!type.size) return parts[0]!;
        return parts.length === 1 ? Array<Value>(type.size).fill(parts[0]!) : parts;
      };
    }
    const one = componentwise[name];
    if (name === "select") {
      return (frame) => {
        const [no, yes, cond] = values(frame) as [Value, Value, Value];
        return Array.isArray(cond) ? each([no, yes, cond], one!) : cond ? yes : no;
      };
    }
    if (one) {
      const takesIntegers = ["abs", "sign", "min", "max", "clamp", "countOneBits"].includes(name);
      return (frame) => each(takesIntegers ? values(frame) : values(frame).map(toFloat), one);
    }
    const all = whole[name];
    if (!all) throw new Error(`function ${name}`);
    return (frame) => all(...values(frame));
  }
}

const position = (letter: string): number => ("xyzw".includes(letter) ? "xyzw" : "rgba").indexOf(letter);

/** Calls `name` for every element of a row at once: its arguments by element. */
export function callRow(interpreter: Interpreter, name: string, args: readonly (readonly Value[])[]): Value[] {
  // Each element runs from the start again until all have met the next primitive, whose results are then known.
  const met: Value[][] = [];
  for (;;) {
    const waiting: Value[] = [];
    const done: Value[] = [];
    args.forEach((own, lane) => {
      let at = 0;
      interpreter.row = (_, value) => {
        if (at < met.length) return met[at++]![lane]!;
        throw { waits: value };
      };
      try {
        done.push(interpreter.call(name, ...own));
      } catch (error) {
        if (!(typeof error === "object" && error && "waits" in error)) throw error;
        waiting.push(error.waits as Value);
      }
    });
    if (waiting.length === 0) return done;
    // which primitive it is: ask the first element once more
    let primitive = "";
    let at = 0;
    interpreter.row = (own) => {
      if (at < met.length) return met[at++]![0]!;
      primitive = own;
      throw { waits: 0 };
    };
    try {
      interpreter.call(name, ...args[0]!);
    } catch {}
    met.push(rows[primitive]!(waiting));
  }
}
