// Agents that registered themselves with hosts: who they are, what they do, since when.

import { el, line } from "./dom.js";
import { Rows } from "./rows.js";
import { ago, clock, spoken, tone } from "./words.js";

export class AgentsView {
  constructor(page) {
    this.page = page;
    this.name = "Agents";
    this.rows = new Rows({ height: 64, role: "list", itemRole: "listitem", label: "Agents, by name", render: (i) => this.#row(page.house.agents[i]) });
    this.empty = el("p", { class: "empty" }, "No agent has registered itself. One appears here when its program calls ", el("code", {}, "host.register_agent"), "; runs are recorded without that too.");
    this.element = el("section", { class: "view", "aria-label": "Agents" }, this.empty, this.rows.element);
  }

  show() {
    this.changed("agents");
  }

  hide() {}
  resume() {}

  tick() {
    this.rows.refresh();
  }

  changed(what) {
    if (what !== "agents") return;
    this.rows.length = this.page.house.agents.length;
    this.rows.refresh();
    this.empty.hidden = this.rows.length > 0;
    this.rows.element.hidden = this.rows.length === 0;
  }

  enter() {
    const agent = this.page.house.agents[this.rows.selected];
    if (agent) this.page.go(runsOf(agent));
  }

  #row(agent) {
    return el("a", { class: "run", href: runsOf(agent), tabindex: "-1", title: "its runs" },
      el("span", { class: `dot ${tone(agent.status)}` }),
      el("span", { class: "title" }, line(agent.display.label || agent.name, 200)),
      el("span", { class: `badge ${tone(agent.status)}` }, spoken(agent.status)),
      el("span", { class: "sub" },
        el("span", { class: "who" }, line(agent.id, 80)),
        el("span", {}, line(agent.kind, 40)),
        agent.current_task && el("span", {}, line(agent.current_task, 200)),
        agent.project && el("span", { class: "wide" }, line(agent.project, 80)),
        agent.pid !== null && el("span", { class: "wide" }, `pid ${agent.pid}`),
        agent.capabilities.length > 0 && el("span", { class: "wide" }, line(agent.capabilities.join(", "), 120))),
      el("time", { datetime: agent.updated_at, title: clock(agent.updated_at) }, ago(agent.updated_at)));
  }
}

const runsOf = (agent) => `#/runs?agent=${encodeURIComponent(agent.id)}`;
