import { capture, type FloatType, memory, scope, type Tensor, tensor } from "@kindling/core";
import { finiteDifferences, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import {
  alibi,
  LearnedPositionalEmbedding,
  SinusoidalPositionalEncoding,
  scaledDotProductAttention,
} from "../src/index.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
type Values = ArrayLike<number>;

/** y[b, l] = x[b, l] + table[offset + l], with its gradients. */
function reference(
  x: Values,
  table: Values,
  dy: Values,
  sizes: { batch: number; length: number; features: number; offset: number; batchFirst: boolean },
) {
  const { batch, length, features, offset, batchFirst } = sizes;
  const y = new Float64Array(x.length);
  const dtable = new Float64Array(table.length);
  for (let b = 0; b < batch; b++) {
    for (let l = 0; l < length; l++) {
      for (let f = 0; f < features; f++) {
        const i = (batchFirst ? b * length + l : l * batch + b) * features + f;
        const t = (offset + l) * features + f;
        y[i] = x[i]! + table[t]!;
        dtable[t]! += dy[i]!;
      }
    }
  }
  return { y, dx: Float64Array.from(dy), dtable };
}

const learned = (table: Tensor, batchFirst: boolean): LearnedPositionalEmbedding => {
  const module = new LearnedPositionalEmbedding(table.shape[0]!, table.shape[1]!, { batchFirst });
  module.weight.dispose();
  (module as { weight: Tensor }).weight = table;
  return module;
};

const errors = (
  batch: number,
  length: number,
  features: number,
  offset: number,
  batchFirst: boolean,
  dtype: FloatType = "f32",
) => {
  const shape = batchFirst ? [batch, length, features] : [length, batch, features];
  return layerErrors({
    inputs: [shape, [length + offset + 2, features]],
    dtype,
    run: (x, table) => learned(table!, batchFirst).forward(x!, { offset }),
    reference: ([x, table], dy) => {
      const { y, dx, dtable } = reference(x!, table!, dy, { batch, length, features, offset, batchFirst });
      return { y, grads: [dx, dtable] };
    },
  });
};

describe("LearnedPositionalEmbedding", () => {
  it.each([
    [1, 1, 1, 0],
    [2, 3, 5, 0],
    [3, 7, 67, 4],
    [2, 257, 64, 1],
  ])("matches the reference: batch %i, length %i, features %i, offset %i", async (batch, length, features, offset) => {
    for (const batchFirst of [false, true])
      expect(Math.max(...(await errors(batch, length, features, offset, batchFirst)))).toBeLessThan(1e-5);
  });

  if (hasF16)
    it("matches the reference in f16", async () => {
      expect(Math.max(...(await errors(2, 5, 7, 1, true, "f16")))).toBeLessThan(2e-3);
    });

  it("has a reference whose gradients are right", () => {
    const sizes = { batch: 2, length: 3, features: 2, offset: 1, batchFirst: false };
    const [x, table, dy] = [randomValues(12, 1), randomValues(10, 2), randomValues(12, 3)];
    const { dx, dtable } = reference(x, table, dy, sizes);
    const loss = (a: Values, t: Values): number => reference(a, t, dy, sizes).y.reduce((s, v, i) => s + v * dy[i]!, 0);
    expect(
      mixedError(
        dx,
        finiteDifferences((v) => loss(v, table), x),
      ),
    ).toBeLessThan(1e-8);
    expect(
      mixedError(
        dtable,
        finiteDifferences((v) => loss(x, v), table),
      ),
    ).toBeLessThan(1e-8);
  });

  it("has a weight, drops while training, and takes one sequence", async () => {
    const module = new LearnedPositionalEmbedding(6, 4, { dropout: 0.5 });
    expect(Object.keys(module.stateDict())).toEqual(["weight"]);
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const y = await module.eval().forward(x).data();
    const dropped = await module.train().forward(x).data();
    expect(dropped.some((v) => v === 0)).toBe(true);
    const table = await module.weight.data();
    expect(
      mixedError(
        y,
        (await x.data()).map((v, i) => v + table[i]!),
      ),
    ).toBeLessThan(1e-6);
    expect(String(module)).toBe("LearnedPositionalEmbedding(4, maxLength=6, dropout=0.5, batchFirst=false)");
  });

  it("can be captured and keeps memory constant", async () => {
    const module = new LearnedPositionalEmbedding(6, 4, { batchFirst: true });
    const x = tensor(randomValues(24), { shape: [2, 3, 4] });
    const step = capture((input: Tensor) => module.forward(input));
    const first = await step(x).data();
    expect(mixedError(await step(x).data(), first)).toBe(0);
    const before = memory(device).tensors;
    scope(() => {
      module.forward(x).backward(x);
      module.zeroGrad();
    });
    expect(memory(device).tensors).toBe(before);
  });
});

describe("SinusoidalPositionalEncoding", () => {
  it("adds sines and cosines, and has no state", async () => {
    const module = new SinusoidalPositionalEncoding(5, { maxLength: 20, base: 100, batchFirst: true });
    expect([Object.keys(module.stateDict()), module.parameters()]).toEqual([[], []]);
    const x = tensor(new Float32Array(30), { shape: [2, 3, 5] });
    const expected = Float32Array.from({ length: 30 }, (_, at) => {
      const [l, i] = [4 + (Math.floor(at / 5) % 3), at % 5];
      const angle = l / 100 ** ((2 * Math.floor(i / 2)) / 5);
      return i % 2 ? Math.cos(angle) : Math.sin(angle);
    });
    expect(mixedError(await module.forward(x, { offset: 4 }).data(), expected)).toBeLessThan(1e-6);
    x.requiresGrad = true;
    module.forward(x).backward(tensor(randomValues(30), { shape: [2, 3, 5] }));
    expect(mixedError(await x.grad!.data(), randomValues(30))).toBe(0);
    const { tensors } = memory(device);
    module.dispose();
    expect(memory(device).tensors).toBe(tensors - 1);
  });
});

describe("alibi", () => {
  it("has the authors' slopes", async () => {
    const at = async (heads: number) =>
      [...(await alibi(heads, 1, 2).data())].filter((_, i) => i % 2 === 0).map((v) => -v);
    expect(await at(8)).toEqual([1, 2, 3, 4, 5, 6, 7, 8].map((i) => 2 ** -i));
    const slopes = [...[2, 4, 6, 8].map((i) => 2 ** -i), ...[1, 3].map((i) => 2 ** -i)];
    expect(mixedError(await at(6), slopes)).toBeLessThan(1e-7);
    expect(await alibi(1, 2, 4).array()).toEqual([
      [
        [-2, -1, 0, 0],
        [-3, -2, -1, 0],
      ].map((row) => row.map((d) => (d * 2 ** -8 === 0 ? -0 : d * 2 ** -8))),
    ]);
  });

  it("is a mask of attention", async () => {
    const [q, k, v] = [1, 2, 3].map((seed) => tensor(randomValues(48, seed), { shape: [1, 2, 3, 8] })) as [
      Tensor,
      Tensor,
      Tensor,
    ];
    const near = scaledDotProductAttention(q, k, v, { attnMask: alibi(2, 3, 3), isCausal: true });
    expect(
      mixedError(await near.data(), await scaledDotProductAttention(q, k, v, { isCausal: true }).data()),
    ).toBeGreaterThan(1e-3);
  });
});

describe("positions", () => {
  it("name what is wrong", () => {
    const module = new LearnedPositionalEmbedding(4, 8, { batchFirst: true });
    const x = tensor(randomValues(24), { shape: [1, 3, 8] });
    const cases: [run: () => unknown, message: string][] = [
      [
        () => module.forward(x.reshape([3, 4, 2])),
        "LearnedPositionalEmbedding: x has shape [3,4,2], expected [batch,length,8] or [length,8]",
      ],
      [
        () => module.forward(x, { offset: -1 }),
        "LearnedPositionalEmbedding: offset is -1, expected a whole number ≥ 0",
      ],
      [
        () => module.forward(x, { offset: 2 }),
        "LearnedPositionalEmbedding: x has 3 positions from 2 on, expected at most 4 (maxLength) in all",
      ],
      [
        () => module.forward(tensor(new Int32Array(8), { shape: [1, 8] })),
        "LearnedPositionalEmbedding: x is i32, expected f32 or f16",
      ],
      [
        () => new LearnedPositionalEmbedding(0, 8),
        "LearnedPositionalEmbedding: maxLength is 0, expected a whole number ≥ 1",
      ],
      [
        () => new SinusoidalPositionalEncoding(8, { dropout: -1 }),
        "SinusoidalPositionalEncoding: dropout is -1, expected a probability from 0 to 1",
      ],
      [
        () => new SinusoidalPositionalEncoding(8, { base: 0 }),
        "SinusoidalPositionalEncoding: base is 0, expected a number above 0",
      ],
      [() => alibi(0, 1, 1), "alibi: heads is 0, expected a whole number ≥ 1"],
    ];
    for (const [run, message] of cases) expect(run).toThrow(message);
  });
});
