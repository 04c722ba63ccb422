import { type AttentionOptions, MultiheadAttention, rotary, scaledDotProductAttention } from "@kindling/attention";
import { autocast, clearGrad, type FloatType, randn, type Tensor, tensor } from "@kindling/core";
import { columnOf, dot, expectClose, expectSound, part, rowOf, softmaxOf, sum, tolerance } from "../checks.ts";
import {
  type Case,
  floats,
  forwardAndBackward,
  type Point,
  precision,
  type Sizes,
  setsFor,
  times,
} from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => [
  ...sizes.attention.flatMap((shape) => floats.flatMap((dtype) => attentionCases(plain, shape, dtype, sizes))),
  ...sizes.attentionF16.flatMap((shape) => attentionCases(plain, shape, "f16", sizes)),
  ...sizes.attentionVariants.flatMap(({ shape, window, kvHeads }) =>
    [withDropout, withWindow(window), withMask, withGroups(kvHeads)].flatMap((variant) =>
      floats.flatMap((dtype) => attentionCases(variant, shape, dtype, sizes)),
    ),
  ),
  ...sizes.multiheadAttention.flatMap((shape) => floats.flatMap((dtype) => multiheadCases(shape, dtype))),
  ...sizes.rotary.flatMap((shape) => floats.flatMap((dtype) => rotaryCases(shape, dtype, sizes))),
];

/** What each query sees, and how it is asked for. In all of them the last key is seen by the last query alone. */
interface Variant {
  readonly name: string;
  readonly options: (length: number) => AttentionOptions;
  /** Whether the last of `length` queries sees a key. */
  readonly sees: (key: number, length: number) => boolean;
  /** Default: q's. */
  readonly kvHeads?: number;
  readonly dropout?: number;
  /** The part of all scores that count. */
  readonly density: (length: number) => number;
}

const always = (): boolean => true;
const half = (): number => 1 / 2;

const plain: Variant = { name: "attention causal", options: () => ({ isCausal: true }), sees: always, density: half };

const withDropout: Variant = {
  ...{ name: "attention causal dropout", sees: always, density: half, dropout: 0.1 },
  options: () => ({ isCausal: true, dropout: 0.1 }),
};

const withWindow = (window: number): Variant => ({
  name: `attention causal window ${window}`,
  options: () => ({ isCausal: true, window }),
  sees: (key, length) => key > length - 1 - window,
  density: (length) => Math.min(window, length) / length,
});

const withGroups = (kvHeads: number): Variant => ({
  ...{ name: `attention causal gqa ${kvHeads}`, kvHeads, sees: always, density: half },
  options: () => ({ isCausal: true, enableGqa: true }),
});

/** A boolean mask: the earlier positions but every eighth, so that no query sees nothing. */
const maskAt = (query: number, key: number): boolean => key <= query && (key === query || (query + key) % 8 !== 7);
const withMask: Variant = {
  name: "attention mask",
  options: (length) => ({
    attnMask: tensor(
      Uint8Array.from({ length: length * length }, (_, i) => Number(maskAt(Math.floor(i / length), i % length))),
      { shape: [length, length] },
    ),
  }),
  sees: (key, length) => maskAt(length - 1, key),
  density: () => 1,
};

