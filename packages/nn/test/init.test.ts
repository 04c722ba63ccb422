import { autocast, empty, full, manualSeed, matmul, mul, type Shape, type Tensor, tensor } from "@kindling/core";
import { mixedError, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { init, Linear } from "../src/index.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");

const moments = (values: ArrayLike<number>): { mean: number; std: number; min: number; max: number } => {
  const v = Array.from(values);
  const mean = v.reduce((s, x) => s + x, 0) / v.length;
  const std = Math.sqrt(v.reduce((s, x) => s + (x - mean) ** 2, 0) / v.length);
  return { mean, std, min: v.reduce((a, b) => Math.min(a, b)), max: v.reduce((a, b) => Math.max(a, b)) };
};
const drawn = async (shape: Shape, draw: (x: Tensor) => Tensor) => {
  manualSeed(11);
  const x = empty(shape);
  expect(draw(x)).toBe(x);
  return moments(await x.data());
};

describe("distributions", () => {
  const shape = [128, 96, 3];
  const [fanIn, fanOut] = [96 * 3, 128 * 3];
  const root2 = Math.SQRT2;
  // The standard deviation of each, and the bound of those that are uniform
  const cases: { name: string; draw: (x: Tensor) => Tensor; std: number; uniform: boolean }[] = [
    { name: "uniform", draw: (x) => init.uniform(x, -3, 3), std: Math.sqrt(3), uniform: true },
    { name: "normal", draw: (x) => init.normal(x, 0, 2), std: 2, uniform: false },
    {
      name: "xavierUniform",
      draw: (x) => init.xavierUniform(x, 3),
      std: 3 * Math.sqrt(2 / (fanIn + fanOut)),
      uniform: true,
    },
    {
      name: "xavierNormal",
      draw: (x) => init.xavierNormal(x, 3),
      std: 3 * Math.sqrt(2 / (fanIn + fanOut)),
      uniform: false,
    },
    { name: "kaimingUniform", draw: (x) => init.kaimingUniform(x), std: root2 / Math.sqrt(fanIn), uniform: true },
    {
      name: "kaimingUniform of fanOut and tanh",
      draw: (x) => init.kaimingUniform(x, { mode: "fanOut", nonlinearity: "tanh" }),
      std: 5 / 3 / Math.sqrt(fanOut),
      uniform: true,
    },
    {
      name: "kaimingNormal of a slope",
      draw: (x) => init.kaimingNormal(x, { a: 2, mode: "fan_out" }),
      std: Math.sqrt(2 / 5) / Math.sqrt(fanOut),
      uniform: false,
    },
    {
      name: "kaimingNormal of relu",
      draw: (x) => init.kaimingNormal(x, { a: 2, nonlinearity: "relu" }),
      std: root2 / Math.sqrt(fanIn),
      uniform: false,
    },
  ];
  it.each(cases)("$name", async ({ draw, std, uniform }) => {
    const m = await drawn(shape, draw);
    expect(Math.abs(m.mean)).toBeLessThan(0.02 * std);
    expect(m.std / std).toBeCloseTo(1, 1.7);
    const bound = Math.sqrt(3) * std;
    if (uniform) {
      expect(Math.max(-m.min, m.max)).toBeLessThanOrEqual(bound * 1.000001);
      expect(Math.min(-m.min, m.max)).toBeGreaterThan(0.99 * bound);
    } else expect(m.max).toBeGreaterThan(1.05 * bound);
  });

  // Mean and deviation of the truncated normal distribution
  it.each([
    { options: {}, mean: 0, std: 0.8796, low: -2, high: 2 },
    { options: { mean: 1, std: 2, a: 0, b: 4 }, mean: 1.7125, std: 1.0584, low: 0, high: 4 },
    { options: { a: 3, b: 9 }, mean: 3.2831, std: 0.2656, low: 3, high: 9 },
    { options: { a: -9, b: -3 }, mean: -3.2831, std: 0.2656, low: -9, high: -3 },
    { options: { std: 0.02 }, mean: 0, std: 0.02, low: -2, high: 2 },
  ])("truncNormal of $options", async ({ options, mean, std, low, high }) => {
    const m = await drawn([300, 301], (x) => init.truncNormal(x, options));
    expect(Math.abs(m.mean - mean)).toBeLessThan(0.02 * std);
    expect(m.std / std).toBeCloseTo(1, 1.7);
    expect(m.min).toBeGreaterThanOrEqual(low);
    expect(m.max).toBeLessThanOrEqual(high);
  });

  it("follow the seed", async () => {
    const twice = async (draw: (x: Tensor) => Tensor) => {
      const run = async () => {
        manualSeed(5);
        return (await draw(empty([7, 9])).data()) as Float32Array;
      };
      return [await run(), await run(), (await draw(empty([7, 9])).data()) as Float32Array] as const;
    };
    for (const draw of [init.truncNormal, init.orthogonal, init.kaimingNormal, (x: Tensor) => init.sparse(x, 0.5)]) {
      const [a, b, c] = await twice((x) => draw(x));
      expect(a).toEqual(b);
      expect(a).not.toEqual(c);
    }
  });
});

