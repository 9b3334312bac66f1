/** One user: connections, subscriptions, last events; disconnect and revoke. */

import { call } from '../api';
import { button, channelLink, element, Facts, Table, visible } from '../dom';
import type { Column } from '../dom';
import { bytes, count, dateTime } from '../format';
import type { ConnectionSummary, UserFacts } from '../types';
import type { View } from '../view';
import { eventTable } from './events';

/** The form that asks for the id of a user. */
function searchForm(): HTMLElement {
  const input = element('input', { id: 'user', type: 'search', maxlength: '255', autocomplete: 'off', spellcheck: 'false' });
  const form = element(
    'form',
    { class: 'line' },
    element('label', { for: 'user' }, 'Id of the user'),
    input,
    element('button', { type: 'submit', class: 'primary' }, 'Show'),
  );
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    location.hash = `#/user/${encodeURIComponent(input.value)}`;
  });
  return form;
}

export class Users implements View {
  title = 'Users';
  intervalMs = 60_000;
  readonly element = element(
    'div',
    {},
    searchForm(),
    element('p', { class: 'quiet' }, 'Leave the id empty for anonymous clients.'),
  );

  async refresh(): Promise<void> {
    // There is nothing to ask before an id is given.
  }
}

function channelsCell({ state }: ConnectionSummary): HTMLElement {
  const channels = Object.entries(state.channels).flatMap(([channel, subscription], index) => [
    index ? ', ' : null,
    channelLink(channel),
    ` (${subscription.state})`,
  ]);
  return element('span', {}, ...channels);
}

export class User implements View {
  title: string;
  intervalMs = 2000;
  private readonly facts = new Facts();
  private readonly result = element('p', { role: 'status' });
  private readonly connections: Table<ConnectionSummary>;
  private readonly events = eventTable('Last refusals and closes, newest first');
  readonly element: HTMLElement;

  constructor(
    private readonly user: string,
    canWrite: boolean,
  ) {
    this.title = user ? `User ${visible(user)}` : 'Anonymous clients';
    const columns: Column<ConnectionSummary>[] = [
      ['Connection', ({ client }) => element('code', {}, client)],
      ['Transport', ({ transport, protocol }) => `${transport}, ${protocol}`],
      ['Library', ({ app_name, app_version }) => visible(`${app_name} ${app_version}`.trim())],
      ['Since', ({ connected_at }) => dateTime(connected_at)],
      ['#Backlog', ({ backlog_bytes }) => bytes(backlog_bytes)],
      ['Channels', channelsCell],
    ];
    if (canWrite) columns.push(['Change', ({ client }) => this.disconnectButton(client)]);
    this.connections = new Table<ConnectionSummary>('Connections', columns, ({ client }) => client, 'The user is not connected.');
    this.element = element(
      'div',
      {},
      searchForm(),
      this.facts.element,
      this.result,
      this.connections.element,
      canWrite && user ? this.changes() : null,
      element('section', {}, element('h2', {}, 'Last errors'), this.events.element),
    );
  }

  async refresh(): Promise<void> {
    const answer = await call<UserFacts>('user', { user: this.user });
    this.facts.update({
      Connections: count(answer.num_connections),
    });
    this.connections.update(answer.connections);
    this.events.update(answer.events);
  }

  private disconnectButton(client: string): HTMLElement {
    return button('Disconnect', () => void this.change('disconnect', { client }, 'Close this connection?'), {
      'aria-label': `Disconnect ${client}`,
    });
  }

  private changes(): HTMLElement {
    const channel = element('input', { id: 'channel', maxlength: '255', autocomplete: 'off', spellcheck: 'false', required: '' });
    const revoke = element('button', { type: 'submit' }, 'Revoke');
    const restore = button('Restore', () => {
      if (channel.reportValidity()) void this.change('restore', { channel: channel.value }, '');
    });
    const form = element('form', { class: 'line' }, element('label', { for: 'channel' }, 'Channel'), channel, revoke, restore);
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.change('revoke', { channel: channel.value }, `End the subscriptions of this user to ${channel.value}, and refuse new ones?`);
    });
    return element(
      'section',
      {},
      element('h2', {}, 'Change'),
      button('Disconnect all connections', () => void this.change('disconnect', {}, 'Close all connections of this user?')),
      form,
    );
  }

  /** Ask the person, and then the server. */
  private async change(method: string, fields: Record<string, string>, question: string): Promise<void> {
    if (question && !confirm(question)) return;
    try {
      await call(method, { user: this.user, ...fields });
      this.result.textContent = `Done: ${method}.`;
      await this.refresh();
    } catch (error) {
      this.result.textContent = `Not done: ${(error as Error).message}`;
    }
  }
}
