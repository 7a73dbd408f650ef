// One record of a run: the two lines that every one has, and what unfolds under them.
//
// Of a folded record only what two lines show is read. Payloads are raw text (json.js): they are laid out when they are
// unfolded, the first PREVIEW characters at once, the rest when it is asked for. A payload that is one string is shown as
// that text, with its line breaks; everything else is shown as JSON.

import { button, copy, el, flat, json, line, prose } from "./dom.js";
import { fields, plain, words } from "./json.js";
import { DAMAGED, DENIED, FAILED, judged } from "./trace.js";
import { clock, lasting, size, spoken, tone } from "./words.js";

const PREVIEW = 12_000;
const TONE = { [FAILED]: "bad", [DENIED]: "deny", [DAMAGED]: "bad" };

const payloadText = (raw) => (raw === undefined ? null : raw.startsWith('"') ? JSON.parse(raw.length > 4_000 ? cutString(raw) : raw) : raw.slice(0, 400));

// A string's beginning as a string of its own; not in the middle of an escape.
function cutString(raw) {
  return `${raw.slice(0, 2_000).replace(/\\u?[0-9a-fA-F]{0,3}$/, "").replace(/\\$/, "")}"`;
}

/** The two lines of a record: a button that unfolds it. */
export function folded(raw, { took, isOpen, toggle }) {
  const record = fields(raw);
  const kind = words(record, "record");
  const { mark, name, badges, said } = (LINES[kind] ?? unknown)(record);
  const verdict = judged(record);
  const main = TONE[verdict] ?? (kind === "turn" ? "quiet" : "edge");
  return el("button", { type: "button", class: `turn ${main}`, "aria-expanded": String(isOpen), onclick: toggle, tabindex: "-1" },
    el("span", { class: "mark" }, mark),
    el("span", { class: "name" }, name),
    el("span", { class: "badges" }, badges.map(([word, how]) => el("span", { class: `badge ${how}` }, word)).reduce(group, document.createDocumentFragment())),
    Number.isFinite(took) && el("span", { class: "took", title: "since the record before it" }, lasting(took)),
    el("span", { class: "said" }, said));
}

const group = (fragment, node) => (fragment.append(node), fragment);

const LINES = {
  started: (record) => ({ mark: "●", name: "started", badges: [], said: line(words(record, "intent") ?? "") }),
  damaged: (record) => ({
    mark: "!", name: "damaged", badges: [["cannot be read", "bad"]],
    said: `line ${plain(record, "line")} of the run's file; \`car-trio doctor\` says more`,
  }),
  ended: endLines,
  turn: turnLines,
};

const unknown = (record) => ({ mark: "?", name: line(words(record, "record") ?? "unknown", 60), badges: [], said: "a record that this version does not know" });

function endLines(record) {
  const termination = plain(record, "termination");
  const outcome = termination.outcome;
  const word = outcome ? outcome.status : "incomplete";
  return { mark: "■", name: "ended", badges: [[spoken(word), tone(word)]], said: line(outcome ? outcome.summary : spoken(termination.reason)) };
}

function turnLines(record) {
  const tool = words(record, "tool");
  return {
    mark: record.get("index") ?? "",
    name: tool === null ? el("i", {}, "says") : line(tool, 60),
    badges: badgesOf(record),
    said: saidBy(record),
  };
}

function badgesOf(record) {
  const status = words(record, "status");
  const verdict = words(record, "verifier_verdict");
  const isDenied = record.get("policy_rejected") === "true" || status === "rejected";
  const badges = [];
  if (isDenied) badges.push(["denied", "deny"]);
  else if (status !== null && status !== "succeeded") badges.push([spoken(status), tone(status)]);
  if (verdict !== null && verdict !== "not_run") badges.push([`check ${verdict}`, tone(verdict)]);
  if (record.has("cli_outcome")) badges.push(...exitOf(plain(record, "cli_outcome")));
  if (record.has("truncated")) badges.push(["cut", "warn"]);
  return badges;
}

function exitOf(cli) {
  if (cli.timed_out) return [["timed out", "bad"]];
  return cli.exit_code === undefined || cli.exit_code === null ? [] : [[`exit ${cli.exit_code}`, cli.exit_code ? "bad" : "quiet"]];
}

