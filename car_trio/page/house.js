// What the daemon tells hosts: agents, approvals, events, and whether its store can write.
//
// `host.subscribe` brings all of it and registers for what comes after in one step; every later change is an event. After
// a gap, and after a broken connection, it is asked again and replaces everything. Approvals are kept as raw text: their
// details must be shown as they are. An event carries small details only; when they are missing the list is fetched.

import { fields, items, plain, words } from "./json.js";

const KEPT_EVENTS = 500;

/** One approval. `details` is raw text, null when the daemon did not show them here. */
class Approval {
  constructor(raw) {
    const row = fields(raw);
    for (const name of ["id", "agent_id", "client_id", "action", "options", "status", "created_at", "resolved_at",
      "resolution", "details_sha256", "undecidable"]) this[name] = plain(row, name);
    this.details = row.get("details");
    this.isWhole = undefined; // not known until the digest was compared
  }

  /** Whether what is shown is all of what was asked, byte for byte, by the digest that the daemon made of it. */
  async check() {
    const digest = await crypto.subtle.digest("SHA-256", new TextEncoder().encode(this.details));
    const hex = Array.from(new Uint8Array(digest), (byte) => byte.toString(16).padStart(2, "0")).join("");
    this.isWhole = hex === this.details_sha256;
    return this.isWhole;
  }
}

export class House {
  #link;
  #sequence = 0;
  #fetching = null;

  /** `changed(what)`: "agents", "approvals", "events", "health"; `happened(event)` for each event as it comes. */
  constructor(link, { changed, happened }) {
    this.#link = link;
    this.changed = changed;
    this.happened = happened;
    this.agents = [];
    this.approvals = new Map();
    this.events = [];
    this.identity = null;
    this.degraded = null;
    link.on("host.event", (params) => this.#heard(params));
  }

  /** The approvals that wait, the oldest first: a new one never moves those above it. */
  get pending() {
    const waiting = [...this.approvals.values()].filter((each) => each.status === "pending");
    return waiting.sort((a, b) => (a.created_at < b.created_at ? -1 : 1));
  }

  /** Those that ended, the newest first. */
  get decided() {
    const ended = [...this.approvals.values()].filter((each) => each.status !== "pending");
    return ended.sort((a, b) => ((a.resolved_at ?? "") > (b.resolved_at ?? "") ? -1 : 1));
  }

  /** Takes in everything, and what comes from then on. Raises `Lost`, `Refused`. */
  async open() {
    const [snapshot, health] = await Promise.all([
      this.#link.raw("host.subscribe", {}),
      this.#link.call("server.health", {}),
    ]);
    const all = fields(snapshot);
    this.identity = plain(all, "identity");
    this.#sequence = plain(all, "event_sequence");
    this.agents = plain(all, "agents");
    this.#take(items(all.get("approvals")));
    this.events = items(all.get("events")).map(eventOf);
    this.degraded = health.store === "degraded" ? (this.degraded ?? "the store cannot write") : null;
    for (const what of ["agents", "approvals", "events", "health"]) this.changed(what);
  }

  /** Forgets everything: who is signed out sees nothing. */
  clear() {
    this.agents = [];
    this.approvals = new Map();
    this.events = [];
    this.degraded = null;
    for (const what of ["agents", "approvals", "events"]) this.changed(what);
  }

  /** Answers an approval; the row as it is then. Raises `Refused`, `Lost`. */
  async resolve(approval, resolution) {
    const raw = await this.#link.raw("host.resolve_approval", { approval_id: approval.id, resolution });
    return this.#put(raw);
  }

  #take(raws) {
    const old = this.approvals;
    this.approvals = new Map();
    for (const raw of raws) {
      const row = new Approval(raw);
      const known = old.get(row.id);
      // What was shown whole stays so: ended rows lose large details on the daemon's side.
      if (known?.isWhole && known.details_sha256 === row.details_sha256) row.details = known.details;
      this.approvals.set(row.id, row);
    }
  }

  #put(raw) {
    const row = new Approval(raw);
    const known = this.approvals.get(row.id);
    if (known && known.details_sha256 === row.details_sha256 && row.details === "null") row.details = known.details;
    this.approvals.set(row.id, row);
    this.changed("approvals");
    return row;
  }

  #heard(params) {
    const event = fields(params);
    const kind = plain(event, "kind");
    if (kind === "host.gap") {
      this.open().catch(() => {}); // when the connection broke, it is opened anew anyway
      return;
    }
    const sequence = plain(event, "sequence");
    if (sequence <= this.#sequence) return;
    this.#sequence = sequence;
    const made = eventOf(params);
    this.events.unshift(made);
    if (this.events.length > KEPT_EVENTS) this.events.length = KEPT_EVENTS;
    this.changed("events");
    this.#apply(kind, made);
    this.happened(made);
  }

  #apply(kind, event) {
    if (["approval.requested", "approval.resolved", "approval.expired"].includes(kind)) {
      this.#put(event.payload);
      if (kind === "approval.requested" && event.payload.includes('"details":null')) this.#fetchApprovals();
    }
    if (kind.startsWith("agent.") || kind.startsWith("approval.")) this.#fetchAgents();
    if (kind === "store.degraded" || kind === "store.recovered") {
      const cause = event.payload === "null" ? null : words(fields(event.payload), "cause");
      this.degraded = kind === "store.degraded" ? (cause ?? "the store cannot write") : null;
      this.changed("health");
    }
  }

  async #fetchApprovals() {
    try {
      this.#take(items(fields(await this.#link.raw("host.approvals", {})).get("approvals")));
      this.changed("approvals");
    } catch {
      // The connection broke: the next one brings them.
    }
  }

  // Many events in a row make one question, asked when the one before is answered.
  async #fetchAgents() {
    if (this.#fetching) {
      this.#fetching = "again";
      return;
    }
    do {
      this.#fetching = "once";
      try {
        this.agents = await this.#link.call("host.agents", {});
        this.changed("agents");
      } catch {
        this.#fetching = null;
        return;
      }
    } while (this.#fetching === "again");
    this.#fetching = null;
  }
}

function eventOf(raw) {
  const event = fields(raw);
  const made = { raw, payload: event.get("payload") };
  for (const name of ["id", "sequence", "timestamp", "kind", "agent_id", "message"]) made[name] = plain(event, name);
  return made;
}
