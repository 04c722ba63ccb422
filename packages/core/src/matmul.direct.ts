/**
 * WGSL of matrix multiplication for software GPUs (lavapipe, SwiftShader), where workgroup memory is ordinary memory and a
 * barrier is expensive: each thread computes a 4×4 square of C straight from the operands.
 *
 *   C[b] = act(op(A[b]) · op(B[b]) + bias)       with the options of matmul.kernels.ts
 *
 * A square of A is a mat4x4f with A's rows as columns, one of B has B's rows as columns: then B · A, in WGSL's column-major
 * sense, has the rows of C as columns. An operand stored the other way round is transposed in registers.
 */
import { fieldsOf, type GatheredOperand, type MatmulShape } from "./matmul.kernels.ts";
import type { FloatType } from "./tensor.ts";

const four = (f: (i: number) => string): string => [0, 1, 2, 3].map(f).join(", ");

interface Operand {
  readonly name: "a" | "b";
  readonly type: FloatType;
  /** Axes in memory: `inner` is contiguous. */
  readonly outer: "M" | "N" | "K";
  readonly inner: "M" | "N" | "K";
  /** The inner axis is a multiple of 4, so that four neighbours are one load. */
  readonly wide: boolean;
  readonly gather?: GatheredOperand;
}

const isGathered = (gather: MatmulShape["gather"]): boolean => gather?.a !== undefined || gather?.b !== undefined;

function operand(name: "a" | "b", type: FloatType, kInner: boolean, { M, N, K, gather }: MatmulShape): Operand {
  const side = name === "a" ? "M" : "N";
  const gathered = gather?.[name];
  const inner = (gathered?.kMajor ?? kInner) ? "K" : side;
  const wide = gathered ? gathered.vectors === true : !isGathered(gather) && { M, N, K }[inner] % 4 === 0;
  return { name, type, inner, outer: inner === "K" ? side : "K", wide, gather: gathered };
}

const binding = ({ type, wide }: Operand): string => (wide ? `array<vec4<${type}>>` : `array<${type}>`);

/**
 * `NAME4`: four neighbours along the contiguous axis. What lies past the end of K counts as zero; past the end of M or N any
 * value will do, since it is not stored.
 * `NAMESquare`: 4×4 values whose columns run along K for A, along N for B.
 */
function loads({ name, outer, inner, wide }: Operand): string {
  const row = `origin + min(outer, params.${outer} - 1) * params.ld${name}`;
  const value = wide
    ? `vec4f(${name}[(${row} + min(inner, params.${inner} - 4)) / 4])`
    : `vec4f(${four((i) => `f32(${name}[${row} + min(inner + ${i}, params.${inner} - 1)])`)})`;
  const valid =
    outer === "K"
      ? "vec4<bool>(outer < params.K)"
      : inner === "K" && !wide
        ? `vec4u(${four((i) => `inner + ${i}`)}) < vec4u(params.K)`
        : "";
  const asStored = name === "a" ? inner === "K" : inner === "N";
  const [p, q] = outer === "K" ? ["k", "side"] : ["side", "k"];
  const square = `mat4x4f(${four((i) => `${name}4(origin, ${p} + ${i}, ${q})`)})`;
  return `
fn ${name}4(origin: u32, outer: u32, inner: u32) -> vec4f {
  return ${valid ? `select(vec4f(), ${value}, ${valid})` : value};
}
fn ${name}Square(origin: u32, side: u32, k: u32) -> mat4x4f {
  return ${asStored ? square : `transpose(${square})`};
}`;
}

/**
 * Where an operand is gathered, a thread takes one k at a time: squares of gathers are slow to compile. WGSL that precedes the
 * walk along K, that begins a step, and of the operand's 4 values at `k`.
 */
function oneByOne({ name, inner, gather }: Operand): { at: string; step: string; values: string } {
  const [side, size] = name === "a" ? ["m", "params.M"] : ["n", "params.N"];
  const place = (i: number, count = 1): string => `min(${side} + ${i}, ${size} - ${count})`;
  if (!gather) {
    const at = (i: number): string =>
      inner === "K" ? `${place(i)} * params.ld${name} + k` : `k * params.ld${name} + ${place(i)}`;
    const values = four((i) => `f32(${name}[batch * params.stride${name.toUpperCase()} + ${at(i)}])`);
    return { at: "", step: "", values: `vec4f(${values})` };
  }
  const vectors = gather.width === 4;
  const at = (i: number, count: number): string => `let ${name}${i} = ${name}At(batch, ${place(i, count)});`;
  if (vectors && !gather.kMajor)
    return { at: at(0, 4), step: `let ${name}k = ${name}Step(k);`, values: `vec4f(${name}Load(${name}0, ${name}k))` };
  return {
    at: [0, 1, 2, 3].map((i) => at(i, 1)).join("\n"),
    step: `let ${name}k = ${name}Step(k${vectors ? " / 4 * 4" : ""});`,
    values: `vec4f(${four((i) => `f32(${name}Load(${name}${i}, ${name}k)${vectors ? "[k % 4]" : ""})`)})`,
  };
}

