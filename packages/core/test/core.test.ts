import {
  add,
  capture,
  cast,
  clearGrad,
  copyInto,
  DeviceError,
  empty,
  emptyLike,
  full,
  grid,
  kernel,
  manualSeed,
  matmul,
  memory,
  mul,
  noGrad,
  normal,
  ones,
  parameter,
  persist,
  rand,
  record,
  scope,
  sumRows,
  type Tensor,
  tensor,
  zeros,
} from "@kindling/core";
import { layerErrors, mixedError, randomValues, testDevice, toF16 } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { decodeHalf, encodeHalf } from "../src/half.ts";
import { sizeClass } from "../src/pool.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
/** The half type, or what stands in for it on a GPU without. */
const half = hasF16 ? "f16" : "f32";

const values = (t: Tensor): Promise<number[]> => t.data().then((d) => Array.from(d));

describe("tensor", () => {
  it("holds what it was given, in every dtype", async () => {
    expect(
      await tensor([
        [1, 2],
        [3, 4],
      ]).array(),
    ).toEqual([
      [1, 2],
      [3, 4],
    ]);
    expect(await tensor([true, false]).array()).toEqual([true, false]);
    expect(await tensor([1.5, -2, 65504], { dtype: half }).array()).toEqual([1.5, -2, 65504]);
    expect(await tensor(new Int32Array([-1, 2, 3]), { shape: [3, 1] }).array()).toEqual([[-1], [2], [3]]);
    expect(await tensor(new Uint32Array([4294967295])).item()).toBe(4294967295);
    expect(await tensor(7).item()).toBe(7);
  });

  it.each([
    [() => tensor([[1, 2], [3]]), "rows of 2 and 1"],
    [() => tensor([1, 2, 3], { shape: [2, 2] }), "shape [2,2] holds 4 elements, the data has 3"],
    [() => empty([0, 3]), "shape [0,3] has a dimension 0"],
    [() => empty([2, 1.5]), "dimension 1.5"],
    [() => empty([1 << 20, 1 << 20]), "takes 4398046511104 bytes"],
    [() => empty([1], { dtype: "f64" as never }), 'dtype "f64" is unknown'],
    [() => tensor([1, 2]).reshape([3]), "[2] has 2 elements and cannot take shape [3]"],
    [() => parameter(tensor([1], { dtype: "i32" })), "only f32 and f16 tensors have gradients"],
  ])("refuses bad input %#", (make, message) => {
    expect(make).toThrow(message);
  });

  it("says so when it is used after dispose", async () => {
    const x = tensor([1, 2]);
    x.dispose();
    expect(() => add(x, x)).toThrow("was disposed");
    await expect(x.data()).rejects.toThrow("was disposed");
  });

  it("reshapes with one unknown dimension", () => {
    expect(tensor(new Float32Array(12)).reshape([3, -1]).shape).toEqual([3, 4]);
  });

  it("casts between all dtypes", async () => {
    const x = tensor([0, 1.5, -2.5]);
    expect(await values(cast(x, "i32"))).toEqual([0, 1, -2]);
    expect(await values(cast(x, "bool"))).toEqual([0, 1, 1]);
    expect(await values(cast(cast(x, "bool"), "f32"))).toEqual([0, 1, 1]);
    expect(await values(cast(x, half))).toEqual([0, 1.5, -2.5]);
  });
});

describe("half", () => {
  it("rounds every f32 as the GPU's f16 does, and reads every f16 back", () => {
    const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
    const decoded = decodeHalf(bits);
    const back = encodeHalf(decoded);
    for (let i = 0; i < bits.length; i++) if (!Number.isNaN(decoded[i])) expect(back[i]).toBe(i);
    expect([
      ...decodeHalf(encodeHalf([65519.99, 65520, 2 ** -25, 2 ** -25 * 1.01, 1 + 2 ** -11, 1 + 3 * 2 ** -11])),
    ]).toEqual([65504, Number.POSITIVE_INFINITY, 0, 2 ** -24, 1, 1 + 2 ** -9]);
    const random = randomValues(1000);
    expect([...toF16(random)]).toEqual([...decodeHalf(encodeHalf(random))]);
  });
});

