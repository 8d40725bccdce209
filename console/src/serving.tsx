/** Serving and edge: what answers now, how much it has to do, and how often the cache spares it. */

import { useEffect, useMemo, useState } from "preact/hooks";

import { ask, events, Fault, open } from "./api";
import { Chart } from "./chart";
import { asFault, Problem, Screen, Table, when } from "./parts";
import type { Edge, Figures, Limits, Samples, Slow, Standing } from "./types";

const KEPT = 120;
const PAUSE = 2000;

export function Serving() {
  const [seen, setSeen] = useState<Figures[]>([]);
  const [edge, setEdge] = useState<Edge | null>(null);
  const [fault, setFault] = useState<Fault | null>(null);
  useEffect(() => {
    const left = new AbortController();
    const told = (next: Figures): void => (setSeen((now) => [...now.slice(1 - KEPT), next]), setFault(null));
    void watch(left.signal, told, setEdge, setFault);
    return () => left.abort();
  }, []);
  const now = seen.at(-1);
  return (
    <Screen title="Serving and edge" lead="This process as it is now, a look a second.">
      <Problem fault={fault} />
      {now && <Now seen={seen} now={now} />}
      {now && <Rates seen={seen} />}
      {now && <EdgeShares edge={edge} />}
      {edge && <Left limits={edge.limits} shared={edge.shared} />}
      {now && <Slowest answers={now.slowest} />}
    </Screen>
  );
}

/** Follow the stream until the page is left; it ends every few seconds by design, and is asked for again. */
async function watch(signal: AbortSignal, told: (next: Figures) => void, edge: (now: Edge | null) => void, failed: (fault: Fault) => void): Promise<void> {
  while (!signal.aborted) {
    try {
      for await (const data of events(await open("/admin/live", undefined, signal))) {
        told(JSON.parse(data) as Figures);
        edge(await ask<Edge>("/admin/edge", undefined, signal).catch(() => null));
      }
    } catch (error) {
      if (signal.aborted) return;
      failed(asFault(error));
      await new Promise((done) => setTimeout(done, PAUSE));
    }
  }
}

const total = (samples: Samples, name: string, label?: string, value?: string): number =>
  (samples[name] ?? []).filter(([labels]) => !label || labels[label] === value).reduce((sum, [, count]) => sum + count, 0);

const mean = (samples: Samples, stage: string): string => {
  const count = total(samples, "ragstone_seconds_count", "stage", stage);
  return count ? `${(total(samples, "ragstone_seconds_sum", "stage", stage) / count).toFixed(2)} s` : "none yet";
};

const UNTOLD = "not told";

