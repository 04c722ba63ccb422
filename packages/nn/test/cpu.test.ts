/** The CPU device: core's and the optimizers' kernels as loops, against the same kernels on a GPU. Layers: cpu.layers.test.ts. */
import {
  add,
  buffer,
  clearGrad,
  copyInto,
  Device,
  type DType,
  empty,
  fill,
  full,
  kernel,
  Module,
  manualSeed,
  memory,
  mul,
  noGrad,
  normal,
  parameter,
  record,
  type Shape,
  scope,
  sumRows,
  type Tensor,
  type TypedArray,
  tensor,
  uniform,
  zeros,
} from "@kindling/core";
import { loadSafetensors, saveSafetensors } from "@kindling/core/safetensors";
import { mixedError, poison, randomValues, testDevice } from "@kindling/core/testing";
import { Adam, AdamW, clipGradNorm, GradScaler, SGD } from "@kindling/optim";
import { describe, expect, it } from "vitest";
import { cpuDevice } from "../src/cpu/device.ts";
import * as start from "../src/init.ts";
import { LearnedPositionalEmbedding } from "../src/positional.ts";

const gpu = await testDevice();
const cpu = new Device(cpuDevice());

type Run = (device: Device) => Tensor[] | Promise<Tensor[]>;

/** What `run` computes on the GPU and on the CPU, where every output is written in full and no byte behind it. */
async function both(run: Run): Promise<[gpu: TypedArray[], cpu: TypedArray[]]> {
  const values: TypedArray[][] = [];
  for (const device of [gpu, cpu]) {
    const poisoned = poison(device);
    try {
      values.push(await Promise.all((await run(device)).map((t) => t.data())));
      await poisoned.check();
    } finally {
      poisoned.restore();
    }
  }
  return values as [TypedArray[], TypedArray[]];
}

async function expectSame(run: Run): Promise<void> {
  const [onGpu, onCpu] = await both(run);
  const differing = onGpu.map((values, k) => values.findIndex((v, i) => !Object.is(v, onCpu[k]![i])));
  const first = differing.findIndex((i) => i >= 0);
  const at = differing[first]!;
  expect(first, `result ${first}: ${onCpu[first]?.[at]} on the CPU, ${onGpu[first]?.[at]} at ${at}`).toBe(-1);
}

/** The largest mixed error between the two. */
async function difference(run: Run): Promise<number> {
  const [onGpu, onCpu] = await both(run);
  expect(onCpu.length).toBe(onGpu.length);
  return Math.max(...onGpu.map((values, i) => mixedError(onCpu[i]!, values)));
}

const values = (device: Device, shape: Shape, seed = 1): Tensor =>
  tensor(
    randomValues(
      shape.reduce((a, b) => a * b, 1),
      seed,
    ),
    { shape, device },
  );

describe("core's kernels, bit for bit", () => {
  it("fill and convert", async () => {
    const dtypes: DType[] = ["f32", "i32", "u32", "bool"];
    const numbers = [0, -0, 1, -1, 0.5, -2.7, 3e9, -3e9, 5e9, 1e30, -1e30, 2147483520, 67, 1e-30];
    await expectSame((device) => {
      const filled = dtypes.map((dtype) => full([7], dtype === "u32" ? 3 : -2.5, { dtype, device }));
      const integers = tensor(Int32Array.of(0, 1, -1, 2147483647, -2147483648, 16777217), { device });
      const words = tensor(Uint32Array.of(0, 1, 4294967295, 2147483648, 16777217), { device });
      const converted = [tensor(numbers, { device }), integers, words].flatMap((x) =>
        dtypes.map((dtype) => copyInto(empty(x.shape, { dtype, device }), x)),
      );
      return [...filled, ...converted];
    });
  });

  it.each([1, 3, 4, 67, 4097])("add, multiply and scale %d numbers", async (n) => {
    await expectSame((device) => {
      const [a, b, row] = [values(device, [3, n]), values(device, [3, n], 2), values(device, [n], 3)];
      return [add(a, b), mul(a, b), add(a, row), mul(row, a), mul(a, 1.1), mul(a, tensor(0.3, { device }))];
    });
  });

  it.each([
    [1, 1],
    [8, 5],
    [100, 33],
    [1000, 3],
    [5000, 70],
  ])("sum %d rows of %d", async (rows, cols) => {
    await expectSame((device) => [sumRows(values(device, [rows, cols]), [cols])]);
  });

  it("repeat along leading axes, and sum back", async () => {
    // through the labels that core's matmul launches, whose own product is a layer here
    const { repeatTo } = await import("../../core/src/broadcast.ts");
    await expectSame((device) => {
      const x = values(device, [2, 1, 5, 3]);
      x.requiresGrad = true;
      const y = repeatTo(x, [2, 7], 2);
      y.backward(values(device, y.shape, 4));
      return [y, x.grad!];
    });
  });

  it("draws the same random numbers", async () => {
    await expectSame((device) => {
      manualSeed(2 ** 40 + 12345, device);
      const first = uniform(empty([1001], { device }));
      const second = uniform(empty([64], { device }));
      scope(() => uniform(empty([4], { device }))); // its end advances the streams
      return [first, second, uniform(empty([70], { device }))];
    });
    // a GPU may round a + (b - a) u once or twice, and its logarithm and cosine are approximations
    const [onGpu, onCpu] = await both((device) => {
      manualSeed(7, device);
      return [uniform(empty([99], { device }), -3, 5), normal(empty([4097], { device }), 2, 0.1)];
    });
    expect(mixedError(onCpu[0]!, onGpu[0]!)).toBeLessThan(1e-6);
    expect(mixedError(onCpu[1]!, onGpu[1]!)).toBeLessThan(1e-3);
  });
});

