/** The domain's terms under two models: a map of both, and which terms moved most. */

import { useMemo, useState } from "preact/hooks";

import { ask, type Fault } from "./api";
import { Scatter } from "./chart";
import { asFault, Problem, Table } from "./parts";
import type { Model, TermMap } from "./types";

const NAMED = 12;
const LISTED = 20;

export function Terms({ models, inForce }: { models: Model[]; inForce: string | null }) {
  const after = models.find((one) => one.model === inForce) ?? models.at(-1);
  const root = models.find((one) => one.model === after?.lineage["base"] || one.model === after?.incumbent) ?? models.find((one) => one !== after);
  const [from, setFrom] = useState(root?.model ?? "");
  const [to, setTo] = useState(after?.model ?? "");
  const [made, setMade] = useState<TermMap | null>(null);
  const [fault, setFault] = useState<Fault | null>(null);
  const [busy, setBusy] = useState(false);
  if (models.length < 2) return null;
  async function draw(): Promise<void> {
    setBusy(true);
    try {
      setMade(await ask<TermMap>("/admin/terms", { before: from, after: to }));
      setFault(null);
    } catch (error) {
      setFault(asFault(error));
    }
    setBusy(false);
  }
  return (
    <section aria-label="Map of the terms">
      <h2>The terms of your documents, before and after</h2>
      <form class="row" onSubmit={(event) => (event.preventDefault(), busy || void draw())}>
        <Pick name="Before" value={from} set={setFrom} models={models} />
        <Pick name="After" value={to} set={setTo} models={models} />
        <button disabled={busy}>Draw the map</button>
      </form>
      <Problem fault={fault} />
      {made && <Drawn made={made} />}
    </section>
  );
}

function Pick({ name, value, set, models }: { name: string; value: string; set: (model: string) => void; models: Model[] }) {
  return (
    <label>
      {name}{" "}
      <select value={value} onChange={(event) => set(event.currentTarget.value)}>
        {models.map((one) => (
          <option key={one.model} value={one.model}>
            {one.name} {one.model.slice(0, 12)}
          </option>
        ))}
      </select>
    </label>
  );
}

function Drawn({ made }: { made: TermMap }) {
  const points = useMemo(() => made.terms.map((term, at) => ({ ...term, named: at < NAMED })), [made]);
  const [before, after] = made.shown.map((share) => `${Math.round(100 * share)} %`);
  return (
    <>
      <Scatter name={`Map of ${made.terms.length} terms before and after; the table says which moved most`} points={points} />
      <p class="quiet">
        {made.terms.length} terms on each model&apos;s two main axes, which show {before} and {after} of the spread. A term has moved as far as its nearness to all others has
        changed, also where the picture does not show it.
      </p>
      <Table name="Terms that moved most" heads={["Term", "Moved", "Near to it before", "Near to it after"]}>
        {made.terms.slice(0, LISTED).map((term) => (
          <tr key={term.word}>
            <th scope="row">{term.word}</th>
            <td>{term.moved.toFixed(2)}</td>
            <td>{term.near_before.join(", ")}</td>
            <td>{term.near_after.join(", ")}</td>
          </tr>
        ))}
      </Table>
    </>
  );
}
