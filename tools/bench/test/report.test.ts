import { describe, expect, it } from "vitest";
import { markdown } from "../report.ts";
import type { TorchMeasurements } from "../results.ts";
import type { Measurements } from "../session.ts";
import { verdict } from "../targets.ts";

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
    { group: "memory", name: "copy 512 MiB", ms: 0.5, min: 0.5, max: 0.5, bytes: 1e9 },
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
    { group: "layers", layer: "layernorm", name: "layernorm 8192×4096 fwd", ms: 1, min: 1, max: 1, bytes: 1e9 },
    { group: "layers", layer: "dropout", name: "dropout 2×3 fwd", ms: 1, min: 1, max: 1, bytes: 2.4e9 },
  ],
};

const torch: TorchMeasurements = {
  date: "2026-01-31T12:01:00Z",
  command: "torch_bench",
  device: "GPU",
  driver: "driver 2",
  versions: { torch: "2.11" },
  rows: [
    { group: "memory", name: "copy 512 MiB", ms: 0.4, min: 0.4, max: 0.4 },
    { group: "matmul", name: "matmul f32 4096³", ms: 3, min: 3, max: 3 },
    { group: "training", name: "gpt 6×384 f32", ms: 18, min: 17, max: 19 },
    { group: "layers", name: "gelu 2×3 fwd", ms: 1, min: 1, max: 1 },
  ],
};

const peers: Measurements = {
  ...kindling,
  command: "peers.ts",
  versions: { ...kindling.versions, tfjs: "4.22", "jax-js": "0.1" },
  rows: [
    { library: "kindling", group: "peers", name: "softmax 2×3 fwd", ms: 1, min: 1, max: 1 },
    { library: "tfjs", group: "peers", name: "softmax 2×3 fwd", ms: 4, min: 4, max: 4, note: "composed" },
    { library: "jax-js", group: "peers", name: "softmax 2×3 fwd", error: "no device" },
  ],
};

describe("report", () => {
  const lines = markdown({ kindling: [kindling], torch, peers }).split("\n");
  const row = (start: string): string => lines.find((line) => line.startsWith(`| ${start}`)) ?? "";

  it("compares a case with PyTorch's of the same name", () => {
    expect(row("matmul f32")).toBe(
      "| matmul f32 4096³ | 3.000 ms | 4.000 ms ±3 % | 0.75 | 34.4 TFLOP/s |  |  | 10.0 µs | 3.900 ms | 1 | ratio ≥ 0.75 |  | reached |",
    );
  });
  it("says where a target was missed", () => {
    expect(row("gpt 6×384")).toContain("| 0.60 |");
    expect(row("gpt 6×384")).toContain("| ratio ≥ 0.83 |  | **missed** |");
  });
  it("gives no time for a case that failed, but its error", () => {
    expect(row("matmul f16")).toContain("| failed |");
    expect(row("matmul f16")).toContain("| ratio ≥ 0.30 |  | **missed**; c[3] is 0, expected 1 \\| 2 |");
  });
  it("shows what only one side has measured", () => {
    expect(row("layernorm")).toContain("| 1000 GB/s |");
    expect(row("layernorm")).toContain("| not compared |");
    expect(row("gelu")).toContain("| not run |");
  });
  it("gives the share of the faster copy's bandwidth, and what was aimed at", () => {
    expect(row("dropout")).toContain("| 0.96 |"); // 2.4 TB/s of 2.5
    expect(row("dropout")).toContain("| share ≥ 0.95 | share ≥ 0.98 | reached |");
    expect(row("matmul f32").split("|")[6]).toBe("  ");
  });
  it("shows attorch's ratio as another run's", () => {
    expect(row("case")).toContain("attorch's ratio, another run");
    expect(row("layernorm 8192×4096 fwd")).toContain("| 0.58 |"); // 0.114 ms of PyTorch, 0.196 of attorch
    expect(lines.join("\n")).toContain("**in another run**, not in this one: one NVIDIA H200");
  });
  it("sets the peers beside Kindling", () => {
    expect(row("softmax")).toBe(
      "| softmax 2×3 fwd | 1.000 ms | 4.000 ms | 4.00 | failed |  | tfjs: composed; jax-js: no device |",
    );
    expect(row("case | Kindling | tfjs 4.22 | ratio | jax-js 0.1 | ratio")).not.toBe("");
  });
  it("sums up the targets", () => {
    expect(lines).toContain(
      "Targets: 2 of 5 reached, 0 of them with their aims; not matmul f16 4096³, gpt 6×384 f32 captured, layernorm 8192×4096 fwd.",
    );
  });
  it("names device, driver and versions", () => {
    const page = lines.join("\n");
    for (const text of ["2026-01-31", "driver 2", "Node 24", "webgpu (Dawn) 0.6", "torch 2.11"])
      expect(page).toContain(text);
  });
});

describe("verdict", () => {
  it("compares a ratio or share with target and aim, and milliseconds with a limit", () => {
    const target = { of: "ratio", target: 1, aim: 1.5 } as const;
    expect([0.9, 1, 1.5].map((ratio) => verdict(target, { ms: 1, ratio }))).toEqual([
      "missed",
      "reached",
      "aim reached",
    ]);
    expect(verdict({ of: "share", target: 0.9 }, { ms: 1, ratio: 2 })).toBe("not compared");
    expect([1, 2].map((ms) => verdict({ of: "ms", target: 1 }, { ms }))).toEqual(["reached", "missed"]);
  });
});
