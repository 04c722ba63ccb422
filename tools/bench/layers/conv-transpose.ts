import { convTranspose2d } from "@kindling/conv-transpose";
import { autocast, type FloatType, randn, type Tensor } from "@kindling/core";
import { tolerance } from "../checks.ts";
import {
  type Convolution,
  expectBiasGrad,
  expectForward,
  expectInputGrad,
  expectWeightGrad,
  multiplications,
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
  sizes.convTranspose2d.flatMap((size) => floats.flatMap((dtype) => convTranspose2dCases(size, dtype, sizes)));

/** f16 is autocast: parameters and x are f32, the products take f16 operands. */
function convTranspose2dCases(
  { shape, filters, kernel, stride, padding }: Sizes["convTranspose2d"][number],
  dtype: FloatType,
  sizes: Sizes,
): Case[] {
  const [batch, channels, height, width] = shape as [number, number, number, number];
  const out = (n: number): number => (n - 1) * stride - 2 * padding + kernel;
  /** The convolution from y to x, of which this is the gradient. */
  const c: Convolution = {
    ...{ batch, channels: filters, filters: channels, groups: 1 },
    ...{ size: [out(height), out(width)], kernel: [kernel, kernel] },
    ...{ stride: [stride, stride], padding: [padding, padding] },
  };
  const setup = (): Point => {
    const x = randn(shape);
    const weight = randn([channels, filters, kernel, kernel]);
    const bias = randn([filters]);
    const dy = randn([batch, filters, ...c.size], { dtype });
    return {
      leaves: [x, weight, bias],
      dy,
      forward: () => autocast(dtype, () => convTranspose2d(x, weight, { bias, stride, padding })),
      async check([y], grads) {
        const limit = tolerance[dtype];
        await expectInputGrad("y", { dy: x, w: weight, bias, dx: y! }, c, limit);
        if (!grads) return;
        const [dx, dw, db] = grads as [Tensor, Tensor, Tensor];
        await expectForward("dx", { x: dy, w: weight, y: dx }, c, limit);
        await expectWeightGrad("dW", { x: dy, dy: x, dw }, c, limit);
        await expectBiasGrad({ dy, db }, batch, limit);
      },
    };
  };
  const flops = 2 * multiplications(c);
  const name = `convtranspose2d ${precision(dtype)} ${times(shape)}, ${kernel}×${kernel} s${stride}→${filters}`;
  return forwardAndBackward(name, setup, {
    f16: dtype === "f16",
    flops: [flops, 3 * flops],
    sets: setsFor(4 * batch * filters * out(height) * out(width), sizes),
  });
}
