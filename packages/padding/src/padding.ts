/**
 * Padding of the last axes, as torch.nn.functional.pad: y has the elements of x in its middle and around them
 *
 *   constant    a number                    a b c  →  0 0 a b c 0 0
 *   reflect     x mirrored at its ends      a b c  →  c b a b c b a
 *   replicate   the nearest element         a b c  →  a a a b c c c
 *   circular    x again                     a b c  →  b c a b c a b
 *
 *   dx_j = Σ dy_o over the places o of y that show element j
 *
 * The gradient gathers: each element of x adds up its images in a fixed order, axis by axis; away from the ends it has one.
 * Order of this file: kernels, launchers, differentiable function, modules.
 */
import {
  delegated,
  empty,
  emptyLike,
  type FloatType,
  kernel,
  Module,
  record,
  type Tensor,
  threads,
  variants,
} from "@kindling/core";

export type PadMode = "constant" | "reflect" | "replicate" | "circular";

// Kernels ---------------------------------------------------------------------------------------

/**
 * Along one axis of n elements with `left` in front of them: `origin(o)` is the element that place o shows, or -1 for the
 * constant; the places that show element j are `image(j, 0)` to `image(j, images(j) - 1)`, and a negative one counts nothing.
 */
const modes: Record<PadMode, string> = {
  constant: /* wgsl */ `
fn origin(o: i32, n: i32, left: i32) -> i32 { return select(-1, o - left, o >= left && o - left < n); }
fn images(j: i32, n: i32, out: i32, left: i32) -> i32 { return 1; }
fn image(k: i32, j: i32, n: i32, out: i32, left: i32) -> i32 { return select(-1, j + left, j + left < out); }`,
  reflect: /* wgsl */ `
fn origin(o: i32, n: i32, left: i32) -> i32 { let i = abs(o - left); return select(i, 2 * (n - 1) - i, i >= n); }
fn images(j: i32, n: i32, out: i32, left: i32) -> i32 {
  return select(1, 3, (j > 0 && j <= left) || ((j < n - 1) && (j >= 2 * n + left - out - 1)));
}
fn image(k: i32, j: i32, n: i32, out: i32, left: i32) -> i32 {
  if (k == 0) { return j + left; }
  if (k == 1) { return select(-1, left - j, j > 0); }
  let o = left + 2 * (n - 1) - j;
  return select(-1, o, (j < n - 1) && (o < out));
}`,
  replicate: /* wgsl */ `
fn origin(o: i32, n: i32, left: i32) -> i32 { return clamp(o - left, 0, n - 1); }
fn images(j: i32, n: i32, out: i32, left: i32) -> i32 { return 1 + select(0, left, j == 0) + select(0, out - n - left, j == n - 1); }
fn image(k: i32, j: i32, n: i32, out: i32, left: i32) -> i32 {
  return select(j + left + k, j + left - k, j == 0 && k <= left) - select(0, left, j == 0 && k > left);
}`,
  circular: /* wgsl */ `
fn origin(o: i32, n: i32, left: i32) -> i32 { return (o - left + n) % n; }
fn images(j: i32, n: i32, out: i32, left: i32) -> i32 {
  return select(1, 3, j >= n - left || j < out - n - left);
}
fn image(k: i32, j: i32, n: i32, out: i32, left: i32) -> i32 {
  let o = j + left + select(select(n, -n, k == 1), 0, k == 0);
  return select(-1, o, o < out);
}`,
};

/** Rows that a thread walks down in its column: dividing by the sizes, which is what takes the time, is done once for all. */
const ROWS = 4;

/**
 * x is [count, d, h, w] and y [count, D, H, W]; front, top and left are the places before them. `body` is done for each element of
 * one of them, [depth, height, width] in each `block`: that of number `at` is in the thread's `column` of line `line` of plane `z`.
 */
