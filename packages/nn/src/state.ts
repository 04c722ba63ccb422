/**
 * Checkpoints in safetensors, in a stream: no more than a few megabytes of a file are in memory at a time, however large its
 * tensors are. PyTorch's checkpoints load as they are, since parameters have its names and layouts.
 *
 *   await save(model, "model.safetensors")          a path (Node), a WritableStream, or without a target a Blob
 *   await load(model, "model.safetensors")          a path, an address, a Blob or File, a ReadableStream, bytes; shards too
 */
import {
  copyInto,
  type Device,
  type DType,
  defaultDevice,
  empty,
  isModule,
  type LoadResult,
  type Module,
  noGrad,
  type StateDict,
  sizeOf,
  type Tensor,
  tensor,
} from "@kindling/core";
import { headerLength, parseSpans, type Span, valuesOf } from "@kindling/core/safetensors";

type Bytes = Uint8Array<ArrayBuffer>;

/** A checkpoint: a path or address, or one that ends in .index.json and lists shards; a Blob or File; a stream; bytes. */
export type Source = string | URL | Blob | ReadableStream<Uint8Array> | Uint8Array | ArrayBuffer;

/** Elements that are read or written at a time: a multiple of what a view into a tensor may start at. */
const CHUNK = 1_048_576;
/** No header is longer, as in the original library. */
const MAX_HEADER = 100_000_000;

const NAMES: Record<DType, string> = { f32: "F32", f16: "F16", i32: "I32", u32: "U32", bool: "BOOL" };
/** What a file's dtype becomes where nothing else is asked for. */
const DTYPES: Record<string, DType> = {
  ...{ F64: "f32", F32: "f32", F16: "f16", BF16: "f32", BOOL: "bool" },
  ...{ I64: "i32", I32: "i32", I16: "i32", I8: "i32", U64: "u32", U32: "u32", U16: "u32", U8: "u32" },
};

// Reading ---------------------------------------------------------------------------------------

/** Bytes in the order of a file. */
class Reader {
  readonly #next: () => Promise<Uint8Array | null>;
  readonly cancel: () => Promise<void>;
  #rest: Uint8Array = new Uint8Array(0);

  constructor(next: () => Promise<Uint8Array | null>, cancel: () => Promise<void>) {
    this.#next = next;
    this.cancel = cancel;
  }

  /** The next `count` bytes, or as many as there are. */
  async take(count: number): Promise<Bytes> {
    const out = new Uint8Array(count);
    let at = 0;
    while (at < count) {
      if (this.#rest.length === 0) {
        const more = await this.#next();
        if (!more) return out.subarray(0, at);
        this.#rest = more;
      }
      const part = this.#rest.subarray(0, count - at);
      out.set(part, at);
      at += part.length;
      this.#rest = this.#rest.subarray(part.length);
    }
    return out;
  }
}

function readStream(stream: ReadableStream<Uint8Array>): Reader {
  const reader = stream.getReader();
  return new Reader(
    async () => (await reader.read()).value ?? null,
    () => reader.cancel(),
  );
}

/** A file that can be read, once if it is a stream. */
interface Opened {
  readonly reader: Reader;
  /** In bytes, where it is known. */
  readonly size: number | undefined;
}

interface File {
  readonly name: string;
  open(): Promise<Opened>;
  /** Whether it can be opened again. */
  readonly again: boolean;
}

