import {
  capture,
  checkPointwise,
  type FloatType,
  manualSeed,
  type Pointwise,
  type Tensor,
  tensor,
} from "@kindling/core";
import { finiteDifferences, fixtures, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { activationReference } from "../src/activations.reference.ts";
import * as activations from "../src/activations.ts";
import {
  apply,
  celu,
  GELU,
  gelu,
  geluTanh,
  hardtanh,
  LeakyReLU,
  leakyRelu,
  ReLU,
  relu,
  Softshrink,
  softplus,
} from "../src/activations.ts";

const { features } = await testDevice();
const f16 = features.has("shader-f16");

const names = [
  ...[
    "relu",
    "squaredRelu",
    "leakyRelu",
    "hardtanh",
    "relu6",
    "elu",
    "celu",
    "selu",
    "gelu",
    "geluTanh",
    "silu",
    "mish",
  ],
  ...[
    "sigmoid",
    "logSigmoid",
    "tanh",
    "tanhshrink",
    "hardsigmoid",
    "hardswish",
    "softplus",
    "softsign",
    "hardshrink",
    "softshrink",
    "softcap",
  ],
] as const;

type Call = Pointwise & ((x: Tensor, options?: object) => Tensor);
const all: Record<string, unknown> = { ...activations };
const call = (name: (typeof names)[number]): Call => all[name] as Call;

/** Dense around zero on a logarithmic scale, evenly from -20 to 20, and the ends of the formats. */
const points = (limit: number): number[] => {
  const magnitudes = Array.from({ length: 200 }, (_, i) => 10 ** (-6 + i / 33));
  const even = Array.from({ length: 801 }, (_, i) => (i - 400) / 20);
  return [
    0,
    ...magnitudes,
    ...magnitudes.map((v) => -v),
    ...even,
    100,
    -100,
    1e4,
    -1e4,
    limit,
    -limit,
    limit / 2,
    -limit / 2,
  ];
};

async function errors(name: (typeof names)[number], dtype: FloatType): Promise<number[]> {
  const { f, derivative } = activationReference(name);
  const values = points(dtype === "f32" ? 3e38 : 65504);
  return layerErrors({
    inputs: [[values.length]],
    dtype,
    values: [values],
    run: (x) => call(name)(x!),
    reference: ([x], dy) => ({
      y: Array.from(x!, (v) => cast(f(v), dtype)),
      grads: [Array.from(x!, (v, i) => cast(derivative(v) * dy[i]!, dtype))],
    }),
  });
}

/** squaredRelu is past the largest number at the ends of a format: infinite, like its f32 or f16 value. */
const cast = (v: number, dtype: FloatType): number =>
  Math.abs(v) > (dtype === "f32" ? 3.4028235e38 : 65519) ? v * Number.POSITIVE_INFINITY : v;

describe("activations", () => {
  it.each(names)("%s matches the reference, at the ends of f32 too", async (name) => {
    expect(Math.max(...(await errors(name, "f32")))).toBeLessThan(1e-6);
  });

  // computed in f32, rounded to the 11 bits of f16
  if (f16)
    it.each(names)("%s matches the reference in f16", async (name) => {
      expect(Math.max(...(await errors(name, "f16")))).toBeLessThan(5e-4);
    });

  it.each([[1], [3], [257], [2, 3, 67], [70000, 3]].map((shape) => [shape.join()]))(
    "fills any shape: [%s]",
    async (sizes) => {
      const { f, derivative } = activationReference("gelu");
      const worst = await layerErrors({
        inputs: [sizes.split(",").map(Number)],
        run: (x) => gelu(x!),
        reference: ([x], dy) => ({ y: Array.from(x!, f), grads: [Array.from(x!, (v, i) => derivative(v) * dy[i]!)] }),
      });
      expect(Math.max(...worst)).toBeLessThan(1e-6);
    },
  );

  it.each(["gelu", "geluTanh", "silu", "sigmoid", "tanh", "elu", "softplus"] as const)(
    "%s is relatively exact near zero and in its tails",
    async (name) => {
      const { f } = activationReference(name);
      const x = points(0).filter((v) => Math.abs(v) < 5 && v !== 0);
      const y = await call(name)(tensor(x)).data();
      const worst = Math.max(...x.map((v, i) => Math.abs(y[i]! / f(Math.fround(v)) - 1)));
      expect(worst).toBeLessThan(3e-6);
    },
  );

  it.each(names)("%s passes a NaN on", async (name) => {
    const x = tensor([Number.NaN, 1, -Number.NaN]);
    expect([...(await call(name)(x).data())].map(Number.isNaN)).toEqual([true, false, true]);
  });

  it("are values to fuse, with names that stay", () => {
    for (const name of names) expect(checkPointwise("test", call(name)).name).toBe(name);
    const steep = leakyRelu.with({ negativeSlope: -0.2 });
    expect(steep).toBe(leakyRelu.with({ negativeSlope: -0.2 }));
    expect(checkPointwise("test", steep).name).toBe("leakyRelu_m0p2");
  });

  it("applies a Pointwise of one's own", async () => {
    const cube = {
      name: "cube",
      forward: "fn cube(x: f32) -> f32 { return x * x * x; }",
      backward: "fn cubeGrad(x: f32, dy: f32) -> f32 { return 3 * x * x * dy; }",
    };
    const x = tensor([1, 2, -3], { requiresGrad: true });
    const y = apply(cube, x);
    y.backward(tensor([1, 1, 2]));
    expect([...(await y.data())]).toEqual([1, 8, -27]);
    expect([...(await x.grad!.data())]).toEqual([3, 12, 54]);
  });

  it("have references whose derivatives are right", () => {
    for (const name of names) {
      const { f, derivative } = activationReference(name);
      const x = randomValues(50, 3).map((v) => v * 7.1);
      const sum = (v: Float64Array): number => v.reduce((total, x) => total + f(x), 0);
      expect(mixedError(finiteDifferences(sum, x), Array.from(x, derivative)), name).toBeLessThan(1e-7);
    }
  });

  it("name what is wrong with their input", () => {
    const x = tensor([1, 2]);
    expect(() => relu(tensor([1], { dtype: "i32" }))).toThrow("relu: x is i32, expected f32 or f16");
    expect(() => relu(x, { dropout: 1.5 })).toThrow("relu: dropout is 1.5, expected a probability from 0 to 1");
    expect(() => new ReLU({ dropout: Number.NaN })).toThrow("relu: dropout is NaN, expected a probability from 0 to 1");
    expect(() => gelu(x, { approximate: "erf" as "tanh" })).toThrow(
      'gelu: approximate is "erf", expected "none" or "tanh"',
    );
    expect(() => leakyRelu(x, { negativeSlope: Number.POSITIVE_INFINITY })).toThrow(
      "leakyRelu: negativeSlope is Infinity, expected a finite number",
    );
    expect(() => hardtanh(x, { minVal: 2 })).toThrow("hardtanh: minVal is 2, expected at most maxVal, 1");
    expect(() => celu(x, { alpha: 0 })).toThrow("celu: alpha is 0, expected another number");
    expect(() => softplus(x, { beta: 0 })).toThrow("softplus: beta is 0, expected another number");
    expect(() => activations.softcap.with({ cap: 0 })).toThrow("softcap: cap is 0, expected a number above 0");
    expect(() => new Softshrink({ lambd: -1 })).toThrow("softshrink: lambd is -1, expected 0 or more");
    expect(() => apply({ name: "a", forward: "", backward: "" }, x)).toThrow('apply: the WGSL of "a" must define fn a');
  });
});

describe("dropout", () => {
  const x = randomValues(4001, 5).map((v) => v + 2);

  it.each([0.1, 0.5, 0.9])("drops the fraction %f, scales the rest, and the gradient alike", async (dropout) => {
    const input = tensor(x, { requiresGrad: true });
    const y = relu(input, { dropout });
    y.backward(tensor(Array(4001).fill(1)));
    const values = await y.data();
    const grads = await input.grad!.data();
    const kept = Array.from(values, (v) => v !== 0);
    const scale = 1 / (1 - dropout);
    expect(Math.abs(kept.filter((k) => !k).length / 4001 - dropout)).toBeLessThan(0.03);
    expect(
      mixedError(
        values,
        x.map((v, i) => (kept[i] ? v * scale : 0)),
      ),
    ).toBeLessThan(1e-6);
    expect(
      mixedError(
        grads,
        kept.map((k) => (k ? scale : 0)),
      ),
    ).toBeLessThan(1e-6);
  });

  it("is the identity at 0 and in eval, and leaves nothing at 1", async () => {
    const module = new ReLU({ dropout: 0.5 });
    expect(await module.eval().forward(tensor(x)).data()).toEqual(x);
    expect(await relu(tensor(x), { dropout: 0 }).data()).toEqual(x);
    expect((await relu(tensor([Number.POSITIVE_INFINITY, 1]), { dropout: 1 }).data()).every((v) => v === 0)).toBe(true);
    expect(`${module}`).toBe("ReLU(dropout=0.5)");
  });

  it("repeats with the seed, differs from call to call, and replays as it would run", async () => {
    const input = tensor(x);
    const eager: ArrayLike<number>[] = [];
    manualSeed(7);
    for (let i = 0; i < 3; i++) eager.push(await gelu(input, { dropout: 0.5 }).data());
    expect(eager[0]).not.toEqual(eager[1]);
    manualSeed(7);
    const step = capture((t) => gelu(t, { dropout: 0.5 }));
    for (const expected of eager) expect(await step(input).data()).toEqual(expected);
    step.dispose();
  });
});

describe("modules", () => {
  it("take their function's options", async () => {
    const x = tensor([-2, 0.5, 3]);
    expect(await new GELU({ approximate: "tanh" }).forward(x).data()).toEqual(await geluTanh(x).data());
    expect(`${new GELU({ approximate: "tanh", dropout: 0.1 })}`).toBe("GELU(approximate=tanh, dropout=0.1)");
    expect(await new LeakyReLU({ negativeSlope: 0.5 }).forward(x).data()).toEqual(Float32Array.of(-1, 0.5, 3));
  });

  it("exist for every activation", async () => {
    const classes = Object.keys(all).filter((name) => /^[A-Z]/.test(name));
    expect(classes.length).toBe(names.length - 2); // geluTanh is an option of GELU, softcap no module of torch.nn
    const lower = classes.map((name) => new (all[name] as typeof ReLU)().fn.name.toLowerCase());
    expect(lower.map((name) => name.split("_")[0])).toEqual(classes.map((name) => name.toLowerCase()));
  });
});

describe("PyTorch's results", async () => {
  const cases = await fixtures(new URL("./activations.safetensors", import.meta.url));

  it.each([...cases.keys()].filter((name) => f16 || !name.includes("f16")))("%s", async (name) => {
    const { x, y, dy, dx } = cases.get(name)!;
    const [fn, , ...pairs] = name.split(" ");
    const { dtype = "f32", ...options } = Object.fromEntries(
      pairs.map((pair) => [pair.slice(0, pair.indexOf("=")), JSON.parse(pair.slice(pair.indexOf("=") + 1))]),
    ) as { dtype?: FloatType };
    const input = tensor(Float32Array.from(x!.values), { shape: x!.shape, dtype, requiresGrad: true });
    const out = call(fn as (typeof names)[number])(input, options);
    out.backward(tensor(Float32Array.from(dy!.values), { shape: dy!.shape, dtype }));
    const limit = dtype === "f16" ? 5e-4 : 1e-6;
    expect(mixedError(await out.data(), y!.values)).toBeLessThan(limit);
    expect(mixedError(await input.grad!.data(), dx!.values)).toBeLessThan(limit);
  });
});
