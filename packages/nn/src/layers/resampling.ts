/**
 * Upsample and what else moves elements: interpolate, PixelShuffle, PixelUnshuffle, ChannelShuffle, Unfold, Fold.
 *
 * Interpolation is a linear map along each axis, one after the other: a few taps and weights for each output. Its gradient is
 * the transposed map, again with a few taps for each input.
 */
import { record, type Shape, type Tensor } from "@kindling/core";
import { FallbackModule } from "../backend.ts";
import {
  batched,
  checkFloats,
  checkOneOf,
  each,
  fail,
  fallback,
  floats,
  ints,
  type Jax,
  type JaxArray,
  type Sizes,
  shown,
  whole,
} from "./form.ts";

export type InterpolateMode = "nearest" | "nearest-exact" | "linear" | "bilinear" | "bicubic" | "trilinear" | "area";

/** A linear map along the axis `axis`, counted from the end. */
interface AxisMap {
  readonly axis: number;
  readonly size: number;
  readonly out: number;
  /** Sizes in, over sizes out, as far as coordinates go. */
  readonly scale: number;
  readonly kind: "nearest" | "nearest-exact" | "linear" | "cubic" | "area";
  readonly alignCorners: boolean;
  readonly antialias: boolean;
}

type Tap = readonly [index: number, weight: number];

const clamp = (v: number, size: number): number => Math.min(Math.max(v, 0), size - 1);

/** Keys 1981, with the second derivative at 1 that `a` says. */
const cubic = (x: number, a: number): number => {
  const d = Math.abs(x);
  if (d <= 1) return ((a + 2) * d - (a + 3)) * d * d + 1;
  return d < 2 ? (((d - 5) * d + 8) * d - 4) * a : 0;
};

/** What output `o` reads, in single precision where PyTorch's rounding decides which element that is. */
function tapsOf(o: number, map: AxisMap): Tap[] {
  const { size, out, scale, kind, alignCorners, antialias } = map;
  const f = Math.fround;
  if (kind === "nearest") return [[Math.min(Math.floor(f(o * f(scale))), size - 1), 1]];
  if (kind === "nearest-exact") return [[Math.min(Math.floor(f((o + 0.5) * f(scale))), size - 1), 1]];
  if (kind === "area") {
    const start = Math.floor((o * size) / out);
    const end = Math.ceil(((o + 1) * size) / out);
    return Array.from({ length: end - start }, (_, i) => [start + i, 1 / (end - start)] as const);
  }
  if (antialias) return antialiased(o, map);
  const place = alignCorners ? o * scale : (o + 0.5) * scale - 0.5;
  if (kind === "linear") {
    // Axes that keep their size are copied by PyTorch, whatever the scale.
    const at = size === out ? o : Math.max(place, 0);
    const low = Math.min(Math.floor(at), size - 1);
    return [
      [low, 1 - (at - low)],
      [clamp(low + 1, size), at - low],
    ];
  }
  const low = Math.floor(place);
  return [-1, 0, 1, 2].map((k) => [clamp(low + k, size), cubic(place - low - k, -0.75)] as const);
}

/** The filter is as wide as an output where outputs are fewer than inputs, and its weights add up to one. */
function antialiased(o: number, { size, scale, kind }: AxisMap): Tap[] {
  const stretch = Math.max(scale, 1);
  const support = (kind === "linear" ? 1 : 2) * stretch;
  const center = scale * (o + 0.5);
  const start = Math.max(Math.trunc(center - support + 0.5), 0);
  const end = Math.min(Math.trunc(center + support + 0.5), size);
  const filter = kind === "linear" ? (x: number) => Math.max(0, 1 - Math.abs(x)) : (x: number) => cubic(x, -0.5);
  const taps = Array.from({ length: end - start }, (_, i): [number, number] => {
    return [start + i, filter((start + i - center + 0.5) / stretch)];
  });
  const total = taps.reduce((sum, [, w]) => sum + w, 0);
  return taps.map(([i, w]) => [i, w / total]);
}

