import { gelu, relu } from "@kindling/activations";
import { type FloatType, randn } from "@kindling/core";
import { expectClose, geluAt, geluSlopeAt, head, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, type Point, type Sizes, setsFor } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] =>
  sizes.pointwise.flatMap((shape) => [
    ...geluCases(shape, "f32", 0, sizes),
    ...geluCases(shape, "f16", 0, sizes),
    ...geluCases(shape, "f32", 0.1, sizes),
    ...reluCases(shape, sizes),
  ]);

export function geluPoint([rows, cols]: readonly number[], dtype: FloatType, p: number): Point {
  const x = randn([rows!, cols!], { dtype });
  const dy = randn([rows!, cols!], { dtype });
  return {
    leaves: [x],
    dy,
    forward: () => gelu(x, { dropout: p }),
    async check([y], grads) {
      const v = await head(x);
      const out = await head(y!);
      /** A dropped element is exactly zero; gelu itself is so nowhere but at zero. */
      const kept = (values: readonly number[]): number[] =>
        p === 0 ? [...values] : values.map((e, i) => (out[i] === 0 ? 0 : e / (1 - p)));
      expectClose("y", out, kept(v.map(geluAt)), tolerance[dtype]);
      if (p > 0) expectClose("the dropped part", [out.filter((e) => e === 0).length / out.length], [p], 0.02);
      if (!grads) return;
      const d = await head(dy);
      const gradient = kept(v.map((e, i) => d[i]! * geluSlopeAt(e)));
      expectClose("dx", await head(grads[0]!), gradient, tolerance[dtype]);
    },
  };
}

function geluCases(shape: readonly number[], dtype: FloatType, p: number, sizes: Sizes): Case[] {
  const [R, C] = shape as [number, number];
  const bytes = (dtype === "f16" ? 2 : 4) * R * C;
  const name = `${p > 0 ? "gelu+dropout" : "gelu"}${dtype === "f16" ? " f16" : ""}`;
  return forwardAndBackward(`${name} ${R}×${C}`, () => geluPoint(shape, dtype, p), {
    f16: dtype === "f16",
    bytes: [2 * bytes, 5 * bytes],
    sets: setsFor(bytes, sizes),
  });
}

function reluCases([rows, cols]: readonly number[], sizes: Sizes): Case[] {
  const [R, C] = [rows!, cols!];
  const setup = (): Point => {
    const x = randn([R, C]);
    const dy = randn([R, C]);
    return {
      leaves: [x],
      dy,
      forward: () => relu(x),
      async check([y], grads) {
        const v = await head(x);
        const expected = v.map((e) => Math.max(e, 0));
        expectClose("y", await head(y!), expected, 0);
        if (!grads) return;
        const d = await head(dy);
        const gradient = v.map((e, i) => (e > 0 ? d[i]! : 0));
        expectClose("dx", await head(grads[0]!), gradient, 0);
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`relu ${R}×${C}`, setup, { bytes: [2 * bytes, 5 * bytes], sets: setsFor(bytes, sizes) });
}