const kernelText = (
  mode: PadMode,
  [depth, height, width]: readonly ["D", "H", "W"] | readonly ["d", "h", "w"],
  bindings: string,
  body: string,
): string => /* wgsl */ `
struct Params { rows: i32, d: i32, h: i32, w: i32, D: i32, H: i32, W: i32, front: i32, top: i32, left: i32, value: f32 }

@group(0) @binding(0) var<uniform> params: Params;
${bindings}
${modes[mode]}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  let column = i32(i % u32(params.${width}));
  let first = i32(i / u32(params.${width})) * ${ROWS};
  let plane = first / params.${height};
  var line = first % params.${height};
  var block = plane / params.${depth};
  var z = plane % params.${depth};
  for (var row = first; row < min(first + ${ROWS}, params.rows); row++) {
    let at = row * params.${width} + column;
    ${body}
    line++;
    if (line == params.${height}) { line = 0; z++; }
    if (z == params.${depth}) { z = 0; block++; }
  }
}`;

const forwardKernel = variants((T: FloatType, mode: PadMode) =>
  kernel<string>(
    `pad.${mode}.${T}`,
    kernelText(
      mode,
      ["D", "H", "W"],
      /* wgsl */ `
@group(0) @binding(1) var<storage, read> x: array<${T}>;
@group(0) @binding(2) var<storage, read_write> y: array<${T}>;`,
      /* wgsl */ `let ox = origin(column, params.w, params.left);
    let oy = origin(line, params.h, params.top);
    let oz = origin(z, params.d, params.front);
    var value = ${T}(params.value);
    if (min(ox, min(oy, oz)) >= 0) { value = x[((block * params.d + oz) * params.h + oy) * params.w + ox]; }
    y[at] = value;`,
    ),
  ),
);

const backwardKernel = variants((T: FloatType, mode: PadMode) =>
  kernel<string>(
    `pad.grad.${mode}.${T}`,
    kernelText(
      mode,
      ["d", "h", "w"],
      /* wgsl */ `
@group(0) @binding(1) var<storage, read> dy: array<${T}>;
@group(0) @binding(2) var<storage, read_write> dx: array<${T}>;`,
      /* wgsl */ `var sum = 0.0;
    for (var kz = 0; kz < images(z, params.d, params.D, params.front); kz++) {
      let oz = image(kz, z, params.d, params.D, params.front);
      for (var ky = 0; ky < images(line, params.h, params.H, params.top); ky++) {
        let oy = image(ky, line, params.h, params.H, params.top);
        let start = ((block * params.D + oz) * params.H + oy) * params.W;
        for (var kx = 0; kx < images(column, params.w, params.W, params.left); kx++) {
          let ox = image(kx, column, params.w, params.W, params.left);
          if (min(ox, min(oy, oz)) >= 0) { sum += f32(dy[start + ox]); }
        }
      }
    }
    dx[at] = ${T}(sum);`,
    ),
  ),
);

// Launchers -------------------------------------------------------------------------------------

interface Settings {
  readonly mode: PadMode;
  readonly value: number;
  /** [before, after] of the last axis, of the one before it, and so on. */
  readonly pads: readonly (readonly [before: number, after: number])[];
}

const paramsOf = (x: Tensor, { pads, value }: Settings) => {
  const axis = (k: number): [size: number, padded: number, before: number] => {
    const size = x.shape.at(-1 - k) ?? 1;
    const [before, after] = pads[k] ?? [0, 0];
    return [size, size + before + after, before];
  };
  const [[w, W, left], [h, H, top], [d, D, front]] = [axis(0), axis(1), axis(2)];
  return { d, h, w, D, H, W, front, top, left, value };
};

/** For the elements of `t`. */
function launchOf(t: Tensor, x: Tensor, settings: Settings) {
  const width = t.shape.at(-1)!;
  const rows = t.size / width;
  return {
    params: { rows, ...paramsOf(x, settings) },
    launch: { workgroups: threads(width * Math.ceil(rows / ROWS)) },
  };
}