/** The map's taps, or those of its transpose: as many for each result, the missing ones of weight 0. */
function tableOf(
  map: AxisMap,
  transposed: boolean,
): { count: number; width: number; index: number[]; weight: number[] } {
  let rows = Array.from({ length: map.out }, (_, o) => tapsOf(o, map));
  if (transposed) {
    const turned = Array.from({ length: map.size }, (): Tap[] => []);
    rows.forEach((taps, o) => {
      for (const [i, w] of taps) turned[i]!.push([o, w]);
    });
    rows = turned;
  }
  const width = Math.max(1, ...rows.map((taps) => taps.length));
  const full = rows.flatMap((taps) => Array.from({ length: width }, (_, k) => taps[k] ?? ([0, 0] as const)));
  return { count: rows.length, width, index: full.map(([i]) => i), weight: full.map(([, w]) => w) };
}

interface Maps {
  readonly maps: readonly AxisMap[];
  readonly transposed: boolean;
}

function mapAxes({ numpy: np }: Jax, { x }: Record<string, JaxArray>, { maps, transposed }: Maps): JaxArray {
  let y = x!;
  for (const map of maps) {
    const { count, width, index, weight } = tableOf(map, transposed);
    const last = np.moveaxis(y, map.axis, -1);
    const read = np.take(last, ints(np, index), -1).reshape([...last.shape.slice(0, -1), count, width]);
    const weights = floats(np, weight, [count, width]);
    y = np.moveaxis(np.where(weights.ref.notEqual(0), read.mul(weights), 0).sum(-1), -1, map.axis);
  }
  return y;
}

function resample(where: string, x: Tensor, maps: readonly AxisMap[]): Tensor {
  const input = x.detach();
  const y = fallback(mapAxes, { x: input }, { maps, transposed: false }, { name: where });
  return record(y, [x], (dy) => [fallback(mapAxes, { x: dy }, { maps, transposed: true }, { name: where })]);
}

export interface InterpolateOptions {
  /** Of y's axes of space; this or scaleFactor. */
  size?: Sizes | null;
  /** y's size over x's. */
  scaleFactor?: number | readonly number[] | null;
  /** Default "nearest". "linear" is for one axis of space, "bilinear" and "bicubic" for two, "trilinear" for three. */
  mode?: InterpolateMode;
  /** Whether the corners of x and y lie on each other, and not the corners of their outermost elements. Default false. */
  alignCorners?: boolean | null;
  /** With scaleFactor: whether coordinates go by the sizes of x and y, and not by scaleFactor. Default false. */
  recomputeScaleFactor?: boolean | null;
  /** For "bilinear" and "bicubic" to fewer elements: average over all elements of x. Default false. */
  antialias?: boolean;
}

const kinds: Record<InterpolateMode, { kind: AxisMap["kind"]; rank: number | null }> = {
  nearest: { kind: "nearest", rank: null },
  "nearest-exact": { kind: "nearest-exact", rank: null },
  area: { kind: "area", rank: null },
  linear: { kind: "linear", rank: 1 },
  bilinear: { kind: "linear", rank: 2 },
  bicubic: { kind: "cubic", rank: 2 },
  trilinear: { kind: "linear", rank: 3 },
};

/**
 * x [N, C, …] with one to three axes of space, in another size: by `size` or by `scaleFactor`. Matches
 * torch.nn.functional.interpolate.
 */
export function interpolate(x: Tensor, options: InterpolateOptions = {}): Tensor {
  return interpolated("interpolate", x, options);
}

/** `interpolate` under PyTorch's older name. */
export const upsample = (x: Tensor, options: InterpolateOptions = {}): Tensor => interpolated("upsample", x, options);

