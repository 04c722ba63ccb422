// Written by `pnpm generate` from the packages' package.json. Do not edit.

import {
  CELU as CELUBase,
  ELU as ELUBase,
  GELU as GELUBase,
  Hardshrink as HardshrinkBase,
  Hardsigmoid as HardsigmoidBase,
  Hardswish as HardswishBase,
  Hardtanh as HardtanhBase,
  LeakyReLU as LeakyReLUBase,
  LogSigmoid as LogSigmoidBase,
  Mish as MishBase,
  ReLU6 as ReLU6Base,
  ReLU as ReLUBase,
  SELU as SELUBase,
  Sigmoid as SigmoidBase,
  SiLU as SiLUBase,
  Softplus as SoftplusBase,
  Softshrink as SoftshrinkBase,
  Softsign as SoftsignBase,
  SquaredReLU as SquaredReLUBase,
  Tanh as TanhBase,
  Tanhshrink as TanhshrinkBase,
} from "@kindling/activations";
import {
  MultiheadAttention as MultiheadAttentionBase,
  RotaryEmbedding as RotaryEmbeddingBase,
} from "@kindling/attention";
import {
  BatchNorm1d as BatchNorm1dBase,
  BatchNorm2d as BatchNorm2dBase,
  BatchNorm3d as BatchNorm3dBase,
} from "@kindling/batchnorm";
import {
  ConvTranspose1d as ConvTranspose1dBase,
  ConvTranspose2d as ConvTranspose2dBase,
} from "@kindling/conv-transpose";
import { Conv1d as Conv1dBase } from "@kindling/conv1d";
import { Conv2d as Conv2dBase } from "@kindling/conv2d";
import { Dropout as DropoutBase } from "@kindling/dropout";
import { Embedding as EmbeddingBase } from "@kindling/embedding";
import { GLU as GLUBase } from "@kindling/glu";
import {
  GroupNorm as GroupNormBase,
  InstanceNorm1d as InstanceNorm1dBase,
  InstanceNorm2d as InstanceNorm2dBase,
} from "@kindling/groupnorm";
import { LayerNorm as LayerNormBase } from "@kindling/layernorm";
import { Linear as LinearBase } from "@kindling/linear";
import {
  BCELoss as BCELossBase,
  BCEWithLogitsLoss as BCEWithLogitsLossBase,
  CosineEmbeddingLoss as CosineEmbeddingLossBase,
  CrossEntropyLoss as CrossEntropyLossBase,
  HuberLoss as HuberLossBase,
  KLDivLoss as KLDivLossBase,
  L1Loss as L1LossBase,
  MSELoss as MSELossBase,
  NLLLoss as NLLLossBase,
  SmoothL1Loss as SmoothL1LossBase,
} from "@kindling/losses";
import {
  CircularPad1d as CircularPad1dBase,
  CircularPad2d as CircularPad2dBase,
  CircularPad3d as CircularPad3dBase,
  ConstantPad1d as ConstantPad1dBase,
  ConstantPad2d as ConstantPad2dBase,
  ConstantPad3d as ConstantPad3dBase,
  ReflectionPad1d as ReflectionPad1dBase,
  ReflectionPad2d as ReflectionPad2dBase,
  ReflectionPad3d as ReflectionPad3dBase,
  ReplicationPad1d as ReplicationPad1dBase,
  ReplicationPad2d as ReplicationPad2dBase,
  ReplicationPad3d as ReplicationPad3dBase,
  ZeroPad1d as ZeroPad1dBase,
  ZeroPad2d as ZeroPad2dBase,
  ZeroPad3d as ZeroPad3dBase,
} from "@kindling/padding";
import {
  AdaptiveAvgPool1d as AdaptiveAvgPool1dBase,
  AdaptiveAvgPool2d as AdaptiveAvgPool2dBase,
  AdaptiveMaxPool1d as AdaptiveMaxPool1dBase,
  AdaptiveMaxPool2d as AdaptiveMaxPool2dBase,
  AvgPool1d as AvgPool1dBase,
  AvgPool2d as AvgPool2dBase,
  MaxPool1d as MaxPool1dBase,
  MaxPool2d as MaxPool2dBase,
} from "@kindling/pooling";
import { RMSNorm as RMSNormBase } from "@kindling/rmsnorm";
import { LogSoftmax as LogSoftmaxBase, Softmax as SoftmaxBase, Softmin as SoftminBase } from "@kindling/softmax";
import { type Layer, layer } from "./backend.ts";
import { type Named, named } from "./names.ts";

