/** The kernels for subgroup matrices, which software GPUs lack: they compile on a null device, and run in an emulation. */
import { empty, kernel, type Tensor, tensor } from "@kindling/core";
import { mixedError, randomValues, testDevice, toF16 } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { create } from "webgpu";
import type { Pass } from "../src/attention.kernels.ts";
import { matrixKernel, PEAKS, peaksKernel } from "../src/attention.matrix.ts";
import { attentionReference } from "../src/attention.reference.ts";
import { emulate } from "./emulate.ts";

const device = await testDevice();
const passes: Pass[] = ["forward", "gradQuery", "gradKeyValue"];

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
    for (const pass of passes) {
      for (const split of [false, true]) {
        for (const dim of [16, 20, 64, 80, 128]) {
          for (const subgroups of [1, 4]) {
            const { label, source } = matrixKernel(pass, split, dim, subgroups);
            const { messages } = await nothing.createShaderModule({ code: source }).getCompilationInfo();
            const errors = messages.filter(({ type }) => type === "error").map(({ message }) => message);
            expect(errors, label).toEqual([]);
          }
        }
      }
    }
    nothing.destroy();
  });

  // llvmpipe's compiler takes minutes over the emulation, SwiftShader's a few seconds.
  it.skipIf(/llvmpipe/.test(device.name)).each([
    { split: true, dim: 32, subgroups: 2, isCausal: true, dyScale: 1 },
    { split: true, dim: 20, subgroups: 1, isCausal: false, dyScale: 1e-7 },
    { split: false, dim: 32, subgroups: 2, isCausal: true, dyScale: 1 },
  ])(
    "match the reference in emulation: split $split, dim $dim, causal $isCausal",
    async ({ split, dim, subgroups, isCausal, dyScale }) => {
      const [heads, queries, keys] = [2, 70, 50];
      const values = (size: number, seed: number, scale: number): Float32Array => {
        const x = randomValues(size, seed).map((v) => v * scale);
        return split ? x : toF16(x);
      };
      // large scores, so that the running maximum moves
      const q = values(heads * queries * dim, 1, 4);
      const [k, v] = [values(keys * dim, 2, 1), values(keys * dim, 3, 1)];
      const dy = values(heads * queries * dim, 4, dyScale);
      const expected = attentionReference(q, k, v, dy, {
        ...{ batch: 1, heads, kvHeads: 1, queries, keys, dim, isCausal },
      });

      const upload = (x: Float32Array): Tensor => tensor(Float32Array.from(x));
      const operands = { q: upload(q), k: upload(k), v: upload(v), dy: upload(dy) };
      const rows = [empty([heads * queries]), empty([heads * queries])];
      const tensors: Record<string, Tensor> = { ...operands, lse: rows[0]!, delta: rows[1]! };
      for (const name of ["y", "dq"]) tensors[name] = empty([q.length]);
      tensors.dkv = empty([2 * k.length]);
      tensors.peaks = empty([4, PEAKS]);
      const params = {
        ...{ queries, keys, dim: dim / 4, heads, group: heads, causal: Number(isCausal), scale: 1 / Math.sqrt(dim) },
        ...{ qOffset: 0, kOffset: 0, vOffset: 0, dkOffset: 0, dvOffset: k.length / 4, peakStep: 1 },
        ...{ qBatch: q.length / 4, qHead: (queries * dim) / 4, qRow: dim / 4 },
        ...{ kvBatch: k.length / 4, kvHead: k.length / 4, kvRow: dim / 4 },
        ...{ yBatch: q.length / 4, yHead: (queries * dim) / 4, yRow: dim / 4 },
      };
      const { peaks } = tensors;
      const a = { a: operands.q, b: operands.k, c: operands.v, peaks };
      peaksKernel.run({ params: { a: q.length / 4, b: k.length / 4, row: 0 }, ...a }, { workgroups: [PEAKS, 3] });
      const b = { a: operands.dy, b: operands.dy, c: operands.dy, peaks };
      peaksKernel.run({ params: { a: dy.length / 4, b: 0, row: 3 }, ...b }, { workgroups: [PEAKS] });
      for (const pass of passes) {
        const onKeys = pass === "gradKeyValue";
        const blocks = Math.ceil((onKeys ? keys : queries) / (16 * subgroups));
        kernel(`emulated.${pass}`, emulate(matrixKernel(pass, split, dim, subgroups).source)).run(
          { params, ...tensors },
          { workgroups: [onKeys ? 1 : heads, 1, blocks] },
        );
      }
      const dkv = await tensors.dkv.data();
      const limit = (split ? 2e-6 : 1e-3) * dyScale;
      expect(mixedError(await tensors.y!.data(), expected.y)).toBeLessThan(split ? 2e-6 : 1e-3);
      expect(mixedError(await tensors.dq!.data(), expected.dq)).toBeLessThan(limit);
      expect(mixedError(dkv.slice(0, k.length), expected.dk)).toBeLessThan(limit);
      expect(mixedError(dkv.slice(k.length), expected.dv)).toBeLessThan(limit);
    },
    120_000,
  );
});
