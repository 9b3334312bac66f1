/** The open room: its messages, what is new in it, where the reader is in it. */

import * as api from './api';
import { byId, element } from './dom';
import type { Channel, Live } from './live';
import type { MessageList } from './messages';
import type { Outbox } from './outbox';
import type { MemberList } from './sidebar';
import { Timeline } from './timeline';
import type { Me, Message } from './types';
import { namesTyping } from './format';

/** So near to the end counts as at the end. */
const NEAR_PX = 80;
/** So near to the beginning older messages are asked for. */
const EARLY_PX = 600;
const TYPING_LASTS_MS = 6_000;
const TYPING_EVERY_MS = 3_000;
const RETRY_MS = 2_000;
const TELL_AFTER_MS = 700;

const nameIn = (info: unknown) => (info as { name?: string } | undefined)?.name ?? '?';

export interface RoomParts {
  me: Me;
  live: Live;
  list: MessageList;
  outbox: Outbox;
  members: MemberList;
  notice(words: string): void;
  onRead(room: string): void;
}

export class RoomView {
  name = '';
  #timeline = new Timeline();
  #channels: Channel[] = [];
  #typing: Channel | null = null;
  #typists = new Map<string, { name: string; timer: ReturnType<typeof setTimeout> }>();
  #saidTyping = 0;
  #loadingOlder = false;
  #marked = 0;
  #telling: ReturnType<typeof setTimeout> | undefined;
  #unseen = 0;
  readonly #scroller = byId('timeline');
  readonly #toNewest = byId('to-newest');

