/** Small pieces that several screens show, and what they load with. */

import type { ComponentChildren } from "preact";
import { useCallback, useEffect, useRef, useState } from "preact/hooks";

import { ask, Fault } from "./api";

export interface Loaded<T> {
  data: T | null;
  fault: Fault | null;
  again: () => void;
}

/** What `load` gives, loaded anew when one of `on` changes or `again` is called; an answer that comes too late is dropped. */
export function useLoaded<T>(load: (signal: AbortSignal) => Promise<T>, on: readonly unknown[]): Loaded<T> {
  const [data, setData] = useState<T | null>(null);
  const [fault, setFault] = useState<Fault | null>(null);
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const left = new AbortController();
    load(left.signal).then(
      (found) => (setData(found), setFault(null)),
      (error: unknown) => left.signal.aborted || setFault(asFault(error)),
    );
    return () => left.abort();
  }, [...on, turn]);
  return { data, fault, again: useCallback(() => setTurn((now) => now + 1), []) };
}

/** A part of this page that has a file of its own. Raises a `Fault` when it can't be had: after an upgrade its name is another one. */
export async function part<T>(file: Promise<T>): Promise<T> {
  return file.catch(() => {
    throw new Fault("A part of this page can't be loaded. The service may be restarting, or be newer than the page.", 0, "unreachable");
  });
}

export function asFault(error: unknown): Fault {
  return error instanceof Fault ? error : new Fault(error instanceof Error ? error.message : String(error), 0, "");
}

export function Problem({ fault, again }: { fault: Fault | null; again?: () => void }) {
  if (!fault) return null;
  return (
    <div class="problem" role="alert">
      <p>{fault.message}</p>
      {again && (
        <button type="button" onClick={again}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Screen({ title, lead, children }: { title: string; lead: string; children: ComponentChildren }) {
  return (
    <>
      <header class="lead">
        <h1 id="title" tabIndex={-1}>
          {title}
        </h1>
        <p>{lead}</p>
      </header>
      {children}
    </>
  );
}

/** A button that asks once more before it acts, in its own place. */
export function Act({ name, sure, path, body, done }: { name: string; sure: string; path: string; body: object; done: () => void }) {
  const [asking, setAsking] = useState(false);
  const [fault, setFault] = useState<Fault | null>(null);
  async function act(): Promise<void> {
    try {
      await ask(path, body);
      setFault(null);
      done();
    } catch (error) {
      setFault(asFault(error));
    }
    setAsking(false);
  }
  if (!asking)
    return (
      <span>
        <button type="button" onClick={() => setAsking(true)}>
          {name}
        </button>
        <Problem fault={fault} again={done} />
      </span>
    );
  return (
    <span class="sure" role="group" aria-label={sure}>
      {sure}{" "}
      <button type="button" class="primary" autofocus ref={(button) => button?.focus()} onClick={() => void act()}>
        Yes
      </button>{" "}
      <button type="button" onClick={() => setAsking(false)}>
        No
      </button>
    </span>
  );
}

/** What lies over a screen until it is closed. */
export function Sheet({ title, lead, close, children }: { title: string; lead: string; close: () => void; children: ComponentChildren }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog ref={dialog} class="source" onClose={close} aria-labelledby="sheet-title">
      <header>
        <div>
          <h2 id="sheet-title">{title}</h2>
          <p class="quiet">{lead}</p>
        </div>
        <button type="button" onClick={() => dialog.current?.close()}>
          Close
        </button>
      </header>
      {children}
    </dialog>
  );
}

/** A table that scrolls by itself where it is too wide, also by keyboard. */
export function Table({ name, heads, children }: { name: string; heads: string[]; children: ComponentChildren }) {
  return (
    <div class="scroll" role="region" aria-label={name} tabIndex={0}>
      <table>
        <thead>
          <tr>
            {heads.map((head) => (
              <th key={head} scope="col">
                {head}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>{children}</tbody>
      </table>
    </div>
  );
}

/** A probability as a bar and a number. */
export function Probability({ value }: { value: number }) {
  return (
    <span class="probability">
      <meter min={0} max={1} value={value} aria-label="P(relevant)" /> <span>{value.toFixed(2)}</span>
    </span>
  );
}

/** A digest's first characters, with the whole of it at hand. */
export function Digest({ of }: { of: string }) {
  return <code title={of}>{of.slice(0, 12)}</code>;
}

export const when = (seconds: number): string => (seconds ? new Date(seconds * 1000).toLocaleString() : "not known");
export const trail = (title: string, path: string[]): string => [...new Set([title, ...path])].filter(Boolean).join(" › ");
export const signed = (value: number): string => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
