/**
 * The tape: `record` puts an operation on it, `backward` walks it in the reverse order of recording.
 *
 * A gradient rule is a closure that captures what it needs (no context object, no string keys):
 *   const y = launch(x, w);
 *   return record(y, [x, w], (dy) => [launchDx(dy, w), launchDw(dy, x)]);
 */
import { add, copy } from "./arithmetic.ts";
import { state } from "./state.ts";
import { ones, type Tensor } from "./tensor.ts";

type Grads = readonly (Tensor | null)[];

/** One recorded operation. */
export interface Node {
  readonly sequence: number;
  readonly outputs: readonly Tensor[];
  readonly inputs: readonly Tensor[];
  /** Versions of the inputs when they were saved. */
  readonly versions: readonly number[];
  /** Null once the graph was freed. */
  backward: ((dys: readonly (Tensor | null)[]) => Grads) | null;
}

/** Whether the gradient of `x` is wanted: a closure returns null for the others without computing them. */
export const needsGrad = (x: Tensor | null | undefined): x is Tensor => x?.requiresGrad === true;

/**
 * Puts one operation on the tape and returns its output. `backward` receives dL/doutput and returns dL/dinput for each
 * input, in order, null where there is none. Given an array of outputs, it receives an array, with null for an output
 * that nothing used.
 */
export function record<const I extends readonly Tensor[]>(
  output: Tensor,
  inputs: I,
  backward: (dy: Tensor) => { readonly [K in keyof I]: Tensor | null },
): Tensor;
export function record<const O extends readonly Tensor[], const I extends readonly Tensor[]>(
  outputs: O,
  inputs: I,
  backward: (dys: { readonly [K in keyof O]: Tensor | null }) => { readonly [K in keyof I]: Tensor | null },
): O;
export function record(
  output: Tensor | readonly Tensor[],
  inputs: readonly Tensor[],
  backward: (dy: never) => Grads,
): unknown {
  if (!state.grad || !inputs.some(needsGrad)) return output;
  const single = !Array.isArray(output);
  const outputs = single ? [output as Tensor] : (output as readonly Tensor[]);
  const rule = backward as (dy: unknown) => Grads;
  const node: Node = {
    sequence: state.sequence++,
    outputs,
    inputs,
    versions: inputs.map((x) => x.version),
    backward: single ? (dys) => rule(dys[0]) : rule,
  };
  for (const y of outputs) {
    y.requiresGrad = true;
    y.node = node;
  }
  return output;
}

/** Runs `fn` without putting its operations on the tape. */
export function noGrad<T>(fn: () => T): T {
  const before = state.grad;
  state.grad = false;
  try {
    return fn();
  } finally {
    state.grad = before;
  }
}

/** See Tensor.backward. */
export function backward(
  root: Tensor,
  grad: Tensor | undefined,
  { retainGraph = false }: { retainGraph?: boolean } = {},
): void {
  if (!root.requiresGrad) throw new Error(`backward: ${root} depends on no tensor that requires a gradient`);
  if (!grad && root.size !== 1)
    throw new Error(`backward: ${root} is not a scalar; pass the gradient of shape [${root.shape}]`);
  if (grad && (grad.shape.join() !== root.shape.join() || grad.dtype !== root.dtype)) {
    throw new Error(`backward: grad is [${grad.shape}] ${grad.dtype}; expected [${root.shape}] ${root.dtype}`);
  }
  noGrad(() => {
    const pending = new Pending();
    pending.add(root, grad ? grad.detach() : ones(root.shape, root));
    for (const node of reachable(root)) {
      const dys = node.outputs.map((y) => pending.take(y));
      if (dys.some((dy) => dy !== null)) {
        const rule = node.backward;
        if (!rule)
          throw new Error("backward: the graph was already freed; pass { retainGraph: true } to the first backward");
        node.inputs.forEach((x, i) => {
          if (x.version !== node.versions[i]) {
            throw new Error(
              `backward: ${x} was overwritten after an operation saved it (version ${node.versions[i]}, now ${x.version})`,
            );
          }
        });
        rule(dys).forEach((g, i) => {
          const x = node.inputs[i]!;
          if (!g) return;
          if (x.requiresGrad) pending.add(x, g);
          else if (!pending.holds(g)) discard(g);
        });
      }
      node.outputs.forEach((y, i) => {
        const dy = dys[i];
        if (!dy) return;
        if (y.retainsGrad) y.grad = pending.own(dy);
        pending.drop(dy);
      });
      if (!retainGraph) node.backward = null;
    }
    for (const [leaf, g] of pending.rest()) {
      const before = leaf.grad;
      leaf.grad = before ? add(before, g) : pending.own(g);
      leaf.grad.persistent = true;
      leaf.device.recorder?.accumulated(leaf);
      before?.dispose();
      pending.drop(g);
    }
  });
}

/** Rules hand over what they return; a parameter or kept tensor among it stays its owner's. */
function discard(g: Tensor): void {
  if (!g.persistent) g.dispose();
}

/** Nodes that `root` depends on, last recorded first. */
function reachable(root: Tensor): Node[] {
  const seen = new Set<Node>();
  const stack = root.node ? [root.node] : [];
  while (stack.length > 0) {
    const node = stack.pop()!;
    if (seen.has(node)) continue;
    seen.add(node);
    for (const x of node.inputs) if (x.node) stack.push(x.node);
  }
  return [...seen].sort((a, b) => b.sequence - a.sequence);
}

/**
 * Gradients on their way. Backward owns them and frees each one as soon as its node has run: that is what keeps the
 * peak memory of a backward pass at a few gradients. One tensor may stand for several inputs (a sum hands dy to both).
 */
class Pending {
  readonly #grads = new Map<Tensor, Tensor>();
  readonly #holders = new Map<Tensor, number>();

  holds(g: Tensor): boolean {
    return this.#holders.has(g);
  }

  add(x: Tensor, g: Tensor): void {
    if (g.shape.join() !== x.shape.join() || g.dtype !== x.dtype) {
      throw new Error(
        `backward: a gradient rule returned [${g.shape}] ${g.dtype} for an input of [${x.shape}] ${x.dtype}`,
      );
    }
    this.#holders.set(g, (this.#holders.get(g) ?? 0) + 1);
    const before = this.#grads.get(x);
    if (!before) {
      this.#grads.set(x, g);
      return;
    }
    const sum = add(before, g);
    this.drop(before);
    this.drop(g);
    this.#grads.set(x, sum);
    this.#holders.set(sum, 1);
  }

  take(y: Tensor): Tensor | null {
    const g = this.#grads.get(y) ?? null;
    this.#grads.delete(y);
    return g;
  }

  drop(g: Tensor): void {
    const holders = this.#holders.get(g)! - 1;
    if (holders > 0) this.#holders.set(g, holders);
    else {
      this.#holders.delete(g);
      discard(g);
    }
  }

  /** A tensor with these values that nothing else holds or shares memory with. */
  own(g: Tensor): Tensor {
    return g.storage.refs > 1 || this.#holders.get(g)! > 1 ? copy(g) : g.detach();
  }

  rest(): [leaf: Tensor, g: Tensor][] {
    return [...this.#grads];
  }
}
