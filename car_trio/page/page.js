// The page: which view is shown, the keys, the state of the connection, and everybody told of what changed.
//
// A view is an object with an `element` and `show(parts, query)`, `hide()`, `resume()` (the connection is there again),
// `changed(what)` (the house knows something new), `happened(event)`, `tick()` (times passed), `enter()`, `escape()` and
// `move(step)`; those it does not need it leaves out. Which one is shown is said by the address, so that going back works.

import { AgentsView } from "./agents.js";
import { ApprovalsView } from "./approvals.js";
import { button, el, flat, line } from "./dom.js";
import { EventsView } from "./events.js";
import { House } from "./house.js";
import { Link, takeCode } from "./link.js";
import { RunView } from "./run.js";
import { RunsView } from "./runs.js";
import { clock } from "./words.js";

const TICK = 5_000;
const THEME = "car-trio-theme";
// A payload that is longer than its box is scrolled by these while it has the focus.
const SCROLLING = new Set(["ArrowDown", "ArrowUp", "PageDown", "PageUp", "Home", "End"]);
const get = (id) => document.getElementById(id);

class Page {
  constructor() {
    this.link = new Link({ changed: () => this.#connection(), opened: () => this.#opened() });
    this.house = new House(this.link, { changed: (what) => this.#changed(what), happened: (event) => this.#happened(event) });
    this.views = { runs: new RunsView(this), run: new RunView(this), approvals: new ApprovalsView(this), agents: new AgentsView(this), events: new EventsView(this) };
    this.view = null;
    this.lostAt = null;
    this.address = null;
  }

  start() {
    const code = takeCode();
    this.#theme(sessionStorage.getItem(THEME));
    get("theme").addEventListener("click", () => this.#otherTheme());
    get("keys").addEventListener("click", () => get("help").showModal());
    get("help").addEventListener("click", (event) => event.target === get("help") && get("help").close());
    addEventListener("hashchange", () => this.#moved());
    addEventListener("keydown", (event) => this.#key(event));
    addEventListener("online", () => this.link.state === "waiting" && this.link.dial());
    setInterval(() => this.#tick(), TICK);
    setInterval(() => this.#countdown(), 500);
    this.#moved();
    this.link.dial(code);
  }

  /** Shows another view at once, so that the next key is for it; the browser's own word comes later. */
  go(address) {
    location.hash = address;
    this.#moved();
  }

  // Where we are

  #moved() {
    const code = takeCode();
    if (code) this.link.dial(code);
    if (this.address === location.hash) return;
    this.address = location.hash;
    const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
    const [name, ...parts] = path.split("/").map(decoded);
    const view = this.views[name] && Object.hasOwn(this.views, name) ? this.views[name] : this.views.runs;
    if (this.view !== view) this.view?.hide?.();
    const isOther = this.view !== view;
    this.view = view;
    for (const link of document.querySelectorAll("nav a")) {
      const isHere = link.dataset.view === (view === this.views.run ? "runs" : view.name.toLowerCase());
      if (isHere) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    if (isOther) this.#place();
    view.show?.(parts, new URLSearchParams(query));
    this.#waiting();
  }

  #place() {
    get("main").replaceChildren(this.link.state === "signed-out" ? this.#signIn() : this.view.element);
  }

  #title() {
    const waiting = this.house.pending.length;
    document.title = `${waiting ? `(${waiting}) ` : ""}${this.view.name} · car-trio`;
  }

  // The connection

  async #opened() {
    try {
      await this.house.open();
    } catch (error) {
      if (error.code !== undefined) this.#alert("bad", `The daemon refused: ${flat(error.message)}`);
      return;
    }
    this.view.resume?.();
  }

  #connection() {
    const { state } = this.link;
    if (state === "open") this.lostAt = null;
    else this.lostAt ??= Date.now();
    document.body.dataset.link = state;
    get("link").textContent = { open: "live", connecting: "connecting …", waiting: "not connected", "signed-out": "signed out" }[state];
    if (state === "signed-out") this.house.clear();
    const isSignIn = Boolean(get("main").querySelector(".sign-in"));
    if (isSignIn !== (state === "signed-out") || state === "signed-out") this.#place();
    this.view?.changed?.("connection");
    this.#health();
  }

  #health() {
    const { state, reason } = this.link;
    if (state === "waiting") {
      const what = reason === "stopped" ? "The daemon was stopped." : "The daemon does not answer.";
      const since = `What you see is from ${clock(new Date(this.lostAt).toISOString())}.`;
      this.#alert("bad", `${what} ${since}`, el("span", { id: "countdown" }), button("Try now", () => this.link.dial(), { class: "small" }));
      this.#countdown();
    } else if (state === "open" && this.house.degraded) {
      this.#alert("bad", `The store cannot write now (${flat(this.house.degraded)}). What was acknowledged is kept; new runs and turns are refused until it heals.`);
    } else if (state !== "connecting") this.#alert(null);
  }

  #alert(how, ...what) {
    get("alert").hidden = how === null;
    get("alert").className = how ?? "";
    get("alert").replaceChildren(...what);
  }

  #countdown() {
    const left = Math.ceil((this.link.retryAt - Date.now()) / 1000);
    if (get("countdown")) get("countdown").textContent = left > 0 ? `Trying again in ${left} s.` : "Trying again …";
  }

  #signIn() {
    const why = {
      new: "This page shows what your agents did and lets you decide what they may do, so it has to know that it is you.",
      code: "That link was used already, or it is more than a minute old.",
      session: "You were signed out: the daemon was started anew, or twelve hours have passed.",
    }[this.link.reason];
    return el("section", { class: "sign-in", "aria-label": "Sign in" },
      el("h2", {}, "Sign in"), el("p", {}, why),
      el("p", {}, "In a terminal on this machine:"),
      el("pre", {}, el("code", {}, "car-trio ui")),
      el("p", { class: "quiet" }, "It opens this page with a code that works once, within a minute."),
      button("Try again", () => this.link.dial()));
  }

  // What came

  #changed(what) {
    this.view?.changed?.(what);
    if (what === "approvals") this.#waiting();
    if (what === "health") this.#health();
    if (what === "agents") get("agents-count").textContent = this.house.agents.length || "";
    if (what === "health" && this.house.identity) get("version").textContent = this.house.identity.version;
  }

  #waiting() {
    const { pending } = this.house;
    get("approvals-count").textContent = pending.length || "";
    const icon = pending.length ? "icon-waiting.svg" : "icon.svg";
    if (get("icon").getAttribute("href") !== icon) get("icon").href = icon;
    const oldest = pending[0];
    const isSeen = this.view === this.views.approvals;
    get("notice").hidden = pending.length === 0 || isSeen;
    if (oldest) get("notice").replaceChildren(el("span", {}, el("b", {}, pending.length === 1 ? "1 approval waits: " : `${pending.length} approvals wait, the oldest: `), line(oldest.action, 120)), el("span", { class: "go" }, "Review", el("kbd", {}, "2")));
    this.#title();
  }

