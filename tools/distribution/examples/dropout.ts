import { manualSeed, ones, tensor } from "@kindling/core";
import { dropout } from "@kindling/dropout";

export async function example(): Promise<Record<string, Iterable<number>>> {
  manualSeed(1);
  const x = tensor(new Float32Array(1000).fill(1), { requiresGrad: true });
  const y = dropout(x, 0.5);
  y.backward(ones([1000]));
  const [kept, dx] = [await y.data(), await x.grad!.data()];
  return { values: [...new Set(kept)].sort(), mismatches: [kept.filter((value, i) => value !== dx[i]).length] };
}

export const expected: Record<string, number[]> = { values: [0, 2], mismatches: [0] };

export const edit = {
  file: "dropout.ts",
  lines: [["vec4f(x[i]) * params.scale", "2 * vec4f(x[i]) * params.scale"]],
  doubles: "values",
} as const;
