/** Layers of torch.nn that are another use of a kernel that we have: they have both backends. */
import { buffer, type Device, Module, type Tensor } from "@kindling/core";
import { InstanceNorm } from "@kindling/groupnorm";
import { Linear } from "@kindling/linear";
import { linearCrossEntropy } from "@kindling/losses";
import { softmax } from "@kindling/softmax";
import { checkShape, fail, whole } from "./form.ts";
import { checkReduction, type Reduction } from "./losses.ts";

/** Softmax over the channels of [N, C, H, W] or [C, H, W]. Matches `torch.nn.Softmax2d()`. */
export class Softmax2d extends Module {
  forward(x: Tensor): Tensor {
    if (x.shape.length !== 3 && x.shape.length !== 4)
      fail("Softmax2d", `x has shape [${x.shape}], expected [N, C, H, W] or [C, H, W]`);
    return softmax(x, { dim: -3 });
  }
}

/** `instanceNorm` of [C, D, H, W] or [N, C, D, H, W]. Matches `torch.nn.InstanceNorm3d(numFeatures, …)`. */
export class InstanceNorm3d extends InstanceNorm {
  protected override readonly layout: readonly string[] = ["C", "D", "H", "W"];
}

export interface LinearCrossEntropyLossOptions {
  /** Learn a bias. Default false. */
  bias?: boolean;
  /** A weight for each class, [C]. */
  weight?: Tensor | null;
  /** Default "mean". */
  reduction?: Reduction;
  /** Rows with this class id count nothing. Default -100. */
  ignoreIndex?: number;
  /** Default 0. */
  labelSmoothing?: number;
  /** Rows whose logits exist at a time; see linearCrossEntropy. */
  chunk?: number;
  device?: Device;
}

/**
 * The cross entropy of a linear layer's outputs, without holding them: our kernels' `linearCrossEntropy`. Matches
 * `torch.nn.LinearCrossEntropyLoss(inFeatures, numClasses, …)` for class ids, without its `outFeatures`.
 */
export class LinearCrossEntropyLoss extends Module {
  readonly numClasses: number;
  readonly linear: Linear;
  readonly weight: Tensor | null;
  readonly reduction: Reduction;
  readonly ignoreIndex: number;
  readonly labelSmoothing: number;
  readonly chunk: number | undefined;

  constructor(inFeatures: number, numClasses: number, options: LinearCrossEntropyLossOptions = {}) {
    super();
    const where = "LinearCrossEntropyLoss";
    const { bias = false, weight = null, reduction = "mean", ignoreIndex = -100, labelSmoothing = 0, device } = options;
    this.numClasses = whole(`${where}: numClasses`, numClasses, 1);
    if (weight) checkShape(where, "weight", weight, [numClasses]);
    checkReduction(where, reduction);
    this.linear = new Linear(inFeatures, numClasses, { bias, ...(device && { device }) });
    this.weight = weight && buffer(weight);
    this.reduction = reduction;
    this.ignoreIndex = ignoreIndex;
    this.labelSmoothing = labelSmoothing;
    this.chunk = options.chunk;
  }

  forward(x: Tensor, target: Tensor): Tensor {
    const { linear: own, weight, reduction, ignoreIndex, labelSmoothing, chunk } = this;
    const settings = { bias: own.bias, classWeight: weight, reduction, ignoreIndex, labelSmoothing };
    return linearCrossEntropy(x, own.weight, target, { ...settings, ...(chunk !== undefined && { chunk }) });
  }

  protected override extraRepr(): string {
    return `reduction=${this.reduction}, ignoreIndex=${this.ignoreIndex}, labelSmoothing=${this.labelSmoothing}`;
  }
}