function interpolated(where: string, x: Tensor, options: InterpolateOptions): Tensor {
  const {
    size,
    scaleFactor,
    mode = "nearest",
    alignCorners,
    recomputeScaleFactor = false,
    antialias = false,
  } = options;
  checkFloats(where, { x });
  checkMode(where, options);
  const rank = x.shape.length - 2;
  if (rank < 1 || rank > 3) fail(where, `x has shape [${x.shape}], expected [N, C, …] with one to three axes of space`);
  const { kind, rank: expected } = kinds[mode];
  if (expected !== null && expected !== rank)
    fail(where, `mode "${mode}" is for ${expected} axes of space, x has shape [${x.shape}]`);
  const space = x.shape.slice(2);
  const factors = factorsOf(where, scaleFactor, rank);
  const outs = size != null ? each(`${where}: size`, size, rank, 1) : space.map((n, i) => Math.floor(n * factors![i]!));
  outs.forEach((out) => {
    whole(`${where}: the size of y`, out, 1);
  });
  const maps = space.map((n, i): AxisMap => {
    const out = outs[i]!;
    const given = factors && !recomputeScaleFactor && kind !== "area" ? 1 / factors[i]! : n / out;
    const scale = alignCorners ? (out > 1 ? (n - 1) / (out - 1) : 0) : given;
    return { axis: i - rank, size: n, out, scale, kind, alignCorners: alignCorners ?? false, antialias };
  });
  const needed = maps.filter(({ size: n, out, scale }) => n !== out || scale !== 1);
  return needed.length > 0 ? resample(where, x, needed) : x;
}

function factorsOf(
  where: string,
  scaleFactor: InterpolateOptions["scaleFactor"],
  rank: number,
): readonly number[] | null {
  if (scaleFactor == null) return null;
  const factors = typeof scaleFactor === "number" ? Array<number>(rank).fill(scaleFactor) : scaleFactor;
  if (factors.length !== rank || factors.some((f) => !(f > 0)))
    fail(
      where,
      `scaleFactor is ${JSON.stringify(scaleFactor)}, expected ${rank > 1 ? `1 or ${rank} ` : ""}numbers > 0`,
    );
  return factors;
}

/** What can be wrong without an x. */
function checkMode(where: string, options: InterpolateOptions): void {
  const { size, scaleFactor, mode = "nearest", alignCorners, recomputeScaleFactor, antialias } = options;
  checkOneOf(`${where}: mode`, mode, Object.keys(kinds) as InterpolateMode[]);
  if ((size == null) === (scaleFactor == null)) fail(where, "expected size or scaleFactor, one of them");
  const { kind } = kinds[mode];
  if (alignCorners != null && kind !== "linear" && kind !== "cubic")
    fail(where, `alignCorners is ${alignCorners}, which mode "${mode}" does not have`);
  if (recomputeScaleFactor && size != null)
    fail(where, "recomputeScaleFactor is true, expected scaleFactor and no size");
  if (antialias && mode !== "bilinear" && mode !== "bicubic")
    fail(where, `antialias is true, expected mode "bilinear" or "bicubic", got "${mode}"`);
  if (antialias && alignCorners) fail(where, "antialias is true, expected alignCorners false");
}

/** `interpolate` as a module. Matches `torch.nn.Upsample(…)`. */
export class Upsample extends FallbackModule {
  readonly options: Omit<InterpolateOptions, "antialias">;

  constructor(options: Omit<InterpolateOptions, "antialias">) {
    super();
    checkMode(new.target.name, options);
    this.options = options;
  }

  forward(x: Tensor): Tensor {
    return interpolated(this.constructor.name, x, this.options);
  }

  protected override settings(): string {
    return shown(this.options);
  }
}

type UpsampleSize = Pick<InterpolateOptions, "size" | "scaleFactor">;

/** Each element repeated, [N, C, H, W]. Matches `torch.nn.UpsamplingNearest2d(…)`. */
export class UpsamplingNearest2d extends Upsample {
  constructor({ size, scaleFactor }: UpsampleSize) {
    super({ size, scaleFactor, mode: "nearest" });
  }
}

