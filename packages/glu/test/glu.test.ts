import * as activations from "@kindling/activations";
import { gelu, relu, silu } from "@kindling/activations";
import { activationReference } from "@kindling/activations/reference";
import { autocast, type Pointwise, type Shape, sizeOf, tensor } from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { gluReference } from "../src/glu.reference.ts";
import { GLU, type GLUOptions, glu } from "../src/glu.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

type Spec = GLUOptions & { dtype?: "f32" | "f16"; values?: ArrayLike<number> };

function errors(shape: Shape, { dim = -1, activation, dtype = "f32", values }: Spec = {}): Promise<number[]> {
  const { f, derivative } = activationReference((activation?.name ?? "sigmoid") as "sigmoid");
  const half = sizeOf(shape.slice(dim < 0 ? dim + shape.length : dim)) / 2;
  return layerErrors({
    inputs: [shape],
    dtype,
    ...(values && { values: [values] }),
    run: (x) => glu(x!, { dim, ...(activation && { activation }) }),
    reference: ([x], dy) => {
      const { y, dx } = gluReference(x!, half, f, derivative, dy);
      return { y, grads: [dx] };
    },
  });
}

// one element; halves that are multiples of 4 and not; around a workgroup; halves in the middle and in front
const cases: [shape: Shape, dim: number][] = [
  [[2], 0],
  [[1, 2], -1],
  [[8], -1],
  [[96], 0],
  [[3, 6], 1],
  [[2, 7, 134], -1],
  [[5, 256], -1],
  [[3, 514], -1],
  [[4, 2000], -1],
  [[3, 8194], -1],
  [[70000, 2], -1],
  [[4, 3], 0],
  [[2000, 67], 0],
  [[2, 6, 17], 1],
  [[2, 6, 4], -2],
  [[2, 2, 7, 7], 1],
  [[3, 8, 5, 5], -3],
];

describe("glu", () => {
  it.each(cases)("matches the reference on %j, dim %i", async (shape, dim) => {
    expect(Math.max(...(await errors(shape, { dim })))).toBeLessThan(2e-6);
  });

  it.each([silu, gelu, relu].map((activation) => ({ name: activation.name, activation })))(
    "fuses $name",
    async ({ activation }) => {
      expect(Math.max(...(await errors([3, 66], { activation })))).toBeLessThan(2e-6);
      expect(Math.max(...(await errors([2, 6, 20], { activation, dim: 1 })))).toBeLessThan(2e-6);
    },
  );

  // computed in f32, rounded to the 11 bits of f16
  if (hasF16)
    it.each(cases.slice(0, 7))("matches the reference on %j, dim %i in f16", async (shape, dim) => {
      expect(Math.max(...(await errors(shape, { dim, dtype: "f16" })))).toBeLessThan(5e-4);
    });

  if (hasF16)
    it("keeps the dtype of x under autocast", async () => {
      const x = tensor(randomValues(64), { dtype: "f16" });
      expect(autocast("f16", () => glu(x)).dtype).toBe("f16");
      expect(autocast("f16", () => glu(tensor(randomValues(64)))).dtype).toBe("f32");
    });

  it("has no NaN at the ends of f32, and passes one on", async () => {
    const ends = [0, 20, -20, 100, -100, 1e4, -1e4, 3e38, -3e38];
    const pairs = ends.flatMap((a) => ends.map((b) => [a, b] as const));
    const values = [...pairs.map(([a]) => a), ...pairs.map(([, b]) => b)];
    // an exp near 0 has the precision of the driver's
    expect(Math.max(...(await errors([values.length], { values })))).toBeLessThan(5e-5);
    const [nan, inf] = [Number.NaN, Number.POSITIVE_INFINITY];
    expect(await glu(tensor([1, 2, nan, 3, 3, nan, 0, inf])).array()).toEqual([
      expect.closeTo(1 / (1 + Math.exp(-3)), 6),
      nan,
      nan,
      3,
    ]);
  });

  it("takes a Pointwise of one's own", async () => {
    const square: Pointwise = {
      name: "square",
      forward: "fn square(x: f32) -> f32 { return x * x; }",
      backward: "fn squareGrad(x: f32, dy: f32) -> f32 { return dy * 2 * x; }",
    };
    const x = tensor([2, 3], { requiresGrad: true });
    const y = glu(x, { activation: square });
    y.backward();
    expect(await y.array()).toEqual([18]);
    expect(await x.grad!.array()).toEqual([9, 12]);
  });

  it("has a reference whose gradient is right", () => {
    const [x, dy] = [randomValues(24, 1), randomValues(12, 2)];
    const { f, derivative } = activationReference("gelu");
    for (const half of [1, 3, 12]) {
      const loss = (v: ArrayLike<number>): number =>
        gluReference(v, half, f, derivative, dy).y.reduce((sum, y, i) => sum + y * dy[i]!, 0);
      expect(mixedError(finiteDifferences(loss, x), gluReference(x, half, f, derivative, dy).dx)).toBeLessThan(1e-8);
    }
  });

  it("gives the same bits each time", async () => {
    const run = async (): Promise<unknown[]> => {
      const x = tensor(randomValues(12000), { shape: [100, 120], requiresGrad: true });
      const y = glu(x, { activation: silu });
      y.backward(tensor(randomValues(6000, 2), { shape: [100, 60] }));
      return [await y.data(), await x.grad!.data()];
    };
    expect(await run()).toEqual(await run());
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    expect(() => glu(tensor([1, 2], { dtype: "i32" }))).toThrow("glu: x is i32, expected f32 or f16");
    expect(() => glu(tensor(1))).toThrow("glu: x has shape [], expected a dimension to halve");
    expect(() => glu(x, { dim: 2 })).toThrow("glu: dim is 2, expected -2 to 1 for x of shape [3,4]");
    expect(() => glu(x, { dim: -3 })).toThrow("glu: dim is -3, expected -2 to 1 for x of shape [3,4]");
    expect(() => glu(x, { dim: 0.5 })).toThrow("glu: dim is 0.5, expected -2 to 1 for x of shape [3,4]");
    expect(() => glu(x, { dim: 0 })).toThrow("glu: dim 0 of x [3,4] has size 3, expected an even one");
    expect(() => glu(x, { activation: "silu" as never })).toThrow(
      'glu: activation: expected { name, forward, backward } with WGSL text, got "silu"',
    );
    expect(() => new GLU({ activation: 1 as never })).toThrow("GLU: activation: expected");
  });
});

describe("GLU", () => {
  it("matches PyTorch on every fixture", async () => {
    const all: Record<string, unknown> = { ...activations };
    const { f32, f16 } = await fixtureErrors(new URL("./glu.safetensors", import.meta.url), {
      glu: ({ x }, { dim, activation }) =>
        // sigmoid is the default: the layer's own
        new GLU({ dim, ...(activation !== "sigmoid" && { activation: all[activation!] as Pointwise }) }).forward(x!),
    });
    expect(f32.size).toBeGreaterThan(20);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(2e-6);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(5e-4);
  });

  it("shows its options", () => {
    expect(new GLU().toString()).toBe("GLU(dim=-1, activation=sigmoid)");
    expect(new GLU({ dim: 1, activation: silu }).toString()).toBe("GLU(dim=1, activation=silu)");
    expect([...new GLU().namedParameters()]).toEqual([]);
  });
});
