// npm test, npm run demo: everything from a bare machine with Node and npm to the running command.
//
//   1. installs the dependencies, unless the lockfile and the package.json files are those of the last time
//   2. finds a GPU or fetches a software one (see gpu.mjs; KINDLING_GPU forces one), but for a demo on the CPU
//   3. for the tests, finds or fetches a Chromium (see chromium.mjs)
//   4. runs the command under the workspace's Node 24
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { chromiumEnvironment } from "./chromium.mjs";
import { exec } from "./exec.mjs";
import { log, node, root, SetupError } from "./files.mjs";
import { gpuEnvironment } from "./gpu.mjs";

const tasks = { test, demo };

async function test(args) {
  const env = { ...gpuEnvironment(), ...chromiumEnvironment() };
  const failed = [];
  for (const [name, command, ...rest] of [
    ["lint", "biome", "check"],
    ["check", "node", "tools/check/main.ts"],
    ["generated files", "node", "--conditions=source", "tools/generate/main.ts", "--check"],
    ["typecheck", "tsc", "--project", "tsconfig.json"],
    ["tests", "vitest", "run", ...args],
  ]) {
    log(name);
    if ((await exec(command, rest, { env })) !== 0) failed.push(name);
  }
  if (failed.length > 0) log(`failed: ${failed.join(", ")}`);
  return failed.length > 0 ? 1 : 0;
}

function demo(args) {
  const cpu = args.some((arg, i) => arg === "--device=cpu" || (arg === "cpu" && args[i - 1] === "--device"));
  const env = cpu ? {} : gpuEnvironment();
  return exec("node", ["--conditions=source", "examples/gpt/main.ts", ...args], { env });
}

async function install() {
  const manifests = ["packages", "tools", "examples", "apps"].flatMap((folder) =>
    existsSync(join(root, folder))
      ? readdirSync(join(root, folder)).map((name) => `${folder}/${name}/package.json`)
      : [],
  );
  const hash = createHash("sha256").update(`${process.platform} ${process.arch}`);
  for (const file of ["package.json", "pnpm-lock.yaml", "pnpm-workspace.yaml", ...manifests.sort()]) {
    if (existsSync(join(root, file))) hash.update(file).update(readFileSync(join(root, file)));
  }
  const stamp = join(root, "node_modules/.kindling");
  const key = hash.digest("hex");
  if (existsSync(node) && existsSync(stamp) && readFileSync(stamp, "utf8") === key) return;

  const pnpm = JSON.parse(readFileSync(join(root, "package.json"), "utf8")).packageManager;
  log(`installing dependencies with ${pnpm}`);
  const options = ["--frozen-lockfile", "--config.confirmModulesPurge=false"];
  const code = await exec("npx", ["-y", pnpm, "install", ...options]);
  if (code !== 0) {
    throw new SetupError(
      "the dependencies could not be installed: see above. Without a network connection it cannot work; behind a\n" +
        "proxy, npm needs to know it (npm config set proxy URL); after a change of a package.json, run `pnpm install`",
    );
  }
  if (!existsSync(node)) throw new SetupError(`the package node did not install its binary: ${node} is missing`);
  writeFileSync(stamp, key);
}

const [name, ...args] = process.argv.slice(2);
try {
  const task = tasks[name];
  if (!task) throw new SetupError(`usage: node tools/setup/run.mjs ${Object.keys(tasks).join("|")} [ARGUMENT …]`);
  await install();
  process.exitCode = await task(args);
} catch (error) {
  if (!(error instanceof SetupError)) throw error;
  log(error.message);
  process.exitCode = 1;
}
