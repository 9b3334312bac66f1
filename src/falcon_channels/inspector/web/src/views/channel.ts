/** One channel: route, position, subscribers, presence, log, live tail, test message. */

import { call, tail } from '../api';
import { button, element, Facts, foreign, Table, userLink, visible } from '../dom';
import type { Row } from '../dom';
import { bytes, clock, count, dateTime } from '../format';
import type { ChannelFacts, LogPage, PublicationFacts } from '../types';
import type { View } from '../view';

/** Largest number of publications in the live tail. */
const MAX_TAIL = 100;

function explainLink(channel: string, offset: number): HTMLElement {
  const href = `#/explain/${encodeURIComponent(channel)}/${offset}`;
  return element('a', { href, title: 'Explain the delivery of this publication' }, String(offset));
}

function publicationCells(publication: PublicationFacts, channel: string): Row['cells'] {
  const end = publication.end;
  const tags = Object.entries(publication.tags).map(([name, value]) => `${name}=${value}`);
  return [
    publication.offset ? explainLink(channel, publication.offset) : '',
    element('span', { title: dateTime(publication.time_ms / 1000) }, clock(publication.time_ms / 1000)),
    publication.user ? userLink(publication.user) : '',
    element(
      'div',
      {},
      foreign(publication.text + (publication.is_cut ? ' …' : ''), 'code'),
      tags.length ? element('small', {}, visible(tags.join(' '))) : null,
      end === null ? null : element('small', {}, end.error ? `end: ${visible(end.error)}` : 'end of the channel'),
    ),
    bytes(publication.size_bytes),
  ];
}

export class Channel implements View {
  title: string;
  intervalMs = 2000;
  private readonly facts = new Facts();
  private readonly options = new Facts();
  private readonly subscribers = new Table(
    'Subscribers',
    ['User', 'Connection', 'Transport', 'State', '#Offset', '#Behind', '#Pending', '#Backlog'],
    'Nobody is subscribed.',
  );
  private readonly more = element('p', { class: 'quiet' });
  private readonly presence = new Table('Presence', ['User', 'Connection'], 'Nobody is present.');
  private readonly presenceSection = element('section', { hidden: '' }, element('h2', {}, 'Presence'), this.presence.element);
  private readonly log = new Table('Stored publications, newest first', ['#Offset', 'Time', 'From', 'Data', '#Size'], 'Nothing is stored.');
  private readonly older = button('Older', () => void this.loadOlder());
  private readonly tailButton = button('Start the live tail', () => this.toggleTail());
  private readonly tailNote = element('p', { class: 'quiet', role: 'status' });
  private readonly tailTable = new Table('Live publications, newest first', ['#Offset', 'Time', 'From', 'Data', '#Size'], 'No publication has arrived.');
  private tailed: Row[] = [];
  private numTailed = 0;
  private following: AbortController | null = null;
  private pages: PublicationFacts[] = [];
  private newest: LogPage | null = null;
  readonly element: HTMLElement;

  constructor(
    private readonly channel: string,
    canWrite: boolean,
  ) {
    this.title = `Channel ${visible(channel)}`;
    this.tailTable.element.hidden = true;
    this.element = element(
      'div',
      {},
      this.facts.element,
      element('details', {}, element('summary', {}, 'Options of the route'), this.options.element),
      element('section', {}, element('h2', {}, 'Subscribers'), this.more, this.subscribers.element),
      this.presenceSection,
      element(
        'section',
        {},
        element('h2', {}, 'Live tail'),
        this.tailButton,
        this.tailNote,
        this.tailTable.element,
      ),
      canWrite ? this.publishForm() : null,
      element('section', {}, element('h2', {}, 'History'), this.log.element, this.older),
    );
  }

  stop(): void {
    this.following?.abort();
  }

  async refresh(): Promise<void> {
    const answer = await call<ChannelFacts>('channel', { channel: this.channel });
    const { route, position, end, presence_stats: stats } = answer;
    this.facts.update({
      Subscribers: count(answer.num_subscribers),
      Offset: count(position.offset),
      Epoch: element('code', {}, position.epoch || 'none'),
      Route: element('code', {}, route.template),
      Resource: element('code', {}, route.resource || 'none'),
      Responders: route.responders.join(', ') || 'none',
      End: end === null ? 'open' : end.error ? `failed: ${visible(end.error)}` : 'finished',
      Present: stats ? `${count(stats.num_clients)} connections, ${count(stats.num_users)} users` : 'no presence',
    });
    this.options.update(
      Object.fromEntries(Object.entries(route.options).map(([name, value]) => [name, element('code', {}, JSON.stringify(value))])),
    );
    this.showSubscribers(answer);
    this.presenceSection.hidden = answer.presence === undefined;
    this.presence.update(
      (answer.presence ?? []).map(({ user, client }) => ({ key: client, cells: [userLink(user), element('code', {}, client)] })),
    );
    if (this.newest?.position.offset !== position.offset || this.newest.position.epoch !== position.epoch) {
      await this.loadNewest();
    }
  }

