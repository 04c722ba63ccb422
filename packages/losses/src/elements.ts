/**
 * Losses of element and target, as in torch.nn.functional: mse, l1, smoothL1, huber, bce, bceWithLogits, klDiv. `formulas`
 * has the value and the gradients of each. The loss is f32 for any input.
 * Order of this file: kernels, launchers, differentiable functions, modules.
 */
import {
  buffer,
  cast,
  delegated,
  empty,
  emptyLike,
  type FloatType,
  grid,
  kernel,
  needsGrad,
  record,
  type Tensor,
  threads,
  variants,
} from "@kindling/core";
import {
  checkFloats,
  checkReduction,
  failure,
  Loss,
  type LossOptions,
  type Reduction,
  type Rows,
  reduced,
  rowsOf,
} from "./reduction.ts";

// Kernels -----------------------------------------------------------------------------------------

interface Formula {
  /** WGSL expressions in x, t, the weights w and p (posWeight), and the loss's number a. */
  readonly value: string;
  readonly dx: string;
  /** Default: −dx. */
  readonly dt?: string;
  /** Inputs for which this is true are an error. */
  readonly outside?: string;
}

type Elementwise = "mse" | "l1" | "smoothL1" | "huber" | "bce" | "bceWithLogits" | "klDiv" | "klDivLog";

const formulas: Record<Elementwise, Formula> = {
  mse: { value: "(x - t) * (x - t)", dx: "2 * (x - t)" },
  l1: { value: "abs(x - t)", dx: "sign(x - t)" },
  smoothL1: {
    value: "select(abs(x - t) - 0.5 * a, 0.5 * (x - t) * (x - t) / a, abs(x - t) < a)",
    dx: "select(sign(x - t), (x - t) / a, abs(x - t) < a)",
  },
  huber: {
    value: "select(a * (abs(x - t) - 0.5 * a), 0.5 * (x - t) * (x - t), abs(x - t) < a)",
    dx: "select(a * sign(x - t), x - t, abs(x - t) < a)",
  },
  bce: {
    value: "-w * (t * cutLog(x) + (1 - t) * cutLog(1 - x))",
    dx: "w * (x - t) / max(x * (1 - x), 1e-12)",
    dt: "w * (cutLog(1 - x) - cutLog(x))",
    outside: "x < 0 || x > 1",
  },
  bceWithLogits: {
    value: "w * ((1 - t) * x + (1 + (p - 1) * t) * softplus(-x))",
    dx: "w * (1 - t - (1 + (p - 1) * t) * sigmoid(-x))",
    dt: "w * ((p - 1) * softplus(-x) - x)",
  },
  klDiv: { value: "select(t * (log(t) - x), 0, t == 0)", dx: "-t", dt: "log(t) + 1 - x" },
  klDivLog: { value: "exp(t) * (t - x)", dx: "-exp(t)", dt: "exp(t) * (t - x + 1)" },
};

/** Which weights there are; they repeat over x. */
type Weights = "" | "w" | "p" | "wp";

const elements = (X: FloatType, weights: Weights): string => /* wgsl */ `
struct Params { size: u32, ws: u32, ps: u32, a: f32, divisor: f32, perElement: u32, by: u32, fault: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<${X}>>;
@group(0) @binding(2) var<storage, read> labels: array<vec4<${X}>>;
${weights.includes("w") ? "@group(0) @binding(3) var<storage, read> weight: array<f32>;" : ""}
${weights.includes("p") ? "@group(0) @binding(4) var<storage, read> posWeight: array<f32>;" : ""}
fn weightAt(e: u32) -> f32 { return ${weights.includes("w") ? "weight[e % params.ws]" : "1"}; }
fn posWeightAt(e: u32) -> f32 { return ${weights.includes("p") ? "posWeight[e % params.ps]" : "1"}; }

/** As PyTorch cuts it, so that a certain mistake costs 100 and not infinity. */
fn cutLog(v: f32) -> f32 { return select(-100, max(log(v), -100), v > 0); }
fn softplus(v: f32) -> f32 { return max(v, 0) + log(1 + exp(-abs(v))); }
fn sigmoid(v: f32) -> f32 { return select(1, exp(-abs(v)), v < 0) / (1 + exp(-abs(v))); }`;

