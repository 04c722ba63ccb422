/**
 * AdaptiveLogSoftmaxWithLoss (Grave et al. 2017, arXiv:1609.04309), as torch.nn has it.
 *
 *   log p(c) = log softmax(head x)_c for frequent classes c
 *            = log softmax(head x)_cluster + log softmax(tail_cluster x)_c for the others
 */
import { type Device, Module, type Tensor } from "@kindling/core";
import { Linear, linear } from "@kindling/linear";
import { nll } from "@kindling/losses";
import { logSoftmax } from "@kindling/softmax";
import { FallbackModule } from "../backend.ts";
import { checkFloats, checkIntegers, checkShape, fail, fallback, type Jax, type JaxArray, whole } from "./form.ts";

/** Log-probabilities of all classes, of those of the head and of the clusters x0, x1, … */
function together(
  { numpy: np }: Jax,
  { head, ...clusters }: Record<string, JaxArray>,
  { shortlist }: { shortlist: number },
): JaxArray {
  const rows = head!.shape[0]!;
  const parts = Object.values(clusters).map((part, i) => {
    const own = head!.ref.slice([], shortlist + i).reshape([rows, 1]);
    return part.add(own);
  });
  return np.concatenate([head!.slice([], [0, shortlist]), ...parts], 1);
}

const mostLikely = ({ numpy: np }: Jax, { x }: Record<string, JaxArray>): JaxArray =>
  np.argmax(x!, 1).astype("int32" as never);

/** Two linear layers without bias, of which PyTorch's names are 0 and 1. */
class Projection extends Module {
  readonly 0: Linear;
  readonly 1: Linear;

  constructor(inputs: number, hidden: number, outputs: number, device: Device | undefined) {
    super();
    this[0] = new Linear(inputs, hidden, { bias: false, ...(device && { device }) });
    this[1] = new Linear(hidden, outputs, { bias: false, ...(device && { device }) });
  }

  forward(x: Tensor): Tensor {
    return linear(linear(x, this[0].weight), this[1].weight);
  }
}

export interface AdaptiveLogSoftmaxOptions {
  /** By how much each cluster's projection is smaller than that of the one before. Default 4. */
  divValue?: number;
  /** Learn a bias of the head. Default false. */
  headBias?: boolean;
  device?: Device;
}

/**
 * A softmax over many classes sorted by frequency, of which rare ones are in clusters of smaller projections. Matches
 * `torch.nn.AdaptiveLogSoftmaxWithLoss(inFeatures, nClasses, cutoffs, …)`. Here every cluster is computed for every row.
 */
export class AdaptiveLogSoftmaxWithLoss extends FallbackModule {
  readonly inFeatures: number;
  readonly nClasses: number;
  /** The first class of each cluster, and at last nClasses. */
  readonly cutoffs: readonly number[];
  readonly divValue: number;
  readonly head: Linear;
  readonly tail: readonly Projection[];

  constructor(
    inFeatures: number,
    nClasses: number,
    cutoffs: readonly number[],
    { divValue = 4, headBias = false, device }: AdaptiveLogSoftmaxOptions = {},
  ) {
    super();
    const where = "AdaptiveLogSoftmaxWithLoss";
    this.inFeatures = whole(`${where}: inFeatures`, inFeatures, 1);
    this.nClasses = whole(`${where}: nClasses`, nClasses, 1);
    const rising = cutoffs.every((c, i) => Number.isInteger(c) && c > (cutoffs[i - 1] ?? 0) && c < nClasses);
    if (cutoffs.length === 0 || !rising)
      fail(where, `cutoffs is [${cutoffs}], expected rising whole numbers from 1 to ${nClasses - 1}`);
    this.cutoffs = [...cutoffs, nClasses];
    this.divValue = divValue;
    const [shortlist] = cutoffs as [number];
    this.head = new Linear(inFeatures, shortlist + cutoffs.length, { bias: headBias, ...(device && { device }) });
    this.tail = cutoffs.map((start, i) => {
      const hidden = Math.floor(inFeatures / divValue ** (i + 1));
      if (hidden < 1)
        fail(where, `divValue is ${divValue}, which leaves nothing of ${inFeatures} features for cluster ${i}`);
      return new Projection(inFeatures, hidden, this.cutoffs[i + 1]! - start, device);
    });
  }

  /** The log-probabilities of all classes, [N, nClasses], for x [N, inFeatures]. */
  logProb(x: Tensor): Tensor {
    const where = "AdaptiveLogSoftmaxWithLoss";
    checkFloats(where, { x });
    if (x.shape.length !== 2 || x.shape[1] !== this.inFeatures)
      fail(where, `x has shape [${x.shape}], expected [N, ${this.inFeatures}]`);
    const head = logSoftmax(linear(x, this.head.weight, this.head.bias), { dim: 1 });
    const clusters = this.tail.map(
      (projection, i) => [`x${i}`, logSoftmax(projection.forward(x), { dim: 1 })] as const,
    );
    const settings = { shortlist: this.cutoffs[0]! };
    return fallback(together, { head, ...Object.fromEntries(clusters) }, settings, { name: where });
  }

  /** The most likely class of each row, i32 [N]. */
  predict(x: Tensor): Tensor {
    return fallback(mostLikely, { x: this.logProb(x).detach() }, {}, { name: "AdaptiveLogSoftmaxWithLoss" });
  }

  /** The log-probability of each row's target, and the mean of their negatives: x [N, in] and target [N], or [in] and []. */
  forward(x: Tensor, target: Tensor): { output: Tensor; loss: Tensor } {
    const where = "AdaptiveLogSoftmaxWithLoss";
    checkIntegers(where, { target });
    const single = target.shape.length === 0;
    const rows = single ? x.reshape([1, x.size]) : x;
    if (!single) checkShape(where, "target", target, [x.shape[0]!]);
    const logProb = this.logProb(rows);
    const labels = target.reshape([rows.shape[0]!]);
    const output = fallback(negative, { x: nll(logProb, labels, { reduction: "none" }) }, {}, { name: where });
    return { output: output.reshape(target.shape), loss: nll(logProb, labels) };
  }

  protected override settings(): string {
    return `${this.inFeatures}, ${this.nClasses}, cutoffs=[${this.cutoffs.slice(0, -1)}], divValue=${this.divValue}`;
  }
}

const negative = (_: Jax, { x }: Record<string, JaxArray>): JaxArray => x!.mul(-1);
