/** What a model is made of: its layers, the shapes between them, its parameters. */
import {
  type Device,
  type DType,
  defaultDevice,
  isTensor,
  type Module,
  noGrad,
  type Shape,
  scope,
  type Tensor,
  zeros,
} from "@kindling/core";

/** The number of a model's parameters, shared ones once; with `trainableOnly`, of those that require a gradient. */
export function parameterCount(model: Module, { trainableOnly = false }: { trainableOnly?: boolean } = {}): number {
  return model.parameters().reduce((sum, p) => sum + (trainableOnly && !p.requiresGrad ? 0 : p.size), 0);
}

export interface SummaryRow {
  /** The path in the model, as in the state dict; "" for the model itself. */
  readonly path: string;
  /** The class. */
  readonly layer: string;
  /** How deep the module is in the model. */
  readonly depth: number;
  /** Of what forward returned first; null where it did not run or returns no tensor. */
  readonly outputShape: Shape | null;
  /** Of this module alone, without those below it; a shared parameter counts where it comes first. */
  readonly parameters: number;
}

export interface Summary {
  readonly rows: readonly SummaryRow[];
  readonly parameters: number;
  readonly trainable: number;
  /** Of parameters and buffers. */
  readonly bytes: number;
  /** As a table. */
  toString(): string;
}

export interface SummaryOptions {
  /** Of the inputs that are given as shapes: one for all, or one for each. Default f32. */
  dtype?: DType | readonly DType[];
  /** Default: that of the model's parameters. */
  device?: Device;
}

type Input = Tensor | Shape;

/**
 * Runs the model once on zeros of a shape, or of several, or on tensors, in evaluation mode and off the tape, and lists its
 * modules with the shapes that come out. `String(summary(model, [1, 3, 224, 224]))` is a table.
 */
export function summary(
  model: Module & { forward(...inputs: never[]): unknown },
  inputs: Input | readonly Input[],
  { dtype = "f32", device = Object.values(model.stateDict())[0]?.device ?? defaultDevice() }: SummaryOptions = {},
): Summary {
  const list = inputList(inputs);
  const shapes = new Map<Module, Shape>();
  const modules = [...model.modules()];
  const modes = modules.map((m) => m.training);
  const watched = modules as (Module & { forward?: (...args: unknown[]) => unknown })[];
  // An own property hides the class's method while the model runs.
  for (const m of watched) {
    const { forward } = m;
    if (!forward) continue;
    m.forward = (...args) => {
      const result = forward.apply(m, args);
      const y = firstTensor(result);
      if (y && !shapes.has(m)) shapes.set(m, y.shape);
      return result;
    };
  }
  try {
    model.eval();
    noGrad(() =>
      scope(() => {
        const xs = list.map((input, i) =>
          isTensor(input) ? input : zeros(input, { dtype: typeof dtype === "string" ? dtype : dtype[i], device }),
        );
        (model as unknown as { forward(...xs: Tensor[]): unknown }).forward(...xs);
      }),
    );
  } finally {
    for (const m of watched) delete m.forward;
    modules.forEach((m, i) => {
      m.training = modes[i]!;
    });
  }
  const seen = new Set<Tensor>();
  const rows = [...rowsOf(model, "", 0, shapes, seen)];
  const state = new Set(Object.values(model.stateDict()));
  const bytes = [...state].reduce((sum, t) => sum + t.size * (t.dtype === "f16" ? 2 : 4), 0);
  const totals = {
    parameters: parameterCount(model),
    trainable: parameterCount(model, { trainableOnly: true }),
    bytes,
  };
  return { rows, ...totals, toString: () => table(rows, totals) };
}

function inputList(inputs: Input | readonly Input[]): readonly Input[] {
  if (isTensor(inputs)) return [inputs as Tensor];
  const list = inputs as readonly unknown[];
  if (!Array.isArray(list))
    throw new Error(`summary: inputs are ${inputs}, expected a shape, a tensor, or several in an array`);
  return list.length > 0 && list.every((d) => typeof d !== "number") ? (list as readonly Input[]) : [list as Shape];
}

function firstTensor(value: unknown): Tensor | null {
  if (isTensor(value)) return value;
  if (typeof value !== "object" || value === null) return null;
  for (const item of Object.values(value)) if (isTensor(item)) return item;
  return null;
}

function* rowsOf(
  module: Module,
  path: string,
  depth: number,
  shapes: ReadonlyMap<Module, Shape>,
  seen: Set<Tensor>,
): Generator<SummaryRow> {
  const own = Object.values(module).filter((t) => isTensor(t) && t.role === "parameter" && !seen.has(t)) as Tensor[];
  for (const p of own) seen.add(p);
  const parameters = own.reduce((sum, p) => sum + p.size, 0);
  yield { path, layer: module.constructor.name, depth, outputShape: shapes.get(module) ?? null, parameters };
  for (const [name, child] of module.namedChildren())
    yield* rowsOf(child, path ? `${path}.${name}` : name, depth + 1, shapes, seen);
}

const grouped = (n: number): string => n.toLocaleString("en-US");

function table(rows: readonly SummaryRow[], totals: { parameters: number; trainable: number; bytes: number }): string {
  const cells = [
    ["layer", "output", "parameters"],
    ...rows.map(({ path, layer, depth, outputShape, parameters }) => [
      `${"  ".repeat(depth)}${path ? `${path.split(".").at(-1)}: ` : ""}${layer}`,
      outputShape ? `[${outputShape.join(", ")}]` : "",
      parameters > 0 ? grouped(parameters) : "",
    ]),
  ];
  const widths = [0, 1, 2].map((i) => Math.max(...cells.map((row) => row[i]!.length)));
  const lines = cells.map(([layer, output, parameters]) =>
    `${layer!.padEnd(widths[0]!)}  ${output!.padEnd(widths[1]!)}  ${parameters!.padStart(widths[2]!)}`.trimEnd(),
  );
  const rule = "─".repeat(widths[0]! + widths[1]! + widths[2]! + 4);
  const { parameters, trainable, bytes } = totals;
  return [
    lines[0],
    rule,
    ...lines.slice(1),
    rule,
    `parameters: ${grouped(parameters)}, trainable: ${grouped(trainable)}, ${size(bytes)}`,
  ].join("\n");
}

const size = (bytes: number): string => {
  const units = ["bytes", "kB", "MB", "GB"];
  const power = Math.min(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), 3);
  return `${power === 0 ? bytes : (bytes / 1000 ** power).toFixed(1)} ${units[power]}`;
};
