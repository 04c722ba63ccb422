/**
 * What torch.nn has and Kindling has not. Each is a class, so that a model's code compiles and the error says what to do; the
 * table in the tests holds every name of torch.nn against what is exported here.
 */

/** @internal A class of torch.nn that throws when it is made. */
/* @__NO_SIDE_EFFECTS__ */
export function missing(name: string, instead: string): new (...args: unknown[]) => never {
  const named = {
    [name]: class {
      constructor() {
        throw new Error(
          `${name}: @kindling/nn does not have it. ${instead} If you need it, ask for it on the issues page of Kindling.`,
        );
      }
    },
  };
  return named[name] as new (
    ...args: unknown[]
  ) => never;
}

type Missing = new (...args: unknown[]) => never;

/** What a layer needs that would look at its first input. */
const sizes = "Give its counterpart without Lazy the number of inputs.";

export const LazyBatchNorm1d: Missing = /* @__PURE__ */ missing("LazyBatchNorm1d", sizes);
export const LazyBatchNorm2d: Missing = /* @__PURE__ */ missing("LazyBatchNorm2d", sizes);
export const LazyBatchNorm3d: Missing = /* @__PURE__ */ missing("LazyBatchNorm3d", sizes);
export const LazyConv1d: Missing = /* @__PURE__ */ missing("LazyConv1d", sizes);
export const LazyConv2d: Missing = /* @__PURE__ */ missing("LazyConv2d", sizes);
export const LazyConv3d: Missing = /* @__PURE__ */ missing("LazyConv3d", sizes);
export const LazyConvTranspose1d: Missing = /* @__PURE__ */ missing("LazyConvTranspose1d", sizes);
export const LazyConvTranspose2d: Missing = /* @__PURE__ */ missing("LazyConvTranspose2d", sizes);
export const LazyConvTranspose3d: Missing = /* @__PURE__ */ missing("LazyConvTranspose3d", sizes);
export const LazyInstanceNorm1d: Missing = /* @__PURE__ */ missing("LazyInstanceNorm1d", sizes);
export const LazyInstanceNorm2d: Missing = /* @__PURE__ */ missing("LazyInstanceNorm2d", sizes);
export const LazyInstanceNorm3d: Missing = /* @__PURE__ */ missing("LazyInstanceNorm3d", sizes);
export const LazyLinear: Missing = /* @__PURE__ */ missing("LazyLinear", sizes);
export const CrossMapLRN2d: Missing = /* @__PURE__ */ missing("CrossMapLRN2d", "LocalResponseNorm computes the same.");
export const DataParallel: Missing = /* @__PURE__ */ missing("DataParallel", "Kindling computes on one device.");
export const SyncBatchNorm: Missing = /* @__PURE__ */ missing(
  "SyncBatchNorm",
  "Kindling computes on one device, where BatchNorm2d does the same.",
);
export const Container: Missing = /* @__PURE__ */ missing("Container", "PyTorch has deprecated it for Module.");
export const NLLLoss2d: Missing = /* @__PURE__ */ missing(
  "NLLLoss2d",
  "PyTorch has deprecated it for NLLLoss, which takes [N, C, d1, …] too.",
);
export const Parameter: Missing = /* @__PURE__ */ missing(
  "Parameter",
  "Mark a tensor with `parameter` of @kindling/core.",
);
export const Buffer: Missing = /* @__PURE__ */ missing("Buffer", "Mark a tensor with `buffer` of @kindling/core.");
export const UninitializedParameter: Missing = /* @__PURE__ */ missing(
  "UninitializedParameter",
  "Parameters have shapes from the start.",
);
export const UninitializedBuffer: Missing = /* @__PURE__ */ missing(
  "UninitializedBuffer",
  "Buffers have shapes from the start.",
);
export const LinearCrossEntropyOptions: Missing = /* @__PURE__ */ missing(
  "LinearCrossEntropyOptions",
  "Give LinearCrossEntropyLoss the option `chunk`.",
);
