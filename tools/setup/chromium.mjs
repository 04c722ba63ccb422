// A Chromium with WebGPU for the browser tests: KINDLING_CHROMIUM names one, else it is the npm package's, in .cache/chromium.
// KINDLING_BROWSER takes a browser that Playwright has installed instead (see browser.ts).
import { existsSync } from "node:fs";
import { join } from "node:path";
import { chromiumPackage, fetchChromium, libraryPath, log, root, SetupError } from "./files.mjs";

/** The variables that vitest.config.ts reads; none, and a message, where there is no Chromium to be had. */
export function chromiumEnvironment() {
  if (process.env.KINDLING_BROWSER) return {};
  const given = process.env.KINDLING_CHROMIUM;
  if (given) {
    if (!existsSync(given)) throw new SetupError(`KINDLING_CHROMIUM is "${given}", and there is no such file`);
    return { KINDLING_CHROMIUM: given };
  }
  if (process.platform !== "linux" || process.arch !== "x64") {
    log("the tests run in Node alone; set KINDLING_CHROMIUM to the path of a Chromium to run them there too");
    return {};
  }
  const folder = join(root, ".cache/chromium");
  const program = join(folder, "chromium");
  if (!existsSync(program)) {
    log(`fetching Chromium from the npm package ${chromiumPackage} (70 MB) into .cache/chromium, once per checkout`);
    fetchChromium(folder, ["chromium", "swiftshader.tar", "fonts.tar", "al2023.tar"]);
  }
  return { KINDLING_CHROMIUM: program, KINDLING_CHROMIUM_LIBRARIES: libraryPath([join(folder, "lib"), folder]) };
}