export {
  celu,
  elu,
  gelu,
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
  softcap,
  softplus,
  softshrink,
  softsign,
  squaredRelu,
  tanh,
  tanhshrink,
} from "@kindling/activations";
export const CELU: Layer<typeof CELUBase> = /* @__PURE__ */ layer(CELUBase);
export type CELU = InstanceType<typeof CELU>;
export const ELU: Layer<typeof ELUBase> = /* @__PURE__ */ layer(ELUBase);
export type ELU = InstanceType<typeof ELU>;
export const GELU: Layer<typeof GELUBase> = /* @__PURE__ */ layer(GELUBase);
export type GELU = InstanceType<typeof GELU>;
export const Hardshrink: Layer<typeof HardshrinkBase> = /* @__PURE__ */ layer(HardshrinkBase);
export type Hardshrink = InstanceType<typeof Hardshrink>;
export const Hardsigmoid: Layer<typeof HardsigmoidBase> = /* @__PURE__ */ layer(HardsigmoidBase);
export type Hardsigmoid = InstanceType<typeof Hardsigmoid>;
export const Hardswish: Layer<typeof HardswishBase> = /* @__PURE__ */ layer(HardswishBase);
export type Hardswish = InstanceType<typeof Hardswish>;
export const Hardtanh: Layer<typeof HardtanhBase> = /* @__PURE__ */ layer(HardtanhBase);
export type Hardtanh = InstanceType<typeof Hardtanh>;
export const LeakyReLU: Layer<typeof LeakyReLUBase> = /* @__PURE__ */ layer(LeakyReLUBase);
export type LeakyReLU = InstanceType<typeof LeakyReLU>;
export const LogSigmoid: Layer<typeof LogSigmoidBase> = /* @__PURE__ */ layer(LogSigmoidBase);
export type LogSigmoid = InstanceType<typeof LogSigmoid>;
export const Mish: Layer<typeof MishBase> = /* @__PURE__ */ layer(MishBase);
export type Mish = InstanceType<typeof Mish>;
export const ReLU: Layer<typeof ReLUBase> = /* @__PURE__ */ layer(ReLUBase);
export type ReLU = InstanceType<typeof ReLU>;
export const ReLU6: Layer<typeof ReLU6Base> = /* @__PURE__ */ layer(ReLU6Base);
export type ReLU6 = InstanceType<typeof ReLU6>;
export const SELU: Layer<typeof SELUBase> = /* @__PURE__ */ layer(SELUBase);
export type SELU = InstanceType<typeof SELU>;
export const SiLU: Layer<typeof SiLUBase> = /* @__PURE__ */ layer(SiLUBase);
export type SiLU = InstanceType<typeof SiLU>;
export const Sigmoid: Layer<typeof SigmoidBase> = /* @__PURE__ */ layer(SigmoidBase);
export type Sigmoid = InstanceType<typeof Sigmoid>;
export const Softplus: Layer<typeof SoftplusBase> = /* @__PURE__ */ layer(SoftplusBase);
export type Softplus = InstanceType<typeof Softplus>;
export const Softshrink: Layer<typeof SoftshrinkBase> = /* @__PURE__ */ layer(SoftshrinkBase);
export type Softshrink = InstanceType<typeof Softshrink>;
export const Softsign: Layer<typeof SoftsignBase> = /* @__PURE__ */ layer(SoftsignBase);
export type Softsign = InstanceType<typeof Softsign>;
export const SquaredReLU: Layer<typeof SquaredReLUBase> = /* @__PURE__ */ layer(SquaredReLUBase);
export type SquaredReLU = InstanceType<typeof SquaredReLU>;
export const Tanh: Layer<typeof TanhBase> = /* @__PURE__ */ layer(TanhBase);
export type Tanh = InstanceType<typeof Tanh>;
export const Tanhshrink: Layer<typeof TanhshrinkBase> = /* @__PURE__ */ layer(TanhshrinkBase);
export type Tanhshrink = InstanceType<typeof Tanhshrink>;
export { KVCache, rotary, scaledDotProductAttention, selfAttention } from "@kindling/attention";
export const MultiheadAttention: Layer<typeof MultiheadAttentionBase> = /* @__PURE__ */ layer(MultiheadAttentionBase);
export type MultiheadAttention = InstanceType<typeof MultiheadAttention>;
export const RotaryEmbedding: Layer<typeof RotaryEmbeddingBase> = /* @__PURE__ */ layer(RotaryEmbeddingBase);
export type RotaryEmbedding = InstanceType<typeof RotaryEmbedding>;
export { batchNorm } from "@kindling/batchnorm";
export const BatchNorm1d: Named<typeof BatchNorm1dBase> = /* @__PURE__ */ named(BatchNorm1dBase);
export type BatchNorm1d = InstanceType<typeof BatchNorm1d>;
export const BatchNorm2d: Named<typeof BatchNorm2dBase> = /* @__PURE__ */ named(BatchNorm2dBase);
export type BatchNorm2d = InstanceType<typeof BatchNorm2d>;
export const BatchNorm3d: Named<typeof BatchNorm3dBase> = /* @__PURE__ */ named(BatchNorm3dBase);
export type BatchNorm3d = InstanceType<typeof BatchNorm3d>;
export { convTranspose1d, convTranspose2d } from "@kindling/conv-transpose";
export const ConvTranspose1d: Named<typeof ConvTranspose1dBase> = /* @__PURE__ */ named(ConvTranspose1dBase);
export type ConvTranspose1d = InstanceType<typeof ConvTranspose1d>;
export const ConvTranspose2d: Named<typeof ConvTranspose2dBase> = /* @__PURE__ */ named(ConvTranspose2dBase);
export type ConvTranspose2d = InstanceType<typeof ConvTranspose2d>;
export { conv1d } from "@kindling/conv1d";
export const Conv1d: Named<typeof Conv1dBase> = /* @__PURE__ */ named(Conv1dBase);
export type Conv1d = InstanceType<typeof Conv1d>;
export { conv2d } from "@kindling/conv2d";
export const Conv2d: Named<typeof Conv2dBase> = /* @__PURE__ */ named(Conv2dBase);
export type Conv2d = InstanceType<typeof Conv2d>;
export { dropout } from "@kindling/dropout";
export const Dropout: Layer<typeof DropoutBase> = /* @__PURE__ */ layer(DropoutBase);
export type Dropout = InstanceType<typeof Dropout>;
export { embedding } from "@kindling/embedding";
export const Embedding: Layer<typeof EmbeddingBase> = /* @__PURE__ */ layer(EmbeddingBase);
export type Embedding = InstanceType<typeof Embedding>;
export { glu } from "@kindling/glu";
export const GLU: Named<typeof GLUBase> = /* @__PURE__ */ named(GLUBase);
export type GLU = InstanceType<typeof GLU>;
export { groupNorm, instanceNorm } from "@kindling/groupnorm";
export const GroupNorm: Layer<typeof GroupNormBase> = /* @__PURE__ */ layer(GroupNormBase);
export type GroupNorm = InstanceType<typeof GroupNorm>;
export const InstanceNorm1d: Layer<typeof InstanceNorm1dBase> = /* @__PURE__ */ layer(InstanceNorm1dBase);
export type InstanceNorm1d = InstanceType<typeof InstanceNorm1d>;
export const InstanceNorm2d: Layer<typeof InstanceNorm2dBase> = /* @__PURE__ */ layer(InstanceNorm2dBase);
export type InstanceNorm2d = InstanceType<typeof InstanceNorm2d>;
export { layerNorm } from "@kindling/layernorm";
export const LayerNorm: Layer<typeof LayerNormBase> = /* @__PURE__ */ layer(LayerNormBase);
export type LayerNorm = InstanceType<typeof LayerNorm>;
export { linear } from "@kindling/linear";
export const Linear: Named<typeof LinearBase> = /* @__PURE__ */ named(LinearBase);
export type Linear = InstanceType<typeof Linear>;
export {
  bce,
  bceWithLogits,
  cosineEmbedding,
  crossEntropy,
  huber,
  klDiv,
  l1,
  linearCrossEntropy,
  mse,
  nll,
  smoothL1,
} from "@kindling/losses";
export const BCELoss: Layer<typeof BCELossBase> = /* @__PURE__ */ layer(BCELossBase);
export type BCELoss = InstanceType<typeof BCELoss>;
export const BCEWithLogitsLoss: Layer<typeof BCEWithLogitsLossBase> = /* @__PURE__ */ layer(BCEWithLogitsLossBase);
export type BCEWithLogitsLoss = InstanceType<typeof BCEWithLogitsLoss>;
export const CosineEmbeddingLoss: Layer<typeof CosineEmbeddingLossBase> =
  /* @__PURE__ */ layer(CosineEmbeddingLossBase);
