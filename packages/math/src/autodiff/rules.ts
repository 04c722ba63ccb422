/**
 * The derivative of each operation. A partial derivative is a function that is applied to a small change: to the change of
 * the argument in forward mode, to the gradient of the result in reverse mode. At kinks it is PyTorch's.
 */
import { type Builder, isZero, numberOf, type Value } from "./ir.ts";
import { elementOf, isFloat, scalar, type Type } from "./types.ts";

/** Of a componentwise function, with respect to one argument. */
type Partial = (d: Value) => Value;

type Rule = (b: Builder, args: readonly Value[], out: Value) => (Partial | null)[];

const flat: Rule = (_, args) => args.map(() => null);

/** d divided by the square root of `radicand`. */
const overRoot = (b: Builder, radicand: Value, d: Value): Value => b.div(d, b.call("sqrt", radicand.type, radicand));

/** Where they tie, both get half. */
const extremum =
  (operator: string): Rule =>
  (b, [x, y]) => {
    const side =
      (a: Value, other: Value): Partial =>
      (d) => {
        const tied = b.select(b.zero(d.type), b.mul(b.float(0.5), d), b.compare("==", a, other));
        return b.select(tied, d, b.compare(operator, a, other));
      };
    return [side(x!, y!), side(y!, x!)];
  };

const ln2 = Math.LN2;

/** Componentwise builtins. Changes have the type of the result. */
export const componentwise: Readonly<Record<string, Rule>> = {
  abs: (b, [x]) => [(d) => b.mul(d, b.call("sign", x!.type, x!))],
  acos: (b, [x]) => [(d) => b.neg(overRoot(b, b.sub(b.float(1), b.mul(x!, x!)), d))],
  acosh: (b, [x]) => [(d) => overRoot(b, b.sub(b.mul(x!, x!), b.float(1)), d)],
  asin: (b, [x]) => [(d) => overRoot(b, b.sub(b.float(1), b.mul(x!, x!)), d)],
  asinh: (b, [x]) => [(d) => overRoot(b, b.add(b.mul(x!, x!), b.float(1)), d)],
  atan: (b, [x]) => [(d) => b.div(d, b.add(b.mul(x!, x!), b.float(1)))],
  atanh: (b, [x]) => [(d) => b.div(d, b.sub(b.float(1), b.mul(x!, x!)))],
  atan2: (b, [y, x]) => {
    const square = b.add(b.mul(x!, x!), b.mul(y!, y!));
    const over: Partial = (d) =>
      b.select(b.div(d, square), b.zero(d.type), b.compare("==", square, b.zero(square.type)));
    return [(d) => b.mul(over(d), x!), (d) => b.neg(b.mul(over(d), y!))];
  },
  ceil: flat,
  clamp: (b, [x, low, high]) => {
    const below = b.compare("<", x!, low!);
    const above = b.compare(">", x!, high!);
    const crossed = b.compare("<", high!, low!);
    const inside = b.and(b.compare(">=", x!, low!), b.compare("<=", x!, high!));
    const either = (p: Value, q: Value): Value =>
      b.op("binary", p.type, [p, q], { text: p.type.kind === "vec" ? "|" : "||" });
    return [
      (d) => b.select(b.zero(d.type), d, inside),
      (d) => b.select(b.zero(d.type), d, b.and(below, b.compare("<", low!, high!))),
      (d) => b.select(b.zero(d.type), d, either(above, crossed)),
    ];
  },
  cos: (b, [x]) => [(d) => b.neg(b.mul(d, b.call("sin", x!.type, x!)))],
  cosh: (b, [x]) => [(d) => b.mul(d, b.call("sinh", x!.type, x!))],
  degrees: (b, [x]) => [(d) => b.call("degrees", x!.type, d)],
  exp: (b, _, out) => [(d) => b.mul(d, out)],
  exp2: (b, _, out) => [(d) => b.mul(b.mul(b.float(ln2), d), out)],
  floor: flat,
  fma: (b, [x, y]) => [(d) => b.mul(d, y!), (d) => b.mul(d, x!), (d) => d],
  fract: () => [(d) => d],
  inverseSqrt: (b, [x], out) => [(d) => b.div(b.mul(b.mul(b.float(-0.5), d), out), x!)],
  log: (b, [x]) => [(d) => b.div(d, x!)],
  log2: (b, [x]) => [(d) => b.div(d, b.mul(b.float(ln2), x!))],
  max: extremum(">"),
  min: extremum("<"),
  pow: (b, [x, y], out) => {
    const exponent = numberOf(y!);
    const slope: Partial = (d) => {
      if (exponent === 2) return b.mul(d, b.mul(b.float(2), x!));
      if (exponent !== undefined)
        return b.mul(b.mul(b.float(exponent), d), b.call("pow", x!.type, x!, b.const(exponent - 1, y!.type)));
      const less = b.sub(y!, b.float(1));
      return b.select(
        b.mul(b.mul(d, y!), b.call("pow", x!.type, x!, less)),
        b.zero(d.type),
        b.compare("==", y!, b.zero(y!.type)),
      );
    };
    const none = b.zero(x!.type);
    return [
      exponent === 0 ? null : slope,
      (d) => b.select(b.mul(b.mul(d, out), b.call("log", x!.type, x!)), none, b.compare("==", x!, none)),
    ];
  },
  radians: (b, [x]) => [(d) => b.call("radians", x!.type, d)],
  round: flat,
  saturate: (b, [x]) => {
    const { type } = x!;
    const inside = b.and(
      b.compare(">=", x!, b.zero(type)),
      b.compare("<=", x!, b.splat(b.const("1.0", scalar(elementOf(type)!)), type)),
    );
    return [(d) => b.select(b.zero(d.type), d, inside)];
  },
  select: (b, [, , cond]) => [
    (d) => b.select(d, b.zero(d.type), cond!),
    (d) => b.select(b.zero(d.type), d, cond!),
    null,
  ],
  sign: flat,
  sin: (b, [x]) => [(d) => b.mul(d, b.call("cos", x!.type, x!))],
  sinh: (b, [x]) => [(d) => b.mul(d, b.call("cosh", x!.type, x!))],
  sqrt: (b, _, out) => [(d) => b.div(b.mul(b.float(0.5), d), out)],
  step: flat,
  tan: (b, _, out) => [(d) => b.mul(d, b.add(b.mul(out, out), b.float(1)))],
  tanh: (b, _, out) => [(d) => b.mul(d, b.sub(b.float(1), b.mul(out, out)))],
  trunc: flat,
  ldexp: (b, [, e]) => [(d) => b.call("ldexp", d.type, d, e!), null],
  mix: (b, [x, y, t]) => [
    (d) => b.mul(d, b.sub(b.float(1), t!)),
    (d) => b.mul(d, t!),
    // t may be a scalar beside vectors; the caller sums over the components
    (d) => b.mul(d, b.sub(y!, x!)),
  ],
};

