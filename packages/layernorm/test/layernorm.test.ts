import { add, autocast, cast, type FloatType, mul, type Shape, type Tensor, tensor } from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  fixtures,
  layerErrors,
  mixedError,
  optionsOf,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { layerNormReference } from "../src/layernorm.reference.ts";
import { LayerNorm, layerNorm } from "../src/layernorm.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const fixtureFile = new URL("./layernorm.safetensors", import.meta.url);

const errors = (shape: Shape, dtype: FloatType): Promise<number[]> => {
  const cols = shape.at(-1)!;
  return layerErrors({
    inputs: [shape, [cols], [cols]],
    dtype,
    run: (x, weight, bias) => layerNorm(x!, cols, { weight, bias, eps: 1e-3 }),
    reference: ([x, w, b], dy) => {
      const { y, dx, dw, db } = layerNormReference(x!, cols, w!, b!, dy, 1e-3);
      return { y, grads: [dx, dw, db] };
    },
  });
};

/** y = norm(x + residual) + 2 (x + residual): both outputs have a reader. */
const residualErrors = (shape: Shape, dtype: FloatType): Promise<number[]> => {
  const cols = shape.at(-1)!;
  return layerErrors({
    inputs: [shape, shape, [cols], [cols]],
    dtype,
    run: (x, residual, weight, bias) => {
      const { output, sum } = layerNorm(x!, cols, { weight, bias, residual: residual!, eps: 1e-3 });
      return add(output, mul(sum, 2));
    },
    reference: ([x, r, w, b], dy) => {
      const s = Float64Array.from(x!, (v, i) => v + r![i]!);
      const { y, dx, dw, db } = layerNormReference(s, cols, w!, b!, dy, 1e-3);
      const ds = dx.map((v, i) => v + 2 * dy[i]!);
      return { y: y.map((v, i) => v + 2 * s[i]!), grads: [ds, ds, dw, db] };
    },
  });
};

