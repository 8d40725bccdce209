/** Releases: what each is made of, what differs, what is in force, and putting another in force. */

import { useEffect, useRef, useState } from "preact/hooks";

import { ask } from "./api";
import { Act, Digest, Problem, Screen, Table, useLoaded, when } from "./parts";
import type { Entry, Release, Releases as All } from "./types";

export function Releases() {
  const { data, fault, again } = useLoaded((signal) => ask<All>("/admin/releases", undefined, signal), []);
  const [channel, setChannel] = useState("");
  const chosen = channel || data?.channel || "";
  const history = data?.channels[chosen] ?? [];
  return (
    <Screen title="Releases" lead="Documents, model, index, generator and settings move together; one record puts them in force or back.">
      <Problem fault={fault} again={again} />
      {data && (
        <>
          <InForce channels={Object.keys(data.channels)} channel={chosen} set={setChannel} history={history} again={again} />
          <Parts all={data} channel={chosen} history={history} again={again} />
          <Difference releases={data.releases} history={history} />
          <Timeline history={history} releases={data.releases} />
        </>
      )}
    </Screen>
  );
}

type Of = { history: Entry[]; again: () => void };

function InForce({ channels, channel, set, history, again }: { channels: string[]; channel: string; set: (name: string) => void } & Of) {
  const now = history.at(-1);
  return (
    <section aria-label="In force" class="row">
      <label>
        Channel{" "}
        <select value={channel} onChange={(event) => set(event.currentTarget.value)}>
          {channels.map((name) => (
            <option key={name}>{name}</option>
          ))}
        </select>
      </label>
      {now && (
        <p>
          <code>{now.release}</code> is in force since {when(now.at)}
          {trials(now)}
        </p>
      )}
      {history.length > 1 && now && <Act name="Roll back" sure={`Put back what was in force before ${now.release}?`} path="/admin/rollback" body={{ channel, after: now.number }} done={again} />}
    </section>
  );
}

function Parts({ all, channel, history, again }: { all: All; channel: string } & Of) {
  const now = history.at(-1);
  return (
    <section>
      <h2>All releases</h2>
      <Table name="All releases" heads={["Release", "Why", "Documents", "Model", "Index", "Generator", ""]}>
        {all.releases.map((one) => (
          <tr key={one.release}>
            <td>
              <code>{one.release}</code>
            </td>
            <td>{one.note}</td>
            <td>
              <Digest of={one.snapshot} />
            </td>
            <td>
              <Digest of={one.model} />
            </td>
            <td>
              <Digest of={one.index} />
            </td>
            <td>{shares(one)}</td>
            <td>
              {one.release === now?.release ? (
                "in force"
              ) : one.withdrawn ? (
                "withdrawn: it held what was forgotten"
              ) : (
                <>
                  <Act
                    name="Promote"
                    sure={`Put ${one.release} in force on ${channel}?`}
                    path="/admin/promote"
                    body={{ channel, release: one.release, after: now?.number ?? 0 }}
                    done={again}
                  />{" "}
                  {now && <Canary id={one.release} channel={channel} now={now} again={again} />}
                </>
              )}
            </td>
          </tr>
        ))}
      </Table>
    </section>
  );
}

/** A share of the conversations for a release, beside the one in force: chosen first, then given. */
function Canary({ id, channel, now, again }: { id: string; channel: string; now: Entry; again: () => void }) {
  const given = now.canary[id];
  const [share, setShare] = useState(10);
  const [open, setOpen] = useState(false);
  const slider = useRef<HTMLInputElement>(null);
  useEffect(() => slider.current?.focus(), [open]);
  const body = { channel, release: id, after: now.number };
  if (given)
    return (
      <span>
        answers {given} % <Act name="Withdraw" sure={`Let ${now.release} answer all conversations again?`} path="/admin/canary" body={{ ...body, share: 0 }} done={again} />
      </span>
    );
  if (!open)
    return (
      <button type="button" onClick={() => setOpen(true)}>
        Try on some
      </button>
    );
  const set = (event: { currentTarget: HTMLInputElement }): void => setShare(Math.min(99, Math.max(1, Number(event.currentTarget.value) || 1)));
  return (
    <span class="share" role="group" aria-label={`Share of ${id}`}>
      <input type="range" min={1} max={99} value={share} aria-label="Share in per cent" ref={slider} onInput={set} />
      <label>
        <input type="number" min={1} max={99} value={share} aria-label="Share, as a number" onChange={set} /> % of the conversations
      </label>
      <Act name="Begin" sure={`Let ${id} answer ${share} % of the conversations on ${channel}?`} path="/admin/canary" body={{ ...body, share }} done={again} />
      <button type="button" onClick={() => setOpen(false)}>
        Cancel
      </button>
    </span>
  );
}

