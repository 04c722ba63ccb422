import { defaultServerConditions } from "vite";
import type { ViteUserConfig } from "vitest/config";

// The tests share one GPU, and a software GPU takes every core: one process, one file after another.
// Files are not isolated, so that the whole run holds one Dawn instance.
const conditions = ["source", ...defaultServerConditions];

const config: ViteUserConfig = {
  resolve: { conditions },
  ssr: { resolve: { conditions } },
  test: {
    // Relative to --dir, so that a package can run its own.
    include: ["**/test/**/*.test.ts"],
    exclude: ["**/node_modules/**", "**/dist/**", ".cache/**", ".gpu/**"],
    pool: "forks",
    maxWorkers: 1,
    isolate: false,
    fileParallelism: false,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    reporters: ["default", "./tools/setup/summary.ts"],
  },
};

export default config;
