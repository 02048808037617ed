// Numbers and times as texts.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const SPANS = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
const NUMBER = new Intl.NumberFormat("en");

export const count = (value) => NUMBER.format(value ?? 0);

/** Returns `count` with a noun, such as `1 image` or `2 images`. */
export const counted = (value, noun) => `${count(value)} ${noun}${value === 1 ? "" : "s"}`;

export function bytes(value) {
  let size = Number(value ?? 0);
  let unit = 0;
  while (size >= 1024 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  return `${size.toFixed(unit === 0 || size >= 100 ? 0 : 1)} ${UNITS[unit]}`;
}

/** Returns the largest two units of a number of seconds. */
export function span(seconds) {
  let rest = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [size, name] of SPANS) {
    if (rest >= size && parts.length < 2) {
      parts.push(`${Math.floor(rest / size)} ${name}`);
      rest %= size;
    } else if (parts.length === 1) break;
  }
  return parts.join(" ") || "0 s";
}

/** Returns the time since `seconds` after 1970. */
export function ago(seconds) {
  if (!seconds) return "unknown";
  const age = Date.now() / 1000 - seconds;
  return age < 60 ? "just now" : `${span(age).split(" ").slice(0, 2).join(" ")} ago`;
}

/** Returns a part of a whole in percent. */
export const percent = (part, whole) => (whole > 0 ? `${((100 * part) / whole).toFixed(part === whole ? 0 : 1)} %` : "–");

/** Returns a digest with few characters. */
export const shortDigest = (digest) => String(digest).replace(/^(sha\d+:.{12}).*$/, "$1");
