// What the grid runs for each layer: attorch's options, and the float64 side of the comparison.
import {
  celu,
  elu,
  gelu,
  geluTanh,
  hardshrink,
  hardsigmoid,
  hardswish,
  hardtanh,
  leakyRelu,
  logSigmoid,
  mish,
  relu,
  relu6,
  selu,
  sigmoid,
  silu,
  softplus,
  softshrink,
  softsign,
  tanh,
  tanhshrink,
} from "@kindling/activations";
import { activationReference } from "@kindling/activations/reference";
import { MultiheadAttention } from "@kindling/attention";
import { BatchNorm1d, BatchNorm2d } from "@kindling/batchnorm";
import { batchNormReference } from "@kindling/batchnorm/reference";
import { conv1d } from "@kindling/conv1d";
import { conv1dReference } from "@kindling/conv1d/reference";
import { conv2d } from "@kindling/conv2d";
import { conv2dReference } from "@kindling/conv2d/reference";
import { type Pointwise, type Shape, scope, sizeOf, type Tensor, tensor } from "@kindling/core";
import { toF16 } from "@kindling/core/testing";
import { dropout } from "@kindling/dropout";
import { glu } from "@kindling/glu";
import { gluReference } from "@kindling/glu/reference";
import { layerNorm } from "@kindling/layernorm";
import { layerNormReference } from "@kindling/layernorm/reference";
import { linear } from "@kindling/linear";
import { linearReference } from "@kindling/linear/reference";
import { crossEntropy, huber, l1, mse, nll, smoothL1 } from "@kindling/losses";
import { crossEntropyReference, elementReference, nllReference } from "@kindling/losses/reference";
import { avgPool1d, avgPool2d } from "@kindling/pooling";
import { poolingReference, windowsReference } from "@kindling/pooling/reference";
import { rmsNorm } from "@kindling/rmsnorm";
import { rmsNormReference } from "@kindling/rmsnorm/reference";
import { logSoftmax, softmax, softmin } from "@kindling/softmax";
import { softmaxReference } from "@kindling/softmax/reference";
import {
  byDtype,
  type Case,
  gather,
  ids,
  type Layer,
  type Leaf,
  leaf,
  normals,
  type Result,
  resultOf,
  sample,
  shapes,
  type Tolerance,
  type Values,
} from "./grid.ts";
import { type Convolution, convolutionAt, multiheadRows, outputSize } from "./oracles.ts";

const close: Tolerance = { rtol: 1e-3, atol: 1e-3 };
const convolutionClose: Tolerance = { rtol: 1e-3, atol: 1e-2 };
/** Elements up to which everything is compared; of more, a sample of about so many. */
const ALL = 2 ** 16;

const layer = <Options>(definition: Layer<Options>): Layer<never> => definition as Layer<never>;
const flags = [true, false] as const;
const lastOf = (shape: Shape): number => shape.at(-1)!;
const range = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
/** Runs of `length` neighbours, of `size` elements in all: each, or as many as are `ALL` elements. */
const runsOf = (size: number, length: number): number[] => sample(size / length, Math.max(2, Math.floor(ALL / length)));

// Activations -------------------------------------------------------------------------------------

/** attorch's twenty, and geluapprox. */
const named = {
  ...{ relu, leakyRelu, hardtanh, relu6, elu, celu, selu, gelu, geluTanh, sigmoid, logSigmoid, silu, mish, tanh },
  ...{ tanhshrink, hardsigmoid, hardswish, softplus, softsign, hardshrink, softshrink },
};
type ActivationName = keyof typeof named;
const activationNames = Object.keys(named) as ActivationName[];

/** Whose value or slope jumps somewhere. */
const edged: ReadonlySet<string | null> = new Set([
  ...["relu", "leakyRelu", "hardtanh", "relu6", "selu", "hardsigmoid", "hardswish", "hardshrink", "softshrink"],
]);

const fused = (name: ActivationName | null): Pointwise | null => name && named[name];

