import {
  autocast,
  capture,
  memory,
  noGrad,
  type Shape,
  scope,
  sizeOf,
  type Tensor,
  tensor,
  zeros,
} from "@kindling/core";
import { mixedError, poison, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { type AttentionOptions, scaledDotProductAttention } from "../src/attention.ts";
import { KVCache, type KVCacheOptions } from "../src/cache.ts";
import { rotary } from "../src/rotary.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");

const base = { batch: 2, heads: 2, maxLength: 16, headDim: 8 };

const random = (shape: Shape, seed: number): Tensor => tensor(randomValues(sizeOf(shape), seed), { shape });

/** Rows from `first` to `last` of every head of x [batch, heads, length, dim]. */
async function rowsOf(x: Tensor, first: number, last: number): Promise<Tensor> {
  const [batch, heads, length, dim] = x.shape as [number, number, number, number];
  const data = await x.data();
  const values = new Float32Array(batch * heads * (last - first) * dim);
  for (let n = 0; n < batch * heads; n++) {
    values.set(data.subarray((n * length + first) * dim, (n * length + last) * dim), n * (last - first) * dim);
  }
  return tensor(values, { shape: [batch, heads, last - first, dim], dtype: x.dtype });
}

/** The largest error of steps of these lengths with a cache, against attention of the whole sequence. */
async function decodingError(
  steps: readonly number[],
  { queryHeads = base.heads, window, ...over }: Partial<KVCacheOptions> & { queryHeads?: number; window?: number } = {},
): Promise<number> {
  const options: KVCacheOptions = { ...base, ...over };
  const { batch, heads, headDim, valueDim = headDim } = options;
  const length = steps.reduce((sum, n) => sum + n, 0);
  const [q, k] = [random([batch, queryHeads, length, headDim], 1), random([batch, heads, length, headDim], 2)];
  const v = random([batch, heads, length, valueDim], 3);
  const enableGqa = queryHeads !== heads;
  const keep = options.trim ? options.maxLength : window;
  const whole = scaledDotProductAttention(rotary(q), rotary(k), v, { isCausal: true, enableGqa, window: keep });
  const memory = poison(device);
  try {
    using cache = new KVCache(options);
    let worst = 0;
    for (const count of steps) {
      const at = cache.position;
      const [qs, ks, vs] = await Promise.all([q, k, v].map((x) => rowsOf(x, at, at + count)));
      cache.append(rotary(ks!, { offset: at }), vs!);
      const y = cache.attention(rotary(qs!, { offset: at }), { enableGqa, window });
      worst = Math.max(worst, mixedError(await y.data(), await (await rowsOf(whole, at, at + count)).data()));
    }
    await memory.check();
    return worst;
  } finally {
    memory.restore();
  }
}

const ones = (n: number): number[] => new Array(n).fill(1);

