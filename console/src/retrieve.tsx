/** Retrieval test: what a question finds, under which numbers, and which of it an answer would rest on. */

import { useState } from "preact/hooks";

import { ask, type Fault } from "./api";
import { asFault, Problem, Screen, Table, trail } from "./parts";
import { Parted, Scores } from "./scores";
import { type Place, Source } from "./source";
import type { Found, Hit, Releases } from "./types";

const MOST = 50;

export function Retrieve() {
  const [found, setFound] = useState<Found | null>(null);
  const [fault, setFault] = useState<Fault | null>(null);
  const [topK, setTopK] = useState(5);
  const [threshold, setThreshold] = useState(0.75);
  const [place, setPlace] = useState<Place | null>(null);

  async function search(query: string): Promise<void> {
    try {
      const next = await ask<Found>("/v1/retrieve", { query, top_k: MOST }); // the first k of fifty are the k that a smaller search finds
      if (!found) await begin(next);
      setFound(next);
      setFault(null);
    } catch (error) {
      setFault(asFault(error));
    }
  }
  /** The sliders begin where the release in force stands. */
  async function begin(first: Found): Promise<void> {
    setThreshold(first.threshold);
    const { releases } = await ask<Releases>("/admin/releases");
    setTopK(releases.find((one) => one.release === first.release)?.retrieval["top_k"] ?? 5);
  }
  const used = found ? found.data.filter((hit) => hit.scores.calibrated >= threshold).slice(0, topK) : [];
  return (
    <Screen title="Retrieval test" lead="See what a question finds before any generator speaks. What you set here can become a release.">
      <div class="sides">
        <section aria-label="Question and settings">
          <Search search={(query) => void search(query)} />
          <Slider name="top_k" least={1} most={MOST} step={1} value={topK} set={setTopK} />
          <Slider name="Threshold" least={0} most={1} step={0.01} value={threshold} set={setThreshold} />
          {found && <Parted release={found.release} threshold={threshold} />}
          {found && <Save found={found} topK={topK} threshold={threshold} />}
        </section>
        <section aria-label="Hits">
          <Problem fault={fault} />
          {found && <Scores found={found} used={used} threshold={threshold} />}
          {found && <Hits found={found} used={used} show={(hit) => setPlace({ ...hit, release: found.release })} />}
          {!found && !fault && <p class="quiet">Hits appear here, best first, with dense, keyword, fused and calibrated scores.</p>}
        </section>
      </div>
      {place && <Source place={place} close={() => setPlace(null)} />}
    </Screen>
  );
}

function Search({ search }: { search: (query: string) => void }) {
  const [typed, setTyped] = useState("");
  return (
    <form onSubmit={(event) => (event.preventDefault(), typed.trim() && search(typed.trim()))}>
      <label for="query">Question</label>
      <textarea
        id="query"
        rows={3}
        value={typed}
        onInput={(event) => setTyped(event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && (event.preventDefault(), event.currentTarget.form?.requestSubmit())}
      />
      <button class="primary">Search</button>
    </form>
  );
}

function Slider(given: { name: string; least: number; most: number; step: number; value: number; set: (value: number) => void }) {
  const shown = given.step < 1 ? given.value.toFixed(2) : String(given.value);
  return (
    <div class="slider">
      <label for={given.name}>{given.name}</label> <output for={given.name}>{shown}</output>
      <input id={given.name} type="range" min={given.least} max={given.most} step={given.step} value={given.value} onInput={(event) => given.set(Number(event.currentTarget.value))} />
    </div>
  );
}

function Save({ found, topK, threshold }: { found: Found; topK: number; threshold: number }) {
  const [saved, setSaved] = useState("");
  const [fault, setFault] = useState<Fault | null>(null);
  async function save(): Promise<void> {
    try {
      const { release } = await ask<{ release: string }>("/admin/releases", { release: found.release, top_k: topK, similarity_threshold: threshold });
      setSaved(release);
      setFault(null);
    } catch (error) {
      setFault(asFault(error));
    }
  }
  return (
    <div>
      <button type="button" onClick={() => void save()}>
        Save as release candidate
      </button>
      <p role="status">
        {saved && (
          <>
            <code>{saved}</code> is saved: top_k and threshold as tested, all else as in <code>{found.release}</code>. It is not in force; <a href="#/releases">promote it</a>.
          </>
        )}
      </p>
      <Problem fault={fault} />
    </div>
  );
}

function Hits({ found, used, show }: { found: Found; used: Hit[]; show: (hit: Hit) => void }) {
  const chosen = new Set(used);
  return (
    <Table name="Hits, best first" heads={["", "Passage", "Dense", "Keyword", "Fused", "Calibrated"]}>
      {found.data.map((hit) => (
        <tr key={hit.chunk} class={chosen.has(hit) ? "used" : "unused"}>
          <td>{hit.rank}</td>
          <td>
            <button type="button" class="plain" onClick={() => show(hit)}>
              {trail(hit.title, hit.path)}
            </button>
            <p class="snippet">{hit.text.slice(0, 240)}</p>
            <p class="quiet">{chosen.has(hit) ? "An answer rests on it" : "Not used"}</p>
          </td>
          <td>{hit.scores.dense.toFixed(3)}</td>
          <td>{hit.scores.keyword.toFixed(3)}</td>
          <td>{hit.scores.fused.toFixed(3)}</td>
          <td>{hit.scores.calibrated.toFixed(3)}</td>
        </tr>
      ))}
    </Table>
  );
}
