import { playwright } from "@vitest/browser-playwright";
import { defaultServerConditions } from "vite";
import type { ViteUserConfig } from "vitest/config";
import { browserName, launchOptions } from "./tools/setup/browser.ts";

const conditions = ["source", ...defaultServerConditions];
const resolve = { resolve: { conditions }, ssr: { resolve: { conditions } } };

// The tests share one GPU, and a software GPU takes every core: one process, one file after another.
// Files are not isolated, so that the whole run holds one Dawn instance.
const alone = { maxWorkers: 1, isolate: false, fileParallelism: false, testTimeout: 60_000, hookTimeout: 60_000 };
const elsewhere = ["**/node_modules/**", "**/dist/**", ".cache/**", ".gpu/**"];

/** What cannot run in a browser: these bundle core, or load Dawn for Node, themselves. */
const nodeOnly = ["**/core/test/copies.test.ts", "**/attention/test/attention.compile.test.ts"];
/** What runs on SwiftShader, which is Chromium's GPU here, but not on lavapipe. */
const chromiumOnly = "**/attention/test/attention.matrix.test.ts";
/** What builds, packs, installs, copies and releases the packages. */
const distribution = "tools/distribution/test/*.test.ts";

const node: ViteUserConfig["test"] = {
  ...alone,
  // Relative to --dir, so that a package can run its own.
  include: ["**/test/**/*.test.ts"],
  exclude: [...elsewhere, chromiumOnly],
  pool: "forks",
};

const browser: ViteUserConfig["test"] = {
  ...alone,
  name: browserName!,
  include: ["packages/*/test/*.test.ts"],
  exclude: [...elsewhere, ...nodeOnly],
  browser: {
    enabled: true,
    headless: true,
    screenshotFailures: false,
    provider: playwright({ launchOptions: launchOptions() }),
    instances: [{ browser: browserName! }],
  },
};

const reporters = ["default", "./tools/setup/summary.ts"];

const config: ViteUserConfig = browserName
  ? {
      test: {
        reporters,
        projects: [
          { ...resolve, test: { ...node, name: "node", exclude: [...node.exclude!, distribution] } },
          { ...resolve, test: browser },
          { ...resolve, test: { ...node, name: "distribution", include: [distribution], sequence: { groupOrder: 1 } } },
        ],
      },
    }
  : { ...resolve, test: { ...node, reporters } };

export default config;