function attentionCases(variant: Variant, shape: readonly number[], dtype: FloatType, sizes: Sizes): Case[] {
  const { dropout = 0 } = variant;
  const [B, H, T, D] = shape as [number, number, number, number];
  const G = variant.kvHeads ?? H;
  const setup = (): Point => {
    const [q, dy] = [randn(shape, { dtype }), randn(shape, { dtype })];
    const [k, v] = [randn([B, G, T, D], { dtype }), randn([B, G, T, D], { dtype })];
    const options = variant.options(T);
    return {
      leaves: [q, k, v],
      dy,
      forward: () => scaledDotProductAttention(q, k, v, options),
      async check([y], grads) {
        const limit = tolerance[dtype];
        /** The last query's row of a head, counted from the last one. */
        const rowsOf = (x: Tensor): Promise<number[][]> =>
          Promise.all(Array.from({ length: H / G }, (_, head) => rowOf(x, B * H * T - 1 - head * T, D)));
        const all = async (x: Tensor): Promise<number[][]> => {
          const values = await part(x, x.size - T * D, T * D);
          return Array.from({ length: T }, (_, t) => values.slice(t * D, (t + 1) * D));
        };
        const [keys, values] = [await all(k), await all(v)];
        const [queries, outputs, slopes] = [await rowsOf(q), await rowsOf(y!), await rowsOf(dy)];
        const mix = (weights: readonly number[], of: number[][]): number[] =>
          of[0]!.map((_, d) => sum(weights.map((w, t) => w * of[t]![d]!)));
        const scale = 1 / Math.sqrt(D);
        const dk = new Array<number>(D).fill(0);
        const dv = new Array<number>(D).fill(0);
        for (const [head, query] of queries.entries()) {
          const scores = keys.map((key, t) =>
            variant.sees(t, T) ? dot(query, key) * scale : Number.NEGATIVE_INFINITY,
          );
          const p = softmaxOf(scores);
          const expected = mix(p, values);
          if (dropout > 0) {
            // the mean over all masks is the value without; six deviations from it are too far
            const far = mix(
              p.map((w) => w ** 2),
              values.map((row) => row.map((e) => e ** 2)),
            ).map((e) => 6 * Math.sqrt((e * dropout) / (1 - dropout)));
            const deviations = outputs[head]!.map((e, d) => (e - expected[d]!) / far[d]!);
            expectClose(
              `y of head ${H - 1 - head}, in units of what dropout may change`,
              deviations,
              deviations.map(() => 0),
              1,
            );
            if (deviations.every((e) => Math.abs(e) < 1e-3)) throw new Error("nothing was dropped");
          } else expectClose(`y of head ${H - 1 - head}`, outputs[head]!, expected, limit, 0.3);
          if (!grads || dropout > 0) continue;
          const d = slopes[head]!;
          const dp = values.map((value) => dot(d, value));
          const mean = dot(p, dp);
          const ds = p.map((w, t) => w * (dp[t]! - mean) * scale);
          const dq = (await rowsOf(grads[0]!))[head]!;
          expectClose(`dq of head ${H - 1 - head}`, dq, mix(ds, keys), limit, 0.3);
          for (let i = 0; i < D; i++) {
            dk[i]! += ds.at(-1)! * query[i]!;
            dv[i]! += p.at(-1)! * d[i]!;
          }
        }
        if (!grads) return;
        if (dropout > 0) {
          for (const [i, x] of grads.entries()) await expectSound(["dq", "dk", "dv"][i]!, x);
          return;
        }
        expectClose("dk", await rowOf(grads[1]!, B * G * T - 1, D), dk, limit, 0.3);
        expectClose("dv", await rowOf(grads[2]!, B * G * T - 1, D), dv, limit, 0.3);
      },
    };
  };
  const bytes = (dtype === "f16" ? 2 : 4) * B * H * T * D;
  const flops = 4 * B * H * T * T * D * variant.density(T); // two products
  return forwardAndBackward(`${variant.name} ${dtype} ${times(shape)}`, setup, {
    f16: dtype === "f16",
    flops: [flops, 3.5 * flops],
    sets: setsFor(3 * bytes, sizes),
  });
}

