import { logSoftmax } from "@kindling/softmax";
import { ctcLoss } from "../src/layers/ctc.ts";
import {
  gaussianNLLLoss,
  hingeEmbeddingLoss,
  marginRankingLoss,
  multiLabelMarginLoss,
  multiLabelSoftMarginLoss,
  multiMarginLoss,
  poissonNLLLoss,
  softMarginLoss,
  tripletMarginLoss,
  tripletMarginWithDistanceLoss,
} from "../src/layers/losses.ts";
import { compareWithPyTorch } from "./layers.ts";

await compareWithPyTorch(
  "nn-losses",
  {
    marginRankingLoss: ({ x1, x2, target }, options) => marginRankingLoss(x1!, x2!, target!, options),
    hingeEmbeddingLoss: ({ x, target }, options) => hingeEmbeddingLoss(x!, target!, options),
    softMarginLoss: ({ x, target }, options) => softMarginLoss(x!, target!, options),
    poissonNLLLoss: ({ x, target }, options) => poissonNLLLoss(x!, target!, options),
    gaussianNLLLoss: ({ x, target, variance }, options) => gaussianNLLLoss(x!, target!, variance!, options),
    multiMarginLoss: ({ x, target, weight }, options) =>
      multiMarginLoss(x!, target!, { weight: weight ?? null, ...options }),
    multiLabelMarginLoss: ({ x, target }, options) => multiLabelMarginLoss(x!, target!, options),
    multiLabelSoftMarginLoss: ({ x, target, weight }, options) =>
      multiLabelSoftMarginLoss(x!, target!, { weight: weight ?? null, ...options }),
    tripletMarginLoss: ({ anchor, positive, negative }, options) =>
      tripletMarginLoss(anchor!, positive!, negative!, options),
    tripletMarginWithDistanceLoss: ({ anchor, positive, negative }, options) =>
      tripletMarginWithDistanceLoss(anchor!, positive!, negative!, options),
    ctcLoss: ({ logits, logProbs, targets }, { inputLengths, targetLengths, ...options }) =>
      ctcLoss(logProbs ?? logSoftmax(logits!, { dim: -1 }), targets!, inputLengths, targetLengths, options),
  },
  ['reduction="mean"', "f16"],
);
