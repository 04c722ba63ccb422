import {
  add,
  capture,
  type Device,
  matmul,
  memory,
  mul,
  parameter,
  scope,
  type Tensor,
  tensor,
  zeros,
} from "@kindling/core";
import { saveSafetensors } from "@kindling/core/safetensors";
import { fixtures, mixedError, poison, randomValues, testDevice } from "@kindling/core/testing";
import { Adam, AdamW, clipGradNorm, LambdaLR, SGD } from "@kindling/optim";
import { type AdamHyper, adamState, adamStep, clipNorm, type SGDHyper, sgdStep } from "@kindling/optim/reference";
import { describe, expect, it } from "vitest";

const device: Device = await testDevice();

/** Odd sizes, one element, just more than a workgroup takes, and more tensors than one dispatch binds. */
const SIZES = [1, 3, 67, 257, 4097, 1024, 5, 2, 1025, 64, 31, 7, 4, 100, 1023, 1, 300, 12, 9, 4096];

const values = randomValues;

const params = (sizes: readonly number[], seed = 1): Tensor[] =>
  sizes.map((size, i) => parameter(tensor(values(size, seed + i), { device })));

const gradient = (p: Tensor, data: ArrayLike<number>): Tensor =>
  tensor(Float32Array.from(data), { shape: p.shape, device });

function setGrads(ps: readonly Tensor[], data: readonly (ArrayLike<number> | null)[]): void {
  for (const [i, p] of ps.entries()) {
    p.grad?.dispose();
    p.grad = data[i] ? gradient(p, data[i]) : null;
  }
}

const read = (ts: readonly Tensor[]): Promise<ArrayLike<number>[]> => Promise.all(ts.map((t) => t.data()));

/** The largest of the mixed errors of `actual` against `expected`. */
async function worst(actual: readonly Tensor[], expected: readonly ArrayLike<number>[]): Promise<number> {
  const data = await read(actual);
  return Math.max(...data.map((d, i) => mixedError(d, expected[i]!)));
}

/** How many kernels `fn` launches. */
function dispatches(fn: () => void): number {
  const { dispatch } = device;
  let count = 0;
  device.dispatch = (...args): void => {
    count++;
    dispatch.apply(device, args);
  };
  fn();
  device.dispatch = dispatch;
  return count;
}

describe("PyTorch's results", async () => {
  const cases = await fixtures(new URL("./optim.safetensors", import.meta.url));
  const parse = (name: string): Record<string, unknown> =>
    Object.fromEntries(
      name
        .split(" ")
        .slice(1)
        .map((pair) => [pair.slice(0, pair.indexOf("=")), JSON.parse(pair.slice(pair.indexOf("=") + 1))]),
    );
  const list = (tensors: Record<string, { shape: readonly number[]; values: ArrayLike<number> }>, name: string) =>
    Object.keys(tensors)
      .filter((key) => key.startsWith(`${name}.`))
      .sort()
      .map((key) => tensors[key]!);

  for (const [name, tensors] of cases) {
    const options = parse(name);
    if (name.startsWith("adamW")) {
      const { groups, maxNorm, ...rest } = options as {
        groups: { params: number[]; weightDecay: number }[];
        maxNorm?: number;
      };
      for (const fused of maxNorm === undefined ? [false] : [false, true]) {
        it(`${name}${fused ? ", as maxGradNorm" : ""}`, async () => {
          const ps = list(tensors, "param").map((t) =>
            parameter(tensor(Float32Array.from(t.values), { shape: t.shape, device })),
          );
          using optimizer = new AdamW(
            groups.map((group) => ({ params: group.params.map((i) => ps[i]!), weightDecay: group.weightDecay })),
            { ...rest, ...(fused && { maxGradNorm: maxNorm! }) },
          );
          const after = list(tensors, "after");
          const grads = list(tensors, "grad");
          const lr = tensors.lr!;
          for (let step = 0; step < lr.shape[0]!; step++) {
            for (const [g, group] of optimizer.paramGroups.entries()) {
              group.lr = lr.values[step * lr.shape[1]! + g]!;
            }
            const slice = (t: { values: ArrayLike<number> }, p: Tensor): number[] =>
              Array.from(t.values).slice(step * p.size, (step + 1) * p.size);
            setGrads(
              ps,
              ps.map((p, i) => slice(grads[i]!, p)),
            );
            if (maxNorm !== undefined && !fused) clipGradNorm(ps, maxNorm);
            optimizer.step();
            const expected = ps.map((p, i) => slice(after[i]!, p));
            expect(await worst(ps, expected)).toBeLessThan(2e-6);
          }
          const order = groups.flatMap((group) => group.params);
          const { state } = optimizer.stateDict();
          for (const moment of ["exp_avg", "exp_avg_sq"]) {
            const own = order.map((_, k) => state[`${k}.${moment}`]!);
            const theirs = order.map((i) => tensors[`${moment}.${i}`]!.values);
            expect(await worst(own, theirs)).toBeLessThan(1e-6);
          }
        });
      }
    } else if (options.normType === undefined) {
      it(name, async () => {
        const grads = list(tensors, "grad");
        const ps = grads.map((g) => parameter(zeros(g.shape, { device })));
        setGrads(
          ps,
          grads.map((g) => g.values),
        );
        const norm = clipGradNorm(ps, options.maxNorm as number);
        expect(mixedError(await norm.data(), tensors.norm!.values)).toBeLessThan(1e-6);
        const clipped = list(tensors, "clipped").map((t) => t.values);
        expect(
          await worst(
            ps.map((p) => p.grad!),
            clipped,
          ),
        ).toBeLessThan(1e-6);
      });
    }
  }
});

