"""Defects of the store, of its clock and of its lock, to be planted by `torture.planted`: a way to break each promise
that the campaigns on the disk are to find out.
"""

# A defect is planted where no caller may reach.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from car_trio.methods import runs
from car_trio.nursery import listeners
from car_trio.state.absent import Absent
from car_trio.state.approvals import Approvals
from car_trio.store import admission, lock, orphans, writing
from car_trio.store.appending import AppendFile
from car_trio.store.journal import Journal
from car_trio.store.lived_time import LivedTime
from car_trio.store.survey import survey
from car_trio.store.writing import Writer
from car_trio.wire.errors import Refusal
from car_trio.wire.runs import now

Defect = tuple[Any, str, Callable[[], Any]]
"""Where it is planted, and what takes the place of what is there."""

# After a kill


def acknowledging_early() -> Any:
    """What is put counts as true at once, before a byte of it is written."""
    put: Any = Journal.put

    def hasty(self: Journal, *args: Any, durable: Callable[[], None], **more: Any) -> Any:
        durable()
        ticket = put(self, *args, durable=lambda: None, **more)
        ticket.settle(None)
        return ticket

    return hasty


def ending_twice() -> Any:
    """An adopted run is ended, and ended again."""
    end: Any = orphans._append_end

    def twice(*args: Any) -> None:
        end(*args)
        end(*args)

    return twice


def ending_again() -> Any:
    """The adoption looks at every run, and ends each of them."""

    def all_runs(disk: Any, layout: Any, catalog: Any) -> Any:
        found = [each.ref for each in survey(disk, layout)]
        for ref in found:
            orphans._append_end(disk, layout, ref, now())
        return found

    return all_runs


def adopting_nothing() -> Any:
    def nothing(disk: Any, layout: Any, catalog: Any) -> list[Any]:
        return []

    return nothing


def keeping_torn_tails() -> Any:
    def kept(disk: Any, layout: Any, ref: Any) -> int:
        return 0

    return kept


def believing_the_catalog() -> Any:
    """After a kill the catalog is taken for complete."""

    def trusting(disk: Any, layout: Any, catalog: Any) -> Any:
        return catalog.complete()

    return trusting


# Removals


def forgetting_to_remove() -> Any:
    """A removed run is not listed any more, and its file stays."""

    def kept(disk: Any, layout: Any, ref: Any) -> int:
        return 0

    return kept


def inheriting() -> Any:
    """Who uses the id of a removed run gets its turns too."""
    remove: Any = writing.unlink_run
    append: Any = Writer._append_payload
    left: dict[Any, bytes] = {}

    def removing(disk: Any, layout: Any, ref: Any) -> int:
        descriptor = disk.open_read(layout.run_file(ref))
        content = disk.pread(descriptor, disk.fstat(descriptor).size, 0)
        disk.close(descriptor)
        left[ref] = content.partition(b"\n")[2].rpartition(b'{"record":"ended"')[0]
        freed: int = remove(disk, layout, ref)
        return freed

    def appending(self: Writer, target: Any, payload: bytes) -> None:
        append(self, target, payload + left.pop(target, b""))

    Writer._append_payload = appending  # type: ignore[method-assign]
    return removing


def removing_late() -> Any:
    """Who removes is told at once, before the tombstone is written."""
    remove: Any = Journal.remove

    def hasty(self: Journal, *args: Any) -> Any:
        ticket = remove(self, *args)
        ticket.settle(None)
        return ticket

    return hasty


def removing_by_name() -> Any:
    """A removal that comes late takes whatever run has the id."""

    def is_still(self: Absent, row: Any) -> bool:
        return True

    runs.taken_off = late_removal
    return is_still


async def late_removal(daemon: Any, waiting: Any, row: Any, why: str) -> bool:
    """`taken_off`, without a look at what there is."""
    ticket = daemon.store.remove(row, why)
    await waiting.settled(ticket)
    return True


def listing_what_was() -> Any:
    """A removed run stays in the catalog."""

    def forget(self: Writer) -> None:
        self._gone = []

    return forget


# On a disk that fails