function Now({ seen, now }: { seen: Figures[]; now: Figures }) {
  const { samples } = now;
  const facts: [string, string][] = [
    ["Release", `${now.release ?? "none"} (record ${now.number ?? 0})`],
    ["Replicas that take requests", String(total(samples, "ragstone_replicas"))],
    ["Restarted", String(total(samples, "ragstone_replica_restarts_total"))],
    ["Searching / waiting", `${now.retrieving} / ${now.queue}`],
    ["Tokens a second", rate(seen, (one) => total(one.samples, "ragstone_tokens_total", "kind", "output")).at(-1)?.toFixed(1) ?? "0"],
    ["Mean search", mean(samples, "retrieve")],
    ["Mean first token", mean(samples, "first_token")],
    ["Mean answer", mean(samples, "total")],
    ["Generator failures", String(total(samples, "ragstone_generator_failures_total"))],
  ];
  return (
    <section aria-label="Now">
      {now.reason && <p class="problem">{now.reason}</p>}
      <dl class="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
      <Table name="Replicas" heads={["Version", "Replica", "CPU", "Answers under way", "Waiting"]}>
        {now.replicas.map((one) => (
          <tr key={`${one.version} ${one.replica ?? ""}`}>
            <th scope="row">{one.version}</th>
            <td>{one.replica ?? UNTOLD}</td>
            <td>{one.cpu === null ? (one.replica ? "…" : UNTOLD) : `${one.cpu.toFixed(0)} %`}</td>
            <td>{one.busy ?? UNTOLD}</td>
            <td>{one.waiting ?? UNTOLD}</td>
          </tr>
        ))}
      </Table>
      <Table name="Versions" heads={["Version", "Share of the questions"]}>
        {Object.entries(now.versions).map(([version, share]) => (
          <tr key={version}>
            <td>{version}</td>
            <td>{share} %</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}

/** How much a count grew a second, between each two looks. */
function rate(seen: Figures[], count: (one: Figures) => number): number[] {
  return seen.map((one, at) => {
    const before = seen[at - 1];
    return before ? Math.max(0, (count(one) - count(before)) / Math.max(0.1, one.at - before.at)) : 0;
  });
}

function Rates({ seen }: { seen: Figures[] }) {
  const data = useMemo<[number[], number[], number[]]>(
    () => [
      seen.map((one) => one.at),
      rate(seen, (one) => total(one.samples, "ragstone_requests_total", "part", "origin")),
      rate(seen, (one) => total(one.samples, "ragstone_tokens_total", "kind", "output")),
    ],
    [seen],
  );
  return (
    <section>
      <h2>The last two minutes</h2>
      <Chart time name="Requests and tokens a second" data={data} lines={[{ label: "requests a second", quiet: true }, { label: "tokens a second" }]} />
    </section>
  );
}

const STATES = ["hit", "revalidated", "miss", "bypass"];

function EdgeShares({ edge }: { edge: Edge | null }) {
  if (!edge)
    return (
      <section>
        <h2>Edge</h2>
        <p class="quiet">No Python edge is in front of this page.</p>
      </section>
    );
  const counts = STATES.map((state) => total(edge.samples, "ragstone_cache_total", "state", state));
  const all = counts.reduce((sum, count) => sum + count, 0);
  return (
    <section>
      <h2>Edge</h2>
      <p>
        {edge.entries} answers kept ({(edge.bytes / 1e6).toFixed(1)} MB), {edge.requests} requests open, {edge.flights} on their way to the origin.
      </p>
      <Table name="Answers of the edge by cache state" heads={["State", "Answers", "Share"]}>
        {STATES.map((state, at) => (
          <tr key={state}>
            <td>{state}</td>
            <td>{counts[at]}</td>
            <td>{all ? `${((100 * (counts[at] ?? 0)) / all).toFixed(1)} %` : "–"}</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}

const left = (one: Standing): string => `${one.remaining.toLocaleString("en")} of ${one.limit.toLocaleString("en")}`;

function Left({ limits, shared }: { limits: Limits[]; shared: boolean }) {
  return (
    <section>
      <h2>Limits by tenant</h2>
      <p class="quiet">
        What each key has left of its minute at this edge, the tightest first.{shared && " Edges share their counts in Redis: what the others took is not in these figures."}
      </p>
      <Table name="Limits by tenant" heads={["Tenant", "Key", "Requests left", "Tokens left", "All back in"]}>
        {limits.map((one) => (
          <tr key={one.key}>
            <th scope="row">{one.tenant}</th>
            <td>
              <code>{one.key}</code>
            </td>
            <td>{left(one.requests)}</td>
            <td>{left(one.tokens)}</td>
            <td>{Math.ceil(Math.max(one.requests.reset, one.tokens.reset))} s</td>
          </tr>
        ))}
      </Table>
    </section>
  );
}

const spent = (seconds: number): string => `${seconds.toFixed(2)} s`;

function Slowest({ answers }: { answers: Slow[] }) {
  return (
    <section>
      <h2>The slowest answers of the last hour</h2>
      {answers.length === 0 && <p class="quiet">None was made by this process.</p>}
      {answers.length > 0 && (
        <Table name="Slowest answers" heads={["Took", "Search", "First sentence", "Tokens", "Basis", "Version", "Tenant", "When", "Question or request"]}>
          {answers.map((one) => (
            <tr key={one.request + one.at}>
              <th scope="row">{spent(one.total)}</th>
              <td>{spent(one.search)}</td>
              <td>{spent(one.first)}</td>
              <td>{one.tokens}</td>
              <td>{one.basis}</td>
              <td>{one.service}</td>
              <td>{one.tenant}</td>
              <td>{when(one.at)}</td>
              <td>{one.question || <code>{one.request}</code>}</td>
            </tr>
          ))}
        </Table>
      )}
    </section>
  );
}
