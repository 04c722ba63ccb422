/** Activations that are no Pointwise: PReLU, which learns, and RReLU, which is random; Threshold. */
import { type Device, full, parameter, rand, type Tensor } from "@kindling/core";
import { FallbackModule } from "../backend.ts";
import { checkFloats, checkSame, fail, fallback, type Jax, type JaxArray, lowered, whole } from "./form.ts";

/** x where it is positive, else slope · x. The slopes, one or one for each channel, are [C, 1, …]. */
const leaky = ({ numpy: np }: Jax, { x, weight }: Record<string, JaxArray>, { shape }: { shape: number[] }): JaxArray =>
  np.where(x!.ref.greater(0), x!.ref, weight!.reshape(shape).mul(x!));

/**
 * max(x, 0) + weight · min(x, 0), with one weight, or one for each of the channels of x [N, C, …]. Matches
 * torch.nn.functional.prelu.
 */
export function prelu(x: Tensor, weight: Tensor): Tensor {
  checkSame("prelu", { x, weight });
  const channels = x.shape.length > 1 ? x.shape[1]! : 1;
  if (weight.shape.length > 1 || (weight.size !== 1 && weight.size !== channels))
    fail(
      "prelu",
      `weight has shape [${weight.shape}], expected [1] or [${channels}], one for each channel of x [${x.shape}]`,
    );
  const shape = weight.size === 1 ? [] : [channels, ...x.shape.slice(2).map(() => 1)];
  return fallback(leaky, { x, weight }, { shape }, { name: "prelu", dtype: lowered(x) });
}

export interface PReLUOptions {
  /** Weights: 1, or as many as channels. Default 1. */
  numParameters?: number;
  /** What they start from. Default 0.25. */
  init?: number;
  device?: Device;
}

/** `prelu` with a learned weight. Matches `torch.nn.PReLU(…)`. */
export class PReLU extends FallbackModule {
  readonly numParameters: number;
  readonly weight: Tensor;

  constructor({ numParameters = 1, init = 0.25, device }: PReLUOptions = {}) {
    super();
    this.numParameters = whole("PReLU: numParameters", numParameters, 1);
    this.weight = parameter(full([numParameters], init, { device }));
  }

  forward(x: Tensor): Tensor {
    return prelu(x, this.weight);
  }

  protected override settings(): string {
    return `numParameters=${this.numParameters}`;
  }
}

interface Slopes {
  readonly lower: number;
  readonly upper: number;
}

function randomLeaky({ numpy: np }: Jax, { x, random }: Record<string, JaxArray>, { lower, upper }: Slopes): JaxArray {
  const slope = random ? random.mul(upper - lower).add(lower) : (lower + upper) / 2;
  return np.where(x!.ref.greater(0), x!.ref, x!.mul(slope));
}

export interface RReLUOptions {
  /** Default 1/8. */
  lower?: number;
  /** Default 1/3. */
  upper?: number;
  /** Whether slopes are random, one for each element; else all are their mean. Default false. */
  training?: boolean;
}

function checkSlopes(where: string, lower: number, upper: number): void {
  if (!(lower <= upper)) fail(where, `lower is ${lower} and upper ${upper}, expected lower ≤ upper`);
}

/** x where it is positive, else x times a slope between `lower` and `upper`. Matches torch.nn.functional.rrelu. */
export function rrelu(x: Tensor, { lower = 1 / 8, upper = 1 / 3, training = false }: RReLUOptions = {}): Tensor {
  checkFloats("rrelu", { x });
  checkSlopes("rrelu", lower, upper);
  const random = training ? rand(x.shape, { device: x.device }) : null;
  return fallback(randomLeaky, { x, random }, { lower, upper }, { name: "rrelu" });
}

/** `rrelu`, random while training. Matches `torch.nn.RReLU(…)`. */
export class RReLU extends FallbackModule {
  readonly lower: number;
  readonly upper: number;

  constructor({ lower = 1 / 8, upper = 1 / 3 }: Omit<RReLUOptions, "training"> = {}) {
    super();
    checkSlopes("RReLU", lower, upper);
    this.lower = lower;
    this.upper = upper;
  }

  forward(x: Tensor): Tensor {
    return rrelu(x, this);
  }

  protected override settings(): string {
    return `lower=${this.lower}, upper=${this.upper}`;
  }
}

interface Limit {
  readonly threshold: number;
  readonly value: number;
}

const above = ({ numpy: np }: Jax, { x }: Record<string, JaxArray>, { threshold: t, value }: Limit): JaxArray =>
  np.where(x!.ref.greater(t), x!, value);

/** x where it is above `threshold`, else `value`. Matches torch.nn.functional.threshold. */
export function threshold(x: Tensor, limit: number, value: number): Tensor {
  checkFloats("threshold", { x });
  return fallback(above, { x }, { threshold: limit, value }, { name: "threshold" });
}

/** `threshold` as a module. Matches `torch.nn.Threshold(threshold, value)`. */
export class Threshold extends FallbackModule {
  readonly threshold: number;
  readonly value: number;

  constructor(limit: number, value: number) {
    super();
    this.threshold = limit;
    this.value = value;
  }

  forward(x: Tensor): Tensor {
    return threshold(x, this.threshold, this.value);
  }

  protected override settings(): string {
    return `threshold=${this.threshold}, value=${this.value}`;
  }
}
