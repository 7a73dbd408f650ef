// JSON read as text, so that what is shown and copied is what was written.
//
// JSON.parse rounds numbers beyond 2^53, drops doubled keys and rewrites escapes. A record is evidence: nothing of that
// may happen to it. So a message is only cut: `fields` and `items` return the raw text of an object's or an array's
// parts, and only what the page itself has to understand (a status, a count) is parsed. Everything here expects JSON
// that the daemon has checked; text that is not throws SyntaxError and never loops.

const QUOTE = 34, COMMA = 44, COLON = 58, OPEN = 91, BACKSLASH = 92, CLOSE = 93, OPEN_OBJECT = 123, CLOSE_OBJECT = 125;

const isSpace = (code) => code === 32 || code === 10 || code === 13 || code === 9;
const ends = (code) => code === COMMA || code === CLOSE || code === CLOSE_OBJECT || code === COLON || isSpace(code);

function broken(at) {
  return new SyntaxError(`not JSON at character ${at}`);
}

function afterSpace(text, at) {
  while (isSpace(text.charCodeAt(at))) at++;
  return at;
}

// A quote ends the string unless an odd number of backslashes stands before it.
function afterString(text, start) {
  for (let at = start; ;) {
    at = text.indexOf('"', at + 1);
    if (at < 0) throw broken(start);
    let back = at - 1;
    while (back > start && text.charCodeAt(back) === BACKSLASH) back--;
    if ((at - back) % 2 === 1) return at + 1;
  }
}

function afterScalar(text, start) {
  let at = start;
  while (at < text.length && !ends(text.charCodeAt(at))) at++;
  if (at === start) throw broken(start);
  return at;
}

/** Where the value that begins at `start` ends; -1 when that is more than `limit` characters away. */
export function after(text, start, limit = Infinity) {
  const first = text.charCodeAt(start);
  if (first === QUOTE) return afterString(text, start);
  if (first !== OPEN && first !== OPEN_OBJECT) return afterScalar(text, start);
  let depth = 0;
  for (let at = start; at < text.length && at - start <= limit;) {
    const code = text.charCodeAt(at);
    if (code === QUOTE) {
      at = afterString(text, at);
      continue;
    }
    if (code === OPEN || code === OPEN_OBJECT) depth++;
    else if ((code === CLOSE || code === CLOSE_OBJECT) && --depth === 0) return at + 1;
    at++;
  }
  if (limit === Infinity) throw broken(start);
  return -1;
}

/** The fields of an object: name to raw text. A doubled name has its last value, as for every reader of JSON. */
export function fields(text) {
  const found = new Map();
  let at = afterSpace(text, 0);
  if (text.charCodeAt(at) !== OPEN_OBJECT) throw broken(at);
  at = afterSpace(text, at + 1);
  while (text.charCodeAt(at) !== CLOSE_OBJECT) {
    const name = afterString(text, at);
    const start = afterSpace(text, afterSpace(text, name) + 1);
    const end = after(text, start);
    found.set(JSON.parse(text.slice(at, name)), text.slice(start, end));
    at = afterSpace(text, end);
    if (text.charCodeAt(at) === COMMA) at = afterSpace(text, at + 1);
  }
  return found;
}

/** The raw texts of an array's items. */
export function items(text) {
  const found = [];
  let at = afterSpace(text, 0);
  if (text.charCodeAt(at) !== OPEN) throw broken(at);
  at = afterSpace(text, at + 1);
  while (text.charCodeAt(at) !== CLOSE) {
    const end = after(text, at);
    found.push(text.slice(at, end));
    at = afterSpace(text, end);
    if (text.charCodeAt(at) === COMMA) at = afterSpace(text, at + 1);
  }
  return found;
}

/** The value of a field that is a short one of our own: a string, a number, a flag. */
export function plain(found, name) {
  const raw = found.get(name);
  return raw === undefined ? undefined : JSON.parse(raw);
}

/** Text of an agent in a field; null when the field is absent or no string. */
export function words(found, name) {
  const raw = found.get(name);
  return raw !== undefined && raw.startsWith('"') ? JSON.parse(raw) : null;
}

const MAX_INDENT = 40;
const SHORT = 76;

/**
 * The tokens of a value as [kind, text] with line breaks and indentation put between them. Every token is the text as
 * it was written; only white space outside of strings is ours. What is short stays on one line.
 */
export function* laidOut(text) {
  const open = [];
  let flat = -1; // up to where everything stays on one line
  const newLine = () => ["space", "\n" + "  ".repeat(Math.min(open.length, MAX_INDENT))];
  for (let at = afterSpace(text, 0); at < text.length; at = afterSpace(text, at)) {
    const code = text.charCodeAt(at);
    if (code === OPEN || code === OPEN_OBJECT) {
      const close = afterSpace(text, at + 1);
      const isEmpty = text.charCodeAt(close) === CLOSE || text.charCodeAt(close) === CLOSE_OBJECT;
      if (isEmpty) {
        yield ["mark", text[at] + text[close]];
        at = close + 1;
        continue;
      }
      if (at >= flat) flat = after(text, at, SHORT);
      yield ["mark", text[at]];
      open.push(at < flat);
      if (!open.at(-1)) yield newLine();
      at++;
    } else if (code === CLOSE || code === CLOSE_OBJECT) {
      if (open.pop() === false) yield newLine();
      yield ["mark", text[at++]];
    } else if (code === COMMA) {
      yield ["mark", ","];
      yield open.at(-1) === false ? newLine() : ["space", " "];
      at++;
    } else if (code === QUOTE) {
      const end = afterString(text, at);
      const isName = text.charCodeAt(afterSpace(text, end)) === COLON;
      yield [isName ? "name" : "string", text.slice(at, end)];
      at = end;
    } else if (code === COLON) {
      yield ["mark", ": "];
      at++;
    } else {
      const end = afterScalar(text, at);
      yield ["scalar", text.slice(at, end)];
      at = end;
    }
  }
}
