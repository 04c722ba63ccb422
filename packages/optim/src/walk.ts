/**
 * Multi-tensor kernels: one dispatch works on as many tensors as the device binds. WGSL cannot choose a binding while it
 * runs, so the text is written for a number of tensors, one branch for each, and a table in the parameters says which
 * workgroups belong to which tensor:
 *
 *   workgroups   0 …… end0 | …… end1 | …… end2          tensor k takes those from end(k-1) to end(k)
 */
import {
  type Device,
  type FloatType,
  grid,
  type Kernel,
  kernel,
  persist,
  type Tensor,
  variants,
  zeros,
} from "@kindling/core";

export const WG = 256;

/**
 * Most tensors in one dispatch. More would save dispatches where only one array a tensor is bound, but a software GPU
 * takes a tenth of a second to compile each branch.
 */
const MAX_TENSORS = 8;

/** How many tensors one dispatch takes that binds `each` arrays for every tensor and `others` beside them. */
export const tensorsPerDispatch = (device: Device, each: number, others: number): number =>
  Math.max(1, Math.min(MAX_TENSORS, Math.floor((device.limits.maxStorageBuffersPerShaderStage - others) / each)));

/** vec4s that hold the elements of `t`. */
export const vectorsOf = (t: Tensor): number => Math.ceil(t.size / 4);

const range = (count: number): number[] => Array.from({ length: count }, (_, k) => k);

// WGSL pieces -----------------------------------------------------------------------------------

/** `text(k)` for every tensor, one after another. */
export const each = (count: number, text: (k: number) => string): string => range(count).map(text).join("\n");

/** The parameter struct: for each tensor its last workgroup and `fields`, then `others`. */
export const params = (count: number, fields: readonly string[], others: readonly string[] = []): string => /* wgsl */ `
struct Params {
${each(count, (k) => ["end", ...fields].map((field) => `  ${field}${k}: u32,`).join("\n"))}
${others.map((field) => `  ${field}: u32,`).join("\n")}
}
@group(0) @binding(0) var<uniform> params: Params;`;

/**
 * WGSL that finds the tensor `slot` to which this workgroup belongs: `fields` of it as variables, and `w`, the
 * workgroup's number within the tensor. Workgroups beyond the last tensor come out beyond its end.
 */
export const locate = (count: number, fields: readonly string[]): string => /* wgsl */ `
  let group = wg.x + wg.y * groups.x;
  var slot = 0u;
  var w = group;
${fields.map((field) => `  var ${field} = params.${field}0;`).join("\n")}
${range(count)
  .slice(1)
  .map(
    (k) =>
      `  if (group >= params.end${k - 1}) { slot = ${k}; w = group - params.end${k - 1}; ${fields.map((field) => `${field} = params.${field}${k};`).join(" ")} }`,
  )
  .join("\n")}`;

/** `fn loadX(slot: u32, i: u32) -> vec4f`: vec4 i of the array x0, x1 … of tensor `slot`, X being `name`. */
export const loader = (name: string, count: number): string => /* wgsl */ `
fn load${name.toUpperCase()}(slot: u32, i: u32) -> vec4f {
  switch (slot) {
${each(count, (k) => `    case ${k}: { return vec4f(${name}${k}[i]); }`)}
    default: { return vec4f(0); }
  }
}`;

/** `fn storeX(slot: u32, i: u32, v: vec4f)`. */
export const storer = (name: string, T: FloatType, count: number): string => /* wgsl */ `
fn store${name.toUpperCase()}(slot: u32, i: u32, v: vec4f) {
  switch (slot) {
${each(count, (k) => `    case ${k}: { ${name}${k}[i] = vec4<${T}>(v); }`)}
    default: {}
  }
}`;

export const MAIN = /* wgsl */ `
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {`;

// Update ----------------------------------------------------------------------------------------

/** How the moments of a batch lie: `joint`, in one array tensor after tensor, or `split`, in an array for each kind. */
type Layout = "joint" | "split";

export type UpdateKernels = (
  count: number,
  P: FloatType,
  G: FloatType,
  layout: Layout,
  skips: boolean,
) => Kernel<string>;

/**
 * The kernels of one update rule. `rule` is WGSL that defines, with `moments` arguments `s0`, `s1` …,
 *   struct Updated { p: vec4f, s0: vec4f, … }
 *   fn update(p: vec4f, g: vec4f, s0: vec4f, …, a: vec4f, b: vec4f) -> Updated
 * a and b are the tensor's coefficients. A kernel that `skips` leaves everything as it is where a.x is negative.
 */
