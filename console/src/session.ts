/** The key that this tab signed in with, and what it stands for: kept by the browser for the tab alone, gone when it is closed. */

import type { Key } from "./types";

const NAME = "ragstone.key";
const WHO = "ragstone.who";

export const session = {
  get key(): string {
    return sessionStorage.getItem(NAME) ?? "";
  },
  begin(key: string): void {
    sessionStorage.setItem(NAME, key);
  },
  /** What the key stood for at the last look: the frame is drawn by it at once, and looked after meanwhile. */
  get who(): Key | null {
    return JSON.parse(sessionStorage.getItem(WHO) ?? "null") as Key | null;
  },
  set who(key: Key | null) {
    sessionStorage.setItem(WHO, JSON.stringify(key));
  },
  end(): void {
    sessionStorage.removeItem(NAME);
    sessionStorage.removeItem(WHO);
  },
};
