// Builds the page into ldm/app/static; with --check, says whether what is there is what these sources make.
import { createHash } from "node:crypto";
import { mkdir, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "..", "static");
const inputs = ["index.html", "votes.html", "src", "package.json", "package-lock.json", "build.mjs"];

const files = await bundle();
if (process.argv.includes("--check")) await check();
else await write();

/** Every file of the page: name -> content. */
async function bundle() {
  const { outputFiles, metafile } = await build({
    absWorkingDir: here,
    entryPoints: { app: "src/main.tsx", votes: "src/votes/main.tsx" },
    outdir: "out",
    bundle: true,
    write: false,
    metafile: true,
    minify: true,
    format: "esm",
    target: ["es2022", "chrome123", "firefox120", "safari17.5"],
    jsx: "automatic",
    jsxImportSource: "preact",
    legalComments: "none",
    charset: "utf8",
  });
  const made = new Map(outputFiles.map((file) => [relative(join(here, "out"), file.path), Buffer.from(file.contents)]));
  made.set("icon.svg", await readFile(join(here, "src", "icon.svg")));
  for (const page of ["index.html", "votes.html"]) made.set(page, await readFile(join(here, page)));
  made.set("LICENSES.txt", Buffer.from(await licences(metafile)));
  const built = Object.fromEntries([...made].map(([name, content]) => [name, digest(content)]).sort());
  made.set("sources.json", Buffer.from(JSON.stringify({ sources: await digests(), built }, null, 1) + "\n"));
  return made;
}

/** The licence texts of the packages that are part of the bundle. */
async function licences(metafile) {
  const names = new Set();
  for (const path of Object.keys(metafile.inputs)) {
    const name = /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1];
    if (name) names.add(name);
  }
  const texts = [...names].sort().map(async (name) => {
    const folder = join(here, "node_modules", name);
    const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    const file = (await readdir(folder)).find((entry) => /^licen[cs]e/i.test(entry));
    return `${name} ${version} (${license})\n\n${(await readFile(join(folder, file), "utf8")).trim()}\n`;
  });
  const rule = `\n${"-".repeat(80)}\n\n`;
  return `The page contains these libraries:\n${rule}${(await Promise.all(texts)).join(rule)}`;
}

function digest(content) {
  return createHash("sha256").update(content).digest("hex");
}

/** SHA-256 of each source, by which a test without Node sees that the build is older than the sources. */
async function digests() {
  const found = {};
  for (const input of inputs) {
    for (const path of await paths(input)) {
      found[path] = digest(await readFile(join(here, path)));
    }
  }
  return found;
}

async function paths(input) {
  const entries = await readdir(join(here, input), { withFileTypes: true }).catch(() => null);
  if (!entries) return [input];
  const nested = await Promise.all(entries.map((entry) => paths(`${input}/${entry.name}`)));
  return nested.flat().sort();
}

async function write() {
  await rm(target, { recursive: true, force: true });
  await mkdir(target, { recursive: true });
  for (const [name, content] of files) await writeFile(join(target, name), content);
  const sizes = [...files].map(([name, content]) => `${name} ${(content.length / 1024).toFixed(1)} kB`);
  console.log(`${relative(process.cwd(), target)}: ${sizes.join(", ")}`);
}

async function check() {
  const present = new Set(await readdir(target).catch(() => []));
  const differing = [];
  for (const [name, content] of files) {
    const old = await readFile(join(target, name)).catch(() => null);
    if (!old || !old.equals(content)) differing.push(name);
    present.delete(name);
  }
  differing.push(...present);
  if (differing.length) {
    console.error(`ldm/app/static: ${differing.join(", ")} differ from what the sources make; run 'make web' and commit it`);
    process.exit(1);
  }
  console.log("ldm/app/static is what the sources make");
}
