"""Which runs there are: asked of the catalog, and of the run files when the catalog cannot answer.

For threads. Reading changes nothing on disk. The catalog is opened when it is first needed and anew after it
failed, so an index may be older than the catalog it reads and may outlive the daemon beside which it reads.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TypeVar

from car_trio.store.catalog import fold
from car_trio.store.catalog_reader import CatalogReader, decode_cursor, encode_cursor, open_reader, utc_time
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.retention import ended_before
from car_trio.store.survey import all_rows, find_run, summarize
from car_trio.wire.runs import CatalogRow, SearchRuns, rfc3339

LOG = logging.getLogger("car_trio.store")
T = TypeVar("T")
_Rows = list[CatalogRow]
_Paged = tuple[_Rows, str | None]


class RunIndex:
    """Finds, lists and searches runs. With `use_catalog=False` only the files are asked."""

    def __init__(self, layout: Layout, disk: Disk, *, use_catalog: bool = True) -> None:
        self._layout = layout
        self._disk = disk
        self._use_catalog = use_catalog
        self._reader: CatalogReader | None = None

    def find(self, run_id: str) -> CatalogRow | None:
        """The run with this id, whoever owns it."""
        return self._ask(lambda reader: reader.find(run_id), lambda: self._find_file(run_id))

    def search(self, ask: SearchRuns, newer: _Rows | None = None) -> _Paged:
        """The runs that match all that is asked, newest first, and the cursor of the next page. `newer` rows are laid
        over what is found, as by `list`."""
        found, next_cursor = self._searched(ask)
        if not newer:
            return found, next_cursor
        return overlaid(found, next_cursor, newer, matching(newer, ask), ask.cursor, ask.limit)

    def _searched(self, ask: SearchRuns) -> _Paged:

        def in_catalog(reader: CatalogReader) -> _Paged:
            found = reader.search(
                ask.query,
                agent_id=ask.agent_id,
                status=ask.status,
                outcome=ask.outcome,
                tool=ask.tool,
                since=ask.since,
                until=ask.until,
                cursor=ask.cursor,
                limit=ask.limit,
            )
            return found.rows, found.next_cursor

        def in_files() -> _Paged:
            rows = all_rows(self._disk, self._layout, ask.agent_id)
            return _page(matching(rows, ask), ask.cursor, ask.limit)

        return self._ask(in_catalog, in_files)

    def close(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()

    def list(
        self, agent_id: str, cursor: str | None = None, limit: int | None = None, newer: _Rows | None = None
    ) -> _Paged:
        """The runs of an agent, newest first, and the cursor of the next page. `newer` rows are laid over what is
        found: the caller knows them better, or before the catalog does."""
        found, next_cursor = self._listed(agent_id, cursor, limit)
        return overlaid(found, next_cursor, newer, newer, cursor, limit) if newer else (found, next_cursor)

    def _listed(self, agent_id: str, cursor: str | None, limit: int | None) -> _Paged:

        def in_catalog(reader: CatalogReader) -> _Paged:
            found = reader.list(agent_id, cursor, limit)
            return found.rows, found.next_cursor

        def in_files() -> _Paged:
            return _page(all_rows(self._disk, self._layout, agent_id), cursor, limit)

        return self._ask(in_catalog, in_files)

    def retention_candidates(self, now: datetime, max_per_agent: int, max_age_days: float) -> _Rows:
        """The rows among which `retention.expired` finds all that has to go: a superset, cheap to find."""
        cutoff = ended_before(now, max_age_days)
        return self._ask(
            lambda reader: reader.retention_candidates(
                max_per_agent, None if cutoff is None else rfc3339(cutoff)
            ),
            lambda: list(all_rows(self._disk, self._layout)),
        )

    def _ask(self, catalog: Callable[[CatalogReader], T], files: Callable[[], T]) -> T:
        reader = self._open()
        if reader is None:
            return files()
        try:
            return catalog(reader)
        except sqlite3.Error as error:
            LOG.warning("the catalog does not answer (%s): reading run files", error)
            self.close()
            return files()

    def _open(self) -> CatalogReader | None:
        if self._reader is None and self._use_catalog:
            self._reader = open_reader(self._layout, self._disk)
        return self._reader

    def _find_file(self, run_id: str) -> CatalogRow | None:
        ref = find_run(self._disk, self._layout, run_id)
        return None if ref is None else summarize(self._disk, self._layout, ref)


def matching(rows: Iterable[CatalogRow], ask: SearchRuns) -> _Rows:
    """Those of the rows that match all that is asked."""
    since = None if ask.since is None else utc_time("since", ask.since)
    until = None if ask.until is None else utc_time("until", ask.until)
    words = fold(ask.query or "").split()
    return [
        row
        for row in rows
        if ask.agent_id in (None, row.agent_id)
        and ask.status in (None, row.status)
        and ask.outcome in (None, row.outcome)
        and (ask.tool is None or ask.tool in row.tools)
        and (since is None or row.started_at >= since)
        and (until is None or row.started_at <= until)
        and _has_words(row, words)
    ]


def overlaid(
    found: _Rows, next_cursor: str | None, known: _Rows, wanted: _Rows, cursor: str | None, limit: int | None
) -> _Paged:
    """A page of the catalog with better known rows in it, those of them that are wanted: each where it belongs, none
    twice, none on two pages."""
    better = {row.run_id for row in known}
    rows = {row.run_id: row for row in found if row.run_id not in better}
    after = None if cursor is None else decode_cursor(cursor)
    last = _place(found[-1]) if next_cursor is not None else None
    for row in wanted:
        if (after is None or _place(row) < after) and (last is None or _place(row) >= last):
            rows[row.run_id] = row
    return _cut(sorted(rows.values(), key=_place, reverse=True), limit, next_cursor)


def _place(row: CatalogRow) -> tuple[str, str]:
    return (row.started_at, row.run_id)


def _cut(rows: _Rows, limit: int | None, next_cursor: str | None) -> _Paged:
    if limit is None or len(rows) <= limit:
        return rows, next_cursor
    return rows[:limit], encode_cursor(rows[limit - 1]) if limit else None


def _has_words(row: CatalogRow, words: list[str]) -> bool:
    text = fold(" ".join((row.intent, row.outcome_description or "", row.summary, *row.tools)))
    return all(f" {word}" in text for word in words)


def _page(found: Iterable[CatalogRow], cursor: str | None, limit: int | None) -> _Paged:
    rows = sorted(found, key=_place, reverse=True)
    if cursor is not None:
        after = decode_cursor(cursor)
        rows = [row for row in rows if _place(row) < after]
    return _cut(rows, limit, None)