/** Arithmetic; a scalar beside a vector counts for each component. */
export function arithmetic(b: Builder, operator: string, [x, y]: readonly Value[], out: Value): [Partial, Partial] {
  switch (operator) {
    case "+":
      return [(d) => d, (d) => d];
    case "-":
      return [(d) => d, (d) => b.neg(d)];
    case "*":
      return [(d) => b.mul(d, y!), (d) => b.mul(d, x!)];
    case "/":
      return [(d) => b.div(d, y!), (d) => b.neg(b.div(b.mul(d, out), y!))];
    default: {
      const quotient = (): Value => {
        const ratio = b.div(x!, y!);
        return b.call("trunc", ratio.type, ratio);
      };
      return [(d) => d, (d) => b.neg(b.mul(d, quotient()))];
    }
  }
}

export interface Linear {
  /** The change of the result from the changes of the arguments; undefined is none. */
  forward(b: Builder, args: readonly Value[], out: Value, changes: readonly (Value | undefined)[]): Value | undefined;
  /** The gradients of the arguments from that of the result. */
  reverse(b: Builder, args: readonly Value[], out: Value, d: Value): (Value | undefined)[];
}

const total = (b: Builder, terms: readonly (Value | undefined)[]): Value | undefined => {
  const present = terms.filter((term) => term !== undefined);
  return present.length ? present.reduce((x, y) => b.add(x, y)) : undefined;
};

const dot = (b: Builder, x: Value, y: Value): Value => b.call("dot", scalar(elementOf(x.type)!), x, y);

/** v / length, 0 at 0, times d. */
function direction(b: Builder, v: Value, length: Value, d: Value): Value {
  if (v.type.kind === "scalar") return b.mul(d, b.call("sign", v.type, v));
  const scale = b.select(b.div(d, length), b.zero(d.type), b.compare("==", length, b.zero(length.type)));
  return b.mul(scale, v);
}

const lengthChange = (b: Builder, v: Value, length: Value, t: Value): Value => {
  if (v.type.kind === "scalar") return b.mul(t, b.call("sign", v.type, v));
  return b.select(b.div(dot(b, v, t), length), b.zero(length.type), b.compare("==", length, b.zero(length.type)));
};

