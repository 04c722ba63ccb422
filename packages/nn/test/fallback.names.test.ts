import * as activations from "@kindling/activations";
import type { Pointwise } from "@kindling/core";
import { GLU } from "@kindling/glu";
import * as math from "@kindling/math";
import { expect, it } from "vitest";
import { fingerprint, fingerprints, formulas, nameOf } from "../src/fallback/forms/activations.ts";

const given = { ...math, softcap: math.softcap({ cap: 30 }) } as Record<string, unknown>;
/** A value, or a function of its numbers. */
const activationOf = (f: unknown): Pointwise =>
  Object.hasOwn(f as object, "of") ? (f as () => Pointwise)() : (f as Pointwise);

it("recognises the activations of @kindling/activations and @kindling/math by their text", () => {
  const own = activations as unknown as Record<string, Pointwise>;
  const expected = Object.fromEntries(
    Object.keys(formulas).map((name) => [name, [fingerprint(own[name]!), fingerprint(activationOf(given[name]))]]),
  );
  expected.sigmoid!.splice(1, 0, fingerprint(new GLU().activation));
  expect(fingerprints).toEqual(Object.fromEntries(Object.entries(expected).sort()));
});

it("reads their numbers", () => {
  const { leakyRelu, hardtanh, gelu } = activations;
  expect(nameOf(leakyRelu)).toEqual({ name: "leakyRelu", numbers: [0.01] });
  expect(nameOf(leakyRelu.with({ negativeSlope: 1e-7 }))).toEqual({ name: "leakyRelu", numbers: [1e-7] });
  expect(nameOf(hardtanh.with({ minVal: -0.25 }))).toEqual({ name: "hardtanh", numbers: [-0.25, 1] });
  expect(nameOf(math.softplus({ beta: 2 }))).toEqual({ name: "softplus", numbers: [2, 20] });
  expect(nameOf(gelu)).toEqual({ name: "gelu", numbers: [] });
});

it("does not take a user's function for one of ours", () => {
  const { gelu } = activations;
  expect(
    nameOf({ ...gelu, name: "gelu", forward: gelu.forward.replace("x * ", "2.0 * x * "), backward: gelu.backward }),
  ).toBe(null);
  expect(
    nameOf({
      name: "relu",
      forward: "fn relu(x: f32) -> f32 { return x; }",
      backward: "fn reluGrad(x: f32, dy: f32) -> f32 { return dy; }",
    }),
  ).toBe(null);
});
