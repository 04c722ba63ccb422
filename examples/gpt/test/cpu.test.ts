import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";

const folder = mkdtempSync(join(tmpdir(), "kindling-gpt-cpu-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs the command without a driver, and without the package that would look for one. */
function run(...args: string[]): { status: number | null; stdout: string; stderr: string } {
  const hooks = `import { registerHooks } from "node:module";
    registerHooks({
      resolve(name, context, next) {
        if (name === "webgpu") throw new Error("not installed");
        return next(name, context);
      },
    });`;
  const { VK_DRIVER_FILES: _, KINDLING_GPU: __, KINDLING_GPU_READY: ___, ...env } = process.env;
  return spawnSync(
    process.execPath,
    [
      "--conditions=source",
      `--import=data:text/javascript,${encodeURIComponent(hooks)}`,
      join(import.meta.dirname, "../main.ts"),
      ...["--device", "cpu", "--out", folder, ...args],
    ],
    { encoding: "utf8", env },
  );
}

it("trains, saves, goes on and writes on the CPU", () => {
  const small = ["--layers", "1", "--heads", "2", "--width", "32", "--context", "16", "--dropout", "0.1"];
  const trained = run(...small, "--steps", "40", "--samples", "0", "--lr", "0.01");
  expect(trained.stderr).toBe("");
  expect(trained.stdout).toMatch(/device +CPU, f32\n/);
  const [, before, after] = /loss (\d\.\d+) → (\d\.\d+) in/.exec(trained.stdout)!;
  expect(Number(after)).toBeLessThan(Number(before) - 1);

  const resumed = run("--resume", "--steps", "44", "--samples", "1", "--length", "20");
  expect(resumed.stdout).toContain("at step 40");
  expect(resumed.stdout).toContain("After training, it writes:");
  expect(run("--precision", "f16", "--steps", "1").stderr).toBe(
    "error: --precision f16: needs a GPU with shader-f16, which CPU does not offer\n",
  );
});
