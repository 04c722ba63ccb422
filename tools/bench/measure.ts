/**
 * How a case is timed.
 *
 * GPU work is asynchronous, and an idle GPU lowers its clock. A number therefore comes from many repetitions recorded back
 * to back, after at least 40 ms of the same work; from several such rounds it is the median. A round is timed on the GPU's
 * own clock, between a timestamp before its first command and one after its last, as PyTorch's is between CUDA events: how
 * late JavaScript learns of the end makes no difference. Kernels are captured first, so that JavaScript costs as little as it
 * can. Repetitions rotate among several sets of inputs where one set would stay in the GPU's cache.
 */
import { capture, clearGrad, type Device, noGrad, scope, type Tensor } from "@kindling/core";
import sizes from "./sizes.json" with { type: "json" };

export type Sizes = (typeof sizes)["full"];

export const sizesOf = (small: boolean): Sizes => (small ? (sizes.small as Sizes) : sizes.full);

/** Milliseconds of one repetition. */
export interface Timing {
  /** Median of the rounds. */
  ms: number;
  /** Fastest and slowest round. */
  min: number;
  max: number;
  /** JavaScript's part: recording and submitting. The GPU works meanwhile. */
  js: number;
  /** The GPU's part: with everything recorded beforehand. */
  gpu?: number;
  dispatches?: number;
}

/** What a case reports. */
export interface Row extends Partial<Timing> {
  group: string;
  name: string;
  /** Name of PyTorch's row, where it is not the same. */
  torch?: string;
  /** Fewest bytes that must move (each input read once, each output written once), and operations to be done. */
  bytes?: number;
  flops?: number;
  /** What the check showed, where that is news in itself. */
  note?: string;
  /** Why there is no time. */
  error?: string;
}

export type Result = Omit<Row, "group" | "name">;

export interface Case {
  readonly name: string;
  /** Needs shader-f16. */
  readonly f16?: boolean;
  /** Measures JavaScript, so that a GPU that computes nothing will do. */
  readonly anyDevice?: boolean;
  /** Throws where a result is wrong. */
  run(device: Device): Promise<Result>;
}

const ROUND = 40;

/** Timestamps in the GPU's queue. */
class Stopwatch {
  readonly #device: Device;
  readonly #set: GPUQuerySet;
  readonly #resolved: GPUBuffer;
  readonly #read: GPUBuffer;

  constructor(device: Device) {
    const { gpu } = device;
    this.#device = device;
    this.#set = gpu.createQuerySet({ type: "timestamp", count: 2 });
    this.#resolved = gpu.createBuffer({ size: 16, usage: GPUBufferUsage.QUERY_RESOLVE | GPUBufferUsage.COPY_SRC });
    this.#read = gpu.createBuffer({ size: 16, usage: GPUBufferUsage.COPY_DST | GPUBufferUsage.MAP_READ });
  }

