import { emptyLike, kernel, tensor } from "@kindling/core";
import { pointwise } from "@kindling/math/autodiff";

export async function example(): Promise<Record<string, Iterable<number>>> {
  const cube = pointwise("cube", "fn cube(x: f32) -> f32 { return x * x * x; }");
  const x = tensor([1, 2, -3]);
  const [y, dx] = [emptyLike(x), emptyLike(x)];
  const both = kernel<string>(
    "cubes",
    /* wgsl */ `
  @group(0) @binding(0) var<storage, read> x: array<f32>;
  @group(0) @binding(1) var<storage, read_write> y: array<f32>;
  @group(0) @binding(2) var<storage, read_write> dx: array<f32>;
  ${cube.forward}
  ${cube.backward}
  @compute @workgroup_size(3)
  fn main(@builtin(global_invocation_id) id: vec3u) {
    y[id.x] = cube(x[id.x]);
    dx[id.x] = cubeGrad(x[id.x], 1);
  }`,
  );
  both.run({ x, y, dx }, { workgroups: [1] });
  return { y: await y.data(), dx: await dx.data() };
}

export const expected: Record<string, number[]> = { y: [1, 8, -27], dx: [3, 12, 27] };
