/**
 * The layers that have kernels, computed by their fallback forms: what `delegated` of @kindling/core calls, by the layer's name,
 * with arguments that the layer has checked. The results have the dtypes that the kernels give.
 */
import {
  autocastType,
  copyInto,
  type FloatType,
  type Module,
  nextStream,
  noGrad,
  type Pointwise,
  type Tensor,
  tensor,
} from "@kindling/core";
import { isCpu } from "../backend.ts";
import { checkEager, type Form, fallback, type JaxArray } from "./bridge.ts";
import { checkIds, checkShares } from "./checks.ts";
import { type Named, nameOf } from "./forms/activations.ts";
import * as attention from "./forms/attention.ts";
import { type ConvSettings, type ConvTransposeSettings, conv, convTranspose } from "./forms/convolutions.ts";
import * as elementwise from "./forms/elementwise.ts";
import { embedding, shortened } from "./forms/indexing.ts";
import * as losses from "./forms/losses.ts";
import { linear, type MatmulSettings, matmul } from "./forms/matrix.ts";
import * as norms from "./forms/norms.ts";
import * as pooling from "./forms/pooling.ts";
import { draw } from "./forms/random.ts";
import { type SoftmaxSettings, softmax } from "./forms/softmax.ts";

type Tensors = Readonly<Record<string, Tensor | null | undefined>>;
/** A layer's result, or null where its kernels are to run. */
type Layer = (name: string, tensors: Tensors, settings: never) => unknown;

const floatOf = (x: Tensor): FloatType => x.dtype as FloatType;

/** Of products, which autocast computes in f16. */
const product = (x: Tensor): FloatType => autocastType() ?? floatOf(x);

/** Of what autocast computes in f32. */
const exact = (x: Tensor): FloatType => (autocastType() ? "f32" : floatOf(x));

/** Two numbers that name the masks of one call, as `rng` of a form; null without dropout. */
function streamOf(x: Tensor, dropout: number): Tensor | null {
  if (dropout === 0) return null;
  const { state, offset } = nextStream(x.device);
  const start = tensor(Uint32Array.of(offset), { device: x.device });
  const rng = noGrad(() => fallback(draw, { state, offset: start }, {}, { name: "dropout" }));
  start.dispose();
  return rng;
}

/** Frees `rng` where no backward will need it. */
function released<T>(result: T, y: Tensor, rng: Tensor | null): T {
  if (!y.requiresGrad) rng?.dispose();
  return result;
}

const told = new Set<string>();

/** What becomes of a layer with an activation that has no form: its kernels run, which the CPU does not have. */
function leaveToKernels(layer: string, x: Tensor, f: Pointwise): null {
  if (isCpu(x.device))
    throw new Error(
      `${layer}: the fallback has no form of the activation "${f.name}", whose WGSL needs a GPU; compute it with the layers that exist`,
    );
  if (!told.has(f.name)) {
    told.add(f.name);
    console.warn(`kindling: the fallback has no form of the activation "${f.name}"; the kernels compute its layers`);
  }
  return null;
}

/** A layer that ends in an activation; null where it has no form. */
function activated(
  layer: string,
  x: Tensor,
  activation: Pointwise | null | undefined,
  compute: (activation: Named | null) => Tensor,
): Tensor | null {
  const named = activation ? nameOf(activation) : null;
  return activation && !named ? leaveToKernels(layer, x, activation) : compute(named);
}

type ConvOptions = Omit<ConvSettings & Pick<ConvTransposeSettings, "outputPadding">, "activation"> & {
  readonly activation?: Pointwise | null;
};

/** The options may be a module, which has more in it than settings. */
const convLayer =
  (form: Form<ConvSettings, JaxArray> | Form<ConvTransposeSettings, JaxArray>): Layer =>
  (name, t, { activation, stride, padding, paddingMode, dilation, groups, outputPadding }: ConvOptions) =>
    activated(name, t.x!, activation, (named) => {
      const settings = { stride, padding, paddingMode, dilation, groups, outputPadding, activation: named };
      return fallback(form as Form<ConvSettings, JaxArray>, t, settings, { name, dtype: product(t.x!) });
    });