/** Bilinear with the corners on each other, [N, C, H, W]. Matches `torch.nn.UpsamplingBilinear2d(…)`. */
export class UpsamplingBilinear2d extends Upsample {
  constructor({ size, scaleFactor }: UpsampleSize) {
    super({ size, scaleFactor, mode: "bilinear", alignCorners: true });
  }
}

// Shuffles --------------------------------------------------------------------------------------

/** Reshape, transpose, reshape. */
interface Shuffle {
  readonly split: Shape;
  readonly order: readonly number[];
  readonly shape: Shape;
}

const shuffle = ({ numpy: np }: Jax, { x }: Record<string, JaxArray>, { split, order, shape }: Shuffle): JaxArray =>
  np.transpose(x!.reshape([...split]), [...order]).reshape([...shape]);

function image(where: string, x: Tensor): [lead: Shape, C: number, H: number, W: number] {
  checkFloats(where, { x });
  if (x.shape.length < 3) fail(where, `x has shape [${x.shape}], expected [..., C, H, W]`);
  const [C, H, W] = x.shape.slice(-3) as [number, number, number];
  return [x.shape.slice(0, -3), C, H, W];
}

const behind = (lead: Shape, order: readonly number[]): number[] => [
  ...lead.map((_, i) => i),
  ...order.map((i) => lead.length + i),
];

/** [..., C·r², H, W] → [..., C, H·r, W·r]. Matches torch.nn.functional.pixel_shuffle. */
export function pixelShuffle(x: Tensor, upscaleFactor: number): Tensor {
  const where = "pixelShuffle";
  const [lead, channels, H, W] = image(where, x);
  const r = whole(`${where}: upscaleFactor`, upscaleFactor, 1);
  if (channels % (r * r) !== 0)
    fail(where, `x has shape [${x.shape}], expected a multiple of ${r * r} channels for upscaleFactor ${r}`);
  const C = channels / (r * r);
  const settings = {
    split: [...lead, C, r, r, H, W],
    order: behind(lead, [0, 3, 1, 4, 2]),
    shape: [...lead, C, H * r, W * r],
  };
  return fallback(shuffle, { x }, settings, { name: where });
}

/** [..., C, H·r, W·r] → [..., C·r², H, W]. Matches torch.nn.functional.pixel_unshuffle. */
export function pixelUnshuffle(x: Tensor, downscaleFactor: number): Tensor {
  const where = "pixelUnshuffle";
  const [lead, C, height, width] = image(where, x);
  const r = whole(`${where}: downscaleFactor`, downscaleFactor, 1);
  if (height % r !== 0 || width % r !== 0)
    fail(where, `x has shape [${x.shape}], expected a height and a width that are multiples of downscaleFactor ${r}`);
  const [H, W] = [height / r, width / r];
  const settings = {
    split: [...lead, C, H, r, W, r],
    order: behind(lead, [0, 2, 4, 1, 3]),
    shape: [...lead, C * r * r, H, W],
  };
  return fallback(shuffle, { x }, settings, { name: where });
}

/** Channels of [N, C, …], those of `groups` groups in turns. Matches torch.nn.functional.channel_shuffle. */
export function channelShuffle(x: Tensor, groups: number): Tensor {
  const where = "channelShuffle";
  checkFloats(where, { x });
  if (x.shape.length < 3) fail(where, `x has shape [${x.shape}], expected [N, C, …]`);
  const [N, C, ...space] = x.shape as [number, number, ...number[]];
  const g = whole(`${where}: groups`, groups, 1);
  if (C % g !== 0) fail(where, `groups is ${g}, expected a divisor of ${C} channels`);
  const S = space.reduce((a, b) => a * b, 1);
  const settings = { split: [N, g, C / g, S], order: [0, 2, 1, 3], shape: x.shape };
  return fallback(shuffle, { x }, settings, { name: where });
}

/** `pixelShuffle` as a module. Matches `torch.nn.PixelShuffle(upscaleFactor)`. */
export class PixelShuffle extends FallbackModule {
  readonly upscaleFactor: number;

