import { apply, leakyRelu } from "@kindling/activations";
import { type FloatType, type Pointwise, type Shape, sizeOf, type Tensor, tensor } from "@kindling/core";
import { mixedError, poison, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { BatchNorm1d, batchNorm } from "../src/batchnorm.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");

/** log(1 + exp(x − 4)) − 0.08x − 0.035: an activation that no package knows. */
const swoosh: Pointwise = {
  name: "swoosh",
  forward: /* wgsl */ `
fn swoosh(x: f32) -> f32 { return max(x - 4.0, 0.0) + log(1.0 + exp(-abs(x - 4.0))) - 0.08 * x - 0.035; }`,
  backward: "fn swooshGrad(x: f32, dy: f32) -> f32 { return dy * (1.0 / (1.0 + exp(4.0 - x)) - 0.08); }",
};

/** mask · tanh(scale · x) + residual. */
const gate: Pointwise = {
  name: "gate",
  forward: /* wgsl */ `
fn gate(x: f32, residual: f32, mask: f32, scale: f32) -> f32 { return mask * tanh(scale * x) + residual; }`,
  backward: /* wgsl */ `
struct gateGrads { dx: f32, dresidual: f32, dmask: f32, dscale: f32 }
fn gateGrad(x: f32, residual: f32, mask: f32, scale: f32, dy: f32) -> gateGrads {
  let t = tanh(scale * x);
  let d = dy * mask * (1.0 - t * t);
  return gateGrads(d * scale, dy, dy * t, d * x);
}`,
};

/** Values of channels, each repeated for its elements of `shape`, and their sums. */
const channelOf = (i: number, shape: Shape, axis: number): number =>
  Math.floor(i / sizeOf(shape.slice(axis + 1))) % shape[axis]!;

/**
 * Largest error of y and every gradient: the activation fused, against `apply` after the layer without one. There the
 * last tensor, if `shape` is given, is repeated to it: one value for each index of `axis`.
 */
async function errorOf(
  shapes: readonly Shape[],
  dtype: FloatType,
  run: (fused: boolean, ...tensors: Tensor[]) => Tensor,
  shape: Shape | null,
  axis: number,
): Promise<number> {
  const results: Float32Array[][] = [];
  for (const fused of [true, false]) {
    const repeated = !fused && shape;
    const memory = poison(device);
    try {
      const tensors = shapes.map((own, k) => {
        const values = randomValues(sizeOf(own), k + 1);
        if (!repeated || k < shapes.length - 1) return tensor(values, { shape: own, dtype, requiresGrad: true });
        const all = new Float32Array(sizeOf(shape)).map((_, i) => values[channelOf(i, shape, axis)]!);
        return tensor(all, { shape, dtype, requiresGrad: true });
      });
      const y = run(fused, ...tensors);
      y.backward(tensor(randomValues(y.size, 99), { shape: y.shape, dtype: y.dtype }));
      const found = (await Promise.all([y, ...tensors.map((t) => t.grad!)].map((t) => t.data()))) as Float32Array[];
      if (repeated) {
        const sums = new Float32Array(shape[axis]!);
        found.pop()!.forEach((v, i) => {
          sums[channelOf(i, shape, axis)]! += v;
        });
        found.push(sums);
      }
      results.push(found);
      await memory.check();
    } finally {
      memory.restore();
    }
  }
  return Math.max(...results[0]!.map((values, i) => mixedError(values, results[1]![i]!)));
}

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
 * With `activation`, whose inputs are a residual and a mask of x's shape and a scale for each channel, or that alone.
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
  const inputs = { swoosh: [], gate: [shape, shape, channels], scaled: [channels] }[activation.name] ?? [];
  return errorOf(
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
    expect(await errors(c, gate)).toBeLessThan(5e-5);
  });

  it.each(cases.slice(0, 3))("makes z again where that is all, $shape", async (c) => {
    expect(await errors(c, scaled)).toBeLessThan(5e-5);
  });

  if (hasF16)
    it("does so in f16", async () => {
      expect(await errors(cases[1]!, gate, "f16")).toBeLessThan(1e-2);
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
