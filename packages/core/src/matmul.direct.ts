/**
 * WGSL of matrix multiplication for software GPUs (lavapipe, SwiftShader), where workgroup memory is ordinary memory and a
 * barrier is expensive: each thread computes a 4×4 square of C straight from the operands.
 *
 *   C[b] = act(op(A[b]) · op(B[b]) + bias)       with the options of matmul.kernels.ts
 *
 * A square of A is a mat4x4f with A's rows as columns, one of B has B's rows as columns: then B · A, in WGSL's column-major
 * sense, has the rows of C as columns. An operand stored the other way round is transposed in registers.
 */
import type { MatmulShape } from "./matmul.kernels.ts";
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
}

function operand(name: "a" | "b", type: FloatType, kInner: boolean, { M, N, K }: MatmulShape): Operand {
  const side = name === "a" ? "M" : "N";
  const inner = kInner ? "K" : side;
  return { name, type, inner, outer: kInner ? side : "K", wide: { M, N, K }[inner] % 4 === 0 };
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

export function directSource(shape: MatmulShape): string {
  const { N, bias, z, activation, accumulate } = shape;
  const a = operand("a", shape.a, !shape.transposeA, shape);
  const b = operand("b", shape.b, shape.transposeB, shape);
  const wide = N % 4 === 0;
  const [F, width] = wide ? ["vec4f", 4] : ["f32", 1];
  const of = (type: FloatType): string => (wide ? `vec4<${type}>` : type);
  const act = (f: string): string => (wide ? `vec4f(${[..."xyzw"].map((c) => `${f}(v.${c})`).join(", ")})` : `${f}(v)`);
  return /* wgsl */ `
struct Params {
  M: u32, N: u32, K: u32, lda: u32, ldb: u32, strideA: u32, strideB: u32, batch: u32
}

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> a: ${binding(a)};
@group(0) @binding(2) var<storage, read> b: ${binding(b)};
@group(0) @binding(3) var<storage, read_write> c: array<${of(shape.c)}>;
${bias ? `@group(0) @binding(4) var<storage, read> bias: array<${of(bias)}>;` : ""}
${z ? `@group(0) @binding(5) var<storage, read_write> z: array<${of(z)}>;` : ""}
${loads(a)}
${loads(b)}
${activation?.forward ?? ""}

/** The epilogue of ${width === 4 ? "four neighbours" : "one element"} of C. */
fn write(i: u32, col: u32, sum: ${F}) {
  var v = sum;
  ${bias ? `v += ${F}(bias[col]);` : ""}
  ${z ? `z[i] = ${of(z)}(v);` : ""}
  ${activation ? `v = ${act(activation.name)};` : ""}
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
  for (var k = 0u; k < params.K; k += 4) {
    square += bSquare(batch * params.strideB, n, k) * aSquare(batch * params.strideA, m, k);
  }
  for (var i = 0u; i < min(4, params.M - m); i++) {
    let at = (batch * params.M + m + i) * params.N + n;
    ${wide ? "write(at / 4, n / 4, square[i]);" : "for (var j = 0u; j < min(4, params.N - n); j++) { write(at + j, n + j, square[i][j]); }"}
  }
}`;
}

export function directParams({
  M,
  N,
  K,
  batch,
  transposeA,
  transposeB,
  broadcastA,
  broadcastB,
}: MatmulShape): Record<string, number> {
  return {
    ...{ M, N, K, batch },
    lda: transposeA ? M : K,
    ldb: transposeB ? K : N,
    strideA: broadcastA ? 0 : M * K,
    strideB: broadcastB ? 0 : K * N,
  };
}

export const directThreads = ({ M, N, batch }: MatmulShape): number => Math.ceil(M / 4) * Math.ceil(N / 4) * batch;
