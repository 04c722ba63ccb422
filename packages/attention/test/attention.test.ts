import {
  autocast,
  capture,
  cast,
  manualSeed,
  randn,
  type Shape,
  sizeOf,
  type Tensor,
  tensor,
  zeros,
} from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { type AttentionDims, attentionReference } from "../src/attention.reference.ts";
import { type AttentionOptions, scaledDotProductAttention, selfAttention } from "../src/attention.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const dtypes = hasF16 ? (["f32", "f16"] as const) : (["f32"] as const);

/** A case of the reference, with `maskShape` for a random mask and `p` for dropout. */
interface Case extends AttentionDims {
  readonly maskShape?: Shape;
  /** Default the operands', which makes it an input with a gradient. */
  readonly maskType?: "bool";
  readonly p?: number;
}

const dims = (over: Partial<Case>): Case => ({
  batch: 2,
  heads: 2,
  kvHeads: 2,
  queries: 5,
  keys: 5,
  dim: 8,
  ...over,
});

const one = { batch: 1, heads: 1, kvHeads: 1 };
const cases: Case[] = [
  dims({ ...one, queries: 1, keys: 1, dim: 1 }),
  dims({ queries: 3, keys: 67, dim: 16 }),
  dims({ queries: 67, keys: 3, dim: 20, isCausal: true }),
  dims({ queries: 67, keys: 67, dim: 32, isCausal: true }),
  dims({ heads: 4, kvHeads: 2, queries: 33, keys: 33, dim: 16, isCausal: true }),
  dims({ heads: 3, kvHeads: 1, queries: 9, keys: 20, dim: 7, isCausal: true }),
  dims({ batch: 1, queries: 257, keys: 257, dim: 64, isCausal: true }),
  dims({ ...one, queries: 65, keys: 130, dim: 100 }),
  dims({ ...one, queries: 40, keys: 40, dim: 128, isCausal: true, scale: 0.3 }),
  dims({ ...one, queries: 9, keys: 11, dim: 12, valueDim: 20 }),
  dims({ ...one, queries: 9, keys: 11, dim: 5, valueDim: 3 }),
  dims({ ...one, queries: 3, keys: 5, dim: 4, valueDim: 256 }),
  // windows: the last queries of the first see no key
  dims({ queries: 67, keys: 40, window: [5, 2] }),
  dims({ queries: 40, keys: 67, window: [-1, 9] }),
  dims({ queries: 67, keys: 67, window: [11, -1], isCausal: true }),
  dims({ heads: 4, kvHeads: 2, queries: 7, keys: 50, keyLength: 33, queryOffset: 26, isCausal: true }),
  dims({ queries: 70, keys: 20, queryOffset: -50, isCausal: true }),
  dims({ queries: 1, keys: 130, keyLength: 77, queryOffset: 76, window: [20, 0] }),
];

const masked: Case[] = [
  dims({ queries: 7, keys: 35, maskShape: [7, 35], p: 0.3 }),
  dims({ heads: 4, kvHeads: 2, queries: 67, keys: 40, maskShape: [2, 1, 67, 40], maskType: "bool", window: [30, 20] }),
];

const dropped = dims({ heads: 4, kvHeads: 2, queries: 20, keys: 33, dim: 16, p: 0.3, isCausal: true });

const shapesOf = (c: Case): Shape[] => [
  [c.batch, c.heads, c.queries, c.dim],
  [c.batch, c.kvHeads, c.keys, c.dim],
  [c.batch, c.kvHeads, c.keys, c.valueDim ?? c.dim],
  ...(c.maskShape && !c.maskType ? [c.maskShape] : []),
];

/** Random numbers with every seventh hidden; for bool the hidden ones alone. */
const maskValues = (shape: Shape, bool: boolean, hides = true): Float32Array<ArrayBuffer> =>
  randomValues(sizeOf(shape), 77).map((x, i) => (hides && i % 7 === 3 ? Number.NEGATIVE_INFINITY : bool ? 0 : x));

