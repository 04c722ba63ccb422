import { tensor } from "@kindling/core";
import { layerNorm } from "@kindling/layernorm";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([[1, 2, 4, 9]], { requiresGrad: true });
  const y = layerNorm(x, 4);
  y.backward(tensor([[1, 0, 0, 0]]));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [-0.973328, -0.648885, 0, 1.622213],
  dx: [0.16649, -0.132338, -0.081111, 0.046959],
};

export const edit = {
  file: "layernorm.ts",
  lines: [["(held[k]); }", "(2 * held[k]); }"]],
  doubles: "y",
} as const;