const activations = layer<{ activation: ActivationName; drop: number }>({
  name: "activations",
  shapes: shapes(1, 4),
  options: { activation: activationNames, drop: [0, 0.5] },
  async run(c) {
    const { activation, drop } = c.options;
    const x = c.input();
    const apply = named[activation] as (x: Tensor, options: { dropout: number }) => Tensor;
    const { y, dy, grads } = await c.differentiate({ x }, (t) => apply(t.x, { dropout: drop }));
    const { f, derivative } = activationReference(activation);
    const at = sample(x.values.length, ALL / 8);
    const [xs, dys, ys] = [gather(x.values, at), gather(dy, at), gather(y.values, at)];
    const kept = 1 / (1 - drop);
    const value = Float64Array.from(xs, f);
    // As attorch does, the mask is read off the output; where the activation itself is 0 it is read off the gradient.
    const dxs = gather(grads.x.values, at);
    const known = value.map((v) => Number(Math.abs(v) > 1e-3));
    const dropped = value.map((_, i) => Number(drop > 0 && (known[i] ? ys[i] : dxs[i]) === 0));
    c.expect(
      "y",
      y,
      value.map((v, i) => (dropped[i] ? 0 : v * kept)),
      close,
      { runs: at },
    );
    const dx = value.map((_, i) => (dropped[i] ? 0 : dys[i]! * derivative(xs[i]!) * kept));
    c.expect("dx", grads.x, dx, close, { runs: at });
    const count = known.reduce((sum, v) => sum + v, 0);
    const zeros = known.reduce((sum, v, i) => sum + v * dropped[i]!, 0);
    expectFraction(c, zeros / count, drop, count);
  },
});

/** attorch's tolerance, rtol 0.1 and atol 0.05, or four standard deviations for few elements. */
function expectFraction(c: Case, fraction: number, p: number, count: number): void {
  const limit = Math.max(0.05 + 0.1 * p, 4 * Math.sqrt((p * (1 - p)) / count));
  c.require(Math.abs(fraction - p) <= limit, `a fraction ${fraction} was dropped, expected ${p}`);
}

const dropouts = layer<{ p: number }>({
  name: "dropout",
  shapes: shapes(1, 4),
  options: { p: [0, 0.15, 0.3, 0.5, 0.75, 0.9, 1] },
  async run(c) {
    const { p } = c.options;
    const x = c.input();
    const { y, dy, grads } = await c.differentiate({ x }, (t) => dropout(t.x, p));
    const kept = Float64Array.from(x.values, (v, i) =>
      Number(y.values[i] !== 0 || (v === 0 && grads.x.values[i] !== 0)),
    );
    const scale = p < 1 ? 1 / (1 - p) : 0;
    c.expect(
      "y",
      y,
      kept.map((k, i) => (k ? x.values[i]! * scale : 0)),
      byDtype,
    );
    c.expect(
      "dx",
      grads.x,
      kept.map((k, i) => (k ? dy[i]! * scale : 0)),
      byDtype,
    );
    expectFraction(c, 1 - kept.reduce((sum, k) => sum + k, 0) / kept.length, p, kept.length);
  },
});

const glus = layer<{ activation: ActivationName }>({
  name: "glu",
  shapes: shapes(1, 3),
  options: { activation: activationNames },
  small: {
    shapes: [[196], [48, 66], [2, 15, 48]],
    options: { activation: ["sigmoid", "silu", "hardswish"] },
    limit: 3,
  },
  valid: (shape) => lastOf(shape) % 2 === 0,
  async run(c) {
    const x = c.input();
    const cols = lastOf(c.shape);
    const { y, dy, grads } = await c.differentiate({ x }, (t) =>
      glu(t.x, { activation: fused(c.options.activation)! }),
    );
    const { f, derivative } = activationReference(c.options.activation);
    const runs = runsOf(x.values.length, cols);
    const expected = gluReference(gather(x.values, runs, cols), cols / 2, f, derivative, gather(dy, runs, cols / 2));
    c.expect("y", y, expected.y, close, { runs, length: cols / 2 });
    c.expect("dx", grads.x, expected.dx, close, { runs, length: cols });
  },
});

// Normalization -----------------------------------------------------------------------------------

const gradClose: Tolerance = { rtol: 1e-2, atol: 1e-3 };

