import {
  add,
  autocast,
  cast,
  copyInto,
  type FloatType,
  manualSeed,
  matmul,
  memory,
  noGrad,
  ones,
  randn,
  type Shape,
  scope,
  sizeOf,
  type Tensor,
  tensor,
  zeros,
} from "@kindling/core";
import {
  finiteDifferences,
  fixtureErrors,
  layerErrors,
  mixedError,
  randomValues,
  testDevice,
} from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import {
  type MultiheadDims,
  type MultiheadParameters,
  type MultiheadResult,
  multiheadReference,
} from "../src/multihead.reference.ts";
import { MultiheadAttention, type MultiheadAttentionOptions } from "../src/multihead.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

type Values = ArrayLike<number>;

interface Case extends MultiheadAttentionOptions {
  batch: number;
  numHeads: number;
  embedDim: number;
  queries: number;
  /** Without it, attention of query to itself. */
  keys?: number;
  /** value is not key. Default where vdim differs. */
  valueApart?: boolean;
  unbatched?: boolean;
  isCausal?: boolean;
  /** With the axes of attnMask. */
  attnMask?: "bool 2" | "bool 3" | "float 2" | "float 3";
  keyPaddingMask?: "bool" | "float";
  /** y is the output, plus the averaged weights times a constant, or is the weights of all heads. */
  weights?: "averaged" | "heads";
  /** Also in f16. */
  half?: boolean;
}

const base = { batch: 2, numHeads: 2, embedDim: 8, queries: 3, batchFirst: true };

// Few widths, since each kind of width is a set of kernels, and software GPUs take long to compile them.
const cases: Case[] = [
  { ...base, batch: 1, numHeads: 1, embedDim: 1, queries: 1 },
  { ...base, queries: 67, embedDim: 64 },
  { ...base, batchFirst: false, isCausal: true, queries: 9, half: true },
  { ...base, unbatched: true, batchFirst: false },
  { ...base, attnMask: "float 2", keyPaddingMask: "bool", isCausal: true, queries: 5, batchFirst: false },
  { ...base, attnMask: "bool 3", bias: false },
  { ...base, keys: 5 },
  { ...base, keys: 5, embedDim: 64, valueApart: true, isCausal: true, batchFirst: false },
  { ...base, keys: 5, batchFirst: false, numHeads: 3, embedDim: 9, kdim: 5, vdim: 7 },
  { ...base, keys: 7, kdim: 4, vdim: 12, keyPaddingMask: "bool", bias: false },
  { ...base, keys: 5, unbatched: true, attnMask: "float 3", keyPaddingMask: "float" },
  { ...base, addBiasKv: true },
  { ...base, addBiasKv: true, addZeroAttn: true, isCausal: true, queries: 5, batchFirst: false },
  { ...base, addBiasKv: true, addZeroAttn: true, keys: 5, half: true },
  { ...base, addZeroAttn: true, keys: 5, attnMask: "float 3", keyPaddingMask: "float", numHeads: 4, embedDim: 16 },
  { ...base, addBiasKv: true, keys: 5, attnMask: "float 2", keyPaddingMask: "bool" },
  { ...base, weights: "averaged", queries: 4, isCausal: true, half: true },
  { ...base, weights: "averaged", keys: 72, attnMask: "float 2", keyPaddingMask: "float" },
  { ...base, weights: "averaged", keys: 6, attnMask: "float 3", addBiasKv: true, addZeroAttn: true },
  { ...base, weights: "heads", keys: 4, attnMask: "bool 2", numHeads: 4 },
  { ...base, weights: "heads", keys: 4, keyPaddingMask: "float", batch: 3 },
];

