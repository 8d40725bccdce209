/** The edge as a Cloudflare Worker: the contract of `tests/conformance/test_edge.py`, on Cloudflare's cache and network. */

import { CHAT, chat, flights } from "./chat";
import { parse } from "./canonical";
import type { Env } from "./env";
import { fault, seen } from "./errors";
import { Exchange } from "./exchange";
import { ask, RELEASE, state } from "./origin";
import { used } from "./replay";

export { Flight } from "./flight";
export { Budget } from "./limit";

const METHODS = new Map([
  [CHAT, "POST"],
  ["/v1/embeddings", "POST"],
  ["/v1/retrieve", "POST"],
  ["/v1/models", "GET"],
  ["/healthz", "GET"],
  ["/readyz", "GET"],
]);
const MODEL = /^\/v1\/models\/[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$/;

let open = 0;

async function route(x: Exchange): Promise<Response> {
  const method = METHODS.get(x.path) ?? (MODEL.test(x.path) ? "GET" : null);
  if (!method) throw fault(404, "not_found", `there is no '${x.path.slice(0, 100)}' here`);
  if (x.request.method !== method) throw fault(405, "method_not_allowed", `${x.path} takes ${method}`, { headers: { allow: method } });
  if (x.path === "/healthz" || x.path === "/readyz") return health(x);
  await x.pointer();
  return x.path === CHAT ? chat(x) : pass(x);
}

/** `/healthz` says that the Worker runs, `/readyz` that it can answer; the counts are this isolate's. */
async function health(x: Exchange): Promise<Response> {
  const pointer = await x.pointer().catch(() => null);
  const body = { status: pointer ? "ok" : "waiting for the origin", release: pointer?.release ?? null, origin: state.fault || "ok" };
  return Response.json({ ...body, requests: open, flights: flights.open }, { status: pointer || x.path === "/healthz" ? 200 : 503 });
}

/** What is not cached: keys and limits here, the answer from the origin. */
async function pass(x: Exchange): Promise<Response> {
  const [who, { release }] = [await x.admit(), await x.pointer()];
  const body = x.request.method === "POST" ? parse(await x.body()) : null;
  const tokens = Math.floor((body?.size ?? 0) / 4);
  const order = { method: x.request.method, path: x.path, headers: x.forwarded(), body: body && body.text, who, tokens };
  const response = await ask(x.env, order, x.request.signal);
  const answer = await response.text();
  if (!response.headers.has("retry-after-ms")) await x.spend(who, "tokens", spent(answer) - Math.min(tokens, who.tpm), true);
  const headers = new Headers(response.headers);
  headers.delete("x-keep");
  headers.set("x-ragstone-cache", "bypass");
  if (!headers.has(RELEASE)) headers.set(RELEASE, release);
  return new Response(answer, { status: response.status, headers });
}

function spent(answer: string): number {
  try {
    return used(JSON.parse(answer)) ?? 0;
  } catch {
    return 0;
  }
}

export default {
  async fetch(request: Request, env: Env, ctx: ExecutionContext): Promise<Response> {
    const x = new Exchange(request, env, ctx);
    open += 1;
    try {
      return x.signed(await route(x));
    } catch (error) {
      return x.signed(seen(error).response);
    } finally {
      ctx.waitUntil((x.live ?? Promise.resolve()).finally(() => (open -= 1)));
    }
  },
} satisfies ExportedHandler<Env>;
