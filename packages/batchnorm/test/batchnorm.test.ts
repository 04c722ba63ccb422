import { gelu, relu } from "@kindling/activations";
import { activationReference } from "@kindling/activations/reference";
import {
  autocast,
  capture,
  cast,
  clearGrad,
  type FloatType,
  type Pointwise,
  type Shape,
  type Tensor,
  tensor,
  zeros,
} from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { type BatchNormReferenceOptions, batchNormReference } from "../src/batchnorm.reference.ts";
import { BatchNorm1d, BatchNorm2d, BatchNorm3d, type BatchNormOptions, batchNorm } from "../src/batchnorm.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");

const sizeOf = (shape: Shape): number => shape.reduce((n, d) => n * d, 1);
const folded = (shape: Shape): [number, number, number] => [shape[0]!, shape[1]!, sizeOf(shape.slice(2))];

/** f32 values that an f16 tensor holds too. */
const coarse = (values: Float32Array): Float32Array<ArrayBuffer> =>
  Float32Array.from(values, (v) => Math.round(v * 256) / 256);

interface Setting {
  activation?: Pointwise | null;
  residual?: boolean;
  training?: boolean;
  eps?: number;
  dtype?: FloatType;
}

/** Errors of y and the gradients of x, weight, bias and the residual. */
function errors(
  shape: Shape,
  { activation, residual, training = true, eps = 1e-3, dtype }: Setting = {},
): Promise<number[]> {
  const channels = [shape[1]!];
  const mean = coarse(randomValues(channels[0]!, 7));
  const variance = coarse(randomValues(channels[0]!, 8)).map((v) => v + 2);
  const reference = activation ? activationReference(activation.name) : null;
  return layerErrors({
    inputs: [shape, channels, channels, ...(residual ? [shape] : [])],
    ...(dtype && { dtype }),
    run: (x, weight, bias, r) =>
      batchNorm(x!, {
        ...{ weight, bias, residual: r, activation, training, eps },
        ...(!training && { runningMean: tensor(mean), runningVar: tensor(variance) }),
      }),
    reference: ([x, weight, bias, r], dy) => {
      const running = training ? null : { mean, variance };
      const options = { weight, bias, residual: r, running, eps, activation: reference } as BatchNormReferenceOptions;
      const { y, dx, dw, db, dresidual } = batchNormReference(x!, folded(shape), dy, options);
      return { y, grads: [dx, dw, db, ...(residual ? [dresidual] : [])] };
    },
  });
}

/** As a GPU would run it: with workgroups that share a channel. */
async function onGpu<T>(run: () => Promise<T>): Promise<T> {
  const { software } = device;
  device.software = false;
  try {
    return await run();
  } finally {
    device.software = software;
  }
}

// two values; odd sizes; vec4s in one channel and across several; more than one chunk; more elements than a workgroup takes;
// more channels than a workgroup merges
const shapes: Shape[] = [
  [2, 1],
  [1, 1, 3],
  [3, 67],
  [67, 3],
  [1000, 5],
  [2, 5, 4],
  [3, 2, 7, 7],
  [4, 257, 2, 2],
  [2, 3, 2, 3, 5],
  [5, 3, 29, 36],
  [2, 3000],
];