/* @__NO_SIDE_EFFECTS__ */
export function updateKernels(label: string, moments: number, rule: string): UpdateKernels {
  return variants((count: number, P: FloatType, G: FloatType, layout: Layout, skips: boolean) => {
    const arrays = moments === 0 ? [] : layout === "joint" ? ["state"] : range(moments).map((s) => `state${s}`);
    const first = 2 + arrays.length;
    const at = (s: number): string => (layout === "joint" ? `state[base + ${s} * stride + i]` : `state${s}[base + i]`);
    const moment = range(moments);
    return kernel(
      `optim.${label}.${P}.${G}.${layout}x${count}`,
      /* wgsl */ `
${params(count, ["vectors", "base", "index"])}
@group(0) @binding(1) var<storage, read> coefficients: array<vec4f>;
${arrays.map((name, n) => `@group(0) @binding(${2 + n}) var<storage, read_write> ${name}: array<vec4f>;`).join("\n")}
${each(
  count,
  (k) => `@group(0) @binding(${first + 2 * k}) var<storage, read_write> p${k}: array<vec4<${P}>>;
@group(0) @binding(${first + 2 * k + 1}) var<storage, read> g${k}: array<vec4<${G}>>;`,
)}
${loader("p", count)}
${loader("g", count)}
${storer("p", P, count)}
${rule}
${MAIN}
${locate(count, ["vectors", "base", "index"])}
  let i = w * 256 + lane;
  if (i >= vectors) { return; }
  let stride = (vectors + 15) & ~15u;
  let a = coefficients[2 * index];
  let b = coefficients[2 * index + 1];
  let r = update(loadP(slot, i), loadG(slot, i)${moment.map((s) => `, ${at(s)}`).join("")}, a, b);
${skips ? "  if (a.x < 0) { return; }" : ""}
  storeP(slot, i, r.p);
${moment.map((s) => `  ${at(s)} = r.s${s};`).join("\n")}
}`,
    );
  });
}

/** Tensors updated by one dispatch, with their moments in arrays of their own, so that dispatches can overlap. */
export interface Batch {
  /** Number of the first tensor. */
  readonly first: number;
  readonly tensors: readonly Tensor[];
  /** First vec4 of each tensor's moments. */
  readonly bases: readonly number[];
  readonly layout: Layout;
  readonly state: readonly Tensor[];
  /** By the tensors that have a gradient, and its dtype. */
  readonly launches: Map<string, Launch>;
}

interface Launch {
  readonly kernel: Kernel<string>;
  readonly bindings: Record<string, Tensor | Record<string, number>>;
  readonly workgroups: readonly [number, number];
}

/** vec4s of a moment: a multiple of 256 bytes, so that a tensor can be a window on it. */
const align = (vectors: number): number => Math.ceil(vectors / 16) * 16;

/** Divides `tensors` into batches and makes their moments, all zero. */
export function planBatches(tensors: readonly Tensor[], moments: number): Batch[] {
  const { device } = tensors[0]!;
  const { maxStorageBufferBindingSize, maxBufferSize } = device.limits;
  const most = Math.floor(Math.min(maxStorageBufferBindingSize, maxBufferSize) / 16);
  const limit = tensorsPerDispatch(device, 2, moments > 0 ? 2 : 1);
  const array = (vectors: number): Tensor => persist(zeros([4 * vectors], { device }));
  const plan: Batch[] = [];
  for (let first = 0; first < tensors.length; ) {
    const bases: number[] = [];
    let end = 0;
    let next = first;
    for (; next < tensors.length && next - first < limit && tensors[next]!.dtype === tensors[first]!.dtype; next++) {
      const vectors = moments * align(vectorsOf(tensors[next]!));
      if (next > first && end + vectors > most) break;
      bases.push(end);
      end += vectors;
    }
    // The moments of one large tensor may not fit a binding together.
    const layout = end > most ? "split" : "joint";
    const arrays = layout === "split" ? moments : Math.min(moments, 1);
    const state = range(arrays).map(() => array(end / arrays));
    plan.push({ first, tensors: tensors.slice(first, next), bases, layout, state, launches: new Map() });
    first = next;
  }
  return plan;
}

/** A window on moment `s` of tensor `k` of a batch. */
export function momentOf({ tensors, bases, layout, state }: Batch, k: number, s: number): Tensor {
  const t = tensors[k]!;
  const joint = layout === "joint";
  return state[joint ? 0 : s]!.view(4 * (bases[k]! + (joint ? s * align(vectorsOf(t)) : 0)), t.shape);
}

