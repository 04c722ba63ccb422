import { hardshrink, hardsigmoid, hardswish, hardtanh, relu6, softshrink } from "@kindling/activations";
import { activationReference } from "@kindling/activations/reference";
import { conv2dReference } from "@kindling/conv2d/reference";
import { manualSeed, tensor } from "@kindling/core";
import { mixedError, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { multiheadReference } from "../../../packages/attention/src/multihead.reference.ts";
import { Case, casesOf, extent, normals, outside, precisions, product, rotate, sample } from "../grid.ts";
import { layers } from "../layers.ts";
import { convolutionAt, multiheadRows, outputSize } from "../oracles.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const available = precisions.filter(({ dtype, amp }) => hasF16 || (dtype === "f32" && !amp));
const TIMEOUT = extent === "small" ? 60_000 : 24 * 3_600_000;

for (const layer of layers)
  describe(layer.name, () => {
    const { groups } = casesOf(layer, available);
    for (const [name, cases] of groups)
      it(
        name,
        async () => {
          const failures: string[] = [];
          let count = 0;
          for (const c of cases()) {
            manualSeed(0);
            await layer.run(c);
            expect(c.compared, JSON.stringify(c.options)).toBeGreaterThan(0);
            failures.push(...c.failures.map((failure) => `${JSON.stringify(c.options)} ${failure}`));
            count++;
          }
          expect(failures).toEqual([]);
          if (extent !== "full") expect(count).toBeGreaterThan(0);
        },
        TIMEOUT,
      );
  });

describe("activations at their edges", () => {
  const named = { hardshrink, softshrink, hardswish, hardsigmoid, hardtanh, relu6 };
  it.each([
    ["hardshrink", [-0.5, 0.5]],
    ["softshrink", [-0.5, 0.5]],
    ["hardswish", [-3, 3]],
    ["hardsigmoid", [-3, 3]],
    ["hardtanh", [-1, 1]],
    ["relu6", [0, 6]],
  ] as const)("%s", async (name, edges) => {
    const x = tensor([...edges], { requiresGrad: true });
    const y = named[name](x);
    y.backward(tensor([1, 1]));
    const { f, derivative } = activationReference(name);
    expect(outside(await y.data(), edges.map(f), { rtol: 1e-3, atol: 1e-3 }).count).toBe(0);
    expect(outside(await x.grad!.data(), edges.map(derivative), { rtol: 1e-3, atol: 1e-3 }).count).toBe(0);
  });
});

describe("the grid", () => {
  it.each(layers.map(({ name }, i) => ({ name, i })))("meets every option of $name", ({ i }) => {
    const layer = layers[i]!;
    const { axes, groups } = casesOf(layer, available, "small");
    const cases = [...groups.values()].flatMap((list) => [...list()]);
    const met = cases.map(({ shape, precision, options }) => [shape, precision, ...Object.values(options)]);
    const [shapes, ...others] = axes;
    for (const [axis, values] of others.entries())
      for (const value of values) expect(met.map((row) => row[axis + 1])).toContain(value);
    for (const shape of shapes!) {
      // Where no combination exists with a shape, such as halves of an odd size, it is left out.
      const exists = [...product(axes.map(({ length }) => length))].some((pick) => {
        const options = Object.fromEntries(
          Object.keys(layer.options).map((name, n) => [name, axes[n + 2]![pick[n + 2]!]]),
        );
        return axes[0]![pick[0]!] === shape && (layer.valid?.(shape as number[], options as never) ?? true);
      });
      expect(met.some((row) => row[0] === shape)).toBe(exists);
    }
  });

  it("meets all pairs where no limit is set", () => {
    const cases = rotate([3, 4, 2, 2], ([a, b]) => !(a === 0 && b === 0), Number.POSITIVE_INFINITY);
    const pairs = new Set(
      cases.flatMap((pick) => pick.flatMap((v, i) => pick.slice(0, i).map((w, k) => `${k}${w}${i}${v}`))),
    );
    expect(pairs.size).toBe(12 + 6 + 6 + 8 + 8 + 4 - 1);
    expect(cases.length).toBeLessThan(24);
  });

  it("samples both ends", () => {
    expect(sample(5, 8)).toEqual([0, 1, 2, 3, 4]);
    const some = sample(1000, 20);
    expect([some.length, some[0], some.at(-1)]).toEqual([20, 0, 999]);
    expect(sample(1000, 0)).toEqual([0, 999]);
  });

  it("finds what differs", () => {
    const c = new Case([4], precisions[0]!, {});
    const result = (...values: number[]) => ({ values, dtype: "f32" as const });
    c.expect("equal", result(1, 2, 3, 4), [1, 2.001, 3, 4], { rtol: 1e-3, atol: 0 });
    expect(c.failures).toEqual([]);
    c.expect("y", result(1, 2, 3, 4), [1, 2.1, 3, 4], { rtol: 1e-3, atol: 0 });
    c.expect("nan", result(1, Number.NaN), [1, 2], { rtol: 1, atol: 1 });
    c.expect("some", result(1, 2, 3, 4), [2, 5], { rtol: 1e-3, atol: 0 }, { runs: [1, 3] });
    c.expect("short", result(1, 2), [1, 2, 3], { rtol: 1, atol: 1 });
    c.expect("empty", result(), [], { rtol: 1, atol: 1 });
    expect(c.failures.map((failure) => failure.split(/[: ]/)[0])).toEqual(["y", "nan", "some", "short", "empty"]);
  });

  it.each([
    { x: [2, 4, 5, 6], weight: [6, 2, 3, 2], stride: [2, 1], padding: [1, 0], groups: 2 },
    { x: [1, 3, 7, 4], weight: [2, 3, 1, 4], stride: [1, 2], padding: [0, 3], groups: 1 },
  ] as const)("knows single elements of a convolution of $x", (c) => {
    const size = (shape: readonly number[]): number => shape.reduce((a, b) => a * b, 1);
    const [oh, ow] = outputSize(c);
    const [x, w] = [normals(size(c.x), 1), normals(size(c.weight), 2)];
    const dy = normals(c.x[0] * c.weight[0] * oh * ow, 3);
    const { stride, groups } = c;
    const whole = conv2dReference(x, w, null, dy, {
      ...{ x: c.x, weight: c.weight, stride, groups },
      padding: [
        [c.padding[0], c.padding[0]],
        [c.padding[1], c.padding[1]],
      ],
    });
    const one = convolutionAt(c, { x, w, dy });
    for (const name of ["y", "dx", "dw", "db"] as const)
      expect(
        mixedError(
          Float64Array.from(whole[name], (_, at) => one[name](at)),
          whole[name],
        ),
        name,
      ).toBeLessThan(1e-12);
  });

  it.each([false, true])("knows single rows of attention, causal %s", (causal) => {
    const [batch, length, E, heads] = [2, 5, 6, 3];
    const [query, memory] = [normals(batch * length * E, 1), normals(batch * length * E, 2)];
    const [inWeight, outWeight] = [normals(3 * E * E, 3), normals(E * E, 4)];
    const [inBias, outBias] = [normals(3 * E, 5), normals(E, 6)];
    const third = (v: Float32Array, n: number): Float32Array =>
      v.subarray((n * v.length) / 3, ((n + 1) * v.length) / 3);
    const rows = [0, 3, 9];
    const some = normals(rows.length * E, 7);
    const dy = new Float32Array(batch * length * E);
    for (const [n, row] of rows.entries()) dy.set(some.subarray(n * E, (n + 1) * E), row * E);
    const mask = causal
      ? Float64Array.from({ length: batch * heads * length * length }, (_, at) =>
          at % length <= Math.floor(at / length) % length ? 0 : Number.NEGATIVE_INFINITY,
        )
      : undefined;
    const { y, grads } = multiheadReference(
      {
        ...{ query, key: memory, value: memory, outWeight, outBias, mask },
        ...{ qWeight: third(inWeight, 0), kWeight: third(inWeight, 1), vWeight: third(inWeight, 2) },
        ...{ qBias: third(inBias, 0), kBias: third(inBias, 1), vBias: third(inBias, 2) },
      },
      { batch, heads, queries: length, keys: length, embedDim: E },
      dy,
    );
    const dims = { length, features: E, heads, causal };
    const actual = multiheadRows({ query, memory, inWeight, inBias, outWeight, outBias }, dims, rows, some);
    const joined = (...parts: (Float64Array | undefined)[]): number[] => parts.flatMap((part) => [...part!]);
    const expected = {
      y: rows.flatMap((row) => [...y.subarray(row * E, (row + 1) * E)]),
      dquery: grads.query!,
      dmemory: grads.key!.map((v, i) => v + grads.value![i]!),
      dinWeight: joined(grads.qWeight, grads.kWeight, grads.vWeight),
      dinBias: joined(grads.qBias, grads.kBias, grads.vBias),
      doutWeight: grads.outWeight!,
      doutBias: grads.outBias!,
    };
    for (const [name, values] of Object.entries(expected))
      expect(mixedError(actual[name as keyof typeof actual], values), name).toBeLessThan(1e-10);
  });
});
