/**
 * Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762), computed as FlashAttention-2 does (Dao 2023,
 * arXiv:2307.08691): the score matrix never exists, only tiles of it. Matches torch's scaled_dot_product_attention.
 *
 *   y  = p v              p = softmax(s), a softmax in each row       s = scale · q kᵀ
 *   dv = pᵀ dy            ds = p ⊙ (dy vᵀ − delta)                   delta = Σ dy ⊙ y, one for each query
 *   dq = scale · ds k     dk = scale · dsᵀ q
 *
 * Forward keeps the logarithm of each row's sum, from which backward recomputes p. Three kernel families compute it:
 * attention.kernels.ts holds the ones for any GPU, attention.matrix.ts those for subgroup matrices.
 * Order of this file: choice of kernels, launchers, differentiable functions.
 */
import {
  autocastType,
  cast,
  type Device,
  empty,
  emptyLike,
  type FloatType,
  type Kernel,
  needsGrad,
  record,
  type Tensor,
  variants,
} from "@kindling/core";
import { directKernel, type Pass, paddedDim, type Tile, tileBytes, tileKernel } from "./attention.kernels.ts";
import { matrixBytes, matrixKernel, PEAKS, peaksKernel } from "./attention.matrix.ts";

/** Where each operand lies: element offsets in its tensor, and element strides of a batch, a head and a row. */
interface Layout {
  readonly batch: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly queries: number;
  readonly keys: number;
  readonly dim: number;
  readonly isCausal: boolean;
  readonly scale: number;
  readonly kOffset: number;
  readonly vOffset: number;
  readonly q: Strides;
  readonly kv: Strides;
  readonly y: Strides;
}

type Strides = readonly [batch: number, head: number, row: number];

interface Operands {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
}

interface Saved extends Operands {
  readonly y: Tensor;
  readonly lse: Tensor;
  /** Largest values of q, k, v and dy, for f32 by subgroup matrices. */
  readonly peaks: Tensor | null;
}

// Choice of kernels -----------------------------------------------------------------------------

const direct = variants(directKernel);
const matrix = variants(matrixKernel);
const tile = variants((pass: Pass, T: FloatType, dim: number, BR: number, BC: number, TX: number, TY: number) =>
  tileKernel(pass, T, dim, { BR, BC, TX, TY }),
);

const backwardTiles: readonly Tile[] = [
  { BR: 64, BC: 16, TX: 4, TY: 32 },
  { BR: 32, BC: 16, TX: 4, TY: 16 },
  { BR: 16, BC: 8, TX: 2, TY: 16 },
  { BR: 8, BC: 8, TX: 2, TY: 8 },
  { BR: 4, BC: 8, TX: 2, TY: 4 },
];

/** From the fastest to the one that fits the 16 KiB of workgroup memory that every GPU has. */
const tiles: Record<Pass, readonly Tile[]> = {
  forward: [
    { BR: 64, BC: 32, TX: 8, TY: 16 },
    { BR: 32, BC: 16, TX: 4, TY: 16 },
    { BR: 16, BC: 16, TX: 4, TY: 8 },
    { BR: 8, BC: 8, TX: 2, TY: 8 },
  ],
  gradQuery: backwardTiles,
  gradKeyValue: backwardTiles,
};

/** Enough workgroups to fill a large GPU: with fewer, smaller tiles are faster. */
const FULL = 256;

interface Choice {
  readonly kernel: Kernel;
  readonly rows: number;
}

const usesMatrix = (device: Device, dim: number): boolean =>
  !device.software &&
  device.subgroupMatrix &&
  device.features.has("subgroup-size-control") &&
  dim % 4 === 0 &&
  device.limits.maxStorageBuffersPerShaderStage >= 9;

