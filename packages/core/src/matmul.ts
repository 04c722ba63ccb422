/**
 * Matrix multiplication, batched, with the gradients of both operands:
 *
 *   C  = op(A) · op(B) + bias       op(X) = X or Xᵀ
 *   dA = dC · op(B)ᵀ   (transposed where A was)
 *   dB = op(A)ᵀ · dC   (transposed where B was)
 *   dbias = Σ_rows dC
 *
 * Transposes are read in place, never copied. The kernels are in matmul.kernels.ts, chosen by a static table, and for
 * software GPUs in matmul.direct.ts; here they are planned once per shape and launched.
 */
import { sumRows } from "./arithmetic.ts";
import { autocastType } from "./autocast.ts";
import { needsGrad, record } from "./autograd.ts";
import { broadcast, repeatTo } from "./broadcast.ts";
import { delegated } from "./delegate.ts";
import type { Device } from "./device.ts";
import { grid, type Kernel, kernel } from "./kernel.ts";
import { directParams, directSource, directThreads } from "./matmul.direct.ts";
import {
  chooseMatmul,
  type Finish,
  type Gather,
  type MatmulShape,
  matmulGrid,
  matmulParams,
  matmulSource,
  splitKReduceGrid,
  splitKReduceSource,
} from "./matmul.kernels.ts";
import type { Pointwise } from "./pointwise.ts";
import { empty, type FloatType, type Shape, sizeOf, type Tensor } from "./tensor.ts";

/** Everything that a launch derives from the shape. */
interface Plan {
  readonly kernel: Kernel;
  readonly params: Record<string, number>;
  readonly workgroups: [number, number];
  readonly splitK: number;
  readonly reduce: { kernel: Kernel; params: Record<string, number>; workgroups: [number, number] } | null;
}

const plans = new WeakMap<Device, Map<string, Plan>>();
const kernels = new Map<string, Kernel>();

function planOf(device: Device, shape: MatmulShape, key: string): Plan {
  let cache = plans.get(device);
  if (!cache) plans.set(device, (cache = new Map()));
  let plan = cache.get(key);
  if (!plan) cache.set(key, (plan = makePlan(device, shape)));
  return plan;
}

function makePlan(device: Device, shape: MatmulShape): Plan {
  const { M, N, batch, gather } = shape;
  if (device.software) {
    const workgroups = grid(Math.ceil(directThreads(shape) / 64));
    return {
      kernel: kernelOf("matmul.direct", directSource(shape)),
      params: directParams(shape),
      workgroups,
      splitK: 1,
      reduce: null,
    };
  }
  const config = chooseMatmul(shape, {
    subgroupMatrix: device.subgroupMatrix,
    f16: device.features.has("shader-f16"),
    workgroupStorage: device.limits.maxComputeWorkgroupStorageSize,
  });
  const { splitK } = config;
  const reduce = {
    kernel: splitK > 1 ? kernelOf("matmul.splitK", splitKReduceSource(config)) : null,
    params: { M, N, ldc: gather?.c?.pitch ?? N, strideC: M * N, batch, splits: splitK, ...gather?.params },
    workgroups: splitKReduceGrid(config, M, N, batch),
  };
  return {
    kernel: kernelOf(`matmul.${config.kind}`, matmulSource(config)),
    params: matmulParams(config, shape),
    workgroups: matmulGrid(config, M, N, batch),
    splitK,
    reduce: reduce.kernel ? { ...reduce, kernel: reduce.kernel } : null,
  };
}

/** A number for each text that a caller brings along: a short key in its place. */
const numbers = new WeakMap<Pointwise | Gather | Finish, number>();
let count = 0;

function numberOf(text: Pointwise | Gather | Finish | null | undefined): number {
  if (!text) return 0;
  let n = numbers.get(text);
  if (!n) numbers.set(text, (n = ++count));
  return n;
}

/** Many shapes share a text, and a kernel must be one object to share its pipeline's caches. */
function kernelOf(label: string, source: string): Kernel {
  let k = kernels.get(source);
  if (!k) kernels.set(source, (k = kernel(label, source)));
  return k;
}

export interface MatmulLaunch {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly batch?: number;
  /** A is stored as [K, M]. */
  readonly transposeA?: boolean;
  /** B is stored as [N, K]. */
  readonly transposeB?: boolean;
  /** One matrix for all batches. */
  readonly broadcastA?: boolean;
  readonly broadcastB?: boolean;
  /** What operands are rounded to. Default f16 if both are stored so, else f32. Sums are f32. */
  readonly compute?: FloatType;
  /** Shape and dtype of C; the shape holds batch · M · N elements. */
  readonly shape: Shape;
  readonly dtype?: FloatType;
  /** [N]; with `gather.c` [batch, M] */
  readonly bias?: Tensor | null;
  readonly activation?: Pointwise | null;
  /** Also return what the activation was applied to: in this tensor, or in one of C's shape and dtype. */
  readonly keepZ?: boolean | Tensor;
  /** Add to this tensor instead of making one. */
  readonly into?: Tensor;
  /** Write to this tensor instead of making one: a mapped C may fill a part of it. */
  readonly out?: Tensor;
  /** Operands, or a result, that are not stored as matrices. */
  readonly gather?: Gather;
  /** A last step of the epilogue, with its bindings and the values of its fields. */
  readonly finish?: { text: Finish; bindings: Record<string, Tensor>; params: Record<string, number> } | null;
}

