/**
 * Rotary position embedding (Su et al. 2021, arXiv:2104.09864): pairs of features turn by an angle that grows with the
 * position, so that a product of a query and a key depends on their distance alone.
 *
 *   ya = xa · cos φ − xb · sin φ      φ = position · base^(−2i / dim), for pair i of dim / 2
 *   yb = xb · cos φ + xa · sin φ      dx is dy turned by −φ
 *
 * The pairs are (i, i + dim/2), as in GPT-NeoX and Llama, or interleaved (2i, 2i + 1), as in RoFormer and GPT-J.
 *
 * WGSL has no float64, and in f32 the angle of position 131,072 is off by 0.008 before a GPU's sin, whose error grows with its
 * argument, has been asked. So angles never exist on the GPU: cosines and sines of d · 256ᵏ · base^(−2i / dim), for the digits
 * d and the four places k of a position in base 256, are computed once in float64; the kernel multiplies those of a position's
 * digits as complex numbers. That is right to 4e-7 for every 32-bit position, and the table never grows.
 * Order of this file: kernel, launcher, differentiable function, module.
 */
import {
  type Device,
  delegated,
  empty,
  emptyLike,
  type FloatType,
  kernel,
  Module,
  persist,
  record,
  type Tensor,
  threads,
  variants,
} from "@kindling/core";

// Kernel ----------------------------------------------------------------------------------------

/**
 * A thread turns one unit, two loads of `width` features, in up to HEADS matrices of the same positions: they share the
 * cosines. Units past the rotated ones are copied.
 */
const HEADS = 4;

const rotaryKernel = variants((T: FloatType, wide: boolean, interleaved: boolean, positioned: boolean) => {
  const F = wide ? "vec4f" : "f32";
  const V = wide ? `vec4<${T}>` : T;
  const apart = wide && interleaved;
  const given: string = positioned ? "@group(0) @binding(4) var<storage, read> positions: array<i32>;" : "";
  return kernel(
    `rotary.${T}`,
    /* wgsl */ `
struct Params {
  units: u32, pairs: u32, width: u32, length: u32, inner: u32, chunks: u32, threads: u32, perBatch: u32, offset: i32, sign: f32
}
struct Turn { cos: ${F}, sin: ${F} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${V}>;
@group(0) @binding(2) var<storage, read> table: array<${wide ? "vec4<f32>" : "f32"}>;
@group(0) @binding(3) var<storage, read_write> y: array<${V}>;
${given}

fn entry(row: u32, pair: u32) -> Turn {
  return Turn(table[row * 2 * params.pairs + pair], table[(row * 2 + 1) * params.pairs + pair]);
}

fn turn(position: i32, pair: u32) -> Turn {
  var digits = bitcast<u32>(abs(position));
  var t = entry(digits & 255, pair);
  for (var place = 256u; digits >= 256; place += 256) {
    digits >>= 8;
    let u = entry(place + (digits & 255), pair);
    t = Turn(t.cos * u.cos - t.sin * u.sin, t.sin * u.cos + t.cos * u.sin);
  }
  t.sin *= select(params.sign, -params.sign, position < 0);
  return t;
}

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.threads) { return; }
  let unit = i % params.units;
  let l = i / params.units % params.length;
  let chunk = i / (params.units * params.length);
  let batch = chunk / params.chunks;
  let first = batch * params.inner + chunk % params.chunks * ${HEADS};
  let last = min(first + ${HEADS}, (batch + 1) * params.inner);
  let rotates = unit < params.pairs;
  var t = Turn();
  if (rotates) {
    t = turn(${positioned ? "positions[batch * params.perBatch + l]" : "params.offset + i32(l)"}, unit);
  }
  let at = select(2 * unit, ${interleaved ? "2 * unit" : "unit"}, rotates);
  let step = select(1, ${interleaved ? "1u" : "params.pairs"}, rotates);
  for (var m = first; m < last; m++) {
    let a = (m * params.length + l) * params.width + at;
    let b = a + step;
    if (!rotates) {
      y[a] = x[a];
      if (at + 1 < params.width) { y[b] = x[b]; }
      continue;
    }
    let xa = ${apart ? `${F}(vec2f(x[a].xz), vec2f(x[b].xz))` : `${F}(x[a])`};
    let xb = ${apart ? `${F}(vec2f(x[a].yw), vec2f(x[b].yw))` : `${F}(x[b])`};
    let ya = xa * t.cos - xb * t.sin;
    let yb = xb * t.cos + xa * t.sin;
    y[a] = ${apart ? `${V}(${F}(ya.x, yb.x, ya.y, yb.y))` : `${V}(ya)`};
    y[b] = ${apart ? `${V}(${F}(ya.z, yb.z, ya.w, yb.w))` : `${V}(yb)`};
  }
}`,
  );
});

