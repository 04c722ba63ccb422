// A server on this machine, for as long as a test runs: an npm registry of tarballs, and files. It has nothing else, so that an
// installation from it shows what a package really brings along, and needs no network.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { basename, extname } from "node:path";
import type { Tarball } from "./pack.ts";

export interface Served {
  url: string;
  close(): Promise<void>;
}

const types: Record<string, string> = { ".html": "text/html", ".js": "text/javascript", ".json": "application/json" };

/** Serves the tarballs as packages, and `files` under their paths. */
export async function serve(tarballs: readonly Tarball[], files: Record<string, string> = {}): Promise<Served> {
  const answers = new Map<string, string | Buffer>(Object.entries(files));
  const server = createServer((request, response) => {
    const answer = answers.get(decodeURIComponent(request.url!.slice(1)));
    const headers = { "content-type": types[extname(request.url!)] ?? "application/octet-stream" };
    response.writeHead(answer === undefined ? 404 : 200, headers).end(answer ?? "{}");
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  for (const { file, manifest } of tarballs) {
    const { name, version } = manifest;
    const bytes = readFileSync(file);
    const tarball = `tarballs/${basename(file)}`;
    const integrity = `sha512-${createHash("sha512").update(bytes).digest("base64")}`;
    const document = {
      name,
      "dist-tags": { latest: version },
      versions: { [version]: { ...manifest, dist: { tarball: url + tarball, integrity } } },
    };
    answers.set(name, JSON.stringify(document)).set(tarball, bytes);
  }
  const close = (): Promise<void> =>
    new Promise((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
    });
  return { url, close };
}
