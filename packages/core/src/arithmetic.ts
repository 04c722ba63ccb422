/**
 * The arithmetic that the tape itself needs: fill, copy, cast, reshape, add, mul and the sum over rows.
 * Everything else of the kind is in @kindling/ops.
 *
 *   add: y = a + b     da = dy        db = Σ_rows dy
 *   mul: y = a · b     da = dy · b    db = Σ_rows dy · a
 *
 * b has the shape of a, or that of a's last axes and is repeated over the others. f16 with f32 gives f32.
 */
import { needsGrad, record } from "./autograd.ts";
import { grid, kernel, variants } from "./kernel.ts";
import { type DType, empty, emptyLike, type FloatType, type Shape, sizeOf, type Tensor } from "./tensor.ts";

// Kernels ---------------------------------------------------------------------------------------

type Element = "f32" | "f16" | "i32" | "u32";

/** How a dtype is written in WGSL: a bool is a u32 of 0 or 1. */
export const elementOf = (dtype: DType): Element => (dtype === "bool" ? "u32" : dtype);

const fillKernel = variants((T: Element, V: "f32" | "i32" | "u32") =>
  kernel(
    `core.fill.${T}`,
    /* wgsl */ `
struct Params { vectors: u32, value: ${V} }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<${T}>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i < params.vectors) { y[i] = vec4<${T}>(${T}(params.value)); }
}`,
  ),
);

const castKernel = variants((From: Element, To: Element) =>
  kernel(
    `core.cast.${From}.${To}`,
    /* wgsl */ `
struct Params { vectors: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<${From}>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<${To}>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i < params.vectors) { y[i] = vec4<${To}>(x[i]); }
}`,
  ),
);

const toBoolKernel = variants((From: Element) =>
  kernel(
    `core.toBool.${From}`,
    /* wgsl */ `
struct Params { vectors: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<${From}>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i < params.vectors) { y[i] = select(vec4u(0), vec4u(1), x[i] != vec4<${From}>(0)); }
}`,
  ),
);

/** b of the same size as a, or of a size that divides it and is a multiple of 4. */
const binaryKernel = variants((op: "+" | "*", A: FloatType, B: FloatType, Y: FloatType) =>
  kernel(
    `core.binary.${op}.${A}.${B}.${Y}`,
    /* wgsl */ `
struct Params { vectors: u32, repeat: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<vec4<${A}>>;
@group(0) @binding(2) var<storage, read> b: array<vec4<${B}>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<${Y}>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i < params.vectors) { y[i] = vec4<${Y}>(vec4f(a[i]) ${op} vec4f(b[i % params.repeat])); }
}`,
  ),
);

/** b of any size that divides a's. */
const binaryScalarKernel = variants((op: "+" | "*", A: FloatType, B: FloatType, Y: FloatType) =>
  kernel(
    `core.binaryScalar.${op}.${A}.${B}.${Y}`,
    /* wgsl */ `
struct Params { size: u32, repeat: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: array<${A}>;
@group(0) @binding(2) var<storage, read> b: array<${B}>;
@group(0) @binding(3) var<storage, read_write> y: array<${Y}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i < params.size) { y[i] = ${Y}(f32(a[i]) ${op} f32(b[i % params.repeat])); }
}`,
  ),
);

const scaleKernel = variants((T: FloatType) =>
  kernel(
    `core.scale.${T}`,
    /* wgsl */ `
struct Params { vectors: u32, factor: f32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<vec4<${T}>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<${T}>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i < params.vectors) { y[i] = vec4<${T}>(vec4f(x[i]) * params.factor); }
}`,
  ),
);

/**
 * A workgroup sums 32 columns over its chunk of the rows: 8 rows at a time, lanes side by side on a row, then the 8 partial
 * sums in workgroup memory. Chunks are summed by a second run, in order: no atomics, the same bits each time.
 */
