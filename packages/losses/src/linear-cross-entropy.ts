/**
 * A linear map and cross entropy in one, which never holds all logits: the output layer of a language model.
 *
 *   z = x · Wᵀ + b       loss = crossEntropy(z, target)       x (rows, in), W (classes, in)
 *   dx = dz · W          dW = Σ dzᵀ · x        db = Σ_rows dz       dz as in classes.ts
 *
 * Rows are taken a chunk at a time: logits, loss, dz and its three products, then the next chunk reuses their memory. The
 * gradients of a sum or mean are made while the logits exist, in the forward, and scaled by the gradient of the loss in
 * the backward (Hsu et al. 2024, Liger Kernel): three products instead of four. Reduction "none" learns the gradient of each
 * row only in the backward, and computes the logits again.
 */
import {
  add,
  autocastType,
  cast,
  copyInto,
  delegated,
  emptyLike,
  type FloatType,
  full,
  kernel,
  matmulForward,
  needsGrad,
  record,
  sumRows,
  type Tensor,
  threads,
  variants,
  zeros,
} from "@kindling/core";
import {
  type CrossEntropyOptions,
  checkRows,
  checkSmoothing,
  crossEntropyForward,
  rowsGrad,
  type Settings,
} from "./classes.ts";
import { checkFloats, failure, isFloat, type Rows, reduced, rowsOf } from "./reduction.ts";

// Kernel ----------------------------------------------------------------------------------------

