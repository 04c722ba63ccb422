// A user's function as an activation of other packages' kernels.
import {
  backward,
  checkPointwise,
  empty,
  kernel,
  parameter,
  pointwiseParameters,
  type Tensor,
  tensor,
} from "@kindling/core";
import { mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { AutodiffError, pointwise } from "@kindling/math/autodiff";
import { expect, test } from "vitest";
import { apply } from "../../activations/src/activations.ts";
import { glu } from "../../glu/src/glu.ts";
import { linear } from "../../linear/src/linear.ts";
import { Interpreter } from "./interpreter.ts";

const runs = (globalThis as { process?: { env: Record<string, string> } }).process?.env.KINDLING_GPU !== "null";

const swooshText = /* wgsl */ `
const SHIFT = 4.0;
struct params { load: f32 }
fn sum(x: f32) -> f32 { return x - SHIFT; }
fn swoosh(x: f32) -> f32 {
  let p = params(sum(x));
  return log(1.0 + exp(p.load)) - 0.08 * x - 0.035;
}`;

test("forward, backward and prefixed names", () => {
  const swoosh = pointwise("swoosh", swooshText);
  expect(checkPointwise("test", swoosh)).toBe(swoosh);
  expect(swoosh.name).toBe("swoosh");
  for (const name of ["swooshSHIFT", "struct swooshParams { load: f32 }", "fn swooshSum(x: f32)", "p.load"]) {
    expect(swoosh.forward).toContain(name);
  }
  expect(swoosh.forward).not.toMatch(/\b(SHIFT|params|sum)\b/);
  expect(swoosh.backward).toMatch(/^fn swooshGrad\(x: f32, dy: f32\) -> f32 \{/);
  const both = new Interpreter(swoosh.forward + swoosh.backward);
  const h = 1e-5;
  const slope = ((both.call("swoosh", 1.3 + h) as number) - (both.call("swoosh", 1.3 - h) as number)) / (2 * h);
  expect(both.call("swooshGrad", 1.3, 2)).toBeCloseTo(2 * slope, 8);
});

test("several inputs", () => {
  const gate = pointwise(
    "gate",
    "fn half(x: f32) -> f32 { return 0.5 * x; }\nfn gate(x: f32, mask: f32) -> f32 { return half(x) * mask; }",
  );
  expect(pointwiseParameters(checkPointwise("test", gate, 1))).toEqual(["x", "mask"]);
  expect(gate.backward).toBe(`struct gateGrads {
  dx: f32,
  dmask: f32,
}

fn gateGrad(x: f32, mask: f32, dy: f32) -> gateGrads {
  return gateGrads(0.5 * (dy * mask), 0.5 * (dy * x));
}
`);
});

test("in a kernel that uses the same names", async () => {
  const device = await testDevice();
  const { name, forward, backward } = pointwise("swoosh", swooshText);
  const run = kernel<string>(
    "math.pointwise",
    /* wgsl */ `
struct Params { sum: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
const SHIFT = 3u;
fn sum(a: f32) -> f32 { return a + params.sum; }
${forward}
${backward}
@compute @workgroup_size(1)
fn main() { y[0] = sum(${name}(x[0])); y[1] = ${name}Grad(x[0], 2.0); }`,
  );
  const y = empty([2], { device });
  run.run({ params: { sum: 1 }, x: tensor([1.3], { device }), y }, { workgroups: [1] });
  const [value, slope] = new Float32Array(await device.read(y));
  const both = new Interpreter(forward + backward);
  if (!runs) return;
  expect(value).toBeCloseTo((both.call("swoosh", 1.3) as number) + 1, 5);
  expect(slope).toBeCloseTo(both.call("swooshGrad", 1.3, 2) as number, 5);
});

test("errors", () => {
  const f = "fn f2(x: f32) -> f32 { return x; }";
  expect(() => pointwise("1a", f)).toThrow('pointwise("1a"): the name is not an identifier');
  expect(() => pointwise("params", f)).toThrow("kernels use the name params for something else");
  expect(() => pointwise("exp", f)).toThrow("kernels use the name exp for something else");
  expect(() => pointwise("relu3", f)).toThrow("the source does not define fn relu3(x: f32) -> f32");
  expect(() => pointwise("f2", "fn f2(x: f16) -> f16 { return x; }")).toThrow(AutodiffError);
  expect(() => pointwise("f2", "fn f2(x: f32, k: i32) -> f32 { return x; }")).toThrow("expected fn f2(x: f32) -> f32");
  expect(() => pointwise("f2", "fn f2() -> f32 { return 1.0; }")).toThrow("expected fn f2(x: f32) -> f32");
  expect(() => pointwise("f2", "fn f2(x: f32) -> f32 { return rowSum(x); }")).toThrow("f2 works on a row");
  expect(() => pointwise("f2", "enable f16;\nfn f2(x: f32) -> f32 { return x; }")).toThrow(
    "line 1, column 1: a directive",
  );
  expect(() => pointwise("f2", "fn f2(x: f32) -> f32 { return x + params.a; }")).toThrow("unknown name params");
  expect(() => pointwise("f2", "fn f2(x: f32) -> f32 { return x; }\n} @compute fn main() {")).toThrow(
    "line 2, column 1",
  );
  expect(() => pointwise("f2", `${f}\nfn f2Grad(x: f32) -> f32 { return x; }`)).toThrow(
    "f2Grad is declared in the source",
  );
  expect(() => pointwise("f2", "struct f2Grads { a: f32 }\nfn f2(x: f32, y: f32) -> f32 { return x; }")).toThrow(
    "f2Grads is declared in the source",
  );
});

if (runs)
  test("fused into linear, the same as composed", async () => {
    const device = await testDevice();
    const swoosh = pointwise("swoosh", swooshText);
    const input = (seed: number, shape: number[]): Tensor =>
      parameter(
        tensor(
          randomValues(
            shape.reduce((a, b) => a * b),
            seed,
          ),
          { device, shape },
        ),
      );
    const inputs = [input(1, [3, 4]), input(2, [5, 4]), input(3, [5])] as const;
    const results: Float32Array[][] = [];
    for (const fused of [true, false]) {
      const y = fused ? linear(...inputs, { activation: swoosh }) : apply(swoosh, linear(...inputs));
      for (const t of inputs) t.grad = null;
      backward(y, tensor(randomValues(y.size, 9), { device, shape: [...y.shape] }));
      const tensors = [y, ...inputs.map((t) => t.grad!)];
      results.push(
        await Promise.all(tensors.map(async (t) => new Float32Array(await device.read(t)).subarray(0, t.size))),
      );
    }
    results[0]!.forEach((actual, i) => {
      expect(mixedError(actual, results[1]![i]!)).toBeLessThan(1e-5);
    });
  });

if (runs)
  test("fused into glu", async () => {
    const device = await testDevice();
    const swoosh = pointwise("swoosh", swooshText);
    const values = randomValues(24, 4);
    const seeds = randomValues(12, 5);
    const x = parameter(tensor(values, { device, shape: [3, 8] }));
    const y = glu(x, { activation: swoosh });
    backward(y, tensor(seeds, { device, shape: [3, 4] }));
    const both = new Interpreter(swoosh.forward + swoosh.backward);
    const expected: number[] = [];
    const slopes = new Array<number>(24);
    for (let i = 0; i < 12; i++) {
      const at = 8 * Math.floor(i / 4) + (i % 4);
      const [a, b] = [values[at]!, values[at + 4]!];
      expected.push(a * (both.call("swoosh", b) as number));
      slopes[at] = seeds[i]! * (both.call("swoosh", b) as number);
      slopes[at + 4] = both.call("swooshGrad", b, seeds[i]! * a) as number;
    }
    expect(mixedError(new Float32Array(await device.read(y)), expected)).toBeLessThan(1e-5);
    expect(mixedError(new Float32Array(await device.read(x.grad!)), slopes)).toBeLessThan(1e-5);
  });
