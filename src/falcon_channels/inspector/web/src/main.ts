/** The page: log in, show one view after the other, and ask the server again and again. */

import { ApiError, getSession, login, logout, numMissing, resetMissing } from './api';
import { byId, element } from './dom';
import type { Session } from './types';
import type { View } from './view';
import { Channel } from './views/channel';
import { Channels } from './views/channels';
import { Events } from './views/events';
import { Explain } from './views/explain';
import { Processes } from './views/processes';
import { Slow } from './views/slow';
import { User, Users } from './views/user';

const VIEWS: [string, string][] = [
  ['processes', 'Processes'],
  ['channels', 'Channels'],
  ['users', 'Users'],
  ['events', 'Refusals'],
  ['slow', 'Slow readers'],
  ['explain', 'Explain'],
];

/** Milliseconds after which the server is asked again if it did not answer. */
const RETRY_MS = 5000;

let session: Session | null = null;
let view: View | null = null;
let timer = 0;
let isLoggingIn = false;
/** Counts the views, so that an answer for an earlier one is dropped. */
let number = 0;

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    // Somebody typed a wrong address. The text is used as it is.
    return part;
  }
}

/** Return the view of an address such as `#/channel/rooms%3Alobby`. */
function viewFor(hash: string, canWrite: boolean): { name: string; made: View } {
  const [, name = '', ...rest] = hash.split('/');
  const [value = '', second = ''] = rest.map(decode);
  switch (name) {
    case 'channels':
      return { name, made: new Channels() };
    case 'channel':
      return { name: 'channels', made: new Channel(value, canWrite) };
    case 'users':
      return { name, made: new Users() };
    case 'user':
      return { name: 'users', made: new User(value, canWrite) };
    case 'events':
      return { name, made: new Events() };
    case 'slow':
      return { name, made: new Slow() };
    case 'explain':
      return { name, made: new Explain(value, second, canWrite) };
    default:
      return { name: 'processes', made: new Processes() };
  }
}

function open(moveFocus: boolean): void {
  if (session === null) return;
  view?.stop?.();
  clearTimeout(timer);
  number += 1;
  const { name, made } = viewFor(location.hash, session.can_write);
  view = made;
  document.title = `${made.title} – Inspector`;
  byId('title').textContent = made.title;
  byId('view').replaceChildren(made.element);
  for (const link of byId('views').querySelectorAll('a')) {
    if (link.getAttribute('href') === `#/${name}`) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  if (moveFocus) byId('title').focus();
  void refresh(number);
}

/** Refresh the view, and plan the next time. Nothing is asked while the page is hidden. */
async function refresh(of: number): Promise<void> {
  const shown = view;
  if (of !== number || shown === null || document.hidden) return;
  clearTimeout(timer);
  let delayMs = shown.intervalMs;
  let trouble = '';
  resetMissing();
  try {
    await shown.refresh();
    if (numMissing()) trouble = `These numbers are not complete: ${numMissing()} of the processes did not answer.`;
  } catch (error) {
    if (of !== number) return;
    if (error instanceof ApiError && error.status === 401) {
      showLogin('Log in again: the session has ended.');
      return;
    }
    trouble = (error as Error).message;
    delayMs = RETRY_MS;
  }
  if (of !== number) return;
  byId('trouble').textContent = trouble;
  byId('trouble').hidden = !trouble;
  clearTimeout(timer);
  timer = window.setTimeout(() => void refresh(of), delayMs);
}

function showLogin(message: string): void {
  session = null;
  number += 1;
  clearTimeout(timer);
  view?.stop?.();
  view = null;
  byId('view').replaceChildren();
  byId('inspector').hidden = true;
  byId('login').hidden = false;
  byId('login-error').textContent = message;
  document.title = 'Inspector';
  byId('key').focus();
}

function showInspector(found: Session): void {
  session = found;
  byId('login').hidden = true;
  byId('inspector').hidden = false;
  byId('rights').textContent = found.can_write ? 'can change' : 'read only';
  open(true);
}

async function onLogin(): Promise<void> {
  const field = byId<HTMLInputElement>('key');
  const key = field.value.trim();
  // A double click sends the form twice, the second time without a key.
  if (isLoggingIn || !key) return;
  isLoggingIn = true;
  // The key stays nowhere in the page.
  field.value = '';
  try {
    showInspector(await login(key));
  } catch (error) {
    showLogin((error as Error).message);
  } finally {
    isLoggingIn = false;
  }
}

async function onLogout(): Promise<void> {
  try {
    await logout();
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 401)) {
      // The cookie is still valid, and everybody who opens this page is logged in.
      alert(`You are still logged in: ${(error as Error).message}`);
      return;
    }
  }
  showLogin('');
}

async function start(): Promise<void> {
  byId('views').append(...VIEWS.map(([name, title]) => element('a', { href: `#/${name}` }, title)));
  byId('login-form').addEventListener('submit', (event) => {
    event.preventDefault();
    void onLogin();
  });
  byId('logout').addEventListener('click', () => void onLogout());
  document.querySelector('.skip')!.addEventListener('click', (event) => {
    event.preventDefault();
    byId('title').focus();
  });
  window.addEventListener('hashchange', () => open(true));
  document.addEventListener('visibilitychange', () => void refresh(number));
  try {
    const found = await getSession();
    if (found === null) showLogin('');
    else showInspector(found);
  } catch (error) {
    showLogin((error as Error).message);
  }
}

void start();
