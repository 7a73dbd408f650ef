// The connection to the daemon: one WebSocket, dialled again for as long as it makes sense.
//
// States, told to `changed`: `connecting`, `open`, `waiting` (dials again at `retryAt`), `signed-out` (only a new code
// helps, so nothing is dialled). A connection is `open` when the daemon has accepted who we are; `opened` is then called
// and subscribes anew to everything that is on the screen. What was asked on a connection that broke fails with `Lost`:
// the caller does not know whether it was done, and says so.
//
// The key of the session is kept for this tab only, in sessionStorage, which is bound to the port; a cookie would be
// sent to whatever else listens on this address. The one-time code comes in the fragment of the address, which no server
// ever sees, and is taken out of it before it is used.

import { fields, plain } from "./json.js";

const KEY = "car-trio-session";
const FIRST_DELAY = 250;
const LAST_DELAY = 8_000;
const HELLO_PATIENCE = 10_000;
const GOING_AWAY = 1001;

/** The daemon said no; `message` is its word. */
export class Refused extends Error {
  constructor(error) {
    super(error.message);
    this.code = error.code;
    this.told = error.message;
  }
}

/** The connection broke before the answer came. */
export class Lost extends Error {
  constructor() {
    super("the connection to the daemon broke before it answered");
    this.told = this.message;
  }
}

/** Takes the one-time code out of the address; null when there is none. */
export function takeCode() {
  const found = /^#code=([A-Za-z0-9_-]+)$/.exec(location.hash);
  if (!found) return null;
  history.replaceState(null, "", location.pathname);
  return found[1];
}

export class Link {
  #socket = null;
  #waiting = new Map();
  #nextId = 1;
  #delay = FIRST_DELAY;
  #timer = 0;
  #code = null;
  #listeners = new Map();

  constructor({ changed, opened }) {
    this.changed = changed;
    this.opened = opened;
    this.state = "connecting";
    this.reason = "";
    this.retryAt = 0;
  }

  get isOpen() {
    return this.state === "open";
  }

  /** Calls `heard(params)`, raw text, for each notification of this method. */
  on(method, heard) {
    this.#listeners.set(method, heard);
  }

  /** Dials now, with a new code if there is one. */
  dial(code = this.#code) {
    clearTimeout(this.#timer);
    this.#code = code;
    this.#drop();
    this.#become("connecting");
    const socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/rpc`);
    this.#socket = socket;
    socket.onopen = () => this.#hello(socket);
    socket.onmessage = (event) => socket === this.#socket && this.#heard(event.data);
    socket.onclose = (event) => socket === this.#socket && this.#lost(event.code);
    this.#timer = setTimeout(() => socket === this.#socket && !this.isOpen && this.#lost(0), HELLO_PATIENCE);
  }

  /** The result of a call, parsed. */
  async call(method, params) {
    return JSON.parse(await this.raw(method, params));
  }

  /** The result of a call as raw text. */
  raw(method, params) {
    return this.isOpen ? this.#ask(method, params) : Promise.reject(new Lost());
  }

  /** Sends what nobody waits for. */
  tell(method, params) {
    this.raw(method, params).catch(() => {});
  }

  #ask(method, params) {
    const id = this.#nextId++;
    this.#socket.send(JSON.stringify({ jsonrpc: "2.0", id, method, params }));
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject }));
  }

  #heard(text) {
    const frame = fields(text);
    const method = plain(frame, "method");
    if (method !== undefined) {
      this.#listeners.get(method)?.(frame.get("params"));
      return;
    }
    const id = plain(frame, "id");
    const waiter = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (frame.has("error")) waiter?.reject(new Refused(plain(frame, "error")));
    else waiter?.resolve(frame.get("result"));
  }

  async #hello(socket) {
    const known = sessionStorage.getItem(KEY);
    try {
      await this.#signIn(this.#code, known);
    } catch (error) {
      if (socket !== this.#socket) return;
      if (error instanceof Refused) this.#signOut(this.#code ? "code" : "session");
      return; // a connection that broke is told by its close
    }
    if (socket !== this.#socket || this.state === "signed-out") return;
    clearTimeout(this.#timer);
    this.#delay = FIRST_DELAY;
    this.#become("open");
    this.opened();
  }

  async #signIn(code, known) {
    if (!code && !known) {
      const health = JSON.parse(await this.#ask("server.health", {}));
      if (health.auth_enabled) return this.#signOut("new");
    }
    const proof = code ? { web_code: code } : { web_session: known ?? "" };
    const said = JSON.parse(await this.#ask("session.auth", proof));
    this.#code = null;
    if (said.web_session) sessionStorage.setItem(KEY, said.web_session);
    return undefined;
  }

  #signOut(reason) {
    clearTimeout(this.#timer);
    sessionStorage.removeItem(KEY);
    this.#code = null;
    this.#drop();
    this.reason = reason;
    this.#become("signed-out");
  }

  #lost(code) {
    this.#drop();
    clearTimeout(this.#timer);
    // A daemon that said that it stops is stopped until it answers again; that nobody answers says nothing new.
    if (this.isOpen || this.reason !== "stopped") this.reason = code === GOING_AWAY ? "stopped" : "lost";
    const delay = this.#delay * (0.75 + Math.random() / 2);
    this.#delay = Math.min(LAST_DELAY, this.#delay * 2);
    this.retryAt = Date.now() + delay;
    this.#timer = setTimeout(() => this.dial(), delay);
    this.#become("waiting");
  }

  #drop() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    const waiting = [...this.#waiting.values()];
    this.#waiting.clear();
    for (const waiter of waiting) waiter.reject(new Lost());
  }

  #become(state) {
    this.state = state;
    this.changed();
  }
}
