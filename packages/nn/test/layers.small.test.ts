import { prelu, rrelu, threshold } from "../src/layers/activations.ts";
import { AdaptiveLogSoftmaxWithLoss } from "../src/layers/adaptive-softmax.ts";
import { bilinear, cosineSimilarity, pairwiseDistance } from "../src/layers/distance.ts";
import { embeddingBag } from "../src/layers/embedding-bag.ts";
import { InstanceNorm3d, LinearCrossEntropyLoss, Softmax2d } from "../src/layers/kernels.ts";
import { localResponseNorm } from "../src/layers/normalization.ts";
import { compareWithPyTorch, type Inputs } from "./layers.ts";

/** Puts the tensors named by their path into a module. */
function assign(module: object, inputs: Inputs): void {
  for (const [path, x] of Object.entries(inputs)) {
    const keys = path.split(".");
    const last = keys.pop()!;
    if (keys.length === 0 && !(last in module)) continue;
    const owner = keys.reduce<Record<string, unknown>>((o, key) => o[key] as never, module as never);
    owner[last] = x;
  }
}

await compareWithPyTorch(
  "nn-layers",
  {
    prelu: ({ x, weight }) => prelu(x!, weight!),
    rrelu: ({ x }, options) => rrelu(x!, options),
    threshold: ({ x }, { threshold: limit, value }) => threshold(x!, limit, value),
    softmax2d: ({ x }) => new Softmax2d().forward(x!),
    bilinear: ({ x1, x2, weight, bias }) => bilinear(x1!, x2!, weight!, bias),
    cosineSimilarity: ({ x1, x2 }, options) => cosineSimilarity(x1!, x2!, options),
    pairwiseDistance: ({ x1, x2 }, options) => pairwiseDistance(x1!, x2!, options),
    localResponseNorm: ({ x }, { size, ...options }) => localResponseNorm(x!, size, options),
    instanceNorm3d: ({ x, ...affine }) => {
      const module = new InstanceNorm3d(x!.shape.at(-4)!, { affine: "weight" in affine, device: x!.device });
      assign(module, affine);
      return module.forward(x!);
    },
    embeddingBag: ({ ids, weight, perSampleWeights }, options) =>
      embeddingBag(ids!, weight!, { ...(options as object), perSampleWeights: perSampleWeights ?? null }),
    adaptiveLogSoftmax: ({ x, target, ...parameters }, { result, batch: _, ...options }) => {
      const module = new AdaptiveLogSoftmaxWithLoss(16, 12, [3, 7], { ...(options as object), device: x!.device });
      assign(module, parameters);
      if (result === "logProb") return module.logProb(x!);
      return module.forward(x!, target!)[result as "output" | "loss"];
    },
    linearCrossEntropyLoss: ({ x, target, ...parameters }, options) => {
      const module = new LinearCrossEntropyLoss(6, 7, { ...(options as object), device: x!.device });
      assign(module, parameters);
      return module.forward(x!, target!);
    },
  },
  [
    "prelu x=[2,3,5] weight=[3]",
    "f16",
    "bilinear x1=[5",
    "cosineSimilarity x1=[2,3,4] x2=[3",
    "p=3",
    "size=5",
    'mode="max"',
    'result="output"',
  ],
);
