/**
 * Conv2d: a sum over windows of an image, with an optional activation. Matches torch.nn.Conv2d.
 *
 *   y[n, o, p]  = f(z)            z = Σ_{i, t} x[n, i, p·stride + t·dilation − padding] · w[o, i, t] + b[o]
 *   dz = dy · f′(z)               dx[n, i, q] = Σ_{o, t} dz[n, o, (q + padding − t·dilation) / stride] · w[o, i, t]
 *   db = Σ_{n, p} dz              dw[o, i, t] = Σ_{n, p} dz[n, o, p] · x[n, i, p·stride + t·dilation − padding]
 *
 * p, q, t are positions in height and width; i and o count the channels of one group. dx is a correlation like y: of dz
 * with the weights turned round, for a stride s one for each of the s² classes of q that meet the same taps.
 * Correlations and dw are core's matmul, which reads the image through the addressing that stands here (a matrix of
 * windows is never stored); where a group has too few channels for that, kernels of this file compute them straight
 * from memory. Inputs that an activation has beside z are read where it is applied, and their gradients are made with
 * dz.
 * Order of this file: geometry, addressing, kernels, launchers, differentiable function, module.
 */
import {
  autocastType,
  cast,
  checkPointwise,
  type Device,
  delegated,
  empty,
  emptyLike,
  type FloatType,
  fill,
  type Gather,
  grid,
  type Inputs,
  inputGrads,
  inputsOf,
  kaimingUniform,
  kernel,
  Module,
  matmulForward,
  needsGrad,
  type Pointwise,
  parameter,
  record,
  sumRows,
  type Tensor,
  threads,
  uniform,
  variants,
  workgroupReduce,
} from "@kindling/core";
import { fitsWinograd, type Windows, winograd, winogradWeightGrad } from "./conv2d.winograd.ts";

export type PaddingMode = "zeros" | "reflect" | "replicate" | "circular";
type Pair = readonly [height: number, width: number];

// Geometry --------------------------------------------------------------------------------------

/**
 * One axis of a correlation: output j takes tap t from position (j · stride + t · step + origin) / divide of the input's axis,
 * where that is whole. Outputs lie at `at`, `at + every` … of an axis of `size`.
 */
interface Axis {
  readonly count: number;
  readonly taps: number;
  readonly input: number;
  readonly stride: number;
  readonly step: number;
  readonly origin: number;
  /** 1, but for `back`. */
  readonly divide: number;
  readonly size: number;
  readonly at: number;
  readonly every: number;
}

interface Correlation {
  readonly h: Axis;
  readonly w: Axis;
  readonly groups: number;
  /** Channels that a group reads and writes. */
  readonly inner: number;
  readonly outer: number;
  readonly mode: PaddingMode;
  /** Made when first wanted, by dtype: matmul knows a gather by its identity. */
  readonly gathers: Record<string, Gather>;
}

interface Geometry {
  readonly forward: Correlation;
  /** Size of the image whose gradient the correlations of `inputGrad` give: with its padding unless that is zeros. */
  readonly padded: Pair;
  readonly before: Pair;
  readonly inputGrad: readonly (Correlation & { readonly weights: number })[];
  /** The same as one correlation, with the weights as they are. */
  readonly back: Correlation;
  /** Whether those reach every element. */
  readonly covered: boolean;
  readonly turn: Record<"KH" | "KW" | "everyH" | "everyW" | "outer" | "inner", number>;
  /** Room for all turned weights. */
  readonly turned: number;
}

/** Turned weights of a class start at a multiple of so many elements: a multiple of 256 bytes, as bindings must. */
const ALIGNMENT = 128;

interface Dimension {
  readonly size: number;
  readonly taps: number;
  readonly stride: number;
  readonly before: number;
  readonly after: number;
  readonly dilation: number;
}

const outputSize = ({ size, taps, stride, before, after, dilation }: Dimension): number =>
  Math.floor((size + before + after - dilation * (taps - 1) - 1) / stride) + 1;

/** Positions that meet the same taps: the first of these, and the axis of their correlation with dz. */
interface Class {
  readonly first: number;
  readonly axis: Axis;
}

const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b));

/** Taps of one class are so many apart. */
const tapsApart = ({ stride, dilation }: Dimension): number => stride / divisor(stride, dilation);

/** How many of `taps` are first + t · every, and how many lie in classes with a smaller first. */
const tapsOf = (taps: number, every: number, first: number): number => Math.ceil((taps - first) / every);
const tapsBefore = (taps: number, every: number, first: number): number =>
  Math.floor(taps / every) * first + Math.min(taps % every, first);

function classesOf(d: Dimension, size: number, before: number): { classes: Class[]; covered: boolean } {
  const { taps, stride, dilation } = d;
  const every = tapsApart(d);
  const classes: Class[] = [];
  for (let at = 0; at < Math.min(stride, size); at++) {
    let first = 0;
    while (first < every && (first * dilation) % stride !== (at + before) % stride) first++;
    if (first >= Math.min(every, taps)) continue;
    const axis = {
      ...{ at, every: stride, size, count: Math.ceil((size - at) / stride), input: outputSize(d), divide: 1 },
      ...{ taps: tapsOf(taps, every, first), stride: 1, step: -dilation / (stride / every) },
      origin: (at + before - first * dilation) / stride,
    };
    classes.push({ first, axis });
  }
  return { classes, covered: classes.length === Math.min(stride, size) };
}

const geometries = new Map<string, Geometry>();

function geometryOf(
  h: Dimension,
  w: Dimension,
  inner: number,
  outer: number,
  groups: number,
  mode: PaddingMode,
): Geometry {
  const key = [...Object.values(h), ...Object.values(w), inner, outer, groups, mode].join();
  let geometry = geometries.get(key);
  if (!geometry) geometries.set(key, (geometry = makeGeometry(h, w, inner, outer, groups, mode)));
  return geometry;
}

function makeGeometry(
  h: Dimension,
  w: Dimension,
  inner: number,
  outer: number,
  groups: number,
  mode: PaddingMode,
): Geometry {
  const whole = (count: number) => ({ count, size: count, at: 0, every: 1 });
  const axis = (d: Dimension): Axis => {
    const { taps, stride, dilation, before, size } = d;
    return { ...whole(outputSize(d)), taps, input: size, stride, step: dilation, origin: -before, divide: 1 };
  };
  const zeros = mode === "zeros";
  const padded = (d: Dimension): number => d.size + (zeros ? 0 : d.before + d.after);
  const backAxis = (d: Dimension): Axis => {
    const { taps, stride, dilation, before } = d;
    const origin = zeros ? before : 0;
    return { ...whole(padded(d)), taps, input: outputSize(d), stride: 1, step: -dilation, origin, divide: stride };
  };
  const [rows, columns] = [h, w].map((d) => classesOf(d, padded(d), zeros ? d.before : 0)) as [
    ReturnType<typeof classesOf>,
    ReturnType<typeof classesOf>,
  ];
  const [everyH, everyW] = [tapsApart(h), tapsApart(w)];
  const weights = inner * outer * groups;
  const start = (firstH: number, firstW: number): number => {
    const before =
      tapsBefore(h.taps, everyH, firstH) * w.taps + tapsOf(h.taps, everyH, firstH) * tapsBefore(w.taps, everyW, firstW);
    return (Math.ceil((weights * before) / ALIGNMENT) + firstH * everyW + firstW) * ALIGNMENT;
  };
  return {
    forward: { h: axis(h), w: axis(w), groups, inner, outer, mode, gathers: {} },
    back: { h: backAxis(h), w: backAxis(w), groups, inner: outer, outer: inner, mode: "zeros", gathers: {} },
    padded: [padded(h), padded(w)],
    before: [h.before, w.before],
    covered: rows.covered && columns.covered,
    inputGrad: rows.classes.flatMap((row) =>
      columns.classes.map((column) => ({
        ...{ h: row.axis, w: column.axis, groups, inner: outer, outer: inner, mode: "zeros" as const, gathers: {} },
        weights: start(row.first, column.first),
      })),
    ),
    turn: { KH: h.taps, KW: w.taps, everyH, everyW, inner, outer },
    turned: start(everyH - 1, everyW) + weights * h.taps * w.taps,
  };
}

