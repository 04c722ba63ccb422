// Prints, as one line of JSON, the adapter that Dawn finds with the environment of this process: { adapter } or { error }.
// The adapter counts only if it also computes: a driver can be there and fail at the first shader.
import { create, globals } from "webgpu";

Object.assign(globalThis, globals);
// Held for the life of the process: Dawn crashes once this object is collected.
globalThis.kindlingGpu = create(process.argv.slice(2));

async function describe() {
  const adapter = await globalThis.kindlingGpu.requestAdapter({ powerPreference: "high-performance" });
  if (!adapter) return { error: "Dawn finds no adapter" };
  const { vendor, architecture, device: name, description } = adapter.info;
  const text = [vendor, name, description].filter(Boolean).join(" ");
  const features = [...adapter.features];
  const device = await adapter.requestDevice();
  device.addEventListener("uncapturederror", () => {}); // the value read below tells
  const code = `
    @group(0) @binding(0) var<storage, read_write> x: array<u32>;
    @compute @workgroup_size(1) fn main() { x[0] = x[0] + 42; }`;
  const module = device.createShaderModule({ code });
  const pipeline = device.createComputePipeline({ layout: "auto", compute: { module } });
  const { COPY_DST, COPY_SRC, MAP_READ, STORAGE } = GPUBufferUsage;
  const x = device.createBuffer({ size: 4, usage: STORAGE | COPY_SRC });
  const copy = device.createBuffer({ size: 4, usage: COPY_DST | MAP_READ });
  const layout = pipeline.getBindGroupLayout(0);
  const group = device.createBindGroup({ layout, entries: [{ binding: 0, resource: { buffer: x } }] });
  const encoder = device.createCommandEncoder();
  const pass = encoder.beginComputePass();
  pass.setPipeline(pipeline);
  pass.setBindGroup(0, group);
  pass.dispatchWorkgroups(1);
  pass.end();
  encoder.copyBufferToBuffer(x, 0, copy, 0, 4);
  device.queue.submit([encoder.finish()]);
  await copy.mapAsync(GPUMapMode.READ);
  const [value] = new Uint32Array(copy.getMappedRange().slice(0));
  if (value !== 42) return { error: `${text} computes wrongly` };
  const software =
    Boolean(adapter.info.isFallbackAdapter) ||
    architecture === "software" ||
    /llvmpipe|swiftshader|basic render/i.test(text);
  return { adapter: { description: text, software, features } };
}

console.log(JSON.stringify(await describe().catch((error) => ({ error: error.message }))));
