/** What memory gives: a copy, with which kernels that are bound by memory are compared. */
import { empty, grid, kernel, randn, variants } from "@kindling/core";
import { expectClose, head } from "./checks.ts";
import { type Case, kernelCase, type Sizes } from "./measure.ts";

/** Two vectors a thread, as the elementwise kernels of the layers have. */
const copyKernel = variants(() =>
  kernel(
    "bench.copy",
    /* wgsl */ `
struct Params { vectors: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4f>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4f>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (wg.x + wg.y * groups.x) * 512 + lane;
  for (var i = start; i < min(start + 512, params.vectors); i += 256) { y[i] = x[i]; }
}`,
  ),
);

export const cases = ({ copy }: Sizes): Case[] => copy.map((mebibytes) => copyCase(mebibytes));

function copyCase(mebibytes: number): Case {
  const vectors = mebibytes * 2 ** 16;
  const setup = () => {
    const x = randn([4 * vectors]);
    return {
      step: () => {
        const y = empty(x.shape);
        copyKernel().run({ params: { vectors }, x, y }, { workgroups: grid(Math.ceil(vectors / 512)) });
        return [y];
      },
      check: async ([y]: readonly (typeof x)[]) => expectClose("y", await head(y!), await head(x), 0),
    };
  };
  return kernelCase(`copy ${mebibytes} MiB`, setup, { bytes: 32 * vectors });
}
