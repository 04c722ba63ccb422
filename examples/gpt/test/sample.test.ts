import { mixedError } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { random } from "../src/random.ts";
import { draw } from "../src/sample.ts";

const logits = [0.5, 2, -1, 1.25, 2];

/** How often each index comes among `count` draws. */
function frequencies(temperature: number, topK: number, count = 20_000): number[] {
  const next = random(7, 0);
  const hits = logits.map(() => 0);
  for (let i = 0; i < count; i++) hits[draw(logits, { temperature, topK }, next)]! += 1 / count;
  return hits;
}

function softmax(values: readonly number[]): number[] {
  const weights = values.map(Math.exp);
  const sum = weights.reduce((a, b) => a + b);
  return weights.map((w) => w / sum);
}

describe("draw", () => {
  it.each([0.5, 1, 2])("draws from softmax(logits / %d)", (temperature) => {
    const expected = softmax(logits.map((l) => l / temperature));
    expect(mixedError(frequencies(temperature, 0), expected)).toBeLessThan(0.012); // more than three standard deviations
  });

  it("draws among the topK likeliest only", () => {
    const [a, b, c, d, e] = frequencies(1, 3);
    expect([a, c]).toEqual([0, 0]);
    const expected = softmax([2, 1.25, 2]);
    expect(mixedError([b!, d!, e!], expected)).toBeLessThan(0.012);
    expect(frequencies(1, 100)).toEqual(frequencies(1, 0));
  });

  it("takes the likeliest at temperature 0 and with topK 1", () => {
    expect(draw([0, 3, 1], { temperature: 0, topK: 0 }, random(1, 0))).toBe(1);
    expect(draw([0, 3, 1], { temperature: 2, topK: 1 }, random(1, 0))).toBe(1);
  });

  it("bears extreme logits and reports NaN", () => {
    expect(draw([1e30, -1e30, -Infinity], { temperature: 0.1, topK: 0 }, random(1, 0))).toBe(0);
    expect(() => draw([Number.NaN, Number.NaN], { temperature: 1, topK: 0 }, random(1, 0))).toThrow(
      "the largest logit is NaN",
    );
  });
});
