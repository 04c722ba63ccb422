import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packages } from "../../workspace/packages.ts";

it("finds one text in all the files that layers share by copy", () => {
  const files = [...packages()].flatMap(({ path }) =>
    readdirSync(join(path, "src"), { withFileTypes: true })
      .filter(({ name }) => name.endsWith(".inputs.ts"))
      .map(({ name }) => join(path, "src", name)),
  );
  expect(files.length).toBeGreaterThan(1);
  const [first, ...others] = files.map((file) => readFileSync(file, "utf8"));
  for (const [i, text] of others.entries()) expect(text, files[i + 1]!).toBe(first);
});
