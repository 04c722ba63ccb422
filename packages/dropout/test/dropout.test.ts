import { capture, type FloatType, manualSeed, tensor } from "@kindling/core";
import { layerErrors, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { dropoutReference } from "../src/dropout.reference.ts";
import { Dropout, dropout } from "../src/dropout.ts";

const { features } = await testDevice();
const f16 = features.has("shader-f16");

const errors = (shape: number[], p: number, dtype: FloatType = "f32"): Promise<number[]> => {
  const seed = 5 * 2 ** 32 + 11;
  manualSeed(seed);
  return layerErrors({
    inputs: [shape],
    dtype,
    run: (x) => dropout(x!, p),
    reference: ([x], dy) => {
      const draw = { stream: 0, seed: [seed % 2 ** 32, 5] as const };
      return { y: dropoutReference(x!, p, draw), grads: [dropoutReference(dy, p, draw)] };
    },
  });
};

describe("dropout", () => {
  // one element; a ragged last vec4; around a workgroup; more workgroups than one grid dimension holds would need 134 MB
  it.each([[1], [3], [67], [5, 257], [2, 3, 1000], [2049], [70000, 3]].map((shape) => ({ shape })))(
    "matches the reference on $shape",
    async ({ shape }) => {
      expect(Math.max(...(await errors(shape, 0.3)))).toBeLessThan(1e-6);
    },
  );

  it.each([0.1, 0.5, 0.9, 1e-12, 1])("matches the reference for p = %f", async (p) => {
    expect(Math.max(...(await errors([4001], p)))).toBeLessThan(1e-6);
  });

  // a scaled value rounds to the 11 bits of f16
  if (f16)
    it.each([0.3, 0.5, 1])("matches the reference for p = %f in f16", async (p) => {
      expect(Math.max(...(await errors([4001], p, "f16")))).toBeLessThan(p === 0.3 ? 5e-4 : 1e-6);
    });

  it("drops about the fraction p", async () => {
    for (const p of [0.15, 0.5, 0.75]) {
      const y = await dropout(tensor(new Float32Array(100_000).fill(1)), p).data();
      const dropped = Array.from(y).filter((v) => v === 0).length / 100_000;
      expect(Math.abs(dropped - p)).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / 100_000));
    }
  });

  it("is the identity, without a dispatch, for p = 0 and out of training", () => {
    const x = tensor(randomValues(10));
    const module = new Dropout(0.5).eval();
    for (const y of [dropout(x, 0), dropout(x, 0.5, { training: false }), module.forward(x)]) expect(y).toBe(x);
  });

  it("zeroes what it drops, infinities too", async () => {
    const x = tensor([Number.POSITIVE_INFINITY, Number.NaN], { requiresGrad: true });
    const y = dropout(x, 1);
    y.backward(tensor([1, Number.NaN]));
    expect([...(await y.data()), ...(await x.grad!.data())]).toEqual([0, 0, 0, 0]);
  });

  it("repeats with the seed, differs from call to call, and replays as it would run", async () => {
    const x = tensor(randomValues(1000), { requiresGrad: true });
    const run = (): { y: ReturnType<typeof dropout>; dx: NonNullable<typeof x.grad> } => {
      x.grad = null;
      const y = dropout(x, 0.5);
      y.backward(y);
      return { y, dx: x.grad! };
    };
    const eager: ArrayLike<number>[][] = [];
    manualSeed(7);
    for (let i = 0; i < 3; i++) {
      const { y, dx } = run();
      eager.push([await y.data(), await dx.data()]);
    }
    expect(eager[0]).not.toEqual(eager[1]);
    manualSeed(7);
    const step = capture(run);
    for (const expected of eager) {
      const { y, dx } = step();
      expect([await y.data(), await dx.data()]).toEqual(expected);
    }
    step.dispose();
  });

  it("names what is wrong with its input", () => {
    expect(() => dropout(tensor([1], { dtype: "i32" }))).toThrow("dropout: x is i32, expected f32 or f16");
    for (const p of [-0.1, 1.1, Number.NaN]) {
      expect(() => dropout(tensor([1]), p)).toThrow(`dropout: p is ${p}, expected a probability from 0 to 1`);
      expect(() => new Dropout(p)).toThrow(`Dropout: p is ${p}, expected a probability from 0 to 1`);
    }
  });

  it("prints its probability", () => {
    expect(`${new Dropout(0.1)}`).toBe("Dropout(p=0.1)");
  });
});
