import { add, autocast, type Module, manualSeed, memory, noGrad, scope, type Tensor, tensor } from "@kindling/core";
import { fixtureErrors, fixtures, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import {
  gelu,
  LayerNorm,
  loadFallback,
  Sequential,
  Transformer,
  TransformerDecoder,
  TransformerDecoderLayer,
  TransformerEncoder,
  TransformerEncoderLayer,
} from "../src/index.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const fixtureFile = new URL("./transformer.safetensors", import.meta.url);
const settings = { dimFeedforward: 10, dropout: 0 };

type Inputs = Record<string, Tensor>;

/** Puts the fixture's tensors in the place of the module's own parameters, so that they get the gradients. */
function adopt<M extends Module>(module: M, inputs: Inputs): M {
  const parameters = [...module.namedParameters()].map(([name]) => name);
  expect(parameters.toSorted()).toEqual(
    Object.keys(inputs)
      .filter((name) => name.includes("."))
      .sort(),
  );
  for (const name of parameters) {
    const path = name.split(".");
    const owner = path
      .slice(0, -1)
      .reduce((at, key) => at[key] as unknown as Record<string, unknown>, module as unknown as Record<string, unknown>);
    owner[path.at(-1)!] = inputs[name]!;
  }
  return module;
}

/** The arguments of forward, in camelCase. */
const camel = (inputs: Inputs): Inputs =>
  Object.fromEntries(
    Object.entries(inputs)
      .filter(([name]) => name.includes("mask"))
      .map(([name, x]) => [name.replace(/_(\w)/g, (_, c: string) => c.toUpperCase()), x]),
  );

describe("transformer", () => {
  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(fixtureFile, {
      transformerEncoderLayer: (inputs, options) =>
        adopt(new TransformerEncoderLayer(8, 2, { ...settings, ...options }), inputs).forward(
          inputs.src!,
          camel(inputs),
        ),
      transformerDecoderLayer: (inputs, options) =>
        adopt(new TransformerDecoderLayer(8, 2, { ...settings, ...options }), inputs).forward(
          inputs.tgt!,
          inputs.memory!,
          camel(inputs),
        ),
      transformerEncoder: (inputs, options) => {
        const layer = new TransformerEncoderLayer(8, 2, { ...settings, ...options });
        const stack = new TransformerEncoder(layer, 2, { norm: new LayerNorm(8) });
        return adopt(stack, inputs).forward(inputs.src!);
      },
      transformer: (inputs, options) => {
        const sizes = { dModel: 8, nhead: 2, numEncoderLayers: 1, numDecoderLayers: 1 };
        const model = new Transformer({ ...sizes, ...settings, ...options });
        return adopt(model, inputs).forward(inputs.src!, inputs.tgt!, camel(inputs));
      },
    });
    expect(f32.size).toBe(13);
    expect(f16.size).toBe(hasF16 ? 1 : 0);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(2e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(2e-2);
  });

  it("has PyTorch's state dict, in its order", () => {
    const norms = (n: number): string[] =>
      Array.from({ length: n }, (_, i) => [`norm${i + 1}.weight`, `norm${i + 1}.bias`]).flat();
    const attention = (name: string): string[] =>
      ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"].map((key) => `${name}.${key}`);
    const mlp = ["linear1.weight", "linear1.bias", "linear2.weight", "linear2.bias"];
    const encoder = new TransformerEncoderLayer(8, 2, settings);
    expect(Object.keys(encoder.stateDict())).toEqual([...attention("self_attn"), ...mlp, ...norms(2)]);
    const decoder = new TransformerDecoderLayer(8, 2, settings);
    const decoderKeys = [...attention("self_attn"), ...attention("multihead_attn"), ...mlp, ...norms(3)];
    expect(Object.keys(decoder.stateDict())).toEqual(decoderKeys);
    const stack = new TransformerEncoder(encoder, 2, { norm: new LayerNorm(8) });
    expect(Object.keys(stack.stateDict()).slice(-3)).toEqual(["layers.1.norm2.bias", "norm.weight", "norm.bias"]);
  });

  it("stacks copies that start equal and train apart", async () => {
    const layer = new TransformerEncoderLayer(8, 2, settings);
    layer.norm1.weight!.requiresGrad = false;
    const stack = new TransformerEncoder(layer.eval(), 2);
    const [a, b] = [...stack.layers] as TransformerEncoderLayer[];
    expect(mixedError(await a!.linear1.weight.data(), await layer.linear1.weight.data())).toBe(0);
    expect(mixedError(await a!.linear1.weight.data(), await b!.linear1.weight.data())).toBe(0);
    expect(a!.linear1.weight).not.toBe(b!.linear1.weight);
    expect([a!.norm1.weight!.requiresGrad, a!.norm2.weight!.requiresGrad, a!.training]).toEqual([false, true, false]);
    const made = new TransformerDecoder((i) => new TransformerDecoderLayer(8, 2, { dimFeedforward: 4 + i }), 2);
    expect(made.layers.at(1).stateDict()["linear1.weight"]!.shape).toEqual([5, 8]);
  });

  it("takes activations as names and as values, and gates", async () => {
    const x = tensor(randomValues(48), { shape: [3, 2, 8] });
    manualSeed(7);
    const named = new TransformerEncoderLayer(8, 2, { ...settings, activation: "gelu" });
    const valued = new TransformerEncoderLayer(8, 2, { ...settings, activation: gelu });
    valued.loadStateDict(named.stateDict());
    expect(mixedError(await named.forward(x).data(), await valued.forward(x).data())).toBe(0);
    const gated = new TransformerEncoderLayer(8, 2, { ...settings, activation: "silu", gated: true });
    expect(gated.linear1.weight.shape).toEqual([20, 8]);
    expect(() => new TransformerEncoderLayer(8, 2, { activation: "jelu" as "gelu" })).toThrow(
      /^TransformerEncoderLayer: activation is "jelu", expected one of relu, relu6, squaredRelu, .*, or a value$/,
    );
  });

  it("is causal without a mask as with one", async () => {
    const x = tensor(randomValues(80), { shape: [2, 5, 8] });
    const layer = new TransformerEncoderLayer(8, 2, { ...settings, batchFirst: true });
    const mask = Transformer.generateSquareSubsequentMask(5);
    expect(await mask.array()).toEqual(
      Array.from({ length: 5 }, (_, i) => Array.from({ length: 5 }, (_, j) => (j > i ? Number.NEGATIVE_INFINITY : 0))),
    );
    const [a, b] = [layer.forward(x, { isCausal: true }), layer.forward(x, { srcMask: mask })];
    expect(mixedError(await a.data(), await b.data())).toBeLessThan(1e-6);
    const stack = new TransformerEncoder(layer, 2);
    const [c, d] = [stack.forward(x, { isCausal: true }), stack.forward(x, { mask })];
    expect(mixedError(await c.data(), await d.data())).toBeLessThan(1e-6);
  });

  it("drops while training only", async () => {
    const x = tensor(randomValues(48), { shape: [3, 2, 8] });
    const layer = new TransformerEncoderLayer(8, 2, { dimFeedforward: 12, dropout: 0.5, gated: true });
    const twice = async () => [await layer.forward(x).data(), await layer.forward(x).data()] as const;
    const [a, b] = await twice();
    expect(mixedError(a, b)).toBeGreaterThan(0.01);
    layer.eval();
    const [c, d] = await twice();
    expect(mixedError(c, d)).toBe(0);
  });

  it("trains in constant memory", async () => {
    const model = new Transformer({ dModel: 8, nhead: 2, numEncoderLayers: 1, numDecoderLayers: 1, ...settings });
    const src = tensor(randomValues(48), { shape: [3, 2, 8] });
    const tgt = tensor(randomValues(32, 2), { shape: [2, 2, 8] });
    const step = (): void =>
      scope(() => {
        const y = model.forward(src, tgt, { tgtIsCausal: true });
        y.backward(tensor(randomValues(32, 3), { shape: [2, 2, 8] }));
        model.zeroGrad();
      });
    step();
    const { tensors, bytes } = memory(device);
    for (let i = 0; i < 3; i++) step();
    expect(memory(device)).toMatchObject({ tensors, bytes });
    expect(model.parameters().every((p) => p.shape.length < 2 || p.requiresGrad)).toBe(true);
  });

  if (hasF16)
    it("keeps sums in f32 under autocast, as PyTorch's norms do", async () => {
      const x = tensor(randomValues(48), { shape: [3, 2, 8] });
      for (const normFirst of [false, true]) {
        const layer = new TransformerEncoderLayer(8, 2, { ...settings, normFirst });
        const y = autocast("f16", () => layer.forward(x));
        expect(y.dtype).toBe("f32");
        expect(mixedError(await y.data(), await layer.forward(x).data())).toBeLessThan(2e-2);
      }
    });

  it("computes by the fallback what the kernels compute, in its copies too", async () => {
    await loadFallback();
    const options = { ...settings, normFirst: true, activation: "gelu" } as const;
    const other = new TransformerEncoder(new TransformerEncoderLayer(8, 2, { ...options, backend: "fallback" }), 1);
    const kernels = new TransformerEncoder(new TransformerEncoderLayer(8, 2, options), 1);
    kernels.loadStateDict(other.stateDict());
    expect((other.layers.at(0) as TransformerEncoderLayer).backend).toBe("fallback");
    const run = async (model: TransformerEncoder) => {
      const x = tensor(randomValues(48), { shape: [3, 2, 8], requiresGrad: true });
      const y = model.forward(x, { isCausal: true });
      y.backward(tensor(randomValues(48, 2), { shape: [3, 2, 8] }));
      return [y, x.grad!, ...model.parameters().map((p) => p.grad!)];
    };
    const [a, b] = [await run(other), await run(kernels)];
    for (const [i, t] of a.entries()) expect(mixedError(await t.data(), await b[i]!.data())).toBeLessThan(1e-5);
  });

  it("prints as PyTorch does", () => {
    const stack = new TransformerEncoder(new TransformerEncoderLayer(8, 2, settings), 3);
    expect(stack.toString()).toBe(
      [
        "TransformerEncoder(",
        "  backend=kernels",
        "  (layers): ModuleList(",
        "    (0-2): 3 x TransformerEncoderLayer(",
        "      backend=kernels",
        "      (self_attn): MultiheadAttention(",
        "        backend=kernels",
        "        (out_proj): Projection(inFeatures=8, outFeatures=8, bias=true)",
        "      )",
        "      (linear1): Linear(inFeatures=8, outFeatures=10, bias=true, activation=relu, backend=kernels)",
        "      (linear2): Linear(inFeatures=10, outFeatures=8, bias=true, backend=kernels)",
        "      (norm1): LayerNorm([8], eps=0.00001, elementwiseAffine=true, backend=kernels)",
        "      (norm2): LayerNorm([8], eps=0.00001, elementwiseAffine=true, backend=kernels)",
        "      (dropout1): Dropout(p=0, backend=kernels)",
        "    )",
        "  )",
        ")",
      ].join("\n"),
    );
  });

  it("names what is wrong", () => {
    const x = tensor(randomValues(48), { shape: [3, 2, 8] });
    const layer = new TransformerEncoderLayer(8, 2, settings);
    const decoder = new TransformerDecoderLayer(8, 2, { ...settings, batchFirst: true });
    const model = new Transformer({ dModel: 8, nhead: 2, numEncoderLayers: 1, numDecoderLayers: 1, ...settings });
    const wrong = tensor(randomValues(12), { shape: [3, 4] });
    const cases: [run: () => unknown, message: string][] = [
      [
        () => layer.forward(wrong),
        "TransformerEncoderLayer: src has shape [3,4], expected [length,batch,8] or [length,8]",
      ],
      [
        () => decoder.forward(wrong, x),
        "TransformerDecoderLayer: tgt has shape [3,4], expected [batch,length,8] or [length,8]",
      ],
      [
        () => decoder.forward(x, wrong),
        "TransformerDecoderLayer: memory has shape [3,4], expected [batch,length,8] or [length,8]",
      ],
      [() => model.forward(x, wrong), "Transformer: tgt has shape [3,4], expected [length,batch,8] or [length,8]"],
      [
        () => model.forward(x, x.reshape([2, 3, 8])),
        "Transformer: src has shape [3,2,8] and tgt [2,3,8], expected the same batch",
      ],
      [
        () => new TransformerEncoderLayer(8, 2, { dimFeedforward: 0 }),
        "TransformerEncoderLayer: dimFeedforward is 0, expected a whole number ≥ 1",
      ],
      [
        () => new TransformerDecoderLayer(8, 2, { dropout: 2 }),
        "TransformerDecoderLayer: dropout is 2, expected a probability from 0 to 1",
      ],
      [() => new TransformerEncoder(layer, 0), "TransformerEncoder: numLayers is 0, expected a whole number ≥ 1"],
      [
        () => new TransformerEncoder(new Sequential() as never, 2),
        "TransformerEncoder: the layer is no TransformerEncoderLayer; for another one pass a function that makes it",
      ],
      [
        () => new TransformerEncoder(layer, 1, { enableNestedTensor: true as false }),
        "TransformerEncoder: enableNestedTensor is true, expected false: there are no nested tensors",
      ],
      [
        () => Transformer.generateSquareSubsequentMask(0),
        "generateSquareSubsequentMask: size is 0, expected a whole number ≥ 1",
      ],
    ];
    for (const [run, message] of cases) expect(run).toThrow(message);
  });

  it("gives the same bits each time", async () => {
    const [, tensors] = [...(await fixtures(fixtureFile))][0]!;
    const x = tensor(Float32Array.from(tensors.src!.values), { shape: tensors.src!.shape });
    const layer = new TransformerEncoderLayer(8, 2, settings);
    const once = async () => (await noGrad(() => add(layer.forward(x), x)).data()) as Float32Array;
    expect(await once()).toEqual(await once());
  });
});
