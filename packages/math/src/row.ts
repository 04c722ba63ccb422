/**
 * Any pure function with rowSum, rowMean, rowMax, rowCumsum or rowCumsumReverse, applied to the rows of broadcast tensors:
 * one kernel forward and one backward, which is derived.
 *
 * The function, and its derivative, fall into stages: a reduction whose argument needs no other reduction is of stage 1, one
 * whose argument needs reductions up to stage k is of stage k + 1. A kernel walks over a row once for each stage, with
 * what was reduced before at hand, and once more for the result. Rows are read again from the caches.
 *
 * A scan is a stage too, whose result is another number for each element. Each thread walks over a piece of the row and
 * writes its running sums to memory; then it learns what the threads before it have in all. What it wrote plus that is the
 * scan, and nobody else reads it.
 *
 * Order of this file: from text to stages, kernels, launchers, differentiable function.
 */
import {
  empty,
  type FloatType,
  grid,
  type Kernel,
  kernel,
  needsGrad,
  type Pointwise,
  record,
  sizeOf,
  type Tensor,
} from "@kindling/core";
import { Cut, type Derived, Reverse } from "./autodiff/derive.ts";
import { embed } from "./autodiff/embed.ts";
import { rowScans, type Value } from "./autodiff/ir.ts";
import { Lowering } from "./autodiff/lower.ts";
import { Printer } from "./autodiff/print.ts";
import type { Source } from "./autodiff/source.ts";
import type { Type } from "./autodiff/types.ts";
import { link, type MathFunction } from "./functions.ts";
import {
  binding,
  checkBuffers,
  checkOperands,
  components,
  each,
  fitsVectors,
  floatOf,
  gradientsOf,
  inputsOf,
  type Layout,
  type LoadedOperand,
  layoutOf,
  loaded,
  loadParams,
  loads,
  loadsKey,
  type Operand,
  type Parameter,
  paramsText,
  sumTo,
  type Width,
} from "./operands.ts";

/** Text, and the function meant where it is not the outermost one; undefined for a value without text of its own. */
export function textOf(fn: string | MathFunction | Pointwise): { wgsl: string; name?: string } | undefined {
  if (typeof fn === "string") return { wgsl: fn };
  if (typeof fn === "object" && fn !== null && "wgsl" in fn) return { wgsl: link(fn), name: fn.name };
  return undefined;
}

// Stages ----------------------------------------------------------------------------------------

/** One reduction or scan: `name` is the function of an element that it reduces. */
interface Stage {
  readonly primitive: string;
  readonly level: number;
  readonly name: string;
  readonly type: string;
  readonly args: Args;
  /** A scan's: the first of its places in scratch memory, which has one for each component. */
  readonly slot?: number;
}

/** What a printed function takes: parameters by number, then earlier reductions by number. */
interface Args {
  readonly params: readonly number[];
  readonly reductions: readonly number[];
}

/** Components of a float type. */
const partsOf = (type: string): number => Number(/^vec(\d)/.exec(type)?.[1] ?? 1);

interface Staged {
  /** The functions of all stages and of the result, and what they name. */
  readonly text: string;
  readonly stages: readonly Stage[];
  /** Places in scratch memory, an f32 for each element of the row each. */
  readonly slots: number;
  readonly result: { readonly name: string; readonly args: Args };
  /** The parameters that the result depends on other than through reductions. */
  readonly direct: readonly number[];
}

interface RowFunction {
  readonly name: string;
  /** The name for messages: in the kernels it may have got an underscore. */
  readonly called: string;
  readonly parameters: readonly Parameter[];
  readonly forward: Staged;
  /** The gradients of some parameters, as a struct with members d0, d1, … */
  readonly backward: (wanted: readonly number[]) => Staged;
  readonly kernels: Map<string, Kernel>;
}

