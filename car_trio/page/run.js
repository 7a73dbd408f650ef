// One run: what is known of it at the top, and its records as a timeline that follows live.
//
// The timeline holds any number of records (rows.js) and fetches those that come into view (trace.js). Which are unfolded
// is remembered by their place. Whoever reads at the end stays at the end when more comes; who reads above it is told how
// many came since.

import { button, copy, el, line } from "./dom.js";
import { fields, plain, words } from "./json.js";
import { Rows } from "./rows.js";
import { Trace } from "./trace.js";
import { folded, unfolded } from "./turn.js";
import { clock, count, lasting, moment, spoken, tone } from "./words.js";

const SURVEYED = 5_000;
const MOST_COPIED = 40_000_000;

export class RunView {
  #open = new Set();
  #trace = null;
  #seenLength = 0;
  #search = null; // the search for a failure that goes on, an object of its own
  #wantedTurn = null;
  #surveyed = false;

  constructor(page) {
    this.page = page;
    this.name = "Run";
    this.rows = new Rows({
      height: 56, role: "feed", itemRole: "article", label: "The run's records, in order",
      render: (i) => this.#row(i),
      wanted: (first, last) => this.#trace?.want(first, last),
    });
    this.rows.element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.title = el("h2", {}, "…");
    this.facts = el("div", { class: "facts" });
    this.note = el("p", { class: "empty", hidden: true });
    this.failures = el("span", { class: "failures", role: "status" });
    this.previous = button("↑", () => this.failure(-1), { title: "previous failure (p)", "aria-label": "previous failure" });
    this.next = button("↓", () => this.failure(1), { title: "next failure (n)", "aria-label": "next failure" });
    this.copier = button("Copy run as JSON", () => copy(this.copier, this.#trace.whole(MOST_COPIED)));
    this.follower = button("Follow", () => this.follow(!this.rows.follows), { "aria-pressed": "false", title: "stay at the end (f)" });
    this.more = button("", () => this.follow(true), { class: "more", hidden: true });
    this.element = el("section", { class: "view", "aria-label": "Run" },
      el("div", { class: "head" },
        el("div", { class: "headline" }, el("a", { href: "#/runs", class: "back", title: "all runs (Esc)" }, "← Runs"), this.title),
        this.facts,
        el("div", { class: "tools" }, el("span", { class: "group" }, this.failures, this.previous, this.next), this.follower, this.copier)),
      this.note,
      el("div", { class: "stage" }, this.rows.element, this.more));
  }

  show([runId, turn]) {
    this.#wantedTurn = turn === undefined ? null : Number(turn);
    if (this.#trace?.runId === runId) {
      this.#goToTurn();
      return;
    }
    this.hide();
    this.#open.clear();
    this.#surveyed = false;
    this.#trace = new Trace(this.page.link, runId, (first, last) => this.#changed(first, last));
    this.page.link.on("runs.trace.event", (params) => this.#trace?.event(params));
    this.follow(false);
    this.follower.hidden = true; // until it is known that the run goes on
    this.rows.length = 0;
    this.rows.reset();
    this.title.replaceChildren("…");
    this.facts.replaceChildren();
    this.#changed();
    this.resume();
  }

  hide() {
    this.#search = null;
    this.#trace?.close();
    this.#trace = null;
  }

  async resume() {
    const trace = this.#trace;
    if (!trace || !this.page.link.isOpen) return;
    await trace.open();
    if (trace !== this.#trace) return;
    this.#seenLength ||= trace.length;
    trace.want(0, 0);
    this.#goToTurn();
    this.rows.draw();
    if (trace.length <= SURVEYED && !this.#surveyed) {
      this.#surveyed = true;
      await trace.survey().catch(() => {});
      if (trace === this.#trace) this.#drawFailures();
    }
  }

  happened(event) {
    if (event.kind === "run.removed" && JSON.parse(event.payload).run_id === this.#trace?.runId) {
      this.#trace.missing = true;
      this.#changed();
    }
  }

  tick() {
    this.#drawFacts();
  }

  enter() {
    if (this.rows.selected >= 0) this.#toggle(this.rows.selected);
  }

  escape() {
    if (!this.#search) this.page.go("#/runs");
    this.#search = null;
    this.#drawFailures();
  }

  /** Copies the selected record as it was written. */
  copySelected() {
    const raw = this.#trace?.record(this.rows.selected);
    if (raw !== undefined) copy(this.copier, raw);
  }

  follow(on) {
    this.rows.follows = on;
    this.follower.setAttribute("aria-pressed", String(on));
    if (on) this.rows.toEnd();
    this.#scrolled();
  }

  /** Goes to the next record that went wrong, or with -1 to the one before. */
  async failure(step) {
    const trace = this.#trace;
    if (!trace) return;
    this.follow(false);
    const search = (this.#search = {});
    const from = this.rows.selected >= 0 ? this.rows.selected : step > 0 ? -1 : trace.length;
    const progress = (i) => {
      if (search !== this.#search) return false;
      this.failures.textContent = `looking at ${i.toLocaleString("en")} of ${trace.length.toLocaleString("en")} …`;
      return true;
    };
    const found = await trace.findFailure(from, step, progress).catch(() => -1);
    if (search !== this.#search) return;
    this.#search = null;
    if (found >= 0) this.rows.select(found, { isFar: true });
    this.#drawFailures(found < 0 ? `no failure ${step > 0 ? "after" : "before"} this` : "");
  }

  #goToTurn() {
    if (this.#wantedTurn === null || !this.#trace.length) return;
    const i = this.#wantedTurn + 1;
    this.#wantedTurn = null;
    this.#open.add(i);
    this.rows.select(i, { isFar: true });
    this.rows.refresh(i);
  }

  #changed(first, last) {
    const trace = this.#trace;
    if (!trace) return;
    if (this.rows.length !== trace.length) this.rows.length = trace.length;
    if (first === undefined) this.rows.refresh();
    // The one after them shows how long it took since the last of them.
    else for (let i = first; i <= last + 1; i++) if (this.rows.row(i)) this.rows.refresh(i);
    this.#say(trace.missing ? "There is no such run, or it was removed." : trace.trouble);
    if (first === undefined || first === 0 || last >= trace.length - 1) this.#drawFacts();
    this.#drawFailures();
    this.#scrolled();
  }

  #say(what) {
    this.note.hidden = !what;
    this.note.textContent = what;
    this.rows.element.hidden = Boolean(what) && !this.rows.length;
  }

  #scrolled() {
    if (!this.#trace) return;
    if (this.rows.isAtEnd || this.rows.follows) this.#seenLength = this.#trace.length;
    const unseen = this.#trace.length - this.#seenLength;
    this.more.hidden = unseen <= 0;
    this.more.textContent = `${count(unseen, "new record")} ↓`;
  }

  #drawFacts() {
    const trace = this.#trace;
    const started = trace?.record(0);
    if (!started) return;
    const record = fields(started);
    const begun = words(record, "started_at");
    this.title.replaceChildren(line(words(record, "intent") || "no intent was given", 1_000));
    const last = trace.isLive ? undefined : trace.record(trace.length - 1);
    const word = (last && outcomeOf(fields(last))) || trace.status;
    const seconds = trace.isLive ? (Date.now() - moment(begun)) / 1000 : trace.lasted;
    this.facts.replaceChildren(
      el("span", { class: `badge ${tone(word)}` }, spoken(word)),
      el("a", { href: `#/runs?agent=${encodeURIComponent(trace.agentId)}`, title: "this agent's runs" }, line(trace.agentId, 80)),
      el("span", {}, count(Math.max(0, trace.length - (trace.isLive ? 1 : 2)), "turn")),
      el("time", { datetime: begun, title: begun }, clock(begun)),
      el("span", {}, lasting(seconds)),
      el("code", { class: "wide" }, line(trace.runId, 128)));
    this.follower.hidden = !trace.isLive; // what has ended stays where it is
    if (trace.torn) this.facts.append(el("span", { class: "badge warn" }, `${trace.torn} bytes torn off its end`));
  }

  #drawFailures(said = "") {
    if (this.#search) return;
    const { count: found, isAll } = this.#trace?.failures() ?? { count: 0, isAll: true };
    this.failures.textContent = said || (isAll ? (found ? count(found, "failure") : "no failures") : found ? `${count(found, "failure")} so far` : "failures");
    this.failures.classList.toggle("bad", found > 0);
    this.previous.disabled = this.next.disabled = isAll && found === 0;
  }

  #row(i) {
    const fragment = document.createDocumentFragment();
    const raw = this.#trace?.record(i);
    if (raw === undefined) {
      fragment.append(el("div", { class: "turn waiting", "aria-busy": "true" }, el("span", { class: "mark" }, i > 0 ? String(i - 1) : "")));
      return fragment;
    }
    const isOpen = this.#open.has(i);
    fragment.append(folded(raw, { took: this.#trace.took(i), isOpen, toggle: () => this.#toggle(i) }));
    if (isOpen) fragment.append(unfolded(raw));
    return fragment;
  }

  #toggle(i) {
    if (!this.#open.delete(i)) this.#open.add(i);
    if (this.rows.follows) this.follow(false);
    this.rows.refresh(i);
    this.rows.select(i);
  }
}

function outcomeOf(record) {
  if (!record.has("termination")) return null;
  const termination = plain(record, "termination");
  return termination.outcome?.status ?? "incomplete";
}
