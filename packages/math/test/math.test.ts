// Each function of numbers, and the gradient derived from it, against float64 over its whole range and against PyTorch.
import { pointwiseParameters } from "@kindling/core";
import { fixtures, mixedError, optionsOf, testDevice } from "@kindling/core/testing";
import * as math from "@kindling/math";
import { link, type MathFunction } from "@kindling/math";
import { describe, expect, test } from "vitest";
import { numbers } from "./check.ts";
import { evaluator, named, references, scalars } from "./functions.ts";
import { callRow, Interpreter, type Value } from "./interpreter.ts";

const device = await testDevice();
const runs = (globalThis as { process?: { env: Record<string, string> } }).process?.env.KINDLING_GPU !== "null";

const cases = [...(await fixtures(new URL("./math.safetensors", import.meta.url)))].map(([name, tensors]) => ({
  name,
  own: name.split(" ")[0]!,
  options: optionsOf(name, tensors) as Record<string, number>,
  tensors,
}));
/** smoothL1Loss and huberLoss take their number as an argument, the activations as a choice. */
const all = cases.map((item) => ({ ...item, fn: named(item.own, item.options) }));
const ofNumbers = all.filter(({ fn }) => "forward" in fn);
const others = all.filter(({ fn }) => !("forward" in fn));
const used = [...new Set([...scalars, ...references.map(({ fn }) => fn), ...ofNumbers.map(({ fn }) => fn)])];

const evaluate = evaluator(device, used);

const ulp = (y: number): number => 2 ** Math.max(Math.floor(Math.log2(Math.abs(y) || 1e-38)) - 23, -149);
const count = 4096;

/** Half of them evenly, half towards zero from both sides, down to 1e-30. */
function range(low: number, high: number): Float32Array {
  return Float32Array.from({ length: count }, (_, i) => {
    const t = i / (count - 1);
    const small = (i % 4 < 2 ? 1 : -1) * 10 ** (-30 + 30 * t);
    return i % 2 ? low + (high - low) * t : Math.min(Math.max(small, low), high);
  });
}

