import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { batch, Dataset, fileText, projectText, Vocabulary } from "../src/data.ts";
import { random } from "../src/random.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "kindling-gpt-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const write = (name: string, content: string | Uint8Array): string => {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
};

describe("Vocabulary", () => {
  it("numbers the characters of a text in their order, whole code points", () => {
    const vocabulary = Vocabulary.of("b𝄞aba");
    expect(vocabulary.characters).toEqual(["a", "b", "𝄞"]);
    expect([...vocabulary.encode("b𝄞aba", "text")]).toEqual([1, 2, 0, 1, 0]);
    expect(vocabulary.decode([2, 0])).toBe("𝄞a");
  });

  it("names a character that it lacks", () => {
    expect(() => Vocabulary.of("ab").encode("abc", "--prompt")).toThrow(
      '--prompt: the character "c" is not among the 2 of the vocabulary',
    );
  });
});

describe("Dataset", () => {
  const text = Array.from({ length: 1000 }, (_, i) => String.fromCharCode(97 + (i % 26))).join("");

  it("keeps the last tenth for validation", () => {
    const { train, validation, vocabulary, size } = new Dataset({ name: "text", text }, 16);
    expect([train.length, validation.length, size, vocabulary.size]).toEqual([900, 100, 1000, 26]);
    expect(vocabulary.decode([...train, ...validation])).toBe(text);
  });

  it("takes a text of exactly the length that a context needs, and says what a shorter one lacks", () => {
    expect(new Dataset({ name: "text", text }, 99).validation.length).toBe(100);
    expect(() => new Dataset({ name: "text", text }, 100)).toThrow(
      "--data, --context 100: needs 1010 characters (a tenth is kept for validation), text has 1000",
    );
    expect(new Dataset({ name: "text", text: text + text.slice(0, 10) }, 100).validation.length).toBe(101);
  });
});

describe("batch", () => {
  const ids = Int32Array.from({ length: 50 }, (_, i) => i);

  it("pairs each character with the next one", () => {
    const { ids: inputs, targets } = batch(ids, 200, 7, random(1, 0));
    expect(inputs.length).toBe(1400);
    expect([...targets]).toEqual(Array.from(inputs, (id) => id + 1));
    for (let row = 0; row < 200; row++) expect(inputs[row * 7 + 6]! - inputs[row * 7]!).toBe(6);
    expect([Math.min(...inputs), Math.max(...targets)]).toEqual([0, 49]); // all of the text is reached
  });

  it("is the same for the same seed and step, and another for others", () => {
    const of = (seed: number, step: number): string => batch(ids, 8, 7, random(seed, step)).ids.join();
    expect(of(1, 5)).toBe(of(1, 5));
    expect(new Set([of(1, 5), of(1, 6), of(2, 5), of(5, 1), of(0, 5)]).size).toBe(5);
  });
});

describe("random", () => {
  it("is uniform in [0, 1), for every seed and stream", () => {
    for (const [seed, stream] of [
      [0, 0],
      [1, 0],
      [0, 1],
      [999_999, 2 ** 31],
    ] as const) {
      const next = random(seed, stream);
      const buckets = new Array<number>(16).fill(0);
      for (let i = 0; i < 16_000; i++) buckets[Math.floor(next() * 16)]!++;
      for (const n of buckets) expect(Math.abs(n - 1000)).toBeLessThan(150); // five standard deviations
    }
  });

  it("has no two streams alike", () => {
    const first = new Set<number>();
    for (let seed = 0; seed < 30; seed++) for (let stream = 0; stream < 30; stream++) first.add(random(seed, stream)());
    expect(first.size).toBe(900);
  });
});

describe("texts", () => {
  it("finds the project's own source, and nothing that is installed or built", () => {
    const { name, text } = projectText();
    expect(name).toMatch(/^the project's own source, \d+ files$/);
    expect(text).toContain("finds the project's own source".slice(6));
    expect(text.length).toBeGreaterThan(100_000);
    expect(text.length).toBeLessThan(10_000_000);
  });

  it("reads a file", () => {
    expect(fileText(write("text.txt", "Grüße"))).toEqual({ name: join(folder, "text.txt"), text: "Grüße" });
  });

  it.each([
    ["missing.txt", null, "there is no such file"],
    ["", null, "this is a folder; expected a text file"],
    ["empty.txt", "", "the file is empty"],
    ["binary.bin", Uint8Array.of(0x41, 0xff, 0xfe), "the file is not UTF-8 text"],
  ])("says what is wrong with --data %j", (name, content, message) => {
    const path = content === null ? join(folder, name) : write(name, content);
    expect(() => fileText(path)).toThrow(`--data ${path}: ${message}`);
  });
});
