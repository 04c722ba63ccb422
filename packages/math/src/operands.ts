/**
 * What elementwise.ts and row.ts share: operands broadcast to one shape, the WGSL that reads them, and gradients of that
 * shape summed to an operand's own.
 *
 * Names that a kernel gets from here begin with an underscore, which those of a user's functions do not.
 */
import {
  elementOf,
  empty,
  type FloatType,
  grid,
  isTensor,
  kernel,
  needsGrad,
  type Shape,
  type Tensor,
  variants,
} from "@kindling/core";

/** A number stands for a tensor of it. */
export type Operand = Tensor | number;

/** What a parameter of an element's function can be; vectors, arrays and structs cannot be loaded from tensors. */
export type Scalar = "f32" | "i32" | "u32" | "bool";

export interface Parameter {
  readonly name: string;
  readonly type: Scalar;
}

// Shapes ----------------------------------------------------------------------------------------

/**
 * How an operand lies under the result's elements. `axes` has true for each axis that the operand has, false for each over
 * which it is repeated; axes that no operand tells apart are one.
 *
 *   number   in the parameters
 *   full     has every axis          one      has none
 *   tail     has the last axes       strided  anything else
 */
export interface Place {
  readonly kind: "number" | "full" | "one" | "tail" | "strided";
  readonly axes: readonly boolean[];
}

export interface Layout {
  readonly shape: Shape;
  /** The axes after merging. */
  readonly sizes: readonly number[];
  readonly places: readonly Place[];
}

const mostAxes = 8;

/** The shape that all operands are repeated to (PyTorch's and NumPy's rule), and how each lies in it. */
export function layoutOf(where: string, operands: readonly Operand[]): Layout {
  const shapes = operands.map((operand) => (isTensor(operand) ? operand.shape : []));
  const rank = Math.max(...shapes.map(({ length }) => length));
  const sizeAt = (own: Shape, axis: number): number => own[axis - rank + own.length] ?? 1;
  const shape = Array.from({ length: rank }, (_, axis) => {
    const size = Math.max(...shapes.map((own) => sizeAt(own, axis)));
    if (shapes.some((own) => ![1, size].includes(sizeAt(own, axis)))) {
      const list = operands.flatMap((operand) => (isTensor(operand) ? [`[${operand.shape}]`] : [])).join(" and ");
      throw new Error(`${where}: shapes ${list} do not broadcast to one`);
    }
    return size;
  });
  const sizes: number[] = [];
  const columns: boolean[][] = [];
  shape.forEach((size, axis) => {
    if (size === 1) return;
    const own = shapes.map((of) => sizeAt(of, axis) === size);
    if (columns.at(-1)?.join() === own.join()) sizes.push(sizes.pop()! * size);
    else {
      sizes.push(size);
      columns.push(own);
    }
  });
  if (sizes.length > mostAxes)
    throw new Error(`${where}: the operands alternate over ${sizes.length} axes, expected at most ${mostAxes}`);
  const places = operands.map((operand, k): Place => {
    const axes = columns.map((column) => column[k]!);
    if (!isTensor(operand)) return { kind: "number", axes };
    if (!axes.includes(false)) return { kind: "full", axes };
    const first = axes.indexOf(true);
    if (first < 0) return { kind: "one", axes };
    return { kind: axes.includes(false, first) ? "strided" : "tail", axes };
  });
  return { shape, sizes, places };
}

/** Whether four neighbours of the result can be computed as one: no operand changes between being repeated and not within. */
export const fitsVectors = ({ sizes, places }: Layout): boolean =>
  sizes.length < 2 ? places.every(({ kind }) => kind !== "tail" && kind !== "strided") : sizes.at(-1)! % 4 === 0;

// Texts -----------------------------------------------------------------------------------------

/** Elements that a thread computes at a time. */
export type Width = 1 | 4;

const vector = (T: string, width: Width): string => (width === 4 ? `vec4<${T}>` : T);

