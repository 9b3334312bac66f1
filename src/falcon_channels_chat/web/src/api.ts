/** The HTTP side: one function for each thing that the server can be asked. */

import type { Me, Message, MessagePage, Position, RoomSummary, Snapshot } from './types';

const DEADLINE_MS = 15_000;

/** The server said no; `message` is in words for people. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfterS: number,
  ) {
    super(message);
  }

  /** Whether the same request may do better later. */
  get passing(): boolean {
    return this.status === 429 || this.status >= 500;
  }
}

async function call(method: string, path: string, body?: unknown): Promise<Response> {
  const headers: Record<string, string> = { Accept: 'application/json' };
  let payload: BodyInit | undefined;
  if (body instanceof Blob) {
    headers['Content-Type'] = body.type;
    payload = body;
  } else if (body !== undefined) {
    headers['Content-Type'] = 'application/json';
    payload = JSON.stringify(body);
  }
  const response = await fetch(path, {
    method,
    headers,
    body: payload ?? null,
    signal: AbortSignal.timeout(body instanceof Blob ? 4 * DEADLINE_MS : DEADLINE_MS),
  });
  if (response.ok) return response;
  let words = `The server answered ${response.status}.`;
  try {
    const error = (await response.json()) as { description?: string };
    if (error.description) words = error.description;
  } catch {
    // Not JSON: a proxy in between.
  }
  throw new Refused(response.status, words, Number(response.headers.get('Retry-After') ?? 0));
}

async function json<T>(method: string, path: string, body?: unknown): Promise<T> {
  return (await (await call(method, path, body)).json()) as T;
}

const roomPath = (room: string) => `/api/rooms/${encodeURIComponent(room)}`;

export async function whoAmI(): Promise<Me | null> {
  const response = await call('GET', '/api/session');
  return response.status === 204 ? null : ((await response.json()) as Me);
}

export const pickName = (name: string) => json<Me>('POST', '/api/session', { name });
export const leave = () => call('DELETE', '/api/session');

export const rooms = () =>
  json<{ rooms: RoomSummary[]; position: Position }>('GET', '/api/rooms');
export const createRoom = (name: string) => json<{ name: string }>('POST', '/api/rooms', { name });
export const snapshot = (room: string) => json<Snapshot>('GET', roomPath(room));
export const olderThan = (room: string, before: number) =>
  json<MessagePage>('GET', `${roomPath(room)}/messages?before=${before}`);
export const markRead = (room: string, message: number) =>
  call('PUT', `${roomPath(room)}/read`, { message });

export const send = (room: string, key: string, text: string, image: string | null) =>
  json<Message>('POST', `${roomPath(room)}/messages`, { key, text, image });
export const edit = (message: Message, text: string) =>
  json<Message>('PATCH', `${roomPath(message.room)}/messages/${message.id}`, { text });
export const remove = (message: Message) =>
  json<Message>('DELETE', `${roomPath(message.room)}/messages/${message.id}`);
export const upload = (file: Blob) => json<{ id: string }>('POST', '/api/images', file);
export type RoomSnapshot = Snapshot;
export const imageUrl = (id: string) => `/api/images/${encodeURIComponent(id)}`;
