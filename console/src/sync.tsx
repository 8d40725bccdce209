/** Syncing: what is in force is brought up to the source folder, and one sees at which file that is. */

import { useEffect, useState } from "preact/hooks";

import { Act, Problem, Table, when } from "./parts";
import { UnderWay, useRuns } from "./runs";
import type { Run } from "./types";

const LOOK = 1000;
const LOOKS = 60;

interface Synced {
  release: string;
  documents: number;
  chunks: number;
  failed: number;
}

/** `release` is the one that the page shows: after a sync it is loaded `again` until it is the one that was made, for a minute. */
export function Sync({ release, again }: { release: string | undefined; again: () => void }) {
  const [made, setMade] = useState<{ release: string; looks: number } | null>(null);
  const { told, now, fault, again: look } = useRuns("sync", (run) => setMade({ release: (run?.result as Synced | null)?.release ?? "", looks: LOOKS }));
  useEffect(() => {
    if (!made || made.looks === 0 || !made.release || made.release === release) return undefined;
    const later = setTimeout(() => (again(), setMade({ ...made, looks: made.looks - 1 })), LOOK);
    return () => clearTimeout(later);
  }, [made, release]);
  if (!told) return null;
  const last = told.runs.find((run) => run.state !== "running");
  return (
    <section aria-label="Sync">
      <h2>Sync</h2>
      <Problem fault={now ? fault : null} />
      {now && <Reading run={now} look={look} />}
      {!now && last && <Last run={last} />}
      {!now && (
        <Act
          name="Sync now"
          sure={`Read ${told.source} as it is now? What is gone from it leaves the next release, which is put in force.`}
          path="/admin/sync"
          body={{}}
          done={look}
        />
      )}
    </section>
  );
}

function Reading({ run, look }: { run: Run; look: () => void }) {
  return (
    <UnderWay name="sync" run={run} again={look}>
      {run.note && (
        <p>
          At <code>{run.note}</code>
        </p>
      )}
      {run.failures.length > 0 && <p class="quiet">Could not be read so far: {run.failures.length}</p>}
      {run.failures.length > 0 && (
        <Table name="Could not be read so far" heads={["File", "Why"]}>
          {run.failures.map((one) => (
            <tr key={one.path}>
              <td>{one.path}</td>
              <td>{one.reason}</td>
            </tr>
          ))}
        </Table>
      )}
    </UnderWay>
  );
}

const ENDS: Record<string, string> = { failed: "ended in an error", stopped: "was stopped", killed: "ended without a word" };

function Last({ run }: { run: Run }) {
  if (run.state !== "done")
    return (
      <p class="problem">
        The sync of {when(run.began)} {ENDS[run.state]}. {run.error}
      </p>
    );
  const { release, documents, chunks, failed } = run.result as Synced;
  return (
    <p>
      Last on {when(run.seen)}: {documents.toLocaleString("en")} documents, {chunks.toLocaleString("en")} passages, {failed === 1 ? "one file" : `${failed.toLocaleString("en")} files`} that
      could not be read; release <code>{release}</code>.
    </p>
  );
}
