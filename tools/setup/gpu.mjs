// Chooses a GPU and says with which environment variables a process must start to find it.
//
//   real         whatever Dawn finds by itself
//   lavapipe     Mesa's software Vulkan: the system's, or Debian's packages unpacked into .cache/gpu
//   swiftshader  Google's software Vulkan, taken from the npm package @sparticuz/chromium into .cache/gpu
//   null         Dawn's null backend: validates everything, computes nothing
//
// Plain JavaScript without dependencies for Node 18 or later, because it runs before anything is installed.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  capture,
  chromiumPackage,
  fetchChromium,
  libraryPath,
  log,
  node,
  replace,
  root,
  SetupError,
} from "./files.mjs";

const cache = join(root, ".cache/gpu");
const choices = ["auto", "real", "lavapipe", "swiftshader", "null"];

/**
 * The choice that `KINDLING_GPU` asks for and the variables to start a process with.
 * `KINDLING_DAWN` holds Dawn's flags, separated by spaces; flags that the caller has set are kept.
 */
export function gpuEnvironment() {
  const wanted = process.env.KINDLING_GPU || "auto";
  if (!choices.includes(wanted)) throw new SetupError(`KINDLING_GPU is "${wanted}", expected ${choices.join(", ")}`);
  if (process.env.KINDLING_GPU_READY === wanted) return {}; // a parent process has prepared the environment
  const found = wanted === "null" ? { name: "null", env: {} } : find(wanted);
  const flags = process.env.KINDLING_DAWN ?? (found.name === "null" ? "backend=null" : "");
  return { ...found.env, KINDLING_GPU: found.name, KINDLING_GPU_READY: found.name, KINDLING_DAWN: flags };
}

function find(wanted) {
  const failures = [];
  if (wanted === "auto" || wanted === "real") {
    const { adapter, error } = probe({});
    // Outside Linux there is no other software GPU than the system's, such as Direct3D's.
    const takes = wanted === "auto" && process.platform !== "linux";
    if (adapter && (takes || !adapter.software)) return ready("real", adapter, {});
    failures.push(`real: ${adapter ? `only a software adapter (${adapter.description})` : error}`);
  }
  for (const [name, candidates] of [
    ["lavapipe", lavapipe],
    ["swiftshader", swiftshader],
  ]) {
    if (wanted !== "auto" && wanted !== name) continue;
    try {
      for (const env of candidates()) {
        const { adapter, error } = probe(env);
        if (adapter) return ready(name, adapter, env);
        failures.push(`${name}: ${error}`);
      }
    } catch (error) {
      failures.push(`${name}: ${error.message}`);
    }
  }
  throw new SetupError(
    [
      `no GPU found (KINDLING_GPU=${wanted}).`,
      ...failures.map((text) => `  ${text}`),
      "Any one of these helps:",
      "  - a graphics driver with Vulkan for the GPU of this machine, and the Vulkan loader (Debian: libvulkan1)",
      "  - Mesa 24 or later with lavapipe (Debian 13, Ubuntu 24.04: apt install mesa-vulkan-drivers libvulkan1;",
      "    Debian 12: the same from bookworm-backports; Fedora: dnf install mesa-vulkan-drivers vulkan-loader)",
      "  - a network connection: lavapipe or SwiftShader is then fetched into .cache/gpu, without root",
      "KINDLING_GPU=null runs without a GPU: it validates every kernel and computes nothing.",
    ].join("\n"),
  );
}

function ready(name, adapter, env) {
  log(`GPU: ${name === "real" ? "" : `${name}, in software: `}${adapter.description}`);
  return { name, env };
}

/** Asks Dawn, in a process of its own, because drivers are looked up when a process starts and may crash it. */
function probe(env) {
  const flags = process.env.KINDLING_DAWN ?? "";
  const child = spawnSync(node, [join(root, "tools/setup/probe.mjs"), ...flags.split(" ").filter(Boolean)], {
    env: { ...process.env, ...env },
    encoding: "utf8",
    timeout: 120_000,
  });
  const line = child.stdout?.split("\n").find((text) => text.startsWith("{"));
  if (line) return JSON.parse(line);
  return { error: child.error?.message ?? `Dawn ended with ${child.signal ?? `code ${child.status}`}` };
}

// lavapipe ----------------------------------------------------------------------------------------

/** Environments to try, in order: the system's driver, the one in the cache, a fresh one in the cache. */
function* lavapipe() {
  if (process.platform !== "linux") throw new Error("Linux only");
  for (const folder of ["/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d"]) {
    const file = existsSync(folder) && readdirSync(folder).find((name) => /^lvp_icd.*\.json$/.test(name));
    if (file) yield { VK_DRIVER_FILES: join(folder, file) };
  }
  const folder = join(cache, "lavapipe");
  if (existsSync(join(folder, "icd.json"))) yield lavapipeEnvironment(folder);
  fetchLavapipe(folder);
  yield lavapipeEnvironment(folder);
}

function lavapipeEnvironment(folder) {
  return { LD_LIBRARY_PATH: libraryPath(libraryFolders(folder)), VK_DRIVER_FILES: join(folder, "icd.json") };
}

/** The folders of an unpacked package that hold shared libraries: [usr/]lib/<architecture>-linux-gnu. */
function libraryFolders(folder) {
  return ["usr/lib", "lib"]
    .map((name) => join(folder, name))
    .filter(existsSync)
    .flatMap((lib) => readdirSync(lib).map((name) => join(lib, name)))
    .filter((name) => name.endsWith("-linux-gnu"));
}

