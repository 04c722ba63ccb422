import { relu } from "@kindling/activations";
import { autocast, ones, type Pointwise, type Shape, sizeOf, type Tensor, tensor } from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { type Conv2dShape, conv2dReference } from "../src/conv2d.reference.ts";
import { Conv2d, type Conv2dOptions, conv2d, type PaddingMode } from "../src/conv2d.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

/** x² / 2: what a user would write. */
const square: Pointwise = {
  name: "halfSquare",
  forward: "fn halfSquare(x: f32) -> f32 { return 0.5 * x * x; }",
  backward: "fn halfSquareGrad(x: f32, dy: f32) -> f32 { return x * dy; }",
};
const squareReference = { f: (z: number) => (z * z) / 2, derivative: (z: number) => z };

interface Sweep extends Omit<Conv2dOptions, "bias" | "padding" | "stride" | "dilation"> {
  x: Shape;
  weight: Shape;
  stride?: [number, number];
  padding?: [number, number];
  dilation?: [number, number];
  paddingMode?: PaddingMode;
}

async function errorsOf(c: Sweep, dtype: "f32" | "f16" = "f32"): Promise<number[]> {
  const { x, weight, padding: [ph, pw] = [0, 0], activation, ...rest } = c;
  return layerErrors({
    inputs: [x, weight, [weight[0]!]],
    dtype,
    run: (x, w, bias) => conv2d(x!, w!, { ...rest, padding: [ph, pw], activation, bias }),
    reference: ([xs, ws, bs], dy) => {
      const padding = [
        [ph, ph],
        [pw, pw],
      ] as const;
      const options = { x, weight, padding, ...rest, activation: activation ? squareReference : undefined };
      const { y, dx, dw, db } = conv2dReference(xs!, ws!, bs!, dy, options);
      return { y, grads: [dx, dw, db] };
    },
  });
}

