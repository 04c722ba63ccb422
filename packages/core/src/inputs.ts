/**
 * Inputs of an activation, `fn gate(x: f32, mask: f32) -> f32`: text and bindings for the kernels of the layer that the
 * activation is fused into.
 *
 *   y = f(z, a, …)       dz = dy · ∂f/∂z       da = dy · ∂f/∂a
 *
 * a has the shape of the result, or one value for each of its channels: then da is the sum over all else.
 */
import { elementOf, sumRows } from "./arithmetic.ts";
import { needsGrad } from "./autograd.ts";
import type { Finish } from "./matmul.kernels.ts";
import { checkPointwise, type Pointwise, pointwiseParameters } from "./pointwise.ts";
import { empty, type FloatType, type Shape, sizeOf, type Tensor } from "./tensor.ts";

/** Tensors for the parameters of an activation after the first. */
export interface Inputs {
  readonly activation: Pointwise;
  readonly tensors: readonly Tensor[];
  readonly shape: Shape;
  /** Binding number of the first. */
  readonly at: number;
  /**
   * The activation, the tensors' bindings and `fn finish4(i: u32, v: vec4f) -> vec4f`, which applies it to vec4 number
   * i of the result, `finish1` to element i. Equal for equal dtypes and forms: kernels are cached by its source.
   */
  readonly text: Finish;
  readonly bindings: Readonly<Record<string, Tensor>>;
  readonly params: Readonly<Record<string, number>>;
}

/** The matrix product knows a text by its identity. */
const texts = new Map<string, Finish>();

const lanes = (wide: boolean): string[] => (wide ? [".x", ".y", ".z", ".w"] : [""]);
const typeOf = (wide: boolean): string => (wide ? "vec4f" : "f32");
const isFull = ({ shape }: Tensor, of: Shape): boolean => shape.join() === of.join();

export interface InputsOptions {
  /** Binding number of the first. Default 6. */
  readonly at?: number;
  /** Of the functions that apply the activation, before 1 and 4. Default "finish". */
  readonly name?: string;
  /** Storage buffers that the layer's gradient kernel binds besides. Default 4. */
  readonly others?: number;
  /** Whether that kernel sums gradients of per-channel inputs, see `inputGrads`. Default true. */
  readonly summing?: boolean;
}

/**
 * Null without tensors. `shape` is the result's, and `axis`, from the front, that of its channels. Checks the
 * activation, and that the device binds enough buffers, too.
 */
export function inputsOf(
  where: string,
  activation: Pointwise | null | undefined,
  tensors: readonly Tensor[],
  shape: Shape,
  axis: number,
  { at = 6, name = "finish", others = 4, summing = true }: InputsOptions = {},
): Inputs | null {
  if (activation) checkPointwise(`${where}: activation`, activation, tensors.length);
  if (tensors.length === 0) return null;
  if (!activation) throw new Error(`${where}: ${tensors.length} inputs, expected none without an activation`);
  const [inputRun, inputChannels] = [sizeOf(shape.slice(axis + 1)), shape[axis] ?? 1];
  const parameters = pointwiseParameters(activation);
  const reads = tensors.map((t, k) => {
    const full = isFull(t, shape);
    if (!full && t.shape.join() !== `${inputChannels}`)
      throw new Error(
        `${where}: ${parameters[k + 1]} has shape [${t.shape}], expected [${shape}] or [${inputChannels}]`,
      );
    if (t.dtype !== "f32" && t.dtype !== "f16" && t.dtype !== "bool")
      throw new Error(`${where}: ${parameters[k + 1]} is ${t.dtype}, expected f32, f16 or bool`);
    const four = (): string => {
      if (full) return `input${k}[i]`;
      if (inputRun % 4 === 0) return `input${k}At1(4 * i)`;
      if (inputRun === 1 && inputChannels % 4 === 0) return `input${k}[i % (params.inputChannels / 4)]`;
      return [0, 1, 2, 3].map((e) => `input${k}At1(4 * i + ${e})`).join(", ");
    };
    return /* wgsl */ `
@group(0) @binding(${at + k}) var<storage, read> input${k}: array<vec4<${elementOf(t.dtype)}>>;
fn input${k}At1(i: u32) -> f32 {
  let at = ${full ? "i" : "i / params.inputRun % params.inputChannels"};
  return f32(input${k}[at / 4][at % 4]);
}
fn input${k}At4(i: u32) -> vec4f { return vec4f(${four()}); }`;
  });
  const { name: gpu, limits } = tensors[0]!.device;
  const wanted = tensors.filter(needsGrad);
  const full = wanted.filter((t) => isFull(t, shape)).length;
  const buffers = others + tensors.length + full + (summing ? Math.min(1, wanted.length - full) : wanted.length - full);
  if (buffers > limits.maxStorageBuffersPerShaderStage)
    throw new Error(
      `${where}: ${tensors.length} inputs, of which ${wanted.length} have gradients, need ${buffers} storage buffers; ${gpu} allows ${limits.maxStorageBuffersPerShaderStage}`,
    );
  const apply = (wide: boolean): string => {
    const values = lanes(wide).map(
      (e) => `${activation.name}(v${e}, ${tensors.map((_, k) => `a${k}${e}`).join(", ")})`,
    );
    return /* wgsl */ `
fn ${name}${wide ? 4 : 1}(i: u32, v: ${typeOf(wide)}) -> ${typeOf(wide)} {
  ${tensors.map((_, k) => `let a${k} = input${k}At${wide ? 4 : 1}(i);`).join("\n  ")}
  return ${typeOf(wide)}(${values.join(", ")});
}`;
  };
  const source = activation.forward + reads.join("") + apply(false) + apply(true);
  let text = texts.get(source);
  if (!text) texts.set(source, (text = { source, fields: "inputRun: u32, inputChannels: u32" }));
  return {
    ...{ activation, tensors, shape, at, text },
    bindings: Object.fromEntries(tensors.map((t, k) => [`input${k}`, t])),
    params: { inputRun, inputChannels },
  };
}

