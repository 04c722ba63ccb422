/** Parameter groups: what optimizers are made from, and the checks that go with it. */
import { isTensor, type StateDict, type Tensor } from "@kindling/core";
import type { PrepareKernels } from "./prepare.ts";
import type { UpdateKernels } from "./walk.ts";

/** What every group of parameters can set. */
export interface Settings {
  lr: number;
}

export type ParamGroup<S extends Settings> = S & {
  readonly params: readonly Tensor[];
  /** The learning rate that a scheduler starts from. */
  initialLr?: number;
};

/** Parameters, or groups of them with settings of their own. */
export type Params<S extends Settings> =
  | readonly Tensor[]
  | readonly (Partial<S> & { readonly params: readonly Tensor[] })[];

/** Plain data and the optimizer's own tensors, which later steps change: save it, or copy it. */
export interface OptimizerState<S extends Settings> {
  /** PyTorch's names after the number of the parameter: "0.step", "0.exp_avg" … */
  state: StateDict;
  paramGroups: (S & { initialLr?: number; params: number[] })[];
}

/** An update rule. */
export interface Rule<S extends Settings> {
  /** The class, for messages. */
  readonly name: string;
  readonly defaults: S;
  /** PyTorch's names of the tensors that it keeps for each parameter. */
  readonly moments: readonly string[];
  /** Throws unless `settings` are valid; `where` names their owner. */
  check(settings: S, where: string): void;
  /** Eight numbers for the GPU. */
  settings(settings: S): readonly number[];
  readonly prepare: PrepareKernels;
  readonly update: UpdateKernels;
}

// Checks ----------------------------------------------------------------------------------------

/** Throws if `options` has a key that is not among `keys`. */
export function knownKeys(where: string, options: object, keys: readonly string[]): void {
  for (const key of Object.keys(options)) {
    if (!keys.includes(key)) throw new Error(`${where}: option "${key}" is not supported; expected ${keys.join(", ")}`);
  }
}

/** Throws unless `value` is a finite number in [low, high). */
export function checkNumber(
  where: string,
  name: string,
  value: unknown,
  low: number = 0,
  high: number = Number.POSITIVE_INFINITY,
): void {
  if (typeof value === "number" && Number.isFinite(value) && value >= low && value < high) return;
  const expected = high === Number.POSITIVE_INFINITY ? `a finite number ≥ ${low}` : `a number in [${low}, ${high})`;
  throw new Error(`${where}: ${name} is ${value}; expected ${expected}`);
}

/** The groups that `params` describes, complete with settings. */
export function groups<S extends Settings>(rule: Rule<S>, params: Params<S>, settings: Partial<S>): ParamGroup<S>[] {
  const { name, defaults } = rule;
  if (!Array.isArray(params))
    throw new Error(`${name}: params is ${describe(params)}; expected an array of tensors, or of groups { params }`);
  if (params.length === 0) throw new Error(`${name}: params is empty; expected at least one tensor`);
  const keys = Object.keys(defaults);
  const given = (isTensor(params[0]) ? [{ params }] : params) as (Partial<S> & { params: readonly Tensor[] })[];
  const all = { ...defaults, ...defined(settings) };
  rule.check(all, name);
  return given.map((group, g) => {
    const where = `${name}: params[${g}]`;
    if (typeof group !== "object" || group === null || !Array.isArray(group.params)) {
      throw new Error(`${where} is ${describe(group)}; expected a group { params: [tensors] } like the others`);
    }
    if (group.params.length === 0) throw new Error(`${where}: the group has no tensors; expected at least one`);
    knownKeys(where, group, ["params", ...keys, "initialLr"]);
    const merged = { ...all, ...defined(group), params: [...group.params] } as ParamGroup<S>;
    rule.check(merged, where);
    return merged;
  });
}

export function checkTensors<S extends Settings>(name: string, paramGroups: readonly ParamGroup<S>[]): void {
  const seen = new Map<unknown, string>();
  let first: Tensor | undefined;
  let index = 0;
  for (const group of paramGroups) {
    for (const p of group.params) {
      const where = `${name}: ${position(paramGroups, index++)}`;
      if (!isTensor(p)) throw new Error(`${where} is ${describe(p)}; expected a tensor`);
      if (p.disposed) throw new Error(`${where} [${p.shape}] was disposed; expected a live tensor`);
      if (p.dtype !== "f32" && p.dtype !== "f16") throw new Error(`${where} is ${p.dtype}; expected f32 or f16`);
      if (p.node)
        throw new Error(
          `${where} [${p.shape}] is the result of an operation; expected a leaf such as parameter() makes`,
        );
      if (seen.has(p)) throw new Error(`${where} is the same tensor as ${seen.get(p)}; expected each tensor once`);
      first ??= p;
      if (p.device !== first.device)
        throw new Error(`${where} is on ${p.device.name}, the first on ${first.device.name}; expected one device`);
      seen.set(p, position(paramGroups, index - 1));
    }
  }
}

/** How messages name parameter `index`. */
export function position(paramGroups: readonly { readonly params: readonly unknown[] }[], index: number): string {
  let at = index;
  for (const [g, { params }] of paramGroups.entries()) {
    if (at < params.length) return `paramGroups[${g}].params[${at}]`;
    at -= params.length;
  }
  return `parameter ${index}`;
}

const describe = (value: unknown): string =>
  isTensor(value) ? String(value) : value === null ? "null" : Array.isArray(value) ? "an array" : typeof value;

const defined = <T extends object>(options: T): Partial<T> =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined)) as Partial<T>;
