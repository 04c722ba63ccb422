// What publint and arethetypeswrong have to say about a tarball.
import { readFileSync } from "node:fs";
import { type CheckResult, checkPackage, createPackageFromTarballData } from "@arethetypeswrong/core";
import { publint } from "publint";
import { formatMessage } from "publint/utils";
import type { Tarball } from "./pack.ts";

/** The packages are ES modules alone: CommonJS, and the resolution of Node 10, which does not know `exports`, are not served. */
const unserved: ReadonlySet<string> = new Set(["node10", "node16-cjs"]);

/** One line for each complaint; none when the package is sound. */
export async function complaints({ file, manifest }: Tarball): Promise<string[]> {
  const bytes = Uint8Array.from(readFileSync(file));
  const { messages } = await publint({ pack: { tarball: bytes.buffer }, level: "suggestion", strict: true });
  const types = await checkPackage(createPackageFromTarballData(bytes));
  return [
    ...messages.map((message) => `${manifest.name}: publint: ${formatMessage(message, manifest, { color: false })}`),
    ...typeProblems(types).map((text) => `${manifest.name}: types: ${text}`),
  ];
}

function typeProblems(result: CheckResult): string[] {
  if (!result.types) return ["none found"];
  return result.problems
    .filter((problem) => !("resolutionKind" in problem && unserved.has(problem.resolutionKind)))
    .map((problem) => JSON.stringify(problem));
}
