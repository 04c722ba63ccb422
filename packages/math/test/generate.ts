/** Random pure WGSL functions of every construct that derives, from a seed. */

type Kind = "f32" | "vec2f" | "vec3f" | "bool" | "i32" | "array<f32, 3>" | "S";

interface Variable {
  readonly name: string;
  readonly kind: Kind;
  readonly assignable: boolean;
}

export interface Generated {
  readonly source: string;
  readonly params: readonly string[];
}

const declarations = `struct S { a: f32, b: vec3f, n: i32 }
const RATE = 0.75;
const TABLE = array<f32, 3>(0.5, -1.0, 2.0);
`;

export class Generator {
  private state: number;
  private names = 0;
  private variables: Variable[] = [];
  private helpers: { name: string; kind: Kind; params: Kind[] }[] = [];
  private loops = 0;
  private result: Kind = "f32";

  constructor(seed: number) {
    this.state = Math.imul(seed, 0x9e3779b1) >>> 0;
  }

  /** In [0, 1). */
  random(): number {
    this.state = (this.state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(this.state ^ (this.state >>> 15), this.state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  private below(n: number): number {
    return Math.floor(this.random() * n);
  }

  private pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)]!;
  }

  private chance(p: number): boolean {
    return this.random() < p;
  }

  generate(): Generated {
    const helpers = Array.from({ length: this.below(3) }, () => this.helper());
    const main = this.fn("f", "f32", ["x: f32", "y: f32", "v: vec3f", "u: vec2f", "s: S", "k: i32"], 6);
    return { source: `${declarations}${helpers.join("")}${main}`, params: ["x", "y", "v", "u", "s", "k"] };
  }

  /** A function of x, y and z for the elements of a row: primitives of the row, of one another too, with functions between. */
  generateRow(): string {
    const parts: string[] = [];
    const lines: string[] = [];
    const known = ["x", "y", "z"];
    const value = (): string => {
      const name = `part${parts.length}`;
      parts.push(this.fn(name, "f32", ["x: f32", "y: f32", "z: f32"], 2));
      return `${name}(${[0, 1, 2].map(() => this.pick(known)).join(", ")})`;
    };
    const count = 1 + this.below(4);
    for (let i = 0; i < count; i++) {
      const primitive = this.pick(["rowSum", "rowMean", "rowMax", "rowCumsum", "rowCumsum", "rowCumsumReverse"]);
      const one = this.chance(0.7);
      lines.push(`  let r${i} = ${primitive}(${one ? value() : `vec2f(${value()}, ${value()})`});\n`);
      known.push(...(one ? [`r${i}`] : [`r${i}.x`, `r${i}.y`]));
    }
    const result = `${value()} + 0.3 * (${known.join(" + ")})`;
    const list = "x: f32, y: f32, z: f32";
    return `${declarations}${parts.join("")}fn f(${list}) -> f32 {\n${lines.join("")}  return ${result};\n}\n`;
  }

  private helper(): string {
    const name = `h${this.helpers.length}`;
    const kind = this.pick<Kind>(["f32", "f32", "vec3f", "S", "array<f32, 3>"]);
    const params = Array.from({ length: 1 + this.below(3) }, () => this.pick<Kind>(["f32", "vec3f", "vec2f", "i32"]));
    const text = this.fn(
      name,
      kind,
      params.map((param, i) => `p${i}: ${param}`),
      3,
    );
    this.helpers.push({ name, kind, params });
    return text;
  }

  private fn(name: string, result: Kind, params: string[], size: number): string {
    this.variables = params.map((param) => {
      const [own, kind] = param.split(": ") as [string, Kind];
      return { name: own, kind, assignable: false };
    });
    this.result = result;
    const body = this.statements(1 + this.below(size), 2, "  ");
    // every number that is in sight counts
    const parts = this.variables.flatMap(({ name: own, kind }) => {
      if (kind === "f32") return [own];
      if (kind === "vec3f") return [`dot(${own}, vec3f(0.4, -0.3, 0.8))`];
      return kind === "vec2f"
        ? [`${own}.y`]
        : kind === "S"
          ? [`${own}.a`, `${own}.b.z`]
          : kind === "array<f32, 3>"
            ? [`${own}[1]`]
            : [];
    });
    const total = result === "f32" && parts.length ? ` + 0.25 * (${parts.join(" + ")})` : "";
    return `fn ${name}(${params.join(", ")}) -> ${result} {\n${body}  return ${this.of(result, 2)}${total};\n}\n`;
  }

  private statements(count: number, depth: number, indent: string): string {
    const before = this.variables.length;
    const text = Array.from({ length: count }, () => this.statement(depth, indent)).join("");
    this.inScope(before, indent);
    return text;
  }

