/**
 * Activations in jax-js, by the names of @kindling/activations. Slopes at kinks are PyTorch's: every branch that is not taken is
 * computed from an argument that keeps it finite, since a gradient passes through it times 0.
 */
import type { Pointwise } from "@kindling/core";
import type { Jax, JaxArray } from "../jax.ts";

/** An activation in the settings of a form: its name without numbers, and the numbers in the order of its options. */
export interface Named {
  readonly name: string;
  readonly numbers: readonly number[];
}

type Formula = (jax: Jax, x: JaxArray, numbers: readonly number[]) => JaxArray;

/** |x|, with the slope 1 at 0: branches of x ≥ 0 and of x < 0 then agree with it. */
const magnitude = ({ numpy: np }: Jax, x: JaxArray): JaxArray => np.abs(x);

/** x where it is below 0, else 0. */
const negative = ({ numpy: np }: Jax, x: JaxArray): JaxArray => np.where(x.ref.less(0), x, 0);

/** x where it is above 0, else 0. */
const positive = ({ numpy: np }: Jax, x: JaxArray): JaxArray => np.where(x.ref.lessEqual(0), 0, x);

/** 1 / (1 + e⁻ˣ). */
function sigmoid(jax: Jax, x: JaxArray): JaxArray {
  const { numpy: np } = jax;
  const e = np.exp(magnitude(jax, x.ref).mul(-1));
  return np.where(x.less(0), e.ref, 1).div(e.add(1));
}

/** From e^−2|x| − 1, exact near 0. */
function tanh(jax: Jax, x: JaxArray): JaxArray {
  const { numpy: np } = jax;
  const m = np.expm1(magnitude(jax, x.ref).mul(-2));
  const t = m.ref.mul(-1).div(m.add(2));
  return np.where(x.less(0), t.ref.mul(-1), t);
}

/** log(1 + e^−|x|) as 2 · artanh(e / (2 + e)): jax-js's logarithm is off by 1e-5 on WebAssembly. */
export function tail(jax: Jax, x: JaxArray): JaxArray {
  const e = jax.numpy.exp(magnitude(jax, x).mul(-1));
  const s = e.ref.div(e.add(2));
  const q = jax.numpy.square(s.ref);
  const series = [13, 11, 9, 7, 5, 3].reduce((sum, n) => sum.mul(q.ref).add(1 / n), jax.numpy.zerosLike(q.ref));
  return series.mul(q).add(1).mul(s).mul(2);
}

/** scale · (eˣ − 1) for x ≤ 0. */
const below = ({ numpy: np }: Jax, x: JaxArray, scale: number): JaxArray =>
  np.expm1(np.where(x.ref.greater(0), 0, x)).mul(scale); // with the slope of this branch at 0, and NaN passed on

const SELU = { scale: 1.0507009873554805, alpha: 1.6732632423543772 };

/** x / 6 + 1/2 between 0 and 1. */
const hardsigmoid = ({ numpy: np }: Jax, x: JaxArray): JaxArray =>
  np.where(x.ref.lessEqual(-3), 0, np.where(x.ref.greaterEqual(3), 1, x.mul(1 / 6).add(0.5)));

const hardtanh = ({ numpy: np }: Jax, x: JaxArray, low: number, high: number): JaxArray =>
  np.where(x.ref.lessEqual(low), low, np.where(x.ref.greaterEqual(high), high, x));

/** @internal */
export const formulas: Record<string, Formula> = {
  relu: positive,
  squaredRelu: (jax, x) => jax.numpy.square(positive(jax, x)),
  leakyRelu: ({ numpy: np }, x, [slope]) => np.where(x.ref.greater(0), x.ref, x.mul(slope!)),
  hardtanh: (jax, x, [low, high]) => hardtanh(jax, x, low!, high!),
  relu6: (jax, x) => hardtanh(jax, x, 0, 6),
  elu: (jax, x, [alpha]) => jax.numpy.where(x.ref.greater(0), x.ref, below(jax, x, alpha!)),
  celu: (jax, x, [alpha]) => {
    const inner = jax.numpy.where(x.ref.greater(0), 0, x.ref).mul(1 / alpha!);
    return jax.numpy.where(x.ref.greater(0), x, jax.numpy.expm1(inner).mul(alpha!));
  },
  selu: (jax, x) => jax.numpy.where(x.ref.greater(0), x.ref, below(jax, x, SELU.alpha)).mul(SELU.scale),
  gelu: ({ numpy: np, lax }, x) => {
    // Beyond 15 Φ is 0 or 1; erfc overflows.
    const a = np.clip(x.ref, -15, 15);
    return x.mul(lax.erfc(a.mul(-Math.SQRT1_2)).mul(0.5));
  },
  geluTanh: (jax, x) => {
    const { numpy: np } = jax;
    // Beyond 15 the gate is 0 or 1; a cube of more would overflow.
    const size = np.abs(x.ref);
    const a = np.where(size.ref.greater(15), 15, size);
    const e = np.exp(a.ref.mul(np.square(a).mul(0.0356774081).add(0.7978845608)).mul(-2));
    return x.ref.mul(np.where(x.less(0), e.ref, 1).div(e.add(1)));
  },
  sigmoid,
  logSigmoid: (jax, x) => negative(jax, x.ref).sub(tail(jax, x)),
  silu: (jax, x) => x.ref.mul(sigmoid(jax, x)),
  mish: (jax, x) => {
    const { numpy: np } = jax;
    const n = np.exp(np.where(x.ref.greater(20), 20, x.ref));
    const w = n.ref.mul(n.add(2));
    return x.mul(np.reciprocal(w.add(2)).mul(-2).add(1));
  },
  tanh,
  softcap: (jax, x, [cap]) => tanh(jax, x.mul(1 / cap!)).mul(cap!),
  tanhshrink: (jax, x) => x.ref.sub(tanh(jax, x)),
  hardsigmoid,
  hardswish: (jax, x) => x.ref.mul(hardsigmoid(jax, x)),
  softplus: (jax, x, [beta, threshold]) => {
    const z = x.ref.mul(beta!);
    const soft = jax.numpy
      .where(z.ref.less(0), 0, z.ref)
      .add(tail(jax, z.ref))
      .mul(1 / beta!);
    return jax.numpy.where(z.greater(threshold!), x, soft);
  },
  softsign: ({ numpy: np }, x) => x.ref.div(np.abs(x).add(1)),
  hardshrink: ({ numpy: np }, x, [lambd]) => np.where(within(np, x.ref, lambd!), 0, x),
  softshrink: ({ numpy: np }, x, [lambd]) =>
    np.where(x.ref.greater(lambd!), x.ref.sub(lambd!), np.where(x.ref.greaterEqual(-lambd!), 0, x.add(lambd!))),
};