describe("this package's kernels", () => {
  it("initialise", async () => {
    expect(
      await difference((device) => {
        manualSeed(11, device);
        return [
          start.truncNormal(empty([1000, 4], { device })),
          start.truncNormal(empty([999], { device }), { mean: 1, std: 2, a: 3, b: 9 }),
          start.sparse(empty([30, 7], { device }), 0.4),
        ];
      }),
    ).toBeLessThan(1e-3);
    const [[onGpu], [onCpu]] = await both((device) => {
      manualSeed(12, device);
      return [start.sparse(empty([100, 9], { device }), 0.3)];
    });
    expect(onCpu!.map((v) => Number(v === 0))).toEqual(onGpu!.map((v) => Number(v === 0)));
  });

  it.each([false, true])("add positions, with batchFirst: %s", async (batchFirst) => {
    await expectSame((device) => {
      const layer = new LearnedPositionalEmbedding(9, 6, { batchFirst, device });
      copyInto(layer.weight, values(device, [9, 6], 3));
      const x = values(device, [4, 5, 6]);
      const y = layer.forward(x, { offset: 3 });
      y.backward(values(device, [4, 5, 6], 2));
      return [y, layer.weight.grad!];
    });
  });
});

describe("the optimizers' kernels", () => {
  /** Sizes of parameters: of one element, not a multiple of four, more than one dispatch binds. */
  const sizes = [1, 3, 67, 1024, 5000, 16, 16, 16, 16, 16, 16];

  const parametersOf = (device: Device): Tensor[] => sizes.map((n, i) => parameter(values(device, [n], 10 + i)));

  /** Gives all parameters but one new gradients, which are large in step 2 so that clipping has to do. */
  function differentiate(params: readonly Tensor[], step: number): void {
    params.forEach((p, i) => {
      clearGrad(p);
      if (i !== 4 || step > 1) p.grad = mul(values(p.device, p.shape, 100 * step + i), step === 2 ? 50 : 1);
    });
  }

  const cases: [string, (params: readonly Tensor[]) => AdamW | Adam | SGD][] = [
    ["AdamW", (params) => new AdamW(params, { lr: 0.05, maxGradNorm: 5 })],
    [
      "Adam with groups",
      (params) =>
        new Adam([
          { params: params.slice(0, 3), lr: 0.1, weightDecay: 0.1 },
          { params: params.slice(3), betas: [0, 0.9] },
        ]),
    ],
    ["SGD", (params) => new SGD(params, { lr: 0.1, weightDecay: 0.01 })],
    ["SGD with momentum", (params) => new SGD(params, { lr: 0.1, momentum: 0.9, dampening: 0.3, maxGradNorm: 1 })],
    ["SGD with Nesterov's", (params) => new SGD(params, { lr: 0.1, momentum: 0.9, nesterov: true })],
  ];

  it.each(cases)("%s", async (_, make) => {
    expect(
      await difference((device) => {
        const params = parametersOf(device);
        const optimizer = make(params);
        for (let step = 0; step < 4; step++) {
          differentiate(params, step);
          optimizer.step();
        }
        return [...params, ...Object.values(optimizer.stateDict().state)];
      }),
    ).toBeLessThan(1e-6);
  });

  it("clipGradNorm", async () => {
    for (const scale of [1e-3, 10]) {
      expect(
        await difference((device) => {
          const params = parametersOf(device);
          differentiate(params, 3);
          for (const p of params) p.grad = mul(p.grad!, scale);
          const norm = clipGradNorm(params, 1);
          return [norm, ...params.map((p) => p.grad!)];
        }),
      ).toBeLessThan(1e-6);
    }
    await expectSame((device) => {
      const p = parameter(values(device, [5]));
      p.grad = tensor([1, 2, Infinity, 3, 4], { device });
      return [clipGradNorm(p, 1), p.grad!];
    });
  });

  it.each([false, true])("GradScaler, with unscale before the step: %s", async (unscales) => {
    expect(
      await difference((device) => {
        const params = parametersOf(device);
        const optimizer = new AdamW(params, { lr: 0.05, maxGradNorm: 5 });
        const scaler = new GradScaler({ initScale: 1024, growthInterval: 2, device });
        for (let step = 0; step < 5; step++) {
          differentiate(params, step);
          for (const p of params) if (p.grad) p.grad = mul(p.grad, step === 3 ? Infinity : 1024);
          if (unscales) scaler.unscale(optimizer);
          scaler.step(optimizer);
          scaler.update();
        }
        return [...params, ...Object.values(optimizer.stateDict().state), ...Object.values(scaler.stateDict().state)];
      }),
    ).toBeLessThan(1e-6);
  });
});