export function padForward(x: Tensor, settings: Settings): Tensor {
  const { pads, mode } = settings;
  const shape = x.shape.map((size, i) => size + (pads[x.shape.length - 1 - i] ?? [0, 0]).reduce((a, b) => a + b));
  const y = empty(shape, x);
  const { params, launch } = launchOf(y, x, settings);
  forwardKernel(x.dtype as FloatType, mode).run({ params, x, y }, launch);
  return y;
}

export function padBackward(dy: Tensor, x: Tensor, settings: Settings): Tensor {
  const dx = emptyLike(x);
  const { params, launch } = launchOf(dx, x, settings);
  backwardKernel(x.dtype as FloatType, settings.mode).run({ params, dy, dx }, launch);
  return dx;
}

// Differentiable function -----------------------------------------------------------------------

export interface PadOptions {
  /** Default "constant". */
  mode?: PadMode;
  /** What "constant" pads with. Default 0. */
  value?: number;
}

/**
 * Pads up to three of the last axes: `padding` is [left, right, top, bottom, front, back], the last axis first, or its first
 * two or four. A negative number of "constant" crops. Matches torch.nn.functional.pad.
 */
export function pad(x: Tensor, padding: readonly number[], { mode = "constant", value = 0 }: PadOptions = {}): Tensor {
  const fail = (text: string): never => {
    throw new Error(`pad: ${text}`);
  };
  if (x.dtype !== "f32" && x.dtype !== "f16") fail(`x is ${x.dtype}, expected f32 or f16`);
  if (!(mode in modes)) fail(`mode is "${mode}", expected ${Object.keys(modes).join(", ")}`);
  if (![2, 4, 6].includes(padding.length) || !padding.every(Number.isInteger))
    fail(`padding is [${padding}], expected 2, 4 or 6 whole numbers: before and after, the last axis first`);
  if (padding.length / 2 > x.shape.length)
    fail(`padding is [${padding}] for ${padding.length / 2} axes, x has shape [${x.shape}]`);
  const pads = Array.from({ length: padding.length / 2 }, (_, k) => [padding[2 * k]!, padding[2 * k + 1]!] as const);
  pads.forEach((both, k) => {
    const size = x.shape.at(-1 - k)!;
    // Each image of reflect and circular is shown once at each side.
    const most = mode === "reflect" ? size - 1 : mode === "circular" ? size : Number.POSITIVE_INFINITY;
    if (mode !== "constant" && both.some((p) => p < 0 || p > most))
      fail(`padding is [${padding}], expected 0 to ${most} for an axis of ${size} and mode "${mode}"`);
    // What is cropped at one side must be there.
    if (size + Math.min(0, both[0]) + Math.min(0, both[1]) < 1)
      fail(`padding is [${padding}], which leaves nothing of an axis of ${size}`);
  });
  if (mode !== "constant" && value !== 0) fail(`value is ${value}, which mode "${mode}" does not take`);
  const settings: Settings = { mode, value, pads };
  const other = delegated<Tensor>("pad", { x }, settings);
  if (other) return other;
  return record(padForward(x, settings), [x], (dy) => [padBackward(dy, x, settings)]);
}

// Modules ---------------------------------------------------------------------------------------

/** The same on all sides, or [left, right, top, bottom, front, back] as far as the module has axes. */
export type Padding = number | readonly number[];

class PadModule extends Module {
  readonly padding: readonly number[];
  readonly #axes: number;
  readonly #options: PadOptions;

  constructor(axes: number, padding: Padding, options: PadOptions) {
    super();
    this.padding = typeof padding === "number" ? Array(2 * axes).fill(padding) : padding;
    this.#axes = axes;
    this.#options = options;
    if (this.padding.length !== 2 * axes)
      throw new Error(`${this.constructor.name}: padding is [${padding}], expected a number or ${2 * axes} of them`);
  }