// one element; odd sizes; rows longer than registers hold, in vectors and in scalars; many rows for each workgroup of the
// backward pass
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
    expect(Math.max(...(await errors(shape, "f32")))).toBeLessThan(2e-5);
  });

  it.each([{ shape: [3, 67] }, { shape: [5, 128] }])("adds a residual on $shape", async ({ shape }) => {
    expect(Math.max(...(await residualErrors(shape, "f32")))).toBeLessThan(2e-5);
  });

  // 8 threads with 2 vectors each, 256 with 3 elements
  it.each([{ shape: [50, 64] }, { shape: [3, 600] }])("holds rows of $shape as it does on a GPU", async ({ shape }) => {
    const { software } = device;
    device.software = false;
    try {
      expect(Math.max(...(await residualErrors(shape, "f32")))).toBeLessThan(2e-5);
    } finally {
      device.software = software;
    }
  });

  // f16 holds 11 bits: y and dx are off by half a unit in the last place, sums of many rows stay as exact as their result
  if (hasF16)
    it.each(
      [
        [3, 67],
        [5, 128],
        [3, 4097],
      ].map((shape) => ({ shape })),
    )("matches the reference on $shape in f16", async ({ shape }) => {
      expect(Math.max(...(await errors(shape, "f16")))).toBeLessThan(2e-3);
    });

  if (hasF16)
    it("adds a residual in f16", async () => {
      expect(Math.max(...(await residualErrors([3, 67], "f16")))).toBeLessThan(4e-3);
    });

  it("keeps its precision far from zero", async () => {
    const x = randomValues(512).map((v) => 1000 + v);
    const { y } = layerNormReference(x, 512, null, null, x);
    expect(mixedError(await layerNorm(tensor(x), 512).data(), y)).toBeLessThan(1e-3);
  });

  it("keeps what both outputs need apart", async () => {
    const [a, b] = [randomValues(12, 1), randomValues(12, 2)];
    const s = Float64Array.from(a, (v, i) => v + b[i]!);
    const dy = randomValues(12, 3);
    const upstream = (): Tensor => tensor(dy, { shape: [3, 4] });
    const inputs = (grads: boolean[]): [Tensor, Tensor, Tensor] => [
      tensor(a, { shape: [3, 4], requiresGrad: grads[0] }),
      tensor(b, { shape: [3, 4], requiresGrad: grads[1] }),
      tensor([1, 2, 3, 4], { requiresGrad: grads[2] }),
    ];
    const { dx, dw } = layerNormReference(s, 4, [1, 2, 3, 4], null, dy);

    // only the norm is read
    let [x, residual, weight] = inputs([true, true, true]);
    layerNorm(x, 4, { weight, residual }).output.backward(upstream());
    for (const leaf of [x, residual]) expect(mixedError(await leaf.grad!.data(), dx)).toBeLessThan(1e-6);
    expect(mixedError(await weight.grad!.data(), dw)).toBeLessThan(1e-6);
    expect(x.grad!.storage.block).not.toBe(residual.grad!.storage.block);

    // only the sum is read
    [x, residual, weight] = inputs([true, true, true]);
    layerNorm(x, 4, { weight, residual }).sum.backward(upstream());
    for (const leaf of [x, residual]) expect(await leaf.grad!.data()).toEqual(dy);
    expect(weight.grad).toBe(null);

    // each input alone wants a gradient
    for (const only of [0, 1, 2]) {
      const leaves = inputs([0, 1, 2].map((i) => i === only));
      layerNorm(leaves[0]!, 4, { weight: leaves[2], residual: leaves[1]! }).output.backward(upstream());
      expect(mixedError(await leaves[only]!.grad!.data(), only === 2 ? dw : dx)).toBeLessThan(1e-6);
      expect(leaves.filter((leaf) => leaf.grad)).toHaveLength(1);
    }

    // the same tensor twice
    const twice = tensor(a, { shape: [3, 4], requiresGrad: true });
    layerNorm(twice, 4, { residual: twice }).output.backward(upstream());
    const doubled = layerNormReference(
      Float64Array.from(a, (v) => 2 * v),
      4,
      null,
      null,
      dy,
    ).dx;
    expect(
      mixedError(
        await twice.grad!.data(),
        doubled.map((v) => 2 * v),
      ),
    ).toBeLessThan(1e-6);
  });

  if (hasF16)
    it("takes a residual of another dtype, as add does", async () => {
      const [a, b, dy] = [randomValues(12, 1), randomValues(12, 2), randomValues(12, 3)];
      const x = tensor(a, { shape: [3, 4], dtype: "f16", requiresGrad: true });
      const residual = tensor(b, { shape: [3, 4], requiresGrad: true });
      const { output, sum } = layerNorm(x, 4, { residual });
      expect([output.dtype, sum.dtype]).toEqual(["f32", "f32"]);
      output.backward(tensor(dy, { shape: [3, 4] }));
      expect([x.grad!.dtype, residual.grad!.dtype]).toEqual(["f16", "f32"]);
      const { dx } = layerNormReference(
        Float64Array.from(a, (v, i) => v + b[i]!),
        4,
        null,
        null,
        dy,
      );
      expect(mixedError(await x.grad!.data(), dx)).toBeLessThan(4e-3);
      expect(mixedError(await residual.grad!.data(), dx)).toBeLessThan(4e-3);
    });

  if (hasF16)
    it("gives f32 under autocast", async () => {
      const x = cast(tensor(randomValues(3)), "f16");
      expect(autocast("f16", () => layerNorm(x, 3)).dtype).toBe("f32");
      expect(autocast("f16", () => layerNorm(cast(x, "f32"), 3, { autocastToF32: false })).dtype).toBe("f16");
      const { output, sum } = autocast("f16", () => layerNorm(x, 3, { residual: x }));
      expect([output.dtype, sum.dtype]).toEqual(["f32", "f16"]);
      expect(layerNorm(x, 3).dtype).toBe("f16");
    });

  it("gives the same bits each time", async () => {
    const results = await Promise.all(
      [1, 2].map(async () => {
        const x = tensor(randomValues(3000 * 3), { shape: [3000, 3], requiresGrad: true });
        const weight = tensor(randomValues(3, 2), { requiresGrad: true });
        const bias = tensor(randomValues(3, 3), { requiresGrad: true });
        layerNorm(x, 3, { weight, bias }).backward(tensor(randomValues(3000 * 3, 4), { shape: [3000, 3] }));
        return [await weight.grad!.data(), await bias.grad!.data(), await x.grad!.data()];
      }),
    );
    expect(results[0]).toEqual(results[1]);
  });

  it("learns a bias without a weight, and one of the two alone", async () => {
    const [a, dy] = [randomValues(12, 1), randomValues(12, 2)];
    const { db, dw } = layerNormReference(a, 4, null, null, dy);
    const [x, upstream] = [a, dy].map((v) => tensor(v, { shape: [3, 4] })) as [Tensor, Tensor];
    const bias = tensor([0, 0, 0, 0], { requiresGrad: true });
    layerNorm(x, 4, { bias }).backward(upstream);
    expect(mixedError(await bias.grad!.data(), db)).toBeLessThan(1e-6);
    const weight = tensor([1, 1, 1, 1], { requiresGrad: true });
    layerNorm(x, 4, { weight, bias: tensor([0, 0, 0, 0]) }).backward(upstream);
    expect(mixedError(await weight.grad!.data(), dw)).toBeLessThan(1e-6);
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
    expect(() => layerNorm(x, 4, { residual: tensor([1, 2, 3, 4]) })).toThrow(
      "layerNorm: residual has shape [4], expected [3,4]",
    );
    expect(() => layerNorm(x, [])).toThrow(
      "layerNorm: x has shape [3,4], expected one that ends in normalizedShape []",
    );
    const ids = tensor([1, 2, 3, 4], { dtype: "i32" });
    expect(() => layerNorm(ids, 4)).toThrow("layerNorm: x is i32, expected f32 or f16");
    expect(() => layerNorm(x, 4, { bias: ids })).toThrow("layerNorm: bias is i32, expected f32 or f16");
    if (!hasF16) return;
    const half = cast(tensor([1, 2, 3, 4]), "f16");
    expect(() => layerNorm(x, 4, { weight: half, bias: tensor([1, 2, 3, 4]) })).toThrow(
      "layerNorm: weight is f16 and bias f32, expected one dtype",
    );
  });
});

