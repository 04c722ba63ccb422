/**
 * attorch's test grid (github.com/BobMcDear/attorch, tests/) as data: its shapes, options and tolerances, how cases are chosen
 * from them, and how results are compared. layers.ts has the layers.
 *
 * KINDLING_GRID chooses the extent:
 *
 *   (unset)   shapes scaled down to some 4,000 elements; options taken by rotation, so that each is met at least once
 *   pairs     attorch's shapes; options so that any two are met together
 *   full      attorch's shapes with all combinations of options: hours on a GPU; -t "linear" chooses a layer
 *
 * The other side of each comparison is float64 (attorch's is PyTorch in the same precision): the references of the packages,
 * on everything as long as that takes JavaScript a moment. Of larger cases it is exact values too, but of a sample: some
 * rows, channels, planes or elements, the first and the last always among them; sums over a batch are computed in full.
 */
import { autocast, type FloatType, type Shape, scope, sizeOf, type Tensor, tensor } from "@kindling/core";
import { randomValues, toF16 } from "@kindling/core/testing";

export type Values = ArrayLike<number>;
export type Extent = "small" | "pairs" | "full";

export const extent: Extent = extentOf(process.env.KINDLING_GRID);

function extentOf(name = "small"): Extent {
  if (name !== "small" && name !== "pairs" && name !== "full")
    throw new Error(`KINDLING_GRID is "${name}", expected pairs or full`);
  return name;
}

// Shapes ------------------------------------------------------------------------------------------

const attorchShapes: readonly Shape[] = [
  ...[[96], [128], [196], [384], [768], [1024], [3200], [4800], [8000], [12288]],
  ...[
    [1, 8000],
    [4, 2000],
    [8, 1024],
    [32, 1024],
    [128, 1024],
    [2048, 768],
    [6144, 256],
    [8096, 32],
    [12288, 1],
  ],
  ...[
    [1, 1024, 3072],
    [8, 960, 196],
    [64, 768, 128],
    [128, 960, 196],
    [2048, 64, 16],
  ],
  ...[
    [1, 3, 224, 224],
    [8, 3, 224, 224],
    [64, 64, 56, 56],
    [256, 128, 28, 28],
    [256, 2048, 7, 7],
  ],
];

/** The same kinds of shape: one element in an axis, odd sizes, many short rows, few long ones. */
const smallShapes: readonly Shape[] = [
  ...[[96], [196], [3200]],
  ...[
    [1, 2000],
    [4, 500],
    [32, 64],
    [48, 67],
    [506, 8],
    [3072, 1],
  ],
  ...[
    [1, 32, 96],
    [2, 15, 48],
    [8, 24, 16],
    [16, 15, 7],
    [128, 4, 4],
  ],
  ...[
    [1, 3, 28, 28],
    [8, 3, 12, 12],
    [8, 8, 7, 7],
    [16, 8, 5, 5],
    [8, 16, 3, 3],
  ],
];

/** attorch's default_shapes(min_dim, max_dim). */
export const shapes = (from: number, to: number): Shape[] =>
  (extent === "small" ? smallShapes : attorchShapes).filter(({ length }) => length >= from && length <= to);

// Precisions --------------------------------------------------------------------------------------

export interface Precision {
  readonly name: string;
  /** Of the input. */
  readonly dtype: FloatType;
  readonly amp: boolean;
}

/** Of the four combinations attorch skips f16 without AMP. */
export const precisions: readonly Precision[] = [
  { name: "f32", dtype: "f32", amp: false },
  { name: "f32 under autocast", dtype: "f32", amp: true },
  { name: "f16 under autocast", dtype: "f16", amp: true },
];

// Tolerances --------------------------------------------------------------------------------------

export interface Tolerance {
  readonly rtol: number;
  readonly atol: number;
}

/** torch.testing.assert_close without a tolerance: by the dtype of what is compared. */
export const byDtype = { f32: { rtol: 1.3e-6, atol: 1e-5 }, f16: { rtol: 1e-3, atol: 1e-5 } } as const;

