"""Boot: what an earlier process left unfinished is finished, before the first connection (protocol `runs.md`
section 3).

A run without an end has nobody left who could end it: it gets `incomplete` / `orphaned`. What a power cut or
a crash left behind the last whole line is moved to `<run>.torn` first: copied, synced, then cut off, so that
it exists at every moment. All of it can be repeated at any point. The caller holds the store's lock.

After a clean stop the catalog knows which runs are open. After any other stop every file is looked at (not
read), and the rows of those that differ are made anew, so that afterwards catalog and files agree."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import msgspec

from car_trio.store.appending import AppendFile
from car_trio.store.catalog import CatalogWriter
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout, exists
from car_trio.store.reader import kind_of
from car_trio.store.survey import summarize, survey
from car_trio.store.torn import cut_tail_off, end_of_lines
from car_trio.wire.runs import CatalogRow, Ended, Incomplete, RunRef, now

LOG = logging.getLogger("car_trio.store")
_ROWS_AT_ONCE = 500
_CHUNK = 1 << 20


@dataclass(slots=True)
class Adoption:
    """What boot found. `torn`: bytes moved aside per run; `nameless`: files in which no line was whole, moved
    aside as they are; `failed`: what could not be adopted, with the cause: it stays open until the next
    boot."""

    adopted: list[RunRef] = field(default_factory=list[RunRef])
    torn: dict[RunRef, int] = field(default_factory=dict[RunRef, int])
    nameless: list[RunRef] = field(default_factory=list[RunRef])
    failed: dict[RunRef, str] = field(default_factory=dict[RunRef, str])


def adopt_orphans(
    disk: Disk, layout: Layout, catalog: CatalogWriter | None, *, clock: Callable[[], str] = now
) -> Adoption:
    """End every run that has no end, and bring the catalog up to date. Blocks; a disk error concerns one
    run."""
    adoption = Adoption()
    rows: list[CatalogRow] = []
    gone: list[RunRef] = []
    for ref in _open_runs(disk, layout, catalog):
        try:
            rows.append(_adopt(disk, layout, ref, adoption, clock))
        except FileNotFoundError:
            gone.append(ref)
        except OSError as error:
            LOG.error("run %s of %s cannot be adopted: %s", ref.run_id, ref.agent_id, error)
            adoption.failed[ref] = str(error)
    if catalog is not None:
        write_rows(catalog, rows, gone)
    return adoption


def reconcile(
    disk: Disk, layout: Layout, catalog: CatalogWriter, *, on_run: Callable[[], object] = lambda: None
) -> None:
    """Make the catalog agree with the files: read what differs in size or time, drop what is gone.

    `on_run` is called for each run that is looked at."""
    known = catalog.sizes()
    rows: list[CatalogRow] = []
    for found in survey(disk, layout):
        on_run()
        if known.pop(found.ref, None) == (found.bytes, found.mtime_ns):
            continue
        try:
            with suppress(OSError):  # a disk that cannot sync is found out by the first who writes
                _settle(disk, layout, found.ref)
            rows.append(summarize(disk, layout, found.ref))
        except OSError as error:
            LOG.warning("run %s of %s cannot be read: %s", found.ref.run_id, found.ref.agent_id, error)
        if len(rows) >= _ROWS_AT_ONCE:
            catalog.write(rows)
            rows = []
    catalog.write(rows, known)
    catalog.complete()


def _settle(disk: Disk, layout: Layout, ref: RunRef) -> None:
    """Sync what an earlier process only wrote: a row must not outlive the lines it describes."""
    for segment in range(_last_segment(disk, layout, ref) + 1):
        descriptor = disk.open_read(layout.run_file(ref, segment))
        try:
            disk.sync(descriptor)
        finally:
            disk.close(descriptor)


def _open_runs(disk: Disk, layout: Layout, catalog: CatalogWriter | None) -> list[RunRef]:
    if catalog is not None:
        try:
            if not catalog.clean:
                reconcile(disk, layout, catalog)
            return catalog.open_runs()
        except sqlite3.Error as error:
            LOG.warning("the catalog cannot be brought up to date (%s): reading the end of every run", error)
    return [found.ref for found in survey(disk, layout) if not _ends(disk, layout, found.ref)]


def _ends(disk: Disk, layout: Layout, ref: RunRef) -> bool:
    """Whether the last whole line is an end. What cannot be read is for the adoption to report."""
    with suppress(OSError):
        segment = _last_segment(disk, layout, ref)
        descriptor = disk.open_read(layout.run_file(ref, segment))
        try:
            end = end_of_lines(disk, descriptor)
            start = end_of_lines(disk, descriptor, before=end - 1) if end else 0
            return kind_of(disk.pread(descriptor, end - start, start).rstrip(b"\n")) == "ended"
        finally:
            disk.close(descriptor)
    return False


def _adopt(
    disk: Disk, layout: Layout, ref: RunRef, adoption: Adoption, clock: Callable[[], str]
) -> CatalogRow:
    """End one run, unless it has its end; returns its row. `FileNotFoundError` when there is no run (any
    more)."""
    torn = _cut_tails_off(disk, layout, ref)
    if torn:
        adoption.torn[ref] = torn
        LOG.warning("run %s of %s: %d torn bytes moved aside", ref.run_id, ref.agent_id, torn)
    if not exists(disk, layout.run_file(ref)):
        adoption.nameless.append(ref)
    row = summarize(disk, layout, ref)
    if row.ended_at is not None:
        return row
    _append_end(disk, layout, ref, clock())
    adoption.adopted.append(ref)
    return summarize(disk, layout, ref)


def _append_end(disk: Disk, layout: Layout, ref: RunRef, ended_at: str) -> None:
    record = Ended(
        run_id=ref.run_id, agent_id=ref.agent_id, termination=Incomplete("orphaned"), ended_at=ended_at
    )
    line = msgspec.json.encode(record) + b"\n"
    file = AppendFile(disk, partial(layout.run_file, ref), keep_unsynced=False)
    try:
        file.append(line)
        try:
            file.sync()
            # The process that made the file may have died before its name, or its directory's, was durable.
            disk.sync_directory(layout.agent_directory(ref.agent_id))
            disk.sync_directory(layout.runs)
        except OSError:
            _take_back(disk, file.path, len(line))
            raise
    finally:
        file.close()


def _take_back(disk: Disk, path: Path, count: int) -> None:
    """Cut off the end that did not become durable: whoever is told that the adoption failed writes another."""
    with suppress(OSError):
        descriptor = disk.open_append(path)
        try:
            disk.truncate(descriptor, disk.fstat(descriptor).size - count)
        finally:
            disk.close(descriptor)


def _cut_tails_off(disk: Disk, layout: Layout, ref: RunRef) -> int:
    """Of the last file, and when that has no whole line, of the one that is the last then."""
    torn = 0
    for segment in range(_last_segment(disk, layout, ref), -1, -1):
        path = layout.run_file(ref, segment)
        torn += cut_tail_off(disk, path)
        if exists(disk, path):
            break
    return torn


def _last_segment(disk: Disk, layout: Layout, ref: RunRef) -> int:
    segment = 0
    while exists(disk, layout.run_file(ref, segment + 1)):
        segment += 1
    return segment


def write_rows(catalog: CatalogWriter, rows: Sequence[CatalogRow], gone: Iterable[RunRef]) -> None:
    """Bring the catalog up to date; when it cannot be, the next start looks at every file."""
    try:
        catalog.write(rows, gone)
    except sqlite3.Error as error:
        LOG.warning("the catalog cannot be brought up to date: %s", error)
        catalog.clean = False
