"""The event logs on disk, one file for each connection: asked, and removed when they are old. Blocks, for a thread."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Raw

from car_trio.store.catalog_reader import utc_time
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.log_files import lines
from car_trio.store.retention import When
from car_trio.wire.events import Event, EventsFound, QueryEvents

LOG = logging.getLogger("car_trio.store")
DIRECTORY = "journals"
MAX_EVENTS = 10_000

_decode = msgspec.json.Decoder(Event).decode
_sorted = msgspec.json.Encoder(order="sorted").encode


def journal_file(client_id: str) -> str:
    return f"{DIRECTORY}/{client_id}.jsonl"


def query(disk: Disk, layout: Layout, client_id: str, ask: QueryEvents) -> EventsFound:
    """The events that match, newest first, at most `limit` and at most 10,000. Raises Refusal (-32602) for a time that
    is none."""
    wanted = _Wanted(ask)
    found: deque[Raw] = deque(maxlen=min(ask.limit or MAX_EVENTS, MAX_EVENTS))
    for line in lines(disk, layout, journal_file(client_id)):
        if wanted.has(line):
            found.appendleft(Raw(line))
    return EventsFound(len(found), list(found))


def drop_journals(
    disk: Disk, layout: Layout, live: Collection[str], cutoff: datetime, when: When = lambda moment: moment
) -> int:
    """Removes the files that nobody has written to since, and whose connection is gone; returns how many."""
    directory = layout.root / DIRECTORY
    try:
        entries = disk.entries(directory)
    except FileNotFoundError:
        return 0
    except OSError as error:
        LOG.error("%s cannot be read: %s; what is old in it stays", directory, error.strerror)
        return 0
    old = [
        name
        for name, found in entries
        if found.regular
        and when(datetime.fromtimestamp(found.mtime_ns / 1e9, UTC)) < cutoff
        and re.split(r"[~.]", name)[0] not in live
    ]
    for name in old:
        with suppress(FileNotFoundError):
            disk.unlink(directory / name)
    return len(old)


class _Wanted:
    def __init__(self, ask: QueryEvents) -> None:
        self._ask = ask
        self._since = None if ask.since is None else utc_time("since", ask.since)
        self._until = None if ask.until is None else utc_time("until", ask.until)
        self._data = {key: _sorted(msgspec.json.decode(raw)) for key, raw in (ask.data_matches or {}).items()}

    def has(self, line: bytes) -> bool:
        try:
            event = _decode(line)
        except msgspec.MsgspecError:
            return False
        ask = self._ask
        return (
            (ask.kinds is None or event.kind in ask.kinds)
            and ask.action_id in (None, event.action_id)
            and ask.proposal_id in (None, event.proposal_id)
            and (self._since is None or event.timestamp >= self._since)
            and (self._until is None or event.timestamp <= self._until)
            and self._data_matches(event.data)
        )

    def _data_matches(self, data: dict[str, Any]) -> bool:
        return all(key in data and _sorted(data[key]) == wanted for key, wanted in self._data.items())
