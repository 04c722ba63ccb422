import { randn, type Tensor } from "@kindling/core";
import { adaptiveAvgPool2d, avgPool2d, maxPool2d } from "@kindling/pooling";
import { expectClose, part, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, type Point, type Sizes, setsFor, times } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => [
  ...sizes.maxPool2d.flatMap(({ shape, kernel, stride, padding }) =>
    poolingCases(
      `maxpool2d ${times(shape)}, ${kernel}×${kernel} s${stride}`,
      { shape, kernel, stride, padding, kind: "max" },
      (x) => maxPool2d(x, kernel, { stride, padding }),
      sizes,
    ),
  ),
  ...sizes.avgPool2d.flatMap(({ shape, kernel }) =>
    poolingCases(
      `avgpool2d ${times(shape)}, ${kernel}×${kernel}`,
      { shape, kernel, stride: kernel, padding: 0, kind: "mean" },
      (x) => avgPool2d(x, kernel),
      sizes,
    ),
  ),
  // to one value: a window as large as the plane
  ...sizes.adaptiveAvgPool2d.flatMap((shape) =>
    poolingCases(
      `adaptiveavgpool2d ${times(shape)}→1`,
      { shape, kernel: shape[2]!, stride: shape[2]!, padding: 0, kind: "mean" },
      (x) => adaptiveAvgPool2d(x, 1),
      sizes,
    ),
  ),
];

interface Windows {
  /** Of square planes. */
  readonly shape: readonly number[];
  readonly kernel: number;
  readonly stride: number;
  readonly padding: number;
  readonly kind: "max" | "mean";
}

function poolingCases(name: string, windows: Windows, pool: (x: Tensor) => Tensor, sizes: Sizes): Case[] {
  const { shape, kernel, stride, padding, kind } = windows;
  const [N, C, H, W] = shape as [number, number, number, number];
  const [outH, outW] = [H, W].map((n) => Math.floor((n + 2 * padding - kernel) / stride) + 1) as [number, number];
  const lastPlane = (t: Tensor, size: number): Promise<number[]> => part(t, t.size - size, size);
  /** Indices of the plane's elements in a window. */
  const windowAt = (out: number): number[] => {
    const [top, left] = [Math.floor(out / outW) * stride - padding, (out % outW) * stride - padding];
    const found: number[] = [];
    for (let h = Math.max(top, 0); h < Math.min(top + kernel, H); h++)
      for (let w = Math.max(left, 0); w < Math.min(left + kernel, W); w++) found.push(h * W + w);
    return found;
  };
  const setup = (): Point => {
    const x = randn(shape);
    const dy = randn([N, C, outH, outW]);
    return {
      leaves: [x],
      dy,
      forward: () => pool(x),
      async check([y], grads) {
        const plane = await lastPlane(x, H * W);
        const d = await lastPlane(dy, outH * outW);
        const dx = new Array<number>(H * W).fill(0);
        const expected = d.map((gradient, out) => {
          const window = windowAt(out);
          if (kind === "max") {
            const largest = window.reduce((a, b) => (plane[b]! > plane[a]! ? b : a));
            dx[largest]! += gradient;
            return plane[largest]!;
          }
          for (const i of window) dx[i]! += gradient / window.length;
          return window.reduce((total, i) => total + plane[i]!, 0) / window.length;
        });
        expectClose("y", await lastPlane(y!, outH * outW), expected, tolerance.f32);
        if (grads) expectClose("dx", await lastPlane(grads[0]!, H * W), dx, tolerance.f32);
      },
    };
  };
  const [bytes, out] = [4 * N * C * H * W, 4 * N * C * outH * outW];
  // not counted: how backward knows where the maxima were
  return forwardAndBackward(name, setup, {
    bytes: [bytes + out, 2 * bytes + 2 * out],
    sets: setsFor(bytes, sizes),
  });
}
