import { tensor } from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { loadSafetensors, parseSafetensors, saveSafetensors } from "../src/safetensors.ts";

const half = (await testDevice()).features.has("shader-f16") ? "f16" : "f32";

function file(header: unknown, data: Uint8Array = new Uint8Array()): Uint8Array<ArrayBuffer> {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

describe("safetensors", () => {
  it("round-trips every dtype and the metadata", async () => {
    const tensors = {
      a: tensor([
        [1, 2, 3],
        [4, 5, 6],
      ]),
      b: tensor([1.5, -2, 0.1], { dtype: half }),
      c: tensor([-1, 2], { dtype: "i32" }),
      d: tensor([true, false, true]),
      e: tensor(3),
    };
    const bytes = await saveSafetensors(tensors, { step: "7" });
    expect(parseSafetensors(bytes).metadata).toEqual({ step: "7" });
    const loaded = loadSafetensors(bytes);
    expect(Object.keys(loaded)).toEqual(Object.keys(tensors));
    for (const [name, t] of Object.entries(tensors)) {
      expect([loaded[name]!.dtype, await loaded[name]!.array()]).toEqual([t.dtype, await t.array()]);
    }
  });

  it("reads the dtypes that a GPU has not", async () => {
    const data = new Uint8Array([
      ...new Uint8Array(new Float64Array([0.5]).buffer),
      ...new Uint8Array(new BigInt64Array([-3n]).buffer),
      0x80,
      0x3f,
    ]);
    const loaded = loadSafetensors(
      file(
        {
          a: { dtype: "F64", shape: [], data_offsets: [0, 8] },
          b: { dtype: "I64", shape: [1], data_offsets: [8, 16] },
          c: { dtype: "BF16", shape: [1], data_offsets: [16, 18] },
        },
        data,
      ),
    );
    expect([await loaded.a!.item(), await loaded.b!.item(), await loaded.c!.item()]).toEqual([0.5, -3, 1]);
  });

  const f32 = { dtype: "F32", shape: [1], data_offsets: [0, 4] };
  const four = new Uint8Array(4);
  it.each([
    ["shorter than its first field", new Uint8Array(5), "too few for the 8 of the header length; is it truncated?"],
    ["cut in the header", file({ a: f32 }, four).slice(0, 20), "is it truncated?"],
    [
      "cut in the data",
      file({ a: f32 }, four.slice(1)),
      'tensor "a" ends at byte 4, the file holds 3 bytes of data; is it truncated?',
    ],
    ["not JSON", file("{nope"), "the header is not JSON"],
    ["a list", file([1]), "the header is not a JSON object"],
    ["an unknown dtype", file({ a: { ...f32, dtype: "F8" } }, four), 'tensor "a" has dtype "F8"'],
    ["a negative shape", file({ a: { ...f32, shape: [-1] } }, four), 'tensor "a" has shape [-1]'],
    [
      "offsets that do not fit the shape",
      file({ a: { ...f32, data_offsets: [0, 8] } }, new Uint8Array(8)),
      "needs 4 bytes, its data_offsets span 8",
    ],
    ["overlapping tensors", file({ a: f32, b: f32 }, four), 'tensor "b" starts at byte 0, expected 4'],
    ["bytes left over", file({ a: f32 }, new Uint8Array(6)), "2 bytes follow the last tensor"],
  ])("refuses a file that is %s", (_, bytes, message) => {
    expect(() => loadSafetensors(bytes)).toThrow(message);
  });

  it("refuses an integer that does not fit", () => {
    const big = new Uint8Array(new BigInt64Array([2n ** 40n]).buffer);
    expect(() => loadSafetensors(file({ a: { dtype: "I64", shape: [1], data_offsets: [0, 8] } }, big))).toThrow(
      "holds 1099511627776, which does not fit i32",
    );
  });
});
