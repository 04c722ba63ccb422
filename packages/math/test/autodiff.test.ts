// Every builtin and construct against central differences; the printed text; the conventions at kinks; the errors.
import { AutodiffError, grad, jvp } from "@kindling/math/autodiff";
import { describe, expect, test } from "vitest";
import { derivativeError, numbers } from "./check.ts";
import { callRow, Interpreter, type Value } from "./interpreter.ts";

/** Arguments by name: x and y are numbers, v and w vec3f, u a vec2f, k an i32. */
const values: Record<string, Value> = {
  x: 0.37,
  y: 0.81,
  z: -0.54,
  v: [0.3, -0.7, 1.1],
  w: [0.9, 0.4, -0.2],
  u: [0.6, -1.3],
  k: 1n,
};
const types: Record<string, string> = { x: "f32", y: "f32", z: "f32", v: "vec3f", w: "vec3f", u: "vec2f", k: "i32" };

/** A function of the named parameters with that body. */
function errorOf(
  body: string,
  names: string,
  result = "f32",
  before = "",
  given: Record<string, Value> = {},
): number | null {
  const params = names.split(" ");
  const list = params.map((name) => `${name}: ${types[name]}`).join(", ");
  const source = `${before}\nfn f(${list}) -> ${result} { ${body} }`;
  const wrt = params.filter((name) => name !== "k");
  return derivativeError({ source, fn: "f", wrt, params, args: params.map((name) => given[name] ?? values[name]!) });
}

const unaries =
  "acos asin asinh atan atanh ceil cos cosh degrees exp exp2 floor fract inverseSqrt log log2 radians round saturate sign sin sinh sqrt tan tanh trunc abs";
const binaries = "atan2 pow step max min";

describe("builtins", () => {
  test.each(unaries.split(" "))("%s", (name) => {
    expect(errorOf(`return ${name}(x);`, "x")).toBeLessThan(1e-7);
    expect(errorOf(`return ${name}(abs(v) * 0.5);`, "v", "vec3f")).toBeLessThan(1e-7);
  });

  test.each(binaries.split(" "))("%s", (name) => {
    expect(errorOf(`return ${name}(x, y);`, "x y")).toBeLessThan(1e-7);
    expect(errorOf(`return ${name}(abs(v), w);`, "v w", "vec3f")).toBeLessThan(1e-7);
  });

  // biome-ignore format: a table
  test.each([
    ["acosh(x + 1.2)", "x"], ["clamp(x, z, y)", "x y z"], ["clamp(x, y, 2.0)", "x y"], ["clamp(y, z, x)", "x y z"],
    ["fma(x, y, z)", "x y z"], ["mix(x, y, z)", "x y z"], ["smoothstep(z, y, x)", "x y z"], ["ldexp(x, 3)", "x"],
    ["ldexp(x, k)", "x k"], ["select(x, y, x > 0.2)", "x y"], ["dot(v, w)", "v w"], ["length(v)", "v"], ["length(z)", "z"],
    ["distance(v, w)", "v w"], ["distance(x, y)", "x y"], ["pow(x, 2.0)", "x"], ["pow(x, 0.5)", "x"], ["pow(2.0, x)", "x"],
    ["x % y", "x y"], ["-x % y + z", "x y z"], ["x / y / z", "x y z"], ["f32(f16(x))", "x"],
  ])("%s", (expression, names) => {
    expect(errorOf(`return ${expression};`, names)).toBeLessThan(1e-7);
  });

  // biome-ignore format: a table
  test.each([
    ["cross(v, w)", "v w"], ["normalize(v)", "v"], ["reflect(v, normalize(w))", "v w"], ["faceForward(v, w, v)", "v w"],
    ["refract(normalize(v), normalize(w), x)", "v w x"], ["mix(v, w, x)", "v w x"], ["mix(v, w, v)", "v w"],
    ["select(v, w, v > w)", "v w"], ["select(v, w, x > 0.0)", "v w x"], ["clamp(v, w, vec3f(y))", "v w y"],
    ["smoothstep(v, w, vec3f(x))", "v w x"], ["fma(v, w, v)", "v w"], ["x * v + v / y - z", "x y z v"],
    ["v % vec3f(0.4)", "v"], ["vec3f(u, x).zyx", "u x"], ["vec3f(x)", "x"], ["v.xxy + v.zyx", "v"], ["x - v", "x v"],
    ["x / (2.0 + v)", "x v"], ["v.bgr", "v"], ["vec3f(vec3h(v))", "v"], ["ldexp(v, vec3i(k))", "v k"],
  ])("%s", (expression, names) => {
    expect(errorOf(`return ${expression};`, names, "vec3f")).toBeLessThan(1e-7);
  });
});

