/**
 * Conv3d and ConvTranspose3d, as torch.nn has them.
 *
 *   y[n, o] = Σ_c x[n, c] ⋆ w[o, c] + b[o]      ⋆: correlation over D, H, W; transposed: its gradient in x
 */
import { type Device, empty, kaimingUniform, parameter, type Shape, type Tensor, uniform } from "@kindling/core";
import { type PadMode, pad } from "@kindling/padding";
import { FallbackModule } from "../backend.ts";
import {
  batched,
  checkOneOf,
  checkSame,
  checkShape,
  checkSpace,
  each,
  fail,
  fallback,
  type Jax,
  type JaxArray,
  lowered,
} from "./form.ts";

/** One number, or one each for depth, height and width. */
export type Triple = number | readonly number[];
type PaddingMode = "zeros" | "reflect" | "replicate" | "circular";

interface Window {
  readonly stride: readonly number[];
  readonly padding: readonly (readonly [before: number, after: number])[];
  readonly dilation: readonly number[];
  readonly groups: number;
}

/**
 * WebGPU of jax-js 0.1.25 is wrong where a convolution spreads its input, as one with a stride does in its gradient. What is
 * read with a stride becomes channels instead, and what is spread is written down first; a sum over one element does that.
 */
const written = (x: JaxArray): JaxArray => x.reshape([...x.shape, 1]).sum(-1);

const along = (rank: number, axis: number, pair: [number, number]): [number, number][] =>
  Array.from({ length: rank }, (_, i) => (i === axis ? pair : [0, 0]));

/** `axis` of x from `from`, `length` elements, zeros where there are none. */
function windowOf({ numpy: np }: Jax, x: JaxArray, axis: number, from: number, length: number): JaxArray {
  const size = x.shape[axis]!;
  const [start, end] = [Math.max(from, 0), Math.min(from + length, size)];
  const cut = x.slice(...Array.from({ length: axis }, (): [] => []), [start, end]);
  return np.pad(cut, along(x.ndim, axis, [start - from, from + length - end]));
}

/** `gap` − 1 zeros between the elements of `axis`. */
function spread(jax: Jax, x: JaxArray, axis: number, gap: number): JaxArray {
  if (gap === 1) return x;
  const [before, size, after] = [x.shape.slice(0, axis), x.shape[axis]!, x.shape.slice(axis + 1)];
  const apart = jax.numpy.pad(x.reshape([...before, size, 1, ...after]), along(x.ndim + 1, axis + 1, [0, gap - 1]));
  return windowOf(jax, apart.reshape([...before, size * gap, ...after]), axis, 0, (size - 1) * gap + 1);
}

/** [A, C, size · stride, …] → [A, C · strides, size, …] */
function asChannels({ numpy: np }: Jax, x: JaxArray, stride: readonly number[]): JaxArray {
  const [A, C, ...space] = x.shape as [number, number, ...number[]];
  const sizes = space.map((n, i) => n / stride[i]!);
  const order = [...stride.map((_, i) => 3 + 2 * i), ...stride.map((_, i) => 2 + 2 * i)];
  const channels = stride.reduce((c, s) => c * s, C);
  return written(
    np
      .transpose(x.reshape([A, C, ...sizes.flatMap((n, i) => [n, stride[i]!])]), [0, 1, ...order])
      .reshape([A, channels, ...sizes]),
  );
}

