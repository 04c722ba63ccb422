/** Checks of convolutions with two spatial axes; one of one axis has height 1. Some elements, added up in float64. */
import type { Tensor } from "@kindling/core";
import { expectClose, part, runs, sum } from "./checks.ts";

export interface Convolution {
  readonly batch: number;
  readonly channels: number;
  readonly filters: number;
  readonly size: readonly [height: number, width: number];
  readonly kernel: readonly [height: number, width: number];
  readonly stride: readonly [number, number];
  readonly padding: readonly [number, number];
  readonly groups: number;
}

/** Height and width of the result. */
export const outputOf = ({ size, kernel, stride, padding }: Convolution): [number, number] => {
  const along = (axis: 0 | 1): number => Math.floor((size[axis] + 2 * padding[axis] - kernel[axis]) / stride[axis]) + 1;
  return [along(0), along(1)];
};

/** Multiplications of one product: forward, dx and dW each have as many. */
export function multiplications(c: Convolution): number {
  const [outH, outW] = outputOf(c);
  return c.batch * c.filters * outH * outW * (c.channels / c.groups) * c.kernel[0] * c.kernel[1];
}

/** Channel, row and column of elements all over an image, its corners included. */
function places(channels: number, [H, W]: readonly [number, number]): [number, number, number][] {
  return Array.from({ length: 64 }, (_, i) => {
    const [c, h, w] = [0x9e3779b1, 0x85ebca77, 0xc2b2ae3d].map((k) => Math.imul(i + 1, k) >>> 8) as [
      number,
      number,
      number,
    ];
    return [c % channels, i < 4 ? (i & 1) * (H - 1) : h % H, i < 4 ? (i >> 1) * (W - 1) : w % W];
  });
}

const lastImage = (x: Tensor, { batch }: Convolution): Promise<number[]> =>
  part(x, x.size - x.size / batch, x.size / batch);

/** A channel of all images, one image after another. */
const channelOf = (x: Tensor, channel: number, { batch }: Convolution, area: number): Promise<number[]> =>
  runs(x, { start: channel * area, count: batch, length: area, stride: x.size / batch });

const valuesOf = async (bias: Tensor | null): Promise<number[]> => (bias ? Array.from(await bias.data()) : []);

/** Throws unless elements of `y` are those of x ∗ w + bias. */
export async function expectForward(
  what: string,
  { x, w, bias = null, y }: { x: Tensor; w: Tensor; bias?: Tensor | null; y: Tensor },
  c: Convolution,
  tolerance: number,
): Promise<void> {
  const [H, W] = c.size;
  const [outH, outW] = outputOf(c);
  const inGroup = c.channels / c.groups;
  const taps = inGroup * c.kernel[0] * c.kernel[1];
  const [image, out, weights, b] = [
    await lastImage(x, c),
    await lastImage(y, c),
    await part(w, 0, w.size),
    await valuesOf(bias),
  ];
  const actual: number[] = [];
  const expected: number[] = [];
  for (const [f, oh, ow] of places(c.filters, [outH, outW])) {
    const group = Math.floor(f / (c.filters / c.groups));
    let total = b[f] ?? 0;
    for (let tap = 0; tap < taps; tap++) {
      const j = tap % c.kernel[1];
      const i = Math.floor(tap / c.kernel[1]) % c.kernel[0];
      const channel = group * inGroup + Math.floor(tap / (c.kernel[0] * c.kernel[1]));
      const [h, w] = [oh * c.stride[0] + i - c.padding[0], ow * c.stride[1] + j - c.padding[1]];
      if (h >= 0 && h < H && w >= 0 && w < W) total += image[(channel * H + h) * W + w]! * weights[f * taps + tap]!;
    }
    actual.push(out[(f * outH + oh) * outW + ow]!);
    expected.push(total);
  }
  expectClose(what, actual, expected, tolerance, Math.sqrt(taps));
}

