/**
 * Adam (Kingma & Ba 2015, arXiv:1412.6980) and AdamW (Loshchilov & Hutter 2019, arXiv:1711.05101).
 *
 *   g ← g + weightDecay · p                    Adam
 *   p ← p - lr · weightDecay · p               AdamW
 *   m ← β1·m + (1 - β1)·g                      v ← β2·v + (1 - β2)·g²
 *   p ← p - lr/(1 - β1^t) · m / (√v/√(1 - β2^t) + eps)
 *
 * m and v are f32 whatever the parameter is; t counts the steps of each parameter.
 */
import { checkNumber, type Params, type Rule, type Settings } from "./groups.ts";
import { Optimizer } from "./optimizer.ts";
import { prepareKernels } from "./prepare.ts";
import { updateKernels } from "./walk.ts";

export interface AdamSettings extends Settings {
  lr: number;
  betas: readonly [number, number];
  eps: number;
  weightDecay: number;
}

export interface AdamOptions extends Partial<AdamSettings> {
  /** Clips the gradients to this total norm, inside the update. */
  maxGradNorm?: number;
}

/**
 * h0 = (lr, AdamW's lr · weightDecay, eps, Adam's weightDecay)   h1 = (1 - β1, 1 - β2, ln β1, ln β2)
 * a = (lr / (1 - β1^t), 1 / √(1 - β2^t), eps, lr · weightDecay)   b = (1 - β1, 1 - β2, weightDecay, multiplier)
 */
const prepare = prepareKernels(
  "adam",
  /* wgsl */ `
/** 1 - e^x for x ≤ 0, to f32's precision: near zero, where 1 - exp(x) cancels, as a series. */
fn oneMinusExp(x: f32) -> f32 {
  if (x < -1.0) { return 1.0 - exp(max(x, -80.0)); }
  var sum = 1.0;
  for (var k = 12.0; k > 1.5; k -= 1.0) { sum = 1.0 + x / k * sum; }
  return -x * sum;
}

fn coefficientsOf(h0: vec4f, h1: vec4f, t: f32, multiplier: f32) -> array<vec4f, 2> {
  return array<vec4f, 2>(
    vec4f(h0.x / oneMinusExp(t * h1.z), inverseSqrt(oneMinusExp(t * h1.w)), h0.z, h0.y),
    vec4f(h1.xy, h0.w, multiplier),
  );
}`,
);

/** m - (1 - β)·m rather than β·m: in f32, β = 0.999 is off by 1e-8, which would add up over a thousand steps. */
const update = updateKernels(
  "adam",
  2,
  /* wgsl */ `
struct Updated { p: vec4f, s0: vec4f, s1: vec4f }

fn update(p: vec4f, gradient: vec4f, m0: vec4f, v0: vec4f, a: vec4f, b: vec4f) -> Updated {
  let g = b.w * gradient + b.z * p;
  let m = (m0 - b.x * m0) + b.x * g;
  let v = (v0 - b.y * v0) + b.y * g * g;
  return Updated(p - a.w * p - a.x * m / (sqrt(v) * a.y + a.z), m, v);
}`,
);

function rule(name: string, weightDecay: number, decoupled: boolean): Rule<AdamSettings> {
  return {
    name,
    defaults: { lr: 1e-3, betas: [0.9, 0.999], eps: 1e-8, weightDecay },
    moments: ["exp_avg", "exp_avg_sq"],
    prepare,
    update,
    check({ lr, betas, eps, weightDecay: decay }: AdamSettings, where: string): void {
      checkNumber(where, "lr", lr);
      if (!Array.isArray(betas) || betas.length !== 2)
        throw new Error(`${where}: betas is ${betas}; expected two numbers`);
      for (const [i, beta] of betas.entries()) checkNumber(where, `betas[${i}]`, beta, 0, 1);
      checkNumber(where, "eps", eps);
      checkNumber(where, "weightDecay", decay);
    },
    settings({ lr, betas: [beta1, beta2], eps, weightDecay: decay }: AdamSettings): readonly number[] {
      const log = (beta: number): number => Math.max(Math.log(beta), -1e4); // β = 0: e^x vanishes all the same
      const decays = decoupled ? [lr * decay, 0] : [0, decay];
      return [lr, decays[0]!, eps, decays[1]!, 1 - beta1, 1 - beta2, log(beta1), log(beta2)];
    },
  };
}

/** Adam with decoupled weight decay. Matches torch.optim.AdamW. */
export class AdamW extends Optimizer<AdamSettings> {
  constructor(params: Params<AdamSettings>, options: AdamOptions = {}) {
    super(rule("AdamW", 1e-2, true), params, options);
  }
}

/** Adam with weight decay, if any, as part of the gradient. Matches torch.optim.Adam. */
export class Adam extends Optimizer<AdamSettings> {
  constructor(params: Params<AdamSettings>, options: AdamOptions = {}) {
    super(rule("Adam", 0, false), params, options);
  }
}
