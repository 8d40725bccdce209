/** A chat request: from the cache, from a flight under way, or from the origin. */

import type { Principal } from "./access";
import * as cache from "./cache";
import { asStream, isFields, key, parse, type Body, type Fields } from "./canonical";
import { Fault, fault, originFault, seen } from "./errors";
import type { Exchange } from "./exchange";
import { estimate } from "./limit";
import { ask, broken, RELEASE, type Order } from "./origin";
import { DONE, Events, Fold, renewed, sse, stream, used, withoutUsage } from "./replay";

export const CHAT = "/v1/chat/completions";
/** Refusals of who asked, not of what was asked. */
const PERSONAL = [401, 403, 429];
const LARGEST = 64 << 20;

/** Chat requests under way at the origin, in this isolate. */
export const flights = { open: 0 };

interface Question {
  who: Principal;
  body: Body;
  /** The URL of its entry; null when its answer is not kept. */
  at: string | null;
  asked: cache.Asked;
  streamed: boolean;
  includeUsage: boolean;
  tokens: number;
}

/** The origin's response to a question, and whose flight it was joined to, if to any. */
interface Flown {
  response: Response;
  joined: string | null;
  /** Ends the flight, once the answer is kept. */
  landed: () => Promise<void>;
}

interface Chunk {
  data: string;
  chunk: Fields;
}

export async function chat(x: Exchange): Promise<Response> {
  const who = await x.admit();
  return answer(x, await understood(x, who, parse(await x.body())));
}

async function understood(x: Exchange, who: Principal, body: Body): Promise<Question> {
  const { stream, stream_options: options } = body.fields;
  if (![undefined, null, true, false].includes(stream as undefined)) throw wrong("stream", "true or false");
  if (options !== undefined && options !== null && !isFields(options)) throw wrong("stream_options", "an object");
  const named = await key(body, who.tenant, who.groups);
  const asked = cache.asked(x.header("cache-control"));
  const at = named && !asked.noStore ? `${new URL(x.request.url).origin}/v1/.kept/${named}` : null;
  const includeUsage = isFields(options) && Boolean(options.include_usage);
  return { who, body, at, asked, streamed: stream === true, includeUsage, tokens: estimate(body.fields, body.size, x.env.MAX_TOKENS) };
}

async function answer(x: Exchange, question: Question): Promise<Response> {
  const { release } = await x.pointer();
  const entry = question.at ? await cache.get(x.env, question.at) : null;
  const decision = cache.decide(entry, question.asked, release, x.env.TTL, Date.now() / 1000);
  if (entry && decision === "hit") return reply(x, question, entry, "hit");
  try {
    return await fresh(x, question, release, decision === "revalidate" ? entry : null);
  } catch (error) {
    if (!(error instanceof Fault) || error.status < 500 || !cache.mayStandIn(entry, question.asked, release)) throw error;
    return reply(x, question, entry, "hit");
  }
}

/** From the origin; with an entry, it may confirm it. */
async function fresh(x: Exchange, question: Question, release: string, entry: cache.Entry | null): Promise<Response> {
  const headers = { ...x.forwarded(), ...(entry && { "if-none-match": entry.etag }) };
  const order = { method: "POST", path: CHAT, headers, body: asStream(question.body), who: question.who, tokens: question.tokens };
  const flown = await fly(x, order, question.at && `${question.at} ${release} ${entry?.etag}`);
  const { response, joined } = flown;
  if (!joined) x.limited(response.headers);
  if (PERSONAL.includes(response.status) && joined && joined !== question.who.key) return answer(x, question);
  if (response.status === 200) return streamed(x, question, flown);
  const settled = settle(x, question, flown, 0);
  x.ctx.waitUntil(settled);
  if (response.status === 304 && entry) return confirmed(x, question, flown, entry, settled);
  const body = await response.text();
  await settled;
  const told = [...response.headers].filter(([name]) => !name.startsWith("x-joined") && name !== "x-keep");
  throw new Fault(response.status, body, { ...Object.fromEntries(told), "x-ragstone-cache": question.at ? "miss" : "bypass" });
}

async function fly(x: Exchange, order: Order, name: string | null): Promise<Flown> {
  if (!name) return { response: await ask(x.env, order, x.request.signal), joined: null, landed: async () => {} };
  const flight = x.env.FLIGHT.get(x.env.FLIGHT.idFromName(name));
  const response = await flight.fetch("http://flight/", { method: "POST", body: JSON.stringify(order) });
  const joined = response.headers.get("x-joined");
  return { response, joined, landed: async () => (joined ? undefined : flight.landed()) };
}

/** Replaces what was reserved with what was used, unless it was another's reservation. */
async function settle(x: Exchange, { who, tokens }: Question, { response, joined, landed }: Flown, used: number | null): Promise<void> {
  await landed();
  if (joined || used === null || response.headers.has("retry-after-ms")) return;
  await x.spend(who, "tokens", used - Math.min(tokens, who.tpm), true);
}

async function confirmed(x: Exchange, question: Question, { response, joined }: Flown, entry: cache.Entry, settled: Promise<void>): Promise<Response> {
  const release = response.headers.get(RELEASE);
  if (!release) throw originFault(502, "the origin confirmed an answer without naming its release");
  const again = { ...entry, body: renewed(entry.body, release), release, stored: Date.now() / 1000 };
  await keep(x, question, again, joined !== null);
  await settled;
  return reply(x, question, again, "revalidated");
}

