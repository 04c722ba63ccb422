/** Coarse checks of results: enough to notice a kernel that computes something else, or nothing. */
import { empty, type FloatType, grid, kernel, type Tensor, tensor, variants } from "@kindling/core";

/** Tolerances of a value of size 1. */
export const tolerance: Record<FloatType, number> = { f32: 1e-4, f16: 1e-2 };

const gatherKernel = variants((T: FloatType) =>
  kernel(
    `bench.gather.${T}`,
    /* wgsl */ `
struct Params { size: u32, start: u32, length: u32, stride: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${T}>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i < params.size) { y[i] = f32(x[params.start + i / params.length * params.stride + i % params.length]); }
}`,
  ),
);

/** From element `start` on, `count` runs of `length` values each, whose starts are `stride` apart. */
export async function runs(
  x: Tensor,
  { start, count, length, stride }: { start: number; count: number; length: number; stride: number },
): Promise<number[]> {
  const size = count * length;
  using y = empty([size]);
  const params = { size, start, length, stride };
  gatherKernel(x.dtype as FloatType).run({ params, x, y }, { workgroups: grid(Math.ceil(size / 256)) });
  return Array.from(await y.data());
}

/** `count` values from element `start` on. */
export const part = (x: Tensor, start: number, count: number): Promise<number[]> =>
  runs(x, { start, count: 1, length: count, stride: 0 });

/** Row `index` of a matrix, or of a tensor seen as one with rows of `cols` values. */
export const rowOf = (x: Tensor, index: number, cols: number): Promise<number[]> => part(x, index * cols, cols);

/** The first values of a tensor. */
export const head = (x: Tensor, count = 4096): Promise<number[]> => part(x, 0, Math.min(count, x.size));

/** Column 0 of a matrix. */
export const columnOf = (x: Tensor, cols: number): Promise<number[]> =>
  runs(x, { start: 0, count: x.size / cols, length: 1, stride: cols });

/** Throws unless the values agree to within `tolerance` times their size, or times `size` where they are smaller. */
export function expectClose(
  what: string,
  actual: readonly number[],
  expected: readonly number[],
  tolerance: number,
  size = 1,
): void {
  expected.forEach((e, i) => {
    const a = actual[i]!;
    if (!(Math.abs(a - e) <= tolerance * (size + Math.abs(e)))) throw new Error(`${what}[${i}] is ${a}, expected ${e}`);
  });
}

/** Throws unless the first values are finite and not all zero. */
export async function expectSound(what: string, x: Tensor): Promise<void> {
  const values = await head(x);
  const bad = values.findIndex((v) => !Number.isFinite(v));
  if (bad >= 0) throw new Error(`${what}[${bad}] is ${values[bad]}`);
  if (values.every((v) => v === 0)) throw new Error(`${what} is zero`);
}

export const sum = (values: Iterable<number>): number => {
  let total = 0;
  for (const v of values) total += v;
  return total;
};

export const dot = (a: readonly number[], b: readonly number[]): number => sum(a.map((v, i) => v * b[i]!));

export const mean = (values: readonly number[]): number => sum(values) / values.length;

/** exp(values) that sum to 1. */
export function softmaxOf(values: readonly number[]): number[] {
  const max = values.reduce((a, b) => Math.max(a, b));
  const exps = values.map((v) => Math.exp(v - max));
  const total = sum(exps);
  return exps.map((e) => e / total);
}

export const sigmoidAt = (x: number): number => 1 / (1 + Math.exp(-x));

/** The cumulative normal distribution: its Taylor series, whose terms stay small enough up to |x| = 6. */
export function normalCdf(x: number): number {
  if (Math.abs(x) > 6) return x > 0 ? 1 : 0;
  let term = x;
  let total = x;
  for (let k = 1; k < 120; k++) {
    term *= (-x * x) / (2 * k);
    total += term / (2 * k + 1);
  }
  return 0.5 + total / Math.sqrt(2 * Math.PI);
}

export const geluAt = (x: number): number => x * normalCdf(x);
export const geluSlopeAt = (x: number): number => normalCdf(x) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);

/** A thread computes one element of op(A) · op(B), term by term. */
const elementKernel = variants((A: FloatType, B: FloatType, C: FloatType) =>
  kernel(
    `bench.element.${A}.${B}.${C}`,
    /* wgsl */ `
struct Params { samples: u32, cols: u32, inner: u32, aRow: u32, aInner: u32, bCol: u32, bInner: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> places: array<u32>;
@group(0) @binding(2) var<storage, read> a: array<${A}>;
@group(0) @binding(3) var<storage, read> b: array<${B}>;
@group(0) @binding(4) var<storage, read> c: array<${C}>;
@group(0) @binding(5) var<storage, read_write> result: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) {
  if (id.x >= params.samples) { return; }
  let row = places[2 * id.x];
  let col = places[2 * id.x + 1];
  var sum = 0.0;
  for (var k = 0u; k < params.inner; k++) {
    sum += f32(a[row * params.aRow + k * params.aInner]) * f32(b[col * params.bCol + k * params.bInner]);
  }
  result[2 * id.x] = sum;
  result[2 * id.x + 1] = f32(c[row * params.cols + col]);
}`,
  ),
);

export interface Product {
  rows: number;
  cols: number;
  inner: number;
  /** A is stored as [inner, rows]. */
  transposeA?: boolean;
  /** B is stored as [cols, inner]. */
  transposeB?: boolean;
}

/**
 * Throws unless elements of `c` all over the matrix, its corners included, are those of op(A) · op(B). `finish` says what
 * else was done to the element of a column.
 */
export async function expectProduct(
  what: string,
  [a, b, c]: readonly [Tensor, Tensor, Tensor],
  { rows, cols, inner, transposeA = false, transposeB = false }: Product,
  tolerance: number,
  finish: (value: number, col: number) => number = (value) => value,
): Promise<void> {
  const samples = 256;
  const places = new Uint32Array(2 * samples);
  for (let i = 0; i < samples; i++) {
    places[2 * i] = i < 4 ? (i & 1) * (rows - 1) : Math.imul(i, 0x9e3779b1) >>> 8; // of 24 bits
    places[2 * i + 1] = i < 4 ? (i >> 1) * (cols - 1) : Math.imul(i, 0x85ebca77) >>> 8;
    places[2 * i]! %= rows;
    places[2 * i + 1]! %= cols;
  }
  const at = tensor(places);
  const result = tensor(new Float32Array(2 * samples));
  const params = {
    ...{ samples, cols, inner },
    ...(transposeA ? { aRow: 1, aInner: rows } : { aRow: inner, aInner: 1 }),
    ...(transposeB ? { bCol: inner, bInner: 1 } : { bCol: 1, bInner: cols }),
  };
  const run = elementKernel(a.dtype as FloatType, b.dtype as FloatType, c.dtype as FloatType);
  run.run({ params, places: at, a, b, c, result }, { workgroups: grid(Math.ceil(samples / 64)) });
  const pairs = await result.data();
  const expected = Array.from({ length: samples }, (_, i) => finish(pairs[2 * i]!, places[2 * i + 1]!));
  const actual = Array.from({ length: samples }, (_, i) => pairs[2 * i + 1]!);
  // a sum of `inner` products of normal numbers is of the size √inner
  expectClose(what, actual, expected, tolerance, Math.sqrt(inner));
}
