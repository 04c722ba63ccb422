/**
 * 3×3 convolution by Winograd's F(2×2, 3×3) (Lavin & Gray 2016, arXiv:1509.09308): an output tile of 2×2 pixels takes 16
 * products of a channel in place of 36.
 *
 *   y  = Aᵀ [(G w Gᵀ) ⊙ (Bᵀ x B)] A        x: 4×4 pixels under a tile, w: 3×3 taps
 *   dw = Gᵀ [(A dy Aᵀ) ⊙ (Bᵀ x B)] G       dx: y of dy, with w turned round and its channels swapped
 *
 * Summed over channels (for dw: over tiles) the 16 products are 16 matrix products: core's. The kernels here expand pixels or
 * taps to 16 planes and contract those again. All is f32: against a sum of products the error about doubles.
 */
import {
  type Device,
  empty,
  emptyLike,
  type Inputs,
  kernel,
  matmulForward,
  type Pointwise,
  type Tensor,
  threads,
  variants,
} from "@kindling/core";

/** A correlation of a 3×3 window: output (j, k) reads from (j + originH, k + originW) on. */
export interface Windows {
  readonly images: number;
  readonly groups: number;
  /** Channels of a group. */
  readonly inner: number;
  readonly outer: number;
  readonly inH: number;
  readonly inW: number;
  readonly outH: number;
  readonly outW: number;
  readonly originH: number;
  readonly originW: number;
}

/** Transforms of a line, from 4, 2 or 3 numbers to 4. */
const lines = {
  image: "vec4f(a.x - a.z, a.y + a.z, a.z - a.y, a.y - a.w)",
  grad: "vec4f(a.x, a.x + a.y, a.x - a.y, -a.y)",
  weight: "vec4f(a.x, 0.5 * (a.x + a.y + a.z), 0.5 * (a.x - a.y + a.z), a.z)",
  turned: "vec4f(a.x, 0.5 * (a.x + a.y + a.z), 0.5 * (a.x - a.y + a.z), a.z)",
} as const;

const PARAMS = `
struct Params {
  size: u32, image: u32, columns: u32, channels: u32, tiles: u32, tilesW: u32, H: i32, W: i32, originH: i32, originW: i32,
  inner: u32, outer: u32
}
@group(0) @binding(0) var<uniform> params: Params;
`;

/** How a thread finds itself: the planes of an image are [channel, image, tile], those of weights [group, row, column]. */
const PLACE = {
  image: `
  let channel = id / params.columns;
  let image = params.image + id % params.columns / params.tiles;
  let tile = id % params.tiles;
  let plane = i32(image * params.channels + channel) * params.H * params.W;
  let h = i32(tile / params.tilesW) * 2 + params.originH;
  let w = i32(tile % params.tilesW) * 2 + params.originW;`,
  weight: "let at = id * 9;",
  turned: `
  let row = id / params.outer % params.inner;
  let group = id / params.outer / params.inner;
  let at = ((group * params.outer + id % params.outer) * params.inner + row) * 9;`,
};

/** A line of what is to be expanded; zeros stand for what lies outside of the image or beyond its 2 or 3 numbers. */
const LINE = {
  image: (i: number): string => `vec4f(${[0, 1, 2, 3].map((j) => `pixel(plane, h + ${i}, w + ${j})`).join(", ")})`,
  grad: (i: number): string =>
    i < 2 ? `vec4f(pixel(plane, h + ${i}, w), pixel(plane, h + ${i}, w + 1), 0, 0)` : "vec4f()",
  weight: (i: number): string =>
    i < 3 ? `vec4f(${[0, 1, 2].map((j) => `x[at + ${3 * i + j}]`).join(", ")}, 0)` : "vec4f()",
  turned: (i: number): string =>
    i < 3 ? `vec4f(${[0, 1, 2].map((j) => `x[at + ${8 - 3 * i - j}]`).join(", ")}, 0)` : "vec4f()",
};

type Expanded = keyof typeof lines;

const expandKernel = variants((what: Expanded) =>
  kernel<string>(
    `conv2d.expand.${what}`,
    /* wgsl */ `
${PARAMS}
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> planes: array<f32>;

fn pixel(plane: i32, h: i32, w: i32) -> f32 {
  let inside = u32(h) < u32(params.H) && u32(w) < u32(params.W);
  return select(0.0, x[select(0, plane + h * params.W + w, inside)], inside);
}
fn line(a: vec4f) -> vec4f { return ${lines[what]}; }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) thread: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let id = thread.x + thread.y * groups.x * 256;
  if (id >= params.size) { return; }
  ${PLACE[what === "grad" ? "image" : what]}
  let columns = transpose(mat4x4f(${[0, 1, 2, 3].map((i) => `line(${LINE[what](i)})`).join(", ")}));
${[0, 1, 2, 3]
  .map(
    (j) =>
      `  {\n    let v = line(columns[${j}]);\n${[0, 1, 2, 3].map((i) => `    planes[${4 * j + i} * params.size + id] = v[${i}];`).join("\n")}\n  }`,
  )
  .join("\n")}
}`,
  ),
);

