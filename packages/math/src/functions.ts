/**
 * Pure WGSL functions: no loads, no stores, nothing but their arguments. Each is a value with its text, `wgsl`, and the
 * functions that it calls, `uses`; `link` puts the text of several into a kernel, each once. Those of f32s that return one
 * are activations too.
 *
 * Names are camelCase and do not hide WGSL's own. Derivatives stand in derivatives.generated.ts, derived from this text by
 * `pnpm generate`. README.md has the accuracy of each.
 */
export * from "./functions/activations.ts";
export { define, link, type MathFunction, type Parametric, type ScalarFunction } from "./functions/define.ts";
export { f16Form, vec4Form } from "./functions/forms.ts";
export * from "./functions/layers.ts";
export * from "./functions/numerics.ts";
export * from "./functions/random.ts";
