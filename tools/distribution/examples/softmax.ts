import { tensor } from "@kindling/core";
import { softmax } from "@kindling/softmax";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([[1, 2, 3]], { requiresGrad: true });
  const y = softmax(x);
  y.backward(tensor([[1, 0, 0]]));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [0.090031, 0.244728, 0.665241],
  dx: [0.081925, -0.022033, -0.059892],
};

export const edit = {
  file: "softmax.ts",
  lines: [["var result = v[k] * scale;", "var result = 2 * v[k] * scale;"]],
  doubles: "y",
} as const;