function convolve(jax: Jax, { x, weight, bias }: Record<string, JaxArray>, settings: Window): JaxArray {
  const { stride, padding, dilation, groups } = settings;
  const ones = stride.map(() => 1);
  let y: JaxArray;
  if (stride.every((s) => s === 1)) {
    const options = { rhsDilation: [...dilation], featureGroupCount: groups };
    y = jax.lax.convGeneralDilated(x!, weight!, ones, padding as [number, number][], options);
  } else {
    let [all, kernel] = [x!, weight!];
    stride.forEach((s, i) => {
      const span = dilation[i]! * (kernel.shape[i + 2]! - 1) + 1;
      const size = x!.shape[i + 2]! + padding[i]![0] + padding[i]![1];
      const steps = Math.ceil(span / s);
      const out = Math.floor((size - span) / s) + 1;
      kernel = windowOf(jax, spread(jax, kernel, i + 2, dilation[i]!), i + 2, 0, steps * s);
      all = windowOf(jax, all, i + 2, -padding[i]![0], (out - 1 + steps) * s);
    });
    const options = { featureGroupCount: groups };
    y = jax.lax.convGeneralDilated(
      asChannels(jax, all, stride),
      asChannels(jax, kernel, stride),
      ones,
      "VALID",
      options,
    );
  }
  return bias ? y.add(bias.reshape([-1, ...ones])) : y;
}

/** A convolution of x with `stride` − 1 zeros between its elements, and the window turned round. */
function convolveTransposed(jax: Jax, { x, weight, bias }: Record<string, JaxArray>, settings: Window): JaxArray {
  const { stride, padding, dilation, groups } = settings;
  const { numpy: np } = jax;
  const [C, outer, ...taps] = weight!.shape as [number, number, ...number[]];
  const turned = np
    .swapaxes(weight!.reshape([groups, C / groups, outer, ...taps]), 1, 2)
    .reshape([groups * outer, C / groups, ...taps]);
  const kernel = np.flip(
    turned,
    taps.map((_, i) => i + 2),
  );
  let all = x!;
  stride.forEach((s, i) => {
    const [before, after] = padding[i]!;
    const apart = spread(jax, all, i + 2, s);
    all = windowOf(jax, apart, i + 2, -before, apart.shape[i + 2]! + before + after);
  });
  const ones = stride.map(() => 1);
  const options = { rhsDilation: [...dilation], featureGroupCount: groups };
  const y = jax.lax.convGeneralDilated(written(all), kernel, ones, "VALID", options);
  return bias ? y.add(bias.reshape([-1, ...ones])) : y;
}

export interface Conv3dOptions {
  /** [out channels] */
  bias?: Tensor | null;
  /** Default 1. */
  stride?: Triple;
  /** On both sides of each axis; "same" gives y the size of x, for stride 1; "valid" is 0. Default 0. */
  padding?: Triple | "same" | "valid";
  /** Default 1. */
  dilation?: Triple;
  /** Channels fall into so many groups, each with weights of its own. Default 1. */
  groups?: number;
  /** What stands in the padding. Default "zeros". */
  paddingMode?: PaddingMode;
}

const paddingModes = ["zeros", "reflect", "replicate", "circular"] as const;

function checkGroups(where: string, groups: number, inputs: number, outputs: number): void {
  if (!Number.isInteger(groups) || groups < 1 || inputs % groups !== 0 || outputs % groups !== 0)
    fail(where, `groups is ${groups}, expected a divisor of ${inputs} and ${outputs} channels`);
}

function paddingOf(
  where: string,
  padding: Triple | "same" | "valid",
  taps: readonly number[],
  stride: readonly number[],
  dilation: readonly number[],
): (readonly [number, number])[] {
  if (padding === "same") {
    if (stride.some((s) => s !== 1)) fail(where, `padding is "same", expected stride 1, got [${stride}]`);
    return taps.map((k, i) => {
      const total = dilation[i]! * (k - 1);
      return [Math.floor(total / 2), total - Math.floor(total / 2)] as const;
    });
  }
  if (typeof padding === "string" && padding !== "valid")
    fail(where, `padding is ${JSON.stringify(padding)}, expected whole numbers, "same" or "valid"`);
  return each(`${where}: padding`, padding === "valid" ? 0 : (padding as Triple), 3, 0).map((p) => [p, p] as const);
}

