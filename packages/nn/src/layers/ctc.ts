/**
 * CTCLoss (Graves et al. 2006): the negative log-likelihood of all alignments of a target with a sequence, as torch.nn has it.
 *
 *   α_t[l] = log(exp α[l] + exp α[l−1] + exp α[l−2], the last where labels differ) + log p_t[label l]
 *
 * over the labels with blanks between them, L = 2S + 1. Like the recurrent layers, the steps run in chunks of 16, 8, 4, 2, 1.
 */
import { type Tensor, tensor } from "@kindling/core";
import { checkFloats, checkIntegers, checkShape, fail, fallback, type Jax, type JaxArray, result } from "./form.ts";
import { checkReduction, FallbackLoss, type LossOptions, type Reduction } from "./losses.ts";
import { chunksOf } from "./recurrent.ts";

/** In place of −∞, which would be NaN in differences. */
const NEVER = -1e30;

interface Emission {
  readonly blank: number;
  /** The longest target. */
  readonly S: number;
  readonly chunks: readonly number[];
}

/**
 * log p of each label at each step, in chunks [steps, N, L]; where a step may skip the blank before a label, [N, L]; and what
 * makes gradients those of PyTorch, which are right for log-probabilities that come from logSoftmax: Σ p.
 */
function emissions(
  { numpy: np, lax }: Jax,
  { logProbs, targets, lengths, inputLengths }: Record<string, JaxArray>,
  { blank, S, chunks }: Emission,
): JaxArray[] {
  const [T, N, C] = logProbs!.shape as [number, number, number];
  const L = 2 * S + 1;
  let own = targets!;
  if (own.ndim === 1) {
    const ends = np.cumsum(lengths!.ref, 0);
    const first = ends.sub(lengths!.ref).reshape([N, 1]);
    const size = own.shape[0]!;
    own = np.take(own, np.clip(first.add(np.arange(S)), 0, size - 1), 0);
  }
  lengths!.dispose();
  const blanks = np.zerosLike(own.ref).add(blank);
  const labels = np.concatenate(
    [np.stack([blanks, own.ref], 2).reshape([N, 2 * S]), np.zeros([N, 1], { dtype: own.dtype }).add(blank)],
    1,
  );
  const same = np.concatenate([np.zeros([N, 1], { dtype: own.dtype }).sub(1), own.ref.slice([], [0, S - 1])], 1);
  const differ = np.where(own.notEqual(same), 1, 0); // [N, S]; the first has none before it
  const none = np.zeros([N, S], { dtype: differ.dtype });
  const skip = np.concatenate(
    [np.stack([none, differ], 2).reshape([N, 2 * S]), np.zeros([N, 1], { dtype: differ.dtype })],
    1,
  );
  const hot = np.where(labels.reshape([N, L, 1]).equal(np.arange(C)), 1, 0).astype("float32" as never);
  const limited = np.maximum(logProbs!.ref, NEVER);
  const all = np.transpose(np.matmul(hot, np.transpose(limited, [1, 2, 0])), [2, 0, 1]);
  const used = np
    .arange(T)
    .reshape([T, 1, 1])
    .less(inputLengths!.reshape([1, N, 1]));
  const mass = np.where(used, np.exp(logProbs!), 0).sum([0, 2]);
  let at = 0;
  const parts =
    chunks.length > 1
      ? np.split(
          all,
          chunks.slice(0, -1).map((n) => (at += n)),
          0,
        )
      : [all];
  return [skip, mass.ref.sub(lax.stopGradient(mass)), ...parts];
}

/** log Σ exp along a new axis. */
function logSum({ numpy: np, lax }: Jax, ...terms: JaxArray[]): JaxArray {
  const all = np.stack(terms);
  const most = np.max(lax.stopGradient(all.ref), 0);
  return np.log(np.exp(all.sub(most.ref)).sum(0)).add(most);
}

/** α after some steps, the first of which has number `start`; a row whose sequence has ended keeps its α. */
function align(jax: Jax, { alpha, emitted, skip, start, inputLengths }: Record<string, JaxArray>): JaxArray {
  const { numpy: np } = jax;
  const [count, N, L] = emitted!.shape as [number, number, number];
  const shifted = (x: JaxArray, by: number): JaxArray =>
    np.concatenate([np.full([N, by], NEVER), x.slice([], [0, L - by])], 1);
  const maySkip = skip!.equal(1);
  let a = alpha!;
  const steps = count > 1 ? np.split(emitted!, count, 0) : [emitted!];
  steps.forEach((step, t) => {
    const twice = L > 2 ? np.where(maySkip.ref, shifted(a.ref, 2), NEVER) : null;
    const once = L > 1 ? [shifted(a.ref, 1)] : [];
    const next = logSum(jax, a.ref, ...once, ...(twice ? [twice] : [])).add(step.reshape([N, L]));
    const running = start!.ref.add(t).less(inputLengths!.ref).reshape([N, 1]);
    a = np.where(running, next, a);
  });
  for (const rest of [maySkip, start!, inputLengths!]) rest.dispose();
  return a;
}

interface Finish {
  readonly reduction: Reduction;
  readonly zeroInfinity: boolean;
}

