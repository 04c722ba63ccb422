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
import { type Activation, type Conv1dShape, conv1dReference } from "../src/conv1d.reference.ts";
import { Conv1d, type Conv1dOptions, conv1d } from "../src/conv1d.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

const smooth: Activation = { f: Math.tanh, derivative: (z) => 1 - Math.tanh(z) ** 2 };

type Case = Conv1dOptions & { x: readonly number[]; weight: readonly number[]; withBias?: boolean };

/** Errors of y, dx, dw and db. */
function errorsOf({ x, weight, withBias = true, ...options }: Case, dtype: "f32" | "f16" = "f32"): Promise<number[]> {
  const { padding = 0, dilation = 1 } = options;
  const total = dilation * (weight[2]! - 1);
  const ends: [number, number] =
    padding === "same"
      ? [Math.floor(total / 2), Math.ceil(total / 2)]
      : padding === "valid"
        ? [0, 0]
        : [padding, padding];
  const { activation, ...rest } = options;
  const shape: Conv1dShape = {
    ...rest,
    x: x.length === 2 ? [1, ...x] : x,
    weight,
    padding: ends,
    ...(activation && { activation: smooth }),
  };
  const scale = (weight[1]! * weight[2]!) ** -0.5;
  const size = (s: readonly number[]): number => s.reduce((a, b) => a * b);
  return layerErrors({
    inputs: [x, weight, ...(withBias ? [[weight[0]!]] : [])],
    values: [
      randomValues(size(x), 1),
      randomValues(size(weight), 2).map((v) => v * scale),
      randomValues(weight[0]!, 3),
    ],
    dtype,
    run: (input, w, bias) => conv1d(input!, w!, { ...options, bias }),
    reference: ([input, w, b], dy) => {
      const { y, dx, dw, db } = conv1dReference(input!, w!, b ?? null, dy, shape);
      return { y, grads: b ? [dx, dw, db] : [dx, dw] };
    },
  });
}

const name = (c: Case): string => JSON.stringify({ ...c, activation: c.activation?.name });

