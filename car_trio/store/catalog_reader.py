"""The catalog's reading side: lists, searches and look-ups, from any thread, beside the writer or without
one.

Reading changes nothing on disk. Beside a running daemon the catalog is opened `mode=ro`. Without one it is
opened `immutable=1`, which is only sound when nobody can write and nothing waits in a `-wal`: when the lock
is free, no `-wal` exists and the mark of the clean stop fits. In every other case there is no reader, and
callers read the run files. `sqlite3.Error` out of any method means the same: read the files."""

from __future__ import annotations

import re
import sqlite3
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import quote

import msgspec

from car_trio.store.catalog import (
    CACHE_KIB,
    COLUMNS,
    catalog_files,
    clean_stop,
    decode_row,
    fold,
    note_of,
    schema_is_ours,
)
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.lock import lock_is_held
from car_trio.wire.errors import invalid_params
from car_trio.wire.runs import CatalogRow, rfc3339

_Conditions = list[str]
_Values = list[Any]
_Rows = list[CatalogRow]


@dataclass(slots=True)
class Listing:
    """Some runs, newest first, and where the next page begins."""

    rows: list[CatalogRow]
    next_cursor: str | None


class CatalogReader:
    """Read-only connections, one per call that runs at the same time."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._resting: SimpleQueue[sqlite3.Connection] = SimpleQueue()
        with self._connection() as connection:
            if not schema_is_ours(connection):
                raise sqlite3.DatabaseError("another schema version")
            self.stop = note_of(connection, "stop")
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'words'").fetchone()
            self._full_text = found is not None
            self._complete = note_of(connection, "complete") is not None

    def find(self, run_id: str) -> CatalogRow | None:
        """The run with this id."""
        rows = self._rows("WHERE run_id = ? LIMIT 1", [run_id])
        return rows[0] if rows else None

    def open_runs(self) -> list[CatalogRow]:
        """The runs without an end."""
        return self._rows("WHERE ended_at IS NULL", [])

    def retention_candidates(self, max_per_agent: int, ended_before: str | None) -> list[CatalogRow]:
        """Every ended run of agents that have more than `max_per_agent` of them, and every one that ended too
        long ago.

        A superset of what has to go, cheap to find; `retention.expired` decides. `max_per_agent` <= 0 and
        None mean no limit."""
        conditions, values = ["0"], list[Any]()
        if max_per_agent > 0:
            conditions.append(
                "agent_id IN (SELECT agent_id FROM runs WHERE ended_at IS NOT NULL GROUP BY agent_id "
                "HAVING count(*) > ?)"
            )
            values.append(max_per_agent)
        if ended_before is not None:
            conditions.append("ended_at < ?")
            values.append(ended_before)
        return self._rows(f"WHERE ended_at IS NOT NULL AND ({' OR '.join(conditions)})", values)

    def search(
        self,
        query: str | None = None,
        *,
        agent_id: str | None = None,
        status: str | None = None,
        outcome: str | None = None,
        tool: str | None = None,
        since: str | None = None,
        until: str | None = None,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> Listing:
        """Runs that match everything given. `query`: every word, case-folded, as the beginning of a word in
        the intent, outcome description, summary or tool names; `tool` is any turn's; times bound
        `started_at`."""
        conditions, values = list[str](), list[Any]()
        for column, wanted in (("agent_id", agent_id), ("status", status), ("outcome", outcome)):
            if wanted is not None:
                conditions.append(f"{column} = ?")
                values.append(wanted)
        for field, comparison, bound in (("since", ">=", since), ("until", "<=", until)):
            if bound is not None:
                conditions.append(f"started_at {comparison} ?")
                values.append(utc_time(field, bound))
        if tool is not None:
            conditions.append("EXISTS (SELECT 1 FROM json_each(tools) WHERE value = ?)")
            values.append(tool)
        for condition, value in self._word_conditions(query or ""):
            conditions.append(condition)
            values.append(value)
        return self._page(conditions, values, cursor, limit)

    def list(self, agent_id: str, after: str | None = None, limit: int | None = None) -> Listing:
        """The runs of an agent; `after` is the cursor of the page before."""
        return self._page(["agent_id = ?"], [agent_id], after, limit)

    def close(self) -> None:
        with suppress(Empty):
            while True:
                self._resting.get_nowait().close()

    def _word_conditions(self, query: str) -> Iterator[tuple[str, str]]:
        words = re.findall(r"\w+", fold(query))
        if not words:
            return
        if self._full_text:
            match = " ".join(f'"{word}"*' for word in words)
            yield "id IN (SELECT rowid FROM words WHERE words MATCH ?)", match
            return
        for word in words:
            yield "folded LIKE ?", f"% {word}%"

    def _page(
        self, conditions: _Conditions, values: _Values, cursor: str | None, limit: int | None
    ) -> Listing:
        if cursor is not None:
            started_at, run_id = decode_cursor(cursor)
            conditions.append("started_at <= ? AND (started_at < ? OR run_id < ?)")
            values += [started_at, started_at, run_id]
        where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
        # One more than wanted tells whether there is a next page; -1 is SQLite's word for all.
        values.append(-1 if limit is None else limit + 1)
        rows = self._rows(f"{where}ORDER BY started_at DESC, run_id DESC LIMIT ?", values)
        if limit is None or len(rows) <= limit:
            return Listing(rows, None)
        return Listing(rows[:limit], encode_cursor(rows[limit - 1]) if limit else cursor)

    def _rows(self, rest: str, values: _Values) -> _Rows:
        with self._connection() as connection:
            self._complete = self._complete or note_of(connection, "complete") is not None
            if not self._complete:
                raise sqlite3.DatabaseError("the catalog is being made anew")
            found = connection.execute(f"SELECT {COLUMNS} FROM runs {rest}", values)  # noqa: S608 - values are bound
            return [decode_row(row) for row in found]

    @contextmanager
    def _connection(self) -> Generator[sqlite3.Connection]:
        try:
            connection = self._resting.get_nowait()
        except Empty:
            connection = sqlite3.connect(self._uri, uri=True, isolation_level=None, check_same_thread=False)
            connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._resting.put(connection)


def open_reader(layout: Layout, disk: Disk) -> CatalogReader | None:
    """A reader, or None when the run files have to be read instead."""
    try:
        beside = lock_is_held(layout)
        if not beside and any(path.exists() for path in catalog_files(layout)[1:2]):
            return None
        if not disk.stat(layout.catalog).regular:
            return None
        mode = "mode=ro" if beside else "immutable=1"
        reader = CatalogReader(f"file:{quote(str(layout.catalog))}?{mode}")
    except (OSError, sqlite3.Error):
        return None
    if not beside and (reader.stop is None or reader.stop != clean_stop(disk, layout)):
        reader.close()
        return None
    return reader


def encode_cursor(row: CatalogRow) -> str:
    """Where the page after this row begins."""
    return urlsafe_b64encode(msgspec.json.encode((row.started_at, row.run_id))).decode().rstrip("=")


def decode_cursor(cursor: str) -> tuple[str, str]:
    """Start time and id of the last row of the page before; a `Refusal` (-32602) when it is no cursor of
    ours."""
    try:
        raw = urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        return msgspec.json.decode(raw, type=tuple[str, str])
    except (ValueError, msgspec.DecodeError):
        raise invalid_params(
            f"cursor {cursor[:80]!a} is none of ours: expected next_cursor of a page"
        ) from None


def utc_time(field: str, text: str) -> str:
    """A time as the catalog compares it; a `Refusal` (-32602) when it is none."""
    try:
        moment = datetime.fromisoformat(text)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise invalid_params(f"{field} must be an RFC 3339 time, not {text[:40]!a}") from None
    return rfc3339(moment)