/** The inputs of a case with gradients, their shapes and values, in the layout of the module. */
function inputsOf(c: Case, hidden: number): { name: string; shape: Shape; values: Float32Array }[] {
  const { embedDim: E, kdim = E, vdim = E, queries, keys, numHeads } = c;
  const batch = c.unbatched ? 1 : c.batch;
  const rows = (length: number, width: number): Shape =>
    c.unbatched ? [length, width] : c.batchFirst ? [batch, length, width] : [length, batch, width];
  const S = keys ?? queries;
  const apart = kdim !== E || vdim !== E;
  const shapes: Record<string, Shape | false | undefined> = {
    query: rows(queries, E),
    key: keys !== undefined && rows(S, kdim),
    value: keys !== undefined && (c.valueApart || apart) && rows(S, vdim),
    in_proj_weight: !apart && [3 * E, E],
    q_proj_weight: apart && [E, E],
    k_proj_weight: apart && [E, kdim],
    v_proj_weight: apart && [E, vdim],
    in_proj_bias: c.bias !== false && [3 * E],
    bias_k: c.addBiasKv && [1, 1, E],
    bias_v: c.addBiasKv && [1, 1, E],
    "out_proj.weight": c.weights !== "heads" && [E, E],
    "out_proj.bias": c.weights !== "heads" && c.bias !== false && [E],
    attnMask: c.attnMask?.startsWith("float") && [...(c.attnMask.endsWith("3") ? [batch * numHeads] : []), queries, S],
    keyPaddingMask: c.keyPaddingMask === "float" && (c.unbatched ? [S] : [batch, S]),
  };
  return Object.entries(shapes).flatMap(([name, shape], i) => {
    if (!shape) return [];
    const scale = name.endsWith("weight") ? 1 / Math.sqrt(shape[1]!) : 1;
    const values = randomValues(sizeOf(shape), i + 1).map((v) => v * scale);
    if (name === "attnMask") for (let n = 7; n < values.length; n += 11) values[n] = hidden;
    return [{ name, shape, values }];
  });
}

/** True where a bool mask hides: of attnMask all of the second row. */
const hides = (kind: "attnMask" | "keyPaddingMask", n: number, keys: number): boolean =>
  kind === "attnMask" ? Math.floor(n / keys) % 3 === 1 || n % 5 === 2 : n % keys === keys - 1 && n >= keys;

/** Puts tensors into the place of the module's parameters. */
function assign(module: MultiheadAttention, tensors: Record<string, Tensor | undefined>): void {
  const state = module.stateDict();
  for (const [name, x] of Object.entries(tensors)) {
    if (!(name in state)) continue;
    const owner = name.startsWith("out_proj.") ? module.out_proj : module;
    Object.assign(owner, { [name.replace("out_proj.", "")]: x });
  }
}

/** What the weights are multiplied by, to be added to the output. */
const constant = (cols: number, embedDim: number): Float32Array<ArrayBuffer> => randomValues(cols * embedDim, 77);

function run(c: Case, inputs: Record<string, Tensor>): Tensor {
  const { query, key, value } = inputs as { query: Tensor; key?: Tensor; value?: Tensor };
  const S = c.keys ?? c.queries;
  const batch = c.unbatched ? 1 : c.batch;
  const bool = (kind: "attnMask" | "keyPaddingMask", shape: Shape): Tensor =>
    tensor(
      Uint8Array.from({ length: sizeOf(shape) }, (_, n) => Number(hides(kind, n, S))),
      { shape },
    );
  const attnMask = c.attnMask?.startsWith("bool")
    ? bool("attnMask", [...(c.attnMask.endsWith("3") ? [batch * c.numHeads] : []), c.queries, S])
    : inputs.attnMask;
  const keyPaddingMask =
    c.keyPaddingMask === "bool" ? bool("keyPaddingMask", c.unbatched ? [S] : [batch, S]) : inputs.keyPaddingMask;
  const m = new MultiheadAttention(c.embedDim, c.numHeads, c).to(query.dtype as FloatType);
  assign(m, inputs);
  const options = { isCausal: c.isCausal, attnMask, keyPaddingMask };
  if (!c.weights) return m.forward(query, key, value, options);
  const averageAttnWeights = c.weights === "averaged";
  const { output, weights } = m.forward(query, key, value, { ...options, needWeights: true, averageAttnWeights });
  if (!averageAttnWeights) return weights;
  const cols = weights.shape.at(-1)!;
  const factor = tensor(constant(cols, c.embedDim), { shape: [cols, c.embedDim] });
  return add(output, matmul(weights, cast(factor, weights.dtype)));
}

