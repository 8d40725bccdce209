/** Values from outside as what they should be; a `TypeError` where they are not. */

export type Fields = Record<string, unknown>;

export function none(): never {
  throw new TypeError("not what it should be");
}

export const isList = (value: unknown): value is unknown[] => Array.isArray(value);
export const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null && !isList(value);
export const isWhole = (value: unknown, least = 0): value is number => Number.isInteger(value) && (value as number) >= least;
export const object = (value: unknown): Fields => (isFields(value) ? value : none());
export const list = (value: unknown): unknown[] => (isList(value) ? value : none());
export const fields = (text: string): Fields => object(JSON.parse(text));
export const quoted = (value: unknown): string => JSON.stringify(value);

/** Throws on bytes that are no UTF-8. */
export const decoder = (ignoreBOM: boolean): TextDecoder => new TextDecoder("utf-8", { fatal: true, ignoreBOM });
/** Keeps a byte order mark. */
export const utf8 = (data: Uint8Array): string => decoder(true).decode(data);
export const encoded = (text: string): Uint8Array => new TextEncoder().encode(text);
export const sha256 = (text: string): Promise<ArrayBuffer> => crypto.subtle.digest("SHA-256", encoded(text));
