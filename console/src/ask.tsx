/** Ask: answers as they are made, with what they rest on. */

import { useEffect, useRef, useState } from "preact/hooks";

import { ask, events, open, type Fault } from "./api";
import { asFault, part, Probability, Problem, Screen, trail, useLoaded } from "./parts";
import { type Place, Source } from "./source";
import type { Citation, Delta, Names, Told } from "./types";

interface Turn {
  question: string;
  text: string;
  told: Told | null;
  cache: string;
  done: boolean;
  fault: Fault | null;
}

export function Ask() {
  const { data: names, fault, again } = useLoaded((signal) => ask<Names>("/v1/models", undefined, signal), []);
  const markdown = useLoaded(() => part(import("./markdown")), []);
  const [model, setModel] = useState("");
  const [turns, setTurns] = useState<Turn[]>([]);
  const [consent, setConsent] = useState(false);
  const [place, setPlace] = useState<Place | null>(null);
  const leaving = useRef(new AbortController());
  useEffect(() => () => leaving.current.abort(), []);
  const busy = turns.some((turn) => !turn.done);
  const chosen = model || preferred(names);

  async function put(question: string): Promise<void> {
    const number = turns.length;
    const change = (next: (turn: Turn) => Turn): void => setTurns((now) => now.map((turn, at) => (at === number ? next(turn) : turn)));
    setTurns([...turns, { question, text: "", told: null, cache: "", done: false, fault: null }]);
    leaving.current = new AbortController();
    try {
      await follow(chosen, [...spoken(turns), { role: "user", content: question }], leaving.current.signal, change);
    } catch (error) {
      if (!leaving.current.signal.aborted) change((turn) => ({ ...turn, fault: asFault(error) }));
    }
    change((turn) => ({ ...turn, done: true }));
  }

  return (
    <Screen title="Ask" lead="Answers from your documents, each sentence with its source.">
      <Problem fault={fault} again={again} />
      <Problem fault={markdown.fault} again={() => location.reload()} />
      <div class="turns" aria-live="polite" aria-busy={busy}>
        {turns.map((turn, at) => (
          <Answer key={at} turn={turn} html={markdown.data?.html} consent={consent} show={setPlace} />
        ))}
      </div>
      <Composer busy={busy} put={(question) => void put(question)} stop={() => leaving.current.abort()} />
      <div class="row quiet">
        <label>
          Answered by{" "}
          <select value={chosen} onChange={(event) => setModel(event.currentTarget.value)}>
            {names?.data.map((one) => (
              <option key={one.id}>{one.id}</option>
            ))}
          </select>
        </label>
        <label>
          <input type="checkbox" checked={consent} onChange={(event) => setConsent(event.currentTarget.checked)} /> My questions may be kept with my thumbs, for training
        </label>
        {turns.length > 0 && !busy && (
          <button type="button" class="plain" onClick={() => setTurns([])}>
            New conversation
          </button>
        )}
      </div>
      {place && <Source key={`${place.document}:${place.start}`} place={place} close={() => setPlace(null)} />}
    </Screen>
  );
}

/** The channel that most people ask, or the first name that there is. */
function preferred(names: Names | null): string {
  return names?.data.find((one) => one.id === "production")?.id ?? names?.data[0]?.id ?? "production";
}

function spoken(turns: Turn[]): { role: string; content: string }[] {
  const said = turns.filter((turn) => turn.text && !turn.fault);
  return said.flatMap((turn) => [
    { role: "user", content: turn.question },
    { role: "assistant", content: turn.text },
  ]);
}

/** The stream of one answer, told piece by piece. Raises a `Fault` when it breaks. */
async function follow(model: string, messages: object[], signal: AbortSignal, change: (next: (turn: Turn) => Turn) => void): Promise<void> {
  const response = await open("/v1/chat/completions", { model, messages, stream: true }, signal);
  const cache = response.headers.get("x-ragstone-cache") ?? "no edge";
  change((turn) => ({ ...turn, cache }));
  let whole = false;
  for await (const data of events(response)) {
    whole ||= data === "[DONE]";
    if (whole) break;
    const delta = JSON.parse(data) as Delta;
    if (delta.error) throw asFault(new Error(delta.error.message));
    const piece = delta.choices?.[0]?.delta.content ?? "";
    const told = delta.ragstone;
    change((turn) => ({ ...turn, text: turn.text + piece, told: told ?? turn.told }));
  }
  if (!whole) throw asFault(new Error("The answer broke off before its end."));
}

