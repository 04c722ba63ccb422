/**
 * The transformer of Vaswani et al. 2017 under the names of torch.nn, with its arguments, parameters and state dict.
 *
 *   normFirst:  x = x + attention(norm1(x))      x = x + mlp(norm2(x))
 *   else:       x = norm1(x + attention(x))      x = norm2(x + mlp(x))
 *   mlp(x) = linear2(f(linear1(x))), or gated: linear2(a · f(b)) with [a, b] = linear1(x)
 *
 * The sum of a residual and the norm after it are one kernel, as are a linear layer, its activation and its dropout. So a layer
 * has no modules `dropout` and `dropout2` of its own as PyTorch's does; they have no parameters.
 */
import { add, type Device, isModule, Module, type Pointwise, type Tensor, tensor } from "@kindling/core";
import { ownBackend } from "./backend.ts";
import { ModuleList } from "./containers.ts";
import { xavierUniform } from "./init.ts";
import { Dropout, GLU, LayerNorm, Linear, MultiheadAttention } from "./layers.generated.ts";
import { type ActivationLike, activationOf } from "./names.ts";

export interface TransformerLayerOptions {
  /** Features between the two linear layers. Default 2048. */
  dimFeedforward?: number;
  /** Default 0.1. */
  dropout?: number;
  /** A name or a value. Default "relu". */
  activation?: ActivationLike;
  /**
   * The activation gates: linear1 has 2 · dimFeedforward outputs, whose second half, after the activation, multiplies the first,
   * as in torch.nn.GLU. With the activation "silu" that is SwiGLU. Default false.
   */
  gated?: boolean;
  /** Default 1e-5. */
  layerNormEps?: number;
  /** Sequences are [batch, length, features] rather than [length, batch, features]. Default false. */
  batchFirst?: boolean;
  /** Normalize what goes into attention and MLP rather than the sums. Default false. */
  normFirst?: boolean;
  /** Of linear layers, attention and norms. Default true. */
  bias?: boolean;
  device?: Device;
}

/** Options with their defaults, checked; `activation` is a value. */
type Settings = Required<Omit<TransformerLayerOptions, "device" | "activation">> & {
  activation: Pointwise;
  device: Device | undefined;
};

function settingsOf(name: string, options: TransformerLayerOptions): Settings {
  const {
    dimFeedforward = 2048,
    dropout = 0.1,
    activation = "relu",
    gated = false,
    layerNormEps = 1e-5,
    batchFirst = false,
    normFirst = false,
    bias = true,
    device,
  } = options;
  if (!Number.isInteger(dimFeedforward) || dimFeedforward < 1)
    throw new Error(`${name}: dimFeedforward is ${dimFeedforward}, expected a whole number ≥ 1`);
  if (!(dropout >= 0 && dropout <= 1))
    throw new Error(`${name}: dropout is ${dropout}, expected a probability from 0 to 1`);
  const value = typeof activation === "string" ? activationOf(name, activation) : activation;
  return { dimFeedforward, dropout, activation: value, gated, layerNormEps, batchFirst, normFirst, bias, device };
}

type NormClass = InstanceType<typeof LayerNorm>;
type LinearClass = InstanceType<typeof Linear>;
type AttentionClass = InstanceType<typeof MultiheadAttention>;
type DropoutClass = InstanceType<typeof Dropout>;

/** Two linear layers, and in between, where it is gated, what applies the gate and drops elements. */
interface Mlp {
  readonly linear1: LinearClass;
  readonly gate: Gate | null;
  readonly linear2: LinearClass;
}

function applyMlp({ linear1, gate, linear2 }: Mlp, x: Tensor): Tensor {
  const hidden = linear1.forward(x);
  return linear2.forward(gate ? gate.forward(hidden) : hidden);
}

/** What encoder and decoder layers share. */
abstract class TransformerLayer extends Module {
  readonly dModel: number;
  readonly nhead: number;
  readonly normFirst: boolean;
  readonly batchFirst: boolean;
  readonly #settings: Settings;
  readonly self_attn: AttentionClass;