describe("constructs", () => {
  // biome-ignore format: a table
  test.each([
    ["compound assignment", "var a = x; a += y; a *= x; a -= 2.0; a /= 1.0 + y * y; a %= 3.0; return a;", "x y"],
    ["let, var and const", "const c = 2.0; let a = c * x; var b = a; b = b * a; return b;", "x"],
    ["increments", "var i = 1; i++; i--; i++; return x * f32(i);", "x"],
    ["if and else if", "var a = x; if (y > 2.0) { a = 1.0; } else if (y > 0.5) { a *= y; } else { a = y; } return a;", "x y"],
    ["early return", "if (x < 0.0) { return y; } let a = x * y; if (a > 0.1) { return a * a; } return a;", "x y"],
    ["nested early return", "if (y > 0.0) { if (x > 1.0) { return y; } if (x > 0.3) { return x * x; } } return x * y;", "x y"],
    ["for upwards", "var a = 1.0; for (var i = 0; i < 7; i++) { a = a * x + f32(i); } return a;", "x"],
    ["for downwards", "var a = y; for (var i = 9; i > 0; i -= 2) { a = sin(a * x) + f32(i); } return a;", "x y"],
    ["for with u32", "var a = y; for (var i = 2u; i <= 8u; i += 3u) { a = sin(a * x) + f32(i); } return a;", "x y"],
    ["for with a constant bound", "var a = y; for (var i: i32 = 0; N > i; i = i + 1) { a *= x; } return a;", "x y"],
    ["one step", "var a = y; for (var i = 3; i == 3; i++) { a *= x; } return a;".replace("i == 3", "i < 4"), "x y"],
    ["no step", "var a = y; for (var i = 3; i < 3; i++) { a *= x; } return a;", "x y"],
    ["break and continue", "var a = y; for (var i = 0; i < 9; i++) { if (i == 2) { continue; } a = a * 1.3 + x; if (a > 3.0) { break; } } return a;", "x y"],
    ["return from a loop", "var a = y; for (var i = 0; i < 9; i++) { a = a * 1.3 + x; if (a > 3.0) { return a * a; } } return a * 1e3;", "x y"],
    ["nested loops", "var a = x; for (var i = 0; i < 3; i++) { for (var j = 0; j < 2; j++) { a = cos(a + f32(i * j) * y); } } return a;", "x y"],
    ["swapped in a loop", "var a = x; var b = y; for (var i = 0; i < 5; i++) { let t = a; a = b * 1.1; b = t + a * 0.5; } return a - b;", "x y"],
    ["switch", "var a = x; switch k { case 0: { a = y; } case 1, 2: { a = x * y; } default: { a = 1.0; } } return a;", "x y k"],
    ["switch that breaks", "var a = x; switch (k + 4) { default: { a = y; if (x > 0.1) { break; } a = 0.0; } case 1 { a = x; } } return a * a;", "x y k"],
    ["switch that returns", "switch k { case 1: { return x * x; } default: { } } return y;", "x y k"],
    ["block and shadowing", "var a = x; { let x = y * 2.0; a = a * x; } return a;", "x y"],
    ["components", "var a = v; a.x = x * a.y; a.yz = a.zx; a[k] *= 2.0; return a.x * a.y + a.z;", "x v k"],
    ["fixed arrays", "var a = array<f32, 4>(); for (var i = 0; i < 4; i++) { a[i] = x * f32(i) + y; } for (var i = 1; i < 4; i++) { a[i] += a[i - 1] * a[i]; } return a[3] * a[k];", "x y k"],
    ["arrays of vectors", "var a = array(v, v * x); a[1].y = x * x; a[k].z *= 3.0; return dot(a[0], a[1]);", "x v k"],
    ["structs", "var s = S(x, v, 2); s.b.x *= s.a; let t = s; s.a = t.b.z * f32(t.n); return s.a * t.b.x;", "x v"],
    ["arrays of structs", "var s = array(S(x, v, 2), S()); s[1] = s[0]; s[1].a *= s[0].b.y; return s[1].a + s[k].a;", "x v k"],
    ["calls", "return twice(x) * h(twice(y), v);", "x y v"],
    ["integers and booleans", "let n = i32(floor(x * 10.0)) & 3; let b = !(n == 2) || (x > 3.0 && n != 1); return select(x, y * f32(n), b);", "x y"],
    ["module constants", "return x * RATE + TABLE[k] * y;", "x y k"],
    ["NaN by its bits", "if ((bitcast<u32>(x) & 0x7fffffffu) > 0x7f800000u) { return y; } return x * x;", "x y"],
    ["a phony assignment", "_ = y; ; return x * x;", "x y"],
    ["names of builtins", "let exp = x * 2.0; let select = exp * exp; var dot = select; dot *= y; return dot;", "x y"],
    ["precedence", "if (x < y * 2.0 - 1.0 + 5.0 && x + 1.0 > 0.5 * y) { return x * x - y - 1.0; } return y;", "x y"],
  ])("%s", (_, body, names) => {
    const before = `
      const N = 4; const RATE = 0.25; const TABLE = array<f32, 3>(1.0, RATE, 4.0); alias T = f32;
      struct S { a: f32, b: vec3f, n: i32 }
      fn twice(x: T) -> f32 { return x + x; }
      fn h(x: f32, v: vec3f) -> f32 { if (v.x > 0.0) { return x * v.y; } return dot(v, v); }`;
    expect(errorOf(body, names, "f32", before)).toBeLessThan(1e-7);
    if (names.includes("k")) expect(errorOf(body, names, "f32", before, { k: 0n })).toBeLessThan(1e-7);
  });

  test("array, struct and several results", () => {
    const source = `struct P { a: f32, b: vec2f, n: i32 }
      fn f(p: P, q: array<f32, 3>, x: f32) -> P { var r = p; r.a += q[1] * x; r.b = p.b * q[0] + q[2]; return r; }`;
    const args: Value[] = [{ a: 0.3, b: [0.2, 0.9], n: 2n }, [0.4, 0.5, -0.6], 1.2];
    expect(derivativeError({ source, fn: "f", params: ["p", "q", "x"], args })).toBeLessThan(1e-8);
  });

  test("what no branch reaches does no harm: the gradient of sqrt(x) for x > 0 else 0, at 0", () => {
    const source = "fn f(x: f32) -> f32 { if (x > 0.0) { return sqrt(x); } return 0.0; }";
    expect(new Interpreter(grad(source)).call("fGrad", 0, 1)).toBe(0);
  });
});

