/** Losses. */
import type { Form, Jax, JaxArray } from "../jax.ts";
import { tail } from "./activations.ts";
import { computed } from "./elementwise.ts";
import { project } from "./matrix.ts";

export type Reduction = "none" | "mean" | "sum" | "batchmean";

/** The value of f, and in place of its own gradients those given: PyTorch's at kinks, and where its own are not finite. */
function withSlopes({ lax }: Jax, f: JaxArray, slopes: readonly (readonly [x: JaxArray, slope: JaxArray])[]): JaxArray {
  let y = lax.stopGradient(f);
  for (const [x, slope] of slopes) y = y.add(x.ref.sub(lax.stopGradient(x)).mul(lax.stopGradient(slope)));
  return y;
}

/** Elements that one sum takes in: of many elements sums are summed, which is faster and more exact. */
const CHUNK = 1024;

/** The sum of all elements. */
function total(jax: Jax, x: JaxArray): JaxArray {
  if (x.size <= CHUNK) return computed(jax, x).sum();
  const flat = jax.numpy.pad(x.reshape([-1]), [[0, Math.ceil(x.size / CHUNK) * CHUNK - x.size]]);
  return total(jax, flat.reshape([-1, CHUNK]).sum(1));
}

function reduce(jax: Jax, rows: JaxArray, reduction: Reduction, batch = 1): JaxArray {
  if (reduction === "none") return rows;
  const divisor = { mean: rows.size, batchmean: batch, sum: 1 }[reduction];
  return total(jax, rows).mul(1 / divisor);
}

// Of elements -----------------------------------------------------------------------------------

export type ElementLoss = "mse" | "l1" | "smoothL1" | "huber" | "bce" | "bceWithLogits" | "klDiv" | "klDivLog";

export interface ElementSettings {
  readonly name: ElementLoss;
  /** beta or delta. */
  readonly a?: number | undefined;
  readonly reduction: Reduction;
}

/** log(1 + e^x) without overflow. */
const softplus = (jax: Jax, x: JaxArray): JaxArray => jax.numpy.where(x.ref.less(0), 0, x.ref).add(tail(jax, x));

/** log x, at least −100. */
const cutLog = ({ numpy: np }: Jax, x: JaxArray): JaxArray =>
  np.where(x.ref.lessEqual(3e-44), -100, np.maximum(np.log(np.maximum(x, 1e-45)), -100));

const signOf = (np: Jax["numpy"], d: JaxArray): JaxArray =>
  np.where(d.ref.less(0), -1, np.where(d.greater(0), 1, 0)).astype(np.float32);

type Loss = readonly [loss: JaxArray, dx: JaxArray, dt: JaxArray];

/** The loss of an element and its derivatives by x and t, from x, t, the weight of positive ones, and a. */
const elementLosses: Record<ElementLoss, (jax: Jax, x: JaxArray, t: JaxArray, p: JaxArray | null, a: number) => Loss> =
  {
    mse: (_, x, t) => both(x.sub(t), (d) => [d.ref.mul(d.ref), d.mul(2)]),
    l1: ({ numpy: np }, x, t) => both(x.sub(t), (d) => [np.abs(d.ref), signOf(np, d)]),
    smoothL1: ({ numpy: np }, x, t, _, beta) =>
      both(x.sub(t), (d) => {
        const size = np.abs(d.ref);
        const near = size.ref.less(beta);
        const slope = np.where(near.ref, d.ref.mul(1 / (beta || 1)), signOf(np, d.ref));
        return [np.where(near, d.ref.mul(d).mul(0.5 / (beta || 1)), size.sub(beta / 2)), slope];
      }),
    huber: ({ numpy: np }, x, t, _, delta) =>
      both(x.sub(t), (d) => {
        const size = np.abs(d.ref);
        const near = size.ref.less(delta);
        const slope = np.where(near.ref, d.ref, signOf(np, d.ref).mul(delta));
        return [np.where(near, d.ref.mul(d).mul(0.5), size.sub(delta / 2).mul(delta)), slope];
      }),
    bce: (jax, x, t) => {
      const { numpy: np } = jax;
      const rest = x.ref.mul(-1).add(1);
      const [log, logRest] = [cutLog(jax, x.ref), cutLog(jax, rest.ref)];
      const slope = x.ref.sub(t.ref).div(np.maximum(x.ref.mul(rest), 1e-12));
      const loss = t.ref.mul(log.ref).add(t.mul(-1).add(1).mul(logRest.ref)).mul(-1);
      const outside = np.logicalOr(x.ref.less(0), x.greater(1));
      return [np.where(outside, Number.NaN, loss), slope, logRest.sub(log)];
    },
    bceWithLogits: (jax, x, t, p) => {
      const { numpy: np } = jax;
      const more = p ? p.sub(1) : np.full([], 0);
      const factor = more.ref.mul(t.ref).add(1);
      const tail = softplus(jax, x.ref.mul(-1));
      const e = np.exp(np.abs(x.ref).mul(-1));
      const sigmoidOfMinus = np.where(x.ref.less(0), 1, e.ref).div(e.add(1));
      const rest = t.mul(-1).add(1);
      return [
        rest.ref.mul(x.ref).add(factor.ref.mul(tail.ref)),
        rest.sub(factor.mul(sigmoidOfMinus)),
        more.mul(tail).sub(x),
      ];
    },
    klDiv: ({ numpy: np }, x, t) => {
      const log = np.log(t.ref);
      const loss = np.where(t.ref.equal(0), 0, t.ref.mul(log.ref.sub(x.ref)));
      return [loss, t.ref.mul(-1), np.where(t.equal(0), 0, log.add(1).sub(x))];
    },
    klDivLog: ({ numpy: np }, x, t) => {
      const e = np.exp(t.ref);
      const d = t.sub(x);
      return [e.ref.mul(d.ref), e.ref.mul(-1), e.mul(d.add(1))];
    },
  };