describe("arithmetic", () => {
  it.each([
    [[1], [1]],
    [[3, 67], [67]],
    [
      [2, 3, 5],
      [3, 5],
    ],
    [
      [2, 257],
      [2, 257],
    ],
    [[5, 3], []],
    [[4097, 8], [8]],
  ])("adds and multiplies [%s] and [%s]", async (a, b) => {
    const n = b.reduce((x, y) => x * y, 1);
    for (const dtype of ["f32", half] as const) {
      for (const [f, g] of [
        [add, false],
        [mul, true],
      ] as const) {
        const errors = await layerErrors({
          inputs: [a, b],
          dtype,
          run: (x, y) => f(x!, y!),
          reference: ([x, w], dy) => {
            const db = new Float64Array(n);
            for (const [i, d] of Array.from(dy).entries()) db[i % n]! += g ? d * x![i]! : d;
            const pick = (i: number): number => w![i % n]!;
            const y = Float64Array.from(x!, (v, i) => (g ? v * pick(i) : v + pick(i)));
            return { y, grads: [Float64Array.from(dy, (d, i) => (g ? d * pick(i) : d)), db] };
          },
        });
        expect(Math.max(...errors), dtype).toBeLessThan(dtype === "f32" ? 1e-5 : 1e-3);
      }
    }
  });

  if (hasF16)
    it("promotes f16 with f32 to f32 and sends each its own gradient", async () => {
      const a = tensor([1, 2, 3], { dtype: "f16", requiresGrad: true });
      const b = tensor([1, 1, 1], { requiresGrad: true });
      const y = add(a, b);
      y.backward(ones([3]));
      expect([y.dtype, a.grad!.dtype, b.grad!.dtype]).toEqual(["f32", "f16", "f32"]);
    });

  it("sums over rows", async () => {
    const x = tensor(randomValues(70001 * 3), { shape: [70001, 3] });
    const exact = [0, 0, 0];
    for (const [i, v] of (await values(x)).entries()) exact[i % 3]! += v;
    expect(mixedError(await sumRows(x, [3]).data(), exact)).toBeLessThan(1e-5);
  });

  it("refuses shapes it cannot repeat", () => {
    expect(() => add(ones([2, 3]), ones([2]))).toThrow(
      "add: shapes [2,3] and [2]; expected equal shapes, or one that ends in the other",
    );
    expect(() => mul(tensor([1], { dtype: "u32" }), 2)).toThrow("mul: expected an f32 or f16 tensor, got u32");
  });
});

