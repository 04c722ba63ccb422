import { autocast, cast, tensor } from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { layerNormReference } from "../src/layernorm.reference.ts";
import { LayerNorm, layerNorm } from "../src/layernorm.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

// one element; odd sizes; around the widths of a row's threads; more rows than one grid dimension holds
const shapes = [
  [1, 1],
  [3, 5],
  [2, 7, 67],
  [5, 128],
  [3, 257],
  [4, 1000],
  [3, 4097],
  [9, 8192],
  [70000, 3],
];

describe("layerNorm", () => {
  it.each(shapes.map((shape) => ({ shape })))("matches the reference on $shape", async ({ shape }) => {
    const cols = shape.at(-1)!;
    const errors = await layerErrors({
      inputs: [shape, [cols], [cols]],
      run: (x, weight, bias) => layerNorm(x!, cols, { weight, bias, eps: 1e-3 }),
      reference: ([x, w, b], dy) => {
        const { y, dx, dw, db } = layerNormReference(x!, cols, w!, b!, dy, 1e-3);
        return { y, grads: [dx, dw, db] };
      },
    });
    expect(Math.max(...errors)).toBeLessThan(2e-5);
  });

  // f16 holds 11 bits: y and dx are off by half a unit in the last place, sums of many rows stay as exact as their result
  it.runIf(hasF16).each(
    [
      [1, 1],
      [3, 67],
      [5, 128],
      [3, 4097],
    ].map((shape) => ({ shape })),
  )("matches the reference on $shape in f16", async ({ shape }) => {
    const cols = shape.at(-1)!;
    const errors = await layerErrors({
      inputs: [shape, [cols], [cols]],
      dtype: "f16",
      run: (x, weight, bias) => layerNorm(x!, cols, { weight, bias, eps: 1e-3 }),
      reference: ([x, w, b], dy) => {
        const { y, dx, dw, db } = layerNormReference(x!, cols, w!, b!, dy, 1e-3);
        return { y, grads: [dx, dw, db] };
      },
    });
    expect(Math.max(...errors)).toBeLessThan(2e-3);
  });

  it("keeps its precision far from zero", async () => {
    const x = randomValues(512).map((v) => 1000 + v);
    const { y } = layerNormReference(x, 512, null, null, x);
    expect(mixedError(await layerNorm(tensor(x), 512).data(), y)).toBeLessThan(1e-3);
  });

  it.runIf(hasF16)("gives f32 under autocast", async () => {
    const x = cast(tensor(randomValues(64)), "f16");
    expect(autocast("f16", () => layerNorm(x, 64)).dtype).toBe("f32");
    expect(autocast("f16", () => layerNorm(cast(x, "f32"), 64, { autocastToF32: false })).dtype).toBe("f16");
    expect(layerNorm(x, 64).dtype).toBe("f16");
  });

  it("has a reference whose gradient is right", () => {
    const [x, w, b, dy] = [randomValues(14, 1), randomValues(7, 2), randomValues(7, 3), randomValues(14, 4)];
    const { dx, dw } = layerNormReference(x, 7, w, b, dy);
    const loss = (y: Float64Array): number => y.reduce((sum, v, i) => sum + v * dy[i]!, 0);
    expect(
      mixedError(
        finiteDifferences((v) => loss(layerNormReference(v, 7, w, b, dy).y), x),
        dx,
      ),
    ).toBeLessThan(1e-7);
    expect(
      mixedError(
        finiteDifferences((v) => loss(layerNormReference(x, 7, v, b, dy).y), w),
        dw,
      ),
    ).toBeLessThan(1e-7);
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    expect(() => layerNorm(x, 5)).toThrow(
      "layerNorm: x has shape [3,4], expected one that ends in normalizedShape [5]",
    );
    expect(() => layerNorm(x, 4, { weight: tensor([1, 2, 3]) })).toThrow(
      "layerNorm: weight has shape [3], expected [4]",
    );
    expect(() => layerNorm(tensor([1, 2, 3], { dtype: "i32" }), 3)).toThrow("layerNorm: x is i32, expected f32 or f16");
  });
});

describe("LayerNorm", () => {
  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(new URL("./layernorm.safetensors", import.meta.url), {
      layerNorm: ({ x, weight, bias }, { normalizedShape, eps }) =>
        layerNorm(x!, normalizedShape!, { weight, bias, eps }),
    });
    expect(f32.size).toBeGreaterThan(10);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
  });

  it("carries PyTorch's names and flags", () => {
    const names = (layer: LayerNorm): string[] =>
      [...layer.namedParameters()].map(([name, p]) => `${name} [${p.shape}]`);
    expect(names(new LayerNorm([2, 3]))).toEqual(["weight [2,3]", "bias [2,3]"]);
    expect(names(new LayerNorm(4, { bias: false }))).toEqual(["weight [4]"]);
    expect(names(new LayerNorm(4, { elementwiseAffine: false }))).toEqual([]);
    expect(new LayerNorm(4).toString()).toBe("LayerNorm([4], eps=0.00001, elementwiseAffine=true)");
  });
});
