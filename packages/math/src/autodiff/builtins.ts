/** WGSL's builtin functions: how the type of a result follows from the arguments, and which have no derivative and why. */

/** Float in, the same type out, all arguments alike. The number of arguments. */
// biome-ignore format: a table
export const floatBuiltins: Readonly<Record<string, number>> = {
  acos: 1, acosh: 1, asin: 1, asinh: 1, atan: 1, atanh: 1, ceil: 1, cos: 1, cosh: 1, degrees: 1, exp: 1, exp2: 1,
  floor: 1, fract: 1, inverseSqrt: 1, log: 1, log2: 1, normalize: 1, radians: 1, round: 1, saturate: 1, sin: 1, sinh: 1,
  sqrt: 1, tan: 1, tanh: 1, trunc: 1, atan2: 2, cross: 2, pow: 2, reflect: 2, step: 2, faceForward: 3, fma: 3,
};

/** Those of the above that take vectors only. */
export const vectorBuiltins: ReadonlySet<string> = new Set(["normalize", "cross", "reflect", "faceForward", "dot"]);

/** Floats or integers, all alike. */
export const numericBuiltins: Readonly<Record<string, number>> = { abs: 1, sign: 1, min: 2, max: 2, clamp: 3 };

/** Integers only; the result is one too. */
// biome-ignore format: a table
export const integerBuiltins: Readonly<Record<string, number>> = {
  countLeadingZeros: 1, countOneBits: 1, countTrailingZeros: 1, firstLeadingBit: 1, firstTrailingBit: 1, reverseBits: 1,
  extractBits: 3, insertBits: 4,
};

/** Those with a rule of their own in lower.ts. */
const special = [
  "all",
  "any",
  "bitcast",
  "distance",
  "dot",
  "ldexp",
  "length",
  "mix",
  "select",
  "smoothstep",
  "refract",
];

/** Builtins without a derivative here. */
export function refusal(name: string): string | undefined {
  if (/^texture[A-Z]/.test(name)) return "reads or writes a texture";
  if (/^atomic[A-Z]/.test(name)) return "is atomic, a side effect";
  if (/Barrier$/.test(name) || name === "workgroupUniformLoad") return "is a barrier, a side effect";
  if (/^(subgroup|quad)[A-Z]/.test(name))
    return "works across invocations; rowSum, rowMean, rowMax, rowCumsum and rowCumsumReverse are what differentiates";
  if (/^(dpdx|dpdy|fwidth)/.test(name)) return "is a derivative across pixels";
  if (/^(pack|unpack)[24]x/.test(name) || name.startsWith("dot4")) return "works on packed bits and has no derivative";
  if (name === "modf" || name === "frexp")
    return "returns a struct without a name; use trunc and fract, or log2 and floor";
  if (name === "quantizeToF16") return "rounds; its derivative is zero almost everywhere, which is hardly meant";
  if (name === "transpose" || name === "determinant")
    return "works on matrices, which have no derivative here; use vectors";
  if (name === "arrayLength") return "needs a pointer to storage";
  return undefined;
}

/** Every builtin function's name: a function or variable of a derivative must not hide one. */
export const builtinNames: ReadonlySet<string> = new Set([
  ...Object.keys(floatBuiltins),
  ...Object.keys(numericBuiltins),
  ...Object.keys(integerBuiltins),
  ...special,
]);

/**
 * Builtins that are differentiated as what they stand for. Their text is WGSL's own definition; `T` is the type of the
 * arguments and `S` its scalar.
 */
export const definitions: Readonly<Record<string, (T: string, S: string) => string>> = {
  smoothstep: (T) => /* wgsl */ `
fn smoothstep_(low: ${T}, high: ${T}, x: ${T}) -> ${T} {
  let t = clamp((x - low) / (high - low), ${T}(0), ${T}(1));
  return t * t * (3.0 - 2.0 * t);
}`,
  refract: (T, S) => /* wgsl */ `
fn refract_(i: ${T}, n: ${T}, eta: ${S}) -> ${T} {
  let cosine = dot(n, i);
  let k = 1.0 - eta * eta * (1.0 - cosine * cosine);
  if (k < 0.0) { return ${T}(); }
  return eta * i - (eta * cosine + sqrt(k)) * n;
}`,
};
