/** npm run demo: trains a small GPT on text and lets it write. `--help` lists the options. */
import { existsSync, renameSync } from "node:fs";
import { join } from "node:path";
import { type Device, DeviceError } from "@kindling/core";
import { CommanderError } from "commander";
import { svgChart, terminalChart } from "./src/chart.ts";
import {
  type Checkpoint,
  loadModel,
  loadTrainer,
  prepareFolder,
  readCheckpoint,
  replaceFile,
  saveCheckpoint,
} from "./src/checkpoint.ts";
import { Dataset, fileText, projectText, type Vocabulary } from "./src/data.ts";
import { isPrepared, openDevice, runPrepared } from "./src/device.ts";
import { UserError } from "./src/errors.ts";
import { GPT } from "./src/model.ts";
import { checkShape, type Options, parseOptions } from "./src/options.ts";
import { Sampler } from "./src/sample.ts";
import { count, duration, heading, Passage, progress, row } from "./src/terminal.ts";
import { type Settings, Trainer, train } from "./src/train.ts";

const stop = new AbortController();

async function main(options: Options): Promise<void> {
  const checkpoint = await checkpointOf(options);
  const settings = settingsOf(options, checkpoint);
  checkShape(settings);
  const text = options.sampleOnly ? null : options.data === undefined ? projectText() : fileText(options.data);
  const data = text && new Dataset(text, settings.context, checkpoint?.vocabulary);
  const vocabulary = data?.vocabulary ?? checkpoint!.vocabulary;
  vocabulary.encode(options.prompt ?? "", "--prompt"); // tells now of a character that it lacks
  if (data) prepareFolder(options.out);

  const device = await openDevice(options.device);
  if (settings.precision === "f16" && !device.features.has("shader-f16")) {
    throw new UserError(`--precision f16: needs a GPU with shader-f16, which ${device.name} does not offer`);
  }
  row("device", `${device.name}${device.software ? ", a GPU in software" : ""}, ${settings.precision}`);

  checkFits(device, data ? settings : { ...settings, batch: 1 }, vocabulary.size);
  if (data) return learn(options, settings, data, checkpoint);
  const model = new GPT({ ...settings, vocabulary: vocabulary.size });
  loadModel(model, checkpoint!);
  describe(model);
  await write(model, vocabulary, options);
}

async function checkpointOf({ resume, sampleOnly, out }: Options): Promise<Checkpoint | null> {
  if (!resume && !sampleOnly) return null;
  return readCheckpoint(typeof resume === "string" ? resume : join(out, CHECKPOINT));
}

/** The settings of the command line; with a checkpoint its own, unless the command line names another. */
function settingsOf(options: Options, checkpoint: Checkpoint | null): Settings {
  const { layers, heads, width, context, dropout, batch, steps, lr, seed, precision } = options;
  const settings: Settings = { layers, heads, width, context, dropout, batch, steps, lr, seed, precision };
  if (!checkpoint) return settings;
  const { file, step, settings: own } = checkpoint;
  for (const name of ["layers", "heads", "width", "context"] as const) {
    if (options.given.has(name) && settings[name] !== own[name]) {
      throw new UserError(
        `--${name} ${settings[name]}: the model in ${file} has ${own[name]}, which cannot be changed`,
      );
    }
  }
  const merged = {
    ...own,
    ...Object.fromEntries(Object.entries(settings).filter(([name]) => options.given.has(name))),
  };
  if (!options.sampleOnly && step >= merged.steps) {
    throw new UserError(
      `--steps ${merged.steps}: ${file} has done ${step}; a larger number goes on, --sample-only writes with it`,
    );
  }
  return merged;
}

