/**
 * Training steps of GPTs: forward, backward, AdamW, on one batch that stays on the GPU; eager, and captured.
 *
 * Before a step is timed, five are run twice from one seed: losses and parameters must be the same bits, and a captured
 * run's the same as an eager one's.
 */
import {
  autocast,
  capture,
  clearGrad,
  type Device,
  type FloatType,
  manualSeed,
  scope,
  type Tensor,
  tensor,
} from "@kindling/core";
import { AdamW, GradScaler } from "@kindling/optim";
import { GPT, type GPTConfig } from "../../examples/gpt/src/model.ts";
import {
  type Case,
  cleanly,
  countDispatches,
  floats,
  precision,
  type Result,
  type Sizes,
  time,
  timeBoth,
} from "./measure.ts";

type Config = Sizes["gpt"][number];
type Mode = "eager" | "captured";

export const cases = ({ gpt }: Sizes): Case[] =>
  gpt.flatMap((config) =>
    floats.flatMap((dtype) => (["eager", "captured"] as const).map((mode) => trainingCase(config, dtype, mode))),
  );

const titleOf = ({ layers, width }: Config, dtype: FloatType): string => `gpt ${layers}×${width} ${precision(dtype)}`;

function trainingCase(config: Config, dtype: FloatType, mode: Mode): Case {
  const run = async (device: Device): Promise<Result> => {
    const [first, second] = [await trace(config, dtype, mode), await trace(config, dtype, "eager")];
    checkLosses(first.losses, config);
    if (!same(first.losses, second.losses))
      throw new Error(`two runs with one seed differ: losses ${first.losses} and ${second.losses}`);
    const differing = first.parameters.findIndex((p, i) => !same(p, second.parameters[i]!));
    if (differing >= 0) throw new Error(`two runs with one seed differ in parameter ${differing}`);
    using training = new Training(config, dtype, mode);
    training.step();
    const timing =
      mode === "captured"
        ? await timeBoth(device, training.step)
        : { dispatches: countDispatches(device, training.step), ...(await time(device, training.step)) };
    return { ...timing, torch: titleOf(config, dtype), note: "two runs, identical bits" };
  };
  return {
    name: `${titleOf(config, dtype)} ${mode}`,
    f16: dtype === "f16",
    run: (device) => cleanly(device, () => run(device)),
  };
}

/** A model that is trained on one batch, from one seed. */
export class Training {
  readonly model: GPT;
  /** Does one step and returns its loss, which is valid until the next. */
  readonly step: () => Tensor;
  readonly #optimizer: AdamW;
  readonly #scaler: GradScaler;
  readonly #end: () => void;

  constructor(config: Config, dtype: FloatType, mode: Mode) {
    manualSeed(1);
    const { batch, context, vocabulary } = config;
    const shape = [batch, context];
    const text = Int32Array.from(
      { length: batch * context + 1 },
      (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 8) % vocabulary,
    );
    const ids = tensor(text.slice(0, -1), { shape });
    const targets = tensor(text.slice(1), { shape });
    const model = new GPT(config as GPTConfig);
    const optimizer = new AdamW(model.parameters(), { lr: 1e-3 });
    const scaler = new GradScaler({ enabled: dtype === "f16" });
    const update = (): Tensor => {
      optimizer.zeroGrad();
      const loss = autocast(dtype, () => model.loss(ids, targets));
      scaler.scale(loss).backward();
      scaler.step(optimizer);
      scaler.update();
      return loss;
    };
    const captured = mode === "captured" ? capture(update) : null;
    let latest: Tensor | undefined;
    this.step =
      captured ??
      (() => {
        latest?.dispose();
        return (latest = scope(update));
      });
    this.#end = () => captured?.dispose();
    this.model = model;
    this.#optimizer = optimizer;
    this.#scaler = scaler;
  }

  [Symbol.dispose](): void {
    for (const p of this.model.parameters()) clearGrad(p);
    this.#end();
    this.#optimizer.dispose();
    this.#scaler.dispose();
    this.model.dispose();
  }
}

interface Trace {
  losses: Float32Array;
  parameters: Float32Array[];
}

async function trace(config: Config, dtype: FloatType, mode: Mode): Promise<Trace> {
  using training = new Training(config, dtype, mode);
  const losses = new Float32Array(5);
  for (let i = 0; i < losses.length; i++) losses[i] = await training.step().item();
  const parameters: Float32Array[] = [];
  for (const p of training.model.parameters()) parameters.push((await p.data()) as Float32Array);
  return { losses, parameters };
}

const same = (a: Float32Array, b: Float32Array): boolean =>
  Buffer.from(a.buffer, a.byteOffset, a.byteLength).equals(Buffer.from(b.buffer, b.byteOffset, b.byteLength));

/** An untrained model knows nothing, and training on one batch teaches it. */
function checkLosses(losses: Float32Array, { vocabulary }: Config): void {
  const [before, after] = [losses[0]!, losses.at(-1)!];
  if (!(Math.abs(before - Math.log(vocabulary)) < 0.3))
    throw new Error(`the first loss is ${before}, expected about ln ${vocabulary}`);
  if (!(after < before)) throw new Error(`the loss goes from ${before} to ${after}, expected it to fall`);
}
