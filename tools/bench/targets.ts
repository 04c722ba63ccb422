/** What the benchmarks must reach, and what they aim at. */
export interface Target {
  /** PyTorch's time over Kindling's in the same run; the bandwidth over that of a copy in the same run; or milliseconds. */
  readonly of: "ratio" | "share" | "ms";
  readonly target: number;
  readonly aim?: number;
}

const ratio = (target: number, aim?: number): Target => ({ of: "ratio", target, ...(aim && { aim }) });
const share = (target: number, aim: number): Target => ({ of: "share", target, aim });
const ms = (target: number): Target => ({ of: "ms", target });

/** The first that matches counts. */
const targets: readonly (readonly [name: RegExp, target: Target])[] = [
  [/^add of 4 elements on the tape, host time$/, ms(0.01)],
  [/^add of 4 elements in a replay, host time$/, ms(0.003)],
  [/^gpt 4×128 f32 captured$/, ms(1.5)],
  [/^gpt 4×128 f32 eager$/, ms(3)],
  [/^gpt 6×384 f32 captured$/, ratio(1 / 1.2)],
  [/^gpt 6×384 autocast f16 captured$/, ratio(1)],
  [/^matmul f32 4096³$/, ratio(0.75)],
  [/^matmul f16 4096³$/, ratio(0.3)],
  [/^(gelu|relu|dropout|glu|swiglu|gelu\+dropout) (f16 )?\d/, share(0.95, 0.98)],
  [/^(softmax|layernorm|rmsnorm)(\+residual)? .*fwd$/, ratio(1, 1.1)],
  [/^(softmax|layernorm|rmsnorm)(\+residual)? .*fwd\+bwd$/, ratio(1.2, 1.6)],
  [/^batchnorm2d( f16)? .*fwd\+bwd$/, ratio(1, 1.1)],
  [/^batchnorm2d\+residual\+relu( f16)? .*fwd\+bwd$/, ratio(1.5, 2)],
  [/^cross entropy 8192×50257 fwd\+bwd$/, ratio(1.5, 2)],
  [/^(cross entropy|adamw) /, ratio(1)],
  [/^elementwise chain of 6 /, ratio(2, 3)],
  [/^linear\+gelu f32 .*fwd\+bwd$/, ratio(0.8, 1.3)],
  [/^linear\+gelu autocast f16 .*fwd\+bwd$/, ratio(0.35, 0.6)],
  [/^conv2d f32 .*fwd\+bwd$/, ratio(0.6, 1)],
  [/^conv1d f32 .*fwd\+bwd$/, ratio(1, 1.5)],
  [/^attention causal f32 8×12×\d+×64 fwd\+bwd$/, ratio(1, 1.3)],
  [/^attention causal f16 8×12×\d+×64 fwd\+bwd$/, ratio(0.3, 0.5)],
];

export const targetOf = (name: string): Target | undefined => targets.find(([pattern]) => pattern.test(name))?.[1];

export type Verdict = "aim reached" | "reached" | "missed" | "not compared";

/** What a row reaches of a target; a ratio or share is undefined where there is nothing to compare with. */
export function verdict(
  { of, target, aim }: Target,
  measured: { readonly ms: number; readonly ratio?: number | undefined; readonly share?: number | undefined },
): Verdict {
  const value = measured[of];
  if (value === undefined) return "not compared";
  if (of === "ms") return value <= target ? "reached" : "missed";
  if (value < target) return "missed";
  return aim !== undefined && value >= aim ? "aim reached" : "reached";
}
