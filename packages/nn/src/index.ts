// Written by `pnpm generate` from the packages' package.json. Do not edit.

import { type Layer, layer } from "./backend.ts";
import {
  InstanceNorm3d as InstanceNorm3dBase,
  LinearCrossEntropyLoss as LinearCrossEntropyLossBase,
  Softmax2d as Softmax2dBase,
} from "./layers/kernels.ts";
import {
  Transformer as TransformerBase,
  TransformerDecoder as TransformerDecoderBase,
  TransformerDecoderLayer as TransformerDecoderLayerBase,
  TransformerEncoder as TransformerEncoderBase,
  TransformerEncoderLayer as TransformerEncoderLayerBase,
} from "./transformer.ts";

export { type Backend, type BackendOption, getBackend, loadFallback, setBackend, withBackend } from "./backend.ts";
export {
  Flatten,
  type FlattenOptions,
  Identity,
  ModuleDict,
  ModuleList,
  ParameterDict,
  ParameterList,
  Residual,
  Sequential,
  type UnaryModule,
  Unflatten,
} from "./containers.ts";
export * as init from "./init.ts";
export {
  PReLU,
  type PReLUOptions,
  prelu,
  RReLU,
  type RReLUOptions,
  rrelu,
  Threshold,
  threshold,
} from "./layers/activations.ts";
export { type AdaptiveLogSoftmaxOptions, AdaptiveLogSoftmaxWithLoss } from "./layers/adaptive-softmax.ts";
export {
  Conv3d,
  type Conv3dModuleOptions,
  type Conv3dOptions,
  ConvTranspose3d,
  type ConvTranspose3dModuleOptions,
  type ConvTranspose3dOptions,
  conv3d,
  convTranspose3d,
} from "./layers/convolution.ts";
export { CTCLoss, type CTCOptions, ctcLoss } from "./layers/ctc.ts";
export {
  Bilinear,
  type BilinearOptions,
  bilinear,
  CosineSimilarity,
  type CosineSimilarityOptions,
  cosineSimilarity,
  PairwiseDistance,
  type PairwiseDistanceOptions,
  pairwiseDistance,
} from "./layers/distance.ts";
export {
  AlphaDropout,
  alphaDropout,
  Dropout1d,
  Dropout2d,
  Dropout3d,
  type DropoutOptions,
  dropout1d,
  dropout2d,
  dropout3d,
  FeatureAlphaDropout,
  featureAlphaDropout,
} from "./layers/dropout.ts";
export {
  EmbeddingBag,
  type EmbeddingBagModuleOptions,
  type EmbeddingBagOptions,
  embeddingBag,
} from "./layers/embedding-bag.ts";
export {
  GaussianNLLLoss,
  type GaussianNLLOptions,
  gaussianNLLLoss,
  HingeEmbeddingLoss,
  hingeEmbeddingLoss,
  type LossOptions,
  type MarginOptions,
  MarginRankingLoss,
  MultiLabelMarginLoss,
  MultiLabelSoftMarginLoss,
  type MultiLabelSoftMarginOptions,
  MultiMarginLoss,
  type MultiMarginOptions,
  marginRankingLoss,
  multiLabelMarginLoss,
  multiLabelSoftMarginLoss,
  multiMarginLoss,
  PoissonNLLLoss,
  type PoissonNLLOptions,
  poissonNLLLoss,
  SoftMarginLoss,
  softMarginLoss,
  TripletMarginLoss,
  type TripletMarginOptions,
  TripletMarginWithDistanceLoss,
  type TripletMarginWithDistanceOptions,
  tripletMarginLoss,
  tripletMarginWithDistanceLoss,
} from "./layers/losses.ts";
export {
  Buffer,
  Container,
  CrossMapLRN2d,
  DataParallel,
  LazyBatchNorm1d,
  LazyBatchNorm2d,
  LazyBatchNorm3d,
  LazyConv1d,
  LazyConv2d,
  LazyConv3d,
  LazyConvTranspose1d,
  LazyConvTranspose2d,
  LazyConvTranspose3d,
  LazyInstanceNorm1d,
  LazyInstanceNorm2d,
  LazyInstanceNorm3d,
  LazyLinear,
  LinearCrossEntropyOptions,
  missing,
  NLLLoss2d,
  Parameter,
  SyncBatchNorm,
  UninitializedBuffer,
  UninitializedParameter,
} from "./layers/missing.ts";
export { LocalResponseNorm, type LocalResponseNormOptions, localResponseNorm } from "./layers/normalization.ts";
export {
  AdaptiveAvgPool3d,
  AdaptiveMaxPool3d,
  AvgPool3d,
  type AvgPool3dOptions,
  adaptiveAvgPool3d,
  adaptiveMaxPool3d,
  avgPool3d,
  FractionalMaxPool2d,
  FractionalMaxPool3d,
  type FractionalMaxPoolOptions,
  fractionalMaxPool2d,
  fractionalMaxPool3d,
  LPPool1d,
  LPPool2d,
  LPPool3d,
  type LPPoolOptions,
  lpPool1d,
  lpPool2d,
  lpPool3d,
  MaxPool3d,
  type MaxPool3dOptions,
  MaxUnpool1d,
  MaxUnpool2d,
  MaxUnpool3d,
  type MaxUnpoolOptions,
  maxPool3d,
  maxUnpool1d,
  maxUnpool2d,
  maxUnpool3d,
} from "./layers/pooling.ts";
export {
  type CellOptions,
  GRU,
  GRUCell,
  LSTM,
  LSTMCell,
  type LSTMOptions,
  type RecurrentOptions,
  RNN,
  RNNBase,
  RNNCell,
  RNNCellBase,
  type RNNCellOptions,
  type RNNOptions,
} from "./layers/recurrent.ts";
export {
  ChannelShuffle,
  channelShuffle,
  Fold,
  fold,
  type InterpolateOptions,
  interpolate,
  PixelShuffle,
  PixelUnshuffle,
  pixelShuffle,
  pixelUnshuffle,
  Unfold,
  type UnfoldOptions,
  Upsample,
  UpsamplingBilinear2d,
  UpsamplingNearest2d,
  unfold,
  upsample,
} from "./layers/resampling.ts";
export * from "./layers.generated.ts";
export type { ActivationLike, ActivationName } from "./names.ts";
export {
  type AlibiOptions,
  alibi,
  LearnedPositionalEmbedding,
  type PositionalForwardOptions,
  type PositionalOptions,
  type SinusoidalOptions,
  SinusoidalPositionalEncoding,
} from "./positional.ts";
export {
  type Inspected,
  inspect,
  type LoadIntoOptions,
  type LoadOptions,
  type LoadReport,
  type LoadTensorsOptions,
  load,
  type SaveOptions,
  type Source,
  save,
  type Target,
} from "./state.ts";
export { parameterCount, type Summary, type SummaryOptions, type SummaryRow, summary } from "./summary.ts";
export type {
  DecoderForwardOptions,
  DecoderLayerLike,
  EncoderForwardOptions,
  EncoderLayerForwardOptions,
  EncoderLayerLike,
  StackOptions,
  TransformerEncoderOptions,
  TransformerForwardOptions,
  TransformerLayerOptions,
  TransformerOptions,
} from "./transformer.ts";
export const Transformer: Layer<typeof TransformerBase> = /* @__PURE__ */ layer(TransformerBase);
export type Transformer = InstanceType<typeof Transformer>;
export const TransformerDecoder: Layer<typeof TransformerDecoderBase> = /* @__PURE__ */ layer(TransformerDecoderBase);
export type TransformerDecoder = InstanceType<typeof TransformerDecoder>;
export const TransformerDecoderLayer: Layer<typeof TransformerDecoderLayerBase> =
  /* @__PURE__ */ layer(TransformerDecoderLayerBase);