describe("conv1d", () => {
  it.each(
    (
      [
        // one element; no batch; matrices of all paddings to 4; strides, whose classes of positions meet different taps
        { x: [1, 1, 1], weight: [1, 1, 1] },
        { x: [2, 9, 12], weight: [12, 9, 1] },
        { x: [12, 13], weight: [10, 12, 3] },
        { x: [2, 9, 16], weight: [9, 9, 3], padding: 1, withBias: false },
        { x: [2, 9, 37], weight: [10, 9, 5], stride: 3, padding: 2, activation: tanh },
        { x: [2, 18, 21], weight: [20, 9, 3], groups: 2, padding: 4, dilation: 3, stride: 2 },
        { x: [2, 9, 19], weight: [9, 9, 2], stride: 4, padding: 1 },
        { x: [1, 9, 30], weight: [9, 9, 3], stride: 4, dilation: 6, padding: 3 },
        // few channels: depthwise, with a multiplier, long kernels, in vec4s and not
        { x: [3, 5, 67], weight: [5, 1, 3], groups: 5, padding: 1 },
        { x: [2, 4, 64], weight: [8, 1, 7], groups: 4, padding: "same", activation: tanh },
        { x: [2, 2, 1000], weight: [3, 2, 40], stride: 5, padding: 7 },
        { x: [2, 6, 48], weight: [4, 3, 4], groups: 2, padding: "same" },
        { x: [1, 1, 4097], weight: [2, 1, 3], dilation: 100 },
        { x: [2, 3, 257], weight: [9, 3, 8], stride: 5 },
        // padding that is not zeros
        { x: [2, 3, 9], weight: [5, 3, 4], padding: "same", paddingMode: "reflect" },
        { x: [2, 9, 14], weight: [9, 9, 3], padding: 2, paddingMode: "reflect", stride: 2 },
        { x: [2, 3, 2], weight: [5, 3, 3], padding: 5, paddingMode: "replicate" },
        { x: [2, 9, 8], weight: [9, 9, 3], padding: 1, paddingMode: "replicate" },
        { x: [2, 3, 4], weight: [5, 3, 3], padding: 4, paddingMode: "circular" },
        { x: [2, 9, 8], weight: [9, 9, 5], padding: 2, paddingMode: "circular" },
      ] as Case[]
    ).map((c) => ({ c, label: name(c) })),
  )("matches the reference: $label", async ({ c }) => {
    expect(Math.max(...(await errorsOf(c)))).toBeLessThan(1e-5);
  });

  it("matches the reference over attorch's kernels, strides, paddings and groups", async () => {
    let n = 0;
    for (const K of [1, 2, 3, 4, 5, 7]) {
      for (const stride of [1, 2]) {
        for (const padding of [0, 1, 3]) {
          const groups = [1, 2, 12][n++ % 3]!;
          const c = { x: [2, 12, 20], weight: [12, 12 / groups, K], stride, padding, groups };
          expect(Math.max(...(await errorsOf(c))), name(c)).toBeLessThan(1e-5);
        }
      }
    }
  });

  if (hasF16)
    it.each(
      (
        [
          { x: [2, 9, 12], weight: [12, 9, 3], padding: 1 },
          { x: [2, 4, 64], weight: [8, 1, 7], groups: 4, padding: "same" },
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
        const layer = new Conv1d(inputs, outputs, 3);
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
    const { f32, f16 } = await fixtureErrors(new URL("./conv1d.safetensors", import.meta.url), {
      conv1d: ({ x, weight, bias }, { activation, ...options }) =>
        conv1d(x!, weight!, { ...options, bias, activation: activation ? relu : null }),
    });
    expect(f32.size).toBeGreaterThan(15);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
  });

  it("has a reference whose gradient is right", () => {
    const [x, w, b] = [randomValues(2 * 4 * 7, 1), randomValues(6 * 2 * 3, 2), randomValues(6, 3)];
    for (const paddingMode of ["zeros", "reflect", "replicate", "circular"] as const) {
      const shape: Conv1dShape = {
        ...{ x: [2, 4, 7], weight: [6, 2, 3], stride: 2, padding: [2, 3], dilation: 2, groups: 2, paddingMode },
        activation: smooth,
      };
      const { y } = conv1dReference(x, w, b, new Float64Array(100), shape);
      const dy = randomValues(y.length, 4);
      const { dx, dw, db } = conv1dReference(x, w, b, dy, shape);
      const loss = (at: typeof x | Float64Array, of: typeof w | Float64Array, and: typeof b | Float64Array): number =>
        conv1dReference(at, of, and, dy, shape).y.reduce((sum, v, i) => sum + v * dy[i]!, 0);
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
    }
  });

  it("gives the same bits each time", async () => {
    for (const [inputs, outputs, groups] of [
      [9, 9, 1],
      [5, 5, 5],
    ] as const) {
      const once = async (): Promise<number[]> => {
        const w = inputs / groups;
        const x = tensor(randomValues(2 * inputs * 67), { shape: [2, inputs, 67], requiresGrad: true });
        const weight = tensor(randomValues(outputs * w * 3, 2), { shape: [outputs, w, 3], requiresGrad: true });
        const bias = tensor(randomValues(outputs, 3), { requiresGrad: true });
        const y = conv1d(x, weight, { bias, groups, padding: 1 });
        y.backward(tensor(randomValues(y.size, 4), { shape: y.shape }));
        const all = await Promise.all([y, x.grad!, weight.grad!, bias.grad!].map((t) => t.data()));
        return all.flatMap((values) => [...values]);
      };
      expect(await once()).toEqual(await once());
    }
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(20), { shape: [4, 5] });
    const weight = tensor(randomValues(24), { shape: [6, 4, 1] });
    const three = tensor(randomValues(72), { shape: [6, 4, 3] });
    const cases: [() => unknown, string][] = [
      [() => conv1d(tensor([[1]], { dtype: "i32" }), weight), "conv1d: x is i32, expected f32 or f16"],
      [() => conv1d(x, x), "conv1d: weight has shape [4,5], expected [O, C / groups, K]"],
      [() => conv1d(tensor([1]), weight), "conv1d: x has shape [1], expected [N, C, L] or [C, L]"],
      [() => conv1d(x, weight, { groups: 4 }), "conv1d: groups is 4, expected a divisor of 16 and 6 channels"],
      [
        () => conv1d(x, weight, { groups: 2 }),
        "conv1d: x has shape [4,5], expected 8 channels for weight [6,4,1] and groups 2",
      ],
      [() => conv1d(x, weight, { bias: tensor([1, 2]) }), "conv1d: bias has shape [2], expected [6]"],
      [() => conv1d(x, weight, { stride: 0 }), "conv1d: stride is 0, expected a whole number ≥ 1"],
      [() => conv1d(x, weight, { dilation: 1.5 }), "conv1d: dilation is 1.5, expected a whole number ≥ 1"],
      [() => conv1d(x, weight, { padding: -1 }), "conv1d: padding is -1, expected a whole number ≥ 0"],
      [
        () => conv1d(x, weight, { padding: "full" as never }),
        'conv1d: padding is "full", expected "same", "valid" or a number',
      ],
      [() => conv1d(x, weight, { padding: "same", stride: 2 }), 'conv1d: padding "same" needs a stride of 1, got 2'],
      [
        () => conv1d(x, weight, { paddingMode: "wrap" as never }),
        'conv1d: paddingMode is "wrap", expected zeros, reflect, replicate, circular',
      ],
      [
        () => conv1d(x, three, { padding: 5, paddingMode: "reflect" }),
        'conv1d: padding is 5, expected at most 4 for x [4,5] and paddingMode "reflect"',
      ],
      [
        () => conv1d(x, three, { dilation: 3 }),
        "conv1d: x has shape [4,5], expected a length of 7 or more for weight [6,4,3]",
      ],
      [
        () => conv1d(x, weight, { activation: {} as never }),
        "conv1d: activation: expected { name, forward, backward }",
      ],
      [() => new Conv1d(4, 6, 0), "Conv1d: kernelSize is 0, expected a whole number ≥ 1"],
      [() => new Conv1d(4, 6, 3, { groups: 4 }), "Conv1d: groups is 4, expected a divisor of 4 and 6 channels"],
      [() => new Conv1d(4, 6, 3, { padding: "same", stride: 2 }), 'Conv1d: padding "same" needs a stride of 1, got 2'],
    ];
    for (const [run, message] of cases) expect(run).toThrow(message);
    if (hasF16) {
      const half = tensor(randomValues(24), { shape: [6, 4, 1], dtype: "f16" });
      expect(() => conv1d(x, half)).toThrow("conv1d: x is f32 and weight f16, expected one dtype (or autocast)");
    }
  });
});

describe("Conv1d", () => {
  it("carries PyTorch's names, shapes and initialisation", async () => {
    manualSeed(1);
    const layer = new Conv1d(4, 60, 5, { groups: 2 });
    expect([...layer.namedParameters()].map(([key, p]) => `${key} [${p.shape}]`)).toEqual([
      "weight [60,2,5]",
      "bias [60]",
    ]);
    const bound = 1 / Math.sqrt(10);
    for (const p of layer.parameters()) {
      const largest = Math.max(...(await p.data()).map(Math.abs));
      expect(largest).toBeLessThanOrEqual(bound);
      expect(largest).toBeGreaterThan(bound / 2);
    }
    expect(new Conv1d(3, 5, 3, { bias: false, padding: "same", activation: relu }).toString()).toBe(
      "Conv1d(3, 5, kernelSize=3, stride=1, padding=same, dilation=1, groups=1, paddingMode=zeros, bias=false, activation=relu)",
    );
  });
});
