import { type Tensor, tensor } from "@kindling/core";
import { mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import {
  type ActivationName,
  BatchNorm1d,
  BatchNorm2d,
  BatchNorm3d,
  Conv1d,
  Conv2d,
  ConvTranspose1d,
  ConvTranspose2d,
  Embedding,
  GLU,
  gelu,
  LayerNorm,
  Linear,
  MaxPool2d,
  Sequential,
} from "../src/index.ts";
import { activationOf } from "../src/names.ts";

await testDevice();
const ones = (...shape: number[]): Tensor => tensor(randomValues(shape.reduce((a, b) => a * b)), { shape });

describe("activations by name", () => {
  it("are those of PyTorch, in its spelling and ours", () => {
    const names: [ActivationName, string][] = [
      ...(["relu", "relu6", "gelu", "silu", "mish", "sigmoid", "tanh", "elu", "celu", "selu"] as const).map(
        (name): [ActivationName, string] => [name, name],
      ),
      ...([
        ["leaky_relu", "leakyRelu"],
        ["leakyRelu", "leakyRelu"],
        ["logsigmoid", "logSigmoid"],
        ["hardswish", "hardswish"],
        ["softplus", "softplus"],
        ["gelu_tanh", "geluTanh"],
        ["swish", "silu"],
      ] satisfies [ActivationName, string][]),
    ];
    for (const [name, expected] of names) expect(activationOf("x", name).name).toBe(expected);
  });

  it("are taken by every class that fuses one", () => {
    const activation = "leaky_relu";
    const modules = [
      new Linear(2, 2, { activation }),
      new Conv1d(1, 1, 1, { activation }),
      new Conv2d(1, 1, 1, { activation }),
      new ConvTranspose1d(1, 1, 1, { activation }),
      new ConvTranspose2d(1, 1, 1, { activation }),
      new BatchNorm1d(2, { activation }),
      new BatchNorm2d(2, { activation }),
      new BatchNorm3d(2, { activation }),
      new GLU({ activation }),
    ];
    for (const module of modules) expect(String(module)).toMatch(/^\w+\(.*activation=leakyRelu.*, backend=kernels\)$/);
  });

  it("compute as their values do", async () => {
    const named = new Linear(3, 4, { activation: "gelu" });
    const valued = new Linear(3, 4, { activation: gelu });
    valued.loadStateDict(named.stateDict());
    const x = ones(5, 3);
    expect(mixedError(await named.forward(x).data(), await valued.forward(x).data())).toBe(0);
    expect(new Linear(3, 4, { activation: null }).activation).toBe(null);
    expect(new Linear(3, 4).forward(x).shape).toEqual([5, 4]);
  });

  it("leave the types of a class as they are", () => {
    const x = ones(1, 1, 4, 4);
    const { output, indices } = new MaxPool2d(2, { returnIndices: true, backend: "kernels" }).forward(x);
    const pooled: Tensor = new MaxPool2d(2).forward(output);
    expect([indices.dtype, pooled.shape]).toEqual(["i32", [1, 1, 1, 1]]);
    expect(new Sequential(new MaxPool2d(2), new LayerNorm(2), new BatchNorm2d(1)).forward(x).shape).toEqual([
      1, 1, 2, 2,
    ]);
    const table = Embedding.fromPretrained(ones(3, 2));
    expect([table instanceof Embedding, String(table)]).toEqual([true, "Embedding(3, 2, backend=kernels)"]);
    // @ts-expect-error: no such option
    expect(() => new Linear(3, 4, { activation: "none" })).toThrow("Linear: activation is");
  });

  it("are listed where one is unknown", () => {
    expect(() => new Conv2d(1, 1, 1, { activation: "gleu" as "gelu" })).toThrow(
      'Conv2d: activation is "gleu", expected one of relu, relu6, squaredRelu, leakyRelu, elu,',
    );
  });
});