const batchNorms = layer<{
  activation: ActivationName | null;
  eps: number;
  momentum: number;
  affine: boolean;
  track: boolean;
  residual: boolean;
}>({
  name: "batchnorm",
  shapes: shapes(2, 4).filter(([batch]) => batch! > 1),
  options: {
    activation: [null, ...activationNames],
    eps: [1e-5, 1e-6],
    momentum: [0.1, 0.2],
    affine: flags,
    track: flags,
    residual: flags,
  },
  small: {
    shapes: [
      [506, 8],
      [16, 15, 7],
      [8, 3, 12, 12],
    ],
    options: { activation: [null, "relu"] },
    limit: 3,
  },
  async run(c) {
    const { activation, eps, momentum, affine, track, residual } = c.options;
    const [batch, channels] = c.shape as [number, number];
    const space = sizeOf(c.shape.slice(2));
    const Module = c.shape.length === 4 ? BatchNorm2d : BatchNorm1d;
    const settings = { eps, momentum, affine, trackRunningStats: track, activation: fused(activation) };
    const module = new Module(channels, settings);
    const [x, added] = [c.input(), residual ? c.input(1) : null];
    const { y, dy, grads } = await c.differentiate({ x, added }, (t) => module.forward(t.x, t.added));

    const chosen = sample(channels, Math.max(2, Math.floor((4 * ALL) / (batch * space))));
    const planes = range(batch).flatMap((n) => chosen.map((channel) => n * channels + channel));
    const here = { runs: planes, length: space };
    const slice = (values: Values): Float32Array => gather(values, planes, space);
    const loose = edged.has(activation);
    const reference = (running: { mean: Values; variance: Values } | null) =>
      batchNormReference(slice(x.values), [batch, chosen.length, space], slice(dy), {
        ...{ residual: added && slice(added.values), eps, running },
        activation: activation && activationReference(activation),
      });
    const expected = reference(null);
    c.expect("y", y, expected.y, byDtype, { ...here, loose });
    c.expect("dx", grads.x, expected.dx, gradClose, { ...here, loose });
    if (added) c.expect("dresidual", grads.added, expected.dresidual, gradClose, { ...here, loose });
    if (module.weight)
      c.expect("dw", await resultOf(module.weight.grad!), expected.dw, gradClose, { runs: chosen, loose });
    if (module.bias) c.expect("db", await resultOf(module.bias.grad!), expected.db, gradClose, { runs: chosen, loose });
    c.require((module.running_mean !== null) === track, "running statistics that were not asked for, or none");
    let running: { mean: Values; variance: Values } | null = null;
    if (module.running_mean && module.running_var) {
      const [mean, variance] = [await resultOf(module.running_mean), await resultOf(module.running_var)];
      const moved = (from: number, to: Float64Array): Float64Array =>
        to.map((v) => (1 - momentum) * from + momentum * v);
      c.expect("running_mean", mean, moved(0, expected.mean), byDtype, { runs: chosen });
      c.expect("running_var", variance, moved(1, expected.variance), byDtype, { runs: chosen });
      running = { mean: gather(mean.values, chosen), variance: gather(variance.values, chosen) };
    }

    module.eval();
    const evaluated = await scope(async () => {
      const [input, other] = [x, added].map((given) => given && tensor(given.values, given));
      return resultOf(c.forward(() => module.forward(input!, other)));
    });
    c.expect("y in eval", evaluated, reference(running).y, byDtype, { ...here, loose });
    for (const t of [...module.parameters(), ...module.buffers()]) {
      t.grad?.dispose();
      t.dispose();
    }
  },
});

const eps = [1e-5, 1e-6];

/**
 * The reference of `rows` of `cols` elements, a piece at a time: y, and the gradients of x and of the parameters, which are
 * sums over all rows.
 */
function rowwise(
  size: number,
  cols: number,
  reference: (from: number, to: number) => { y: Float64Array; dx: Float64Array } & { [sum: string]: Float64Array },
): Record<string, Float64Array> {
  const out: Record<string, Float64Array> = {};
  const piece = Math.max(1, Math.floor(2 ** 20 / cols)) * cols;
  for (let from = 0; from < size; from += piece) {
    for (const [name, values] of Object.entries(reference(from, Math.min(from + piece, size)))) {
      const whole = (out[name] ??= new Float64Array(name === "y" || name === "dx" ? size : values.length));
      if (name === "y" || name === "dx") whole.set(values, from);
      else for (let i = 0; i < values.length; i++) whole[i]! += values[i]!;
    }
  }
  return out;
}

