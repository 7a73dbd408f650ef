// The list of runs: the newest first, filtered by the daemon's search, live.
//
// The list is a page of `runs.search` and grows by one when its end comes near. The events say that a run began, ended or
// was removed, never what it is about; so the top of the list is asked again, at most once in REST. A run that has begun a
// moment ago may not be in the catalog yet: it is asked for again until it is. While an open run is in view its count of
// turns is asked for as well.

import { button, el, flat, line } from "./dom.js";
import { Rows } from "./rows.js";
import { ago, clock, count, lasting, moment, size, spoken, tone } from "./words.js";

const PAGE = 100;
const REST = 250;
const GLANCE = 2_000;
const TYPING = 180;
const TRIES = 6;

const STATUSES = ["in_progress", "completed", "incomplete"];
const OUTCOMES = ["success", "partial_success", "give_up", "timeout", "failure", "done"];

export class RunsView {
  #found = [];
  #next = undefined;
  #asking = 0; // the number of the newest question; answers to older ones are dropped
  #expected = new Map(); // runs that began and are not in an answer yet: how often they were looked for
  #timer = 0;
  #isOther = false; // the question was changed and not answered since
  #busy = false;

  constructor(page) {
    this.page = page;
    this.name = "Runs";
    this.rows = new Rows({
      height: 64, role: "list", itemRole: "listitem", label: "Runs, newest first",
      render: (i) => this.#row(this.#found[i]),
      wanted: (_, last) => last >= this.#found.length - 20 && this.#more(),
    });
    this.words = el("input", { type: "search", id: "filter", placeholder: "Filter by words of the intent, the summary, tool names", autocomplete: "off", spellcheck: "false", "aria-label": "Filter by words", oninput: () => this.#later(TYPING, true) });
    this.agent = el("input", { type: "text", class: "narrow", placeholder: "agent", list: "agents", autocomplete: "off", spellcheck: "false", "aria-label": "Only this agent's", oninput: () => this.#later(TYPING, true) });
    this.status = choice("any status", STATUSES, () => this.#later(0, true));
    this.outcome = choice("any outcome", OUTCOMES, () => this.#later(0, true));
    this.note = el("p", { class: "empty", hidden: true });
    this.known = el("datalist", { id: "agents" });
    this.element = el("section", { class: "view", "aria-label": "Runs" },
      el("form", { class: "bar", role: "search", onsubmit: (event) => event.preventDefault() },
        this.words, this.agent, this.known, this.status, this.outcome),
      this.note, this.rows.element);
    setInterval(() => this.#glance(), GLANCE);
  }

  show(_, query) {
    if (query.has("agent")) {
      this.#clear();
      this.agent.value = query.get("agent");
    }
    this.resume();
  }

  /** Asks again: the view is opened, or the connection is. */
  resume() {
    this.#later(0, false);
  }

  happened(event) {
    if (!event.kind.startsWith("run.") || !this.element.isConnected) return;
    const { run_id: runId } = JSON.parse(event.payload);
    if (event.kind === "run.started" && !this.isFiltered) this.#expected.set(runId, 0);
    if (event.kind === "run.removed") this.#remove(runId);
    else this.#later(REST, false);
    if (event.kind === "run.ended") this.#again(this.#found.slice(PAGE).find((run) => run.run_id === runId));
  }

  // A run below the newest page: the search can be asked for the moment that it began at.
  async #again(run) {
    if (!run) return;
    try {
      const ask = { agent_id: run.agent_id, since: run.started_at, until: run.started_at };
      const { runs } = await this.page.link.call("runs.search", ask);
      const now = runs.find((each) => each.run_id === run.run_id);
      if (now) this.#found = this.#found.map((each) => (each.run_id === now.run_id ? now : each));
      this.#draw();
    } catch {
      // The list is asked for again when the connection is there.
    }
  }

  tick() {
    this.rows.refresh();
  }

  enter() {
    const run = this.#found[this.rows.selected];
    if (run) this.page.go(`#/run/${encodeURIComponent(run.run_id)}`);
  }

  /** Leaves nothing filtered. */
  escape() {
    if (!this.isFiltered) return;
    this.#clear();
    this.#later(0, true);
  }

  filter() {
    this.words.focus();
    this.words.select();
  }

  #clear() {
    for (const field of [this.words, this.agent, this.status, this.outcome]) field.value = "";
  }

  get isFiltered() {
    return Boolean(this.words.value.trim() || this.agent.value.trim() || this.status.value || this.outcome.value);
  }

  get #ask() {
    const ask = {
      query: this.words.value.trim(), agent_id: this.agent.value.trim(),
      status: this.status.value, outcome: this.outcome.value,
    };
    return Object.fromEntries(Object.entries(ask).filter(([, value]) => value));
  }

  #later(delay, isNew) {
    if (isNew) {
      this.#asking++;
      this.#isOther = true;
      this.#expected.clear();
    }
    if (this.#timer && !isNew) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#timer = 0;
      this.#top();
    }, delay);
  }

  // The newest page, laid over what is known; in its place when it is the answer to another question.
  async #top() {
    const number = ++this.#asking;
    try {
      const found = await this.page.link.call("runs.search", { ...this.#ask, limit: PAGE });
      if (number !== this.#asking) return;
      const isOther = this.#isOther;
      this.#isOther = false;
      this.#merge(found, isOther || this.#found.length <= PAGE);
      if (isOther) this.rows.reset();
    } catch (error) {
      if (error.code !== undefined) this.#say(error.message);
    }
  }

  #merge(found, isAll) {
    const seen = new Set(found.runs.map((run) => run.run_id));
    const oldest = found.runs.at(-1)?.started_at ?? "";
    const older = isAll ? [] : this.#found.filter((run) => !seen.has(run.run_id) && run.started_at <= oldest);
    const chosen = this.#found[this.rows.selected]?.run_id;
    this.#found = [...found.runs, ...older];
    if (isAll) this.#next = found.next_cursor;
    this.rows.selected = this.#found.findIndex((run) => run.run_id === chosen);
    this.#draw();
    this.#await(seen);
  }

  #await(seen) {
    for (const [runId, tries] of this.#expected) {
      if (seen.has(runId) || tries >= TRIES) this.#expected.delete(runId);
      else this.#expected.set(runId, tries + 1);
    }
    if (this.#expected.size) this.#later(REST, false);
  }

  async #more() {
    if (!this.#next || this.#busy) return;
    this.#busy = true;
    const number = this.#asking;
    try {
      const found = await this.page.link.call("runs.search", { ...this.#ask, limit: PAGE, cursor: this.#next });
      if (number !== this.#asking) return;
      const seen = new Set(this.#found.map((run) => run.run_id));
      this.#found.push(...found.runs.filter((run) => !seen.has(run.run_id)));
      this.#next = found.next_cursor;
      this.#draw();
    } catch {
      // The list is asked for again when the connection is there.
    } finally {
      this.#busy = false;
    }
  }

  #glance() {
    const isSeen = this.element.isConnected && document.visibilityState === "visible" && this.page.link.isOpen;
    if (isSeen && this.#found.some((run) => run.status === "in_progress")) this.#later(0, false);
  }

  #remove(runId) {
    this.#found = this.#found.filter((run) => run.run_id !== runId);
    this.#draw();
  }

  #draw() {
    this.known.replaceChildren(...[...new Set(this.#found.map((run) => run.agent_id))].map((id) => el("option", { value: id })));
    this.rows.length = this.#found.length;
    this.rows.refresh();
    this.#say(this.#found.length ? "" : this.isFiltered ? NOTHING_FOUND : NOTHING_YET);
  }

  #say(what) {
    this.note.hidden = !what;
    this.rows.element.hidden = Boolean(what);
    if (what === NOTHING_FOUND) this.note.replaceChildren("No run is like that. ", button("Show all runs", () => this.escape()));
    else this.note.replaceChildren(...(what === NOTHING_YET ? NOTHING_YET.map(part) : [what]));
  }

  #row(run) {
    const word = run.outcome ?? run.status;
    const end = run.ended_at ? lasting((moment(run.ended_at) - moment(run.started_at)) / 1000) : null;
    return el("a", { class: "run", href: `#/run/${encodeURIComponent(run.run_id)}`, tabindex: "-1" },
      el("span", { class: `dot ${tone(word)}` }),
      el("span", { class: "title" }, run.intent ? line(run.intent) : el("i", {}, "no intent was given")),
      el("span", { class: `badge ${tone(word)}` }, spoken(word)),
      el("span", { class: "sub" },
        el("span", { class: "who" }, line(run.agent_id, 60)),
        el("span", {}, count(run.turn_count, "turn")),
        end && el("span", {}, end),
        run.bytes !== undefined && el("span", { class: "wide" }, size(run.bytes)),
        el("code", { class: "wide", title: flat(run.run_id) }, flat(run.run_id, 8))),
      el("time", { datetime: run.started_at, title: clock(run.started_at) }, ago(run.started_at)));
  }
}

const NOTHING_FOUND = "found";
const NOTHING_YET = ["No run yet. One appears here as soon as an agent begins it: a program that uses ", "`car_trio.connect`", " or a ", "`car-runtime`", " client on this machine."];

const part = (text) => (text.startsWith("`") ? el("code", {}, text.slice(1, -1)) : text);

function choice(none, values, onchange) {
  return el("select", { onchange, "aria-label": none }, el("option", { value: "" }, none),
    ...values.map((value) => el("option", { value }, spoken(value))));
}
