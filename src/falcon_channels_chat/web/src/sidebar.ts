/** The two panels beside the messages: the rooms, and the members of the open room. */

import * as api from './api';
import { byId, element, setChildren } from './dom';
import type { ChannelEvents, Live } from './live';
import { avatar } from './messages';
import type { Me, Member, RoomSummary } from './types';

interface News {
  room: string;
  message: number;
  user: string;
}

/** The list of rooms, with the number of unread messages. */
export class RoomList {
  #rooms = new Map<string, RoomSummary>();
  #current = '';
  #loading: Promise<void> | null = null;
  /** News that arrived while the list was being loaded. */
  #newsWhileLoading: News[] = [];
  #items = new Map<string, { signature: string; item: HTMLElement }>();
  readonly #list = byId('rooms');

  constructor(
    readonly me: Me,
    readonly live: Live,
    readonly onOpen: (room: string) => void,
    /** Returns whether the user sees the newest message of the open room. */
    readonly isReading: () => boolean,
  ) {
    byId<HTMLFormElement>('new-room').addEventListener('submit', (event) => {
      event.preventDefault();
      void this.#create();
    });
  }

  async start(): Promise<void> {
    const { rooms, position } = await api.getRooms();
    this.#setRooms(rooms);
    this.live.subscribe('news', this.#newsEvents(), position);
    this.live.subscribe(`users:${this.me.id}`, {
      onPublication: (data) => this.#onRead(data as { room: string; read: number }),
      onSubscribed: (missed) => missed && void this.reload(),
    });
  }

  /**
   * Load the list again. Calls during a request share its answer.
   *
   * The answer can be older than the news that arrive before it. They are handled again.
   */
  reload(): Promise<void> {
    this.#loading ??= api
      .getRooms()
      .then(({ rooms }) => this.#setRooms(rooms))
      .catch(() => undefined)
      .finally(() => {
        this.#loading = null;
        for (const news of this.#newsWhileLoading.splice(0)) this.#onNews(news);
      });
    return this.#loading;
  }

  open(room: string): void {
    this.#current = room;
    this.#render();
  }

  markRead(room: string): void {
    const summary = this.#rooms.get(room);
    if (summary && summary.unread > 0) {
      summary.unread = 0;
      this.#render();
    }
  }

  #setRooms(rooms: RoomSummary[]): void {
    this.#rooms = new Map(rooms.map((room) => [room.name, room]));
    // The server learns a moment later that the member reads the open room.
    const open = this.#rooms.get(this.#current);
    if (open && this.isReading()) open.unread = 0;
    this.#render();
  }

  #newsEvents(): ChannelEvents {
    return {
      onPublication: (data) => this.#onNews(data as News),
      onSubscribed: (missed) => missed && void this.reload(),
    };
  }

  #onNews(news: News): void {
    if (this.#loading) this.#newsWhileLoading.push(news);
    const room = this.#rooms.get(news.room);
    if (!room) {
      void this.reload();
      return;
    }
    if (news.message <= room.last) return;
    room.last = news.message;
    if (news.user === this.me.id) return;
    if (news.room === this.#current && this.isReading()) return;
    room.unread += 1;
    this.#render();
  }

  #onRead(mark: { room: string; read: number }): void {
    const room = this.#rooms.get(mark.room);
    if (!room) return;
    if (mark.read >= room.last) {
      // The news about this message can arrive later. They must not count it as unread.
      room.last = mark.read;
      this.markRead(mark.room);
    } else if (room.unread > 0) void this.reload();
  }

  async #create(): Promise<void> {
    const input = byId<HTMLInputElement>('new-room-name');
    const error = byId('new-room-error');
    error.textContent = '';
    if (input.value.trim() === '') {
      input.focus();
      return;
    }
    try {
      const { name } = await api.createRoom(input.value);
      input.value = '';
      await this.reload();
      this.onOpen(name);
    } catch (problem) {
      error.textContent = problem instanceof api.ApiError ? problem.message : 'No connection. Try again.';
    }
  }