describe("the reference in float64", () => {
  const classes = [
    ["AdamW", AdamW, true],
    ["Adam", Adam, false],
  ] as const;
  it.each(classes)("%s: 20 steps with groups, a schedule and missing gradients", async (_, Class, decoupled) => {
    const memory = poison(device);
    const ps = params(SIZES);
    const hyper: AdamHyper[] = SIZES.map((_, i) =>
      i < 8
        ? { lr: 0, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 0.1 }
        : { lr: 0, betas: [0.8, 0.95], eps: 1e-6, weightDecay: 0 },
    );
    const optimizer = new Class(
      [
        { params: ps.slice(0, 8), weightDecay: 0.1 },
        { params: ps.slice(8), betas: [0.8, 0.95], eps: 1e-6 },
      ],
      { weightDecay: 0 },
    );
    const expected = SIZES.map((size, i) => Float64Array.from(values(size, 1 + i)));
    const states = SIZES.map(adamState);
    for (let step = 0; step < 20; step++) {
      const lr = 1e-2 * (1 - step / 30);
      const grads = SIZES.map((size, i) => (i === 3 && step % 3 === 0 ? null : values(size, 1000 * step + i + 50)));
      setGrads(ps, grads);
      for (const [g, group] of optimizer.paramGroups.entries()) group.lr = lr * (g + 1);
      optimizer.step();
      for (const [i, g] of grads.entries()) {
        if (g) adamStep(expected[i]!, g, states[i]!, { ...hyper[i]!, lr: i < 8 ? lr : 2 * lr }, decoupled);
      }
    }
    expect(await worst(ps, expected)).toBeLessThan(2e-6);
    const { state } = optimizer.stateDict();
    const tensors = (name: string): Tensor[] => SIZES.map((_, i) => state[`${i}.${name}`]!);
    const moment = (key: "m" | "v"): Float64Array[] => states.map((s) => s[key]);
    expect(await worst(tensors("exp_avg"), moment("m"))).toBeLessThan(1e-6);
    expect(await worst(tensors("exp_avg_sq"), moment("v"))).toBeLessThan(1e-6);
    expect(await read(tensors("step"))).toEqual(states.map((s) => Uint32Array.of(s.step)));
    await memory.check();
    memory.restore();
    optimizer.dispose();
  });

  const settings: Partial<SGDHyper>[] = [
    { weightDecay: 0.1 },
    { momentum: 0.9 },
    { momentum: 0.9, dampening: 0.5, weightDecay: 0.1 },
    { momentum: 0.8, nesterov: true },
  ];
  it.each(settings)("SGD %o: 10 steps", async (options) => {
    const sizes = [1, 67, 1025, 3];
    const ps = params(sizes);
    const expected = sizes.map((size, i) => Float64Array.from(values(size, 1 + i)));
    const buffers: (Float64Array | null)[] = sizes.map(() => null);
    using optimizer = new SGD(ps, { lr: 0.1, ...options });
    for (let step = 0; step < 10; step++) {
      const grads = sizes.map((size, i) => ((step + i) % 4 === 0 ? null : values(size, 100 * step + i)));
      setGrads(ps, grads);
      optimizer.step();
      const [{ params: _, ...hyper }] = optimizer.paramGroups as [SGDHyper & { params: unknown }];
      for (const [i, g] of grads.entries()) if (g) buffers[i] = sgdStep(expected[i]!, g, buffers[i]!, hyper);
    }
    expect(await worst(ps, expected)).toBeLessThan(2e-6);
  });

  it("clips over many tensors, in place and inside the update, without looking at the padding", async () => {
    const memory = poison(device);
    const sizes = SIZES.slice(0, 16);
    for (const scale of [1e-3, 1, 1e6]) {
      const ps = params(sizes);
      const data = sizes.map((size, i) => values(size, 7 + i).map((v) => scale * v));
      setGrads(ps, data);
      const expected = data.map((d) => Float64Array.from(d));
      const total = clipNorm(expected, 2.5);
      using optimizer = new SGD(ps, { lr: 1, maxGradNorm: 2.5 });
      optimizer.step();
      expect((await optimizer.gradNorm.item()) / total).toBeCloseTo(1, 6);
      const stepped = sizes.map((size, i) => values(size, 1 + i).map((v, k) => v - expected[i]![k]!));
      expect(await worst(ps, stepped)).toBeLessThan(1e-6);
      const norm = clipGradNorm(ps, 2.5);
      expect((await norm.item()) / total).toBeCloseTo(1, 6);
      const grads = ps.map((p) => p.grad!);
      expect(await worst(grads, expected)).toBeLessThan(1e-6);
      if (scale === 1e-3) expect(await read(grads)).toEqual(data); // short enough: not a bit changes
    }
    await memory.check();
    memory.restore();
  });

  it("clips no gradient at all, zeros, infinities and NaN as PyTorch does", async () => {
    const [p, q] = params([3, 5]);
    expect(await clipGradNorm([p!, q!], 1).item()).toBe(0);
    setGrads([p!, q!], [[0, 0, 0], null]);
    expect(await clipGradNorm(p!, 1).item()).toBe(0);
    expect([...(await p!.grad!.data())]).toEqual([0, 0, 0]);
    setGrads([p!, q!], [[1, Number.POSITIVE_INFINITY, 2], null]);
    expect(await clipGradNorm([p!, q!], 1).item()).toBe(Number.POSITIVE_INFINITY);
    expect([...(await p!.grad!.data())].filter((_, i) => i !== 1)).toEqual([0, 0]);
    setGrads(
      [p!, q!],
      [
        [1, 2, 3],
        [0, 0, 0, 0, Number.NaN],
      ],
    );
    expect(await clipGradNorm([p!, q!], 1).item()).toBeNaN();
    expect([...(await p!.grad!.data())].every(Number.isNaN)).toBe(true);
  });
});

