/**
 * Mixed precision: inside `autocast("f16", fn)` matrix products take f16 operands, as PyTorch's autocast decides layer by
 * layer. Parameters, statistics and accumulation stay f32; operands are converted while a kernel loads them, so there is no
 * cast pass. Small gradients underflow in f16: scale the loss, see GradScaler in @kindling/optim.
 */
import { defaultDevice } from "./device.ts";
import { state } from "./state.ts";
import type { FloatType } from "./tensor.ts";

/** Runs `fn` with matrix operands of `dtype`; "f32" switches an enclosing autocast off. */
export function autocast<T>(dtype: FloatType, fn: () => T): T {
  if (dtype !== "f16" && dtype !== "f32") throw new Error(`autocast: dtype "${dtype}"; expected "f16" or "f32"`);
  if (dtype === "f16" && !defaultDevice().features.has("shader-f16")) {
    throw new Error(`autocast: f16 needs a GPU with shader-f16, which ${defaultDevice().name} does not offer`);
  }
  const before = state.autocast;
  state.autocast = dtype === "f16" ? "f16" : null;
  try {
    return fn();
  } finally {
    state.autocast = before;
  }
}

/** The dtype that autocast asks of matrix operands; null outside. */
export const autocastType = (): FloatType | null => state.autocast;
