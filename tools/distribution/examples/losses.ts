import { tensor } from "@kindling/core";
import { crossEntropy } from "@kindling/losses";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor(
    [
      [1, 2, 3],
      [0, 1, 0],
    ],
    { requiresGrad: true },
  );
  const y = crossEntropy(x, tensor([2, 0], { dtype: "i32" }), { reduction: "none" });
  y.backward(tensor([1, 1]));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [0.407606, 1.551445],
  dx: [0.090031, 0.244728, -0.334759, -0.788058, 0.576117, 0.211942],
};

export const edit = {
  file: "classes.ts",
  lines: [["l += params.z * lse * lse;", "l = 2 * l + params.z * lse * lse;"]],
  doubles: "y",
} as const;