const pixelsOf = ({ h, w }: Correlation): number => h.count * w.count;
const tapsIn = ({ h, w }: Correlation): number => h.taps * w.taps;
/** Whether the outputs fill their image, in order. */
const isWhole = ({ h, w }: Correlation): boolean =>
  [h, w].every(({ count, size, every }) => count === size && every === 1);
/** A 1×1 kernel that reads every pixel once: then the image is a matrix already. */
const isFlat = (c: Correlation): boolean =>
  tapsIn(c) === 1 &&
  [c.h, c.w].every(({ stride, origin, count, input }) => stride === 1 && origin === 0 && count === input);

const count = (n: number): number[] => Array.from({ length: n }, (_, i) => i);
const list = (n: number, f: (i: number) => string): string => count(n).map(f).join(", ");

// Addressing ------------------------------------------------------------------------------------

const FIELDS = `groups: u32, inner: u32, pixels: u32, countW: u32, inH: i32, inW: i32, strideH: i32, strideW: i32,
  stepH: i32, stepW: i32, originH: i32, originW: i32, plane: u32, start: u32, pitchH: u32, pitchW: u32,
  perPixels: f32, perRow: f32`;

/** For `divide`: a little less than 1 / d, so that its quotients are never too large. */
const reciprocal = (d: number): number => Math.fround((1 / d) * (1 - 2 ** -22));

function fieldsOf(c: Correlation): Record<string, number> {
  const { h, w, groups, inner } = c;
  return {
    ...{ groups, inner, pixels: pixelsOf(c), countW: w.count, inH: h.input, inW: w.input },
    ...{ strideH: h.stride, strideW: w.stride, stepH: h.step, stepW: w.step, originH: h.origin, originW: w.origin },
    ...{ plane: h.size * w.size, start: h.at * w.size + w.at, pitchH: h.every * w.size, pitchW: w.every },
    ...{ perPixels: reciprocal(pixelsOf(c)), perRow: reciprocal(w.count) },
  };
}

/** `mirror`: the position in an axis of `size` that a position of the padded one repeats. Far outside any place will do. */
const mirrors: Record<PaddingMode, string> = {
  zeros: "",
  reflect: "fn mirror(i: i32, size: i32) -> i32 { return clamp(size - 1 - abs(size - 1 - abs(i)), 0, size - 1); }",
  replicate: "fn mirror(i: i32, size: i32) -> i32 { return clamp(i, 0, size - 1); }",
  circular: `fn mirror(i: i32, size: i32) -> i32 {
  return clamp(select(select(i, i - size, i >= size), i + size, i < 0), 0, size - 1);
}`,
};

/** Returns b[i] if `inside`, else 0. A branch leaves the load on its way, where a select would wait for what it selects. */
const pick = (T: FloatType, i: string): string => `var value = ${T}();
  if (inside) { value = b[${i}]; }
  return value;`;

/** Whether `windows` may note which taps of a pixel lie inside in the bits of one number. */
const hasMask = ({ h, w, mode }: Correlation): boolean => mode === "zeros" && h.taps <= 16 && w.taps <= 16;

/**
 * The place of an element of x is the sum of its pixel's and its tap's; taps are numbered as in the weights: channel, row,
 * column. Whether it lies inside, a pixel that is decoded before the walk along K tells by a bit for each row and column of
 * taps; one that is decoded on the way has its position compared.
 */
const windows = (T: FloatType, c: Correlation, ahead: boolean): string => {
  const { h, w, mode } = c;
  const masked = ahead && hasMask(c);
  const zeros = mode === "zeros";
  const line = zeros ? "+ h) * params.inW + w" : ") * params.inH * params.inW";
  const bits = (n: number, from: number, position: string, step: string, size: string): string =>
    count(n)
      .map((t) => `select(0u, ${2 ** (from + t)}u, u32(${position} + ${t} * params.${step}) < u32(params.${size}))`)
      .join(" | ");
  return `
struct Pixel { base: i32, h: i32, w: i32, mask: u32 }
struct Tap { base: i32, h: i32, w: i32, mask: u32 }

/** That of channel 0 of its group is \`channel\`. */
fn pixelAt(channel: u32, row: u32, col: u32) -> Pixel {
  let h = i32(row) * params.strideH + params.originH;
  let w = i32(col) * params.strideW + params.originW;
  let mask = ${masked ? `${bits(h.taps, 0, "h", "stepH", "inH")} | ${bits(w.taps, 16, "w", "stepW", "inW")}` : "0u"};
  return Pixel((i32(channel)${zeros ? " * params.inH" : ""} ${line}, h, w, mask);
}
fn tapAt(k: u32) -> Tap {
  let th = k % ${h.taps * w.taps} / ${w.taps};
  let tw = k % ${w.taps};
  let h = i32(th) * params.stepH;
  let w = i32(tw) * params.stepW;
  return Tap((i32(k / ${h.taps * w.taps})${zeros ? " * params.inH" : ""} ${line}, h, w, ${masked ? "(1u << th) | (65536u << tw)" : "0u"});
}
${mirrors[mode]}
fn element(pixel: Pixel, tap: Tap) -> ${T} {
${
  zeros
    ? `  let inside = ${masked ? "(pixel.mask & tap.mask) == tap.mask" : "u32(pixel.h + tap.h) < u32(params.inH) && u32(pixel.w + tap.w) < u32(params.inW)"};
  ${pick(T, "u32(pixel.base + tap.base)")}`
    : `  let h = mirror(pixel.h + tap.h, params.inH);
  return b[u32(pixel.base + tap.base + h * params.inW + mirror(pixel.w + tap.w, params.inW))];`
}
}
`;
};

/** The operand of a correlation: columns are pixels of all images, rows are taps. */
function correlationGather(T: FloatType, c: Correlation): Gather {
  const pixels = pixelsOf(c);
  const flat = isFlat(c);
  const wide = isWhole(c) && pixels % 4 === 0;
  const width = flat && pixels % 4 === 0 ? 4 : 1;
  return {
    fields: FIELDS,
    params: fieldsOf(c),
    b: {
      kMajor: false,
      width,
      vectors: width === 4,
      source: flat
        ? `
fn bAt(batch: u32, col: u32) -> u32 {
  let image = col / params.pixels;
  return (((image * params.groups + batch) * params.inner - image) * params.pixels + col) / ${width};
}
fn bStep(k: u32) -> u32 { return k * (params.pixels / ${width}); }
fn bLoad(at: u32, step: u32) -> ${width === 4 ? `vec4<${T}>` : T} { return b[at + step]; }
`
        : `${windows(T, c, true)}
fn bAt(batch: u32, col: u32) -> Pixel {
  let p = col % params.pixels;
  return pixelAt((col / params.pixels * params.groups + batch) * params.inner, p / params.countW, p % params.countW);
}
fn bStep(k: u32) -> Tap { return tapAt(k); }
fn bLoad(at: Pixel, step: Tap) -> ${T} { return element(at, step); }
`,
    },
    c: {
      pitch: c.h.size * c.w.size,
      wide,
      source: `
fn cAt(batch: u32, col: u32) -> u32 {
  let p = col % params.pixels;
  return (col / params.pixels * params.groups + batch) * params.M * params.plane
    + params.start + p / params.countW * params.pitchH + p % params.countW * params.pitchW;
}
`,
    },
  };
}

