/** Conv2d with padding modes and an activation as plain loops in float64: the specification and the test oracle. */
export interface Activation {
  f(z: number): number;
  derivative(z: number): number;
}

export interface Conv2dShape {
  /** [N, C, H, W] */
  readonly x: readonly number[];
  /** [O, C / groups, KH, KW] */
  readonly weight: readonly number[];
  readonly stride?: readonly [number, number];
  /** Before and after, for height and width. */
  readonly padding?: readonly [readonly [number, number], readonly [number, number]];
  readonly dilation?: readonly [number, number];
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

export function conv2dReference(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  b: ArrayLike<number> | null,
  dy: ArrayLike<number>,
  {
    x: [N, C, H, W],
    weight: [O, I, KH, KW],
    stride: [sh, sw] = [1, 1],
    padding: [[top, bottom], [left, right]] = [
      [0, 0],
      [0, 0],
    ],
    dilation: [dh, dw] = [1, 1],
    groups = 1,
    paddingMode = "zeros",
    activation = { f: (z) => z, derivative: () => 1 },
  }: Conv2dShape,
): { y: Float64Array; dx: Float64Array; dw: Float64Array; db: Float64Array } {
  const OH = Math.floor((H! + top + bottom - dh * (KH! - 1) - 1) / sh) + 1;
  const OW = Math.floor((W! + left + right - dw * (KW! - 1) - 1) / sw) + 1;
  const y = new Float64Array(N! * O! * OH * OW);
  const dx = new Float64Array(x.length);
  const dWeight = new Float64Array(w.length);
  const db = new Float64Array(O!);
  const perGroup = O! / groups;
  for (let n = 0; n < N!; n++) {
    for (let o = 0; o < O!; o++) {
      for (let oh = 0; oh < OH; oh++) {
        for (let ow = 0; ow < OW; ow++) {
          /** Every product of this output: place in x, place in w. */
          const taps: [number, number][] = [];
          for (let i = 0; i < I!; i++) {
            for (let kh = 0; kh < KH!; kh++) {
              for (let kw = 0; kw < KW!; kw++) {
                const ih = source(oh * sh + kh * dh - top, H!, paddingMode);
                const iw = source(ow * sw + kw * dw - left, W!, paddingMode);
                if (ih < 0 || iw < 0) continue;
                const c = Math.floor(o / perGroup) * I! + i;
                taps.push([((n * C! + c) * H! + ih) * W! + iw, ((o * I! + i) * KH! + kh) * KW! + kw]);
              }
            }
          }
          const at = ((n * O! + o) * OH + oh) * OW + ow;
          let z = b?.[o] ?? 0;
          for (const [xi, wi] of taps) z += x[xi]! * w[wi]!;
          y[at] = activation.f(z);
          const dz = dy[at]! * activation.derivative(z);
          db[o]! += dz;
          for (const [xi, wi] of taps) {
            dx[xi]! += dz * w[wi]!;
            dWeight[wi]! += dz * x[xi]!;
          }
        }
      }
    }
  }
  return { y, dx, dw: dWeight, db };
}
