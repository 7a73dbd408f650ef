// Approvals: what waits for a person, with all that is to be decided on, and the buttons.
//
// A decision is about exactly what is shown. The details are laid out but no character of them is changed or left out, and
// their digest is compared with the daemon's before a button can be pressed. Nothing moves under the pointer: the oldest
// stands first, a new one comes below, and one that was decided keeps its place and its size until the view is left. No
// single key decides: a button is reached with Tab and pressed.

import { button, el, flat, json, line } from "./dom.js";
import { ago, clock, count, tone } from "./words.js";

const SHOWN_DECIDED = 100;

export class ApprovalsView {
  #cards = new Map(); // id: { approval, element, answer, buttons }

  constructor(page) {
    this.page = page;
    this.name = "Approvals";
    this.selected = -1;
    this.empty = el("p", { class: "empty" }, "Nothing waits for you. When a program asks for something that needs a person, it appears here, with everything it wants to do.");
    this.cards = el("div", { class: "cards", role: "feed", "aria-label": "Waiting approvals, the oldest first" });
    this.log = el("ol", { class: "log", "aria-label": "Decided lately" });
    this.logHead = el("h3", {}, "Decided");
    this.scroller = el("div", { class: "scroller padded", tabindex: "-1" }, this.empty, this.cards, this.logHead, this.log);
    this.element = el("section", { class: "view", "aria-label": "Approvals" }, this.scroller);
  }

  show() {
    this.#cards.clear();
    this.cards.replaceChildren();
    this.selected = -1;
    this.changed("approvals");
  }

  hide() {}
  resume() {}

  tick() {
    for (const { approval, age } of this.#cards.values()) age.textContent = ago(approval.created_at);
  }

  changed(what) {
    if (what === "connection") this.#arm();
    if (what !== "approvals") return;
    const { house } = this.page;
    for (const approval of house.pending) this.#put(approval);
    for (const [id, card] of this.#cards) this.#update(card, house.approvals.get(id));
    this.empty.hidden = this.#cards.size > 0;
    this.#drawLog(house.decided.filter((each) => !this.#cards.has(each.id)));
  }

  move(step) {
    const cards = [...this.cards.children];
    if (!cards.length) return;
    this.selected = Math.max(0, Math.min(cards.length - 1, this.selected + step));
    cards[this.selected].focus();
    cards[this.selected].scrollIntoView({ block: "nearest" });
  }

  // Enter goes to the first button and presses nothing.
  enter() {
    this.cards.children[this.selected]?.querySelector("button:enabled")?.focus();
  }

  #put(approval) {
    const known = this.#cards.get(approval.id);
    if (known?.approval === approval || (known && known.approval.details === approval.details)) return;
    const card = this.#made(approval);
    if (known) known.element.replaceWith(card.element);
    else this.cards.append(card.element);
    this.#cards.set(approval.id, card);
    this.#check(card);
  }

  async #check(card) {
    const isWhole = await card.approval.check();
    card.proof.textContent = isWhole ? `shown whole · SHA-256 ${card.approval.details_sha256}` : "";
    if (!isWhole) {
      card.proof.className = "proof warning";
      card.proof.textContent = NOT_WHOLE;
    }
    this.#arm();
  }

