import { autocast, cast, type Tensor, tensor } from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  fixtures,
  layerErrors,
  mixedError,
  optionsOf,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import {
  adaptiveReference,
  poolingReference,
  type ReferenceAxis,
  type ReferenceWindow,
  windowsReference,
} from "../src/pooling.reference.ts";
import {
  AdaptiveAvgPool1d,
  AdaptiveAvgPool2d,
  AdaptiveMaxPool1d,
  AdaptiveMaxPool2d,
  AvgPool1d,
  AvgPool2d,
  adaptiveAvgPool1d,
  adaptiveAvgPool2d,
  adaptiveMaxPool1d,
  adaptiveMaxPool2d,
  avgPool1d,
  avgPool2d,
  MaxPool1d,
  MaxPool2d,
  maxPool1d,
  maxPool2d,
} from "../src/pooling.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const file = new URL("./pooling.safetensors", import.meta.url);

/** Few distinct values, so that maxima are tied. */
const tied = (size: number): Float32Array<ArrayBuffer> => randomValues(size).map((v) => Math.round(4 * v) / 4);

type Divisor = Parameters<typeof poolingReference>[4];

/** Errors of y and dx, for a pool whose reference has these windows. */
const errorsOf = (
  shape: number[],
  run: (x: Tensor) => Tensor,
  rows: ReferenceAxis,
  cols: ReferenceAxis,
  divisor: Divisor = null,
  dtype: "f32" | "f16" = "f32",
): Promise<number[]> =>
  layerErrors({
    inputs: [shape],
    dtype,
    values: [tied(shape.reduce((a, b) => a * b))],
    run: (x) => run(x!),
    reference: ([x], dy) => {
      const { y, dx } = poolingReference(x!, rows, cols, dy, divisor);
      return { y, grads: [dx] };
    },
  });

const row = windowsReference(1, { kernel: 1 });
const padded = (n: number): number => n;
const unpadded = (_: number, n: number): number => n;