function finish(
  jax: Jax,
  { alpha, lengths, mass }: Record<string, JaxArray>,
  { reduction, zeroInfinity }: Finish,
): JaxArray {
  const { numpy: np } = jax;
  const [N, L] = alpha!.shape as [number, number];
  const end = lengths!.ref.mul(2).reshape([N, 1]);
  const place = np.arange(L);
  const blank = np.where(place.ref.equal(end.ref), alpha!.ref, 0).sum(1);
  const label = np.where(place.equal(end.ref.sub(1)), alpha!, 0).sum(1);
  const some = end.reshape([N]).greater(0);
  const value = logSum(jax, blank, np.where(some, label, NEVER)).mul(-1);
  const possible = value.ref.less(-NEVER / 2);
  const loss = np.where(possible, value.add(mass!), zeroInfinity ? 0 : Number.POSITIVE_INFINITY);
  if (reduction !== "mean") {
    lengths!.dispose();
    return reduction === "sum" ? loss.sum() : result(loss);
  }
  return loss.div(np.maximum(lengths!, 1).astype("float32" as never)).mean();
}

export interface CTCOptions extends LossOptions {
  /** The class that stands for no label. Default 0. */
  blank?: number;
  /** Zero in place of an infinite loss, that of a target for which the sequence is too short. Default false. */
  zeroInfinity?: boolean;
}

/** Lengths: on the CPU, which are checked, or i32. */
type Lengths = Tensor | number | readonly number[];

/**
 * logProbs [T, N, C] or [T, C]; targets [N, S] or the targets behind one another, [Σ S], i32; the lengths of both, one for each
 * of N. "mean" divides each loss by the length of its target. An infinite loss has no gradient, where PyTorch's is NaN. Matches
 * torch.nn.functional.ctc_loss.
 */
export function ctcLoss(
  logProbs: Tensor,
  targets: Tensor,
  inputLengths: Lengths,
  targetLengths: Lengths,
  { blank = 0, reduction = "mean", zeroInfinity = false }: CTCOptions = {},
): Tensor {
  const where = "ctcLoss";
  checkReduction(where, reduction);
  checkFloats(where, { logProbs });
  checkIntegers(where, { targets });
  if (logProbs.shape.length !== 2 && logProbs.shape.length !== 3)
    fail(where, `logProbs has shape [${logProbs.shape}], expected [T, N, C] or [T, C]`);
  const single = logProbs.shape.length === 2;
  const [T, N, C] = (single ? [logProbs.shape[0], 1, logProbs.shape[1]] : logProbs.shape) as [number, number, number];
  if (!Number.isInteger(blank) || blank < 0 || blank >= C)
    fail(where, `blank is ${blank}, expected a class from 0 to ${C - 1}`);
  if (targets.shape.length !== 1 && (targets.shape.length !== 2 || targets.shape[0] !== N))
    fail(where, `targets has shape [${targets.shape}], expected [${N}, S] or the targets behind one another`);
  const rows = targets.shape.length === 2;
  const most = rows ? targets.shape[1]! : targets.shape[0]!;
  const steps = lengthsOf(where, "inputLengths", inputLengths, { N, most: T, like: logProbs });
  const labels = lengthsOf(where, "targetLengths", targetLengths, { N, most, like: logProbs });
  if (!rows && !labels.values && N > 1)
    fail(where, "targetLengths is a tensor, expected numbers for targets behind one another");
  if (!rows && labels.values && labels.values.reduce((a, b) => a + b, 0) > most)
    fail(where, `targetLengths is [${labels.values}], more than the ${most} targets`);
  const S = rows || !labels.values ? most : Math.max(1, ...labels.values);
  const chunks = chunksOf(T);
  const options = { name: where, dtype: "f32" } as const;
  const lengths = labels.tensor;
  const tensors = { logProbs: logProbs.reshape([T, N, C]), targets, lengths, inputLengths: steps.tensor };
  const [skip, mass, ...emitted] = fallback(emissions, tensors, { blank, S, chunks }, options);
  const { device } = logProbs;
  const first = Float32Array.from({ length: N * (2 * S + 1) }, (_, i) => (i % (2 * S + 1) === 0 ? 0 : NEVER));
  let alpha = tensor(first, { shape: [N, 2 * S + 1], device });
  let at = 0;
  emitted.forEach((part, i) => {
    const start = tensor(Int32Array.of(at), { device });
    alpha = fallback(align, { alpha, emitted: part, skip, start, inputLengths: steps.tensor }, {}, options);
    at += chunks[i]!;
  });
  const loss = fallback(finish, { alpha, lengths, mass }, { reduction, zeroInfinity }, options);
  return single && reduction === "none" ? loss.reshape([]) : loss;
}

function lengthsOf(
  where: string,
  name: string,
  lengths: Lengths,
  { N, most, like }: { N: number; most: number; like: Tensor },
): { tensor: Tensor; values: readonly number[] | null } {
  if (typeof lengths === "object" && "dtype" in lengths) {
    if (lengths.dtype !== "i32") fail(where, `${name} is ${lengths.dtype}, expected i32`);
    const flat = lengths.shape.length === 0 ? lengths.reshape([1]) : lengths;
    checkShape(where, name, flat, [N]);
    return { tensor: flat, values: null };
  }
  const values = typeof lengths === "number" ? [lengths] : lengths;
  if (values.length !== N || values.some((n) => !Number.isInteger(n) || n < 0 || n > most))
    fail(where, `${name} is [${values}], expected ${N} whole numbers from 0 to ${most}`);
  return { tensor: tensor(Int32Array.from(values), { device: like.device }), values };
}

/** `ctcLoss` as a module. Matches `torch.nn.CTCLoss(…)`. */
export class CTCLoss extends FallbackLoss<CTCOptions> {
  forward(logProbs: Tensor, targets: Tensor, inputLengths: Lengths, targetLengths: Lengths): Tensor {
    return ctcLoss(logProbs, targets, inputLengths, targetLengths, this.options);
  }
}
