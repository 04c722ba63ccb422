/**
 * LocalResponseNorm (Krizhevsky et al. 2012), as torch.nn has it.
 *
 *   y_c = x_c / (k + α/n · Σ x²)^β      Σ: over the n channels around c
 */
import type { Tensor } from "@kindling/core";
import { FallbackModule } from "../backend.ts";
import { checkFloats, fail, fallback, floats, type Jax, type JaxArray, moved, power, whole } from "./form.ts";

interface Response {
  readonly size: number;
  readonly alpha: number;
  readonly beta: number;
  readonly k: number;
}

function respond({ numpy: np }: Jax, { x }: Record<string, JaxArray>, { size, alpha, beta, k }: Response): JaxArray {
  const C = x!.shape[1]!;
  const before = Math.floor(size / 2);
  const near = (i: number): number => {
    const [from, to] = [Math.floor(i / C), i % C];
    return from >= to - before && from < to - before + size ? alpha / size : 0;
  };
  const band = floats(
    np,
    Array.from({ length: C * C }, (_, i) => near(i)),
    [C, C],
  );
  const sums = moved(np, x!.ref.mul(x!.ref), 1, (last) => np.matmul(last, band));
  return x!.div(power(np, sums.add(k), beta));
}

export interface LocalResponseNormOptions {
  /** Default 1e-4. */
  alpha?: number;
  /** Default 0.75. */
  beta?: number;
  /** Default 1. */
  k?: number;
}

/** x [N, C, …] divided by what `size` neighbouring channels sum up to. Matches torch.nn.functional.local_response_norm. */
export function localResponseNorm(x: Tensor, size: number, options: LocalResponseNormOptions = {}): Tensor {
  const { alpha = 1e-4, beta = 0.75, k = 1 } = options;
  const where = "localResponseNorm";
  checkFloats(where, { x });
  if (x.shape.length < 3) fail(where, `x has shape [${x.shape}], expected [N, C, …] with at least one axis of space`);
  return fallback(respond, { x }, { size: whole(`${where}: size`, size, 1), alpha, beta, k }, { name: where });
}

/** `localResponseNorm` as a module. Matches `torch.nn.LocalResponseNorm(size, …)`. */
export class LocalResponseNorm extends FallbackModule {
  readonly size: number;
  readonly alpha: number;
  readonly beta: number;
  readonly k: number;

  constructor(size: number, { alpha = 1e-4, beta = 0.75, k = 1 }: LocalResponseNormOptions = {}) {
    super();
    this.size = whole("LocalResponseNorm: size", size, 1);
    this.alpha = alpha;
    this.beta = beta;
    this.k = k;
  }

  forward(x: Tensor): Tensor {
    return localResponseNorm(x, this.size, this);
  }

  protected override settings(): string {
    return `${this.size}, alpha=${this.alpha}, beta=${this.beta}, k=${this.k}`;
  }
}
