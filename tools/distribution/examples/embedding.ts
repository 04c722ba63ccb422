import { tensor } from "@kindling/core";
import { embedding } from "@kindling/embedding";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const weight = tensor(
    [
      [1, 2],
      [3, 4],
      [5, 6],
    ],
    { requiresGrad: true },
  );
  const y = embedding(tensor([2, 0, 2], { dtype: "i32" }), weight);
  y.backward(
    tensor([
      [1, 2],
      [3, 4],
      [5, 6],
    ]),
  );
  return { y: await y.data(), dw: await weight.grad!.data() };
}

export const expected: Record<string, number[]> = { y: [5, 6, 1, 2, 5, 6], dw: [3, 4, 0, 0, 6, 8] };

export const edit = {
  file: "embedding.ts",
  lines: [["y[i] = weight[id", "y[i] = 2 * weight[id"]],
  doubles: "y",
} as const;
