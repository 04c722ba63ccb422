/**
 * The total norm of gradients, ‖g‖ = √Σ g² over all elements of all tensors, and clipping to it:
 *
 *   g ← g · min(1, maxNorm / (‖g‖ + 1e-6))
 *
 * The sum takes two steps without atomics: a partial sum for each workgroup, then one workgroup adds those, in the same
 * order each time.
 */
import {
  empty,
  type FloatType,
  grid,
  isTensor,
  type Kernel,
  kernel,
  type Tensor,
  variants,
  zeros,
} from "@kindling/core";
import { checkNumber, knownKeys } from "./groups.ts";
import { batches, each, loader, locate, MAIN, params, scaleAll, spanOf, table, vectorsOf } from "./walk.ts";

// WGSL pieces -----------------------------------------------------------------------------------

/**
 * `fn pairSum(lane, v) -> vec2f`: the sum over 256 threads, returned to each; from uniform control flow. Two rounds of 16
 * rather than eight halvings, since barriers are what a software GPU spends its time on.
 */
export const pairSum = /* wgsl */ `
var<workgroup> pairs: array<vec2f, 256>;

fn pairSum(lane: u32, v: vec2f) -> vec2f {
  pairs[lane] = v;
  workgroupBarrier();
  var sum = vec2f(0);
  if (lane < 16) {
    for (var k = 0u; k < 16; k++) { sum += pairs[lane + 16 * k]; }
    pairs[lane] = sum;
  }
  workgroupBarrier();
  sum = vec2f(0);
  for (var k = 0u; k < 16; k++) { sum += pairs[k]; }
  return sum;
}`;

/** `fn clipFactor(norm, maxNorm) -> f32`. An infinite norm gives zero and NaN gives NaN, as in PyTorch, told by their bits. */
export const clipFactor = /* wgsl */ `
fn clipFactor(norm: f32, maxNorm: f32) -> f32 {
  let bits = bitcast<u32>(norm);
  if (bits > 0x7f800000) { return norm; }
  if (bits == 0x7f800000) { return 0.0; }
  let n = norm + 1e-6;
  return select(1.0, maxNorm / n, n > maxNorm);
}`;

// Kernels ---------------------------------------------------------------------------------------

/** Each workgroup writes (Σ g², number of threads that met an infinity or NaN) of its `span` vec4s. */
const squaresKernel = variants(
  (count: number, G: FloatType): Kernel<string> =>
    kernel(
      `optim.squares.${G}x${count}`,
      /* wgsl */ `
${params(count, ["vectors", "size"], ["span", "first"])}
@group(0) @binding(1) var<storage, read_write> partials: array<vec2f>;
${each(count, (k) => `@group(0) @binding(${2 + k}) var<storage, read> g${k}: array<vec4<${G}>>;`)}
${pairSum}

/** vec4 i of a tensor of \`size\` elements; its padding counts nothing. Looks at bits, since WGSL may assume that there
    are no infinities and NaNs. */
fn squares(loaded: vec4f, i: u32, size: u32) -> vec2f {
  let g = select(vec4f(0), loaded, 4 * i + vec4u(0, 1, 2, 3) < vec4u(size));
  let special = (bitcast<vec4u>(g) & vec4u(0x7f800000)) == vec4u(0x7f800000);
  return vec2f(dot(g, g), select(0.0, 1.0, any(special)));
}
${loader("g", count)}
${MAIN}
${locate(count, ["vectors", "size"])}
  var sum = vec2f(0);
  let end = min((w + 1) * params.span, vectors);
  for (var i = w * params.span + lane; i < end; i += 256) { sum += squares(loadG(slot, i), i, size); }
  let total = pairSum(lane, sum);
  if (lane == 0 && group < params.end${count - 1}) { partials[params.first + group] = total; }
}`,
    ),
);

/** Adds the partial sums up to the norm, and computes the factor that clips. */
const clipKernel = variants(() =>
  kernel(
    "optim.clip",
    /* wgsl */ `
struct Params { partials: u32, maxNorm: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partials: array<vec2f>;
@group(0) @binding(2) var<storage, read_write> norm: array<f32>;
@group(0) @binding(3) var<storage, read_write> factor: array<f32>;
${pairSum}
${clipFactor}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  var sum = vec2f(0);
  for (var k = lane; k < params.partials; k += 256) { sum += partials[k]; }
  sum = pairSum(lane, sum);
  if (lane == 0) {
    norm[0] = sqrt(sum.x);
    factor[0] = clipFactor(sqrt(sum.x), params.maxNorm);
  }
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

/** Partial sums, as pairs that `squaresKernel` writes. */
export interface SquareSums {
  readonly partials: Tensor;
  readonly count: number;
}

/** Partial sums of squares over all `tensors`. The caller disposes them. */
export function sumSquares(tensors: readonly Tensor[]): SquareSums {
  const span = spanOf(tensors);
  const count = tensors.reduce((n, t) => n + Math.ceil(vectorsOf(t) / span), 0);
  const partials = empty([2 * count], { device: tensors[0]!.device });
  let first = 0;
  for (const batch of batches(tensors)) {
    const words: Record<string, number> = { span, first };
    const bindings: Record<string, Tensor | Record<string, number>> = { params: words, partials };
    const own = table(words, batch, span);
    for (const [k, g] of batch.entries()) {
      words[`size${k}`] = g.size;
      bindings[`g${k}`] = g;
    }
    squaresKernel(batch.length, batch[0]!.dtype as FloatType).run(bindings, { workgroups: grid(own) });
    first += own;
  }
  return { partials, count };
}

/**
 * Scales the gradients of `parameters` in place so that their total norm is at most `maxNorm`, and returns the norm that
 * they had: a scalar on the GPU. Matches torch.nn.utils.clip_grad_norm_. An optimizer's `maxGradNorm` does the same inside
 * the update and saves two passes over the gradients.
 */
export function clipGradNorm(
  parameters: Tensor | readonly Tensor[],
  maxNorm: number,
  options: { normType?: 2 } = {},
): Tensor {
  const all = isTensor(parameters) ? [parameters] : parameters;
  if (!Array.isArray(all) || all.length === 0)
    throw new Error(
      `clipGradNorm: parameters is ${Array.isArray(all) ? "empty" : typeof all}; expected at least one tensor`,
    );
  knownKeys("clipGradNorm", options, ["normType"]);
  const { normType = 2 } = options;
  if (normType !== 2) throw new Error(`clipGradNorm: normType ${normType} is not supported; expected 2`);
  checkNumber("clipGradNorm", "maxNorm", maxNorm);
  const grads: Tensor[] = [];
  for (const [i, p] of (all as readonly Tensor[]).entries()) {
    if (!isTensor(p)) throw new Error(`clipGradNorm: parameters[${i}] is ${typeof p}; expected a tensor`);
    const g = p.grad;
    if (!g) continue;
    if (g.disposed) throw new Error(`clipGradNorm: the gradient of parameters[${i}] was disposed`);
    if (g.dtype !== "f32" && g.dtype !== "f16") {
      throw new Error(`clipGradNorm: the gradient of parameters[${i}] is ${g.dtype}; expected f32 or f16`);
    }
    grads.push(g);
  }
  const { device } = all[0] as Tensor;
  if (grads.length === 0) return zeros([], { device });
  const norm = empty([], { device });
  const factor = empty([], { device });
  const { partials, count } = sumSquares(grads);
  clipKernel().run({ params: { partials: count, maxNorm }, partials, norm, factor }, { workgroups: [1] });
  scaleAll(grads, factor);
  partials.dispose();
  factor.dispose();
  return norm;
}