/** Quotients reach the number of images: below 2^20 a reciprocal finds them, once corrected. */
const divide = (images: number): string =>
  images < 1 << 20
    ? `
fn divide(x: u32, d: u32, perD: f32) -> u32 {
  let q = u32(f32(x) * perD);
  return q + u32(x - q * d >= d);
}`
    : `
fn divide(x: u32, d: u32, perD: f32) -> u32 { return x / d; }`;

/** The operands of dw: K is the pixels of all images, side by side in memory; rows are channels, columns are taps. */
function weightGradGather(Z: FloatType, X: FloatType, c: Correlation, images: number): Gather {
  const quads = pixelsOf(c) % 4 === 0;
  const pixels = quads ? 4 : 1;
  const flat = isFlat(c);
  const inRow = flat ? pixels : c.w.count % 4 === 0 ? 4 : 1;
  /** An operand [image, group, channel, pixel]. */
  const planes = (name: "a" | "b", channels: string, T: FloatType): string => `
fn ${name}At(batch: u32, i: u32) -> u32 { return (batch * ${channels} + i) * (params.pixels / ${pixels}); }
fn ${name}Step(k: u32) -> u32 {
  return (divide(k, params.pixels, params.perPixels) * (params.groups * ${channels} - 1) * params.pixels + k) / ${pixels};
}
fn ${name}Load(at: u32, step: u32) -> ${quads ? `vec4<${T}>` : T} { return ${name}[at + step]; }
`;
  const next = (e: number): string =>
    `Pixel(step.base + ${e} * ${c.mode === "zeros" ? "params.strideW" : "0"}, step.h, step.w + ${e} * params.strideW, 0)`;
  return {
    fields: FIELDS,
    params: fieldsOf(c),
    a: { kMajor: true, width: pixels, vectors: quads, source: divide(images) + planes("a", "params.M", Z) },
    b: {
      kMajor: true,
      width: inRow,
      vectors: flat && quads,
      source: flat
        ? planes("b", "params.inner", X)
        : `${windows(X, c, false)}
fn bAt(batch: u32, i: u32) -> Tap {
  var tap = tapAt(i);
  tap.base += i32(batch * params.inner) * params.inH * params.inW;
  return tap;
}
fn bStep(k: u32) -> Pixel {
  let image = divide(k, params.pixels, params.perPixels);
  let p = k - image * params.pixels;
  let row = divide(p, params.countW, params.perRow);
  return pixelAt(image * params.groups * params.inner, row, p - row * params.countW);
}
fn bLoad(at: Tap, step: Pixel) -> ${inRow === 4 ? `vec4<${X}>` : X} {
  return ${inRow === 4 ? `vec4<${X}>(element(step, at), ${[1, 2, 3].map((e) => `element(${next(e)}, at)`).join(", ")})` : "element(step, at)"};
}
`,
    },
  };
}

// Kernels ---------------------------------------------------------------------------------------

/** What the text of a kernel without matrices depends on. */
interface Direct {
  readonly X: FloatType;
  readonly W: FloatType;
  readonly Y: FloatType;
  readonly bias: FloatType | null;
  readonly z: boolean;
  readonly mode: PaddingMode;
  /** Channels that a thread writes, or of whose weights it sums the gradient. */
  readonly outer: number;
  readonly taps: Pair;
  readonly stride: Pair;
  readonly step: Pair;
  readonly divide: Pair;
  /** 0 where the text need not know it: then it is in the params. */
  readonly origin: Pair;
  /** The weights are [group, inner, outer, taps], not [group, outer, inner, taps]. */
  readonly back: boolean;
  /** Rows of output that a thread owns, of 4 neighbours each. */
  readonly rows: number;
  /** Rows of taps: all of them spelt out, so that rows of output share what they read; in a loop; or that of a variable `th`. */
  readonly walk: "unrolled" | "loop" | "one";
  /** Rows of x, and of the output, are multiples of 4 and read as vec4s. */
  readonly wideX: boolean;
  readonly wideY: boolean;
}

const unique = (values: readonly number[]): number[] => [...new Set(values)].sort((a, b) => a - b);
const XYZW = "xyzw";

/**
 * Reads what the thread's outputs need of a channel, row by row, and hands each 4 neighbours to `use` for every row of output
 * and tap that they serve; null stands for an output that the tap does not reach. `th` is WGSL.
 */
function visit(d: Direct, use: (row: number, th: string, tw: number, values: (string | null)[]) => string): string {
  const strideW = d.stride[1];
  const [divideH, divideW] = d.divide;
  const place = (axis: 0 | 1, out: number, tap: number): number | null => {
    const at = (out * d.stride[axis] + tap * d.step[axis] + d.origin[axis]) / d.divide[axis];
    return Number.isInteger(at) ? at : null;
  };
  const columns = unique(count(d.taps[1]).flatMap((tw) => count(4).flatMap((e) => place(1, e, tw) ?? [])));
  const loaded = d.wideX ? unique(columns.map((c) => Math.floor(c / 4))) : columns;
  const name = (c: number | null): string | null => {
    if (c === null) return null;
    const v = Math.floor(c / 4);
    return d.wideX ? `v${loaded.indexOf(v)}.${XYZW[c - v * 4]}` : `v${loaded.indexOf(c)}`;
  };
  const values = (tw: number): (string | null)[] => count(4).map((e) => name(place(1, e, tw)));
  const first = d.wideX
    ? `i32(q) * ${strideW}`
    : `i32(q) * ${(4 * strideW) / divideW}${divideW > 1 ? "" : " + params.originW"}`;
  const line = (h: string, served: readonly { row: number; th: string }[]): string => `{
      let h = ${d.mode === "zeros" ? h : `mirror(${h}, params.inH)`};
      let inside = u32(h) < u32(params.inH);
      let line = origin + select(0u, u32(h * params.inW), inside);
      ${loaded.map((v, i) => `let v${i} = load(line, inside, ${first} + ${v});`).join("\n      ")}
      ${served.flatMap(({ row, th }) => count(d.taps[1]).map((tw) => use(row, th, tw, values(tw)))).join("\n      ")}
    }`;
  if (d.walk !== "unrolled") {
    const whole = `h0 + i32(th) * ${d.step[0]}`;
    const one = line(divideH > 1 ? `(${whole}) / ${divideH}` : whole, [{ row: 0, th: "th" }]);
    const skip = divideH > 1 ? `if ((${whole}) % ${divideH} != 0) { continue; }` : "";
    return d.walk === "loop" ? `for (var th = 0u; th < params.tapsH; th++) { ${skip} ${one} }` : one;
  }
  const pairs = count(d.rows).flatMap((row) =>
    count(d.taps[0]).map((th) => ({ row, th: `${th}`, at: place(0, row, th) })),
  );
  return unique(pairs.flatMap(({ at }) => at ?? []))
    .map((at) =>
      line(
        `h0 + ${at}`,
        pairs.filter((p) => p.at === at),
      ),
    )
    .join("\n    ");
}

/** What the origin of a thread's rows is in x: see `visit`. */
function rowOrigin({ walk, stride, divide }: Direct): string {
  if (walk === "unrolled" && divide[0] > 1) return `i32(row / ${divide[0]} * ${stride[0]})`;
  return `i32(row) * ${stride[0]} + params.originH`;
}

