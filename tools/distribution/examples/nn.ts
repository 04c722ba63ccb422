import { tensor } from "@kindling/core";
import { Linear, ReLU, Sequential } from "@kindling/nn";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const model = new Sequential(new Linear(3, 2), new ReLU(), new Linear(2, 1));
  model.loadStateDict({
    "0.weight": tensor([
      [1, 0, -1],
      [2, 1, 0],
    ]),
    "0.bias": tensor([0.5, -1]),
    "2.weight": tensor([[1, 2]]),
    "2.bias": tensor([0.5]),
  });
  const x = tensor([[1, 2, 3]], { requiresGrad: true });
  const y = model.forward(x);
  y.backward();
  return { y: await y.data(), dx: await x.grad!.data() };
}

export const expected: Record<string, number[]> = { y: [6.5], dx: [4, 2, 0] };
