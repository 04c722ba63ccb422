import { randn } from "@kindling/core";
import { dropout } from "@kindling/dropout";
import { expectClose, head, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, type Point, type Sizes, setsFor } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => sizes.pointwise.flatMap((shape) => dropoutCases(shape, sizes));

function dropoutCases([rows, cols]: readonly number[], sizes: Sizes): Case[] {
  const [R, C] = [rows!, cols!];
  const p = 0.1;
  const setup = (): Point => {
    const x = randn([R, C]);
    const dy = randn([R, C]);
    return {
      leaves: [x],
      dy,
      forward: () => dropout(x, p),
      async check([y], grads) {
        const v = await head(x);
        const out = await head(y!);
        const kept = (values: readonly number[]): number[] => values.map((e, i) => (out[i] === 0 ? 0 : e / (1 - p)));
        expectClose("y", out, kept(v), tolerance.f32);
        expectClose("the dropped part", [out.filter((e) => e === 0).length / out.length], [p], 0.02);
        if (grads) expectClose("dx", await head(grads[0]!), kept(await head(dy)), tolerance.f32);
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`dropout ${R}×${C}`, setup, { bytes: [2 * bytes, 4 * bytes], sets: setsFor(bytes, sizes) });
}
