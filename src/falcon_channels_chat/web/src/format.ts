/** Format times, names and texts for display. */

const TIME = new Intl.DateTimeFormat(undefined, { hour: 'numeric', minute: '2-digit' });
const DATE_TIME = new Intl.DateTimeFormat(undefined, { dateStyle: 'full', timeStyle: 'short' });
const DAY = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const DAY_OF_YEAR = new Intl.DateTimeFormat(undefined, { dateStyle: 'long' });
const GRAPHEMES = new Intl.Segmenter(undefined, { granularity: 'grapheme' });

export const formatTime = (ms: number) => TIME.format(ms);
export const formatDateTime = (ms: number) => DATE_TIME.format(ms);

/** Return the time at which the local day of a time begins. */
export function startOfDay(ms: number): number {
  return new Date(ms).setHours(0, 0, 0, 0);
}

export function dayName(ms: number, now = Date.now()): string {
  const day = startOfDay(ms);
  if (day === startOfDay(now)) return 'Today';
  const yesterday = new Date(now);
  yesterday.setDate(yesterday.getDate() - 1);
  if (day === startOfDay(yesterday.getTime())) return 'Yesterday';
  const sameYear = new Date(ms).getFullYear() === new Date(now).getFullYear();
  return (sameYear ? DAY : DAY_OF_YEAR).format(ms);
}

/** Count the characters of a text in the same way as the server. */
export const countCharacters = (text: string) => [...text].length;

const graphemes = (text: string) => [...GRAPHEMES.segment(text)].map((part) => part.segment);

export function initials(name: string): string {
  const words = name.split(' ');
  const first = graphemes(words[0] ?? '')[0] ?? '?';
  const last = words.length > 1 ? (graphemes(words[words.length - 1] ?? '')[0] ?? '') : '';
  return (first + last).toLocaleUpperCase();
}

/** Return the hue of a member's avatar, which depends on the id only. */
export function hue(id: string): number {
  let sum = 7;
  for (const character of id) sum = (sum * 31 + character.codePointAt(0)!) % 3600;
  return Math.round(sum / 10);
}

const ONLY_EMOJI =
  /^(?:\p{Emoji_Presentation}|\p{Extended_Pictographic}|[\u200d\ufe0f\s]|[\u{1f3fb}-\u{1f3ff}]|[\u{1f1e6}-\u{1f1ff}])+$/u;

/** Whether a text consists of up to 6 emoji. Such a text is shown larger. */
export function isEmojiOnly(text: string): boolean {
  return text.length < 60 && ONLY_EMOJI.test(text) && graphemes(text).length <= 6;
}

export type TextPart = { text: string; href?: string };

const WEB_ADDRESS = /https?:\/\/[^\s<>"'`]+/giu;

/** Split a text at its web addresses. Only http and https become links. */
export function splitAtLinks(text: string): TextPart[] {
  const parts: TextPart[] = [];
  let end = 0;
  for (const match of text.matchAll(WEB_ADDRESS)) {
    let address = match[0].replace(/[.,;:!?…]+$/u, '');
    while (address.endsWith(')') && count(address, ')') > count(address, '(')) {
      address = address.slice(0, -1).replace(/[.,;:!?…]+$/u, '');
    }
    if (!URL.canParse(address)) continue;
    if (match.index > end) parts.push({ text: text.slice(end, match.index) });
    parts.push({ text: address, href: new URL(address).href });
    end = match.index + address.length;
  }
  if (end < text.length) parts.push({ text: text.slice(end) });
  return parts;
}

const count = (text: string, part: string) => text.split(part).length - 1;

/**
 * Return the text "... is typing" in parts: names have an even index, words an odd one.
 * The page isolates each name because it can be written from right to left.
 */
export function typingText(names: string[]): string[] {
  if (names.length === 0) return [];
  if (names.length === 1) return [names[0]!, ' is typing'];
  if (names.length === 2) return [names[0]!, ' and ', names[1]!, ' are typing'];
  return ['', 'Several people are typing'];
}
