/**
 * Any pure function of one element over broadcast tensors: one kernel forward and one backward, which is derived.
 *
 *   y[i] = f(a[i], b[i], …)       da[i] = Σ dy[j] · ∂f/∂a(a[j], b[j], …) over the elements j that a[i] is repeated to
 *
 * Backward writes the gradient of an operand of y's shape directly. One that is a scalar or y's last axes adds up in the
 * registers of each thread, which walks over the tensor at a stride that is a multiple of the operand; what the threads
 * have at the end is summed by small kernels. Any other is written in full, in f32, and summed. All sums are in a fixed order.
 *
 * Order of this file: kernels, launchers, differentiable function.
 */
import {
  checkPointwise,
  type DType,
  elementOf,
  empty,
  grid,
  type Kernel,
  kernel,
  needsGrad,
  type Pointwise,
  record,
  type Tensor,
} from "@kindling/core";
import {
  binding,
  checkBuffers,
  checkOperands,
  components,
  each,
  fitsVectors,
  floatOf,
  gradientsOf,
  inputsOf,
  type Layout,
  type LoadedOperand,
  layoutOf,
  loaded,
  loadParams,
  loads,
  loadsKey,
  type Operand,
  type Parameter,
  type Place,
  paramsText,
  type Scalar,
  sumTo,
  type Width,
} from "./operands.ts";

/** A function of one element; `backward` is empty where nothing has a gradient. */
export interface ElementFunction {
  readonly name: string;
  /** The name for messages: in the kernels it may have got an underscore. */
  readonly called: string;
  readonly forward: string;
  readonly backward: string;
  readonly parameters: readonly Parameter[];
  readonly result: Scalar;
}

