/**
 * How a case is timed.
 *
 * GPU work is asynchronous, and an idle GPU lowers its clock. A number therefore comes from many repetitions recorded back
 * to back, after at least 40 ms of the same work, or half a second where the GPU has rested; from several such rounds it is
 * the median. A driver may go on optimising a kernel for seconds after it was compiled: cases are checked, all of them, before
 * the first one is timed. A round is timed on the GPU's
 * own clock, between a timestamp before its first command and one after its last, as PyTorch's is between CUDA events: how
 * late JavaScript learns of the end makes no difference. Kernels are captured first, so that JavaScript costs as little as it
 * can. Repetitions rotate among several sets of inputs where one set would stay in the GPU's cache.
 */
import {
  capture,
  clearGrad,
  type Device,
  type FloatType,
  noGrad,
  ones,
  record,
  scope,
  type Tensor,
} from "@kindling/core";
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
  /** The package whose README shows the row. */
  layer?: string;
  /** Whose row it is, in peers.ts. */
  library?: string;
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
  /** Seconds that the case took, with compilation and check. */
  took?: number;
}

export type Result = Omit<Row, "group" | "layer" | "library" | "name">;

export interface Case {
  readonly name: string;
  /** Needs shader-f16. */
  readonly f16?: boolean;
  /** Measures JavaScript, so that a GPU that computes nothing will do. */
  readonly anyDevice?: boolean;
  /** Throws where a result is wrong. It compiles the kernels, and is done for all cases before one is timed. */
  check?(device: Device): Promise<void>;
  run(device: Device): Promise<Result>;
  /** Without capture: for what cannot be captured. A step that takes longer than `most` milliseconds is not repeated. */
  eager?(device: Device, most: number): Promise<Result>;
}

const ROUND = 40;
/** Milliseconds of rest after which a GPU may have lowered its clock, and of work until it has raised it again. */
const REST = 150;
const RAMP = 500;

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

/** When the GPU last had work to be timed. */
let busy = Number.NEGATIVE_INFINITY;

const clock = async (
  device: Device,
  step: () => unknown,
  count: number,
  flush: () => void,
): Promise<{ js: number; all: number }> => {
  const watch = stopwatchOf(device);
  watch?.mark(0);
  const start = performance.now();
  for (let i = 0; i < count; i++) step();
  flush();
  const recorded = performance.now();
  watch?.mark(1);
  await device.sync();
  const all = (await watch?.elapsed()) ?? performance.now() - start;
  busy = performance.now();
  return { js: recorded - start, all };
};

const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[values.length >> 1]!;

export interface TimeOptions {
  /** Repetitions in one call. Default 1. */
  parts?: number;
  /** "js" leaves the GPU's time out. Default "all". */
  of?: "all" | "js";
  /** Hands to the GPU what was recorded. Default: the device's. */
  flush?: () => void;
}

/** Times `step`: three rounds, and up to seven where they differ by more than 1 %. */
export async function time(
  device: Device,
  step: () => unknown,
  { parts = 1, of = "all", flush = () => device.flush() }: TimeOptions = {},
): Promise<Timing> {
  const start = performance.now();
  const ramp = start - busy > REST && !device.software && of === "all" ? RAMP : 0;
  let count = 1;
  let warm = await clock(device, step, count, flush);
  while (warm.all < ROUND || performance.now() - start < ramp) {
    count = Math.ceil(count * Math.max(1, Math.min(8, (1.2 * ROUND) / Math.max(warm.all, 0.1))));
    warm = await clock(device, step, count, flush);
  }
  const all: number[] = [];
  const js: number[] = [];
  const times = of === "js" ? js : all;
  const most = Math.max(3, Math.min(7, Math.floor(300 / warm.all)));
  while (all.length < 3 || (all.length < most && Math.max(...times) > 1.01 * Math.min(...times))) {
    const round = await clock(device, step, count, flush);
    all.push(round.all / count / parts);
    js.push(round.js / count / parts);
  }
  return { ms: median(times), min: Math.min(...times), max: Math.max(...times), js: median(js) };
}

/** How much longer than the GPU alone a repetition may take where JavaScript is faster than the GPU. */
const SETTLED = 1.1;

/**
 * Times `step`, also with all of a round recorded beforehand. Where JavaScript does not hold the GPU up, both are the same,
 * unless the GPU or its kernels were still getting faster: then all is timed again.
 */
