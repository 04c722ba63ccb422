import { conv1d } from "@kindling/conv1d";
import { tensor } from "@kindling/core";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([[[1, 2, 3, 4]]], { requiresGrad: true });
  const w = tensor([[[1, 0, -2]]], { requiresGrad: true });
  const y = conv1d(x, w, { padding: 1 });
  y.backward(tensor([[[1, 2, 3, 4]]]));
  return { y: await y.data(), dx: await x.grad!.data(), dw: await w.grad!.data() };
}

export const expected: Record<string, number[]> = { y: [-4, -5, -6, 3], dx: [2, 1, 0, -6], dw: [20, 30, 20] };

export const edit = {
  file: "conv1d.ts",
  lines: [["var v = $", "var v = 2 * $"]],
  doubles: "y",
} as const;
