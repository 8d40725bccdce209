/** Evaluation: one release or two on questions with known answers, side by side. */

import { useState } from "preact/hooks";

import { ask, type Fault } from "./api";
import { asFault, Problem, Screen, signed, Table, useLoaded, when } from "./parts";
import { Past, Start, UnderWay, useRuns } from "./runs";
import type { Exam, Figure, Mark, Releases, Run } from "./types";

export function Evaluation() {
  const { told, now, fault, again } = useRuns("exam");
  const { data: all, fault: missing, again: reload } = useLoaded((signal) => ask<Releases>("/admin/releases", undefined, signal), []);
  const latest = told?.runs.find((run) => (run.result as Exam | null)?.questions);
  return (
    <Screen title="Evaluation" lead="Which release answers your own questions better, and whether that may be chance.">
      <Problem fault={missing} again={reload} />
      <Problem fault={missing ? null : fault} />
      {told && all && !now && <Begin all={all} begun={again} />}
      {now && <UnderWay name="exam" run={now} again={again} />}
      {latest && <Sat run={latest} exam={latest.result as Exam} />}
      {told && <Past name="Past evaluations" runs={told.runs} outcome={outcome} />}
    </Screen>
  );
}

function outcome(run: Run): string {
  if (run.hidden) return "It asks as groups that this key does not have.";
  const { releases, asked } = run.result as Exam;
  return `${releases.join(" beside ")}, ${asked} ${asked === 1 ? "question" : "questions"}`;
}

const NONE = "none: one release alone";

function Begin({ all, begun }: { all: Releases; begun: () => void }) {
  const ids = all.releases.map((one) => one.release);
  const now = all.channels[all.channel]?.at(-1)?.release ?? ids[0] ?? "";
  const [one, setOne] = useState(now);
  const [other, setOther] = useState(ids.find((id) => id !== now) ?? NONE);
  const [file, setFile] = useState<File | null>(null);
  const [answers, setAnswers] = useState(false);
  const [fault, setFault] = useState<Fault | null>(null);
  async function start(): Promise<void> {
    try {
      const questions = file ? { questions: await file.text() } : {};
      await ask("/admin/exam", { releases: other === NONE ? [one] : [one, other], answers, ...questions });
      begun();
    } catch (error) {
      setFault(asFault(error));
    }
  }
  return (
    <Start label="Evaluate" busy={false} fault={fault} start={() => void start()}>
      <Pick name="Release" value={one} set={setOne} names={ids} />
      <Pick name="Beside" value={other} set={setOther} names={[NONE, ...ids.filter((id) => id !== one)]} />
      <label>
        Questions, a .jsonl file; without one, questions made of the documents{" "}
        <input type="file" accept=".jsonl,.ndjson" onChange={(event) => setFile(event.currentTarget.files?.[0] ?? null)} />
      </label>
      <label>
        <input type="checkbox" checked={answers} onChange={(event) => setAnswers(event.currentTarget.checked)} /> Answers too, not retrieval alone
      </label>
    </Start>
  );
}

function Pick({ name, value, set, names }: { name: string; value: string; set: (name: string) => void; names: string[] }) {
  return (
    <label>
      {name}{" "}
      <select value={value} onChange={(event) => set(event.currentTarget.value)}>
        {names.map((one) => (
          <option key={one}>{one}</option>
        ))}
      </select>
    </label>
  );
}

function Sat({ run, exam }: { run: Run; exam: Exam }) {
  return (
    <section>
      <h2>Result of {when(run.began)}</h2>
      <Table name="Figures" heads={["", ...exam.releases, "Questions", ...(exam.releases.length > 1 ? ["Difference, 95 %", ""] : [])]}>
        {exam.figures.map((figure) => (
          <tr key={figure.metric}>
            <th scope="row">{figure.metric}</th>
            {figure.means.map((mean, at) => (
              <td key={at}>{mean.toFixed(3)}</td>
            ))}
            <td>{figure.questions}</td>
            {exam.releases.length > 1 && (
              <>
                <td>{apart(figure)}</td>
                <td>{figure.verdict}</td>
              </>
            )}
          </tr>
        ))}
      </Table>
      {exam.unusable.length > 0 && <p class="quiet">Not judged by passages: {exam.unusable.map((one) => `${one.where} ${one.reason}`).join("; ")}</p>}
      <details>
        <summary>Question by question ({exam.asked})</summary>
        <Table name="Question by question" heads={["Question", ...exam.releases]}>
          {exam.questions?.map((one, at) => (
            <tr key={at}>
              <th scope="row">{one.question}</th>
              {one.marks.map((mark, release) => (
                <td key={release}>
                  <Marked mark={mark} />
                </td>
              ))}
            </tr>
          ))}
        </Table>
      </details>
    </section>
  );
}

const apart = ({ difference }: Figure): string => (difference ? `${signed(difference.mean)} [${signed(difference.low)}, ${signed(difference.high)}]` : "");

function Marked({ mark }: { mark: Mark }) {
  return (
    <>
      {mark.recall !== null && <p>{mark.rank ? `rank ${mark.rank}` : "past 10"}</p>}
      {mark.basis && <p class="quiet">{mark.basis}</p>}
      {mark.text && <p>{mark.text}</p>}
    </>
  );
}
