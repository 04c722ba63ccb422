/**
 * What all losses share: the sum or mean of the rows' losses, the checks, and the module that keeps a loss's options.
 *
 *   none: loss       sum: Σ loss       mean: Σ loss / Σ share       share: 1, or the weight of a row's target
 */
import { buffer, empty, type FloatType, kernel, Module, type Shape, type Tensor, variants } from "@kindling/core";

export type Reduction = "none" | "mean" | "sum";

export interface LossOptions {
  /** Default "mean". */
  reduction?: Reduction;
}

/** The loss of each row, and what the mean and the backward need of it: four numbers, the last its share of the mean. */
export interface Rows {
  readonly loss: Tensor;
  readonly stats: Tensor;
}

export const rowsOf = (count: number, { device }: Tensor): Rows => ({
  loss: empty([count], { device }),
  stats: empty([count, 4], { device }),
});

export const NAN_BITS = 0x7fc00000;

/**
 * Sums loss and share of a chunk of the rows, or of earlier chunks: in a fixed order, the same each time. The last one
 * leaves the reduced loss and what it was divided by.
 */
const totalKernel = variants(() =>
  kernel(
    "losses.total",
    /* wgsl */ `
struct Params { count: u32, chunk: u32, last: u32, mean: u32, nan: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> loss: array<f32>;
@group(0) @binding(2) var<storage, read> stats: array<vec4f>;
@group(0) @binding(3) var<storage, read_write> losses: array<f32>;
@group(0) @binding(4) var<storage, read_write> shares: array<vec4f>;

var<workgroup> parts: array<vec2f, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_index) lane: u32) {
  let end = min((wg.x + 1) * params.chunk, params.count);
  var sum = vec2f(0);
  for (var i = wg.x * params.chunk + lane; i < end; i += 256) { sum += vec2f(loss[i], stats[i].w); }
  parts[lane] = sum;
  for (var half = 128u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { parts[lane] += parts[lane + half]; }
  }
  if (lane != 0) { return; }
  sum = parts[0];
  if (params.last != 0) {
    let mean = select(sum.x / sum.y, bitcast<f32>(params.nan), sum.y == 0);
    sum = select(vec2f(sum.x, 1), vec2f(mean, sum.y), params.mean != 0);
  }
  losses[wg.x] = sum.x;
  shares[wg.x].w = sum.y;
}`,
  ),
);

/** One row: the reduced loss, and what the sum was divided by. */
export function totalOf({ loss, stats }: Rows, mean: boolean): Rows {
  const chunk = 2048;
  const chunks = Math.ceil(loss.size / chunk);
  const sums = rowsOf(chunks, loss);
  const params = { count: loss.size, chunk, last: Number(chunks === 1), mean: Number(mean), nan: NAN_BITS };
  totalKernel().run({ params, loss, stats, losses: sums.loss, shares: sums.stats }, { workgroups: [chunks] });
  if (chunks === 1) return sums;
  const last = totalOf(sums, mean);
  for (const t of Object.values(sums)) t.dispose();
  return last;
}

/** The tensor that the user gets, a scalar or the losses in `shape`, and the sum that backward divides by. */
export function reduced(
  { loss, stats }: Rows,
  reduction: Reduction | "batchmean",
  shape: Shape,
): { y: Tensor; total: Rows | null } {
  const total = reduction === "none" ? null : totalOf({ loss, stats }, reduction !== "sum");
  const y = total ? total.loss.view(0, []) : loss.view(0, shape);
  loss.dispose();
  return { y, total };
}

export const isFloat = (T: string): T is FloatType => T === "f32" || T === "f16";

export type Fail = (text: string) => never;

export const failure =
  (name: string): Fail =>
  (text) => {
    throw new Error(`${name}: ${text}`);
  };

export function checkFloats(fail: Fail, tensors: Record<string, Tensor>): void {
  for (const [name, { dtype }] of Object.entries(tensors)) {
    if (!isFloat(dtype)) fail(`${name} is ${dtype}, expected f32 or f16`);
  }
}

export function checkReduction(fail: Fail, reduction: string, more: readonly string[] = []): void {
  const known = ["none", "mean", "sum", ...more];
  if (!known.includes(reduction)) fail(`reduction is "${reduction}", expected ${known.join(", ")}`);
}

/** A loss with its options kept; a weight belongs to the module's state, as in PyTorch. */
export abstract class Loss<Options extends object> extends Module {
  readonly options: Options;
  readonly weight: Tensor | null;

  constructor({ weight = null, ...options }: Options & { weight?: Tensor | null } = {} as Options) {
    super();
    this.options = options as Options;
    this.weight = weight && buffer(weight);
  }

  protected override extraRepr(): string {
    return Object.entries(this.options)
      .map(([key, value]) => `${key}=${value}`)
      .join(", ");
  }
}