  private showSubscribers({ subscribers, num_subscribers, position }: ChannelFacts): void {
    const hidden = num_subscribers - subscribers.length;
    this.more.textContent = hidden > 0 ? `The ${count(subscribers.length)} oldest of ${count(num_subscribers)} connections.` : '';
    this.subscribers.update(
      subscribers.map((connection) => {
        const state = connection.state.channels[this.channel];
        const offset = state?.delivered_offset;
        return {
          key: connection.client,
          cells: [
            userLink(connection.user),
            element('code', {}, connection.client),
            connection.transport,
            state?.state ?? 'unknown',
            offset === undefined ? '' : String(offset),
            offset === undefined ? '' : count(Math.max(0, position.offset - offset)),
            bytes(state?.pending_bytes ?? 0),
            bytes(connection.backlog_bytes),
          ],
        };
      }),
    );
  }

  // --- history -----------------------------------------------------------------------

  private async loadNewest(): Promise<void> {
    this.newest = await call<LogPage>('log', { channel: this.channel });
    this.pages = this.newest.publications;
    this.showLog(this.newest.publications.length);
  }

  private async loadOlder(): Promise<void> {
    const last = this.pages.at(-1);
    if (last === undefined || this.newest === null) return;
    const before = { offset: last.offset, epoch: this.newest.position.epoch };
    try {
      const page = await call<LogPage>('log', { channel: this.channel, before });
      this.pages = [...this.pages, ...page.publications];
      this.showLog(page.publications.length);
    } catch {
      // The log was replaced. The next refresh reads the new one.
      this.newest = null;
    }
  }

  private showLog(numLoaded: number): void {
    this.older.hidden = numLoaded < 20;
    this.log.update(this.pages.map((item) => ({ key: String(item.offset), cells: publicationCells(item, this.channel) })));
  }

  // --- live tail ---------------------------------------------------------------------

  private toggleTail(): void {
    if (this.following !== null) {
      this.following.abort();
      return;
    }
    const following = new AbortController();
    this.following = following;
    this.tailButton.textContent = 'Stop the live tail';
    this.tailNote.textContent = 'The tail is a subscriber of the channel, too.';
    this.tailTable.element.hidden = false;
    tail(
      this.channel,
      {
        onPublication: (publication) => this.addToTail(publication),
        onEnd: (reason) => {
          this.tailNote.textContent = `The tail has ended: ${visible(reason)}`;
        },
      },
      following.signal,
    )
      .catch((error: Error) => {
        this.tailNote.textContent = following.signal.aborted ? 'The tail is stopped.' : `The tail has ended: ${error.message}`;
      })
      .finally(() => {
        this.following = null;
        this.tailButton.textContent = 'Start the live tail';
      });
  }

  private addToTail(publication: PublicationFacts): void {
    this.numTailed += 1;
    this.tailed = [{ key: String(this.numTailed), cells: publicationCells(publication, this.channel) }, ...this.tailed].slice(0, MAX_TAIL);
    this.tailTable.update(this.tailed);
  }

  // --- test message ------------------------------------------------------------------

  private publishForm(): HTMLElement {
    const text = element('textarea', { id: 'message', rows: '3', spellcheck: 'false' }, '{"test": true}');
    const skip = element('input', { id: 'skip', type: 'checkbox' });
    const result = element('p', { role: 'status' });
    const form = element(
      'form',
      {},
      element('label', { for: 'message' }, 'Data, in JSON'),
      text,
      element('p', {}, skip, element('label', { for: 'skip' }, 'Send it to the current subscribers only, and do not store it')),
      element('button', { type: 'submit', class: 'primary' }, 'Publish'),
      result,
    );
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      void this.publish(text.value, skip.checked).then((said) => {
        result.textContent = said;
      });
    });
    return element('section', {}, element('h2', {}, 'Publish a test message'), form);
  }

  private async publish(text: string, skipHistory: boolean): Promise<string> {
    let data: unknown;
    try {
      data = JSON.parse(text);
    } catch (error) {
      return `This is not JSON: ${(error as Error).message}`;
    }
    try {
      const body = { channel: this.channel, data, skip_history: skipHistory };
      const { offset } = await call<{ offset: number }>('publish', body);
      return offset ? `Published with offset ${offset}.` : 'Published.';
    } catch (error) {
      return `Not published: ${(error as Error).message}`;
    }
  }
}
