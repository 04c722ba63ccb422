import { add, capture, type Device, matmul, mul, parameter, scope, type Tensor, tensor, zeros } from "@kindling/core";
import { mixedError, poison, randomValues, testDevice } from "@kindling/core/testing";
import { AdamW, clipGradNorm, GradScaler, LambdaLR, SGD } from "@kindling/optim";
import { clipNorm } from "@kindling/optim/reference";
import { describe, expect, it } from "vitest";

const device: Device = await testDevice();

const SIZES = [1, 3, 67, 1025];

const params = (): Tensor[] => SIZES.map((size, i) => parameter(tensor(randomValues(size, i), { device })));

/** Gradients times `scale`, with `special` as the last element of one of them. */
function setGrads(ps: readonly Tensor[], seed: number, scale: number, special?: number): void {
  for (const [i, p] of ps.entries()) {
    const g = randomValues(p.size, seed + i).map((v) => v * scale);
    if (special !== undefined && i === seed % ps.length) g[p.size - 1] = special;
    p.grad?.dispose();
    p.grad = tensor(g, { shape: p.shape, device });
  }
}

const read = (ts: readonly Tensor[]): Promise<ArrayLike<number>[]> => Promise.all(ts.map((t) => t.data()));

describe("GradScaler", () => {
  it("steps as without scaling, skips what is not finite, and adapts the scale", async () => {
    const memory = poison(device); // padding is full of NaN, which must not count
    const ps = params();
    const plain = params();
    using optimizer = new AdamW(ps, { lr: 0.1 });
    using unscaled = new AdamW(plain, { lr: 0.1 });
    using scaler = new GradScaler({ initScale: 1024, growthInterval: 3 });
    const specials = new Map([
      [2, Number.POSITIVE_INFINITY],
      [7, Number.NaN],
      [8, Number.NEGATIVE_INFINITY],
    ]);
    let scale = 1024;
    let good = 0;
    for (let step = 0; step < 10; step++) {
      const special = specials.get(step);
      setGrads(ps, step, scale, special);
      setGrads(plain, step, 1);
      if (step === 4) scaler.unscale(optimizer); // by hand, to the same end
      scaler.step(optimizer);
      scaler.update();
      if (special === undefined) unscaled.step();
      const before = await read(plain);
      expect(await read(ps)).toEqual(before); // the scale is a power of two: not a bit differs
      if (special !== undefined) [scale, good] = [scale / 2, 0];
      else if (++good === 3) [scale, good] = [scale * 2, 0];
      expect(await scaler.getScale()).toBe(scale);
      expect(await scaler.stateDict().state.growth_tracker!.item()).toBe(good);
    }
    const steps = Object.entries(optimizer.stateDict().state).filter(([key]) => key.endsWith("step"));
    expect(await read(steps.map(([, t]) => t))).toEqual(SIZES.map(() => Uint32Array.of(10 - specials.size)));
    await memory.check();
    memory.restore();
  });

  it("works with maxGradNorm and with clipGradNorm", async () => {
    for (const explicit of [false, true]) {
      const ps = params();
      using optimizer = new SGD(ps, { lr: 1, ...(!explicit && { maxGradNorm: 1.5 }) });
      using scaler = new GradScaler({ initScale: 3 });
      const expected = SIZES.map((size, i) => Float64Array.from(randomValues(size, 40 + i)));
      const total = clipNorm(expected, 1.5);
      setGrads(ps, 40, 3);
      let norm: Tensor;
      if (explicit) {
        scaler.unscale(optimizer);
        norm = clipGradNorm(ps, 1.5);
        scaler.step(optimizer);
      } else {
        scaler.step(optimizer);
        norm = optimizer.gradNorm;
      }
      scaler.update();
      expect((await norm.item()) / total).toBeCloseTo(1, 6);
      for (const [i, p] of ps.entries()) {
        const stepped = randomValues(p.size, i).map((v, k) => v - expected[i]![k]!);
        expect(mixedError(await p.data(), stepped)).toBeLessThan(1e-6);
      }
      // an explicit unscale that meets an infinity skips the step too
      const before = await read(ps);
      setGrads(ps, 3, 1, Number.POSITIVE_INFINITY);
      if (explicit) {
        scaler.unscale(optimizer);
        clipGradNorm(ps, 1.5);
      }
      scaler.step(optimizer);
      scaler.update();
      expect(await read(ps)).toEqual(before);
      expect(await scaler.getScale()).toBe(1.5);
    }
  });

  it("judges optimizers one by one", async () => {
    const [p, q] = params() as [Tensor, Tensor];
    using first = new SGD([p], { lr: 1 });
    using second = new SGD([q], { lr: 1 });
    using scaler = new GradScaler({ initScale: 2 });
    const [p0, q0] = await read([p, q]);
    p.grad = tensor([Number.NaN], { device });
    q.grad = tensor([2, 4, 6], { device });
    scaler.step(first);
    scaler.step(second);
    scaler.update();
    expect(await p.data()).toEqual(p0);
    expect(mixedError(await q.data(), [q0![0]! - 1, q0![1]! - 2, q0![2]! - 3])).toBeLessThan(1e-6);
    expect(await scaler.getScale()).toBe(1);
  });

  it("scales the loss and its gradient, f16 too", async () => {
    using scaler = new GradScaler({ initScale: 8 });
    const x = tensor([3], { shape: [], requiresGrad: true, device });
    const loss = scaler.scale(mul(x, 2));
    expect(loss.shape).toEqual([]);
    expect(await loss.item()).toBe(48);
    loss.backward();
    expect(await x.grad!.item()).toBe(16);
    const vector = scaler.scale(tensor([1, 2, 3], { device }));
    expect([...(await vector.data())]).toEqual([8, 16, 24]);
    if (!device.features.has("shader-f16")) return;
    const h = tensor([3], { dtype: "f16", requiresGrad: true, device });
    const big = scaler.scale(h);
    big.backward();
    expect(big.dtype).toBe("f32"); // a loss times 65536 is beyond f16
    expect(await h.grad!.item()).toBe(8);
  });

  it("does not grow beyond what f32 holds", async () => {
    const [p] = params() as [Tensor];
    using optimizer = new SGD([p]);
    using scaler = new GradScaler({ initScale: 2 ** 127, growthInterval: 1 });
    p.grad = zeros([1], { device });
    scaler.step(optimizer);
    scaler.update();
    expect(await scaler.getScale()).toBe(2 ** 127);
  });

  it("passes through when it is not enabled", async () => {
    const [p, q] = [params()[1]!, params()[1]!];
    using optimizer = new SGD([p], { lr: 1 });
    using other = new SGD([q], { lr: 1 });
    using scaler = new GradScaler({ enabled: false });
    p.grad = tensor([1, 2, 3], { device });
    q.grad = tensor([1, 2, 3], { device });
    expect(scaler.scale(p)).toBe(p);
    scaler.unscale(optimizer);
    scaler.step(optimizer);
    scaler.update();
    other.step();
    expect(await p.data()).toEqual(await q.data());
    expect(await scaler.getScale()).toBe(1);
  });

  it("continues from its state", async () => {
    const [p] = params() as [Tensor];
    using optimizer = new SGD([p]);
    using first = new GradScaler({ initScale: 64, growthInterval: 3 });
    p.grad = zeros([1], { device });
    for (let i = 0; i < 2; i++) {
      first.step(optimizer);
      first.update();
    }
    using second = new GradScaler();
    second.loadStateDict(first.stateDict());
    for (const scaler of [first, second]) {
      scaler.step(optimizer);
      scaler.update();
      expect(await scaler.getScale()).toBe(128);
    }
    const { state: _, ...factors } = first.stateDict();
    expect(() => second.loadStateDict({ state: {}, ...factors })).toThrow(
      'state has nothing under "scale"; expected a scalar',
    );
  });

  it("replays a captured step bit for bit, through growth, overflow and a schedule", async () => {
    const results: ArrayLike<number>[][] = [];
    for (const captured of [false, true]) {
      const w = parameter(tensor(randomValues(5 * 9, 1), { shape: [5, 9], device }));
      const b = parameter(tensor(randomValues(9, 2), { device }));
      const c = tensor(randomValues(9, 3), { shape: [9, 1], device });
      using optimizer = new AdamW([w, b], { lr: 0.05, maxGradNorm: 2 });
      using scaler = new GradScaler({ initScale: 2 ** 126, growthInterval: 2 });
      const schedule = new LambdaLR(optimizer, (t) => 1 / (1 + t));
      const body = (x: Tensor): Tensor => {
        optimizer.zeroGrad();
        const h = add(matmul(x, w), b);
        const loss = matmul(mul(h, h), c).reshape([]);
        scaler.scale(loss).backward();
        scaler.step(optimizer);
        scaler.update();
        return loss;
      };
      const step = capture(body);
      const trace: ArrayLike<number>[] = [];
      for (let i = 0; i < 12; i++) {
        const x = tensor(randomValues(5, 10 + i), { shape: [1, 5], device });
        const loss = scope(() => (captured ? step : body)(x));
        trace.push(await loss.data(), ...(await read([w, b])), Float32Array.of(await scaler.getScale()));
        schedule.step();
      }
      trace.push(...(await read(Object.values(optimizer.stateDict().state))));
      results.push(trace);
      step.dispose();
    }
    expect(results[1]).toEqual(results[0]);
    const scales = results[0]!.filter((t) => t.length === 1).map((t) => t[0]);
    expect(new Set(scales).size).toBeGreaterThan(3);
  });

  it("lets update() stay outside the captured step", async () => {
    const [p] = params() as [Tensor];
    using optimizer = new SGD([p]);
    using scaler = new GradScaler({ initScale: 4, growthInterval: 1 });
    const x = tensor([1], { device });
    const step = capture(() => {
      optimizer.zeroGrad();
      scaler.scale(mul(p, x).reshape([])).backward();
      scaler.step(optimizer);
    });
    for (let i = 0; i < 3; i++) {
      step();
      scaler.update();
    }
    expect(await scaler.getScale()).toBe(32);
  });

  it("refuses calls out of order and bad factors", () => {
    const [p, q] = params() as [Tensor, Tensor];
    using optimizer = new SGD([p]);
    using scaler = new GradScaler();
    expect(() => scaler.update()).toThrow("GradScaler.update: no step() or unscale() since the last update()");
    expect(() => scaler.step(optimizer)).toThrow("GradScaler.step: no parameter of the optimizer has a gradient");
    expect(() => scaler.unscale(optimizer)).toThrow("GradScaler.unscale: no parameter of the optimizer has a gradient");
    p.grad = zeros([1], { device });
    scaler.unscale(optimizer);
    expect(() => scaler.unscale(optimizer)).toThrow("GradScaler.unscale: called twice");
    scaler.step(optimizer);
    expect(() => scaler.step(optimizer)).toThrow("GradScaler.step: called twice");
    expect(() => scaler.unscale(optimizer)).toThrow("GradScaler.unscale: called after step()");
    scaler.update();
    if (device.features.has("shader-f16")) {
      using half = new SGD([q]);
      q.grad = zeros([3], { dtype: "f16", device });
      expect(() => scaler.unscale(half)).toThrow(
        "a gradient [3] is f16, where unscaled values underflow; expected f32",
      );
    }
    const made = (options: object): (() => unknown) => {
      return () => new GradScaler(options);
    };
    expect(made({ initScale: 0 })).toThrow("GradScaler: initScale is 0");
    expect(made({ growthFactor: 1 })).toThrow("GradScaler: growthFactor is 1; expected a finite number > 1");
    expect(made({ backoffFactor: 1 })).toThrow("GradScaler: backoffFactor is 1");
    expect(made({ growthInterval: 0.5 })).toThrow("GradScaler: growthInterval is 0.5; expected a whole number ≥ 1");
    expect(made({ init_scale: 2 })).toThrow('GradScaler: option "init_scale" is not supported');
    const outside = new SGD([params()[0]!]);
    expect(() => capture(() => new GradScaler())()).toThrow("GradScaler: made inside a captured function");
    outside.dispose();
  });
});