/** What a gradient kernel does for the inputs on its way. */
export interface InputGrads {
  /**
   * The text of `Inputs`, and `fn inputGrads(i: u32, v: F, dy: F) -> F`, which returns the gradient of the activation's
   * x at vec4, or element, i, stores those of inputs that want one, and adds those to be summed to the private
   * variables `inputSum0` … of type F. Their totals go to `fn inputPartial(k: u32, at: u32, total: f32)`, at = row ·
   * channels + channel.
   */
  readonly text: Finish;
  readonly bindings: Readonly<Record<string, Tensor>>;
  readonly params: Readonly<Record<string, number>>;
  /** How many `inputSum` there are. */
  readonly sums: number;
  /** After the launch: gradients of the inputs, in order, null where none is wanted. */
  grads(): (Tensor | null)[];
}

/**
 * For kernels that read `wide`, vec4s, or single elements, and leave `rows` partial sums of each channel; with 0 the
 * gradient of a per-channel input is written for every element, in f32, and summed over all axes but the last.
 * `storing` false: no gradients of inputs.
 */
export function inputGrads(
  { activation, tensors, shape, at, text, bindings, params }: Inputs,
  wide: boolean,
  rows: number,
  storing = true,
): InputGrads {
  const { name, backward } = activation;
  const [F, each] = [typeOf(wide), lanes(wide)];
  const parameters = pointwiseParameters(activation);
  const values = (k: number): string => `${F}(${each.map((_, e) => `g${e}.d${parameters[k]}`).join(", ")})`;
  const output = (binding: number, type: string): string =>
    `\n@group(0) @binding(${at + tensors.length + binding}) var<storage, read_write> ${type};`;
  const outputs: Record<string, Tensor> = {};
  const summed: number[] = [];
  let [declared, stored] = [backward, ""];
  tensors.forEach((t, k) => {
    if (!storing || !needsGrad(t)) return;
    const full = isFull(t, shape);
    if (rows > 0 && !full) {
      stored += `\n  inputSum${summed.length} += ${values(k + 1)};`;
      declared += `\nvar<private> inputSum${summed.length}: ${F};`;
      summed.push(k);
      return;
    }
    const dtype = full ? (t.dtype as FloatType) : "f32";
    const V = wide ? `vec4<${dtype}>` : dtype;
    stored += `\n  dinput${k}[i] = ${V}(${values(k + 1)});`;
    declared += output(k, `dinput${k}: array<${V}>`);
    outputs[`dinput${k}`] = empty(shape, { dtype, device: t.device });
  });
  const sums = summed.length;
  // each input's from a multiple of 256 bytes on, as views must lie
  const plane = Math.ceil((rows * params.inputChannels!) / 64) * 64;
  const partial = sums > 0 ? empty([sums, plane], { device: tensors[0]!.device }) : null;
  if (partial) {
    outputs.inputPartials = partial;
    declared += /* wgsl */ `${output(tensors.length, "inputPartials: array<f32>")}
fn inputPartial(k: u32, at: u32, total: f32) {
  inputPartials[arrayLength(&inputPartials) / ${sums} * k + at] = total;
}`;
  }
  const given = tensors.map((_, k) => `a${k}`);
  const calls = each.map((c, e) => `let g${e} = ${name}Grad(v${c}, ${given.map((a) => a + c).join(", ")}, dy${c});`);
  const source = /* wgsl */ `${text.source}${declared}
fn inputGrads(i: u32, v: ${F}, dy: ${F}) -> ${F} {
  ${given.map((a, k) => `let ${a} = input${k}At${wide ? 4 : 1}(i);`).join("\n  ")}
  ${calls.join("\n  ")}${stored}
  return ${values(0)};
}`;
  /** The gradient of t from `x`, which it frees: every element's, or rows of sums. */
  const sumOf = (t: Tensor, x: Tensor): Tensor => {
    const sum = sumRows(x, t.shape, t.dtype as FloatType);
    x.dispose();
    return sum;
  };
  return {
    text: { source, fields: text.fields },
    bindings: { ...bindings, ...outputs },
    ...{ params, sums },
    grads: () => {
      const found = tensors.map((t, k) => {
        const own = summed.indexOf(k);
        if (partial && own >= 0) return sumOf(t, partial.view(own * plane, [rows, t.size]));
        const d = outputs[`dinput${k}`] ?? null;
        return d && !isFull(t, shape) ? sumOf(t, d) : d;
      });
      partial?.dispose();
      return found;
    },
  };
}
