/** The frame: who is signed in, which screen is shown, and the way between them. */

import { render } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";

import { ask, type Fault } from "./api";
import { Ask } from "./ask";
import { asFault, part, Problem, Screen, useLoaded } from "./parts";
import { session } from "./session";
import { SignIn } from "./signin";
import "./style.css";
import type { Key } from "./types";

/** As `index.html` draws them before this script is there; all but the first are an administrator's. */
const SCREENS = [
  { path: "ask", name: "Ask" },
  { path: "retrieve", name: "Retrieval test" },
  { path: "releases", name: "Releases" },
  { path: "documents", name: "Documents" },
  { path: "models", name: "Models" },
  { path: "exam", name: "Evaluation" },
  { path: "serving", name: "Serving and edge" },
];

const here = (): string => location.hash.replace(/^#\/?/, "");

function Console() {
  const [key, setKey] = useState<Key | null>(session.who);
  const [fault, setFault] = useState<Fault | null>(null);
  const [asking, setAsking] = useState(Boolean(session.key));

  function enter(found: Key): void {
    session.who = found;
    setKey(found);
    setFault(null);
  }

  function resume(): void {
    const asked = session.key;
    ask<Key>("/v1/key")
      .then((found) => (session.key === asked ? enter(found) : undefined)) // else somebody signed out meanwhile
      .catch((error: unknown) => {
        if (session.key !== asked) return;
        const why = asFault(error);
        if (why.status === 401) leave();
        setFault(why.status === 401 ? null : why);
      })
      .finally(() => setAsking(false));
  }
  useEffect(() => (session.key ? resume() : undefined), []);

  function leave(): void {
    session.end();
    setKey(null);
    setAsking(false);
  }
  if (key) return <Frame who={key} leave={leave} />;
  if (asking) return null;
  return fault ? (
    <main class="signin">
      <Problem fault={fault} again={resume} />
    </main>
  ) : (
    <SignIn begin={enter} />
  );
}

function Frame({ who, leave }: { who: Key; leave: () => void }) {
  const [path, setPath] = useState(here());
  const moved = useRef(false);
  const screens = who.admin ? SCREENS : SCREENS.slice(0, 1);
  const shown = screens.find((one) => one.path === path) ?? screens[0];
  const { data: others, fault } = useLoaded(async () => (who.admin ? (await part(import("./administration"))).SCREENS : {}), [who.admin]);
  useEffect(() => {
    const move = (): void => (setPath(here()), void (moved.current = true));
    addEventListener("hashchange", move);
    return () => removeEventListener("hashchange", move);
  }, []);
  useEffect(() => void (document.title = `${shown?.name ?? ""} · Ragstone`), [shown]);
  const Shown = shown === screens[0] ? Ask : others?.[shown?.path ?? ""];
  useEffect(() => (moved.current ? document.getElementById("title")?.focus() : undefined), [shown, Shown]);
  return (
    <div class="frame">
      <a class="skip" href="#title" onClick={(event) => (event.preventDefault(), document.getElementById("title")?.focus())}>
        Skip to the content
      </a>
      <nav aria-label="Screens">
        <p class="brand">Ragstone</p>
        <ul>
          {screens.map((one) => (
            <li key={one.path}>
              <a href={`#/${one.path}`} aria-current={one === shown ? "page" : undefined}>
                {one.name}
              </a>
            </li>
          ))}
        </ul>
        <p class="who">
          {who.tenant} · {who.groups.join(", ")}
          <button type="button" class="plain" onClick={leave}>
            Sign out
          </button>
        </p>
      </nav>
      <main>
        {Shown ? <Shown /> : <Awaited name={shown?.name ?? ""} fault={fault} />}
      </main>
    </div>
  );
}

/** A screen whose script is on its way. Where it can't be had, a newer console may be served by now. */
function Awaited({ name, fault }: { name: string; fault: Fault | null }) {
  return (
    <Screen title={name} lead="">
      <Problem fault={fault} again={() => location.reload()} />
    </Screen>
  );
}

const place = document.getElementById("console");
if (place) render(<Console />, place);
