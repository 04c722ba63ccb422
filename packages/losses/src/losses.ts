export {
  CrossEntropyLoss,
  type CrossEntropyOptions,
  crossEntropy,
  NLLLoss,
  type NLLOptions,
  nll,
} from "./classes.ts";
export { CosineEmbeddingLoss, type CosineEmbeddingOptions, cosineEmbedding } from "./cosine.ts";
export {
  BCELoss,
  type BCEOptions,
  BCEWithLogitsLoss,
  type BCEWithLogitsOptions,
  bce,
  bceWithLogits,
  HuberLoss,
  type HuberOptions,
  huber,
  KLDivLoss,
  type KLDivOptions,
  klDiv,
  L1Loss,
  l1,
  MSELoss,
  mse,
  SmoothL1Loss,
  type SmoothL1Options,
  smoothL1,
} from "./elements.ts";
export { type LinearCrossEntropyOptions, linearCrossEntropy } from "./linear-cross-entropy.ts";
export type { LossOptions, Reduction } from "./reduction.ts";
