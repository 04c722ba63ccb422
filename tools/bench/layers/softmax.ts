import { randn, type Tensor } from "@kindling/core";
import { logSoftmax, softmax } from "@kindling/softmax";
import { dot, expectClose, runs, softmaxOf, sum, tolerance } from "../checks.ts";
import { type Case, forwardAndBackward, type Point, type Sizes, setsFor, times } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => [
  ...sizes.softmax.flatMap(({ shape, dim }) => softmaxCases("softmax", shape, dim, sizes)),
  ...sizes.logSoftmax.flatMap(({ shape, dim }) => softmaxCases("logsoftmax", shape, dim, sizes)),
];

export function softmaxPoint(name: "softmax" | "logsoftmax", shape: readonly number[], dim: number): Point {
  const x = randn(shape);
  const dy = randn(shape);
  const length = shape.at(dim)!;
  const stride = shape.slice(dim === -1 ? shape.length : dim + 1).reduce((a, b) => a * b, 1);
  /** The last of the lines along which is summed. */
  const line = (t: Tensor): Promise<number[]> =>
    runs(t, { start: t.size - 1 - (length - 1) * stride, count: length, length: 1, stride });
  return {
    leaves: [x],
    dy,
    forward: () => (name === "softmax" ? softmax : logSoftmax)(x, { dim }),
    async check([y], grads) {
      const p = softmaxOf(await line(x));
      // the values of a softmax are of the size 1 / length
      const size = name === "softmax" ? 1 / length : 1;
      expectClose("y", await line(y!), name === "softmax" ? p : p.map(Math.log), tolerance.f32, size);
      if (!grads) return;
      const d = await line(dy);
      const mean = dot(d, p);
      const total = sum(d);
      const expected = p.map((e, i) => (name === "softmax" ? e * (d[i]! - mean) : d[i]! - e * total));
      expectClose("dx", await line(grads[0]!), expected, tolerance.f32, size);
    },
  };
}

function softmaxCases(name: "softmax" | "logsoftmax", shape: readonly number[], dim: number, sizes: Sizes): Case[] {
  const bytes = 4 * shape.reduce((a, b) => a * b);
  const title = `${name}${dim === -1 ? "" : ` dim ${dim} of`} ${times(shape)}`;
  return forwardAndBackward(title, () => softmaxPoint(name, shape, dim), {
    bytes: [2 * bytes, 5 * bytes],
    sets: setsFor(bytes, sizes),
  });
}
