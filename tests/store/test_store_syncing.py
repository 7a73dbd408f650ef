"""Syncing in shares: each file once, each failure at its place, and nothing but an `OSError` taken for one."""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from car_trio.store.syncing import SyncThreads


@contextmanager
def threads(count: int) -> Iterator[SyncThreads]:
    made = SyncThreads(count)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8])
@pytest.mark.parametrize("files", [0, 1, 2, 7, 20])
def test_each_file_is_synced_once_and_its_failure_told_at_its_place(count: int, files: int) -> None:
    done: Counter[int] = Counter()
    bad = {number for number in range(files) if number % 3 == 1}

    def sync(number: int) -> None:
        done[number] += 1
        if number in bad:
            raise OSError(errno.EIO, str(number))

    with threads(count) as shared:
        for _ in range(3):
            failures = shared.run([partial(sync, number) for number in range(files)])
            said = [None if failure is None else failure.strerror for failure in failures]
            assert said == [str(number) if number in bad else None for number in range(files)]
    assert done == Counter(dict.fromkeys(range(files), 3))


def test_shares_are_synced_at_the_same_time() -> None:
    together = threading.Barrier(4, timeout=30)
    with threads(4) as shared:
        assert shared.run([partial(_meet, together)] * 4) == [None] * 4


def _meet(barrier: threading.Barrier) -> None:
    barrier.wait()


@pytest.mark.parametrize("count", [0, 2])
@pytest.mark.parametrize("position", [0, 1])
def test_what_is_no_error_of_the_disk_is_raised_from_any_share(count: int, position: int) -> None:
    def sync(number: int) -> None:
        if number == position:
            raise ZeroDivisionError("a defect")

    with threads(count) as shared, pytest.raises(ZeroDivisionError):
        shared.run([partial(sync, number) for number in range(2)])
