/**
 * Convolution and multi-head attention in float64, of as few outputs and gradients as are asked for: the packages' references
 * compute all of them, which takes JavaScript minutes for attorch's shapes. The tests hold one against the other.
 */
import type { Values } from "./grid.ts";

type Pair = readonly [number, number];

export interface Convolution {
  /** [N, C, H, W] */
  readonly x: readonly number[];
  /** [O, C / groups, KH, KW] */
  readonly weight: readonly number[];
  readonly stride: Pair;
  readonly padding: Pair;
  readonly groups: number;
}

/** OH and OW. */
export const outputSize = ({ x, weight, stride, padding }: Convolution): Pair => {
  const along = (axis: 0 | 1): number =>
    Math.floor((x[2 + axis]! + 2 * padding[axis] - weight[2 + axis]!) / stride[axis]) + 1;
  return [along(0), along(1)];
};

/** An element of y without bias, and of each gradient, by its place. */
export function convolutionAt(
  c: Convolution,
  { x, w, dy }: { x: Values; w: Values; dy: Values },
): Record<"y" | "dx" | "dw" | "db", (at: number) => number> {
  const [N, C, H, W] = c.x as [number, number, number, number];
  const [O, I, KH, KW] = c.weight as [number, number, number, number];
  const [sh, sw] = c.stride;
  const [ph, pw] = c.padding;
  const [OH, OW] = outputSize(c);
  const [plane, outPlane, perGroup] = [H * W, OH * OW, O / c.groups];
  return {
    y(at) {
      const [oh, ow, o] = [Math.floor(at / OW) % OH, at % OW, Math.floor(at / outPlane) % O];
      const first = (Math.floor(at / outPlane / O) * C + Math.floor(o / perGroup) * I) * plane;
      let sum = 0;
      for (let i = 0; i < I; i++) {
        for (let kh = 0; kh < KH; kh++) {
          for (let kw = 0; kw < KW; kw++) {
            const [h, v] = [oh * sh + kh - ph, ow * sw + kw - pw];
            if (h < 0 || h >= H || v < 0 || v >= W) continue;
            sum += x[first + i * plane + h * W + v]! * w[((o * I + i) * KH + kh) * KW + kw]!;
          }
        }
      }
      return sum;
    },
    dx(at) {
      const [h, v, channel] = [Math.floor(at / W) % H, at % W, Math.floor(at / plane) % C];
      const [n, group, i] = [Math.floor(at / plane / C), Math.floor(channel / I), channel % I];
      let sum = 0;
      for (let o = group * perGroup; o < (group + 1) * perGroup; o++) {
        for (let kh = 0; kh < KH; kh++) {
          for (let kw = 0; kw < KW; kw++) {
            const [oh, ow] = [(h + ph - kh) / sh, (v + pw - kw) / sw];
            if (oh % 1 !== 0 || ow % 1 !== 0 || oh < 0 || oh >= OH || ow < 0 || ow >= OW) continue;
            sum += dy[(n * O + o) * outPlane + oh * OW + ow]! * w[((o * I + i) * KH + kh) * KW + kw]!;
          }
        }
      }
      return sum;
    },
    dw(at) {
      const [kh, kw, o] = [Math.floor(at / KW) % KH, at % KW, Math.floor(at / (KH * KW * I))];
      const channel = Math.floor(o / perGroup) * I + (Math.floor(at / (KH * KW)) % I);
      let sum = 0;
      for (let n = 0; n < N; n++) {
        for (let oh = 0; oh < OH; oh++) {
          const h = oh * sh + kh - ph;
          if (h < 0 || h >= H) continue;
          for (let ow = 0; ow < OW; ow++) {
            const v = ow * sw + kw - pw;
            if (v < 0 || v >= W) continue;
            sum += dy[(n * O + o) * outPlane + oh * OW + ow]! * x[(n * C + channel) * plane + h * W + v]!;
          }
        }
      }
      return sum;
    },
    db(o) {
      let sum = 0;
      for (let n = 0; n < N; n++) {
        for (let p = 0; p < outPlane; p++) sum += dy[(n * O + o) * outPlane + p]!;
      }
      return sum;
    },
  };
}

export interface Multihead {
  /** [batch, length, features]: what queries come from, and what keys and values come from. */
  readonly query: Values;
  readonly memory: Values;
  /** Weights of q, k and v [3 · features, features] and their biases. */
  readonly inWeight: Values;
  readonly inBias: Values | null;
  readonly outWeight: Values;
  readonly outBias: Values | null;
}