/** Throws unless elements of `dx` are those of the gradient of x ∗ w, plus bias. */
export async function expectInputGrad(
  what: string,
  { dy, w, bias = null, dx }: { dy: Tensor; w: Tensor; bias?: Tensor | null; dx: Tensor },
  c: Convolution,
  tolerance: number,
): Promise<void> {
  const [H, W] = c.size;
  const [outH, outW] = outputOf(c);
  const [inGroup, outGroup] = [c.channels / c.groups, c.filters / c.groups];
  const area = c.kernel[0] * c.kernel[1];
  const [image, out, weights, b] = [
    await lastImage(dy, c),
    await lastImage(dx, c),
    await part(w, 0, w.size),
    await valuesOf(bias),
  ];
  const actual: number[] = [];
  const expected: number[] = [];
  for (const [channel, h, w] of places(c.channels, c.size)) {
    const group = Math.floor(channel / inGroup);
    let total = b[channel] ?? 0;
    for (let f = group * outGroup; f < (group + 1) * outGroup; f++) {
      for (let tap = 0; tap < area; tap++) {
        const oh = (h + c.padding[0] - Math.floor(tap / c.kernel[1])) / c.stride[0];
        const ow = (w + c.padding[1] - (tap % c.kernel[1])) / c.stride[1];
        if (Number.isInteger(oh) && Number.isInteger(ow) && oh >= 0 && oh < outH && ow >= 0 && ow < outW)
          total += image[(f * outH + oh) * outW + ow]! * weights[(f * inGroup + (channel % inGroup)) * area + tap]!;
      }
    }
    actual.push(out[(channel * H + h) * W + w]!);
    expected.push(total);
  }
  expectClose(what, actual, expected, tolerance, Math.sqrt(outGroup * area));
}

/** Throws unless the corners of a filter in `dw` are those of the gradient of x ∗ w. */
export async function expectWeightGrad(
  what: string,
  { x, dy, dw }: { x: Tensor; dy: Tensor; dw: Tensor },
  c: Convolution,
  tolerance: number,
): Promise<void> {
  const [H, W] = c.size;
  const [outH, outW] = outputOf(c);
  const inGroup = c.channels / c.groups;
  const f = c.filters - 1;
  const [values, slopes] = [await channelOf(x, c.channels - 1, c, H * W), await channelOf(dy, f, c, outH * outW)];
  const area = c.kernel[0] * c.kernel[1];
  const actual = await part(dw, (f * inGroup + inGroup - 1) * area, area);
  for (const tap of new Set([0, c.kernel[1] - 1, area - 1])) {
    const [i, j] = [Math.floor(tap / c.kernel[1]), tap % c.kernel[1]];
    let total = 0;
    let at = 0;
    for (let n = 0; n < c.batch; n++) {
      for (let oh = 0; oh < outH; oh++) {
        const h = oh * c.stride[0] + i - c.padding[0];
        for (let ow = 0; ow < outW; ow++, at++) {
          const w = ow * c.stride[1] + j - c.padding[1];
          if (h >= 0 && h < H && w >= 0 && w < W) total += slopes[at]! * values[(n * H + h) * W + w]!;
        }
      }
    }
    expectClose(`${what}, tap ${tap}`, [actual[tap]!], [total], tolerance, Math.sqrt(slopes.length));
  }
}

/** Throws unless the last element of `db` is the sum of its channel of `dy`. */
export async function expectBiasGrad(
  { dy, db }: { dy: Tensor; db: Tensor },
  batch: number,
  tolerance: number,
): Promise<void> {
  const channels = db.size;
  const area = dy.size / batch / channels;
  const slopes = await runs(dy, { start: (channels - 1) * area, count: batch, length: area, stride: channels * area });
  expectClose("db", await part(db, channels - 1, 1), [sum(slopes)], tolerance, Math.sqrt(slopes.length));
}
