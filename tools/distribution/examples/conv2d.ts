import { conv2d } from "@kindling/conv2d";
import { tensor } from "@kindling/core";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([1, 2, 3, 4, 5, 6, 7, 8, 9], { shape: [1, 1, 3, 3], requiresGrad: true });
  const w = tensor([1, 0, 0, -2], { shape: [1, 1, 2, 2], requiresGrad: true });
  const y = conv2d(x, w);
  y.backward(tensor([1, 2, 3, 4], { shape: [1, 1, 2, 2] }));
  return { y: await y.data(), dx: await x.grad!.data(), dw: await w.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [-9, -10, -12, -13],
  dx: [1, 2, 0, 3, 2, -4, 0, -6, -8],
  dw: [37, 47, 67, 77],
};

export const edit = {
  file: "conv2d.ts",
  lines: [["var v = $", "var v = 2 * $"]],
  doubles: "y",
} as const;