function saidBy(record) {
  const error = words(record, "error");
  if (error !== null) return el("span", { class: "error" }, line(error));
  const prompt = words(record, "prompt");
  const asked = prompt ?? payloadText(record.get("parameters"));
  const answered = payloadText(record.get("output"));
  const made = el("span", {});
  if (asked !== null) made.append(el("span", { class: prompt === null ? null : "prose" }, line(asked)));
  if (answered !== null) made.append(el("span", { class: "arrow" }, " → "), line(answered));
  return made;
}

/** What unfolds under the two lines. */
export function unfolded(raw) {
  const record = fields(raw);
  const kind = words(record, "record");
  const about = el("div", { class: "about" }, ...factsOf(record));
  const button_ = button("Copy as JSON", () => copy(button_, raw), { class: "small" });
  about.append(button_);
  return el("div", { class: "body" }, about, ...(kind === "turn" ? turnParts(record) : otherParts(record, kind, raw)));
}

function factsOf(record) {
  const at = words(record, "recorded_at") ?? words(record, "started_at") ?? words(record, "ended_at");
  const facts = [["at", at && el("time", { datetime: at, title: at }, clock(at))]];
  for (const name of ["action_id", "proposal_id"]) {
    const id = words(record, name);
    if (id !== null) facts.push([spoken(name), el("code", {}, line(id, 80))]);
  }
  return facts.filter(([, value]) => value).map(([name, value]) => el("span", {}, el("span", { class: "label" }, name), value));
}

function turnParts(record) {
  const cut = record.has("truncated") ? plain(record, "truncated") : {};
  const parts = [];
  const error = words(record, "error");
  if (error !== null) parts.push(part("error", prose(error), "bad"));
  for (const name of ["prompt", "parameters", "output"]) {
    if (record.has(name)) parts.push(payload(name, record.get(name), cut));
  }
  if (record.has("cli_outcome")) parts.push(...cliParts(record));
  return parts.length ? parts : [el("p", { class: "quiet" }, "This turn has no payload.")];
}

function cliParts(record) {
  const cli = fields(record.get("cli_outcome"));
  const program = words(cli, "cli"), tail = words(cli, "output_tail");
  const made = [];
  if (program && !record.has("parameters")) made.push(part("command", prose(program)));
  // The output has it too, where the tool's result is what the outcome was read from.
  if (tail && !record.get("output")?.includes(cli.get("output_tail"))) made.push(part("output tail", prose(tail)));
  return made;
}

function otherParts(record, kind, raw) {
  if (kind === "started") {
    return ["intent", "outcome_description"].filter((name) => record.has(name)).map((name) => payload(name, record.get(name), {}));
  }
  if (kind !== "ended") return [part("record", json(raw))];
  const termination = fields(record.get("termination"));
  if (!termination.has("outcome")) return [part("why", prose(WHY[words(termination, "reason")] ?? "the run was not brought to an end"))];
  const outcome = fields(termination.get("outcome"));
  const shown = ["summary", "evidence", "metrics"].filter((name) => outcome.has(name) && !['""', "[]"].includes(outcome.get(name)));
  return shown.map((name) => payload(name, outcome.get(name), {}));
}

const WHY = {
  disconnected: "The agent's connection ended before it said how the run went.",
  orphaned: "The daemon ended before the run did; it was closed at the next start.",
  shutdown: "The daemon was stopped while the run was open.",
};

function part(name, content, how = "") {
  return el("div", { class: `part ${how}` }, el("h4", {}, name), content);
}

// One payload. What was cut when it was recorded is told with its full size and digest.
function payload(name, raw, cut) {
  const isText = raw.startsWith('"');
  const text = isText ? JSON.parse(raw) : raw;
  const show = (shown) => (isText ? prose(shown) : json(shown));
  const made = part(spoken(name), text.length > PREVIEW ? beginning(text, isText, show) : show(text));
  for (const [path, was] of Object.entries(cut)) {
    if (path === name || path.startsWith(name + "/")) made.append(el("p", { class: "quiet" }, `${flat(path)} was cut when it was recorded: it had ${size(was.bytes)}, SHA-256 ${flat(was.sha256)}`));
  }
  return made;
}

// JSON that is cut in the middle is no JSON: its beginning is shown as text.
function beginning(text, isText, show) {
  const made = el("div", {}, prose(text.slice(0, PREVIEW).replace(/[\uD800-\uDBFF]$/, "")));
  const rest = button(`Show all ${text.length.toLocaleString("en")} characters`, () => made.replaceChildren(show(text)), { class: "small" });
  made.append(rest);
  return made;
}