describe("at kinks, as PyTorch", () => {
  const at = (expression: string, ...args: number[]): number[] => {
    const names = ["x", "y", "z"].slice(0, args.length);
    const source = `fn f(${names.map((name) => `${name}: f32`).join(", ")}) -> f32 { return ${expression}; }`;
    return numbers(new Interpreter(grad(source)).call("fGrad", ...args, 1));
  };

  // biome-ignore format: a table
  test.each<[string, number[], number[]]>([
    ["max(x, y)", [2, 2], [0.5, 0.5]], ["min(x, y)", [2, 2], [0.5, 0.5]], ["max(x, 0.0)", [0], [0.5]], ["abs(x)", [0], [0]],
    ["clamp(x, -1.0, 1.0)", [1], [1]], ["clamp(x, -1.0, 1.0)", [-1], [1]], ["clamp(x, -1.0, 1.0)", [1.5], [0]],
    ["clamp(x, y, z)", [1, 1, 2], [1, 0, 0]], ["clamp(x, y, z)", [0, 1, 2], [0, 1, 0]], ["clamp(x, y, z)", [3, 1, 2], [0, 0, 1]],
    ["clamp(x, y, z)", [1, 2, 0], [0, 0, 1]], ["saturate(x)", [1], [1]], ["sign(x)", [0], [0]], ["round(x)", [0.5], [0]],
    ["pow(x, y)", [0, 0], [0, 0]], ["pow(x, y)", [0, 2], [0, 0]], ["atan2(x, y)", [0, 0], [0, 0]], ["length(vec2f(x, y))", [0, 0], [0, 0]],
    ["select(0.0, x, x > 0.0)", [0], [0]], ["fract(x)", [1], [1]], ["x % y", [3, 2], [1, -1]],
  ])("%s at %j", (expression, args, expected) => {
    expect(at(expression, ...args).map((g) => g + 0)).toEqual(expected);
  });

  test("rowMax shares the gradient of equal elements", () => {
    const source = "fn f(x: f32) -> f32 { return rowMax(x); }";
    const rows = callRow(new Interpreter(grad(source)), "fGrad", [
      [3, 1],
      [1, 0],
      [3, 0],
    ]);
    expect(rows).toEqual([0.5, 0, 0.5]);
  });
});