describe("LayerNorm", () => {
  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(fixtureFile, {
      layerNorm: ({ x, weight, bias, residual }, { normalizedShape, eps }) =>
        residual ? null : layerNorm(x!, normalizedShape!, { weight, bias, eps }),
    });
    expect(f32.size).toBeGreaterThan(10);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
  });

  it("matches PyTorch on every fixture with a residual", async () => {
    let count = 0;
    for (const [name, t] of await fixtures(fixtureFile)) {
      if (!t.residual || (t.residual.dtype === "f16" && !hasF16)) continue;
      const options = optionsOf(name, t) as { normalizedShape: number[]; eps?: number };
      const leaves = Object.fromEntries(
        ["x", "residual", "weight", "bias"].flatMap((key) => {
          const f = t[key];
          if (!f) return [];
          const leaf = tensor(Float32Array.from(f.values), { shape: f.shape, dtype: f.dtype, requiresGrad: true });
          return [[key, leaf]];
        }),
      ) as { x: Tensor; residual: Tensor; weight?: Tensor; bias?: Tensor };
      const { output, sum } = layerNorm(leaves.x, options.normalizedShape, { ...options, ...leaves });
      const upstream = [t.dy!, t.dsum!].map(({ values, shape, dtype }) =>
        tensor(Float32Array.from(values), { shape, dtype }),
      );
      // one backward for both outputs: the sum of their products with what comes from above
      const root = add(mul(output, upstream[0]!), mul(sum, upstream[1]!));
      root.backward(tensor(new Float32Array(root.size).fill(1), { shape: root.shape, dtype: root.dtype }));
      const tolerance = t.residual.dtype === "f16" ? 4e-3 : 1e-5;
      expect(mixedError(await output.data(), t.y!.values), name).toBeLessThan(tolerance);
      expect(mixedError(await sum.data(), t.sum!.values), name).toBeLessThan(tolerance);
      for (const [key, leaf] of Object.entries(leaves))
        expect(mixedError(await leaf.grad!.data(), t[`d${key}`]!.values), `${name} d${key}`).toBeLessThan(tolerance);
      count++;
    }
    expect(count).toBeGreaterThan(1);
  });

  it("carries PyTorch's names and flags", () => {
    const names = (layer: LayerNorm): string[] =>
      [...layer.namedParameters()].map(([name, p]) => `${name} [${p.shape}]`);
    expect(names(new LayerNorm([2, 3]))).toEqual(["weight [2,3]", "bias [2,3]"]);
    expect(names(new LayerNorm(4, { bias: false }))).toEqual(["weight [4]"]);
    expect(names(new LayerNorm(4, { elementwiseAffine: false }))).toEqual([]);
    expect(new LayerNorm(4).toString()).toBe("LayerNorm([4], eps=0.00001, elementwiseAffine=true)");
  });

  it("returns the sum with a residual", async () => {
    const layer = new LayerNorm(2, { eps: 0 });
    const x = tensor([[3, 4]]);
    const { output, sum } = layer.forward(x, x);
    expect(await sum.data()).toEqual(new Float32Array([6, 8]));
    expect(mixedError(await output.data(), [-1, 1])).toBeLessThan(1e-6);
    expect(mixedError(await layer.forward(x).data(), [-1, 1])).toBeLessThan(1e-6);
  });
});