export type CosineEmbeddingLoss = InstanceType<typeof CosineEmbeddingLoss>;
export const CrossEntropyLoss: Layer<typeof CrossEntropyLossBase> = /* @__PURE__ */ layer(CrossEntropyLossBase);
export type CrossEntropyLoss = InstanceType<typeof CrossEntropyLoss>;
export const HuberLoss: Layer<typeof HuberLossBase> = /* @__PURE__ */ layer(HuberLossBase);
export type HuberLoss = InstanceType<typeof HuberLoss>;
export const KLDivLoss: Layer<typeof KLDivLossBase> = /* @__PURE__ */ layer(KLDivLossBase);
export type KLDivLoss = InstanceType<typeof KLDivLoss>;
export const L1Loss: Layer<typeof L1LossBase> = /* @__PURE__ */ layer(L1LossBase);
export type L1Loss = InstanceType<typeof L1Loss>;
export const MSELoss: Layer<typeof MSELossBase> = /* @__PURE__ */ layer(MSELossBase);
export type MSELoss = InstanceType<typeof MSELoss>;
export const NLLLoss: Layer<typeof NLLLossBase> = /* @__PURE__ */ layer(NLLLossBase);
export type NLLLoss = InstanceType<typeof NLLLoss>;
export const SmoothL1Loss: Layer<typeof SmoothL1LossBase> = /* @__PURE__ */ layer(SmoothL1LossBase);
export type SmoothL1Loss = InstanceType<typeof SmoothL1Loss>;
export { pad } from "@kindling/padding";
export const CircularPad1d: Layer<typeof CircularPad1dBase> = /* @__PURE__ */ layer(CircularPad1dBase);
export type CircularPad1d = InstanceType<typeof CircularPad1d>;
export const CircularPad2d: Layer<typeof CircularPad2dBase> = /* @__PURE__ */ layer(CircularPad2dBase);
export type CircularPad2d = InstanceType<typeof CircularPad2d>;
export const CircularPad3d: Layer<typeof CircularPad3dBase> = /* @__PURE__ */ layer(CircularPad3dBase);
export type CircularPad3d = InstanceType<typeof CircularPad3d>;
export const ConstantPad1d: Layer<typeof ConstantPad1dBase> = /* @__PURE__ */ layer(ConstantPad1dBase);
export type ConstantPad1d = InstanceType<typeof ConstantPad1d>;
export const ConstantPad2d: Layer<typeof ConstantPad2dBase> = /* @__PURE__ */ layer(ConstantPad2dBase);
export type ConstantPad2d = InstanceType<typeof ConstantPad2d>;
export const ConstantPad3d: Layer<typeof ConstantPad3dBase> = /* @__PURE__ */ layer(ConstantPad3dBase);
export type ConstantPad3d = InstanceType<typeof ConstantPad3d>;
export const ReflectionPad1d: Layer<typeof ReflectionPad1dBase> = /* @__PURE__ */ layer(ReflectionPad1dBase);
export type ReflectionPad1d = InstanceType<typeof ReflectionPad1d>;
export const ReflectionPad2d: Layer<typeof ReflectionPad2dBase> = /* @__PURE__ */ layer(ReflectionPad2dBase);
export type ReflectionPad2d = InstanceType<typeof ReflectionPad2d>;
export const ReflectionPad3d: Layer<typeof ReflectionPad3dBase> = /* @__PURE__ */ layer(ReflectionPad3dBase);
export type ReflectionPad3d = InstanceType<typeof ReflectionPad3d>;
export const ReplicationPad1d: Layer<typeof ReplicationPad1dBase> = /* @__PURE__ */ layer(ReplicationPad1dBase);
export type ReplicationPad1d = InstanceType<typeof ReplicationPad1d>;
export const ReplicationPad2d: Layer<typeof ReplicationPad2dBase> = /* @__PURE__ */ layer(ReplicationPad2dBase);
export type ReplicationPad2d = InstanceType<typeof ReplicationPad2d>;
export const ReplicationPad3d: Layer<typeof ReplicationPad3dBase> = /* @__PURE__ */ layer(ReplicationPad3dBase);
export type ReplicationPad3d = InstanceType<typeof ReplicationPad3d>;
export const ZeroPad1d: Layer<typeof ZeroPad1dBase> = /* @__PURE__ */ layer(ZeroPad1dBase);
export type ZeroPad1d = InstanceType<typeof ZeroPad1d>;
export const ZeroPad2d: Layer<typeof ZeroPad2dBase> = /* @__PURE__ */ layer(ZeroPad2dBase);
export type ZeroPad2d = InstanceType<typeof ZeroPad2d>;
export const ZeroPad3d: Layer<typeof ZeroPad3dBase> = /* @__PURE__ */ layer(ZeroPad3dBase);
export type ZeroPad3d = InstanceType<typeof ZeroPad3d>;
export {
  adaptiveAvgPool1d,
  adaptiveAvgPool2d,
  adaptiveMaxPool1d,
  adaptiveMaxPool2d,
  avgPool1d,
  avgPool2d,
  maxPool1d,
  maxPool2d,
} from "@kindling/pooling";
export const AdaptiveAvgPool1d: Layer<typeof AdaptiveAvgPool1dBase> = /* @__PURE__ */ layer(AdaptiveAvgPool1dBase);
export type AdaptiveAvgPool1d = InstanceType<typeof AdaptiveAvgPool1d>;
export const AdaptiveAvgPool2d: Layer<typeof AdaptiveAvgPool2dBase> = /* @__PURE__ */ layer(AdaptiveAvgPool2dBase);
export type AdaptiveAvgPool2d = InstanceType<typeof AdaptiveAvgPool2d>;
export const AdaptiveMaxPool1d: Layer<typeof AdaptiveMaxPool1dBase<false>> & Layer<typeof AdaptiveMaxPool1dBase<true>> =
  /* @__PURE__ */ layer(AdaptiveMaxPool1dBase) as Layer<typeof AdaptiveMaxPool1dBase<false>> &
    Layer<typeof AdaptiveMaxPool1dBase<true>>;
