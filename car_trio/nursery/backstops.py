"""How long a client is waited for: one sleeping task for all calls of a daemon.

A cancel scope for each call would do the same and costs more than the wake-up of the task that waits. Here a call costs
an entry in a heap. Hardly any entry is ever looked at, because nearly every call is over long before its time, so what
is over is thrown out in bulk when the heap has doubled: it never holds more than twice what waits, or `ROOM`.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import Protocol

import trio

from car_trio.nursery.alarm import Alarm

ROOM = 1024


class Call(Protocol):
    """Somebody who waits. An entry outlives it, so it should hold on to nothing large when it `is_over`."""

    @property
    def is_over(self) -> bool: ...
    def expire(self) -> None: ...


class Backstops:
    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Call]] = []
        self._serial = 0
        self._room = ROOM
        self._alarm = Alarm()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, call: Call, seconds: float) -> None:
        """So long from now the call expires, unless it is over."""
        if len(self._heap) >= self._room:
            self._heap = [entry for entry in self._heap if not entry[2].is_over]
            heapify(self._heap)
            self._room = max(ROOM, 2 * len(self._heap))
        at = trio.current_time() + seconds
        if not self._heap or at < self._heap[0][0]:
            self._alarm.set(at)
        self._serial += 1
        heappush(self._heap, (at, self._serial, call))

    async def keep(self) -> None:
        """The task."""
        while True:
            await self._alarm.until_due()
            now = trio.current_time()
            while self._heap and self._heap[0][0] <= now:
                call = heappop(self._heap)[2]
                if not call.is_over:
                    call.expire()
            if self._heap:
                self._alarm.set(self._heap[0][0])
