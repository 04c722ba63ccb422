/**
 * RNN, LSTM, GRU and their cells, as torch.nn has them. For each time step, with x′ = W_ih x + b_ih (and b_hh but for GRU):
 *
 *   RNN    h  = tanh(x′ + W_hh h)                                                      or relu
 *   LSTM   i, f, g, o = x′ + W_hh h      c = σ(f)·c + σ(i)·tanh(g)      h = σ(o)·tanh(c), or W_hr of that
 *   GRU    r, z, n = x′, W_hh h + b_hh   h = (1 − σ(z))·tanh(n_x + σ(r)·n_h) + σ(z)·h
 *
 * x′ of all steps is one matrix product. The steps run in chunks of 16 and, for the rest, of 8, 4, 2 and 1: each chunk is one
 * form, so that no length needs more than five of them compiled, and the tape holds the chunks.
 */
import { type Device, empty, parameter, type Tensor, uniform, zeros } from "@kindling/core";
import { dropout as drop } from "@kindling/dropout";
import { FallbackModule } from "../backend.ts";
import {
  checkFloats,
  checkOneOf,
  checkProbability,
  checkSame,
  checkShape,
  fail,
  fallback,
  type Jax,
  type JaxArray,
  lowered,
  result,
  sigmoid,
  whole,
} from "./form.ts";

type Kind = "RNN" | "LSTM" | "GRU";
export type Nonlinearity = "tanh" | "relu";

const GATES: Record<Kind, number> = { RNN: 1, LSTM: 4, GRU: 3 };

// Forms -----------------------------------------------------------------------------------------

interface Step {
  readonly kind: Kind;
  readonly nonlinearity: Nonlinearity;
}

/** [rows, in] · weight [out, in], and bias. */
function affine(jax: Jax, x: JaxArray, weight: JaxArray, bias?: JaxArray): JaxArray {
  const y = jax.numpy.matmul(x, jax.numpy.transpose(weight));
  return bias ? y.add(bias) : y;
}

/** h and c of the next step. `gates` is x′, [N, gates · hidden]; the weights stay the caller's. */
function advance(
  { numpy: np }: Jax,
  gates: JaxArray,
  [h, c]: [JaxArray, JaxArray | null],
  { hh, b, hr }: { hh: JaxArray; b: JaxArray | undefined; hr: JaxArray | undefined },
  { kind, nonlinearity }: Step,
): [JaxArray, JaxArray | null] {
  if (kind === "RNN") {
    const sum = gates.add(np.matmul(h, hh.ref));
    return [nonlinearity === "tanh" ? np.tanh(sum) : np.where(sum.ref.greater(0), sum, 0), null];
  }
  if (kind === "LSTM") {
    const [i, f, g, o] = np.split(gates.add(np.matmul(h, hh.ref)), 4, 1) as [JaxArray, JaxArray, JaxArray, JaxArray];
    const cell = sigmoid(np, f)
      .mul(c!)
      .add(sigmoid(np, i).mul(np.tanh(g)));
    const y = sigmoid(np, o).mul(np.tanh(cell.ref));
    return [hr ? np.matmul(y, hr.ref) : y, cell];
  }
  const [xr, xz, xn] = np.split(gates, 3, 1) as [JaxArray, JaxArray, JaxArray];
  const product = np.matmul(h.ref, hh.ref);
  const [hr_, hz, hn] = np.split(b ? product.add(b.ref) : product, 3, 1) as [JaxArray, JaxArray, JaxArray];
  const n = np.tanh(xn.add(sigmoid(np, xr.add(hr_)).mul(hn)));
  const z = sigmoid(np, xz.add(hz));
  return [n.ref.add(z.mul(h.sub(n))), null];
}

/** Some steps: x′ [steps, N, gates · hidden] → the h of each, and the last h and c. */
function steps(jax: Jax, { x, hh, b, hr, h: first, c: cell }: Record<string, JaxArray>, step: Step): JaxArray[] {
  const { numpy: np } = jax;
  const [count, N, width] = x!.shape as [number, number, number];
  const weights = { hh: np.transpose(hh!), b, hr: hr && np.transpose(hr) };
  let state: [JaxArray, JaxArray | null] = [first!, cell ?? null];
  const ys: JaxArray[] = [];
  for (const gates of count > 1 ? np.split(x!, count, 0) : [x!]) {
    state = advance(jax, gates.reshape([N, width]), state, weights, step);
    ys.push(state[0].ref);
  }
  for (const weight of Object.values(weights)) weight?.dispose();
  return [np.stack(ys), ...state.filter((s) => s !== null).map(result)];
}

