import { apply, leakyRelu } from "@kindling/activations";
import { type FloatType, type Pointwise, type Shape, sizeOf, type Tensor, tensor } from "@kindling/core";
import { fusionError, gate, mixedError, randomValues, swoosh, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { Conv2d, type Conv2dOptions, conv2d } from "../src/conv2d.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

interface Case extends Omit<Conv2dOptions, "bias" | "activation" | "inputs"> {
  x: Shape;
  weight: Shape;
}

/** With `activation`, whose inputs are a residual and a mask of y's shape and a scale for each channel. */
const errors = ({ x, weight, ...rest }: Case, activation: Pointwise, dtype: FloatType = "f32"): Promise<number> => {
  const y = conv2d(
    tensor(randomValues(sizeOf(x)), { shape: x }),
    tensor(randomValues(sizeOf(weight)), { shape: weight }),
    rest,
  );
  const inputs = activation === gate ? [y.shape, y.shape, [weight[0]!]] : [];
  return fusionError(
    [x, weight, [weight[0]!], ...inputs],
    dtype,
    (fused, x, w, bias, ...inputs) =>
      fused
        ? conv2d(x!, w!, { ...rest, bias, activation, inputs })
        : apply(activation, conv2d(x!, w!, { ...rest, bias }), { inputs }),
    activation === gate ? y.shape : null,
    y.shape.length - 3,
  );
};

// without matrices, single elements and vec4s; matrix products, likewise; Winograd; without a batch
const cases: Case[] = [
  { x: [2, 3, 5, 7], weight: [6, 1, 3, 3], groups: 3, padding: 1 },
  { x: [1, 4, 3, 8], weight: [4, 4, 3, 3], padding: 1 },
  { x: [2, 9, 7, 5], weight: [10, 9, 3, 2], stride: 2 },
  { x: [2, 9, 4, 4], weight: [18, 9, 1, 1] },
  { x: [1, 40, 5, 5], weight: [41, 40, 3, 3], padding: 1 },
  { x: [9, 3, 3], weight: [9, 9, 2, 2] },
];

describe("an activation in conv2d", () => {
  it("is fused", async () => {
    expect(await errors(cases[0]!, swoosh)).toBeLessThan(1e-5);
    expect(await errors(cases[3]!, leakyRelu.with({ negativeSlope: 0.3 }))).toBeLessThan(1e-5);
  });

  it.each(cases)("reads inputs and gives them gradients, $x", async (c) => {
    expect(await errors(c, gate)).toBeLessThan(1e-4);
  });

  if (hasF16)
    it.each([cases[1]!, cases[2]!])("does so in f16, $x", async (c) => {
      expect(await errors(c, gate, "f16")).toBeLessThan(2e-2);
    });

  it("takes inputs in the module's forward, and names what is wrong with them", async () => {
    const layer = new Conv2d(3, 4, 1, { activation: gate });
    const x = tensor(randomValues(12), { shape: [3, 2, 2] });
    const [residual, scale] = [tensor(randomValues(16, 2), { shape: [4, 2, 2] }), tensor(randomValues(4, 3))];
    const flags = tensor([1, 0, 0, 1], { dtype: "bool" });
    const each = (values: number[]): Tensor =>
      tensor(
        values.flatMap((v) => [v, v, v, v]),
        { shape: [4, 2, 2] },
      );
    const composed = apply(gate, conv2d(x, layer.weight, { bias: layer.bias }), {
      inputs: [residual, each([1, 0, 0, 1]), each([...randomValues(4, 3)])],
    });
    expect(mixedError(await layer.forward(x, residual, flags, scale).data(), await composed.data())).toBeLessThan(1e-6);
    expect(() => layer.forward(x)).toThrow(
      'conv2d: activation: "gate" takes 3 inputs after x (residual,mask,scale), got 0',
    );
    expect(() => layer.forward(x, x, flags, scale)).toThrow(
      "conv2d: residual has shape [3,2,2], expected [4,2,2] or [4]",
    );
    expect(() => layer.forward(x, residual, flags, tensor([1, 2, 3, 4], { dtype: "u32" }))).toThrow(
      "conv2d: scale is u32, expected f32, f16 or bool",
    );
  });
});