/** A storage binding of a tensor that is read or written `width` elements at a time. */
export const binding = (at: number, name: string, T: string, width: Width, write = false): string =>
  `@group(0) @binding(${at}) var<storage, ${write ? "read_write" : "read"}> ${name}: array<${vector(T, width)}>;\n`;

/** What identifies the text that reads an operand: where the kind does not say it, x for an axis that it has. */
const placeKey = ({ kind, axes }: Place): string =>
  kind === "strided" ? axes.map((has) => (has ? "x" : "-")).join("") : kind === "tail" ? `${axes.indexOf(true)}` : kind;

/** Places that need arithmetic, each once: operands that are repeated alike share it. */
function uneven(places: readonly Place[]): Map<string, Place> {
  const own = places.filter(({ kind }) => kind === "tail" || kind === "strided");
  return new Map(own.map((place) => [placeKey(place), place]));
}

export interface Loads {
  /** Bindings, and a function `_loadK(i)` for each operand, which returns elements `width · i …` of the result's shape. */
  readonly text: string;
  /** Fields of the parameters' struct. */
  readonly fields: readonly string[];
  /** The next free binding. */
  readonly next: number;
}

export interface LoadedOperand {
  readonly type: Scalar;
  /** WGSL type of its elements in memory. */
  readonly element: string;
  readonly place: Place;
}

/** Binding 0 is the parameters, called `params`. */
export function loads(operands: readonly LoadedOperand[], width: Width): Loads {
  const fields = new Set<string>();
  const places = uneven(operands.map(({ place }) => place));
  const numbers = new Map([...places.keys()].map((key, n) => [key, n]));
  let text = "";
  for (const [key, { kind, axes }] of places) {
    const n = numbers.get(key)!;
    let body = `return i % params.period${n};`;
    if (kind === "tail") fields.add(`period${n}: u32`);
    else {
      body = "\n  var rest = i;\n  var at = 0u;\n";
      for (let axis = axes.length - 1; axis >= 0; axis--) {
        if (axis > 0) fields.add(`size${axis}: u32`);
        if (axes[axis]) {
          fields.add(`stride${n}_${axis}: u32`);
          body += `  at += ${axis > 0 ? `rest % params.size${axis}` : "rest"} * params.stride${n}_${axis};\n`;
        }
        if (axis > 0) body += `  rest /= params.size${axis};\n`;
      }
      body += "  return at;\n";
    }
    text += `fn _place${n}(i: u32) -> u32 { ${body} }\n`;
  }
  let next = 1;
  operands.forEach(({ type, element, place }, k) => {
    const { kind, axes } = place;
    const result = vector(type, width);
    if (kind === "number") {
      fields.add(`number${k}: f32`);
      text += `fn _load${k}(i: u32) -> ${result} { return ${result}(params.number${k}); }\n`;
      return;
    }
    const spread = kind === "one" || (kind === "strided" && !axes.at(-1));
    const own = spread ? 1 : width;
    text += binding(next++, `_in${k}`, element, own);
    const at = kind === "full" ? "i" : kind === "one" ? "0" : `_place${numbers.get(placeKey(place))}(i)`;
    const read = `_in${k}[${at}]`;
    const value = type === "bool" ? `${read} != ${vector(element, own)}()` : `${vector(type, own)}(${read})`;
    text += `fn _load${k}(i: u32) -> ${result} { return ${spread ? `${result}(${value})` : value}; }\n`;
  });
  return { text, fields: [...fields], next };
}

/** Values for the fields of `loads`. */
export function loadParams(
  { sizes, places }: Layout,
  operands: readonly Operand[],
  width: Width,
): Record<string, number> {
  const params: Record<string, number> = {};
  operands.forEach((operand, k) => {
    if (typeof operand === "number") params[`number${k}`] = operand;
  });
  [...uneven(places).values()].forEach(({ axes }, n) => {
    let stride = 1;
    for (let axis = axes.length - 1; axis >= 0; axis--) {
      const size = axis === axes.length - 1 ? sizes[axis]! / width : sizes[axis]!;
      params[`size${axis}`] = size;
      if (!axes[axis]) continue;
      params[`stride${n}_${axis}`] = stride;
      stride *= size;
    }
    params[`period${n}`] = stride;
  });
  return params;
}

