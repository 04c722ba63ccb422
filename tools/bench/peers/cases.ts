/** What the libraries are compared in: Kindling's points without parameters, and how the others compute the same. */
import { noGrad, type Tensor } from "@kindling/core";
import { geluPoint } from "../layers/activations.ts";
import { conv2dFlops, conv2dPoint, conv2dTitle } from "../layers/conv2d.ts";
import { layerNormPoint } from "../layers/layernorm.ts";
import { softmaxPoint } from "../layers/softmax.ts";
import { productSubject } from "../matmul.ts";
import type { Point, Sizes, Subject } from "../measure.ts";

export type Tf = typeof import("@tensorflow/tfjs-core");
export type TfTensor = import("@tensorflow/tfjs-core").Tensor;
export type Jax = typeof import("@jax-js/jax");
export type JaxArray = import("@jax-js/jax").Array;

/** A function at one point: what Kindling does, and what the others get. */
export interface Problem extends Subject {
  readonly inputs: readonly Tensor[];
}

export interface Case {
  readonly name: string;
  readonly bytes?: number;
  readonly flops?: number;
  setup(): Problem;
  readonly tfjs: {
    readonly note?: string;
    /** Outside the time: to another layout, and back. */
    readonly enter?: (tf: Tf, inputs: readonly TfTensor[]) => TfTensor[];
    readonly run: (tf: Tf, inputs: readonly TfTensor[]) => TfTensor;
    readonly leave?: (tf: Tf, y: TfTensor) => TfTensor;
  };
  /** Compiled once. */
  readonly jax: (jax: Jax) => (...inputs: JaxArray[]) => JaxArray;
}

const problem = (point: Point, inputs: readonly Tensor[]): Problem => ({
  inputs,
  step: () => [noGrad(() => point.forward()) as Tensor],
  check: (ys) => point.check(ys, undefined),
});

const ofOne = (point: Point): Problem => problem(point, point.leaves.slice(0, 1));

export function casesOf({ peers, pointwise, conv2d }: Sizes): Case[] {
  const [R, C] = pointwise[0] as [number, number];
  const bytes = 8 * R * C;
  return [
    ...peers.squares.map(matmulCase),
    {
      ...{ name: `softmax ${R}×${C}`, bytes },
      setup: () => ofOne(softmaxPoint("softmax", [R, C], -1)),
      tfjs: { run: (tf, [x]) => tf.softmax(x!) },
      jax: ({ jit, nn }) => jit((x: JaxArray) => nn.softmax(x, -1)),
    },
    {
      ...{ name: `gelu ${R}×${C}`, bytes },
      setup: () => ofOne(geluPoint([R, C], "f32", 0)),
      tfjs: {
        note: "composed of five kernels",
        run: (tf, [x]) => tf.mul(tf.mul(x!, 0.5), tf.add(tf.erf(tf.mul(x!, Math.SQRT1_2)), 1)),
      },
      jax: ({ jit, nn }) => jit((x: JaxArray) => nn.gelu(x, { approximate: false })),
    },
    {
      ...{ name: `standardised rows ${R}×${C}`, bytes },
      setup: () => ofOne(layerNormPoint(R, C, false)),
      tfjs: {
        note: "composed of moments and four kernels",
        run(tf, [x]) {
          const { mean, variance } = tf.moments(x!, -1, true);
          return tf.mul(tf.sub(x!, mean), tf.rsqrt(tf.add(variance, 1e-5)));
        },
      },
      jax: ({ jit, nn }) => jit((x: JaxArray) => nn.standardize(x, -1)),
    },
    conv2dCase(conv2d[0]!),
  ];
}

function matmulCase(n: number): Case {
  return {
    ...{ name: `matmul f32 ${n}³`, flops: 2 * n ** 3 },
    setup() {
      const { a, b, ...subject } = productSubject("f32", "nn", [n, n, n]);
      return { inputs: [a, b], ...subject };
    },
    tfjs: { run: (tf, [a, b]) => tf.matMul(a!, b!) },
    jax: ({ jit, numpy }) => jit((a: JaxArray, b: JaxArray) => numpy.matmul(a, b)),
  };
}

function conv2dCase(size: Sizes["conv2d"][number]): Case {
  const { stride, padding } = size;
  return {
    ...{ name: `${conv2dTitle(size, "f32")} without bias`, flops: conv2dFlops(size) },
    setup() {
      const point = conv2dPoint(size, "f32", false);
      return problem(point, point.leaves);
    },
    tfjs: {
      note: "channels last",
      enter: (tf, [x, w]) => [tf.transpose(x!, [0, 2, 3, 1]), tf.transpose(w!, [2, 3, 1, 0])],
      run: (tf, [x, w]) => tf.conv2d(x as import("@tensorflow/tfjs-core").Tensor4D, w as never, stride, padding),
      leave: (tf, y) => tf.transpose(y, [0, 3, 1, 2]),
    },
    jax: ({ jit, lax }) =>
      jit((x: JaxArray, w: JaxArray) =>
        lax.convGeneralDilated(
          x,
          w,
          [stride, stride],
          [
            [padding, padding],
            [padding, padding],
          ],
        ),
      ),
  };
}