function choose(pass: Pass, device: Device, T: FloatType, l: Layout): Choice {
  if (device.software) return { kernel: direct(pass, T, l.dim % 4 === 0), rows: 64 };
  const bytes = device.limits.maxComputeWorkgroupStorageSize;
  const heads = l.batch * (pass === "gradKeyValue" ? l.kvHeads : l.heads);
  const fills = (rows: number): boolean =>
    heads * Math.ceil((pass === "gradKeyValue" ? l.keys : l.queries) / rows) >= FULL;
  if (usesMatrix(device, l.dim)) {
    const split = T === "f32";
    const fitting = [4, 2, 1].filter((n) => matrixBytes(pass, split, l.dim, n) <= bytes);
    const n = fitting.find((n) => fills(16 * n)) ?? fitting.at(-1)!;
    return { kernel: matrix(pass, split, l.dim, n), rows: 16 * n };
  }
  const fitting = tiles[pass].filter((t) => tileBytes(pass, t, l.dim) <= bytes && paddedDim(l.dim) % (4 * t.TX) === 0);
  const best = fitting.find((t) => fills(t.BR)) ?? fitting.findLast((t) => t.BR >= 16) ?? fitting[0]!;
  return { kernel: tile(pass, T, l.dim, best.BR, best.BC, best.TX, best.TY), rows: best.BR };
}

// Launchers -------------------------------------------------------------------------------------

/** Whether q, k and v are one tensor, and so have one largest value. */
const packed = ({ q, k, v }: Operands): boolean => q === k && k === v;

function launch(
  pass: Pass,
  l: Layout,
  bindings: Record<string, Tensor>,
  gradients: { dkOffset: number; dvOffset: number } = { dkOffset: 0, dvOffset: 0 },
): void {
  const { device, dtype } = bindings.q!;
  const { kernel, rows } = choose(pass, device, dtype as FloatType, l);
  const unit = l.dim % 4 === 0 ? 4 : 1;
  const [qBatch, qHead, qRow] = l.q.map((n) => n / unit) as unknown as Strides;
  const [kvBatch, kvHead, kvRow] = l.kv.map((n) => n / unit) as unknown as Strides;
  const [yBatch, yHead, yRow] = l.y.map((n) => n / unit) as unknown as Strides;
  const params = {
    queries: l.queries,
    keys: l.keys,
    dim: l.dim / unit,
    heads: l.heads,
    group: l.heads / l.kvHeads,
    causal: Number(l.isCausal),
    scale: l.scale,
    ...{ qOffset: 0, kOffset: l.kOffset / unit, vOffset: l.vOffset / unit },
    ...{ qBatch, qHead, qRow, kvBatch, kvHead, kvRow, yBatch, yHead, yRow },
    dkOffset: gradients.dkOffset / unit,
    dvOffset: gradients.dvOffset / unit,
    peakStep: Number(!packed(bindings as unknown as Operands)),
  };
  const onKeys = pass === "gradKeyValue";
  const blocks = Math.ceil((onKeys ? l.keys : l.queries) / rows);
  const heads = onKeys ? l.kvHeads : l.heads;
  kernel.run(
    { params, ...bindings },
    { workgroups: device.software ? [blocks, heads, l.batch] : [heads, l.batch, blocks] },
  );
}

/** y, and per query the logarithm to base 2 of its sum of exponentials. */
function attentionForward({ q, k, v }: Operands, l: Layout, shape: readonly number[]): Saved {
  const { device } = q;
  const y = empty(shape, { dtype: q.dtype, device });
  const lse = empty([l.batch, l.heads, l.queries], { device });
  let peaks: Tensor | null = null;
  if (q.dtype === "f32" && usesMatrix(device, l.dim)) {
    peaks = empty([4, PEAKS], { device });
    const params = { a: q.size / 4, b: k.size / 4, row: 0 };
    peaksKernel.run({ params, a: q, b: k, c: v, peaks }, { workgroups: [PEAKS, packed({ q, k, v }) ? 1 : 3] });
  }
  launch("forward", l, { q, k, v, y, lse, ...(peaks && { peaks }) });
  return { q, k, v, y, lse, peaks };
}

/** Gradients in the layout of q, k and v: `dkv` holds dk and dv at the given offsets, and may be the tensor `dq`. */
function attentionBackward(
  dy: Tensor,
  { q, k, v, y, lse, peaks }: Saved,
  l: Layout,
  dq: Tensor,
  dkv: Tensor | null,
  offsets: { dkOffset: number; dvOffset: number },
): void {
  if (peaks) {
    const params = { a: dy.size / 4, b: 0, row: 3 };
    peaksKernel.run({ params, a: dy, b: dy, c: dy, peaks }, { workgroups: [PEAKS] });
  }
  const delta = emptyLike(lse);
  const shared = { q, k, v, dy, lse, delta, ...(peaks && { peaks }) };
  launch("gradQuery", l, { ...shared, y, dq });
  if (dkv) launch("gradKeyValue", l, { ...shared, dkv }, offsets);
  delta.dispose();
}