  #render(): void {
    // An element that has not changed stays, so that it keeps the keyboard focus.
    const existingItems = this.#items;
    const items: typeof existingItems = new Map();
    for (const room of this.#rooms.values()) {
      const signature = `${room.unread} ${room.name === this.#current}`;
      const existing = existingItems.get(room.name);
      if (existing?.signature === signature) items.set(room.name, existing);
      else items.set(room.name, { signature, item: this.#item(room, existing?.item) });
    }
    this.#items = items;
    setChildren(this.#list, [...items.values()].map(({ item }) => item));
    const unread = [...this.#rooms.values()].reduce((sum, room) => sum + room.unread, 0);
    byId('unread-elsewhere').hidden = unread === 0;
    const count = unread > 99 ? '99+' : String(unread);
    document.title = `${unread ? `(${count}) ` : ''}${this.#current ? `#${this.#current} · ` : ''}Falcon Chat`;
  }

  /** Return the entry of a room: `existing` with a new content, or a new one. */
  #item(room: RoomSummary, existing?: HTMLElement): HTMLElement {
    const item = existing ?? this.#newItem(room.name);
    const link = item.firstElementChild!;
    link.replaceChildren(
      element('span', { class: 'hash', 'aria-hidden': 'true' }, '#'),
      element('bdi', {}, room.name),
    );
    if (room.name === this.#current) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
    link.classList.toggle('unread', room.unread > 0);
    if (room.unread > 0) {
      link.append(
        element('span', { class: 'badge' }, room.unread > 99 ? '99+' : String(room.unread), element('span', { class: 'sr-only' }, ' unread')),
      );
    }
    return item;
  }

  #newItem(name: string): HTMLElement {
    const link = element('a', { href: `/rooms/${encodeURIComponent(name)}` });
    link.addEventListener('click', (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.onOpen(name);
    });
    return element('li', {}, link);
  }
}

/** The members who are in the open room. Several tabs of one person are one entry. */
export class MemberList {
  #members = new Map<string, Member>();

  constructor(readonly me: string) {}

  reset(members: Member[]): void {
    this.#members = new Map(members.map((member) => [member.id, member]));
    this.#render();
  }

  add(member: Member): void {
    this.#members.set(member.id, member);
    this.#render();
  }

  remove(id: string): void {
    this.#members.delete(id);
    this.#render();
  }

  #render(): void {
    const members = [...this.#members.values()].sort((a, b) => a.name.localeCompare(b.name));
    byId('members').replaceChildren(
      ...members.map((member) =>
        element(
          'li',
          {},
          avatar(member.id, member.name),
          element('bdi', {}, member.name),
          member.id === this.me ? element('span', { class: 'quiet' }, 'you') : null,
        ),
      ),
    );
    byId('member-count').textContent = String(members.length);
  }
}

/** Open and close the panels with buttons on narrow screens. */
export function startDrawers(): { close(): void } {
  const buttons: Record<string, HTMLElement> = { rooms: byId('show-rooms'), members: byId('show-members') };
  const show = (panel: string) => {
    document.body.dataset['panel'] = panel;
    byId('shade').hidden = panel === '';
    for (const [name, button] of Object.entries(buttons)) {
      button.setAttribute('aria-expanded', String(name === panel));
    }
  };
  const close = () => show('');
  for (const [name, button] of Object.entries(buttons)) {
    button.addEventListener('click', () => {
      const opening = document.body.dataset['panel'] !== name;
      show(opening ? name : '');
      if (opening) byId(`${name}-panel`).querySelector<HTMLElement>('a, button, input')?.focus();
    });
  }
  byId('shade').addEventListener('click', close);
  addEventListener('keydown', (event) => {
    const open = document.body.dataset['panel'];
    if (event.key !== 'Escape' || !open) return;
    close();
    buttons[open]?.focus();
  });
  return { close };
}
