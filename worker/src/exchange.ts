/** One request and the headers that its response carries. */

import { verify, type Principal } from "./access";
import type { Env } from "./env";
import { fault, type Fault } from "./errors";
import { count, limited } from "./limit";
import { pointer, type Pointer } from "./origin";

const FORWARDED = ["authorization", "traceparent", "tracestate"];

export class Exchange {
  readonly request: Request;
  readonly env: Env;
  readonly ctx: ExecutionContext;
  readonly path: string;
  readonly id: string;
  /** Ends when the response's stream does. */
  live: Promise<void> | null = null;
  private limits: Record<string, string> = {};

  constructor(request: Request, env: Env, ctx: ExecutionContext) {
    [this.request, this.env, this.ctx, this.path] = [request, env, ctx, new URL(request.url).pathname];
    const given = this.header("x-request-id");
    this.id = /^[A-Za-z0-9._:-]{1,128}$/.test(given) ? given : `req-${crypto.randomUUID().replaceAll("-", "").slice(0, 24)}`;
  }

  header(name: string): string {
    return this.request.headers.get(name) ?? "";
  }

  pointer(): Promise<Pointer> {
    return pointer(this.env, this.ctx);
  }

  /** Who asks, counted against their limit. Throws a 401 or a 429. */
  async admit(): Promise<Principal> {
    const { keys, revoked } = await this.pointer();
    const token = /^bearer +(\S.*)$/i.exec(this.header("authorization"))?.[1]?.trim();
    if (!token) {
      const headers = { "www-authenticate": "Bearer" };
      throw fault(401, "invalid_api_key", "there is no API key: send 'Authorization: Bearer <key>'", { headers });
    }
    const principal = await verify(token, keys, revoked, Date.now() / 1000);
    await this.spend(principal, "requests", 1);
    return principal;
  }

  /** Throws a 429 while it does not fit, unless it is owed. */
  async spend(who: Principal, kind: "requests" | "tokens", cost: number, owed = false): Promise<void> {
    const verdict = await count(this.env, who, kind, cost, owed);
    this.limits = verdict.headers;
    if (verdict.wait) throw limited(verdict, kind, who.rpm);
  }

  /** The limits as they are after a request that was made elsewhere on behalf of this one. */
  limited(headers: Headers): void {
    for (const name of Object.keys(this.limits)) this.limits[name] = headers.get(name) ?? this.limits[name] ?? "";
  }

  /** The whole body. Throws a 413, before it is read where its length is told. */
  async body(): Promise<Uint8Array> {
    if (Number(this.header("content-length")) > this.env.MAX_BODY) throw this.tooLarge();
    const parts: Uint8Array[] = [];
    let size = 0;
    for await (const part of this.request.body ?? []) {
      parts.push(part);
      size += part.length;
      if (size > this.env.MAX_BODY) throw this.tooLarge();
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  /** What the origin is told of the caller: nothing can be smuggled past a list of what may pass. */
  forwarded(): Record<string, string> {
    const named = FORWARDED.filter((name) => this.request.headers.has(name)).map((name) => [name, this.header(name)]);
    return { ...Object.fromEntries(named), "content-type": "application/json", "accept-encoding": "identity", "x-request-id": this.id };
  }

  /** The response with the headers that all of this exchange carry. */
  signed(response: Response): Response {
    const whole = new Response(response.body, response);
    for (const [name, value] of Object.entries({ ...this.limits, "x-request-id": this.id })) whole.headers.set(name, value);
    return whole;
  }

  private tooLarge(): Fault {
    return fault(413, "body_too_large", `the body is larger than ${this.env.MAX_BODY} bytes`);
  }
}
