import { manualSeed, memory, noGrad, scope, tensor } from "@kindling/core";
import { mixedError, testDevice } from "@kindling/core/testing";
import { beforeAll, describe, expect, it } from "vitest";
import { GPT } from "../src/model.ts";
import { Sampler } from "../src/sample.ts";

beforeAll(testDevice);

const config = { vocabulary: 11, context: 16, layers: 2, heads: 2, width: 32 };
const ids = (...values: number[]): ReturnType<typeof tensor> =>
  tensor(Int32Array.from(values), { shape: [1, values.length] });

describe("GPT", () => {
  it("has GPT-2's parameters", () => {
    const model = new GPT(config);
    const shapes = Object.fromEntries(Object.entries(model.stateDict()).map(([name, p]) => [name, p.shape]));
    expect(Object.keys(shapes).slice(0, 2)).toEqual(["transformer.wte.weight", "transformer.wpe.weight"]);
    expect(shapes).toMatchObject({
      "transformer.wte.weight": [11, 32],
      "transformer.wpe.weight": [16, 32],
      "transformer.h.0.ln_1.weight": [32],
      "transformer.h.0.attn.c_attn.weight": [96, 32],
      "transformer.h.1.attn.c_proj.bias": [32],
      "transformer.h.1.mlp.c_fc.weight": [128, 32],
      "transformer.h.1.mlp.c_proj.weight": [32, 128],
      "transformer.ln_f.bias": [32],
      "lm_head.weight": [11, 32],
    });
    const block = 12 * 32 * 32 + 13 * 32; // four matrices, their biases, two layer norms
    expect(model.parameters().reduce((sum, p) => sum + p.size, 0)).toBe(2 * 11 * 32 + 16 * 32 + 2 * block + 2 * 32);
    model.dispose();
  });

  it("starts with GPT-2's distributions", async () => {
    const model = new GPT({ ...config, width: 64, vocabulary: 500 });
    const spread = async (name: string): Promise<number> => {
      const values = await model.stateDict()[name]!.data();
      return Math.sqrt(Array.from(values).reduce((sum, v) => sum + v * v, 0) / values.length);
    };
    const std = 0.02 * Math.sqrt(768 / 64);
    expect((await spread("transformer.wte.weight")) / std).toBeCloseTo(1, 1);
    expect((await spread("transformer.h.0.mlp.c_fc.weight")) / std).toBeCloseTo(1, 1);
    expect((await spread("transformer.h.0.mlp.c_proj.weight")) / std).toBeCloseTo(0.5, 1); // 1 / √(2 · 2 layers)
    expect(await spread("transformer.h.0.mlp.c_proj.bias")).toBe(0);
    model.dispose();
  });

  it("takes texts up to the context", () => {
    const model = new GPT(config);
    expect(model.forward(ids(1, 2, 3)).shape).toEqual([1, 3, 11]);
    const text = tensor(new Int32Array(3 * 16), { shape: [3, 16] });
    expect(model.forward(text).shape).toEqual([3, 16, 11]);
    expect(model.loss(text, text).shape).toEqual([]);
    const long = tensor(new Int32Array(17), { shape: [1, 17] });
    expect(() => model.forward(long)).toThrow(
      "GPT: ids has shape [1,17], expected [batch, length] with a length of at most 16",
    );
    expect(() => model.forward(tensor(new Int32Array(4)))).toThrow("GPT: ids has shape [4]");
    expect(() => new GPT({ ...config, heads: 3 })).toThrow("GPT: width 32 is not a multiple of heads 3");
    model.dispose();
  });

  it("guesses almost evenly before training, and gives every parameter a gradient", async () => {
    manualSeed(1);
    const model = new GPT(config);
    const loss = model.loss(ids(1, 2, 3, 4), ids(2, 3, 4, 5));
    expect(Math.abs((await loss.item()) - Math.log(11))).toBeLessThan(0.3);
    loss.backward();
    for (const [name, p] of model.namedParameters()) {
      const grad = await p.grad!.data();
      expect(grad.every(Number.isFinite), name).toBe(true);
      expect(
        grad.some((g) => g !== 0),
        name,
      ).toBe(true);
    }
    model.dispose();
  });

  it("sees only what comes before", async () => {
    const model = new GPT(config).eval();
    const first = await noGrad(() => model.forward(ids(1, 2, 3, 4, 5))).data();
    const second = await noGrad(() => model.forward(ids(1, 2, 3, 9, 8))).data();
    expect(mixedError(second.subarray(0, 33), first.subarray(0, 33))).toBeLessThan(1e-6);
    expect(mixedError(second.subarray(33), first.subarray(33))).toBeGreaterThan(1e-3);
    model.dispose();
  });

  it("can share one matrix between embedding and head", async () => {
    const model = new GPT({ ...config, tied: true });
    expect(model.lm_head.weight).toBe(model.transformer.wte.weight);
    expect(model.parameters().length).toBe(new GPT(config).parameters().length - 1);
    model.loss(ids(1, 2), ids(2, 3)).backward();
    expect((await model.lm_head.weight.grad!.data()).some((g) => g !== 0)).toBe(true);
    model.dispose();
  });
});

describe("Sampler", () => {
  const options = { temperature: 1, topK: 0 };
  const write = async (sampler: Sampler, prompt: number[], seed: number, length: number): Promise<number[]> => {
    const text: number[] = [];
    for await (const id of sampler.generate(prompt, options, seed)) if (text.push(id) === length) break;
    return text;
  };

  it("writes beyond the context, the same for the same seed", async () => {
    const model = new GPT(config);
    const sampler = new Sampler(model);
    const text = await write(sampler, [1], 5, 40);
    expect(await write(sampler, [1], 5, 40)).toEqual(text);
    expect(await write(sampler, [1], 6, 40)).not.toEqual(text);
    expect(new Set(text).size).toBeGreaterThan(3);
    await expect(write(sampler, [], 5, 1)).rejects.toThrow("generate: the prompt is empty");
    sampler.dispose();
    model.dispose();
  });

  it("takes the logits behind the last character, whatever the padding", async () => {
    const model = new GPT(config).eval();
    const sampler = new Sampler(model);
    const text = [3, 1, 4, 1, 5];
    for await (const id of sampler.generate(text, { temperature: 0, topK: 0 }, 0)) {
      const logits = await noGrad(() => scope(() => model.forward(ids(...text)))).data();
      const last = [...logits.slice(-11)];
      expect(id).toBe(last.indexOf(Math.max(...last)));
      text.push(id);
      if (text.length === 16) break;
    }
    sampler.dispose();
    model.dispose();
  });

  it("keeps no memory", async () => {
    const model = new GPT(config);
    const sampler = new Sampler(model);
    await write(sampler, [1], 1, 3);
    const before = memory();
    await write(sampler, [1], 1, 20);
    const after = memory(); // less is possible: garbage of earlier tests
    expect(after.bytes).toBeLessThanOrEqual(before.bytes);
    expect(after.buffers).toBe(before.buffers);
    sampler.dispose();
    model.dispose();
  });
});
