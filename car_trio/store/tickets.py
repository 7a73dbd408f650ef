"""What the journal gives back for what it accepts: whoever waits for it is told exactly once."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

from car_trio.wire.errors import Refusal

Settled = Callable[[Refusal | None], None]


class Ticket:
    """What a put gave back. It is settled when the lines are true, or when they are late."""

    __slots__ = ("_callbacks", "_outcome", "_settled")

    def __init__(self) -> None:
        self._callbacks: list[Settled] = []
        self._settled = False
        self._outcome: Refusal | None = None

    @property
    def settled(self) -> bool:
        return self._settled

    def then(self, settled: Settled) -> None:
        """Call `settled(None)` once it is true or `settled(refusal)` once it is late; at once if that is
        known."""
        if self._settled:
            settled(self._outcome)
        else:
            self._callbacks.append(settled)

    def settle(self, outcome: Refusal | None) -> None:
        """The journal's word. After a late word the true one is still noted, for whoever asks then."""
        self._settled, self._outcome = True, outcome
        callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback(outcome)


class Promised:
    """Tickets in the order in which they were given, each with the time by which its holder must be told something."""

    def __init__(self) -> None:
        self._tickets: deque[tuple[float, Ticket]] = deque()

    def add(self, ticket: Ticket, by: float) -> None:
        """`by`: not before that of the ticket added last."""
        self._tickets.append((by, ticket))

    @property
    def earliest(self) -> float:
        """When the first of those who wait must be told."""
        while self._tickets and self._tickets[0][1].settled:
            self._tickets.popleft()
        return self._tickets[0][0] if self._tickets else math.inf

    def overdue(self, now: float) -> list[Ticket]:
        """Whose time has come; they are not asked about again."""
        found: list[Ticket] = []
        while self.earliest <= now:
            found.append(self._tickets.popleft()[1])
        return found


class RemovalTicket(Ticket):
    """The ticket of a removal. A removal that failed is not tried again: its refusal says `pending:
    false`."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0
        """What the removal freed, once it is settled."""
