/**
 * Scopes: the tensors created inside one are freed at its end, except those that are returned, kept, or persistent
 * (parameters, their gradients, optimizer state).
 *
 *   using s = scope();  …          everything up to the end of the block
 *   const y = scope(() => f(x))    everything but what f returns
 *
 * JavaScript's garbage collector does not see GPU memory; a scope around each training step is what keeps it constant.
 */
import { advanceStreams } from "./random.ts";
import { state } from "./state.ts";
import { isTensor, type Tensor } from "./tensor.ts";

export class Scope {
  readonly tensors: Tensor[] = [];
  #open = true;

  /** Hands `tensor` to the enclosing scope, or to its holder where there is none. */
  keep<T extends Tensor>(tensor: T): T {
    const at = this.tensors.indexOf(tensor);
    if (at >= 0) {
      this.tensors.splice(at, 1);
      release(tensor, enclosing(this));
    }
    return tensor;
  }

  [Symbol.dispose](): void {
    this.end();
  }

  /** Frees what the scope holds. `result` and the tensors inside it live on. */
  end(result?: unknown): void {
    if (!this.#open) return;
    this.#open = false;
    const survivors = new Set<Tensor>();
    collect(result, survivors);
    const outer = enclosing(this);
    const at = state.scopes.lastIndexOf(this);
    if (at >= 0) state.scopes.splice(at, 1);
    for (let i = this.tensors.length - 1; i >= 0; i--) {
      const t = this.tensors[i]!;
      if (t.disposed) continue;
      if (t.persistent) t.unscope();
      else if (survivors.has(t)) release(t, outer);
      else t.dispose();
    }
    if (!outer) advanceStreams();
  }
}

/** Opens a scope until `using` ends it, or runs `fn` in one and returns what it returns. */
export function scope(): Scope;
export function scope<T>(fn: () => T): T;
export function scope<T>(fn?: () => T): T | Scope {
  const opened = new Scope();
  state.scopes.push(opened);
  if (!fn) return opened;
  let result: T;
  try {
    result = fn();
  } catch (error) {
    opened.end();
    throw error;
  }
  if (result instanceof Promise) return endAfter(opened, result) as T;
  opened.end(result);
  return result;
}

async function endAfter<T>(opened: Scope, running: Promise<T>): Promise<T> {
  let value: T | undefined;
  try {
    value = await running;
    return value;
  } finally {
    opened.end(value);
  }
}

/** Takes `tensor` out of all scopes: it lives until it is disposed. */
export function persist<T extends Tensor>(tensor: T): T {
  tensor.persistent = true;
  return tensor;
}

function release(tensor: Tensor, outer: Scope | undefined): void {
  if (outer) outer.tensors.push(tensor);
  else tensor.unscope();
}

function enclosing(scope: Scope): Scope | undefined {
  return state.scopes[state.scopes.lastIndexOf(scope) - 1];
}

/** @internal The tensors in `value`, arrays and plain objects included. */
export function collect(value: unknown, into: Set<Tensor>): void {
  if (isTensor(value)) into.add(value);
  else if (Array.isArray(value)) for (const item of value) collect(item, into);
  else if (value !== null && typeof value === "object" && Object.getPrototypeOf(value) === Object.prototype) {
    for (const item of Object.values(value)) collect(item, into);
  }
}
