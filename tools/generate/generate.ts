// Files that are made from the packages' metadata and never edited by hand.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { Package } from "../workspace/packages.ts";

const begin = "<!-- layers:begin, written by `pnpm generate` from the packages' package.json -->";
const end = "<!-- layers:end -->";

/** The path, relative to the root, and the text of each generated file. */
export function generated(all: readonly Package[], root: string): Map<string, string> {
  const readme = join(root, "README.md");
  const text = existsSync(readme) ? readFileSync(readme, "utf8") : `# Kindling\n\n${begin}\n${end}\n`;
  return new Map([["README.md", withTable(text, layerTable(all))]]);
}

/** A row for each package that has `kindling` metadata, groups and packages in alphabetical order. */
export function layerTable(all: readonly Package[]): string {
  const rows = all
    .flatMap(({ folder, manifest }) => (manifest.kindling ? [{ folder, manifest, ...manifest.kindling }] : []))
    .sort((a, b) => compare(a.category, b.category) || compare(a.folder, b.folder))
    .map(({ folder, manifest, category, exports }) =>
      row(
        category,
        `[\`${manifest.name}\`](packages/${folder})`,
        exports.map((name) => `\`${name}\``).join(" "),
        manifest.description ?? "",
      ),
    );
  return [row("", "Package", "Exports", ""), row("---", "---", "---", "---"), ...rows].join("\n");
}

const compare = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0);
/** A row of a Markdown table. */
export const row = (...cells: string[]): string =>
  `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;

function withTable(text: string, table: string): string {
  const from = text.indexOf(begin);
  const to = text.indexOf(end);
  if (from < 0 || to < from)
    throw new Error(`README.md: the lines "${begin}" and "${end}" around the table are missing`);
  return `${text.slice(0, from)}${begin}\n${table}\n${text.slice(to)}`;
}