const sumRowsKernel = variants((X: FloatType, Y: FloatType) =>
  kernel(
    `core.sumRows.${X}.${Y}`,
    /* wgsl */ `
struct Params { rows: u32, cols: u32, chunk: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${X}>;
@group(0) @binding(2) var<storage, read_write> y: array<${Y}>;

var<workgroup> partials: array<array<f32, 32>, 8>;

@compute @workgroup_size(32, 8)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(local_invocation_id) lane: vec3u) {
  let col = wg.x * 32 + lane.x;
  let end = min((wg.y + 1) * params.chunk, params.rows);
  var sum = 0.0;
  if (col < params.cols) {
    for (var row = wg.y * params.chunk + lane.y; row < end; row += 8) { sum += f32(x[row * params.cols + col]); }
  }
  partials[lane.y][lane.x] = sum;
  for (var half = 4u; half > 0; half /= 2) {
    workgroupBarrier();
    if (lane.y < half) { partials[lane.y][lane.x] += partials[lane.y + half][lane.x]; }
  }
  if (lane.y == 0 && col < params.cols) { y[wg.y * params.cols + col] = ${Y}(partials[0][lane.x]); }
}`,
  ),
);

// Launchers -------------------------------------------------------------------------------------

const vectorsOf = (x: Tensor): number => Math.ceil(x.size / 4);

/** Workgroups of 256 threads for `threads` threads. */
export const threads = (threads: number): [number, number] => grid(Math.ceil(threads / 256));

/** Sets every element of `x` to `value`, in place. */
export function fill(x: Tensor, value: number): Tensor {
  const T = elementOf(x.dtype);
  const V = T === "i32" || T === "u32" ? T : "f32";
  const vectors = vectorsOf(x);
  const params = { vectors, value: x.dtype === "bool" ? Number(value !== 0) : value };
  fillKernel(T, V).run({ params, y: x }, { workgroups: threads(vectors) });
  return x;
}

/** Writes the values of `x`, converted to `y`'s dtype, into `y`: same size, any shape. */
export function copyInto(y: Tensor, x: Tensor): Tensor {
  if (x.size !== y.size) throw new Error(`copyInto: x has shape [${x.shape}], y has [${y.shape}]`);
  const params = { vectors: vectorsOf(x) };
  const toBool = y.dtype === "bool" && x.dtype !== "bool";
  const run = toBool ? toBoolKernel(elementOf(x.dtype)) : castKernel(elementOf(x.dtype), elementOf(y.dtype));
  run.run({ params, x, y }, { workgroups: threads(params.vectors) });
  return y;
}

/** A copy in memory of its own, off the tape. */
export const copy = (x: Tensor): Tensor => copyInto(emptyLike(x), x);

/** Σ over all axes but the last `axes`, with f32 accumulation. */
export function sumRows(x: Tensor, shape: Shape, dtype: FloatType = x.dtype as FloatType): Tensor {
  const cols = sizeOf(shape);
  const rows = x.size / cols;
  const tiles = Math.ceil(cols / 32);
  // Few rows are one chunk; at most 64 chunks, since a second dispatch walks over them.
  const chunks = rows <= 128 ? 1 : Math.max(1, Math.min(Math.ceil(rows / 32), 64, Math.floor(1024 / tiles)));
  const chunk = Math.ceil(rows / chunks);
  const count = Math.ceil(rows / chunk);
  const y = empty(shape, { dtype, device: x.device });
  if (count === 1) {
    sumRowsKernel(x.dtype as FloatType, dtype).run({ params: { rows, cols, chunk }, x, y }, { workgroups: [tiles] });
    return y;
  }
  const partial = empty([count, cols], { device: x.device });
  sumRowsKernel(x.dtype as FloatType, "f32").run(
    { params: { rows, cols, chunk }, x, y: partial },
    { workgroups: [tiles, count] },
  );
  sumRowsKernel("f32", dtype).run(
    { params: { rows: count, cols, chunk: count }, x: partial, y },
    { workgroups: [tiles] },
  );
  partial.dispose();
  return y;
}

function binary(op: "+" | "*", a: Tensor, b: Tensor, dtype?: FloatType): Tensor {
  const A = a.dtype as FloatType;
  const B = b.dtype as FloatType;
  const Y = dtype ?? (A === "f16" && B === "f16" ? "f16" : "f32");
  const y = emptyLike(a, { dtype: Y });
  if (a.size === b.size || b.size % 4 === 0) {
    const params = { vectors: vectorsOf(a), repeat: vectorsOf(b) };
    binaryKernel(op, A, B, Y).run({ params, a, b, y }, { workgroups: threads(params.vectors) });
  } else {
    const params = { size: a.size, repeat: b.size };
    binaryScalarKernel(op, A, B, Y).run({ params, a, b, y }, { workgroups: threads(a.size) });
  }
  return y;
}

