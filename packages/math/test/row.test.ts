// row: any function with reductions and scans of a row, against PyTorch and against float64.
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

/** Scans in both directions, of one another, with reductions before and after. */
const scanned = /* wgsl */ `
fn scanned(x: f32, w: f32) -> f32 {
  let e = exp(x - rowMax(x));
  let seen = rowCumsum(vec2f(e, e * w));
  let mean = seen.y / seen.x;
  let ahead = rowCumsumReverse(mean / (1.0 + mean * mean) * x);
  return mean + ahead / rowSum(e) * w;
}`;

const causal = /* wgsl */ `
fn causal(q: f32, k: f32, v: f32) -> f32 {
  let e = exp(k - rowMax(k));
  return rowCumsum(e * v) / rowCumsum(e) / (1.0 + exp(-q));
}`;

/** Little to compile for a workgroup. */
const pair = /* wgsl */ `
fn pair(x: f32, w: f32) -> f32 {
  let sums = rowCumsum(vec2f(x, w));
  return rowCumsumReverse(sums.x * w) * sums.y;
}`;
const rising = "fn rising(x: f32, w: f32) -> f32 { return rowCumsum(x * w) - rowMean(x); }";

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
function layerNormErrors([rows, cols]: readonly [number, number]): Promise<number[]> {
  return layerErrors({
    inputs: [[rows, cols], [cols], [rows, 1]],
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

/** A function of x [rows, cols] and w [cols] and its derivative in float64. */
function interpretedErrors(
  text: string,
  name: string,
  [rows, cols]: readonly [number, number],
  dtype: FloatType = "f32",
): Promise<number[]> {
  const both = new Interpreter(`${text}\n${grad(text, { fn: name })}`);
  return layerErrors({
    inputs: [[rows, cols], [cols]],
    dtype,
    run: (x, w) => row(text, x!, w!),
    reference: ([x, w], dy) => {
      const y: number[] = [];
      const dx: number[] = [];
      const dw = new Float64Array(cols);
      for (let r = 0; r < rows; r++) {
        const elements = Array.from({ length: cols }, (_, c) => [x![r * cols + c]!, w![c]!]);
        y.push(...(callRow(both, name, elements) as number[]));
        const seeded = elements.map((args, c) => [...args, dy[r * cols + c]!]);
        callRow(both, `${name}Grad`, seeded).forEach((made, c) => {
          const gradient = made as unknown as { dx: number; dw: number };
          dx.push(gradient.dx);
          dw[c]! += gradient.dw;
        });
      }
      return { y, grads: [dx, dw] };
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
    test("are PyTorch's", async () => {
      const { f32, f16 } = await fixtureErrors(new URL("./elementwise.safetensors", import.meta.url), {
        softmax: ({ x }) => row(softmax, x!),
        layerNorm: ({ x, weight, bias }) => row(layerNorm, x!, weight!, bias!),
        crossEntropy: ({ x, target }, { perRow }) => row(crossEntropy, x!, target!, { perRow }),
        spread: ({ x }) => row(spread, x!),
        runningMean: ({ x }) => row("fn f(x: f32) -> f32 { return rowCumsum(x) / rowCumsum(1.0); }", x!),
        causal: ({ q, k, v }) => row(causal, q!, k!, v!),
      });
      expect(f32.size).toBe(6);
      for (const [name, error] of f32) expect(error, name).toBeLessThan(2e-5);
      for (const [name, error] of f16) expect(error, name).toBeLessThan(4e-3);
    });

    test.each([
      [1, 1],
      [2, 3],
      [67, 67],
      [3, 257],
      [3, 4097],
    ] as const)("%d rows of %d", async (...shape) => {
      expect(Math.max(...(await layerNormErrors(shape)))).toBeLessThan(5e-5);
    });

    test("9 rows of 68, as on a GPU", async () => {
      expect(Math.max(...(await asOnGpu(() => layerNormErrors([9, 68]))))).toBeLessThan(2e-5);
    });

    const dtypes: FloatType[] = hasF16 ? ["f32", "f16"] : ["f32"];
    test.each(dtypes)("scans of %s, rows of any length", async (dtype) => {
      for (const cols of [1, 3, 67, 257, 4097]) {
        const errors = await interpretedErrors(scanned, "scanned", [cols > 1000 ? 1 : 3, cols], dtype);
        expect(Math.max(...errors), `rows of ${cols}`).toBeLessThan(dtype === "f16" ? 4e-3 : 2e-5);
      }
    });

    test("scans as on a GPU", async () => {
      const several = await asOnGpu(() => interpretedErrors(pair, "pair", [9, 68]));
      expect(Math.max(...several)).toBeLessThan(5e-5);
      const long = await asOnGpu(() => interpretedErrors(rising, "rising", [2, 4097]));
      expect(Math.max(...long)).toBeLessThan(5e-5);
    });

    if (hasF16)
      test("scans of f16 values and of vectors of them add up in f32", async () => {
        const text = "fn f(x: f32) -> f32 { return f32(rowCumsum(vec2h(vec2f(x))).y + rowCumsum(f16(x))); }";
        const y = await asOnGpu(() => row(text, ones([4096])).data());
        // a sum in f16 ends at 2048
        expect([y[0], y[1000], y[4095]]).toEqual([2, 2002, 8192]);
      });

    test("scans give the same bits each time", async () => {
      const results: string[] = [];
      for (let i = 0; i < 2; i++) {
        const x = tensor(randomValues(2 * 4097, 7), { shape: [2, 4097], requiresGrad: true });
        await asOnGpu(async () => {
          const y = row(rising, x, tensor(randomValues(4097, 8), { requiresGrad: true }));
          y.backward(y.detach());
          results.push(`${await y.data()} ${await x.grad!.data()}`);
        });
      }
      expect(results[0]).toBe(results[1]);
    });

    test("sums and maxima of vectors by a workgroup", async () => {
      const values = randomValues(3 * 14, 5);
      const results: Float32Array[][] = [];
      for (const run of [(f: () => Promise<Float32Array[]>) => f(), asOnGpu<Float32Array[]>]) {
        const x = tensor(values, { shape: [3, 14], requiresGrad: true });
        results.push(
          await run(async () => {
            const y = row(spread, x);
            y.backward(tensor(randomValues(3 * 14, 6), { shape: [3, 14] }));
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
      expect(Math.max(...(await interpretedErrors(text, "winding", [3, 20])))).toBeLessThan(1e-5);
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

    test("one number for a row, of a scan", async () => {
      const x = tensor([[1, 2, -4, 5, -1], [1, -2, 3, 4, -1]], { requiresGrad: true }); // biome-ignore format: rows
      const most = row("fn most(x: f32) -> f32 { return rowMax(rowCumsum(x)); }", x, { perRow: true });
      expect([...(await most.data())]).toEqual([4, 6]);
      most.backward(tensor([2, 3]));
      expect([...(await x.grad!.data())]).toEqual([2, 2, 2, 2, 0, 3, 3, 3, 3, 0]);
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
  // the kernels of a GPU compile too, where they do not run
  if (!runs)
    await asOnGpu(async () => {
      const long = tensor(randomValues(400), { shape: [4, 100], requiresGrad: true });
      row(spread, long).backward(ones([4, 100]));
      row(scanned, long, 2).backward(ones([4, 100]));
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
  expect(() => row("fn f(x: f32) -> f32 { return rowCumsum(x); }", x, { perRow: true })).toThrow(
    "row: f: perRow needs a result that is the same for all of a row; this one also depends on a scan",
  );
  expect(() => row(softmax, ones([]))).toThrow("row: softmax: the operands have no axes");
  expect(() => row("fn f(x: f32) -> vec2f { return vec2f(rowSum(x)); }", x)).toThrow("f returns vec2f, expected f32");
  expect(() => row("fn f(x: vec2f) -> f32 { return x.x; }", x)).toThrow("parameter x is vec2f, expected f32, i32");
  expect(() => row("fn f(x: f32) -> f32 { if (x > 0.0) { return rowSum(x); } return x; }", x)).toThrow(AutodiffError);
  expect(() => row({ name: "relu", forward: "", backward: "" } as never, x)).toThrow("row: expected WGSL text");
  const limit = device.limits.maxStorageBuffersPerShaderStage;
  const names = Array.from({ length: limit }, (_, k) => `a${k}`);
  const text = `fn many(${names.map((name) => `${name}: f32`).join(", ")}) -> f32 { return rowSum(${names.join(" + ")}); }`;
  expect(() => row(text, ...names.map(() => x))).toThrow(`row: many needs ${limit + 1} storage buffers`);
  const scan = text.replace("rowSum", "rowCumsum").replace("a0: f32, ", "").replace("a0 + ", "");
  expect(() => row(scan, ...names.slice(1).map(() => x))).toThrow(`row: many needs ${limit + 1} storage buffers`);
});
