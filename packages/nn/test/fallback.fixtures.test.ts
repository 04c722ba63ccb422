/** The fallback against PyTorch: the fixtures of every layer, with all gradients. So the fixtures, too, have a second witness. */
import * as activations from "@kindling/activations";
import { MultiheadAttention, scaledDotProductAttention } from "@kindling/attention";
import { batchNorm } from "@kindling/batchnorm";
import { convTranspose1d, convTranspose2d } from "@kindling/conv-transpose";
import { conv1d } from "@kindling/conv1d";
import { conv2d } from "@kindling/conv2d";
import { type FloatType, type Module, matmul, type Pointwise, type Tensor } from "@kindling/core";
import { type FixtureRun, fixtureErrors, testDevice } from "@kindling/core/testing";
import { embedding } from "@kindling/embedding";
import { glu } from "@kindling/glu";
import { groupNorm, instanceNorm } from "@kindling/groupnorm";
import { layerNorm } from "@kindling/layernorm";
import { linear } from "@kindling/linear";
import * as losses from "@kindling/losses";
import { pad } from "@kindling/padding";
import * as pooling from "@kindling/pooling";
import { rmsNorm } from "@kindling/rmsnorm";
import { logSoftmax, softmax, softmin } from "@kindling/softmax";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { setBackend } from "../src/backend.ts";

const device = await testDevice();
beforeAll(() => setBackend("fallback"));
afterAll(() => setBackend("kernels"));

const functions = activations as unknown as Record<string, Pointwise & ((x: Tensor, options: object) => Tensor)>;
const named = (name: string | undefined): Pointwise | null => (name ? functions[name]! : null);

type Functions = Record<string, (...args: never[]) => Tensor>;
const lossFunctions = { ...losses } as unknown as Functions;
const poolFunctions = { ...pooling } as unknown as Functions;

/** A loss by its PyTorch inputs, x or x1 and x2, and target. */
const loss =
  (name: string): FixtureRun =>
  ({ x, target, weight, pos_weight }, options) => {
    if (name === "bce") target!.requiresGrad = false; // PyTorch's is infinite where x is 0 or 1, the kernels' is not
    return lossFunctions[name]!(...([x, target, { ...(options as object), weight, posWeight: pos_weight }] as never[]));
  };

type Runs = Record<string, FixtureRun>;

const pools: Runs = Object.fromEntries(
  ["maxPool1d", "maxPool2d", "avgPool1d", "avgPool2d"].map((name) => [
    name,
    ({ x }, { kernelSize, ...options }) => poolFunctions[name]!(...([x, kernelSize, options] as never[])),
  ]),
);
const adaptive: Runs = Object.fromEntries(
  ["adaptiveMaxPool1d", "adaptiveMaxPool2d", "adaptiveAvgPool1d", "adaptiveAvgPool2d"].map((name) => [
    name,
    ({ x }, { outputSize }) => poolFunctions[name]!(...([x, outputSize] as never[])),
  ]),
);

/** Packages with the functions of their fixtures. */
const files: Record<string, Runs> = {
  "core/test/core": { matmul: ({ a, b, bias }, options) => matmul(a!, b!, { ...(options as object), bias }) },
  "linear/test/linear": {
    linear: ({ x, weight, bias }, { activation }) => linear(x!, weight!, bias, { activation: named(activation) }),
  },
  "activations/test/activations": Object.fromEntries(
    Object.keys(functions).map((name) => [name, ({ x }, { dtype: _, ...options }) => functions[name]!(x!, options)]),
  ),
  "glu/test/glu": { glu: ({ x }, { dim, activation }) => glu(x!, { dim, activation: named(activation)! }) },
  "padding/test/padding": { pad: ({ x }, options) => pad(x!, options.padding!, options as object) },
  "softmax/test/softmax": {
    softmax: ({ x }, options) => softmax(x!, options),
    logSoftmax: ({ x }, options) => logSoftmax(x!, options),
    softmin: ({ x }, options) => softmin(x!, options),
  },
  "layernorm/test/layernorm": {
    layerNorm: ({ x, weight, bias, residual }, { normalizedShape, eps }) =>
      residual ? null : layerNorm(x!, normalizedShape!, { weight, bias, eps }),
  },
  "rmsnorm/test/rmsnorm": {
    rmsNorm: ({ x, weight, residual }, { normalizedShape, eps }) =>
      residual ? null : rmsNorm(x!, normalizedShape!, { weight, eps }),
  },
  "groupnorm/test/groupnorm": {
    groupNorm: ({ x, weight, bias, residual }, { numGroups, eps }) =>
      residual ? null : groupNorm(x!, numGroups!, { weight, bias, eps }),
    instanceNorm: ({ x, weight, bias, running_mean: runningMean, running_var: runningVar }, options) =>
      instanceNorm(x!, { ...(options as object), weight, bias, runningMean, runningVar }),
  },
  "batchnorm/test/batchnorm": {
    batchNorm: ({ x, weight, bias, residual, ...inputs }, { activation, ...options }) =>
      batchNorm(x!, {
        ...{ ...(options as object), weight, bias, residual, activation: named(activation) },
        ...{ runningMean: inputs.running_mean, runningVar: inputs.running_var },
        numBatchesTracked: inputs.num_batches_tracked,
      }),
  },
  "embedding/test/embedding": {
    embedding: ({ x, weight }, options) => embedding(x!, weight!, options),
  },
  "pooling/test/pooling": { ...pools, ...adaptive },
  "conv1d/test/conv1d": {
    conv1d: ({ x, weight, bias }, { activation, ...options }) =>
      conv1d(x!, weight!, { ...(options as object), bias, activation: activation ? activations.relu : null }),
  },
  "conv2d/test/conv2d": {
    conv2d: ({ x, weight, bias }, { activation, ...options }) =>
      conv2d(x!, weight!, { ...(options as object), bias, activation: activation ? activations.relu : null }),
  },
  "conv-transpose/test/conv-transpose": {
    convTranspose1d: ({ x, weight, bias }, options) => convTranspose1d(x!, weight!, { ...(options as object), bias }),
    convTranspose2d: ({ x, weight, bias }, options) => convTranspose2d(x!, weight!, { ...(options as object), bias }),
  },
  "losses/test/losses": {
    ...Object.fromEntries(
      ["crossEntropy", "nll", "mse", "l1", "smoothL1", "huber", "bce", "bceWithLogits", "klDiv"].map((name) => [
        name,
        loss(name),
      ]),
    ),
    cosineEmbedding: ({ x1, x2, target }, options) => losses.cosineEmbedding(x1!, x2!, target!, options),
  },
  "attention/test/attention": {
    scaledDotProductAttention: ({ q, k, v, attn_mask }, { attnMask: _, dtype: __, ...options }) =>
      scaledDotProductAttention(q!, k!, v!, { ...(options as object), attnMask: attn_mask }),
  },
  "attention/test/multihead": {
    multiheadAttention: (inputs, { embedDim, numHeads, averageAttnWeights: _, ...options }) => {
      const { query, key, value, attn_mask: attnMask, key_padding_mask: keyPaddingMask, weights: __, ...rest } = inputs;
      const m = new MultiheadAttention(embedDim!, numHeads!, options).to(query!.dtype as FloatType);
      for (const [path, p] of Object.entries(rest)) {
        const [last, ...owners] = path.split(".").reverse() as [string, ...string[]];
        const owner = owners.reduce((at, name) => (at as unknown as Record<string, Module>)[name]!, m as Module);
        (owner as unknown as Record<string, Tensor>)[last] = p;
      }
      return m.forward(query!, key, value, { attnMask, keyPaddingMask });
    },
  },
};

