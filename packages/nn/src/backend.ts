/**
 * Which implementation computes a layer: our kernels, or the fallback, which is @jax-js/jax and is loaded on demand.
 *
 *   await setBackend("fallback");                          every layer from now on
 *   await loadFallback(); new Linear(4, 4, { backend: "fallback" })   one of them, and the modules below it
 *
 * A module's own backend comes first, then that of the module that calls it, then the global one. On a device that is no GPU
 * it is always the fallback.
 */
import { type Device, defaultDevice, isModule, Module, provideCpu, setDelegate, type Tensor } from "@kindling/core";

export type Backend = "kernels" | "fallback";

export interface BackendOption {
  /** What computes this module and those below it. Default: the backend of its parent, or what setBackend says. */
  backend?: Backend;
}

let everywhere: Backend = "kernels";
/** Of the module whose forward runs. */
let current: Backend | null = null;
let fallbackModules: Promise<FallbackModules> | undefined;
let ready: FallbackModules | undefined;

interface FallbackModules {
  readonly bridge: typeof import("./fallback/bridge.ts");
  readonly compute: typeof import("./fallback/compute.ts").compute;
}

// Whatever is imported from this package brings the device without a GPU along, as a chunk that is loaded when it is needed.
provideCpu(async (reason) => (await import("./cpu/cpu.ts")).open(reason));

function check(backend: unknown): Backend {
  if (backend !== "kernels" && backend !== "fallback")
    throw new Error(`backend: got ${JSON.stringify(backend)}, expected "kernels" or "fallback"`);
  return backend;
}

/** Switches all layers that have no backend of their own; loads the fallback where it is wanted. */
export async function setBackend(backend: Backend): Promise<void> {
  if (check(backend) === "fallback") await loadFallback();
  everywhere = backend;
}

export const getBackend = (): Backend => everywhere;

/** Whether a device is that of cpu/device.ts, a chunk that is not loaded for asking. */
export const isCpu = (device: Device): boolean => "isCpu" in device.gpu;

/**
 * Loads the fallback for a device (default: the default device). jax-js computes on one GPU device, the first that it is given.
 */
export async function loadFallback(device: Device | "cpu" = defaultDevice()): Promise<void> {
  fallbackModules ??= Promise.all([import("./fallback/bridge.ts"), import("./fallback/compute.ts")]).then(
    ([bridge, { compute }]) => ({ bridge, compute }),
  );
  const loaded = await fallbackModules;
  await loaded.bridge.openFallback(device);
  ready = loaded;
  setDelegate(delegate);
}

function delegate(
  layer: string,
  tensors: Readonly<Record<string, Tensor | null | undefined>>,
  settings: object,
): unknown {
  const { compute } = ready!;
  const first = Object.values(tensors).find((x) => x != null)!;
  const backend = isCpu(first.device) ? "fallback" : (current ?? everywhere);
  return backend === "fallback" ? compute(layer, tensors, settings) : null;
}

/** Runs `fn` with the layers in it computed by `backend`. The fallback must have been loaded. */
export function withBackend<T>(backend: Backend, fn: () => T): T {
  if (check(backend) === "fallback" && !ready)
    throw new Error("the fallback is not loaded; `await loadFallback()` first");
  const before = current;
  current = backend;
  try {
    return fn();
  } finally {
    current = before;
  }
}

/** Begins to load the fallback, for a module that will need it; a failure is reported by loadFallback and by the forward. */
function beginLoading(module: Module): void {
  const device = Object.values(module.stateDict())[0]?.device;
  try {
    loadFallback(device).catch(() => {});
  } catch {
    // no device yet: the forward says what is missing
  }
}

// Layers that have both -------------------------------------------------------------------------

// biome-ignore lint/suspicious/noExplicitAny: the constructor of any module
type ModuleClass = abstract new (...args: any[]) => Module & { forward(...args: any[]): unknown };

type Options<T> = T extends
  | undefined
  | number
  | string
  | boolean
  | readonly unknown[]
  | Module
  | Tensor
  | ((...args: never[]) => unknown)
  ? T
  : T & BackendOption;

/** The arguments of a constructor whose options object also takes the backend. */
type Arguments<A extends unknown[]> = A extends [] ? [options?: BackendOption] : { [K in keyof A]: Options<A[K]> };

/** A layer's class, with `{ backend }` among the options of its constructor and in its instances. */
export type Layer<C extends ModuleClass> = (new (
  ...args: Arguments<ConstructorParameters<C>>
) => InstanceType<C> & { readonly backend: Backend }) & { [K in keyof C]: C[K] };

const ownBackends = new WeakMap<Module, Backend>();

/** The backend that a module was given, for a copy of it. */
export const ownBackend = (module: Module): Backend | null => ownBackends.get(module) ?? null;

/** Whether a module is on the CPU, where layers have no kernels: by its tensors, or without any by the default device. */
function onCpu(module: Module): boolean {
  try {
    return isCpu(Object.values(module.stateDict())[0]?.device ?? defaultDevice());
  } catch {
    return false; // no device yet
  }
}

/** Lets a user choose the backend of a module of this class. */
/* @__NO_SIDE_EFFECTS__ */
export function layer<C extends ModuleClass>(Class: C): Layer<C> {
  const Base = Class as unknown as new (...args: unknown[]) => Module & { forward(...args: unknown[]): unknown };
  const named = {
    [Class.name]: class extends Base {
      readonly #backend: Backend | null;

      constructor(...args: unknown[]) {
        const [rest, backend] = withoutBackend(args);
        super(...rest);
        this.#backend = backend;
        if (backend) ownBackends.set(this, backend);
        if (backend === "fallback") beginLoading(this);
      }

      get backend(): Backend {
        return onCpu(this) ? "fallback" : (this.#backend ?? everywhere);
      }

      override forward(...args: unknown[]): unknown {
        if (!this.#backend) return super.forward(...args);
        if (this.#backend === "fallback" && !ready)
          throw new Error(`${this.constructor.name}: the fallback is not loaded; \`await loadFallback()\` first`);
        return withBackend(this.#backend, () => super.forward(...args));
      }

      protected override extraRepr(): string {
        return [super.extraRepr(), `backend=${this.backend}`].filter(Boolean).join(", ");
      }
    },
  };
  return named[Class.name] as unknown as Layer<C>;
}

/** The arguments without the backend in the options, which are the last argument. */
function withoutBackend(args: unknown[]): [rest: unknown[], backend: Backend | null] {
  const options = args.at(-1);
  if (typeof options !== "object" || options === null || isModule(options) || !("backend" in options))
    return [args, null];
  const { backend, ...others } = options as Record<string, unknown>;
  const left = [...args.slice(0, -1), ...(Object.keys(others).length > 0 ? [others] : [])];
  return [left, backend === undefined ? null : check(backend)];
}

// Layers that have only the fallback ------------------------------------------------------------

/**
 * What a layer extends that has no kernels: it begins to load the fallback when it is made, and its `settings` are what toString
 * shows beside the backend.
 */
export abstract class FallbackModule extends Module {
  constructor() {
    super();
    if (!ready) beginLoading(this);
  }

  get backend(): Backend {
    return "fallback";
  }

  /** The settings that `toString` shows in parentheses. */
  protected settings(): string {
    return "";
  }

  protected override extraRepr(): string {
    return [this.settings(), "backend=fallback"].filter(Boolean).join(", ");
  }
}