it("corrects the bias to 1e-6 from the first step to the millionth", async () => {
  const steps = [1, 2, 3, 4, 5, 7, 8, 10, 20, 50, 100, 300, 693, 694, 1000, 1001, 2000, 1e4, 1e5, 999999, 1e6];
  const betas = [
    [0.9, 0.999],
    [0.95, 0.98],
    [0.99, 0.9999],
    [0, 0.5],
    [0.999999, 0],
  ] as const;
  for (const [beta1, beta2] of betas) {
    // From zero moments, a step from 0 is -lr · (1 - β1)/(1 - β1^t) · √((1 - β2^t)/(1 - β2)).
    const ps = steps.map(() => parameter(zeros([1], { device })));
    using optimizer = new AdamW(ps, { lr: 1, betas: [beta1, beta2], eps: 0, weightDecay: 0 });
    const { state, paramGroups } = optimizer.stateDict();
    for (const [i, t] of steps.entries()) state[`${i}.step`] = tensor([t - 1], { dtype: "u32", device });
    optimizer.loadStateDict({ state, paramGroups });
    setGrads(
      ps,
      steps.map(() => [1]),
    );
    optimizer.step();
    for (const [i, t] of steps.entries()) {
      const correction = (beta: number): number => (beta === 0 ? 1 : -Math.expm1(t * Math.log(beta)) / (1 - beta));
      const expected = -Math.sqrt(correction(beta2)) / correction(beta1);
      expect(Math.abs((await ps[i]!.item()) / expected - 1)).toBeLessThan(1e-6);
    }
  }
});

