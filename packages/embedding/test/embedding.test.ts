import { autocast, capture, defaultDevice, type FloatType, manualSeed, scope, tensor } from "@kindling/core";
import { finiteDifferences, fixtures, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { embeddingReference } from "../src/embedding.reference.ts";
import { Embedding, embedding } from "../src/embedding.ts";

const { features } = await testDevice();
const f16 = features.has("shader-f16");

/** `count` ids below `num`, small ones more often, as words are. */
const ids = (count: number, num: number): Int32Array =>
  Int32Array.from(randomValues(count, 9), (v) => Math.min(num - 1, Math.floor(num * v ** 4)));

interface Case {
  num: number;
  dim: number;
  count: number;
  dtype?: FloatType;
  scaleGradByFreq?: boolean;
  paddingIdx?: number;
}

const errors = ({ num, dim, count, dtype, ...options }: Case): Promise<number[]> => {
  const list = ids(count, num);
  return layerErrors({
    inputs: [[num, dim]],
    dtype,
    run: (weight) => embedding(tensor(list), weight!, options),
    reference: ([weight], dy) => {
      const { y, dw } = embeddingReference(list, weight!, dim, dy, options);
      return { y, grads: [dw] };
    },
  });
};

describe("embedding", () => {
  // one of each; odd widths; around a window and a chunk of the sort; every id the same; GPT's vocabularies; three passes
  it.each<Case>([
    { num: 1, dim: 1, count: 1 },
    { num: 3, dim: 257, count: 2 },
    { num: 5, dim: 67, count: 33 },
    { num: 7, dim: 20, count: 257 },
    { num: 1, dim: 8, count: 1000 },
    { num: 65, dim: 128, count: 8192 },
    { num: 256, dim: 4, count: 512 },
    { num: 50257, dim: 12, count: 2048 },
    { num: 70000, dim: 3, count: 300 },
    { num: 300, dim: 1, count: 70000 },
    { num: 9, dim: 20, count: 500, scaleGradByFreq: true, paddingIdx: 3 },
  ])("matches the reference with %o", async (c) => {
    expect(Math.max(...(await errors(c)))).toBeLessThan(1e-5);
  });

  // y is exact; dw, summed in f32, rounds to the 11 bits of f16
  if (f16)
    it.each<Case>([
      { num: 7, dim: 20, count: 257, dtype: "f16" },
      { num: 5, dim: 67, count: 33, dtype: "f16" },
    ])("matches the reference with %o", async (c) => {
      const [y, dw] = await errors(c);
      expect(y).toBe(0);
      expect(dw).toBeLessThan(5e-4);
    });

  it("gives the same bits each time, and the weight's dtype under autocast", async () => {
    const weight = tensor(randomValues(65 * 16), { shape: [65, 16], requiresGrad: true });
    const list = tensor(ids(4096, 65));
    const runs: ArrayLike<number>[] = [];
    for (let run = 0; run < 2; run++) {
      weight.grad = null;
      const y = autocast("f32", () => embedding(list, weight));
      expect(y.dtype).toBe("f32");
      y.backward(tensor(randomValues(y.size), { shape: y.shape }));
      runs.push(await weight.grad!.data());
    }
    expect(runs[0]).toEqual(runs[1]);
  });

  it("reports an id that names no row, reads nothing for it, and leaves it out of the gradient", async () => {
    const weight = tensor(randomValues(12), { shape: [3, 4], requiresGrad: true });
    for (const [list, named] of [
      [Int32Array.of(2, 3, 2), "3"],
      [Int32Array.of(2, -254, 2), "-254"],
    ] as const) {
      weight.grad = null;
      const y = embedding(tensor(list), weight);
      await expect(y.data()).rejects.toThrow(`embedding: id ${named} is out of range; the table has rows 0 to 2`);
      expect([...(await y.data())].map(Number.isNaN)).toEqual([
        ...Array(4).fill(false),
        ...Array(4).fill(true),
        ...Array(4).fill(false),
      ]);
      y.backward(tensor(Array(12).fill(1), { shape: [3, 4] }));
      expect([...(await weight.grad!.data())]).toEqual([...Array(8).fill(0), ...Array(4).fill(2)]);
    }
  });

  it("replays in a captured step", async () => {
    const layer = new Embedding(65, 8);
    const step = capture((x) => {
      layer.zeroGrad();
      const y = layer.forward(x);
      y.backward(y);
      return { y, grad: layer.weight.grad! };
    });
    for (const list of [ids(100, 65), ids(100, 30)]) {
      const { y, grad } = step(tensor(list));
      const w = await layer.weight.data();
      const expected = embeddingReference(list, w, 8, embeddingReference(list, w, 8, []).y);
      expect(mixedError(await y.data(), expected.y)).toBe(0);
      expect(mixedError(await grad.data(), expected.dw)).toBeLessThan(1e-6);
    }
    step.dispose();
  });

  it("keeps no scratch memory", () => {
    const layer = new Embedding(300, 8);
    const x = tensor(ids(100, 300));
    const run = (): void =>
      scope(() => {
        const y = layer.forward(x);
        y.backward(y);
      });
    run();
    layer.zeroGrad();
    const before = defaultDevice().memory().tensors;
    run();
    expect(defaultDevice().memory().tensors).toBe(before + 1);
  });

  it("has a reference whose gradient is right", () => {
    const [w, dy, list] = [randomValues(12, 1), randomValues(15, 2), [0, 2, 2, 3, 0]];
    const loss = (v: Float64Array): number =>
      embeddingReference(list, v, 3, dy).y.reduce((sum, y, i) => sum + y * dy[i]!, 0);
    expect(mixedError(finiteDifferences(loss, w), embeddingReference(list, w, 3, dy).dw)).toBeLessThan(1e-8);
  });

  it("names what is wrong with its input", () => {
    const weight = tensor(randomValues(12), { shape: [3, 4] });
    const x = tensor(Int32Array.of(1));
    expect(() => embedding(tensor([1]), weight)).toThrow("embedding: ids is f32, expected i32 or u32");
    expect(() => embedding(x, tensor([1, 2]))).toThrow("embedding: weight has shape [2], expected [num, dim]");
    expect(() => embedding(x, tensor([[1, 2]], { dtype: "i32" }))).toThrow(
      "embedding: weight is i32, expected f32 or f16",
    );
    expect(() => embedding(x, weight, { paddingIdx: 3 })).toThrow(
      "embedding: paddingIdx is 3, expected a whole number from -3 to 2",
    );
    expect(() => embedding(x, weight, { maxNorm: -1 })).toThrow("embedding: maxNorm is -1, expected a number above 0");
    expect(() => embedding(x, weight, { normType: 0 })).toThrow(
      "embedding: normType is 0, expected a number above 0 or Infinity",
    );
    expect(() => new Embedding(2, 4, { weight })).toThrow("Embedding: weight has shape [3,4], expected [2,4]");
    expect(() => new Embedding(3, 4, { paddingIdx: 0.5 })).toThrow(
      "embedding: paddingIdx is 0.5, expected a whole number from -3 to 2",
    );
  });
});

describe("Embedding", () => {
  it("starts normal, its padding row zero", async () => {
    manualSeed(1);
    const layer = new Embedding(1000, 9, { paddingIdx: -1 });
    const values = [...(await layer.weight.data())];
    expect(values.slice(-9)).toEqual(Array(9).fill(0));
    const mean = values.reduce((a, b) => a + b, 0) / values.length;
    const variance = values.reduce((a, b) => a + b * b, 0) / values.length;
    expect(Math.abs(mean)).toBeLessThan(0.05);
    expect(Math.abs(variance - 1)).toBeLessThan(0.05);
    expect(`${layer}`).toBe("Embedding(1000, 9, paddingIdx=999)");
  });

  it("takes a table that exists", async () => {
    const table = tensor(randomValues(12), { shape: [3, 4] });
    const frozen = Embedding.fromPretrained(table, { paddingIdx: 0 });
    expect(frozen.weight).toBe(table);
    expect([frozen.weight.requiresGrad, frozen.paddingIdx]).toEqual([false, 0]);
    expect(Embedding.fromPretrained(table, { freeze: false }).weight.requiresGrad).toBe(true);
  });

  it("shortens the rows that it looks up, and no others", async () => {
    for (const [normType, norm] of [
      [2, Math.hypot],
      [3, (...v: number[]) => v.reduce((sum, x) => sum + Math.abs(x) ** 3, 0) ** (1 / 3)],
      [Number.POSITIVE_INFINITY, (...v: number[]) => Math.max(...v.map(Math.abs))],
    ] as const) {
      const values = randomValues(4 * 67).map((v, i) => (i < 67 ? v / 100 : v));
      const table = tensor(values, { shape: [4, 67] });
      const layer = Embedding.fromPretrained(table, { maxNorm: 0.5, normType });
      await layer.forward(tensor(Int32Array.of(0, 2, 2))).data();
      const after = await table.data();
      const row = (of: ArrayLike<number>, r: number): number[] => Array.from(of).slice(r * 67, (r + 1) * 67);
      for (const same of [0, 1, 3]) expect(row(after, same)).toEqual(row(values, same));
      expect(norm(...row(after, 2))).toBeCloseTo(0.5, 5);
    }
  });
});

describe("PyTorch's results", async () => {
  const cases = await fixtures(new URL("./embedding.safetensors", import.meta.url));
  const names = [...cases.keys()].filter((name) => f16 || !name.includes("f16"));

  it.each(names)("%s", async (name) => {
    const { x, weight, y, dy, dweight, weight_after } = cases.get(name)!;
    const dtype = name.includes("f16") ? "f16" : "f32";
    const w = tensor(Float32Array.from(weight!.values), { shape: weight!.shape, dtype, requiresGrad: true });
    const option = (key: string): number | undefined => {
      const value = new RegExp(`${key}=(\\S+)`).exec(name)?.[1];
      return value === undefined ? undefined : Number(value);
    };
    const out = embedding(tensor(Int32Array.from(x!.values), { shape: x!.shape }), w, {
      paddingIdx: option("paddingIdx"),
      maxNorm: option("maxNorm"),
      normType: option("normType"),
      scaleGradByFreq: name.includes("scaleGradByFreq=true"),
    });
    out.backward(tensor(Float32Array.from(dy!.values), { shape: dy!.shape, dtype }));
    expect(out.shape).toEqual(y!.shape);
    expect(mixedError(await out.data(), y!.values)).toBeLessThan(name.includes("maxNorm") ? 1e-6 : 1e-30);
    if (weight_after) expect(mixedError(await w.data(), weight_after.values)).toBeLessThan(1e-6);
    expect(mixedError(await w.grad!.data(), dweight!.values)).toBeLessThan(dtype === "f16" ? 5e-4 : 1e-6);
  });
});
