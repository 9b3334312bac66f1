/** One channel: route, position, subscribers, presence, log, live tail, test message. */

import { call, publish, tail } from '../api';
import { button, element, Facts, foreign, Table, userLink, visible } from '../dom';
import type { Column } from '../dom';
import { bytes, clock, count, dateTime } from '../format';
import type { ChannelFacts, ConnectionSummary, LogPage, PublicationFacts, SubscriptionSummary } from '../types';
import type { View } from '../view';

/** Largest number of publications in the live tail. */
const MAX_TAIL = 100;
/** The live tail is shown at most once in this time, however many publications arrive. */
const SHOW_TAIL_EVERY_MS = 200;

function explainLink(channel: string, offset: number): HTMLElement {
  const href = `#/explain/${encodeURIComponent(channel)}/${offset}`;
  return element('a', { href, title: 'Explain the delivery of this publication' }, String(offset));
}

function dataCell(publication: PublicationFacts): HTMLElement {
  const end = publication.end;
  const tags = Object.entries(publication.tags).map(([name, value]) => `${name}=${value}`);
  return element(
    'div',
    {},
    foreign(publication.text + (publication.is_cut ? ' …' : ''), 'code'),
    tags.length ? element('small', {}, visible(tags.join(' '))) : null,
    end === null ? null : element('small', {}, end.error ? `end: ${visible(end.error)}` : 'end of the channel'),
  );
}

/** A publication with a key, because those without a history have no offset. */
interface Shown {
  key: string;
  publication: PublicationFacts;
}

function publicationTable(caption: string, channel: string, empty: string): Table<Shown> {
  const columns: Column<Shown>[] = [
    ['#Offset', ({ publication: { offset } }) => (offset ? explainLink(channel, offset) : '')],
    [
      'Time',
      ({ publication: { time_ms } }) => element('span', { title: dateTime(time_ms / 1000) }, clock(time_ms / 1000)),
    ],
    ['From', ({ publication: { user } }) => (user ? userLink(user) : '')],
    ['Data', ({ publication }) => dataCell(publication)],
    ['#Size', ({ publication: { size_bytes } }) => bytes(size_bytes)],
  ];
  return new Table<Shown>(caption, columns, ({ key }) => key, empty);
}

/** A subscription to the channel of the view. */
interface Subscriber {
  connection: ConnectionSummary;
  state: SubscriptionSummary | undefined;
  newest: number;
}

/** Return the number of publications after the last one that was written for the client. */
function behind({ state, newest }: Subscriber): string {
  const offset = state?.delivered_offset;
  return offset === undefined ? '' : count(Math.max(0, newest - offset));
}

export class Channel implements View {
  title: string;
  intervalMs = 2000;
  private readonly facts = new Facts();
  private readonly options = new Facts();
  private readonly subscribers = new Table<Subscriber>(
    'Subscribers',
    [
      ['User', ({ connection }) => userLink(connection.user)],
      ['Connection', ({ connection }) => element('code', {}, connection.client)],
      ['Transport', ({ connection }) => connection.transport],
      ['State', ({ state }) => state?.state ?? 'unknown'],
      ['#Offset', ({ state }) => String(state?.delivered_offset ?? '')],
      ['#Behind', behind],
      ['#Pending', ({ state }) => bytes(state?.pending_bytes ?? 0)],
      ['#Backlog', ({ connection }) => bytes(connection.backlog_bytes)],
    ],
    ({ connection }) => connection.client,
    'Nobody is subscribed.',
  );
  private readonly more = element('p', { class: 'quiet' });
  private readonly presence = new Table<{ user: string; client: string }>(
    'Presence',
    [
      ['User', ({ user }) => userLink(user)],
      ['Connection', ({ client }) => element('code', {}, client)],
    ],
    ({ client }) => client,
    'Nobody is present.',
  );
  private readonly presenceSection = element('section', { hidden: '' }, element('h2', {}, 'Presence'), this.presence.element);
  private readonly log: Table<Shown>;
  private readonly older = button('Older', () => void this.loadOlder());
  private readonly toNewest = button('Newest', () => void this.showNewest(), { hidden: '' });
  private readonly logNote = element('p', { class: 'quiet', role: 'status' });
  private readonly tailButton = button('Start the live tail', () => this.toggleTail());
  private readonly tailNote = element('p', { class: 'quiet', role: 'status' });
  private readonly tailTable: Table<Shown>;
  private tailed: Shown[] = [];
  private numTailed = 0;
  private tailTimer = 0;
  private following: AbortController | null = null;
  private pages: PublicationFacts[] = [];
  private newest: LogPage | null = null;
  /** Whether the person reads older pages. They stay as they are until `showNewest`. */
  private isBrowsing = false;
  private isLoadingOlder = false;
  readonly element: HTMLElement;