/** Launches C = act(op(A)·op(B) + bias), off the tape. The caller has checked the shapes. */
export function matmulForward(a: Tensor, b: Tensor, launch: MatmulLaunch): { c: Tensor; z: Tensor | null } {
  const { M, N, K, batch = 1, transposeA = false, transposeB = false, broadcastA = false, broadcastB = false } = launch;
  const { bias = null, activation = null, keepZ = false, into, out = into, gather, finish, shape: cShape } = launch;
  const { device } = a;
  const compute = launch.compute ?? (a.dtype === "f16" && b.dtype === "f16" ? "f16" : "f32");
  const dtype = (out?.dtype as FloatType | undefined) ?? launch.dtype ?? "f32";
  const shape: MatmulShape = {
    ...{ M, N, K, batch, transposeA, transposeB, broadcastA, broadcastB, compute },
    ...{ a: a.dtype as FloatType, b: b.dtype as FloatType, c: dtype, activation, accumulate: into !== undefined },
    bias: (bias?.dtype as FloatType) ?? null,
    z: keepZ ? dtype : null,
    gather,
    finish: finish?.text,
  };
  const flags = `${+transposeA}${+transposeB}${+broadcastA}${+broadcastB}${keepZ && 1}${+shape.accumulate!}`;
  const key = `${+device.software},${M},${N},${K},${batch},${flags},${a.dtype}${b.dtype}${dtype}${compute}${bias?.dtype},${numberOf(activation)},${numberOf(gather)},${numberOf(finish?.text)}`;
  const plan = planOf(device, shape, key);
  const c = out ?? empty(cShape, { dtype, device });
  const z = keepZ === true ? empty(cShape, { dtype, device }) : keepZ || null;
  const { workgroups } = plan;
  const withFinish = (params: Plan["params"]) => (finish ? { ...params, ...finish.params } : params);
  const outputs: Record<string, Tensor> = { ...(bias && { bias }), ...(z && { z }), ...finish?.bindings };
  if (plan.reduce) {
    const partial = empty([plan.splitK, batch, M, N], { device });
    plan.kernel.run({ params: withFinish(plan.params), a, b, c: partial }, { workgroups });
    plan.reduce.kernel.run(
      { params: withFinish(plan.reduce.params), partial, c, ...outputs },
      { workgroups: plan.reduce.workgroups },
    );
    partial.dispose();
  } else {
    plan.kernel.run({ params: withFinish(plan.params), a, b, c, ...outputs }, { workgroups });
  }
  return { c, z };
}

export interface MatmulOptions {
  /** Use aᵀ: the last two axes of a are [K, M]. */
  transposeA?: boolean;
  /** Use bᵀ: the last two axes of b are [N, K]. */
  transposeB?: boolean;
  /** [N], added to every row. */
  bias?: Tensor | null;
}

/**
 * `a · b` over the last two axes: a [..., M, K], b [..., K, N] → [..., M, N]. The leading axes are equal, or broadcast as in
 * torch.matmul; an operand without any serves all batches without being repeated. A vector counts as one row on the left, one
 * column on the right. Under autocast the operands are rounded to f16 and the result is f16.
 */
