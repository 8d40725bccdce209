/** Documents: what is in, how it is cut, and what could not be read. */

import { useState } from "preact/hooks";

import { ask } from "./api";
import { useForget } from "./forget";
import { Problem, Screen, Sheet, Table, useLoaded } from "./parts";
import { Sync } from "./sync";
import type { Document, Listing, Span } from "./types";

const PAGE = 50;
const WINDOW = 50_000;

export function Documents() {
  const [search, setSearch] = useState("");
  const [offset, setOffset] = useState(0);
  const [shown, setShown] = useState<string | null>(null);
  const { data, fault, again } = useLoaded((signal) => ask<Listing>("/admin/documents", { search, offset, limit: PAGE }, signal), [search, offset]);
  const { look, section } = useForget(again);
  return (
    <Screen title="Documents" lead="What the release in force holds for your groups.">
      <Sync release={data?.release} again={again} />
      {section}
      <label>
        Path or title holds <input type="search" value={search} onInput={(event) => (setSearch(event.currentTarget.value), setOffset(0))} />
      </label>
      <Problem fault={fault} again={again} />
      {data && <Pages listing={data} move={setOffset} show={setShown} forget={(document) => void look(document)} />}
      {data && <Failures listing={data} />}
      {shown !== null && data && <Read key={shown} document={shown} release={data.release} close={() => setShown(null)} />}
    </Screen>
  );
}

type Acts = { move: (offset: number) => void; show: (document: string) => void; forget: (document: string) => void };

function Pages({ listing, move, show, forget }: { listing: Listing } & Acts) {
  const last = listing.offset + listing.data.length;
  return (
    <section aria-label="Documents">
      <p role="status" class="count">{listing.total === 0 ? "None." : `${listing.offset + 1} to ${last} of ${listing.total.toLocaleString("en")}`}</p>
      <Table name="Documents" heads={["Document", "Type", "Groups", "Characters", "Chunks", ""]}>
        {listing.data.map((one) => (
          <tr key={one.document}>
            <td>
              <button type="button" class="plain" onClick={() => show(one.document)}>
                {one.title}
              </button>
              <p class="quiet">{one.document}</p>
            </td>
            <td>{one.type}</td>
            <td>{one.groups.join(", ")}</td>
            <td>{one.characters.toLocaleString("en")}</td>
            <td>{one.chunks}</td>
            <td>
              <button type="button" aria-label={`Forget ${one.document}`} onClick={() => forget(one.document)}>
                Forget
              </button>
            </td>
          </tr>
        ))}
      </Table>
      <div class="row">
        <button type="button" disabled={listing.offset === 0} onClick={() => move(Math.max(0, listing.offset - PAGE))}>
          Previous page
        </button>
        <button type="button" disabled={last >= listing.total} onClick={() => move(listing.offset + PAGE)}>
          Next page
        </button>
      </div>
    </section>
  );
}

function Failures({ listing }: { listing: Listing }) {
  if (listing.failed === 0) return <p class="quiet">Every file could be read.</p>;
  return (
    <section>
      <h2>Could not be read: {listing.failed}</h2>
      <Table name="Files that could not be read" heads={["File", "Why"]}>
        {listing.failures.map((one) => (
          <tr key={one.path}>
            <td>{one.path}</td>
            <td>{one.reason}</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}

function Read({ document, release, close }: { document: string; release: string; close: () => void }) {
  const [start, setStart] = useState(0);
  const { data, fault, again } = useLoaded((signal) => ask<Document>("/v1/documents", { document, model: release, start, end: start + WINDOW }, signal), [start]);
  return (
    <Sheet title={data?.title ?? document} lead={`${document} · groups ${data?.groups.join(", ") ?? ""}`} close={close}>
      <Problem fault={fault} again={again} />
      {data && <Cut found={data} />}
      {data && data.characters > WINDOW && (
        <div class="row">
          <button type="button" disabled={start === 0} onClick={() => setStart(start - WINDOW)}>
            Earlier
          </button>
          <button type="button" disabled={data.end >= data.characters} onClick={() => setStart(start + WINDOW)}>
            Later
          </button>
        </div>
      )}
    </Sheet>
  );
}

/** The text with each chunk in a frame of its own; what lies in none is quiet. */
function Cut({ found }: { found: Document }) {
  const points = Array.from(found.text); // offsets count characters, a string counts UTF-16
  return (
    <div class="text" tabIndex={0} role="region" aria-label="The document in its chunks">
      {pieces(found.chunks, found.start, found.end).map((piece) => (
        <span key={piece.start} class={piece.chunk ? "chunk" : "between"} title={piece.chunk ? `chunk ${piece.chunk}` : "in no chunk"}>
          {points.slice(piece.start - found.start, piece.end - found.start).join("")}
        </span>
      ))}
    </div>
  );
}

/** The window as a row of pieces; where chunks overlap, the later one begins where the earlier ends. */
function pieces(chunks: Span[], start: number, end: number): { start: number; end: number; chunk: string }[] {
  const row: { start: number; end: number; chunk: string }[] = [];
  let at = start;
  for (const one of chunks) {
    const [from, to] = [Math.max(one.start, at), Math.min(one.end, end)];
    if (from > at) row.push({ start: at, end: from, chunk: "" });
    if (to > from) row.push({ start: from, end: to, chunk: one.chunk });
    at = Math.max(at, to);
  }
  if (at < end) row.push({ start: at, end, chunk: "" });
  return row;
}
