/**
 * The kernels for subgroup matrices, which software GPUs lack, in an emulation. It runs in Chromium alone: llvmpipe's compiler
 * takes minutes over it, SwiftShader's a few seconds.
 */
import { empty, kernel, type Tensor, tensor } from "@kindling/core";
import { mixedError, randomValues, testDevice, toF16 } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import type { Mask } from "../src/attention.kernels.ts";
import { matrixKernel, PEAKS, peaksKernel } from "../src/attention.matrix.ts";
import { attentionReference } from "../src/attention.reference.ts";
import { emulate } from "./emulate.ts";

await testDevice();
const passes = ["forward", "gradQuery", "gradKeyValue"] as const;

describe("matrix kernels", () => {
  it.each([
    { split: true, dim: 32, subgroups: 2, isCausal: true },
    { split: true, dim: 12, subgroups: 1, dyScale: 1e-7, window: [30, 7] as const, mask: "f32" as const, p: 0.3 },
    { split: false, dim: 20, subgroups: 2, window: [-1, 20] as const, mask: "bool" as const, p: 0.3 },
  ])(
    "match the reference in emulation: split $split, dim $dim, causal $isCausal, window $window, mask $mask, p $p",
    async ({ split, dim, subgroups, isCausal = false, dyScale = 1, window, mask: type = "none" as Mask, p = 0 }) => {
      const [heads, queries, keys] = [2, 70, 50];
      const values = (size: number, seed: number, scale: number): Float32Array => {
        const x = randomValues(size, seed).map((v) => v * scale);
        return split ? x : toF16(x);
      };
      // large scores, so that the running maximum moves
      const q = values(heads * queries * dim, 1, 4);
      const [k, v] = [values(keys * dim, 2, 1), values(keys * dim, 3, 1)];
      const dy = values(heads * queries * dim, 4, dyScale);
      const hides = randomValues(queries * keys, 5).map((x) =>
        x < 0 ? Number.NEGATIVE_INFINITY : type === "bool" ? 0 : x,
      );
      const expected = attentionReference(q, k, v, dy, {
        ...{ batch: 1, heads, kvHeads: 1, queries, keys, dim, isCausal, window },
        mask: type === "none" ? undefined : { values: hides, shape: [1, 1, queries, keys] },
        dropout: { p, stream: 3, seed: [1, 2] },
      });

      const upload = (x: Float32Array): Tensor => tensor(Float32Array.from(x));
      const operands = { q: upload(q), k: upload(k), v: upload(v), dy: upload(dy) };
      const tensors: Record<string, Tensor> = { ...operands, rows: empty([3 * heads * queries + 4]) };
      for (const name of ["y", "dq"]) tensors[name] = empty([q.length]);
      tensors.dkv = empty([2 * k.length]);
      tensors.peaks = empty([4, PEAKS]);
      tensors.mask =
        type === "bool"
          ? tensor(
              hides.map((x) => Number(x === 0)),
              { dtype: "bool" },
            )
          : upload(hides);
      tensors.rng = tensor([1, 2, 0, 0], { dtype: "u32" });
      const [left, right] = window ?? [-1, -1];
      const unlimited = 2 ** 30;
      const params = {
        ...{
          queries,
          keys,
          keyRows: keys,
          dim: dim / 4,
          valueDim: dim / 4,
          heads,
          group: heads,
          rowCount: heads * queries,
        },
        ...{ scale: 1 / Math.sqrt(dim), low: left < 0 ? -unlimited : -left },
        high: isCausal ? 1 : right < 0 ? unlimited : right + 1,
        ...{ kOffset: 0, vOffset: 0, dkOffset: 0, dvOffset: k.length / 4, peakStep: 1 },
        ...{ qBatch: q.length / 4, qHead: (queries * dim) / 4, qRow: dim / 4 },
        ...{ kBatch: k.length / 4, kHead: k.length / 4, kRow: dim / 4 },
        ...{ vBatch: k.length / 4, vHead: k.length / 4, vRow: dim / 4 },
        ...{ yBatch: q.length / 4, yHead: (queries * dim) / 4, yRow: dim / 4 },
        ...{
          maskBatch: 0,
          maskHead: 0,
          maskRow: keys,
          maskCol: 1,
          maskHeads: 0,
          maskCols: 0,
          slots: 0,
          sharing: 0,
          chunk: 0,
        },
        ...{ stream: 3, threshold: Math.round(p * 2 ** 32), retain: 1 - p },
      };
      const { peaks } = tensors;
      const a = { a: operands.q, b: operands.k, c: operands.v, peaks };
      peaksKernel.run({ params: { a: q.length / 4, b: k.length / 4, row: 0 }, ...a }, { workgroups: [PEAKS, 3] });
      const b = { a: operands.dy, b: operands.dy, c: operands.dy, peaks };
      peaksKernel.run({ params: { a: dy.length / 4, b: 0, row: 3 }, ...b }, { workgroups: [PEAKS] });
      for (const pass of passes) {
        const pairs = pass === "gradKeyValue" ? 1 : heads;
        const blocks = Math.ceil((pass === "gradKeyValue" ? keys : queries) / (16 * subgroups));
        const { source } = matrixKernel(pass, split, dim, subgroups, type, p > 0);
        kernel(`emulated.${pass}`, emulate(source)).run(
          { params: { ...params, pairs }, ...tensors },
          { workgroups: [pairs, 1, blocks] },
        );
      }
      const dkv = await tensors.dkv.data();
      // weights that dropout lets grow make gradients, and so their errors, larger
      const limit = (split ? 2e-6 : 1e-3) * (p ? 2 : 1);
      expect(mixedError(await tensors.y!.data(), expected.y)).toBeLessThan(limit);
      expect(mixedError(await tensors.dq!.data(), expected.dq)).toBeLessThan(limit * dyScale);
      expect(mixedError(dkv.slice(0, k.length), expected.dk)).toBeLessThan(limit * dyScale);
      expect(mixedError(dkv.slice(k.length), expected.dv)).toBeLessThan(limit * dyScale);
    },
    120_000,
  );
});