/** The loss of each element, or the sum of a workgroup's; the first workgroup adds what the mean divides by. */
const elementKernel = variants((loss: Elementwise, X: FloatType, weights: Weights, summed: boolean) => {
  const { value, outside } = formulas[loss];
  return kernel<string>(
    `${loss}.forward`,
    /* wgsl */ `
${elements(X, weights)}
@group(0) @binding(5) var<storage, read_write> loss: array<${summed ? "f32" : "vec4f"}>;
@group(0) @binding(6) var<storage, read_write> stats: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> faults: array<atomic<u32>>;

fn value(e: u32, x: f32, t: f32) -> f32 {
  if (e >= params.size) { return 0; }
  let w = weightAt(e);
  let p = posWeightAt(e);
  let a = params.a;
  if (${outside ?? "false"}) {
    atomicStore(&faults[params.fault], 1);
    atomicStore(&faults[params.fault + 1], e);
  }
  return ${value};
}

var<workgroup> parts: array<f32, 256>;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let vectors = (params.size + 3) / 4;
  var sum = 0.0;
  for (var i = (wg.x + wg.y * groups.x) * 256 + lane; i < vectors; i += groups.x * groups.y * 256) {
    let v = vec4f(x[i]);
    let t = vec4f(labels[i]);
    let e = 4 * i;
    let l = vec4f(value(e, v.x, t.x), value(e + 1, v.y, t.y), value(e + 2, v.z, t.z), value(e + 3, v.w, t.w));
    ${summed ? "sum += dot(l, vec4f(1));" : "loss[i] = l;"}
  }
  ${
    summed
      ? /* wgsl */ `parts[lane] = sum;
  for (var half = 128u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane < half) { parts[lane] += parts[lane + half]; }
  }
  if (lane != 0) { return; }
  loss[wg.x] = parts[0];
  stats[wg.x] = vec4f(0, 0, 0, select(0, params.divisor, wg.x == 0));`
      : ""
  }
}`,
  );
});

/** The gradient of x (`by` 0) or of t. */
const elementGradKernel = variants((loss: Elementwise, X: FloatType, weights: Weights) => {
  const { dx, dt = `-(${dx})` } = formulas[loss];
  return kernel<string>(
    `${loss}.grad`,
    /* wgsl */ `
${elements(X, weights)}
@group(0) @binding(5) var<storage, read> dy: array<f32>;
@group(0) @binding(6) var<storage, read> total: array<vec4f>;
@group(0) @binding(7) var<storage, read_write> dx: array<vec4<${X}>>;

fn grad(e: u32, x: f32, t: f32) -> f32 {
  let w = weightAt(e);
  let p = posWeightAt(e);
  let a = params.a;
  var g = dy[0] / total[0].w;
  if (params.perElement != 0) { g = dy[min(e, params.size - 1)]; }
  if (params.by == 0) { return g * (${dx}); }
  return g * (${dt});
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  let e = 4 * i;
  if (e >= params.size) { return; }
  let v = vec4f(x[i]);
  let t = vec4f(labels[i]);
  dx[i] = vec4<${X}>(vec4f(grad(e, v.x, t.x), grad(e + 1, v.y, t.y), grad(e + 2, v.z, t.z), grad(e + 3, v.w, t.w)));
}`,
  );
});

// Launchers ---------------------------------------------------------------------------------------

interface ElementSettings {
  readonly name: Elementwise;
  /** beta or delta. */
  readonly a?: number;
  readonly weight?: Tensor | null;
  readonly posWeight?: Tensor | null;
  readonly reduction: Reduction | "batchmean";
}

