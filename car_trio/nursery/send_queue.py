"""Messages for many connections handed over by one system call, by the kernel's queue (`store/kernel_queue.py`).

A turn that fifty watch would be fifty system calls, and after each of them the loop takes the interpreter again: beside
a thread that works it waits for it fifty times. The kernel makes the calls of the list one after the other, on sockets
that do not block, so all is over when it answers. What is handed over is copied to a place of the queue's own first: no
address of an object of Python's crosses over.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Protocol

from car_trio.store.kernel_queue import WRITE, KernelQueue, open_kernel_queue

SLOTS = 64
PLACE_BYTES = 64 * 1024
"""For all messages of one call."""
FEW = 4
"""Up to here calls one by one cost less."""


class Sender(Protocol):
    def send_now(self) -> None:
        """Offers what waits to the kernel."""

    def take(self, most: int) -> tuple[int, bytes] | None:
        """The descriptor and what `send_now` would offer, if that is no more than so many bytes; `settle` has to follow
        at once. `None`: there is nothing, or it is for `send_now`."""

    def settle(self, pending: bytes, count: int) -> None:
        """So much of what was taken has left."""


class SendQueue:
    """Use `open_send_queue`. For the loop's thread."""

    def __init__(self, queue: KernelQueue) -> None:
        self._queue = queue
        self._place = (ctypes.c_char * PLACE_BYTES)()
        self._view = memoryview(self._place).cast("B")
        self._address = ctypes.addressof(self._place)
        self._taken: list[tuple[Sender, bytes]] = []
        self._size = 0
        self.close = queue.close

    def send(self, senders: Iterable[Sender]) -> None:
        """The same as `send_now` of each, in their order."""
        for sender in senders:
            if len(self._taken) == SLOTS:
                self._run()
            taken = sender.take(PLACE_BYTES - self._size)
            if taken is None and self._taken:
                self._run()
                taken = sender.take(PLACE_BYTES)
            if taken is None:
                sender.send_now()
            else:
                self._add(sender, *taken)
        self._run()

    def _add(self, sender: Sender, descriptor: int, pending: bytes) -> None:
        request = self._queue.requests[len(self._taken)]
        end = self._size + len(pending)
        self._view[self._size : end] = pending
        request.descriptor = descriptor
        request.address = self._address + self._size
        request.size = len(pending)
        self._size = end
        self._taken.append((sender, pending))

    def _run(self) -> None:
        taken, self._taken, self._size = self._taken, [], 0
        for (sender, pending), result in zip(taken, self._queue.run(len(taken)), strict=True):
            # Full, gone, or not taken: the writer tries again and finds out which.
            sender.settle(pending, max(0, result or 0))


def open_send_queue() -> SendQueue | None:
    """`None` where the kernel has no such queue."""
    queue = open_kernel_queue(WRITE, SLOTS)
    return None if queue is None else SendQueue(queue)
