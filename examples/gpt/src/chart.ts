/** The loss curve, twice: as characters for the terminal, and as an SVG file. */
import { scaleLinear } from "d3-scale";
import { line } from "d3-shape";
import plot from "simple-ascii-chart";

/** Loss at a step, in nats a character. */
export type Point = readonly [step: number, loss: number];

export interface History {
  readonly train: Point[];
  readonly validation: Point[];
}

/** Means of neighbouring points, so that a curve of at most `count` points shows the trend. */
function thin(points: readonly Point[], count: number): Point[] {
  const size = Math.ceil(points.length / count);
  return Array.from({ length: Math.ceil(points.length / size) }, (_, i) =>
    mean(points.slice(i * size, (i + 1) * size)),
  );
}

const mean = (points: readonly Point[]): Point => {
  const sum = (axis: 0 | 1): number => points.reduce((s, p) => s + p[axis], 0);
  return [sum(0) / points.length, sum(1) / points.length];
};

/** Means over a window around each point, which narrows towards the ends so that it stays centred. */
const smooth = (points: readonly Point[], reach: number): Point[] =>
  points.map(([step], i) => {
    const side = Math.min(reach, i, points.length - 1 - i);
    return [step, mean(points.slice(i - side, i + side + 1))[1]];
  });

const finite = (points: readonly Point[]): Point[] => points.filter(([, loss]) => Number.isFinite(loss));

/** The training loss as a line, the validation loss as dots; without colour unless asked. */
export function terminalChart(
  history: History,
  { columns = 80, color = false }: { columns?: number; color?: boolean } = {},
): string {
  const width = Math.max(24, Math.min(columns, 100) - 8);
  const train = finite(history.train);
  const validation = finite(history.validation);
  if (train.length < 2) return "";
  const losses = [...train, ...validation].map(([, loss]) => loss);
  const scale = scaleLinear([Math.min(...losses), Math.max(...losses)], [0, 1]).nice(10);
  const steps = scaleLinear([0, train.at(-1)![0]], [0, 1]);
  const format = scale.tickFormat(6);
  return plot(
    thin(smooth(train, Math.ceil(train.length / 100)), width).map(([step, loss]): [number, number] => [step, loss]),
    {
      width,
      height: 14,
      yRange: scale.domain() as [number, number],
      customYAxisTicks: scale.ticks(6),
      customXAxisTicks: steps.ticks(Math.floor(width / 14)).filter((step) => step > 0 && Number.isInteger(step)),
      points: validation.map(([x, y]) => ({
        x: Math.max(x, train[0]![0]),
        y,
        ...(color && { color: "ansiYellow" as const }),
      })),
      ...(color && { color: "ansiCyan" as const }),
      formatter: (value, { axis }) => (axis === "y" ? format(value) : String(value)),
      symbols: { chart: { we: "─", wns: "╮", ns: "│", nse: "╰", wsn: "╯", sne: "╭" }, point: "●" },
    },
  );
}

const WIDTH = 760;
const HEIGHT = 420;
const MARGIN = { top: 68, right: 24, bottom: 44, left: 52 };

/** A page of its own: colours that can be read on white and, where the viewer prefers it, on black. */
const STYLE = `
  svg { background: #fff; font: 13px system-ui, sans-serif; fill: #555 }
  .title { font-size: 16px; font-weight: 600; fill: #222 }
  .grid { stroke: #e4e4e4 }
  .raw, .train, .validation { fill: none; stroke: #2f6fdb; stroke-width: 2; stroke-linejoin: round }
  .raw { stroke-width: 1; opacity: .3 }
  .validation { stroke: #e07b1a }
  circle { fill: #e07b1a }
  @media (prefers-color-scheme: dark) {
    svg { background: #16181d; fill: #aaa } .title { fill: #eee } .grid { stroke: #2c3038 }
    .raw, .train { stroke: #6ea8ff } .validation { stroke: #ffad5c } circle { fill: #ffad5c }
  }`;

/** The curve as an SVG file: every measured training loss faintly, their moving mean, and the validation loss. */
export function svgChart(history: History, title: string): string {
  const train = finite(history.train);
  const validation = finite(history.validation);
  const all = [...train, ...validation];
  const x = scaleLinear([0, Math.max(1, ...all.map(([step]) => step))], [MARGIN.left, WIDTH - MARGIN.right]);
  const y = scaleLinear(
    [Math.min(...all.map(([, loss]) => loss)), Math.max(...all.map(([, loss]) => loss))],
    [HEIGHT - MARGIN.bottom, MARGIN.top],
  ).nice();
  const path = line<Point>(
    ([step]) => round(x(step)),
    ([, loss]) => round(y(loss)),
  );
  const drawn = (name: string, points: readonly Point[]): string =>
    points.length > 1 ? `<path class="${name}" d="${path([...points])}"/>` : "";
  const yTicks = y.ticks(7).map((loss) => {
    const at = round(y(loss));
    return `<path class="grid" d="M${MARGIN.left},${at}H${WIDTH - MARGIN.right}"/><text x="${MARGIN.left - 10}" y="${at}" dy=".35em" text-anchor="end">${y.tickFormat(7)(loss)}</text>`;
  });
  const xTicks = x
    .ticks(8)
    .filter(Number.isInteger)
    .map(
      (step) => `<text x="${round(x(step))}" y="${HEIGHT - MARGIN.bottom + 20}" text-anchor="middle">${step}</text>`,
    );
  const right = WIDTH - MARGIN.right;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" role="img">
<title>${xml(title)}</title>
<style>${STYLE}
</style>
<text class="title" x="${MARGIN.left}" y="26">${xml(title)}</text>
<text x="${MARGIN.left}" y="46"><tspan fill="#2f6fdb">training</tspan> and <tspan fill="#e07b1a">validation</tspan> loss, in nats a character</text>
${yTicks.join("\n")}
${xTicks.join("\n")}
<text x="${right}" y="${HEIGHT - 8}" text-anchor="end">step</text>
${drawn("raw", thin(train, 400))}
${drawn("train", thin(smooth(train, Math.ceil(train.length / 40)), 200))}
${drawn("validation", validation)}
${validation.map(([step, loss]) => `<circle cx="${round(x(step))}" cy="${round(y(loss))}" r="4"/>`).join("")}
</svg>
`;
}

const round = (value: number): number => Math.round(value * 10) / 10;
const xml = (text: string): string => text.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