  #happened(event) {
    this.view?.happened?.(event);
    if (event.kind === "approval.requested") get("said").textContent = flat(`New approval: ${event.message}`);
  }

  #tick() {
    if (document.visibilityState === "visible") this.view?.tick?.();
  }

  // The looks

  #theme(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    const isDark = this.#isDark;
    get("theme").setAttribute("aria-label", isDark ? "use the light theme" : "use the dark theme");
    get("theme").textContent = isDark ? "☀" : "☾";
  }

  get #isDark() {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  }

  #otherTheme() {
    const theme = this.#isDark ? "light" : "dark";
    sessionStorage.setItem(THEME, theme);
    this.#theme(theme);
  }

  // The keys

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || get("help").open) return;
    const target = event.target;
    const isField = target.matches("input, select, textarea");
    if (event.key === "Escape") {
      event.preventDefault(); // a browser would empty the field, and tell nobody
      if (isField) target.blur();
      else this.view.escape?.();
      return;
    }
    if (isField) {
      if (event.key === "Enter" && target.matches("input")) this.#move(-Infinity);
      return;
    }
    if (event.key === "Enter" && target.matches("button, a, summary")) return;
    if (SCROLLING.has(event.key) && target.matches(".payload") && target.scrollHeight > target.clientHeight) return;
    const act = this.#acts[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  #acts = {
    j: () => this.#move(1), ArrowDown: () => this.#move(1),
    k: () => this.#move(-1), ArrowUp: () => this.#move(-1),
    g: () => this.#move(-Infinity), Home: () => this.#move(-Infinity),
    G: () => this.#move(Infinity), End: () => this.#move(Infinity),
    PageDown: () => this.#move(10), PageUp: () => this.#move(-10),
    Enter: () => this.view.enter?.(),
    "/": () => this.#filter(),
    n: () => this.view.failure?.(1),
    p: () => this.view.failure?.(-1),
    f: () => this.view.follow?.(!this.view.rows.follows),
    c: () => this.view.copySelected?.(),
    t: () => this.#otherTheme(),
    "?": () => get("help").showModal(),
    1: () => this.go("#/runs"), 2: () => this.go("#/approvals"), 3: () => this.go("#/agents"), 4: () => this.go("#/events"),
  };

  #filter() {
    if (this.view !== this.views.runs) this.go("#/runs");
    this.views.runs.filter();
  }

  #move(step) {
    if (this.view.move) return this.view.move(step);
    const { rows } = this.view;
    if (Number.isFinite(step)) return rows.select(rows.selected < 0 ? (step > 0 ? 0 : rows.length - 1) : rows.selected + step);
    return rows.select(step > 0 ? rows.length - 1 : 0);
  }
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

new Page().start();