it("takes f16 parameters and gradients, with f32 moments", async () => {
  if (!device.features.has("shader-f16")) return;
  const half = (v: ArrayLike<number>): Tensor => tensor(Float32Array.from(v), { dtype: "f16", device });
  const sizes = [5, 67, 300];
  const exact = await read(sizes.map((size, i) => half(values(size, i))));
  const grads = await read(sizes.map((size, i) => half(values(size, 9 + i))));
  const ps = [half(exact[0]!), half(exact[1]!), tensor(Float32Array.from(exact[2]!), { device })].map(parameter);
  for (const [i, p] of ps.entries()) p.grad = half(grads[i]!);
  ps[0]!.grad = gradient(ps[0]!, grads[0]!); // f16 with an f32 gradient
  using optimizer = new AdamW(ps, { lr: 0.1, maxGradNorm: 1 });
  optimizer.step();
  const expected = exact.map((v) => Float64Array.from(v));
  const clipped = grads.map((g) => Float64Array.from(g));
  clipNorm(clipped, 1);
  for (const [i, p] of expected.entries()) {
    adamStep(p, clipped[i]!, adamState(p.length), { lr: 0.1, betas: [0.9, 0.999], eps: 1e-8, weightDecay: 1e-2 });
  }
  expect(mixedError(await ps[2]!.data(), expected[2]!)).toBeLessThan(1e-6);
  expect(await worst(ps.slice(0, 2), expected)).toBeLessThan(1e-3);
  expect(optimizer.stateDict().state["0.exp_avg"]!.dtype).toBe("f32");
});

/** Two layers: what eager and captured steps are compared on. */
function model(): { ps: Tensor[]; forward: (x: Tensor) => Tensor } {
  const [w1, b1, w2, b2] = [[5, 33], [33], [33, 3], [3]].map((shape, i) =>
    parameter(
      tensor(
        values(
          shape.reduce((a, b) => a * b),
          40 + i,
        ),
        { shape, device },
      ),
    ),
  ) as [Tensor, Tensor, Tensor, Tensor];
  const forward = (x: Tensor): Tensor => {
    const h = add(matmul(x, w1), b1);
    return add(matmul(mul(h, h), w2), b2);
  };
  return { ps: [w1, b1, w2, b2], forward };
}

const batch = (step: number): [Tensor, Tensor] => [
  tensor(values(20, step), { shape: [4, 5], device }),
  tensor(values(12, 100 + step), { shape: [4, 3], device }),
];

it.each([undefined, 0.5])("replays a captured step bit for bit, maxGradNorm %s", async (maxGradNorm) => {
  const results: ArrayLike<number>[][] = [];
  for (const captured of [false, true]) {
    const { ps, forward } = model();
    using optimizer = new AdamW([{ params: [ps[0]!, ps[2]!] }, { params: [ps[1]!, ps[3]!], weightDecay: 0 }], {
      lr: 0.05,
      ...(maxGradNorm && { maxGradNorm }),
    });
    const schedule = new LambdaLR(optimizer, (t) => 1 / (1 + t));
    const body = (x: Tensor, dy: Tensor): Tensor => {
      optimizer.zeroGrad();
      const y = forward(x);
      y.backward(dy);
      optimizer.step();
      return y;
    };
    const replay = capture(body);
    const trace: ArrayLike<number>[] = [];
    for (let step = 0; step < 5; step++) {
      const y = scope(() => (captured ? replay : body)(...batch(step)));
      trace.push(await y.data(), ...(await read(ps)));
      if (maxGradNorm) trace.push(await optimizer.gradNorm.data());
      schedule.step();
    }
    trace.push(...(await read(Object.values(optimizer.stateDict().state))));
    results.push(trace);
    replay.dispose();
  }
  expect(results[1]).toEqual(results[0]);
});