function checkWeight(where: string, x: Tensor, weight: Tensor, form: string): void {
  if (weight.shape.length !== 5) fail(where, `weight has shape [${weight.shape}], expected [${form}, KD, KH, KW]`);
  checkSpace(where, x, 3);
}

/**
 * Convolution of x [N, C, D, H, W] or [C, D, H, W] with weight [O, C / groups, KD, KH, KW] → [N, O, D′, H′, W′] or
 * [O, D′, H′, W′]. Under autocast y is f16. Matches torch.nn.functional.conv3d; the padding modes are those of Conv3d.
 */
export function conv3d(x: Tensor, weight: Tensor, options: Conv3dOptions = {}): Tensor {
  const where = "conv3d";
  const { bias = null, groups = 1, paddingMode = "zeros" } = options;
  checkWeight(where, x, weight, "O, C / groups");
  checkSame(where, { x, weight, bias });
  checkOneOf(`${where}: paddingMode`, paddingMode, paddingModes);
  const [O, inner, ...taps] = weight.shape as [number, number, ...number[]];
  checkGroups(where, groups, inner * groups, O);
  if (x.shape.at(-4) !== inner * groups)
    fail(
      where,
      `x has shape [${x.shape}], expected ${inner * groups} channels for weight [${weight.shape}] in ${groups} groups`,
    );
  if (bias) checkShape(where, "bias", bias, [O]);
  const stride = each(`${where}: stride`, options.stride ?? 1, 3, 1);
  const dilation = each(`${where}: dilation`, options.dilation ?? 1, 3, 1);
  const padding = paddingOf(where, options.padding ?? 0, taps, stride, dilation);
  taps.forEach((k, i) => {
    const size = x.shape.at(i - 3)! + padding[i]![0] + padding[i]![1];
    if (size < dilation[i]! * (k - 1) + 1)
      fail(where, `x has shape [${x.shape}], smaller with its padding than the window of weight [${weight.shape}]`);
  });
  const zeros = paddingMode === "zeros" || padding.every(([a, b]) => a + b === 0);
  const { x: full, back } = batched(x, 5);
  const input = zeros
    ? full
    : pad(full, [...padding].reverse().flat(), {
        mode: paddingMode as Exclude<PaddingMode, "zeros"> satisfies PadMode,
      });
  const settings = { stride, dilation, groups, padding: zeros ? padding : padding.map(() => [0, 0] as const) };
  return back(fallback(convolve, { x: input, weight, bias }, settings, { name: where, dtype: lowered(x) }));
}

export interface ConvTranspose3dOptions {
  /** [out channels] */
  bias?: Tensor | null;
  /** Of the outputs that neighbouring inputs reach. Default 1. */
  stride?: Triple;
  /** So many outputs are left out on both sides. Default 0. */
  padding?: Triple;
  /** So many outputs are added at the end; less than stride or dilation. Default 0. */
  outputPadding?: Triple;
  /** Channels fall into so many groups, each with weights of its own. Default 1. */
  groups?: number;
  /** Between the taps of a window. Default 1. */
  dilation?: Triple;
}

/** The size of y without output padding. */
const shortest = (size: number, taps: number, stride: number, padding: number, dilation: number): number =>
  (size - 1) * stride - 2 * padding + dilation * (taps - 1) + 1;

/**
 * Transposed convolution of x [N, C, D, H, W] or [C, D, H, W] with weight [C, O / groups, KD, KH, KW] → [N, O, D′, H′, W′]
 * or [O, D′, H′, W′] with D′ = (D − 1)·stride − 2·padding + dilation·(K − 1) + outputPadding + 1. Under autocast y is f16.
 * Matches torch.nn.functional.conv_transpose3d.
 */