describe("rows", () => {
  const functions: Record<string, string> = {
    softmax: "fn f(x: f32, w: f32) -> f32 { let e = exp(x - rowMax(x)); return w * e / rowSum(e); }",
    logSoftmax: "fn f(x: f32, w: f32) -> f32 { let c = x - rowMax(x); return w * (c - log(rowSum(exp(c)))); }",
    layerNorm:
      "fn f(x: f32, w: f32) -> f32 { let c = x - rowMean(x); return c * inverseSqrt(rowMean(c * c) + 1e-5) * w; }",
    rmsNorm: "fn f(x: f32, w: f32) -> f32 { return w * x * inverseSqrt(rowMean(x * x) + 1e-5); }",
    crossEntropy:
      "fn f(x: f32, w: f32) -> f32 { let m = rowMax(x); return log(rowSum(exp(x - m))) + m - rowSum(w * x); }",
    vectors: "fn f(x: f32, w: f32) -> f32 { let s = rowSum(vec2f(x, x * w)); return dot(s, vec2f(w, sin(x))); }",
    cumsum: "fn f(x: f32, w: f32) -> f32 { return w * rowCumsum(sin(x)); }",
    "cumsum from the end": "fn f(x: f32, w: f32) -> f32 { return rowCumsumReverse(x * x) * sin(w); }",
    "running mean": "fn f(x: f32, w: f32) -> f32 { return rowCumsum(x) / rowCumsum(1.0) * w; }",
    "causal attention":
      "fn f(x: f32, w: f32) -> f32 { let e = exp(x - rowMax(x)); return rowCumsum(e * w) / rowCumsum(e); }",
    "scans of scans":
      "fn f(x: f32, w: f32) -> f32 { let s = rowCumsum(vec2f(x, w)); return rowCumsumReverse(s.x * sin(s.y)) - rowMean(s.x); }",
  };

  test.each(Object.keys(functions))("%s", (name) => {
    const source = functions[name]!;
    const text = `${source}\n${grad(source)}\n${jvp(source)}`;
    const all = new Interpreter(text);
    const x = [0.3, -1.2, 2.1, 0.9, -0.4];
    const w = [0.5, 1.1, -0.7, 0.2, 0.9];
    const seed = [0.3, -0.9, 1.4, 0.6, 0.2];
    const loss = (a: number[], b: number[]): number =>
      callRow(
        all,
        "f",
        a.map((_, i) => [a[i]!, b[i]!]),
      ).reduce<number>((sum, y, i) => sum + (y as number) * seed[i]!, 0);
    const made = callRow(
      all,
      "fGrad",
      x.map((_, i) => [x[i]!, w[i]!, seed[i]!]),
    ).map(numbers);
    const changes = callRow(
      all,
      "fJvp",
      x.map((_, i) => [x[i]!, w[i]!, 0.4 - 0.1 * i, 0.2 * i]),
    );
    let total = 0;
    x.forEach((_, i) => {
      [x, w].forEach((list, which) => {
        const moved = (h: number): number[] => list.map((value, j) => (i === j ? value + h : value));
        const h = 1e-4;
        const diff = which === 0 ? loss(moved(h), w) - loss(moved(-h), w) : loss(x, moved(h)) - loss(x, moved(-h));
        expect(Math.abs(made[i]![which]! - diff / (2 * h))).toBeLessThan(1e-6);
        total += (diff / (2 * h)) * (which === 0 ? 0.4 - 0.1 * i : 0.2 * i);
      });
    });
    expect(changes.reduce<number>((sum, change, i) => sum + (change as number) * seed[i]!, 0)).toBeCloseTo(total, 6);
  });

  test("a second derivative", () => {
    const source = functions.softmax!;
    const once = `${source}\n${grad(source, { wrt: "x" })}`;
    const all = new Interpreter(`${once}\n${grad(once, { fn: "fGrad", wrt: "x" })}`);
    const x = [0.3, -1.2, 2.1];
    const seeds = [0.3, -0.9, 1.4];
    const loss = (a: number[]): number =>
      callRow(
        all,
        "fGrad",
        a.map((value, i) => [value, 0.5 + i, seeds[i]!]),
      ).reduce<number>((s, g, i) => s + (g as number) * (i + 1), 0);
    const made = callRow(
      all,
      "fGradGrad",
      x.map((value, i) => [value, 0.5 + i, seeds[i]!, i + 1]),
    ) as number[];
    x.forEach((_, i) => {
      const moved = (h: number): number[] => x.map((value, j) => (i === j ? value + h : value));
      expect(made[i]!).toBeCloseTo((loss(moved(1e-4)) - loss(moved(-1e-4))) / 2e-4, 6);
    });
  });
});

// srush/triton-autodiff: its tests and the example of its README, on one element
describe("triton-autodiff's examples", () => {
  test.each([
    ["exp", "return exp(x);", "x"],
    ["log", "return log(x);", "x"],
    ["log of x times exp", "return log(x) * exp(x);", "x"],
    ["the README's fn1", "let a = exp(x); let b = log(y); let c = a + b; return a * b + c * c;", "x y"],
    ["broadcasting: a row of a scalar", "return x * v;", "x v"],
    ["comp2", "return vec3f(x) * v + x;", "x v"],
  ])("%s", (_, body, names) => {
    expect(errorOf(body, names, names.includes("v") ? "vec3f" : "f32")).toBeLessThan(1e-8);
  });
});

