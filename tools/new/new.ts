// Makes a layer package of tools/template, a real package whose layer is called scale.
import { existsSync, globSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";

export interface Names {
  /** Folder, file and package: `rmsnorm`. */
  folder: string;
  /** `RMSNorm` */
  module: string;
  /** The module's name in lower camel case: `rmsNorm`. */
  fn: string;
}

/** `rmsnorm RMSNorm` as given; without a module name, `conv-transpose` becomes ConvTranspose. */
export function namesOf(folder: string, module: string = pascal(folder)): Names {
  if (!/^[a-z][a-z0-9]*(-[a-z0-9]+)*$/.test(folder)) {
    throw new Error(`new: the layer is called "${folder}", expected lower-case letters, digits and single dashes`);
  }
  if (!/^[A-Z][A-Za-z0-9]*$/.test(module))
    throw new Error(`new: the module is called "${module}", expected UpperCamelCase`);
  // A leading abbreviation goes lower as one: RMSNorm → rmsNorm, GLU → glu.
  const fn = module.replace(/^[A-Z]+(?![a-z])|^[A-Z]/, (head) => head.toLowerCase());
  return { folder, module, fn };
}

const pascal = (folder: string): string => folder.replace(/(^|-)(.)/g, (_, __, letter: string) => letter.toUpperCase());

/**
 * Copies the template to `target` with its names replaced and with the version that all packages have; returns the files,
 * relative to `target`.
 */
export function createLayer(template: string, target: string, names: Names, version: string): string[] {
  if (existsSync(target)) throw new Error(`new: ${target} exists already`);
  const files = globSync("**/*", { cwd: template, exclude: ["node_modules", "dist"] }).filter((file) =>
    statSync(join(template, file)).isFile(),
  );
  return files.sort().map((file) => {
    const to = rename(file, names);
    mkdirSync(dirname(join(target, to)), { recursive: true });
    const text = rename(readFileSync(join(template, file), "utf8"), names);
    writeFileSync(join(target, to), text.replace('"version": "0.0.0"', `"version": "${version}"`));
    return to;
  });
}

function rename(text: string, { folder, module, fn }: Names): string {
  return text
    .replaceAll("@kindling/scale", `@kindling/${folder}`)
    .replace(/\bscale(?=(\.reference|\.test)?(\.d)?\.(ts|js)\b)/g, folder)
    .replaceAll("Scale", module)
    .replaceAll("scale", fn)
    .replace('  "private": true,\n', "");
}