// Differentiable functions ----------------------------------------------------------------------

export interface AttentionOptions {
  /** Query i sees the keys j ≤ i. Default false. */
  isCausal?: boolean;
  /** Default 1 / sqrt(headDim). */
  scale?: number;
  /** k and v may have fewer heads than q, a divisor. Default false. */
  enableGqa?: boolean;
}

const unsupported = ["attnMask", "dropout", "window"] as const;

function checkOptions(name: string, options: object, allowed: readonly string[]): void {
  for (const [option, value] of Object.entries(options)) {
    if (allowed.includes(option) || value === undefined || value === null) continue;
    if (option === "dropout" && value === 0) continue;
    const known = (unsupported as readonly string[]).includes(option);
    throw new Error(
      `${name}: option "${option}" is ${known ? "not supported yet" : `unknown; expected ${allowed.join(", ")}`}`,
    );
  }
  const { scale } = options as { scale?: number };
  if (scale !== undefined && !Number.isFinite(scale))
    throw new Error(`${name}: scale ${scale}; expected a finite number`);
}

function checkFloat(name: string, argument: string, x: Tensor): void {
  if (x.dtype !== "f32" && x.dtype !== "f16")
    throw new Error(`${name}: ${argument} has dtype ${x.dtype}; expected f32 or f16`);
}

function checkDim(name: string, dim: number): void {
  if (dim > 128) throw new Error(`${name}: head dim ${dim}; expected at most 128`);
}

/** Without a tape, what was kept for backward goes. */
function finish(y: Tensor, { lse, peaks }: Saved): Tensor {
  if (!y.requiresGrad) {
    lse.dispose();
    peaks?.dispose();
  }
  return y;
}

const matrixOperand = (x: Tensor): Tensor => (autocastType() === "f16" ? cast(x, "f16") : x);

/**
 * softmax(scale · q kᵀ) v. q: [batch, heads, queries, headDim]; k and v: [batch, heads, keys, headDim], or with `enableGqa`
 * a number of heads that divides q's. Under autocast the operands and y are f16.
 */
export function scaledDotProductAttention(q: Tensor, k: Tensor, v: Tensor, options: AttentionOptions = {}): Tensor {
  const name = "scaledDotProductAttention";
  checkOptions(name, options, ["isCausal", "scale", "enableGqa"]);
  for (const [argument, x] of [
    ["q", q],
    ["k", k],
    ["v", v],
  ] as const) {
    if (x.shape.length !== 4) {
      throw new Error(`${name}: ${argument} has shape [${x.shape}]; expected [batch, heads, length, headDim]`);
    }
    checkFloat(name, argument, x);
  }
  if (autocastType() !== "f16" && (k.dtype !== q.dtype || v.dtype !== q.dtype)) {
    throw new Error(`${name}: q, k and v have dtypes ${q.dtype}, ${k.dtype} and ${v.dtype}; expected one dtype`);
  }
  const [batch, heads, queries, dim] = q.shape as [number, number, number, number];
  const [, kvHeads, keys] = k.shape as [number, number, number, number];
  if (k.shape[0] !== batch || k.shape[3] !== dim) {
    throw new Error(
      `${name}: k has shape [${k.shape}]; q of shape [${q.shape}] needs [${batch}, heads, length, ${dim}]`,
    );
  }
  if (v.shape[3] !== dim) {
    throw new Error(
      `${name}: v has head dim ${v.shape[3]}; expected that of q and k, ${dim}: others are not supported yet`,
    );
  }
  if (v.shape.join() !== k.shape.join())
    throw new Error(`${name}: v has shape [${v.shape}]; expected k's, [${k.shape}]`);
  checkDim(name, dim);
  if (heads !== kvHeads && !(options.enableGqa && heads % kvHeads === 0)) {
    const wanted = options.enableGqa ? `a divisor of q's ${heads}` : `q's ${heads}, or enableGqa and a divisor of it`;
    throw new Error(`${name}: k has ${kvHeads} heads; expected ${wanted}`);
  }
  const layout: Layout = {
    ...{ batch, heads, kvHeads, queries, keys, dim },
    isCausal: options.isCausal ?? false,
    scale: options.scale ?? 1 / Math.sqrt(dim),
    kOffset: 0,
    vOffset: 0,
    q: [heads * queries * dim, queries * dim, dim],
    kv: [kvHeads * keys * dim, keys * dim, dim],
    y: [heads * queries * dim, queries * dim, dim],
  };
  const operands = { q: matrixOperand(q), k: matrixOperand(k), v: matrixOperand(v) };
  const saved = attentionForward(operands, layout, operands.q.shape);
  const y = record(saved.y, [operands.q, operands.k, operands.v], (dy) => {
    const dq = emptyLike(operands.q);
    const wanted = needsGrad(operands.k) || needsGrad(operands.v);
    // dk and dv are halves of one allocation, since two bindings of a kernel that writes them could not be one tensor in
    // the packed layout. The second starts at a multiple of 128 elements, for the sake of the binding alignment.
    const half = Math.ceil(operands.k.size / 128) * 128;
    const dkv = wanted ? emptyLike(operands.k, { shape: [half + operands.v.size] }) : null;
    attentionBackward(dy, saved, layout, dq, dkv, { dkOffset: 0, dvOffset: half });
    const dk = dkv && needsGrad(operands.k) ? dkv.view(0, operands.k.shape) : null;
    const dv = dkv && needsGrad(operands.v) ? dkv.view(half, operands.v.shape) : null;
    dkv?.dispose();
    return [needsGrad(operands.q) ? dq : null, dk, dv];
  });
  return finish(y, saved);
}

