/**
 * What kernels compute, as loops over typed arrays: those of @kindling/core and of this package here and in random.ts, those
 * of the optimizers in optim.ts. A form has its kernel's label without the dtypes at its end: there is no f16 here. The order
 * of sums is the kernels'.
 */
import { optimForms } from "./optim.ts";
import { randomForms } from "./random.ts";

export type View = Float32Array<ArrayBuffer> | Int32Array<ArrayBuffer> | Uint32Array<ArrayBuffer>;

/**
 * The bound ranges by name. A form knows what its kernel declares; where there are several dtypes, loops treat them alike.
 */
export type Arrays = Readonly<Record<string, Float32Array<ArrayBuffer>>>;
export type Params = Readonly<Record<string, number>>;

export interface Launch {
  readonly workgroups: readonly [number, number, number];
  /** Elements of a vector in the first array. */
  readonly width: number;
}

/** Does what one dispatch does. */
export type Form = (arrays: Arrays, params: Params, launch: Launch) => void;

// Interface of a kernel -------------------------------------------------------------------------

type ViewClass = new (buffer: ArrayBuffer, offset: number, length: number) => View;

const VIEWS: Record<string, ViewClass> = { f: Float32Array, i: Int32Array, u: Uint32Array };

export interface Interface {
  readonly storage: { name: string; binding: number; View: ViewClass }[];
  uniform?: { binding: number; fields: [name: string, View: ViewClass][] };
  width: number;
}

/** The bindings that WGSL declares, which core has checked (its wgsl.ts), with the typed array for each. */
export function interfaceOf(code: string): Interface {
  const text = code.replace(/\/\/[^\n]*/g, "");
  const found: Interface = { storage: [], width: 0 };
  for (const [, binding, space, name, type] of text.matchAll(
    /@binding\((\d+)\)\s*var<(\w+)[^>]*>\s*(\w+)\s*:\s*([^;]+);/g,
  )) {
    if (space === "uniform") {
      const body = new RegExp(`struct ${type!.trim()}\\s*\\{([^}]*)\\}`).exec(text)![1]!;
      const fields = Array.from(body.matchAll(/(\w+)\s*:\s*([fiu])32/g), ([, field, letter]): [string, ViewClass] => [
        field!,
        VIEWS[letter!]!,
      ]);
      found.uniform = { binding: Number(binding), fields };
    } else {
      const letter = /([fiu])(?:32)?>*$/.exec(type!.trim())![1]!; // array<vec4<f32>>, array<vec2f>, array<u32>
      found.storage.push({ name: name!, binding: Number(binding), View: VIEWS[letter]! });
      found.width ||= Number(/vec(\d)/.exec(type!)?.[1] ?? 1);
    }
  }
  return found;
}

// Arithmetic ------------------------------------------------------------------------------------

const { min, max } = Math;

/** Converts as WGSL does: to the nearest number that the dtype has, towards zero. */
const cast: Form = ({ x, y }, { vectors }) => {
  const end = 4 * vectors!;
  const source = x as View;
  const target = y as View;
  if (source instanceof Float32Array && !(target instanceof Float32Array)) {
    // the largest f32 that the integers have
    const [low, high] = target instanceof Int32Array ? [-2147483648, 2147483520] : [0, 4294967040];
    for (let i = 0; i < end; i++) target[i] = max(low, min(high, source[i]!));
  } else target.set(source.subarray(0, end));
};

const binary = (op: "+" | "*"): Form => {
  // Two loops, since a function called for each element would be slower by far.
  if (op === "+") {
    return ({ a, b, y }, { vectors, size = 4 * vectors!, repeat }) => {
      const period = vectors ? 4 * repeat! : repeat!;
      for (let from = 0; from < size; from += period) {
        for (let i = from, k = 0, end = min(from + period, size); i < end; i++, k++) y![i] = a![i]! + b![k]!;
      }
    };
  }
  return ({ a, b, y }, { vectors, size = 4 * vectors!, repeat }) => {
    const period = vectors ? 4 * repeat! : repeat!;
    for (let from = 0; from < size; from += period) {
      for (let i = from, k = 0, end = min(from + period, size); i < end; i++, k++) y![i] = a![i]! * b![k]!;
    }
  };
};