/** The types in a function's text, which is WGSL that compiles. */
function elementFunction(fn: Pointwise): ElementFunction {
  const { name, forward, backward } = checkPointwise("elementwise", fn);
  const text = forward.replace(/\/\/.*|\/\*[\s\S]*?\*\//g, "");
  const [, list, result] = new RegExp(`fn\\s+${name}\\s*\\(([^)]*)\\)\\s*->\\s*(\\w+)`).exec(text) ?? [];
  const parameters = [...(list ?? "").matchAll(/(\w+)\s*:\s*([\w<>]+)/g)].map(([, own, type]) => ({
    name: own!,
    type: type as Scalar,
  }));
  return checkTypes({ name, called: name, forward, backward, parameters, result: result as Scalar });
}

const scalars: readonly string[] = ["f32", "i32", "u32", "bool"];

export function checkTypes(fn: ElementFunction): ElementFunction {
  const { called, parameters, result } = fn;
  const wrong = parameters.find(({ type }) => !scalars.includes(type));
  if (wrong || !scalars.includes(result)) {
    const what = wrong ? `parameter ${wrong.name} is ${wrong.type}` : `the result is ${result}`;
    throw new Error(`elementwise: ${what} in ${called}, expected ${scalars.join(", ")}; f32 also takes f16 tensors`);
  }
  return fn;
}

// Kernels ---------------------------------------------------------------------------------------

const kernels = new WeakMap<ElementFunction, Map<string, Kernel>>();

function kernelOf(fn: ElementFunction, key: string, build: () => Kernel): Kernel {
  let own = kernels.get(fn);
  if (!own) kernels.set(fn, (own = new Map()));
  let made = own.get(key);
  if (!made) own.set(key, (made = build()));
  return made;
}

/** Two steps a thread, 256 apart: enough loads under way for f16 too. */
const main = (body: string): string => /* wgsl */ `
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (wg.x + wg.y * groups.x) * 512 + lane;
  for (var i = start; i < min(start + 512, params.steps); i += 256) {
${body}
  }
}`;

/** `threads` of them, each with its sums: `before` the loop and `after` it. */
const walk = (before: string, body: string, after: string): string => /* wgsl */ `
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let start = (wg.x + wg.y * groups.x) * 256 + lane;
  if (start >= params.threads) { return; }
${before}
  for (var i = start; i < params.steps; i += params.threads) {
${body}
  }
${after}
}`;

const values = (operands: readonly number[], at: string, indent: string): string =>
  operands.map((k) => `${indent}let _v${k} = _load${k}(${at});\n`).join("");

const argumentsAt = (count: number, component: string): string =>
  Array.from({ length: count }, (_, k) => `_v${k}${component}`).join(", ");

function forwardKernel(
  { name, forward, result }: ElementFunction,
  operands: readonly LoadedOperand[],
  Y: string,
  width: Width,
): Kernel {
  const { text, fields, next } = loads(operands, width);
  const call = (component: string): string => {
    const value = `${name}(${argumentsAt(operands.length, component)})`;
    return result === "bool" ? `u32(${value})` : value;
  };
  const T = result === "bool" ? "u32" : result;
  const value = each(T, width, call);
  return kernel<string>(
    `elementwise.${name}.forward`,
    /* wgsl */ `
${paramsText(["steps", ...fields])}
${text}${binding(next, "_out", Y, width, true)}
${forward}
${main(`${values([...operands.keys()], "i", "    ")}    _out[i] = ${Y === T ? value : width === 4 ? `vec4<${Y}>(${value})` : `${Y}(${value})`};`)}`,
  );
}

/** What becomes of a gradient: written, in the operand's dtype; added up by each thread; or written in f32 to be summed. */
type Way = "direct" | "one" | "tail" | "later";

const wayOf = ({ kind }: Place): Way =>
  kind === "full" ? "direct" : kind === "one" || kind === "tail" ? kind : "later";

/** `wanted`: the operands whose gradients it computes. */
function backwardKernel(
  { name, forward, backward, parameters }: ElementFunction,
  operands: readonly LoadedOperand[],
  wanted: readonly number[],
  DY: string,
  width: Width,
): Kernel {
  const { text, fields, next } = loads(operands, width);
  const struct = !new RegExp(`fn\\s+${name}Grad\\s*\\([^)]*\\)\\s*->\\s*f32\\b`).test(backward);
  const ways = wanted.map((k) => wayOf(operands[k]!.place));
  const F = width === 4 ? "vec4f" : "f32";
  const outputs = wanted.map((k, n) => {
    const own = ways[n] === "one" ? 1 : width;
    return binding(next + 1 + n, `_grad${k}`, ways[n] === "direct" ? operands[k]!.element : "f32", own, true);
  });
  const gradients = components(width).map(
    (component, n) => `    let _g${n} = ${name}Grad(${argumentsAt(operands.length, component)}, _d${component});`,
  );
  const sums = wanted.filter((_, n) => ways[n] === "one" || ways[n] === "tail");
  const stores = wanted.map((k, n) => {
    const member = struct ? `.d${parameters[k]!.name}` : "";
    const list = components(width).map((_, c) => `_g${c}${member}`);
    const value = width === 4 ? `vec4f(${list.join(", ")})` : list[0]!;
    if (sums.includes(k)) return `    _sum${k} += ${value};`;
    const { element } = operands[k]!;
    if (ways[n] === "later" || element === "f32") return `    _grad${k}[i] = ${value};`;
    return `    _grad${k}[i] = ${width === 4 ? `vec4<${element}>` : element}(${value});`;
  });
  // a thread meets the same elements of what it sums for at each step
  const inner = [...operands.keys()].filter((k) => !sums.includes(k));
  const body = [`${values(inner, "i", "    ")}    let _d = ${F}(_dout[i]);`, ...gradients, ...stores].join("\n");
  const total = (value: string): string =>
    components(width)
      .map((component) => `${value}${component}`)
      .join(" + ");
  return kernel<string>(
    `elementwise.${name}.backward`,
    /* wgsl */ `
${paramsText(["steps", ...(sums.length ? ["threads"] : []), ...fields])}
${text}${binding(next, "_dout", DY, width)}${outputs.join("")}
${forward}
${backward}
${
  sums.length === 0
    ? main(body)
    : walk(
        values(sums, "start", "  ") + sums.map((k) => `  var _sum${k} = ${F}();`).join("\n"),
        body,
        sums
          .map((k) => `  _grad${k}[start] = ${ways[wanted.indexOf(k)] === "tail" ? `_sum${k}` : total(`_sum${k}`)};`)
          .join("\n"),
      )
}`,
  );
}

// Launchers -------------------------------------------------------------------------------------

function launchForward(fn: ElementFunction, operands: readonly Operand[], layout: Layout, dtype: DType): Tensor {
  const { device } = operands.find((operand) => typeof operand !== "number") as Tensor;
  const read = loaded(fn.parameters, operands, layout);
  const width = fitsVectors(layout) ? 4 : 1;
  const Y = elementOf(dtype);
  const run = kernelOf(fn, `forward,${loadsKey(read)},${Y},${width}`, () => forwardKernel(fn, read, Y, width));
  const y = empty(layout.shape, { dtype, device });
  const steps = Math.ceil(y.size / width);
  const params = { steps, ...loadParams(layout, operands, width) };
  run.run({ params, ...inputsOf(operands), _out: y }, { workgroups: grid(Math.ceil(steps / 512)) });
  return y;
}

/** Threads that walk over a large tensor. */
const walkers = 2 ** 18;

function launchBackward(
  fn: ElementFunction,
  operands: readonly Operand[],
  layout: Layout,
  dy: Tensor,
  wanted: readonly number[],
): Tensor[] {
  const read = loaded(fn.parameters, operands, layout);
  const ways = wanted.map((k) => wayOf(layout.places[k]!));
  const sums = ways.some((way) => way === "one" || way === "tail");
  // the padding behind the last element must not be added to a sum
  const width = fitsVectors(layout) && (!sums || dy.size % 4 === 0) ? 4 : 1;
  const key = `backward,${loadsKey(read)},${dy.dtype},${width},${wanted}`;
  const run = kernelOf(fn, key, () => backwardKernel(fn, read, wanted, dy.dtype, width));
  const steps = Math.ceil(dy.size / width);
  const tails = wanted.flatMap((k, n) => (ways[n] === "tail" ? [(operands[k] as Tensor).size / width] : []));
  const period = Math.max(1, ...tails); // the shorter ones divide the longest: all are last axes of one shape
  const threads = sums ? period * Math.max(1, Math.floor(Math.min(walkers, steps / 8) / period)) : 0;
  const outputs = wanted.map((k, n) => {
    const operand = operands[k] as Tensor;
    if (ways[n] === "direct") return empty(operand.shape, operand);
    const size = ways[n] === "later" ? dy.size : ways[n] === "one" ? threads : threads * width;
    return empty([size], { device: dy.device });
  });
  const params = { steps, threads, ...loadParams(layout, operands, width) };
  const grads = Object.fromEntries(wanted.map((k, n) => [`_grad${k}`, outputs[n]!]));
  run.run(
    { params, ...inputsOf(operands), _dout: dy, ...grads },
    { workgroups: grid(Math.ceil(sums ? threads / 256 : steps / 512)) },
  );
  return wanted.map((k, n) => {
    const [operand, output, way] = [operands[k] as Tensor, outputs[n]!, ways[n]];
    if (way === "direct") return output;
    if (way === "later") return sumTo(operand, output, layout.sizes, layout.places[k]!.axes);
    return sumTo(operand, output, [output.size / operand.size, operand.size], [false, true]);
  });
}

// Differentiable function -----------------------------------------------------------------------

export function runElementwise(fn: ElementFunction, operands: readonly Operand[]): Tensor {
  const where = `elementwise: ${fn.called}`;
  const tensors = checkOperands(where, fn.parameters, operands);
  const layout = layoutOf(where, operands);
  const dtype = fn.result === "f32" ? floatOf(tensors) : fn.result;
  const differentiable = fn.backward !== "" && fn.result === "f32" && tensors.some(needsGrad);
  checkBuffers(where, tensors, differentiable ? 2 : 1);
  const y = launchForward(fn, operands, layout, dtype);
  if (!differentiable) return y;
  return record(y, tensors, (dy) =>
    gradientsOf(operands, (wanted) => launchBackward(fn, operands, layout, dy, wanted)),
  );
}

const known = new WeakMap<Pointwise, ElementFunction>();

export function elementFunctionOf(fn: Pointwise): ElementFunction {
  let own = known.get(fn);
  if (!own) known.set(fn, (own = elementFunction(fn)));
  return own;
}

/**
 * `fn` of every element of its operands, which broadcast as in PyTorch: one kernel, and one for all gradients.
 *
 * `fn` is a value that carries its derivative: one of this package's, one of @kindling/activations, or what
 * `pointwise` makes of your own text; `elementwise` of @kindling/math/autodiff takes text itself. A parameter of f32 takes
 * f32 and f16 tensors and numbers, one of i32, u32 or bool takes tensors of that dtype. The result is f32, or f16 where all
 * float operands are. Throws on a wrong count, dtype, shape or device, and where the GPU binds fewer buffers.
 */
export function elementwise(fn: Pointwise, ...operands: readonly Operand[]): Tensor {
  if (typeof fn === "string") {
    throw new Error(
      "elementwise: got WGSL text; elementwise of @kindling/math/autodiff takes that, this one takes values that carry their derivative, as pointwise makes them",
    );
  }
  return runElementwise(elementFunctionOf(fn), operands);
}
