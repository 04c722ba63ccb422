import {
  empty,
  kaimingUniform,
  kernel,
  manualSeed,
  nextStream,
  normal,
  pcg4d,
  philox,
  rand,
  randn,
  scope,
  type Tensor,
  tensor,
  uniform,
  xavierUniform,
} from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import { beforeAll, describe, expect, it } from "vitest";

beforeAll(testDevice);

const values = (t: Tensor): Promise<number[]> => t.data().then((d) => Array.from(d));
const hex = (t: Tensor): Promise<string[]> => values(t).then((v) => v.map((x) => x.toString(16).padStart(8, "0")));

function moments(v: number[]): { mean: number; std: number; skew: number; kurtosis: number } {
  const mean = v.reduce((s, x) => s + x, 0) / v.length;
  const central = (k: number): number => v.reduce((s, x) => s + (x - mean) ** k, 0) / v.length;
  const std = Math.sqrt(central(2));
  return { mean, std, skew: central(3) / std ** 3, kurtosis: central(4) / std ** 4 };
}

describe("generators", () => {
  it("philox gives the known answers of Random123", async () => {
    const k = kernel(
      "philox",
      /* wgsl */ `
@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4u>;
${philox}
@compute @workgroup_size(3)
fn main(@builtin(local_invocation_index) i: u32) {
  let at = i * 6;
  y[i] = philox(vec4u(x[at], x[at + 1], x[at + 2], x[at + 3]), vec2u(x[at + 4], x[at + 5]));
}`,
    );
    const ones = new Array(6).fill(0xffffffff);
    const pi = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0];
    const y = empty([12], { dtype: "u32" });
    k.run({ x: tensor(Uint32Array.from([0, 0, 0, 0, 0, 0, ...ones, ...pi])), y }, { workgroups: [1] });
    expect(await hex(y)).toEqual([
      ...["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"],
      ...["408f276d", "41c83b0e", "a20bc7c6", "6d5451fd"],
      ...["d16cfe09", "94fdcceb", "5001e420", "24126ea1"],
    ]);
  });

  it("pcg4d agrees with its definition in 64-bit integers", async () => {
    const k = kernel(
      "pcg4d",
      /* wgsl */ `
@group(0) @binding(0) var<storage, read> x: array<vec4u>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4u>;
${pcg4d}
@compute @workgroup_size(1) fn main() { y[0] = pcg4d(x[0]); }`,
    );
    const y = empty([4], { dtype: "u32" });
    k.run({ x: tensor(new Uint32Array([1, 2, 3, 4])), y }, { workgroups: [1] });
    const u32 = (v: bigint): bigint => v & 0xffffffffn;
    let [a, b, c, d] = [1n, 2n, 3n, 4n].map((v) => u32(v * 1664525n + 1013904223n)) as [bigint, bigint, bigint, bigint];
    const mix = (): void => {
      a = u32(a + b * d);
      b = u32(b + c * a);
      c = u32(c + a * b);
      d = u32(d + b * c);
    };
    mix();
    [a, b, c, d] = [a, b, c, d].map((v) => v ^ (v >> 16n)) as [bigint, bigint, bigint, bigint];
    mix();
    expect(await values(y)).toEqual([a, b, c, d].map(Number));
  });
});

describe("random tensors", () => {
  it("are the same for the same seed, and differ from draw to draw", async () => {
    const draw = async (seed: number): Promise<number[][]> => {
      manualSeed(seed);
      return [await values(rand([100])), await values(scope(() => rand([100]))), await values(randn([100]))];
    };
    const [a, b, c] = [await draw(1), await draw(1), await draw(2 ** 40 + 1)];
    expect(a).toEqual(b);
    expect(a).not.toEqual(c);
    expect(a[0]).not.toEqual(a[1]);
    expect(() => manualSeed(-1)).toThrow("manualSeed: seed -1");
  });

  it("have the moments of their distribution", async () => {
    manualSeed(3);
    const n = 200_000;
    const u = await values(uniform(empty([n]), -2, 4));
    expect(Math.min(...u.slice(0, 1000))).toBeGreaterThanOrEqual(-2);
    const [mu, mn] = [moments(u), moments(await values(normal(empty([n]), 5, 3)))];
    expect(mu.mean).toBeCloseTo(1, 1);
    expect(mu.std).toBeCloseTo(6 / Math.sqrt(12), 1);
    expect(mu.kurtosis).toBeCloseTo(1.8, 1);
    expect(mn.mean).toBeCloseTo(5, 1);
    expect(mn.std).toBeCloseTo(3, 1);
    expect(mn.skew).toBeCloseTo(0, 1);
    expect(mn.kurtosis).toBeCloseTo(3, 0);
  });

  it("draw a stream again from its offset, even after the base moved", async () => {
    const device = await testDevice();
    const stream = nextStream(device);
    const counter = async (): Promise<number> => ((await values(stream.state))[2]! + stream.offset) >>> 0;
    const before = await counter();
    scope(() => rand([4])); // the end of the outermost scope moves the base
    expect(await counter()).toBe(before);
  });
});

describe("initialisers", () => {
  it("have PyTorch's bounds and deviations", async () => {
    manualSeed(5);
    const std = async (f: (t: Tensor) => Tensor): Promise<number> => moments(await values(f(empty([400, 300])))).std;
    const he = Math.sqrt(2 / 300);
    expect(await std((t) => kaimingUniform(t))).toBeCloseTo(he, 3);
    expect(await std((t) => xavierUniform(t))).toBeCloseTo(Math.sqrt(2 / 700), 3);
    expect(await std((t) => kaimingUniform(t, { a: 0.2 }))).toBeCloseTo(he / Math.sqrt(1.04), 3);
    expect(() => kaimingUniform(empty([3]))).toThrow("kaimingUniform: expected a weight [out, in, …], got shape [3]");
  });
});