const load = (j: number): string =>
  `vec4f(${[0, 1, 2, 3].map((i) => `planes[${4 * j + i} * params.size + id]`).join(", ")})`;

/**
 * y from its planes. A row of a tile is stored as one vec2 where rows of the image allow it. `fields`: of an activation
 * with inputs; of what it is given past the edge nothing is stored.
 */
const outputKernel = variants(
  (wide: boolean, bias: boolean, z: boolean, name: string, forward: string, fields: string) => {
    const Y = wide ? "array<vec2f>" : "array<f32>";
    const store = (to: string, value: string): string =>
      wide
        ? `${to}[at / 2] = ${value};`
        : `${to}[at] = ${value}.x; if (w + 1 < params.W) { ${to}[at + 1] = ${value}.y; }`;
    return kernel<string>(
      "conv2d.contract",
      /* wgsl */ `
${fields ? PARAMS.replace("outer: u32", `outer: u32, ${fields}`) : PARAMS}
@group(0) @binding(1) var<storage, read> planes: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: ${Y};
${bias ? "@group(0) @binding(3) var<storage, read> bias: array<f32>;" : ""}
${z ? `@group(0) @binding(4) var<storage, read_write> z: ${Y};` : ""}
${forward}

fn line(a: vec4f) -> vec2f { return vec2f(a.x + a.y + a.z, a.y - a.z - a.w); }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) thread: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let id = thread.x + thread.y * groups.x * 256;
  if (id >= params.size) { return; }
  ${PLACE.image}
  let columns = mat4x2f(${[0, 1, 2, 3].map((j) => `line(${load(j)})`).join(", ")});
  for (var r = 0; r < min(2, params.H - h); r++) {
    let at = u32(plane + (h + r) * params.W + w);
    var v = line(vec4f(${[0, 1, 2, 3].map((j) => `columns[${j}][r]`).join(", ")}));
    ${bias ? "v += bias[channel];" : ""}
    ${z ? store("z", "v") : ""}
    ${name ? `v = ${fields ? "vec2f(finish1(at, v.x), finish1(at + 1, v.y))" : `vec2f(${name}(v.x), ${name}(v.y))`};` : ""}
    ${store("y", "v")}
  }
}`,
    );
  },
);

const weightGradKernel = variants(() =>
  kernel<string>(
    "conv2d.contractWeight",
    /* wgsl */ `
${PARAMS}
@group(0) @binding(1) var<storage, read> planes: array<f32>;
@group(0) @binding(2) var<storage, read_write> dw: array<f32>;

fn line(a: vec4f) -> vec3f { return vec3f(a.x + 0.5 * (a.y + a.z), 0.5 * (a.y - a.z), 0.5 * (a.y + a.z) + a.w); }

@compute @workgroup_size(256)
fn main(@builtin(global_invocation_id) thread: vec3u, @builtin(num_workgroups) groups: vec3u) {
  let id = thread.x + thread.y * groups.x * 256;
  if (id >= params.size) { return; }
  let columns = mat4x3f(${[0, 1, 2, 3].map((j) => `line(${load(j)})`).join(", ")});
  for (var r = 0u; r < 3; r++) {
    let v = line(vec4f(${[0, 1, 2, 3].map((j) => `columns[${j}][r]`).join(", ")}));
    for (var c = 0u; c < 3; c++) { dw[id * 9 + r * 3 + c] = v[c]; }
  }
}`,
  ),
);

/** Planes of a part of the images take at most so many bytes, and no more than a binding may have. */
const MOST_PLANES = 2 ** 29;

type Pair = readonly [number, number];
type Params = Record<"size" | "inner" | "outer", number> & Record<string, number>;

interface Part {
  readonly image: number;
  readonly images: number;
}

const tilesOf = ({ outH, outW }: Windows): number => Math.ceil(outH / 2) * Math.ceil(outW / 2);

