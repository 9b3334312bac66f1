/** Show messages as elements: days, groups of one sender, states, actions. */

import * as api from './api';
import { element, iconButton, setChildren } from './dom';
import type { Message, Unsent } from './types';
import { dayName, startOfDay, hue, initials, isEmojiOnly, formatDateTime, formatTime, splitAtLinks } from './format';

/** Consecutive messages of one sender within this time are shown as a group. */
const GROUP_MS = 5 * 60_000;

export interface Actions {
  edit(message: Message): void;
  remove(message: Message): void;
  retry(unsent: Unsent): void;
  discard(unsent: Unsent): void;
}

export function avatar(id: string, name: string): HTMLElement {
  const created = element('span', { class: 'avatar', 'aria-hidden': 'true' }, initials(name));
  created.style.setProperty('--hue', String(hue(id)));
  return created;
}

export class MessageList {
  #elements = new Map<string, { signature: string; element: HTMLElement }>();

  constructor(
    readonly list: HTMLElement,
    readonly actions: Actions,
  ) {}

  /** Show exactly these messages; create only the elements that have changed. */
  render(messages: Message[], unsent: Unsent[], me: string, myName: string): void {
    const existing = this.#elements;
    const next: typeof existing = new Map();
    const reuseOrCreate = (key: string, signature: string, create: () => HTMLElement): HTMLElement => {
      let entry = existing.get(key);
      if (entry?.signature !== signature) entry = { signature, element: create() };
      next.set(key, entry);
      return entry.element;
    };
    const shown: HTMLElement[] = [];
    let previous: { user: string; sent_ms: number } | null = null;
    const addDay = (sent_ms: number) => {
      if (previous && startOfDay(previous.sent_ms) === startOfDay(sent_ms)) return;
      const name = dayName(sent_ms);
      shown.push(
        reuseOrCreate(`day:${startOfDay(sent_ms)}`, name, () =>
          element('li', { class: 'day' }, element('span', {}, name)),
        ),
      );
      previous = null;
    };
    const isGrouped = (user: string, sent_ms: number) =>
      previous !== null && previous.user === user && sent_ms - previous.sent_ms < GROUP_MS;
    for (const message of messages) {
      addDay(message.sent_ms);
      const grouped = isGrouped(message.user, message.sent_ms);
      const mine = message.user === me;
      // A server that has lost its database gives the ids of old messages to new ones.
      const signature = `${message.user} ${message.sent_ms} ${message.version} ${grouped}`;
      shown.push(
        reuseOrCreate(`m:${message.id}`, signature, () => this.#message(message, mine, grouped)),
      );
      previous = message;
    }
    for (const message of unsent) {
      addDay(message.sent_ms);
      const grouped = isGrouped(me, message.sent_ms);
      shown.push(
        reuseOrCreate(`u:${message.key}`, `${message.state} ${message.error} ${grouped}`, () =>
          this.#unsent(message, me, myName, grouped),
        ),
      );
      previous = { user: me, sent_ms: message.sent_ms };
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
      if (message.text) bubble.append(messageText(message.text));
    }
    const foot = element(
      'p',
      { class: 'foot' },
      message.edited && !message.deleted ? element('span', {}, 'edited') : null,
      element(
        'time',
        { datetime: new Date(message.sent_ms).toISOString(), title: formatDateTime(message.sent_ms) },
        formatTime(message.sent_ms),
      ),
    );
    bubble.append(foot);
    reserveFootWidth(bubble, foot);
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
    if (message.text) bubble.append(messageText(message.text));
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
    reserveFootWidth(bubble, foot);
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

/** Reserve space for the time in the last line of a message; see style.css. */
function reserveFootWidth(bubble: HTMLElement, foot: HTMLElement): void {
  bubble.style.setProperty('--foot', String((foot.textContent ?? '').length + foot.childElementCount));
}

function messageText(text: string): HTMLElement {
  const paragraph = element('p', { class: isEmojiOnly(text) ? 'words large' : 'words' });
  for (const part of splitAtLinks(text)) {
    paragraph.append(
      part.href
        ? element('a', { href: part.href, target: '_blank', rel: 'noopener noreferrer nofollow' }, part.text)
        : part.text,
    );
  }
  return paragraph;
}

function picture(source: string, name: string): HTMLElement {
  const image = element('img', { src: source, alt: `Image from ${name}`, loading: 'lazy', decoding: 'async' });
  if (source.startsWith('blob:')) return element('span', { class: 'picture' }, image);
  return element('a', { class: 'picture', href: source, target: '_blank', rel: 'noopener' }, image);
}


