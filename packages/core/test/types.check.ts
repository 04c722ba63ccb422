/** Compile-time tests: each line marked as an error must not compile. Nothing here runs. */
import { kernel, record, type Tensor } from "@kindling/core";

declare const t: Tensor;
const half = /* wgsl */ `fn f() {}`;
const k = kernel(
  "k",
  /* wgsl */ `
override WG: u32 = 64;
override TILE: u32 = 8;
${half}
struct Params { n: u32, eps: f32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>; // hello: world;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
var<workgroup> scratch: array<f32, WG>;
@compute @workgroup_size(WG) fn main() { var a: f32 = 1.0; }
`,
);
const params = { n: 1, eps: 1 };
const launch = { workgroups: [1] } as const;

export function check(): void {
  k.run({ x: t, y: t, params }, { ...launch, constants: { WG: 1 } });
  // @ts-expect-error missing y
  k.run({ x: t, params }, launch);
  // @ts-expect-error misspelt binding
  k.run({ x: t, yy: t, params }, launch);
  // @ts-expect-error missing uniform field
  k.run({ x: t, y: t, params: { n: 1 } }, launch);
  // @ts-expect-error a number where a tensor is needed
  k.run({ x: 1, y: t, params }, launch);
  // @ts-expect-error unknown override
  k.run({ x: t, y: t, params }, { ...launch, constants: { WGS: 1 } });
  // @ts-expect-error workgroup memory is not a binding
  k.run({ x: t, y: t, params, scratch: t }, launch);

  record(t, [t, t], (dy) => [dy, null]);
  // @ts-expect-error one gradient too few
  record(t, [t, t], (dy) => [dy]);
  // @ts-expect-error one gradient too many
  record(t, [t], (dy) => [dy, dy]);
}