/** How many values lie further than atol + rtol · |expected| from what is expected, and the worst of them. */
export function outside(
  actual: Values,
  expected: Values,
  { rtol, atol }: Tolerance,
): { count: number; worst: number; at: number } {
  const result = { count: 0, worst: 0, at: -1 };
  for (let i = 0; i < expected.length; i++) {
    const [a, b] = [actual[i]!, expected[i]!];
    const ratio = Number.isNaN(a) && Number.isNaN(b) ? 0 : Math.abs(a - b) / (atol + rtol * Math.abs(b));
    if (ratio <= 1) continue;
    result.count++;
    const size = Number.isNaN(ratio) ? Number.POSITIVE_INFINITY : ratio;
    if (size > result.worst) Object.assign(result, { worst: size, at: i });
  }
  return result;
}

const rms = (values: Values): number => {
  let sum = 0;
  for (let i = 0; i < values.length; i++) sum += values[i]! ** 2;
  return Math.sqrt(sum / Math.max(values.length, 1));
};

// Choice of cases ---------------------------------------------------------------------------------

/** Whole numbers below `n`, the same each time. */
export function dice(seed = 1): (n: number) => number {
  let s = seed;
  return (n) => {
    s = (Math.imul(s, 1664525) + 1013904223) | 0;
    return Math.floor((((s ^ (s >>> 15)) >>> 0) / 2 ** 32) * n);
  };
}

/**
 * Cases, each an index into every axis, such that each value of an axis is met and, as far as `limit` cases reach, any two of
 * different axes meet.
 */
export function rotate(
  sizes: readonly number[],
  valid: (pick: readonly number[]) => boolean,
  limit: number,
): number[][] {
  const roll = dice();
  const met = new Set<string>();
  const chosen: number[][] = [];
  const keysOf = (pick: readonly number[]): { values: string[]; pairs: string[] } => ({
    values: pick.map((v, axis) => `${axis}:${v}`),
    pairs: pick.flatMap((v, axis) => pick.slice(0, axis).map((w, other) => `${other}:${w} ${axis}:${v}`)),
  });
  const unmet = (keys: readonly string[]): number => keys.filter((key) => !met.has(key)).length;
  for (let misses = 0; misses < 20; ) {
    let best: number[] | null = null;
    let gain = 0;
    for (let candidate = 0; candidate < 60; candidate++) {
      const pick = sizes.map((size, axis) => {
        const missing = Array.from({ length: size }, (_, v) => v).filter((v) => !met.has(`${axis}:${v}`));
        return missing.length > 0 && roll(4) > 0 ? missing[roll(missing.length)]! : roll(size);
      });
      if (!valid(pick)) continue;
      const { values, pairs } = keysOf(pick);
      const score = unmet(values) * 1000 + (chosen.length < limit ? unmet(pairs) : 0);
      if (score > gain) [best, gain] = [pick, score];
    }
    if (!best) {
      misses++;
      continue;
    }
    const { values, pairs } = keysOf(best);
    for (const key of [...values, ...pairs]) met.add(key);
    chosen.push(best);
  }
  return chosen;
}

/** Every combination. */
export function* product(sizes: readonly number[]): Generator<number[]> {
  const pick = sizes.map(() => 0);
  for (;;) {
    yield [...pick];
    let axis = pick.length - 1;
    while (axis >= 0 && ++pick[axis]! === sizes[axis]) pick[axis--] = 0;
    if (axis < 0) return;
  }
}

/** All whole numbers below `size`, or `count` of them in order, 0 and size − 1 among them. */
export function sample(size: number, count: number): number[] {
  if (size <= count) return Array.from({ length: size }, (_, i) => i);
  const roll = dice(size);
  const chosen = new Set([0, size - 1]);
  while (chosen.size < Math.max(count, 2)) chosen.add(roll(size));
  return [...chosen].sort((a, b) => a - b);
}

/** The elements of `runs` of `length` neighbours, one behind the other. */
export function gather(values: Values, runs: readonly number[], length = 1): Float32Array {
  const out = new Float32Array(runs.length * length);
  for (const [n, run] of runs.entries()) {
    for (let i = 0; i < length; i++) out[n * length + i] = values[run * length + i]!;
  }
  return out;
}

// Running a case ----------------------------------------------------------------------------------

const pools: { normals: Float32Array; halves: Float32Array | null } = { normals: new Float32Array(0), halves: null };

