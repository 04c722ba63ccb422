import { conv2d } from "@kindling/conv2d";
import { autocast, type FloatType, randn, type Tensor } from "@kindling/core";
import { tolerance } from "../checks.ts";
import {
  type Convolution,
  expectBiasGrad,
  expectForward,
  expectInputGrad,
  expectWeightGrad,
  multiplications,
  outputOf,
} from "../convolution.ts";
import {
  type Case,
  floats,
  forwardAndBackward,
  type Point,
  precision,
  type Sizes,
  setsFor,
  times,
} from "../measure.ts";

export const cases = (sizes: Sizes): Case[] =>
  sizes.conv2d.flatMap((size) => floats.flatMap((dtype) => conv2dCases(size, dtype, sizes)));

type Size = Sizes["conv2d"][number];

export function conv2dPoint(size: Size, dtype: FloatType, biased = true): Point {
  const { shape, filters, kernel, stride, padding, groups } = size;
  const c = convolutionOf(size);
  const x = randn(shape);
  const weight = randn([filters, c.channels / groups, kernel, kernel]);
  const bias = biased ? randn([filters]) : null;
  const dy = randn([c.batch, filters, ...outputOf(c)], { dtype });
  return {
    leaves: bias ? [x, weight, bias] : [x, weight],
    dy,
    forward: () => autocast(dtype, () => conv2d(x, weight, { bias, stride, padding, groups })),
    async check([y], grads) {
      const limit = tolerance[dtype];
      await expectForward("y", { x, w: weight, bias, y: y! }, c, limit);
      if (!grads) return;
      const [dx, dw, db] = grads as [Tensor, Tensor, Tensor?];
      await expectInputGrad("dx", { dy, w: weight, dx }, c, limit);
      await expectWeightGrad("dW", { x, dy, dw }, c, limit);
      if (db) await expectBiasGrad({ dy, db }, c.batch, limit);
    },
  };
}

function convolutionOf({ shape, filters, kernel, stride, padding, groups }: Size): Convolution {
  const [batch, channels, height, width] = shape as [number, number, number, number];
  return {
    ...{ batch, channels, filters, groups },
    ...{ size: [height, width], kernel: [kernel, kernel], stride: [stride, stride], padding: [padding, padding] },
  };
}

/** f16 is autocast: parameters and x are f32, the products take f16 operands. */
export function conv2dTitle({ shape, filters, kernel, stride, groups }: Size, dtype: FloatType): string {
  const name = groups > 1 && groups === shape[1] ? "conv2d depthwise" : "conv2d";
  const window = `${kernel}×${kernel}${stride > 1 ? ` s${stride}` : ""}`;
  return `${name} ${precision(dtype)} ${times(shape)}, ${window}→${filters}`;
}

export const conv2dFlops = (size: Size): number => 2 * multiplications(convolutionOf(size));

function conv2dCases(size: Size, dtype: FloatType, sizes: Sizes): Case[] {
  const c = convolutionOf(size);
  const flops = conv2dFlops(size);
  const area = c.size[0] * c.size[1];
  const [outH, outW] = outputOf(c);
  const elements = c.batch * Math.max(c.channels * area, c.filters * outH * outW);
  return forwardAndBackward(conv2dTitle(size, dtype), () => conv2dPoint(size, dtype), {
    f16: dtype === "f16",
    flops: [flops, 3 * flops],
    sets: setsFor(4 * elements, sizes),
  });
}