/** `load`: a vec4, or an element, of a row of x; 0 outside. */
const loadSource = ({ wideX, mode }: Direct): string => {
  if (mode !== "zeros")
    return `${mirrors[mode]}
fn load(line: u32, inside: bool, w: i32) -> f32 { return f32(x[line + u32(mirror(w, params.inW))]); }`;
  const [F, at, size] = wideX
    ? ["vec4f", "line / 4 + u32(w)", "params.inW / 4"]
    : ["f32", "line + u32(w)", "params.inW"];
  return `
fn load(line: u32, inside: bool, w: i32) -> ${F} {
  let valid = inside && u32(w) < u32(${size});
  return select(${F}(), ${F}(x[select(0u, ${at}, valid)]), valid);
}`;
};

const arrayOf = (T: FloatType, wide: boolean): string => (wide ? `array<vec4<${T}>>` : `array<${T}>`);

/**
 * A correlation. A thread owns 4 neighbours in some rows of output, of some or all channels of a group. `fields`: of an
 * activation with inputs, whose text is then theirs.
 */
function directSource(d: Direct, activation: Pick<Pointwise, "name" | "forward"> | null, fields: string): string {
  const [TH, TW] = d.taps;
  const T = TH * TW;
  const outer = count(d.outer);
  const pitch = d.back ? T : `params.inner * ${T}`;

  const weight = (o: number, tap: string): string => `f32(weight[first + ${o} * ${pitch} + ${tap}])`;
  // Where rows share taps, weights are read once for all of them.
  const held = d.walk === "unrolled";
  const k = (o: number, th: string, tw: number): string =>
    held ? `k${o}_${Number(th) * TW + tw}` : weight(o, `th * ${TW} + ${tw}`);
  const finish = (o: number, row: number): string => {
    const [Y, i] = d.wideY ? [`vec4<${d.Y}>`, "i / 4"] : [d.Y, "i + e * params.pitchW"];
    const one = d.wideY ? `vec4f(${list(4, (e) => `${activation?.name}(v.${XYZW[e]})`)})` : `${activation?.name}(v)`;
    const act = fields ? `finish${d.wideY ? 4 : 1}(${i}, v)` : one;
    const value = `c${row}_${o}`;
    const body = `var v = ${d.wideY ? value : `${value}[e]`};
        ${d.bias ? `v += f32(bias[group * params.outer + channel + ${o}]);` : ""}
        ${d.z ? `z[${i}] = ${Y}(v);` : ""}
        ${activation ? `v = ${act};` : ""}
        y[${i}] = ${Y}(v);`;
    return `{
      let i = at + ${o} * params.plane + ${row} * params.pitchH;
      ${d.wideY ? body : `for (var e = 0u; e < min(4, params.countW - 4 * q); e++) {\n        ${body}\n      }`}
    }`;
  };
  return /* wgsl */ `
struct Params {
  threads: u32, inner: u32, outer: u32, groups: u32, inH: i32, inW: i32, countH: u32, countW: u32,
  originH: i32, originW: i32, plane: u32, start: u32, pitchH: u32, pitchW: u32, tapsH: u32${fields && `, ${fields}`}
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: ${arrayOf(d.X, d.wideX)};
@group(0) @binding(2) var<storage, read> weight: array<${d.W}>;
@group(0) @binding(3) var<storage, read_write> y: ${arrayOf(d.Y, d.wideY)};
${d.bias ? `@group(0) @binding(4) var<storage, read> bias: array<${d.bias}>;` : ""}
${d.z ? `@group(0) @binding(5) var<storage, read_write> z: ${arrayOf(d.Y, d.wideY)};` : ""}
${loadSource(d)}
${activation?.forward ?? ""}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = id.x + id.y * groups.x * 64;
  if (thread >= params.threads) { return; }
  let quads = (params.countW + 3) / 4;
  let blocks = (params.countH + ${d.rows - 1}) / ${d.rows};
  let q = thread % quads;
  let row = thread / quads % blocks * ${d.rows};
  let channels = thread / quads / blocks * ${d.outer}; // of y, in all groups and images
  let channel = channels % params.outer;
  let plane = channels / params.outer; // image · groups + group
  let group = plane % params.groups;
  let h0 = ${rowOrigin(d)};
  ${count(d.rows)
    .map((r) => outer.map((o) => `var c${r}_${o} = vec4f();`).join(" "))
    .join("\n  ")}
  for (var i = 0u; i < params.inner; i++) {
    let origin = (plane * params.inner + i) * u32(params.inH * params.inW);
    let first = ${d.back ? "((group * params.inner + i) * params.outer + channel)" : "((group * params.outer + channel) * params.inner + i)"} * ${T};
    ${held ? outer.flatMap((o) => count(T).map((t) => `let k${o}_${t} = ${weight(o, `${t}`)};`)).join("\n    ") : ""}
    ${visit(d, (r, th, tw, values) => {
      if (!values.includes(null))
        return `{ let quad = vec4f(${values.join(", ")}); ${outer.map((o) => `c${r}_${o} = fma(quad, vec4f(${k(o, th, tw)}), c${r}_${o});`).join(" ")} }`;
      const each = (o: number): string[] =>
        values.flatMap((v, e) => (v === null ? [] : `c${r}_${o}[${e}] = fma(${v}, k, c${r}_${o}[${e}]);`));
      return outer.map((o) => `{ let k = ${k(o, th, tw)}; ${each(o).join(" ")} }`).join(" ");
    })}
  }
  let at = channels * params.plane + params.start + row * params.pitchH + 4 * q * params.pitchW;
  ${count(d.rows)
    .map((r) => `if (row + ${r} < params.countH) {\n    ${outer.map((o) => finish(o, r)).join("\n    ")}\n  }`)
    .join("\n  ")}
}`;
}

const directKernel = variants((spec: string, name: string, forward: string, fields: string) =>
  kernel<string>("conv2d.direct", directSource(JSON.parse(spec), name ? { name, forward } : null, fields)),
);

/**
 * dw and db where groups have few channels: a thread walks over the pixels of all images, with `lanes` others, and sums
 * the gradient of all taps of some channels. sumRows adds up the lanes, in order.
 */
