/**
 * Safetensors: 8 bytes of header length, a JSON header, the tensors' bytes. https://github.com/huggingface/safetensors
 *
 * Every rule of the format that a damaged or hostile file can break is checked before any tensor is made, and the error
 * says which tensor broke it.
 */
import { type Device, defaultDevice } from "./device.ts";
import { decodeHalf, encodeHalf } from "./half.ts";
import type { StateDict } from "./module.ts";
import { type DType, empty, encode, sizeOf, type Tensor } from "./tensor.ts";

/** A tensor of a file, in host memory. */
export interface HostTensor {
  /** As the format spells it: F32, F16, BF16, I64 … */
  readonly dtype: string;
  readonly shape: readonly number[];
  /** Little-endian bytes: a view into the file. */
  readonly bytes: Uint8Array<ArrayBuffer>;
}

export interface SafetensorsFile {
  readonly tensors: Record<string, HostTensor>;
  readonly metadata: Record<string, string>;
}

const BYTES: Record<string, number> = {
  ...{ F64: 8, F32: 4, F16: 2, BF16: 2 },
  ...{ I64: 8, I32: 4, I16: 2, I8: 1, U64: 8, U32: 4, U16: 2, U8: 1, BOOL: 1 },
};
const NAMES: Record<DType, string> = { f32: "F32", f16: "F16", i32: "I32", u32: "U32", bool: "BOOL" };
const DTYPES: Record<string, DType> = {
  ...{ F64: "f32", F32: "f32", F16: "f16", BF16: "f32", BOOL: "bool" },
  ...{ I64: "i32", I32: "i32", I16: "i32", I8: "i32", U64: "u32", U32: "u32", U16: "u32", U8: "u32" },
};

const fail = (reason: string): never => {
  throw new Error(`safetensors: ${reason}`);
};

/** Where a tensor lies in a file's data, from `start` to `end`. */
export interface Span {
  readonly name: string;
  readonly dtype: string;
  readonly shape: readonly number[];
  readonly start: number;
  readonly end: number;
}

/** Reads a file's header and checks it against the data. */
export function parseSafetensors(file: Uint8Array<ArrayBuffer>): SafetensorsFile {
  const length = headerLength(file, file.length);
  const data = file.subarray(8 + length);
  const { spans, metadata } = parseSpans(file.subarray(8, 8 + length), data.length);
  const tensors: Record<string, HostTensor> = {};
  for (const { name, dtype, shape, start, end } of spans)
    tensors[name] = { dtype, shape, bytes: data.subarray(start, end) };
  return { tensors, metadata };
}

/** The length of the header of a file that begins with `start` and, if that is known, has `total` bytes. */
export function headerLength(start: Uint8Array, total?: number): number {
  if (start.length < 8)
    fail(`the file has ${start.length} bytes, too few for the 8 of the header length; is it truncated?`);
  const length = Number(new DataView(start.buffer, start.byteOffset, 8).getBigUint64(0, true));
  if (total !== undefined && length > total - 8)
    fail(`the header should have ${length} bytes, the file has ${total - 8} after the length; is it truncated?`);
  return length;
}

/** The tensors that a header lists, in the order of their data, whose length is checked if it is known. */
export function parseSpans(
  headerBytes: Uint8Array,
  length?: number,
): { spans: Span[]; metadata: Record<string, string> } {
  const header = parseHeader(headerBytes);
  const { __metadata__: metadata = {}, ...entries } = header;
  const spans: Span[] = [];
  for (const [name, entry] of Object.entries(entries)) {
    const {
      dtype,
      shape,
      data_offsets: offsets,
    } = (entry ?? {}) as { dtype?: unknown; shape?: unknown; data_offsets?: unknown };
    if (typeof dtype !== "string" || !Object.hasOwn(BYTES, dtype))
      fail(`tensor "${name}" has dtype ${JSON.stringify(dtype)}; expected one of ${Object.keys(BYTES).join(", ")}`);
    if (!isWholeNumbers(shape)) fail(`tensor "${name}" has shape ${JSON.stringify(shape)}; expected whole numbers`);
    if (!isWholeNumbers(offsets) || (offsets as number[]).length !== 2)
      fail(`tensor "${name}" has data_offsets ${JSON.stringify(offsets)}; expected [start, end]`);
    const [start, end] = offsets as [number, number];
    const bytes = sizeOf(shape as number[]) * BYTES[dtype as string]!;
    if (end - start !== bytes)
      fail(`tensor "${name}" [${shape}] ${dtype} needs ${bytes} bytes, its data_offsets span ${end - start}`);
    if (length !== undefined && end > length)
      fail(`tensor "${name}" ends at byte ${end}, the file holds ${length} bytes of data; is it truncated?`);
    spans.push({ name, dtype: dtype as string, shape: shape as number[], start, end });
  }
  let at = 0;
  for (const { name, start, end } of spans.sort((a, b) => a.start - b.start || a.end - b.end)) {
    if (start !== at)
      fail(
        `tensor "${name}" starts at byte ${start}, expected ${at}: the tensors must cover the data without gap or overlap`,
      );
    at = end;
  }
  if (length !== undefined && at !== length) fail(`${length - at} bytes follow the last tensor`);
  return { spans, metadata: metadata as Record<string, string> };
}

