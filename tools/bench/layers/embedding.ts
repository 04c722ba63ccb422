import { randn, tensor } from "@kindling/core";
import { embedding } from "@kindling/embedding";
import { expectClose, rowOf, sum, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, ids, type Point, type Sizes } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => sizes.embedding.flatMap((shape) => embeddingCases(shape));

function embeddingCases([vocabulary, width, count]: readonly number[]): Case[] {
  const [V, W, N] = [vocabulary!, width!, count!];
  const setup = (): Point => {
    const weight = randn([V, W]);
    const tokens = ids(N, V);
    const input = tensor(tokens);
    const dy = randn([N, W]);
    return {
      leaves: [weight],
      dy,
      forward: () => embedding(input, weight),
      async check([y], grads) {
        const id = tokens[N - 1]!;
        expectClose("y", await rowOf(y!, N - 1, W), await rowOf(weight, id, W), 0);
        if (!grads) return;
        const rows = await Promise.all([...tokens.keys()].filter((i) => tokens[i] === id).map((i) => rowOf(dy, i, W)));
        const gradient = rows[0]!.map((_, c) => sum(rows.map((row) => row[c]!)));
        expectClose("dW", await rowOf(grads[0]!, id, W), gradient, tolerance.f32);
      },
    };
  };
  const bytes = 4 * N * W;
  return forwardAndBackward(`embedding ${V}×${W}, ${N} ids`, setup, { bytes: [2 * bytes, 3 * bytes + 4 * V * W] });
}
