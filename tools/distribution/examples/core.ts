import { matmul, tensor } from "@kindling/core";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const a = tensor(
    [
      [1, 2],
      [3, 4],
    ],
    { requiresGrad: true },
  );
  const b = tensor([
    [5, 6],
    [7, 8],
  ]);
  const y = matmul(a, b);
  y.backward(
    tensor([
      [1, 0],
      [0, 1],
    ]),
  );
  return { y: await y.data(), da: await a.grad!.data() };
}

export const expected: Record<string, number[]> = { y: [19, 22, 43, 50], da: [5, 7, 6, 8] };
