/** Conv1d with padding modes and an activation as plain loops in float64: the specification and the test oracle. */
export interface Activation {
  f(z: number): number;
  derivative(z: number): number;
}

export interface Conv1dShape {
  /** [N, C, L] */
  readonly x: readonly number[];
  /** [O, C / groups, K] */
  readonly weight: readonly number[];
  readonly stride?: number;
  readonly padding?: readonly [before: number, after: number];
  readonly dilation?: number;
  readonly groups?: number;
  readonly paddingMode?: "zeros" | "reflect" | "replicate" | "circular";
  readonly activation?: Activation;
}

/** The position in an axis of `size` that position `i` of the padded one repeats; -1 for a zero. */
function source(i: number, size: number, mode: string): number {
  if (i >= 0 && i < size) return i;
  if (mode === "replicate") return i < 0 ? 0 : size - 1;
  if (mode === "circular") return i < 0 ? i + size : i - size;
  if (mode === "reflect") return i < 0 ? -i : 2 * (size - 1) - i;
  return -1;
}

export function conv1dReference(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  b: ArrayLike<number> | null,
  dy: ArrayLike<number>,
  {
    x: [N, C, L],
    weight: [O, I, K],
    stride = 1,
    padding: [before, after] = [0, 0],
    dilation = 1,
    groups = 1,
    paddingMode = "zeros",
    activation = { f: (z) => z, derivative: () => 1 },
  }: Conv1dShape,
): { y: Float64Array; dx: Float64Array; dw: Float64Array; db: Float64Array } {
  const count = Math.floor((L! + before + after - dilation * (K! - 1) - 1) / stride) + 1;
  const y = new Float64Array(N! * O! * count);
  const dx = new Float64Array(x.length);
  const dw = new Float64Array(w.length);
  const db = new Float64Array(O!);
  for (let n = 0; n < N!; n++) {
    for (let o = 0; o < O!; o++) {
      const firstChannel = Math.floor(o / (O! / groups)) * I!;
      for (let p = 0; p < count; p++) {
        /** Every product of this output: place in x, place in w. */
        const products: [number, number][] = [];
        for (let i = 0; i < I!; i++) {
          for (let k = 0; k < K!; k++) {
            const at = source(p * stride + k * dilation - before, L!, paddingMode);
            if (at >= 0) products.push([(n * C! + firstChannel + i) * L! + at, (o * I! + i) * K! + k]);
          }
        }
        const i = (n * O! + o) * count + p;
        let z = b?.[o] ?? 0;
        for (const [xi, wi] of products) z += x[xi]! * w[wi]!;
        y[i] = activation.f(z);
        const dz = dy[i]! * activation.derivative(z);
        db[o]! += dz;
        for (const [xi, wi] of products) {
          dx[xi]! += dz * w[wi]!;
          dw[wi]! += dz * x[xi]!;
        }
      }
    }
  }
  return { y, dx, dw, db };
}
