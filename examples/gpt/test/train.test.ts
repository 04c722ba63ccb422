import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { memory, ones } from "@kindling/core";
import { saveSafetensors } from "@kindling/core/safetensors";
import { mixedError, testDevice } from "@kindling/core/testing";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { svgChart, terminalChart } from "../src/chart.ts";
import {
  loadModel,
  loadTrainer,
  prepareFolder,
  readCheckpoint,
  replaceFile,
  saveCheckpoint,
} from "../src/checkpoint.ts";
import { Dataset, Vocabulary } from "../src/data.ts";
import { GPT } from "../src/model.ts";
import { learningRate, type Settings, Trainer, train } from "../src/train.ts";

const settings: Settings = {
  ...{ layers: 1, heads: 2, width: 32, context: 16, dropout: 0.1 },
  ...{ batch: 4, steps: 40, lr: 0.01, seed: 3, precision: "f32" },
};
const text = "to be, or not to be, that is the question: whether 'tis nobler in the mind to suffer ".repeat(30);
const data = new Dataset({ name: "text", text }, settings.context);

let folder: string;
let file: string;
beforeAll(async () => {
  await testDevice();
  folder = mkdtempSync(join(tmpdir(), "kindling-gpt-"));
  file = join(folder, "checkpoint.safetensors");
});
afterAll(() => rmSync(folder, { recursive: true }));

async function losses(trainer: Trainer, count: number): Promise<number[]> {
  const values: number[] = [];
  for (let i = 0; i < count; i++) values.push(await trainer.update().item());
  return values;
}

describe("learningRate", () => {
  it("rises, then falls along a cosine to a tenth", () => {
    const of = (step: number): number => learningRate(step, { lr: 1, steps: 200 });
    expect([of(0), of(4), of(9), of(10)]).toEqual([0.1, 0.5, 1, 1]);
    expect(of(105)).toBeCloseTo(0.55);
    expect(of(200)).toBeCloseTo(0.1);
    for (let step = 10; step < 200; step++) expect(of(step + 1)).toBeLessThan(of(step));
    expect(learningRate(0, { lr: 1, steps: 1 })).toBe(1);
  });
});

describe("Trainer", () => {
  it("learns", async () => {
    const trainer = new Trainer(settings, data);
    const before = await trainer.validate();
    expect(Math.abs(before - Math.log(data.vocabulary.size))).toBeLessThan(0.3);
    await losses(trainer, 40);
    expect(await trainer.validate()).toBeLessThan(before - 1);
    trainer.dispose();
  });

  it("captured gives, bit for bit, what eager gives", async () => {
    const [captured, eager] = [new Trainer(settings, data), new Trainer(settings, data, { eager: true })];
    expect(await losses(captured, 6)).toEqual(await losses(eager, 6));
    expect(await captured.validate()).toBe(await eager.validate());
    expect(await losses(captured, 2)).toEqual(await losses(eager, 2));
    captured.dispose();
    eager.dispose();
  });

  it("trains with f16 products much as with f32", async () => {
    if (!(await testDevice()).features.has("shader-f16")) return;
    const [half, single] = [new Trainer({ ...settings, precision: "f16" }, data), new Trainer(settings, data)];
    const [a, b] = [await losses(half, 10), await losses(single, 10)];
    expect(a).not.toEqual(b);
    expect(mixedError(a, b)).toBeLessThan(0.02);
    half.dispose();
    single.dispose();
  });

  it("holds its memory constant", async () => {
    const trainer = new Trainer(settings, data);
    await losses(trainer, 2);
    await trainer.validate();
    const before = memory();
    await losses(trainer, 20);
    await trainer.validate();
    const after = memory(); // less is possible: garbage of earlier tests
    expect(after.bytes).toBeLessThanOrEqual(before.bytes);
    expect(after.tensors).toBeLessThanOrEqual(before.tensors);
    expect(after.buffers).toBe(before.buffers);
    trainer.dispose();
  });
});

describe("train", () => {
  it("reports, validates and saves", async () => {
    const trainer = new Trainer({ ...settings, steps: 16 }, data);
    const reported: number[] = [];
    let saved = 0;
    await train(trainer, {
      signal: new AbortController().signal,
      report: ({ step }) => reported.push(step),
      save: async () => void saved++,
    });
    expect([trainer.step, reported.at(-1), saved]).toEqual([16, 16, 8]);
    expect(trainer.history.train[0]![0]).toBe(1);
    expect(trainer.history.validation.map(([step]) => step)).toEqual([0, 2, 4, 6, 8, 10, 12, 14, 16]);
    trainer.dispose();
  });

  it("ends when it is told to", async () => {
    const trainer = new Trainer(settings, data);
    const stop = new AbortController();
    await train(trainer, { signal: stop.signal, report: () => stop.abort(), save: async () => {} });
    expect(trainer.step).toBe(1);
    trainer.dispose();
  });

  it("says what helps against divergence", async () => {
    const trainer = new Trainer({ ...settings, lr: 1e30 }, data);
    const running = train(trainer, { signal: new AbortController().signal, report: () => {}, save: async () => {} });
    await expect(running).rejects.toThrow(
      /^--lr 1e\+30: the loss became \S+ at step \d+; a smaller rate keeps it finite$/,
    );
    trainer.dispose();
  });
});

