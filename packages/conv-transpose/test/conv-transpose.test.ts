import { relu, tanh } from "@kindling/activations";
import { autocast, manualSeed, tensor } from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { type Activation, type ConvTransposeShape, convTransposeReference } from "../src/conv-transpose.reference.ts";
import {
  ConvTranspose1d,
  ConvTranspose2d,
  type ConvTransposeOptions,
  convTranspose1d,
  convTranspose2d,
  type Pair,
} from "../src/conv-transpose.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

const smooth: Activation = { f: Math.tanh, derivative: (z) => 1 - Math.tanh(z) ** 2 };

type Case = ConvTransposeOptions<Pair> & { x: readonly number[]; weight: readonly number[]; withBias?: boolean };

/** Errors of y, dx, dw and db; a weight of three axes makes it one-dimensional. */
function errorsOf({ x, weight, withBias = true, ...options }: Case, dtype: "f32" | "f16" = "f32"): Promise<number[]> {
  const line = weight.length === 3;
  const { stride = 1, padding = 0, outputPadding = 0, dilation = 1, groups = 1, activation } = options;
  const both = (value: Pair, one: number): readonly [number, number] =>
    typeof value !== "number" ? value : line ? [one, value] : [value, value];
  const shape: ConvTransposeShape = {
    x: line ? [...(x.length === 3 ? [x[0]!] : [1]), x.at(-2)!, 1, x.at(-1)!] : x.length === 4 ? x : [1, ...x],
    weight: line ? [weight[0]!, weight[1]!, 1, weight[2]!] : weight,
    ...{ stride: both(stride, 1), padding: both(padding, 0), outputPadding: both(outputPadding, 0) },
    ...{ dilation: both(dilation, 1), groups, ...(activation && { activation: smooth }) },
  };
  const size = (s: readonly number[]): number => s.reduce((a, b) => a * b);
  const scale = ((weight[0]! / groups) * size(weight.slice(2))) ** -0.5;
  const outputs = weight[1]! * groups;
  return layerErrors({
    inputs: [x, weight, ...(withBias ? [[outputs]] : [])],
    values: [randomValues(size(x), 1), randomValues(size(weight), 2).map((v) => v * scale), randomValues(outputs, 3)],
    dtype,
    run: (input, w, bias) =>
      line
        ? convTranspose1d(input!, w!, { ...(options as ConvTransposeOptions<number>), bias })
        : convTranspose2d(input!, w!, { ...options, bias }),
    reference: ([input, w, b], dy) => {
      const { y, dx, dw, db } = convTransposeReference(input!, w!, b ?? null, dy, shape);
      return { y, grads: b ? [dx, dw, db] : [dx, dw] };
    },
  });
}

const name = (c: Case): string => JSON.stringify({ ...c, activation: c.activation?.name });

