#!/usr/bin/env node
// kindling-gpu COMMAND …: runs a command of the workspace with a GPU in its environment (see gpu.mjs).
import { exec } from "./exec.mjs";
import { log, SetupError } from "./files.mjs";
import { gpuEnvironment } from "./gpu.mjs";

const [command, ...args] = process.argv.slice(2);
try {
  if (!command) throw new SetupError("usage: kindling-gpu COMMAND [ARGUMENT …]");
  process.exitCode = await exec(command, args, { env: gpuEnvironment(), cwd: process.cwd() });
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  log(error.message);
  process.exitCode = 1;
}
