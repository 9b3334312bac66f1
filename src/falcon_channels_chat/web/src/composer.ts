/** The form for writing a message: draft, length, image, emoji, editing. */

import { byId, element } from './dom';
import { prepareImage } from './image';
import type { TextStore } from './text_store';
import type { Message } from './types';
import { countCharacters } from './format';

const MAX_CHARACTERS = 4000;
const EMOJI =
  '😀 😄 😂 🤣 😊 😉 😍 😘 😎 🤔 😴 😅 😇 🙃 😢 😭 😡 🤯 🥳 😱 👍 👎 👏 🙌 🙏 👋 💪 👀 🤝 ✌️ ❤️ 🧡 💚 💙 💜 🔥 ✨ 🎉 🚀 ⭐ ☕ 🍕 🎂 🌱 🌞 🌧️ 🦅 ✅'.split(' ');

export interface ComposerEvents {
  send(text: string, file: Blob | null): void;
  edit(message: Message, text: string): void;
  /** Called when the user presses the up arrow in an empty field. */
  editLast(): void;
  /** Called when the user starts or stops typing. */
  typing(isTyping: boolean): void;
}

export class Composer {
  readonly #text = byId<HTMLTextAreaElement>('text');
  readonly #counter = byId('counter');
  readonly #emoji = byId('emoji');
  readonly #emojiButton = byId<HTMLButtonElement>('emoji-button');
  #room = '';
  #editing: Message | null = null;
  #file: Blob | null = null;
  /** Edits that failed, by the id of the message. They are shown when it is edited again. */
  readonly #failedEdits = new Map<number, string>();
  /** Counts the picked images and opened rooms, so that an image that is late is dropped. */
  #numPicked = 0;

