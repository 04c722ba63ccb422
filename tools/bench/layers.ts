/** Layers and the optimizer: forward without the tape, and forward with backward. */
import { gelu } from "@kindling/activations";
import { scaledDotProductAttention } from "@kindling/attention";
import { autocast, clearGrad, type FloatType, parameter, randn, type Tensor, tensor } from "@kindling/core";
import { dropout } from "@kindling/dropout";
import { embedding } from "@kindling/embedding";
import { layerNorm } from "@kindling/layernorm";
import { linear } from "@kindling/linear";
import { crossEntropy } from "@kindling/losses";
import { AdamW } from "@kindling/optim";
import {
  dot,
  expectClose,
  expectProduct,
  expectSound,
  geluAt,
  geluSlopeAt,
  head,
  part,
  rowOf,
  sum,
  tolerance,
} from "./checks.ts";
import { type Case, forwardAndBackward, kernelCase, type Sizes, setsFor } from "./measure.ts";

export const cases = (sizes: Sizes): Case[] => [
  ...sizes.linear.flatMap((shape) =>
    (["f32", "f16"] as const).flatMap((dtype) => [
      ...linearCases(shape, dtype, false),
      ...linearCases(shape, dtype, true),
    ]),
  ),
  ...sizes.layernorm.flatMap((shape) => layerNormCases(shape, sizes)),
  ...sizes.crossEntropy.flatMap((shape) => crossEntropyCases(shape, sizes)),
  ...sizes.attention.flatMap((shape) =>
    (["f32", "f16"] as const).flatMap((dtype) => attentionCases(shape, dtype, sizes)),
  ),
  ...sizes.embedding.flatMap((shape) => embeddingCases(shape)),
  ...sizes.pointwise.flatMap((shape) => [...geluCases(shape, sizes), ...dropoutCases(shape, sizes)]),
  ...sizes.adamw.map(([count, size]) => adamWCase(count!, size!)),
];

/** Target ids or token ids below `classes`, the same at each run. */
const ids = (count: number, classes: number): Int32Array<ArrayBuffer> =>
  Int32Array.from({ length: count }, (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 8) % classes);

/** f16 is autocast: parameters and x are f32, the products take f16 operands. */
function linearCases([rows, inner, cols]: readonly number[], dtype: FloatType, activate: boolean): Case[] {
  const [M, K, N] = [rows!, inner!, cols!];
  const name = `${activate ? "linear+gelu" : "linear"} ${dtype === "f16" ? "autocast f16" : "f32"} ${M}×${K}→${N}`;
  const setup = () => {
    const x = randn([M, K]);
    const weight = randn([N, K]);
    const bias = randn([N]);
    const dy = randn([M, N], { dtype });
    return {
      leaves: [x, weight, bias],
      dy,
      forward: () => autocast(dtype, () => linear(x, weight, bias, { activation: activate ? gelu : null })),
      async check(y: Tensor, grads?: readonly Tensor[]): Promise<void> {
        const b = Array.from(await bias.data());
        const finish = (z: number, col: number): number => (activate ? geluAt(z + b[col]!) : z + b[col]!);
        await expectProduct(
          "y",
          [x, weight, y],
          { rows: M, cols: N, inner: K, transposeB: true },
          tolerance[dtype],
          finish,
        );
        if (!grads) return;
        const [dx, dw, db] = grads as [Tensor, Tensor, Tensor];
        await expectSound("db", db);
        if (activate) {
          await expectSound("dx", dx);
          await expectSound("dW", dw);
        } else {
          await expectProduct("dx", [dy, weight, dx], { rows: M, cols: K, inner: N }, tolerance[dtype]);
          await expectProduct("dW", [dy, x, dw], { rows: N, cols: K, inner: M, transposeA: true }, tolerance[dtype]);
        }
      },
    };
  };
  const flops = 2 * M * N * K;
  return forwardAndBackward(name, setup, { f16: dtype === "f16", flops: [flops, 3 * flops] });
}

