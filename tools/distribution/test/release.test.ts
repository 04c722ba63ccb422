import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { packages, root } from "../../workspace/packages.ts";
import type { Tarball } from "../pack.ts";
import { inOrder, obstacles, publish, withRepository } from "../release.ts";
import { run } from "../run.ts";
import { all, environment, tarballs } from "./project.ts";

const folder = mkdtempSync(join(tmpdir(), "kindling-release-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

describe("pnpm run version", () => {
  it("gives all packages one version, writes changelogs, and leaves the tools alone", { timeout: 60_000 }, async () => {
    const copy = join(folder, "version");
    const manifests = [...all.map(({ folder: name }) => `packages/${name}`), "tools/template", "tools/bench"];
    for (const path of ["", ...manifests]) {
      mkdirSync(join(copy, path), { recursive: true });
      cpSync(join(root, path, "package.json"), join(copy, path, "package.json"));
    }
    cpSync(join(root, "pnpm-workspace.yaml"), join(copy, "pnpm-workspace.yaml"));
    mkdirSync(join(copy, ".changeset"));
    cpSync(join(root, ".changeset/config.json"), join(copy, ".changeset/config.json"));
    writeFileSync(join(copy, ".changeset/one.md"), '---\n"@kindling/core": minor\n---\n\nA change of core.\n');
    symlinkSync(join(root, "node_modules"), join(copy, "node_modules"), "junction");
    const before = all[0]!.manifest.version.split(".").map(Number) as [number, number, number];

    await run("git", ["init", "--quiet"], { cwd: copy });
    await run("changeset", ["version"], { cwd: copy });
    const after = packages(join(copy, "packages"));
    expect(new Set(after.map(({ manifest }) => manifest.version))).toEqual(
      new Set([`${before[0]}.${before[1] + 1}.0`]),
    );
    expect(readFileSync(join(copy, "packages/core/CHANGELOG.md"), "utf8")).toContain("A change of core.");
    expect(after.every(({ path }) => readdirSync(path).includes("CHANGELOG.md"))).toBe(true);
    for (const tool of ["template", "bench"]) {
      expect(readdirSync(join(copy, "tools", tool)), tool).toEqual(["package.json"]);
      expect(JSON.parse(readFileSync(join(copy, "tools", tool, "package.json"), "utf8")).version).toBe("0.0.0");
    }
    expect(readdirSync(join(copy, ".changeset"))).toEqual(["config.json"]);
  });
});

describe("release", () => {
  it("makes everything without publishing it in a dry run", { timeout: 120_000 }, async () => {
    const args = ["tools/distribution/release.ts", "--dry-run", "--skip-tests"];
    const out = await run("node", args, {
      cwd: root,
      env: { ...environment(), GITHUB_REPOSITORY: "someone/kindling" },
    });
    expect(out).toContain(`dry run: ${all.length} tarballs are ready, nothing is published`);
    const version = all[0]!.manifest.version;
    const files = readdirSync(join(root, "out/release"));
    expect(files.sort()).toEqual([...all.map((item) => `kindling-${item.folder}-${version}.tgz`), "r"].sort());
    const item = JSON.parse(readFileSync(join(root, "out/release/r/layernorm.json"), "utf8"));
    expect(item.files[0].content).toMatch(`// @kindling/layernorm ${version}, ©`);

    const packed = join(root, `out/release/kindling-linear-${version}.tgz`);
    const manifest = JSON.parse(await run("tar", ["-xzOf", packed, "package/package.json"], { cwd: root }));
    expect(manifest.repository.url).toBe("git+https://github.com/someone/kindling.git");
    expect(manifest.peerDependencies["@kindling/core"]).toBe(`^${version}`);
    expect(readFileSync(join(root, "packages/linear/package.json"), "utf8")).not.toContain("someone");
  });

  it("leaves the files as they were when the work in between fails", async () => {
    const item = { ...all[0]!, path: join(folder, "stamp") };
    mkdirSync(item.path);
    writeFileSync(join(item.path, "package.json"), "before");
    const fails = withRepository([item], "someone/kindling", () => Promise.reject(new Error("no")));
    await expect(fails).rejects.toThrow("no");
    expect(readFileSync(join(item.path, "package.json"), "utf8")).toBe("before");
  });

  it("names what stands in its way", () => {
    const changesets = join(folder, "changesets");
    mkdirSync(changesets);
    for (const file of ["README.md", "config.json"]) writeFileSync(join(changesets, file), "");
    expect(obstacles(all, changesets)).toEqual([]);
    writeFileSync(join(changesets, "green-hats.md"), "");
    const [first, ...rest] = all;
    const odd = { ...first!, manifest: { ...first!.manifest, version: "9.9.9" } };
    expect(obstacles([odd, ...rest], changesets)).toEqual([
      `the packages have several versions: 9.9.9, ${first!.manifest.version}`,
      "changesets wait for `pnpm run version`: green-hats.md",
    ]);
  });

  it("publishes core first, and only what the registry does not have", { timeout: 60_000 }, async () => {
    const { own } = await tarballs();
    const some = ["layernorm", "linear", "core"].map((name) => own.find((tarball) => tarball.folder === name)!);
    const known = (tarball: Tarball | undefined): string =>
      JSON.stringify({ name: tarball!.manifest.name, versions: { [tarball!.manifest.version]: tarball!.manifest } });
    expect(inOrder(some).map((tarball) => tarball.folder)).toEqual(["core", "layernorm", "linear"]);

    const sent: { name: string; "dist-tags": object; access: string }[] = [];
    const server = createServer((request, response) => {
      const answer = (code: number, text = "{}"): void => void response.writeHead(code).end(text);
      if (request.method === "PUT") {
        let text = "";
        request.on("data", (part) => (text += part));
        request.on("end", () => {
          sent.push(JSON.parse(text));
          answer(201);
        });
      } else if (decodeURIComponent(request.url!) === "/@kindling/linear") answer(200, known(some[1]));
      else answer(404);
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const address = `127.0.0.1:${(server.address() as AddressInfo).port}/`;
    const cwd = join(folder, "publish");
    mkdirSync(cwd);
    writeFileSync(join(cwd, "package.json"), "{}");
    writeFileSync(join(cwd, ".npmrc"), `registry=http://${address}\n//${address}:_authToken=token\n`);
    try {
      const version = all[0]!.manifest.version;
      const names = ["@kindling/core", "@kindling/layernorm"];
      expect(await publish(some, cwd, [], environment())).toEqual(names.map((name) => `${name}@${version}`));
      expect(sent.map(({ name }) => name)).toEqual(names);
      expect(sent[0]).toMatchObject({ access: "public", "dist-tags": { latest: version } });
    } finally {
      server.closeAllConnections();
      server.close();
    }
  });
});
