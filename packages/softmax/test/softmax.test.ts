import { autocast, cast, type FloatType, type Shape, sizeOf, type Tensor, tensor } from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
  toF16,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { softmaxReference } from "../src/softmax.reference.ts";
import { LogSoftmax, logSoftmax, Softmax, type SoftmaxOptions, Softmin, softmax, softmin } from "../src/softmax.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

const functions = { softmax, logSoftmax, softmin };
type Kind = keyof typeof functions;
const kinds = Object.keys(functions) as Kind[];

function errors(kind: Kind, shape: Shape, options: SoftmaxOptions = {}, dtype: FloatType = "f32"): Promise<number[]> {
  const { dim = -1, causal = false } = options;
  const axis = dim < 0 ? dim + shape.length : dim;
  return layerErrors({
    inputs: [shape],
    dtype,
    run: (x) => functions[kind](x!, options),
    reference: ([x], dy) => {
      const period = causal ? shape.at(-2) : 0;
      const { y, dx } = softmaxReference(kind, x!, shape[axis] ?? 1, sizeOf(shape.slice(axis + 1)), dy, period);
      return { y, grads: [dx] };
    },
  });
}

/** Probabilities of n classes and their gradients are of size 1/n, logarithms are not. */
const tolerance = (kind: Kind, n: number): number => (kind === "logSoftmax" ? 5e-6 : 5e-6 * Math.min(1, 8 / n));

// Last dimension: one element; odd lengths and multiples of 4; around the numbers that a row's threads hold; several
// rounds; more rows than a workgroup has. Other dimensions: the same for rows that lie side by side in fours, and not.
const cases: [shape: Shape, dim: number][] = [
  [[], 0],
  [[1], 0],
  [[1, 1], -1],
  [[3, 5], -1],
  [[2, 7, 67], 2],
  [[96], 0],
  [[5, 128], -1],
  [[3, 257], 1],
  [[4, 1000], -1],
  [[3, 4096], -1],
  [[3, 4097], -1],
  [[2, 20001], -1],
  [[2, 200000], -1],
  [[70000, 3], -1],
  [[67, 3], 0],
  [[2, 5, 33], 1],
  [[2, 300, 35], -2],
  [[4099, 1, 3], 0],
  [[3, 2, 7, 7], 1],
  [[33, 4], 0],
  [[2, 21, 64], 1],
  [[2, 3, 1024], -2],
  [[1500, 12], 0],
];

