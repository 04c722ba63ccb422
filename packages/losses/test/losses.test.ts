import { capture, defaultDevice, type FloatType, type Shape, scope, sizeOf, type Tensor, tensor } from "@kindling/core";
import { finiteDifferences, fixtures, layerErrors, mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import {
  type CrossEntropyReference,
  cosineEmbeddingReference,
  crossEntropyReference,
  type ElementLoss,
  type ElementReference,
  elementReference,
  nllReference,
} from "../src/losses.reference.ts";
import {
  BCELoss,
  BCEWithLogitsLoss,
  bce,
  bceWithLogits,
  CosineEmbeddingLoss,
  CrossEntropyLoss,
  type CrossEntropyOptions,
  cosineEmbedding,
  crossEntropy,
  HuberLoss,
  huber,
  KLDivLoss,
  klDiv,
  L1Loss,
  l1,
  MSELoss,
  mse,
  NLLLoss,
  nll,
  SmoothL1Loss,
  smoothL1,
} from "../src/losses.ts";

type Values = ArrayLike<number>;

const { features } = await testDevice();
const f16 = features.has("shader-f16");

/** Class ids; every fifth is `ignored`, if given. */
const ids = (size: number, classes: number, ignored?: number): Int32Array =>
  Int32Array.from(randomValues(size, 99), (v, i) =>
    ignored !== undefined && i % 5 === 4 ? ignored : Math.min(classes - 1, Math.floor(((v + 1) / 2) * classes)),
  );

const without = (shape: Shape, axis: number): Shape => shape.filter((_, i) => i !== axis);

interface Case extends Omit<CrossEntropyReference, "weight"> {
  /** Sizes, separated by commas. */
  shape: string;
  dtype?: FloatType;
  weighted?: boolean;
}

/** Errors of the loss and of the gradients against the reference, with class ids or with probabilities as target. */
function errors(
  kind: "ids" | "probabilities",
  { shape: sizes, dtype = "f32", weighted, ...options }: Case,
): Promise<number[]> {
  const shape = sizes.split(",").map(Number);
  const axis = Math.min(1, shape.length - 1);
  const classes = shape[axis]!;
  const stride = sizeOf(shape.slice(2));
  const size = sizeOf(shape);
  const weight = weighted ? randomValues(classes, 7).map((v) => 0.1 + Math.abs(v)) : null;
  const x = randomValues(size, 3).map((v) => v * 4);
  const targets = ids(size / classes, classes, options.ignoreIndex ?? -100);
  const soft = kind === "probabilities";
  return layerErrors({
    inputs: soft ? [shape, shape] : [shape],
    dtype,
    values: soft ? [x, randomValues(size, 4).map((v) => Math.abs(v) / classes)] : [x],
    run: (x, t) => {
      const target = t ?? tensor(targets, { shape: shape.length === 1 ? [] : without(shape, 1) });
      return crossEntropy(x!, target, { ...options, weight: weight && tensor(weight) });
    },
    reference: ([x, t], dy) => {
      const { y, dx, dt } = crossEntropyReference(x!, t ?? targets, dy, classes, { ...options, stride, weight });
      return { y, grads: [dx, dt] };
    },
  });
}

describe("crossEntropy", () => {
  // one class; odd rows that share vec4s; around the widths of a row's threads; a GPT's vocabularies; spatial; many rows
  const shapes = ["1,1", "5", "7,3", "67,65", "5,257", "3,1000", "3,4097", "2,50257", "2,5,3,7", "2,19,67", "70000,3"];

  it.each(shapes)("matches the reference on [%s]", async (shape) => {
    for (const reduction of ["mean", "none"] as const) {
      expect(Math.max(...(await errors("ids", { shape, reduction })))).toBeLessThan(5e-6);
    }
  });

  const options: Omit<Case, "shape">[] = [
    { weighted: true, reduction: "sum" },
    { labelSmoothing: 0.1, ignoreIndex: 2 },
    { weighted: true, labelSmoothing: 0.2, reduction: "none" },
    { zLoss: 1e-2 },
  ];
  it.each(options)("matches the reference with %o", async (options) => {
    const shape = options.labelSmoothing ? "2,5,40" : "6,67";
    expect(Math.max(...(await errors("ids", { shape, ...options })))).toBeLessThan(5e-6);
  });

  it.each<[string, Omit<Case, "shape">]>([
    ["2,5,40", {}],
    ["6,67", { weighted: true, labelSmoothing: 0.1, reduction: "none" }],
  ])("matches the reference on [%s] with probabilities and %o", async (shape, options) => {
    expect(Math.max(...(await errors("probabilities", { shape, ...options })))).toBeLessThan(5e-6);
  });

  // the loss is f32; gradients round to the 11 bits of f16
  if (f16)
    it.each(["67,65", "2,19,67"])("matches the reference on [%s] in f16", async (shape) => {
      const [loss, dx] = await errors("ids", { shape, dtype: "f16" });
      expect(loss).toBeLessThan(5e-6);
      expect(dx).toBeLessThan(5e-4);
    });

  if (f16)
    it("matches the reference with probabilities in f16", async () => {
      expect(Math.max(...(await errors("probabilities", { shape: "6,67", dtype: "f16" })))).toBeLessThan(5e-4);
    });

  it("is exact for logits far from zero, far apart, and masked", async () => {
    const rows = [
      [1e4, 1e4 + 1, 1e4 - 1],
      [3e38, -3e38, 0],
      [-3e38, -3e38, -3e38],
      [-1e9, 1, 2],
      [65504, -65504, 65504],
      [0, Number.NEGATIVE_INFINITY, 1],
    ];
    const x = tensor(rows, { requiresGrad: true });
    const target = tensor(Int32Array.of(0, 0, 1, 2, 0, 2));
    const loss = crossEntropy(x, target, { reduction: "none" });
    loss.backward(tensor([1, 1, 1, 1, 1, 1]));
    const { y, dx } = crossEntropyReference(rows.flat(), [0, 0, 1, 2, 0, 2], [1, 1, 1, 1, 1, 1], 3, {
      reduction: "none",
    });
    expect(mixedError(await loss.data(), y)).toBeLessThan(1e-6);
    expect(mixedError(await x.grad!.data(), dx)).toBeLessThan(1e-6);
    const smooth = crossEntropy(tensor([[-1e9, 1, 2]]), tensor([[0, 0.25, 0.75]]));
    expect(mixedError(await smooth.data(), [Math.log1p(Math.exp(-1)) + 0.25])).toBeLessThan(1e-6);
  });

  it("merges threads of very different maxima", async () => {
    const row = Float32Array.from({ length: 300 }, (_, c) => (c % 37 === 36 ? 2000 : -2000 - c));
    const x = tensor(row, { shape: [1, 300], requiresGrad: true });
    const loss = crossEntropy(x, tensor(Int32Array.of(1)));
    loss.backward();
    const { y, dx } = crossEntropyReference(row, [1], [1], 300);
    expect(mixedError(await loss.data(), y)).toBeLessThan(1e-6);
    expect(mixedError(await x.grad!.data(), dx)).toBeLessThan(1e-6);
  });

  it("averages over nothing as PyTorch does: the loss is NaN, the gradient zero", async () => {
    const x = tensor(randomValues(6), { shape: [2, 3], requiresGrad: true });
    const loss = crossEntropy(x, tensor(Int32Array.of(-100, -100)));
    loss.backward();
    expect(await loss.item()).toBeNaN();
    expect([...(await x.grad!.data())]).toEqual([0, 0, 0, 0, 0, 0]);
  });

  it("reports a target that is no class, and is NaN", async () => {
    for (const [label, named] of [
      [3, "3"],
      [-1, "-1"],
    ] as const) {
      const x = tensor(randomValues(6), { shape: [2, 3], requiresGrad: true });
      const loss = crossEntropy(x, tensor(Int32Array.of(1, label)));
      loss.backward();
      await expect(loss.item()).rejects.toThrow(
        `crossEntropy: target ${named} is no class; expected 0 to 2 or ignoreIndex`,
      );
      expect(await loss.item()).toBeNaN();
      expect([...(await x.grad!.data())].slice(3).every(Number.isNaN)).toBe(true);
    }
  });

  it("takes u32 ids, leaves ignored rows alone and gives the same bits each time", async () => {
    const x = tensor(randomValues(3000 * 65), { shape: [3000, 65] });
    const label = ids(3000, 65, 64);
    const a = await crossEntropy(x, tensor(label), { ignoreIndex: 64 }).item();
    const b = await crossEntropy(x, tensor(Uint32Array.from(label)), { ignoreIndex: 64 }).item();
    expect(a).toBe(b);
  });

  it("replays in a captured step", async () => {
    const w = tensor(randomValues(4 * 65, 1), { shape: [4, 65], requiresGrad: true });
    const step = capture((t) => {
      w.grad = null;
      const loss = crossEntropy(w, t);
      loss.backward();
      return { loss, grad: w.grad! };
    });
    for (const target of [Int32Array.of(1, 2, 3, 4), Int32Array.of(64, -100, 0, 9)]) {
      const { loss, grad } = step(tensor(target));
      const { y, dx } = crossEntropyReference(await w.data(), target, [1], 65);
      expect(mixedError(await loss.data(), y)).toBeLessThan(1e-6);
      expect(mixedError(await grad.data(), dx)).toBeLessThan(1e-6);
    }
    step.dispose();
  });

  it("keeps no scratch memory", () => {
    const x = tensor(randomValues(5000 * 3), { shape: [5000, 3], requiresGrad: true });
    const t = tensor(ids(5000, 3));
    const run = (): void => scope(() => crossEntropy(x, t).backward());
    run();
    x.grad = null;
    const before = defaultDevice().memory().tensors;
    run();
    expect(defaultDevice().memory().tensors).toBe(before + 1);
  });

  it("has a reference whose gradients are right", () => {
    const [x, t, w] = [randomValues(20, 1), randomValues(20, 2).map(Math.abs), randomValues(5, 3).map(Math.abs)];
    const label = [0, 4, -100, 2];
    const hard = { weight: w, labelSmoothing: 0.1, zLoss: 0.1 };
    const { dx } = crossEntropyReference(x, label, [2], 5, hard);
    expect(
      mixedError(
        finiteDifferences((v) => 2 * crossEntropyReference(v, label, [2], 5, hard).y[0]!, x),
        dx,
      ),
    ).toBeLessThan(1e-8);
    const soft = { ...hard, stride: 2 };
    const both = crossEntropyReference(x, t, [2], 5, soft);
    const loss = (a: ArrayLike<number>, b: ArrayLike<number>): number =>
      2 * crossEntropyReference(a, b, [2], 5, soft).y[0]!;
    expect(
      mixedError(
        finiteDifferences((v) => loss(v, t), x),
        both.dx,
      ),
    ).toBeLessThan(1e-8);
    expect(
      mixedError(
        finiteDifferences((v) => loss(x, v), t),
        both.dt,
      ),
    ).toBeLessThan(1e-8);
  });

  it("names what is wrong with its input", () => {
    const x = tensor(randomValues(12), { shape: [3, 4] });
    const t = tensor(Int32Array.of(0, 1, 2));
    const bad =
      (options: unknown): (() => unknown) =>
      () =>
        crossEntropy(x, t, options as CrossEntropyOptions);
    expect(() => crossEntropy(t, t)).toThrow("crossEntropy: input is i32, expected f32 or f16");
    expect(() => crossEntropy(tensor(3, { shape: [] }), t)).toThrow(
      "crossEntropy: input has shape [], expected [C], [N, C] or [N, C, d1, …]",
    );
    expect(() => crossEntropy(x, tensor([true, false, true]))).toThrow(
      "crossEntropy: target is bool, expected class ids",
    );
    expect(() => crossEntropy(x, tensor(Int32Array.of(1, 2)))).toThrow(
      "crossEntropy: target has shape [2], expected [3] for class ids and input [3,4]",
    );
    expect(() => crossEntropy(x, tensor([1, 2, 3]))).toThrow(
      "crossEntropy: target has shape [3], expected [3,4] for probabilities and input [3,4]",
    );
    expect(bad({ weight: tensor([1, 2, 3]) })).toThrow(
      "crossEntropy: weight has shape [3], expected [4], one for each class",
    );
    expect(bad({ ignoreIndex: 0.5 })).toThrow("crossEntropy: ignoreIndex is 0.5, expected a whole number");
    expect(bad({ labelSmoothing: 1.5 })).toThrow("crossEntropy: labelSmoothing is 1.5, expected 0 to 1");
    expect(bad({ zLoss: Number.NaN })).toThrow("crossEntropy: zLoss is NaN, expected 0 or more");
    expect(bad({ reduction: "avg" })).toThrow('crossEntropy: reduction is "avg", expected none, mean, sum');
    expect(() => crossEntropy(x, x, { ignoreIndex: 1 })).toThrow(
      "crossEntropy: ignoreIndex is 1, but probabilities as target have no class to ignore",
    );
  });
});

describe("nll", () => {
  const errors = (shape: number[], reduction: "none" | "mean" | "sum", weighted = false): Promise<number[]> => {
    const classes = shape[1]!;
    const stride = sizeOf(shape.slice(2));
    const targets = ids(sizeOf(shape) / classes, classes, -100);
    const weight = weighted ? randomValues(classes, 7).map((v) => 0.1 + Math.abs(v)) : null;
    return layerErrors({
      inputs: [shape],
      run: (x) =>
        nll(x!, tensor(targets, { shape: without(shape, 1) }), { reduction, weight: weight && tensor(weight) }),
      reference: ([x], dy) => {
        const { y, dx } = nllReference(x!, targets, dy, classes, { stride, reduction, weight });
        return { y, grads: [dx] };
      },
    });
  };

  it("matches the reference", async () => {
    expect(Math.max(...(await errors([67, 3], "mean")))).toBeLessThan(1e-6);
    expect(Math.max(...(await errors([5, 257], "none", true)))).toBeLessThan(1e-6);
    expect(Math.max(...(await errors([2, 19, 67], "sum")))).toBeLessThan(1e-6);
  });

  it("reports a target that is no class and names what is wrong with its input", async () => {
    const x = tensor([[1, 2]]);
    await expect(nll(x, tensor(Int32Array.of(2))).item()).rejects.toThrow(
      "nll: target 2 is no class; expected 0 to 1 or ignoreIndex",
    );
    expect(() => nll(x, x)).toThrow("nll: target is f32, expected class ids (i32, u32)");
    expect(() => nll(x, tensor(Int32Array.of(1, 0)))).toThrow("nll: target has shape [2], expected [1] for class ids");
  });
});

const elementwise = { mse, l1, smoothL1, huber, bce, bceWithLogits, klDiv };

describe("losses of elements", () => {
  /** Inputs in the range of the loss: probabilities for bce, for klDiv the logarithm of one. */
  const inputsOf = (name: ElementLoss, size: number, logTarget = false): Float32Array[] => {
    const [x, t] = [randomValues(size, 5), randomValues(size, 6)];
    if (name === "bce" || name === "bceWithLogits")
      return [name === "bce" ? x.map((v) => (v + 1) / 2) : x, t.map(Math.abs)];
    if (name === "klDiv") return [x, logTarget ? t : t.map((v) => Math.abs(v) + 1e-3)];
    return [x.map((v) => v * 2), t];
  };

  const errors = (
    name: ElementLoss,
    shape: number[],
    options: ElementReference,
    dtype: FloatType = "f32",
  ): Promise<number[]> =>
    layerErrors({
      inputs: [shape, shape],
      values: inputsOf(name, sizeOf(shape), options.logTarget),
      dtype,
      run: (x, t) => {
        const { weight, posWeight, ...rest } = options;
        const last = (w?: ArrayLike<number> | null): Tensor | null => (w ? tensor(Float32Array.from(w)) : null);
        return elementwise[name](x!, t!, { ...rest, weight: last(weight), posWeight: last(posWeight) } as object);
      },
      reference: ([x, t], dy) => {
        const { y, dx, dt } = elementReference(name, x!, t!, dy, { ...options, batch: shape[0]! });
        return { y, grads: [dx, dt] };
      },
    });

  const weight = randomValues(67, 8).map((v) => Math.abs(v));
  const cases: [ElementLoss, string, ElementReference][] = [
    ["mse", "1", {}],
    ["mse", "1100,1000", {}],
    ["l1", "3,67", { reduction: "none" }],
    ["smoothL1", "3,67", { beta: 0.3, reduction: "sum" }],
    ["huber", "257", { delta: 0.3 }],
    ["bce", "3,67", { weight }],
    ["bceWithLogits", "3,67", { weight, posWeight: weight, reduction: "none" }],
    ["klDiv", "3,67", { reduction: "batchmean" }],
    ["klDiv", "3,67", { logTarget: true }],
  ];

  it.each(cases)("%s matches the reference on [%s] with %o", async (name, shape, options) => {
    expect(Math.max(...(await errors(name, shape.split(",").map(Number), options)))).toBeLessThan(3e-6);
  });

  // the loss is f32, the gradients round to the 11 bits of f16
  if (f16)
    it("match the reference in f16", async () => {
      for (const reduction of ["mean", "none"] as const)
        expect(Math.max(...(await errors("mse", [3, 67], { reduction }, "f16")))).toBeLessThan(5e-4);
    });

  it("stay finite for any logit", async () => {
    const x = tensor([1e4, -1e4, 3e38, -3e38, 100], { requiresGrad: true });
    const loss = bceWithLogits(x, tensor([0, 1, 1, 0, 1]), { reduction: "none" });
    loss.backward(tensor([1, 1, 1, 1, 1]));
    expect([...(await loss.data())]).toEqual([1e4, 1e4, 0, 0, 0]);
    expect([...(await x.grad!.data())]).toEqual([1, -1, 0, 0, 0]);
  });

  it("have references whose gradients are right", () => {
    for (const [name, , options] of cases) {
      const [x, t] = inputsOf(name, 67, options.logTarget) as [Float32Array, Float32Array];
      const reduced = { ...options, reduction: "mean" as const };
      const { dx, dt } = elementReference(name, x, t, [3], reduced);
      const loss = (a: Values, b: Values): number => 3 * elementReference(name, a, b, [1], reduced).y[0]!;
      expect(
        mixedError(
          finiteDifferences((v) => loss(v, t), x),
          dx,
        ),
        `${name} dx`,
      ).toBeLessThan(1e-6);
      expect(
        mixedError(
          finiteDifferences((v) => loss(x, v), t),
          dt,
        ),
        `${name} dt`,
      ).toBeLessThan(1e-6);
    }
  });

  it("names what is wrong with its input", async () => {
    const x = tensor([0.5, 0.25]);
    expect(() => mse(x, tensor([1]))).toThrow("mse: target has shape [1], expected [2] as input");
    expect(() => mse(tensor([1], { dtype: "i32" }), x)).toThrow("mse: input is i32, expected f32 or f16");
    expect(() => l1(x, x, { reduction: "batchmean" as "mean" })).toThrow(
      'l1: reduction is "batchmean", expected none, mean, sum',
    );
    expect(() => klDiv(x, x, { reduction: "avg" as "mean" })).toThrow(
      'klDiv: reduction is "avg", expected none, mean, sum, batchmean',
    );
    expect(() => smoothL1(x, x, { beta: -1 })).toThrow("smoothL1: beta is -1, expected 0 or more");
    expect(() => huber(x, x, { delta: 0 })).toThrow("huber: delta is 0, expected more than 0");
    expect(() => bce(x, x, { weight: tensor([1, 2, 3]) })).toThrow(
      "bce: weight has shape [3], expected the last axes of input [2]",
    );
    await expect(bce(tensor([0.5, 1.5]), x).item()).rejects.toThrow("bce: the input at position 1 is outside [0, 1]");
  });
});

describe("cosineEmbedding", () => {
  const sign = (rows: number): number[] => Array.from({ length: rows }, (_, i) => (i % 3 === 0 ? 1 : -1));
  const run = (
    shape: number[],
    options: { margin?: number; reduction?: "none" | "mean" | "sum" },
  ): Promise<number[]> => {
    const cols = shape.at(-1)!;
    const rows = sizeOf(shape) / cols;
    return layerErrors({
      inputs: [shape, shape],
      run: (a, b) => cosineEmbedding(a!, b!, tensor(sign(rows), { shape: shape.slice(0, -1) }), options),
      reference: ([a, b], dy) => {
        const { y, dx1, dx2 } = cosineEmbeddingReference(a!, b!, sign(rows), dy, cols, options);
        return { y, grads: [dx1, dx2] };
      },
    });
  };

  it("matches the reference", async () => {
    expect(Math.max(...(await run([5], {})))).toBeLessThan(1e-6);
    expect(Math.max(...(await run([7, 257], { margin: -0.1 })))).toBeLessThan(1e-6);
    expect(Math.max(...(await run([4000, 3], { reduction: "none" })))).toBeLessThan(1e-6);
  });

  it("has a reference whose gradients are right", () => {
    const [a, b, t] = [randomValues(15, 1), randomValues(15, 2), [1, -1, -1]];
    const { dx1, dx2 } = cosineEmbeddingReference(a, b, t, [1], 5);
    const loss = (a: Values, b: Values): number => cosineEmbeddingReference(a, b, t, [1], 5).y[0]!;
    expect(
      mixedError(
        finiteDifferences((v) => loss(v, b), a),
        dx1,
      ),
    ).toBeLessThan(1e-7);
    expect(
      mixedError(
        finiteDifferences((v) => loss(a, v), b),
        dx2,
      ),
    ).toBeLessThan(1e-7);
  });

  it("names what is wrong with its input", () => {
    const x = tensor([[1, 2]]);
    expect(() => cosineEmbedding(x, tensor([1, 2]), tensor([1]))).toThrow(
      "cosineEmbedding: x2 has shape [2], expected [1,2] as x1",
    );
    expect(() => cosineEmbedding(x, x, tensor([1, 1]))).toThrow("cosineEmbedding: target has shape [2], expected [1]");
    expect(() => cosineEmbedding(x, x, tensor([1]), { margin: Number.NaN })).toThrow("cosineEmbedding: margin is NaN");
  });
});

describe("PyTorch's results", async () => {
  const cases = await fixtures(new URL("./losses.safetensors", import.meta.url));
  const modules = {
    ...{
      crossEntropy: CrossEntropyLoss,
      nll: NLLLoss,
      mse: MSELoss,
      l1: L1Loss,
      smoothL1: SmoothL1Loss,
      huber: HuberLoss,
    },
    ...{ bce: BCELoss, bceWithLogits: BCEWithLogitsLoss, klDiv: KLDivLoss, cosineEmbedding: CosineEmbeddingLoss },
  };

  it.each([...cases.keys()].filter((name) => f16 || !name.includes("f16")))("%s", async (name) => {
    const { y, dy, weight, pos_weight, ...tensors } = cases.get(name)!;
    const [fn, ...pairs] = name.split(" ") as [keyof typeof modules, ...string[]];
    const { dtype = "f32", ...options } = Object.fromEntries(
      pairs
        .map((pair) => [pair.slice(0, pair.indexOf("=")), JSON.parse(pair.slice(pair.indexOf("=") + 1))] as const)
        .filter(([key]) => !(key in cases.get(name)!)),
    ) as { dtype?: FloatType };
    // integers are class ids; everything else has its gradient beside it, or none
    const inputs = ["x", "x1", "x2", "target"].flatMap((key) => {
      const fixture = tensors[key];
      if (!fixture) return [];
      const { values, shape } = fixture;
      const requiresGrad = `d${key}` in tensors;
      if (values instanceof Int32Array) return [{ key, t: tensor(values, { shape }) }];
      return [{ key, t: tensor(Float32Array.from(values), { shape, dtype, requiresGrad }) }];
    });
    const weights = {
      weight: weight && tensor(Float32Array.from(weight.values)),
      posWeight: pos_weight && tensor(Float32Array.from(pos_weight.values)),
    };
    const module = new modules[fn]({ ...options, ...weights }) as unknown as { forward(...inputs: Tensor[]): Tensor };
    const loss = module.forward(...inputs.map(({ t }) => t));
    loss.backward(tensor(Float32Array.from(dy!.values), { shape: dy!.shape }));
    expect(mixedError(await loss.data(), y!.values)).toBeLessThan(3e-6);
    for (const { key, t } of inputs) {
      if (!t.requiresGrad) continue;
      const actual = await t.grad!.data();
      // bce's gradient to the target is infinite in PyTorch where the input is 0 or 1; here it is that of the cut loss
      const expected = Array.from(tensors[`d${key}`]!.values, (v, i) => (Number.isFinite(v) ? v : actual[i]!));
      expect(mixedError(actual, expected), key).toBeLessThan(dtype === "f16" ? 5e-4 : 3e-6);
    }
  });
});