/** Prints a function in stages; `name` begins their names. */
function stagesOf(derived: Derived, type: Type, source: Source, name: string): Staged {
  const cut = new Cut(derived);
  const own = cut.params.slice(0, derived.params.length);
  const fail = (reason: string): never => source.fail(source.fns.get(name)!, `${name}: ${reason}`);
  // what the result needs, directly or through reductions
  const needed = cut.needs([cut.result]);
  for (const { arg, result } of [...cut.reductions].reverse()) {
    if (needed.has(result)) for (const value of cut.needs([arg])) needed.add(value);
  }
  const reductions = cut.reductions.filter(({ result }) => needed.has(result));
  const results = reductions.map(({ result }) => result);
  const texts: string[] = [];
  const print = (result: Value, of: Type, suffix: string): { name: string; args: Args; direct: readonly number[] } => {
    const needs = cut.needs([result]);
    let printed = `${name}${suffix}`;
    while (source.names.has(printed)) printed += "_";
    const printer = new Printer(
      { params: [...own, ...results].filter((value) => needs.has(value)), body: cut.body, result },
      new Set([...source.names, printed, `${name}Grads`]),
      fail,
    );
    texts.push(printer.print(printed, of));
    const at = (list: readonly Value[]): number[] => list.flatMap((value, i) => (needs.has(value) ? [i] : []));
    const args = { params: at(own), reductions: at(results) };
    return { name: printed, args, direct: args.params };
  };
  const stages: Stage[] = [];
  let slots = 0;
  for (const { primitive, arg, result } of reductions) {
    const { name: printed, args } = print(arg, result.type, `Stage${stages.length + 1}`);
    const level = 1 + Math.max(0, ...args.reductions.map((i) => stages[i]!.level));
    const type = result.type.text;
    const scan = rowScans.has(primitive);
    stages.push({ primitive, level, name: printed, type, args, ...(scan && { slot: slots }) });
    if (scan) slots += partsOf(type);
  }
  const { direct, ...result } = print(cut.result, type, "Result");
  return { text: texts.join("\n"), stages, slots, result, direct };
}

const f32Type: Type = { kind: "scalar", of: "f32", text: "f32" };

function rowFunction(wgsl: string, given: string | undefined): RowFunction {
  const { name, called, source, parameters, result, fail } = embed("row", wgsl, given, ["Grads"]);
  const wrong = parameters.find(({ type }) => !["f32", "i32", "u32", "bool"].includes(type));
  if (wrong) fail(`parameter ${wrong.name} is ${wrong.type}, expected f32, i32, u32 or bool`);
  if (result !== "f32") fail(`${called} returns ${result}, expected f32`);
  const lower = () => new Lowering(source).lower(name);
  const fn = lower();
  const shared = declarations(source);
  const built = new Map<string, Staged>();
  const backward = (wanted: readonly number[]): Staged => {
    const key = wanted.join();
    let staged = built.get(key);
    if (!staged) {
      const again = lower();
      const names = new Set(again.params.map(({ text }) => text));
      const reverse = new Reverse();
      const gradients = reverse.derive(again, ["dy", "dz", "dResult"].find((d) => !names.has(d)) ?? "dResult_");
      const members = wanted.map((k) => ({ name: `d${k}`, type: f32Type }));
      const struct: Type = { kind: "struct", members, text: `${name}Grads` };
      const list = wanted.map((k) => gradients.get(again.params[k]!)!);
      const derived = reverse.finish((b) => b.op("construct", struct, list));
      const fields = members.map((member) => `${member.name}: f32`).join(", ");
      const made = stagesOf(derived, struct, source, name);
      staged = { ...made, text: `${shared}\nstruct ${name}Grads { ${fields} }\n\n${made.text}` };
      built.set(key, staged);
    }
    return staged;
  };
  const staged = stagesOf({ params: fn.params, body: fn.body, result: fn.result }, fn.result.type, source, name);
  return {
    name,
    called,
    parameters,
    forward: { ...staged, text: `${shared}\n${staged.text}` },
    backward,
    kernels: new Map(),
  };
}