if (runs)
  describe("on the GPU", () => {
    test("accuracy in ULP, and the derived slope", async () => {
      const x = references.map(({ low, high }) => range(low, high));
      const dy = new Float32Array(count).fill(1);
      const pairs = [-80, -3, -0.7, 0, 1e-4, 2, 60].map((b) => [range(-80, 80), dy.map(() => b)]);
      const results = await evaluate([
        ...references.map(({ fn }, k) => ({ fn, inputs: [x[k]!], dy })),
        ...pairs.map((inputs) => ({ fn: math.logAddExp, inputs, dy })),
      ]);
      const wrong: string[] = [];
      references.forEach(({ fn, f, slope, ulp: most, slopeError = 5e-7 }, k) => {
        const worst = { y: [0, 0], dx: [0, 0] };
        x[k]!.forEach((value, i) => {
          const expected = f(value);
          const error = Math.abs(results[k]!.y[i]! - expected) / ulp(expected);
          // below are the numbers that a GPU may flush to 0
          if (Math.abs(expected) > 2 ** -120 && !(error <= worst.y[0]!)) worst.y = [error, value];
          const g = slope(value);
          const dx = Math.abs(results[k]!.grads[0]![i]! - g) / (1 + Math.abs(g));
          if (!(dx <= worst.dx[0]!)) worst.dx = [dx, value];
        });
        if (!(worst.y[0]! <= most)) wrong.push(`${fn.name}: ${worst.y[0]} ULP at ${worst.y[1]}, expected ${most}`);
        if (!(worst.dx[0]! <= slopeError)) wrong.push(`${fn.name}Grad: ${worst.dx[0]} at ${worst.dx[1]}`);
      });
      pairs.forEach(([a, b], k) => {
        const { y, grads } = results[references.length + k]!;
        a!.forEach((value, i) => {
          const other = b![i]!;
          const expected = Math.max(value, other) + Math.log1p(Math.exp(-Math.abs(value - other)));
          // a sum of two that cancel is as exact as they are
          const error =
            Math.abs(y[i]! - expected) / ulp(Math.max(Math.abs(expected), Math.abs(Math.max(value, other))));
          const share = 1 / (1 + Math.exp(other - value));
          const dx = Math.max(Math.abs(grads[0]![i]! - share), Math.abs(grads[1]![i]! - (1 - share)));
          if (!(error <= 5 && dx <= 5e-7)) wrong.push(`logAddExp(${value}, ${other}): ${error} ULP, its slope ${dx}`);
        });
      });
      expect(wrong).toEqual([]);
    });

    test("PyTorch's values and gradients, at the seams too", async () => {
      const results = await evaluate(
        ofNumbers.map(({ fn, tensors, options }) => ({
          fn,
          dy: tensors.dy!.values,
          inputs: pointwiseParameters(fn).map(
            (param) => tensors[param]?.values ?? Array.from(tensors.dy!.values, () => options[param]!),
          ),
        })),
      );
      const wrong: Record<string, number> = {};
      ofNumbers.forEach(({ name, fn, tensors }, k) => {
        const errors = [mixedError(results[k]!.y, tensors.y!.values)];
        pointwiseParameters(fn).forEach((param, i) => {
          const expected = tensors[`d${param}`];
          if (expected) errors.push(mixedError(results[k]!.grads[i]!, expected.values));
        });
        if (!(Math.max(...errors) < 4e-6)) wrong[name] = Math.max(...errors);
      });
      expect(wrong).toEqual({});
      expect(ofNumbers.length).toBeGreaterThan(55);
    });

    test("NaN stays NaN, and no finite x gives one", async () => {
      const finite = [
        0, -0, 1e-38, -1e-38, 1e-20, 1, -1, 3, -3, 15, -15, 87, 89, -89, 103.5, -103.5, 105, -105, 1e6, -1e6,
      ];
      const x = [Number.NaN, ...finite, 1e38, -1e38, 3.4e38, -3.4e38];
      const ones = scalars.filter((fn) => pointwiseParameters(fn).length === 1);
      const domain = (name: string, v: number): boolean =>
        name === "erfinv" ? Math.abs(v) < 1 : name === "log1p" ? v > -1 : true;
      const inputs = ones.map(({ name }) => x.filter((v) => Number.isNaN(v) || domain(name, v)));
      const results = await evaluate(
        ones.map((fn, k) => ({ fn, inputs: [inputs[k]!], dy: inputs[k]!.map(() => 1.5) })),
      );
      const wrong = ones.flatMap(({ name }, k) =>
        inputs[k]!.flatMap((v, i) => {
          const [y, dx] = [results[k]!.y[i]!, results[k]!.grads[0]![i]!];
          const ok = Number.isNaN(v) ? Number.isNaN(y) : !Number.isNaN(y) && !Number.isNaN(dx);
          return ok ? [] : [`${name}(${v}) is ${y}, its slope ${dx}`];
        }),
      );
      expect(wrong).toEqual([]);

      const all = [...finite, 1e38, -1e38, 3.4e38, -3.4e38].flatMap((a) =>
        [0, 1, 1e38, -1e38].map((b) => [a, b] as const),
      );
      const sum = { fn: math.logAddExp, inputs: [all.map(([a]) => a), all.map(([, b]) => b)], dy: all.map(() => 1.5) };
      for (const { y, grads } of await evaluate([sum]))
        for (const list of [y, ...grads]) expect([...list].some(Number.isNaN)).toBe(false);
    });

    test("infinities", async () => {
      const inf = Number.POSITIVE_INFINITY;
      const expected: [math.ScalarFunction, number[], number][] = [
        [math.sigmoid, [inf], 1],
        [math.sigmoid, [-inf], 0],
        [math.stableSoftplus, [inf], inf],
        [math.stableSoftplus, [-inf], 0],
        [math.stableTanh, [inf], 1],
        [math.stableTanh, [-inf], -1],
        [math.erf, [inf], 1],
        [math.erf, [-inf], -1],
        [math.erfc, [inf], 0],
        [math.erfc, [-inf], 2],
        [math.erfinv, [1], inf],
        [math.erfinv, [-1], -inf],
        [math.normalCdf, [-inf], 0],
        [math.logAddExp, [inf, inf], inf],
        [math.logAddExp, [-inf, -inf], -inf],
        [math.logAddExp, [inf, -inf], inf],
        [math.logAddExp, [-inf, 2], 2],
        [math.relu, [inf], inf],
        [math.softplus(), [inf], inf],
      ];
      const results = await evaluate(expected.map(([fn, args]) => ({ fn, inputs: args.map((v) => [v]), dy: [1] })));
      expect(results.map(({ y }, k) => `${expected[k]![0].name}(${expected[k]![1]}) ${y[0]! + 0}`)).toEqual(
        expected.map(([fn, args, y]) => `${fn.name}(${args}) ${y}`),
      );
    });
  });

