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
import { rmsNormReference } from "../src/rmsnorm.reference.ts";
import { RMSNorm, rmsNorm } from "../src/rmsnorm.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const fixtureFile = new URL("./rmsnorm.safetensors", import.meta.url);

const errors = (shape: Shape, dtype: FloatType): Promise<number[]> => {
  const cols = shape.at(-1)!;
  return layerErrors({
    inputs: [shape, [cols]],
    dtype,
    run: (x, weight) => rmsNorm(x!, cols, { weight, eps: 1e-3 }),
    reference: ([x, w], dy) => {
      const { y, dx, dw } = rmsNormReference(x!, cols, w!, dy, 1e-3);
      return { y, grads: [dx, dw] };
    },
  });
};

/** y = norm(x + residual) + 2 (x + residual): both outputs have a reader. */
const residualErrors = (shape: Shape, dtype: FloatType): Promise<number[]> => {
  const cols = shape.at(-1)!;
  return layerErrors({
    inputs: [shape, shape, [cols]],
    dtype,
    run: (x, residual, weight) => {
      const { output, sum } = rmsNorm(x!, cols, { weight, residual: residual!, eps: 1e-3 });
      return add(output, mul(sum, 2));
    },
    reference: ([x, r, w], dy) => {
      const s = Float64Array.from(x!, (v, i) => v + r![i]!);
      const { y, dx, dw } = rmsNormReference(s, cols, w!, dy, 1e-3);
      const ds = dx.map((v, i) => v + 2 * dy[i]!);
      return { y: y.map((v, i) => v + 2 * s[i]!), grads: [ds, ds, dw] };
    },
  });
};