/** Largest error of y and of each gradient, that of a float mask among them. */
async function worstError(c: Case, dtype: "f32" | "f16" = "f32", run = scaledDotProductAttention): Promise<number> {
  const seed = [11, 5] as const;
  const options: AttentionOptions = {
    ...{ isCausal: c.isCausal, scale: c.scale, window: c.window, keyLength: c.keyLength, queryOffset: c.queryOffset },
    ...{ dropout: c.p, enableGqa: true },
  };
  const full = [1, 1, 1, 1, ...(c.maskShape ?? [])].slice(-4);
  const hides = dtype === "f32"; // the rounding of test values to f16 knows no infinity
  const given = c.maskShape && maskValues(c.maskShape, c.maskType === "bool", hides);
  if (given && c.maskType)
    options.attnMask = tensor(
      given.map((x) => Number(x === 0)),
      { shape: c.maskShape!, dtype: "bool" },
    );
  const shapes = shapesOf(c);
  manualSeed(seed[1] * 2 ** 32 + seed[0]);
  const errors = await layerErrors({
    inputs: shapes,
    dtype,
    values: shapes.map((shape, i) => (i === 3 ? given! : randomValues(sizeOf(shape), i + 1))),
    run: (q, k, v, mask) => run(q!, k!, v!, { ...options, attnMask: mask ?? options.attnMask }),
    reference: ([q, k, v, values], dy) => {
      const mask = given && { values: values ?? given, shape: full };
      const dropout = c.p ? { p: c.p, stream: 0, seed } : undefined;
      const { y, dq, dk, dv, dmask } = attentionReference(q!, k!, v!, dy, { ...c, mask, dropout });
      return { y, grads: values ? [dq, dk, dv, dmask] : [dq, dk, dv] };
    },
  });
  return Math.max(...errors);
}

// f16: half a unit in the last of 11 bits, once for y and once for each gradient
const tolerance = { f32: 2e-5, f16: 3e-3 };

const title =
  "$heads/$kvHeads heads, $queries × $keys, dim $dim, causal $isCausal, window $window, mask $maskShape, p $p";

