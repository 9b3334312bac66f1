/**
 * Messages on their way: shown at once, sent one after the other, each with a key of its
 * own, so that one which is sent again is not there twice.
 */

import * as api from './api';
import type { Message, Unsent } from './types';

const KEPT = 'unsent';

export class Outbox {
  unsent: Unsent[] = [];
  #sending = false;

  constructor(
    readonly me: string,
    readonly onChange: () => void,
    readonly onSent: (message: Message) => void,
  ) {
    this.#restore();
  }

  add(room: string, text: string, file: Blob | null): void {
    this.unsent.push({
      key: crypto.randomUUID(),
      room,
      text,
      file,
      fileUrl: file ? URL.createObjectURL(file) : null,
      image: null,
      sent_ms: Date.now(),
      state: 'pending',
      error: '',
      automatic: false,
    });
    this.#changed();
    void this.flush();
  }

  retry(unsent: Unsent): void {
    unsent.state = 'pending';
    this.#changed();
    void this.flush();
  }

  /** The connection is back: send what did not go out because of it. */
  retryAll(): void {
    for (const unsent of this.unsent) if (unsent.automatic) unsent.state = 'pending';
    this.#changed();
    void this.flush();
  }

  discard(unsent: Unsent): void {
    if (unsent.fileUrl) URL.revokeObjectURL(unsent.fileUrl);
    this.unsent = this.unsent.filter((other) => other !== unsent);
    this.#changed();
  }

  /** A message came from the channel: it may be one of ours. */
  confirm(message: Message): void {
    if (message.user !== this.me) return;
    const unsent = this.unsent.find((other) => other.key === message.key);
    if (unsent) this.discard(unsent);
  }

  async flush(): Promise<void> {
    if (this.#sending) return;
    this.#sending = true;
    try {
      let next: Unsent | undefined;
      while ((next = this.unsent.find((unsent) => unsent.state === 'pending'))) {
        await this.#send(next);
      }
    } finally {
      this.#sending = false;
    }
  }

  async #send(unsent: Unsent): Promise<void> {
    try {
      if (unsent.file && !unsent.image) {
        unsent.image = (await api.upload(unsent.file)).id;
      }
      const message = await api.send(unsent.room, unsent.key, unsent.text, unsent.image);
      this.onSent(message);
      this.confirm(message);
    } catch (error) {
      const refused = error instanceof api.Refused ? error : null;
      if (refused?.status === 429) {
        await new Promise((done) => setTimeout(done, Math.max(1, refused.retryAfterS) * 1000));
        return;
      }
      unsent.state = 'failed';
      unsent.automatic = refused === null || refused.passing;
      unsent.error = refused?.message ?? 'No connection.';
      // What comes after it waits too, so that the order stays.
      if (unsent.automatic) {
        for (const other of this.unsent) {
          if (other.state === 'pending') Object.assign(other, { ...unsent, ...identity(other) });
        }
      }
      this.#changed();
    }
  }

  #changed(): void {
    // An image cannot be kept this way; its message is kept without it if it has words.
    const texts = this.unsent.filter((unsent) => unsent.file === null);
    try {
      sessionStorage.setItem(`${KEPT}:${this.me}`, JSON.stringify(texts));
    } catch {
      // Storage is full or switched off: then a reload loses what was not sent.
    }
    this.onChange();
  }

  #restore(): void {
    const kept = sessionStorage.getItem(`${KEPT}:${this.me}`);
    if (!kept) return;
    this.unsent = (JSON.parse(kept) as Unsent[]).map((unsent) => ({ ...unsent, state: 'pending' }));
  }
}

/** What makes a message this one, whatever became of another. */
function identity(unsent: Unsent): Partial<Unsent> {
  const { key, room, text, file, fileUrl, image, sent_ms } = unsent;
  return { key, room, text, file, fileUrl, image, sent_ms };
}
