/** The command line: what can be set, what it means, what values it takes. */
import { Command, InvalidArgumentError, Option } from "commander";
import { UserError } from "./errors.ts";
import type { Settings } from "./train.ts";

export interface Options extends Settings {
  /** A text file; default: this project's own source. */
  data?: string;
  device: (typeof devices)[number];
  eager?: true;
  out: string;
  /** A checkpoint; true: the one in `out`. */
  resume?: string | true;
  sampleOnly?: true;
  prompt?: string;
  samples: number;
  length: number;
  temperature: number;
  topK: number;
  /** Options that the command line names; the others have their defaults. */
  given: ReadonlySet<string>;
}

/** "cpu" is no GPU at all: the fallback of @kindling/nn in WebAssembly. */
const devices = ["auto", "real", "lavapipe", "swiftshader", "cpu"] as const;

/** The most that the attention kernels take. */
const MAX_HEAD = 256;

const number =
  (expected: string, ok: (value: number) => boolean) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || !ok(value))
      throw new InvalidArgumentError(`Expected ${expected}.`);
    return value;
  };

const whole = (min: number, max = 1e9): ((text: string) => number) =>
  number(
    max === 1e9 ? `a whole number of at least ${min}` : `a whole number from ${min} to ${max}`,
    (n) => Number.isInteger(n) && n >= min && n <= max,
  );

function command(): Command {
  return new Command("npm run demo --")
    .description("Trains a small GPT on text, character by character, and lets it write.")
    .helpOption("-h, --help", "show this help")
    .optionsGroup("Model:")
    .option("--layers <n>", "transformer blocks", whole(1), 2)
    .option("--heads <n>", "attention heads of a block", whole(1), 4)
    .option("--width <n>", "size of a character's vector; a multiple of heads", whole(1), 64)
    .option("--context <n>", "characters that the model sees at once", whole(2), 64)
    .option(
      "--dropout <p>",
      "part of the activations that training drops",
      number("a number from 0 to below 1", (p) => p >= 0 && p < 1),
      0,
    )
    .optionsGroup("Training:")
    .option("--data <file>", "text to train on (default: this project's own source)")
    .option("--steps <n>", "updates", whole(1), 1000)
    .option("--batch <n>", "stretches of text for each update", whole(1), 8)
    .option(
      "--lr <rate>",
      "learning rate after the warm-up",
      number("a number above 0", (lr) => lr > 0),
      0.005,
    )
    .option("--seed <n>", "the same seed gives the same run", whole(0, 999_999), 1)
    .addOption(new Option("--precision <type>", "of matrix products").choices(["f32", "f16"]).default("f32"))
    .addOption(new Option("--device <kind>", "what computes").choices(devices).default("auto"))
    .option("--eager", "launch every kernel anew instead of replaying a recorded step; always so on the CPU")
    .optionsGroup("Files:")
    .option("--out <folder>", "where the checkpoint and the loss curve go", "out/gpt")
    .option("--resume [file]", "go on from a checkpoint (default: the one in --out)")
    .optionsGroup("Writing:")
    .option("--sample-only", "write with a trained checkpoint, without training")
    .option("--prompt <text>", "what the text begins with")
    .option("--samples <n>", "texts to write at the end", whole(0), 2)
    .option("--length <n>", "characters of each text", whole(1), 400)
    .option(
      "--temperature <t>",
      "below 1 safer, above 1 wilder, 0 always the likeliest",
      number("a number of at least 0", (t) => t >= 0),
      0.8,
    )
    .option("--top-k <n>", "draw among the n likeliest characters; 0 for all", whole(0), 0)
    .allowExcessArguments(false)
    .showSuggestionAfterError(false)
    .exitOverride();
}

/**
 * Reads the arguments that follow `node main.ts`. A mistake is a CommanderError, after its one line was written to
 * stderr, or a UserError, before.
 */
export function parseOptions(args: readonly string[], { silent = false }: { silent?: boolean } = {}): Options {
  const program = command();
  if (silent) program.configureOutput({ writeErr: () => {}, writeOut: () => {} });
  program.parse(args, { from: "user" });
  const options = program.opts<Omit<Options, "given">>();
  const given = new Set(Object.keys(options).filter((name) => program.getOptionValueSource(name) === "cli"));
  if (options.prompt === "") throw new UserError("--prompt: the text is empty; expected at least one character");
  if (options.device === "cpu") options.eager = true; // there is no recording of what is not launched
  return { ...options, given };
}

/** What no single option can tell: whether the model's sizes fit together. */
export function checkShape({ width, heads }: { width: number; heads: number }): void {
  if (width % heads !== 0)
    throw new UserError(`--width ${width} --heads ${heads}: the width must be a multiple of the heads`);
  if (width / heads > MAX_HEAD) {
    throw new UserError(`--width ${width} --heads ${heads}: a head of ${width / heads}; expected at most ${MAX_HEAD}`);
  }
}
