/// <reference types="vite/client" />
// The derivatives that are derived when the package is built: up to date, quickly derived, right. What attorch.math has.
import * as math from "@kindling/math";
import { link, type MathFunction } from "@kindling/math";
import { grad } from "@kindling/math/autodiff";
import { describe, expect, test } from "vitest";
import generatedText from "../src/derivatives.generated.ts?raw";
import { derivatives, differentiable } from "../src/generate.ts";
import { numbers } from "./check.ts";
import { functions, sigmoid } from "./functions.ts";
import { callRow, Interpreter, type Value } from "./interpreter.ts";

test("derivatives.generated.ts is what generate writes", () => {
  expect(generatedText).toBe(derivatives());
});

test("deriving any function takes less than 5 ms", () => {
  const slow = differentiable().flatMap(({ fn, wrt }) => {
    const source = link(fn);
    // the least of some: others use the machine too
    const times = Array.from({ length: 7 }, () => {
      const start = performance.now();
      grad(source, { fn: fn.name, ...(wrt && { wrt }) });
      return performance.now() - start;
    });
    const least = Math.min(...times);
    return least < 5 ? [] : [`${fn.name}: ${least} ms`];
  });
  expect(slow).toEqual([]);
  expect(differentiable().length).toBeGreaterThan(50);
});

describe("derivatives are those of the functions", () => {
  const texts = math as unknown as Record<string, string>;
  const params = ({ wgsl }: MathFunction): { own: string; type: string }[] =>
    [...wgsl.slice(0, wgsl.indexOf("->")).matchAll(/(\w+): (\w+)/g)].map(([, own, type]) => ({
      own: own!,
      type: type!,
    }));

  test.each(differentiable().map(({ fn, wrt }) => [fn.name, fn, wrt] as const))("%s", (name, fn, wrt) => {
    const source = `${link(fn)}\n${texts[`${name}Grad`]}`;
    const both = new Interpreter(source);
    const own = params(fn);
    const lanes = /\brow(Sum|Mean|Max)/.test(source) ? 4 : 1;
    for (const scale of [1, -0.8]) {
      const value = (k: number, lane: number): number => scale * (0.35 + 0.4 * Math.sin(2.1 * k + 1.7 * lane));
      const args = Array.from({ length: lanes }, (_, lane) =>
        own.map(({ own: param, type }, k): Value => {
          const size = /^vec(\d)f$/.exec(type)?.[1];
          if (type === "u32") return 0xc0000000n;
          if (param === "eps") return 0.3;
          return size ? Array.from({ length: Number(size) }, (__, i) => value(k + i, lane) + 0.1) : value(k, lane);
        }),
      );
      const outputs = callRow(both, name, args);
      const seeds = outputs.map(
        (output, lane): Value =>
          Array.isArray(output) ? output.map((_, i) => 0.5 + 0.3 * i - 0.2 * lane) : 0.5 - 0.2 * lane,
      );
      const weights = seeds.flatMap(numbers);
      const loss = (list: Value[][]): number =>
        callRow(both, name, list)
          .flatMap(numbers)
          .reduce((sum, y, i) => sum + y * weights[i]!, 0);
      const made = callRow(
        both,
        `${name}Grad`,
        args.map((list, lane) => [...list, seeds[lane]!]),
      ).map(numbers);
      args.forEach((list, lane) => {
        let at = 0;
        list.forEach((arg, k) => {
          if (typeof arg === "bigint" || (wrt && own[k]!.own !== wrt)) return;
          numbers(arg).forEach((_, i) => {
            const moved = (h: number): number => {
              const changed = Array.isArray(arg)
                ? arg.map((x, j) => (i === j ? (x as number) + h : x))
                : (arg as number) + h;
              return loss(args.map((row, l) => (l === lane ? row.map((x, j) => (j === k ? changed : x)) : row)));
            };
            const expected = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            expect(
              Math.abs(made[lane]![at]! - expected) / (1 + Math.abs(expected)),
              `${own[k]!.own} of ${numbers(arg)}`,
            ).toBeLessThan(1e-6);
            at++;
          });
        });
      });
    }
  });

  test("every function of floats has one", () => {
    const without = functions.filter(({ name }) => !(`${name}Grad` in texts)).map(({ name }) => name);
    expect(without.sort()).toEqual(["isInf", "isNan", "pcg4d", "philox", "unitNormal", "unitUniform"]);
  });
});

