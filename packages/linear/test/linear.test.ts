import { gelu, geluTanh, relu } from "@kindling/activations";
import { autocast, manualSeed, type Pointwise, type Shape, tensor } from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { type Activation, linearReference } from "../src/linear.reference.ts";
import { Linear, linear } from "../src/linear.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

/** x², an activation that no package knows: what a user would write. */
const square: Pointwise = {
  name: "square",
  forward: "fn square(x: f32) -> f32 { return x * x; }",
  backward: "fn squareGrad(x: f32, dy: f32) -> f32 { return 2.0 * x * dy; }",
};
const squareReference: Activation = { f: (z) => z * z, derivative: (z) => 2 * z };

const torch: Record<string, Pointwise> = { relu, gelu, geluTanh };

const shapes: { x: Shape; out: number }[] = [
  { x: [1], out: 1 },
  { x: [3, 5], out: 7 },
  { x: [2, 3, 67], out: 36 },
  { x: [64, 64], out: 64 },
  { x: [257, 12], out: 3 },
  { x: [2, 4097], out: 3 },
];

describe("linear", () => {
  it.each(shapes)("matches the reference on $x → $out", async ({ x, out }) => {
    const inputs = x.at(-1)!;
    const errors = await layerErrors({
      inputs: [x, [out, inputs], [out]],
      run: (x, w, b) => linear(x!, w!, b),
      reference: ([x, w, b], dy) => {
        const { y, dx, dw, db } = linearReference(x!, w!, b!, dy, { inputs });
        return { y, grads: [dx, dw, db] };
      },
    });
    expect(Math.max(...errors)).toBeLessThan(2e-5);
  });

  it.each([
    { x: [3, 5], out: 7 },
    { x: [300, 64], out: 64 },
  ])("fuses any activation on $x → $out", async ({ x, out }) => {
    const inputs = x.at(-1)!;
    const errors = await layerErrors({
      inputs: [x, [out, inputs], [out]],
      run: (x, w, b) => linear(x!, w!, b, { activation: square }),
      reference: ([x, w, b], dy) => {
        const { y, dx, dw, db } = linearReference(x!, w!, b!, dy, { inputs, activation: squareReference });
        return { y, grads: [dx, dw, db] };
      },
    });
    expect(Math.max(...errors)).toBeLessThan(5e-5);
  });

  if (hasF16)
    it("rounds f16 results once", async () => {
      const errors = await layerErrors({
        inputs: [[33, 20], [12, 20], [12]],
        dtype: "f16",
        run: (x, w, b) => linear(x!, w!, b),
        reference: ([x, w, b], dy) => {
          const { y, dx, dw, db } = linearReference(x!, w!, b!, dy, { inputs: 20 });
          return { y, grads: [dx, dw, db] };
        },
      });
      expect(Math.max(...errors)).toBeLessThan(1e-3);
    });

  if (hasF16)
    it("computes in f16 under autocast, with f32 gradients for its f32 parameters", async () => {
      const layer = new Linear(20, 12, { activation: square });
      const x = tensor(randomValues(100), { shape: [5, 20], requiresGrad: true });
      const exact = layer.forward(x);
      const y = autocast("f16", () => layer.forward(x));
      expect(y.dtype).toBe("f16");
      expect(mixedError(await y.data(), await exact.data())).toBeLessThan(5e-3);
      y.backward(tensor(randomValues(60), { shape: [5, 12], dtype: "f16" }));
      expect([x, layer.weight, layer.bias!].map((t) => t.grad!.dtype)).toEqual(["f32", "f32", "f32"]);
    });

  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(new URL("./linear.safetensors", import.meta.url), {
      linear: ({ x, weight, bias }, { activation }) =>
        linear(x!, weight!, bias, { activation: activation ? torch[activation]! : null }),
    });
    expect(f32.size).toBeGreaterThan(10);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
  });

  it("has a reference whose gradient is right", () => {
    const [x, w, b, dy] = [randomValues(10, 1), randomValues(15, 2), randomValues(3, 3), randomValues(6, 4)];
    const at = { inputs: 5, activation: squareReference };
    const { dx, dw, db } = linearReference(x, w, b, dy, at);
    const loss = (y: Float64Array): number => y.reduce((sum, v, i) => sum + v * dy[i]!, 0);
    expect(
      mixedError(
        finiteDifferences((v) => loss(linearReference(v, w, b, dy, at).y), x),
        dx,
      ),
    ).toBeLessThan(1e-7);
    expect(
      mixedError(
        finiteDifferences((v) => loss(linearReference(x, v, b, dy, at).y), w),
        dw,
      ),
    ).toBeLessThan(1e-7);
    expect(
      mixedError(
        finiteDifferences((v) => loss(linearReference(x, w, v, dy, at).y), b),
        db,
      ),
    ).toBeLessThan(1e-7);
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const w = tensor(randomValues(20), { shape: [5, 4] });
    expect(() => linear(x, tensor([1, 2, 3, 4]))).toThrow("linear: weight has shape [4], expected [out, in]");
    expect(() => linear(tensor([1, 2]), w)).toThrow("linear: x has shape [2], expected [..., 4] for weight [5,4]");
    expect(() => linear(x, w, tensor([1]))).toThrow("linear: bias has shape [1], expected [5]");
    expect(() => linear(x, w, null, { activation: "gelu" as never })).toThrow(
      "linear: activation: expected { name, forward, backward }",
    );
  });
});

