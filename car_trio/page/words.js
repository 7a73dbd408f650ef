// How times, sizes and the protocol's words are said to a person. Pure: values in, texts out.

const UNITS = [["d", 86_400], ["h", 3_600], ["min", 60]];

/** Seconds as a person says them. */
export function lasting(seconds) {
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 0.9995) return `${Math.max(0, Math.round(seconds * 1000))} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 2 : 0)} s`;
  const [unit, size] = UNITS.find(([, size]) => seconds >= size) ?? UNITS[2];
  return `${(seconds / size).toFixed(seconds < 10 * size ? 1 : 0)} ${unit}`;
}

/** A time of the protocol in milliseconds; NaN for none. */
export function moment(text) {
  return text ? Date.parse(text) : NaN;
}

export function ago(text) {
  const seconds = (Date.now() - moment(text)) / 1000;
  if (!Number.isFinite(seconds)) return "–";
  if (seconds < 5) return "just now";
  const [unit, size] = UNITS.find(([, size]) => seconds >= size) ?? ["s", 1];
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

/** The time of day; with the day when that is not today. */
export function clock(text) {
  const then = new Date(moment(text));
  if (Number.isNaN(then.getTime())) return "–";
  const time = then.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
  const isToday = then.toDateString() === new Date().toDateString();
  return isToday ? time : `${then.toLocaleDateString([], { year: "numeric", month: "short", day: "numeric" })}, ${time}`;
}

export function size(bytes) {
  let count = bytes;
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 1000) return unit === "B" ? `${count} B` : `${count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

export function count(number, one, many = one + "s") {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

const TONES = {
  success: "good", done: "good", succeeded: "good", passed: "good", approve: "good", completed: "good",
  partial_success: "warn", give_up: "warn", incomplete: "warn", skipped: "warn", expired: "warn",
  waiting_for_approval: "warn", paused: "warn", pending: "warn",
  failure: "bad", timeout: "bad", failed: "bad", errored: "bad", damaged: "bad", rejected: "deny", deny: "deny",
  in_progress: "live", running: "live",
};

/** Which tone a word of the protocol has: good, warn, bad, deny, live or quiet. */
export function tone(word) {
  return Object.hasOwn(TONES, word) ? TONES[word] : "quiet";
}

/** A word of the protocol as a person reads it. */
export function spoken(word) {
  return word.replaceAll("_", " ");
}
