// Paths of a file system: Node alone.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { tensor } from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import { afterAll, describe, expect, it } from "vitest";
import { inspect, Linear, load, save } from "../../src/index.ts";

await testDevice();
const folder = mkdtempSync(join(tmpdir(), "kindling-state-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const at = (name: string): string => join(folder, name);

describe("checkpoints in files", () => {
  it("may be larger than any buffer", { timeout: 60_000 }, async () => {
    const size = 2 ** 31 + 2 ** 29;
    const header = JSON.stringify({
      large: { dtype: "U8", shape: [size], data_offsets: [0, size] },
      weight: { dtype: "F32", shape: [1, 2], data_offsets: [size, size + 8] },
    });
    const start = new Uint8Array(8 + header.length);
    new DataView(start.buffer).setBigUint64(0, BigInt(header.length), true);
    start.set(new TextEncoder().encode(header), 8);
    const zeros = new Uint8Array(2 ** 22);
    let left = size;
    const stream = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(start),
      pull(controller) {
        if (left > 0) controller.enqueue(zeros.subarray(0, Math.min(left, zeros.length)));
        else {
          controller.enqueue(new Uint8Array(new Float32Array([3, 4]).buffer));
          controller.close();
        }
        left -= zeros.length;
      },
    });
    const layer = new Linear(2, 1, { bias: false });
    const before = process.memoryUsage().rss;
    expect((await load(layer, stream, { strict: false })).unexpectedKeys).toEqual(["large"]);
    expect(await layer.weight.array()).toEqual([[3, 4]]);
    // what is read and let go waits for the collector, but never the whole file
    expect(process.memoryUsage().rss - before).toBeLessThan(size / 2);
  });

  it("are written whole and read back", async () => {
    const from = new Linear(3, 2);
    for (const target of [
      at("a.safetensors"),
      pathToFileURL(at("b.safetensors")),
      String(pathToFileURL(at("c.safetensors"))),
    ]) {
      await save(from, target);
      const to = new Linear(3, 2);
      await load(to, target);
      expect(await to.weight.data()).toEqual(await from.weight.data());
    }
    expect(readdirSync(folder).filter((name) => name.endsWith(".partial"))).toEqual([]);
  });

  it("stay as they were where writing fails", async () => {
    writeFileSync(at("kept.safetensors"), "before");
    const gone = tensor([1, 2]);
    gone.dispose();
    await expect(save({ gone }, at("kept.safetensors"))).rejects.toThrow("disposed");
    expect([
      readFileSync(at("kept.safetensors"), "utf8"),
      readdirSync(folder).includes("kept.safetensors.partial"),
    ]).toEqual(["before", false]);
    await expect(load(at("none.safetensors"))).rejects.toThrow(/^load: .*none.safetensors: ENOENT/);
    await expect(save({}, "https://example.com/x")).rejects.toThrow("is no path of a file system");
    writeFileSync(at("model.pt"), Uint8Array.from([80, 75, 3, 4, 0, 0, 8, 8, 0]));
    await expect(load(at("model.pt"))).rejects.toThrow(`torch.load('${at("model.pt")}', weights_only=True)`);
  });

  it("may be shards beside an index", async () => {
    const from = new Linear(3, 2);
    await save({ weight: from.weight }, at("model-1.safetensors"));
    await save({ bias: from.bias! }, at("model-2.safetensors"), { metadata: { format: "pt" } });
    const index = at("model.safetensors.index.json");
    writeFileSync(
      index,
      JSON.stringify({ weight_map: { weight: "model-1.safetensors", bias: "model-2.safetensors" } }),
    );
    for (const source of [index, pathToFileURL(index)]) {
      const to = new Linear(3, 2);
      expect((await load(to, source)).metadata).toEqual({ format: "pt" });
      expect(await to.bias!.data()).toEqual(await from.bias!.data());
    }
    expect(Object.keys((await inspect(index)).tensors)).toEqual(["weight", "bias"]);
    const wrong = at("wrong.index.json");
    for (const [text, message] of [
      ["{", "the index is not JSON"],
      ["{}", 'the index has no "weight_map"'],
      [
        '{"weight_map":{"a":"../secret.safetensors"}}',
        '"../secret.safetensors" is no name of a shard beside the index',
      ],
    ] as const) {
      writeFileSync(wrong, text);
      await expect(load(wrong)).rejects.toThrow(message);
    }
  });

  it("may lie at an address", async () => {
    const from = new Linear(3, 2);
    await save(from, at("served.safetensors"));
    const server = createServer((request, response) => {
      if (request.url !== "/served.safetensors") response.writeHead(404).end();
      else response.end(readFileSync(at("served.safetensors")));
    });
    await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening));
    try {
      const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      const to = new Linear(3, 2);
      await load(to, `${origin}/served.safetensors`);
      expect(await to.weight.data()).toEqual(await from.weight.data());
      await expect(load(`${origin}/other.safetensors`)).rejects.toThrow("404 Not Found");
    } finally {
      server.close();
    }
  });
});
