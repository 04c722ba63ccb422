// Strips comments and indentation from the WGSL in a published build. The source beside the build keeps both.
import MagicString from "magic-string";
import { parseSync } from "oxc-parser";
import type { Rolldown } from "tsdown";

/** Shortens every template literal that follows the comment `wgsl`; null when there is none. */
export function stripWgsl(code: string, file: string): MagicString | null {
  if (!code.includes("/* wgsl */")) return null;
  const { program, comments } = parseSync(file, code);
  const text = new MagicString(code);
  for (const { value, end } of comments) {
    if (value.trim() !== "wgsl") continue;
    const start = end + (/^\s*/.exec(code.slice(end))?.[0].length ?? 0);
    const literal = templateAt(program, start);
    if (!literal) throw new Error(`${file}: no template literal after the comment "wgsl" at ${end}`);
    let open = false;
    for (const { start: delimiter, value } of literal.quasis) {
      const from = delimiter + 1; // past the opening ` or }
      const to = from + value.raw.length;
      const short = strip(code.slice(from, to), open);
      if (short.text !== code.slice(from, to)) text.update(from, to, short.text);
      open = short.open;
    }
  }
  return text.hasChanged() ? text : null;
}

/** The same as a plugin of rolldown, and so of tsdown. */
export function minifyWgsl(): Rolldown.Plugin {
  return {
    name: "minify-wgsl",
    transform: {
      filter: { id: /\.ts$/ },
      handler(code, id) {
        const text = stripWgsl(code, id);
        return text && { code: text.toString(), map: text.generateMap({ hires: "boundary", source: id }) };
      },
    },
  };
}

/**
 * One stretch of text between two holes. Lines stay lines, since directives and error messages count them. What stands
 * next to a hole keeps a blank if it had one. `open`: the stretch begins, or ends, inside a comment, which is then kept.
 */
function strip(text: string, open: boolean): { text: string; open: boolean } {
  const head = open ? /^[^\n]*/.exec(text)![0] : "";
  if (open && head === text) return { text, open };
  const lines = text.slice(head.length).split("\n");
  const last = lines.length - 1;
  const endsOpen = lines[last]!.includes("//");
  const short = lines.map((line, i) => {
    if (i === last && endsOpen) return i === 0 ? line : line.trimStart();
    const blank = line.replace(/\/\/.*/, "").replace(/[ \t]+/g, " ");
    return i === 0 && i === last ? blank : i === 0 ? blank.trimEnd() : i === last ? blank.trimStart() : blank.trim();
  });
  // Empty lines go, but the breaks at both ends stay: they separate this stretch from what the holes bring.
  const kept = short.filter((line, i) => line !== "" || i === 0 || i === last);
  return { text: head + kept.join("\n"), open: endsOpen };
}

interface Literal {
  quasis: { start: number; value: { raw: string } }[];
}

function templateAt(node: unknown, start: number): Literal | undefined {
  if (typeof node !== "object" || node === null) return undefined;
  if (Array.isArray(node)) {
    for (const item of node) {
      const found = templateAt(item, start);
      if (found) return found;
    }
    return undefined;
  }
  const { type, start: from, end: to, ...rest } = node as { type?: string; start?: number; end?: number };
  if (type === "TemplateLiteral" && from === start) return node as unknown as Literal;
  if (from !== undefined && to !== undefined && (start < from || start >= to)) return undefined;
  return templateAt(Object.values(rest), start);
}