describe("constants", () => {
  it("fill as PyTorch does", async () => {
    const values = async (x: Tensor) => [...(await x.data())];
    expect(await values(init.constant(empty([3]), 2.5))).toEqual([2.5, 2.5, 2.5]);
    expect(await values(init.ones(empty([2])))).toEqual([1, 1]);
    expect(await values(init.zeros(full([2], 9)))).toEqual([0, 0]);
    expect(await values(init.eye(full([2, 3], 9)))).toEqual([1, 0, 0, 0, 1, 0]);
    // torch.nn.init.dirac_ on [3, 2, 3], and on [4, 2, 2, 3] with groups 2
    const line = await values(init.dirac(full([3, 2, 3], 9)));
    expect(line.flatMap((v, i) => (v === 1 ? i : []))).toEqual([1, 10]);
    const plane = await values(init.dirac(full([4, 2, 2, 3], 9), 2));
    expect(plane.flatMap((v, i) => (v === 1 ? i : []))).toEqual([4, 22, 28, 46]);
    expect(plane.filter((v) => v === 0).length).toBe(44);
  });
});

describe("orthogonal", () => {
  it.each([
    [1, 1],
    [3, 5],
    [40, 40],
    [67, 12],
    [6, 4, 3],
    [2, 300],
  ])("has orthonormal rows or columns: %j", async (...shape) => {
    const sizes = shape.filter((d) => typeof d === "number");
    const x = init.orthogonal(empty(sizes), 2);
    const [rows, cols] = [sizes[0]!, x.size / sizes[0]!];
    const q = mul(x.reshape([rows, cols]), 0.5);
    const gram = rows <= cols ? matmul(q, q, { transposeB: true }) : matmul(q, q, { transposeA: true });
    const n = Math.min(rows, cols);
    const identity = Float32Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0));
    expect(mixedError(await gram.data(), identity)).toBeLessThan(5e-6);
  });

  it("is uniform over the orthogonal matrices", async () => {
    // Of 2×2 matrices: the first column's angle is uniform, and half of the determinants are negative.
    let [reflections, quadrants] = [0, [0, 0, 0, 0]];
    manualSeed(1);
    const all = await Promise.all(Array.from({ length: 60 }, () => init.orthogonal(empty([2, 2])).data()));
    for (const [a, b, c, d] of all as Iterable<[number, number, number, number]>) {
      reflections += Number(a * d - b * c < 0);
      quadrants[Math.floor((Math.atan2(c, a) / Math.PI + 1) * 2) % 4]!++;
    }
    expect(Math.abs(reflections - 30)).toBeLessThan(16);
    for (const count of quadrants) expect(Math.abs(count - 15)).toBeLessThan(13);
  });

  if (hasF16)
    it("computes in f32, under autocast too", async () => {
      const q = autocast("f16", () => init.orthogonal(empty([8, 8])));
      const identity = Float32Array.from({ length: 64 }, (_, i) => (i % 9 === 0 ? 1 : 0));
      expect(mixedError(await matmul(q, q, { transposeA: true }).data(), identity)).toBeLessThan(5e-6);
      const half = init.orthogonal(empty([8, 8], { dtype: "f16" }));
      expect(mixedError(await matmul(half, half, { transposeA: true }).data(), identity)).toBeLessThan(5e-3);
      const near = await init.truncNormal(empty([500], { dtype: "f16" })).data();
      expect(moments(near).max).toBeLessThanOrEqual(2);
      expect(moments(near).std).toBeGreaterThan(0.7);
    });
});

