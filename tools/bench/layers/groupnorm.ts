import { randn, type Tensor } from "@kindling/core";
import { groupNorm } from "@kindling/groupnorm";
import { dot, expectClose, expectSound, mean, part, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, type Point, type Sizes, setsFor, times } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] =>
  sizes.groupnorm.flatMap(({ shape, groups }) => groupNormCases(shape, groups, sizes));

function groupNormCases(shape: readonly number[], groups: number, sizes: Sizes): Case[] {
  const [N, C, H, W] = shape as [number, number, number, number];
  const setup = (): Point => {
    const x = randn(shape);
    const weight = randn([C]);
    const bias = randn([C]);
    const dy = randn(shape);
    const channels = C / groups;
    const size = channels * H * W;
    const lastGroup = (t: Tensor): Promise<number[]> => part(t, t.size - size, size);
    return {
      leaves: [x, weight, bias],
      dy,
      forward: () => groupNorm(x, groups, { weight, bias }),
      async check([y], grads) {
        const [w, b] = [await part(weight, C - channels, channels), await part(bias, C - channels, channels)];
        const channel = (i: number): number => Math.floor(i / (H * W));
        const v = await lastGroup(x);
        const average = mean(v);
        const rstd = 1 / Math.sqrt(mean(v.map((e) => (e - average) ** 2)) + 1e-5);
        const normed = v.map((e) => (e - average) * rstd);
        const expected = normed.map((n, i) => n * w[channel(i)]! + b[channel(i)]!);
        expectClose("y", await lastGroup(y!), expected, tolerance.f32);
        if (!grads) return;
        const [dx, dw, db] = grads as [Tensor, Tensor, Tensor];
        const g = (await lastGroup(dy)).map((d, i) => d * w[channel(i)]!);
        const [meanG, meanGN] = [mean(g), dot(g, normed) / size];
        const gradient = g.map((d, i) => rstd * (d - meanG - normed[i]! * meanGN));
        expectClose("dx", await lastGroup(dx), gradient, tolerance.f32);
        await expectSound("dw", dw);
        await expectSound("db", db);
      },
    };
  };
  const bytes = 4 * N * C * H * W;
  return forwardAndBackward(`groupnorm ${groups} groups ${times(shape)}`, setup, {
    bytes: [2 * bytes, 5 * bytes],
    sets: setsFor(bytes, sizes),
  });
}
