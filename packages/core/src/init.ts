/** Weight initialisers under the names of torch.nn.init, in place and off the tape. */
import { fill } from "./arithmetic.ts";
import { normal, uniform } from "./random.ts";
import type { Tensor } from "./tensor.ts";

export type Nonlinearity = "linear" | "sigmoid" | "tanh" | "relu" | "leakyRelu" | "selu";

/** torch.nn.init.calculate_gain: what keeps the variance through a nonlinearity. `param` is leakyRelu's slope. */
export function calculateGain(nonlinearity: Nonlinearity, param = 0.01): number {
  switch (nonlinearity) {
    case "linear":
    case "sigmoid":
      return 1;
    case "tanh":
      return 5 / 3;
    case "relu":
      return Math.SQRT2;
    case "leakyRelu":
      return Math.sqrt(2 / (1 + param ** 2));
    case "selu":
      return 3 / 4;
    default:
      throw new Error(`calculateGain: unknown nonlinearity "${nonlinearity}"`);
  }
}

/** Inputs and outputs of a weight [out, in, ...kernel]: what one output sums over, and one input feeds. */
function fans(name: string, weight: Tensor): { fanIn: number; fanOut: number } {
  const [out, inputs, ...kernel] = weight.shape;
  if (out === undefined || inputs === undefined)
    throw new Error(`${name}: expected a weight [out, in, …], got shape [${weight.shape}]`);
  const field = kernel.reduce((n, d) => n * d, 1);
  return { fanIn: inputs * field, fanOut: out * field };
}

export interface KaimingOptions {
  /** Slope of leakyRelu. Default 0. */
  a?: number;
  mode?: "fanIn" | "fanOut";
  nonlinearity?: Nonlinearity;
}

function kaimingStd(
  name: string,
  weight: Tensor,
  { a = 0, mode = "fanIn", nonlinearity = "leakyRelu" }: KaimingOptions,
): number {
  return calculateGain(nonlinearity, a) / Math.sqrt(fans(name, weight)[mode]);
}

/** He et al. 2015, uniform. Matches torch.nn.init.kaiming_uniform_. */
export function kaimingUniform(weight: Tensor, options: KaimingOptions = {}): Tensor {
  const bound = Math.sqrt(3) * kaimingStd("kaimingUniform", weight, options);
  return uniform(weight, -bound, bound);
}

/** He et al. 2015, normal. */
export const kaimingNormal = (weight: Tensor, options: KaimingOptions = {}): Tensor =>
  normal(weight, 0, kaimingStd("kaimingNormal", weight, options));

/** Glorot & Bengio 2010, uniform. */
export function xavierUniform(weight: Tensor, gain = 1): Tensor {
  const { fanIn, fanOut } = fans("xavierUniform", weight);
  const bound = gain * Math.sqrt(6 / (fanIn + fanOut));
  return uniform(weight, -bound, bound);
}

/** Glorot & Bengio 2010, normal. */
export function xavierNormal(weight: Tensor, gain = 1): Tensor {
  const { fanIn, fanOut } = fans("xavierNormal", weight);
  return normal(weight, 0, gain * Math.sqrt(2 / (fanIn + fanOut)));
}

/** Sets every element to `value`. */
export const constant = (x: Tensor, value: number): Tensor => fill(x, value);