describe("functions of rows and of vectors", () => {
  /** The elements of a fixture's row, one argument for each lane; what has one value for a row stands in each. */
  const lanesOf = (
    fn: MathFunction,
    tensors: (typeof cases)[number]["tensors"],
    at: number,
    eps?: number,
  ): Value[][] => {
    const params = [...fn.wgsl.slice(0, fn.wgsl.indexOf("->")).matchAll(/(\w+): (\w+)/g)];
    const onRow = /\brow(Sum|Mean|Max)\(/.test(link(fn));
    const columns = params.map(([, own, type]) => {
      const { values, shape } = tensors[own!] ?? { values: [eps!], shape: [1] };
      const width = shape[1] ?? 1;
      const row = Array.from({ length: width }, (_, i) => values[shape[0] === 1 ? i : at * width + i]!);
      return type!.startsWith("vec") ? [row] : row;
    });
    const lanes = onRow ? columns[0]!.length : 1;
    return Array.from({ length: lanes }, (_, lane) => columns.map((column) => column[lane % column.length] as Value));
  };

  test.each(others.map((item) => [item.name, item] as const))("%s is PyTorch's, and its gradient", (_, item) => {
    const { fn, tensors, options } = item;
    const grad = (math as unknown as Record<string, string>)[`${fn.name}Grad`]!;
    const both = new Interpreter(`${link(fn)}\n${grad}`);
    const [y, dy] = [tensors.y!, tensors.dy!];
    const params = [...fn.wgsl.slice(0, fn.wgsl.indexOf("->")).matchAll(/(\w+): (\w+)/g)].map(([, own]) => own!);
    const perRow = y.values.length / y.shape[0]!;
    for (let at = 0; at < y.shape[0]!; at++) {
      const lanes = lanesOf(fn, tensors, at, options.eps);
      const outputs = callRow(both, fn.name, lanes);
      const expected = Array.from({ length: perRow }, (__, i) => y.values[at * perRow + i]!);
      const single = numbers(outputs[0]!).length === perRow;
      expect(mixedError(single ? numbers(outputs[0]!) : outputs.flatMap(numbers), expected)).toBeLessThan(2e-6);
      // of a result that is the same for the row, one element gets the gradient
      const seeds = lanes.map((__, lane): Value => {
        const own = Array.from({ length: perRow }, (___, i) => (lane === 0 ? dy.values[at * perRow + i]! : 0));
        if (single) return Array.isArray(outputs[0]) ? own : own[0]!;
        return dy.values[at * perRow + lane]!;
      });
      const made = callRow(
        both,
        `${fn.name}Grad`,
        lanes.map((lane, k) => [...lane, seeds[k]!]),
      );
      params.forEach((param) => {
        const wanted = tensors[`d${param}`];
        if (!wanted) return;
        const width = wanted.values.length / wanted.shape[0]!;
        const of = (value: Value): Value =>
          typeof value === "object" && !Array.isArray(value) ? value[`d${param}`]! : value;
        expect(
          mixedError(
            made.flatMap((value) => numbers(of(value))),
            Array.from({ length: width }, (__, i) => wanted.values[at * width + i]!),
          ),
          param,
        ).toBeLessThan(4e-6);
      });
    }
  });
});
