/** The fallback and the kernels compute the same: layers with options beside those of the fixtures, masks drawn at random. */
import * as activations from "@kindling/activations";
import { batchNorm } from "@kindling/batchnorm";
import { convTranspose2d } from "@kindling/conv-transpose";
import { conv1d } from "@kindling/conv1d";
import { conv2d } from "@kindling/conv2d";
import { matmul } from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import { dropout } from "@kindling/dropout";
import { glu } from "@kindling/glu";
import { groupNorm, instanceNorm } from "@kindling/groupnorm";
import { layerNorm } from "@kindling/layernorm";
import { linear } from "@kindling/linear";
import { pad } from "@kindling/padding";
import { adaptiveMaxPool2d, avgPool2d, maxPool2d } from "@kindling/pooling";
import { rmsNorm } from "@kindling/rmsnorm";
import { describe, expect, it } from "vitest";
import { loadFallback } from "../src/backend.ts";
import { type Agreement, disagreement } from "./fallback.ts";

await testDevice();
await loadFallback();

const ids = (values: number[], shape = [values.length]) => ({ shape, dtype: "i32" as const, values });
const still = (shape: number[]) => ({ shape, grad: false });

const cases: Record<string, Agreement> = {
  "linear with dropout": {
    inputs: { x: [3, 5, 7], weight: [6, 7], bias: [6] },
    run: ({ x, weight, bias }) => linear(x!, weight!, bias, { activation: activations.silu, dropout: 0.4 }),
  },
  "linear with an activation of numbers": {
    inputs: { x: [4, 3], weight: [5, 3], bias: [5] },
    run: ({ x, weight, bias }) =>
      linear(x!, weight!, bias, { activation: activations.leakyRelu.with({ negativeSlope: -2.5e-7 }) }),
  },
  "matmul of transposed matrices that broadcast": {
    inputs: { a: [3, 1, 5, 4], b: [2, 6, 5], bias: [6] },
    run: ({ a, b, bias }) => matmul(a!, b!, { transposeA: true, transposeB: true, bias }),
  },
  "an activation with dropout": {
    inputs: { x: [3, 67] },
    run: ({ x }) => activations.elu(x!, { alpha: 0.7, dropout: 0.3 }),
  },
  dropout: { inputs: { x: [3, 67] }, run: ({ x }) => dropout(x!, 0.25) },
  "dropout of everything": { inputs: { x: [7] }, run: ({ x }) => dropout(x!, 1) },
  glu: { inputs: { x: [3, 10, 7] }, run: ({ x }) => glu(x!, { dim: 1, activation: activations.gelu }) },
  "pad with a value, and crop": {
    inputs: { x: [2, 3, 5] },
    run: ({ x }) => pad(x!, [2, -1, -1, 3], { value: Number.POSITIVE_INFINITY }),
  },
  "layerNorm with a residual": {
    inputs: { x: [5, 3, 4], weight: [3, 4], bias: [3, 4], residual: [5, 3, 4] },
    run: (t) => layerNorm(t.x!, [3, 4], { ...t, residual: t.residual! }),
  },
  "rmsNorm with a residual": {
    inputs: { x: [5, 12], weight: [12], residual: [5, 12] },
    run: (t) => rmsNorm(t.x!, 12, { ...t, residual: t.residual!, eps: 1e-6 }),
  },
  "groupNorm with a residual": {
    inputs: { x: [2, 6, 3], weight: [6], bias: [6], residual: [2, 6, 3] },
    run: (t) => groupNorm(t.x!, 3, { ...t, residual: t.residual! }),
  },
  "instanceNorm that moves running statistics": {
    inputs: { x: [3, 4, 5], weight: [4], bias: [4], runningMean: still([4]), runningVar: still([4]) },
    run: (t) => ({ y: instanceNorm(t.x!, t), mean: t.runningMean!, variance: t.runningVar! }),
  },
  "batchNorm with a cumulative average, a residual and an activation": {
    inputs: {
      ...{ x: [5, 3, 4], weight: [3], bias: [3], residual: [5, 3, 4] },
      ...{ runningMean: still([3]), runningVar: still([3]), numBatchesTracked: ids([4], [1]) },
    },
    run: (t) => {
      const y = batchNorm(t.x!, { ...t, training: true, momentum: null, activation: activations.relu });
      return { y, mean: t.runningMean!, variance: t.runningVar! };
    },
  },
  "batchNorm by running statistics": {
    inputs: {
      ...{ x: [2, 3, 4], weight: [3], bias: [3] },
      ...{ runningMean: still([3]), runningVar: { shape: [3], values: [0.5, 2, 1], grad: false } },
    },
    run: (t) => batchNorm(t.x!, t),
  },
  "conv1d of a line without a batch": {
    inputs: { x: [4, 11], weight: [6, 2, 3], bias: [6] },
    run: (t) =>
      conv1d(t.x!, t.weight!, { ...t, groups: 2, padding: 2, stride: 2, dilation: 2, paddingMode: "circular" }),
  },
  "conv2d of the same size": {
    inputs: { x: [2, 3, 6, 5], weight: [4, 3, 2, 4], bias: [4] },
    run: (t) =>
      conv2d(t.x!, t.weight!, { ...t, padding: "same", paddingMode: "reflect", activation: activations.tanh }),
  },
  "convTranspose2d with everything": {
    inputs: { x: [2, 4, 3, 5], weight: [4, 3, 3, 2], bias: [6] },
    run: (t) =>
      convTranspose2d(t.x!, t.weight!, {
        ...{ bias: t.bias!, stride: [2, 3], padding: [2, 1], outputPadding: [1, 2], dilation: [2, 1], groups: 2 },
        activation: activations.softplus,
      }),
  },
  "maxPool2d with indices": {
    inputs: { x: [2, 3, 9, 8] },
    run: ({ x }) =>
      maxPool2d(x!, [3, 2], { stride: 2, padding: 1, dilation: [2, 1], ceilMode: true, returnIndices: true }),
  },
  adaptiveMaxPool2d: {
    inputs: { x: [2, 7, 5] },
    run: ({ x }) => adaptiveMaxPool2d(x!, [3, 5], { returnIndices: true }),
  },
  "avgPool2d with a divisor": {
    inputs: { x: [2, 3, 9, 8] },
    run: ({ x }) => avgPool2d(x!, 3, { stride: 2, padding: 1, ceilMode: true, divisorOverride: 5 }),
  },
  "avgPool2d that leaves padding out": {
    inputs: { x: [2, 3, 9, 8] },
    run: ({ x }) => avgPool2d(x!, 3, { stride: 2, padding: 1, ceilMode: true, countIncludePad: false }),
  },
};

describe("the fallback agrees with the kernels", () => {
  it.each(Object.entries(cases))("%s", async (_, agreement) => {
    const { error, at } = await disagreement(agreement);
    expect(error, at).toBeLessThan(2e-5);
  });
});
