/** Every function of numbers, all in one kernel, and what they are in float64. */
import { type Device, empty, kernel, pointwiseParameters, tensor } from "@kindling/core";
import type { MathFunction, Parametric, ScalarFunction } from "@kindling/math";
import * as math from "@kindling/math";

const exported: Record<string, unknown> = { ...math };

export const isScalar = (value: unknown): value is ScalarFunction =>
  typeof value === "object" && value !== null && "wgsl" in value && "forward" in value;

export const isFunction = (value: unknown): value is MathFunction =>
  typeof value === "object" && value !== null && "wgsl" in value;

const isParametric = (value: unknown): value is Parametric<Record<string, number>> =>
  typeof value === "function" && "of" in value;

/** The function of that name, with those numbers. */
export function named(name: string, options: Record<string, number> = {}): ScalarFunction {
  const value = exported[name];
  return isParametric(value) ? value(options) : (value as ScalarFunction);
}

/** Functions of f32s alone; of those with numbers to choose, that of the defaults. */
export const scalars: readonly ScalarFunction[] = [
  ...new Set([
    ...Object.values(exported).filter(isScalar),
    ...Object.entries(exported)
      .filter(([, value]) => isParametric(value))
      .map(([name]) => named(name, name === "threshold" ? { threshold: 1, value: -2 } : {})),
  ]),
];

export const functions: readonly MathFunction[] = [
  ...new Set(
    Object.values(exported).flatMap((value) => (isFunction(value) ? [value] : isParametric(value) ? [value.of] : [])),
  ),
];

export interface Points {
  readonly fn: ScalarFunction;
  /** A list of numbers for each parameter. */
  readonly inputs: readonly ArrayLike<number>[];
  readonly dy: ArrayLike<number>;
}

export interface Results {
  readonly y: Float32Array;
  /** One for each parameter. */
  readonly grads: readonly Float32Array[];
}

/** The most parameters of a function. */
const WIDTH = 5;

/** One workgroup of 64 works on 64 elements of one function. */
const build = (list: readonly ScalarFunction[]) =>
  kernel<string>(
    "math.functions",
    /* wgsl */ `
@group(0) @binding(0) var<storage, read> which: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

${list.map(({ forward, backward }) => forward + backward).join("\n")}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
  let at = ${WIDTH + 1}u * (wg.x * 64u + lane);
  let dy = x[at + ${WIDTH}u];
  switch which[wg.x] {
${list
  .map((fn, k) => {
    const params = pointwiseParameters(fn);
    const args = params.map((_, i) => `x[at + ${i}u]`).join(", ");
    const grads =
      params.length === 1
        ? `y[at + 1u] = ${fn.name}Grad(${args}, dy);`
        : `let g = ${fn.name}Grad(${args}, dy); ${params.map((param, i) => `y[at + ${i + 1}u] = g.d${param};`).join(" ")}`;
    return `    case ${k}u: { y[at] = ${fn.name}(${args}); ${grads} }`;
  })
  .join("\n")}
    default: {}
  }
}`,
  );

/** What gives the values and gradients of `points` in one dispatch; of functions of `all`. */
export function evaluator(
  device: Device,
  all: readonly ScalarFunction[],
): (points: readonly Points[]) => Promise<Results[]> {
  const run = build(all);
  return async (points) => {
    const starts: number[] = [];
    let groups = 0;
    for (const { dy } of points) {
      starts.push(groups);
      groups += Math.ceil(dy.length / 64);
    }
    const which = new Uint32Array(groups);
    const x = new Float32Array(groups * 64 * (WIDTH + 1));
    points.forEach(({ fn, inputs, dy }, k) => {
      which.fill(all.indexOf(fn), starts[k], starts[k]! + Math.ceil(dy.length / 64));
      [...inputs.entries(), [WIDTH, dy] as const].forEach(([slot, values]) => {
        for (let i = 0; i < dy.length; i++) x[(starts[k]! * 64 + i) * (WIDTH + 1) + slot] = values[i]!;
      });
    });
    const y = empty([x.length], { device });
    run.run({ which: tensor(which, { device, dtype: "u32" }), x: tensor(x, { device }), y }, { workgroups: [groups] });
    const out = new Float32Array(await device.read(y));
    const slot = (k: number, at: number): Float32Array =>
      Float32Array.from(points[k]!.dy, (_, i) => out[(starts[k]! * 64 + i) * (WIDTH + 1) + at]!);
    return points.map(({ inputs }, k) => ({ y: slot(k, 0), grads: inputs.map((_, i) => slot(k, i + 1)) }));
  };
}

// In float64 ------------------------------------------------------------------------------------

/** erfc: its series below 3, its continued fraction above. */
export function erfc(x: number): number {
  if (x < 0) return 2 - erfc(-x);
  if (x < 3) return 1 - erf(x);
  let tail = 0;
  for (let k = 160; k > 0; k--) tail = k / 2 / (x + tail);
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / (x + tail);
}