/** The parameters' struct; fields are u32 unless they say otherwise. */
export const paramsText = (fields: readonly string[]): string =>
  `struct Params { ${fields.map((field) => (field.includes(":") ? field : `${field}: u32`)).join(", ")} }\n\n@group(0) @binding(0) var<uniform> params: Params;\n`;

export const components = (width: Width): readonly string[] => (width === 4 ? [".x", ".y", ".z", ".w"] : [""]);

/** An expression for each of `width` elements, as a vector. */
export const each = (T: string, width: Width, expression: (component: string) => string): string => {
  const list = components(width).map(expression);
  return width === 4 ? `vec4<${T}>(${list.join(", ")})` : list[0]!;
};

// Operands --------------------------------------------------------------------------------------

/** Throws unless the operands are what the parameters ask for, all on one device. */
export function checkOperands(where: string, parameters: readonly Parameter[], operands: readonly Operand[]): Tensor[] {
  if (operands.length !== parameters.length) {
    const list = parameters.map(({ name }) => name).join(", ");
    throw new Error(`${where} takes ${parameters.length} operands (${list}), got ${operands.length}`);
  }
  parameters.forEach(({ name, type }, k) => {
    const operand = operands[k]!;
    const expected = type === "f32" ? "an f32 or f16 tensor or a number" : `a tensor of ${type}`;
    const given = isTensor(operand)
      ? `a tensor of ${operand.dtype}`
      : typeof operand === "number"
        ? `the number ${operand}`
        : `${operand}`;
    const fits = isTensor(operand)
      ? operand.dtype === type || (type === "f32" && operand.dtype === "f16")
      : typeof operand === "number" && type === "f32";
    if (!fits) throw new Error(`${where}: ${name} is ${given}, expected ${expected}`);
  });
  const tensors = operands.filter(isTensor);
  const [first] = tensors;
  if (!first) throw new Error(`${where}: all operands are numbers, expected at least one tensor`);
  const other = tensors.find(({ device }) => device !== first.device);
  if (other) {
    throw new Error(
      `${where}: the operands are on two devices, ${first.device.name} and ${other.device.name}; expected one`,
    );
  }
  return tensors;
}

/** The result's dtype as PyTorch promotes: f16 unless a tensor is f32; one without axes has no say beside one with axes. */
export function floatOf(tensors: readonly Tensor[]): FloatType {
  const all = tensors.filter(({ dtype }) => dtype === "f32" || dtype === "f16");
  const axes = all.filter(({ shape }) => shape.length > 0);
  const asked = axes.length ? axes : all;
  return asked.length > 0 && asked.every(({ dtype }) => dtype === "f16") ? "f16" : "f32";
}

export function checkBuffers(where: string, tensors: readonly Tensor[], more: number): void {
  const { name, limits } = tensors[0]!.device;
  const limit = limits.maxStorageBuffersPerShaderStage;
  const count = tensors.length + more;
  if (count > limit) {
    throw new Error(
      `${where} needs ${count} storage buffers for ${tensors.length} tensors and what it writes; ${name} allows ${limit}`,
    );
  }
}

export const loaded = (
  parameters: readonly Parameter[],
  operands: readonly Operand[],
  { places }: Layout,
): LoadedOperand[] =>
  parameters.map(({ type }, k) => {
    const operand = operands[k]!;
    return { type, element: isTensor(operand) ? elementOf(operand.dtype) : "f32", place: places[k]! };
  });

export const loadsKey = (operands: readonly LoadedOperand[]): string =>
  operands.map(({ element, place }) => `${element}${placeKey(place)}`).join();