  constructor(
    private readonly channel: string,
    canWrite: boolean,
  ) {
    this.title = `Channel ${visible(channel)}`;
    this.log = publicationTable('Stored publications, newest first', channel, 'Nothing is stored.');
    this.tailTable = publicationTable('Live publications, newest first', channel, 'No publication has arrived.');
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
      element('section', {}, element('h2', {}, 'History'), this.log.element, this.older, this.toNewest, this.logNote),
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
    this.presence.update(answer.presence ?? []);
    if (this.newest?.position.epoch !== position.epoch) await this.showNewest();
    else if (!this.isBrowsing && this.newest.position.offset !== position.offset) await this.loadNewest();
  }

  private showSubscribers({ subscribers, num_subscribers, position }: ChannelFacts): void {
    const hidden = num_subscribers - subscribers.length;
    this.more.textContent = hidden > 0 ? `The ${count(subscribers.length)} oldest of ${count(num_subscribers)} connections.` : '';
    this.subscribers.update(
      subscribers.map((connection) => ({
        connection,
        state: connection.state.channels[this.channel],
        newest: position.offset,
      })),
    );
  }

  // --- history -----------------------------------------------------------------------

  private async showNewest(): Promise<void> {
    this.isBrowsing = false;
    await this.loadNewest();
  }

  private async loadNewest(): Promise<void> {
    const newest = await call<LogPage>('log', { channel: this.channel });
    if (this.isBrowsing) return;
    this.newest = newest;
    this.pages = newest.publications;
    this.logNote.textContent = '';
    this.showLog(newest.publications.length);
  }

  private async loadOlder(): Promise<void> {
    const last = this.pages.at(-1);
    if (last === undefined || this.newest === null || this.isLoadingOlder) return;
    this.isBrowsing = true;
    this.isLoadingOlder = true;
    const before = { offset: last.offset, epoch: this.newest.position.epoch };
    try {
      const page = await call<LogPage>('log', { channel: this.channel, before });
      // Meanwhile, the newest page was opened again.
      if (this.pages.at(-1) !== last) return;
      this.pages = [...this.pages, ...page.publications];
      this.logNote.textContent = '';
      this.showLog(page.publications.length);
    } catch (error) {
      this.logNote.textContent = `The older publications were not read: ${(error as Error).message}`;
    } finally {
      this.isLoadingOlder = false;
      this.toNewest.hidden = !this.isBrowsing;
    }
  }

  private showLog(numLoaded: number): void {
    this.older.hidden = numLoaded < 20;
    this.toNewest.hidden = !this.isBrowsing;
    this.log.update(this.pages.map((publication) => ({ key: String(publication.offset), publication })));
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
    this.tailed = [{ key: String(this.numTailed), publication }, ...this.tailed].slice(0, MAX_TAIL);
    this.tailTimer ||= window.setTimeout(() => {
      this.tailTimer = 0;
      this.tailTable.update(this.tailed);
    }, SHOW_TAIL_EVERY_MS);
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
    try {
      JSON.parse(text);
    } catch (error) {
      return `This is not JSON: ${(error as Error).message}`;
    }
    try {
      const { offset } = await publish(this.channel, text, skipHistory);
      return offset ? `Published with offset ${offset}.` : 'Published.';
    } catch (error) {
      return `Not published: ${(error as Error).message}`;
    }
  }
}
