/** One request, who sent it, and the headers that its response carries. */

import { unauthorized, verify, type Principal } from "./access";
import type { Env } from "./env";
import { CONTROL, fault, JSON_TYPE, now } from "./errors";
import { count, limited } from "./limit";
import { BEGUN, FORBIDDEN, JOINED, pointer, type Order } from "./origin";

const ID = "x-request-id";
const FORWARDED = ["authorization", CONTROL, "traceparent", "tracestate"];
/** The requests that this isolate is at. */
export const busy = { requests: 0 };

export class Exchange {
  readonly origin: string;
  readonly path: string;
  readonly id: string;
  /** Told when the caller hangs up. */
  readonly left = new AbortController();
  /** Ends when the response's stream does. */
  live = Promise.resolve();
  #limits: Record<string, string> = {};

  constructor(
    readonly request: Request,
    readonly env: Env,
  ) {
    ({ origin: this.origin, pathname: this.path } = new URL(request.url));
    request.signal.addEventListener("abort", () => this.left.abort());
    const given = this.header(ID);
    this.id = /^[\w.:-]{1,128}$/.test(given) ? given : `req-${crypto.randomUUID()}`;
  }

  header(name: string): string {
    return this.request.headers.get(name) ?? "";
  }

  /** Who asks, counted against their limit. Throws a 401 or a 429. */
  async admit(): Promise<Principal> {
    const { keys, revoked } = await pointer(this.env);
    const token = /^bearer +(\S+) *$/i.exec(this.header("authorization"))?.[1];
    if (!token) throw unauthorized("is missing: send 'Authorization: Bearer <key>'");
    const who = await verify(token, keys, revoked, now());
    const verdict = await count(this.env, who, "requests", 1);
    this.#limits = verdict.headers;
    if (verdict.wait) throw limited(verdict, "requests");
    return who;
  }

  /** Replaces the tokens that were reserved with those used, unless nobody knows, or the reservation was refused. */
  async settle({ who, tokens }: Order, { headers }: Response, used: number | null): Promise<void> {
    if (used === null || headers.has("retry-after-ms")) return;
    this.#limits = (await count(this.env, who, "tokens", used - Math.min(tokens, who.tpm), true)).headers;
  }

  /** The limits as they are after a request that was made elsewhere on behalf of this one. */
  limited(headers: Headers): void {
    for (const [name, value] of Object.entries(this.#limits)) this.#limits[name] = headers.get(name) ?? value;
  }

  /** The whole body. Throws a 413, before it is read where its length is told. */
  async body(): Promise<Uint8Array> {
    const bound = (size: number): void => {
      if (size > this.env.MAX_BODY) throw fault(413, "body_too_large", `the body is larger than ${this.env.MAX_BODY} bytes`);
    };
    bound(Number(this.header("content-length")));
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const part of this.request.body ?? []) {
      parts.push(part);
      bound((size += part.length));
    }
    return new Blob(parts).bytes();
  }

  /** What the origin is asked on behalf of the caller: nothing can be smuggled past a list of what may pass. */
  order(who: Principal, body: string | null, tokens: number): Order {
    const headers: Record<string, string> = { ...JSON_TYPE, "accept-encoding": "identity", [ID]: this.id };
    for (const name of FORWARDED) if (this.header(name)) headers[name] = this.header(name);
    return { method: this.request.method, path: this.path, headers, body, who, tokens };
  }

  /** The response with the headers that all of this exchange carry. */
  signed(response: Response): Response {
    for (const [name, value] of Object.entries({ ...this.#limits, [ID]: this.id })) response.headers.set(name, value);
    for (const name of [JOINED, BEGUN, FORBIDDEN]) response.headers.delete(name);
    return response;
  }
}
