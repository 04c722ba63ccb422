/**
 * Another implementation of layers beside their kernels, such as the fallback of @kindling/nn. A layer that has checked its
 * arguments offers them to the delegate first; without one that is a look at a variable.
 */
import { state } from "./state.ts";
import type { Tensor } from "./tensor.ts";

/**
 * Computes the function `layer` of checked tensors, recorded on the tape, with the result that the function has; or returns
 * null where it has no form of it, and the kernels run.
 */
export type Delegate = (
  layer: string,
  tensors: Readonly<Record<string, Tensor | null | undefined>>,
  settings: object,
) => unknown;

/** The delegate's result, or null: `const other = delegated<Tensor>("relu", { x }, {}); if (other) return other;` */
export const delegated = <R>(...call: Parameters<Delegate>): R | null =>
  (state.delegate?.(...call) ?? null) as R | null;

/** Lets another delegate, or none, take part from now on; returns the one before. */
export function setDelegate(delegate: Delegate | null): Delegate | null {
  const before = state.delegate;
  state.delegate = delegate;
  return before;
}
