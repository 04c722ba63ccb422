/**
 * Containers, under PyTorch's names and with its keys in the state dict: a module's children are properties of the container,
 * called "0", "1", … or as they were named.
 */
import { add, isModule, isTensor, Module, parameter, type Tensor } from "@kindling/core";

/** A module of one input and one output. */
export interface UnaryModule extends Module {
  forward(x: Tensor): Tensor;
}

/** Throws unless `key` can be a child's name in the state dict, and no member of `owner` but a child has it. */
function checkKey(where: string, owner: object, key: string, isChild: (value: unknown) => boolean): void {
  if (key === "" || key.includes("."))
    throw new Error(`${where}: "${key}" cannot be a name; expected one without dots that is not empty`);
  if (key in owner && !isChild((owner as Record<string, unknown>)[key]))
    throw new Error(`${where}: "${key}" cannot be a name: the class ${where} has a member of that name`);
}

function checkModule(where: string, what: string, value: unknown): void {
  if (!isModule(value)) throw new Error(`${where}: ${what} is ${shown(value)}, expected a Module`);
}

const shown = (value: unknown): string =>
  typeof value === "function" ? `the function ${value.name}` : isTensor(value) ? `a ${value}` : String(value);

/** A place in a list of `length`, counted from the end where negative. */
function placeOf(where: string, index: number, length: number): number {
  const at = index < 0 ? index + length : index;
  if (!Number.isInteger(at) || at < 0 || at >= length)
    throw new Error(`${where}: index ${index}, expected a whole number from ${-length} to ${length - 1}`);
  return at;
}

/** Children under the numbers from 0 on. */
abstract class NumberedModules<M extends Module> extends Module {
  readonly [index: number]: M;

  /** The number of modules. */
  get length(): number {
    return this.children().length;
  }

  /** The module number `index`, counted from the end where negative. */
  at(index: number): M {
    return this.children()[placeOf(this.constructor.name, index, this.length)] as M;
  }

  append(module: M): this {
    return this.extend([module]);
  }

  extend(modules: Iterable<M>): this {
    for (const module of modules) {
      checkModule(this.constructor.name, `module ${this.length}`, module);
      (this as Record<number, M>)[this.length] = module;
    }
    return this;
  }

  *[Symbol.iterator](): Generator<M> {
    yield* this.children() as M[];
  }
}

/** Modules applied one after another. Matches `torch.nn.Sequential`: `new Sequential(a, b)` or `new Sequential({ first: a, second: b })`. */
export class Sequential extends NumberedModules<UnaryModule> {
  constructor(...modules: readonly UnaryModule[] | [Readonly<Record<string, UnaryModule>>]) {
    super();
    const [first] = modules;
    if (modules.length === 1 && typeof first === "object" && first !== null && !isModule(first) && !isTensor(first)) {
      for (const [name, module] of Object.entries(first)) {
        checkKey("Sequential", this, name, isModule);
        checkModule("Sequential", `module "${name}"`, module);
        (this as unknown as Record<string, UnaryModule>)[name] = module;
      }
    } else this.extend(modules as readonly UnaryModule[]);
  }

  forward(x: Tensor): Tensor {
    let y = x;
    for (const module of this) y = module.forward(y);
    return y;
  }
}

/** A list of modules, which the model's own `forward` applies. Matches `torch.nn.ModuleList`. */
export class ModuleList<M extends Module = UnaryModule> extends NumberedModules<M> {
  constructor(modules: Iterable<M> = []) {
    super();
    this.extend(modules);
  }

  insert(index: number, module: M): this {
    const { length } = this;
    const at = index === length ? length : placeOf("ModuleList", index, length);
    checkModule("ModuleList", `module ${at}`, module);
    const all = [...this];
    all.splice(at, 0, module);
    Object.assign(this, all);
    return this;
  }