export async function timeBoth(device: Device, step: () => unknown, parts = 1): Promise<Timing> {
  const dispatches = countDispatches(device, step);
  for (let left = 3; ; left--) {
    const timing = await time(device, step, { parts });
    const count = Math.max(1, Math.min(Math.ceil(ROUND / 2 / (timing.ms * parts)), Math.floor(20_000 / dispatches)));
    const gpu = (await timeGpu(device, step, count)) / parts;
    const settled = timing.ms < SETTLED * gpu || timing.js > gpu / 2;
    if (settled || left === 0 || device.software) return { ...timing, gpu, dispatches: dispatches / parts };
  }
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

/** What the subjects of a case return. */
type Results = readonly (readonly Tensor[])[];

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
  /** After one step. */
  const prepared = async <T>(
    sets: number,
    use: (step: () => unknown, subjects: readonly Subject[], results: Results) => Promise<T>,
  ): Promise<T> => {
    const subjects: Subject[] = [];
    const all = (): Results => subjects.map((subject) => subject.step());
    const captured = capture(all);
    const step = eager ? () => scope(all) : captured;
    let results: Results = [];
    try {
      for (let i = 0; i < sets; i++) subjects.push(await setup());
      results = step();
      return await use(step, subjects, results);
    } finally {
      for (const t of results.flat()) t.dispose();
      for (const subject of subjects) subject.dispose?.();
      captured.dispose();
    }
  };
  const check = (): Promise<void> => prepared(1, (_, [subject], [result]) => subject!.check(result!));
  const run = (device: Device): Promise<Result> =>
    prepared(sets, async (step) => ({ ...facts, ...(await timeBoth(device, step, sets)) }));
  const eagerly = async (device: Device, most: number): Promise<Result> => {
    const subject = await setup();
    const step = (): void => scope(() => void subject.step());
    try {
      step(); // compiles
      await device.sync();
      const start = performance.now();
      step();
      await device.sync();
      const once = performance.now() - start;
      if (once > most) return { ...facts, ms: once, note: "one step alone was timed" };
      return { ...facts, ...(await time(device, step)) };
    } finally {
      subject.dispose?.();
    }
  };
  return {
    ...{ name, f16 },
    check: (device) => cleanly(device, check),
    run: (device) => cleanly(device, () => run(device)),
    eager: (device, most) => cleanly(device, () => eagerly(device, most)),
  };
}

/** Runs a case in a scope, and gives its memory back afterwards. */
export async function cleanly<T>(device: Device, run: () => Promise<T>): Promise<T> {
  try {
    return await scope(run);
  } finally {
    device.trim();
  }
}

type OneOrMore<T> = T | readonly T[];

/** A differentiable function, at one point. */
export interface Point {
  /** What gets a gradient. */
  readonly leaves: readonly Tensor[];
  /** A function with several outputs has several dy. */
  forward(): OneOrMore<Tensor>;
  /** dL/dy; none for a scalar. */
  readonly dy?: OneOrMore<Tensor>;
  /** `grads` are those of the leaves; undefined where only y was computed. */
  check(ys: readonly Tensor[], grads: readonly Tensor[] | undefined): Promise<void>;
  /** Frees what the scope around the case does not. */
  dispose?(): void;
}

export interface PairOptions extends Omit<KernelOptions, "bytes" | "flops" | "torch"> {
  /** Of forward, and of forward and backward. */
  bytes?: readonly [number, number];
  flops?: readonly [number, number];
}

const list = <T>(value: OneOrMore<T>): readonly T[] => (Array.isArray(value) ? value : [value as T]);

/** Two cases: "… fwd" without the tape, and "… fwd+bwd". */
export function forwardAndBackward(
  name: string,
  setup: () => Point | Promise<Point>,
  { bytes, flops, ...options }: PairOptions,
): Case[] {
  const forward = async (): Promise<Subject> => {
    const point = await setup();
    return {
      step: () => list(noGrad(() => point.forward())),
      check: (ys) => point.check(ys, undefined),
      dispose: () => point.dispose?.(),
    };
  };
  const both = async (): Promise<Subject> => {
    const point = await setup();
    const { leaves } = point;
    const dys = point.dy ? list(point.dy) : [];
    for (const leaf of leaves) leaf.requiresGrad = true;
    // Several outputs meet in one: the tape is walked once, as behind two readers of a layer.
    const end = ones([1]);
    const join = (ys: readonly Tensor[]): Tensor => record(end.detach(), ys, () => dys.map((dy) => dy.detach()));
    return {
      step: () => {
        leaves.forEach(clearGrad);
        const ys = list(point.forward());
        if (ys.length === 1) ys[0]!.backward(dys[0]);
        else join(ys).backward(end);
        return [...ys, ...leaves.map((leaf) => leaf.grad!)];
      },
      check: (results) => point.check(results.slice(0, -leaves.length), results.slice(-leaves.length)),
      dispose: () => {
        leaves.forEach(clearGrad);
        point.dispose?.();
      },
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

/** Target ids or token ids below `classes`, the same at each run. */
export const ids = (count: number, classes: number): Int32Array<ArrayBuffer> =>
  Int32Array.from({ length: count }, (_, i) => (Math.imul(i + 1, 0x9e3779b1) >>> 8) % classes);

/** A shape in a name. */
export const times = (shape: readonly number[]): string => shape.join("×");

/** What a layer with matrix products computes in: beside PyTorch's mixed precision, f16 is autocast. */
export const precision = (dtype: FloatType): string => (dtype === "f16" ? "autocast f16" : "f32");

export const floats: readonly FloatType[] = ["f32", "f16"];