/** Trains, from a checkpoint or from the start, and writes before and after. */
async function learn(
  options: Options,
  settings: Settings,
  data: Dataset,
  checkpoint: Checkpoint | null,
): Promise<void> {
  const trainer = new Trainer(settings, data, options);
  if (checkpoint) loadTrainer(trainer, checkpoint);
  const { model, history } = trainer;
  describe(model);
  row("text", `${data.name}: ${count(data.size)} characters, ${data.vocabulary.size} different ones`);
  row(
    "training",
    `${settings.steps} steps of ${settings.batch} × ${settings.context} characters, learning rate ${settings.lr}`,
  );

  const start = trainer.step;
  if (checkpoint) {
    const other =
      checkpoint.fingerprint === data.fingerprint ? "" : "; the text is no longer the one it was trained on";
    row("resuming", `${checkpoint.file} at step ${start}${other}`);
  } else if (options.samples > 0) {
    heading("Before training, the model writes:");
    await write(model, data.vocabulary, { ...options, samples: 1, length: Math.min(options.length, 120) });
  }

  heading("Training");
  const file = join(options.out, CHECKPOINT);
  const previous = !checkpoint && existsSync(file) ? join(options.out, `previous.${CHECKPOINT}`) : null;
  let saved = start;
  const save = async (): Promise<void> => {
    if (saved === 0 && previous) renameSync(file, previous); // another run's, which may have taken a night
    await saveCheckpoint(file, trainer);
    saved = trainer.step;
  };
  const started = performance.now();
  const shown = progress(settings.steps, start);
  const { tokensPerSecond } = await train(trainer, { signal: stop.signal, report: shown.update, save }).finally(
    shown.stop,
  );
  const seconds = (performance.now() - started) / 1000;
  if (trainer.step > saved) await save();
  if (trainer.step === start) return row("stopped", "before the first step");

  const picture = join(options.out, "loss.svg");
  await replaceFile(picture, svgChart(history, `GPT of ${settings.layers} × ${settings.width} on ${data.name}`));
  console.log(`\n${terminalChart(history, { columns: process.stdout.columns, color: process.stdout.hasColors?.() })}`);
  const [before, after] = [history.validation.at(0)!, history.validation.at(-1)!].map(([, loss]) => loss.toFixed(3));
  row("validation", `loss ${before} → ${after} in ${duration(seconds)}, ${count(tokensPerSecond)} tokens/s`);
  row("saved", `${file}, ${picture}`);
  if (previous) row("kept", `the checkpoint of an earlier run: ${previous}`);
  if (trainer.step < settings.steps) {
    return row("stopped", `at step ${trainer.step} of ${settings.steps}; --resume goes on from there`);
  }
  if (options.samples === 0) return;
  heading("After training, it writes:");
  await write(model, data.vocabulary, options);
}

/** Shows texts as the model writes them. */
async function write(model: GPT, vocabulary: Vocabulary, options: Options): Promise<void> {
  const prompt = options.prompt ?? (vocabulary.characters.includes("\n") ? "\n" : vocabulary.characters[0]!);
  const ids = vocabulary.encode(prompt, "--prompt");
  const sampler = new Sampler(model, options);
  for (let i = 0; i < options.samples && !stop.signal.aborted; i++) {
    const passage = new Passage();
    passage.write(options.prompt ?? "");
    let left = options.length;
    for await (const id of sampler.generate(ids, options, options.seed + i)) {
      passage.write(vocabulary.characters[id]!);
      if (--left === 0 || stop.signal.aborted) break;
    }
    passage.end();
  }
  sampler.dispose();
}

function describe(model: GPT): void {
  const { layers, width, heads, context } = model.config;
  const parameters = model.parameters().reduce((sum, p) => sum + p.size, 0);
  row(
    "model",
    `GPT with layers ${layers}, heads ${heads}, width ${width}, context ${context}: ${count(parameters)} parameters`,
  );
}

/** The largest tensors must fit a binding of the GPU; what all need together shows only as it is allocated. */
function checkFits(device: Device, { batch, context, width }: Settings, vocabulary: number): void {
  const shapes = [
    [batch * context, vocabulary],
    [batch * context, 4 * width],
    [4 * width, width],
    [vocabulary, width],
  ] as const;
  const [rows, cols] = shapes.reduce((a, b) => (a[0] * a[1] > b[0] * b[1] ? a : b));
  const limit = Math.min(device.limits.maxStorageBufferBindingSize, device.limits.maxBufferSize);
  if (rows * cols * 4 > limit) {
    throw new UserError(
      `--batch ${batch} --context ${context} --width ${width}: a tensor of [${rows}, ${cols}] takes ${count(rows * cols * 4)} bytes; ${device.name} allows ${count(limit)}`,
    );
  }
}

const CHECKPOINT = "checkpoint.safetensors";

try {
  const options = parseOptions(process.argv.slice(2));
  if (isPrepared(options.device)) {
    process.on("SIGINT", () => {
      if (stop.signal.aborted) process.exit(130); // the second Ctrl-C does not wait
      stop.abort();
    });
    process.on("SIGTERM", () => stop.abort());
    await main(options);
  } else process.exitCode = await runPrepared(options.device);
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode;
  else if (error instanceof UserError || error instanceof DeviceError) {
    console.error(`error: ${error.message}`);
    process.exitCode = 1;
  } else throw error;
}
