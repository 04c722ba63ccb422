/** Training: one update, the validation loss, the learning-rate schedule, and the loop around them. */
import { autocast, type Captured, capture, manualSeed, noGrad, scope, type Tensor, tensor } from "@kindling/core";
import { AdamW, GradScaler } from "@kindling/optim";
import type { History } from "./chart.ts";
import { type Batch, batch, type Dataset } from "./data.ts";
import { UserError } from "./errors.ts";
import { GPT } from "./model.ts";
import { random } from "./random.ts";

/** What determines a run, apart from its text: the same settings and text give the same losses, bit for bit. */
export interface Settings {
  layers: number;
  heads: number;
  width: number;
  context: number;
  dropout: number;
  batch: number;
  steps: number;
  lr: number;
  seed: number;
  precision: "f32" | "f16";
}

/** Linear warm-up over the first twentieth of the steps, at most 100, then half a cosine down to a tenth. */
export function learningRate(step: number, { lr, steps }: Pick<Settings, "lr" | "steps">): number {
  const warmUp = Math.max(1, Math.min(100, Math.floor(steps / 20)));
  if (step < warmUp) return (lr * (step + 1)) / warmUp;
  const progress = Math.min(1, (step - warmUp) / Math.max(1, steps - warmUp));
  return lr * (0.1 + 0.45 * (1 + Math.cos(Math.PI * progress)));
}

/** Streams of random numbers: training batches are numbered by their step, these stand aside. */
const VALIDATION = 2 ** 31;
/** Positions that a validation predicts, at least. */
const VALIDATION_SIZE = 4096;

/** The loss of a batch, captured or not. */
type LossOf = ((ids: Tensor, targets: Tensor) => Tensor) & Partial<Pick<Captured<[Tensor, Tensor], Tensor>, "dispose">>;

/** A model, its optimizer and how far they have come. */
export class Trainer {
  readonly settings: Settings;
  readonly data: Dataset;
  readonly model: GPT;
  readonly optimizer: AdamW;
  readonly scaler: GradScaler;
  readonly history: History = { train: [], validation: [] };
  /** Updates done. */
  step = 0;
  readonly #update: LossOf;
  readonly #loss: LossOf;

  constructor(settings: Settings, data: Dataset, { eager = false }: { eager?: boolean } = {}) {
    manualSeed(settings.seed);
    this.settings = settings;
    this.data = data;
    this.model = new GPT({ ...settings, vocabulary: data.vocabulary.size });
    const parameters = this.model.parameters();
    this.optimizer = new AdamW(
      [
        { params: parameters.filter((p) => p.shape.length > 1), weightDecay: 0.1 },
        { params: parameters.filter((p) => p.shape.length < 2), weightDecay: 0 }, // biases and layer norms
      ],
      { lr: settings.lr, betas: [0.9, 0.99], maxGradNorm: 1 },
    );
    this.scaler = new GradScaler({ enabled: settings.precision === "f16" }); // small gradients would underflow in f16
    const { model, optimizer, scaler } = this;

    const update = (ids: Tensor, targets: Tensor): Tensor => {
      model.train();
      optimizer.zeroGrad();
      const loss = autocast(settings.precision, () => model.loss(ids, targets));
      scaler.scale(loss).backward();
      scaler.step(optimizer);
      scaler.update();
      return loss;
    };
    const loss = (ids: Tensor, targets: Tensor): Tensor =>
      noGrad(() => autocast(settings.precision, () => model.eval().loss(ids, targets)));
    // Captured, a step's GPU commands are recorded once and then replayed: a few microseconds of JavaScript each.
    this.#update = eager ? update : capture(update);
    this.#loss = eager ? loss : capture(loss);
  }

  /**
   * One update, on the batch of this step. The loss stays on the GPU, and is valid until the next update: reading it waits
   * for the GPU, so read it only now and then.
   */
  update(): Tensor {
    const { seed, context, batch: count } = this.settings;
    for (const group of this.optimizer.paramGroups) group.lr = learningRate(this.step, this.settings);
    // Dropout, like the batch, depends on the seed and the step alone: a resumed run goes on as if it had not stopped.
    manualSeed(seed * 2 ** 32 + this.step);
    const loss = this.#run(this.#update, batch(this.data.train, count, context, random(seed, this.step)));
    this.step++;
    return loss;
  }

  /** Mean loss over a few batches of the validation part, the same ones each time. */
  async validate(): Promise<number> {
    const { seed, context, batch: count } = this.settings;
    const batches = Math.ceil(VALIDATION_SIZE / (count * context));
    let sum = 0;
    for (let i = 0; i < batches; i++) {
      using _ = scope();
      sum += await this.#run(
        this.#loss,
        batch(this.data.validation, count, context, random(seed, VALIDATION + i)),
      ).item();
    }
    return sum / batches;
  }

  dispose(): void {
    for (const one of [this.#update, this.#loss, this.optimizer, this.scaler, this.model]) one.dispose?.();
  }

  #run(fn: LossOf, { ids, targets }: Batch): Tensor {
    const shape = [this.settings.batch, this.settings.context];
    return scope(() => fn(tensor(ids, { shape }), tensor(targets, { shape })));
  }
}

export interface Report {
  step: number;
  loss: number;
  /** The latest validation loss. */
  validation: number | null;
  tokensPerSecond: number;
  secondsLeft: number;
}

export interface TrainOptions {
  /** Aborting it ends the training after the current step. */
  signal: AbortSignal;
  report: (report: Report) => void;
  /** Called after each validation. */
  save: () => Promise<void>;
}

/** Updates until the last step or an abort. Returns the speed, without the first steps, which compile. */
export async function train(
  trainer: Trainer,
  { signal, report, save }: TrainOptions,
): Promise<{ tokensPerSecond: number }> {
  const { history, settings } = trainer;
  const { steps, batch: count, context, lr } = settings;
  const stretch = Math.ceil(steps / 8);
  const validate = async (): Promise<void> => {
    history.validation.push([trainer.step, await trainer.validate()]);
  };
  if (trainer.step === 0) await validate();

  const started = performance.now();
  const first = trainer.step;
  const timed = { steps: 0, seconds: 0 };
  const speed = (): number => (timed.steps > 0 ? (timed.steps * count * context) / timed.seconds : 0);
  let mark = { step: trainer.step, time: started };
  let every = 1; // steps between readings of the loss
  while (trainer.step < steps && !signal.aborted) {
    using _ = scope();
    const loss = trainer.update();
    const { step } = trainer;
    const validates = step % stretch === 0 || step === steps;
    if (step < mark.step + every && !validates) continue;

    const value = await loss.item();
    const now = performance.now();
    if (!Number.isFinite(value))
      throw new UserError(`--lr ${lr}: the loss became ${value} at step ${step}; a smaller rate keeps it finite`);
    history.train.push([step, value]);
    if (mark.step > first) {
      timed.steps += step - mark.step;
      timed.seconds += (now - mark.time) / 1000;
      // Slow steps are read one by one, so that the bar moves and Ctrl-C is heard; fast ones are not slowed by reading.
      every = Math.max(1, Math.min(10, Math.round((0.3 * timed.steps) / timed.seconds)));
    }
    if (validates) {
      await validate();
      await save();
    }
    const secondsLeft = ((performance.now() - started) / 1000 / (step - first)) * (steps - step);
    report({
      step,
      loss: value,
      validation: history.validation.at(-1)?.[1] ?? null,
      tokensPerSecond: speed(),
      secondsLeft,
    });
    mark = { step, time: performance.now() };
  }
  return { tokensPerSecond: speed() };
}
