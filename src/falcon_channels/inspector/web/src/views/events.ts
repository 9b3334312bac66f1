/** Recent refusals and closes, and how often each reason was. */

import { call } from '../api';
import { channelLink, element, foreign, Table, userLink } from '../dom';
import type { Row } from '../dom';
import { clock, count, dateTime } from '../format';
import type { EventList, RecordedEvent } from '../types';
import type { View } from '../view';

export function eventTable(caption: string): Table {
  return new Table(caption, ['Time', 'Event', 'User', 'Channel', '#Code', 'Reason', 'Command'], 'Nothing has happened.');
}

export function eventRow(event: RecordedEvent): Row {
  return {
    key: `${event.at} ${event.name} ${event.connection} ${event.channel}`,
    cells: [
      element('span', { title: dateTime(event.at) }, clock(event.at)),
      event.name,
      event.user || event.connection ? userLink(event.user) : '',
      channelLink(event.channel),
      event.code ? String(event.code) : '',
      foreign(event.reason),
      foreign(event.detail),
    ],
  };
}

export class Events implements View {
  title = 'Refusals and closes';
  intervalMs = 2000;
  private readonly kind = element(
    'select',
    { id: 'kind' },
    element('option', { value: 'refusals' }, 'Refusals and problems'),
    element('option', { value: 'closes' }, 'Closes'),
    element('option', { value: '' }, 'Both'),
  );
  private readonly counts = new Table('Reasons since the processes started', ['Event', '#Code', 'Reason', '#Count'], 'Nothing has happened.');
  private readonly events = eventTable('Latest events, newest first');
  readonly element = element(
    'div',
    {},
    element('form', { class: 'line' }, element('label', { for: 'kind' }, 'Show'), this.kind),
    this.counts.element,
    this.events.element,
  );

  constructor() {
    this.kind.addEventListener('change', () => void this.refresh().catch(() => undefined));
  }

  async refresh(): Promise<void> {
    const kind = this.kind.value;
    const answer = await call<EventList>('events', { kind });
    if (kind !== this.kind.value) return;
    this.counts.update(
      answer.counts.map(({ name, code, reason, count: number }) => ({
        key: `${name} ${code} ${reason}`,
        cells: [name, code ? String(code) : '', foreign(reason), count(number)],
      })),
    );
    this.events.update(answer.events.map(eventRow));
  }
}
