"""Reading runs back for a reply: plain functions that block, for a thread.

They return encoded JSON, so that a large reply is neither built nor encoded on the loop. What a live run may show is
bounded by `until`, its durable records at the moment that the caller decided: a line that is in the file but not yet
true is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Raw

from car_trio.methods.context import Store
from car_trio.store.reader import START, Position, Record
from car_trio.wire.frames import encode
from car_trio.wire.runs import (
    CatalogRow,
    GetTrace,
    ListRuns,
    NotFound,
    RunList,
    RunRef,
    RunsFound,
    SearchRuns,
    TornTail,
    Trace,
)

MAX_TRACE_BYTES = 30_000_000
MAX_SNAPSHOT_BYTES = 8 * 1024 * 1024
PAGE_BYTES = 1024 * 1024


def is_turn(record: Record, index: int) -> bool:
    """Whether a record at this place of the stream counts as a turn; a line that cannot be read stands for one."""
    return record.kind == "turn" or (record.kind == "damaged" and index > 0)


class _Reading:
    """A run's records in order, a page at a time, with what the last page said about the file's tail."""

    def __init__(self, store: Store, ref: RunRef, until: int | None) -> None:
        self._store = store
        self._ref = ref
        self._until = until
        self.torn_bytes = 0

    def __iter__(self) -> Iterator[tuple[int, Position, Record]]:
        """Each record with its index and the position after it."""
        position = START
        while True:
            page = self._store.read_page(
                self._ref, position, until=self._until, max_bytes=PAGE_BYTES, max_records=None
            )
            self.torn_bytes = page.torn_bytes
            for i, record in enumerate(page.records):
                yield position.record + i, record.after, record
            if page.at_end:
                return
            position = page.position


def trace(store: Store, ref: RunRef, ask: GetTrace, until: int | None) -> Raw:
    """`runs.get_trace`: the records from `cursor`, as many as `limit` and 30 MB allow."""
    reading = _Reading(store, ref, until)
    records: list[Raw] = []
    size = 0
    next_cursor: int | None = None
    try:
        for index, _, record in reading:
            if index < ask.cursor:
                continue
            size += len(record.raw)
            if len(records) == ask.limit or (size > MAX_TRACE_BYTES and records):
                next_cursor = index
                break
            records.append(Raw(record.raw))
    except FileNotFoundError:
        return Raw(encode(NotFound(ref.run_id)))
    # A live run's tail is being written; of any other, what was torn stays told after it was moved aside.
    torn = reading.torn_bytes + store.torn_bytes(ref) if until is None else 0
    whole = Trace(
        ref.run_id, ref.agent_id, records, ask.cursor, next_cursor, TornTail(torn) if torn else None
    )
    return Raw(encode(whole))


class TurnsSoFar(NamedTuple):
    turns: list[Raw]
    cursor: int
    position: Position


def snapshot(
    store: Store, ref: RunRef, from_cursor: int, durable_turns: int, until: int | None
) -> TurnsSoFar:
    """The turns from `from_cursor` up to the durable cursor, at most 8 MiB; `cursor` is where they end.

    Raises `FileNotFoundError` when the run was removed meanwhile.
    """
    turns: list[Raw] = []
    seen = size = 0
    last = START
    for index, after, record in _Reading(store, ref, until):
        if is_turn(record, index):
            if seen == durable_turns or (size + len(record.raw) > MAX_SNAPSHOT_BYTES and turns):
                break
            if seen >= from_cursor:
                turns.append(Raw(record.raw))
                size += len(record.raw)
            seen += 1
        elif record.kind == "ended":
            break
        last = after
    return TurnsSoFar(turns, seen, last)


def listing(store: Store, newer: list[CatalogRow], ask: ListRuns) -> Raw:
    """`runs.list`: the catalog's page, with what the registry knows better laid over it."""
    rows, next_cursor = store.list_runs(ask.agent_id, ask.cursor, ask.limit, newer)
    return Raw(encode(RunList(ask.agent_id, [row.in_list() for row in rows], next_cursor)))


def found(store: Store, newer: list[CatalogRow], ask: SearchRuns) -> Raw:
    """`runs.search`: what the catalog finds, with what the registry knows better laid over it."""
    rows, next_cursor = store.search(ask, newer)
    return Raw(encode(RunsFound([row.in_list() for row in rows], next_cursor)))