describe("softmax", () => {
  it.each(cases)("matches the reference on %j, dim %i", async (shape, dim) => {
    const n = shape.at(dim) ?? 1;
    expect(Math.max(...(await errors("softmax", shape, { dim })))).toBeLessThan(tolerance("softmax", n));
  });

  it.each(
    (["logSoftmax", "softmin"] as const).flatMap((kind) =>
      (
        [
          [[3, 5], 1],
          [[3, 257], -1],
          [[4, 1000], -1],
          [[2, 20001], -1],
          [[2, 5, 33], 1],
          [[2, 21, 64], 1],
        ] as const
      ).map(([shape, dim]) => ({ kind, shape, dim })),
    ),
  )("$kind matches the reference on $shape, dim $dim", async ({ kind, shape, dim }) => {
    expect(Math.max(...(await errors(kind, shape, { dim })))).toBeLessThan(tolerance(kind, shape.at(dim)!));
  });

  it.each(
    kinds.flatMap((kind) =>
      [
        [1, 5],
        [2, 5, 5],
        [3, 7],
        [7, 3],
        [2, 2, 9, 132],
        [5, 20001],
      ].map((shape) => ({ kind, shape })),
    ),
  )("$kind with a causal mask matches the reference on $shape", async ({ kind, shape }) => {
    expect(Math.max(...(await errors(kind, shape, { causal: true })))).toBeLessThan(tolerance(kind, 1));
  });

  it("gives masked columns exactly no probability", async () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const above = (y: ArrayLike<number>): number[] => [1, 2, 3, 6, 7, 11].map((i) => y[i]!);
    expect(above(await softmax(x, { causal: true }).data())).toEqual([0, 0, 0, 0, 0, 0]);
    expect(new Set(above(await logSoftmax(x, { causal: true }).data()))).toEqual(new Set([Number.NEGATIVE_INFINITY]));
  });

  // computed in f32, rounded to the 11 bits of f16; backward starts from the rounded y
  if (hasF16)
    it.each(
      kinds.flatMap((kind) =>
        [
          [3, 67],
          [5, 128],
        ].map((shape) => ({ kind, shape })),
      ),
    )("$kind matches the reference on $shape in f16", async ({ kind, shape }) => {
      expect(Math.max(...(await errors(kind, shape, {}, "f16")))).toBeLessThan(kind === "logSoftmax" ? 3e-3 : 5e-4);
    });

  if (hasF16)
    it("gives f32 under autocast", async () => {
      const values = toF16(randomValues(64));
      const dy = randomValues(64, 2);
      for (const kind of kinds) {
        const x = tensor(values, { shape: [2, 32], dtype: "f16", requiresGrad: true });
        const y = autocast("f16", () => functions[kind](x));
        expect(y.dtype).toBe("f32");
        expect(functions[kind](x).dtype).toBe("f16");
        y.backward(tensor(dy, { shape: [2, 32] }));
        const expected = softmaxReference(kind, values, 32, 1, dy);
        expect(mixedError(await y.data(), expected.y)).toBeLessThan(1e-6);
        expect(x.grad!.dtype).toBe("f16");
        expect(mixedError(await x.grad!.data(), expected.dx)).toBeLessThan(5e-4);
        expect(autocast("f16", () => functions[kind](cast(x, "f32"))).dtype).toBe("f32");
      }
    });

  it("has a reference whose gradient is right", () => {
    const x = randomValues(24, 1);
    const settings = [
      [6, 1, 0],
      [3, 4, 0],
      [6, 1, 2],
    ] as const;
    for (const kind of kinds) {
      for (const [n, inner, period] of settings) {
        const at = (v: ArrayLike<number>): Float64Array => softmaxReference(kind, v, n, inner, v, period).y;
        // the logarithm of a masked probability has no part in the loss
        const counts = at(x).map((y) => Number(y > Number.NEGATIVE_INFINITY));
        const dy = randomValues(24, 2).map((g, i) => g * counts[i]!);
        const loss = (v: ArrayLike<number>): number =>
          at(v).reduce((sum, y, i) => (counts[i] ? sum + y * dy[i]! : sum), 0);
        const { dx } = softmaxReference(kind, x, n, inner, dy, period);
        expect(mixedError(finiteDifferences(loss, x), dx)).toBeLessThan(1e-8);
      }
    }
  });

  it("takes infinities and NaN as PyTorch does", async () => {
    const [inf, nan] = [Number.POSITIVE_INFINITY, Number.NaN];
    const rows = [
      [-inf, 1, 2, -inf],
      [-inf, -inf, -inf, -inf],
      [inf, 1, 2, 3],
      [nan, 1, 2, 3],
      [3e38, -3e38, 0, -inf],
    ];
    const p = 1 / (1 + Math.E);
    const no = [nan, nan, nan, nan];
    const expected = {
      softmax: [[0, p, 1 - p, 0], no, no, no, [1, 0, 0, 0]],
      logSoftmax: [[-inf, Math.log(p), Math.log(1 - p), -inf], no, no, no, [0, -inf, -3e38, -inf]],
    };
    const slopes = {
      softmax: [[0, -p * (1 - p), p * (1 - p), 0], no, no, no, [0, 0, 0, 0]],
      logSoftmax: [[1, 2 - 10 * p, 3 - 10 * (1 - p), 4], no, no, no, [-9, 2, 3, 4]],
    };
    for (const kind of ["softmax", "logSoftmax"] as const) {
      const x = tensor(rows, { requiresGrad: true });
      const y = functions[kind](x);
      y.backward(tensor(rows.map(() => [1, 2, 3, 4])));
      expect(mixedError(await y.data(), expected[kind].flat())).toBeLessThan(1e-6);
      expect(mixedError(await x.grad!.data(), slopes[kind].flat())).toBeLessThan(1e-5);
    }
    const negated = rows.map((row) => row.map((v) => -v));
    expect(mixedError(await softmin(tensor(negated)).data(), expected.softmax.flat())).toBeLessThan(1e-6);
    // with a causal mask too, and where a row is one of four that a thread holds or of odd length
    const causal = await softmax(
      tensor([
        [-inf, 1],
        [nan, 1],
        [3, -inf],
      ]),
      { causal: true },
    ).data();
    expect([...causal]).toEqual([nan, nan, nan, nan, 1, 0]);
    const columns = await softmax(
      tensor([
        [-inf, -inf, inf, 0],
        [1, -inf, 2, nan],
      ]),
      { dim: 0 },
    ).data();
    expect([...columns]).toEqual([0, nan, nan, nan, 1, nan, nan, nan]);
  });

  it("gives the same bits each time", async () => {
    for (const dim of [-1, 0]) {
      const run = async (): Promise<unknown[]> => {
        const x = tensor(randomValues(12000), { shape: [100, 120], requiresGrad: true });
        const y = softmax(x, { dim });
        y.backward(tensor(randomValues(12000, 2), { shape: [100, 120] }));
        return [await y.data(), await x.grad!.data()];
      };
      expect(await run()).toEqual(await run());
    }
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    expect(() => softmax(tensor([1, 2], { dtype: "i32" }))).toThrow("softmax: x is i32, expected f32 or f16");
    expect(() => logSoftmax(x, { dim: 2 })).toThrow("logSoftmax: dim is 2, expected -2 to 1 for x of shape [3,4]");
    expect(() => softmin(x, { dim: -3 })).toThrow("softmin: dim is -3, expected -2 to 1 for x of shape [3,4]");
    expect(() => softmax(x, { dim: 0.5 })).toThrow("softmax: dim is 0.5, expected -2 to 1 for x of shape [3,4]");
    expect(() => softmax(tensor(1), { dim: 1 })).toThrow("softmax: dim is 1, expected -1 to 0 for x of shape []");
    expect(() => softmax(x, { dim: 0, causal: true })).toThrow(
      "softmax: causal masks the last dimension, expected dim -1 for x of shape [3,4], got 0",
    );
    expect(() => softmax(tensor([1, 2]), { causal: true })).toThrow(
      "softmax: causal needs x of shape [..., L, S], got [2]",
    );
  });
});

describe("Softmax, LogSoftmax, Softmin", () => {
  it("match PyTorch on every fixture", async () => {
    const modules = { softmax: Softmax, logSoftmax: LogSoftmax, softmin: Softmin };
    const { f32, f16 } = await fixtureErrors(
      new URL("./softmax.safetensors", import.meta.url),
      Object.fromEntries(
        kinds.map((kind) => [
          kind,
          ({ x }: Record<string, Tensor>, options: SoftmaxOptions) => new modules[kind](options).forward(x!),
        ]),
      ),
    );
    expect(f32.size).toBeGreaterThan(30);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(5e-6);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
  });

  it("show their options", () => {
    expect(new Softmax({ dim: 1 }).toString()).toBe("Softmax(dim=1)");
    expect(new LogSoftmax().toString()).toBe("LogSoftmax(dim=-1)");
    expect(new Softmin({ causal: true }).toString()).toBe("Softmin(dim=-1, causal=true)");
    expect([...new Softmax().namedParameters()]).toEqual([]);
  });
});