/** What the source declares beside functions, which are inlined. */
function declarations(source: Source): string {
  let { text } = source;
  for (const { start, end } of [...source.fns.values()].sort((a, b) => b.start - a.start)) {
    text = text.slice(0, start) + text.slice(end);
  }
  return text.trim();
}

// Kernels ---------------------------------------------------------------------------------------

/**
 * The sum or maximum of `v` over the W threads of a row, returned to each of them; two levels of at most 16 terms each. The
 * next call writes `terms` while this one's threads still read `sums`, and `sums` only behind its own barrier.
 */
const reductionOf = (T: string, operation: "sum" | "max"): string => {
  const joined = (a: string, b: string): string => (operation === "sum" ? `${a} + ${b}` : `max(${a}, ${b})`);
  return /* wgsl */ `
fn _${operation}_${T}(lane: u32, v: ${T}) -> ${T} {
  let width = min(W / 4, 16u);
  let slot = lane / W * width;
  _terms_${T}[lane] = v;
  workgroupBarrier();
  if (lane % W < width) {
    var all = _terms_${T}[lane];
    for (var i = 1u; i < W / width; i++) { all = ${joined("all", `_terms_${T}[lane + i * width]`)}; }
    _sums_${T}[slot + lane % W] = all;
  }
  workgroupBarrier();
  var all = _sums_${T}[slot];
  for (var i = 1u; i < width; i++) { all = ${joined("all", `_sums_${T}[slot + i]`)}; }
  return all;
}
`;
};

/**
 * The sum of `v` over the threads of a row before this one, by the same two levels. Of the threads after it, where `lane` is
 * mirrored within the row.
 */
const beforeOf = (T: string): string => /* wgsl */ `
fn _before_${T}(lane: u32, v: ${T}) -> ${T} {
  let width = min(W / 4, 16u);
  let count = W / width;
  let slot = lane / W * width;
  _terms_${T}[lane] = v;
  workgroupBarrier();
  if (lane % W < width) {
    let first = lane - lane % W + lane % W * count;
    var all = _terms_${T}[first];
    for (var i = 1u; i < count; i++) { all += _terms_${T}[first + i]; }
    _sums_${T}[slot + lane % W] = all;
  }
  workgroupBarrier();
  var all = ${T}();
  for (var i = slot; i < slot + lane % W / count; i++) { all += _sums_${T}[i]; }
  for (var i = lane - lane % count; i < lane; i++) { all += _terms_${T}[i]; }
  workgroupBarrier(); // the next call writes terms
  return all;
}
`;

/** The f32 form of a float type. */
const f32Of = (type: string): string => type.replace("f16", "f32").replace(/h$/, "f");

/** The type of what a thread has of a stage: of a scan its sums, in f32. */
const heldAs = ({ type, slot }: Stage): string => (slot === undefined ? type : f32Of(type));

interface Text {
  readonly staged: Staged;
  readonly operands: readonly LoadedOperand[];
  readonly width: Width;
  /** Whether a thread does a row by itself. */
  readonly alone: boolean;
  /** Bindings and functions beside those of the operands. */
  readonly extra: string;
  /** What is done with each step of a row; `result(c)` is the result's text for component c. */
  readonly finish: (result: (component: string) => string) => string;
  /** Of a result that is the same for all of a row only the first element is computed. */
  readonly once: boolean;
}

/**
 * Thread `column` of the W threads of row `row` walks over vectors column, column + W, … of it; where there are scans, over
 * neighbours.
 */