export type AdaptiveMaxPool1d = InstanceType<Layer<typeof AdaptiveMaxPool1dBase<false>>>;
export const AdaptiveMaxPool2d: Layer<typeof AdaptiveMaxPool2dBase<false>> & Layer<typeof AdaptiveMaxPool2dBase<true>> =
  /* @__PURE__ */ layer(AdaptiveMaxPool2dBase) as Layer<typeof AdaptiveMaxPool2dBase<false>> &
    Layer<typeof AdaptiveMaxPool2dBase<true>>;
export type AdaptiveMaxPool2d = InstanceType<Layer<typeof AdaptiveMaxPool2dBase<false>>>;
export const AvgPool1d: Layer<typeof AvgPool1dBase> = /* @__PURE__ */ layer(AvgPool1dBase);
export type AvgPool1d = InstanceType<typeof AvgPool1d>;
export const AvgPool2d: Layer<typeof AvgPool2dBase> = /* @__PURE__ */ layer(AvgPool2dBase);
export type AvgPool2d = InstanceType<typeof AvgPool2d>;
export const MaxPool1d: Layer<typeof MaxPool1dBase<false>> & Layer<typeof MaxPool1dBase<true>> = /* @__PURE__ */ layer(
  MaxPool1dBase,
) as Layer<typeof MaxPool1dBase<false>> & Layer<typeof MaxPool1dBase<true>>;
export type MaxPool1d = InstanceType<Layer<typeof MaxPool1dBase<false>>>;
export const MaxPool2d: Layer<typeof MaxPool2dBase<false>> & Layer<typeof MaxPool2dBase<true>> = /* @__PURE__ */ layer(
  MaxPool2dBase,
) as Layer<typeof MaxPool2dBase<false>> & Layer<typeof MaxPool2dBase<true>>;
export type MaxPool2d = InstanceType<Layer<typeof MaxPool2dBase<false>>>;
export { rmsNorm } from "@kindling/rmsnorm";
export const RMSNorm: Layer<typeof RMSNormBase> = /* @__PURE__ */ layer(RMSNormBase);
export type RMSNorm = InstanceType<typeof RMSNorm>;
export { logSoftmax, softmax, softmin } from "@kindling/softmax";
export const LogSoftmax: Layer<typeof LogSoftmaxBase> = /* @__PURE__ */ layer(LogSoftmaxBase);
export type LogSoftmax = InstanceType<typeof LogSoftmax>;
export const Softmax: Layer<typeof SoftmaxBase> = /* @__PURE__ */ layer(SoftmaxBase);
export type Softmax = InstanceType<typeof Softmax>;
export const Softmin: Layer<typeof SoftminBase> = /* @__PURE__ */ layer(SoftminBase);
export type Softmin = InstanceType<typeof Softmin>;