export const inputsOf = (operands: readonly Operand[]): Record<string, Tensor> =>
  Object.fromEntries(operands.flatMap((operand, k) => (isTensor(operand) ? [[`_in${k}`, operand]] : [])));

/**
 * What a rule of `record` returns: `launch` computes the gradients of some operands, as many as can be bound at a time beside
 * the operands and `more` buffers.
 */
export function gradientsOf(
  operands: readonly Operand[],
  launch: (wanted: readonly number[]) => readonly Tensor[],
  more = 1,
): (Tensor | null)[] {
  const tensors = operands.filter(isTensor);
  const wanted = operands.flatMap((operand, k) => (isTensor(operand) && needsGrad(operand) ? [k] : []));
  const room = tensors[0]!.device.limits.maxStorageBuffersPerShaderStage - tensors.length - more;
  const found: Tensor[] = [];
  while (found.length < wanted.length) found.push(...launch(wanted.slice(found.length, found.length + room)));
  return operands.flatMap((operand, k) => (isTensor(operand) ? [found[wanted.indexOf(k)] ?? null] : []));
}

// Sums ------------------------------------------------------------------------------------------

/** x is [outer, count, inner], y [outer, width, inner]: y[o, j, i] = Σ x[o, k, i] over k = j, j + width, …, in order. */
const sumKernel = variants((T: FloatType) =>
  kernel(
    `math.sum.${T}`,
    /* wgsl */ `
struct Params { size: u32, count: u32, inner: u32, width: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<${T}>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let at = id.x + id.y * groups.x * 256;
  if (at >= params.size) { return; }
  let rest = at / params.inner;
  let first = rest / params.width * params.count;
  var sum = 0.0;
  for (var k = rest % params.width; k < params.count; k += params.width) {
    sum += x[(first + k) * params.inner + at % params.inner];
  }
  y[at] = ${T}(sum);
}`,
  ),
);

/** Threads that keep a GPU busy, and the most terms that one of them adds. */
const busy = 32768;
const mostTerms = 64;

/** y [outer, inner] = Σ over `count` of x [outer, count, inner]; frees x. Short sums of neighbouring threads, then sums of those. */
function sumMiddle(x: Tensor, count: number, inner: number, y: Tensor): void {
  const outer = x.size / (count * inner);
  const wide = outer * inner >= busy && inner >= 32;
  if (count <= mostTerms || wide) {
    const params = { size: y.size, count, inner, width: 1 };
    sumKernel(y.dtype as FloatType).run({ params, x, y }, { workgroups: grid(Math.ceil(y.size / 256)) });
  } else {
    const width = Math.min(Math.max(Math.ceil(busy / (outer * inner)), 32), Math.ceil(count / 16));
    const partial = empty([outer, width, inner], x);
    const params = { size: partial.size, count, inner, width };
    sumKernel("f32").run({ params, x, y: partial }, { workgroups: grid(Math.ceil(partial.size / 256)) });
    sumMiddle(partial, width, inner, y);
  }
  x.dispose();
}

/** A gradient of every element of the result, in f32, summed to the operand's own shape and dtype; frees it. */
export function sumTo(like: Tensor, gradient: Tensor, sizes: readonly number[], axes: readonly boolean[]): Tensor {
  const y = empty(like.shape, like);
  // runs of repeated axes, the last first: what follows a run is summed already
  const runs: { count: number; inner: number }[] = [];
  let inner = 1;
  for (let axis = sizes.length - 1; axis >= 0; axis--) {
    const size = sizes[axis]!;
    if (axes[axis]) inner *= size;
    else if (axis + 1 < sizes.length && !axes[axis + 1]) runs.at(-1)!.count *= size;
    else runs.push({ count: size, inner });
  }
  let x = gradient;
  runs.forEach((run, i) => {
    const last = i === runs.length - 1;
    const sum = last ? y : empty([x.size / run.count], { device: x.device });
    sumMiddle(x, run.count, run.inner, sum);
    x = sum;
  });
  return y;
}
