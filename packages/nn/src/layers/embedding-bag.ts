/** EmbeddingBag, as torch.nn has it: rows of a table, which our kernel looks up, and the sum, mean or maximum of each bag. */
import { type Device, parameter, type Tensor, tensor } from "@kindling/core";
import { Embedding, type EmbeddingOptions, embedding } from "@kindling/embedding";
import { FallbackModule } from "../backend.ts";
import {
  checkFloats,
  checkIntegers,
  checkOneOf,
  checkShape,
  fail,
  fallback,
  greatest,
  type Jax,
  type JaxArray,
  shown,
} from "./form.ts";

export type BagMode = "sum" | "mean" | "max";

interface Bags {
  readonly mode: BagMode;
  /** An id that does not count, or −1. */
  readonly padding: number;
}

/** rows [n, dim] and ids [n], of which bag b has those from `starts[b]` to before `starts[b + 1]`. */
function reduceBags(
  jax: Jax,
  { rows, ids, starts, weights }: Record<string, JaxArray>,
  { mode, padding }: Bags,
): JaxArray {
  const { numpy: np } = jax;
  const [n, dim] = rows!.shape as [number, number];
  const bags = starts!.shape[0]! - 1;
  const at = np.arange(n);
  const begun = at.ref.greaterEqual(starts!.ref.slice([0, bags]).reshape([bags, 1]));
  const open = at.less(starts!.slice([1, bags + 1]).reshape([bags, 1]));
  const counted = ids!.notEqual(padding);
  const member = np.logicalAnd(np.logicalAnd(begun, open), counted); // [bags, n]
  if (mode === "max") {
    const each = np.where(member.ref.reshape([bags, 1, n]), np.transpose(rows!), Number.NEGATIVE_INFINITY);
    const { value, chosen } = greatest(jax, each);
    chosen.dispose();
    const some = np.any(member, 1, { keepdims: true });
    return np.where(np.broadcastTo(some, [bags, dim]), value, 0);
  }
  const share = np.where(member.ref, weights ?? 1, 0);
  if (mode === "sum") {
    member.dispose();
    return np.matmul(share, rows!);
  }
  const count = np.maximum(np.where(member, 1, 0).sum(1), 1).astype("float32" as never);
  return np.matmul(share, rows!).div(count.reshape([bags, 1]));
}

export interface EmbeddingBagOptions extends EmbeddingOptions {
  /** Default "mean". */
  mode?: BagMode;
  /** For ids [n]: where each bag begins, i32 [bags]. */
  offsets?: Tensor | readonly number[] | null;
  /** Of ids's shape, for mode "sum": what rows are multiplied by. */
  perSampleWeights?: Tensor | null;
  /** Whether the last offset is where the last bag ends. Default false. */
  includeLastOffset?: boolean;
}

/**
 * The sum, mean or maximum of the rows of `weight` [num, dim] that `ids` name (i32 or u32), in bags: ids [bags, L], or [n] with
 * `offsets` → [bags, dim]. Ids that are paddingIdx do not count, and an empty bag gives 0. Matches
 * torch.nn.functional.embedding_bag.
 */
export function embeddingBag(ids: Tensor, weight: Tensor, options: EmbeddingBagOptions = {}): Tensor {
  const where = "embeddingBag";
  const { mode = "mean", offsets = null, perSampleWeights = null, includeLastOffset = false, ...lookup } = options;
  checkIntegers(where, { ids });
  checkOneOf(`${where}: mode`, mode, ["sum", "mean", "max"]);
  if (ids.shape.length !== 1 && ids.shape.length !== 2)
    fail(where, `ids has shape [${ids.shape}], expected [bags, L] or [n]`);
  if (ids.shape.length === 2 && offsets) fail(where, `ids has shape [${ids.shape}], expected [n] for offsets`);
  if (ids.shape.length === 1 && !offsets)
    fail(where, `ids has shape [${ids.shape}], expected [bags, L] without offsets`);
  if (mode === "max" && lookup.scaleGradByFreq) fail(where, 'scaleGradByFreq is true, which mode "max" does not have');
  if (perSampleWeights) {
    if (mode !== "sum") fail(where, `perSampleWeights is for mode "sum", got "${mode}"`);
    checkFloats(where, { perSampleWeights });
    checkShape(where, "perSampleWeights", perSampleWeights, ids.shape);
  }
  const flat = ids.reshape([ids.size]);
  const rows = embedding(flat, weight, lookup);
  const starts = startsOf(where, ids, offsets, includeLastOffset);
  const weights = perSampleWeights?.reshape([ids.size]);
  const { paddingIdx } = lookup;
  const padding = paddingIdx == null ? -1 : paddingIdx < 0 ? paddingIdx + weight.shape[0]! : paddingIdx;
  return fallback(reduceBags, { rows, ids: flat, starts, weights }, { mode, padding }, { name: where });
}

