// What is derived compiles on Dawn in f32 and f16, and a sample of it runs on the GPU.
import { empty, kernel, tensor } from "@kindling/core";
import { testDevice } from "@kindling/core/testing";
import { grad, jvp } from "@kindling/math/autodiff";
import { expect, test } from "vitest";
import { Generator } from "./generate.ts";
import { Interpreter } from "./interpreter.ts";

const device = await testDevice();
const hasF16 = device.features.has("shader-f16");

async function compiles(code: string): Promise<void> {
  const { messages } = await device.gpu.createShaderModule({ code }).getCompilationInfo();
  const errors = messages.filter(({ type }) => type === "error");
  expect(
    errors.map(({ lineNum, message }) => `${message}: ${code.split("\n")[lineNum - 1]}`),
    code,
  ).toEqual([]);
}

/** The same source for the other float type. */
export const inF16 = (source: string): string =>
  source
    .replace(/\bf32\b/g, "f16")
    .replace(/\bvec([234])f\b/g, "vec$1h")
    .replace(/\b(\d+\.\d+)f\b/g, "$1h");

const all = (source: string): string => {
  const gradText = grad(source, { fn: "f", wrt: ["x", "v", "s"] });
  const one = grad(source, { fn: "f", wrt: "x", name: "dfdx" });
  const again = grad(`${source}${one}`, { fn: "dfdx", wrt: "x" });
  return `${source}\n${gradText}\n${jvp(source, { fn: "f" })}\n${one}\n${again}\n@compute @workgroup_size(1) fn main() {}`;
};

test("random derivatives compile", async () => {
  for (let seed = 20000; seed < 20080; seed++) await compiles(all(new Generator(seed).generate().source));
});

if (hasF16)
  test("random derivatives compile in f16", async () => {
    for (let seed = 30000; seed < 30040; seed++) {
      await compiles(`enable f16;\n${all(inF16(new Generator(seed).generate().source))}`);
    }
  });

/** Null backends compile and run nothing. */
const runs = (globalThis as { process?: { env: Record<string, string> } }).process?.env.KINDLING_GPU !== "null";

if (runs)
  test("random derivatives have the interpreter's values on the GPU", async () => {
    const count = 12;
    const bodies: string[] = [];
    const calls: string[] = [];
    const expected: number[] = [];
    const inputs = Array.from({ length: 8 }, (_, i) => Math.fround(0.65 * Math.sin(2.3 * i + 0.4)));
    let header = "";
    for (let seed = 40000; calls.length < count; seed++) {
      const { source } = new Generator(seed).generate();
      const text = `${source}\n${grad(source, { fn: "f", wrt: ["x", "v"] })}`;
      if (source.length > 1500) continue;
      const [x, y, a, b, c, p, q, r] = inputs as [number, number, number, number, number, number, number, number];
      const made = new Interpreter(text).call(
        "fGrad",
        x,
        y,
        [a, b, c],
        [p, q],
        { a: r, b: [c, b, a], n: 1n },
        2n,
        0.8,
      ) as {
        dx: number;
        dv: number[];
      };
      const list = [made.dx, ...made.dv];
      if (list.some((g) => !Number.isFinite(g) || Math.abs(g) > 100)) continue;
      const at = calls.length;
      const [declarations, functions] = [text.slice(0, text.indexOf("fn ")), text.slice(text.indexOf("fn "))];
      header = declarations;
      bodies.push(functions.replace(/\b(h\d|f|fGrad|FGrads)\b/g, `$1_${at}`));
      calls.push(`  g${at}();\n`);
      bodies.push(`fn g${at}() {
  let g = fGrad_${at}(p[0], p[1], vec3f(p[2], p[3], p[4]), vec2f(p[5], p[6]), S(p[7], vec3f(p[4], p[3], p[2]), 1), 2, 0.8);
  out[${4 * at}] = g.dx; out[${4 * at + 1}] = g.dv.x; out[${4 * at + 2}] = g.dv.y; out[${4 * at + 3}] = g.dv.z;
}`);
      expected.push(...list);
    }
    const run = kernel<string>(
      "math.sample",
      `${header}
@group(0) @binding(0) var<storage, read> p: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
${bodies.join("\n")}
@compute @workgroup_size(1)
fn main() {\n${calls.join("")}}`,
    );
    const out = empty([expected.length], { device });
    run.run({ p: tensor(inputs, { device }), out }, { workgroups: [1] });
    const actual = new Float32Array(await device.read(out));
    expected.forEach((want, i) => {
      expect(
        Math.abs(actual[i]! - want) / (1 + Math.abs(want)),
        `function ${i >> 2}\n${bodies[2 * (i >> 2)]}`,
      ).toBeLessThan(2e-4);
    });
  });
