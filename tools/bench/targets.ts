/** What the benchmarks must reach. A ratio is PyTorch's time over Kindling's, in the same run: above 1, Kindling is faster. */
export type Target = { readonly ratio: number } | { readonly ms: number };

const targets: readonly (readonly [name: RegExp, target: Target])[] = [
  [/^add of 4 elements on the tape, host time$/, { ms: 0.01 }],
  [/^add of 4 elements in a replay, host time$/, { ms: 0.003 }],
  [/^gpt 4×128 f32 captured$/, { ms: 1.5 }],
  [/^gpt 4×128 f32 eager$/, { ms: 3 }],
  [/^gpt 6×384 f32 captured$/, { ratio: 1 / 1.2 }],
  [/^gpt 6×384 autocast f16 captured$/, { ratio: 1 }],
  [/^matmul f32 4096³$/, { ratio: 0.75 }],
  [/^matmul f16 4096³$/, { ratio: 0.3 }],
  [/^(layernorm|cross entropy|adamw) /, { ratio: 1 }],
];

export const targetOf = (name: string): Target | undefined => targets.find(([pattern]) => pattern.test(name))?.[1];

/** Whether a row reaches a target; undefined where there is nothing to compare with. */
export function reached(target: Target, ms: number, ratio: number | undefined): boolean | undefined {
  if ("ms" in target) return ms <= target.ms;
  return ratio === undefined ? undefined : ratio >= target.ratio;
}
