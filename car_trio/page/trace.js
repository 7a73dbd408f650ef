// The records of one run: which are known, which have to be fetched, and what comes live.
//
// A record is known by its place in the run's stream: 0 is `started`, turn n is n + 1, `ended` is the last. A live event
// names its place too, so that it cannot be missed or counted twice: it is put where it belongs, and what is not there is
// fetched when it comes into view. A subscription asks for a place beyond the end: it brings no turns, only the true count
// and what comes after it. After a broken connection this is done again; the count has grown, the places are the same.
//
// Records are kept as raw text, in pages, and the ones not looked at for longest are let go beyond BUDGET characters. What
// the whole list needs of every record (did it fail, when was it) is two numbers each, kept for all that were ever seen.

import { fields, items, plain, words } from "./json.js";

const PAGE = 64;
const BUDGET = 24_000_000;
const FIRST_LIMIT = 24;
const SHOWING = { reply: 500_000, most: 500 }; // characters and records of one answer, for the records in view
const SEEKING = { reply: 1_000_000, most: 10_000 }; // and for those that are only looked at
const SLICE = 8; // milliseconds of looking, before the browser may draw
const BEYOND = Number.MAX_SAFE_INTEGER;

export const UNKNOWN = 0, FINE = 1, FAILED = 2, DENIED = 3, DAMAGED = 4;

/** What became of a turn, in one of the five words above. */
export function judged(record) {
  const kind = words(record, "record");
  if (kind === "damaged") return DAMAGED;
  if (kind === "ended") return endedWell(record) ? FINE : FAILED;
  if (kind !== "turn") return FINE;
  const status = words(record, "status");
  if (record.get("policy_rejected") === "true" || status === "rejected") return DENIED;
  const cli = record.has("cli_outcome") ? plain(record, "cli_outcome") : null;
  const brokeCli = cli && (cli.timed_out || ![0, null, undefined].includes(cli.exit_code));
  const isFailed = status === "failed" || words(record, "verifier_verdict") === "failed" || brokeCli;
  return isFailed || (record.has("error") && status === null) ? FAILED : FINE;
}

function endedWell(record) {
  const termination = plain(record, "termination");
  return termination.kind === "outcome" && ["success", "done", "partial_success"].includes(termination.outcome.status);
}

const timeOf = (record) =>
  Date.parse(words(record, "recorded_at") ?? words(record, "started_at") ?? words(record, "ended_at") ?? "");

export class Trace {
  #pages = new Map(); // page number: { records, characters, used }
  #characters = 0;
  #uses = 0;
  #verdicts = new Uint8Array(256);
  #times = new Float64Array(256).fill(NaN);
  #size = 0; // of a record on average, in characters; 0 while that is not known
  #wanted = [0, 0];
  #fetching = false;
  #over = false;

  /** `changed(first, last)` is told which records became known, or that the length or status is another. */
  constructor(link, runId, changed) {
    this.link = link;
    this.runId = runId;
    this.changed = changed;
    this.length = 0;
    this.status = "";
    this.agentId = "";
    this.missing = false;
    this.trouble = "";
    this.torn = 0;
  }

  get isLive() {
    return this.status === "in_progress";
  }

