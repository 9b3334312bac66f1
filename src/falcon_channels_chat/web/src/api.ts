/** The HTTP API: one function for each request. */

import type { Me, Message, MessagePage, Position, RoomSnapshot, RoomSummary } from './types';

const TIMEOUT_MS = 15_000;
/** The storage for images is full. It stays full until somebody deletes images. */
const STORAGE_FULL = 507;

/** The server answered with an error; `message` is a text for the user. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly retryAfterS: number,
  ) {
    super(message);
  }

  /** Whether the same request may succeed later. */
  get isTemporary(): boolean {
    return this.status === 429 || (this.status >= 500 && this.status !== STORAGE_FULL);
  }
}

let member = '';
let onSessionEnded: () => void = () => undefined;

/**
 * Send all requests as this member. If the browser has no session of the member any
 * more, the server refuses them, and `ended` is called.
 */
export function requestAs(id: string, ended: () => void): void {
  member = id;
  onSessionEnded = ended;
}

async function request(method: string, path: string, body?: unknown): Promise<Response> {
  const headers: Record<string, string> = { Accept: 'application/json' };
  if (member) headers['Chat-Member'] = member;
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
    // A read mark is also sent if the page is closed meanwhile.
    keepalive: method === 'PUT',
    signal: AbortSignal.timeout(body instanceof Blob ? 4 * TIMEOUT_MS : TIMEOUT_MS),
  });
  if (response.ok) return response;
  if (response.status === 401) onSessionEnded();
  let description = `The server answered with status ${response.status}.`;
  try {
    const error = (await response.json()) as { description?: string };
    if (error.description) description = error.description;
  } catch {
    // The body is not JSON: the answer is from a proxy.
  }
  // A proxy may send a date. It counts as 0 seconds.
  throw new ApiError(response.status, description, Number(response.headers.get('Retry-After')) || 0);
}

async function requestJson<T>(method: string, path: string, body?: unknown): Promise<T> {
  return (await (await request(method, path, body)).json()) as T;
}

const roomPath = (room: string) => `/api/rooms/${encodeURIComponent(room)}`;

/** Get the member of this session; `null` if there is no session. */
export async function getMe(): Promise<Me | null> {
  const response = await request('GET', '/api/session');
  return response.status === 204 ? null : ((await response.json()) as Me);
}

export const pickName = (name: string) => requestJson<Me>('POST', '/api/session', { name });
export const leave = () => request('DELETE', '/api/session');

export const getRooms = () =>
  requestJson<{ rooms: RoomSummary[]; position: Position }>('GET', '/api/rooms');
export const createRoom = (name: string) =>
  requestJson<{ name: string }>('POST', '/api/rooms', { name });
export const getRoom = (room: string) => requestJson<RoomSnapshot>('GET', roomPath(room));
export const getOlderMessages = (room: string, before: number) =>
  requestJson<MessagePage>('GET', `${roomPath(room)}/messages?before=${before}`);
export const markRead = (room: string, message: number) =>
  request('PUT', `${roomPath(room)}/read`, { message });

export const sendMessage = (room: string, key: string, text: string, image: string | null) =>
  requestJson<Message>('POST', `${roomPath(room)}/messages`, { key, text, image });
export const editMessage = (message: Message, text: string) =>
  requestJson<Message>('PATCH', `${roomPath(message.room)}/messages/${message.id}`, { text });
export const deleteMessage = (message: Message) =>
  requestJson<Message>('DELETE', `${roomPath(message.room)}/messages/${message.id}`);
export const uploadImage = (file: Blob) => requestJson<{ id: string }>('POST', '/api/images', file);
export const imageUrl = (id: string) => `/api/images/${encodeURIComponent(id)}`;