function elementLaunch(x: Tensor, labels: Tensor, { a = 0, weight, posWeight, reduction }: ElementSettings) {
  const weights = `${weight ? "w" : ""}${posWeight ? "p" : ""}` as Weights;
  const divisor = reduction === "batchmean" ? (x.shape[0] ?? 1) : x.size;
  const perElement = Number(reduction === "none");
  const sizes = { size: x.size, ws: weight?.size ?? 1, ps: posWeight?.size ?? 1 };
  return {
    variant: [x.dtype as FloatType, weights] as const,
    params: { ...sizes, a, divisor, perElement, by: 0, fault: 0 },
    bindings: { x, labels, ...(weight && { weight }), ...(posWeight && { posWeight }) },
  };
}

/** The loss of each element, or the sums of workgroups. */
function elementForward(x: Tensor, t: Tensor, settings: ElementSettings): Rows {
  const { name, reduction } = settings;
  const { variant, params, bindings } = elementLaunch(x, t, settings);
  const { faults, code } = x.device.fault(`${name}: the input at position % is outside [0, 1]`);
  const summed = reduction !== "none";
  const groups = Math.ceil(x.size / 1024);
  const workgroups = summed ? ([Math.min(groups, 1024)] as const) : grid(groups);
  const result = summed
    ? rowsOf(workgroups[0], x)
    : { loss: empty(x.shape, { device: x.device }), stats: empty([4], { device: x.device }) };
  elementKernel(name, ...variant, summed).run(
    { params: { ...params, fault: code }, ...bindings, ...result, faults },
    { workgroups },
  );
  return result;
}

function elementGrad(
  by: 0 | 1,
  dy: Tensor,
  x: Tensor,
  t: Tensor,
  settings: ElementSettings,
  total: Rows | null,
): Tensor {
  const { variant, params, bindings } = elementLaunch(x, t, settings);
  const dx = emptyLike(x);
  elementGradKernel(settings.name, ...variant).run(
    { params: { ...params, by }, ...bindings, dy, total: total?.stats ?? dy, dx },
    { workgroups: threads(Math.ceil(x.size / 4)) },
  );
  return dx;
}

// Differentiable functions ------------------------------------------------------------------------

function elementwise(input: Tensor, target: Tensor, settings: ElementSettings): Tensor {
  const { name, reduction } = settings;
  const fail = failure(name === "klDivLog" ? "klDiv" : name);
  checkFloats(fail, { input, target });
  if (`${target.shape}` !== `${input.shape}`)
    fail(`target has shape [${target.shape}], expected [${input.shape}] as input`);
  checkReduction(fail, reduction, name.startsWith("klDiv") ? ["batchmean"] : []);
  const repeated = (key: "weight" | "posWeight"): Tensor | null => {
    const w = settings[key];
    if (!w) return null;
    checkFloats(fail, { [key]: w });
    if (!`,${input.shape}`.endsWith(`,${w.shape}`)) {
      fail(`${key} has shape [${w.shape}], expected the last axes of input [${input.shape}]`);
    }
    return cast(w, "f32");
  };
  const f32 = { ...settings, weight: repeated("weight"), posWeight: repeated("posWeight") };
  const { weight, posWeight, ...rest } = f32;
  const other = delegated<Tensor>(name, { input, target, weight, posWeight }, rest);
  if (other) return other;
  const dtype = input.dtype === target.dtype ? input.dtype : "f32";
  const [x, t] = [cast(input, dtype), cast(target, dtype)];
  const rows = elementForward(x, t, f32);
  const { y, total } = reduced(rows, reduction, x.shape);
  rows.stats.dispose();
  return record(y, [x, t], (dy) => [
    needsGrad(x) ? elementGrad(0, dy, x, t, f32, total) : null,
    needsGrad(t) ? elementGrad(1, dy, x, t, f32, total) : null,
  ]);
}

/** (input − target)². */
export const mse = (input: Tensor, target: Tensor, { reduction = "mean" }: LossOptions = {}): Tensor =>
  elementwise(input, target, { name: "mse", reduction });

/** |input − target|. */
export const l1 = (input: Tensor, target: Tensor, { reduction = "mean" }: LossOptions = {}): Tensor =>
  elementwise(input, target, { name: "l1", reduction });

export interface SmoothL1Options extends LossOptions {
  /** Where the square ends. Default 1; 0 is l1. */
  beta?: number;
}