describe("autograd", () => {
  it("adds up the paths to one leaf", async () => {
    const x = tensor([2, 3], { requiresGrad: true });
    const y = mul(x, x);
    add(add(y, x), mul(y, x)).backward(ones([2])); // x² + x + x³
    expect(await values(x.grad!)).toEqual([1 + 4 + 12, 1 + 6 + 27]);
  });

  it("accumulates over calls until the gradient is cleared", async () => {
    const x = tensor([1], { requiresGrad: true });
    for (let i = 0; i < 3; i++) mul(x, 2).backward();
    expect(await x.grad!.item()).toBe(6);
    clearGrad(x);
    mul(x, 2).backward();
    expect(await x.grad!.item()).toBe(2);
  });

  it("gives each leaf memory of its own", () => {
    const [a, b] = [tensor([1, 2], { requiresGrad: true }), tensor([3, 4], { requiresGrad: true })];
    add(a, b).backward(ones([2]));
    expect(a.grad!.storage).not.toBe(b.grad!.storage);
  });

  it("keeps an intermediate gradient on request, and the caller's own", async () => {
    const x = tensor([3], { requiresGrad: true });
    const y = mul(x, 2).retainGrad();
    const dy = tensor([5]);
    mul(y, 10).backward(dy);
    expect([await y.grad!.item(), await x.grad!.item(), await dy.item()]).toEqual([50, 100, 5]);
  });

  it("stays off the tape in noGrad and after detach", () => {
    const x = tensor([1], { requiresGrad: true });
    expect(noGrad(() => mul(x, 2)).requiresGrad).toBe(false);
    expect(mul(x, 2).detach().requiresGrad).toBe(false);
    expect(() => mul(x.detach(), 2).backward()).toThrow("depends on no tensor that requires a gradient");
  });

  it("runs twice only when asked to keep the graph", async () => {
    const x = tensor([2], { requiresGrad: true });
    const y = mul(x, x);
    y.backward(undefined, { retainGraph: true });
    y.backward();
    expect(await x.grad!.item()).toBe(8);
    expect(() => y.backward()).toThrow("the graph was already freed");
  });

  it("notices an operand that was overwritten after it was saved", () => {
    const x = parameter(tensor([2]));
    const y = mul(x, x);
    copyInto(x, tensor([5]));
    expect(() => y.backward()).toThrow("was overwritten after an operation saved it");
  });

  it("refuses a gradient of the wrong shape, given or returned", () => {
    const x = tensor([1, 2], { requiresGrad: true });
    expect(() => mul(x, 2).backward()).toThrow("is not a scalar; pass the gradient of shape [2]");
    expect(() => mul(x, 2).backward(ones([3]))).toThrow("grad is [3] f32; expected [2] f32");
    expect(() => record(emptyLike(x), [x], () => [ones([3])]).backward(ones([2]))).toThrow(
      "a gradient rule returned [3] f32 for an input of [2] f32",
    );
  });

  it("gives rules with several outputs null for those that nothing used", async () => {
    const x = tensor([1, 2], { requiresGrad: true });
    const [a] = record([mul(x.detach(), 2), mul(x.detach(), 3)], [x], ([da, db]) => {
      expect(db).toBeNull();
      return [mul(da!, 2)];
    });
    a!.backward(ones([2]));
    expect(await values(x.grad!)).toEqual([2, 2]);
  });

  it("walks graphs deeper than the call stack", async () => {
    const x = tensor([1], { requiresGrad: true });
    let y: Tensor = x;
    for (let i = 0; i < 20000; i++) y = mul(y, 1);
    y.backward();
    expect(await x.grad!.item()).toBe(1);
  });
});

describe("scope", () => {
  it("frees what is inside, but not what is returned, kept, or persistent", () => {
    const before = memory().tensors;
    let inner: Tensor[] = [];
    const y = scope(() => {
      inner = [tensor([1]), persist(tensor([2]))];
      return { y: mul(inner[0]!, 2) };
    });
    expect(inner.map((t) => t.disposed)).toEqual([true, false]);
    expect(y.y.disposed).toBe(false);
    expect(memory().tensors).toBe(before + 2);
    inner[1]!.dispose();
    y.y.dispose();
    const s = scope();
    const [kept, dropped] = [s.keep(tensor([1])), tensor([2])];
    s.end();
    expect([kept.disposed, dropped.disposed]).toEqual([false, true]);
  });

  it("hands survivors to the enclosing scope and frees on errors", () => {
    const before = memory().tensors;
    let y!: Tensor;
    scope(() => {
      y = scope(() => mul(tensor([1]), 2));
      expect(y.disposed).toBe(false);
    });
    expect(y.disposed).toBe(true);
    expect(() =>
      scope(() => {
        mul(tensor([1]), 2);
        throw new Error("x");
      }),
    ).toThrow("x");
    expect(memory().tensors).toBe(before);
  });

  it("spans an async function", async () => {
    let inside!: Tensor;
    const y = await scope(async () => {
      inside = tensor([3]);
      await inside.data();
      return mul(inside, 2);
    });
    expect([inside.disposed, await y.item()]).toEqual([true, 6]);
    await expect(scope(() => Promise.reject(new Error("x")))).rejects.toThrow("x");
  });

  it("holds live and pooled bytes constant over 1,000 steps, with the same bind groups", async () => {
    const w = parameter(rand([16, 16]));
    const x = rand([8, 16]);
    const step = (): void => {
      using _ = scope();
      clearGrad(w);
      mul(matmul(x, w), 0.5).backward(ones([8, 16]));
    };
    for (let i = 0; i < 3; i++) step();
    const [before, groups] = [memory(), device.groups];
    for (let i = 0; i < 1000; i++) step();
    expect(memory()).toEqual(before);
    expect(device.groups).toBe(groups);
  });

  it("adds one row to a matrix of one row", async () => {
    const [a, b] = [tensor([[1, 2]], { requiresGrad: true }), tensor([3, 4], { requiresGrad: true })];
    add(a, b).backward(ones([1, 2]));
    expect([a.grad!.shape, b.grad!.shape]).toEqual([[1, 2], [2]]);
  });

  it("gives back memory on trim", async () => {
    scope(() => void zeros([1 << 20]));
    expect(memory().pooledBytes).toBeGreaterThanOrEqual(1 << 22);
    device.trim();
    expect(memory().pooledBytes).toBe(0);
    expect(await add(ones([3]), ones([3])).array()).toEqual([2, 2, 2]);
  });
});

