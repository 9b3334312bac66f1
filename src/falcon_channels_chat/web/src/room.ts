/** The open room: its messages, its subscriptions, the scroll position, typing. */

import * as api from './api';
import { byId, element } from './dom';
import type { Channel, Live } from './live';
import type { MessageList } from './messages';
import type { Outbox } from './outbox';
import type { MemberList } from './sidebar';
import { Timeline } from './timeline';
import type { Me, Message, RoomSnapshot } from './types';
import { typingText } from './format';

/** At this distance from the end, the view follows new messages. */
const NEAR_END_PX = 80;
/** At this distance from the beginning, older messages are loaded. */
const LOAD_OLDER_PX = 600;
/** A member without a further signal counts as typing for this time. */
const TYPING_LASTS_MS = 6_000;
/** While the user types, a signal is published once in this time. */
const TYPING_EVERY_MS = 3_000;
const RETRY_MS = 2_000;
/** The read mark is sent to the server at most once in this time. */
const MARK_READ_EVERY_MS = 700;

const nameFrom = (info: unknown) => (info as { name?: string } | undefined)?.name ?? '?';

export interface RoomParts {
  me: Me;
  live: Live;
  list: MessageList;
  outbox: Outbox;
  members: MemberList;
  showNotice(text: string): void;
  onRead(room: string): void;
  /** Called when the user has created the room of the address; its name may differ. */
  onCreated(room: string): void;
}

export class RoomView {
  name = '';
  #timeline = new Timeline();
  #channels: Channel[] = [];
  #typingChannel: Channel | null = null;
  #typists = new Map<string, { name: string; timer: ReturnType<typeof setTimeout> }>();
  #lastTypingMs: number | undefined;
  #loadingOlder = false;
  /** Whether the server has refused older messages, for a reason that does not pass. */
  #olderRefused = false;
  #readUpTo = 0;
  #markReadTimer: ReturnType<typeof setTimeout> | undefined;
  #unseen = 0;
  #frame = 0;
  readonly #scroller = byId('timeline');
  readonly #toNewest = byId('to-newest');

