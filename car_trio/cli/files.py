"""The run files as commands read them: without the daemon, without a token, beside a daemon or without one."""

from __future__ import annotations

import os.path
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from car_trio.cli.app import USAGE
from car_trio.cli.failures import FailedError, no_such
from car_trio.config import environment, state_root
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout
from car_trio.store.reader import START, Page, Position, Record, read_page
from car_trio.store.run_index import RunIndex
from car_trio.store.survey import agents, find_run, ref_of, summarize, survey
from car_trio.wire.runs import CatalogRow, RunRef, SearchRuns, rfc3339

PAGE_RECORDS = 200
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class Files:
    """The runs under a state root. Whatever is read raises `OSError` when a file that is there cannot be.

    Raises FailedError for a root that is no directory and cannot become one."""

    def __init__(self, home: str | None) -> None:
        self.root = state_root(environment(), home)
        _refuse_file(self.root)
        self.layout = Layout(self.root)
        self.disk = Disk()
        self.index = RunIndex(self.layout, self.disk)

    def row(self, name: str) -> CatalogRow:
        """The run with this id, or the only one whose id begins so. Otherwise the answer is no."""
        ref = self.ref(name)
        try:
            return self.fresh(self.index.find(ref.run_id) or summarize(self.disk, self.layout, ref))
        except FileNotFoundError:
            raise no_such("run", name, ()) from None

    def ref(self, name: str) -> RunRef:
        """As `row`, without reading the run."""
        return self._exactly(name) or self._by_beginning(name)

    def fresh(self, row: CatalogRow) -> CatalogRow:
        """The catalog counts at the start and the end of a run: in between its file is asked."""
        if row.ended_at is not None:
            return row
        try:
            return summarize(self.disk, self.layout, ref_of(row))
        except FileNotFoundError:
            return row

    def search(self, ask: SearchRuns) -> Iterator[CatalogRow]:
        """The runs that match, newest first, page after page."""
        while True:
            rows, cursor = self.index.search(ask)
            yield from rows
            if cursor is None:
                return
            ask.cursor = cursor

    def page(self, ref: RunRef, position: Position = START, *, max_records: int = PAGE_RECORDS) -> Page:
        return read_page(self.disk, self.layout, ref, position, max_records=max_records)

    def records(self, ref: RunRef) -> Iterator[Record]:
        """Every record of a run, read page by page."""
        position = START
        while True:
            page = self.page(ref, position)
            yield from page.records
            if page.at_end:
                return
            position = page.position

    def require_agent(self, agent_id: str) -> None:
        """Raises FailedError for an agent of which there is no run, and names the nearest."""
        known = agents(self.disk, self.layout)
        if agent_id not in known:
            raise no_such("agent", agent_id, known)

    def require_tool(self, tool: str) -> None:
        """Raises FailedError for a tool that no run used, and names the nearest."""
        known = {name for row in self.search(SearchRuns(limit=500)) for name in self.fresh(row).tools}
        if tool not in known:
            raise no_such("tool", tool, known)

    def torn_bytes(self, ref: RunRef) -> int:
        """What follows the last whole line."""
        position = START
        while not (page := self.page(ref, position)).at_end:
            position = page.position
        return page.torn_bytes

    def _exactly(self, name: str) -> RunRef | None:
        row = self.index.find(name)
        # Beside a daemon the catalog may be a moment behind a run that has just begun.
        return ref_of(row) if row is not None else find_run(self.disk, self.layout, name)

    def _by_beginning(self, name: str) -> RunRef:
        refs = [found.ref for found in survey(self.disk, self.layout)]
        matches = [ref for ref in refs if name and ref.run_id.startswith(name)]
        if len(matches) == 1:
            return matches[0]
        if matches:
            some = ", ".join(sorted(ref.run_id for ref in matches)[:5])
            raise FailedError(f"{len(matches)} runs begin with '{name}': {some}; say more of the id")
        raise no_such("run", name, (ref.run_id for ref in refs))


def _refuse_file(root: Path) -> None:
    """A root that is not there yet is no mistake; one that is a file, or would be in one, is."""
    there = next(path for path in (root, *root.parents) if os.path.exists(path))  # noqa: PTH110 - false for what it may not see
    if not there.is_dir():
        raise FailedError(
            f"the state root {root} cannot be used: {there} is not a directory; name another with --home or CAR_HOME",
            USAGE,
        )


def point_in_time(flag: str, text: str | None) -> str | None:
    """A time, a date or an age (`90s`, `15m`, `2h`, `30d`, `4w`) as the store compares it."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    try:
        if unit in _UNITS and number.replace(".", "", 1).isdigit():
            return rfc3339(datetime.now(UTC) - timedelta(seconds=float(number) * _UNITS[unit]))
        parsed = datetime.fromisoformat(text)
        return rfc3339(parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC))
    except (ValueError, OverflowError):
        raise FailedError(
            f"{flag} is '{text}': expected an age like 30d or 2h, without a sign, a date or an RFC 3339 time",
            USAGE,
        ) from None