describe("inside capture", () => {
  it("refuses what replay could not repeat", () => {
    const { ps, forward } = model();
    using optimizer = new AdamW(ps);
    const [x, dy] = batch(0);
    expect(() => capture(() => new AdamW(ps))()).toThrow("AdamW: made inside a captured function");
    const twice = (x: Tensor, dy: Tensor): void => {
      for (const lr of [0.1, 0.2]) {
        optimizer.zeroGrad();
        optimizer.paramGroups[0]!.lr = lr;
        forward(x).backward(dy);
        optimizer.step();
      }
    };
    expect(() => capture(twice)(x, dy)).toThrow("settings changed between two steps of one captured function");
    optimizer.zeroGrad();
    forward(x).backward(dy);
    const step = capture(() => optimizer.step());
    step();
    step(); // again with the same gradients
    optimizer.zeroGrad();
    forward(x).backward(dy);
    expect(step).toThrow("AdamW.step: paramGroups[0].params[0] has another gradient than when this step was captured");
    step.dispose();
  });

  it("lets the step be captured apart from the backward pass", async () => {
    const { ps, forward } = model();
    using optimizer = new SGD(ps, { lr: 0.1 });
    const pass = capture((x: Tensor, dy: Tensor) => {
      optimizer.zeroGrad();
      forward(x).backward(dy);
    });
    const update = capture(() => optimizer.step());
    const before = await read(ps);
    for (let step = 0; step < 3; step++) {
      pass(...batch(step));
      update();
    }
    const after = await read(ps);
    const again = model();
    using eager = new SGD(again.ps, { lr: 0.1 });
    for (let step = 0; step < 3; step++) {
      const [x, dy] = batch(step);
      eager.zeroGrad();
      again.forward(x).backward(dy);
      eager.step();
    }
    expect(after).toEqual(await read(again.ps));
    expect(after).not.toEqual(before);
  });
});

describe("state", () => {
  const steps = (optimizer: AdamW, ps: readonly Tensor[], from: number): void => {
    for (let step = from; step < from + 3; step++) {
      setGrads(
        ps,
        ps.map((p, i) => values(p.size, 10 * step + i)),
      );
      optimizer.step();
    }
  };

  it("continues exactly where it was saved", async () => {
    const sizes = [3, 257, 1, 64];
    const ps = params(sizes);
    using first = new AdamW([{ params: ps.slice(0, 2), lr: 0.3 }, { params: ps.slice(2) }], { weightDecay: 0.2 });
    steps(first, ps, 0);
    const saved = first.stateDict();
    const data = await read(ps);
    const others = ps.map((p, i) => parameter(tensor(Float32Array.from(data[i]!), { shape: p.shape, device })));
    using second = new AdamW([{ params: others.slice(0, 2) }, { params: others.slice(2) }]);
    second.loadStateDict({ state: saved.state, paramGroups: JSON.parse(JSON.stringify(saved.paramGroups)) });
    expect(second.paramGroups[0]!.lr).toBe(0.3);
    expect(second.paramGroups[1]!.weightDecay).toBe(0.2);
    steps(first, ps, 3);
    steps(second, others, 3);
    expect(await read(others)).toEqual(await read(ps));
    const states = [first, second].map((o) => read(Object.values(o.stateDict().state)));
    expect(await states[1]).toEqual(await states[0]);
    expect((await saveSafetensors(first.stateDict().state)).length).toBeGreaterThan(8 * 325);
    first.loadStateDict(first.stateDict()); // its own windows
    expect(await read(Object.values(first.stateDict().state))).toEqual(await states[0]);
  });

  it("starts anew for parameters that the saved state does not have", async () => {
    const ps = params([5, 6]);
    using optimizer = new AdamW(ps);
    steps(optimizer, ps, 0);
    const { state, paramGroups } = optimizer.stateDict();
    const part = Object.fromEntries(Object.entries(state).filter(([key]) => key.startsWith("1.")));
    optimizer.loadStateDict({ state: part, paramGroups });
    const now = optimizer.stateDict().state;
    expect(await now["0.step"]!.item()).toBe(0);
    expect([...(await now["0.exp_avg"]!.data())]).toEqual([0, 0, 0, 0, 0]);
    expect(await now["1.step"]!.item()).toBe(3);
    steps(optimizer, ps, 0); // the table of groups is intact
    expect([...(await ps[0]!.data())].every(Number.isFinite)).toBe(true);
  });

  it("refuses a state that does not fit", () => {
    const ps = params([5, 6]);
    using optimizer = new AdamW(ps);
    const { state, paramGroups } = optimizer.stateDict();
    const load = (s: object, groups: unknown = paramGroups): (() => void) => {
      return () => optimizer.loadStateDict({ state: s as never, paramGroups: groups as never });
    };
    const { "0.exp_avg": gone, ...rest } = state;
    expect(load(rest)).toThrow('AdamW.loadStateDict: state has no "0.exp_avg"');
    expect(load({ ...rest, "0.exp_avg": zeros([2, 3], { device }) })).toThrow(
      '"0.exp_avg" has shape [2,3]; expected [5]',
    );
    expect(load({ ...state, "7.step": gone! })).toThrow("unexpected keys 7.step");
    expect(load(state, [{ ...paramGroups[0]!, params: [0] }])).toThrow(
      "groups of [1] parameters; expected groups of [2]",
    );
    expect(load(state, undefined)).not.toThrow();
    expect(load(state, [{ ...paramGroups[0]!, lr: Number.NaN }])).toThrow("paramGroups[0]: lr is NaN");
    expect(load(null as never)).toThrow("state is null");
  });
});

