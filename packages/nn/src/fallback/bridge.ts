/**
 * Between tensors and a provider: `fallback` runs a form on tensors and puts it on the tape. It is synchronous; the provider
 * must have been opened.
 */
import { cast, type Device, type FloatType, needsGrad, noGrad, record, type Tensor } from "@kindling/core";
import { isCpu } from "../backend.ts";
import { type Form, type JaxArray, openJax } from "./jax.ts";
import type { Operand, Program, Provider } from "./provider.ts";

export type { Form, Jax, JaxArray, JaxArray as Array } from "./jax.ts";

type JaxProvider = Provider<Form<never>>;

/** One for the CPU, one for each GPU device. */
const providers = new Map<Device | "cpu", JaxProvider>();
const opening = new Map<Device | "cpu", Promise<void>>();

const placeOf = (device: Device | "cpu"): Device | "cpu" => (device !== "cpu" && isCpu(device) ? "cpu" : device);

/** Opens the provider for tensors of `given`; once. */
export function openFallback(given: Device | "cpu"): Promise<void> {
  const device = placeOf(given);
  let promise = opening.get(device);
  if (!promise) {
    promise = openJax(device).then((provider) => {
      providers.set(device, provider);
    });
    opening.set(device, promise);
    promise.catch(() => opening.delete(device));
  }
  return promise;
}

function providerOf(x: Tensor, name: string): JaxProvider {
  const provider = providers.get(placeOf(x.device));
  if (!provider)
    throw new Error(
      providers.size > 0 && !isCpu(x.device)
        ? `${name}: the fallback computes on another device than ${x.device.name}, which holds its input`
        : `${name}: the fallback is not loaded; \`await loadFallback()\` first`,
    );
  return provider;
}

/** Throws inside `capture`. */
export function checkEager(name: string, device: Device): void {
  if (device.recorder)
    throw new Error(
      `${name}: the fallback cannot be captured, since a replay would leave it out; run this step eagerly`,
    );
}

export interface FallbackOptions {
  /** For messages. Default: the form's name. */
  readonly name?: string;
  /** Of float results, of all or of each. Default: that of the first float tensor, else f32. */
  readonly dtype?: FloatType | readonly FloatType[];
}

/**
 * The results of `form` for the tensors that are not null. Their gradients are those of the form. Tensors of f16 are converted
 * before and after. Throws inside `capture`, whose replay would leave jax-js out.
 */
export function fallback<S extends object, R extends JaxArray | JaxArray[]>(
  form: Form<S, R>,
  tensors: Readonly<Record<string, Tensor | null | undefined>>,
  settings: S,
  options: FallbackOptions = {},
): R extends JaxArray ? Tensor : Tensor[] {
  const { name = form.name } = options;
  const given = Object.entries(tensors).filter((entry): entry is [string, Tensor] => entry[1] != null);
  const inputs = given.map(([, x]) => x);
  const first = inputs[0];
  if (!first) throw new Error(`${name}: the fallback got no tensor`);
  const { device } = first;
  if (inputs.some((x) => x.device !== device)) throw new Error(`${name}: its inputs are on different devices`);
  const provider = providerOf(first, name);
  checkEager(name, device);
  const dtype = options.dtype ?? (inputs.find(isFloat)?.dtype as FloatType | undefined) ?? "f32";
  const operands = given.map(
    ([key, x]): Operand => ({ name: key, shape: x.shape, dtype: x.dtype === "f16" ? "f32" : x.dtype }),
  );
  const program = provider.program(form as unknown as Form<never>, operands, settings);
  const label = `fallback of ${name}`;
  const computed = noGrad(() => device.guard(label, () => onF32(inputs, (xs) => program.run(xs))));
  const typeOf = (i: number): FloatType => (typeof dtype === "string" ? dtype : (dtype[i] ?? "f32"));
  const results = noGrad(() => [computed].flat().map((y, i) => (y.dtype === "f32" ? converted(y, typeOf(i)) : y)));
  const floats = results.filter(isFloat);
  if (floats.length > 0 && inputs.some(isFloat))
    record(floats, inputs, (dys) => device.guard(label, () => gradientsOf(program, inputs, dys)));
  return (Array.isArray(computed) ? results : results[0]) as R extends JaxArray ? Tensor : Tensor[];
}

const isFloat = (x: Tensor): boolean => x.dtype === "f32" || x.dtype === "f16";

/** `x` in `dtype`, in its place. */
function converted(x: Tensor, dtype: FloatType): Tensor {
  const y = cast(x, dtype);
  if (y !== x) x.dispose();
  return y;
}

/** Calls `fn` with the tensors, those of f16 in f32. */
function onF32<T>(tensors: readonly Tensor[], fn: (tensors: Tensor[]) => T): T {
  const wide = tensors.map((x) => (x.dtype === "f16" ? cast(x, "f32") : x));
  try {
    return fn(wide);
  } finally {
    wide.forEach((x, i) => {
      if (x !== tensors[i]) x.dispose();
    });
  }
}

function gradientsOf(program: Program, inputs: readonly Tensor[], dys: readonly (Tensor | null)[]): (Tensor | null)[] {
  const wanted = inputs.flatMap((x, i) => (needsGrad(x) ? [i] : []));
  const used = dys.flatMap((dy, i) => (dy ? [i] : []));
  const given = used.map((i) => dys[i]!);
  const grads = onF32([...inputs, ...given], (all) =>
    program.gradients(all.slice(0, inputs.length), all.slice(inputs.length), wanted, used),
  );
  const out: (Tensor | null)[] = inputs.map(() => null);
  wanted.forEach((i, n) => {
    out[i] = converted(grads[n]!, inputs[i]!.dtype as FloatType);
  });
  return out;
}
