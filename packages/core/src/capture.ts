/**
 * capture(fn): run a function once and record its GPU commands, then replay them without running it.
 *
 *   const step = capture((x, y) => { optimizer.zeroGrad(); const loss = model.loss(x, y); loss.backward(); optimizer.step(); return loss; });
 *   for (…) step(x, y);
 *
 * Replay costs about 2 µs of JavaScript a dispatch. It gives, bit for bit, what calling `fn` again would give, as long as
 * what changes from step to step is data on the GPU: arguments, parameters, optimizer state, random streams. The rest (a
 * learning rate that a scheduler changes) is uploaded by hooks that its owner registered while recording.
 */
import { copyInto } from "./arithmetic.ts";
import type { Device, Recorder } from "./device.ts";
import type { Pipeline } from "./kernel.ts";
import type { Block, Pool } from "./pool.ts";
import { advanceStreams } from "./random.ts";
import { collect, Scope } from "./scope.ts";
import { state } from "./state.ts";
import { emptyLike, isTensor, type Tensor } from "./tensor.ts";

interface Command {
  readonly pipeline: Pipeline;
  readonly group: GPUBindGroup;
  readonly x: number;
  readonly y: number;
  readonly z: number;
}

class Plan<R> implements Recorder {
  readonly device: Device;
  readonly inputs: readonly Tensor[];
  readonly commands: Command[] = [];
  readonly hooks: (() => void)[] = [];
  readonly #pinned = new Set<Block>();
  readonly #cleared = new Set<Tensor>();
  readonly #accumulated = new Set<Tensor>();
  readonly pool: Pool;
  result!: R;

  constructor(device: Device, inputs: readonly Tensor[]) {
    this.device = device;
    this.inputs = inputs;
    this.pool = device.pool.fork();
  }

  dispatch(pipeline: Pipeline, group: GPUBindGroup, x: number, y: number, z: number): void {
    this.commands.push({ pipeline, group, x, y, z });
  }

  beforeReplay(hook: () => void): void {
    this.hooks.push(hook);
  }

  /** Buffers from outside must not go back to their pool while this plan may write to them. */
  uses(block: Block): void {
    if (block.pool === this.pool || this.#pinned.has(block)) return;
    block.pool.pin(block);
    this.#pinned.add(block);
  }

  cleared(leaf: Tensor): void {
    this.#cleared.add(leaf);
  }

  accumulated(leaf: Tensor): void {
    this.#accumulated.add(leaf);
  }

  /** Replay overwrites gradients; a function that would add to what the last call left must not be captured. */
  checkGradients(): void {
    for (const leaf of this.#accumulated) {
      if (leaf.grad && !this.#cleared.has(leaf)) {
        throw new Error(
          `capture: the function accumulates into the gradient of ${leaf} without clearing it; call zeroGrad() inside`,
        );
      }
    }
  }

  run(args: readonly Tensor[]): R {
    const { device } = this;
    for (const [i, x] of args.entries()) copyInto(this.inputs[i]!, x);
    for (const hook of this.hooks) hook();
    for (const { pipeline, group, x, y, z } of this.commands) device.dispatch(pipeline, group, x, y, z, "replay");
    return this.result;
  }

  dispose(): void {
    const held = new Set<Tensor>();
    collect([this.inputs, this.result], held);
    for (const t of held) if (!t.persistent) t.dispose();
    this.device.flush();
    for (const block of this.#pinned) block.pool.unpin(block);
    this.#pinned.clear();
    this.pool.trim();
  }
}

export interface Captured<A extends readonly Tensor[], R> {
  (...args: A): R;
  /** Frees the plans and their buffers. Tensors that the function returned are gone with them. */
  dispose(): void;
}

/**
 * `fn` recorded at its first call for each combination of argument shapes and dtypes, and replayed afterwards. Arguments
 * are tensors only: numbers would be frozen. The returned tensors are the same objects at each call, overwritten by the
 * next; read or copy them in between. Inside `fn`, gradients must be cleared before they are accumulated
 * (`optimizer.zeroGrad()`), nothing may be read back and no host data uploaded: each is an error.
 */
export function capture<A extends readonly Tensor[], R>(fn: (...args: A) => R): Captured<A, R> {
  const plans = new Map<string, Plan<R>>();
  const captured = (...args: A): R => {
    args.forEach((x, i) => {
      if (!isTensor(x))
        throw new Error(`capture: argument ${i} is ${typeof x}; a captured function takes tensors only`);
      if (x.requiresGrad)
        throw new Error(`capture: argument ${i} requires a gradient; close over parameters instead of passing them`);
    });
    const key = args.map((x) => `${x.dtype}[${x.shape}]`).join();
    const plan = plans.get(key);
    if (plan) return plan.run(args);
    const recorded = record(fn, args);
    plans.set(key, recorded);
    return recorded.result;
  };
  return Object.assign(captured, {
    dispose(): void {
      for (const plan of plans.values()) plan.dispose();
      plans.clear();
    },
  });
}

function record<A extends readonly Tensor[], R>(fn: (...args: A) => R, args: A): Plan<R> {
  const device = args[0]?.device ?? state.device;
  if (!device) throw new Error("capture: no device: call `await init()` first");
  if (device.recorder) throw new Error("capture: a captured function cannot capture another");
  advanceStreams(device);
  const pool = device.pool;
  // A scope of its own, outside the caller's: what the plan holds lives until the plan is disposed.
  const outer = state.scopes;
  state.scopes = [];
  const scope = new Scope();
  state.scopes.push(scope);
  const plan = new Plan<R>(device, []);
  device.pool = plan.pool;
  try {
    const inputs = args.map((x) => copyInto(emptyLike(x), x)) as unknown as A;
    (plan as { inputs: readonly Tensor[] }).inputs = inputs;
    device.recorder = plan;
    plan.result = fn(...inputs);
    if (plan.result instanceof Promise)
      throw new Error("capture: the function is async; a captured function only records GPU work");
    plan.checkGradients();
    const drawn = device.random?.drawn ?? 0;
    advanceStreams(device);
    if (drawn > 0) plan.beforeReplay(() => (device.random!.base = (device.random!.base + drawn) >>> 0));
    scope.end([plan.result, inputs]);
  } catch (error) {
    device.recorder = null;
    scope.end();
    throw error;
  } finally {
    device.recorder = null;
    device.pool = pool;
    state.scopes = outer;
  }
  return plan;
}
