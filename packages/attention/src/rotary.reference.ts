/**
 * Rotary position embedding as plain loops in float64: the specification and the test oracle. x: rows of `features`, one
 * position for each row. The gradient of dy is the rotation of dy by the negative angles: `direction` -1.
 */
export function rotaryReference(
  x: ArrayLike<number>,
  positions: ArrayLike<number>,
  {
    features,
    dim = features,
    base = 10000,
    interleaved = false,
    direction = 1,
  }: { features: number; dim?: number; base?: number; interleaved?: boolean; direction?: 1 | -1 },
): Float64Array {
  const y = Float64Array.from(x as ArrayLike<number>);
  for (let row = 0; row < positions.length; row++) {
    for (let i = 0; i < dim / 2; i++) {
      const angle = direction * positions[row]! * base ** ((-2 * i) / dim);
      const a = row * features + (interleaved ? 2 * i : i);
      const b = interleaved ? a + 1 : a + dim / 2;
      y[a] = x[a]! * Math.cos(angle) - x[b]! * Math.sin(angle);
      y[b] = x[b]! * Math.cos(angle) + x[a]! * Math.sin(angle);
    }
  }
  return y;
}