describe("batchNorm", () => {
  it.each(shapes.map((shape) => ({ shape })))("matches the reference on $shape", async ({ shape }) => {
    expect(Math.max(...(await errors(shape)))).toBeLessThan(2e-5);
  });

  it.each([
    { activation: relu, residual: true, training: true },
    { activation: relu, residual: true, training: false },
    { activation: gelu, residual: false, training: true },
    { activation: gelu, residual: false, training: false },
    { activation: null, residual: true, training: true },
    { activation: null, residual: false, training: false },
  ])("fuses $activation.name, residual $residual, training $training", async (setting) => {
    expect(Math.max(...(await errors([5, 3, 29, 36], setting)))).toBeLessThan(2e-5);
  });

  // f16 holds 11 bits: y, dx and the residual's gradient are off by half a unit in the last place
  if (hasF16)
    it("matches the reference in f16", async () => {
      const error = await errors([4, 5, 4, 5], { activation: relu, residual: true, dtype: "f16" });
      expect(Math.max(...error)).toBeLessThan(2e-3);
    });

  // a workgroup for a chunk, of vec4s and of single elements; 32 chunks in a workgroup, and more than 64 to merge
  it.each([
    { shape: [3, 2, 46, 46], setting: { activation: relu, residual: true } },
    { shape: [9, 2, 33, 33], setting: {} },
    { shape: [3000, 3], setting: {} },
  ])("matches the reference on $shape with the kernels of a GPU", async ({ shape, setting }) => {
    expect(Math.max(...(await onGpu(() => errors(shape, setting))))).toBeLessThan(2e-5);
  });

  it("computes only the gradients that are wanted", async () => {
    const shapes = { x: [4, 3, 8], weight: [3], bias: [3], residual: [4, 3, 8] };
    const names = ["x", "weight", "bias", "residual"] as const;
    const values = Object.fromEntries(names.map((name, i) => [name, randomValues(sizeOf(shapes[name]), i)])) as Record<
      (typeof names)[number],
      Float32Array<ArrayBuffer>
    >;
    const running = { mean: randomValues(3, 5), variance: randomValues(3, 6).map((v) => v + 2) };
    const dy = randomValues(96, 7);
    for (const training of [true, false]) {
      const options = { ...values, running: training ? null : running, activation: activationReference("relu") };
      const { dx, dw, db, dresidual } = batchNormReference(values.x, [4, 3, 8], dy, options);
      const expected = { x: dx, weight: dw, bias: db, residual: dresidual };
      for (const wanted of names) {
        const [x, weight, bias, residual] = names.map((name) =>
          tensor(values[name], { shape: shapes[name], requiresGrad: name === wanted }),
        ) as [Tensor, Tensor, Tensor, Tensor];
        const y = batchNorm(x, {
          ...{ weight, bias, residual, training, activation: relu },
          ...(!training && { runningMean: tensor(running.mean), runningVar: tensor(running.variance) }),
        });
        y.backward(tensor(dy, { shape: shapes.x }));
        for (const [name, { grad }] of Object.entries({ x, weight, bias, residual }))
          expect(grad !== null, `${name}, wanted ${wanted}`).toBe(name === wanted);
        const { grad } = { x, weight, bias, residual }[wanted];
        expect(mixedError(await grad!.data(), expected[wanted])).toBeLessThan(1e-5);
      }
    }
  });

  it("returns what it borrows", () => {
    const layer = new BatchNorm1d(3, { activation: relu, affine: false });
    const x = tensor(randomValues(96), { shape: [4, 3, 8], requiresGrad: true });
    for (const training of [true, false]) {
      layer.train(training);
      const y = layer.forward(x, x.detach());
      const before = device.live.tensors;
      const dy = x.detach();
      y.backward(dy);
      dy.dispose();
      clearGrad(x);
      // the statistics that the backward packs belong to the scope around it
      expect(device.live.tensors - before).toBe(training ? 0 : 1);
    }
  });

  it("keeps its precision far from zero", async () => {
    const shape = [3, 2, 46, 46];
    const x = randomValues(sizeOf(shape)).map((v) => 1000 + v);
    const { y, variance } = batchNormReference(x, folded(shape), x);
    const [runningMean, runningVar] = [zeros([2]), zeros([2])];
    const run = (options: BatchNormOptions): Promise<ArrayLike<number>> =>
      batchNorm(tensor(x, { shape }), { training: true, ...options }).data();
    expect(mixedError(await run({ momentum: 1, runningMean, runningVar }), y)).toBeLessThan(2e-4);
    expect(mixedError(await runningVar.data(), variance)).toBeLessThan(5e-6);
    expect(mixedError(await onGpu(() => run({})), y)).toBeLessThan(2e-4);

    // one value far from all others, in a channel's first place
    const spike = randomValues(4096).fill(1e4, 0, 1);
    const expected = batchNormReference(spike, [1, 2, 2048], spike).variance;
    batchNorm(tensor(spike, { shape: [1, 2, 2048] }), { training: true, momentum: 1, runningMean, runningVar });
    const found = await runningVar.data();
    for (const c of [0, 1]) expect(found[c]! / expected[c]!).toBeCloseTo(1, 4);
  });

  it("gives the same bits each time", async () => {
    const results = await Promise.all(
      [1, 2].map(async () => {
        const x = tensor(randomValues(18000), { shape: [3000, 6], requiresGrad: true });
        const weight = tensor(randomValues(6), { requiresGrad: true });
        const y = batchNorm(x, { weight, training: true });
        y.backward(tensor(randomValues(18000, 2), { shape: [3000, 6] }));
        return Promise.all([y.data(), x.grad!.data(), weight.grad!.data()]);
      }),
    );
    expect(results[0]).toEqual(results[1]);
  });

  if (hasF16)
    it("keeps the dtype of x, under autocast too, beside parameters of f32", async () => {
      const layer = new BatchNorm1d(5);
      const x = cast(tensor(randomValues(60), { shape: [12, 5] }), "f16");
      x.requiresGrad = true;
      const y = autocast("f16", () => layer.forward(x));
      const exact = autocast("f16", () => layer.forward(cast(x, "f32")));
      expect([y.dtype, exact.dtype]).toEqual(["f16", "f32"]);
      expect(mixedError(await y.data(), await exact.data())).toBeLessThan(1e-3);
      y.backward(cast(exact.detach(), "f16"));
      expect([x.grad!.dtype, layer.weight!.grad!.dtype, layer.running_var!.dtype]).toEqual(["f16", "f32", "f32"]);
      expect(layer.eval().forward(x).dtype).toBe("f16");
      layer.train().to("f16").forward(x);
      expect(layer.running_var!.dtype).toBe("f16");
      expect(layer.num_batches_tracked!.dtype).toBe("i32");
    });

  it("matches PyTorch on every fixture", async () => {
    const running: Promise<number>[] = [];
    const { f32, f16 } = await fixtureErrors(new URL("./batchnorm.safetensors", import.meta.url), {
      batchNorm: (inputs, { training, momentum, eps, activation }) => {
        const { x, weight, bias, residual, running_mean: runningMean, running_var: runningVar } = inputs;
        const y = batchNorm(x!, {
          ...{ weight, bias, residual, runningMean, runningVar, numBatchesTracked: inputs.num_batches_tracked },
          ...{ training, momentum, eps, activation: activation === "relu" ? relu : null },
        });
        for (const name of ["running_mean", "running_var"] as const) {
          const [ours, theirs] = [inputs[name], inputs[`${name}_after`]];
          if (!ours || !theirs) continue;
          const tolerance = ours.dtype === "f16" ? 1e-3 : 1e-6;
          running.push(Promise.all([ours.data(), theirs.data()]).then(([a, b]) => mixedError(a, b) / tolerance));
        }
        return y;
      },
    });
    expect(f32.size).toBeGreaterThan(15);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-3);
    expect(running.length).toBeGreaterThan(16);
    expect(Math.max(...(await Promise.all(running)))).toBeLessThan(1);
  });

  it("has a reference whose gradient is right", () => {
    const shape = [2, 3, 3] as const;
    const activation = activationReference("gelu");
    const [x, dy, residual] = [randomValues(18, 1), randomValues(18, 2), randomValues(18, 3)];
    const [weight, bias] = [randomValues(3, 4), randomValues(3, 5)];
    for (const running of [null, { mean: randomValues(3, 6), variance: [1, 2, 3] }]) {
      const options = { weight, bias, residual, running, activation };
      const { dx, dw, db, dresidual } = batchNormReference(x, shape, dy, options);
      const loss = (given: ArrayLike<number>, more: BatchNormReferenceOptions): number =>
        batchNormReference(given, shape, dy, { ...options, ...more }).y.reduce((sum, v, i) => sum + v * dy[i]!, 0);
      const differences = {
        x: finiteDifferences((v) => loss(v, {}), x),
        weight: finiteDifferences((v) => loss(x, { weight: v }), weight),
        bias: finiteDifferences((v) => loss(x, { bias: v }), bias),
        residual: finiteDifferences((v) => loss(x, { residual: v }), residual),
      };
      expect(mixedError(differences.x, dx)).toBeLessThan(1e-7);
      expect(mixedError(differences.weight, dw)).toBeLessThan(1e-7);
      expect(mixedError(differences.bias, db)).toBeLessThan(1e-7);
      expect(mixedError(differences.residual, dresidual)).toBeLessThan(1e-7);
    }
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const [four, three] = [tensor([1, 2, 3, 4]), tensor([1, 2, 3])];
    const ids = tensor([1, 2, 3, 4], { dtype: "i32" });
    const fails = (options: BatchNormOptions, text: string, given = x): void =>
      expect(() => batchNorm(given, { training: true, ...options })).toThrow(`batchNorm: ${text}`);
    fails({}, "x is i32, expected f32 or f16", ids);
    fails({}, "x has shape [4], expected [batch, channels, ...]", four);
    fails({}, "x has shape [1,4], expected more than 1 value per channel when training", four.reshape([1, 4]));
    fails({ weight: ids }, "weight is i32, expected f32 or f16");
    fails({ bias: three }, "bias has shape [3], expected [4], the channels of x [3,4]");
    fails({ runningMean: four, runningVar: three }, "runningVar has shape [3], expected [4], the channels of x [3,4]");
    fails({ runningMean: four }, "runningMean or runningVar is missing, expected both, or neither when training");
    fails(
      { numBatchesTracked: three },
      "numBatchesTracked is Tensor([3], f32), expected one i32, which momentum null needs",
    );
    fails({ residual: four }, "residual is [4] f32, expected [3,4] f32 as x is");
    fails({ activation: {} as Pointwise }, "activation: expected { name, forward, backward }");
    fails({ training: false }, "runningMean or runningVar is missing, expected both, or neither when training");
    fails({ eps: 0 }, "eps is 0, expected more than 0 when training");
    fails(
      { runningMean: four, runningVar: four, momentum: null },
      "numBatchesTracked is null, expected one i32, which momentum null needs",
    );
    if (!hasF16) return;
    const half = cast(four, "f16");
    fails({ weight: half, bias: four }, "weight is f16 and bias f32, expected one dtype");
    fails({ runningMean: half, runningVar: four }, "runningMean is f16 and runningVar f32, expected one dtype");
    fails({ residual: cast(x, "f16") }, "residual is [3,4] f16, expected [3,4] f32 as x is");
  });
});

