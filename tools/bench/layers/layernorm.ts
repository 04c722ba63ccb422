import { randn, type Tensor } from "@kindling/core";
import { layerNorm } from "@kindling/layernorm";
import { columnOf, dot, expectClose, expectSound, mean, rowOf, sum, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, type Point, type Sizes, setsFor } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => [
  ...sizes.layernorm.flatMap((shape) => layerNormCases(shape, sizes)),
  ...sizes.residual.flatMap((shape) => residualCases(shape, sizes)),
];

/** dL/dx of a row, and the normalised row, from g = dy · w. */
function normalised(v: readonly number[]): { normed: number[]; gradient(g: readonly number[]): number[] } {
  const average = mean(v);
  const rstd = 1 / Math.sqrt(mean(v.map((e) => (e - average) ** 2)) + 1e-5);
  const normed = v.map((e) => (e - average) * rstd);
  return {
    normed,
    gradient(g) {
      const [meanG, meanGN] = [mean(g), dot(g, normed) / g.length];
      return g.map((d, i) => rstd * (d - meanG - normed[i]! * meanGN));
    },
  };
}

/** Without affine parameters the rows are only standardised. */
export function layerNormPoint(R: number, C: number, affine = true): Point {
  const x = randn([R, C]);
  const [weight, bias] = affine ? [randn([C]), randn([C])] : [null, null];
  const dy = randn([R, C]);
  return {
    leaves: weight && bias ? [x, weight, bias] : [x],
    dy,
    forward: () => layerNorm(x, C, { weight, bias }),
    async check([y], grads) {
      const [w, b] = await parametersOf(weight, bias, C);
      const { normed, gradient } = normalised(await rowOf(x, R - 1, C));
      const expected = normed.map((n, i) => n * w[i]! + b[i]!);
      expectClose("y", await rowOf(y!, R - 1, C), expected, tolerance.f32);
      if (!grads) return;
      const [dx, dw, db] = grads as [Tensor, Tensor, Tensor];
      const g = (await rowOf(dy, R - 1, C)).map((d, i) => d * w[i]!);
      expectClose("dx", await rowOf(dx, R - 1, C), gradient(g), tolerance.f32);
      await expectSound("dw", dw);
      expectClose("db", await rowOf(db, 0, 1), [sum(await columnOf(dy, C))], 1e-3);
    },
  };
}

const parametersOf = async (weight: Tensor | null, bias: Tensor | null, C: number): Promise<[number[], number[]]> => [
  weight ? await rowOf(weight, 0, C) : new Array(C).fill(1),
  bias ? await rowOf(bias, 0, C) : new Array(C).fill(0),
];

function layerNormCases([rows, cols]: readonly number[], sizes: Sizes): Case[] {
  const [R, C] = [rows!, cols!];
  const bytes = 4 * R * C;
  return forwardAndBackward(`layernorm ${R}×${C}`, () => layerNormPoint(R, C), {
    bytes: [2 * bytes, 5 * bytes],
    sets: setsFor(bytes, sizes),
  });
}

/** Both outputs, the sum and its normalisation, get a gradient, as in a transformer's block. */
function residualCases([rows, cols]: readonly number[], sizes: Sizes): Case[] {
  const [R, C] = [rows!, cols!];
  const setup = (): Point => {
    const [x, residual, dy, dsum] = [0, 1, 2, 3].map(() => randn([R, C])) as [Tensor, Tensor, Tensor, Tensor];
    const weight = randn([C]);
    const bias = randn([C]);
    return {
      leaves: [x, weight, bias],
      dy: [dy, dsum],
      forward() {
        const { output, sum } = layerNorm(x, C, { weight, bias, residual });
        return [output, sum];
      },
      async check([y, s], grads) {
        const [w, b] = await parametersOf(weight, bias, C);
        const r = await rowOf(residual, R - 1, C);
        const v = (await rowOf(x, R - 1, C)).map((e, i) => e + r[i]!);
        const { normed, gradient } = normalised(v);
        expectClose("sum", await rowOf(s!, R - 1, C), v, tolerance.f32);
        const expected = normed.map((n, i) => n * w[i]! + b[i]!);
        expectClose("y", await rowOf(y!, R - 1, C), expected, tolerance.f32);
        if (!grads) return;
        const [dx, dw, db] = grads as [Tensor, Tensor, Tensor];
        const g = (await rowOf(dy, R - 1, C)).map((d, i) => d * w[i]!);
        const beside = await rowOf(dsum, R - 1, C);
        const through = gradient(g).map((d, i) => d + beside[i]!);
        expectClose("dx", await rowOf(dx, R - 1, C), through, tolerance.f32);
        await expectSound("dw", dw);
        expectClose("db", await rowOf(db, 0, 1), [sum(await columnOf(dy, C))], 1e-3);
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`layernorm+residual ${R}×${C}`, setup, {
    bytes: [4 * bytes, 8 * bytes],
    sets: setsFor(2 * bytes, sizes),
  });
}
