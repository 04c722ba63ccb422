/** Matrix products: squares, and those of a GPT's linear layers. nt is the forward pass, nn gives dx, tn gives dW. */
import { type FloatType, matmul, noGrad, randn } from "@kindling/core";
import { expectProduct, tolerance } from "./checks.ts";
import { type Case, kernelCase, type Sizes } from "./measure.ts";

export const cases = ({ squares, products }: Sizes): Case[] =>
  (["f32", "f16"] as const).flatMap((dtype) => [
    ...squares.map((n) => product(`matmul ${dtype} ${n}³`, dtype, "nn", [n, n, n])),
    ...products.map((text) => {
      const [layout, shape] = text.split(" ") as [string, string];
      return product(`matmul ${dtype} ${text}`, dtype, layout, shape.split("×").map(Number));
    }),
  ]);

function product(name: string, dtype: FloatType, layout: string, shape: readonly number[]): Case {
  const [rows, cols, inner] = shape as [number, number, number];
  const transposeA = layout[0] === "t";
  const transposeB = layout[1] === "t";
  return kernelCase(
    name,
    () => {
      const a = randn(transposeA ? [inner, rows] : [rows, inner], { dtype });
      const b = randn(transposeB ? [cols, inner] : [inner, cols], { dtype });
      return {
        step: () => [noGrad(() => matmul(a, b, { transposeA, transposeB }))],
        check: ([c]) => expectProduct("c", [a, b, c!], { rows, cols, inner, transposeA, transposeB }, tolerance[dtype]),
      };
    },
    { f16: dtype === "f16", flops: 2 * rows * cols * inner },
  );
}
