import { apply, leakyRelu } from "@kindling/activations";
import { type FloatType, type Pointwise, type Shape, type Tensor, tensor } from "@kindling/core";
import { fusionError, masked, mixedError, randomValues, swoosh, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { BatchNorm1d, batchNorm } from "../src/batchnorm.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

/** tanh(scale · x): nothing of x's shape is read with it. */
const scaled: Pointwise = {
  name: "scaled",
  forward: "fn scaled(x: f32, scale: f32) -> f32 { return tanh(scale * x); }",
  backward: /* wgsl */ `
struct scaledGrads { dx: f32, dscale: f32 }
fn scaledGrad(x: f32, scale: f32, dy: f32) -> scaledGrads {
  let t = tanh(scale * x);
  let d = dy * (1.0 - t * t);
  return scaledGrads(d * scale, d * x);
}`,
};

interface Case {
  shape: Shape;
  training?: boolean;
  residual?: boolean;
}

/**
 * With `activation`, whose inputs are a mask of x's shape and a scale for each channel, or that alone.
 */
function errors(
  { shape, training = true, residual = false }: Case,
  activation: Pointwise,
  dtype: FloatType = "f32",
): Promise<number> {
  const channels = [shape[1]!];
  const running = training
    ? {}
    : {
        runningMean: tensor(randomValues(channels[0]!, 7)),
        runningVar: tensor(randomValues(channels[0]!, 8).map((v) => v + 2)),
      };
  const inputs = { swoosh: [], masked: [shape, channels], scaled: [channels] }[activation.name] ?? [];
  return fusionError(
    [shape, channels, channels, ...(residual ? [shape] : []), ...inputs],
    dtype,
    (fused, ...tensors) => {
      const [x, weight, bias] = tensors as [Tensor, Tensor, Tensor];
      const options = { weight, bias, training, ...running, eps: 1e-2, residual: residual ? tensors[3]! : null };
      const inputs = tensors.slice(residual ? 4 : 3);
      return fused
        ? batchNorm(x, { ...options, activation, inputs })
        : apply(activation, batchNorm(x, options), { inputs });
    },
    inputs.length ? shape : null,
    1,
  );
}

// channels side by side; rows of vec4s; rows that are none, in several chunks
const cases: Case[] = [
  { shape: [9, 6] },
  { shape: [3, 5, 4, 5], residual: true },
  { shape: [70, 3, 7], training: false },
  { shape: [3, 2, 1100], training: false, residual: true },
];

describe("an activation in batchNorm", () => {
  it("is fused", async () => {
    expect(await errors({ shape: [3, 5, 4, 5] }, swoosh)).toBeLessThan(1e-5);
    expect(await errors({ shape: [9, 6] }, leakyRelu.with({ negativeSlope: 0.3 }))).toBeLessThan(1e-5);
  });

  it.each(cases)("reads inputs and gives them gradients, $shape", async (c) => {
    expect(await errors(c, masked)).toBeLessThan(5e-5);
  });

  it.each(cases.slice(0, 3))("makes z again where that is all, $shape", async (c) => {
    expect(await errors(c, scaled)).toBeLessThan(5e-5);
  });

  if (hasF16)
    it("does so in f16", async () => {
      expect(await errors(cases[1]!, masked, "f16")).toBeLessThan(1e-2);
    });

  it.each([false, true])("computes only gradients that are wanted, training %s", async (training) => {
    const layer = new BatchNorm1d(3, { activation: scaled });
    if (!training) layer.eval();
    for (const p of layer.parameters()) p.requiresGrad = false;
    const scale = tensor(randomValues(3, 2));
    const grads = await Promise.all(
      [true, false].map(async (fused) => {
        const x = tensor(randomValues(60), { shape: [4, 3, 5], requiresGrad: true });
        const plain = (): Tensor =>
          batchNorm(x, {
            training,
            runningMean: training ? null : layer.running_mean,
            runningVar: training ? null : layer.running_var,
          });
        const y = fused
          ? layer.forward(x, null, scale)
          : apply(scaled, plain(), {
              inputs: [
                tensor(
                  new Float32Array(60).map((_, i) => randomValues(3, 2)[Math.floor(i / 5) % 3]!),
                  { shape: [4, 3, 5] },
                ),
              ],
            });
        y.backward(tensor(randomValues(60, 3), { shape: y.shape }));
        return x.grad!.data();
      }),
    );
    expect(mixedError(grads[0]!, grads[1]!)).toBeLessThan(1e-5);
    expect(scale.grad).toBeNull();
  });

  it("names what is wrong with its inputs", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const layer = new BatchNorm1d(4, { activation: scaled });
    expect(() => layer.forward(x)).toThrow('batchNorm: activation: "scaled" takes 1 inputs after x (scale), got 0');
    expect(() => layer.forward(x, null, tensor([1, 2, 3]))).toThrow(
      "batchNorm: scale has shape [3], expected [3,4] or [4]",
    );
    expect(() => layer.forward(x, null, tensor([1, 2, 3, 4], { dtype: "i32" }))).toThrow(
      "batchNorm: scale is i32, expected f32, f16 or bool",
    );
    expect(() => batchNorm(x, { training: true, inputs: [x] })).toThrow(
      "batchNorm: 1 inputs, expected none without an activation",
    );
  });
});
