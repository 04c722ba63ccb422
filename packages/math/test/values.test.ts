// What the values are: numbers to choose, forms for vectors and f16, texts that stand together, activations of a layer.
import {
  backward,
  checkPointwise,
  empty,
  kernel,
  type Pointwise,
  parameter,
  type Tensor,
  tensor,
} from "@kindling/core";
import { mixedError, randomValues, testDevice } from "@kindling/core/testing";
import * as math from "@kindling/math";
import { elementwise, f16Form, link, type MathFunction, vec4Form } from "@kindling/math";
import { describe, expect, test } from "vitest";
import * as activations from "../../activations/src/activations.ts";
import { glu } from "../../glu/src/glu.ts";
import { linear } from "../../linear/src/linear.ts";
import { functions, scalars } from "./functions.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const runs = (globalThis as { process?: { env: Record<string, string> } }).process?.env.KINDLING_GPU !== "null";

const errorsOf = async (code: string): Promise<string[]> => {
  const { messages } = await device.gpu.createShaderModule({ code }).getCompilationInfo();
  return messages.filter(({ type }) => type === "error").map(({ message }) => message);
};
const nothing = "@compute @workgroup_size(1) fn main() {}";
const rows = ["Sum", "Mean", "Max"].map((name) => `fn row${name}(x: f32) -> f32 { return x; }`).join("\n");
const grads = Object.entries(math as unknown as Record<string, string>).filter(([name]) => name.endsWith("Grad"));
const onRow = (fn: MathFunction): boolean => /\brow(Sum|Mean|Max)\(/.test(link(fn));
/** Those that every form is made for. */
const pure = functions.filter((fn) => !onRow(fn) && !/\bvec\d/.test(fn.wgsl));

describe("values", () => {
  test("are activations, with names that stay", () => {
    for (const fn of scalars) expect(checkPointwise("test", fn)).toBe(fn);
    expect(math.gelu.name).toBe("gelu");
    expect(math.tanh).toBe(math.stableTanh);
    expect(math.gelu.forward).toContain("fn geluNormalCdf(");
    expect(math.gelu.backward).toContain("geluAccurateExp(");
    expect(math.prelu.backward).toContain("-> preluGrads {");
  });

  test("with numbers: the same for the same, PyTorch's without", () => {
    const { leakyRelu, softplus, threshold } = math;
    expect(leakyRelu({ negativeSlope: 0.2 })).toBe(leakyRelu({ negativeSlope: 0.2 }));
    expect(leakyRelu()).toBe(leakyRelu({ negativeSlope: 0.01 }));
    expect(leakyRelu({})).toBe(leakyRelu());
    expect(leakyRelu({ negativeSlope: -1e-7 }).name).toBe("leakyRelu_m1em7");
    expect(softplus({ beta: 2 })).toBe(softplus({ threshold: 20, beta: 2 }));
    expect(threshold({ threshold: 1, value: 20 }).name).toBe("threshold_1_20");
    expect(leakyRelu.of.name).toBe("leakyRelu");
  });

  test("name what is wrong with their numbers", () => {
    const { celu, hardtanh, leakyRelu, softcap, softplus, softshrink, threshold } = math;
    expect(() => leakyRelu({ negativeSlope: Number.NaN })).toThrow(
      "leakyRelu: negativeSlope is NaN, expected a finite",
    );
    expect(() => leakyRelu({ negativeSlope: 1e39 })).toThrow("leakyRelu: negativeSlope is 1e+39, expected a finite");
    leakyRelu({ negativeSlope: 1 });
    expect(() => leakyRelu({ negativeSlope: "1" as unknown as number })).toThrow(
      "negativeSlope is 1, expected a finite",
    );
    expect(() => leakyRelu({ slope: 1 } as object)).toThrow("leakyRelu: unknown option slope, expected negativeSlope");
    expect(() => threshold({ threshold: 1 } as never)).toThrow(
      "threshold: value is undefined, expected a finite number",
    );
    expect(() => celu({ alpha: 1e-60 })).toThrow("celu: alpha is 1e-60, expected another number");
    expect(() => hardtanh({ minVal: 2 })).toThrow("hardtanh: minVal is 2, expected at most maxVal, 1");
    expect(() => softplus({ beta: 0 })).toThrow("softplus: beta is 0, expected another number");
    expect(() => softshrink({ lambd: -1 })).toThrow("softshrink: lambd is -1, expected 0 or more");
    expect(() => softcap({ cap: 0 })).toThrow("softcap: cap is 0, expected a number above 0");
  });

  test("compile, all together", async () => {
    const linked = `${rows}\n${link(...functions)}\n${grads.map(([, text]) => text).join("\n")}\n${nothing}`;
    expect(await errorsOf(linked)).toEqual([]);
    expect(await errorsOf(`${scalars.map((fn) => fn.forward + fn.backward).join("\n")}\n${nothing}`)).toEqual([]);
    expect(scalars.length).toBeGreaterThan(40);
    const ends = [
      math.hardtanh({ minVal: -3.4028235e38, maxVal: 3.4028235e38 }),
      math.softshrink({ lambd: 1e-45 }),
      math.threshold({ threshold: -1e21, value: -0 }),
    ];
    expect(await errorsOf(`${ends.map((fn) => fn.forward + fn.backward).join("\n")}\n${nothing}`)).toEqual([]);
  });
});

describe("forms", () => {
  const single = grads.filter(([, text]) => !/struct|vec\d|\brow/.test(text));

  test("compile, of all functions and derivatives", async () => {
    const forms = [
      ...pure.map(vec4Form),
      ...single.map(([, text]) => vec4Form(text)),
      ...(hasF16 ? [...pure.map(f16Form), ...pure.map((fn) => vec4Form(f16Form(fn)))] : []),
      ...(hasF16 ? single.flatMap(([, text]) => [f16Form(text), vec4Form(f16Form(text))]) : []),
    ];
    expect(await errorsOf(`${hasF16 ? "enable f16;" : ""}\n${link(...pure, ...forms)}\n${nothing}`)).toEqual([]);
    expect(pure.length).toBeGreaterThan(45);
    expect(single.length).toBeGreaterThan(30);
  });

  test("are spelt out", () => {
    expect(vec4Form(math.relu).wgsl).toBe(`fn reluVec4(x: vec4f) -> vec4f {
  return vec4f(
    relu(x.x),
    relu(x.y),
    relu(x.z),
    relu(x.w),
  );
}`);
    expect(f16Form(math.prelu).wgsl).toBe(`fn preluF16(x: f16, weight: f16) -> f16 {
  return f16(prelu(f32(x), f32(weight)));
}`);
    expect(vec4Form(math.isNan).wgsl).toContain("fn isNanVec4(x: vec4f) -> vec4<bool> {");
    expect(vec4Form(f16Form(math.dropout)).wgsl).toContain(
      "fn dropoutF16Vec4(x: vec4h, p: vec4h, bits: vec4u) -> vec4h {",
    );
    expect(vec4Form(math.leakyRelu({ negativeSlope: 0.2 })).name).toBe("leakyRelu_0p2Vec4");
  });

  test("of what has none are errors", () => {
    expect(() => vec4Form(math.softmax)).toThrow("vec4Form: softmax works on a row, not on one element");
    expect(() => f16Form(math.crossEntropy)).toThrow("f16Form: crossEntropy works on a row, not on one element");
    expect(() => vec4Form(math.mergeWelford)).toThrow(
      "vec4Form: mergeWelford has the type vec3f, expected f32, f16, i32",
    );
    expect(() => f16Form(math.preluGrad)).toThrow("f16Form: preluGrad has the type PreluGrads, expected f32, i32");
    expect(() => f16Form("let a = 1;")).toThrow("f16Form: the text defines 0 functions, expected one");
  });

  if (runs)
    test.each(hasF16 ? ["f32", "f16"] : ["f32"])("give the same numbers, %s", async (T) => {
      const half = T === "f16";
      const chosen: MathFunction[] = [
        math.gelu,
        math.sigmoid,
        math.stableTanh,
        math.hardswish,
        math.elu.of,
        math.logAddExp,
      ];
      const texts = [...chosen, math.geluGrad] as const;
      const form = (fn: MathFunction | string): MathFunction => (half ? f16Form(fn) : vec4Form(fn));
      const forms = texts.map((fn) => (half ? vec4Form(form(fn)) : form(fn)));
      const arity = [1, 1, 1, 1, 2, 2, 2];
      const run = kernel<string>(
        `math.forms.${T}`,
        /* wgsl */ `
${half ? "enable f16;" : ""}
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> z: array<vec4<f32>>;
${link(...texts, ...forms)}
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) wg: vec3u) {
  let i = wg.x;
  let a = ${half ? "vec4f(vec4h(x[i]))" : "x[i]"};
  let b = ${half ? "vec4f(vec4h(x[i + 4u]))" : "x[i + 4u]"};
${forms
  .map(({ name }, k) => {
    const own = typeof texts[k] === "string" ? "geluGrad" : texts[k]!.name;
    const call = (c: string): string => `${own}(a.${c}${arity[k] === 2 ? `, b.${c}` : ""})`;
    const four = (v: string): string => (half ? `vec4h(${v})` : v);
    return `  y[${4 * k}u + i] = vec4f(${name}(${four("a")}${arity[k] === 2 ? `, ${four("b")}` : ""}));
  z[${4 * k}u + i] = vec4f(${[..."xyzw"].map(call).join(", ")});`;
  })
  .join("\n")}
}`,
      );
      const [y, z] = [empty([16 * forms.length], { device }), empty([16 * forms.length], { device })];
      run.run(
        {
          x: tensor(
            randomValues(32, 3).map((v) => 3 * v),
            { device },
          ),
          y,
          z,
        },
        { workgroups: [4] },
      );
      const [actual, expected] = [await device.read(y), await device.read(z)].map((list) => new Float32Array(list));
      if (half) expect(mixedError(actual!, expected!)).toBeLessThan(5e-4);
      else expect([...actual!]).toEqual([...expected!]);
      expect(expected!.some((v) => v !== 0)).toBe(true);
    });
});

if (runs)
  test("isNan and isInf look at the bits", async () => {
    const inf = Number.POSITIVE_INFINITY;
    const x = [Number.NaN, -Number.NaN, inf, -inf, 0, 1, -3.4e38, 1e-40];
    const run = kernel<string>(
      "math.bits",
      /* wgsl */ `
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
${link(math.isNan, math.isInf)}
@compute @workgroup_size(1)
fn main(@builtin(workgroup_id) wg: vec3u) {
  y[wg.x] = select(select(0.0, 1.0, isInf(x[wg.x])), 2.0, isNan(x[wg.x]));
}`,
    );
    const y = empty([x.length], { device });
    run.run({ x: tensor(x, { device }), y }, { workgroups: [x.length] });
    expect([...(await y.data())]).toEqual([2, 2, 1, 1, 0, 0, 0, 0]);
  });

/** Math's value and that of @kindling/activations. */
const pairs: readonly [Pointwise, Pointwise][] = [
  [math.gelu, activations.gelu],
  [math.hardswish, activations.hardswish],
  [math.leakyRelu({ negativeSlope: 0.2 }), activations.leakyRelu.with({ negativeSlope: 0.2 })],
  [math.softplus({ beta: 2 }), activations.softplus.with({ beta: 2 })],
];

if (runs)
  test("in linear, forward and backward, they are those of activations", async () => {
    const input = (seed: number, shape: number[]): Tensor => {
      const size = shape.reduce((a, b) => a * b);
      return parameter(tensor(randomValues(size, seed), { device, shape }));
    };
    const inputs = [input(1, [6, 5]), input(2, [7, 5]), input(3, [7])] as const;
    const wrong: string[] = [];
    for (const pair of pairs) {
      const results: ArrayLike<number>[][] = [];
      for (const activation of pair) {
        for (const t of inputs) t.grad = null;
        const y = linear(...inputs, { activation });
        backward(y, tensor(randomValues(y.size, 9), { device, shape: [...y.shape] }));
        results.push(await Promise.all([y, ...inputs.map((t) => t.grad!)].map((t) => t.data())));
      }
      const error = Math.max(...results[0]!.map((actual, i) => mixedError(actual, results[1]![i]!)));
      if (!(error < 2e-6)) wrong.push(`${pair[0].name}: ${error}`);
    }
    expect(wrong).toEqual([]);
  });

if (runs)
  test("elementwise and glu take them too", async () => {
    const values = randomValues(24, 4);
    const x = parameter(tensor(values, { device, shape: [4, 6] }));
    const weight = parameter(tensor([0.25, -1, 0, 2, 0.5, 3], { device }));
    const y = elementwise(math.prelu, x, weight);
    backward(y, tensor(new Float32Array(24).fill(1), { device, shape: [4, 6] }));
    const w = [0.25, -1, 0, 2, 0.5, 3];
    expect(
      mixedError(
        await y.data(),
        values.map((v, i) => (v > 0 ? v : w[i % 6]! * v)),
      ),
    ).toBeLessThan(1e-6);
    expect(
      mixedError(
        await x.grad!.data(),
        values.map((v, i) => (v > 0 ? 1 : w[i % 6]!)),
      ),
    ).toBeLessThan(1e-6);
    const sums = w.map((_, k) => values.filter((v, i) => i % 6 === k && v <= 0).reduce((a, b) => a + b, 0));
    expect(mixedError(await weight.grad!.data(), sums)).toBeLessThan(1e-6);

    // the gate that glu declares itself has the same name
    const [own, given] = [await glu(x).data(), await glu(x, { activation: math.sigmoid }).data()];
    expect(mixedError(given, own)).toBeLessThan(1e-6);
  });
