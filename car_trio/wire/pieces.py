"""Large JSON, taken in pieces: no single call of a decoder takes longer than one piece does.

One decoding call holds the interpreter from its first byte to its last, in whatever thread it runs, and for a
document of very many small parts that is long enough for everybody to notice. So a large document is cut at commas
outside of strings, about every 16 KiB, wherever in its nesting these are. A piece becomes a document of its own when
the brackets that are open where it begins are put in front of it and those open at its end are closed behind it.
What is decoded so is grown together again along the containers that were open at the cut.

What has been decoded is let go of in one call too, whatever it was made in. So whoever decodes a document bounds how
many lists and objects it may hold (`most_containers`): they are counted before they are made.

Everything here relies on a document that has passed a decoder's grammar before, as each `msgspec.Raw` of a message
has: brackets match, strings end, escapes are whole. `Raw` leaves two things open, and only these are still looked
for: numbers that no reader takes, and how deep the document nests.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Generator, Iterator
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeGuard, TypeVar

import msgspec

T = TypeVar("T")

PIECE_BYTES = 16 * 1024

FEW_CONTAINERS: Final = 400_000
BYTES_A_CONTAINER: Final = 10
"""Letting go of 400,000 lists and objects takes 20 to 30 ms where they nest deep, which is the worst."""

MAX_MEMBERS: Final = 100_000
"""Of one object that is decoded: checking it against a type and sorting its keys are single calls too."""

_BRACKETS: Final = b"[]{}"
_NO_BRACKETS: Final = bytes(set(range(256)) - set(_BRACKETS))
_UP_OR_DOWN: Final = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_NO_MARKS: Final = bytes(set(range(256)) - set(_BRACKETS) - {ord(",")})
_MARKS: Final = {**_UP_OR_DOWN, ord(","): 0}
_CLOSED: Final = bytes.maketrans(b"[{", b"]}")
_COMMA_OR_QUOTE: Final = re.compile(rb'[,"]')
_LIST: Final = ord("[")
_BACKSLASH: Final = ord("\\")


class TooDeep(ValueError):  # noqa: N818 - says what the document is
    """It nests deeper than allowed."""


class TooMany(ValueError):  # noqa: N818 - says what the document is
    """It holds more lists and objects, or members of one object, than allowed."""


class Repeated(ValueError):  # noqa: N818 - says what the document is
    """A key stands twice in one object of it."""


class Piece(NamedTuple):
    """What stands between two cuts. `before` and `after` are the brackets open at its ends, outermost first."""

    text: bytes
    before: bytes
    after: bytes
    kept: int
    """How many of the brackets in `before` are still open at the end, and so in all of it."""
    opened: int
    """How many lists and objects begin in it."""


def is_list(value: object) -> TypeGuard[list[Any]]:
    return isinstance(value, list)


def is_object(value: object) -> TypeGuard[dict[str, Any]]:
    return isinstance(value, dict)


def plain_quotes(text: bytes) -> bytes:
    """Text of the same length in which every quote begins or ends a string. It begins at no escape's middle."""
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__") if b"\\" in text else text


def block(document: bytes, at: int, size: int) -> bytes:
    """So many bytes from `at`, or one more where they would end in the middle of an escape; quotes as above."""
    text = document[at : at + size]
    if (len(text) - len(text.rstrip(b"\\"))) % 2:
        text = document[at : at + size + 1]
    return plain_quotes(text)


def outside_of_strings(text: bytes) -> bytes:
    """What is no string, of text that begins outside of one. A string may be long: it is taken in blocks."""
    outside: list[bytes] = []
    at, inside = 0, 0
    while at < len(text):
        part = block(text, at, PIECE_BYTES)
        at += len(part)
        parts = part.split(b'"')
        outside += parts[inside::2]
        inside ^= (len(parts) - 1) % 2
    return b"".join(outside)


