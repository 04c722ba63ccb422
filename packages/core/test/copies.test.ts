import { add, isTensor, ones, tensor } from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import { build } from "esbuild";
import { expect, it } from "vitest";

it("recognises the tensors of another copy of core", async () => {
  const device = await testDevice();
  const { outputFiles } = await build({
    entryPoints: [new URL("../src/index.ts", import.meta.url).pathname],
    bundle: true,
    format: "esm",
    write: false,
  });
  const copy = (await import(
    /* @vite-ignore */ `data:text/javascript,${encodeURIComponent(outputFiles[0]!.text)}`
  )) as typeof import("@kindling/core");
  const x = tensor([1, 2], { requiresGrad: true });
  const y = copy.mul(x, 2);
  expect(copy.defaultDevice()).toBe(device);
  expect([isTensor(y), copy.isTensor(x)]).toEqual([true, true]);
  add(y, x).backward(ones([2]));
  expect(await x.grad!.array()).toEqual([3, 3]);
});
