/** Layers on the CPU, where the fallback computes them: a model of all kinds against the kernels of a GPU, and training. */
import { gelu, Hardswish, Mish, ReLU, Tanh } from "@kindling/activations";
import { KVCache, MultiheadAttention, RotaryEmbedding, scaledDotProductAttention } from "@kindling/attention";
import { BatchNorm2d } from "@kindling/batchnorm";
import { ConvTranspose2d } from "@kindling/conv-transpose";
import { Conv1d } from "@kindling/conv1d";
import { Conv2d } from "@kindling/conv2d";
import {
  add,
  autocast,
  capture,
  Device,
  defaultDevice,
  init,
  Module,
  manualSeed,
  matmul,
  memory,
  mul,
  noGrad,
  type StateDict,
  scope,
  type Tensor,
  tensor,
  zeros,
} from "@kindling/core";
import { mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { Dropout, dropout } from "@kindling/dropout";
import { Embedding } from "@kindling/embedding";
import { GLU } from "@kindling/glu";
import { GroupNorm, InstanceNorm2d } from "@kindling/groupnorm";
import { LayerNorm } from "@kindling/layernorm";
import { Linear } from "@kindling/linear";
import { crossEntropy, mse } from "@kindling/losses";
import { AdamW } from "@kindling/optim";
import { ReflectionPad2d } from "@kindling/padding";
import { AdaptiveAvgPool2d, AvgPool1d, MaxPool2d } from "@kindling/pooling";
import { RMSNorm } from "@kindling/rmsnorm";
import { LogSoftmax, Softmax } from "@kindling/softmax";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { state } from "../../core/src/state.ts";
import { setBackend } from "../src/backend.ts";
import { cpuDevice } from "../src/cpu/device.ts";
import { Linear as LinearOfNN } from "../src/index.ts";

const gpu = await testDevice();
const [batch, size, width] = [4, 8, 16];

/** A layer of each kind: images and words to classes. */
class Everything extends Module {
  readonly pad = new ReflectionPad2d(1);
  readonly conv: Conv2d;
  readonly bn: BatchNorm2d;
  readonly pool = new MaxPool2d(2);
  readonly up: ConvTranspose2d;
  readonly norm: GroupNorm;
  readonly instance: InstanceNorm2d;
  readonly relu = new ReLU();
  readonly mish = new Mish();
  readonly average = new AdaptiveAvgPool2d(4);
  readonly words: Embedding;
  readonly along: Conv1d;
  readonly half = new AvgPool1d(2);
  readonly attention: MultiheadAttention;
  readonly rotary = new RotaryEmbedding(8);
  readonly ln: LayerNorm;
  readonly rms: RMSNorm;
  readonly wide: Linear;
  readonly glu = new GLU();
  readonly soft = new Softmax();
  readonly tanh = new Tanh();
  readonly hard = new Hardswish();
  readonly drop: Dropout;
  readonly head: Linear;
  readonly log = new LogSoftmax();

  constructor(device: Device, dropout = 0) {
    super();
    this.conv = new Conv2d(3, 6, 3, { device });
    this.bn = new BatchNorm2d(6, { device });
    this.up = new ConvTranspose2d(6, width, 2, { stride: 2, device });
    this.norm = new GroupNorm(4, width, { device });
    this.instance = new InstanceNorm2d(width, { affine: true, device });
    this.words = new Embedding(11, width, { paddingIdx: 3, device });
    this.along = new Conv1d(width, width, 3, { padding: 1, activation: gelu, device });
    this.attention = new MultiheadAttention(width, 2, { device });
    this.ln = new LayerNorm(width, { device });
    this.rms = new RMSNorm(width, { device });
    this.wide = new Linear(width, 2 * width, { activation: gelu, device });
    this.drop = new Dropout(dropout);
    this.head = new Linear(width, 5, { device });
  }

  forward(images: Tensor, ids: Tensor): Tensor {
    let x = this.relu.forward(this.bn.forward(this.conv.forward(this.pad.forward(images))));
    x = this.mish.forward(this.norm.forward(this.up.forward(this.pool.forward(x))));
    x = this.average.forward(this.instance.forward(x)).reshape([batch, width, 16]);
    x = this.half.forward(this.along.forward(x)).reshape([batch, 8, width]);
    x = add(x, this.tanh.forward(this.words.forward(ids)));
    const normed = this.ln.forward(x);
    x = add(x, this.drop.forward(this.attention.forward(normed, null, null, { isCausal: true, needWeights: false })));
    const heads = this.rotary.forward(x.reshape([batch, 8, 2, 8]));
    x = add(x, scaledDotProductAttention(heads, heads, heads).reshape(x.shape));
    x = add(x, this.glu.forward(this.wide.forward(this.rms.forward(x))));
    const mixed = matmul(this.soft.forward(x), x, { transposeA: true }); // [batch, width, width]
    return this.log.forward(this.hard.forward(this.head.forward(mixed)));
  }

  loss(images: Tensor, ids: Tensor, classes: Tensor): Tensor {
    const scores = this.forward(images, ids).reshape([-1, 5]);
    return add(crossEntropy(scores, classes), mul(mse(scores, zeros(scores.shape, { device: scores.device })), 0.01));
  }
}

const inputs = (device: Device): [images: Tensor, ids: Tensor, classes: Tensor] => [
  tensor(randomValues(batch * 3 * size * size), { shape: [batch, 3, size, size], device }),
  tensor(
    Int32Array.from({ length: batch * 8 }, (_, i) => (i * 7) % 11),
    { shape: [batch, 8], device },
  ),
  tensor(
    Int32Array.from({ length: batch * width }, (_, i) => (i * 3 + (i >> 3)) % 5),
    { device },
  ),
];

async function copyTo(device: Device, state: StateDict): Promise<StateDict> {
  const entries = Object.entries(state).map(async ([name, t]) => {
    const { shape, dtype } = t;
    return [name, tensor(await t.data(), { shape, dtype, device })] as const;
  });
  return Object.fromEntries(await Promise.all(entries));
}

let cpu: Device;
beforeAll(async () => {
  cpu = await init({ backend: "cpu" });
});
afterAll(() => {
  state.device = gpu;
});

describe("init", () => {
  /** Runs `fn` with another navigator.gpu. */
  async function withGpu<T>(value: unknown, fn: () => Promise<T>): Promise<T> {
    const own = Object.getOwnPropertyDescriptor(navigator, "gpu");
    Object.defineProperty(navigator, "gpu", { value, configurable: true });
    try {
      return await fn();
    } finally {
      if (own) Object.defineProperty(navigator, "gpu", own);
      else Reflect.deleteProperty(navigator, "gpu");
    }
  }

  it("opens the CPU where it is asked to, quietly", async () => {
    expect(cpu.name).toBe("CPU");
    expect(defaultDevice()).toBe(cpu);
  });

  it("opens the CPU where there is no adapter, and says so once", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    try {
      const none = { requestAdapter: async () => null };
      for (let i = 0; i < 2; i++) expect((await withGpu(none, () => init())).name).toBe("CPU");
      expect(warn.mock.calls.flat()).toEqual([
        expect.stringMatching(/^kindling: computing on the CPU with jax-js.*: init: WebGPU found no GPU adapter/),
      ]);
      await expect(withGpu(none, () => init({ backend: "webgpu" }))).rejects.toThrow("no GPU adapter");
    } finally {
      warn.mockRestore();
      state.device = cpu;
    }
  });
});

