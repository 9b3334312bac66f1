/** Recent refusals and closes, and how often each reason was. */

import { call } from '../api';
import { channelLink, element, foreign, Table, userLink } from '../dom';
import { clock, count, dateTime } from '../format';
import type { EventList, ReasonCount, RecordedEvent } from '../types';
import type { View } from '../view';

export function eventTable(caption: string): Table<RecordedEvent> {
  return new Table<RecordedEvent>(
    caption,
    [
      ['Time', (event) => element('span', { title: dateTime(event.at) }, clock(event.at))],
      ['Event', (event) => event.name],
      ['User', (event) => (event.user || event.connection ? userLink(event.user) : '')],
      ['Channel', (event) => channelLink(event.channel)],
      ['#Code', (event) => (event.code ? String(event.code) : '')],
      ['Reason', (event) => foreign(event.reason)],
      ['Command', (event) => foreign(event.detail)],
    ],
    (event) => `${event.at} ${event.name} ${event.connection} ${event.channel}`,
    'Nothing has happened.',
  );
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
  private readonly counts = new Table<ReasonCount>(
    'Reasons since the processes started',
    [
      ['Event', ({ name }) => name],
      ['#Code', ({ code }) => (code ? String(code) : '')],
      ['Reason', ({ reason }) => foreign(reason)],
      ['#Count', ({ count: number }) => count(number)],
    ],
    ({ name, code, reason }) => `${name} ${code} ${reason}`,
    'Nothing has happened.',
  );
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
    this.counts.update(answer.counts);
    this.events.update(answer.events);
  }
}