describe("conv2d", () => {
  it.each<Sweep>([
    // matrix products
    { x: [1, 1, 1, 1], weight: [9, 1, 1, 1] },
    { x: [2, 12, 7, 5], weight: [17, 12, 3, 3], padding: [1, 1] },
    { x: [3, 9, 8, 12], weight: [12, 9, 3, 3], padding: [1, 1] },
    { x: [2, 10, 9, 11], weight: [11, 10, 3, 3], stride: [2, 2], padding: [1, 1] },
    { x: [2, 9, 7, 7], weight: [10, 9, 1, 1] },
    { x: [3, 16, 4, 6], weight: [12, 16, 1, 1] },
    { x: [2, 9, 7, 9], weight: [10, 9, 1, 1], stride: [2, 3] },
    { x: [2, 9, 13, 10], weight: [9, 9, 3, 2], stride: [2, 3], padding: [2, 1], dilation: [2, 2] },
    { x: [1, 67, 3, 2], weight: [67, 67, 2, 3], padding: [1, 1] },
    { x: [2, 18, 6, 5], weight: [20, 9, 3, 3], groups: 2, padding: [1, 1] },
    // Winograd
    { x: [2, 40, 5, 6], weight: [41, 40, 3, 3], padding: [1, 1] },
    { x: [1, 84, 4, 5], weight: [80, 42, 3, 3], padding: [0, 3], groups: 2 },
    // without matrices
    { x: [2, 5, 9, 12], weight: [5, 1, 3, 3], groups: 5, padding: [1, 1] },
    { x: [2, 3, 12, 8], weight: [6, 1, 5, 5], groups: 3, padding: [2, 2], stride: [2, 2] },
    { x: [1, 4, 10, 9], weight: [4, 2, 3, 3], groups: 2, padding: [0, 2], dilation: [2, 1] },
    { x: [2, 3, 17, 16], weight: [9, 3, 7, 7], stride: [2, 2], padding: [3, 3] },
    { x: [1, 20, 5, 8], weight: [3, 20, 3, 3], padding: [1, 1] },
    { x: [1, 2, 1, 257], weight: [2, 2, 1, 4], stride: [1, 4] },
    { x: [1, 2, 20, 3], weight: [2, 1, 16, 2], groups: 2, padding: [8, 1] },
    // every window lies in the padding
    { x: [1, 2, 3, 3], weight: [2, 2, 1, 1], stride: [5, 5], padding: [2, 2] },
  ])("matches the reference: %o", async (c) => {
    expect(Math.max(...(await errorsOf(c)))).toBeLessThan(2e-5);
  });

  // In Chromium, SwiftShader takes a minute over each of these.
  if (!("document" in globalThis)) {
    // Software GPUs have kernels of fewer lines; these are what a real one runs.
    it.each<Sweep>([
      { x: [2, 2, 7, 8], weight: [2, 1, 2, 3], groups: 2, padding: [1, 1] },
      { x: [1, 2, 5, 8], weight: [2, 1, 2, 2], groups: 2, padding: [1, 0], stride: [2, 1] },
    ])(
      "matches the reference with the kernels of real GPUs: %o",
      async (c) => {
        const device = await testDevice();
        const { software } = device;
        device.software = false;
        try {
          expect(Math.max(...(await errorsOf(c)))).toBeLessThan(2e-5);
        } finally {
          device.software = software;
        }
      },
      180_000,
    );

    it("takes more workgroups than one grid dimension holds", async () => {
      const y = conv2d(ones([1, 1, 4200, 4200]), tensor([[[[2]]]]));
      expect((await y.data()).every((v) => v === 2)).toBe(true);
    });
  }

  it.each<Sweep>([
    { x: [2, 10, 5, 6], weight: [9, 10, 3, 3], padding: [2, 1], paddingMode: "reflect" },
    { x: [1, 10, 5, 6], weight: [9, 10, 3, 3], padding: [6, 1], paddingMode: "replicate" },
    { x: [1, 10, 5, 6], weight: [9, 10, 3, 3], padding: [5, 1], paddingMode: "circular" },
    { x: [2, 3, 5, 8], weight: [3, 1, 3, 4], groups: 3, padding: [4, 2], stride: [2, 1], paddingMode: "reflect" },
  ])("pads as it is told: %o", async (c) => {
    expect(Math.max(...(await errorsOf(c)))).toBeLessThan(1e-5);
  });

  it.each<Sweep>([
    { x: [2, 9, 5, 4], weight: [12, 9, 3, 3], padding: [1, 1], activation: square },
    { x: [2, 3, 5, 7], weight: [6, 1, 3, 3], groups: 3, activation: square },
  ])("fuses any activation: %o", async (c) => {
    expect(Math.max(...(await errorsOf(c)))).toBeLessThan(5e-5);
  });

  if (hasF16)
    it.each<Sweep>([
      { x: [2, 12, 7, 5], weight: [17, 12, 3, 3], padding: [1, 1], stride: [2, 2] },
      { x: [2, 12, 4, 4], weight: [12, 12, 1, 1] },
      { x: [2, 4, 8, 8], weight: [4, 1, 3, 3], groups: 4, padding: [1, 1] },
    ])("rounds f16 once: %o", async (c) => {
      expect(Math.max(...(await errorsOf(c, "f16")))).toBeLessThan(1e-3);
    });

  if (hasF16)
    it.each([{ groups: 1 }, { groups: 12 }])(
      "computes in f16 under autocast, with f32 gradients for its f32 parameters: groups $groups",
      async ({ groups }) => {
        const layer = new Conv2d(12, 12, 3, { padding: 1, groups, activation: square });
        const x = tensor(randomValues(2 * 12 * 20), { shape: [2, 12, 4, 5], requiresGrad: true });
        const dy = randomValues(2 * 12 * 20, 3);
        const grads = async (y: Tensor): Promise<ArrayLike<number>[]> => {
          y.backward(tensor(dy, { shape: y.shape, dtype: y.dtype }));
          const all = [x, layer.weight, layer.bias!].map((t) => t.grad!);
          expect(all.map((g) => g.dtype)).toEqual(["f32", "f32", "f32"]);
          const values = await Promise.all(all.map((g) => g.data()));
          for (const t of [x, layer.weight, layer.bias!]) t.grad = null;
          return values;
        };
        const exact = layer.forward(x);
        const y = autocast("f16", () => layer.forward(x));
        expect(y.dtype).toBe("f16");
        expect(mixedError(await y.data(), await exact.data())).toBeLessThan(5e-3);
        const [half, full] = [await grads(y), await grads(exact)];
        for (const [i, g] of half.entries()) expect(mixedError(g, full[i]!)).toBeLessThan(1e-2);
      },
    );

  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(new URL("./conv2d.safetensors", import.meta.url), {
      conv2d: ({ x, weight, bias }, { activation, ...options }) =>
        conv2d(x!, weight!, { ...(options as object), bias: bias ?? null, activation: activation ? relu : null }),
    });
    expect(f32.size).toBeGreaterThan(20);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
  });

  it("gives the same bits each time", async () => {
    const runs: (readonly number[])[] = [];
    for (let i = 0; i < 2; i++) {
      const x = tensor(randomValues(3 * 10 * 63, 1), { shape: [3, 10, 7, 9], requiresGrad: true });
      const w = tensor(randomValues(12 * 90, 2), { shape: [12, 10, 3, 3], requiresGrad: true });
      const y = conv2d(x, w, { padding: 1 });
      y.backward(tensor(randomValues(y.size, 3), { shape: y.shape }));
      runs.push([...(await y.data()), ...(await x.grad!.data()), ...(await w.grad!.data())]);
    }
    expect(runs[0]).toEqual(runs[1]);
  });

  it("takes one image without a batch, and computes only the gradients that are wanted", async () => {
    const x = tensor(randomValues(9 * 20), { shape: [9, 4, 5] });
    const w = tensor(randomValues(10 * 81), { shape: [10, 9, 3, 3] });
    const bias = tensor(randomValues(10), { shape: [10], requiresGrad: true });
    const y = conv2d(x, w, { bias });
    expect(y.shape).toEqual([10, 2, 3]);
    y.backward(tensor(new Float32Array(60).fill(1), { shape: y.shape }));
    expect(x.grad).toBe(null);
    expect(w.grad).toBe(null);
    expect([...(await bias.grad!.data())]).toEqual(new Array(10).fill(6));
  });

  it.each<Conv2dShape>([
    {
      x: [2, 4, 4, 5],
      weight: [2, 2, 3, 2],
      stride: [2, 1],
      padding: [
        [1, 1],
        [0, 1],
      ],
      groups: 2,
      activation: squareReference,
    },
    {
      x: [1, 2, 4, 5],
      weight: [2, 2, 3, 3],
      padding: [
        [1, 1],
        [2, 2],
      ],
      dilation: [1, 2],
      paddingMode: "reflect",
    },
    {
      x: [1, 2, 4, 5],
      weight: [2, 2, 3, 3],
      padding: [
        [1, 1],
        [2, 2],
      ],
      paddingMode: "replicate",
    },
    {
      x: [1, 2, 4, 5],
      weight: [2, 2, 3, 3],
      padding: [
        [1, 1],
        [2, 2],
      ],
      paddingMode: "circular",
    },
  ])("has a reference whose gradient is right: %o", (shape) => {
    const [x, w, b] = [randomValues(sizeOf(shape.x), 1), randomValues(sizeOf(shape.weight), 2), randomValues(2, 3)];
    const dy = randomValues(conv2dReference(x, w, b, [], shape).y.length, 4);
    const { dx, dw, db } = conv2dReference(x, w, b, dy, shape);
    const loss = (x: ArrayLike<number>, w: ArrayLike<number>, b: ArrayLike<number>): number =>
      conv2dReference(x, w, b, dy, shape).y.reduce((sum, v, i) => sum + v * dy[i]!, 0);
    expect(
      mixedError(
        finiteDifferences((v) => loss(v, w, b), x),
        dx,
      ),
    ).toBeLessThan(1e-7);
    expect(
      mixedError(
        finiteDifferences((v) => loss(x, v, b), w),
        dw,
      ),
    ).toBeLessThan(1e-7);
    expect(
      mixedError(
        finiteDifferences((v) => loss(x, w, v), b),
        db,
      ),
    ).toBeLessThan(1e-7);
  });

  it("names what is wrong with its input", () => {
    const zeros = (shape: Shape): Tensor => tensor(new Float32Array(sizeOf(shape)), { shape });
    const [x, w] = [zeros([2, 4, 5, 6]), zeros([6, 4, 3, 3])];
    const cases: [() => unknown, string][] = [
      [() => conv2d(zeros([5, 6]), w), "x has shape [5,6], expected [N, C, H, W] or [C, H, W]"],
      [
        () => conv2d(x, zeros([6, 4, 3])),
        "weight has shape [6,4,3], expected [out channels, in channels / groups, height, width]",
      ],
      [
        () => conv2d(zeros([2, 3, 5, 6]), w),
        "x has shape [2,3,5,6], expected 4 channels for weight [6,4,3,3] and groups 1",
      ],
      [
        () => conv2d(x, w, { groups: 4 }),
        "groups is 4, expected a divisor of the 6 output channels of weight [6,4,3,3]",
      ],
      [() => conv2d(x, w, { bias: zeros([4]) }), "bias has shape [4], expected [6]"],
      [() => conv2d(x, w, { stride: 0 }), "stride is 0, expected a whole number ≥ 1, or two of them"],
      [() => conv2d(x, w, { dilation: [1, 0.5] }), "dilation is [1,0.5], expected a whole number ≥ 1, or two of them"],
      [() => conv2d(x, w, { padding: -1 }), "padding is -1, expected a whole number ≥ 0, or two of them"],
      [() => conv2d(x, w, { padding: "full" as never }), 'padding is "full", expected "same", "valid" or numbers'],
      [() => conv2d(x, w, { padding: "same", stride: 2 }), 'padding "same" needs a stride of 1, got [2,2]'],
      [
        () => conv2d(x, w, { paddingMode: "mirror" as never }),
        'paddingMode is "mirror", expected zeros, reflect, replicate, circular',
      ],
      [
        () => conv2d(zeros([2, 4, 2, 6]), w),
        "x has shape [2,4,2,6], smaller with its padding than the window of weight [6,4,3,3]",
      ],
      [
        () => conv2d(x, w, { padding: 5, paddingMode: "reflect" }),
        'padding 5 with paddingMode "reflect" is more than 4, what x [2,4,5,6] allows',
      ],
      [
        () => conv2d(x, w, { padding: [1, 7], paddingMode: "circular" }),
        'padding 7 with paddingMode "circular" is more than 6, what x [2,4,5,6] allows',
      ],
      [() => conv2d(tensor([1], { dtype: "i32" }), w), "x is i32, expected f32 or f16"],
      [() => conv2d(x, w, { activation: "relu" as never }), "activation: expected { name, forward, backward }"],
    ];
    for (const [run, message] of cases) expect(run).toThrow(`conv2d: ${message}`);
    if (hasF16) {
      const half = tensor(new Float32Array(240), { shape: [2, 4, 5, 6], dtype: "f16" });
      expect(() => conv2d(half, w)).toThrow("conv2d: x is f16 and weight f32, expected one dtype (or autocast)");
    }
  });
});

