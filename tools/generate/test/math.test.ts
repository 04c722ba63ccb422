import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { declared, textsOf } from "../math.ts";

const folder = mkdtempSync(join(tmpdir(), "kindling-generate-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("the names that kernels declare", () => {
  it("are found in nested templates and in strings", () => {
    const path = join(folder, "kernel.ts");
    const deep = "`let inner = $" + "{`var<private> deepest: $" + "{T};`}`";
    const source =
      `const k = (T) => /* wgsl */ \`fn outer(row: $` +
      `{T}) { $` +
      `{[1].map((i) => ${deep})} }\` + "const last = 1;";`;
    writeFileSync(path, source);
    const names = textsOf(path).flatMap(declared);
    expect(names.sort()).toEqual(["deepest", "inner", "last", "outer", "row"]);
  });

  it("are functions, types, variables, parameters and members", () => {
    const wgsl = `
override WG: u32 = 64; alias F = f32; const c = 1; // let no = 1;
struct Params { rows: u32, cols: u32 }
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(WG) fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) grid: vec3u) {
  for (var i = 0u; i < 4u; i++) { let at = i; var sum: f32; }
}`;
    expect(declared(wgsl).sort()).toEqual(
      ["F", "Params", "WG", "at", "c", "cols", "grid", "i", "main", "rows", "sum", "wg", "y"].sort(),
    );
  });

  it("with a number from the template count with each digit", () => {
    expect(declared("let v\u0001 = 1;")).toContain("v7");
    expect(declared("fn \u0001Grad(x: f32) -> f32")).toEqual(["x"]);
  });

  it("are not words of a message", () => {
    expect(declared("matmul: x has shape [3], expected [4] (fn of x: see there); let it be")).toEqual([]);
  });
});
