import { tensor } from "@kindling/core";
import { linear } from "@kindling/linear";

const square = {
  name: "square",
  forward: "fn square(x: f32) -> f32 { return x * x; }",
  backward: "fn squareGrad(x: f32, dy: f32) -> f32 { return 2 * x * dy; }",
};

export async function example(): Promise<Record<string, Iterable<number>>> {
  const x = tensor([[1, 2, 3]], { requiresGrad: true });
  const w = tensor(
    [
      [1, 0, -1],
      [2, 1, 0],
    ],
    { requiresGrad: true },
  );
  const b = tensor([0.5, -1], { requiresGrad: true });
  const y = linear(x, w, b, { activation: square });
  y.backward(tensor([[1, 2]]));
  return { y: await y.data(), dx: await x.grad!.data(), dw: await w.grad!.data(), db: await b.grad!.data() };
}

export const expected: Record<string, number[]> = {
  y: [2.25, 9],
  dx: [21, 12, 3],
  dw: [-3, -6, -9, 12, 24, 36],
  db: [-3, 12],
};

export const edit = {
  file: "linear.ts",
  lines: [["(d);", "(2 * d);"]],
  doubles: "dx",
} as const;
