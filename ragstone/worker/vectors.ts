/** The Worker's rules, one call a request, for the cases in `tests/vectors/`: they run in the runtime that the Worker runs in. */

import { keyring, verify } from "./src/access";
import { asked, decide, mayStandIn, since, type Entry } from "./src/cache";
import { asStream, key, parse } from "./src/canonical";
import { seen } from "./src/errors";
import { duration, estimate, nothing, take, type Kind, type Taken } from "./src/limit";
import { Events, Fold, renewed, stream, used, withoutUsage } from "./src/replay";
import { release, type Shares } from "./src/shares";
import type { Fields } from "./src/values";

const who = (rpm: number, tpm: number) => ({ key: "k", tenant: "t", groups: ["g"], rpm, tpm, starts: 0, expires: 0 });

interface Step {
  rpm: number;
  tpm: number;
  taken: Taken | null;
  kind: Kind;
  cost: number;
  owed: boolean;
  at: number;
}

interface Kept {
  entry: Entry | null;
  "cache-control": string;
  release: string;
  ttl: number;
  now: number;
  purged?: number;
}

const rules = {
  key: (one: { body: string; tenant: string; groups: string[] }) => key(parse(bytes(one.body)), one.tenant, one.groups),
  sent: (one: { body: string }) => asStream(parse(bytes(one.body))),
  verify: async (one: { token: string; keys: Fields; revoked: string[]; now: number }) =>
    verify(one.token, await keyring(one.keys), new Set(one.revoked), one.now),
  decide: (one: Kept) => {
    const wanted = asked(one["cache-control"]);
    const entry = since(one.entry, one.purged ?? 0);
    const stands = mayStandIn(entry, wanted, one.release);
    return { decision: decide(entry, wanted, one.release, one.ttl, one.now), stand_in: stands };
  },
  take: (one: Step) => {
    const taken = one.taken ?? nothing();
    return { ...take(taken, who(one.rpm, one.tpm), one.kind, one.cost, one.at, one.owed), taken };
  },
  shares: (one: { in_force: string; canary: Shares; body: Fields }) => release(one.in_force, one.canary, one.body),
  estimate: (one: { body: Fields; size: number; default: number }) => estimate(one.body, one.size, one.default),
  duration: (one: { seconds: number }) => duration(one.seconds),
  fold: (one: { chunks: Fields[] }) => {
    const fold = new Fold();
    for (const chunk of one.chunks) fold.add(chunk);
    return { complete: fold.complete, completion: fold.completion(), tokens: used(fold.completion()) };
  },
  stream: (one: { completion: Fields; usage: boolean }) => stream(one.completion, one.usage),
  events: (one: { parts: string[] }) => {
    const events = new Events();
    return { events: one.parts.flatMap((part) => events.feed(bytes(part))), done: events.done };
  },
  withoutUsage: (one: { data: string }) => withoutUsage(one.data, JSON.parse(one.data)),
  renewed: (one: { body: string; release: string }) => renewed(one.body, one.release),
};

/** Text in base64, since a body need not be text. */
function bytes(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

export default {
  async fetch(request: Request): Promise<Response> {
    const rule = rules[new URL(request.url).pathname.slice(1) as keyof typeof rules] as (one: unknown) => unknown;
    try {
      return Response.json({ is: (await rule(await request.json())) ?? null });
    } catch (error) {
      return error instanceof TypeError ? Response.json({ error: error.message }, { status: 500 }) : seen(error).response;
    }
  },
} satisfies ExportedHandler;
