import { type DType, empty, memory, type Tensor, tensor } from "@kindling/core";
import { parseSafetensors, saveSafetensors } from "@kindling/core/safetensors";
import { mixedError, randomValues, testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { BatchNorm1d, inspect, Linear, load, ReLU, Sequential, save, TransformerEncoderLayer } from "../src/index.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");

const model = () => new Sequential(new Linear(3, 4), new ReLU(), new BatchNorm1d(4));
const bytesOf = async (blob: Blob): Promise<Uint8Array<ArrayBuffer>> => new Uint8Array(await blob.arrayBuffer());
const values = async (x: Tensor): Promise<number[]> => [...(await x.data())];

/** A file of a header and bytes. */
function file(header: unknown, data: number[] | Uint8Array = [], length?: number): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(length ?? text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

/** A file with one tensor. */
const one = (dtype: string, array: ArrayBufferView<ArrayBuffer>, shape: number[]): Uint8Array<ArrayBuffer> =>
  file(
    { x: { dtype, shape, data_offsets: [0, array.byteLength] } },
    new Uint8Array(array.buffer, array.byteOffset, array.byteLength),
  );

/** A stream of the bytes in pieces. */
const streamOf = (bytes: Uint8Array, piece: number): ReadableStream<Uint8Array> => {
  let at = 0;
  return new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) controller.close();
      else controller.enqueue(bytes.slice(at, (at += piece)));
    },
  });
};

