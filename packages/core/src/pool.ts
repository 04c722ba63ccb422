/**
 * GPU buffers, pooled by size class.
 *
 * Creating a buffer costs 5-90 µs and its first use a clear, so freed buffers are kept and handed out again. A class
 * always gives its lowest-numbered free buffer: a training step of fixed shape then meets the same buffers in the same
 * places each time, and with them the same cached bind groups (a new bind group costs six times a dispatch).
 */

/** One GPU buffer and the ranges of it that were ever bound. */
export interface Block {
  readonly id: number;
  readonly buffer: GPUBuffer;
  readonly bytes: number;
  readonly pool: Pool;
  /** Captured plans that hold this block: it stays out of the pool until they are gone. */
  pins: number;
  /** Freed while pinned. */
  orphan: boolean;
  /** Flat triples: offset, size, id of the range. Bind groups are looked up by these ids. */
  readonly ranges: number[];
}

/** Bytes of the size class that holds `bytes`: powers of two up to 64 KiB, above that steps of 1/8. */
export function sizeClass(bytes: number): number {
  if (bytes <= 256) return 256;
  const power = 2 ** Math.ceil(Math.log2(bytes));
  if (power <= 65536) return power;
  const step = power / 16; // the power of two below `bytes`, divided by 8
  return Math.ceil(bytes / step) * step;
}

export class Pool {
  readonly #create: (bytes: number) => GPUBuffer;
  readonly #maxBytes: number;
  /** Free blocks of each class, highest id first, so that `pop` gives the lowest. */
  readonly #free = new Map<number, Block[]>();
  readonly #ids: { next: number };
  freeBytes = 0;
  blocks = 0;

  constructor(create: (bytes: number) => GPUBuffer, maxBytes: number, ids: { next: number } = { next: 1 }) {
    this.#create = create;
    this.#maxBytes = maxBytes;
    this.#ids = ids;
  }

  /** A pool of its own, for a captured plan, that numbers its blocks in the same sequence. */
  fork(): Pool {
    return new Pool(this.#create, this.#maxBytes, this.#ids);
  }

  take(bytes: number): Block {
    const size = Math.min(sizeClass(bytes), this.#maxBytes);
    const free = this.#free.get(size);
    if (free?.length) {
      this.freeBytes -= size;
      return free.pop()!;
    }
    this.blocks++;
    const buffer = this.#create(size);
    return { id: this.#ids.next++, buffer, bytes: size, pool: this, pins: 0, orphan: false, ranges: [] };
  }

  give(block: Block): void {
    if (block.pins > 0) {
      block.orphan = true;
      return;
    }
    let free = this.#free.get(block.bytes);
    if (!free) this.#free.set(block.bytes, (free = []));
    let low = 0;
    let high = free.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (free[middle]!.id > block.id) low = middle + 1;
      else high = middle;
    }
    free.splice(low, 0, block);
    this.freeBytes += block.bytes;
  }

  pin(block: Block): void {
    block.pins++;
  }

  unpin(block: Block): void {
    if (--block.pins === 0 && block.orphan) {
      block.orphan = false;
      this.give(block);
    }
  }

  /** Destroys every free buffer. The caller has submitted all work that uses them. */
  trim(): void {
    for (const free of this.#free.values()) {
      for (const block of free) block.buffer.destroy();
      this.blocks -= free.length;
    }
    this.#free.clear();
    this.freeBytes = 0;
  }
}
