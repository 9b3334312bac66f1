/** The channels with the most subscribers, with a search. */

import { call } from '../api';
import { channelLink, element, Table } from '../dom';
import { count } from '../format';
import type { ChannelList } from '../types';
import type { View } from '../view';

export class Channels implements View {
  title = 'Channels';
  intervalMs = 4000;
  private readonly search = element('input', {
    id: 'search',
    type: 'search',
    maxlength: '255',
    autocomplete: 'off',
    spellcheck: 'false',
  });
  private readonly note = element('p', { class: 'quiet', role: 'status' });
  private readonly table = new Table<ChannelList['channels'][number]>(
    'Channels by number of subscribers',
    [
      ['Channel', ({ channel }) => channelLink(channel)],
      ['#Subscribers', ({ num_subscribers }) => count(num_subscribers)],
    ],
    ({ channel }) => channel,
    'No channel matches.',
  );
  readonly element = element(
    'div',
    {},
    element('form', { class: 'line' }, element('label', { for: 'search' }, 'Part of the name'), this.search),
    this.note,
    this.table.element,
  );
  private typing = 0;

  constructor() {
    this.element.querySelector('form')!.addEventListener('submit', (event) => event.preventDefault());
    this.search.addEventListener('input', () => {
      clearTimeout(this.typing);
      this.typing = window.setTimeout(() => void this.refresh().catch(() => undefined), 250);
    });
  }

  stop(): void {
    clearTimeout(this.typing);
  }

  async refresh(): Promise<void> {
    const search = this.search.value;
    const answer = await call<ChannelList>('largest_channels', { search });
    if (search !== this.search.value) return;
    const shown = answer.channels.length;
    let note = `${count(shown)} ${shown === 1 ? 'channel' : 'channels'}`;
    if (!answer.is_complete) note = `The ${count(shown)} largest channels that match. There are more.`;
    if (answer.partial) note += ' A process has so many channels that not all were read.';
    this.note.textContent = note;
    this.table.update(answer.channels);
  }
}