describe("text", () => {
  const printed = (source: string, options = {}): string => grad(source, options).trim();

  test.each(Object.entries(golden()))("%s", (_, [source, expected]) => {
    expect(printed(source!)).toBe(expected);
  });

  test("a derivative by one parameter returns its gradient; by several, a struct", () => {
    const source = "fn area(width: f32, height: f32) -> f32 { return width * height; }";
    expect(printed(source, { wrt: "width", name: "areaSlope" })).toBe(
      "fn areaSlope(width: f32, height: f32, dy: f32) -> f32 {\n  return dy * height;\n}",
    );
    expect(printed(source)).toBe(
      "struct AreaGrads {\n  dwidth: f32,\n  dheight: f32,\n}\n\nfn areaGrad(width: f32, height: f32, dy: f32) -> AreaGrads {\n  return AreaGrads(dy * height, dy * width);\n}",
    );
    expect(jvp(source, { wrt: ["width"] }).trim()).toBe(
      "fn areaJvp(width: f32, height: f32, dwidth: f32) -> f32 {\n  return dwidth * height;\n}",
    );
  });

  test("a derivative that does not depend on the parameter", () => {
    expect(printed("fn f(x: f32) -> f32 { return floor(x); }")).toBe(
      "fn fGrad(x: f32, dy: f32) -> f32 {\n  return 0.0;\n}",
    );
    expect(jvp("fn f(x: f32) -> f32 { return 1.0; }").trim()).toBe(
      "fn fJvp(x: f32, dx: f32) -> f32 {\n  return 0.0;\n}",
    );
  });

  test("the same text each time", () => {
    const source = "fn f(x: f32) -> f32 { let e = exp(x); return e / (1.0 + e); }";
    expect(grad(source)).toBe(grad(source));
  });

  test("takes less than 5 ms", () => {
    const source = `fn sigmoid(x: f32) -> f32 { let e = exp(-abs(x)); return select(e, 1.0, x >= 0.0) / (1.0 + e); }
      fn f(x: f32, y: f32) -> f32 { var a = x; for (var i = 0; i < 8; i++) { a = a * sigmoid(y) + x; } return a; }`;
    for (let i = 0; i < 20; i++) grad(source);
    const times = Array.from({ length: 9 }, () => {
      const start = performance.now();
      grad(source);
      return performance.now() - start;
    });
    expect(Math.min(...times)).toBeLessThan(5);
  });
});