  constructor(
    readonly events: ComposerEvents,
    /** The texts that are not sent yet; their names are those of the rooms. */
    readonly drafts: TextStore,
  ) {
    const form = byId<HTMLFormElement>('composer');
    const file = byId<HTMLInputElement>('file');
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.#text.addEventListener('keydown', (event) => this.#onKey(event));
    this.#text.addEventListener('input', () => this.#onInput());
    this.#text.addEventListener('paste', (event) => {
      const image = [...(event.clipboardData?.files ?? [])].find((item) => item.type.startsWith('image/'));
      if (!image) return;
      event.preventDefault();
      void this.#attach(image);
    });
    form.addEventListener('dragover', (event) => event.preventDefault());
    form.addEventListener('drop', (event) => {
      event.preventDefault();
      const image = event.dataTransfer?.files[0];
      if (image) void this.#attach(image);
    });
    byId('attach').addEventListener('click', () => file.click());
    file.addEventListener('change', () => {
      if (file.files?.[0]) void this.#attach(file.files[0]);
      file.value = '';
    });
    byId('attachment-remove').addEventListener('click', () => this.#detach());
    byId('context-cancel').addEventListener('click', () => this.#cancel());
    this.#startEmojiPicker();
  }

  /** Switch to a room and load the draft of this room. */
  open(room: string): void {
    this.#stopEditing();
    this.#detach();
    this.#numPicked += 1;
    this.#room = room;
    this.#setText(this.drafts.get(this.#room));
  }

  focus(): void {
    this.#text.focus();
  }

  startEditing(message: Message): void {
    const text = this.#failedEdits.get(message.id) ?? message.text;
    this.#editing = message;
    this.#showContext('Editing your message');
    this.#setText(text);
    this.#text.focus();
    this.#text.setSelectionRange(text.length, text.length);
  }

  /** Called when an edit was not sent; show its text again if the field is free. */
  onEditFailed(message: Message, text: string): void {
    this.#failedEdits.set(message.id, text);
    if (message.room === this.#room && !this.#editing && this.#text.value === '') this.startEditing(message);
  }

  #setText(text: string): void {
    this.#text.value = text;
    this.#updateSize();
  }

  /** Show a text above the field; an empty text hides it. */
  #showContext(text: string): void {
    byId('context-text').textContent = text;
    byId('context').hidden = text === '';
  }

  #stopEditing(): void {
    if (!this.#editing) return;
    this.#editing = null;
    this.#showContext('');
    this.#setText(this.drafts.get(this.#room));
  }

  /** Cancel an edit, or hide an error about an image. */
  #cancel(): void {
    if (this.#editing) this.#failedEdits.delete(this.#editing.id);
    else this.#showContext('');
    this.#stopEditing();
  }

  #submit(): void {
    const text = this.#text.value.trim();
    if (countCharacters(text) > MAX_CHARACTERS) {
      this.#updateSize();
      return;
    }
    if (this.#editing) {
      const message = this.#editing;
      if (text === '' && !message.image) return;
      this.#stopEditing();
      this.#failedEdits.delete(message.id);
      if (text !== message.text) this.events.edit(message, text);
      return;
    }
    if (text === '' && !this.#file) return;
    const file = this.#file;
    this.#detach(true);
    this.drafts.set(this.#room, '');
    this.#setText('');
    this.events.typing(false);
    this.events.send(text, file);
  }

  #onKey(event: KeyboardEvent): void {
    // While an input method composes a character, Enter confirms the character.
    if (event.isComposing) return;
    if (event.key === 'Enter' && !event.shiftKey) {
      event.preventDefault();
      this.#submit();
    } else if (event.key === 'Escape') {
      this.#cancel();
    } else if (event.key === 'ArrowUp' && this.#text.value === '') {
      event.preventDefault();
      this.events.editLast();
    }
  }

  #onInput(): void {
    this.#updateSize();
    if (this.#editing) return;
    const text = this.#text.value;
    this.drafts.set(this.#room, text);
    this.events.typing(text.trim() !== '');
  }

  /** Fit the height of the field to its text, and update the character counter. */
  #updateSize(): void {
    this.#text.style.height = 'auto';
    this.#text.style.height = `${this.#text.scrollHeight}px`;
    const length = countCharacters(this.#text.value.trim());
    const left = MAX_CHARACTERS - length;
    this.#text.setAttribute('aria-invalid', String(left < 0));
    this.#counter.classList.toggle('over', left < 0);
    if (left > 500) this.#counter.textContent = '';
    else if (left < 0) this.#counter.textContent = `${-left} over the limit of ${MAX_CHARACTERS} characters`;
    else this.#counter.textContent = `${left} left`;
  }

  async #attach(file: File): Promise<void> {
    this.#detach();
    const number = (this.#numPicked += 1);
    let image: Blob;
    try {
      image = await prepareImage(file);
    } catch (error) {
      if (number === this.#numPicked) this.#showContext((error as Error).message);
      return;
    }
    // Meanwhile, another room was opened, or another image was picked.
    if (number !== this.#numPicked) return;
    this.#file = image;
    if (!this.#editing) this.#showContext('');
    byId<HTMLImageElement>('attachment-image').src = URL.createObjectURL(this.#file);
    byId('attachment').hidden = false;
    this.#text.focus();
  }

  #detach(sent = false): void {
    const image = byId<HTMLImageElement>('attachment-image');
    if (image.src) URL.revokeObjectURL(image.src);
    image.removeAttribute('src');
    byId('attachment').hidden = true;
    this.#file = null;
    if (!sent && !this.#editing) this.#showContext('');
  }

  #startEmojiPicker(): void {
    const close = () => {
      this.#emoji.hidden = true;
      this.#emojiButton.setAttribute('aria-expanded', 'false');
    };
    this.#emojiButton.addEventListener('click', () => {
      this.#emoji.hidden = !this.#emoji.hidden;
      this.#emojiButton.setAttribute('aria-expanded', String(!this.#emoji.hidden));
      if (!this.#emoji.hidden) (this.#emoji.firstElementChild as HTMLElement).focus();
    });
    this.#emoji.append(
      ...EMOJI.map((emoji, index) => element('button', { type: 'button', tabindex: index ? '-1' : '0' }, emoji)),
    );
    this.#emoji.addEventListener('click', (event) => {
      if (!(event.target instanceof HTMLButtonElement)) return;
      const text = event.target.textContent ?? '';
      this.#text.setRangeText(text, this.#text.selectionStart, this.#text.selectionEnd, 'end');
      this.#onInput();
      close();
      this.#text.focus();
    });
    this.#emoji.addEventListener('keydown', (event) => {
      if (event.key === 'Escape') {
        close();
        this.#emojiButton.focus();
        return;
      }
      const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 8, ArrowUp: -8 }[event.key];
      if (!step) return;
      event.preventDefault();
      const buttons = [...this.#emoji.children] as HTMLElement[];
      const current = buttons.indexOf(document.activeElement as HTMLElement);
      buttons[current + step]?.focus();
    });
    document.addEventListener('click', (event) => {
      const target = event.target as Node;
      if (!this.#emoji.contains(target) && !this.#emojiButton.contains(target)) close();
    });
  }
}
