import { mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { root } from "../../workspace/packages.ts";
import { run } from "../run.ts";
import { all } from "./project.ts";

const folder = mkdtempSync(join(tmpdir(), "kindling-docs-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

it("builds a page for each package, the repository's documents, and the registry", { timeout: 180_000 }, async () => {
  await run("node", ["tools/docs/main.ts", folder], { cwd: root });
  const modules = readdirSync(join(folder, "modules"));
  expect(modules).toEqual(expect.arrayContaining(all.map((item) => `_kindling_${item.folder}.html`)));
  const pages = ["classes", "functions", "variables", "interfaces", "types"].flatMap((kind) =>
    readdirSync(join(folder, kind)).map((page) => page.replace(/^_kindling_([\w-]+)\..*?(\w+)\.html$/, "$1 $2")),
  );
  const exported = all.flatMap(({ folder, manifest }) =>
    (manifest.kindling?.exports ?? []).map((name) => `${folder} ${name}`),
  );
  expect(pages).toEqual(expect.arrayContaining([...exported, "nn LSTM", "nn Linear", "core matmul", "math gelu"]));
  expect(readdirSync(join(folder, "documents"))).toContain("ARCHITECTURE.html");
  expect(readdirSync(join(folder, "r"))).toEqual(all.filter(({ layer }) => layer).map((item) => `${item.folder}.json`));
});
