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
  private readonly table = new Table(
    'Connections with a backlog, the slowest first',
    ['User', 'Connection', '#Backlog', '#Pending', 'Slow in'],
    'No connection has a backlog.',
  );
  readonly element = element('div', {}, this.note, this.table.element);

  async refresh(): Promise<void> {
    const answer = await call<SlowReaders>('slow_readers');
    const more = answer.num_slow - answer.readers.length;
    this.note.textContent =
      (more > 0 ? `There are ${count(more)} more. ` : '') +
      (answer.partial ? 'A process has so many connections that not all were read.' : '');
    this.table.update(
      answer.readers.map((reader) => ({
        key: reader.client,
        cells: [
          userLink(reader.user),
          element('code', {}, reader.client),
          bytes(reader.backlog_bytes),
          bytes(reader.pending_bytes),
          element('span', {}, ...reader.channels.flatMap((channel, index) => [index ? ', ' : null, channelLink(channel)])),
        ],
      })),
    );
  }
}