const walkOneByOne = (a: Operand, b: Operand): string => {
  const [left, right] = [oneByOne(a), oneByOne(b)];
  return `${left.at}
${right.at}
  for (var k = 0u; k < params.K; k++) {
    ${left.step}
    ${right.step}
    let left = ${left.values};
    let right = ${right.values};
    square += mat4x4f(right * left.x, right * left.y, right * left.z, right * left.w);
  }`;
};

export function directSource(shape: MatmulShape): string {
  const { N, bias, z, activation, accumulate, gather, finish } = shape;
  const a = operand("a", shape.a, !shape.transposeA, shape);
  const b = operand("b", shape.b, shape.transposeB, shape);
  const mapped = gather?.c;
  const wide = N % 4 === 0 && mapped?.wide !== false;
  const gathered = isGathered(gather);
  const [F, width] = wide ? ["vec4f", 4] : ["f32", 1];
  const of = (type: FloatType): string => (wide ? `vec4<${type}>` : type);
  const act = (f: string): string => (wide ? `vec4f(${[..."xyzw"].map((c) => `${f}(v.${c})`).join(", ")})` : `${f}(v)`);
  return /* wgsl */ `
struct Params {
  M: u32, N: u32, K: u32, lda: u32, ldb: u32, strideA: u32, strideB: u32, batch: u32${mapped ? ", ldc: u32" : ""}${fieldsOf(shape)}
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: ${binding(a)};
@group(0) @binding(2) var<storage, read> b: ${binding(b)};
@group(0) @binding(3) var<storage, read_write> c: array<${of(shape.c)}>;
${bias ? `@group(0) @binding(4) var<storage, read> bias: array<${mapped ? bias : of(bias)}>;` : ""}
${z ? `@group(0) @binding(5) var<storage, read_write> z: array<${of(z)}>;` : ""}
${gathered ? (a.gather?.source ?? "") : loads(a)}
${gathered ? (b.gather?.source ?? "") : loads(b)}
${mapped?.source ?? ""}${activation?.forward ?? ""}${finish?.source ?? ""}

/** The epilogue of ${width === 4 ? "four neighbours" : "one element"} of C. */
fn write(i: u32, ${mapped ? "row" : "col"}: u32, sum: ${F}) {
  var v = sum;
  ${bias ? `v += ${mapped ? "f32(bias[row])" : `${F}(bias[col])`};` : ""}
  ${z ? `z[i] = ${of(z)}(v);` : ""}
  ${activation ? `v = ${act(activation.name)};` : ""}
  ${finish ? `v = finish${width}(i, v);` : ""}
  ${accumulate ? `v += ${F}(c[i]);` : ""}
  c[i] = ${of(shape.c)}(v);
}

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let thread = id.x + id.y * groups.x * 64;
  let cols = (params.N + 3) / 4;
  let rows = (params.M + 3) / 4;
  let n = thread % cols * 4;
  let m = thread / cols % rows * 4;
  let batch = thread / (cols * rows);
  if (batch >= params.batch) { return; }

  var square = mat4x4f();
${gathered ? walkOneByOne(a, b) : WALK}
${mapped ? writeMapped(wide) : writeRows(wide)}
}`;
}

const WALK = `\
  for (var k = 0u; k < params.K; k += 4) {
    square += bSquare(batch * params.strideB, n, k) * aSquare(batch * params.strideA, m, k);
  }`;

const writeRows = (wide: boolean): string => `\
  for (var i = 0u; i < min(4, params.M - m); i++) {
    let at = (batch * params.M + m + i) * params.N + n;
    ${wide ? "write(at / 4, n / 4, square[i]);" : "for (var j = 0u; j < min(4, params.N - n); j++) { write(at + j, n + j, square[i][j]); }"}
  }`;

const writeMapped = (wide: boolean): string => `\
  for (var j = 0u; j < ${wide ? "1" : "min(4, params.N - n)"}; j++) {
    let origin = cAt(batch, n + j);
    for (var i = 0u; i < min(4, params.M - m); i++) {
      let at = origin + (m + i) * params.ldc;
      ${wide ? "write(at / 4, batch * params.M + m + i, square[i]);" : "write(at, batch * params.M + m + i, square[i][j]);"}
    }
  }`;

export function directParams({
  M,
  N,
  K,
  batch,
  transposeA,
  transposeB,
  broadcastA,
  broadcastB,
  gather,
}: MatmulShape): Record<string, number> {
  return {
    ...{ M, N, K, batch },
    lda: transposeA ? M : K,
    ldb: transposeB ? K : N,
    strideA: broadcastA ? 0 : M * K,
    strideB: broadcastB ? 0 : K * N,
    ldc: gather?.c?.pitch ?? N,
    ...gather?.params,
  };
}

export const directThreads = ({ M, N, batch }: MatmulShape): number => Math.ceil(M / 4) * Math.ceil(N / 4) * batch;