export function convTranspose3d(x: Tensor, weight: Tensor, options: ConvTranspose3dOptions = {}): Tensor {
  const where = "convTranspose3d";
  const { bias = null, groups = 1 } = options;
  checkWeight(where, x, weight, "C, O / groups");
  checkSame(where, { x, weight, bias });
  const [C, outer, ...taps] = weight.shape as [number, number, ...number[]];
  checkGroups(where, groups, C, outer * groups);
  if (x.shape.at(-4) !== C)
    fail(where, `x has shape [${x.shape}], expected ${C} channels for weight [${weight.shape}]`);
  if (bias) checkShape(where, "bias", bias, [outer * groups]);
  const stride = each(`${where}: stride`, options.stride ?? 1, 3, 1);
  const dilation = each(`${where}: dilation`, options.dilation ?? 1, 3, 1);
  const padding = each(`${where}: padding`, options.padding ?? 0, 3, 0);
  const more = each(`${where}: outputPadding`, options.outputPadding ?? 0, 3, 0);
  const around = taps.map((k, i) => {
    if (more[i]! >= Math.max(stride[i]!, dilation[i]!))
      fail(where, `outputPadding is [${more}], expected less than stride or dilation`);
    if (shortest(x.shape.at(i - 3)!, k, stride[i]!, padding[i]!, dilation[i]!) + more[i]! < 1)
      fail(where, `x has shape [${x.shape}], expected more for padding [${padding}]`);
    const before = dilation[i]! * (k - 1) - padding[i]!;
    return [before, before + more[i]!] as const;
  });
  const { x: full, back } = batched(x, 5);
  const settings = { stride, dilation, groups, padding: around };
  return back(fallback(convolveTransposed, { x: full, weight, bias }, settings, { name: where, dtype: lowered(x) }));
}

// Modules ---------------------------------------------------------------------------------------

abstract class Convolution extends FallbackModule {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly kernelSize: readonly number[];
  readonly stride: readonly number[];
  readonly dilation: readonly number[];
  readonly groups: number;
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(
    where: string,
    [inChannels, outChannels]: readonly [number, number],
    kernelSize: Triple,
    options: {
      stride?: Triple;
      dilation?: Triple;
      groups?: number;
      bias?: boolean;
      device?: Device;
      transposed: boolean;
    },
  ) {
    super();
    const { groups = 1, bias = true, device, transposed } = options;
    checkGroups(where, groups, inChannels, outChannels);
    this.inChannels = inChannels;
    this.outChannels = outChannels;
    this.kernelSize = each(`${where}: kernelSize`, kernelSize, 3, 1);
    this.stride = each(`${where}: stride`, options.stride ?? 1, 3, 1);
    this.dilation = each(`${where}: dilation`, options.dilation ?? 1, 3, 1);
    this.groups = groups;
    const channels = transposed ? [inChannels, outChannels / groups] : [outChannels, inChannels / groups];
    const shape = [...channels, ...this.kernelSize];
    // PyTorch's initialisation: both uniform in ±1/√(all but the weight's first axis).
    const bound = 1 / Math.sqrt(shape.slice(1).reduce((a, b) => a * b));
    this.weight = parameter(kaimingUniform(empty(shape, { device }), { a: Math.sqrt(5) }));
    this.bias = bias ? parameter(uniform(empty([outChannels], { device }), -bound, bound)) : null;
  }
}

export interface Conv3dModuleOptions extends Omit<Conv3dOptions, "bias"> {
  /** Learn a bias. Default true. */
  bias?: boolean;
  device?: Device;
}

/**
 * `conv3d` with learned weight [out, in / groups, depth, height, width] and bias [out]. Matches
 * `torch.nn.Conv3d(inChannels, outChannels, kernelSize, …)`.
 */
export class Conv3d extends Convolution {
  readonly padding: Triple | "same" | "valid";
  readonly paddingMode: PaddingMode;

  constructor(inChannels: number, outChannels: number, kernelSize: Triple, options: Conv3dModuleOptions = {}) {
    super("Conv3d", [inChannels, outChannels], kernelSize, { ...options, transposed: false });
    const { padding = 0, paddingMode = "zeros" } = options;
    checkOneOf("Conv3d: paddingMode", paddingMode, paddingModes);
    paddingOf("Conv3d", padding, this.kernelSize, this.stride, this.dilation);
    this.padding = padding;
    this.paddingMode = paddingMode;
  }