it("rounds sizes up by at most an eighth above 64 KiB", () => {
  for (const n of [1, 255, 257, 65536, 65537, 100000, 1 << 20, (1 << 20) + 1, 3 * 10 ** 9]) {
    const c = sizeClass(n);
    expect(c).toBeGreaterThanOrEqual(n);
    if (n > 65536) expect(c).toBeLessThanOrEqual(n * 1.13);
    expect(sizeClass(c)).toBe(c);
  }
});

describe("kernel", () => {
  const double = kernel(
    "double",
    /* wgsl */ `
struct Params { n: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) id: vec3u) { if (id.x < params.n) { y[id.x] = 2 * x[id.x]; } }`,
  );

  it("checks its bindings before any GPU work", () => {
    const x = ones([3]);
    const launch = { workgroups: [1] } as const;
    expect(() => double.run({ params: { n: 3 }, x } as never, launch)).toThrow('double: binding "y" needs a tensor');
    expect(() => double.run({ params: { n: 3 }, x: tensor([1], { dtype: "i32" }), y: x }, launch)).toThrow(
      'binding "x" is array<f32>, got a tensor of i32',
    );
    expect(() => double.run({ params: {} as never, x, y: ones([3]) }, launch)).toThrow("double: params.n is missing");
    expect(() => double.run({ params: { n: 3 }, x, y: ones([3]) }, { workgroups: [70000] })).toThrow(
      "allows 65535 per dimension",
    );
    expect(() =>
      double.run({ params: { n: 3 }, x, y: ones([3]) }, { ...launch, constants: { WG: 1 } as never }),
    ).toThrow('declares no override "WG"');
  });

  it("says what it cannot read in a kernel's text", () => {
    expect(() => kernel("k", "@group(0) @binding(0) var<storage, read> x: array<Thing>;")).toThrow(
      'k: binding "x" is var<storage, read> array<Thing>',
    );
    expect(() => kernel("k", "struct P { v: vec4f }\n@group(0) @binding(0) var<uniform> p: P;")).toThrow(
      "struct P may hold u32, i32 and f32 only",
    );
    expect(() => kernel("k", "@group(0) @binding(0) var t: texture_2d<f32>;")).toThrow("understood 0 of 1 bindings");
  });

  it("turns what the GPU refuses into an exception that names the kernel, once", async () => {
    const broken = kernel(
      "broken",
      /* wgsl */ `
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(1) fn main() { y[0] = undefinedName; }`,
    );
    const y = zeros([1]);
    broken.run({ y }, { workgroups: [1] });
    await expect(y.data()).rejects.toThrow(DeviceError);
    broken.run({ y }, { workgroups: [1] });
    await expect(y.data()).rejects.toThrow(/broken/);
    expect(await ones([1]).item()).toBe(1);
    const x = ones([4]);
    expect(() => double.run({ params: { n: 4 }, x, y: x }, { workgroups: [1] })).toThrow(
      'double: "x" and "y" share memory',
    );
  });

  it("reports bad data that only the GPU sees", async () => {
    const check = kernel(
      "check",
      /* wgsl */ `
struct Params { code: u32 }
@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<i32>;
@group(0) @binding(2) var<storage, read_write> faults: array<atomic<u32>>;
@compute @workgroup_size(1) fn main() {
  if (x[0] < 0) { atomicStore(&faults[params.code], 1); atomicStore(&faults[params.code + 1], bitcast<u32>(x[0])); }
}`,
    );
    const { faults, code } = device.fault("check: x is %, expected 0 or more");
    check.run({ params: { code }, x: tensor([5], { dtype: "i32" }), faults }, { workgroups: [1] });
    expect(await ones([1]).item()).toBe(1);
    check.run({ params: { code }, x: tensor([-7], { dtype: "i32" }), faults }, { workgroups: [1] });
    await expect(ones([1]).item()).rejects.toThrow("check: x is -7, expected 0 or more");
    expect(await ones([1]).item()).toBe(1);
  });

  it("covers any number of workgroups", () => {
    for (const n of [1, 65535, 65536, 70001, 10 ** 8]) {
      const [x, y] = grid(n);
      expect(x * y).toBeGreaterThanOrEqual(n);
      expect(Math.max(x, y)).toBeLessThanOrEqual(65535);
    }
  });
});