function parseHeader(bytes: Uint8Array): Record<string, unknown> {
  let header: unknown;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (error) {
    return fail(`the header is not JSON (${(error as Error).message})`);
  }
  if (typeof header !== "object" || header === null || Array.isArray(header))
    return fail("the header is not a JSON object");
  return header as Record<string, unknown>;
}

const isWholeNumbers = (value: unknown): value is number[] =>
  Array.isArray(value) && value.every((d) => Number.isSafeInteger(d) && d >= 0);

/** The values as numbers: 64-bit integers beyond 2^53 and f64 lose precision. */
export function valuesOf({ dtype, bytes }: HostTensor): ArrayLike<number> {
  const { buffer } = bytes.slice(); // a copy of its own is aligned for every typed array
  switch (dtype) {
    case "F64":
      return new Float64Array(buffer);
    case "F32":
      return new Float32Array(buffer);
    case "F16":
      return decodeHalf(new Uint16Array(buffer));
    case "BF16":
      return new Float32Array(Uint32Array.from(new Uint16Array(buffer), (bits) => bits << 16).buffer);
    case "I64":
      return Array.from(new BigInt64Array(buffer), Number);
    case "U64":
      return Array.from(new BigUint64Array(buffer), Number);
    case "I32":
      return new Int32Array(buffer);
    case "U32":
      return new Uint32Array(buffer);
    case "I16":
      return new Int16Array(buffer);
    case "U16":
      return new Uint16Array(buffer);
    case "I8":
      return new Int8Array(buffer);
    default:
      return new Uint8Array(buffer);
  }
}

/** Uploads every tensor of a file: F64 and BF16 as f32, integers as i32 or u32; a value that these cannot hold is an error. */
export function loadSafetensors(
  file: Uint8Array<ArrayBuffer>,
  { device = defaultDevice() }: { device?: Device } = {},
): StateDict {
  const { tensors } = parseSafetensors(file);
  return Object.fromEntries(Object.entries(tensors).map(([name, host]) => [name, upload(name, host, device)]));
}

function upload(name: string, host: HostTensor, device: Device): Tensor {
  const dtype = DTYPES[host.dtype]!;
  if (sizeOf(host.shape) === 0) fail(`tensor "${name}" has shape [${host.shape}]; empty tensors are not supported`);
  // f16 without GPU support for it is still readable, as f32.
  const target = dtype === "f16" && !device.features.has("shader-f16") ? "f32" : dtype;
  const t = empty(host.shape, { dtype: target, device });
  if (NAMES[target] === host.dtype && target !== "bool") {
    device.write(t, host.bytes);
    return t;
  }
  const values = valuesOf(host);
  const encoded = encode(values, target);
  if (target === "i32" || target === "u32") {
    const whole = encoded as Int32Array | Uint32Array;
    for (let i = 0; i < values.length; i++) {
      if (whole[i] !== values[i])
        fail(`tensor "${name}" ${host.dtype} holds ${values[i]}, which does not fit ${target}`);
    }
  }
  device.write(t, encoded);
  return t;
}

/** Writes tensors, in the order of the record, as one file. Waits for the GPU. */
export async function saveSafetensors(
  tensors: StateDict,
  metadata: Record<string, string> = {},
): Promise<Uint8Array<ArrayBuffer>> {
  const parts = await Promise.all(Object.values(tensors).map(bytesOf));
  const header: Record<string, unknown> = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  let at = 0;
  Object.entries(tensors).forEach(([name, t], i) => {
    header[name] = { dtype: NAMES[t.dtype], shape: t.shape, data_offsets: [at, at + parts[i]!.length] };
    at += parts[i]!.length;
  });
  // Spaces behind the header align the data to 8 bytes.
  const text = new TextEncoder().encode(JSON.stringify(header));
  const length = Math.ceil(text.length / 8) * 8;
  const file = new Uint8Array(8 + length + at).fill(32, 8, 8 + length);
  new DataView(file.buffer).setBigUint64(0, BigInt(length), true);
  file.set(text, 8);
  at = 8 + length;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  return file;
}

async function bytesOf(t: Tensor): Promise<Uint8Array> {
  const data = await t.data();
  const raw = t.dtype === "f16" ? encodeHalf(data) : data;
  return new Uint8Array(raw.buffer, raw.byteOffset, raw.byteLength);
}
