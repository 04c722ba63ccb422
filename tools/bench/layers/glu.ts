import { silu } from "@kindling/activations";
import { randn } from "@kindling/core";
import { glu } from "@kindling/glu";
import { expectClose, rowOf, sigmoidAt, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, type Point, type Sizes, setsFor } from "../measure.ts";

/** Name, the gate, its value and its slope. */
const gates = [
  { name: "glu", activation: undefined, at: sigmoidAt, slopeAt: (x: number) => sigmoidAt(x) * sigmoidAt(-x) },
  {
    name: "swiglu",
    activation: silu,
    at: (x: number) => x * sigmoidAt(x),
    slopeAt: (x: number) => sigmoidAt(x) * (1 + x * sigmoidAt(-x)),
  },
] as const;

export const cases = (sizes: Sizes): Case[] =>
  sizes.glu.flatMap((shape) => gates.flatMap((gate) => gluCases(shape, gate, sizes)));

function gluCases(
  [rows, cols]: readonly number[],
  { name, activation, at, slopeAt }: (typeof gates)[number],
  sizes: Sizes,
): Case[] {
  const [R, C] = [rows!, cols!];
  const half = C / 2;
  const setup = (): Point => {
    const x = randn([R, C]);
    const dy = randn([R, half]);
    return {
      leaves: [x],
      dy,
      forward: () => glu(x, { activation }),
      async check([y], grads) {
        const v = await rowOf(x, R - 1, C);
        const [a, b] = [v.slice(0, half), v.slice(half)];
        const expected = a.map((e, i) => e * at(b[i]!));
        expectClose("y", await rowOf(y!, R - 1, half), expected, tolerance.f32);
        if (!grads) return;
        const d = await rowOf(dy, R - 1, half);
        const gradient = [...d.map((e, i) => e * at(b[i]!)), ...d.map((e, i) => e * a[i]! * slopeAt(b[i]!))];
        expectClose("dx", await rowOf(grads[0]!, R - 1, C), gradient, tolerance.f32);
      },
    };
  };
  const bytes = 4 * R * half;
  return forwardAndBackward(`${name} ${R}×${C}→${half}`, setup, {
    bytes: [3 * bytes, 8 * bytes],
    sets: setsFor(2 * bytes, sizes),
  });
}
