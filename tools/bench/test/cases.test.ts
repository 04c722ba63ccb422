import { testDevice } from "@kindling/core/testing";
import { describe, expect, it } from "vitest";
import { layers } from "../layers/index.ts";
import { type Case, sizesOf } from "../measure.ts";
import { cases as memoryCases } from "../memory.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");
const sizes = sizesOf(true);

/** Compiled for a CPU in seconds, and in f16 no other kernels than in f32: `pnpm bench -- --small` runs these as well. */
const costly = /autocast|attention .*f16/;

/** Each case once, in a small size, with its check and without the times. */
const checks = (cases: readonly Case[]): void => {
  for (const { name, f16, check } of cases) {
    if ((f16 && !hasF16) || (device.software && costly.test(name))) continue;
    it(name, () => check!(device));
  }
};

describe("memory", () => checks(memoryCases(sizes)));
for (const [layer, load] of Object.entries(layers)) describe(layer, async () => checks((await load()).cases(sizes)));

describe("the cases", () => {
  it("have names that no other has, and report.ts puts in tables", async () => {
    const all = await Promise.all(Object.values(layers).map(async (load) => (await load()).cases(sizesOf(false))));
    const names = all.flat().map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const name of names) expect(name).toMatch(/^[^|\n]* fwd(\+bwd)?$|^adamw /);
  });
});
