import { convTranspose1d } from "@kindling/conv-transpose";
import { tensor } from "@kindling/core";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([[[1, 2, 3]]], { requiresGrad: true });
  const w = tensor([[[1, -1]]], { requiresGrad: true });
  const y = convTranspose1d(x, w, { stride: 2 });
  y.backward(tensor([[[1, 2, 3, 4, 5, 6]]]));
  return { y: await y.data(), dx: await x.grad!.data(), dw: await w.grad!.data() };
}

export const expected: Record<string, number[]> = { y: [1, -1, 2, -2, 3, -3], dx: [-1, -1, -1], dw: [22, 28] };

export const edit = {
  file: "conv-transpose.ts",
  lines: [["var v = sums[o][e];", "var v = 2 * sums[o][e];"]],
  doubles: "y",
} as const;