/** apt-get with state, cache and sources of its own: it reads the system's package lists and changes nothing. */
function fetchLavapipe(folder) {
  if (!existsSync("/usr/bin/apt-get") || !existsSync("/usr/bin/dpkg")) throw new Error("no apt-get to fetch it with");
  const system = readFileSync("/etc/os-release", "utf8");
  const backports = /^VERSION_CODENAME=bookworm$/m.test(system) && /^ID=debian$/m.test(system);
  log(`fetching Mesa's lavapipe from ${backports ? "bookworm-backports" : "the system's package sources"}`);
  log("  into .cache/gpu; nothing is installed, once per checkout");

  const work = `${folder}.${process.pid}`;
  const apt = join(work, "apt");
  for (const name of ["state/lists/partial", "cache/archives/partial"]) {
    mkdirSync(join(apt, name), { recursive: true });
  }
  try {
    writeFileSync(join(apt, "empty"), "");
    const options = {
      "Dir::State": join(apt, "state"),
      "Dir::Cache": join(apt, "cache"),
      "Debug::NoLocking": "1",
      "APT::Sandbox::User": "root", // no change of user: an ordinary user cannot, and root need not
      "Acquire::Languages": "none",
      "Acquire::http::Timeout": "20",
      "APT::Update::Error-Mode": "any", // else a missing network is only a warning
    };
    if (backports) {
      const keyring = "/usr/share/keyrings/debian-archive-keyring.gpg";
      const signed = existsSync(keyring) ? `[signed-by=${keyring}] ` : "";
      const line = (suite) => `deb ${signed}http://deb.debian.org/debian ${suite} main\n`;
      writeFileSync(join(apt, "sources.list"), line("bookworm-backports") + line("bookworm"));
      Object.assign(options, {
        "Dir::Etc::sourcelist": join(apt, "sources.list"),
        "Dir::Etc::sourceparts": "/dev/null",
        "APT::Default-Release": "bookworm-backports",
      });
    }
    const aptGet = (status, ...args) => {
      const all = Object.entries({ ...options, "Dir::State::status": status });
      return capture(
        "apt-get",
        ["-q", "-y", ...all.flatMap(([key, value]) => ["-o", `${key}=${value}`]), ...args],
        apt,
      );
    };
    const plan = (status) =>
      aptGet(status, "--no-install-recommends", "--print-uris", "install", "mesa-vulkan-drivers", "libvulkan1");

    let update;
    try {
      aptGet("/var/lib/dpkg/status", "update");
    } catch (error) {
      update = error; // one source of several may fail; what matters is whether the packages are there
    }
    let uris;
    try {
      uris = plan("/var/lib/dpkg/status"); // what this system lacks
    } catch {
      try {
        uris = plan(join(apt, "empty")); // a system in which nothing can be installed: everything
      } catch (error) {
        throw update ?? error;
      }
    }
    // Shared libraries only, and never the C and C++ runtime that Node itself runs on.
    const wanted = [...uris.matchAll(/ ((?:lib|mesa)[^_ ]*)_([^_ ]+)_[^_ ]+\.deb /g)]
      .filter(([, name]) => !/^(libc6|libc-bin|libgcc-s1|libstdc\+\+6|libcrypt1|libpython.*)$/.test(name))
      .map(([, name, version]) => `${name}=${decodeURIComponent(version)}`);
    if (!wanted.some((name) => name.startsWith("mesa-vulkan-drivers="))) throw new Error("apt-get offers no Mesa");
    aptGet("/var/lib/dpkg/status", "download", ...wanted);
    for (const deb of readdirSync(apt).filter((name) => name.endsWith(".deb"))) {
      capture("dpkg", ["-x", join(apt, deb), join(work, "root")], apt);
    }
    const drivers = join(work, "root/usr/share/vulkan/icd.d");
    const file = readdirSync(drivers).find((name) => /^lvp_icd.*\.json$/.test(name));
    if (!file) throw new Error("Mesa's packages hold no lavapipe");
    const driver = JSON.parse(readFileSync(join(drivers, file), "utf8"));
    const library = driver.ICD.library_path.split("/").pop();
    const home = libraryFolders(join(work, "root")).find((name) => existsSync(join(name, library)));
    driver.ICD.library_path = join(folder, home.slice(join(work, "root").length), library);
    writeFileSync(join(work, "root/icd.json"), JSON.stringify(driver));
    replace(join(work, "root"), folder);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

// SwiftShader -------------------------------------------------------------------------------------

function* swiftshader() {
  if (process.platform !== "linux" || process.arch !== "x64") throw new Error("Linux on x64 only");
  const folder = join(cache, "swiftshader");
  const env = { LD_LIBRARY_PATH: libraryPath([folder]), VK_DRIVER_FILES: join(folder, "icd.json") };
  if (existsSync(env.VK_DRIVER_FILES)) yield env;
  log(`fetching SwiftShader from the npm package ${chromiumPackage} (70 MB) into .cache/gpu, once per checkout`);
  fetchChromium(folder, ["swiftshader.tar"], (unpacked) => {
    const driver = JSON.parse(readFileSync(join(unpacked, "vk_swiftshader_icd.json"), "utf8"));
    driver.ICD.library_path = join(folder, "libvk_swiftshader.so");
    writeFileSync(join(unpacked, "icd.json"), JSON.stringify(driver));
  });
  yield env;
}
