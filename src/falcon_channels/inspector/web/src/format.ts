/** Numbers, sizes and times for people. */

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat('en', { maximumFractionDigits: 1 });
/** The log and the explanations have times in UTC, so each time names its zone. */
const TIME = { hour: 'numeric', minute: 'numeric', second: 'numeric', timeZoneName: 'short' } as const;
/** PERF: a formatter takes 50 times longer to create than to use, and tables have many times. */
const clockFormat = new Intl.DateTimeFormat('en-GB', TIME);
const dateTimeFormat = new Intl.DateTimeFormat('en-GB', { year: 'numeric', month: 'numeric', day: 'numeric', ...TIME });

export const count = (number: number) => whole.format(number);
export const rate = (number: number) => short.format(number);

export function bytes(size: number): string {
  let unit = 'B';
  for (const larger of ['KiB', 'MiB', 'GiB']) {
    if (size < 1024) break;
    size /= 1024;
    unit = larger;
  }
  return `${short.format(size)} ${unit}`;
}

export function duration(seconds: number): string {
  const parts: [number, string][] = [
    [86_400, 'd'],
    [3600, 'h'],
    [60, 'min'],
  ];
  for (const [size, unit] of parts) {
    if (seconds >= size) return `${whole.format(Math.floor(seconds / size))} ${unit}`;
  }
  return `${whole.format(Math.floor(seconds))} s`;
}

/** The local time of a Unix time in seconds, with the time zone. */
export function clock(seconds: number): string {
  return seconds ? clockFormat.format(seconds * 1000) : '';
}

/** The local date and time of a Unix time in seconds, with the time zone. */
export function dateTime(seconds: number): string {
  return seconds ? dateTimeFormat.format(seconds * 1000) : '';
}
