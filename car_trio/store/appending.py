"""One append-only file as its writer sees it: what counts, what is synced, where it goes on after a failure.

The rules (protocol `runs.md` section 3), all here and nowhere else:

- A write that fails is undone: the file is cut back to the last offset that counts before anything else is
  appended.
- When it cannot be cut back, or when a sync failed, the descriptor is never used again. The kernel may have
  dropped the dirty pages and report success the next time, so what was not synced is written anew, to a
  continuation (`<name>~1.jsonl`), whose first line says how many bytes of the file before it count. Readers
  cut there. That line is synced, in every mode, before anything follows it: were it lost and the lines behind it not,
  a reader would find them twice.
- A file of which nothing counts is removed and made again instead: its own first line would not be certain
  either.

What counts is continued byte for byte in the same order, so a reader's place survives a continuation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from car_trio.store.disk import Disk
from car_trio.store.layout import TORN_SUFFIX, exists
from car_trio.store.torn import cut_tail_off, end_of_lines

LOG = logging.getLogger("car_trio.store")


class SegmentHeader(msgspec.Struct, tag_field="record", tag="segment"):
    """First line of a continuation: how many bytes of the file before it count."""

    previous_bytes: int


class AppendFile:
    """A run's file, or another journal file, with its continuations. Used by one thread at a time.

    With `keep_unsynced` what is written stays in memory until it is synced and is written again when the sync
    fails; without it whoever appended keeps it."""

    def __init__(self, disk: Disk, path_of: Callable[[int], Path], *, keep_unsynced: bool) -> None:
        self._disk = disk
        self._path_of = path_of
        self._keep_unsynced = keep_unsynced
        self._segment = 0
        self._good = 0
        self._synced = 0
        self._previous = 0
        self._begun = 0
        """Bytes of the first line that says where the file before ends."""
        self._located = False
        self._descriptor: int | None = None
        self._unsynced: list[bytes] = []
        self.unsynced_bytes = 0
        self._again = b""
        self.dirty = False
        """Something written is not synced yet."""
        self.new = False
        """The name of the current file is not synced yet."""

    @property
    def path(self) -> Path:
        return self._path_of(self._segment)

    @property
    def is_open(self) -> bool:
        """Whether the next append needs no name: nothing is looked up or made then."""
        return self._descriptor is not None

    @property
    def descriptor(self) -> int:
        """Of the file as it was last written."""
        assert self._descriptor is not None
        return self._descriptor

    @property
    def to_rewrite(self) -> int:
        """Bytes that were written once, whose sync failed and that are not written again yet."""
        return len(self._again)

    @property
    def forgettable(self) -> bool:
        """Nothing is known here that the files do not say themselves."""
        given_up = self._located and self._descriptor is None
        # How much of the file before counts is known only here until the name of this one is synced.
        unmarked = self._segment > 0 and self._good <= self._begun
        return not (self.dirty or self._again or given_up or unmarked)

    def append(self, payload: bytes) -> None:
        """Write `payload`, and before it what has to be written again. On `OSError` nothing of it counts."""
        payload = self._again + payload
        if not payload:
            return
        descriptor = self._ready()
        if self._segment and not self._good:
            self._begin(descriptor)
        self._write(descriptor, payload)
        self.dirty = True
        self._again = b""
        if self._keep_unsynced:
            self._unsynced.append(payload)
            self.unsynced_bytes += len(payload)

    def sync(self) -> None:
        """Wait for the disk. May run in any thread while nobody appends; the result goes to `settle` or
        `distrust`."""
        self._disk.sync(self.descriptor)

    def settle(self) -> None:
        """The sync succeeded, of the name too where that was new: everything so far is durable."""
        self._synced = self._good
        self._unsynced.clear()
        self.unsynced_bytes = 0
        self.dirty = self.new = False

    def distrust(self) -> None:
        """Give the descriptor up and keep what was not synced, to be written again."""
        self._again = b"".join(self._unsynced) + self._again
        self._good = self._synced
        self.settle()
        self._abandon()

    def bytes_and_mtime(self) -> tuple[int, int]:
        """Size of all files together and the latest change, as a later look at the names will find them."""
        stats = [self._disk.stat(self._path_of(0))]
        with suppress(FileNotFoundError):
            while True:
                stats.append(self._disk.stat(self._path_of(len(stats))))
        return sum(stat.size for stat in stats), max(stat.mtime_ns for stat in stats)

    def close(self) -> None:
        """Give the descriptor back; the next append finds its place by looking at the files."""
        if self._descriptor is not None:
            with suppress(OSError):  # everything that counts is synced, so there is nothing left to lose
                self._disk.close(self._descriptor)
            self._descriptor = None
        self._located = False

    def _begin(self, descriptor: int) -> None:
        """Write the first line of a continuation, durably but for its name."""
        line = msgspec.json.encode(SegmentHeader(self._previous)) + b"\n"
        self._write(descriptor, line)
        try:
            self._disk.sync(descriptor)
        except OSError:
            self.distrust()
            raise
        self._begun = self._synced = self._good

    def _write(self, descriptor: int, payload: bytes) -> None:
        try:
            # A short write is finished first: only the next call tells why it was short.
            written = self._disk.write(descriptor, payload)
            while written < len(payload):
                written += self._disk.write(descriptor, payload[written:])
        except OSError:
            self._cut_back(descriptor)
            raise
        self._good += len(payload)

    def _cut_back(self, descriptor: int) -> None:
        try:
            if self._disk.fstat(descriptor).size == self._good:
                return  # a full disk takes nothing, again and again
            self._disk.truncate(descriptor, self._good)
            # What follows may be another line: a power cut could make one of the two.
            self._disk.sync(descriptor)
        except OSError as error:
            LOG.warning("%s cannot be cut back (%s): it is continued in a new file", self.path, error)
            self.distrust()

    def _abandon(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        assert descriptor is not None
        with suppress(OSError):
            self._disk.close(descriptor)

    def _ready(self) -> int:
        if self._descriptor is None:
            self._descriptor = self._renew() if self._located else self._locate()
            self._located = True
        return self._descriptor

    def _renew(self) -> int:
        """Make the file in which everything goes on after the current one was given up."""
        if self._good > self._begun:
            self._previous = self._good
            self._segment += 1
        else:
            with suppress(FileNotFoundError):
                self._disk.unlink(self.path)
        self._good = self._synced = self._begun = 0
        return self._create()

    def _create(self) -> int:
        self._set_leftovers_aside()
        descriptor = self._disk.create(self.path)
        self.new = True
        return descriptor

    def _locate(self) -> int:
        """Open the last file there is, or make the first."""
        self._segment = self._good = self._synced = self._begun = 0
        try:
            descriptor = self._disk.open_append(self.path)
        except FileNotFoundError:
            return self._create()
        try:
            while self._exists(self._segment + 1):
                following = self._disk.open_append(self._path_of(self._segment + 1))
                self._disk.close(descriptor)
                descriptor = following
                self._segment += 1
            self._good = self._synced = end_of_lines(self._disk, descriptor)
            whole = self._disk.fstat(descriptor).size == self._good
        except OSError:
            self._disk.close(descriptor)
            raise
        if whole and (self._good or not self._segment):
            self.new = self._good == 0
            return descriptor
        self._disk.close(descriptor)
        return self._go_on_after_torn()

    def _go_on_after_torn(self) -> int:
        if self._good:
            return self._renew()
        # Not one whole line: as a first file it is no run, as a continuation it does not say what it
        # continues.
        cut_tail_off(self._disk, self.path)
        return self._locate()

    def _set_leftovers_aside(self) -> None:
        # Continuations of a file that is only now made are what an interrupted removal left; they must not continue
        # this one.
        following = segment = self._segment + 1
        while self._exists(segment):
            path = self._path_of(segment)
            self._disk.rename(path, path.with_suffix(TORN_SUFFIX))
            segment += 1
        if exists(self._disk, self._path_of(following).with_suffix(TORN_SUFFIX)):
            # Before there is a file that they would continue; after a sync that failed too, when nothing is renamed.
            self._disk.sync_directory(self.path.parent)

    def _exists(self, segment: int) -> bool:
        return exists(self._disk, self._path_of(segment))
