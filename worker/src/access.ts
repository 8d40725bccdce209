/** Who is asking: API keys as Ed25519-signed tokens. `tests/vectors/tokens.json` is the contract. */

import { isFields, type Fields } from "./canonical";
import { fault, type Fault } from "./errors";

export interface Principal {
  key: string;
  tenant: string;
  groups: string[];
  rpm: number;
  tpm: number;
  /** Unix seconds; 0 is never. */
  expires: number;
}

export type Keys = Map<string, CryptoKey>;

const LONGEST = 4096;
const NAME = /^(?! )(?:[^,\p{C}\p{Z}]| ){1,64}(?<! )$/u;

const unauthorized = (message: string): Fault =>
  fault(401, "invalid_api_key", message, { headers: { "www-authenticate": "Bearer" } });

/** The public keys of the release pointer. Throws when one is none. */
export async function keyring(published: Fields): Promise<Keys> {
  const imported = Object.entries(published).map(async ([kid, x]): Promise<[string, CryptoKey]> => {
    const jwk = { kty: "OKP", crv: "Ed25519", x: String(x) };
    return [kid, await crypto.subtle.importKey("jwk", jwk, { name: "Ed25519" }, false, ["verify"])];
  });
  return new Map(await Promise.all(imported));
}

/** The token's principal at `now`, in Unix seconds. Throws a 401 that never holds the token. */
export async function verify(token: string, keys: Keys, revoked: Set<string>, now: number): Promise<Principal> {
  if (token.length > LONGEST) throw unauthorized(`the API key has ${token.length} characters, more than any that is issued`);
  const [head = "", payload = "", signature = "", ...rest] = token.split(".");
  const header = decoded(head);
  if (rest.length || header.alg !== "EdDSA" || "crit" in header) throw unauthorized("the API key is not signed with Ed25519");
  const signer = keys.get(String(header.kid));
  if (!signer) throw unauthorized("the API key is signed by a key that this service does not know");
  const signed = new TextEncoder().encode(`${head}.${payload}`);
  if (!(await crypto.subtle.verify("Ed25519", signer, bytes(signature), signed))) throw unauthorized("the API key's signature is wrong");
  const [principal, start] = understood(decoded(payload));
  if (start > now) throw unauthorized(`the API key ${principal.key} is not valid yet`);
  if (principal.expires && now >= principal.expires) throw unauthorized(`the API key ${principal.key} expired`);
  if (revoked.has(principal.key)) throw unauthorized(`the API key ${principal.key} was revoked`);
  return principal;
}

/** The claims' principal, and from when it is one. */
function understood(claims: Fields): [Principal, number] {
  const { jti, tenant, groups, rpm, tpm, exp, nbf } = claims;
  const names: unknown[] = [jti, tenant, ...(Array.isArray(groups) && groups.length ? groups : [null])];
  const whole = [rpm, tpm].every((limit) => Number.isInteger(limit) && Number(limit) > 0);
  const times = [exp, nbf].every((time) => time === undefined || (typeof time === "number" && time >= 0 && time < 1e12));
  if (!names.every((name) => typeof name === "string" && NAME.test(name)) || !whole || !times) throw malformed();
  const [key, audience, ...members] = names.map(String);
  const limits = { rpm: Number(rpm), tpm: Number(tpm), expires: Number(exp ?? 0) };
  return [{ key: key ?? "", tenant: audience ?? "", groups: [...new Set(members)].sort(), ...limits }, Number(nbf ?? 0)];
}

function decoded(part: string): Fields {
  try {
    const value: unknown = JSON.parse(new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes(part)));
    if (isFields(value)) return value;
  } catch {
    // what is wrong with it is of no use to who sent it
  }
  throw malformed();
}

function bytes(part: string): Uint8Array {
  if (!/^[\w-]+$/.test(part)) throw malformed();
  return Uint8Array.from(atob(part.replaceAll("-", "+").replaceAll("_", "/")), (letter) => letter.charCodeAt(0));
}

const malformed = (): Fault => unauthorized("the API key is malformed");
