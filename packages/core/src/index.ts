export { add, cast, copy, copyInto, elementOf, fill, mul, reshape, sumRows, threads } from "./arithmetic.ts";
export { autocast, autocastType } from "./autocast.ts";
export { backward, needsGrad, noGrad, record } from "./autograd.ts";
export { type Captured, capture } from "./capture.ts";
export { type Delegate, delegated, setDelegate } from "./delegate.ts";
export {
  Device,
  DeviceError,
  type DeviceOptions,
  defaultDevice,
  type InitOptions,
  init,
  memory,
  provideCpu,
} from "./device.ts";
export { kaimingUniform, xavierUniform } from "./init.ts";
export { type InputGrads, type Inputs, inputGrads, inputsOf } from "./inputs.ts";
export { grid, type Kernel, kernel, type Launch, variants, type Workgroups } from "./kernel.ts";
export type { Finish, Gather, GatheredOperand, MappedResult } from "./matmul.kernels.ts";
export { type MatmulLaunch, type MatmulOptions, matmul, matmulForward } from "./matmul.ts";
export { clearGrad, isModule, type LoadResult, Module, type StateDict } from "./module.ts";
export { checkPointwise, type Pointwise, pointwiseParameters } from "./pointwise.ts";
export { manualSeed, nextStream, normal, pcg4d, philox, rand, randn, type Stream, uniform } from "./random.ts";
export { workgroupReduce } from "./reduce.ts";
export { persist, type Scope, scope } from "./scope.ts";
export {
  buffer,
  type DType,
  empty,
  emptyLike,
  type FloatType,
  type FromOptions,
  full,
  isTensor,
  type NestedArray,
  ones,
  parameter,
  type Shape,
  sizeOf,
  type Tensor,
  type TensorOptions,
  type TypedArray,
  tensor,
  zeros,
} from "./tensor.ts";
export type { Bindings, Overrides } from "./wgsl.ts";
