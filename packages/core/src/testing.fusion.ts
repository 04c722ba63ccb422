/** For tests of layers that fuse activations: activations that no package knows, and what fusing them must not change. */
import type { Pointwise } from "./pointwise.ts";
import { type FloatType, type Shape, sizeOf, type Tensor, tensor } from "./tensor.ts";
import { mixedError, poison, randomValues, testDevice } from "./testing.ts";

/** log(1 + exp(x − 4)) − 0.08x − 0.035: an activation that no package knows. */
export const swoosh: Pointwise = {
  name: "swoosh",
  forward: /* wgsl */ `
fn swoosh(x: f32) -> f32 { return max(x - 4.0, 0.0) + log(1.0 + exp(-abs(x - 4.0))) - 0.08 * x - 0.035; }`,
  backward: "fn swooshGrad(x: f32, dy: f32) -> f32 { return dy * (1.0 / (1.0 + exp(4.0 - x)) - 0.08); }",
};

/** mask · tanh(scale · x). */
export const masked: Pointwise = {
  name: "masked",
  forward: "fn masked(x: f32, mask: f32, scale: f32) -> f32 { return mask * tanh(scale * x); }",
  backward: /* wgsl */ `
struct maskedGrads { dx: f32, dmask: f32, dscale: f32 }
fn maskedGrad(x: f32, mask: f32, scale: f32, dy: f32) -> maskedGrads {
  let t = tanh(scale * x);
  let d = dy * mask * (1.0 - t * t);
  return maskedGrads(d * scale, dy * t, d * x);
}`,
};

/** mask · tanh(scale · x) + residual. */
export const gate: Pointwise = {
  name: "gate",
  forward: /* wgsl */ `
fn gate(x: f32, residual: f32, mask: f32, scale: f32) -> f32 { return mask * tanh(scale * x) + residual; }`,
  backward: /* wgsl */ `
struct gateGrads { dx: f32, dresidual: f32, dmask: f32, dscale: f32 }
fn gateGrad(x: f32, residual: f32, mask: f32, scale: f32, dy: f32) -> gateGrads {
  let t = tanh(scale * x);
  let d = dy * mask * (1.0 - t * t);
  return gateGrads(d * scale, dy, dy * t, d * x);
}`,
};

/** Values of channels, each repeated for its elements of `shape`, and their sums. */
const channelOf = (i: number, shape: Shape, axis: number): number =>
  Math.floor(i / sizeOf(shape.slice(axis + 1))) % shape[axis]!;

/**
 * Largest error of y and every gradient: the activation fused, against `apply` after the layer without one. There the
 * last tensor, if `shape` is given, is repeated to it: one value for each index of `axis`.
 */
export async function fusionError(
  shapes: readonly Shape[],
  dtype: FloatType,
  run: (fused: boolean, ...tensors: Tensor[]) => Tensor,
  shape: Shape | null = null,
  axis = 0,
): Promise<number> {
  const device = await testDevice();
  const results: Float32Array[][] = [];
  for (const fused of [true, false]) {
    const repeated = !fused && shape;
    const memory = poison(device);
    try {
      const tensors = shapes.map((own, k) => {
        const values = randomValues(sizeOf(own), k + 1);
        if (!repeated || k < shapes.length - 1) return tensor(values, { shape: own, dtype, requiresGrad: true });
        const all = new Float32Array(sizeOf(shape)).map((_, i) => values[channelOf(i, shape, axis)]!);
        return tensor(all, { shape, dtype, requiresGrad: true });
      });
      const y = run(fused, ...tensors);
      y.backward(tensor(randomValues(y.size, 99), { shape: y.shape, dtype: y.dtype }));
      const found = (await Promise.all([y, ...tensors.map((t) => t.grad!)].map((t) => t.data()))) as Float32Array[];
      if (repeated) {
        const sums = new Float32Array(shape[axis]!);
        found.pop()!.forEach((v, i) => {
          sums[channelOf(i, shape, axis)]! += v;
        });
        found.push(sums);
      }
      results.push(found);
      await memory.check();
    } finally {
      memory.restore();
    }
  }
  return Math.max(...results[0]!.map((values, i) => mixedError(values, results[1]![i]!)));
}