function rowKernel(label: string, { staged, operands, width, alone, extra, finish, once }: Text): Kernel {
  const { stages, slots, result } = staged;
  const read = loads(operands, width);
  const place = (slot: number): string => `_scan[${slot ? `${slot} * params.rows * params.vectors + ` : ""}i]`;
  /** What a stage found, for a component of the vectors at hand. */
  const found = (k: number, component: string): string => {
    const { slot, type } = stages[k]!;
    if (slot === undefined) return `_r${k}`;
    const parts = Array.from({ length: partsOf(type) }, (_, p) => `_s${slot + p}${component}`);
    const own = parts.length > 1 ? `${f32Of(type)}(${parts.join(", ")})` : parts[0]!;
    const sum = alone ? own : `${own} + _r${k}`;
    return type === f32Of(type) ? sum : `${type}(${sum})`;
  };
  const call = (name: string, { params, reductions }: Args, component: string): string =>
    `${name}(${[...params.map((k) => `_v${k}${component}`), ...reductions.map((k) => found(k, component))].join(", ")})`;
  const valuesOf = (lists: readonly Args[]): string => {
    const all = (pick: (args: Args) => readonly number[]): number[] =>
      [...new Set(lists.flatMap(pick))].sort((a, b) => a - b);
    const scanned = all(({ reductions }) => reductions).flatMap((k) => {
      const { slot, type } = stages[k]!;
      return slot === undefined ? [] : Array.from({ length: partsOf(type) }, (_, p) => slot + p);
    });
    return [
      ...all(({ params }) => params).map((k) => `    let _v${k} = _load${k}(i);\n`),
      ...scanned.map((slot) => `    let _s${slot} = ${place(slot)};\n`),
    ].join("");
  };
  const onwards = [slots ? "var at = begin; at < end; at++" : "var at = column; at < params.vectors; at += W", "at"];
  const backwards = ["var at = end; at > begin; at--", "at - 1"];
  const loop = (body: string, [head, at] = onwards): string => /* wgsl */ `
  for (${head}) {
    let i = first + ${at};
${body}  }`;
  const isReverse = ({ primitive }: Stage): boolean => primitive === "rowCumsumReverse";
  /** A thread's own running sums. */
  const scanStep = (stage: Stage, k: number): string => {
    const { slot, name, type, args } = stage;
    const F = f32Of(type);
    const steps = components(width).map((component, c) => {
      const value = call(name, args, component);
      return `    _r${k} += ${type === F ? value : `${F}(${value})`};\n    let _t${k}_${c} = _r${k};\n`;
    });
    if (isReverse(stage)) steps.reverse();
    const stores = Array.from({ length: partsOf(type) }, (_, p) => {
      const list = components(width).map((__, c) => `_t${k}_${c}${partsOf(type) > 1 ? `.${"xyzw"[p]}` : ""}`);
      return `    ${place(slot! + p)} = ${width === 4 ? `vec4f(${list.join(", ")})` : list[0]};\n`;
    });
    return steps.join("") + stores.join("");
  };

  const levels = Math.max(0, ...stages.map(({ level }) => level));
  let passes = "";
  for (let level = 1; level <= levels; level++) {
    const own = stages.flatMap((stage, k) => (stage.level === level ? [{ ...stage, k }] : []));
    const isMax = ({ primitive }: Stage): boolean => primitive === "rowMax";
    passes += own
      .map((stage) => `\n  var _r${stage.k} = ${heldAs(stage)}(${isMax(stage) ? "params.lowest" : ""});`)
      .join("");
    for (const reverse of [false, true]) {
      const walked = own.filter((stage) => isReverse(stage) === reverse);
      if (walked.length === 0) continue;
      passes += loop(
        valuesOf(walked.map(({ args }) => args)) +
          walked
            .map((stage) => {
              if (stage.slot !== undefined) return scanStep(stage, stage.k);
              const each = components(width).map((component) => call(stage.name, stage.args, component));
              const joined = isMax(stage) ? each.reduce((a, b) => `max(${a}, ${b})`) : each.join(" + ");
              return `    _r${stage.k} ${isMax(stage) ? `= max(_r${stage.k}, ${joined})` : `+= ${joined}`};\n`;
            })
            .join(""),
        reverse ? backwards : onwards,
      );
    }
    for (const stage of own) {
      const { k, type } = stage;
      if (stage.slot !== undefined) {
        // W is a power of two
        if (!alone)
          passes += `\n  _r${k} = _before_${heldAs(stage)}(lane${isReverse(stage) ? " ^ (W - 1)" : ""}, _r${k});`;
        continue;
      }
      if (!alone) passes += `\n  _r${k} = _${isMax(stage) ? "max" : "sum"}_${type}(lane, _r${k});`;
      if (stage.primitive === "rowMean") passes += `\n  _r${k} /= ${/h$|f16/.test(type) ? "f16" : "f32"}(params.cols);`;
    }
  }
  const kindOf = (stage: Stage): string =>
    `${heldAs(stage)} ${stage.slot !== undefined ? "before" : stage.primitive === "rowMax" ? "max" : "sum"}`;
  const kinds = alone ? [] : [...new Set(stages.map(kindOf))];
  const types = [...new Set(kinds.map((kind) => kind.split(" ")[0]!))];
  const shared = types
    .map((T) => `var<workgroup> _terms_${T}: array<${T}, 256>;\nvar<workgroup> _sums_${T}: array<${T}, 64>;\n`)
    .join("");
  const reductions = kinds
    .map((kind) => {
      const T = kind.split(" ")[0]!;
      return kind.endsWith("before") ? beforeOf(T) : reductionOf(T, kind.endsWith("max") ? "max" : "sum");
    })
    .join("");
  const piece = /* wgsl */ `
  let piece = (params.vectors + W - 1) / W;
  let begin = min(column * piece, params.vectors);
  let end = select(begin, min(begin + piece, params.vectors), inside);`;
  const last = valuesOf([result.args]) + finish((component) => call(result.name, result.args, component));
  return kernel<string>(
    label,
    /* wgsl */ `
${alone ? "const W = 1u;" : "override W: u32 = 256;"}
${paramsText(["rows", "cols", "vectors", "lowest: f32", ...read.fields])}
${read.text}${extra}${shared}${reductions}
${staged.text}
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {
  let row = (wg.x + wg.y * groups.x) * (256 / W) + lane / W;
  let inside = row < params.rows;
  let first = min(row, params.rows - 1) * params.vectors;
  let column = lane % W;${slots ? piece : ""}
${passes}
  if (!inside${once ? " || column > 0" : ""}) { return; }
${once ? `  let i = first;\n${last}` : loop(last)}
}`,
  );
}

