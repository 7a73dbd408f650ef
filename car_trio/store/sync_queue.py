"""Many files synced by two system calls, by the kernel's queue (`kernel_queue.py`).

A thread that syncs takes the interpreter again after every file, and takes it from the loop. Here one thread asks once
and waits once, however many files there are, and the kernel's own workers sync them at the same time, so that one
commit of the file system covers most of them. Only descriptors and results cross over. What the kernel does not take, a
bad descriptor, say, is synced in the ordinary way, which also tells why.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from car_trio.store.kernel_queue import DATA_SYNC, KernelQueue, open_kernel_queue

SLOTS = 128
"""How many syncs are under way at once, each with a worker of the kernel that waits for the disk."""


class SyncQueue:
    """Use `open_queue`. For one thread at a time. `sync` is the ordinary way."""

    def __init__(self, queue: KernelQueue, sync: Callable[[int], None]) -> None:
        self._queue = queue
        self._sync = sync
        self.close = queue.close

    def run(self, descriptors: Sequence[int]) -> list[OSError | None]:
        """Sync all; what each failed with, in their order."""
        failures: list[OSError | None] = []
        slots = len(self._queue.requests)
        for first in range(0, len(descriptors), slots):
            failures += self._run(descriptors[first : first + slots])
        return failures

    def _run(self, descriptors: Sequence[int]) -> list[OSError | None]:
        for request, descriptor in zip(self._queue.requests, descriptors, strict=False):
            request.descriptor = descriptor
        results = self._queue.run(len(descriptors))
        return [
            self._ordinarily(descriptor) if result is None else _failure(result)
            for descriptor, result in zip(descriptors, results, strict=True)
        ]

    def _ordinarily(self, descriptor: int) -> OSError | None:
        try:
            self._sync(descriptor)
        except OSError as failure:
            return failure
        return None


def _failure(result: int) -> OSError | None:
    return OSError(-result, os.strerror(-result)) if result else None


def open_queue(sync: Callable[[int], None]) -> SyncQueue | None:
    """The kernel's queue, or `None` where it has none or gives none."""
    queue = open_kernel_queue(DATA_SYNC, SLOTS)
    return None if queue is None else SyncQueue(queue, sync)
