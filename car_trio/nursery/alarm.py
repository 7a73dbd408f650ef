"""The time at which the next approval or chat is over: one sleeping task for all of them."""

from __future__ import annotations

import math

import trio


class Alarm:
    """`set` from anywhere; one duty waits in `until_due`."""

    def __init__(self) -> None:
        self._at = math.inf
        self._scope = trio.CancelScope()

    def set(self, at: float) -> None:
        """Something is over at this time of the clock."""
        self._at = min(self._at, at)
        self._scope.deadline = self._at

    async def until_due(self) -> None:
        """Returns at the earliest time that was set since it last returned."""
        with trio.CancelScope(deadline=self._at) as self._scope:
            await trio.sleep_forever()
        self._at = math.inf
