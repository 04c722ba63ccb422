/** The initialisers that layers start from, under the names of torch.nn.init, in place and off the tape. @kindling/nn has all of them. */
import { uniform } from "./random.ts";
import type { Tensor } from "./tensor.ts";

/** Inputs and outputs of a weight [out, in, ...kernel]: what one output sums over, and one input feeds. */
function fans(name: string, weight: Tensor): [fanIn: number, fanOut: number] {
  const [out, inputs, ...kernel] = weight.shape;
  if (out === undefined || inputs === undefined)
    throw new Error(`${name}: expected a weight [out, in, …], got shape [${weight.shape}]`);
  const field = kernel.reduce((n, d) => n * d, 1);
  return [inputs * field, out * field];
}

/** He et al. 2015, uniform, for a leakyRelu of slope `a`. Matches torch.nn.init.kaiming_uniform_. */
export function kaimingUniform(weight: Tensor, { a = 0 }: { a?: number } = {}): Tensor {
  const bound = Math.sqrt(6 / ((1 + a * a) * fans("kaimingUniform", weight)[0]));
  return uniform(weight, -bound, bound);
}

/** Glorot & Bengio 2010, uniform. */
export function xavierUniform(weight: Tensor): Tensor {
  const [fanIn, fanOut] = fans("xavierUniform", weight);
  const bound = Math.sqrt(6 / (fanIn + fanOut));
  return uniform(weight, -bound, bound);
}