describe("fixed windows", () => {
  // attorch's kernels, strides and paddings; odd sizes; one element; ceil mode; kernels that take several threads a
  // window
  const lines: (ReferenceWindow & { size: number })[] = [
    { size: 1, kernel: 1 },
    { size: 67, kernel: 2 },
    { size: 67, kernel: 3, stride: 1, padding: 1 },
    { size: 257, kernel: 3, stride: 2, padding: 1, ceilMode: true },
    { size: 66, kernel: 4, stride: 2, padding: 2 },
    { size: 9, kernel: 2, stride: 3, ceilMode: true },
    { size: 1000, kernel: 40, stride: 9, padding: 20, ceilMode: true },
    { size: 4097, kernel: 1500, stride: 1000, padding: 1 },
  ];
  it.each(lines)("along a line of $size: kernel $kernel, stride $stride, padding $padding", async (window) => {
    const { size, kernel } = window;
    const shape = [2, 3, size];
    const cols = windowsReference(size, window);
    expect(Math.max(...(await errorsOf(shape, (x) => maxPool1d(x, kernel, window), row, cols)))).toBeLessThan(1e-6);
    for (const countIncludePad of [true, false]) {
      const run = (x: Tensor): Tensor => avgPool1d(x, kernel, { ...window, countIncludePad });
      const errors = await errorsOf(shape, run, row, cols, countIncludePad ? padded : unpadded);
      expect(Math.max(...errors)).toBeLessThan(1e-5);
    }
  });

  // more rows than a thread takes; unequal options; windows of whole rows, which are joined; large windows that are not
  const planes: { shape: number[]; h: ReferenceWindow; w: ReferenceWindow }[] = [
    { shape: [1, 1, 1, 1], h: { kernel: 1 }, w: { kernel: 1 } },
    { shape: [3, 5, 7], h: { kernel: 2 }, w: { kernel: 2 } },
    { shape: [2, 3, 19, 67], h: { kernel: 3, stride: 2, padding: 1 }, w: { kernel: 3, stride: 2, padding: 1 } },
    { shape: [2, 2, 12, 9], h: { kernel: 2, stride: 1 }, w: { kernel: 3, stride: 2, padding: 1 } },
    { shape: [2, 3, 6, 7], h: { kernel: 4, stride: 2, padding: 2 }, w: { kernel: 7, stride: 5 } },
    { shape: [2, 3, 7, 7], h: { kernel: 7 }, w: { kernel: 7 } },
    { shape: [2, 2, 23, 41], h: { kernel: 9, padding: 3 }, w: { kernel: 11, padding: 5 } },
  ];
  it.each(planes)("in a plane of $shape: $h by $w", async ({ shape, h, w }) => {
    const rows = windowsReference(shape.at(-2)!, h);
    const cols = windowsReference(shape.at(-1)!, w);
    const kernel = [h.kernel, w.kernel] as const;
    const options = {
      stride: [h.stride ?? h.kernel, w.stride ?? w.kernel],
      padding: [h.padding ?? 0, w.padding ?? 0],
    } as const;
    const max = await errorsOf(shape, (x) => maxPool2d(x, kernel, options), rows, cols);
    expect(Math.max(...max)).toBeLessThan(1e-6);
    const avg = await errorsOf(shape, (x) => avgPool2d(x, kernel, options), rows, cols, padded);
    expect(Math.max(...avg)).toBeLessThan(1e-5);
    const divided = await errorsOf(
      ...([
        shape,
        (x: Tensor) => avgPool2d(x, kernel, { ...options, divisorOverride: -3 }),
        rows,
        cols,
        () => -3,
      ] as const),
    );
    expect(Math.max(...divided)).toBeLessThan(1e-5);
  });

  it("match the reference over attorch's kernels, strides and paddings", async () => {
    for (const kernel of [2, 3, 4]) {
      for (const stride of [kernel, 1, 2]) {
        for (const padding of new Set([0, 1, Math.floor(kernel / 2)])) {
          for (const ceilMode of [false, true]) {
            const axes = [8, 11].map((size) => windowsReference(size, { kernel, stride, padding, ceilMode })) as [
              ReferenceAxis,
              ReferenceAxis,
            ];
            const options = { stride, padding, ceilMode };
            const max = await errorsOf([3, 8, 11], (x) => maxPool2d(x, kernel, options), ...axes);
            expect(Math.max(...max), JSON.stringify({ kernel, ...options })).toBeLessThan(1e-6);
            const avg = await errorsOf([3, 8, 11], (x) => avgPool2d(x, kernel, options), ...axes, padded);
            expect(Math.max(...avg), JSON.stringify({ kernel, ...options })).toBeLessThan(1e-5);
          }
        }
      }
    }
  });

  it.each([3, 40])("hold elements a distance apart: kernel %i", async (kernel) => {
    const window = { kernel, stride: 9, padding: 1, dilation: 3 };
    const cols = windowsReference(200, window);
    const rows = windowsReference(9, { kernel: 2, stride: 1, padding: 1, dilation: 4 });
    const options = { stride: [1, 9], padding: [1, 1], dilation: [4, 3] } as const;
    const run = (x: Tensor): Tensor => maxPool2d(x, [2, kernel], options);
    expect(Math.max(...(await errorsOf([2, 9, 200], run, rows, cols)))).toBeLessThan(1e-6);
  });

  it("may lie beside all elements", async () => {
    const x = tensor([[1]], { requiresGrad: true });
    const { output, indices } = maxPool1d(x, 2, { stride: 1, padding: 1, dilation: 2, returnIndices: true });
    expect([...(await output.data()), ...(await indices.data())]).toEqual([Number.NEGATIVE_INFINITY, -1]);
    output.backward(tensor([[1]]));
    expect([...(await x.grad!.data())]).toEqual([0]);
  });
});

