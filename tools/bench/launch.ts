/** What JavaScript costs: one operation on the tape, one dispatch of a replay, and whether memory stays constant. */
import {
  add,
  capture,
  clearGrad,
  type Device,
  ones,
  parameter,
  randn,
  scope,
  type Tensor,
  tensor,
  zeros,
} from "@kindling/core";
import { layerNorm } from "@kindling/layernorm";
import { linear } from "@kindling/linear";
import { crossEntropy } from "@kindling/losses";
import { AdamW } from "@kindling/optim";
import { type Case, cleanly, type Result, type Sizes, time } from "./measure.ts";

export const cases = ({ steps }: Sizes): Case[] => [
  {
    name: "add of 4 elements on the tape, host time",
    anyDevice: true,
    run: (device) => cleanly(device, () => eagerAdd(device)),
  },
  {
    name: "add of 4 elements in a replay, host time",
    anyDevice: true,
    run: (device) => cleanly(device, () => replayedAdd(device)),
  },
  {
    name: `${steps} training steps in constant memory`,
    run: (device) => cleanly(device, () => constantMemory(device, steps)),
  },
];

const ADDS = 256;

async function eagerAdd(device: Device): Promise<Result> {
  const a = ones([4]);
  const b = ones([4]);
  a.requiresGrad = true;
  return time(
    device,
    () =>
      scope(() => {
        for (let i = 0; i < ADDS; i++) add(a, b);
      }),
    { parts: ADDS, of: "js" },
  );
}

async function replayedAdd(device: Device): Promise<Result> {
  const a = zeros([4]);
  const b = ones([4]);
  const replay = capture(() => {
    let sum: Tensor = a;
    for (let i = 0; i < ADDS; i++) sum = add(sum, b);
    return sum;
  });
  try {
    const sum = replay();
    const [value] = await sum.data();
    const computes = (await b.data())[0] === 1; // the null backend does not
    if (computes && value !== ADDS) throw new Error(`the sum of ${ADDS} ones is ${value}`);
    const result = await time(device, replay, { parts: ADDS, of: "js" });
    sum.dispose();
    return result;
  } finally {
    replay.dispose();
  }
}

async function constantMemory(device: Device, steps: number): Promise<Result> {
  const [rows, width, classes] = [16, 32, 8];
  const x = randn([rows, width]);
  const target = tensor(Int32Array.from({ length: rows }, (_, i) => i % classes));
  const parameters = [randn([width, width]), randn([width]), randn([classes, width]), zeros([classes])].map(parameter);
  const [w1, b1, w2, b2] = parameters as [Tensor, Tensor, Tensor, Tensor];
  const optimizer = new AdamW(parameters, { lr: 1e-2 });
  try {
    let seen = "";
    let loss = Number.NaN;
    const start = performance.now();
    for (let i = 0; i < steps; i++) {
      using _ = scope();
      optimizer.zeroGrad();
      const y = crossEntropy(linear(layerNorm(linear(x, w1, b1), width), w2, b2), target);
      y.backward();
      optimizer.step();
      if (i % 100 === 9 || i === steps - 1) {
        loss = await y.item();
        const now = JSON.stringify(device.memory());
        if (seen && seen !== now) throw new Error(`memory was ${seen} after step 10 and is ${now} after step ${i + 1}`);
        seen = now;
      }
    }
    await device.sync();
    const ms = (performance.now() - start) / steps;
    if (!(loss < 0.1)) throw new Error(`the loss is ${loss} after ${steps} steps, expected it near 0`);
    const { bytes, pooledBytes } = JSON.parse(seen) as { bytes: number; pooledBytes: number };
    return { ms, min: ms, max: ms, note: `${bytes} bytes live, ${pooledBytes} pooled` };
  } finally {
    for (const p of parameters) {
      clearGrad(p);
      p.dispose();
    }
    optimizer.dispose();
  }
}
