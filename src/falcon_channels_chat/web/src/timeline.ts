/** The messages of the open room: in order, each once, whatever way they came. */

import type { Message, MessagePage } from './types';

/** With more than this, and nobody looking at them, the oldest are let go. */
const MOST = 1000;
const KEPT = 300;

export class Timeline {
  messages: Message[] = [];
  /** Whether there are older ones at the server. */
  more = false;

  /** Take a page of the newest messages; return whether it left a hole behind it. */
  reset(page: MessagePage): void {
    const first = page.messages[0]?.id ?? 0;
    // What came from the channel while the page was on its way is newer than the page.
    const since = this.messages.filter((message) => message.id >= first);
    this.messages = [...page.messages];
    this.more = page.more;
    for (const message of since) this.upsert(message);
  }

  prepend(page: MessagePage): void {
    const first = this.messages[0]?.id ?? Infinity;
    this.messages = [...page.messages.filter((message) => message.id < first), ...this.messages];
    this.more = page.more;
  }

  /** Take one message; say what it was: new here, another version, or known. */
  upsert(message: Message): 'new' | 'changed' | 'known' {
    let index = this.messages.length;
    while (index > 0 && this.messages[index - 1]!.id > message.id) index -= 1;
    const there = this.messages[index - 1];
    if (there?.id === message.id) {
      if (there.version >= message.version) return 'known';
      this.messages[index - 1] = message;
      return 'changed';
    }
    // Older than all that is loaded: it is found when somebody scrolls up to it.
    if (index === 0 && this.more) return 'known';
    this.messages.splice(index, 0, message);
    return 'new';
  }

  /** Let go of the oldest, if there are very many. */
  trim(): void {
    if (this.messages.length <= MOST) return;
    this.messages = this.messages.slice(-KEPT);
    this.more = true;
  }
}