function Composer({ busy, put, stop }: { busy: boolean; put: (question: string) => void; stop: () => void }) {
  const [typed, setTyped] = useState("");
  function send(): void {
    if (busy || !typed.trim()) return;
    put(typed.trim());
    setTyped("");
  }
  return (
    <form class="composer" onSubmit={(event) => (event.preventDefault(), send())}>
      <label for="question" class="hidden">
        Your question
      </label>
      <textarea
        id="question"
        rows={2}
        placeholder="Ask about your documents"
        value={typed}
        onInput={(event) => setTyped(event.currentTarget.value)}
        onKeyDown={(event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && (event.preventDefault(), send())}
      />
      {busy ? (
        <button type="button" onClick={stop}>
          Stop
        </button>
      ) : (
        <button class="primary">Ask</button>
      )}
    </form>
  );
}

/** Until `html` is there, an answer is its plain text. */
function Answer({ turn, html, consent, show }: { turn: Turn; html: ((text: string) => string) | undefined; consent: boolean; show: (place: Place) => void }) {
  const { told } = turn;
  function reveal(citation: Citation | undefined): void {
    if (citation && told) show({ ...citation, release: told.release });
  }
  function pressed(event: MouseEvent): void {
    const number = event.target instanceof HTMLElement ? event.target.dataset["cite"] : undefined;
    if (number) reveal(told?.citations.find((one) => one.number === Number(number)));
  }
  return (
    <article class="turn">
      <h2>{turn.question}</h2>
      {told?.rewritten && <p class="quiet">Searched for: {told.question}</p>}
      {html ? (
        <div key="html" class={told?.abstained ? "answer abstained" : "answer"} onClick={pressed} dangerouslySetInnerHTML={{ __html: html(turn.text) }} />
      ) : (
        <p key="text">{turn.text}</p>
      )}
      {!turn.done && <p class="quiet">Reading the documents…</p>}
      <Problem fault={turn.fault} />
      {told?.abstained && <Abstention told={told} />}
      {told && told.citations.length > 0 && (
        <ol class="citations" aria-label="Sources">
          {told.citations.map((citation) => (
            <li key={citation.number}>
              <button type="button" class="plain" onClick={() => reveal(citation)}>
                <span class="number">{citation.number}</span> {trail(citation.title, citation.path)} <span class="quiet">{citation.document}</span>
              </button>
              <span>
                {Boolean(citation.fused) && <span class="quiet">score {citation.fused?.toFixed(3)} </span>}
                <Probability value={citation.score} />
              </span>
            </li>
          ))}
        </ol>
      )}
      {told && <Footing turn={turn} told={told} consent={consent} />}
    </article>
  );
}

function Abstention({ told }: { told: Told }) {
  return (
    <p class="why">
      Why there is no answer: the best passage has P(relevant) {told.best.toFixed(2)}, and {told.threshold.toFixed(2)} is needed. The documents may not hold it, or
      say it in other words.
    </p>
  );
}

const BASIS = { generated: "generated, checked against its sources", quoted: "quoted from the documents", abstained: "abstained" };

function Footing({ turn, told, consent }: { turn: Turn; told: Told; consent: boolean }) {
  return (
    <div class="footing quiet">
      <span>{BASIS[told.basis]}</span>
      <span>
        release <code>{told.release}</code>
      </span>
      <span>cache: {turn.cache}</span>
      <span>
        best {told.best.toFixed(2)}, needed {told.threshold.toFixed(2)}
      </span>
      {told.citations.length > 0 && <Thumbs told={told} text={turn.text} consent={consent} />}
    </div>
  );
}

function Thumbs({ told, text, consent }: { told: Told; text: string; consent: boolean }) {
  const [given, setGiven] = useState("");
  const [fault, setFault] = useState<Fault | null>(null);
  async function give(verdict: string): Promise<void> {
    const hits = told.citations.map((one) => one.chunk);
    try {
      await ask("/v1/feedback", { model: told.release, verdict, question: told.question, answer: text, hits, consent });
      setGiven(verdict);
    } catch (error) {
      setFault(asFault(error));
    }
  }
  return (
    <span class="thumbs" role="group" aria-label="Was this right?">
      {[
        { verdict: "up", name: "Right" },
        { verdict: "down", name: "Wrong" },
      ].map(({ verdict, name }) => (
        <button key={verdict} type="button" aria-pressed={given === verdict} disabled={given !== ""} onClick={() => void give(verdict)}>
          {name}
        </button>
      ))}
      <span role="status">{given && (consent ? "Thank you. Kept with your question." : "Thank you. Kept without your question.")}</span>
      <Problem fault={fault} />
    </span>
  );
}