describe("adaptive windows", () => {
  // one window; as many as elements; more; a divisor; a size whose product with the number of windows exceeds 32 bits
  it.each([
    { size: 7, out: 1 },
    { size: 7, out: 7 },
    { size: 7, out: 11 },
    { size: 67, out: 5 },
    { size: 1000, out: 250 },
    { size: 4097, out: 3 },
    { size: 70001, out: 70000 },
  ])("along a line: $size to $out", async ({ size, out }) => {
    const shape = [size > 5000 ? 1 : 3, size];
    const cols = adaptiveReference(size, out);
    const max = await errorsOf(shape, (x) => adaptiveMaxPool1d(x, out), row, cols);
    expect(Math.max(...max)).toBeLessThan(1e-6);
    const avg = await errorsOf(shape, (x) => adaptiveAvgPool1d(x, out), row, cols, padded);
    expect(Math.max(...avg)).toBeLessThan(1e-5);
  });

  it.each([
    { size: [13, 17], out: 1 },
    { size: [13, 17], out: [4, 6] },
    { size: [12, 17], out: [4, null] },
    { size: [40, 60], out: [3, 7] },
    { size: [3, 5], out: [9, 1] },
  ] as const)("in a plane: $size to $out", async ({ size, out }) => {
    const [h, w] = typeof out === "number" ? [out, out] : out;
    const rows = adaptiveReference(size[0], h ?? size[0]);
    const cols = adaptiveReference(size[1], w ?? size[1]);
    const max = await errorsOf([2, 3, ...size], (x) => adaptiveMaxPool2d(x, out), rows, cols);
    expect(Math.max(...max)).toBeLessThan(1e-6);
    const avg = await errorsOf([2, 3, ...size], (x) => adaptiveAvgPool2d(x, out), rows, cols, padded);
    expect(Math.max(...avg)).toBeLessThan(1e-5);
  });
});