// Launcher --------------------------------------------------------------------------------------

const tables = new WeakMap<Device, Map<string, Tensor>>();

/** [4 places, 256 digits, 2, dim / 2]: cosines, then sines, of digit · 256^place · base^(−2i / dim). */
function tableOf(device: Device, base: number, dim: number): Tensor {
  let cache = tables.get(device);
  if (!cache) tables.set(device, (cache = new Map()));
  const key = `${base},${dim}`;
  let table = cache.get(key);
  if (table) return table;
  const half = dim / 2;
  const values = new Float32Array(4 * 256 * dim);
  for (let row = 0; row < 1024; row++) {
    const step = (row % 256) * 256 ** Math.floor(row / 256);
    for (let i = 0; i < half; i++) {
      const angle = step * base ** ((-2 * i) / dim);
      values[row * dim + i] = Math.cos(angle);
      values[row * dim + half + i] = Math.sin(angle);
    }
  }
  table = persist(empty([4, 256, 2, half], { device }));
  // An upload inside a capture is fine here, since replays find the same values in place.
  device.write(table, values, true);
  cache.set(key, table);
  return table;
}

interface Rotation {
  readonly base: number;
  readonly dim: number;
  readonly interleaved: boolean;
  readonly offset: number;
  readonly positions: Tensor | null;
}

/** `x` turned by its angles, or with `sign` -1 back. */
function rotate(x: Tensor, { base, dim, interleaved, offset, positions }: Rotation, sign: 1 | -1): Tensor {
  const [length, features] = x.shape.slice(-2) as [number, number];
  const wide = dim % 8 === 0 && features % 4 === 0;
  const vector = wide ? 4 : 1;
  const pairs = dim / 2 / vector;
  const units = pairs + Math.ceil((features - dim) / vector / 2);
  const matrices = x.size / (length * features);
  const batches = positions?.shape.length === 2 ? positions.shape[0]! : 1;
  const inner = matrices / batches;
  const chunks = Math.ceil(inner / HEADS);
  const params = {
    ...{ units, pairs, width: features / vector, length, inner, chunks, offset, sign },
    threads: units * length * chunks * batches,
    perBatch: batches > 1 ? length : 0,
  };
  const y = emptyLike(x);
  rotaryKernel(x.dtype as FloatType, wide, interleaved, positions !== null).run(
    { params, x, table: tableOf(x.device, base, dim), y, ...(positions && { positions }) },
    { workgroups: threads(params.threads) },
  );
  return y;
}

// Differentiable function -----------------------------------------------------------------------

export interface RotaryOptions {
  /** Default 10000. */
  base?: number;
  /** Position of the first row. Default 0. */
  offset?: number;
  /** Pairs (2i, 2i + 1) instead of (i, i + dim/2). Default false. */
  interleaved?: boolean;
  /** i32, [length] or [batch, length] for an x of [batch, ..., length, features]: positions in place of offset, offset + 1, … */
  positions?: Tensor | null;
  /** How many features turn, from the first on; an even number. Default all. */
  dim?: number;
}

/**
 * Turns the features of `x` [..., length, features], f32 or f16, by angles of their positions. y has the shape and dtype of x.
 * Queries and keys take it after they were split into heads, [batch, heads, length, headDim].
 */
