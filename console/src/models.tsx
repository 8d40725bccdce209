/** Models: what the gate said of each training, question by question, and where each model comes from. */

import { useMemo } from "preact/hooks";

import { ask } from "./api";
import { Chart } from "./chart";
import { Digest, Problem, Screen, signed, Table, useLoaded, when } from "./parts";
import { Terms } from "./terms";
import { Training } from "./training";
import type { Model, Models as All, Verdict } from "./types";

export function Models() {
  const { data, fault, again } = useLoaded((signal) => ask<All>("/admin/models", undefined, signal), []);
  return (
    <Screen title="Models" lead="A model ships when held-out questions say that it is better. Otherwise the old one stays.">
      <Problem fault={fault} again={again} />
      {data && <Training ended={again} />}
      {data?.verdicts.length === 0 && <p>Nothing was trained yet.</p>}
      {data?.verdicts.map((verdict, at) => (
        <Judged key={at} verdict={verdict} />
      ))}
      {data && <Terms key={data.models.length} models={data.models} inForce={data.in_force} />}
      {data && <Lineage models={data.models} inForce={data.in_force} />}
    </Screen>
  );
}

function Judged({ verdict }: { verdict: Verdict }) {
  const outcome = verdict.promoted ? "Promoted" : "Refused: the model in force stays";
  return (
    <section class="verdict">
      <h2>{outcome}</h2>
      <p class="quiet">
        {when(verdict.at)} {verdict.model && <Digest of={verdict.model} />}
      </p>
      {verdict.reason ? <p>{verdict.reason}</p> : <Measured verdict={verdict} />}
      <Curve verdict={verdict} />
      <Changes verdict={verdict} />
    </section>
  );
}

function Measured({ verdict }: { verdict: Verdict }) {
  return (
    <>
      <p>
        {verdict.metric} {verdict.base.toFixed(3)} → {verdict.tuned.toFixed(3)}, <strong>{signed(verdict.gain)}</strong> [{signed(verdict.low)}, {signed(verdict.high)}], needed:
        lower bound above {verdict.margin}. {verdict.questions} held-out {verdict.kind} questions: {verdict.wins} better, {verdict.losses} worse.
      </p>
      {verdict.guards.length > 0 && (
        <ul>
          {verdict.guards.map((guard) => (
            <li key={guard.guard + guard.way}>
              {guard.guard} ({guard.way}): {guard.held ? "held" : "fell"}, {signed(guard.gain)} [{signed(guard.low)}, {signed(guard.high)}]
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function Curve({ verdict }: { verdict: Verdict }) {
  const data = useMemo<[number[], number[], (number | null)[]]>(
    () => [verdict.curve.map((one) => one.step), verdict.curve.map((one) => one.loss), verdict.curve.map((one) => one.held_out ?? null)],
    [verdict],
  );
  if (verdict.curve.length < 2) return <p class="quiet">No training curve is kept of this run.</p>;
  return <Chart name={`Loss by step, from ${verdict.curve[0]?.loss.toFixed(3)} to ${verdict.curve.at(-1)?.loss.toFixed(3)}`} data={data} lines={[{ label: "loss" }, { label: "held-out loss", quiet: true }]} />;
}

function Changes({ verdict }: { verdict: Verdict }) {
  if (verdict.changes.length === 0 && verdict.hidden === 0) return null;
  return (
    <details>
      <summary>The questions that changed most ({verdict.changes.length})</summary>
      {verdict.hidden > 0 && <p class="quiet">{verdict.hidden} more are about documents that this key may not read or that are gone.</p>}
      <Table name="Questions that changed" heads={["Question", "Document", "Rank before", "Rank after", verdict.metric]}>
        {verdict.changes.map((one) => (
          <tr key={one.question + one.document}>
            <td>{one.question}</td>
            <td>{one.document}</td>
            <td>{one.rank_before ?? "past 10"}</td>
            <td>{one.rank_after ?? "past 10"}</td>
            <td>{signed(one.after - one.before)}</td>
          </tr>
        ))}
      </Table>
    </details>
  );
}

function Lineage({ models, inForce }: { models: Model[]; inForce: string | null }) {
  return (
    <section>
      <h2>Lineage</h2>
      <Table name="Lineage" heads={["Model", "Name", "Base", "Judged against", "Trained on", "Releases"]}>
        {models.map((one) => (
          <tr key={one.model}>
            <td>
              <Digest of={one.model} /> {one.model === inForce && "in force"}
            </td>
            <td>{one.name}</td>
            <td>{one.base}</td>
            <td>{one.incumbent ? <Digest of={one.incumbent} /> : "not trained here"}</td>
            <td>{one.snapshot ? <Digest of={one.snapshot} /> : ""}</td>
            <td>{one.releases.join(", ")}</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}
