import {
  checkPointwise,
  type Delegate,
  defaultDevice,
  delegated,
  init,
  matmul,
  type Pointwise,
  pointwiseParameters,
  provideCpu,
  setDelegate,
  tensor,
} from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import { expect, it } from "vitest";
import { state } from "../src/state.ts";

await testDevice();

it("offers a layer's checked arguments to the delegate, and computes where that declines", async () => {
  const [a, b] = [tensor([[1, 2]]), tensor([[3], [4]])];
  const seven = tensor([[7]]);
  const seen: unknown[] = [];
  const delegate: Delegate = (layer, tensors, settings) => {
    seen.push([layer, tensors.a === a, settings]);
    return seen.length === 1 ? seven : null;
  };
  const before = setDelegate(delegate);
  try {
    expect(() => matmul(a, a)).toThrow("share no inner dimension");
    expect(matmul(a, b)).toBe(seven);
    expect(await matmul(a, b).array()).toEqual([[11]]);
    setDelegate(null);
    expect(delegated("matmul", { a }, {})).toBe(null);
    setDelegate(delegate);
  } finally {
    expect(setDelegate(before)).toBe(delegate);
  }
  const call = ["matmul", true, { transposeA: false, transposeB: false }];
  expect(seen).toEqual([call, call]);
});

it("opens what is no GPU where it is asked to, or where there is no GPU", async () => {
  const before = defaultDevice();
  const { openCpu } = state;
  state.openCpu = undefined;
  await expect(init({ backend: "wasm" as never })).rejects.toThrow('backend "wasm" needs @kindling/nn');
  const reasons: unknown[] = [];
  provideCpu(async (reason) => {
    reasons.push(reason?.message);
    return before.gpu;
  });
  try {
    expect((await init({ backend: "cpu" })).gpu).toBe(before.gpu);
    const gpu = Object.getOwnPropertyDescriptor(globalThis, "navigator");
    const none = { gpu: { requestAdapter: async () => null } };
    Object.defineProperty(globalThis, "navigator", { value: none, configurable: true });
    try {
      await expect(init({ backend: "webgpu" })).rejects.toThrow("no GPU adapter");
      expect((await init()).gpu).toBe(before.gpu);
    } finally {
      if (gpu) Object.defineProperty(globalThis, "navigator", gpu);
      else Reflect.deleteProperty(globalThis, "navigator");
    }
  } finally {
    state.openCpu = openCpu;
    state.device = before;
  }
  expect(reasons).toEqual([undefined, expect.stringContaining("no GPU adapter")]);
});

it("reads the parameters of an activation", () => {
  const gate: Pointwise = {
    name: "gate",
    forward:
      "fn gateSlope() -> f32 { return 2.0; } fn gate(x: f32, mask: f32,\n  scale: f32) -> f32 { return x * mask * scale; }",
    backward:
      "struct gateGrads { dx: f32, dmask: f32, dscale: f32 } fn gateGrad(x: f32, mask: f32, scale: f32, dy: f32) -> gateGrads { return gateGrads(); }",
  };
  expect(pointwiseParameters(gate)).toEqual(["x", "mask", "scale"]);
  expect(checkPointwise("linear: activation", gate)).toBe(gate);
  expect(checkPointwise("linear: activation", gate, 2)).toBe(gate);
  expect(() => checkPointwise("linear: activation", gate, 0)).toThrow(
    'linear: activation: "gate" takes 2 inputs after x (mask,scale), got 0',
  );
  expect(() => checkPointwise("linear: activation", Math.tanh as never)).toThrow(
    "expected { name, forward, backward }",
  );
  expect(() => checkPointwise("linear: activation", { ...gate, name: "gated" })).toThrow(
    "must define fn gated(x: f32)",
  );
});
