import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, expect, it } from "vitest";

const folder = join(import.meta.dirname, "..");

/** Starts a script of tools/setup as a shell would, without what this test's own environment has prepared. */
function run(
  script: string,
  args: string[],
  env: Record<string, string> = {},
): { code: number | null; out: string; err: string } {
  const clean = { ...process.env };
  for (const name of ["KINDLING_GPU", "KINDLING_GPU_READY", "KINDLING_DAWN"]) delete clean[name];
  const options = { encoding: "utf8", env: { ...clean, ...env } } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, [join(folder, script), ...args], options);
  return { code: status, out: stdout, err: stderr };
}

const print = (...names: string[]): string[] => [
  "node",
  "-p",
  names.map((name) => `process.env.${name}`).join("+'|'+"),
];

describe("kindling-gpu", () => {
  it("gives the null backend its flag, and keeps flags that are set", () => {
    const null_ = { KINDLING_GPU: "null" };
    const command = print("KINDLING_GPU", "KINDLING_DAWN");
    expect(run("bin.mjs", command, null_).out).toBe("null|backend=null\n");
    expect(run("bin.mjs", command, { ...null_, KINDLING_DAWN: "verbose=1" }).out).toBe("null|verbose=1\n");
  });

  it("runs the workspace's Node and passes arguments and the exit code through", () => {
    const { code, out } = run(
      "bin.mjs",
      ["node", "-e", "console.log(process.version, process.argv[1]); process.exit(3)", "a b"],
      {
        KINDLING_GPU: "null",
      },
    );
    expect(out).toMatch(/^v24\..* a b\n$/);
    expect(code).toBe(3);
  });

  it("takes over an environment that is prepared already, and finds a GPU only once", () => {
    const ready = { KINDLING_GPU: "lavapipe", KINDLING_GPU_READY: "lavapipe", KINDLING_DAWN: "x" };
    const { out, err } = run("bin.mjs", print("KINDLING_GPU", "KINDLING_DAWN"), ready);
    expect(out).toBe("lavapipe|x\n");
    expect(err).toBe("");
  });

  it("names what is wrong with a call", () => {
    const { code, err } = run("bin.mjs", ["node"], { KINDLING_GPU: "vulkan" });
    expect(code).toBe(1);
    expect(err).toBe('kindling: KINDLING_GPU is "vulkan", expected auto, real, lavapipe, swiftshader, null\n');
    expect(run("bin.mjs", []).err).toContain("usage: kindling-gpu COMMAND");
    expect(run("run.mjs", ["tests"]).err).toContain("usage: node tools/setup/run.mjs test|demo");
  });
});
