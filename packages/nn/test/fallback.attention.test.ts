/** The fallback and the kernels compute the same: attention, whose dropout masks agree bit by bit. */
import { MultiheadAttention, rotary, scaledDotProductAttention, selfAttention } from "@kindling/attention";
import { manualSeed, type Tensor } from "@kindling/core";
import { randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { loadFallback } from "../src/backend.ts";
import { type Agreement, disagreement } from "./fallback.ts";

await testDevice();
await loadFallback();

const ids = (values: number[], shape = [values.length]) => ({ shape, dtype: "i32" as const, values });
const mask = (shape: number[], seed = 9) => ({
  shape,
  dtype: "bool" as const,
  values: randomValues(
    shape.reduce((n, d) => n * d, 1),
    seed,
  ).map((v) => (v > -0.4 ? 1 : 0)),
});

const attentionInputs = { q: [2, 4, 7, 5], k: [2, 2, 9, 5], v: [2, 2, 9, 3] };

/** A module of parameters that are the same each time, and its result for query [7, 2, 12] and others. */
const multihead =
  (options: object, forward: object) =>
  ({ query, key, value, attnMask, keyPaddingMask, ...parameters }: Record<string, Tensor>): unknown => {
    manualSeed(3);
    const m = new MultiheadAttention(12, 3, options);
    for (const [name, p] of Object.entries(parameters)) {
      const [owner, field] = name.includes("out") ? [m.out_proj, name.slice(4)] : [m, name];
      (owner as unknown as Record<string, Tensor>)[field] = p;
    }
    const result = m.forward(query!, key ?? null, value ?? null, { attnMask, keyPaddingMask, ...forward });
    return result;
  };
const projections = { in_proj_weight: [36, 12], in_proj_bias: [36], out_weight: [12, 12], out_bias: [12] };

const cases: Record<string, Agreement> = {
  "attention with dropout, a mask and a window": {
    inputs: { ...attentionInputs, mask: [4, 1, 9] },
    run: (t) =>
      scaledDotProductAttention(t.q!, t.k!, t.v!, {
        ...{ attnMask: t.mask!, enableGqa: true, window: [3, 1], queryOffset: 1, dropout: 0.3 },
      }),
  },
  "causal attention to the first keys of a buffer, some hidden": {
    inputs: { ...attentionInputs, mask: mask([7, 9]) },
    run: (t) =>
      scaledDotProductAttention(t.q!, t.k!, t.v!, {
        ...{ attnMask: t.mask!, enableGqa: true, isCausal: true, keyLength: 6, queryOffset: -2, scale: 0.3 },
      }),
  },
  selfAttention: {
    inputs: { qkv: [2, 6, 32] },
    run: ({ qkv }) => selfAttention(qkv!, 4, { numKvHeads: 2, isCausal: true, dropout: 0.2 }),
  },
  rotary: {
    inputs: { x: [2, 3, 5, 8], positions: ids([0, 7, 65537, -3, 1e9 | 0]) },
    run: (t) => rotary(t.x!, { positions: t.positions!, dim: 6 }),
  },
  "rotary of pairs": { inputs: { x: [4, 6] }, run: ({ x }) => rotary(x!, { offset: 70_000, interleaved: true }) },
  "multihead attention to itself": {
    inputs: { query: [5, 2, 12], ...projections },
    run: multihead({ dropout: 0.3 }, { isCausal: true }),
  },
  "multihead attention with masks and appended rows": {
    inputs: {
      ...{ query: [2, 5, 12], key: [2, 4, 12], ...projections, attnMask: [6, 5, 4], keyPaddingMask: mask([2, 4], 3) },
      ...{ bias_k: [1, 1, 12], bias_v: [1, 1, 12] },
    },
    run: multihead({ batchFirst: true, addBiasKv: true, addZeroAttn: true }, { isCausal: true }),
  },
  "multihead attention with weights": {
    inputs: {
      ...{ query: [5, 12], key: [4, 6], value: [4, 3], attnMask: mask([5, 4]), in_proj_bias: [36] },
      ...{
        q_proj_weight: [12, 12],
        k_proj_weight: [12, 6],
        v_proj_weight: [12, 3],
        out_weight: [12, 12],
        out_bias: [12],
      },
    },
    run: multihead({ kdim: 6, vdim: 3, dropout: 0.5 }, { needWeights: true }),
  },
};

describe("the fallback agrees with the kernels", () => {
  it.each(Object.entries(cases))("%s", async (_, agreement) => {
    const { error, at } = await disagreement(agreement);
    expect(error, at).toBeLessThan(2e-5);
  });
});
