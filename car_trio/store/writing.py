"""What the journal's thread does with a batch: write, sync, remember in the catalog. It knows no clock and no
loop.

A batch is everything that gathered while the one before it was on its way. Per file one write, then one sync
of all files that need it, at the same time: group commit. The kernel has a queue for that (`sync_queue.py`), or
threads do it (`syncing.py`). What failed is reported per file, so trouble with
one run is no trouble for the others, and nothing that failed counts (`appending.py`), so the journal hands
the same puts over again later, in the same order."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EMFILE, ENFILE
from functools import partial
from pathlib import Path
from typing import Literal

from car_trio.store.appending import AppendFile
from car_trio.store.catalog import CatalogWriter
from car_trio.store.disk import Disk
from car_trio.store.layout import Layout, exists, make_directory
from car_trio.store.syncing import Sync, SyncThreads
from car_trio.wire.runs import CatalogRow, RunRef

LOG = logging.getLogger("car_trio.store")
Durability = Literal["always", "interval", "os"]
Target = RunRef | str
"""A run, or the path of another journal file relative to the root."""
Indexed = Callable[[], None]
EARLY_SYNC_BYTES = 8 << 20
ENOUGH_FOR_QUEUE = 2
"""A single file is synced sooner by whoever waits for it."""
_KNOWN_DIRECTORIES = 10_000


@dataclass(slots=True, eq=False)
class Append:
    """One put as the thread sees it. `sync` and `last` (nothing follows) hold for files that are no run; runs
    follow the durability mode, and end with a row."""

    target: Target
    payload: bytes
    sync: bool = False
    last: bool = False
    row: CatalogRow | None = None
    indexed: Indexed | None = None


@dataclass(slots=True, eq=False)
class Removal:
    """A run to take off the disk, after the line that says so."""

    target: RunRef
    tombstone: bytes


@dataclass(slots=True)
class Landed:
    """What became of a batch. Whatever is not in `failed` is true in the durability mode that is set."""

    failed: dict[Target, OSError] = field(default_factory=dict[Target, OSError])
    refused: dict[Removal, OSError] = field(default_factory=dict[Removal, OSError])
    freed: dict[Removal, int] = field(default_factory=dict[Removal, int])
    trouble: OSError | None = None
    """Why something acknowledged earlier, whose sync failed, could not be written again."""
    unsynced: bool = False
    """Something acknowledged waits for the next flush (mode `interval`)."""
    to_rewrite: bool = False
    """Something acknowledged earlier is still to be written again."""
    free_bytes: int | None = None


class Writer:
    """The only writer of runs, journal files and catalog rows. Used by one thread at a time."""

    def __init__(
        self,
        layout: Layout,
        disk: Disk,
        *,
        durability: Durability,
        held_files: int,
        sync_threads: int,
        catalog: CatalogWriter | None,
    ) -> None:
        self._layout = layout
        self._disk = disk
        self._durability = durability
        self._held_files = max(1, held_files)
        self._threads = SyncThreads(sync_threads)
        self._queue = disk.sync_queue() if sync_threads else None
        self._catalog = catalog
        self._files: dict[Target, AppendFile] = {}  # in order of use, the latest last
        self._directories: set[Path] = set()
        self._rows_to_sync: dict[Target, list[Append]] = {}
        self._rows: list[Append] = []
        self._gone: list[RunRef] = []

    @property
    def rows_wait(self) -> bool:
        """Rows are still to be written to the catalog."""
        return bool(self._rows or self._gone)

    def write(self, appends: Sequence[Append], removals: Sequence[Removal], *, flush: bool) -> Landed:
        """Write a batch; with `flush`, or after trouble, also sync all that `interval` left for later."""
        landed = Landed()
        # What is older than the interval may not wait for another one once it can be written again.
        flush = flush or self._has_to_rewrite()
        groups: dict[Target, list[Append]] = {}
        for append in appends:
            groups.setdefault(append.target, []).append(append)
        for target, group in groups.items():
            self._append(target, group, landed)
        self._sync_batch(groups, landed)
        if flush or self._must_flush():
            self._flush(landed)
        for target, group in groups.items():
            self._note_rows(target, group, landed)
            if group[-1].last and target not in landed.failed:
                self._finish(target)
        for removal in removals:
            self._remove(removal, landed)
        if self._gone:
            self._index_removals()
        self._let_go()
        if self._durability == "interval":
            landed.unsynced = any(file.dirty for file in self._files.values())
            landed.to_rewrite = self._has_to_rewrite()
        landed.free_bytes = self.free_bytes()
        return landed

    def index(self) -> list[Indexed]:
        """Write the rows whose lines are synced; returns whom to tell. A failure keeps them for the next
        time."""
        if not self._rows and not self._gone:
            return []
        if self._catalog is not None:
            try:
                rows = [append.row for append in self._rows if append.row]
                self._catalog.write(rows, self._gone, synced=self._durability != "os")
            except sqlite3.Error as error:
                LOG.warning("the catalog cannot be written (%s); %d rows wait", error, len(self._rows))
                return []
        told = [append.indexed for append in self._rows if append.indexed]
        self._rows, self._gone = [], []
        return told

    def _index_removals(self) -> None:
        """Take removed runs out of the catalog before anybody is told, so that who is told finds them nowhere. When
        that fails they are taken out with the next rows."""
        if self._catalog is not None:
            try:
                self._catalog.write([], self._gone, synced=self._durability != "os")
            except sqlite3.Error:
                return
        self._gone = []

    def free_bytes(self) -> int | None:
        """What may still be written; None when the file system does not say."""
        try:
            return self._disk.free_bytes(self._layout.root)
        except OSError:
            return None

    def close(self, *, clean: bool) -> None:
        """Sync what waits, give all descriptors back, close the catalog; `clean` when nothing was left
        unwritten."""
        landed = Landed()
        if self._durability != "os":
            self._flush(landed)
        self.index()
        for file in self._files.values():
            file.close()
        self._files.clear()
        self._threads.close()
        if self._queue is not None:
            self._queue.close()
        if self._catalog is not None:
            # Mode `os` synced nothing: after a power cut the catalog could be ahead of the files.
            clean = clean and landed.trouble is None and not self.rows_wait and self._durability != "os"
            self._catalog.close(clean=clean)

    def _append(self, target: Target, group: list[Append], landed: Landed) -> None:
        payload = b"".join(append.payload for append in group)
        try:
            self._append_payload(target, payload)
        except OSError as error:
            landed.failed[target] = error

    def _append_payload(self, target: Target, payload: bytes) -> None:
        try:
            self._file(target).append(payload)
        except FileNotFoundError:
            # Somebody removed the directory under us: it is made again, once.
            self._directories.clear()
            self._file(target).append(payload)
        except OSError as error:
            if error.errno not in (EMFILE, ENFILE):
                raise
            self._let_go(0)
            self._file(target).append(payload)

    def _file(self, target: Target) -> AppendFile:
        """The file of a target, as the one used last. Where a name is needed its directory exists, durably."""
        file = self._files.pop(target, None) or self._new_file(target)
        self._files[target] = file
        if not file.is_open:  # making a path costs as much as a write
            self._directory(file.path.parent)
        return file

    def _new_file(self, target: Target) -> AppendFile:
        if isinstance(target, RunRef):
            path_of: Callable[[int], Path] = partial(self._layout.run_file, target)
            return AppendFile(self._disk, path_of, keep_unsynced=self._durability == "interval")
        return AppendFile(self._disk, partial(self._layout.log_file, target), keep_unsynced=False)

    def _directory(self, path: Path) -> None:
        if path in self._directories:
            return
        if not make_directory(self._disk, path):
            # Somebody made it before: neither its own name nor the names in it need have survived.
            self._disk.sync_directory(path.parent)
            self._disk.sync_directory(path)
        if len(self._directories) >= _KNOWN_DIRECTORIES:
            self._directories.clear()
        self._directories.add(path)

    def _sync_batch(self, groups: dict[Target, list[Append]], landed: Landed) -> None:
        to_sync: list[Target] = []
        for target, group in groups.items():
            file = self._files.get(target)  # one to which nothing was written may have been let go already
            if target in landed.failed or file is None or not file.dirty:
                continue
            if self._synced_at_once(target, group):
                to_sync.append(target)
            elif self._durability != "interval" or not isinstance(target, RunRef):
                self._files[target].settle()
        for target, error in self._sync(to_sync).items():
            LOG.warning("%s cannot be synced (%s): writing it again", self._files[target].path, error)
            self._append(target, groups[target], landed)
            if target not in landed.failed:
                landed.failed.update(self._sync([target]))

    def _synced_at_once(self, target: Target, group: list[Append]) -> bool:
        if isinstance(target, RunRef):
            return self._durability == "always"
        return any(append.sync for append in group)

    def _sync(self, targets: Iterable[Target]) -> dict[Target, OSError]:
        """Sync files, and the directories of new ones; returns those that cannot be trusted any more."""
        files = [(target, self._files[target]) for target in targets]
        if not files:
            return {}
        folders = list({file.path.parent: None for _, file in files if file.new})
        names: list[Sync] = [partial(self._disk.sync_directory, folder) for folder in folders]
        if self._queue is None or len(files) < ENOUGH_FOR_QUEUE:
            results = self._threads.run([file.sync for _, file in files] + names)
        else:
            results = self._queue.run([file.descriptor for _, file in files]) + self._threads.run(names)
        lost = dict(zip(folders, results[len(files) :], strict=True))
        failed: dict[Target, OSError] = {}
        for (target, file), error in zip(files, results, strict=False):
            error = error or (lost[file.path.parent] if file.new else None)
            if error is None:
                file.settle()
                self._rows += self._rows_to_sync.pop(target, ())
            else:
                file.distrust()
                failed[target] = error
        return failed

    def _has_to_rewrite(self) -> bool:
        """Only mode `interval` keeps what it has acknowledged; in the others a batch need not look at every file."""
        return self._durability == "interval" and any(file.to_rewrite for file in self._files.values())

    def _must_flush(self) -> bool:
        """Mode `interval` keeps what is unsynced in memory and its descriptors open: both are bounded."""
        if self._durability != "interval":
            return False
        unsynced = [file.unsynced_bytes for file in self._files.values() if file.dirty]
        return sum(unsynced) > EARLY_SYNC_BYTES or len(unsynced) >= self._held_files

    def _flush(self, landed: Landed) -> None:
        """Sync everything that is written and not synced; write again what a failed sync lost."""
        dirty = [target for target, file in self._files.items() if file.dirty]
        self._sync(dirty)
        again = [target for target, file in self._files.items() if file.to_rewrite]
        for target in again:
            try:
                self._append_payload(target, b"")
            except OSError as error:
                landed.trouble = error
        for failure in self._sync([target for target in again if self._files[target].dirty]).values():
            landed.trouble = failure

    def _note_rows(self, target: Target, group: list[Append], landed: Landed) -> None:
        """Queue the rows of what is true now; the size and time they carry are those of the synced files."""
        rows = [append for append in group if append.row is not None]
        file = self._files.get(target)
        if not rows or target in landed.failed or file is None:
            return
        with suppress(OSError):
            size, mtime_ns = file.bytes_and_mtime()
            for append in rows:
                assert append.row is not None
                append.row.bytes, append.row.mtime_ns = size, mtime_ns
        if file.dirty:
            self._rows_to_sync.setdefault(target, []).extend(rows)
            return
        self._rows += rows
        if any(append.row is not None and append.row.ended_at for append in rows):
            self._finish(target)  # nothing follows the end of a run

    def _finish(self, target: Target) -> None:
        """Nothing follows: give the descriptor back, if the file knows nothing that is not on disk."""
        file = self._files.get(target)
        if file is not None and file.forgettable:
            file.close()
            del self._files[target]

    def _remove(self, removal: Removal, landed: Landed) -> None:
        try:
            landed.freed[removal] = self._take_off(removal)
        except OSError as error:
            landed.refused[removal] = error

    def _take_off(self, removal: Removal) -> int:
        tombstones = self._layout.deleted_runs.name
        self._append_payload(tombstones, removal.tombstone + b"\n")
        for failure in self._sync([tombstones]).values():
            raise failure
        freed = unlink_run(self._disk, self._layout, removal.target)
        # Only now: a run that could not be removed may still have to be synced.
        held = self._files.pop(removal.target, None)
        if held is not None:
            held.close()
        self._gone.append(removal.target)
        return freed

    def _let_go(self, held: int | None = None) -> None:
        """Close the descriptors used longest ago, down to the number that may be held; what is dirty
        stays."""
        surplus = len(self._files) - (self._held_files if held is None else held)
        for target in list(self._files) if surplus > 0 else ():
            if self._files[target].forgettable:
                self._files.pop(target).close()
                surplus -= 1
            if surplus <= 0:
                return


def cause_of(error: OSError) -> str:
    """What went wrong, and with which file, for people."""
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}"


def unlink_run(disk: Disk, layout: Layout, ref: RunRef) -> int:
    """Take a run's files off the disk; returns their bytes.

    The first file goes first, durably: it makes the others a run, so an interruption leaves no shortened run
    behind.
    """
    freed = 0
    segment = 0
    while True:
        names = (layout.run_file(ref, segment), layout.torn_file(ref, segment))
        found = [size for path in names if (size := _unlink(disk, path)) is not None]
        if not found and segment:
            break
        freed += sum(found)
        segment += 1
        if segment == 1 and exists(disk, layout.run_file(ref, segment)):
            disk.sync_directory(layout.agent_directory(ref.agent_id))
    disk.sync_directory(layout.agent_directory(ref.agent_id))
    return freed


def _unlink(disk: Disk, path: Path) -> int | None:
    try:
        size = disk.stat(path).size
        disk.unlink(path)
    except FileNotFoundError:
        return None
    return size
