import { leakyRelu } from "@kindling/activations";
import { type FloatType, type Shape, type Tensor, tensor } from "@kindling/core";
import { gate, layerErrors, mixedError, randomValues, swoosh, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { gluReference } from "../src/glu.reference.ts";
import { GLU, glu } from "../src/glu.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

type Values = ArrayLike<number>;

/** a · gate(b) in loops, `half` elements of x from a to b; inputs that are shorter than y repeat. */
function gateReference([x, ...inputs]: Values[], dy: Values, half: number): { y: Float64Array; grads: Float64Array[] } {
  const y = new Float64Array(dy.length);
  const [dx, ...dinputs] = [x!, ...inputs].map((values) => new Float64Array(values.length)) as [
    Float64Array,
    ...Float64Array[],
  ];
  for (let i = 0; i < y.length; i++) {
    const at = i + Math.floor(i / half) * half;
    const [a, b] = [x![at]!, x![at + half]!];
    const [r, m, s] = inputs.map((values) => values[i % values.length]!) as [number, number, number];
    const t = Math.tanh(s * b);
    y[i] = a * (m * t + r);
    dx[at] = dy[i]! * (m * t + r);
    const g = dy[i]! * a;
    const d = g * m * (1 - t * t);
    dx[at + half] = d * s;
    for (const [k, v] of [g, g * t, d * b].entries()) dinputs[k]![i % dinputs[k]!.length]! += v;
  }
  return { y, grads: [dx, ...dinputs] };
}

interface Case {
  x: Shape;
  y: Shape;
  dim: number;
  half: number;
}

// rows of y that are vec4s, single elements, and vec4s across rows
const cases: Case[] = [
  { x: [3, 14], y: [3, 7], dim: -1, half: 7 },
  { x: [2, 3, 24], y: [2, 3, 12], dim: -1, half: 12 },
  { x: [8, 7], y: [4, 7], dim: 0, half: 28 },
];

const errors = ({ x, y, dim, half }: Case, dtype: FloatType = "f32"): Promise<number[]> =>
  layerErrors({
    inputs: [x, y, y, y.slice(-1)],
    dtype,
    run: (x, ...inputs) => glu(x!, { dim, activation: gate, inputs }),
    reference: (values, dy) => gateReference(values, dy, half),
  });

describe("the activation in glu", () => {
  it.each([
    {
      activation: swoosh,
      f: (x: number): number => Math.log1p(Math.exp(x - 4)) - 0.08 * x - 0.035,
      derivative: (x: number): number => 1 / (1 + Math.exp(4 - x)) - 0.08,
    },
    {
      activation: leakyRelu.with({ negativeSlope: 0.3 }),
      f: (x: number): number => (x > 0 ? x : 0.3 * x),
      derivative: (x: number): number => (x > 0 ? 1 : 0.3),
    },
  ])("$activation.name is fused", async ({ activation, f, derivative }) => {
    const found = await layerErrors({
      inputs: [[3, 24]],
      run: (x) => glu(x!, { activation }),
      reference: ([x], dy) => {
        const { y, dx } = gluReference(x!, 12, f, derivative, dy);
        return { y, grads: [dx] };
      },
    });
    expect(Math.max(...found)).toBeLessThan(2e-6);
  });

  it.each(cases)("reads inputs and gives them gradients, $x", async (c) => {
    expect(Math.max(...(await errors(c)))).toBeLessThan(1e-5);
  });

  if (hasF16)
    it("does so in f16", async () => {
      expect(Math.max(...(await errors(cases[1]!, "f16")))).toBeLessThan(2e-3);
    });

  it("takes inputs in the module's forward, and names what is wrong with them", async () => {
    const layer = new GLU({ activation: gate });
    const x = tensor([[1, 1, 2, -1]]);
    const inputs = [tensor([0, 1]), tensor([1, 0], { dtype: "bool" }), tensor([[2, 2]])] as [Tensor, Tensor, Tensor];
    expect(mixedError(await layer.forward(x, ...inputs).data(), [Math.tanh(4), 1])).toBeLessThan(1e-6);
    expect(() => layer.forward(x)).toThrow(
      'glu: activation: "gate" takes 3 inputs after x (residual,mask,scale), got 0',
    );
    const [residual, mask] = inputs;
    expect(() => layer.forward(x, residual, x, mask)).toThrow("glu: mask has shape [1,4], expected [1,2] or [2]");
    const scale = tensor(randomValues(2).map(Math.round), { dtype: "i32" });
    expect(() => layer.forward(x, residual, mask, scale)).toThrow("glu: scale is i32, expected f32, f16 or bool");
    expect(() => glu(x, { inputs: [x] })).toThrow('glu: activation: "sigmoid" takes 0 inputs after x (), got 1');
  });
});
