/**
 * Subgroup matrices for GPUs without them: rewrites a kernel of attention.matrix.ts into plain WGSL with the same data flow.
 * 32 neighbouring threads play a subgroup; of a matrix, each holds 8 neighbours of row lane / 2. f16 tensors become f32 ones.
 */
export function emulate(source: string): string {
  const threads = Number(/@workgroup_size\((\d+)\)/.exec(source)![1]);
  const text = source
    .replace(/\/\/[^\n]*/g, "")
    .replace(/(enable|requires|diagnostic)\b[^;]*;/g, "")
    .replace("@subgroup_size(32)", "")
    .replace(/alias (Left|Right|Sum) = [^;]*;/g, "alias $1 = array<f32, 8>;")
    .replace(
      /fn words[^\n]*/,
      "fn words(x: vec4f) -> vec2u { return vec2u(pack2x16float(x.xy), pack2x16float(x.zw)); }",
    )
    .replace(/vec4<f16>/g, "vec4f")
    .replace(/@builtin\(subgroup_id\)[^)]*\)[^)]*/, "@builtin(local_invocation_index) thread: u32")
    .replace(/let sg = [^;]*;/, "let sg = thread / 32;")
    .replace(/let lane = [^;]*;/, "let lane = thread % 32; self_ = thread;")
    .replace(/subgroupAny\((\w+)\)/g, "$1")
    .replace(/subgroupMax\(/g, "emulatedMax(")
    .replace(/subgroupShuffleXor\(/g, "emulatedXor(")
    .replace(/subgroupMatrixMultiplyAccumulate\(/g, "emulatedProduct(")
    .replace(/subgroupMatrixLoad<(?:Left|Right), (row|col)_major>\(&memory, /g, "emulatedLoad_$1(")
    .replace(/subgroupMatrixStore<row_major>\(&memory, /g, "emulatedStore(");
  return `
var<private> self_: u32;
var<workgroup> factorA: array<f32, ${threads * 8}>;
var<workgroup> factorB: array<f32, ${threads * 8}>;

fn half_(i: u32) -> f32 { return unpack2x16float(memory[i / 8][i % 8 / 2])[i % 2]; }
fn emulatedLoad_row(at: u32, pitch: u32) -> array<f32, 8> {
  var x: array<f32, 8>;
  for (var e = 0u; e < 8; e++) { x[e] = half_((at + self_ % 32 / 2 * pitch) * 8 + self_ % 2 * 8 + e); }
  return x;
}
fn emulatedLoad_col(at: u32, pitch: u32) -> array<f32, 8> {
  var x: array<f32, 8>;
  for (var e = 0u; e < 8; e++) { x[e] = half_((at + (self_ % 2 * 8 + e) * pitch) * 8 + self_ % 32 / 2); }
  return x;
}
fn emulatedStore(at: u32, value: array<f32, 8>, pitch: u32) {
  var x = value;
  let i = at + self_ % 32 / 2 * pitch + self_ % 2 * 2;
  memory[i] = bitcast<vec4u>(vec4f(x[0], x[1], x[2], x[3]));
  memory[i + 1] = bitcast<vec4u>(vec4f(x[4], x[5], x[6], x[7]));
}
fn emulatedProduct(left: array<f32, 8>, right: array<f32, 8>, sum: array<f32, 8>) -> array<f32, 8> {
  var a = left;
  var b = right;
  var x = sum;
  for (var e = 0u; e < 8; e++) { factorA[self_ * 8 + e] = a[e]; factorB[self_ * 8 + e] = b[e]; }
  workgroupBarrier();
  let first = self_ / 32 * 256;
  for (var e = 0u; e < 8; e++) {
    for (var k = 0u; k < 16; k++) {
      x[e] += factorA[first + self_ % 32 / 2 * 16 + k] * factorB[first + k * 16 + self_ % 2 * 8 + e];
    }
  }
  workgroupBarrier();
  return x;
}
fn emulatedXor(x: f32, mask: u32) -> f32 {
  workgroupBarrier();
  factorA[self_] = x;
  workgroupBarrier();
  let other = factorA[self_ ^ mask];
  workgroupBarrier();
  return other;
}
fn emulatedMax(x: f32) -> f32 {
  var most = x;
  for (var mask = 16u; mask > 0; mask /= 2) { most = max(most, emulatedXor(most, mask)); }
  return most;
}
${text}`;
}