  constructor(name: string, dModel: number, nhead: number, options: TransformerLayerOptions) {
    super();
    const settings = settingsOf(name, options);
    this.dModel = dModel;
    this.nhead = nhead;
    this.normFirst = settings.normFirst;
    this.batchFirst = settings.batchFirst;
    this.#settings = settings;
    this.self_attn = this.attention();
  }

  protected attention(): AttentionClass {
    const { dropout, bias, batchFirst, device } = this.#settings;
    return new MultiheadAttention(this.dModel, this.nhead, { dropout, bias, batchFirst, device });
  }

  protected mlp(): Mlp {
    const { dimFeedforward, dropout, activation, gated, bias, device } = this.#settings;
    const { dModel } = this;
    return {
      linear1: gated
        ? new Linear(dModel, 2 * dimFeedforward, { bias, device })
        : new Linear(dModel, dimFeedforward, { bias, activation, dropout, device }),
      gate: gated ? new Gate(activation, dropout) : null,
      linear2: new Linear(dimFeedforward, dModel, { bias, dropout, device }),
    };
  }

  protected norm(): NormClass {
    const { layerNormEps: eps, bias, device } = this.#settings;
    return new LayerNorm(this.dModel, { eps, bias, device });
  }

  protected drop(): DropoutClass {
    return new Dropout(this.#settings.dropout);
  }

  /** A layer of the same settings with copies of the parameters: what a stack of layers is made of. */
  clone(): this {
    type Same = new (dModel: number, nhead: number, options: object) => this;
    const backend = ownBackend(this);
    const copy = new (this.constructor as unknown as Same)(this.dModel, this.nhead, {
      ...this.#settings,
      ...(backend && { backend }),
    });
    if (this.self_attn.out_proj.weight.dtype === "f16") copy.to("f16");
    copy.loadStateDict(this.stateDict());
    const own = this.stateDict();
    for (const [name, p] of copy.namedParameters()) p.requiresGrad = own[name]!.requiresGrad;
    return copy.train(this.training);
  }
}

/** a · f(b) for x = [a, b], and dropout. */
class Gate extends Module {
  readonly glu: InstanceType<typeof GLU>;
  readonly dropout: DropoutClass;

  constructor(activation: Pointwise, dropout: number) {
    super();
    this.glu = new GLU({ activation });
    this.dropout = new Dropout(dropout);
  }

  forward(x: Tensor): Tensor {
    return this.dropout.forward(this.glu.forward(x));
  }
}

/** Throws unless `x` is a batch of sequences, or one of them, of `features` features. */
function checkSequence(where: string, x: Tensor, features: number, batchFirst: boolean): void {
  const rank = x.shape.length;
  if ((rank !== 2 && rank !== 3) || x.shape.at(-1) !== features) {
    const order = batchFirst ? "batch,length" : "length,batch";
    throw new Error(`${where} has shape [${x.shape}], expected [${order},${features}] or [length,${features}]`);
  }
}

// Encoder ---------------------------------------------------------------------------------------

export interface EncoderLayerForwardOptions {
  /** [length, length] or [batch · nhead, length, length]: bool, true where a query may not look, or floats to add to the scores. */
  srcMask?: Tensor | null;
  /** [batch, length]: bool, true where a token is padding, or floats to add. */
  srcKeyPaddingMask?: Tensor | null;
  /** A query sees no later token; unlike in PyTorch no mask need be given. Default false. */
  isCausal?: boolean;
}

/** Self-attention and an MLP. Matches `torch.nn.TransformerEncoderLayer(dModel, nhead, …)`. */
export class TransformerEncoderLayer extends TransformerLayer {
  readonly linear1: LinearClass;
  readonly gate: Gate | null;
  readonly linear2: LinearClass;
  readonly norm1: NormClass;
  readonly norm2: NormClass;
  readonly dropout1: DropoutClass;

