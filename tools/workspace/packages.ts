// The packages under packages/, as the tools see them.
import { existsSync, globSync, readdirSync, readFileSync } from "node:fs";
import { join, resolve } from "node:path";

export const root: string = resolve(import.meta.dirname, "../..");

export interface Entry {
  source: string;
  types: string;
  default: string;
}

export interface Manifest {
  name: string;
  version: string;
  description?: string;
  license?: string;
  private?: boolean;
  type?: string;
  sideEffects?: boolean;
  files?: string[];
  exports?: Record<string, Entry>;
  dependencies?: Record<string, string>;
  devDependencies?: Record<string, string>;
  optionalDependencies?: Record<string, string>;
  peerDependencies?: Record<string, string>;
  peerDependenciesMeta?: Record<string, { optional?: boolean }>;
  /** For the README's table and the generated index: the names that users import, and the group they belong to. */
  kindling?: { category: string; exports: string[] };
}

export interface Package {
  /** The name of its folder: `linear` for `@kindling/linear`. */
  folder: string;
  path: string;
  manifest: Manifest;
  /** Whether it is a layer: one file that stands on core alone. */
  layer: boolean;
}

/** The packages that are not layers. */
const shared: ReadonlySet<string> = new Set(["core", "math", "ops", "nn", "optim", "data", "train"]);

export function packages(directory: string = join(root, "packages")): Package[] {
  return readdirSync(directory)
    .filter((folder) => existsSync(join(directory, folder, "package.json")))
    .sort()
    .map((folder) => readPackage(join(directory, folder), folder));
}

export function readPackage(path: string, folder: string): Package {
  const manifest = JSON.parse(readFileSync(join(path, "package.json"), "utf8")) as Manifest;
  return { folder, path, manifest, layer: !shared.has(folder) };
}

/** Its TypeScript sources, relative to its folder. */
export function sources({ path }: Package): string[] {
  return globSync("src/**/*.ts", { cwd: path }).sort();
}
