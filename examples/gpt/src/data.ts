/**
 * Text as training data: read, numbered by character, split, and cut into random batches.
 *
 *   text        "abcabd"                  one file, or this project's own sources
 *   vocabulary  ["a", "b", "c", "d"]      its different characters, sorted
 *   ids         [0, 1, 2, 0, 1, 3]        the first 90 % to train on, the rest to validate with
 */
import { createHash } from "node:crypto";
import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "./errors.ts";
import type { Random } from "./random.ts";

const root = join(import.meta.dirname, "../../..");
const sources = [
  "*.md",
  "docs/**/*.md",
  "packages/*/README.md",
  "packages/*/src/**/*.ts",
  "tools/**/*.{ts,mjs}",
  "examples/*/{*.md,*.ts,src/**/*.ts}",
];

export interface Text {
  /** Where it comes from, for messages. */
  readonly name: string;
  readonly text: string;
}

/** This project's own sources and pages, in one text: something to train on that needs no download. */
export function projectText(): Text {
  const skipped = /(^|[/\\])(node_modules|dist|out|test|\.cache)$/;
  const files = globSync(sources, { cwd: root, exclude: (path) => skipped.test(String(path)) });
  // Mixed by their hash, so that the part kept for validation is of the same kinds as the rest.
  const mixed = files.map((file) => [hash(file), file]).sort();
  const text = mixed.map(([, file]) => readFileSync(join(root, file!), "utf8")).join("\n");
  return { name: `the project's own source, ${files.length} files`, text };
}

/** The text of a file, which `--data` names. */
export function fileText(path: string): Text {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const reasons: Record<string, string> = {
      ENOENT: "there is no such file",
      EISDIR: "this is a folder; expected a text file",
      EACCES: "the file may not be read",
      ERR_FS_FILE_TOO_LARGE: "the file has more than 2 GiB",
    };
    throw new UserError(`--data ${path}: ${reasons[code ?? ""] ?? message}`);
  }
  if (bytes.length === 0) throw new UserError(`--data ${path}: the file is empty`);
  try {
    return { name: path, text: new TextDecoder("utf-8", { fatal: true }).decode(bytes) };
  } catch (error) {
    const reason = error instanceof TypeError ? "the file is not UTF-8 text" : (error as Error).message;
    throw new UserError(`--data ${path}: ${reason}`);
  }
}

/** Characters and their numbers. */
export class Vocabulary {
  readonly characters: readonly string[];
  readonly #ids: ReadonlyMap<string, number>;

  constructor(characters: readonly string[]) {
    this.characters = characters;
    this.#ids = new Map(characters.map((character, id) => [character, id]));
  }

  /** The different characters of a text: code points, so that no surrogate pair is torn apart. */
  static of(text: string): Vocabulary {
    return new Vocabulary([...new Set(text)].sort());
  }

  get size(): number {
    return this.characters.length;
  }

  /** Numbers of the text's characters; `name` says in the error whose text it is. */
  encode(text: string, name: string): Int32Array<ArrayBuffer> {
    const ids = new Int32Array(text.length);
    let length = 0;
    for (const character of text) {
      const id = this.#ids.get(character);
      if (id === undefined) {
        throw new UserError(
          `${name}: the character ${JSON.stringify(character)} is not among the ${this.size} of the vocabulary`,
        );
      }
      ids[length++] = id;
    }
    return ids.slice(0, length);
  }

  decode(ids: Iterable<number>): string {
    return Array.from(ids, (id) => this.characters[id]).join("");
  }
}

/** Inputs, and the same text one character further: what the model has to predict at each position. */
export interface Batch {
  readonly ids: Int32Array<ArrayBuffer>;
  readonly targets: Int32Array<ArrayBuffer>;
}

export class Dataset {
  readonly name: string;
  readonly train: Int32Array<ArrayBuffer>;
  readonly validation: Int32Array<ArrayBuffer>;
  readonly vocabulary: Vocabulary;
  /** Tells whether a resumed run goes on with the same text. */
  readonly fingerprint: string;

  /** Splits a text 90 : 10. Each part must hold at least one stretch of `context` characters and the one after it. */
  constructor({ name, text }: Text, context: number, vocabulary: Vocabulary = Vocabulary.of(text)) {
    const ids = vocabulary.encode(text, `--data: ${name}`);
    const split = Math.floor(ids.length * 0.9);
    if (ids.length - split < context + 1) {
      throw new UserError(
        `--data, --context ${context}: needs ${context * 10 + 10} characters (a tenth is kept for validation), ${name} has ${ids.length}`,
      );
    }
    this.name = name;
    this.vocabulary = vocabulary;
    this.train = ids.subarray(0, split);
    this.validation = ids.subarray(split);
    this.fingerprint = hash(text);
  }

  get size(): number {
    return this.train.length + this.validation.length;
  }
}

const hash = (text: string): string => createHash("sha256").update(text).digest("hex").slice(0, 16);

/** `count` stretches of `context` characters from random places. */
export function batch(ids: Int32Array, count: number, context: number, random: Random): Batch {
  const inputs = new Int32Array(count * context);
  const targets = new Int32Array(count * context);
  for (let i = 0; i < count; i++) {
    const start = Math.floor(random() * (ids.length - context));
    inputs.set(ids.subarray(start, start + context), i * context);
    targets.set(ids.subarray(start + 1, start + context + 1), i * context);
  }
  return { ids: inputs, targets };
}
