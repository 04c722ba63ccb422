import { autocast, memory, scope, tensor } from "@kindling/core";
import { finiteDifferences, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { type CrossEntropyReference, linearCrossEntropyReference } from "../src/losses.reference.ts";
import { linearCrossEntropy } from "../src/losses.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");

interface Case extends Omit<CrossEntropyReference, "stride" | "weight"> {
  rows: number;
  inner: number;
  classes: number;
  weighted?: boolean;
  dtype?: "f32" | "f16";
}

const ids = (count: number, classes: number): Int32Array =>
  Int32Array.from({ length: count }, (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 8) % classes);

/** Errors of the loss and of the gradients of x, weight and bias; in chunks of 128 rows. */
function errors({ rows, inner, classes, weighted, dtype = "f32", ...options }: Case): Promise<number[]> {
  const target = ids(rows, classes);
  const classWeight = weighted ? randomValues(classes, 7).map((v) => 1.1 + v) : null;
  return layerErrors({
    inputs: [[rows, inner], [classes, inner], [classes]],
    dtype,
    run: (x, weight, bias) =>
      linearCrossEntropy(x!, weight!, tensor(target), {
        ...options,
        bias,
        classWeight: classWeight && tensor(classWeight),
        chunk: 128,
      }),
    reference: ([x, weight, bias], dy) => {
      const operands = { x: x!, weight: weight!, bias: bias!, target };
      const { y, dx, dw, db } = linearCrossEntropyReference(operands, dy, { ...options, weight: classWeight });
      return { y, grads: [dx, dw, db] };
    },
  });
}

describe("linearCrossEntropy", () => {
  // one of everything; odd sizes; one chunk and a row; three chunks, the last one short
  it.each([
    { rows: 1, inner: 1, classes: 1 },
    { rows: 3, inner: 67, classes: 5 },
    { rows: 129, inner: 8, classes: 257 },
    { rows: 300, inner: 33, classes: 67 },
  ])("matches the reference on $rows × $inner → $classes", async (shape) => {
    for (const reduction of ["mean", "sum", "none"] as const) {
      expect(Math.max(...(await errors({ ...shape, reduction })))).toBeLessThan(1e-5);
    }
  });

  it.each([
    { weighted: true },
    { ignoreIndex: 3, labelSmoothing: 0.1 },
    { weighted: true, zLoss: 1e-2, reduction: "none" as const },
  ])("matches the reference with %o", async (options) => {
    expect(Math.max(...(await errors({ rows: 130, inner: 12, classes: 20, ...options })))).toBeLessThan(1e-5);
  });

  // logits are rounded to f16, 2⁻¹¹ of values up to 4, before the loss sees them
  if (hasF16)
    it("rounds the logits to f16 in f16", async () => {
      expect(Math.max(...(await errors({ rows: 130, inner: 12, classes: 20, dtype: "f16" })))).toBeLessThan(3e-3);
    });

  if (hasF16)
    it("takes f16 products under autocast, with gradients of its operands' f32", async () => {
      const x = tensor(randomValues(5 * 8, 1), { shape: [5, 8], requiresGrad: true });
      const weight = tensor(randomValues(9 * 8, 2), { shape: [9, 8], requiresGrad: true });
      const target = tensor(ids(5, 9));
      const loss = autocast("f16", () => linearCrossEntropy(x, weight, target));
      loss.backward();
      const exact = linearCrossEntropy(x.detach(), weight.detach(), target);
      expect([loss.dtype, x.grad!.dtype, weight.grad!.dtype]).toEqual(["f32", "f32", "f32"]);
      expect(mixedError(await loss.data(), await exact.data())).toBeLessThan(3e-3);
    });

  it("scales its gradients with the loss's, also twice", async () => {
    const x = tensor(randomValues(6, 1), { shape: [2, 3], requiresGrad: true });
    const weight = tensor(randomValues(12, 2), { shape: [4, 3] });
    const loss = linearCrossEntropy(x, weight, tensor([1, 2], { dtype: "i32" }));
    loss.backward(tensor(1), { retainGraph: true });
    const once = await x.grad!.data();
    loss.backward(tensor(2));
    expect(mixedError(await x.grad!.data(), once.map((v) => 3 * (v as number)) as Float32Array)).toBeLessThan(1e-6);
  });

  it("never holds the logits of all rows", () => {
    const [rows, classes] = [1024, 4096];
    const taken: number[] = [];
    const take = device.take.bind(device);
    device.take = (bytes) => {
      taken.push(bytes);
      return take(bytes);
    };
    try {
      scope(() => {
        const x = tensor(randomValues(rows * 4, 1), { shape: [rows, 4], requiresGrad: true });
        const weight = tensor(randomValues(classes * 4, 2), { shape: [classes, 4], requiresGrad: true });
        linearCrossEntropy(x, weight, tensor(ids(rows, classes)), { chunk: 128 }).backward();
      });
    } finally {
      device.take = take;
    }
    expect(Math.max(...taken)).toBe(4 * 128 * classes);
    expect(memory().tensors).toBeGreaterThan(0);
  });

  it("has a reference whose gradients are right", () => {
    const [x, weight, bias] = [randomValues(6, 1), randomValues(12, 2), randomValues(4, 3)].map((v) =>
      Float64Array.from(v),
    );
    const operands = { x: x!, weight: weight!, bias: bias!, target: [3, 1] };
    const options = { labelSmoothing: 0.1, zLoss: 0.1, weight: [1, 2, 3, 4] };
    const { dx, dw, db } = linearCrossEntropyReference(operands, [1], options);
    const loss = (more: object): number => linearCrossEntropyReference({ ...operands, ...more }, [1], options).y[0]!;
    expect(
      mixedError(
        dx,
        finiteDifferences((v) => loss({ x: v }), x!),
      ),
    ).toBeLessThan(1e-8);
    expect(
      mixedError(
        dw,
        finiteDifferences((v) => loss({ weight: v }), weight!),
      ),
    ).toBeLessThan(1e-8);
    expect(
      mixedError(
        db,
        finiteDifferences((v) => loss({ bias: v }), bias!),
      ),
    ).toBeLessThan(1e-8);
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(6, 1), { shape: [2, 3] });
    const weight = tensor(randomValues(12, 2), { shape: [4, 3] });
    const target = tensor([1, 2], { dtype: "i32" });
    const call =
      (...args: Parameters<typeof linearCrossEntropy>) =>
      () =>
        linearCrossEntropy(...args);
    expect(call(x, tensor([1, 2, 3]), target)).toThrow("weight has shape [3], expected [classes, in]");
    expect(call(tensor([[1, 2]]), weight, target)).toThrow("x has shape [1,2], expected [..., 3] for weight [4,3]");
    expect(call(x, weight, tensor([1], { dtype: "i32" }))).toThrow("target has shape [1], expected [2] for x [2,3]");
    expect(call(x, weight, tensor([1, 2]))).toThrow("target is f32, expected class ids (i32, u32)");
    expect(call(x, weight, target, { bias: tensor([1]) })).toThrow("bias has shape [1], expected [4]");
    expect(call(x, weight, target, { chunk: 0 })).toThrow("chunk is 0, expected a whole number above 0");
    expect(call(x, weight, target, { zLoss: -1 })).toThrow("zLoss is -1, expected 0 or more");
    expect(call(x, weight, target, { classWeight: tensor([1]) })).toThrow("weight has shape [1], expected [4]");
    expect(call(target, weight, target)).toThrow("x is i32, expected f32 or f16");
  });
});