describe("BatchNorm1d, 2d, 3d", () => {
  it("carry PyTorch's names and flags", () => {
    const names = (layer: BatchNorm2d): string[] =>
      Object.entries(layer.stateDict()).map(([name, t]) => `${name} ${t.dtype}[${t.shape}]`);
    const buffers = ["running_mean f32[4]", "running_var f32[4]", "num_batches_tracked i32[]"];
    expect(names(new BatchNorm2d(4))).toEqual(["weight f32[4]", "bias f32[4]", ...buffers]);
    expect(names(new BatchNorm2d(4, { affine: false }))).toEqual(buffers);
    expect(names(new BatchNorm2d(4, { bias: false }))).toEqual(["weight f32[4]", ...buffers]);
    expect(names(new BatchNorm2d(4, { affine: false, trackRunningStats: false }))).toEqual([]);
    expect(new BatchNorm2d(4).parameters().length).toBe(2);
    expect(`${new BatchNorm2d(4)}`).toBe(
      "BatchNorm2d(4, eps=0.00001, momentum=0.1, affine=true, trackRunningStats=true)",
    );
    expect(`${new BatchNorm1d(4, { momentum: null, activation: relu })}`).toContain("momentum=null");
    expect(() => new BatchNorm1d(4, { activation: {} as Pointwise })).toThrow("BatchNorm1d: activation: expected");
  });

  it("take the layouts of their names", () => {
    const of = (...shape: number[]): Tensor => tensor(randomValues(sizeOf(shape)), { shape });
    expect(new BatchNorm1d(3).forward(of(2, 3)).shape).toEqual([2, 3]);
    expect(new BatchNorm1d(3).forward(of(2, 3, 5)).shape).toEqual([2, 3, 5]);
    expect(new BatchNorm2d(3).forward(of(2, 3, 5, 1)).shape).toEqual([2, 3, 5, 1]);
    expect(new BatchNorm3d(3).forward(of(1, 3, 5, 1, 2)).shape).toEqual([1, 3, 5, 1, 2]);
    expect(() => new BatchNorm1d(3).forward(of(2, 3, 5, 1))).toThrow(
      "BatchNorm1d: x has shape [2,3,5,1], expected [N, C] or [N, C, L]",
    );
    expect(() => new BatchNorm2d(3).forward(of(2, 3))).toThrow("BatchNorm2d: x has shape [2,3], expected [N, C, H, W]");
    expect(() => new BatchNorm3d(3).forward(of(2, 3))).toThrow(
      "BatchNorm3d: x has shape [2,3], expected [N, C, D, H, W]",
    );
  });

  it.each([{ momentum: 0.2 }, { momentum: null }])("track statistics with momentum $momentum", async ({ momentum }) => {
    const layer = new BatchNorm2d(3, { momentum, eps: 1e-6 });
    const batches = [1, 2, 3].map((seed) => randomValues(2 * 3 * 5 * 2, seed));
    const [mean, variance] = [new Float64Array(3), new Float64Array(3).fill(1)];
    batches.forEach((x, i) => {
      layer.forward(tensor(x, { shape: [2, 3, 5, 2] }));
      const batch = batchNormReference(x, [2, 3, 10], x);
      const m = momentum ?? 1 / (i + 1);
      for (let c = 0; c < 3; c++) {
        mean[c] = mean[c]! * (1 - m) + batch.mean[c]! * m;
        variance[c] = variance[c]! * (1 - m) + batch.variance[c]! * m;
      }
    });
    expect(await layer.num_batches_tracked!.item()).toBe(3);
    expect(mixedError(await layer.running_mean!.data(), mean)).toBeLessThan(1e-6);
    expect(mixedError(await layer.running_var!.data(), variance)).toBeLessThan(1e-6);

    const x = batches[0]!;
    const { y } = batchNormReference(x, [2, 3, 10], x, { running: { mean, variance }, eps: 1e-6 });
    const found = layer.eval().forward(tensor(x, { shape: [2, 3, 5, 2] }));
    expect(mixedError(await found.data(), y)).toBeLessThan(1e-5);
    expect(await layer.num_batches_tracked!.item()).toBe(3);

    layer.resetRunningStats();
    expect([...(await layer.running_var!.data()), await layer.num_batches_tracked!.item()]).toEqual([1, 1, 1, 0]);
  });

  it("use the batch's statistics after eval() where they track none", async () => {
    const layer = new BatchNorm1d(3, { trackRunningStats: false, affine: false });
    const x = tensor(randomValues(15), { shape: [5, 3] });
    expect(await layer.eval().forward(x).data()).toEqual(await layer.train().forward(x).data());
  });

  it("notice running statistics that moved before the backward pass", () => {
    const layer = new BatchNorm1d(3);
    const x = tensor(randomValues(15), { shape: [5, 3] });
    const y = layer.eval().forward(x);
    layer.train().forward(x);
    expect(() => y.backward(x)).toThrow("was overwritten");
  });

  it("move the same statistics when captured and replayed", async () => {
    const batches = [1, 2, 3].map((seed) => tensor(randomValues(30, seed), { shape: [5, 3, 2] }));
    const train = (layer: BatchNorm1d) => (x: Tensor) => {
      for (const p of layer.parameters()) clearGrad(p);
      const y = layer.forward(x, x);
      y.backward(x);
      return y;
    };
    const [eager, replayed] = [1, 2].map(() => new BatchNorm1d(3, { momentum: null, activation: relu })) as [
      BatchNorm1d,
      BatchNorm1d,
    ];
    const step = capture(train(replayed));
    for (const x of batches) {
      const y = await train(eager)(x).data();
      expect(await step(x).data()).toEqual(y);
    }
    const state = (layer: BatchNorm1d): Promise<unknown> =>
      Promise.all([...Object.values(layer.stateDict()), layer.weight!.grad!, layer.bias!.grad!].map((t) => t.data()));
    expect(await state(replayed)).toEqual(await state(eager));
    expect(await replayed.num_batches_tracked!.item()).toBe(3);
    step.dispose();
  });
});
