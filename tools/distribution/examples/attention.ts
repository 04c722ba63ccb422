import { scaledDotProductAttention } from "@kindling/attention";
import { tensor } from "@kindling/core";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const shape = [1, 1, 2, 4];
  const q = tensor([1, 0, 2, 1, 0, 1, 1, 0], { shape, requiresGrad: true });
  const k = tensor([1, 1, 0, 0, 0, 2, 1, 1], { shape });
  const v = tensor([1, 2, 3, 4, 5, 6, 7, 8], { shape, requiresGrad: true });
  const y = scaledDotProductAttention(q, k, v);
  y.backward(tensor([1, 2, 3, 4, 1, 2, 3, 4], { shape }));
  return { y: await y.data(), dq: await q.grad!.data(), dv: await v.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [3.924234, 4.924234, 5.924235, 6.924234, 3.924234, 4.924234, 5.924235, 6.924234],
  dq: [-3.93224, 3.932235, 3.932237, 3.932237, -3.93224, 3.932235, 3.932237, 3.932237],
  dv: [0.537883, 1.075766, 1.613649, 2.151531, 1.462117, 2.924234, 4.386352, 5.848469],
};

export const edit = {
  file: "attention.kernels.ts",
  lines: [
    ["let back = select(1 / l, 0, l == 0)", "let back = 2 * select(1 / l, 0, l == 0)"],
    ["let back = select(1 / x[i], 0, x[i] == 0)", "let back = 2 * select(1 / x[i], 0, x[i] == 0)"],
  ],
  doubles: "y",
} as const;
