/** What the fixtures of the layers beside do not show: parameters, errors, randomness, long sequences, names. */
import { autocast, Module, manualSeed, type Tensor, tensor, zeros } from "@kindling/core";
import { mixedError, randomValues } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import * as nn from "../src/index.ts";
import { cpu as device, gpu, messageOf } from "./layers.ts";
import { torchNames } from "./torch-nn.ts";

const random = (...shape: number[]): Tensor =>
  tensor(randomValues(shape.reduce((a, b) => a * b, 1)), { shape, device, requiresGrad: true });
const ids = (values: number[], shape: number[] = [values.length]): Tensor =>
  tensor(Int32Array.from(values), { shape, device });

const keys = (module: Module): string[] =>
  Object.entries(module.stateDict()).map(([name, x]) => `${name} [${x.shape}]`);

describe("torch.nn's names", () => {
  const exported = nn as unknown as Record<string, unknown>;
  it.each(Object.entries(torchNames))("%s: %s", (name, kind) => {
    if (name === "Module") return expect(Module.name).toBe(name);
    expect(typeof exported[name], `@kindling/nn exports ${name}`).toBe("function");
    const Class = exported[name] as new () => unknown;
    expect(Class.name).toBe(name);
    const fails = messageOf(() => new Class()).startsWith(`${name}: @kindling/nn does not have it.`);
    expect(fails).toBe(kind === "missing");
  });

  it("says what is missing and where to ask", () => {
    expect(messageOf(() => new nn.LazyLinear(3))).toBe(
      "LazyLinear: @kindling/nn does not have it. Give its counterpart without Lazy the number of inputs. If you need it, ask for it on the issues page of Kindling.",
    );
  });
});

describe("state dicts are PyTorch's", () => {
  it.each([
    ["Conv3d", new nn.Conv3d(4, 6, 2, { groups: 2, device }), ["weight [6,2,2,2,2]", "bias [6]"]],
    ["ConvTranspose3d", new nn.ConvTranspose3d(4, 6, 2, { groups: 2, bias: false, device }), ["weight [4,3,2,2,2]"]],
    ["GRU", new nn.GRU(3, 4, { bias: false, device }), ["weight_ih_l0 [12,3]", "weight_hh_l0 [12,4]"]],
    [
      "LSTM",
      new nn.LSTM(3, 4, { numLayers: 2, bidirectional: true, projSize: 2, device }),
      ["l0", "l0_reverse", "l1", "l1_reverse"].flatMap((l, i) => [
        `weight_ih_${l} [16,${i < 2 ? 3 : 4}]`,
        ...[`weight_hh_${l} [16,2]`, `bias_ih_${l} [16]`, `bias_hh_${l} [16]`, `weight_hr_${l} [2,4]`],
      ]),
    ],
    [
      "LSTMCell",
      new nn.LSTMCell(3, 4, { device }),
      ["weight_ih [16,3]", "weight_hh [16,4]", "bias_ih [16]", "bias_hh [16]"],
    ],
    ["Bilinear", new nn.Bilinear(2, 3, 4, { device }), ["weight [4,2,3]", "bias [4]"]],
    ["PReLU", new nn.PReLU({ numParameters: 3, device }), ["weight [3]"]],
    ["EmbeddingBag", new nn.EmbeddingBag(5, 2, { device }), ["weight [5,2]"]],
    [
      "LinearCrossEntropyLoss",
      new nn.LinearCrossEntropyLoss(3, 4, { bias: true, device }),
      ["linear.weight [4,3]", "linear.bias [4]"],
    ],
    [
      "AdaptiveLogSoftmaxWithLoss",
      new nn.AdaptiveLogSoftmaxWithLoss(16, 12, [3, 7], { headBias: true, device }),
      [
        ...["head.weight [5,16]", "head.bias [5]", "tail.0.0.weight [4,16]", "tail.0.1.weight [4,4]"],
        ...["tail.1.0.weight [1,16]", "tail.1.1.weight [5,1]"],
      ],
    ],
  ] as [string, Module, string[]][])("%s", (_, module, expected) => {
    expect(keys(module)).toEqual(expected);
  });

  it("starts where PyTorch starts", async () => {
    manualSeed(3, device);
    const spread = async (x: Tensor): Promise<number> => Math.max(...(await x.data()).map(Math.abs));
    const near = (value: number, bound: number): void => {
      expect(value).toBeLessThanOrEqual(bound);
      expect(value).toBeGreaterThan(0.9 * bound);
    };
    near(await spread(new nn.Conv3d(4, 16, 3, { device }).weight), 1 / Math.sqrt(108));
    near(await spread(new nn.Bilinear(16, 8, 9, { device }).weight), 0.25);
    near(await spread((new nn.GRU(5, 25, { device }) as unknown as { weight_hh_l0: Tensor }).weight_hh_l0), 0.2);
    expect(await new nn.PReLU({ numParameters: 2, device }).weight.data()).toEqual(Float32Array.of(0.25, 0.25));
    const bag = await new nn.EmbeddingBag(5, 2, { paddingIdx: 1, device }).weight.data();
    expect([...bag.slice(2, 4)]).toEqual([0, 0]);
  });
});

