import { conv1d } from "@kindling/conv1d";
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
  sizes.conv1d.flatMap((size) => floats.flatMap((dtype) => conv1dCases(size, dtype, sizes)));

/** f16 is autocast: parameters and x are f32, the products take f16 operands. */
function conv1dCases(
  { shape, filters, kernel, padding }: Sizes["conv1d"][number],
  dtype: FloatType,
  sizes: Sizes,
): Case[] {
  const [batch, channels, length] = shape as [number, number, number];
  const c: Convolution = {
    ...{ batch, channels, filters, groups: 1 },
    ...{ size: [1, length], kernel: [1, kernel], stride: [1, 1], padding: [0, padding] },
  };
  const setup = (): Point => {
    const x = randn(shape);
    const weight = randn([filters, channels, kernel]);
    const bias = randn([filters]);
    const dy = randn([batch, filters, outputOf(c)[1]], { dtype });
    return {
      leaves: [x, weight, bias],
      dy,
      forward: () => autocast(dtype, () => conv1d(x, weight, { bias, padding })),
      async check([y], grads) {
        const limit = tolerance[dtype];
        await expectForward("y", { x, w: weight, bias, y: y! }, c, limit);
        if (!grads) return;
        const [dx, dw, db] = grads as [Tensor, Tensor, Tensor];
        await expectInputGrad("dx", { dy, w: weight, dx }, c, limit);
        await expectWeightGrad("dW", { x, dy, dw }, c, limit);
        await expectBiasGrad({ dy, db }, batch, limit);
      },
    };
  };
  const flops = 2 * multiplications(c);
  return forwardAndBackward(`conv1d ${precision(dtype)} ${times(shape)}, ${kernel}→${filters}`, setup, {
    f16: dtype === "f16",
    flops: [flops, 3 * flops],
    sets: setsFor(4 * batch * channels * length, sizes),
  });
}
