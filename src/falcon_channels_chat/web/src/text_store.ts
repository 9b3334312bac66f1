/** Texts that the browser stores for the member of this page. */

export class TextStore {
  /** Texts that the storage refused: they last until the page is closed. */
  readonly #unstored = new Map<string, string>();
  readonly #prefix: string;

  /**
   * `storage` returns `localStorage` or `sessionStorage`; reading these names throws an
   * error if the browser blocks the storage. Texts of other members who used this
   * browser before are removed.
   */
  constructor(
    readonly storage: () => Storage,
    readonly kind: string,
    member: string,
  ) {
    this.#prefix = `${kind}:${member}:`;
    this.#remove((key) => !key.startsWith(this.#prefix));
  }

  get(name: string): string {
    const key = this.#prefix + name;
    try {
      return this.#unstored.get(key) ?? this.storage().getItem(key) ?? '';
    } catch {
      return '';
    }
  }

  /** Store a text; an empty text is removed. */
  set(name: string, text: string): void {
    const key = this.#prefix + name;
    this.#unstored.delete(key);
    try {
      this.storage().removeItem(key);
      if (text) this.storage().setItem(key, text);
    } catch {
      // The storage is full or blocked.
      this.#unstored.set(key, text);
    }
  }

  clear(): void {
    this.#unstored.clear();
    this.#remove(() => true);
  }

  #remove(isRemoved: (key: string) => boolean): void {
    try {
      for (const key of Object.keys(this.storage())) {
        if (key.startsWith(`${this.kind}:`) && isRemoved(key)) this.storage().removeItem(key);
      }
    } catch {
      // The storage is blocked, so it has no texts.
    }
  }
}
