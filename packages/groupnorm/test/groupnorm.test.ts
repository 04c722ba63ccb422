import {
  add,
  autocast,
  capture,
  cast,
  clearGrad,
  type FloatType,
  mul,
  type Shape,
  type Tensor,
  tensor,
} from "@kindling/core";
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
import { type GroupNormReferenceOptions, groupNormReference } from "../src/groupnorm.reference.ts";
import { GroupNorm, groupNorm, InstanceNorm1d, InstanceNorm2d, instanceNorm } from "../src/groupnorm.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const fixtureFile = new URL("./groupnorm.safetensors", import.meta.url);

const sizeOf = (shape: Shape): number => shape.reduce((n, d) => n * d, 1);
const folded = (shape: Shape): [number, number, number] => [shape[0]!, shape[1]!, sizeOf(shape.slice(2))];

/** Errors of y and the gradients of x, weight and bias. */
const errors = (shape: Shape, groups: number, dtype: FloatType = "f32"): Promise<number[]> =>
  layerErrors({
    inputs: [shape, [shape[1]!], [shape[1]!]],
    dtype,
    run: (x, weight, bias) => groupNorm(x!, groups, { weight, bias, eps: 1e-3 }),
    reference: ([x, weight, bias], dy) => {
      const options = { weight, bias, eps: 1e-3 } as GroupNormReferenceOptions;
      const { y, dx, dw, db } = groupNormReference(x!, folded(shape), groups, dy, options);
      return { y, grads: [dx, dw, db] };
    },
  });

/** y = norm(x + residual) + 2 (x + residual): both outputs have a reader. */
const residualErrors = (shape: Shape, groups: number, dtype: FloatType = "f32"): Promise<number[]> =>
  layerErrors({
    inputs: [shape, shape, [shape[1]!], [shape[1]!]],
    dtype,
    run: (x, residual, weight, bias) => {
      const { output, sum } = groupNorm(x!, groups, { weight, bias, residual: residual!, eps: 1e-3 });
      return add(output, mul(sum, 2));
    },
    reference: ([x, r, weight, bias], dy) => {
      const s = Float64Array.from(x!, (v, i) => v + r![i]!);
      const options = { weight, bias, eps: 1e-3 } as GroupNormReferenceOptions;
      const { y, dx, dw, db } = groupNormReference(s, folded(shape), groups, dy, options);
      const ds = dx.map((v, i) => v + 2 * dy[i]!);
      return { y: y.map((v, i) => v + 2 * s[i]!), grads: [ds, ds, dw, db] };
    },
  });

/** As a GPU would run it: with rows in registers, in backward too. */
async function onGpu<T>(run: () => Promise<T>): Promise<T> {
  const { software } = device;
  device.software = false;
  try {
    return await run();
  } finally {
    device.software = software;
  }
}

// two values; channels without space; vec4s in several channels; odd sizes; a group of all channels and of one; rows that
// many threads share, in vectors and in scalars; many rows
const shapes: [Shape, number][] = [
  [[1, 1, 2], 1],
  [[3, 12], 3],
  [[2, 8, 7], 2],
  [[2, 6, 5, 3], 6],
  [[2, 3, 67], 1],
  [[2, 10, 4, 4], 5],
  [[1, 4, 31, 33], 2],
  [[2, 4, 32, 32], 2],
  [[1, 1, 4097], 1],
  [[9000, 4, 3], 2],
];