  constructor(upscaleFactor: number) {
    super();
    this.upscaleFactor = whole("PixelShuffle: upscaleFactor", upscaleFactor, 1);
  }

  forward(x: Tensor): Tensor {
    return pixelShuffle(x, this.upscaleFactor);
  }

  protected override settings(): string {
    return `upscaleFactor=${this.upscaleFactor}`;
  }
}

/** `pixelUnshuffle` as a module. Matches `torch.nn.PixelUnshuffle(downscaleFactor)`. */
export class PixelUnshuffle extends FallbackModule {
  readonly downscaleFactor: number;

  constructor(downscaleFactor: number) {
    super();
    this.downscaleFactor = whole("PixelUnshuffle: downscaleFactor", downscaleFactor, 1);
  }

  forward(x: Tensor): Tensor {
    return pixelUnshuffle(x, this.downscaleFactor);
  }

  protected override settings(): string {
    return `downscaleFactor=${this.downscaleFactor}`;
  }
}

/** `channelShuffle` as a module. Matches `torch.nn.ChannelShuffle(groups)`. */
export class ChannelShuffle extends FallbackModule {
  readonly groups: number;

  constructor(groups: number) {
    super();
    this.groups = whole("ChannelShuffle: groups", groups, 1);
  }

  forward(x: Tensor): Tensor {
    return channelShuffle(x, this.groups);
  }

  protected override settings(): string {
    return `groups=${this.groups}`;
  }
}

// Windows as columns ----------------------------------------------------------------------------

/** Windows of the last two axes; `out` is how many. */
interface Columns {
  readonly size: readonly number[];
  readonly out: readonly number[];
  readonly kernel: readonly number[];
  readonly stride: readonly number[];
  readonly padding: readonly number[];
  readonly dilation: readonly number[];
}

/** [N, C, H, W] → [N, C·KH·KW, windows] */
function columns({ numpy: np, lax }: Jax, { x }: Record<string, JaxArray>, settings: Columns): JaxArray {
  const { out, kernel, stride, padding, dilation } = settings;
  const [N, C] = x!.shape as [number, number];
  const [KH, KW, DH, DW, OH, OW] = [...kernel, ...dilation, ...out] as [number, number, number, number, number, number];
  const spans = kernel.map((k, i) => (k - 1) * dilation[i]! + 1);
  const padded = np.pad(x!, [
    [0, 0],
    [0, 0],
    [padding[0]!, padding[0]!],
    [padding[1]!, padding[1]!],
  ]);
  const windows = lax.reduceWindow(padded, (w) => w, spans, [...stride]); // [N, C, OH, OW, span, span]
  const taps = np
    .pad(windows, [
      [0, 0],
      [0, 0],
      [0, 0],
      [0, 0],
      [0, DH - 1],
      [0, DW - 1],
    ])
    .reshape([N, C, OH, OW, KH, DH, KW, DW])
    .slice([], [], [], [], [], 0, [], 0);
  return np.transpose(taps, [0, 1, 4, 5, 2, 3]).reshape([N, C * KH * KW, OH * OW]);
}

/** The transposed map of `columns`: windows added up where they lie. */
function folded(jax: Jax, { x }: Record<string, JaxArray>, settings: Columns): JaxArray {
  const { numpy: np, vjp } = jax;
  const { size, kernel } = settings;
  const C = x!.shape[1]! / (kernel[0]! * kernel[1]!);
  const image = np.zeros([x!.shape[0]!, C, ...size]);
  const [y, pull] = vjp((x: JaxArray) => columns(jax, { x }, settings), [image]);
  y.dispose();
  const [sum] = pull(x!);
  pull.dispose();
  return sum;
}

export interface UnfoldOptions {
  /** Default 1. */
  dilation?: Sizes;
  /** Of zeros, on both sides. Default 0. */
  padding?: Sizes;
  /** Default 1. */
  stride?: Sizes;
}