/** { output, sum } with a residual; the output has the sum's dtype unless autocast casts it. */
function normed(
  form: Form<never>,
  name: string,
  t: Tensors,
  settings: object,
  cast: FloatType | null,
): Tensor | { output: Tensor; sum: Tensor } {
  const sumType = [t.x, t.residual ?? t.x].every((x) => x?.dtype === "f16") ? "f16" : "f32";
  const dtype = cast ?? sumType;
  const y = fallback(form as Form<object>, t, settings, { name, dtype: [dtype, sumType] }) as Tensor | Tensor[];
  return Array.isArray(y) ? { output: y[0]!, sum: y[1]! } : y;
}

interface WithDropout {
  readonly dropout: number;
}

const attentionLayer =
  (form: Form<never, JaxArray>, first: string): Layer =>
  (name, t, { attnMask: _, ...settings }: WithDropout & { attnMask?: unknown }) => {
    const x = t[first]!;
    const rng = streamOf(x, settings.dropout);
    const y = fallback(form as Form<object, JaxArray>, { ...t, rng }, settings, { name, dtype: product(x) });
    return released(y, y, rng);
  };

const softmaxLayer: Layer = (name, t, settings: Omit<SoftmaxSettings, "kind">) =>
  fallback(softmax, t, { ...settings, kind: name as SoftmaxSettings["kind"] }, { name, dtype: exact(t.x!) });

const elementLoss: Layer = (name, t, settings: losses.ElementSettings) => {
  if (name === "bce") checkShares(t.input!, "bce: the input at position % is outside [0, 1]");
  return fallback(losses.element, t, settings, { name, dtype: "f32" });
};

const isFloat = ({ dtype }: Tensor): boolean => dtype === "f32" || dtype === "f16";

function checkClasses(name: string, target: Tensor, classes: number, ignoreIndex: number): void {
  if (isFloat(target)) return;
  checkIds(target, classes, `${name}: target % is no class; expected 0 to ${classes - 1} or ignoreIndex`, ignoreIndex);
}

const classesOf = ({ shape }: Tensor): number => shape[Math.min(1, shape.length - 1)]!;

interface BatchNormGiven {
  readonly weight: Tensor | null;
  readonly bias: Tensor | null;
  readonly runningMean: Tensor | null;
  readonly runningVar: Tensor | null;
  readonly numBatchesTracked: Tensor | null;
  readonly training: boolean;
  readonly momentum: number | null;
  readonly eps: number;
  readonly residual: Tensor | null;
  readonly activation: Pointwise | null;
}

/** The running statistics as inputs that a later step may overwrite: those of training are not what backward needs. */
const apart = (x: Tensor | null | undefined, training: boolean): Tensor | null =>
  x ? (training ? x.detach() : x) : null;

/** Moves running statistics to the values that the form gave, and frees those. */
function update(running: readonly (Tensor | null | undefined)[], values: readonly Tensor[]): void {
  noGrad(() => {
    values.forEach((value, i) => {
      copyInto(running[i]!, value);
      value.dispose();
    });
  });
}

interface MultiheadModule extends Module {
  readonly numHeads: number;
  readonly headDim: number;
  readonly dropout: number;
  readonly addZeroAttn: boolean;
  readonly batchFirst: boolean;
  readonly in_proj_weight: Tensor | null;
  readonly q_proj_weight: Tensor | null;
  readonly k_proj_weight: Tensor | null;
  readonly v_proj_weight: Tensor | null;
  readonly in_proj_bias: Tensor | null;
  readonly bias_k: Tensor | null;
  readonly bias_v: Tensor | null;
  readonly out_proj: Module & { readonly weight: Tensor; readonly bias: Tensor | null };
}

interface MultiheadGiven {
  readonly module: MultiheadModule;
  readonly isCausal: boolean;
  readonly needWeights: boolean;
  readonly averageAttnWeights: boolean;
}

