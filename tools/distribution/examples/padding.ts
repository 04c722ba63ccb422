import { tensor } from "@kindling/core";
import { pad } from "@kindling/padding";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([[[1, 2, 3]]], { requiresGrad: true });
  const y = pad(x, [2, 1], { mode: "reflect" });
  y.backward(tensor([[[1, 2, 3, 4, 5, 6]]]));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = { y: [3, 2, 1, 2, 3, 2], dx: [3, 12, 6] };

export const edit = {
  file: "padding.ts",
  lines: [["value = x[", "value = 2 * x["]],
  doubles: "y",
} as const;
