/**
 * Stochastic gradient descent with momentum (Sutskever et al. 2013), as torch.optim.SGD computes it.
 *
 *   g ← g + weightDecay · p
 *   b ← g in a parameter's first step, then momentum·b + (1 - dampening)·g
 *   p ← p - lr · b                       nesterov: p ← p - lr · (g + momentum·b)
 */
import { checkNumber, type Params, type Rule, type Settings } from "./groups.ts";
import { Optimizer } from "./optimizer.ts";
import { prepareKernels } from "./prepare.ts";
import { updateKernels } from "./walk.ts";

export interface SGDSettings extends Settings {
  lr: number;
  momentum: number;
  dampening: number;
  weightDecay: number;
  nesterov: boolean;
}

export interface SGDOptions extends Partial<SGDSettings> {
  /** Clips the gradients to this total norm, inside the update. */
  maxGradNorm?: number;
}

/**
 * h0 = (lr, weightDecay, momentum, 1 - dampening)   h1 = (nesterov, 0, 0, 0)
 * a = (lr, weightDecay, multiplier, nesterov)       b = (momentum, 1 - dampening, momentum if nesterov, else 1, 0)
 */
const prepare = prepareKernels(
  "sgd",
  /* wgsl */ `
fn coefficientsOf(h0: vec4f, h1: vec4f, t: f32, multiplier: f32) -> array<vec4f, 2> {
  let later = t > 1.5 && h0.z > 0;
  return array<vec4f, 2>(
    vec4f(h0.xy, multiplier, h1.x),
    vec4f(h0.z, select(1.0, h0.w, later), select(1.0, h0.z, h1.x > 0), 0),
  );
}`,
);

const plainUpdate = updateKernels(
  "sgd",
  0,
  /* wgsl */ `
struct Updated { p: vec4f }

fn update(p: vec4f, gradient: vec4f, a: vec4f, b: vec4f) -> Updated {
  return Updated(p - a.x * (a.z * gradient + a.y * p));
}`,
);

const momentumUpdate = updateKernels(
  "sgdMomentum",
  1,
  /* wgsl */ `
struct Updated { p: vec4f, s0: vec4f }

fn update(p: vec4f, gradient: vec4f, buffer: vec4f, a: vec4f, b: vec4f) -> Updated {
  let g = a.z * gradient + a.y * p;
  let m = b.x * buffer + b.y * g;
  return Updated(p - a.x * (a.w * g + b.z * m), m);
}`,
);

const rule = (momentum: boolean): Rule<SGDSettings> => ({
  name: "SGD",
  defaults: { lr: 1e-3, momentum: 0, dampening: 0, weightDecay: 0, nesterov: false },
  moments: momentum ? ["momentum_buffer"] : [],
  prepare,
  update: momentum ? momentumUpdate : plainUpdate,
  check(s: SGDSettings, where: string): void {
    for (const name of ["lr", "momentum", "weightDecay"] as const) checkNumber(where, name, s[name]);
    if (!Number.isFinite(s.dampening))
      throw new Error(`${where}: dampening is ${s.dampening}; expected a finite number`);
    if (typeof s.nesterov !== "boolean") throw new Error(`${where}: nesterov is ${s.nesterov}; expected true or false`);
    if (s.nesterov && !(s.momentum > 0 && s.dampening === 0)) {
      throw new Error(
        `${where}: nesterov with momentum ${s.momentum}, dampening ${s.dampening}; expected momentum > 0 and no dampening`,
      );
    }
    if (!momentum && s.momentum !== 0) {
      throw new Error(`${where}: momentum is ${s.momentum}, but the optimizer was made without; expected 0`);
    }
  },
  settings: ({ lr, momentum: mu, dampening, weightDecay, nesterov }: SGDSettings): readonly number[] => [
    ...[lr, weightDecay, mu, 1 - dampening],
    ...[nesterov ? 1 : 0, 0, 0, 0],
  ],
});

/** Matches torch.optim.SGD. Without momentum in any group it keeps no state. */
export class SGD extends Optimizer<SGDSettings> {
  constructor(params: Params<SGDSettings>, options: SGDOptions = {}) {
    const groups: readonly Partial<SGDSettings>[] = Array.isArray(params) ? (params as Partial<SGDSettings>[]) : [];
    super(rule([options, ...groups].some((group) => (group?.momentum ?? 0) !== 0)), params, options);
  }
}
