// registry.json: the layers in the format of shadcn's registry, whose `add` command copies a layer's files into a project.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Package, sources } from "../workspace/packages.ts";

export interface RegistryItem {
  $schema?: string;
  name: string;
  /** A file that goes where its target says, unchanged, into a project of any kind. */
  type: "registry:file";
  title: string;
  description: string;
  dependencies: string[];
  files: { path: string; type: "registry:file"; target: string; content?: string }[];
  categories: string[];
  docs?: string;
}

/** Where a copied layer goes. */
const target = "~/src/layers";

const needsExtensions =
  'The files import one another with their ending, .ts: tsconfig.json needs "allowImportingTsExtensions" with "noEmit", ' +
  'or "rewriteRelativeImportExtensions".';

/** An item for each layer: what it consists of, and the core that it stands on. */
export function registryItems(all: readonly Package[]): RegistryItem[] {
  return all
    .filter(({ layer }) => layer)
    .map((item) => {
      const { folder, manifest } = item;
      const files = sources(item).filter((file) => !file.endsWith(".reference.ts"));
      return {
        name: folder,
        type: "registry:file",
        title: manifest.kindling!.exports.join(", "),
        description: manifest.description!,
        dependencies: [`@kindling/core@^${manifest.version}`],
        files: files.map((file) => ({
          path: `packages/${folder}/${file}`,
          type: "registry:file",
          target: `${target}/${folder}/${file.slice("src/".length)}`,
        })),
        categories: [manifest.kindling!.category],
        ...(files.length > 1 && { docs: needsExtensions }),
      };
    });
}

/** The text of registry.json. */
export function registryIndex(all: readonly Package[]): string {
  const index = {
    $schema: "https://ui.shadcn.com/schema/registry.json",
    name: "kindling",
    homepage: "https://www.npmjs.com/org/kindling",
    items: registryItems(all),
  };
  return `${JSON.stringify(index, null, 2)}\n`;
}

/** The items with their files in them: `<name>.json` of each layer. A file starts with a line that says where it is from. */
export function registryFiles(all: readonly Package[], root: string): Map<string, string> {
  const owner = /^Copyright \(c\) (.*)$/m.exec(readFileSync(join(root, "LICENSE"), "utf8"))?.[1];
  return new Map(
    registryItems(all).map((item) => {
      const { name, version } = all.find(({ folder }) => folder === item.name)!.manifest;
      const files = item.files.map((file) => ({
        ...file,
        content: `${originLine(`${name} ${version}`, owner!)}${readFileSync(join(root, file.path), "utf8")}`,
      }));
      const $schema = "https://ui.shadcn.com/schema/registry-item.json";
      return [`${item.name}.json`, `${JSON.stringify({ $schema, ...item, files }, null, 2)}\n`];
    }),
  );
}

/** The first line of a copied file. */
export const originLine = (origin: string, owner: string): string =>
  `// ${origin}, © ${owner}, MIT licence: https://opensource.org/license/mit\n`;
