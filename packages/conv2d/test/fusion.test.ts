import { apply, leakyRelu } from "@kindling/activations";
import { type FloatType, type Pointwise, type Shape, sizeOf, type Tensor, tensor } from "@kindling/core";
import { mixedError, poison, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { Conv2d, type Conv2dOptions, conv2d } from "../src/conv2d.ts";

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
  return errorOf(
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
