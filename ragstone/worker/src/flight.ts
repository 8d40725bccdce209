/** One request to the origin that many follow live, wherever they are: a Durable Object named by the question and its release. */

import { DurableObject } from "cloudflare:workers";
import type { Env } from "./env";
import { now } from "./errors";
import { ask, BEGUN, JOINED, type Order } from "./origin";

/** Milliseconds that a finished flight may still be joined, unless its owner says before that the answer is kept. */
const GRACE = 5_000;

interface Live {
  /** The id of the key in whose name it is made. */
  owner: string;
  /** Unix seconds. */
  begun: number;
  head: Promise<Response>;
  parts: Uint8Array[];
  end: "whole" | "broken" | null;
  news: PromiseWithResolvers<void>;
}

export class Flight extends DurableObject<Env> {
  #live: Live | null = null;

  override async fetch(request: Request): Promise<Response> {
    const order = await request.json<Order>();
    const joined = this.#live !== null;
    const live = (this.#live ??= this.#start(order));
    const { status, headers } = await live.head;
    const told = new Headers(headers);
    told.set(BEGUN, String(live.begun));
    if (joined) told.set(JOINED, live.owner);
    return new Response(status === 304 ? null : follow(live), { status, headers: told });
  }

  /** The owner has kept the answer, or has seen that it can't be: who comes now looks into the cache, or asks anew. */
  async landed(): Promise<void> {
    this.#live = null;
  }

  #start(order: Order): Live {
    const live: Live = { owner: order.who.key, begun: now(), head: ask(this.env, order), parts: [], end: null, news: Promise.withResolvers() };
    this.ctx.waitUntil(this.#fly(live));
    return live;
  }

  async #fly(live: Live): Promise<void> {
    try {
      for await (const part of (await live.head).body ?? []) {
        live.parts.push(part);
        tell(live);
      }
      live.end = "whole";
    } catch {
      live.end = "broken";
    }
    tell(live);
    await scheduler.wait(GRACE);
    if (this.#live === live) this.#live = null;
  }
}

function tell(live: Live): void {
  live.news.resolve();
  live.news = Promise.withResolvers();
}

/** All parts from the first, then the rest as it comes. */
function follow(live: Live): ReadableStream<Uint8Array> {
  let seen = 0;
  return new ReadableStream({
    async pull(controller): Promise<void> {
      while (seen >= live.parts.length && !live.end) await live.news.promise;
      const part = live.parts[seen++];
      if (part) controller.enqueue(part);
      else if (live.end === "whole") controller.close();
      else controller.error(new Error("broken"));
    },
  });
}