it("keeps memory constant over 100 steps, and frees it", async () => {
  const { ps, forward } = model();
  const start = memory(device).tensors;
  const optimizer = new AdamW(ps, { maxGradNorm: 1 });
  const [x, dy] = batch(0);
  const step = (): void =>
    scope(() => {
      optimizer.zeroGrad();
      forward(x).backward(dy);
      optimizer.step();
    });
  for (let i = 0; i < 3; i++) step();
  await device.sync();
  const before = memory(device);
  for (let i = 0; i < 100; i++) step();
  await device.sync();
  // What other tests left behind may be collected meanwhile: the numbers may fall, never rise.
  const after = memory(device);
  expect(after.buffers).toBe(before.buffers);
  expect(after.tensors).toBeLessThanOrEqual(before.tensors);
  expect(after.bytes).toBeLessThanOrEqual(before.bytes);
  optimizer.zeroGrad();
  optimizer.dispose();
  expect(memory(device).tensors).toBeLessThanOrEqual(start + 2);
  expect(() => optimizer.step()).toThrow("AdamW.step: the optimizer was disposed");
});

it("needs few dispatches", () => {
  const ps = params(Array.from({ length: 56 }, (_, i) => i + 1));
  const most = Math.min(8, Math.floor((device.limits.maxStorageBuffersPerShaderStage - 2) / 2));
  const grads = Math.min(8, device.limits.maxStorageBuffersPerShaderStage - 1);
  const data = ps.map((p) => values(p.size));
  setGrads(ps, data);
  using plain = new AdamW(ps);
  expect(dispatches(() => plain.step())).toBe(1 + Math.ceil(56 / most));
  using clipped = new AdamW(ps, { maxGradNorm: 1 });
  expect(dispatches(() => clipped.step())).toBe(Math.ceil(56 / grads) + 1 + Math.ceil(56 / most));
  expect(dispatches(() => clipGradNorm(ps, 1))).toBe(2 * Math.ceil(56 / grads) + 1);
  setGrads(ps, [null, ...data.slice(1)]);
  expect(dispatches(() => plain.step())).toBe(1 + Math.ceil(56 / most));
  setGrads(ps, []);
  expect(dispatches(() => plain.step())).toBe(0);
});

it("counts the steps of more tensors than one workgroup's mask holds", async () => {
  const ps = Array.from({ length: 1030 }, (_, i) => parameter(zeros([1 + (i % 3)], { device })));
  using optimizer = new AdamW([{ params: ps.slice(0, 1000) }, { params: ps.slice(1000), lr: 2 }], { lr: 1 });
  setGrads(
    ps,
    ps.map((p, i) => (i % 512 === 3 ? null : new Float32Array(p.size).fill(i + 1))),
  );
  optimizer.step();
  const expected = ps.map((p, i) => new Float32Array(p.size).fill(i % 512 === 3 ? 0 : i < 1000 ? -1 : -2));
  expect(await worst(ps, expected)).toBeLessThan(1e-6);
});