describe("errors come before any work", () => {
  const x = random(2, 4, 3, 3, 3);
  it.each([
    [
      () => nn.conv3d(x, random(4, 3, 1, 1, 1)),
      "conv3d: x has shape [2,4,3,3,3], expected 3 channels for weight [4,3,1,1,1] in 1 groups",
    ],
    [
      () => nn.conv3d(x, random(4, 4, 9, 1, 1)),
      "conv3d: x has shape [2,4,3,3,3], smaller with its padding than the window of weight [4,4,9,1,1]",
    ],
    [
      () => new nn.Conv3d(3, 4, 1, { groups: 2, device }),
      "Conv3d: groups is 2, expected a divisor of 3 and 4 channels",
    ],
    [() => new nn.Conv3d(3, 4, [1, 2], { device }), "Conv3d: kernelSize: got [1,2], expected 1 or 3 whole numbers ≥ 1"],
    [
      () => new nn.Conv3d(3, 4, 2, { stride: 2, padding: "same", device }),
      'Conv3d: padding is "same", expected stride 1, got [2,2,2]',
    ],
    [
      () => new nn.ConvTranspose3d(4, 2, 2, { stride: 2, device }).forward(x, [9, 9, 9]),
      "ConvTranspose3d: outputSize is [9,9,9], expected from [6,6,6] to [7,7,7] for x [2,4,3,3,3]",
    ],
    [
      () => nn.maxPool3d(x, 2, { padding: 2 }),
      "maxPool3d: padding is [2,2,2], expected at most half of kernelSize [2,2,2]",
    ],
    [() => nn.avgPool3d(x, 2, { divisorOverride: 0 }), "avgPool3d: divisorOverride is 0, expected another number"],
    [() => nn.maxPool3d(random(2, 3), 2), "maxPool3d: x has shape [2,3], expected [N, C, D, H, W] or [C, D, H, W]"],
    [() => nn.maxUnpool2d(random(1, 2, 2), random(1, 2, 2), 2), "maxUnpool2d: indices is f32, expected i32 or u32"],
    [
      () => nn.fractionalMaxPool2d(random(1, 5, 5), 2, {}),
      "fractionalMaxPool2d: expected outputSize or outputRatio, one of them",
    ],
    [() => nn.interpolate(x, {}), "interpolate: expected size or scaleFactor, one of them"],
    [
      () => nn.interpolate(x, { size: 4, mode: "bilinear" }),
      'interpolate: mode "bilinear" is for 2 axes of space, x has shape [2,4,3,3,3]',
    ],
    [
      () => nn.interpolate(x, { size: 4, alignCorners: true }),
      'interpolate: alignCorners is true, which mode "nearest" does not have',
    ],
    [
      () => new nn.Upsample({ scaleFactor: 2, mode: "cubic" as never }),
      'Upsample: mode: got "cubic", expected "nearest", "nearest-exact", "area", "linear", "bilinear", "bicubic", "trilinear"',
    ],
    [
      () => nn.pixelShuffle(x, 3),
      "pixelShuffle: x has shape [2,4,3,3,3], expected a multiple of 9 channels for upscaleFactor 3",
    ],
    [() => nn.fold(random(1, 4, 5), 4, 2), "fold: x has shape [1,4,5], expected [N, C·4, 9] or [C·4, 9]"],
    [
      () => new nn.LSTM(3, 4, { device }).forward(random(2, 5)),
      "LSTM: x has shape [2,5], expected [L, N, 3] or [L, 3]",
    ],
    [
      () => new nn.GRU(3, 4, { device }).forward(random(2, 5, 3), random(1, 5, 3)),
      "GRU: h has shape [1,5,3], expected [1,5,4]",
    ],
    [() => new nn.LSTM(3, 4, { projSize: 4, device }), "LSTM: projSize is 4, expected less than hiddenSize 4"],
    [
      () => new nn.GRUCell(3, 4, { device }).forward(random(2, 5)),
      "GRUCell: x has shape [2,5], expected [N, 3] or [3]",
    ],
    [() => nn.bilinear(random(2, 3), random(2, 4), random(5, 3, 3)), "bilinear: x2 has shape [2,4], expected [2,3]"],
    [
      () => nn.cosineSimilarity(random(2, 3), random(4, 3)),
      "cosineSimilarity: x1 has shape [2,3] and x2 [4,3], expected shapes that broadcast",
    ],
    [
      () => nn.prelu(random(2, 3), random(2)),
      "prelu: weight has shape [2], expected [1] or [3], one for each channel of x [2,3]",
    ],
    [() => nn.rrelu(x, { lower: 1, upper: 0 }), "rrelu: lower is 1 and upper 0, expected lower ≤ upper"],
    [
      () => nn.embeddingBag(ids([1, 2]), random(3, 2)),
      "embeddingBag: ids has shape [2], expected [bags, L] without offsets",
    ],
    [
      () => nn.embeddingBag(ids([1, 2]), random(3, 2), { offsets: [0, 3] }),
      "embeddingBag: offsets is [0,3], expected rising numbers from 0 to at most 2",
    ],
    [() => nn.dropout3d(x, 2), "dropout3d: p is 2, expected a probability from 0 to 1"],
    [
      () => nn.marginRankingLoss(random(2), random(2), random(3)),
      "marginRankingLoss: x1 has shape [2], x2 has shape [2], target has shape [3], expected shapes that broadcast",
    ],
    [
      () => nn.softMarginLoss(x, x, { reduction: "max" as never }),
      'softMarginLoss: reduction: got "max", expected "none", "mean", "sum"',
    ],
    [
      () => nn.gaussianNLLLoss(random(2, 3), random(2, 3), random(3)),
      "gaussianNLLLoss: variance has shape [3], expected [2,3], [2] or [2,1]",
    ],
    [() => nn.multiMarginLoss(random(2, 3), ids([1])), "multiMarginLoss: target has shape [1], expected [2]"],
    [() => nn.tripletMarginLoss(x, x, x, { margin: 0 }), "tripletMarginLoss: margin is 0, expected a number > 0"],
    [
      () => nn.ctcLoss(random(4, 2, 3), ids([1, 2], [2, 1]), [5, 4], [1, 1]),
      "ctcLoss: inputLengths is [5,4], expected 2 whole numbers from 0 to 4",
    ],
    [
      () => nn.ctcLoss(random(4, 2, 3), ids([1, 2], [2, 1]), [4, 4], [1, 1], { blank: 3 }),
      "ctcLoss: blank is 3, expected a class from 0 to 2",
    ],
    [
      () => new nn.AdaptiveLogSoftmaxWithLoss(8, 5, [3, 2], { device }),
      "AdaptiveLogSoftmaxWithLoss: cutoffs is [3,2], expected rising whole numbers from 1 to 4",
    ],
  ] as [() => unknown, string][])("%#: %s", (fn, message) => {
    expect(messageOf(fn)).toBe(message);
  });
});