  constructor(readonly parts: RoomParts) {
    this.#scroller.addEventListener('scroll', () => this.#onScroll(), { passive: true });
    this.#toNewest.addEventListener('click', () => this.#toEnd());
    new ResizeObserver(() => {
      if (this.#wasAtEnd) this.#toEnd();
    }).observe(this.#scroller);
    document.addEventListener('visibilitychange', () => this.markRead());
  }

  #wasAtEnd = true;

  /** Whether the newest message is in sight of somebody. */
  get isRead(): boolean {
    return document.visibilityState === 'visible' && this.#wasAtEnd;
  }

  async open(name: string): Promise<void> {
    this.close();
    this.name = name;
    byId('room-name').textContent = name;
    byId('empty').hidden = true;
    this.render();
    const page = await this.#load(name);
    if (!page || this.name !== name) return;
    this.#timeline.reset(page);
    this.#wasAtEnd = true;
    this.render();
    this.markRead();
    const { live } = this.parts;
    this.#channels = [
      live.follow(
        `rooms:${name}`,
        {
          onPublication: (data) => this.take(data as Message),
          onJoin: (id, info) => this.parts.members.add({ id, name: nameIn(info) }),
          onLeave: (id) => this.parts.members.remove(id),
          onSubscribed: (gap) => void this.#onSubscribed(name, gap),
        },
        page.position,
      ),
    ];
    this.#typing = live.follow(`typing:${name}`, {
      onPublication: (data, user, info) =>
        this.#onTyping(user, nameIn(info), (data as { typing: boolean }).typing),
    });
    this.#channels.push(this.#typing);
    this.render();
  }

  close(): void {
    for (const channel of this.#channels) channel.close();
    this.#channels = [];
    this.#typing = null;
    clearTimeout(this.#telling);
    this.#telling = undefined;
    for (const { timer } of this.#typists.values()) clearTimeout(timer);
    this.#typists.clear();
    this.#renderTyping();
    this.parts.members.reset([]);
    this.#timeline = new Timeline();
    this.#saidTyping = 0;
    this.#marked = 0;
    this.#unseen = 0;
    this.name = '';
  }

  /** Take a message, from the channel or as an answer to what was sent. */
  take(message: Message): void {
    this.parts.outbox.confirm(message);
    if (message.room !== this.name) return;
    const change = this.#timeline.upsert(message);
    if (change === 'known') return;
    this.#onTyping(message.user, '', false);
    if (change === 'new' && message.user !== this.parts.me.id) {
      if (!this.#wasAtEnd) this.#unseen += 1;
      byId('announcer').textContent = `${message.name}: ${message.text || 'an image'}`;
    }
    if (this.#wasAtEnd) this.#timeline.trim();
    this.render();
    this.markRead();
  }

  /** Show what is there, with the reader's place kept. */
  render(): void {
    const { list, outbox, me } = this.parts;
    const unsent = outbox.unsent.filter((message) => message.room === this.name);
    list.render(this.#timeline.messages, unsent, me.id, me.name);
    const isEmpty = this.#timeline.messages.length + unsent.length === 0;
    byId('beginning').hidden = this.#timeline.more || isEmpty;
    byId('quiet').hidden = !isEmpty || this.#channels.length === 0;
    if (this.#wasAtEnd) this.#toEnd();
    this.#renderToNewest();
  }

  toEndNow(): void {
    this.#toEnd();
  }

  lastOwn(): Message | undefined {
    return this.#timeline.messages.findLast(
      (message) => message.user === this.parts.me.id && !message.deleted,
    );
  }

  /** Tell the others that somebody writes here, now and then. */
  sayTyping(now: boolean): void {
    if (now && Date.now() - this.#saidTyping < TYPING_EVERY_MS) return;
    if (!now && this.#saidTyping === 0) return;
    this.#saidTyping = now ? Date.now() : 0;
    this.#typing?.whisper({ typing: now });
  }

  markRead(): void {
    const last = this.#timeline.messages.at(-1);
    if (!last || !this.isRead || last.id <= this.#marked) return;
    this.#marked = last.id;
    this.parts.onRead(this.name);
    const name = this.name;
    // In a lively room the server is told now and then, not with every message.
    this.#telling ??= setTimeout(() => {
      this.#telling = undefined;
      if (this.name !== name) return;
      api.markRead(name, this.#marked).catch(() => {
        this.#marked = 0;
      });
    }, TELL_AFTER_MS);
  }

  // --- loading -----------------------------------------------------------------------

  async #load(name: string): Promise<api.RoomSnapshot | null> {
    while (this.name === name) {
      try {
        return await api.snapshot(name);
      } catch (error) {
        if (error instanceof api.Refused && !error.passing) {
          this.#showMissing(name, error);
          return null;
        }
        await new Promise((done) => setTimeout(done, RETRY_MS));
      }
    }
    return null;
  }

  #showMissing(name: string, error: api.Refused): void {
    const empty = byId('empty');
    empty.hidden = false;
    empty.replaceChildren(element('p', {}, error.message));
    if (error.status !== 404) return;
    const create = element('button', { type: 'button', class: 'primary' }, 'Create it');
    create.addEventListener('click', () => {
      api.createRoom(name).then(
        (made) => void this.open(made.name),
        (problem: Error) => this.parts.notice(problem.message),
      );
    });
    empty.append(create);
  }

  async #onSubscribed(name: string, gap: boolean): Promise<void> {
    if (gap) {
      const page = await this.#load(name);
      if (!page || this.name !== name) return;
      this.#timeline.reset(page);
      this.#wasAtEnd = true;
      this.render();
      this.markRead();
      this.parts.notice(
        'You were away for too long to catch up message by message, so the room was loaded again.',
      );
    }
    try {
      const present = await this.#channels[0]!.present();
      if (this.name !== name) return;
      this.parts.members.reset(present.map(([id, info]) => ({ id, name: nameIn(info) })));
    } catch {
      // The connection is gone again; the next one asks again.
    }
  }

  async #loadOlder(): Promise<void> {
    const first = this.#timeline.messages[0];
    if (this.#loadingOlder || !this.#timeline.more || !first) return;
    this.#loadingOlder = true;
    byId('older').hidden = false;
    const name = this.name;
    try {
      const page = await api.olderThan(name, first.id);
      if (this.name !== name || this.#timeline.messages[0] !== first) return;
      // The place is kept as the distance from the end.
      const below = this.#scroller.scrollHeight - this.#scroller.scrollTop;
      byId('older').hidden = true;
      this.#timeline.prepend(page);
      this.render();
      this.#scroller.scrollTop = this.#scroller.scrollHeight - below;
    } catch {
      await new Promise((done) => setTimeout(done, RETRY_MS));
    } finally {
      byId('older').hidden = true;
      this.#loadingOlder = false;
    }
  }

  // --- scrolling ---------------------------------------------------------------------

  #onScroll(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#wasAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_PX;
    if (this.#wasAtEnd) {
      this.#unseen = 0;
      this.markRead();
    }
    this.#renderToNewest();
    if (scrollTop < EARLY_PX) void this.#loadOlder();
  }

  #toEnd(): void {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#wasAtEnd = true;
    this.#unseen = 0;
    this.#renderToNewest();
  }

  #renderToNewest(): void {
    this.#toNewest.hidden = this.#wasAtEnd;
    byId('to-newest-text').textContent = this.#unseen
      ? `${this.#unseen} new ${this.#unseen === 1 ? 'message' : 'messages'}`
      : 'Newest';
  }

  // --- who types ---------------------------------------------------------------------

  #onTyping(user: string, name: string, now: boolean): void {
    if (user === this.parts.me.id) return;
    clearTimeout(this.#typists.get(user)?.timer);
    this.#typists.delete(user);
    if (now) {
      const timer = setTimeout(() => this.#onTyping(user, name, false), TYPING_LASTS_MS);
      this.#typists.set(user, { name, timer });
    }
    this.#renderTyping();
  }

  #renderTyping(): void {
    const parts = namesTyping([...this.#typists.values()].map((typist) => typist.name));
    byId('typing').replaceChildren(
      ...parts.map((part, index) => (index % 2 === 0 ? element('bdi', {}, part) : part)),
    );
  }
}