  /** Keeps what the function's top level declared; drops what an inner block did. */
  private inScope(before: number, indent: string): void {
    if (indent.length > 2) this.variables.length = before;
  }

  private fresh(): string {
    // some names on purpose those of builtins
    return this.pick([`t${this.names++}`, `a${this.names++}`, `dy${this.names++}`, `sum${this.names++}`]);
  }

  private statement(depth: number, indent: string): string {
    const choice = this.below(depth > 0 ? 13 : 7);
    switch (choice) {
      case 0:
      case 1: {
        const kind = this.pick<Kind>(["f32", "f32", "vec3f", "vec2f", "i32", "bool"]);
        const text = this.of(kind, 3);
        const name = this.fresh();
        this.variables.push({ name, kind, assignable: false });
        return `${indent}let ${name} = ${text};\n`;
      }
      case 2: {
        const kind = this.pick<Kind>(["f32", "vec3f", "array<f32, 3>", "S", "i32"]);
        const text = this.of(kind, 2);
        const name = this.fresh();
        this.variables.push({ name, kind, assignable: true });
        return `${indent}var ${name}: ${kind}${this.chance(0.85) ? ` = ${text}` : ""};\n`;
      }
      case 3:
      case 4:
      case 5:
      case 6:
        return this.assignment(indent);
      case 7:
      case 8: {
        const then = this.statements(1 + this.below(3), depth - 1, `${indent}  `);
        const leave = this.leave(`${indent}  `, 0.3);
        const text = `${indent}if (${this.of("bool", 2)}) {\n${then}${leave}${indent}}`;
        if (this.chance(0.5)) return `${text}\n`;
        const other = this.statements(1 + this.below(2), depth - 1, `${indent}  `);
        return `${text} else {\n${other}${this.leave(`${indent}  `, 0.15)}${indent}}\n`;
      }
      case 9:
      case 10: {
        const name = `n${this.names++}`;
        const heads = [
          `var ${name} = 0; ${name} < 3; ${name}++`,
          `var ${name} = 2; ${name} >= 0; ${name}--`,
          `var ${name}: i32 = 1; ${name} <= 5; ${name} += 2`,
          `var ${name} = 0; ${name} != 2; ${name} = ${name} + 1`,
        ];
        const before = this.variables.length;
        // an index that is in range for every head is taken modulo 3
        this.variables.push({ name, kind: "i32", assignable: false });
        this.loops++;
        const body = this.statements(1 + this.below(3), depth - 1, `${indent}  `);
        this.loops--;
        this.variables.length = before;
        return `${indent}for (${this.pick(heads)}) {\n${body}${indent}}\n`;
      }
      case 11: {
        const clause = (): string => this.statements(1 + this.below(2), depth - 1, `${indent}    `);
        return `${indent}switch ${this.of("i32", 1)} {\n${indent}  case 0: {\n${clause()}${indent}  }\n${indent}  case 1, 2: {\n${clause()}${this.leave(`${indent}    `, 0.2)}${indent}  }\n${indent}  default: {\n${clause()}${indent}  }\n${indent}}\n`;
      }
      default: {
        const body = this.statements(1 + this.below(2), depth - 1, `${indent}  `);
        return `${indent}{\n${body}${indent}}\n`;
      }
    }
  }

  private leave(indent: string, p: number): string {
    if (!this.chance(p)) return "";
    if (this.loops > 0 && this.chance(0.6)) return `${indent}${this.pick(["break", "continue"])};\n`;
    return `${indent}return ${this.of(this.result, 2)};\n`;
  }

  private assignment(indent: string): string {
    const targets = this.variables.filter(({ assignable }) => assignable);
    if (targets.length === 0) return "";
    const { name, kind } = this.pick(targets);
    const operator = this.pick(["=", "+=", "-=", "*="]);
    switch (kind) {
      case "f32":
        return `${indent}${name} ${operator} ${this.of("f32", 2)};\n`;
      case "i32":
        return this.chance(0.5) ? `${indent}${name}++;\n` : `${indent}${name} = ${this.of("i32", 1)};\n`;
      case "vec3f":
        if (this.chance(0.4))
          return `${indent}${name}.${this.pick(["x", "y", "z", "g"])} ${operator} ${this.of("f32", 2)};\n`;
        if (this.chance(0.3))
          return `${indent}${name}.${this.pick(["xy", "zx", "yz"])} ${operator} ${this.of("vec2f", 2)};\n`;
        if (this.chance(0.2)) return `${indent}${name}[${this.index()}] ${operator} ${this.of("f32", 2)};\n`;
        return `${indent}${name} ${operator} ${this.of("vec3f", 2)};\n`;
      case "array<f32, 3>":
        return `${indent}${name}[${this.index()}] ${operator} ${this.of("f32", 2)};\n`;
      case "S":
        if (this.chance(0.3)) return `${indent}${name}.b.${this.pick(["x", "z"])} ${operator} ${this.of("f32", 2)};\n`;
        if (this.chance(0.2)) return `${indent}${name} = ${this.of("S", 1)};\n`;
        return this.chance(0.5)
          ? `${indent}${name}.a ${operator} ${this.of("f32", 2)};\n`
          : `${indent}${name}.b ${operator} ${this.of("vec3f", 2)};\n`;
      default:
        return "";
    }
  }

