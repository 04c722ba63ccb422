import { randn } from "@kindling/core";
import { type PadMode, pad } from "@kindling/padding";
import { expectClose, part, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, type Point, type Sizes, setsFor, times } from "../measure.ts";

const modes: readonly PadMode[] = ["constant", "reflect"];

export const cases = (sizes: Sizes): Case[] =>
  sizes.pad
    .flatMap((shape) => modes.map((mode) => [shape, mode] as const))
    .flatMap((one) => paddingCases(...one, sizes));

/** One element on each side of the last two axes. */
function paddingCases(shape: readonly number[], mode: PadMode, sizes: Sizes): Case[] {
  const [N, C, H, W] = shape as [number, number, number, number];
  const [outH, outW] = [H + 2, W + 2];
  const from = (i: number, n: number): number =>
    i >= 0 && i < n ? i : mode === "constant" ? -1 : i < 0 ? -i : 2 * n - 2 - i;
  const setup = (): Point => {
    const x = randn(shape);
    const dy = randn([N, C, outH, outW]);
    return {
      leaves: [x],
      dy,
      forward: () => pad(x, [1, 1, 1, 1], { mode }),
      async check([y], grads) {
        const plane = await part(x, x.size - H * W, H * W);
        const d = await part(dy, dy.size - outH * outW, outH * outW);
        const dx = new Array<number>(H * W).fill(0);
        const expected = d.map((gradient, out) => {
          const [h, w] = [from(Math.floor(out / outW) - 1, H), from((out % outW) - 1, W)];
          if (h < 0 || w < 0) return 0;
          dx[h * W + w]! += gradient;
          return plane[h * W + w]!;
        });
        expectClose("y", await part(y!, y!.size - outH * outW, outH * outW), expected, tolerance.f32);
        if (grads) expectClose("dx", await part(grads[0]!, grads[0]!.size - H * W, H * W), dx, tolerance.f32);
      },
    };
  };
  const [bytes, out] = [4 * N * C * H * W, 4 * N * C * outH * outW];
  return forwardAndBackward(`pad ${mode} ${times(shape)} by 1`, setup, {
    bytes: [bytes + out, 2 * bytes + 2 * out],
    sets: setsFor(bytes, sizes),
  });
}
