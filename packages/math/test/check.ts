/** Compares what grad and jvp derive with central differences in float64. */
import { grad, jvp } from "@kindling/math/autodiff";
import { callRow, Interpreter, type Value } from "./interpreter.ts";

/** The numbers in a value, in order; integers and booleans are not among them. */
export function numbers(value: Value): number[] {
  if (typeof value === "number") return [value];
  if (Array.isArray(value)) return value.flatMap(numbers);
  return typeof value === "object" ? Object.values(value).flatMap(numbers) : [];
}

/** A copy of `value` with its numbers replaced. */
export function withNumbers(value: Value, next: () => number): Value {
  if (typeof value === "number") return next();
  if (Array.isArray(value)) return value.map((part) => withNumbers(part, next));
  if (typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, withNumbers(part, next)]));
}

const from = (list: readonly number[]): (() => number) => {
  let at = 0;
  return () => list[at++]!;
};

export interface Case {
  readonly source: string;
  readonly fn: string;
  readonly wrt?: string[];
  readonly args: readonly Value[];
  readonly params: readonly string[];
}

/** The slope of `loss` at 0; null where it has none. */
function slopeOf(loss: (by: number) => number): number | null {
  const slope = (h: number): number => (loss(h) - loss(-h)) / (2 * h);
  const [coarse, fine, tiny] = [slope(2e-4), slope(1e-4), slope(1e-6)];
  const expected = fine + (fine - coarse) / 3;
  // a kink or a jump nearby: the steps disagree
  if (!(Math.abs(loss(1e-7) - loss(0)) <= 1e-4)) return null;
  const others = [tiny, slope(3e-5), slope(5e-6)];
  return others.every((other) => Math.abs(expected - other) <= 1e-4 * (1 + Math.abs(expected))) ? expected : null;
}

/** The error for all elements of a row at once, in some direction through all of their arguments; null as above. */
export function rowDerivativeError(
  source: string,
  row: readonly (readonly number[])[],
  along: () => number,
): number | null {
  const all = new Interpreter(`${source}\n${grad(source, { fn: "f" })}\n${jvp(source, { fn: "f" })}`);
  const directions = row.map((args) => args.map(along));
  const seeds = row.map((_, i) => 0.7 - 0.3 * i);
  const project = (outputs: readonly Value[]): number =>
    outputs.reduce<number>((sum, y, i) => sum + (y as number) * seeds[i]!, 0);
  const expected = slopeOf((by) =>
    project(
      callRow(
        all,
        "f",
        row.map((args, i) => args.map((x, k) => x + by * directions[i]![k]!)),
      ),
    ),
  );
  if (expected === null) return null;
  const made = callRow(
    all,
    "fGrad",
    row.map((args, i) => [...args, seeds[i]!]),
  );
  const terms = made.flatMap((value, i) => numbers(value).map((g, k) => g * directions[i]![k]!));
  const backward = terms.reduce((sum, term) => sum + term, 0);
  const forward = project(
    callRow(
      all,
      "fJvp",
      row.map((args, i) => [...args, ...directions[i]!]),
    ),
  );
  const size = terms.reduce((sum, term) => sum + Math.abs(term), 1);
  const error = Math.max(Math.abs(backward - expected), Math.abs(forward - expected)) / size;
  return Number.isNaN(error) ? Number.POSITIVE_INFINITY : error;
}

/**
 * The largest error, relative to 1 + the value; null at a point where the function has no derivative. Along each input, or
 * with `along` only in some direction through all of them, which costs as much as one.
 */
export function derivativeError({ source, fn, wrt, args, params }: Case, along?: () => number): number | null {
  const chosen = wrt ?? params;
  const text = `${source}\n${grad(source, { fn, wrt: chosen })}\n${jvp(source, { fn, wrt: chosen })}`;
  const all = new Interpreter(text);
  const value = all.call(fn, ...args);
  const seeds = numbers(value).map((_, i) => 0.7 + 0.3 * i);
  const at = chosen.map((name) => params.indexOf(name));
  const inputs = at.flatMap((i) => numbers(args[i]!));
  const project = (outputs: readonly number[]): number => outputs.reduce((sum, y, i) => sum + y * seeds[i]!, 0);
  const loss = (list: readonly number[]): number => {
    const next = from(list);
    const moved = [...args];
    for (const i of at) moved[i] = withNumbers(args[i]!, next);
    return project(numbers(all.call(fn, ...moved)));
  };
  const directions = along ? [inputs.map(along)] : inputs.map((_, k) => inputs.map((__, i) => (i === k ? 1 : 0)));
  const made = numbers(all.call(`${fn}Grad`, ...args, withNumbers(value, from(seeds))));
  if (made.length !== inputs.length) throw new Error(`${made.length} gradients, expected ${inputs.length}`);

  let worst = 0;
  for (const direction of directions) {
    const expected = slopeOf((by) => loss(inputs.map((x, i) => x + by * direction[i]!)));
    if (expected === null) return null;
    const next = from(direction);
    const changes = at.map((i) => withNumbers(args[i]!, next));
    const size = 1 + made.reduce((sum, g, i) => sum + Math.abs(g * direction[i]!), 0);
    const backward = made.reduce((sum, g, i) => sum + g * direction[i]!, 0);
    const forward = project(numbers(all.call(`${fn}Jvp`, ...args, ...changes)));
    const error = Math.max(Math.abs(backward - expected), Math.abs(forward - expected)) / size;
    if (Number.isNaN(error)) return Number.POSITIVE_INFINITY;
    worst = Math.max(worst, error);
  }
  return worst;
}
