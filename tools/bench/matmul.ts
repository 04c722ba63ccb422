/** Matrix products: squares, and those of a GPT's linear layers. nt is the forward pass, nn gives dx, tn gives dW. */
import { type FloatType, matmul, noGrad, randn, type Tensor } from "@kindling/core";
import { expectProduct, tolerance } from "./checks.ts";
import { type Case, floats, kernelCase, type Sizes, type Subject } from "./measure.ts";

export const cases = ({ squares, products }: Sizes): Case[] =>
  floats.flatMap((dtype) => [
    ...squares.map((n) => product(`matmul ${dtype} ${n}³`, dtype, "nn", [n, n, n])),
    ...products.map((text) => {
      const [layout, shape] = text.split(" ") as [string, string];
      return product(`matmul ${dtype} ${text}`, dtype, layout, shape.split("×").map(Number));
    }),
  ]);

export function productSubject(
  dtype: FloatType,
  layout: string,
  shape: readonly number[],
): Subject & { a: Tensor; b: Tensor } {
  const [rows, cols, inner] = shape as [number, number, number];
  const transposeA = layout[0] === "t";
  const transposeB = layout[1] === "t";
  const a = randn(transposeA ? [inner, rows] : [rows, inner], { dtype });
  const b = randn(transposeB ? [cols, inner] : [inner, cols], { dtype });
  return {
    ...{ a, b },
    step: () => [noGrad(() => matmul(a, b, { transposeA, transposeB }))],
    check: ([c]) => expectProduct("c", [a, b, c!], { rows, cols, inner, transposeA, transposeB }, tolerance[dtype]),
  };
}

const product = (name: string, dtype: FloatType, layout: string, shape: readonly number[]): Case =>
  kernelCase(name, () => productSubject(dtype, layout, shape), {
    f16: dtype === "f16",
    flops: 2 * shape.reduce((a, b) => a * b),
  });
