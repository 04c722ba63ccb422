/**
 * What the kernels find wrong with the values of their inputs, found beside a fallback form, which has no errors: an id out of range,
 * a probability that is none. On a GPU the next read throws, as with the kernels; on the CPU the call does.
 */
import { type Device, grid, kernel, type Tensor, variants } from "@kindling/core";

const idsKernel = variants((T: "i32" | "u32") =>
  kernel<string>(
    `nn.checkIds.${T}`,
    /* wgsl */ `
struct Params { count: u32, ids: u32, ignore: i32, fault: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> ids: array<${T}>;
@group(0) @binding(2) var<storage, read_write> faults: array<atomic<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.count || i32(ids[i]) == params.ignore || u32(ids[i]) < params.ids) { return; }
  atomicStore(&faults[params.fault], 1u);
  atomicStore(&faults[params.fault + 1], u32(ids[i]));
}`,
  ),
);

const sharesKernel = variants((T: "f32" | "f16") =>
  kernel<string>(
    `nn.checkShares.${T}`,
    /* wgsl */ `
struct Params { count: u32, fault: u32 }

@group(0) @binding(0) var<uniform> params: Params;
@group(0) @binding(1) var<storage, read> x: array<${T}>;
@group(0) @binding(2) var<storage, read_write> faults: array<atomic<u32>>;

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let i = id.x + id.y * groups.x * 256;
  if (i >= params.count || !(x[i] < 0 || x[i] > 1)) { return; }
  atomicStore(&faults[params.fault], 1u);
  atomicStore(&faults[params.fault + 1], i);
}`,
  ),
);

/** The values of a tensor of the CPU, null on a GPU. */
function valuesOf(x: Tensor): Int32Array | Float32Array | null {
  const { bytes } = x.storage.block.buffer as unknown as { bytes?: ArrayBuffer };
  if (!bytes) return null;
  x.device.flush();
  return x.dtype === "f32" ? new Float32Array(bytes, x.offset, x.size) : new Int32Array(bytes, x.offset, x.size);
}

const faultOf = (device: Device, message: string) => {
  const { faults, code } = device.fault(message);
  return { faults, fault: code };
};

/** Reports ids that are neither 0 to `count` − 1 nor `ignore`; "%" in the message becomes the id. */
export function checkIds(ids: Tensor, count: number, message: string, ignore: number = -1 - 2 ** 31): void {
  const values = valuesOf(ids);
  if (values) {
    const wrong = (values as Int32Array).find((id) => id !== ignore && (id < 0 || id >= count));
    if (wrong !== undefined) throw new Error(message.replace("%", String(wrong)));
    return;
  }
  const { faults, fault } = faultOf(ids.device, message);
  // Without an id to ignore, one that is counted anyway.
  const params = { count: ids.size, ids: count, ignore: ignore < -(2 ** 31) ? 0 : ignore, fault };
  idsKernel(ids.dtype as "i32" | "u32").run({ params, ids, faults }, { workgroups: grid(Math.ceil(ids.size / 256)) });
}

/** Reports values outside [0, 1]; "%" in the message becomes the place of one. */
export function checkShares(x: Tensor, message: string): void {
  const values = valuesOf(x);
  if (values) {
    const at = values.findIndex((v) => v < 0 || v > 1);
    if (at >= 0) throw new Error(message.replace("%", String(at)));
    return;
  }
  const { faults, fault } = faultOf(x.device, message);
  sharesKernel(x.dtype as "f32" | "f16").run(
    { params: { count: x.size, fault }, x, faults },
    { workgroups: grid(Math.ceil(x.size / 256)) },
  );
}