export function rotary(
  x: Tensor,
  { base = 10000, offset = 0, interleaved = false, positions = null, dim = x.shape.at(-1) }: RotaryOptions = {},
): Tensor {
  if (x.dtype !== "f32" && x.dtype !== "f16") throw new Error(`rotary: x is ${x.dtype}, expected f32 or f16`);
  if (x.shape.length < 2) throw new Error(`rotary: x has shape [${x.shape}], expected [..., length, features]`);
  const [length, features] = x.shape.slice(-2) as [number, number];
  const rotation = { base, dim: dim!, interleaved, offset, positions };
  checkRotation("rotary", rotation.dim, base);
  if (rotation.dim > features) throw new Error(`rotary: dim is ${dim}, but x [${x.shape}] has ${features} features`);
  if (!Number.isInteger(offset) || offset < -(2 ** 31) || offset + length > 2 ** 31)
    throw new Error(`rotary: offset is ${offset}, expected a whole number with positions of 32 bits`);
  if (positions) checkPositions(x, positions, offset);
  const other = delegated<Tensor>("rotary", { x, positions }, rotation);
  if (other) return other;
  const y = rotate(x, rotation, 1);
  if (!positions) return record(y, [x], (dy) => [rotate(dy, rotation, -1)]);
  // an input, so that backward notices if the positions were overwritten
  return record(y, [x, positions], (dy) => [rotate(dy, rotation, -1), null]);
}

function checkRotation(name: string, dim: number, base: number): void {
  if (!Number.isInteger(dim) || dim < 2 || dim % 2 !== 0)
    throw new Error(`${name}: dim is ${dim}, expected an even number ≥ 2: features turn in pairs`);
  if (!(base > 0 && Number.isFinite(base))) throw new Error(`${name}: base is ${base}, expected a number above 0`);
}

function checkPositions(x: Tensor, positions: Tensor, offset: number): void {
  const length = x.shape.at(-2)!;
  const [batch] = x.shape;
  const expected = x.shape.length > 2 ? [`${length}`, `1,${length}`, `${batch},${length}`] : [`${length}`];
  if (positions.dtype !== "i32") throw new Error(`rotary: positions is ${positions.dtype}, expected i32`);
  if (!expected.includes(positions.shape.join())) {
    throw new Error(
      `rotary: positions has shape [${positions.shape}], expected [${expected.join("] or [")}] for x [${x.shape}]`,
    );
  }
  if (offset !== 0) throw new Error(`rotary: offset is ${offset} beside positions; give one of them`);
}

// Module ----------------------------------------------------------------------------------------

export interface RotaryEmbeddingOptions {
  base?: number;
  interleaved?: boolean;
  /** Positions from here on are an error: what a model was trained for. Default none. Those in `positions` go unchecked. */
  maxLength?: number;
}

/** `rotary` of the first `dim` features. Has no parameters and no state. */
export class RotaryEmbedding extends Module {
  readonly dim: number;
  readonly base: number;
  readonly interleaved: boolean;
  readonly maxLength: number;

  constructor(
    dim: number,
    { base = 10000, interleaved = false, maxLength = Number.POSITIVE_INFINITY }: RotaryEmbeddingOptions = {},
  ) {
    super();
    checkRotation("RotaryEmbedding", dim, base);
    if (!(maxLength >= 1)) throw new Error(`RotaryEmbedding: maxLength is ${maxLength}, expected a number ≥ 1`);
    this.dim = dim;
    this.base = base;
    this.interleaved = interleaved;
    this.maxLength = maxLength;
  }

  /** x: [..., length, features]. `offset` is how many tokens came before, for instance `cache.position`. */
  forward(x: Tensor, { offset = 0, positions = null }: Pick<RotaryOptions, "offset" | "positions"> = {}): Tensor {
    const length = x.shape.at(-2) ?? 0;
    if (!positions && offset + length > this.maxLength)
      throw new Error(`RotaryEmbedding: positions ${offset} to ${offset + length - 1}, maxLength is ${this.maxLength}`);
    const { dim, base, interleaved } = this;
    return rotary(x, { dim, base, interleaved, offset, positions });
  }

  protected override extraRepr(): string {
    return `${this.dim}, base=${this.base}, interleaved=${this.interleaved}`;
  }
}
