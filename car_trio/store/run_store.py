"""`RunStore`: a run store as a library, without a daemon and without Trio (protocol `runs.md` section 3).

Reading changes nothing on disk and works beside a running daemon; a run in progress is read from its file.
Whatever writes takes the store's lock for its duration."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from car_trio.store.catalog import CatalogWriter, boot_id, open_catalog, throw_away
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout, encode_name
from car_trio.store.lived_time import UNSETTABLE_CLOCK, lived_time, look
from car_trio.store.lock import hold_lock
from car_trio.store.orphans import adopt_orphans, reconcile, write_rows
from car_trio.store.reader import Record, read_records
from car_trio.store.retention import Expired, expired, read_limits, tombstone
from car_trio.store.run_index import RunIndex
from car_trio.store.survey import ended_rows, find_run, ref_of, summarize
from car_trio.store.writing import Removal, Writer
from car_trio.wire.errors import Refusal
from car_trio.wire.runs import CatalogRow, Damaged, Ended, RunRef, RunSummary, Started, Turn, now

LOG = logging.getLogger("car_trio.store")


class Unknown(msgspec.Struct, frozen=True):
    """A record with a tag or a shape that this version does not know, as it is on disk."""

    record: str
    raw: msgspec.Raw


RunRecord = Started | Turn | Ended | Damaged | Unknown
_KNOWN: msgspec.json.Decoder[RunRecord] = msgspec.json.Decoder(Started | Turn | Ended | Damaged)


class RunStore:
    """The runs under a state root. Methods that read raise `OSError` when a file that is there cannot be
    read."""

    def __init__(self, root: Path | str) -> None:
        self._layout = Layout(root)
        self._disk = Disk()
        self._index = RunIndex(self._layout, self._disk)

    @classmethod
    def from_journal_dir(cls, path: Path | str) -> RunStore:
        """The store whose `runs/` lies beside a `journals/` directory."""
        return cls(Path(path).parent)

    def list_runs(self, agent_id: str) -> list[RunSummary]:
        """The runs of an agent, newest first; none for an agent that nobody knows."""
        if not _is_name(agent_id):
            return []
        rows, _ = self._index.list(agent_id)
        return [self._fresh(row).in_list() for row in rows]

    def get_run_trace(self, run_id: str) -> list[RunRecord] | None:
        """All records of a run in order; None when there is no such run."""
        ref = self._find(run_id)
        if ref is None:
            return None
        try:
            return [_decoded(record) for record in read_records(self._disk, self._layout, ref)]
        except FileNotFoundError:
            return None

    def agent_for_run(self, run_id: str) -> str | None:
        """Whose run it is; None when there is no such run."""
        ref = self._find(run_id)
        return None if ref is None else ref.agent_id

    def adopt_orphans(self) -> int:
        """End every run without an end as `incomplete` / `orphaned`; returns how many. Raises `StoreBusy`."""
        with self._writing() as catalog:
            return len(adopt_orphans(self._disk, self._layout, catalog).adopted)

    def gc(self) -> int:
        """Remove the ended runs beyond the limits of `config.toml`; returns how many. Raises `StoreBusy`."""
        limits = read_limits(self._layout)
        with self._writing() as catalog:
            now, lived = datetime.now(UTC), lived_time(self._disk, self._layout)
            lived.look(look(now, boot_id(), time.clock_gettime(UNSETTABLE_CLOCK)))
            gone = expired(self._ended_rows(catalog), now, *limits, lambda moment: lived.now_is(moment, now))
            return len(self._take_off(catalog, gone))

    def remove(self, run_ids: Iterable[str], why: str) -> list[RunRef]:
        """Remove those of the runs that have ended; returns which. Raises `StoreBusy`."""
        with self._writing() as catalog:
            refs = [ref for run_id in run_ids if (ref := find_run(self._disk, self._layout, run_id))]
            rows = [summarize(self._disk, self._layout, ref) for ref in refs]
            gone = [Expired(row, why) for row in rows if row.ended_at is not None]
            return self._take_off(catalog, gone)

    def reindex(self, on_run: Callable[[], object]) -> None:
        """Make the catalog anew from the files; `on_run` is called for each run. Raises `StoreBusy`."""
        with self._writing(anew=True) as catalog:
            if catalog is not None:
                reconcile(self._disk, self._layout, catalog, on_run=on_run)

    def _take_off(self, catalog: CatalogWriter | None, gone: Iterable[Expired]) -> list[RunRef]:
        """Each with its tombstone; what cannot be removed is logged and stays."""
        removals = [Removal(ref_of(row), tombstone(row, why, now())) for row, why in gone]
        writer = Writer(
            self._layout, self._disk, durability="always", held_files=1, sync_threads=0, catalog=None
        )
        landed = writer.write([], removals, flush=False)
        writer.close(clean=True)
        for removal, error in landed.refused.items():
            LOG.error("run %s cannot be removed: %s", removal.target.run_id, error)
        freed = [removal.target for removal in landed.freed]
        if catalog is not None:
            write_rows(catalog, [], freed)
        return freed

    def _ended_rows(self, catalog: CatalogWriter | None) -> list[CatalogRow]:
        if catalog is not None:
            try:
                if not catalog.clean:
                    reconcile(self._disk, self._layout, catalog)
                return catalog.ended_rows()
            except sqlite3.Error as error:
                LOG.warning("the catalog does not answer (%s): reading run files", error)
        return ended_rows(self._disk, self._layout)

    def _find(self, run_id: str) -> RunRef | None:
        if not _is_name(run_id):
            return None
        row = self._index.find(run_id)
        # Beside a daemon the catalog may be a moment behind a run that has just begun.
        return ref_of(row) if row is not None else find_run(self._disk, self._layout, run_id)

    def _fresh(self, row: CatalogRow) -> CatalogRow:
        """The catalog counts at the start and the end of a run: in between its file is asked."""
        if row.ended_at is not None:
            return row
        try:
            return summarize(self._disk, self._layout, ref_of(row))
        except FileNotFoundError:
            return row

    @contextmanager
    def _writing(self, *, anew: bool = False) -> Generator[CatalogWriter | None]:
        """The lock, and the catalog where there can be one; it counts as complete when all went well."""
        self._layout.prepare(self._disk)
        with hold_lock(self._layout):
            if anew:
                throw_away(self._disk, self._layout)
            catalog = open_catalog(self._layout, self._disk)
            self._index.close()
            done = False
            try:
                yield catalog
                done = True
            finally:
                if catalog is not None:
                    catalog.close(clean=done)


def _is_name(identifier: str) -> bool:
    """Whether anything on disk can have this id."""
    try:
        encode_name(identifier)
    except Refusal:
        return False
    return True


def _decoded(record: Record) -> RunRecord:
    try:
        return _KNOWN.decode(record.raw)
    except msgspec.ValidationError:
        return Unknown(record.kind, msgspec.Raw(record.raw))