/** Images whose planes fit. */
function mostImages(c: Windows, { limits }: Device): number {
  const bytes = 64 * c.groups * Math.max(c.inner, c.outer) * tilesOf(c);
  return Math.floor(Math.min(MOST_PLANES, limits.maxStorageBufferBindingSize) / bytes);
}

export const fitsWinograd = (c: Windows, device: Device): boolean => mostImages(c, device) > 0;

function partsOf(c: Windows, device: Device): Part[] {
  const parts = Math.ceil(c.images / mostImages(c, device));
  const each = Math.ceil(c.images / parts);
  return Array.from({ length: Math.ceil(c.images / each) }, (_, i) => ({
    image: i * each,
    images: Math.min(each, c.images - i * each),
  }));
}

/** Uniforms of a kernel that walks over `channels` of a part of the images, of H × W pixels. */
function params(c: Windows, { image, images }: Part, channels: number, size: Pair, origin: Pair): Params {
  const tiles = tilesOf(c);
  const columns = images * tiles;
  return {
    ...{ size: channels * columns, image, columns, channels, tiles, tilesW: Math.ceil(c.outW / 2) },
    ...{ H: size[0], W: size[1], originH: origin[0], originW: origin[1], inner: c.inner, outer: c.outer },
  };
}

const inputParams = (c: Windows, part: Part): Params =>
  params(c, part, c.groups * c.inner, [c.inH, c.inW], [c.originH, c.originW]);
const outputParams = (c: Windows, part: Part): Params => params(c, part, c.groups * c.outer, [c.outH, c.outW], [0, 0]);
/** One thread for each pair of channels. */
const weightParams = (c: Windows): Params => ({
  ...outputParams(c, { image: 0, images: 1 }),
  size: c.groups * c.inner * c.outer,
});

function expand(what: Expanded, x: Tensor, values: Params): Tensor {
  const planes = empty([16, values.size], { device: x.device });
  expandKernel(what).run({ params: values, x, planes }, { workgroups: threads(values.size) });
  return planes;
}

export interface WinogradEpilogue {
  readonly bias?: Tensor | null;
  readonly activation?: Pointwise | null;
  readonly inputs?: Inputs | null;
  readonly z?: Tensor | null;
}

/**
 * Writes act(windows of x · weight + bias) to y, and what the activation was applied to to z. weight: [groups, outer, inner,
 * 3, 3] or, where `turned`, [groups, inner, outer, 3, 3], and its taps turned round.
 */
export function winograd(
  x: Tensor,
  weight: Tensor,
  y: Tensor,
  c: Windows,
  turned: boolean,
  { bias = null, activation = null, inputs = null, z = null }: WinogradEpilogue = {},
): void {
  const { groups, inner, outer } = c;
  const swapped = turned ? { inner: outer, outer: inner } : { inner, outer };
  const u = expand(turned ? "turned" : "weight", weight, { ...weightParams(c), ...swapped });
  for (const part of partsOf(c, x.device)) {
    const v = expand("image", x, inputParams(c, part));
    const N = part.images * tilesOf(c);
    const shape = [16, groups * outer, N];
    const { c: planes } = matmulForward(u, v, { M: outer, N, K: inner, batch: 16 * groups, shape });
    v.dispose();
    const values = outputParams(c, part);
    const { source, fields } = inputs?.text ?? { source: activation?.forward ?? "", fields: "" };
    outputKernel(c.outW % 2 === 0, bias !== null, z !== null, activation?.name ?? "", source, fields).run(
      {
        params: { ...values, ...inputs?.params },
        planes,
        y,
        ...(bias && { bias }),
        ...(z && { z }),
        ...inputs?.bindings,
      },
      { workgroups: threads(values.size) },
    );
    planes.dispose();
  }
  u.dispose();
}

/** dw of the shape of weight. */
export function winogradWeightGrad(dy: Tensor, x: Tensor, weight: Tensor, c: Windows): Tensor {
  const { groups, inner, outer } = c;
  const shape = [16, groups * outer, inner];
  let sums: Tensor | undefined;
  for (const part of partsOf(c, x.device)) {
    const v = expand("image", x, inputParams(c, part));
    const g = expand("grad", dy, outputParams(c, part));
    const K = part.images * tilesOf(c);
    const product = { M: outer, N: inner, K, batch: 16 * groups, transposeB: true, shape, into: sums };
    sums = matmulForward(g, v, product).c;
    v.dispose();
    g.dispose();
  }
  const dw = emptyLike(weight);
  const values = weightParams(c);
  weightGradKernel().run({ params: values, planes: sums!, dw }, { workgroups: threads(values.size) });
  sums!.dispose();
  return dw;
}