const layerNorms = layer<{ eps: number; affine: boolean; biased: boolean }>({
  name: "layernorm",
  shapes: [...shapes(1, 3), [2049, 2], [4097, 4]],
  options: { eps, affine: flags, biased: flags },
  small: {
    shapes: [
      [48, 67],
      [2049, 2],
    ],
    precisions: ["f16 under autocast"],
    limit: 4,
  },
  async run(c) {
    const cols = lastOf(c.shape);
    const x = c.input();
    const weight = c.options.affine ? leaf([cols], 1) : null;
    const bias = c.options.affine && c.options.biased ? leaf([cols], 2) : null;
    const { y, dy, grads } = await c.differentiate({ x, weight, bias }, (t) =>
      layerNorm(t.x, cols, { weight: t.weight, bias: t.bias, eps: c.options.eps }),
    );
    const expected = rowwise(x.values.length, cols, (from, to) => {
      const [w, b] = [weight?.values ?? null, bias?.values ?? null];
      return layerNormReference(x.values.subarray(from, to), cols, w, b, dy.subarray(from, to), c.options.eps);
    });
    c.expect("y", y, expected.y!, close);
    c.expect("dx", grads.x, expected.dx!, close);
    if (weight) c.expect("dw", grads.weight, expected.dw!, close);
    if (bias) c.expect("db", grads.bias, expected.db!, close);
  },
});

const rmsNorms = layer<{ eps: number; affine: boolean }>({
  name: "rmsnorm",
  shapes: [...shapes(1, 3), [2048, 2], [2049, 2], [4097, 4]],
  options: { eps, affine: flags },
  small: {
    shapes: [
      [48, 67],
      [2049, 2],
    ],
    precisions: ["f32"],
    limit: 4,
  },
  async run(c) {
    const cols = lastOf(c.shape);
    const x = c.input();
    const weight = c.options.affine ? leaf([cols], 1) : null;
    const { y, dy, grads } = await c.differentiate({ x, weight }, (t) =>
      rmsNorm(t.x, cols, { weight: t.weight, eps: c.options.eps }),
    );
    const expected = rowwise(x.values.length, cols, (from, to) =>
      rmsNormReference(x.values.subarray(from, to), cols, weight?.values ?? null, dy.subarray(from, to), c.options.eps),
    );
    c.expect("y", y, expected.y!, close);
    c.expect("dx", grads.x, expected.dx!, close);
    if (weight) c.expect("dw", grads.weight, expected.dw!, close);
  },
});

const softmaxes = layer<{ kind: "softmax" | "logSoftmax" | "softmin" }>({
  name: "softmax",
  shapes: shapes(1, 4),
  options: { kind: ["softmax", "logSoftmax", "softmin"] },
  small: {
    shapes: [
      [48, 67],
      [128, 4, 4],
    ],
    precisions: ["f32", "f32 under autocast"],
    limit: 3,
  },
  async run(c) {
    const { kind } = c.options;
    const cols = lastOf(c.shape);
    const x = c.input();
    const { y, dy, grads } = await c.differentiate({ x }, (t) => ({ softmax, logSoftmax, softmin })[kind](t.x));
    const expected = rowwise(x.values.length, cols, (from, to) =>
      softmaxReference(kind, x.values.subarray(from, to), cols, 1, dy.subarray(from, to)),
    );
    c.expect("y", y, expected.y!, byDtype);
    c.expect("dx", grads.x, expected.dx!, byDtype);
  },
});

// Losses ------------------------------------------------------------------------------------------

const crossEntropies = layer<{ weighted: boolean }>({
  name: "cross entropy",
  shapes: shapes(2, 2),
  options: { weighted: flags },
  small: {
    shapes: [
      [4, 500],
      [3072, 1],
    ],
    precisions: ["f32", "f16 under autocast"],
    limit: 2,
  },
  async run(c) {
    const [rows, classes] = c.shape as [number, number];
    const [x, target] = [c.input(), ids(rows, classes)];
    const weight = c.options.weighted ? normals(classes, 3) : null;
    const { y, dy, grads } = await c.differentiate({ x }, (t) =>
      crossEntropy(t.x, tensor(target), { weight: weight && tensor(weight) }),
    );
    const expected = crossEntropyReference(x.values, target, dy, classes, { weight });
    c.expect("y", y, expected.y, close);
    c.expect("dx", grads.x, expected.dx, close);
  },
});

