/** Finished answers: in the location's cache, and in KV for the others when bound. `tests/vectors/cache.json` is the contract. */

import type { Env } from "./env";
import { CONTROL, JSON_TYPE } from "./errors";
import { quoted } from "./values";

export interface Entry {
  /** The answer as JSON, from which every other form is replayed. */
  body: string;
  /** The origin's validator, quoted; empty when it gave none. */
  etag: string;
  release: string;
  /** Unix seconds. */
  stored: number;
  /** When the origin was asked to make it, in Unix seconds; a confirmation leaves it. */
  begun: number;
  /** The question that it was made for, where that was another one. */
  reused: string;
}

export interface Asked {
  noStore: boolean;
  noCache: boolean;
  maxAge: number;
}

/** Seconds by which an entry may be dated later than this clock; beyond, its age can't be known. */
const AHEAD = 60;
/** Seconds that an entry stays: the cache hands out nothing that is too old, and an old entry is worth a confirmation. */
const KEPT = 7 * 86_400;

export function asked(header: string): Asked {
  const directives = header.split(",").map((directive) => directive.trim().toLowerCase());
  const ages = directives.map((directive) => /^max-age\s*=\s*"?(\d{1,9})"?$/.exec(directive)?.[1] ?? Infinity);
  return { noStore: directives.includes("no-store"), noCache: directives.includes("no-cache"), maxAge: Math.min(...ages.map(Number)) };
}

export function decide(entry: Entry | null, asked: Asked, release: string, ttl: number, now: number): "hit" | "revalidate" | "fetch" | "bypass" {
  if (asked.noStore) return "bypass";
  if (!entry) return "fetch";
  const age = now - entry.stored;
  const fresh = age >= -AHEAD && Math.max(0, age) < Math.min(ttl, asked.maxAge);
  if (fresh && entry.release === release && !asked.noCache) return "hit";
  return entry.etag ? "revalidate" : "fetch";
}

/** The entry, unless it was begun before `purged`: it may rest on what the purge was for. */
export const since = (entry: Entry | null, purged: number): Entry | null => (entry && entry.begun >= purged ? entry : null);

/** Whether the entry may be served, although it is no longer fresh, when the origin can't be asked. */
export const mayStandIn = (entry: Entry | null, asked: Asked, release: string): entry is Entry =>
  entry?.release === release && !asked.noCache && !asked.noStore;

/** `at` is a URL below the Worker's own route, so that nobody reaches the entry past it. */
export async function get(env: Env, at: string): Promise<Entry | null> {
  const found = await caches.default.match(at);
  if (found) return { ...JSON.parse(found.headers.get("x-entry") ?? "{}"), body: await found.text() };
  const kept = await env.ANSWERS?.getWithMetadata<Omit<Entry, "body">>(at);
  return kept?.value && kept.metadata ? { ...kept.metadata, body: kept.value } : null;
}

export async function put(env: Env, at: string, { body, ...entry }: Entry): Promise<void> {
  const headers = { [CONTROL]: `max-age=${KEPT}`, ...JSON_TYPE, "x-entry": quoted(entry) };
  await caches.default.put(at, new Response(body, { headers }));
  await env.ANSWERS?.put(at, body, { metadata: entry, expirationTtl: KEPT });
}
