import { autocast, type Gather, matmul, matmulForward, type Shape, tensor } from "@kindling/core";
import { fixtureErrors, layerErrors, mixedError, poison, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { chooseMatmul, type MatmulShape } from "../src/matmul.kernels.ts";

const hasF16 = (await testDevice()).features.has("shader-f16");

/** Plain loops in float64. One matrix serves all batches where an operand has no batch axis. */
function reference(dims: {
  B: number;
  M: number;
  N: number;
  K: number;
  tA: boolean;
  tB: boolean;
  oneA: boolean;
  oneB: boolean;
}) {
  const { B, M, N, K, tA, tB, oneA, oneB } = dims;
  return ([a, b, bias]: ArrayLike<number>[], dy: ArrayLike<number>) => {
    const y = new Float64Array(B * M * N);
    const grads = [new Float64Array(a!.length), new Float64Array(b!.length), ...(bias ? [new Float64Array(N)] : [])];
    for (let t = 0; t < B; t++) {
      for (let i = 0; i < M; i++) {
        for (let j = 0; j < N; j++) {
          const c = (t * M + i) * N + j;
          let sum = bias?.[j] ?? 0;
          for (let k = 0; k < K; k++) {
            const at = (oneA ? 0 : t * M * K) + (tA ? k * M + i : i * K + k);
            const bt = (oneB ? 0 : t * K * N) + (tB ? j * K + k : k * N + j);
            sum += a![at]! * b![bt]!;
            grads[0]![at]! += dy[c]! * b![bt]!;
            grads[1]![bt]! += dy[c]! * a![at]!;
          }
          y[c] = sum;
          if (bias) grads[2]![j]! += dy[c]!;
        }
      }
    }
    return { y, grads };
  };
}

const cases = [
  { B: 1, M: 1, N: 1, K: 1 },
  { B: 1, M: 3, N: 67, K: 5 },
  { B: 1, M: 67, N: 1, K: 257 },
  { B: 1, M: 1, N: 257, K: 67 },
  { B: 1, M: 129, N: 130, K: 33 },
  { B: 1, M: 64, N: 64, K: 64 },
  { B: 1, M: 12, N: 16, K: 4097 },
  { B: 3, M: 5, N: 7, K: 9 },
];
const layouts = [
  { tA: false, tB: false },
  { tA: false, tB: true },
  { tA: true, tB: false },
  { tA: true, tB: true },
];

describe("matmul", () => {
  it.each(cases.flatMap((dims) => layouts.map((layout) => ({ ...dims, ...layout }))))(
    "$B × [$M,$K]·[$K,$N] tA=$tA tB=$tB",
    async (c) => {
      const lead: Shape = c.B > 1 ? [c.B] : [];
      const errors = await layerErrors({
        inputs: [[...lead, ...(c.tA ? [c.K, c.M] : [c.M, c.K])], [...lead, ...(c.tB ? [c.N, c.K] : [c.K, c.N])], [c.N]],
        run: (a, b, bias) => matmul(a!, b!, { transposeA: c.tA, transposeB: c.tB, bias }),
        reference: reference({ ...c, oneA: false, oneB: false }),
      });
      expect(Math.max(...errors)).toBeLessThan(5e-6 * Math.sqrt(c.K + c.M + c.N));
    },
  );

  it.each([
    { oneA: false, oneB: true, tA: false, tB: true },
    { oneA: false, oneB: true, tA: true, tB: false },
    { oneA: true, oneB: false, tA: false, tB: false },
    { oneA: true, oneB: false, tA: true, tB: true },
  ])("serves all batches with one matrix: $oneA $oneB", async ({ oneA, oneB, tA, tB }) => {
    const [B, M, N, K] = [3, 9, 10, 11];
    const a = tA ? [K, M] : [M, K];
    const b = tB ? [N, K] : [K, N];
    const errors = await layerErrors({
      inputs: [oneA ? a : [B, ...a], oneB ? b : [B, ...b]],
      run: (x, w) => matmul(x!, w!, { transposeA: tA, transposeB: tB }),
      reference: reference({ B, M, N, K, tA, tB, oneA, oneB }),
    });
    expect(Math.max(...errors)).toBeLessThan(1e-5);
  });

  if (hasF16)
    it.each(layouts)("rounds f16 once: tA=$tA tB=$tB", async ({ tA, tB }) => {
      const [M, N, K] = [65, 36, 131];
      const errors = await layerErrors({
        inputs: [tA ? [K, M] : [M, K], tB ? [N, K] : [K, N]],
        dtype: "f16",
        run: (a, b) => matmul(a!, b!, { transposeA: tA, transposeB: tB }),
        reference: reference({ B: 1, M, N, K, tA, tB, oneA: false, oneB: false }),
      });
      expect(Math.max(...errors)).toBeLessThan(1e-3); // half a unit in the last of 11 bits
    });

  // A software GPU has a kernel of its own; these run what a real one would. Pipelines compile slowly here, so they are few.
  it.each([
    { B: 1, M: 129, N: 130, K: 33, tA: false, tB: true },
    { B: 1, M: 130, N: 67, K: 64, tA: true, tB: false },
    { B: 1, M: 3, N: 257, K: 67, tA: false, tB: false },
    { B: 1, M: 257, N: 1, K: 68, tA: false, tB: true },
    { B: 1, M: 12, N: 16, K: 4097, tA: true, tB: true },
    { B: 3, M: 9, N: 10, K: 36, tA: false, tB: false },
  ])(
    "runs the kernels of real GPUs: $B × [$M,$K]·[$K,$N] tA=$tA tB=$tB",
    async (c) => {
      const lead: Shape = c.B > 1 ? [c.B] : [];
      const device = await testDevice();
      const { software } = device;
      device.software = false;
      try {
        const errors = await layerErrors({
          inputs: [
            [...lead, ...(c.tA ? [c.K, c.M] : [c.M, c.K])],
            [...lead, ...(c.tB ? [c.N, c.K] : [c.K, c.N])],
            [c.N],
          ],
          run: (a, b, bias) => matmul(a!, b!, { transposeA: c.tA, transposeB: c.tB, bias }),
          reference: reference({ ...c, oneA: false, oneB: false }),
        });
        expect(Math.max(...errors)).toBeLessThan(5e-6 * Math.sqrt(c.K + c.M + c.N));
      } finally {
        device.software = software;
      }
    },
    180_000,
  );

  if (hasF16)
    it("computes in f16 under autocast and gives f32 gradients to f32 operands", async () => {
      const a = tensor(randomValues(6 * 20), { shape: [6, 20], requiresGrad: true });
      const b = tensor(randomValues(20 * 10, 2), { shape: [20, 10], requiresGrad: true });
      const y = autocast("f16", () => matmul(a, b));
      expect(y.dtype).toBe("f16");
      y.backward(tensor(randomValues(60, 3), { shape: [6, 10], dtype: "f16" }));
      expect([a.grad!.dtype, b.grad!.dtype]).toEqual(["f32", "f32"]);
      const exact = reference({ B: 1, M: 6, N: 10, K: 20, tA: false, tB: false, oneA: true, oneB: true })(
        [randomValues(120), randomValues(200, 2)],
        randomValues(60, 3),
      );
      const [dy, da] = [await y.data(), await a.grad!.data()];
      expect(Math.max(...exact.y.map((v, i) => Math.abs(v - dy[i]!)))).toBeLessThan(1e-2);
      expect(Math.max(...exact.grads[0]!.map((v, i) => Math.abs(v - da[i]!)))).toBeLessThan(1e-2);
    });

  it("matches PyTorch on every fixture", async () => {
    const { f32, f16 } = await fixtureErrors(new URL("./core.safetensors", import.meta.url), {
      matmul: ({ a, b, bias }, options) => matmul(a!, b!, { ...options, bias }),
    });
    expect(f32.size).toBeGreaterThan(10);
    for (const [name, error] of f32) expect(error, name).toBeLessThan(1e-5);
    for (const [name, error] of f16) expect(error, name).toBeLessThan(1e-3);
  });

  it("treats vectors as torch.matmul does", async () => {
    const m = tensor([
      [1, 2, 3],
      [4, 5, 6],
    ]);
    expect(await matmul(m, tensor([1, 1, 1])).array()).toEqual([6, 15]);
    expect(await matmul(tensor([1, 1]), m).array()).toEqual([5, 7, 9]);
    expect(await matmul(tensor([1, 2]), tensor([3, 4])).array()).toBe(11);
  });

  it.each<[lead: Shape, Shape, Shape]>([
    [
      [2, 1],
      [1, 3],
      [2, 3],
    ],
    [[2, 1], [3], [2, 3]],
    [[3], [2, 1, 3], [2, 1, 3]],
  ])("broadcasts the leading axes [%s] and [%s] as torch.matmul does", async (leadA, leadB, lead) => {
    const [M, K, N] = [3, 5, 4];
    // where an element of the result comes from, by the row-major number of its leading axes
    const batchOf = (own: Shape, batch: number): number => {
      let at = 0;
      let rest = batch;
      let stride = 1;
      for (let i = 1; i <= lead.length; i++) {
        at += (own.at(-i) ?? 1) > 1 ? (rest % lead.at(-i)!) * stride : 0;
        rest = Math.floor(rest / lead.at(-i)!);
        stride *= own.at(-i) ?? 1;
      }
      return at;
    };
    const errors = await layerErrors({
      inputs: [
        [...leadA, M, K],
        [...leadB, K, N],
      ],
      run: (a, b) => matmul(a!, b!),
      reference: ([a, b], dc) => {
        const [y, da, db] = [dc, a!, b!].map(({ length }) => new Float64Array(length)) as Float64Array[];
        for (let e = 0; e < dc.length; e++) {
          const [batch, m, n] = [Math.floor(e / (M * N)), Math.floor(e / N) % M, e % N];
          for (let k = 0; k < K; k++) {
            const [i, j] = [(batchOf(leadA, batch) * M + m) * K + k, (batchOf(leadB, batch) * K + k) * N + n];
            y![e]! += a![i]! * b![j]!;
            da![i]! += dc[e]! * b![j]!;
            db![j]! += dc[e]! * a![i]!;
          }
        }
        return { y: y!, grads: [da!, db!] };
      },
    });
    expect(Math.max(...errors)).toBeLessThan(1e-5);
  });

  it("names what is wrong with its operands", () => {
    const x = (shape: Shape) => tensor(new Float32Array(shape.reduce((n, d) => n * d, 1)), { shape });
    expect(() => matmul(x([2, 3]), x([4, 5]))).toThrow("matmul: a [2,3] and b [4,5] share no inner dimension: 3 and 4");
    expect(() => matmul(x([2, 2, 3]), x([3, 3, 5]))).toThrow("leading axes that do not broadcast: [2] and [3]");
    expect(() => matmul(x([2, 3]), x([3, 5]), { bias: x([4]) })).toThrow("matmul: bias has shape [4], expected [5]");
    expect(() => matmul(tensor([[1]], { dtype: "i32" }), x([1, 1]))).toThrow("matmul: a is i32, expected f32 or f16");
    if (hasF16)
      expect(() => matmul(tensor([[1]], { dtype: "f16" }), x([1, 1]))).toThrow("matmul: a is f16 and b is f32");
  });
});

// Y[image, g] = W[g] · X[image, g] + bias[g] for all images at once: a column of the product is a pixel of an image.
interface GatherCase {
  groups: number;
  images: number;
  M: number;
  K: number;
  P: number;
  /** W is stored as [groups, M, K], else as [groups, K, M]; X as [images, groups, P, K], else as [images, groups, K, P]. */
  kMajorA: boolean;
  kMajorB: boolean;
  /** Elements that XLoad returns. */
  widthA: 1 | 4;
  widthB: 1 | 4;
}

function gatherOf({ groups, P, kMajorA, kMajorB, widthA, widthB }: GatherCase): Gather {
  const read = (x: string, width: number): string => (width === 4 ? `${x}[(at + step) / 4]` : `${x}[at + step]`);
  const T = (width: number): string => (width === 4 ? "vec4f" : "f32");
  return {
    fields: "P: u32, groups: u32",
    params: { P, groups },
    a: {
      kMajor: kMajorA,
      width: widthA,
      vectors: widthA === 4,
      source: `
fn aAt(batch: u32, i: u32) -> u32 { return batch * params.M * params.K + i * ${kMajorA ? "params.K" : "1"}; }
fn aStep(k: u32) -> u32 { return k * ${kMajorA ? "1" : "params.M"}; }
fn aLoad(at: u32, step: u32) -> ${T(widthA)} { return ${read("a", widthA)}; }
`,
    },
    b: {
      kMajor: kMajorB,
      width: widthB,
      vectors: widthB === 4,
      source: `
fn bAt(batch: u32, i: u32) -> u32 {
  return (i / params.P * params.groups + batch) * params.K * params.P + i % params.P * ${kMajorB ? "params.K" : "1"};
}
fn bStep(k: u32) -> u32 { return k * ${kMajorB ? "1" : "params.P"}; }
fn bLoad(at: u32, step: u32) -> ${T(widthB)} { return ${read("b", widthB)}; }
`,
    },
    c: {
      pitch: P,
      wide: P % 4 === 0,
      source: `
fn cAt(batch: u32, col: u32) -> u32 { return (col / params.P * params.groups + batch) * params.M * params.P + col % params.P; }
`,
    },
  };
}

async function gatherError(c: GatherCase): Promise<number> {
  const { groups, images, M, K, P, kMajorA, kMajorB } = c;
  const [w, x, bias] = [
    randomValues(groups * M * K, 1),
    randomValues(images * groups * K * P, 2),
    randomValues(groups * M),
  ];
  const exact = Float64Array.from({ length: images * groups * M * P }, (_, i) => {
    const [p, m, g, image] = [
      i % P,
      Math.floor(i / P) % M,
      Math.floor(i / P / M) % groups,
      Math.floor(i / P / M / groups),
    ];
    let sum = bias[g * M + m]!;
    for (let k = 0; k < K; k++) {
      const at = g * M * K + (kMajorA ? m * K + k : k * M + m);
      const bt = (image * groups + g) * K * P + (kMajorB ? p * K + k : k * P + p);
      sum += w[at]! * x[bt]!;
    }
    return sum;
  });
  const memory = poison(await testDevice());
  try {
    const { c: y } = matmulForward(tensor(w), tensor(x), {
      ...{ M, N: images * P, K, batch: groups, gather: gatherOf(c), bias: tensor(bias) },
      shape: [images, groups, M, P],
    });
    const error = mixedError(await y.data(), exact);
    await memory.check();
    return error;
  } finally {
    memory.restore();
  }
}

describe("gathered operands", () => {
  it.each([
    { groups: 1, images: 3, M: 5, K: 9, P: 7, kMajorA: true, kMajorB: false, widthA: 1, widthB: 1 },
    { groups: 2, images: 2, M: 8, K: 12, P: 12, kMajorA: true, kMajorB: false, widthA: 4, widthB: 4 },
    { groups: 3, images: 2, M: 7, K: 20, P: 5, kMajorA: false, kMajorB: true, widthA: 1, widthB: 4 },
    { groups: 1, images: 2, M: 20, K: 67, P: 8, kMajorA: false, kMajorB: true, widthA: 4, widthB: 1 },
  ] as GatherCase[])("are found by WGSL of the caller: %o", async (c) => {
    expect(await gatherError(c)).toBeLessThan(1e-5);
  });

  it.each([
    { groups: 2, images: 3, M: 33, K: 35, P: 49, kMajorA: true, kMajorB: false, widthA: 1, widthB: 1 },
    { groups: 1, images: 2, M: 36, K: 256, P: 20, kMajorA: false, kMajorB: true, widthA: 4, widthB: 4 },
  ] as GatherCase[])(
    "in the kernels of real GPUs: %o",
    async (c) => {
      const device = await testDevice();
      const { software } = device;
      device.software = false;
      try {
        expect(await gatherError(c)).toBeLessThan(1e-5);
      } finally {
        device.software = software;
      }
    },
    180_000,
  );
});

describe("the choice of a kernel", () => {
  const shape = (M: number, N: number, K: number, T: "f32" | "f16" = "f32"): MatmulShape => ({
    ...{ M, N, K, batch: 1, a: T, b: T, c: T, compute: T, transposeA: false, transposeB: false },
    ...{ broadcastA: false, broadcastB: false },
  });
  const gpu = { subgroupMatrix: true, f16: true, workgroupStorage: 32768 };

  it("goes by the shape and the device, and is the same each time", () => {
    const square = chooseMatmul(shape(4096, 4096, 4096), gpu);
    expect(chooseMatmul(shape(4096, 4096, 4096), gpu)).toEqual(square);
    const long = chooseMatmul(shape(64, 64, 65536), gpu);
    expect(square.splitK).toBe(1);
    expect(long.splitK).toBeGreaterThan(8);
    const kinds = [shape(4096, 4096, 4096, "f16"), shape(1, 4096, 4096), shape(4096, 4096, 4096)];
    expect(new Set(kinds.map((one) => chooseMatmul(one, gpu).kind)).size).toBe(3);
    expect(chooseMatmul(kinds[0]!, { ...gpu, subgroupMatrix: false }).kind).toBe(square.kind);
  });
});