  #made(approval) {
    const age = el("time", { datetime: approval.created_at, title: clock(approval.created_at) }, ago(approval.created_at));
    const details = approval.details === "null" ? el("p", { class: "quiet" }, "no details") : json(approval.details);
    const below = el("p", { class: "below", hidden: true });
    watchEnd(details, below);
    const proof = el("p", { class: "proof" }, "comparing with the digest …");
    const answer = el("p", { class: "answer", role: "status" }, approval.undecidable ? line(`Cannot be decided: ${approval.undecidable}`, 2000) : "");
    const card = { approval, age, proof, answer, isSending: false, isOver: false };
    card.buttons = approval.options.map((option) => {
      const look = { approve: "primary", deny: "danger" }[option] ?? "";
      return button(line(option === "approve" ? "Approve" : option === "deny" ? "Deny" : option, 4096), () => this.#decide(card, option), { class: look, disabled: true });
    });
    card.element = el("article", { class: "card", tabindex: "-1", "aria-label": `${flat(approval.action)}, asked by ${flat(approval.agent_id ?? "a program without an agent")}` },
      el("header", {},
        el("h3", {}, line(approval.action, 4096)),
        el("p", { class: "sub" },
          el("span", { class: "who" }, approval.agent_id === null ? "a program without an agent" : line(approval.agent_id, 300)),
          age,
          el("code", { class: "wide" }, line(approval.id, 80)),
          approval.client_id !== null && !approval.undecidable && el("span", {}, "decided by the program that asked, on your word"))),
      details,
      below,
      proof,
      el("footer", {}, ...card.buttons, answer));
    return card;
  }

  #arm() {
    for (const card of this.#cards.values()) {
      const { approval } = card;
      const isOpen = !card.isOver && !card.isSending && this.page.link.isOpen;
      // A refusal needs no look at what is refused.
      card.buttons.forEach((each, i) => {
        each.disabled = !isOpen || Boolean(approval.undecidable) || !(approval.isWhole === true || approval.options[i] === "deny");
      });
    }
  }

  async #decide(card, option) {
    card.isSending = true;
    card.answer.replaceChildren("sending …");
    this.#arm();
    try {
      const row = await this.page.house.resolve(card.approval, option);
      if (row.status === "pending") card.answer.replaceChildren("Passed on to the program that asked; it decides.");
    } catch (error) {
      card.answer.replaceChildren(line(error.code === undefined ? "The connection broke before the daemon answered. Look at what stands here when it is back." : error.message, 2000));
    }
    card.isSending = false;
    this.#arm();
  }

  #update(card, now) {
    if (card.isOver || now?.status === "pending") return;
    card.isOver = true;
    card.element.classList.add("over");
    if (now) card.answer.replaceChildren(badge(now), ` at ${clock(now.resolved_at)}`);
    else card.answer.replaceChildren("The daemon does not know this any more.");
    this.#arm();
  }

  #drawLog(rows) {
    this.logHead.hidden = rows.length === 0;
    this.log.replaceChildren(...rows.slice(0, SHOWN_DECIDED).map((row) => el("li", {},
      badge(row),
      el("span", { class: "title" }, line(row.action, 200)),
      el("span", { class: "who" }, row.agent_id === null ? "" : line(row.agent_id, 80)),
      el("time", { datetime: row.resolved_at, title: row.resolved_at }, clock(row.resolved_at)))));
    if (rows.length > SHOWN_DECIDED) this.log.append(el("li", { class: "quiet" }, `and ${count(rows.length - SHOWN_DECIDED, "older one")}; approvals.jsonl has all of them`));
  }
}

const NOT_WHOLE = "What is shown here is not all of what was asked, so it cannot be approved here. Large details come when others are decided.";

// Says under a box of details whether there is more than is in view. The line stays when the end was reached, so that
// nothing moves under the pointer.
function watchEnd(box, line) {
  const look = () => {
    const isAtEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 2;
    if (box.scrollHeight > box.clientHeight) line.hidden = false;
    line.textContent = isAtEnd ? "This is the end of it." : "There is more of it below: scroll to its end.";
    line.classList.toggle("warning", !isAtEnd);
  };
  box.addEventListener("scroll", look, { passive: true });
  new ResizeObserver(look).observe(box);
}

// How a row ended, in the words of the page for the usual options and in its own for others.
function badge(row) {
  const word = row.status === "expired" ? "expired" : row.resolution;
  const shown = { approve: "approved", deny: "denied" }[word] ?? flat(word ?? row.status, 60);
  return el("span", { class: `badge ${tone(word)}` }, shown);
}