describe("pooling", () => {
  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(file, {
      maxPool1d: ({ x }, { kernelSize, ...options }) => maxPool1d(x!, kernelSize!, options),
      maxPool2d: ({ x }, { kernelSize, ...options }) => maxPool2d(x!, kernelSize!, options),
      avgPool1d: ({ x }, { kernelSize, ...options }) => avgPool1d(x!, kernelSize!, options),
      avgPool2d: ({ x }, { kernelSize, ...options }) => avgPool2d(x!, kernelSize!, options),
      adaptiveMaxPool1d: ({ x }, { outputSize }) => adaptiveMaxPool1d(x!, outputSize!),
      adaptiveMaxPool2d: ({ x }, { outputSize }) => adaptiveMaxPool2d(x!, outputSize!),
      adaptiveAvgPool1d: ({ x }, { outputSize }) => adaptiveAvgPool1d(x!, outputSize!),
      adaptiveAvgPool2d: ({ x }, { outputSize }) => adaptiveAvgPool2d(x!, outputSize!),
    });
    expect(f32.size).toBeGreaterThan(40);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-6);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(1e-3);
  });

  it("returns PyTorch's indices", async () => {
    let count = 0;
    for (const [name, { x, indices, ...rest }] of await fixtures(file)) {
      if (!indices || (x!.dtype === "f16" && !hasF16)) continue;
      const { kernelSize, outputSize, ...options } = optionsOf(name, { x, indices, ...rest }) as Record<string, never>;
      const input = tensor(Float32Array.from(x!.values), { shape: x!.shape, dtype: x!.dtype });
      const returnIndices = true;
      const pooled = {
        maxPool1d: () => maxPool1d(input, kernelSize!, { ...options, returnIndices }),
        maxPool2d: () => maxPool2d(input, kernelSize!, { ...options, returnIndices }),
        adaptiveMaxPool1d: () => adaptiveMaxPool1d(input, outputSize!, { returnIndices }),
        adaptiveMaxPool2d: () => adaptiveMaxPool2d(input, outputSize!, { returnIndices }),
      }[name.split(" ")[0] as "maxPool1d"]();
      expect(pooled.indices.dtype).toBe("i32");
      expect([...(await pooled.indices.data())], name).toEqual([...(indices.values as Int32Array)]);
      count++;
    }
    expect(count).toBeGreaterThan(15);
  });

  // the last NaN of a window, the first of equal infinities, the first of two zeros: by one thread and by several
  it.each([1, 9])("places NaN and infinities as PyTorch does, runs of %i", async (run) => {
    const spread = (values: number[]): number[] => values.flatMap((v) => Array.from({ length: run }, () => v));
    const lowest = Number.NEGATIVE_INFINITY;
    const lines = [
      [1, Number.NaN, 2, Number.NaN, 3],
      [lowest, lowest, lowest, lowest, lowest],
      [-0, 0, -1, -0, 0],
      [lowest, 4, 1, 4, Number.POSITIVE_INFINITY],
    ].map(spread);
    const x = Float32Array.from(lines.flat());
    const expected = poolingReference(x, row, windowsReference(5 * run, { kernel: 5 * run }));
    const { output, indices } = maxPool1d(tensor(x, { shape: [4, 5 * run] }), 5 * run, { returnIndices: true });
    expect([...(await indices.data())]).toEqual([...expected.indices]);
    expect(mixedError(await output.data(), expected.y)).toBe(0);
  });

  it("has a reference whose gradient is right", () => {
    const x = randomValues(2 * 5 * 7);
    const rows = windowsReference(5, { kernel: 3, stride: 2, padding: 1 });
    const cols = adaptiveReference(7, 3);
    const dy = randomValues(2 * 3 * 3, 2);
    for (const divisor of [null, padded, unpadded]) {
      const loss = (v: Float64Array): number =>
        poolingReference(v, rows, cols, null, divisor).y.reduce((sum, y, i) => sum + y * dy[i]!, 0);
      const { dx } = poolingReference(x, rows, cols, dy, divisor);
      expect(mixedError(finiteDifferences(loss, x), dx)).toBeLessThan(1e-7);
    }
  });

  if (hasF16)
    it("matches the reference in f16, which autocast keeps", async () => {
      const rows = windowsReference(9, { kernel: 3, stride: 2 });
      const cols = windowsReference(67, { kernel: 3, stride: 2 });
      const max = await errorsOf([3, 9, 67], (x) => maxPool2d(x, 3, { stride: 2 }), rows, cols, null, "f16");
      expect(Math.max(...max)).toBeLessThan(1e-3);
      const avg = await errorsOf([3, 9, 67], (x) => avgPool2d(x, 3, { stride: 2 }), rows, cols, padded, "f16");
      expect(Math.max(...avg)).toBeLessThan(1e-3);
      const adaptive = [adaptiveReference(9, 2), adaptiveReference(67, 5)] as const;
      const run = (x: Tensor): Tensor => adaptiveAvgPool2d(x, [2, 5]);
      expect(Math.max(...(await errorsOf([3, 9, 67], run, ...adaptive, padded, "f16")))).toBeLessThan(1e-3);
      const x = tensor(randomValues(32), { shape: [2, 4, 4] });
      for (const pool of [maxPool2d, avgPool2d, adaptiveAvgPool2d]) {
        expect(autocast("f16", () => pool(x, 2)).dtype).toBe("f32");
        expect(autocast("f16", () => pool(cast(x, "f16"), 2)).dtype).toBe("f16");
      }
    });

  it("gives the same bits each time", async () => {
    const once = async (): Promise<number[]> => {
      const x = tensor(randomValues(3 * 19 * 67), { shape: [3, 19, 67], requiresGrad: true });
      const y = avgPool2d(x, 3, { stride: 2, padding: 1 });
      y.backward(tensor(randomValues(y.size, 2), { shape: y.shape }));
      return [...(await y.data()), ...(await x.grad!.data())];
    };
    expect(await once()).toEqual(await once());
  });

  // 16.8 million threads take SwiftShader 20 seconds
  if (!device.name.includes("SwiftShader"))
    it("reaches past one dimension of a grid", async () => {
      const n = 256 * 65535 + 3;
      const x = tensor(
        Float32Array.from({ length: n }, (_, i) => i % 1009),
        { shape: [1, n] },
      );
      const y = await avgPool1d(x, 1, { stride: 1 }).data();
      expect([y.length, y[65535], y[n - 1]]).toEqual([n, 65535 % 1009, (n - 1) % 1009]);
      x.dispose();
    });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(32), { shape: [2, 4, 4] });
    const cases: [() => unknown, string][] = [
      [() => maxPool2d(cast(x, "i32"), 2), "maxPool2d: x is i32, expected f32 or f16"],
      [() => maxPool1d(tensor([1, 2]), 2), "maxPool1d: x has shape [2], expected [N, C, L] or [C, L]"],
      [() => avgPool2d(tensor([[1, 2]]), 2), "avgPool2d: x has shape [1,2], expected [N, C, H, W] or [C, H, W]"],
      [() => maxPool2d(x, 0), "maxPool2d: kernelSize is 0, expected one or two whole numbers ≥ 1"],
      [
        () => maxPool2d(x, [2, 2, 2] as never),
        "maxPool2d: kernelSize is [2,2,2], expected one or two whole numbers ≥ 1",
      ],
      [() => avgPool1d(x, 2, { stride: 0 }), "avgPool1d: stride is 0, expected a whole number ≥ 1"],
      [() => avgPool1d(x, 2, { padding: -1 }), "avgPool1d: padding is -1, expected a whole number ≥ 0"],
      [() => maxPool1d(x, 2, { dilation: 1.5 }), "maxPool1d: dilation is 1.5, expected a whole number ≥ 1"],
      [
        () => maxPool2d(x, [2, 3], { padding: [1, 2] }),
        "maxPool2d: padding is [1,2], expected at most half of kernelSize [2,3]",
      ],
      [() => maxPool2d(x, 5), "maxPool2d: kernelSize 5 with dilation 1 does not fit into x of shape [2,4,4]"],
      [() => avgPool2d(x, 2, { divisorOverride: 0 }), "avgPool2d: divisorOverride is 0, expected another number"],
      [() => adaptiveAvgPool2d(x, 0), "adaptiveAvgPool2d: outputSize is 0, expected one or two whole numbers ≥ 1"],
      [() => adaptiveMaxPool1d(x, 2.5), "adaptiveMaxPool1d: outputSize is 2.5, expected a whole number ≥ 1"],
    ];
    for (const [run, message] of cases) expect(run).toThrow(message);
  });
});