function directWeightGradSource(d: Direct): string {
  const [TH, TW] = d.taps;
  const all = d.walk === "unrolled";
  const sums = count(all ? TH * TW : TW);
  const outer = count(d.outer);
  const rows = count(d.rows);
  const load = (o: number, r: number): string => {
    const at = `at + ${o} * params.countH * params.countW + min(row + ${r}, params.countH - 1) * params.countW`;
    if (d.wideY) return `select(vec4f(), vec4f(dy[(${at}) / 4 + q]), row + ${r} < params.countH)`;
    const values = list(4, (e) => `f32(dy[${at} + min(4 * q + ${e}, params.countW - 1)])`);
    const valid = list(4, (e) => `row + ${r} < params.countH && 4 * q + ${e} < params.countW`);
    return `select(vec4f(), vec4f(${values}), vec4<bool>(${valid}))`;
  };
  return /* wgsl */ `
struct Params {
  lanes: u32, positions: u32, blocksO: u32, inner: u32, groups: u32, inH: i32, inW: i32, countH: u32, countW: u32,
  originH: i32, originW: i32
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: ${arrayOf(d.X, d.wideX)};
@group(0) @binding(2) var<storage, read> dy: ${arrayOf(d.Y, d.wideY)};
@group(0) @binding(3) var<storage, read_write> partial: array<f32>;
@group(0) @binding(4) var<storage, read_write> partialBias: array<f32>;
${loadSource(d)}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = id.x + id.y * groups.x * 64;
  let lane = thread % params.lanes;
  let team = thread / params.lanes${all ? "" : ` / ${TH}`};
  ${all ? "" : `let th = thread / params.lanes % ${TH};`}
  let i = team % params.inner;
  let channel = team / params.inner * ${d.outer}; // of dy, in all groups
  let group = channel / (params.blocksO * ${d.outer});
  if (group >= params.groups) { return; }
  let quads = (params.countW + 3) / 4;
  let blocks = (params.countH + ${d.rows - 1}) / ${d.rows};
  let channels = params.groups * params.blocksO * ${d.outer};
  ${outer.map((o) => `var b${o} = vec4f(); ${sums.map((t) => `var s${o}_${t} = 0.0;`).join(" ")}`).join("\n  ")}
  for (var position = lane; position < params.positions; position += params.lanes) {
    let q = position % quads;
    let row = position / quads % blocks * ${d.rows};
    let image = position / quads / blocks;
    let h0 = ${rowOrigin(d)};
    let origin = ((image * params.groups + group) * params.inner + i) * u32(params.inH * params.inW);
    let at = (image * channels + channel) * params.countH * params.countW;
    ${outer.flatMap((o) => rows.map((r) => `let d${o}_${r} = ${load(o, r)}; b${o} += d${o}_${r};`)).join("\n    ")}
    ${visit(d, (r, th, tw, values) => `{ let quad = vec4f(${values.join(", ")}); ${outer.map((o) => `s${o}_${all ? Number(th) * TW + tw : tw} += dot(quad, d${o}_${r});`).join(" ")} }`)}
  }
  ${outer
    .map((o) => {
      const first = `((lane * channels + channel + ${o}) * params.inner + i) * ${TH * TW}${all ? "" : ` + th * ${TW}`}`;
      return sums.map((t) => `partial[${first} + ${t}] = s${o}_${t};`).join("\n  ");
    })
    .join("\n  ")}
  if (i == 0${all ? "" : " && th == 0"}) { ${outer.map((o) => `partialBias[lane * channels + channel + ${o}] = dot(b${o}, vec4f(1));`).join(" ")} }
}`;
}

const directWeightGradKernel = variants((spec: string) =>
  kernel<string>("conv2d.weightGrad", directWeightGradSource(JSON.parse(spec))),
);

/**
 * The weights as the gradient of x takes them: for each class of positions [group, inner, outer, taps of the class]. A class
 * is known by the first of its taps in height and width; they lie one after the other, from multiples of ALIGNMENT on.
 */
const turnKernel = variants((W: FloatType, V: FloatType) =>
  kernel<string>(
    `conv2d.turn.${W}.${V}`,
    /* wgsl */ `
struct Params { size: u32, KH: u32, KW: u32, everyH: u32, everyW: u32, inner: u32, outer: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> weight: array<${W}>;
@group(0) @binding(2) var<storage, read_write> turned: array<${V}>;

fn tapsOf(taps: u32, every: u32, first: u32) -> u32 { return (taps - first + every - 1) / every; }
fn tapsBefore(taps: u32, every: u32, first: u32) -> u32 { return taps / every * first + min(taps % every, first); }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 256;
  if (index >= params.size) { return; }
  let kw = index % params.KW;
  let kh = index / params.KW % params.KH;
  let i = index / (params.KW * params.KH) % params.inner;
  let o = index / (params.KW * params.KH) / params.inner;
  let firstH = kh % params.everyH;
  let firstW = kw % params.everyW;
  let TH = tapsOf(params.KH, params.everyH, firstH);
  let TW = tapsOf(params.KW, params.everyW, firstW);
  let before = tapsBefore(params.KH, params.everyH, firstH) * params.KW + TH * tapsBefore(params.KW, params.everyW, firstW);
  let weights = params.size / (params.KH * params.KW);
  let start = ((weights * before + ${ALIGNMENT - 1}) / ${ALIGNMENT} + firstH * params.everyW + firstW) * ${ALIGNMENT};
  let row = (o / params.outer * params.inner + i) * params.outer + o % params.outer;
  turned[start + (row * TH + kh / params.everyH) * TW + kw / params.everyW] = ${V}(weight[index]);
}`,
  ),
);

/** Adds what the padding repeated to the pixels that it came from: a sum over at most 3 ranges in height times 3 in width. */
const foldKernel = variants((T: FloatType, mode: Exclude<PaddingMode, "zeros">) => {
  const ranges = {
    reflect: `
    vec2u(before - i, 1) * u32(i > 0 && i <= before),
    vec2u(before + 2 * (size - 1) - i, 1) * u32(i + 1 < size && before + 2 * (size - 1) < padded + i)`,
    replicate: `
    vec2u(0, before) * u32(i == 0),
    vec2u(before + size, padded - before - size) * u32(i + 1 == size)`,
    circular: `
    vec2u(before + i - size, 1) * u32(before + i >= size),
    vec2u(before + i + size, 1) * u32(before + i + size < padded)`,
  }[mode];
  return kernel<string>(
    `conv2d.fold.${mode}.${T}`,
    /* wgsl */ `
struct Params { size: u32, H: u32, W: u32, paddedH: u32, paddedW: u32, top: u32, left: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> padded: array<f32>;
@group(0) @binding(2) var<storage, read_write> dx: array<${T}>;

/** First and number of the positions that hold a gradient of position i. */
fn ranges(i: u32, size: u32, before: u32, padded: u32) -> array<vec2u, 3> {
  return array<vec2u, 3>(vec2u(before + i, 1),${ranges});
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let index = id.x + id.y * groups.x * 256;
  if (index >= params.size) { return; }
  let plane = index / params.W / params.H * params.paddedH;
  var rows = ranges(index / params.W % params.H, params.H, params.top, params.paddedH);
  var cols = ranges(index % params.W, params.W, params.left, params.paddedW);
  var sum = 0.0;
  for (var a = 0u; a < 3; a++) {
    for (var h = 0u; h < rows[a].y; h++) {
      let line = (plane + rows[a].x + h) * params.paddedW;
      for (var b = 0u; b < 3; b++) {
        for (var w = 0u; w < cols[b].y; w++) { sum += padded[line + cols[b].x + w]; }
      }
    }
  }
  dx[index] = ${T}(sum);
}`,
  );
});

/**
 * dz = dy · f′(z) where there is an activation, and partial sums of dz over the pixels of a channel: a workgroup takes a part
 * of those of all images. `functions`, and with inputs `fields` and `sums`, are the activation's.
 */
const channelKernel = variants(
  (T: FloatType, wide: boolean, name: string, functions: string, fields: string, sums: number) => {
    const [F, V] = wide ? ["vec4f", `vec4<${T}>`] : ["f32", T];
    const one = wide ? `vec4f(${list(4, (e) => `${name}Grad(a.${XYZW[e]}, g.${XYZW[e]})`)})` : `${name}Grad(a, g)`;
    const grad = fields ? "inputGrads(i, a, g)" : one;
    const total = (sum: string): string => `workgroupSum(lane, ${wide ? `dot(${sum}, vec4f(1))` : sum})`;
    return kernel<string>(
      `conv2d.channels.${T}.${name}`,
      /* wgsl */ `
override WG: u32 = 256;
${workgroupReduce}
struct Params { channels: u32, pixels: u32, size: u32, chunk: u32${fields && `, ${fields}`} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> dy: array<${V}>;
@group(0) @binding(2) var<storage, read_write> partial: array<f32>;
${
  name
    ? `@group(0) @binding(3) var<storage, read> z: array<${V}>;
@group(0) @binding(4) var<storage, read_write> dz: array<${V}>;`
    : ""
}
${functions}

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let id = wg.x + wg.y * groups.x;
  let channel = id % params.channels;
  let begin = id / params.channels * params.chunk;
  let end = min(begin + params.chunk, params.size);
  var sum = ${F}();
  for (var p = begin + lane; p < end; p += WG) {
    let i = (p / params.pixels * params.channels + channel) * params.pixels + p % params.pixels;
    let g = ${F}(dy[i]);
${
  name
    ? `    let a = ${F}(z[i]);
    let d = ${F}(${grad});
    dz[i] = ${V}(d);
    sum += d;`
    : "    sum += g;"
}
  }
  let total = ${total("sum")};
  if (lane == 0 && begin < params.size) { partial[id] = total; }
  ${count(sums)
    .map(
      (k) => `{
    let total = ${total(`inputSum${k}`)};
    if (lane == 0 && begin < params.size) { inputPartial(${k}, id, total); }
  }`,
    )
    .join("\n  ")}
}`,
    );
  },
);