const nlls = layer<{ reduction: "none" | "mean" | "sum"; weighted: boolean }>({
  name: "nll",
  shapes: shapes(2, 4),
  options: { reduction: ["none", "mean", "sum"], weighted: flags },
  small: {
    shapes: [
      [506, 8],
      [16, 15, 7],
      [8, 3, 12, 12],
    ],
    limit: 3,
  },
  async run(c) {
    const { reduction, weighted } = c.options;
    const [batch, classes, ...space] = c.shape as [number, number, ...number[]];
    const stride = sizeOf(space);
    const [x, target] = [c.input(), ids(batch * stride, classes)];
    const weight = weighted ? normals(classes, 3) : null;
    const { y, dy, grads } = await c.differentiate({ x }, (t) =>
      nll(t.x, tensor(target, { shape: [batch, ...space] }), { reduction, weight: weight && tensor(weight) }),
    );
    const expected = nllReference(x.values, target, dy, classes, { stride, weight, reduction });
    c.expect("y", y, expected.y, byDtype);
    c.expect("dx", grads.x, expected.dx, byDtype);
  },
});

const elementLosses = layer<{ loss: "mse" | "l1" | "smoothL1" | "huber"; reduction: "none" | "mean" | "sum" }>({
  name: "losses of elements",
  shapes: shapes(1, 4),
  options: { loss: ["mse", "l1", "smoothL1", "huber"], reduction: ["none", "mean", "sum"] },
  small: { shapes: [[3200], [48, 67], [16, 15, 7], [8, 3, 12, 12]], limit: 4 },
  async run(c) {
    const { loss, reduction } = c.options;
    const [x, target] = [c.input(), c.input(1)];
    const size = x.values.length;
    const { y, dy, grads } = await c.differentiate({ x, target }, (t) =>
      ({ mse, l1, smoothL1, huber })[loss](t.x, t.target!, { reduction }),
    );
    const at = sample(size, ALL / 8);
    const each = reduction === "none" ? gather(dy, at) : [dy[0]! / (reduction === "mean" ? size : 1)];
    const by = reduction === "none" ? "none" : "sum";
    const some = elementReference(loss, gather(x.values, at), gather(target.values, at), each, { reduction: by });
    if (reduction === "none") c.expect("y", y, some.y, close, { runs: at });
    else {
      let sum = 0;
      for (let from = 0; from < size; from += 2 ** 20) {
        const piece = ({ values }: Leaf): Values => values.subarray(from, from + 2 ** 20);
        sum += elementReference(loss, piece(x), piece(target), [1], { reduction: "sum" }).y[0]!;
      }
      c.expect("y", y, [reduction === "mean" ? sum / size : sum], close);
    }
    c.expect("dx", grads.x, some.dx, close, { runs: at });
    c.expect("dtarget", grads.target, some.dt, close, { runs: at });
  },
});

// Linear, convolution, pooling, attention ----------------------------------------------------------

const widths = [16, 96, 128, 196, 384, 512, 768, 1024];

