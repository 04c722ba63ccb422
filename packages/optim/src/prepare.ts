/**
 * The kernels of one workgroup that stand before a pass over all tensors: they finish the sum of squares and compute what
 * that pass needs.
 */
import { empty, type Kernel, kernel, type Tensor, variants } from "@kindling/core";
import type { Rule, Settings } from "./groups.ts";
import { clipFactor, pairSum, type SquareSums } from "./norm.ts";

/** Elements of the table from one tensor to the next: 256 bytes, so that a tensor can stand for a step number. */
export const TABLE_STRIDE = 64;

/** Where in it the number of the group stands: behind the vec4 that a window on the step number may write. */
export const GROUP = 4;

/** Tensors that one `prepare` dispatch looks at, a bit for each. */
const PREPARED = 1024;
const MASKS: readonly number[] = Array.from({ length: PREPARED / 32 }, (_, k) => k);

/** Whether gradients carry a loss scale that this step divides by, or carried one that `unscale` took away. */
type ScalerMode = "none" | "scaled" | "unscaled";

export type PrepareKernels = (norm: boolean, scaler: ScalerMode) => Kernel<string>;

/**
 * The kernels that prepare one update rule; see optimizer.ts for the arrays. `coefficients` is WGSL of
 *   fn coefficientsOf(h0: vec4f, h1: vec4f, t: f32, multiplier: f32) -> array<vec4f, 2>
 * from the eight numbers of `Rule.settings`, the step number (from 1) and the number that the gradients are to be
 * multiplied with. The first coefficient is not negative.
 */
/* @__NO_SIDE_EFFECTS__ */
export function prepareKernels(label: string, coefficients: string): PrepareKernels {
  return variants((norm: boolean, scaler: ScalerMode) => {
    const bindings: string[] = [
      "var<storage, read> settings: array<vec4f>",
      "var<storage, read_write> table: array<u32>",
      "var<storage, read_write> coefficients: array<vec4f>",
    ];
    if (norm) bindings.push("var<storage, read> partials: array<vec2f>", "var<storage, read_write> norm: array<f32>");
    if (scaler === "scaled")
      bindings.push("var<storage, read> scale: array<f32>", "var<storage, read_write> found: array<u32>");
    if (scaler === "unscaled") bindings.push("var<storage, read> skipped: array<u32>");
    return kernel(
      `optim.${label}.prepare`,
      /* wgsl */ `
struct Params { first: u32, count: u32, partials: u32, ${MASKS.map((k) => `mask${k}: u32`).join(", ")} }

@group(0) @binding(0) var<uniform> params: Params;
${bindings.map((text, k) => `@group(0) @binding(${k + 1}) ${text};`).join("\n")}
${norm ? pairSum + clipFactor : ""}
${coefficients}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  var multiplier = ${scaler === "scaled" ? "1.0 / scale[0]" : "1.0"};
  var skip = ${scaler === "unscaled" ? "skipped[0] != 0" : "false"};
${
  norm
    ? /* wgsl */ `
  var sum = vec2f(0);
  for (var k = lane; k < params.partials; k += 256) { sum += partials[k]; }
  sum = pairSum(lane, sum);
  let total = sqrt(sum.x) * multiplier;
  if (lane == 0) { norm[0] = total; }
  if (settings[0].x > 0) { multiplier *= clipFactor(total, settings[0].x); }
`
    : ""
}
${
  scaler === "scaled"
    ? /* wgsl */ `
  // an overflow of the sum is as good a reason for a smaller scale as one of a gradient
  skip = sum.y > 0 || (bitcast<u32>(sum.x) & 0x7f800000) == 0x7f800000;
  if (lane == 0 && skip) { found[0] = 1; }
`
    : ""
}
  var masks = array<u32, ${MASKS.length}>(${MASKS.map((k) => `params.mask${k}`).join(", ")});
  for (var j = lane; j < params.count; j += 256) {
    if (((masks[j / 32] >> (j % 32)) & 1) == 0) { continue; }
    let i = params.first + j;
    if (skip) {
      coefficients[2 * i] = vec4f(-1);
      continue;
    }
    let t = table[${TABLE_STRIDE} * i] + 1;
    table[${TABLE_STRIDE} * i] = t;
    let h = 1 + 2 * table[${TABLE_STRIDE} * i + ${GROUP}];
    let c = coefficientsOf(settings[h], settings[h + 1], f32(t), multiplier);
    coefficients[2 * i] = c[0];
    coefficients[2 * i + 1] = c[1];
  }
}`,
    );
  });
}

/** Sets factor = 1 / scale, and skipped and found if a gradient is not finite. */
const unscaleKernel = variants(() =>
  kernel(
    "optim.unscale",
    /* wgsl */ `
struct Params { partials: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> partials: array<vec2f>;
@group(0) @binding(2) var<storage, read> scale: array<f32>;
@group(0) @binding(3) var<storage, read_write> factor: array<f32>;
@group(0) @binding(4) var<storage, read_write> skipped: array<u32>;
@group(0) @binding(5) var<storage, read_write> found: array<u32>;
${pairSum}

@compute @workgroup_size(256)
fn main(@builtin(local_invocation_index) lane: u32) {
  var sum = vec2f(0);
  for (var k = lane; k < params.partials; k += 256) { sum += partials[k]; }
  sum = pairSum(lane, sum);
  if (lane == 0) {
    let skip = sum.y > 0;
    factor[0] = 1.0 / scale[0];
    skipped[0] = select(0u, 1u, skip);
    if (skip) { found[0] = 1; }
  }
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

/** How a GradScaler takes part in a step: `scale` divides the gradients unless `unscale` did so before. */
export interface Scaling {
  readonly scale: Tensor;
  /** Set to 1 when a gradient is not finite. */
  readonly found: Tensor;
  readonly unscaled: boolean;
}

/** An optimizer's small arrays; see optimizer.ts. */
export interface Control {
  readonly settings: Tensor;
  readonly table: Tensor;
  readonly coefficients: Tensor;
  /** The gradients' total norm. */
  readonly norm: Tensor;
  /** 1 if `unscale` met a gradient that is not finite. */
  readonly skipped: Tensor;
}

/** Counts the step of every tensor that has a gradient and computes its coefficients. */
export function prepare<S extends Settings>(
  rule: Rule<S>,
  control: Control,
  grads: readonly (Tensor | null)[],
  sums: SquareSums | null,
  scaling: Scaling | null,
): void {
  const kernel = rule.prepare(sums !== null, !scaling ? "none" : scaling.unscaled ? "unscaled" : "scaled");
  const tensors = {
    ...control,
    ...(sums && { partials: sums.partials }),
    ...(scaling && { scale: scaling.scale, found: scaling.found }),
  };
  for (let first = 0; first < grads.length; first += PREPARED) {
    const count = Math.min(PREPARED, grads.length - first);
    const params: Record<string, number> = { first, count, partials: sums?.count ?? 0 };
    for (const k of MASKS) {
      let mask = 0;
      for (let bit = 0; bit < 32; bit++) if (grads[first + 32 * k + bit]) mask |= 1 << bit;
      params[`mask${k}`] = mask >>> 0;
    }
    kernel.run({ params, ...tensors }, { workgroups: [1] });
  }
}

/** 1 / scale; notes in `skipped` and `found` whether a gradient is not finite. The caller disposes it. */
export function unscaleFactor({ partials, count }: SquareSums, skipped: Tensor, { scale, found }: Scaling): Tensor {
  const factor = empty([], scale);
  unscaleKernel().run({ params: { partials: count }, partials, scale, factor, skipped, found }, { workgroups: [1] });
  return factor;
}
