/** Activations by name, where PyTorch's users expect it: `new Linear(3, 4, { activation: "gelu" })`. */
import {
  celu,
  elu,
  gelu,
  geluTanh,
  hardshrink,
  hardsigmoid,
  hardswish,
  hardtanh,
  leakyRelu,
  logSigmoid,
  mish,
  relu,
  relu6,
  selu,
  sigmoid,
  silu,
  softplus,
  softshrink,
  softsign,
  squaredRelu,
  tanh,
  tanhshrink,
} from "@kindling/activations";
import type { Module, Pointwise } from "@kindling/core";
import { type Layer, layer } from "./backend.ts";

type Camel =
  | ("relu" | "relu6" | "squaredRelu" | "leakyRelu" | "elu" | "celu" | "selu" | "gelu" | "geluTanh" | "silu" | "mish")
  | (
      | "sigmoid"
      | "logSigmoid"
      | "tanh"
      | "tanhshrink"
      | "hardtanh"
      | "hardsigmoid"
      | "hardswish"
      | "softplus"
      | "softsign"
    )
  | ("hardshrink" | "softshrink");

const table: Readonly<Record<Camel, Pointwise>> = {
  ...{ relu, relu6, squaredRelu, leakyRelu, elu, celu, selu, gelu, geluTanh, silu, mish },
  ...{
    sigmoid,
    logSigmoid,
    tanh,
    tanhshrink,
    hardtanh,
    hardsigmoid,
    hardswish,
    softplus,
    softsign,
    hardshrink,
    softshrink,
  },
};

type Snake<S extends string> = S extends `${infer C}${infer R}`
  ? C extends Lowercase<C>
    ? `${C}${Snake<R>}`
    : `_${Lowercase<C>}${Snake<R>}`
  : S;

/** `leakyRelu`, PyTorch's `leaky_relu`, and its `logsigmoid`; with PyTorch's defaults where there are numbers to choose. */
export type ActivationName = Camel | Snake<Camel> | "logsigmoid" | "swish";

/** An activation by name or as a value, `gelu` of @kindling/activations or one's own. */
export type ActivationLike = ActivationName | Pointwise;

const plain = (name: string): string => name.replaceAll("_", "").toLowerCase();

/** The activation of that name. `where` begins the message of the error for an unknown one. */
export function activationOf(where: string, activation: string): Pointwise {
  const wanted = plain(activation === "swish" ? "silu" : activation);
  const found = Object.entries(table).find(([name]) => plain(name) === wanted);
  if (!found)
    throw new Error(
      `${where}: activation is "${activation}", expected one of ${Object.keys(table).join(", ")}, or a value`,
    );
  return found[1];
}

/** Options that take the name of an activation as well. */
type Naming<O> = O extends { activation?: Pointwise | null }
  ? Omit<O, "activation"> & { activation?: Exclude<O["activation"], Pointwise> | ActivationLike }
  : O;

// biome-ignore lint/suspicious/noExplicitAny: the constructor of any module
type ModuleClass = abstract new (...args: any[]) => Module & { forward(...args: any[]): unknown };

type Arguments<A extends unknown[]> = { [K in keyof A]: Naming<A[K]> };

type TakesNames<C extends ModuleClass> = Omit<C, "prototype"> &
  (new (
    ...args: Arguments<ConstructorParameters<C>>
  ) => InstanceType<C>);

/** A layer's class whose options take the name of an activation, and a backend. */
export type Named<C extends ModuleClass> = Layer<TakesNames<C>>;

/** `Class`, whose option `activation` may be a name, with a choice of backends. */
/* @__NO_SIDE_EFFECTS__ */
export function named<C extends ModuleClass>(Class: C): Named<C> {
  const Base = Class as unknown as new (...args: unknown[]) => Module & { forward(...args: unknown[]): unknown };
  const taking = {
    [Class.name]: class extends Base {
      constructor(...args: unknown[]) {
        const options = args.at(-1) as { activation?: unknown } | undefined;
        if (typeof options?.activation === "string")
          args[args.length - 1] = { ...options, activation: activationOf(Class.name, options.activation) };
        super(...args);
      }
    },
  };
  return layer(taking[Class.name]!) as unknown as Named<C>;
}
