/** PyTorch's optimizers as plain loops in float64: the specification and the test oracle. They work in place. */

export interface AdamState {
  step: number;
  m: Float64Array;
  v: Float64Array;
}

export interface AdamHyper {
  lr: number;
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
}

export const adamState = (size: number): AdamState => ({
  step: 0,
  m: new Float64Array(size),
  v: new Float64Array(size),
});

/** torch.optim.AdamW, or torch.optim.Adam where the weight decay is not `decoupled`. */
export function adamStep(
  p: Float64Array,
  grad: ArrayLike<number>,
  state: AdamState,
  { lr, betas: [beta1, beta2], eps, weightDecay }: AdamHyper,
  decoupled: boolean = true,
): void {
  const t = ++state.step;
  const { m, v } = state;
  for (let i = 0; i < p.length; i++) {
    let g = grad[i]!;
    if (decoupled) p[i]! *= 1 - lr * weightDecay;
    else g += weightDecay * p[i]!;
    m[i] = beta1 * m[i]! + (1 - beta1) * g;
    v[i] = beta2 * v[i]! + (1 - beta2) * g * g;
    const denominator = Math.sqrt(v[i]!) / Math.sqrt(1 - beta2 ** t) + eps;
    p[i]! -= (lr / (1 - beta1 ** t)) * (m[i]! / denominator);
  }
}

export interface SGDHyper {
  lr: number;
  momentum: number;
  dampening: number;
  weightDecay: number;
  nesterov: boolean;
}

/** torch.optim.SGD. `buffer` is null before the parameter's first step; returns the buffer after this one. */
export function sgdStep(
  p: Float64Array,
  grad: ArrayLike<number>,
  buffer: Float64Array | null,
  { lr, momentum, dampening, weightDecay, nesterov }: SGDHyper,
): Float64Array {
  const next = new Float64Array(p.length);
  for (let i = 0; i < p.length; i++) {
    const g = grad[i]! + weightDecay * p[i]!;
    next[i] = buffer && momentum !== 0 ? momentum * buffer[i]! + (1 - dampening) * g : g;
    p[i]! -= lr * (nesterov ? g + momentum * next[i]! : next[i]!);
  }
  return next;
}

/** torch.nn.utils.clip_grad_norm_; returns the total norm. */
export function clipNorm(grads: readonly Float64Array[], maxNorm: number): number {
  let sum = 0;
  for (const g of grads) for (let i = 0; i < g.length; i++) sum += g[i]! ** 2;
  const norm = Math.sqrt(sum);
  const factor = Math.min(1, maxNorm / (norm + 1e-6));
  for (const g of grads) for (let i = 0; i < g.length; i++) g[i]! *= factor;
  return norm;
}