export function matmul(
  a: Tensor,
  b: Tensor,
  { transposeA = false, transposeB = false, bias = null }: MatmulOptions = {},
): Tensor {
  for (const [name, x] of Object.entries({ a, b })) {
    if (x.dtype !== "f32" && x.dtype !== "f16") throw new Error(`matmul: ${name} is ${x.dtype}, expected f32 or f16`);
    if (x.shape.length === 0) throw new Error(`matmul: ${name} is a scalar; use mul`);
  }
  const cast = autocastType();
  if (!cast && a.dtype !== b.dtype)
    throw new Error(`matmul: a is ${a.dtype} and b is ${b.dtype}, expected one dtype (or autocast)`);
  if (a.shape.length === 1) {
    const y = matmul(a.reshape(transposeA ? [a.size, 1] : [1, a.size]), b, { transposeA, transposeB, bias });
    return b.shape.length === 1 ? y.reshape([]) : y.reshape([...y.shape.slice(0, -2), ...y.shape.slice(-1)]);
  }
  if (b.shape.length === 1) {
    if (bias) throw new Error("matmul: bias needs a b of at least two axes, got a vector");
    const y = matmul(a, b.reshape(transposeB ? [1, b.size] : [b.size, 1]), { transposeA, transposeB });
    return y.reshape(y.shape.slice(0, -1));
  }
  const [M, K] = lastTwo(a.shape, transposeA);
  const [inner, N] = lastTwo(b.shape, transposeB);
  const shapes = `a [${a.shape}]${transposeA ? " transposed" : ""} and b [${b.shape}]${transposeB ? " transposed" : ""}`;
  if (K !== inner) throw new Error(`matmul: ${shapes} share no inner dimension: ${K} and ${inner}`);
  const [leadA, leadB] = [a.shape.slice(0, -2), b.shape.slice(0, -2)];
  if (leadA.join() !== leadB.join() && leadA.length > 0 && leadB.length > 0) {
    const lead = broadcast(leadA, leadB);
    if (!lead) throw new Error(`matmul: ${shapes} have leading axes that do not broadcast: [${leadA}] and [${leadB}]`);
    return matmul(repeatTo(a, lead, 2), repeatTo(b, lead, 2), { transposeA, transposeB, bias });
  }
  if (bias && (bias.shape.length !== 1 || bias.size !== N))
    throw new Error(`matmul: bias has shape [${bias.shape}], expected [${N}]`);
  const other = delegated<Tensor>("matmul", { a, b, bias }, { transposeA, transposeB });
  if (other) return other;
  const lead = leadA.length > 0 ? leadA : leadB;
  const compute = cast ?? (a.dtype as FloatType);
  const dims: Product = {
    M,
    N,
    K,
    batch: sizeOf(lead),
    oneA: leadA.length === 0,
    oneB: leadB.length === 0,
    transposeA,
    transposeB,
    compute,
  };
  const c = product(a, b, dims, { shape: [...lead, M, N], dtype: compute, bias });
  return record(c, [a, b, bias ?? a], (dc) => [
    needsGrad(a) ? gradA(dc, b, dims, a) : null,
    needsGrad(b) ? gradB(dc, a, dims, b) : null,
    needsGrad(bias) ? sumRows(dc, [N], bias.dtype as FloatType) : null,
  ]);
}

interface Product {
  readonly M: number;
  readonly N: number;
  readonly K: number;
  readonly batch: number;
  /** The operand has no batch axis. */
  readonly oneA: boolean;
  readonly oneB: boolean;
  readonly transposeA: boolean;
  readonly transposeB: boolean;
  readonly compute: FloatType;
}

type Target = Pick<MatmulLaunch, "shape" | "dtype" | "bias">;

function product(a: Tensor, b: Tensor, { oneA, oneB, ...dims }: Product, target: Target): Tensor {
  // Many rows against one matrix are one tall product.
  const { batch, M } = dims;
  if (oneB && !oneA && !dims.transposeA) return matmulForward(a, b, { ...dims, M: M * batch, batch: 1, ...target }).c;
  return matmulForward(a, b, { ...dims, broadcastA: oneA && batch > 1, broadcastB: oneB && batch > 1, ...target }).c;
}

function gradA(dc: Tensor, b: Tensor, dims: Product, a: Tensor): Tensor {
  const { M, N, K, batch, oneA, oneB, transposeA, transposeB, compute } = dims;
  const sum = oneA && batch > 1;
  const target = { shape: sum ? [batch, ...a.shape] : a.shape, dtype: sum ? "f32" : (a.dtype as FloatType) } as const;
  const grad = transposeA
    ? product(
        b,
        dc,
        { M: K, N: M, K: N, batch, oneA: oneB, oneB: false, transposeA: transposeB, transposeB: true, compute },
        target,
      )
    : product(
        dc,
        b,
        { M, N: K, K: N, batch, oneA: false, oneB, transposeA: false, transposeB: !transposeB, compute },
        target,
      );
  return sum ? sumBatches(grad, a) : grad;
}

function gradB(dc: Tensor, a: Tensor, dims: Product, b: Tensor): Tensor {
  const { M, N, K, batch, oneA, oneB, transposeA, transposeB, compute } = dims;
  const tall = oneB && !oneA && !transposeA;
  if (tall && batch > 1) return gradB(dc, a, { ...dims, M: M * batch, batch: 1, oneA: true }, b);
  const sum = oneB && batch > 1;
  const target = { shape: sum ? [batch, ...b.shape] : b.shape, dtype: sum ? "f32" : (b.dtype as FloatType) } as const;
  const grad = transposeB
    ? product(
        dc,
        a,
        { M: N, N: K, K: M, batch, oneA: false, oneB: oneA, transposeA: true, transposeB: transposeA, compute },
        target,
      )
    : product(
        a,
        dc,
        { M: K, N, K: M, batch, oneA, oneB: false, transposeA: !transposeA, transposeB: false, compute },
        target,
      );
  return sum ? sumBatches(grad, b) : grad;
}

function sumBatches(grads: Tensor, like: Tensor): Tensor {
  const sum = sumRows(grads, like.shape, like.dtype as FloatType);
  grads.dispose();
  return sum;
}

function lastTwo(shape: Shape, transposed: boolean): [rows: number, cols: number] {
  const [rows, cols] = shape.slice(-2) as [number, number];
  return transposed ? [cols, rows] : [rows, cols];
}
