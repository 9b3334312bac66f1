/** The entry point of the page: ask for a name, connect, open the room of the address. */

import * as api from './api';
import { Composer } from './composer';
import { byId } from './dom';
import { Live } from './live';
import { avatar, MessageList } from './messages';
import { Outbox } from './outbox';
import { RoomView } from './room';
import { MemberList, RoomList, startDrawers } from './sidebar';
import { TextStore } from './text_store';
import type { Me, Message } from './types';

const LOBBY = 'lobby';
const NOTICE_MS = 12_000;
const RESEND_MS = 5_000;
const RETRY_MS = 2_000;

function roomFromAddress(): string {
  const match = /^\/rooms\/([^/]+)$/.exec(location.pathname);
  try {
    return match ? decodeURIComponent(match[1]!) : LOBBY;
  } catch {
    return LOBBY;
  }
}

/** Return a function that shows a text for some seconds. */
function startNotice(): (text: string) => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const box = byId('notice');
  const hide = () => {
    box.hidden = true;
  };
  byId('notice-close').addEventListener('click', hide);
  return (text) => {
    byId('notice-text').textContent = text;
    box.hidden = false;
    clearTimeout(timer);
    timer = setTimeout(hide, NOTICE_MS);
  };
}

function confirmDeletion(): Promise<boolean> {
  const dialog = byId<HTMLDialogElement>('confirm');
  dialog.returnValue = '';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

async function startChat(me: Me): Promise<void> {
  byId('welcome').hidden = true;
  byId('chat').hidden = false;
  byId('my-name').textContent = me.name;
  byId('my-avatar').replaceWith(avatar(me.id, me.name));

  const showNotice = startNotice();
  const drawers = startDrawers();
  const showError = (error: Error) =>
    showNotice(error instanceof api.ApiError ? error.message : 'That did not work: no connection.');

  const endSession = () => location.reload();
  api.requestAs(me.id, endSession);
  const live = new Live(me.id, {
    onState: (connected) => {
      byId('status').dataset['state'] = connected ? 'connected' : 'connecting';
      byId('status-text').textContent = connected ? 'connected' : 'connecting';
      if (connected) outbox.retryAll();
    },
    onOffline: (offline) => {
      byId('offline').hidden = !offline;
    },
    onSessionEnded: endSession,
  });
  const outbox: Outbox = new Outbox(
    me.id,
    () => room.render(),
    (message) => room.addMessage(message),
  );
  const drafts = new TextStore(() => localStorage, 'draft', me.id);
  const edit = (message: Message) => composer.startEditing(message);
  const list = new MessageList(byId('messages'), {
    edit,
    remove: async (message) => {
      if (!(await confirmDeletion())) return;
      api.deleteMessage(message).then((deleted) => room.addMessage(deleted), showError);
      composer.focus();
    },
    retry: (unsent) => outbox.retry(unsent),
    discard: (unsent) => outbox.discard(unsent),
  });
  const rooms = new RoomList(me, live, (name) => openRoom(name), () => room.isRead);
  const room = new RoomView({
    me,
    live,
    list,
    outbox,
    members: new MemberList(me.id),
    showNotice,
    onRead: (name) => rooms.markRead(name),
    onCreated: (name) => openRoom(name),
  });
  const composer = new Composer({
    send: (text, file) => {
      outbox.add(room.name, text, file);
      room.scrollToEnd();
    },
    edit: (message, text) => {
      api.editMessage(message, text).then((edited) => room.addMessage(edited), (error: Error) => {
        showError(error);
        composer.onEditFailed(message, text);
      });
    },
    editLast: () => {
      const last = room.lastOwnMessage();
      if (last) edit(last);
    },
    typing: (isTyping) => room.publishTyping(isTyping),
  }, drafts);

  const show = (name: string) => {
    drawers.close();
    rooms.open(name);
    composer.open(name);
    composer.focus();
    void room.open(name);
  };
  const openRoom = (name: string) => {
    history.pushState(null, '', `/rooms/${encodeURIComponent(name)}`);
    show(name);
  };
  addEventListener('popstate', () => {
    // The link "Skip to the message field" changes the address, but not the room.
    if (roomFromAddress() !== room.name) show(roomFromAddress());
  });
  byId('leave').addEventListener('click', () => {
    api.leave().then(() => {
      drafts.clear();
      location.assign('/');
    }, showError);
  });
  // The browser cannot store an image that waits, so it asks before the page is closed.
  addEventListener('beforeunload', (event) => {
    if (outbox.unsent.some((unsent) => unsent.file)) event.preventDefault();
  });
  setInterval(() => {
    if (live.connected && outbox.unsent.some((unsent) => unsent.automatic)) outbox.retryAll();
  }, RESEND_MS);

  live.connect();
  show(roomFromAddress());
  void outbox.flush();
  await retryUntilAvailable(() => rooms.start());
}

function askForName(): void {
  byId('welcome').hidden = false;
  const input = byId<HTMLInputElement>('name');
  const error = byId('welcome-error');
  input.focus();
  let isSending = false;
  byId('welcome-form').addEventListener('submit', (event) => {
    event.preventDefault();
    if (isSending) return;
    isSending = true;
    error.textContent = '';
    api.pickName(input.value).then(startChat, (problem: Error) => {
      isSending = false;
      error.textContent = problem instanceof api.ApiError ? problem.message : 'No connection. Try again.';
      input.focus();
    });
  });
}

/** Repeat a request while the server is unavailable. */
async function retryUntilAvailable<T>(work: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (error instanceof api.ApiError && !error.isTemporary) throw error;
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }
}

const me = await retryUntilAvailable(api.getMe);
if (me) void startChat(me);
else askForName();
