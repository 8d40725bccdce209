/** One answer, two forms: a stream's chunks folded into a completion, and a completion replayed. `tests/vectors/transcripts.json` is the contract. */

import { decoder, fields, isFields, isList, isWhole, list, none, object, quoted, type Fields } from "./values";

const PIECE = /.{1,64}/gsu;
/** Text that names something: a repetition replaces it, where other text is continued. */
const NAMES = new Set(["role", "id", "type", "name"]);
const LONGEST = 1 << 20;

export const DONE = "data: [DONE]\n\n";
export const sse = (data: string): string => `data: ${data.replaceAll("\n", "\ndata: ")}\n\n`;

/** Reads events from bytes as they come, cut anywhere. Throws on bytes that are no UTF-8 and on an event over 1 MiB. */
export class Events {
  /** `[DONE]` was read: the stream is whole. */
  done = false;
  #rest = "";
  #cut = false;
  readonly #decoder = decoder(false);

  feed(bytes: Uint8Array): string[] {
    let text = this.#decoder.decode(bytes, { stream: true });
    if (this.#cut && text.startsWith("\n")) text = text.slice(1);
    this.#cut = text.endsWith("\r");
    const blocks = (this.#rest + text.replace(/\r\n?/g, "\n")).split("\n\n");
    this.#rest = blocks.pop() ?? "";
    if (this.#rest.length > LONGEST) none();
    return blocks.flatMap((block) => this.#data(block));
  }

  #data(block: string): string[] {
    const lines = block.split("\n").flatMap((line) => /^data(?:: ?(.*))?$/s.exec(line)?.slice(1) ?? []);
    const data = lines.join("\n");
    this.done ||= data === "[DONE]";
    return this.done || !lines.length ? [] : [data];
  }
}

/** A completion as it is put together from its chunks. */
export class Fold {
  #top: Fields = {};
  readonly #choices = new Map<number, Fields>();

  /** Whether there is a choice, and every choice has said why it ended. */
  get complete(): boolean {
    return this.#choices.size > 0 && [...this.#choices.values()].every((choice) => choice.finish_reason);
  }

  /** Throws a `TypeError` on what is no chunk. */
  add({ choices, ...rest }: Fields): void {
    for (const choice of list(choices ?? [])) this.#continue(object(choice));
    this.#top = { ...this.#top, ...present(rest) };
  }

  completion(): Fields {
    const { usage, ragstone, ...head } = this.#top;
    const choices = [...this.#choices].sort(([one], [other]) => one - other).map(([, choice]) => choice);
    return { ...head, object: "chat.completion", choices, ...present({ usage, ragstone }) };
  }

  #continue({ index: given = 0, delta, logprobs, ...rest }: Fields): void {
    const index = number(given);
    const message = { role: "assistant", content: null, refusal: null };
    const kept = this.#choices.get(index) ?? { index, message, logprobs: null, finish_reason: null };
    kept.message = merged(object(kept.message), object(delta ?? {}));
    if (logprobs) kept.logprobs = merged(object(kept.logprobs ?? {}), object(logprobs));
    this.#choices.set(index, Object.assign(kept, present(rest)));
  }
}

/** The `usage.total_tokens` of an answer, or null when it does not say. */
export function used(completion: Fields): number | null {
  const total = isFields(completion.usage) ? completion.usage.total_tokens : null;
  return isWhole(total) ? total : null;
}

/** The event for a caller who did not ask for the usage; empty when nothing else is in it. */
export function withoutUsage(data: string, chunk: Fields): string {
  if (!("usage" in chunk)) return sse(data);
  const { usage: _, ...rest } = chunk;
  return list(rest.choices ?? []).length || "ragstone" in rest ? sse(quoted(rest)) : "";
}

/** All events of the completion's stream; the last finish carries `ragstone`, and the usage follows when asked. */
export function stream({ choices, usage, ragstone, ...rest }: Fields, counted: boolean): string {
  const head = { ...rest, object: "chat.completion.chunk" };
  const chunks: Fields[] = list(choices).flatMap((choice) => replayed(object(choice)).map((one) => ({ ...head, choices: [one] })));
  Object.assign(chunks.at(-1) ?? {}, present({ ragstone }));
  if (counted && usage) chunks.push({ ...head, choices: [], usage });
  return chunks.map((chunk) => sse(quoted(chunk))).join("") + DONE;
}

/** The answer as `release` gives it, after the origin confirmed that it would be the same. */
export function renewed(body: string, release: string): string {
  const completion = fields(body);
  const { ragstone } = completion;
  if (!isFields(ragstone) || !ragstone.release || ragstone.release === release) return body;
  return quoted({ ...completion, ragstone: { ...ragstone, release } });
}

function replayed({ message, ...rest }: Fields): Fields[] {
  const between = { index: rest.index, logprobs: null, finish_reason: null };
  return [...deltas(object(message)).map((delta) => ({ ...between, delta })), { ...rest, delta: {} }];
}

/** The role, the texts in pieces, then what else the message holds, whole. */
function deltas({ role, content, refusal, ...others }: Fields): Fields[] {
  const first = { role: role ?? "assistant", ...(typeof content === "string" && { content: "" }) };
  const pieces = Object.entries({ content, refusal }).flatMap(([name, text]) =>
    (String(text ?? "").match(PIECE) ?? []).map((piece): Fields => ({ [name]: piece })),
  );
  const rest = present(others);
  if (rest.tool_calls) rest.tool_calls = list(rest.tool_calls).map((call, index) => ({ index, ...object(call) }));
  return [first, ...pieces, ...(Object.keys(rest).length ? [rest] : [])];
}

/** Text continued, objects merged, lists extended; items that carry an `index` are merged with the item of that number. */
function merged(kept: Fields, delta: Fields): Fields {
  const into = { ...kept };
  for (const [name, value] of Object.entries(delta)) {
    const old = into[name];
    if (value === null) into[name] = old ?? null;
    else if (typeof value === "string" && typeof old === "string" && !NAMES.has(name)) into[name] = old + value;
    else if (isFields(value)) into[name] = merged(isFields(old) ? old : {}, value);
    else if (isList(value)) into[name] = extended(isList(old) ? old : [], value);
    else into[name] = value;
  }
  return into;
}

function extended(kept: unknown[], items: unknown[]): unknown[] {
  const result = [...kept];
  for (const item of items) {
    if (!isFields(item) || !("index" in item)) {
      result.push(item);
      continue;
    }
    const { index: given, ...rest } = item;
    const index = number(given, result.length);
    result[index] = merged(object(result[index] ?? {}), rest);
  }
  return result;
}

const number = (value: unknown, most = Infinity): number => (isWhole(value) && value <= most ? value : none());
const present = (fields: Fields): Fields => Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null && value !== undefined));
