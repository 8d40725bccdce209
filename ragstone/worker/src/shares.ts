/** Who answers a conversation, where several share them out: the same one every time. `tests/vectors/shares.json` is the contract. */

import { isFields, isList, sha256, type Fields } from "./values";

export type Shares = Record<string, number>;

/** What a conversation began with: the first thing that its user said; of parts, their texts. */
function opening({ messages }: Fields): string {
  const said = isList(messages) ? messages.filter(isFields).find((one) => one.role === "user") : null;
  const content = said?.content;
  if (!isList(content)) return typeof content === "string" ? content : "";
  return content.map((part) => (isFields(part) && typeof part.text === "string" ? part.text : "")).join("");
}

/** The release that answers: the one that the body's `model` names where it has a share, else by the canaries' shares in per cent. */
export async function release(inForce: string, canary: Shares, body: Fields): Promise<string> {
  const { model } = body;
  const shares = Object.entries(canary);
  if (!shares.length || model === inForce) return inForce;
  if (typeof model === "string" && Object.hasOwn(canary, model)) return model;
  let place = Number(new DataView(await sha256(`release ${opening(body)}`)).getBigUint64(0) % 100n);
  shares.push([inForce, 100 - shares.reduce((sum, [, share]) => sum + share, 0)]);
  shares.sort(([one], [other]) => (one < other ? -1 : 1));
  return shares.find(([, share]) => (place -= share) < 0)?.[0] ?? inForce;
}