  constructor(dModel: number, nhead: number, options: TransformerLayerOptions = {}) {
    super("TransformerEncoderLayer", dModel, nhead, options);
    const { linear1, gate, linear2 } = this.mlp();
    this.linear1 = linear1;
    this.gate = gate;
    this.linear2 = linear2;
    this.norm1 = this.norm();
    this.norm2 = this.norm();
    this.dropout1 = this.drop();
  }

  /** src: [length, batch, dModel], with `batchFirst` [batch, length, dModel], or [length, dModel]. Returns the same shape. */
  forward(
    src: Tensor,
    { srcMask = null, srcKeyPaddingMask = null, isCausal = false }: EncoderLayerForwardOptions = {},
  ): Tensor {
    checkSequence("TransformerEncoderLayer: src", src, this.dModel, this.batchFirst);
    const attend = (x: Tensor): Tensor =>
      this.dropout1.forward(
        this.self_attn.forward(x, x, x, { attnMask: srcMask, keyPaddingMask: srcKeyPaddingMask, isCausal }),
      );
    if (this.normFirst) {
      const { output, sum } = this.norm2.forward(attend(this.norm1.forward(src)), src);
      return add(sum, applyMlp(this, output));
    }
    const x = this.norm1.forward(attend(src), src).output;
    return this.norm2.forward(applyMlp(this, x), x).output;
  }
}

/** A module that stands for an encoder layer. */
export interface EncoderLayerLike extends Module {
  forward(src: Tensor, options?: EncoderLayerForwardOptions): Tensor;
}

/** A module with one input, such as a norm. */
interface Norm extends Module {
  forward(x: Tensor): Tensor;
}

export interface StackOptions<N extends Module = Norm> {
  /** Applied last. Default none. */
  norm?: N | null;
}

export interface TransformerEncoderOptions extends StackOptions {
  /** Nested tensors do not exist here: an error unless false. */
  enableNestedTensor?: false;
}

/** `count` layers: copies of a layer, or what a function makes for each place. */
function stack<L extends Module>(name: string, layer: L | ((index: number) => L), count: number): ModuleList<L> {
  if (!Number.isInteger(count) || count < 1)
    throw new Error(`${name}: numLayers is ${count}, expected a whole number ≥ 1`);
  if (typeof layer === "function") return new ModuleList(Array.from({ length: count }, (_, i) => layer(i)));
  if (isModule(layer) && layer instanceof TransformerLayer)
    return new ModuleList(Array.from({ length: count }, () => layer.clone() as unknown as L));
  throw new Error(
    `${name}: the layer is no Transformer${name.slice(11)}Layer; for another one pass a function that makes it`,
  );
}

export interface EncoderForwardOptions extends Omit<EncoderLayerForwardOptions, "srcMask"> {
  /** As `srcMask` of the layer. */
  mask?: Tensor | null;
}

/** A stack of encoder layers, with values like those of the one given. Matches `torch.nn.TransformerEncoder(encoderLayer, numLayers, …)`. */
export class TransformerEncoder extends Module {
  readonly layers: ModuleList<EncoderLayerLike>;
  readonly norm: Norm | null;

  /** `encoderLayer`: the layer to copy, or a function that makes each layer. */
  constructor(
    encoderLayer: EncoderLayerLike | ((index: number) => EncoderLayerLike),
    numLayers: number,
    { norm = null, enableNestedTensor = false }: TransformerEncoderOptions = {},
  ) {
    super();
    if (enableNestedTensor)
      throw new Error("TransformerEncoder: enableNestedTensor is true, expected false: there are no nested tensors");
    this.layers = stack("TransformerEncoder", encoderLayer, numLayers);
    this.norm = norm;
  }

