import { tensor } from "@kindling/core";
import { maxPool1d } from "@kindling/pooling";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([[[1, 5, 3, 2]]], { requiresGrad: true });
  const y = maxPool1d(x, 2);
  y.backward(tensor([[[10, 20]]]));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = { y: [5, 3], dx: [0, 10, 20, 0] };

export const edit = {
  file: "pooling.ts",
  lines: [["(best);", "(2 * best);"]],
  doubles: "y",
} as const;
