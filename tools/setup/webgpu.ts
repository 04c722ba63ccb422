// node tools/setup/webgpu.ts: says, as `webgpu=true` or `webgpu=false`, whether the browser of the tests has an adapter.
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { chromium, firefox, webkit } from "playwright";
import { browserName, launchOptions } from "./browser.ts";

if (!browserName) throw new Error("no browser: set KINDLING_BROWSER to chromium, firefox or webkit");
// WebGPU is for secure pages, and localhost is one.
const server = createServer((_, response) => response.end("<!doctype html>"));
await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
const browser = await { chromium, firefox, webkit }[browserName].launch(launchOptions());
try {
  const page = await browser.newPage();
  await page.goto(`http://127.0.0.1:${(server.address() as AddressInfo).port}/`);
  const found = await page.evaluate(async () => Boolean(await navigator.gpu?.requestAdapter()));
  console.log(`webgpu=${found}`);
} finally {
  await browser.close();
  server.closeAllConnections();
  server.close();
}
