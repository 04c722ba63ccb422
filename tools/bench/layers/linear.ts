import { gelu } from "@kindling/activations";
import { autocast, type FloatType, randn, type Tensor } from "@kindling/core";
import { linear } from "@kindling/linear";
import { expectProduct, expectSound, geluAt, tolerance } from "../checks.ts";
import { type Case, floats, forwardAndBackward, type Point, precision, type Sizes } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] =>
  sizes.linear.flatMap((shape) =>
    floats.flatMap((dtype) => [...linearCases(shape, dtype, false), ...linearCases(shape, dtype, true)]),
  );

/** f16 is autocast: parameters and x are f32, the products take f16 operands. */
function linearCases([rows, inner, cols]: readonly number[], dtype: FloatType, activate: boolean): Case[] {
  const [M, K, N] = [rows!, inner!, cols!];
  const setup = (): Point => {
    const x = randn([M, K]);
    const weight = randn([N, K]);
    const bias = randn([N]);
    const dy = randn([M, N], { dtype });
    return {
      leaves: [x, weight, bias],
      dy,
      forward: () => autocast(dtype, () => linear(x, weight, bias, { activation: activate ? gelu : null })),
      async check([y], grads) {
        const b = Array.from(await bias.data());
        const finish = (z: number, col: number): number => (activate ? geluAt(z + b[col]!) : z + b[col]!);
        const product = { rows: M, cols: N, inner: K, transposeB: true };
        await expectProduct("y", [x, weight, y!], product, tolerance[dtype], finish);
        if (!grads) return;
        const [dx, dw, db] = grads as [Tensor, Tensor, Tensor];
        await expectSound("db", db);
        if (activate) {
          await expectSound("dx", dx);
          await expectSound("dW", dw);
        } else {
          await expectProduct("dx", [dy, weight, dx], { rows: M, cols: K, inner: N }, tolerance[dtype]);
          await expectProduct("dW", [dy, x, dw], { rows: N, cols: K, inner: M, transposeA: true }, tolerance[dtype]);
        }
      },
    };
  };
  const flops = 2 * M * N * K;
  return forwardAndBackward(`${activate ? "linear+gelu" : "linear"} ${precision(dtype)} ${M}×${K}→${N}`, setup, {
    f16: dtype === "f16",
    flops: [flops, 3 * flops],
  });
}