/** The reference on the inputs of a case: y and the gradients by the inputs' names. */
function expected(c: Case, inputs: Record<string, Values>, dy: Values): { y: Values; grads: Record<string, Values> } {
  const { numHeads: heads, embedDim: E, kdim = E, vdim = E, queries } = c;
  const keys = c.keys ?? queries;
  const batch = c.unbatched ? 1 : c.batch;
  /** Between [length, batch, width] and [batch, length, width]. */
  const swap = (x: Values, length: number, toBatchFirst: boolean): Float64Array => {
    const width = x.length / batch / length;
    const y = new Float64Array(x.length);
    for (let n = 0; n < batch; n++)
      for (let l = 0; l < length; l++)
        for (let f = 0; f < width; f++) {
          const [first, second] = [(n * length + l) * width + f, (l * batch + n) * width + f];
          if (toBatchFirst) y[first] = x[second]!;
          else y[second] = x[first]!;
        }
    return y;
  };
  const batched = (x: Values, length: number): Values => (c.batchFirst || c.unbatched ? x : swap(x, length, true));
  const back = (x: Values, length: number): Values => (c.batchFirst || c.unbatched ? x : swap(x, length, false));
  const slice = (x: Values | undefined, i: number, n: number): Values | undefined =>
    x && Array.from(x).slice(i * n, (i + 1) * n);
  const query = batched(inputs.query!, queries);
  const key = inputs.key ? batched(inputs.key, keys) : query;
  const value = inputs.value ? batched(inputs.value, keys) : key;
  const extra = Number(c.addBiasKv ?? false) + Number(c.addZeroAttn ?? false);
  const cols = keys + extra;
  const mask = Float64Array.from({ length: batch * heads * queries * cols }, (_, n) => {
    const [j, i, nh] = [n % cols, Math.floor(n / cols) % queries, Math.floor(n / cols / queries)];
    if (j >= keys) return 0;
    let sum = c.isCausal && j > i ? Number.NEGATIVE_INFINITY : 0;
    const a = ((c.attnMask?.endsWith("3") ? nh : 0) * queries + i) * keys + j;
    const p = Math.floor(nh / heads) * keys + j;
    if (c.attnMask) sum += inputs.attnMask ? inputs.attnMask[a]! : hides("attnMask", a, keys) ? -Infinity : 0;
    if (c.keyPaddingMask)
      sum += inputs.keyPaddingMask ? inputs.keyPaddingMask[p]! : hides("keyPaddingMask", p, keys) ? -Infinity : 0;
    return sum;
  });
  const parameters: MultiheadParameters = {
    ...{ query, key, value, mask },
    qWeight: inputs.q_proj_weight ?? slice(inputs.in_proj_weight, 0, E * E)!,
    kWeight: inputs.k_proj_weight ?? slice(inputs.in_proj_weight, 1, E * E)!,
    vWeight: inputs.v_proj_weight ?? slice(inputs.in_proj_weight, 2, E * E)!,
    outWeight: inputs["out_proj.weight"] ?? new Float64Array(E * E),
    qBias: slice(inputs.in_proj_bias, 0, E),
    kBias: slice(inputs.in_proj_bias, 1, E),
    vBias: slice(inputs.in_proj_bias, 2, E),
    outBias: inputs["out_proj.bias"],
    biasK: inputs.bias_k,
    biasV: inputs.bias_v,
  };
  const dims: MultiheadDims = { batch, heads, queries, keys, embedDim: E, kdim, vdim, addZeroAttn: c.addZeroAttn };
  let dOutput = batched(dy, queries);
  let dWeights: Float64Array | null = null;
  const factor = constant(cols, E);
  if (c.weights === "averaged") {
    dWeights = Float64Array.from({ length: batch * heads * queries * cols }, (_, n) => {
      const [j, i, b] = [n % cols, Math.floor(n / cols) % queries, Math.floor(n / cols / queries / heads)];
      let sum = 0;
      for (let f = 0; f < E; f++) sum += dy[(b * queries + i) * E + f]! * factor[j * E + f]!;
      return sum / heads;
    });
  } else if (c.weights === "heads") {
    dWeights = Float64Array.from(dy);
    dOutput = new Float64Array(batch * queries * E);
  }
  const { y, weights, grads }: MultiheadResult = multiheadReference(parameters, dims, dOutput, dWeights);
  if (c.weights === "averaged") {
    for (const [n, w] of weights.entries()) {
      const [j, i, b] = [n % cols, Math.floor(n / cols) % queries, Math.floor(n / cols / queries / heads)];
      for (let f = 0; f < E; f++) y[(b * queries + i) * E + f]! += (w * factor[j * E + f]!) / heads;
    }
  }
  const sum = (...parts: Values[]): Float64Array =>
    Float64Array.from(parts[0]!, (_, n) => parts.reduce((t, p) => t + p[n]!, 0));
  const join = (...parts: Values[]): Float64Array => Float64Array.from(parts.flatMap((p) => Array.from(p)));
  const fold = (size: number, to: (n: number) => number): Float64Array => {
    const folded = new Float64Array(size);
    for (const [n, g] of grads.mask!.entries()) if (n % cols < keys) folded[to(n)]! += g;
    return folded;
  };
  const both = inputs.value ? [grads.key!] : [grads.key!, grads.value!];
  return {
    y: c.weights === "heads" ? weights : back(y, queries),
    grads: {
      query: back(inputs.key ? grads.query! : sum(grads.query!, grads.key!, grads.value!), queries),
      key: back(sum(...both), keys),
      value: back(grads.value!, keys),
      in_proj_weight: join(grads.qWeight!, grads.kWeight!, grads.vWeight!),
      in_proj_bias: join(grads.qBias!, grads.kBias!, grads.vBias!),
      ...{ q_proj_weight: grads.qWeight!, k_proj_weight: grads.kWeight!, v_proj_weight: grads.vWeight! },
      ...{ bias_k: grads.biasK!, bias_v: grads.biasV! },
      ...{ "out_proj.weight": grads.outWeight!, "out_proj.bias": grads.outBias! },
      attnMask: fold(inputs.attnMask?.length ?? 0, (n) => {
        const [j, i, nh] = [n % cols, Math.floor(n / cols) % queries, Math.floor(n / cols / queries)];
        return ((c.attnMask?.endsWith("3") ? nh : 0) * queries + i) * keys + j;
      }),
      keyPaddingMask: fold(
        inputs.keyPaddingMask?.length ?? 0,
        (n) => Math.floor(n / cols / queries / heads) * keys + (n % cols),
      ),
    },
  };
}

