"""Reading a run's files: plain functions that block, for a thread (protocol `runs.md` sections 1 and 3).

What is on disk is returned byte for byte. A line that is no record becomes a `damaged` record in its place
and the others are read; what follows the last newline is torn, no error, and reported by its size. A run that
was continued in further files (`appending.py`) reads as one: each file counts up to where the next one says,
and the first lines that say so are never shown.

Reading is paged by `Position`, so that nothing is read twice. A position survives a continuation: what was
written anew stands at the beginning of the next file, byte for byte, so a reader who is already past the cut
goes on as many bytes into the next file as he was past it."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import msgspec

from car_trio.store.appending import SegmentHeader
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.wire.runs import Damaged, RunRef

MAX_PAGE_BYTES = 8 << 20
_CHUNK = 256 << 10
_HEADER_BYTES = 4096


class Position(NamedTuple):
    """A place between two records: how many come before it, and where it is in which file."""

    record: int = 0
    segment: int = 0
    offset: int = 0
    line: int = 0
    """Lines of this file before it."""


START = Position()


class Record(NamedTuple):
    """A record's tag, its bytes as they are on disk (without the newline), and the place after it."""

    kind: str
    raw: bytes
    after: Position


class Page(NamedTuple):
    """Some records in order. `position` is where the next page begins; `at_end` when there is nothing more
    now."""

    records: list[Record]
    position: Position
    torn_bytes: int
    at_end: bool


class _Tag(msgspec.Struct):
    record: str


class _Beginning(NamedTuple):
    """How a continuation begins: what counts of the file before (None: unknown, all of it) and where its own
    records begin."""

    previous_bytes: int | None
    place: Position


_TAG = msgspec.json.Decoder(_Tag)
_HEADER = msgspec.json.Decoder(SegmentHeader)


def read_page(
    disk: Disk,
    layout: Layout,
    ref: RunRef,
    position: Position = START,
    *,
    until: int | None = None,
    max_bytes: int = MAX_PAGE_BYTES,
    max_records: int | None = None,
) -> Page:
    """The records from `position`, at least one if there is one, none beyond `until` records of the whole
    run.

    `FileNotFoundError` when there is no such run, another `OSError` when its files cannot be read or are no
    files."""
    records: list[Record] = []
    size = 0
    with _reading(disk, layout, ref) as reading:
        for record in reading.records(position):
            full = len(records) == max_records or (records and size + len(record.raw) > max_bytes)
            if full or (until is not None and position.record >= until):
                return Page(records, position, 0, at_end=not full)
            records.append(record)
            size += len(record.raw)
            position = record.after
        return Page(records, reading.position, reading.torn_bytes, at_end=True)


def read_records(disk: Disk, layout: Layout, ref: RunRef) -> Iterator[Record]:
    """All records of a run, one after the other. Raises as `read_page`."""
    with _reading(disk, layout, ref) as reading:
        yield from reading.records(START)


def kind_of(line: bytes) -> str | None:
    """The tag of a record; None for a line that is none, and for one that nests deeper than can be read."""
    try:
        line.decode()  # a payload is passed on as it is, and its own UTF-8 is not looked at below
        return _TAG.decode(line).record
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None


@contextmanager
def _reading(disk: Disk, layout: Layout, ref: RunRef) -> Generator[_Reading]:
    reading = _Reading(disk, layout, ref)
    try:
        yield reading
    finally:
        reading.close()


class _Reading:
    """One pass over a run's files."""

    def __init__(self, disk: Disk, layout: Layout, ref: RunRef) -> None:
        self._disk = disk
        self._layout = layout
        self._ref = ref
        self._descriptor: int | None = None
        self.position = START
        self.torn_bytes = 0

    def records(self, position: Position) -> Iterator[Record]:
        """Every whole record from here on; afterwards `position` and `torn_bytes` tell how it ended."""
        self.position = position
        self._open(position.segment)
        while True:
            following = self._beginning(self.position.segment + 1)
            limit = self._size() if following is None else self._limit(following)
            yield from self._segment(limit)
            if following is None:
                self.torn_bytes += max(0, limit - self.position.offset)
                return
            self._go_on(following, limit)

    def close(self) -> None:
        if self._descriptor is not None:
            self._disk.close(self._descriptor)
            self._descriptor = None

    def _open(self, segment: int) -> int:
        descriptor = self._disk.open_read(self._layout.run_file(self._ref, segment))
        self.close()
        self._descriptor = descriptor
        return descriptor

    def _size(self) -> int:
        assert self._descriptor is not None
        return self._disk.fstat(self._descriptor).size

    def _limit(self, following: _Beginning) -> int:
        size = self._size()
        return size if following.previous_bytes is None else min(size, following.previous_bytes)

    def _segment(self, limit: int) -> Iterator[Record]:
        """The whole lines of the open file up to `limit`."""
        pending = b""
        offset = self.position.offset
        while offset < limit:
            chunk = self._read(min(_CHUNK, limit - offset), offset)
            if not chunk:
                return
            offset += len(chunk)
            first, newline, rest = chunk.partition(b"\n")
            pending += first
            if newline:
                *lines, tail = rest.split(b"\n")
                for line in (pending, *lines):
                    yield self._record(line)
                pending = tail

    def _read(self, count: int, offset: int) -> bytes:
        assert self._descriptor is not None
        return self._disk.pread(self._descriptor, count, offset)

    def _record(self, line: bytes) -> Record:
        record, segment, offset, number = self.position
        self.position = Position(record + 1, segment, offset + len(line) + 1, number + 1)
        kind = kind_of(line)
        if kind is None:
            kind, line = "damaged", msgspec.json.encode(Damaged(number + 1, segment))
        return Record(kind, line, self.position)

    def _go_on(self, following: _Beginning, limit: int) -> None:
        """Move to the next file; whoever was past the cut goes as far into it."""
        past = max(0, self.position.offset - limit)
        _, segment, offset, line = following.place
        self._open(segment)
        while past > 0 and (chunk := self._read(min(_CHUNK, past), offset)):
            past -= len(chunk)
            offset += len(chunk)
            line += chunk.count(b"\n")
        self.position = Position(self.position.record, segment, offset, line)

    def _beginning(self, segment: int) -> _Beginning | None:
        """How the next file begins; None when there is none or it has no whole line yet."""
        try:
            descriptor = self._disk.open_read(self._layout.run_file(self._ref, segment))
        except FileNotFoundError:
            return None
        try:
            size = self._disk.fstat(descriptor).size
            first, newline, _ = self._disk.pread(descriptor, _HEADER_BYTES, 0).partition(b"\n")
        finally:
            self._disk.close(descriptor)
        if not newline and size <= _HEADER_BYTES:
            self.torn_bytes += size
            return None
        try:
            header = _HEADER.decode(first)
        except (msgspec.DecodeError, RecursionError):
            # Damaged: then nothing says where the file before ends, and its lines are all shown, this one
            # among them.
            return _Beginning(None, Position(0, segment))
        return _Beginning(header.previous_bytes, Position(0, segment, len(first) + 1, 1))
