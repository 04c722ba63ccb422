import { playwright } from "@vitest/browser-playwright";
import { defaultServerConditions } from "vite";
import type { ViteUserConfig } from "vitest/config";

const conditions = ["source", ...defaultServerConditions];
const resolve = { resolve: { conditions }, ssr: { resolve: { conditions } } };

// The tests share one GPU, and a software GPU takes every core: one process, one file after another.
// Files are not isolated, so that the whole run holds one Dawn instance.
const alone = { maxWorkers: 1, isolate: false, fileParallelism: false, testTimeout: 60_000, hookTimeout: 60_000 };
const elsewhere = ["**/node_modules/**", "**/dist/**", ".cache/**", ".gpu/**"];

/** What cannot run in Chromium: these bundle core, or load Dawn for Node, themselves. */
const nodeOnly = ["**/core/test/copies.test.ts", "**/attention/test/attention.compile.test.ts"];
/** What runs on SwiftShader, which is Chromium's GPU here, but not on lavapipe. */
const chromiumOnly = "**/attention/test/attention.matrix.test.ts";

const node: ViteUserConfig["test"] = {
  ...alone,
  // Relative to --dir, so that a package can run its own.
  include: ["**/test/**/*.test.ts"],
  exclude: [...elsewhere, chromiumOnly],
  pool: "forks",
};

// tools/setup/chromium.mjs
const { KINDLING_CHROMIUM, KINDLING_CHROMIUM_LIBRARIES } = process.env;

const browser = (executablePath: string): ViteUserConfig["test"] => ({
  ...alone,
  name: "chromium",
  include: ["packages/*/test/*.test.ts"],
  exclude: [...elsewhere, ...nodeOnly],
  browser: {
    enabled: true,
    headless: true,
    screenshotFailures: false,
    provider: playwright({
      launchOptions: {
        executablePath,
        args: ["--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"],
        env: { ...process.env, LD_LIBRARY_PATH: KINDLING_CHROMIUM_LIBRARIES } as Record<string, string>,
      },
    }),
    instances: [{ browser: "chromium" }],
  },
});

const reporters = ["default", "./tools/setup/summary.ts"];

const config: ViteUserConfig = KINDLING_CHROMIUM
  ? {
      test: {
        reporters,
        projects: [
          { ...resolve, test: { ...node, name: "node" } },
          { ...resolve, test: browser(KINDLING_CHROMIUM) },
        ],
      },
    }
  : { ...resolve, test: { ...node, reporters } };

export default config;