/** Where bags begin and, at last, where the last one ends. */
function startsOf(
  where: string,
  ids: Tensor,
  offsets: EmbeddingBagOptions["offsets"],
  includeLastOffset: boolean,
): Tensor {
  const { device } = ids;
  if (!offsets) {
    const [bags, length] = ids.shape as [number, number];
    return tensor(
      Int32Array.from({ length: bags + 1 }, (_, b) => b * length),
      { device },
    );
  }
  if (!("dtype" in offsets)) {
    const ends = includeLastOffset ? [...offsets] : [...offsets, ids.size];
    if (
      ends.length < 2 ||
      ends[0] !== 0 ||
      ends.some((end, b) => b > 0 && end < ends[b - 1]!) ||
      ends.at(-1)! > ids.size
    )
      fail(where, `offsets is [${offsets}], expected rising numbers from 0 to at most ${ids.size}`);
    return tensor(Int32Array.from(ends), { device });
  }
  checkIntegers(where, { offsets });
  if (offsets.shape.length !== 1) fail(where, `offsets has shape [${offsets.shape}], expected [bags]`);
  if (includeLastOffset) return offsets;
  return fallback(closed, { offsets }, { end: ids.size }, { name: where });
}

const closed = ({ numpy: np }: Jax, { offsets }: Record<string, JaxArray>, { end }: { end: number }): JaxArray =>
  np.concatenate([offsets!, np.array(Int32Array.of(end)).astype(offsets!.dtype)], 0);

export interface EmbeddingBagModuleOptions extends Omit<EmbeddingBagOptions, "offsets" | "perSampleWeights"> {
  /** A table in place of a random one. */
  weight?: Tensor;
  device?: Device;
}

/**
 * `embeddingBag` with a learned table [num, dim], which starts normal, its padding row zero. Matches
 * `torch.nn.EmbeddingBag(num, dim, …)`; gradients are never sparse.
 */
export class EmbeddingBag extends FallbackModule {
  readonly options: EmbeddingBagOptions;
  readonly weight: Tensor;

  constructor(num: number, dim: number, { weight, device, ...options }: EmbeddingBagModuleOptions = {}) {
    super();
    const { mode = "mean", paddingIdx = null } = options;
    checkOneOf("EmbeddingBag: mode", mode, ["sum", "mean", "max"]);
    this.options = { ...options, mode };
    this.weight = parameter(
      new Embedding(num, dim, { paddingIdx, ...(weight && { weight }), ...(device && { device }) }).weight,
    );
  }

  /** A module around an existing table, which does not learn unless `freeze` is false. */
  static fromPretrained(
    weight: Tensor,
    { freeze = true, ...options }: Omit<EmbeddingBagModuleOptions, "weight" | "device"> & { freeze?: boolean } = {},
  ): EmbeddingBag {
    const [num, dim] = weight.shape as [number, number];
    return new EmbeddingBag(num, dim, { ...options, weight }).requiresGrad_(!freeze);
  }

  forward(ids: Tensor, offsets: EmbeddingBagOptions["offsets"] = null, perSampleWeights: Tensor | null = null): Tensor {
    return embeddingBag(ids, this.weight, { ...this.options, offsets, perSampleWeights });
  }

  protected override settings(): string {
    return `${this.weight.shape.join(", ")}, ${shown(this.options)}`;
  }
}