  /** Equal modules in a row are printed once, as PyTorch does it. */
  override toString(): string {
    const runs: { from: number; to: number; text: string }[] = [];
    [...this].forEach((module, i) => {
      const text = module.toString();
      const last = runs.at(-1);
      if (last?.text === text) last.to = i;
      else runs.push({ from: i, to: i, text });
    });
    const name = this.constructor.name;
    if (runs.length === 0) return `${name}()`;
    const lines = runs.map(({ from, to, text }) => {
      const body = text.replaceAll("\n", "\n  ");
      return from === to ? `  (${from}): ${body}` : `  (${from}-${to}): ${to - from + 1} x ${body}`;
    });
    return `${name}(\n${lines.join("\n")}\n)`;
  }
}

/** Modules under names, which the model's own `forward` applies. Matches `torch.nn.ModuleDict`. */
export class ModuleDict<M extends Module = UnaryModule> extends Module {
  constructor(modules: Readonly<Record<string, M>> | Iterable<readonly [string, M]> = {}) {
    super();
    for (const [name, module] of Symbol.iterator in modules
      ? (modules as Iterable<[string, M]>)
      : Object.entries(modules))
      this.set(name, module as M);
  }

  /** The module called `name`. */
  get(name: string): M {
    const found = this.has(name) ? (this as unknown as Record<string, M>)[name] : undefined;
    if (!found) throw new Error(`ModuleDict: no module is called "${name}"; there are ${this.keys().join(", ")}`);
    return found;
  }

  set(name: string, module: M): this {
    checkKey("ModuleDict", this, name, isModule);
    checkModule("ModuleDict", `module "${name}"`, module);
    (this as unknown as Record<string, M>)[name] = module;
    return this;
  }

  has(name: string): boolean {
    return Object.hasOwn(this, name) && isModule((this as unknown as Record<string, unknown>)[name]);
  }

  /** Takes the module out and returns it. */
  pop(name: string): M {
    const module = this.get(name);
    delete (this as unknown as Record<string, M>)[name];
    return module;
  }

  keys(): string[] {
    return [...this.namedChildren()].map(([name]) => name);
  }

  values(): M[] {
    return this.children() as M[];
  }

  entries(): [string, M][] {
    return [...this.namedChildren()] as [string, M][];
  }

  get length(): number {
    return this.children().length;
  }

  *[Symbol.iterator](): Generator<[string, M]> {
    yield* this.entries();
  }
}

/** `value` as a parameter: one that is none becomes it. */
function asParameter(where: string, what: string, value: Tensor): Tensor {
  if (!isTensor(value)) throw new Error(`${where}: ${what} is ${shown(value)}, expected a Tensor`);
  return (value as Tensor).role === "parameter" ? value : parameter(value);
}

/** A list of parameters. Matches `torch.nn.ParameterList`. */
export class ParameterList extends Module {
  readonly [index: number]: Tensor;

  constructor(values: Iterable<Tensor> = []) {
    super();
    for (const value of values) this.append(value);
  }

  get length(): number {
    return [...this].length;
  }

  at(index: number): Tensor {
    return this[placeOf("ParameterList", index, this.length)]!;
  }

  append(value: Tensor): this {
    const at = this.length;
    (this as Record<number, Tensor>)[at] = asParameter("ParameterList", `parameter ${at}`, value);
    return this;
  }

  *[Symbol.iterator](): Generator<Tensor> {
    for (let i = 0; this[i]; i++) yield this[i]!;
  }
}

/** Parameters under names. Matches `torch.nn.ParameterDict`. */
export class ParameterDict extends Module {
  constructor(values: Readonly<Record<string, Tensor>> = {}) {
    super();
    for (const [name, value] of Object.entries(values)) this.set(name, value);
  }

  get(name: string): Tensor {
    const found = Object.hasOwn(this, name) ? (this as unknown as Record<string, unknown>)[name] : undefined;
    if (!isTensor(found))
      throw new Error(`ParameterDict: no parameter is called "${name}"; there are ${this.keys().join(", ")}`);
    return found;
  }

  set(name: string, value: Tensor): this {
    checkKey("ParameterDict", this, name, isTensor);
    (this as unknown as Record<string, Tensor>)[name] = asParameter("ParameterDict", `parameter "${name}"`, value);
    return this;
  }

  keys(): string[] {
    return Object.entries(this).flatMap(([name, value]) => (isTensor(value) ? name : []));
  }

  get length(): number {
    return this.keys().length;
  }