/** Threads for a row of `vectors` steps: one on a GPU that is a program, where barriers cost most, and for short rows. */
function threadsOf(vectors: number, software: boolean): number {
  if (software || vectors <= 4) return 1;
  return Math.min(256, Math.max(8, 2 ** Math.ceil(Math.log2(vectors / 2))));
}

// Launchers -------------------------------------------------------------------------------------

interface Call {
  readonly fn: RowFunction;
  readonly operands: readonly Operand[];
  readonly layout: Layout;
  readonly perRow: boolean;
}

/** How the rows of one call are walked over. */
function walkOf({ layout }: Call, { device }: Tensor) {
  const cols = layout.shape.at(-1)!;
  const rows = sizeOf(layout.shape) / cols;
  const width: Width = cols % 4 === 0 && fitsVectors(layout) ? 4 : 1;
  const vectors = cols / width;
  const W = threadsOf(vectors, device.software);
  const alone = W === 1;
  const launch = {
    workgroups: grid(Math.ceil((rows * W) / 256)),
    ...(!alone && { constants: { W } }),
  };
  return { params: { rows, cols, vectors, lowest: Number.NEGATIVE_INFINITY }, width, alone, launch };
}

function kernelOf({ kernels }: RowFunction, key: string, build: () => Kernel): Kernel {
  let made = kernels.get(key);
  if (!made) kernels.set(key, (made = build()));
  return made;
}

/** Memory for scans. */
const scratchText = (at: number, { slots }: Staged, width: Width): string =>
  slots ? binding(at, "_scan", "f32", width, true) : "";

