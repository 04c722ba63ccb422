/**
 * What all optimizers share: parameter groups, their state on the GPU, and a step of few dispatches.
 *
 *   sumSquares   only for maxGradNorm or a GradScaler: Σ g² over all gradients, and whether one is not finite
 *   prepare      one workgroup: counts the step of each tensor, turns its group's settings into coefficients
 *   update       the update rule, on several tensors at once (walk.ts)
 *
 * Everything that differs from step to step is data on the GPU, so that a captured step replays correctly: settings are
 * uploaded when they changed, before a replay too; step numbers, gradient norm and loss scale never leave the GPU.
 *
 *   settings       vec4(maxGradNorm or 0, 0, 0, 0), then for each group two vec4s of `Rule.settings`
 *   table          for each tensor i, at element 64·i: steps done, and at 64·i + 4 the number of its group
 *   coefficients   for each tensor two vec4s, as `Rule.prepare` computes them; a.x < 0 in a step to be skipped
 */
import {
  clearGrad,
  copy,
  copyInto,
  type Device,
  empty,
  fill,
  persist,
  type StateDict,
  type Tensor,
  zeros,
} from "@kindling/core";
import {
  checkTensors,
  groups,
  knownKeys,
  type OptimizerState,
  type ParamGroup,
  type Params,
  position,
  type Rule,
  type Settings,
} from "./groups.ts";
import { sumSquares } from "./norm.ts";
import { type Control, GROUP, prepare, type Scaling, TABLE_STRIDE, unscaleFactor } from "./prepare.ts";
import { type Batch, momentOf, planBatches, scaleAll, updateBatch } from "./walk.ts";

export abstract class Optimizer<S extends Settings> {
  /** Settings may be changed between steps; the next step, or replay of a captured one, takes them. */
  readonly paramGroups: ParamGroup<S>[];
  /** Upper bound of the gradients' total norm; see `clipGradNorm`. */
  readonly maxGradNorm: number | undefined;
  readonly device: Device;

  readonly #rule: Rule<S>;
  readonly #tensors: readonly Tensor[];
  readonly #batches: readonly Batch[];
  readonly #control: Control;
  readonly #grads: (Tensor | null)[];
  /** What `#settings` holds on the GPU. */
  #sent: Float32Array | null = null;
  /** Captured functions, while they are recorded, in which this optimizer stepped. */
  readonly #recorders = new WeakSet<object>();
  /** Where eager tensors have their memory. */
  readonly #pool: Device["pool"];
  #knowsNorm = false;
  #disposed = false;

