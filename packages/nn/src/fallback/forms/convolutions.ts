/** Convolutions and transposed convolutions of one and two axes. */
import type { Form, Jax, JaxArray } from "../jax.ts";
import { activate, type Named } from "./activations.ts";
import { computed, cut, type PadMode, padAxis } from "./elementwise.ts";

type Sizes = number | readonly number[];

const each = (value: Sizes | undefined, rank: number, otherwise: number): number[] =>
  typeof value === "object" ? [...value] : Array(rank).fill(value ?? otherwise);

/** [N, C, ...] for x with or without a batch; and back. */
function batched(x: JaxArray, rank: number, compute: (x: JaxArray) => JaxArray): JaxArray {
  if (x.ndim === rank + 2) return compute(x);
  const y = compute(x.reshape([1, ...x.shape]));
  return y.reshape(y.shape.slice(1));
}

const finish = (jax: Jax, y: JaxArray, rank: number, bias: JaxArray | undefined, activation: Named | null): JaxArray =>
  activate(jax, bias ? y.add(bias.reshape([1, -1, ...Array(rank).fill(1)])) : y, activation);

/** `gap` − 1 zeros between the elements of an axis. */
function spaced(jax: Jax, x: JaxArray, axis: number, gap: number): JaxArray {
  if (gap === 1) return x;
  const { shape } = x;
  const n = shape[axis]!;
  const apart = x.reshape([...shape.slice(0, axis + 1), 1, ...shape.slice(axis + 1)]);
  const filled = padAxis(jax, apart, axis + 1, [0, gap - 1], "zeros");
  return cut(filled.reshape([...shape.slice(0, axis), n * gap, ...shape.slice(axis + 1)]), axis, 0, (n - 1) * gap + 1);
}

export interface ConvSettings {
  readonly stride?: Sizes | undefined;
  readonly padding?: Sizes | "same" | "valid" | undefined;
  readonly dilation?: Sizes | undefined;
  readonly groups?: number | undefined;
  readonly paddingMode?: PadMode | undefined;
  readonly activation: Named | null;
}

/** The axes of [a, b, m1, s1, m2, s2, …] in the order a, b, s1, s2, …, m1, m2, … */
const phasesFirst = (rank: number): number[] => {
  const axes = Array.from({ length: rank }, (_, i) => 2 + 2 * i);
  return [0, 1, ...axes.map((axis) => axis + 1), ...axes];
};

/**
 * [a, b, n1, n2, …] → [a, b · s1 · s2 …, m1, m2, …]: the elements of each phase of the strides, as channels. Each axis is brought
 * to m · s elements first.
 */
function phases(jax: Jax, x: JaxArray, strides: readonly number[], counts: readonly number[]): JaxArray {
  const fitted = strides.reduce((y, s, i) => padAxis(jax, y, i + 2, [0, counts[i]! * s - y.shape[i + 2]!], "zeros"), x);
  const [a, b] = fitted.shape as [number, number];
  const product = strides.reduce((n, s) => n * s, 1);
  const split = fitted.reshape([a, b, ...strides.flatMap((s, i) => [counts[i]!, s])]);
  return computed(jax, split.transpose(phasesFirst(strides.length)).reshape([a, b * product, ...counts]));
}

/**
 * With a stride, a convolution without one of the phases of x with those of the weights: jax-js computes the gradient of its own
 * strides, which spreads an array by zeros, wrong on WebGPU.
 */