  *[Symbol.iterator](): Generator<[string, Tensor]> {
    for (const name of this.keys()) yield [name, this.get(name)];
  }
}

/** Its input; its arguments are ignored, so that it can stand for any layer. Matches `torch.nn.Identity`. */
export class Identity extends Module {
  constructor(..._ignored: unknown[]) {
    super();
  }

  forward(x: Tensor): Tensor {
    return x;
  }
}

/** `x` plus what the module makes of it. */
export class Residual extends Module {
  readonly module: UnaryModule;

  constructor(module: UnaryModule) {
    super();
    checkModule("Residual", "module", module);
    this.module = module;
  }

  forward(x: Tensor): Tensor {
    const y = this.module.forward(x);
    if (y.shape.join() !== x.shape.join())
      throw new Error(`Residual: the module makes [${y.shape}] of [${x.shape}], expected the same shape`);
    return add(x, y);
  }
}

/** An axis of a tensor of `rank` axes, counted from the end where negative. */
function axisOf(where: string, dim: number, rank: number): number {
  const axis = dim < 0 ? dim + rank : dim;
  if (!Number.isInteger(axis) || axis < 0 || axis >= rank)
    throw new Error(`${where} is ${dim}, expected a whole number from ${-rank} to ${rank - 1} for ${rank} axes`);
  return axis;
}

export interface FlattenOptions {
  /** First axis of those that become one. Default 1. */
  startDim?: number;
  /** Last one. Default −1. */
  endDim?: number;
}

/** Makes one axis of several. Matches `torch.nn.Flatten`. */
export class Flatten extends Module {
  readonly startDim: number;
  readonly endDim: number;

  constructor({ startDim = 1, endDim = -1 }: FlattenOptions = {}) {
    super();
    this.startDim = startDim;
    this.endDim = endDim;
  }

  forward(x: Tensor): Tensor {
    const rank = Math.max(x.shape.length, 1);
    const start = axisOf("Flatten: startDim", this.startDim, rank);
    const end = axisOf("Flatten: endDim", this.endDim, rank);
    if (start > end)
      throw new Error(`Flatten: startDim ${this.startDim} comes after endDim ${this.endDim} in shape [${x.shape}]`);
    return x.reshape([...x.shape.slice(0, start), -1, ...x.shape.slice(end + 1)]);
  }

  protected override extraRepr(): string {
    return `startDim=${this.startDim}, endDim=${this.endDim}`;
  }
}

/** Makes several axes, of the sizes given, of one; one size may be −1. Matches `torch.nn.Unflatten(dim, unflattenedSize)`. */
export class Unflatten extends Module {
  readonly dim: number;
  readonly unflattenedSize: readonly number[];

  constructor(dim: number, unflattenedSize: readonly number[]) {
    super();
    const inferred = unflattenedSize.filter((d) => d === -1).length;
    if (
      unflattenedSize.length === 0 ||
      inferred > 1 ||
      unflattenedSize.some((d) => !Number.isInteger(d) || d < -1 || d === 0)
    )
      throw new Error(
        `Unflatten: unflattenedSize is [${unflattenedSize}], expected whole numbers ≥ 1, of which one may be -1`,
      );
    this.dim = dim;
    this.unflattenedSize = [...unflattenedSize];
  }

  forward(x: Tensor): Tensor {
    const axis = axisOf("Unflatten: dim", this.dim, x.shape.length);
    const size = x.shape[axis]!;
    const known = this.unflattenedSize.reduce((n, d) => (d === -1 ? n : n * d), 1);
    const sizes = this.unflattenedSize.map((d) => (d === -1 ? size / known : d));
    if (sizes.some((d) => !Number.isInteger(d)) || sizes.reduce((n, d) => n * d, 1) !== size)
      throw new Error(
        `Unflatten: axis ${this.dim} of [${x.shape}] has size ${size}, expected that of [${this.unflattenedSize}]`,
      );
    return x.reshape([...x.shape.slice(0, axis), ...sizes, ...x.shape.slice(axis + 1)]);
  }

  protected override extraRepr(): string {
    return `dim=${this.dim}, unflattenedSize=[${this.unflattenedSize}]`;
  }
}