describe("capture", () => {
  it("replays what eager calls would do, bit for bit, random numbers and updates included", async () => {
    const run = async (captured: boolean): Promise<number[][]> => {
      const w = parameter(tensor(randomValues(64), { shape: [8, 8] }));
      manualSeed(7);
      const step = (x: Tensor): Tensor => {
        clearGrad(w);
        const noise = normal(emptyLike(x));
        const y = matmul(add(x, noise), w);
        const squares = mul(y, y);
        squares.backward(ones([4, 8]));
        noGrad(() => copyInto(w, add(w, mul(w.grad!, -0.001))));
        return squares;
      };
      const call = captured ? capture(step) : step;
      const losses: number[][] = [];
      for (let i = 0; i < 5; i++) {
        const y = scope(() => call(tensor(randomValues(32, i), { shape: [4, 8] })));
        losses.push([...(await values(y)), ...(await values(w)), ...(await values(w.grad!))]);
      }
      return losses;
    };
    expect(await run(true)).toEqual(await run(false));
  });

  it("records again for other shapes", async () => {
    const before = memory();
    const f = capture((x: Tensor) => mul(x, 3));
    for (const x of [
      [1, 2],
      [1, 2, 3],
      [4, 5],
    ])
      expect(await values(f(tensor(x)))).toEqual(x.map((v) => 3 * v));
    const y = f(tensor([1, 2]));
    f.dispose();
    expect(y.disposed).toBe(true);
    expect(memory().buffers).toBe(before.buffers);
  });

  it("refuses what replay would freeze or break", async () => {
    const w = parameter(tensor([2]));
    expect(() => capture(() => tensor([1]))()).toThrow("a captured function cannot upload values");
    expect(() => capture((x: Tensor) => x)(3 as never)).toThrow("argument 0 is number");
    expect(() => capture((x: Tensor) => mul(w, x).backward())(tensor([1]))).toThrow(
      "without clearing it; call zeroGrad() inside",
    );
    expect(() => capture(() => capture(() => ones([1]))())()).toThrow("cannot capture another");
    await capture(() => expect(w.data()).rejects.toThrow("cannot read values back"))();
    expect(await mul(w, 2).item()).toBe(4);
  });

  it("keeps the buffers it uses out of the pool", async () => {
    const x = tensor([1, 2, 3]);
    const f = capture(() => mul(x, 2));
    f();
    x.dispose();
    const others = Array.from({ length: 8 }, () => full([3], 9));
    f();
    expect(await values(others[0]!)).toEqual([9, 9, 9]);
    f.dispose();
  });
});
