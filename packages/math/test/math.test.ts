/// <reference types="vite/client" />
// Each function against float64 over its whole range, in units in the last place; each derivative against differences.
import { empty, kernel, tensor } from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import * as math from "@kindling/math";
import { link, type MathFunction } from "@kindling/math";
import { describe, expect, test } from "vitest";
import generatedText from "../src/derivatives.generated.ts?raw";
import { derivatives } from "../src/generate.ts";
import { numbers } from "./check.ts";
import { callRow, Interpreter, type Value } from "./interpreter.ts";

const device = await testDevice();
const runs = (globalThis as { process?: { env: Record<string, string> } }).process?.env.KINDLING_GPU !== "null";

/** erfc in float64: its series below 3, its continued fraction above. */
function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x);
  if (x < 3) return 1 - erf(x);
  let tail = 0;
  for (let k = 160; k > 0; k--) tail = k / 2 / (x + tail);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + tail);
}

function erf(x: number): number {
  if (Math.abs(x) > 3) return Math.sign(x) * (1 - erfc(Math.abs(x)));
  let term = x;
  let sum = x;
  for (let n = 1; n < 120; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

function erfinv(x: number): number {
  let y = 0;
  let [low, high] = [-6, 6];
  for (let i = 0; i < 200; i++) {
    y = (low + high) / 2;
    const below = x > 0.5 ? 1 - x < erfc(y) : x < -0.5 ? 1 + x > erfc(-y) : erf(y) < x;
    if (below) low = y;
    else high = y;
  }
  return y;
}

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x));
const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));

/** The function, its range, and the largest error allowed, in ULP; the absolute floor is the smallest normal number. */
const scalars: [MathFunction, (x: number) => number, number, number, number][] = [
  [math.accurateExp, Math.exp, -87, 88, 2],
  [math.log1p, Math.log1p, -0.999, 1e6, 3],
  [math.expm1, Math.expm1, -20, 80, 3],
  [math.sigmoid, sigmoid, -80, 80, 3],
  [math.softplus, softplus, -80, 80, 4],
  [math.logSigmoid, (x) => -softplus(-x), -80, 80, 4],
  [math.stableTanh, Math.tanh, -30, 30, 4],
  [math.erf, erf, -6, 6, 2],
  [math.erfc, erfc, -6, 9, 6],
  [math.erfinv, erfinv, -0.99999, 0.99999, 4],
  [math.silu, (x) => x * sigmoid(x), -80, 80, 3],
  [math.gelu, (x) => 0.5 * x * erfc(-x / Math.SQRT2), -10, 40, 80],
  [math.mish, (x) => x * Math.tanh(softplus(x)), -30, 30, 5],
];

const count = 4096;

function points(low: number, high: number): Float32Array<ArrayBuffer> {
  const x = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const t = i / (count - 1);
    // half of them evenly, half towards zero from both sides, down to 1e-30
    const small = (i % 4 < 2 ? 1 : -1) * 10 ** (-30 + 30 * t);
    x[i] = i % 2 ? low + (high - low) * t : Math.min(Math.max(small, low), high);
  }
  return x;
}

const ulp = (y: number): number => 2 ** Math.max(Math.floor(Math.log2(Math.abs(y) || 1e-38)) - 23, -149);

if (runs)
  test("accuracy in ULP", async () => {
    const x = scalars.map(([, , low, high]) => points(low, high));
    const run = kernel<string>(
      "math.accuracy",
      /* wgsl */ `
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
${link(...scalars.map(([fn]) => fn))}
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let i = id.x;
${scalars.map(([{ name }], k) => `  y[${k * count}u + i] = ${name}(x[${k * count}u + i]);`).join("\n")}
}`,
    );
    const all = new Float32Array(count * scalars.length);
    x.forEach((list, k) => {
      all.set(list, k * count);
    });
    const y = empty([all.length], { device });
    run.run({ x: tensor(all, { device }), y }, { workgroups: [count / 64] });
    const actual = new Float32Array(await device.read(y));
    const found: Record<string, string> = {};
    scalars.forEach(([{ name }, reference, , , most], k) => {
      let worst = 0;
      let at = 0;
      x[k]!.forEach((value, i) => {
        const expected = reference(value);
        if (Math.abs(expected) < 2 ** -120) return;
        const error = Math.abs(actual[k * count + i]! - expected) / ulp(expected);
        if (!(error <= worst)) [worst, at] = [error, value];
      });
      found[name] = `${worst.toFixed(1)} at ${at}${worst <= most ? "" : " TOO MUCH"}`;
    });
    expect(
      Object.values(found).filter((text) => text.includes("TOO MUCH")),
      JSON.stringify(found, null, 1),
    ).toEqual([]);
  });

