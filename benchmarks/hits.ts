/** The Worker with its answers in the module's own memory, and its limits too where no Durable Object is bound for them. */

import worker, { Budget, Flight as Shared } from "../ragstone/worker/src/index";
import type { Principal } from "../ragstone/worker/src/access";
import type { Env } from "../ragstone/worker/src/env";
import { now } from "../ragstone/worker/src/errors";
import { nothing, take, type Kind } from "../ragstone/worker/src/limit";

interface Kept {
  body: string;
  headers: [string, string][];
}

const answers = new Map<string, Kept>();
const memory = {
  async match(at: string): Promise<Response | undefined> {
    const kept = answers.get(at);
    return kept && new Response(kept.body, { headers: kept.headers });
  },
  async put(at: string, response: Response): Promise<void> {
    answers.set(at, { body: await response.text(), headers: [...response.headers] });
  },
};
Object.defineProperty(globalThis, "caches", { value: { default: memory } });

const taken = nothing();
const count = { take: async (who: Principal, kind: Kind, cost: number, owed: boolean) => take(taken, who, kind, cost, now(), owed) };
const BUDGET = { idFromName: (name: string) => name, get: () => count } as unknown as Env["BUDGET"];

class Flight extends Shared {
  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, { BUDGET, ...env });
  }
}

export { Budget, Flight };

export default { fetch: (request, env, ctx) => worker.fetch(request, { BUDGET, ...env }, ctx) } satisfies ExportedHandler<Env>;
