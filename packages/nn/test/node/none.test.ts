/** The CPU where there is no WebGPU at all: Node without the package `webgpu`, and a browser without navigator.gpu. */
import { spawnSync } from "node:child_process";
import { createServer } from "node:http";
import { join } from "node:path";
import { chromium } from "playwright";
import { build, defaultServerConditions, type Rolldown } from "vite";
import { describe, expect, it } from "vitest";
import { browserName, launchOptions } from "../../../../tools/setup/browser.ts";

const page = join(import.meta.dirname, "../page");

/** What page/train.ts prints. */
interface Result {
  device: string;
  losses: number[];
  warnings: string[];
  refused: string;
}

function check({ device, losses, warnings, refused }: Result, reason: string): void {
  expect(device).toBe("CPU");
  expect(losses.at(-1)!).toBeLessThan(0.2 * losses[0]!);
  expect(warnings).toEqual([
    expect.stringContaining(`computing on the CPU with jax-js, since there is no GPU: ${reason}`),
  ]);
  expect(refused).toContain(reason);
}

describe("without WebGPU", () => {
  it("trains in Node, where the package webgpu is not installed", () => {
    const { stdout, stderr } = run("webgpu");
    expect(stderr).toBe("");
    check(JSON.parse(stdout), "init: WebGPU in Node needs a package: npm install webgpu");
  });

  it("says what is missing where there is no jax-js either", () => {
    expect(run("webgpu", "@jax-js/jax").stderr).toMatch(
      /init: WebGPU in Node needs a package: npm install webgpu; nor does the CPU do instead: .*npm install @jax-js\/jax/,
    );
  });

  if (browserName === "chromium") {
    it("trains in a browser whose WebGPU is switched off", async () => {
      const files = await bundle();
      const server = createServer(({ url }, response) => {
        const file = files.get(url!.slice(1) || "index.html");
        response.writeHead(file === undefined ? 404 : 200, {
          "content-type": url === "/" ? "text/html" : "text/javascript",
        });
        response.end(file);
      });
      await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
      const browser = await chromium.launch({
        ...launchOptions(),
        args: ["--no-sandbox", "--disable-features=WebGPU"],
      });
      try {
        const tab = await browser.newPage();
        const printed = tab.waitForEvent("console", (message) => message.type() === "log");
        await tab.goto(`http://127.0.0.1:${(server.address() as { port: number }).port}/`);
        check(JSON.parse((await printed).text()), "init: WebGPU");
      } finally {
        await browser.close();
        server.close();
      }
    });
  }
});

/** Runs page/train.ts in Node as if these packages were not installed. */
function run(...missing: string[]): { stdout: string; stderr: string } {
  const hooks = `import { registerHooks } from "node:module";
    registerHooks({
      resolve(name, context, next) {
        if (${JSON.stringify(missing)}.includes(name)) throw new Error("not installed");
        return next(name, context);
      },
    });`;
  const args = ["--conditions=source", `--import=data:text/javascript,${encodeURIComponent(hooks)}`];
  return spawnSync(process.execPath, [...args, join(page, "train.ts")], { encoding: "utf8" });
}

/** The page as vite builds it for a browser: its files by name. */
async function bundle(): Promise<Map<string, string | Uint8Array>> {
  const { output } = (await build({
    root: page,
    configFile: false,
    logLevel: "error",
    resolve: { conditions: ["source", ...defaultServerConditions.filter((name) => name !== "node")] },
    build: { write: false, target: "esnext", modulePreload: false },
  })) as Rolldown.RolldownOutput;
  return new Map(output.map((file) => [file.fileName, file.type === "chunk" ? file.code : file.source]));
}