// Launchers -------------------------------------------------------------------------------------

interface Epilogue {
  readonly bias?: Tensor | null;
  readonly activation?: Pointwise | null;
  readonly inputs?: Inputs | null;
  /** Also return what the activation was applied to. */
  readonly keepZ?: boolean;
  /** The weights are [groups, inner, outer, taps]. */
  readonly back?: boolean;
}

const floatOf = ({ dtype }: Tensor): FloatType => dtype as FloatType;
const imagesOf = (x: Tensor): number => (x.shape.length === 4 ? x.shape[0]! : 1);

/**
 * What the texts of both kernels without matrices have in common. `outer` is what a thread takes of a group's channels. Where
 * they are few, a thread has registers for more rows. Software GPUs would take minutes to compile what is spelt out: there
 * it is one channel, and one row of taps.
 */
function directOf(c: Correlation, outer: number, x: Tensor, y: Tensor): Omit<Direct, "W" | "bias" | "z" | "back"> {
  const { h, w, mode } = c;
  const wideX = mode === "zeros" && w.input % 4 === 0 && w.divide === 1;
  const wideY = w.every === 1 && [w.count, w.size, w.at].every((n) => n % 4 === 0);
  const unrolled = !x.device.software && tapsIn(c) * outer <= 49;
  const shared = wideX && h.stride === 1 && h.count > 1;
  return {
    ...{ X: floatOf(x), Y: floatOf(y), mode, outer, wideX, wideY },
    ...{ taps: [h.taps, w.taps], stride: [h.stride, w.stride], step: [h.step, w.step], divide: [h.divide, w.divide] },
    origin: [unrolled && h.divide > 1 ? h.origin : 0, wideX || w.divide > 1 ? w.origin : 0],
    walk: unrolled ? "unrolled" : "loop",
    rows: !unrolled ? 1 : h.divide > 1 ? 4 : !shared ? 1 : outer === 1 ? 4 : outer <= 4 ? 2 : 1,
  };
}

/** Whether a thread's 4 neighbours, and its rows, meet the same taps wherever they lie; and these are few enough to spell out. */
const isBack = (c: Correlation): boolean =>
  c.outer <= 2 && tapsIn(c) * c.outer <= 49 && [c.h, c.w].every(({ divide }) => 4 % divide === 0);

/** With few channels matmul's tiles would be mostly empty. Taps of a row are spelt out, so they must not be too many. */
const isDirect = ({ outer, w }: Correlation): boolean => outer <= 8 && w.taps <= 64;
const isDirectWeightGrad = (c: Correlation): boolean => isDirect(c) && c.inner <= 8;

/**
 * 3×3 windows of f32, of so many channels that 16 products in place of 36 make up for planes that are written and read again:
 * from about 40 on, by measurement.
 */
const isWinograd = (c: Correlation, x: Tensor, ...others: Tensor[]): boolean =>
  c.mode === "zeros" &&
  [c.h, c.w].every(({ taps, stride, step, every }) => taps === 3 && stride === 1 && step ** 2 === 1 && every === 1) &&
  (c.inner * c.outer) / (c.inner + c.outer) >= 20 &&
  [x, ...others].every(({ dtype }) => dtype === "f32") &&
  fitsWinograd(windowsOf(c, x), x.device);

/** A window starts at its first tap, or at its last where taps go backwards. */
function windowsOf({ h, w, groups, inner, outer }: Correlation, x: Tensor): Windows {
  const origin = ({ origin, step }: Axis): number => origin + Math.min(0, 2 * step);
  return {
    ...{ images: imagesOf(x), groups, inner, outer, inH: h.input, inW: w.input, outH: h.count, outW: w.count },
    ...{ originH: origin(h), originW: origin(w) },
  };
}

/** Writes act(the correlation of x with `weight` + bias) to y, or to a part of it. weight: [groups, outer, inner, taps]. */
function correlate(
  x: Tensor,
  weight: Tensor,
  y: Tensor,
  c: Correlation,
  compute: FloatType,
  { bias = null, activation = null, inputs = null, keepZ = false, back = false }: Epilogue = {},
): Tensor | null {
  const { h, w, inner, outer, groups } = c;
  const images = x.size / (groups * inner * h.input * w.input);
  if (isWinograd(c, x, weight, y, bias ?? x)) {
    const z = keepZ ? emptyLike(y) : null;
    winograd(x, weight, y, windowsOf(c, x), false, { bias, activation, inputs, z });
    return z;
  }
  if (!isDirect(c)) {
    const gather = (c.gathers[x.dtype] ??= correlationGather(floatOf(x), c));
    return matmulForward(weight, x, {
      ...{ M: outer, N: images * pixelsOf(c), K: inner * tapsIn(c), batch: groups, gather, compute },
      ...{ bias, activation: inputs ? null : activation, finish: inputs, keepZ, out: y, shape: y.shape },
    }).z;
  }
  const z = keepZ ? emptyLike(y) : null;
  const block = x.device.software ? 1 : outer;
  const spec = {
    ...directOf(c, block, x, y),
    W: floatOf(weight),
    bias: bias && floatOf(bias),
    z: keepZ,
    back,
  };
  const size = images * groups * (outer / block) * Math.ceil(h.count / spec.rows) * Math.ceil(w.count / 4);
  const params = { threads: size, ...fieldsOf(c), outer, countH: h.count, tapsH: h.taps, ...inputs?.params };
  const { source, fields } = inputs?.text ?? { source: activation?.forward ?? "", fields: "" };
  directKernel(JSON.stringify(spec), activation?.name ?? "", source, fields).run(
    { params, x, weight, y, ...(bias && { bias }), ...(z && { z }), ...inputs?.bindings },
    { workgroups: grid(Math.ceil(size / 64)) },
  );
  return z;
}

/** dx, of the shape and dtype of x. */
function inputGrad(dz: Tensor, weight: Tensor, x: Tensor, g: Geometry, compute: FloatType): Tensor {
  const { mode, groups, inner } = g.forward;
  const [H, W] = [g.forward.h.input, g.forward.w.input];
  const { device } = x;
  const dx = emptyLike(x);
  const [paddedH, paddedW] = g.padded;
  const padded = mode === "zeros" ? dx : empty([imagesOf(x), groups * inner, paddedH, paddedW], { device });
  const [only] = g.inputGrad;
  if (isBack(g.back)) correlate(dz, weight, padded, g.back, compute, { back: true });
  else if (only && isWinograd(only, dz, weight)) winograd(dz, weight, padded, windowsOf(only, dz), true);
  else {
    const turned = empty([g.turned], { dtype: compute, device });
    turnKernel(floatOf(weight), compute).run(
      { params: { size: weight.size, ...g.turn }, weight, turned },
      { workgroups: threads(weight.size) },
    );
    if (!g.covered) fill(padded, 0);
    for (const c of g.inputGrad) {
      const part = turned.view(c.weights, [groups * c.outer, c.inner * tapsIn(c)]);
      correlate(dz, part, padded, c, compute);
      part.dispose();
    }
    turned.dispose();
  }
  if (mode !== "zeros") {
    const params = { size: x.size, H, W, paddedH, paddedW, top: g.before[0], left: g.before[1] };
    foldKernel(floatOf(x), mode).run({ params, padded, dx }, { workgroups: threads(x.size) });
    padded.dispose();
  }
  return dx;
}

