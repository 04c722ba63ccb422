// row: any function with rowSum, rowMean and rowMax, against PyTorch and against float64.
import { type Device, type FloatType, type Shape, sizeOf, type Tensor, tensor } from "@kindling/core";
import { fixtureErrors, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { crossEntropy, logSoftmax, nllLoss, softmax } from "@kindling/math";
import { AutodiffError, grad, row } from "@kindling/math/autodiff";
import { describe, expect, test } from "vitest";
import { callRow, Interpreter } from "./interpreter.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const runs = (globalThis as { process?: { env: Record<string, string> } }).process?.env.KINDLING_GPU !== "null";

const layerNorm = /* wgsl */ `
const EPS = 1e-3;
fn layerNorm(x: f32, weight: f32, bias: f32) -> f32 {
  let centered = x - rowMean(x);
  return centered * inverseSqrt(rowMean(centered * centered) + EPS) * weight + bias;
}`;

const spread = /* wgsl */ `
fn spread(x: f32) -> f32 {
  let moments = rowMean(vec2f(x, x * x));
  return (rowMax(x) - x) / sqrt(moments.y - moments.x * moments.x + 0.1);
}`;

/** Runs `test` with a workgroup for a row, as a GPU has it. */
async function asOnGpu<T>(test: () => Promise<T>): Promise<T> {
  const { software } = device;
  device.software = false;
  try {
    return await test();
  } finally {
    device.software = software;
  }
}

/** Layer normalisation of rows of `cols` in float64. */
function layerNormErrors([rows, cols]: readonly [number, number], dtype: FloatType = "f32"): Promise<number[]> {
  return layerErrors({
    inputs: [[rows, cols], [cols], [rows, 1]],
    dtype,
    run: (x, weight, bias) => row(layerNorm, x!, weight!, bias!),
    reference: ([x, w, b], dy) => {
      const y = new Float64Array(rows * cols);
      const [dx, dw, db] = [new Float64Array(rows * cols), new Float64Array(cols), new Float64Array(rows)];
      for (let r = 0; r < rows; r++) {
        const at = (i: number): number => x![r * cols + i]!;
        const columns = Array.from({ length: cols }, (_, i) => i);
        const mean = columns.reduce((sum, i) => sum + at(i), 0) / cols;
        const variance = columns.reduce((sum, i) => sum + (at(i) - mean) ** 2, 0) / cols;
        const scale = 1 / Math.sqrt(variance + 1e-3);
        const hat = columns.map((i) => (at(i) - mean) * scale);
        const g = columns.map((i) => dy[r * cols + i]! * w![i]!);
        const meanG = g.reduce((sum, v) => sum + v, 0) / cols;
        const meanGHat = g.reduce((sum, v, i) => sum + v * hat[i]!, 0) / cols;
        for (const i of columns) {
          y[r * cols + i] = hat[i]! * w![i]! + b![r]!;
          dx[r * cols + i] = scale * (g[i]! - meanG - hat[i]! * meanGHat);
          dw[i]! += dy[r * cols + i]! * hat[i]!;
          db[r]! += dy[r * cols + i]!;
        }
      }
      return { y, grads: [dx, dw, db] };
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

const ones = (shape: Shape): Tensor => tensor(new Float32Array(sizeOf(shape)).fill(1), { shape });

if (runs)
  describe("values and gradients", () => {
    const fixtures = async (limit: number, halfLimit: number): Promise<void> => {
      const { f32, f16 } = await fixtureErrors(new URL("./elementwise.safetensors", import.meta.url), {
        softmax: ({ x }) => row(softmax, x!),
        layerNorm: ({ x, weight, bias }) => row(layerNorm, x!, weight!, bias!),
        crossEntropy: ({ x, target }, { perRow }) => row(crossEntropy, x!, target!, { perRow }),
        spread: ({ x }) => row(spread, x!),
      });
      expect(f32.size).toBe(6);
      for (const [name, error] of f32) expect(error, name).toBeLessThan(limit);
      for (const [name, error] of f16) expect(error, name).toBeLessThan(halfLimit);
    };

    test("are PyTorch's", () => fixtures(2e-5, 4e-3));

    test.each([
      [1, 1],
      [2, 3],
      [67, 67],
      [3, 257],
      [3, 4097],
      [2, 8192],
    ] as const)("%d rows of %d", async (...shape) => {
      expect(Math.max(...(await layerNormErrors(shape)))).toBeLessThan(5e-5);
    });

    test.each([
      [5, 24],
      [9, 68],
      [3, 4100],
    ] as const)("%d rows of %d, as on a GPU", async (...shape) => {
      expect(Math.max(...(await asOnGpu(() => layerNormErrors(shape))))).toBeLessThan(2e-5);
    });

    if (hasF16)
      test("f16", async () => {
        expect(Math.max(...(await layerNormErrors([9, 68], "f16")))).toBeLessThan(4e-3);
      });

    test("sums and maxima of vectors by a workgroup", async () => {
      const values = randomValues(3 * 66, 5);
      const results: Float32Array[][] = [];
      for (const run of [(f: () => Promise<Float32Array[]>) => f(), asOnGpu<Float32Array[]>]) {
        const x = tensor(values, { shape: [3, 66], requiresGrad: true });
        results.push(
          await run(async () => {
            const y = row(spread, x);
            y.backward(tensor(randomValues(3 * 66, 6), { shape: [3, 66] }));
            return [(await y.data()) as Float32Array, (await x.grad!.data()) as Float32Array];
          }),
        );
      }
      results[0]!.forEach((expected, i) => {
        expect(mixedError(results[1]![i]!, expected)).toBeLessThan(1e-5);
      });
    });

    test("branches and loops between reductions", async () => {
      const text = /* wgsl */ `
struct Pair { a: f32, b: f32 }
const STEPS = 3;
fn part(x: f32, i: i32) -> Pair { return Pair(sin(x * f32(i + 1)), x * x); }
fn winding(x: f32, w: f32) -> f32 {
  let mean = rowMean(x * w);
  var s = 0.5 * x;
  for (var i = 0; i < STEPS; i++) {
    let p = part(x, i);
    if (p.a > mean) { s += p.a * mean; } else { s -= w * p.b; }
  }
  let size = sqrt(1.0 + rowSum(s * s));
  if (x > 0.0) { return s / size + rowMean_(size); }
  return w * s / size;
}
fn rowMean_(x: f32) -> f32 { return 0.1 * x; }`;
      const both = new Interpreter(`${text}\n${grad(text, { fn: "winding" })}`);
      const [rows, cols] = [3, 20];
      const errors = (): Promise<number[]> =>
        layerErrors({
          inputs: [[rows, cols], [cols]],
          run: (x, w) => row(text, x!, w!),
          reference: ([x, w], dy) => {
            const y: number[] = [];
            const dx: number[] = [];
            const dw = new Float64Array(cols);
            for (let r = 0; r < rows; r++) {
              const lanes = Array.from({ length: cols }, (_, c) => [x![r * cols + c]!, w![c]!]);
              y.push(...(callRow(both, "winding", lanes) as number[]));
              const seeded = lanes.map((args, c) => [...args, dy[r * cols + c]!]);
              callRow(both, "windingGrad", seeded).forEach((made, c) => {
                const gradient = made as unknown as { dx: number; dw: number };
                dx.push(gradient.dx);
                dw[c]! += gradient.dw;
              });
            }
            return { y, grads: [dx, dw] };
          },
        });
      expect(Math.max(...(await errors()))).toBeLessThan(1e-5);
      expect(Math.max(...(await asOnGpu(errors)))).toBeLessThan(1e-5);
    });

    test("one number for a row", async () => {
      const logits = tensor(randomValues(15), { shape: [3, 5], requiresGrad: true });
      const target = tensor([[1, 0, 0, 0, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 1]]); // biome-ignore format: rows
      const loss = row(crossEntropy, logits, target, { perRow: true });
      expect(loss.shape).toEqual([3]);
      loss.backward(tensor([1, 2, 3]));
      const all = tensor(randomValues(15), { shape: [3, 5], requiresGrad: true });
      const same = row(crossEntropy, all, target);
      expect(same.shape).toEqual([3, 5]);
      // an equal share to each element
      same.backward(
        tensor(
          [1, 2, 3].flatMap((g) => Array(5).fill(g / 5)),
          { shape: [3, 5] },
        ),
      );
      const values = await same.data();
      expect(mixedError(await loss.data(), [values[0]!, values[5]!, values[10]!])).toBeLessThan(1e-6);
      expect(mixedError(await logits.grad!.data(), await all.grad!.data())).toBeLessThan(1e-6);
    });

    test("functions of math compose with one another", async () => {
      const x = tensor(randomValues(12), { shape: [3, 4], requiresGrad: true });
      const target = tensor(randomValues(12, 2), { shape: [3, 4] });
      const one = row(nllLoss, row(logSoftmax, x), target, { perRow: true });
      const whole = row(crossEntropy, x.detach(), target, { perRow: true });
      expect(mixedError(await one.data(), await whole.data())).toBeLessThan(1e-6);
    });

    test("numbers, masks and integers", async () => {
      const text = /* wgsl */ `
fn masked(x: f32, keep: bool, scale: f32) -> f32 {
  let z = select(-1e30, x * scale, keep);
  let e = exp(z - rowMax(z));
  return e / rowSum(e);
}`;
      const x = tensor([[1, 2, 3], [3, 2, 1]], { requiresGrad: true }); // biome-ignore format: rows
      const keep = tensor([true, false, true]);
      const y = row(text, x, keep, 0.5);
      const share = 1 / (1 + Math.E);
      expect(mixedError(await y.data(), [share, 0, 1 - share, 1 - share, 0, share])).toBeLessThan(1e-6);
      y.backward(tensor([[1, 5, 0], [1, 5, 0]])); // biome-ignore format: rows
      const d = 0.5 * share * (1 - share);
      expect(mixedError(await x.grad!.data(), [d, 0, -d, d, 0, -d])).toBeLessThan(1e-6);
    });

    test("a row that is all -infinity, and one far from zero", async () => {
      const x = tensor([Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY]);
      const most = row("fn most(x: f32) -> f32 { return rowMax(x); }", x, { perRow: true });
      expect((await most.data())[0]).toBe(Number.NEGATIVE_INFINITY);
      expect(mixedError(await row(softmax, tensor([1e30, 1e30, -1e30])).data(), [0.5, 0.5, 0])).toBe(0);
    });
  });

test("one kernel forward, one backward", async () => {
  const x = tensor(randomValues(24), { shape: [4, 6], requiresGrad: true });
  let y!: Tensor;
  expect(dispatches(() => (y = row(softmax, x)))).toBe(1);
  const dy = ones([4, 6]);
  expect(dispatches(() => y.backward(dy))).toBe(1);
  // the gradients of what is repeated: a kernel and its sums
  const weight = tensor(randomValues(6), { requiresGrad: true });
  const z = row(layerNorm, x.detach(), weight, 0);
  expect(dispatches(() => z.backward(dy))).toBe(2);
  // the kernels of a GPU compile too
  await asOnGpu(async () => {
    const long = tensor(randomValues(400), { shape: [4, 100], requiresGrad: true });
    row(spread, long).backward(ones([4, 100]));
    await device.sync();
  });
});

test("errors", () => {
  const x = ones([2, 3]);
  expect(() => row(softmax, x, x)).toThrow("row: softmax takes 1 operands (x), got 2");
  expect(() => row(crossEntropy, x, ones([2]))).toThrow("row: crossEntropy: shapes [2,3] and [2] do not broadcast");
  expect(() => row(softmax, tensor([1, 2], { dtype: "u32" }))).toThrow(
    "row: softmax: x is a tensor of u32, expected an f32 or f16 tensor or a number",
  );
  expect(() => row(softmax, x, { perRow: true })).toThrow("also depends on each element of x");
  expect(() => row(softmax, ones([]))).toThrow("row: softmax: the operands have no axes");
  expect(() => row("fn f(x: f32) -> vec2f { return vec2f(rowSum(x)); }", x)).toThrow("f returns vec2f, expected f32");
  expect(() => row("fn f(x: vec2f) -> f32 { return x.x; }", x)).toThrow("parameter x is vec2f, expected f32, i32");
  expect(() => row("fn f(x: f32) -> f32 { if (x > 0.0) { return rowSum(x); } return x; }", x)).toThrow(AutodiffError);
  expect(() => row({ name: "relu", forward: "", backward: "" } as never, x)).toThrow("row: expected WGSL text");
  const limit = device.limits.maxStorageBuffersPerShaderStage;
  const names = Array.from({ length: limit }, (_, k) => `a${k}`);
  const text = `fn many(${names.map((name) => `${name}: f32`).join(", ")}) -> f32 { return rowSum(${names.join(" + ")}); }`;
  expect(() => row(text, ...names.map(() => x))).toThrow(`row: many needs ${limit + 1} storage buffers`);
});
