// Elements, and foreign text in them.
//
// Nothing here takes HTML: text becomes text nodes and nothing else, so that what an agent wrote can never be markup.
// What nobody would see, or what would show another order than the one that is stored (control characters, zero-width
// characters, bidirectional overrides, tags), is shown by its number in a box.

import { laidOut } from "./json.js";

const UNSEEN =
  /(?:[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200e\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb\u{1bca0}-\u{1bca3}\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]|\p{Cs}|(?<!\p{Extended_Pictographic}\ufe0f?)\u200d)/gu;

const CHUNK = 8_000;
const MAX_BOXES = 2_000; // of one text; a browser lays out hundreds of thousands for minutes
const MAX_MARGIN = 32; // characters; what begins further to the right is moved by two
const MAX_MARGINS = 200; // lines of one string; those of a longer one begin at the left, which is cheap

/** An element. `set`: attributes; `on…`: listeners; null and false are left out. Children are nodes or our own words. */
export function el(tag, set = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(set)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

const number = (character) => "U+" + character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0");

/** Foreign text; what is unseen becomes a box with its number, after the first MAX_BOXES the number in brackets. */
export function seen(text) {
  const fragment = document.createDocumentFragment();
  let from = 0, boxes = 0;
  for (const found of text.matchAll(UNSEEN)) {
    if (boxes++ === MAX_BOXES) {
      fragment.append(text.slice(from).replace(UNSEEN, (character) => `[${number(character)}]`));
      return fragment;
    }
    fragment.append(text.slice(from, found.index), el("b", { class: "unseen", title: "a character that is not shown" }, number(found[0])));
    from = found.index + found[0].length;
  }
  fragment.append(text.slice(from));
  return fragment;
}

/** Foreign text on one line, cut to so many characters. */
export function line(text, room = 300) {
  const cut = text.length > room;
  const kept = text.slice(0, room).replace(/[\uD800-\uDBFF]$/, "");
  return seen(kept.replace(/\s+/g, " ") + (cut ? "…" : ""));
}

/** The same for an attribute or the window's title, where no boxes are possible. */
export function flat(text, room = 300) {
  return text.slice(0, room).replace(/\s+/g, " ").replace(UNSEEN, number);
}

// Long texts are cut into blocks that the browser lays out only when they come into view.
function blocks(text) {
  const made = [];
  for (let from = 0; from < text.length;) {
    let to = Math.min(text.length, from + CHUNK);
    const lineEnd = to < text.length ? text.lastIndexOf("\n", to) : -1;
    const isWhole = lineEnd > from || to === text.length;
    if (lineEnd > from) to = lineEnd + 1;
    else if (/[\uD800-\uDBFF]/.test(text[to - 1])) to--;
    made.push([text.slice(from, to), isWhole]);
    from = to;
  }
  return made;
}

/** A text as it is, on as many lines as it has. */
export function prose(text) {
  const made = el("pre", { class: "payload", tabindex: "0" });
  if (text.length <= CHUNK) made.append(seen(text));
  // A line that is longer than a block would be broken by one: such a text is laid out at once.
  else if (blocks(text).some(([, isWhole]) => !isWhole)) made.append(seen(text));
  else made.append(...blocks(text).map(([block]) => el("span", { class: "block" }, seen(block))));
  return made;
}

// A line break inside of a JSON string is shown as it is written and then made, and what follows is moved to where the
// string begins: nothing is hidden, nothing is added, and it can be read.
function stringToken(raw, kind, column) {
  const made = el("span", { class: kind });
  const parts = raw.split(/((?<!\\)(?:\\\\)*\\n)/);
  if (parts.length > 2 * MAX_MARGINS) {
    made.append(seen(parts.map((part, i) => (i % 2 ? part + "\n" : part)).join("")));
    return made;
  }
  parts.forEach((part, i) => {
    made.append(seen(part));
    if (i % 2 === 0) return;
    const margin = el("span", { class: "margin" });
    margin.style.width = `${column}ch`;
    made.append("\n", margin);
  });
  return made;
}

/** A JSON value, laid out, every token as it was written. */
export function json(raw) {
  const made = el("pre", { class: "payload json", tabindex: "0" });
  let block = el("span", { class: "block" });
  let size = 0, column = 0;
  for (const [kind, text] of laidOut(raw)) {
    const at = column > MAX_MARGIN ? 2 : column;
    column = text.startsWith("\n") ? text.length - 1 : column + text.length;
    if (kind === "space" && text.startsWith("\n") && size > CHUNK) {
      block.append("\n");
      made.append(block);
      block = el("span", { class: "block" }, text.slice(1));
      size = 0;
      continue;
    }
    size += text.length;
    if (kind === "space" || kind === "mark") block.append(text);
    else block.append(stringToken(text, kind, at));
  }
  made.append(...(made.childElementCount ? [block] : [...block.childNodes]));
  return made;
}

/** A button of ours. */
export function button(label, onclick, set = {}) {
  return el("button", { type: "button", onclick, ...set }, label);
}

/** Copies a text, or what a promise brings, and says so on the button. */
export async function copy(target, text) {
  const label = target.textContent;
  const say = (word) => {
    target.textContent = word;
    setTimeout(() => target.isConnected && (target.textContent = label), 1500);
  };
  try {
    const blob = Promise.resolve(text).then((made) => new Blob([made], { type: "text/plain" }));
    await navigator.clipboard.write([new ClipboardItem({ "text/plain": blob })]);
    say("Copied");
  } catch (error) {
    say(error?.told ?? "Not copied: the browser refused");
  }
}