describe("dropout", () => {
  const ones = tensor(new Float32Array(40 * 50 * 6).fill(1), { shape: [40, 50, 2, 3], device });

  it("drops whole channels with probability p, others in backward too", async () => {
    manualSeed(5, device);
    const x = tensor(new Float32Array(12000).fill(1), { shape: [40, 50, 2, 3], device, requiresGrad: true });
    const y = new nn.Dropout2d(0.25).forward(x);
    const values = [...(await y.data())];
    const channels = Array.from({ length: 2000 }, (_, i) => values.slice(6 * i, 6 * i + 6));
    expect(channels.every((c) => c.every((v) => v === c[0]!))).toBe(true);
    const kept = channels.filter(([v]) => v !== 0);
    expect(kept[0]![0]).toBeCloseTo(4 / 3, 6);
    expect(kept.length / 2000).toBeGreaterThan(0.71);
    expect(kept.length / 2000).toBeLessThan(0.79);
    y.backward(ones);
    expect([...(await x.grad!.data())]).toEqual(values);
  });

  it("does nothing in eval, everything at p 1", async () => {
    expect(new nn.Dropout1d(0.5).eval().forward(random(2, 3, 4)).requiresGrad).toBe(true);
    const x = random(2, 3, 4);
    expect(new nn.Dropout1d(0.5).eval().forward(x)).toBe(x);
    for (const drop of [new nn.Dropout1d(1), new nn.AlphaDropout(1), new nn.FeatureAlphaDropout(1)])
      expect(Math.max(...(await drop.forward(x).data()).map(Math.abs))).toBe(0);
  });

  it("alpha dropout keeps mean and variance", async () => {
    manualSeed(6, device);
    const x = nn.init.normal(zeros([20000], { device }));
    const y = [...(await nn.alphaDropout(x, 0.3).data())];
    const mean = y.reduce((a, b) => a + b, 0) / y.length;
    const variance = y.reduce((a, b) => a + (b - mean) ** 2, 0) / y.length;
    expect(Math.abs(mean)).toBeLessThan(0.05);
    expect(Math.abs(variance - 1)).toBeLessThan(0.06);
    const channels = await nn.featureAlphaDropout(ones, 0.5).data();
    expect(new Set(channels).size).toBe(2);
  });

  it("rrelu draws slopes between lower and upper while training", async () => {
    const y = await new nn.RReLU({ lower: 0.2, upper: 0.4 })
      .forward(tensor(new Float32Array(500).fill(-1), { device }))
      .data();
    expect(Math.min(...y)).toBeGreaterThanOrEqual(-0.4);
    expect(Math.max(...y)).toBeLessThanOrEqual(-0.2);
    expect(new Set(y).size).toBeGreaterThan(400);
  });

  it("of an LSTM is between its layers, and in training alone", async () => {
    const lstm = new nn.LSTM(3, 4, { numLayers: 2, dropout: 0.5, device });
    const x = random(5, 2, 3);
    const outputs = async (): Promise<number[]> => [...(await lstm.forward(x).output.data())];
    expect(await outputs()).not.toEqual(await outputs());
    lstm.eval();
    expect(await outputs()).toEqual(await outputs());
  });
});