describe("Conv2d", () => {
  it("starts within PyTorch's bounds and prints like it", async () => {
    const layer = new Conv2d(4, 50, [5, 5], { groups: 2, padding: "same" });
    const bound = 1 / Math.sqrt(2 * 25);
    for (const p of layer.parameters()) {
      const values = Array.from(await p.data());
      expect(Math.max(...values.map(Math.abs))).toBeLessThanOrEqual(bound);
      expect(Math.max(...values)).toBeGreaterThan(0.8 * bound);
    }
    expect(layer.toString()).toBe(
      'Conv2d(4, 50, kernelSize=[5,5], stride=[1,1], padding="same", dilation=[1,1], groups=2, bias=true, paddingMode=zeros)',
    );
    expect([...layer.namedParameters()].map(([name, p]) => `${name} [${p.shape}]`)).toEqual([
      "weight [50,2,5,5]",
      "bias [50]",
    ]);
    const x = tensor(randomValues(2 * 4 * 30), { shape: [2, 4, 5, 6] });
    expect(layer.forward(x).shape).toEqual([2, 50, 5, 6]);
  });

  it("names what is wrong with its options", () => {
    expect(() => new Conv2d(4, 6, 3, { groups: 4 })).toThrow(
      "Conv2d: groups is 4, expected a divisor of 4 and 6 channels",
    );
    expect(() => new Conv2d(4, 6, 0)).toThrow("Conv2d: kernelSize is 0, expected a whole number ≥ 1, or two of them");
    expect(() => new Conv2d(4, 6, 3, { padding: "same", stride: 2 })).toThrow(
      'Conv2d: padding "same" needs a stride of 1, got [2,2]',
    );
    expect(() => new Conv2d(4, 6, 3, { paddingMode: "mirror" as never })).toThrow('Conv2d: paddingMode is "mirror"');
    expect(() => new Conv2d(4, 6, 3, { activation: {} as never })).toThrow("Conv2d: activation: expected");
  });
});
