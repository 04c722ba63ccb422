/** Losses as plain loops in float64: the specification and the test oracle. */

type Values = ArrayLike<number>;
type Reduction = "none" | "mean" | "sum";

export interface CrossEntropyReference {
  /** Product of the axes behind the classes. Default 1. */
  stride?: number;
  weight?: Values | null;
  ignoreIndex?: number;
  labelSmoothing?: number;
  zLoss?: number;
  reduction?: Reduction;
}

/** x is [N, classes, stride]. The target holds class ids [N, stride], or, being as long as x, probabilities. */
export function crossEntropyReference(
  x: Values,
  target: Values,
  dy: Values,
  classes: number,
  {
    stride = 1,
    weight = null,
    ignoreIndex = -100,
    labelSmoothing = 0,
    zLoss = 0,
    reduction = "mean",
  }: CrossEntropyReference = {},
): { y: Float64Array; dx: Float64Array; dt: Float64Array } {
  const rows = x.length / classes;
  const soft = target.length === x.length && classes > 1;
  const w = (c: number): number => weight?.[c] ?? 1;
  const losses = new Float64Array(rows);
  const dx = new Float64Array(x.length);
  const dt = new Float64Array(x.length);
  let denominator = 0;
  for (let row = 0; row < rows; row++) {
    const at = (c: number): number => Math.floor(row / stride) * classes * stride + c * stride + (row % stride);
    if (!soft && target[row] === ignoreIndex) continue;
    denominator += soft ? 1 : w(target[row]!);
    let max = -Infinity;
    for (let c = 0; c < classes; c++) max = Math.max(max, x[at(c)]!);
    let sum = 0;
    for (let c = 0; c < classes; c++) sum += Math.exp(x[at(c)]! - max);
    const lse = max + Math.log(sum);
    const q = (c: number): number => {
      const t = soft ? target[at(c)]! : Number(c === target[row]);
      return w(c) * ((1 - labelSmoothing) * t + labelSmoothing / classes);
    };
    let mass = 0;
    for (let c = 0; c < classes; c++) {
      mass += q(c);
      losses[row]! += q(c) && q(c) * (max - x[at(c)]! + Math.log(sum));
      dt[at(c)] = (1 - labelSmoothing) * w(c) * (lse - x[at(c)]!);
    }
    losses[row]! += zLoss * lse ** 2;
    for (let c = 0; c < classes; c++) dx[at(c)] = (Math.exp(x[at(c)]! - max) / sum) * (mass + 2 * zLoss * lse) - q(c);
  }
  const scale = reduction === "mean" ? 1 / denominator : 1;
  for (let e = 0; e < x.length; e++) {
    const row = Math.floor(e / (classes * stride)) * stride + (e % stride);
    const g = reduction === "none" ? dy[row]! : dy[0]! * scale;
    dx[e] = dx[e]! && dx[e]! * g;
    dt[e] = dt[e]! && dt[e]! * g;
  }
  if (reduction === "none") return { y: losses, dx, dt };
  return { y: Float64Array.of(losses.reduce((a, b) => a + b, 0) * scale), dx, dt };
}

/** Log-probabilities x [N, classes, stride] and class ids [N, stride]. */
export function nllReference(
  x: Values,
  target: Values,
  dy: Values,
  classes: number,
  { stride = 1, weight = null, ignoreIndex = -100, reduction = "mean" }: CrossEntropyReference = {},
): { y: Float64Array; dx: Float64Array } {
  const y = new Float64Array(x.length / classes);
  const dx = new Float64Array(x.length);
  let denominator = 0;
  for (let row = 0; row < y.length; row++) {
    if (target[row] !== ignoreIndex) denominator += weight?.[target[row]!] ?? 1;
  }
  const scale = reduction === "mean" ? 1 / denominator : 1;
  for (let row = 0; row < y.length; row++) {
    if (target[row] === ignoreIndex) continue;
    const at = (Math.floor(row / stride) * classes + target[row]!) * stride + (row % stride);
    const w = weight?.[target[row]!] ?? 1;
    y[row] = -w * x[at]!;
    dx[at] = -w * (reduction === "none" ? dy[row]! : dy[0]! * scale);
  }
  return { y: reduction === "none" ? y : Float64Array.of(y.reduce((a, b) => a + b, 0) * scale), dx };
}

export type ElementLoss = "mse" | "l1" | "smoothL1" | "huber" | "bce" | "bceWithLogits" | "klDiv";

export interface ElementReference {
  /** smoothL1. Default 1. */
  beta?: number;
  /** huber. Default 1. */
  delta?: number;
  /** klDiv. Default false. */
  logTarget?: boolean;
  /** Repeats over x. */
  weight?: Values | null;
  posWeight?: Values | null;
  reduction?: Reduction | "batchmean";
  /** batchmean divides by it. */
  batch?: number;
}

const softplus = (v: number): number => Math.max(v, 0) + Math.log1p(Math.exp(-Math.abs(v)));
const cutLog = (v: number): number => Math.max(Math.log(v), -100);

