/** The key that this tab signed in with: kept by the browser for the tab alone, gone when it is closed. */

const NAME = "ragstone.key";

export const session = {
  get key(): string {
    return sessionStorage.getItem(NAME) ?? "";
  },
  begin(key: string): void {
    sessionStorage.setItem(NAME, key);
  },
  end(): void {
    sessionStorage.removeItem(NAME);
  },
};
