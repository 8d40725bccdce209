/** Training: begin a run, watch it, stop it, and what the last ones came to. */

import { useMemo, useState } from "preact/hooks";

import { ask, type Fault } from "./api";
import { Chart } from "./chart";
import { asFault, Problem } from "./parts";
import { Past, Start, UnderWay, useRuns } from "./runs";
import type { Run } from "./types";

export function Training({ ended }: { ended: () => void }) {
  const { told, now, fault, again } = useRuns("training", ended);
  return (
    <section>
      <h2>Training</h2>
      <Problem fault={fault} />
      {told && !now && <Begin minutes={told.minutes} begun={again} />}
      {now && (
        <UnderWay name="training" run={now} again={again}>
          <Learned run={now} />
        </UnderWay>
      )}
      {told && <Past name="Past training runs" runs={told.runs} outcome={(run) => (run.result as { verdict: string } | null)?.verdict ?? ""} />}
    </section>
  );
}

function Begin({ minutes, begun }: { minutes: number; begun: () => void }) {
  const [bound, setBound] = useState(minutes || 10);
  const [feedback, setFeedback] = useState(false);
  const [promote, setPromote] = useState(true);
  const [fault, setFault] = useState<Fault | null>(null);
  async function start(): Promise<void> {
    try {
      await ask("/admin/training", { minutes: bound, feedback, promote });
      begun();
    } catch (error) {
      setFault(asFault(error));
    }
  }
  return (
    <Start label="Start training" busy={false} fault={fault} start={() => void start()}>
      <label>
        Minutes at most <input type="number" min={0.1} max={1440} step="any" value={bound} onInput={(event) => setBound(Number(event.currentTarget.value))} />
      </label>
      <label>
        <input type="checkbox" checked={feedback} onChange={(event) => setFeedback(event.currentTarget.checked)} /> Learn from thumbs, where people agreed
      </label>
      <label>
        <input type="checkbox" checked={promote} onChange={(event) => setPromote(event.currentTarget.checked)} /> Put a better model in force
      </label>
    </Start>
  );
}

/** The losses so far. */
function Learned({ run }: { run: Run }) {
  const data = useMemo<[number[], number[], (number | null)[]]>(
    () => [run.curve.map((one) => one.step), run.curve.map((one) => one.loss), run.curve.map((one) => one.held_out ?? null)],
    [run.curve],
  );
  const last = run.curve.at(-1);
  if (!last) return <p class="quiet">No step has been taken yet.</p>;
  return (
    <>
      <p>
        Step {last.step}: loss {last.loss.toFixed(3)}
        {last.held_out === undefined ? "" : `, over pairs that are held out ${last.held_out.toFixed(3)}`}
      </p>
      {run.curve.length > 1 && <Chart name="Loss by step, as it falls" data={data} lines={[{ label: "loss" }, { label: "held-out loss", quiet: true }]} />}
    </>
  );
}