/** Normal numbers, the same for the same seed, exact in `dtype`. All come from one pool: seeds are places to start in it. */
export function normals(size: number, seed: number, dtype: FloatType = "f32"): Float32Array {
  const start = seed * 10007;
  if (pools.normals.length < start + size) {
    const length = 2 ** Math.ceil(Math.log2(start + size));
    const [u, v] = [randomValues(length, 1), randomValues(length, 2)];
    pools.normals = u.map((a, i) => Math.sqrt(-2 * Math.log((a + 1) / 2 || 1e-7)) * Math.cos(Math.PI * v[i]!));
    pools.halves = null;
  }
  if (dtype === "f32") return pools.normals.subarray(start, start + size);
  pools.halves ??= toF16(pools.normals);
  return pools.halves.subarray(start, start + size);
}

/** Class ids. */
export const ids = (size: number, classes: number): Int32Array =>
  Int32Array.from({ length: size }, (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 8) % classes);

/** An input that wants a gradient. */
export interface Leaf {
  readonly shape: Shape;
  readonly dtype: FloatType;
  readonly values: Float32Array;
}

/** `scale` · normal numbers, another seed for each of a case's leaves. */
export function leaf(
  shape: Shape,
  seed: number,
  { dtype = "f32", scale = 1 }: Partial<{ dtype: FloatType; scale: number }> = {},
): Leaf {
  const values = normals(sizeOf(shape), seed, dtype);
  if (scale === 1) return { shape, dtype, values };
  const scaled = values.map((v) => v * scale);
  return { shape, dtype, values: dtype === "f16" ? toF16(scaled) : scaled };
}

export interface Result {
  readonly values: Values;
  readonly dtype: FloatType;
}

export interface Run<Names extends string> {
  readonly y: Result;
  readonly dy: Float32Array;
  readonly grads: { readonly [Name in Names]: Result };
}

export async function resultOf(x: Tensor): Promise<Result> {
  return { values: await x.data(), dtype: x.dtype as FloatType };
}

export class Case<Options = unknown> {
  readonly shape: Shape;
  readonly precision: Precision;
  readonly options: Options;
  readonly failures: string[] = [];
  /** Values compared. */
  compared = 0;

  /** Whether the layer multiplies in f16 under autocast. */
  readonly products: boolean;

  constructor(shape: Shape, precision: Precision, options: Options, products = false) {
    this.products = products;
    this.shape = shape;
    this.precision = precision;
    this.options = options;
  }

  get dtype(): FloatType {
    return this.precision.dtype;
  }

  /** What a matrix product under autocast reads of `values`. */
  operand(values: Float32Array): Float32Array {
    return this.precision.amp ? toF16(values) : values;
  }

  /** The input, in the case's dtype. */
  input(seed = 0): Leaf {
    return leaf(this.shape, seed, { dtype: this.dtype });
  }

  /** `forward` of the leaves in the case's precision, and backward of `upstream`, by default normal numbers. */
  differentiate<Names extends string>(
    leaves: { readonly [Name in Names]: Leaf | null },
    forward: (tensors: { readonly [Name in Names]: Tensor | null } & { readonly x: Tensor }) => Tensor,
    upstream: (size: number, dtype: FloatType) => Float32Array = (size, dtype) => normals(size, 9, dtype),
  ): Promise<Run<Names>> {
    return scope(async () => {
      const entries = Object.entries<Leaf | null>(leaves).map(
        ([name, given]) => [name, given && tensor(given.values, { ...given, requiresGrad: true })] as const,
      );
      const y = this.forward(() => forward(Object.fromEntries(entries) as never));
      const dy = upstream(y.size, y.dtype as FloatType);
      y.backward(tensor(dy, { shape: y.shape, dtype: y.dtype }));
      const grads: Record<string, Result> = {};
      for (const [name, t] of entries) {
        if (!t) continue;
        if (!t.grad) throw new Error(`${name} has no gradient`);
        grads[name] = await resultOf(t.grad);
      }
      return { y: await resultOf(y), dy, grads: grads as Run<Names>["grads"] };
    });
  }

  forward<T>(run: () => T): T {
    return autocast(this.precision.amp ? "f16" : "f32", run);
  }

