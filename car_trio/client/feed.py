"""The events of one subscription that wait for the loop that reads them.

The link's reader offers and never waits. A feed that is full stops taking events and says that it is behind:
the watch, once it has read what is there, asks the daemon again from the cursor it has reached. So a slow
loop costs memory up to a bound, and loses nothing.
"""

from __future__ import annotations

from collections import deque

import trio

from car_trio.wire.runs import TraceEvent

MAX_BYTES = 8 * 1024 * 1024
"""As much as one snapshot may hold."""

MAX_EVENTS = 2048


class Feed:
    """A bounded queue of trace events. `behind`: one was turned away. `replaced`: the daemon feeds another
    now."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.behind = False
        self.replaced = False
        self._events: deque[TraceEvent] = deque()
        self._bytes = 0
        self._woken = trio.Event()

    def offer(self, event: TraceEvent) -> bool:
        """Takes the event unless the feed is full, or was: after a gap nothing may follow."""
        size = len(bytes(event.record))
        full = self._bytes + size > MAX_BYTES or len(self._events) >= MAX_EVENTS
        # A single record beyond the bound still has to pass, or its reader would ask for it for ever.
        self.behind = self.behind or (full and bool(self._events))
        if not self.behind:
            self._events.append(event)
            self._bytes += size
        self.wake()
        return not self.behind

    def take(self) -> TraceEvent | None:
        """The oldest event that waits, if any."""
        if not self._events:
            return None
        event = self._events.popleft()
        self._bytes -= len(bytes(event.record))
        return event

    def replace(self) -> None:
        self.replaced = True
        self.wake()

    def wake(self) -> None:
        self._woken.set()

    async def wait(self) -> None:
        """Waits for the next thing to look at: an event, a change of the flags, the end of the link."""
        await self._woken.wait()
        self._woken = trio.Event()