/** The loss of a difference x − t: its slope by t is that by x, negated. */
function both(d: JaxArray, loss: (d: JaxArray) => [JaxArray, JaxArray]): Loss {
  const [y, slope] = loss(d);
  return [y, slope.ref, slope.mul(-1)];
}

export const element: Form<ElementSettings, JaxArray> = (jax, { input, target, weight, posWeight }, s) => {
  const batch = input!.shape[0] ?? 1;
  const [x, t] = [input!, target!];
  const held = [x.ref, t.ref, posWeight].map((v) => v && jax.lax.stopGradient(v)) as [
    JaxArray,
    JaxArray,
    JaxArray | undefined,
  ];
  const [loss, dx, dt] = elementLosses[s.name](jax, held[0], held[1], held[2] ?? null, s.a ?? 0);
  const rows = withSlopes(jax, loss, [
    [x, dx],
    [s.name === "klDiv" ? t.ref : t, dt],
  ]);
  // The slope of t · log t at 0 is −∞, with which `withSlopes` would make a NaN: that of −√t, which is 0 there.
  const { numpy: np } = jax;
  const ends = s.name === "klDiv" ? rows.add(np.where(t.ref.equal(0), np.sqrt(t).mul(-1), 0)) : rows;
  return reduce(jax, weight ? ends.mul(jax.lax.stopGradient(weight)) : ends, s.reduction, batch);
};

// Of classes ------------------------------------------------------------------------------------

export interface ClassSettings {
  readonly ignoreIndex: number;
  readonly labelSmoothing: number;
  readonly zLoss: number;
  readonly reduction: Reduction;
}

/** Losses of rows, reduced: the mean is one of weights. */
function reduceShares(jax: Jax, rows: JaxArray, shares: JaxArray, reduction: Reduction): JaxArray {
  const { numpy: np } = jax;
  if (reduction === "none") return rows;
  if (reduction === "sum") return total(jax, rows);
  const share = total(jax, shares);
  return np.where(share.ref.equal(0), Number.NaN, total(jax, rows).div(np.where(share.ref.equal(0), 1, share)));
}

/** Of class ids: whether class c is the target's, along `axis`; whether the row counts; and whether its id is wrong. */
function targetsOf({ numpy: np }: Jax, target: JaxArray, axis: number, classes: number, rank: number, ignore: number) {
  const ids = target.astype(np.int32);
  const columns = np.arange(0, classes, 1, { dtype: np.int32 });
  const shape = Array.from({ length: rank }, (_, i) => (i === axis ? classes : 1));
  const valid = ids.ref.notEqual(ignore);
  const wrong = np.logicalAnd(valid.ref, np.logicalOr(ids.ref.less(0), ids.ref.greaterEqual(classes)));
  return { own: np.expandDims(ids, axis).equal(columns.reshape(shape)), valid, wrong };
}

