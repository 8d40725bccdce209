/** A request body as one text for all its spellings (RFC 8785), and the cache key made of it. `tests/vectors/keys.json` is the contract. */

import { Fault, fault } from "./errors";
import { isFields, none, quoted, sha256, utf8, type Fields } from "./values";

interface Member {
  /** As it was sent, so that the origin gets numbers that no double holds. */
  raw: string;
  canonical: string;
  exact: boolean;
}

export interface Body {
  fields: Fields;
  members: Map<string, Member>;
  text: string;
  /** Bytes. */
  size: number;
}

const FORM = new Set(["stream", "stream_options", "user"]);
const DEEPEST = 64;
const TOKEN = /[ \t\r\n]*([{}[\]:,]|"[^"\\]*(?:\\.[^"\\]*)*"|[^\s{}[\]:,"]+)/y;

const invalid = (what: string): Fault => fault(400, "invalid_json", `the body ${what}`);

/** Reads text that `JSON.parse` has taken, for what it does not tell: a key that is there twice, and how numbers were written. */
class Scanner {
  exact = true;
  at = 0;

  constructor(readonly text: string) {}

  next(): string {
    TOKEN.lastIndex = this.at;
    const token = TOKEN.exec(this.text)?.[1] ?? none();
    this.at = TOKEN.lastIndex;
    return token;
  }

  /** The canonical text of the next value. */
  value(depth: number, token = this.next()): string {
    if (depth > DEEPEST && "{[".includes(token)) throw invalid(`is nested deeper than ${DEEPEST} levels`);
    if (token === "{") return written(this.members(depth));
    if (token === "[") return this.#list(depth);
    if (token.startsWith('"')) return unicode(token);
    return /^[-\d]/.test(token) ? this.#number(Number(token)) : token;
  }

  members(depth: number): Map<string, Member> {
    const members = new Map<string, Member>();
    for (let token = this.next(); token !== "}"; token = this.next()) {
      if (token === ",") continue;
      const name: string = JSON.parse(unicode(token));
      if (members.has(name)) throw invalid(`is not JSON: '${name.slice(0, 40)}' is there twice`);
      this.next();
      const [start, outside] = [this.at, this.exact];
      this.exact = true;
      const canonical = this.value(depth + 1);
      members.set(name, { raw: this.text.slice(start, this.at), canonical, exact: this.exact });
      this.exact &&= outside;
    }
    return members;
  }

  #list(depth: number): string {
    const items: string[] = [];
    for (let token = this.next(); token !== "]"; token = this.next()) if (token !== ",") items.push(this.value(depth + 1, token));
    return `[${items.join()}]`;
  }

  #number(value: number): string {
    if (!Number.isFinite(value)) throw invalid("holds a number that no double holds");
    if (Math.abs(value) > Number.MAX_SAFE_INTEGER) this.exact = false;
    return String(value);
  }
}

/** The body, understood. Throws a 400 on anything that two readers could take for two things. */
export function parse(data: Uint8Array): Body {
  try {
    const text = utf8(data);
    const fields: unknown = JSON.parse(text);
    if (!isFields(fields)) throw invalid("is not a JSON object");
    const scanner = new Scanner(text);
    scanner.next();
    return { fields, members: scanner.members(1), text, size: data.length };
  } catch (error) {
    throw error instanceof Fault ? error : invalid("is not JSON in UTF-8");
  }
}

/** The SHA-256, in hex, of the body and its audience; null when a number in it can't be told from its neighbour. */
export async function key(body: Body, tenant: string, groups: string[]): Promise<string | null> {
  const counted = new Map([...body.members].filter(([name]) => !FORM.has(name)));
  if (![...counted.values()].every((member) => member.exact)) return null;
  const audience = `"groups":${quoted([...new Set(groups)].sort())},"tenant":${quoted(tenant)}`;
  return new Uint8Array(await sha256(`{"body":${written(counted)},${audience}}`)).toHex();
}

/** The body for the origin, which is always asked for a stream: one entry serves both forms. */
export function asStream(body: Body): string {
  const sent = new Map([...body.members].map(([name, member]): [string, string] => [name, member.raw]));
  sent.set("stream", "true").set("stream_options", '{"include_usage":true}');
  return `{${[...sent].map(([name, raw]) => `${quoted(name)}:${raw}`).join()}}`;
}

function written(members: Map<string, Member>): string {
  const sorted = [...members].sort(([one], [other]) => (one < other ? -1 : 1));
  return `{${sorted.map(([name, member]) => `${quoted(name)}:${member.canonical}`).join()}}`;
}

function unicode(token: string): string {
  const text: string = JSON.parse(token);
  if (!text.isWellFormed()) throw invalid("holds half a surrogate pair");
  return quoted(text);
}