const linears = layer<{ out: number; biased: boolean; activation: ActivationName | null }>({
  name: "linear",
  products: true,
  shapes: shapes(2, 3),
  options: { out: widths, biased: flags, activation: [null, ...activationNames] },
  small: {
    shapes: [
      [48, 67],
      [2, 15, 48],
    ],
    precisions: ["f32", "f16 under autocast"],
    options: { out: [12, 17], activation: [null, "gelu"] },
    limit: 2,
  },
  async run(c) {
    const { out, biased, activation } = c.options;
    const inputs = lastOf(c.shape);
    const x = c.input();
    const rows = x.values.length / inputs;
    const weight = leaf([out, inputs], 1, { scale: 1 / Math.sqrt(inputs) });
    const bias = biased ? leaf([out], 2) : null;
    const { y, dy, grads } = await c.differentiate({ x, weight, bias }, (t) =>
      linear(t.x, t.weight!, t.bias, { activation: fused(activation) }),
    );
    const [xs, ws] = [c.operand(x.values), c.operand(weight.values)];
    const { f, derivative } = activation
      ? activationReference(activation)
      : { f: (z: number) => z, derivative: () => 1 };
    const round = (values: Float64Array): Values => (c.precision.amp ? toF16(values) : values);
    // Products in float64. Under autocast PyTorch keeps the pre-activation and its gradient in f16, and so does this.
    const products = (rowsOfX: Float32Array, w: Float32Array, b: Values | null, upstream: Values) => {
      const z = linearReference(rowsOfX, w, b, upstream, { inputs }).y;
      const slope = Float64Array.from(round(z), derivative);
      const dz = activation ? round(slope.map((d, i) => d * upstream[i]!)) : upstream;
      return { ...linearReference(rowsOfX, w, null, dz, { inputs }), y: z.map(f) };
    };
    const loose = edged.has(activation);
    const budget = 2 ** 22;
    // All of some rows, for y and dx; and of some outputs all rows, for dw and db.
    const some = sample(rows, Math.floor(budget / (inputs * out)));
    const here = products(gather(xs, some, inputs), ws, bias?.values ?? null, gather(dy, some, out));
    c.expect("y", y, here.y, close, { runs: some, length: out, loose });
    c.expect("dx", grads.x, here.dx, close, { runs: some, length: inputs, loose });
    const outputs = sample(out, Math.floor(budget / (rows * inputs)));
    const columns = gather(
      dy,
      range(rows).flatMap((row) => outputs.map((o) => row * out + o)),
    );
    const there = products(xs, gather(ws, outputs, inputs), bias && gather(bias.values, outputs), columns);
    c.expect("dw", grads.weight, there.dw, close, { runs: outputs, length: inputs, loose });
    if (bias) c.expect("db", grads.bias, there.db, close, { runs: outputs, loose });
  },
});

type Kernel = number | readonly [number, number];
const pairOf = (k: Kernel): readonly [number, number] => (typeof k === "number" ? [k, k] : k);
/** attorch's padding "k // 2". */
const padded = (padding: number | "half", k: number): number => (padding === "half" ? Math.floor(k / 2) : padding);

interface ConvolutionOptions<Size> {
  out: number;
  kernel: Size;
  stride: Size;
  padding: number | "half";
  /** "channels": as many as x has. Where they do not divide both sides it is one group, as in attorch. */
  groups: number | "channels";
  biased: boolean;
}

/** Outputs and gradients above which a sample is compared, in multiplications. */
const MULTIPLICATIONS = 2 ** 21;
/** Elements of an output that a case may have: 512 MiB of f32. */
const LARGEST = 2 ** 27;

function convolutionOf(shape: Shape, options: ConvolutionOptions<Kernel>): Convolution {
  const { out, kernel, stride, padding, groups } = options;
  const x = shape.length === 3 ? [shape[0]!, shape[1]!, 1, shape[2]!] : shape;
  const [kh, kw] = shape.length === 3 ? ([1, kernel as number] as const) : pairOf(kernel);
  const count = groups === "channels" ? x[1]! : groups;
  const split = x[1]! % count === 0 && out % count === 0 ? count : 1;
  return {
    x,
    weight: [out, x[1]! / split, kh, kw],
    stride: shape.length === 3 ? [1, stride as number] : pairOf(stride),
    padding: [shape.length === 3 ? 0 : padded(padding, kh), padded(padding, kw)],
    groups: split,
  };
}

function convolutionExists(shape: Shape, options: ConvolutionOptions<Kernel>): boolean {
  const [oh, ow] = outputSize(convolutionOf(shape, options));
  return oh > 0 && ow > 0 && shape[0]! * options.out * oh * ow <= LARGEST;
}

