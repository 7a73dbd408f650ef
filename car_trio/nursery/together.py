"""Many posts, one sending: what is posted in a stretch without a checkpoint leaves at its end.

A flush of the journal is such a stretch: it settles many replies, and each connection sends what it got once. Anything
else that posts (one of many calls) has no end of its own: for those the postman, one task for all connections of a
daemon, sends in the next turn of the loop what gathered in this one. His are the events of a flush too: there may be a
thousand watchers, and the one who recorded waits for his reply. A task that is alone on its connection does not wait
for the postman: nothing could leave together with what it posts.

Where the kernel has a queue for it, what leaves together is handed over by one system call (`send_queue.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import trio

from car_trio.nursery.send_queue import FEW, Sender, SendQueue

SENT_AT_ONCE = 64
"""As many connections the postman serves before others have their turn; to each he may hand a quarter of a MiB."""


class Together:
    """The senders of a daemon that have something. As a context manager it is a stretch, entered by one place at a
    time. `queue` is the kernel's, if it has one; who opened it closes it."""

    def __init__(self, queue: SendQueue | None = None) -> None:
        self._queue = queue
        self._here: list[Sender] | None = None
        self._soon: deque[Sender] = deque()
        self._postman = trio.lowlevel.ParkingLot()

    def __enter__(self) -> None:
        self._here = []

    def __exit__(self, *_: object) -> None:
        senders, self._here = self._here or [], None
        self._send(senders)

    @property
    def is_stretch(self) -> bool:
        """Whether a stretch is under way: what is posted now leaves at its end."""
        return self._here is not None

    def add(self, sender: Sender, *, can_wait: bool = False) -> None:
        """Something was posted: it leaves at the end of the stretch that is under way, or with the postman."""
        if self._here is not None and not can_wait:
            self._here.append(sender)
            return
        if not self._soon:
            self._postman.unpark()
        self._soon.append(sender)

    async def deliver(self) -> None:
        """The postman. Raises nothing: `send_now` does not."""
        while True:
            while self._soon:
                self._send([self._soon.popleft() for _ in range(min(len(self._soon), SENT_AT_ONCE))])
                if self._soon:
                    await trio.lowlevel.checkpoint()
            await self._postman.park()

    def _send(self, senders: Sequence[Sender]) -> None:
        if self._queue is not None and len(senders) > FEW:
            self._queue.send(senders)
            return
        for sender in senders:
            sender.send_now()