function layerNormCases([rows, cols]: readonly number[], sizes: Sizes): Case[] {
  const [R, C] = [rows!, cols!];
  const setup = () => {
    const x = randn([R, C]);
    const weight = randn([C]);
    const bias = randn([C]);
    const dy = randn([R, C]);
    return {
      leaves: [x, weight, bias],
      dy,
      forward: () => layerNorm(x, C, { weight, bias }),
      async check(y: Tensor, grads?: readonly Tensor[]): Promise<void> {
        const [w, b] = [await rowOf(weight, 0, C), await rowOf(bias, 0, C)];
        const v = await rowOf(x, R - 1, C);
        const mean = sum(v) / C;
        const rstd = 1 / Math.sqrt(sum(v.map((e) => (e - mean) ** 2)) / C + 1e-5);
        const normed = v.map((e) => (e - mean) * rstd);
        expectClose(
          "y",
          await rowOf(y, R - 1, C),
          normed.map((n, i) => n * w[i]! + b[i]!),
          tolerance.f32,
        );
        if (!grads) return;
        const g = (await rowOf(dy, R - 1, C)).map((d, i) => d * w[i]!);
        const [meanG, meanGN] = [sum(g) / C, dot(g, normed) / C];
        expectClose(
          "dx",
          await rowOf(grads[0]!, R - 1, C),
          g.map((d, i) => rstd * (d - meanG - normed[i]! * meanGN)),
          tolerance.f32,
        );
        await expectSound("dw", grads[1]!);
        expectClose("db", [(await rowOf(grads[2]!, 0, C))[0]!], [await columnSum(dy, C)], 1e-3);
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`layernorm ${R}×${C}`, setup, {
    bytes: [2 * bytes, 5 * bytes],
    sets: setsFor(bytes, sizes),
  });
}

/** Sum of column 0. */
async function columnSum(x: Tensor, cols: number): Promise<number> {
  const values = await x.data();
  let total = 0;
  for (let i = 0; i < values.length; i += cols) total += values[i]!;
  return total;
}

function crossEntropyCases([rows, classes]: readonly number[], sizes: Sizes): Case[] {
  const [R, C] = [rows!, classes!];
  const setup = () => {
    const logits = randn([R, C]);
    const labels = ids(R, C);
    const target = tensor(labels);
    return {
      leaves: [logits],
      forward: () => crossEntropy(logits, target),
      async check(loss: Tensor, grads?: readonly Tensor[]): Promise<void> {
        // normal logits: log Σ exp is about ln C + 1/2, and the mean of R targets is near 0
        const about = Math.log(C) + 0.5 - (Math.E - 1) / (2 * C);
        expectClose("loss", [(await loss.item()) - about], [0], 6 / Math.sqrt(R));
        const rows64 = 64; // a row whose first byte is a multiple of 256, whatever C
        const v = await rowOf(logits, R - rows64, C);
        const lse = Math.log(sum(v.map(Math.exp)));
        const expected = v.map((e, c) => (Math.exp(e - lse) - Number(c === labels[R - rows64])) * 1e3);
        if (grads)
          expectClose(
            "dlogits",
            (await rowOf(grads[0]!, R - rows64, C)).map((d) => d * R * 1e3),
            expected,
            1e-3,
          );
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`cross entropy ${R}×${C}`, setup, {
    bytes: [bytes, 3 * bytes],
    sets: setsFor(bytes, sizes),
  });
}

function attentionCases([batch, heads, length, dim]: readonly number[], dtype: FloatType, sizes: Sizes): Case[] {
  const shape = [batch!, heads!, length!, dim!] as const;
  const [B, H, T, D] = shape;
  const setup = () => {
    const [q, k, v, dy] = [0, 1, 2, 3].map(() => randn(shape, { dtype })) as [Tensor, Tensor, Tensor, Tensor];
    return {
      leaves: [q, k, v],
      dy,
      forward: () => scaledDotProductAttention(q, k, v, { isCausal: true }),
      async check(y: Tensor, grads?: readonly Tensor[]): Promise<void> {
        // the last query of the last head sees every key; the last key is seen by no other query
        const last = B * H * T - 1;
        const start = (B * H - 1) * T * D;
        const rows = async (x: Tensor): Promise<number[][]> => {
          const values = await part(x, start, T * D);
          return Array.from({ length: T }, (_, t) => values.slice(t * D, (t + 1) * D));
        };
        const lastOf = async (x: Tensor): Promise<number[]> => (await rows(x)).at(-1)!;
        const [keys, values, query] = [await rows(k), await rows(v), await lastOf(q)];
        const scale = 1 / Math.sqrt(D);
        const scores = keys.map((key) => Math.exp(dot(query, key) * scale));
        const p = scores.map((s) => s / sum(scores));
        const mix = (weights: readonly number[], of: number[][]): number[] =>
          query.map((_, d) => sum(weights.map((w, t) => w * of[t]![d]!)));
        expectClose(`y of query ${last}`, await lastOf(y), mix(p, values), tolerance[dtype], 0.3);
        if (!grads) return;
        const d = await lastOf(dy);
        const dp = values.map((value) => dot(d, value));
        const mean = dot(p, dp);
        const ds = p.map((w, t) => w * (dp[t]! - mean) * scale);
        expectClose("dq", await lastOf(grads[0]!), mix(ds, keys), tolerance[dtype], 0.3);
        expectClose(
          "dk",
          await lastOf(grads[1]!),
          query.map((e) => ds.at(-1)! * e),
          tolerance[dtype],
          0.3,
        );
        expectClose(
          "dv",
          await lastOf(grads[2]!),
          d.map((e) => p.at(-1)! * e),
          tolerance[dtype],
          0.3,
        );
      },
    };
  };
  const bytes = (dtype === "f16" ? 2 : 4) * B * H * T * D;
  const flops = 2 * B * H * T * T * D; // two products over half of the T × T scores
  return forwardAndBackward(`attention causal ${dtype} ${shape.join("×")}`, setup, {
    f16: dtype === "f16",
    flops: [flops, 3.5 * flops],
    sets: setsFor(3 * bytes, sizes),
  });
}

function embeddingCases([vocabulary, width, count]: readonly number[]): Case[] {
  const [V, W, N] = [vocabulary!, width!, count!];
  const setup = () => {
    const weight = randn([V, W]);
    const tokens = ids(N, V);
    const input = tensor(tokens);
    const dy = randn([N, W]);
    return {
      leaves: [weight],
      dy,
      forward: () => embedding(input, weight),
      async check(y: Tensor, grads?: readonly Tensor[]): Promise<void> {
        const id = tokens[N - 1]!;
        expectClose("y", await rowOf(y, N - 1, W), await rowOf(weight, id, W), 0);
        if (!grads) return;
        const rows = await Promise.all([...tokens.keys()].filter((i) => tokens[i] === id).map((i) => rowOf(dy, i, W)));
        expectClose(
          "dW",
          await rowOf(grads[0]!, id, W),
          rows[0]!.map((_, c) => sum(rows.map((row) => row[c]!))),
          tolerance.f32,
        );
      },
    };
  };
  const bytes = 4 * N * W;
  return forwardAndBackward(`embedding ${V}×${W}, ${N} ids`, setup, { bytes: [2 * bytes, 3 * bytes + 4 * V * W] });
}

function geluCases([rows, cols]: readonly number[], sizes: Sizes): Case[] {
  const [R, C] = [rows!, cols!];
  const setup = () => {
    const x = randn([R, C]);
    const dy = randn([R, C]);
    return {
      leaves: [x],
      dy,
      forward: () => gelu(x),
      async check(y: Tensor, grads?: readonly Tensor[]): Promise<void> {
        const v = await head(x);
        expectClose("y", await head(y), v.map(geluAt), tolerance.f32);
        if (!grads) return;
        const d = await head(dy);
        expectClose(
          "dx",
          await head(grads[0]!),
          v.map((e, i) => d[i]! * geluSlopeAt(e)),
          tolerance.f32,
        );
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`gelu ${R}×${C}`, setup, { bytes: [2 * bytes, 5 * bytes], sets: setsFor(bytes, sizes) });
}

function dropoutCases([rows, cols]: readonly number[], sizes: Sizes): Case[] {
  const [R, C] = [rows!, cols!];
  const p = 0.1;
  const setup = () => {
    const x = randn([R, C]);
    const dy = randn([R, C]);
    return {
      leaves: [x],
      dy,
      forward: () => dropout(x, p),
      async check(y: Tensor, grads?: readonly Tensor[]): Promise<void> {
        const v = await head(x);
        const out = await head(y);
        expectClose(
          "y",
          out,
          v.map((e, i) => (out[i] === 0 ? 0 : e / (1 - p))),
          tolerance.f32,
        );
        expectClose("the dropped part", [out.filter((e) => e === 0).length / out.length], [p], 0.02);
        if (!grads) return;
        const d = await head(dy);
        expectClose(
          "dx",
          await head(grads[0]!),
          d.map((e, i) => (out[i] === 0 ? 0 : e / (1 - p))),
          tolerance.f32,
        );
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`dropout ${R}×${C}`, setup, { bytes: [2 * bytes, 4 * bytes], sets: setsFor(bytes, sizes) });
}

function adamWCase(count: number, size: number): Case {
  const [lr, weightDecay] = [1e-3, 0.01];
  const setup = async () => {
    const params = Array.from({ length: count }, () => parameter(randn([size])));
    for (const p of params) p.grad = randn([size]);
    const optimizer = new AdamW(params, { lr, weightDecay });
    const before = await head(params.at(-1)!);
    return {
      step: () => {
        optimizer.step();
        return [];
      },
      async check(): Promise<void> {
        // the first step goes by the signs of the gradients
        const g = await head(params.at(-1)!.grad!);
        expectClose(
          "p",
          await head(params.at(-1)!),
          before.map((e, i) => e - lr * (weightDecay * e + Math.sign(g[i]!))),
          2e-5,
        );
      },
      dispose: () => {
        for (const p of params) {
          clearGrad(p);
          p.dispose();
        }
        optimizer.dispose();
      },
    };
  };
  return kernelCase(`adamw ${count} tensors of ${size}`, setup, { bytes: 28 * count * size, eager: true });
}