async function convolve(c: Case<ConvolutionOptions<Kernel>>): Promise<void> {
  const conv = convolutionOf(c.shape, c.options);
  const flat = c.shape.length === 3;
  const weightShape = flat ? conv.weight.filter((_, axis) => axis !== 2) : conv.weight;
  const [out, perGroup, kh, kw] = conv.weight as [number, number, number, number];
  const x = c.input();
  const weight = leaf(weightShape, 1, { scale: 1 / Math.sqrt(perGroup * kh * kw) });
  const bias = c.options.biased ? leaf([out], 2) : null;
  const { stride, padding, groups } = conv;
  const { y, dy, grads } = await c.differentiate({ x, weight, bias }, (t) =>
    flat
      ? conv1d(t.x, t.weight!, { bias: t.bias, stride: stride[1], padding: padding[1], groups })
      : conv2d(t.x, t.weight!, { bias: t.bias, stride, padding, groups }),
  );
  const [xs, w] = [c.operand(x.values), c.operand(weight.values)];
  const b = bias?.values ?? null;
  const results: Record<string, Result | null> = { y, dx: grads.x, dw: grads.weight, db: bias && grads.bias };
  if (dy.length * perGroup * kh * kw <= MULTIPLICATIONS) {
    const expected = flat
      ? conv1dReference(xs, w, b, dy, {
          ...{ x: c.shape, weight: weightShape, stride: stride[1], padding: [padding[1], padding[1]], groups },
        })
      : conv2dReference(xs, w, b, dy, {
          ...{ x: conv.x, weight: conv.weight, stride, groups },
          padding: [
            [padding[0], padding[0]],
            [padding[1], padding[1]],
          ],
        });
    for (const [name, result] of Object.entries(results))
      if (result) c.expect(name, result, expected[name as keyof typeof expected], convolutionClose);
    return;
  }
  const one = convolutionAt(conv, { x: xs, w, dy });
  const plane = dy.length / conv.x[0]! / out;
  const biasAt = (at: number): number => b?.[Math.floor(at / plane) % out] ?? 0;
  const counts = { y: 400, dx: 400, dw: 60, db: 60 };
  for (const name of ["y", "dx", "dw", "db"] as const) {
    const result = results[name];
    if (!result) continue;
    const at = sample(result.values.length, counts[name]);
    const expected = at.map((i) => one[name](i) + (name === "y" ? biasAt(i) : 0));
    c.expect(name, result, expected, convolutionClose, { runs: at });
  }
}

const convolutions = [
  layer<ConvolutionOptions<number>>({
    name: "conv1d",
    products: true,
    shapes: shapes(3, 3),
    options: {
      out: widths,
      kernel: [1, 2, 3, 4, 5, 7],
      stride: [1, 2],
      padding: [0, 1, 3, "half"],
      groups: [1, 2, 4, "channels"],
      biased: flags,
    },
    small: {
      shapes: [[2, 15, 48]],
      precisions: ["f32"],
      options: { out: [12, 17], kernel: [1, 4], padding: [0, 3], groups: [1, "channels"] },
      limit: 2,
    },
    valid: convolutionExists,
    run: convolve,
  }),
  layer<ConvolutionOptions<Kernel>>({
    name: "conv2d",
    products: true,
    shapes: shapes(4, 4),
    options: {
      out: widths,
      kernel: [1, 2, 3, 4, 5, 7, [5, 3], [3, 5]],
      stride: [1, 2, [1, 2], [2, 1]],
      padding: [0, 1, 3, "half"],
      groups: [1, 2, 4, "channels"],
      biased: flags,
    },
    small: {
      shapes: [[8, 4, 7, 7]],
      precisions: ["f32"],
      options: {
        out: [12, 17],
        kernel: [3, [5, 3]],
        stride: [1, [2, 1]],
        padding: [1, "half"],
        groups: [1, "channels"],
      },
      limit: 2,
    },
    valid: convolutionExists,
    run: convolve,
  }),
];

interface PoolingOptions {
  kernel: number;
  stride: number | null;
  padding: number | "half";
}

const pooling = (name: string, rank: number, pool: typeof avgPool1d | typeof avgPool2d): Layer<never> =>
  layer<PoolingOptions>({
    name,
    shapes: shapes(rank, rank),
    options: { kernel: [2, 3, 4], stride: [null, 1, 2], padding: [0, 1, "half"] },
    valid: (shape, { kernel, padding }) => lastOf(shape) + 2 * padded(padding, kernel) >= kernel,
    async run(c) {
      const { kernel, stride } = c.options;
      const padding = padded(c.options.padding, kernel);
      const x = c.input();
      const { y, dy, grads } = await c.differentiate({ x }, (t) => pool(t.x, kernel, { stride, padding }));
      const axis = windowsReference(lastOf(c.shape), { kernel, stride: stride ?? kernel, padding });
      const line = { size: 1, windows: [{ taps: [0], padded: 1 }] };
      const rows = rank === 3 ? line : axis;
      const plane = rows.size * axis.size;
      const outPlane = rows.windows.length * axis.windows.length;
      const runs = runsOf(x.values.length, plane);
      const [xs, dys] = [gather(x.values, runs, plane), gather(dy, runs, outPlane)];
      const expected = poolingReference(xs, rows, axis, dys, (count) => count);
      c.expect("y", y, expected.y, convolutionClose, { runs, length: outPlane });
      c.expect("dx", grads.x, expected.dx, convolutionClose, { runs, length: plane });
    },
  });

