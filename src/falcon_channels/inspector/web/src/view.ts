/** A view of the page. */

export interface View {
  title: string;
  element: HTMLElement;
  /** Milliseconds between two calls of `refresh`. */
  intervalMs: number;
  /** Ask the server, and show the answer. */
  refresh(): Promise<void>;
  /** Called when another view is opened. */
  stop?(): void;
}