/** What a chunk's gradients, made for a loss that counts as 1, are multiplied by. */
const scaleKernel = variants((T: FloatType) =>
  kernel(
    `linearCrossEntropy.scale.${T}`,
    /* wgsl */ `
struct Params { vectors: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read> dy: array<f32>;
@group(0) @binding(3) var<storage, read> total: array<vec4f>;
@group(0) @binding(4) var<storage, read_write> y: array<vec4<${T}>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i < params.vectors) { y[i] = vec4<${T}>(x[i] * (dy[0] / total[0].w)); }
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

interface Operands {
  readonly x: Tensor;
  readonly weight: Tensor;
  readonly bias: Tensor | null;
  /** [rows] */
  readonly target: Tensor;
  readonly compute: FloatType;
  readonly settings: Settings;
  readonly chunk: number;
}

/** f32, of the operands' shapes; null for an operand that needs none. */
interface Gradients {
  readonly dx: Tensor | null;
  readonly dw: Tensor | null;
  readonly db: Tensor | null;
}

/** All chunks: the loss of each row and, for a gradient `dy` of each row's loss, the gradients. */
function sweep(operands: Operands, dy: Tensor | null): { losses: Rows; gradients: Gradients } {
  const { x, weight, bias, target, compute, settings, chunk } = operands;
  const [classes, inner] = weight.shape as [number, number];
  const { device } = x;
  const rows = target.size;
  const losses = rowsOf(rows, x);
  const zeroed = (t: Tensor | null): Tensor | null => (dy && t && needsGrad(t) ? zeros(t.shape, { device }) : null);
  const [dx, dw] = [zeroed(x), zeroed(weight)];
  let db = zeroed(bias);
  for (let start = 0; start < rows; start += chunk) {
    const M = Math.min(chunk, rows - start);
    const part = x.view(start * inner, [M, inner]);
    const ids = target.view(start, [M]);
    const { c: z } = matmulForward(part, weight, {
      ...{ M, N: classes, K: inner, transposeB: true, compute, dtype: compute, bias, shape: [M, classes] },
    });
    const own = crossEntropyForward(z, ids, settings, "linearCrossEntropy");
    copyInto(losses.loss.view(start, [M]), own.loss);
    copyInto(losses.stats.view(start * 4, [M, 4]), own.stats);
    if (dy) {
      const dz = rowsGrad("x", dy.view(start, [M]), z, ids, settings, own, null);
      if (dx) {
        const into = dx.view(start * inner, [M, inner]);
        matmulForward(dz, weight, { M, N: inner, K: classes, compute, shape: into.shape, into });
      }
      if (dw) {
        matmulForward(dz, part, {
          ...{ M: classes, N: inner, K: M, transposeA: true, compute, shape: dw.shape, into: dw },
        });
      }
      if (db) {
        const [before, more] = [db, sumRows(dz, [classes], "f32")];
        db = add(before, more);
        for (const t of [before, more]) t.dispose();
      }
      dz.dispose();
    }
    for (const t of [z, own.loss, own.stats]) t.dispose();
  }
  return { losses, gradients: { dx, dw, db } };
}

/** `g` · dy / (what the loss was divided by), in the dtype of the operand `like`. */
function scaled(g: Tensor | null, dy: Tensor, total: Rows, like: Tensor | null): Tensor | null {
  if (!g || !like) return null;
  const y = emptyLike(like);
  const vectors = Math.ceil(g.size / 4);
  scaleKernel(like.dtype as FloatType).run(
    { params: { vectors }, x: g, dy, total: total.stats, y },
    { workgroups: threads(vectors) },
  );
  return y;
}

// Differentiable function -----------------------------------------------------------------------

/** Views into a tensor start at multiples of 256 bytes: 128 rows of an f16 tensor do, whatever their length. */
const ROWS = 128;
/** Logits that a chunk holds unless `chunk` says otherwise: 128 MiB of f32. */
const LOGITS = 2 ** 25;

export interface LinearCrossEntropyOptions extends Omit<CrossEntropyOptions, "weight"> {
  /** [classes], added to the logits. */
  bias?: Tensor | null;
  /** A weight for each class, [classes]: the `weight` of crossEntropy. */
  classWeight?: Tensor | null;
  /** Rows whose logits exist at a time, rounded up to a multiple of 128. Default: as many as 128 MiB hold. */
  chunk?: number;
}

/**
 * `crossEntropy(linear(x, weight, bias), target)` without holding the logits: x [..., in], weight [classes, in], target the
 * class ids [...] (i32 or u32) → a scalar, or [...] for reduction "none". Under autocast the products are f16, as linear's.
 */
export function linearCrossEntropy(
  x: Tensor,
  weight: Tensor,
  target: Tensor,
  {
    bias = null,
    classWeight = null,
    ignoreIndex = -100,
    labelSmoothing = 0,
    zLoss = 0,
    reduction = "mean",
    chunk,
  }: LinearCrossEntropyOptions = {},
): Tensor {
  const fail = failure("linearCrossEntropy");
  checkFloats(fail, { x, weight, ...(bias && { bias }) });
  if (weight.shape.length !== 2) fail(`weight has shape [${weight.shape}], expected [classes, in]`);
  const [classes, inner] = weight.shape as [number, number];
  if (x.shape.at(-1) !== inner) fail(`x has shape [${x.shape}], expected [..., ${inner}] for weight [${weight.shape}]`);
  if (!autocastType() && x.dtype !== weight.dtype)
    fail(`x is ${x.dtype} and weight ${weight.dtype}, expected one dtype (or autocast)`);
  if (bias && bias.shape.join() !== `${classes}`) fail(`bias has shape [${bias.shape}], expected [${classes}]`);
  if (isFloat(target.dtype)) fail(`target is ${target.dtype}, expected class ids (i32, u32)`);
  const shape = x.shape.slice(0, -1);
  if (target.shape.join() !== shape.join())
    fail(`target has shape [${target.shape}], expected [${shape}] for x [${x.shape}]`);
  if (chunk !== undefined && !(Number.isInteger(chunk) && chunk > 0))
    fail(`chunk is ${chunk}, expected a whole number above 0`);
  const rows = target.size;
  checkRows(fail, [rows, classes], target.view(0, [rows]), { weight: classWeight, ignoreIndex, reduction });
  checkSmoothing(fail, labelSmoothing, zLoss);
  const rest = { ignoreIndex, labelSmoothing, zLoss };
  const tensors = { x, weight, target, bias, classWeight };
  const other = delegated<Tensor>("linearCrossEntropy", tensors, { ...rest, reduction });
  if (other) return other;

  const operands: Operands = {
    ...{ x, weight, bias, target: target.view(0, [rows]) },
    compute: autocastType() ?? (x.dtype as FloatType),
    settings: { weight: classWeight && cast(classWeight, "f32"), ...rest },
    chunk: Math.ceil((chunk ?? Math.max(1, LOGITS / classes - ROWS)) / ROWS) * ROWS,
  };
  const inputs = [x, weight, bias ?? x];
  const early = reduction !== "none" && [x, weight, bias].some(needsGrad);
  const ones = early ? full([rows], 1, { device: x.device }) : null;
  const { losses, gradients } = sweep(operands, ones);
  ones?.dispose();
  const { y, total } = reduced(losses, reduction, shape);
  losses.stats.dispose();
  return record(y, inputs, (dy) => {
    if (total) {
      const { dx, dw, db } = gradients;
      return [scaled(dx, dy, total, x), scaled(dw, dy, total, weight), scaled(db, dy, total, bias)];
    }
    const { losses: again, gradients: own } = sweep(operands, dy);
    for (const t of Object.values(again)) t.dispose();
    const to = (g: Tensor | null, like: Tensor | null) => g && like && cast(g, like.dtype);
    return [to(own.dx, x), to(own.dw, weight), to(own.db, bias)];
  });
}
