import { tensor } from "@kindling/core";
import { groupNorm } from "@kindling/groupnorm";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([1, 2, 3, 4, 0, 1, 5, 2], { shape: [1, 4, 2], requiresGrad: true });
  const y = groupNorm(x, 2);
  y.backward(tensor([1, 0, 0, 0, 0, 0, 0, 1], { shape: [1, 4, 2] }));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [-1.341635, -0.447212, 0.447212, 1.341635, -1.069043, -0.534522, 1.603565, 0],
  dx: [0.26833, -0.357768, -0.089443, 0.178882, -0.13363, -0.13363, -0.13363, 0.400891],
};

export const edit = {
  file: "groupnorm.ts",
  lines: [["var r = v;", "var r = 2 * v;"]],
  doubles: "y",
} as const;
