/** The messages of the open room, in order and without duplicates. */

import type { Message, MessagePage } from './types';

/** With more messages than this, all but the newest ones are removed. */
const MAX_MESSAGES = 1000;
const MESSAGES_AFTER_TRIM = 300;

export class Timeline {
  messages: Message[] = [];
  /** Whether the server has older messages. */
  more = false;

  /**
   * Replace all messages by a page of the newest messages.
   *
   * `before` are the messages that were known before the page was requested. Those that
   * the page does not contain are removed: the server may have lost its database. Its
   * new messages then have the ids of old ones.
   */
  reset(page: MessagePage, before: Message[] = []): void {
    const first = page.messages[0]?.id ?? 0;
    // Messages that arrived on the channel during the request are newer than the page.
    const known = new Set(before);
    const newer = this.messages.filter((message) => message.id >= first && !known.has(message));
    this.messages = [...page.messages];
    this.more = page.more;
    for (const message of newer) this.upsert(message);
  }

  prepend(page: MessagePage): void {
    const first = this.messages[0]?.id ?? Infinity;
    this.messages = [...page.messages.filter((message) => message.id < first), ...this.messages];
    this.more = page.more;
  }

  /** Add a message or a new version of it; return what has changed. */
  upsert(message: Message): 'new' | 'changed' | 'known' {
    let index = this.messages.length;
    while (index > 0 && this.messages[index - 1]!.id > message.id) index -= 1;
    const existing = this.messages[index - 1];
    if (existing?.id === message.id) {
      if (isSame(existing, message) && existing.version >= message.version) return 'known';
      this.messages[index - 1] = message;
      return 'changed';
    }
    // It is older than the loaded messages, and is loaded when the user scrolls up.
    if (index === 0 && this.more) return 'known';
    this.messages.splice(index, 0, message);
    return 'new';
  }

  /** Remove the oldest messages if there are too many. */
  trim(): void {
    if (this.messages.length <= MAX_MESSAGES) return;
    this.messages = this.messages.slice(-MESSAGES_AFTER_TRIM);
    this.more = true;
  }
}

/**
 * Whether two messages with the same id are versions of one message. A server that has
 * lost its database gives the ids of old messages to new ones.
 */
function isSame(one: Message, other: Message): boolean {
  return one.sent_ms === other.sent_ms && one.user === other.user;
}