/** Checks the operands of add and mul and puts the one that is repeated second. */
function operands(name: string, a: Tensor, b: Tensor): [a: Tensor, b: Tensor] {
  for (const x of [a, b]) {
    if (x.dtype !== "f32" && x.dtype !== "f16")
      throw new Error(`${name}: expected f32 or f16 operands, got ${x.dtype}`);
  }
  if (a.shape.length < b.shape.length) return operands(name, b, a);
  const lead = a.shape.length - b.shape.length;
  if (!b.shape.every((d, i) => d === a.shape[lead + i])) {
    throw new Error(
      `${name}: shapes [${a.shape}] and [${b.shape}]; expected equal shapes, or one that ends in the other`,
    );
  }
  return [a, b];
}

// Differentiable functions ----------------------------------------------------------------------

/** The gradient of an operand of `like`'s shape and dtype from one of the result's. */
function reduceTo(dy: Tensor, like: Tensor): Tensor {
  if (dy.size !== like.size) return sumRows(dy, like.shape, like.dtype as FloatType);
  const g = cast(dy, like.dtype);
  // a bias [n] added to one row [1, n]
  return g.shape.length === like.shape.length ? g : g.view(0, like.shape);
}

/** `a + b`: equal shapes, or one is the other's last axes and is repeated. */
export function add(a: Tensor, b: Tensor): Tensor {
  [a, b] = operands("add", a, b);
  return record(binary("+", a, b), [a, b], (dy) => [
    needsGrad(a) ? reduceTo(dy, a) : null,
    needsGrad(b) ? reduceTo(dy, b) : null,
  ]);
}

/** `a · b`: a number, equal shapes, or one tensor is the other's last axes and is repeated. */
export function mul(a: Tensor, b: Tensor | number): Tensor {
  if (typeof b === "number") return scale(a, b);
  [a, b] = operands("mul", a, b);
  const [x, w] = [a, b];
  return record(binary("*", x, w), [x, w], (dy) => {
    const dx = needsGrad(x) ? binary("*", dy, w, x.dtype as FloatType) : null;
    if (!needsGrad(w)) return [dx, null];
    const product = binary("*", dy, x, "f32");
    return [dx, reduceTo(product, w)];
  });
}

function scale(x: Tensor, factor: number): Tensor {
  if (x.dtype !== "f32" && x.dtype !== "f16") throw new Error(`mul: expected an f32 or f16 tensor, got ${x.dtype}`);
  const y = emptyLike(x);
  const params = { vectors: vectorsOf(x), factor };
  scaleKernel(x.dtype).run({ params, x, y }, { workgroups: threads(params.vectors) });
  return record(y, [x], (dy) => [scale(dy, factor)]);
}

/** `x` in another dtype; `x` itself where it has that dtype already. Its gradient is cast back. */
export function cast(x: Tensor, dtype: DType): Tensor {
  if (x.dtype === dtype) return x;
  const y = copyInto(emptyLike(x, { dtype }), x);
  return dtype === "f32" || dtype === "f16" ? record(y, [x], (dy) => [cast(dy, x.dtype)]) : y;
}

/** See Tensor.reshape. */
export function reshape(x: Tensor, shape: Shape): Tensor {
  const known = shape.reduce((n, d) => (d === -1 ? n : n * d), 1);
  const full = shape.map((d) => (d === -1 ? x.size / known : d));
  if (
    sizeOf(full) !== x.size ||
    full.some((d) => !Number.isInteger(d) || d < 1) ||
    shape.filter((d) => d === -1).length > 1
  ) {
    throw new Error(`reshape: [${x.shape}] has ${x.size} elements and cannot take shape [${shape}]`);
  }
  return record(x.view(0, full), [x], (dy) => [dy.view(0, x.shape)]);
}