export interface SelfAttentionOptions {
  /** Position i sees the positions j ≤ i. Default false. */
  isCausal?: boolean;
  /** Default 1 / sqrt(headDim). */
  scale?: number;
  /** Heads of k and v, a divisor of `numHeads`. Default `numHeads`. */
  numKvHeads?: number;
}

/**
 * Attention of a sequence to itself from one projection: `qkv` is [batch, length, (numHeads + 2 · numKvHeads) · headDim],
 * along its last axis q, k and v, each with its heads side by side. Returns [batch, length, numHeads · headDim]. Nothing is
 * copied: the kernels read and write heads where they lie.
 */
export function selfAttention(qkv: Tensor, numHeads: number, options: SelfAttentionOptions = {}): Tensor {
  const name = "selfAttention";
  checkOptions(name, options, ["isCausal", "scale", "numKvHeads"]);
  const { numKvHeads: kvHeads = numHeads } = options;
  checkFloat(name, "qkv", qkv);
  for (const [argument, heads] of [
    ["numHeads", numHeads],
    ["numKvHeads", kvHeads],
  ] as const) {
    if (!Number.isInteger(heads) || heads < 1)
      throw new Error(`${name}: ${argument} ${heads}; expected a whole number ≥ 1`);
  }
  if (numHeads % kvHeads !== 0)
    throw new Error(`${name}: numKvHeads ${kvHeads}; expected a divisor of numHeads, ${numHeads}`);
  const parts = numHeads + 2 * kvHeads;
  if (qkv.shape.length !== 3 || qkv.shape[2]! % parts !== 0) {
    throw new Error(`${name}: qkv has shape [${qkv.shape}]; expected [batch, length, ${parts} · headDim]`);
  }
  const [batch, length, width] = qkv.shape as [number, number, number];
  const dim = width / parts;
  checkDim(name, dim);
  const kOffset = numHeads * dim;
  const vOffset = (numHeads + kvHeads) * dim;
  const layout: Layout = {
    ...{ batch, heads: numHeads, kvHeads, queries: length, keys: length, dim, kOffset, vOffset },
    isCausal: options.isCausal ?? false,
    scale: options.scale ?? 1 / Math.sqrt(dim),
    q: [length * width, dim, width],
    kv: [length * width, dim, width],
    y: [length * numHeads * dim, dim, numHeads * dim],
  };
  const x = matrixOperand(qkv);
  const saved = attentionForward({ q: x, k: x, v: x }, layout, [batch, length, numHeads * dim]);
  const y = record(saved.y, [x], (dy) => {
    const dx = emptyLike(x);
    attentionBackward(dy, saved, layout, dx, dx, { dkOffset: kOffset, dvOffset: vOffset });
    return [dx];
  });
  return finish(y, saved);
}