describe("transposed convolution", () => {
  it.each(
    (
      [
        // one element; no batch; a matrix; strides, whose classes of positions meet different taps, or none at all
        { x: [1, 1, 1], weight: [1, 1, 1] },
        { x: [2, 9, 12], weight: [9, 12, 1] },
        { x: [9, 13], weight: [9, 10, 3], withBias: false },
        { x: [2, 9, 12], weight: [9, 9, 4], stride: 2, padding: 1 },
        { x: [2, 9, 5], weight: [9, 10, 2], stride: 4, padding: 1, outputPadding: 3, activation: tanh },
        { x: [2, 9, 7], weight: [9, 9, 3], stride: 2, dilation: 3, padding: 2, outputPadding: 1 },
        { x: [2, 18, 6], weight: [18, 9, 5], groups: 2, stride: 3 },
        // few channels
        { x: [3, 5, 67], weight: [5, 1, 3], groups: 5, padding: 1 },
        { x: [2, 4, 64], weight: [4, 2, 7], groups: 4, stride: 2, activation: tanh },
        { x: [1, 1, 1000], weight: [1, 2, 40], stride: 5, padding: 7 },
        { x: [2, 12, 9], weight: [12, 3, 4], stride: 2 },
        // planes
        { x: [1, 1, 1, 1], weight: [1, 1, 1, 1] },
        { x: [9, 4, 6], weight: [9, 9, 1, 1] },
        { x: [2, 9, 5, 4], weight: [9, 9, 3, 2], stride: [1, 2], padding: [2, 0], outputPadding: [0, 1] },
        { x: [1, 9, 3, 5], weight: [9, 10, 4, 4], stride: 2, padding: 1 },
        { x: [2, 4, 7, 5], weight: [4, 1, 4, 4], groups: 4, stride: 2, padding: 1 },
        { x: [2, 3, 5, 4], weight: [3, 5, 3, 3], dilation: [2, 1], stride: [3, 1], outputPadding: [2, 0] },
      ] as Case[]
    ).map((c) => ({ c, label: name(c) })),
  )("matches the reference: $label", async ({ c }) => {
    expect(Math.max(...(await errorsOf(c)))).toBeLessThan(1e-5);
  });

  it("matches the reference over kernels, strides, paddings and groups", async () => {
    let n = 0;
    for (const K of [1, 2, 3, 4, 5]) {
      for (const stride of [1, 2, 3]) {
        for (const padding of [0, 1]) {
          const groups = [1, 2, 12][n++ % 3]!;
          const c = { x: [2, 12, 8], weight: [12, 12 / groups, K], stride, padding, groups, outputPadding: stride - 1 };
          expect(Math.max(...(await errorsOf(c))), name(c)).toBeLessThan(1e-5);
        }
      }
    }
  });

  if (hasF16)
    it.each(
      (
        [
          { x: [2, 9, 12], weight: [9, 12, 4], stride: 2, padding: 1 },
          { x: [2, 4, 7, 5], weight: [4, 1, 4, 4], groups: 4, stride: 2, padding: 1 },
        ] as Case[]
      ).map((c) => ({ c, label: name(c) })),
    )("matches the reference in f16: $label", async ({ c }) => {
      expect(Math.max(...(await errorsOf(c, "f16")))).toBeLessThan(2e-3);
    });

  if (hasF16)
    it("computes in f16 under autocast, with f32 gradients for its f32 parameters", async () => {
      for (const [inputs, outputs] of [
        [9, 10],
        [2, 3],
      ] as const) {
        const layer = new ConvTranspose1d(inputs, outputs, 3, { stride: 2 });
        const x = tensor(randomValues(inputs * 18), { shape: [inputs, 18], requiresGrad: true });
        const exact = layer.forward(x);
        const y = autocast("f16", () => layer.forward(x));
        expect(y.dtype).toBe("f16");
        expect(mixedError(await y.data(), await exact.data())).toBeLessThan(5e-3);
        y.backward(tensor(randomValues(y.size), { shape: y.shape, dtype: "f16" }));
        expect([x, layer.weight, layer.bias!].map((t) => t.grad!.dtype)).toEqual(["f32", "f32", "f32"]);
      }
    });

  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(new URL("./conv-transpose.safetensors", import.meta.url), {
      convTranspose1d: ({ x, weight, bias }, options) => convTranspose1d(x!, weight!, { ...options, bias }),
      convTranspose2d: ({ x, weight, bias }, options) => convTranspose2d(x!, weight!, { ...options, bias }),
    });
    expect(f32.size).toBeGreaterThan(15);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
  });

  it("has a reference whose gradient is right", () => {
    const shape: ConvTransposeShape = {
      ...{ x: [2, 4, 3, 2], weight: [4, 2, 2, 3], stride: [2, 1], padding: [1, 0], outputPadding: [1, 0] },
      ...{ dilation: [1, 2], groups: 2, activation: smooth },
    };
    const [x, w, b] = [randomValues(48, 1), randomValues(48, 2), randomValues(4, 3)];
    const dy = randomValues(convTransposeReference(x, w, b, new Float64Array(1000), shape).y.length, 4);
    const { dx, dw, db } = convTransposeReference(x, w, b, dy, shape);
    type Values = ArrayLike<number>;
    const loss = (at: Values, of: Values, and: Values): number =>
      convTransposeReference(at, of, and, dy, shape).y.reduce((sum, v, i) => sum + v * dy[i]!, 0);
    expect(
      mixedError(
        dx,
        finiteDifferences((v) => loss(v, w, b), x),
      ),
    ).toBeLessThan(1e-6);
    expect(
      mixedError(
        dw,
        finiteDifferences((v) => loss(x, v, b), w),
      ),
    ).toBeLessThan(1e-6);
    expect(
      mixedError(
        db,
        finiteDifferences((v) => loss(x, w, v), b),
      ),
    ).toBeLessThan(1e-6);
  });

  it("gives the same bits each time", async () => {
    for (const [inputs, outputs, groups] of [
      [9, 9, 1],
      [5, 5, 5],
    ] as const) {
      const once = async (): Promise<number[]> => {
        const x = tensor(randomValues(2 * inputs * 67), { shape: [2, inputs, 67], requiresGrad: true });
        const shape = [inputs, outputs / groups, 4];
        const weight = tensor(randomValues((inputs * outputs * 4) / groups, 2), { shape, requiresGrad: true });
        const bias = tensor(randomValues(outputs, 3), { requiresGrad: true });
        const y = convTranspose1d(x, weight, { bias, groups, stride: 2, activation: relu });
        y.backward(tensor(randomValues(y.size, 4), { shape: y.shape }));
        const all = await Promise.all([y, x.grad!, weight.grad!, bias.grad!].map((t) => t.data()));
        return all.flatMap((values) => [...values]);
      };
      expect(await once()).toEqual(await once());
    }
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(20), { shape: [4, 5] });
    const image = tensor(randomValues(40), { shape: [4, 2, 5] });
    const weight = tensor(randomValues(24), { shape: [4, 2, 3] });
    const square = tensor(randomValues(72), { shape: [4, 2, 3, 3] });
    const gate = {
      name: "gate",
      forward: "fn gate(x: f32, mask: f32) -> f32 { return x * mask; }",
      backward: "fn gateGrad(x: f32, mask: f32, dy: f32) -> vec2f { return vec2f(mask, x) * dy; }",
    };
    const cases: [() => unknown, string][] = [
      [
        () => convTranspose1d(tensor([[1]], { dtype: "i32" }), weight),
        "convTranspose1d: x is i32, expected f32 or f16",
      ],
      [() => convTranspose1d(x, x), "convTranspose1d: weight has shape [4,5], expected [C, O / groups, K]"],
      [() => convTranspose2d(x, weight), "convTranspose2d: weight has shape [4,2,3], expected [C, O / groups, KH, KW]"],
      [() => convTranspose2d(x, square), "convTranspose2d: x has shape [4,5], expected [N, C, H, W] or [C, H, W]"],
      [
        () => convTranspose1d(tensor([[1]]), weight),
        "convTranspose1d: x has shape [1,1], expected 4 channels for weight [4,2,3]",
      ],
      [
        () => convTranspose1d(x, weight, { groups: 3 }),
        "convTranspose1d: groups is 3, expected a divisor of 4 and 6 channels",
      ],
      [() => convTranspose1d(x, weight, { bias: tensor([1]) }), "convTranspose1d: bias has shape [1], expected [2]"],
      [() => convTranspose1d(x, weight, { stride: 0 }), "convTranspose1d: stride is 0, expected whole numbers ≥ 1"],
      [
        () => convTranspose2d(image, square, { stride: [1, 0] }),
        "convTranspose2d: stride is [1,0], expected whole numbers ≥ 1",
      ],
      [() => convTranspose1d(x, weight, { padding: -1 }), "convTranspose1d: padding is -1, expected whole numbers ≥ 0"],
      [() => convTranspose1d(x, weight, { dilation: 0 }), "convTranspose1d: dilation is 0, expected whole numbers ≥ 1"],
      [
        () => convTranspose1d(x, weight, { outputPadding: -1 }),
        "convTranspose1d: outputPadding is -1, expected whole numbers ≥ 0",
      ],
      [
        () => convTranspose1d(x, weight, { outputPadding: 2, stride: 2 }),
        "convTranspose1d: outputPadding is [2], expected less than stride or dilation",
      ],
      [
        () => convTranspose1d(x, weight, { padding: 4 }),
        "convTranspose1d: x has shape [4,5], expected more for padding [4]",
      ],
      [
        () => convTranspose1d(x, weight, { activation: gate }),
        'convTranspose1d: activation: "gate" takes 1 inputs after x (mask), got 0',
      ],
      [
        () => convTranspose1d(x, weight, { activation: {} as never }),
        "convTranspose1d: activation: expected { name, forward, backward }",
      ],
      [() => new ConvTranspose1d(4, 6, 0), "ConvTranspose1d: kernelSize is 0, expected whole numbers ≥ 1"],
      [
        () => new ConvTranspose2d(4, 6, 3, { groups: 4 }),
        "ConvTranspose2d: groups is 4, expected a divisor of 4 and 6 channels",
      ],
      [
        () => new ConvTranspose1d(4, 6, 3, { padding: "same" as never }),
        'ConvTranspose1d: padding is "same", expected whole numbers ≥ 0',
      ],
      [
        () => new ConvTranspose1d(4, 6, 3, { paddingMode: "reflect" as never }),
        'ConvTranspose1d: paddingMode is "reflect", expected "zeros"',
      ],
      [
        () => new ConvTranspose1d(4, 2, 3, { stride: 2 }).forward(x, [13]),
        "ConvTranspose1d: outputSize is [13], expected [11] to [12]",
      ],
    ];
    for (const [run, message] of cases) expect(run).toThrow(message);
    if (hasF16) {
      const half = tensor(randomValues(24), { shape: [4, 2, 3], dtype: "f16" });
      expect(() => convTranspose1d(x, half)).toThrow(
        "convTranspose1d: x is f32 and weight f16, expected one dtype (or autocast)",
      );
    }
  });
});

