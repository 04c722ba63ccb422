/**
 * Dropout (Srivastava et al. 2014). Matches torch.nn.functional.dropout.
 *
 *   y  = x · m       m = 0 with probability p, else 1 / (1 − p)
 *   dx = dy · m
 *
 * The mask is never stored: four of its elements are a pure function of their number, the random stream and the seed
 * (pcg4d), and backward draws them again.
 * Order of this file: kernel, launcher, differentiable function, module.
 */
import {
  delegated,
  emptyLike,
  type FloatType,
  grid,
  kernel,
  Module,
  nextStream,
  pcg4d,
  record,
  type Stream,
  type Tensor,
  variants,
  zeros,
} from "@kindling/core";

// Kernel ----------------------------------------------------------------------------------------

/** Two vec4s a thread, 256 apart: enough loads under way for f16 too. */
const dropoutKernel = variants((T: FloatType) =>
  kernel(
    `dropout.${T}`,
    /* wgsl */ `
struct Params { vectors: u32, stream: u32, threshold: u32, scale: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> rng: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<vec4<${T}>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<${T}>>;
${pcg4d}

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (wg.x + wg.y * groups.x) * 512 + lane;
  for (var i = start; i < min(start + 512, params.vectors); i += 256) {
    let bits = pcg4d(vec4u(i, rng[2] + params.stream, rng[0], rng[1]));
    y[i] = vec4<${T}>(select(vec4f(0), vec4f(x[i]) * params.scale, bits >= vec4u(params.threshold)));
  }
}`,
  ),
);

// Launcher --------------------------------------------------------------------------------------

/** x · m for the mask that `stream` draws, 0 < p < 1: forward of x, backward of dy. */
export function applyMask(x: Tensor, p: number, stream: Stream): Tensor {
  const y = emptyLike(x);
  const vectors = Math.ceil(x.size / 4);
  const threshold = Math.min(Math.round(p * 2 ** 32), 2 ** 32 - 1);
  const params = { vectors, stream: stream.offset, threshold, scale: 1 / (1 - p) };
  dropoutKernel(x.dtype as FloatType).run(
    { params, rng: stream.state, x, y },
    { workgroups: grid(Math.ceil(vectors / 512)) },
  );
  return y;
}

// Differentiable function -----------------------------------------------------------------------

/** Zeroes elements of `x` with probability `p` and scales the others by 1 / (1 − p); `x` itself if not training or p is 0. */
export function dropout(x: Tensor, p = 0.5, { training = true }: { training?: boolean } = {}): Tensor {
  if (x.dtype !== "f32" && x.dtype !== "f16") throw new Error(`dropout: x is ${x.dtype}, expected f32 or f16`);
  checkProbability("dropout", p);
  if (!training || p === 0) return x;
  const other = delegated<Tensor>("dropout", { x }, { p });
  if (other) return other;
  const none = (like: Tensor): Tensor => zeros(like.shape, like);
  if (p === 1) return record(none(x), [x], (dy) => [none(dy)]);
  const stream = nextStream(x.device);
  return record(applyMask(x, p, stream), [x], (dy) => [applyMask(dy, p, stream)]);
}

function checkProbability(where: string, p: number): number {
  if (!(p >= 0 && p <= 1)) throw new Error(`${where}: p is ${p}, expected a probability from 0 to 1`);
  return p;
}

// Module ----------------------------------------------------------------------------------------

/** `dropout` while training, nothing in eval. Matches torch.nn.Dropout. */
export class Dropout extends Module {
  readonly p: number;

  constructor(p = 0.5) {
    super();
    this.p = checkProbability("Dropout", p);
  }

  forward(x: Tensor): Tensor {
    return dropout(x, this.p, this);
  }

  protected override extraRepr(): string {
    return `p=${this.p}`;
  }
}
