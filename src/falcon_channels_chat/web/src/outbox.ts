/**
 * Messages that the server has not confirmed. They are shown at once and sent one after
 * the other. Each has its own key, so that a retry does not add a second message.
 */

import * as api from './api';
import { TextStore } from './text_store';
import type { Message, Unsent } from './types';

/** Return a new key. `crypto.randomUUID` exists only on pages with HTTPS or on localhost. */
const newKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');

export class Outbox {
  unsent: Unsent[] = [];
  #sending = false;
  readonly #stored: TextStore;

  constructor(
    readonly me: string,
    readonly onChange: () => void,
    readonly onSent: (message: Message) => void,
  ) {
    this.#stored = new TextStore(() => sessionStorage, 'unsent', me);
    this.#restore();
  }

  add(room: string, text: string, file: Blob | null): void {
    this.unsent.push({
      key: newKey(),
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
    this.retryAll();
  }

  retry(unsent: Unsent): void {
    unsent.state = 'pending';
    this.retryAll();
  }

  /**
   * Send again the messages that failed because there was no connection, and send the
   * new ones after them. A new message would otherwise overtake an older one.
   */
  retryAll(): void {
    for (const unsent of this.unsent) if (unsent.automatic) unsent.state = 'pending';
    this.#saveAndNotify();
    void this.flush();
  }

  discard(unsent: Unsent): void {
    if (unsent.fileUrl) URL.revokeObjectURL(unsent.fileUrl);
    this.unsent = this.unsent.filter((other) => other !== unsent);
    this.#saveAndNotify();
  }

  /** Remove the unsent message that the server has confirmed by this message. */
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
        unsent.image = (await api.uploadImage(unsent.file)).id;
      }
      const message = await api.sendMessage(unsent.room, unsent.key, unsent.text, unsent.image);
      this.onSent(message);
      this.discard(unsent);
    } catch (error) {
      const answer = error instanceof api.ApiError ? error : null;
      if (answer?.status === 429) {
        await new Promise((resolve) => setTimeout(resolve, Math.max(1, answer.retryAfterS) * 1000));
        return;
      }
      // The server does not know the image, for example because it is a day old.
      if (answer?.status === 422) unsent.image = null;
      unsent.state = 'failed';
      unsent.automatic = answer === null || answer.isTemporary;
      unsent.error = answer?.message ?? 'No connection.';
      // To preserve the order, the messages after it wait, too.
      if (unsent.automatic) {
        for (const other of this.unsent) {
          if (other.state === 'pending') copyState(unsent, other);
        }
      }
      this.#saveAndNotify();
    }
  }

  #saveAndNotify(): void {
    // An image cannot be stored as JSON, so messages with an image are not stored.
    const storable = this.unsent.filter((unsent) => unsent.file === null);
    this.#stored.set('', storable.length ? JSON.stringify(storable) : '');
    this.onChange();
  }

  #restore(): void {
    const stored = this.#stored.get('');
    if (!stored) return;
    this.unsent = (JSON.parse(stored) as Unsent[]).map((unsent) => ({ ...unsent, state: 'pending' }));
  }
}

/** Copy the state of one unsent message to another. */
function copyState(from: Unsent, to: Unsent): void {
  to.state = from.state;
  to.error = from.error;
  to.automatic = from.automatic;
}