const scratchOf = ({ slots }: Staged, { layout }: Call, { device }: Tensor): { _scan?: Tensor } =>
  slots ? { _scan: empty([slots, ...layout.shape], { device }) } : {};

function launchForward(call: Call, dtype: FloatType): Tensor {
  const { fn, operands, layout, perRow } = call;
  const like = operands.find((operand) => typeof operand !== "number") as Tensor;
  const { params, width, alone, launch } = walkOf(call, like);
  const read = loaded(fn.parameters, operands, layout);
  const run = kernelOf(fn, `forward,${loadsKey(read)},${dtype},${width},${alone},${perRow}`, () => {
    const { next } = loads(read, width);
    return rowKernel(`row.${fn.name}.forward`, {
      ...{ staged: fn.forward, operands: read, width, alone, once: perRow },
      extra: binding(next, "_out", dtype, perRow ? 1 : width, true) + scratchText(next + 1, fn.forward, width),
      finish: (result) =>
        perRow
          ? `  _out[row] = ${dtype}(${result(components(width)[0]!)});`
          : `    _out[i] = ${width === 4 ? `vec4<${dtype}>(${each("f32", 4, result)})` : `${dtype}(${result("")})`};\n`,
    });
  });
  const y = empty(perRow ? layout.shape.slice(0, -1) : layout.shape, { dtype, device: like.device });
  const scratch = scratchOf(fn.forward, call, like);
  run.run(
    { params: { ...params, ...loadParams(layout, operands, width) }, ...inputsOf(operands), _out: y, ...scratch },
    launch,
  );
  scratch._scan?.dispose();
  return y;
}

function launchBackward(call: Call, dy: Tensor, wanted: readonly number[]): Tensor[] {
  const { fn, operands, layout, perRow } = call;
  const { params, width, alone, launch } = walkOf(call, dy);
  const read = loaded(fn.parameters, operands, layout);
  const staged = fn.backward(wanted);
  const direct = wanted.map((k) => layout.places[k]!.kind === "full");
  const seed = operands.length;
  const key = `backward,${loadsKey(read)},${dy.dtype},${width},${alone},${perRow},${wanted}`;
  const run = kernelOf(fn, key, () => {
    const { next } = loads(read, width);
    const types = wanted.map((k, n) => (direct[n] ? read[k]!.element : "f32"));
    const F = width === 4 ? "vec4f" : "f32";
    // Of a result for a row, the gradient is its first element's: those of a row's elements add up.
    const given = perRow
      ? `let d = f32(_dout[i / params.vectors]);\n  return select(${F}(), ${width === 4 ? "vec4f(d, 0, 0, 0)" : "d"}, i % params.vectors == 0);`
      : `return ${F}(_dout[i]);`;
    const outputs = wanted.map((k, n) => binding(next + 1 + n, `_grad${k}`, types[n]!, width, true));
    return rowKernel(`row.${fn.name}.backward`, {
      ...{ staged, operands: read, width, alone, once: false },
      extra: `${binding(next, "_dout", dy.dtype, perRow ? 1 : width)}${outputs.join("")}${scratchText(next + 1 + wanted.length, staged, width)}
fn _load${seed}(i: u32) -> ${F} {
  ${given}
}
`,
      finish: (result) => {
        const parts = components(width).map((component, c) => `    let _g${c} = ${result(component)};\n`);
        const stores = wanted.map((k, n) => {
          const list = parts.map((_, c) => `_g${c}.d${k}`);
          return `    _grad${k}[i] = ${width === 4 ? `vec4<${types[n]}>(vec4f(${list.join(", ")}))` : `${types[n]}(${list[0]})`};\n`;
        });
        return parts.join("") + stores.join("");
      },
    });
  });
  const outputs = wanted.map((k, n) => {
    const operand = operands[k] as Tensor;
    return direct[n] ? empty(operand.shape, operand) : empty(layout.shape, { device: dy.device });
  });
  const grads = Object.fromEntries(wanted.map((k, n) => [`_grad${k}`, outputs[n]!]));
  const scratch = scratchOf(staged, call, dy);
  run.run(
    {
      ...{ params: { ...params, ...loadParams(layout, operands, width) }, ...inputsOf(operands) },
      ...{ _dout: dy, ...grads, ...scratch },
    },
    launch,
  );
  scratch._scan?.dispose();
  return wanted.map((k, n) =>
    direct[n] ? outputs[n]! : sumTo(operands[k] as Tensor, outputs[n]!, layout.sizes, layout.places[k]!.axes),
  );
}

