/** What happened to a publication for a user: the answers of `Channels.explain`. */

import { call } from '../api';
import { button, element, foreign, Table } from '../dom';
import { dateTime } from '../format';
import type { Explanation } from '../types';
import type { View } from '../view';

/** Seconds for which the connections of a user are recorded. */
const RECORD_S = 600;

function field(id: string, label: string, value: string, attributes: Record<string, string> = {}): [HTMLElement, HTMLInputElement] {
  const input = element('input', { id, value, maxlength: '255', autocomplete: 'off', spellcheck: 'false', ...attributes });
  return [element('div', {}, element('label', { for: id }, label), input), input];
}

export class Explain implements View {
  title = 'Explain a delivery';
  intervalMs = 60_000;
  private readonly result = element('p', { role: 'status' });
  private readonly answers = new Table<{ answer: Explanation; index: number }>(
    'Answers, one for each connection of the user',
    [
      ['Verdict', ({ answer }) => element('strong', { class: 'verdict' }, answer.verdict)],
      ['What happened', ({ answer }) => foreign(answer.text)],
      ['When', ({ answer }) => dateTime(answer.at ?? 0)],
      ['Connection', ({ answer }) => element('code', {}, answer.connection)],
      [
        'Evidence',
        ({ answer }) => element('details', {}, element('summary', {}, 'Show'), foreign(JSON.stringify(answer.facts), 'code')),
      ],
    ],
    ({ answer, index }) => `${answer.connection} ${index}`,
    'Nothing was asked yet.',
  );
  /** Counts the questions, so that an answer to an earlier one is dropped. */
  private numAsked = 0;
  private readonly channel: HTMLInputElement;
  private readonly offset: HTMLInputElement;
  private readonly user: HTMLInputElement;
  readonly element: HTMLElement;

  constructor(channel: string, offset: string, canWrite: boolean) {
    const [channelField, channelInput] = field('explain-channel', 'Channel', channel, { required: '' });
    const [offsetField, offsetInput] = field('explain-offset', 'Offset', offset, { type: 'number', min: '1', required: '' });
    const [userField, userInput] = field('explain-user', 'Id of the user', '');
    this.channel = channelInput;
    this.offset = offsetInput;
    this.user = userInput;
    const form = element(
      'form',
      { class: 'line' },
      channelField,
      offsetField,
      userField,
      element('button', { type: 'submit', class: 'primary' }, 'Explain'),
      canWrite ? button('Record this user for 10 minutes', () => void this.record()) : null,
    );
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.ask();
    });
    this.element = element(
      'div',
      {},
      element(
        'p',
        { class: 'quiet' },
        'Only facts that were recorded can be explained: those of routes with record_deliveries, and those of recorded users.',
      ),
      form,
      this.result,
      this.answers.element,
    );
  }

  async refresh(): Promise<void> {
    // The server is asked when the form is sent.
  }

  private async ask(): Promise<void> {
    const body = { channel: this.channel.value, offset: Number(this.offset.value), user: this.user.value };
    const number = (this.numAsked += 1);
    try {
      const { answers } = await call<{ answers: Explanation[] }>('explain', body);
      if (number !== this.numAsked) return;
      this.result.textContent = '';
      this.answers.update(answers.map((answer, index) => ({ answer, index })));
    } catch (error) {
      if (number !== this.numAsked) return;
      this.answers.update([]);
      this.result.textContent = `No answer: ${(error as Error).message}`;
    }
  }

  private async record(): Promise<void> {
    try {
      const { num_nodes } = await call<{ num_nodes: number }>('record_user', { user: this.user.value, for_s: RECORD_S });
      this.result.textContent = `${num_nodes} processes record this user now.`;
    } catch (error) {
      this.result.textContent = `Not recorded: ${(error as Error).message}`;
    }
  }
}