const shares = (one: Release): string =>
  Object.entries(one.generator)
    .map(([version, share]) => `${version} ${share} %`)
    .join(", ");

type Rows = { data: { part: string; one: unknown; other: unknown }[] };

function Difference({ releases, history }: { releases: Release[]; history: Entry[] }) {
  const now = history.at(-1)?.release ?? "";
  const [one, setOne] = useState(now);
  const [other, setOther] = useState(releases.find((release) => release.release !== now)?.release ?? now);
  const load = (signal: AbortSignal): Promise<Rows> => (one && other ? ask<Rows>("/admin/diff", { one, other }, signal) : Promise.resolve({ data: [] }));
  const { data, fault, again } = useLoaded(load, [one, other]);
  return (
    <section>
      <h2>What differs</h2>
      <div class="row">
        <Choice name="From" value={one} set={setOne} releases={releases} />
        <Choice name="To" value={other} set={setOther} releases={releases} />
      </div>
      <Problem fault={fault} again={again} />
      {data?.data.length === 0 && <p class="quiet">Nothing: these are the same parts.</p>}
      {data && data.data.length > 0 && (
        <Table name="What differs" heads={["Part", one, other === one ? `${other} ` : other]}>
          {data.data.map((row) => (
            <tr key={row.part}>
              <th scope="row">{row.part}</th>
              <td>
                <Value of={row.one} beside={row.other} />
              </td>
              <td>
                <Value of={row.other} beside={row.one} />
              </td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}

function Choice({ name, value, set, releases }: { name: string; value: string; set: (id: string) => void; releases: Release[] }) {
  return (
    <span>
      <label for={`release-${name}`}>{name}</label>{" "}
      <select id={`release-${name}`} value={value} onChange={(event) => set(event.currentTarget.value)}>
        {releases.map((one) => (
          <option key={one.release}>{one.release}</option>
        ))}
      </select>
    </span>
  );
}

/** A part's value; of settings only those that are not equal on the other side. */
function Value({ of, beside }: { of: unknown; beside: unknown }) {
  if (of === null || typeof of !== "object" || Array.isArray(of)) return <span class="value">{typeof of === "string" ? of : JSON.stringify(of)}</span>;
  const others = (beside ?? {}) as Record<string, unknown>;
  const changed = Object.entries(of).filter(([name, value]) => JSON.stringify(others[name]) !== JSON.stringify(value));
  return (
    <>
      {changed.map(([name, value]) => (
        <div key={name}>
          {name} <strong>{JSON.stringify(value)}</strong>
        </div>
      ))}
    </>
  );
}

const trials = (one: Entry): string =>
  Object.entries(one.canary)
    .map(([id, share]) => `, ${share} % to ${id}`)
    .join("");

function Timeline({ history, releases }: { history: Entry[]; releases: Release[] }) {
  const notes = new Map(releases.map((one) => [one.release, one.note]));
  return (
    <section>
      <h2>Timeline</h2>
      <ol class="timeline" reversed>
        {history.toReversed().map((one) => (
          <li key={one.number} value={one.number}>
            <time dateTime={new Date(one.at * 1000).toISOString()}>{when(one.at)}</time> <code>{one.release}</code>{" "}
            {one.returns_to ? `rolled back to record ${one.returns_to}` : notes.get(one.release)}
            {trials(one)}
          </li>
        ))}
      </ol>
    </section>
  );
}
