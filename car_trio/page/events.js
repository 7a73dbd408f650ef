// What happened in the daemon, the newest first: the last 500 events that hosts were told.

import { el, json, line } from "./dom.js";
import { Rows } from "./rows.js";
import { clock, tone } from "./words.js";

export class EventsView {
  #open = new Set(); // by the event's id: its place changes with each new one

  constructor(page) {
    this.page = page;
    this.name = "Events";
    this.rows = new Rows({ height: 40, role: "list", itemRole: "listitem", label: "Events, newest first", render: (i) => this.#row(page.house.events[i]) });
    this.empty = el("p", { class: "empty" }, "Nothing has happened since the daemon was started. Runs, approvals and agents announce themselves here.");
    this.element = el("section", { class: "view", "aria-label": "Events" }, this.empty, this.rows.element);
  }

  show() {
    this.changed("events");
  }

  hide() {}
  resume() {}
  tick() {}

  // Whoever reads further down keeps what is being read in view while newer events come in above it.
  changed(what) {
    if (what !== "events" || !this.element.isConnected) return;
    const { events } = this.page.house;
    const came = this.newest === undefined ? 0 : events.findIndex((event) => event.id === this.newest);
    this.newest = events[0]?.id;
    if (came > 0) this.rows.shift(came);
    this.rows.length = events.length;
    this.rows.refresh();
    this.empty.hidden = events.length > 0;
    this.rows.element.hidden = events.length === 0;
  }

  enter() {
    if (this.rows.selected >= 0) this.#toggle(this.page.house.events[this.rows.selected]);
  }

  #toggle(event) {
    if (!this.#open.delete(event.id)) this.#open.add(event.id);
    const i = this.page.house.events.indexOf(event);
    this.rows.refresh(i);
    this.rows.select(i);
  }

  #row(event) {
    const fragment = document.createDocumentFragment();
    const isOpen = this.#open.has(event.id);
    fragment.append(el("button", { type: "button", class: "event", tabindex: "-1", "aria-expanded": String(isOpen), onclick: () => this.#toggle(event) },
      el("time", { datetime: event.timestamp, title: event.timestamp }, clock(event.timestamp)),
      el("span", { class: `kind ${toneOf(event)}` }, line(event.kind, 80)),
      el("span", { class: "who" }, event.agent_id === null ? "" : line(event.agent_id, 80)),
      el("span", { class: "said" }, line(event.message || subject(event), 300))));
    if (isOpen) fragment.append(el("div", { class: "body" }, el("div", { class: "about" }, el("span", {}, `number ${event.sequence}`), runLink(event)), json(event.payload)));
    return fragment;
  }
}

const payloadOf = (event) => JSON.parse(event.payload) ?? {};

function subject(event) {
  const payload = payloadOf(event);
  return [payload.run_id, payload.status].filter((each) => typeof each === "string").join(" ");
}

function runLink(event) {
  if (!event.kind.startsWith("run.")) return null;
  const { run_id: runId } = payloadOf(event);
  return el("a", { href: `#/run/${encodeURIComponent(runId)}` }, "open the run");
}

function toneOf(event) {
  const last = event.kind.split(".").at(-1);
  if (event.kind === "run.ended" || event.kind === "agent.status_changed") return tone(payloadOf(event).status ?? "");
  return { degraded: "bad", recovered: "good", requested: "warn", expired: "warn", started: "live" }[last] ?? "quiet";
}