/** A weight for each class, to broadcast along `axis`. */
const along = (weight: JaxArray, axis: number, rank: number): JaxArray =>
  weight.reshape(Array.from({ length: rank }, (_, i) => (i === axis ? weight.size : 1)));

function crossEntropyOf(
  jax: Jax,
  x: JaxArray,
  target: JaxArray,
  weight: JaxArray | undefined,
  s: ClassSettings,
): JaxArray {
  const { numpy: np, lax } = jax;
  const rank = x.ndim;
  const axis = Math.min(1, rank - 1);
  const classes = x.shape[axis]!;
  const max = lax.stopGradient(np.max(x.ref, axis, { keepdims: true }));
  const shifted = x.sub(max.ref);
  const logSum = np.log(np.exp(shifted.ref).sum(axis, { keepdims: true }));
  const soft = target.dtype === np.float32;
  const ids = soft ? null : targetsOf(jax, target, axis, classes, rank, s.ignoreIndex);
  const t = ids ? np.where(ids.own.ref, 1, 0).astype(np.float32) : target;
  const w = weight ? along(weight, axis, rank) : null;
  const spread = t.mul(1 - s.labelSmoothing).add(s.labelSmoothing / classes);
  const q = w ? spread.mul(w.ref) : spread;
  const distance = logSum.ref.sub(shifted);
  // A class without probability costs nothing, even at −∞.
  const empty = np.logicalAnd(q.ref.equal(0), distance.ref.equal(Number.POSITIVE_INFINITY));
  let rows = q.mul(np.where(empty, 0, distance)).sum(axis);
  if (s.zLoss !== 0) rows = rows.add(np.square(logSum.add(max).reshape(rows.shape)).mul(s.zLoss));
  if (!ids) return reduce(jax, rows, s.reduction);
  const shares = w ? np.where(ids.own, w, 0).sum(axis) : np.where(ids.valid.ref, 1, 0).astype(np.float32);
  rows = np.where(ids.valid.ref, rows.mul(np.where(ids.wrong, Number.NaN, 1)), 0);
  return reduceShares(jax, rows, np.where(ids.valid, shares, 0), s.reduction);
}

export const crossEntropy: Form<ClassSettings, JaxArray> = (jax, { input, target, weight }, s) =>
  crossEntropyOf(jax, input!, target!, weight, s);

export const linearCrossEntropy: Form<ClassSettings, JaxArray> = (jax, { x, weight, target, bias, classWeight }, s) => {
  const { shape } = target!;
  const logits = project(jax, x!.reshape([-1, x!.shape.at(-1)!]), weight!, bias);
  const loss = crossEntropyOf(jax, logits, target!.reshape([-1]), classWeight, s);
  return s.reduction === "none" ? loss.reshape(shape) : loss;
};

export const nll: Form<Pick<ClassSettings, "ignoreIndex" | "reduction">, JaxArray> = (jax, given, s) => {
  const { numpy: np } = jax;
  const { input, target, weight } = given;
  const rank = input!.ndim;
  const axis = Math.min(1, rank - 1);
  const { own, valid, wrong } = targetsOf(jax, target!, axis, input!.shape[axis]!, rank, s.ignoreIndex);
  const w = weight ? along(weight, axis, rank) : null;
  const cost = w ? input!.mul(w.ref).mul(-1) : input!.mul(-1);
  const rows = np
    .where(own.ref, cost, 0)
    .sum(axis)
    .mul(np.where(wrong, Number.NaN, 1));
  const shares = w ? np.where(own, w, 0).sum(axis) : np.where(valid.ref, 1, 0).astype(np.float32);
  return reduceShares(jax, np.where(valid.ref, rows, 0), np.where(valid, shares, 0), s.reduction);
};

export const cosineEmbedding: Form<{ margin: number; reduction: Reduction }, JaxArray> = (
  jax,
  { x1, x2, target },
  s,
) => {
  const { numpy: np } = jax;
  const product = (a: JaxArray, b: JaxArray): JaxArray => a.mul(b).sum(-1);
  const lengths = product(x1!.ref, x1!.ref).add(1e-12).mul(product(x2!.ref, x2!.ref).add(1e-12));
  const cos = product(x1!, x2!).div(np.sqrt(lengths));
  const over = cos.ref.sub(s.margin);
  const apart = np.where(over.ref.greater(0), over, 0);
  return reduce(jax, np.where(target!.greater(0), cos.mul(-1).add(1), apart), s.reduction);
};
