import type { Tensor } from "@kindling/core";
import {
  adaptiveAvgPool3d,
  adaptiveMaxPool3d,
  avgPool3d,
  fractionalMaxPool2d,
  fractionalMaxPool3d,
  lpPool1d,
  lpPool2d,
  lpPool3d,
  maxPool3d,
  maxUnpool1d,
  maxUnpool2d,
  maxUnpool3d,
} from "../src/layers/pooling.ts";
import { compareWithPyTorch, type Inputs, type Options } from "./layers.ts";

// biome-ignore lint/suspicious/noExplicitAny: a number, or one for each axis
type LPPool = (x: Tensor, normType: number, kernelSize: any, options: object) => Tensor;
const lp =
  (pool: LPPool) =>
  ({ x }: Inputs, { normType, kernelSize, ...options }: Options): Tensor =>
    pool(x!, normType === "inf" ? Number.POSITIVE_INFINITY : normType, kernelSize, options);

await compareWithPyTorch(
  "nn-pooling",
  {
    maxPool3d: ({ x }, { kernelSize, ...options }) => maxPool3d(x!, kernelSize, { ...options, returnIndices: true }),
    avgPool3d: ({ x }, { kernelSize, ...options }) => avgPool3d(x!, kernelSize, options),
    adaptiveMaxPool3d: ({ x }, { outputSize }) => adaptiveMaxPool3d(x!, outputSize, { returnIndices: true }),
    adaptiveAvgPool3d: ({ x }, { outputSize }) => adaptiveAvgPool3d(x!, outputSize),
    maxUnpool1d: ({ x, indices }, { kernelSize, ...options }) => maxUnpool1d(x!, indices!, kernelSize, options),
    maxUnpool2d: ({ x, indices }, { kernelSize, ...options }) => maxUnpool2d(x!, indices!, kernelSize, options),
    maxUnpool3d: ({ x, indices }, { kernelSize, ...options }) => maxUnpool3d(x!, indices!, kernelSize, options),
    lpPool1d: lp(lpPool1d as LPPool),
    lpPool2d: lp(lpPool2d as LPPool),
    lpPool3d: lp(lpPool3d as LPPool),
    fractionalMaxPool2d: ({ x, randomSamples }, { kernelSize, ...options }) =>
      fractionalMaxPool2d(x!, kernelSize, {
        ...(options as object),
        randomSamples: randomSamples!,
        returnIndices: true,
      }),
    fractionalMaxPool3d: ({ x, randomSamples }, { kernelSize, ...options }) =>
      fractionalMaxPool3d(x!, kernelSize, {
        ...(options as object),
        randomSamples: randomSamples!,
        returnIndices: true,
      }),
  },
  [
    "dilation=[2,1,3]",
    "maxPool3d x=[2,2,4,5,3]",
    "avgPool3d x=[3,5,6,7]",
    "[3,4,2]",
    "maxUnpool3d x=[2,5",
    "normType=1.5",
  ],
);