/** Updates those tensors of a batch that have a gradient. */
export function updateBatch(
  kernels: UpdateKernels,
  batch: Batch,
  coefficients: Tensor,
  grads: readonly (Tensor | null)[],
  skips: boolean,
): void {
  const { first, tensors, launches } = batch;
  for (const G of ["f32", "f16"] as const) {
    const present = [...tensors.keys()].filter((k) => grads[first + k]?.dtype === G);
    if (present.length === 0) continue;
    const key = `${G} ${skips} ${present}`;
    let launch = launches.get(key);
    if (!launch) launches.set(key, (launch = prepareLaunch(kernels, batch, coefficients, present, G, skips)));
    const { kernel, bindings } = launch;
    for (const [j, k] of present.entries()) bindings[`g${j}`] = grads[first + k]!;
    kernel.run(bindings, launch);
  }
}

function prepareLaunch(
  kernels: UpdateKernels,
  { first, tensors, bases, layout, state }: Batch,
  coefficients: Tensor,
  present: readonly number[],
  G: FloatType,
  skips: boolean,
): Launch {
  const words: Record<string, number> = {};
  const bindings: Launch["bindings"] = { params: words, coefficients };
  for (const [s, t] of state.entries()) bindings[layout === "joint" ? "state" : `state${s}`] = t;
  const updated = present.map((k) => tensors[k]!);
  const workgroups = grid(table(words, updated, WG));
  for (const [j, k] of present.entries()) {
    words[`base${j}`] = bases[k]!;
    words[`index${j}`] = first + k;
    bindings[`p${j}`] = tensors[k]!;
  }
  return { kernel: kernels(present.length, tensors[0]!.dtype as FloatType, G, layout, skips), bindings, workgroups };
}

/** Writes `end` and `vectors` of each tensor, `span` vec4s for a workgroup, and returns the workgroups of all. */
export function table(words: Record<string, number>, tensors: readonly Tensor[], span: number): number {
  let end = 0;
  for (const [k, t] of tensors.entries()) {
    words[`end${k}`] = end += Math.ceil(vectorsOf(t) / span);
    words[`vectors${k}`] = vectorsOf(t);
  }
  return end;
}

// Passes over gradients -------------------------------------------------------------------------

/**
 * Runs of tensors of one dtype for passes that bind one array a tensor and one beside them. Large tensors come first: a
 * dispatch then has either much to do or little, and few of them end on a half-empty GPU.
 */
export function* batches(tensors: readonly Tensor[]): Generator<Tensor[]> {
  const limit = tensorsPerDispatch(tensors[0]!.device, 1, 1);
  for (const dtype of ["f32", "f16"]) {
    const same = tensors.filter((t) => t.dtype === dtype).sort((a, b) => b.size - a.size);
    for (let at = 0; at < same.length; at += limit) yield same.slice(at, at + limit);
  }
}

/** vec4s for a workgroup: enough that a few thousand workgroups do for all `tensors` together. */
export function spanOf(tensors: readonly Tensor[]): number {
  const vectors = tensors.reduce((n, t) => n + vectorsOf(t), 0);
  return WG * Math.max(8, Math.ceil(vectors / (WG * 8192)));
}

const scaleKernel = variants(
  (count: number, G: FloatType): Kernel<string> =>
    kernel(
      `optim.scale.${G}x${count}`,
      /* wgsl */ `
${params(count, ["vectors"], ["span"])}
@group(0) @binding(1) var<storage, read> factor: array<f32>;
${each(count, (k) => `@group(0) @binding(${2 + k}) var<storage, read_write> g${k}: array<vec4<${G}>>;`)}
${loader("g", count)}
${storer("g", G, count)}
${MAIN}
${locate(count, ["vectors"])}
  let f = factor[0];
  // by bits: NaN must not count as one, whatever WGSL makes of a comparison with it
  if (bitcast<u32>(f) == bitcast<u32>(1.0)) { return; }
  let end = min((w + 1) * params.span, vectors);
  for (var i = w * params.span + lane; i < end; i += 256) { storeG(slot, i, f * loadG(slot, i)); }
}`,
    ),
);

/** Multiplies all `tensors` in place by the number in `factor`. */
export function scaleAll(tensors: readonly Tensor[], factor: Tensor): void {
  const span = spanOf(tensors);
  for (const batch of batches(tensors)) {
    const words: Record<string, number> = { span };
    const bindings: Record<string, Tensor | Record<string, number>> = { params: words, factor };
    const count = table(words, batch, span);
    for (const [k, g] of batch.entries()) bindings[`g${k}`] = g;
    scaleKernel(batch.length, batch[0]!.dtype as FloatType).run(bindings, { workgroups: grid(count) });
  }
}