/** Eight sums of every eighth row for each column, then halved, as the kernel's lanes do it. */
const sumRows: Form = ({ x, y }, { rows, cols, chunk }, { workgroups: [, chunks] }) => {
  const n = cols!;
  const sums = new Float32Array(8 * n);
  for (let at = 0; at < chunks; at++) {
    sums.fill(0);
    const start = at * chunk!;
    const end = min(start + chunk!, rows!);
    for (let row = start; row < end; row++) {
      const lane = ((row - start) % 8) * n;
      const from = row * n;
      for (let c = 0; c < n; c++) sums[lane + c]! += x![from + c]!;
    }
    for (let half = 4; half > 0; half >>= 1) for (let i = 0; i < half * n; i++) sums[i]! += sums[i + half * n]!;
    y!.set(sums.subarray(0, n), at * n);
  }
};

const repeat: Form = ({ x, y }, { size, count, inner }) => {
  const n = inner!;
  for (let from = 0, to = 0; to < size!; from += n) {
    for (let k = 0; k < count!; k++, to += n) y!.set(x!.subarray(from, from + n), to);
  }
};

const repeatGrad: Form = ({ dy, dx }, { size, count, inner }) => {
  const n = inner!;
  for (let from = 0, to = 0; to < size!; to += n) {
    dx!.fill(0, to, to + n);
    for (let k = 0; k < count!; k++, from += n) for (let i = 0; i < n; i++) dx![to + i]! += dy![from + i]!;
  }
};

// Key-value cache -------------------------------------------------------------------------------

/** Row (xStart + j) % xRows of k and v becomes row (yStart + j) % yRows of keys and values, for each j and head. */
const cacheRows: Form = ({ k, v, keys, values }, params, { width }) => {
  const { size, count, dim, valueDim, xStart, xRows, yStart, yRows } = params as Record<string, number>;
  const heads = size! / (count! * (dim! + valueDim!));
  for (let head = 0; head < heads; head++) {
    for (let j = 0; j < count!; j++) {
      const x = head * xRows! + ((xStart! + j) % xRows!);
      const y = head * yRows! + ((yStart! + j) % yRows!);
      for (const [from, to, row] of [
        [k!, keys!, width * dim!],
        [v!, values!, width * valueDim!],
      ] as const) {
        to.set(from.subarray(x * row, (x + 1) * row), y * row);
      }
    }
  }
};

// Learned positions -----------------------------------------------------------------------------

const addRows: Form = ({ x, rows, y }, { size, inner, features, length, offset }, { width }) => {
  const [n, token] = [features! * width, inner! * width];
  for (let from = 0, at = 0; from < size! * width; from += token, at++) {
    const row = (offset! + (at % length!)) * n;
    for (let i = 0; i < token; i++) y![from + i] = x![from + i]! + rows![row + (i % n)]!;
  }
};

const addRowsGrad: Form = ({ dy, drows }, params, { width }) => {
  const { size, features, length, offset, batch, batchStride, rowStride } = params;
  const n = features! * width;
  drows!.fill(0, 0, size! * width);
  for (let b = 0; b < batch!; b++) {
    for (let l = 0; l < length!; l++) {
      const from = (b * batchStride! + l * rowStride!) * width;
      const to = (offset! + l) * n;
      for (let i = 0; i < n; i++) drows![to + i]! += dy![from + i]!;
    }
  }
};

// Table -----------------------------------------------------------------------------------------

const forms: Readonly<Record<string, Form>> = {
  "core.fill": ({ y }, { vectors, value }) => void y!.fill(value!, 0, 4 * vectors!),
  "core.cast": cast,
  "core.toBool": ({ x, y }, { vectors }) => {
    for (let i = 0; i < 4 * vectors!; i++) y![i] = x![i] === 0 ? 0 : 1;
  },
  "core.binary.+": binary("+"),
  "core.binary.*": binary("*"),
  "core.binaryScalar.+": binary("+"),
  "core.binaryScalar.*": binary("*"),
  "core.scale": ({ x, y }, { vectors, factor }) => {
    for (let i = 0; i < 4 * vectors!; i++) y![i] = x![i]! * factor!;
  },
  "core.sumRows": sumRows,
  repeat,
  "repeat.grad": repeatGrad,
  "embedding.clearRow": ({ weight }, { row, dim }) => void weight!.fill(0, row! * dim!, (row! + 1) * dim!),
  "kvCache.rows": cacheRows,
  "nn.addRows": addRows,
  "nn.addRows.grad": addRowsGrad,
  ...randomForms,
  ...optimForms,
};

/** The form of a kernel, found by its label without the last parts; throws where there is none. */
export function formOf(label: string): Form {
  for (let name = label; name; name = name.slice(0, Math.max(0, name.lastIndexOf(".")))) {
    const form = Object.hasOwn(forms, name) && forms[name];
    if (form) return form;
  }
  throw new Error(`kernel ${label} has no form for the CPU: it runs on a GPU only`);
}
