import { Module, memory, type Tensor, tensor } from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import {
  BatchNorm2d,
  Conv2d,
  Embedding,
  Flatten,
  Linear,
  MultiheadAttention,
  parameterCount,
  ReLU,
  Residual,
  Sequential,
  summary,
} from "../src/index.ts";

const device = await testDevice();

const model = () =>
  new Sequential(
    new Conv2d(1, 4, 3, { padding: 1 }),
    new BatchNorm2d(4),
    new ReLU(),
    new Flatten(),
    new Linear(64, 10),
  );

describe("summary", () => {
  it("lists modules, shapes and parameters", () => {
    const net = model();
    net.at(0).requiresGrad_(false);
    const { rows, parameters, trainable, bytes } = summary(net, [2, 1, 4, 4]);
    expect(rows.map(({ path, layer, outputShape, parameters }) => [path, layer, outputShape, parameters])).toEqual([
      ["", "Sequential", [2, 10], 0],
      ["0", "Conv2d", [2, 4, 4, 4], 40],
      ["1", "BatchNorm2d", [2, 4, 4, 4], 8],
      ["2", "ReLU", [2, 4, 4, 4], 0],
      ["3", "Flatten", [2, 64], 0],
      ["4", "Linear", [2, 10], 650],
    ]);
    expect([parameters, trainable, bytes]).toEqual([698, 658, 4 * (698 + 4 + 4 + 1)]);
    expect([parameterCount(net), parameterCount(net, { trainableOnly: true })]).toEqual([698, 658]);
  });

  it("is a table", () => {
    const net = new Sequential(new Linear(3, 1000), new Residual(new ReLU()));
    const rule = "─".repeat(39);
    expect(String(summary(net, [[7, 3]]))).toBe(
      [
        "layer             output     parameters",
        rule,
        "Sequential        [7, 1000]",
        "  0: Linear       [7, 1000]       4,000",
        "  1: Residual     [7, 1000]",
        "    module: ReLU  [7, 1000]",
        rule,
        "parameters: 4,000, trainable: 4,000, 16.0 kB",
      ].join("\n"),
    );
  });

  it("leaves the model as it was", async () => {
    const net = model();
    const before = { ...memory(device) };
    summary(net, [2, 1, 4, 4]);
    expect(memory(device)).toMatchObject({ tensors: before.tensors, bytes: before.bytes });
    expect(net.training && net.at(1).training).toBe(true);
    expect(await (net.at(1) as BatchNorm2d).num_batches_tracked!.item()).toBe(0);
    expect(Object.hasOwn(net.at(0), "forward")).toBe(false);
    expect(() => summary(net, [2, 3, 4, 4])).toThrow("conv2d");
    expect([Object.hasOwn(net.at(0), "forward"), net.training]).toEqual([false, true]);
  });

  it("takes several inputs, tensors, dtypes, and counts shared parameters once", () => {
    class Tied extends Module {
      readonly embed: Embedding;
      readonly head: Linear;
      readonly attention: MultiheadAttention;
      constructor() {
        super();
        this.embed = new Embedding(7, 4);
        this.head = new Linear(4, 7, { bias: false });
        (this.head as { weight: Tensor }).weight = this.embed.weight;
        this.attention = new MultiheadAttention(4, 2);
      }
      forward(ids: Tensor, memory: Tensor): Tensor {
        return this.head.forward(
          this.attention.forward(this.embed.forward(ids), memory, memory, { needWeights: true }).output,
        );
      }
    }
    const tied = new Tied();
    const shapes = [
      [5, 2],
      [3, 2, 4],
    ];
    const { rows, parameters } = summary(tied, shapes, { dtype: ["i32", "f32"] });
    const ids = tensor(new Int32Array(10), { shape: [5, 2] });
    expect(summary(tied, [ids, [3, 2, 4]]).rows).toEqual(rows);
    expect(rows.map(({ path, outputShape, parameters }) => [path, outputShape, parameters])).toEqual([
      ["", [5, 2, 7], 0],
      ["embed", [5, 2, 4], 28],
      ["head", [5, 2, 7], 0],
      ["attention", [5, 2, 4], 60],
      ["attention.out_proj", [5, 2, 4], 20],
    ]);
    expect(parameters).toBe(28 + 80);
    expect(() => summary(tied, 3 as never)).toThrow("summary: inputs are 3, expected a shape, a tensor, or several");
  });
});