/**
 * Output and all gradients, given that dy is zero but for `rows` (of batch · length), which `dy` holds. A key is never
 * computed: q · Wk m = (Wkᵀ q) · m, and Σ p Wv m = Wv Σ p m. A row costs 8 · features² + 4 · heads · length · features.
 */
export function multiheadRows(
  { query, memory, inWeight, inBias, outWeight, outBias }: Multihead,
  { length, features: E, heads, causal }: { length: number; features: number; heads: number; causal: boolean },
  rows: readonly number[],
  dy: Values,
): Record<"y" | "dquery" | "dmemory" | "dinWeight" | "dinBias" | "doutWeight" | "doutBias", Float64Array> {
  const dim = E / heads;
  const scale = 1 / Math.sqrt(dim);
  const of = (n: number): Float64Array => new Float64Array(n);
  const out = {
    ...{ y: of(rows.length * E), dquery: of(query.length), dmemory: of(memory.length) },
    ...{ dinWeight: of(3 * E * E), dinBias: of(3 * E), doutWeight: of(E * E), doutBias: of(E) },
  };
  const add = (to: Float64Array, at: number, factor: number, v: Values, from: number): void => {
    for (let c = 0; c < E; c++) to[at + c]! += factor * v[from + c]!;
  };
  const dot = (a: Values, at: number, b: Values, from: number): number => {
    let sum = 0;
    for (let c = 0; c < E; c++) sum += a[at + c]! * b[from + c]!;
    return sum;
  };
  const [K, V] = [E * E, 2 * E * E];

  for (const [n, row] of rows.entries()) {
    const first = Math.floor(row / length) * length;
    const seen = causal ? (row % length) + 1 : length;
    const context = of(E);
    const dcontext = of(E);
    for (let o = 0; o < E; o++) add(dcontext, 0, dy[n * E + o]!, outWeight, o * E);
    for (let h = 0; h < heads; h++) {
      const own = Array.from({ length: dim }, (_, c) => h * dim + c);
      const q = own.map((c) => dot(inWeight, c * E, query, row * E) + (inBias?.[c] ?? 0));
      const [qK, dV] = [of(E), of(E)];
      for (const [i, c] of own.entries()) {
        add(qK, 0, scale * q[i]!, inWeight, K + c * E);
        add(dV, 0, dcontext[c]!, inWeight, V + c * E);
      }
      const p = of(seen);
      let max = Number.NEGATIVE_INFINITY;
      for (let j = 0; j < seen; j++) max = Math.max(max, (p[j] = dot(qK, 0, memory, (first + j) * E)));
      let sum = 0;
      for (let j = 0; j < seen; j++) sum += p[j] = Math.exp(p[j]! - max);
      const dp = of(seen);
      let delta = 0;
      for (let j = 0; j < seen; j++) {
        p[j]! /= sum;
        dp[j] = dot(dV, 0, memory, (first + j) * E);
        delta += p[j]! * dp[j]!;
      }
      // Σ p m and Σ ds m
      const [mean, slope] = [of(E), of(E)];
      for (let j = 0; j < seen; j++) {
        const ds = p[j]! * (dp[j]! - delta);
        add(mean, 0, p[j]!, memory, (first + j) * E);
        add(slope, 0, ds, memory, (first + j) * E);
        add(out.dmemory, (first + j) * E, ds, qK, 0);
        add(out.dmemory, (first + j) * E, p[j]!, dV, 0);
      }
      for (const [i, c] of own.entries()) {
        context[c] = dot(inWeight, V + c * E, mean, 0) + (inBias?.[2 * E + c] ?? 0);
        const dq = scale * dot(inWeight, K + c * E, slope, 0);
        add(out.dquery, row * E, dq, inWeight, c * E);
        add(out.dinWeight, c * E, dq, query, row * E);
        add(out.dinWeight, K + c * E, scale * q[i]!, slope, 0);
        add(out.dinWeight, V + c * E, dcontext[c]!, mean, 0);
        out.dinBias[c]! += dq;
        out.dinBias[2 * E + c]! += dcontext[c]!;
      }
    }
    for (let o = 0; o < E; o++) {
      out.y[n * E + o] = dot(outWeight, o * E, context, 0) + (outBias?.[o] ?? 0);
      add(out.doutWeight, o * E, dy[n * E + o]!, context, 0);
      out.doutBias[o]! += dy[n * E + o]!;
    }
  }
  return out;
}
