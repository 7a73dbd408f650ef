"""Waiting for the disk in several threads at once: syncs of different files overlap, which is what makes a
group commit over many runs cheap. The threads only sync; nothing is decided here. With no threads everything
runs in the caller's."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue

Sync = Callable[[], None]
_Job = tuple[int, Sync]
_Result = tuple[int, Exception | None]


class SyncThreads:
    """Up to `count` threads, started when a batch first needs them."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._threads: list[threading.Thread] = []
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._results: SimpleQueue[_Result] = SimpleQueue()

    def run(self, syncs: Sequence[Sync]) -> list[OSError | None]:
        """Run all, return what each failed with, in their order. Anything but an `OSError` is raised here."""
        if len(syncs) <= 1 or self._count == 0:
            return [_attempt(sync) for sync in syncs]
        self._start(len(syncs))
        for job in enumerate(syncs):
            self._jobs.put(job)
        failures: list[OSError | None] = [None] * len(syncs)
        for _ in syncs:
            position, failure = self._results.get()
            if failure is not None and not isinstance(failure, OSError):
                raise failure
            failures[position] = failure
        return failures

    def close(self) -> None:
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _start(self, wanted: int) -> None:
        while len(self._threads) < min(wanted, self._count):
            thread = threading.Thread(
                target=self._work, name=f"journal-sync-{len(self._threads)}", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            position, sync = job
            try:
                self._results.put((position, _attempt(sync)))
            except Exception as bug:
                self._results.put((position, bug))


def _attempt(sync: Sync) -> OSError | None:
    try:
        sync()
    except OSError as error:
        return error
    return None
