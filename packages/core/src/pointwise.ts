/**
 * A scalar function with its derivative, as WGSL text, that a kernel splices in: the activation of a fused layer.
 * Anything with these three fields is one; nothing is registered.
 */
export interface Pointwise {
  /** A WGSL identifier. */
  readonly name: string;
  /** WGSL that defines `fn NAME(x: f32) -> f32`. Helpers it needs carry NAME as a prefix. */
  readonly forward: string;
  /** WGSL that defines `fn NAMEGrad(x: f32, dy: f32) -> f32`, which is dy · NAME'(x); it may call what `forward` defines. */
  readonly backward: string;
}

/** Throws unless `value` is a Pointwise; `where` names the function and argument for the message. */
export function checkPointwise(where: string, value: Pointwise): Pointwise {
  const { name, forward, backward } = value ?? {};
  if (
    typeof name !== "string" ||
    !/^[A-Za-z]\w*$/.test(name) ||
    typeof forward !== "string" ||
    typeof backward !== "string"
  ) {
    throw new Error(
      `${where}: expected { name, forward, backward } with WGSL text, got ${typeof value === "object" ? JSON.stringify(value) : String(value)}`,
    );
  }
  if (!new RegExp(`fn\\s+${name}\\s*\\(`).test(forward) || !new RegExp(`fn\\s+${name}Grad\\s*\\(`).test(backward)) {
    throw new Error(
      `${where}: the WGSL of "${name}" must define fn ${name}(x: f32) -> f32 and fn ${name}Grad(x: f32, dy: f32) -> f32`,
    );
  }
  return value;
}
