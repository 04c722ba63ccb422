import { autocast, type FloatType, tensor } from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { padReference } from "../src/padding.reference.ts";
import {
  CircularPad2d,
  ConstantPad1d,
  type PadMode,
  pad,
  ReflectionPad1d,
  ReplicationPad3d,
  ZeroPad2d,
} from "../src/padding.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");

const errors = (
  shape: readonly number[],
  padding: readonly number[],
  mode: PadMode,
  value = 0,
  dtype: FloatType = "f32",
): Promise<number[]> =>
  layerErrors({
    inputs: [shape],
    dtype,
    run: (x) => pad(x!, padding, { mode, value }),
    reference: ([x], dy) => {
      const { y, dx } = padReference(x!, dy, shape, padding, mode, value);
      return { y, grads: [dx] };
    },
  });

const modes = ["constant", "reflect", "replicate", "circular"] as const;

describe("pad", () => {
  // none; one axis; two, uneven; three; as much as an axis has; many rows
  it.each([
    { shape: [3], padding: [0, 0] },
    { shape: [2, 67], padding: [3, 0] },
    { shape: [2, 3, 5, 7], padding: [1, 2, 3, 0] },
    { shape: [2, 3, 4, 5], padding: [1, 0, 2, 1, 0, 2] },
    { shape: [3, 257], padding: [256, 256] },
    { shape: [4097, 33], padding: [1, 1] },
  ])("matches the reference on $shape by $padding", async ({ shape, padding }) => {
    for (const mode of modes) {
      expect(Math.max(...(await errors(shape, padding, mode)))).toBeLessThan(2e-6);
    }
  });

  it("pads one element as far as asked", async () => {
    for (const mode of ["constant", "replicate"] as const) {
      expect(Math.max(...(await errors([2, 1, 1], [5, 3, 0, 7], mode)))).toBeLessThan(2e-6);
    }
  });

  it("pads with any number, and crops", async () => {
    expect(Math.max(...(await errors([2, 5, 6], [-1, 2, 1, -3], "constant", 0.5)))).toBeLessThan(1e-6);
    expect(await pad(tensor([1, 2]), [1, 0], { value: Number.NEGATIVE_INFINITY }).array()).toEqual([-Infinity, 1, 2]);
  });

  // the sum of nine f16 gradients, rounded once
  if (hasF16)
    it.each(modes)("matches the reference in f16: %s", async (mode) => {
      expect(Math.max(...(await errors([2, 3, 5], [2, 2, 1, 1], mode, 0, "f16")))).toBeLessThan(5e-4);
    });

  if (hasF16)
    it("keeps its dtype under autocast", () => {
      expect(autocast("f16", () => pad(tensor([1, 2]), [1, 1])).dtype).toBe("f32");
    });

  it("matches PyTorch on every fixture", async () => {
    const { f32 } = await fixtureErrors(new URL("./padding.safetensors", import.meta.url), {
      pad: ({ x }, options) => pad(x!, options.padding!, options),
    });
    expect(f32.size).toBeGreaterThan(20);
    expect(Math.max(...f32.values())).toBeLessThan(1e-6);
  });

  it("has a reference whose gradient is right", () => {
    const x = Float64Array.from(randomValues(12, 1));
    for (const mode of modes) {
      const dy = randomValues(5 * 7, 2);
      const { dx } = padReference(x, dy, [3, 4], [1, 2, 2, 0], mode);
      const loss = (v: Float64Array): number =>
        padReference(v, dy, [3, 4], [1, 2, 2, 0], mode).y.reduce((sum, e, i) => sum + e * dy[i]!, 0);
      expect(mixedError(finiteDifferences(loss, x), dx)).toBeLessThan(1e-8);
    }
  });

  it("names what is wrong with its input", () => {
    const x = tensor([[1, 2, 3]]);
    expect(() => pad(tensor([1], { dtype: "i32" }), [1, 1])).toThrow("pad: x is i32, expected f32 or f16");
    expect(() => pad(x, [1])).toThrow("pad: padding is [1], expected 2, 4 or 6 whole numbers");
    expect(() => pad(x, [1, 1, 1, 1, 1, 1])).toThrow("for 3 axes, x has shape [1,3]");
    expect(() => pad(x, [3, 0], { mode: "reflect" })).toThrow('expected 0 to 2 for an axis of 3 and mode "reflect"');
    expect(() => pad(x, [4, 0], { mode: "circular" })).toThrow('expected 0 to 3 for an axis of 3 and mode "circular"');
    expect(() => pad(x, [-1, 0], { mode: "replicate" })).toThrow("expected 0 to Infinity");
    expect(() => pad(x, [-2, -1])).toThrow("leaves nothing of an axis of 3");
    expect(() => pad(x, [1, 1], { mode: "mirror" as "reflect" })).toThrow(
      'mode is "mirror", expected constant, reflect',
    );
    expect(() => pad(x, [1, 1], { mode: "reflect", value: 1 })).toThrow(
      'value is 1, which mode "reflect" does not take',
    );
  });
});

describe("modules", () => {
  it("pad as their function", async () => {
    const x = tensor([[1, 2, 3]]);
    expect(await new ReflectionPad1d(1).forward(x).array()).toEqual([[2, 1, 2, 3, 2]]);
    expect(await new ConstantPad1d([0, 1], 9).forward(x).array()).toEqual([[1, 2, 3, 9]]);
    expect(new ZeroPad2d([1, 2, 3, 4]).forward(tensor(new Float32Array(6), { shape: [1, 2, 3] })).shape).toEqual([
      1, 9, 6,
    ]);
    expect(new ReplicationPad3d(1).forward(tensor(new Float32Array(8), { shape: [1, 2, 2, 2] })).shape).toEqual([
      1, 4, 4, 4,
    ]);
    expect(`${new CircularPad2d(1)}`).toBe("CircularPad2d(padding=[1,1,1,1])");
  });

  it("name what is wrong with their input", () => {
    expect(() => new ZeroPad2d([1, 2])).toThrow("ZeroPad2d: padding is [1,2], expected a number or 4 of them");
    expect(() => new ZeroPad2d(1).forward(tensor([1]))).toThrow("ZeroPad2d: x has shape [1], expected [N, C, H, W]");
  });
});