describe("modules", () => {
  it("pool as the functions do", async () => {
    const x = tensor(randomValues(2 * 8 * 9), { shape: [2, 8, 9] });
    const indexed: { output: Tensor; indices: Tensor } = new MaxPool2d([2, 3], { returnIndices: true }).forward(x);
    const adaptive: { output: Tensor; indices: Tensor } = new AdaptiveMaxPool1d(4, { returnIndices: true }).forward(x);
    const pairs: [Tensor, Tensor][] = [
      [new MaxPool1d(3, { padding: 1, dilation: 2 }).forward(x), maxPool1d(x, 3, { padding: 1, dilation: 2 })],
      [new MaxPool2d(3, { stride: 2, ceilMode: true }).forward(x), maxPool2d(x, 3, { stride: 2, ceilMode: true })],
      [
        new AvgPool1d(3, { padding: 1, countIncludePad: false }).forward(x),
        avgPool1d(x, 3, { padding: 1, countIncludePad: false }),
      ],
      [new AvgPool2d(3, { divisorOverride: 4 }).forward(x), avgPool2d(x, 3, { divisorOverride: 4 })],
      [new AdaptiveMaxPool2d([2, null]).forward(x), adaptiveMaxPool2d(x, [2, null])],
      [new AdaptiveAvgPool1d(4).forward(x), adaptiveAvgPool1d(x, 4)],
      [new AdaptiveAvgPool2d(3).forward(x), adaptiveAvgPool2d(x, 3)],
      [indexed.output, maxPool2d(x, [2, 3])],
      [indexed.indices, maxPool2d(x, [2, 3], { returnIndices: true }).indices],
      [adaptive.output, adaptiveMaxPool1d(x, 4)],
    ];
    for (const [a, b] of pairs) {
      expect(a.shape).toEqual(b.shape);
      expect(await a.data()).toEqual(await b.data());
    }
  });

  it("print their settings", () => {
    expect(new MaxPool2d([2, 3], { stride: 2 }).toString()).toBe(
      "MaxPool2d(kernelSize=[2,3], stride=2, padding=0, dilation=1, ceilMode=false)",
    );
    expect(new AvgPool1d(3).toString()).toBe("AvgPool1d(kernelSize=3, stride=3, padding=0)");
    expect(new AdaptiveAvgPool2d([null, 3]).toString()).toBe("AdaptiveAvgPool2d(outputSize=[null,3])");
  });
});
