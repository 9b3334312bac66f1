/** All processes: their numbers, and rates as live charts. */

import { call } from '../api';
import { Chart } from '../charts';
import { element, Facts, foreign, Table } from '../dom';
import { bytes, count, duration } from '../format';
import type { ProcessSummary, Overview } from '../types';
import type { View } from '../view';

/** Milliseconds for which a process that no longer answers is shown. */
const SHOW_MISSING_MS = 60_000;

const RATES: [string, string, string][] = [
  ['publications', 'Received / s', 'Publications from the broker. Each process with subscribers receives a publication once.'],
  ['deliveries', 'Delivered / s', "Publications that were handed to a subscriber's socket."],
  ['opened', 'Connected / s', 'Connections that were added.'],
  ['refusals', 'Refused / s', 'Connections and commands that were refused.'],
];

interface Seen {
  node: ProcessSummary;
  at: number;
  answered: boolean;
}

function stateCell({ node, answered }: Seen): HTMLElement {
  const state = answered ? node.status : 'no answer';
  return element('span', { class: `state ${state.replace(' ', '-')}` }, state);
}

export class Processes implements View {
  title = 'Processes';
  intervalMs = 2000;
  private readonly facts = new Facts();
  private readonly charts = RATES.map(([, title, help]) => new Chart(title, help));
  private readonly note = element('p', { class: 'note', role: 'status', hidden: '' });
  private readonly seen = new Map<string, Seen>();
  private readonly table = new Table<Seen>(
    'Processes that share the broker',
    [
      ['Process', ({ node }) => foreign(node.name)],
      ['State', stateCell],
      ['Version', ({ node }) => node.version],
      ['#Uptime', ({ node }) => duration(node.uptime_s)],
      ['#Memory', ({ node }) => (node.memory_bytes === null ? 'unknown' : bytes(node.memory_bytes))],
      ['#Connections', ({ node }) => count(node.num_connections)],
      ['#Users', ({ node }) => count(node.num_users)],
      ['#Channels', ({ node }) => count(node.num_channels)],
      ['#Subscriptions', ({ node }) => count(node.num_subscriptions)],
    ],
    ({ node }) => node.id,
    'No process has answered.',
  );
  readonly element = element(
    'div',
    {},
    this.note,
    this.facts.element,
    element('section', { class: 'charts', 'aria-label': 'Rates of all processes' }, ...this.charts.map((chart) => chart.element)),
    this.table.element,
  );

  async refresh(): Promise<void> {
    const answer = await call<Overview>('overview');
    this.addRates(answer.nodes);
    const now = Date.now();
    for (const seen of this.seen.values()) seen.answered = false;
    for (const node of answer.nodes) this.seen.set(node.id, { node, at: now, answered: true });
    for (const [id, { at }] of this.seen) if (now - at > SHOW_MISSING_MS) this.seen.delete(id);
    this.note.textContent = answer.error;
    this.note.hidden = !answer.error;
    const sum = (name: 'num_connections' | 'num_subscriptions' | 'memory_bytes') =>
      answer.nodes.reduce((total, node) => total + (node[name] ?? 0), 0);
    this.facts.update({
      Processes: count(answer.nodes.length),
      Connections: count(sum('num_connections')),
      Subscriptions: count(sum('num_subscriptions')),
      Memory: bytes(sum('memory_bytes')),
    });
    this.table.update([...this.seen.values()].sort((a, b) => (a.node.name < b.node.name ? -1 : 1)));
  }

  private addRates(nodes: ProcessSummary[]): void {
    const pairs = nodes.flatMap((node) => {
      const before = this.seen.get(node.id)?.node;
      return before === undefined ? [] : [{ node, before }];
    });
    if (!pairs.length) return;
    RATES.forEach(([name], index) => {
      let total = 0;
      for (const { node, before } of pairs) {
        const seconds = node.uptime_s - before.uptime_s;
        if (seconds > 0) total += ((node.counters[name] ?? 0) - (before.counters[name] ?? 0)) / seconds;
      }
      this.charts[index]!.add(total);
    });
  }
}
