import { spawn } from "node:child_process";
import { delimiter, join } from "node:path";
import { root } from "./files.mjs";

/** Runs a command with the workspace's own programs, Node 24 among them, first on the path; resolves to its exit code. */
export function exec(command, args, { env = {}, cwd = root } = {}) {
  const path = [join(root, "node_modules/.bin"), process.env.PATH].join(delimiter);
  const shell = process.platform === "win32"; // npm's commands are scripts there
  const child = spawn(command, args, { cwd, shell, stdio: "inherit", env: { ...process.env, ...env, PATH: path } });
  // The terminal sends Ctrl-C to the child too; it decides when to end, and this process reports how it ended.
  const pass = (signal) => child.kill(signal);
  process.on("SIGINT", () => {});
  process.on("SIGTERM", pass);
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      process.off("SIGTERM", pass);
      if (signal) console.error(`kindling: ${command} was ended by ${signal}`);
      resolve(code ?? 1);
    });
  });
}