describe("recurrent layers", () => {
  it("a length of 100 is what 100 steps of a cell are", async () => {
    const lstm = new nn.LSTM(5, 6, { device });
    const cell = new nn.LSTMCell(5, 6, { device });
    const from = lstm.stateDict();
    cell.loadStateDict(Object.fromEntries(Object.entries(from).map(([key, x]) => [key.replace("_l0", ""), x])));
    const x = random(100, 2, 5);
    const { output, h, c } = lstm.forward(x);
    let state: { h: Tensor; c: Tensor } | null = null;
    const values = await x.data();
    for (let t = 0; t < 100; t++) {
      const step = tensor(values.slice(10 * t, 10 * t + 10) as Float32Array, { shape: [2, 5], device });
      state = cell.forward(step, state);
    }
    expect(mixedError(await h.data(), await state!.h.data())).toBeLessThan(1e-5);
    expect(mixedError(await c.data(), await state!.c.data())).toBeLessThan(1e-5);
    expect(mixedError((await output.data()).slice(-12), await h.data())).toBe(0);
    output.backward(tensor(new Float32Array(output.size).fill(1), { shape: output.shape, device }));
    expect((await x.grad!.data()).every(Number.isFinite)).toBe(true);
  });

  it("goes on from a state, as one sequence", async () => {
    const gru = new nn.GRU(3, 4, { device });
    const values = randomValues(33 * 3);
    const whole = gru.forward(tensor(values, { shape: [33, 3], device }));
    const first = gru.forward(tensor(values.slice(0, 60), { shape: [20, 3], device }));
    const second = gru.forward(tensor(values.slice(60), { shape: [13, 3], device }), first.h);
    expect(mixedError(await second.h.data(), await whole.h.data())).toBeLessThan(1e-6);
  });

  it("shows its settings", () => {
    expect(`${new nn.GRU(3, 4, { numLayers: 2, bidirectional: true, device })}`).toBe(
      "GRU(3, 4, numLayers=2, bidirectional=true, backend=fallback)",
    );
    expect(`${new nn.RNNCell(3, 4, { nonlinearity: "relu", device })}`).toBe(
      "RNNCell(3, 4, nonlinearity=relu, backend=fallback)",
    );
    expect(`${new nn.Upsample({ scaleFactor: 2 })}`).toBe("Upsample(scaleFactor=2, backend=fallback)");
  });
});

