/**
 * Module: what layers and models extend. Fields marked by `parameter()` and `buffer()` are its state, fields that are
 * modules (or arrays of modules) its children: found by walking the object in the order of assignment, never registered.
 * Field names are PyTorch's, so that a state dict has PyTorch's keys.
 */
import { copyInto } from "./arithmetic.ts";
import { persist } from "./scope.ts";
import { emptyLike, type FloatType, isTensor, type Tensor } from "./tensor.ts";

export type StateDict = Record<string, Tensor>;

export interface LoadResult {
  missingKeys: string[];
  unexpectedKeys: string[];
}

// Like tensors, modules of two copies of core recognise each other.
const MODULE: unique symbol = Symbol.for("@kindling/core/module/1") as never;

export const isModule = (value: unknown): value is Module =>
  typeof value === "object" && value !== null && MODULE in value;

export abstract class Module {
  static {
    Object.defineProperty(this.prototype, MODULE, { value: true });
  }

  /** False after `eval()`: dropout passes through, batch norm uses its running statistics. */
  training = true;

  /** Direct children with their names. */
  *namedChildren(): Generator<[string, Module]> {
    for (const [key, value] of Object.entries(this)) {
      if (isModule(value)) yield [key, value];
      else if (Array.isArray(value)) {
        for (const [i, item] of value.entries()) if (isModule(item)) yield [`${key}.${i}`, item];
      }
    }
  }

  children(): Module[] {
    return [...this.namedChildren()].map(([, child]) => child);
  }

  /** This module and all below it, parents first. */
  *modules(): Generator<Module> {
    yield this;
    for (const [, child] of this.namedChildren()) yield* child.modules();
  }

  /** Parameters with their paths; a parameter that several modules share comes once, under its first path. */
  *namedParameters(prefix = ""): Generator<[string, Tensor]> {
    const seen = new Set<Tensor>();
    for (const [name, p] of named(this, "parameter", prefix)) {
      if (seen.has(p)) continue;
      seen.add(p);
      yield [name, p];
    }
  }

  namedBuffers(prefix = ""): Generator<[string, Tensor]> {
    return named(this, "buffer", prefix);
  }

  parameters(): Tensor[] {
    return [...this.namedParameters()].map(([, p]) => p);
  }

  buffers(): Tensor[] {
    return [...this.namedBuffers()].map(([, b]) => b);
  }

  /** Every parameter and buffer under its path, shared ones under each of theirs: the tensors themselves, no copies. */
  stateDict(): StateDict {
    return Object.fromEntries([...named(this, "parameter"), ...named(this, "buffer")]);
  }

  /**
   * Copies the values of `state` into this module's parameters and buffers, converting dtypes. With `strict`, the
   * default, keys that are missing or unexpected are an error and nothing is copied; shapes must always agree.
   */
  loadStateDict(state: StateDict, { strict = true }: { strict?: boolean } = {}): LoadResult {
    const own = this.stateDict();
    const missingKeys = Object.keys(own).filter((key) => !(key in state));
    const unexpectedKeys = Object.keys(state).filter((key) => !(key in own));
    const problems = Object.entries(own)
      .filter(([key, t]) => state[key] && state[key].shape.join() !== t.shape.join())
      .map(([key, t]) => `${key} has shape [${state[key]!.shape}], expected [${t.shape}]`);
    if (strict && missingKeys.length > 0) problems.push(`missing: ${missingKeys.join(", ")}`);
    if (strict && unexpectedKeys.length > 0) problems.push(`unexpected: ${unexpectedKeys.join(", ")}`);
    if (problems.length > 0) throw new Error(`loadStateDict: ${problems.join("; ")}`);
    for (const [key, t] of Object.entries(own)) if (state[key]) copyInto(t, state[key]);
    return { missingKeys, unexpectedKeys };
  }

  /** Sets the mode of this module and all below it. */
  train(on = true): this {
    for (const m of this.modules()) m.training = on;
    return this;
  }

  eval(): this {
    return this.train(false);
  }

  /** Freezes or unfreezes all parameters. */
  requiresGrad_(on = true): this {
    for (const p of this.parameters()) p.requiresGrad = on;
    return this;
  }

  /**
   * Converts the parameters and buffers that hold floats, here and below. The converted tensors are new objects: make the
   * optimizer afterwards. (Tensors do not move between devices; give a layer's constructor the device instead.)
   */
  to(dtype: FloatType): this {
    for (const m of this.modules()) {
      for (const [key, t] of Object.entries(m)) {
        if (!isTensor(t) || t.role === null || t.dtype === dtype || (t.dtype !== "f32" && t.dtype !== "f16")) continue;
        const { role, requiresGrad } = t;
        const converted = persist(copyInto(emptyLike(t, { dtype }), t));
        converted.role = role;
        converted.requiresGrad = requiresGrad;
        (m as unknown as Record<string, Tensor>)[key] = converted;
        clearGrad(t);
        t.dispose();
      }
    }
    return this;
  }

  /** Drops all gradients. */
  zeroGrad(): void {
    for (const p of this.parameters()) clearGrad(p);
  }

  /** Calls `f` on every module, children before their parents. */
  apply(f: (module: Module) => void): this {
    for (const child of this.children()) child.apply(f);
    f(this);
    return this;
  }

  /** Frees all parameters, buffers and gradients. */
  dispose(): void {
    for (const t of Object.values(this.stateDict())) {
      clearGrad(t);
      t.dispose();
    }
  }

  /** The settings that `toString` shows in parentheses. */
  protected extraRepr(): string {
    return "";
  }

  /** As PyTorch prints modules. */
  toString(): string {
    const { name } = this.constructor;
    const extra = this.extraRepr();
    const lines = [...this.namedChildren()].map(([key, child]) => `(${key}): ${child}`.replaceAll("\n", "\n  "));
    if (lines.length === 0) return `${name}(${extra})`;
    return `${name}(\n  ${[extra, ...lines].filter(Boolean).join("\n  ")}\n)`;
  }
}

/** The tensors of one role in `module` and below, with their paths. */
function* named(module: Module, role: "parameter" | "buffer", prefix = ""): Generator<[string, Tensor]> {
  for (const [key, value] of Object.entries(module)) {
    if (isTensor(value) && value.role === role) yield [prefix + key, value];
  }
  for (const [key, child] of module.namedChildren()) yield* named(child, role, `${prefix}${key}.`);
}

/** Frees `leaf.grad`. */
export function clearGrad(leaf: Tensor): void {
  leaf.grad?.dispose();
  leaf.grad = null;
}