export function erf(x: number): number {
  if (Math.abs(x) > 3) return Math.sign(x) * (1 - erfc(Math.abs(x)));
  let term = x;
  let sum = x;
  for (let n = 1; n < 120; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

export function erfinv(x: number): number {
  let y = 0;
  let [low, high] = [-6, 6];
  for (let i = 0; i < 200; i++) {
    y = (low + high) / 2;
    const below = x > 0.5 ? 1 - x < erfc(y) : x < -0.5 ? 1 + x > erfc(-y) : erf(y) < x;
    if (below) low = y;
    else high = y;
  }
  return y;
}

export const sigmoid = (x: number): number => (x < 0 ? Math.exp(x) / (1 + Math.exp(x)) : 1 / (1 + Math.exp(-x)));
export const softplus = (x: number): number => Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
const cdf = (x: number): number => 0.5 * erfc(-x / Math.SQRT2);
const density = (x: number): number => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const sech2 = (x: number): number => 1 / Math.cosh(x) ** 2;
/** x - tanh(x), without cancelling. */
const shrink = (x: number): number => {
  if (Math.abs(x) > 0.3) return x - Math.tanh(x);
  const s = x * x;
  return x * s * (1 / 3 - s * (2 / 15 - s * (17 / 315 - s * (62 / 2835 - s * (1382 / 155925 - s * 0.00359)))));
};

const [c0, c1] = [Math.sqrt(2 / Math.PI), 0.044715];

export interface Reference {
  readonly fn: ScalarFunction;
  readonly f: (x: number) => number;
  readonly slope: (x: number) => number;
  readonly low: number;
  readonly high: number;
  /** The largest error in units in the last place. */
  readonly ulp: number;
  /** The largest error of the slope, relative to 1 + the slope. */
  readonly slopeError?: number;
}

const of = (
  fn: ScalarFunction,
  f: (x: number) => number,
  slope: (x: number) => number,
  low: number,
  high: number,
  ulp: number,
  slopeError?: number,
): Reference => ({ fn, f, slope, low, high, ulp, ...(slopeError && { slopeError }) });

/** Each function of one number that is not made of straight lines, over its whole range. README.md has the last column. */
export const references: readonly Reference[] = [
  of(math.accurateExp, Math.exp, Math.exp, -87, 88, 2),
  of(math.log1p, Math.log1p, (x) => 1 / (1 + x), -0.999, 1e6, 3),
  of(math.expm1, Math.expm1, Math.exp, -20, 80, 3),
  of(math.sigmoid, sigmoid, (x) => sigmoid(x) * sigmoid(-x), -87, 80, 3),
  of(math.stableSoftplus, softplus, sigmoid, -87, 80, 4),
  of(math.stableTanh, Math.tanh, sech2, -30, 30, 4),
  of(math.erf, erf, (x) => (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x), -6, 6, 2),
  of(math.erfc, erfc, (x) => (-2 / Math.sqrt(Math.PI)) * Math.exp(-x * x), -6, 9, 6),
  of(math.erfinv, erfinv, (x) => (Math.sqrt(Math.PI) / 2) * Math.exp(erfinv(x) ** 2), -0.99999, 0.99999, 4, 3e-5),
  of(math.normalCdf, cdf, density, -13, 40, 6),
  of(
    math.squaredRelu,
    (x) => Math.max(x, 0) ** 2,
    (x) => 2 * Math.max(x, 0),
    -10,
    1e6,
    1,
  ),
  of(
    math.logSigmoid,
    (x) => -softplus(-x),
    (x) => sigmoid(-x),
    -80,
    87,
    4,
  ),
  of(
    math.silu,
    (x) => x * sigmoid(x),
    (x) => sigmoid(x) * (1 + x * sigmoid(-x)),
    -87,
    200,
    4,
  ),
  of(
    math.gelu,
    (x) => x * cdf(x),
    (x) => cdf(x) + x * density(x),
    -13,
    40,
    7,
  ),
  of(
    math.geluTanh,
    (x) => x * sigmoid(2 * c0 * (x + c1 * x ** 3)),
    (x) => {
      const s = sigmoid(2 * c0 * (x + c1 * x ** 3));
      return s + x * s * sigmoid(-2 * c0 * (x + c1 * x ** 3)) * 2 * c0 * (1 + 3 * c1 * x * x);
    },
    -9.5,
    40,
    120,
  ),
  of(
    math.mish,
    (x) => x * Math.tanh(softplus(x)),
    (x) => Math.tanh(softplus(x)) + x * sech2(softplus(x)) * sigmoid(x),
    -84,
    200,
    6,
  ),
  of(
    math.hardswish,
    (x) => (x * Math.min(Math.max(x + 3, 0), 6)) / 6,
    (x) => (x <= -3 ? 0 : x < 3 ? x / 3 + 0.5 : 1),
    -2.5,
    10,
    4,
  ),
  of(
    math.selu,
    (x) => 1.0507009873554805 * (x > 0 ? x : 1.6732632423543772 * Math.expm1(x)),
    (x) => 1.0507009873554805 * (x > 0 ? 1 : 1.6732632423543772 * Math.exp(x)),
    -40,
    40,
    4,
  ),
  of(
    math.softsign,
    (x) => x / (1 + Math.abs(x)),
    (x) => (1 + Math.abs(x)) ** -2,
    -1e6,
    1e6,
    2,
  ),
  of(math.tanhshrink, shrink, (x) => Math.tanh(x) ** 2, -30, 30, 8),
  of(
    math.elu(),
    (x) => (x > 0 ? x : Math.expm1(x)),
    (x) => (x > 0 ? 1 : Math.exp(x)),
    -40,
    40,
    3,
  ),
  of(
    math.celu({ alpha: 2 }),
    (x) => (x > 0 ? x : 2 * Math.expm1(x / 2)),
    (x) => (x > 0 ? 1 : Math.exp(x / 2)),
    -40,
    40,
    3,
  ),
  of(
    math.softplus(),
    (x) => (x > 20 ? x : softplus(x)),
    (x) => (x > 20 ? 1 : sigmoid(x)),
    -87,
    80,
    4,
  ),
  of(
    math.softcap(),
    (x) => 30 * Math.tanh(x / 30),
    (x) => sech2(x / 30),
    -300,
    300,
    6,
  ),
];