interface Sequence {
  readonly batchFirst: boolean;
  readonly reverse: boolean;
  readonly chunks: readonly number[];
}

/** x′ of a whole sequence, in the chunks in which it will be read. */
function project(
  jax: Jax,
  { x, weight, bias, bias2 }: Record<string, JaxArray>,
  { batchFirst, reverse, chunks }: Sequence,
): JaxArray[] {
  const { numpy: np } = jax;
  const seen = batchFirst ? np.swapaxes(x!, 0, 1) : x!;
  const [L, N, I] = seen.shape as [number, number, number];
  const width = weight!.shape[0]!;
  const both = bias && bias2 ? bias.add(bias2) : bias;
  const all = affine(jax, seen.reshape([L * N, I]), weight!, both).reshape([L, N, width]);
  const ordered = reverse ? np.flip(all, 0) : all;
  if (chunks.length === 1) return [ordered];
  let at = 0;
  return np.split(
    ordered,
    chunks.slice(0, -1).map((count) => (at += count)),
    0,
  );
}

/** The chunks of one or both directions as one sequence, features of the second behind those of the first. */
function join(
  { numpy: np }: Jax,
  x: Record<string, JaxArray>,
  { batchFirst, directions, count }: { batchFirst: boolean; directions: number; count: number },
): JaxArray {
  const chunks = Object.values(x);
  const sequences = Array.from({ length: directions }, (_, d) => {
    const own = chunks.slice(d * count, (d + 1) * count);
    const whole = own.length > 1 ? np.concatenate(own, 0) : own[0]!;
    return d === 1 ? np.flip(whole, 0) : whole;
  });
  const y = directions > 1 ? np.concatenate(sequences, 2) : sequences[0]!;
  return batchFirst ? np.swapaxes(y, 0, 1) : y;
}

const stack = ({ numpy: np }: Jax, x: Record<string, JaxArray>): JaxArray => np.stack(Object.values(x));

const unstack = ({ numpy: np }: Jax, { x }: Record<string, JaxArray>): JaxArray[] => {
  const [count, ...shape] = x!.shape as [number, ...number[]];
  return np.split(x!, count, 0).map((part) => part.reshape(shape));
};

/** One step of a cell. */
function cellStep(jax: Jax, { x, weight, bias, bias2, hh, b, h, c }: Record<string, JaxArray>, step: Step): JaxArray[] {
  const gates = affine(jax, x!, weight!, bias && bias2 ? bias.add(bias2) : bias);
  const transposed = jax.numpy.transpose(hh!);
  const [next, cell] = advance(jax, gates, [h!, c ?? null], { hh: transposed, b, hr: undefined }, step);
  transposed.dispose();
  b?.dispose();
  return cell ? [result(next), result(cell)] : [result(next)];
}

const numbered = (tensors: readonly Tensor[]): Record<string, Tensor> =>
  Object.fromEntries(tensors.map((x, i) => [`x${i}`, x]));

/** @internal 16 + … + 16 + 8 + 4 + 2 + 1, without those that there are not. */
export function chunksOf(length: number): number[] {
  const chunks: number[] = [];
  for (let size = 16, left = length; left > 0; size = Math.max(1, size / 2)) {
    for (; left >= size; left -= size) chunks.push(size);
  }
  return chunks;
}

// Sequences -------------------------------------------------------------------------------------

export interface RecurrentOptions {
  /** Each reads what the one before it gives. Default 1. */
  numLayers?: number;
  /** Learn biases. Default true. */
  bias?: boolean;
  /** x and output are [N, L, …] and not [L, N, …]. Default false. */
  batchFirst?: boolean;
  /** Probability with which outputs of all layers but the last are dropped while training. Default 0. */
  dropout?: number;
  /** Another direction reads from the end; its outputs stand behind those of the first. Default false. */
  bidirectional?: boolean;
  device?: Device;
}