describe("a model of all kinds of layers", () => {
  it("gives what the kernels of a GPU give, and the same gradients", async () => {
    const reference = new Everything(gpu);
    const model = new Everything(cpu);
    model.loadStateDict(await copyTo(cpu, reference.stateDict()));
    const [expected, loss] = [reference, model].map((m, i) => m.loss(...inputs([gpu, cpu][i]!))) as [Tensor, Tensor];
    expect(Math.abs((await loss.item()) - (await expected.item()))).toBeLessThan(1e-5);
    expected.backward();
    loss.backward();
    const own = Object.fromEntries(model.namedParameters());
    for (const [name, p] of reference.namedParameters())
      expect(mixedError(await own[name]!.grad!.data(), await p.grad!.data()), name).toBeLessThan(2e-5);
    const buffers = Object.fromEntries(model.namedBuffers());
    for (const [name, t] of reference.namedBuffers())
      expect(mixedError(await buffers[name]!.data(), await t.data()), name).toBeLessThan(1e-5);
  });

  it("learns, in constant memory", async () => {
    const device = new Device(cpuDevice()); // one without the garbage of other tests
    manualSeed(3, device);
    const model = new Everything(device, 0.1);
    const optimizer = new AdamW(model.parameters(), { lr: 0.01, maxGradNorm: 1 });
    const data = inputs(device);
    const losses: number[] = [];
    let before = memory(device);
    for (let step = 0; step < 30; step++) {
      if (step === 4) before = memory(device);
      using _ = scope();
      optimizer.zeroGrad();
      const loss = model.loss(...data);
      loss.backward();
      optimizer.step();
      losses.push(await loss.item());
    }
    expect(losses.at(-1)!).toBeLessThan(0.6 * losses[0]!);
    expect(memory(device)).toEqual(before);
  });
});

