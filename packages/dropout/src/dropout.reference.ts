/**
 * Dropout as plain loops: the specification and the test oracle. Element e of stream s is kept where word e % 4 of
 * pcg4d(⌊e / 4⌋, s, seed low, seed high) is at least p · 2³².
 */
export function dropoutReference(
  x: ArrayLike<number>,
  p: number,
  { stream, seed }: { stream: number; seed: readonly [low: number, high: number] },
): Float64Array {
  const threshold = Math.min(Math.round(p * 2 ** 32), 2 ** 32 - 1);
  return Float64Array.from(x as ArrayLike<number>, (v, e) => {
    const bits = pcg4d([Math.floor(e / 4), stream, ...seed])[e % 4]!;
    return p < 1 && bits >= threshold ? v / (1 - p) : 0;
  });
}

/** Jarzynski & Olano, "Hash Functions for GPU Rendering", JCGT 9(3), 2020. */
export function pcg4d(counter: readonly [number, number, number, number]): readonly [number, number, number, number] {
  let [x, y, z, w] = counter.map((v) => (Math.imul(v, 1664525) + 1013904223) >>> 0) as [number, number, number, number];
  const stir = (): void => {
    x = (x + Math.imul(y, w)) >>> 0;
    y = (y + Math.imul(z, x)) >>> 0;
    z = (z + Math.imul(x, y)) >>> 0;
    w = (w + Math.imul(y, z)) >>> 0;
  };
  stir();
  [x, y, z, w] = [x, y, z, w].map((v) => (v ^ (v >>> 16)) >>> 0) as [number, number, number, number];
  stir();
  return [x, y, z, w];
}
