import { relu } from "@kindling/activations";
import { batchNorm } from "@kindling/batchnorm";
import { type FloatType, ones, randn, type Tensor, zeros } from "@kindling/core";
import { dot, expectClose, mean, part, runs, sum, tolerance } from "../checks.ts";
import { type Case, floats, forwardAndBackward, type Point, type Sizes, setsFor, times } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] =>
  sizes.batchnorm.flatMap((shape) =>
    floats.flatMap((dtype) => [
      ...batchNormCases(shape, dtype, false, sizes),
      ...batchNormCases(shape, dtype, true, sizes),
    ]),
  );

/** In training. f16 is that of x, as behind a convolution under autocast; parameters and statistics are f32. */
function batchNormCases(shape: readonly number[], dtype: FloatType, block: boolean, sizes: Sizes): Case[] {
  const [N, C, H, W] = shape as [number, number, number, number];
  const setup = (): Point => {
    const x = randn(shape, { dtype });
    const dy = randn(shape, { dtype });
    const residual = block ? randn(shape, { dtype }) : null;
    const weight = randn([C]);
    const bias = randn([C]);
    const [runningMean, runningVar] = [zeros([C]), ones([C])];
    const lastChannel = (t: Tensor): Promise<number[]> =>
      runs(t, { start: (C - 1) * H * W, count: N, length: H * W, stride: C * H * W });
    return {
      leaves: residual ? [x, residual, weight, bias] : [x, weight, bias],
      dy,
      forward: () =>
        batchNorm(x, {
          ...{ weight, bias, runningMean, runningVar, residual, training: true },
          activation: block ? relu : null,
        }),
      async check([y], grads) {
        const [w, b] = [(await part(weight, C - 1, 1))[0]!, (await part(bias, C - 1, 1))[0]!];
        const v = await lastChannel(x);
        const average = mean(v);
        const rstd = 1 / Math.sqrt(mean(v.map((e) => (e - average) ** 2)) + 1e-5);
        const normed = v.map((e) => (e - average) * rstd);
        const beside = residual ? await lastChannel(residual) : [];
        const before = normed.map((n, i) => n * w + b + (beside[i] ?? 0));
        const out = await lastChannel(y!);
        const expected = block ? before.map((e) => Math.max(e, 0)) : before;
        expectClose("y", out, expected, tolerance[dtype]);
        if (!grads) return;
        // where y is rounded to zero, the sign of its exact value does not count
        const g = (await lastChannel(dy)).map((d, i) => (block && out[i]! <= 0 ? 0 : d));
        const [dx, dr, dw, db] = (residual ? grads : [grads[0], undefined, ...grads.slice(1)]) as Tensor[];
        const [meanG, meanGN] = [mean(g), dot(g, normed) / g.length];
        const gradient = g.map((d, i) => w * rstd * (d - meanG - normed[i]! * meanGN));
        expectClose("dx", await lastChannel(dx!), gradient, tolerance[dtype]);
        if (dr) expectClose("dresidual", await lastChannel(dr), g, tolerance[dtype]);
        const size = Math.sqrt(g.length);
        expectClose("dw", await part(dw!, C - 1, 1), [dot(g, normed)], tolerance[dtype], size);
        expectClose("db", await part(db!, C - 1, 1), [sum(g)], tolerance[dtype], size);
      },
    };
  };
  const bytes = (dtype === "f16" ? 2 : 4) * N * C * H * W;
  const name = `batchnorm2d${block ? "+residual+relu" : ""}${dtype === "f16" ? " f16" : ""}`;
  return forwardAndBackward(`${name} ${times(shape)}`, setup, {
    f16: dtype === "f16",
    bytes: block ? [3 * bytes, 8 * bytes] : [2 * bytes, 5 * bytes],
    sets: setsFor(bytes, sizes),
  });
}
