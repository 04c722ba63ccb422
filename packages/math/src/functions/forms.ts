/** Other forms of a function of numbers: for four at once, and for f16. */
import { define, type MathFunction } from "./define.ts";

/** Of the WGSL types, the vector of four. */
const vec4: Readonly<Record<string, string>> = {
  f32: "vec4f",
  f16: "vec4h",
  i32: "vec4i",
  u32: "vec4u",
  bool: "vec4<bool>",
};

/**
 * The function for four elements at once: of `fn gelu(x: f32) -> f32` it is `fn geluVec4(x: vec4f) -> vec4f`. Takes a function
 * or the text of one, such as a derivative: `vec4Form(geluGrad)`.
 */
/* @__NO_SIDE_EFFECTS__ */
export function vec4Form(fn: MathFunction | string): MathFunction {
  const { own, name, params, result } = signature("vec4Form", fn, vec4);
  const calls = [..."xyzw"].map((c) => `    ${own.name}(${params.map((param) => `${param.name}.${c}`).join(", ")}),\n`);
  return define(
    `${name}Vec4`,
    /* wgsl */ `
fn ${name}Vec4(${params.map((param) => `${param.name}: ${vec4[param.type]}`).join(", ")}) -> ${vec4[result]} {
  return ${vec4[result]}(
${calls.join("")}  );
}`,
    own,
  );
}

const half: Readonly<Record<string, string>> = { f32: "f16", i32: "i32", u32: "u32", bool: "bool" };

/**
 * The function for f16, computed in f32 and rounded once: of `fn gelu(x: f32) -> f32` it is `fn geluF16(x: f16) -> f16`. For
 * four at once: `vec4Form(f16Form(gelu))`. The kernel's text begins with `enable f16;`.
 */
/* @__NO_SIDE_EFFECTS__ */
export function f16Form(fn: MathFunction | string): MathFunction {
  const { own, name, params, result } = signature("f16Form", fn, half);
  const call = `${name}(${params.map((param) => (param.type === "f32" ? `f32(${param.name})` : param.name)).join(", ")})`;
  return define(
    `${name}F16`,
    /* wgsl */ `
fn ${name}F16(${params.map((param) => `${param.name}: ${half[param.type]}`).join(", ")}) -> ${half[result]} {
  return ${result === "f32" ? `f16(${call})` : call};
}`,
    own,
  );
}

interface Signature {
  readonly own: MathFunction;
  readonly name: string;
  readonly params: readonly { readonly name: string; readonly type: string }[];
  readonly result: string;
}

function signature(where: string, fn: MathFunction | string, forms: Readonly<Record<string, string>>): Signature {
  const wgsl = typeof fn === "string" ? fn : fn.wgsl;
  const found = [...wgsl.matchAll(/\bfn\s+(\w+)\s*\(([^)]*)\)\s*->\s*([\w<>]+)/g)];
  if (found.length !== 1) throw new Error(`${where}: the text defines ${found.length} functions, expected one`);
  const [, name, list, result] = found[0] as unknown as [string, string, string, string];
  const params = [...list.matchAll(/(\w+)\s*:\s*([\w<>]+)/g)].map(([, own, type]) => ({ name: own!, type: type! }));
  for (const type of [...params.map((param) => param.type), result]) {
    if (!forms[type])
      throw new Error(`${where}: ${name} has the type ${type}, expected ${Object.keys(forms).join(", ")}`);
  }
  const own = typeof fn === "string" ? define(name, fn) : fn;
  if (onRows(own)) throw new Error(`${where}: ${name} works on a row, not on one element`);
  return { own, name, params, result };
}

const onRows = ({ wgsl, uses }: MathFunction): boolean => /\brow(Sum|Mean|Max)\(/.test(wgsl) || uses.some(onRows);