/** What an LSTM remembers. */
export interface LSTMState {
  /** [numLayers · directions, N, projSize or hiddenSize], without N for an input without batch. */
  h: Tensor;
  /** [numLayers · directions, N, hiddenSize] */
  c: Tensor;
}

/** What RNN, LSTM and GRU share; torch.nn's class of this name. Its parameters are weight_ih_l0, weight_hh_l0, bias_ih_l0, … */
export abstract class RNNBase extends FallbackModule {
  readonly kind: Kind;
  readonly inputSize: number;
  readonly hiddenSize: number;
  readonly projSize: number;
  readonly numLayers: number;
  readonly bias: boolean;
  readonly batchFirst: boolean;
  readonly dropout: number;
  readonly bidirectional: boolean;
  protected readonly nonlinearity: Nonlinearity;

  constructor(
    kind: Kind,
    inputSize: number,
    hiddenSize: number,
    options: RecurrentOptions & { projSize?: number; nonlinearity?: Nonlinearity },
  ) {
    super();
    const { numLayers = 1, bias = true, batchFirst = false, dropout = 0, bidirectional = false, device } = options;
    const { projSize = 0, nonlinearity = "tanh" } = options;
    this.kind = kind;
    this.inputSize = whole(`${kind}: inputSize`, inputSize, 1);
    this.hiddenSize = whole(`${kind}: hiddenSize`, hiddenSize, 1);
    this.projSize = whole(`${kind}: projSize`, projSize, 0);
    if (projSize >= hiddenSize) fail(kind, `projSize is ${projSize}, expected less than hiddenSize ${hiddenSize}`);
    this.numLayers = whole(`${kind}: numLayers`, numLayers, 1);
    this.bias = bias;
    this.batchFirst = batchFirst;
    this.dropout = checkProbability(`${kind}: dropout`, dropout);
    this.bidirectional = bidirectional;
    checkOneOf(`${kind}: nonlinearity`, nonlinearity, ["tanh", "relu"]);
    this.nonlinearity = nonlinearity;
    // PyTorch's initialisation of all of them.
    const bound = 1 / Math.sqrt(hiddenSize);
    const own = this as unknown as Record<string, Tensor>;
    const outputs = projSize || hiddenSize;
    const gates = GATES[kind] * hiddenSize;
    for (let layer = 0; layer < numLayers; layer++) {
      for (const suffix of this.#suffixes(layer)) {
        const inputs = layer === 0 ? inputSize : outputs * this.#directions;
        const shapes: [string, number[]][] = [
          ["weight_ih", [gates, inputs]],
          ["weight_hh", [gates, outputs]],
        ];
        if (bias) shapes.push(["bias_ih", [gates]], ["bias_hh", [gates]]);
        if (projSize > 0) shapes.push(["weight_hr", [projSize, hiddenSize]]);
        for (const [name, shape] of shapes)
          own[name + suffix] = parameter(uniform(empty(shape, { device }), -bound, bound));
      }
    }
  }

