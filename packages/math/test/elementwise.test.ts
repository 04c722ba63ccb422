// elementwise: any function of one element over broadcast tensors, against PyTorch and against float64.
import { autocast, type Device, type FloatType, type Shape, sizeOf, type Tensor, tensor } from "@kindling/core";
import { fixtureErrors, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { elementwise as elementwiseOfValues } from "@kindling/math";
import { AutodiffError, elementwise, grad, type Operand, pointwise } from "@kindling/math/autodiff";
import { describe, expect, test } from "vitest";
import { relu } from "../../activations/src/activations.ts";
import { Interpreter, type Value } from "./interpreter.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const runs = (globalThis as { process?: { env: Record<string, string> } }).process?.env.KINDLING_GPU !== "null";

const swish2 = "fn swish2(x: f32, beta: f32) -> f32 { return x / (1.0 + exp(-beta * x)); }";
const affine = "fn affine(x: f32, scale: f32, shift: f32) -> f32 { return x * scale + shift; }";
/** Six operations. */
const chain = /* wgsl */ `
fn sigmoid(x: f32) -> f32 { return 1.0 / (1.0 + exp(-x)); }
fn chain(x: f32, a: f32, b: f32, c: f32) -> f32 {
  return tanh(x * a + b) * sigmoid(x) + c;
}`;

/** Element `index` of a tensor of `own` that is repeated to `shape`. */
function placeOf(own: Shape, shape: Shape, index: number): number {
  let [rest, at, stride] = [index, 0, 1];
  for (let axis = 1; axis <= shape.length; axis++) {
    const size = own.at(-axis) ?? 1;
    if (axis > own.length) break;
    at += ((rest % shape.at(-axis)!) % size) * stride;
    stride *= size;
    rest = Math.floor(rest / shape.at(-axis)!);
  }
  return at;
}

/** Errors of y and of each gradient against the text and its derivative in float64. */
function errorsOf(text: string, name: string, inputs: readonly Shape[], dtype: FloatType = "f32"): Promise<number[]> {
  const both = new Interpreter(`${text}\n${grad(text, { fn: name })}`);
  return layerErrors({
    inputs,
    dtype,
    run: (...operands) => elementwise(text, ...operands),
    reference: (values, dy) => {
      const rank = Math.max(...inputs.map(({ length }) => length));
      const shape = Array.from({ length: rank }, (_, axis) =>
        Math.max(...inputs.map((own) => own[axis - rank + own.length] ?? 1)),
      );
      const grads = inputs.map((own) => new Float64Array(sizeOf(own)));
      const y = Float64Array.from({ length: sizeOf(shape) }, (_, i) => {
        const at = inputs.map((own) => placeOf(own, shape, i));
        const args = at.map((place, k) => values[k]![place]!);
        const made = both.call(`${name}Grad`, ...args, dy[i]!) as Value;
        const list = typeof made === "number" ? [made] : (Object.values(made as object) as number[]);
        list.forEach((gradient, k) => {
          grads[k]![at[k]!]! += gradient;
        });
        return both.call(name, ...args) as number;
      });
      return { y, grads };
    },
  });
}

function dispatches(run: () => unknown): number {
  const { dispatch } = device;
  let count = 0;
  device.dispatch = (...args: Parameters<Device["dispatch"]>): void => {
    count++;
    dispatch.apply(device, args);
  };
  try {
    run();
  } finally {
    device.dispatch = dispatch;
  }
  return count;
}

const ones = (shape: Shape, dtype: FloatType = "f32"): Tensor =>
  tensor(new Float32Array(sizeOf(shape)).fill(1), { shape, dtype });

if (runs)
  describe("values and gradients", () => {
    test("are PyTorch's", async () => {
      const of = (text: string) => (inputs: Record<string, Tensor>) => elementwise(text, ...Object.values(inputs));
      const { f32, f16 } = await fixtureErrors(new URL("./elementwise.safetensors", import.meta.url), {
        swish2: of(swish2),
        affine: of(affine),
        chain: of(chain),
      });
      expect(f32.size).toBe(4);
      for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
      for (const [name, error] of f16) expect(error, name).toBeLessThan(4e-3);
    });

    test.each([
      // the same shape: one, odd, a multiple of 4, more than a workgroup
      ["same", [[1], [1]]],
      ["same", [[3], [3]]],
      ["same", [[67], [67]]],
      [
        "same",
        [
          [2, 257],
          [2, 257],
        ],
      ],
      [
        "same",
        [
          [4, 1000],
          [4, 1000],
        ],
      ],
      // a scalar, with and without padding behind the last element
      ["scalar", [[67], []]],
      ["scalar", [[16, 4097], [1]]],
      // the last axes
      ["bias", [[33, 67], [67]]],
      ["bias", [[130, 68], [68]]],
      ["bias", [[2, 4100], [4100]]],
      // columns, both, and what lies between
      [
        "column",
        [
          [5, 257],
          [5, 1],
        ],
      ],
      [
        "outer",
        [
          [67, 1],
          [1, 257],
        ],
      ],
      [
        "outer",
        [
          [4100, 1],
          [1, 8],
        ],
      ],
      [
        "both sides",
        [
          [2, 1, 3, 1, 8],
          [5, 1, 4, 1],
        ],
      ],
      ["one row", [[1, 4097], [4097]]],
    ] as [string, Shape[]][])("%s: %j", async (_, inputs) => {
      expect(Math.max(...(await errorsOf(swish2, "swish2", inputs)))).toBeLessThan(3e-5);
    });

    if (hasF16)
      test.each([
        [[[67], [67]]],
        [[[64, 40], [40]]],
        [
          [
            [33, 1],
            [1, 12],
          ],
        ],
      ] as Shape[][][])("f16: %j", async (inputs) => {
        expect(Math.max(...(await errorsOf(swish2, "swish2", inputs, "f16")))).toBeLessThan(4e-3);
      });

    test("more operands, some of them repeated in the same way", async () => {
      const inputs: Shape[] = [[6, 8], [8], [], [6, 1]];
      expect(Math.max(...(await errorsOf(chain, "chain", inputs)))).toBeLessThan(2e-5);
    });

    test("the same bits each time", async () => {
      const results: string[] = [];
      for (let i = 0; i < 2; i++) {
        const x = tensor(randomValues(40_000, 3), { shape: [100, 400], requiresGrad: true });
        const beta = tensor([0.7], { requiresGrad: true });
        elementwise(swish2, x, beta).backward(ones([100, 400]));
        results.push(`${(await beta.grad!.data())[0]} ${(await x.grad!.data()).join()}`);
      }
      expect(results[0]).toBe(results[1]);
    });

    test("numbers stand for f32", async () => {
      const x = tensor([1, -2, 3], { requiresGrad: true });
      const y = elementwise(swish2, x, 0.5);
      y.backward(ones([3]));
      const beta = tensor([0.5]);
      const z = tensor([1, -2, 3], { requiresGrad: true });
      const other = elementwise(swish2, z, beta);
      other.backward(ones([3]));
      expect(await y.data()).toEqual(await other.data());
      expect(await x.grad!.data()).toEqual(await z.grad!.data());
      expect(beta.grad).toBe(null);
    });

    test("integers and booleans", async () => {
      const text = "fn pick(x: f32, k: i32, u: u32, m: bool) -> f32 { return select(0.0, x * f32(k) + f32(u), m); }";
      const x = tensor(
        [
          [1, 2, 3],
          [4, 5, 6],
        ],
        { requiresGrad: true },
      );
      const k = tensor([[-2], [3]], { dtype: "i32" });
      const u = tensor([1, 2, 3], { dtype: "u32" });
      const m = tensor([
        [true, false, true],
        [true, true, false],
      ]);
      const y = elementwise(text, x, k, u, m);
      y.backward(ones([2, 3]));
      expect(mixedError(await y.data(), [-1, 0, -3, 13, 17, 0])).toBe(0);
      expect(mixedError(await x.grad!.data(), [-2, 0, -2, 3, 3, 0])).toBe(0);
    });

    test("results that are no floats", async () => {
      const x = tensor([[-1, 0, 2, 3, -4]], { requiresGrad: true });
      const above = elementwise("fn above(x: f32, y: f32) -> bool { return x > y; }", x, 1);
      expect([above.dtype, above.requiresGrad, await above.array()]).toEqual([
        "bool",
        false,
        [[false, false, true, true, false]],
      ]);
      const whole = elementwise("fn whole(x: f32) -> i32 { return i32(x); }", x);
      expect([whole.dtype, await whole.array()]).toEqual(["i32", [[-1, 0, 2, 3, -4]]]);
    });

    test("one tensor as two operands", async () => {
      const x = tensor([1, 2, 3], { requiresGrad: true });
      elementwise("fn times(a: f32, b: f32) -> f32 { return a * b; }", x, x).backward(ones([3]));
      expect([...(await x.grad!.data())]).toEqual([2, 4, 6]);
    });

    test("dtypes as PyTorch promotes them", () => {
      if (!hasF16) return;
      const half = (shape: Shape): Tensor => ones(shape, "f16");
      const dtypeOf = (...operands: [Operand, Operand]): string => elementwise(swish2, ...operands).dtype;
      expect(dtypeOf(half([3]), half([3]))).toBe("f16");
      expect(dtypeOf(half([3]), ones([3]))).toBe("f32");
      expect(dtypeOf(half([3]), 2)).toBe("f16");
      expect(dtypeOf(half([3]), ones([]))).toBe("f16");
      expect(autocast("f16", () => dtypeOf(ones([3]), ones([3])))).toBe("f32");
    });

    test("a value with its derivative, from either entry", async () => {
      const x = tensor([-1, 2, 3], { requiresGrad: true });
      const y = elementwise(relu, x);
      elementwiseOfValues(relu, y).backward(ones([3]));
      expect([...(await x.grad!.data())]).toEqual([0, 1, 1]);
      const own = pointwise("swish2", swish2);
      expect(await elementwiseOfValues(own, x, 2).data()).toEqual(await elementwise(swish2, x, 2).data());
    });

    test("names that kernels have for something else", async () => {
      const text = `
struct Params { gain: f32 }
const main = 2.0;
fn load(x: f32) -> f32 { return x * main; }
fn scale(x: f32, params: f32) -> f32 { let i = Params(params); return load(x) * i.gain; }`;
      const x = tensor([1, 2, 3], { requiresGrad: true });
      const y = elementwise(text, x, 3);
      y.backward(ones([3]));
      expect([...(await y.data()), ...(await x.grad!.data())]).toEqual([6, 12, 18, 6, 6, 6]);
    });

    test("more workgroups than a dimension holds", async () => {
      // 512 steps of one element each a workgroup; as much as the smallest limit of a binding allows
      const [rows, cols] = [18631, 1801];
      const x = tensor(
        Float32Array.from({ length: rows }, (_, i) => i % 997),
        { shape: [rows, 1] },
      );
      const scale = tensor(Float32Array.from({ length: cols }, (_, i) => i % 991));
      const y = elementwise(affine, x, scale, 1);
      const values = (await y.data()) as Float32Array;
      y.dispose();
      expect(Math.ceil(values.length / 512)).toBeGreaterThan(65535);
      let wrong = 0;
      for (let i = 0; i < values.length; i += 61) {
        if (values[i] !== (Math.floor(i / cols) % 997) * ((i % cols) % 991) + 1) wrong++;
      }
      expect(wrong).toBe(0);
      expect(values.at(-1)).toBe(((rows - 1) % 997) * ((cols - 1) % 991) + 1);
    });
  });

test("one kernel forward, one backward", () => {
  const x = tensor(randomValues(24), { shape: [4, 6], requiresGrad: true });
  const others = [1, 2].map((seed) => tensor(randomValues(24, seed), { shape: [4, 6], requiresGrad: true }));
  let y!: Tensor;
  expect(dispatches(() => (y = elementwise(chain, x, ...others, 1)))).toBe(1);
  const dy = ones([4, 6]);
  expect(dispatches(() => y.backward(dy))).toBe(1);
  for (const leaf of [x, ...others]) expect(leaf.grad!.shape).toEqual([4, 6]);
  // only what is asked for
  const z = elementwise(chain, x.detach(), others[0]!, 1, 2);
  expect(dispatches(() => z.backward(dy))).toBe(2); // and one that adds to the gradient before
});

test("more gradients than buffers", async () => {
  const limit = device.limits.maxStorageBuffersPerShaderStage;
  const count = Math.min(limit - 4, 12);
  const names = Array.from({ length: count }, (_, k) => `a${k}`);
  const text = `fn all_(${names.map((name) => `${name}: f32`).join(", ")}) -> f32 { return ${names.join(" + ")}; }`;
  const leaves = names.map((_, k) => tensor([k, 1], { requiresGrad: true }));
  const y = elementwise(text, ...leaves);
  y.backward(ones([2]));
  for (const leaf of leaves) expect(leaf.grad!.size).toBe(2);
  if (runs) expect((await leaves.at(-1)!.grad!.data())[1]).toBe(1);
  else await device.sync();
});

test("errors", () => {
  const x = ones([2, 3]);
  expect(() => elementwise(swish2, x)).toThrow("elementwise: swish2 takes 2 operands (x, beta), got 1");
  expect(() => elementwise(swish2, x, ones([2]))).toThrow(
    "elementwise: swish2: shapes [2,3] and [2] do not broadcast to one",
  );
  expect(() => elementwise(swish2, x, tensor([1, 2, 3], { dtype: "i32" }))).toThrow(
    "elementwise: swish2: beta is a tensor of i32, expected an f32 or f16 tensor or a number",
  );
  expect(() => elementwise("fn counted(k: i32) -> f32 { return f32(k); }", 3)).toThrow(
    "elementwise: counted: k is the number 3, expected a tensor of i32",
  );
  expect(() => elementwise(swish2, 1, 2)).toThrow("elementwise: swish2: all operands are numbers");
  expect(() => elementwise(swish2, undefined as never, x)).toThrow("x is undefined, expected an f32 or f16 tensor");
  expect(() => elementwise("fn ofVector(x: vec2f) -> f32 { return x.x; }", x)).toThrow(
    "elementwise: parameter x is vec2f in ofVector, expected f32, i32, u32, bool",
  );
  expect(() => elementwise("fn v3(x: f32) -> vec2f { return vec2f(x); }", x)).toThrow("the result is vec2f in v3");
  expect(() => elementwise("fn r(x: f32) -> f32 { return rowSum(x); }", x)).toThrow("works on a row");
  expect(() => elementwise("fn s(x: f32) -> f32 { return y; }", x)).toThrow(AutodiffError);
  expect(() => elementwise({ name: "x" } as never, x)).toThrow("elementwise: expected { name, forward, backward }");
  expect(() => elementwiseOfValues(swish2 as never, x, 1)).toThrow(
    "elementwise: got WGSL text; elementwise of @kindling/math/autodiff takes that",
  );
  const alternating = Array.from({ length: 9 }, (_, i) => (i % 2 ? 2 : 1));
  expect(() => elementwise(swish2, ones(alternating), ones(alternating.map((size) => 3 - size)))).toThrow(
    "alternate over 9 axes, expected at most 8",
  );
  const limit = device.limits.maxStorageBuffersPerShaderStage;
  const names = Array.from({ length: limit }, (_, k) => `a${k}`);
  const text = `fn many(${names.map((name) => `${name}: f32`).join(", ")}) -> f32 { return ${names.join(" + ")}; }`;
  expect(() => elementwise(text, ...names.map(() => x))).toThrow(
    `elementwise: many needs ${limit + 1} storage buffers`,
  );
});
