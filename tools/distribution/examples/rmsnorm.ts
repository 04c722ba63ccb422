import { tensor } from "@kindling/core";
import { rmsNorm } from "@kindling/rmsnorm";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([[1, 2, 4, 9]], { requiresGrad: true });
  const y = rmsNorm(x, 4, { eps: 1e-6 });
  y.backward(tensor([[1, 0, 0, 0]]));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [0.19803, 0.396059, 0.792118, 1.782266],
  dx: [0.196088, -0.003883, -0.007766, -0.017473],
};

export const edit = {
  file: "rmsnorm.ts",
  lines: [["(held[k]); }", "(2 * held[k]); }"]],
  doubles: "y",
} as const;
