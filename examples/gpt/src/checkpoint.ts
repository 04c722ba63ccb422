/**
 * Checkpoints: one safetensors file with the model under its parameters' names, the optimizer's state under
 * `optimizer.`, and in the metadata what a run needs to go on as if it had not stopped: settings, step, vocabulary and the
 * losses so far. Random numbers need no entry: those of a step follow from the seed and the step.
 */
import { accessSync, constants, mkdirSync } from "node:fs";
import { open, readFile, rename, rm } from "node:fs/promises";
import { basename, dirname } from "node:path";
import { type StateDict, scope } from "@kindling/core";
import { loadSafetensors, parseSafetensors, saveSafetensors } from "@kindling/core/safetensors";
import type { AdamW, GradScalerState } from "@kindling/optim";
import type { History } from "./chart.ts";
import { Vocabulary } from "./data.ts";
import { UserError } from "./errors.ts";
import type { GPT } from "./model.ts";
import type { Settings, Trainer } from "./train.ts";

const FORMAT = "kindling-gpt 1";

export interface Checkpoint {
  readonly file: string;
  readonly settings: Settings;
  readonly step: number;
  readonly vocabulary: Vocabulary;
  /** Of the text that it was trained on. */
  readonly fingerprint: string;
  readonly history: History;
  /** Settings of the optimizer's groups, and of the gradient scaler. */
  readonly optimizer: ReturnType<AdamW["stateDict"]>["paramGroups"];
  readonly scaler: Omit<GradScalerState, "state">;
  /** Uploads the tensors. */
  tensors(): StateDict;
}

/** Writes what `trainer` needs to go on. */
export async function saveCheckpoint(file: string, trainer: Trainer): Promise<void> {
  using _ = scope();
  const { model, optimizer, scaler, settings, step, data, history } = trainer;
  const { state, paramGroups } = optimizer.stateDict();
  const { state: scale, ...scaling } = scaler.stateDict();
  const bytes = await saveSafetensors(
    { ...model.stateDict(), ...prefixed(OPTIMIZER, state), ...prefixed(SCALER, scale) },
    {
      format: FORMAT,
      settings: JSON.stringify(settings),
      step: String(step),
      vocabulary: JSON.stringify(data.vocabulary.characters),
      text: data.fingerprint,
      history: JSON.stringify(history),
      optimizer: JSON.stringify(paramGroups),
      scaler: JSON.stringify(scaling),
    },
  );
  await replaceFile(file, bytes);
}

/** Makes the folder and tries it, before a training whose result could not be written. */
export function prepareFolder(folder: string): void {
  try {
    mkdirSync(folder, { recursive: true });
    accessSync(folder, constants.W_OK);
  } catch (error) {
    throw new UserError(`--out ${folder}: cannot be written to: ${(error as Error).message}`);
  }
}

/** Writes all of a file or, when it fails, none of it. */
export async function replaceFile(file: string, content: Uint8Array | string): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`;
  try {
    const handle = await open(temporary, "w");
    try {
      await handle.writeFile(content);
      await handle.sync();
    } finally {
      await handle.close();
    }
    await rename(temporary, file);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {});
    throw new UserError(`--out ${dirname(file)}: writing ${basename(file)} failed: ${(error as Error).message}`);
  }
}

/** Reads a checkpoint and checks that it is one, without the GPU. */
export async function readCheckpoint(file: string): Promise<Checkpoint> {
  const fail = (reason: string): never => {
    throw new UserError(`--resume ${file}: ${reason}`);
  };
  let bytes: Uint8Array<ArrayBuffer>;
  try {
    bytes = new Uint8Array(await readFile(file));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    return fail(
      code === "ENOENT"
        ? "there is no such file; train without --resume first"
        : code === "EISDIR"
          ? "this is a folder; expected a checkpoint"
          : message,
    );
  }
  let metadata: Record<string, string>;
  try {
    ({ metadata } = parseSafetensors(bytes));
  } catch (error) {
    return fail((error as Error).message);
  }
  if (metadata.format !== FORMAT)
    fail(
      `not a checkpoint of this example: its metadata says format ${JSON.stringify(metadata.format)}, expected "${FORMAT}"`,
    );
  try {
    return {
      file,
      settings: JSON.parse(metadata.settings!) as Settings,
      step: Number(metadata.step),
      vocabulary: new Vocabulary(JSON.parse(metadata.vocabulary!) as string[]),
      fingerprint: metadata.text!,
      history: JSON.parse(metadata.history!) as History,
      optimizer: JSON.parse(metadata.optimizer!) as Checkpoint["optimizer"],
      scaler: JSON.parse(metadata.scaler!) as Checkpoint["scaler"],
      tensors: () => loadSafetensors(bytes),
    };
  } catch (error) {
    return fail(`its metadata is damaged: ${(error as Error).message}`);
  }
}

/** Gives a model the parameters of a checkpoint. */
export function loadModel(model: GPT, checkpoint: Checkpoint): void {
  using _ = scope();
  const tensors = Object.entries(checkpoint.tensors());
  const own = tensors.filter(([name]) => !name.startsWith(OPTIMIZER) && !name.startsWith(SCALER));
  explain(checkpoint, () => model.loadStateDict(Object.fromEntries(own)));
}

/** Puts a trainer where the checkpoint's was. */
export function loadTrainer(trainer: Trainer, checkpoint: Checkpoint): void {
  using _ = scope();
  loadModel(trainer.model, checkpoint);
  const { optimizer, scaler, history } = trainer;
  const tensors = checkpoint.tensors();
  explain(checkpoint, () => {
    optimizer.loadStateDict({ state: without(OPTIMIZER, tensors), paramGroups: checkpoint.optimizer });
    const state = without(SCALER, tensors);
    if (Object.keys(state).length > 0) scaler.loadStateDict({ ...checkpoint.scaler, state }); // it was trained in f16
  });
  trainer.step = checkpoint.step;
  history.train.push(...checkpoint.history.train);
  history.validation.push(...checkpoint.history.validation);
}

function explain(checkpoint: Checkpoint, load: () => void): void {
  try {
    load();
  } catch (error) {
    throw new UserError(`--resume ${checkpoint.file}: ${(error as Error).message}`);
  }
}

const OPTIMIZER = "optimizer.";
const SCALER = "scaler.";

const prefixed = (prefix: string, tensors: StateDict): StateDict =>
  Object.fromEntries(Object.entries(tensors).map(([name, t]) => [prefix + name, t]));

const without = (prefix: string, tensors: StateDict): StateDict =>
  Object.fromEntries(
    Object.entries(tensors)
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, t]) => [name.slice(prefix.length), t]),
  );