  get #directions(): number {
    return this.bidirectional ? 2 : 1;
  }

  #suffixes(layer: number): string[] {
    return this.bidirectional ? [`_l${layer}`, `_l${layer}_reverse`] : [`_l${layer}`];
  }

  /** The output of every step, and the last h and c of every layer and direction. */
  protected run(x: Tensor, initial: readonly (Tensor | null)[]): { output: Tensor; states: Tensor[] } {
    const { kind } = this;
    checkFloats(kind, { x });
    const layout = this.batchFirst ? "N, L" : "L, N";
    if ((x.shape.length !== 2 && x.shape.length !== 3) || x.shape.at(-1) !== this.inputSize)
      fail(kind, `x has shape [${x.shape}], expected [${layout}, ${this.inputSize}] or [L, ${this.inputSize}]`);
    const single = x.shape.length === 2;
    const batchFirst = this.batchFirst && !single;
    const full = single ? x.reshape([x.shape[0]!, 1, this.inputSize]) : x;
    const [L, N] = (batchFirst ? [full.shape[1], full.shape[0]] : full.shape) as [number, number];
    const states = this.#initial(x, initial, single ? null : N, lowered(x));
    const lasts: Tensor[][] = states.map(() => []);
    const chunks = chunksOf(L);
    let y = full;
    for (let layer = 0; layer < this.numLayers; layer++) {
      const ys: Tensor[] = [];
      this.#suffixes(layer).forEach((suffix, d) => {
        const sequence = { batchFirst: batchFirst && layer === 0, reverse: d === 1, chunks };
        const own = states.map((parts) => parts[layer * this.#directions + d]!);
        const last = this.#direction(y, suffix, sequence, own, ys);
        last.forEach((state, i) => {
          lasts[i]!.push(state);
        });
      });
      const settings = {
        batchFirst: batchFirst && layer === this.numLayers - 1,
        directions: this.#directions,
        count: chunks.length,
      };
      y = fallback(join, numbered(ys), settings, { name: kind });
      if (layer < this.numLayers - 1) y = drop(y, this.dropout, this);
    }
    const stacked = lasts.map((parts) => fallback(stack, numbered(parts), {}, { name: kind }));
    return {
      output: single ? y.reshape([L, y.shape.at(-1)!]) : y,
      states: stacked.map((s) => (single ? s.reshape([s.shape[0]!, s.shape[2]!]) : s)),
    };
  }

  /** The first h, and c, of every layer and direction. */
  #initial(x: Tensor, given: readonly (Tensor | null)[], N: number | null, dtype: "f32" | "f16"): Tensor[][] {
    const count = this.numLayers * this.#directions;
    const sizes = [this.projSize || this.hiddenSize, this.hiddenSize];
    return given.map((state, i) => {
      const size = sizes[i]!;
      if (!state) return Array<Tensor>(count).fill(zeros([N ?? 1, size], { dtype, device: x.device }));
      const name = i === 0 ? "h" : "c";
      checkFloats(this.kind, { [name]: state });
      checkShape(this.kind, name, state, N === null ? [count, size] : [count, N, size]);
      return fallback(unstack, { x: state.reshape([count, N ?? 1, size]) }, {}, { name: this.kind });
    });
  }

  /** Adds the outputs of one direction to `ys`, in the order in which it reads; returns the last h and c. */
  #direction(x: Tensor, suffix: string, sequence: Sequence, initial: readonly Tensor[], ys: Tensor[]): Tensor[] {
    const { kind, nonlinearity } = this;
    const own = this as unknown as Record<string, Tensor | undefined>;
    const [weight, hh, hr] = ["weight_ih", "weight_hh", "weight_hr"].map((name) => own[name + suffix]);
    const [bias, bias2] = ["bias_ih", "bias_hh"].map((name) => own[name + suffix]);
    checkSame(kind, { x, [`weight_ih${suffix}`]: weight });
    const options = { name: kind, dtype: lowered(x) };
    // A GRU multiplies W_hh h + b_hh by its reset gate: b_hh cannot be added before.
    const early = kind === "GRU" ? null : bias2;
    const parts = fallback(project, { x, weight, bias, bias2: early }, sequence, options);
    let state = initial;
    for (const part of [parts].flat()) {
      const [h, c] = state;
      const tensors = { x: part, hh, b: kind === "GRU" ? bias2 : null, hr, h, c };
      const [y, ...next] = fallback(steps, tensors, { kind, nonlinearity }, options);
      ys.push(y!);
      state = next;
    }
    return [...state];
  }

  protected override settings(): string {
    const { inputSize, hiddenSize, projSize, numLayers, bias, batchFirst, dropout, bidirectional } = this;
    const changed = [
      [`projSize=${projSize}`, projSize !== 0],
      [`numLayers=${numLayers}`, numLayers !== 1],
      [`nonlinearity=${this.nonlinearity}`, this.nonlinearity !== "tanh"],
      [`bias=${bias}`, !bias],
      [`batchFirst=${batchFirst}`, batchFirst],
      [`dropout=${dropout}`, dropout !== 0],
      [`bidirectional=${bidirectional}`, bidirectional],
    ] as const;
    return [`${inputSize}, ${hiddenSize}`, ...changed.filter(([, show]) => show).map(([text]) => text)].join(", ");
  }
}

