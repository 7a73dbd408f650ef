"""The open store of a serving daemon: lock, journal, catalog and reader under one name.

Writing goes to the journal and nowhere else. Reading is plain functions that block; methods run them in threads.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Literal

import trio

from car_trio.config import Config, ConfigError
from car_trio.methods.context import Removal
from car_trio.nursery.limits import held_files
from car_trio.nursery.send_queue import open_send_queue
from car_trio.nursery.together import Together
from car_trio.state.approvals import MAX_ENDED
from car_trio.state.run import Ticket
from car_trio.store.catalog import CatalogWriter, boot_id, open_catalog
from car_trio.store.catalog_reader import utc_time
from car_trio.store.disk import Disk, InTheWayError
from car_trio.store.events import DIRECTORY as JOURNALS
from car_trio.store.events import drop_journals, journal_file, query
from car_trio.store.journal import Journal, open_journal
from car_trio.store.layout import Layout
from car_trio.store.lived_time import FILE as CLOCK
from car_trio.store.lived_time import UNSETTABLE_CLOCK, line_of, lived_time, look
from car_trio.store.lock import StoreBusy, hold_lock
from car_trio.store.log_files import lines, newest
from car_trio.store.orphans import adopt_orphans
from car_trio.store.reader import Page, Position, read_page
from car_trio.store.retention import Expired, ended_before, expired, tombstone
from car_trio.store.run_index import RunIndex
from car_trio.store.survey import summarize
from car_trio.store.torn import torn_bytes
from car_trio.wire.events import EventsFound, QueryEvents
from car_trio.wire.host import ApprovalLine
from car_trio.wire.runs import CatalogRow, RunRef, SearchRuns, now

LOG = logging.getLogger("car_trio.store")
LEDGER = "permissions.jsonl"
APPROVALS = "approvals.jsonl"
"""Under the state root."""


class Health:
    """Tells whoever shows the store's health that it turned: why it is degraded, or `None` when it is well again."""

    def __init__(self) -> None:
        self.listeners: list[Callable[[str | None], None]] = []

    def turned(self, cause: str | None) -> None:
        for listener in self.listeners:
            listener(cause)


class OpenStore:
    """What the daemon has of its store. Without a catalog (a disk that cannot hold one) the run files are asked."""

    def __init__(
        self,
        config: Config,
        layout: Layout,
        disk: Disk,
        journal: Journal,
        writer: CatalogWriter | None,
        health: Health,
        together: Together,
    ) -> None:
        self._config = config
        self._layout = layout
        self._disk = disk
        self._writer = writer
        self._index = RunIndex(layout, disk)
        self._lived = lived_time(disk, layout)
        self.journal = journal
        self.health = health
        self.together = together
        """The stretch in which the journal tells what became true; every connection sends with it."""

    @property
    def degraded(self) -> str | None:
        return self.journal.degraded

    async def adopt_orphans(self) -> list[CatalogRow]:
        """Ends what an earlier process left open; returns what the disk did not let it end. Before the first
        connection, and before the journal's first put."""
        adoption = await trio.to_thread.run_sync(adopt_orphans, self._disk, self._layout, self._writer)
        if adoption.adopted:
            LOG.warning("%d runs that an earlier process left open ended as orphaned", len(adoption.adopted))
        for ref, size in adoption.torn.items():
            LOG.warning(
                "run %s: a torn tail of %d bytes was moved to %s",
                ref.run_id,
                size,
                self._layout.torn_file(ref),
            )
        return await trio.to_thread.run_sync(self._rows_of, list(adoption.failed))

    def _rows_of(self, refs: Sequence[RunRef]) -> list[CatalogRow]:
        """Of those that are open. One whose end could neither be synced nor be taken back has it: a second would be
        one too many, and the next start finds out whether the first is still there."""
        rows: list[CatalogRow] = []
        for ref in refs:
            try:
                rows.append(summarize(self._disk, self._layout, ref))
            except OSError as error:
                LOG.error("run %s stays open until the next start: %s", ref.run_id, error)
        return [row for row in rows if row.ended_at is None]

    def close(self) -> None:
        self._index.close()

    def check(self, purpose: Literal["start", "turns"], run: RunRef) -> None:
        self.journal.check(purpose, run)

    # Reading, in threads

    def read_page(
        self, ref: RunRef, position: Position, *, until: int | None, max_bytes: int, max_records: int | None
    ) -> Page:
        return read_page(
            self._disk, self._layout, ref, position, until=until, max_bytes=max_bytes, max_records=max_records
        )

    def find(self, run_id: str) -> CatalogRow | None:
        return self._index.find(run_id)

    def list_runs(
        self, agent_id: str, cursor: str | None, limit: int | None, newer: list[CatalogRow]
    ) -> tuple[list[CatalogRow], str | None]:
        return self._index.list(agent_id, cursor, limit, newer)

    def torn_bytes(self, ref: RunRef) -> int:
        """What was moved aside from the end of the run's files, at a boot after a crash."""
        return torn_bytes(self._disk, self._layout, ref)

    def search(self, ask: SearchRuns, newer: list[CatalogRow]) -> tuple[list[CatalogRow], str | None]:
        return self._index.search(ask, newer)

    def removable(self, run_ids: Sequence[str], older_than: str | None) -> list[CatalogRow]:
        """The ended runs that are named and ended before `older_than`, as far as either is given."""
        before = None if older_than is None else utc_time("older_than", older_than)
        if run_ids:
            rows = [row for run_id in run_ids if (row := self.find(run_id)) is not None]
        else:
            rows = self._index.search(SearchRuns())[0]
        return [row for row in rows if row.ended_at is not None and (before is None or row.ended_at < before)]

    def look_at_clock(self) -> datetime:
        """Notes what the clocks show and returns the wall clock's time, by which `expired` and `drop_journals` go."""
        now = datetime.now(UTC)
        seen = look(now, boot_id(), time.clock_gettime(UNSETTABLE_CLOCK))
        if self._lived.look(seen):
            self.journal.log(CLOCK, line_of(seen))
        return now

    def expired(self, now: datetime) -> list[Expired]:
        """What the configured limits take away."""
        limits = self._config.runs
        candidates = self._index.retention_candidates(now, limits.max_per_agent, limits.max_age_days)
        return expired(candidates, now, limits.max_per_agent, limits.max_age_days, self._when(now))

    def _when(self, now: datetime) -> Callable[[datetime], datetime]:
        return lambda moment: self._lived.now_is(moment, now)

    def events(self, client_id: str, ask: QueryEvents) -> EventsFound:
        return query(self._disk, self._layout, client_id, ask)

    def log_event(self, client_id: str, lines: bytes, last: bool) -> Ticket:
        """Hands events of a connection to the journal, which writes them when it has nothing better to do."""
        return self.journal.log(journal_file(client_id), lines, last=last, idly=True)

    def ledger(self) -> list[bytes]:
        """The decisions of humans, line by line. Raises `ConfigError` when they cannot be read."""
        try:
            return list(lines(self._disk, self._layout, LEDGER))
        except OSError as error:
            raise ConfigError(
                f"{self._layout.root / LEDGER} cannot be read: {error.strerror}; mend or remove it"
            ) from error

    def drop_journals(self, live: Collection[str], now: datetime) -> int:
        """Removes the event logs that are as old as runs may become; those of `live` connections stay."""
        cutoff = ended_before(now, self._config.runs.max_age_days)
        return 0 if cutoff is None else drop_journals(self._disk, self._layout, live, cutoff, self._when(now))

    # Approvals

    def log_approval(self, line: bytes) -> Ticket:
        """Hands an ended approval to the journal."""
        return self.journal.log(APPROVALS, line)

    async def ended_approvals(self) -> list[ApprovalLine]:
        """The newest that ended, oldest first; none, with a word in the log, when the disk does not give them."""
        try:
            return await trio.to_thread.run_sync(
                newest, self._disk, self._layout, APPROVALS, ApprovalLine, MAX_ENDED
            )
        except OSError as error:
            LOG.error("%s cannot be read: %s; approvals of earlier starts are not shown", APPROVALS, error)
            return []

    # Removing

    def flush(self) -> None:
        """Has what waits for its interval synced now, and then written to the catalog."""
        self.journal.flush()

    def remove(self, row: CatalogRow, why: str) -> Removal:
        """Hands the removal of an ended run to the journal: its tombstone first, then its files."""
        LOG.info("removing run %s of %s: %s", row.run_id, row.agent_id, why)
        return self.journal.remove(RunRef(row.agent_id, row.run_id), tombstone(row, why, now()))


