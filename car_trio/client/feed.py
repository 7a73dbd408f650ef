"""The events of one subscription that wait for the loop that reads them.

The link's reader offers and never waits. A feed that is full stops taking events and says that it is behind:
a watch, once it has read what is there, asks the daemon again from where it has got to. So a slow loop costs
memory up to a bound, and loses nothing. What cannot be asked for again, a chat, ends with an error instead.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, NamedTuple, TypeVar

import trio

T = TypeVar("T")

MAX_BYTES = 8 * 1024 * 1024
"""As much as one snapshot may hold."""

MAX_EVENTS = 2048


class Topic(NamedTuple):
    """What a feed is about: the daemon's notification, and which run or chat, nothing for what is one."""

    method: str
    about: str = ""


class Feed(Generic[T]):
    """A bounded queue of events. `behind`: one was turned away. `replaced`: another feed gets them now."""

    def __init__(self, topic: Topic) -> None:
        self.topic = topic
        self.behind = False
        self.replaced = False
        self._events: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._woken = trio.Event()

    def offer(self, event: T, size: int) -> bool:
        """Takes the event unless the feed is full, or was: after a gap nothing may follow."""
        full = self._bytes + size > MAX_BYTES or len(self._events) >= MAX_EVENTS
        # A single record beyond the bound still has to pass, or its reader would ask for it for ever.
        self.behind = self.behind or (full and bool(self._events))
        if not self.behind:
            self._events.append((event, size))
            self._bytes += size
        self.wake()
        return not self.behind

    def take(self) -> T | None:
        """The oldest event that waits, if any."""
        if not self._events:
            return None
        event, size = self._events.popleft()
        self._bytes -= size
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