const within = (np: Jax["numpy"], x: JaxArray, limit: number): JaxArray =>
  np.logicalAnd(x.ref.greaterEqual(-limit), x.lessEqual(limit));

/** From the bits: jax-js folds a comparison with itself away, and its ≤ is true of a NaN. */
export function isNan({ numpy: np, lax }: Jax, x: JaxArray): JaxArray {
  const word = (value: number): JaxArray => np.full([], value, { dtype: np.uint32 });
  const bits = lax.bitcastConvertType(lax.stopGradient(x), np.uint32);
  return np.bitwiseAnd(bits, word(0x7fffffff)).greater(word(0x7f800000));
}

/** f(x), and NaN of a NaN; or x itself without an f. */
export const activate = (jax: Jax, x: JaxArray, f: Named | null): JaxArray =>
  f ? jax.numpy.where(isNan(jax, x.ref), x.ref, formulas[f.name]!(jax, x.ref, f.numbers)) : x;

/** The defaults of the activations that have numbers, in the order in which their names carry them. */
const defaults: Record<string, readonly number[]> = {
  leakyRelu: [0.01],
  hardtanh: [-1, 1],
  elu: [1],
  celu: [1],
  softcap: [30],
  softplus: [1, 20],
  hardshrink: [0.5],
  softshrink: [0.5],
};

/**
 * @internal What a text is known by: its hash (FNV-1a), whatever its function is called and whatever its numbers are. So the
 * activations are recognised without their package, which bundlers would put where the layers are.
 */
export function fingerprint({ name, forward, backward }: Pointwise): string {
  const text = (forward + backward).replaceAll(name, "$").replace(/f32\([^()]*\)/g, "f32()");
  let hash = 0x811c9dc5;
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193);
  return (hash >>> 0).toString(16);
}

/** @internal The texts of @kindling/activations, @kindling/math and GLU's gate; a test says what belongs here. */
export const fingerprints: Readonly<Record<string, readonly string[]>> = {
  celu: ["1de2e980", "12a76f43"],
  elu: ["72163b5c", "2db703f1"],
  gelu: ["492607d1", "d3b3a1fa"],
  geluTanh: ["c8e24dab", "fe884bd5"],
  hardshrink: ["39b87764", "e7023473"],
  hardsigmoid: ["98b1c6c", "ef8e14c5"],
  hardswish: ["86e4529", "8f92d07a"],
  hardtanh: ["63456bb", "d9231eed"],
  leakyRelu: ["122807b5", "36bc10f5"],
  logSigmoid: ["11a18b70", "5f76f2bd"],
  mish: ["d03015f5", "1a8d6615"],
  relu: ["b80addf", "9615a586"],
  relu6: ["eac6de15", "d74a58fe"],
  selu: ["345101e0", "a779d208"],
  sigmoid: ["c58da6bc", "1f9f5c62", "dbbcf1ae"],
  silu: ["41eaca14", "c6f2a02b"],
  softcap: ["38cdee36", "8d369530"],
  softplus: ["ea099bf8", "ec88bd17"],
  softshrink: ["910bad20", "a0ecafe1"],
  softsign: ["4d5a3bd9", "595c3bbb"],
  squaredRelu: ["3068b31d", "84cd5a1c"],
  tanh: ["b413fe64", "82f1cfa6"],
  tanhshrink: ["39448d8b", "2b6c7ee8"],
};

const byFingerprint = new Map(
  Object.entries(fingerprints).flatMap(([name, texts]) => texts.map((text) => [text, name] as const)),
);

const names = new WeakMap<Pointwise, Named | null>();

/** "leakyRelu_0p2" → leakyRelu with 0.2; null for a user's own function, even one with a name of ours. */
export function nameOf(f: Pointwise): Named | null {
  let named = names.get(f);
  if (named === undefined) names.set(f, (named = recognised(f)));
  return named;
}

function recognised(f: Pointwise): Named | null {
  const name = byFingerprint.get(fingerprint(f));
  if (!name) return null;
  const [, ...words] = f.name.split("_");
  const given = words.map((word) => Number(word.replaceAll("m", "-").replace("p", ".")));
  return { name, numbers: given.length > 0 ? given : (defaults[name] ?? []) };
}
