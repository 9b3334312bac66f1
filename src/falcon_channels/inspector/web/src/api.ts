/** The HTTP API. The browser sends the cookie of the session; no script can read it. */

import type { PublicationFacts, Session } from './types';

const TIMEOUT_MS = 15_000;
/** A live tail ends after this time without data. The server sends some every two seconds. */
const TAIL_SILENCE_MS = 15_000;

/** The folder of the API, next to the folder of this script. */
const API = new URL(/* @vite-ignore */ '../api/', import.meta.url);

/** The server answered with an error; `message` is a text for the user. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** Post a body of JSON. */
async function post(method: string, body: string, signal: AbortSignal): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(new URL(method, API), {
      method: 'POST',
      headers: { 'Content-Type': 'application/json' },
      body,
      signal,
    });
  } catch (error) {
    if (signal.aborted && (signal.reason as Error).name !== 'TimeoutError') throw error;
    throw new ApiError(0, 'The server does not answer.');
  }
  if (response.ok) return response;
  let description = `The server answered with status ${response.status}.`;
  try {
    const error = (await response.json()) as { description?: string };
    if (error.description) description = error.description;
  } catch {
    // The body is not JSON: the answer is from a proxy.
  }
  throw new ApiError(response.status, description);
}

/** How many processes did not answer the calls since `resetMissing`. */
let missing = 0;

export function resetMissing(): void {
  missing = 0;
}

export const numMissing = () => missing;

/** Call a method; return its result. */
export const call = <T>(method: string, body: unknown = {}) => callWithJson<T>(method, JSON.stringify(body));

/** Publish data that is JSON. Its text is sent as it is, so that no number changes. */
export function publish(channel: string, data: string, skipHistory: boolean): Promise<{ offset: number }> {
  const fields = JSON.stringify({ channel, skip_history: skipHistory });
  return callWithJson('publish', `${fields.slice(0, -1)},"data":${data}}`);
}

async function callWithJson<T>(method: string, body: string): Promise<T> {
  const response = await post(method, body, AbortSignal.timeout(TIMEOUT_MS));
  const answer = (await response.json().catch(() => {
    throw new ApiError(0, 'The server does not answer.');
  })) as { result: T; error?: { message: string } };
  if (answer.error) throw new ApiError(200, answer.error.message);
  const result = answer.result as T & { num_missing?: number } | null;
  missing = Math.max(missing, result?.num_missing ?? 0);
  return answer.result;
}

export const getSession = () => call<Session | null>('session');
export const login = (key: string) => call<Session>('login', { key });
export const logout = () => call('logout');

/** Publications of a live tail. */
export interface TailListener {
  onPublication(publication: PublicationFacts): void;
  onEnd(reason: string): void;
}

/** Follow a channel until the signal is aborted, or until the channel has ended. */
export async function tail(channel: string, listener: TailListener, signal: AbortSignal): Promise<void> {
  const response = await post('tail', JSON.stringify({ channel }), signal);
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let text = '';
  let isEnded = false;
  let timer = 0;
  for (;;) {
    timer = window.setTimeout(() => void reader.cancel(), TAIL_SILENCE_MS);
    const { value, done } = await reader.read().finally(() => clearTimeout(timer));
    if (done) break;
    const blocks = (text + value).split('\n\n');
    text = blocks.pop()!;
    for (const block of blocks) isEnded = handleBlock(block, listener) || isEnded;
  }
  // The server has not announced the end, or the network is silent.
  if (!isEnded) listener.onEnd('the connection was lost');
}

/**
 * Handle one event of the stream: the lines `event: name` and `data: json`.
 * Return whether it is the end.
 */
function handleBlock(block: string, listener: TailListener): boolean {
  const fields = new Map(
    block.split('\n').map((line) => {
      const colon = line.indexOf(': ');
      return [line.slice(0, colon), line.slice(colon + 2)];
    }),
  );
  const data = fields.get('data');
  if (data === undefined) return false;
  const media: unknown = JSON.parse(data);
  if (fields.get('event') === 'publication') listener.onPublication(media as PublicationFacts);
  if (fields.get('event') !== 'end') return false;
  listener.onEnd((media as { reason: string }).reason);
  return true;
}
