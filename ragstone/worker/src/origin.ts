/** The origin over HTTP: its release pointer, and its answers, of which only named headers come through. */

import { keyring, type Keys, type Principal } from "./access";
import type { Env } from "./env";
import { CONTROL, Fault, now, originFault, TYPE } from "./errors";
import { count, limited } from "./limit";
import type { Shares } from "./shares";
import { isFields, isWhole, list, none, object, type Fields } from "./values";

/** What the origin is asked on behalf of whom, and the tokens that it may cost. It is sent to a Durable Object as JSON. */
export interface Order {
  method: string;
  path: string;
  headers: Record<string, string>;
  body: string | null;
  who: Principal;
  tokens: number;
}

export interface Pointer {
  release: string;
  keys: Keys;
  revoked: Set<string>;
  /** Other releases that answer a share of the conversations, in per cent. */
  canary: Shares;
  /** Unix seconds: no answer that was kept before is served. */
  purged: number;
}

export const RELEASE = "x-ragstone-release";
export const CACHE = "x-ragstone-cache";
export const REUSED = "x-ragstone-reused";
/** What a response says to the edge alone. */
export const [JOINED, BEGUN, FORBIDDEN] = ["x-joined", "x-begun", "x-forbidden"] as const;
const RETURNED = [TYPE, "etag", "retry-after", RELEASE, REUSED];

/** What was last known of the origin. Plain data: an isolate's requests may share it, where they may not share a fetch. */
export const state = { pointer: null as Pointer | null, fault: "was not asked yet", begun: 0, checked: 0 };

/** What is in force, checked again once it is old enough. While one request checks, others go on with what is known, unless that is older
 * still. Throws a 503 when nothing is known. */
export async function pointer(env: Env): Promise<Pointer> {
  const late = (since: number, times: number): boolean => now() - since >= env.RELEASE_CHECK * times;
  if (!state.pointer || (late(state.checked, 1) && late(state.begun, 1)) || late(state.checked, 2)) {
    state.begun = now();
    await refresh(env);
    state.checked = now();
  }
  if (!state.pointer) throw originFault(state.fault, 503, env.RELEASE_CHECK);
  return state.pointer;
}

async function refresh(env: Env): Promise<void> {
  try {
    const signal = AbortSignal.timeout(Math.max(1, env.RELEASE_CHECK) * 1000);
    const response = await fetch(`${env.ORIGIN}/v1/release`, { redirect: "manual", signal });
    const { release, keys, revoked, canary = {}, purged = 0 } = await response.json<Fields>();
    if (!response.ok || !release || typeof release !== "string" || typeof purged !== "number" || !isShares(canary)) return none();
    state.pointer = { release, keys: await keyring(object(keys)), revoked: new Set(list(revoked).map(String)), canary, purged };
    state.fault = "";
  } catch (error) {
    state.fault = `did not tell its release: ${error}`;
  }
}

const isShares = (value: unknown): value is Shares => isFields(value) && Object.values(value).every((share) => isWhole(share, 1));

/** The origin's response, or a failure as one: whoever passes it on through a Durable Object need not tell them apart. */
export async function ask(env: Env, order: Order, ...leaves: AbortSignal[]): Promise<Response> {
  const verdict = await count(env, order.who, "tokens", order.tokens);
  if (verdict.wait) return limited(verdict, "tokens").response;
  try {
    const signal = AbortSignal.any([AbortSignal.timeout(env.TIMEOUT * 1000), ...leaves]);
    const answer = await fetch(env.ORIGIN + order.path, { ...order, redirect: "manual", signal });
    if (![200, 304].includes(answer.status) && !answer.headers.get(TYPE)?.includes("json")) {
      await answer.body?.cancel();
      const status = [522, 524].includes(answer.status) ? 504 : answer.status > 520 ? 503 : 502; // Cloudflare's words for late and gone
      return originFault(`answered ${answer.status} without an error in JSON`, status).response;
    }
    const headers = new Headers(verdict.headers);
    for (const name of RETURNED) {
      const value = answer.headers.get(name);
      if (value) headers.set(name, value);
    }
    if (answer.headers.get(CONTROL)?.toLowerCase().includes("no-store")) headers.set(FORBIDDEN, "to be kept");
    return new Response(answer.body, { status: answer.status, headers });
  } catch (error) {
    return broken(error, "can't be reached", 503).response;
  }
}

/** What it means that a request to the origin ended early. */
export function broken(error: unknown, how: string, status: number): Fault {
  if (error instanceof Fault) return error;
  if (isFields(error) && error.name === "TimeoutError") return originFault("did not answer in time", 504);
  return originFault(how, status);
}
