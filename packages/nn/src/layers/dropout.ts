/**
 * Dropout of whole channels, and alpha dropout, which keeps mean and variance of what SELU gives (Klambauer et al. 2017,
 * arXiv:1706.02515).
 *
 *   y = x · m                      m: 0 with probability p, else 1 / (1 − p); one for a channel
 *   y = a · (x · m + α′ (1 − m)) + b      m: 0 or 1; α′ = −λα of SELU, a and b from p
 */
import { rand, type Shape, type Tensor } from "@kindling/core";
import { FallbackModule } from "../backend.ts";
import { checkFloats, checkProbability, checkSpace, fail, fallback, type Jax, type JaxArray } from "./form.ts";

interface Probability {
  readonly p: number;
}

/** random: in [0, 1), broadcast to x. */
function dropped({ numpy: np }: Jax, { x, random }: Record<string, JaxArray>, { p }: Probability): JaxArray {
  return np.where(random!.less(p), 0, x!.mul(p < 1 ? 1 / (1 - p) : 0));
}

const ALPHA = -1.7580993408473766;

function alphaDropped({ numpy: np }: Jax, { x, random }: Record<string, JaxArray>, { p }: Probability): JaxArray {
  if (p === 1) return x!.mul(0).add(random!.mul(0));
  const a = 1 / Math.sqrt((ALPHA * ALPHA * p + 1) * (1 - p));
  return np
    .where(random!.less(p), ALPHA, x!)
    .mul(a)
    .sub(a * ALPHA * p);
}

export interface DropoutOptions {
  /** Whether anything is dropped. Default true. */
  training?: boolean;
}

type DropForm = typeof dropped;

function masked(
  where: string,
  form: DropForm,
  x: Tensor,
  p: number,
  { training = true }: DropoutOptions,
  maskOf: (shape: Shape) => Shape,
): Tensor {
  checkFloats(where, { x });
  checkProbability(where, p);
  if (!training || p === 0) return x;
  const random = rand(maskOf(x.shape), { device: x.device });
  return fallback(form, { x, random }, { p }, { name: where });
}

/** One number for each channel of [N, C, …], or of [C, …] where that has `space` axes, if `space` is not 0. */
const perChannel =
  (space: number) =>
  (shape: Shape): Shape => {
    const channels = shape.length === space + 1 ? 1 : 2;
    return shape.map((size, i) => (i < channels ? size : 1));
  };

/** Drops channels of x [N, C, L] or [C, L]. Matches torch.nn.functional.dropout1d. */
export function dropout1d(x: Tensor, p = 0.5, options: DropoutOptions = {}): Tensor {
  checkSpace("dropout1d", x, 1);
  return masked("dropout1d", dropped, x, p, options, perChannel(1));
}

/** Drops channels of x [N, C, H, W]; of [N, C, L] too, as PyTorch. Matches torch.nn.functional.dropout2d. */
export function dropout2d(x: Tensor, p = 0.5, options: DropoutOptions = {}): Tensor {
  if (x.shape.length !== 3 && x.shape.length !== 4)
    fail("dropout2d", `x has shape [${x.shape}], expected [N, C, H, W] or [N, C, L]`);
  return masked("dropout2d", dropped, x, p, options, perChannel(0));
}

/** Drops channels of x [N, C, D, H, W] or [C, D, H, W]. Matches torch.nn.functional.dropout3d. */
export function dropout3d(x: Tensor, p = 0.5, options: DropoutOptions = {}): Tensor {
  checkSpace("dropout3d", x, 3);
  return masked("dropout3d", dropped, x, p, options, perChannel(3));
}

/** Dropout that keeps mean and variance of what SELU gives. Matches torch.nn.functional.alpha_dropout. */
export const alphaDropout = (x: Tensor, p = 0.5, options: DropoutOptions = {}): Tensor =>
  masked("alphaDropout", alphaDropped, x, p, options, (shape) => shape);

/** `alphaDropout` of whole channels of x [N, C, …]. Matches torch.nn.functional.feature_alpha_dropout. */
export function featureAlphaDropout(x: Tensor, p = 0.5, options: DropoutOptions = {}): Tensor {
  if (x.shape.length < 2) fail("featureAlphaDropout", `x has shape [${x.shape}], expected [N, C, …]`);
  return masked("featureAlphaDropout", alphaDropped, x, p, options, perChannel(0));
}

abstract class FallbackDropout extends FallbackModule {
  readonly p: number;

  constructor(p = 0.5) {
    super();
    this.p = checkProbability(new.target.name, p);
  }

  protected override settings(): string {
    return `p=${this.p}`;
  }
}

/** `dropout1d` while training. Matches `torch.nn.Dropout1d(p)`. */
export class Dropout1d extends FallbackDropout {
  forward(x: Tensor): Tensor {
    return dropout1d(x, this.p, this);
  }
}

/** `dropout2d` while training. Matches `torch.nn.Dropout2d(p)`. */
export class Dropout2d extends FallbackDropout {
  forward(x: Tensor): Tensor {
    return dropout2d(x, this.p, this);
  }
}

/** `dropout3d` while training. Matches `torch.nn.Dropout3d(p)`. */
export class Dropout3d extends FallbackDropout {
  forward(x: Tensor): Tensor {
    return dropout3d(x, this.p, this);
  }
}

/** `alphaDropout` while training. Matches `torch.nn.AlphaDropout(p)`. */
export class AlphaDropout extends FallbackDropout {
  forward(x: Tensor): Tensor {
    return alphaDropout(x, this.p, this);
  }
}

/** `featureAlphaDropout` while training. Matches `torch.nn.FeatureAlphaDropout(p)`. */
export class FeatureAlphaDropout extends FallbackDropout {
  forward(x: Tensor): Tensor {
    return featureAlphaDropout(x, this.p, this);
  }
}