describe("modules", () => {
  it("take an output size as PyTorch does", () => {
    const x = tensor(randomValues(20), { shape: [1, 4, 5] });
    const layer = new ConvTranspose1d(4, 2, 3, { stride: 2 });
    expect(layer.forward(x).shape).toEqual([1, 2, 11]);
    expect(layer.forward(x, [12]).shape).toEqual([1, 2, 12]);
    expect(layer.forward(x, [1, 2, 12]).shape).toEqual([1, 2, 12]);
    const image = tensor(randomValues(24), { shape: [2, 3, 4] });
    expect(new ConvTranspose2d(2, 3, 3, { stride: [3, 2] }).forward(image, [10, 10]).shape).toEqual([3, 10, 10]);
  });

  it("carry PyTorch's names, shapes and initialisation", async () => {
    manualSeed(1);
    const layer = new ConvTranspose2d(4, 60, [3, 2], { groups: 2 });
    expect([...layer.namedParameters()].map(([key, p]) => `${key} [${p.shape}]`)).toEqual([
      "weight [4,30,3,2]",
      "bias [60]",
    ]);
    const bound = 1 / Math.sqrt(180);
    for (const p of layer.parameters()) {
      const largest = Math.max(...(await p.data()).map(Math.abs));
      expect(largest).toBeLessThanOrEqual(bound);
      expect(largest).toBeGreaterThan(bound / 2);
    }
    expect(new ConvTranspose1d(3, 5, 3, { bias: false, stride: 2, activation: relu }).toString()).toBe(
      "ConvTranspose1d(3, 5, kernelSize=[3], stride=[2], padding=[0], outputPadding=[0], dilation=[1], groups=1, bias=false, activation=relu)",
    );
  });
});
