import { autocast, capture, noGrad, type Shape, sizeOf, type Tensor, tensor, zeros } from "@kindling/core";
import { finiteDifferences, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { rotaryReference } from "../src/rotary.reference.ts";
import { RotaryEmbedding, type RotaryOptions, rotary } from "../src/rotary.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

interface Case extends Omit<RotaryOptions, "positions"> {
  shape: Shape;
  /** [length] or [batch, length]. */
  positions?: readonly (readonly number[])[];
}

const cases: Case[] = [
  { shape: [1, 2] },
  { shape: [3, 2], interleaved: true },
  { shape: [2, 3, 67, 8] },
  { shape: [2, 3, 67, 8], interleaved: true, offset: 300 },
  { shape: [1, 5, 17, 64], offset: 1000, base: 500_000 },
  { shape: [9, 4, 128], interleaved: true },
  { shape: [2, 5, 3, 6], offset: 5 },
  { shape: [2, 5, 3, 6], interleaved: true },
  { shape: [2, 9, 3, 20], dim: 8 },
  { shape: [2, 2, 3, 13], dim: 6, interleaved: true },
  { shape: [3, 12, 24], dim: 16, interleaved: true, base: 10 },
  { shape: [2, 3, 4, 8], positions: [[7, 0, 131_071, 65_536]] },
  {
    shape: [2, 6, 4, 8],
    positions: [
      [3, 2, 1, 0],
      [70_000, 5, -6, 2 ** 31 - 1],
    ],
    interleaved: true,
  },
  { shape: [2, 1, 6, 10], offset: -3 },
];

/** The position of every row of x. */
function rowsOf({ shape, offset = 0, positions }: Case): number[] {
  const length = shape.at(-2)!;
  const rows = sizeOf(shape) / shape.at(-1)!;
  const each = positions && positions.length > 1 ? rows / positions.length : rows;
  return Array.from(
    { length: rows },
    (_, i) => positions?.[Math.floor(i / each)]?.[i % length] ?? offset + (i % length),
  );
}

function run(x: Tensor, { shape: _, positions, ...options }: Case): Tensor {
  if (!positions) return rotary(x, options);
  const shape = positions.length > 1 ? [positions.length, positions[0]!.length] : [positions[0]!.length];
  return rotary(x, { ...options, positions: tensor(Int32Array.from(positions.flat()), { shape }) });
}

describe("rotary", () => {
  for (const dtype of hasF16 ? (["f32", "f16"] as const) : (["f32"] as const)) {
    it(`matches the reference in ${dtype}, with the gradient`, async () => {
      for (const c of dtype === "f32" ? cases : cases.filter((_, i) => i % 3 === 0)) {
        const at = rowsOf(c);
        const options = { features: c.shape.at(-1)!, dim: c.dim, base: c.base, interleaved: c.interleaved };
        const errors = await layerErrors({
          inputs: [c.shape],
          dtype,
          run: (x) => run(x!, c),
          reference: ([x], dy) => ({
            y: rotaryReference(x!, at, options),
            grads: [rotaryReference(dy, at, { ...options, direction: -1 })],
          }),
        });
        expect(Math.max(...errors), JSON.stringify(c)).toBeLessThan(dtype === "f32" ? 2e-6 : 1e-3);
      }
    });
  }

  it("turns positions of a long context as exactly as the first ones", async () => {
    const [length, features] = [131_072, 8];
    const x = Float32Array.from({ length: length * features }, (_, i) => ((i % 13) - 6) / 6);
    const y = rotary(tensor(x, { shape: [length, features] }));
    const at = Array.from({ length }, (_, i) => i);
    expect(mixedError(await y.data(), rotaryReference(x, at, { features }))).toBeLessThan(2e-6);
  });

  it("has a reference whose gradient is right", () => {
    const [x, dy] = [randomValues(24, 1), randomValues(24, 2)];
    for (const interleaved of [false, true]) {
      const options = { features: 8, dim: 6, interleaved };
      const loss = (at: Float64Array): number =>
        rotaryReference(at, [1, 5, 9], options).reduce((sum, v, i) => sum + v * dy[i]!, 0);
      const grad = rotaryReference(dy, [1, 5, 9], { ...options, direction: -1 });
      expect(mixedError(finiteDifferences(loss, x), grad)).toBeLessThan(1e-7);
    }
  });

  it("makes products depend on the distance alone", async () => {
    const [q, k] = [randomValues(16, 1), randomValues(16, 2)];
    const dot = async (a: number, b: number): Promise<number> => {
      const turned = [
        rotary(tensor(q, { shape: [1, 16] }), { offset: a }),
        rotary(tensor(k, { shape: [1, 16] }), { offset: b }),
      ];
      const [x, y] = await Promise.all(turned.map(async (t) => Array.from(await t.data())));
      return x!.reduce((sum, v, i) => sum + v * y![i]!, 0);
    };
    expect(await dot(100_007, 100_000)).toBeCloseTo(await dot(7, 0), 4);
  });

  it("makes its table inside a capture, too, and reads positions anew at each replay", async () => {
    const x = randomValues(8);
    const step = capture((at: Tensor) => rotary(tensorOf, { positions: at, base: 777 }));
    const tensorOf = tensor(x, { shape: [1, 8] });
    for (const p of [3, 500]) {
      const y = step(tensor(Int32Array.of(p)));
      expect(mixedError(await y.data(), rotaryReference(x, [p], { features: 8, base: 777 }))).toBeLessThan(2e-6);
    }
    step.dispose();
    expect(
      mixedError(
        await rotary(tensorOf, { base: 777, offset: 9 }).data(),
        rotaryReference(x, [9], { features: 8, base: 777 }),
      ),
    ).toBeLessThan(2e-6);
  });

  if (hasF16)
    it("keeps the dtype under autocast", () => {
      expect(autocast("f16", () => rotary(zeros([2, 4]))).dtype).toBe("f32");
      expect(autocast("f16", () => rotary(zeros([2, 4], { dtype: "f16" }))).dtype).toBe("f16");
    });

  it("gives the same bits each time", async () => {
    const x = tensor(randomValues(1000), { shape: [5, 10, 20] });
    expect(await rotary(x).data()).toEqual(await rotary(x).data());
  });

  it("names what is wrong with its input", () => {
    const x = zeros([2, 3, 4]);
    expect(() => rotary(zeros([4]))).toThrow("rotary: x has shape [4], expected [..., length, features]");
    expect(() => rotary(tensor([[1, 2]], { dtype: "i32" }))).toThrow("rotary: x is i32, expected f32 or f16");
    expect(() => rotary(zeros([2, 3]))).toThrow("rotary: dim is 3, expected an even number ≥ 2");
    expect(() => rotary(x, { dim: 6 })).toThrow("rotary: dim is 6, but x [2,3,4] has 4 features");
    expect(() => rotary(x, { base: 0 })).toThrow("rotary: base is 0, expected a number above 0");
    expect(() => rotary(x, { offset: 1.5 })).toThrow("rotary: offset is 1.5, expected a whole number");
    expect(() => rotary(x, { offset: 2 ** 31 - 2 })).toThrow("rotary: offset is 2147483646, expected");
    expect(() => rotary(x, { positions: zeros([3]) })).toThrow("rotary: positions is f32, expected i32");
    expect(() => rotary(x, { positions: zeros([4], { dtype: "i32" }) })).toThrow(
      "rotary: positions has shape [4], expected [3] or [1,3] or [2,3] for x [2,3,4]",
    );
    expect(() => rotary(x, { offset: 1, positions: zeros([3], { dtype: "i32" }) })).toThrow(
      "rotary: offset is 1 beside positions; give one of them",
    );
  });
});

describe("RotaryEmbedding", () => {
  it("rotates with its settings", async () => {
    const module = new RotaryEmbedding(4, { base: 100, interleaved: true, maxLength: 8 });
    const x = randomValues(18);
    const y = noGrad(() => module.forward(tensor(x, { shape: [3, 6] }), { offset: 5 }));
    const expected = rotaryReference(x, [5, 6, 7], { features: 6, dim: 4, base: 100, interleaved: true });
    expect(mixedError(await y.data(), expected)).toBeLessThan(2e-6);
    expect(module.toString()).toBe("RotaryEmbedding(4, base=100, interleaved=true)");
    expect(module.stateDict()).toEqual({});
  });

  it("names what is wrong with its settings", () => {
    expect(() => new RotaryEmbedding(5)).toThrow("RotaryEmbedding: dim is 5, expected an even number");
    expect(() => new RotaryEmbedding(4, { base: Number.NaN })).toThrow("RotaryEmbedding: base is NaN");
    expect(() => new RotaryEmbedding(4, { maxLength: 0 })).toThrow("RotaryEmbedding: maxLength is 0");
    expect(() => new RotaryEmbedding(4, { maxLength: 8 }).forward(zeros([3, 4]), { offset: 6 })).toThrow(
      "RotaryEmbedding: positions 6 to 8, maxLength is 8",
    );
  });
});
