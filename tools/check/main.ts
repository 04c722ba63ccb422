// node tools/check/main.ts: fails when a package breaks the rules of check.ts.
import { packages } from "../workspace/packages.ts";
import { problems } from "./check.ts";

const found = problems(packages());
for (const line of found) console.error(line);
if (found.length > 0) process.exitCode = 1;