describe("groupNorm", () => {
  it.each(shapes.map(([shape, groups]) => ({ shape, groups })))(
    "matches the reference on $shape in $groups groups",
    async ({ shape, groups }) => {
      expect(Math.max(...(await errors(shape, groups)))).toBeLessThan(2e-5);
    },
  );

  it.each([
    { shape: [2, 6, 17], groups: 3 },
    { shape: [2, 4, 8, 9], groups: 2 },
  ])("adds a residual on $shape", async ({ shape, groups }) => {
    expect(Math.max(...(await residualErrors(shape, groups)))).toBeLessThan(2e-5);
  });

  // several rows in a workgroup and threads to spare; 3 elements each; more channels than backward holds; chunks of a row
  it.each([
    { shape: [5, 12, 4, 4], groups: 4 },
    { shape: [2, 4, 13, 13], groups: 2 },
    { shape: [1, 65, 2, 2], groups: 1 },
    { shape: [1, 3, 683], groups: 1 },
  ])("normalizes $shape in $groups groups as it does on a GPU", async ({ shape, groups }) => {
    expect(Math.max(...(await onGpu(() => residualErrors(shape, groups))))).toBeLessThan(2e-5);
  });

  // f16 holds 11 bits: y and dx are off by half a unit in the last place, sums over a channel stay as exact as their result
  if (hasF16)
    it.each([
      { shape: [2, 6, 17], groups: 3 },
      { shape: [2, 4, 8, 9], groups: 2 },
    ])("matches the reference on $shape in f16", async ({ shape, groups }) => {
      expect(Math.max(...(await errors(shape, groups, "f16")))).toBeLessThan(2e-3);
    });

  it("keeps its precision far from zero", async () => {
    for (const size of [60, 2000]) {
      const x = randomValues(size).map((v) => 1000 + v);
      const { y } = groupNormReference(x, [1, 2, size / 2], 1, x);
      const found = await groupNorm(tensor(x, { shape: [1, 2, size / 2] }), 1).data();
      expect(mixedError(found, y)).toBeLessThan(1e-3);
    }
  });

  it("computes only the gradients that are wanted", async () => {
    const [a, b, dy] = [randomValues(48, 1), randomValues(48, 2), randomValues(48, 3)];
    const w = [1, 2, 3, 4];
    const s = Float64Array.from(a, (v, i) => v + b[i]!);
    const { dx, dw, db } = groupNormReference(s, [2, 4, 6], 2, dy, { weight: w });
    const expected = { x: dx, residual: dx, weight: dw, bias: db };
    const upstream = tensor(dy, { shape: [2, 4, 6] });
    const leaves = (wanted: (name: string) => boolean) => ({
      x: tensor(a, { shape: [2, 4, 6], requiresGrad: wanted("x") }),
      residual: tensor(b, { shape: [2, 4, 6], requiresGrad: wanted("residual") }),
      weight: tensor(w, { requiresGrad: wanted("weight") }),
      bias: tensor([0, 0, 0, 0], { requiresGrad: wanted("bias") }),
    });
    for (const wanted of ["x", "residual", "weight", "bias"] as const) {
      const { x, ...options } = leaves((name) => name === wanted);
      groupNorm(x, 2, options).output.backward(upstream);
      for (const [name, { grad }] of Object.entries({ x, ...options }))
        expect(grad !== null, `${name}, wanted ${wanted}`).toBe(name === wanted);
      expect(mixedError(await { x, ...options }[wanted].grad!.data(), expected[wanted])).toBeLessThan(1e-5);
    }

    // only the sum is read
    const { x, ...options } = leaves(() => true);
    groupNorm(x, 2, options).sum.backward(upstream);
    for (const leaf of [x, options.residual]) expect(await leaf.grad!.data()).toEqual(dy);
    expect(options.weight.grad).toBe(null);

    // the same tensor twice, and neither weight nor bias
    const twice = tensor(a, { shape: [2, 4, 6], requiresGrad: true });
    groupNorm(twice, 2, { residual: twice }).output.backward(upstream);
    const doubled = groupNormReference(
      a.map((v) => 2 * v),
      [2, 4, 6],
      2,
      dy,
    ).dx.map((v) => 2 * v);
    expect(mixedError(await twice.grad!.data(), doubled)).toBeLessThan(1e-5);
  });

  if (hasF16)
    it("gives f32 under autocast, and an f32 sum of two dtypes", async () => {
      const x = tensor(randomValues(12), { shape: [1, 4, 3], dtype: "f16", requiresGrad: true });
      expect(autocast("f16", () => groupNorm(x, 2)).dtype).toBe("f32");
      expect(groupNorm(x, 2).dtype).toBe("f16");
      expect(autocast("f16", () => instanceNorm(x)).dtype).toBe("f16");
      const residual = tensor(randomValues(12, 2), { shape: [1, 4, 3], requiresGrad: true });
      const { output, sum } = groupNorm(x, 2, { residual });
      expect([output.dtype, sum.dtype]).toEqual(["f32", "f32"]);
      output.backward(sum.detach());
      expect([x.grad!.dtype, residual.grad!.dtype]).toEqual(["f16", "f32"]);
    });

  it("gives the same bits each time", async () => {
    const results = await Promise.all(
      [1, 2].map(async () => {
        const x = tensor(randomValues(9000), { shape: [3, 6, 500], requiresGrad: true });
        const [weight, bias] = [2, 3].map((seed) => tensor(randomValues(6, seed), { requiresGrad: true }));
        const y = groupNorm(x, 3, { weight, bias });
        y.backward(tensor(randomValues(9000, 4), { shape: [3, 6, 500] }));
        return Promise.all([y, x.grad!, weight!.grad!, bias!.grad!].map((t) => t.data()));
      }),
    );
    expect(results[0]).toEqual(results[1]);
  });

  it("has a reference whose gradient is right", () => {
    const shape = [2, 4, 3] as const;
    const [x, dy, weight, bias] = [randomValues(24, 1), randomValues(24, 2), randomValues(4, 3), randomValues(4, 4)];
    for (const running of [null, { mean: randomValues(4, 5), variance: [1, 2, 3, 4] }]) {
      const groups = running ? 4 : 2;
      const options = { weight, bias, running };
      const { dx, dw, db } = groupNormReference(x, shape, groups, dy, options);
      const loss = (given: ArrayLike<number>, more: GroupNormReferenceOptions): number =>
        groupNormReference(given, shape, groups, dy, { ...options, ...more }).y.reduce(
          (sum, v, i) => sum + v * dy[i]!,
          0,
        );
      expect(
        mixedError(
          finiteDifferences((v) => loss(v, {}), x),
          dx,
        ),
      ).toBeLessThan(1e-6);
      expect(
        mixedError(
          finiteDifferences((v) => loss(x, { weight: v }), weight),
          dw,
        ),
      ).toBeLessThan(1e-7);
      expect(
        mixedError(
          finiteDifferences((v) => loss(x, { bias: v }), bias),
          db,
        ),
      ).toBeLessThan(1e-7);
    }
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(24), { shape: [2, 4, 3] });
    const [four, three] = [tensor([1, 2, 3, 4]), tensor([1, 2, 3])];
    const ids = tensor([1, 2, 3, 4], { dtype: "i32" });
    expect(() => groupNorm(ids, 1)).toThrow("groupNorm: x is i32, expected f32 or f16");
    expect(() => groupNorm(four, 1)).toThrow("groupNorm: x has shape [4], expected [batch, channels, ...]");
    for (const groups of [3, 0, 0.5])
      expect(() => groupNorm(x, groups)).toThrow(
        `groupNorm: x has shape [2,4,3], expected channels divisible by numGroups ${groups}`,
      );
    expect(() => groupNorm(four.reshape([1, 4]), 4)).toThrow(
      "groupNorm: x has shape [1,4], expected more than 1 value per group",
    );
    expect(() => groupNorm(x, 2, { weight: three })).toThrow("groupNorm: weight has shape [3], expected [4]");
    expect(() => groupNorm(x, 2, { bias: ids })).toThrow("groupNorm: bias is i32, expected f32 or f16");
    expect(() => groupNorm(x, 2, { residual: four })).toThrow("groupNorm: residual has shape [4], expected [2,4,3]");
    expect(() => groupNorm(x, 2, { residual: ids })).toThrow("groupNorm: residual is i32, expected f32 or f16");
    expect(() => new GroupNorm(3, 4)).toThrow(
      "GroupNorm: numChannels is 4, expected channels divisible by numGroups 3",
    );
    expect(() => instanceNorm(x, { runningMean: four })).toThrow(
      "instanceNorm: runningMean or runningVar is missing, expected both, or none with useInputStats",
    );
    expect(() => instanceNorm(x, { useInputStats: false })).toThrow(
      "instanceNorm: runningMean or runningVar is missing, expected both, or none with useInputStats",
    );
    expect(() => instanceNorm(x.reshape([6, 4, 1]))).toThrow(
      "instanceNorm: x has shape [6,4,1], expected more than 1 value per channel",
    );
    expect(() => new InstanceNorm1d(4).forward(four)).toThrow(
      "InstanceNorm1d: x has shape [4], expected [C, L] or [N, C, L]",
    );
    if (!hasF16) return;
    const half = cast(four, "f16");
    expect(() => groupNorm(x, 2, { weight: half, bias: four })).toThrow(
      "groupNorm: weight is f16 and bias f32, expected one dtype",
    );
    expect(() => instanceNorm(x, { runningMean: half, runningVar: four })).toThrow(
      "instanceNorm: runningMean is f16 and runningVar f32, expected one dtype",
    );
  });
});