describe("sparse", () => {
  it.each([
    { rows: 30, cols: 7, sparsity: 0.25 },
    { rows: 1, cols: 3, sparsity: 0 },
    { rows: 5, cols: 2, sparsity: 1 },
  ])("has zeros in each column: $sparsity of $rows", async ({ rows, cols, sparsity }) => {
    const data = await init.sparse(empty([rows, cols]), sparsity, 2).data();
    const places = Array.from({ length: cols }, (_, c) =>
      Array.from({ length: rows }, (_, r) => r).filter((r) => data[r * cols + c] === 0),
    );
    for (const zeros of places) expect(zeros.length).toBe(Math.ceil(sparsity * rows));
    if (rows === 30) {
      expect(new Set(places.map(String)).size).toBe(cols);
      expect(moments([...data].filter((v) => v !== 0)).std).toBeGreaterThan(1.5);
    }
  });
});

describe("init", () => {
  it("calculates PyTorch's gains", () => {
    expect(
      ["linear", "conv2d", "conv_transpose3d", "sigmoid"].map((name) => init.calculateGain(name as "linear")),
    ).toEqual([1, 1, 1, 1]);
    expect(init.calculateGain("tanh")).toBeCloseTo(1.6666666666666667, 12);
    expect(init.calculateGain("relu")).toBeCloseTo(Math.SQRT2, 12);
    expect(init.calculateGain("leaky_relu")).toBeCloseTo(1.4141428569978354, 12);
    expect(init.calculateGain("leakyRelu", 0.2)).toBeCloseTo(1.3867504905630728, 12);
    expect(init.calculateGain("selu")).toBe(0.75);
    expect(() => init.calculateGain("gelu" as "relu")).toThrow(
      'calculateGain: nonlinearity is "gelu", expected linear',
    );
  });

  it("overwrites parameters, off the tape, and keeps them", async () => {
    const layer = new Linear(4, 3);
    for (const draw of [init.orthogonal, init.eye, init.truncNormal, init.xavierNormal, init.zeros]) draw(layer.weight);
    expect([layer.weight.requiresGrad, layer.weight.node]).toEqual([true, null]);
    expect([...(await layer.weight.data())]).toEqual(Array(12).fill(0));
  });

  it("names what is wrong", () => {
    const result = mul(tensor([[1, 2]], { requiresGrad: true }), 2);
    const cases: [run: () => unknown, message: string][] = [
      [() => init.zeros(result), "constant: cannot overwrite the result of an operation that is on the tape"],
      [() => init.eye(result), "eye: cannot overwrite the result of an operation that is on the tape"],
      [() => init.constant(empty([2], { dtype: "i32" }), 1), "constant: expected an f32 or f16 tensor, got i32"],
      [() => init.eye(empty([2])), "eye: shape [2], expected 2 axes"],
      [() => init.dirac(empty([2, 2])), "dirac: shape [2,2], expected 3, 4 or 5 axes"],
      [() => init.dirac(empty([3, 2, 1]), 2), "dirac: groups is 2, expected a divisor of the 3 output channels"],
      [() => init.xavierUniform(empty([3])), "xavierUniform: shape [3], expected at least two axes, [out, in, …]"],
      [
        () => init.kaimingNormal(empty([3, 2]), { mode: "fan" as "fanIn" }),
        'kaimingNormal: mode is "fan", expected fanIn or fanOut',
      ],
      [() => init.orthogonal(empty([3])), "orthogonal: shape [3], expected at least two axes"],
      [() => init.sparse(empty([3]), 0.1), "sparse: shape [3], expected 2 axes"],
      [() => init.sparse(empty([3, 3]), 2), "sparse: sparsity is 2, expected a fraction from 0 to 1"],
      [() => init.truncNormal(empty([3]), { std: 0 }), "truncNormal: std is 0, expected a number above 0"],
      [() => init.truncNormal(empty([3]), { a: 2, b: 1 }), "truncNormal: a is 2 and b 1, expected a below b"],
    ];
    for (const [run, message] of cases) expect(run).toThrow(message);
  });
});
