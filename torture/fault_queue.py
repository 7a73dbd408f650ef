"""Syncs of several files by the kernel's queue that fail: all of them, or one.

The queue is one call for many files and has one result for each. The file whose sync failed is not trusted any more and
what it held unsynced is written again; the others are done, and their clients told so.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from car_trio.store.sync_queue import open_queue
from torture.fault import ERRORS, Work, with_failing_disk
from torture.orders import Orders, Verdict

WHICH = ("one", "all")
PLACES = ((1, 1), (1, 3), (2, 1))
"""The first of them, and how many in a row."""


def failing_queue(orders: Orders, verdict: Verdict) -> None:
    queue = open_queue(os.fdatasync)
    verdict.figures["syncs by the kernel's queue"] = "none here" if queue is None else "failed"
    if queue is None:
        return
    queue.close()
    errors = [each for each in ERRORS if each != "SHORT"]
    cases = list(itertools.product(errors, WHICH, PLACES))
    orders.dice.shuffle(cases)
    for done, (error, which, (first, count)) in enumerate(cases):
        if not orders.go_on(done):
            break
        one_queue(verdict, orders.directory / f"queue-{done}", f"{error}:{which}", first, count)


def one_queue(
    verdict: Verdict, home: Path, error: str, first: int, count: int, defect: str | None = None
) -> None:
    """`defect`: one of `torture.planted`."""
    case = f"a sync of several, {error} ×{count} at {first}"
    failing = (error, str(first), str(count))
    with_failing_disk(verdict, home, case, failing, Work.together, defect)
    struck = home / "struck"
    verdict.expect(struck.exists(), f"{case}: nothing failed")
    verdict.counts["files whose sync by the queue failed"] += struck.stat().st_size if struck.exists() else 0
