/**
 * Learning-rate schedules, as functions of the number of `step()` calls so far, t:
 *
 *   LambdaLR            lr = base · λ(t)
 *   LinearLR            lr = base · (start + (end - start) · min(t, totalIters) / totalIters)
 *   CosineAnnealingLR   lr = etaMin + (base - etaMin) · (1 + cos(π · t / tMax)) / 2
 *   SequentialLR        the first schedule up to milestones[0], the next from there on, counting from zero, and so on
 *
 * Pure host code: it sets `lr` in the optimizer's groups. Call `step()` after the optimizer's, outside of captured functions.
 * PyTorch computes some of these step by step from the last lr; the values agree to rounding.
 */
import { checkNumber, knownKeys } from "./groups.ts";

interface Group {
  lr: number;
  initialLr?: number;
}

/** What a scheduler needs of an optimizer. */
export interface Scheduled {
  readonly paramGroups: readonly Group[];
}

export interface SchedulerState {
  lastEpoch: number;
  baseLrs: number[];
}

export abstract class LRScheduler {
  readonly optimizer: Scheduled;
  /** Calls of `step()` so far. */
  lastEpoch = 0;
  /** The groups' learning rates at the start. */
  baseLrs: number[];

  constructor(optimizer: Scheduled) {
    if (!Array.isArray(optimizer?.paramGroups))
      throw new Error(`${new.target.name}: optimizer is ${typeof optimizer}; expected an optimizer`);
    this.optimizer = optimizer;
    this.baseLrs = optimizer.paramGroups.map((group) => (group.initialLr ??= group.lr));
  }

  /** The learning rate of a group at epoch `t`. */
  abstract lrAt(t: number, base: number, group: number): number;

  /** Sets the learning rates of epoch `t`, by default the next. */
  step(t: number = this.lastEpoch + 1): void {
    const lrs = this.baseLrs.map((base, g) => this.lrAt(t, base, g));
    const bad = lrs.findIndex((lr) => !Number.isFinite(lr));
    if (bad >= 0) {
      throw new Error(
        `${this.constructor.name}: the learning rate of group ${bad} at step ${t} is ${lrs[bad]}; expected a finite number`,
      );
    }
    this.lastEpoch = t;
    for (const [g, group] of this.optimizer.paramGroups.entries()) group.lr = lrs[g]!;
  }

  /** The learning rates that the last `step()` set. */
  getLastLr(): number[] {
    return this.optimizer.paramGroups.map(({ lr }) => lr);
  }

  stateDict(): SchedulerState {
    return { lastEpoch: this.lastEpoch, baseLrs: [...this.baseLrs] };
  }

  /** Continues a schedule. The current learning rates come with the optimizer's state. */
  loadStateDict({ lastEpoch, baseLrs }: SchedulerState): void {
    const where = `${this.constructor.name}.loadStateDict`;
    if (!Number.isInteger(lastEpoch) || lastEpoch < 0)
      throw new Error(`${where}: lastEpoch is ${lastEpoch}; expected a whole number`);
    if (baseLrs?.length !== this.baseLrs.length)
      throw new Error(`${where}: baseLrs is [${baseLrs}]; expected ${this.baseLrs.length} numbers`);
    this.lastEpoch = lastEpoch;
    this.baseLrs = [...baseLrs];
  }
}

export type Lambda = (t: number) => number;

/** Matches torch.optim.lr_scheduler.LambdaLR. */
export class LambdaLR extends LRScheduler {
  readonly #lambdas: readonly Lambda[];

  /** One function for all groups, or one for each. */
  constructor(optimizer: Scheduled, lrLambda: Lambda | readonly Lambda[]) {
    super(optimizer);
    this.#lambdas = typeof lrLambda === "function" ? this.baseLrs.map(() => lrLambda) : lrLambda;
    if (this.#lambdas?.length !== this.baseLrs.length || this.#lambdas.some((f) => typeof f !== "function")) {
      throw new Error(
        `LambdaLR: lrLambda has ${this.#lambdas?.length} entries; expected a function, or one for each of the ${this.baseLrs.length} groups`,
      );
    }
    this.step(0);
  }

