/** Transposed convolution with an activation as plain loops in float64: the specification and the test oracle. */
export interface Activation {
  f(z: number): number;
  derivative(z: number): number;
}

type Pair = readonly [height: number, width: number];

export interface ConvTransposeShape {
  /** [N, C, H, W]; in one dimension H is 1 */
  readonly x: readonly number[];
  /** [C, O / groups, KH, KW] */
  readonly weight: readonly number[];
  readonly stride?: Pair;
  readonly padding?: Pair;
  readonly outputPadding?: Pair;
  readonly dilation?: Pair;
  readonly groups?: number;
  readonly activation?: Activation;
}

export function convTransposeReference(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  b: ArrayLike<number> | null,
  dy: ArrayLike<number>,
  {
    x: [N, C, H, W],
    weight: [, O, KH, KW],
    stride: [sh, sw] = [1, 1],
    padding: [ph, pw] = [0, 0],
    outputPadding: [eh, ew] = [0, 0],
    dilation: [dh, dw] = [1, 1],
    groups = 1,
    activation = { f: (z) => z, derivative: () => 1 },
  }: ConvTransposeShape,
): { y: Float64Array; dx: Float64Array; dw: Float64Array; db: Float64Array } {
  const OH = (H! - 1) * sh - 2 * ph + dh * (KH! - 1) + eh + 1;
  const OW = (W! - 1) * sw - 2 * pw + dw * (KW! - 1) + ew + 1;
  const perGroup = C! / groups;
  const z = new Float64Array(N! * O! * groups * OH * OW);
  /** Calls `visit` with the places in x, w and y of every product. */
  const each = (visit: (xi: number, wi: number, yi: number) => void): void => {
    for (let n = 0; n < N!; n++) {
      for (let c = 0; c < C!; c++) {
        for (let h = 0; h < H!; h++) {
          for (let v = 0; v < W!; v++) {
            for (let o = 0; o < O!; o++) {
              for (let kh = 0; kh < KH!; kh++) {
                for (let kw = 0; kw < KW!; kw++) {
                  const oh = h * sh + kh * dh - ph;
                  const ow = v * sw + kw * dw - pw;
                  if (oh < 0 || oh >= OH || ow < 0 || ow >= OW) continue;
                  const plane = n * O! * groups + Math.floor(c / perGroup) * O! + o;
                  visit(
                    ((n * C! + c) * H! + h) * W! + v,
                    ((c * O! + o) * KH! + kh) * KW! + kw,
                    (plane * OH + oh) * OW + ow,
                  );
                }
              }
            }
          }
        }
      }
    }
  };
  const channel = (i: number): number => Math.floor(i / (OH * OW)) % (O! * groups);
  for (let i = 0; i < z.length; i++) z[i] = b?.[channel(i)] ?? 0;
  each((xi, wi, yi) => (z[yi]! += x[xi]! * w[wi]!));
  const dz = z.map((v, i) => dy[i]! * activation.derivative(v));
  const dx = new Float64Array(x.length);
  const dWeight = new Float64Array(w.length);
  const db = new Float64Array(O! * groups);
  for (let i = 0; i < dz.length; i++) db[channel(i)]! += dz[i]!;
  each((xi, wi, yi) => {
    dx[xi]! += dz[yi]! * w[wi]!;
    dWeight[wi]! += dz[yi]! * x[xi]!;
  });
  return { y: z.map((v) => activation.f(v)), dx, dw: dWeight, db };
}
