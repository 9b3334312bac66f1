/** Times, names and texts as people read them. */

const TIME = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' });
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'short' });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const DAY_OF_YEAR = new Intl.DateTimeFormat(undefined, { dateStyle: 'long' });
const GRAPHEMES = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

export const time = (ms: number) => TIME.format(ms);
export const moment = (ms: number) => MOMENT.format(ms);

/** A number that is the same for two moments of one local day. */
export function dayOf(ms: number): number {
  return new Date(ms).setHours(0, 0, 0, 0);
}

export function dayName(ms: number, now = Date.now()): string {
  const day = dayOf(ms);
  if (day === dayOf(now)) return 'Today';
  const yesterday = new Date(now);
  yesterday.setDate(yesterday.getDate() - 1);
  if (day === dayOf(yesterday.getTime())) return 'Yesterday';
  const sameYear = new Date(ms).getFullYear() === new Date(now).getFullYear();
  return (sameYear ? DAY : DAY_OF_YEAR).format(ms);
}

/** Characters as the server counts them. */
export const characters = (text: string) => [...text].length;

const graphemes = (text: string) => [...GRAPHEMES.segment(text)].map((part) => part.segment);

export function initials(name: string): string {
  const words = name.split(' ');
  const first = graphemes(words[0] ?? '')[0] ?? '?';
  const last = words.length > 1 ? (graphemes(words[words.length - 1] ?? '')[0] ?? '') : '';
  return (first + last).toLocaleUpperCase();
}

/** A colour for somebody, always the same. */
export function hue(id: string): number {
  let sum = 7;
  for (const character of id) sum = (sum * 31 + character.codePointAt(0)!) % 3600;
  return Math.round(sum / 10);
}

const ONLY_EMOJI =
  /^(?:\p{Emoji_Presentation}|\p{Extended_Pictographic}|[\u200d\ufe0f\s]|[\u{1f3fb}-\u{1f3ff}]|[\u{1f1e6}-\u{1f1ff}])+$/u;

/** Whether a text is a few emoji and nothing else, which are shown large. */
export function isEmoji(text: string): boolean {
  return text.length < 60 && ONLY_EMOJI.test(text) && graphemes(text).length <= 6;
}

export type Piece = { text: string; href?: string };

const ADDRESS = /https?:\/\/[^\s<>"'`]+/giu;

/** Cut a text at its web addresses. Only http and https become links. */
export function pieces(text: string): Piece[] {
  const found: Piece[] = [];
  let end = 0;
  for (const match of text.matchAll(ADDRESS)) {
    let address = match[0].replace(/[.,;:!?…]+$/u, '');
    while (address.endsWith(')') && count(address, ')') > count(address, '(')) {
      address = address.slice(0, -1).replace(/[.,;:!?…]+$/u, '');
    }
    if (!URL.canParse(address)) continue;
    if (match.index > end) found.push({ text: text.slice(end, match.index) });
    found.push({ text: address, href: new URL(address).href });
    end = match.index + address.length;
  }
  if (end < text.length) found.push({ text: text.slice(end) });
  return found;
}

const count = (text: string, part: string) => text.split(part).length - 1;

export function namesTyping(names: string[]): string[] {
  // The names stand apart from the words, so that each keeps its own direction.
  if (names.length === 0) return [];
  if (names.length === 1) return [names[0]!, ' is typing'];
  if (names.length === 2) return [names[0]!, ' and ', names[1]!, ' are typing'];
  return ['', 'Several people are typing'];
}