/** Self-attention with its projections. f16 is autocast. */
function multiheadCases([batch, length, width, heads]: readonly number[], dtype: FloatType): Case[] {
  const [N, T, E, H] = [batch!, length!, width!, heads!];
  const D = E / H;
  const setup = (): Point => {
    const x = randn([N, T, E]);
    const dy = randn([N, T, E], { dtype });
    const layer = new MultiheadAttention(E, H, { batchFirst: true });
    const named = new Map(layer.namedParameters());
    return {
      leaves: [x, ...named.values()],
      dy,
      forward: () => autocast(dtype, () => layer.forward(x, x, x, { needWeights: false })),
      async check([y], grads) {
        const [inW, inB, outW, outB] = (await Promise.all(
          ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"].map((name) => named.get(name)!.data()),
        )) as [Float32Array, Float32Array, Float32Array, Float32Array];
        const rows = await part(x, (N - 1) * T * E, T * E);
        const tokens = Array.from({ length: T }, (_, t) => rows.slice(t * E, (t + 1) * E));
        const rowAt = (i: number): number[] => Array.from(inW.subarray(i * E, (i + 1) * E));
        const concatenated: number[] = [];
        for (let h = 0; h < H; h++) {
          const at = (projection: number, d: number): number => projection * E + h * D + d;
          const query = Array.from({ length: D }, (_, d) => dot(rowAt(at(0, d)), tokens.at(-1)!) + inB[at(0, d)]!);
          // q · (Wk x + bk) = (qᵀ Wk) · x + q · bk, and Σ p (Wv x + bv) = Wv Σ p x + bv
          const towards = new Array<number>(E).fill(0);
          for (const [d, e] of query.entries()) for (const [i, w] of rowAt(at(1, d)).entries()) towards[i]! += e * w;
          const constant = sum(query.map((e, d) => e * inB[at(1, d)]!));
          const p = softmaxOf(tokens.map((token) => (dot(towards, token) + constant) / Math.sqrt(D)));
          const mixed = new Array<number>(E).fill(0);
          for (const [t, token] of tokens.entries()) for (let i = 0; i < E; i++) mixed[i]! += p[t]! * token[i]!;
          for (let d = 0; d < D; d++) concatenated.push(dot(rowAt(at(2, d)), mixed) + inB[at(2, d)]!);
        }
        const expected = Array.from(
          outB,
          (b, i) => b + dot(Array.from(outW.subarray(i * E, (i + 1) * E)), concatenated),
        );
        expectClose("y", await rowOf(y!, N * T - 1, E), expected, tolerance[dtype], 0.3);
        if (!grads) return;
        const names = ["x", ...named.keys()];
        for (const [i, g] of grads.entries()) await expectSound(`the gradient of ${names[i]}`, g);
        const bias = grads[names.indexOf("out_proj.bias")]!;
        expectClose("db", await rowOf(bias, 0, 1), [sum(await columnOf(dy, E))], tolerance[dtype], Math.sqrt(N * T));
      },
      dispose() {
        for (const p of named.values()) {
          clearGrad(p);
          p.dispose();
        }
      },
    };
  };
  const [projections, scores] = [8 * N * T * E * E, 4 * N * T * T * E];
  return forwardAndBackward(`multihead attention ${precision(dtype)} ${times([N, T, E])}, ${H} heads`, setup, {
    f16: dtype === "f16",
    flops: [projections + scores, 3 * projections + 3.5 * scores],
  });
}

function rotaryCases(shape: readonly number[], dtype: FloatType, sizes: Sizes): Case[] {
  const [B, H, T, D] = shape as [number, number, number, number];
  const setup = (): Point => {
    const [x, dy] = [randn(shape, { dtype }), randn(shape, { dtype })];
    /** The last position's row, turned. */
    const turned = async (t: Tensor, sign: 1 | -1): Promise<number[]> => {
      const row = await rowOf(t, B * H * T - 1, D);
      return row.map((e, i) => {
        const angle = (T - 1) * 10000 ** ((-2 * (i % (D / 2))) / D);
        const other = i < D / 2 ? -row[i + D / 2]! : row[i - D / 2]!;
        return e * Math.cos(angle) + sign * other * Math.sin(angle);
      });
    };
    return {
      leaves: [x],
      dy,
      forward: () => rotary(x),
      async check([y], grads) {
        expectClose("y", await rowOf(y!, B * H * T - 1, D), await turned(x, 1), tolerance[dtype]);
        if (grads) expectClose("dx", await rowOf(grads[0]!, B * H * T - 1, D), await turned(dy, -1), tolerance[dtype]);
      },
    };
  };
  const bytes = (dtype === "f16" ? 2 : 4) * B * H * T * D;
  return forwardAndBackward(`rotary ${dtype} ${times(shape)}`, setup, {
    f16: dtype === "f16",
    bytes: [2 * bytes, 4 * bytes],
    sets: setsFor(bytes, sizes),
  });
}
