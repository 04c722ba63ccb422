import { type FloatType, tensor } from "@kindling/core";
import { finiteDifferences, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { scaleReference } from "../src/scale.reference.ts";
import { Scale, scale } from "../src/scale.ts";

const device = await testDevice();
const f16 = device.features.has("shader-f16");

const errors = (shape: readonly number[], dtype: FloatType): Promise<number[]> =>
  layerErrors({
    inputs: [shape, [shape.at(-1)!]],
    dtype,
    run: (x, weight) => scale(x!, weight!),
    reference: ([x, w], dy) => {
      const { y, dx, dw } = scaleReference(x!, w!, dy);
      return { y, grads: [dx, dw] };
    },
  });

describe("scale", () => {
  // one element; odd sizes; around a tile of columns; around a chunk of rows; more rows than one grid dimension holds
  const shapes = [[1], [1, 1], [3, 5], [2, 7, 31], [5, 32], [64, 33], [65, 128], [1000, 3], [70000, 3]];
  it.each(shapes.map((shape) => ({ shape })))("matches the reference on $shape", async ({ shape }) => {
    expect(Math.max(...(await errors(shape, "f32")))).toBeLessThan(1e-5);
  });

  // f16 holds 11 bits: results are off by half a unit in the last place
  it.runIf(f16).each([{ shape: [1, 1] }, { shape: [3, 67] }, { shape: [129, 5] }])(
    "matches the reference on $shape in f16",
    async ({ shape }) => {
      expect(Math.max(...(await errors(shape, "f16")))).toBeLessThan(1e-3);
    },
  );

  it("has a reference whose gradient is right", () => {
    const [x, w, dy] = [randomValues(14, 1), randomValues(7, 2), randomValues(14, 3)];
    const { dx, dw } = scaleReference(x, w, dy);
    const loss = (y: Float64Array): number => y.reduce((sum, v, i) => sum + v * dy[i]!, 0);
    expect(
      mixedError(
        finiteDifferences((v) => loss(scaleReference(v, w, dy).y), x),
        dx,
      ),
    ).toBeLessThan(1e-7);
    expect(
      mixedError(
        finiteDifferences((v) => loss(scaleReference(x, v, dy).y), w),
        dw,
      ),
    ).toBeLessThan(1e-7);
  });

  it("gives the same bits each time", async () => {
    const results = await Promise.all(
      [1, 2].map(async () => {
        const x = tensor(randomValues(3000), { shape: [1000, 3] });
        const weight = tensor([1, 2, 3], { requiresGrad: true });
        scale(x, weight).backward(tensor(randomValues(3000, 2), { shape: [1000, 3] }));
        return weight.grad!.data();
      }),
    );
    expect(results[0]).toEqual(results[1]);
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const ids = tensor([1, 2, 3, 4], { dtype: "i32" });
    expect(() => scale(x, tensor([1, 2, 3]))).toThrow(
      "scale: weight has shape [3], expected [4], the last axis of x [3,4]",
    );
    expect(() => scale(x, ids)).toThrow("scale: weight is i32, expected f32 or f16");
    expect(() => scale(ids, tensor([1, 2, 3, 4]))).toThrow("scale: x is i32, expected f32 or f16");
  });
});

describe("Scale", () => {
  it("starts as the identity and learns its weight", async () => {
    const layer = new Scale(3);
    const x = tensor([[1, 2, 3]]);
    expect(await layer.forward(x).array()).toEqual([[1, 2, 3]]);
    layer.forward(x).backward(tensor([[1, 1, 1]]));
    expect(await layer.weight.grad!.array()).toEqual([1, 2, 3]);
    expect(Object.keys(layer.stateDict())).toEqual(["weight"]);
    expect(String(layer)).toContain("Scale(3");
  });
});
