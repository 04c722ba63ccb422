import { gelu } from "@kindling/activations";
import { tensor } from "@kindling/core";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([-1, 0.5, 2], { requiresGrad: true });
  const y = gelu(x);
  y.backward(tensor([1, 1, 1]));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [-0.158655, 0.345731, 1.9545],
  dx: [-0.083315, 0.867495, 1.085232],
};

export const edit = {
  file: "activations.ts",
  lines: [["vec4f { return v; }", "vec4f { return 2 * v; }"]],
  doubles: "y",
} as const;