/** Spelt out, since Vite serves files that it finds so. */
const urls: Record<string, URL> = {
  "core/test/core": new URL("../../core/test/core.safetensors", import.meta.url),
  "linear/test/linear": new URL("../../linear/test/linear.safetensors", import.meta.url),
  "activations/test/activations": new URL("../../activations/test/activations.safetensors", import.meta.url),
  "glu/test/glu": new URL("../../glu/test/glu.safetensors", import.meta.url),
  "padding/test/padding": new URL("../../padding/test/padding.safetensors", import.meta.url),
  "softmax/test/softmax": new URL("../../softmax/test/softmax.safetensors", import.meta.url),
  "layernorm/test/layernorm": new URL("../../layernorm/test/layernorm.safetensors", import.meta.url),
  "rmsnorm/test/rmsnorm": new URL("../../rmsnorm/test/rmsnorm.safetensors", import.meta.url),
  "groupnorm/test/groupnorm": new URL("../../groupnorm/test/groupnorm.safetensors", import.meta.url),
  "batchnorm/test/batchnorm": new URL("../../batchnorm/test/batchnorm.safetensors", import.meta.url),
  "embedding/test/embedding": new URL("../../embedding/test/embedding.safetensors", import.meta.url),
  "pooling/test/pooling": new URL("../../pooling/test/pooling.safetensors", import.meta.url),
  "conv1d/test/conv1d": new URL("../../conv1d/test/conv1d.safetensors", import.meta.url),
  "conv2d/test/conv2d": new URL("../../conv2d/test/conv2d.safetensors", import.meta.url),
  "conv-transpose/test/conv-transpose": new URL(
    "../../conv-transpose/test/conv-transpose.safetensors",
    import.meta.url,
  ),
  "losses/test/losses": new URL("../../losses/test/losses.safetensors", import.meta.url),
  "attention/test/attention": new URL("../../attention/test/attention.safetensors", import.meta.url),
  "attention/test/multihead": new URL("../../attention/test/multihead.safetensors", import.meta.url),
};

/** Every so manieth case of a function: what costs time is to compile for its shapes. */
const STEP = 3;

/** SwiftShader takes minutes and gigabytes over jax-js's kernel for the maximum of 17 elements. */
const tested = Object.entries(files).filter(
  ([file]) =>
    !(file.startsWith("pooling") && /swiftshader/i.test(`${device.name} ${device.gpu.adapterInfo.architecture}`)),
);

describe("PyTorch's results", () => {
  it.each(tested)("%s", async (file, runs) => {
    const seen: Record<string, number> = {};
    const some: Runs = Object.fromEntries(
      Object.entries(runs).map(([name, run]) => [
        name,
        (inputs, options) => {
          seen[name] = (seen[name] ?? -1) + 1;
          const half = Object.values(inputs).some(({ dtype }) => dtype === "f16");
          return half || seen[name] % STEP > 0 ? null : run(inputs, options);
        },
      ]),
    );
    const { f32 } = await fixtureErrors(urls[file]!, some);
    expect(f32.size).toBeGreaterThan(1);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(2e-5);
  });
});