describe("a device like any other", () => {
  it("says what it is", () => {
    expect([cpu.name, cpu.software, cpu.subgroupMatrix, [...cpu.features]]).toEqual(["CPU", false, false, []]);
    expect(() => zeros([2], { dtype: "f16", device: cpu })).toThrow("needs a GPU with shader-f16, which CPU does not");
  });

  it("has a tape", async () => {
    const [a, b] = [values(cpu, [3, 4]), values(cpu, [4], 2)];
    a.requiresGrad = b.requiresGrad = true;
    const y = mul(add(a, b), a).reshape([12]);
    y.backward(full([12], 2, { device: cpu }));
    const [av, bv] = [await a.data(), await b.data()];
    expect(await y.data()).toEqual(Float32Array.from(av, (v, i) => Math.fround(v + bv[i % 4]!) * v));
    expect(
      mixedError(
        await a.grad!.data(),
        av.map((v, i) => 2 * (2 * v + bv[i % 4]!)),
      ),
    ).toBeLessThan(1e-6);
    expect(
      mixedError(
        await b.grad!.data(),
        bv.map((_, c) => 2 * (av[c]! + av[4 + c]! + av[8 + c]!)),
      ),
    ).toBeLessThan(1e-6);
    expect(await noGrad(() => record(y.detach(), [a], () => [null])).requiresGrad).toBe(false);
  });

  it("has modules whose state is saved and loaded", async () => {
    class Affine extends Module {
      readonly weight = parameter(values(cpu, [5]));
      readonly steps = buffer(full([], 3, { dtype: "i32", device: cpu }));
    }
    const [one, other] = [new Affine(), new Affine()];
    fill(other.weight, 7);
    fill(other.steps, 0);
    const loaded = loadSafetensors(await saveSafetensors(one.stateDict()), { device: cpu });
    other.loadStateDict(loaded);
    expect(await other.weight.data()).toEqual(await one.weight.data());
    expect(await other.steps.item()).toBe(3);
    expect(() => one.to("f16")).toThrow("needs a GPU with shader-f16, which CPU does not");
  });

  it("frees what scopes and dispose free, and gives memory back", () => {
    const device = new Device(cpuDevice());
    const kept = scope(() => {
      const x = zeros([1000], { device });
      return add(x, mul(x, 2));
    });
    expect(memory(device)).toMatchObject({ tensors: 1, bytes: 4096, buffers: 3, pooledBytes: 8192 });
    kept.dispose();
    device.trim();
    expect(memory(device)).toEqual({ tensors: 0, bytes: 0, buffers: 0, pooledBytes: 0 });
  });

  it("reads in order with what was recorded, and again after a write", async () => {
    const x = zeros([3], { device: cpu });
    const first = x.data();
    fill(x, 1);
    cpu.write(x, Float32Array.of(4, 5, 6));
    const y = mul(x, 2);
    cpu.write(x, Float32Array.of(0, 0, 0));
    expect([await first, await y.data(), await x.data()].map((v) => [...v])).toEqual([
      [0, 0, 0],
      [8, 10, 12],
      [0, 0, 0],
    ]);
    await cpu.sync();
  });

  it("refuses kernels that it has no form of", () => {
    const own = kernel(
      "my.kernel.f32",
      `@group(0) @binding(0) var<storage, read_write> y: array<f32>;
      @compute @workgroup_size(1) fn main() { y[0] = 1; }`,
    );
    const y = zeros([1], { device: cpu });
    expect(() => own.run({ y }, { workgroups: [1] })).toThrow(
      "kernel my.kernel.f32 has no form for the CPU: it runs on a GPU only",
    );
  });

  it("can be destroyed", async () => {
    const device = new Device(cpuDevice());
    const x = zeros([1], { device });
    device.destroy();
    await device.gpu.lost;
    expect(() => fill(x, 1)).toThrow("the device was lost (destroyed): the device was destroyed");
  });
});