if (runs)
  test("infinities, NaN and the ends of the ranges", async () => {
    const x = [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY, 0, 1, -1, 1e38];
    const { isNan, isInf, sigmoid, softplus, stableTanh, erf, erfc, erfinv } = math;
    const functions = [isNan, isInf, sigmoid, softplus, stableTanh, erf, erfc, erfinv];
    const names = functions.map(({ name }) => name);
    const run = kernel<string>(
      "math.ends",
      /* wgsl */ `
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
${link(...functions)}
@compute @workgroup_size(1)
fn main(@builtin(global_invocation_id) id: vec3u) {
  let v = x[id.x];
${names.map((name, k) => `  y[${k * x.length}u + id.x] = ${k < 2 ? `select(0.0, 1.0, ${name}(v))` : `${name}(v)`};`).join("\n")}
}`,
    );
    const y = empty([names.length * x.length], { device });
    run.run({ x: tensor(x, { device }), y }, { workgroups: [x.length] });
    const actual = new Float32Array(await device.read(y));
    const row = (name: string): number[] => {
      const k = names.indexOf(name);
      return [...actual.subarray(k * x.length, (k + 1) * x.length)].map((v) => v + 0);
    };
    const inf = Number.POSITIVE_INFINITY;
    expect(row("isNan")).toEqual([1, 0, 0, 0, 0, 0, 0]);
    expect(row("isInf")).toEqual([0, 1, 1, 0, 0, 0, 0]);
    expect(row("sigmoid").slice(1, 4)).toEqual([1, 0, 0.5]);
    expect(row("softplus").slice(1, 3)).toEqual([inf, 0]);
    expect(row("stableTanh").slice(1, 4)).toEqual([1, -1, 0]);
    expect(row("erf").slice(1, 4)).toEqual([1, -1, 0]);
    expect(row("erfc").slice(1, 4)).toEqual([0, 2, 1]);
    expect(row("erfinv").slice(3, 6)).toEqual([0, inf, -inf]);
  });

test("derivatives.generated.ts is what generate writes", () => {
  expect(generatedText).toBe(derivatives());
});

describe("derivatives", () => {
  const all = math as unknown as Record<string, MathFunction | string>;
  const names = Object.keys(math).filter((name) => name.endsWith("Grad"));

  test("of all that have one", () => {
    expect(names.length).toBeGreaterThan(25);
  });

  test.each(names)("%s", (name) => {
    const fn = all[name.slice(0, -4)] as MathFunction;
    const source = `${link(fn)}\n${all[name]}`;
    const params = [...fn.wgsl.slice(0, fn.wgsl.indexOf("->")).matchAll(/(\w+): (\w+)/g)].map(([, own, type]) => ({
      own,
      type,
    }));
    const value = (k: number, lane: number): number => 0.35 + 0.4 * Math.sin(2.1 * k + 1.7 * lane);
    const lanes = source.includes("row") ? 4 : 1;
    const args = Array.from({ length: lanes }, (_, lane) =>
      params.map(({ type }, k): Value => {
        const size = /^vec(\d)f$/.exec(type!)?.[1];
        if (type === "u32") return 0xc0000000n;
        return size ? Array.from({ length: Number(size) }, (__, i) => value(k + i, lane) + 0.1) : value(k, lane);
      }),
    );
    const all64 = new Interpreter(source);
    const outputs = callRow(all64, fn.name, args);
    const seedOf = (output: Value, lane: number): Value =>
      Array.isArray(output) ? output.map((_, i) => 0.5 + 0.3 * i - 0.2 * lane) : 0.5 - 0.2 * lane;
    const seeds = outputs.map(seedOf);
    const loss = (list: Value[][]): number => {
      const flat = callRow(all64, fn.name, list).flatMap(numbers);
      const weights = seeds.flatMap(numbers);
      return flat.reduce((sum, y, i) => sum + y * weights[i]!, 0);
    };
    const made = callRow(
      all64,
      name,
      args.map((own, lane) => [...own, seeds[lane]!]),
    ).map(numbers);
    args.forEach((own, lane) => {
      let at = 0;
      own.forEach((arg, k) => {
        if (typeof arg === "bigint") return;
        numbers(arg).forEach((_, i) => {
          const moved = (h: number): number => {
            const changed = Array.isArray(arg)
              ? arg.map((x, j) => (i === j ? (x as number) + h : x))
              : (arg as number) + h;
            return loss(args.map((list, l) => (l === lane ? list.map((x, j) => (j === k ? changed : x)) : list)));
          };
          const expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
          expect(Math.abs(made[lane]![at]! - expected) / (1 + Math.abs(expected))).toBeLessThan(1e-6);
          at++;
        });
      });
    });
  });

  test("erf's and gelu's are those of the functions themselves", () => {
    const erfGrad = new Interpreter(`${link(math.erf)}\n${math.erfGrad}`);
    const geluGrad = new Interpreter(`${link(math.gelu)}\n${math.geluGrad}`);
    for (let x = -5.9; x < 6; x += 0.0973) {
      const slope = (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x);
      expect(Math.abs((erfGrad.call("erfGrad", x, 1) as number) - slope)).toBeLessThan(2e-6);
      const expected = 0.5 * erfc(-x / Math.SQRT2) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
      expect(Math.abs((geluGrad.call("geluGrad", x, 1) as number) - expected)).toBeLessThan(4e-6);
    }
  });
});