export type TransformerDecoderLayer = InstanceType<typeof TransformerDecoderLayer>;
export const TransformerEncoder: Layer<typeof TransformerEncoderBase> = /* @__PURE__ */ layer(TransformerEncoderBase);
export type TransformerEncoder = InstanceType<typeof TransformerEncoder>;
export const TransformerEncoderLayer: Layer<typeof TransformerEncoderLayerBase> =
  /* @__PURE__ */ layer(TransformerEncoderLayerBase);
export type TransformerEncoderLayer = InstanceType<typeof TransformerEncoderLayer>;
export type { LinearCrossEntropyLossOptions } from "./layers/kernels.ts";
export const InstanceNorm3d: Layer<typeof InstanceNorm3dBase> = /* @__PURE__ */ layer(InstanceNorm3dBase);
export type InstanceNorm3d = InstanceType<typeof InstanceNorm3d>;
export const LinearCrossEntropyLoss: Layer<typeof LinearCrossEntropyLossBase> =
  /* @__PURE__ */ layer(LinearCrossEntropyLossBase);
export type LinearCrossEntropyLoss = InstanceType<typeof LinearCrossEntropyLoss>;
export const Softmax2d: Layer<typeof Softmax2dBase> = /* @__PURE__ */ layer(Softmax2dBase);
export type Softmax2d = InstanceType<typeof Softmax2d>;
