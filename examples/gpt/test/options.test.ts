import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { checkShape, parseOptions } from "../src/options.ts";

const parse = (...args: string[]): ReturnType<typeof parseOptions> => parseOptions(args, { silent: true });

describe("parseOptions", () => {
  it("has defaults, and knows what was given", () => {
    const { steps, lr, data, resume, given } = parse();
    expect([steps > 0, lr > 0, data, resume, given.size]).toEqual([true, true, undefined, undefined, 0]);
    expect([...parse("--steps", "5", "--data", "x").given]).toEqual(["steps", "data"]);
  });

  it("takes --resume with and without a file", () => {
    expect(parse("--resume").resume).toBe(true);
    expect(parse("--resume", "--steps", "5").resume).toBe(true);
    expect(parse("--resume", "a.safetensors").resume).toBe("a.safetensors");
  });

  it("launches every kernel anew on the CPU", () => {
    expect([parse().eager, parse("--device", "cpu").eager]).toEqual([undefined, true]);
  });

  it.each([
    ["--layers", "0", "a whole number of at least 1"],
    ["--layers", "2.5", "a whole number of at least 1"],
    ["--heads", "many", "a whole number of at least 1"],
    ["--context", "1", "a whole number of at least 2"],
    ["--steps", "-3", "a whole number of at least 1"],
    ["--batch", "", "a whole number of at least 1"],
    ["--lr", "0", "a number above 0"],
    ["--lr", "NaN", "a number above 0"],
    ["--dropout", "1", "a number from 0 to below 1"],
    ["--seed", "1000000", "a whole number from 0 to 999999"],
    ["--temperature", "-1", "a number of at least 0"],
    ["--precision", "f64", "Allowed choices are f32, f16"],
    ["--device", "gpu", "Allowed choices are auto, real, lavapipe, swiftshader, cpu"],
  ])("refuses %s %j", (name, value, expected) => {
    expect(() => parse(name, value)).toThrow(expected);
    expect(() => parse(name, value)).toThrow(name);
  });

  it("refuses what it does not know", () => {
    expect(() => parse("--lairs", "3")).toThrow("unknown option '--lairs'");
    expect(() => parse("3")).toThrow("too many arguments");
    expect(() => parse("--prompt", "")).toThrow("--prompt: the text is empty");
  });
});

describe("checkShape", () => {
  it("wants heads of equal size that the kernels can take", () => {
    checkShape({ width: 128, heads: 4 });
    expect(() => checkShape({ width: 100, heads: 3 })).toThrow(
      "--width 100 --heads 3: the width must be a multiple of the heads",
    );
    expect(() => checkShape({ width: 1024, heads: 2 })).toThrow("a head of 512; expected at most 256");
  });
});

describe("the command", () => {
  const run = (...args: string[]): { status: number | null; stdout: string; stderr: string } =>
    spawnSync(process.execPath, ["--conditions=source", join(import.meta.dirname, "../main.ts"), ...args], {
      encoding: "utf8",
    });

  it("ends with code 1 and one line on stderr", () => {
    for (const args of [
      ["--layers", "x"],
      ["--data", "/no/such/file"],
      ["--sample-only", "--out", "/no/such/folder"],
    ]) {
      const { status, stdout, stderr } = run(...args);
      expect([status, stdout]).toEqual([1, ""]);
      expect(stderr).toMatch(new RegExp(`^error: .*${args[0] === "--sample-only" ? "--resume" : args[0]}.*\n$`));
    }
  });

  it("prints its help", () => {
    const { status, stdout } = run("--help");
    expect(status).toBe(0);
    for (const name of ["--layers", "--heads", "--width", "--context", "--data", "--resume", "--prompt", "--eager"])
      expect(stdout).toContain(name);
  });
});