describe("checkpoints", () => {
  it("resume as if nothing had happened", async () => {
    const whole = new Trainer(settings, data);
    const expected = await losses(whole, 8);

    const first = new Trainer(settings, data);
    const before = await losses(first, 4);
    first.history.train.push([4, before[3]!]);
    await saveCheckpoint(file, first);
    const checkpoint = await readCheckpoint(file);
    expect(checkpoint).toMatchObject({ settings, step: 4, fingerprint: data.fingerprint });
    expect(checkpoint.vocabulary.characters).toEqual(data.vocabulary.characters);

    const second = new Trainer(checkpoint.settings, new Dataset({ name: "text", text }, 16, checkpoint.vocabulary));
    loadTrainer(second, checkpoint);
    expect(second.history).toEqual(first.history);
    expect([...before, ...(await losses(second, 4))]).toEqual(expected);

    const model = new GPT({ ...settings, vocabulary: data.vocabulary.size });
    loadModel(model, checkpoint);
    expect(await model.lm_head.weight.data()).toEqual(await first.model.lm_head.weight.data());
    for (const one of [whole, first, second, model]) one.dispose();
  });

  it("that are damaged or foreign are refused, and the file stays", async () => {
    const good = new Uint8Array(readFileSync(file));
    const bad = join(folder, "bad.safetensors");
    const refusal = async (bytes: Uint8Array): Promise<string> => {
      writeFileSync(bad, bytes);
      const message = await readCheckpoint(bad).then(
        () => "accepted",
        (error: Error) => error.message,
      );
      expect(new Uint8Array(readFileSync(bad))).toEqual(bytes);
      return message;
    };
    expect(await refusal(good.subarray(0, 5))).toMatch(
      /^--resume .*bad\.safetensors: safetensors: .* is it truncated\?$/,
    );
    expect(await refusal(good.subarray(0, 2000))).toMatch(/truncated\?$/);
    expect(await refusal(good.subarray(0, good.length - 1))).toMatch(/truncated\?$/);
    expect(await refusal(new TextEncoder().encode("this is a letter, not a checkpoint"))).toMatch(
      /^--resume .*: safetensors: /,
    );
    expect(await refusal(await saveSafetensors({ x: ones([2]) }))).toMatch(
      /not a checkpoint of this example: its metadata says format undefined/,
    );
    expect(await refusal(await saveSafetensors({ x: ones([2]) }, { format: "kindling-gpt 1" }))).toMatch(
      /its metadata is damaged/,
    );
    await expect(readCheckpoint(join(folder, "none"))).rejects.toThrow(
      "there is no such file; train without --resume first",
    );
    await expect(readCheckpoint(folder)).rejects.toThrow("this is a folder; expected a checkpoint");
  });

  it("of another model are refused", async () => {
    const checkpoint = await readCheckpoint(file);
    const wider = new GPT({ ...settings, width: 64, vocabulary: data.vocabulary.size });
    expect(() => loadModel(wider, checkpoint)).toThrow(
      /^--resume .*: loadStateDict: .*transformer\.wte\.weight has shape/,
    );
    wider.dispose();
    expect(() => new Dataset({ name: "text", text: `${text}Ω` }, 16, checkpoint.vocabulary)).toThrow(
      '--data: text: the character "Ω" is not among',
    );
    expect(checkpoint.vocabulary).toBeInstanceOf(Vocabulary);
  });

  it("are replaced whole or not at all", async () => {
    const path = join(folder, "a/b/file");
    prepareFolder(join(folder, "a/b"));
    await replaceFile(path, "one");
    await replaceFile(path, "two");
    expect(readFileSync(path, "utf8")).toBe("two");
    await expect(replaceFile(join(path, "c"), "three")).rejects.toThrow(/^--out .*: writing c failed: /);
    expect(() => prepareFolder(join(path, "c"))).toThrow(/^--out .*: cannot be written to: /);
    expect(readdirSync(join(folder, "a/b"))).toEqual(["file"]);
    expect(readFileSync(path, "utf8")).toBe("two");
  });
});

describe("charts", () => {
  const history = {
    train: Array.from({ length: 50 }, (_, i) => [i + 1, 5 / (i + 1) + 1] as const),
    validation: [
      [0, 4.8],
      [25, 2.1],
      [50, 1.4],
    ] as const,
  };

  it("show the loss in the terminal", () => {
    const chart = terminalChart({ train: [...history.train], validation: [...history.validation] }, { columns: 60 });
    expect(chart).toContain("●");
    expect(chart).toMatch(/6┤/);
    expect(chart).not.toContain("\x1b");
    expect(Math.max(...chart.split("\n").map((line) => line.length))).toBeLessThanOrEqual(60);
    expect(terminalChart({ train: [], validation: [] })).toBe("");
  });

  it("are well-formed as SVG", () => {
    for (const train of [[...history.train], [], [[1, Number.NaN] as const]]) {
      const svg = svgChart({ train, validation: [...history.validation] }, "a < b & c");
      expect(svg).toContain("a &#60; b &#38; c");
      expect(svg).not.toMatch(/NaN|undefined|Infinity/);
      expect(svg.match(/<circle/g)).toHaveLength(3);
    }
  });
});