describe("rmsNorm", () => {
  // one element; odd sizes; rows longer than registers hold, in vectors and in scalars; many rows for each workgroup of the
  // backward pass
  const shapes = [[1], [1, 1], [3, 5], [2, 7, 67], [3, 257], [4, 1000], [3, 4097], [11, 8196], [1100, 64], [70000, 3]];
  it.each(shapes.map((shape) => ({ shape })))("matches the reference on $shape", async ({ shape }) => {
    expect(Math.max(...(await errors(shape, "f32")))).toBeLessThan(2e-5);
  });

  it.each([{ shape: [3, 67] }, { shape: [5, 64] }])("adds a residual on $shape", async ({ shape }) => {
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

  // f16 holds 11 bits: results are off by half a unit in the last place, sums of many rows stay as exact as their result
  if (hasF16)
    it("matches the reference in f16", async () => {
      expect(Math.max(...(await errors([5, 64], "f16")))).toBeLessThan(2e-3);
      expect(Math.max(...(await residualErrors([3, 67], "f16")))).toBeLessThan(4e-3);
    });

  // it takes SwiftShader, which has no f16 either, a minute
  if (hasF16)
    it("spreads many short rows over two grid dimensions", async () => {
      const x = tensor(randomValues(32 * 65535 + 5), { shape: [32 * 65535 + 5, 1] });
      const y = await rmsNorm(x, 1, { eps: 0 }).data();
      expect(y.every((v) => Math.abs(Math.abs(v) - 1) < 1e-5)).toBe(true);
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
    const { dx, dw } = rmsNormReference(s, 4, [1, 2, 3, 4], dy);

    // only the norm is read
    let [x, residual, weight] = inputs([true, true, true]);
    rmsNorm(x, 4, { weight, residual }).output.backward(upstream());
    for (const leaf of [x, residual]) expect(mixedError(await leaf.grad!.data(), dx)).toBeLessThan(1e-6);
    expect(mixedError(await weight.grad!.data(), dw)).toBeLessThan(1e-6);
    expect(x.grad!.storage.block).not.toBe(residual.grad!.storage.block);

    // only the sum is read
    [x, residual, weight] = inputs([true, true, true]);
    rmsNorm(x, 4, { weight, residual }).sum.backward(upstream());
    for (const leaf of [x, residual]) expect(await leaf.grad!.data()).toEqual(dy);
    expect(weight.grad).toBe(null);

    // each input alone wants a gradient
    for (const only of [0, 1, 2]) {
      const leaves = inputs([0, 1, 2].map((i) => i === only));
      rmsNorm(leaves[0]!, 4, { weight: leaves[2], residual: leaves[1]! }).output.backward(upstream());
      expect(mixedError(await leaves[only]!.grad!.data(), only === 2 ? dw : dx)).toBeLessThan(1e-6);
      expect(leaves.filter((leaf) => leaf.grad)).toHaveLength(1);
    }

    // the same tensor twice
    const twice = tensor(a, { shape: [3, 4], requiresGrad: true });
    rmsNorm(twice, 4, { residual: twice }).output.backward(upstream());
    const doubled = rmsNormReference(
      Float64Array.from(a, (v) => 2 * v),
      4,
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
      const { output, sum } = rmsNorm(x, 4, { residual });
      expect([output.dtype, sum.dtype]).toEqual(["f32", "f32"]);
      output.backward(tensor(dy, { shape: [3, 4] }));
      expect([x.grad!.dtype, residual.grad!.dtype]).toEqual(["f16", "f32"]);
      const { dx } = rmsNormReference(
        Float64Array.from(a, (v, i) => v + b[i]!),
        4,
        null,
        dy,
      );
      expect(mixedError(await x.grad!.data(), dx)).toBeLessThan(4e-3);
      expect(mixedError(await residual.grad!.data(), dx)).toBeLessThan(4e-3);
    });

  it("keeps its precision on tiny and huge values", async () => {
    for (const scale of [1e-6, 1e6]) {
      const x = randomValues(64).map((v) => scale * v);
      const { y } = rmsNormReference(x, 64, null, x);
      expect(mixedError(await rmsNorm(tensor(x), 64).data(), y)).toBeLessThan(1e-6);
    }
    expect(await rmsNorm(tensor([0, 0, 0]), 3).data()).toEqual(new Float32Array(3));
  });

  if (hasF16)
    it("gives f32 under autocast", async () => {
      const x = cast(tensor(randomValues(3)), "f16");
      expect(autocast("f16", () => rmsNorm(x, 3)).dtype).toBe("f32");
      expect(autocast("f16", () => rmsNorm(cast(x, "f32"), 3, { autocastToF32: false })).dtype).toBe("f16");
      const { output, sum } = autocast("f16", () => rmsNorm(x, 3, { residual: x }));
      expect([output.dtype, sum.dtype]).toEqual(["f32", "f16"]);
      expect(rmsNorm(x, 3).dtype).toBe("f16");
    });

  it("gives the same bits each time", async () => {
    const results = await Promise.all(
      [1, 2].map(async () => {
        const x = tensor(randomValues(3000 * 12), { shape: [3000, 12], requiresGrad: true });
        const weight = tensor(randomValues(12, 2), { requiresGrad: true });
        rmsNorm(x, 12, { weight }).backward(tensor(randomValues(3000 * 12, 3), { shape: [3000, 12] }));
        return [await weight.grad!.data(), await x.grad!.data()];
      }),
    );
    expect(results[0]).toEqual(results[1]);
  });

  it("has a reference whose gradient is right", () => {
    const [x, w, dy] = [randomValues(14, 1), randomValues(7, 2), randomValues(14, 3)];
    const { dx, dw } = rmsNormReference(x, 7, w, dy);
    const loss = (y: Float64Array): number => y.reduce((sum, v, i) => sum + v * dy[i]!, 0);
    expect(
      mixedError(
        finiteDifferences((v) => loss(rmsNormReference(v, 7, w, dy).y), x),
        dx,
      ),
    ).toBeLessThan(1e-7);
    expect(
      mixedError(
        finiteDifferences((v) => loss(rmsNormReference(x, 7, v, dy).y), w),
        dw,
      ),
    ).toBeLessThan(1e-7);
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const ids = tensor([1, 2, 3, 4], { dtype: "i32" });
    expect(() => rmsNorm(x, 5)).toThrow("rmsNorm: x has shape [3,4], expected one that ends in normalizedShape [5]");
    expect(() => rmsNorm(x, [])).toThrow("rmsNorm: x has shape [3,4], expected one that ends in normalizedShape []");
    expect(() => rmsNorm(x, [2, 3, 4])).toThrow("expected one that ends in normalizedShape [2,3,4]");
    expect(() => rmsNorm(x, 4, { weight: tensor([1, 2, 3]) })).toThrow("rmsNorm: weight has shape [3], expected [4]");
    expect(() => rmsNorm(x, 4, { weight: ids })).toThrow("rmsNorm: weight is i32, expected f32 or f16");
    expect(() => rmsNorm(x, 4, { residual: ids })).toThrow("rmsNorm: residual is i32, expected f32 or f16");
    expect(() => rmsNorm(x, 4, { residual: tensor([1, 2, 3, 4]) })).toThrow(
      "rmsNorm: residual has shape [4], expected [3,4]",
    );
    expect(() => rmsNorm(ids, 4)).toThrow("rmsNorm: x is i32, expected f32 or f16");
  });
});

describe("RMSNorm", () => {
  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(fixtureFile, {
      rmsNorm: ({ x, weight, residual }, { normalizedShape, eps }) =>
        residual ? null : rmsNorm(x!, normalizedShape!, { weight, eps }),
    });
    expect(f32.size).toBeGreaterThan(9);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
  });

  it("matches PyTorch on every fixture with a residual", async () => {
    let count = 0;
    for (const [name, t] of await fixtures(fixtureFile)) {
      if (!t.residual || (t.residual.dtype === "f16" && !hasF16)) continue;
      const options = optionsOf(name, t) as { normalizedShape: number[]; eps?: number };
      const leaves = Object.fromEntries(
        ["x", "residual", "weight"].flatMap((key) => {
          const f = t[key];
          if (!f) return [];
          const leaf = tensor(Float32Array.from(f.values), { shape: f.shape, dtype: f.dtype, requiresGrad: true });
          return [[key, leaf]];
        }),
      ) as { x: Tensor; residual: Tensor; weight?: Tensor };
      const { output, sum } = rmsNorm(leaves.x, options.normalizedShape, { ...options, ...leaves });
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

  it("carries PyTorch's names and flags", async () => {
    const names = (layer: RMSNorm): string[] => [...layer.namedParameters()].map(([name, p]) => `${name} [${p.shape}]`);
    expect(names(new RMSNorm([2, 3]))).toEqual(["weight [2,3]"]);
    expect(names(new RMSNorm(4, { elementwiseAffine: false }))).toEqual([]);
    expect(new RMSNorm(4).toString()).toBe("RMSNorm([4], eps=null, elementwiseAffine=true)");
    expect(new RMSNorm(4, { eps: 1e-5 }).toString()).toBe("RMSNorm([4], eps=0.00001, elementwiseAffine=true)");
    const x = tensor([[3, 4]]);
    const { output, sum } = new RMSNorm(2, { eps: 0 }).forward(x, x);
    expect(await sum.data()).toEqual(new Float32Array([6, 8]));
    expect(mixedError(await output.data(), [0.6 * Math.SQRT2, 0.8 * Math.SQRT2])).toBeLessThan(1e-6);
    expect(mixedError(await new RMSNorm(2, { eps: 0 }).forward(x).data(), await output.data())).toBeLessThan(1e-6);
  });
});