/** dw, of the shape and dtype of weight, and db in f32 where it comes for nothing. */
function weightGrad(
  dz: Tensor,
  x: Tensor,
  weight: Tensor,
  c: Correlation,
  compute: FloatType,
): { dw: Tensor; db: Tensor | null } {
  const { h, w, inner, outer, groups, gathers } = c;
  const images = imagesOf(x);
  const T = tapsIn(c);
  if (isWinograd(c, x, dz)) return { dw: winogradWeightGrad(dz, x, weight, windowsOf(c, x)), db: null };
  if (!isDirectWeightGrad(c)) {
    const key = `dw ${dz.dtype} ${x.dtype} ${divide(images)}`;
    const gather = (gathers[key] ??= weightGradGather(floatOf(dz), floatOf(x), c, images));
    const { c: dw } = matmulForward(dz, x, {
      ...{ M: outer, N: inner * T, K: images * pixelsOf(c), batch: groups, gather, compute },
      ...{ shape: weight.shape, dtype: floatOf(weight) },
    });
    return { dw, db: null };
  }
  const block = (!x.device.software && [4, 3, 2].find((n) => outer % n === 0 && n * T <= 40)) || 1;
  const common = directOf(c, block, x, dz);
  const spec: typeof common = block * T > 25 || common.walk === "loop" ? { ...common, walk: "one", rows: 1 } : common;
  const positions = images * Math.ceil(h.count / spec.rows) * Math.ceil(w.count / 4);
  const blocksO = outer / block;
  // Enough threads to fill a GPU; fewer where each leaves many sums behind.
  const teams = groups * blocksO * inner * (spec.walk === "one" ? h.taps : 1);
  const sums = block * (spec.walk === "one" ? w.taps : T);
  const lanes = Math.max(1, Math.min(positions, Math.floor(Math.min(1 << 17, 2 ** 20 / sums) / teams)));
  const { device } = x;
  const partial = empty([lanes, weight.size], { device });
  const partialBias = empty([lanes, groups * outer], { device });
  const params = { lanes, positions, blocksO, ...fieldsOf(c), countH: h.count };
  directWeightGradKernel(JSON.stringify(spec)).run(
    { params, x, dy: dz, partial, partialBias },
    { workgroups: grid(Math.ceil((lanes * teams) / 64)) },
  );
  const dw = sumRows(partial, weight.shape, floatOf(weight));
  const db = sumRows(partialBias, [groups * outer]);
  partial.dispose();
  partialBias.dispose();
  return { dw, db };
}

/**
 * dz = dy · f′(z), or dy itself without an activation, db, f32 [channels], and the gradients of the activation's
 * inputs.
 */
function channelGrad(
  dy: Tensor,
  z: Tensor | null,
  activation: Pointwise | null,
  c: Correlation,
  inputs: Inputs | null = null,
): { dz: Tensor; db: Tensor; dinputs: (Tensor | null)[] } {
  const channels = c.groups * c.outer;
  const wide = pixelsOf(c) % 4 === 0;
  const pixels = pixelsOf(c) / (wide ? 4 : 1);
  const size = dy.size / channels / (wide ? 4 : 1);
  const chunk = Math.max(256, Math.ceil(size / Math.max(1, Math.min(128, Math.floor(2048 / channels)))));
  const chunks = Math.ceil(size / chunk);
  const dz = activation ? emptyLike(dy) : dy;
  const partial = empty([chunks, channels], { device: dy.device });
  const own = inputs && inputGrads(inputs, wide, chunks);
  const { source, fields } = own?.text ?? {
    source: activation ? activation.forward + activation.backward : "",
    fields: "",
  };
  channelKernel(floatOf(dy), wide, activation?.name ?? "", source, fields, own?.sums ?? 0).run(
    {
      params: { channels, pixels, size, chunk, ...own?.params },
      ...{ dy, partial, ...(activation && z && { z, dz }), ...own?.bindings },
    },
    { workgroups: grid(channels * chunks) },
  );
  const db = chunks === 1 ? partial.view(0, [channels]) : sumRows(partial, [channels]);
  partial.dispose();
  return { dz, db, dinputs: own?.grads() ?? [] };
}

// Differentiable function -----------------------------------------------------------------------

export interface Conv2dOptions {
  /** [out channels] */
  bias?: Tensor | null;
  /** Of the windows, in height and width. Default 1. */
  stride?: number | Pair;
  /** On both sides, or "same" (as many outputs as inputs; stride 1), or "valid" (none). Default 0. */
  padding?: number | Pair | "same" | "valid";
  /** Between the taps of a window. Default 1. */
  dilation?: number | Pair;
  /** Channels fall into so many groups, each with weights of its own. Default 1. */
  groups?: number;
  /** What padding holds: zeros, the image mirrored at its edge, its edge, or its other side. Default "zeros". */
  paddingMode?: PaddingMode;
  /** Applied to the result, fused: anything with the WGSL of a function and its derivative. */
  activation?: Pointwise | null;
  /**
   * For the activation's parameters after x, in order: f32, f16 or bool, of y's shape, or [out channels]. The floats
   * among them get gradients.
   */
  inputs?: readonly Tensor[];
}

/**
 * `activation(convolution of x with weight + bias, ...inputs)`: x [N, C, H, W] or [C, H, W], weight [O, C / groups, KH,
 * KW], bias [O] → [N, O, OH, OW] or [O, OH, OW]. Under autocast the operands are rounded to f16 and y is f16. Matches
 * torch.nn.functional.conv2d, with the padding modes of torch.nn.Conv2d.
 */
export function conv2d(x: Tensor, weight: Tensor, options: Conv2dOptions = {}): Tensor {
  const { bias = null, activation = null, inputs = [] } = options;
  const g = check(x, weight, options);
  const { h, w, outer, groups } = g.forward;
  const shape = [...x.shape.slice(0, -3), groups * outer, h.count, w.count];
  const extra = inputsOf("conv2d", activation, inputs, shape, shape.length - 3);
  const other = extra ? null : delegated<Tensor>("conv2d", { x, weight, bias }, options);
  if (other) return other;
  const compute = autocastType() ?? floatOf(x);
  const keepZ = activation !== null && [x, weight, bias, ...inputs].some(needsGrad);
  const y = emptyLike(x, { shape, dtype: compute });
  const z = correlate(x, weight, y, g.forward, compute, { bias, activation, inputs: extra, keepZ });
  return record(y, [x, weight, bias ?? x, ...inputs], (dy) => {
    const act = z ? channelGrad(dy, z, activation, g.forward, extra) : null;
    const dz = act?.dz ?? dy;
    const dx = needsGrad(x) ? inputGrad(dz, weight, x, g, compute) : null;
    const grads = needsGrad(weight) ? weightGrad(dz, x, weight, g.forward, compute) : null;
    const db = needsGrad(bias) ? (act?.db ?? grads?.db ?? channelGrad(dy, null, null, g.forward).db) : null;
    act?.dz.dispose();
    return [dx, grads?.dw ?? null, db && bias && cast(db, bias.dtype), ...(act?.dinputs ?? [])];
  });
}

function pair(where: string, value: number | Pair, least: number): Pair {
  const [h, w] = typeof value === "number" ? [value, value] : value;
  if (![h, w].every((n) => Number.isInteger(n) && n >= least) || (typeof value !== "number" && value.length !== 2))
    throw new Error(`${where} is ${JSON.stringify(value)}, expected a whole number ≥ ${least}, or two of them`);
  return [h, w];
}