describe("MultiheadAttention", () => {
  for (const dtype of hasF16 ? (["f32", "f16"] as const) : (["f32"] as const)) {
    it.each(cases.filter(({ half }) => half || dtype === "f32").map((c) => [JSON.stringify(c), c] as const))(
      `matches the reference in ${dtype}: %s`,
      async (_, c) => {
        // the helper that rounds to f16 knows no infinity
        const inputs = inputsOf(c, dtype === "f32" ? Number.NEGATIVE_INFINITY : -60);
        const named = <V>(values: readonly V[]): Record<string, V> =>
          Object.fromEntries(inputs.map(({ name }, i) => [name, values[i]!]));
        const errors = await layerErrors({
          dtype,
          inputs: inputs.map(({ shape }) => shape),
          values: inputs.map(({ values }) => values),
          run: (...xs) => run(c, named(xs)),
          reference: (values, dy) => {
            const { y, grads } = expected(c, named(values), dy);
            return { y, grads: inputs.map(({ name }) => grads[name]!) };
          },
        });
        const names = ["y", ...inputs.map(({ name }) => name)];
        for (const [i, error] of errors.entries()) expect(error, names[i]).toBeLessThan(dtype === "f32" ? 2e-5 : 6e-3);
      },
    );
  }

  it("matches PyTorch on every fixture", async () => {
    const pending: Promise<void>[] = [];
    const { f32, f16 } = await fixtureErrors(new URL("./multihead.safetensors", import.meta.url), {
      multiheadAttention: (inputs, { embedDim, numHeads, averageAttnWeights, ...options }) => {
        const { query, key, value, weights: expected, ...parameters } = inputs;
        const { attn_mask: attnMask, key_padding_mask: keyPaddingMask } = inputs;
        const m = new MultiheadAttention(embedDim!, numHeads!, options).to(query!.dtype as FloatType);
        assign(m, parameters);
        const masks = { attnMask, keyPaddingMask };
        const compare = async (): Promise<void> => {
          const { weights } = m.forward(query!, key, value, { ...masks, needWeights: true, averageAttnWeights });
          expect(weights.shape).toEqual(expected!.shape);
          expect(mixedError(await weights.data(), await expected!.data())).toBeLessThan(2e-6);
        };
        if (query!.dtype === "f32") pending.push(compare());
        return m.forward(query!, key, value, masks);
      },
    });
    await Promise.all(pending);
    expect(f32.size).toBe(14);
    expect(f16.size).toBe(hasF16 ? 2 : 0);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(2e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(6e-3);
  });

  it("has a reference whose gradients are right", () => {
    const dims: MultiheadDims = {
      batch: 2,
      heads: 2,
      queries: 2,
      keys: 3,
      embedDim: 4,
      kdim: 3,
      vdim: 2,
      addZeroAttn: true,
    };
    const sizes: Record<keyof MultiheadParameters, number> = {
      ...{ query: 16, key: 18, value: 12, qWeight: 16, kWeight: 12, vWeight: 8, outWeight: 16 },
      ...{ qBias: 4, kBias: 4, vBias: 4, outBias: 4, biasK: 4, biasV: 4, mask: 40 },
    };
    const inputs = Object.fromEntries(
      Object.entries(sizes).map(([name, size], i) => [name, randomValues(size, i + 1)]),
    ) as unknown as MultiheadParameters;
    (inputs.mask as Float32Array)[1] = Number.NEGATIVE_INFINITY;
    const [dy, dWeights] = [randomValues(16, 50), randomValues(40, 51)];
    const { grads } = multiheadReference(inputs, dims, dy, dWeights);
    for (const name of Object.keys(sizes) as (keyof MultiheadParameters)[]) {
      const loss = (at: Float64Array): number => {
        const { y, weights } = multiheadReference({ ...inputs, [name]: at }, dims, dy, dWeights);
        return y.reduce((sum, v, i) => sum + v * dy[i]!, 0) + weights.reduce((sum, v, i) => sum + v * dWeights[i]!, 0);
      };
      const x = inputs[name]!;
      const finite = finiteDifferences(loss, x).filter((_, i) => Number.isFinite(x[i]!));
      expect(
        mixedError(
          finite,
          grads[name]!.filter((_, i) => Number.isFinite(x[i]!)),
        ),
        name,
      ).toBeLessThan(1e-6);
    }
  });

  it("gives zeros to a query that may see no key, with and without weights", async () => {
    const m = new MultiheadAttention(8, 2, { bias: false, batchFirst: true });
    const x = tensor(randomValues(32), { shape: [1, 4, 8], requiresGrad: true });
    const hidden = [0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 1, 0, 0, 1, 1, 1];
    const float = tensor(
      Float32Array.from(hidden, (v, i) => (v ? (i < 8 ? -Infinity : -3.4e38) : 0)),
      { shape: [4, 4] },
    );
    const bool = tensor(Uint8Array.from(hidden), { shape: [4, 4] });
    for (const attnMask of [float, bool]) {
      const { output, weights } = m.forward(x, x, x, { attnMask, needWeights: true });
      expect((await weights.data()).slice(4, 8)).toEqual(new Float32Array(4));
      expect((await output.data()).slice(8, 16)).toEqual(new Float32Array(8));
      const plain = m.forward(x, x, x, { attnMask });
      expect(mixedError(await plain.data(), await output.data())).toBeLessThan(1e-6);
      add(output, plain).backward(tensor(randomValues(32, 2), { shape: [1, 4, 8] }));
      expect((await x.grad!.data()).every(Number.isFinite)).toBe(true);
    }
  });

  it("takes heads that are too wide for the attention kernels", async () => {
    const c = { ...base, numHeads: 1, embedDim: 260, keys: 4 };
    const [query, key] = [randn([2, 3, 260]), randn([2, 4, 260])];
    const m = new MultiheadAttention(260, 1, c);
    const plain = m.forward(query, key);
    const { output } = m.forward(query, key, key, { needWeights: true });
    expect(await plain.data()).toEqual(await output.data());
  });

  it("starts as PyTorch does and has its state dict", async () => {
    const m = new MultiheadAttention(64, 4, { addBiasKv: true });
    expect(Object.entries(m.stateDict()).map(([name, t]) => `${name} ${t.shape}`)).toEqual([
      ...["in_proj_weight 192,64", "in_proj_bias 192", "bias_k 1,1,64", "bias_v 1,1,64"],
      ...["out_proj.weight 64,64", "out_proj.bias 64"],
    ]);
    const limit = async (t: Tensor): Promise<number> => Math.max(...(await t.data()).map(Math.abs));
    expect(await limit(m.in_proj_weight!)).toBeCloseTo(Math.sqrt(6 / 256), 2);
    expect(await limit(m.out_proj.weight)).toBeCloseTo(1 / 8, 2);
    expect(await limit(m.in_proj_bias!)).toBe(0);
    expect(await limit(m.out_proj.bias!)).toBe(0);
    const rows = [...(await m.bias_k!.data()), ...(await m.bias_v!.data())];
    const variance = rows.reduce((sum, v) => sum + v * v, 0) / rows.length;
    expect(variance * 64).toBeGreaterThan(0.6);
    expect(variance * 64).toBeLessThan(1.5);
    const apart = new MultiheadAttention(6, 2, { kdim: 5, vdim: 7, bias: false });
    expect(Object.entries(apart.stateDict()).map(([name, t]) => `${name} ${t.shape}`)).toEqual([
      ...["q_proj_weight 6,6", "k_proj_weight 6,5", "v_proj_weight 6,7", "out_proj.weight 6,6"],
    ]);
    expect(apart.toString()).toBe(
      "MultiheadAttention(\n  (out_proj): Projection(inFeatures=6, outFeatures=6, bias=false)\n)",
    );
  });

  it("drops weights while training only", async () => {
    const [length, embedDim] = [64, 8];
    const m = new MultiheadAttention(embedDim, 2, { dropout: 0.25, batchFirst: true });
    const x = tensor(randomValues(length * embedDim), { shape: [1, length, embedDim], requiresGrad: true });
    manualSeed(1);
    const { output, weights } = m.forward(x, x, x, { needWeights: true, averageAttnWeights: false });
    const values = await weights.data();
    expect(values.filter((v) => v === 0).length / values.length).toBeCloseTo(0.25, 1);
    output.backward(ones(output.shape));
    const grad = await x.grad!.data();
    x.grad = null;
    // the same mask again: the gradient is that of the loss with this mask
    const loss = async (): Promise<number> => {
      manualSeed(1);
      const options = { needWeights: true } as const;
      const y = noGrad(() => m.forward(x, x, x, options).output);
      return Array.from(await y.data()).reduce((sum, v) => sum + v, 0);
    };
    const data = await x.data();
    const h = 1e-2;
    const at = async (i: number, step: number): Promise<number> => {
      copyInto(x, tensor(data.map((v, n) => (n === i ? v + step : v)) as Float32Array, { shape: x.shape }));
      return loss();
    };
    for (const i of [0, 77]) expect(((await at(i, h)) - (await at(i, -h))) / (2 * h)).toBeCloseTo(grad[i]!, 1);
    copyInto(x, tensor(data as Float32Array, { shape: x.shape }));
    manualSeed(2);
    const flash = await m.forward(x).data();
    expect(await m.forward(x).data()).not.toEqual(flash);
    m.eval();
    const still = await m.forward(x).data();
    expect(await m.forward(x).data()).toEqual(still);
    expect(mixedError(flash, still)).toBeGreaterThan(1e-3);
    const none = new MultiheadAttention(embedDim, 2, { dropout: 1, batchFirst: true });
    for (const y of [none.forward(x), none.forward(x, x, x, { needWeights: true }).output])
      expect((await y.data()).every((v) => v === 0)).toBe(true);
  });

  if (hasF16)
    it("computes in f16 under autocast, and softmax in f32", async () => {
      const m = new MultiheadAttention(16, 2, { addBiasKv: true });
      const x = tensor(randomValues(96), { shape: [3, 2, 16], requiresGrad: true });
      const key = tensor(randomValues(224, 2), { shape: [7, 2, 16] });
      const exact = await m.forward(x, key).data();
      const { output, weights } = autocast("f16", () => m.forward(x, key, key, { needWeights: true }));
      const plain = autocast("f16", () => m.forward(x, key));
      const self = autocast("f16", () => new MultiheadAttention(16, 2).forward(x));
      expect([output.dtype, weights.dtype, plain.dtype, self.dtype]).toEqual(["f16", "f32", "f16", "f16"]);
      for (const y of [output, plain]) expect(mixedError(await y.data(), exact)).toBeLessThan(5e-3);
      plain.backward(cast(tensor(randomValues(96, 3), { shape: [3, 2, 16] }), "f16"));
      for (const t of [x, m.in_proj_weight!, m.bias_k!, m.out_proj.weight]) {
        expect(t.grad!.dtype).toBe("f32");
        expect((await t.grad!.data()).every(Number.isFinite)).toBe(true);
      }
    });

  it("gives the same bits each time, and keeps no memory outside the tape", async () => {
    const m = new MultiheadAttention(12, 3, { addBiasKv: true });
    const [x, key] = [
      tensor(randomValues(120), { shape: [5, 2, 12] }),
      tensor(randomValues(168, 2), { shape: [7, 2, 12] }),
    ];
    const attnMask = tensor(randomValues(35, 3), { shape: [5, 7] });
    const once = await noGrad(() => m.forward(x, key, key, { attnMask, needWeights: true })).weights.data();
    expect(await noGrad(() => m.forward(x, key, key, { attnMask, needWeights: true })).weights.data()).toEqual(once);
    scope(() => {
      const before = memory().bytes;
      const kept = noGrad(() => [m.forward(x), m.forward(x, key, key, { attnMask })]);
      expect(kept.length * 512).toBe(memory().bytes - before);
    });
  });

  it("launches no more than its README says", async () => {
    const device = await testDevice();
    const { dispatch } = device;
    const count = (options: MultiheadAttentionOptions, run: (m: MultiheadAttention) => unknown): number => {
      const m = new MultiheadAttention(64, 4, options);
      let n = 0;
      device.dispatch = (...args) => {
        n++;
        dispatch.apply(device, args);
      };
      try {
        noGrad(() => run(m));
      } finally {
        device.dispatch = dispatch;
      }
      return n;
    };
    const [x, y, z] = [zeros([3, 2, 64]), zeros([5, 2, 64]), zeros([5, 2, 64])];
    const one = zeros([2, 64]);
    const attnMask = zeros([3, 3]);
    const keyPaddingMask = zeros([3, 2], { dtype: "bool" });
    expect(count({}, (m) => m.forward(one))).toBe(3);
    expect(count({ batchFirst: true }, (m) => m.forward(x, x, x, { isCausal: true, keyPaddingMask }))).toBe(4);
    expect(count({}, (m) => m.forward(x))).toBe(5);
    expect(count({}, (m) => m.forward(x, y))).toBe(8);
    expect(count({}, (m) => m.forward(x, y, z))).toBe(9);
    expect(count({ addBiasKv: true }, (m) => m.forward(x))).toBe(7 + 2);
    expect(count({ addZeroAttn: true }, (m) => m.forward(x, y))).toBe(8 + 4);
    expect(count({}, (m) => m.forward(x, x, x, { needWeights: true, attnMask }))).toBe(7 + 3);
    expect(count({}, (m) => m.forward(x, y, z, { needWeights: true }))).toBe(9 + 3);
  });

  it("names what is wrong with its settings", () => {
    expect(() => new MultiheadAttention(0, 1)).toThrow(
      "MultiheadAttention: embedDim is 0, expected a whole number ≥ 1",
    );
    expect(() => new MultiheadAttention(8, 3)).toThrow("embedDim is 8, expected a multiple of numHeads, 3");
    expect(() => new MultiheadAttention(8, 2, { kdim: 1.5 })).toThrow("MultiheadAttention: kdim is 1.5, expected");
    expect(() => new MultiheadAttention(8, 2, { dropout: 2 })).toThrow(
      "dropout is 2, expected a probability from 0 to 1",
    );
  });

  it("names what is wrong with its input", () => {
    const m = new MultiheadAttention(4, 2);
    const x = zeros([3, 2, 4]);
    const refused = (run: () => unknown, message: string): void =>
      expect(run).toThrow(`MultiheadAttention: ${message}`);
    refused(() => m.forward(zeros([4])), "query has shape [4], expected [L,batch,4] or [L,4]");
    refused(() => m.forward(zeros([3, 5])), "query has shape [3,5], expected [L,4]");
    refused(() => m.forward(x, zeros([3, 1, 4])), "key has shape [3,1,4], expected [S,2,4]");
    refused(() => m.forward(x, zeros([3, 4])), "key has shape [3,4], expected [S,2,4]");
    refused(() => m.forward(x, x, zeros([5, 2, 4])), "value has shape [5,2,4], expected [3,2,4]");
    refused(() => m.forward(cast(x, "i32")), "query is i32, expected f32 or f16");
    refused(
      () => m.forward(x, x, x, { attnMask: zeros([2, 3]) }),
      "attnMask has shape [2,3], expected [3,3] or [4,3,3]",
    );
    refused(
      () => m.forward(x, x, x, { keyPaddingMask: zeros([3, 2]) }),
      "keyPaddingMask has shape [3,2], expected [2,3]",
    );
    refused(
      () => m.forward(x, x, x, { attnMask: zeros([3, 3], { dtype: "i32" }) }),
      "attnMask is i32, expected bool, f32 or f16",
    );
    const batchFirst = new MultiheadAttention(4, 2, { kdim: 3, batchFirst: true });
    refused(() => batchFirst.forward(zeros([3, 2, 4])), "key has shape [3,2,4], expected [3,S,3]");
    refused(() => batchFirst.forward(zeros([1])), "query has shape [1], expected [batch,L,4] or [L,4]");
  });

  if (hasF16)
    it("asks for one dtype", () => {
      const x = zeros([3, 2, 4], { dtype: "f16" });
      expect(() => new MultiheadAttention(4, 2).forward(x)).toThrow(
        "MultiheadAttention: query is f16 and the parameters f32, expected one dtype (or autocast)",
      );
    });
});