  /** The GPU notes the time when it has done all that was submitted before. */
  mark(index: 0 | 1): void {
    const { gpu } = this.#device;
    const encoder = gpu.createCommandEncoder();
    encoder.beginComputePass({ timestampWrites: { querySet: this.#set, endOfPassWriteIndex: index } }).end();
    if (index === 1) {
      encoder.resolveQuerySet(this.#set, 0, 2, this.#resolved, 0);
      encoder.copyBufferToBuffer(this.#resolved, 0, this.#read, 0, 16);
    }
    gpu.queue.submit([encoder.finish()]);
  }

  /** Milliseconds between both marks. */
  async elapsed(): Promise<number> {
    await this.#read.mapAsync(GPUMapMode.READ);
    const [start, end] = new BigUint64Array(this.#read.getMappedRange().slice(0));
    this.#read.unmap();
    return Number(end! - start!) / 1e6;
  }
}

const stopwatches = new WeakMap<Device, Stopwatch>();

/** Null where the GPU keeps no time; then the clock on the wall has to do. */
export function stopwatchOf(device: Device): Stopwatch | null {
  if (!device.features.has("timestamp-query") || device.gpu.adapterInfo.device === "null-backend") return null;
  if (!stopwatches.has(device)) stopwatches.set(device, new Stopwatch(device));
  return stopwatches.get(device)!;
}

const clock = async (device: Device, step: () => unknown, count: number): Promise<{ js: number; all: number }> => {
  const watch = stopwatchOf(device);
  watch?.mark(0);
  const start = performance.now();
  for (let i = 0; i < count; i++) step();
  device.flush();
  const recorded = performance.now();
  watch?.mark(1);
  await device.sync();
  return { js: recorded - start, all: (await watch?.elapsed()) ?? performance.now() - start };
};

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

/** Times `step`; `parts` repetitions happen in one call of it. "js" leaves the GPU's time out. */
export async function time(device: Device, step: () => unknown, parts = 1, of: "all" | "js" = "all"): Promise<Timing> {
  let count = 1;
  let warm = await clock(device, step, count);
  while (warm.all < ROUND) {
    count = Math.ceil(count * Math.min(8, (1.2 * ROUND) / Math.max(warm.all, 0.1)));
    warm = await clock(device, step, count);
  }
  const rounds = Math.max(3, Math.min(7, Math.floor(300 / warm.all)));
  const all: number[] = [];
  const js: number[] = [];
  for (let i = 0; i < rounds; i++) {
    const round = await clock(device, step, count);
    all.push(round.all / count / parts);
    js.push(round.js / count / parts);
  }
  const times = of === "js" ? js : all;
  return { ms: median(times), min: Math.min(...times), max: Math.max(...times), js: median(js) };
}

/** Times `step`, also with all of a round recorded before the GPU gets it. */
export async function timeBoth(device: Device, step: () => unknown, parts = 1): Promise<Timing> {
  const dispatches = countDispatches(device, step);
  const timing = await time(device, step, parts);
  const count = Math.max(1, Math.min(Math.ceil(ROUND / (timing.ms * parts)), Math.floor(20_000 / dispatches)));
  return { ...timing, gpu: (await timeGpu(device, step, count)) / parts, dispatches: dispatches / parts };
}

/** Milliseconds that the GPU takes for `step`: `count` of them are recorded, and timed from the end of their submit on. */
export async function timeGpu(device: Device, step: () => unknown, count: number): Promise<number> {
  const watch = stopwatchOf(device);
  const rounds: number[] = [];
  for (let i = 0; i < 3; i++) {
    device.flush();
    device.flush = () => {};
    try {
      for (let k = 0; k < count; k++) step();
    } finally {
      delete (device as { flush?: unknown }).flush; // the method of the class again
    }
    watch?.mark(0);
    const start = performance.now();
    device.flush();
    const submitted = performance.now();
    watch?.mark(1);
    await device.sync();
    const all = (await watch?.elapsed()) ?? performance.now() - start;
    rounds.push(Math.max(0, all - (submitted - start)) / count);
  }
  return median(rounds);
}

/** Dispatches that `step` records. */
export function countDispatches(device: Device, step: () => unknown): number {
  let count = 0;
  observeDispatches(device, step, () => {
    count++;
    return 1;
  });
  return count;
}

export type Dispatch = Parameters<Device["dispatch"]>;

/** Shows each dispatch of `step` to `see`, and makes it as many times as that says. */
export function observeDispatches(device: Device, step: () => unknown, see: (...dispatch: Dispatch) => number): void {
  const dispatch = device.dispatch.bind(device);
  device.dispatch = (...args: Dispatch) => {
    for (let times = see(...args); times > 0; times--) dispatch(...args);
  };
  try {
    step();
  } finally {
    delete (device as { dispatch?: unknown }).dispatch; // the method of the class again
  }
}

/** Something to do over and over with one set of inputs. */
export interface Subject {
  /** Records the work once and returns what `check` looks at. */
  step(): readonly Tensor[];
  check(results: readonly Tensor[]): Promise<void>;
  /** Frees what the scope around the case does not. */
  dispose?(): void;
}

export interface KernelOptions extends Pick<Row, "bytes" | "flops" | "torch"> {
  f16?: boolean;
  /** Sets of inputs to rotate among. */
  sets?: number;
  /** Without capture; then `step` returns no tensors. */
  eager?: boolean;
}

/** A case that captures `step` and times its replay, which is also timed with all of a round recorded beforehand. */
export function kernelCase(
  name: string,
  setup: () => Subject | Promise<Subject>,
  { f16, sets = 1, eager = false, ...facts }: KernelOptions,
): Case {
  const run = async (device: Device): Promise<Result> => {
    const subjects: Subject[] = [];
    const all = (): (readonly Tensor[])[] => subjects.map((subject) => subject.step());
    const captured = capture(all);
    const step = eager ? () => scope(all) : captured;
    let results: readonly (readonly Tensor[])[] = [];
    try {
      for (let i = 0; i < sets; i++) subjects.push(await setup());
      results = step();
      await device.sync();
      for (const [i, subject] of subjects.entries()) await subject.check(results[i]!);
      return { ...facts, ...(await timeBoth(device, step, sets)) };
    } finally {
      for (const t of results.flat()) t.dispose();
      for (const subject of subjects) subject.dispose?.();
      captured.dispose();
    }
  };
  return { name, f16, run: (device) => cleanly(device, () => run(device)) };
}

/** Runs a case in a scope, and gives its memory back afterwards. */
export async function cleanly<T>(device: Device, run: () => Promise<T>): Promise<T> {
  try {
    return await scope(run);
  } finally {
    device.trim();
  }
}

/** A differentiable function, at one point. */
export interface Point {
  readonly leaves: readonly Tensor[];
  forward(): Tensor;
  /** dL/dy; none for a scalar. */
  readonly dy?: Tensor;
  /** `grads` are those of the leaves; undefined where only y was computed. */
  check(y: Tensor, grads: readonly Tensor[] | undefined): Promise<void>;
}

export interface PairOptions extends Omit<KernelOptions, "bytes" | "flops" | "torch"> {
  /** Of forward, and of forward and backward. */
  bytes?: readonly [number, number];
  flops?: readonly [number, number];
}

/** Two cases: "… fwd" without the tape, and "… fwd+bwd". */
export function forwardAndBackward(
  name: string,
  setup: () => Point,
  { bytes, flops, ...options }: PairOptions,
): Case[] {
  const forward = (): Subject => {
    const { forward, check } = setup();
    return { step: () => [noGrad(forward)], check: ([y]) => check(y!, undefined) };
  };
  const both = (): Subject => {
    const { leaves, forward, dy, check } = setup();
    for (const leaf of leaves) leaf.requiresGrad = true;
    return {
      step: () => {
        leaves.forEach(clearGrad);
        const y = forward();
        y.backward(dy);
        return [y, ...leaves.map((leaf) => leaf.grad!)];
      },
      check: ([y, ...grads]) => check(y!, grads),
      dispose: () => leaves.forEach(clearGrad),
    };
  };
  return [
    kernelCase(`${name} fwd`, forward, { ...options, bytes: bytes?.[0], flops: flops?.[0] }),
    kernelCase(`${name} fwd+bwd`, both, { ...options, bytes: bytes?.[1], flops: flops?.[1] }),
  ];
}

/** Sets of inputs whose tensors of `bytes` together do not fit in the cache. */
export const setsFor = (bytes: number, { sets }: Sizes): number =>
  Math.max(1, Math.min(sets.most, Math.ceil(sets.bytes / bytes)));