describe("dropout", () => {
  const [rows, inner] = [130, 64];

  /** y and the gradients, without dropout or, drawn from seed 1, with it; dy is multiplied by `mask`. */
  async function run(
    out: number,
    options: { dropout?: number; activation?: Pointwise | null },
    mask?: Float32Array,
  ): Promise<Record<"y" | "dx" | "dw" | "db", Float32Array>> {
    const x = tensor(randomValues(rows * inner, 1), { shape: [rows, inner], requiresGrad: true });
    const weight = tensor(randomValues(out * inner, 2), { shape: [out, inner], requiresGrad: true });
    const bias = tensor(randomValues(out, 3), { requiresGrad: true });
    manualSeed(1);
    const y = linear(x, weight, bias, options);
    const dy = randomValues(rows * out, 4).map((v, i) => v * (mask?.[i] ?? 1));
    y.backward(tensor(dy, { shape: y.shape }));
    const [values, dx, dw, db] = await Promise.all([y, x.grad!, weight.grad!, bias.grad!].map((t) => t.data()));
    return { y: values, dx, dw, db } as Record<"y" | "dx" | "dw" | "db", Float32Array>;
  }

  /** Compares with a call without dropout whose y and dy are multiplied by the mask that y shows. */
  async function check(out: number, p: number, activation: Pointwise | null): Promise<void> {
    const [dropped, plain] = [await run(out, { activation, dropout: p }), await run(out, { activation })];
    const mask = dropped.y.map((v) => (v === 0 ? 0 : 1 / (1 - p)));
    const kept = mask.filter((m) => m > 0).length / mask.length;
    expect(Math.abs(kept - (1 - p))).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / mask.length));
    const expected = await run(out, { activation }, mask);
    expect(
      mixedError(
        dropped.y,
        plain.y.map((v, i) => v * mask[i]!),
      ),
    ).toBeLessThan(1e-5);
    for (const name of ["dx", "dw", "db"] as const) {
      expect(mixedError(dropped[name], expected[name]), name).toBeLessThan(1e-5);
    }
  }

  it.each([
    { out: 36, p: 0.3, activation: null },
    { out: 35, p: 0.5, activation: square },
    { out: 64, p: 0.9, activation: gelu },
  ])("drops the fraction $p of y, of dy the same, on → $out", ({ out, p, activation }) => check(out, p, activation));

  it("rides in the kernels for real GPUs too", async () => {
    const device = await testDevice();
    const { software } = device;
    device.software = false;
    try {
      await check(36, 0.3, square);
    } finally {
      device.software = software;
    }
  }, 180_000);

  it("repeats with the seed, is nothing at 0 and leaves nothing at 1", async () => {
    const [a, b, none, all] = [
      await run(36, { dropout: 0.4 }),
      await run(36, { dropout: 0.4 }),
      await run(36, {}),
      await run(36, { dropout: 1 }),
    ];
    expect(a).toEqual(b);
    expect(await run(36, { dropout: 0 })).toEqual(none);
    expect(Object.values(all).every((values) => values.every((v) => v === 0))).toBe(true);
  });

  it("acts while training, and names a probability that is none", async () => {
    const layer = new Linear(4, 3, { dropout: 1 });
    const x = tensor([[1, 2, 3, 4]]);
    expect(await layer.forward(x).array()).toEqual([[0, 0, 0]]);
    layer.eval();
    expect(await layer.forward(x).array()).not.toEqual([[0, 0, 0]]);
    expect(`${layer}`).toBe("Linear(inFeatures=4, outFeatures=3, bias=true, dropout=1)");
    expect(() => new Linear(4, 3, { dropout: 2 })).toThrow("Linear: dropout is 2, expected a probability from 0 to 1");
    expect(() => linear(x, layer.weight, null, { dropout: -1 })).toThrow("linear: dropout is -1");
  });
});

describe("Linear", () => {
  it("starts within PyTorch's bounds and prints like it", async () => {
    const layer = new Linear(100, 50);
    for (const p of layer.parameters()) {
      const values = Array.from(await p.data());
      expect(Math.max(...values.map(Math.abs))).toBeLessThanOrEqual(0.1);
      expect(Math.max(...values)).toBeGreaterThan(0.08);
    }
    expect(layer.toString()).toBe("Linear(inFeatures=100, outFeatures=50, bias=true)");
    expect([...layer.namedParameters()].map(([name, p]) => `${name} [${p.shape}]`)).toEqual([
      "weight [50,100]",
      "bias [50]",
    ]);
  });
});
