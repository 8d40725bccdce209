/** Long commands of the project: what their runs tell, live while one is under way. */

import type { ComponentChildren } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { ask, events, type Fault, open } from "./api";
import { Act, asFault, Problem, Table, when } from "./parts";
import type { Run, Runs } from "./types";

const PAUSE = 2000;
/** Between two looks while nothing is under way: others may begin something. */
const IDLE = 5000;

export interface Watched {
  told: Runs | null;
  /** The run under way, if one is. */
  now: Run | null;
  fault: Fault | null;
  again: () => void;
}

/** The runs of a name below `/admin`; `ended` is called with one that was under way and is not any more. */
export function useRuns(name: string, ended?: (run: Run | undefined) => void): Watched {
  const [told, setTold] = useState<Runs | null>(null);
  const [fault, setFault] = useState<Fault | null>(null);
  const [turn, setTurn] = useState(0);
  const was = useRef(false);
  useEffect(() => {
    const left = new AbortController();
    void watch(name, left.signal, (next) => (setTold(next), setFault(null)), setFault);
    return () => left.abort();
  }, [name, turn]);
  const now = told ? underWay(told) : null;
  useEffect(() => {
    if (was.current && told && !now) ended?.(told.runs[0]);
    was.current = now !== null;
  }, [now === null, told === null]);
  return { told, now, fault, again: () => setTurn((one) => one + 1) };
}

const underWay = (told: Runs): Run | null => told.runs.find((run) => run.state === "running") ?? null;

/** Look now and then, and closely as long as a run is under way; a stream ends every few seconds by design, and is asked for again. */
async function watch(name: string, signal: AbortSignal, tell: (now: Runs) => void, failed: (fault: Fault) => void): Promise<void> {
  while (!signal.aborted) {
    try {
      let now = await ask<Runs>(`/admin/${name}`, undefined, signal);
      tell(now);
      while (underWay(now)) {
        const before = now;
        for await (const data of events(await open(`/admin/${name}/live`, undefined, signal))) tell((now = JSON.parse(data) as Runs));
        if (now === before) throw new Error("The run can't be followed; asking again.");
      }
      await pause(IDLE);
    } catch (error) {
      if (signal.aborted) return;
      failed(asFault(error));
      await pause(PAUSE);
    }
  }
}

const pause = (milliseconds: number): Promise<void> => new Promise((done) => setTimeout(done, milliseconds));

/** What starts a run: its fields, and a button that is off while one is under way. */
export function Start({ label, busy, fault, start, children }: { label: string; busy: boolean; fault: Fault | null; start: () => void; children: ComponentChildren }) {
  return (
    <form class="row" onSubmit={(event) => (event.preventDefault(), busy || start())}>
      {children}
      <button class="primary" disabled={busy}>
        {label}
      </button>
      <Problem fault={fault} />
    </form>
  );
}

/** The run under way: its stage, how far it is, and for one that has a name below `/admin` a way to end it. */
export function UnderWay({ name, run, again, children }: { name?: string; run: Run; again: () => void; children?: ComponentChildren }) {
  const share = run.total ? Math.min(1, run.done / run.total) : undefined;
  return (
    <section aria-label="Under way" class="underway">
      <p role="status">
        Under way: {STAGES[run.stage] ?? run.stage}
        {run.total ? `, ${run.done.toLocaleString("en")} of ${run.total.toLocaleString("en")}` : ""}
        {run.left === null ? "" : `, ${time(run.left)} left`}
      </p>
      <progress aria-label="How far it is" max={1} value={share} />
      {children}
      {name && <Act name="Stop" sure={`Stop it? ${STOPPED[name] ?? ""}`} path={`/admin/${name}/stop`} body={{}} done={again} />}
    </section>
  );
}

/** What becomes of one that is stopped. */
const STOPPED: Record<string, string> = {
  training: "What it has learned so far is kept, and the same run goes on from there.",
  exam: "What it has answered so far is kept, and the same run goes on from there.",
  sync: "What is in force stays as it is. The next sync copies only what is not copied yet.",
};

const STAGES: Record<string, string> = {
  "": "starting",
  start: "starting",
  mine: "looking for hard examples",
  train: "training",
  terms: "learning the words of the documents",
  encode: "encoding",
  search: "searching",
  answer: "answering",
  index: "indexing",
  stage: "copying new files, by bytes",
  parse: "reading files",
  calibrate: "calibrating",
};

/** The last runs and how each ended; `outcome` puts a result into words. */
export function Past({ name, runs, outcome }: { name: string; runs: Run[]; outcome: (run: Run) => ComponentChildren }) {
  const past = runs.filter((run) => run.state !== "running");
  if (past.length === 0) return null;
  return (
    <Table name={name} heads={["Begun", "Took", "Ended", "Outcome"]}>
      {past.map((run) => (
        <tr key={run.id}>
          <td>{when(run.began)}</td>
          <td>{time(run.seen - run.began)}</td>
          <td>{ENDS[run.state]}</td>
          <td>{run.state === "done" ? outcome(run) : run.error}</td>
        </tr>
      ))}
    </Table>
  );
}

const ENDS: Record<string, string> = { done: "by itself", failed: "in an error", stopped: "when it was stopped", killed: "without a word: killed, or the machine went down" };

export function time(seconds: number): string {
  const whole = Math.round(seconds);
  return whole < 60 ? `${whole} s` : `${Math.floor(whole / 60)} min ${whole % 60} s`;
}
