import { randn, type Tensor } from "@kindling/core";
import { rmsNorm } from "@kindling/rmsnorm";
import { dot, expectClose, expectSound, mean, rowOf, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, type Point, type Sizes, setsFor } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => [
  ...sizes.rmsnorm.flatMap((shape) => rmsNormCases(shape, false, sizes)),
  ...sizes.residual.flatMap((shape) => rmsNormCases(shape, true, sizes)),
];

const eps = 1e-6;

/** With a residual both outputs, the sum and its normalisation, get a gradient, as in a transformer's block. */
function rmsNormCases([rows, cols]: readonly number[], add: boolean, sizes: Sizes): Case[] {
  const [R, C] = [rows!, cols!];
  const setup = (): Point => {
    const [x, dy] = [randn([R, C]), randn([R, C])];
    const [residual, dsum] = add ? [randn([R, C]), randn([R, C])] : [null, null];
    const weight = randn([C]);
    return {
      leaves: [x, weight],
      dy: dsum ? [dy, dsum] : dy,
      forward() {
        if (!residual) return rmsNorm(x, C, { weight, eps });
        const { output, sum } = rmsNorm(x, C, { weight, eps, residual });
        return [output, sum];
      },
      async check([y, s], grads) {
        const w = await rowOf(weight, 0, C);
        const row = (t: Tensor | null): Promise<number[]> => (t ? rowOf(t, R - 1, C) : Promise.resolve(w.map(() => 0)));
        const r = await row(residual);
        const v = (await row(x)).map((e, i) => e + r[i]!);
        const rms = 1 / Math.sqrt(mean(v.map((e) => e * e)) + eps);
        const normed = v.map((e) => e * rms);
        const expected = normed.map((n, i) => n * w[i]!);
        expectClose("y", await row(y!), expected, tolerance.f32);
        if (s) expectClose("sum", await row(s), v, tolerance.f32);
        if (!grads) return;
        const [dx, dw] = grads as [Tensor, Tensor];
        const g = (await row(dy)).map((d, i) => d * w[i]!);
        const slope = dot(g, normed) / C;
        const beside = await row(dsum);
        const gradient = g.map((d, i) => rms * (d - normed[i]! * slope) + beside[i]!);
        expectClose("dx", await row(dx), gradient, tolerance.f32);
        await expectSound("dw", dw);
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`${add ? "rmsnorm+residual" : "rmsnorm"} ${R}×${C}`, setup, {
    bytes: add ? [4 * bytes, 8 * bytes] : [2 * bytes, 5 * bytes],
    sets: setsFor(add ? 2 * bytes : bytes, sizes),
  });
}