function columnsOf(where: string, size: readonly number[], kernelSize: Sizes, options: UnfoldOptions): Columns {
  const kernel = each(`${where}: kernelSize`, kernelSize, 2, 1);
  const dilation = each(`${where}: dilation`, options.dilation ?? 1, 2, 1);
  const padding = each(`${where}: padding`, options.padding ?? 0, 2, 0);
  const stride = each(`${where}: stride`, options.stride ?? 1, 2, 1);
  const out = size.map((n, i) => {
    const count = Math.floor((n + 2 * padding[i]! - dilation[i]! * (kernel[i]! - 1) - 1) / stride[i]!) + 1;
    if (count < 1)
      fail(where, `an image of [${size}] with padding [${padding}] is smaller than the window [${kernel}]`);
    return count;
  });
  return { size, out, kernel, stride, padding, dilation };
}

/** The windows of x [N, C, H, W] or [C, H, W] as columns: [N, C·KH·KW, windows]. Matches torch.nn.functional.unfold. */
export function unfold(x: Tensor, kernelSize: Sizes, options: UnfoldOptions = {}): Tensor {
  const where = "unfold";
  checkFloats(where, { x });
  if (x.shape.length !== 3 && x.shape.length !== 4)
    fail(where, `x has shape [${x.shape}], expected [N, C, H, W] or [C, H, W]`);
  const settings = columnsOf(where, x.shape.slice(-2), kernelSize, options);
  const { x: full, back } = batched(x, 4);
  return back(fallback(columns, { x: full }, settings, { name: where }));
}

/**
 * Adds up the columns of x [N, C·KH·KW, windows] or [C·KH·KW, windows] where `unfold` took them from an image of
 * `outputSize`: [N, C, H, W]. Matches torch.nn.functional.fold.
 */
export function fold(x: Tensor, outputSize: Sizes, kernelSize: Sizes, options: UnfoldOptions = {}): Tensor {
  const where = "fold";
  checkFloats(where, { x });
  const settings = columnsOf(where, each(`${where}: outputSize`, outputSize, 2, 1), kernelSize, options);
  const [taps, windows] = [settings.kernel[0]! * settings.kernel[1]!, settings.out[0]! * settings.out[1]!];
  if ((x.shape.length !== 2 && x.shape.length !== 3) || x.shape.at(-2)! % taps !== 0 || x.shape.at(-1) !== windows)
    fail(where, `x has shape [${x.shape}], expected [N, C·${taps}, ${windows}] or [C·${taps}, ${windows}]`);
  const { x: full, back } = batched(x, 3);
  return back(fallback(folded, { x: full }, settings, { name: where }));
}

/** `unfold` as a module. Matches `torch.nn.Unfold(kernelSize, …)`. */
export class Unfold extends FallbackModule {
  readonly kernelSize: Sizes;
  readonly options: UnfoldOptions;

  constructor(kernelSize: Sizes, options: UnfoldOptions = {}) {
    super();
    this.kernelSize = kernelSize;
    this.options = options;
  }

  forward(x: Tensor): Tensor {
    return unfold(x, this.kernelSize, this.options);
  }

  protected override settings(): string {
    return shown({ kernelSize: this.kernelSize, ...this.options });
  }
}

/** `fold` as a module. Matches `torch.nn.Fold(outputSize, kernelSize, …)`. */
export class Fold extends FallbackModule {
  readonly outputSize: Sizes;
  readonly kernelSize: Sizes;
  readonly options: UnfoldOptions;

  constructor(outputSize: Sizes, kernelSize: Sizes, options: UnfoldOptions = {}) {
    super();
    this.outputSize = outputSize;
    this.kernelSize = kernelSize;
    this.options = options;
  }

  forward(x: Tensor): Tensor {
    return fold(x, this.outputSize, this.kernelSize, this.options);
  }

  protected override settings(): string {
    return shown({ outputSize: this.outputSize, kernelSize: this.kernelSize, ...this.options });
  }
}
