import { gelu, silu } from "@kindling/activations";
import { autocast, type FloatType, randn } from "@kindling/core";
import { linear } from "@kindling/linear";
import { elementwise, pointwise } from "@kindling/math/autodiff";
import { columnOf, expectClose, expectProduct, geluAt, part, rowOf, sigmoidAt, tolerance } from "../checks.ts";
import { type Case, floats, forwardAndBackward, type Point, precision, type Sizes, setsFor } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => [
  ...sizes.elementwise.flatMap((shape) => floats.flatMap((dtype) => chainCases(shape, dtype, sizes))),
  ...sizes.linear.flatMap((shape) => floats.flatMap((dtype) => activationCases(shape, dtype))),
];

const siluAt = (x: number): number => x * sigmoidAt(x);

/** Six operations, of which one more function makes none; a, b and c belong to the columns. */
const chain = /* wgsl */ `
fn stableTanh(x: f32) -> f32 {
  let e = exp(-2.0 * abs(x));
  return sign(x) * (1.0 - e) / (1.0 + e);
}
fn sigmoid(x: f32) -> f32 {
  return 1.0 / (1.0 + exp(-x));
}
fn chain(x: f32, a: f32, b: f32, c: f32) -> f32 {
  return stableTanh(x * a + b) * sigmoid(x) + c;
}`;

function chainCases([rows, cols]: readonly number[], dtype: FloatType, sizes: Sizes): Case[] {
  const [R, C] = [rows!, cols!];
  const setup = (): Point => {
    const [x, dy] = [randn([R, C], { dtype }), randn([R, C], { dtype })];
    const [a, b, c] = [randn([C], { dtype }), randn([C], { dtype }), randn([C], { dtype })];
    return {
      leaves: [x, a, b, c],
      dy,
      forward: () => elementwise(chain, x, a, b, c),
      async check([y], grads) {
        const last = (t: typeof x): Promise<number[]> => rowOf(t, R - 1, C);
        const [v, av, bv, cv] = [await last(x), await part(a, 0, C), await part(b, 0, C), await part(c, 0, C)];
        const bend = v.map((e, i) => Math.tanh(e * av[i]! + bv[i]!));
        const expected = v.map((e, i) => bend[i]! * sigmoidAt(e) + cv[i]!);
        expectClose("y", await last(y!), expected, tolerance[dtype]);
        if (!grads) return;
        const d = await last(dy);
        const slope = v.map((e, i) => sigmoidAt(e) * ((1 - bend[i]! ** 2) * av[i]! + bend[i]! * sigmoidAt(-e)));
        const gradient = d.map((e, i) => e * slope[i]!);
        expectClose("dx", await last(grads[0]!), gradient, tolerance[dtype]);
        const sum = (await columnOf(dy, C)).reduce((total, e) => total + e, 0);
        expectClose("dc", await part(grads[3]!, 0, 1), [sum], tolerance[dtype], Math.sqrt(R));
      },
    };
  };
  const bytes = (dtype === "f16" ? 2 : 4) * R * C;
  return forwardAndBackward(`elementwise chain of 6 ${dtype} ${R}×${C}`, setup, {
    f16: dtype === "f16",
    bytes: [2 * bytes, 5 * bytes],
    sets: setsFor(bytes, sizes),
  });
}

/** Activations as a user's own text, with a derived backward, beside the built-in ones: gelu's row is `linear+gelu`. */
const activations = {
  "own gelu": [pointwise("ownGelu", `${gelu.forward}\nfn ownGelu(x: f32) -> f32 { return gelu(x); }`), geluAt],
  silu: [silu, siluAt],
  "own silu": [pointwise("ownSilu", "fn ownSilu(x: f32) -> f32 { return x / (1.0 + exp(-x)); }"), siluAt],
} as const;

function activationCases([rows, inner, cols]: readonly number[], dtype: FloatType): Case[] {
  const [M, K, N] = [rows!, inner!, cols!];
  const flops = 2 * M * N * K;
  return Object.entries(activations).flatMap(([name, [activation, valueAt]]) => {
    const setup = (): Point => {
      const [x, weight, bias] = [randn([M, K]), randn([N, K]), randn([N])];
      const dy = randn([M, N], { dtype });
      return {
        leaves: [x, weight, bias],
        dy,
        forward: () => autocast(dtype, () => linear(x, weight, bias, { activation })),
        async check([y]) {
          const b = Array.from(await bias.data());
          const product = { rows: M, cols: N, inner: K, transposeB: true };
          const finish = (z: number, col: number): number => valueAt(z + b[col]!);
          await expectProduct("y", [x, weight, y!], product, tolerance[dtype], finish);
        },
      };
    };
    const title = `linear+${name} ${precision(dtype)} ${M}×${K}→${N}`;
    return forwardAndBackward(title, setup, { f16: dtype === "f16", flops: [flops, 3 * flops] });
  });
}
