/** The cases of each layer's package. Loaded one by one, so that one that cannot be loaded does not keep the others from running. */
import type { Case, Sizes } from "../measure.ts";

export interface Cases {
  cases(sizes: Sizes): Case[];
}

export const layers: Record<string, () => Promise<Cases>> = {
  linear: () => import("./linear.ts"),
  conv1d: () => import("./conv1d.ts"),
  conv2d: () => import("./conv2d.ts"),
  "conv-transpose": () => import("./conv-transpose.ts"),
  attention: () => import("./attention.ts"),
  batchnorm: () => import("./batchnorm.ts"),
  groupnorm: () => import("./groupnorm.ts"),
  layernorm: () => import("./layernorm.ts"),
  rmsnorm: () => import("./rmsnorm.ts"),
  softmax: () => import("./softmax.ts"),
  activations: () => import("./activations.ts"),
  math: () => import("./elementwise.ts"),
  glu: () => import("./glu.ts"),
  dropout: () => import("./dropout.ts"),
  embedding: () => import("./embedding.ts"),
  pooling: () => import("./pooling.ts"),
  padding: () => import("./padding.ts"),
  losses: () => import("./losses.ts"),
  optim: () => import("./optim.ts"),
};
