/**
 * A GPT of GPT-2's shape (Radford et al. 2019), with the parameter names of GPT-2 and nanoGPT.
 *
 *   x      = wte[ids] + wpe[position]
 *   x      = x + attention(ln_1(x))        once for each
 *   x      = x + mlp(ln_2(x))              of the blocks
 *   logits = lm_head(ln_f(x))
 *
 * B texts of T ids give logits of [B, T, vocabulary]: at each position, how likely each character is to come next.
 */
import { gelu } from "@kindling/activations";
import { selfAttention } from "@kindling/attention";
import { add, fill, Module, normal, persist, type Tensor, tensor } from "@kindling/core";
import { Dropout } from "@kindling/dropout";
import { Embedding } from "@kindling/embedding";
import { LayerNorm } from "@kindling/layernorm";
import { Linear } from "@kindling/linear";
import { crossEntropy } from "@kindling/losses";

export interface GPTConfig {
  /** Number of different characters. */
  vocabulary: number;
  /** The longest text that the model sees at once. */
  context: number;
  layers: number;
  heads: number;
  width: number;
  dropout?: number;
  /** One matrix for embedding and head, as in GPT-2. Default false. */
  tied?: boolean;
}

/** In mixed precision only linear layers read a norm here, and those round to f16: it may as well write f16. */
const ROUNDED = { autocastToF32: false };

class CausalSelfAttention extends Module {
  readonly heads: number;
  readonly c_attn: Linear;
  readonly c_proj: Linear;
  readonly drop: Dropout;

  constructor({ width, heads, dropout = 0 }: GPTConfig) {
    super();
    this.heads = heads;
    this.c_attn = new Linear(width, 3 * width);
    this.c_proj = new Linear(width, width);
    this.drop = new Dropout(dropout);
  }

  forward(x: Tensor): Tensor {
    const qkv = this.c_attn.forward(x); // [B, T, 3 width]: queries, keys and values
    return this.drop.forward(this.c_proj.forward(selfAttention(qkv, this.heads, { isCausal: true })));
  }
}

class MLP extends Module {
  readonly c_fc: Linear;
  readonly c_proj: Linear;
  readonly drop: Dropout;

  constructor({ width, dropout = 0 }: GPTConfig) {
    super();
    this.c_fc = new Linear(width, 4 * width, { activation: gelu }); // one kernel for product, bias and GELU
    this.c_proj = new Linear(4 * width, width);
    this.drop = new Dropout(dropout);
  }

  forward(x: Tensor): Tensor {
    return this.drop.forward(this.c_proj.forward(this.c_fc.forward(x)));
  }
}

class Block extends Module {
  readonly ln_1: LayerNorm;
  readonly attn: CausalSelfAttention;
  readonly ln_2: LayerNorm;
  readonly mlp: MLP;

  constructor(config: GPTConfig) {
    super();
    this.ln_1 = new LayerNorm(config.width, ROUNDED);
    this.attn = new CausalSelfAttention(config);
    this.ln_2 = new LayerNorm(config.width, ROUNDED);
    this.mlp = new MLP(config);
  }

  forward(x: Tensor): Tensor {
    const y = add(x, this.attn.forward(this.ln_1.forward(x)));
    return add(y, this.mlp.forward(this.ln_2.forward(y)));
  }
}

class Transformer extends Module {
  readonly wte: Embedding;
  readonly wpe: Embedding;
  readonly drop: Dropout;
  readonly h: readonly Block[];
  readonly ln_f: LayerNorm;
  readonly #positions: Tensor;

  constructor(config: GPTConfig) {
    super();
    this.wte = new Embedding(config.vocabulary, config.width);
    this.wpe = new Embedding(config.context, config.width);
    this.drop = new Dropout(config.dropout ?? 0);
    this.h = Array.from({ length: config.layers }, () => new Block(config));
    this.ln_f = new LayerNorm(config.width, ROUNDED);
    this.#positions = persist(tensor(Int32Array.from({ length: config.context }, (_, i) => i)));
  }

  forward(ids: Tensor): Tensor {
    const positions = this.#positions.view(0, [ids.shape.at(-1)!]);
    let x = this.drop.forward(add(this.wte.forward(ids), this.wpe.forward(positions))); // [B, T, width] + [T, width]
    for (const block of this.h) x = block.forward(x);
    return this.ln_f.forward(x);
  }
}

export class GPT extends Module {
  readonly config: GPTConfig;
  readonly transformer: Transformer;
  readonly lm_head: Linear;

  constructor(config: GPTConfig) {
    super();
    const { width, heads, vocabulary, layers } = config;
    if (width % heads !== 0) throw new Error(`GPT: width ${width} is not a multiple of heads ${heads}`);
    this.config = config;
    this.transformer = new Transformer(config);
    this.lm_head = new Linear(width, vocabulary, { bias: false });
    if (config.tied) {
      this.lm_head.weight.dispose();
      Object.assign(this.lm_head, { weight: this.transformer.wte.weight });
    }
    // GPT-2's initialisation, whose 0.02 is for its width of 768. Each block adds twice to the residual stream, whose
    // variance should not grow with depth.
    const std = 0.02 * Math.sqrt(768 / width);
    for (const [name, p] of this.namedParameters()) {
      if (name.endsWith(".bias")) fill(p, 0);
      else if (p.shape.length === 2) normal(p, 0, name.endsWith("c_proj.weight") ? std / Math.sqrt(2 * layers) : std);
    }
  }

  /** Logits [B, T, vocabulary] of ids [B, T], i32, with T up to the context. */
  forward(ids: Tensor): Tensor {
    const { context } = this.config;
    const [, length] = ids.shape;
    if (ids.shape.length !== 2 || length! > context) {
      throw new Error(
        `GPT: ids has shape [${ids.shape}], expected [batch, length] with a length of at most ${context}`,
      );
    }
    return this.lm_head.forward(this.transformer.forward(ids));
  }

  /** Mean cross entropy, in nats a character, of predicting `targets`: the ids one position further. */
  loss(ids: Tensor, targets: Tensor): Tensor {
    return crossEntropy(this.forward(ids).reshape([-1, this.config.vocabulary]), targets.reshape([-1]));
  }
}
