import { describe, expect, it } from "vitest";
import type { Measurements } from "../main.ts";
import { markdown, type TorchMeasurements } from "../report.ts";

const kindling: Measurements = {
  date: "2026-01-31T12:00:00Z",
  command: "main.ts",
  device: "GPU",
  driver: "driver",
  processor: "4 × CPU",
  small: false,
  timestamps: true,
  features: ["shader-f16"],
  versions: { node: "24", webgpu: "0.6" },
  dawn: "",
  rows: [
    {
      group: "matmul",
      name: "matmul f32 4096³",
      ms: 4,
      min: 3.9,
      max: 4.1,
      js: 0.01,
      gpu: 3.9,
      dispatches: 1,
      flops: 2 * 4096 ** 3,
    },
    { group: "matmul", name: "matmul f16 4096³", error: "c[3] is 0,\nexpected 1 | 2" },
    {
      group: "training",
      name: "gpt 6×384 f32 captured",
      torch: "gpt 6×384 f32",
      ms: 30,
      min: 30,
      max: 30,
      dispatches: 200,
    },
    { group: "layers", name: "layernorm 2×3 fwd", ms: 1, min: 1, max: 1, bytes: 1e9 },
  ],
};

const torch: TorchMeasurements = {
  date: "2026-01-31T12:01:00Z",
  command: "torch_bench.py",
  device: "GPU",
  driver: "driver 2",
  versions: { torch: "2.11" },
  rows: [
    { group: "matmul", name: "matmul f32 4096³", ms: 3, min: 3, max: 3 },
    { group: "training", name: "gpt 6×384 f32", ms: 18, min: 17, max: 19 },
    { group: "layers", name: "gelu 2×3 fwd", ms: 1, min: 1, max: 1 },
  ],
};

describe("report", () => {
  const lines = markdown([kindling], torch).split("\n");
  const row = (start: string): string => lines.find((line) => line.startsWith(`| ${start}`)) ?? "";

  it("compares a case with PyTorch's of the same name", () => {
    expect(row("matmul f32")).toBe(
      "| matmul f32 4096³ | 3.000 ms | 4.000 ms ±3 % | 0.75 | 34.4 TFLOP/s | 10.0 µs | 3.900 ms | 1 | ≥ 0.75 | reached |",
    );
  });
  it("says where a target was missed", () => {
    expect(row("gpt 6×384")).toContain("| 0.60 |");
    expect(row("gpt 6×384")).toContain("| ≥ 0.83 | **missed** |");
  });
  it("gives no time for a case that failed, but its error", () => {
    expect(row("matmul f16")).toBe("| matmul f16 4096³ |  | failed | | | | | | ≥ 0.30 | c[3] is 0, expected 1 \\| 2 |");
  });
  it("shows what only one side has measured", () => {
    expect(row("layernorm")).toContain("| 1000 GB/s |");
    expect(row("layernorm")).toContain("| not compared |");
    expect(row("gelu")).toContain("| not run |");
  });
  it("sums up the targets", () => {
    expect(lines).toContain(
      "Targets: 1 of 4 reached; not matmul f16 4096³, gpt 6×384 f32 captured, layernorm 2×3 fwd.",
    );
  });
  it("names device, driver and versions", () => {
    const page = lines.join("\n");
    for (const text of ["2026-01-31", "driver 2", "Node 24", "webgpu (Dawn) 0.6", "torch 2.11"])
      expect(page).toContain(text);
  });
});
