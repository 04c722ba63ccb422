/**
 * Pure WGSL functions as text, and their derivatives, derived when this package was built: using them costs no parser.
 *
 *   link(erf, log1p)     the text of functions with all that they call, to splice into a kernel
 *   erfGrad              the text of the derivative, to stand beside it
 *   erf                  itself, an activation of any layer: linear(x, w, b, { activation: erf })
 *   elementwise(fn, x)   any of them over broadcast tensors, as one kernel, and one for its gradients
 *
 * functions.ts has the functions; autodiff.ts derives, also your own.
 */
import { pcg4d as pcg4dText, philox as philoxText } from "@kindling/core";
import { define, type MathFunction } from "./functions.ts";

export * from "./derivatives.generated.ts";
export { elementwise } from "./elementwise.ts";
export * from "./functions.ts";
export type { Operand } from "./operands.ts";

/** pcg4d(counter: vec4u) -> vec4u: random bits, a pure function of a counter (Jarzynski & Olano 2020). */
export const pcg4d: MathFunction = /* @__PURE__ */ define("pcg4d", pcg4dText);

/** philox(counter: vec4u, seed: vec2u) -> vec4u: Philox4x32-10 (Salmon et al. 2011). */
export const philox: MathFunction = /* @__PURE__ */ define("philox", philoxText);
