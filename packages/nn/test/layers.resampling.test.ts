import { channelShuffle, fold, interpolate, pixelShuffle, pixelUnshuffle, unfold } from "../src/layers/resampling.ts";
import { compareWithPyTorch } from "./layers.ts";

await compareWithPyTorch(
  "nn-resampling",
  {
    interpolate: ({ x }, options) => interpolate(x!, options),
    pixelShuffle: ({ x }, { upscaleFactor }) => pixelShuffle(x!, upscaleFactor),
    pixelUnshuffle: ({ x }, { downscaleFactor }) => pixelUnshuffle(x!, downscaleFactor),
    channelShuffle: ({ x }, { groups }) => channelShuffle(x!, groups),
    unfold: ({ x }, { kernelSize, ...options }) => unfold(x!, kernelSize, options),
    fold: ({ x }, { outputSize, kernelSize, ...options }) => fold(x!, outputSize, kernelSize, options),
  },
  [
    'mode="bicubic" alignCorners=false',
    "dtype",
    "[0.7]",
    "interpolate x=[2,3,5]",
    "Shuffle x=[2,12",
    "fold x=[2,7,6]",
    "fold x=[8,21]",
  ],
);
