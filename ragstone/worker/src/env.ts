/** What the Worker is given: variables that `ragstone edge deploy` renders from ragstone.toml, and what is bound. */

import type { Flight } from "./flight";
import type { Budget } from "./limit";

export interface Env {
  ORIGIN: string;
  /** Seconds. */
  TTL: number;
  RELEASE_CHECK: number;
  TIMEOUT: number;
  /** Bytes. */
  MAX_BODY: number;
  MAX_TOKENS: number;
  FLIGHT: DurableObjectNamespace<Flight>;
  BUDGET: DurableObjectNamespace<Budget>;
  ANSWERS?: KVNamespace;
}
