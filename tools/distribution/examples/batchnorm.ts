import { batchNorm } from "@kindling/batchnorm";
import { tensor } from "@kindling/core";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([1, 2, 3, 4, 5, 7, 8, 0], { shape: [2, 2, 2], requiresGrad: true });
  const y = batchNorm(x, { training: true });
  y.backward(tensor([1, 0, 0, 0, 0, 0, 0, 1], { shape: [2, 2, 2] }));
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [-1.153112, -0.733799, -0.262111, 0.08737, 0.524142, 1.362769, 1.485296, -1.310555],
  dx: [0.175098, -0.193529, -0.117383, -0.077366, -0.041471, 0.059902, 0.082701, 0.112048],
};

export const edit = {
  file: "batchnorm.ts",
  lines: [["let z = (v - c[0]) * c[2] + c[3] + r;\n  y[i]", "let z = 2 * ((v - c[0]) * c[2] + c[3] + r);\n  y[i]"]],
  doubles: "y",
} as const;
