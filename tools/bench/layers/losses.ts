import { autocast, empty, type FloatType, normal, rand, randn, type Tensor, tensor } from "@kindling/core";
import { bceWithLogits, crossEntropy, linearCrossEntropy, mse, smoothL1 } from "@kindling/losses";
import { expectClose, expectSound, head, rowOf, sigmoidAt, softmaxOf, tolerance } from "../checks.ts";
import { type Case, floats, forwardAndBackward, ids, type Point, precision, type Sizes, setsFor } from "../measure.ts";

export const cases = (sizes: Sizes): Case[] => [
  ...sizes.crossEntropy.flatMap((shape) => crossEntropyCases(shape, sizes)),
  ...sizes.linearCrossEntropy.flatMap((shape) => floats.flatMap((dtype) => linearCrossEntropyCases(shape, dtype))),
  ...sizes.pointwise.flatMap((shape) => elementLosses.flatMap((loss) => elementLossCases(loss, shape, sizes))),
];

/** What the mean loss of `rows` rows is near to where logits are normal: log Σ exp is about ln C + 1/2. */
function expectUsualLoss(loss: number, rows: number, classes: number): void {
  const about = Math.log(classes) + 0.5 - (Math.E - 1) / (2 * classes);
  expectClose("loss", [loss - about], [0], 6 / Math.sqrt(rows));
}

function crossEntropyCases([rows, classes]: readonly number[], sizes: Sizes): Case[] {
  const [R, C] = [rows!, classes!];
  const setup = (): Point => {
    const logits = randn([R, C]);
    const labels = ids(R, C);
    const target = tensor(labels);
    return {
      leaves: [logits],
      forward: () => crossEntropy(logits, target),
      async check([loss], grads) {
        expectUsualLoss(await loss!.item(), R, C);
        if (!grads) return;
        const p = softmaxOf(await rowOf(logits, R - 1, C));
        const expected = p.map((e, c) => (e - Number(c === labels[R - 1])) * 1e3);
        const actual = (await rowOf(grads[0]!, R - 1, C)).map((d) => d * R * 1e3);
        expectClose("dlogits", actual, expected, 1e-3);
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`cross entropy ${R}×${C}`, setup, {
    bytes: [bytes, 3 * bytes],
    sets: setsFor(bytes, sizes),
  });
}

/** f16 is autocast: parameters and x are f32, the products take f16 operands. */
function linearCrossEntropyCases([rows, inner, classes]: readonly number[], dtype: FloatType): Case[] {
  const [R, K, C] = [rows!, inner!, classes!];
  const setup = (): Point => {
    const x = randn([R, K]);
    const weight = normal(empty([C, K]), 0, 1 / Math.sqrt(K)); // so that logits are normal
    const labels = ids(R, C);
    const target = tensor(labels);
    return {
      leaves: [x, weight],
      forward: () => autocast(dtype, () => linearCrossEntropy(x, weight, target)),
      async check([loss], grads) {
        expectUsualLoss(await loss!.item(), R, C);
        if (!grads) return;
        const [dx, dw] = grads as [Tensor, Tensor];
        const w = (await weight.data()) as Float32Array;
        const row = await rowOf(x, R - 1, K);
        const p = softmaxOf(Array.from({ length: C }, (_, c) => row.reduce((z, e, k) => z + e * w[c * K + k]!, 0)));
        p[labels[R - 1]!]! -= 1;
        const expected = new Array<number>(K).fill(0);
        for (let c = 0; c < C; c++) for (let k = 0; k < K; k++) expected[k]! += p[c]! * w[c * K + k]!;
        const actual = (await rowOf(dx, R - 1, K)).map((d) => d * R);
        expectClose("dx", actual, expected, tolerance[dtype], 1 / Math.sqrt(K));
        await expectSound("dW", dw);
      },
    };
  };
  const flops = 2 * R * K * C;
  return forwardAndBackward(`linear+cross entropy ${precision(dtype)} ${R}×${K}→${C}`, setup, {
    f16: dtype === "f16",
    flops: [flops, 3 * flops],
  });
}

/** The mean of f over normal numbers. */
function expectation(f: (x: number) => number): number {
  const step = 1e-3;
  let total = 0;
  for (let x = -10; x < 10; x += step) total += f(x) * Math.exp((-x * x) / 2);
  return (total * step) / Math.sqrt(2 * Math.PI);
}

/** Losses that are means over elements: of normal inputs, and targets drawn as `draw` says. */
interface ElementLoss {
  readonly name: string;
  readonly loss: (x: Tensor, target: Tensor) => Tensor;
  readonly draw: (shape: readonly number[]) => Tensor;
  readonly mean: () => number;
  readonly slope: (x: number, target: number) => number;
}

const elementLosses: readonly ElementLoss[] = [
  { name: "mse", loss: mse, draw: randn, mean: () => 2, slope: (x, t) => 2 * (x - t) },
  {
    name: "smooth l1",
    loss: smoothL1,
    draw: randn,
    mean: () =>
      expectation((z) => {
        const distance = Math.abs(z) * Math.SQRT2; // of two normal numbers
        return distance < 1 ? distance ** 2 / 2 : distance - 0.5;
      }),
    slope: (x, t) => Math.max(-1, Math.min(1, x - t)),
  },
  {
    name: "bce with logits",
    loss: bceWithLogits,
    draw: rand,
    mean: () => expectation((x) => Math.log1p(Math.exp(x))),
    slope: (x, t) => sigmoidAt(x) - t,
  },
];

function elementLossCases(
  { name, loss, draw, mean, slope }: ElementLoss,
  shape: readonly number[],
  sizes: Sizes,
): Case[] {
  const [R, C] = shape as [number, number];
  const setup = (): Point => {
    const x = randn(shape);
    const target = draw(shape);
    return {
      leaves: [x],
      forward: () => loss(x, target),
      async check([y], grads) {
        // the deviation of an element's loss is below 3
        expectClose("loss", [(await y!.item()) - mean()], [0], 18 / Math.sqrt(R * C));
        if (!grads) return;
        const t = await head(target);
        const expected = (await head(x)).map((e, i) => slope(e, t[i]!));
        const actual = (await head(grads[0]!)).map((d) => d * R * C);
        expectClose("dx", actual, expected, tolerance.f32);
      },
    };
  };
  const bytes = 4 * R * C;
  return forwardAndBackward(`${name} ${R}×${C}`, setup, {
    bytes: [2 * bytes, 5 * bytes],
    sets: setsFor(2 * bytes, sizes),
  });
}