  /** [N, C, …] or [C, …] with the module's number of axes. */
  forward(x: Tensor): Tensor {
    const rank = x.shape.length - this.#axes;
    if (rank !== 1 && rank !== 2) {
      const axes = ["D", "H", "W"].slice(-this.#axes).join(", ");
      throw new Error(`${this.constructor.name}: x has shape [${x.shape}], expected [N, C, ${axes}] or [C, ${axes}]`);
    }
    return pad(x, this.padding, this.#options);
  }

  protected override extraRepr(): string {
    const { mode, value } = this.#options;
    return `padding=[${this.padding}]${mode === "constant" && value !== 0 ? `, value=${value}` : ""}`;
  }
}

/** Matches torch.nn.ConstantPad1d(padding, value). */
export class ConstantPad1d extends PadModule {
  constructor(padding: Padding, value: number) {
    super(1, padding, { mode: "constant", value });
  }
}

/** Matches torch.nn.ConstantPad2d(padding, value). */
export class ConstantPad2d extends PadModule {
  constructor(padding: Padding, value: number) {
    super(2, padding, { mode: "constant", value });
  }
}

/** Matches torch.nn.ConstantPad3d(padding, value). */
export class ConstantPad3d extends PadModule {
  constructor(padding: Padding, value: number) {
    super(3, padding, { mode: "constant", value });
  }
}

/** Matches torch.nn.ZeroPad1d(padding). */
export class ZeroPad1d extends PadModule {
  constructor(padding: Padding) {
    super(1, padding, { mode: "constant", value: 0 });
  }
}

/** Matches torch.nn.ZeroPad2d(padding). */
export class ZeroPad2d extends PadModule {
  constructor(padding: Padding) {
    super(2, padding, { mode: "constant", value: 0 });
  }
}

/** Matches torch.nn.ZeroPad3d(padding). */
export class ZeroPad3d extends PadModule {
  constructor(padding: Padding) {
    super(3, padding, { mode: "constant", value: 0 });
  }
}

/** Matches torch.nn.ReflectionPad1d(padding). */
export class ReflectionPad1d extends PadModule {
  constructor(padding: Padding) {
    super(1, padding, { mode: "reflect" });
  }
}

/** Matches torch.nn.ReflectionPad2d(padding). */
export class ReflectionPad2d extends PadModule {
  constructor(padding: Padding) {
    super(2, padding, { mode: "reflect" });
  }
}

/** Matches torch.nn.ReflectionPad3d(padding). */
export class ReflectionPad3d extends PadModule {
  constructor(padding: Padding) {
    super(3, padding, { mode: "reflect" });
  }
}

/** Matches torch.nn.ReplicationPad1d(padding). */
export class ReplicationPad1d extends PadModule {
  constructor(padding: Padding) {
    super(1, padding, { mode: "replicate" });
  }
}

/** Matches torch.nn.ReplicationPad2d(padding). */
export class ReplicationPad2d extends PadModule {
  constructor(padding: Padding) {
    super(2, padding, { mode: "replicate" });
  }
}

/** Matches torch.nn.ReplicationPad3d(padding). */
export class ReplicationPad3d extends PadModule {
  constructor(padding: Padding) {
    super(3, padding, { mode: "replicate" });
  }
}

/** Matches torch.nn.CircularPad1d(padding). */
export class CircularPad1d extends PadModule {
  constructor(padding: Padding) {
    super(1, padding, { mode: "circular" });
  }
}

/** Matches torch.nn.CircularPad2d(padding). */
export class CircularPad2d extends PadModule {
  constructor(padding: Padding) {
    super(2, padding, { mode: "circular" });
  }
}

/** Matches torch.nn.CircularPad3d(padding). */
export class CircularPad3d extends PadModule {
  constructor(padding: Padding) {
    super(3, padding, { mode: "circular" });
  }
}
