// pnpm release [--dry-run] [--skip-tests]: what is published, made and checked; without --dry-run, published.
//
//   1. the versions: one for all packages, and no changeset that waits for `pnpm run version`
//   2. the tests that install and copy the packages, among lint, types and generated files
//   3. build; pack into out/release, with the repository's address in every package.json where GITHUB_REPOSITORY names it, as npm's
//      provenance wants it
//   4. publint and arethetypeswrong on every tarball
//   5. the items of the shadcn registry, each file stamped with package and version, into out/release/r
//   6. npm publish of each tarball that npm does not have yet, core first, and a git tag for each package
//
// With --dry-run it ends after step 5 and needs no network.
import { globSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { registryFiles } from "../generate/registry.ts";
import { type Manifest, type Package, packages, root } from "../workspace/packages.ts";
import { complaints } from "./lint.ts";
import { build, pack, type Tarball } from "./pack.ts";
import { run } from "./run.ts";

/** What stands in the way of a release of these packages; nothing when all is well. */
export function obstacles(all: readonly Package[], changesets: string): string[] {
  const versions = new Set(all.map(({ manifest }) => manifest.version));
  const waiting = globSync("*.md", { cwd: changesets }).filter((file) => file !== "README.md");
  return [
    ...(versions.size > 1 ? [`the packages have several versions: ${[...versions].join(", ")}`] : []),
    ...(waiting.length > 0 ? [`changesets wait for \`pnpm run version\`: ${waiting.sort().join(", ")}`] : []),
  ];
}

/** Does `work` while every package.json names the repository, `owner/name`, and leaves the files as they were. */
export async function withRepository<T>(
  all: readonly Package[],
  repository: string | undefined,
  work: () => Promise<T>,
): Promise<T> {
  if (!repository) return work();
  const files = all.map((item) => ({ ...item, file: join(item.path, "package.json") }));
  const before = files.map(({ file }) => readFileSync(file, "utf8"));
  try {
    for (const { folder, file, manifest } of files) {
      const url = `git+https://github.com/${repository}.git`;
      const stamped = { ...manifest, repository: { type: "git", url, directory: `packages/${folder}` } };
      writeFileSync(file, `${JSON.stringify(stamped, null, 2)}\n`);
    }
    return await work();
  } finally {
    for (const [i, { file }] of files.entries()) writeFileSync(file, before[i]!);
  }
}

/** In an order in which no package comes before what it depends on. */
export function inOrder(tarballs: readonly Tarball[]): Tarball[] {
  const sorted = new Set<Tarball>();
  const visit = (tarball: Tarball): void => {
    const { dependencies, peerDependencies }: Manifest = tarball.manifest;
    for (const name of Object.keys({ ...dependencies, ...peerDependencies })) {
      const other = tarballs.find(({ manifest }) => manifest.name === name);
      if (other && !sorted.has(other)) visit(other);
    }
    sorted.add(tarball);
  };
  for (const tarball of tarballs) visit(tarball);
  return [...sorted];
}

/** Publishes the tarballs that the registry does not have; returns the names of those. `options` and `env` go to npm. */
export async function publish(
  tarballs: readonly Tarball[],
  cwd: string,
  options: readonly string[],
  env: Record<string, string> = {},
): Promise<string[]> {
  const published: string[] = [];
  for (const { file, manifest } of inOrder(tarballs)) {
    const name = `${manifest.name}@${manifest.version}`;
    const known = await run("npm", ["view", name, "version"], { cwd, env }).catch((error: Error) => {
      if (/E404|404 Not Found/.test(error.message)) return "";
      throw error;
    });
    if (known.trim() === manifest.version) continue;
    await run("npm", ["publish", file, "--access", "public", ...options], { cwd, env });
    published.push(name);
  }
  return published;
}

async function step<T>(name: string, work: () => Promise<T>): Promise<T> {
  const start = performance.now();
  const result = await work();
  console.log(`release: ${name} (${((performance.now() - start) / 1000).toFixed(1)} s)`);
  return result;
}

async function main(): Promise<void> {
  const { values: options } = parseArgs({
    options: { "dry-run": { type: "boolean", default: false }, "skip-tests": { type: "boolean", default: false } },
  });
  const dry = options["dry-run"];
  const all = packages();
  const version = all[0]!.manifest.version;
  const folder = join(root, "out/release");

  const found = obstacles(all, join(root, ".changeset"));
  for (const text of found) console.log(`release: ${text}`);
  if (found.length > 0 && !dry) throw new Error("release: nothing is published");

  if (!options["skip-tests"]) {
    const tests = ["install", "copy"].map((name) => `tools/distribution/test/${name}.test.ts`);
    await step("checks and tests", () =>
      run("node", ["tools/setup/run.mjs", "test", ...tests], { cwd: root, show: true }),
    );
  }
  await step(`built ${all.length} packages`, () => build(all));
  const tarballs = await step(`packed version ${version} into out/release`, () =>
    withRepository(all, process.env.GITHUB_REPOSITORY, () => pack(all, folder)),
  );
  await step("publint and arethetypeswrong have no complaint", async () => {
    const texts = (await Promise.all(tarballs.map(complaints))).flat();
    if (texts.length > 0) throw new Error(texts.join("\n"));
  });
  await step("stamped the files of the shadcn registry into out/release/r", async () => {
    mkdirSync(join(folder, "r"));
    for (const [name, text] of registryFiles(all, root)) writeFileSync(join(folder, "r", name), text);
  });
  if (dry) {
    console.log(`release: dry run: ${tarballs.length} tarballs are ready, nothing is published`);
    return;
  }
  // npm signs where a package was built, which only a CI service can vouch for.
  const provenance = process.env.GITHUB_ACTIONS ? ["--provenance"] : [];
  const published = await step("published", () => publish(tarballs, root, provenance));
  console.log(published.map((name) => `  ${name}`).join("\n"));
  await run("changeset", ["git-tag"], { cwd: root, show: true });
}

if (import.meta.main) {
  try {
    await main();
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}
