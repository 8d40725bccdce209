/** Who is asking: API keys as Ed25519-signed tokens. `tests/vectors/tokens.json` is the contract. */

import { Fault, fault } from "./errors";
import { encoded, fields, isList, isWhole, none, utf8, type Fields } from "./values";

export interface Principal {
  key: string;
  tenant: string;
  groups: string[];
  rpm: number;
  tpm: number;
  /** Unix seconds. */
  starts: number;
  /** Unix seconds; 0 is never. */
  expires: number;
}

/** Public keys by their id, and the tokens that were found to be signed by one: whoever takes other keys looks anew. */
export class Keys extends Map<string, CryptoKey> {
  readonly verified = new Map<string, Principal>();
}

const LONGEST = 4096;
const NAME = /^(?! )(?:[^,\p{C}\p{Z}]| ){1,64}(?<! )$/u;

/** A 401 that says what is wrong with the key. */
export const unauthorized = (what: string): Fault =>
  fault(401, "invalid_api_key", `the API key ${what}`, { headers: { "www-authenticate": "Bearer" } });

/** The public keys of the release pointer. Throws when one is none. */
export async function keyring(published: Fields): Promise<Keys> {
  const keys = new Keys();
  for (const [kid, x] of Object.entries(published)) {
    keys.set(kid, await crypto.subtle.importKey("raw", bytes(String(x)), "Ed25519", false, ["verify"]));
  }
  return keys;
}

/** The token's principal at `now`, in Unix seconds. Throws a 401 that never holds the token. */
export async function verify(token: string, keys: Keys, revoked: Set<string>, now: number): Promise<Principal> {
  const principal = keys.verified.get(token) ?? (await read(token, keys));
  if (principal.starts > now) throw unauthorized(`${principal.key} is not valid yet`);
  if (principal.expires && now >= principal.expires) throw unauthorized(`${principal.key} expired`);
  if (revoked.has(principal.key)) throw unauthorized(`${principal.key} was revoked`);
  return principal;
}

async function read(token: string, keys: Keys): Promise<Principal> {
  if (token.length > LONGEST) throw unauthorized("is too long");
  try {
    const [head = "", payload = "", signature = "", ...rest] = token.split(".");
    const header = decoded(head);
    if (rest.length || header.alg !== "EdDSA" || "crit" in header) throw unauthorized("is not signed with Ed25519");
    const signer = keys.get(String(header.kid));
    if (!signer) throw unauthorized("has an unknown signer");
    if (!(await crypto.subtle.verify("Ed25519", signer, bytes(signature), encoded(`${head}.${payload}`)))) throw unauthorized("has a wrong signature");
    const principal = understood(decoded(payload));
    keys.verified.set(token, principal);
    return principal;
  } catch (error) {
    throw error instanceof Fault ? error : unauthorized("is malformed");
  }
}

function understood({ jti, tenant, groups, rpm, tpm, exp = 0, nbf = 0 }: Fields): Principal {
  const names: unknown[] = [jti, tenant, ...(isList(groups) ? groups : [])];
  const named = names.length > 2 && names.every((name) => typeof name === "string" && NAME.test(name));
  if (!named || !isWhole(rpm, 1) || !isWhole(tpm, 1) || !isTime(exp) || !isTime(nbf)) none();
  const [key = "", audience = "", ...members] = names.map(String);
  return { key, tenant: audience, groups: [...new Set(members)].sort(), rpm, tpm, starts: nbf, expires: exp };
}

const isTime = (value: unknown): value is number => typeof value === "number" && value >= 0 && value < 1e12;

const decoded = (part: string): Fields => fields(utf8(bytes(part)));
const bytes = (part: string): Uint8Array => Uint8Array.fromBase64(part, { alphabet: "base64url" });
