/** The edge as a Cloudflare Worker: the contract of `tests/conformance/test_edge.py`, on Cloudflare's cache and network. */

import { chat } from "./chat";
import { parse } from "./canonical";
import type { Env } from "./env";
import { fault, seen } from "./errors";
import { busy, Exchange } from "./exchange";
import { ask, CACHE, pointer, RELEASE, state } from "./origin";
import { used } from "./replay";
import { fields } from "./values";

export { Flight } from "./flight";
export { Budget } from "./limit";

const POSTS = /^\/v1\/(chat\/completions|embeddings|retrieve)$/;
const GETS = /^\/(v1\/models(\/[A-Za-z0-9][\w.:-]{0,127})?|healthz|readyz)$/;

async function route(x: Exchange): Promise<Response> {
  const method = POSTS.test(x.path) ? "POST" : GETS.test(x.path) ? "GET" : null;
  if (!method) throw fault(404, "not_found", `there is no '${x.path.slice(0, 100)}' here`);
  if (x.request.method !== method) throw fault(405, "method_not_allowed", `${x.path} takes ${method}`, { headers: { allow: method } });
  if (!x.path.startsWith("/v1/")) return health(x);
  return x.path.startsWith("/v1/chat/") ? chat(x) : pass(x);
}

/** `/healthz` says that the Worker runs, `/readyz` that it can answer; the counts are this isolate's. */
async function health(x: Exchange): Promise<Response> {
  const known = await pointer(x.env).catch(() => null);
  const body = { status: known ? "ok" : "waiting for the origin", release: known?.release ?? null, origin: state.fault || "ok" };
  return Response.json({ ...body, ...busy }, { status: known || x.path === "/healthz" ? 200 : 503 });
}

/** What is not cached: keys and limits here, the answer from the origin. */
async function pass(x: Exchange): Promise<Response> {
  const [who, { release }] = [await x.admit(), await pointer(x.env)];
  const body = x.request.method === "POST" ? parse(await x.body()) : null;
  const order = x.order(who, body && body.text, Math.floor((body?.size ?? 0) / 4));
  const response = await ask(x.env, order, x.left.signal);
  const answer = await response.text();
  await x.settle(order, response, spent(answer));
  const headers = { [RELEASE]: release, ...Object.fromEntries(response.headers), [CACHE]: "bypass" };
  return new Response(answer, { status: response.status, headers });
}

function spent(answer: string): number {
  try {
    return used(fields(answer)) ?? 0;
  } catch {
    return 0;
  }
}

async function respond(x: Exchange): Promise<Response> {
  busy.requests += 1;
  const response = await route(x).catch((error: unknown) => seen(error).response);
  void x.live.finally(() => (busy.requests -= 1));
  return x.signed(response);
}

export default {
  async fetch(request: Request, env: Env, ctx: ExecutionContext): Promise<Response> {
    const x = new Exchange(request, env);
    const response = respond(x);
    ctx.waitUntil(response.then(() => x.live)); // a caller who leaves does not end what others wait for
    return response;
  },
} satisfies ExportedHandler<Env>;
