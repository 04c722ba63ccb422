// Empty projects to install and copy into, and what runs in them.
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { mixedError } from "@kindling/core/testing";
import { expect } from "vitest";
import { type Package, packages, root } from "../../workspace/packages.ts";
import { build, pack, packDependencies, type Tarball } from "../pack.ts";
import { run } from "../run.ts";

export const all: readonly Package[] = packages();
/** The Node of the workspace, and an older one. */
export const nodes: Record<string, string> = {
  "Node 24": process.execPath,
  "Node 22": join(root, "tools/distribution/node_modules/node22/bin/node"),
};

const held = globalThis as { kindlingTarballs?: Promise<{ own: Tarball[]; others: Tarball[] }> };
/** Every package, built and packed, and what they depend on; once for all tests of a process. */
export function tarballs(): Promise<{ own: Tarball[]; others: Tarball[] }> {
  return (held.kindlingTarballs ??= build(all).then(async () => ({
    own: await pack(all, join(root, ".cache/tarballs")),
    others: await packDependencies(all, join(root, ".cache/tarballs/others")),
  })));
}

export interface Example {
  example: () => Promise<Record<string, Iterable<number>>>;
  expected: Record<string, number[]>;
  /** The file. */
  text: string;
  /** Lines of the kernel, what to put there, and the result that is then twice as large. */
  edit?: { file: string; lines: readonly (readonly [string, string])[]; doubles: string };
}

/** A use of a package, forward and backward, and its results; they are PyTorch's. */
export async function exampleOf(folder: string): Promise<Example> {
  const file = join(import.meta.dirname, `../examples/${folder}.ts`);
  if (!existsSync(file)) throw new Error(`tools/distribution/examples/${folder}.ts is missing: a use of the package`);
  return { ...((await import(`../examples/${folder}.ts`)) as Omit<Example, "text">), text: readFileSync(file, "utf8") };
}

/** What a program's environment has from a package manager around it, and what leads to other places than this machine. */
const foreign = /^(npm|pnpm)_|^(https?|all)_proxy$/i;
export const environment = (): Record<string, string> => ({
  ...Object.fromEntries(Object.keys(process.env).flatMap((name) => (foreign.test(name) ? [[name, ""]] : []))),
  NO_PROXY: "127.0.0.1",
  CI: "1",
});

export class Project {
  /** Outside the checkout, so that nothing is found further up. */
  readonly folder: string = mkdtempSync(join(tmpdir(), "kindling-project-"));

  constructor(registry: string, files: Record<string, string> = {}) {
    this.write("package.json", JSON.stringify({ name: "project", private: true, type: "module" }));
    this.write(".npmrc", `registry=${registry}\naudit=false\nfund=false\nupdate-notifier=false\n`);
    for (const [file, text] of Object.entries(files)) this.write(file, text);
  }

  write(file: string, text: string): void {
    const path = join(this.folder, file);
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, text);
  }

  read(file: string): string {
    return readFileSync(join(this.folder, file), "utf8");
  }

  run(command: string, ...args: string[]): Promise<string> {
    return run(command, args, { cwd: this.folder, env: environment() });
  }

  /** Installs packages as a user does, and links those of others that a user would add: the workspace has them, 100 MB. */
  async install(...names: string[]): Promise<void> {
    await this.run("npm", "install", ...names);
    this.link("webgpu");
  }

  link(...names: string[]): void {
    for (const name of names) {
      const link = join(this.folder, "node_modules", name);
      mkdirSync(dirname(link), { recursive: true });
      symlinkSync(join(root, "node_modules", name), link, "junction");
    }
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}

/** A program that prints the results of `./example.ts`. */
export const main = `
import { init } from "@kindling/core";
import { example } from "./example.ts";

await init();
const results = Object.entries(await example()).map(([name, values]) => [name, [...values]]);
console.log(JSON.stringify(Object.fromEntries(results)));
`;

/** Fails unless every result is what it should be, to the precision of f32. */
export function expectResults(found: Record<string, number[]>, expected: Record<string, number[]>): void {
  expect(Object.keys(found)).toEqual(Object.keys(expected));
  for (const [name, values] of Object.entries(expected)) {
    expect(mixedError(found[name]!, values), `${name}: ${found[name]} instead of ${values}`).toBeLessThan(1e-5);
  }
}
