/**
 * Reads a kernel's interface out of its WGSL, twice with one grammar: at run time (`reflect`) to build the bind group
 * layout, and in the type system (`Bindings`, `Overrides`), so that a misspelt or missing binding does not compile.
 * The WGSL is the only place where a binding is declared.
 *
 *   @group(0) @binding(N) var<storage, read> name: array<T>;        → Tensor
 *   @group(0) @binding(N) var<storage, read_write> name: array<T>;  → Tensor that the kernel writes
 *   @group(0) @binding(N) var<uniform> name: Struct;                → one number per scalar field
 *   override NAME: T = default;                                     → number, with that default
 *
 * T is f32, f16, i32, u32, atomic<u32> or a vector of those; it is checked against the tensor's dtype at each launch. A
 * bool is a u32 of 0 or 1, and u32 also reads f16 in pairs, so that one load takes 16 bytes of them.
 * Everything else is an error, never a guess.
 */
import type { Tensor } from "./tensor.ts";

type Trim<S extends string> = S extends ` ${infer R}` | `\n${infer R}` | `${infer R} ` | `${infer R}\n` ? Trim<R> : S;

type Vars<S extends string> = S extends `${string}var<${infer Space}> ${infer Name}:${infer Type};${infer Rest}`
  ? [Space, Name, Trim<Type>] | Vars<Rest>
  : never;

type Fields<S extends string> = S extends `${infer Head},${infer Rest}`
  ? Fields<Head> | Fields<Rest>
  : Trim<S> extends `${infer Name}:${string}`
    ? Name
    : never;

type StructFields<S extends string, Name extends string> = S extends `${string}struct ${Name} {${infer Body}}${string}`
  ? { [F in Fields<Body>]: number }
  : never;

type OverrideNames<S extends string> = S extends `${string}override ${infer Name}:${string};${infer Rest}`
  ? Name | OverrideNames<Rest>
  : never;

/** What `Kernel.run` must be given: a tensor per storage binding, an object per uniform struct. */
export type Bindings<S extends string> = string extends S
  ? Record<string, Tensor | Record<string, number>>
  : { [V in Vars<S> as V[0] extends `storage${string}` ? V[1] : never]: Tensor } & {
      [V in Vars<S> as V[0] extends "uniform" ? V[1] : never]: StructFields<S, V[2]>;
    };

/** The override constants, e.g. `{ WG: number }`. */
export type Overrides<S extends string> = string extends S
  ? Record<string, number>
  : { [K in OverrideNames<S>]: number };

export interface StorageBinding {
  readonly name: string;
  readonly binding: number;
  readonly write: boolean;
  /** Element type of the array without its vector width: what a bound tensor's dtype must be. */
  readonly element: string;
}

export interface UniformBinding {
  readonly name: string;
  readonly binding: number;
  readonly fields: readonly (readonly [name: string, type: string])[];
}

export interface Reflection {
  readonly storage: readonly StorageBinding[];
  readonly uniform: UniformBinding | undefined;
  readonly overrides: Readonly<Record<string, number>>;
}

const ELEMENT = /^array<(?:vec[234]<(f32|f16|i32|u32)>|vec[234]([fhiu])|atomic<(u32|i32)>|(f32|f16|i32|u32))>$/;
const SUFFIX: Record<string, string> = { f: "f32", h: "f16", i: "i32", u: "u32" };

/** Parses the bindings and override constants of `source`; throws on what the grammar above does not cover. */
export function reflect(label: string, source: string): Reflection {
  const text = source.replace(/\/\/[^\n]*/g, "");
  const overrides: Record<string, number> = {};
  for (const [, name, value] of text.matchAll(/override\s+(\w+)\s*:\s*\w+\s*=\s*([-\d.e]+)[uif]?\s*;/g)) {
    overrides[name!] = Number(value);
  }
  const storage: StorageBinding[] = [];
  let uniform: UniformBinding | undefined;
  for (const match of text.matchAll(/@binding\((\d+)\)\s*var<([^>]*)>\s*(\w+)\s*:\s*([^;]+);/g)) {
    const [, index, space, name, type] = match as unknown as [string, string, string, string, string];
    const binding = Number(index);
    if (space === "uniform") {
      if (uniform) throw new Error(`${label}: two uniform bindings, "${uniform.name}" and "${name}"`);
      uniform = { name, binding, fields: structFields(label, text, type.trim()) };
      continue;
    }
    const element = ELEMENT.exec(type.trim());
    if (!element || !/^storage,\s*read(_write)?$/.test(space)) {
      throw new Error(
        `${label}: binding "${name}" is var<${space}> ${type.trim()}; expected a storage array of scalars or vectors`,
      );
    }
    const scalar = element[1] ?? element[3] ?? element[4] ?? SUFFIX[element[2]!]!;
    storage.push({ name, binding, write: space.endsWith("read_write"), element: scalar });
  }
  const declared = text.match(/@binding\(/g)?.length ?? 0;
  const read = storage.length + (uniform ? 1 : 0);
  if (declared !== read) {
    throw new Error(
      `${label}: understood ${read} of ${declared} bindings; write each as @group(0) @binding(N) var<space> name: Type;`,
    );
  }
  return { storage, uniform, overrides };
}

function structFields(label: string, text: string, struct: string): [string, string][] {
  const body = new RegExp(`struct ${struct}\\s*\\{([^}]*)\\}`).exec(text)?.[1];
  if (body === undefined) throw new Error(`${label}: struct ${struct} not found`);
  const fields = body.split(",").flatMap((line) => line.trim() || []);
  return fields.map((field) => {
    const match = /^(\w+)\s*:\s*(u32|i32|f32)$/.exec(field);
    if (!match) throw new Error(`${label}: struct ${struct} may hold u32, i32 and f32 only, not "${field}"`);
    return [match[1]!, match[2]!];
  });
}