describe("scaledDotProductAttention", () => {
  for (const dtype of dtypes) {
    // the wide heads and the masks in f32 alone, to keep compilation short; PyTorch's fixtures have masks of f16
    it.each(
      dtype === "f32"
        ? [...cases, ...masked]
        : [...cases.filter((c) => Math.max(c.dim, c.valueDim ?? 0) <= 64), dropped],
    )(`matches the reference in ${dtype}: ${title}`, async (c) => {
      expect(await worstError(c, dtype)).toBeLessThan(tolerance[dtype]);
    });
  }

  it.each([[35], [2, 1, 1, 35], [2, 2, 1, 1], [2, 35, 1], [1, 2, 35, 35], []])(
    "gives a mask of shape [%s, …] its gradient",
    async (...shape) => {
      const maskShape = shape.filter((d) => d !== undefined);
      expect(await worstError(dims({ queries: 35, keys: 35, maskShape }))).toBeLessThan(1e-4);
    },
  );

  it("takes a mask as long as the buffers of keys, or as the keys in use", async () => {
    const c = dims({ keys: 9, keyLength: 6 });
    expect(await worstError({ ...c, maskShape: [5, 9] })).toBeLessThan(2e-5);
    const [q, k] = [randn([1, 1, 3, 4]), randn([1, 1, 9, 4])];
    const part = randn([3, 6]);
    const whole = tensor(Array.from((await part.array()) as number[][], (row) => [...row, 5, 5, 5]));
    const y = (attnMask: Tensor): Promise<ArrayLike<number>> =>
      scaledDotProductAttention(q, k, k, { attnMask, keyLength: 6 }).data();
    expect(await y(part)).toEqual(await y(whole));
  });

  it("never looks behind the keys in use", async () => {
    const unused = (size: number): Float32Array<ArrayBuffer> =>
      randomValues(size).map((x, i) => (i < 24 ? x : Number.NaN));
    const q = tensor(randomValues(8), { shape: [1, 1, 2, 4], requiresGrad: true });
    const [k, v] = [1, 2].map(() => tensor(unused(40), { shape: [1, 1, 10, 4], requiresGrad: true })) as [
      Tensor,
      Tensor,
    ];
    const y = scaledDotProductAttention(q, k, v, { keyLength: 6 });
    y.backward(randn([1, 1, 2, 4]));
    for (const t of [y, q.grad!, k.grad!, v.grad!]) expect((await t.data()).every(Number.isFinite)).toBe(true);
    expect(Array.from(await k.grad!.data()).slice(24)).toEqual(Array(16).fill(0));
  });

  // SwiftShader takes seconds over so many workgroups
  if (!/swiftshader/i.test(device.name))
    it("takes more heads and batches than one grid dimension holds", async () => {
      expect(await worstError(dims({ batch: 35_001, queries: 1, keys: 2, dim: 1 }))).toBeLessThan(2e-5);
    });

  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(new URL("./attention.safetensors", import.meta.url), {
      scaledDotProductAttention: ({ q, k, v, attn_mask }, { attnMask: _, dtype: __, ...options }) =>
        scaledDotProductAttention(q!, k!, v!, { ...options, attnMask: attn_mask }),
    });
    expect(f32.size).toBeGreaterThan(20);
    // as in the sweep: exp2 alone is off by several units in the last place
    for (const [name, error] of f32) expect(error, name).toBeLessThan(2e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(3e-3);
  });

  // A software GPU has kernels of its own; this runs the tiled ones of real GPUs. llvmpipe takes seconds over each kernel, and a
  // minute over those with options.
  const plain = dims({ queries: 67, keys: 67, dim: 16, isCausal: true });
  it.each([
    plain,
    dims({
      ...{ heads: 4, queries: 67, keys: 70, dim: 16, valueDim: 20, window: [40, 25], maskShape: [4, 67, 70], p: 0.3 },
    }),
    dims({ heads: 4, queries: 20, keys: 70, dim: 16, maskShape: [2, 1, 1, 70], maskType: "bool" }),
    dims({ queries: 35, keys: 70, dim: 7, valueDim: 3, keyLength: 50, queryOffset: 20, isCausal: true }),
    dims({ ...one, queries: 40, keys: 30, dim: 8, p: 0.5 }),
    // few queries: the keys are split
    dims({ heads: 4, queries: 3, keys: 300, dim: 16, window: [290, 0], queryOffset: 280 }),
    dims({ queries: 1, keys: 300, dim: 16, valueDim: 20, maskShape: [2, 1, 1, 300], keyLength: 280 }),
    dims({ ...one, queries: 5, keys: 200, window: [3, 3], queryOffset: 197 }),
  ])(
    `runs the tiled kernels: ${title}`,
    async (c) => {
      if (c !== plain && /llvmpipe/.test(device.name)) return;
      const { software } = device;
      device.software = false;
      try {
        expect(await worstError(c)).toBeLessThan(2e-5);
      } finally {
        device.software = software;
      }
    },
    180_000,
  );

  it("keeps huge scores finite", async () => {
    const q = tensor(
      randomValues(64).map((v) => v * 1e4),
      { shape: [1, 1, 8, 8], requiresGrad: true },
    );
    const y = scaledDotProductAttention(q, q.detach(), q.detach());
    y.backward(tensor(randomValues(64), { shape: [1, 1, 8, 8] }));
    for (const t of [y, q.grad!]) expect((await t.data()).every(Number.isFinite)).toBe(true);
  });

  if (hasF16)
    it("rounds to f16 under autocast", async () => {
      const q = randn([1, 2, 9, 16]);
      q.requiresGrad = true;
      const y = autocast("f16", () => scaledDotProductAttention(q, q, q));
      expect(y.dtype).toBe("f16");
      expect(mixedError(await y.data(), await scaledDotProductAttention(q, q, q).data())).toBeLessThan(5e-3);
      y.backward(cast(randn([1, 2, 9, 16]), "f16"));
      expect(q.grad!.dtype).toBe("f32");
    });

  it("drops about the fraction p of the weights, each row its own", async () => {
    const [rows, keys, p] = [64, 512, 0.3];
    const q = tensor(new Float32Array(rows * 4), { shape: [2, 2, rows / 4, 4] });
    const k = tensor(new Float32Array(4 * keys * 4).fill(1), { shape: [2, 2, keys, 4] });
    const attnMask = zeros([1, keys]); // only for the sake of a kernel that is compiled already
    const y = await scaledDotProductAttention(q, k, k, { attnMask, dropout: p }).data();
    const kept = Array.from({ length: rows }, (_, i) => y[4 * i]! * (1 - p));
    const mean = kept.reduce((a, x) => a + x) / rows;
    expect(Math.abs(mean - (1 - p))).toBeLessThan(4 * Math.sqrt((p * (1 - p)) / (rows * keys)));
    expect(new Set(kept.map((x) => Math.round(x * keys))).size).toBeGreaterThan(15);
  });

  it("drops everything for dropout 1", async () => {
    const [q, attnMask] = [randn([1, 1, 3, 4]), randn([3, 3])];
    q.requiresGrad = attnMask.requiresGrad = true;
    const y = scaledDotProductAttention(q, q, q, { attnMask, dropout: 1 });
    y.backward(randn([1, 1, 3, 4]));
    for (const t of [y, q.grad!, attnMask.grad!]) expect((await t.data()).every((x) => x === 0)).toBe(true);
  });

  it("repeats bit for bit with the seed, and a replay draws what a further call would", async () => {
    const [q, attnMask] = [randn([2, 2, 33, 8]), randn([33, 33])];
    q.requiresGrad = attnMask.requiresGrad = true;
    const run = (): Tensor[] => {
      q.grad = attnMask.grad = null;
      const y = scaledDotProductAttention(q, q, q, { attnMask, dropout: 0.5 });
      y.backward(y.detach());
      return [y, q.grad!, attnMask.grad!];
    };
    const read = (results: Tensor[]): Promise<ArrayLike<number>[]> => Promise.all(results.map((t) => t.data()));
    manualSeed(7);
    const eager = [await read(run()), await read(run())];
    expect(eager[0]![0]).not.toEqual(eager[1]![0]);
    manualSeed(7);
    const step = capture(run);
    for (const expected of eager) expect(await read(step())).toEqual(expected);
    step.dispose();
    // the state of the generator between forward and backward makes no difference
    manualSeed(7);
    q.grad = null;
    const y = scaledDotProductAttention(q, q, q, { attnMask, dropout: 0.5 });
    manualSeed(8);
    y.backward(y.detach());
    expect(await q.grad!.data()).toEqual(eager[0]![1]);
  });

  it("has a reference whose gradient is right", () => {
    const c: AttentionDims = {
      ...{ batch: 1, heads: 2, kvHeads: 1, queries: 4, keys: 5, dim: 2, valueDim: 3, keyLength: 4, queryOffset: 1 },
      ...{ window: [2, 1], dropout: { p: 0.3, stream: 2, seed: [1, 0] } },
    };
    const inputs = [16, 10, 15, 8].map((size, i) => Float64Array.from(randomValues(size, i + 1)));
    const dy = randomValues(24, 5);
    const run = (q: Float64Array, k: Float64Array, v: Float64Array, values: Float64Array) =>
      attentionReference(q, k, v, dy, { ...c, mask: { values, shape: [1, 2, 4, 1] } });
    const at = (i: number, x: Float64Array): number => {
      const [q, k, v, mask] = inputs.map((given, n) => (n === i ? x : given));
      return run(q!, k!, v!, mask!).y.reduce((sum, value, n) => sum + value * dy[n]!, 0);
    };
    const [q, k, v, mask] = inputs as [Float64Array, Float64Array, Float64Array, Float64Array];
    const { dq, dk, dv, dmask } = run(q, k, v, mask);
    for (const [i, grad] of [dq, dk, dv, dmask].entries())
      expect(
        mixedError(
          finiteDifferences((x) => at(i, x), inputs[i]!),
          grad,
        ),
      ).toBeLessThan(1e-7);
  });

  it("names what is wrong with its input", () => {
    const x = (...shape: number[]): Tensor => tensor(new Float32Array(shape.reduce((n, d) => n * d)), { shape });
    const [q, k] = [x(1, 2, 3, 4), x(1, 1, 3, 4)];
    const refused = (run: () => Tensor, message: string): void => expect(run).toThrow(message);
    refused(
      () => scaledDotProductAttention(x(2, 3, 4), q, q),
      "q has shape [2,3,4]; expected [batch, heads, length, headDim]",
    );
    refused(
      () => scaledDotProductAttention(q, k, k),
      "k has 1 heads; expected q's 2, or enableGqa and a divisor of it",
    );
    refused(
      () => scaledDotProductAttention(q, x(1, 2, 3, 5), x(1, 2, 3, 5)),
      "k has shape [1,2,3,5]; q of shape [1,2,3,4] needs",
    );
    refused(
      () => scaledDotProductAttention(q, q, x(1, 2, 4, 4)),
      "v has shape [1,2,4,4]; k of shape [1,2,3,4] needs [1,2,3, valueDim]",
    );
    refused(() => scaledDotProductAttention(x(1, 2, 3, 257), x(1, 2, 3, 257), q), "head dim 257; expected at most 256");
    refused(
      () => scaledDotProductAttention(q, q, q, { mask: q } as never),
      'option "mask" is unknown; expected attnMask',
    );
    const options = (given: AttentionOptions, message: string): void =>
      refused(() => scaledDotProductAttention(q, q, q, given), `scaledDotProductAttention: ${message}`);
    options({ attnMask: x(2, 3) }, "attnMask has shape [2,3]; expected one that broadcasts to [1,2,3,3]");
    options(
      { attnMask: x(1, 1, 1, 3, 3) },
      "attnMask has shape [1,1,1,3,3]; expected one that broadcasts to [1,2,3,3]",
    );
    options({ attnMask: cast(x(3, 3), "i32") }, "attnMask has dtype i32; expected bool, f32 or f16");
    options({ dropout: 1.5 }, "dropout 1.5; expected a probability from 0 to 1");
    options({ window: 0 }, "window 0; expected a whole number from 1");
    options({ window: [1, -2] }, "window -2; expected a whole number from -1");
    options({ keyLength: 4 }, "keyLength 4; expected a whole number from 1 to 3");
    options({ queryOffset: 0.5 }, "queryOffset 0.5; expected a whole number");
    refused(() => scaledDotProductAttention(q, q, cast(q, "i32")), "v has dtype i32; expected f32 or f16");
    refused(() => scaledDotProductAttention(q, q, q, { scale: Number.NaN }), "scale NaN; expected a finite number");
    refused(
      () => selfAttention(x(1, 3, 10), 2),
      "selfAttention: qkv has shape [1,3,10]; expected [batch, length, 6 · headDim]",
    );
    refused(
      () => selfAttention(x(1, 3, 12), 1, { keyLength: 2 } as never),
      'selfAttention: option "keyLength" is unknown',
    );
    refused(() => selfAttention(x(1, 3, 14), 3, { numKvHeads: 2 }), "numKvHeads 2; expected a divisor of numHeads, 3");
    expect(selfAttention(x(1, 3, 10), 3, { numKvHeads: 1 }).shape).toEqual([1, 3, 6]);
  });
});