  constructor(readonly parts: RoomParts) {
    this.#scroller.addEventListener('scroll', () => this.#onScroll(), { passive: true });
    this.#toNewest.addEventListener('click', () => this.#scrollToEnd());
    new ResizeObserver(() => {
      if (this.#isAtEnd) this.#scrollToEnd();
    }).observe(this.#scroller);
    document.addEventListener('visibilitychange', () => {
      this.markRead();
      // A page that is closed becomes hidden first.
      if (document.visibilityState === 'hidden') this.#sendReadMark();
    });
  }

  #isAtEnd = true;

  /** Whether the user sees the newest message. */
  get isRead(): boolean {
    return document.visibilityState === 'visible' && this.#isAtEnd;
  }

  async open(name: string): Promise<void> {
    this.close();
    this.name = name;
    byId('room-name').textContent = name;
    byId('empty').hidden = true;
    this.#render();
    const page = await this.#load(name);
    if (!page || this.name !== name) return;
    this.#timeline.reset(page);
    this.#isAtEnd = true;
    this.#render();
    this.markRead();
    const { live } = this.parts;
    this.#channels = [
      live.subscribe(
        `rooms:${name}`,
        {
          onPublication: (data) => this.addMessage(data as Message),
          onJoin: (id, info) => this.parts.members.add({ id, name: nameFrom(info) }),
          onLeave: (id) => this.parts.members.remove(id),
          onSubscribed: (missed) => void this.#onSubscribed(name, missed),
          onRefused: () => void this.#onRefused(name),
        },
        page.position,
      ),
    ];
    this.#typingChannel = live.subscribe(`typing:${name}`, {
      onPublication: (data, user, info) =>
        this.#onTyping(user, nameFrom(info), (data as { typing: boolean }).typing),
    });
    this.#channels.push(this.#typingChannel);
    this.render();
  }

  close(): void {
    for (const channel of this.#channels) channel.close();
    this.#channels = [];
    this.#typingChannel = null;
    this.#sendReadMark();
    for (const { timer } of this.#typists.values()) clearTimeout(timer);
    this.#typists.clear();
    this.#renderTyping();
    this.parts.members.reset([]);
    this.#timeline = new Timeline();
    this.#olderRefused = false;
    this.#lastTypingMs = undefined;
    this.#readUpTo = 0;
    this.#unseen = 0;
    this.name = '';
  }

  /** Add a new message, or the new version of a known message. */
  addMessage(message: Message): void {
    this.parts.outbox.confirm(message);
    if (message.room !== this.name) return;
    const change = this.#timeline.upsert(message);
    if (change === 'known') return;
    this.#onTyping(message.user, '', false);
    if (change === 'new' && message.user !== this.parts.me.id) {
      if (!this.#isAtEnd) this.#unseen += 1;
      byId('announcer').textContent = `${message.name}: ${message.text || 'an image'}`;
    }
    if (this.#isAtEnd) this.#timeline.trim();
    this.render();
    this.markRead();
  }

  /** Update the page before the next frame: once for all messages that arrive until then. */
  render(): void {
    this.#frame ||= requestAnimationFrame(() => this.#render());
  }

  /** Update the page now. At the end of the messages, the view stays at the end. */
  #render(): void {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const { list, outbox, me } = this.parts;
    const unsent = outbox.unsent.filter((message) => message.room === this.name);
    list.render(this.#timeline.messages, unsent, me.id, me.name);
    const isEmpty = this.#timeline.messages.length + unsent.length === 0;
    byId('beginning').hidden = this.#timeline.more || isEmpty;
    byId('quiet').hidden = !isEmpty || this.#channels.length === 0;
    if (this.#isAtEnd) this.#scrollToEnd();
    this.#renderToNewest();
    // On a tall screen, all messages fit, and the user cannot scroll up.
    const { scrollHeight, clientHeight } = this.#scroller;
    if (scrollHeight <= clientHeight) void this.#loadOlder();
  }

  scrollToEnd(): void {
    this.#scrollToEnd();
  }

  lastOwnMessage(): Message | undefined {
    return this.#timeline.messages.findLast(
      (message) => message.user === this.parts.me.id && !message.deleted,
    );
  }

  /** Publish that the user types or has stopped, at a limited rate. */
  publishTyping(isTyping: boolean): void {
    const lastMs = this.#lastTypingMs;
    if (!isTyping && lastMs === undefined) return;
    // A monotonic clock. The wall clock may go back, and nobody would see the typing.
    const nowMs = performance.now();
    if (isTyping && lastMs !== undefined && nowMs - lastMs < TYPING_EVERY_MS) return;
    this.#lastTypingMs = isTyping ? nowMs : undefined;
    this.#typingChannel?.publishIfSubscribed({ typing: isTyping });
  }

  markRead(): void {
    const last = this.#timeline.messages.at(-1);
    if (!last || !this.isRead || last.id <= this.#readUpTo) return;
    this.#readUpTo = last.id;
    this.parts.onRead(this.name);
    // If many messages arrive, the server gets one request for all of them.
    this.#markReadTimer ??= setTimeout(() => this.#sendReadMark(), MARK_READ_EVERY_MS);
  }

  /** Send the read mark that waits, for example before another room is opened. */
  #sendReadMark(): void {
    if (this.#markReadTimer === undefined) return;
    clearTimeout(this.#markReadTimer);
    this.#markReadTimer = undefined;
    const name = this.name;
    api.markRead(name, this.#readUpTo).catch(() => {
      if (this.name === name) this.#readUpTo = 0;
    });
  }

  // --- loading -----------------------------------------------------------------------

  async #load(name: string): Promise<RoomSnapshot | null> {
    while (this.name === name) {
      try {
        const page = await api.getRoom(name);
        // A message whose answer was lost must not be shown twice.
        for (const message of page.messages) this.parts.outbox.confirm(message);
        return page;
      } catch (error) {
        if (error instanceof api.ApiError && !error.isTemporary) {
          this.#showMissing(name, error);
          return null;
        }
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
      }
    }
    return null;
  }

  #showMissing(name: string, error: api.ApiError): void {
    const empty = byId('empty');
    empty.hidden = false;
    empty.replaceChildren(element('p', {}, error.message));
    if (error.status !== 404) return;
    const create = element('button', { type: 'button', class: 'primary' }, 'Create it');
    create.addEventListener('click', () => {
      api.createRoom(name).then(
        (created) => this.name === name && this.parts.onCreated(created.name),
        (problem: Error) => this.parts.showNotice(problem.message),
      );
    });
    empty.append(create);
  }

  async #onSubscribed(name: string, missed: boolean): Promise<void> {
    // A server that was replaced may give them now.
    this.#olderRefused = false;
    if (missed) {
      const before = [...this.#timeline.messages];
      const page = await this.#load(name);
      if (!page || this.name !== name) return;
      this.#timeline.reset(page, before);
      this.#isAtEnd = true;
      this.#readUpTo = 0;
      this.#render();
      this.markRead();
      this.parts.showNotice(
        'You were offline for too long to receive every message, so the room was loaded again.',
      );
    }
    try {
      const present = await this.#channels[0]!.presence();
      if (this.name !== name) return;
      this.parts.members.reset(present.map(([id, info]) => ({ id, name: nameFrom(info) })));
    } catch {
      // The connection was lost. This function is called again after the next one.
    }
  }

  /** Called when the server has refused or ended the subscription to the room. */
  async #onRefused(name: string): Promise<void> {
    if (this.name !== name) return;
    const page = await this.#load(name);
    if (this.name !== name) return;
    if (page) {
      this.parts.showNotice('The server has ended the updates of this room. Reload the page.');
      return;
    }
    // The room is gone. `#load` has said so.
    this.#channels = [];
    this.#typingChannel = null;
    this.#timeline = new Timeline();
    this.parts.members.reset([]);
    this.render();
  }

  async #loadOlder(): Promise<void> {
    const first = this.#timeline.messages[0];
    if (this.#loadingOlder || this.#olderRefused || !this.#timeline.more || !first) return;
    this.#loadingOlder = true;
    byId('older').hidden = false;
    const name = this.name;
    try {
      const page = await api.getOlderMessages(name, first.id);
      if (this.name === name && this.#timeline.messages[0]?.id === first.id) {
        // Older messages are added above, so the distance to the end stays the same.
        const below = this.#scroller.scrollHeight - this.#scroller.scrollTop;
        byId('older').hidden = true;
        this.#timeline.prepend(page);
        this.#render();
        this.#scroller.scrollTop = this.#scroller.scrollHeight - below;
      }
    } catch (error) {
      if (error instanceof api.ApiError && !error.isTemporary) {
        if (this.name === name) {
          this.#olderRefused = true;
          this.parts.showNotice(`Older messages cannot be loaded: ${error.message}`);
        }
      } else await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    } finally {
      byId('older').hidden = true;
      this.#loadingOlder = false;
    }
    // After an error, if the page did not fill the view, and if another room was opened
    // meanwhile: at the beginning, the user cannot scroll up any further.
    if (this.#scroller.scrollTop < LOAD_OLDER_PX) void this.#loadOlder();
  }

  // --- scrolling ---------------------------------------------------------------------

  #onScroll(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#isAtEnd = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
    if (this.#isAtEnd) {
      this.#unseen = 0;
      this.markRead();
    }
    this.#renderToNewest();
    if (scrollTop < LOAD_OLDER_PX) void this.#loadOlder();
  }

  #scrollToEnd(): void {
    this.#scroller.scrollTop = this.#scroller.scrollHeight;
    this.#isAtEnd = true;
    this.#unseen = 0;
    this.#renderToNewest();
  }

  #renderToNewest(): void {
    this.#toNewest.hidden = this.#isAtEnd;
    byId('to-newest-text').textContent = this.#unseen
      ? `${this.#unseen} new ${this.#unseen === 1 ? 'message' : 'messages'}`
      : 'Newest';
  }

  // --- typing ------------------------------------------------------------------------

  #onTyping(user: string, name: string, isTyping: boolean): void {
    if (user === this.parts.me.id) return;
    clearTimeout(this.#typists.get(user)?.timer);
    this.#typists.delete(user);
    if (isTyping) {
      const timer = setTimeout(() => this.#onTyping(user, name, false), TYPING_LASTS_MS);
      this.#typists.set(user, { name, timer });
    }
    this.#renderTyping();
  }

  #renderTyping(): void {
    const parts = typingText([...this.#typists.values()].map(({ name }) => name));
    byId('typing').replaceChildren(
      ...parts.map((part, index) => (index % 2 === 0 ? element('bdi', {}, part) : part)),
    );
  }
}