def check_logs(disk: Disk, layout: Layout) -> None:
    """Raises `ConfigError` when something else lies where a log is written: later it would stop every write."""
    for name in (LEDGER, APPROVALS, layout.deleted_runs.name):
        path = layout.root / name
        with suppress(OSError):
            if not disk.stat(path).regular:
                raise ConfigError(f"{path}: not a regular file (refused, never followed); move it away")
    events = layout.root / JOURNALS
    with suppress(OSError):
        if not disk.stat(events).directory:
            raise ConfigError(f"{events}: not a directory (refused, never followed); move it away")


@asynccontextmanager
async def open_store(
    config: Config, disk: Disk | None = None, *, sync_threads: int = 8
) -> AsyncGenerator[OpenStore]:
    """Takes the root's lock, then opens everything. On leaving, all that was accepted is written first.

    Raises `ConfigError` when another process has the root, or when it cannot be used; then nothing was changed.
    """
    layout, disk, health = Layout(config.home), disk or Disk(), Health()
    async with AsyncExitStack() as stack:
        try:
            layout.prepare(disk)
            stack.enter_context(hold_lock(layout))
        except StoreBusy as busy:
            raise ConfigError(f"{config.home}: {busy}") from None
        except InTheWayError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; move it away") from error
        except OSError as error:
            why = error.strerror or str(error)
            raise ConfigError(
                f"the state root {config.home} cannot be used: {why}"
                f"{f' ({error.filename})' if error.filename else ''}; "
                "make it a directory of yours with mode 0700, or choose another with --home"
            ) from error
        check_logs(disk, layout)
        writer = open_catalog(layout, disk)
        if (queue := open_send_queue()) is not None:
            stack.callback(queue.close)
        together = Together(queue)
        journal = await stack.enter_async_context(
            open_journal(
                layout,
                disk,
                durability=config.runs.durability,
                sync_interval_ms=config.runs.sync_interval_ms,
                keep_free_bytes=config.runs.keep_free_bytes,
                held_files=held_files(),
                sync_threads=sync_threads,
                catalog=writer,
                on_health=health.turned,
                telling=together,
            )
        )
        store = OpenStore(config, layout, disk, journal, writer, health, together)
        stack.callback(store.close)
        yield store
