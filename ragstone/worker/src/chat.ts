/** A chat request: from the cache, from a flight under way, or from the origin. */

import type { Principal } from "./access";
import * as cache from "./cache";
import { asStream, key, parse } from "./canonical";
import { CONTROL, Fault, fault, JSON_TYPE, now, originFault, seen, TYPE } from "./errors";
import type { Exchange } from "./exchange";
import { estimate } from "./limit";
import { ask, BEGUN, broken, CACHE, FORBIDDEN, JOINED, pointer, RELEASE, REUSED, type Order, type Pointer } from "./origin";
import { DONE, Events, Fold, renewed, sse, stream, used, withoutUsage } from "./replay";
import * as shares from "./shares";
import { encoded, fields, isFields, quoted, type Fields } from "./values";

/** Refusals of who asked, not of what was asked. */
const PERSONAL = [401, 403, 429];
const LARGEST = 64 << 20;

interface Question {
  who: Principal;
  order: Order;
  /** The URL of its entry; empty when its answer is not kept. */
  at: string;
  asked: cache.Asked;
  streamed: boolean;
  counted: boolean;
  fields: Fields;
}

/** The origin's response, and whose flight was joined for it, if any; `landed` ends one's own, once the answer is kept. */
interface Flown {
  response: Response;
  joined: string | null;
  landed: () => Promise<void>;
}

type Made = Pick<cache.Entry, "release" | "etag" | "reused">;

type Chunk = [data: string, chunk: Fields];

type Chunks = AsyncGenerator<Chunk, cache.Entry, undefined>;

export async function chat(x: Exchange): Promise<Response> {
  const who = await x.admit();
  const body = parse(await x.body());
  const { stream, stream_options: options } = body.fields;
  if (typeof (stream ?? false) !== "boolean") throw wrong("stream", "true or false");
  if (!isFields(options ?? {})) throw wrong("stream_options", "an object");
  const named = await key(body, who.tenant, who.groups);
  const asked = cache.asked(x.header(CONTROL));
  return answer(x, {
    who,
    order: x.order(who, asStream(body), estimate(body.fields, body.size, x.env.MAX_TOKENS)),
    at: named && !asked.noStore ? `${x.origin}/v1/.kept/${named}` : "",
    asked,
    streamed: stream === true,
    counted: isFields(options) && Boolean(options.include_usage),
    fields: body.fields,
  });
}

async function answer(x: Exchange, question: Question): Promise<Response> {
  const { purged, release } = await answering(x, question);
  const entry = question.at ? cache.since(await cache.get(x.env, question.at), purged) : null;
  const decision = cache.decide(entry, question.asked, release, x.env.TTL, now());
  if (entry && decision === "hit") return reply(x, question, entry, "hit");
  try {
    return await fresh(x, question, release, decision === "revalidate" ? entry : null);
  } catch (error) {
    if (!(error instanceof Fault) || error.status < 500 || !cache.mayStandIn(entry, question.asked, release)) throw error;
    return reply(x, question, entry, "hit");
  }
}

/** What is in force, with the release that answers this conversation. */
async function answering(x: Exchange, { fields }: Question): Promise<Pointer> {
  const inForce = await pointer(x.env);
  return { ...inForce, release: await shares.release(inForce.release, inForce.canary, fields) };
}

/** From the origin; with an entry, it may confirm it. */
async function fresh(x: Exchange, question: Question, release: string, entry: cache.Entry | null): Promise<Response> {
  const flown = await fly(x, question, release, entry?.etag);
  const { response, joined } = flown;
  if (!joined) x.limited(response.headers);
  if (joined && joined !== question.who.key && PERSONAL.includes(response.status)) return answer(x, question);
  if (response.status === 200) return relayed(x, question, flown);
  if (response.status === 304 && entry) {
    const { release } = named(response);
    if (!release) throw originFault("named no release");
    const confirmed = { ...entry, release, body: renewed(entry.body, release), stored: now() };
    await keep(x, question, confirmed, joined);
    await settle(x, question, flown, 0);
    return reply(x, question, confirmed, "revalidated");
  }
  const body = await response.text();
  await settle(x, question, flown, 0);
  throw new Fault(response.status, body, { ...Object.fromEntries(response.headers), [CACHE]: made(question) });
}

/** Past the cache a request is the caller's alone, and ends with it; else it is everyone's who asks the same of the same release. */
async function fly(x: Exchange, { at, order }: Question, release: string, etag = ""): Promise<Flown> {
  if (etag) order.headers["if-none-match"] = etag;
  if (!at) return { response: await ask(x.env, order, x.left.signal), joined: null, landed: async () => {} };
  const flight = x.env.FLIGHT.get(x.env.FLIGHT.idFromName(`${at} ${release} ${etag}`));
  const response = await flight.fetch("http://flight", { method: "POST", body: quoted(order) });
  const joined = response.headers.get(JOINED);
  return { response, joined, landed: () => flight.landed() };
}

