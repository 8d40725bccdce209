/** What a caller sees of a failure: OpenAI's error JSON, with its status and headers. */

import { quoted } from "./values";

/** Unix seconds. */
export const now = (): number => Date.now() / 1000;

/** A wait that is told is rounded up. */
export const atLeastOne = (value: number): string => String(Math.max(1, Math.ceil(value)));

export const TYPE = "content-type";
export const CONTROL = "cache-control";
export const JSON_TYPE = { [TYPE]: "application/json" };

export interface More {
  type?: string;
  param?: string | null;
  /** Seconds after which it is worth trying again. */
  wait?: number;
  headers?: Record<string, string>;
}

export class Fault extends Error {
  constructor(
    readonly status: number,
    readonly body: string,
    readonly headers: Record<string, string>,
  ) {
    super(body);
  }

  get response(): Response {
    return new Response(this.body, { status: this.status, headers: { ...JSON_TYPE, ...this.headers } });
  }
}

export function fault(status: number, code: string, message: string, { type = kind(status), param = null, wait, headers }: More = {}): Fault {
  const told = { ...headers, ...(wait !== undefined && { "retry-after": atLeastOne(wait) }) };
  return new Fault(status, quoted({ error: { message, type, param, code } }), told);
}

const kind = (status: number): string => (status < 500 ? "invalid_request_error" : "server_error");

export const originFault = (what: string, status = 502, wait = 1): Fault => fault(status, "origin_error", `the origin ${what}`, { wait });

/** Any error as one that a caller may see. What was not foreseen is told to the log alone. */
export function seen(error: unknown): Fault {
  if (error instanceof Fault) return error;
  console.error(error);
  return fault(500, "internal_error", "the edge failed; its log says why");
}