/** Before and after, for height and width. */
function paddingOf(
  where: string,
  padding: number | Pair | "same" | "valid",
  taps: Pair,
  stride: Pair,
  dilation: Pair,
): [before: Pair, after: Pair] {
  if (padding === "valid")
    return [
      [0, 0],
      [0, 0],
    ];
  if (padding === "same") {
    if (stride.some((s) => s !== 1)) throw new Error(`${where} "same" needs a stride of 1, got [${stride}]`);
    const total = taps.map((k, i) => dilation[i]! * (k - 1)) as [number, number];
    const before = total.map((t) => Math.floor(t / 2)) as [number, number];
    return [before, [total[0] - before[0], total[1] - before[1]]];
  }
  if (typeof padding === "string") throw new Error(`${where} is "${padding}", expected "same", "valid" or numbers`);
  const both = pair(where, padding, 0);
  return [both, both];
}

function check(x: Tensor, weight: Tensor, options: Conv2dOptions): Geometry {
  const { bias, padding = 0, groups = 1, paddingMode = "zeros" } = options;
  for (const [name, t] of Object.entries({ x, weight, bias })) {
    if (t && t.dtype !== "f32" && t.dtype !== "f16")
      throw new Error(`conv2d: ${name} is ${t.dtype}, expected f32 or f16`);
  }
  if (weight.shape.length !== 4)
    throw new Error(
      `conv2d: weight has shape [${weight.shape}], expected [out channels, in channels / groups, height, width]`,
    );
  if (x.shape.length !== 3 && x.shape.length !== 4)
    throw new Error(`conv2d: x has shape [${x.shape}], expected [N, C, H, W] or [C, H, W]`);
  const [C, H, W] = x.shape.slice(-3) as [number, number, number];
  const [O, inner, KH, KW] = weight.shape as [number, number, number, number];
  if (!Number.isInteger(groups) || groups < 1 || O % groups !== 0)
    throw new Error(
      `conv2d: groups is ${groups}, expected a divisor of the ${O} output channels of weight [${weight.shape}]`,
    );
  if (C !== inner * groups)
    throw new Error(
      `conv2d: x has shape [${x.shape}], expected ${inner * groups} channels for weight [${weight.shape}] and groups ${groups}`,
    );
  if (bias && (bias.shape.length !== 1 || bias.size !== O))
    throw new Error(`conv2d: bias has shape [${bias.shape}], expected [${O}]`);
  if (!autocastType() && x.dtype !== weight.dtype)
    throw new Error(`conv2d: x is ${x.dtype} and weight ${weight.dtype}, expected one dtype (or autocast)`);
  if (!(paddingMode in mirrors))
    throw new Error(`conv2d: paddingMode is "${paddingMode}", expected ${Object.keys(mirrors).join(", ")}`);
  const stride = pair("conv2d: stride", options.stride ?? 1, 1);
  const dilation = pair("conv2d: dilation", options.dilation ?? 1, 1);
  const [before, after] = paddingOf("conv2d: padding", padding, [KH, KW], stride, dilation);
  const [h, w] = [H, W].map((size, i) => ({
    ...{ size, taps: [KH, KW][i]!, stride: stride[i]!, before: before[i]!, after: after[i]!, dilation: dilation[i]! },
  })) as [Dimension, Dimension];
  for (const d of [h, w]) {
    if (outputSize(d) < 1)
      throw new Error(
        `conv2d: x has shape [${x.shape}], smaller with its padding than the window of weight [${weight.shape}]`,
      );
    const most = { zeros: Infinity, replicate: Infinity, reflect: d.size - 1, circular: d.size }[paddingMode];
    if (Math.max(d.before, d.after) > most)
      throw new Error(
        `conv2d: padding ${Math.max(d.before, d.after)} with paddingMode "${paddingMode}" is more than ${most}, what x [${x.shape}] allows`,
      );
  }
  const padded = [...before, ...after].some((n) => n > 0);
  return geometryOf(h, w, inner, O / groups, groups, padded ? paddingMode : "zeros");
}

// Module ----------------------------------------------------------------------------------------

export interface Conv2dModuleOptions extends Omit<Conv2dOptions, "bias" | "inputs"> {
  /** Learn a bias. Default true. */
  bias?: boolean;
  device?: Device;
}

/**
 * `conv2d` with learned weight [out, in / groups, height, width] and bias [out]. Matches
 * `torch.nn.Conv2d(inChannels, outChannels, kernelSize, …)`.
 */
export class Conv2d extends Module {
  readonly inChannels: number;
  readonly outChannels: number;
  readonly kernelSize: Pair;
  readonly stride: Pair;
  readonly padding: Pair | "same" | "valid";
  readonly dilation: Pair;
  readonly groups: number;
  readonly paddingMode: PaddingMode;
  readonly activation: Pointwise | null;
  readonly weight: Tensor;
  readonly bias: Tensor | null;

  constructor(
    inChannels: number,
    outChannels: number,
    kernelSize: number | Pair,
    {
      stride = 1,
      padding = 0,
      dilation = 1,
      groups = 1,
      bias = true,
      paddingMode = "zeros",
      activation = null,
      device,
    }: Conv2dModuleOptions = {},
  ) {
    super();
    if (!Number.isInteger(groups) || groups < 1 || inChannels % groups !== 0 || outChannels % groups !== 0)
      throw new Error(`Conv2d: groups is ${groups}, expected a divisor of ${inChannels} and ${outChannels} channels`);
    if (!(paddingMode in mirrors))
      throw new Error(`Conv2d: paddingMode is "${paddingMode}", expected ${Object.keys(mirrors).join(", ")}`);
    this.inChannels = inChannels;
    this.outChannels = outChannels;
    this.kernelSize = pair("Conv2d: kernelSize", kernelSize, 1);
    this.stride = pair("Conv2d: stride", stride, 1);
    this.dilation = pair("Conv2d: dilation", dilation, 1);
    paddingOf("Conv2d: padding", padding, this.kernelSize, this.stride, this.dilation);
    this.padding = typeof padding === "string" ? padding : pair("Conv2d: padding", padding, 0);
    this.groups = groups;
    this.paddingMode = paddingMode;
    this.activation = activation && checkPointwise("Conv2d: activation", activation);
    const shape = [outChannels, inChannels / groups, ...this.kernelSize];
    // PyTorch's initialisation: both uniform in ±1/√(inputs of an output).
    const bound = 1 / Math.sqrt((inChannels / groups) * this.kernelSize[0] * this.kernelSize[1]);
    this.weight = parameter(kaimingUniform(empty(shape, { device }), { a: Math.sqrt(5) }));
    this.bias = bias ? parameter(uniform(empty([outChannels], { device }), -bound, bound)) : null;
  }

  /** `inputs`: for the activation's parameters after x. */
  forward(x: Tensor, ...inputs: readonly Tensor[]): Tensor {
    return conv2d(x, this.weight, { ...this, inputs });
  }

  protected override extraRepr(): string {
    const { inChannels, outChannels, kernelSize, stride, padding, dilation, groups, paddingMode, activation } = this;
    const shown = typeof padding === "string" ? `"${padding}"` : `[${padding}]`;
    const tail = activation ? `, activation=${activation.name}` : "";
    return `${inChannels}, ${outChannels}, kernelSize=[${kernelSize}], stride=[${stride}], padding=${shown}, dilation=[${dilation}], groups=${groups}, bias=${this.bias !== null}, paddingMode=${paddingMode}${tail}`;
  }
}
