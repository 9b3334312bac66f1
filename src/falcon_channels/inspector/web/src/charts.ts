/** A small line chart of the last minutes. */

import { element } from './dom';
import { rate } from './format';

const SVG = 'http://www.w3.org/2000/svg';
const WIDTH = 240;
const HEIGHT = 64;
/** Number of values: two minutes, with one every two seconds. */
const MAX_VALUES = 60;

function svg(tag: string, attributes: Record<string, string>): SVGElement {
  const created = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) created.setAttribute(name, value);
  return created;
}

export class Chart {
  readonly element: HTMLElement;
  private readonly values: number[] = [];
  private readonly now = element('strong', {}, '–');
  private readonly most = element('span', { class: 'quiet' });
  private readonly area = svg('path', { class: 'area' });
  private readonly line = svg('path', { class: 'line' });
  private readonly picture = svg('svg', {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    preserveAspectRatio: 'none',
    role: 'img',
  });

  constructor(
    private readonly title: string,
    help: string,
  ) {
    this.picture.append(svg('path', { class: 'base', d: `M0 ${HEIGHT - 1}H${WIDTH}` }), this.area, this.line);
    this.element = element(
      'figure',
      { class: 'chart' },
      element('figcaption', { title: help }, title, this.now),
      this.picture,
      this.most,
    );
    this.draw();
  }

  add(value: number): void {
    this.values.push(value);
    if (this.values.length > MAX_VALUES) this.values.shift();
    this.draw();
  }

  private draw(): void {
    const highest = Math.max(0, ...this.values);
    const latest = this.values.at(-1);
    const scale = highest || 1;
    const first = MAX_VALUES - this.values.length;
    const points = this.values.map((value, index) => {
      const x = ((first + index) / (MAX_VALUES - 1)) * WIDTH;
      const y = HEIGHT - 2 - (value / scale) * (HEIGHT - 6);
      return `${x.toFixed(1)} ${y.toFixed(1)}`;
    });
    const path = points.length ? `M${points.join('L')}` : '';
    const start = ((first / (MAX_VALUES - 1)) * WIDTH).toFixed(1);
    this.line.setAttribute('d', path);
    this.area.setAttribute('d', path && `${path}V${HEIGHT - 1}H${start}Z`);
    this.now.textContent = latest === undefined ? '–' : rate(latest);
    this.most.textContent = `highest ${rate(highest)}`;
    this.picture.setAttribute(
      'aria-label',
      `${this.title} in the last two minutes: now ${rate(latest ?? 0)}, highest ${rate(highest)}`,
    );
  }
}
