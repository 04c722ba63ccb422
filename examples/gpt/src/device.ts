/** `--device`: what computes. Drivers are found when a process starts, so another GPU is another process. */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { type Device, init } from "@kindling/core";
import { UserError } from "./errors.ts";

const launcher = join(import.meta.dirname, "../../../tools/setup/bin.mjs");

/** Whether this process was prepared for `device`; "auto" takes whatever it was prepared for, "cpu" needs nothing. */
export const isPrepared = (device: string): boolean =>
  device === "auto" || device === "cpu" || process.env.KINDLING_GPU_READY === device;

/** Opens the GPU that the process was prepared for, or the CPU, which @kindling/nn brings along. */
export async function openDevice(device: string): Promise<Device> {
  if (device !== "cpu") {
    if (process.env.KINDLING_GPU === "null")
      throw new UserError("KINDLING_GPU=null: a GPU that computes nothing learns nothing");
    return init();
  }
  await import("@kindling/nn");
  return init({ backend: "cpu" });
}

/** Runs this very command again, prepared for `device` by tools/setup. Resolves to its exit code. */
export function runPrepared(device: string): Promise<number> {
  const { KINDLING_GPU_READY: _, VK_DRIVER_FILES: __, ...env } = process.env; // what the set-up chose before
  const args = [launcher, process.execPath, ...process.execArgv, ...process.argv.slice(1)];
  const child = spawn(process.execPath, args, { stdio: "inherit", env: { ...env, KINDLING_GPU: device } });
  process.on("SIGINT", () => {}); // the terminal tells the child too
  process.on("SIGTERM", () => child.kill("SIGTERM"));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve(code ?? 1));
  });
}
