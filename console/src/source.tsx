/** The passage that an answer cites, marked in its document. */

import { useEffect, useRef } from "preact/hooks";

import { ask, open } from "./api";
import { Problem, Sheet, trail, useLoaded } from "./parts";
import type { Document } from "./types";

const AROUND = 3000;

export interface Place {
  document: string;
  title: string;
  path: string[];
  start: number;
  end: number;
  release: string;
}

export function Source({ place, close }: { place: Place; close: () => void }) {
  const { data, fault, again } = useLoaded((signal) => ask<Document>("/v1/documents", asked(place), signal), [place]);
  return (
    <Sheet title={trail(place.title, place.path)} lead={place.document} close={close}>
      <Problem fault={fault} again={again} />
      {data && data.metadata["type"] === "pdf" ? (
        <div class="beside">
          <Marked found={data} place={place} />
          <PageImage place={place} />
        </div>
      ) : (
        data && <Marked found={data} place={place} />
      )}
    </Sheet>
  );
}

function asked(place: Place): object {
  return { document: place.document, model: place.release, start: Math.max(0, place.start - AROUND), end: place.end + AROUND };
}

function Marked({ found, place }: { found: Document; place: Place }) {
  const mark = useRef<HTMLElement>(null);
  useEffect(() => mark.current?.scrollIntoView({ block: "center" }), [found]);
  const points = Array.from(found.text); // offsets count characters, a string counts UTF-16
  const [from, to] = [place.start - found.start, place.end - found.start];
  return (
    <div class="text" tabIndex={0} role="region" aria-label="The document around the passage">
      {found.start > 0 && "… "}
      {points.slice(0, from).join("")}
      <mark ref={mark}>{points.slice(from, to).join("")}</mark>
      {points.slice(to).join("")}
      {found.end < found.characters && " …"}
    </div>
  );
}

/** The page on which the passage begins, as it was printed. */
function PageImage({ place }: { place: Place }) {
  const { data, fault, again } = useLoaded((signal) => drawn(place, signal), [place]);
  return (
    <div class="page">
      <Problem fault={fault} again={again} />
      {data ? <img src={data} alt="The page on which the passage begins" /> : !fault && <p class="quiet">Drawing the page…</p>}
    </div>
  );
}

/** The image as a `data:` URL: the key that it asks for goes in a header, which an `img` can't send. */
async function drawn(place: Place, signal: AbortSignal): Promise<string> {
  const response = await open("/v1/documents/page", { document: place.document, model: place.release, start: place.start }, signal);
  const reader = new FileReader();
  const read = new Promise<string>((done, failed) => ((reader.onload = () => done(String(reader.result))), (reader.onerror = () => failed(reader.error ?? new Error("The image can't be read.")))));
  reader.readAsDataURL(await response.blob());
  return read;
}
