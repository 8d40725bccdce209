/** Requests and tokens a minute, per key (GCRA). `tests/vectors/limits.json` is the contract. */

import { DurableObject } from "cloudflare:workers";
import type { Principal } from "./access";
import type { Env } from "./env";
import { atLeastOne, fault, now, type Fault } from "./errors";
import { isWhole, type Fields } from "./values";

export type Kind = "requests" | "tokens";

/** For each limit, the seconds that what was taken needs to drain, and since when. */
export type Taken = Record<Kind, [seconds: number, at: number]>;

export interface Verdict {
  /** Seconds until it fits; 0 when it was taken. */
  wait: number;
  headers: Record<string, string>;
}

const MINUTE = 60;
const SLACK = 1e-6;

export const nothing = (): Taken => ({ requests: [0, 0], tokens: [0, 0] });

/** Takes `cost` where it fits; where it is `owed`, even over the limit. A negative cost gives back. Changes `taken`. */
export function take(taken: Taken, who: Principal, kind: Kind, cost: number, at: number, owed = false): Verdict {
  const most = { requests: who.rpm, tokens: who.tpm };
  const left = (of: Kind): number => Math.max(0, taken[of][0] - Math.max(0, at - taken[of][1]));
  const interval = MINUTE / most[kind];
  const fitting = Math.min(cost, most[kind]);
  const late = left(kind) + fitting * interval - MINUTE;
  const wait = !owed && late > SLACK ? late : 0;
  if (!wait) taken[kind] = [Math.max(0, left(kind) + (owed ? cost : fitting) * interval), at];
  const headers: Record<string, string> = {};
  for (const of of ["requests", "tokens"] as const) {
    const remaining = Math.max(0, Math.floor((MINUTE - left(of) + SLACK) / (MINUTE / most[of])));
    const told = { limit: most[of], remaining, reset: duration(left(of)) };
    for (const [what, value] of Object.entries(told)) headers[`x-ratelimit-${what}-${of}`] = `${value}`;
  }
  return { wait, headers };
}

/** The 429 of a verdict that says to wait. OpenAI's clients prefer milliseconds. */
export function limited({ wait, headers }: Verdict, kind: Kind): Fault {
  const told = { "retry-after-ms": atLeastOne(wait * 1000), ...headers };
  const message = `the limit of ${headers[`x-ratelimit-limit-${kind}`]} ${kind} a minute is reached; try again in ${wait.toFixed(3)} s`;
  return fault(429, "rate_limit_exceeded", message, { type: kind, wait, headers: told });
}

/** The exact count of one key, for all locations. */
export class Budget extends DurableObject<Env> {
  async take(who: Principal, kind: Kind, cost: number, owed: boolean): Promise<Verdict> {
    const taken = (await this.ctx.storage.get<Taken>("taken")) ?? nothing();
    const verdict = take(taken, who, kind, cost, now(), owed);
    void this.ctx.storage.put("taken", taken, { allowUnconfirmed: true });
    return verdict;
  }
}

export function count(env: Env, who: Principal, kind: Kind, cost: number, owed = false): Promise<Verdict> {
  return env.BUDGET.get(env.BUDGET.idFromName(who.key)).take(who, kind, cost, owed);
}

/** The tokens that an answer may cost: a quarter of the body's bytes, and the most tokens it may generate, for each choice. */
export function estimate(body: Fields, size: number, otherwise: number): number {
  const whole = (value: unknown): number => (isWhole(value) ? value : 0);
  const asked = whole(body.max_completion_tokens) || whole(body.max_tokens) || otherwise;
  return Math.ceil(size / 4) + asked * (whole(body.n) || 1);
}

/** Seconds as OpenAI writes them, rounded up to the millisecond. */
export function duration(seconds: number): string {
  const thousandths = Math.ceil(Math.round(seconds * 1e6) / 1000);
  if (thousandths > 0 && thousandths < 1000) return `${thousandths}ms`;
  const minutes = Math.floor(thousandths / 60_000);
  return `${minutes ? `${minutes}m` : ""}${(thousandths % 60_000) / 1000}s`;
}