  /**
   * Notes what of `result` is not as `expected` within |a − b| ≤ atol + rtol · |b|. With f16 in play atol is taken times the
   * root mean square of what is expected, where that exceeds 1: attorch compares with PyTorch in f16, which rounds where it
   * rounds; against float64 a sum of large terms that comes out small differs by the rounding of its terms.
   *
   * `runs` are the runs of `length` neighbours of which `expected` holds the values; default all. `loose`: a few values may
   * differ, those where a rounded pre-activation falls on the other side of an activation's edge.
   */
  expect(
    what: string,
    result: Result,
    expected: Values,
    tolerance: Tolerance | typeof byDtype,
    { runs, length = 1, loose = false }: { runs?: readonly number[]; length?: number; loose?: boolean } = {},
  ): void {
    const actual = runs ? gather(result.values, runs, length) : result.values;
    const { rtol, atol } = "rtol" in tolerance ? tolerance : tolerance[result.dtype];
    const rounded = (this.products && this.precision.amp) || result.dtype === "f16";
    const limit = { rtol, atol: atol * (rounded ? Math.max(1, rms(expected)) : 1) };
    this.compared += expected.length;
    if (actual.length !== expected.length || actual.length === 0) {
      this.failures.push(`${what} has ${actual.length} values, expected ${expected.length}`);
      return;
    }
    const { count, worst, at } = outside(actual, expected, limit);
    if (count <= (loose ? Math.floor(expected.length / 500) : 0)) return;
    const first = `${actual[at]} for ${expected[at]}`;
    this.failures.push(
      `${what}: ${count} of ${actual.length} differ, most ${worst.toPrecision(3)} × the limit: ${first}`,
    );
  }

  /** Notes that something other than a tensor's values is not as expected. */
  require(ok: boolean, what: string): void {
    this.compared++;
    if (!ok) this.failures.push(what);
  }
}

export interface Layer<Options = unknown> {
  readonly name: string;
  readonly shapes: readonly Shape[];
  /** attorch's values of each option. */
  readonly options: { readonly [Name in keyof Options]: readonly Options[Name][] };
  /** What is different in the small grid, where a software GPU compiles each variant of a kernel for up to a second. */
  readonly small?: {
    readonly shapes?: readonly Shape[];
    /** By name; f32 where the GPU has none of them. */
    readonly precisions?: readonly string[];
    readonly options?: { readonly [Name in keyof Options]?: readonly Options[Name][] };
    /** Cases; more if otherwise an option were not met. Default 12. */
    readonly limit?: number;
  };
  /** Whether it multiplies in f16 under autocast. Default false. */
  readonly products?: boolean;
  /** Combinations that exist. Default all. */
  valid?(shape: Shape, options: Options): boolean;
  run(c: Case<Options>): Promise<void>;
}

/** What a layer runs: its cases by shape and precision. */
export function casesOf<Options>(
  layer: Layer<Options>,
  available: readonly Precision[],
  how: Extent = extent,
): { axes: (readonly unknown[])[]; groups: Map<string, () => Iterable<Case<Options>>> } {
  const small = how === "small" ? layer.small : undefined;
  const options = { ...layer.options, ...small?.options } as Layer<Options>["options"];
  const shapes = small?.shapes ?? layer.shapes;
  const names = Object.keys(options) as (keyof Options)[];
  const chosen = small?.precisions ? available.filter(({ name }) => small.precisions!.includes(name)) : available;
  const used = chosen.length > 0 ? chosen : available.slice(0, 1);
  const axes: (readonly unknown[])[] = [shapes, used, ...names.map((name) => options[name])];
  const build = (pick: readonly number[]): Case<Options> => {
    const values = Object.fromEntries(names.map((name, i) => [name, options[name][pick[i + 2]!]])) as Options;
    return new Case(shapes[pick[0]!]!, used[pick[1]!]!, values, layer.products);
  };
  const valid = (c: Case<Options>): boolean => layer.valid?.(c.shape, c.options) ?? true;
  const groups = new Map<string, () => Iterable<Case<Options>>>();
  const nameOf = ({ shape, precision }: Case<Options>): string => `[${shape}] ${precision.name}`;
  const sizes = axes.map(({ length }) => length);
  if (how === "full") {
    for (const pick of product(sizes.slice(0, 2))) {
      groups.set(nameOf(build(pick)), function* () {
        for (const rest of product(sizes.slice(2))) {
          const c = build([...pick, ...rest]);
          if (valid(c)) yield c;
        }
      });
    }
    return { axes, groups };
  }
  const limit = how === "small" ? (small?.limit ?? 12) : Number.POSITIVE_INFINITY;
  const cases = new Map<string, Case<Options>[]>();
  for (const pick of rotate(sizes, (p) => valid(build(p)), limit)) {
    const c = build(pick);
    cases.set(nameOf(c), [...(cases.get(nameOf(c)) ?? []), c]);
  }
  for (const [name, list] of cases) groups.set(name, () => list);
  return { axes, groups };
}
