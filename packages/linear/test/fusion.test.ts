import { apply, leakyRelu } from "@kindling/activations";
import {
  autocast,
  cast,
  type FloatType,
  manualSeed,
  type Pointwise,
  type Shape,
  sizeOf,
  type Tensor,
  tensor,
} from "@kindling/core";
import { fusionError, gate, masked, mixedError, randomValues, swoosh, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { Linear, linear } from "../src/linear.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

interface Case {
  x: Shape;
  out: number;
}

/** x → out with `activation`, whose inputs are a residual and a mask of y's shape and a scale for each output. */
const errors = ({ x, out }: Case, activation: Pointwise, dtype: FloatType = "f32"): Promise<number> => {
  const y = [...x.slice(0, -1), out];
  const inputs = activation === gate ? [y, y, [out]] : [];
  return fusionError([x, [out, x.at(-1)!], [out], ...inputs], dtype, (fused, x, w, b, ...inputs) =>
    fused ? linear(x!, w!, b, { activation, inputs }) : apply(activation, linear(x!, w!, b), { inputs }),
  );
};

// single elements; vec4s; several chunks of rows
const cases: Case[] = [
  { x: [3, 5], out: 7 },
  { x: [2, 9, 12], out: 36 },
  { x: [1100, 4], out: 132 },
];

describe("an activation in linear", () => {
  it("is fused", async () => {
    expect(await errors(cases[1]!, swoosh)).toBeLessThan(1e-5);
    expect(await errors(cases[0]!, leakyRelu.with({ negativeSlope: 0.3 }))).toBeLessThan(1e-5);
  });

  it.each(cases)("reads inputs and gives them gradients, $x → $out", async (c) => {
    expect(await errors(c, gate)).toBeLessThan(3e-5);
  });

  if (hasF16)
    it("does so in f16", async () => {
      expect(await errors(cases[1]!, gate, "f16")).toBeLessThan(5e-3);
    });

  if (hasF16)
    it("gives f16 under autocast, and gradients of the inputs' own dtypes", async () => {
      const [x, w, residual, mask, scale] = [[18, 12], [36, 12], [18, 36], [18, 36], [36]].map((shape, i) =>
        tensor(randomValues(sizeOf(shape), i + 1), { shape, requiresGrad: true }),
      );
      const inputs = [cast(residual!, "f16"), mask!, scale!];
      const y = autocast("f16", () => linear(x!, w!, null, { activation: gate, inputs }));
      expect(y.dtype).toBe("f16");
      const exact = apply(gate, linear(x!, w!), { inputs });
      expect(mixedError(await y.data(), await exact.data())).toBeLessThan(1e-2);
      y.backward(tensor(randomValues(y.size, 9), { shape: y.shape, dtype: "f16" }));
      expect([x, w, residual, mask, scale].map((t) => t!.grad!.dtype)).toEqual(Array(5).fill("f32"));
    });

  it("computes only gradients that are wanted, and reads bools and f16", async () => {
    const x = tensor(randomValues(15), { shape: [3, 5] });
    const w = tensor(randomValues(35, 2), { shape: [7, 5] });
    const flags = randomValues(21, 3).map((v) => Number(v > 0));
    const residual = tensor(new Float32Array(7), hasF16 ? { dtype: "f16" } : {});
    const scale = tensor(randomValues(7, 4), { requiresGrad: true });
    const mask = tensor(flags, { shape: [3, 7], dtype: "bool" });
    const layer = new Linear(5, 7, { bias: false, activation: gate });
    layer.loadStateDict({ weight: w });
    for (const p of layer.parameters()) p.requiresGrad = false;
    const y = layer.forward(x, residual, mask, scale);
    const z = linear(x, w);
    const like = tensor(await scale.data(), { requiresGrad: true });
    const composed = apply(gate, z, { inputs: [tensor(new Float32Array(7)), mask, like] });
    for (const t of [y, composed]) t.backward(tensor(randomValues(21, 5), { shape: [3, 7] }));
    expect(mixedError(await y.data(), await composed.data())).toBeLessThan(1e-6);
    expect(mixedError(await scale.grad!.data(), await like.grad!.data())).toBeLessThan(1e-6);
    expect([layer.weight.grad, mask.grad, residual.grad]).toEqual([null, null, null]);
  });

  it("drops after them", async () => {
    const out = 12;
    const shapes: Shape[] = [[9, 8], [out, 8], [9, out], [out]];
    const seed = (tensors: Tensor[], dropout: number): Tensor => {
      const [x, w, ...inputs] = tensors as [Tensor, Tensor, ...Tensor[]];
      manualSeed(3);
      return linear(x, w, null, { activation: masked, inputs, dropout });
    };
    // the mask: what is left of an activation that is 1
    manualSeed(3);
    const one = {
      name: "one",
      forward: "fn one(x: f32) -> f32 { return 1; }",
      backward: "fn oneGrad(x: f32, dy: f32) -> f32 { return 0; }",
    };
    const [x, w] = shapes.slice(0, 2).map((shape) => tensor(new Float32Array(sizeOf(shape)), { shape })) as [
      Tensor,
      Tensor,
    ];
    const kept = await linear(x, w, null, { activation: one, dropout: 0.5 }).data();
    const results = await Promise.all(
      [0.5, 0].map(async (dropout) => {
        const tensors = shapes.map((shape, i) => tensor(randomValues(sizeOf(shape), i), { shape, requiresGrad: true }));
        const y = seed(tensors, dropout);
        const dy = randomValues(y.size, 9).map((v, i) => (dropout ? v : v * kept[i]!));
        y.backward(tensor(dy, { shape: y.shape }));
        const values = await y.data();
        const grads = await Promise.all(tensors.map((t) => t.grad!.data()));
        return [dropout ? values : values.map((v, i) => v * kept[i]!), ...grads];
      }),
    );
    for (const [i, values] of results[0]!.entries()) expect(mixedError(values, results[1]![i]!)).toBeLessThan(1e-5);
  });

  it("names what is wrong with its inputs", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const w = tensor(randomValues(20), { shape: [5, 4] });
    const y = linear(x, w);
    const fails = (activation: Pointwise | null, inputs: Tensor[], message: string): void =>
      expect(() => linear(x, w, null, { activation, inputs })).toThrow(`linear: ${message}`);
    fails(gate, [], 'activation: "gate" takes 3 inputs after x (residual,mask,scale), got 0');
    fails(swoosh, [y], 'activation: "swoosh" takes 0 inputs after x (), got 1');
    fails(null, [y], "1 inputs, expected none without an activation");
    fails(gate, [y, x, y], "mask has shape [3,4], expected [3,5] or [5]");
    fails(gate, [y, y, tensor([1, 2, 3, 4, 5], { dtype: "i32" })], "scale is i32, expected f32, f16 or bool");
  });
});

const buffers = (await testDevice()).limits.maxStorageBuffersPerShaderStage;
if (buffers < 28)
  it("says before any work that the GPU binds too few buffers", () => {
    const wanted = Array.from({ length: 12 }, (_, i) => `a${i}`);
    const many = {
      name: "many",
      forward: `fn many(x: f32, ${wanted.map((a) => `${a}: f32`).join(", ")}) -> f32 { return x; }`,
      backward: "fn manyGrad(x: f32, dy: f32) -> f32 { return dy; }",
    };
    const inputs = wanted.map(() => tensor([[1, 2]], { requiresGrad: true }));
    const [x, w] = [tensor([[1]]), tensor([[1], [2]])];
    expect(() => linear(x, w, null, { activation: many, inputs })).toThrow(
      `linear: 12 inputs, of which 12 have gradients, need 28 storage buffers;`,
    );
  });
