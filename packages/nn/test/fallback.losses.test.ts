/** The fallback and the kernels compute the same: losses, softmax and embeddings. */

import { testDevice } from "@kindling/core/testing";
import { embedding } from "@kindling/embedding";
import { bce, crossEntropy, klDiv, linearCrossEntropy, nll, smoothL1 } from "@kindling/losses";
import { logSoftmax, softmax } from "@kindling/softmax";
import { describe, expect, it } from "vitest";
import { loadFallback } from "../src/backend.ts";
import { type Agreement, disagreement } from "./fallback.ts";

await testDevice();
await loadFallback();

const ids = (values: number[], shape = [values.length]) => ({ shape, dtype: "i32" as const, values });

const cases: Record<string, Agreement> = {
  "logSoftmax with a causal mask": { inputs: { x: [2, 5, 7] }, run: ({ x }) => logSoftmax(x!, { causal: true }) },
  "softmax of a scalar": { inputs: { x: [] }, run: ({ x }) => softmax(x!) },
  embedding: {
    inputs: { weight: [9, 5], ids: ids([3, 1, 3, 8, 0, 1], [2, 3]) },
    run: (t) => embedding(t.ids!, t.weight!, { paddingIdx: 1, scaleGradByFreq: true }),
  },
  "embedding of short rows": {
    inputs: { weight: { shape: [9, 5], grad: false }, ids: ids([3, 1, 3, 8]) },
    run: (t) => ({ y: embedding(t.ids!, t.weight!, { maxNorm: 0.5, normType: 3 }), weight: t.weight! }),
  },
  "crossEntropy with a weight, smoothing, zLoss and rows to ignore": {
    inputs: {
      input: [5, 7, 2],
      target: ids([0, 6, 2, 3, -1, 5, 1, 2, 2, -1], [5, 2]),
      weight: { shape: [7], values: [1, 2, 0.5, 3, 1, 1, 0], grad: false },
    },
    run: (t) =>
      crossEntropy(t.input!, t.target!, { weight: t.weight!, labelSmoothing: 0.2, zLoss: 0.1, ignoreIndex: -1 }),
  },
  "crossEntropy of probabilities": {
    inputs: { input: [4, 7], target: [4, 7] },
    run: (t) => crossEntropy(t.input!, t.target!, { labelSmoothing: 0.1, reduction: "none" }),
  },
  "crossEntropy of nothing": {
    inputs: { input: [2, 3], target: ids([-100, -100]) },
    run: (t) => crossEntropy(t.input!, t.target!),
  },
  "nll of unsigned ids": {
    inputs: { input: [3, 4], target: { shape: [3], dtype: "u32", values: [3, 0, 2] } },
    run: (t) => nll(t.input!, t.target!, { reduction: "none" }),
  },
  smoothL1: { inputs: { x: [3, 4], target: [3, 4] }, run: (t) => smoothL1(t.x!, t.target!, { beta: 0 }) },
  "bce at its ends": {
    inputs: { x: { shape: [5], values: [0, 1, 0.3, 0, 1] }, target: { shape: [5], values: [0, 1, 0.5, 1, 0] } },
    run: (t) => bce(t.x!, t.target!, { reduction: "sum" }),
  },
  "klDiv with a batch mean": {
    inputs: { x: [3, 4], target: [3, 4] },
    run: (t) => klDiv(t.x!, t.target!, { logTarget: true, reduction: "batchmean" }),
  },
  linearCrossEntropy: {
    inputs: { x: [2, 3, 5], weight: [7, 5], bias: [7], target: ids([0, 6, 2, -100, 4, 5], [2, 3]) },
    run: (t) => linearCrossEntropy(t.x!, t.weight!, t.target!, { bias: t.bias!, labelSmoothing: 0.1, zLoss: 0.01 }),
  },
};

describe("the fallback agrees with the kernels", () => {
  it.each(Object.entries(cases))("%s", async (_, agreement) => {
    const { error, at } = await disagreement(agreement);
    expect(error, at).toBeLessThan(2e-5);
  });
});
