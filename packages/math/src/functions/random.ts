/** Random numbers from random bits; math.ts has the bits, pcg4d and philox. */
import { define, type MathFunction } from "./define.ts";

/** In [0, 1) from random bits: 24 of them. */
export const unitUniform: MathFunction = /* @__PURE__ */ define(
  "unitUniform",
  /* wgsl */ `
fn unitUniform(bits: u32) -> f32 {
  return f32(bits >> 8u) * 5.9604644775390625e-8;
}`,
);

/** Two standard normal numbers from random bits (Box and Muller). */
export const unitNormal: MathFunction = /* @__PURE__ */ define(
  "unitNormal",
  /* wgsl */ `
fn unitNormal(bits: vec2u) -> vec2f {
  // the half step keeps the logarithm's argument above 0
  let radius = sqrt(-2.0 * log(unitUniform(bits.x) + 2.98023223876953125e-8));
  let angle = 6.283185307179586 * unitUniform(bits.y);
  return vec2f(radius * cos(angle), radius * sin(angle));
}`,
  unitUniform,
);

/** x / (1 - p), or 0 with probability p, by random bits; of p = 1 it is 0. */
export const dropout: MathFunction = /* @__PURE__ */ define(
  "dropout",
  /* wgsl */ `
fn dropout(x: f32, p: f32, bits: u32) -> f32 {
  return select(0.0, x / max(1.0 - p, 1e-30), unitUniform(bits) >= p);
}`,
  unitUniform,
);