/** Loss of an element and its derivatives by x and t. */
function elementLoss(
  name: ElementLoss,
  x: number,
  t: number,
  p: number,
  { beta = 1, delta = 1, logTarget = false }: ElementReference,
): readonly [loss: number, dx: number, dt: number] {
  const d = x - t;
  const both = (loss: number, dx: number): readonly [number, number, number] => [loss, dx, -dx];
  switch (name) {
    case "mse":
      return both(d ** 2, 2 * d);
    case "l1":
      return both(Math.abs(d), Math.sign(d));
    case "smoothL1":
      return Math.abs(d) < beta ? both(d ** 2 / (2 * beta), d / beta) : both(Math.abs(d) - beta / 2, Math.sign(d));
    case "huber":
      return Math.abs(d) < delta ? both(d ** 2 / 2, d) : both(delta * (Math.abs(d) - delta / 2), delta * Math.sign(d));
    case "bce": {
      const slope = d / Math.max(x * (1 - x), 1e-12);
      return [-(t * cutLog(x) + (1 - t) * cutLog(1 - x)), slope, cutLog(1 - x) - cutLog(x)];
    }
    case "bceWithLogits": {
      const log = 1 + (p - 1) * t;
      return [(1 - t) * x + log * softplus(-x), 1 - t - log / (1 + Math.exp(x)), (p - 1) * softplus(-x) - x];
    }
    case "klDiv":
      if (logTarget) return [Math.exp(t) * (t - x), -Math.exp(t), Math.exp(t) * (t - x + 1)];
      return [t === 0 ? 0 : t * (Math.log(t) - x), -t, Math.log(t) + 1 - x];
  }
}

export function elementReference(
  name: ElementLoss,
  x: Values,
  t: Values,
  dy: Values,
  options: ElementReference = {},
): { y: Float64Array; dx: Float64Array; dt: Float64Array } {
  const { weight, posWeight, reduction = "mean", batch = 1 } = options;
  const y = new Float64Array(x.length);
  const dx = new Float64Array(x.length);
  const dt = new Float64Array(x.length);
  const scale = reduction === "mean" ? 1 / x.length : reduction === "batchmean" ? 1 / batch : 1;
  for (let i = 0; i < x.length; i++) {
    const w = weight ? weight[i % weight.length]! : 1;
    const p = posWeight ? posWeight[i % posWeight.length]! : 1;
    const g = reduction === "none" ? dy[i]! : dy[0]! * scale;
    const [loss, byX, byT] = elementLoss(name, x[i]!, t[i]!, p, options);
    y[i] = w * loss;
    dx[i] = g * w * byX;
    dt[i] = g * w * byT;
  }
  return { y: reduction === "none" ? y : Float64Array.of(y.reduce((a, b) => a + b, 0) * scale), dx, dt };
}

/** Rows of `cols` elements; a target above 0 asks for equal directions. */
export function cosineEmbeddingReference(
  x1: Values,
  x2: Values,
  target: Values,
  dy: Values,
  cols: number,
  { margin = 0, reduction = "mean" }: { margin?: number; reduction?: Reduction } = {},
): { y: Float64Array; dx1: Float64Array; dx2: Float64Array } {
  const rows = x1.length / cols;
  const y = new Float64Array(rows);
  const dx1 = new Float64Array(x1.length);
  const dx2 = new Float64Array(x1.length);
  const scale = reduction === "mean" ? 1 / rows : 1;
  for (let row = 0; row < rows; row++) {
    let [aa, bb, ab] = [1e-12, 1e-12, 0];
    for (let i = row * cols; i < (row + 1) * cols; i++) {
      aa += x1[i]! ** 2;
      bb += x2[i]! ** 2;
      ab += x1[i]! * x2[i]!;
    }
    const cos = ab / Math.sqrt(aa * bb);
    const same = target[row]! > 0;
    y[row] = same ? 1 - cos : Math.max(0, cos - margin);
    const g = (reduction === "none" ? dy[row]! : dy[0]! * scale) * (same ? -1 : Number(cos > margin));
    for (let i = row * cols; i < (row + 1) * cols; i++) {
      dx1[i] = g * (x2[i]! / Math.sqrt(aa * bb) - (cos * x1[i]!) / aa);
      dx2[i] = g * (x1[i]! / Math.sqrt(aa * bb) - (cos * x2[i]!) / bb);
    }
  }
  return { y: reduction === "none" ? y : Float64Array.of(y.reduce((a, b) => a + b, 0) * scale), dx1, dx2 };
}

/** x [rows, in], weight [classes, in], bias [classes], class ids [rows]. */
export function linearCrossEntropyReference(
  { x, weight, bias, target }: { x: Values; weight: Values; bias: Values; target: Values },
  dy: Values,
  options: Omit<CrossEntropyReference, "stride"> = {},
): { y: Float64Array; dx: Float64Array; dw: Float64Array; db: Float64Array } {
  const classes = bias.length;
  const inner = weight.length / classes;
  const rows = x.length / inner;
  const z = new Float64Array(rows * classes);
  for (let row = 0; row < rows; row++) {
    for (let c = 0; c < classes; c++) {
      z[row * classes + c] = bias[c]!;
      for (let k = 0; k < inner; k++) z[row * classes + c]! += x[row * inner + k]! * weight[c * inner + k]!;
    }
  }
  const { y, dx: dz } = crossEntropyReference(z, target, dy, classes, options);
  const [dx, dw, db] = [x, weight, bias].map(({ length }) => new Float64Array(length)) as [
    Float64Array,
    Float64Array,
    Float64Array,
  ];
  for (let row = 0; row < rows; row++) {
    for (let c = 0; c < classes; c++) {
      const g = dz[row * classes + c]!;
      db[c]! += g;
      for (let k = 0; k < inner; k++) {
        dx[row * inner + k]! += g * weight[c * inner + k]!;
        dw[c * inner + k]! += g * x[row * inner + k]!;
      }
    }
  }
  return { y, dx, dw, db };
}