  forward(x: Tensor): Tensor {
    const { bias, stride, padding, dilation, groups, paddingMode } = this;
    return conv3d(x, this.weight, { bias, stride, padding, dilation, groups, paddingMode });
  }

  protected override settings(): string {
    const { inChannels, outChannels, kernelSize, stride, padding, dilation, groups, paddingMode } = this;
    const sizes = `kernelSize=[${kernelSize}], stride=[${stride}], padding=${JSON.stringify(padding)}, dilation=[${dilation}]`;
    return `${inChannels}, ${outChannels}, ${sizes}, groups=${groups}, bias=${this.bias !== null}, paddingMode=${paddingMode}`;
  }
}

export interface ConvTranspose3dModuleOptions extends Omit<ConvTranspose3dOptions, "bias"> {
  /** Learn a bias. Default true. */
  bias?: boolean;
  /** "zeros" is the only one, as in PyTorch. */
  paddingMode?: "zeros";
  device?: Device;
}

/**
 * `convTranspose3d` with learned weight [in, out / groups, depth, height, width] and bias [out]. Matches
 * `torch.nn.ConvTranspose3d(inChannels, outChannels, kernelSize, …)`.
 */
export class ConvTranspose3d extends Convolution {
  readonly padding: readonly number[];
  readonly outputPadding: readonly number[];

  constructor(inChannels: number, outChannels: number, kernelSize: Triple, options: ConvTranspose3dModuleOptions = {}) {
    super("ConvTranspose3d", [inChannels, outChannels], kernelSize, { ...options, transposed: true });
    const { padding = 0, outputPadding = 0, paddingMode = "zeros" } = options;
    checkOneOf("ConvTranspose3d: paddingMode", paddingMode, ["zeros"]);
    this.padding = each("ConvTranspose3d: padding", padding, 3, 0);
    this.outputPadding = each("ConvTranspose3d: outputPadding", outputPadding, 3, 0);
  }

  /** `outputSize`, of y's last axes or of all, takes the place of outputPadding: a stride leaves several open. */
  forward(x: Tensor, outputSize?: Shape): Tensor {
    const outputPadding = outputSize ? this.#paddingFor(x, outputSize) : this.outputPadding;
    const { bias, stride, padding, dilation, groups } = this;
    return convTranspose3d(x, this.weight, { bias, stride, padding, outputPadding, dilation, groups });
  }

  #paddingFor(x: Tensor, outputSize: Shape): readonly number[] {
    checkSpace("ConvTranspose3d", x, 3);
    const { kernelSize, stride, padding, dilation } = this;
    const asked = outputSize.length === x.shape.length ? outputSize.slice(-3) : outputSize;
    const least = x.shape
      .slice(-3)
      .map((size, i) => shortest(size, kernelSize[i]!, stride[i]!, padding[i]!, dilation[i]!));
    const most = least.map((size, i) => size + stride[i]! - 1);
    if (asked.length !== 3 || asked.some((size, i) => size < least[i]! || size > most[i]!))
      fail(
        "ConvTranspose3d",
        `outputSize is [${outputSize}], expected from [${least}] to [${most}] for x [${x.shape}]`,
      );
    return asked.map((size, i) => size - least[i]!);
  }

  protected override settings(): string {
    const { inChannels, outChannels, kernelSize, stride, padding, outputPadding, dilation, groups } = this;
    const sizes = `kernelSize=[${kernelSize}], stride=[${stride}], padding=[${padding}], outputPadding=[${outputPadding}]`;
    return `${inChannels}, ${outChannels}, ${sizes}, dilation=[${dilation}], groups=${groups}, bias=${this.bias !== null}`;
  }
}