export interface RNNOptions extends RecurrentOptions {
  /** Default "tanh". */
  nonlinearity?: Nonlinearity;
}

/**
 * An Elman network over a sequence. Matches `torch.nn.RNN(inputSize, hiddenSize, …)`; there are no packed sequences.
 *
 *   const { output, h } = rnn.forward(x, h0);      x [L, N, in], [N, L, in] with batchFirst, or [L, in]
 */
export class RNN extends RNNBase {
  constructor(inputSize: number, hiddenSize: number, options: RNNOptions = {}) {
    super("RNN", inputSize, hiddenSize, options);
  }

  /** `h`: the first state, [numLayers · directions, N, hiddenSize], without N for an x without batch. Default: zeros. */
  forward(x: Tensor, h: Tensor | null = null): { output: Tensor; h: Tensor } {
    const { output, states } = this.run(x, [h]);
    return { output, h: states[0]! };
  }
}

/**
 * A gated recurrent unit over a sequence. Matches `torch.nn.GRU(inputSize, hiddenSize, …)`; there are no packed sequences.
 *
 *   const { output, h } = gru.forward(x, h0);      x [L, N, in], [N, L, in] with batchFirst, or [L, in]
 */
export class GRU extends RNNBase {
  constructor(inputSize: number, hiddenSize: number, options: RecurrentOptions = {}) {
    super("GRU", inputSize, hiddenSize, options);
  }

  /** `h`: the first state, [numLayers · directions, N, hiddenSize], without N for an x without batch. Default: zeros. */
  forward(x: Tensor, h: Tensor | null = null): { output: Tensor; h: Tensor } {
    const { output, states } = this.run(x, [h]);
    return { output, h: states[0]! };
  }
}

export interface LSTMOptions extends RecurrentOptions {
  /** Size to which h is projected, less than hiddenSize; 0 for none. Default 0. */
  projSize?: number;
}

/**
 * Long short-term memory over a sequence. Matches `torch.nn.LSTM(inputSize, hiddenSize, …)`; there are no packed sequences.
 *
 *   const { output, h, c } = lstm.forward(x);      x [L, N, in], [N, L, in] with batchFirst, or [L, in]
 *   lstm.forward(next, { h, c });
 */
export class LSTM extends RNNBase {
  constructor(inputSize: number, hiddenSize: number, options: LSTMOptions = {}) {
    super("LSTM", inputSize, hiddenSize, options);
  }

  /** `state`: the first h and c. Default: zeros. */
  forward(x: Tensor, state: LSTMState | null = null): { output: Tensor } & LSTMState {
    const { output, states } = this.run(x, [state?.h ?? null, state?.c ?? null]);
    return { output, h: states[0]!, c: states[1]! };
  }
}

// Cells -----------------------------------------------------------------------------------------

export interface CellOptions {
  /** Learn biases. Default true. */
  bias?: boolean;
  device?: Device;
}

/** What RNNCell, LSTMCell and GRUCell share; torch.nn's class of this name. */
export abstract class RNNCellBase extends FallbackModule {
  readonly kind: Kind;
  readonly inputSize: number;
  readonly hiddenSize: number;
  protected readonly nonlinearity: Nonlinearity;
  readonly weight_ih: Tensor;
  readonly weight_hh: Tensor;
  readonly bias_ih: Tensor | null;
  readonly bias_hh: Tensor | null;

  constructor(
    kind: Kind,
    inputSize: number,
    hiddenSize: number,
    { bias = true, device, nonlinearity = "tanh" }: CellOptions & { nonlinearity?: Nonlinearity },
  ) {
    super();
    const where = `${kind}Cell`;
    this.kind = kind;
    this.inputSize = whole(`${where}: inputSize`, inputSize, 1);
    this.hiddenSize = whole(`${where}: hiddenSize`, hiddenSize, 1);
    checkOneOf(`${where}: nonlinearity`, nonlinearity, ["tanh", "relu"]);
    this.nonlinearity = nonlinearity;
    const bound = 1 / Math.sqrt(hiddenSize);
    const gates = GATES[kind] * hiddenSize;
    const initial = (...shape: number[]): Tensor => parameter(uniform(empty(shape, { device }), -bound, bound));
    this.weight_ih = initial(gates, inputSize);
    this.weight_hh = initial(gates, hiddenSize);
    this.bias_ih = bias ? initial(gates) : null;
    this.bias_hh = bias ? initial(gates) : null;
  }