describe("numbers", () => {
  it("large margins and logits stay finite, where PyTorch overflows", async () => {
    const x = tensor([1000, -1000], { device, requiresGrad: true });
    const y = nn.softMarginLoss(x, tensor([-1, 1], { device }), { reduction: "sum" });
    y.backward();
    expect((await y.data())[0]).toBe(2000);
    expect([...(await x.grad!.data())]).toEqual([1, -1]);
  });

  it("distances of 0 have a gradient of 0", async () => {
    for (const p of [1, 2, 3, Number.POSITIVE_INFINITY]) {
      const x = tensor([[1, 2]], { device, requiresGrad: true });
      nn.pairwiseDistance(x, x.detach(), { p, eps: 0 }).backward(tensor([1], { device }));
      expect([...(await x.grad!.data())].map(Math.abs)).toEqual([0, 0]);
    }
  });

  it("the gradient of EmbeddingBag is divided by how often ids occur", async () => {
    const weight = random(4, 1);
    const y = nn.embeddingBag(ids([1, 1, 2], [1, 3]), weight, { mode: "sum", scaleGradByFreq: true });
    y.backward(tensor([[1]], { device }));
    expect([...(await weight.grad!.data())]).toEqual([0, 1, 1, 0]);
  });

  it("an impossible CTC target is infinite, without NaN", async () => {
    const x = random(2, 1, 3);
    const y = nn.ctcLoss(nn.logSoftmax(x, { dim: 2 }), ids([1, 1], [1, 2]), [2], [2], { reduction: "none" });
    expect([...(await y.data())]).toEqual([Number.POSITIVE_INFINITY]);
    y.backward(tensor([1], { device }));
    expect((await x.grad!.data()).every(Number.isFinite)).toBe(true);
  });

  it("lengths may be tensors", async () => {
    const x = nn.logSoftmax(random(6, 2, 4), { dim: 2 });
    const targets = ids([1, 2, 3, 1], [2, 2]);
    const numbers = await nn.ctcLoss(x, targets, [6, 5], [2, 1]).data();
    expect(await nn.ctcLoss(x, targets, ids([6, 5]), ids([2, 1])).data()).toEqual(numbers);
  });

  it("adaptive softmax predicts the likeliest class", async () => {
    const module = new nn.AdaptiveLogSoftmaxWithLoss(8, 12, [3, 7], { divValue: 2, device });
    const x = random(5, 8);
    const scores = [...(await module.logProb(x).data())];
    const best = Array.from({ length: 5 }, (_, i) => {
      const row = scores.slice(12 * i, 12 * i + 12);
      return row.indexOf(Math.max(...row));
    });
    expect([...(await module.predict(x).data())]).toEqual(best);
  });
});

if (gpu.features.has("shader-f16")) {
  it("dtypes under autocast are PyTorch's", () => {
    const x = tensor(randomValues(6), { shape: [2, 3], device: gpu });
    autocast("f16", () => {
      expect(nn.softMarginLoss(x, x).dtype).toBe("f32");
      expect(nn.pairwiseDistance(x, x).dtype).toBe("f32");
      expect(new nn.RNNCell(3, 2, { device: gpu }).forward(x).dtype).toBe("f16");
      expect(nn.prelu(x, tensor([0.5], { device: gpu })).dtype).toBe("f16");
    });
  });
}