describe("errors", () => {
  const f = (body: string, params = "x: f32"): string => `fn f(${params}) -> f32 { ${body} }`;

  test.each<[string, string]>([
    ["fn f(x: f32) -> f32 {\n  return x +;\n}", "line 2, column 13: syntax: Expected expression after binary operator"],
    [f("return nope(x);"), "line 1, column 30: unknown function nope"],
    [f("return x + y;"), "line 1, column 34: unknown name y"],
    [f("return fft(x);"), "unknown function fft"],
    [f("return f(x - 1.0);"), "recursion: f calls f"],
    [
      "fn a(x: f32) -> f32 { return b(x); }\nfn b(x: f32) -> f32 { return a(x); }\nfn f(x: f32) -> f32 { return a(x); }",
      "recursion: f calls a calls b calls a",
    ],
    [
      f("var a = x; for (var i = 0; i < k; i++) { a *= x; } return a;", "x: f32, k: i32"),
      "for: the number of its steps is not known: its bound is not a constant",
    ],
    [f("var a = x; for (var i = 0; f32(i) < x; i++) { a *= x; } return a;"), "its condition does not compare i"],
    [
      f("var a = x; for (var i = k; i < 4; i++) { a *= x; } return a;", "x: f32, k: i32"),
      "i does not start at a constant",
    ],
    [f("var a = x; for (var i = 0; i < 4; i *= 2) { a *= x; } return a;"), "i does not change by a constant"],
    [
      f("var a = x; for (var i = 0; i >= 0; i++) { a *= x; } return a;"),
      "the number of its steps is not known: more than 65536",
    ],
    [
      f("var a = x; for (var i = 0; i < 4; i++) { i = 2; } return a;"),
      "the loop's own variable i is assigned in its body",
    ],
    [f("var a = x; for (var t = 0.0; t < 1.0; t += 0.1) { a *= t; } return a;"), "t is f32, not i32 or u32"],
    [f("var a = x; for (; ;) { a *= x; } return a;"), "it needs a variable of its own"],
    [f("var a = x; while (a < 3.0) { a *= x; } return a;"), "while: the number of its steps is not known"],
    [f("var a = x; loop { a *= x; break; } return a;"), "loop: the number of its steps is not known"],
    [f("discard; return x;"), "discard is a side effect"],
    [`var<private> a: f32;\n${f("a = x; return a;")}`, "line 1, column 1: a module-scope variable"],
    [`@group(0) @binding(0) var<storage> a: array<f32>;\n${f("return a[0] * x;")}`, "a module-scope variable"],
    [`override N = 3;\n${f("return x;")}`, "an override; use const"],
    ["fn g(p: ptr<function, f32>) -> f32 { return *p; }", "line 1, column 9: a pointer"],
    ["fn h(x: f32) -> f32 { return x; } fn g(x: f32) -> f32 { var a = x; return h(*&a); }", "a pointer"],
    [f("workgroupBarrier(); return x;"), "workgroupBarrier is a barrier, a side effect"],
    [f("return subgroupAdd(x);"), "subgroupAdd works across invocations"],
    [f("return f32(atomicAdd(x, 1)) * x;"), "atomicAdd is atomic, a side effect"],
    [f("return textureLoad(x, 1, 1).x;"), "textureLoad reads or writes a texture"],
    ["fn f(x: f32, t: texture_2d<f32>) -> f32 { return x; }", "texture_2d: a pure function has no textures"],
    ["fn f(x: f32, m: mat2x2f) -> f32 { return x; }", "a matrix; use vectors"],
    [f("return determinant(x);"), "determinant works on matrices"],
    [f("return modf(x).fract;"), "modf returns a struct without a name"],
    [f("return quantizeToF16(x);"), "quantizeToF16 rounds"],
    [
      f("return bitcast<f32>(bitcast<u32>(x) & 0x7fffffffu);"),
      "a float made of another's bits; its derivative is unknown",
    ],
    [f("return f32(bitcast<i32>(x) >> 23u);"), "a float made of another's bits"],
    [f("if (x > 0.0) { return x; }"), "f: not every path ends in a return"],
    ["fn f(x: f32) { }", "f returns nothing"],
    ["fn f(x: f32) -> i32 { return i32(x); }", "f returns i32; only floats have a derivative"],
    ["fn f(k: i32) -> f32 { return f32(k); }", "f has no parameter made of floats"],
    [f("x = 2.0; return x;"), "x is not a variable; use var"],
    [f("let a = x; a += 1.0; return a;"), "a is not a variable; use var"],
    [`const A = 1.0;\n${f("A = 2.0; return x;")}`, "writes to A, which is no variable of its own"],
    [f("if (x > 0.0) { return rowSum(x); } return x;"), "rowSum inside an if or a loop"],
    [f("if (x > 0.0) { return rowCumsum(x); } return x;"), "rowCumsum inside an if or a loop"],
    [
      f("var a = x; for (var i = 0; i < 2; i++) { a = rowCumsumReverse(a); } return a;"),
      "rowCumsumReverse inside an if",
    ],
    [f("return rowCumsum(x, x);"), "rowCumsum takes 1 argument, got 2"],
    [f("return rowCumsum(x > 0.0) * x;"), "rowCumsum(bool)"],
    [
      `fn rowCumsum(x: f32) -> f32 { return x; }\n${f("return rowCumsum(x);")}`,
      "rowCumsum hides the builtin of that name",
    ],
    [f("return x + true;"), "f32 + bool"],
    [f("return x + 1u;"), "f32 + u32"],
    [f("return sin(x, x);"), "sin takes 1 argument, got 2"],
    [f("return dot(x, x);"), "dot(f32, f32)"],
    [f("return vec2f(x, x);"), "the result is vec2f, expected f32"],
    [f("return vec2f(x, x).z;"), "vec2f has no member z"],
    [f("return array(x, x)[2];"), "index 2 of a array<f32, 2>"],
    [f("var v = vec2f(x); v.xx = vec2f(1.0); return v.x;"), "which repeats a component"],
    [f("if (x) { return x; } return x;"), "a condition of type f32, expected bool"],
    [`fn sin(x: f32) -> f32 { return x; }\n${f("return sin(x);")}`, "sin hides the builtin of that name"],
    [`@compute @workgroup_size(1)\n${f("return x;")}`, "f has an attribute"],
    [`import a::b;\n${f("return x;")}`, "an import; put all functions in one text"],
    [f("break; return x;"), "break outside a loop"],
    [f("/* @if */ var a = x; @if(FAST) a = 1.0; return a;"), "line 1, column 44: @if is no WGSL"],
    [
      f(
        "var a = array<f32, 4000>(); for (var i = 0; i < 4000; i++) { a[i] = sin(x); } var s = 1.0; for (var i = 0; i < 4000; i++) { s = sin(s + a[i]); } return s;",
      ),
      "f: its loops would store more than 8192 bytes",
    ],
  ])("%s", (source, message) => {
    let error: unknown;
    try {
      grad(source, source.includes("fn g(") ? { fn: "g" } : { fn: "f" });
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(AutodiffError);
    expect((error as Error).message).toContain(message);
    expect((error as Error).message).toMatch(/^grad: line \d+, column \d+: /);
  });

  test("options", () => {
    const source = "fn a(x: f32) -> f32 { return x; }\nfn b(x: f32, k: i32) -> f32 { return x; }";
    expect(() => grad(source)).toThrow("grad: which function? fn is one of a, b");
    expect(() => grad(source, { fn: "c" })).toThrow('grad: fn is "c", expected a, b');
    expect(() => grad(source, { fn: "b", wrt: "z" })).toThrow('grad: wrt has "z", expected of x, k');
    expect(() => grad(source, { fn: "b", wrt: ["k"] })).toThrow(
      'grad: wrt has "k", which is i32; only floats have a gradient',
    );
    expect(() => grad(source, { fn: "b", wrt: [] })).toThrow("grad: wrt is empty, expected parameters of b");
    expect(() => grad(source, { fn: "b", name: "a" })).toThrow("grad: a is declared in the source already");
    expect(() => grad(source, { fn: "b", name: "exp" })).toThrow('grad: name is "exp", which is a builtin function');
    expect(() => grad(source, { fn: "b", name: "1" })).toThrow('grad: name is "1", expected a WGSL identifier');
    expect(() => grad("const A = 1;")).toThrow("grad: the source has no function");
    expect(() => grad(3 as never)).toThrow("grad: source is number, expected WGSL text");
    expect(() => jvp(source, { fn: "c" })).toThrow('jvp: fn is "c"');
  });
});

function golden(): Record<string, [string, string]> {
  return {
    swoosh: [
      `fn swoosh(x: f32) -> f32 {
  let e = exp(-abs(x - 4.0));
  return log(1.0 + e) + max(x - 4.0, 0.0) - 0.08 * x - 0.035;
}`,
      `fn swooshGrad(x: f32, dy: f32) -> f32 {
  let difference = x - 4.0;
  let e = exp(-abs(difference));
  let chosen = select(select(0.0, 0.5 * dy, difference == 0.0), dy, difference > 0.0);
  return chosen - dy / (1.0 + e) * e * sign(difference) - 0.08 * dy;
}`,
    ],
    silu: [
      `fn silu(x: f32) -> f32 {
  let s = 1.0 / (1.0 + exp(-x));
  return x * s;
}`,
      `fn siluGrad(x: f32, dy: f32) -> f32 {
  let expValue = exp(-x);
  let sum = 1.0 + expValue;
  let s = 1.0 / sum;
  return dy * s + dy * x * s / sum * expValue;
}`,
    ],
    "tanh by its own value": [
      `fn f(x: f32) -> f32 {
  let t = tanh(x);
  return t;
}`,
      `fn fGrad(x: f32, dy: f32) -> f32 {
  let t = tanh(x);
  return dy * (1.0 - t * t);
}`,
    ],
    gelu: [
      `fn gelu(x: f32) -> f32 {
  let inner = 0.7978845608 * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1.0 + tanh(inner));
}`,
      `fn geluGrad(x: f32, dy: f32) -> f32 {
  let product = 0.044715 * x * x;
  let inner = 0.7978845608 * (x + product * x);
  let tanhInner = tanh(inner);
  let dinner = 0.5 * (dy * x) * (1.0 - tanhInner * tanhInner);
  let product2 = 0.7978845608 * dinner;
  let sum = 0.5 * (dy * (1.0 + tanhInner)) + product2 + product2 * product;
  let product3 = 0.044715 * (product2 * x * x);
  return sum + product3 + product3;
}`,
    ],
    "leaky relu": [
      `fn leaky(x: f32) -> f32 {
  if (x >= 0.0) {
    return x;
  }
  return 0.01 * x;
}`,
      `fn leakyGrad(x: f32, dy: f32) -> f32 {
  if (x >= 0.0) {
    return dy;
  }
  return 0.01 * dy;
}`,
    ],
    elu: [
      `fn elu(x: f32) -> f32 {
  return select(exp(x) - 1.0, x, x > 0.0);
}`,
      `fn eluGrad(x: f32, dy: f32) -> f32 {
  let isGreater = x > 0.0;
  return select(0.0, dy, isGreater) + select(dy, 0.0, isGreater) * exp(x);
}`,
    ],
    huber: [
      `fn huber(x: f32, target_: f32) -> f32 {
  let d = abs(x - target_);
  if (d < 1.0) {
    return 0.5 * d * d;
  }
  return d - 0.5;
}`,
      `struct HuberGrads {
  dx: f32,
  dtarget_: f32,
}

fn huberGrad(x: f32, target_: f32, dy: f32) -> HuberGrads {
  let difference = x - target_;
  let d = abs(difference);
  var dd = dy;
  if (d < 1.0) {
    dd *= d;
  }
  let product = dd * sign(difference);
  return HuberGrads(product, -product);
}`,
    ],
    "Horner's scheme": [
      `fn poly(x: f32) -> f32 {
  const c = array(1.0, -0.5, 0.25, 2.0);
  var y = 0.0;
  for (var i = 0; i < 4; i++) {
    y = y * x + c[i];
  }
  return y;
}`,
      `fn polyGrad(x: f32, dy: f32) -> f32 {
  let c = array<f32, 4>(1.0, -0.5, 0.25, 2.0);
  var y = 0.0;
  var ySaved = array<f32, 4>();
  for (var i = 0; i < 4; i++) {
    ySaved[i] = y;
    y = y * x + c[i];
  }
  var dy2 = dy;
  var dx = 0.0;
  for (var i = 3; i >= 0; i--) {
    dx += dy2 * ySaved[i];
    dy2 *= x;
  }
  return dx;
}`,
    ],
    "a vector's length": [
      `fn norm(v: vec3f) -> f32 {
  return length(v);
}`,
      `fn normGrad(v: vec3f, dy: f32) -> vec3f {
  let lengthV = length(v);
  return select(dy / lengthV, 0.0, lengthV == 0.0) * v;
}`,
    ],
    "softmax of a row": [
      `fn softmax(x: f32) -> f32 {
  let e = exp(x - rowMax(x));
  return e / rowSum(e);
}`,
      `fn softmaxGrad(x: f32, dy: f32) -> f32 {
  let rowMaxX = rowMax(x);
  let e = exp(x - rowMaxX);
  let rowSumE = rowSum(e);
  let de = dy / rowSumE - rowSum(dy * (e / rowSumE) / rowSumE);
  let product = de * e;
  let isMax = select(0.0, 1.0, x == rowMaxX);
  return product - rowSum(product) * isMax / rowSum(isMax);
}`,
    ],
    "layer norm of a row": [
      `fn layerNorm(x: f32) -> f32 {
  let centered = x - rowMean(x);
  let scale = inverseSqrt(rowMean(centered * centered) + 1e-5);
  return centered * scale;
}`,
      `fn layerNormGrad(x: f32, dy: f32) -> f32 {
  let centered = x - rowMean(x);
  let sum = rowMean(centered * centered) + 1e-5;
  let scale = inverseSqrt(sum);
  let product = rowMean(-0.5 * (dy * centered) * scale / sum) * centered;
  let dcentered = dy * scale + product + product;
  return dcentered - rowMean(dcentered);
}`,
    ],
    "running mean of a row": [
      `fn runningMean(x: f32) -> f32 {
  return rowCumsum(x) / rowCumsum(1.0);
}`,
      `fn runningMeanGrad(x: f32, dy: f32) -> f32 {
  return rowCumsumReverse(dy / rowCumsum(1.0));
}`,
    ],
    "assigned components": [
      `fn f(v: vec3f) -> f32 {
  var a = v;
  a.x *= 2.0;
  a.y = a.x * a.z;
  return a.y + a.x;
}`,
      `fn fGrad(v: vec3f, dy: f32) -> vec3f {
  return vec3f(2.0 * (dy + dy * v.z), 0.0, dy * (v.x * 2.0));
}`,
    ],
    power: [
      `fn cube(x: f32) -> f32 {
  return pow(x, 3.0);
}`,
      `fn cubeGrad(x: f32, dy: f32) -> f32 {
  return 3.0 * dy * pow(x, 2.0);
}`,
    ],
    half: [
      `fn f(x: f16) -> f16 {
  var y = 1.0h;
  if (x > 2.0) {
    y = x * x;
  }
  return 3.0 * y;
}`,
      `fn fGrad(x: f16, dy: f16) -> f16 {
  if (x > 2.0) {
    return 2.0 * (3.0 * dy * x);
  }
  return 0.0h;
}`,
    ],
  };
}