describe("what attorch.math has", () => {
  const one = (fn: MathFunction, ...args: Value[]): Value => new Interpreter(link(fn)).call(fn.name, ...args);

  test("Welford's states: values one by one, merged, from any mean", () => {
    const data = [103.5, 99.25, 101.75, 98, 104.5, 100.25];
    const of = (list: number[]): Value =>
      list.reduce<Value>((state, x) => one(math.updateWelford, state, x), [0, 0, 0]);
    const mean = data.reduce((a, b) => a + b) / data.length;
    const deviations = data.reduce((a, b) => a + (b - mean) ** 2, 0);
    for (const state of [of(data), one(math.mergeWelford, of(data.slice(0, 2)), of(data.slice(2)))]) {
      const [n, m, s] = state as number[];
      expect(n).toBe(data.length);
      expect(m).toBeCloseTo(mean, 10);
      expect(s).toBeCloseTo(deviations, 8);
    }
    expect(one(math.mergeWelford, [0, 0, 0], [0, 0, 0])).toEqual([0, 0, 0]);
  });

  test("losses take the distance, not the signed difference", () => {
    expect(one(math.smoothL1Loss, -3, 0, 1)).toBe(2.5);
    expect(one(math.smoothL1Loss, 0.5, 0, 2)).toBe(0.0625);
    expect(one(math.huberLoss, -3, 0, 0.5)).toBe(1.375);
    expect(one(math.huberLoss, 0.25, 0.5, 0.5)).toBe(0.03125);
    expect(one(math.l1Loss, -3, 1)).toBe(4);
    expect(one(math.squaredLoss, -3, 1)).toBe(16);
  });

  test("the rest", () => {
    expect(one(math.accumLinear, 1, [1, 2, 3, 4], [2, 1, 0, 1])).toBe(9);
    expect(one(math.updateEma, 2, 4, 0.25)).toBe(2.5);
    expect(one(math.standardize, 3, 1, 0.5, 4, 7)).toBe(11);
    expect(one(math.glu, 3, 0)).toBe(1.5);
    expect(one(math.swiglu, 3, 2)).toBeCloseTo(6 * sigmoid(2), 12);
    expect(one(math.unitUniform, 0xffffffffn)).toBeLessThan(1);
    expect(numbers(one(math.unitNormal, [0n, 0n])).every(Number.isFinite)).toBe(true);
  });

  test("dropout and its gradient drop the same elements, and scale the rest", () => {
    const both = new Interpreter(`${link(math.dropout)}\n${math.dropoutGrad}`);
    let kept = 0;
    for (const p of [0, 0.15, 0.5, 0.9, 1]) {
      for (const bits of [0n, 0x26000000n, 0x27000000n, 0x7fffffffn, 0x80000000n, 0xe7000000n, 0xffffffffn]) {
        const keep = Number(bits) / 2 ** 32 >= p && p < 1;
        const scale = keep ? 1 / (1 - p) : 0;
        expect(both.call("dropout", -2, p, bits)).toBeCloseTo(-2 * scale, 12);
        expect(both.call("dropoutGrad", -2, p, bits, 3)).toBeCloseTo(3 * scale, 12);
        kept += Number(keep);
      }
    }
    expect(kept).toBe(7 + 6 + 3 + 2 - 1);
  });

  test("smooth L1's and Huber's gradients are those of the distance, on both sides", () => {
    const slope = (fn: MathFunction, grad: string, x: number, limit: number): number =>
      (new Interpreter(`${link(fn)}\n${grad}`).call(`${fn.name}Grad`, x, 0, limit, 1) as { dx: number }).dx;
    expect([-3, -1, -0.5, 0, 0.5, 1, 3].map((x) => slope(math.smoothL1Loss, math.smoothL1LossGrad, x, 1) + 0)).toEqual([
      -1, -1, -0.5, 0, 0.5, 1, 1,
    ]);
    expect([-3, -2, 0.5, 2, 3].map((x) => slope(math.huberLoss, math.huberLossGrad, x, 2))).toEqual([
      -2, -2, 0.5, 2, 2,
    ]);
  });
});
