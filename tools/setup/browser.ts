// How tests start a browser: the Chromium that chromium.mjs chose, or the browser of Playwright's that KINDLING_BROWSER names.
import type { LaunchOptions } from "playwright";

// tools/setup/chromium.mjs
const { KINDLING_BROWSER, KINDLING_CHROMIUM, KINDLING_CHROMIUM_LIBRARIES } = process.env;

export type BrowserName = "chromium" | "firefox" | "webkit";
const names: readonly string[] = ["chromium", "firefox", "webkit"] satisfies BrowserName[];

if (KINDLING_BROWSER && !names.includes(KINDLING_BROWSER)) {
  throw new Error(`KINDLING_BROWSER is "${KINDLING_BROWSER}", expected ${names.join(", ")}`);
}
/** The browser to test in; nothing where there is none. */
export const browserName: BrowserName | undefined =
  (KINDLING_BROWSER as BrowserName | undefined) || (KINDLING_CHROMIUM ? "chromium" : undefined);

export function launchOptions(): LaunchOptions {
  if (browserName === "firefox")
    return { firefoxUserPrefs: { "dom.webgpu.enabled": true, "dom.webgpu.workers.enabled": true } };
  if (browserName !== "chromium") return {};
  const args = ["--no-sandbox", "--enable-unsafe-webgpu"];
  // Playwright's own Chromium: the whole of it, as its headless shell has no GPU.
  if (KINDLING_BROWSER) return { channel: "chromium", args };
  return {
    executablePath: KINDLING_CHROMIUM!,
    args: [...args, ...(process.platform === "linux" ? ["--use-webgpu-adapter=swiftshader"] : [])],
    env: { ...process.env, LD_LIBRARY_PATH: KINDLING_CHROMIUM_LIBRARIES } as Record<string, string>,
  };
}