/** d² / (2·beta) for d = |input − target| below beta, d − beta/2 above. */
export function smoothL1(
  input: Tensor,
  target: Tensor,
  { beta = 1, reduction = "mean" }: SmoothL1Options = {},
): Tensor {
  if (!(beta >= 0)) throw new Error(`smoothL1: beta is ${beta}, expected 0 or more`);
  return elementwise(input, target, { name: "smoothL1", a: beta, reduction });
}

export interface HuberOptions extends LossOptions {
  /** Where the square ends. Default 1. */
  delta?: number;
}

/** d² / 2 for d = |input − target| below delta, delta · (d − delta/2) above. */
export function huber(input: Tensor, target: Tensor, { delta = 1, reduction = "mean" }: HuberOptions = {}): Tensor {
  if (!(delta > 0)) throw new Error(`huber: delta is ${delta}, expected more than 0`);
  return elementwise(input, target, { name: "huber", a: delta, reduction });
}

export interface BCEOptions extends LossOptions {
  /** Scales the loss of each element; its shape is that of input's last axes. */
  weight?: Tensor | null;
}

/** −(t·log(x) + (1−t)·log(1−x)), logarithms cut at −100. An input outside [0, 1] is an error at the next read. */
export const bce = (input: Tensor, target: Tensor, { weight, reduction = "mean" }: BCEOptions = {}): Tensor =>
  elementwise(input, target, { name: "bce", weight, reduction });

export interface BCEWithLogitsOptions extends BCEOptions {
  /** Scales the loss of positive targets; its shape is that of input's last axes. */
  posWeight?: Tensor | null;
}

/** `bce` of sigmoid(input), without overflow. */
export const bceWithLogits = (
  input: Tensor,
  target: Tensor,
  { weight, posWeight, reduction = "mean" }: BCEWithLogitsOptions = {},
): Tensor => elementwise(input, target, { name: "bceWithLogits", weight, posWeight, reduction });

export interface KLDivOptions {
  /** The target holds logarithms too. Default false. */
  logTarget?: boolean;
  /** Default "mean"; "batchmean" divides by the first axis only, as the definition does. */
  reduction?: Reduction | "batchmean";
}

/** t · (log t − input) for log-probabilities `input` and probabilities t. */
export const klDiv = (
  input: Tensor,
  target: Tensor,
  { logTarget = false, reduction = "mean" }: KLDivOptions = {},
): Tensor => elementwise(input, target, { name: logTarget ? "klDivLog" : "klDiv", reduction });

// Modules -----------------------------------------------------------------------------------------

/** `mse` as a module. */
export class MSELoss extends Loss<LossOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return mse(input, target, this.options);
  }
}

/** `l1` as a module. */
export class L1Loss extends Loss<LossOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return l1(input, target, this.options);
  }
}

/** `smoothL1` as a module. */
export class SmoothL1Loss extends Loss<SmoothL1Options> {
  forward(input: Tensor, target: Tensor): Tensor {
    return smoothL1(input, target, this.options);
  }
}

/** `huber` as a module. */
export class HuberLoss extends Loss<HuberOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return huber(input, target, this.options);
  }
}

/** `bce` as a module. */
export class BCELoss extends Loss<BCEOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return bce(input, target, { ...this.options, weight: this.weight });
  }
}

/** `bceWithLogits` as a module. */
export class BCEWithLogitsLoss extends Loss<BCEWithLogitsOptions> {
  readonly pos_weight: Tensor | null;

  constructor({ posWeight = null, ...options }: BCEWithLogitsOptions = {}) {
    super(options);
    this.pos_weight = posWeight && buffer(posWeight);
  }

  forward(input: Tensor, target: Tensor): Tensor {
    return bceWithLogits(input, target, { ...this.options, weight: this.weight, posWeight: this.pos_weight });
  }
}

/** `klDiv` as a module. */
export class KLDivLoss extends Loss<KLDivOptions> {
  forward(input: Tensor, target: Tensor): Tensor {
    return klDiv(input, target, this.options);
  }
}