  lrAt(t: number, base: number, group: number): number {
    return base * this.#lambdas[group]!(t);
  }
}

/** Matches torch.optim.lr_scheduler.LinearLR. */
export class LinearLR extends LRScheduler {
  readonly #start: number;
  readonly #end: number;
  readonly #total: number;

  constructor(optimizer: Scheduled, options: { startFactor?: number; endFactor?: number; totalIters?: number } = {}) {
    super(optimizer);
    knownKeys("LinearLR", options, ["startFactor", "endFactor", "totalIters"]);
    const { startFactor = 1 / 3, endFactor = 1, totalIters = 5 } = options;
    if (!(startFactor > 0 && startFactor <= 1))
      throw new Error(`LinearLR: startFactor is ${startFactor}; expected a number in (0, 1]`);
    if (!(endFactor >= 0 && endFactor <= 1))
      throw new Error(`LinearLR: endFactor is ${endFactor}; expected a number in [0, 1]`);
    checkSteps("LinearLR", "totalIters", totalIters);
    this.#start = startFactor;
    this.#end = endFactor;
    this.#total = totalIters;
    this.step(0);
  }

  lrAt(t: number, base: number): number {
    return base * (this.#start + ((this.#end - this.#start) * Math.min(t, this.#total)) / this.#total);
  }
}

/** Matches torch.optim.lr_scheduler.CosineAnnealingLR. */
export class CosineAnnealingLR extends LRScheduler {
  readonly #max: number;
  readonly #min: number;

  constructor(optimizer: Scheduled, tMax: number, options: { etaMin?: number } = {}) {
    super(optimizer);
    knownKeys("CosineAnnealingLR", options, ["etaMin"]);
    const { etaMin = 0 } = options;
    checkSteps("CosineAnnealingLR", "tMax", tMax);
    checkNumber("CosineAnnealingLR", "etaMin", etaMin);
    this.#max = tMax;
    this.#min = etaMin;
    this.step(0);
  }

  lrAt(t: number, base: number): number {
    return this.#min + ((base - this.#min) * (1 + Math.cos((Math.PI * t) / this.#max))) / 2;
  }
}

/** Schedules one after another, such as a warm-up and what follows. Matches torch.optim.lr_scheduler.SequentialLR. */
export class SequentialLR extends LRScheduler {
  readonly #schedulers: readonly LRScheduler[];
  readonly #milestones: readonly number[];

  constructor(optimizer: Scheduled, schedulers: readonly LRScheduler[], milestones: readonly number[]) {
    super(optimizer);
    if (!Array.isArray(schedulers) || schedulers.length === 0)
      throw new Error("SequentialLR: schedulers is empty; expected at least one");
    if (schedulers.some((s) => s.optimizer !== optimizer))
      throw new Error("SequentialLR: a scheduler belongs to another optimizer; expected the one given");
    if (
      milestones?.length !== schedulers.length - 1 ||
      milestones.some((m, i) => !Number.isInteger(m) || m <= (milestones[i - 1] ?? 0))
    ) {
      throw new Error(
        `SequentialLR: milestones is [${milestones}] for ${schedulers.length} schedulers; expected ${schedulers.length - 1} rising whole numbers`,
      );
    }
    this.#schedulers = schedulers;
    this.#milestones = milestones;
    this.step(0);
  }

  lrAt(t: number, base: number, group: number): number {
    const at = this.#milestones.filter((m) => m <= t).length;
    const start = at === 0 ? 0 : this.#milestones[at - 1]!;
    return this.#schedulers[at]!.lrAt(t - start, base, group);
  }
}

function checkSteps(where: string, name: string, value: number): void {
  if (!Number.isInteger(value) || value < 1)
    throw new Error(`${where}: ${name} is ${value}; expected a whole number ≥ 1`);
}