/** Replaces what was reserved with what was used, unless the reservation was another's. */
async function settle(x: Exchange, { order }: Question, { response, joined, landed }: Flown, used: number | null): Promise<void> {
  if (joined) return;
  await landed();
  await x.settle(order, response, used);
}

/** Puts the entry, unless a newer one is there: of the release in force, where this one is of an earlier. */
async function keep(x: Exchange, question: Question, entry: cache.Entry, joined: string | null): Promise<void> {
  const { at } = question;
  const [{ purged, release }, kept] = [await answering(x, question), await cache.get(x.env, at)];
  if (!cache.since(entry, purged)) return;
  if (kept?.release !== release || (!joined && entry.release === release)) await cache.put(x.env, at, entry);
}

/** A finished answer, as JSON or replayed as a stream; nothing but headers to a caller who has it. */
function reply(x: Exchange, question: Question, entry: cache.Entry, state: string): Response {
  const age = `${Math.max(0, Math.floor(now() - entry.stored))}`;
  const headers = { ...told(entry, state), ...(state !== made(question) && { age }) };
  if (entry.etag && x.header("if-none-match") === entry.etag) return new Response(null, { status: 304, headers });
  const body = question.streamed ? stream(fields(entry.body), question.counted) : entry.body;
  return new Response(body, { headers: { ...headers, ...(question.streamed ? STREAM : JSON_TYPE) } });
}

/** The answer as it is made, or as JSON once it is whole. Where it is to be kept, it is read to its end even when the caller leaves. */
async function relayed(x: Exchange, question: Question, flown: Flown): Promise<Response> {
  const chunks = read(x, question, flown);
  if (!question.streamed) return reply(x, question, await last(chunks), made(question));
  const first = await chunks.next();
  const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>();
  const writer = writable.getWriter();
  writer.closed.catch(() => x.left.abort());
  x.live = pump(chunks, first, writer, question.counted);
  return new Response(readable, { headers: { ...told(named(flown.response), made(question)), ...STREAM } });
}

/** The chunks as they come and, at the end, the answer, kept and settled before it is told. Throws on one that is not whole. */
async function* read(x: Exchange, question: Question, flown: Flown): Chunks {
  const { response, joined } = flown;
  const [events, fold] = [new Events(), new Fold()];
  let [size, tokens]: [number, number | null] = [0, null];
  try {
    if (!response.headers.get(TYPE)?.startsWith("text/event-stream")) throw originFault("answered without a stream");
    for await (const part of response.body ?? []) {
      size += part.length;
      if (size > LARGEST) throw originFault("answered too much");
      for (const data of events.feed(part)) {
        const chunk = fields(data);
        if (chunk.error) throw new Fault(502, data, {});
        fold.add(chunk);
        yield [data, chunk];
      }
      if (events.done) break;
    }
    if (!events.done || !fold.complete) throw originFault("gave an answer cut short");
    const completion = fold.completion();
    const entry = { body: quoted(completion), ...named(response), stored: now(), begun: Number(response.headers.get(BEGUN)) };
    if (question.at && entry.release && !response.headers.has(FORBIDDEN)) await keep(x, question, entry, joined);
    tokens = used(completion);
    return entry;
  } catch (error) {
    tokens = x.left.signal.aborted && !question.at ? null : 0; // who hangs up past the cache has spent what was reserved
    throw broken(error, "broke off or made no sense", 502);
  } finally {
    await settle(x, question, flown, tokens);
  }
}

async function last(chunks: Chunks): Promise<cache.Entry> {
  let step = await chunks.next();
  while (!step.done) step = await chunks.next();
  return step.value;
}

/** Writes what comes, as long as the caller is there. A stream that breaks ends with an error event, and without `[DONE]`. */
async function pump(
  chunks: Chunks,
  first: IteratorResult<Chunk, cache.Entry>,
  writer: WritableStreamDefaultWriter<Uint8Array>,
  counted: boolean,
): Promise<void> {
  const write = (text: string): Promise<void> => writer.write(encoded(text)).catch(() => {});
  try {
    for (let step = first; !step.done; step = await chunks.next()) {
      const [data, chunk] = step.value;
      await write(counted ? sse(data) : withoutUsage(data, chunk));
    }
    await write(DONE);
  } catch (error) {
    await write(sse(seen(error).body));
  }
  await writer.close().catch(() => {});
}

const STREAM = { [TYPE]: "text/event-stream; charset=utf-8" };
const wrong = (field: string, what: string): Fault => fault(400, "invalid_request", `${field} must be ${what}`, { param: field });
const made = (question: Question): string => (question.at ? "miss" : "bypass");
const named = ({ headers }: Response): Made => ({
  release: headers.get(RELEASE) ?? "",
  etag: headers.get("etag") ?? "",
  reused: headers.get(REUSED) ?? "",
});
const told = ({ release, etag, reused }: Made, state: string): Record<string, string> => ({
  [CACHE]: state,
  ...(release && { [RELEASE]: release }),
  ...(etag && { etag }),
  ...(reused && { [REUSED]: reused }),
});