describe("GroupNorm, InstanceNorm1d, InstanceNorm2d", () => {
  it("match PyTorch on every fixture", async () => {
    const running: Promise<number>[] = [];
    const { f32, f16 } = await fixtureErrors(fixtureFile, {
      groupNorm: ({ x, weight, bias, residual }, { numGroups, eps }) =>
        residual ? null : groupNorm(x!, numGroups!, { weight, bias, eps }),
      instanceNorm: (inputs, { useInputStats, momentum, eps }) => {
        const { x, weight, bias, running_mean: runningMean, running_var: runningVar } = inputs;
        const y = instanceNorm(x!, { weight, bias, runningMean, runningVar, useInputStats, momentum, eps });
        for (const name of ["running_mean", "running_var"] as const) {
          const [ours, theirs] = [inputs[name], inputs[`${name}_after`]];
          if (ours && theirs)
            running.push(Promise.all([ours.data(), theirs.data()]).then(([a, b]) => mixedError(a, b)));
        }
        return y;
      },
    });
    expect(f32.size).toBeGreaterThan(15);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
    expect(running.length).toBeGreaterThan(3);
    expect(Math.max(...(await Promise.all(running)))).toBeLessThan(1e-6);
  });

  it("match PyTorch on every fixture with a residual", async () => {
    let count = 0;
    for (const [name, t] of await fixtures(fixtureFile)) {
      if (!t.residual || (t.residual.dtype === "f16" && !hasF16)) continue;
      const { numGroups } = optionsOf(name, t) as { numGroups: number };
      const leaves = Object.fromEntries(
        ["x", "residual", "weight", "bias"].flatMap((key) => {
          const f = t[key];
          if (!f) return [];
          const leaf = tensor(Float32Array.from(f.values), { shape: f.shape, dtype: f.dtype, requiresGrad: true });
          return [[key, leaf]];
        }),
      ) as { x: Tensor; residual: Tensor; weight?: Tensor; bias?: Tensor };
      const { output, sum } = groupNorm(leaves.x, numGroups, leaves);
      const upstream = [t.dy!, t.dsum!].map(({ values, shape, dtype }) =>
        tensor(Float32Array.from(values), { shape, dtype }),
      );
      // one backward for both outputs: the sum of their products with what comes from above
      const root = add(mul(output, upstream[0]!), mul(sum, upstream[1]!));
      root.backward(tensor(new Float32Array(root.size).fill(1), { shape: root.shape, dtype: root.dtype }));
      const tolerance = t.residual.dtype === "f16" ? 4e-3 : 1e-5;
      expect(mixedError(await output.data(), t.y!.values), name).toBeLessThan(tolerance);
      expect(mixedError(await sum.data(), t.sum!.values), name).toBeLessThan(tolerance);
      for (const [key, leaf] of Object.entries(leaves))
        expect(mixedError(await leaf.grad!.data(), t[`d${key}`]!.values), `${name} d${key}`).toBeLessThan(tolerance);
      count++;
    }
    expect(count).toBe(hasF16 ? 3 : 2);
  });

  it("carry PyTorch's names and flags", () => {
    const names = (layer: GroupNorm | InstanceNorm1d): string[] =>
      Object.entries(layer.stateDict()).map(([name, t]) => `${name} ${t.dtype}[${t.shape}]`);
    const buffers = ["running_mean f32[4]", "running_var f32[4]", "num_batches_tracked i32[]"];
    expect(names(new GroupNorm(2, 4))).toEqual(["weight f32[4]", "bias f32[4]"]);
    expect(names(new GroupNorm(2, 4, { bias: false }))).toEqual(["weight f32[4]"]);
    expect(names(new GroupNorm(2, 4, { affine: false }))).toEqual([]);
    expect(names(new InstanceNorm1d(4))).toEqual([]);
    expect(names(new InstanceNorm1d(4, { affine: true, trackRunningStats: true }))).toEqual([
      "weight f32[4]",
      "bias f32[4]",
      ...buffers,
    ]);
    expect(`${new GroupNorm(2, 4)}`).toBe("GroupNorm(2, 4, eps=0.00001, affine=true)");
    expect(`${new InstanceNorm2d(4)}`).toBe(
      "InstanceNorm2d(4, eps=0.00001, momentum=0.1, affine=false, trackRunningStats=false)",
    );
  });

  it("take one sample or a batch, and a residual", async () => {
    const x = tensor(randomValues(24), { shape: [4, 6] });
    const one = new InstanceNorm1d(4).forward(x);
    const two = new InstanceNorm2d(4).forward(x.reshape([4, 2, 3]));
    const batch = new InstanceNorm1d(9).forward(x.reshape([1, 4, 6]));
    expect([one.shape, two.shape, batch.shape]).toEqual([
      [4, 6],
      [4, 2, 3],
      [1, 4, 6],
    ]);
    expect(await one.data()).toEqual(await batch.data());
    expect(await two.data()).toEqual(await batch.data());
    const { output, sum } = new GroupNorm(4, 4).forward(x.reshape([1, 4, 6]), x.reshape([1, 4, 6]));
    expect(mixedError(await output.data(), await one.data())).toBeLessThan(1e-4);
    expect(await sum.data()).toEqual((await x.data()).map((v) => 2 * v));
  });

  it("track statistics, captured and replayed too, and use them after eval()", async () => {
    const shape: [number, number, number] = [3, 4, 10];
    const layers = [1, 2].map(() => new InstanceNorm1d(4, { momentum: 0.3, affine: true, trackRunningStats: true }));
    const [eager, replayed] = layers as [InstanceNorm1d, InstanceNorm1d];
    const train = (layer: InstanceNorm1d) => (x: Tensor) => {
      for (const p of layer.parameters()) clearGrad(p);
      const y = layer.forward(x);
      y.backward(x);
      return y;
    };
    const step = capture(train(replayed));
    const [mean, variance] = [new Float64Array(4), new Float64Array(4).fill(1)];
    for (const seed of [1, 2, 3]) {
      const values = randomValues(120, seed);
      const x = tensor(values, { shape });
      const y = await train(eager)(x).data();
      expect(await step(x).data()).toEqual(y);
      const batch = groupNormReference(values, shape, 4, values);
      for (let c = 0; c < 4; c++) {
        const average = (rows: Float64Array): number => (rows[c]! + rows[c + 4]! + rows[c + 8]!) / 3;
        mean[c] = mean[c]! * 0.7 + average(batch.mean) * 0.3;
        variance[c] = variance[c]! * 0.7 + average(batch.variance) * (10 / 9) * 0.3;
      }
    }
    for (const layer of layers) {
      expect(mixedError(await layer.running_mean!.data(), mean)).toBeLessThan(1e-6);
      expect(mixedError(await layer.running_var!.data(), variance)).toBeLessThan(1e-6);
      expect(await layer.num_batches_tracked!.item()).toBe(0);
    }
    step.dispose();

    const [values, dy] = [randomValues(120, 4), randomValues(120, 5)];
    const x = tensor(values, { shape, requiresGrad: true });
    clearGrad(eager.weight!);
    clearGrad(eager.bias!);
    const y = eager.eval().forward(x);
    y.backward(tensor(dy, { shape }));
    const expected = groupNormReference(values, shape, 4, dy, { running: { mean, variance } });
    expect(mixedError(await y.data(), expected.y)).toBeLessThan(1e-5);
    expect(mixedError(await x.grad!.data(), expected.dx)).toBeLessThan(1e-5);
    expect(mixedError(await eager.weight!.grad!.data(), expected.dw)).toBeLessThan(1e-5);
    expect(mixedError(await eager.bias!.grad!.data(), expected.db)).toBeLessThan(1e-5);
    expect(mixedError(await eager.running_mean!.data(), mean)).toBeLessThan(1e-6);

    const still = new InstanceNorm1d(4, { momentum: null, trackRunningStats: true });
    still.forward(x);
    expect([...(await still.running_mean!.data())]).toEqual([0, 0, 0, 0]);
    eager.resetRunningStats();
    expect([...(await eager.running_var!.data())]).toEqual([1, 1, 1, 1]);
  });
});
