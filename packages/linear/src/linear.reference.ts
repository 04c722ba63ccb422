/** Linear with an activation as plain loops in float64: the specification and the test oracle. */
export interface Activation {
  f(z: number): number;
  derivative(z: number): number;
}

export function linearReference(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  b: ArrayLike<number> | null,
  dy: ArrayLike<number>,
  { inputs, activation = { f: (z) => z, derivative: () => 1 } }: { inputs: number; activation?: Activation },
): { y: Float64Array; dx: Float64Array; dw: Float64Array; db: Float64Array } {
  const out = w.length / inputs;
  const rows = x.length / inputs;
  const y = new Float64Array(rows * out);
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(w.length);
  const db = new Float64Array(out);
  for (let r = 0; r < rows; r++) {
    for (let o = 0; o < out; o++) {
      let z = b?.[o] ?? 0;
      for (let i = 0; i < inputs; i++) z += x[r * inputs + i]! * w[o * inputs + i]!;
      y[r * out + o] = activation.f(z);
      const dz = dy[r * out + o]! * activation.derivative(z);
      db[o]! += dz;
      for (let i = 0; i < inputs; i++) {
        dx[r * inputs + i]! += dz * w[o * inputs + i]!;
        dw[o * inputs + i]! += dz * x[r * inputs + i]!;
      }
    }
  }
  return { y, dx, dw, db };
}
