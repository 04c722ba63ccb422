/**
 * Repeats a tensor along axes of size 1, for operands whose leading axes differ; axis by axis:
 *
 *   y[o, k, i] = x[o, i]       dx[o, i] = Σ_k dy[o, k, i], in order
 */
import { threads } from "./arithmetic.ts";
import { record } from "./autograd.ts";
import { kernel, variants } from "./kernel.ts";
import { empty, emptyLike, type FloatType, type Shape, sizeOf, type Tensor } from "./tensor.ts";

const source = (T: FloatType, from: string, to: string, body: string): string => /* wgsl */ `
struct Params { size: u32, count: u32, inner: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ${from}: array<${T}>;
@group(0) @binding(2) var<storage, read_write> ${to}: array<${T}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.size) { return; }
  ${body}
}`;

const repeatKernel = variants((T: FloatType) =>
  kernel<string>(
    `repeat.${T}`,
    source(T, "x", "y", "y[i] = x[i / (params.count * params.inner) * params.inner + i % params.inner];"),
  ),
);

const sumKernel = variants((T: FloatType) =>
  kernel<string>(
    `repeat.grad.${T}`,
    source(
      T,
      "dy",
      "dx",
      `let first = i / params.inner * params.count * params.inner + i % params.inner;
  var sum = 0.0;
  for (var k = 0u; k < params.count; k++) { sum += f32(dy[first + k * params.inner]); }
  dx[i] = ${T}(sum);`,
    ),
  ),
);

/** The shape that two shapes are both repeated to, aligned at their last axes; null if there is none. */
export function broadcast(a: Shape, b: Shape): Shape | null {
  const shape: number[] = [];
  for (let i = 1; i <= Math.max(a.length, b.length); i++) {
    const [p, q] = [a.at(-i) ?? 1, b.at(-i) ?? 1];
    if (p !== q && p !== 1 && q !== 1) return null;
    shape.unshift(Math.max(p, q));
  }
  return shape;
}

/** x, repeated along axis `axis`, where it has size 1. */
function repeatAxis(x: Tensor, axis: number, count: number): Tensor {
  const inner = sizeOf(x.shape.slice(axis + 1));
  const y = empty(
    x.shape.map((size, i) => (i === axis ? count : size)),
    x,
  );
  const T = x.dtype as FloatType;
  repeatKernel(T).run({ params: { size: y.size, count, inner }, x, y }, { workgroups: threads(y.size) });
  return record(y, [x], (dy) => {
    const dx = emptyLike(x);
    sumKernel(T).run({ params: { size: x.size, count, inner }, dy, dx }, { workgroups: threads(x.size) });
    return [dx];
  });
}

/** x with its leading axes, all but `last`, repeated to `lead`. */
export function repeatTo(x: Tensor, lead: Shape, last: number): Tensor {
  const shape = [...Array(lead.length + last - x.shape.length).fill(1), ...x.shape];
  let y = shape.length === x.shape.length ? x : x.reshape(shape);
  lead.forEach((size, axis) => {
    if (y.shape[axis] !== size) y = repeatAxis(y, axis, size);
  });
  return y;
}