const attentionClose: Tolerance = { rtol: 1e-2, atol: 1e-2 };

const attention = layer<{ heads: number; cross: boolean; biased: boolean; causal: boolean }>({
  name: "attention",
  products: true,
  shapes: shapes(3, 3),
  options: { heads: [1, 2, 4, 6, 8], cross: flags, biased: flags, causal: flags },
  small: {
    shapes: [[2, 15, 48]],
    precisions: ["f32"],
    options: { heads: [2, 6] },
    limit: 2,
  },
  valid: (shape, { heads }) => lastOf(shape) % heads === 0,
  async run(c) {
    const { heads, cross, biased, causal } = c.options;
    const [batch, length, features] = c.shape as [number, number, number];
    const module = new MultiheadAttention(features, heads, { bias: biased, batchFirst: true });
    const parameters = Object.fromEntries(module.namedParameters()) as Record<string, Tensor>;
    const state: Record<string, Leaf> = {};
    for (const [seed, [name, { shape }]] of Object.entries(parameters).entries())
      state[name] = leaf(shape, seed + 3, { scale: shape.length === 2 ? 1 / Math.sqrt(features) : 1 });
    await scope(async () =>
      module.loadStateDict(Object.fromEntries(Object.entries(state).map(([name, v]) => [name, tensor(v.values, v)]))),
    );
    const [x, memory] = [c.input(), cross ? c.input(1) : null];
    // Of large cases dy is zero but for some rows of two items of the batch.
    const cost = 8 * features ** 2 + 4 * length * features * heads;
    const few = Math.max(1, Math.floor(2 ** 27 / cost));
    const total = batch * length;
    const rows =
      few >= total
        ? range(total)
        : [...new Set([0, total - length, total - 1, ...sample(length, Math.min(few, 16))])].sort((a, b) => a - b);
    const { y, dy, grads } = await c.differentiate(
      { x, memory },
      (t) => module.forward(t.x, t.memory ?? t.x, null, { isCausal: causal }),
      (size, dtype) => {
        const all = new Float32Array(size);
        const some = normals(rows.length * features, 9, dtype);
        for (const [n, row] of rows.entries()) all.set(some.subarray(n * features, (n + 1) * features), row * features);
        return all;
      },
    );
    const query = c.operand(x.values);
    const expected = multiheadRows(
      {
        query,
        memory: memory ? c.operand(memory.values) : query,
        inWeight: c.operand(state.in_proj_weight!.values),
        inBias: state.in_proj_bias?.values ?? null,
        outWeight: c.operand(state["out_proj.weight"]!.values),
        outBias: state["out_proj.bias"]?.values ?? null,
      },
      { length, features, heads, causal },
      rows,
      gather(dy, rows, features),
    );
    c.expect("y", y, expected.y, attentionClose, { runs: rows, length: features });
    if (memory) {
      c.expect("dquery", grads.x, expected.dquery, attentionClose);
      c.expect("dmemory", grads.memory, expected.dmemory, attentionClose);
    } else
      c.expect(
        "dx",
        grads.x,
        expected.dquery.map((v, i) => v + expected.dmemory[i]!),
        attentionClose,
      );
    const names = {
      ...{ in_proj_weight: expected.dinWeight, in_proj_bias: expected.dinBias },
      ...{ "out_proj.weight": expected.doutWeight, "out_proj.bias": expected.doutBias },
    };
    for (const [name, t] of Object.entries(parameters))
      c.expect(`d${name}`, await resultOf(t.grad!), names[name as keyof typeof names], attentionClose);
    for (const t of module.parameters()) {
      t.grad?.dispose();
      t.dispose();
    }
  },
});

export const layers: readonly Layer<never>[] = [
  ...[activations, dropouts, glus, batchNorms, layerNorms, rmsNorms, softmaxes, crossEntropies, nlls, elementLosses],
  ...[linears, ...convolutions, pooling("avgpool1d", 3, avgPool1d), pooling("avgpool2d", 4, avgPool2d), attention],
];
