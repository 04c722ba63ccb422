/** Numbers as people read them. */
import type { Row } from "./measure.ts";

const digits = (value: number): string => value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0);

export const formatTime = (ms: number): string =>
  ms < 0.0995 ? `${digits(ms * 1000)} µs` : ms < 10 ? `${ms.toFixed(3)} ms` : `${digits(ms)} ms`;

/** What a time means in operations or bytes a second. */
export function formatRate({ flops, bytes }: Pick<Row, "flops" | "bytes">, ms: number): string {
  if (flops) return flops / ms < 1e9 ? `${digits(flops / ms / 1e6)} GFLOP/s` : `${digits(flops / ms / 1e9)} TFLOP/s`;
  if (bytes) return `${digits(bytes / ms / 1e6)} GB/s`;
  return "";
}

/** A row of numbers for the terminal. */
export function formatRow(row: Row): string {
  const name = row.name.padEnd(60);
  if (row.ms === undefined) return `${name} ${row.error}`;
  const spread = row.min === row.max ? "" : `${formatTime(row.min!)} - ${formatTime(row.max!)}`;
  const parts = row.dispatches
    ? `${Number(row.dispatches.toFixed(1))} dispatches, JavaScript ${formatTime(row.js!)}`
    : "";
  const gpu = row.gpu === undefined ? "" : `, GPU ${formatTime(row.gpu)}`;
  return [
    name,
    formatTime(row.ms).padStart(9),
    formatRate(row, row.ms).padStart(14),
    spread.padEnd(22),
    parts + gpu,
    row.note,
  ]
    .join("  ")
    .trimEnd();
}
