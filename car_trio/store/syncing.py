"""Waiting for the disk in several threads at once: syncs of different files overlap, which is what makes a
group commit over many runs cheap where the kernel has no queue for it (`sync_queue.py`). The threads only sync; nothing
is decided here. With no threads everything runs in the caller's.

Each thread gets a share of the files, not one file after the other: a hand-over to a thread costs more processor time
than a sync, and all of it is taken from the loop, which wants the interpreter meanwhile. The caller syncs a share
itself. Everything is written before the first sync begins, so that one commit of the file system covers many files."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

Sync = Callable[[], None]
_Share = tuple[int, Sequence[Sync]]
_Results = tuple[int, list[Exception | None]]


class SyncThreads:
    """Up to `count` shares at once, one of them the caller's; threads are started when a batch first needs them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[threading.Thread] = []
        self._shares: SimpleQueue[_Share | None] = SimpleQueue()
        self._results: SimpleQueue[_Results] = SimpleQueue()

    def run(self, syncs: Sequence[Sync]) -> list[OSError | None]:
        """Run all, return what each failed with, in their order. Anything but an `OSError` is raised here."""
        count = max(1, min(self._count, len(syncs)))
        self._start(count - 1)
        for first in range(1, count):
            self._shares.put((first, syncs[first::count]))
        done = [_attempt((0, syncs[::count]))]
        done += [self._results.get() for _ in range(1, count)]
        failures: list[OSError | None] = [None] * len(syncs)
        for first, results in done:
            failures[first::count] = [_expected(result) for result in results]
        return failures

    def close(self) -> None:
        for _ in self._threads:
            self._shares.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self, wanted: int) -> None:
        while len(self._threads) < wanted:
            thread = threading.Thread(
                target=self._work, name=f"journal-sync-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (share := self._shares.get()) is not None:
            self._results.put(_attempt(share))


def _attempt(share: _Share) -> _Results:
    """Syncs one file after the other; an error of one is none of the others'."""
    first, syncs = share
    results: list[Exception | None] = []
    for sync in syncs:
        try:
            sync()
        except Exception as failure:
            results.append(failure)
        else:
            results.append(None)
    return first, results


def _expected(result: Exception | None) -> OSError | None:
    if result is not None and not isinstance(result, OSError):
        raise result
    return result
