/**
 * WGSL for reductions over a workgroup, for splicing into kernels. Each needs `override WG: u32`, a power of two of
 * threads in a workgroup, and is called from uniform control flow.
 */

/**
 * `fn workgroupSum(lane: u32, v: f32) -> f32` and `fn workgroupMax(lane: u32, v: f32) -> f32`: the reduction of `v` over
 * the workgroup, returned to every thread. A tree, so its order is the same on every device and its error grows with the
 * logarithm of WG.
 */
export const workgroupReduce = /* wgsl */ `
var<workgroup> partials: array<f32, WG>;

fn workgroupSum(lane: u32, v: f32) -> f32 {
  partials[lane] = v;
  for (var half = WG / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { partials[lane] += partials[lane + half]; }
  }
  return workgroupUniformLoad(&partials[0]);
}

fn workgroupMax(lane: u32, v: f32) -> f32 {
  partials[lane] = v;
  for (var half = WG / 2; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { partials[lane] = max(partials[lane], partials[lane + half]); }
  }
  return workgroupUniformLoad(&partials[0]);
}`;
