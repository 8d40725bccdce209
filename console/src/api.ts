/** HTTP to `/v1` and `/admin` under the key of this session. What goes wrong is a `Fault` in the service's own words. */

import { EventSourceParserStream } from "eventsource-parser/stream";

import { session } from "./session";

export class Fault extends Error {
  constructor(
    message: string,
    readonly status: number,
    readonly code: string,
  ) {
    super(message);
  }
}

/** The response, its body unread: a body makes it a POST. */
export async function open(path: string, body?: object, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = { authorization: `Bearer ${session.key}` };
  if (body) headers["content-type"] = "application/json";
  const sent: RequestInit = { method: body ? "POST" : "GET", headers, body: body ? JSON.stringify(body) : null };
  const response = await fetch(path, signal ? { ...sent, signal } : sent).catch((error: unknown) => {
    if (signal?.aborted) throw error;
    throw new Fault("The service can't be reached. It may be restarting.", 0, "unreachable");
  });
  if (!response.ok) throw await refusal(response);
  return response;
}

/** The JSON of a response. */
export async function ask<T>(path: string, body?: object, signal?: AbortSignal): Promise<T> {
  const response = await open(path, body, signal);
  return (await response.json()) as T;
}

/** The data of each server-sent event, until the stream ends. */
export async function* events(response: Response): AsyncGenerator<string> {
  if (!response.body) return;
  const reader = response.body.pipeThrough(new TextDecoderStream()).pipeThrough(new EventSourceParserStream()).getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value.data;
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

async function refusal(response: Response): Promise<Fault> {
  const known = (await response.json().catch(() => null)) as { error?: { message?: string; code?: string } } | null;
  const message = known?.error?.message ?? `The service answered ${response.status} without saying why.`;
  return new Fault(message, response.status, known?.error?.code ?? "");
}