describe("selfAttention", () => {
  it.each([
    { heads: 2, kvHeads: 2, dim: 8 },
    { heads: 4, kvHeads: 2, dim: 16, window: [9, -1] as const, dropout: 0.3 },
    { heads: 2, kvHeads: 1, dim: 7 },
  ])(
    "is attention on the parts of a packed projection: $heads/$kvHeads heads of $dim, window $window, dropout $dropout",
    async ({ heads, kvHeads, dim, window, dropout = 0 }) => {
      const [batch, length] = [2, 33];
      const columns = (heads + 2 * kvHeads) * dim;
      /** Elements of one part in [batch, heads, length, dim] order, and where they are in qkv. */
      const part = (first: number, count: number): number[] =>
        Array.from({ length: batch * count * length * dim }, (_, n) => {
          const [c, i, h, b] = [
            n % dim,
            Math.floor(n / dim) % length,
            Math.floor(n / dim / length) % count,
            Math.floor(n / dim / length / count),
          ];
          return (b * length + i) * columns + (first + h) * dim + c;
        });
      const parts = [part(0, heads), part(heads, kvHeads), part(heads + kvHeads, kvHeads)];
      const toHeads = Array.from({ length: batch * heads * length * dim }, (_, n) => {
        const [c, i, h, b] = [
          n % dim,
          Math.floor(n / dim) % length,
          Math.floor(n / dim / length) % heads,
          Math.floor(n / dim / length / heads),
        ];
        return (b * length + i) * heads * dim + h * dim + c;
      });
      manualSeed(3);
      const errors = await layerErrors({
        inputs: [
          [batch, length, columns],
          [length, length],
        ],
        run: (qkv, attnMask) =>
          selfAttention(qkv!, heads, { isCausal: true, numKvHeads: kvHeads, attnMask, window, dropout }),
        reference: ([qkv, values], dy) => {
          const [q, k, v] = parts.map((at) => at.map((i) => qkv![i]!));
          const apart = attentionReference(
            q!,
            k!,
            v!,
            toHeads.map((i) => dy[i]!),
            {
              ...{ batch, heads, kvHeads, queries: length, keys: length, dim, isCausal: true, window },
              mask: { values: values!, shape: [1, 1, length, length] },
              dropout: { p: dropout, stream: 0, seed: [3, 0] },
            },
          );
          const y = new Float64Array(apart.y.length);
          for (const [n, i] of toHeads.entries()) y[i] = apart.y[n]!;
          const grad = new Float64Array(qkv!.length);
          for (const [p, values] of [apart.dq, apart.dk, apart.dv].entries())
            for (const [n, i] of parts[p]!.entries()) grad[i] = values[n]!;
          return { y, grads: [grad, apart.dmask] };
        },
      });
      expect(Math.max(...errors)).toBeLessThan(2e-5);
    },
  );
});