  private index(): string {
    return this.chance(0.4) ? String(this.below(3)) : `abs(${this.of("i32", 1)}) % 3`;
  }

  private named(kind: Kind): string | undefined {
    const names = this.variables.filter((variable) => variable.kind === kind).map(({ name }) => name);
    return names.length ? this.pick(names) : undefined;
  }

  /** An expression of a type. */
  of(kind: Kind, depth: number): string {
    const called = this.helpers.filter((helper) => helper.kind === kind);
    if (depth > 0 && called.length && this.chance(0.25)) {
      const { name, params } = this.pick(called);
      return `${name}(${params.map((param) => this.of(param, depth - 1)).join(", ")})`;
    }
    const name = this.named(kind);
    if (name && this.chance(depth > 0 ? 0.25 : 0.75)) return name;
    const a = (of: Kind): string => this.of(of, depth - 1);
    switch (kind) {
      case "f32":
        return depth > 0 ? this.float(a) : this.pick(["0.5", "RATE", "1.25f", "-0.75", "2.0"]);
      case "vec2f":
        return depth > 0
          ? this.pick([
              () => `vec2f(${a("f32")}, ${a("f32")})`,
              () => `(${a("vec2f")} ${this.pick(["+", "-", "*"])} ${a("vec2f")})`,
              () => `${this.place("vec3f") ?? "vec3f(1.0)"}.${this.pick(["xy", "zz", "yx"])}`,
              () => `sin(${a("vec2f")})`,
              () => `(${a("f32")} * ${a("vec2f")})`,
            ])()
          : `vec2<f32>(${this.pick(["0.5, -1.0", "1"])})`;
      case "vec3f":
        return depth > 0 ? this.vector(a) : "vec3f(0.5, -0.25, 1.0)";
      case "bool":
        return depth > 0
          ? this.pick([
              () => `((${a("f32")}) ${this.pick(["<", ">", "<=", ">="])} ${a("f32")})`,
              () => `(${a("bool")}) ${this.pick(["&&", "||"])} (${a("bool")})`,
              () => `!(${a("bool")})`,
              () => `((${a("i32")}) ${this.pick(["==", "!=", "<"])} ${a("i32")})`,
              () => `${this.pick(["all", "any"])}(${a("vec3f")} > ${a("vec3f")})`,
            ])()
          : `(${this.named("f32") ?? "RATE"} > ${this.pick(["0.1", "-0.2", "0.5"])})`;
      case "i32":
        return depth > 0
          ? this.pick([
              () => `(${a("i32")} ${this.pick(["+", "-", "*"])} ${a("i32")})`,
              () => `i32(${this.pick(["floor", "round"])}(sin(${a("f32")}) * 3.0))`,
              () => `min(${a("i32")}, 2)`,
              () => `select(${a("i32")}, ${a("i32")}, ${a("bool")})`,
            ])()
          : String(this.below(4));
      case "array<f32, 3>":
        return depth > 0 && this.chance(0.8) ? `array(f32(${a("f32")}), ${a("f32")}, ${a("f32")})` : "array<f32, 3>()";
      case "S":
        return depth > 0 && this.chance(0.8) ? `S(${a("f32")}, ${a("vec3f")}, ${a("i32")})` : "S()";
    }
  }

  private place(kind: Kind): string | undefined {
    const name = this.named(kind);
    if (name) return name;
    const struct = kind === "vec3f" ? this.named("S") : undefined;
    return struct && `${struct}.b`;
  }

