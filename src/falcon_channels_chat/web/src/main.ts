/** The page from its first moment: a name, the connection, the room of the address. */

import * as api from './api';
import { Composer } from './composer';
import { byId } from './dom';
import { Live } from './live';
import { avatar, MessageList } from './messages';
import { Outbox } from './outbox';
import { RoomView } from './room';
import { MemberList, RoomList, startDrawers } from './sidebar';
import type { Me, Message } from './types';

const LOBBY = 'lobby';
const NOTICE_MS = 12_000;
const RESEND_MS = 5_000;

function roomOfAddress(): string {
  const match = /^\/rooms\/([^/]+)$/.exec(location.pathname);
  try {
    return match ? decodeURIComponent(match[1]!) : LOBBY;
  } catch {
    return LOBBY;
  }
}

function startNotice(): (words: string) => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const box = byId('notice');
  const hide = () => {
    box.hidden = true;
  };
  byId('notice-close').addEventListener('click', hide);
  return (words) => {
    byId('notice-text').textContent = words;
    box.hidden = false;
    clearTimeout(timer);
    timer = setTimeout(hide, NOTICE_MS);
  };
}

function askToDelete(): Promise<boolean> {
  const dialog = byId<HTMLDialogElement>('confirm');
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((done) => {
    dialog.addEventListener('close', () => done(dialog.returnValue === 'yes'), { once: true });
  });
}

async function startChat(me: Me): Promise<void> {
  byId('welcome').hidden = true;
  byId('chat').hidden = false;
  byId('my-name').textContent = me.name;
  byId('my-avatar').replaceWith(avatar(me.id, me.name));

  const notice = startNotice();
  const drawers = startDrawers();
  const say = (problem: Error) =>
    notice(problem instanceof api.Refused ? problem.message : 'That did not work: no connection.');

  const live = new Live({
    onState: (connected) => {
      byId('status').dataset['state'] = connected ? 'connected' : 'connecting';
      byId('status-text').textContent = connected ? 'connected' : 'connecting';
      if (connected) outbox.retryAll();
    },
    onOffline: (offline) => {
      byId('offline').hidden = !offline;
    },
    onEnded: () => location.reload(),
  });
  const outbox: Outbox = new Outbox(
    me.id,
    () => room.render(),
    (message) => room.take(message),
  );
  const edit = (message: Message) => composer.startEditing(message);
  const list = new MessageList(byId('messages'), {
    edit,
    remove: async (message) => {
      if (!(await askToDelete())) return;
      api.remove(message).then((gone) => room.take(gone), say);
      composer.focus();
    },
    retry: (unsent) => outbox.retry(unsent),
    discard: (unsent) => outbox.discard(unsent),
  });
  const rooms = new RoomList(me, live, (name) => go(name), () => room.isRead);
  const room = new RoomView({
    me,
    live,
    list,
    outbox,
    members: new MemberList(me.id),
    notice,
    onRead: (name) => rooms.markRead(name),
  });
  const composer = new Composer({
    send: (text, file) => {
      outbox.add(room.name, text, file);
      room.toEndNow();
    },
    edit: (message, text) => {
      api.edit(message, text).then((changed) => room.take(changed), say);
    },
    editLast: () => {
      const last = room.lastOwn();
      if (last) edit(last);
    },
    typing: (now) => room.sayTyping(now),
  });

  const show = (name: string) => {
    drawers.close();
    rooms.open(name);
    composer.open(name);
    composer.focus();
    void room.open(name);
  };
  const go = (name: string) => {
    history.pushState(null, '', `/rooms/${encodeURIComponent(name)}`);
    show(name);
  };
  addEventListener('popstate', () => show(roomOfAddress()));
  byId('leave').addEventListener('click', () => {
    api.leave().then(() => location.assign('/'), say);
  });
  setInterval(() => {
    if (live.connected && outbox.unsent.some((unsent) => unsent.automatic)) outbox.retryAll();
  }, RESEND_MS);

  live.connect();
  show(roomOfAddress());
  void outbox.flush();
  await untilThere(() => rooms.start());
}

function askForName(): void {
  byId('welcome').hidden = false;
  const input = byId<HTMLInputElement>('name');
  const error = byId('welcome-error');
  input.focus();
  let asking = false;
  byId('welcome-form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (asking) return;
    asking = true;
    error.textContent = '';
    api.pickName(input.value).then(startChat, (problem: Error) => {
      asking = false;
      error.textContent = problem instanceof api.Refused ? problem.message : 'No connection. Try again.';
      input.focus();
    });
  });
}

/** Do something that may fail while the server is away, until it does not. */
async function untilThere<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (error instanceof api.Refused && !error.passing) throw error;
      await new Promise((done) => setTimeout(done, 2000));
    }
  }
}

const me = await untilThere(api.whoAmI);
if (me) void startChat(me);
else askForName();