const isNode = (): boolean =>
  typeof (globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node === "string";

// A variable, so that bundlers for browsers leave the import alone.
const FS = "node:fs/promises";
const fileSystem = (): Promise<typeof import("node:fs/promises")> => import(/* @vite-ignore */ FS);

/** Whether it is a path of the file system rather than an address. */
const isPath = (source: string | URL): boolean =>
  typeof source === "string" ? isNode() && !/^[a-z][a-z+.-]+:/i.test(source) : source.protocol === "file:";

const asPath = (source: string | URL): string | URL =>
  typeof source === "string" && source.startsWith("file:") ? new URL(source) : source;

async function openPath(path: string | URL): Promise<Opened> {
  const handle = await (await fileSystem()).open(path);
  const { size } = await handle.stat();
  let at = 0;
  const next = async (): Promise<Uint8Array | null> => {
    const { bytesRead, buffer } = await handle.read(new Uint8Array(4 * CHUNK), 0, 4 * CHUNK, at);
    at += bytesRead;
    if (bytesRead > 0) return buffer.subarray(0, bytesRead);
    await handle.close();
    return null;
  };
  return { reader: new Reader(next, () => handle.close().catch(() => {})), size };
}

async function openAddress(address: string | URL): Promise<Opened> {
  const response = await fetch(address);
  if (!response.ok || !response.body) throw new Error(`load: ${address}: ${response.status} ${response.statusText}`);
  const length = response.headers.get("content-length");
  const plain = !response.headers.get("content-encoding");
  return { reader: readStream(response.body), size: plain && length ? Number(length) : undefined };
}

function fileOf(source: Source): File {
  if (typeof source === "string" || source instanceof URL) {
    const at = asPath(source);
    return { name: String(source), again: true, open: () => (isPath(at) ? openPath(at) : openAddress(at)) };
  }
  if (source instanceof Blob) {
    const { size } = source;
    const name = (source as { name?: string }).name ?? "the Blob";
    return { name, again: true, open: async () => ({ reader: readStream(source.stream()), size }) };
  }
  if (source instanceof ReadableStream)
    return { name: "the stream", again: false, open: async () => ({ reader: readStream(source), size: undefined }) };
  if (source instanceof Uint8Array || source instanceof ArrayBuffer) {
    const bytes = source instanceof Uint8Array ? source : new Uint8Array(source);
    const open = async (): Promise<Opened> => {
      let left: Uint8Array | null = bytes;
      const next = async (): Promise<Uint8Array | null> => {
        const all = left;
        left = null;
        return all;
      };
      return { reader: new Reader(next, async () => {}), size: bytes.length };
    };
    return { name: "the bytes", again: true, open };
  }
  throw new Error(`load: source is ${source}, expected a path, an address, a Blob, a ReadableStream or bytes`);
}

/** The files of a checkpoint: those that an index lists, or the ones given. */
async function filesOf(source: Source | readonly Source[]): Promise<File[]> {
  const sources = Array.isArray(source) ? (source as Source[]) : [source as Source];
  const files: File[] = [];
  for (const one of sources) {
    if ((typeof one !== "string" && !(one instanceof URL)) || !/\.index\.json$/.test(String(one)))
      files.push(fileOf(one));
    else files.push(...(await shardsOf(one)));
  }
  return files;
}

async function shardsOf(index: string | URL): Promise<File[]> {
  const at = asPath(index);
  const text = isPath(at) ? await (await fileSystem()).readFile(at, "utf8") : await (await fetch(at)).text();
  let map: unknown;
  try {
    map = (JSON.parse(text) as { weight_map?: unknown }).weight_map;
  } catch (error) {
    throw new Error(`load: ${index}: the index is not JSON (${(error as Error).message})`);
  }
  if (typeof map !== "object" || map === null) throw new Error(`load: ${index}: the index has no "weight_map"`);
  return [...new Set(Object.values(map as Record<string, string>))].map((name) => {
    // Beside the index, and nowhere else.
    if (typeof name !== "string" || /[\\/]|^\.+$/.test(name))
      throw new Error(`load: ${index}: "${name}" is no name of a shard beside the index`);
    return fileOf(at instanceof URL ? new URL(name, at) : at.replace(/[^\\/]*$/, () => name));
  });
}

interface Header {
  readonly file: File;
  readonly opened: Opened;
  readonly spans: Span[];
  readonly metadata: Record<string, string>;
}

const PICKLE =
  'this is a PyTorch pickle, not safetensors; convert it: python -c "import torch, safetensors.torch as s; ' +
  "s.save_file({k: v.contiguous().clone() for k, v in torch.load('FILE', weights_only=True).items()}, 'model.safetensors')\"";

/** Runs `fn`, naming the file in what it throws. */
async function within<T>(name: string, fn: () => Promise<T>): Promise<T> {
  try {
    return await fn();
  } catch (error) {
    const { message } = error as Error;
    if (message.startsWith("load: ")) throw error;
    throw new Error(`load: ${name}: ${message.replace(/^safetensors: /, "")}`, { cause: error });
  }
}

const readHeader = (file: File): Promise<Header> =>
  within(file.name, async () => {
    const opened = await file.open();
    const { reader, size } = opened;
    try {
      const start = await reader.take(8);
      const pickled = start[0] === 0x80 || (start[0] === 0x50 && start[1] === 0x4b); // "PK": a zip archive
      const length = headerLength(start);
      if (length > MAX_HEADER && pickled) throw new Error(PICKLE.replace("FILE", file.name));
      if (length > MAX_HEADER) throw new Error(`the header should have ${length} bytes; is this a safetensors file?`);
      headerLength(start, size);
      const header = await reader.take(length);
      if (header.length < length)
        throw new Error(
          `the header should have ${length} bytes, the file ends after ${header.length}; is it truncated?`,
        );
      const { spans, metadata } = parseSpans(header, size === undefined ? undefined : size - 8 - length);
      return { file, opened, spans, metadata };
    } catch (error) {
      await reader.cancel();
      throw error;
    }
  });

/** The headers of all files. What can be opened again is closed if there are several: a browser has few connections to a host. */
async function headersOf(source: Source | readonly Source[]): Promise<Header[]> {
  const files = await filesOf(source);
  const headers: Header[] = [];
  const names = new Map<string, string>();
  for (const file of files) {
    const header = await readHeader(file);
    headers.push(header);
    if (files.length > 1 && file.again) await header.opened.reader.cancel();
    for (const { name } of header.spans) {
      const before = names.get(name);
      if (before !== undefined) throw new Error(`load: both ${before} and ${file.name} have a tensor "${name}"`);
      names.set(name, file.name);
    }
  }
  return headers;
}

/** Reads the data of all files; `target` says where a tensor goes, null where it is left out. */
async function readData(headers: readonly Header[], target: (span: Span) => Tensor | null): Promise<void> {
  for (const { file, opened, spans } of headers) {
    await within(file.name, async () => {
      let { reader } = opened;
      if (headers.length > 1 && file.again) {
        ({ reader } = await file.open());
        await reader.take(headerLength(await reader.take(8)));
      }
      try {
        for (const span of spans) await readTensor(reader, span, target(span));
        const more = await reader.take(1);
        if (more.length > 0) throw new Error("bytes follow the last tensor");
      } finally {
        await reader.cancel();
      }
    });
  }
}

async function readTensor(reader: Reader, { name, dtype, shape, start, end }: Span, t: Tensor | null): Promise<void> {
  const size = sizeOf(shape);
  const width = (end - start) / Math.max(size, 1);
  for (let first = 0; first < size; first += CHUNK) {
    const count = Math.min(CHUNK, size - first);
    const bytes = await reader.take(count * width);
    if (bytes.length < count * width)
      throw new Error(`the file ends inside of tensor "${name}" [${shape}] ${dtype}; is it truncated?`);
    if (t) noGrad(() => put(t, first, count, { name, dtype, bytes }));
  }
}

/** Writes `count` elements into `t` from element `first` on, converted to its dtype. */
function put(t: Tensor, first: number, count: number, data: { name: string; dtype: string; bytes: Bytes }): void {
  const part = count === t.size ? t : t.view(first, [count]);
  const { name, dtype, bytes } = data;
  if (NAMES[t.dtype] === dtype && t.dtype !== "bool") t.device.write(part, bytes);
  else {
    const values = valuesOf({ dtype, shape: [count], bytes });
    const whole = t.dtype === "i32" || t.dtype === "u32";
    const numbers = t.dtype === "i32" ? Int32Array.from(values) : t.dtype === "u32" ? Uint32Array.from(values) : null;
    for (let i = 0; whole && i < count; i++) {
      if (numbers![i] !== values[i])
        throw new Error(`tensor "${name}" ${dtype} holds ${values[i]}, which does not fit ${t.dtype}`);
    }
    const source = tensor(numbers ?? Float32Array.from(values), { device: t.device });
    copyInto(part, source);
    source.dispose();
  }
  t.version++;
  if (part !== t) part.dispose();
}

// Loading ---------------------------------------------------------------------------------------

export interface LoadOptions {
  /** The name under which a tensor of the file is looked for, null to leave it out. Default: its own. */
  rename?: (key: string) => string | null;
}

export interface LoadIntoOptions extends LoadOptions {
  /** Keys that are missing or unexpected are an error, and nothing is loaded. Default true. Shapes must always agree. */
  strict?: boolean;
}

export interface LoadTensorsOptions extends LoadOptions {
  device?: Device;
}

/** What was loaded into a module, and what the file says of itself. */
export interface LoadReport extends LoadResult {
  metadata: Record<string, string>;
}

/**
 * Loads a checkpoint into a module, converting dtypes, and reports the keys that are missing or unexpected. All names and shapes
 * are checked before anything is copied. A file that turns out to be truncated is an error too; of a stream or an answer of
 * unknown length the tensors before that place have been copied by then.
 */
export function load(
  module: Module,
  source: Source | readonly Source[],
  options?: LoadIntoOptions,
): Promise<LoadReport>;
/** The tensors of a checkpoint: F64 and BF16 as f32, integers as i32 or u32, F16 as f32 where the GPU has no f16. */
export function load(source: Source | readonly Source[], options?: LoadTensorsOptions): Promise<StateDict>;
export function load(
  first: Module | Source | readonly Source[],
  second?: Source | readonly Source[] | LoadTensorsOptions,
  third?: LoadIntoOptions,
): Promise<LoadReport | StateDict> {
  return isModule(first)
    ? loadInto(first, second as Source | readonly Source[], third)
    : loadTensors(first as Source, second as LoadTensorsOptions);
}

/** Tensors by the names that they are given; two of one name are an error. */
function renamed(headers: readonly Header[], rename: (key: string) => string | null): Map<string, Span> {
  const found = new Map<string, Span>();
  for (const span of headers.flatMap(({ spans }) => spans)) {
    const key = rename(span.name);
    if (key === null) continue;
    if (found.has(key)) throw new Error(`load: "${found.get(key)!.name}" and "${span.name}" are both called "${key}"`);
    found.set(key, span);
  }
  return found;
}

async function loadInto(
  module: Module,
  source: Source | readonly Source[],
  { strict = true, rename = (key) => key }: LoadIntoOptions = {},
): Promise<LoadReport> {
  const headers = await headersOf(source);
  try {
    const own = module.stateDict();
    const given = renamed(headers, rename);
    const missingKeys = Object.keys(own).filter((key) => !given.has(key));
    const unexpectedKeys = [...given.keys()].filter((key) => !Object.hasOwn(own, key));
    const problems: string[] = [];
    const targets = new Map<Span, Tensor>();
    for (const [key, span] of given) {
      const t = Object.hasOwn(own, key) ? own[key]! : null;
      if (!t) continue;
      if (t.shape.join() !== span.shape.join())
        problems.push(`${key} has shape [${span.shape}], expected [${t.shape}]`);
      targets.set(span, t);
    }
    if (strict && missingKeys.length > 0) problems.push(`missing: ${missingKeys.join(", ")}`);
    if (strict && unexpectedKeys.length > 0) problems.push(`unexpected: ${unexpectedKeys.join(", ")}`);
    if (problems.length > 0)
      throw new Error(`load: ${headers.map(({ file }) => file.name).join(", ")}: ${problems.join("; ")}`);
    await readData(headers, (span) => targets.get(span) ?? null);
    return { missingKeys, unexpectedKeys, metadata: metadataOf(headers) };
  } finally {
    for (const { opened } of headers) await opened.reader.cancel();
  }
}

async function loadTensors(
  source: Source | readonly Source[],
  { device = defaultDevice(), rename = (key) => key }: LoadTensorsOptions = {},
): Promise<StateDict> {
  const headers = await headersOf(source);
  const state: StateDict = {};
  try {
    const targets = new Map<Span, Tensor>();
    for (const [key, span] of renamed(headers, rename)) {
      const { name, shape } = span;
      if (sizeOf(shape) === 0)
        throw new Error(`load: tensor "${name}" has shape [${shape}]; empty tensors are not supported`);
      const dtype = DTYPES[span.dtype]!;
      const half = dtype === "f16" && !device.features.has("shader-f16");
      state[key] = empty(shape, { dtype: half ? "f32" : dtype, device });
      targets.set(span, state[key]);
    }
    await readData(headers, (span) => targets.get(span) ?? null);
    return state;
  } catch (error) {
    for (const t of Object.values(state)) t.dispose();
    throw error;
  } finally {
    for (const { opened } of headers) await opened.reader.cancel();
  }
}

const metadataOf = (headers: readonly Header[]): Record<string, string> =>
  Object.assign({}, ...headers.map(({ metadata }) => metadata));

export interface Inspected {
  readonly tensors: Record<string, { readonly dtype: string; readonly shape: readonly number[] }>;
  readonly metadata: Record<string, string>;
}

/** What a checkpoint holds, from its header alone; dtypes as the file spells them. */
export async function inspect(source: Source | readonly Source[]): Promise<Inspected> {
  const headers = await headersOf(source);
  for (const { opened } of headers) await opened.reader.cancel();
  const spans = headers.flatMap((header) => header.spans);
  return {
    tensors: Object.fromEntries(spans.map(({ name, dtype, shape }) => [name, { dtype, shape }])),
    metadata: metadataOf(headers),
  };
}

// Saving ----------------------------------------------------------------------------------------

export interface SaveOptions {
  /** Texts to keep in the file. */
  metadata?: Record<string, string>;
}

/** Where a file goes: a path (Node), or a stream, for instance that of a file handle in a browser. */
export type Target = string | URL | WritableStream<Uint8Array>;

/** Writes a module's parameters and buffers, or a state dict, as safetensors. On a path the file appears once it is complete. */
export function save(from: Module | StateDict, to: Target, options?: SaveOptions): Promise<void>;
/** … into a Blob, for instance for a download. */
export function save(from: Module | StateDict, to?: null, options?: SaveOptions): Promise<Blob>;
export async function save(
  from: Module | StateDict,
  to: Target | null = null,
  { metadata = {} }: SaveOptions = {},
): Promise<unknown> {
  const pieces = piecesOf(isModule(from) ? from.stateDict() : from, metadata);
  if (to === null) {
    // Each a Blob of its own, which a browser may keep on disk.
    const blobs: Blob[] = [];
    for await (const piece of pieces) blobs.push(new Blob([piece]));
    return new Blob(blobs, { type: "application/octet-stream" });
  }
  if (typeof to === "string" || to instanceof URL) {
    await savePath(asPath(to), pieces);
    return;
  }
  const writer = to.getWriter();
  try {
    for await (const piece of pieces) await writer.write(piece);
  } catch (error) {
    await writer.abort(error).catch(() => {});
    throw error;
  }
  await writer.close();
}

async function savePath(path: string | URL, pieces: AsyncIterable<Bytes>): Promise<void> {
  if (!isNode() || !isPath(path))
    throw new Error(`save: ${path} is no path of a file system; save into a stream or a Blob instead`);
  const fs = await fileSystem();
  const partial = path instanceof URL ? new URL(`${path.href}.partial`) : `${path}.partial`;
  const handle = await fs.open(partial, "w");
  try {
    for await (const piece of pieces) await handle.writeFile(piece);
    await handle.sync();
    await handle.close();
    await fs.rename(partial, path);
  } catch (error) {
    await handle.close().catch(() => {});
    await fs.rm(partial, { force: true });
    throw error;
  }
}

/** The file of `state`, piece by piece. Wide elements come first, so that each tensor starts at a multiple of its element's size. */
async function* piecesOf(state: StateDict, metadata: Record<string, string>): AsyncGenerator<Bytes> {
  const width = (t: Tensor): number => (t.dtype === "bool" ? 1 : t.dtype === "f16" ? 2 : 4);
  const entries = Object.entries(state).sort(([, a], [, b]) => width(b) - width(a));
  const header: Record<string, unknown> = Object.keys(metadata).length > 0 ? { __metadata__: metadata } : {};
  for (const [key, text] of Object.entries(metadata)) {
    if (typeof text !== "string") throw new Error(`save: metadata.${key} is ${text}, expected a string`);
  }
  let at = 0;
  for (const [name, t] of entries) {
    if (name === "__metadata__") throw new Error('save: a tensor cannot be called "__metadata__"');
    header[name] = { dtype: NAMES[t.dtype], shape: t.shape, data_offsets: [at, (at += t.size * width(t))] };
  }
  // Spaces behind the header align the data to 8 bytes.
  const text = new TextEncoder().encode(JSON.stringify(header));
  const start = new Uint8Array(8 + Math.ceil(text.length / 8) * 8).fill(32);
  new DataView(start.buffer).setBigUint64(0, BigInt(start.length - 8), true);
  start.set(text, 8);
  yield start;
  for (const [, t] of entries) {
    for (let first = 0; first < t.size; first += CHUNK) {
      const count = Math.min(CHUNK, t.size - first);
      const part = count === t.size ? t : t.view(first, [count]);
      const bytes = await t.device.read(part);
      if (part !== t) part.dispose();
      yield t.dtype === "bool"
        ? Uint8Array.from(new Uint32Array(bytes, 0, count))
        : new Uint8Array(bytes, 0, count * width(t));
    }
  }
}