describe("on the CPU", () => {
  it("a KVCache gives what attention over the whole text gives", async () => {
    const [q, k, v] = [1, 2, 3].map((seed) =>
      tensor(randomValues(2 * 2 * 6 * 5, seed), { shape: [2, 2, 6, 5], device: cpu }),
    ) as [Tensor, Tensor, Tensor];
    const whole = await scaledDotProductAttention(q, k, v, { isCausal: true }).data();
    const cache = new KVCache({ batch: 2, heads: 2, maxLength: 4, headDim: 5, trim: true, device: cpu });
    const row = async (x: Tensor, at: number): Promise<Tensor> => {
      const data = await x.data();
      const rows = [0, 1, 2, 3].flatMap((head) => [...data.subarray((head * 6 + at) * 5, (head * 6 + at + 1) * 5)]);
      return tensor(Float32Array.from(rows), { shape: [2, 2, 1, 5], device: cpu });
    };
    for (let at = 0; at < 4; at++) {
      const [qr, kr, vr] = [await row(q, at), await row(k, at), await row(v, at)];
      const y = await cache.append(kr, vr).attention(qr).data();
      const expected = [0, 1, 2, 3].flatMap((head) => [
        ...whole.subarray((head * 6 + at) * 5, (head * 6 + at + 1) * 5),
      ]);
      expect(mixedError(y, expected)).toBeLessThan(1e-5);
    }
    cache.append(await row(k, 4), await row(v, 4)).append(await row(k, 5), await row(v, 5)); // the two oldest go
    expect([cache.start, cache.length]).toEqual([2, 4]);
  });

  it("the same seed drops the same elements", async () => {
    const kept: boolean[][] = [];
    for (const device of [gpu, cpu]) {
      manualSeed(5, device);
      const x = tensor(new Float32Array(1001).fill(1), { device });
      dropout(x, 0.5);
      kept.push(Array.from(await dropout(x, 0.3).data(), (v) => v > 0));
    }
    expect(kept[1]).toEqual(kept[0]);
  });

  it("the fallback is the backend of every layer already", async () => {
    const linear = new Linear(3, 2, { device: cpu });
    const x = zeros([1, 3], { device: cpu });
    const y = await linear.forward(x).data();
    await setBackend("fallback");
    expect(await linear.forward(x).data()).toEqual(y);
    await setBackend("kernels");
    expect(await linear.forward(x).data()).toEqual(y);
  });

  it("a module says so", () => {
    const own = new LinearOfNN(3, 2, { device: cpu, backend: "kernels" });
    expect([own.backend, `${own}`]).toEqual([
      "fallback",
      "Linear(inFeatures=3, outFeatures=2, bias=true, backend=fallback)",
    ]);
  });

  it("refuses capture of a layer, and autocast", () => {
    const linear = new Linear(3, 2, { device: cpu });
    const step = capture((x: Tensor) => noGrad(() => linear.forward(x)));
    expect(() => step(zeros([1, 3], { device: cpu }))).toThrow(/linear.*captur/);
    expect(() => autocast("f16", () => 0)).toThrow("needs a GPU with shader-f16, which CPU does not offer");
  });

  it("captures what has kernels there", async () => {
    const x = zeros([3], { device: cpu });
    const twice = capture((t: Tensor) => add(t, t));
    expect([...(await twice(x).data())]).toEqual([0, 0, 0]);
    expect([...(await twice(add(x, tensor([1, 2, 3], { device: cpu }))).data())]).toEqual([2, 4, 6]);
  });
});
