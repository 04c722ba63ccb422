import { CosineAnnealingLR, LambdaLR, LinearLR, type LRScheduler, type Scheduled, SequentialLR } from "@kindling/optim";
import { describe, expect, it } from "vitest";

const optimizer = (): Scheduled => ({ paramGroups: [{ lr: 0.1 }, { lr: 0.05 }] });

/** The learning rates of both groups over the steps, as PyTorch 2.11 prints them. */
const cases: [name: string, make: (o: Scheduled) => LRScheduler, first: number[], second: number[]][] = [
  [
    "LinearLR",
    (o) => new LinearLR(o, { startFactor: 0.25, totalIters: 4 }),
    [0.025, 0.04375, 0.0625, 0.08125, 0.1, 0.1, 0.1],
    [0.0125, 0.021875, 0.03125, 0.040625, 0.05, 0.05, 0.05],
  ],
  [
    "CosineAnnealingLR",
    (o) => new CosineAnnealingLR(o, 5, { etaMin: 0.01 }),
    [0.1, 0.0914057647, 0.0689057647, 0.0410942353, 0.0185942353, 0.01, 0.0185942353, 0.0410942353],
    [0.05, 0.0461803399, 0.0361803399, 0.0238196601, 0.0138196601, 0.01, 0.0138196601, 0.0238196601],
  ],
  [
    "LambdaLR",
    (o) => new LambdaLR(o, [(t) => 0.9 ** t, (t) => 1 / (1 + t)]),
    [0.1, 0.09, 0.081, 0.0729, 0.06561],
    [0.05, 0.025, 0.0166666667, 0.0125, 0.01],
  ],
  [
    "SequentialLR of a warm-up and a cosine",
    (o) =>
      new SequentialLR(o, [new LinearLR(o, { startFactor: 0.25, totalIters: 4 }), new CosineAnnealingLR(o, 6)], [4]),
    [0.025, 0.04375, 0.0625, 0.08125, 0.1, 0.0933012702, 0.075, 0.05, 0.025, 0.00669872981, 0, 0.00669872981],
    [0.0125, 0.021875, 0.03125, 0.040625, 0.05, 0.0466506351, 0.0375, 0.025, 0.0125, 0.00334936491, 0, 0.00334936491],
  ],
];

describe("learning-rate schedulers", () => {
  it.each(cases)("%s gives PyTorch's rates", (_, make, first, second) => {
    const o = optimizer();
    const schedule = make(o);
    for (const [t, lr] of first.entries()) {
      expect(o.paramGroups[0]!.lr).toBeCloseTo(lr, 9);
      expect(o.paramGroups[1]!.lr).toBeCloseTo(second[t]!, 9);
      expect(schedule.getLastLr()).toEqual(o.paramGroups.map((group) => group.lr));
      schedule.step();
    }
  });

  it.each(cases)("%s continues from its state", (_, make) => {
    const [o, other] = [optimizer(), optimizer()];
    const schedule = make(o);
    for (let t = 0; t < 3; t++) schedule.step();
    const resumed = make(other);
    resumed.loadStateDict(JSON.parse(JSON.stringify(schedule.stateDict())));
    schedule.step();
    resumed.step();
    expect(resumed.getLastLr()).toEqual(schedule.getLastLr());
    expect(resumed.lastEpoch).toBe(4);
  });

  it("starts from the rate that the first scheduler met", () => {
    const o = optimizer();
    new LinearLR(o, { startFactor: 0.5 });
    expect(new CosineAnnealingLR(o, 3).baseLrs).toEqual([0.1, 0.05]);
  });

  it("refuses bad input", () => {
    const o = optimizer();
    expect(() => new LinearLR({} as never)).toThrow("LinearLR: optimizer is object; expected an optimizer");
    expect(() => new LinearLR(o, { startFactor: 0 })).toThrow(
      "LinearLR: startFactor is 0; expected a number in (0, 1]",
    );
    expect(() => new LinearLR(o, { endFactor: 2 })).toThrow("LinearLR: endFactor is 2");
    expect(() => new LinearLR(o, { totalIters: 0 })).toThrow("LinearLR: totalIters is 0; expected a whole number ≥ 1");
    expect(() => new CosineAnnealingLR(o, 0.5)).toThrow("CosineAnnealingLR: tMax is 0.5");
    expect(() => new CosineAnnealingLR(o, 5, { etaMin: Number.NaN })).toThrow("CosineAnnealingLR: etaMin is NaN");
    expect(() => new CosineAnnealingLR(o, 5, { tMult: 2 } as never)).toThrow('option "tMult" is not supported');
    expect(() => new LambdaLR(o, [() => 1])).toThrow(
      "LambdaLR: lrLambda has 1 entries; expected a function, or one for each of the 2",
    );
    const linear = new LinearLR(o);
    expect(() => new SequentialLR(o, [linear], [3])).toThrow(
      "SequentialLR: milestones is [3] for 1 schedulers; expected 0",
    );
    expect(() => new SequentialLR(optimizer(), [linear], [])).toThrow("belongs to another optimizer");
    expect(() => linear.loadStateDict({ lastEpoch: -1, baseLrs: [] })).toThrow(
      "LinearLR.loadStateDict: lastEpoch is -1",
    );
    expect(() => linear.loadStateDict({ lastEpoch: 1, baseLrs: [] })).toThrow("baseLrs is []; expected 2 numbers");
    const broken = new LambdaLR(o, (t) => (t === 1 ? Number.NaN : 1));
    expect(() => broken.step()).toThrow(
      "LambdaLR: the learning rate of group 0 at step 1 is NaN; expected a finite number",
    );
  });
});
