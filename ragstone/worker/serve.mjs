/** The Worker on this machine, in the workerd that Cloudflare runs: prints its URL, and ends when its input does. */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const [packages, file, host, port] = process.argv.slice(2);
const require = createRequire(`${packages}/package.json`);
const { buildSync } = require("esbuild");
const { Miniflare } = require("miniflare");

const config = JSON.parse(readFileSync(file, "utf8"));
const bundle = { bundle: true, format: "esm", target: "es2024", external: ["cloudflare:workers"], write: false };
const { outputFiles } = buildSync({ ...bundle, entryPoints: [config.main] });
const objects = (config.durable_objects?.bindings ?? []).map(({ name, class_name: className }) => [name, { className, useSQLite: true }]);

const worker = new Miniflare({
  modules: true,
  script: outputFiles[0].text,
  compatibilityDate: config.compatibility_date,
  compatibilityFlags: config.compatibility_flags,
  bindings: config.vars,
  durableObjects: Object.fromEntries(objects),
  kvNamespaces: (config.kv_namespaces ?? []).map(({ binding }) => binding),
  cache: !config.workers_dev,
  host,
  port: Number(port),
});
const url = await worker.ready;
process.stdout.write(`${url.origin}\n`);

async function end() {
  await worker.dispose();
  process.exit(0);
}
process.stdin.on("end", end).resume();
process.on("SIGTERM", end);