  forward(
    src: Tensor,
    { mask = null, srcKeyPaddingMask = null, isCausal = false }: EncoderForwardOptions = {},
  ): Tensor {
    let x = src;
    for (const layer of this.layers) x = layer.forward(x, { srcMask: mask, srcKeyPaddingMask, isCausal });
    return this.norm ? this.norm.forward(x) : x;
  }
}

// Decoder ---------------------------------------------------------------------------------------

export interface DecoderForwardOptions {
  /** Masks are as in EncoderLayerForwardOptions; those of the memory are [target length, memory length] and [batch, memory length]. */
  tgtMask?: Tensor | null;
  memoryMask?: Tensor | null;
  tgtKeyPaddingMask?: Tensor | null;
  memoryKeyPaddingMask?: Tensor | null;
  /** Default false. */
  tgtIsCausal?: boolean;
  /** Default false. */
  memoryIsCausal?: boolean;
}

/** Self-attention, attention to the encoder's output, and an MLP. Matches `torch.nn.TransformerDecoderLayer(dModel, nhead, …)`. */
export class TransformerDecoderLayer extends TransformerLayer {
  readonly multihead_attn: AttentionClass;
  readonly linear1: LinearClass;
  readonly gate: Gate | null;
  readonly linear2: LinearClass;
  readonly norm1: NormClass;
  readonly norm2: NormClass;
  readonly norm3: NormClass;
  readonly dropout1: DropoutClass;
  readonly dropout2: DropoutClass;

  constructor(dModel: number, nhead: number, options: TransformerLayerOptions = {}) {
    super("TransformerDecoderLayer", dModel, nhead, options);
    this.multihead_attn = this.attention();
    const { linear1, gate, linear2 } = this.mlp();
    this.linear1 = linear1;
    this.gate = gate;
    this.linear2 = linear2;
    this.norm1 = this.norm();
    this.norm2 = this.norm();
    this.norm3 = this.norm();
    this.dropout1 = this.drop();
    this.dropout2 = this.drop();
  }

  /** tgt as the encoder layer's src; memory: the encoder's output, of the same batch. Returns the shape of tgt. */
  forward(
    tgt: Tensor,
    memory: Tensor,
    {
      tgtMask = null,
      memoryMask = null,
      tgtKeyPaddingMask = null,
      memoryKeyPaddingMask = null,
      tgtIsCausal = false,
      memoryIsCausal = false,
    }: DecoderForwardOptions = {},
  ): Tensor {
    checkSequence("TransformerDecoderLayer: tgt", tgt, this.dModel, this.batchFirst);
    checkSequence("TransformerDecoderLayer: memory", memory, this.dModel, this.batchFirst);
    const own = { attnMask: tgtMask, keyPaddingMask: tgtKeyPaddingMask, isCausal: tgtIsCausal };
    const other = { attnMask: memoryMask, keyPaddingMask: memoryKeyPaddingMask, isCausal: memoryIsCausal };
    const attend = (x: Tensor): Tensor => this.dropout1.forward(this.self_attn.forward(x, x, x, own));
    const cross = (x: Tensor): Tensor => this.dropout2.forward(this.multihead_attn.forward(x, memory, memory, other));
    if (this.normFirst) {
      const first = this.norm2.forward(attend(this.norm1.forward(tgt)), tgt);
      const second = this.norm3.forward(cross(first.output), first.sum);
      return add(second.sum, applyMlp(this, second.output));
    }
    const x = this.norm1.forward(attend(tgt), tgt).output;
    const y = this.norm2.forward(cross(x), x).output;
    return this.norm3.forward(applyMlp(this, y), y).output;
  }
}

/** A module that stands for a decoder layer. */
export interface DecoderLayerLike extends Module {
  forward(tgt: Tensor, memory: Tensor, options?: DecoderForwardOptions): Tensor;
}

/** A stack of decoder layers, with values like those of the one given. Matches `torch.nn.TransformerDecoder(decoderLayer, numLayers, …)`. */
export class TransformerDecoder extends Module {
  readonly layers: ModuleList<DecoderLayerLike>;
  readonly norm: Norm | null;

  /** `decoderLayer`: the layer to copy, or a function that makes each layer. */
  constructor(
    decoderLayer: DecoderLayerLike | ((index: number) => DecoderLayerLike),
    numLayers: number,
    { norm = null }: StackOptions = {},
  ) {
    super();
    this.layers = stack("TransformerDecoder", decoderLayer, numLayers);
    this.norm = norm;
  }