  protected step(x: Tensor, given: readonly (Tensor | null)[]): Tensor[] {
    const { kind, nonlinearity, inputSize, hiddenSize } = this;
    const where = `${kind}Cell`;
    checkSame(where, { x, weight_ih: this.weight_ih });
    if ((x.shape.length !== 1 && x.shape.length !== 2) || x.shape.at(-1) !== inputSize)
      fail(where, `x has shape [${x.shape}], expected [N, ${inputSize}] or [${inputSize}]`);
    const single = x.shape.length === 1;
    const N = single ? 1 : x.shape[0]!;
    const dtype = lowered(x);
    const [h, c] = given.map((state, i) => {
      if (!state) return zeros([N, hiddenSize], { dtype, device: x.device });
      const name = i === 0 ? "h" : "c";
      checkFloats(where, { [name]: state });
      checkShape(where, name, state, single ? [hiddenSize] : [N, hiddenSize]);
      return state.reshape([N, hiddenSize]);
    });
    const late = kind === "GRU";
    const tensors = {
      x: x.reshape([N, inputSize]),
      ...{ weight: this.weight_ih, bias: this.bias_ih, bias2: late ? null : this.bias_hh },
      ...{ hh: this.weight_hh, b: late ? this.bias_hh : null, h, c },
    };
    const states = [fallback(cellStep, tensors, { kind, nonlinearity }, { name: where, dtype })].flat();
    return states.map((state) => (single ? state.reshape([hiddenSize]) : state));
  }

  protected override settings(): string {
    const bias = this.bias_ih ? "" : ", bias=false";
    const nonlinearity = this.nonlinearity === "tanh" ? "" : `, nonlinearity=${this.nonlinearity}`;
    return `${this.inputSize}, ${this.hiddenSize}${bias}${nonlinearity}`;
  }
}

export interface RNNCellOptions extends CellOptions {
  /** Default "tanh". */
  nonlinearity?: Nonlinearity;
}

/** One step of an Elman network: x [N, in] or [in]. Matches `torch.nn.RNNCell(inputSize, hiddenSize, …)`. */
export class RNNCell extends RNNCellBase {
  constructor(inputSize: number, hiddenSize: number, options: RNNCellOptions = {}) {
    super("RNN", inputSize, hiddenSize, options);
  }

  /** The next h, from `h` [N, hiddenSize] or [hiddenSize]. Default: zeros. */
  forward(x: Tensor, h: Tensor | null = null): Tensor {
    return this.step(x, [h])[0]!;
  }
}

/** One step of a gated recurrent unit: x [N, in] or [in]. Matches `torch.nn.GRUCell(inputSize, hiddenSize, …)`. */
export class GRUCell extends RNNCellBase {
  constructor(inputSize: number, hiddenSize: number, options: CellOptions = {}) {
    super("GRU", inputSize, hiddenSize, options);
  }

  /** The next h, from `h` [N, hiddenSize] or [hiddenSize]. Default: zeros. */
  forward(x: Tensor, h: Tensor | null = null): Tensor {
    return this.step(x, [h])[0]!;
  }
}

/** One step of a long short-term memory: x [N, in] or [in]. Matches `torch.nn.LSTMCell(inputSize, hiddenSize, …)`. */
export class LSTMCell extends RNNCellBase {
  constructor(inputSize: number, hiddenSize: number, options: CellOptions = {}) {
    super("LSTM", inputSize, hiddenSize, options);
  }

  /** The next h and c, from `state`, each [N, hiddenSize] or [hiddenSize]. Default: zeros. */
  forward(x: Tensor, state: LSTMState | null = null): LSTMState {
    const [h, c] = this.step(x, [state?.h ?? null, state?.c ?? null]);
    return { h: h!, c: c! };
  }
}
