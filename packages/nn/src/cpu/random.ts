/** Random numbers, the same as the kernels': those of @kindling/core, and of this package's initialisation. */
import type { Form, View } from "./forms.ts";

const { fround, imul, log, sqrt } = Math;

/** The high word of a product of two words. */
function mulHigh(a: number, b: number): number {
  const al = a & 0xffff;
  const ah = a >>> 16;
  const bl = b & 0xffff;
  const bh = b >>> 16;
  const t = ah * bl + ((al * bl) >>> 16);
  return ah * bh + (t >>> 16) + ((al * bh + (t & 0xffff)) >>> 16);
}

/** Calls `use` with the upper 24 bits of the four words of Philox4x32-10 for each counter (i, stream, 0, 0). */
function philox(
  vectors: number,
  rng: View,
  stream: number,
  use: (at: number, a: number, b: number, c: number, d: number) => void,
): void {
  for (let i = 0; i < vectors; i++) {
    let c0 = i;
    let c1 = (rng[2]! + stream) | 0;
    let c2 = 0;
    let c3 = 0;
    let k0 = rng[0]!;
    let k1 = rng[1]!;
    for (let round = 0; round < 10; round++) {
      const a = imul(0xd2511f53, c0);
      const b = imul(0xcd9e8d57, c2);
      const next = mulHigh(0xcd9e8d57, c2) ^ c1 ^ k0;
      c2 = mulHigh(0xd2511f53, c0) ^ c3 ^ k1;
      c0 = next;
      c1 = b;
      c3 = a;
      k0 = (k0 + 0x9e3779b9) | 0;
      k1 = (k1 + 0xbb67ae85) | 0;
    }
    use(4 * i, c0 >>> 8, c1 >>> 8, c2 >>> 8, c3 >>> 8);
  }
}

const uniform: Form = ({ rng, y }, { vectors, stream, a, b }) => {
  const scale = fround(fround(b! - a!) * 2 ** -24);
  const put = (i: number, bits: number): void => {
    y![i] = a! + fround(scale * bits);
  };
  philox(vectors!, rng!, stream!, (at, p, q, r, s) => {
    put(at, p);
    put(at + 1, q);
    put(at + 2, r);
    put(at + 3, s);
  });
};

/** Box-Muller. Logarithm, sine and cosine are those of JavaScript, and differ from a GPU's in the last bits. */
const normal: Form = ({ rng, y }, { vectors, stream, a, b }) => {
  const pair = (at: number, p: number, q: number): void => {
    const radius = b! * sqrt(-2 * log(unit(p)));
    const angle = TAU * unit(q);
    y![at] = a! + radius * Math.cos(angle);
    y![at + 2] = a! + radius * Math.sin(angle);
  };
  philox(vectors!, rng!, stream!, (at, p, q, r, s) => {
    pair(at, p, r);
    pair(at + 1, q, s);
  });
};

const TAU = fround(2 * Math.PI);
/** The half step keeps the logarithm's argument above zero. */
const unit = (bits: number): number => fround(bits * 2 ** -24 + 2 ** -25);

// Initialisation --------------------------------------------------------------------------------

const horner = (x: number, coefficients: readonly number[]): number => coefficients.reduce((sum, c) => sum * x + c);

const CENTRAL = [
  2.81022636e-8, 3.43273939e-7, -3.5233877e-6, -4.39150654e-6, 0.00021858087, -0.00125372503, -0.00417768164,
  0.246640727, 1.50140941,
];
const TAIL = [
  -0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
  1.00167406, 2.83297682,
];

/** The normal distribution's quantile by Giles' polynomials, as this package's init.ts has it. */
function quantile(p: number): number {
  const w = -log(4 * p * (1 - p));
  return Math.SQRT2 * (2 * p - 1) * (w < 5 ? horner(w - 2.5, CENTRAL) : horner(sqrt(w) - 3, TAIL));
}

const truncNormal: Form = ({ rng, y }, { vectors, stream, low, range, mean, scale, a, b }) => {
  const put = (i: number, bits: number): void => {
    const p = fround(low! + fround(range! * unit(bits)));
    y![i] = Math.min(Math.max(mean! + scale! * quantile(p), a!), b!);
  };
  philox(vectors!, rng!, stream!, (at, p, q, r, s) => {
    put(at, p);
    put(at + 1, q);
    put(at + 2, r);
    put(at + 3, s);
  });
};

/** The first word of pcg4d. */
function pcg(a: number, b: number, c: number, d: number): number {
  const step = (x: number): number => (imul(x, 1664525) + 1013904223) | 0;
  let [x, y, z, w] = [step(a), step(b), step(c), step(d)] as [number, number, number, number];
  for (let round = 0; round < 2; round++) {
    x = (x + imul(y, w)) | 0;
    y = (y + imul(z, x)) | 0;
    z = (z + imul(x, y)) | 0;
    w = (w + imul(y, z)) | 0;
    if (round === 0) [x, y, z, w] = [x ^ (x >>> 16), y ^ (y >>> 16), z ^ (z >>> 16), w ^ (w >>> 16)];
  }
  return x >>> 0;
}

/** Zeros where the random keys of a column are smallest. */
const sparse: Form = ({ rng, y }, { rows, cols, zeros, stream }) => {
  for (let col = 0; col < cols!; col++) {
    const keys = Array.from({ length: rows! }, (_, row) =>
      pcg(row * cols! + col, rng![2]! + stream!, rng![0]!, rng![1]!),
    );
    const order = [...keys.keys()].sort((p, q) => keys[p]! - keys[q]! || p - q);
    for (const row of order.slice(0, zeros)) y![row * cols! + col] = 0;
  }
};

export const randomForms: Readonly<Record<string, Form>> = {
  "core.uniform": uniform,
  "core.normal": normal,
  "core.advanceStreams": ({ rng }, { count }) => {
    rng![2]! += count!;
  },
  "nn.truncNormal": truncNormal,
  "nn.sparse": sparse,
};