  /** @internal */
  protected constructor(rule: Rule<S>, params: Params<S>, options: Partial<S> & { maxGradNorm?: number }) {
    const { name } = rule;
    const { maxGradNorm, ...settings } = options;
    knownKeys(name, options, [...Object.keys(rule.defaults), "maxGradNorm"]);
    if (maxGradNorm !== undefined && !(Number.isFinite(maxGradNorm) && maxGradNorm > 0)) {
      throw new Error(`${name}: maxGradNorm is ${maxGradNorm}; expected a finite number > 0`);
    }
    this.#rule = rule;
    this.maxGradNorm = maxGradNorm;
    this.paramGroups = groups(rule, params, settings as unknown as Partial<S>);
    this.#tensors = this.paramGroups.flatMap((group) => group.params);
    this.#grads = this.#tensors.map(() => null);
    checkTensors(name, this.paramGroups);
    const device = (this.device = this.#tensors[0]!.device);
    if (device.recorder)
      throw new Error(`${name}: made inside a captured function; make the optimizer before capturing`);
    this.#pool = device.pool;
    const count = this.#tensors.length;
    this.#control = {
      settings: persist(empty([4 + 8 * this.paramGroups.length], { device })),
      table: persist(empty([TABLE_STRIDE * count], { dtype: "u32", device })),
      coefficients: persist(zeros([8 * count], { device })),
      norm: persist(zeros([], { device })),
      skipped: persist(zeros([], { dtype: "u32", device })),
    };
    const table = new Uint32Array(TABLE_STRIDE * count);
    const owners = this.paramGroups.flatMap((group, g) => group.params.map(() => g));
    for (const [i, g] of owners.entries()) table[TABLE_STRIDE * i + GROUP] = g;
    device.write(this.#control.table, table);
    this.#batches = planBatches(this.#tensors, rule.moments.length);
  }

  /** Updates every parameter that has a gradient. */
  step(): void {
    this.stepScaled(null);
  }

  /** @internal The step that a GradScaler asks for; false if no parameter has a gradient. */
  stepScaled(scaling: Scaling | null): boolean {
    const grads = this.#collect("step");
    const present = grads.filter((g) => g !== null);
    if (present.length === 0) return false;
    this.#upload();
    this.#hook(grads);
    const norm = this.maxGradNorm !== undefined || scaling?.unscaled === false;
    const sums = norm ? sumSquares(present) : null;
    prepare(this.#rule, this.#control, grads, sums, scaling);
    sums?.partials.dispose();
    if (norm) this.#knowsNorm = true;
    const { coefficients } = this.#control;
    for (const batch of this.#batches) updateBatch(this.#rule.update, batch, coefficients, grads, scaling !== null);
    return true;
  }

  /**
   * @internal Divides all gradients by the scale, in place, and notes whether one is not finite; false if no parameter
   * has a gradient.
   */
  unscale(scaling: Scaling): boolean {
    const grads = this.#collect("unscale").filter((g) => g !== null);
    if (grads.length === 0) return false;
    const half = grads.find((g) => g.dtype === "f16");
    if (half)
      throw new Error(
        `GradScaler.unscale: a gradient [${half.shape}] is f16, where unscaled values underflow; expected f32`,
      );
    const sums = sumSquares(grads);
    const factor = unscaleFactor(sums, this.#control.skipped, scaling);
    scaleAll(grads, factor);
    sums.partials.dispose();
    factor.dispose();
    return true;
  }

  /** Drops all gradients. */
  zeroGrad(): void {
    for (const p of this.#tensors) clearGrad(p);
  }

  /**
   * The total norm of the gradients before the last step, without the loss scale: a scalar on the GPU. Known with
   * `maxGradNorm` or under a GradScaler.
   */
  get gradNorm(): Tensor {
    if (!this.#knowsNorm) {
      throw new Error(
        `${this.#rule.name}.gradNorm: no step has computed it; set maxGradNorm, or step through a GradScaler`,
      );
    }
    return this.#control.norm;
  }

  /**
   * State and settings, under PyTorch's names. The tensors are windows on the optimizer's own memory: a later step
   * changes them. `saveSafetensors(state, { paramGroups: JSON.stringify(paramGroups) })` makes a file of both.
   */
  stateDict(): OptimizerState<S> {
    const state: StateDict = {};
    this.#windows((i, windows) => {
      for (const [name, t] of Object.entries(windows)) state[`${i}.${name}`] = t;
    });
    let next = 0;
    const paramGroups = this.paramGroups.map(({ params, ...settings }) => ({
      ...structuredClone(settings),
      params: params.map(() => next++),
    }));
    return { state, paramGroups: paramGroups as unknown as OptimizerState<S>["paramGroups"] };
  }

  /** Takes over what `stateDict` of an optimizer with as many parameters in as many groups gave. */
  loadStateDict({ state, paramGroups }: OptimizerState<S>): void {
    const where = `${this.#rule.name}.loadStateDict`;
    if (typeof state !== "object" || state === null)
      throw new Error(`${where}: state is ${state}; expected tensors by name`);
    const sizes = (list: readonly { params: readonly unknown[] }[]): string => list.map((g) => g.params.length).join();
    if (!Array.isArray(paramGroups) || sizes(paramGroups) !== sizes(this.paramGroups)) {
      const given = Array.isArray(paramGroups)
        ? `groups of [${sizes(paramGroups)}] parameters`
        : `paramGroups ${paramGroups}`;
      throw new Error(`${where}: state with ${given}; expected groups of [${sizes(this.paramGroups)}]`);
    }
    const loaded = paramGroups.map(({ params, ...settings }, g) => {
      const at = `${where}: paramGroups[${g}]`;
      knownKeys(at, settings, [...Object.keys(this.#rule.defaults), "initialLr"]);
      this.#rule.check(settings as unknown as S, at);
      return structuredClone(settings);
    });
    const ids = paramGroups.flatMap((group) => group.params);
    const unused = new Set(Object.keys(state));
    const copies: [to: Tensor, from: Tensor | undefined][] = [];
    this.#windows((i, windows) => {
      const keys = Object.keys(windows).map((name) => `${ids[i]}.${name}`);
      const missing = keys.filter((key) => !(key in state));
      // a parameter that PyTorch has never stepped has no state at all
      if (missing.length > 0 && missing.length < keys.length)
        throw new Error(`${where}: state has no "${missing[0]}" beside the rest of that parameter`);
      Object.values(windows).forEach((to, k) => {
        const key = keys[k]!;
        const from = state[key];
        unused.delete(key);
        if (from && (from.size !== to.size || (k > 0 && from.shape.join() !== to.shape.join()))) {
          throw new Error(`${where}: state "${key}" has shape [${from.shape}]; expected [${to.shape}]`);
        }
        if (from && from.device !== this.device)
          throw new Error(`${where}: state "${key}" is on another device than the parameters`);
        copies.push([to, from]);
      });
    });
    if (unused.size > 0) throw new Error(`${where}: state has unexpected keys ${[...unused].join(", ")}`);
    for (const [to, from] of copies) {
      if (from) load(to, from);
      else fill(to, 0);
      to.dispose();
    }
    for (const [g, settings] of loaded.entries()) Object.assign(this.paramGroups[g]!, settings);
  }

  /** Frees the optimizer's state. Parameters and gradients stay. */
  dispose(): void {
    this.#disposed = true;
    for (const t of Object.values(this.#control)) t.dispose();
    for (const { state, launches } of this.#batches) {
      for (const t of state) t.dispose();
      launches.clear();
    }
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** Checks parameters and gradients and returns the gradients, null for parameters without one. */
  #collect(method: string): readonly (Tensor | null)[] {
    if (this.#disposed) throw new Error(`${this.#rule.name}.${method}: the optimizer was disposed`);
    const grads = this.#grads;
    this.#tensors.forEach((p, i) => {
      const g = p.grad;
      const problem = this.#problem(p, g);
      if (problem) throw new Error(`${this.#rule.name}.${method}: ${position(this.paramGroups, i)} ${problem}`);
      grads[i] = g;
    });
    return grads;
  }

  #problem(p: Tensor, g: Tensor | null): string | null {
    if (p.disposed)
      return `[${p.shape}] was disposed; make the optimizer when the model has its final parameters (Module.to replaces them)`;
    if (!g) return null;
    if (g.disposed) return "has a gradient that was disposed; zeroGrad() drops gradients";
    if (!sameShape(g, p) || (g.dtype !== "f32" && g.dtype !== "f16"))
      return `has a gradient of [${g.shape}] ${g.dtype}; expected [${p.shape}] f32 or f16`;
    return null;
  }

  /** In a capture: has each replay take the settings of its time, and check that it still has the right gradients. */
  #hook(grads: readonly (Tensor | null)[]): void {
    const { recorder } = this.device;
    if (!recorder) return;
    // Those that backward makes inside captured functions stay where they are; others may have been replaced.
    const outside = [...grads.entries()].filter(([, g]) => g?.storage.block.pool === this.#pool);
    recorder.beforeReplay(() => {
      for (const [i, g] of outside) {
        if (this.#tensors[i]!.grad === g) continue;
        throw new Error(
          `${this.#rule.name}.step: ${position(this.paramGroups, i)} has another gradient than when this step was captured; capture backward() too`,
        );
      }
      this.#upload();
    });
  }

  /** Sends the settings to the GPU if they changed. */
  #upload(): void {
    const { name } = this.#rule;
    if (this.#disposed) throw new Error(`${name}: the optimizer was disposed`);
    const { recorder } = this.device;
    const values = new Float32Array(4 + 8 * this.paramGroups.length);
    values[0] = this.maxGradNorm ?? 0;
    this.paramGroups.forEach((group, g) => {
      this.#rule.check(group, `${name}: paramGroups[${g}]`);
      values.set(this.#rule.settings(group), 4 + 8 * g);
    });
    const changed = !this.#sent || values.some((v, i) => v !== this.#sent![i]);
    if (changed) {
      if (recorder && this.#recorders.has(recorder)) {
        throw new Error(
          `${name}: settings changed between two steps of one captured function, which replay would not repeat`,
        );
      }
      this.device.write(this.#control.settings, values, true);
      this.#sent = values;
    }
    if (recorder) this.#recorders.add(recorder);
  }

  /** Calls `visit` for each parameter with tensors that stand for its state, under PyTorch's names. */
  #windows(visit: (index: number, windows: Record<string, Tensor>) => void): void {
    if (this.#disposed) throw new Error(`${this.#rule.name}: the optimizer was disposed`);
    for (const batch of this.#batches) {
      for (const k of batch.tensors.keys()) {
        const index = batch.first + k;
        const windows: Record<string, Tensor> = { step: this.#control.table.view(TABLE_STRIDE * index, []) };
        for (const [s, name] of this.#rule.moments.entries()) windows[name] = momentOf(batch, k, s);
        visit(index, windows);
      }
    }
  }
}

function sameShape(a: Tensor, b: Tensor): boolean {
  if (a.shape.length !== b.shape.length) return false;
  for (let i = 0; i < a.shape.length; i++) if (a.shape[i] !== b.shape[i]) return false;
  return true;
}

/** Copies values, also those of an optimizer's own windows, which lie in the memory that is written. */
function load(to: Tensor, from: Tensor): void {
  if (from.storage.block !== to.storage.block) {
    copyInto(to, from);
    return;
  }
  const values = copy(from);
  copyInto(to, values);
  values.dispose();
}
