/**
 * A function of one element with its derivative, as WGSL text, that a kernel splices in: the activation of a fused layer.
 * Anything with these three fields is one; nothing is registered.
 */
export interface Pointwise {
  /** A WGSL identifier. */
  readonly name: string;
  /**
   * WGSL that defines `fn NAME(x: f32) -> f32`, or with inputs of its own after x, `fn NAME(x: f32, mask: f32) -> f32`.
   * Helpers it needs carry NAME as a prefix.
   */
  readonly forward: string;
  /**
   * WGSL that defines `fn NAMEGrad(x: f32, dy: f32) -> f32`, which is dy · NAME'(x); with inputs it takes them before dy and
   * returns a struct with a gradient for each parameter, `dx`, `dmask`. It may call what `forward` defines.
   */
  readonly backward: string;
}

/** The text between the parentheses of `fn name(…)`. */
const parameters = (wgsl: string, name: string): string | undefined =>
  new RegExp(`fn\\s+${name}\\s*\\(([^)]*)`).exec(wgsl)?.[1];

/** The names of the parameters of a Pointwise: x and its inputs. */
export const pointwiseParameters = ({ name, forward }: Pointwise): string[] =>
  parameters(forward, name)!.match(/\w+(?=\s*:)/g) ?? [];

/** Throws unless `value` is a Pointwise, with `inputs` inputs where that is given; `where` begins the message. */
export function checkPointwise(where: string, value: Pointwise, inputs?: number): Pointwise {
  const { name, forward, backward } = value ?? {};
  if (!/^[A-Za-z]\w*$/.test(name) || typeof forward !== "string" || typeof backward !== "string") {
    const given = JSON.stringify(value) ?? value;
    throw new Error(`${where}: expected { name, forward, backward } with WGSL text, got ${given}`);
  }
  if (!parameters(forward, name) || !parameters(backward, `${name}Grad`)) {
    throw new Error(
      `${where}: the WGSL of "${name}" must define fn ${name}(x: f32) -> f32 and fn ${name}Grad(x: f32, dy: f32) -> f32`,
    );
  }
  if (inputs !== undefined) {
    const own = pointwiseParameters(value).slice(1);
    if (own.length !== inputs)
      throw new Error(`${where}: "${name}" takes ${own.length} inputs after x (${own}), got ${inputs}`);
  }
  return value;
}