/** Puts the entry, unless a newer one is there: of the release in force, where this one is of an earlier. */
async function keep(x: Exchange, { at }: Question, entry: cache.Entry, joined: boolean): Promise<void> {
  if (!at) return;
  const { release } = await x.pointer();
  const kept = await cache.get(x.env, at);
  if (kept?.release === release && (joined || entry.release !== release)) return;
  await cache.put(x.env, at, entry);
}

/** A finished answer, as JSON or replayed as a stream; nothing but headers to a caller who has it. */
async function reply(x: Exchange, question: Question, entry: cache.Entry, state: string): Promise<Response> {
  const headers = { ...validators(entry), "x-ragstone-cache": state, ...(state !== "miss" && state !== "bypass" && { age: age(entry) }) };
  if (entry.etag && x.header("if-none-match") === entry.etag) return new Response(null, { status: 304, headers });
  if (!question.streamed) return new Response(entry.body, { headers: { ...headers, "content-type": "application/json" } });
  return new Response(stream(JSON.parse(entry.body), question.includeUsage), { headers: { ...headers, ...STREAM } });
}

const STREAM = { "content-type": "text/event-stream; charset=utf-8" };
const age = (entry: cache.Entry): string => String(Math.max(0, Math.floor(Date.now() / 1000 - entry.stored)));
const wrong = (field: string, what: string): Fault => fault(400, "invalid_request", `${field} must be ${what}`, { param: field });

function validators({ release, etag }: { release: string; etag: string }): Record<string, string> {
  return { ...(release && { [RELEASE]: release }), ...(etag && { etag }) };
}

/** The answer as it is made, or as JSON once it is whole. Where it is to be kept, it is read to its end even when the caller leaves. */
async function streamed(x: Exchange, question: Question, flown: Flown): Promise<Response> {
  const chunks = read(x, question, flown);
  flights.open += 1;
  const first = await (question.streamed ? chunks.next() : null);
  if (!first) {
    const whole = last(chunks).finally(() => (flights.open -= 1));
    if (question.at) x.ctx.waitUntil(whole.catch(() => {}));
    return reply(x, question, await whole, question.at ? "miss" : "bypass");
  }
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  x.live = pump(chunks, first, writable.getWriter(), question.includeUsage).finally(() => (flights.open -= 1));
  x.ctx.waitUntil(x.live);
  const head = { release: flown.response.headers.get(RELEASE) ?? "", etag: flown.response.headers.get("etag") ?? "" };
  return new Response(readable, { headers: { ...validators(head), ...STREAM, "x-ragstone-cache": question.at ? "miss" : "bypass" } });
}

/** The chunks as they come and, at the end, the answer, kept and settled before it is told. Throws on one that is not whole. */
async function* read(x: Exchange, question: Question, flown: Flown): AsyncGenerator<Chunk, cache.Entry> {
  const { response, joined } = flown;
  const [events, fold] = [new Events(), new Fold()];
  let [size, tokens]: [number, number | null] = [0, null];
  try {
    if (!response.headers.get("content-type")?.startsWith("text/event-stream")) throw originFault(502, "the origin answered without a stream");
    for await (const part of response.body ?? []) {
      size += part.length;
      if (size > LARGEST) throw originFault(502, `the origin's answer is over ${LARGEST} bytes`);
      for (const data of events.feed(part)) {
        const chunk = understoodChunk(data);
        fold.add(chunk);
        yield { data, chunk };
      }
      if (events.done) break;
    }
    if (!events.done || !fold.complete) throw originFault(502, "the origin's answer was cut short");
    const [release, etag] = [response.headers.get(RELEASE) ?? "", response.headers.get("etag") ?? ""];
    const entry = { body: JSON.stringify(fold.completion()), etag, release, stored: Date.now() / 1000 };
    if (release && response.headers.get("x-keep") === "yes") await keep(x, question, entry, joined !== null);
    tokens = used(fold.completion());
    return entry;
  } catch (error) {
    tokens = x.request.signal.aborted ? null : 0; // who hangs up past the cache has spent what was reserved
    throw broken(error, "broke off, or sent what is no answer", 502);
  } finally {
    await settle(x, question, flown, tokens);
  }
}

function understoodChunk(data: string): Fields {
  const chunk: unknown = JSON.parse(data);
  if (!isFields(chunk)) throw originFault(502, "the origin's stream holds an event that is no JSON object");
  if (chunk.error) throw new Fault(502, data, {});
  return chunk;
}

async function last(chunks: AsyncGenerator<Chunk, cache.Entry>): Promise<cache.Entry> {
  for (;;) {
    const step = await chunks.next();
    if (step.done) return step.value;
  }
}

/** Writes what comes, as long as the caller is there. A stream that breaks ends with an error event, and without `[DONE]`. */
async function pump(
  chunks: AsyncGenerator<Chunk, cache.Entry>,
  first: IteratorResult<Chunk, cache.Entry>,
  writer: WritableStreamDefaultWriter<Uint8Array>,
  includeUsage: boolean,
): Promise<void> {
  let there = true;
  const write = async (text: string): Promise<void> => {
    if (there && text) await writer.write(new TextEncoder().encode(text)).catch(() => (there = false));
  };
  try {
    for (let step = first; !step.done; step = await chunks.next()) {
      const { data, chunk } = step.value;
      await write(includeUsage ? sse(data) : withoutUsage(data, chunk));
    }
    await write(DONE);
  } catch (error) {
    await write(sse(seen(error).body));
  }
  await writer.close().catch(() => {});
}
