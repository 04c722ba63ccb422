/** What the program shows: headings, rows of facts, the progress of the training, text as it is written. */
import { styleText } from "node:util";
import cliProgress from "cli-progress";
import type { Report } from "./train.ts";

export const heading = (text: string): void => console.log(`\n${styleText("bold", text)}`);
export const row = (name: string, text: string): void => console.log(`  ${styleText("dim", name.padEnd(11))} ${text}`);

export interface Progress {
  update(report: Report): void;
  stop(): void;
}

/** A bar on a terminal, a line for every twentieth elsewhere. */
export function progress(total: number, start: number, stream: NodeJS.WriteStream = process.stdout): Progress {
  return stream.isTTY ? bar(total, start, stream) : lines(total, start, stream);
}

function bar(total: number, start: number, stream: NodeJS.WriteStream): Progress {
  const single = new cliProgress.SingleBar({
    stream,
    format: " {bar} {percentage} %  {text}",
    barsize: Math.max(10, Math.min(30, (stream.columns ?? 80) - 68)),
    barCompleteChar: "█",
    barIncompleteChar: "░",
    hideCursor: true,
  });
  single.start(total, start, { text: "compiling the kernels …" });
  return {
    update: (report) => single.update(report.step, { text: describe(report, total) }),
    stop: () => single.stop(),
  };
}

function lines(total: number, start: number, stream: NodeJS.WriteStream): Progress {
  let next = start;
  return {
    update(report) {
      if (report.step < next && report.step < total) return;
      next = report.step + total / 20;
      stream.write(` ${`${Math.floor((100 * report.step) / total)} %`.padStart(5)}  ${describe(report, total)}\n`);
    },
    stop() {},
  };
}

/** 200/1000  loss 2.947  val 2.861  4,668 tokens/s  1:30 left */
function describe({ step, loss, validation, tokensPerSecond, secondsLeft }: Report, total: number): string {
  const parts = [`${step}/${total}`, `loss ${loss.toFixed(3)}`];
  if (validation !== null) parts.push(`val ${validation.toFixed(3)}`);
  if (tokensPerSecond > 0) parts.push(`${count(tokensPerSecond)} tokens/s`);
  if (tokensPerSecond > 0 && step < total) parts.push(`${clock(secondsLeft)} left`);
  return parts.join("  ");
}

/** 1:05, or 1:01:05 */
function clock(seconds: number): string {
  const parts = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map((part) =>
    String(Math.floor(part)).padStart(2, "0"),
  );
  return parts.join(":").replace(/^(00:)?0?/, "");
}

/** 12,345 */
export const count = (value: number): string => Math.round(value).toLocaleString("en-US");

/** 1 min 05 s */
export function duration(seconds: number): string {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${String(whole % 60).padStart(2, "0")} s`;
  return `${Math.floor(whole / 3600)} h ${String(Math.floor((whole % 3600) / 60)).padStart(2, "0")} min`;
}

/** A text that grows, behind a line at the left that tells it from what the program says. */
export class Passage {
  readonly #stream: NodeJS.WriteStream;

  constructor(stream: NodeJS.WriteStream = process.stdout) {
    this.#stream = stream;
    stream.write(MARGIN);
  }

  write(text: string): void {
    // A model may have learned control characters, which a terminal would obey.
    this.#stream.write(text.replace(/[^\P{Cc}\n\t]/gu, "·").replaceAll("\n", `\n${MARGIN}`));
  }

  end(): void {
    this.#stream.write("\n\n");
  }
}

const MARGIN = "  │ ";
