import { clearGrad, parameter, randn } from "@kindling/core";
import { AdamW } from "@kindling/optim";
import { expectClose, head } from "../checks.ts";
import { type Case, kernelCase, type Sizes } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => sizes.adamw.map(([count, size]) => adamWCase(count!, size!));

function adamWCase(count: number, size: number): Case {
  const [lr, weightDecay] = [1e-3, 0.01];
  const setup = async () => {
    const params = Array.from({ length: count }, () => parameter(randn([size])));
    for (const p of params) p.grad = randn([size]);
    const optimizer = new AdamW(params, { lr, weightDecay });
    const before = await head(params.at(-1)!);
    return {
      step: () => {
        optimizer.step();
        return [];
      },
      async check(): Promise<void> {
        // the first step goes by the signs of the gradients
        const g = await head(params.at(-1)!.grad!);
        const expected = before.map((e, i) => e - lr * (weightDecay * e + Math.sign(g[i]!)));
        expectClose("p", await head(params.at(-1)!), expected, 2e-5);
      },
      dispose: () => {
        for (const p of params) {
          clearGrad(p);
          p.dispose();
        }
        optimizer.dispose();
      },
    };
  };
  return kernelCase(`adamw ${count} tensors of ${size}`, setup, { bytes: 28 * count * size, eager: true });
}
