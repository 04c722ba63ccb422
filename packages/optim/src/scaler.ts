/**
 * Loss scaling for f16 training (Micikevicius et al. 2018, arXiv:1710.03740), as torch.amp.GradScaler does it, but without
 * reading anything back: whether a gradient is infinite or NaN, whether a step is skipped and what the next scale is are
 * all decided on the GPU.
 *
 *   scale   the loss is multiplied by it, so that small gradients do not underflow in f16
 *   step    divides the gradients by it inside the update; a gradient that is not finite skips the step
 *   update  not finite: scale ← backoffFactor · scale;  growthInterval steps in a row finite: scale ← growthFactor · scale
 */
import {
  copyInto,
  type Device,
  defaultDevice,
  full,
  kernel,
  mul,
  persist,
  type StateDict,
  type Tensor,
  variants,
  zeros,
} from "@kindling/core";
import { checkNumber, knownKeys, type Settings } from "./groups.ts";
import type { Optimizer } from "./optimizer.ts";

export interface GradScalerOptions {
  initScale?: number;
  growthFactor?: number;
  backoffFactor?: number;
  growthInterval?: number;
  /** False: every method passes through, so that one loop serves with and without f16. */
  enabled?: boolean;
  device?: Device;
}

export interface GradScalerState {
  /** "scale" and "growth_tracker". */
  state: StateDict;
  growthFactor: number;
  backoffFactor: number;
  growthInterval: number;
}

const updateKernel = variants(() =>
  kernel(
    "optim.updateScale",
    /* wgsl */ `
struct Params { growthFactor: f32, backoffFactor: f32, growthInterval: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> scale: array<f32>;
@group(0) @binding(2) var<storage, read_write> tracker: array<u32>;
@group(0) @binding(3) var<storage, read_write> found: array<u32>;

@compute @workgroup_size(1)
fn main() {
  if (found[0] != 0) {
    scale[0] *= params.backoffFactor;
    tracker[0] = 0;
  } else if (tracker[0] + 1 >= params.growthInterval) {
    let grown = scale[0] * params.growthFactor;
    if ((bitcast<u32>(grown) & 0x7f800000) != 0x7f800000) { scale[0] = grown; }
    tracker[0] = 0;
  } else {
    tracker[0] += 1;
  }
  found[0] = 0;
}`,
  ),
);

type AnyOptimizer = Optimizer<Settings>;

interface Memory {
  readonly scale: Tensor;
  readonly tracker: Tensor;
  readonly found: Tensor;
}

/** See the head of this file. Matches torch.amp.GradScaler. */
export class GradScaler {
  readonly enabled: boolean;
  #growthFactor: number;
  #backoffFactor: number;
  #growthInterval: number;
  readonly #memory: Memory | null;
  /** What has happened to each optimizer since the last `update`. */
  readonly #stages = new Map<AnyOptimizer, "unscaled" | "stepped">();

  constructor(options: GradScalerOptions = {}) {
    knownKeys("GradScaler", options, [
      "initScale",
      "growthFactor",
      "backoffFactor",
      "growthInterval",
      "enabled",
      "device",
    ]);
    const { initScale = 65536, growthFactor = 2, backoffFactor = 0.5, growthInterval = 2000, enabled = true } = options;
    checkNumber("GradScaler", "initScale", initScale, Number.MIN_VALUE);
    checkFactors("GradScaler", { growthFactor, backoffFactor, growthInterval });
    this.enabled = enabled;
    this.#growthFactor = growthFactor;
    this.#backoffFactor = backoffFactor;
    this.#growthInterval = growthInterval;
    this.#memory = enabled ? allocate(initScale, options.device ?? defaultDevice()) : null;
  }

  /** `loss` times the scale. */
  scale(loss: Tensor): Tensor {
    return this.#memory ? mul(loss, this.#memory.scale) : loss;
  }

