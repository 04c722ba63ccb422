// Random functions of every construct: what is derived against central differences, and through Dawn's compiler.
import { grad, jvp } from "@kindling/math/autodiff";
import { expect, test } from "vitest";
import { derivativeError, numbers, rowDerivativeError } from "./check.ts";
import { Generator } from "./generate.ts";
import { Interpreter, type Value } from "./interpreter.ts";

const wrt = ["x", "y", "v", "u", "s"];

function point(g: Generator): Value[] {
  const n = (): number => 1.6 * g.random() - 0.8;
  const vector = (size: number): number[] => Array.from({ length: size }, n);
  return [n(), n(), vector(3), vector(2), { a: n(), b: vector(3), n: 1n }, BigInt(Math.floor(4 * g.random()))];
}

const seeds = (from: number, count: number): number[] => Array.from({ length: count }, (_, i) => from + i);

test.each(seeds(0, 10))("derivatives of 200 random functions, part %i", (part) => {
  let checked = 0;
  for (const seed of seeds(200 * part, 200)) {
    const g = new Generator(seed);
    const { source, params } = g.generate();
    const args = point(g);
    const error = derivativeError({ source, fn: "f", wrt, params, args }, () => 2 * g.random() - 1);
    if (error === null) continue;
    checked++;
    expect(error, `seed ${seed}\n${source}`).toBeLessThan(1e-6);
  }
  expect(checked).toBeGreaterThan(190);
});

test("derivatives of random functions of a row", () => {
  let checked = 0;
  for (const seed of seeds(15000, 100)) {
    const g = new Generator(seed);
    const source = g.generateRow();
    const row = Array.from({ length: 5 }, () => Array.from({ length: 3 }, () => 1.6 * g.random() - 0.8));
    const error = rowDerivativeError(source, row, () => 2 * g.random() - 1);
    if (error === null) continue;
    checked++;
    expect(error, `seed ${seed}\n${source}`).toBeLessThan(1e-6);
  }
  expect(checked).toBeGreaterThan(90);
});

test("second derivatives of random functions", () => {
  let checked = 0;
  for (const seed of seeds(5000, 120)) {
    const g = new Generator(seed);
    const { source, params } = g.generate();
    const twice = `${source}\n${grad(source, { fn: "f", wrt: "x", name: "df" })}`;
    const args = [...point(g), 0.8];
    const error = derivativeError({ source: twice, fn: "df", wrt: ["x", "y", "v"], params: [...params, "dz"], args });
    if (error === null) continue;
    checked++;
    expect(error, `seed ${seed}\n${source}`).toBeLessThan(1e-5);
  }
  expect(checked).toBeGreaterThan(100);
});

test("reverse over forward equals forward over reverse", () => {
  for (const seed of seeds(9000, 60)) {
    const g = new Generator(seed);
    const { source } = g.generate();
    const args = point(g);
    const reverse = `${source}\n${grad(source, { fn: "f", wrt: "x", name: "df" })}`;
    const forward = `${source}\n${jvp(source, { fn: "f", wrt: "x", name: "df" })}`;
    const a = new Interpreter(`${reverse}\n${jvp(reverse, { fn: "df", wrt: "x", name: "ddf" })}`);
    const b = new Interpreter(`${forward}\n${grad(forward, { fn: "df", wrt: "x", name: "ddf" })}`);
    const [p, q] = [numbers(a.call("ddf", ...args, 1, 1)), numbers(b.call("ddf", ...args, 1, 1))];
    expect(Math.abs(p[0]! - q[0]!) / (1 + Math.abs(p[0]!)), `seed ${seed}\n${source}`).toBeLessThan(1e-9);
  }
});
