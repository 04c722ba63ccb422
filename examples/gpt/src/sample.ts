/**
 * Text from a model, one character at a time: the logits of the last position become a distribution, a character is
 * drawn from it and appended, and so on.
 */
import { capture, noGrad, scope, type Tensor, tensor } from "@kindling/core";
import type { GPT } from "./model.ts";
import { type Random, random } from "./random.ts";

export interface SampleOptions {
  /** Below 1 sharpens the distribution, above 1 flattens it; 0 takes the most likely character. */
  temperature: number;
  /** Only the k most likely characters are drawn; 0 means all. */
  topK: number;
}

/** Draws an index from softmax(logits / temperature) among the `topK` largest. */
export function draw(logits: ArrayLike<number>, { temperature, topK }: SampleOptions, random: Random): number {
  const order = Array.from(logits, (logit, id) => ({ logit, id })).sort((a, b) => b.logit - a.logit || a.id - b.id);
  if (!Number.isFinite(order[0]!.logit))
    throw new Error(`draw: the largest logit is ${order[0]!.logit}; has the training diverged?`);
  if (temperature === 0) return order[0]!.id;
  const candidates = topK > 0 ? order.slice(0, topK) : order;
  const weights = candidates.map(({ logit }) => Math.exp((logit - order[0]!.logit) / temperature));
  let rest = random() * weights.reduce((sum, w) => sum + w, 0);
  for (const [i, w] of weights.entries()) {
    if ((rest -= w) < 0) return candidates[i]!.id;
  }
  return candidates[0]!.id; // rounding left a crumb
}

export class Sampler {
  readonly #context: number;
  readonly #vocabulary: number;
  readonly #logits: ((ids: Tensor) => Tensor) & { dispose?: () => void };

  constructor(model: GPT, { eager = false }: { eager?: boolean } = {}) {
    this.#context = model.config.context;
    this.#vocabulary = model.config.vocabulary;
    const logits = (ids: Tensor): Tensor => scope(() => noGrad(() => model.eval().forward(ids)));
    this.#logits = eager ? logits : capture(logits);
  }

  /** Continues `prompt` without end. The same seed gives the same text. */
  async *generate(prompt: ArrayLike<number>, options: SampleOptions, seed: number): AsyncGenerator<number, never> {
    if (prompt.length === 0) throw new Error("generate: the prompt is empty; expected at least one id");
    const draws = random(seed, 0);
    const text = Array.from(prompt).slice(-this.#context);
    for (;;) {
      const id = draw(await this.#last(text), options, draws);
      yield id;
      text.push(id);
      if (text.length > this.#context) text.shift();
    }
  }

  /**
   * Logits behind the last id. The model always sees a full context, so that one recording serves every length: what
   * stands behind the text is padding, which a causal model cannot see.
   */
  async #last(text: readonly number[]): Promise<ArrayLike<number>> {
    const ids = new Int32Array(this.#context);
    ids.set(text);
    using _ = scope();
    const data = await this.#logits(tensor(ids, { shape: [1, this.#context] })).data();
    return data.subarray((text.length - 1) * this.#vocabulary, text.length * this.#vocabulary);
  }

  dispose(): void {
    this.#logits.dispose?.();
  }
}