/** A row's sum, mean or scan of `x`, which is linear in it. */
function row(b: Builder, name: string, x: Value): Value {
  if (isZero(x)) return x;
  return x.op === "unary" && x.text === "-" ? b.neg(row(b, name, x.args[0]!)) : b.call(name, x.type, x);
}

const ofRow = (name: string, transposed: string): Linear => ({
  forward: (b, _, __, [t]) => t && row(b, name, t),
  reverse: (b, _, __, d) => [row(b, transposed, d)],
});

/** Builtins whose components depend on one another. */
export const linear: Readonly<Record<string, Linear>> = {
  dot: {
    forward: (b, [x, y], _, [s, t]) => total(b, [s && dot(b, s, y!), t && dot(b, x!, t)]),
    reverse: (b, [x, y], _, d) => [b.mul(d, y!), b.mul(d, x!)],
  },
  cross: {
    forward: (b, [x, y], out, [s, t]) =>
      total(b, [s && b.call("cross", out.type, s, y!), t && b.call("cross", out.type, x!, t)]),
    reverse: (b, [x, y], out, d) => [b.call("cross", out.type, y!, d), b.call("cross", out.type, d, x!)],
  },
  length: {
    forward: (b, [x], out, [t]) => t && lengthChange(b, x!, out, t),
    reverse: (b, [x], out, d) => [direction(b, x!, out, d)],
  },
  distance: {
    forward: (b, [x, y], out, [s, t]) => {
      const change = s && t ? b.sub(s, t) : (s ?? (t && b.neg(t)));
      return change && lengthChange(b, b.sub(x!, y!), out, change);
    },
    reverse: (b, [x, y], out, d) => {
      const g = direction(b, b.sub(x!, y!), out, d);
      return [g, b.neg(g)];
    },
  },
  normalize: {
    forward: (b, [x], out, [t]) =>
      t && b.div(b.sub(t, b.mul(dot(b, out, t), out)), b.call("length", scalar(elementOf(x!.type)!), x!)),
    reverse: (b, [x], out, d) => [
      b.div(b.sub(d, b.mul(dot(b, out, d), out)), b.call("length", scalar(elementOf(x!.type)!), x!)),
    ],
  },
  reflect: {
    forward: (b, [e, n], out, [s, t]) => {
      const cosine = total(b, [s && dot(b, n!, s), t && dot(b, t, e!)])!;
      const normal = b.add(b.mul(cosine, n!), t ? b.mul(dot(b, n!, e!), t) : b.zero(out.type));
      return b.sub(s ?? b.zero(out.type), b.mul(b.float(2), normal));
    },
    reverse: (b, [e, n], _, d) => {
      const both = b.add(b.mul(dot(b, n!, d), e!), b.mul(dot(b, n!, e!), d));
      return [b.sub(d, b.mul(b.mul(b.float(2), dot(b, n!, d)), n!)), b.mul(b.float(-2), both)];
    },
  },
  faceForward: {
    forward: (b, [, i, n], _, [s]) => s && facing(b, i!, n!, s),
    reverse: (b, [, i, n], _, d) => [facing(b, i!, n!, d), undefined, undefined],
  },
  // A row's sum is a matrix of ones times the row, which is its own transpose; a scan's is triangular.
  rowSum: ofRow("rowSum", "rowSum"),
  rowMean: ofRow("rowMean", "rowMean"),
  rowCumsum: ofRow("rowCumsum", "rowCumsumReverse"),
  rowCumsumReverse: ofRow("rowCumsumReverse", "rowCumsum"),
  // Shared evenly by the elements that attain the maximum.
  rowMax: {
    forward: (b, [x], out, [t]) => {
      if (!t) return undefined;
      const [mask, share] = attains(b, x!, out);
      return b.div(row(b, "rowSum", b.mul(t, mask)), share);
    },
    reverse: (b, [x], out, d) => {
      const [mask, share] = attains(b, x!, out);
      return [b.div(b.mul(row(b, "rowSum", d), mask), share)];
    },
  },
};

function attains(b: Builder, x: Value, max: Value): [Value, Value] {
  const { type } = x;
  const one = b.splat(b.const("1.0", scalar(elementOf(type)!)), type);
  const mask = b.call("select", type, b.zero(type), one, b.compare("==", x, max));
  mask.hint ??= "isMax";
  return [mask, row(b, "rowSum", mask)];
}

const facing = (b: Builder, i: Value, n: Value, d: Value): Value => {
  const cosine = dot(b, n, i);
  return b.select(b.neg(d), d, b.compare("<", cosine, b.zero(cosine.type)));
};

/** Whether a type conversion hands a change on. */
export const conversion = (from: Type, to: Type): boolean => isFloat(from) && isFloat(to);