describe("bad input", () => {
  const [p, q] = params([3, 5]) as [Tensor, Tensor];
  const made = (params: unknown, options?: unknown): (() => unknown) => {
    return () => new AdamW(params as never, options as never);
  };

  it("is refused by the constructor", () => {
    expect(made([])).toThrow("AdamW: params is empty; expected at least one tensor");
    expect(made(undefined)).toThrow("AdamW: params is undefined; expected an array of tensors");
    expect(made(p)).toThrow("AdamW: params is Tensor([3], f32, requiresGrad); expected an array");
    expect(made([{ params: [] }])).toThrow("AdamW: params[0]: the group has no tensors");
    expect(made([{ params: [p] }, q])).toThrow("AdamW: params[1] is Tensor([5], f32, requiresGrad); expected a group");
    expect(made([p, 3])).toThrow("AdamW: paramGroups[0].params[1] is number; expected a tensor");
    expect(made([p, p])).toThrow("paramGroups[0].params[1] is the same tensor as paramGroups[0].params[0]");
    expect(made([{ params: [p] }, { params: [q, p] }])).toThrow("paramGroups[1].params[1] is the same tensor as");
    expect(made([mul(p, 2)])).toThrow("params[0] [3] is the result of an operation; expected a leaf");
    expect(made([tensor([1, 2], { dtype: "i32", device })])).toThrow("params[0] is i32; expected f32 or f16");
    const gone = zeros([2], { device });
    gone.dispose();
    expect(made([gone])).toThrow("params[0] [2] was disposed");
    expect(made([p], { lr: Number.NaN })).toThrow("AdamW: lr is NaN; expected a finite number ≥ 0");
    expect(made([p], { lr: -1 })).toThrow("AdamW: lr is -1");
    expect(made([{ params: [p], lr: Number.POSITIVE_INFINITY }])).toThrow("AdamW: params[0]: lr is Infinity");
    expect(made([p], { betas: [0.9, 1] })).toThrow("AdamW: betas[1] is 1; expected a number in [0, 1)");
    expect(made([p], { betas: 0.9 })).toThrow("AdamW: betas is 0.9; expected two numbers");
    expect(made([p], { eps: -1e-8 })).toThrow("AdamW: eps is -1e-8");
    expect(made([p], { weightDecay: "0.1" })).toThrow("AdamW: weightDecay is 0.1");
    expect(made([p], { maxGradNorm: 0 })).toThrow("AdamW: maxGradNorm is 0; expected a finite number > 0");
    expect(made([p], { amsgrad: true })).toThrow('AdamW: option "amsgrad" is not supported');
    expect(made([{ params: [p], momentum: 1 }])).toThrow('AdamW: params[0]: option "momentum" is not supported');
    expect(() => new SGD([p], { nesterov: true })).toThrow("SGD: nesterov with momentum 0");
  });

  it("is refused by step", () => {
    using optimizer = new AdamW([p, q]);
    expect(() => optimizer.gradNorm).toThrow("AdamW.gradNorm: no step has computed it");
    p.grad = zeros([4], { device });
    expect(() => optimizer.step()).toThrow(
      "AdamW.step: paramGroups[0].params[0] has a gradient of [4] f32; expected [3]",
    );
    p.grad = zeros([3], { device, dtype: "i32" });
    expect(() => optimizer.step()).toThrow("has a gradient of [3] i32; expected [3] f32 or f16");
    p.grad = zeros([3], { device });
    p.grad.dispose();
    expect(() => optimizer.step()).toThrow("paramGroups[0].params[0] has a gradient that was disposed");
    p.grad = zeros([3], { device });
    optimizer.paramGroups[0]!.lr = Number.NaN;
    expect(() => optimizer.step()).toThrow("AdamW: paramGroups[0]: lr is NaN");
    optimizer.paramGroups[0]!.lr = 1;
    q.dispose();
    expect(() => optimizer.step()).toThrow("paramGroups[0].params[1] [5] was disposed");
    p.grad = null;
  });

  it("is refused by clipGradNorm", () => {
    expect(() => clipGradNorm([], 1)).toThrow("clipGradNorm: parameters is empty");
    expect(() => clipGradNorm([p], -1)).toThrow("clipGradNorm: maxNorm is -1; expected a finite number ≥ 0");
    expect(() => clipGradNorm([p], Number.NaN)).toThrow("clipGradNorm: maxNorm is NaN");
    expect(() => clipGradNorm([p], 1, { normType: 1 as never })).toThrow(
      "clipGradNorm: normType 1 is not supported; expected 2",
    );
    expect(() => clipGradNorm([p], 1, { foreach: true } as never)).toThrow('option "foreach" is not supported');
    p.grad = zeros([3], { device, dtype: "i32" });
    expect(() => clipGradNorm(p, 1)).toThrow("clipGradNorm: the gradient of parameters[0] is i32; expected f32 or f16");
    p.grad = null;
    expect(() => clipGradNorm([1 as never], 1)).toThrow("clipGradNorm: parameters[0] is number");
  });
});