  forward(tgt: Tensor, memory: Tensor, options: DecoderForwardOptions = {}): Tensor {
    let x = tgt;
    for (const layer of this.layers) x = layer.forward(x, memory, options);
    return this.norm ? this.norm.forward(x) : x;
  }
}

// Both ------------------------------------------------------------------------------------------

export interface TransformerOptions extends TransformerLayerOptions {
  /** Default 512. */
  dModel?: number;
  /** Default 8. */
  nhead?: number;
  /** Default 6. */
  numEncoderLayers?: number;
  /** Default 6. */
  numDecoderLayers?: number;
  customEncoder?: (Module & { forward(src: Tensor, options?: EncoderForwardOptions): Tensor }) | null;
  customDecoder?: DecoderLayerLike | null;
}

export interface TransformerForwardOptions extends DecoderForwardOptions {
  srcMask?: Tensor | null;
  srcKeyPaddingMask?: Tensor | null;
  /** Default false. */
  srcIsCausal?: boolean;
}

/** Encoder and decoder. Matches `torch.nn.Transformer`, with all of its arguments in the options. */
export class Transformer extends Module {
  readonly dModel: number;
  readonly nhead: number;
  readonly batchFirst: boolean;
  readonly encoder: NonNullable<TransformerOptions["customEncoder"]>;
  readonly decoder: DecoderLayerLike;

  constructor(options: TransformerOptions = {}) {
    super();
    const {
      dModel = 512,
      nhead = 8,
      numEncoderLayers = 6,
      numDecoderLayers = 6,
      customEncoder = null,
      customDecoder = null,
      ...layer
    } = options;
    const { layerNormEps: eps, bias, batchFirst, device } = settingsOf("Transformer", layer);
    const norm = () => new LayerNorm(dModel, { eps, bias, device });
    this.dModel = dModel;
    this.nhead = nhead;
    this.batchFirst = batchFirst;
    this.encoder =
      customEncoder ??
      new TransformerEncoder(() => new TransformerEncoderLayer(dModel, nhead, layer), numEncoderLayers, {
        norm: norm(),
      });
    this.decoder =
      customDecoder ??
      new TransformerDecoder(() => new TransformerDecoderLayer(dModel, nhead, layer), numDecoderLayers, {
        norm: norm(),
      });
    for (const p of this.parameters()) if (p.shape.length > 1) xavierUniform(p);
  }

  /** src: [S, batch, dModel], tgt: [T, batch, dModel], with `batchFirst` the batch first. Returns the shape of tgt. */
  forward(
    src: Tensor,
    tgt: Tensor,
    { srcMask = null, srcKeyPaddingMask = null, srcIsCausal = false, ...options }: TransformerForwardOptions = {},
  ): Tensor {
    checkSequence("Transformer: src", src, this.dModel, this.batchFirst);
    checkSequence("Transformer: tgt", tgt, this.dModel, this.batchFirst);
    const batchAxis = this.batchFirst ? 0 : 1;
    if (
      src.shape.length !== tgt.shape.length ||
      (src.shape.length === 3 && src.shape[batchAxis] !== tgt.shape[batchAxis])
    )
      throw new Error(`Transformer: src has shape [${src.shape}] and tgt [${tgt.shape}], expected the same batch`);
    const memory = this.encoder.forward(src, { mask: srcMask, srcKeyPaddingMask, isCausal: srcIsCausal });
    return this.decoder.forward(tgt, memory, options);
  }

  /** [size, size]: 0 where a query may look, −Infinity at later tokens. `isCausal` needs no such mask and is faster. */
  static generateSquareSubsequentMask(size: number, { device }: { device?: Device } = {}): Tensor {
    if (!Number.isInteger(size) || size < 1)
      throw new Error(`generateSquareSubsequentMask: size is ${size}, expected a whole number ≥ 1`);
    const values = Float32Array.from({ length: size * size }, (_, i) =>
      i % size > Math.floor(i / size) ? Number.NEGATIVE_INFINITY : 0,
    );
    return tensor(values, { shape: [size, size], device });
  }
}
