/** Sign-in by an API key. Whether it may administer is the service's to say. */

import { useEffect, useState } from "preact/hooks";

import { ask, type Fault } from "./api";
import { asFault, Problem } from "./parts";
import { session } from "./session";
import type { Key } from "./types";

/** What was typed before this script was there. */
const already = (): string => document.querySelector<HTMLInputElement>("#key")?.value ?? "";

export function SignIn({ begin }: { begin: (key: Key) => void }) {
  const [typed, setTyped] = useState(already);
  const [fault, setFault] = useState<Fault | null>(null);
  const [busy, setBusy] = useState(false);

  useEffect(() => {
    document.title = "Sign in · Ragstone";
    document.getElementById("key")?.focus(); // the browser does so for the first field of a page alone, not after a sign-out
  }, []);

  async function enter(event: Event): Promise<void> {
    event.preventDefault();
    setBusy(true);
    session.begin(typed.trim());
    try {
      begin(await ask<Key>("/v1/key"));
    } catch (error) {
      session.end();
      setFault(asFault(error));
      setBusy(false);
    }
  }

  return (
    <main class="signin">
      <form onSubmit={(event) => void enter(event)}>
        <p class="brand">Ragstone</p>
        <h1 id="title">Sign in</h1>
        <label for="key">API key</label>
        <input id="key" type="password" autocomplete="off" spellcheck={false} required autofocus value={typed} onInput={(event) => setTyped(event.currentTarget.value)} />
        <button class="primary" disabled={busy}>
          Sign in
        </button>
        <Problem fault={fault} />
        <p class="quiet">
          <code>ragstone up</code> prints where this machine's key is; <code>ragstone keys create --admin</code> makes another. It stays in this tab and is gone when
          you close it.
        </p>
      </form>
    </main>
  );
}
