/** The backend switch, and how the fallback lives beside the kernels: one device, one tape, one memory. */
import { geluTanh, relu, silu } from "@kindling/activations";
import { scaledDotProductAttention } from "@kindling/attention";
import { batchNorm } from "@kindling/batchnorm";
import { Conv2d, conv2d } from "@kindling/conv2d";
import {
  autocast,
  capture,
  Device,
  type FloatType,
  Module,
  manualSeed,
  matmul,
  noGrad,
  type Pointwise,
  scope,
  type Tensor,
  tensor,
} from "@kindling/core";
import { mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { embedding } from "@kindling/embedding";
import { groupNorm } from "@kindling/groupnorm";
import { layerNorm } from "@kindling/layernorm";
import { Linear as LinearBase, linear } from "@kindling/linear";
import { bce, crossEntropy, mse } from "@kindling/losses";
import { rmsNorm } from "@kindling/rmsnorm";
import { softmax } from "@kindling/softmax";
import { afterEach, describe, expect, it, vi } from "vitest";
import {
  FallbackModule,
  getBackend,
  type Layer,
  layer,
  loadFallback,
  setBackend,
  withBackend,
} from "../src/backend.ts";
import { type Form, fallback, type JaxArray } from "../src/fallback/bridge.ts";

const device = await testDevice();
await loadFallback();
const hasF16 = device.features.has("shader-f16");

const Linear: Layer<typeof LinearBase> = layer(LinearBase);

afterEach(async () => {
  vi.restoreAllMocks();
  await setBackend("kernels");
});

const random = (shape: number[], seed = 1, requiresGrad = true): Tensor =>
  tensor(
    randomValues(
      shape.reduce((n, d) => n * d, 1),
      seed,
    ),
    { shape, requiresGrad },
  );

/** Whether `fn` computes by jax-js, which has its own encoder: then core dispatches nothing. */
function dispatches(fn: () => unknown): number {
  const spy = vi.spyOn(device, "dispatch");
  fn();
  const { length } = spy.mock.calls;
  spy.mockRestore();
  return length;
}

describe("the choice of a backend", () => {
  it("is a module's own, or its parent's, or that for all", async () => {
    const [x, own] = [random([2, 4]), new Linear(4, 4, { backend: "fallback" })];
    expect([own.backend, new Linear(4, 4).backend, getBackend()]).toEqual(["fallback", "kernels", "kernels"]);
    expect(dispatches(() => own.forward(x))).toBe(0);
    expect(dispatches(() => new Linear(4, 4, { bias: false, backend: undefined }).forward(x))).toBeGreaterThan(0);
    class Parent extends Module {
      readonly kernels = new Linear(4, 4, { backend: "kernels" });
      readonly child = new Linear(4, 4);
      forward(x: Tensor, which: "kernels" | "child"): Tensor {
        return this[which].forward(x);
      }
    }
    const parent = new (layer(Parent))({ backend: "fallback" });
    expect(dispatches(() => parent.forward(x, "child"))).toBe(0);
    expect(dispatches(() => parent.forward(x, "kernels"))).toBeGreaterThan(0);
    await setBackend("fallback");
    expect([getBackend(), parent.child.backend, parent.kernels.backend]).toEqual(["fallback", "fallback", "kernels"]);
    expect(dispatches(() => linear(x, parent.child.weight))).toBe(0);
    expect(withBackend("kernels", () => dispatches(() => matmul(x, x, { transposeB: true })))).toBeGreaterThan(0);
  });

  it("shows, and leaves the rest of a module as it is", () => {
    const m = new Linear(3, 2, { bias: false, backend: "fallback" });
    expect(`${m}`).toBe("Linear(inFeatures=3, outFeatures=2, bias=false, backend=fallback)");
    expect(`${new Linear(3, 2)}`).toBe("Linear(inFeatures=3, outFeatures=2, bias=true, backend=kernels)");
    expect(Object.keys(new Linear(3, 2, { backend: "fallback" }).stateDict())).toEqual(["weight", "bias"]);
    expect(m).toBeInstanceOf(LinearBase);
    class Only extends FallbackModule {
      protected override settings(): string {
        return "p=2";
      }
    }
    expect(`${new Only()}`).toBe("Only(p=2, backend=fallback)");
    expect(new Only().backend).toBe("fallback");
  });

  it("names what is wrong with it", async () => {
    const wrong = 'backend: got "gpu", expected "kernels" or "fallback"';
    expect(() => new Linear(3, 2, { backend: "gpu" as never })).toThrow(wrong);
    expect(() => withBackend("gpu" as never, () => {})).toThrow(wrong);
    await expect(setBackend("gpu" as never)).rejects.toThrow(wrong);
  });
});

/** x², and the square of it: a form of two results, one of which depends on the other. */
const powers: Form<{ scale: number }, JaxArray[]> = ({ numpy: np }, { x }, { scale }) => {
  const square = np.square(x!).mul(scale);
  return [square.ref, np.square(square.ref), square.astype(np.int32)];
};

describe("fallback", () => {
  it("is on the tape, with as many results as the form has", async () => {
    const x = tensor([1, -2, 3], { requiresGrad: true });
    const [y, z, whole] = fallback(powers, { x, none: null }, { scale: 2 }) as [Tensor, Tensor, Tensor];
    expect([await y.array(), await z.array(), await whole.array()]).toEqual([
      [2, 8, 18],
      [4, 64, 324],
      [2, 8, 18],
    ]);
    expect([y.requiresGrad, whole.dtype, whole.requiresGrad]).toEqual([true, "i32", false]);
    y.backward(tensor([1, 1, 1]), { retainGraph: true });
    expect(await x.grad!.array()).toEqual([4, -8, 12]); // 4x
    z.backward(tensor([1, 1, 1]));
    expect(await x.grad!.array()).toEqual([4 + 16, -8 - 128, 12 + 432]); // and 16x³
    expect(noGrad(() => fallback(powers, { x }, { scale: 2 }))[0]!.requiresGrad).toBe(false);
  });

  it("names what it cannot do", async () => {
    const x = tensor([1, 2]);
    const [a, b] = [random([2, 3]), random([2, 3])];
    expect(() => capture(() => withBackend("fallback", () => linear(a, b)))()).toThrow(
      "linear: the fallback cannot be captured, since a replay would leave it out; run this step eagerly",
    );
    expect(() => fallback(powers, {}, { scale: 1 })).toThrow("powers: the fallback got no tensor");
    const failing: Form<object, JaxArray> = ({ numpy: np }, { x }) => np.matmul(x!, np.zeros([3, 3]));
    expect(() => fallback(failing, { x }, {})).toThrow();
    expect(await fallback(powers, { x }, { scale: 1 })[0]!.array()).toEqual([1, 4]); // and works on
  });

  it("computes on one GPU device", async () => {
    const held = (globalThis as { __kindlingGpu?: GPU[] }).__kindlingGpu?.at(-1) ?? navigator.gpu;
    const gpu = await (await held.requestAdapter())!.requestDevice();
    const other = new Device(gpu);
    await expect(loadFallback(other)).rejects.toThrow(
      "jax-js computes on the first GPUDevice that it was given, and has another one",
    );
    const x = tensor([1], { device: other });
    expect(() => fallback(powers, { x }, { scale: 1 })).toThrow("powers: the fallback computes on another device than");
    other.destroy();
  });

  it("computes an activation of the user's by its WGSL, and says so once", async () => {
    const warn = vi.spyOn(console, "warn").mockImplementation(() => {});
    const cube: Pointwise = {
      name: "relu", // not ours, for all its name
      forward: "fn relu(x: f32) -> f32 { return x * x * x; }",
      backward: "fn reluGrad(x: f32, dy: f32) -> f32 { return 3 * x * x * dy; }",
    };
    for (let i = 0; i < 2; i++) {
      const [x, weight] = [random([3, 4]), random([2, 4], 2)];
      const y = withBackend("fallback", () => linear(x, weight, null, { activation: cube }));
      y.backward(random([3, 2], 3, false));
      const [x2, w2] = [random([3, 4]), random([2, 4], 2)];
      const expected = linear(x2, w2, null, { activation: cube });
      expected.backward(random([3, 2], 3, false));
      expect(mixedError(await y.data(), await expected.data())).toBeLessThan(1e-6);
      expect(mixedError(await weight.grad!.data(), await w2.grad!.data())).toBeLessThan(1e-6);
    }
    expect(warn).toHaveBeenCalledOnce();
    expect(warn.mock.calls[0]![0]).toContain('no form of the activation "relu"');
  });

  it("reports values that are wrong at the next read, as the kernels do", async () => {
    await setBackend("fallback");
    const weight = random([3, 2]);
    const wrong = embedding(tensor(Int32Array.of(1, 7)), weight);
    await expect(wrong.data()).rejects.toThrow("embedding: id 7 is out of range; the table has rows 0 to 2");
    expect((await wrong.data()).slice(2).every(Number.isNaN)).toBe(true);
    const loss = crossEntropy(random([2, 3]), tensor(Int32Array.of(-1, 2)));
    await expect(loss.item()).rejects.toThrow("crossEntropy: target -1 is no class; expected 0 to 2 or ignoreIndex");
    expect(await loss.item()).toBeNaN();
    const outside = bce(tensor([0.5, 1.5]), tensor([0, 1]));
    await expect(outside.item()).rejects.toThrow("bce: the input at position 1 is outside [0, 1]");
  });

  it("gives the dtypes that the kernels give", async () => {
    await setBackend("fallback");
    const ids = tensor(Int32Array.of(1, 0, 3));
    const layers: [string, FloatType, (t: (shape: number[]) => Tensor) => Tensor][] = [
      ["linear", "f16", (t) => linear(t([3, 4]), t([2, 4]), t([2]), { activation: geluTanh })],
      ["matmul", "f16", (t) => matmul(t([3, 4]), t([4, 2]))],
      ["conv2d", "f16", (t) => conv2d(t([1, 2, 4, 4]), t([2, 2, 3, 3]))],
      ["attention", "f16", (t) => scaledDotProductAttention(t([1, 2, 3, 4]), t([1, 2, 3, 4]), t([1, 2, 3, 4]))],
      ["softmax", "f32", (t) => softmax(t([3, 4]))],
      ["layerNorm", "f32", (t) => layerNorm(t([3, 4]), 4)],
      ["layerNorm, not to f32", "f16", (t) => layerNorm(t([3, 4]), 4, { autocastToF32: false })],
      ["rmsNorm", "f32", (t) => rmsNorm(t([3, 4]), 4)],
      ["groupNorm", "f32", (t) => groupNorm(t([2, 4, 3]), 2)],
    ];
    for (const [name, mixed, run] of layers) {
      if (hasF16) {
        const half = run((shape) => tensor(randomValues(shape.reduce((n, d) => n * d)), { shape, dtype: "f16" }));
        expect(half.dtype, name).toBe("f16");
        expect(autocast("f16", () => run((shape) => random(shape))).dtype, name).toBe(mixed);
      }
      expect(run((shape) => random(shape)).dtype, name).toBe("f32");
    }
    if (!hasF16) return;
    const x = tensor(randomValues(12), { shape: [3, 4], dtype: "f16", requiresGrad: true });
    const loss = crossEntropy(x, ids);
    loss.backward();
    expect([loss.dtype, x.grad!.dtype]).toEqual(["f32", "f16"]);
    expect(batchNorm(x, { training: true }).dtype).toBe("f16");
    const { output, sum } = layerNorm(x, 4, { residual: random([3, 4]) });
    expect([output.dtype, sum.dtype]).toEqual(["f32", "f32"]);
  });
});

/** A layer of a form: x · tanh(w), an LSTM in little. */
const gate: Form<object, JaxArray> = ({ numpy: np }, { x, w }) => x!.mul(np.tanh(w!));

class Mixed extends Module {
  readonly conv = new (layer(Conv2d))(1, 3, 3, { padding: 1, activation: relu });
  readonly w: Tensor;
  readonly out = new Linear(48, 2);

  constructor() {
    super();
    this.w = new LinearBase(48, 1, { bias: false }).weight;
  }

  forward(x: Tensor): Tensor {
    const y = this.conv.forward(x).reshape([-1, 48]);
    return this.out.forward(fallback(gate, { x: y, w: this.w }, {}));
  }
}

describe("a model of both", () => {
  const step = (model: Mixed, x: Tensor, target: Tensor): Tensor => {
    model.zeroGrad();
    const loss = mse(model.forward(x), target);
    loss.backward();
    return loss;
  };

  it("has the gradients of one that is computed by the fallback alone", async () => {
    manualSeed(5);
    const model = new Mixed();
    const [x, target] = [random([4, 1, 4, 4], 1, false), random([4, 2], 2, false)];
    const grads = async (): Promise<number[]> => {
      step(model, x, target);
      return (await Promise.all(model.parameters().map((p) => p.grad!.data()))).flatMap((g) => [...g]);
    };
    const mixed = await grads();
    const [before] = mixed;
    await setBackend("fallback");
    expect(before).not.toBe(0);
    expect(mixedError(mixed, await grads())).toBeLessThan(1e-5);
  });

  it("stays on the GPU, and in constant memory", async () => {
    const model = new Mixed();
    const [x, target] = [random([4, 1, 4, 4], 1, false), random([4, 2], 2, false)];
    const run = (): void => scope(() => void step(model, x, target));
    for (let i = 0; i < 10; i++) run();
    await device.sync();
    const { bytes, tensors, buffers } = device.memory();
    const read = vi.spyOn(GPUBuffer.prototype, "mapAsync");
    const created = vi.spyOn(device.gpu, "createBuffer");
    for (let i = 0; i < 190; i++) run();
    await device.sync();
    expect(read).not.toHaveBeenCalled();
    expect(created).not.toHaveBeenCalled(); // neither core nor jax-js needs more
    // less where the garbage of earlier tests was collected
    const after = device.memory();
    expect([after.bytes <= bytes, after.tensors <= tensors, after.buffers <= buffers]).toEqual([true, true, true]);
  });

  it("learns", async () => {
    const model = new Mixed();
    const [x, target] = [random([4, 1, 4, 4], 1, false), random([4, 2], 2, false)];
    const losses: number[] = [];
    for (let i = 0; i < 30; i++) {
      losses.push(await step(model, x, target).item());
      for (const p of model.parameters()) {
        const values = await p.data();
        const grad = await p.grad!.data();
        device.write(
          p,
          Float32Array.from(values, (v, k) => v - grad[k]!),
        );
      }
    }
    expect(losses.at(-1)!).toBeLessThan(0.7 * losses[0]!);
  });
});

it("a layer keeps its activation's numbers", async () => {
  const y = withBackend("fallback", () => linear(tensor([[1]]), tensor([[2]]), null, { activation: silu }));
  expect(await y.item()).toBeCloseTo(2 / (1 + Math.exp(-2)), 5);
});