const layers: Record<string, Layer> = {
  linear: (name, t, { activation, dropout }: { activation: Pointwise | null; dropout: number }) =>
    activated(name, t.x!, activation, (named) => {
      const rng = streamOf(t.x!, dropout);
      const y = fallback(linear, { ...t, rng }, { activation: named, dropout }, { name, dtype: product(t.x!) });
      return released(y, y, rng);
    }),
  matmul: (name, t, settings: MatmulSettings) => fallback(matmul, t, settings, { name, dtype: product(t.a!) }),
  activation: (name, t, { activation, dropout }: { activation: Pointwise; dropout: number }) =>
    activated(name, t.x!, activation, (named) => {
      const rng = streamOf(t.x!, dropout);
      const settings = { activation: named!, dropout };
      const options = { name: activation.name, dtype: floatOf(t.x!) };
      const y = fallback(elementwise.activation, { ...t, rng }, settings, options);
      return released(y, y, rng);
    }),
  dropout(name, t, { p }: { p: number }) {
    const rng = streamOf(t.x!, p);
    const y = fallback(elementwise.dropout, { ...t, rng }, { p }, { name, dtype: floatOf(t.x!) });
    return released(y, y, rng);
  },
  glu: (name, t, { axis, activation }: { axis: number; activation: Pointwise }) =>
    activated(name, t.x!, activation, (named) =>
      fallback(elementwise.glu, t, { axis, activation: named! }, { name, dtype: floatOf(t.x!) }),
    ),
  pad: (name, t, settings: elementwise.PadSettings) =>
    fallback(elementwise.pad, t, settings, { name, dtype: floatOf(t.x!) }),

  layerNorm: (
    name,
    t,
    { autocastToF32 = true, ...settings }: { autocastToF32?: boolean; shape: number[]; eps: number },
  ) => normed(norms.layerNorm, name, t, settings, autocastType() && autocastToF32 ? "f32" : autocastType()),
  rmsNorm: (
    name,
    t,
    { autocastToF32 = true, ...settings }: { autocastToF32?: boolean; shape: number[]; eps: number },
  ) => normed(norms.rmsNorm, name, t, settings, autocastType() && autocastToF32 ? "f32" : autocastType()),
  groupNorm: (name, t, settings: object) => normed(norms.groupNorm, name, t, settings, autocastType() && "f32"),
  instanceNorm(name, t, settings: { useInputStats: boolean; momentum: number; eps: number }) {
    const { useInputStats: own, momentum, eps } = settings;
    const given = { ...t, runningMean: apart(t.runningMean, own), runningVar: apart(t.runningVar, own) };
    const dtype = [floatOf(t.x!), "f32", "f32"] as const;
    const y = fallback(
      norms.instanceNorm as Form<norms.RunningSettings>,
      given,
      { own, momentum, eps },
      { name, dtype },
    );
    const [output, ...moved] = [y].flat() as Tensor[];
    update([t.runningMean, t.runningVar], moved);
    return output!;
  },
  batchNorm(name, { x }, given: BatchNormGiven) {
    const { training, numBatchesTracked, momentum, eps, runningMean, runningVar, activation } = given;
    return activated(name, x!, activation, (named) => {
      const tensors = {
        ...{ x, weight: given.weight, bias: given.bias, residual: given.residual },
        ...{ runningMean: apart(runningMean, training), runningVar: apart(runningVar, training) },
        tracked: training && runningMean ? apart(numBatchesTracked, true) : null,
      };
      const settings = { own: training, momentum, eps, activation: named };
      const dtype = [floatOf(x!), "f32", "f32"] as const;
      const y = fallback(norms.batchNorm as Form<norms.BatchNormSettings>, tensors, settings, { name, dtype });
      const [output, ...moved] = [y].flat() as Tensor[];
      update([runningMean, runningVar, numBatchesTracked], moved);
      return output!;
    });
  },

  conv1d: convLayer(conv),
  conv2d: convLayer(conv),
  convTranspose1d: convLayer(convTranspose),
  convTranspose2d: convLayer(convTranspose),
  maxPool(name, t, { axes, returnIndices }: { axes: readonly pooling.Axis[]; returnIndices?: boolean }) {
    const [output, indices] = fallback(pooling.maxPool, t, { axes }, { name, dtype: floatOf(t.x!) });
    if (returnIndices) return { output: output!, indices: indices! };
    indices!.dispose();
    return output!;
  },
  avgPool: (name, t, settings: pooling.AvgPoolSettings) =>
    fallback(pooling.avgPool, t, settings, { name, dtype: floatOf(t.x!) }),

  softmax: softmaxLayer,
  logSoftmax: softmaxLayer,
  softmin: softmaxLayer,

  embedding(
    name,
    { ids, weight },
    s: { padding: number | null; maxNorm: number | null; normType: number; scaleGradByFreq: boolean },
  ) {
    const rows = weight!.shape[0]!;
    checkIds(ids!, rows, `embedding: id % is out of range; the table has rows 0 to ${rows - 1}`);
    const { maxNorm, normType, padding, scaleGradByFreq } = s;
    if (maxNorm !== null)
      noGrad(() => update([weight], [fallback(shortened, { ids, weight }, { maxNorm, normType }, { name })]));
    return fallback(embedding, { ids, weight }, { padding, scaleGradByFreq }, { name, dtype: floatOf(weight!) });
  },

  mse: elementLoss,
  l1: elementLoss,
  smoothL1: elementLoss,
  huber: elementLoss,
  bce: elementLoss,
  bceWithLogits: elementLoss,
  klDiv: elementLoss,
  klDivLog: elementLoss,
  crossEntropy(name, t, settings: losses.ClassSettings) {
    checkClasses(name, t.target!, classesOf(t.input!), settings.ignoreIndex);
    return fallback(losses.crossEntropy, t, settings, { name, dtype: "f32" });
  },
  nll(name, t, settings: losses.ClassSettings) {
    checkClasses(name, t.target!, classesOf(t.input!), settings.ignoreIndex);
    return fallback(losses.nll, t, settings, { name, dtype: "f32" });
  },
  linearCrossEntropy(name, t, settings: losses.ClassSettings) {
    checkClasses(name, t.target!, t.weight!.shape[0]!, settings.ignoreIndex);
    return fallback(losses.linearCrossEntropy, t, settings, { name, dtype: "f32" });
  },
  cosineEmbedding: (name, t, settings: { margin: number; reduction: losses.Reduction }) =>
    fallback(losses.cosineEmbedding, t, settings, { name, dtype: "f32" }),

  scaledDotProductAttention: attentionLayer(attention.scaledDotProductAttention, "q"),
  selfAttention: attentionLayer(attention.selfAttention, "qkv"),
  multiheadAttention(name, { query, key, value, attnMask, keyPaddingMask }, given: MultiheadGiven) {
    const { module: m, ...flags } = given;
    const dropout = m.training ? m.dropout : 0;
    const rng = streamOf(query!, dropout);
    const sameKey = key === query;
    const sameValue = value === key;
    const tensors = {
      ...{ query, key: sameKey ? null : key, value: sameValue ? null : value, attnMask, keyPaddingMask, rng },
      ...{ inWeight: m.in_proj_weight, inBias: m.in_proj_bias, biasK: m.bias_k, biasV: m.bias_v },
      ...{ qWeight: m.q_proj_weight, kWeight: m.k_proj_weight, vWeight: m.v_proj_weight },
      ...{ outWeight: m.out_proj.weight, outBias: m.out_proj.bias },
    };
    const { numHeads: heads, batchFirst, addZeroAttn } = m;
    const settings = {
      ...{ ...flags, heads, batchFirst, addZeroAttn, dropout, sameKey, sameValue },
      elementwise: flags.needWeights || m.headDim > 256,
    };
    const [output, weights] = fallback(attention.multiheadAttention, tensors, settings, {
      name,
      dtype: product(query!),
    });
    return released(weights ? { output: output!, weights } : output!, output!, rng);
  },
  rotary(name, { x, positions }, s: { base: number; dim: number; interleaved: boolean; offset: number }) {
    const { base, dim, interleaved, offset } = s;
    const places =
      positions ??
      tensor(
        Int32Array.from({ length: x!.shape.at(-2)! }, (_, i) => offset + i),
        { device: x!.device },
      );
    const y = fallback(
      attention.rotary,
      { x, positions: places },
      { base, dim, interleaved },
      { name, dtype: floatOf(x!) },
    );
    if (!positions && !y.requiresGrad) places.dispose();
    return y;
  },
};

/** Computes `layer`; null where its kernels are to run. */
export function compute(layer: string, tensors: Tensors, settings: object): unknown {
  if (!Object.hasOwn(layers, layer)) throw new Error(`${layer}: the fallback has no form of it`);
  const { device } = Object.values(tensors).find((x) => x != null)!;
  checkEager(layer, device);
  return layers[layer]!(layer, tensors, settings as never);
}
