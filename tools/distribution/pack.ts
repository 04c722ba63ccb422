// The published form of the packages: built by tsdown, packed by pnpm, which writes versions for `workspace:^`.
import { cpSync, existsSync, mkdirSync, readFileSync, realpathSync, rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname, join } from "node:path";
import { type Manifest, type Package, root } from "../workspace/packages.ts";
import { each, run } from "./run.ts";

export interface Tarball {
  folder: string;
  /** The package.json that users get. */
  manifest: Manifest;
  file: string;
}

/** Builds every package in place, in its `dist`. */
export async function build(all: readonly Package[]): Promise<void> {
  const config = join(root, "tsdown.config.ts");
  await each(all, availableParallelism(), ({ path }) => run("tsdown", ["--config", config], { cwd: path }));
}

/** Packs packages that are built into `folder`, which is emptied first. */
export async function pack(all: readonly Package[], folder: string): Promise<Tarball[]> {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const { packageManager } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { packageManager: string };
  const filters = all.map(({ manifest }) => `--filter=${manifest.name}`);
  const args = [
    "-y",
    "--prefer-offline",
    packageManager,
    "--recursive",
    ...filters,
    "pack",
    "--pack-destination",
    folder,
  ];
  await run("npx", args, { cwd: root });
  return each(all, 1, async ({ folder: name, manifest: { version } }) => {
    const file = join(folder, `kindling-${name}-${version}.tgz`);
    const text = await run("tar", ["-xzOf", file, "package/package.json"], { cwd: folder });
    return { folder: name, file, manifest: JSON.parse(text) as Manifest };
  });
}

/** Packs what the packages depend on and others have written, as the workspace has it installed. */
export async function packDependencies(all: readonly Package[], folder: string): Promise<Tarball[]> {
  mkdirSync(folder, { recursive: true });
  const found = new Map<string, Tarball>();
  const visit = async (from: string, { dependencies, optionalDependencies }: Manifest): Promise<void> => {
    for (const name of Object.keys({ ...dependencies, ...optionalDependencies })) {
      if (name.startsWith("@kindling/") || found.has(name)) continue;
      const path = installed(name, from);
      const manifest = JSON.parse(readFileSync(join(path, "package.json"), "utf8")) as Manifest;
      const file = join(folder, `${name.replace("/", "-")}-${manifest.version}.tgz`);
      found.set(name, { folder: name, file, manifest });
      const copy = join(folder, "package");
      cpSync(path, copy, { recursive: true, filter: (from) => basename(from) !== "node_modules" });
      await run("tar", ["-czf", file, "package"], { cwd: folder });
      rmSync(copy, { recursive: true });
      await visit(path, manifest);
    }
  };
  for (const { path, manifest } of all) await visit(path, manifest);
  return [...found.values()];
}

/** Where Node finds a package, starting in a folder. */
function installed(name: string, from: string): string {
  const path = join(from, "node_modules", name);
  if (existsSync(path)) return realpathSync(path);
  if (dirname(from) === from) throw new Error(`${name} is not installed`);
  return installed(name, dirname(from));
}