  /**
   * Divides the gradients of `optimizer` by the scale in place, for code that looks at them before `step`, such as
   * `clipGradNorm`. Not needed for `maxGradNorm`.
   */
  unscale(optimizer: AnyOptimizer): void {
    if (!this.#memory) return;
    const stage = this.#stages.get(optimizer);
    if (stage === "unscaled")
      throw new Error("GradScaler.unscale: called twice for this optimizer since the last update()");
    if (stage === "stepped") throw new Error("GradScaler.unscale: called after step(); expected it before");
    if (!optimizer.unscale({ ...this.#memory, unscaled: false })) throw new Error(NO_GRADIENTS("unscale"));
    this.#mark(optimizer, () => this.#stages.set(optimizer, "unscaled"));
  }

  /** `optimizer.step()` on unscaled gradients, or nothing if one of them is infinite or NaN. */
  step(optimizer: AnyOptimizer): void {
    if (!this.#memory) {
      optimizer.step();
      return;
    }
    const stage = this.#stages.get(optimizer);
    if (stage === "stepped")
      throw new Error("GradScaler.step: called twice for this optimizer since the last update()");
    if (!optimizer.stepScaled({ ...this.#memory, unscaled: stage === "unscaled" }))
      throw new Error(NO_GRADIENTS("step"));
    this.#mark(optimizer, () => this.#stages.set(optimizer, "stepped"));
  }

  /** Ends an iteration: adapts the scale to what the steps have met. */
  update(): void {
    if (!this.#memory) return;
    if (this.#stages.size === 0) throw new Error("GradScaler.update: no step() or unscale() since the last update()");
    const { scale, tracker, found } = this.#memory;
    const params = {
      growthFactor: this.#growthFactor,
      backoffFactor: this.#backoffFactor,
      growthInterval: this.#growthInterval,
    };
    updateKernel().run({ params, scale, tracker, found }, { workgroups: [1] });
    this.#mark(null, () => this.#stages.clear());
  }

  /** The scale, read back; 1 if not enabled. */
  async getScale(): Promise<number> {
    return this.#memory ? this.#memory.scale.item() : 1;
  }

  /** The scaler's own tensors, which later steps change, and its factors. */
  stateDict(): GradScalerState {
    const state: StateDict = {};
    if (this.#memory) {
      state.scale = this.#memory.scale.detach();
      state.growth_tracker = this.#memory.tracker.detach();
    }
    return {
      state,
      growthFactor: this.#growthFactor,
      backoffFactor: this.#backoffFactor,
      growthInterval: this.#growthInterval,
    };
  }

  loadStateDict({ state, growthFactor, backoffFactor, growthInterval }: GradScalerState): void {
    if (!this.#memory) return;
    for (const key of ["scale", "growth_tracker"]) {
      if (state?.[key]?.size !== 1)
        throw new Error(
          `GradScaler.loadStateDict: state has ${state?.[key] ?? "nothing"} under "${key}"; expected a scalar`,
        );
    }
    checkFactors("GradScaler.loadStateDict", { growthFactor, backoffFactor, growthInterval });
    copyInto(this.#memory.scale, state.scale!);
    copyInto(this.#memory.tracker, state.growth_tracker!);
    this.#growthFactor = growthFactor;
    this.#backoffFactor = backoffFactor;
    this.#growthInterval = growthInterval;
  }

  dispose(): void {
    if (this.#memory) for (const t of [this.#memory.scale, this.#memory.tracker, this.#memory.found]) t.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Notes what happened, at each replay too where it is captured. */
  #mark(optimizer: AnyOptimizer | null, note: () => void): void {
    note();
    (optimizer?.device ?? this.#memory!.scale.device).recorder?.beforeReplay(note);
  }
}

function allocate(scale: number, device: Device): Memory {
  if (device.recorder) throw new Error("GradScaler: made inside a captured function; make it before capturing");
  return {
    scale: persist(full([], scale, { device })),
    tracker: persist(zeros([], { dtype: "u32", device })),
    found: persist(zeros([], { dtype: "u32", device })),
  };
}

const NO_GRADIENTS = (method: string): string =>
  `GradScaler.${method}: no parameter of the optimizer has a gradient; call backward() before`;

function checkFactors(where: string, s: Omit<GradScalerState, "state">): void {
  checkNumber(where, "growthFactor", s.growthFactor, 1);
  if (s.growthFactor === 1) throw new Error(`${where}: growthFactor is 1; expected a finite number > 1`);
  checkNumber(where, "backoffFactor", s.backoffFactor, Number.MIN_VALUE, 1);
  if (!Number.isInteger(s.growthInterval) || s.growthInterval < 1) {
    throw new Error(`${where}: growthInterval is ${s.growthInterval}; expected a whole number ≥ 1`);
  }
}