describe("what attorch.math has", () => {
  const row = (fn: MathFunction, ...columns: number[][]): Value[] =>
    callRow(
      new Interpreter(link(fn)),
      fn.name,
      columns[0]!.map((_, i) => columns.map((column) => column[i]!)),
    );
  const one = (fn: MathFunction, ...args: Value[]): Value => new Interpreter(link(fn)).call(fn.name, ...args);

  test("Welford's states: values one by one, merged, from any mean", () => {
    const data = [103.5, 99.25, 101.75, 98, 104.5, 100.25];
    const of = (list: number[]): Value =>
      list.reduce<Value>((state, x) => one(math.updateWelford, state, x), [0, 0, 0]);
    const mean = data.reduce((a, b) => a + b) / data.length;
    const deviations = data.reduce((a, b) => a + (b - mean) ** 2, 0);
    for (const state of [of(data), one(math.mergeWelford, of(data.slice(0, 2)), of(data.slice(2)))]) {
      const [n, m, s] = state as number[];
      expect(n).toBe(data.length);
      expect(m).toBeCloseTo(mean, 10);
      expect(s).toBeCloseTo(deviations, 8);
    }
    expect(one(math.mergeWelford, [0, 0, 0], [0, 0, 0])).toEqual([0, 0, 0]);
  });

  test("losses take the distance, not the signed difference", () => {
    expect(one(math.smoothL1Loss, -3, 0, 1)).toBe(2.5);
    expect(one(math.smoothL1Loss, 0.5, 0, 2)).toBe(0.0625);
    expect(one(math.huberLoss, -3, 0, 0.5)).toBe(1.375);
    expect(one(math.huberLoss, 0.25, 0.5, 0.5)).toBe(0.03125);
    expect(one(math.l1Loss, -3, 1)).toBe(4);
    expect(one(math.squaredLoss, -3, 1)).toBe(16);
  });

  test("rows", () => {
    const x = [0.5, -1, 2, 0];
    const exps = x.map((v) => Math.exp(v));
    const total = exps.reduce((a, b) => a + b);
    row(math.softmax, x).forEach((y, i) => {
      expect(y).toBeCloseTo(exps[i]! / total, 12);
    });
    row(math.logSoftmax, x).forEach((y, i) => {
      expect(y).toBeCloseTo(Math.log(exps[i]! / total), 12);
    });
    for (const y of row(math.crossEntropy, x, [0, 0, 1, 0])) expect(y).toBeCloseTo(-Math.log(exps[2]! / total), 12);
    const [mean, scale] = row(math.meanAndInvStd, x, [1e-5, 1e-5, 1e-5, 1e-5])[0] as number[];
    expect(mean).toBeCloseTo(0.375, 12);
    expect(scale).toBeCloseTo(1 / Math.sqrt(x.reduce((a, b) => a + (b - 0.375) ** 2, 0) / 4 + 1e-5), 12);
  });

  test("the rest", () => {
    expect(one(math.accumLinear, 1, [1, 2, 3, 4], [2, 1, 0, 1])).toBe(9);
    expect(one(math.updateEma, 2, 4, 0.25)).toBe(2.5);
    expect(one(math.standardize, 3, 1, 0.5, 4, 7)).toBe(11);
    expect(one(math.glu, 3, 0)).toBe(1.5);
    expect(one(math.swiglu, 3, 2)).toBeCloseTo(6 * sigmoid(2), 12);
    expect(one(math.unitUniform, 0xffffffffn)).toBeLessThan(1);
    expect(one(math.dropout, 2, 0.5, 0x7fffffffn)).toBe(0);
    expect(one(math.dropout, 2, 0.5, 0x80000000n)).toBe(4);
    expect(one(math.dropout, 2, 1, 0xffffffffn)).toBe(0);
    expect(numbers(one(math.unitNormal, [0n, 0n])).every(Number.isFinite)).toBe(true);
  });
});

test("everything compiles, and any two together", async () => {
  const functions = Object.values(math).filter(
    (value): value is MathFunction => typeof value === "object" && "wgsl" in value,
  );
  const rows = ["Sum", "Mean", "Max"].map((name) => `fn row${name}(x: f32) -> f32 { return x; }`).join("\n");
  const grads = Object.entries(math).flatMap(([name, value]) => (name.endsWith("Grad") ? [value as string] : []));
  const fused = Object.entries(math).flatMap(([name, value]) =>
    name.endsWith("Activation") ? [value as { forward: string; backward: string }] : [],
  );
  const code = `${rows}\n${link(...functions)}\n${grads.join("\n")}\n${fused.map((p) => p.forward + p.backward).join("\n")}\n@compute @workgroup_size(1) fn main() {}`;
  const { messages } = await device.gpu.createShaderModule({ code }).getCompilationInfo();
  expect(messages.filter(({ type }) => type === "error").map(({ message }) => message)).toEqual([]);
  expect(fused.length).toBeGreaterThan(10);
});
