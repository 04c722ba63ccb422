/**
 * Random numbers on the host. A generator is started from (seed, stream): batch n of a run is drawn from (seed, n), so a
 * resumed run draws what an uninterrupted one would, and a checkpoint need not store the state of a generator.
 */
export type Random = () => number;

/** Numbers in [0, 1): splitmix32, a Weyl sequence through a mixer of two multiplications. */
export function random(seed: number, stream: number): Random {
  let state = (Math.imul(mix(seed >>> 0), 0x9e3779b1) ^ mix(Math.floor(seed / 2 ** 32)) ^ mix(stream + 0x6a09e667)) | 0;
  return () => mix((state = (state + 0x9e3779b9) | 0)) / 2 ** 32;
}

function mix(value: number): number {
  let x = value | 0;
  x = Math.imul(x ^ (x >>> 16), 0x21f0aaad);
  x = Math.imul(x ^ (x >>> 15), 0x735a2d97);
  return (x ^ (x >>> 15)) >>> 0;
}
