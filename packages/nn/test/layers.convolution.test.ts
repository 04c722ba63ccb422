import { type Tensor, tensor } from "@kindling/core";
import { mixedError, randomValues } from "@kindling/core/testing";
import { expect, it } from "vitest";
import { Conv3d, ConvTranspose3d, conv3d, convTranspose3d } from "../src/layers/convolution.ts";
import { compareWithPyTorch, cpu as device } from "./layers.ts";

await compareWithPyTorch(
  "nn-convolution",
  {
    conv3d: ({ x, weight, bias }, options) => conv3d(x!, weight!, { bias: bias ?? null, ...options }),
    convTranspose3d: ({ x, weight, bias }, options) => convTranspose3d(x!, weight!, { bias: bias ?? null, ...options }),
  },
  ["stride=[2,1,3]", "stride=2", "x=[3,2,3,4]", "f16"],
);

const x: Tensor = tensor(randomValues(2 * 2 * 3 * 4 * 5), { shape: [2, 2, 3, 4, 5], device });

it("Conv3d computes conv3d with its own weight and options", async () => {
  const module = new Conv3d(2, 4, [1, 2, 3], { stride: 2, padding: 1, paddingMode: "replicate", device });
  const { weight, bias } = module;
  const expected = conv3d(x, weight, { bias, stride: 2, padding: 1, paddingMode: "replicate" });
  expect(mixedError(await module.forward(x).data(), await expected.data())).toBe(0);
  expect(`${module}`).toBe(
    "Conv3d(2, 4, kernelSize=[1,2,3], stride=[2,2,2], padding=1, dilation=[1,1,1], groups=1, bias=true, paddingMode=replicate, backend=fallback)",
  );
});

it("ConvTranspose3d takes the size of y", () => {
  const module = new ConvTranspose3d(2, 3, 3, { stride: 2, padding: 1, device });
  expect(module.forward(x).shape).toEqual([2, 3, 5, 7, 9]);
  expect(module.forward(x, [6, 7, 10]).shape).toEqual([2, 3, 6, 7, 10]);
  expect(module.forward(x, [2, 3, 5, 8, 9]).shape).toEqual([2, 3, 5, 8, 9]);
});
