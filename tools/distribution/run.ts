// Running a program and reading what it prints.
import { spawn } from "node:child_process";
import { delimiter, join } from "node:path";
import { root } from "../workspace/packages.ts";

export interface RunOptions {
  cwd: string;
  env?: Record<string, string>;
  /** Shows what the program prints as it comes. */
  show?: boolean;
}

/** Resolves to what the program prints; rejects with all of it when the program fails. The workspace's programs come first. */
export function run(command: string, args: readonly string[], { cwd, env, show = false }: RunOptions): Promise<string> {
  const PATH = [join(root, "node_modules/.bin"), process.env.PATH].join(delimiter);
  const shell = process.platform === "win32"; // npm's commands are scripts there
  const child = spawn(command, args, {
    cwd,
    shell,
    stdio: ["ignore", "pipe", "pipe"],
    env: { ...process.env, ...env, PATH },
  });
  let [out, all] = ["", ""];
  child.stdout.on("data", (text) => {
    out += text;
    all += text;
    if (show) process.stdout.write(text);
  });
  child.stderr.on("data", (text) => {
    all += text;
    if (show) process.stderr.write(text);
  });
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code, signal) => {
      if (code === 0) resolve(out);
      else reject(new Error(`${command} ${args.join(" ")} ended with ${signal ?? `code ${code}`} in ${cwd}:\n${all}`));
    });
  });
}

/** `work` of every item, a few at a time, in the order of the items. */
export async function each<T, R>(items: readonly T[], atOnce: number, work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  let next = 0;
  const worker = async (): Promise<void> => {
    for (let i = next++; i < items.length; i = next++) results[i] = await work(items[i]!);
  };
  await Promise.all(Array.from({ length: atOnce }, worker));
  return results;
}