describe("save and load", () => {
  it("return a module's parameters and buffers, whatever the source", async () => {
    const from = model();
    from.forward(tensor(randomValues(15), { shape: [5, 3] }));
    const blob = await save(from, null, { metadata: { step: "7" } });
    const bytes = await bytesOf(blob);
    const address = URL.createObjectURL(blob);
    const sources = [blob, bytes, bytes.buffer, streamOf(bytes, 1000), streamOf(bytes, 3), address, new URL(address)];
    for (const source of sources) {
      const to = model();
      expect(await load(to, source)).toEqual({ missingKeys: [], unexpectedKeys: [], metadata: { step: "7" } });
      const own = to.stateDict();
      for (const [name, t] of Object.entries(from.stateDict()))
        expect(await values(own[name]!), name).toEqual(await values(t));
    }
    URL.revokeObjectURL(address);
    expect(Object.keys(parseSafetensors(bytes).tensors).sort()).toEqual(Object.keys(from.stateDict()).sort());
  });

  it("write what core reads, and read what core writes", async () => {
    const state: Record<string, Tensor> = {
      bools: tensor([true, false, true]),
      ints: tensor(new Int32Array([-1, 2])),
      words: tensor(new Uint32Array([2 ** 32 - 1])),
      floats: tensor(randomValues(67)),
      scalar: tensor(3.5),
    };
    if (hasF16) state.halves = tensor([1, -2.5, 65504], { dtype: "f16" });
    const host = parseSafetensors(await bytesOf(await save(state))).tensors;
    expect(host.bools!.dtype).toBe("BOOL");
    for (const written of [await saveSafetensors(state), await bytesOf(await save(state))]) {
      const read = await load(written);
      for (const [name, t] of Object.entries(state)) {
        expect([read[name]!.dtype, read[name]!.shape], name).toEqual([t.dtype, t.shape]);
        expect(await values(read[name]!), name).toEqual(await values(t));
      }
    }
  });

  it("go in pieces: a tensor larger than one, f32, f16, bool", async () => {
    const size = 2 ** 20 + 2 ** 19 + 3;
    const numbers = Float32Array.from({ length: size }, (_, i) => i % 251);
    const large: Record<string, Tensor> = { f32: tensor(numbers), bool: tensor(numbers, { dtype: "bool" }) };
    if (hasF16) large.f16 = tensor(numbers, { dtype: "f16" });
    const before = memory(device).tensors;
    const blob = await save(large);
    const read = await load(streamOf(await bytesOf(blob), 77_777));
    for (const [name, t] of Object.entries(large)) {
      const [a, b] = [await read[name]!.data(), await t.data()];
      expect(
        a.every((v, i) => v === b[i]),
        name,
      ).toBe(true);
    }
    for (const t of Object.values(read)) t.dispose();
    expect(memory(device).tensors).toBeLessThanOrEqual(before);
  });

  it("write into a WritableStream", async () => {
    const pieces: Uint8Array<ArrayBuffer>[] = [];
    let closed = false;
    const from = model();
    await save(
      from,
      new WritableStream({
        write: (piece: Uint8Array<ArrayBuffer>) => void pieces.push(piece),
        close: () => {
          closed = true;
        },
      }),
    );
    expect(closed).toBe(true);
    expect((await load(model(), new Blob(pieces))).missingKeys).toEqual([]);
    const broken = new WritableStream({
      write() {
        throw new Error("disk full");
      },
    });
    await expect(save(from, broken)).rejects.toThrow("disk full");
  });

  it("convert every dtype", async () => {
    const bf16 = Uint16Array.from([1, -2.5, 3], (v) => new Uint32Array(new Float32Array([v]).buffer)[0]! >>> 16);
    const half = new Uint16Array([0x3c00, 0xc100, 0x4200]); // 1, -2.5, 3
    const cases: [dtype: string, array: ArrayBufferView<ArrayBuffer>, as: DType, expected: number[]][] = [
      ["F64", new Float64Array([1, -2.5, 3]), "f32", [1, -2.5, 3]],
      ["BF16", bf16, "f32", [1, -2.5, 3]],
      ["F16", half, hasF16 ? "f16" : "f32", [1, -2.5, 3]],
      ["I64", new BigInt64Array([1n, -2n, 3n]), "i32", [1, -2, 3]],
      ["I16", new Int16Array([1, -2, 3]), "i32", [1, -2, 3]],
      ["I8", new Int8Array([1, -2, 3]), "i32", [1, -2, 3]],
      ["U64", new BigUint64Array([1n, 2n, 3n]), "u32", [1, 2, 3]],
      ["U16", new Uint16Array([1, 2, 60000]), "u32", [1, 2, 60000]],
      ["U8", new Uint8Array([1, 2, 255]), "u32", [1, 2, 255]],
      ["BOOL", new Uint8Array([1, 0, 1]), "bool", [1, 0, 1]],
    ];
    for (const [dtype, array, as, expected] of cases) {
      const { x } = await load(one(dtype, array, [3]));
      expect([x!.dtype, await values(x!)], dtype).toEqual([as, expected]);
      // into a parameter, of f32
      const module = new Linear(3, 1, { bias: false });
      await load(module, one(dtype, array, [1, 3]), { rename: () => "weight" });
      expect(await values(module.weight), dtype).toEqual(expected);
      if (!hasF16) continue;
      module.to("f16");
      await load(module, one(dtype, array, [1, 3]), { rename: () => "weight" });
      expect(mixedError(await values(module.weight), expected), dtype).toBeLessThan(1e-3);
    }
    await expect(load(one("I64", new BigInt64Array([2n ** 40n]), [1]))).rejects.toThrow(
      'load: the bytes: tensor "x" I64 holds 1099511627776, which does not fit i32',
    );
    const norm = new BatchNorm1d(1);
    const count = one("F32", new Float32Array([0.5]), []);
    await expect(load(norm, count, { strict: false, rename: () => "num_batches_tracked" })).rejects.toThrow(
      'tensor "x" F32 holds 0.5, which does not fit i32',
    );
  });

  it("report missing and unexpected keys, and check everything first", async () => {
    const to = model();
    const before = await values((to.at(0) as Linear).weight);
    const state: Record<string, Tensor> = { ...model().stateDict(), extra: tensor([1]) };
    delete state["0.bias"];
    const blob = await save(state);
    await expect(load(to, blob)).rejects.toThrow("load: the Blob: missing: 0.bias; unexpected: extra");
    expect(await values((to.at(0) as Linear).weight)).toEqual(before);
    const report = await load(to, blob, { strict: false });
    expect(report).toEqual({ missingKeys: ["0.bias"], unexpectedKeys: ["extra"], metadata: {} });
    expect(await values((to.at(0) as Linear).weight)).toEqual(await values(state["0.weight"]!));
    const wrong = await save({ "0.weight": empty([2, 2]) });
    await expect(load(to, wrong, { strict: false })).rejects.toThrow("0.weight has shape [2,2], expected [4,3]");
  });

  it("rename keys", async () => {
    const from = model();
    const prefixed = Object.fromEntries(Object.entries(from.stateDict()).map(([name, t]) => [`module.${name}`, t]));
    const blob = await save({ ...prefixed, skipped: tensor([1]) });
    const to = model();
    await load(to, blob, { rename: (key) => (key === "skipped" ? null : key.replace(/^module\./, "")) });
    expect(await values((to.at(0) as Linear).weight)).toEqual(await values((from.at(0) as Linear).weight));
    await expect(load(blob, { rename: () => "same" })).rejects.toThrow('are both called "same"');
  });

  it("read shards", async () => {
    const from = model();
    const entries = Object.entries(from.stateDict());
    const shards = await Promise.all(
      [entries.slice(0, 3), entries.slice(3)].map((part) => save(Object.fromEntries(part))),
    );
    const to = model();
    const streams = await Promise.all(shards.map(async (shard) => streamOf(await bytesOf(shard), 100)));
    for (const sources of [shards, streams]) expect((await load(to, sources)).missingKeys).toEqual([]);
    expect(await values((to.at(0) as Linear).weight)).toEqual(await values((from.at(0) as Linear).weight));
    await expect(load(to, [shards[0]!, shards[0]!])).rejects.toThrow(
      'load: both the Blob and the Blob have a tensor "0.weight"',
    );
  });

  it("load a checkpoint of PyTorch as it is", async () => {
    const url = new URL("./transformer.safetensors", import.meta.url);
    const source = async () => (url.protocol === "file:" ? url : (await fetch(url)).body!);
    const name = "transformerEncoderLayer src=[5,2,8]/";
    const within = (key: string): string => (key.startsWith(name) ? key.slice(name.length) : "");
    const layer = new TransformerEncoderLayer(8, 2, { dimFeedforward: 10, dropout: 0 });
    const parameters = (key: string): string | null =>
      within(key).includes(".") && !/^d/.test(within(key)) ? within(key) : null;
    const { metadata, ...report } = await load(layer, await source(), { rename: parameters });
    expect(report).toEqual({ missingKeys: [], unexpectedKeys: [] });
    expect(metadata.torch).toMatch(/^2/);
    const { src, y } = await load(await source(), {
      rename: (key) => (/^(src|y)$/.test(within(key)) ? within(key) : null),
    });
    expect(mixedError(await layer.forward(src!).data(), await values(y!))).toBeLessThan(1e-5);
  });
});