  /** Follows the run from now on; also after a broken connection. */
  async open() {
    try {
      const said = await this.link.call("runs.subscribe", { run_id: this.runId, from_cursor: BEYOND });
      this.agentId = said.agent_id;
      this.status = said.status;
      this.missing = false;
      this.trouble = "";
      const length = said.cursor + (this.isLive ? 1 : 2);
      this.#shrink(length);
      this.#grow(length);
    } catch (error) {
      if (error.code === undefined) return; // the connection broke: `open` is called again
      this.missing = /^unknown run/.test(error.message);
      this.trouble = error.message;
    }
    this.changed();
    this.want(...this.#wanted);
  }

  close() {
    this.#over = true;
    if (!this.missing) this.link.tell("runs.unsubscribe", { run_id: this.runId });
  }

  /** A live record; `params` is the raw text of the event's. */
  event(params) {
    const event = fields(params);
    if (plain(event, "run_id") !== this.runId) return;
    const status = plain(event, "status");
    const at = plain(event, "cursor") + (status === "in_progress" ? 0 : 1);
    this.status = status;
    this.#grow(at + 1);
    this.#keep(at, event.get("record"));
    this.changed(at, at);
  }

  /** The raw text of a record; undefined while it is not known. */
  record(i) {
    const page = this.#pages.get(Math.floor(i / PAGE));
    if (page) page.used = ++this.#uses;
    return page?.records[i % PAGE];
  }

  verdict(i) {
    return i < this.length ? this.#verdicts[i] : UNKNOWN;
  }

  /** How long after the record before it, in seconds; NaN while that is not known. */
  took(i) {
    return i > 0 ? (this.#times[i] - this.#times[i - 1]) / 1000 : NaN;
  }

  /** From the first record to the last, in seconds. */
  get lasted() {
    return (this.#times[this.length - 1] - this.#times[0]) / 1000;
  }

  /** Fetches what is not known of these records. */
  want(first, last) {
    this.#wanted = [first, last];
    if (!this.#fetching) this.#fetch();
  }

  async #fetch() {
    this.#fetching = true;
    try {
      for (let gap = this.#gap(); gap >= 0 && !this.#over && this.link.isOpen; gap = this.#gap()) {
        if (!(await this.#fetchFrom(gap))) break;
      }
    } catch (error) {
      if (error.code !== undefined) this.trouble = error.message;
      this.changed();
    } finally {
      this.#fetching = false;
    }
  }

  #gap() {
    const [first, last] = this.#wanted;
    for (let i = first; i <= last && i < this.length; i++) if (this.record(i) === undefined) return i;
    return -1;
  }

  // Fetches from a record on; false when there was nothing. The one before it comes too: what it took needs its time.
  async #fetchFrom(start) {
    const from = Math.max(0, start - 1);
    const raws = await this.#ask(from, this.#limit(SHOWING));
    if (!raws) return false;
    raws.forEach((raw, n) => this.#keep(from + n, raw));
    if (raws.length > 0) this.changed(from, from + raws.length - 1);
    return from + raws.length > start;
  }

  async #ask(cursor, limit) {
    const reply = await this.link.raw("runs.get_trace", { run_id: this.runId, cursor, limit });
    const said = fields(reply);
    if (said.has("not_found")) {
      this.missing = true;
      this.changed();
      return null;
    }
    const raws = items(said.get("records"));
    if (said.has("torn")) this.torn = plain(said, "torn").bytes;
    this.#correct(cursor + raws.length, said.has("next_cursor"), limit > raws.length);
    if (raws.length) this.#size = reply.length / raws.length;
    return raws;
  }

  #limit({ reply, most }) {
    return this.#size ? Math.max(8, Math.min(most, Math.floor(reply / this.#size))) : FIRST_LIMIT;
  }

  // What was counted from outside can be wrong for a file that another version wrote, or that is damaged.
  #correct(seen, hasMore, isEnd) {
    if (this.isLive) return;
    if (hasMore) this.#grow(seen + 1);
    else if (isEnd && seen !== this.length) {
      this.#shrink(seen);
      this.#grow(seen);
      this.changed();
    }
  }

  /** The next record that went wrong after `from`, or before it with step -1; fetches what it has to look at. */
  async findFailure(from, step, progress) {
    for (let i = from + step; i >= 0 && i < this.length; i += step) {
      if (this.#verdicts[i] === UNKNOWN) {
        if (this.#over || progress(i) === false) return -1;
        await this.#look(i, step);
        if (this.#verdicts[i] === UNKNOWN) return -1;
      }
      if (this.#verdicts[i] > FINE) return i;
    }
    return -1;
  }

  async #look(i, step) {
    const limit = this.#limit(SEEKING);
    const from = step > 0 ? i : Math.max(0, i - limit + 1);
    const raws = (await this.#ask(from, step > 0 ? limit : i - from + 1)) ?? [];
    let begun = performance.now();
    for (let n = 0; n < raws.length; n++) {
      this.#note(from + n, raws[n]);
      if (performance.now() - begun < SLICE) continue;
      await new Promise((resolve) => setTimeout(resolve));
      begun = performance.now();
    }
  }

  /** Looks at every record once, so that all failures are known; for runs that are not long. */
  async survey() {
    for (let i = 0; i < this.length && !this.#over && this.link.isOpen;) {
      if (this.#verdicts[i] === UNKNOWN) await this.#look(i, 1);
      if (this.#verdicts[i] === UNKNOWN) return;
      while (i < this.length && this.#verdicts[i] !== UNKNOWN) i++;
    }
  }

  /** How many records went wrong, of those that were looked at, and whether that is all. */
  failures() {
    let count = 0, isAll = true;
    for (let i = 0; i < this.length; i++) {
      if (this.#verdicts[i] > FINE) count++;
      else if (this.#verdicts[i] === UNKNOWN) isAll = false;
    }
    return { count, isAll };
  }

  /** The whole run as one JSON text, every record as it was written. Raises `TooLong` beyond so many characters. */
  async whole(most) {
    const raws = [];
    let size = 0;
    for (let i = 0; i < this.length;) {
      const more = await this.#ask(i, this.#limit(SEEKING));
      if (!more?.length) break;
      for (const raw of more) raws.push(raw), (size += raw.length);
      if (size > most) throw new TooLong(this.runId);
      i += more.length;
    }
    const [run, agent] = [this.runId, this.agentId].map((text) => JSON.stringify(text));
    return `{"run_id":${run},"agent_id":${agent},"records":[\n${raws.join(",\n")}\n]}\n`;
  }

  #keep(i, raw) {
    const number = Math.floor(i / PAGE);
    let page = this.#pages.get(number);
    if (!page) this.#pages.set(number, (page = { records: [], characters: 0, used: 0 }));
    page.used = ++this.#uses;
    const old = page.records[i % PAGE]?.length ?? 0;
    page.records[i % PAGE] = raw;
    page.characters += raw.length - old;
    this.#characters += raw.length - old;
    this.#note(i, raw);
    if (this.#characters > BUDGET) this.#letGo();
  }

  #note(i, raw) {
    const record = fields(raw);
    this.#verdicts[i] = judged(record);
    this.#times[i] = timeOf(record);
  }

  #letGo() {
    const [first, last] = this.#wanted.map((i) => Math.floor(i / PAGE));
    const others = [...this.#pages].filter(([number]) => number < first || number > last);
    for (const [number, page] of others.sort(([, a], [, b]) => a.used - b.used)) {
      if (this.#characters < BUDGET / 2) return;
      this.#pages.delete(number);
      this.#characters -= page.characters;
    }
  }

  #grow(length) {
    if (length <= this.length) return;
    this.length = length;
    if (length <= this.#verdicts.length) return;
    const room = Math.max(length, 2 * this.#verdicts.length);
    const [verdicts, times] = [new Uint8Array(room), new Float64Array(room).fill(NaN)];
    verdicts.set(this.#verdicts);
    times.set(this.#times);
    [this.#verdicts, this.#times] = [verdicts, times];
  }

  // The run has less than was known of it: a power cut took what was not synced. What is gone is forgotten.
  #shrink(length) {
    if (length >= this.length) return;
    for (const [number, page] of this.#pages) {
      if ((number + 1) * PAGE <= length) continue;
      this.#pages.delete(number);
      this.#characters -= page.characters;
    }
    this.#verdicts.fill(UNKNOWN, length);
    this.#times.fill(NaN, length);
    this.length = length;
  }
}

/** A run too long for the clipboard. */
export class TooLong extends Error {
  constructor(runId) {
    super(`too long to copy: use car-trio runs export ${runId}`);
    this.told = "Too long: use car-trio runs export";
  }
}
