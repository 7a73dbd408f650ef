// A list of any length of which only what is in view is in the document.
//
// Rows have one height, `height`, until one is seen to have another (it was unfolded): a ResizeObserver tells, and only
// those exceptions are remembered, so that the place of row 50,000 costs as much as that of row 5. When a row above the
// view changes its height the scroll position moves by as much, so that what is being read stays where it is.
//
// `render(i)` makes the contents of row i. A row's element stays the same while it is in view; `refresh` renders its
// contents anew. The selected row is drawn as such and has the focus. Tab comes to it, or to the first row in view while
// the selected one is not in the document, and selects where it came to.

import { el } from "./dom.js";

const OVERSCAN = 6;

export class Rows {
  #shown = new Map();
  #heights = new Map(); // of the rows that are not `height`
  #tall = []; // their indices, rising, and
  #before = []; // what they are higher by, summed up to and with each
  #frame = 0;
  #length = 0;
  #resized = new ResizeObserver((entries) => this.#measured(entries));

  constructor({ height, render, role, itemRole, label, wanted = () => {} }) {
    this.height = height;
    this.render = render;
    this.itemRole = itemRole;
    this.wanted = wanted;
    this.selected = -1;
    this.follows = false;
    this.canvas = el("div", { class: "canvas", role, "aria-label": label });
    this.element = el("div", { class: "scroller", tabindex: "-1" }, this.canvas);
    this.element.addEventListener("scroll", () => this.#soon(), { passive: true });
    this.element.addEventListener("focusin", ({ target }) => this.#entered(target));
    new ResizeObserver(() => this.#soon()).observe(this.element);
  }

  get length() {
    return this.#length;
  }

  set length(length) {
    this.#length = length;
    for (const i of this.#heights.keys()) if (i >= length) this.#heights.delete(i);
    this.#sum();
    this.#soon();
  }

  /** Whether the end of the list is in view. */
  get isAtEnd() {
    const { scrollTop, clientHeight } = this.element;
    return scrollTop + clientHeight >= this.#top(this.#length) - 4;
  }

  /** Renders row i anew if it is in view; all that are, without an index. */
  refresh(i) {
    const chosen = i === undefined ? [...this.#shown.keys()] : [i];
    for (const each of chosen) {
      const row = this.#shown.get(each);
      if (row && each < this.#length) row.replaceChildren(this.render(each));
    }
    this.#soon();
  }

  /** Forgets which rows were unfolded. */
  reset() {
    this.#heights.clear();
    this.#sum();
    this.selected = -1;
    this.element.scrollTop = 0;
    this.refresh();
  }

  /** Selects row i and brings it into view. */
  select(i, { isFar = false } = {}) {
    if (!this.#length) return;
    const old = this.selected;
    this.selected = Math.max(0, Math.min(this.#length - 1, i));
    this.reveal(this.selected, isFar);
    this.draw();
    for (const each of [old, this.selected]) this.#mark(each);
    this.#shown.get(this.selected)?.focus({ preventScroll: true });
  }

  /** So many rows came in above all others: what is in view stays, unless the top is. */
  shift(count) {
    if (this.selected >= 0) this.selected += count;
    this.#heights = new Map([...this.#heights].map(([i, height]) => [i + count, height]));
    this.#sum();
    if (this.element.scrollTop > 0) this.element.scrollTop += count * this.height;
  }

  /** Scrolls as little as brings row i into view; `isFar` also shows what is around it. */
  reveal(i, isFar = false) {
    const top = this.#top(i), bottom = this.#top(i + 1), box = this.element;
    const isAbove = top < box.scrollTop, isBelow = bottom > box.scrollTop + box.clientHeight;
    if (!isAbove && !isBelow) return;
    this.#setHeight();
    if (isFar) box.scrollTop = Math.min(top, (top + bottom - box.clientHeight) / 2);
    else box.scrollTop = isAbove ? top : Math.min(top, bottom - box.clientHeight);
  }

  toEnd() {
    this.#setHeight();
    this.element.scrollTop = this.element.scrollHeight;
  }

  /** The element of row i while it is in view. */
  row(i) {
    return this.#shown.get(i);
  }

  #soon() {
    this.#frame ||= requestAnimationFrame(() => this.draw());
  }

  #setHeight() {
    this.canvas.style.height = `${this.#top(this.#length)}px`;
  }

  draw() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    if (!this.element.isConnected) return;
    this.#setHeight();
    if (this.follows) this.element.scrollTop = this.element.scrollHeight;
    const { scrollTop, clientHeight } = this.element;
    const first = Math.max(0, this.#at(scrollTop) - OVERSCAN);
    const last = Math.min(this.#length - 1, this.#at(scrollTop + clientHeight) + OVERSCAN);
    for (const [i, row] of this.#shown) if (i < first || i > last) this.#remove(i, row);
    for (let i = first; i <= last; i++) this.#place(i);
    this.#open();
    if (last >= first) this.wanted(first, last);
  }

  #place(i) {
    let row = this.#shown.get(i);
    if (!row) {
      row = el("div", { class: "row", role: this.itemRole, tabindex: "-1" }, this.render(i));
      row.dataset.index = i;
      this.#shown.set(i, row);
      // In the order of the list, which is the order in which a reader's software goes through it.
      const next = [...this.canvas.children].find((other) => Number(other.dataset.index) > i);
      this.canvas.insertBefore(row, next ?? null);
      this.#resized.observe(row);
      this.#mark(i);
    }
    row.style.transform = `translateY(${this.#top(i)}px)`;
    row.setAttribute("aria-setsize", this.#length);
    row.setAttribute("aria-posinset", i + 1);
  }

  #remove(i, row) {
    this.#shown.delete(i);
    this.#resized.unobserve(row);
    row.remove();
  }

  #mark(i) {
    this.#shown.get(i)?.classList.toggle("selected", i === this.selected);
  }

  // One row is a stop of Tab.
  #open() {
    const { scrollTop } = this.element;
    const first = this.#at(scrollTop);
    const whole = this.#top(first) < scrollTop && first < this.#length - 1 ? first + 1 : first;
    const stop = this.#shown.has(this.selected) ? this.selected : whole;
    for (const [i, row] of this.#shown) row.setAttribute("tabindex", i === stop ? "0" : "-1");
  }

  // A row that was clicked has the focus too, and is not moved away from under the pointer.
  #entered(row) {
    const i = Number(row.dataset.index);
    if (this.#shown.get(i) === row && i !== this.selected && row.matches(":focus-visible")) this.select(i);
  }

  #measured(entries) {
    const box = this.element;
    const first = this.#at(box.scrollTop);
    const anchor = box.scrollTop - this.#top(first);
    let changed = false;
    for (const { target, borderBoxSize } of entries) {
      const i = Number(target.dataset.index);
      const height = Math.round(borderBoxSize[0].blockSize);
      if (!target.isConnected || !height || height === (this.#heights.get(i) ?? this.height)) continue;
      changed = true;
      if (height === this.height) this.#heights.delete(i);
      else this.#heights.set(i, height);
    }
    if (!changed) return;
    this.#sum();
    this.#setHeight();
    box.scrollTop = this.#top(first) + anchor;
    // What was just unfolded is what is being looked at.
    if (entries.some(({ target }) => Number(target.dataset.index) === this.selected)) this.reveal(this.selected);
    this.#soon();
  }

  #sum() {
    this.#tall = [...this.#heights.keys()].sort((a, b) => a - b);
    let sum = 0;
    this.#before = this.#tall.map((i) => (sum += this.#heights.get(i) - this.height));
  }

  // Where row i begins.
  #top(i) {
    const exceptions = lowest(this.#tall.length, (n) => this.#tall[n] >= i);
    return i * this.height + (exceptions ? this.#before[exceptions - 1] : 0);
  }

  // The row at this distance from the top.
  #at(y) {
    return Math.max(0, Math.min(this.#length - 1, lowest(this.#length, (i) => this.#top(i + 1) > y)));
  }
}

// The lowest of 0 … count for which it is true; `count` when for none. What is true once stays true.
function lowest(count, isTrue) {
  let from = 0, to = count;
  while (from < to) {
    const middle = (from + to) >> 1;
    if (isTrue(middle)) to = middle;
    else from = middle + 1;
  }
  return from;
}
