// What the set-up scripts share: the checkout's folders, messages, running a program, Chromium's npm package.
import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { brotliDecompressSync } from "node:zlib";

export const root = join(dirname(fileURLToPath(import.meta.url)), "../..");
/** The Node 24 that the workspace installs. */
export const node = join(root, "node_modules/node/bin", process.platform === "win32" ? "node.exe" : "node");

export const log = (text) => console.error(`kindling: ${text}`);

/** A failure that the message explains: no stack trace. */
export class SetupError extends Error {}

/** Chromium for Linux on x64, headless, with SwiftShader and the libraries it needs: no root and no package manager. */
export const chromiumPackage = "@sparticuz/chromium@153.0.0";

export const libraryPath = (folders) => [...folders, process.env.LD_LIBRARY_PATH].filter(Boolean).join(":");

/** Unpacks files of that package's `bin` (named without .br; archives are unpacked too) into `folder`, in one step. */
export function fetchChromium(folder, names, finish) {
  const work = `${folder}.${process.pid}`;
  const unpacked = join(work, "root");
  mkdirSync(unpacked, { recursive: true });
  try {
    // Without a network npm would try for minutes.
    const patience = ["--prefer-offline", "--fetch-retries=1", "--fetch-retry-mintimeout=1000"];
    capture("npm", ["pack", chromiumPackage, "--pack-destination", work, ...patience], work);
    const archive = readdirSync(work).find((name) => name.endsWith(".tgz"));
    capture("tar", ["-xzf", archive, ...names.map((name) => `package/bin/${name}.br`)], work);
    for (const name of names) {
      const file = join(name.endsWith(".tar") ? work : unpacked, name);
      writeFileSync(file, brotliDecompressSync(readFileSync(join(work, `package/bin/${name}.br`))));
      if (name.endsWith(".tar")) capture("tar", ["-xf", file, "-C", unpacked], work);
      else chmodSync(file, 0o755);
    }
    finish?.(unpacked);
    replace(unpacked, folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

/** Moves a finished folder into place in one step, so that an interrupted set-up leaves nothing half done. */
export function replace(from, to) {
  rmSync(to, { recursive: true, force: true });
  renameSync(from, to);
}

export function capture(command, args, cwd) {
  const child = spawnSync(command, args, { cwd, encoding: "utf8", maxBuffer: 1 << 26 });
  if (child.error) throw new Error(`${command}: ${child.error.message}`);
  if (child.status !== 0) {
    const lines = child.stderr.trim().split("\n");
    const reason = (
      lines.find((line) => /^(E:|npm error (?!code|errno|syscall|A complete))/.test(line)) ??
      lines.at(-1) ??
      ""
    ).trim();
    throw new Error(`${command} ended with code ${child.status}: ${reason}`);
  }
  return child.stdout;
}
