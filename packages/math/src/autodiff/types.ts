/** The WGSL types of pure functions. `float` and `int` are the abstract types of literals. */
export type ScalarName = "f32" | "f16" | "i32" | "u32" | "bool" | "float" | "int";

export type Type =
  | { readonly kind: "scalar"; readonly of: ScalarName; readonly text: string }
  | { readonly kind: "vec"; readonly of: ScalarName; readonly size: number; readonly text: string }
  | { readonly kind: "array"; readonly item: Type; readonly size: number; readonly text: string }
  | {
      readonly kind: "struct";
      readonly members: readonly { readonly name: string; readonly type: Type }[];
      readonly text: string;
    };

const names: readonly ScalarName[] = ["f32", "f16", "i32", "u32", "bool", "float", "int"];

const scalars = Object.fromEntries(
  names.map((of) => [of, { kind: "scalar", of, text: of } satisfies Type]),
) as unknown as Readonly<Record<ScalarName, Type>>;

export const scalar = (of: ScalarName): Type => scalars[of];

const suffix: Partial<Record<ScalarName, string>> = { f32: "f", f16: "h", i32: "i", u32: "u" };

export function vec(size: number, of: ScalarName): Type {
  const short = suffix[of];
  const text = short ? `vec${size}${short}` : of === "bool" ? `vec${size}<bool>` : `vec${size}`;
  // An abstract vector has no name of its own in WGSL: vec3(1.0, 2.0, 3.0).
  return { kind: "vec", of, size, text: of === "int" ? `${text} ` : text };
}

export const array = (item: Type, size: number): Type => ({
  kind: "array",
  item,
  size,
  text: `array<${item.text}, ${size}>`,
});

/** A type that WGSL names by itself; undefined for what a module must declare. */
export function namedType(name: string): Type | undefined {
  if (name === "f32" || name === "f16" || name === "i32" || name === "u32" || name === "bool") return scalar(name);
  const match = /^vec([234])([fhiu])$/.exec(name);
  if (!match) return undefined;
  return vec(
    Number(match[1]),
    ({ f: "f32", h: "f16", i: "i32", u: "u32" } as const)[match[2] as "f" | "h" | "i" | "u"],
  );
}

export const sameType = (a: Type, b: Type): boolean => a.text === b.text;

/** The scalar that a scalar or vector is made of. */
export const elementOf = (type: Type): ScalarName | undefined =>
  type.kind === "scalar" || type.kind === "vec" ? type.of : undefined;

const floats: ReadonlySet<string | undefined> = new Set(["f32", "f16", "float"]);
const integers: ReadonlySet<string | undefined> = new Set(["i32", "u32", "int"]);

/** A float scalar or vector. */
export const isFloat = (type: Type): boolean => floats.has(elementOf(type));
export const isInteger = (type: Type): boolean => integers.has(elementOf(type));
export const isBool = (type: Type): boolean => elementOf(type) === "bool";
export const isAbstract = (type: Type): boolean => elementOf(type) === "float" || elementOf(type) === "int";

/** Whether a value of this type can have a gradient. */
export function isDifferentiable(type: Type): boolean {
  if (type.kind === "array") return isDifferentiable(type.item);
  if (type.kind === "struct") return type.members.some((member) => isDifferentiable(member.type));
  return isFloat(type);
}

/** The type that an abstract one becomes when nothing else decides. */
export function concrete(type: Type): Type {
  const of = elementOf(type);
  if (of !== "float" && of !== "int") return type;
  const to = of === "float" ? "f32" : "i32";
  return type.kind === "vec" ? vec(type.size, to) : scalar(to);
}

export const withElement = (type: Type, of: ScalarName): Type =>
  type.kind === "vec" ? vec(type.size, of) : scalar(of);

/** Whether a value of type `from` may stand where `to` is expected: the conversions of abstract numbers. */
export function converts(from: Type, to: Type): boolean {
  if (sameType(from, to)) return true;
  if (from.kind !== to.kind || (from.kind === "vec" && to.kind === "vec" && from.size !== to.size)) return false;
  const a = elementOf(from);
  const b = elementOf(to);
  if (a === "int") return b === "float" || b === "f32" || b === "f16" || b === "i32" || b === "u32";
  return a === "float" && (b === "f32" || b === "f16");
}

/** Bytes of a value in the function address space. */
export function bytesOf(type: Type): number {
  if (type.kind === "array") return type.size * bytesOf(type.item);
  if (type.kind === "struct") return type.members.reduce((sum, member) => sum + bytesOf(member.type), 0);
  return (type.of === "f16" ? 2 : 4) * (type.kind === "vec" ? type.size : 1);
}
