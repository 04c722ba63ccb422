/** The numbers of one run on one machine, and what they are compared with. */
import attorch from "./attorch.json" with { type: "json" };
import type { Row } from "./measure.ts";
import type { Measurements } from "./session.ts";

/** What torch_bench writes. */
export interface TorchMeasurements {
  date: string;
  command: string;
  device: string;
  driver: string;
  versions: Record<string, string>;
  rows: Row[];
}

/** A file in benchmarks/. */
export interface Results {
  kindling: Measurements[];
  torch?: TorchMeasurements | undefined;
  /** Of peers.ts: the rows of a case, one for each library. */
  peers?: Measurements | undefined;
  /** Of fallback.ts: likewise, of the libraries "kindling" and "fallback". */
  fallback?: Measurements | undefined;
}

/** A row beside PyTorch's. */
export interface Compared {
  row: Row;
  rival: Row | undefined;
  /** PyTorch's time over Kindling's: above 1, Kindling is faster. */
  ratio: number | undefined;
  /** Of the bandwidth of a copy: of Kindling's or PyTorch's, whichever was faster. */
  share: number | undefined;
  /** PyTorch's time over attorch's, from another run: see `attorchSource`. */
  attorch: { ratio: number; note?: string } | undefined;
}

/** Where attorch's times come from. */
export const attorchSource: string = attorch.source;

export function compare(rows: readonly Row[], torch: TorchMeasurements | undefined): Compared[] {
  const rivals = new Map(torch?.rows.map((row) => [row.name, row]));
  const copy = Math.max(
    ...rows
      .filter(({ name }) => name.startsWith("copy "))
      .flatMap(({ name, ms, bytes }) => [ms, rivals.get(name)?.ms].map((time) => (time ? bytes! / time : 0))),
  );
  return rows.map((row) => {
    const { ms, bytes, flops, name } = row;
    const rival = rivals.get(row.torch ?? name);
    const theirs = (attorch.rows as Record<string, { torch: number; attorch: number; note?: string }>)[name];
    return {
      ...{ row, rival },
      ratio: ms && rival?.ms ? rival.ms / ms : undefined,
      share: ms && bytes && !flops && copy > 0 ? bytes / ms / copy : undefined,
      attorch: theirs && { ratio: theirs.torch / theirs.attorch, ...(theirs.note && { note: theirs.note }) },
    };
  });
}
