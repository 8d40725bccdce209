/** Forgetting a document: where it is, then taking it out of everything, with the report of what was done and what stays. */

import { useState } from "preact/hooks";

import { ask, type Fault } from "./api";
import { Act, asFault, Problem, when } from "./parts";
import { UnderWay, useRuns } from "./runs";
import type { Run, Trace } from "./types";

/** `ask` looks where a document is; `section` shows what was found, and does the rest. */
export function useForget(gone: () => void) {
  const { told, now, fault, again } = useRuns("forget", gone);
  const [refused, setRefused] = useState<Fault | null>(null);
  async function look(document: string): Promise<void> {
    try {
      await ask("/admin/forget", { documents: [document] });
      setRefused(null);
      again();
    } catch (error) {
      setRefused(asFault(error));
    }
  }
  const last = told?.runs[0];
  const section = (
    <>
      <Problem fault={refused ?? (now ? fault : null)} />
      {now && <UnderWay run={now} again={again} />}
      {last && !now && <Report run={last} again={again} />}
    </>
  );
  return { look, section };
}

function Report({ run, again }: { run: Run; again: () => void }) {
  const trace = run.result as Trace | null;
  if (run.state !== "done") return <p class="problem">Forgetting ended in an error: {run.error || run.state}. The same again goes on where it stopped.</p>;
  if (!trace) return null;
  const names = trace.documents.join(", ");
  return (
    <section aria-label="Forgetting" class="forgetting">
      <h2>{trace.forgotten ? `Forgotten: ${names}` : `What forgetting ${names} would remove`}</h2>
      <p class="quiet">{when(run.began)}</p>
      <dl class="facts">
        {facts(trace).map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      {Object.entries(trace.channels).map(([channel, release]) => (
        <p key={channel}>
          {channel}: {release ? <>answered by <code>{release}</code> from now on</> : "gets a release without it, from the same model, generator and settings"}
        </p>
      ))}
      <p>What stays, as it can&apos;t be taken out from here:</p>
      <ul>
        {trace.stays.map((one) => (
          <li key={one}>{one}</li>
        ))}
      </ul>
      {!trace.forgotten && (
        <Act name="Forget it for good" sure={`Take ${names} out of everything named here? It can't be undone.`} path="/admin/forget" body={{ documents: trace.documents, delete: true }} done={again} />
      )}
    </section>
  );
}

const facts = (trace: Trace): [string, number | string][] => [
  ["Files in the store", trace.contents.length],
  ["Passages", trace.chunks],
  ["Snapshots", trace.snapshots.length],
  ["Indexes", trace.indexes.length],
  ["Knowledge bases elsewhere", trace.elsewhere.length],
  ["Releases withdrawn", trace.releases.length],
  ["Cached answers", "all made anew"],
  ["Votes on answers", trace.feedback],
  ["Held-out questions", trace.questions],
  ["Unfinished work", trace.unfinished.length],
];