// Differentiable function -----------------------------------------------------------------------

export interface RowOptions {
  /** The result is the same for all of a row, and is wanted once: without the last axis. Default false. */
  perRow?: boolean;
}

const known = new Map<string, RowFunction>();

/**
 * `fn` of the rows (last axes) of its operands, which broadcast as in PyTorch: one kernel, and one for all gradients. `fn` is
 * WGSL text with rowSum, rowMean, rowMax, rowCumsum or rowCumsumReverse, derived once, whose outermost function is meant; or
 * a function of @kindling/math. A parameter of f32 takes f32 and f16 tensors and numbers, one of i32, u32 or bool takes
 * tensors of that dtype; the function returns f32. The result has the operands' common shape, or with `perRow` that without
 * the last axis; it is f32, or f16 where all float operands are. Throws on a wrong count, dtype, shape or device, and where
 * the GPU binds fewer buffers.
 *
 *     row("fn softmax(x: f32) -> f32 { let e = exp(x - rowMax(x)); return e / rowSum(e); }", x)
 *     row(crossEntropy, logits, probabilities, { perRow: true })
 */
export function row(
  fn: string | MathFunction,
  ...rest: readonly Operand[] | readonly [...operands: Operand[], options: RowOptions]
): Tensor {
  const text = textOf(fn);
  if (!text) throw new Error("row: expected WGSL text or a function of @kindling/math");
  const last = rest.at(-1);
  const options = isOptions(last) ? last : undefined;
  const operands = (options ? rest.slice(0, -1) : rest) as readonly Operand[];
  const key = `${text.name ?? ""}\n${text.wgsl}`;
  let own = known.get(key);
  if (!own) known.set(key, (own = rowFunction(text.wgsl, text.name)));
  return runRow(own, operands, options);
}

const isOptions = (value: unknown): value is RowOptions =>
  typeof value === "object" && value !== null && Object.getPrototypeOf(value) === Object.prototype;

function runRow(fn: RowFunction, operands: readonly Operand[], { perRow = false }: RowOptions = {}): Tensor {
  const where = `row: ${fn.called}`;
  const tensors = checkOperands(where, fn.parameters, operands);
  const layout = layoutOf(where, operands);
  if (layout.shape.length === 0) throw new Error(`${where}: the operands have no axes, expected at least one`);
  const { direct, result, stages, slots } = fn.forward;
  const varies = direct.find((k) => {
    const operand = operands[k]!;
    return typeof operand !== "number" && (operand.shape.at(-1) ?? 1) > 1;
  });
  const scanned = layout.shape.at(-1)! > 1 && result.args.reductions.some((k) => stages[k]!.slot !== undefined);
  if (perRow && (varies !== undefined || scanned)) {
    const what = varies === undefined ? "a scan" : `each element of ${fn.parameters[varies]!.name}`;
    throw new Error(
      `${where}: perRow needs a result that is the same for all of a row; this one also depends on ${what}`,
    );
  }
  const scratch = slots ? 1 : 0;
  checkBuffers(where, tensors, scratch + (tensors.some(needsGrad) ? 2 : 1));
  const call: Call = { fn, operands, layout, perRow };
  return record(launchForward(call, floatOf(tensors)), tensors, (dy) =>
    gradientsOf(operands, (wanted) => launchBackward(call, dy, wanted), 1 + scratch),
  );
}
