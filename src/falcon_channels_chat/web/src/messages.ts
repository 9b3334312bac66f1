/** Messages as elements: days, groups of one person, states, actions. */

import * as api from './api';
import { element, iconButton, setChildren } from './dom';
import type { Message, Unsent } from './types';
import { dayName, dayOf, hue, initials, isEmoji, moment, pieces, time } from './format';

/** Messages of one person within this time stand together. */
const TOGETHER_MS = 5 * 60_000;

export interface Actions {
  edit(message: Message): void;
  remove(message: Message): void;
  retry(unsent: Unsent): void;
  discard(unsent: Unsent): void;
}

export function avatar(id: string, name: string): HTMLElement {
  const made = element('span', { class: 'avatar', 'aria-hidden': 'true' }, initials(name));
  made.style.setProperty('--hue', String(hue(id)));
  return made;
}

export class MessageList {
  #elements = new Map<string, { signature: string; element: HTMLElement }>();

  constructor(
    readonly list: HTMLElement,
    readonly actions: Actions,
  ) {}

  /** Show these and nothing else, touching only what is different. */
  render(messages: Message[], unsent: Unsent[], me: string, myName: string): void {
    const known = this.#elements;
    const next: typeof known = new Map();
    const use = (key: string, signature: string, make: () => HTMLElement): HTMLElement => {
      let entry = known.get(key);
      if (entry?.signature !== signature) entry = { signature, element: make() };
      next.set(key, entry);
      return entry.element;
    };
    const shown: HTMLElement[] = [];
    let before: { user: string; sent_ms: number } | null = null;
    const openDay = (sent_ms: number) => {
      if (before && dayOf(before.sent_ms) === dayOf(sent_ms)) return;
      const name = dayName(sent_ms);
      shown.push(use(`day:${dayOf(sent_ms)}`, name, () => element('li', { class: 'day' }, element('span', {}, name))));
      before = null;
    };
    const follows = (user: string, sent_ms: number) =>
      before !== null && before.user === user && sent_ms - before.sent_ms < TOGETHER_MS;
    for (const message of messages) {
      openDay(message.sent_ms);
      const grouped = follows(message.user, message.sent_ms);
      const mine = message.user === me;
      shown.push(
        use(`m:${message.id}`, `${message.version} ${grouped}`, () => this.#message(message, mine, grouped)),
      );
      before = message;
    }
    for (const message of unsent) {
      openDay(message.sent_ms);
      const grouped = follows(me, message.sent_ms);
      shown.push(
        use(`u:${message.key}`, `${message.state} ${message.error} ${grouped}`, () =>
          this.#unsent(message, me, myName, grouped),
        ),
      );
      before = { user: me, sent_ms: message.sent_ms };
    }
    setChildren(this.list, shown);
    this.#elements = next;
  }

  #message(message: Message, mine: boolean, grouped: boolean): HTMLElement {
    const row = this.#row(message.user, message.name, mine, grouped);
    row.dataset['id'] = String(message.id);
    const bubble = element('div', { class: 'bubble', dir: 'auto' });
    if (message.deleted) {
      bubble.append(element('p', { class: 'gone' }, 'This message was deleted.'));
    } else {
      if (message.image) bubble.append(picture(api.imageUrl(message.image), message.name));
      if (message.text) bubble.append(words(message.text));
    }
    const foot = element(
      'p',
      { class: 'foot' },
      message.edited && !message.deleted ? element('span', {}, 'edited') : null,
      element(
        'time',
        { datetime: new Date(message.sent_ms).toISOString(), title: moment(message.sent_ms) },
        time(message.sent_ms),
      ),
    );
    bubble.append(foot);
    measure(bubble, foot);
    row.append(this.#body(message.name, mine, grouped, bubble, this.#tools(message, mine)));
    return row;
  }

  #tools(message: Message, mine: boolean): HTMLElement | null {
    if (!mine || message.deleted) return null;
    return element(
      'div',
      { class: 'tools' },
      iconButton('edit', 'Edit this message', () => this.actions.edit(message)),
      iconButton('delete', 'Delete this message', () => this.actions.remove(message)),
    );
  }

  #unsent(message: Unsent, me: string, name: string, grouped: boolean): HTMLElement {
    const row = this.#row(me, name, true, grouped);
    row.classList.add(message.state);
    row.dataset['key'] = message.key;
    const bubble = element('div', { class: 'bubble', dir: 'auto' });
    if (message.fileUrl) bubble.append(picture(message.fileUrl, name));
    if (message.text) bubble.append(words(message.text));
    const foot = element('p', { class: 'foot' });
    bubble.append(foot);
    const body = this.#body(name, true, grouped, bubble, null);
    if (message.state === 'pending') {
      foot.append(element('span', { class: 'state' }, 'sending …'));
    } else {
      const retry = element('button', { type: 'button', class: 'text' }, 'Send again');
      retry.addEventListener('click', () => this.actions.retry(message));
      const discard = element('button', { type: 'button', class: 'text' }, 'Remove');
      discard.addEventListener('click', () => this.actions.discard(message));
      foot.append(element('span', { class: 'state' }, 'not sent'));
      body.append(element('p', { class: 'failure' }, element('span', {}, message.error), retry, discard));
    }
    measure(bubble, foot);
    row.append(body);
    return row;
  }

  #row(user: string, name: string, mine: boolean, grouped: boolean): HTMLElement {
    const row = element('li', { class: 'message' });
    row.classList.toggle('mine', mine);
    row.classList.toggle('grouped', grouped);
    if (!mine) row.append(grouped ? element('span', { class: 'avatar-space' }) : avatar(user, name));
    return row;
  }

  #body(name: string, mine: boolean, grouped: boolean, bubble: HTMLElement, tools: HTMLElement | null): HTMLElement {
    const author = element('p', { class: grouped || mine ? 'author sr-only' : 'author' }, element('bdi', {}, name));
    return element('div', { class: 'body' }, author, element('div', { class: 'line' }, tools, bubble));
  }
}

/** Tell the bubble how much room its last line needs beside the text. */
function measure(bubble: HTMLElement, foot: HTMLElement): void {
  bubble.style.setProperty('--foot', String((foot.textContent ?? '').length + foot.childElementCount));
}

function words(text: string): HTMLElement {
  const paragraph = element('p', { class: isEmoji(text) ? 'words large' : 'words' });
  for (const piece of pieces(text)) {
    paragraph.append(
      piece.href
        ? element('a', { href: piece.href, target: '_blank', rel: 'noopener noreferrer nofollow' }, piece.text)
        : piece.text,
    );
  }
  return paragraph;
}

function picture(source: string, name: string): HTMLElement {
  const image = element('img', { src: source, alt: `Image from ${name}`, loading: 'lazy', decoding: 'async' });
  if (source.startsWith('blob:')) return element('span', { class: 'picture' }, image);
  return element('a', { class: 'picture', href: source, target: '_blank', rel: 'noopener' }, image);
}


