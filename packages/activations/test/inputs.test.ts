import { type FloatType, manualSeed, type Shape, tensor } from "@kindling/core";
import { gate, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { apply, relu } from "../src/activations.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

type Values = ArrayLike<number>;

/**
 * y and the gradients of x, residual, mask and scale; an input may be shorter: one value for each element of the last
 * axis.
 */
function reference([x, residual, mask, scale]: Values[], dy: Values): { y: Float64Array; grads: Float64Array[] } {
  const inputs = [x!, residual!, mask!, scale!];
  const y = new Float64Array(x!.length);
  const grads = inputs.map((values) => new Float64Array(values.length));
  for (let i = 0; i < y.length; i++) {
    const [v, r, m, s] = inputs.map((values) => values[i % values.length]!) as [number, number, number, number];
    const t = Math.tanh(s * v);
    y[i] = m * t + r;
    const d = dy[i]! * m * (1 - t * t);
    for (const [k, g] of [d * s, dy[i]!, dy[i]! * t, d * v].entries()) grads[k]![i % grads[k]!.length]! += g;
  }
  return { y, grads };
}

// per-channel inputs whose vec4s lie in one row, in several, and an x that ends inside of one
const shapes: Shape[] = [[1], [3, 7], [2, 67], [5, 4, 12], [600, 257]];

const errors = (shape: Shape, dtype: FloatType = "f32", last: Shape = shape.slice(-1)): Promise<number[]> =>
  layerErrors({
    inputs: [shape, shape, last, last],
    dtype,
    run: (x, ...inputs) => apply(gate, x!, { inputs }),
    reference,
  });

describe("apply with inputs", () => {
  it.each(shapes.map((shape) => ({ shape })))("matches the reference on $shape", async ({ shape }) => {
    const [y, dx, dresidual, dmask, dscale] = await errors(shape);
    expect(Math.max(y!, dx!, dresidual!, dmask!, dscale!)).toBeLessThan(2e-5);
  });

  it("takes inputs of x's shape", async () => {
    expect(Math.max(...(await errors([3, 7], "f32", [3, 7])))).toBeLessThan(1e-5);
  });

  if (hasF16)
    it.each([{ shape: [3, 7] }, { shape: [6, 20] }])("matches the reference on $shape in f16", async ({ shape }) => {
      expect(Math.max(...(await errors(shape, "f16")))).toBeLessThan(2e-3);
    });

  it("reads bools as 0 and 1, and drops as without inputs", async () => {
    const [x, flags] = [randomValues(36, 1), randomValues(36, 2).map((v) => Number(v > 0))];
    const input = tensor(x, { shape: [3, 12], requiresGrad: true });
    const inputs = [
      tensor(new Float32Array(12), { requiresGrad: true }),
      tensor(flags, { shape: [3, 12], dtype: "bool" }),
      tensor(new Float32Array(12).fill(1)),
    ];
    manualSeed(5);
    const y = apply(gate, input, { inputs, dropout: 0.5 });
    y.backward(tensor(new Float32Array(36).fill(1), { shape: [3, 12] }));
    manualSeed(5);
    const kept = await relu(tensor(new Float32Array(36).fill(1), { shape: [3, 12] }), { dropout: 0.5 }).data();
    const at = (f: (v: number, i: number) => number): Float32Array => x.map((v, i) => kept[i]! * flags[i]! * f(v, i));
    expect(mixedError(await y.data(), at(Math.tanh))).toBeLessThan(1e-5);
    expect(
      mixedError(
        await input.grad!.data(),
        at((v) => 1 - Math.tanh(v) ** 2),
      ),
    ).toBeLessThan(1e-5);
    const sums = Array.from({ length: 12 }, (_, c) => kept[c]! + kept[c + 12]! + kept[c + 24]!);
    expect(mixedError(await inputs[0]!.grad!.data(), sums)).toBeLessThan(1e-5);
  });

  it("takes one dispatch, and one backward where inputs have x's shape", async () => {
    const device = await testDevice();
    const { dispatch } = device;
    const labels: string[] = [];
    device.dispatch = (...args) => {
      labels.push(args.at(-1) as string);
      return dispatch.apply(device, args);
    };
    try {
      const [x, ...inputs] = [1, 2, 3, 4].map((k) =>
        tensor(randomValues(20, k), { shape: [4, 5], requiresGrad: true }),
      );
      const y = apply(gate, x!, { inputs });
      const dy = tensor(randomValues(20, 5), { shape: [4, 5] });
      y.backward(dy);
    } finally {
      device.dispatch = dispatch;
    }
    expect(labels).toEqual(["gate.forward.f32.keep", "gate.backward.f32.keep"]);
  });

  it("names what is wrong with them", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const fails = (inputs: Parameters<typeof apply>[2] & object, message: string): void =>
      expect(() => apply(gate, x, inputs)).toThrow(message);
    fails({}, 'apply: "gate" takes 3 inputs after x (residual,mask,scale), got 0');
    fails({ inputs: [x, x] }, 'apply: "gate" takes 3 inputs after x (residual,mask,scale), got 2');
    fails({ inputs: [x, tensor([1, 2, 3]), x] }, "gate: mask has shape [3], expected [3,4] or [4]");
    fails({ inputs: [x, x, tensor([1, 2, 3, 4], { dtype: "i32" })] }, "gate: scale is i32, expected f32, f16 or bool");
    expect(() => apply(relu, x, { inputs: [x] })).toThrow('apply: "relu" takes 0 inputs after x (), got 1');
  });
});
