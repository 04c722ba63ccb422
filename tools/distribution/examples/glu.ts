import { tensor } from "@kindling/core";
import { glu } from "@kindling/glu";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([[1, 2, 0, -1]], { requiresGrad: true });
  const y = glu(x);
  y.backward(tensor([[1, 1]]));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = { y: [0.5, 0.537883], dx: [0.5, 0.268941, 0.25, 0.393224] };

export const edit = {
  file: "glu.ts",
  lines: [["y[i] = $", "y[i] = 2 * $"]],
  doubles: "y",
} as const;