describe("inspect", () => {
  it("reads the header alone", async () => {
    const blob = await save({ a: empty([2, 3]), b: tensor([true]) }, null, { metadata: { epoch: "3" } });
    expect(await inspect(blob)).toEqual({
      tensors: { a: { dtype: "F32", shape: [2, 3] }, b: { dtype: "BOOL", shape: [1] } },
      metadata: { epoch: "3" },
    });
  });
});

describe("broken files", () => {
  const entry = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
  const cases: [name: string, bytes: Uint8Array<ArrayBuffer>, message: string][] = [
    ["empty", new Uint8Array(0), "the file has 0 bytes, too few for the 8 of the header length; is it truncated?"],
    ["a short header", file("{}", [], 1000), "is it truncated?"],
    ["no JSON", file("nonsense"), "the header is not JSON"],
    ["a list", file("[]"), "the header is not a JSON object"],
    [
      "an unknown dtype",
      file({ x: { ...entry, dtype: "F8_E4M3" } }, Array(8).fill(0)),
      'tensor "x" has dtype "F8_E4M3"',
    ],
    ["a wrong shape", file({ x: { ...entry, shape: [3] } }, Array(8).fill(0)), 'tensor "x" [3] F32 needs 12 bytes'],
    [
      "a gap",
      file({ x: { ...entry, data_offsets: [4, 12] } }, Array(12).fill(0)),
      'tensor "x" starts at byte 4, expected 0',
    ],
    ["a bad shape", file({ x: { ...entry, shape: [-2] } }, Array(8).fill(0)), 'tensor "x" has shape [-2]'],
    ["no place", file({ x: { ...entry, data_offsets: [0] } }, Array(8).fill(0)), 'tensor "x" has data_offsets [0]'],
    ["another format", Uint8Array.from([71, 71, 85, 70, 3, 0, 0, 1]), "is this a safetensors file?"],
    [
      "a pickle",
      Uint8Array.from([80, 75, 3, 4, 0, 0, 8, 8, 0]),
      "this is a PyTorch pickle, not safetensors; convert it: python -c",
    ],
    ["an old pickle", Uint8Array.from([128, 2, 138, 10, 108, 252, 156, 70, 249]), "this is a PyTorch pickle"],
    [
      "an empty tensor",
      file({ x: { dtype: "F32", shape: [0], data_offsets: [0, 0] } }),
      "empty tensors are not supported",
    ],
  ];
  it.each(cases)("are refused: %s", async (_, bytes, message) => {
    await expect(load(bytes)).rejects.toThrow(message);
    await expect(load(streamOf(bytes, 5))).rejects.toThrow(/^load: /);
  });

  it("are refused before anything is copied where their length is known", async () => {
    const blob = await save(model());
    const to = model();
    const before = await values((to.at(0) as Linear).weight);
    const cut = blob.slice(0, blob.size - 1);
    await expect(load(to, cut)).rejects.toThrow(/^load: the Blob: tensor .* is it truncated\?$/);
    await expect(load(to, new Blob([blob, "x"]))).rejects.toThrow("load: the Blob: 1 bytes follow the last tensor");
    expect(await values((to.at(0) as Linear).weight)).toEqual(before);
    const bytes = await bytesOf(blob);
    await expect(load(to, streamOf(bytes.subarray(0, -1), 64))).rejects.toThrow(
      /^load: the stream: the file ends inside of tensor ".*" \[.*\] I32; is it truncated\?$/,
    );
    const longer = new Uint8Array([...bytes, 0]);
    await expect(load(to, streamOf(longer, 64))).rejects.toThrow("load: the stream: bytes follow the last tensor");
    await expect(load(streamOf(bytes.subarray(0, 20), 64))).rejects.toThrow("the file ends after 12; is it truncated?");
  });

  it("and wrong arguments are named", async () => {
    await expect(load(3 as never)).rejects.toThrow("load: source is 3, expected a path, an address, a Blob");
    await expect(save({ __metadata__: tensor([1]) })).rejects.toThrow('save: a tensor cannot be called "__metadata__"');
    await expect(save({}, null, { metadata: { a: 1 as never } })).rejects.toThrow(
      "save: metadata.a is 1, expected a string",
    );
    expect(await load(await save({}))).toEqual({});
  });
});