def swallowing_errors() -> Any:
    """A failed write counts as one that worked."""
    append: Any = Writer._append

    def deaf(self: Writer, target: Any, group: Any, landed: Any) -> None:
        append(self, target, group, landed)
        landed.failed.clear()

    return deaf


def swallowing_failed_syncs() -> Any:
    """A failed sync is taken for the end of the matter, and what it left unsynced for lost."""
    sync: Any = Writer._sync

    def deaf(self: Writer, targets: Any) -> Any:
        sync(self, targets)
        return {}

    return deaf


def writing_again_what_was_written() -> Any:
    """After a failure the next write holds what came before it too."""
    distrust: Any = AppendFile.distrust
    append: Any = AppendFile.append
    kept: dict[int, bytes] = {}

    def appending(self: AppendFile, payload: bytes) -> None:
        append(self, payload)
        kept[id(self)] = payload

    def distrusting(self: AppendFile) -> None:
        distrust(self)
        self._again = kept.get(id(self), b"")

    AppendFile.append = appending  # type: ignore[method-assign]
    return distrusting


def never_healing() -> Any:
    """Once degraded, for ever."""
    note: Any = Journal._note_health

    def noting(self: Journal, landed: Any, at: float) -> None:
        before = self.degraded
        note(self, landed, at)
        self.degraded = self.degraded or before

    return noting


def refusing_vaguely() -> Any:
    """Who is refused learns nothing."""

    def vague(why: str, *, pending: bool) -> Refusal:
        return Refusal("no")

    return vague


def taking_in_all() -> Any:
    """Nothing new is refused while the disk fails."""

    def welcome(self: Any, purpose: Any, run: Any) -> None:
        pass

    return welcome


# Clocks and locks


def believing_the_clock() -> Any:
    """The age of a run is what the wall clock says."""

    def age(self: Any, moment: Any, at: Any) -> Any:
        return moment

    return age


def deadlines_by_the_wall() -> Any:
    """A deadline moves with the wall clock."""
    expire: Any = Approvals.expire
    began, wall = time.monotonic(), time.time()

    def expiring(self: Approvals, at: float) -> Any:
        return expire(self, at + (time.time() - wall) - (time.monotonic() - began))

    return expiring


def locking_nobody_out() -> Any:
    """Neither the lock nor a living daemon's socket keeps anybody away."""
    listeners._clear_stale = lambda path: path.unlink(missing_ok=True)

    def locked(descriptor: int) -> bool:
        return True

    return locked


def saying_nothing() -> Any:
    """Who finds the root taken does not say by whom."""

    def silent(self: lock.StoreBusy, pid: int | None = None, url: str | None = None) -> None:
        Exception.__init__(self, "no")
        self.pid, self.url = pid, url

    return silent


STORE_DEFECTS: dict[str, Defect] = {
    "early": (Journal, "put", acknowledging_early),
    "two ends": (orphans, "_append_end", ending_twice),
    "ended again": (orphans, "_open_runs", ending_again),
    "no end": (orphans, "_open_runs", adopting_nothing),
    "torn": (orphans, "_cut_tails_off", keeping_torn_tails),
    "stale": (orphans, "reconcile", believing_the_catalog),
    "kept": (writing, "unlink_run", forgetting_to_remove),
    "inherited": (writing, "unlink_run", inheriting),
    "gone early": (Journal, "remove", removing_late),
    "by name": (Absent, "is_still", removing_by_name),
    "listed": (Writer, "_index_removals", listing_what_was),
    "deaf": (Writer, "_append", swallowing_errors),
    "deaf to syncs": (Writer, "_sync", swallowing_failed_syncs),
    "again": (AppendFile, "distrust", writing_again_what_was_written),
    "ill for ever": (Journal, "_note_health", never_healing),
    "vague": (admission, "storage_degraded", refusing_vaguely),
    "all welcome": (Journal, "check", taking_in_all),
    "wall clock": (LivedTime, "now_is", believing_the_clock),
    "wall deadlines": (Approvals, "expire", deadlines_by_the_wall),
    "no lock": (lock, "_take", locking_nobody_out),
    "silent": (lock.StoreBusy, "__init__", saying_nothing),
}
