import { describe, expect, it } from "vitest";
import { stripWgsl } from "../wgsl.ts";

const strip = (code: string): string => stripWgsl(code, "test.ts")?.toString() ?? code;

describe("stripWgsl", () => {
  it("drops comments, indentation and empty lines, and keeps the breaks next to holes", () => {
    const code = [
      "const k = /* wgsl */ `",
      "// what it does",
      "override WG: u32 = 64; // threads",
      "",
      "$" + "{reduce}",
      "fn main() {",
      "  let  a = array<$" + "{T}, 4>(); // a hole in $" + "{T} a comment",
      "    return;",
      "}`;",
      "const other = `  // not WGSL`;",
    ];
    expect(strip(code.join("\n"))).toBe(
      [
        "const k = /* wgsl */ `",
        "override WG: u32 = 64;",
        "$" + "{reduce}",
        "fn main() {",
        "let a = array<$" + "{T}, 4>(); // a hole in $" + "{T} a comment",
        "return;",
        "}`;",
        "const other = `  // not WGSL`;",
      ].join("\n"),
    );
  });

  it("leaves code without WGSL alone", () => {
    expect(stripWgsl("const a = `x  y`;", "test.ts")).toBeNull();
  });

  it("names a comment that no template follows", () => {
    expect(() => strip("const a = /* wgsl */ 1;")).toThrow('test.ts: no template literal after the comment "wgsl"');
  });
});