  private float(a: (kind: Kind) => string): string {
    const bounded = (): string => `tanh(${a("f32")})`;
    const positive = (): string => `(0.6 + abs(${a("f32")}))`;
    return this.pick([
      () => `(${a("f32")} ${this.pick(["+", "-", "*"])} ${a("f32")})`,
      () => `(${a("f32")} ${this.pick(["+", "-", "*"])} ${a("f32")})`,
      () => `(${a("f32")} / ${positive()})`,
      () => `(${a("f32")} % ${positive()})`,
      () => `-${a("f32").replace(/^-/, "")}`,
      () =>
        `${this.pick(["sin", "cos", "tanh", "atan", "asinh", "abs", "floor", "sign", "fract", "trunc", "ceil", "round", "radians", "saturate"])}(${a("f32")})`,
      () => `${this.pick(["sinh", "cosh", "exp", "exp2", "tan", "degrees"])}(${bounded()})`,
      () => `${this.pick(["asin", "acos", "atanh"])}(0.9 * ${bounded()})`,
      () => `acosh(1.5 + abs(${a("f32")}))`,
      () => `${this.pick(["log", "log2", "sqrt", "inverseSqrt"])}(${positive()})`,
      () => `pow(${positive()}, ${this.chance(0.5) ? this.pick(["2.0", "3.0", "-1.5", "0.5"]) : bounded()})`,
      () => `${this.pick(["min", "max", "atan2"])}(${a("f32")}, ${a("f32")})`,
      () => `clamp(${a("f32")}, -0.8, ${positive()})`,
      () => `mix(${a("f32")}, ${a("f32")}, ${a("f32")})`,
      () => `fma(${a("f32")}, ${a("f32")}, ${a("f32")})`,
      () => `smoothstep(-1.5, ${positive()}, ${a("f32")})`,
      () => `step(${a("f32")}, ${a("f32")})`,
      () => `select(f32(${a("f32")}), ${a("f32")}, ${a("bool")})`,
      () => `dot(${a("vec3f")}, ${a("vec3f")})`,
      () => `${this.pick(["length", "length"])}(${a("vec3f")})`,
      () => `distance(${a("vec3f")}, ${a("vec3f")})`,
      () => `ldexp(${a("f32")}, ${this.pick(["1", "-2"])})`,
      () => `f32(${a("i32")})`,
      () => `TABLE[${this.index()}]`,
      () => `${this.place("vec3f") ?? "vec3f(1.0)"}.${this.pick(["x", "y", "z", "b"])}`,
      () => `${this.named("vec2f") ?? "vec2f(1.0)"}[${this.below(2)}]`,
      () => `${this.named("S") ?? "S()"}.a`,
      () => `${this.named("array<f32, 3>") ?? "TABLE"}[${this.index()}]`,
    ])();
  }

  private vector(a: (kind: Kind) => string): string {
    return this.pick([
      () => `vec3f(${a("f32")}, ${a("f32")}, ${a("f32")})`,
      () => `vec3f(${a("vec2f")}, ${a("f32")})`,
      () => `vec3f(${a("f32")})`,
      () => `(${a("vec3f")} ${this.pick(["+", "-", "*"])} ${a("vec3f")})`,
      () => `(${a("vec3f")} ${this.pick(["+", "-", "*"])} ${a("f32")})`,
      () => `(${a("f32")} ${this.pick(["+", "-", "*"])} ${a("vec3f")})`,
      () => `(${a("vec3f")} / (1.0 + abs(${a("vec3f")})))`,
      () => `${this.place("vec3f") ?? "vec3f(1.0)"}.${this.pick(["zyx", "xxy", "bgr"])}`,
      () => `cross(${a("vec3f")}, ${a("vec3f")})`,
      () => `normalize(vec3f(1.0, 0.5, ${a("f32")}))`,
      () => `reflect(${a("vec3f")}, ${a("vec3f")})`,
      () => `faceForward(${a("vec3f")}, ${a("vec3f")}, ${a("vec3f")})`,
      () => `refract(normalize(vec3f(1.0, ${a("f32")}, 0.5)), vec3f(0.0, 1.0, 0.0), 0.8)`,
      () => `mix(${a("vec3f")}, ${a("vec3f")}, ${this.chance(0.5) ? a("f32") : a("vec3f")})`,
      () =>
        `select(${a("vec3f")}, ${a("vec3f")}, ${this.chance(0.5) ? a("bool") : `((${a("vec3f")}) < ${a("vec3f")})`})`,
      () => `${this.pick(["sin", "cos", "tanh", "abs", "fract"])}(${a("vec3f")})`,
      () => `${this.pick(["min", "max"])}(${a("vec3f")}, ${a("vec3f")})`,
      () => `clamp(${a("vec3f")}, vec3f(-1.0), vec3f(0.9))`,
      () => `smoothstep(vec3f(-1.0), vec3f(1.5), ${a("vec3f")})`,
      () => `-${a("vec3f").replace(/^-/, "")}`,
    ])();
  }
}
