import { mul, tensor } from "@kindling/core";
import { AdamW } from "@kindling/optim";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const p = tensor([1, 2], { requiresGrad: true });
  const optimizer = new AdamW([p], { lr: 0.1 });
  mul(p, tensor([3, -4])).backward(tensor([1, 1]));
  optimizer.step();
  optimizer.step();
  return { p: await p.data() };
}

export const expected: Record<string, number[]> = { p: [0.798101, 2.195902] };
