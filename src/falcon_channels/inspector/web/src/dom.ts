/** Create elements. Text is never parsed as markup. */

export type Child = Node | string | null;

export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const created = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  created.append(...children.filter((child) => child !== null));
  return created;
}

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`no element #${id}`);
  return found as T;
}

export function button(label: string, onClick: () => void, attributes: Record<string, string> = {}): HTMLButtonElement {
  const created = element('button', { type: 'button', ...attributes }, label);
  created.addEventListener('click', onClick);
  return created;
}

/** Characters that are invisible, or that change the direction of the text after them. */
const INVISIBLE = /[\p{C}\u2028\u2029]/gu;

/** Make invisible characters of a text that somebody else has chosen visible. */
export function visible(text: string): string {
  return text.replace(INVISIBLE, (character) => `\\u{${character.codePointAt(0)!.toString(16)}}`);
}

/** Return a text that somebody else has chosen, in its own direction. */
export function foreign(text: string, tag: 'bdi' | 'code' = 'bdi'): HTMLElement {
  return element(tag, { dir: 'auto' }, visible(text));
}

export function channelLink(channel: string): HTMLElement {
  if (!channel) return element('span', {}, '');
  return element('a', { href: `#/channel/${encodeURIComponent(channel)}` }, foreign(channel));
}

export function userLink(user: string): HTMLElement {
  const text = user ? foreign(user) : element('em', {}, 'anonymous');
  return element('a', { href: `#/user/${encodeURIComponent(user)}` }, text);
}

/** A column: its heading, and the cell of a row. `#` before the heading: numbers, aligned at the right. */
export type Column<T> = [heading: string, cell: (row: T) => Child];

/** A table that changes in place, so that the keyboard focus stays where it is. */
export class Table<T> {
  readonly element: HTMLElement;
  private readonly body = element('tbody');
  private readonly empty: HTMLElement;
  private readonly rows = new Map<string, HTMLTableRowElement>();

  /** The key of a row stays the same while its cells change. */
  constructor(
    caption: string,
    private readonly columns: Column<T>[],
    private readonly key: (row: T) => string,
    empty: string,
  ) {
    const heads = columns.map(([name]) =>
      element('th', { scope: 'col', class: this.kind(name) }, name.replace('#', '')),
    );
    this.empty = element('p', { class: 'quiet' }, empty);
    this.element = element(
      'div',
      { class: 'table', role: 'region', tabindex: '0', 'aria-label': caption },
      element('table', {}, element('caption', {}, caption), element('thead', {}, element('tr', {}, ...heads)), this.body),
      this.empty,
    );
  }

  private kind(name: string): string {
    return name.startsWith('#') ? 'number' : 'text';
  }

  update(rows: T[]): void {
    const keys = new Set(rows.map(this.key));
    for (const [key, row] of this.rows) {
      if (!keys.has(key)) {
        row.remove();
        this.rows.delete(key);
      }
    }
    let next: Element | null = this.body.firstElementChild;
    for (const shown of rows) {
      const key = this.key(shown);
      const made = this.makeRow(shown);
      const before = this.rows.get(key);
      if (before === undefined) {
        this.rows.set(key, made);
        this.body.insertBefore(made, next);
        continue;
      }
      if (before === next) next = next.nextElementSibling;
      else this.body.insertBefore(before, next);
      if (!before.isEqualNode(made)) this.replaceCells(before, made);
    }
    this.empty.hidden = rows.length > 0;
  }

  private makeRow(row: T): HTMLTableRowElement {
    const made = this.columns.map(([name, cell]) => element('td', { class: this.kind(name) }, cell(row)));
    return element('tr', {}, ...made);
  }

  private replaceCells(row: HTMLTableRowElement, made: HTMLTableRowElement): void {
    const cells = [...made.cells];
    [...row.cells].forEach((cell, index) => {
      const changed = cells[index];
      // A cell with the focus stays, unless its content changed.
      if (changed !== undefined && !cell.isEqualNode(changed)) cell.replaceWith(changed);
    });
  }
}

/** A list of names and values that changes in place. */
export class Facts {
  readonly element = element('dl');
  private readonly values = new Map<string, HTMLElement>();

  update(facts: Record<string, Child>): void {
    for (const [name, value] of Object.entries(facts)) {
      let shown = this.values.get(name);
      if (shown === undefined) {
        shown = element('dd');
        this.values.set(name, shown);
        this.element.append(element('div', {}, element('dt', {}, name), shown));
      }
      const made = element('dd', {}, value);
      if (!shown.isEqualNode(made)) shown.replaceChildren(...made.childNodes);
    }
  }
}