describe("KVCache", () => {
  it.each([
    { name: "token by token", steps: ones(12) },
    { name: "after a prompt, up to the last row", steps: [9, ...ones(7)] },
    { name: "in pieces", steps: [3, 1, 5, 4] },
    { name: "with grouped queries", steps: [5, 1, 1, 3], queryHeads: 4, heads: 2 },
    {
      name: "with one head for all queries, odd dims",
      steps: [4, 1, 2],
      queryHeads: 3,
      heads: 1,
      headDim: 6,
      valueDim: 5,
    },
    { name: "with values of another width", steps: [2, 1, 1], valueDim: 12 },
    { name: "in a window", steps: [6, 1, 1, 3], window: 4 },
  ])("decodes like the whole sequence: $name", async ({ name: _, steps, ...options }) => {
    expect(await decodingError(steps, options)).toBeLessThan(2e-5);
  });

  it.each([
    { name: "token by token", steps: ones(14) },
    { name: "after a prompt", steps: [5, ...ones(9)] },
  ])("attends to the last maxLength tokens with trim: $name", async ({ steps }) => {
    expect(await decodingError(steps, { trim: true, maxLength: 5 })).toBeLessThan(2e-5);
  });

  it("reads a ring in any order where it may, else straightens it", async () => {
    using cache = new KVCache({ ...base, maxLength: 5, trim: true });
    const [q, k, v] = [1, 2, 3].map((seed) => random([2, 2, 9, 8], seed)) as [Tensor, Tensor, Tensor];
    for (let i = 0; i < 9; i += 3) cache.append(await rowsOf(k, i, i + 3), await rowsOf(v, i, i + 3));
    expect([cache.start, cache.length, cache.position]).toEqual([4, 5, 9]);
    const [lastK, lastV] = [await rowsOf(k, 4, 9), await rowsOf(v, 4, 9)];
    const check = async (first: number, options: AttentionOptions, start: number): Promise<void> => {
      const queries = await rowsOf(q, first, 9);
      const expected = scaledDotProductAttention(queries, lastK, lastV, { ...options, queryOffset: first - 4 });
      expect(mixedError(await cache.attention(queries, options).data(), await expected.data())).toBeLessThan(2e-5);
      expect(cache.start).toBe(start);
    };
    await check(8, { isCausal: true }, 4);
    await check(6, { isCausal: false, scale: 1 }, 4);
    await check(6, { isCausal: true }, 0);
  });

  it("takes rows back", async () => {
    for (const trim of [false, true]) {
      using cache = new KVCache({ ...base, maxLength: trim ? 6 : 16, trim });
      const [q, k, v] = [1, 2, 3].map((seed) => random([2, 2, 9, 8], seed)) as [Tensor, Tensor, Tensor];
      for (const [first, last] of [
        [0, 5],
        [5, 8],
      ] as const) {
        cache.append(await rowsOf(k, first, last), await rowsOf(v, first, last));
      }
      cache.truncate(cache.length - 2);
      expect([cache.length, cache.position]).toEqual([trim ? 4 : 6, 6]);
      cache.append(await rowsOf(k, 6, 9), await rowsOf(v, 6, 9));
      const from = trim ? 3 : 0;
      const [ks, vs] = [await rowsOf(k, from, 9), await rowsOf(v, from, 9)];
      const options = { isCausal: true, queryOffset: 6 - from };
      const whole = scaledDotProductAttention(await rowsOf(q, 6, 9), ks, vs, options);
      expect(mixedError(await cache.attention(await rowsOf(q, 6, 9)).data(), await whole.data())).toBeLessThan(2e-5);
      cache.reset();
      expect([cache.start, cache.length, cache.position]).toEqual([0, 0, 0]);
    }
  });

  it("writes its rows and nothing else", async () => {
    using cache = new KVCache({ batch: 1, heads: 2, maxLength: 3, headDim: 2, valueDim: 1 });
    cache.append(tensor([[[[1, 2]], [[3, 4]]]]), tensor([[[[5]], [[6]]]]));
    cache.append(tensor([[[[7, 8]], [[9, 10]]]]), tensor([[[[11]], [[12]]]]));
    expect(await cache.keys.array()).toEqual([
      [
        [
          [1, 2],
          [7, 8],
          [0, 0],
        ],
        [
          [3, 4],
          [9, 10],
          [0, 0],
        ],
      ],
    ]);
    expect(await cache.values.array()).toEqual([
      [
        [[5], [11], [0]],
        [[6], [12], [0]],
      ],
    ]);
  });

  if (hasF16)
    it("converts to its dtype, and serves autocast", async () => {
      using cache = new KVCache({ ...base, dtype: "f16" });
      const [q, k, v] = [1, 2, 3].map((seed) => random([2, 2, 4, 8], seed)) as [Tensor, Tensor, Tensor];
      const y = autocast("f16", () => cache.append(k, v).attention(q));
      expect([y.dtype, cache.keys.dtype]).toEqual(["f16", "f16"]);
      const exact = scaledDotProductAttention(q, k, v, { isCausal: true });
      expect(mixedError(await y.data(), await exact.data())).toBeLessThan(3e-3);
    });

  it("outlives scopes and frees its memory", () => {
    const before = memory().bytes;
    const cache = scope(() => new KVCache(base));
    scope(() => {
      cache.append(zeros([2, 2, 1, 8]), zeros([2, 2, 1, 8])).attention(zeros([2, 2, 1, 8]));
    });
    expect(memory().bytes - before).toBe(2 * 2 * 2 * 16 * 8 * 4);
    cache.dispose();
    expect(memory().bytes).toBe(before);
  });

  it("refuses what it cannot do", async () => {
    using cache = new KVCache({ ...base, maxLength: 4 });
    const x = (length: number): Tensor => zeros([2, 2, length, 8]);
    const refused = (run: () => unknown, message: string): void => expect(run).toThrow(message);
    refused(() => new KVCache({ ...base, heads: 0 }), "KVCache: heads is 0, expected a whole number ≥ 1");
    refused(() => new KVCache({ ...base, dtype: "i32" as never }), 'KVCache: dtype is "i32", expected "f32" or "f16"');
    refused(
      () => cache.append(zeros([2, 1, 1, 8]), x(1)),
      "KVCache.append: k has shape [2,1,1,8], expected [2,2,length,8]",
    );
    refused(() => cache.append(x(1), zeros([2, 2, 1, 4])), "v has shape [2,2,1,4], expected [2,2,length,8]");
    refused(() => cache.append(x(1), x(2)), "v has shape [2,2,2,8], expected 1 rows as k [2,2,1,8]");
    refused(() => cache.append(zeros([2, 2, 1, 8], { dtype: "i32" }), x(1)), "k is i32, expected f32 or f16");
    refused(() => cache.attention(x(1)), "KVCache.attention: q has shape [2,2,1,8], expected at most 0 queries");
    cache.append(x(3), x(3));
    refused(
      () => cache.append(x(2), x(2)),
      "KVCache.append: 2 rows after 3, maxLength is 4 (trim: true drops the oldest)",
    );
    expect(cache.length).toBe(3);
    refused(
      () => new KVCache({ ...base, maxLength: 2, trim: true }).append(x(3), x(3)),
      "3 rows after 0, maxLength is 2",
    );
    refused(() => cache.attention(zeros([1, 8])), "q has shape [1,8], expected [batch, heads, length, headDim]");
    refused(() => cache.truncate(4), "KVCache.truncate: length is 4, expected a whole number from 0 to 3");
    const tracked = x(1);
    tracked.requiresGrad = true;
    refused(() => cache.append(tracked, x(1)), "KVCache.append: k requires a gradient, which the cache has none of");
    refused(() => cache.attention(tracked), "KVCache.attention: q requires a gradient");
    expect(noGrad(() => cache.append(tracked, x(1)).attention(tracked)).requiresGrad).toBe(false);
    cache.reset();
    refused(() => capture((k: Tensor) => cache.append(k, k).keys)(x(1)), "KVCache.append: called inside capture");
    cache.append(x(1), x(1));
    refused(() => capture((q: Tensor) => cache.attention(q))(x(1)), "KVCache.attention: called inside capture");
  });
});
