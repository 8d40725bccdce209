/** The frame: who is signed in, which screen is shown, and the way between them. */

import { type ComponentType, render } from "preact";
import { useEffect, useState } from "preact/hooks";

import { ask, type Fault } from "./api";
import { Ask } from "./ask";
import { Documents } from "./documents";
import { Evaluation } from "./exam";
import { Models } from "./models";
import { asFault, Problem } from "./parts";
import { Releases } from "./releases";
import { Retrieve } from "./retrieve";
import { Serving } from "./serving";
import { session } from "./session";
import { SignIn } from "./signin";
import "./style.css";
import type { Key } from "./types";

const SCREENS: { path: string; name: string; screen: ComponentType; admin: boolean }[] = [
  { path: "ask", name: "Ask", screen: Ask, admin: false },
  { path: "retrieve", name: "Retrieval test", screen: Retrieve, admin: true },
  { path: "releases", name: "Releases", screen: Releases, admin: true },
  { path: "documents", name: "Documents", screen: Documents, admin: true },
  { path: "models", name: "Models", screen: Models, admin: true },
  { path: "exam", name: "Evaluation", screen: Evaluation, admin: true },
  { path: "serving", name: "Serving and edge", screen: Serving, admin: true },
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
    ask<Key>("/v1/key")
      .then(enter)
      .catch((error: unknown) => {
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
  const screens = SCREENS.filter((one) => who.admin || !one.admin);
  const shown = screens.find((one) => one.path === path) ?? screens[0];
  useEffect(() => {
    const moved = (): void => {
      setPath(here());
      requestAnimationFrame(() => document.getElementById("title")?.focus());
    };
    addEventListener("hashchange", moved);
    return () => removeEventListener("hashchange", moved);
  }, []);
  useEffect(() => void (document.title = `${shown?.name ?? ""} · Ragstone`), [shown]);
  const Shown = shown?.screen ?? Ask;
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
        <Shown />
      </main>
    </div>
  );
}

const place = document.getElementById("console");
if (place) render(<Console />, place);
