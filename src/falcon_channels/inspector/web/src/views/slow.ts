/** Connections with a backlog. */

import { call } from '../api';
import { channelLink, element, Table, userLink } from '../dom';
import { bytes, count } from '../format';
import type { SlowReaders } from '../types';
import type { View } from '../view';

export class Slow implements View {
  title = 'Slow readers';
  intervalMs = 2000;
  private readonly note = element('p', { class: 'quiet', role: 'status' });
  private readonly table = new Table<SlowReaders['readers'][number]>(
    'Connections with a backlog, the slowest first',
    [
      ['User', (reader) => userLink(reader.user)],
      ['Connection', (reader) => element('code', {}, reader.client)],
      ['#Backlog', (reader) => bytes(reader.backlog_bytes)],
      ['#Pending', (reader) => bytes(reader.pending_bytes)],
      [
        'Slow in',
        (reader) => element('span', {}, ...reader.channels.flatMap((channel, index) => [index ? ', ' : null, channelLink(channel)])),
      ],
    ],
    (reader) => reader.client,
    'No connection has a backlog.',
  );
  readonly element = element('div', {}, this.note, this.table.element);

  async refresh(): Promise<void> {
    const answer = await call<SlowReaders>('slow_readers');
    const more = answer.num_slow - answer.readers.length;
    this.note.textContent =
      (more > 0 ? `There are ${count(more)} more. ` : '') +
      (answer.partial ? 'A process has so many connections that not all were read.' : '');
    this.table.update(answer.readers);
  }
}
