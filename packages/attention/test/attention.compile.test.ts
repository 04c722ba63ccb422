/** The kernels for subgroup matrices compile on Dawn's null backend, which has them. */
import { describe, expect, it } from "vitest";
import { create } from "webgpu";
import { matrixKernel } from "../src/attention.matrix.ts";

const passes = ["forward", "gradQuery", "gradKeyValue"] as const;

describe("matrix kernels", () => {
  it("compile for f16 and f32 and every head dim", async () => {
    // held: Dawn crashes once its instance is collected
    const gpu = ((globalThis as { nullGpu?: GPU }).nullGpu = create([
      "backend=null",
      "enable-dawn-features=allow_unsafe_apis",
    ]));
    const requiredFeatures = [
      "shader-f16",
      "subgroups",
      "subgroup-size-control",
      "chromium-experimental-subgroup-matrix",
    ] as GPUFeatureName[];
    const nothing = await (await gpu.requestAdapter())!.requestDevice({ requiredFeatures });
    const check = async (...variant: Parameters<typeof matrixKernel>): Promise<void> => {
      const { label, source } = matrixKernel(...variant);
      const { messages } = await nothing.createShaderModule({ code: source }).getCompilationInfo();
      const errors = messages.filter(({ type }) => type === "error").map(({ message }) => message);
      expect(errors, label).toEqual([]);
    };
    for (const pass of passes) {
      for (const split of [false, true]) {
        for (const dim of [16, 20, 64, 80, 128])
          for (const subgroups of [1, 4]) await check(pass, split, dim, subgroups, "none", false);
        for (const mask of ["none", "bool", "f32", "f16"] as const) await check(pass, split, 64, 4, mask, true);
      }
    }
    nothing.destroy();
  });
});