def most_containers(size: int) -> int:
    """How many lists and objects a document of so many bytes may hold, if it is to be decoded."""
    return max(FEW_CONTAINERS, size // BYTES_A_CONTAINER)


def pieces(document: bytes, room: int, most: int = sys.maxsize) -> Iterator[Piece]:
    """The document in pieces. Raises `TooDeep` when it nests more than `room` deep, and `TooMany` when it holds more
    than `most` lists and objects."""
    at, before, opened = 0, b"", 0
    while at < len(document):
        end = _cut(document, at)
        piece = _piece(document[at:end], before, room)
        opened += piece.opened
        if opened > most:
            raise TooMany(f"holds more than {most} lists and objects")
        yield piece
        at, before = end + 1, piece.after


def _cut(document: bytes, at: int) -> int:
    """Where the piece from `at` ends: at a comma, or with the document."""
    first = block(document, at, PIECE_BYTES)
    end = at + len(first)
    if first.count(b'"') % 2:
        end = _end_of_string(document, end)
    while (found := _COMMA_OR_QUOTE.search(document, end)) is not None:
        if found[0] == b",":
            return found.start()
        end = _end_of_string(document, found.end())
    return len(document)


def _end_of_string(document: bytes, at: int) -> int:
    """The place behind the string that `at` is in, and at no escape's middle."""
    while True:
        end = at + PIECE_BYTES
        quote = document.find(b'"', at, end)
        if quote < 0 and document[end - 1] != _BACKSLASH:
            at = end
        elif quote > at and document[quote - 1] != _BACKSLASH:
            return quote + 1
        else:
            part = block(document, at, PIECE_BYTES)
            if (found := part.find(b'"')) >= 0:
                return at + found + 1
            at += len(part)


def _piece(text: bytes, before: bytes, room: int) -> Piece:
    brackets = outside_of_strings(text).translate(None, _NO_BRACKETS)
    depths = list(accumulate(map(_UP_OR_DOWN.__getitem__, brackets), initial=len(before)))
    if max(depths) > room:
        raise TooDeep(f"nests more than {room} deep")
    kept = min(depths)
    after = before[:kept] + _unclosed(brackets, depths, kept)
    return Piece(text, before, after, kept, (len(brackets) + len(after) - len(before)) // 2)


def _unclosed(brackets: bytes, depths: list[int], kept: int) -> bytes:
    """The opening brackets that have no partner. Each stands where its depth was left for the last time."""
    backwards = depths[::-1]
    found = bytearray()
    at = 0
    for depth in range(depths[-1] - 1, kept - 1, -1):
        at = backwards.index(depth, at)
        found.append(brackets[-at])
    return bytes(found[::-1])


def longer_than(document: bytes, most: int) -> Generator[None, None, bool]:
    """Whether a list or an object has more than so many members. Stops at the first piece that shows it."""
    if document.count(b",") < most:
        return False
    commas = 0
    for piece in pieces(document, sys.maxsize):
        commas += _outermost_commas(piece)
        if commas >= most:
            return True
        yield
    return False


def _outermost_commas(piece: Piece) -> int:
    """How many commas stand directly in the document's own brackets, with the one that the piece ends at."""
    if piece.kept > 1:
        return 0
    marks = outside_of_strings(piece.text).translate(None, _NO_MARKS)
    depths = list(accumulate(map(_MARKS.__getitem__, marks), initial=len(piece.before)))
    within = sum(depths[comma.start()] == 1 for comma in re.finditer(b",", marks))
    return within + (len(piece.after) == 1)


def _whole(piece: Piece, key: bytes, mark: bytes) -> bytes:
    """A piece as a document: `key` stands for each that came in an earlier piece, `mark` follows the last item."""
    named = b'{"%b":' % key
    front = b"".join(b"[" if each == _LIST else named for each in piece.before[:-1]) + piece.before[-1:]
    return b"%b%b%b%b" % (front, piece.text, mark, piece.after.translate(_CLOSED)[::-1])


def _read(document: bytes) -> Any:
    """Its value. What is said against a number leaves out where in the piece it stands: that would mislead."""
    try:
        return msgspec.json.decode(document)
    except msgspec.ValidationError as error:
        raise msgspec.ValidationError(str(error).partition(" - at ")[0]) from None


class _Growing:
    """A value while it grows. `spine` are the containers that are open, the value itself first.

    `left` stands for a key that came in an earlier piece, `right` marks the container that is open at the end of a
    piece. Nobody can have guessed either.
    """

    def __init__(self, *, unique: bool) -> None:
        self.value: Any = None
        self._unique = unique
        self._spine: list[Any] = []
        self._left = secrets.token_hex(16)
        self._right = secrets.token_hex(16)

    def add(self, piece: Piece) -> None:
        decoded = self._decoded(piece)
        ours = list(self._continued(decoded))
        opened = self._open_end(
            ours[piece.kept - 1] if ours else decoded, len(piece.after) - max(piece.kept, 1)
        )
        if piece.after:
            _ = opened[-1].pop() if is_list(opened[-1]) else opened[-1].pop(self._right)
        for depth, (holder, more) in enumerate(zip(self._spine, ours, strict=True)):
            self._join(holder, more, is_innermost=depth == len(ours) - 1)
        if not ours:
            self.value = decoded
            self._spine = opened
        else:
            self._spine[piece.kept :] = opened[1:]

    def _decoded(self, piece: Piece) -> Any:
        mark = b""
        if piece.after:
            mark = (b',"%b"' if piece.after[-1] == _LIST else b',"%b":0') % self._right.encode()
        document = _whole(piece, self._left.encode(), mark)
        decoded = _read(document)
        if self._unique and _keys(document) != _keys(msgspec.json.encode(decoded)):
            raise Repeated
        return decoded

    def _continued(self, decoded: Any) -> Iterator[Any]:
        """The containers of a piece that go on with those of the spine."""
        for depth in range(len(self._spine)):
            yield decoded
            if depth < len(self._spine) - 1:
                decoded = decoded[0] if is_list(decoded) else decoded[self._left]

    def _open_end(self, outermost: Any, depth: int) -> list[Any]:
        """The containers from this one down to the one with the mark; nothing when there is no mark."""
        if depth < 0:
            return []
        if depth == 0:
            last = outermost[-1:] == [self._right] if is_list(outermost) else self._right in outermost
            return [outermost] if last else []
        # Of an object whose keys repeat, the one that is open need not stand last.
        inner = outermost[-1:] if is_list(outermost) else reversed(outermost.values())
        for each in inner:
            if (is_list(each) or is_object(each)) and (found := self._open_end(each, depth - 1)):
                return [outermost, *found]
        return []

    def _join(self, holder: Any, more: Any, *, is_innermost: bool) -> None:
        if is_list(holder):
            holder.extend(more if is_innermost else more[1:])
            return
        if not is_innermost:
            del more[self._left]
        if self._unique and not holder.keys().isdisjoint(more):
            raise Repeated
        holder.update(more)
        if len(holder) > MAX_MEMBERS:
            raise TooMany(f"holds an object of more than {MAX_MEMBERS} members")


def _keys(document: bytes) -> int:
    return outside_of_strings(document).count(b":")


def decoded_in_steps(
    document: bytes, room: int, most: int = sys.maxsize, *, unique: bool = False
) -> Generator[None, None, Any]:
    """The document's value; between two steps others may have their turn.

    Raises `TooDeep` when it nests more than `room` deep, `TooMany` when it holds more than `most` lists and objects or
    `MAX_MEMBERS` in one object, `msgspec.ValidationError` for a number that cannot be read, and `Repeated`, if keys
    have to be `unique`.
    """
    if document.count(b"[") + document.count(b"{") > most:
        # Perhaps too many, or some of them stand in strings. Nothing is made before that is known: what is made has to
        # be let go of.
        for _ in pieces(document, room, most):
            yield
    growing = _Growing(unique=unique)
    for piece in pieces(document, room):
        growing.add(piece)
        yield
    return growing.value


_SHAPES: Final = bytes(
    {**dict.fromkeys(b"0123456789", ord("0")), **dict.fromkeys(b"eE", ord("e")), ord("+"): ord("+")}.get(
        byte, ord(" ")
    )
    for byte in range(256)
)
_EXTREMES: Final = (b"0e000", b"0e+000", b"0" * 200)
"""Every number that is too large to be read has one of these in it, digits shown as 0; so have others, and strings.
What no number has in it is shown as a space: searching is slow among bytes that resemble the ones that are sought."""


def may_be_unreadable(text: bytes) -> bool:
    """Whether there may be a number in it that cannot be read. Much faster than decoding."""
    shapes = text.translate(_SHAPES)
    return any(extreme in shapes for extreme in _EXTREMES)


def read_in_steps(
    document: bytes, room: int = sys.maxsize, most: int = sys.maxsize
) -> Generator[None, None, None]:
    """Makes sure that a reader can decode it. Raises as `decoded_in_steps` does."""
    for piece in pieces(document, room, most):
        if may_be_unreadable(piece.text):
            _read(_whole(piece, b"", b""))
        yield


def opened(value: Any) -> Any:
    """A value that is kept as JSON where it is large, decoded. In a thread others go on meanwhile."""
    return at_once(decoded_in_steps(bytes(value), sys.maxsize)) if value.__class__ is msgspec.Raw else value


def at_once(steps: Generator[None, None, T]) -> T:
    """What the steps return. Between two of them other threads may have the interpreter."""
    try:
        while True:
            next(steps)
    except StopIteration as done:
        value: T = done.value
        return value