export const conv: Form<ConvSettings, JaxArray> = (jax, { x, weight, bias }, s) => {
  const taps = weight!.shape.slice(2);
  const rank = taps.length;
  const dilation = each(s.dilation, rank, 1);
  const stride = each(s.stride, rank, 1);
  const total = taps.map((k, i) => dilation[i]! * (k - 1));
  const pads = taps.map((_, i): [number, number] => {
    if (s.padding === "same") return [Math.floor(total[i]! / 2), Math.ceil(total[i]! / 2)];
    const p = s.padding === "valid" ? 0 : each(s.padding, rank, 0)[i]!;
    return [p, p];
  });
  const mode = s.paddingMode ?? "zeros";
  const strided = stride.some((n) => n > 1);
  return batched(x!, rank, (batch) => {
    const padded =
      mode === "zeros" && !strided ? batch : pads.reduce((y, p, i) => padAxis(jax, y, i + 2, p, mode), batch);
    const ones = taps.map(() => 1);
    const options = { featureGroupCount: s.groups ?? 1 };
    if (!strided) {
      const left = mode === "zeros" ? pads : pads.map((): [number, number] => [0, 0]);
      const y = jax.lax.convGeneralDilated(mode === "zeros" ? padded : computed(jax, padded), weight!, ones, left, {
        ...options,
        rhsDilation: dilation,
      });
      return finish(jax, y, rank, bias, s.activation);
    }
    const outs = total.map((t, i) => Math.floor((padded.shape[i + 2]! - t - 1) / stride[i]!) + 1);
    const lengths = total.map((t, i) => Math.ceil((t + 1) / stride[i]!));
    const cropped = total.reduce((y, t, i) => cut(y, i + 2, 0, (outs[i]! - 1) * stride[i]! + t + 1), padded);
    const kernels = dilation.reduce((w, d, i) => spaced(jax, w, i + 2, d), weight!);
    const counts = outs.map((n, i) => n - 1 + lengths[i]!);
    const [xs, ws] = [phases(jax, cropped, stride, counts), phases(jax, kernels, stride, lengths)];
    const y = jax.lax.convGeneralDilated(
      xs,
      ws,
      ones,
      ones.map(() => [0, 0]),
      options,
    );
    return finish(jax, y, rank, bias, s.activation);
  });
};

export interface ConvTransposeSettings extends Omit<ConvSettings, "padding" | "paddingMode"> {
  readonly padding?: Sizes | undefined;
  readonly outputPadding?: Sizes | undefined;
}

/** A convolution without a stride of x, which gives each phase of the outputs as channels, with weights [C, O / groups, ...]. */
export const convTranspose: Form<ConvTransposeSettings, JaxArray> = (jax, { x, weight, bias }, s) => {
  const { numpy: np } = jax;
  const [channels, outer, ...taps] = weight!.shape as [number, number, ...number[]];
  const rank = taps.length;
  const groups = s.groups ?? 1;
  const [stride, dilation] = [each(s.stride, rank, 1), each(s.dilation, rank, 1)];
  const [padding, extra] = [each(s.padding, rank, 0), each(s.outputPadding, rank, 0)];
  const spans = taps.map((k, i) => dilation[i]! * (k - 1) + 1);
  const lengths = spans.map((n, i) => Math.ceil(n / stride[i]!));
  const product = stride.reduce((n, k) => n * k, 1);
  const spread = dilation.reduce((w, d, i) => spaced(jax, w, i + 2, d), weight!);
  const flipped = np.flip(
    phases(jax, spread, stride, lengths),
    taps.map((_, i) => i + 2),
  );
  const kernels = computed(
    jax,
    flipped
      .reshape([groups, channels / groups, outer * product, ...lengths])
      .transpose([0, 2, 1, ...taps.map((_, i) => i + 3)])
      .reshape([groups * outer * product, channels / groups, ...lengths]),
  );
  return batched(x!, rank, (batch) => {
    const ones = taps.map(() => 1);
    const full = lengths.map((k): [number, number] => [k - 1, k - 1]);
    const apart = jax.lax.convGeneralDilated(batch, kernels, ones, full, { featureGroupCount: groups });
    const [images, , ...counts] = apart.shape as [number, number, ...number[]];
    const back = phasesFirst(rank).map((_, to, axes) => axes.indexOf(to));
    const joined = apart
      .reshape([images, groups * outer, ...stride, ...counts])
      .transpose(back)
      .reshape([images, groups * outer, ...counts.map((n, i) => n * stride[i]!)]);
    const y = spans.reduce((all, span, i) => {
      const out = (batch.shape[i + 2]! - 1) * stride[i]! - 2 * padding[i]! + span + extra[i]!;
      return padAxis(jax, all, i + 2, [-padding[i]!, out + padding[i]! - all.shape[i + 2]!], "zeros");
    }, joined);
    return finish(jax, y, rank, bias, s.activation);
  });
};
